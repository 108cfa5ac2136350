"""SAM 2 and 2.1 for video, through Meta's ``sam2`` package, with corrections that stick.

Ravi et al. 2024, arXiv 2408.00714. Upstream's predictor throws a correction away: a click on a frame that was tracked
before is kept as an ordinary memory, and the next propagation computes that frame anew without the click. Here every
prompted frame is a conditioning frame from then on, all prompts are kept, and what was tracked of an object before
its prompts changed is forgotten when it is followed again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nbhelpers.core.compute import autocast
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.room import with_room
from nbhelpers.models.sam2 import builders, load_weights
from nbhelpers.models.sam2_video.state import (
    BACKWARD,
    FORWARD,
    TrackState,
    full_mask,
    is_mask,
    only_excludes,
    put_back,
    remembered,
)
from nbhelpers.models.values import Prediction, TrackedFrame

if TYPE_CHECKING:
    from nbhelpers.models.sam2_video.network import VideoPredictor

NEAREST = 16  # conditioning frames that a frame attends to; each is 4096 tokens, and without a limit memory grows
Result = TypeVar("Result")


class Sam2Tracker:
    """Promptable video segmentation with SAM 2; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = nbhelpers.load("tracker", "sam2.1-hiera-large-video")
        >>> state = tracker.open(Frames("walk.mp4"))
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> masks = {t.frame: t.predictions[1].best for t in tracker.propagate(state, 0, 79)}
        >>> tracker.add(state, 40, 1, Prompt([(300, 190)], [0]))     # not this; stays, whatever is propagated later

    Frames are decoded when the network looks at them. Of an object it keeps the prompted frames and the latest
    others, so memory does not grow with the clip. When the device's memory is full it goes on on the CPU, and warns.

    Args:
        model: a `VideoPredictor` in evaluation mode.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: VideoPredictor, name: str, device: str):
        self.model = model.to(device).eval()
        self.model.add_all_frames_to_correct_as_cond = True
        self.model.clear_non_cond_mem_around_input = False  # done here, and on the right frames; see `propagate`
        self.model.fill_hole_area = 0  # needs a CUDA extension; holes are filled after the fact, and adjustably
        self.name, self.device = name, device
        reach = max(model.num_maskmem * model.memory_temporal_stride_for_eval, model.max_obj_ptrs_in_encoder)
        self.kept = 2 * reach  # frames on both sides: what the network looks back on, and as many to correct

    def open(self, frames: FrameSequence) -> TrackState:
        """A new state for a clip; decodes nothing yet."""
        from nbhelpers.models.sam2_video.network import LazyImages

        return TrackState(frames, self.model.new_inference(LazyImages(frames, self.model.image_size)))

    def add(self, state: TrackState, frame: int, object_id: int, prompt: Prompt) -> Prediction:
        """Say what an object is on one frame, in place of what was said there before, and see its mask.

        On a frame that was tracked before, points and box correct what was tracked there, and a mask given with
        them is corrected instead. A mask alone is taken as it is. The answer depends on the prompt and on what was
        tracked, not on earlier prompts of the same frame: to undo a click, add the prompt without it.

        Args:
            state: of `open`.
            frame: index into the clip.
            object_id: any number; a new one makes a new object, before or after tracking.
            prompt: in pixels of the frame; a mask may be bool in frame size or logits.

        Raises:
            NbHelpersError: no such frame; a prompt outside it; a frame that cannot be read.
        """
        state.check(frame)
        prompt.check_inside(state.frames.size)

        def run():
            model, inference = self.model, state.on(self.model.device)
            model._get_image_feature(inference, frame, 1)  # a frame that cannot be read fails here, and changes nothing
            index = model._obj_id_to_idx(inference, object_id)
            state.tracked.setdefault(object_id, bytearray(len(state.frames)))
            outputs = state.outputs(object_id)
            before = state.found_before(object_id, frame)
            others = outputs["cond_frame_outputs"]
            others.pop(frame, None)
            if others and (before.direction or only_excludes(prompt)):
                reverse = before.direction == BACKWARD or (not before.direction and min(others) > frame)
                inference["frames_tracked_per_obj"][index] = {frame: {"reverse": reverse}}
            else:
                inference["frames_tracked_per_obj"][index] = {}
            if is_mask(prompt):
                model.add_new_mask(inference, frame, object_id, full_mask(prompt, state.frames.size))
            else:
                model.add_points(inference, frame, object_id, prompt, state.frames.size, before.logits)
            model.propagate_in_video_preflight(inference)
            output = outputs["cond_frame_outputs"][frame]
            return output, self._score(output)

        output, score = self._with_room(run)
        state.prompts.setdefault(object_id, {})[frame] = prompt
        state.scores[object_id, frame] = score
        state.changed.add(object_id)
        return self._prediction(state, object_id, frame, output, score)

    def remove(self, state: TrackState, object_id: int, frame: int | None = None) -> None:
        """Forget what was said about an object on one frame, or everything about it.

        An object of which nothing is said any more is forgotten.

        Raises:
            NbHelpersError: nothing was said about it there.
        """
        said = state.prompts.get(object_id, {})
        if not said or (frame is not None and frame not in said):
            raise NbHelpersError(
                "nothing was said about this object there",
                given=f"object {object_id}" + ("" if frame is None else f", frame {frame}"),
                expected=f"object and frame of {[(i, f) for i, said in state.prompts.items() for f in said]}",
            )
        if frame is None or len(said) == 1:
            self.model.remove_object(state.inference, object_id, need_output=False)
            state.forget(object_id)
            return
        self.model.clear_all_prompts_in_frame(state.inference, frame, object_id, need_output=False)
        state.outputs(object_id)["non_cond_frame_outputs"].pop(frame, None)  # upstream leaves the prompted mask there
        del said[frame], state.scores[object_id, frame]
        state.changed.add(object_id)

    def propagate(self, state: TrackState, start: int, stop: int) -> Iterator[TrackedFrame]:
        """Follow all objects from frame ``start`` to frame ``stop``, both included; backwards if ``stop < start``.

        Prompted frames keep the mask that `add` gave. What was tracked of an object before its prompts changed is
        forgotten first: it would pull the network back to the mistake.

        Raises:
            NbHelpersError: no such frame; nothing to follow; a frame that cannot be read.
        """
        state.check(start)
        state.check(stop)
        if not state.prompts:
            raise NbHelpersError("there is no object to follow", do="say what it is on some frame first: `add`")
        return self._follow(state, start, stop)

    def _follow(self, state: TrackState, start: int, stop: int) -> Iterator[TrackedFrame]:
        reverse = stop < start
        for frame in range(start, stop - 1, -1) if reverse else range(start, stop + 1):
            predictions, gone, prompted = {}, set(), set()
            for object_id in list(state.prompts):
                if object_id in state.changed:
                    state.outputs(object_id)["non_cond_frame_outputs"].clear()
                    state.changed.discard(object_id)
                output, score = self._with_room(functools.partial(self._step, state, object_id, frame, reverse))
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

    def memory(self, state: TrackState, frame: int) -> dict[str, np.ndarray]:
        """What the network remembers of one frame: arrays that `recall` puts back, after a restart for example.

        About 0.8 MB an object. Given the prompted frames and the latest ``reach`` others, a new state goes on exactly
        as this one would have.
        """
        return remembered(state, frame)

    def recall(
        self,
        state: TrackState,
        frame: int,
        memory: Mapping[str, np.ndarray],
        prompts: Mapping[int, Prompt] | None = None,
    ) -> None:
        """Put back what `memory` gave, in place of calling `add` and `propagate` again.

        Args:
            state: of a clip with the same frames; recall its prompted frames first.
            frame: the frame that the memory is of.
            memory: arrays by name.
            prompts: what had been said on this frame, by object id.

        Raises:
            NbHelpersError: the memory does not fit the prompts.
        """
        state.check(frame)
        with autocast(self.device):
            put_back(state, self.model, self.device, frame, memory, prompts or {})

    def _step(self, state: TrackState, object_id: int, frame: int, reverse: bool) -> tuple[dict[str, Any], float]:
        """Output and confidence of one object on one frame."""
        inference = state.on(self.model.device)
        output = state.outputs(object_id)["cond_frame_outputs"].get(frame)
        if output is not None:
            return output, state.scores[object_id, frame]
        output = self.model.step(inference, inference["obj_id_to_idx"][object_id], frame, reverse)
        return output, self._score(output)

    def _score(self, output: dict[str, Any]) -> float:
        """Predicted IoU times the probability that the object is there."""
        presence = float(output["object_score_logits"].float().sigmoid())
        return min(max(self.model.last_iou, 0.0), 1.0) * presence

    def _prediction(
        self, state: TrackState, object_id: int, frame: int, output: dict[str, Any], score: float
    ) -> Prediction:
        prompt = state.prompts[object_id].get(frame)
        size = state.frames.size
        if prompt is not None and is_mask(prompt):  # as it was given, not as the network's 256 x 256 pixels show it
            given = prompt.mask if prompt.mask.dtype == np.float32 else np.where(prompt.mask, 10, -10)
            return Prediction(given[None].astype(np.float32), np.ones(1, np.float32), size, given.shape)
        logits = output["pred_masks"][0].float().cpu().numpy()
        return Prediction(logits, np.array([score], np.float32), size, logits.shape[1:])

    def _with_room(self, run: Callable[[], Result]) -> Result:
        def in_its_precision() -> Result:
            with autocast(self.device):
                return run()

        return with_room(self, in_its_precision)


def build(name: str, files: dict[str, Path], device: str, *, config: str, compile: bool | None = None) -> Sam2Tracker:
    """Build a tracker from the publisher's checkpoint.

    Args:
        name: catalog name.
        files: ``{"checkpoint": path}``.
        device: where it computes.
        config: the model's yaml in the ``sam2`` package, e.g. ``configs/sam2.1/sam2.1_hiera_l.yaml``.
        compile: whether to compile the image encoder, which takes a minute at the first frame and pays on long
            clips. Left out: only on CUDA, and only where ``NBHELPERS_COMPILE=1`` is set.

    Raises:
        NbHelpersError: ``sam2`` is not installed; the checkpoint is damaged, of another model or for images only.
    """
    import torch

    model = build_model(config)
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


def build_model(config: str, *overrides: str) -> VideoPredictor:
    """The untrained network of a ``sam2`` configuration, on the CPU, as upstream builds it for video.

    Args:
        config: the yaml in the ``sam2`` package.
        overrides: changes to it in Hydra's syntax, e.g. ``"model.image_size=512"``.
    """
    target = "++model._target_=nbhelpers.models.sam2_video.network.VideoPredictor"
    nearest = f"++model.max_cond_frames_in_attn={NEAREST}"
    changes = [target, nearest, *overrides]
    return builders().build_sam2_video_predictor(config, None, device="cpu", hydra_overrides_extra=changes)
