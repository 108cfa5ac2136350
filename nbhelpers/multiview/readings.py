"""What a single click means: of its part, its larger part and the whole, the one that other photos show again.

A click fits a part as well as the whole (Kirillov et al. 2023, arXiv 2304.02643, section 3). One photo cannot tell;
several can: a brick of a toy looks like many other bricks, the toy is found again and leads back to where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nbhelpers.core.masks import box_of
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.decoding import soft_iou
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.multiview.order import nearest
from nbhelpers.multiview.propagate import Finder, Found

VIEWS = 2  # most similar views that are asked
SAME = 0.85  # IoU from which two readings are one
LEAST = 0.0005  # of the photo's area: smaller readings are not followed


@dataclass(frozen=True, eq=False)
class Reading:
    """One reading of a click.

    Attributes:
        candidate: index of the segmenter's candidate that it started from.
        prediction: its mask, asked again with its box, which makes it exact.
        again: how well it is found in other views and back from there, 0 to 1.
    """

    candidate: int
    prediction: Prediction
    again: float


def read(segmenter: Segmenter, embedding: Embedding, prompt: Prompt, candidate: int) -> Prediction | None:
    """One candidate of a click, asked again together with its box; None where it is empty.

    Args:
        segmenter: asked.
        embedding: of the photo.
        prompt: the click.
        candidate: index into the segmenter's candidates.
    """
    box = box_of(segmenter.predict(embedding, prompt).mask(candidate))
    if box is None:
        return None
    x0, y0, x1, y1 = box
    asked = segmenter.predict(embedding, Prompt(prompt.points, prompt.labels, (x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5)))
    index = asked.agreeing([tuple(map(float, point)) for point in prompt.points], prompt.labels.tolist())
    chosen = slice(index, index + 1)
    return Prediction(asked.logits[chosen], np.clip(asked.scores[chosen], 0, 1), asked.size, asked.extent)


def readings(finder: Finder, view: int, prompt: Prompt, likeness: Float[np.ndarray, "v v"]) -> list[Reading]:
    """The different readings of a click, the one that is found again best first.

    Args:
        finder: of the photos.
        view: in which was clicked.
        prompt: the click.
        likeness: of each two photos.
    """
    segmenter, embedding = finder.photos.segmenter, finder.photos.embedding(view)
    different: list[tuple[int, Prediction]] = []
    for candidate in range(len(segmenter.predict(embedding, prompt))):
        prediction = read(segmenter, embedding, prompt, candidate)
        if prediction is None or (prediction.logits[0] > 0).mean() < LEAST:
            continue
        shape = (prediction.logits[0] > 0).astype(np.float32)
        if all(soft_iou(shape, (other.logits[0] > 0).astype(np.float32)) < SAME for _, other in different):
            different.append((candidate, prediction))
    if len(different) == 1:
        return [Reading(*different[0], 1.0)]
    others = nearest(likeness, view, range(len(finder.photos)), VIEWS)
    found = [Reading(candidate, p, _again(finder, view, p, others)) for candidate, p in different]
    return sorted(found, key=lambda reading: -reading.again)


def _again(finder: Finder, view: int, prediction: Prediction, others: list[int]) -> float:
    """Mean share of a mask that leads to other views and back, times the segmenter's confidence."""
    anchor = {view: finder.given(view, prediction)}
    trust = finder.trust(view, anchor[view])
    back = []
    for other in others:
        votes = finder.vote(other, anchor)
        there: Found = finder.decode(other, votes.probability, votes.similarity, trust)
        back.append(finder.back(other, there, anchor, [view]))
    return float(np.mean(back) * prediction.scores[0]) if back else float(prediction.scores[0])
