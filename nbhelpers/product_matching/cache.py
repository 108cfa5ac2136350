"""Candidates and their features on disk, so that a photo is looked at once and judged as often as one likes.

A file's name is the signature of all that the search depended on: the photo's bytes, the models, the settings of the
search, the references that guided it. What another model found has another name and is never used. A photo takes about
2 MB; the folder can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.storage import load_candidates, save_candidates
from nbhelpers.product_matching.values import Candidates

FORMAT = 5  # raised when what a search finds changes
JUDGING = ("similarity_threshold", "top_k_matches", "calibrate", "colour_weight", "mirror_weight")  # not of the search
MEMORY = 32_000_000  # bytes of features kept decoded; more photos are read from disk again
log = logging.getLogger(__name__)


def signature(
    photo: str, models: Sequence[str], settings: Settings, guide: str | None = None, panorama: bool = False
) -> str:
    """What names a photo's candidates: 40 hexadecimal digits.

    Args:
        photo: sha256 of its file.
        models: names of the segmenter and the patch encoder.
        settings: only those of the search count; a new threshold needs no new search.
        guide: digest of the references that guided the search; a blind search depends on none.
        panorama: whether the photo was cut into tiles.
    """
    search = {name: value for name, value in asdict(settings).items() if name not in JUDGING}
    guide = guide if settings.candidates == "guided" else None
    text = json.dumps([FORMAT, photo, list(models), search, guide, panorama], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class Cache:
    """A folder of candidates by signature, and the last used ones in memory.

    Example:
        >>> cache = Cache("outputs/shelf/cache")
        >>> cache.put(key, find(image, segmenter, encoder, gallery, settings))
        >>> cache.get(key).items[0].box

    Args:
        folder: made at the first `put`.
        memory: bytes of features to keep decoded.
    """

    def __init__(self, folder: str | Path, memory: int = MEMORY):
        self.folder = Path(folder).expanduser()
        self._room, self._kept = memory, OrderedDict[str, Candidates]()

    def path(self, key: str) -> Path:
        """Where the candidates of a signature lie."""
        return self.folder / key[:2] / f"{key}.npz"

    def __contains__(self, key: str) -> bool:
        return key in self._kept or self.path(key).is_file()

    def get(self, key: str) -> Candidates | None:
        """The candidates of a signature; None where there are none, or where the file is damaged."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if not self.path(key).is_file():
            return None
        try:
            found = load_candidates(self.path(key))
        except NbHelpersError as error:
            log.warning("a damaged file of the cache is not used: %s", error.given)
            return None
        self._keep(key, found)
        return found

    def put(self, key: str, candidates: Candidates) -> Candidates:
        """Keep candidates, and return them as they come back: features lose a little precision on disk.

        Who always takes these gets the same results from the cache as without it.
        """
        save_candidates(candidates, self.path(key))
        self._kept.pop(key, None)
        return self.get(key) or candidates

    def _keep(self, key: str, candidates: Candidates) -> None:
        self._kept[key] = candidates
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self._room:
            self._kept.popitem(last=False)


def _bytes(candidates: Candidates) -> int:
    return sum(each.features.patches.nbytes + len(each.rle["counts"]) for each in candidates.items)
