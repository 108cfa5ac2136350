"""A tracker with geometry: it wraps another tracker, is one itself, and remembers where in space objects are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import components, deepest_points
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.scenes import Scene
from nbhelpers.geometry_fusion.geometry import Motion, flow_motion, kept_geometry, object_motion, point_motion
from nbhelpers.models.label_propagation.decoding import mask_prediction
from nbhelpers.models.label_propagation.tracker import LabelPropagation
from nbhelpers.models.label_propagation.votes import DISTANCE_PENALTY, Votes, resize_map
from nbhelpers.models.protocols import FrameSequence, GeometryEncoder, ResumableTracker, Tracker
from nbhelpers.models.sam2_video import Sam2Tracker
from nbhelpers.models.values import Geometry, Prediction, TrackedFrame

if TYPE_CHECKING:
    import torch
    from torch import nn


VOXEL = 0.08  # z-scored units: side of the finest voxels
LEVELS = 4  # of voxels, each with twice the side of the one before
LEVEL_WEIGHT = 0.02  # of a coarser voxel against the next finer one
HALF_TRUST = 0.3  # weight of the evidence at which places count as much as votes
PROMPTED_WEIGHT = 3.0  # of a prompted frame against a tracked one
REACH = 1.5  # extents of the prompted object: distance from its known points from which a point is not its own
EXTENT = 0.9  # of the prompted points lie within half of the extent from their median
MAX_POINTS = 256  # of an object, that distances are measured from


class WorldMemory:
    """Labels of the voxels of a clip, for each of its objects.

    Every cell of every frame lies in a voxel. Where an object was prompted or tracked, the voxels of the frame's cells
    learn how much of the cell it covers; where the same voxels are in sight again, from any side and after any time,
    they say so. Since a cell's point is what the camera sees there, an object behind another is not mistaken for it.
    Coarser voxels answer, with little weight, where no finer one knows anything: the unseen side of a box is nearer
    to the box than to the floor. What lies farther from all known points of an object than 1.5 times its extent
    is not the object, however much it resembles it: in a static scene nothing moves there.

    Args:
        geometry: of the clip.
        voxel: side of the finest voxels in z-scored units.
    """

    def __init__(self, geometry: Geometry, voxel: float = VOXEL):
        self.geometry, self.grid, self.voxel = geometry, geometry.valid.shape[1], voxel
        self._voxels = [voxel_numbers(geometry, voxel * 2**level) for level in range(LEVELS)]
        self._notes: dict[int, dict[int, tuple[np.ndarray, bool]]] = {}
        self._sums: dict[int, list[np.ndarray]] = {}

    def remember(
        self, frame: int, object_id: int, probability: Float[np.ndarray, "s s"], prompted: bool = False
    ) -> None:
        """Note an object's mask on a frame, in place of the one that was noted there before.

        Args:
            frame: index into the clip.
            object_id: any number.
            probability: of each cell of a square grid over the frame to belong to the object.
            prompted: whether a person said so.
        """
        notes = self._notes.setdefault(object_id, {})
        self.forget(object_id, frame)
        notes[frame] = np.rint(resize_map(probability, self.grid) * 255).astype(np.uint8), prompted
        self._add(object_id, frame, 1.0)

    def forget(self, object_id: int, frame: int | None = None) -> None:
        """Drop the notes of one frame, or of all that were not prompted."""
        notes = self._notes.get(object_id, {})
        dropped = [f for f, (_, prompted) in notes.items() if not prompted] if frame is None else [frame]
        for each in dropped:
            if each in notes:
                self._add(object_id, each, -1.0)
                del notes[each]

    def probability(self, frame: int, object_id: int) -> tuple[Float32[np.ndarray, "g g"], Float32[np.ndarray, "g g"]]:
        """Of each cell of a frame: probability to belong to the object, and the weight of the evidence, 0 or more."""
        shape = (self.grid, self.grid)
        inside, total = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for level, (numbers, sums) in enumerate(zip(self._voxels, self._sums.get(object_id, ()), strict=False)):
            here = numbers[frame]
            share = np.where(here >= 0, LEVEL_WEIGHT**level, 0).astype(np.float32)
            inside += share * sums[0][here]
            total += share * sums[1][here]
        return inside / np.maximum(total, 1e-6), total

    def place(self, frame: int, object_id: int, votes: Votes) -> Votes:
        """Votes corrected by places: where the evidence is certain it counts, else the votes do.

        The similarity, by which a tracker tells that its object is gone, becomes that of the cells that are left: of
        those whose place is known to be the object's it is 1.
        """
        known, weight = self.probability(frame, object_id)
        trust = weight / (weight + HALF_TRUST) * np.abs(2 * known - 1)
        beyond = self.beyond(frame, object_id)
        known, trust = np.where(beyond, 0, known), np.where(beyond, 1, trust)
        if not trust.any():
            return votes
        side = len(votes.probability)
        trust, known = resize_map(trust, side), resize_map(known, side)
        probability = (1 - trust) * votes.probability + trust * known
        inside = probability > min(0.5, 0.5 * float(probability.max()))
        sure = float((trust * known)[inside].mean()) if inside.any() else 0.0
        unsure = float((1 - trust)[inside].mean()) if inside.any() else 0.0
        return Votes(probability.astype(votes.probability.dtype), sure + unsure * votes.similarity)

    def beyond(self, frame: int, object_id: int) -> Bool[np.ndarray, "g g"]:
        """Cells of a frame whose points are too far from all known points of an object to be its own."""
        valid = self.geometry.valid[frame]
        notes = self._notes.get(object_id, {})
        given = [self._inside(each, label) for each, (label, prompted) in notes.items() if prompted]
        given = np.concatenate(given) if given else np.empty((0, 3))
        if not len(given):
            return np.zeros_like(valid)
        extent = 2 * np.quantile(np.linalg.norm(given - np.median(given, axis=0), axis=1), EXTENT)
        points = np.concatenate([self._inside(each, label) for each, (label, _) in notes.items()])
        points = points[np.linspace(0, len(points) - 1, min(MAX_POINTS, len(points))).astype(int)]
        squares = (points**2).sum(1) - 2 * self.geometry.points[frame] @ points.T
        nearest = squares.min(-1) + (self.geometry.points[frame] ** 2).sum(-1)
        return valid & (nearest > (REACH * max(float(extent), self.voxel)) ** 2)

    def _inside(self, frame: int, label: UInt8[np.ndarray, "g g"]) -> Float32[np.ndarray, "n 3"]:
        """The points of the cells that belong to an object."""
        return self.geometry.points[frame][self.geometry.valid[frame] & (label > 127)]

    def _add(self, object_id: int, frame: int, sign: float) -> None:
        """Add the note of a frame to its voxels, or subtract it."""
        label, prompted = self._notes[object_id][frame]
        if object_id not in self._sums:
            self._sums[object_id] = [np.zeros((2, int(each.max()) + 2), np.float32) for each in self._voxels]
        label = label.astype(np.float32) / 255
        weight = self.geometry.confidence[frame] * np.abs(2 * label - 1) * (PROMPTED_WEIGHT if prompted else 1.0)
        valid = self.geometry.valid[frame]
        for numbers, sums in zip(self._voxels, self._sums[object_id], strict=True):
            here = numbers[frame][valid]
            np.add.at(sums[0], here, sign * (weight * label)[valid])
            np.add.at(sums[1], here, sign * weight[valid])


def voxel_numbers(geometry: Geometry, side: float) -> Int[np.ndarray, "t g g"]:
    """The voxel of each cell of each frame; -1 where a cell has no point."""
    cells = np.floor(geometry.points[geometry.valid] / side).astype(np.int64)
    numbers = np.full(geometry.valid.shape, -1, np.int64)
    if len(cells):
        numbers[geometry.valid] = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


def visible_region(known: Float[np.ndarray, "g g"], weight: Float[np.ndarray, "g g"]) -> Bool[np.ndarray, "g g"]:
    """Cells that show places of the object, by its own evidence alone."""
    return (known > 0.5) & (weight > HALF_TRUST)


MAX_MOTION = 0.05  # of the cells, above which a clip or an object is not static
SIGMAS = 3.0  # by which an object, which has few cells, must be above it
WITH_GEOMETRY = "geometry"  # in the memory of a frame
MIN_RETURN = 0.004  # of the frame's cells that show places of the object, for it to count as returned
MISSED = 0.1  # of these cells that a tracked mask covers, below which it has lost the object
RETURN_POINTS, RETURN_SPACING = 3, 0.1
log = logging.getLogger(__name__)


class Fusion:
    """What a tracker is opened with: a merger for its features, and a memory of places; a `FeatureFusion`.

    Args:
        geometry: of the clip.
        merger: a `nbhelpers.geometry_fusion.merger.FeatureMerger` or `PlaceKernel`; features are unchanged without one.
        memory: of places; none when left out.
    """

    def __init__(self, geometry: Geometry, merger: nn.Module | None = None, memory: WorldMemory | None = None):
        self.geometry, self.merger, self.memory = geometry, merger, memory
        untrained = merger is None or getattr(merger, "is_untrained", False)
        self.distance_penalty = DISTANCE_PENALTY if untrained else 0.0
        self.separates_instances = not untrained or memory is not None
        self._last: tuple[int, int, Any] | None = None

    def merge(self, frame: int, features: Float[torch.Tensor, "h w d"]) -> Float[torch.Tensor, "h w e"]:
        """The features of a frame, merged with its geometry; the last result is kept."""
        import torch

        if self.merger is None:
            return features
        key = frame, features.data_ptr()
        if self._last is None or self._last[:2] != key:
            device = features.device
            prior, valid, layers = (
                [each.to(device) for each in value] if isinstance(value, list) else value.to(device)
                for value in prior_tensors(self.geometry, [frame])
            )
            with torch.inference_mode():
                merged = self.merger.to(device)(features.permute(2, 0, 1)[None].float(), prior, valid, layers)
            self._last = (*key, merged[0].permute(1, 2, 0))
        return self._last[2]

    def place(self, frame: int, object_id: int, votes: Votes) -> Votes:
        """Votes corrected by the memory of places."""
        return votes if self.memory is None else self.memory.place(frame, object_id, votes)

    def remember(
        self, frame: int, object_id: int, probability: Float[np.ndarray, "s s"], prompted: bool = False
    ) -> None:
        """Note an object's mask in the memory of places."""
        if self.memory is not None:
            self.memory.remember(frame, object_id, probability, prompted)

    def forget(self, object_id: int, frame: int | None = None) -> None:
        """Drop notes from the memory of places."""
        if self.memory is not None:
            self.memory.forget(object_id, frame)


def prior_tensors(
    geometry: Geometry, frames: list[int]
) -> tuple[Float[torch.Tensor, "b 6 g g"], Bool[torch.Tensor, "b g g"], list[torch.Tensor]]:
    """Points with rays, validity, and layers of some frames, as a merger takes them."""
    import torch

    prior = np.concatenate([geometry.points[frames], geometry.rays[frames]], -1).transpose(0, 3, 1, 2)
    layers = [torch.from_numpy(layer[frames].transpose(0, 3, 1, 2).copy()).float() for layer in geometry.layers]
    return torch.from_numpy(prior.copy()), torch.from_numpy(geometry.valid[frames].copy()), layers


class GeometryTracker:
    """Promptable video segmentation that knows where things stand; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = GeometryTracker(nbhelpers.load("tracker"), nbhelpers.load("geometry_encoder"), load_merger())
        >>> session = RotoSession(frames, tracker)                     # or tracker.open(frames), add, propagate

    Where the clip moves or the object that is prompted first does, or where geometry cannot be had, the whole clip is
    tracked by the wrapped tracker alone, and the state's note says so with the number: to switch in the middle would
    leave memories of two kinds (arXiv 2601.08831, section 4). Motion is looked for in the pictures first, so that
    geometry, which may take minutes, is computed only for what is static, with the first prompt.

    Args:
        tracker: `LabelPropagation`, `Sam2Tracker`, or any other for ``reprompt`` alone.
        encoder: of the geometry.
        merger: a `FeatureMerger`, a `PlaceKernel`, or None.
        places: whether objects are remembered by their places. Left out: unless the merger is untrained, and so changes
            nothing.
        reprompt: whether an object that returns, or was lost in sight, is prompted again at its places; what is left
            for a tracker that is opened without a fusion.
        scene: what is known of the clip, for the encoder ``given``; or a function from a clip to it.
        max_motion: fraction of moving cells from which the geometry is not used; 1 never falls back.
        cache: folder where geometry is kept; it is computed for each state when left out.
        change: called with the geometry, returns the one that is used: for negative controls.

    Raises:
        NbHelpersError: a merger or places with a tracker that cannot be opened with a fusion.
    """

    def __init__(
        self,
        tracker: Tracker,
        encoder: GeometryEncoder,
        merger: nn.Module | None = None,
        *,
        places: bool | None = None,
        reprompt: bool = False,
        scene: Scene | Callable[[FrameSequence], Scene | None] | None = None,
        max_motion: float = MAX_MOTION,
        cache: str | Path | None = None,
        change: Callable[[Geometry], Geometry] | None = None,
    ):
        self.tracker, self.encoder, self.merger = tracker, encoder, merger
        self.places = not getattr(merger, "is_untrained", False) if places is None else places
        self.reprompt, self.scene, self.max_motion = reprompt, scene, max_motion
        self.cache, self.change = cache, change
        self.name = f"{tracker.name}+{encoder.name}"
        self._fusing: LabelPropagation | Sam2Tracker | None = None
        if merger is not None or self.places:
            if not isinstance(tracker, (LabelPropagation, Sam2Tracker)):
                raise NbHelpersError(
                    "this tracker cannot be given geometry",
                    given=tracker.name,
                    expected="label propagation, or SAM 2's video network",
                    do="pass places=False and reprompt=True, without a merger",
                )
            self._fusing = tracker
        if isinstance(tracker, ResumableTracker):
            self.memory, self.recall = partial(self._memory, tracker), partial(self._recall, tracker)
            self.kept = tracker.kept

    @property
    def device(self) -> str:
        """Where the wrapped tracker computes."""
        return self.tracker.device

    def open(self, frames: FrameSequence) -> GeometryState:
        """A new state for a clip; it has no geometry before the first prompt."""
        state = GeometryState(frames, self.tracker.open(frames))
        if self.max_motion < 1:
            motion = flow_motion(frames)
            state.motion = motion if motion.compared else Motion(1.0, 0)
            if state.motion.fraction > self.max_motion:
                self._without(state, _told(motion, "the cells are", self.max_motion))
        return state

    def _with_geometry(self, state: GeometryState, geometry: Geometry, note: str) -> None:
        """Track with geometry; prompts so far are lost."""
        state.decided = True
        wanted = getattr(self.merger, "config", {}).get("layers", [])
        given = [layer.shape[-1] for layer in geometry.layers]
        if wanted and wanted != given:
            raise NbHelpersError(
                "the merger was trained with feature layers that this geometry does not have",
                given=f"{self.encoder.name}: {given or 'none'}",
                expected=f"layers of {wanted} channels",
                do="take the geometry that it was trained with: nbhelpers geometry-fusion inspect tells the source",
            )
        memory = WorldMemory(geometry) if self.places or self.reprompt else None
        state.geometry, state.note, state.places = geometry, note, memory if self.reprompt else None
        if self._fusing is not None:
            fusion = Fusion(geometry, self.merger, memory if self.places else None)
            state.inner = self._fusing.open(state.frames, fusion)

    def _without(self, state: GeometryState, note: str) -> None:
        """Track without geometry."""
        log.warning("tracked without geometry: %s", note)
        state.decided, state.note = True, note

    def _geometry(self, state: GeometryState) -> tuple[Geometry | None, str]:
        """The geometry to use, with a note; none, and the reason, where the plain tracker is to be used."""
        frames = state.frames
        try:
            scene = self.scene(frames) if callable(self.scene) else self.scene
            if self.cache is None:
                geometry = self.encoder.encode(frames, scene)
            else:
                geometry = kept_geometry(self.encoder, frames, self.cache, scene)
        except NbHelpersError as error:
            return None, f"geometry cannot be had: {error.what} ({error.given})"
        if self.change is not None:
            geometry = self.change(geometry)
        if not geometry.valid.any():
            return None, "no cell has geometry"
        if self.max_motion < 1:
            points = point_motion(frames, geometry)
            if state.motion is None or points.fraction > state.motion.fraction:
                state.motion = points
            if state.motion.fraction > self.max_motion:
                return None, _told(state.motion, "the cells are", self.max_motion)
        return geometry, "; ".join(geometry.notes)

    def add(self, state: GeometryState, frame: int, object_id: int, prompt: Prompt) -> Prediction:
        """Prompt an object on one frame; see the wrapped tracker.

        Raises:
            NbHelpersError: as the wrapped tracker; the merger needs feature layers that the geometry does not have.
        """
        self._drop_returns(state, object_id)
        prediction = self.tracker.add(state.inner, frame, object_id, prompt)
        if not state.decided:
            self._decide(state, frame, prediction)
            if state.geometry is not None:
                prediction = self.tracker.add(state.inner, frame, object_id, prompt)
        if state.places is not None:
            state.places.forget(object_id)
            state.places.remember(frame, object_id, _cells(prediction, state.places.grid), prompted=True)
        return prediction

    def _decide(self, state: GeometryState, frame: int | None = None, prediction: Prediction | None = None) -> None:
        """Whether the clip is tracked with geometry, by the first object where there is one."""
        if self._object_moves(state, frame, prediction):
            return
        geometry, note = self._geometry(state)
        if geometry is None:
            self._without(state, note)
        elif not self._object_moves(state, frame, prediction, geometry):
            self._with_geometry(state, geometry, note)

    def _object_moves(
        self, state: GeometryState, frame: int | None, prediction: Prediction | None, geometry: Geometry | None = None
    ) -> bool:
        """Whether the first object moves; then the clip is tracked without geometry."""
        if frame is None or prediction is None or self.max_motion >= 1:
            return False
        motion, limit = object_motion(state.frames, frame, prediction.best, geometry), self.max_motion
        if motion.fraction <= limit + SIGMAS * np.sqrt(limit * (1 - limit) / max(1, motion.compared)):
            return False
        state.motion = motion
        self._without(state, _told(motion, "the object's cells are", limit))
        return True

    def remove(self, state: GeometryState, object_id: int, frame: int | None = None) -> None:
        """Remove the prompt of an object on one frame, or the object with all its prompts."""
        self._drop_returns(state, object_id)
        self.tracker.remove(state.inner, object_id, frame)
        if state.places is not None:
            for each in range(len(state.frames)) if frame is None else (frame,):
                state.places.forget(object_id, each)

    def propagate(self, state: GeometryState, start: int, stop: int, step: int | None = None) -> Iterator[TrackedFrame]:
        """Track all objects from frame ``start`` to frame ``stop``; see the wrapped tracker.

        With a larger ``step``, objects that return are not prompted again.
        """
        tracked = self.tracker.propagate(state.inner, start, stop, step)
        step = step or (1 if stop >= start else -1)
        if state.places is None or abs(step) > 1:
            return tracked
        return self._prompted_again(state, state.places, start, stop, step)

    def _prompted_again(
        self, state: GeometryState, places: WorldMemory, start: int, stop: int, step: int
    ) -> Iterator[TrackedFrame]:
        """Frame by frame, so that a returning object can be prompted in between."""
        for frame in range(start, stop + step, step):
            tracked = next(iter(self.tracker.propagate(state.inner, frame, frame, step)))
            predictions, gone, prompted = dict(tracked.predictions), set(tracked.gone), set(tracked.prompted)
            for object_id, prediction in tracked.predictions.items():
                if (frame, object_id) in state.returns:
                    prompted.discard(object_id)  # not by a person
                elif object_id not in prompted:
                    prompt = self._return_prompt(state, places, frame, object_id, prediction)
                    if prompt is not None:
                        predictions[object_id] = self.tracker.add(state.inner, frame, object_id, prompt)
                        state.returns.add((frame, object_id))
                        gone.discard(object_id)
            yield TrackedFrame(frame, predictions, frozenset(gone), frozenset(prompted))

    def _return_prompt(
        self, state: GeometryState, places: WorldMemory, frame: int, object_id: int, prediction: Prediction
    ) -> Prompt | None:
        """Points at the prompted mask's places where a frame's tracked mask misses them; None where it does not."""
        region = visible_region(*places.probability(frame, object_id))
        if np.count_nonzero(region) < MIN_RETURN * region.size:
            return None
        covered = _cells(prediction, places.grid)[region] > 0.5
        if covered.mean() >= MISSED:
            return None
        body = components(region) == 1
        scale = np.array(state.frames.size[::-1]) / places.grid
        points = deepest_points(body, RETURN_SPACING * places.grid, RETURN_POINTS)
        return Prompt((points + 0.5) * scale - 0.5)

    def _drop_returns(self, state: GeometryState, object_id: int) -> None:
        """Remove the prompts that were added for an object's returns: its prompts change."""
        for frame, other in sorted(state.returns):
            if other == object_id:
                self.tracker.remove(state.inner, object_id, frame)
                state.returns.discard((frame, other))

    def _memory(self, tracker: ResumableTracker, state: GeometryState, frame: int) -> dict[str, np.ndarray]:
        """The wrapped tracker's memory of one frame, and whether it was made with geometry."""
        memory = tracker.memory(state.inner, frame)
        return {**memory, WITH_GEOMETRY: np.array(state.geometry is not None)} if memory else memory

    def _recall(
        self,
        tracker: ResumableTracker,
        state: GeometryState,
        frame: int,
        memory: Mapping[str, np.ndarray],
        prompts: Mapping[int, Prompt] | None = None,
    ) -> None:
        """Restore the wrapped tracker's memory of one frame, and the places of its prompts."""
        memory = dict(memory)
        fused = bool(memory.pop(WITH_GEOMETRY, True))
        if not state.decided and fused:
            self._decide(state)
        elif not state.decided:
            self._without(state, "as when it was tracked before")
        tracker.recall(state.inner, frame, memory, prompts)
        if state.places is not None:
            for object_id, prompt in (prompts or {}).items():
                if prompt.mask is not None:
                    cells = _cells(mask_prediction(prompt, state.frames.size), state.places.grid)
                    state.places.remember(frame, object_id, cells, prompted=True)


@dataclass(eq=False)
class GeometryState:
    """A clip with the wrapped tracker's state and the clip's geometry.

    Attributes:
        frames: the clip.
        inner: state of the wrapped tracker.
        geometry: of the clip; None before the first prompt, and where the clip is tracked without.
        motion: how much of the clip moves, or of the object that does; where that was measured.
        note: why there is no geometry, or what a person should know of it.
        decided: whether it is known if the clip is tracked with geometry.
        places: of prompted objects, where they are prompted again on their return.
        returns: frames and objects that were.
    """

    frames: FrameSequence
    inner: Any = field(repr=False)
    geometry: Geometry | None = field(default=None, repr=False)
    motion: Motion | None = None
    note: str = ""
    decided: bool = False
    places: WorldMemory | None = field(default=None, repr=False)
    returns: set[tuple[int, int]] = field(default_factory=set)


def _told(motion: Motion, what: str, limit: float) -> str:
    """A fallback's reason, with the number."""
    if not motion.compared:
        return "nothing supports that the scene is static: no cells of neighbouring frames could be compared"
    return f"{motion.fraction:.1%} of {what} not where a static scene would have them, more than {limit:.0%}"


def _cells(prediction: Prediction, grid: int) -> Float[np.ndarray, "g g"]:
    """A mask as fractions of the cells of a grid."""
    return cv2.resize(prediction.best.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
