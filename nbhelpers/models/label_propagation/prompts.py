"""From a rough map of where an object is to its mask: several prompts to the mask decoder, and which to believe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from nbhelpers.core.masks import box_of
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.regions import components, deepest_points
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding

LOGITS = 20.0  # a certain cell is 10 inside and -10 outside, as sam2 feeds a given mask
SPECK = 0.05  # of the object's area: smaller parts of the map get no say in the box
POINTS, SPACING = 4, 0.08  # at most so many points, so far apart as a share of the frame's side
PRIOR_POWER, TRUST_POWER = 4, 6
FLOOR = 0.3  # below this agreement with the map no answer of the decoder is believed


@dataclass(frozen=True, eq=False)
class Answer:
    """What the decoder made of a map.

    Attributes:
        logits: ``(s, s)``, above 0 is inside.
        agreement: 0 to 1, how well the answers fit the map they were asked with.
    """

    logits: Float32[np.ndarray, "s s"]
    agreement: float


def recipes(share: Float[np.ndarray, "s s"], size: tuple[int, int]) -> dict[str, Prompt]:
    """Prompts that a map of an object allows: its box, with points, with the map itself, with both.

    Args:
        share: how likely each cell belongs to the object, 0 to 1.
        size: ``(H, W)`` of the frame.

    Returns:
        By name; nothing where no cell is likelier inside than outside.
    """
    inside = share > 0.5
    body = components(inside, SPECK * np.count_nonzero(inside)) > 0
    bounds = box_of(body)
    if bounds is None:
        return {}
    height, width = size
    scale = np.array([width, height]) / share.shape[1]
    box = np.clip(np.array(bounds) * np.tile(scale, 2) - 0.5, -0.5, np.array([width, height, width, height]) - 0.5)
    points = (deepest_points(body, SPACING * share.shape[1], POINTS) + 0.5) * scale - 0.5
    logits = soft_logits(share)
    return {
        "box": Prompt(box=box),
        "box and points": Prompt(points, box=box),
        "box and map": Prompt(box=box, mask=logits),
        "box, points and map": Prompt(points, box=box, mask=logits),
    }


def trust_in_recipes(
    segmenter: Segmenter, embedding: Embedding, share: Float[np.ndarray, "s s"], truth: Float[np.ndarray, "s s"]
) -> dict[str, float]:
    """How well each recipe does on a frame whose mask is known: IoU with ``truth`` when asked with ``share``."""
    answers = _ask(segmenter, embedding, share)
    return {name: soft_iou((logits > 0).astype(np.float32), truth) for name, logits in answers.items()}


def decode(
    segmenter: Segmenter, embedding: Embedding, share: Float[np.ndarray, "s s"], trust: Mapping[str, float]
) -> Answer:
    """The recipes' logits, averaged with the weight (IoU with the map)^4 x (trust)^6.

    Where no answer is like the map, the map itself is the answer.
    """
    answers = _ask(segmenter, embedding, share)
    fits = {name: soft_iou((logits > 0).astype(np.float32), share) for name, logits in answers.items()}
    agreement = max(fits.values(), default=0.0)
    weights = np.array([fits[name] ** PRIOR_POWER * trust.get(name, 1.0) ** TRUST_POWER for name in answers])
    if agreement < FLOOR or weights.sum() <= 0:
        return Answer(soft_logits(share), agreement)
    mean = np.tensordot((weights / weights.sum()).astype(np.float32), np.stack(list(answers.values())), 1)
    return Answer(mean.astype(np.float32), agreement)


def soft_logits(share: Float[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"]:
    """A map of 0 to 1 as logits of -10 to 10."""
    return ((share - 0.5) * LOGITS).astype(np.float32)


def probability(logits: Float[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"]:
    """Logits as a map of 0 to 1."""
    return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)


def soft_iou(a: Float[np.ndarray, "s s"], b: Float[np.ndarray, "s s"]) -> float:
    """Sum of the smaller over sum of the larger values of two maps: IoU where both are 0 and 1 only."""
    larger = float(np.maximum(a, b).sum())
    return float(np.minimum(a, b).sum()) / larger if larger else 1.0


def _ask(segmenter: Segmenter, embedding: Embedding, share: np.ndarray) -> dict[str, np.ndarray]:
    prompts = recipes(share, embedding.size)
    return {name: segmenter.predict(embedding, prompt).logits[0] for name, prompt in prompts.items()}
