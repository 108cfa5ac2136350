"""Interactive segmentation of one photo: the session behind the click widget.

`ClickSession` holds the prompts and the predicted masks. It does not depend on a browser or a widget: every action of
the widget is one method call.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.prompts import INCLUDE, ObjectPrompts, Prompt, PromptLog, object_name
from nbhelpers.export.masks import check_formats, save_masks
from nbhelpers.models.protocols import Detector, Segmenter
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.models.whole import choose_whole, detect_objects, use_detector

FORMATS = ("masks", "cutouts", "coco", "prompts")
"""Formats of `ClickSession.export`."""
CACHE_SIZE = 64  # predictions
SMALL_AREA = 8  # cells of 256 x 256 logits, as SAM 2 fills in videos (fill_hole_area, sam2/build_sam.py)


class ClickSession:
    """Point, box and mask prompts on one photo, for several named objects, with undo.

    Example:
        >>> session = ClickSession("cat.jpg")
        >>> session.click(320, 200)                    # include
        >>> session.click(40, 30, label=0)             # exclude
        >>> session.mask().shape
        (480, 640)
        >>> session.undo()
        True
        >>> session.save("outputs/cat.prompts.json")   # ClickSession.open(...) gives the identical masks

    Masks are a pure function of the current prompts, so undo, redo and a reopened log reproduce them exactly. The photo
    is encoded at the first prompt, or earlier by `encode`.

    Args:
        image: the path of an image file, ``(H, W, 3) uint8`` RGB, or anything else that `load_image` reads.
        segmenter: predicts the masks; by default from `nbhelpers.load`.
        name: of the photo in the log and in file names; by default the stem of the path.
        log: a prompt log to continue, see `open`.
        detector: finds whole objects, one of which a single click is taken for rather than for a part. True: from
            `nbhelpers.load`, as by default where ``segmenter`` is. False: a click is what the model recommends.
        max_hole_area: maximum area of holes that are filled, in cells of the segmenter's logits; see
            `Prediction.cleaned`. 0 keeps masks as predicted.
        max_sprinkle_area: maximum area of separate components that are removed, likewise.

    Raises:
        NbHelpersError: an unreadable image, or a log of another image or another model.
    """

    def __init__(
        self,
        image: Any,
        segmenter: Segmenter | None = None,
        *,
        name: str | None = None,
        log: PromptLog | None = None,
        detector: Detector | bool | None = None,
        max_hole_area: float = SMALL_AREA,
        max_sprinkle_area: float = SMALL_AREA,
    ):
        self.file_name = Path(image).name if isinstance(image, (str, Path)) else None
        if self.file_name is not None:
            name = name or Path(image).stem
        self.image = load_image(image)
        self.name = name or "image"
        from nbhelpers.models.load import load

        if detector is None:
            detector = segmenter is None and log is None
        if segmenter is None:
            segmenter = load("segmenter", log.model if log else None)
        self.segmenter, self.detector = segmenter, use_detector(detector)
        self.max_hole_area, self.max_sprinkle_area = max_hole_area, max_sprinkle_area
        about = {"name": self.name, "size": list(self.size), "sha256": hashlib.sha256(self.image).hexdigest()}
        if log is None:
            self.log = PromptLog(about, segmenter.name)
            self.log.append("object.add", object=object_name(()))
        else:
            self.log = log
            if log.image.get("sha256") != about["sha256"]:
                raise NbHelpersError(
                    "the prompt log belongs to another image",
                    given=f"{self.name}, {self.size[1]} x {self.size[0]} pixels",
                    expected=f"{log.image.get('name')}, {log.image.get('size', ['?', '?'])[::-1]}, same pixels",
                )
            if log.model != segmenter.name:
                raise NbHelpersError(
                    "the prompt log was recorded with another model, whose masks differ",
                    given=segmenter.name,
                    expected=log.model,
                    do=f'nbhelpers.load("segmenter", "{log.model}")',
                )
        self._floor = 1  # the first object cannot be undone
        self._active = next(iter(self.log.objects()), None)
        self._embedding: Embedding | None = None
        self._boxes: Float[np.ndarray, "n 4"] = np.empty((0, 4))
        self._predictions: dict[tuple, Prediction] = {}
        self._listeners: list[Callable[[], object]] = []
        self.seconds: float | None = None
        """Seconds of the segmenter's last prediction."""

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the photo."""
        return self.image.shape[:2]

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects, in order of creation."""
        return tuple(self.log.objects())

    @property
    def active(self) -> str:
        """The object to which prompts are added."""
        names = self.objects
        return self._active if self._active in names else names[-1]

    def prompts(self, name: str | None = None) -> ObjectPrompts:
        """Points, labels, box and selected candidate of an object (by default the active one)."""
        objects = self.log.objects()
        if (name := self.active if name is None else name) not in objects:
            raise NbHelpersError("there is no such object", given=name, expected=f"one of {', '.join(objects)}")
        return objects[name]

    def prediction(self, name: str | None = None) -> Prediction | None:
        """The candidate masks for an object's prompts; None before the first prompt."""
        return self._predict_prompts(self.prompts(name))

    def candidate(self, name: str | None = None) -> int | None:
        """Index of the selected candidate: the user's choice, else the one that agrees best with the points."""
        prediction = self.prediction(name)
        return None if prediction is None else _candidate(prediction, self.prompts(name))

    def mask(self, name: str | None = None) -> Bool[np.ndarray, "h w"]:
        """The mask of an object at photo size; empty before the first prompt."""
        prediction = self.prediction(name)
        if prediction is None:
            return np.zeros(self.size, bool)
        return prediction.mask(_candidate(prediction, self.prompts(name)))

    def masks(self) -> dict[str, Bool[np.ndarray, "h w"]]:
        """The masks of all objects that have a prompt, by name."""
        return {name: self.mask(name) for name in self.objects if not self.prompts(name).is_empty}

    def encode(self) -> Embedding:
        """The embedding of the photo, computed once; the detector looks for objects at the same time."""
        if self._embedding is None:
            self._embedding = self.segmenter.encode(self.image)
            if self.detector is not None:
                self._boxes = detect_objects(self.detector, self.image)
        return self._embedding

    def click(self, x: float, y: float, label: int = INCLUDE, *, name: str | None = None) -> Prediction:
        """Add a point (label 1 includes, 0 excludes) in pixels of the photo and return the new prediction.

        With a detector, and after another candidate than the model's was chosen, a click corrects the mask so far: its
        logits are given back to the segmenter.
        """
        prompts = self.prompts(name)
        what = self._whole(x, y, label == INCLUDE and prompts.is_empty)
        chosen = self.detector is not None or prompts.candidate is not None or prompts.before is not None
        if chosen and prompts.points and prompts.box is None and prompts.mask_rle is None:
            what["corrects"] = True
        prediction = self._do("point.add", name, x=float(x), y=float(y), label=int(label), **what)
        assert prediction is not None  # there is a point
        return prediction

    def move(self, index: int, x: float, y: float, *, name: str | None = None) -> Prediction:
        """Move point ``index`` of an object to ``(x, y)``."""
        prompts = self.prompts(name)
        alone = prompts.labels == (INCLUDE,) and prompts.box is None and prompts.mask_rle is None
        what = self._whole(x, y, alone)
        prediction = self._do("point.move", name, index=int(index), x=float(x), y=float(y), **what)
        assert prediction is not None  # there is a point
        return prediction

    def remove(self, index: int, *, name: str | None = None) -> Prediction | None:
        """Remove point ``index`` of an object."""
        return self._do("point.remove", name, index=int(index))

    def set_box(self, box: Sequence[float] | None, *, name: str | None = None) -> Prediction | None:
        """Set the box ``(x0, y0, x1, y1)`` of an object, or remove it with None."""
        return self._do("box.set", name, box=None if box is None else [float(side) for side in box])

    def set_mask(self, mask: Bool[np.ndarray, "h w"] | None, *, name: str | None = None) -> Prediction | None:
        """Set the mask prompt of an object, at photo size, or remove it with None."""
        return self._do("mask.set", name, mask=mask)

    def choose_candidate(self, index: int, *, name: str | None = None) -> None:
        """Use candidate ``index`` (0 to 3) instead of the model's choice."""
        prediction = self.prediction(name)
        if prediction is None or not 0 <= index < len(prediction):
            raise NbHelpersError(
                "there is no such candidate mask",
                given=index,
                expected="a prompt first" if prediction is None else f"0 to {len(prediction) - 1}",
            )
        self._do("candidate.set", name, index=int(index))

    def next_candidate(self, *, name: str | None = None) -> int:
        """Select the next candidate mask, cyclically; return its index."""
        prediction, current = self._predicted(name)
        index = (current + 1) % len(prediction)
        self.choose_candidate(index, name=name)
        return index

    def clear(self, *, name: str | None = None) -> None:
        """Remove all prompts of an object."""
        self._do("clear", name)

    def add_object(self, name: str | None = None) -> str:
        """Add an object, make it the active one, and return its name."""
        name = object_name(self.objects) if name is None else name
        self.log.append("object.add", object=name)
        self._active = name
        self._changed()
        return name

    def rename_object(self, old: str, new: str) -> None:
        """Rename an object."""
        self.log.append("object.rename", object=old, to=new)
        self._active = new if self._active == old else self._active
        self._changed()

    def remove_object(self, name: str) -> None:
        """Remove an object and its prompts; the last object cannot be removed."""
        if len(self.objects) == 1:
            raise NbHelpersError("the last object cannot be removed", given=name, do="clear() removes its prompts")
        self.log.append("object.remove", object=name)
        self._changed()

    def seal(self) -> None:
        """Make the steps so far permanent: `undo` stops here."""
        self._floor = self.log.cursor

    def select(self, name: str) -> None:
        """Make an object the active one."""
        self.prompts(name)
        self._active = name
        self._changed()

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return self.log.cursor > self._floor

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        return self.log.can_redo

    def undo(self) -> bool:
        """Undo the last step; False if there is none."""
        return self.can_undo and self._moved(self.log.undo())

    def redo(self) -> bool:
        """Redo the last undone step; False if there is none."""
        return self._moved(self.log.redo())

    def save(self, path: str | Path) -> Path:
        """Write the prompt log as JSON and return its path."""
        return self.log.save(path)

    def export(self, folder: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write masks and cut-outs (PNG), one COCO file and the prompt log; return their paths. See `save_masks`.

        If results of another photo have the same name, a number is appended.

        Args:
            folder: created if it is missing.
            formats: some of `FORMATS`; the COCO file is always written.

        Raises:
            NbHelpersError: nothing has been segmented yet, an unknown format, or the folder cannot be written.
        """
        check_formats(formats, FORMATS)
        masks = self.masks()
        if not masks:
            raise NbHelpersError("there is no mask to save yet", do="click on the photo first")
        chosen = {name: self._predicted(name) for name in masks}
        scores = {name: float(prediction.scores[index]) for name, (prediction, index) in chosen.items()}
        paths = save_masks(folder, self.name, self.image, masks, scores, self.file_name, formats)
        if "prompts" in formats:
            stem = paths[-1].name.removesuffix(".coco.json")
            paths.append(self.save(paths[-1].with_name(f"{stem}.prompts.json")))
        return paths

    @classmethod
    def open(cls, path: str | Path, image: Any, segmenter: Segmenter | None = None) -> ClickSession:
        """Open a saved prompt log: same prompts, same undo history, identical masks.

        Raises:
            NbHelpersError: an unreadable or newer log, another image, another model.
        """
        log = PromptLog.open(path)
        return cls(image, segmenter, name=log.image.get("name"), log=log)

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback()`` after every step; returns a function that stops it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def _whole(self, x: float, y: float, alone: bool) -> dict[str, Any]:
        """For a click without other prompts, the candidate mask of the whole object there, as a field of the log."""
        height, width = self.size
        if self.detector is None or not alone or not (0 <= x < width and 0 <= y < height):
            return {}
        embedding, prediction = self.encode(), self._predict(Prompt([(x, y)]))
        chosen = choose_whole(self.segmenter, embedding, (x, y), prediction, self._boxes)
        return {} if chosen == prediction.choice else {"candidate": chosen}

    def _do(self, op: str, name: str | None, **what) -> Prediction | None:
        """Record a step, predict, notify listeners; a step that fails changes nothing."""
        self.prompts(name := self.active if name is None else name)
        before = self.log.events, self.log.cursor
        self.log.append(op, object=name, **what)
        try:
            prompts = self.log.objects()[name]
            prompt = prompts.prompt()
            if prompt is not None:
                prompt.check_inside(self.size)
            prediction = self._predict_prompts(prompts)
        except BaseException:
            self.log.events, self.log.cursor = before
            raise
        self._active = name
        self._changed()
        return prediction

    def _predicted(self, name: str | None) -> tuple[Prediction, int]:
        """The candidate masks of an object, and the index of the selected one; an error before the first prompt."""
        prediction = self.prediction(name)
        if prediction is None:
            raise NbHelpersError("there is no candidate mask yet", do="click on the photo first")
        return prediction, _candidate(prediction, self.prompts(name))

    def _predict_prompts(self, prompts: ObjectPrompts) -> Prediction | None:
        """The candidate masks of prompts, given the logits of the mask that they correct; None without prompts."""
        prompt = prompts.prompt()
        if prompt is None:
            return None
        if prompts.before is not None and (before := self._predict_prompts(prompts.before)) is not None:
            prompt = Prompt(prompt.points, prompt.labels, mask=before.logits[_candidate(before, prompts.before)])
        return self._predict(prompt)

    def _predict(self, prompt: Prompt) -> Prediction:
        mask = None if prompt.mask is None else hashlib.sha256(prompt.mask.tobytes()).digest()
        box = None if prompt.box is None else prompt.box.tobytes()
        key = (prompt.points.tobytes(), prompt.labels.tobytes(), box, mask)
        if key not in self._predictions:
            embedding = self.encode()
            started = time.perf_counter()
            prediction = self.segmenter.predict(embedding, prompt).cleaned(self.max_hole_area, self.max_sprinkle_area)
            self.seconds = time.perf_counter() - started
            while len(self._predictions) >= CACHE_SIZE:
                del self._predictions[next(iter(self._predictions))]
            self._predictions[key] = prediction
        return self._predictions[key]

    def _moved(self, event: dict | None) -> bool:
        if event is None:
            return False
        for name in (event.get("to"), event["object"]):
            if name in self.objects:
                self._active = name
        self._changed()
        return True

    def _changed(self) -> None:
        for listener in tuple(self._listeners):
            listener()


def _candidate(prediction: Prediction, prompts: ObjectPrompts) -> int:
    """Index of the candidate of prompts: the chosen one, else the one that agrees best with the points."""
    return prediction.agreeing(prompts.points, prompts.labels) if prompts.candidate is None else prompts.candidate
