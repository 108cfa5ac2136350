"""Edits of a segmented object: remove, replace, restyle, blacken, colour, blur, cut out.

>>> from nbhelpers import editing
>>> clean = editing.remove(image, session.mask())

`remove`, `replace` and `restyle` need an inpainter, the others no model. Every edit takes
``image (H, W, 3) uint8`` RGB and ``mask (H, W) bool`` and returns a new image of the same size.

The names below are loaded lazily.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "KINDS": "nbhelpers.editing.inpaint",
    "blacken": "nbhelpers.editing.effects",
    "blur": "nbhelpers.editing.effects",
    "colour": "nbhelpers.editing.effects",
    "cut_out": "nbhelpers.editing.effects",
    "edit": "nbhelpers.editing.inpaint",
    "remove": "nbhelpers.editing.inpaint",
    "replace": "nbhelpers.editing.inpaint",
    "restyle": "nbhelpers.editing.inpaint",
    "swap_background": "nbhelpers.editing.effects",
    "white_on_black": "nbhelpers.editing.effects",
}

__all__ = list(_HOME_OF)

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
