"""What a tracker by label propagation knows of a clip; its size does not grow with the clip's length.

Features are kept of prompted frames and of the last few only. Of every followed frame there remains its mask, in a
few kilobytes.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.votes import Remembered
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.values import Embedding, Prediction

EMBEDDINGS = 8  # 17 MB each
SCORE_POWER = 4
STEPS = 8  # of a logit unit that are told apart in a packed mask


@dataclass(frozen=True, eq=False)
class Anchor:
    """A frame that a person prompted.

    Attributes:
        prompt: what was said.
        answered: the one mask that was answered; None where the prompt is that mask, which may be large.
        score: the confidence in it.
        remembered: its cells, which vote on other frames.
        area: of the mask, in cells of the decoder's grid.
        trust: how well each recipe of `prompts` does here; None until that is needed.
    """

    prompt: Prompt
    answered: Prediction | None
    score: float
    remembered: Remembered
    area: float
    trust: dict[str, float] | None


class PackedMasks:
    """Low-resolution logits by frame, in an eighth of a unit between -15 and 15, compressed: about 10 kB each."""

    def __init__(self):
        self._packed: dict[int, tuple[tuple[int, int], bytes]] = {}

    def __setitem__(self, frame: int, logits: Float32[np.ndarray, "s s"]) -> None:
        steps = np.clip(np.rint(logits * STEPS), -15 * STEPS, 15 * STEPS).astype(np.int8)
        self._packed[frame] = (logits.shape, zlib.compress(steps.tobytes(), 1))

    def __getitem__(self, frame: int) -> Float32[np.ndarray, "s s"]:
        shape, packed = self._packed[frame]
        return np.frombuffer(zlib.decompress(packed), np.int8).reshape(shape).astype(np.float32) / STEPS

    def __contains__(self, frame: int) -> bool:
        return frame in self._packed

    def forget(self, frame: int) -> None:
        """Drop a frame's logits, if there are any."""
        self._packed.pop(frame, None)


@dataclass(eq=False)
class Track:
    """One object of a clip.

    What was found forwards and what was found backwards are kept apart and joined when asked for, so that a pass
    that starts at a hard frame does not spoil what an easier one has found from its other side.

    Attributes:
        anchors: the frames that a person prompted.
        found: the masks of followed frames by direction (1, -1), without those where the object was gone.
        scores: the confidence in each of them.
        recent: cells of the last few of them.
    """

    anchors: dict[int, Anchor] = field(default_factory=dict)
    found: dict[int, PackedMasks] = field(default_factory=lambda: {1: PackedMasks(), -1: PackedMasks()})
    scores: dict[int, dict[int, float]] = field(default_factory=lambda: {1: {}, -1: {}})
    recent: dict[int, Remembered] = field(default_factory=dict)

    def put(self, frame: int, step: int, logits: Float32[np.ndarray, "s s"], score: float) -> None:
        """Keep what a pass in direction ``step`` found on a frame."""
        self.found[step][frame] = logits
        self.scores[step][frame] = score
        self.recent.pop(frame, None)

    def forget(self, frame: int) -> None:
        """Keep nothing of a frame: the object is gone there."""
        for step in (1, -1):
            self.found[step].forget(frame)
            self.scores[step].pop(frame, None)
        self.recent.pop(frame, None)

    def known(self, frame: int) -> tuple[Float32[np.ndarray, "s s"], float] | None:
        """Logits and confidence on a followed frame, None where there are none.

        Between two prompted frames the passes from both are averaged with the weight (confidence x that of the
        prompted mask)^4 / distance: a pass is as good as the mask it started from. Weights by distance are those of
        Oh et al. 2019 (arXiv 1904.09791, section 3.3) for interactive corrections.
        """
        sides = [step for step in (1, -1) if frame in self.found[step]]
        if not sides:
            return None
        weights = np.array([self._weight(frame, step) for step in sides])
        weights = weights / weights.sum() if weights.any() else np.full(len(sides), 1 / len(sides))
        logits = sum(self.found[step][frame] * np.float32(w) for step, w in zip(sides, weights, strict=True))
        score = sum(self.scores[step][frame] * float(w) for step, w in zip(sides, weights, strict=True))
        return logits, score

    def _weight(self, frame: int, step: int) -> float:
        """How much a pass in direction ``step`` is worth; nothing when the prompt that it came from was removed."""
        passed = [index for index in self.anchors if (frame - index) * step > 0]
        if not passed:
            return 0.0
        source = min(passed, key=lambda index: abs(index - frame))
        sure = max(self.scores[step][frame] * self.anchors[source].score, 1e-3)
        return sure**SCORE_POWER / abs(frame - source)

    def nearest(self, frame: int, count: int) -> list[int]:
        """The prompted frames nearest in time, the nearest first."""
        return sorted(self.anchors, key=lambda index: (abs(index - frame), index))[:count]

    def before(self, frame: int, step: int, count: int) -> list[int]:
        """Followed frames just before ``frame`` in the direction ``step``, back to a prompted or a missing one.

        Beyond a prompted frame lies what was found before it was corrected.
        """
        frames = []
        while (
            len(frames) < count
            and (frame := frame - step) not in self.anchors
            and any(frame in found for found in self.found.values())
        ):
            frames.append(frame)
        return frames

    def keep_recent(self, frame: int, count: int) -> None:
        """Drop the cells of all but the frames nearest to ``frame``."""
        kept = sorted(self.recent, key=lambda index: abs(index - frame))[:count]
        self.recent = {index: self.recent[index] for index in kept}


class TrackState:
    """A clip, what was said about its objects, and what was found.

    Args:
        frames: the clip.
        encode: makes the embedding of an image.

    Raises:
        NbHelpersError: the clip has no frames.
    """

    def __init__(self, frames: FrameSequence, encode: Callable[[Any], Embedding]):
        if not len(frames):
            raise NbHelpersError("the clip has no frames", expected="at least one")
        self.frames, self._encode = frames, encode
        self.tracks: dict[int, Track] = {}
        self.means: dict[str, Any] = {}
        self._embeddings: OrderedDict[int, Embedding] = OrderedDict()

    def check(self, frame: int) -> None:
        """Raise an error unless the clip has this frame."""
        if not 0 <= frame < len(self.frames):
            raise NbHelpersError("the clip has no such frame", given=frame, expected=f"0 to {len(self.frames) - 1}")

    def embedding(self, frame: int) -> Embedding:
        """Features of a frame; the last few are kept."""
        if frame not in self._embeddings:
            while len(self._embeddings) >= EMBEDDINGS:
                self._embeddings.popitem(last=False)
            self._embeddings[frame] = self._encode(self.frames[frame])
        self._embeddings.move_to_end(frame)
        return self._embeddings[frame]
