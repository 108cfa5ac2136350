"""Where things are for a viewer: to the right, up and ahead, in space or, without a camera, in the picture alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

from nbhelpers.core.scenes import Scene

FEWEST = 4  # points of which an extent is taken
MOST = 400  # points that are kept of a body
TRIM = 8.0  # percent that are cut off at either end of an extent, since a few points always belong to something else
LEVEL = 0.35  # length that a view's axis keeps on the ground, below which it looks straight down or up


@dataclass(frozen=True, eq=False)
class Body:
    """A thing as the viewer has it before them.

    Attributes:
        points: ``(n, 3)`` to the right, up and ahead of the viewer; world units, or shares of the picture's width.
        low: ``(3,)`` of the robust extent.
        high: ``(3,)`` of the robust extent.
        across: where it is in the picture from the left edge, -1, to the right one, 1: left end, middle, right end.
        flat: it was seen in a picture alone, and how far ahead it is was guessed.
    """

    points: Float[np.ndarray, "n 3"] = field(repr=False)
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]
    across: tuple[float, float, float]
    flat: bool = False

    @property
    def center(self) -> Float[np.ndarray, " 3"]:
        """Middle of the extent."""
        return (self.low + self.high) / 2

    @property
    def size(self) -> Float[np.ndarray, " 3"]:
        """Width, height and depth; never quite 0."""
        return np.maximum(self.high - self.low, 1e-9)

    @property
    def reach(self) -> float:
        """Its longest side."""
        return float(self.size.max())

    @property
    def distance(self) -> float:
        """How far its middle is from the viewer."""
        return float(np.linalg.norm(np.median(self.points, axis=0)))


class Frame:
    """What left, up and behind mean: the viewer of one view, with the scene's up.

    Example:
        >>> frame = Frame(scene, 0)
        >>> chair, desk = frame.body(chair_points), frame.body(desk_points)
        >>> chair.center[2] > desk.center[2]                      # is the chair farther away?
        True

    Args:
        scene: cameras.
        view: the view whose viewer is asked.

    Attributes:
        view: as given.
        note: how up was told.
        flat: whether there is no depth, since the view has no camera.
    """

    def __init__(self, scene: Scene | None, view: int = 0):
        self._scene, self.view = scene, view
        self.flat = scene is None or not bool(scene.placed[view])
        if self.flat:
            self.note = (
                "no camera is known: left, right, above and below are those of the picture, "
                "and of two things the one that ends lower in it is taken to be nearer"
            )
            return
        turn = scene.world_to_camera[view][:, :3]
        up = scene.up
        self.note = f"as the viewer of view {view} sees it, with up from all cameras"
        if up is None:
            up = -turn[1]
            self.note = f"as the viewer of view {view} sees it; the cameras share no up, so its own is taken"
        ahead = turn[2] - (turn[2] @ up) * up
        if np.linalg.norm(ahead) < LEVEL:  # straight down: ahead is where the picture's upper edge points
            ahead = -turn[1] - (-turn[1] @ up) * up
        ahead /= max(np.linalg.norm(ahead), 1e-12)
        self.axes = np.stack([np.cross(ahead, up), up, ahead])
        """``(3, 3)``: to the right, up and ahead as directions of the world."""

    def body(self, points: Shaped[np.ndarray, "n 3"]) -> Body | None:
        """A thing from its points in the world; None if they are too few to say where it is."""
        points = np.asarray(points, np.float64)
        if self.flat or len(points) < FEWEST:
            return None
        local = (points - self._scene.centers[self.view]) @ self.axes.T
        low, high = np.percentile(local, (TRIM, 100 - TRIM), axis=0)
        slack = 0.5 * (high - low)
        kept = ((local >= low - slack) & (local <= high + slack)).all(1)
        if kept.sum() < FEWEST:
            kept[:] = True
        pixels, _ = self._scene.project(self.view, points[kept])
        width = self._scene.sizes[self.view][1]
        seen = pixels[np.isfinite(pixels[:, 0]), 0] * 2 / max(width - 1, 1) - 1
        sideways = np.arctan2(local[kept, 0], local[kept, 2]) * 2 if len(seen) < FEWEST else seen
        across = np.percentile(sideways, (TRIM, 50, 100 - TRIM))
        step = max(1, -(-int(kept.sum()) // MOST))
        return Body(local[kept][::step], low, high, (across[0], float(np.mean(across[[0, 2]])), across[2]))

    def outline(self, mask: Bool[np.ndarray, "h w"]) -> Body | None:
        """A thing from its mask in the view, without depth; None for an empty one.

        Ahead is taken from where it ends below: of two things that stand on one floor the lower in the picture is
        nearer.
        """
        height, width = mask.shape
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return None
        step = max(1, len(rows) // MOST)
        bottom = float(np.percentile(rows, 98))
        points = np.stack([columns, -rows, np.full(len(rows), height - bottom)], 1)[::step] / width
        low, high = np.percentile(points, (2, 98), axis=0)
        across = np.array([low[0], (low[0] + high[0]) / 2, high[0]]) * 2 - 1
        high[2] = low[2] + 0.1 * (high[1] - low[1])
        return Body(points, low, high, tuple(across.tolist()), True)


def support(upper: Body, lower: Body) -> float:
    """Height at which ``lower`` would carry ``upper``: its top where the other one stands."""
    margin = 0.15 * lower.size[[0, 2]] + 0.25 * upper.size[[0, 2]]
    ground = lower.points[:, [0, 2]]
    below = ((ground >= upper.low[[0, 2]] - margin) & (ground <= upper.high[[0, 2]] + margin)).all(1)
    heights = lower.points[below, 1]
    return float(np.percentile(heights, 90)) if len(heights) >= FEWEST else float(lower.high[1])


def gap(one: Body, other: Body) -> float:
    """Distance between the surfaces of two things, as far as their points tell: robust, in the frame's units."""
    apart = np.linalg.norm(one.points[:, None] - other.points[None], axis=2).min(1)
    return float(np.percentile(apart, 10))


def apart(one: Body, other: Body, axes: tuple[int, ...]) -> float:
    """Distance between two extents along some axes; 0 where they overlap."""
    axes = [axis for axis in axes if not (axis == 2 and one.flat)]
    between = np.maximum(one.low[axes] - other.high[axes], other.low[axes] - one.high[axes])
    return float(np.linalg.norm(np.maximum(between, 0)))


def across_gap(one: Body, other: Body) -> float:
    """Empty share of the picture's width between two things, 0 to 1; 0 where one hides or flanks the other."""
    return max(0.0, one.across[0] - other.across[2], other.across[0] - one.across[2]) / 2


def silhouette_scale(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "sh sw"]:
    """A mask at no more than 400 pixels a side, for `Frame.outline`."""
    scale = min(1.0, 400 / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
