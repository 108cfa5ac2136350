"""From a prompt or a probability map of an object to one mask by the mask decoder.

* A probability map becomes several prompts (`prompt_variants`), whose masks are averaged (`decode_map`).
* A prompt on a frame of a clip predicts a mask, or corrects the one that was tracked there (`predict_prompt`).
* A click on a part of an object is extended to the region that moves with it (`moving_region`).
* An object that is small or has thin parts is decoded in a window around it (`window_around`): SAM 2 resizes a frame of
  any size to one square, where such an object covers few cells of the features, and a window covers more.
* Low-resolution masks of many frames are kept in little memory (`PackedMasks`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import box_of, components, contour, deepest_points, tight_box, upsample
from nbhelpers.core.prompts import EXCLUDE, INCLUDE, Prompt
from nbhelpers.core.video import optical_flow
from nbhelpers.models.label_propagation.votes import FINENESS, resize_map
from nbhelpers.models.protocols import FeatureSegmenter
from nbhelpers.models.values import Embedding, Prediction, is_mask_prompt

LOGIT_RANGE = 20.0  # a certain cell is 10 inside and -10 outside, like mask prompts in sam2
CERTAIN_LOGIT = np.float32(10)  # the logit of a cell of a given mask
MIN_COMPONENT = 0.05  # of the object's area: smaller components of the map are not included in the box
MAX_POINTS, POINT_SPACING = 4, 0.08  # of a variant's points, and their distance as a fraction of the frame's side
AGREEMENT_POWER, WEIGHT_POWER = 4, 6
MIN_AGREEMENT = 0.3  # IoU with the map below which no mask of the decoder is used
MIN_COMPANION = 0.1  # of the clicked part's area: a smaller moving region is an error of the flow
MIN_MOVING = 0.75  # fraction of a region that must move along
FLOW_SIDE = 854  # longer side in pixels at which the motion is estimated
FLOW_SPACING = 8  # pixels between the samples of the background's motion
FLOW_MARGIN = 15  # pixels around the part that are excluded from the background
MIN_SPEED = 2.0  # pixels: a smaller motion relative to the background is noise
OPENING = 5  # pixels: thinner strips are blur of the flow
MovingRegion = Callable[[np.ndarray], np.ndarray]
"""From a mask ``(H, W) bool`` to all that moves with it; `moving_region` between two frames is one."""
LOGIT_STEPS = 8  # of a packed mask per unit of logits
EXTENTS, MIN_EXTENTS = 2.0, 1.3  # side of a window, in extents of the object, and the least of it
MIN_SIDE = 128  # pixels: a smaller window shows no more
MAX_SIDE = 0.8  # of a window, of the frame's shorter side
FINER = 2  # cells of a mask from a window for one of the decoder's grid: thin parts are narrower than its cells
MAX_THICKNESS = 8.0  # of an object that needs windows, in cells of the decoder's grid: two of the coarsest features


@dataclass(frozen=True, eq=False)
class DecodedMap:
    """The mask decoded from a probability map.

    Attributes:
        logits: ``(s, s)``, above 0 is inside.
        agreement: 0 to 1, the best IoU of a variant's mask with the map.
    """

    logits: Float32[np.ndarray, "s s"]
    agreement: float


def mask_side(segmenter: FeatureSegmenter, embedding: Embedding) -> int:
    """Side of the decoder's square grid of logits: four times that of the coarsest features."""
    return FINENESS * segmenter.features(embedding).shape[0]


def prompt_variants(probability: Float[np.ndarray, "s s"], size: tuple[int, int]) -> dict[str, Prompt]:
    """Prompts for a probability map: its box only, with points, with the map as mask prompt, with both.

    Args:
        probability: that a cell belongs to the object.
        size: ``(H, W)`` of the frame.

    Returns:
        By name; empty if no cell is above 0.5.
    """
    inside = probability > 0.5
    body = components(inside, MIN_COMPONENT * np.count_nonzero(inside)) > 0
    bounds = box_of(body)
    if bounds is None:
        return {}
    height, width = size
    scale = np.array([width, height]) / probability.shape[1]
    box = np.clip(np.array(bounds) * np.tile(scale, 2) - 0.5, -0.5, np.array([width, height, width, height]) - 0.5)
    points = (deepest_points(body, POINT_SPACING * probability.shape[1], MAX_POINTS) + 0.5) * scale - 0.5
    logits = map_logits(probability)
    return {
        "box": Prompt(box=box),
        "box and points": Prompt(points, box=box),
        "box and map": Prompt(box=box, mask=logits),
        "box, points and map": Prompt(points, box=box, mask=logits),
    }


def variant_weights(
    segmenter: FeatureSegmenter,
    embedding: Embedding,
    probability: Float[np.ndarray, "s s"],
    truth: Float[np.ndarray, "s s"],
) -> dict[str, float]:
    """IoU of each variant's mask, decoded from ``probability``, with ``truth``, on a frame whose mask is known."""
    masks = _decode_variants(segmenter, embedding, probability)
    return {name: soft_iou((logits > 0).astype(np.float32), truth) for name, logits in masks.items()}


def decode_map(
    segmenter: FeatureSegmenter,
    embedding: Embedding,
    probability: Float[np.ndarray, "s s"],
    weights: Mapping[str, float],
) -> DecodedMap:
    """The logits of all variants, averaged with the weight (IoU with the map)^4 x (``weights``)^6.

    If no variant agrees with the map, the map itself is returned as logits.

    Args:
        segmenter: provides the decoder.
        embedding: of the frame.
        probability: the map.
        weights: from `variant_weights`; 1 for variants without a weight.
    """
    masks = _decode_variants(segmenter, embedding, probability)
    ious = {name: soft_iou((logits > 0).astype(np.float32), probability) for name, logits in masks.items()}
    agreement = max(ious.values(), default=0.0)
    shares = np.array([ious[name] ** AGREEMENT_POWER * weights.get(name, 1.0) ** WEIGHT_POWER for name in masks])
    if agreement < MIN_AGREEMENT or shares.sum() <= 0:
        return DecodedMap(map_logits(probability), agreement)
    mean = np.tensordot((shares / shares.sum()).astype(np.float32), np.stack(list(masks.values())), 1)
    return DecodedMap(mean.astype(np.float32), agreement)


def map_logits(probability: Float[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"]:
    """A map of 0 to 1 as logits of -10 to 10, linearly."""
    return ((probability - 0.5) * LOGIT_RANGE).astype(np.float32)


def sigmoid(logits: Float[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"]:
    """Logits as a map of 0 to 1."""
    return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)


def soft_iou(a: Float[np.ndarray, "s s"], b: Float[np.ndarray, "s s"]) -> float:
    """Sum of the minimum over sum of the maximum of two maps; equals the IoU of binary maps."""
    larger = float(np.maximum(a, b).sum())
    return float(np.minimum(a, b).sum()) / larger if larger else 1.0


def _decode_variants(
    segmenter: FeatureSegmenter, embedding: Embedding, probability: np.ndarray
) -> dict[str, np.ndarray]:
    prompts = prompt_variants(probability, embedding.size)
    return {name: segmenter.predict(embedding, prompt).logits[0] for name, prompt in prompts.items()}


def predict_prompt(
    segmenter: FeatureSegmenter,
    embedding: Embedding,
    prompt: Prompt,
    tracked: Float32[np.ndarray, "s s"] | None,
    moving: MovingRegion | None = None,
) -> Prediction:
    """The mask of a prompt.

    * A mask alone is returned unchanged.
    * With a box or a mask, it is the segmenter's candidate that agrees best with the points.
    * Points alone correct the tracked mask of this frame, or else the mask of the first including point. See
      `correct_mask`.

    Args:
        segmenter: prompted on this frame.
        embedding: of the frame.
        prompt: on this frame.
        tracked: logits of the object's mask if it was already tracked to this frame.
        moving: returns the region that moves with a mask of this frame; it is added to that of the first click.

    Raises:
        NbHelpersError: only excluding points, and no mask to correct.
    """
    if is_mask_prompt(prompt):
        return mask_prediction(prompt, embedding.size)
    if prompt.mask is not None or prompt.box is not None:
        return _best_candidate(segmenter.predict(embedding, prompt), prompt)
    if tracked is None:
        if INCLUDE not in prompt.labels:
            raise NbHelpersError(
                "excluding points alone do not select an object",
                given=f"{len(prompt.points)} excluding points",
                do="add an including point, a box or a mask; or track the object to this frame first",
            )
        first = Prompt(prompt.points[prompt.labels == INCLUDE][:1])
        start = _best_candidate(segmenter.predict(embedding, first), first)
        if moving is not None:
            start = _with_companion(segmenter, embedding, start, moving)
        if len(prompt.points) == 1:
            return start
        return correct_mask(segmenter, embedding, prompt, start.logits[0])
    return correct_mask(segmenter, embedding, prompt, tracked)


def mask_prediction(prompt: Prompt, size: tuple[int, int]) -> Prediction:
    """The mask of a mask prompt as a prediction, unchanged."""
    logits = np.where(prompt.mask, CERTAIN_LOGIT, -CERTAIN_LOGIT) if prompt.mask.dtype == np.bool_ else prompt.mask
    return Prediction(logits[None], np.ones(1, np.float32), size, logits.shape)


def _with_companion(
    segmenter: FeatureSegmenter, embedding: Embedding, start: Prediction, moving: MovingRegion
) -> Prediction:
    """A mask with the adjacent part that moves with it, if the segmenter predicts such a part."""
    mask = start.best
    region = moving(mask)
    point = point_beside(region, mask, MIN_COMPANION)
    if point is None:
        return start
    part = _best_candidate(segmenter.predict(embedding, Prompt(point[None])), None)
    companion = part.best
    if np.count_nonzero(companion & region) < MIN_MOVING * np.count_nonzero(companion):
        return start
    return Prediction(
        np.maximum(start.logits, part.logits), np.minimum(start.scores, part.scores), start.size, start.extent
    )


def correct_mask(
    segmenter: FeatureSegmenter, embedding: Embedding, prompt: Prompt, tracked: Float32[np.ndarray, "s s"]
) -> Prediction:
    """Change a mask as little as its clicks require.

    An including click outside the mask adds the mask of this click alone. If an excluding click is still covered, the
    segmenter is prompted with all clicks and the mask, without and with the box around it, and of the candidates that
    agree with all clicks the one nearest to the mask is selected; if there is none, the connected component under the
    click is removed. Clicks that agree with the mask change nothing.

    Args:
        segmenter: prompted on this frame.
        embedding: of the frame.
        prompt: points only.
        tracked: logits of the mask to correct, at the segmenter's low resolution or finer.
    """
    score = np.ones(1, np.float32)
    logits = tracked
    for point in prompt.points[prompt.labels == INCLUDE]:
        if not _covers(logits, point, embedding.size):
            part = _best_candidate(segmenter.predict(embedding, Prompt(point[None])), None)
            logits, score = np.maximum(logits, resize_map(part.logits[0], len(logits))), part.scores
    excluded = prompt.points[prompt.labels == EXCLUDE]
    if any(_covers(logits, point, embedding.size) for point in excluded):
        logits = resize_map(logits, mask_side(segmenter, embedding))
        logits, score = _subtract(segmenter, embedding, prompt, logits)
    return Prediction(logits[None], score, embedding.size, logits.shape)


def _subtract(
    segmenter: FeatureSegmenter, embedding: Embedding, prompt: Prompt, logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mask without the regions of the excluding clicks, and its score."""
    predictions = [
        segmenter.predict(embedding, Prompt(prompt.points, prompt.labels, box=box, mask=logits))
        for box in (None, _box(logits, embedding.size))  # the box keeps the rest of the object
    ]
    if INCLUDE in prompt.labels:
        predictions.append(segmenter.predict(embedding, Prompt(prompt.points, prompt.labels)))
    candidates = [(p.logits[i], p.scores[i : i + 1]) for p in predictions for i in range(len(p))]
    before = (logits > 0).astype(np.float32)
    consistent = [
        (soft_iou((other > 0).astype(np.float32), before), number)
        for number, (other, _) in enumerate(candidates)
        if (other > 0).any()
        and all(
            _covers(other, point, embedding.size) == bool(label)
            for point, label in zip(prompt.points, prompt.labels, strict=True)
        )
    ]
    if consistent:
        nearest, score = candidates[max(consistent)[1]]
        return nearest, np.clip(score, 0, 1)
    parts = components(logits > 0)
    under = {parts[_cell(logits, point, embedding.size)] for point in prompt.points[prompt.labels == EXCLUDE]} - {0}
    return np.where(np.isin(parts, list(under)), -CERTAIN_LOGIT, logits), np.ones(1, np.float32)


def _best_candidate(candidates: Prediction, prompt: Prompt | None) -> Prediction:
    """A prediction with one candidate: the model's choice, or the one that agrees best with the points."""
    points = [] if prompt is None else [(float(x), float(y)) for x, y in prompt.points]
    index = candidates.choice if prompt is None or not points else candidates.agreeing(points, prompt.labels.tolist())
    score = np.clip(candidates.scores[index : index + 1], 0, 1)
    return Prediction(candidates.logits[index][None], score, candidates.size, candidates.extent)


def _box(logits: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box around a mask that is not empty, in pixels of the frame."""
    box = np.array(tight_box(logits > 0), float).reshape(2, 2) * np.array(size[::-1]) / logits.shape[::-1]
    (x0, y0), (x1, y1) = box.tolist()
    return x0, y0, max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1)


def _cell(logits: np.ndarray, point: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the cell that contains a point of the frame."""
    x, y = (point + 0.5) / size[::-1] * logits.shape[::-1]
    return min(int(y), logits.shape[0] - 1), min(int(x), logits.shape[1] - 1)


def _covers(logits: np.ndarray, point: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether the mask of ``logits`` at frame size covers a point."""
    x, y = np.clip(np.rint(point).astype(int), 0, np.array(size[::-1]) - 1)
    return bool(upsample(logits, (logits.shape[0], logits.shape[1]), size)[y, x] > 0)


def moving_region(
    frame: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """A part and the adjacent region that moves with it: for a click on a rider, the bicycle too.

    A single click may mean a part or the whole (Kirillov et al. 2023, arXiv 2304.02643, section 3); parts of an object
    move together relative to the background (common fate). The background's motion is one affine map (RANSAC
    over the optical flow outside the part). A pixel moves along if its motion relative to the background differs from
    the part's median motion by less than half the length of that motion.

    Args:
        frame: RGB.
        other: a neighbouring frame.
        mask: the part in ``frame``; returned unchanged if the motion cannot be estimated.
    """
    height, width = mask.shape
    scale = min(1.0, FLOW_SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    part = cv2.resize(mask.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST).astype(bool)
    near, far = (cv2.resize(each, small, interpolation=cv2.INTER_AREA) for each in (frame, other))
    motion = _relative_motion(near, far, part)
    if motion is None or not part.any():
        return mask
    own = np.median(motion[part], axis=0)
    speed = float(np.linalg.norm(own))
    if speed < MIN_SPEED:
        return mask
    along = np.linalg.norm(motion - own, axis=2) < speed / 2
    regions = components(along | part)
    touching = np.isin(regions, np.unique(regions[part]))
    strips = cv2.morphologyEx((touching & along).astype(np.uint8), cv2.MORPH_OPEN, np.ones((OPENING, OPENING)))
    return mask | cv2.resize(strips, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def point_beside(region: Bool[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], fraction: float) -> np.ndarray | None:
    """The deepest ``(x, y)`` of a region outside a mask; None if that is less than ``fraction`` of the mask's area."""
    rest = region & ~mask
    if np.count_nonzero(rest) < fraction * np.count_nonzero(mask):
        return None
    points = deepest_points(rest, 1, 1)
    return points[0] if len(points) else None


def _relative_motion(
    frame: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], part: Bool[np.ndarray, "h w"]
) -> np.ndarray | None:
    """``(h, w, 2)`` optical flow minus that of the background; None if too little background is visible."""
    height, width = part.shape
    if min(height, width) < 4 * FLOW_SPACING:
        return None
    near, far = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (frame, other))
    flow = optical_flow(near, far)
    rows, columns = np.mgrid[0:height:FLOW_SPACING, 0:width:FLOW_SPACING]
    around = cv2.dilate(part.astype(np.uint8), np.ones((2 * FLOW_MARGIN + 1,) * 2)).astype(bool)
    outside = ~around[rows, columns]
    if np.count_nonzero(outside) < 3:
        return None
    start = np.stack([columns, rows], -1)[outside].astype(np.float32)
    affine, _ = cv2.estimateAffine2D(start, start + flow[rows, columns][outside], ransacReprojThreshold=1.0)
    if affine is None:
        return None
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grid = np.stack([x, y], -1)
    return flow - (grid @ affine[:, :2].T + affine[:, 2] - grid)


class PackedMasks:
    """Low-resolution logits by frame, quantised to eighths between -15 and 15 and compressed: about 10 kB each."""

    def __init__(self):
        self._packed: dict[int, tuple[tuple[int, int], bytes]] = {}

    def __setitem__(self, frame: int, logits: Float32[np.ndarray, "s s"]) -> None:
        steps = np.clip(np.rint(logits * LOGIT_STEPS), -15 * LOGIT_STEPS, 15 * LOGIT_STEPS).astype(np.int8)
        self._packed[frame] = (logits.shape, zlib.compress(steps.tobytes(), 1))

    def __getitem__(self, frame: int) -> Float32[np.ndarray, "s s"]:
        shape, packed = self._packed[frame]
        return np.frombuffer(zlib.decompress(packed), np.int8).reshape(shape).astype(np.float32) / LOGIT_STEPS

    def __contains__(self, frame: int) -> bool:
        return frame in self._packed

    def drop(self, frame: int) -> None:
        """Drop a frame's logits, if there are any."""
        self._packed.pop(frame, None)


@dataclass(frozen=True)
class Window:
    """A square part of a frame, in pixels."""

    left: int
    top: int
    side: int

    def cut(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "a a 3"]:
        """The part of an image."""
        return np.ascontiguousarray(image[self._rows, self._columns])

    def cut_map(self, values: Float[np.ndarray, "h w"], size: tuple[int, int], side: int) -> Float32[np.ndarray, "s s"]:
        """The part of a map over a frame of ``size``, as a map of ``side`` cells over the window."""
        whole = cv2.resize(values.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        return _resize(whole[self._rows, self._columns], (side, side))

    def paste_map(
        self, part: Float[np.ndarray, "s s"], values: Float[np.ndarray, "a a"], size: tuple[int, int]
    ) -> Float32[np.ndarray, "b b"]:
        """A map over a frame of ``size``, `FINER` than ``part``, which replaces ``values`` inside of the window."""
        whole = cv2.resize(values.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        whole[self._rows, self._columns] = _resize(part.astype(np.float32), (self.side, self.side))
        return _resize(whole, (FINER * len(part), FINER * len(part)))

    def cut_points(self, points: Float32[np.ndarray, "n 2"]) -> Float32[np.ndarray, "n 2"] | None:
        """Points ``(x, y)`` of the frame in pixels of the window; None if one lies outside of it."""
        moved = points - np.array([self.left, self.top], np.float32)
        return moved if ((moved >= -0.5) & (moved <= self.side - 0.5)).all() else None

    @property
    def _rows(self) -> slice:
        return slice(self.top, self.top + self.side)

    @property
    def _columns(self) -> slice:
        return slice(self.left, self.left + self.side)


def thickness(mask: Bool[np.ndarray, "s s"]) -> float:
    """Mean width of a mask's parts in cells: twice its area by the length of its contour."""
    return 2 * np.count_nonzero(mask) / max(1, np.count_nonzero(contour(mask)))


def window_around(
    mask: Bool[np.ndarray, "s s"], others: Iterable[Bool[np.ndarray, "s s"]], size: tuple[int, int]
) -> Window | None:
    """A window around an object, twice as large as its largest extent, or less if the frame is not large enough.

    Args:
        mask: of the object on the frame, on the decoder's grid.
        others: its masks on other frames: the window is large enough for each.
        size: ``(H, W)`` of the frame.

    Returns:
        None if the mask is empty, or so large that a window would show hardly less than the frame does.
    """
    scale = np.array(size[::-1]) / mask.shape[0]
    boxes = [np.array(box).reshape(2, 2) * scale for each in (mask, *others) if (box := box_of(each)) is not None]
    if not mask.any():
        return None
    extent = max(float((high - low).max()) for low, high in boxes)
    side = round(min(max(EXTENTS * extent, MIN_SIDE), MAX_SIDE * min(size)))
    if side < max(MIN_EXTENTS * extent, MIN_SIDE):
        return None
    left, top = np.clip(np.rint(boxes[0].mean(0) - side / 2).astype(int), 0, np.array(size[::-1]) - side).tolist()
    return Window(left, top, side)


def _resize(values: Float32[np.ndarray, "h w"], shape: tuple[int, int]) -> Float32[np.ndarray, "a b"]:
    """Area means for fewer cells, bilinear for more."""
    mode = cv2.INTER_AREA if shape[0] < values.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(values, shape[::-1], interpolation=mode)
