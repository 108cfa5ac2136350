"""Tracking of objects through a clip with an image segmenter, without weights trained on video.

The cells of each frame are compared with those of memory frames (`votes`), and the resulting map prompts the mask
decoder (`decoding`). Memory frames are the prompted frames and the last few others.

The state's size does not grow with the clip's length: features are kept only for prompted frames and the last few
others, and the mask of every tracked frame takes a few kilobytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from nbhelpers.core.device import choose_precision, has_bfloat16
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.expectation import MAX_PAST, Place, expect, place_of
from nbhelpers.models.label_propagation.decoding import (
    CERTAIN_LOGIT,
    MovingRegion,
    decode_map,
    map_logits,
    mask_prediction,
    mask_side,
    moving_region,
    predict_prompt,
    sigmoid,
    soft_iou,
    variant_weights,
)
from nbhelpers.models.label_propagation.distractors import (
    Distractor,
    Instance,
    decode_distractor,
    search_regions,
    separate,
    strays,
)
from nbhelpers.models.label_propagation.identity import MAX_DISTRACTORS, exchange_probability, touches
from nbhelpers.models.label_propagation.packed import LOGIT_STEPS, PackedMasks
from nbhelpers.models.label_propagation.votes import (
    FeatureMaps,
    MemoryFrame,
    encode_memory,
    feature_maps,
    feature_means,
    resize_map,
    vote,
    with_features,
)
from nbhelpers.models.protocols import FeatureFusion, FrameSequence, Segmenter
from nbhelpers.models.values import Embedding, Prediction, TrackedFrame, arrays_by_object, is_mask_prompt
from nbhelpers.models.whole import choose_whole

if TYPE_CHECKING:
    import torch

MAX_RECENT = 4  # tracked frames that vote
MAX_ANCHORS = 4  # prompted frames that vote: the nearest in time
MIN_SIMILARITY = 2 / 3  # below which the mask shows another object: the object is gone
MIN_AREA = 0.02  # of the area on the nearest prompted frame, below which the object is gone
CACHE_SIZE = 8  # embeddings, 17 MB each
SCORE_POWER = 4
DIRECTIONS = {1: "forwards", -1: "backwards"}  # names in saved memory
LEVEL_NAMES = ("image_embed", "high_res_feats_1", "high_res_feats_0")  # likewise, the coarsest first


class LabelPropagation:
    """Promptable video segmentation by label propagation; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = nbhelpers.load("tracker", models="lite")
        >>> state = tracker.open(frames)                              # 80 frames of (480, 854, 3)
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> masks = [tracked.predictions[1].best for tracked in tracker.propagate(state, 0, 79)]

    Args:
        segmenter: a SAM 2 segmenter, or another with three levels of features.
        name: catalog name.
        distractors: track what resembles an object beside it, to keep them apart; see
            `nbhelpers.models.label_propagation.identity`. Without, and beside a fusion that separates instances by
            their places, features alone decide.
    """

    kept = None  # the masks of all tracked frames are kept, even after further prompts

    def __init__(self, segmenter: Segmenter, name: str = "label-propagation", distractors: bool = True):
        self.segmenter, self.name, self.distractors = with_features(segmenter), name, distractors

    @property
    def device(self) -> str:
        """Where the segmenter computes."""
        return self.segmenter.device

    @property
    def precision(self) -> str | None:
        """Of the segmenter's image encoder."""
        return getattr(self.segmenter, "precision", None)

    def open(self, frames: FrameSequence, fusion: FeatureFusion | None = None) -> PropagationState:
        """A new state for a clip; no frame is decoded yet.

        Args:
            frames: the clip.
            fusion: changes the features that vote and knows the positions of objects; none by default.

        Raises:
            NbHelpersError: the clip has no frames.
        """
        return PropagationState(frames, self.segmenter.encode, fusion)

    def add(self, state: PropagationState, frame: int, object_id: int, prompt: Prompt) -> Prediction:
        """Prompt an object on one frame, replacing its earlier prompt there, and predict its mask.

        A mask alone is used unchanged. Points without a mask correct the tracked mask of the frame if there is one;
        otherwise the mask of the first including point is extended to the region that moves with it.

        Raises:
            NbHelpersError: an invalid frame, a prompt outside it, or excluding points without a mask to correct.
        """
        state.check(frame)
        prompt.check_inside(state.frames.size)
        embedding = state.embedding(frame)
        feature_maps(self.segmenter, embedding)
        track = state.tracks.get(object_id, Track())

        tracked = track.joined(frame)
        logits = None if tracked is None else tracked[0]
        prediction = predict_prompt(self.segmenter, embedding, prompt, logits, state.moving(frame))
        track.anchors[frame] = self._anchor(state, frame, prompt, prediction)
        track.recent.pop(frame, None)
        state.tracks[object_id] = track
        if state.fusion is not None:
            state.fusion.forget(object_id)
            state.fusion.remember(frame, object_id, self._probability(prediction, embedding), prompted=True)
        return prediction

    def candidates(
        self,
        state: PropagationState,
        frame: int,
        point: tuple[float, float],
        boxes: Float[np.ndarray, "n 4"] | None = None,
    ) -> Prediction:
        """What a single click may mean: the segmenter's candidates, and what moves along with its choice.

        Args:
            state: of `open`.
            frame: index into the clip.
            point: ``(x, y)`` of an including click.
            boxes: around whole objects, see `nbhelpers.models.whole.choose_whole`.

        Returns:
            All masks; the choice is that of `add`, or with ``boxes`` a whole object unless something moves along.
        """
        state.check(frame)
        prompt = Prompt([point])
        prompt.check_inside(state.frames.size)
        embedding = state.embedding(frame)
        every = self.segmenter.predict(embedding, prompt)
        chosen = predict_prompt(self.segmenter, embedding, prompt, None, state.moving(frame))
        if np.array_equal(chosen.logits[0], every.logits[every.choice]):
            if boxes is not None:
                every = replace(every, choice=choose_whole(self.segmenter, embedding, point, every, boxes))
            return every
        logits, scores = (
            np.concatenate(pair) for pair in ((chosen.logits, every.logits), (chosen.scores, every.scores))
        )
        return replace(every, logits=logits, scores=scores, choice=0)

    def _anchor(
        self,
        state: PropagationState,
        frame: int,
        prompt: Prompt,
        prediction: Prediction,
        weights: dict[str, float] | None = None,
    ) -> Anchor:
        """The memory of a prompted frame, from the mask of its prompt.

        The ``weights`` take four predictions, which would delay a click: `propagate` computes them.
        """
        embedding = state.embedding(frame)
        maps = self._maps(state, frame)
        probability = self._probability(prediction, embedding)
        state.means = state.means or feature_means(maps)
        return Anchor(
            prompt,
            None if is_mask_prompt(prompt) else prediction,
            float(prediction.scores[0]),
            encode_memory(frame, maps, state.means, probability),
            inside=probability > 0.5,
            area=float(probability.sum()),
            weights=weights,
        )

    def _weights(self, state: PropagationState, track: Track, frame: int) -> dict[str, float]:
        """The weights of the prompt variants from a prompted frame, computed on demand."""
        anchor = track.anchors[frame]
        if anchor.weights is None:
            embedding = state.embedding(frame)
            probability = self._probability(anchor.mask(state.frames.size), embedding)
            blurred = resize_map(resize_map(probability, len(probability) // 2), len(probability))
            weights = variant_weights(self.segmenter, embedding, blurred, probability)
            track.anchors[frame] = replace(anchor, weights=weights)
            return weights
        return anchor.weights

    def memory(self, state: PropagationState, frame: int) -> dict[str, np.ndarray]:
        """The state of one frame as arrays that `recall` restores, after a restart for example; about 20 kB."""
        return _frame_arrays(state, frame)

    def recall(
        self,
        state: PropagationState,
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
        for object_id, own in arrays_by_object(memory, frame, prompts or {}).items():
            track = state.tracks.setdefault(object_id, Track())
            for step, name in DIRECTIONS.items():
                if f"{name}/mask" in own:
                    logits = own[f"{name}/mask"].astype(np.float32) / LOGIT_STEPS
                    track.put(frame, step, logits, float(own[f"{name}/score"]))
                    if f"{name}/place" in own:
                        track.places[step][frame] = Place.of_array(own[f"{name}/place"])
            if state.fusion is not None and (joined := track.joined(frame)) is not None:
                state.fusion.remember(frame, object_id, sigmoid(joined[0]))
            if prompts is not None and object_id in prompts:
                if not state.means:
                    state.means = _saved_means(own, self.device)
                prompt = prompts[object_id]
                weights = {name: float(value) for name, value in _under("trust/", own).items()} or None
                prediction = _saved_prediction(prompt, state.frames.size, own)
                track.anchors[frame] = self._anchor(state, frame, prompt, prediction, weights)
                if state.fusion is not None:
                    probability = self._probability(prediction, state.embedding(frame))
                    state.fusion.remember(frame, object_id, probability, prompted=True)
                if "similar" in own:
                    marked_similar = frozenset(own["similar"].tolist())
                    track.anchors[frame] = replace(track.anchors[frame], distractors=[], marked_similar=marked_similar)
            track.recall_distractors(frame, own)
        for track in state.tracks.values():  # the masks of other objects are there now
            if frame in track.anchors and (track.anchors[frame].distractors or track.anchors[frame].marked_similar):
                self._remember_distractors(state, track, frame)

    def remove(self, state: PropagationState, object_id: int, frame: int | None = None) -> None:
        """Remove the prompt of an object on one frame, or the object with all its prompts.

        Raises:
            NbHelpersError: there is no such prompt.
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
        if state.fusion is not None:
            state.fusion.forget(object_id)
            for each in track.anchors if frame is None else (frame,):
                state.fusion.forget(object_id, each)
        if frame is not None:
            del track.anchors[frame]
        if frame is None or not track.anchors:
            del state.tracks[object_id]

    def propagate(self, state: PropagationState, start: int, stop: int) -> Iterator[TrackedFrame]:
        """Track all objects from frame ``start`` to frame ``stop``, both included; backwards if ``stop < start``.

        The masks of earlier calls are kept and used. Prompted frames keep their masks.

        Raises:
            NbHelpersError: an invalid frame, or no prompt; raised by the call, not at the first frame.
        """
        state.check(start)
        state.check(stop)
        if not state.tracks:
            raise NbHelpersError("there is no prompt yet", do="prompt an object on a frame first")
        step = 1 if stop >= start else -1
        return (self._track(state, frame, step) for frame in range(start, stop + step, step))

    def _track(self, state: PropagationState, frame: int, step: int) -> TrackedFrame:
        """All objects on one frame."""
        predictions, gone, prompted, others = {}, set(), set(), {}
        for object_id, track in list(state.tracks.items()):
            if frame in track.anchors:
                predictions[object_id] = track.anchors[frame].mask(state.frames.size)
                prompted.add(object_id)
                continue
            embedding = state.embedding(frame)
            logits, score, other = self._track_object(state, object_id, frame, step)
            if other is not None:
                others[object_id] = Prediction(
                    other[0][None], np.array([other[1]], np.float32), embedding.size, other[0].shape
                )
            if logits is None:
                gone.add(object_id)
                track.drop(frame)
                side = mask_side(self.segmenter, embedding)
                logits = np.full((side, side), -CERTAIN_LOGIT, np.float32)
            else:
                track.put(frame, step, logits, score)
                logits, score = track.joined(frame) or (logits, score)
                if state.fusion is not None:
                    state.fusion.remember(frame, object_id, sigmoid(logits))
            predictions[object_id] = Prediction(
                logits[None], np.array([score], np.float32), embedding.size, logits.shape
            )
        return TrackedFrame(frame, predictions, frozenset(gone), frozenset(prompted), others)

    def _track_object(
        self, state: PropagationState, object_id: int, frame: int, step: int
    ) -> tuple[np.ndarray | None, float, tuple[np.ndarray, float] | None]:
        """Logits and confidence of an object on a frame without a prompt of it; no logits if it is gone.

        Also the logits of the distractor with which it may have been exchanged, with the probability of that.
        """
        track = state.tracks[object_id]
        anchors = track.nearest(frame, MAX_ANCHORS)
        if self._tracks_distractors(state):
            for index in anchors:
                self._search(state, object_id, index)
        memory = [track.anchors[index].memory for index in anchors]
        source = track.source(frame, step)
        for index in track.before(frame, step, MAX_RECENT):
            if index not in track.recent:
                if (joined := track.joined(index)) is None:
                    continue
                probability = sigmoid(joined[0])
                if source is not None:
                    probability = self._with_distractors(state, track.anchors[source], index, probability)
                maps = self._maps(state, index)
                track.recent[index] = encode_memory(index, maps, state.means, probability)
            memory.append(track.recent[index])
        track.keep_recent(frame, MAX_RECENT + 1)
        embedding = state.embedding(frame)
        maps = self._maps(state, frame)
        if state.fusion is None:
            votes = vote(frame, maps, state.means, memory)
        else:
            votes = vote(frame, maps, state.means, memory, state.fusion.distance_penalty)
            votes = state.fusion.place(frame, object_id, votes)
        probability = votes.probability
        distractors: list[tuple[Instance | None, np.ndarray]] = []
        own, center = None, (0.0, 0.0)
        if self._tracks_distractors(state) and source is not None:
            own = track.instance(frame, step, source, [keys.frame for keys in memory])
            if own is not None:
                probability, distractors, center = self._among_distractors(
                    state, object_id, own, source, frame, step, probability, memory
                )
        if votes.similarity < MIN_SIMILARITY:
            return None, 1 - max(votes.similarity, 0.0), None
        weights = self._weights(state, track, anchors[0])
        decoded = decode_map(self.segmenter, embedding, probability, weights)
        logits = decoded.logits
        for _, distractor in distractors:  # a cell belongs to one instance
            logits = np.where((distractor > 0) & (probability < 0.5), np.minimum(logits, -distractor), logits)
        inside = (logits > 0).astype(np.float32)
        if inside.sum() < MIN_AREA * track.anchors[anchors[0]].area:
            return None, 1 - decoded.agreement, None
        alone = not touches(
            inside > 0, [distractor > 0 for _, distractor in distractors], len(inside) / maps[0].shape[0]
        )
        here = place_of(inside > 0, alone)
        if here is None:
            return None, 1 - decoded.agreement, None
        track.places[step][frame] = here if alone else replace(here, center=center)
        others = [
            (exchange_probability(own.expected, here, instance.expected, there), number)
            for number, (instance, distractor) in enumerate(distractors)
            if own is not None and instance is not None and (there := place_of(distractor > 0)) is not None
        ]
        most, number = max(others, default=(0.0, 0))
        return logits, soft_iou(inside, probability), (distractors[number][1], most) if others else None

    def _tracks_distractors(self, state: PropagationState) -> bool:
        """Whether distractors are tracked: not beside a fusion that separates instances by their places."""
        return self.distractors and (state.fusion is None or not state.fusion.separates_instances)

    def _search(self, state: PropagationState, object_id: int, frame: int) -> None:
        """Find the distractors of an object on a prompted frame, once; its memory then votes for all of them."""
        track = state.tracks[object_id]
        anchor = track.anchors[frame]
        if anchor.distractors is not None:
            return
        maps, embedding = self._maps(state, frame), state.embedding(frame)
        mask = anchor.inside.astype(np.float32)
        others = {number: other.inside(frame) for number, other in state.tracks.items() if number != object_id}
        distractors, marked_similar = [], set()
        for region in search_regions(maps, state.means, mask, np.zeros_like(mask)):
            own = {n: np.count_nonzero((region > 0.5) & each) for n, each in others.items() if each is not None}
            marked = [n for n, count in own.items() if 2 * count > np.count_nonzero(region > 0.5)]
            marked_similar |= set(marked)
            if marked or (logits := decode_distractor(self.segmenter, embedding, region)) is None:
                continue
            logits = np.where(anchor.inside, -CERTAIN_LOGIT, logits)
            distractors.append(Distractor())
            distractors[-1].put(frame, logits, not touches(logits > 0, [anchor.inside], len(mask) / maps[0].shape[0]))
        track.anchors[frame] = replace(anchor, distractors=distractors, marked_similar=frozenset(marked_similar))
        if distractors or marked_similar:
            self._remember_distractors(state, track, frame)

    def _remember_distractors(self, state: PropagationState, track: Track, frame: int) -> None:
        """Let a prompted frame vote for the object and its distractors together."""
        anchor = track.anchors[frame]
        probability = self._probability(anchor.mask(state.frames.size), state.embedding(frame))
        probability = self._with_distractors(state, anchor, frame, probability)
        memory = encode_memory(frame, self._maps(state, frame), state.means, probability)
        track.anchors[frame] = replace(anchor, memory=memory)

    def _with_distractors(
        self, state: PropagationState, anchor: Anchor, frame: int, probability: Float[np.ndarray, "s s"]
    ) -> Float[np.ndarray, "s s"]:
        """A map of an object with its distractors on that frame, which vote for all that resembles it."""
        masks = [distractor.inside(frame) for distractor in anchor.distractors or ()]
        masks += [state.tracks[number].inside(frame) for number in anchor.marked_similar if number in state.tracks]
        for mask in masks:
            if mask is not None:
                probability = np.maximum(probability, mask)
        return probability.astype(np.float32)

    def _among_distractors(
        self,
        state: PropagationState,
        object_id: int,
        own: Instance,
        source: int,
        frame: int,
        step: int,
        votes: Float[np.ndarray, "s s"],
        memory: list[MemoryFrame],
    ) -> tuple[Float[np.ndarray, "s s"], list[tuple[Instance | None, Float32[np.ndarray, "s s"]]], tuple[float, float]]:
        """The object's part of the votes; its distractors with their logits, tracked to the frame; its centre."""
        track = state.tracks[object_id]
        anchor = track.anchors[source]
        frames = [keys.frame for keys in memory]
        maps, embedding = self._maps(state, frame), state.embedding(frame)
        distractors = [
            (distractor, distractor.instance(frame, step, source, frames)) for distractor in anchor.distractors or ()
        ]
        known = [(distractor, instance) for distractor, instance in distractors if instance is not None]
        marked = [
            state.tracks[n].instance(frame, step, None, frames)
            for n in sorted(anchor.marked_similar)
            if n in state.tracks
        ]
        instances = [
            own,
            *(instance for _, instance in known),
            *(instance for instance in marked if instance is not None),
        ]
        shares, centers = np.ones((1, *votes.shape), np.float32), [own.expected.center]
        if len(instances) > 1:
            shares, centers = separate(maps, state.means, votes, instances, memory)
        probability, out = votes * shares[0], []
        found = [decode_distractor(self.segmenter, embedding, votes * share) for share in shares[1 : 1 + len(known)]]
        masks = [probability > 0.5, *(each > 0 for each in found if each is not None)]
        for (distractor, instance), logits, center in zip(known, found, centers[1:], strict=False):
            if logits is not None:
                inside, cell = logits > 0, len(votes) / maps[0].shape[0]
                alone = not touches(inside, [each for each in masks if not np.array_equal(each, inside)], cell)
                distractor.put(frame, logits, alone, center)
                out.append((instance, distractor.masks[frame]))
        # other prompted objects have their own masks; here only where they touch counts
        for instance, share in zip(instances[1 + len(known) :], shares[1 + len(known) :], strict=True):
            out.append((instance, map_logits(votes * share)))
        for piece in strays(probability > 0.5, own):
            probability = np.where(piece, 0, probability).astype(np.float32)
            logits = decode_distractor(self.segmenter, embedding, piece.astype(np.float32))
            if logits is not None and anchor.distractors is not None and len(anchor.distractors) < MAX_DISTRACTORS:
                anchor.distractors.append(Distractor())
                anchor.distractors[-1].put(frame, logits, True)
                out.append((None, logits))
        return probability, out, centers[0]

    def _maps(self, state: PropagationState, frame: int) -> FeatureMaps:
        """The feature maps of a frame, the coarsest one with the state's fusion."""
        maps = feature_maps(self.segmenter, state.embedding(frame))
        return maps if state.fusion is None else (state.fusion.merge(frame, maps[0]), *maps[1:])

    def _probability(self, prediction: Prediction, embedding: Embedding) -> Float[np.ndarray, "s s"]:
        """A mask as probabilities on the decoder's grid."""
        side = mask_side(self.segmenter, embedding)
        if prediction.logits.shape[1:] == (side, side):
            return sigmoid(prediction.logits[0])
        return mask_logits(prediction.best, (side, side)) / 20 + 0.5


def build(name: str, files: dict[str, Path], device: str, *, segmenter: str) -> LabelPropagation:
    """Build the tracker on a segmenter of the catalog, whose network is shared.

    On a CPU that multiplies bfloat16 the image encoder does so, unless ``NBHELPERS_PRECISION`` says otherwise.

    Args:
        name: catalog name.
        files: unused; `load` finds those of the segmenter.
        device: where it computes.
        segmenter: catalog name of a SAM 2 segmenter.
    """
    from nbhelpers.models.load import load

    half = device == "cpu" and choose_precision(device) == "auto" and has_bfloat16(device)
    return LabelPropagation(load("segmenter", segmenter, device, precision="bfloat16" if half else None), name)


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
    """

    anchors: dict[int, Anchor] = field(default_factory=dict)
    tracked: dict[int, PackedMasks] = field(default_factory=lambda: {1: PackedMasks(), -1: PackedMasks()})
    scores: dict[int, dict[int, float]] = field(default_factory=lambda: {1: {}, -1: {}})
    recent: dict[int, MemoryFrame] = field(default_factory=dict)
    places: dict[int, dict[int, Place]] = field(default_factory=lambda: {1: {}, -1: {}})

    def put(self, frame: int, step: int, logits: Float32[np.ndarray, "s s"], score: float) -> None:
        """Store the mask of a pass in direction ``step`` on a frame."""
        self.tracked[step][frame] = logits
        self.scores[step][frame] = score
        self.recent.pop(frame, None)

    def recall_distractors(self, frame: int, own: Mapping[str, np.ndarray]) -> None:
        """Restore the distractors of a frame from saved memory."""
        for name, mask in _under("distractor/", own).items():
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
        self.recent.pop(frame, None)

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
        logits = np.sum([self.tracked[step][frame] * np.float32(w) for step, w in zip(sides, weights, strict=True)], 0)
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

    def before(self, frame: int, step: int, count: int) -> list[int]:
        """Tracked frames just before ``frame`` in the direction ``step``, back to a prompted or a missing one.

        Masks beyond a prompted frame are older than its correction.
        """
        frames, alone = [], []
        while (
            len(alone) < count
            and len(frames) < MAX_PAST
            and (frame := frame - step) not in self.anchors
            and any(frame in masks for masks in self.tracked.values())
        ):
            frames.append(frame)
            if all(places[frame].alone for places in self.places.values() if frame in places):
                alone.append(frame)
        # the prompted frame remembers the object if it is near; after a long touch the last frames are better than none
        return alone if alone or len(frames) < MAX_PAST else frames[:count]

    def source(self, frame: int, step: int) -> int | None:
        """The prompted frame that a pass in direction ``step`` comes from."""
        passed = [index for index in self.anchors if (frame - index) * step > 0]
        return min(passed, key=lambda index: abs(index - frame)) if passed else None

    def inside(self, frame: int) -> Bool[np.ndarray, "s s"] | None:
        """The mask on a frame, on the decoder's grid; None if there is none."""
        if frame in self.anchors:
            return self.anchors[frame].inside
        joined = self.joined(frame)
        return None if joined is None else joined[0] > 0

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
        kept = sorted(self.recent, key=lambda index: abs(index - frame))[:count]
        self.recent = {index: self.recent[index] for index in kept}


class PropagationState:
    """A clip with the prompts, masks and memory of its objects.

    Args:
        frames: the clip.
        encode: computes the embedding of an image.
        fusion: see `LabelPropagation.open`.

    Raises:
        NbHelpersError: the clip has no frames.
    """

    def __init__(self, frames: FrameSequence, encode: Callable[[Any], Embedding], fusion: FeatureFusion | None = None):
        if not len(frames):
            raise NbHelpersError("the clip has no frames", expected="at least one")
        self.frames, self._encode, self.fusion = frames, encode, fusion
        self.tracks: dict[int, Track] = {}
        self.means: list[torch.Tensor] = []
        self._embeddings: OrderedDict[int, Embedding] = OrderedDict()

    def check(self, frame: int) -> None:
        """Raise an error unless the clip has this frame."""
        if not 0 <= frame < len(self.frames):
            raise NbHelpersError("there is no such frame", given=frame, expected=f"0 to {len(self.frames) - 1}")

    def moving(self, frame: int) -> MovingRegion:
        """What moves along with a mask of a frame, as its neighbour shows; see `moving_region`."""

        def region(mask):
            neighbour = frame + 1 if frame + 1 < len(self.frames) else frame - 1
            return moving_region(self.frames[frame], self.frames[neighbour], mask) if neighbour >= 0 else mask

        return region

    def embedding(self, frame: int) -> Embedding:
        """Features of a frame, with a cache of the last few."""
        if frame not in self._embeddings:
            while len(self._embeddings) >= CACHE_SIZE:
                self._embeddings.popitem(last=False)
            self._embeddings[frame] = self._encode(self.frames[frame])
        self._embeddings.move_to_end(frame)
        return self._embeddings[frame]


def _frame_arrays(state: PropagationState, frame: int) -> dict[str, np.ndarray]:
    """Masks and scores of one frame by ``<object id>/<name>``; features are computed again from the frame."""
    arrays: dict[str, np.ndarray] = {}
    for object_id, track in state.tracks.items():
        own: dict[str, np.ndarray] = {}
        for step, name in DIRECTIONS.items():
            if frame in track.tracked[step]:
                # a stored mask is already quantised, so nothing is lost
                own[f"{name}/mask"] = np.rint(track.tracked[step][frame] * LOGIT_STEPS).astype(np.int8)
                own[f"{name}/score"] = np.array(track.scores[step][frame])
                if frame in track.places[step]:
                    own[f"{name}/place"] = track.places[step][frame].array()
        for source, each in track.anchors.items():
            for number, distractor in enumerate(each.distractors or ()):
                if frame in distractor.masks:
                    own[f"distractor/{source}/{number}/mask"] = np.rint(distractor.masks[frame] * LOGIT_STEPS).astype(
                        np.int8
                    )
                    own[f"distractor/{source}/{number}/place"] = distractor.places[frame].array()
        if (anchor := track.anchors.get(frame)) is not None:
            own["score"] = np.array(anchor.score)
            own |= {f"trust/{name}": np.array(value) for name, value in (anchor.weights or {}).items()}
            means = zip(LEVEL_NAMES, state.means, strict=True)
            own |= {f"means/{name}": tensor.cpu().numpy() for name, tensor in means}
            if anchor.distractors is not None:
                own["similar"] = np.array(sorted(anchor.marked_similar), np.int64)
            if anchor.prediction is not None:
                own |= {"answer": anchor.prediction.logits, "extent": np.array(anchor.prediction.extent)}
        arrays |= {f"{object_id}/{name}": value for name, value in own.items()}
    return arrays


def _saved_means(own: Mapping[str, np.ndarray], device: str) -> list[torch.Tensor]:
    """The means of the features, by level."""
    import torch

    means = _under("means/", own)
    return [torch.from_numpy(means[name].copy()).to(device) for name in LEVEL_NAMES]


def _saved_prediction(prompt: Prompt, size: tuple[int, int], own: Mapping[str, np.ndarray]) -> Prediction:
    """The mask of a prompt: that of the prompt itself if it has one."""
    if is_mask_prompt(prompt):
        return mask_prediction(prompt, size)
    return Prediction(own["answer"], np.array([own["score"]], np.float32), size, tuple(own["extent"].tolist()))


def _under(prefix: str, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
