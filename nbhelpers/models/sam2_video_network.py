"""The video network of Meta's ``sam2`` package: frame by frame with lazy decoding, and with gradients for training.

`VideoPredictor` follows ``sam2/sam2_video_predictor.py`` of sam2 1.1.0 and works in inference mode. `track_frames` runs
the same steps outside of it over a few frames, on features that were computed before, for training what changes them.
Imported only when a tracker is built.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor
from torch.nn import functional

from nbhelpers.core.masks import mask_logits, upsample
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import FeatureFusion, FrameSequence

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PER_OBJECT = (
    "point_inputs_per_obj",
    "mask_inputs_per_obj",
    "output_dict_per_obj",
    "temp_output_dict_per_obj",
    "frames_tracked_per_obj",
)


class LazyImages:
    """Lazy replacement of upstream's ``images`` tensor: decodes and normalises a frame on access, without caching.

    Equal bit for bit to the result of ``load_video_frames_from_jpg_images`` (sam2/utils/misc.py) for the same images.
    """

    def __init__(self, frames: FrameSequence, side: int):
        self.frames, self.side = frames, side

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> torch.Tensor:
        """``(3, side, side) float32``, normalised."""
        square = np.asarray(Image.fromarray(self.frames[index]).resize((self.side, self.side)))
        pixels = torch.from_numpy(square / 255.0).permute(2, 0, 1).float()
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class VideoPredictor(SAM2VideoPredictor):
    """Upstream's predictor without its loop over the clip, and with the predicted IoU that it discards."""

    last_iou: float = 0.0
    _chosen_iou: float | None = None
    expected: torch.Tensor | None = None
    """The mask ``(h, w) bool`` that is expected on the frame being tracked, on the grid of low-resolution logits."""
    expectation: float = 0.0
    """Weight of the IoU with `expected` in the choice among the decoder's masks, beside the predicted IoU."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.memory_attention.register_forward_pre_hook(_in_one_precision, with_kwargs=True)
        self.sam_mask_decoder.register_forward_hook(self._prefer_expected)

    def _prefer_expected(self, module: torch.nn.Module, args: tuple, outputs: tuple) -> tuple | None:
        """Replace the predicted IoUs, by which upstream chooses a mask, by those weighted with the expectation."""
        masks, ious, *rest = outputs
        self._chosen_iou = None
        if self.expected is None or masks.shape[1] < 2:
            return None
        inside, expected = masks[0] > 0, self.expected[None]
        union = (inside | expected).sum((1, 2)).clamp(min=1)
        agreement = (inside & expected).sum((1, 2)) / union
        weighted = (1 - self.expectation) * ious + self.expectation * agreement[None].to(ious.dtype)
        self._chosen_iou = float(ious[0, int(weighted[0].argmax())])
        return masks, weighted, *rest

    def new_inference(self, images: LazyImages, fusion: FeatureFusion | None = None) -> dict[str, Any]:
        """The dictionary of ``init_state``, without decoding frames, and with the fusion if there is one.

        The size of the video is set to that of the low-resolution masks, so that upstream does not enlarge masks: for a
        6000 x 9000 frame that would take 216 MB per object.
        """
        inference = {
            "images": images,
            "num_frames": len(images),
            "offload_video_to_cpu": False,
            "offload_state_to_cpu": False,
            "video_height": self.image_size // 4,
            "video_width": self.image_size // 4,
            "device": self.device,
            "storage_device": self.device,
            "cached_features": {},
            "constants": {},
            "fusion": fusion,
            "obj_id_to_idx": OrderedDict(),
            "obj_idx_to_id": OrderedDict(),
            "obj_ids": [],
        }
        return inference | {name: {} for name in PER_OBJECT}

    def add_points(
        self,
        inference: dict[str, Any],
        frame: int,
        object_id: int,
        prompt: Prompt,
        size: tuple[int, int],
        corrected: torch.Tensor | None,
    ) -> None:
        """Prompt one frame with points and a box.

        Args:
            inference: of `new_inference`.
            frame: index into the clip.
            object_id: a known object.
            prompt: in pixels of the frame; its mask, if it has one, takes precedence over ``corrected``.
            size: ``(H, W)`` of the frame.
            corrected: ``(1, 1, h, w)`` low-resolution logits that the points correct, if there are any.
        """
        tracked = inference["output_dict_per_obj"][inference["obj_id_to_idx"][object_id]]["non_cond_frame_outputs"]
        tracked.pop(frame, None)
        if prompt.mask is not None:
            height, width = self.sam_prompt_encoder.mask_input_size
            low = height, width
            given = mask_logits(prompt.mask, low) if prompt.mask.dtype == np.bool_ else prompt.mask
            corrected = torch.from_numpy(upsample(given, given.shape, low))[None, None]
        if corrected is not None:
            tracked[frame] = {"pred_masks": corrected.to(self.device)}  # from which upstream reads the mask to correct
        scale = torch.tensor(size[::-1])
        self.add_new_points_or_box(
            inference,
            frame,
            object_id,
            points=torch.from_numpy(prompt.points.copy()) / scale,
            labels=torch.from_numpy(prompt.labels.copy()),
            box=None if prompt.box is None else torch.from_numpy(prompt.box.reshape(2, 2).copy()) / scale,
            normalize_coords=False,  # the video size is that of the low-resolution masks
        )

    def step(self, inference: dict[str, Any], index: int, frame: int, reverse: bool) -> dict[str, Any]:
        """Track object number ``index`` to one frame, as ``propagate_in_video`` does; return its compact output."""
        outputs = inference["output_dict_per_obj"][index]
        current, _ = self._run_single_frame_inference(
            inference_state=inference,
            output_dict=outputs,
            frame_idx=frame,
            batch_size=1,
            is_init_cond_frame=False,
            point_inputs=None,
            mask_inputs=None,
            reverse=reverse,
            run_mem_encoder=True,
        )
        outputs["non_cond_frame_outputs"][frame] = current
        return current

    def position_encoding(self, inference: dict[str, Any], features: torch.Tensor) -> list[torch.Tensor]:
        """The encoding of a memory ``(1, c, h, w)``, the same for all, so upstream caches it; computed if necessary."""
        if "maskmem_pos_enc" not in inference["constants"]:
            kind = features.device.type
            encoding = self.memory_encoder.position_encoding(features.float())
            if torch.is_autocast_enabled(kind):
                encoding = encoding.to(torch.get_autocast_dtype(kind))
            inference["constants"]["maskmem_pos_enc"] = [encoding]
        return inference["constants"]["maskmem_pos_enc"]

    def _get_image_feature(self, inference_state: dict[str, Any], frame_idx: int, batch_size: int):
        """Features of a frame, the coarsest ``(h * w, b, c)`` changed by the fusion.

        They go to memory attention, or straight to the mask decoder on a first prompted frame, and to the memory
        encoder; the finer ones are untouched (arXiv 2601.08831, section 3).
        """
        image, backbone, features, encodings, sizes = super()._get_image_feature(inference_state, frame_idx, batch_size)
        if (fusion := inference_state.get("fusion")) is not None:
            coarse = features[-1]
            grid = coarse[:, 0].reshape(*sizes[-1], -1)
            merged = fusion.merge(frame_idx, grid).to(coarse.dtype).reshape(-1, 1, grid.shape[-1])
            features = [*features[:-1], merged.expand(-1, coarse.shape[1], -1)]
        return image, backbone, features, encodings, sizes

    def _track_step(self, *args, **kwargs):
        outputs = super()._track_step(*args, **kwargs)
        self.last_iou = float(outputs[1][2].detach().max()) if self._chosen_iou is None else self._chosen_iou
        return outputs


def _in_one_precision(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Cast bfloat16 memories to float32 if there is no float32 object pointer among them.

    This happens on a frame before all prompted ones, without autocast, where upstream fails.
    """
    memory = kwargs["memory"]
    if not torch.is_autocast_enabled(memory.device.type):
        kwargs["memory"] = memory.float()
    return args, kwargs


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
