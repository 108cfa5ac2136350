"""Edits by an inpainter: remove, replace or restyle what was segmented; and `edit`, any edit by its name."""

from __future__ import annotations

import logging
import math

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import paste
from nbhelpers.core.masks import dilate, distance_to, fill_pinholes
from nbhelpers.editing import compositing
from nbhelpers.editing.effects import (
    Image,
    Mask,
    blacken,
    checked,
    white_on_black,
)
from nbhelpers.models.protocols import Inpainter

KINDS = ("segment", "replace", "remove", "restyle")
"""What `edit` and the command line know."""

SEAM = 1 / 160  # of the photo's longer side: grown by so much, then feathered over so much
RESTYLE_STRENGTH = 0.6

logger = logging.getLogger(__name__)


def remove(
    image: Image,
    mask: Mask,
    inpainter: Inpainter | None = None,
    *,
    prompt: str | None = None,
    seed: int = 0,
    grow: int | None = None,
    feather: int | None = None,
) -> Image:
    """Take an object out and fill the hole from its surroundings.

    Example:
        >>> clean = remove(image, session.mask())

    Small gaps that the mask encloses are closed. It is grown, for the rim of an object is never quite inside it, and
    feathered. The inpainter sees a crop around it. Its fill is matched in colour along the seam and laid over the
    photo. Beyond grow plus feather pixels from the mask every pixel of the result equals the photo's.

    Args:
        image: RGB.
        mask: what is to go; a shadow or a reflection that should go too belongs into it.
        inpainter: what fills; `nbhelpers.load` picks one when left out.
        prompt: for inpainters that read text: what shall be seen instead; they have a default for removal.
        seed: same seed, same picture.
        grow: pixels by which the mask is grown; 1/160 of the photo's longer side when left out.
        feather: pixels over which the fill fades into the photo; the same when left out.

    Raises:
        NbHelpersError: an empty mask, one that covers everything, or one of another size; what the inpainter raises.
    """
    mask = checked(image, mask, empty="there is nothing to remove: the mask is empty")
    if mask.all():
        raise NbHelpersError(
            "the mask covers the whole photo: there is nothing left to fill it from",
            do="segment a smaller object, or use replace with a prompt",
        )
    mask = fill_pinholes(mask)
    return _inpaint(image, mask, inpainter, prompt, seed, 1.0, grow, feather, match_inside=True)


def replace(
    image: Image,
    mask: Mask,
    prompt: str,
    inpainter: Inpainter | None = None,
    *,
    seed: int = 0,
    grow: int | None = None,
    feather: int | None = None,
) -> Image:
    """Paint what a text says in place of an object.

    Example:
        >>> evening = replace(image, sky, "realistic sunset with a reddish sky")

    Args:
        image: as for `remove`, as are the others not named here.
        mask: what is to be painted over; it may cover the whole photo.
        prompt: what shall be there.
        inpainter: one that reads text; `nbhelpers.load` picks one when left out.
        seed: same seed, same picture.
        grow: see `remove`.
        feather: see `remove`.

    Raises:
        NbHelpersError: no prompt, an empty mask or one of another size; an inpainter that takes no text.
    """
    mask = checked(image, mask, empty="there is nothing to replace: the mask is empty")
    prompt = _prompted(prompt, "replace")
    return _inpaint(image, mask, inpainter, prompt, seed, 1.0, grow, feather, match_inside=False)


def restyle(
    image: Image,
    mask: Mask,
    prompt: str,
    strength: float = RESTYLE_STRENGTH,
    inpainter: Inpainter | None = None,
    *,
    seed: int = 0,
    grow: int | None = None,
    feather: int | None = None,
) -> Image:
    """Change the looks of an object and keep its shape.

    Example:
        >>> neon = restyle(image, car, "cyberpunk neon style car", strength=0.5)

    Args:
        image: as for `remove`, as are the others not named here.
        mask: what is to change.
        prompt: what it shall look like.
        strength: above 0 and at most 1: how far it may depart from what is there. 1 is `replace`.
        inpainter: one that reads text; `nbhelpers.load` picks one when left out.
        seed: same seed, same picture.
        grow: see `remove`; 0 when left out, for the object keeps its outline.
        feather: see `remove`.

    Raises:
        NbHelpersError: as `replace`, or a strength out of range.
    """
    mask = checked(image, mask, empty="there is nothing to restyle: the mask is empty")
    prompt = _prompted(prompt, "restyle")
    if not 0 < strength <= 1:
        raise NbHelpersError("the strength is out of range", given=strength, expected="above 0, at most 1")
    grow = 0 if grow is None else grow
    return _inpaint(image, mask, inpainter, prompt, seed, float(strength), grow, feather, match_inside=False)


def edit(
    image: Image,
    mask: Mask,
    kind: str,
    *,
    use_inpainting: bool = False,
    prompt: str | None = None,
    inpainter: Inpainter | None = None,
    seed: int = 0,
    strength: float = RESTYLE_STRENGTH,
) -> Image:
    """One edit by its name, as the command line has them.

    Args:
        image: RGB.
        mask: what is edited.
        kind: ``"segment"`` lays the mask over the photo. ``"remove"`` blackens, ``"replace"`` shows the mask white on
            black; with ``use_inpainting`` they, and ``"restyle"`` always, ask an inpainter.
        use_inpainting: see above.
        prompt: what the inpainter shall paint; needed by replace and restyle.
        inpainter: `nbhelpers.load` picks one when left out.
        seed: same seed, same picture.
        strength: of ``"restyle"``.

    Raises:
        NbHelpersError: an unknown kind; as the edit itself.
    """
    if kind not in KINDS:
        raise NbHelpersError("there is no such edit", given=kind, expected=", ".join(KINDS))
    if kind == "segment":
        from nbhelpers.plots import overlay

        return overlay(image, checked(image, mask))
    if kind == "restyle":
        return restyle(image, mask, prompt or "", strength, inpainter, seed=seed)
    if not use_inpainting:
        return blacken(image, mask) if kind == "remove" else white_on_black(image, mask)
    if kind == "remove":
        return remove(image, mask, inpainter, prompt=prompt, seed=seed)
    return replace(image, mask, prompt or "", inpainter, seed=seed)


def _inpaint(
    image: np.ndarray,
    mask: np.ndarray,
    inpainter: Inpainter | None,
    prompt: str | None,
    seed: int,
    strength: float,
    grow: int | None,
    feather: int | None,
    match_inside: bool,
) -> np.ndarray:
    """Fill crop by crop, match, paste; see `remove`.

    With ``match_inside`` colours are compared where the photo around the object was painted over: right for a fill that
    continues the surroundings. Else just outside, where a fill differs only by what the network did to all colours.
    """
    if inpainter is None:
        from nbhelpers.models.load import load

        inpainter = load("inpainter")
    seam = max(1, math.ceil(SEAM * max(mask.shape)))
    grow, feather = seam if grow is None else grow, seam if feather is None else feather
    if grow < 0 or feather < 0:
        raise NbHelpersError("pixels cannot be negative", given=f"grow {grow}, feather {feather}", expected="0 or more")
    out, left = image.copy(), mask.copy()
    reach = grow + feather
    for crop in compositing.crops(mask, inpainter.side, reach):
        target, waiting = out[crop.window], left[crop.window]
        distance = distance_to(crop.part)
        opacity = compositing.feather(distance, grow, feather)
        hole = (opacity > 0) | dilate(waiting, grow)
        logger.info("filling %d x %d pixels with %s", hole.shape[1], hole.shape[0], inpainter.name)
        fill = inpainter.fill(target.copy(), hole, prompt=prompt, seed=seed, strength=strength)
        if fill.shape != target.shape or fill.dtype != np.uint8:
            raise NbHelpersError(
                "the inpainter gave back something else than it was given",
                given=f"{fill.shape} {fill.dtype}",
                expected=f"{target.shape} uint8",
            )
        others = dilate(waiting & ~crop.part, grow)
        known = (distance > grow) & (hole if match_inside else ~hole) & (distance <= reach + feather) & ~others
        shift = compositing.colour_shift(target, fill, known, inpainter.side)
        paste(target, fill, opacity, shift)
        waiting[crop.part] = False
    return out


def _prompted(prompt: str | None, kind: str) -> str:
    if not prompt or not prompt.strip():
        raise NbHelpersError(
            f"{kind} needs a prompt: what shall be painted", given=repr(prompt), do='e.g. prompt="a sunset sky"'
        )
    return prompt.strip()
