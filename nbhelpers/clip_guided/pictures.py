"""Pictures of the steps on the way from words to masks."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.clip_guided.placement import ClassGrid, working_size
from nbhelpers.clip_guided.values import ClipGuidedResult
from nbhelpers.core.images import fit
from nbhelpers.plots import LONGEST

DIM = 0.25  # brightness of the photo where a word is impossible


def heat(result: ClipGuidedResult, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The photo, lit where a word is probable and dark where it is not; at most 1600 pixels a side.

    Args:
        result: of `nbhelpers.clip_guided.segment`.
        name: a word of its class map, background and excluded words too.
    """
    shown = fit(result.image, LONGEST)
    plane = result.class_map.probabilities[result.class_map.names.index(name)]
    light = cv2.resize(plane, (shown.shape[1], shown.shape[0]), interpolation=cv2.INTER_LINEAR)
    return (shown * (DIM + (1 - DIM) * np.clip(light, 0, 1))[:, :, None]).astype(np.uint8)


def regions(result: ClipGuidedResult) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Where each word of the vocabulary was confident enough to be pointed at, at photo size."""
    grid = ClassGrid(result.class_map, working_size(result.class_map.size))
    out = {}
    for index, name in enumerate(result.vocabulary):
        level = result.confidence_used.get(name, result.settings.min_confidence)
        region = (grid.winner == index) & (grid.peak >= level)
        if region.any() and any(prompt.class_id == index for prompt in result.prompts):
            size = result.image.shape[1::-1]
            out[name] = cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return out
