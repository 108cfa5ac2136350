"""A product, the photos it is looked for in, and what a person said about what was found.

`ProductSession` needs no browser and no widget: whatever the gallery widget does is one method call here. A photo is
searched once; then it is judged as often as the references, the rejects or the threshold change, at once and from the
cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, load_image
from nbhelpers.core.masks import decode_rle
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.calibrate import Calibration, calibrate
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.matching import verdicts
from nbhelpers.product_matching.order import neighbours_agree
from nbhelpers.product_matching.reference import Reference, reference_of, shown
from nbhelpers.product_matching.results import Found, MatchedPhoto
from nbhelpers.product_matching.searching import Searching
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Judged


class ProductSession(Searching):
    """Show a product, search photos for it, confirm and reject, look again at once.

    Example:
        >>> session = ProductSession("shelf/")
        >>> session.add_reference("shelf/1.jpg", point=(250, 300))
        >>> session.search()
        >>> [result.photo.name for result in session.results if not result.absent]
        ['1.jpg', '4.jpg']
        >>> session.confirm(3, 0)                            # photo 3, the most similar thing: a reference now
        >>> session.reject(5, 1)                             # not it, and what looks like it is not it either

    Args:
        images: files, a folder, a glob, or arrays ``(H, W, 3) uint8``, which are written into the cache.
        settings: see there.
        segmenter: makes the masks; that of the settings, else the best that is here, when left out.
        encoder: describes what they cover; likewise.
        cache: folder of the candidates; ``outputs/product_matching/cache`` when left out.
        panorama: whether the photos are equirectangular.
        turntable: whether the photos are views in order, ``"circle"`` when the last is beside the first; then each is
            also judged by its neighbours.
        mean: mean feature of an earlier session, see `Gallery`; made from the photos when left out.

    Raises:
        NbHelpersError: no photos.
    """

    def __init__(
        self,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
        *,
        settings: Settings | None = None,
        segmenter: Segmenter | None = None,
        encoder: PatchEncoder | None = None,
        cache: str | Path | None = None,
        panorama: bool = False,
        turntable: bool | str = False,
        mean: Float32[np.ndarray, "m d"] | None = None,
    ):
        super().__init__(images, settings, segmenter, encoder, cache, panorama, mean)
        self.turntable = turntable
        self.references: list[Reference] = []
        self.calibration: Calibration | None = None
        self._marks: dict[tuple[int, int], Reference] = {}
        self._rejected: dict[tuple[int, int], Reference] = {}
        self._threshold: float | None = None
        self._listeners: list[Callable[[], object]] = []

    @property
    def gallery(self) -> Gallery:
        """The references, the rejects and the mean feature, as `judge` takes them.

        Raises:
            NbHelpersError: there is no reference yet.
        """
        if not self.references:
            raise NbHelpersError("the session has no reference yet", do="add_reference(photo, point=(x, y))")
        positives = tuple(each.features for each in self.references)
        return Gallery(positives, tuple(each.features for each in self._rejected.values()), self.mean)

    @property
    def threshold(self) -> float:
        """The score that a match needs: what a person set, else the calibrated one, else that of the settings."""
        if self._threshold is not None:
            return self._threshold
        if self.settings.calibrate and self.calibration is not None:
            return self.calibration.threshold
        return self.settings.similarity_threshold

    @property
    def threshold_from(self) -> str:
        """``"person"``, ``"calibration"`` or ``"settings"``."""
        if self._threshold is not None:
            return "person"
        return self.calibration.source if self.settings.calibrate and self.calibration is not None else "settings"

    def add_reference(
        self,
        image: UInt8[np.ndarray, "h w 3"] | str | Path,
        *,
        point: Sequence[float] | None = None,
        box: Sequence[float] | None = None,
        mask: Bool[np.ndarray, "mask_h mask_w"] | None = None,
    ) -> Reference:
        """Show the product once more; photos that were searched are judged again.

        Args:
            image: a photo, one of the session's or any other.
            point: a click ``(x, y)`` on the product, in pixels of the photo,
            box: or ``(x0, y0, x1, y1)`` around it,
            mask: or what it covers, as a `nbhelpers.segment.ClickSession` has it after some clicks.

        Raises:
            NbHelpersError: what `nbhelpers.product_matching.reference.shown` raises.
        """
        pixels = load_image(image)
        found = shown(pixels, self.segmenter, point=point, box=box, mask=mask)
        how = "click" if point is not None else "box" if box is not None else "mask"
        name, source = ("reference", "") if isinstance(image, np.ndarray) else (Path(image).name, str(image))
        side = self.settings.crop_side
        reference = reference_of(name, how, pixels, found, self.encoder, side, source=source)
        self.references.append(reference)
        self.judge()
        return reference

    def search(
        self, *, client: Any = None, on_photo: Callable[[int], object] | None = None, again: bool = False
    ) -> tuple[MatchedPhoto, ...]:
        """Search all photos that were not searched yet for things that might be the product, and judge them.

        Cut off, it goes on where it was when called again, in another process too. A photo that cannot be read is told
        in its result, and the others are done.

        Args:
            client: of Dask distributed: photos are spread over its workers, each with its own models. The cache must
                be a folder that all of them see.
            on_photo: called with the index of each photo when it is done.
            again: search with all references of now; else photos are not searched twice, however the gallery grew.

        Returns:
            `results`.
        """
        self.look(client, on_photo, again)
        self.judge()
        return self.results

    def judge(self) -> None:
        """Judge all searched photos anew; done by itself whenever something changes.

        A new threshold costs next to nothing; after a change of the gallery the features are read from the cache.
        """
        ready = self.searched
        if not ready or not self.references:
            return self._changed()
        self.score(ready)
        self.calibration = None
        if self.settings.calibrate:
            self.calibration = calibrate(map(self.scores, ready), self.judging, self.settings)
        for index in ready:
            self.rescore(index, verdicts(self.scores(index), self.settings, self.threshold))
        if self.turntable:
            neighbours_agree(self, ready)
        return self._changed()

    def confirm(self, photo: int, thing: int = 0) -> Reference:
        """Say that a thing is the product: it becomes a reference, and all photos are judged again.

        Args:
            photo: its index.
            thing: index into the photo's ``found``; 0 is the most similar.
        """
        self._forget(photo, thing)
        mark, reference = self._mark(photo, thing)
        self.references.append(reference)
        self._marks[mark] = reference
        self.judge()
        return reference

    def reject(self, photo: int, thing: int = 0) -> Reference:
        """Say that a thing is not the product: what is more like it than like the product is dropped from now on."""
        self._forget(photo, thing)
        mark, reference = self._mark(photo, thing)
        self._rejected[mark] = replace(reference, how="rejected")
        self.judge()
        return self._rejected[mark]

    @property
    def marks(self) -> dict[tuple[int, int], Reference]:
        """What a person confirmed or rejected, by photo and index into its `Candidates`; ``how`` tells which."""
        return {**self._marks, **self._rejected}

    def forget(self, photo: int, thing: int = 0) -> None:
        """Take back what was said about a thing."""
        self._forget(photo, thing)
        self.judge()

    def said(self, photo: int, thing: int = 0) -> str:
        """What a person said about a thing: ``"confirmed"``, ``"rejected"`` or nothing."""
        mark = photo, self.result(photo).found[thing].number
        return "confirmed" if mark in self._marks else "rejected" if mark in self._rejected else ""

    def remove_reference(self, index: int) -> None:
        """Take a reference out of the gallery; the last one stays.

        Raises:
            NbHelpersError: it is the last, or there is none of that index.
        """
        if len(self.references) <= 1 or not 0 <= index < len(self.references):
            raise NbHelpersError(
                "this reference cannot be removed", given=index, expected="a session keeps at least one reference"
            )
        gone = self.references.pop(index)
        self._marks = {mark: each for mark, each in self._marks.items() if each is not gone}
        self.judge()

    def set_threshold(self, threshold: float | None) -> None:
        """Set the score that a match needs; None goes back to the calibrated one."""
        if threshold is not None and not -1 <= threshold <= 1:
            raise NbHelpersError("the threshold is out of range", given=threshold, expected="-1 to 1")
        self._threshold = threshold
        self.judge()

    def lookalikes(self, most: int = 20) -> list[tuple[MatchedPhoto, Found]]:
        """What came close: of each photo the best that was dropped, and matches just above the threshold.

        Sorted by score, the highest first; each tells in ``why`` what decided.
        """
        near = []
        for result in self.results:
            dropped = [each for each in result.found if not each.kept and each.verdict != "duplicate"]
            near += [(result, each) for each in dropped[:1]]
            near += [(result, each) for each in result.matches if each.score < self.threshold + 0.1]
        return sorted(near, key=lambda row: -row[1].score)[:most]

    def save(self, path: str | Path) -> Path:
        """Write what was shown and said as JSON; `nbhelpers.product_matching.saved.reopen` goes on from there."""
        from nbhelpers.product_matching.saved import save

        return save(self, path)

    def export(self, folder: str | Path) -> list[Path]:
        """Write all that `nbhelpers.product_matching.run` writes, and return the files about all photos."""
        from nbhelpers.product_matching.batch import write

        return write(self, folder)

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener()`` after every change; returns a function that stops it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def rescore(self, photo: int, judged: Sequence[Judged]) -> None:
        """Replace how a photo was judged; for what knows more than one photo at a time."""
        size, scores = self._sizes[photo], self.scores(photo)
        self._results[photo] = MatchedPhoto(
            self.photos[photo],
            self.names[photo],
            size,
            tuple(Found.of(each, size) for each in judged),
            self.threshold,
            self.threshold_from,
            scores.prompts,
            scores.seconds,
            scores.notes,
            panorama=self.panorama,
            sha256=self.digests.get(photo, ""),
        )

    def _mark(self, photo: int, thing: int) -> tuple[tuple[int, int], Reference]:
        result = self.result(photo)
        if not 0 <= thing < len(result.found):
            raise NbHelpersError(
                "there is no such thing in this photo", given=thing, expected=f"0 to {len(result.found) - 1}"
            )
        found = result.found[thing]
        mask = decode_rle(found.rle)
        pixels = fit(load_image(result.photo), max(mask.shape))
        # of a panorama as its tile showed it, undistorted
        features = self.candidates(photo).items[found.number].features if self.panorama else None
        name, side = result.photo.name, self.settings.crop_side
        reference = reference_of(name, "confirmed", pixels, mask, self.encoder, side, features, str(result.photo))
        return (photo, found.number), reference

    def _forget(self, photo: int, thing: int) -> None:
        found = self.result(photo).found
        mark = (photo, found[thing].number) if 0 <= thing < len(found) else None
        self._rejected.pop(mark, None)
        if self.references == [self._marks.get(mark)]:
            raise NbHelpersError("the last reference stays", given=self.references[0].photo, do="add another one first")
        gone = self._marks.pop(mark, None)
        self.references = [each for each in self.references if each is not gone]

    def _changed(self) -> None:
        for listener in tuple(self._listeners):
            listener()
