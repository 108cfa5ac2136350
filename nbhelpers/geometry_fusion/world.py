"""The memory of an object in world coordinates: which places in space belong to it and which do not."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from nbhelpers.models.label_propagation.votes import Votes, resize_map
from nbhelpers.models.values import Geometry

VOXEL = 0.08  # z-scored units: side of the finest voxels
LEVELS = 4  # of voxels, each with twice the side of the one before
LEVEL_WEIGHT = 0.02  # of a coarser voxel against the next finer one
HALF_TRUST = 0.3  # weight of the evidence at which places count as much as votes
PROMPTED_WEIGHT = 3.0  # of a prompted frame against a tracked one


class WorldMemory:
    """Labels of the voxels of a clip, for each of its objects.

    Every cell of every frame lies in a voxel. Where an object was prompted or tracked, the voxels of the frame's cells
    learn how much of the cell it covers; where the same voxels are in sight again, from any side and after any time,
    they say so. Since a cell's point is what the camera sees there, an object behind another is not mistaken for it.
    Coarser voxels answer, with little weight, where no finer one knows anything: the unseen side of a box is nearer
    to the box than to the floor.

    Args:
        geometry: of the clip.
        voxel: side of the finest voxels in z-scored units.
    """

    def __init__(self, geometry: Geometry, voxel: float = VOXEL):
        self.geometry, self.grid = geometry, geometry.valid.shape[1]
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
        if not trust.any():
            return votes
        side = len(votes.probability)
        trust, known = resize_map(trust, side), resize_map(known, side)
        probability = (1 - trust) * votes.probability + trust * known
        inside = probability > min(0.5, 0.5 * float(probability.max()))
        sure = float((trust * known)[inside].mean()) if inside.any() else 0.0
        unsure = float((1 - trust)[inside].mean()) if inside.any() else 0.0
        return Votes(probability.astype(votes.probability.dtype), sure + unsure * votes.similarity)

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
