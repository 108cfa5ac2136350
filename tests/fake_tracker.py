"""A tracker without weights: an object is what has nearly its colour, and where it is found carries on from frame to frame."""

import time
from dataclasses import replace

import cv2
import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.tracking import track_in_steps
from nbhelpers.models.values import Prediction, TrackedFrame

REACH = 45.0  # colour distance within which a pixel belongs to an object
KEPT = 4


class Clip:
    """Frames ``(60, 80, 3)`` with a red disc that moves to the right and a blue box that stands still."""

    size = (60, 80)

    def __init__(self, count=12, name="drawn", gone=(), signature=None):
        self.count, self.gone = count, set(gone)
        self.signature = signature or f"{name}-{count}-{sorted(gone)}"
        self.path, self.decoded = f"{name}.mp4", 0

    def __len__(self):
        return self.count

    def centre(self, index):
        return 14 + min(index, 50), 20

    def truth(self, index):
        x, y = self.centre(index)
        rows, columns = np.mgrid[:60, :80]
        return ((columns - x) ** 2 + (rows - y) ** 2 <= 81) & (index not in self.gone)

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.decoded += 1
        rows, columns = np.mgrid[:60, :80]
        picture = np.stack([90 + rows, 140 + columns // 4, 110 + (rows + columns) // 4], axis=2).astype(np.uint8)
        picture[40:55, 50:70] = (30, 60, 200)
        picture[self.truth(index)] = (210, 40, 30)
        return picture


class State:
    def __init__(self, frames):
        self.frames, self.prompts, self.memory = frames, {}, {}


class FakeTracker:
    """Deterministic. What it finds depends on all prompts, and on a running number that only its memory carries."""

    device = "cpu"

    def __init__(self, seconds=0.0, name="fake-tracker", saves=True):
        self.seconds, self.name, self.kept = seconds, name, KEPT
        self.added, self.followed = [], []
        if saves:
            self.memory, self.recall = self._memory, self._recall

    def open(self, frames):
        return State(frames)

    def add(self, state, frame, object_id, prompt):
        prompt.check_inside(state.frames.size)
        if prompt.mask is None and prompt.box is None and 1 not in prompt.labels:
            raise NbHelpersError("excluding points alone do not select an object")
        self.added.append((object_id, frame))
        mask, colour = self._answer(state.frames[frame], prompt)
        state.prompts.setdefault(object_id, {})[frame] = prompt
        state.memory[object_id] = {
            f: m for f, m in state.memory.get(object_id, {}).items() if f in state.prompts[object_id]
        }
        state.memory[object_id][frame] = (colour, 0.0, mask)
        return self._prediction(mask, 0.95)

    def remove(self, state, object_id, frame=None):
        del state.prompts[object_id][frame]
        state.memory[object_id].pop(frame, None)
        if not state.prompts[object_id]:
            del state.prompts[object_id], state.memory[object_id]

    def propagate(self, state, start, stop, step=None):
        if not state.prompts:
            raise NbHelpersError("there is no prompt yet")
        step = step or (1 if stop >= start else -1)
        track, is_prompted = (
            lambda frame: self._track(state, frame, step),
            lambda frame: any(frame in prompts for prompts in state.prompts.values()),
        )
        return track_in_steps(state.frames, track, is_prompted, start, stop, step)

    def _track(self, state, frame, step):
        time.sleep(self.seconds)
        self.followed.append(frame)
        image = state.frames[frame]
        predictions, gone, prompted = {}, set(), set()
        for object_id, prompts in state.prompts.items():
            known = state.memory[object_id]
            if frame in prompts:
                prompted.add(object_id)
                predictions[object_id] = self._prediction(known[frame][2], 0.95)
                continue
            behind = known.get(frame - step) or known[min(prompts, key=lambda each: (abs(each - frame), each))]
            colour, number, _ = behind
            number = (number * 0.9 + 0.1 + 0.01 * sum(prompts)) % 1.0
            mask = np.linalg.norm(image.astype(np.float32) - colour, axis=2) < REACH
            mask[int(number * 59), :3] = True  # a mark that tells wrong memory
            if mask.sum() < 10:
                gone.add(object_id)
            known[frame] = (colour, number, mask)
            for far in [each for each in known if abs(each - frame) > self.kept and each not in prompts]:
                del known[far]
            predictions[object_id] = self._prediction(mask, 0.2 if object_id in gone else 0.9)
        return TrackedFrame(frame, predictions, frozenset(gone), frozenset(prompted))

    def _answer(self, image, prompt):
        image = image.astype(np.float32)
        if prompt.mask is not None and not len(prompt.points) and prompt.box is None:
            inside = image[prompt.mask] if prompt.mask.any() else np.full((1, 3), -1e3, np.float32)
            return prompt.mask.copy(), np.median(inside, axis=0)
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box.astype(int)
            mask = np.zeros(image.shape[:2], bool)
            mask[y0:y1, x0:x1] = True
            return mask, np.median(image[mask], axis=0)
        mask = np.zeros(image.shape[:2], bool) if prompt.mask is None else prompt.mask.copy()
        colour = None
        for (x, y), label in zip(prompt.points.astype(int), prompt.labels, strict=True):
            near = np.linalg.norm(image - image[y, x], axis=2) < REACH
            _, parts = cv2.connectedComponents(near.astype(np.uint8))
            part = parts == parts[y, x]
            mask = mask | part if label else mask & ~part
            colour = image[y, x] if label and colour is None else colour
        return mask, np.median(image[mask], axis=0) if colour is None else colour

    def _prediction(self, mask, score):
        return Prediction(
            np.where(mask, 10, -10).astype(np.float32)[None], np.array([score], np.float32), mask.shape, mask.shape
        )

    def _memory(self, state, frame):
        arrays = {}
        for object_id, known in state.memory.items():
            if frame in known:
                colour, number, mask = known[frame]
                arrays |= {
                    f"{object_id}/colour": colour,
                    f"{object_id}/number": np.float64(number),
                    f"{object_id}/mask": mask,
                }
        return arrays

    def _recall(self, state, frame, memory, prompts):
        for object_id in {int(name.partition("/")[0]) for name in memory}:
            own = {name.partition("/")[2]: value for name, value in memory.items() if name.startswith(f"{object_id}/")}
            if object_id in prompts:
                state.prompts.setdefault(object_id, {})[frame] = prompts[object_id]
            state.memory.setdefault(object_id, {})[frame] = (own["colour"], float(own["number"]), own["mask"])


class UnsureTracker(FakeTracker):
    """On frame 5 what is 12 pixels lower may be the object too."""

    def propagate(self, state, start, stop, step=None):
        for tracked in super().propagate(state, start, stop, step):
            other = Prediction.of_mask(np.roll(tracked.predictions[1].best, 12, 0), 0.3)
            yield replace(tracked, others={1: other}) if tracked.frame == 5 else tracked
