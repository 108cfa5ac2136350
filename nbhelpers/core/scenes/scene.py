"""A scene as a value: cameras, points, and which camera saw which point where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError

COHERENT = 0.7  # mean length of the cameras' up vectors, below which they name no common up


@dataclass(frozen=True, eq=False)
class Scene:
    """Views of one static scene, some or all of them placed in space.

    Cameras look along their z axis, x to the right and y down, as in OpenCV and COLMAP; pixels are as everywhere here,
    ``(0, 0)`` being the centre of the top-left one. World units are those of the estimator: without a known length a
    scene has no scale.

    Example:
        >>> pixels, depth = scene.project(2, scene.points)          # where view 2 would see all points
        >>> numbers, pixels = scene.seen(2)                         # which points were really found in view 2

    Attributes:
        names: of the ``v`` views, in the order given.
        sizes: ``(v, 2)``, height and width of each view in pixels.
        K: ``(v, 3, 3)`` intrinsics in pixels; NaN where the view is not placed.
        world_to_camera: ``(v, 3, 4)``, rotation and translation; NaN where the view is not placed.
        points: ``(p, 3)`` in world units.
        colors: ``(p, 3)`` RGB of the points.
        observation_view: ``(o,)`` the view of each observation.
        observation_point: ``(o,)`` the point of each observation.
        observation_pixel: ``(o, 2)`` ``(x, y)`` of each observation in its view.
        distortion: of each view, in the order of OpenCV, the radial ``k1, k2``; with 4 columns also the tangential
            ``p1, p2``; with 5 also the radial ``k3``. By default all 0.
        depth: a map ``(h, w)`` a view, along the optical axis in world units, 0 where unknown; of any resolution.
        confidence: a map of the same shape per view; higher is more certain.
        model: who made it: catalog name of the estimator, or the file that it was read from.
        notes: what a person should know, e.g. which views could not be placed and why.
        orientation: of each photo's file, 1 to 8 as in EXIF, for programs that read pixels as they are stored (see
            `nbhelpers.core.orientation`); all else here is of upright pixels. By default all 1.
    """

    names: tuple[str, ...]
    sizes: Int[np.ndarray, "v 2"]
    K: Float[np.ndarray, "v 3 3"]
    world_to_camera: Float[np.ndarray, "v 3 4"]
    points: Float[np.ndarray, "p 3"]
    colors: UInt8[np.ndarray, "p 3"]
    observation_view: Int[np.ndarray, " o"]
    observation_point: Int[np.ndarray, " o"]
    observation_pixel: Float[np.ndarray, "o 2"]
    distortion: Float[np.ndarray, "v coefficients"] | None = None
    depth: Sequence[Float32[np.ndarray, "_ _"]] | None = field(default=None, repr=False)
    confidence: Sequence[Float32[np.ndarray, "_ _"]] | None = field(default=None, repr=False)
    model: str = ""
    notes: tuple[str, ...] = ()
    orientation: Int[np.ndarray, " v"] | None = None

    def __post_init__(self):
        views, points = len(self.names), len(self.points)
        lengths = {
            "sizes": (self.sizes, views),
            "K": (self.K, views),
            "world_to_camera": (self.world_to_camera, views),
            "colors": (self.colors, points),
            "observation_point": (self.observation_point, len(self.observation_view)),
            "observation_pixel": (self.observation_pixel, len(self.observation_view)),
            "distortion": (self.distortion, views),
            "depth": (self.depth, views),
            "confidence": (self.confidence, views),
            "orientation": (self.orientation, views),
        }
        for name, (value, count) in lengths.items():
            if value is not None and len(value) != count:
                raise NbHelpersError("a scene does not fit together", given=f"{len(value)} {name}", expected=str(count))
        if self.distortion is not None and self.distortion.shape[1] not in (2, 4, 5):
            raise NbHelpersError(
                "the lens distortion has another number of coefficients",
                given=f"{self.distortion.shape[1]} a view",
                expected="2 (k1, k2), 4 (and p1, p2) or 5 (and k3)",
            )
        for name, number, limit in (("view", self.observation_view, views), ("point", self.observation_point, points)):
            if len(number) and not (number.min() >= 0 and number.max() < limit):
                raise NbHelpersError(f"an observation names a {name} that is not there", expected=f"0 to {limit - 1}")
        if not np.isfinite(self.points).all():
            raise NbHelpersError("a scene has points that are no numbers", given="NaN or infinite coordinates")
        turn = self.world_to_camera[self.placed][:, :, :3]
        if not (np.allclose(turn @ turn.transpose(0, 2, 1), np.eye(3), atol=1e-4) and (np.linalg.det(turn) > 0).all()):
            raise NbHelpersError("a camera of the scene has no proper rotation", expected="orthogonal, determinant 1")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def placed(self) -> Bool[np.ndarray, " v"]:
        """Which views have a known camera."""
        known = np.asarray(np.isfinite(self.world_to_camera).all((1, 2)) & np.isfinite(self.K).all((1, 2)))
        known.flags.writeable = False
        return known

    @cached_property
    def centers(self) -> Float[np.ndarray, "v 3"]:
        """Where the cameras stand; NaN for those that are not placed."""
        turn, shift = self.world_to_camera[:, :, :3], self.world_to_camera[:, :, 3]
        return -np.einsum("vji,vj->vi", turn, shift)

    @cached_property
    def spread(self) -> float:
        """How far the placed cameras stand from their middle, root mean square: the scene's yardstick; 0 for one."""
        centers = self.centers[self.placed]
        return float(np.sqrt(((centers - centers.mean(0)) ** 2).sum(1).mean())) if len(centers) else 0.0

    @cached_property
    def up(self) -> Float[np.ndarray, " 3"] | None:
        """Which way is up, a unit vector of the world; None where the cameras do not agree on one.

        People hold cameras level: their x axes lie in the horizontal plane, so up is the direction most orthogonal to
        all of them, and the one of its two senses that the cameras' own up vectors share.
        """
        turn = self.world_to_camera[self.placed][:, :, :3]
        if not len(turn):
            return None
        mean = -turn[:, 1].mean(0)
        if np.linalg.norm(mean) < COHERENT:
            return None
        spread = np.linalg.eigh(turn[:, 0].T @ turn[:, 0])
        level = spread.eigenvectors[:, 0]
        one_way = spread.eigenvalues[1] < 1e-3 * len(turn)  # all x axes are parallel: any normal to them would do
        up = mean - (mean @ spread.eigenvectors[:, 2]) * spread.eigenvectors[:, 2] if one_way else level
        return up / np.linalg.norm(up) * np.sign(up @ mean)

    def to_camera(self, view: int, points: Shaped[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """World points in the frame of a camera: x right, y down, z ahead.

        Raises:
            NbHelpersError: the view is not placed.
        """
        if not self.placed[view]:
            raise NbHelpersError("the view has no camera", given=self.names[view], do="use a view that is placed")
        pose = self.world_to_camera[view]
        return np.asarray(points, np.float64) @ pose[:, :3].T + pose[:, 3]

    def project(
        self, view: int, points: Shaped[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
        """Where a view sees world points.

        Args:
            view: index of a placed view.
            points: world coordinates.

        Returns:
            ``(x, y)`` in pixels, NaN for points behind the camera, and the depths along the optical axis.

        Raises:
            NbHelpersError: the view is not placed.
        """
        local = self.to_camera(view, points)
        depth = local[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            plane = np.where(depth[:, None] > 0, local[:, :2] / depth[:, None], np.nan)
        if self.distortion is not None:
            plane = _distort(plane, self.distortion[view])
        K = self.K[view]  # noqa: N806 - the field's own name
        return plane @ K[:2, :2].T + K[:2, 2], depth

    @cached_property
    def errors(self) -> Float[np.ndarray, " p"]:
        """How far from where it was seen each point projects, mean over its placed views in pixels; 0 without any."""
        total, times = np.zeros(len(self.points)), np.zeros(len(self.points))
        for view in np.flatnonzero(self.placed).tolist():
            numbers, pixels = self.seen(view)
            projected, _ = self.project(view, self.points[numbers])
            distance = np.linalg.norm(projected - pixels, axis=1)
            np.add.at(total, numbers, np.nan_to_num(distance, nan=float(max(self.sizes[view]))))
            np.add.at(times, numbers, 1)
        return total / np.maximum(times, 1)

    def seen(self, view: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 2"]]:
        """The points that were found in a view: their numbers and their ``(x, y)`` there."""
        here = self.observation_view == view
        return self.observation_point[here], self.observation_pixel[here]

    def inside(self, view: int, pixels: Shaped[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Which ``(x, y)`` lie on the picture of a view."""
        height, width = self.sizes[view]
        x, y = np.asarray(pixels, np.float64).T
        return (x >= -0.5) & (y >= -0.5) & (x < width - 0.5) & (y < height - 0.5)


def _distort(plane: Float[np.ndarray, "n 2"], coefficients: Float[np.ndarray, " c"]) -> Float[np.ndarray, "n 2"]:
    """Where the lens puts points of the plane at depth 1 (OpenCV documentation, "Camera Calibration", the model)."""
    k1, k2, p1, p2, k3 = np.pad(coefficients, (0, 5 - len(coefficients)))
    x, y = plane.T
    square = x**2 + y**2
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (square + 2 * x**2),
            y * radial + p1 * (square + 2 * y**2) + 2 * p2 * x * y,
        ],
        axis=1,
    )
