"""SAM 2 and 2.1 for video, through Meta's ``sam2`` package, with persistent corrections.

Ravi et al. 2024, arXiv 2408.00714. Upstream's predictor loses corrections: a click on a tracked frame is stored as an
ordinary memory, and the next propagation predicts that frame again without the click. Here every prompted frame becomes
a conditioning frame, all prompts are kept, and memory from before a change of an object's prompts is dropped when the
object is tracked again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import upsample
from nbhelpers.core.prompts import INCLUDE, Prompt
from nbhelpers.models.adapters import in_precision, moved, packed, precision_of, unpacked
from nbhelpers.models.expectation import MAX_PAST, expect, place_of
from nbhelpers.models.protocols import FeatureFusion, FrameSequence
from nbhelpers.models.sam2 import builders, load_weights
from nbhelpers.models.values import Prediction, TrackedFrame, arrays_by_object, is_mask_prompt

if TYPE_CHECKING:
    import torch

    from nbhelpers.models.sam2_video.network import VideoPredictor

MAX_CONDITIONING = 16  # frames that a frame attends to, 4096 tokens each, to bound the memory
Result = TypeVar("Result")
FORWARD, BACKWARD = 1, 2
MEMORY_NAMES = ("maskmem_features", "pred_masks", "obj_ptr", "object_score_logits")


class Sam2Tracker:
    """Promptable video segmentation with SAM 2; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = nbhelpers.load("tracker", "sam2.1-hiera-large-video")
        >>> state = tracker.open(Frames("walk.mp4"))
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> masks = {t.frame: t.predictions[1].best for t in tracker.propagate(state, 0, 79)}
        >>> tracker.add(state, 40, 1, Prompt([(300, 190)], [0]))     # persists in later propagations

    Frames are decoded lazily. For each object it keeps the prompted frames and the latest others, so memory does not
    grow with the clip. If the device runs out of memory, it continues on the CPU and warns.

    Args:
        model: a `VideoPredictor` in evaluation mode.
        name: its catalog name.
        device: where it computes.
        expectation: weight of where the object is expected in the choice among the decoder's three masks, 0 to 1; a
            Kalman filter predicts it from the frames before. 0 is upstream's choice, by predicted IoU alone. Yang et
            al. 2024 (SAMURAI, arXiv 2411.11922, section 4.1) take 0.15 to 0.25.
    """

    def __init__(self, model: VideoPredictor, name: str, device: str, expectation: float = 0.0):
        if not 0 <= expectation <= 1:
            raise NbHelpersError("the weight of the expectation is out of range", given=expectation, expected="0 to 1")
        self.model = model.to(device).eval()
        self.expectation = expectation
        self.model.add_all_frames_to_correct_as_cond = True
        self.model.clear_non_cond_mem_around_input = False  # done by `propagate`, for the relevant frames
        self.model.fill_hole_area = 0  # needs a CUDA extension; holes are filled by the matte settings
        self.name, self.device = name, device
        past = max(model.num_maskmem * model.memory_temporal_stride_for_eval, model.max_obj_ptrs_in_encoder)
        self.kept = 2 * past  # frames on both sides: those that the network attends to, and as many to correct

    def open(self, frames: FrameSequence, fusion: FeatureFusion | None = None) -> VideoState:
        """A new state for a clip; no frame is decoded yet.

        Args:
            frames: the clip.
            fusion: changes the coarsest features of each frame; none by default.
        """
        from nbhelpers.models.sam2_video.network import LazyImages

        return VideoState(frames, self.model.new_inference(LazyImages(frames, self.model.image_size), fusion))

    def add(self, state: VideoState, frame: int, object_id: int, prompt: Prompt) -> Prediction:
        """Prompt an object on one frame, replacing its earlier prompt there, and predict its mask.

        On a tracked frame, points and box correct the tracked mask, or a mask given with them. A mask alone is used
        unchanged. The prediction depends on the prompt and on the tracked mask, not on earlier prompts of the same
        frame: to undo a click, add the prompt without it.

        Args:
            state: of `open`.
            frame: index into the clip.
            object_id: any number; a new one creates an object, before or after tracking.
            prompt: in pixels of the frame; a mask may be bool in frame size or logits.

        Raises:
            NbHelpersError: an invalid frame; a prompt outside it; a frame that cannot be read.
        """
        state.check(frame)
        prompt.check_inside(state.frames.size)

        def run():
            model, inference = self.model, state.on(self.model.device)
            model._get_image_feature(
                inference, frame, 1
            )  # a frame that cannot be read raises here, before anything changes
            index = model._obj_id_to_idx(inference, object_id)
            state.tracked.setdefault(object_id, bytearray(len(state.frames)))
            outputs = state.outputs(object_id)
            before = state.before_prompt(object_id, frame)
            others = outputs["cond_frame_outputs"]
            others.pop(frame, None)
            if others and (before.direction or only_excludes(prompt)):
                reverse = before.direction == BACKWARD or (not before.direction and min(others) > frame)
                inference["frames_tracked_per_obj"][index] = {frame: {"reverse": reverse}}
            else:
                inference["frames_tracked_per_obj"][index] = {}
            if is_mask_prompt(prompt):
                model.add_new_mask(inference, frame, object_id, full_mask(prompt, state.frames.size))
            else:
                model.add_points(inference, frame, object_id, prompt, state.frames.size, before.logits)
            model.propagate_in_video_preflight(inference)
            output = outputs["cond_frame_outputs"][frame]
            return output, self._score(output)

        output, score = self._run(run)
        state.prompts.setdefault(object_id, {})[frame] = prompt
        state.scores[object_id, frame] = score
        state.changed.add(object_id)
        return self._prediction(state, object_id, frame, output, score)

    def remove(self, state: VideoState, object_id: int, frame: int | None = None) -> None:
        """Remove the prompt of an object on one frame, or the object with all its prompts.

        An object without prompts is removed.

        Raises:
            NbHelpersError: there is no such prompt.
        """
        prompts = state.prompts.get(object_id, {})
        if not prompts or (frame is not None and frame not in prompts):
            raise NbHelpersError(
                "there is no such prompt",
                given=f"object {object_id}" + ("" if frame is None else f" on frame {frame}"),
                expected=f"object and frame of {[(i, f) for i, frames in state.prompts.items() for f in frames]}",
            )
        if frame is None or len(prompts) == 1:
            self.model.remove_object(state.inference, object_id, need_output=False)
            state.drop(object_id)
            return
        self.model.clear_all_prompts_in_frame(state.inference, frame, object_id, need_output=False)
        state.outputs(object_id)["non_cond_frame_outputs"].pop(frame, None)  # upstream keeps the prompted mask there
        del prompts[frame], state.scores[object_id, frame]
        state.changed.add(object_id)

    def propagate(self, state: VideoState, start: int, stop: int) -> Iterator[TrackedFrame]:
        """Track all objects from frame ``start`` to frame ``stop``, both included; backwards if ``stop < start``.

        Prompted frames keep the mask from `add`. Memory from before a change of an object's prompts is dropped first,
        since it would reproduce the error that was corrected.

        Raises:
            NbHelpersError: an invalid frame; no object; a frame that cannot be read.
        """
        state.check(start)
        state.check(stop)
        if not state.prompts:
            raise NbHelpersError("there is no prompt yet", do="prompt an object on a frame first")
        return self._track(state, start, stop)

    def _track(self, state: VideoState, start: int, stop: int) -> Iterator[TrackedFrame]:
        """All objects, frame by frame."""
        reverse = stop < start
        for frame in range(start, stop - 1, -1) if reverse else range(start, stop + 1):
            predictions, gone, prompted = {}, set(), set()
            for object_id in list(state.prompts):
                if object_id in state.changed:
                    state.outputs(object_id)["non_cond_frame_outputs"].clear()
                    state.changed.discard(object_id)
                output, score = self._run(functools.partial(self._step, state, object_id, frame, reverse))
                predictions[object_id] = self._prediction(state, object_id, frame, output, score)
                if float(output["object_score_logits"]) <= 0:
                    gone.add(object_id)
                if frame in state.prompts[object_id]:
                    prompted.add(object_id)
                else:
                    state.before.pop((object_id, frame), None)
                    state.tracked[object_id][frame] = BACKWARD if reverse else FORWARD
                state.trim(object_id, frame, self.kept)
            yield TrackedFrame(frame, predictions, frozenset(gone), frozenset(prompted))

    def memory(self, state: VideoState, frame: int) -> dict[str, np.ndarray]:
        """The network's memory of one frame as arrays that `recall` restores, after a restart for example.

        About 0.8 MB per object. With the prompted frames and the latest `kept` others, a new state continues exactly
        like this one.
        """
        return _frame_arrays(state, frame)

    def recall(
        self,
        state: VideoState,
        frame: int,
        memory: Mapping[str, np.ndarray],
        prompts: Mapping[int, Prompt] | None = None,
    ) -> None:
        """Restore the arrays of `memory`, instead of calling `add` and `propagate` again.

        Args:
            state: of a clip with the same frames; recall its prompted frames first.
            frame: the frame of the memory.
            memory: arrays by name.
            prompts: those of this frame, by object id.

        Raises:
            NbHelpersError: the memory does not match the prompts.
        """
        state.check(frame)
        with precision_of(self):
            _restore_arrays(state, self.model, self.device, frame, memory, prompts or {})

    def _step(self, state: VideoState, object_id: int, frame: int, reverse: bool) -> tuple[dict[str, Any], float]:
        """Output and confidence of one object on one frame."""
        inference = state.on(self.model.device)
        output = state.outputs(object_id)["cond_frame_outputs"].get(frame)
        if output is not None:
            return output, state.scores[object_id, frame]
        if self.expectation:
            self.model.expected = self._expected(state, object_id, frame, -1 if reverse else 1)
            self.model.expectation = self.expectation
        try:
            output = self.model.step(inference, inference["obj_id_to_idx"][object_id], frame, reverse)
        finally:
            self.model.expected = None
        return output, self._score(output)

    def _expected(self, state: VideoState, object_id: int, frame: int, step: int) -> torch.Tensor | None:
        """The mask that is expected on a frame: that of the last one, moved along; None without frames before."""
        import torch

        outputs = state.outputs(object_id)
        masks = {
            index: (output["pred_masks"][0, 0] > 0).cpu().numpy()
            for kind in ("non_cond_frame_outputs", "cond_frame_outputs")
            for index, output in outputs[kind].items()
            if 0 < (frame - index) * step <= MAX_PAST and float(output["object_score_logits"]) > 0
        }
        places = {index: here for index, mask in masks.items() if (here := place_of(mask)) is not None}
        expected = expect(places, frame, step, None)
        if expected is None:
            return None
        return torch.from_numpy(expected.moved(masks[expected.seen], places[expected.seen])).to(self.model.device)

    def _score(self, output: dict[str, Any]) -> float:
        """Predicted IoU times the probability that the object is visible."""
        presence = float(output["object_score_logits"].float().sigmoid())
        return min(max(self.model.last_iou, 0.0), 1.0) * presence

    def _prediction(
        self, state: VideoState, object_id: int, frame: int, output: dict[str, Any], score: float
    ) -> Prediction:
        prompt = state.prompts[object_id].get(frame)
        size = state.frames.size
        if prompt is not None and is_mask_prompt(prompt):  # unchanged, not at the network's 256 x 256 pixels
            given = prompt.mask if prompt.mask.dtype == np.float32 else np.where(prompt.mask, 10, -10)
            return Prediction(given[None].astype(np.float32), np.ones(1, np.float32), size, given.shape)
        logits = output["pred_masks"][0].float().cpu().numpy()
        return Prediction(logits, np.array([score], np.float32), size, logits.shape[1:])

    def _run(self, run: Callable[[], Result]) -> Result:
        return in_precision(self, run)


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
    target = "++model._target_=nbhelpers.models.sam2_video.network.VideoPredictor"
    nearest = f"++model.max_cond_frames_in_attn={MAX_CONDITIONING}"
    changes = [target, nearest, *overrides]
    return builders().build_sam2_video_predictor(config, None, device="cpu", hydra_overrides_extra=changes)


class Before(NamedTuple):
    """The state of a frame before it was prompted, which its prompts correct.

    Attributes:
        direction: in which it was tracked; 0 if it was not.
        logits: the low-resolution mask ``(1, 1, h, w)``, if still in memory.
    """

    direction: int
    logits: torch.Tensor | None


@dataclass(eq=False)
class VideoState:
    """A clip with the prompts of its objects and the network's memory of them.

    Attributes:
        frames: the clip.
        inference: upstream's ``inference_state``.
        prompts: by object id, by frame.
        tracked: by object id and frame, the direction in which it was last tracked (0: not yet).
        before: by object id and frame, see `Before`.
        scores: confidence by object id and prompted frame.
        changed: objects whose prompts have changed since they were last tracked.
    """

    frames: FrameSequence
    inference: dict[str, Any] = field(repr=False)
    prompts: dict[int, dict[int, Prompt]] = field(default_factory=dict)
    tracked: dict[int, bytearray] = field(default_factory=dict, repr=False)
    before: dict[tuple[int, int], Before] = field(default_factory=dict, repr=False)
    scores: dict[tuple[int, int], float] = field(default_factory=dict, repr=False)
    changed: set[int] = field(default_factory=set)

    def outputs(self, object_id: int) -> dict[str, dict[int, dict]]:
        """``cond_frame_outputs`` and ``non_cond_frame_outputs`` of an object, by frame."""
        return self.inference["output_dict_per_obj"][self.inference["obj_id_to_idx"][object_id]]

    def before_prompt(self, object_id: int, frame: int) -> Before:
        """The state of a frame before its first prompt, kept until the frame is tracked again."""
        if (object_id, frame) not in self.before:
            output = self.outputs(object_id)["non_cond_frame_outputs"].get(frame)
            logits = None if output is None else output["pred_masks"]
            self.before[object_id, frame] = Before(self.tracked[object_id][frame], logits)
        return self.before[object_id, frame]

    def trim(self, object_id: int, frame: int, kept: int) -> None:
        """Drop the memory of unprompted frames more than ``kept`` away."""
        outputs = self.outputs(object_id)["non_cond_frame_outputs"]
        for far in [other for other in outputs if abs(other - frame) > kept]:
            del outputs[far]

    def drop(self, object_id: int) -> None:
        """Drop the records of an object that upstream has removed."""
        del self.prompts[object_id], self.tracked[object_id]
        self.changed.discard(object_id)
        for records in (self.before, self.scores):
            for key in [key for key in records if key[0] == object_id]:
                del records[key]

    def on(self, device: torch.device) -> dict[str, Any]:
        """The inference state on a device; if it has to be moved, image features are computed again."""
        if self.inference["device"] != device:
            images = self.inference["images"]
            self.inference.update(moved({k: v for k, v in self.inference.items() if k != "images"}, device))
            self.inference.update(images=images, cached_features={}, device=device, storage_device=device)
            self.before = {key: Before(b.direction, moved(b.logits, device)) for key, b in self.before.items()}
        return self.inference

    def check(self, frame: int) -> None:
        """Raise an error unless the clip has this frame."""
        if not 0 <= frame < len(self.frames):
            raise NbHelpersError("there is no such frame", given=frame, expected=f"0 to {len(self.frames) - 1}")


def only_excludes(prompt: Prompt) -> bool:
    """Whether a prompt consists only of excluding points, which need a mask to correct."""
    return prompt.mask is None and prompt.box is None and INCLUDE not in prompt.labels


def full_mask(prompt: Prompt, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of a prompt at frame size."""
    return prompt.mask if prompt.mask.dtype == np.bool_ else upsample(prompt.mask, prompt.mask.shape, size) > 0


def _frame_arrays(state: VideoState, frame: int) -> dict[str, np.ndarray]:
    """All arrays of a frame, by ``<object id>/<name>``."""
    arrays = {}
    for object_id, prompts in state.prompts.items():
        kind = "cond_frame_outputs" if frame in prompts else "non_cond_frame_outputs"
        if (output := state.outputs(object_id)[kind].get(frame)) is not None:
            arrays |= {f"{object_id}/{name}": packed(output[name]) for name in MEMORY_NAMES}
        direction, logits = state.before.get((object_id, frame), (state.tracked[object_id][frame], None))
        arrays[f"{object_id}/direction"] = np.array(direction, np.uint8)
        if logits is not None:
            arrays[f"{object_id}/before"] = packed(logits)
        if frame in prompts:
            arrays[f"{object_id}/score"] = np.array(state.scores[object_id, frame])
    return arrays


def _restore_arrays(
    state: VideoState,
    model: VideoPredictor,
    device: str,
    frame: int,
    arrays: Mapping[str, np.ndarray],
    prompts: Mapping[int, Prompt],
) -> None:
    """Restore the arrays of `_frame_arrays`; ``prompts`` are those of this frame, by object id.

    Raises:
        NbHelpersError: the arrays do not match the prompts.
    """
    for object_id, own in arrays_by_object(arrays, frame, prompts).items():
        index = model._obj_id_to_idx(state.inference, object_id)
        tracked = state.tracked.setdefault(object_id, bytearray(len(state.frames)))
        direction, logits = int(own["direction"]), own.get("before")
        if object_id in prompts:
            state.prompts.setdefault(object_id, {})[frame] = prompts[object_id]
            state.scores[object_id, frame] = float(own["score"])
            state.before[object_id, frame] = Before(direction, None if logits is None else unpacked(logits, device))
            # upstream clears a frame's prompts by these keys; their values are never read
            kind = "mask_inputs_per_obj" if is_mask_prompt(prompts[object_id]) else "point_inputs_per_obj"
            state.inference[kind][index][frame] = None
        else:
            tracked[frame] = direction
        if "obj_ptr" in own:
            output: dict[str, Any] = {name: unpacked(own[name], device) for name in MEMORY_NAMES}
            output["maskmem_pos_enc"] = model.position_encoding(state.inference, output["maskmem_features"])
            kind = "cond_frame_outputs" if object_id in prompts else "non_cond_frame_outputs"
            state.outputs(object_id)[kind][frame] = output
