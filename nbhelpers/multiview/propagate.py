"""From the object's mask in some photos to its mask in another one, by the similarity of features and colours."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32

from nbhelpers.core.masks import mask_logits
from nbhelpers.models.label_propagation.decoding import decode_map, mask_side, sigmoid, soft_iou, variant_weights
from nbhelpers.models.label_propagation.votes import MemoryFrame, Votes, encode_memory, resize_map, vote
from nbhelpers.models.values import Prediction
from nbhelpers.multiview.looks import NO_MEANS, looks
from nbhelpers.multiview.order import Survey
from nbhelpers.multiview.views import Photos

APART = 200  # frames that two photos are apart, for `vote`: an object may be anywhere in the next photo
KEPT = 8  # views whose cells are kept in memory, 5 MB each


@dataclass(frozen=True, eq=False)
class Found:
    """The object in one view, on the decoder's grid.

    Attributes:
        logits: ``(s, s)``, above 0 is inside.
        likeness: of the cells voted inside to the object in the views that voted; see `Votes`.
        agreement: 0 to 1, how well the mask fits the map that it was asked with.
    """

    logits: Float32[np.ndarray, "s s"]
    likeness: float
    agreement: float

    @property
    def share(self) -> Float32[np.ndarray, "s s"]:
        """How likely each cell belongs to the object, 0 to 1."""
        return sigmoid(self.logits)


class Finder:
    """Carries one object from view to view.

    Args:
        photos: of the scene.
        survey: of these photos.
    """

    def __init__(self, photos: Photos, survey: Survey):
        self.photos, self.survey = photos, survey
        self._cells: OrderedDict[int, tuple[Found, MemoryFrame]] = OrderedDict()

    def grid(self, view: int) -> int:
        """Side of the decoder's grid."""
        return mask_side(self.photos.segmenter, self.photos.embedding(view))

    def given(self, view: int, prediction: Prediction) -> Found:
        """A mask that a person gave or confirmed."""
        side = self.grid(view)
        if prediction.logits.shape[1:] == (side, side):
            logits = prediction.logits[prediction.choice]
        else:
            logits = mask_logits(prediction.best, (side, side))
        return Found(logits.astype(np.float32), 1.0, 1.0)

    def trust(self, view: int, found: Found) -> dict[str, float]:
        """How well each recipe of `nbhelpers.models.label_propagation.decoding` does where the mask is known."""
        blurred = resize_map(resize_map(found.share, len(found.share) // 2), len(found.share))
        return variant_weights(self.photos.segmenter, self.photos.embedding(view), blurred, found.share)

    def vote(self, view: int, memory: Mapping[int, Found]) -> Votes:
        """What the object's masks in other views say of this one."""
        cells = [self._remembered(other, found) for other, found in memory.items()]
        return vote(0, looks(self.photos, view, self.survey), NO_MEANS, cells)

    def decode(self, view: int, share: Float[np.ndarray, "s s"], likeness: float, trust: Mapping[str, float]) -> Found:
        """The mask that a map of the object asks for."""
        answer = decode_map(self.photos.segmenter, self.photos.embedding(view), share, trust)
        return Found(answer.logits, likeness, answer.agreement)

    def back(self, view: int, found: Found, anchors: Mapping[int, Found], asked: Sequence[int]) -> float:
        """How well the object is found again in prompted views from this view alone: mean soft IoU, 0 to 1.

        Args:
            view: whose mask is judged.
            found: the mask.
            anchors: the masks of prompted views.
            asked: which of these are asked.
        """
        if not (found.logits > 0).any():
            return 0.0
        fits = [soft_iou(self.vote(anchor, {view: found}).probability, anchors[anchor].share) for anchor in asked]
        return float(np.mean(fits))

    def _remembered(self, view: int, found: Found) -> MemoryFrame:
        kept = self._cells.pop(view, None)
        if kept is None or kept[0] is not found:
            while len(self._cells) >= KEPT:
                self._cells.popitem(last=False)
            cells = encode_memory(0, looks(self.photos, view, self.survey), NO_MEANS, found.share)
            kept = found, replace(cells, frame=APART)
        self._cells[view] = kept
        return kept[1]
