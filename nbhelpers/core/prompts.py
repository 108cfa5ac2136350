"""One question to a segmenter, as a value that is checked when it is made; and the log of all of them.

The log holds everything a person did to a picture or a clip, in order, as versioned JSON. The prompts of each object
are a pure function of the log, and masks are a pure function of the prompts: a log that is reopened tomorrow, on the
same model, gives the same masks. Undo moves a cursor and forgets nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text

INCLUDE, EXCLUDE = 1, 0
FORMAT = "nbhelpers.prompt-log"
VERSION = 1
PARTS = {"image": dict, "model": str, "events": list, "cursor": int}


@dataclass(frozen=True, eq=False)
class Prompt:
    """Points, a box, a mask, or several of them at once, in pixels of the original image.

    Example:
        >>> Prompt(points=[(320, 200), (40, 30)], labels=[1, 0]).points.shape
        (2, 2)

    Attributes:
        points: ``(n, 2) float32``, ``(x, y)`` in pixels; ``(0, 0)`` is the centre of the top-left pixel.
        labels: ``(n,) int32``; 1 includes, 0 excludes. Left out: all 1.
        box: ``(4,) float32`` ``(x0, y0, x1, y1)`` pixels with ``x0 < x1`` and ``y0 < y1``, or None.
        mask: ``(H, W) bool`` in image size, or ``(h, w) float32`` logits as a `Prediction` holds them.

    Raises:
        NbHelpersError: nothing given, unequal lengths, a label other than 0 and 1, a value that is not finite,
            or an empty box.
    """

    points: Any = ()
    labels: Any = None
    box: Any = None
    mask: Any = None

    def __post_init__(self):
        points = _floats(self.points, "points", (-1, 2))
        labels = np.ones(len(points), np.int32) if self.labels is None else np.asarray(self.labels).reshape(-1)
        if len(labels) != len(points):
            raise NbHelpersError(
                "points and labels differ in number",
                given=f"{len(points)} points, {len(labels)} labels",
                expected="one label for each point (1 = include, 0 = exclude)",
            )
        if not np.isin(labels, (INCLUDE, EXCLUDE)).all():
            raise NbHelpersError(
                "a label is neither 1 nor 0", given=labels.tolist(), expected="1 = include, 0 = exclude"
            )
        box = None if self.box is None else _floats(self.box, "box", (4,))
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise NbHelpersError(
                "the box is empty", given=box.tolist(), expected="(x0, y0, x1, y1) with x0 < x1 and y0 < y1"
            )
        mask = None if self.mask is None else np.asarray(self.mask)
        if mask is not None and (mask.ndim != 2 or mask.dtype not in (np.bool_, np.float32)):
            raise NbHelpersError(
                "the mask prompt has the wrong form",
                given=f"shape {mask.shape}, {mask.dtype}",
                expected="(H, W) bool in image size, or (h, w) float32 logits",
            )
        if mask is not None and mask.dtype == np.float32 and not np.isfinite(mask).all():
            raise NbHelpersError("the mask prompt holds values that are not finite")
        if not len(points) and box is None and mask is None:
            raise NbHelpersError("the prompt is empty", expected="at least one point, a box or a mask")
        for name, value in (
            ("points", points),
            ("labels", labels.astype(np.int32)),
            ("box", box),
            ("mask", mask),
        ):
            if value is not None and name != "mask":
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    @property
    def is_ambiguous(self) -> bool:
        """Whether it is a single including click, which fits a part as well as the whole."""
        return self.labels.tolist() == [INCLUDE] and self.box is None and self.mask is None

    def check_inside(self, size: tuple[int, int]) -> Prompt:
        """Return the prompt itself if it lies in an image of ``size`` ``(H, W)``.

        Raises:
            NbHelpersError: a point outside, a box that does not touch the image, a mask of another size.
        """
        height, width = size
        outside = [
            p.tolist() for p in self.points if not (-0.5 <= p[0] <= width - 0.5 and -0.5 <= p[1] <= height - 0.5)
        ]
        if outside:
            raise NbHelpersError(
                "a point lies outside the image",
                given=outside[0],
                expected=f"0 <= x <= {width - 1} and 0 <= y <= {height - 1}",
                do="give pixels of the original image, x first",
            )
        if self.box is not None and not (
            self.box[0] < width and self.box[1] < height and self.box[2] > 0 and self.box[3] > 0
        ):
            raise NbHelpersError(
                "the box lies outside the image",
                given=self.box.tolist(),
                expected=f"inside {width} x {height}",
            )
        if self.mask is not None and self.mask.dtype == np.bool_ and self.mask.shape != (height, width):
            raise NbHelpersError(
                "the mask prompt has another size than the image",
                given=self.mask.shape,
                expected=str((height, width)),
            )
        return self


def _floats(value, name: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.array(value, np.float32).reshape(shape)
    except (TypeError, ValueError):
        raise NbHelpersError(
            f"{name} cannot be read",
            given=repr(value),
            expected="(n, 2) numbers (x, y)" if name == "points" else "four numbers (x0, y0, x1, y1)",
        ) from None
    if not np.isfinite(array).all():
        raise NbHelpersError(f"{name} holds a value that is not finite", given=array.tolist())
    return array


def parse_point(text: str, place: str = "") -> tuple[int | None, float, float, int]:
    """A point of the command line: ``"320,200"`` or ``"320,200,0"``, and ``"3:320,200"`` where a place may be named.

    Args:
        text: of the option ``--point``.
        place: what a number before a colon means, ``"FRAME"`` or ``"VIEW"``; empty where none may be given.

    Returns:
        The place (None if none is given), x and y in pixels, and the label, 1 to include or 0 to exclude.

    Raises:
        NbHelpersError: the text has another form.
    """
    number, colon, rest = text.rpartition(":")
    try:
        x, y, *label = (float(part) for part in rest.split(","))
        if (colon and not place) or label not in ([], [0], [1]):
            raise ValueError
        return (int(number) if colon else None), x, y, int(label[0]) if label else 1
    except ValueError as error:
        forms = "x,y or x,y,0" + (f" or {place}:x,y" if place else "")
        raise NbHelpersError("--point cannot be read", given=text, expected=forms) from error


@dataclass(frozen=True)
class Stroke:
    """One stroke of a round brush over a mask.

    Attributes:
        points: ``((x, y), ...)`` pixels of the frame that the brush's centre went through.
        radius: of the brush, in pixels.
        erase: subtract instead of adding.
    """

    points: tuple[tuple[float, float], ...]
    radius: float
    erase: bool = False


@dataclass(frozen=True)
class ObjectPrompts:
    """The prompts of one object on a picture, or on one frame of a clip.

    Attributes:
        points: ``((x, y), ...)`` pixels of the original image.
        labels: one per point; 1 includes, 0 excludes.
        box: ``(x0, y0, x1, y1)`` pixels, or None.
        mask_rle: a mask prompt as COCO RLE ``{"size": [H, W], "counts": str}``, or None.
        candidate: index of the candidate mask that the user or the session chose, or None for the model's own choice.
        strokes: painted over the prediction for all the above, in this order.
        base_rle: the mask that was tracked to the frame before it had prompts, and which they correct.
        before: the prompts without the last point, if it corrects their mask.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask_rle: Mapping[str, Any] | None = None
    candidate: int | None = None
    strokes: tuple[Stroke, ...] = ()
    base_rle: Mapping[str, Any] | None = None
    before: ObjectPrompts | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there are no prompts."""
        return not self.points and self.box is None and self.mask_rle is None and not self.strokes

    def prompt(self) -> Prompt | None:
        """The prompt for a model, strokes left out; None when there is none."""
        if not self.points and self.box is None and self.mask_rle is None:
            return None
        from nbhelpers.core.masks import decode_rle

        corrected = self.base_rle if self.mask_rle is None and self.box is None else self.mask_rle
        return Prompt(self.points, self.labels, self.box, None if corrected is None else decode_rle(corrected))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that change with the prompts."""
        fields = {name: value for name, value in asdict(self).items() if name != "before" or value is not None}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ObjectEntry:
    """What a log holds on one object.

    Attributes:
        number: identifies the object; it stays when the object is renamed.
        frames: the prompts by frame; the key is None in the log of a single picture.
        matte: fields of `nbhelpers.core.mattes.MatteSettings`, or None where nothing was set.
    """

    number: int
    frames: Mapping[int | None, ObjectPrompts] = field(default_factory=dict)
    matte: Mapping[str, Any] | None = None

    def on(self, frame: int | None = None) -> ObjectPrompts:
        """The prompts on one frame."""
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


class PromptLog:
    """An append-only list of events with an undo cursor, per picture or clip.

    Example:
        >>> log = PromptLog(image={"name": "cat.jpg", "size": [480, 640]}, model="sam2-hiera-tiny-lite")
        >>> log.append("object.add", object="cat")
        >>> log.append("point.add", object="cat", x=320.0, y=200.0, label=1)
        >>> log.objects()["cat"].points
        ((320.0, 200.0),)

    Args:
        image: what the log belongs to: ``name``, ``size`` ``[H, W]`` and, where known, ``sha256`` of the pixels; of
            a clip its ``frames`` and ``signature``.
        model: catalog name of the segmenter or tracker that made the predictions.
        events: events so far, as written by `save`.
        cursor: how many of them are in force; the rest can be redone.

    Attributes:
        events: all events. Assign a new list to replace them; a list in use is never changed in place.
        cursor: how many of them are in force.
    """

    def __init__(
        self,
        image: Mapping[str, Any],
        model: str,
        events: list[Any] | None = None,
        cursor: int | None = None,
    ):
        self.image, self.model = dict(image), model
        self.events: list[dict] = list(events or [])
        _replay(self.events)  # all of them, also those that were undone
        self._state: tuple[list[dict], int, dict[str, ObjectEntry]] | None = None
        self.cursor = len(self.events) if cursor is None else cursor
        if not 0 <= self.cursor <= len(self.events):
            raise NbHelpersError(
                "the cursor of the prompt log is out of range",
                given=cursor,
                expected=f"0 to {len(self.events)}",
            )

    def append(self, op: str, **what: Any) -> None:
        """Record one event; what had been undone is dropped.

        Args:
            op: ``object.add``, ``object.rename`` (``to``), ``object.remove``, ``point.add`` (``x, y, label``;
                ``candidate``, where it is not the model's; ``corrects``: whether it corrects the mask so far),
                ``point.move`` (``index, x, y, candidate``), ``point.remove`` (``index``), ``box.set`` (``box`` or
                None), ``mask.set`` (``mask``: bool array or None), ``candidate.set`` (``index``), ``clear``;
                ``stroke.add`` (``points``, ``radius``, ``erase``), ``matte.set`` (``settings``); ``propagate``
                (``start, stop``; ``draft``).
            **what: ``object`` and the fields named above; for a clip the ``frame`` and, with the first prompt on a
                tracked frame, ``base``: the mask that it corrects (bool array).

        Raises:
            NbHelpersError: an unknown ``op``, object or index; nothing is recorded then.
        """
        for given in ("mask", "base"):
            if isinstance(what.get(given), np.ndarray):
                from nbhelpers.core.masks import encode_rle

                what[given] = encode_rle(what[given])
        event = {"op": op, **what}
        state = _apply(self._entries(), event, self.cursor + 1)
        self.events = [*self.events[: self.cursor], event]
        self.cursor += 1
        self._state = self.events, self.cursor, state

    @property
    def can_undo(self) -> bool:
        """Whether there is an event to take back."""
        return self.cursor > 0

    @property
    def can_redo(self) -> bool:
        """Whether an event that was taken back can be put in force again."""
        return self.cursor < len(self.events)

    def undo(self) -> dict | None:
        """Take back the last event in force and return it; None when there is none."""
        if not self.can_undo:
            return None
        self.cursor -= 1
        return self.events[self.cursor]

    def redo(self) -> dict | None:
        """Put the next undone event in force and return it; None when there is none."""
        if not self.can_redo:
            return None
        self.cursor += 1
        return self.events[self.cursor - 1]

    def entries(self) -> dict[str, ObjectEntry]:
        """All objects after the events in force, in the order in which they were added."""
        return dict(self._entries())

    def objects(self, frame: int | None = None) -> dict[str, ObjectPrompts]:
        """Prompts of every object, of a clip those on one frame."""
        return {name: entry.on(frame) for name, entry in self._entries().items()}

    def to_json(self) -> str:
        """The log as JSON text, format `FORMAT`, version `VERSION`."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "image": self.image,
            "model": self.model,
            "cursor": self.cursor,
        }
        return json.dumps({**head, "events": self.events}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> PromptLog:
        """Read what `to_json` wrote.

        Raises:
            NbHelpersError: not JSON, another format, a newer version, or an event that makes no sense.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise NbHelpersError("the prompt log is not readable JSON", given=str(error)) from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise NbHelpersError("this is not a prompt log", expected=f'JSON with "format": "{FORMAT}"')
        version = data.get("version")
        if not isinstance(version, int) or version > VERSION or version < 1:
            raise NbHelpersError(
                "the prompt log has a version that this nbhelpers cannot read",
                given=f"version {version}",
                expected=f"version {VERSION} or older",
                do="update nbhelpers; the file has not been changed",
            )
        for part, kind in PARTS.items():
            if not isinstance(data.get(part), kind):
                raise NbHelpersError(
                    "a part of the prompt log is missing or damaged",
                    given=f"{part}: {str(data.get(part))[:80]}",
                    expected=f"{part} as a JSON {kind.__name__}",
                )
        return cls(*(data[part] for part in PARTS))

    def save(self, path: str | Path) -> Path:
        """Write the log to ``path`` (whole or not at all) and return the path."""
        return write_text(path, self.to_json())

    @classmethod
    def open(cls, path: str | Path) -> PromptLog:
        """Read a log from ``path``; errors as in `from_json`, or `NbHelpersError` when there is no such file."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise NbHelpersError("the prompt log cannot be read", given=f"{path}: {error}") from error

    def _entries(self) -> dict[str, ObjectEntry]:
        """The objects now; replayed only if events or cursor changed otherwise than by `append`."""
        known, events, cursor = self._state, self.events, self.cursor  # other threads may change them meanwhile
        if known is None or known[0] is not events or known[1] != cursor:
            known = self._state = events, cursor, _replay(events[:cursor])
        return known[2]


def _replay(events: Sequence[Any]) -> dict[str, ObjectEntry]:
    """The objects after some events."""
    state: dict[str, ObjectEntry] = {}
    for number, event in enumerate(events, start=1):
        state = _apply(state, event, number)
    return state


def _apply(state: dict[str, ObjectEntry], event: Any, number: int) -> dict[str, ObjectEntry]:
    """The objects after event ``number``, counted from 1; ``state`` is not changed."""
    try:
        return _applied(state, event, number)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        reason = f"no object {error}" if isinstance(error, KeyError) else str(error)
        raise NbHelpersError(
            "this step cannot be recorded", given=event, expected=f"a step that fits the log ({reason})"
        ) from error


def _applied(state: dict[str, ObjectEntry], event: Mapping[str, Any], number: int) -> dict[str, ObjectEntry]:
    """`_apply` with the errors of Python."""
    op = event["op"]
    if op == "propagate":  # changes masks, not prompts
        _whole(event["start"])
        _whole(event["stop"])
        return state
    name = event["object"]
    if op == "object.add":
        return {**state, _free(state, name): ObjectEntry(_whole(event.get("number", number)))}
    entry = state[name]
    match op:
        case "object.rename":
            new = _free(state, event["to"])
            return {new if key == name else key: value for key, value in state.items()}
        case "object.remove":
            return {key: value for key, value in state.items() if key != name}
        case "matte.set":
            return {**state, name: replace(entry, matte=_matte(event["settings"]))}
        case _:
            frame = event.get("frame")
            prompts = _changed_prompts(entry.on(None if frame is None else _whole(frame)), op, event)
            if prompts.is_empty:
                prompts = ObjectPrompts(candidate=prompts.candidate)
            return {**state, name: replace(entry, frames={**entry.frames, frame: prompts})}


def _changed_prompts(old: ObjectPrompts, op: str, event: Mapping[str, Any]) -> ObjectPrompts:
    """The prompts on a frame after a step on it."""
    if event.get("base") is not None:
        old = replace(old, base_rle=event["base"])
    chosen = None if event.get("candidate") is None else int(event["candidate"])
    match op:
        case "point.add":
            points = (*old.points, (float(event["x"]), float(event["y"])))
            labels, before = (*old.labels, int(event["label"])), old if event.get("corrects") else None
            return replace(old, points=points, labels=labels, candidate=chosen, before=before)
        case "point.move":
            points = list(old.points)
            points[_index(event, points)] = (float(event["x"]), float(event["y"]))
            return replace(old, points=tuple(points), candidate=chosen, before=None)
        case "point.remove":
            i = _index(event, old.points)
            points, labels = old.points[:i] + old.points[i + 1 :], old.labels[:i] + old.labels[i + 1 :]
            return replace(old, points=points, labels=labels, candidate=None, before=None)
        case "box.set":
            box = event["box"]
            return replace(old, box=None if box is None else tuple(map(float, box)), candidate=None, before=None)
        case "mask.set":
            return replace(old, mask_rle=event["mask"], candidate=None, before=None)
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
        raise ValueError(f"a brush of radius {radius} pixels")
    return Stroke(points, radius, bool(event.get("erase", False)))


def _matte(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
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
        raise ValueError(f"{number!r} is not a frame number")
    return number


def _index(event: Mapping[str, Any], points: Any) -> int:
    index = int(event["index"])
    if not 0 <= index < len(points):
        raise IndexError(f"point {index} of {len(points)}")
    return index
