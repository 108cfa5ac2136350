"""What every model of a task can do, and the values it answers with. No network code here.

Jobs are written against these; `nbhelpers.load` gives something that fulfils them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import upsample, view_logits
from nbhelpers.core.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a segmenter computed once for one image: all that later clicks need.

    Attributes:
        size: ``(H, W)`` of the image.
        model: catalog name of the segmenter; another one refuses it.
        tensors: the segmenter's own features, by name.
    """

    size: tuple[int, int]
    model: str
    tensors: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Candidate masks of one prompt, or the chosen masks of many points.

    The masks are kept as low-resolution logits and made at image size when asked for, so that 256 candidates on
    a 54-megapixel photo cost 64 MB and not 14 GB.

    Attributes:
        logits: ``(k, h, w) float32``; above 0 is inside.
        scores: ``(k,) float32``, the IoU that the model predicts for each mask.
        size: ``(H, W)`` of the image.
        extent: height and width, in logits pixels, of the part of ``logits`` that shows the image.
        choice: index of the mask that the model recommends.
    """

    logits: Float32[np.ndarray, "k h w"]
    scores: Float32[np.ndarray, " k"]
    size: tuple[int, int]
    extent: tuple[float, float]
    choice: int = 0

    def __post_init__(self):
        if self.logits.ndim != 3 or len(self.logits) != len(self.scores) or not 0 <= self.choice < len(self.scores):
            raise NbHelpersError(
                "a prediction does not fit together",
                given=f"logits {self.logits.shape}, scores {self.scores.shape}, choice {self.choice}",
                expected="logits (k, h, w), scores (k,), 0 <= choice < k",
            )

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, index: int) -> Bool[np.ndarray, "H W"]:
        """Mask ``index`` at image size."""
        return upsample(self.logits[index], self.extent, self.size) > 0

    @property
    def masks(self) -> Bool[np.ndarray, "k H W"]:
        """All masks at image size, made anew at each call."""
        return np.stack([self.mask(index) for index in range(len(self))])

    @property
    def best(self) -> Bool[np.ndarray, "H W"]:
        """The recommended mask at image size."""
        return self.mask(self.choice)

    def view(
        self, index: int, window: tuple[float, float, float, float], shape: tuple[int, int]
    ) -> Bool[np.ndarray, "vh vw"]:
        """Mask ``index`` seen through ``window`` (image pixels from the corner) at ``shape``; see `view_logits`."""
        return view_logits(self.logits[index], self.extent, self.size, window, shape) > 0

    def agreeing(self, points: Sequence[tuple[float, float]], labels: Sequence[int]) -> int:
        """Index of the candidate that a person who clicked ``points`` most likely meant.

        The model's own choice can ignore a click: SAM 2 falls back to a stabler candidate even where that one
        covers an excluded point. So among the candidates that break the fewest clicks, the model's choice is taken
        if it is one of them, else the one with the highest predicted IoU. A single click is left to the model.

        Args:
            points: ``(x, y)`` in pixels of the image.
            labels: 1 where the mask should cover the point, 0 where it should not.
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
"""Picks one of a point's candidates: called with the number of the point and its candidates."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Where each asked name is: what a text encoder answers for one image.

    Attributes:
        probabilities: ``(n, h, w) float32``, summing to 1 over ``n`` at each place; coarser than the image.
        names: the ``n`` classes, in the order asked; of a class with several names the first.
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
                "a class map does not fit together",
                given=f"probabilities {self.probabilities.shape}, {len(self.names)} names",
                expected="probabilities (n, h, w) for n names",
            )


@runtime_checkable
class Segmenter(Protocol):
    """Promptable image segmentation: encode once, ask as often as you like.

    Example:
        >>> segmenter = nbhelpers.load("segmenter")
        >>> embedding = segmenter.encode(image)                       # (480, 640, 3) uint8
        >>> segmenter.predict(embedding, Prompt(points=[(320, 200)])).masks.shape
        (4, 480, 640)
    """

    name: str
    device: str

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """Features of an RGB image."""
        ...

    def predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        """All candidate masks of one prompt: SAM's four, of which ``choice`` is recommended.

        Candidate 0 is the answer to an unambiguous prompt; 1, 2 and 3 read a single click as a part, a larger
        part and the whole (Kirillov et al. 2023, arXiv 2304.02643, section 3, "Resolving ambiguity").
        """
        ...

    def predict_points(
        self, embedding: Embedding, points: Shaped[np.ndarray, "n 2"], choose: Choose | None = None
    ) -> Prediction:
        """For each point, taken as a single click of its own, the candidate with the best predicted IoU.

        Or the one that ``choose(number, candidates)`` picks: it sees the number of the point and a `Prediction` of its
        three readings (part, larger part, whole), and answers with an index. So only one mask a point is ever kept.
        """
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Open-vocabulary dense prediction: which of the asked names is where.

    Example:
        >>> encoder = nbhelpers.load("text_encoder")
        >>> encoder.dense(image, ["cat", ["grass", "lawn"]]).probabilities.shape      # (480, 640, 3) uint8
        (2, 24, 32)
    """

    name: str
    device: str

    def dense(self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]]) -> ClassMap:
        """Probabilities over ``names``; a class may have several names, of which the most probable counts."""
        ...


@runtime_checkable
class Inpainter(Protocol):
    """Fills a hole in a photo.

    Example:
        >>> inpainter = nbhelpers.load("inpainter")
        >>> inpainter.fill(image, mask).shape
        (480, 640, 3)
    """

    name: str
    device: str
    side: int
    """Working size in pixels: a crop of ``side`` x ``side`` loses no detail."""

    def fill(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: Bool[np.ndarray, "h w"],
        prompt: str | None = None,
        seed: int = 0,
        strength: float = 1.0,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The photo with what ``mask`` covers made anew; same seed, same picture.

        Of a strength below 1 an inpainter that can keeps the shapes that are there and changes their looks.
        """
        ...


@runtime_checkable
class FrameSequence(Protocol):
    """What a tracker needs of a clip; `nbhelpers.core.video.Frames` is one."""

    size: tuple[int, int]
    """``(H, W)`` of every frame."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Frame ``index`` as RGB, decoded when asked for."""
        ...


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """Where the objects of a clip are on one frame.

    Attributes:
        frame: index into the clip.
        predictions: by object id, a `Prediction` of one mask; its score is the tracker's confidence in it, 0 to 1.
        gone: ids of the objects that the tracker believes to be hidden or out of the picture; their masks are empty.
        prompted: ids of the objects that a person has prompted on this very frame.
    """

    frame: int
    predictions: Mapping[int, Prediction]
    gone: frozenset[int] = frozenset()
    prompted: frozenset[int] = frozenset()


@runtime_checkable
class Tracker(Protocol):
    """Promptable video segmentation: prompt objects on some frames, follow them through the others.

    The state knows the clip and the prompts; all prompts are honoured by every later propagation, in both
    directions, whenever they were given.

    Example:
        >>> tracker = nbhelpers.load("tracker")
        >>> state = tracker.open(frames)                              # 80 frames of (480, 854, 3)
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> for tracked in tracker.propagate(state, 0, 79):
        ...     tracked.predictions[1].best
    """

    name: str
    device: str

    def open(self, frames: FrameSequence) -> Any:
        """A new state for a clip; decodes nothing yet."""
        ...

    def add(self, state: Any, frame: int, object_id: int, prompt: Prompt) -> Prediction:
        """Say what an object is on one frame, in place of what was said there before, and see its mask.

        A mask in the prompt without points or box is taken as it is (a painted or imported mask). The other frames
        change with the next `propagate`.
        """
        ...

    def remove(self, state: Any, object_id: int, frame: int | None = None) -> None:
        """Forget what was said about an object on one frame, or everything about it."""
        ...

    def propagate(self, state: Any, start: int, stop: int) -> Iterator[TrackedFrame]:
        """Follow all objects from frame ``start`` to frame ``stop``, both included; backwards if ``stop < start``.

        What earlier calls found is kept and built on, so a range can be followed in pieces, and the iterator can be
        left at any frame.
        """
        ...
