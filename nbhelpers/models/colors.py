"""Colours for the points of a scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from nbhelpers.core.images import load_image


def point_colors(
    images: Sequence[np.ndarray],
    views: Int[np.ndarray, " o"],
    tracks: Int[np.ndarray, " o"],
    pixels: Float[np.ndarray, "o 2"],
    count: int,
) -> UInt8[np.ndarray, "p 3"]:
    """The mean colour of each point over the views that saw it."""
    total, times = np.zeros((count, 3)), np.zeros(count)
    for view in np.unique(views):
        image = load_image(np.asarray(images[int(view)]))
        here = views == view
        x, y = np.clip(np.rint(pixels[here]).astype(int), 0, np.array(image.shape[1::-1]) - 1).T
        np.add.at(total, tracks[here], image[y, x])
        np.add.at(times, tracks[here], 1)
    return np.rint(total / np.maximum(times, 1)[:, None]).astype(np.uint8)
