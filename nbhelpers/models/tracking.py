"""What the trackers share: objects of a clip, the order of frames, expected places, SAM 2's memory of each object.

`expect` predicts by a Kalman filter with constant velocity where an instance is on the next frame. Yang et al. 2024
(SAMURAI, arXiv 2411.11922, section 4.1) choose among SAM 2's masks by such a filter; here it also keeps instances that
look the same apart (`nbhelpers.models.label_propagation.distractors`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from nbhelpers.core.device import half_precision
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit
from nbhelpers.core.masks import upsample
from nbhelpers.core.prompts import INCLUDE, Prompt
from nbhelpers.core.video import optical_flow, resize_flow, warp
from nbhelpers.models.adapters import in_precision, moved, packed, unpacked
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.values import Prediction, TrackedFrame, is_mask_prompt

if TYPE_CHECKING:
    from torch import Tensor

MAX_CONDITIONING = 16  # frames that a frame attends to, 4096 tokens each, to bound the memory
FLOW_SIDE = 960  # pixels of the longer side at which masks between tracked frames are warped
FORWARD, BACKWARD = 1, 2
CONDITIONED, TRACKED = "cond_frame_outputs", "non_cond_frame_outputs"
Result = TypeVar("Result")
Output = tuple[dict[str, Any], float]
"""The network's output on a frame, and the confidence in its mask."""
MAX_PAST = 24  # frames from which a position is predicted
MEASURED, MEASURED_TOUCHING = 0.05, 0.15  # standard deviation of a measured position, of the object's size
ACCELERATION = 0.06  # standard deviation of the change of velocity from frame to frame, of the object's size


class ClipState:
    """A clip and its prompted objects.

    Attributes:
        frames: the clip.
        objects: by id; each has its ``prompts`` by frame.
        stride: how many frames apart the tracked ones are.
    """

    def __init__(self, frames: FrameSequence):
        self.frames, self.stride = frames, 1
        self.objects: dict[int, Any] = {}

    def check(self, frame: int) -> None:
        """Raise an error unless the clip has this frame."""
        if not 0 <= frame < len(self.frames):
            raise NbHelpersError("there is no such frame", given=frame, expected=f"0 to {len(self.frames) - 1}")


class ClipTracker:
    """Base of the trackers, whose states are each a `ClipState`."""

    def remove(self, state: Any, object_id: int, frame: int | None = None) -> None:
        """Remove the prompt of an object on one frame, or the object with all its prompts.

        An object without prompts is removed.

        Raises:
            NbHelpersError: there is no such prompt.
        """
        prompts = state.objects[object_id].prompts if object_id in state.objects else {}
        if not prompts or (frame is not None and frame not in prompts):
            raise NbHelpersError(
                "there is no such prompt",
                given=f"object {object_id}" + ("" if frame is None else f" on frame {frame}"),
                expected=f"object and frame of {[(i, f) for i, item in state.objects.items() for f in item.prompts]}",
            )
        if frame is None or len(prompts) == 1:
            self._forget(state, object_id)
            del state.objects[object_id]
        else:
            self._forget(state, object_id, frame)

    def propagate(self, state: Any, start: int, stop: int, step: int | None = None) -> Iterator[TrackedFrame]:
        """Track all objects from frame ``start`` to frame ``stop``, both included; backwards if ``stop < start``.

        Prompted frames keep the mask from `add`. The masks of earlier calls are kept and used, except that a network's
        memory from before a change of an object's prompts is dropped: it would reproduce the error that was corrected.

        Args:
            state: of `open`.
            start: first frame.
            stop: last frame.
            step: 1 or -1, by default what leads from ``start`` to ``stop``. 3 or -3: only every third frame, prompted
                frames and the last one are tracked; the masks between are interpolated along the optical flow.

        Raises:
            NbHelpersError: an invalid frame or step, or no prompt, raised by the call; a frame that cannot be read.
        """
        state.check(start)
        state.check(stop)
        if not state.objects:
            raise NbHelpersError("there is no prompt yet", do="prompt an object on a frame first")
        step = step or (1 if stop >= start else -1)
        if (stop - start) * step < 0:
            raise NbHelpersError("the step leads away from the last frame", given=f"{start} to {stop} by {step}")

        def track(frame: int) -> TrackedFrame:
            state.stride = abs(step)
            return self._track(state, frame, 1 if step > 0 else -1)

        def is_prompted(frame: int) -> bool:
            return any(frame in item.prompts for item in state.objects.values())

        return track_in_steps(state.frames, track, is_prompted, start, stop, step)

    def memory(self, state: Any, frame: int) -> dict[str, np.ndarray]:
        """The memory of one frame as arrays that `recall` restores, after a restart for example.

        Per object about 20 kB (label propagation), 0.3 MB (EdgeTAM), 0.8 MB (SAM 2) or 3 MB (SAM 3). With the prompted
        frames and the latest ``kept`` others (all if that is None), a new state continues exactly like this one.
        """
        return {
            f"{object_id}/{name}": array
            for object_id, item in state.objects.items()
            for name, array in self._arrays(state, item, frame).items()
        }

    def recall(
        self,
        state: Any,
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
        objects: dict[int, dict[str, np.ndarray]] = {}
        for key, array in memory.items():
            object_id, _, name = key.partition("/")
            objects.setdefault(int(object_id), {})[name] = array
        prompted = {object_id for object_id, own in objects.items() if "score" in own}
        if prompted != set(prompts):
            raise NbHelpersError(
                "the memory does not match the prompts",
                given=f"frame {frame}: prompted objects {sorted(prompts)}, memory of {sorted(prompted)}",
                expected="the prompts at the time when the memory was saved",
            )
        self._restore(state, frame, objects, prompts)

    def _forget(self, state: Any, object_id: int, frame: int | None = None) -> None:
        """Remove an object's prompt on one of its prompted frames; with no frame what is known beside `objects`."""
        raise NotImplementedError

    def _track(self, state: Any, frame: int, step: int) -> TrackedFrame:
        """All objects on one frame, in direction ``step``."""
        raise NotImplementedError

    def _arrays(self, state: Any, item: Any, frame: int) -> dict[str, np.ndarray]:
        """The memory of an object on a frame; with a ``score`` on a prompted one."""
        raise NotImplementedError

    def _restore(
        self, state: Any, frame: int, objects: Mapping[int, dict[str, np.ndarray]], prompts: Mapping[int, Prompt]
    ) -> None:
        """Restore what `_arrays` gave of each object; ``prompts`` are those of the prompted ones."""
        raise NotImplementedError


def track_in_steps(
    frames: FrameSequence,
    track: Callable[[int], TrackedFrame],
    is_prompted: Callable[[int], bool],
    start: int,
    stop: int,
    step: int,
) -> Iterator[TrackedFrame]:
    """All frames from ``start`` to ``stop``: some are tracked, those between have interpolated masks.

    Args:
        frames: the clip.
        track: tracks one frame.
        is_prompted: which frames are not left out, beside the last one.
        start: first frame.
        stop: last frame.
        step: from one tracked frame to the next, negative for backwards.
    """
    sign = 1 if step > 0 else -1
    before = None
    for frame in range(start, stop + sign, sign):
        near = before is not None and abs(frame - before.frame) < abs(step)
        if near and frame != stop and not is_prompted(frame):
            continue
        tracked = track(frame)
        if before is not None:
            yield from _between(frames, before, tracked, sign)
        yield tracked
        before = tracked


def _between(frames: FrameSequence, before: TrackedFrame, after: TrackedFrame, sign: int) -> Iterator[TrackedFrame]:
    """The frames between two tracked ones: masks of both, warped by optical flow, their mean weighted by distance."""
    between = range(before.frame + sign, after.frame, sign)
    ends = [_small_grey(frames[end.frame]) for end in (before, after)] if between else []
    for frame in between:
        grey = _small_grey(frames[frame])
        flows = [resize_flow(optical_flow(grey, end), (frames.size[0], frames.size[1])) for end in ends]
        weight = (frame - before.frame) / (after.frame - before.frame)
        predictions, gone = {}, set()
        for object_id in after.predictions:
            sides = [
                (part, end.predictions[object_id], flow)
                for part, end, flow in zip((1 - weight, weight), (before, after), flows, strict=True)
                if object_id in end.predictions
            ]
            total = sum(part for part, _, _ in sides)
            cover = sum(part * warp(side.best, flow, cv2.BORDER_REPLICATE) for part, side, flow in sides)
            score = sum(part * float(side.scores[side.choice]) for part, side, _ in sides) / total
            mask = np.asarray(cover) > total / 2
            predictions[object_id] = Prediction.of_mask(mask, score)
            if not mask.any():
                gone.add(object_id)
        yield TrackedFrame(frame, predictions, frozenset(gone), is_interpolated=True)


def _small_grey(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "sh sw"]:
    """A greyscale copy of a frame, small enough for optical flow in a fraction of a second."""
    return cv2.cvtColor(fit(image, FLOW_SIDE), cv2.COLOR_RGB2GRAY)


class Before(NamedTuple):
    """The state of a frame before it was prompted, which its prompts correct.

    Attributes:
        direction: in which it was tracked; 0 if it was not.
        logits: the low-resolution mask ``(1, 1, h, w)``, if still in memory.
    """

    direction: int
    logits: Tensor | None


@dataclass(eq=False)
class RememberedObject:
    """One object of a clip in SAM 2's memory.

    Attributes:
        object_id: its id.
        tracked: for each frame the direction in which it was last tracked (0: not yet).
        outputs: the network's outputs by frame: `CONDITIONED` those of prompted frames, `TRACKED` the others.
        prompts: by frame.
        scores: the confidence in the mask of each prompted frame.
        before: of each prompted frame, kept until the frame is tracked again.
        changed: whether the prompts changed since the object was last tracked.
    """

    object_id: int
    tracked: bytearray = field(repr=False)
    outputs: dict[str, dict[int, dict[str, Any]]] = field(
        default_factory=lambda: {CONDITIONED: {}, TRACKED: {}}, repr=False
    )
    prompts: dict[int, Prompt] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    before: dict[int, Before] = field(default_factory=dict, repr=False)
    changed: bool = False

    def move(self, device: Any) -> None:
        """Move all tensors to a device."""
        self.outputs = moved(self.outputs, device)
        self.before = {frame: Before(b.direction, moved(b.logits, device)) for frame, b in self.before.items()}


class MemoryState(ClipState):
    """A clip and its objects, with the library's own state of it, ``session``, on a device."""

    def __init__(self, frames: FrameSequence, session: Any, device: str):
        super().__init__(frames)
        self.session, self.device = session, device


class MemoryTracker(ClipTracker):
    """Base of the trackers with SAM 2's memory, of whichever library, with corrections that persist.

    The libraries keep a correction as an ordinary memory, and lose it at the next propagation. Here every prompted
    frame is a conditioning frame, points correct the tracked mask, and the memory of an object from before its prompts
    changed is dropped. Of an object the prompted frames and the latest ``kept`` others are kept, so memory does not
    grow with the clip. If the device runs out of memory, it continues on the CPU and warns.

    Args:
        model: in evaluation mode.
        name: its catalog name.
        device: where it computes.
        past: how many frames back the network looks.
    """

    def __init__(self, model: Any, name: str, device: str, past: int):
        self.model, self.name, self.device = model.to(device).eval(), name, device
        self.kept = 2 * past  # frames on both sides: those that the network attends to, and as many to correct

    def add(self, state: MemoryState, frame: int, object_id: int, prompt: Prompt) -> Prediction:
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
        item = state.objects.get(object_id) or RememberedObject(object_id, bytearray(len(state.frames)))

        def run() -> Output:
            self._prepare(state, item, frame)
            if frame not in item.before:
                output = item.outputs[TRACKED].get(frame)
                item.before[frame] = Before(item.tracked[frame], None if output is None else output["pred_masks"])
            before, others = item.before[frame], item.outputs[CONDITIONED].keys() - {frame}
            reverse = before.direction == BACKWARD or (not before.direction and min(others, default=0) > frame)
            in_context = bool(others) and bool(before.direction or only_excludes(prompt))
            output, score = self._predict(state, item, frame, prompt, reverse if in_context else None)
            return self._in_own_precision(output), score

        output, score = self._run(run)
        item.outputs[CONDITIONED][frame] = output
        item.outputs[TRACKED].pop(frame, None)
        item.prompts[frame], item.scores[frame], item.changed = prompt, score, True
        state.objects[object_id] = item
        return self._prediction(state, item, frame, output, score)

    def _track(self, state: MemoryState, frame: int, step: int) -> TrackedFrame:
        predictions, gone, prompted = {}, set(), set()
        for object_id, item in list(state.objects.items()):
            if item.changed:
                item.outputs[TRACKED].clear()
                item.changed = False
            if frame in item.prompts:
                output, score = item.outputs[CONDITIONED][frame], item.scores[frame]
                prompted.add(object_id)
            else:
                output, score = self._run(lambda item=item: self._next(state, item, frame, step < 0))
                item.outputs[TRACKED][frame] = output
                item.before.pop(frame, None)
                item.tracked[frame] = FORWARD if step > 0 else BACKWARD
            for far in [other for other in item.outputs[TRACKED] if abs(other - frame) > self.kept]:
                del item.outputs[TRACKED][far]
            predictions[object_id] = self._prediction(state, item, frame, output, score)
            if float(output["object_score_logits"]) <= 0:
                gone.add(object_id)
        return TrackedFrame(frame, predictions, frozenset(gone), frozenset(prompted))

    def _forget(self, state: MemoryState, object_id: int, frame: int | None = None) -> None:
        if frame is not None:
            item = state.objects[object_id]
            del item.prompts[frame], item.scores[frame], item.outputs[CONDITIONED][frame]
            item.changed = True

    def _arrays(self, state: MemoryState, item: RememberedObject, frame: int) -> dict[str, np.ndarray]:
        output = item.outputs[CONDITIONED if frame in item.prompts else TRACKED].get(frame, {})
        before = item.before.get(frame, Before(item.tracked[frame], None))
        arrays = {name: packed(tensor) for name, tensor in output.items() if hasattr(tensor, "detach")}
        arrays["direction"] = np.array(before.direction, np.uint8)
        if before.logits is not None:
            arrays["before"] = packed(before.logits)
        if frame in item.prompts:
            arrays["score"] = np.array(item.scores[frame])
        return arrays

    def _restore(
        self,
        state: MemoryState,
        frame: int,
        objects: Mapping[int, dict[str, np.ndarray]],
        prompts: Mapping[int, Prompt],
    ) -> None:
        for object_id, own in objects.items():
            item = state.objects.setdefault(object_id, RememberedObject(object_id, bytearray(len(state.frames))))
            self._register(state, item)
            direction, logits = int(own.pop("direction")), own.pop("before", None)
            if object_id in prompts:
                item.prompts[frame], item.scores[frame] = prompts[object_id], float(own.pop("score"))
                item.before[frame] = Before(direction, None if logits is None else unpacked(logits, self.device))
            else:
                item.tracked[frame] = direction
            if own:
                output = self._in_own_precision({name: unpacked(array, self.device) for name, array in own.items()})
                item.outputs[CONDITIONED if object_id in prompts else TRACKED][frame] = self._completed(state, output)

    def _next(self, state: MemoryState, item: RememberedObject, frame: int, reverse: bool) -> Output:
        """One object on a frame without a prompt of it."""
        self._prepare(state, item, frame)
        output, score = self._step(state, item, frame, reverse)
        return self._in_own_precision(output), score

    def _prepare(self, state: MemoryState, item: RememberedObject, frame: int) -> None:
        """Bring the state to the tracker's device, and the frame's features and the object to the library's state."""
        if state.device != self.device:
            state.device = self.device
            self._move(state)
            for each in state.objects.values():
                each.move(self.device)
                self._register(state, each)
        self._encode(state, frame)  # a frame that cannot be read raises here, before anything changes
        self._register(state, item)

    def _move(self, state: MemoryState) -> None:
        """Bring the library's state to the tracker's device; image features are computed again."""
        raise NotImplementedError

    def _encode(self, state: MemoryState, frame: int) -> None:
        """Compute the image features of a frame unless they are there."""
        raise NotImplementedError

    def _register(self, state: MemoryState, item: RememberedObject) -> None:
        """Make an object with its outputs known to the library."""
        raise NotImplementedError

    def _predict(
        self, state: MemoryState, item: RememberedObject, frame: int, prompt: Prompt, reverse: bool | None
    ) -> Output:
        """An object on a prompted frame; ``reverse`` is None if the frame is predicted without the others."""
        raise NotImplementedError

    def _step(self, state: MemoryState, item: RememberedObject, frame: int, reverse: bool) -> Output:
        """An object on another frame."""
        raise NotImplementedError

    def _in_own_precision(self, output: dict[str, Any]) -> dict[str, Any]:
        """The output with all that is in half precision in the tracker's own, as autocast wants it.

        The libraries keep memory in bfloat16, also where a T4 computes in float16; saved memory is of any machine.
        """
        half = half_precision(self.device, getattr(self, "precision", None))
        if half is not None:
            for name, value in output.items():
                if hasattr(value, "dtype") and value.is_floating_point() and value.dtype.itemsize == half.itemsize:
                    output[name] = value.to(half)
        return output

    def _completed(self, state: MemoryState, output: dict[str, Any]) -> dict[str, Any]:
        """An output from saved memory, with what is not saved."""
        return output

    def _prediction(
        self, state: MemoryState, item: RememberedObject, frame: int, output: Mapping[str, Any], score: float
    ) -> Prediction:
        prompt, size = item.prompts.get(frame), state.frames.size
        if prompt is not None and is_mask_prompt(prompt):  # unchanged, not in the network's pixels
            given = prompt.mask if prompt.mask.dtype == np.float32 else np.where(prompt.mask, 10, -10)
            return Prediction(given[None].astype(np.float32), np.ones(1, np.float32), size, given.shape)
        logits = output["pred_masks"].float().cpu().numpy().reshape(1, *output["pred_masks"].shape[-2:])
        return Prediction(logits, np.array([score], np.float32), size, logits.shape[1:])

    def _run(self, run: Callable[[], Result]) -> Result:
        return in_precision(self, run)


def confidence(output: Mapping[str, Any], iou: float) -> float:
    """Predicted IoU times the probability that the object is visible."""
    return min(max(iou, 0.0), 1.0) * float(output["object_score_logits"].float().sigmoid())


def only_excludes(prompt: Prompt) -> bool:
    """Whether a prompt consists only of excluding points, which need a mask to correct."""
    return prompt.mask is None and prompt.box is None and INCLUDE not in prompt.labels


def full_mask(prompt: Prompt, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of a prompt at frame size."""
    return prompt.mask if prompt.mask.dtype == np.bool_ else upsample(prompt.mask, prompt.mask.shape, size) > 0


@dataclass(frozen=True)
class Place:
    """Where an instance is on a frame, in cells of the decoder's grid.

    Attributes:
        center: ``(x, y)``, mean of its cells.
        area: number of its cells.
        alone: whether no distractor touches it; otherwise mask and position are not to be trusted.
    """

    center: tuple[float, float]
    area: float
    alone: bool = True

    def array(self) -> Float64[np.ndarray, " 4"]:
        """As numbers, to be saved."""
        return np.array([*self.center, self.area, self.alone], np.float64)

    @classmethod
    def of_array(cls, values: Float64[np.ndarray, " 4"]) -> Place:
        """The inverse of `array`."""
        x, y, area, alone = values.tolist()
        return cls((x, y), area, bool(alone))


@dataclass(frozen=True)
class Expectation:
    """Where an instance is expected on a frame.

    Attributes:
        center: ``(x, y)`` in cells of the decoder's grid.
        spread: standard deviation of it.
        area: in cells, that of the last frame on which it was alone.
        seen: that frame.
    """

    center: tuple[float, float]
    spread: float
    area: float
    seen: int

    def moved(self, mask: Bool[np.ndarray, "s s"], there: Place) -> Bool[np.ndarray, "s s"]:
        """A mask of the instance, moved from its place there to where the instance is expected."""
        dx, dy = np.array(self.center) - np.array(there.center)
        shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        return cv2.warpAffine(mask.astype(np.uint8), shift, mask.shape[::-1]).astype(bool)


def place_of(mask: Bool[np.ndarray, "s s"], alone: bool = True) -> Place | None:
    """The place of a mask; None if it is empty."""
    rows, columns = np.nonzero(mask)
    return Place((float(columns.mean()), float(rows.mean())), float(len(rows)), alone) if len(rows) else None


def expect(places: Mapping[int, Place], frame: int, step: int, start: int | None) -> Expectation | None:
    """Where an instance is expected, from the frames before.

    Args:
        places: of the instance by frame.
        frame: for which it is predicted.
        step: 1 if time runs forwards, -1 if backwards.
        start: the frame to begin with, such as a prompted one: what lies before it is older than its correction.

    Returns:
        None if the instance is on no frame before.
    """
    first = frame - step * MAX_PAST if start is None else max(frame - step * MAX_PAST, start, key=lambda f: f * step)
    past = [index for index in range(first, frame, step) if index in places]
    if not past:  # out of sight for long
        older = [
            index for index in places if (first - index) * step > 0 and (start is None or (index - start) * step >= 0)
        ]
        past = sorted(older, key=lambda index: index * step)[-1:]
    if not past:
        return None
    known = [index for index in past if places[index].alone] or past
    area = places[known[-1]].area
    size = area**0.5
    x, spread = _predict([(index * step, places[index]) for index in past], frame * step, size)
    return Expectation((float(x[0]), float(x[1])), spread, area, known[-1])


def _predict(past: Sequence[tuple[int, Place]], time: int, size: float) -> tuple[Float64[np.ndarray, " 2"], float]:
    """Position at a time by a Kalman filter over position and velocity, and its standard deviation."""
    model = cv2.KalmanFilter(4, 2, 0, cv2.CV_64F)
    model.transitionMatrix = np.eye(4) + np.eye(4, k=2)
    model.measurementMatrix = np.eye(2, 4)
    change = (ACCELERATION * size) ** 2  # white noise acceleration over one frame
    model.processNoiseCov = change * np.kron(np.array([[0.25, 0.5], [0.5, 1.0]]), np.eye(2))
    clock, first = past[0]
    model.statePost = np.array([*first.center, 0.0, 0.0])[:, None]
    model.errorCovPost = np.diag([(MEASURED * size) ** 2] * 2 + [(2 * ACCELERATION * size) ** 2] * 2)
    for moment, here in past[1:]:
        for _ in range(moment - clock):
            model.predict()
        model.measurementNoiseCov = np.eye(2) * ((MEASURED if here.alone else MEASURED_TOUCHING) * size) ** 2
        model.correct(np.array(here.center, np.float64)[:, None])
        clock = moment
    for _ in range(time - clock):
        model.predict()
    covariance = model.errorCovPre
    return model.statePre[:2, 0], float(np.sqrt((covariance[0, 0] + covariance[1, 1]) / 2))
