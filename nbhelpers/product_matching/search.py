"""The search of a session's photos: once per photo with cached proposals, in this process or on Dask workers.

A file of the cache is named by a key of everything that the search depends on: the bytes of the photo, the models, the
settings of the search, and the references that guide it. Proposals of another model have another name and are never
used. The file of a photo takes about 2 MB; the folder can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.batch import ResultStore, map_items
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import outputs_dir, replacing, sha256, stems
from nbhelpers.core.images import image_size, load_image
from nbhelpers.core.images import photos as listed
from nbhelpers.models.adapters import model_signature
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.features import InstanceFeatures
from nbhelpers.product_matching.gallery import Gallery, evenly_spaced, mean_feature
from nbhelpers.product_matching.panorama import search_photo
from nbhelpers.product_matching.propose import DescribedProposal, PhotoProposals
from nbhelpers.product_matching.settings import ProductSettings

FILE_FORMAT = "nbhelpers candidates 1"
PER_PATCH = {"patches": "patches", "weights": "weights", "places": "positions", "colours": "colours"}  # array: field
KEY_VERSION = 5  # increased when the proposals of a search change
SCORING_SETTINGS = ("similarity_threshold", "top_k_matches", "calibrate", "colour_weight", "mirror_weight")
CACHE_SIZE = 32_000_000  # bytes of features kept in memory; others are read from disk again
MEAN_PHOTOS = 8  # photos whose mean feature is subtracted
RESERVED_NAMES = ("run", "summary", "annotations", "matches", "gallery", "index", "mean", "cache", "reference")
log = logging.getLogger(__name__)


def save_proposals(proposals: PhotoProposals, path: str | Path) -> Path:
    """Write proposals as one ``.npz`` file, atomically; arrays with a row per patch in half precision."""
    about = {
        "format": FILE_FORMAT,
        "size": list(proposals.size),
        "prompts": proposals.prompts,
        "seconds": proposals.seconds,
        "models": list(proposals.models),
        "notes": list(proposals.notes),
        "items": [
            {"rle": dict(item.rle), "box": list(item.box), "area": item.area, "quality": item.quality}
            for item in proposals.items
        ],
    }
    features = [item.features for item in proposals.items]
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    if features:
        arrays["counts"] = np.array([len(each.weights) for each in features])
        arrays["average"] = np.stack([each.average for each in features])
        for name, field in PER_PATCH.items():
            arrays[name] = np.concatenate([getattr(each, field) for each in features]).astype(np.float16)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return Path(path)


def load_proposals(path: str | Path) -> PhotoProposals:
    """Read a file of `save_proposals`.

    Raises:
        NbHelpersError: the file is missing, damaged, or of another format.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["format"] != FILE_FORMAT:
                raise ValueError(about["format"])
            features = _features(stored) if about["items"] else []
        items = tuple(
            DescribedProposal(item["rle"], tuple(item["box"]), item["area"], item["quality"], each)
            for item, each in zip(about["items"], features, strict=True)
        )
        size, models, notes = (tuple(about[name]) for name in ("size", "models", "notes"))
        return PhotoProposals(size, items, about["prompts"], about["seconds"], models, notes)
    except NbHelpersError:
        raise
    except Exception as error:  # zip, numpy and json each raise their own
        raise NbHelpersError(
            "the cached proposals cannot be read",
            given=f"{path}: {error}",
            expected=FILE_FORMAT,
            do="delete the file; the photo is then searched again",
        ) from error


def _features(stored) -> list[InstanceFeatures]:
    """Features from the arrays of a file."""
    ends = np.cumsum(stored["counts"])[:-1]
    columns = [np.split(stored[name].astype(np.float32), ends) for name in PER_PATCH]
    return [InstanceFeatures(average, *each) for average, *each in zip(stored["average"], *columns, strict=True)]


def cache_key(
    photo: str, models: Sequence[str], settings: ProductSettings, guide: str | None = None, panorama: bool = False
) -> str:
    """The key of a photo's proposals: 40 hexadecimal digits.

    Args:
        photo: sha256 of its file.
        models: signatures of the segmenter and the patch encoder.
        settings: only those of the search matter; a new threshold needs no new search.
        guide: digest of the references that guide the search; a search on a grid depends on none.
        panorama: whether the photo is split into tiles.
    """
    search = {name: value for name, value in asdict(settings).items() if name not in SCORING_SETTINGS}
    guide = guide if settings.candidates == "guided" else None
    text = json.dumps([KEY_VERSION, photo, list(models), search, guide, panorama], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class ProposalCache:
    """A folder of proposals by key, with an in-memory cache of the last used ones.

    Example:
        >>> cache = ProposalCache("outputs/shelf/cache")
        >>> cache.put(key, propose_candidates(image, segmenter, encoder, gallery, settings))
        >>> cache.get(key).items[0].box

    Args:
        folder: created by the first `put`.
        memory: bytes of features to keep in memory.
    """

    def __init__(self, folder: str | Path, memory: int = CACHE_SIZE):
        self.folder = Path(folder).expanduser()
        self._memory, self._kept = memory, OrderedDict[str, PhotoProposals]()

    def __reduce__(self):
        """Pickled without the items in memory."""
        return ProposalCache, (self.folder, 0)

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / key[:2] / f"{key}.npz"

    def __contains__(self, key: str) -> bool:
        return key in self._kept or self.path(key).is_file()

    def get(self, key: str) -> PhotoProposals | None:
        """The proposals of a key; None if there are none or the file is damaged."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if not self.path(key).is_file():
            return None
        try:
            proposals = load_proposals(self.path(key))
        except NbHelpersError as error:
            log.warning("ignoring a damaged file of the cache: %s", error.given)
            return None
        self._keep(key, proposals)
        return proposals

    def put(self, key: str, proposals: PhotoProposals) -> PhotoProposals:
        """Store proposals and return them as read back: features lose some precision on disk.

        Using the returned proposals gives the same results with and without a cached file.
        """
        save_proposals(proposals, self.path(key))
        self._kept.pop(key, None)
        return self.get(key) or proposals

    def _keep(self, key: str, proposals: PhotoProposals) -> None:
        """Keep proposals in memory, and drop the least recently used ones."""
        self._kept[key] = proposals
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self._memory:
            self._kept.popitem(last=False)


def _bytes(proposals: PhotoProposals) -> int:
    """Approximate memory of proposals."""
    return sum(each.features.patches.nbytes + len(each.rle["counts"]) for each in proposals.items)


@dataclass(frozen=True)
class SearchItem:
    """A photo to search: its file and the key of its proposals."""

    path: Path
    key: str


@dataclass(frozen=True, eq=False)
class SearchTask:
    """The search of one photo, as a function of a `SearchItem`.

    Attributes:
        gallery: of the product.
        settings: of the search.
        panorama: whether the photos are equirectangular.
        models: the segmenter and the patch encoder, or their catalog names; then each worker loads them once.
        device: of models that are loaded.
    """

    gallery: Gallery
    settings: ProductSettings
    panorama: bool
    models: tuple[Segmenter | str, PatchEncoder | str]
    device: str

    def __call__(self, item: SearchItem) -> tuple[tuple[int, int], PhotoProposals]:
        """The size of a photo and the proposals in it.

        Raises:
            NbHelpersError: the photo cannot be read or searched, or a model cannot be loaded.
        """
        from nbhelpers.models.load import load

        segmenter, encoder = self.models
        segmenter = load("segmenter", segmenter, self.device) if isinstance(segmenter, str) else segmenter
        encoder = load("patch_encoder", encoder, self.device) if isinstance(encoder, str) else encoder
        image = load_image(item.path)
        height, width = image.shape[:2]
        return (height, width), search_photo(image, segmenter, encoder, self.gallery, self.settings, self.panorama)


class ProposalStore(ResultStore):
    """Stores proposals in a cache; of a result only the size of the photo is passed on."""

    def __init__(self, cache: ProposalCache):
        self.cache = cache

    def load(self, key: str, item: SearchItem) -> tuple[int, int] | None:
        """See `ResultStore`."""
        return None if self.cache.get(item.key) is None else image_size(item.path)

    def save(self, key: str, item: SearchItem, value: tuple[tuple[int, int], PhotoProposals]) -> tuple[int, int]:
        """See `ResultStore`."""
        size, proposals = value
        self.cache.put(item.key, proposals)
        return size


class PhotoSearch:
    """The photos of a session, the models that search them, and the proposals in each.

    Args:
        images: see `nbhelpers.product_matching.ProductSession`.
        settings: see `nbhelpers.product_matching.ProductSession`.
        segmenter: see `nbhelpers.product_matching.ProductSession`.
        encoder: see `nbhelpers.product_matching.ProductSession`.
        cache: see `nbhelpers.product_matching.ProductSession`.
        panorama: see `nbhelpers.product_matching.ProductSession`.
        mean: see `nbhelpers.product_matching.ProductSession`.

    Attributes:
        photos: files.
        names: file names for the results of each photo.
        problems: error message of each failed photo, by its index.
        digests: sha256 of each photo's file, by its index.
        keys: cache key of each photo, by its index.
        sizes: ``(H, W)`` of each searched photo, by its index.
    """

    def __init__(
        self,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
        settings: ProductSettings,
        segmenter: Segmenter | None,
        encoder: PatchEncoder | None,
        cache: str | Path | None,
        panorama: bool,
        mean: Float32[np.ndarray, "m d"] | None,
    ):
        cache = outputs_dir("product_matching") / "cache" if cache is None else cache
        self.photos = tuple(listed(images, Path(cache) / "arrays"))
        if segmenter is None or encoder is None:
            from nbhelpers.models.load import load

            segmenter = segmenter or load("segmenter", settings.sam2_checkpoint)
            encoder = encoder or load("patch_encoder", settings.dinov2_model)
        self.settings, self.segmenter, self.encoder = settings, segmenter, encoder
        self.cache = ProposalCache(cache)
        self.panorama, self.mean = panorama, mean
        self.names = tuple(stems(self.photos, RESERVED_NAMES))
        self.problems: dict[int, str] = {}
        self.digests: dict[int, str] = {}
        self.keys: dict[int, str] = {}
        self.sizes: dict[int, tuple[int, int]] = {}

    def proposals(self, photo: int, gallery: Callable[[], Gallery]) -> PhotoProposals:
        """All proposals of a searched photo, with features, from the cache.

        Args:
            photo: its index.
            gallery: returns the gallery that guides a search, in case the cache has been deleted.

        Raises:
            NbHelpersError: the photo has not been searched.
        """
        if photo not in self.sizes:
            raise NbHelpersError("this photo has not been searched", given=photo, expected=self.problems.get(photo))
        proposals = self.cache.get(self.keys[photo])
        if proposals is None:
            image = load_image(self.photos[photo])
            proposals = search_photo(image, self.segmenter, self.encoder, gallery(), self.settings, self.panorama)
            proposals = self.cache.put(self.keys[photo], proposals)
        return proposals

    def mean_feature(self) -> Float32[np.ndarray, "m d"]:
        """The common component of evenly spaced photos of the session, computed once; see `Gallery`."""
        if self.mean is None:
            self.mean = mean_feature(self._sample_photos(), self.encoder, MEAN_PHOTOS)
        return self.mean

    def run(self, gallery: Gallery, client: Any, on_photo: Callable[[int], object] | None, repeat: bool) -> None:
        """Search all photos, or those that have not been searched; see `ProductSession.search`."""
        names = self.segmenter.name, self.encoder.name
        signatures = model_signature(self.segmenter), model_signature(self.encoder)
        number, work = {}, {}
        for index, path in enumerate(self.photos):
            if index in self.sizes and not repeat:
                continue
            try:
                digest = self.digests[index] = sha256(path)
            except OSError as error:
                self._fail(index, f"the photo cannot be read: {error.strerror or error}")
                log.warning("%s: %s", path.name, self.problems[index])
                continue
            self.keys[index] = cache_key(digest, signatures, self.settings, gallery.digest, self.panorama)
            number[self.names[index]] = index
            work[self.names[index]] = SearchItem(path, self.keys[index])
        models = names if client is not None else (self.segmenter, self.encoder)
        task = SearchTask(gallery, self.settings, self.panorama, models, self.segmenter.device)
        for result in map_items(task, work.items(), store=ProposalStore(self.cache), client=client):
            index = number[result.key]
            if result.error:
                self._fail(index, result.error)
            else:
                self.sizes[index] = result.value
                self.problems.pop(index, None)
            if on_photo is not None:
                on_photo(index)

    def _sample_photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The readable photos, evenly spaced ones first."""
        readable = 0
        for path in dict.fromkeys([*evenly_spaced(self.photos, MEAN_PHOTOS), *self.photos]):
            try:
                image = load_image(path)
            except NbHelpersError:
                continue
            readable += 1
            yield image
        if not readable:
            raise NbHelpersError(
                "none of the photos can be read", given=f"{len(self.photos)} photos, the first {self.photos[0]}"
            )

    def _fail(self, index: int, problem: str) -> None:
        """Record the error of a photo."""
        self.problems[index] = problem
        self.sizes.pop(index, None)
