"""Ambiguous and contradicting prompts, resolved by the other views.

A click may mean a part or the whole (Kirillov et al. 2023, arXiv 2304.02643, section 3). A single photo cannot resolve
this, but several can by cycle consistency: a brick of a toy matches other bricks, the whole toy matches only itself.

Two prompts are in conflict if the mask of one, transferred to the other view, lies outside the object there. Among
conflicting prompts those with the fewest conflicts are followed, then boxes and masks, then the earliest. A prompt that
is not followed still applies in its own view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from nbhelpers.core.masks import box_of, mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.decoding import CERTAIN_LOGIT, soft_iou
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.multiview.association import sample_mask
from nbhelpers.multiview.propagation import GridMask, MaskPropagator, most_similar_views

MAX_CHECKED_VIEWS = 2  # most similar views in which hypotheses are compared
IOU_SAME_HYPOTHESIS = 0.85  # from which two hypotheses are one
MIN_HYPOTHESIS_AREA = 0.0005  # of the photo's area: smaller masks are ignored
MIN_SHARED_POINTS = 8  # of two views, from which overlap is measured by points and not by features
MIN_OVERLAP = 0.2  # fraction of a prompted mask inside the object of another view, below which they are in conflict
MAX_COMPARED_VIEWS = 4  # for each view, so that the time does not grow with the square of their number
MIN_COUNTED = 0.5  # fraction of a correction that must be comparable in the other view
MIN_SIMILARITY = 0.5  # see `Votes`: less similar cells are ignored


@dataclass(frozen=True, eq=False)
class ClickHypothesis:
    """One interpretation of an ambiguous click.

    Attributes:
        candidate: index of the segmenter's candidate that it started from.
        prediction: its mask, predicted again with its box for accuracy.
        cycle_consistency: with other views, times the predicted IoU, 0 to 1.
    """

    candidate: int
    prediction: Prediction
    cycle_consistency: float


def predict_hypothesis(segmenter: Segmenter, embedding: Embedding, prompt: Prompt, candidate: int) -> Prediction | None:
    """Predict one candidate mask of a click again with its box; None if it is empty.

    Args:
        segmenter: predicts masks from points and boxes.
        embedding: of the photo.
        prompt: the click.
        candidate: index into the segmenter's candidates.
    """
    box = box_of(segmenter.predict(embedding, prompt).mask(candidate))
    if box is None:
        return None
    x0, y0, x1, y1 = box
    prediction = segmenter.predict(
        embedding, Prompt(prompt.points, prompt.labels, (x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5))
    )
    index = prediction.agreeing([(float(x), float(y)) for x, y in prompt.points], prompt.labels.tolist())
    chosen = slice(index, index + 1)
    return Prediction(
        prediction.logits[chosen], np.clip(prediction.scores[chosen], 0, 1), prediction.size, prediction.extent
    )


def click_hypotheses(propagator: MaskPropagator, view: int, prompt: Prompt) -> list[ClickHypothesis]:
    """The distinct hypotheses of a click, by decreasing cycle consistency.

    Args:
        propagator: of the photos.
        view: number of the clicked view.
        prompt: the click.
    """
    segmenter, embedding = propagator.photos.segmenter, propagator.photos.embedding(view)
    different: list[tuple[int, Prediction]] = []
    for candidate in range(len(segmenter.predict(embedding, prompt))):
        prediction = predict_hypothesis(segmenter, embedding, prompt, candidate)
        if prediction is None or (prediction.logits[0] > 0).mean() < MIN_HYPOTHESIS_AREA:
            continue
        shape = (prediction.logits[0] > 0).astype(np.float32)
        if all(
            soft_iou(shape, (other.logits[0] > 0).astype(np.float32)) < IOU_SAME_HYPOTHESIS for _, other in different
        ):
            different.append((candidate, prediction))
    if len(different) == 1:
        return [ClickHypothesis(*different[0], 1.0)]
    others = most_similar_views(propagator.similarity, view, range(len(propagator.photos)), MAX_CHECKED_VIEWS)
    found = [
        ClickHypothesis(candidate, p, _cycle_consistency(propagator, view, p, others)) for candidate, p in different
    ]
    return sorted(found, key=lambda hypothesis: -hypothesis.cycle_consistency)


def _cycle_consistency(propagator: MaskPropagator, view: int, prediction: Prediction, others: list[int]) -> float:
    """Mean cycle consistency of a mask over some views, times its predicted IoU."""
    anchor = {view: propagator.prompted_mask(view, prediction)}
    weights = propagator.prompt_weights(view, anchor[view])
    values = []
    for other in others:
        votes = propagator.vote(other, anchor)
        there = propagator.decode(other, votes.probability, votes.similarity, weights)
        values.append(propagator.cycle_consistency(other, there, anchor, [view]))
    return float(np.mean(values) * prediction.scores[0]) if values else float(prediction.scores[0])


@dataclass(frozen=True, eq=False)
class ViewPrompt:
    """The prompt of a view, for comparison with those of other views.

    Attributes:
        prediction: with a single mask.
        corrects: ``(H, W)`` the earlier mask, if the prompt corrects one.
        bounds: ``(H, W)`` a box or mask that bounds the object.
        proposed: not from the user, but for example from a phrase.
    """

    prediction: Prediction
    corrects: Bool[np.ndarray, "h w"] | None = None
    bounds: Bool[np.ndarray, "h w"] | None = None
    proposed: bool = False


class PromptConflicts:
    """Compares the prompts of several views.

    Two prompts are in conflict if neither mask lies in the other. Of a correction only the added part counts; it is in
    conflict with a view whose box or mask excludes that part. A click that adds to a clicked object is never in
    conflict, since the first click may have been interpreted as a part.

    Args:
        prompts: by view, in chronological order.
        masks: by view, those of the prompts on the decoder's grid.
        propagator: of the photos and their scene; each view is compared with the most similar ones.
    """

    def __init__(self, prompts: Mapping[int, ViewPrompt], masks: Mapping[int, GridMask], propagator: MaskPropagator):
        self.prompts, self.masks, self.propagator = prompts, masks, propagator

    def consistent_views(self) -> tuple[int, ...]:
        """The views whose prompts are followed, in chronological order."""
        pairs = {
            frozenset((v, other))
            for v in self.prompts
            for other in most_similar_views(self.propagator.similarity, v, self.prompts, MAX_COMPARED_VIEWS)
        }
        pairs = {pair for pair in pairs if self.in_conflict(*sorted(pair))}
        against = {view: {other for pair in pairs if view in pair for other in pair} - {view} for view in self.prompts}
        kept: list[int] = []
        for view in sorted(
            self.prompts, key=lambda v: (self.prompts[v].proposed, len(against[v]), not self._is_drawn(v))
        ):
            if not against[view] & set(kept):
                kept.append(view)
        return tuple(view for view in self.prompts if view in kept)

    def in_conflict(self, a: int, b: int) -> bool:
        """Whether the prompts of two views contradict each other."""
        corrections = [view for view in (a, b) if self.prompts[view].corrects is not None]
        if not corrections:
            overlaps = [overlap for overlap in (self.overlap(a, b), self.overlap(b, a)) if overlap is not None]
            return bool(overlaps) and max(overlaps) < MIN_OVERLAP
        for view in corrections:
            other = b if view == a else a
            overlap = self.overlap(view, other) if self._is_drawn(other) else None
            if overlap is not None and overlap < MIN_OVERLAP:
                return True
        return False

    def overlap(self, view: int, other: int) -> float | None:
        """Fraction of one view's mask that lies in the object of another view; None if it cannot be measured.

        Measured by points that both views observe, or if they are few by similar cells. Of a correction only the part
        in the other view's mask or outside its bounds counts, since a box contains more than the object.
        """
        own_part = self._own_part(view)
        if not own_part.any():
            return None
        mask, counted, bounds = self._mask(other), np.ones_like(own_part), self.prompts[other].bounds
        if self.prompts[view].corrects is not None:
            counted = mask if bounds is None else mask | ~self._to_grid(bounds)
        cells = self._points(view, own_part, other)
        if len(cells) >= MIN_SHARED_POINTS:
            (inside, _), (known, _) = sample_mask(mask, cells), sample_mask(counted, cells)
        else:
            whole = self.masks[view]
            part = replace(whole, logits=np.where(own_part, whole.logits, -CERTAIN_LOGIT))
            votes = self.propagator.vote(other, {view: whole if self.prompts[view].corrects is None else part})
            there = (votes.probability > 0.5) & (votes.similarity >= MIN_SIMILARITY)
            inside, known = mask[there], counted[there]
        if not len(known) or known.mean() < MIN_COUNTED:
            return None
        return float(inside[known > 0].mean())

    def _points(self, view: int, own_part: np.ndarray, other: int) -> np.ndarray:
        """Cells in another view of the points inside ``own_part`` that both views observe.

        Projected points do not count: a few of them would be enough to overrule the user.
        """
        points = self.propagator.point_votes
        if points is None:
            return np.empty((0, 2))
        here, there = points.visible(view), points.visible(other)
        inside, reliable = sample_mask(own_part, here.cells)
        own = here.points[(inside > 0) & reliable & (here.weights == 1)]
        return there.cells[np.isin(there.points, own) & (there.weights == 1)]

    def _own_part(self, view: int) -> np.ndarray:
        """The mask of a prompt on the grid; of a correction the part that it adds."""
        before = self.prompts[view].corrects
        return self._mask(view) if before is None else self._mask(view) & ~self._to_grid(before)

    def _is_drawn(self, view: int) -> bool:
        """Whether the user drew a box or a mask in a view."""
        return self.prompts[view].bounds is not None and not self.prompts[view].proposed

    def _mask(self, view: int) -> np.ndarray:
        """The whole mask of a prompt on the grid."""
        return self.masks[view].logits > 0

    def _to_grid(self, mask: np.ndarray) -> np.ndarray:
        """A mask of photo size on the grid."""
        return mask_logits(mask, next(iter(self.masks.values())).logits.shape) > 0
