"""The photos of a session and what was found in them: searched once, kept in the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import outputs_dir, sha256
from nbhelpers.core.images import load_image
from nbhelpers.core.runs import photos as listed
from nbhelpers.core.runs import stems
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching import spread
from nbhelpers.product_matching.background import against_background
from nbhelpers.product_matching.cache import Cache, signature
from nbhelpers.product_matching.gallery import Gallery, evenly, mean_feature
from nbhelpers.product_matching.matching import score_all
from nbhelpers.product_matching.results import MatchedPhoto
from nbhelpers.product_matching.search import search
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Candidates, Scores

TOGETHER = 8  # photos compared at a time: quicker than one by one, and features of all would not fit into memory
MEAN_OF = 8  # photos whose mean feature is taken off
BACKGROUND_OF = 64  # photos whose other things are looked at
TAKEN = ("run", "summary", "annotations", "matches", "gallery", "index", "mean", "cache", "reference")
log = logging.getLogger(__name__)


class Searching:
    """Photos, the models that look at them, and the cache; the lower half of a `ProductSession`, see there."""

    def __init__(
        self,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
        settings: Settings | None,
        segmenter: Segmenter | None,
        encoder: PatchEncoder | None,
        cache: str | Path | None,
        panorama: bool,
        mean: Float32[np.ndarray, "m d"] | None,
    ):
        cache = outputs_dir("product_matching") / "cache" if cache is None else cache
        self.photos = tuple(listed(images, Path(cache) / "arrays"))
        self.settings = settings or Settings()
        if segmenter is None or encoder is None:
            from nbhelpers.models.load import load

            segmenter = segmenter or load("segmenter", self.settings.sam2_checkpoint)
            encoder = encoder or load("patch_encoder", self.settings.dinov2_model)
        self.segmenter, self.encoder = segmenter, encoder
        self.cache = Cache(cache)
        self.panorama, self.mean = panorama, mean
        self.names = tuple(stems(self.photos, TAKEN))
        self.problems: dict[int, str] = {}
        """What went wrong with a photo, by its index."""
        self.digests: dict[int, str] = {}
        """sha256 of each photo's file, by its index."""
        self._keys: dict[int, str] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._results: dict[int, MatchedPhoto] = {}
        self._scores: dict[str, Scores] = {}
        self._scored_by = ""
        self._judging: tuple[Any, Any] = (None, None)

    @property
    def gallery(self) -> Gallery:
        """What is looked for."""
        raise NotImplementedError

    @property
    def searched(self) -> list[int]:
        """Indices of the photos whose candidates are known."""
        return sorted(self._sizes)

    @property
    def results(self) -> tuple[MatchedPhoto, ...]:
        """A result for each photo that was searched or failed, in the order of the photos."""
        return tuple(self._results[index] for index in sorted(self._results))

    def result(self, photo: int) -> MatchedPhoto:
        """The result of one photo.

        Raises:
            NbHelpersError: it was not searched yet.
        """
        if photo not in self._results:
            raise NbHelpersError("this photo was not searched yet", given=photo, do="search()")
        return self._results[photo]

    def is_done(self, photo: int) -> bool:
        """Whether a photo has a result."""
        return photo in self._results

    def candidates(self, photo: int) -> Candidates:
        """All that a search found in a photo, with features; from the cache.

        Raises:
            NbHelpersError: it was not searched yet.
        """
        if photo not in self._sizes:
            raise NbHelpersError("this photo was not searched", given=photo, expected=self.problems.get(photo))
        found = self.cache.get(self._keys[photo])
        if found is None:  # somebody has emptied the folder meanwhile
            image = load_image(self.photos[photo])
            found = search(image, self.segmenter, self.encoder, self._guide(), self.settings, self.panorama)
            found = self.cache.put(self._keys[photo], found)
        return found

    def mean_feature(self) -> Float32[np.ndarray, "m d"]:
        """What photos spread over the session have in common, made at the first call; see `Gallery`."""
        if self.mean is None:
            self.mean = mean_feature(self._some_photos(), self.encoder, MEAN_OF)
        return self.mean

    @property
    def judging(self) -> Gallery:
        """The gallery that photos are judged by: against the other things that were found, where there are enough.

        With ``calibrate`` off it is `gallery`, so that a threshold means the same in all sessions.
        """
        gallery = self.gallery
        if not self.settings.calibrate:
            return gallery
        some = evenly(self.searched, BACKGROUND_OF)
        known = gallery.digest, tuple(self._keys[index] for index in some)
        if known != self._judging[0]:
            self._judging = known, against_background(map(self.candidates, some), gallery, self.settings)
        return self._judging[1]

    def score(self, photos: Sequence[int]) -> None:
        """Compare photos with `judging`, but for those that it has been compared with."""
        gallery = self.judging
        if self._scored_by != gallery.digest:
            self._scores, self._scored_by = {}, gallery.digest
        rest = [index for index in photos if self._keys[index] not in self._scores]
        for start in range(0, len(rest), TOGETHER):
            part = rest[start : start + TOGETHER]
            found = score_all([self.candidates(index) for index in part], gallery, self.settings)
            self._scores.update(zip((self._keys[index] for index in part), found, strict=True))

    def scores(self, photo: int) -> Scores:
        """What `judging` says of a photo that was compared with it."""
        return self._scores[self._keys[photo]]

    def look(self, client: Any, on_photo: Callable[[int], object] | None, again: bool) -> None:
        """Search the photos that were not searched yet, or all of them again; see `ProductSession.search`."""
        guide = self._guide()
        models = self.segmenter.name, self.encoder.name
        work = []
        for index, path in enumerate(self.photos):
            if index in self._sizes and not again:
                continue
            try:
                digest = self.digests[index] = sha256(path)
            except OSError as error:
                self._failed(index, f"the photo cannot be read: {error.strerror or error}")
                continue
            self._keys[index] = signature(digest, models, self.settings, guide.digest, self.panorama)
            work.append((index, path, self._keys[index]))
        task = spread.Task(guide, self.settings, self.panorama, self.cache.folder, models, self.segmenter.device)
        for index, (size, problem) in self._outcomes(work, task, client):
            if problem:
                self._failed(index, problem)
            else:
                self._sizes[index] = size
                self.problems.pop(index, None)
            if on_photo is not None:
                on_photo(index)

    def _outcomes(self, work: list, task: spread.Task, client: Any) -> Iterator[tuple[int, spread.Outcome]]:
        if client is not None:
            known = [each for each in work if each[2] in self.cache]  # no worker need load its models for these
            if rest := [each for each in work if each not in known]:
                yield from spread.over_workers(rest, task, client)
            work = known
        for index, path, key in work:
            yield index, spread.look(path, key, task, self.cache, self.segmenter, self.encoder)

    def _guide(self) -> Gallery:
        """The gallery that guides a search."""
        self.mean_feature()
        return self.gallery.guide

    def _some_photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        readable = 0
        for path in dict.fromkeys([*evenly(self.photos, MEAN_OF), *self.photos]):
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

    def _failed(self, index: int, problem: str) -> None:
        log.warning("%s: %s", self.photos[index].name, problem)
        self.problems[index] = problem
        self._sizes.pop(index, None)
        self._results[index] = MatchedPhoto(self.photos[index], self.names[index], error=problem)
