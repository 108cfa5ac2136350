"""What only the page knows or can do: the pixel ratio of its screen, Tab on a canvas, styles that ipywidgets lacks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

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
