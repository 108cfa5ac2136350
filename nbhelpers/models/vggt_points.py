"""Points of a scene from depth maps: sampled, lifted, and looked for in the other views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

SAME_DEPTH = 0.03  # share of its depth by which a point may differ from a view's depth map and still be what is seen


def lift(
    depth: Sequence[Float32[np.ndarray, "_ _"]],
    confidence: Sequence[Float32[np.ndarray, "_ _"]],
    intrinsics: Float[np.ndarray, "v 3 3"],
    poses: Float[np.ndarray, "v 3 4"],
    sizes: Int[np.ndarray, "v 2"],
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    most: int,
) -> tuple[np.ndarray, ...]:
    """Points on a grid of each depth map, and every view whose own depth map has them too.

    Args:
        depth: along the optical axis, 0 where unknown.
        confidence: of the same shapes.
        intrinsics: in pixels of the photos.
        poses: world to camera.
        sizes: heights and widths of the photos.
        images: the photos, for the colours.
        most: points in all.

    Returns:
        ``points (p, 3)``, ``colors (p, 3)``, and of each observation its view, point and ``(x, y)``.
    """
    points, colors, views, tracks, pixels = [], [], [], [], []
    count = 0
    for view, far in enumerate(depth):
        y, x = _grid(far, most // len(depth))
        spots = _to_photo(x, y, far.shape, sizes[view])
        rays = np.linalg.solve(intrinsics[view], np.concatenate([spots, np.ones((len(spots), 1))], axis=1).T)
        pose = poses[view]
        world = (rays * far[y, x] - pose[:, 3:]).T @ pose[:, :3]
        nearest = np.clip(np.rint(spots).astype(int), 0, sizes[view][::-1] - 1)
        points.append(world)
        colors.append(images[view][nearest[:, 1], nearest[:, 0]])
        numbers = count + np.arange(len(world))
        for other in range(len(depth)):
            if other == view:
                seen, where = np.ones(len(world), bool), spots
            else:
                seen, where = _seen(world, depth[other], intrinsics[other], poses[other], sizes[other])
            views.append(np.full(seen.sum(), other))
            tracks.append(numbers[seen])
            pixels.append(where[seen])
        count += len(world)
    return tuple(np.concatenate(each) for each in (points, colors, views, tracks, pixels))


def _grid(far: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of known depths on the finest square grid that has at most ``most`` of them."""
    known = int((far > 0).sum())
    step = max(1, int(np.ceil(np.sqrt(known / max(1, most)))))
    y, x = np.nonzero(far[step // 2 :: step, step // 2 :: step] > 0)
    return y * step + step // 2, x * step + step // 2


def _to_photo(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], size: np.ndarray) -> np.ndarray:
    scale = np.array([size[1] / shape[1], size[0] / shape[0]])
    return (np.stack([x, y], axis=1) + 0.5) * scale - 0.5


def _seen(
    world: np.ndarray, far: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which points a view sees at their own depth, and where in its photo."""
    local = world @ pose[:, :3].T + pose[:, 3]
    ahead = local[:, 2] > 0
    flat = local @ intrinsics.T
    spots = flat[:, :2] / np.where(ahead, flat[:, 2], 1)[:, None]
    scale = np.array([far.shape[1] / size[1], far.shape[0] / size[0]])
    cell = np.floor((spots + 0.5) * scale)
    inside = ahead & (cell >= 0).all(1) & (cell < np.array(far.shape[::-1])).all(1)
    column, row = np.where(inside[:, None], cell, 0).astype(int).T
    there = far[row, column]
    return inside & (there > 0) & (np.abs(local[:, 2] - there) < SAME_DEPTH * there), spots
