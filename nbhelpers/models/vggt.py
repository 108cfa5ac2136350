"""VGGT: cameras, depth and points of all photos in one forward pass.

Wang et al., CVPR 2025 (arXiv 2503.11651). The package is installed from its repository, since it is in no registry.
There are weights for research and, in another file, for commercial use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene
from nbhelpers.models.adapters import precision_of, read_weights, with_cpu_fallback

INSTALL = "pip install --no-deps git+https://github.com/facebookresearch/vggt"
LONGEST = 518  # pixels of the longer side that the network was trained with
PATCH = 14
CHUNK = 8  # frames that the depth head processes at a time, to bound its memory
DROPPED = 0.15  # fraction of the depths, those of the lowest confidence, that is dropped (arXiv 2601.17866)
WHITE = 1.0  # the publisher's padding
# GB of the aggregator by number of views in bfloat16, by the publisher's README (H100, flash attention 3)
MEMORY = {1: 1.88, 2: 2.07, 4: 2.45, 8: 3.23, 10: 3.63, 20: 5.58, 50: 11.41, 100: 21.15, 200: 40.63}
WEIGHTS = 5.0  # GB of the network itself
SAME_DEPTH = 0.03  # relative difference from a view's depth map up to which a point is visible in that view


class Placement(NamedTuple):
    """The area of a photo in a batch frame, and its pixels per pixel of the photo ``(2,)``."""

    left: int
    top: int
    width: int
    height: int
    scale: np.ndarray


class NetworkOutput(NamedTuple):
    """Poses ``(v, 3, 4)``, intrinsics ``(v, 3, 3)``, depth and confidence ``(v, H, W)`` in the batch's pixels."""

    poses: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray


class VggtEstimator:
    """Feed-forward scene estimation with depth and confidence; a `nbhelpers.models.protocols.SceneEstimator`.

    Example:
        >>> scene = nbhelpers.load("scene_estimator", "vggt-1b", device="cuda").reconstruct(photos)
        >>> scene.placed.all(), scene.depth[0].shape
        (True, (350, 518))

    Args:
        model: the package's ``VGGT``, or a model with its parts ``aggregator``, ``camera_head``, ``depth_head``.
        decode: the package's ``pose_encoding_to_extri_intri``.
        name: catalog name.
        device: where it computes.
        chunk: frames that the depth head processes at a time.
        points: maximum number of points of a scene.
    """

    def __init__(self, model: Any, decode: Any, name: str, device: str, chunk: int = CHUNK, points: int = 60_000):
        self.model = model.eval().to(device)
        self.decode, self.name, self.device, self.chunk, self.points = decode, name, device, chunk, points

    def reconstruct(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], names: Sequence[str] | None = None) -> Scene:
        """A scene of all photos; the network registers each of them, even if it does not belong to the scene.

        Args:
            images: RGB photos of any sizes.
            names: of the photos; by default their numbers.

        Returns:
            A scene with depth and confidence maps of about 518 pixels. The 15 % of the depths with the lowest
            confidence are set to 0 (unknown).

        Raises:
            NbHelpersError: no photos, or more than fit into the memory of the device.
        """
        if not len(images):
            raise NbHelpersError("there are no photos", expected="one or more")
        names = tuple(names or (f"{number:05d}" for number in range(len(images))))
        self._check_memory(len(images))
        batch, offsets, sizes = prepare_batch(images)
        output = with_cpu_fallback(self, lambda: self._run(batch))
        poses = output.poses.astype(np.float64)
        poses[:, :, :3] = nearest_rotations(poses[:, :, :3])
        depth, confidence = (
            [
                each[place.top : place.top + place.height, place.left : place.left + place.width]
                for each, place in zip(maps, offsets, strict=True)
            ]
            for maps in (output.depth, output.confidence)
        )
        limit = np.quantile(np.concatenate([each.ravel() for each in confidence]), DROPPED)
        depth = [np.where((weight > limit) & np.isfinite(far) & (far > 0), far, 0).astype(np.float32)
                 for far, weight in zip(depth, confidence, strict=True)]  # fmt: skip
        intrinsics = np.array(
            [photo_intrinsics(each, place) for each, place in zip(output.intrinsics, offsets, strict=True)]
        )
        lifted = points_from_depth(depth, confidence, intrinsics, poses, sizes, images, self.points)
        return Scene(
            names,
            sizes,
            intrinsics,
            poses,
            *lifted,
            depth=depth,
            confidence=[each.astype(np.float32) for each in confidence],
            model=self.name,
            notes=("all photos were registered by one network in one pass, without a second run for verification",),
        )

    def _run(self, batch: np.ndarray) -> NetworkOutput:
        """Poses, intrinsics, depth and confidence of the prepared frames, as arrays."""
        import torch

        frames = torch.from_numpy(batch)[None].to(self.device)
        with precision_of(self):
            tokens, start = self.model.aggregator(frames)
        # the heads need full precision, as in the publisher's forward()
        encoding = self.model.camera_head(tokens)[-1]
        poses, intrinsics = self.decode(encoding.float(), frames.shape[-2:])
        depth, confidence = self.model.depth_head(tokens, frames, start, frames_chunk_size=self.chunk)
        arrays = (poses[0], intrinsics[0], depth[0, ..., 0], confidence[0])
        return NetworkOutput(*(each.float().cpu().numpy() for each in arrays))

    def _check_memory(self, views: int) -> None:
        import torch

        if not self.device.startswith("cuda"):
            return
        free = torch.cuda.mem_get_info(self.device)[0] / 1e9
        if needed_memory(views) > free:
            raise NbHelpersError(
                "there is not enough device memory for so many photos",
                given=f"{views} photos, about {needed_memory(views):.0f} GB; {free:.0f} GB are free",
                expected=f"at most {views_that_fit(free)}",
                do="sample fewer photos, or use the estimator colmap",
            )


def needed_memory(views: int) -> float:
    """Memory in GB for a number of photos, without weights: interpolated or extrapolated from `MEMORY`."""
    counts = np.array(list(MEMORY))
    values = np.array(list(MEMORY.values()))
    slope = (values[-1] - values[-2]) / (counts[-1] - counts[-2])
    return float(np.interp(views, counts, values) + slope * max(0, views - counts[-1]))


def views_that_fit(free: float) -> int:
    """Maximum number of photos for ``free`` GB of memory, without weights; 0 if not even one fits."""
    views = 0
    while needed_memory(views + 1) <= free:
        views += 1
    return views


def memory_table(estimator: VggtEstimator, views: Sequence[int] = tuple(MEMORY)) -> dict[int, tuple[float, float]]:
    """Peak GB and seconds on this machine by number of 518 x 350 photos, up to out of memory.

    Raises:
        NbHelpersError: the estimator is not on a CUDA device; memory can be measured only there.
    """
    import time

    import torch

    from nbhelpers.core.device import is_out_of_memory, release_memory

    if not estimator.device.startswith("cuda"):
        raise NbHelpersError("memory can be measured only on a CUDA device", given=estimator.device)
    table = {}
    for count in views:
        release_memory()
        torch.cuda.reset_peak_memory_stats(estimator.device)
        noise = np.random.default_rng(0).random((count, 3, 350, LONGEST), np.float32)
        begin = time.perf_counter()
        try:
            with torch.inference_mode():
                estimator._run(noise)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
        table[count] = (torch.cuda.max_memory_allocated(estimator.device) / 1e9, time.perf_counter() - begin)
    return table


def memory_text(counted: Mapping[int, tuple[float, float]] | None = None) -> str:
    """A table of the memory by number of photos, at most 100 columns wide.

    Args:
        counted: from `memory_table`; by default `MEMORY`, the publisher's figures.
    """
    if counted is None:
        head = f"VGGT by number of photos: publisher's figures (H100), without {WEIGHTS:.0f} GB of weights"
        rows = {"GB": MEMORY.values()}
    else:
        head = "VGGT by number of photos: measured on this device, weights included, up to out of memory"
        rows = {"GB": [peak for peak, _ in counted.values()], "seconds": [seconds for _, seconds in counted.values()]}
    lines = [f"{'photos':8}" + "".join(f"{views:8}" for views in (MEMORY if counted is None else counted))]
    lines += [f"{what:8}" + "".join(f"{value:8.1f}" for value in values) for what, values in rows.items()]
    return "\n".join([head, *lines])


def prepare_batch(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
) -> tuple[Float32[np.ndarray, "v 3 H W"], list[Placement], np.ndarray]:
    """The photos as one batch: longer side 518, whole patches, padded with white.

    Source: ``load_and_preprocess_images`` of the package, mode "pad", which does not crop.

    Returns:
        The batch, 0 to 1; ``left, top, width, height`` of each photo in the batch; the original sizes.
    """
    frames, sizes = [], []
    for image in images:
        scale = LONGEST / max(image.shape[:2])
        height, width = (max(PATCH, round(each * scale / PATCH) * PATCH) for each in image.shape[:2])
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        frames.append(cv2.resize(image, (width, height), interpolation=way))
        sizes.append(image.shape[:2])
    rows, columns = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    batch = np.full((len(frames), 3, rows, columns), WHITE, np.float32)
    offsets = []
    for number, frame in enumerate(frames):
        height, width = frame.shape[:2]
        top, left = (rows - height) // 2, (columns - width) // 2
        batch[number, :, top : top + height, left : left + width] = frame.transpose(2, 0, 1) / 255
        scale = np.array([width / sizes[number][1], height / sizes[number][0]])
        offsets.append(Placement(left, top, width, height, scale))
    return batch, offsets, np.array(sizes, int)


def photo_intrinsics(intrinsics: np.ndarray, place: Placement) -> np.ndarray:
    """Intrinsics of the batch, with the origin at the corner, converted to those of the photo."""
    out = intrinsics.astype(np.float64)
    corner = out[:2, 2] - (place.left, place.top)
    out[:2] /= place.scale[:, None]
    out[:2, 2] = corner / place.scale - 0.5
    return out


def nearest_rotations(turn: np.ndarray) -> np.ndarray:
    """The rotations nearest to nearly orthogonal matrices (Kabsch 1976), since the network's output is float32."""
    left, _, right = np.linalg.svd(turn)
    flip = np.ones((len(turn), 3))
    flip[:, 2] = np.linalg.det(left @ right)
    return left * flip[:, None] @ right


def build(name: str, files: Mapping[str, Path], device: str) -> VggtEstimator:
    """Build the estimator from ``{"checkpoint": path}``.

    Raises:
        NbHelpersError: the package is not installed, or the file is damaged or belongs to another network.
    """
    try:
        from vggt.models.vggt import VGGT  # pyright: ignore[reportMissingImports] - not on any index
        from vggt.utils.pose_enc import pose_encoding_to_extri_intri  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NbHelpersError(
            "VGGT is not installed; the package comes from its repository",
            given=str(error),
            do=f"{INSTALL}; or use the estimator colmap, which needs no GPU",
        ) from error
    state = read_weights(files["checkpoint"], f"the checkpoint of {name}")
    try:
        model = VGGT()
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise NbHelpersError(
            "the weights belong to another network",
            given=f"{files['checkpoint'].name}: {str(error).splitlines()[0]}",
            expected=f"the checkpoint of {name}",
            do=f"nbhelpers fetch {name}",
        ) from error
    model.point_head = model.track_head = None  # depth and cameras give better points (README of the package)
    return VggtEstimator(model, pose_encoding_to_extri_intri, name, device)


def points_from_depth(
    depth: Sequence[Float32[np.ndarray, "_ _"]],
    confidence: Sequence[Float32[np.ndarray, "_ _"]],
    intrinsics: Float[np.ndarray, "v 3 3"],
    poses: Float[np.ndarray, "v 3 4"],
    sizes: Int[np.ndarray, "v 2"],
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    max_points: int,
) -> tuple[np.ndarray, ...]:
    """Points on a grid of each depth map, and all views in which they are visible.

    Args:
        depth: along the optical axis, 0 where unknown.
        confidence: of the same shapes.
        intrinsics: in pixels of the photos.
        poses: world to camera.
        sizes: heights and widths of the photos.
        images: the photos, for the colours.
        max_points: of all views together.

    Returns:
        ``points (p, 3)``, ``colors (p, 3)``, and of each observation its view, point and ``(x, y)``.
    """
    points, colors, views, tracks, pixels = [], [], [], [], []
    count = 0
    for view, far in enumerate(depth):
        y, x = _grid(far, max_points // len(depth))
        spots = _cells_to_photo(x, y, far.shape, sizes[view])
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


def _grid(far: np.ndarray, max_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of known depths on the finest square grid with at most ``max_points`` of them."""
    known = int((far > 0).sum())
    step = max(1, int(np.ceil(np.sqrt(known / max(1, max_points)))))
    y, x = np.nonzero(far[step // 2 :: step, step // 2 :: step] > 0)
    return y * step + step // 2, x * step + step // 2


def _cells_to_photo(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], size: np.ndarray) -> np.ndarray:
    """Cells of a depth map as pixels ``(n, 2)`` of the photo."""
    scale = np.array([size[1] / shape[1], size[0] / shape[0]])
    return (np.stack([x, y], axis=1) + 0.5) * scale - 0.5


def _seen(
    world: np.ndarray, far: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which points are visible in a view according to its depth map, and their pixels in its photo."""
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
