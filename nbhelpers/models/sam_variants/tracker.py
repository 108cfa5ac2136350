"""Video segmentation by the networks of ``transformers`` that have SAM 2's memory."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbhelpers.core.prompts import Prompt
from nbhelpers.models.pretrained import processed
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.sam_prompts import low_resolution_logits, square_points
from nbhelpers.models.sam_variants.segmenter import load_variant
from nbhelpers.models.tracking import (
    CONDITIONED,
    MAX_CONDITIONING,
    TRACKED,
    MemoryState,
    MemoryTracker,
    Output,
    RememberedObject,
    confidence,
    full_mask,
)
from nbhelpers.models.values import is_mask_prompt

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = {
    "edgetam_video": "EdgeTamVideoModel",
    "sam2_video": "Sam2VideoModel",
    "sam3_video": "Sam3TrackerVideoModel",
}


class LazyPixels:
    """Stands for the library's tensor of all frames: reads and normalises a frame when it is asked for, keeps none."""

    def __init__(self, frames: FrameSequence, processor: Any, side: int):
        self.frames, self.processor, self.side = frames, processor, side

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        """``(3, side, side) float32``, on the CPU."""
        return processed(self.processor, [self.frames[index]], (self.side, self.side), "cpu")[0]


class VariantTracker(MemoryTracker):
    """Promptable video segmentation; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = nbhelpers.load("tracker", "edgetam-video")
        >>> state = tracker.open(Frames("walk.mp4"))
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> masks = {t.frame: t.predictions[1].best for t in tracker.propagate(state, 0, 79)}

    Args:
        model: ``EdgeTamVideoModel``, ``Sam2VideoModel`` or ``Sam3TrackerVideoModel`` of ``transformers``.
        processor: the image processor of the same family.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: Any, processor: Any, name: str, device: str):
        past = max(model.num_maskmem, model.config.max_object_pointers_in_encoder)
        super().__init__(model.requires_grad_(False), name, device, past)
        self.processor = processor
        self.side: int = model.image_size
        if model.config.max_cond_frame_num < 0:  # all of them: the memory of a frame would grow with the prompts
            model.config.max_cond_frame_num = MAX_CONDITIONING
        self._encodes_memory = "run_mem_encoder" in inspect.signature(model._run_single_frame_inference).parameters
        self._last_iou = 0.0
        model.mask_decoder.register_forward_hook(self._note_iou)

    def open(self, frames: FrameSequence) -> MemoryState:
        """A new state for a clip; no frame is decoded yet."""
        import torch

        library = sys.modules[type(self.model).__module__]
        kind = getattr(library, type(self.model).__name__.replace("VideoModel", "VideoInferenceSession"))
        session = kind(inference_device=self.device, inference_state_device=self.device, dtype=torch.float32)
        session.processed_frames = LazyPixels(frames, self.processor, self.side)
        return MemoryState(frames, session, self.device)

    def _move(self, state: MemoryState) -> None:
        state.session.cache.clear_all()
        for holder in (state.session, state.session.cache):
            holder.inference_device = holder.inference_state_device = self.device

    def _encode(self, state: MemoryState, frame: int) -> None:
        self.model._prepare_vision_features(state.session, frame, 1)

    def _register(self, state: MemoryState, item: RememberedObject) -> None:
        state.session.output_dict_per_obj[item.object_id] = item.outputs

    def _predict(
        self, state: MemoryState, item: RememberedObject, frame: int, prompt: Prompt, reverse: bool | None
    ) -> Output:
        size = state.frames.size
        others = {other: output for other, output in item.outputs[CONDITIONED].items() if other != frame}
        state.session.output_dict_per_obj[item.object_id] = {CONDITIONED: others, TRACKED: item.outputs[TRACKED]}
        if is_mask_prompt(prompt):
            inputs = {"mask_inputs": self._square_mask(full_mask(prompt, size))}
        else:
            corrected = self._corrected(prompt, item.before[frame].logits)
            inputs = {"point_inputs": self._point_inputs(prompt, size), "prev_sam_mask_logits": corrected}
        return self._infer(state, item, frame, bool(reverse), initial=reverse is None, **inputs)

    def _step(self, state: MemoryState, item: RememberedObject, frame: int, reverse: bool) -> Output:
        return self._infer(state, item, frame, reverse)

    def _infer(
        self,
        state: MemoryState,
        item: RememberedObject,
        frame: int,
        reverse: bool,
        initial: bool = False,
        **inputs: Any,
    ) -> Output:
        """Output and confidence on an encoded frame; an initial one is predicted without the memory of others."""
        prompts = dict.fromkeys(("point_inputs", "mask_inputs", "prev_sam_mask_logits")) | inputs
        output = self.model._run_single_frame_inference(
            inference_session=state.session,
            frame_idx=frame,
            obj_idx=item.object_id,
            batch_size=1,
            is_init_cond_frame=initial,
            reverse=reverse,
            **prompts,
            **({"run_mem_encoder": True} if self._encodes_memory else {}),
        )
        high = output.pop("high_res_masks", None)
        if not self._encodes_memory:
            features = state.session.cache.get_vision_features(frame)["vision_feats"][-1]
            output["maskmem_features"], output["maskmem_pos_enc"] = self.model._encode_new_memory(
                current_vision_feats=features,
                pred_masks_high_res=high,
                object_score_logits=output["object_score_logits"],
                is_mask_from_pts=bool(inputs),
            )
        return output, confidence(output, self._last_iou)

    def _point_inputs(self, prompt: Prompt, size: tuple[int, int]) -> dict[str, Tensor]:
        """Points and the corners of the box, as the library's own sessions have them."""
        import torch

        points, labels = square_points(prompt, size, self.side)
        return {
            "point_coords": torch.from_numpy(points)[None, None].to(self.device),
            "point_labels": torch.from_numpy(labels)[None, None].to(self.device),
        }

    def _corrected(self, prompt: Prompt, tracked: Tensor | None) -> Tensor | None:
        """``(1, 1, h, w)`` logits that points and box correct: the mask of the prompt, else the tracked one."""
        import torch

        if prompt.mask is None:
            return tracked
        logits = low_resolution_logits(prompt.mask, self.model.prompt_encoder.mask_input_size)
        return torch.from_numpy(logits)[None, None].to(self.device)

    def _square_mask(self, mask: np.ndarray) -> Tensor:
        """A mask in the network's square, as ``process_new_mask_for_video_frame`` of ``transformers`` has it."""
        import torch

        given = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float().to(self.device)
        if given.shape[-2:] == (self.side, self.side):
            return given
        scaled = torch.nn.functional.interpolate(given, (self.side, self.side), mode="bilinear", antialias=True)
        return (scaled >= 0.5).float()

    def _note_iou(self, decoder: Any, given: Any, result: tuple[Tensor, ...]) -> None:
        """Note the predicted IoU, which the library drops."""
        self._last_iou = float(result[1].max())


def build_tracker(name: str, files: dict[str, Path], device: str) -> VariantTracker:
    """Build a tracker from the roles ``checkpoint`` and ``config``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, of another network, or do not belong together.
    """
    return VariantTracker(*load_variant(name, files, NETWORKS), name, device)
