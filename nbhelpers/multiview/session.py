"""A session on the photos of one scene: prompts in some views, the object's mask in all of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import decode_rle, mask_logits, polygon_mask, upsample
from nbhelpers.core.prompts import INCLUDE, ObjectPrompts, Prompt, PromptLog
from nbhelpers.core.scenes import Scene
from nbhelpers.models.label_propagation.decoding import mask_side, predict_prompt
from nbhelpers.models.label_propagation.votes import with_features
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Prediction
from nbhelpers.multiview.conflicts import PromptConflicts, ViewPrompt, click_hypotheses, predict_hypothesis
from nbhelpers.multiview.consistency import ViewMasks
from nbhelpers.multiview.propagation import MaskPropagator, propagate_masks
from nbhelpers.multiview.results import FORMATS, MultiviewResult, save_result
from nbhelpers.multiview.views import Photos, Progress

OBJECT = "object 1"  # in the prompt log


class ViewsSession:
    """One object in all photos of a scene, from prompts in some of them.

    Example:
        >>> session = ViewsSession(["a.jpg", "b.jpg", "c.jpg"], scene)
        >>> session.click(320, 200, view=0).best              # the mask in the first photo
        >>> views = session.solve()
        >>> session.click(300, 190, label=0, view=views.worst)    # a correction, which all views follow
        >>> views = session.solve()

    Prompted views keep the mask of their prompts; a click in a view without prompts corrects the mask of the last
    `solve`. If the prompts of two views are in conflict, the other views follow only one of them; see
    `nbhelpers.multiview.conflicts`. All prompts are in `log`, which reproduces the masks in a session on the same
    photos.

    Args:
        images: files or RGB arrays of any sizes, a folder, a glob, or `Photos` that other sessions share.
        scene: cameras and points of the same photos in the same order; without one, features alone are used.
        segmenter: a SAM 2; by default from `nbhelpers.load`.
        names: one for each photo.
        log: of an earlier session on these photos.

    Attributes:
        photos: see `Photos`.
        scene: as given.
        log: the `nbhelpers.core.prompts.PromptLog`; a view is a ``frame``.
        views: the result of the last `solve`; None before.

    Raises:
        NbHelpersError: no photos, an unreadable one, or a scene or a log of other photos.
    """

    def __init__(
        self,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path | Photos,
        scene: Scene | None = None,
        segmenter: Segmenter | None = None,
        *,
        names: Sequence[str] | None = None,
        log: PromptLog | None = None,
    ):
        self.photos = images if isinstance(images, Photos) else Photos(images, segmenter, names)
        if scene is not None and len(scene) != len(self.photos):
            raise NbHelpersError(
                "the scene belongs to other photos",
                given=f"{len(scene)} views, {len(self.photos)} photos",
                expected="one view for each photo, in the same order",
            )
        self.scene, self.views = scene, None
        head = {"name": self.photos.names[0], "size": list(self.photos.size(0)), "frames": len(self.photos)}
        if log is not None and log.image.get("frames") != len(self.photos):
            raise NbHelpersError(
                "the log belongs to other photos",
                given=f"{log.image.get('frames')} views",
                expected=f"{len(self.photos)}",
            )
        self.log = PromptLog(head, self.photos.segmenter.name) if log is None else log
        if OBJECT not in self.log.entries():
            self.log.append("object.add", object=OBJECT)
        self._predictions: dict[tuple[int, str], Prediction] = {}
        self._listeners: list[Callable[[], object]] = []

    @classmethod
    def open(
        cls,
        path: str | Path,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path | Photos,
        scene: Scene | None = None,
        segmenter: Segmenter | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> ViewsSession:
        """Open a session from a prompt log written by `save`, on the same photos.

        Raises:
            NbHelpersError: the log cannot be read, or belongs to other photos.
        """
        return cls(images, scene, segmenter, names=names, log=PromptLog.open(path))

    def save(self, path: str | Path) -> Path:
        """Write the prompt log as JSON and return its path."""
        return self.log.save(path)

    def export(self, folder: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write the masks of the last `solve`; return the paths, ``results.json`` last.

        Args:
            folder: see `nbhelpers.multiview.results.save_result` for its content.
            formats: some of `nbhelpers.multiview.results.FORMATS`; tables with all numbers are always written.

        Raises:
            NbHelpersError: there are no masks yet, an unknown format, or the folder cannot be written.
        """
        if self.views is None:
            raise NbHelpersError("there are no masks to export yet", do="click the object, then solve()")
        result = MultiviewResult(self, self.views, None, "object", self.views.notes)
        return save_result(result, folder, formats=formats)

    def __len__(self) -> int:
        return len(self.photos)

    def image(self, view: int) -> UInt8[np.ndarray, "h w 3"]:
        """A photo as RGB."""
        return self.photos.image(view)

    def prompts(self, view: int) -> ObjectPrompts:
        """The prompts of a view."""
        return self.log.objects(self.photos.check(view))[OBJECT]

    @property
    def prompted(self) -> tuple[int, ...]:
        """The views that have prompts."""
        return tuple(sorted(self._prompted_in_order()))

    def click(self, x: float, y: float, label: int = INCLUDE, *, view: int = 0) -> Prediction:
        """Add a point to the prompts of a view; the prediction for all of them.

        Args:
            x: pixels from the left.
            y: pixels from the top.
            label: 1 to include, 0 to exclude.
            view: number of the photo.

        Raises:
            NbHelpersError: an invalid view, a point outside it, or only excluding points without a mask to correct.
        """
        Prompt([(x, y)], [label]).check_inside(self.photos.size(self.photos.check(view)))
        event = {"op": "point.add", "x": float(x), "y": float(y), "label": int(label)}
        base = self._mask_to_correct(view)
        self._record(view, [event if base is None else {**event, "base": base}])
        return self.predict(view)

    def move(self, index: int, x: float, y: float, *, view: int = 0) -> Prediction:
        """Move point ``index`` of a view to ``(x, y)``; the prediction for all its prompts."""
        Prompt([(x, y)], [INCLUDE]).check_inside(self.photos.size(self.photos.check(view)))
        self._record(view, [{"op": "point.move", "index": int(index), "x": float(x), "y": float(y)}])
        return self.predict(view)

    def remove(self, index: int, *, view: int = 0) -> Prediction | None:
        """Remove point ``index`` of a view; the prediction for its other prompts, None if there are none."""
        return self._record(self.photos.check(view), [{"op": "point.remove", "index": int(index)}])

    def set_box(self, box: Sequence[float] | None, *, view: int = 0) -> Prediction | None:
        """Set or, with None, remove the box ``(x0, y0, x1, y1)`` of a view; the prediction for all its prompts."""
        size, sides = self.photos.size(self.photos.check(view)), None
        if box is not None:
            sides = Prompt(box=box).check_inside(size).box.tolist()
        return self._record(view, [{"op": "box.set", "box": sides}])

    def set_mask(self, mask: Bool[np.ndarray, "h w"] | None, *, view: int = 0) -> Prediction | None:
        """Set or, with None, remove a mask prompt of photo size; the prediction for all prompts of the view.

        A mask alone is kept unchanged.
        """
        size = self.photos.size(self.photos.check(view))
        if mask is not None:
            Prompt(mask=mask).check_inside(size)
        return self._record(view, [{"op": "mask.set", "mask": mask}])

    def set_prompt(self, prompt: Prompt, *, view: int = 0) -> Prediction:
        """Replace the prompts of a view; the prediction for the new ones. A mask alone is kept unchanged.

        Raises:
            NbHelpersError: no such view, or a prompt that does not fit it.
        """
        size = self.photos.size(self.photos.check(view))
        prompt.check_inside(size)
        events: list[dict] = [] if self.prompts(view).is_empty else [{"op": "clear"}]
        if prompt.box is not None:
            events.append({"op": "box.set", "box": prompt.box.tolist()})
        if prompt.mask is not None:
            mask = prompt.mask
            mask = mask if mask.dtype == np.bool_ else upsample(mask, mask.shape, size) > 0
            events.append({"op": "mask.set", "mask": mask})
        for (x, y), label in zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True):
            events.append({"op": "point.add", "x": x, "y": y, "label": label})
        self._record(view, events)
        return self.predict(view)

    def propose_mask(self, mask: Bool[np.ndarray, "h w"], *, view: int = 0) -> None:
        """Replace the prompts of a view by a proposed mask, for example from a phrase.

        Conflicting prompts of the user take precedence over it.

        Raises:
            NbHelpersError: no such view, or a mask that does not fit it.
        """
        Prompt(mask=mask).check_inside(self.photos.size(self.photos.check(view)))
        events: list[dict] = [] if self.prompts(view).is_empty else [{"op": "clear"}]
        self._record(view, [*events, {"op": "mask.set", "mask": mask, "proposed": True}])

    def confirm(self, view: int) -> Prediction:
        """Make the mask of a view its prompt, which the other views follow.

        Raises:
            NbHelpersError: there is no mask yet.
        """
        mask = self.mask(view)
        if not mask.any():
            raise NbHelpersError("there is no mask to confirm", given=self.photos.names[view], do="solve first")
        return self.set_prompt(Prompt(mask=mask), view=view)

    def clear(self, view: int | None = None) -> None:
        """Remove the prompts of a view, or of all views."""
        for number in self.prompted if view is None else [self.photos.check(view)]:
            self.log.append("clear", object=OBJECT, frame=number)
        self._changed()

    @property
    def can_undo(self) -> bool:
        """Whether there is a prompt to undo."""
        return any(event["op"] != "candidate.set" for event in self.log.events[1 : self.log.cursor])

    @property
    def can_redo(self) -> bool:
        """Whether there is a prompt to redo."""
        return self.log.can_redo

    def undo(self) -> bool:
        """Undo the last prompt; False when there is none."""
        while self.log.cursor > 1 and (event := self.log.undo()) is not None:
            if event["op"] != "candidate.set":  # chosen by `solve`, not by the user
                self._changed()
                return True
        return False

    def redo(self) -> bool:
        """Redo the prompt that was undone last; False when there is none."""
        if self.log.redo() is None:
            return False
        following = self.log.events[self.log.cursor : self.log.cursor + 1]
        if following and following[0]["op"] == "candidate.set":
            self.log.redo()
        self._changed()
        return True

    def mask(self, view: int) -> Bool[np.ndarray, "h w"]:
        """The mask of a view: of its prompts, else of the last `solve`.

        Empty if nothing was found, or without prompts.
        """
        if not self.prompts(view).is_empty:
            return self.predict(view).best
        if self.views is not None and self.prompted:
            return self.views.mask(view)
        return np.zeros(self.photos.size(view), bool)

    def predict(self, view: int) -> Prediction:
        """The prediction for the prompts of a view: one mask.

        Raises:
            NbHelpersError: the view has no prompts.
        """
        prompts = self.prompts(view)
        if prompts.is_empty:
            raise NbHelpersError("there are no prompts in this view", given=self.photos.names[view])
        return self._predict(view, prompts)

    def solve(self, progress: Progress | None = None) -> ViewMasks:
        """Segment the object in all views.

        Raises:
            NbHelpersError: there are no prompts yet.
        """
        views = self._prompted_in_order()
        if not views:
            raise NbHelpersError("there are no prompts yet", do="click the object in one of the views first")
        count = len(self.photos)
        if len(views) == 1 and count > 1:
            self._resolve_click(views[0], progress)
        start = time.monotonic()
        counter = _StepCounter(progress, count + 3 * (count - len(views)))
        prompts = {view: self._view_prompt(view) for view in views}
        propagator = MaskPropagator(self.photos, self.scene, lambda done: counter.step("encoding the photos"))
        counter.done = count
        masks = {view: propagator.prompted_mask(view, prompt.prediction) for view, prompt in prompts.items()}
        followed = PromptConflicts(prompts, masks, propagator).consistent_views()
        found = propagate_masks(propagator, masks, followed, counter.step)
        self.views = dataclasses.replace(found, seconds=time.monotonic() - start)
        self._changed()
        return self.views

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback()`` after every change; returns a function that removes it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def _prompted_in_order(self) -> list[int]:
        """The views that have prompts, in the order of their first prompts."""
        frames = self.log.entries()[OBJECT].frames
        return [view for view, prompts in frames.items() if view is not None and not prompts.is_empty]

    def _view_prompt(self, view: int) -> ViewPrompt:
        """The prompts of a view, for comparison with those of other views."""
        prompts, size = self.prompts(view), self.photos.size(view)
        corrects = None if prompts.base_rle is None else decode_rle(prompts.base_rle)
        if corrects is not None and prompts.labels[0] == INCLUDE:
            column, row = np.clip(np.rint(prompts.points[0]).astype(int), 0, np.array(size[::-1]) - 1)
            if corrects[row, column]:  # the first click is inside: it confirms the mask
                corrects = None
        bounds = None if prompts.mask_rle is None else decode_rle(prompts.mask_rle)
        if prompts.box is not None:
            x0, y0, x1, y1 = prompts.box
            bounds = polygon_mask([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], size)
        sets = [e for e in self.log.events[: self.log.cursor] if e["op"] == "mask.set" and e.get("frame") == view]
        proposed = bool(sets) and sets[-1].get("proposed", False) and not prompts.points and prompts.box is None
        return ViewPrompt(self.predict(view), corrects, bounds, proposed)

    def _resolve_click(self, view: int, progress: Progress | None) -> None:
        """Select one of the hypotheses of a single click, once, and record the selection."""
        prompts = self.prompts(view)
        if prompts.candidate is not None or prompts.base_rle is not None or prompts.strokes:
            return
        prompt = prompts.prompt()
        if prompt is None or not prompt.is_ambiguous:
            return
        counter = _StepCounter(progress, 4 * len(self.photos))
        propagator = MaskPropagator(self.photos, self.scene, lambda done: counter.step("encoding the photos"))
        found = click_hypotheses(propagator, view, prompt)
        if found:
            self.log.append("candidate.set", object=OBJECT, frame=view, index=found[0].candidate)
            self._changed()

    def _record(self, view: int, events: Sequence[dict]) -> Prediction | None:
        """Record events of one view if its prompts can be predicted, all or none."""
        before = self.log.events, self.log.cursor
        try:
            for event in events:
                self.log.append(object=OBJECT, frame=view, **event)
            prompts = self.prompts(view)
            prediction = None if prompts.is_empty else self._predict(view, prompts)
        except BaseException:
            self.log.events, self.log.cursor = before
            raise
        self._changed()
        return prediction

    def _mask_to_correct(self, view: int) -> np.ndarray | None:
        """The mask that a click in a view corrects, if it does not follow from the prompts of the view."""
        prompts = self.prompts(view)
        if not prompts.is_empty:
            return None if prompts.candidate is None else self.predict(view).best
        if self.views is None or not self.views[view].found or not self.prompted:
            return None
        return self.views.mask(view)

    def _predict(self, view: int, prompts: ObjectPrompts) -> Prediction:
        """The prediction for some prompts of a view; the last one of each view is cached."""
        key = view, prompts.digest
        if key not in self._predictions:
            prediction = self._predict_prompts(view, prompts)
            self._predictions = {k: v for k, v in self._predictions.items() if k[0] != view}
            self._predictions[key] = prediction
        return self._predictions[key]

    def _predict_prompts(self, view: int, prompts: ObjectPrompts) -> Prediction:
        """Run the segmenter on some prompts of a view."""
        segmenter, embedding = with_features(self.photos.segmenter), self.photos.embedding(view)
        mask = None if prompts.mask_rle is None else decode_rle(prompts.mask_rle)
        prompt = Prompt(prompts.points, prompts.labels, prompts.box, mask)
        if prompts.candidate is not None and prompt.is_ambiguous:
            chosen = predict_hypothesis(segmenter, embedding, prompt, prompts.candidate)
            if chosen is not None:
                return chosen
        side = mask_side(segmenter, embedding)
        found = None if prompts.base_rle is None else mask_logits(decode_rle(prompts.base_rle), (side, side))
        return predict_prompt(segmenter, embedding, prompt, found)

    def _changed(self) -> None:
        """Call all listeners."""
        for listener in tuple(self._listeners):
            listener()


class _StepCounter:
    """Counts the steps of one call and reports them."""

    def __init__(self, progress: Progress | None, total: int):
        self._progress, self._total, self.done = progress, total, 0

    def step(self, what: str) -> None:
        """Report one more step."""
        self.done += 1
        if self._progress is not None:
            self._progress(self.done, self._total, what)
