"""SAM 2's video network run over a few frames with gradients, for training what changes its features.

The predictor works in inference mode; here the same steps run outside of it, on features that were computed before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from nbhelpers.models.sam2_video.network import VideoPredictor


class FrameFeatures(NamedTuple):
    """What the image encoder gives of one frame: flat maps ``(h * w, 1, c)``, finest first, encodings, and sizes."""

    maps: list[Tensor]
    encodings: list[Tensor]
    sizes: list[tuple[int, int]]

    @property
    def coarse(self) -> Float[Tensor, "1 c h w"]:
        """The coarsest map, which memory attention sees."""
        height, width = self.sizes[-1]
        return self.maps[-1].permute(1, 2, 0).reshape(1, -1, height, width)

    def with_coarse(self, features: Float[Tensor, "1 c h w"]) -> FrameFeatures:
        """The same with another coarsest map."""
        return self._replace(maps=[*self.maps[:-1], features.flatten(2).permute(2, 0, 1)])


def encode_frame(model: VideoPredictor, pixels: Float[Tensor, "3 s s"]) -> FrameFeatures:
    """Features of a normalised frame, without gradients."""
    with torch.no_grad():
        backbone = model.forward_image(pixels[None].to(model.device))
        _, maps, encodings, sizes = model._prepare_backbone_features(backbone)
    return FrameFeatures([each.clone() for each in maps], [each.clone() for each in encodings], list(sizes))


def track_frames(
    model: VideoPredictor, features: list[FrameFeatures], mask: Bool[Tensor, "h w"]
) -> list[tuple[Float[Tensor, "1 m h w"], Float[Tensor, "1 m"], Float[Tensor, "1 1"]]]:
    """One object tracked from its mask on the first frame, each frame with the memory of those before.

    Args:
        model: in evaluation mode.
        features: of the frames, in order; gradients flow into them.
        mask: of the object on the first.

    Returns:
        For each later frame its low-resolution candidates, their predicted IoUs, and the logit of presence.
    """
    outputs: dict[str, dict[int, dict]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    side = (model.image_size, model.image_size)
    prompt = functional.interpolate(mask[None, None].float().to(model.device), side, mode="nearest-exact")
    found = []
    for number, frame in enumerate(features):
        first = number == 0
        current, heads, _, _ = model._track_step(
            number,
            first,
            frame.maps,
            frame.encodings,
            frame.sizes,
            None,
            prompt if first else None,
            outputs,
            len(features),
            False,
            None,
        )
        candidates, _, ious, low, high, pointer, presence = heads
        current |= {"pred_masks": low, "pred_masks_high_res": high, "obj_ptr": pointer}
        current["object_score_logits"] = presence
        model._encode_memory_in_output(frame.maps, frame.sizes, None, True, high, presence, current)
        outputs["cond_frame_outputs" if first else "non_cond_frame_outputs"][number] = current
        if not first:
            found.append((candidates, ious, presence))
    return found
