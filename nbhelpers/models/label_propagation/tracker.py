"""Follow objects through a clip with an image segmenter alone: no weights are trained for video.

Each frame's cells are compared with those of remembered frames (`votes`), and the map that results is a prompt to the
mask decoder (`prompts`). Frames that a person prompted are remembered for good; of the others only the last few.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.decoding import (
    SURE,
    answer,
    decode,
    given,
    is_given,
    moving_along,
    probability,
    soft_iou,
    trust_in_recipes,
)
from nbhelpers.models.label_propagation.votes import Remembered, feature_means, remember, resize, vote
from nbhelpers.models.protocols import FrameSequence, Segmenter
from nbhelpers.models.values import Embedding, Prediction, TrackedFrame, by_object

if TYPE_CHECKING:
    import torch

RECENT = 4  # tracked frames that vote
ANCHORS = 4  # prompted frames that vote: the nearest in time
ALIKE = 2 / 3  # likeness below which what was found is another thing: the object is gone
GONE = 0.02  # of the area on the nearest prompted frame: below it nothing of the object is left
FEATURES = ("image_embed", "high_res_feats_0", "high_res_feats_1")
EMBEDDINGS = 8  # 17 MB each
SCORE_POWER = 4
STEPS = 8  # of a logit unit that are told apart in a packed mask
PASSES = {1: "forwards", -1: "backwards"}


class LabelPropagation:
    """Promptable video segmentation by label propagation; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = nbhelpers.load("tracker", models="lite")
        >>> state = tracker.open(frames)                              # 80 frames of (480, 854, 3)
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> masks = [tracked.predictions[1].best for tracked in tracker.propagate(state, 0, 79)]

    Args:
        segmenter: answers with SAM 2's features: ``image_embed`` and two finer ``high_res_feats``.
        name: catalog name.
    """

    kept = None  # all frames that were followed are remembered, whatever is said later

    def __init__(self, segmenter: Segmenter, name: str = "label-propagation"):
        self.segmenter, self.name = segmenter, name

    @property
    def device(self) -> str:
        """Where the segmenter computes."""
        return self.segmenter.device

    def open(self, frames: FrameSequence) -> TrackState:
        """A new state for a clip; decodes nothing yet.

        Raises:
            NbHelpersError: the clip has no frames.
        """
        return TrackState(frames, self.segmenter.encode)

    def add(self, state: TrackState, frame: int, object_id: int, prompt: Prompt) -> Prediction:
        """Say what an object is on one frame, in place of what was said there before, and see its mask.

        A mask alone is taken as it is. Points without a mask, on a frame where the object was already followed,
        correct the mask that was found there; elsewhere the first including point takes with it what moves along.

        Raises:
            NbHelpersError: no such frame, a prompt outside it, or excluding points that have no mask to correct.
        """
        state.check(frame)
        prompt.check_inside(state.frames.size)
        embedding = self._embedding(state, frame)
        track = state.tracks.get(object_id, Track())

        def along(mask):
            neighbour = frame + 1 if frame + 1 < len(state.frames) else frame - 1
            return moving_along(state.frames[frame], state.frames[neighbour], mask) if neighbour >= 0 else mask

        known = track.known(frame)
        prediction = answer(self.segmenter, embedding, prompt, None if known is None else known[0], along)
        track.anchors[frame] = self.anchor(state, frame, prompt, prediction)
        track.recent.pop(frame, None)
        state.tracks[object_id] = track
        return prediction

    def anchor(
        self,
        state: TrackState,
        frame: int,
        prompt: Prompt,
        prediction: Prediction,
        trust: dict[str, float] | None = None,
    ) -> Anchor:
        """What is remembered of a prompted frame: the cells of the mask that was answered.

        Args:
            state: of the clip.
            frame: which was prompted.
            prompt: what was said.
            prediction: what was answered.
            trust: as of `Anchor`, where it is known already. It costs four questions to the segmenter, for which a
                click should not wait: `propagate` finds it out.
        """
        embedding = self._embedding(state, frame)
        share = _share(prediction, embedding)
        state.means = state.means or feature_means(embedding)
        return Anchor(
            prompt,
            None if is_given(prompt) else prediction,
            float(prediction.scores[0]),
            remember(frame, embedding, state.means, share),
            area=float(share.sum()),
            trust=trust,
        )

    def _trust(self, state: TrackState, track: Track, frame: int) -> dict[str, float]:
        """How well each recipe does on a prompted frame, found out when it is first needed."""
        anchor = track.anchors[frame]
        if anchor.trust is None:
            embedding = self._embedding(state, frame)
            prediction = given(anchor.prompt, state.frames.size) if anchor.answered is None else anchor.answered
            share = _share(prediction, embedding)
            blurred = resize(resize(share, len(share) // 2), len(share))
            anchor = replace(anchor, trust=trust_in_recipes(self.segmenter, embedding, blurred, share))
            track.anchors[frame] = anchor
        return anchor.trust

    def memory(self, state: TrackState, frame: int) -> dict[str, np.ndarray]:
        """What is known of one frame: arrays that `recall` puts back, after a restart for example; about 20 kB."""
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
        put_back(state, frame, memory, prompts or {}, self.device, self.anchor)

    def remove(self, state: TrackState, object_id: int, frame: int | None = None) -> None:
        """Forget what was said about an object on one frame, or everything about it.

        Raises:
            NbHelpersError: nothing was said there.
        """
        track = state.tracks.get(object_id)
        if track is None or (frame is not None and frame not in track.anchors):
            raise NbHelpersError(
                "there is no such prompt",
                given=f"object {object_id}" + ("" if frame is None else f" on frame {frame}"),
                expected=f"one of the objects {sorted(state.tracks)}"
                if track is None
                else f"one of the frames {sorted(track.anchors)}",
            )
        if frame is not None:
            del track.anchors[frame]
        if frame is None or not track.anchors:
            del state.tracks[object_id]

    def propagate(self, state: TrackState, start: int, stop: int) -> Iterator[TrackedFrame]:
        """Follow all objects from frame ``start`` to frame ``stop``, both included; backwards if ``stop < start``.

        What earlier calls found is kept and built on. Prompted frames keep their masks.

        Raises:
            NbHelpersError: no such frame, or nothing to follow; at once, not at the first frame.
        """
        state.check(start)
        state.check(stop)
        if not state.tracks:
            raise NbHelpersError("there is nothing to follow yet", do="prompt an object on a frame first")
        step = 1 if stop >= start else -1
        return (self._track(state, frame, step) for frame in range(start, stop + step, step))

    def _track(self, state: TrackState, frame: int, step: int) -> TrackedFrame:
        predictions, gone, prompted = {}, set(), set()
        for object_id, track in list(state.tracks.items()):
            if frame in track.anchors:
                anchor = track.anchors[frame]
                predictions[object_id] = anchor.answered or given(anchor.prompt, state.frames.size)
                prompted.add(object_id)
                continue
            embedding = self._embedding(state, frame)
            logits, score = self._follow(state, track, frame, step, embedding)
            if logits is None:
                gone.add(object_id)
                track.forget(frame)
                logits = self._nothing(embedding)
            else:
                track.put(frame, step, logits, score)
                logits, score = track.known(frame)
            predictions[object_id] = Prediction(
                logits[None], np.array([score], np.float32), embedding.size, logits.shape
            )
        return TrackedFrame(frame, predictions, frozenset(gone), frozenset(prompted))

    def _follow(
        self, state: TrackState, track: Track, frame: int, step: int, embedding: Embedding
    ) -> tuple[np.ndarray | None, float]:
        """Logits and confidence of one object on a frame that nobody prompted; no logits where it is gone."""
        anchors = track.nearest(frame, ANCHORS)
        memory = [track.anchors[index].remembered for index in anchors]
        for index in track.before(frame, step, RECENT):
            if index not in track.recent:
                share = probability(track.known(index)[0])
                track.recent[index] = remember(index, self._embedding(state, index), state.means, share)
            memory.append(track.recent[index])
        track.keep_recent(frame, RECENT + 1)
        votes = vote(frame, embedding, state.means, memory)
        if votes.likeness < ALIKE:
            return None, 1 - max(votes.likeness, 0.0)
        decoded = decode(self.segmenter, embedding, votes.share, self._trust(state, track, anchors[0]))
        found = (decoded.logits > 0).astype(np.float32)
        if found.sum() < GONE * track.anchors[anchors[0]].area:
            return None, 1 - decoded.agreement
        return decoded.logits, soft_iou(found, votes.share)

    @staticmethod
    def _nothing(embedding: Embedding) -> np.ndarray:
        side = 4 * embedding.tensors["image_embed"].shape[-1]
        return np.full((side, side), -SURE, np.float32)

    def _embedding(self, state: TrackState, frame: int) -> Embedding:
        embedding = state.embedding(frame)
        missing = [name for name in FEATURES if name not in embedding.tensors]
        if missing:
            raise NbHelpersError(
                "this segmenter does not give the features that following needs",
                given=f"{self.segmenter.name}: {', '.join(embedding.tensors)}",
                expected=", ".join(FEATURES),
                do="take a SAM 2 segmenter",
            )
        return embedding


def _share(prediction: Prediction, embedding: Embedding) -> Float[np.ndarray, "s s"]:
    """A mask as probabilities on the decoder's grid."""
    side = 4 * embedding.tensors["image_embed"].shape[-1]
    if prediction.logits.shape[1:] == (side, side):
        return probability(prediction.logits[0])
    return mask_logits(prediction.best, (side, side)) / 20 + 0.5


def build(name: str, files: dict[str, Path], device: str, *, segmenter: str) -> LabelPropagation:
    """Build the tracker on a segmenter of the catalog, which is shared with everybody who loads it.

    Args:
        name: catalog name.
        files: of the segmenter; it finds them itself.
        device: where it computes.
        segmenter: catalog name of a SAM 2 segmenter.
    """
    from nbhelpers.models.load import load

    return LabelPropagation(load("segmenter", segmenter, device), name)


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


def remembered(state: TrackState, frame: int) -> dict[str, np.ndarray]:
    """Arrays by ``<object id>/<what>``: masks and scores; features are computed anew from the frame."""
    arrays: dict[str, np.ndarray] = {}
    for object_id, track in state.tracks.items():
        own: dict[str, np.ndarray] = {}
        for step, name in PASSES.items():
            if frame in track.found[step]:
                # a kept mask is in whole steps already, so nothing is lost
                own[f"{name}/mask"] = np.rint(track.found[step][frame] * STEPS).astype(np.int8)
                own[f"{name}/score"] = np.array(track.scores[step][frame])
        if (anchor := track.anchors.get(frame)) is not None:
            own["score"] = np.array(anchor.score)
            own |= {f"trust/{name}": np.array(value) for name, value in (anchor.trust or {}).items()}
            own |= {f"means/{name}": tensor.cpu().numpy() for name, tensor in state.means.items()}
            if anchor.answered is not None:
                own |= {"answer": anchor.answered.logits, "extent": np.array(anchor.answered.extent)}
        arrays |= {f"{object_id}/{name}": value for name, value in own.items()}
    return arrays


def put_back(
    state: TrackState,
    frame: int,
    arrays: Mapping[str, np.ndarray],
    prompts: Mapping[int, Prompt],
    device: str,
    anchor: Callable[..., Anchor],
) -> None:
    """Put back what `remembered` gave.

    Args:
        state: of the clip.
        frame: which one.
        arrays: what was remembered of it.
        prompts: those of this frame, by object id.
        device: where tensors live.
        anchor: what makes an anchor of a prompted frame, `LabelPropagation.anchor`.

    Raises:
        NbHelpersError: the arrays and the prompts do not fit.
    """
    for object_id, own in by_object(arrays, frame, prompts).items():
        track = state.tracks.setdefault(object_id, Track())
        for step, name in PASSES.items():
            if f"{name}/mask" in own:
                logits = own[f"{name}/mask"].astype(np.float32) / STEPS
                track.put(frame, step, logits, float(own[f"{name}/score"]))
        if object_id in prompts:
            if not state.means:
                state.means = _means(own, device)
            prompt = prompts[object_id]
            trust = {name: float(value) for name, value in _under("trust/", own).items()} or None
            track.anchors[frame] = anchor(state, frame, prompt, _answer(prompt, state.frames.size, own), trust)


def _means(own: Mapping[str, np.ndarray], device: str) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(value.copy()).to(device) for name, value in _under("means/", own).items()}


def _answer(prompt: Prompt, size: tuple[int, int], own: Mapping[str, np.ndarray]) -> Prediction:
    """What was answered to a prompt: the mask itself where one was given."""
    if is_given(prompt):
        return given(prompt, size)
    return Prediction(own["answer"], np.array([own["score"]], np.float32), size, tuple(own["extent"].tolist()))


def _under(start: str, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(start): value for name, value in own.items() if name.startswith(start)}
