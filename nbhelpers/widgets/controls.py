"""Buttons, labels, rows and status lines in one style, readable in light and dark pages, and what only a page can do.

`watch_page` reports the pixel ratio of the screen, keeps Tab for the focus, and adds styles that ipywidgets lacks.
"""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import home

GAP = "4px"
SMALL, WIDE = "36px", "96px"
# ipycanvas keeps every key from the page. A listener on the document comes before those of the canvas: it ends the
# event there, so that Tab moves the focus as anywhere else.
SCRIPT = """
function render({ model, el }) {
  el.style.display = "none";
  let query = null;
  const tell = () => {
    query?.removeEventListener("change", tell);
    query = window.matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`);
    query.addEventListener("change", tell);
    if (model.get("ratio") !== window.devicePixelRatio) {
      model.set("ratio", window.devicePixelRatio);
      model.save_changes();
    }
  };
  const keep = (event) => {
    if (event.key === "Tab" && event.target.closest?.(".nbhelpers-widget canvas")) event.stopImmediatePropagation();
  };
  document.addEventListener("keydown", keep, true);
  window.addEventListener("resize", tell);  // zooming the page is one, too
  tell();
  return () => {
    document.removeEventListener("keydown", keep, true);
    window.removeEventListener("resize", tell);
    query.removeEventListener("change", tell);
  };
}
export default { render };
"""
STYLE = """
.nbhelpers-widget .jupyter-button > i.fa:not(.center) { margin-right: 6px; }
.jupyter-widgets:has(> .nbhelpers-widget) { min-width: 0; }
.nbhelpers-widget .jupyter-button.nbhelpers-black-text { color: #000000; }
.nbhelpers-widget .jupyter-button.nbhelpers-white-text { color: #FFFFFF; }
"""


def button(
    text: str, tooltip: str, action: Callable[[], object], *, icon: str = "", width: str | None = None
) -> widgets.Button:
    """An ordinary button; without text it is as small as its icon."""
    made = widgets.Button(description=text, tooltip=tooltip, icon=icon)
    made.layout.width = width or (WIDE if text else SMALL)
    made.layout.margin = "0"
    made.on_click(lambda _: action())
    return made


def label(text: str, width: str = "64px", margin: str = "0") -> widgets.Label:
    """The name of a row; all of one width, so that what follows is aligned. ``"auto"``: of a group within a row."""
    margin = "0 4px 0 0" if width == "auto" and margin == "0" else margin
    return widgets.Label(text, layout=widgets.Layout(width=width, margin=margin, flex="0 0 auto"))


class Row(widgets.Box):
    """Controls side by side, which wrap where the page is narrow unless ``wrap`` is off."""

    def __init__(self, *children: widgets.Widget, wrap: bool = True, **layout: str):
        flow = {"flex_flow": "row wrap" if wrap else "row nowrap", "align_items": "center"}
        layout = {"display": "flex", **flow, "grid_gap": GAP, "overflow": "visible", **layout}
        super().__init__(children, layout=widgets.Layout(**layout))


def space() -> widgets.Box:
    """Pushes what follows it in a row to the right."""
    return widgets.Box(layout=widgets.Layout(flex="1 1 12px"))


def choice(options: Sequence[tuple[str, str]], width: str = WIDE) -> widgets.ToggleButtons:
    """Buttons of which exactly one is down.

    The page itself keeps one down and sends a single index, so that fast presses cannot leave two or none.

    Args:
        options: ``(value, tooltip)`` of each button; its text is the capitalised value.
        width: of each button.
    """
    values, tooltips = zip(*options, strict=True)
    made = widgets.ToggleButtons(options=[(value.capitalize(), value) for value in values], tooltips=tooltips)
    made.style.button_width = width
    made.layout.margin = "0"
    return made


def folder_field(name: str) -> widgets.Text:
    """A field for the folder of results, which begins with that of a photo or clip."""
    return widgets.Text(
        short_path(home() / "outputs" / name),
        placeholder="folder",
        tooltip="Folder for the files; created if it is missing",
        layout=widgets.Layout(width="380px", margin="0"),
    )


def text_on(colour: str) -> str:
    """Black or white, whichever is easier to read on ``#RRGGBB`` (relative luminance of WCAG 2, section 1.4.3)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return "#000000" if sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) > 0.179 else "#FFFFFF"


def status_html(message: str, detail: str = "", *, error: bool = False) -> str:
    """A line with a sentence, and a detail such as a time at its right end."""
    colour = "var(--jp-error-color0, #b71c1c)" if error else "var(--jp-ui-font-color1, inherit)"
    icon = '<i class="fa fa-exclamation-triangle" aria-hidden="true"></i> ' if error else ""
    return (
        '<div role="status" style="display:flex;gap:24px;justify-content:space-between;line-height:1.5">'
        f'<span class="nbhelpers-message" style="color:{colour}">{icon}{html.escape(message)}</span>'
        '<span class="nbhelpers-timing" style="color:var(--jp-ui-font-color2, inherit);white-space:nowrap">'
        f"{html.escape(detail)}</span></div>"
    )


def error_sentence(error: BaseException) -> str:
    """An error on one line."""
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted. What was finished before is kept."
    if not isinstance(error, NbHelpersError):
        return f"This did not work. {type(error).__name__}: {error}"
    parts = [error.what, error.given is not None and f"given: {error.given}"]
    parts += [error.expected and f"expected: {error.expected}", error.do]
    return " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts if part)


def short_path(path: Path) -> str:
    """A path relative to the working folder or to the home folder, where it is below them."""
    near = os.path.relpath(path)
    if not near.startswith(f"..{os.sep}.."):
        return near
    return str(Path("~") / path.relative_to(Path.home())) if path.is_relative_to(Path.home()) else str(path)


def watch_page(ratio_changed: Callable[[float], object]) -> Any:
    """A widget without a size of its own that reports the pixel ratio of the screen whenever it changes.

    Args:
        ratio_changed: called with screen pixels for one pixel of the page.

    Returns:
        The widget, to be put beside those that it serves; None where anywidget is missing. They work without it, at
        ratio 1.
    """
    made = _page_class()
    if made is None:
        return None
    page = made()
    page.observe(lambda change: ratio_changed(change["new"]), "ratio")
    return page


@functools.cache
def _page_class() -> Any:
    """The class, made when the first widget is: anywidget needs not be there."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class Page(anywidget.AnyWidget):
        _esm, _css = SCRIPT, STYLE
        ratio = traitlets.Float(1.0).tag(sync=True)

    return Page
