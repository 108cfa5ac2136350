"""What is known of a tracked object: its prompted frames, its masks in both directions, and where it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int8

from nbhelpers.core.masks import dilate
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.decoding import LOGIT_STEPS, PackedMasks, Window, mask_prediction
from nbhelpers.models.label_propagation.distractors import Distractor, Instance
from nbhelpers.models.label_propagation.votes import MemoryFrame, resize_map
from nbhelpers.models.tracking import MAX_PAST, Place, expect, place_of
from nbhelpers.models.values import Prediction

SCORE_POWER = 4
REACH = 4.0  # cells of the decoder's grid that an object moves in a frame: one of the coarsest features
DIRECTIONS = {1: "forwards", -1: "backwards"}  # names in saved memory


@dataclass(frozen=True, eq=False)
class CloseMemory:
    """The memory of a prompted frame in a window around the object, and the weights of its prompt variants."""

    memory: MemoryFrame
    weights: dict[str, float]


@dataclass(frozen=True, eq=False)
class Anchor:
    """A prompted frame.

    Attributes:
        prompt: of the object.
        prediction: the mask of the prompt; None if the prompt is that mask, which may be large.
        score: its confidence.
        memory: its cells, which vote on other frames.
        inside: the mask on the decoder's grid.
        area: of the mask, in cells of the decoder's grid.
        weights: of the prompt variants, see `variant_weights`; None until they are needed.
        close: the same in a window around the object; None until it is needed.
        distractors: instances that look like the object, tracked from here; None until they are searched for.
        marked_similar: ids of other objects that look like it.
    """

    prompt: Prompt
    prediction: Prediction | None
    score: float
    memory: MemoryFrame
    inside: Bool[np.ndarray, "s s"]
    area: float
    weights: dict[str, float] | None
    close: CloseMemory | None = None
    distractors: list[Distractor] | None = None
    marked_similar: frozenset[int] = frozenset()

    def mask(self, size: tuple[int, int]) -> Prediction:
        """The mask of the prompt on a frame of ``size``."""
        return self.prediction or mask_prediction(self.prompt, size)


@dataclass(eq=False)
class Track:
    """One object of a clip.

    Masks tracked forwards and backwards are stored separately and combined on demand, so that a pass from a difficult
    frame does not impair that from an easier one on the other side.

    Attributes:
        anchors: the prompted frames.
        tracked: the masks of tracked frames by direction (1, -1), without frames where the object was gone.
        scores: the confidence of each of them.
        recent: memory of the last few of them.
        places: where the object is on each of them, by direction.
        windows: the windows around the object in which it was decoded, by frame.
        close: memory of the last few of them, in their windows.
    """

    anchors: dict[int, Anchor] = field(default_factory=dict)
    tracked: dict[int, PackedMasks] = field(default_factory=lambda: {1: PackedMasks(), -1: PackedMasks()})
    scores: dict[int, dict[int, float]] = field(default_factory=lambda: {1: {}, -1: {}})
    recent: dict[int, MemoryFrame] = field(default_factory=dict)
    places: dict[int, dict[int, Place]] = field(default_factory=lambda: {1: {}, -1: {}})
    windows: dict[int, Window] = field(default_factory=dict)
    close: dict[int, MemoryFrame] = field(default_factory=dict)

    @property
    def prompts(self) -> dict[int, Prompt]:
        """Those of the prompted frames."""
        return {frame: anchor.prompt for frame, anchor in self.anchors.items()}

    def put(
        self, frame: int, step: int, logits: Float32[np.ndarray, "s s"], score: float, window: Window | None = None
    ) -> None:
        """Store the mask of a pass in direction ``step`` on a frame, and the window in which it was decoded."""
        self.tracked[step][frame] = logits
        self.scores[step][frame] = score
        self.forget(frame)
        self.windows.pop(frame, None)
        if window is not None:
            self.windows[frame] = window

    def forget(self, frame: int) -> None:
        """Drop the memory of a tracked frame, whose mask has changed."""
        self.recent.pop(frame, None)
        self.close.pop(frame, None)

    def arrays(self, frame: int) -> dict[str, np.ndarray]:
        """Masks and scores of one frame; features are computed again from the frame."""
        own: dict[str, np.ndarray] = {}
        for step, name in DIRECTIONS.items():
            if frame in self.tracked[step]:
                own[f"{name}/mask"] = _steps(self.tracked[step][frame])
                own[f"{name}/score"] = np.array(self.scores[step][frame])
                if frame in self.places[step]:
                    own[f"{name}/place"] = self.places[step][frame].array()
        if frame in self.windows:
            own["window"] = np.array(astuple(self.windows[frame]))
        for source, each in self.anchors.items():
            for number, distractor in enumerate(each.distractors or ()):
                if frame in distractor.masks:
                    own[f"distractor/{source}/{number}/mask"] = _steps(distractor.masks[frame])
                    own[f"distractor/{source}/{number}/place"] = distractor.places[frame].array()
        if (anchor := self.anchors.get(frame)) is not None:
            own["score"] = np.array(anchor.score)
            own |= {f"trust/{name}": np.array(value) for name, value in (anchor.weights or {}).items()}
            if anchor.distractors is not None:
                own["similar"] = np.array(sorted(anchor.marked_similar), np.int64)
            if anchor.prediction is not None:
                own |= {"answer": anchor.prediction.logits, "extent": np.array(anchor.prediction.extent)}
        return own

    def recall_masks(self, frame: int, own: Mapping[str, np.ndarray]) -> None:
        """Restore the masks of a frame from `arrays`."""
        for step, name in DIRECTIONS.items():
            if f"{name}/mask" in own:
                logits = own[f"{name}/mask"].astype(np.float32) / LOGIT_STEPS
                self.put(frame, step, logits, float(own[f"{name}/score"]))
                if f"{name}/place" in own:
                    self.places[step][frame] = Place.of_array(own[f"{name}/place"])
        if "window" in own:
            self.windows[frame] = Window(*own["window"].tolist())

    def recall_distractors(self, frame: int, own: Mapping[str, np.ndarray]) -> None:
        """Restore the distractors of a frame from `arrays`."""
        for name, mask in with_prefix("distractor/", own).items():
            source, number, what = name.split("/")
            anchor = self.anchors.get(int(source))
            if what != "mask" or anchor is None or anchor.distractors is None:
                continue
            anchor.distractors.extend(Distractor() for _ in range(int(number) + 1 - len(anchor.distractors)))
            distractor = anchor.distractors[int(number)]
            distractor.masks[frame] = mask.astype(np.float32) / LOGIT_STEPS
            distractor.places[frame] = Place.of_array(own[f"distractor/{source}/{number}/place"])

    def drop(self, frame: int) -> None:
        """Drop the masks of a frame: the object is gone there."""
        for step in (1, -1):
            self.tracked[step].drop(frame)
            self.scores[step].pop(frame, None)
            self.places[step].pop(frame, None)
        self.windows.pop(frame, None)
        self.forget(frame)

    def joined(self, frame: int) -> tuple[Float32[np.ndarray, "s s"], float] | None:
        """Logits and confidence on a tracked frame; None if there are none.

        Between two prompted frames the passes from both are averaged with the weight (confidence x that of the
        prompted mask)^4 / distance, since a pass is as good as its initial mask. Weights by distance follow
        Oh et al. 2019 (arXiv 1904.09791, section 3.3) for interactive corrections.
        """
        sides = [step for step in (1, -1) if frame in self.tracked[step]]
        if not sides:
            return None
        weights = np.array([self._weight(frame, step) for step in sides])
        weights = weights / weights.sum() if weights.any() else np.full(len(sides), 1 / len(sides))
        masks = [self.tracked[step][frame] for step in sides]
        side = max(map(len, masks))  # a mask from a window has more cells
        logits = np.sum([resize_map(mask, side) * np.float32(w) for mask, w in zip(masks, weights, strict=True)], 0)
        score = sum(self.scores[step][frame] * float(w) for step, w in zip(sides, weights, strict=True))
        return logits, float(score)

    def _weight(self, frame: int, step: int) -> float:
        """Weight of a pass in direction ``step``; 0 if its initial prompt was removed."""
        source = self.source(frame, step)
        if source is None:
            return 0.0
        confidence = max(self.scores[step][frame] * self.anchors[source].score, 1e-3)
        return confidence**SCORE_POWER / abs(frame - source)

    def nearest(self, frame: int, count: int) -> list[int]:
        """The prompted frames nearest in time, in order of distance."""
        return sorted(self.anchors, key=lambda index: (abs(index - frame), index))[:count]

    def before(self, frame: int, step: int, count: int, stride: int = 1) -> list[int]:
        """Tracked frames just before ``frame`` in the direction ``step``, back to a missing or a newly prompted one.

        Beyond a prompted frame on which a tracked mask was corrected they go on; see `corrected`. Neighbours are at
        most ``stride`` frames apart.
        """
        frames, alone = [], []
        while len(alone) < count and len(frames) < MAX_PAST:
            near = range(frame - step, frame - step * (stride + 1), -step)
            known = [each for each in near if each in self.anchors or any(each in m for m in self.tracked.values())]
            if not known or ((frame := known[0]) in self.anchors and self.joined(frame) is None):
                break
            frames.append(frame)
            if frame in self.anchors:
                continue
            if all(places[frame].alone for places in self.places.values() if frame in places):
                alone.append(frame)
        # the prompted frame remembers the object if it is near; after a long touch the last frames are better than none
        return alone if alone or len(frames) < MAX_PAST else frames[:count]

    def corrected(self, frame: int, other: int) -> Bool[np.ndarray, "s s"] | None:
        """Where the mask of ``other`` is no longer right, as the corrections between it and ``frame`` tell.

        That is where a correction changed the tracked mask, and around it, as an object moves up to `REACH` a frame.

        Returns:
            On the decoder's grid; None without a correction between the two.
        """
        cells = None
        for index, anchor in self.anchors.items():
            if min(frame, other) < index < max(frame, other) and (tracked := self._tracked(index)) is not None:
                near = dilate(anchor.inside != tracked, REACH * (1 + abs(index - other)))
                cells = near if cells is None else cells | near
        return cells

    def source(self, frame: int, step: int) -> int | None:
        """The prompted frame that a pass in direction ``step`` comes from."""
        passed = [index for index in self.anchors if (frame - index) * step > 0]
        return min(passed, key=lambda index: abs(index - frame)) if passed else None

    def inside(self, frame: int) -> Bool[np.ndarray, "s s"] | None:
        """The mask on a frame, on the decoder's grid; None if there is none."""
        return self.anchors[frame].inside if frame in self.anchors else self._tracked(frame)

    def _tracked(self, frame: int) -> Bool[np.ndarray, "s s"] | None:
        """The mask that was tracked to a frame, likewise; on a prompted frame that before its correction."""
        joined = self.joined(frame)
        if joined is None:
            return None
        side = len(next(iter(self.anchors.values())).inside)
        return resize_map((joined[0] > 0).astype(np.float32), side) > 0.5

    def instance(self, frame: int, step: int, source: int | None, memory: Iterable[int]) -> Instance | None:
        """What `separate` needs to know of the object; None if it is on no frame before."""
        marked = {
            index: here for index, anchor in self.anchors.items() if (here := place_of(anchor.inside)) is not None
        }
        places = self.places[-step] | self.places[step] | marked
        expected = expect(places, frame, step, self.source(frame, step) if source is None else source)
        if expected is None:
            return None
        masks = {index: mask for index in {*memory, expected.seen} if (mask := self.inside(index)) is not None}
        return Instance(expected, masks, places)

    def keep_recent(self, frame: int, count: int) -> None:
        """Drop the memory of all but the frames nearest to ``frame``."""
        for memory in (self.recent, self.close):
            for index in sorted(memory, key=lambda index: abs(index - frame))[count:]:
                del memory[index]


def with_prefix(prefix: str, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}


def _steps(logits: Float32[np.ndarray, "s s"]) -> Int8[np.ndarray, "s s"]:
    """A stored mask as integers; it is already quantised, so nothing is lost."""
    return np.rint(logits * LOGIT_STEPS).astype(np.int8)
