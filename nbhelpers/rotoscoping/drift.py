"""How far a tracked mask is to be trusted: the tracker's own score, and what optical flow says of its neighbour."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.core.images import fit
from nbhelpers.core.metrics import iou

LONGEST = 480  # pixels of the longer side at which flow is computed
SMALL = 24  # pixels of that copy; of smaller masks flow says nothing
DOUBTFUL = 0.5  # of the drift score, from which a frame should be looked at
GONE = 0.75  # drift score of a frame on which the object vanishes
SURE, CARRIED = 0.9, 0.9  # model score and overlap that are usual where nothing is known yet
LESS_SURE, LESS_CARRIED = 0.1, 0.2  # of what is usual for the object: so much less is doubtful
UNSURE, ELSEWHERE = 0.5, 0.4  # model score and overlap that are doubtful whatever is usual
JUMP, USUAL_JUMP = 1.75, 1.25  # factor of the area that is doubtful, and that is nothing to speak of


@dataclass(frozen=True)
class Drift:
    """How likely an object's mask has left the object on one frame.

    Attributes:
        score: 0 (sure) to 1 (surely wrong); from 0.5 on the frame should be looked at.
        model: the tracker's confidence, 0 to 1.
        flow_overlap: IoU with the neighbour's mask, carried here by optical flow; None where that says nothing.
        area_jump: area over that of the carried mask; None where that says nothing.
        why: one sentence for people.
    """

    score: float
    model: float
    flow_overlap: float | None
    area_jump: float | None
    why: str

    @property
    def is_doubtful(self) -> bool:
        """Whether the frame should be looked at."""
        return self.score >= DOUBTFUL


def judge(
    model: float,
    overlap: float | None = None,
    jump: float | None = None,
    gone: bool = False,
    usual: tuple[float, float] = (SURE, CARRIED),
) -> Drift:
    """Put the signs together: the worst of them counts.

    A thin and quick object overlaps little with its neighbour even where all is well, and trackers differ in how sure
    they are. So both are held against what is usual for the object.

    Args:
        model: the tracker's confidence, 0 to 1.
        overlap: see `compare`.
        jump: see `compare`.
        gone: the tracker believes the object to be gone.
        usual: medians of ``model`` and ``overlap`` over the object's frames.
    """
    if gone:
        vanished = overlap is not None  # the neighbour's mask did not leave the picture, and yet nothing is here
        why = "the object vanishes from one frame to the next" if vanished else "the object is gone"
        return Drift(GONE if vanished else 0.0, model, overlap, jump, why)
    doubts = {f"the tracker itself is unsure ({model:.0%})": _doubt(model, usual[0], LESS_SURE, UNSURE)}
    if overlap is not None:
        why = f"only {overlap:.0%} of it is where the motion of the picture carries it"
        doubts[why] = _doubt(overlap, usual[1], LESS_CARRIED, ELSEWHERE)
    if jump is not None:
        factor = max(jump, 1 / max(jump, 1e-3))
        grown = "grew" if jump > 1 else "shrank"
        excess = (factor - USUAL_JUMP) / (JUMP - USUAL_JUMP)
        doubts[f"its area {grown} {factor:.1f}-fold from one frame to the next"] = DOUBTFUL * excess
    why, score = max(doubts.items(), key=lambda item: item[1])
    score = min(max(score, 0.0), 1.0)
    return Drift(round(score, 3), model, overlap, jump, why if score >= DOUBTFUL / 2 else "nothing is odd")


def compare(
    mask: Bool[np.ndarray, "h w"],
    here: UInt8[np.ndarray, "sh sw"],
    before: Bool[np.ndarray, "h w"],
    there: UInt8[np.ndarray, "sh sw"],
) -> tuple[float | None, float | None]:
    """Overlap and area jump of a mask, against the neighbour's mask carried to this frame.

    Args:
        mask: on the frame.
        here: the frame, as `shrink` makes it.
        before: the mask on the neighbour.
        there: the neighbour, as `shrink` makes it.

    Returns:
        IoU and factor of the area; None and None where the neighbour's mask is too small to tell.
    """
    shape = here.shape[::-1]
    area = [cv2.resize(m.astype(np.float32), shape, interpolation=cv2.INTER_AREA) > 0.5 for m in (mask, before)]
    if np.count_nonzero(area[1]) < SMALL:
        return None, None
    carried = carry(area[1], flow(here, there))
    size = np.count_nonzero(carried)
    if size < SMALL:  # it leaves the picture
        return None, None
    return round(iou(area[0], carried), 4), round(int(np.count_nonzero(area[0])) / int(size), 4)


def shrink(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "sh sw"]:
    """A frame, grey and small enough for `flow` to be quick."""
    return cv2.cvtColor(fit(image, LONGEST), cv2.COLOR_RGB2GRAY)


def flow(here: UInt8[np.ndarray, "h w"], there: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 2"]:
    """From each pixel of one grey picture to where it is in the other.

    Source: dense inverse search, Kroeger et al. 2016, arXiv 1603.03590; OpenCV's ``DISOpticalFlow``.
    """
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(here, there, None)


def carry(mask: Bool[np.ndarray, "h w"], moved: Float32[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """A mask of the other picture, as it lies on the one that the flow starts from."""
    rows, columns = np.indices(mask.shape, np.float32)
    at = columns + moved[..., 0], rows + moved[..., 1]
    return cv2.remap(mask.astype(np.float32), *at, cv2.INTER_LINEAR) > 0.5


def _doubt(value: float, usual: float, less: float, bad: float) -> float:
    """0 at what is usual, 0.5 at ``less`` (a share) below it, and at ``bad`` at the latest."""
    return DOUBTFUL * max((1 - value / max(usual, 1e-6)) / less, (1 - value) / (1 - bad) if value < bad else 0.0)
