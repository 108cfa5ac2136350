"""The session of product matching: references, photos, confirmed and rejected detections.

`ProductSession` does not depend on a browser or a widget: every action of the gallery widget is one method call. A
photo is searched once; its proposals are scored again from the cache when references, rejects or the threshold change.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.images import fit, load_image
from nbhelpers.core.masks import decode_rle, encode_rle
from nbhelpers.core.prompts import INCLUDE, ObjectPrompts, Prompt
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.product_matching.gallery import (
    Gallery,
    Reference,
    check_reference_mask,
    evenly_spaced,
    make_reference,
    reference_mask,
)
from nbhelpers.product_matching.match import (
    Calibration,
    PhotoScores,
    ProposalDecision,
    TurntableViews,
    apply_threshold,
    calibrate,
    score_photos,
    subtract_background,
)
from nbhelpers.product_matching.propose import PhotoProposals
from nbhelpers.product_matching.report import FORMATS, Detection, MatchedPhoto, ProductReport
from nbhelpers.product_matching.search import PhotoSearch
from nbhelpers.product_matching.settings import ProductSettings

SCORE_BATCH = 8  # photos scored at a time: faster than one by one, with bounded memory
BACKGROUND_PHOTOS = 64  # photos whose other objects serve as background
SESSION_FORMAT = "nbhelpers product session 1"
log = logging.getLogger(__name__)


class ProductSession:
    """Search for a product in photos, and confirm or reject detections; results are updated immediately.

    Example:
        >>> session = ProductSession("shelf/")
        >>> session.click(250, 300, view=0)                  # the product in the first photo
        >>> session.search()
        >>> [result.photo.name for result in session.results if not result.absent]
        ['1.jpg', '4.jpg']
        >>> session.confirm(3, 0)                            # photo 3, the most similar detection: a reference now
        >>> session.reject(5, 1)                             # not the product, nor is what resembles it
        >>> session.undo()
        True

    Args:
        images: files, a folder, a glob, or arrays ``(H, W, 3) uint8``, which are written to the cache.
        settings: of the search and the matches.
        segmenter: predicts the masks; by default that of the settings, else the best one available.
        encoder: computes the patch tokens; likewise.
        cache: folder of the proposals; by default ``outputs/product_matching/cache``.
        panorama: whether the photos are equirectangular.
        turntable: whether the photos are views in order, ``"circle"`` if the last is next to the first; each photo is
            then also matched with its neighbours.
        mean: mean feature of an earlier session, see `Gallery`; by default computed from the photos.

    Raises:
        NbHelpersError: there are no photos.
    """

    def __init__(
        self,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
        *,
        settings: ProductSettings | None = None,
        segmenter: Segmenter | None = None,
        encoder: PatchEncoder | None = None,
        cache: str | Path | None = None,
        panorama: bool = False,
        turntable: bool | str = False,
        mean: Float32[np.ndarray, "m d"] | None = None,
    ):
        self.settings = settings or ProductSettings()
        self.photo_search = PhotoSearch(images, self.settings, segmenter, encoder, cache, panorama, mean)
        """The photos, the models and the cache."""
        self.turntable = turntable
        self.references: list[Reference] = []
        self.calibration: Calibration | None = None
        self._prompted: dict[int, tuple[ObjectPrompts, Reference]] = {}  # by photo
        self._confirmed: dict[tuple[int, int], Reference] = {}
        self._rejected: dict[tuple[int, int], Reference] = {}
        self._threshold: float | None = None
        self._done: list[tuple] = []  # states before each step
        self._undone: list[tuple] = []
        self._embedding: tuple[int, Embedding] | None = None  # of the photo that was prompted last
        self._results: dict[int, MatchedPhoto] = {}
        self._scores: dict[str, PhotoScores] = {}
        self._scored_by = ""
        self._scoring_gallery: tuple[tuple, Gallery] | None = None
        self._listeners: list[Callable[[], object]] = []

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> ProductSession:
        """Open a saved session: its photos are searched, or read from the cache, and its marks are restored.

        Example:
            >>> session.save("outputs/shelf.json")
            >>> session = ProductSession.open("outputs/shelf.json", cache="outputs/cache")

        Args:
            path: written by `save`.
            **options: of `ProductSession`: settings, models, cache.

        Raises:
            NbHelpersError: the file cannot be read, or was saved with other models.
        """
        try:
            about = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
            if about["format"] != SESSION_FORMAT:
                raise ValueError(about["format"])
            references = [(each["photo"], decode_rle(each["rle"])) for each in about["references"]]
            marks = [(each["photo"], each["how"], each["rle"]) for each in about["marks"]]
            options = {"panorama": about["panorama"], "turntable": about["turntable"], **options}
            photos, models, threshold = about["photos"], about["models"], about["threshold"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NbHelpersError(
                "the session cannot be read", given=f"{path}: {error}", expected=SESSION_FORMAT
            ) from error
        session = cls(photos, **options)
        if [session.segmenter.name, session.encoder.name] != models:
            raise NbHelpersError(
                "the session was saved with other models",
                given=f"{session.segmenter.name}, {session.encoder.name}",
                expected=", ".join(models),
                do="load these models, or start a new session",
            )
        for photo, mask in references:
            session.add_reference(photo, mask=mask)
        session.search()
        for photo, how, rle in marks:
            index = photos.index(photo)
            detections = session.result(index).detections if session.is_done(index) else ()
            number = next((number for number, each in enumerate(detections) if each.rle == rle), None)
            if number is None:
                log.warning("%s: a detection that was %s is no longer found", photo, how)
            elif how == "confirmed":
                session.confirm(index, number)
            else:
                session.reject(index, number)
        if threshold is not None:
            session.set_threshold(threshold)
        session._done.clear()
        return session

    def save(self, path: str | Path) -> Path:
        """Write the photos, references, marks and threshold as JSON for `open`; return the path.

        Masks are stored as RLE, photos as paths.

        Raises:
            NbHelpersError: a reference was given as an array and has no file.
        """
        confirmed = list(self._confirmed.values())
        references = [each for each in self.references if each not in confirmed]
        if arrays := [each for each in references if not each.source]:
            raise NbHelpersError("a reference has no file", given=arrays[0].photo, do="add it from a file")
        about = {
            "format": SESSION_FORMAT,
            "models": [self.segmenter.name, self.encoder.name],
            "panorama": self.photo_search.panorama,
            "turntable": self.turntable,
            "threshold": self._threshold,
            "photos": [str(photo) for photo in self.photos],
            "references": [{"photo": each.source, "how": each.how, "rle": dict(each.rle)} for each in references],
            "marks": [
                {"photo": str(self.photos[photo]), "how": each.how, "rle": dict(each.rle)}
                for (photo, _), each in self.marks.items()
            ],
        }
        return write_text(Path(path).expanduser(), json.dumps(about, indent=1, ensure_ascii=False))

    def export(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, full_paths: bool = True) -> list[Path]:
        """Write the results as `nbhelpers.product_matching.match_product` does; return the files about all photos.

        Args:
            folder: see `nbhelpers.product_matching.match_product` for its content.
            formats: some of `nbhelpers.product_matching.report.FORMATS`.
            full_paths: whether tables name photos by path; otherwise by file name, for files that leave this computer.

        Raises:
            NbHelpersError: an unknown format, or the folder cannot be written.
        """
        return self.report.export(folder, formats, full_paths=full_paths)

    @property
    def photos(self) -> tuple[Path, ...]:
        """Files of the photos."""
        return self.photo_search.photos

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter."""
        return self.photo_search.segmenter

    @property
    def encoder(self) -> PatchEncoder:
        """The patch encoder."""
        return self.photo_search.encoder

    @property
    def problems(self) -> dict[int, str]:
        """Error message of each failed photo, by its index."""
        return self.photo_search.problems

    @property
    def searched(self) -> list[int]:
        """Indices of the searched photos."""
        return sorted(self.photo_search.sizes)

    @property
    def results(self) -> tuple[MatchedPhoto, ...]:
        """The results of all searched or failed photos, in order."""
        return tuple(self.result(index) for index in sorted({*self._results, *self.problems}))

    @property
    def report(self) -> ProductReport:
        """The current results, for images, tables and files."""
        models = self.segmenter.name, self.encoder.name
        results, references = self.results, tuple(self.references)
        return ProductReport(results, references, models, self.threshold, self.threshold_from, self.calibration)

    @property
    def gallery(self) -> Gallery:
        """The references, the negatives and the mean feature.

        Raises:
            NbHelpersError: there is no reference yet.
        """
        if not self.references:
            raise NbHelpersError("the session has no reference yet", do="add_reference(photo, point=(x, y))")
        positives = tuple(each.features for each in self.references)
        return Gallery(positives, tuple(each.features for each in self._rejected.values()), self.photo_search.mean)

    @property
    def scoring_gallery(self) -> Gallery:
        """The gallery used for scoring: without the common component of the other objects.

        Without ``calibrate`` it is `gallery`, so that a threshold is comparable between sessions.
        """
        gallery = self.gallery
        if not self.settings.calibrate:
            return gallery
        some = evenly_spaced(self.searched, BACKGROUND_PHOTOS)
        key = gallery.digest, tuple(self.photo_search.keys[index] for index in some)
        if self._scoring_gallery is None or key != self._scoring_gallery[0]:
            self._scoring_gallery = key, subtract_background(map(self.proposals, some), gallery, self.settings)
        return self._scoring_gallery[1]

    @property
    def threshold(self) -> float:
        """The minimum score of a match: set by the user, else calibrated, else that of the settings."""
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

    @property
    def marks(self) -> dict[tuple[int, int], Reference]:
        """Confirmed and rejected detections, by photo and index in its proposals; see their ``how``."""
        return {**self._confirmed, **self._rejected}

    def result(self, photo: int) -> MatchedPhoto:
        """The result of one photo.

        Raises:
            NbHelpersError: it was not searched yet.
        """
        if photo in self.problems:
            search = self.photo_search
            return MatchedPhoto(search.photos[photo], search.names[photo], error=search.problems[photo])
        if photo not in self._results:
            raise NbHelpersError("this photo has not been searched", given=photo, do="search()")
        return self._results[photo]

    def is_done(self, photo: int) -> bool:
        """Whether a photo has a result."""
        return photo in self._results or photo in self.problems

    def proposals(self, photo: int) -> PhotoProposals:
        """All proposals of a photo, with features, from the cache.

        Raises:
            NbHelpersError: it was not searched yet.
        """
        return self.photo_search.proposals(photo, self._guide)

    def mean_feature(self) -> Float32[np.ndarray, "m d"]:
        """The common component of evenly spaced photos of the session, computed once; see `Gallery`."""
        return self.photo_search.mean_feature()

    def click(self, x: float, y: float, label: int = INCLUDE, *, view: int = 0) -> Prediction:
        """Add a point on the product, or with label 0 beside it, in a photo; its mask becomes a reference.

        The prompts of a photo make one reference: further prompts there replace it. Matches are updated.

        Args:
            x: pixels from the left.
            y: pixels from the top.
            label: 1 to include, 0 to exclude.
            view: index of the photo.

        Returns:
            The prediction for all prompts of the photo; its ``best`` is the reference's mask.

        Raises:
            NbHelpersError: no such photo, a point outside it, or see
                `nbhelpers.product_matching.gallery.reference_mask`.
        """
        before = self.prompts(view)
        points, labels = (*before.points, (float(x), float(y))), (*before.labels, int(label))
        prediction = self._set_prompts(view, replace(before, points=points, labels=labels))
        assert prediction is not None  # there is a point
        return prediction

    def set_box(self, box: Sequence[float] | None, *, view: int = 0) -> Prediction | None:
        """Set or, with None, remove the box ``(x0, y0, x1, y1)`` around the product in a photo; see `click`."""
        sides = None if box is None else tuple(map(float, box))
        return self._set_prompts(view, replace(self.prompts(view), box=sides))

    def set_mask(self, mask: Bool[np.ndarray, "h w"] | None, *, view: int = 0) -> Prediction | None:
        """Set or, with None, remove the mask of the product in a photo; see `click`. A mask alone is kept unchanged."""
        rle = None if mask is None else encode_rle(mask)
        return self._set_prompts(view, replace(self.prompts(view), mask_rle=rle))

    def prompts(self, view: int) -> ObjectPrompts:
        """The prompts of a photo; those of a session that was opened are references without prompts."""
        if not 0 <= view < len(self.photos):
            raise NbHelpersError("there is no such view", given=view, expected=f"0 to {len(self.photos) - 1}")
        return self._prompted[view][0] if view in self._prompted else ObjectPrompts()

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        return bool(self._undone)

    def undo(self) -> bool:
        """Undo the last step: a prompt, a reference, a mark or a threshold; False when there is none.

        Searches are kept.
        """
        return self._travel(self._done, self._undone)

    def redo(self) -> bool:
        """Redo the last undone step; False when there is none."""
        return self._travel(self._undone, self._done)

    def add_reference(
        self,
        image: UInt8[np.ndarray, "h w 3"] | str | Path,
        *,
        point: Sequence[float] | None = None,
        box: Sequence[float] | None = None,
        mask: Bool[np.ndarray, "mask_h mask_w"] | None = None,
    ) -> Reference:
        """Add a reference and update the matches.

        Args:
            image: a photo, one of the session's or any other.
            point: a click ``(x, y)`` on the product, in pixels of the photo,
            box: or ``(x0, y0, x1, y1)`` around it,
            mask: or its mask, for example from a `nbhelpers.segment.ClickSession`.

        Raises:
            NbHelpersError: see `nbhelpers.product_matching.gallery.reference_mask`.
        """
        pixels = load_image(image)
        mask_of_product = reference_mask(pixels, self.segmenter, point=point, box=box, mask=mask)
        how = "click" if point is not None else "box" if box is not None else "mask"
        name, source = ("reference", "") if isinstance(image, np.ndarray) else (Path(image).name, str(image))
        side = self.settings.crop_side
        reference = make_reference(name, how, pixels, mask_of_product, self.encoder, side, source=source)
        with self._step():
            self.references.append(reference)
        return reference

    def remove_reference(self, index: int) -> None:
        """Remove a reference, except the last one.

        Raises:
            NbHelpersError: it is the last one, or the index is invalid.
        """
        if len(self.references) <= 1 or not 0 <= index < len(self.references):
            raise NbHelpersError(
                "this reference cannot be removed", given=index, expected="a session keeps at least one reference"
            )
        with self._step():
            removed = self.references.pop(index)
            self._confirmed = {mark: each for mark, each in self._confirmed.items() if each is not removed}
            self._prompted = {view: each for view, each in self._prompted.items() if each[1] is not removed}

    def search(
        self, *, client: Any = None, on_photo: Callable[[int], object] | None = None, repeat: bool = False
    ) -> tuple[MatchedPhoto, ...]:
        """Search all photos that have not been searched, and update the matches.

        An interrupted search resumes when it is called again, also in another process. The result of a photo that
        cannot be read holds the error; the others are searched.

        Args:
            client: of Dask distributed: photos are distributed over its workers, each with its own models. The cache
                must be a folder that all of them can access.
            on_photo: called with the index of each finished photo.
            repeat: search all photos again, guided by the current references; otherwise each photo is searched once,
                even if the gallery grows.

        Returns:
            `results`.
        """
        self.photo_search.run(self._guide(), client, on_photo, repeat)
        self.update_matches()
        return self.results

    def update_matches(self) -> None:
        """Score all searched photos and apply the threshold; called after every change.

        A new threshold takes hardly any time; after a change of the gallery the features are read from the cache.
        """
        searched = self.searched
        if searched and self.references:
            gallery = self.scoring_gallery
            scores = self._score(searched, gallery)
            self.calibration = calibrate(scores.values(), gallery, self.settings) if self.settings.calibrate else None
            decisions = {photo: apply_threshold(each, self.settings, self.threshold) for photo, each in scores.items()}
            if self.turntable:
                names, circle = {photo: self.photos[photo].name for photo in searched}, self.turntable == "circle"
                views = TurntableViews(names, self.proposals, gallery, self.settings, self.threshold, circle)
                decisions = views.link(decisions)
            self._results = {photo: self._result(photo, scores[photo], decisions[photo]) for photo in searched}
        elif not self.references:
            self._results, self.calibration = {}, None
        for listener in tuple(self._listeners):
            listener()

    def confirm(self, photo: int, detection: int = 0) -> Reference:
        """Mark a detection as the product: it becomes a reference, and the matches are updated.

        Args:
            photo: its index.
            detection: index in the photo's ``detections``; 0 is the most similar.
        """
        with self._step():
            self._remove_mark(photo, detection)
            mark, reference = self._reference_of(photo, detection)
            self.references.append(reference)
            self._confirmed[mark] = reference
        return reference

    def reject(self, photo: int, detection: int = 0) -> Reference:
        """Mark a detection as not the product: what is more similar to it than to the product is no match any more."""
        with self._step():
            self._remove_mark(photo, detection)
            mark, reference = self._reference_of(photo, detection)
            self._rejected[mark] = replace(reference, how="rejected")
        return self._rejected[mark]

    def unmark(self, photo: int, detection: int = 0) -> None:
        """Remove the mark of a confirmed or rejected detection."""
        with self._step():
            self._remove_mark(photo, detection)

    def mark_of(self, photo: int, detection: int = 0) -> str:
        """The mark of a detection: ``"confirmed"``, ``"rejected"`` or an empty string."""
        mark = photo, self.result(photo).detections[detection].number
        return "confirmed" if mark in self._confirmed else "rejected" if mark in self._rejected else ""

    def set_threshold(self, threshold: float | None) -> None:
        """Set the minimum score of a match; None restores the calibrated one."""
        if threshold is not None and not -1 <= threshold <= 1:
            raise NbHelpersError("the threshold is out of range", given=threshold, expected="-1 to 1")
        with self._step():
            self._threshold = threshold

    def lookalikes(self, limit: int = 20) -> list[tuple[MatchedPhoto, Detection]]:
        """Detections near the threshold, see `nbhelpers.product_matching.report.ProductReport.lookalikes`."""
        return self.report.lookalikes(limit)

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback()`` after every change; returns a function that stops it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def _set_prompts(self, view: int, prompts: ObjectPrompts) -> Prediction | None:
        """Replace the prompts of a photo and the reference made from them; without prompts the reference is removed."""
        path, before = self.photos[view], self._prompted.get(view, (None, None))[1]
        prompt = prompts.prompt()
        if prompt is None:
            with self._step():
                self._prompted.pop(view, None)
                self.references = [each for each in self.references if each is not before]
            return None
        pixels = load_image(path)
        prediction = self._predict(view, pixels, prompt.check_inside(pixels.shape[:2]))
        clicked = len(prompt.points) > 0 and prompt.box is None
        mask = check_reference_mask(prediction.best, clicked=clicked)
        how = "click" if clicked else "box" if prompt.box is not None else "mask"
        side = self.settings.crop_side
        reference = make_reference(path.name, how, pixels, mask, self.encoder, side, source=str(path))
        with self._step():
            place = next((i for i, each in enumerate(self.references) if each is before), len(self.references))
            self.references[place : place + 1] = [reference]
            self._prompted[view] = prompts, reference
        return prediction

    def _predict(self, view: int, pixels: UInt8[np.ndarray, "h w 3"], prompt: Prompt) -> Prediction:
        """The prediction for the prompts of a photo; among several candidates the one that agrees best with clicks."""
        if not len(prompt.points) and prompt.box is None:
            return Prediction.of_mask(prompt.mask)
        if self._embedding is None or self._embedding[0] != view:
            self._embedding = view, self.segmenter.encode(pixels)
        prediction = self.segmenter.predict(self._embedding[1], prompt)
        return replace(
            prediction, choice=prediction.agreeing(list(map(tuple, prompt.points.tolist())), prompt.labels.tolist())
        )

    def _state(self) -> tuple:
        """All that a step can change."""
        return (
            tuple(self.references),
            dict(self._prompted),
            dict(self._confirmed),
            dict(self._rejected),
            self._threshold,
        )

    def _restore(self, state: tuple) -> None:
        """Return to a state."""
        references, prompted, confirmed, rejected, self._threshold = state
        self.references = list(references)
        self._prompted, self._confirmed, self._rejected = dict(prompted), dict(confirmed), dict(rejected)

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """Make a change that can be undone, and update the matches; one that fails changes nothing."""
        before = self._state()
        try:
            yield
            self.update_matches()
        except BaseException:
            self._restore(before)
            raise
        self._done.append(before)
        self._undone.clear()

    def _travel(self, source: list[tuple], target: list[tuple]) -> bool:
        """Return to the last state of ``source``."""
        if not source:
            return False
        target.append(self._state())
        self._restore(source.pop())
        self.update_matches()
        return True

    def _guide(self) -> Gallery:
        """The gallery that guides a search."""
        self.mean_feature()
        return self.gallery.guide

    def _score(self, photos: Sequence[int], gallery: Gallery) -> dict[int, PhotoScores]:
        """Scores of photos, cached per gallery."""
        if self._scored_by != gallery.digest:
            self._scores, self._scored_by = {}, gallery.digest
        keys = self.photo_search.keys
        rest = [photo for photo in photos if keys[photo] not in self._scores]
        for start in range(0, len(rest), SCORE_BATCH):
            batch = rest[start : start + SCORE_BATCH]
            scores = score_photos([self.proposals(photo) for photo in batch], gallery, self.settings)
            self._scores.update(zip((keys[photo] for photo in batch), scores, strict=True))
        return {photo: self._scores[keys[photo]] for photo in photos}

    def _result(self, photo: int, scores: PhotoScores, decisions: Sequence[ProposalDecision]) -> MatchedPhoto:
        """The result of a photo from the decisions on its proposals."""
        search = self.photo_search
        size = search.sizes[photo]
        return MatchedPhoto(
            search.photos[photo],
            search.names[photo],
            size,
            tuple(Detection.of(each, size) for each in decisions),
            self.threshold,
            self.threshold_from,
            scores.prompts,
            scores.seconds,
            scores.notes,
            panorama=search.panorama,
            sha256=search.digests.get(photo, ""),
        )

    def _reference_of(self, photo: int, detection: int) -> tuple[tuple[int, int], Reference]:
        """The key in `marks` and the reference of a detection."""
        result = self.result(photo)
        if not 0 <= detection < len(result.detections):
            last = len(result.detections) - 1
            raise NbHelpersError("there is no such detection in this photo", given=detection, expected=f"0 to {last}")
        number, mask = result.detections[detection].number, decode_rle(result.detections[detection].rle)
        pixels = fit(load_image(result.photo), max(mask.shape))
        # in a panorama from its tile, without distortion
        features = self.proposals(photo).items[number].features if self.photo_search.panorama else None
        name, side = result.photo.name, self.settings.crop_side
        reference = make_reference(name, "confirmed", pixels, mask, self.encoder, side, features, str(result.photo))
        return (photo, number), reference

    def _remove_mark(self, photo: int, detection: int) -> None:
        """Remove the mark of a detection, and its reference."""
        detections = self.result(photo).detections
        if not 0 <= detection < len(detections):
            return
        mark = photo, detections[detection].number
        self._rejected.pop(mark, None)
        if self.references == [self._confirmed.get(mark)]:
            raise NbHelpersError(
                "the last reference cannot be removed", given=self.references[0].photo, do="add another one first"
            )
        removed = self._confirmed.pop(mark, None)
        self.references = [each for each in self.references if each is not removed]
