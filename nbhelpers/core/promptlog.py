"""Everything a person did to a picture or a clip, in order, as versioned JSON.

The prompts of each object are a pure function of the log, and masks are a pure function of the prompts: a log
that is reopened tomorrow, on the same model, gives the same masks. Undo moves a cursor and forgets nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.masks import encode_rle
from nbhelpers.core.promptevents import ObjectEntry, ObjectPrompts, apply

FORMAT = "nbhelpers.prompt-log"
VERSION = 1
PARTS = {"image": dict, "model": str, "events": list, "cursor": int}


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
        model: catalog name of the segmenter or tracker that answered.
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
        self.events: list[dict] = list(events or [])
        state: dict[str, ObjectEntry] = {}
        for number, event in enumerate(self.events, start=1):
            _try(state, event, number)
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
                ``mask.set`` (``mask``: bool array or None), ``candidate.set`` (``index``), ``clear``; ``stroke.add``
                (``points``, ``radius``, ``erase``), ``matte.set`` (``settings``); ``propagate`` (``start, stop``).
            **what: ``object`` and the fields named above; for a clip the ``frame`` and, with the first prompt on a
                tracked frame, ``base``: the mask that it corrects (bool array).

        Raises:
            NbHelpersError: an unknown ``op``, object or index; nothing is recorded then.
        """
        for given in ("mask", "base"):
            if isinstance(what.get(given), np.ndarray):
                what[given] = encode_rle(what[given])
        event = {"op": op, **what}
        _try(self.entries(), event, self.cursor + 1)
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

    def entries(self) -> dict[str, ObjectEntry]:
        """All that is said of every object after the events in force, in the order in which objects were added."""
        state: dict[str, ObjectEntry] = {}
        for number, event in enumerate(self.events[: self.cursor], start=1):
            apply(state, event, number)
        return state

    def objects(self, frame: int | None = None) -> dict[str, ObjectPrompts]:
        """Prompts of every object, of a clip those on one frame."""
        return {name: entry.on(frame) for name, entry in self.entries().items()}

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


def _try(state: dict[str, ObjectEntry], event: Any, number: int) -> None:
    try:
        apply(state, event, number)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _unreadable(event, error) from error


def _unreadable(event: object, error: Exception) -> NbHelpersError:
    reason = f"no object {error}" if isinstance(error, KeyError) else str(error)
    return NbHelpersError("this step cannot be recorded", given=event, expected=f"a step that fits the log ({reason})")
