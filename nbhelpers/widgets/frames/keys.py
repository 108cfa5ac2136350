"""The keys of the frames widget, each of which does what a button does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nbhelpers.widgets.rows import STEP

if TYPE_CHECKING:
    from nbhelpers.widgets.frames.widget import FramesWidget

TABLE = (
    ("I E B D X R P", "include, exclude, box, brush (draw), erase, remove, pan"),
    ("Space", "play or pause"),
    ("Left Right", "one frame back or on"),
    ("Home End", "first or last frame of the range"),
    (", .", "the range begins or ends here"),
    ("F Shift+F A", "follow forward, back, all"),
    ("N", "next doubtful frame"),
    ("Escape", "stop following; else leave the canvas"),
    ("Z Y C", "undo, redo, clear"),
    ("1 to 9", "choose an object"),
    ("V", "show or hide the object"),
    ("M O W", "overlay, matte or cut-out; onion skin; wipe"),
    ("[ ]", "smaller or larger brush"),
    ("+ - 0", "closer, farther, the whole frame"),
    ("Shift+arrows", "move the view"),
    ("Tab", "leave the canvas"),
)
MODE_KEYS = {"i": "include", "e": "exclude", "b": "box", "d": "brush", "x": "erase", "r": "remove", "p": "pan"}


def keys(widget: FramesWidget) -> dict[str, Callable[[], object]]:
    """By key, as a browser names it, what it does."""
    session, time, view, show = widget.session, widget.time, widget.view, widget.show_row
    actions: dict[str, Callable[[], object]] = {
        " ": time.toggle_play,
        "ArrowLeft": lambda: time.step(-1),
        "ArrowRight": lambda: time.step(1),
        "Home": lambda: time.jump(0),
        "End": lambda: time.jump(1),
        ",": lambda: time.cut(0),
        ".": lambda: time.cut(1),
        "f": lambda: widget.work.follow("forward"),
        "Shift+f": lambda: widget.work.follow("back"),
        "a": lambda: widget.work.follow("all"),
        "n": widget.next_doubtful,
        "Escape": lambda: widget.work.stop() or widget.stage.screen.blur(),
        "Tab": widget.stage.screen.blur,
        "z": lambda: widget.act(session.undo),
        "Shift+z": lambda: widget.act(session.redo),
        "y": lambda: widget.act(session.redo),
        "c": lambda: widget.act(session.clear),
        "v": lambda: widget.objects.toggle(session.active),
        "m": show.next_show,
        "o": show.next_onion,
        "w": show.toggle_wipe,
        "[": lambda: widget.brush.scale(1 / 1.2),
        "]": lambda: widget.brush.scale(1.2),
        "+": lambda: view.closer(STEP),
        "=": lambda: view.closer(STEP),
        "-": lambda: view.closer(1 / STEP),
        "0": lambda: view.closer(0),
        "Shift+ArrowLeft": lambda: view.pan(1, 0),
        "Shift+ArrowRight": lambda: view.pan(-1, 0),
        "ArrowUp": lambda: view.pan(0, 1),
        "ArrowDown": lambda: view.pan(0, -1),
    }
    actions |= {key: lambda mode=mode: widget.choose_mode(mode) for key, mode in MODE_KEYS.items()}
    return actions | {str(number): lambda number=number: _choose(widget, number) for number in range(1, 10)}


def _choose(widget: FramesWidget, number: int) -> None:
    names = widget.session.objects
    if number <= len(names):
        widget.act(lambda: widget.session.select(names[number - 1]))


def help_html() -> str:
    """The table of keys."""
    key = "font-family:var(--jp-code-font-family, monospace);white-space:nowrap"
    rows = "".join(f'<span style="{key}">{names}</span><span>{what}</span>' for names, what in TABLE)
    return (
        '<div style="line-height:1.5">After a click on the frame or on the film strip these keys work:</div>'
        '<div style="display:grid;grid-template-columns:repeat(auto-fill, 130px minmax(260px, 1fr));gap:2px 12px;'
        f'line-height:1.5">{rows}</div>'
    )
