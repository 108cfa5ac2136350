"""Scenes as files that other programs read: a COLMAP text model, and nerfstudio's ``transforms.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.scenes.readers import HALF, OPENGL
from nbhelpers.core.scenes.scene import Scene


def write_colmap(scene: Scene, folder: str | Path) -> Path:
    """Write the placed views as a COLMAP text model (``cameras.txt``, ``images.txt``, ``points3D.txt``).

    Each view gets a camera of its own, ``PINHOLE``, or ``OPENCV`` with its distortion. Numbers count from 1, in the
    order of the views.

    Returns:
        The folder.

    Raises:
        NbHelpersError: no view is placed, a distortion that COLMAP's ``OPENCV`` lacks, or a full disk.
    """
    _need_placed(scene)
    views = np.flatnonzero(scene.placed).tolist()
    curves = np.zeros((len(scene), 5))
    if scene.distortion is not None:
        curves[:, : scene.distortion.shape[1]] = scene.distortion
    if curves[views, 4].any():
        raise NbHelpersError(
            "COLMAP's OPENCV camera has no k3", given=scene.model, do="undistort the photos, then write the model"
        )
    folder = Path(folder)
    write_text(folder / "cameras.txt", _cameras_text(scene, views, curves))
    spots, places = _spots(scene)
    write_text(folder / "images.txt", _images_text(scene, views, spots))
    write_text(folder / "points3D.txt", _points_text(scene, places))
    return folder


def _cameras_text(scene: Scene, views: list[int], curves: np.ndarray) -> str:
    lines = ["# Camera list with one line of data per camera:", "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for view in views:
        height, width = scene.sizes[view]
        K = scene.K[view]  # noqa: N806 - the field's own name
        values = [K[0, 0], K[1, 1], K[0, 2] + HALF, K[1, 2] + HALF]
        curved = curves[view, :4].any()
        values += list(curves[view, :4]) if curved else []
        lines.append(f"{view + 1} {'OPENCV' if curved else 'PINHOLE'} {width} {height} {_numbers(values)}")
    return "\n".join(lines) + "\n"


def _spots(scene: Scene) -> tuple[dict[int, np.ndarray], list[list[tuple[int, int]]]]:
    """The observations of each view, and of each point the view and the place there."""
    spots = {}
    places: list[list[tuple[int, int]]] = [[] for _ in range(len(scene.points))]
    for view in range(len(scene)):
        if not scene.placed[view]:
            continue
        spots[view] = np.flatnonzero(scene.observation_view == view)
        for place, observation in enumerate(spots[view]):
            places[scene.observation_point[observation]].append((view, place))
    return spots, places


def _images_text(scene: Scene, views: list[int], spots: dict[int, np.ndarray]) -> str:
    lines = [
        "# Image list with two lines of data per image:",
        "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
        "#   POINTS2D[] as (X, Y, POINT3D_ID)",
    ]
    for view in views:
        pose = scene.world_to_camera[view]
        values = [*quaternion(pose[:, :3]), *pose[:, 3]]
        lines.append(f"{view + 1} {_numbers(values)} {view + 1} {scene.names[view]}")
        lines.append(
            " ".join(
                f"{_numbers(scene.observation_pixel[o] + HALF)} {scene.observation_point[o] + 1}" for o in spots[view]
            )
        )
    return "\n".join(lines) + "\n"


def _points_text(scene: Scene, places: list[list[tuple[int, int]]]) -> str:
    lines = ["# 3D point list with one line of data per point:"]
    lines.append("#   POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)")
    errors = scene.errors
    for number, (point, color, track) in enumerate(zip(scene.points, scene.colors, places, strict=True)):
        seen = " ".join(f"{view + 1} {place}" for view, place in track)
        shade = " ".join(str(each) for each in color)
        lines.append(f"{number + 1} {_numbers(point)} {shade} {_numbers([errors[number]])} {seen}".rstrip())
    return "\n".join(lines) + "\n"


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{value:.12g}" for value in values)


def quaternion(turn: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """``(w, x, y, z)`` of a rotation matrix, ``w >= 0``.

    The eigenvector of the largest eigenvalue of Bar-Itzhack's matrix (2000, "New Method for Extracting the Quaternion
    from a Rotation Matrix"), which needs no case for small traces.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turn
    table = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    found = np.linalg.eigh(table).eigenvectors[:, -1]
    return found if found[0] >= 0 else -found


def write_transforms(scene: Scene, path: str | Path, folder: str = "images", masks: str | None = None) -> Path:
    """Write the placed views as nerfstudio's ``transforms.json``.

    Args:
        scene: with at least one placed view.
        path: the file to write.
        folder: where the photos lie, seen from the file.
        masks: where masks of the same names with ``.png`` lie, if there are any.

    Raises:
        NbHelpersError: no view is placed, or the file cannot be written.
    """
    _need_placed(scene)
    frames = []
    for view in np.flatnonzero(scene.placed).tolist():
        height, width = (int(each) for each in scene.sizes[view])
        K, pose = scene.K[view], scene.world_to_camera[view]  # noqa: N806 - the field's own name
        to_world = np.eye(4)
        to_world[:3, :3] = (OPENGL @ pose[:, :3]).T
        to_world[:3, 3] = scene.centers[view]
        frame = {"file_path": f"{folder}/{scene.names[view]}", "w": width, "h": height}
        frame |= {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2] + HALF, "cy": K[1, 2] + HALF}
        if scene.distortion is not None:
            names = ("k1", "k2", "p1", "p2", "k3")
            frame |= dict(zip(names, (float(each) for each in scene.distortion[view]), strict=False))
        if masks is not None:
            frame["mask_path"] = f"{masks}/{Path(scene.names[view]).stem}.png"
        frames.append({**frame, "transform_matrix": to_world.tolist()})
    return write_text(path, json.dumps({"camera_model": "OPENCV", "frames": frames}, indent=1) + "\n")


def _need_placed(scene: Scene) -> None:
    if not scene.placed.any():
        raise NbHelpersError("no view of the scene is placed", given="; ".join(scene.notes) or None)
