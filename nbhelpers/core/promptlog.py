"""Everything a person did to a picture, in order, as versioned JSON.

The prompts of each object are a pure function of the log, and masks are a pure function of the prompts: a log
that is reopened tomorrow, on the same model, gives the same masks. Undo moves a cursor and forgets nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.masks import decode_rle, encode_rle
from nbhelpers.core.prompts import Prompt

FORMAT = "nbhelpers.prompt-log"
VERSION = 1
PARTS = {"image": dict, "model": str, "events": list, "cursor": int}


@dataclass(frozen=True)
class ObjectPrompts:
    """What has been said about one object so far.

    Attributes:
        points: ``((x, y), ...)`` pixels of the original image.
        labels: one per point; 1 includes, 0 excludes.
        box: ``(x0, y0, x1, y1)`` pixels, or None.
        mask_rle: a mask prompt as COCO RLE ``{"size": [H, W], "counts": str}``, or None.
        candidate: index of the candidate mask that the person chose, or None for the model's own choice.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask_rle: Mapping[str, Any] | None = None
    candidate: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ask a segmenter."""
        return not self.points and self.box is None and self.mask_rle is None

    def prompt(self) -> Prompt | None:
        """The question to the segmenter, or None when nothing has been said."""
        if self.is_empty:
            return None
        mask = None if self.mask_rle is None else decode_rle(self.mask_rle)
        return Prompt(self.points, self.labels, self.box, mask)


class PromptLog:
    """An append-only list of events with an undo cursor, per picture.

    Example:
        >>> log = PromptLog(image={"name": "cat.jpg", "size": [480, 640]}, model="sam2-hiera-tiny-lite")
        >>> log.append("object.add", object="cat")
        >>> log.append("point.add", object="cat", x=320.0, y=200.0, label=1)
        >>> log.objects()["cat"].points
        ((320.0, 200.0),)

    Args:
        image: what the log belongs to: ``name``, ``size`` ``[H, W]`` and, where known, ``sha256`` of the pixels.
        model: catalog name of the segmenter that answered.
        events: events so far, as written by `save`.
        cursor: how many of them are in force; the rest can be redone.
    """

    def __init__(
        self,
        image: Mapping[str, Any],
        model: str,
        events: list[Any] | None = None,
        cursor: int | None = None,
    ):
        self.image, self.model = dict(image), model
        self.events: list[dict] = []
        for event in events or []:
            self.events.append(event)
            try:
                self.objects()
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise _unreadable(event, error) from error
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
            op: ``object.add``, ``object.rename`` (``to``), ``object.remove``, ``point.add`` (``x, y, label``),
                ``point.move`` (``index, x, y``), ``point.remove`` (``index``), ``box.set`` (``box`` or None),
                ``mask.set`` (``mask``: bool array or None), ``candidate.set`` (``index``), ``clear``.
            **what: ``object`` and the fields named above.

        Raises:
            NbHelpersError: an unknown ``op``, object or index; nothing is recorded then.
        """
        if isinstance(what.get("mask"), np.ndarray):
            what["mask"] = encode_rle(what["mask"])
        event = {"op": op, **what}
        state = self.objects()
        try:
            _apply(state, event)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _unreadable(event, error) from error
        self.events = [*self.events[: self.cursor], event]
        self.cursor += 1

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

    def objects(self) -> dict[str, ObjectPrompts]:
        """Prompts of every object after the events in force, in the order in which objects were added."""
        state: dict[str, ObjectPrompts] = {}
        cursor = getattr(self, "cursor", len(self.events))
        for event in self.events[:cursor]:
            _apply(state, event)
        return state

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


def _apply(state: dict[str, ObjectPrompts], event: Mapping[str, Any]) -> None:
    """Change ``state`` as ``event`` says."""
    op, name = event["op"], event["object"]
    if op == "object.add":
        if name in state or not str(name).strip():
            raise ValueError(f"an object named {name!r} exists already" if name in state else "the name is empty")
        state[name] = ObjectPrompts()
        return
    old = state[name]
    match op:
        case "object.rename":
            if event["to"] in state or not str(event["to"]).strip():
                raise ValueError(f"the name {event['to']!r} is taken or empty")
            renamed = {event["to"] if key == name else key: value for key, value in state.items()}
            state.clear()
            state.update(renamed)
        case "object.remove":
            del state[name]
        case "point.add":
            at = (float(event["x"]), float(event["y"]))
            state[name] = replace(
                old, points=(*old.points, at), labels=(*old.labels, int(event["label"])), candidate=None
            )
        case "point.move":
            points = list(old.points)
            points[_index(event, points)] = (float(event["x"]), float(event["y"]))
            state[name] = replace(old, points=tuple(points), candidate=None)
        case "point.remove":
            i = _index(event, old.points)
            state[name] = replace(
                old,
                points=old.points[:i] + old.points[i + 1 :],
                labels=old.labels[:i] + old.labels[i + 1 :],
                candidate=None,
            )
        case "box.set":
            box = event["box"]
            state[name] = replace(old, box=None if box is None else tuple(map(float, box)), candidate=None)
        case "mask.set":
            state[name] = replace(old, mask_rle=event["mask"], candidate=None)
        case "candidate.set":
            state[name] = replace(old, candidate=None if event["index"] is None else int(event["index"]))
        case "clear":
            state[name] = ObjectPrompts()
        case _:
            raise ValueError(f"unknown operation {op!r}")


def _index(event: Mapping[str, Any], points) -> int:
    index = int(event["index"])
    if not 0 <= index < len(points):
        raise IndexError(f"point {index} of {len(points)}")
    return index


def _unreadable(event: object, error: Exception) -> NbHelpersError:
    reason = f"no object {error}" if isinstance(error, KeyError) else str(error)
    return NbHelpersError("this step cannot be recorded", given=event, expected=f"a step that fits the log ({reason})")
