"""The steps that a prompt log records, and what each does to what is known about the objects."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from nbhelpers.core.masks import decode_rle
from nbhelpers.core.prompts import Prompt


@dataclass(frozen=True)
class Stroke:
    """One stroke of a round brush over a mask.

    Attributes:
        points: ``((x, y), ...)`` pixels of the frame that the brush's centre went through.
        radius: of the brush, in pixels.
        erase: takes away instead of adding.
    """

    points: tuple[tuple[float, float], ...]
    radius: float
    erase: bool = False


@dataclass(frozen=True)
class ObjectPrompts:
    """What has been said about one object so far, on a picture or on one frame of a clip.

    Attributes:
        points: ``((x, y), ...)`` pixels of the original image.
        labels: one per point; 1 includes, 0 excludes.
        box: ``(x0, y0, x1, y1)`` pixels, or None.
        mask_rle: a mask prompt as COCO RLE ``{"size": [H, W], "counts": str}``, or None.
        candidate: index of the candidate mask that the person chose, or None for the model's own choice.
        strokes: painted over the answer to all the above, in this order.
        base_rle: the mask that a tracker had found on the frame before anything was said there: it is corrected.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask_rle: Mapping[str, Any] | None = None
    candidate: int | None = None
    strokes: tuple[Stroke, ...] = ()
    base_rle: Mapping[str, Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been said."""
        return not self.points and self.box is None and self.mask_rle is None and not self.strokes

    def prompt(self) -> Prompt | None:
        """The question to a model, strokes left out; None when there is none."""
        if not self.points and self.box is None and self.mask_rle is None:
            return None
        corrected = self.base_rle if self.mask_rle is None and self.box is None else self.mask_rle
        return Prompt(self.points, self.labels, self.box, None if corrected is None else decode_rle(corrected))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that change with what was said."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class ObjectEntry:
    """All that a log says about one object.

    Attributes:
        number: a whole number of its own, which stays when it is renamed.
        frames: what was said, by frame; the key is None in the log of a single picture.
        matte: fields of `nbhelpers.core.mattes.MatteSettings`, or None where nothing was set.
    """

    number: int
    frames: dict[int | None, ObjectPrompts] = field(default_factory=dict)
    matte: dict[str, float] | None = None

    def on(self, frame: int | None = None) -> ObjectPrompts:
        """What was said on one frame."""
        return self.frames.get(frame, ObjectPrompts())


def object_name(taken: Collection[str]) -> str:
    """``"object 1"``, ``"object 2"`` ...: a name for one more object.

    Args:
        taken: names of the objects that are there.
    """
    number = len(taken) + 1
    while (name := f"object {number}") in taken:
        number += 1
    return name


def apply(state: dict[str, ObjectEntry], event: Mapping[str, Any], number: int) -> None:
    """Change ``state`` as ``event`` says; ``number`` is that of the event, counted from 1.

    Raises:
        KeyError: no such object or field.
        IndexError: no such point.
        TypeError: a field of another kind.
        ValueError: an unknown operation, a name that is taken, or a value that makes no sense.
    """
    op = event["op"]
    if op == "propagate":  # changes masks, not what was said
        _whole(event["start"]), _whole(event["stop"])
        return
    name = event["object"]
    if op == "object.add":
        state[_free(state, name)] = ObjectEntry(_whole(event.get("number", number)))
        return
    entry = state[name]
    match op:
        case "object.rename":
            new = _free(state, event["to"])
            renamed = {new if key == name else key: value for key, value in state.items()}
            state.clear()
            state.update(renamed)
        case "object.remove":
            del state[name]
        case "matte.set":
            entry.matte = _matte(event["settings"])
        case _:
            frame = event.get("frame")
            said = _said(entry.on(None if frame is None else _whole(frame)), op, event)
            if said.is_empty:
                said = ObjectPrompts(candidate=said.candidate)
            entry.frames[frame] = said


def _said(old: ObjectPrompts, op: str, event: Mapping[str, Any]) -> ObjectPrompts:
    """What has been said on a frame after a step on it."""
    if event.get("base") is not None:
        old = replace(old, base_rle=event["base"])
    match op:
        case "point.add":
            at = (float(event["x"]), float(event["y"]))
            return replace(old, points=(*old.points, at), labels=(*old.labels, int(event["label"])), candidate=None)
        case "point.move":
            points = list(old.points)
            points[_index(event, points)] = (float(event["x"]), float(event["y"]))
            return replace(old, points=tuple(points), candidate=None)
        case "point.remove":
            i = _index(event, old.points)
            points, labels = old.points[:i] + old.points[i + 1 :], old.labels[:i] + old.labels[i + 1 :]
            return replace(old, points=points, labels=labels, candidate=None)
        case "box.set":
            box = event["box"]
            return replace(old, box=None if box is None else tuple(map(float, box)), candidate=None)
        case "mask.set":
            return replace(old, mask_rle=event["mask"], candidate=None)
        case "stroke.add":
            return replace(old, strokes=(*old.strokes, _stroke(event)))
        case "candidate.set":
            return replace(old, candidate=None if event["index"] is None else int(event["index"]))
        case "clear":
            return ObjectPrompts()
        case _:
            raise ValueError(f"unknown operation {op!r}")


def _stroke(event: Mapping[str, Any]) -> Stroke:
    points = tuple((float(x), float(y)) for x, y in event["points"])
    radius = float(event["radius"])
    if not points or not math.isfinite(sum(map(sum, points))):
        raise ValueError("a stroke needs points, all of them finite")
    if not 0 < radius < math.inf:
        raise ValueError(f"the brush has a radius of {radius} pixels")
    return Stroke(points, radius, bool(event.get("erase", False)))


def _matte(settings: Mapping[str, Any] | None) -> dict[str, float] | None:
    from nbhelpers.core.mattes import MatteSettings

    return None if settings is None else asdict(MatteSettings(**settings))


def _free(state: Mapping[str, ObjectEntry], name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ValueError("the name is empty")
    if name in state:
        raise ValueError(f"an object named {name!r} exists already")
    return name


def _whole(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{number!r} is no frame")
    return number


def _index(event: Mapping[str, Any], points: Any) -> int:
    index = int(event["index"])
    if not 0 <= index < len(points):
        raise IndexError(f"point {index} of {len(points)}")
    return index
