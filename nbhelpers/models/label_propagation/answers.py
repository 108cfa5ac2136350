"""What a prompt on one frame of a clip means, given the mask that was already there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import upsample
from nbhelpers.core.prompts import EXCLUDE, INCLUDE, Prompt
from nbhelpers.core.regions import components
from nbhelpers.models.label_propagation.motion import point_beside
from nbhelpers.models.label_propagation.prompts import soft_iou
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding, Prediction

Along = Callable[[np.ndarray], np.ndarray]
"""From a mask ``(H, W) bool`` to all that moves with it; `motion.moving_along` is one."""
COMPANION = 0.1  # of the clicked part's area: less that moves along is the flow's inaccuracy
TOGETHER = 0.75  # of a part must move along for it to belong
SURE = np.float32(10)  # the logit of a cell whose mask is given


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
