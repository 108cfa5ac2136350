"""Which of the views that a person prompted are followed: one wrong click shall not spoil all the others.

Two prompts contradict each other when what one of them claims lies, seen from the other view, where that one says that
the object is not. Of such prompts those are followed that the fewest others contradict, then those that drew a box or
a mask, then what was said first. A prompt that is not followed still holds in its own view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from nbhelpers.core.masks import mask_logits
from nbhelpers.models.label_propagation.decoding import CERTAIN_LOGIT
from nbhelpers.models.values import Prediction
from nbhelpers.multiview.evidence import Evidence, read_mask
from nbhelpers.multiview.order import nearest
from nbhelpers.multiview.propagate import Finder, Found

ENOUGH = 8  # points that two views have in common, from which these are asked and not the features
AMONG = 0.2  # of what a prompt claims: if less lies in the object as another view has it, they contradict each other
COMPARED = 4  # views with which each one is compared, so that the time does not grow with the square of their number
COUNTED = 0.5  # of what a correction adds must be told by the other view
LIKENESS = 0.5  # see `Votes`: what looks less alike in two views is not the same thing, and tells nothing


@dataclass(frozen=True, eq=False)
class Claim:
    """What a person said in one view.

    Attributes:
        prediction: the one mask that it means.
        corrects: ``(H, W)`` the mask that was found here before, where clicks corrected it.
        bounds: ``(H, W)`` outside of which the person said that the object is not: a drawn box or a mask.
        proposed: nobody said it; it was found otherwise, for example by a phrase.
    """

    prediction: Prediction
    corrects: Bool[np.ndarray, "h w"] | None = None
    bounds: Bool[np.ndarray, "h w"] | None = None
    proposed: bool = False


class Accord:
    """Compares what was said in views.

    A prompt of its own claims its whole mask, and two of them contradict each other when neither lies in the other. A
    correction claims the part that it adds, which contradicts a view whose drawn box or mask leaves that part out. A
    click that adds to an object that was clicked contradicts nothing: the click may have been read too small.

    Args:
        claims: by view, in the order in which they were made.
        anchors: their masks on the decoder's grid.
        finder: of the photos.
        likeness: of each two photos; a view is compared with those that are most like it.
        evidence: points of the scene, where there are any.
    """

    def __init__(
        self,
        claims: Mapping[int, Claim],
        anchors: Mapping[int, Found],
        finder: Finder,
        likeness: Float[np.ndarray, "v v"],
        evidence: Evidence | None,
    ):
        self.claims, self.anchors, self.finder = claims, anchors, finder
        self.likeness, self.evidence = likeness, evidence

    def followed(self) -> tuple[int, ...]:
        """The views whose prompts go together, in the order in which they were made."""
        pairs = {
            frozenset((v, other)) for v in self.claims for other in nearest(self.likeness, v, self.claims, COMPARED)
        }
        pairs = {pair for pair in pairs if self.contradict(*sorted(pair))}
        against = {view: {other for pair in pairs if view in pair for other in pair} - {view} for view in self.claims}
        kept: list[int] = []
        for view in sorted(self.claims, key=lambda v: (self.claims[v].proposed, len(against[v]), not self._drawn(v))):
            if not against[view] & set(kept):
                kept.append(view)
        return tuple(view for view in self.claims if view in kept)

    def contradict(self, a: int, b: int) -> bool:
        """Whether what was said in two views cannot both be meant."""
        corrections = [view for view in (a, b) if self.claims[view].corrects is not None]
        if not corrections:
            shares = [share for share in (self.among(a, b), self.among(b, a)) if share is not None]
            return bool(shares) and max(shares) < AMONG
        for view in corrections:
            other = b if view == a else a
            share = self.among(view, other) if self._drawn(other) else None
            if share is not None and share < AMONG:
                return True
        return False

    def among(self, view: int, other: int) -> float | None:
        """Share of what is claimed in a view that lies in the object as another view has it; None if it cannot be told.

        Told by the points that were found in both views, and where these are few by what looks alike. Of a correction
        only what lies in the other view's mask or outside its bounds counts: a box holds more than the object.
        """
        claimed = self._claimed(view)
        if not claimed.any():
            return None
        mask, counted = self._mask(other), np.ones_like(claimed)
        if self.claims[view].corrects is not None:
            counted = mask | ~self._cells(self.claims[other].bounds)
        cells = self._points(view, claimed, other)
        if len(cells) >= ENOUGH:
            (inside, _), (told, _) = read_mask(mask, cells), read_mask(counted, cells)
        else:
            whole = self.anchors[view]
            part = replace(whole, logits=np.where(claimed, whole.logits, -CERTAIN_LOGIT))
            votes = self.finder.vote(other, {view: whole if self.claims[view].corrects is None else part})
            there = (votes.probability > 0.5) & (votes.similarity >= LIKENESS)
            inside, told = mask[there], counted[there]
        if not len(told) or told.mean() < COUNTED:
            return None
        return float(inside[told > 0].mean())

    def _points(self, view: int, claimed: np.ndarray, other: int) -> np.ndarray:
        """Where another view shows the points inside ``claimed``, of those that were found in both views.

        Points that should merely be visible do not count: few are enough here to overrule a person.
        """
        if self.evidence is None:
            return np.empty((0, 2))
        here, there = self.evidence.visible(view), self.evidence.visible(other)
        inside, sure = read_mask(claimed, here.cells)
        own = here.points[(inside > 0) & sure & (here.weights == 1)]
        return there.cells[np.isin(there.points, own) & (there.weights == 1)]

    def _claimed(self, view: int) -> np.ndarray:
        before = self.claims[view].corrects
        return self._mask(view) if before is None else self._mask(view) & ~self._cells(before)

    def _drawn(self, view: int) -> bool:
        return self.claims[view].bounds is not None and not self.claims[view].proposed

    def _mask(self, view: int) -> np.ndarray:
        return self.anchors[view].logits > 0

    def _cells(self, mask: np.ndarray) -> np.ndarray:
        return mask_logits(mask, next(iter(self.anchors.values())).logits.shape) > 0
