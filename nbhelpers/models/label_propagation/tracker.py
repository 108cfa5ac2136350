"""Tracking of objects through a clip with an image segmenter, without weights trained on video.

The cells of each frame are compared with those of memory frames (`votes`), and the resulting map prompts the mask
decoder (`decoding`). Memory frames are the prompted frames and the last few others.

The state's size does not grow with the clip's length: features are kept only for prompted frames and the last few
others, and the mask of every tracked frame takes a few kilobytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from nbhelpers.core.device import choose_precision, has_bfloat16
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.decoding import (
    CERTAIN_LOGIT,
    MAX_THICKNESS,
    MovingRegion,
    Window,
    decode_map,
    map_logits,
    mask_prediction,
    mask_side,
    moving_region,
    predict_prompt,
    sigmoid,
    soft_iou,
    thickness,
    variant_weights,
    window_around,
)
from nbhelpers.models.label_propagation.distractors import (
    MAX_DISTRACTORS,
    TOUCHING,
    Distractor,
    Instance,
    decode_distractor,
    exchange_probability,
    is_large,
    search_regions,
    separate,
    strays,
    touches,
)
from nbhelpers.models.label_propagation.track import Anchor, CloseMemory, Track, with_prefix
from nbhelpers.models.label_propagation.votes import (
    FeatureMaps,
    MemoryFrame,
    encode_memory,
    feature_maps,
    feature_means,
    resize_map,
    vote,
    with_features,
    without,
)
from nbhelpers.models.protocols import FeatureFusion, FrameSequence, Segmenter
from nbhelpers.models.tracking import ClipState, ClipTracker, place_of
from nbhelpers.models.values import Embedding, Prediction, TrackedFrame, is_mask_prompt
from nbhelpers.models.whole import choose_whole

if TYPE_CHECKING:
    import torch

MAX_RECENT = 4  # tracked frames that vote
MAX_ANCHORS = 4  # prompted frames that vote: the nearest in time
MIN_SIMILARITY = 2 / 3  # below which the mask shows another object: the object is gone
MIN_AREA = 0.02  # of the area on the nearest prompted frame, below which the object is gone
NEAR = 0.5  # of a distractor's size: the distance to another instance from which its outline is decoded
CACHE_SIZE = 8  # embeddings, 17 MB each
LEVEL_NAMES = ("image_embed", "high_res_feats_1", "high_res_feats_0")  # in saved memory, the coarsest first


class LabelPropagation(ClipTracker):
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
            `nbhelpers.models.label_propagation.distractors`. Without, and beside a fusion that separates instances by
            their places, features alone decide.
        windows: decode an object that is too thin for the frame's features in a window around it, which
            takes a second encoding a frame; see `nbhelpers.models.label_propagation.decoding`. Likewise.
    """

    kept = None  # the masks of all tracked frames are kept, even after further prompts

    def __init__(
        self,
        segmenter: Segmenter,
        name: str = "label-propagation",
        distractors: bool = True,
        windows: bool = True,
    ):
        self.segmenter, self.name = with_features(segmenter), name
        self.distractors, self.windows = distractors, windows

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
        track = state.objects.get(object_id, Track())

        tracked = track.joined(frame)
        logits = None if tracked is None else tracked[0]
        prediction = None if logits is None else self._correct_in_window(state, track, frame, prompt, logits)
        if prediction is None:
            prediction = predict_prompt(self.segmenter, embedding, prompt, logits, state.moving(frame))
        track.anchors[frame] = self._anchor(state, frame, prompt, prediction)
        track.forget(frame)
        state.objects[object_id] = track
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
            weights = variant_weights(self.segmenter, embedding, _blurred(probability), probability)
            track.anchors[frame] = replace(anchor, weights=weights)
            return weights
        return anchor.weights

    def _arrays(self, state: PropagationState, item: Track, frame: int) -> dict[str, np.ndarray]:
        arrays = item.arrays(frame)
        if frame in item.anchors:
            means = zip(LEVEL_NAMES, state.means, strict=True)
            arrays |= {f"means/{name}": tensor.cpu().numpy() for name, tensor in means}
        return arrays

    def _restore(
        self,
        state: PropagationState,
        frame: int,
        objects: Mapping[int, dict[str, np.ndarray]],
        prompts: Mapping[int, Prompt],
    ) -> None:
        import torch

        for object_id, own in objects.items():
            track = state.objects.setdefault(object_id, Track())
            track.recall_masks(frame, own)
            if state.fusion is not None and (joined := track.joined(frame)) is not None:
                state.fusion.remember(frame, object_id, sigmoid(joined[0]))
            if object_id in prompts:
                if not state.means:
                    means = with_prefix("means/", own)
                    state.means = [torch.from_numpy(means[name].copy()).to(self.device) for name in LEVEL_NAMES]
                prompt, size = prompts[object_id], state.frames.size
                if is_mask_prompt(prompt):
                    prediction = mask_prediction(prompt, size)
                else:
                    score = np.array([own["score"]], np.float32)
                    prediction = Prediction(own["answer"], score, size, tuple(own["extent"].tolist()))
                weights = {name: float(value) for name, value in with_prefix("trust/", own).items()} or None
                anchor = self._anchor(state, frame, prompt, prediction, weights)
                if "similar" in own:
                    anchor = replace(anchor, distractors=[], marked_similar=frozenset(own["similar"].tolist()))
                track.anchors[frame] = anchor
                if state.fusion is not None:
                    probability = self._probability(prediction, state.embedding(frame))
                    state.fusion.remember(frame, object_id, probability, prompted=True)
            track.recall_distractors(frame, own)
        for track in state.objects.values():  # the masks of other objects are there now
            if frame in track.anchors and (track.anchors[frame].distractors or track.anchors[frame].marked_similar):
                self._remember_distractors(state, track, frame)

    def _forget(self, state: PropagationState, object_id: int, frame: int | None = None) -> None:
        anchors = state.objects[object_id].anchors
        if state.fusion is not None:
            state.fusion.forget(object_id)
            for each in anchors if frame is None else (frame,):
                state.fusion.forget(object_id, each)
        if frame is not None:
            del anchors[frame]

    def _track(self, state: PropagationState, frame: int, step: int) -> TrackedFrame:
        predictions, gone, prompted, others = {}, set(), set(), {}
        for object_id, track in list(state.objects.items()):
            if frame in track.anchors:
                predictions[object_id] = track.anchors[frame].mask(state.frames.size)
                prompted.add(object_id)
                continue
            embedding = state.embedding(frame)
            logits, score, window, other = self._track_object(state, object_id, frame, step)
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
                track.put(frame, step, logits, score, window)
                logits, score = track.joined(frame) or (logits, score)
                if state.fusion is not None:
                    state.fusion.remember(frame, object_id, sigmoid(logits))
            predictions[object_id] = Prediction(
                logits[None], np.array([score], np.float32), embedding.size, logits.shape
            )
        return TrackedFrame(frame, predictions, frozenset(gone), frozenset(prompted), others)

    def _track_object(
        self, state: PropagationState, object_id: int, frame: int, step: int
    ) -> tuple[np.ndarray | None, float, Window | None, tuple[np.ndarray, float] | None]:
        """Logits and confidence of an object on a frame without a prompt of it; no logits if it is gone.

        Also the window in which it was decoded, and the logits of the distractor with which it may have been exchanged,
        with the probability of that.
        """
        track = state.objects[object_id]
        anchors = track.nearest(frame, MAX_ANCHORS)
        if self._tracks_distractors(state):
            for index in anchors:
                self._search(state, object_id, index)
        memory = [track.anchors[index].memory for index in anchors]
        embedding = state.embedding(frame)
        source, side = track.source(frame, step), mask_side(self.segmenter, embedding)
        for index in track.before(frame, step, MAX_RECENT, state.stride):
            if index not in track.recent:
                if (joined := track.joined(index)) is None:
                    continue
                probability = resize_map(sigmoid(joined[0]), side)
                if source is not None:
                    probability = self._with_distractors(state, track.anchors[source], index, probability)
                maps = self._maps(state, index)
                track.recent[index] = encode_memory(index, maps, state.means, probability)
            corrected = track.corrected(frame, index)
            memory.append(without(track.recent[index], corrected))
        track.keep_recent(frame, MAX_RECENT + 1)
        frames, maps = [keys.frame for keys in memory], self._maps(state, frame)
        if state.fusion is None:
            votes = vote(frame, maps, state.means, memory)
        else:
            votes = vote(frame, maps, state.means, memory, state.fusion.distance_penalty)
            votes = state.fusion.place(frame, object_id, votes)
        probability = votes.probability
        distractors: list[tuple[Instance | None, np.ndarray]] = []
        own, center = None, (0.0, 0.0)
        if self._tracks_distractors(state) and source is not None:
            own = track.instance(frame, step, source, frames)
            if own is not None:
                probability, distractors, center = self._among_distractors(
                    state, object_id, own, source, frame, step, probability, memory
                )
        if votes.similarity < MIN_SIMILARITY:
            return None, 1 - max(votes.similarity, 0.0), None, None
        weights = self._weights(state, track, anchors[0])
        decoded = decode_map(self.segmenter, embedding, probability, weights)
        logits, score = decoded.logits, soft_iou((decoded.logits > 0).astype(np.float32), probability)
        taken = np.zeros(logits.shape, bool)
        for _, distractor in distractors:  # a cell belongs to one instance
            foreign = (distractor > 0) & (probability < 0.5)
            logits = np.where(foreign, np.minimum(logits, -distractor), logits)
            taken |= foreign
        window = self._window(state, track, logits, frames)
        if window is not None:
            logits, score = self._decode_window(state, track, frame, window, logits, frames, taken)
        inside = resize_map((logits > 0).astype(np.float32), len(probability)) > 0.5
        if inside.sum() < MIN_AREA * track.anchors[anchors[0]].area:
            return None, 1 - decoded.agreement, None, None
        alone = not touches(
            inside, [distractor > 0 for _, distractor in distractors], TOUCHING * len(inside) / maps[0].shape[0]
        )
        here = place_of(inside, alone)
        if here is None:
            return None, 1 - decoded.agreement, None, None
        track.places[step][frame] = here if alone else replace(here, center=center)
        others = [
            (exchange_probability(own.expected, here, instance.expected, there), number)
            for number, (instance, distractor) in enumerate(distractors)
            if own is not None and instance is not None and (there := place_of(distractor > 0)) is not None
        ]
        most, number = max(others, default=(0.0, 0))
        return logits, score, window, (distractors[number][1], most) if others else None

    def _window(
        self,
        state: PropagationState,
        track: Track,
        logits: Float32[np.ndarray, "s s"],
        memory: Sequence[int],
    ) -> Window | None:
        """The window in which the object is decoded; None if the frame's features are fine enough for it."""
        by_features = state.fusion is None or not state.fusion.separates_instances
        prompted = track.anchors[memory[0]].inside
        if not self.windows or not by_features or thickness(prompted) >= MAX_THICKNESS:
            return None
        if window_around(prompted, (), state.frames.size) is None:
            return None
        masks = [mask for index in memory if (mask := track.inside(index)) is not None]
        return window_around(logits > 0, masks, state.frames.size)

    def _correct_in_window(
        self, state: PropagationState, track: Track, frame: int, prompt: Prompt, tracked: Float32[np.ndarray, "s s"]
    ) -> Prediction | None:
        """A tracked mask corrected by points in the window in which it was decoded; None where there is none."""
        window, size = track.windows.get(frame), state.frames.size
        points = window.cut_points(prompt.points) if window is not None else None
        if window is None or points is None or prompt.box is not None or prompt.mask is not None:
            return None
        embedding = state.embedding(frame, window)
        before = window.cut_map(tracked, size, mask_side(self.segmenter, embedding))
        after = predict_prompt(self.segmenter, embedding, Prompt(points, prompt.labels), before)
        changed = not np.array_equal(after.logits[0], before)
        logits = window.paste_map(after.logits[0], tracked, size) if changed else tracked
        return Prediction(logits[None], after.scores, size, logits.shape)

    def _decode_window(
        self,
        state: PropagationState,
        track: Track,
        frame: int,
        window: Window,
        logits: Float32[np.ndarray, "s s"],
        memory: Sequence[int],
        taken: Bool[np.ndarray, "s s"],
    ) -> tuple[Float32[np.ndarray, "f f"], float]:
        """Logits and confidence of an object by votes and decoder in a window, with those of the frame around it."""
        size, embedding = state.frames.size, state.embedding(frame, window)
        known = [each for index in memory if (each := self._close_memory(state, track, index, frame)) is not None]
        nearest = self._close_anchor(state, track, memory[0])
        weights = {} if nearest is None else nearest.weights
        probability = vote(frame, feature_maps(self.segmenter, embedding), state.means, known).probability
        if taken.any():
            others = window.cut_map(taken.astype(np.float32), size, len(probability)) > 0.5
            probability = np.where(others, 0, probability).astype(np.float32)
        decoded = decode_map(self.segmenter, embedding, probability, weights)
        inside = (decoded.logits > 0).astype(np.float32)
        return window.paste_map(decoded.logits, logits, size), soft_iou(inside, probability)

    def _close_memory(self, state: PropagationState, track: Track, index: int, frame: int) -> MemoryFrame | None:
        """What a frame remembers for another one in the window around the object; None if there was no window on it."""
        if index in track.anchors:
            anchor = self._close_anchor(state, track, index)
            return None if anchor is None else anchor.memory
        window, joined, size = track.windows.get(index), track.joined(index), state.frames.size
        if window is None or joined is None:
            return None
        if index not in track.close:
            embedding = state.embedding(index, window)
            probability = window.cut_map(sigmoid(joined[0]), size, mask_side(self.segmenter, embedding))
            maps = feature_maps(self.segmenter, embedding)
            track.close[index] = encode_memory(index, maps, state.means, probability)
        if (corrected := track.corrected(frame, index)) is not None:
            corrected = window.cut_map(corrected.astype(np.float32), size, len(corrected)) > 0.5
        return without(track.close[index], corrected)

    def _close_anchor(self, state: PropagationState, track: Track, frame: int) -> CloseMemory | None:
        """The memory of a prompted frame in the window around the object; None if it is too large for one."""
        anchor, size = track.anchors[frame], state.frames.size
        window = window_around(anchor.inside, (), size)
        if anchor.close is None and window is not None:
            embedding = state.embedding(frame, window)
            mask = anchor.mask(size).best.astype(np.float32)
            probability = window.cut_map(mask, size, mask_side(self.segmenter, embedding))
            memory = encode_memory(frame, feature_maps(self.segmenter, embedding), state.means, probability)
            weights = variant_weights(self.segmenter, embedding, _blurred(probability), probability)
            anchor = track.anchors[frame] = replace(anchor, close=CloseMemory(memory, weights))
        return anchor.close

    def _tracks_distractors(self, state: PropagationState) -> bool:
        """Whether distractors are tracked: not beside a fusion that separates instances by their places."""
        return self.distractors and (state.fusion is None or not state.fusion.separates_instances)

    def _search(self, state: PropagationState, object_id: int, frame: int) -> None:
        """Find the distractors of an object on a prompted frame, once; its memory then votes for all of them."""
        track = state.objects[object_id]
        anchor = track.anchors[frame]
        if anchor.distractors is not None:
            return
        maps, embedding = self._maps(state, frame), state.embedding(frame)
        mask = anchor.inside.astype(np.float32)
        others = {number: other.inside(frame) for number, other in state.objects.items() if number != object_id}
        distractors, marked_similar = [], set()
        for region in search_regions(maps, state.means, mask, np.zeros_like(mask)):
            own = {n: np.count_nonzero((region > 0.5) & each) for n, each in others.items() if each is not None}
            marked = [n for n, count in own.items() if 2 * count > np.count_nonzero(region > 0.5)]
            marked_similar |= set(marked)
            if marked or (logits := decode_distractor(self.segmenter, embedding, region)) is None:
                continue
            logits = np.where(anchor.inside, -CERTAIN_LOGIT, logits)
            distractors.append(Distractor())
            reach = TOUCHING * len(mask) / maps[0].shape[0]
            distractors[-1].put(frame, logits, not touches(logits > 0, [anchor.inside], reach))
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
        masks += [state.objects[number].inside(frame) for number in anchor.marked_similar if number in state.objects]
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
        track = state.objects[object_id]
        anchor = track.anchors[source]
        frames = [keys.frame for keys in memory]
        maps, embedding = self._maps(state, frame), state.embedding(frame)
        distractors = [
            (distractor, distractor.instance(frame, step, source, frames)) for distractor in anchor.distractors or ()
        ]
        known = [(distractor, instance) for distractor, instance in distractors if instance is not None]
        marked = [
            state.objects[n].instance(frame, step, None, frames)
            for n in sorted(anchor.marked_similar)
            if n in state.objects
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
        voted = [votes * share > 0.5 for share in shares]
        found = []
        for number, (_, instance) in enumerate(known, 1):
            near = touches(voted[number], voted[:number] + voted[number + 1 :], NEAR * instance.expected.area**0.5)
            # the outline is needed where instances meet; elsewhere the map suffices
            decoded = decode_distractor(self.segmenter, embedding, votes * shares[number]) if near else None
            found.append(map_logits(votes * shares[number]) if decoded is None and voted[number].any() else decoded)
        masks = [probability > 0.5, *(each > 0 for each in found if each is not None)]
        reach = TOUCHING * len(votes) / maps[0].shape[0]
        for (distractor, instance), logits, center in zip(known, found, centers[1:], strict=False):
            if logits is not None:
                inside = logits > 0
                alone = not touches(inside, [each for each in masks if not np.array_equal(each, inside)], reach)
                distractor.put(frame, logits, alone, center)
                out.append((instance, distractor.masks[frame]))
        # other prompted objects have their own masks; here only where they touch counts
        for instance, share in zip(instances[1 + len(known) :], shares[1 + len(known) :], strict=True):
            out.append((instance, map_logits(votes * share)))
        for piece in strays(probability > 0.5, own):
            probability = np.where(piece, 0, probability).astype(np.float32)
            if not is_large(piece, own):
                continue
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


def _blurred(probability: Float[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"]:
    """A map without its finest details, as votes give it."""
    return resize_map(resize_map(probability, len(probability) // 2), len(probability))


def build(
    name: str,
    files: dict[str, Path],
    device: str,
    *,
    segmenter: str,
    distractors: bool = True,
    windows: bool = True,
) -> LabelPropagation:
    """Build the tracker on a segmenter of the catalog, whose network is shared.

    On a CPU that multiplies bfloat16 the image encoder does so, unless ``NBHELPERS_PRECISION`` says otherwise.

    Args:
        name: catalog name.
        files: unused; `load` finds those of the segmenter.
        device: where it computes.
        segmenter: catalog name of a SAM 2 segmenter.
        distractors: see `LabelPropagation`.
        windows: likewise.
    """
    from nbhelpers.models.load import load

    half = device == "cpu" and choose_precision(device) == "auto" and has_bfloat16(device)
    network = load("segmenter", segmenter, device, precision="bfloat16" if half else None)
    return LabelPropagation(network, name, distractors, windows)


class PropagationState(ClipState):
    """A clip with the prompts, masks and memory of its objects, each a `Track`.

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
        super().__init__(frames)
        self._encode, self.fusion = encode, fusion
        self.means: list[torch.Tensor] = []
        self._embeddings: OrderedDict[tuple[int, Window | None], Embedding] = OrderedDict()

    def moving(self, frame: int) -> MovingRegion:
        """What moves along with a mask of a frame, as its neighbour shows; see `moving_region`."""

        def region(mask):
            neighbour = frame + 1 if frame + 1 < len(self.frames) else frame - 1
            return moving_region(self.frames[frame], self.frames[neighbour], mask) if neighbour >= 0 else mask

        return region

    def embedding(self, frame: int, window: Window | None = None) -> Embedding:
        """Features of a frame, or of a window of it, with a cache of the last few."""
        key = frame, window
        if key not in self._embeddings:
            while len(self._embeddings) >= CACHE_SIZE:
                self._embeddings.popitem(last=False)
            image = self.frames[frame]
            self._embeddings[key] = self._encode(image if window is None else window.cut(image))
        self._embeddings.move_to_end(key)
        return self._embeddings[key]
