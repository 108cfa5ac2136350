"""Drift of tracked masks: the tracker's own score, and how well optical flow agrees with the neighbouring frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.images import fit
from nbhelpers.core.metrics import iou

FLOW_SIDE = 480  # pixels of the longer side at which optical flow is computed
MIN_AREA = 24  # pixels at that size; the flow of smaller masks says nothing
MIN_DOUBTFUL = 0.5  # drift score from which a frame is doubtful
VANISHED_SCORE = 0.75  # drift score of a frame on which the object vanishes
USUAL_SCORE, USUAL_OVERLAP = 0.9, 0.9  # where nothing is known about an object yet
SCORE_DROP, OVERLAP_DROP = 0.1, 0.2  # fraction below the object's usual value that is doubtful
MAX_BAD_SCORE, MAX_BAD_OVERLAP = 0.5, 0.4  # values that are doubtful whatever is usual
DOUBTFUL_JUMP, USUAL_JUMP = 1.75, 1.25  # factor of the area that is doubtful, and one that is not


@dataclass(frozen=True)
class Drift:
    """How likely an object's mask has left the object on one frame.

    Attributes:
        score: 0 (on the object) to 1 (wrong); from 0.5 on the frame is doubtful.
        model: the tracker's confidence, 0 to 1.
        flow_overlap: IoU with the neighbour's mask warped here by optical flow; None where that says nothing.
        area_jump: area divided by that of the warped mask; None where the flow says nothing.
        why: the reason in one sentence.
    """

    score: float
    model: float
    flow_overlap: float | None
    area_jump: float | None
    why: str

    @property
    def is_doubtful(self) -> bool:
        """Whether the frame should be inspected."""
        return self.score >= MIN_DOUBTFUL


def drift_score(
    model: float,
    overlap: float | None = None,
    jump: float | None = None,
    gone: bool = False,
    usual: tuple[float, float] = (USUAL_SCORE, USUAL_OVERLAP),
) -> Drift:
    """The drift of a mask: the worst of the tracker's score, the overlap and the jump counts.

    A thin and quick object overlaps little with its neighbour even where the mask is right, and trackers differ in
    their confidence. So both are compared with what is usual for the object.

    Args:
        model: the tracker's confidence, 0 to 1.
        overlap: see `flow_agreement`.
        jump: see `flow_agreement`.
        gone: the tracker believes the object to be gone.
        usual: medians of ``model`` and ``overlap`` over the object's frames.
    """
    if gone:
        vanished = overlap is not None  # the neighbour's mask did not leave the picture, and yet nothing is here
        why = "the object vanishes from one frame to the next" if vanished else "the object is gone"
        return Drift(VANISHED_SCORE if vanished else 0.0, model, overlap, jump, why)
    doubts = {f"the tracker itself is unsure ({model:.0%})": _doubt(model, usual[0], SCORE_DROP, MAX_BAD_SCORE)}
    if overlap is not None:
        why = f"only {overlap:.0%} of it is where the motion of the picture carries it"
        doubts[why] = _doubt(overlap, usual[1], OVERLAP_DROP, MAX_BAD_OVERLAP)
    if jump is not None:
        factor = max(jump, 1 / max(jump, 1e-3))
        grown = "grew" if jump > 1 else "shrank"
        excess = (factor - USUAL_JUMP) / (DOUBTFUL_JUMP - USUAL_JUMP)
        doubts[f"its area {grown} {factor:.1f}-fold from one frame to the next"] = MIN_DOUBTFUL * excess
    why, score = max(doubts.items(), key=lambda item: item[1])
    score = min(max(score, 0.0), 1.0)
    return Drift(round(score, 3), model, overlap, jump, why if score >= MIN_DOUBTFUL / 2 else "nothing is odd")


def flow_agreement(
    mask: Bool[np.ndarray, "h w"],
    here: UInt8[np.ndarray, "sh sw"],
    before: Bool[np.ndarray, "h w"],
    there: UInt8[np.ndarray, "sh sw"],
) -> tuple[float | None, float | None]:
    """Overlap and area jump of a mask, compared with the neighbour's mask warped to this frame.

    Args:
        mask: on the frame.
        here: the frame, as `to_small_grey` makes it.
        before: the mask on the neighbour.
        there: the neighbour, as `to_small_grey` makes it.

    Returns:
        IoU and factor of the area; None and None where the neighbour's mask is too small.
    """
    shape = here.shape[::-1]
    area = [cv2.resize(m.astype(np.float32), shape, interpolation=cv2.INTER_AREA) > 0.5 for m in (mask, before)]
    if np.count_nonzero(area[1]) < MIN_AREA:
        return None, None
    warped = warp_mask(area[1], optical_flow(here, there))
    size = np.count_nonzero(warped)
    if size < MIN_AREA:  # it leaves the picture
        return None, None
    return round(iou(area[0], warped), 4), round(int(np.count_nonzero(area[0])) / int(size), 4)


def to_small_grey(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "sh sw"]:
    """A grey copy of a frame that is small enough for a quick `optical_flow`."""
    return cv2.cvtColor(fit(image, FLOW_SIDE), cv2.COLOR_RGB2GRAY)


def optical_flow(here: UInt8[np.ndarray, "h w"], there: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 2"]:
    """Displacement of each pixel of one grey picture in the other.

    Source: dense inverse search, Kroeger et al. 2016, arXiv 1603.03590; OpenCV's ``DISOpticalFlow``.
    """
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(here, there, None)


def warp_mask(mask: Bool[np.ndarray, "h w"], moved: Float32[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """A mask of the other picture, warped to the one that the flow starts from."""
    rows, columns = np.indices(mask.shape, np.float32)
    at = columns + moved[..., 0], rows + moved[..., 1]
    return cv2.remap(mask.astype(np.float32), *at, cv2.INTER_LINEAR) > 0.5


def _doubt(value: float, usual: float, drop: float, bad: float) -> float:
    """0 at the usual value, 0.5 at a fraction ``drop`` below it, and 0.5 at ``bad`` at the latest."""
    return MIN_DOUBTFUL * max((1 - value / max(usual, 1e-6)) / drop, (1 - value) / (1 - bad) if value < bad else 0.0)
