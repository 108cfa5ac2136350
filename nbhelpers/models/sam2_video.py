"""SAM 2 and 2.1 for video, through Meta's ``sam2`` package (Ravi et al. 2024, arXiv 2408.00714)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.adapters import moved, precision_of
from nbhelpers.models.protocols import FeatureFusion, FrameSequence
from nbhelpers.models.sam2 import builders, load_weights
from nbhelpers.models.tracking import (
    CONDITIONED,
    MAX_CONDITIONING,
    MAX_PAST,
    MemoryState,
    MemoryTracker,
    Output,
    RememberedObject,
    confidence,
    expect,
    full_mask,
    place_of,
)
from nbhelpers.models.values import is_mask_prompt

if TYPE_CHECKING:
    import torch

    from nbhelpers.models.sam2_video_network import VideoPredictor


class Sam2Tracker(MemoryTracker):
    """Promptable video segmentation with SAM 2; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = nbhelpers.load("tracker", "sam2.1-hiera-large-video")
        >>> state = tracker.open(Frames("walk.mp4"))
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> masks = {t.frame: t.predictions[1].best for t in tracker.propagate(state, 0, 79)}
        >>> tracker.add(state, 40, 1, Prompt([(300, 190)], [0]))     # persists in later propagations

    Args:
        model: a `VideoPredictor`.
        name: its catalog name.
        device: where it computes.
        expectation: weight of where the object is expected in the choice among the decoder's three masks, 0 to 1; a
            Kalman filter predicts it from the frames before. 0 is upstream's choice, by predicted IoU alone. Yang et
            al. 2024 (SAMURAI, arXiv 2411.11922, section 4.1) take 0.15 to 0.25.
    """

    def __init__(self, model: VideoPredictor, name: str, device: str, expectation: float = 0.0):
        if not 0 <= expectation <= 1:
            raise NbHelpersError("the weight of the expectation is out of range", given=expectation, expected="0 to 1")
        past = max(model.num_maskmem * model.memory_temporal_stride_for_eval, model.max_obj_ptrs_in_encoder)
        super().__init__(model, name, device, past)
        self.expectation = expectation
        self.model.add_all_frames_to_correct_as_cond = True
        self.model.clear_non_cond_mem_around_input = False  # done by `propagate`, for the relevant frames
        self.model.fill_hole_area = 0  # needs a CUDA extension; holes are filled by the matte settings

    def open(self, frames: FrameSequence, fusion: FeatureFusion | None = None) -> MemoryState:
        """A new state for a clip; no frame is decoded yet.

        Args:
            frames: the clip.
            fusion: changes the coarsest features of each frame; none by default.
        """
        from nbhelpers.models.sam2_video_network import LazyImages

        inference = self.model.new_inference(LazyImages(frames, self.model.image_size), fusion)
        return MemoryState(frames, inference, self.device)

    def _move(self, state: MemoryState) -> None:
        apart = {"images", "output_dict_per_obj"}  # decoded on access; moved with the objects
        device = self.model.device
        state.session.update(moved({k: v for k, v in state.session.items() if k not in apart}, device))
        state.session.update(cached_features={}, device=device, storage_device=device)

    def _encode(self, state: MemoryState, frame: int) -> None:
        if frame not in state.session["cached_features"]:
            self.model._get_image_feature(state.session, frame, 1)

    def _register(self, state: MemoryState, item: RememberedObject) -> None:
        index = self.model._obj_id_to_idx(state.session, item.object_id)
        state.session["output_dict_per_obj"][index] = item.outputs

    def _forget(self, state: MemoryState, object_id: int, frame: int | None = None) -> None:
        super()._forget(state, object_id, frame)
        if frame is None:
            self.model.remove_object(state.session, object_id, need_output=False)
        else:
            self.model.clear_all_prompts_in_frame(state.session, frame, object_id, need_output=False)

    def _predict(
        self, state: MemoryState, item: RememberedObject, frame: int, prompt: Prompt, reverse: bool | None
    ) -> Output:
        model, inference, size = self.model, state.session, state.frames.size
        item.outputs[CONDITIONED].pop(frame, None)
        index = inference["obj_id_to_idx"][item.object_id]
        inference["frames_tracked_per_obj"][index] = {} if reverse is None else {frame: {"reverse": reverse}}
        if is_mask_prompt(prompt):
            model.add_new_mask(inference, frame, item.object_id, full_mask(prompt, size))
        else:
            model.add_points(inference, frame, item.object_id, prompt, size, item.before[frame].logits)
        model.propagate_in_video_preflight(inference)
        output = item.outputs[CONDITIONED][frame]
        return output, confidence(output, model.last_iou)

    def _step(self, state: MemoryState, item: RememberedObject, frame: int, reverse: bool) -> Output:
        if self.expectation:
            self.model.expected = self._expected(item, frame, -1 if reverse else 1)
            self.model.expectation = self.expectation
        try:
            output = self.model.step(state.session, state.session["obj_id_to_idx"][item.object_id], frame, reverse)
        finally:
            self.model.expected = None
        return output, confidence(output, self.model.last_iou)

    def _expected(self, item: RememberedObject, frame: int, step: int) -> torch.Tensor | None:
        """The mask that is expected on a frame: that of the last one, moved along; None without frames before."""
        import torch

        masks = {
            index: (output["pred_masks"][0, 0] > 0).cpu().numpy()
            for outputs in item.outputs.values()
            for index, output in outputs.items()
            if 0 < (frame - index) * step <= MAX_PAST and float(output["object_score_logits"]) > 0
        }
        places = {index: here for index, mask in masks.items() if (here := place_of(mask)) is not None}
        expected = expect(places, frame, step, None)
        if expected is None:
            return None
        return torch.from_numpy(expected.moved(masks[expected.seen], places[expected.seen])).to(self.model.device)

    def _completed(self, state: MemoryState, output: dict[str, Any]) -> dict[str, Any]:
        with precision_of(self):
            encoding = self.model.position_encoding(state.session, output["maskmem_features"])
        return {**output, "maskmem_pos_enc": encoding}


def build(name: str, files: dict[str, Path], device: str, *, config: str, compile: bool | None = None) -> Sam2Tracker:
    """Build a tracker from the publisher's checkpoint.

    Args:
        name: catalog name.
        files: ``{"checkpoint": path}``.
        device: where it computes.
        config: the model's yaml in the ``sam2`` package, e.g. ``configs/sam2.1/sam2.1_hiera_l.yaml``.
        compile: whether to compile the image encoder, which takes a minute at the first frame and is worthwhile for
            long clips. By default only on CUDA and if ``NBHELPERS_COMPILE=1`` is set.

    Raises:
        NbHelpersError: ``sam2`` is not installed; the checkpoint is damaged, for another model or for images only.
    """
    import torch

    model = build_video_network(config)
    if missing := load_weights(model, files["checkpoint"]):
        raise NbHelpersError(
            "the checkpoint is for images only",
            given=f"{files['checkpoint']}: {len(missing)} weights missing, e.g. {missing[0]}",
            expected="the publisher's checkpoint, with memory attention and memory encoder",
        )
    if compile is None:
        compile = device.startswith("cuda") and os.environ.get("NBHELPERS_COMPILE") == "1"
    if compile:
        model.image_encoder.forward = torch.compile(model.image_encoder.forward, dynamic=False)
    return Sam2Tracker(model, name, device)


def build_video_network(config: str, *overrides: str) -> VideoPredictor:
    """The untrained network of a ``sam2`` configuration for video, on the CPU.

    Args:
        config: the yaml in the ``sam2`` package.
        overrides: changes to it in Hydra's syntax, e.g. ``"model.image_size=512"``.
    """
    target = "++model._target_=nbhelpers.models.sam2_video_network.VideoPredictor"
    nearest = f"++model.max_cond_frames_in_attn={MAX_CONDITIONING}"
    changes = [target, nearest, *overrides]
    return builders().build_sam2_video_predictor(config, None, device="cpu", hydra_overrides_extra=changes)
