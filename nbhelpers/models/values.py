"""Values that models return: embeddings, predictions, class maps, geometry, local features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import upsample, view_logits
from nbhelpers.core.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Embedding:
    """A segmenter's features of an image, computed once and used by all prompts.

    Attributes:
        size: ``(H, W)`` of the image.
        model: catalog name of the segmenter; other segmenters refuse it.
        tensors: the segmenter's features by name; outside `nbhelpers.models` use `FeatureSegmenter.features`.
    """

    size: tuple[int, int]
    model: str
    tensors: Mapping[str, Any] = field(repr=False)

    def save(self, path: Path) -> None:
        """Write the embedding to a file, its tensors in half precision."""
        import torch

        half = {name: tensor.detach().to("cpu", torch.float16) for name, tensor in self.tensors.items()}
        torch.save({"size": tuple(self.size), "model": self.model, "tensors": half}, path)

    @classmethod
    def open(cls, path: Path, device: str) -> Embedding:
        """Read a file written by `save`, as float32 on a device."""
        import torch

        kept = torch.load(path, weights_only=True)
        tensors = {name: tensor.to(device).float() for name, tensor in kept["tensors"].items()}
        return cls(kept["size"], kept["model"], tensors)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Candidate masks of one prompt, or the selected masks of many points.

    The masks are stored as low-resolution logits and enlarged to image size on demand, so that 256 candidates on
    a 54-megapixel photo take 64 MB instead of 14 GB.

    Attributes:
        logits: ``(k, h, w) float32``; above 0 is inside.
        scores: ``(k,) float32``, predicted IoU of each mask.
        size: ``(H, W)`` of the image.
        extent: height and width, in logits pixels, of ``logits`` without padding.
        choice: index of the mask that the model selects.
    """

    logits: Float32[np.ndarray, "k h w"]
    scores: Float32[np.ndarray, " k"]
    size: tuple[int, int]
    extent: tuple[float, float]
    choice: int = 0

    def __post_init__(self):
        if self.logits.ndim != 3 or len(self.logits) != len(self.scores) or not 0 <= self.choice < len(self.scores):
            raise NbHelpersError(
                "a prediction is inconsistent",
                given=f"logits {self.logits.shape}, scores {self.scores.shape}, choice {self.choice}",
                expected="logits (k, h, w), scores (k,), 0 <= choice < k",
            )

    @classmethod
    def of_mask(cls, mask: Bool[np.ndarray, "H W"], score: float = 1.0) -> Prediction:
        """The prediction whose one mask is given, at image size."""
        logits = np.where(mask, np.float32(1), np.float32(-1))[None]
        return cls(logits, np.array([score], np.float32), mask.shape, mask.shape)

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, index: int) -> Bool[np.ndarray, "H W"]:
        """Mask ``index`` at image size."""
        return upsample(self.logits[index], self.extent, self.size) > 0

    @property
    def masks(self) -> Bool[np.ndarray, "k H W"]:
        """All masks at image size, computed at each call."""
        return np.stack([self.mask(index) for index in range(len(self))])

    @property
    def best(self) -> Bool[np.ndarray, "H W"]:
        """The selected mask at image size."""
        return self.mask(self.choice)

    def view(
        self, index: int, window: tuple[float, float, float, float], shape: tuple[int, int]
    ) -> Bool[np.ndarray, "vh vw"]:
        """Mask ``index`` within ``window`` (image pixels from the corner) at ``shape``; see `view_logits`."""
        return view_logits(self.logits[index], self.extent, self.size, window, shape) > 0

    def cleaned(self, max_hole_area: float, max_sprinkle_area: float) -> Prediction:
        """The prediction without small holes and small separate pieces in its masks.

        As ``max_hole_area`` and ``max_sprinkle_area`` of upstream's ``SAM2ImagePredictor``
        (sam2/utils/transforms.py, ``postprocess_masks``): logits of a hole become 10, those of a piece -10. The largest
        piece of a mask stays, however small it is.

        Args:
            max_hole_area: largest area of a hole that is filled, in cells of the logits; 0 fills none.
            max_sprinkle_area: largest area of a piece that is removed, in cells of the logits; 0 removes none.
        """
        logits = self.logits.copy()
        for mask in logits:
            for area, inside, value in ((max_hole_area, mask <= 0, 10.0), (max_sprinkle_area, mask > 0, -10.0)):
                if area > 0:
                    _, labels, stats, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=8)
                    small = stats[:, cv2.CC_STAT_AREA] <= area
                    small[1 + stats[1:, cv2.CC_STAT_AREA].argmax() if len(stats) > 1 else 0] = False
                    mask[small[labels] & inside] = value
        return replace(self, logits=logits)

    def agreeing(self, points: Sequence[tuple[float, float]], labels: Sequence[int]) -> int:
        """Index of the candidate that agrees best with some points.

        The model's choice can contradict a point: SAM 2 falls back to a more stable candidate even if that one covers
        an excluded point. Among the candidates that contradict the fewest points, the model's choice is returned if it
        is one of them, else the one with the highest predicted IoU. For a single point it is the model's choice.

        Args:
            points: ``(x, y)`` in pixels of the image.
            labels: 1 if the mask should cover the point, else 0.
        """
        if len(points) < 2:
            return self.choice
        inside = np.array(
            [[self.view(i, (x, y, x + 1, y + 1), (1, 1)).item() for x, y in points] for i in range(len(self))]
        )
        broken = (inside != np.asarray(labels, bool)).sum(1)
        best = np.flatnonzero(broken == broken.min())
        return self.choice if self.choice in best else int(best[self.scores[best].argmax()])


Choose = Callable[[int, Prediction], int]
"""Selects a candidate: called with the number of a point and its candidates."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """A probability map for each name: the prediction of a text encoder for one image.

    Attributes:
        probabilities: ``(n, h, w) float32``, summing to 1 over ``n`` at each cell; coarser than the image.
        names: the first name of each of the ``n`` classes.
        size: ``(H, W)`` of the image.
        model: catalog name of the text encoder.
    """

    probabilities: Float32[np.ndarray, "n h w"]
    names: tuple[str, ...]
    size: tuple[int, int]
    model: str

    def __post_init__(self):
        if self.probabilities.ndim != 3 or len(self.probabilities) != len(self.names):
            raise NbHelpersError(
                "a class map is inconsistent",
                given=f"probabilities {self.probabilities.shape}, {len(self.names)} names",
                expected="probabilities (n, h, w) for n names",
            )


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where each cell of each frame lies in space, in one world for all frames.

    Cells form a grid over the whole frame, as those of a segmenter's features do. Coordinates are z-scored over the
    clip: ``world = points * scale + shift``, with one scale for all axes, so that distances keep their proportions.

    Attributes:
        points: ``(t, h, w, 3)``, z-scored; 0 where nothing is known.
        rays: ``(t, h, w, 3)``, unit vectors of the world from the camera through the cell; 0 where the frame has no
            camera.
        centers: ``(t, 3)``, where the cameras stand, z-scored; NaN where a frame has none.
        valid: ``(t, h, w)``, which cells have a point.
        confidence: ``(t, h, w)``, 0 to 1, of the points; 0 where there is none.
        scale: world units in a unit of ``points``.
        shift: ``(3,)``, the middle of the points in world units.
        source: catalog name or description of what made it.
        layers: feature maps ``(t, h_i, w_i, c_i)`` of several depths of a network, the shallowest first; often none.
        notes: what a person should know, e.g. which frames have no camera.
    """

    points: Float32[np.ndarray, "t h w 3"] = field(repr=False)
    rays: Float32[np.ndarray, "t h w 3"] = field(repr=False)
    centers: Float32[np.ndarray, "t 3"] = field(repr=False)
    valid: Bool[np.ndarray, "t h w"] = field(repr=False)
    confidence: Float32[np.ndarray, "t h w"] = field(repr=False)
    scale: float
    shift: Float32[np.ndarray, " 3"]
    source: str
    layers: tuple[Float32[np.ndarray, "t _ _ _"], ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        shapes = {self.points.shape[:3], self.rays.shape[:3], self.valid.shape, self.confidence.shape}
        counts = {len(self.points), len(self.centers), *(len(layer) for layer in self.layers)}
        if len(shapes) != 1 or len(counts) != 1:
            raise NbHelpersError(
                "a geometry does not fit together",
                given=f"grids {sorted(shapes)}, frames {sorted(counts)}",
                expected="one grid (t, h, w) for points, rays, validity and confidence, and t of each",
            )
        if not np.isfinite(self.points).all() or not np.isfinite(self.rays).all():
            raise NbHelpersError("a geometry has points that are no numbers", given="NaN or infinite coordinates")

    def __len__(self) -> int:
        return len(self.points)

    @property
    def coverage(self) -> float:
        """Fraction of all cells that have a point."""
        return float(self.valid.mean())


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The masks of a clip's objects on one frame.

    Attributes:
        frame: index into the clip.
        predictions: by object id, a `Prediction` of one mask; its score is the tracker's confidence, 0 to 1.
        gone: ids of the objects predicted to be occluded or out of frame; their masks are empty.
        prompted: ids of the objects with prompts on this frame.
        others: by object id, another candidate for the object, such as a thing that looks the same; its score is the
            probability that this one is meant. Only for objects that have one, and from trackers that know.
        is_interpolated: the frame was not decoded; its masks lie between those of two tracked frames.
    """

    frame: int
    predictions: Mapping[int, Prediction]
    gone: frozenset[int] = frozenset()
    prompted: frozenset[int] = frozenset()
    others: Mapping[int, Prediction] = field(default_factory=dict)
    is_interpolated: bool = False


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Keypoints of an image and their descriptors.

    Attributes:
        size: ``(H, W)`` of the image.
        model: name of the extractor; descriptors of different extractors cannot be compared.
        points: ``(n, 2) float32``, ``(x, y)`` in pixels of the image.
        descriptors: ``(n, d) float32`` of length 1.
        scores: ``(n,) float32``, higher is more distinctive.
    """

    size: tuple[int, int]
    model: str
    points: Float32[np.ndarray, "n 2"] = field(repr=False)
    descriptors: Float32[np.ndarray, "n d"] = field(repr=False)
    scores: Float32[np.ndarray, " n"] = field(repr=False)

    def __post_init__(self):
        if not len(self.points) == len(self.descriptors) == len(self.scores):
            raise NbHelpersError(
                "features are inconsistent",
                given=f"{len(self.points)} points, {len(self.descriptors)} descriptors, {len(self.scores)} scores",
                expected="equal numbers",
            )

    def __len__(self) -> int:
        return len(self.points)


def check_same_model(first: LocalFeatures, second: LocalFeatures, model: str) -> None:
    """Raise an error for features of another extractor.

    Raises:
        NbHelpersError: they do not belong to ``model``.
    """
    for features in (first, second):
        if features.model != model:
            raise NbHelpersError(
                "the features belong to another extractor",
                given=features.model,
                expected=model,
                do="match features with the matcher that extracted them",
            )


def is_mask_prompt(prompt: Prompt) -> bool:
    """Whether a prompt is only a mask, painted or imported, which is used unchanged."""
    return prompt.mask is not None and prompt.box is None and not len(prompt.points)
