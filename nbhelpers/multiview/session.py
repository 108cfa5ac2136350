"""Say what the object is in any photo, see it in all: the session behind the notebook and the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import decode_rle, mask_logits, polygon_mask, upsample
from nbhelpers.core.promptevents import ObjectPrompts
from nbhelpers.core.promptlog import PromptLog
from nbhelpers.core.prompts import INCLUDE, Prompt
from nbhelpers.core.scenes import Scene
from nbhelpers.models.label_propagation.decoding import mask_side, predict_prompt
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Prediction
from nbhelpers.multiview.values import Views
from nbhelpers.multiview.views import Photos

if TYPE_CHECKING:
    from nbhelpers.multiview.accord import Claim

OBJECT = "object 1"
Progress = Callable[[int, int, str], None]
"""Called with how many steps are done, how many there are, and what is being done."""


class ViewsSession:
    """One object in all photos of a scene, from prompts in some of them.

    Example:
        >>> session = ViewsSession(["a.jpg", "b.jpg", "c.jpg"], scene)
        >>> session.click(0, 320, 200)                        # in the first photo; answers its mask there
        >>> views = session.solve()
        >>> session.click(views.worst, 300, 190, label=0)     # a correction, which all views follow
        >>> views = session.solve()

    Prompted views keep the mask that their prompts mean; a click in a view that was found already corrects the mask
    that was found there. Where prompts of two views contradict each other, only one of them is followed by the other
    views; see `nbhelpers.multiview.accord`. All that is said is in `log`, and a session on the same photos with that
    log gives the same masks.

    Args:
        images: files or RGB arrays of any sizes, a folder, a glob, or `Photos` that other sessions share.
        scene: cameras and points of the same photos in the same order; without one, features alone are used.
        segmenter: a SAM 2; `nbhelpers.load` picks one when left out.
        names: one a photo.
        log: what was said in an earlier session on these photos.

    Attributes:
        photos: see `Photos`.
        scene: as given.
        log: the `nbhelpers.core.promptlog.PromptLog`; a view is a ``frame``.
        views: what the last `solve` found; None before.

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
                "the scene is of other photos",
                given=f"{len(scene)} views, {len(self.photos)} photos",
                expected="one view a photo, in the same order",
            )
        self.scene, self.views = scene, None
        head = {"name": self.photos.names[0], "size": list(self.photos.size(0)), "frames": len(self.photos)}
        if log is not None and log.image.get("frames") != len(self.photos):
            raise NbHelpersError(
                "the log is of other photos", given=f"{log.image.get('frames')} views", expected=f"{len(self.photos)}"
            )
        self.log = PromptLog(head, self.photos.segmenter.name) if log is None else log
        if OBJECT not in self.log.entries():
            self.log.append("object.add", object=OBJECT)
        self._answers: dict[tuple[int, str], Prediction] = {}
        self._listeners: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self.photos)

    def image(self, view: int) -> UInt8[np.ndarray, "h w 3"]:
        """A photo as RGB."""
        return self.photos.image(view)

    def said(self, view: int) -> ObjectPrompts:
        """What was said in a view."""
        return self.log.objects(self.photos.check(view))[OBJECT]

    @property
    def prompted(self) -> tuple[int, ...]:
        """The views in which something was said."""
        frames = self.log.entries()[OBJECT].frames
        return tuple(sorted(view for view, said in frames.items() if view is not None and not said.is_empty))

    def click(self, view: int, x: float, y: float, label: int = INCLUDE) -> Bool[np.ndarray, "h w"]:
        """Click in a view, in addition to what was said there; the mask that is meant now.

        Args:
            view: number of the photo.
            x: pixels from the left.
            y: pixels from the top.
            label: 1 where the object is, 0 where it is not.

        Raises:
            NbHelpersError: no such view, a point outside it, or only excluding points where nothing was found.
        """
        Prompt([(x, y)], [label]).check_inside(self.photos.size(self.photos.check(view)))
        event = {"op": "point.add", "x": float(x), "y": float(y), "label": int(label)}
        base = self._to_correct(view)
        return self._say(view, [event if base is None else {**event, "base": base}])

    def prompt(self, view: int, prompt: Prompt) -> Bool[np.ndarray, "h w"]:
        """Say what the object is in a view, in place of what was said there; the mask that is meant.

        A mask alone is taken as it is.

        Raises:
            NbHelpersError: no such view, or a prompt that does not fit it.
        """
        size = self.photos.size(self.photos.check(view))
        prompt.check_inside(size)
        events: list[dict] = [] if self.said(view).is_empty else [{"op": "clear"}]
        if prompt.box is not None:
            events.append({"op": "box.set", "box": prompt.box.tolist()})
        if prompt.mask is not None:
            mask = prompt.mask
            mask = mask if mask.dtype == np.bool_ else upsample(mask, mask.shape, size) > 0
            events.append({"op": "mask.set", "mask": mask})
        for (x, y), label in zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True):
            events.append({"op": "point.add", "x": x, "y": y, "label": label})
        return self._say(view, events)

    def propose(self, view: int, mask: Bool[np.ndarray, "h w"]) -> None:
        """Begin with a mask that was found otherwise, for example by a phrase; what a person says counts more.

        Raises:
            NbHelpersError: no such view, or a mask that does not fit it.
        """
        Prompt(mask=mask).check_inside(self.photos.size(self.photos.check(view)))
        events: list[dict] = [] if self.said(view).is_empty else [{"op": "clear"}]
        self._say(view, [*events, {"op": "mask.set", "mask": mask, "proposed": True}])

    def confirm(self, view: int) -> Bool[np.ndarray, "h w"]:
        """Say that the mask of a view is right as it is: all other views are found from it too.

        Raises:
            NbHelpersError: there is no mask yet.
        """
        mask = self.mask(view)
        if not mask.any():
            raise NbHelpersError("there is no mask to confirm", given=self.photos.names[view], do="solve first")
        return self.prompt(view, Prompt(mask=mask))

    def clear(self, view: int | None = None) -> None:
        """Forget what was said in a view, or in all of them."""
        for number in self.prompted if view is None else [self.photos.check(view)]:
            self.log.append("clear", object=OBJECT, frame=number)
        self._changed()

    def undo(self) -> bool:
        """Take the last thing back that was said; False when there is none."""
        while self.log.cursor > 1:
            if self.log.undo()["op"] != "candidate.set":  # how a click was read was not said by the person
                self._changed()
                return True
        return False

    def redo(self) -> bool:
        """Say again what was taken back; False when there is none."""
        if self.log.redo() is None:
            return False
        following = self.log.events[self.log.cursor : self.log.cursor + 1]
        if following and following[0]["op"] == "candidate.set":
            self.log.redo()
        self._changed()
        return True

    def mask(self, view: int) -> Bool[np.ndarray, "h w"]:
        """The mask in a view: what its prompts mean, else what was found by the last `solve`.

        Empty where nothing was found, or nothing is said any more.
        """
        if not self.said(view).is_empty:
            return self.answer(view).best
        if self.views is not None and self.prompted:
            return self.views.mask(view)
        return np.zeros(self.photos.size(view), bool)

    def answer(self, view: int) -> Prediction:
        """The one mask that the prompts of a view mean.

        Raises:
            NbHelpersError: nothing was said there.
        """
        said = self.said(view)
        if said.is_empty:
            raise NbHelpersError("nothing was said in this view", given=self.photos.names[view])
        return self._answer(view, said)

    def solve(self, progress: Progress | None = None) -> Views:
        """Find the object in all views.

        Raises:
            NbHelpersError: nothing was said yet.
        """
        from nbhelpers.multiview.rounds import solve

        if len(self.prompted) == 1 and len(self.photos) > 1:
            self._read_click(self.prompted[0], progress)
        frames = self.log.entries()[OBJECT].frames  # in the order in which they were prompted
        claims = {view: self._claim(view) for view, said in frames.items() if view is not None and not said.is_empty}
        if not claims:
            raise NbHelpersError("nothing was said yet", do="click the object in one of the views first")
        self.views = solve(self.photos, claims, self.scene, progress)
        self._changed()
        return self.views

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener()`` after every change; returns a function that stops it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def _claim(self, view: int) -> Claim:
        """What was said in a view, as it is compared with what was said in others."""
        from nbhelpers.multiview.accord import Claim

        said, size = self.said(view), self.photos.size(view)
        corrects = None if said.base_rle is None else decode_rle(said.base_rle)
        if corrects is not None and said.labels[0] == INCLUDE:
            column, row = np.clip(np.rint(said.points[0]).astype(int), 0, np.array(size[::-1]) - 1)
            if corrects[row, column]:  # the first click is on it: it is what that click means
                corrects = None
        bounds = None if said.mask_rle is None else decode_rle(said.mask_rle)
        if said.box is not None:
            x0, y0, x1, y1 = said.box
            bounds = polygon_mask([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], size)
        sets = [e for e in self.log.events[: self.log.cursor] if e["op"] == "mask.set" and e.get("frame") == view]
        proposed = bool(sets) and sets[-1].get("proposed", False) and not said.points and said.box is None
        return Claim(self.answer(view), corrects, bounds, proposed)

    def _read_click(self, view: int, progress: Progress | None) -> None:
        """Choose among the readings of a lone click, once, and record the choice."""
        from nbhelpers.multiview.order import survey, with_scene
        from nbhelpers.multiview.propagate import Finder
        from nbhelpers.multiview.readings import readings

        said = self.said(view)
        if said.candidate is not None or said.base_rle is not None or said.strokes:
            return
        prompt = said.prompt()
        if prompt is None or not prompt.is_ambiguous:
            return
        count = len(self.photos)
        report = progress or (lambda done, steps, what: None)
        seen = survey(self.photos, lambda done: report(done, 4 * count, "reading the photos"))
        found = readings(Finder(self.photos, seen), view, prompt, with_scene(seen.likeness, self.scene))
        if found:
            self.log.append("candidate.set", object=OBJECT, frame=view, index=found[0].candidate)
            self._changed()

    def _say(self, view: int, events: Sequence[dict]) -> np.ndarray:
        """Record events of one view if their answer can be had, all or none."""
        trial = PromptLog(self.log.image, self.log.model, self.log.events[: self.log.cursor])
        for event in events:
            trial.append(object=OBJECT, frame=view, **event)
        answered = self._answer(view, trial.objects(view)[OBJECT])
        self.log.events, self.log.cursor = trial.events, trial.cursor
        self._changed()
        return answered.best

    def _to_correct(self, view: int) -> np.ndarray | None:
        """The mask that a click in a view would correct, where the click and what was said there do not tell it."""
        said = self.said(view)
        if not said.is_empty:
            return None if said.candidate is None else self.answer(view).best
        found = self.views is not None and self.views[view].found and bool(self.prompted)
        return self.views.mask(view) if found else None

    def _answer(self, view: int, said: ObjectPrompts) -> Prediction:
        key = view, said.digest
        if key not in self._answers:
            self._answers = {k: v for k, v in self._answers.items() if k[0] != view}
            self._answers[key] = self._ask(view, said)
        return self._answers[key]

    def _ask(self, view: int, said: ObjectPrompts) -> Prediction:
        from nbhelpers.multiview.readings import read

        segmenter, embedding = self.photos.segmenter, self.photos.embedding(view)
        mask = None if said.mask_rle is None else decode_rle(said.mask_rle)
        prompt = Prompt(said.points, said.labels, said.box, mask)
        if said.candidate is not None and prompt.is_ambiguous:
            chosen = read(segmenter, embedding, prompt, said.candidate)
            if chosen is not None:
                return chosen
        side = mask_side(segmenter, embedding)
        found = None if said.base_rle is None else mask_logits(decode_rle(said.base_rle), (side, side))
        return predict_prompt(segmenter, embedding, prompt, found)

    def _changed(self) -> None:
        for listener in tuple(self._listeners):
            listener()
