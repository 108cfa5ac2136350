"""Buttons, sliders and rows of one look, readable in light and dark pages."""

from __future__ import annotations

import html
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as widgets

from nbhelpers.core.errors import NbHelpersError

log = logging.getLogger(__name__)

COLAB = "Run this in a cell first: from google.colab import output; output.enable_custom_widget_manager()"
GAP = "4px"
SMALL, WIDE = "36px", "96px"


def button(
    text: str, tooltip: str, action: Callable[[], object], *, icon: str = "", width: str | None = None
) -> widgets.Button:
    """An ordinary button; without text it is as small as its icon."""
    made = widgets.Button(description=text, tooltip=tooltip, icon=icon)
    made.layout.width = width or (WIDE if text else SMALL)
    made.layout.margin = "0"
    made.on_click(lambda _: action())
    return made


def label(text: str) -> widgets.Label:
    """The name of a row; all of one width, so that what follows is aligned."""
    return widgets.Label(text, layout=widgets.Layout(width="64px", margin="0", flex="0 0 auto"))


class Row(widgets.Box):
    """Controls side by side, which wrap where the page is narrow."""

    def __init__(self, *children: widgets.Widget):
        layout = widgets.Layout(
            display="flex", flex_flow="row wrap", align_items="center", grid_gap=GAP, overflow="visible"
        )
        super().__init__(children, layout=layout)


def space() -> widgets.Box:
    """Pushes what follows it in a row to the right."""
    return widgets.Box(layout=widgets.Layout(flex="1 1 12px"))


def choice(
    options: Sequence[tuple[str, str, str]], chosen: Callable[[str], object], width: str = WIDE
) -> widgets.ToggleButtons:
    """Buttons of which exactly one is down.

    The page itself keeps one down and sends a single index, so that fast presses cannot leave two or none.

    Args:
        options: ``(value, icon, tooltip)`` of each button; its text is the capitalised value.
        chosen: called with the value that was chosen.
        width: of each button.
    """
    values, icons, tooltips = zip(*options, strict=True)
    made = widgets.ToggleButtons(
        options=[(value.capitalize(), value) for value in values], icons=icons, tooltips=tooltips
    )
    made.style.button_width = width
    made.layout.margin = "0"
    made.observe(lambda change: chosen(change["new"]), "value")
    return made


def text_on(colour: str) -> str:
    """Black or white, whichever is easier to read on ``#RRGGBB`` (relative luminance of WCAG 2, section 1.4.3)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return "#000000" if sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) > 0.179 else "#FFFFFF"


def status_html(message: str, timing: str, *, error: bool = False) -> str:
    """A line that says what happened, and at its right end how long it took."""
    colour = "var(--jp-error-color0, #b71c1c)" if error else "var(--jp-ui-font-color1, inherit)"
    icon = '<i class="fa fa-exclamation-triangle" aria-hidden="true"></i> ' if error else ""
    return (
        '<div role="status" style="display:flex;gap:24px;justify-content:space-between;line-height:1.5">'
        f'<span class="nbhelpers-message" style="color:{colour}">{icon}{html.escape(message)}</span>'
        '<span class="nbhelpers-timing" style="color:var(--jp-ui-font-color2, inherit);white-space:nowrap">'
        f"{html.escape(timing)}</span></div>"
    )


def exclude_hint(reports_buttons: bool) -> str:
    """How to exclude, for the status line."""
    how = "Right-click or Shift-click" if reports_buttons else "Choose Exclude (E) and click"
    return f"{how} on what does not belong to it."


def error_sentence(error: NbHelpersError) -> str:
    """What an error says, on one line."""
    parts = [error.what, error.given is not None and f"given: {error.given}"]
    parts += [error.expected and f"expected: {error.expected}", error.do]
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts if part)


def colab_notice() -> str:
    """On Colab allow widgets that are not its own; where that fails, the sentence that tells what to run."""
    if "google.colab" not in sys.modules:
        return ""
    try:
        from google.colab import output

        output.enable_custom_widget_manager()
    except Exception:
        log.exception("Colab's widget manager could not be switched on")
        return COLAB
    return ""


def short_path(path: Path) -> str:
    """A path as a person would write it: from the working folder, or from the home folder."""
    near = os.path.relpath(path)
    if not near.startswith(f"..{os.sep}.."):
        return near
    return str(Path("~") / path.relative_to(Path.home())) if path.is_relative_to(Path.home()) else str(path)
