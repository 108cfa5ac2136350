"""The protocol of each task, without network code.

Jobs are written against these protocols; `nbhelpers.load` returns models that implement them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8

from nbhelpers.core.prompts import Prompt
from nbhelpers.core.scenes import Scene
from nbhelpers.models.values import Choose, ClassMap, Embedding, Geometry, LocalFeatures, Prediction, TrackedFrame

if TYPE_CHECKING:
    import supervision
    import torch

    from nbhelpers.models.label_propagation.votes import Votes


@runtime_checkable
class Segmenter(Protocol):
    """Promptable image segmentation: encode an image once, predict masks for any number of prompts.

    Example:
        >>> segmenter = nbhelpers.load("segmenter")
        >>> embedding = segmenter.encode(image)                       # (480, 640, 3) uint8
        >>> segmenter.predict(embedding, Prompt(points=[(320, 200)])).masks.shape
        (4, 480, 640)
    """

    @property
    def name(self) -> str:
        """Its catalog name."""
        ...

    @property
    def device(self) -> str:
        """Where it computes."""
        ...

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """Features of an RGB image."""
        ...

    def predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        """All candidate masks of a prompt: SAM's four, of which ``choice`` is selected.

        Candidate 0 is for unambiguous prompts; 1, 2 and 3 interpret a single click as subpart, part and whole
        (Kirillov et al. 2023, arXiv 2304.02643, section 3, "Resolving ambiguity").
        """
        ...

    def predict_points(
        self, embedding: Embedding, points: Shaped[np.ndarray, "n 2"], choose: Choose | None = None
    ) -> Prediction:
        """The candidate with the highest predicted IoU for each point, as individual single-click prompts.

        ``choose(number, candidates)`` returns the index of another candidate: it is called with the number of the
        point and a `Prediction` of its three candidates (subpart, part, whole). Only one mask per point is kept.
        """
        ...


@runtime_checkable
class FeatureSegmenter(Segmenter, Protocol):
    """A segmenter whose features can be compared across images, as trackers and multi-view search do.

    Example:
        >>> [segmenter.features(embedding, level).shape for level in range(3)]
        [torch.Size([64, 64, 256]), torch.Size([128, 128, 64]), torch.Size([256, 256, 32])]
    """

    def features(self, embedding: Embedding, level: int = 0) -> Float[torch.Tensor, "h w d"]:
        """One of three feature maps over the whole image, on the device that computed it.

        Args:
            embedding: of this segmenter.
            level: 0 is the coarsest, 1 twice and 2 four times as fine. The decoder's logits have the grid of level 2.
        """
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Open-vocabulary dense prediction: a probability map for each name.

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
class Detector(Protocol):
    """Detection of named objects.

    Example:
        >>> detector = nbhelpers.load("detector")
        >>> detector.classes(["sofa", "tractor"])
        [('couch',), ()]
        >>> detections = detector.detect(image, ["sofa", "tractor"])        # (480, 640, 3) uint8
        >>> detections.xyxy.shape, detections.data["detected"]
        ((3, 4), ['couch', 'couch', 'person'])
    """

    name: str
    device: str

    def classes(self, names: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
        """The detector's classes for each name; empty if there are none."""
        ...

    def nearest(self, name: str, count: int = 3) -> tuple[str, ...]:
        """The detector's classes nearest in meaning to a name."""
        ...

    def detect(
        self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]], min_score: float = 0.1
    ) -> supervision.Detections:
        """Boxes of all detected objects, with ``class_id`` -1 for objects that match none of the names, if any.

        ``xyxy`` in pixels of the image, ``confidence`` 0 to 1, ``data["detected"]`` the detector's class and
        ``data["class_name"]`` the first name of the class in ``names``. A detector that also segments gives ``mask``.
        """
        ...


@runtime_checkable
class ConceptSegmenter(Protocol):
    """Masks of all instances of named things.

    Example:
        >>> segmenter = nbhelpers.load("concept_segmenter")
        >>> detections = segmenter.segment(image, ["yellow bus", ["dog", "puppy"]])      # (480, 640, 3) uint8
        >>> detections.mask.shape, detections.class_id
        ((3, 480, 640), array([0, 1, 1]))
    """

    name: str
    device: str

    def segment(
        self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]], min_score: float = 0.5
    ) -> supervision.Detections:
        """The instances of each name, best first.

        ``mask (n, H, W) bool``, ``xyxy`` in pixels of the image, ``confidence`` 0 to 1, ``class_id`` the index into
        ``names`` and ``data["class_name"]`` its first name. Masks of different names may overlap.
        """
        ...

    def segment_similar(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        boxes: Sequence[Sequence[float]],
        labels: Sequence[int] | None = None,
        name: str | None = None,
        min_score: float = 0.5,
    ) -> supervision.Detections:
        """The instances of what some boxes ``(x0, y0, x1, y1)`` of the same photo show; with label 0, do not show."""
        ...


@runtime_checkable
class ImageTextEncoder(TextEncoder, Protocol):
    """A text encoder that also compares a whole photo with a name, as CLIP was trained to."""

    shows: float
    """Similarity from which a photo shows a named object."""

    def similarity(self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]) -> Float32[np.ndarray, " n"]:
        """Cosine of the photo with each name, -1 to 1."""
        ...


@runtime_checkable
class MattingModel(Protocol):
    """Opacity at the rim of an object.

    Example:
        >>> matting = nbhelpers.load("matting")
        >>> matting.alphas([image], [trimap])[0].shape                 # (480, 640, 3), (480, 640) uint8
        (480, 640)
    """

    name: str
    device: str

    def alphas(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], trimaps: Sequence[UInt8[np.ndarray, "_ _"]]
    ) -> list[Float32[np.ndarray, "_ _"]]:
        """The opacity of each photo, 0 to 1; trimaps are 255 inside the object, 0 outside, 128 where it is unknown."""
        ...


@runtime_checkable
class Inpainter(Protocol):
    """Inpainting of a masked area.

    Example:
        >>> inpainter = nbhelpers.load("inpainter")
        >>> inpainter.fill(image, mask).shape
        (480, 640, 3)
    """

    name: str
    device: str
    side: int
    """Working size in pixels: crops up to ``side`` x ``side`` lose no detail."""

    def fill(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: Bool[np.ndarray, "h w"],
        prompt: str | None = None,
        seed: int = 0,
        strength: float = 1.0,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The photo with the masked area inpainted; the same seed gives the same image.

        With a strength below 1, an inpainter that supports it keeps shapes and changes their appearance.
        """
        ...


@runtime_checkable
class FrameSequence(Protocol):
    """The interface of a clip that trackers require; `nbhelpers.core.video.Frames` implements it."""

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of every frame."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Frame ``index`` as RGB."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Promptable video segmentation: prompt objects on some frames, track them through the others.

    The state holds the clip and the prompts; every later propagation uses all prompts, in both directions.

    Example:
        >>> tracker = nbhelpers.load("tracker")
        >>> state = tracker.open(frames)                              # 80 frames of (480, 854, 3)
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> for tracked in tracker.propagate(state, 0, 79):
        ...     tracked.predictions[1].best
    """

    @property
    def name(self) -> str:
        """Its catalog name."""
        ...

    @property
    def device(self) -> str:
        """Where it computes."""
        ...

    def open(self, frames: FrameSequence) -> Any:
        """A new state for a clip; no frame is decoded yet."""
        ...

    def add(self, state: Any, frame: int, object_id: int, prompt: Prompt) -> Prediction:
        """Prompt an object on one frame, replacing its earlier prompt there, and predict its mask.

        A mask without points or box is used unchanged (a painted or imported mask). The other frames are updated by
        the next `propagate`.
        """
        ...

    def remove(self, state: Any, object_id: int, frame: int | None = None) -> None:
        """Remove the prompt of an object on one frame, or the object with all its prompts."""
        ...

    def propagate(self, state: Any, start: int, stop: int, step: int | None = None) -> Iterator[TrackedFrame]:
        """Track all objects from frame ``start`` to frame ``stop``, both included; backwards if ``stop < start``.

        The masks of earlier calls are kept and used, so a range can be tracked in pieces, and the iterator can be
        stopped at any frame. With a ``step`` of 3 or -3 only every third frame is tracked, and masks of the others are
        interpolated.
        """
        ...


@runtime_checkable
class ResumableTracker(Tracker, Protocol):
    """A tracker whose memory of each frame can be saved, and restored after a restart."""

    @property
    def kept(self) -> int | None:
        """How many frames beside the prompted ones it remembers of an object; None: all."""
        ...

    def memory(self, state: Any, frame: int) -> dict[str, np.ndarray]:
        """The memory of one frame as arrays that `recall` restores; empty if there is none."""
        ...

    def recall(
        self,
        state: Any,
        frame: int,
        memory: Mapping[str, np.ndarray],
        prompts: Mapping[int, Prompt] | None = None,
    ) -> None:
        """Restore the memory of one frame with its prompts, in place of `add` and `propagate`."""
        ...


@runtime_checkable
class FeatureFusion(Protocol):
    """What a tracker can be opened with: changes the features that it compares, and knows objects by where they stand.

    Both trackers call `merge` on the coarsest features of each frame. Label propagation also gets the known
    position of an object from `place`, and passes new ones to `remember`. Without a fusion a tracker is unchanged.
    """

    distance_penalty: float
    """What label propagation subtracts for distance in the picture; see `votes.local_similarity`."""
    separates_instances: bool
    """Whether it separates instances of equal appearance, so that label propagation does not track distractors."""

    def merge(self, frame: int, features: Float[torch.Tensor, "h w d"]) -> Float[torch.Tensor, "h w e"]:
        """The features of a frame with what is known of it besides; SAM 2's video network wants as many channels."""
        ...

    def place(self, frame: int, object_id: int, votes: Votes) -> Votes:
        """The votes for an object on a frame, corrected by what is known of the places that the frame shows."""
        ...

    def remember(
        self, frame: int, object_id: int, probability: Float[np.ndarray, "s s"], prompted: bool = False
    ) -> None:
        """Note where an object is on a frame, in place of what was noted there before."""
        ...

    def forget(self, object_id: int, frame: int | None = None) -> None:
        """Drop what was noted of an object on the frames that were not prompted, or on one frame."""
        ...


@runtime_checkable
class PatchEncoder(Protocol):
    """Self-supervised features of image patches.

    Example:
        >>> encoder = nbhelpers.load("patch_encoder")
        >>> encoder.tokens([crop])[0].shape                            # (224, 224, 3) uint8, patches of 14 pixels
        (16, 16, 384)
    """

    name: str
    device: str
    patch: int
    """Side of a patch in pixels."""
    dimension: int
    """Length of a token."""

    def tokens(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float32[np.ndarray, "_ _ d"]]:
        """The tokens of each image, ``(rows, columns, d)``, from the last layer norm, not normalised to length 1.

        Images may differ in size. One of ``(h, w)`` is stretched to whole patches: ``rows`` is
        ``max(1, round(h / patch))``, so each token represents ``h / rows`` by ``w / columns`` pixels. Images of one
        size are encoded in batches.
        """
        ...


@runtime_checkable
class SceneEstimator(Protocol):
    """Cameras and points from photos of one static scene.

    Example:
        >>> scene = nbhelpers.load("scene_estimator").reconstruct(photos)      # 5 of (427, 640, 3) uint8
        >>> scene.placed.sum(), scene.points.shape
        (5, (2120, 3))
    """

    name: str
    device: str

    def reconstruct(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], names: Sequence[str] | None = None) -> Scene:
        """A scene of all photos, which may differ in size; its notes list those that could not be registered."""
        ...


@runtime_checkable
class GeometryEncoder(Protocol):
    """3D as each frame of a clip sees it, in one world.

    Example:
        >>> geometry = nbhelpers.load("geometry_encoder", "colmap-geometry").encode(frames)
        >>> geometry.points.shape, geometry.coverage                   # 20 frames
        ((20, 64, 64, 3), 0.65)
    """

    name: str
    device: str

    def encode(self, frames: FrameSequence, scene: Scene | None = None) -> Geometry:
        """Points, rays, validity and confidence of each frame's cells; with network encoders also feature layers.

        Args:
            frames: the clip.
            scene: cameras, and depth or points, of its frames in order, if known; encoders that estimate them ignore
                it.

        Raises:
            NbHelpersError: no geometry is available, e.g. because too few frames can be registered.
        """
        ...


@runtime_checkable
class Matcher(Protocol):
    """Local features of an image, and the matches of two images.

    Example:
        >>> matcher = nbhelpers.load("matcher")
        >>> first, second = matcher.features(photo), matcher.features(other)
        >>> pairs, scores = matcher.match(first, second)               # (m, 2), (m,)
        >>> first.points[pairs[:, 0]], second.points[pairs[:, 1]]      # the same points of the scene
    """

    @property
    def name(self) -> str:
        """Its catalog name."""
        ...

    @property
    def device(self) -> str:
        """Where it computes."""
        ...

    @property
    def quick(self) -> bool:
        """Whether a pair takes well under a second on a CPU, so that all pairs of dozens of photos can be matched."""
        ...

    def features(self, image: UInt8[np.ndarray, "h w 3"]) -> LocalFeatures:
        """Keypoints of an image; few or none if it has little texture."""
        ...

    def match(
        self, first: LocalFeatures, second: LocalFeatures
    ) -> tuple[Int[np.ndarray, "m 2"], Float32[np.ndarray, " m"]]:
        """Indices of matching features and their confidence, 0 to 1; features of this matcher only."""
        ...
