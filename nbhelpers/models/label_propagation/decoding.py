"""From a rough map of where an object is to its mask: several prompts to the mask decoder, and which to believe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import box_of, upsample
from nbhelpers.core.prompts import EXCLUDE, INCLUDE, Prompt
from nbhelpers.core.regions import components, deepest_points
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding, Prediction

LOGITS = 20.0  # a certain cell is 10 inside and -10 outside, as sam2 feeds a given mask
SPECK = 0.05  # of the object's area: smaller parts of the map get no say in the box
POINTS, SPACING = 4, 0.08  # at most so many points, so far apart as a share of the frame's side
PRIOR_POWER, TRUST_POWER = 4, 6
FLOOR = 0.3  # below this agreement with the map no answer of the decoder is believed
Along = Callable[[np.ndarray], np.ndarray]
"""From a mask ``(H, W) bool`` to all that moves with it; `motion.moving_along` is one."""
COMPANION = 0.1  # of the clicked part's area: less that moves along is the flow's inaccuracy
TOGETHER = 0.75  # of a part must move along for it to belong
SURE = np.float32(10)  # the logit of a cell whose mask is given
SIDE = 854  # frames are made so small before their motion is estimated
FLOW_SPACING = 8  # pixels between the samples that tell the background's motion
NEAR = 15  # pixels around the part that are not taken for background
LEAST = 2.0  # pixels: a smaller motion against the background says nothing
OPENING = 5  # pixels: thinner strips are the flow's own blur


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


def answer(
    segmenter: Segmenter,
    embedding: Embedding,
    prompt: Prompt,
    found: Float32[np.ndarray, "s s"] | None,
    along: Along | None = None,
) -> Prediction:
    """The one mask that a prompt means.

    * A mask alone is its own answer.
    * With a box or a mask, the segmenter's candidate that honours the points best.
    * Points alone correct the mask that was found on this frame, or that of the first including point. See `correct`.

    Args:
        segmenter: asked on this frame.
        embedding: of the frame.
        prompt: what was said.
        found: logits of the object's mask where it was already followed to this frame.
        along: tells what moves together with a mask of this frame; a part that does is added to the first click's.

    Raises:
        NbHelpersError: excluding points alone, and no mask that they could correct.
    """
    if is_given(prompt):
        return given(prompt, embedding.size)
    if prompt.mask is not None or prompt.box is not None:
        return _candidate(segmenter.predict(embedding, prompt), prompt)
    if found is None:
        if INCLUDE not in prompt.labels:
            raise NbHelpersError(
                "excluding points alone do not say what the object is",
                given=f"{len(prompt.points)} excluding points",
                do="add a point that includes, a box or a mask; or follow the object to this frame first",
            )
        first = Prompt(prompt.points[prompt.labels == INCLUDE][:1])
        start = _candidate(segmenter.predict(embedding, first), first)
        if along is not None:
            start = _with_companion(segmenter, embedding, start, along)
        if len(prompt.points) == 1:
            return start
        found = start.logits[0]
    return correct(segmenter, embedding, prompt, found)


def is_given(prompt: Prompt) -> bool:
    """Whether a prompt is a mask alone, painted or imported."""
    return prompt.mask is not None and not len(prompt.points) and prompt.box is None


def given(prompt: Prompt, size: tuple[int, int]) -> Prediction:
    """A mask alone, taken as it is."""
    logits = np.where(prompt.mask, SURE, -SURE) if prompt.mask.dtype == np.bool_ else prompt.mask
    return Prediction(logits[None], np.ones(1, np.float32), size, logits.shape)


def _with_companion(segmenter: Segmenter, embedding: Embedding, start: Prediction, along: Along) -> Prediction:
    """A mask with the part beside it that moves as it does, where the segmenter sees such a part."""
    mask = start.best
    region = along(mask)
    point = point_beside(region, mask, COMPANION)
    if point is None:
        return start
    part = _candidate(segmenter.predict(embedding, Prompt(point[None])), None)
    seen = part.best
    if np.count_nonzero(seen & region) < TOGETHER * np.count_nonzero(seen):
        return start
    return Prediction(
        np.maximum(start.logits, part.logits), np.minimum(start.scores, part.scores), start.size, start.extent
    )


def correct(
    segmenter: Segmenter, embedding: Embedding, prompt: Prompt, found: Float32[np.ndarray, "s s"]
) -> Prediction:
    """Change a mask as little as its clicks ask for.

    An including click that the mask does not cover adds the part that this click alone shows. Where an excluding
    click is still covered, all clicks and the mask are put to the segmenter, and of the candidates that honour the
    clicks the one nearest to the mask is taken; if there is none, the connected part under the click is dropped.
    Clicks that the mask already honours change nothing.

    Args:
        segmenter: asked on this frame.
        embedding: of the frame.
        prompt: points only.
        found: logits of the mask to correct, in the segmenter's low resolution.
    """
    score = np.ones(1, np.float32)
    logits = found
    for point in prompt.points[prompt.labels == INCLUDE]:
        if not _covers(logits, point, embedding.size):
            part = _candidate(segmenter.predict(embedding, Prompt(point[None])), None)
            logits, score = np.maximum(logits, part.logits[0]), part.scores
    excluded = prompt.points[prompt.labels == EXCLUDE]
    if any(_covers(logits, point, embedding.size) for point in excluded):
        logits, score = _taken_away(segmenter, embedding, prompt, logits)
    return Prediction(logits[None], score, embedding.size, logits.shape)


def _taken_away(
    segmenter: Segmenter, embedding: Embedding, prompt: Prompt, logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    asked = [segmenter.predict(embedding, Prompt(prompt.points, prompt.labels, mask=logits))]
    if INCLUDE in prompt.labels:
        asked.append(segmenter.predict(embedding, Prompt(prompt.points, prompt.labels)))
    candidates = [(p.logits[i], p.scores[i : i + 1]) for p in asked for i in range(len(p))]
    before = (logits > 0).astype(np.float32)
    honest = [
        (soft_iou((other > 0).astype(np.float32), before), number)
        for number, (other, _) in enumerate(candidates)
        if (other > 0).any()
        and all(
            _covers(other, point, embedding.size) == bool(label)
            for point, label in zip(prompt.points, prompt.labels, strict=True)
        )
    ]
    if honest:
        nearest, score = candidates[max(honest)[1]]
        return nearest, np.clip(score, 0, 1)
    parts = components(logits > 0)
    under = {parts[_cell(logits, point, embedding.size)] for point in prompt.points[prompt.labels == EXCLUDE]} - {0}
    return np.where(np.isin(parts, list(under)), -SURE, logits), np.ones(1, np.float32)


def _candidate(candidates: Prediction, prompt: Prompt | None) -> Prediction:
    """One candidate as a prediction of its own: the model's choice, or the one that honours the points best."""
    points = [] if prompt is None else [(float(x), float(y)) for x, y in prompt.points]
    index = candidates.agreeing(points, prompt.labels.tolist()) if points else candidates.choice
    score = np.clip(candidates.scores[index : index + 1], 0, 1)
    return Prediction(candidates.logits[index][None], score, candidates.size, candidates.extent)


def _cell(logits: np.ndarray, point: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the cell that holds a point of the frame."""
    x, y = (point + 0.5) / size[::-1] * logits.shape[::-1]
    return min(int(y), logits.shape[0] - 1), min(int(x), logits.shape[1] - 1)


def _covers(logits: np.ndarray, point: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether the mask of ``logits`` at frame size covers a point."""
    x, y = np.clip(np.rint(point).astype(int), 0, np.array(size[::-1]) - 1)
    return bool(upsample(logits, logits.shape, size)[y, x] > 0)


def moving_along(
    frame: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """What touches a part and moves as it does, the part itself included; the part alone where nothing can be told.

    The background's motion is one affine map (RANSAC over the optical flow outside the part). A pixel moves along
    when its motion against the background is nearer to the part's median motion than half of that motion is long.

    Args:
        frame: RGB.
        other: a neighbouring frame.
        mask: the part in ``frame``.
    """
    height, width = mask.shape
    scale = min(1.0, SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    part = cv2.resize(mask.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST).astype(bool)
    motion = _against_background(*(cv2.resize(i, small, interpolation=cv2.INTER_AREA) for i in (frame, other)), part)
    if motion is None or not part.any():
        return mask
    own = np.median(motion[part], axis=0)
    speed = float(np.linalg.norm(own))
    if speed < LEAST:
        return mask
    along = np.linalg.norm(motion - own, axis=2) < speed / 2
    regions = components(along | part)
    touching = np.isin(regions, np.unique(regions[part]))
    strips = cv2.morphologyEx((touching & along).astype(np.uint8), cv2.MORPH_OPEN, np.ones((OPENING, OPENING)))
    return mask | cv2.resize(strips, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def point_beside(region: Bool[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], least: float) -> np.ndarray | None:
    """The deepest ``(x, y)`` of a region outside a mask; None where less than ``least`` of the mask's area is left."""
    rest = region & ~mask
    if np.count_nonzero(rest) < least * np.count_nonzero(mask):
        return None
    points = deepest_points(rest, 1, 1)
    return points[0] if len(points) else None


def _against_background(
    frame: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], part: Bool[np.ndarray, "h w"]
) -> np.ndarray | None:
    """``(h, w, 2)`` optical flow less the background's; None where there is no background to tell."""
    height, width = part.shape
    if min(height, width) < 4 * FLOW_SPACING:
        return None
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (frame, other)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    rows, columns = np.mgrid[0:height:FLOW_SPACING, 0:width:FLOW_SPACING]
    around = cv2.dilate(part.astype(np.uint8), np.ones((2 * NEAR + 1,) * 2)).astype(bool)
    outside = ~around[rows, columns]
    if np.count_nonzero(outside) < 3:
        return None
    start = np.stack([columns, rows], -1)[outside].astype(np.float32)
    affine, _ = cv2.estimateAffine2D(start, start + flow[rows, columns][outside], ransacReprojThreshold=1.0)
    if affine is None:
        return None
    y, x = np.mgrid[:height, :width].astype(np.float32)
    places = np.stack([x, y], -1)
    return flow - (places @ affine[:, :2].T + affine[:, 2] - places)
