"""Scenes as files that other programs read: a COLMAP model, and nerfstudio's ``transforms.json``."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_bytes, write_text
from nbhelpers.core.orientation import INVERSE, UPRIGHT, turn_camera, turn_points, turned_size
from nbhelpers.core.scenes.readers import COLMAP_FILES, DISTORTION, HALF, OPENGL
from nbhelpers.core.scenes.scene import Scene

MODEL_NUMBERS = {"PINHOLE": 1, "OPENCV": 4}  # in binary files (COLMAP, src/colmap/sensor/models.h)
# what COLMAP reads before text, and since 3.12 with either, if it is there
MODEL_RIGS = ("rigs.bin", "frames.bin", "rigs.txt", "frames.txt")
MODEL_BINARY = tuple(f"{part}.bin" for part in COLMAP_FILES)
MODEL_TEXT = tuple(f"{part}.txt" for part in COLMAP_FILES)
MODEL_FILES = (*MODEL_BINARY, *MODEL_TEXT)


def write_colmap(scene: Scene, folder: str | Path) -> Path:
    """Write the placed views as a COLMAP model: ``cameras``, ``images`` and ``points3D``.

    As text, unless a name holds white space, at which COLMAP's readers of text cut it off; then binary. Each view gets
    a camera of its own, ``PINHOLE``, or ``OPENCV`` with its distortion. Numbers count from 1, in the order of views.
    COLMAP reads photos as they are stored, so cameras and pixels are those of the stored photos (`Scene.orientation`).

    Returns:
        The folder.

    Raises:
        NbHelpersError: no view is placed, a photo that is stored mirrored, a distortion that COLMAP's ``OPENCV`` lacks,
            files of another model in the folder that COLMAP would read with or before this one, or a full disk.

    Source: COLMAP documentation, "Output Format".
    """
    scene = stored(scene)
    views = np.flatnonzero(scene.placed).tolist()
    curves = np.zeros((len(scene), 5))
    if scene.distortion is not None:
        curves[:, : scene.distortion.shape[1]] = scene.distortion
    if curves[views, 4].any():
        raise NbHelpersError(
            "COLMAP's OPENCV camera has no k3", given=scene.model, do="undistort the photos, then write the model"
        )
    folder = Path(folder)
    binary = any(len(scene.names[view].split()) != 1 for view in views)
    if others := [
        name for name in (*(MODEL_TEXT if binary else MODEL_BINARY), *MODEL_RIGS) if (folder / name).is_file()
    ]:
        raise NbHelpersError(
            "the folder holds another COLMAP model, and programs would read both together",
            given=f"{folder}: {', '.join(others)}",
            do="move that model away, or write to another folder",
        )
    spots, places = _spots(scene)
    if binary:
        write_bytes(folder / "cameras.bin", _cameras_binary(scene, views, curves))
        write_bytes(folder / "images.bin", _images_binary(scene, views, spots))
        write_bytes(folder / "points3D.bin", _points_binary(scene, places))
    else:
        write_text(folder / "cameras.txt", _cameras_text(scene, views, curves))
        write_text(folder / "images.txt", _images_text(scene, views, spots))
        write_text(folder / "points3D.txt", _points_text(scene, places))
    return folder


def stored(scene: Scene) -> Scene:
    """The scene of the photos as they are stored, for programs that pass over EXIF orientation.

    Raises:
        NbHelpersError: no view is placed, or one that is placed is stored mirrored.
    """
    if not scene.placed.any():
        raise NbHelpersError("no view of the scene is placed", given="; ".join(scene.notes) or None)
    if scene.orientation is None or (scene.orientation == UPRIGHT).all():
        return scene
    sizes, pixels = scene.sizes.copy(), scene.observation_pixel.astype(float)
    K, poses = scene.K.copy(), scene.world_to_camera.copy()  # noqa: N806 - the field's own name
    curves = None if scene.distortion is None else scene.distortion.copy()
    for view in np.flatnonzero(scene.orientation != UPRIGHT).tolist():
        back, size = INVERSE[int(scene.orientation[view])], (int(sizes[view][0]), int(sizes[view][1]))
        sizes[view] = turned_size(size, back)
        here = scene.observation_view == view
        pixels[here] = turn_points(pixels[here], back, size)
        if scene.placed[view]:
            curve = None if curves is None else curves[view]
            K[view], poses[view], curve = turn_camera(K[view], poses[view], curve, back, size, scene.names[view])
            if curves is not None:
                curves[view] = curve
    return dataclasses.replace(
        scene,
        sizes=sizes,
        K=K,
        world_to_camera=poses,
        distortion=curves,
        observation_pixel=pixels,
        depth=None,
        confidence=None,
        orientation=None,
    )


def _lens(scene: Scene, view: int, curves: np.ndarray) -> tuple[str, list[float]]:
    """COLMAP's model of a view's camera, and its parameters."""
    K, curve = scene.K[view], curves[view, :4]  # noqa: N806 - the field's own name
    values = [K[0, 0], K[1, 1], K[0, 2] + HALF, K[1, 2] + HALF]
    return ("OPENCV", [*values, *curve]) if curve.any() else ("PINHOLE", values)


def _cameras_text(scene: Scene, views: list[int], curves: np.ndarray) -> str:
    lines = ["# Camera list with one line of data per camera:", "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for view in views:
        height, width = scene.sizes[view]
        kind, values = _lens(scene, view, curves)
        lines.append(f"{view + 1} {kind} {width} {height} {_numbers(values)}")
    return "\n".join(lines) + "\n"


def _cameras_binary(scene: Scene, views: list[int], curves: np.ndarray) -> bytes:
    out = struct.pack("<Q", len(views))
    for view in views:
        kind, values = _lens(scene, view, curves)
        height, width = scene.sizes[view].tolist()
        out += struct.pack(f"<iiQQ{len(values)}d", view + 1, MODEL_NUMBERS[kind], width, height, *values)
    return out


def _images_binary(scene: Scene, views: list[int], spots: dict[int, np.ndarray]) -> bytes:
    parts = [struct.pack("<Q", len(views))]
    for view in views:
        pose, here = scene.world_to_camera[view], spots[view]
        parts.append(struct.pack("<i7di", view + 1, *quaternion(pose[:, :3]), *pose[:, 3], view + 1))
        parts.append(scene.names[view].encode() + b"\0" + struct.pack("<Q", len(here)))
        table = np.empty(len(here), [("pixel", "<f8", 2), ("point", "<i8")])
        table["pixel"], table["point"] = scene.observation_pixel[here] + HALF, scene.observation_point[here] + 1
        parts.append(table.tobytes())
    return b"".join(parts)


def _points_binary(scene: Scene, places: list[list[tuple[int, int]]]) -> bytes:
    parts = [struct.pack("<Q", len(places))]
    errors = scene.errors
    for number, (point, color, track) in enumerate(zip(scene.points, scene.colors, places, strict=True)):
        parts.append(struct.pack("<Q3d3BdQ", number + 1, *point, *color.tolist(), errors[number], len(track)))
        parts.append(np.array([(view + 1, place) for view, place in track], "<i4").tobytes())
    return b"".join(parts)


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


def write_transforms(
    scene: Scene, path: str | Path, folder: str = "images", masks: str | Sequence[str] | None = None
) -> Path:
    """Write the placed views as nerfstudio's ``transforms.json``.

    Nerfstudio opens photos without their EXIF orientation, so the cameras are those of the stored photos
    (`Scene.orientation`).

    Args:
        scene: with at least one placed view.
        path: the file to write.
        folder: where the photos lie, seen from the file.
        masks: the mask of each view, seen from the file; or the folder where masks of the same names with ``.png`` lie.

    Raises:
        NbHelpersError: no view is placed, one is stored mirrored, or the file cannot be written.

    Source: ``nerfstudio/data/datasets/base_dataset.py``, ``get_numpy_image``: PIL without ``exif_transpose``; its own
    copies of smaller size are made with ``ffmpeg -noautorotate``.
    """
    scene = stored(scene)
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
            frame |= dict(zip(DISTORTION, (float(each) for each in scene.distortion[view]), strict=False))
        if masks is not None:
            named = f"{masks}/{Path(scene.names[view]).stem}.png"
            frame["mask_path"] = named if isinstance(masks, str) else masks[view]
        frames.append({**frame, "transform_matrix": to_world.tolist()})
    return write_text(path, json.dumps({"camera_model": "OPENCV", "frames": frames}, indent=1) + "\n")
