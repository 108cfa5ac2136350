"""Training of a merger through SAM 2's own memory attention and mask decoder, which stay frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from nbhelpers.geometry_fusion.losses import FrameOutput
from nbhelpers.geometry_fusion.merger import FeatureMerger
from nbhelpers.geometry_fusion.training import TrainingClip, TrainingSample
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.sam2_video.network import LazyImages
from nbhelpers.models.sam2_video.unroll import FrameFeatures, encode_frame, track_frames

if TYPE_CHECKING:
    from nbhelpers.models.sam2_video.network import VideoPredictor


class VideoModel:
    """SAM 2's video network as a `nbhelpers.geometry_fusion.training.TrackingModel`.

    The first frame of a sample gives the object's mask; the others are tracked in their order, each with the memory of
    those before. A clip's features are computed once, by `remember`.

    Args:
        model: of a `nbhelpers.models.sam2_video.Sam2Tracker`; its weights are frozen.
        backbone: catalog name of the tracker.
    """

    def __init__(self, model: VideoPredictor, backbone: str):
        self.model, self.backbone = model.eval().requires_grad_(False), backbone
        self._features: dict[str, list[FrameFeatures]] = {}

    def encode(self, frames: FrameSequence) -> Float[Tensor, "t c h w"]:
        """The coarsest features of all frames, for a `TrainingClip`."""
        images = LazyImages(frames, self.model.image_size)
        maps = [encode_frame(self.model, images[number]).coarse[0] for number in range(len(frames))]
        return torch.stack(maps).to("cpu", torch.float16)

    def remember(self, clip: TrainingClip, frames: FrameSequence) -> None:
        """Compute and keep the features of a clip's frames."""
        images = LazyImages(frames, self.model.image_size)
        self._features[clip.name] = [encode_frame(self.model, images[number]) for number in range(len(frames))]

    def outputs(self, sample: TrainingSample, merger: FeatureMerger) -> list[tuple[FrameOutput, Bool[Tensor, "n h w"]]]:
        """Candidates, predicted IoUs and presence on all frames but the first, with the truth."""
        kept = self._features[sample.clip.name]
        device = self.model.device
        merged = []
        for place, number in enumerate(sample.frames):
            changed = sample.merged(merger, kept[number].coarse, slice(place, place + 1))
            merged.append(kept[number].with_coarse(changed))
        labels = sample.clip.labels[sample.object, sample.frames].to(device)
        found = []
        tracked = track_frames(self.model, merged, labels[0] > 0.5)
        for (masks, ious, presence), label in zip(tracked, labels[1:], strict=True):
            truth = functional.interpolate(label[None, None], masks.shape[-2:], mode="bilinear", align_corners=False)
            found.append((FrameOutput(masks, ious, presence), truth[0] > 0.5))
        return found
