"""Edits with an inpainter: `remove`, `replace` and `restyle` a segmented object; and `edit`, any edit by name."""

from __future__ import annotations

import logging
import math

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import paste
from nbhelpers.core.masks import dilate, distance_to, fill_pinholes
from nbhelpers.editing import effects
from nbhelpers.editing.effects import (
    Image,
    Mask,
    blacken,
    checked,
    white_on_black,
)
from nbhelpers.models.protocols import Inpainter

KINDS = ("segment", "replace", "remove", "restyle")
"""Kinds of edit for `edit` and the command line."""

SEAM = 1 / 160  # of the photo's longer side: default of grow and of feather
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
    """Remove an object and inpaint the hole from its surroundings.

    Example:
        >>> clean = remove(image, session.mask())

    Small gaps in the mask are closed. The mask is grown, since it rarely covers the whole boundary of an object, and
    feathered. The inpainter gets a crop around it. Its output is matched in colour along the seam and pasted into the
    photo. Farther than grow plus feather pixels from the mask, every pixel equals that of the photo.

    Args:
        image: RGB.
        mask: of the object; include its shadow or reflection to remove them too.
        inpainter: by default from `nbhelpers.load`.
        prompt: for inpainters with text input: what to show instead; they have a default for removal.
        seed: for reproducible results.
        grow: pixels by which the mask is grown; by default 1/160 of the photo's longer side.
        feather: pixels over which the inpainted area fades into the photo; the same default.

    Raises:
        NbHelpersError: a mask that is empty, covers the whole photo, or has another size; errors of the inpainter.
    """
    mask = checked(image, mask, empty="there is nothing to remove: the mask is empty")
    if mask.all():
        raise NbHelpersError(
            "the mask covers the whole photo: there are no surroundings to inpaint from",
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
    """Replace an object by what a text prompt describes.

    Example:
        >>> evening = replace(image, sky, "realistic sunset with a reddish sky")

    Args:
        image: RGB.
        mask: the area to replace; it may cover the whole photo.
        prompt: description of the new content.
        inpainter: one with text input; by default from `nbhelpers.load`.
        seed: see `remove`.
        grow: see `remove`.
        feather: see `remove`.

    Raises:
        NbHelpersError: no prompt; a mask that is empty or has another size; an inpainter without text input.
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
    """Change the appearance of an object and keep its shape.

    Example:
        >>> neon = restyle(image, car, "cyberpunk neon style car", strength=0.5)

    Args:
        image: RGB.
        mask: of the object.
        prompt: description of its new appearance.
        strength: above 0 and at most 1: how far the result may depart from the original; 1 is `replace`.
        inpainter: one with text input; by default from `nbhelpers.load`.
        seed: see `remove`.
        grow: see `remove`; 0 by default, since the object keeps its outline.
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
    """Apply an edit given by name, as on the command line.

    Args:
        image: RGB.
        mask: of the object.
        kind: ``"segment"`` overlays the mask. ``"remove"`` blackens the object and ``"replace"`` shows the mask white
            on black; with ``use_inpainting`` both use an inpainter, as ``"restyle"`` always does.
        use_inpainting: see above.
        prompt: of the inpainter; required by replace and restyle.
        inpainter: by default from `nbhelpers.load`.
        seed: see `remove`.
        strength: see `restyle`.

    Raises:
        NbHelpersError: an unknown kind, or an error of the edit.
    """
    if kind not in KINDS:
        raise NbHelpersError("unknown edit", given=kind, expected=", ".join(KINDS))
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
    """Inpaint crop by crop, match colours, paste; see `remove`.

    With ``match_inside`` colours are compared in the repainted band around the object, which is right if the
    surroundings are continued. Otherwise they are compared just outside, where only a global colour shift remains.
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
    for crop in effects.crops(mask, inpainter.side, reach):
        target, waiting = out[crop.window], left[crop.window]
        distance = distance_to(crop.part)
        opacity = effects.feather(distance, grow, feather)
        hole = (opacity > 0) | dilate(waiting, grow)
        logger.info("inpainting %d x %d pixels with %s", hole.shape[1], hole.shape[0], inpainter.name)
        fill = inpainter.fill(target.copy(), hole, prompt=prompt, seed=seed, strength=strength)
        if fill.shape != target.shape or fill.dtype != np.uint8:
            raise NbHelpersError(
                "the inpainter returned an image of another size or type",
                given=f"{fill.shape} {fill.dtype}",
                expected=f"{target.shape} uint8",
            )
        others = dilate(waiting & ~crop.part, grow)
        known = (distance > grow) & (hole if match_inside else ~hole) & (distance <= reach + feather) & ~others
        shift = effects.colour_shift(target, fill, known, inpainter.side)
        paste(target, fill, opacity, shift)
        waiting[crop.part] = False
    return out


def _prompted(prompt: str | None, kind: str) -> str:
    if not prompt or not prompt.strip():
        raise NbHelpersError(f"{kind} needs a text prompt", given=repr(prompt), do='e.g. prompt="a sunset sky"')
    return prompt.strip()
