"""Colour words, measured on pixels: what a text encoder of things is no judge of."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

ENOUGH = 0.35  # share of a thing's pixels that makes it of a colour; the rest is shade, edge and print
HUES = {  # in OpenCV's half degrees, both ends included
    "red": ((0, 8), (170, 180)),
    "orange": ((7, 20),),
    "yellow": ((19, 35),),
    "green": ((34, 88),),
    "blue": ((86, 132),),
    "purple": ((128, 160),),
    "pink": ((0, 14), (140, 180)),
    "brown": ((3, 22),),
}
SYNONYMS = {
    "violet": "purple", "lilac": "purple", "rose": "pink", "magenta": "pink", "gray": "grey", "silver": "grey",
    "golden": "yellow", "turquoise": "blue", "cyan": "blue", "beige": "brown", "crimson": "red", "scarlet": "red",
}  # fmt: skip
WORDS = frozenset((*HUES, *SYNONYMS, "black", "white", "grey"))


def split(noun: str) -> tuple[str, tuple[str, ...]]:
    """A noun phrase without its colour words, and these.

    Example:
        >>> split("dark red chair"), split("orange")
        (('dark chair', ('red',)), ('orange', ()))
    """
    words = noun.split()
    colours = tuple(word.casefold() for word in words[:-1] if word.casefold() in WORDS)
    return " ".join([*(word for word in words[:-1] if word.casefold() not in WORDS), words[-1]]), colours


def share(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], colour: str) -> float:
    """How much of what a mask covers has a colour, 0 to 1: hue, saturation and brightness within its range.

    Args:
        image: RGB.
        mask: what is looked at.
        colour: one of `WORDS`.
    """
    if not mask.any():
        return 0.0
    colour = SYNONYMS.get(colour.casefold(), colour.casefold())
    hue, saturation, value = cv2.cvtColor(image[mask][None], cv2.COLOR_RGB2HSV)[0].astype(int).T
    match colour:
        case "black":
            return float((value < 70).mean())
        case "white":
            return float(((value > 170) & (saturation < 50)).mean())
        case "grey":
            return float(((value >= 60) & (value <= 200) & (saturation < 50)).mean())
    inside = np.any([(hue >= low) & (hue <= high) for low, high in HUES[colour]], axis=0)
    match colour:
        case "red":
            inside &= (saturation >= 110) & (value >= 45)
        case "pink":
            inside &= (saturation >= 40) & (saturation < 170) & (value > 120)
        case "brown":
            inside &= (saturation >= 50) & (value < 190)
        case "orange":
            inside &= (saturation >= 110) & (value > 130)
        case _:
            inside &= (saturation >= 70) & (value >= 45)
    return float(inside.mean())


def likeness(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], colours: tuple[str, ...]) -> float:
    """How well a thing answers to colour words, 0.05 to 1; 1 when there are none."""
    return float(np.prod([min(1.0, max(0.05, share(image, mask, colour) / ENOUGH)) for colour in colours] or [1.0]))
