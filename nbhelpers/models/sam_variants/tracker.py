"""Video segmentation by the networks of ``transformers`` that have SAM 2's memory, with corrections that stick.

The library keeps a correction as an ordinary memory, and neither gives the tracked mask to the network with it nor
tracks the later frames again. Here, as in `nbhelpers.models.sam2_video`, every prompted frame is a conditioning frame,
points correct the tracked mask, and the memory of an object from before its prompts changed is dropped.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.adapters import in_precision, moved, packed, unpacked
from nbhelpers.models.pretrained import processed
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.sam2_video.tracker import (
    BACKWARD,
    FORWARD,
    MAX_CONDITIONING,
    Before,
    full_mask,
    only_excludes,
)
from nbhelpers.models.sam_prompts import low_resolution_logits, square_points
from nbhelpers.models.sam_variants.segmenter import load_variant
from nbhelpers.models.values import Prediction, TrackedFrame, arrays_by_object, is_mask_prompt

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = {
    "edgetam_video": "EdgeTamVideoModel",
    "sam2_video": "Sam2VideoModel",
    "sam3_video": "Sam3TrackerVideoModel",
}
CONDITIONED, TRACKED = "cond_frame_outputs", "non_cond_frame_outputs"
Result = TypeVar("Result")


class LazyPixels:
    """Stands for the library's tensor of all frames: reads and normalises a frame when it is asked for, keeps none."""

    def __init__(self, frames: FrameSequence, processor: Any, side: int):
        self.frames, self.processor, self.side = frames, processor, side

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        """``(3, side, side) float32``, on the CPU."""
        return processed(self.processor, [self.frames[index]], (self.side, self.side), "cpu")[0]


@dataclass
class TrackedObject:
    """One object of a clip.

    Attributes:
        outputs: the network's outputs by frame: `CONDITIONED` those of prompted frames, `TRACKED` the others.
        prompts: by frame.
        scores: the confidence in the mask of each prompted frame.
        tracked: for each frame how it was tracked last: 0, `FORWARD` or `BACKWARD`.
        before: the state of each prompted frame before its first prompt.
        changed: whether the prompts changed since the object was last tracked.
    """

    outputs: dict[str, dict[int, dict[str, Tensor]]]
    prompts: dict[int, Prompt]
    scores: dict[int, float]
    tracked: bytearray
    before: dict[int, Before] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def new(cls, frames: int) -> TrackedObject:
        """An object without prompts in a clip of so many frames."""
        return cls({CONDITIONED: {}, TRACKED: {}}, {}, {}, bytearray(frames))


@dataclass
class VariantState:
    """A clip, its objects and their memory; made by `VariantTracker.open`."""

    frames: FrameSequence
    session: Any
    objects: dict[int, TrackedObject] = field(default_factory=dict)

    def check(self, frame: int) -> None:
        """Raise an error unless the clip has this frame."""
        if not 0 <= frame < len(self.frames):
            raise NbHelpersError("there is no such frame", given=frame, expected=f"0 to {len(self.frames) - 1}")


class VariantTracker:
    """Promptable video segmentation; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = nbhelpers.load("tracker", "edgetam-video")
        >>> state = tracker.open(Frames("walk.mp4"))
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> masks = {t.frame: t.predictions[1].best for t in tracker.propagate(state, 0, 79)}

    Frames are decoded when they are encoded. Of an object it keeps the prompted frames and the latest others, so memory
    does not grow with the clip. When the device's memory is full it continues on the CPU, and warns.

    Args:
        model: ``EdgeTamVideoModel``, ``Sam2VideoModel`` or ``Sam3TrackerVideoModel`` of ``transformers``.
        processor: the image processor of the same family.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: Any, processor: Any, name: str, device: str):
        self.model = model.to(device).eval().requires_grad_(False)
        self.processor, self.name, self.device = processor, name, device
        self.side: int = model.image_size
        if model.config.max_cond_frame_num < 0:  # all of them: the memory of a frame would grow with the prompts
            model.config.max_cond_frame_num = MAX_CONDITIONING
        past = max(model.num_maskmem, model.config.max_object_pointers_in_encoder)
        self.kept = 2 * past  # frames on both sides: those that the network attends to, and as many to correct
        self._encodes_memory = "run_mem_encoder" in inspect.signature(model._run_single_frame_inference).parameters
        self._last_iou = 0.0
        model.mask_decoder.register_forward_hook(self._note_iou)

    def open(self, frames: FrameSequence) -> VariantState:
        """A new state for a clip; decodes nothing yet."""
        import torch

        library = sys.modules[type(self.model).__module__]
        kind = getattr(library, type(self.model).__name__.replace("VideoModel", "VideoInferenceSession"))
        session = kind(inference_device=self.device, inference_state_device=self.device, dtype=torch.float32)
        session.processed_frames = LazyPixels(frames, self.processor, self.side)
        return VariantState(frames, session)

    def add(self, state: VariantState, frame: int, object_id: int, prompt: Prompt) -> Prediction:
        """Prompt an object on one frame, in place of its earlier prompt there, and get its mask.

        On a frame that was tracked before, points and box correct the tracked mask; a mask given with them is
        corrected instead. A mask alone is used unchanged. The prediction depends on the prompt and on the tracked
        mask, not on earlier prompts of the same frame.

        Raises:
            NbHelpersError: no such frame; a prompt outside it; a frame that cannot be read.
        """
        state.check(frame)
        prompt.check_inside(state.frames.size)

        def run():
            self._prepare(state, frame)  # a frame that cannot be read fails here, and changes nothing
            item = state.objects.get(object_id) or TrackedObject.new(len(state.frames))
            output = item.outputs[TRACKED].get(frame)
            logits = None if output is None else output["pred_masks"]
            before = item.before.get(frame, Before(item.tracked[frame], logits))
            others = {other: value for other, value in item.outputs[CONDITIONED].items() if other != frame}
            in_context = bool(others) and bool(before.direction or only_excludes(prompt))
            reverse = before.direction == BACKWARD or (not before.direction and min(others, default=0) > frame)
            state.session.output_dict_per_obj[object_id] = {CONDITIONED: others, TRACKED: item.outputs[TRACKED]}
            output, score = self._step(state, object_id, frame, reverse, prompt, before.logits, initial=not in_context)
            return item, before, output, score

        item, before, output, score = self._run(run)
        item.outputs[CONDITIONED][frame] = output
        item.outputs[TRACKED].pop(frame, None)
        item.before[frame], item.prompts[frame], item.scores[frame], item.changed = before, prompt, score, True
        state.objects[object_id] = item
        return self._prediction(state, object_id, frame, output, score)

    def remove(self, state: VariantState, object_id: int, frame: int | None = None) -> None:
        """Remove the prompt of an object on one frame, or the object with all its prompts.

        An object without prompts is removed.

        Raises:
            NbHelpersError: there is no such prompt.
        """
        item = state.objects.get(object_id)
        if item is None or (frame is not None and frame not in item.prompts):
            raise NbHelpersError(
                "there is no such prompt",
                given=f"object {object_id}" + ("" if frame is None else f" on frame {frame}"),
                expected=f"object and frame of {[(i, f) for i, other in state.objects.items() for f in other.prompts]}",
            )
        if frame is None or len(item.prompts) == 1:
            del state.objects[object_id]
            return
        del item.prompts[frame], item.scores[frame], item.outputs[CONDITIONED][frame]
        item.changed = True

    def propagate(self, state: VariantState, start: int, stop: int) -> Iterator[TrackedFrame]:
        """Track all objects from frame ``start`` to frame ``stop``, both included; backwards if ``stop < start``.

        Prompted frames keep the mask that `add` gave. The memory of an object from before its prompts changed is
        dropped first: it would pull the network back to the mistake.

        Raises:
            NbHelpersError: no such frame; no object; a frame that cannot be read.
        """
        state.check(start)
        state.check(stop)
        if not state.objects:
            raise NbHelpersError("there is no prompt yet", do="prompt an object on a frame first")
        return self._track(state, start, stop)

    def _track(self, state: VariantState, start: int, stop: int) -> Iterator[TrackedFrame]:
        """All objects, frame by frame."""
        reverse = stop < start
        for frame in range(start, stop - 1, -1) if reverse else range(start, stop + 1):
            predictions, gone, prompted = {}, set(), set()
            for object_id, item in list(state.objects.items()):
                if item.changed:
                    item.outputs[TRACKED].clear()
                    item.changed = False
                if frame in item.prompts:
                    output, score = item.outputs[CONDITIONED][frame], item.scores[frame]
                    prompted.add(object_id)
                else:
                    output, score = self._run(lambda i=object_id, f=frame: self._step_tracked(state, i, f, reverse))
                    item.outputs[TRACKED][frame] = output
                    item.before.pop(frame, None)
                    item.tracked[frame] = BACKWARD if reverse else FORWARD
                for far in [other for other in item.outputs[TRACKED] if abs(other - frame) > self.kept]:
                    del item.outputs[TRACKED][far]
                predictions[object_id] = self._prediction(state, object_id, frame, output, score)
                if float(output["object_score_logits"]) <= 0:
                    gone.add(object_id)
            yield TrackedFrame(frame, predictions, frozenset(gone), frozenset(prompted))

    def memory(self, state: VariantState, frame: int) -> dict[str, np.ndarray]:
        """The network's memory of one frame as arrays that `recall` restores, after a restart for example.

        Per object 0.3 MB (EdgeTAM) to 3 MB (SAM 3). With the prompted frames and the latest `kept` others, a new state
        continues exactly like this one.
        """
        arrays = {}
        for object_id, item in state.objects.items():
            output = item.outputs[CONDITIONED if frame in item.prompts else TRACKED].get(frame, {})
            before = item.before.get(frame, Before(item.tracked[frame], None))
            own = {name: packed(tensor) for name, tensor in output.items()}
            own["direction"] = np.array(before.direction, np.uint8)
            if before.logits is not None:
                own["before"] = packed(before.logits)
            if frame in item.prompts:
                own["score"] = np.array(item.scores[frame])
            arrays |= {f"{object_id}/{name}": array for name, array in own.items()}
        return arrays

    def recall(
        self,
        state: VariantState,
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
            NbHelpersError: no such frame; the memory does not match the prompts.
        """
        state.check(frame)
        prompts = prompts or {}
        for object_id, own in arrays_by_object(memory, frame, prompts).items():
            item = state.objects.setdefault(object_id, TrackedObject.new(len(state.frames)))
            direction = int(own.pop("direction"))
            logits = unpacked(own.pop("before"), self.device) if "before" in own else None
            if object_id in prompts:
                item.prompts[frame], item.scores[frame] = prompts[object_id], float(own.pop("score"))
                item.before[frame] = Before(direction, logits)
            else:
                item.tracked[frame] = direction
            if own:
                output = {name: unpacked(array, self.device) for name, array in own.items()}
                item.outputs[CONDITIONED if object_id in prompts else TRACKED][frame] = output

    def _step_tracked(self, state: VariantState, object_id: int, frame: int, reverse: bool) -> tuple[dict, float]:
        """Output and confidence of one object on a frame without prompt."""
        self._prepare(state, frame)
        state.session.output_dict_per_obj[object_id] = state.objects[object_id].outputs
        return self._step(state, object_id, frame, reverse)

    def _step(
        self,
        state: VariantState,
        object_id: int,
        frame: int,
        reverse: bool,
        prompt: Prompt | None = None,
        tracked: Tensor | None = None,
        initial: bool = False,
    ) -> tuple[dict[str, Tensor], float]:
        """Output and confidence of one object on one frame, whose outputs so far are in the session.

        Args:
            state: of the clip.
            object_id: any number.
            frame: index into the clip.
            reverse: whether it is tracked backwards.
            prompt: of this frame, if it has one.
            tracked: ``(1, 1, h, w)`` logits that points and box correct.
            initial: whether the frame is predicted without the memory of others.
        """
        inputs: dict[str, Any] = {"point_inputs": None, "mask_inputs": None, "prev_sam_mask_logits": None}
        if prompt is not None and is_mask_prompt(prompt):
            inputs["mask_inputs"] = self._square_mask(full_mask(prompt, state.frames.size))
        elif prompt is not None:
            inputs["point_inputs"] = self._point_inputs(prompt, state.frames.size)
            inputs["prev_sam_mask_logits"] = self._corrected(prompt, tracked)
        session = state.session
        output = self.model._run_single_frame_inference(
            inference_session=session,
            frame_idx=frame,
            obj_idx=object_id,
            batch_size=1,
            is_init_cond_frame=initial,
            reverse=reverse,
            **inputs,
            **({"run_mem_encoder": True} if self._encodes_memory else {}),
        )
        high = output.pop("high_res_masks", None)
        if not self._encodes_memory:
            features = session.cache.get_vision_features(frame)["vision_feats"][-1]
            output["maskmem_features"], output["maskmem_pos_enc"] = self.model._encode_new_memory(
                current_vision_feats=features,
                pred_masks_high_res=high,
                object_score_logits=output["object_score_logits"],
                is_mask_from_pts=prompt is not None,
            )
        presence = float(output["object_score_logits"].float().sigmoid())
        return output, min(max(self._last_iou, 0.0), 1.0) * presence

    def _prepare(self, state: VariantState, frame: int) -> None:
        """Bring the session to the tracker's device, and encode a frame unless it is the latest one encoded."""
        if state.session.inference_device != self.device:
            state.session.cache.clear_all()
            for holder in (state.session, state.session.cache):
                holder.inference_device = holder.inference_state_device = self.device
            for item in state.objects.values():
                item.outputs = moved(item.outputs, self.device)
                item.before = {f: Before(b.direction, moved(b.logits, self.device)) for f, b in item.before.items()}
        self.model._prepare_vision_features(state.session, frame, 1)

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

    def _prediction(
        self, state: VariantState, object_id: int, frame: int, output: Mapping[str, Tensor], score: float
    ) -> Prediction:
        prompt = state.objects[object_id].prompts.get(frame)
        size = state.frames.size
        if prompt is not None and is_mask_prompt(prompt):  # as given, not in the network's pixels
            given = prompt.mask if prompt.mask.dtype == np.float32 else np.where(prompt.mask, 10, -10)
            return Prediction(given[None].astype(np.float32), np.ones(1, np.float32), size, given.shape)
        logits = output["pred_masks"].float().cpu().numpy().reshape(1, *output["pred_masks"].shape[-2:])
        return Prediction(logits, np.array([score], np.float32), size, logits.shape[1:])

    def _run(self, run: Callable[[], Result]) -> Result:
        return in_precision(self, run)


def build_tracker(name: str, files: dict[str, Path], device: str) -> VariantTracker:
    """Build a tracker from the roles ``checkpoint`` and ``config``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, of another network, or do not belong together.
    """
    return VariantTracker(*load_variant(name, files, NETWORKS), name, device)
