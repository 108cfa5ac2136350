"""What all networks with SAM 2's prompt encoder share: coordinates in the model's square, mask prompts, embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int32

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.values import Choose, Embedding, Prediction

if TYPE_CHECKING:
    from torch import Tensor

LOGIT_LIMIT = 32.0  # sam2_image_predictor.py clamps logits to this before they are used as a prompt
LEVELS = ("image_embed", "high_res_feats_1", "high_res_feats_0")  # of features, the coarsest first


def square_points(
    prompt: Prompt, size: tuple[int, int], side: int
) -> tuple[Float32[np.ndarray, "n 2"], Int32[np.ndarray, " n"]]:
    """Points of a prompt in the square that the network sees, and their labels.

    The corners of a box go first, with labels 2 and 3, as ``sam2_image_predictor.py`` has it.

    Args:
        prompt: in pixels of the image.
        size: ``(H, W)`` of the image.
        side: of the square in pixels.
    """
    corners = np.empty((0, 2), np.float32) if prompt.box is None else prompt.box.reshape(2, 2)
    points = np.concatenate([corners, prompt.points])
    labels = np.concatenate([[2, 3][: len(corners)], prompt.labels]).astype(np.int32)
    return points / np.array([size[1], size[0]], np.float32) * np.float32(side), labels


def low_resolution_logits(mask: np.ndarray, size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """The logits of a mask prompt, bool in image size or logits, at the size that the prompt encoder takes.

    Raises:
        NbHelpersError: logits of another size.
    """
    logits = mask_logits(mask, size) if mask.dtype == np.bool_ else mask
    if logits.shape != tuple(size):
        raise NbHelpersError(
            "the mask logits have the wrong size", given=logits.shape, expected=f"{tuple(size)}, or a bool mask"
        )
    return np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT)


def check_own_embedding(embedding: Embedding, name: str) -> None:
    """Raise an error for the embedding of another model than ``name``."""
    if embedding.model != name:
        raise NbHelpersError(
            "the embedding belongs to another model",
            given=embedding.model,
            expected=name,
            do="encode the image with this segmenter",
        )


def feature_map(embedding: Embedding, level: int) -> Float[Tensor, "h w d"]:
    """A feature map of the mask decoder, the coarsest at level 0, at 1 and 2 twice and four times as fine.

    Raises:
        NbHelpersError: no such level.
    """
    if not 0 <= level < len(LEVELS):
        raise NbHelpersError("there is no such level of features", given=level, expected=f"0 to {len(LEVELS) - 1}")
    return embedding.tensors[LEVELS[level]][0].permute(1, 2, 0)


def chosen_candidates(
    choose: Choose,
    start: int,
    logits: Float32[np.ndarray, "b 3 h w"],
    scores: Float32[np.ndarray, "b 3"],
    size: tuple[int, int],
) -> tuple[Float32[np.ndarray, "b h w"], Float32[np.ndarray, " b"]]:
    """Logits and scores of the candidates that ``choose`` picks for the points from number ``start`` on."""
    pairs = zip(logits, scores, strict=True)
    candidates = [Prediction(masks, ious, size, masks.shape[1:], int(ious.argmax())) for masks, ious in pairs]
    index = [choose(start + i, prediction) for i, prediction in enumerate(candidates)]
    return logits[np.arange(len(index)), index], scores[np.arange(len(index)), index]
