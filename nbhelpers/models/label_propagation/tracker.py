"""Follow objects through a clip with an image segmenter alone: no weights are trained for video.

Each frame's cells are compared with those of remembered frames (`votes`), and the map that results is a prompt to the
mask decoder (`prompts`). Frames that a person prompted are remembered for good; of the others only the last few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.answers import SURE, answer, given, is_given
from nbhelpers.models.label_propagation.memory import put_back, remembered
from nbhelpers.models.label_propagation.motion import moving_along
from nbhelpers.models.label_propagation.prompts import decode, probability, soft_iou, trust_in_recipes
from nbhelpers.models.label_propagation.state import Anchor, Track, TrackState
from nbhelpers.models.label_propagation.votes import feature_means, remember, resize, vote
from nbhelpers.models.protocols import FrameSequence, Segmenter
from nbhelpers.models.values import Embedding, Prediction, TrackedFrame

RECENT = 4  # tracked frames that vote
ANCHORS = 4  # prompted frames that vote: the nearest in time
ALIKE = 2 / 3  # likeness below which what was found is another thing: the object is gone
GONE = 0.02  # of the area on the nearest prompted frame: below it nothing of the object is left
FEATURES = ("image_embed", "high_res_feats_0", "high_res_feats_1")


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
