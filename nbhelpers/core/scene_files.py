"""Files of cameras: COLMAP, nerfstudio, Bundler and Middlebury are read; COLMAP and nerfstudio are written.

What is read becomes one `CameraFile`, in the conventions of `nbhelpers.core.scenes.Scene`: x right, y down, z ahead,
and ``(0, 0)`` the centre of the top-left pixel.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_bytes, write_text
from nbhelpers.core.images import INVERSE, UPRIGHT, turn_camera, turn_points, turned_size
from nbhelpers.core.lazy import needs

if TYPE_CHECKING:
    from nbhelpers.core.scenes import Scene

OPENGL = np.diag([1.0, -1.0, -1.0])  # turns axes right, up, back into right, down, ahead
HALF = 0.5  # COLMAP counts pixels from the corner of the picture: its first pixel's centre is (0.5, 0.5)
COLMAP_FILES = ("cameras", "images", "points3D")
# which parameters of a COLMAP camera are fx, fy, cx, cy and k1, k2, p1, p2 (COLMAP, src/colmap/sensor/models.h)
COLMAP_MODELS = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), ()),
    "PINHOLE": ((0, 1, 2, 3), ()),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), (3,)),
    "RADIAL": ((0, 0, 1, 2), (3, 4)),
    "OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7)),
}
# camera_model of a transforms.json that is a perspective camera with OpenCV's distortion (nerfstudio,
# cameras/camera_utils.py and cameras.py, CAMERA_MODEL_TO_TYPE); the default where there is none
PERSPECTIVE = (*COLMAP_MODELS, "PERSPECTIVE")
DISTORTION = ("k1", "k2", "p1", "p2", "k3")
NERFSTUDIO_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")  # the order of its distortion_params
COEFFICIENT = re.compile(r"[kps]\d+|ftheta_\w+")  # keys that bend a lens, in nerfstudio and instant-ngp
OTHER_LENSES = ("is_fisheye", "latlong", "equirectangular", "orthographic")  # flags of instant-ngp
MODEL_NUMBERS = {"PINHOLE": 1, "OPENCV": 4}  # in binary files (COLMAP, src/colmap/sensor/models.h)
# what COLMAP reads before text, and since 3.12 with either, if it is there
MODEL_RIGS = ("rigs.bin", "frames.bin", "rigs.txt", "frames.txt")
MODEL_BINARY = tuple(f"{part}.bin" for part in COLMAP_FILES)
MODEL_TEXT = tuple(f"{part}.txt" for part in COLMAP_FILES)
MODEL_FILES = (*MODEL_BINARY, *MODEL_TEXT)


@dataclass(frozen=True, eq=False)
class CameraFile:
    """The contents of a file of cameras, before they are matched to photos.

    Attributes:
        names: of the ``n`` photos in the file; None if it has only their order.
        sizes: ``(n, 2)`` height and width of the pictures that the pixels belong to, 0 where the file does not tell.
        centred: whether pixels count from the middle of the picture: then ``K`` and ``pixels`` still miss half a size.
        K: ``(n, 3, 3)`` intrinsics.
        poses: ``(n, 3, 4)`` world to camera; NaN where the file knows none.
        distortion: ``(n, 5)`` in the order of OpenCV.
        points: ``(p, 3)``.
        colors: ``(p, 3)``.
        views: ``(o,)`` the photo of each observation.
        tracks: ``(o,)`` the point of each observation.
        pixels: ``(o, 2)`` where it was seen.
        relative: whether ``K`` counts in widths of the picture, for files that tell a field of view and no size.
    """

    names: tuple[str, ...] | None
    sizes: Int[np.ndarray, "n 2"]
    K: Float[np.ndarray, "n 3 3"]
    poses: Float[np.ndarray, "n 3 4"]
    distortion: Float[np.ndarray, "n 5"]
    points: Float[np.ndarray, "p 3"]
    colors: UInt8[np.ndarray, "p 3"]
    views: Int[np.ndarray, " o"]
    tracks: Int[np.ndarray, " o"]
    pixels: Float[np.ndarray, "o 2"]
    centred: bool = False
    relative: bool = False


def read_file(path: str | Path) -> CameraFile:
    """The cameras of a COLMAP folder, a ``transforms.json``, a Bundler file or a Middlebury ``*_par.txt``.

    Args:
        path: the file, or a folder that holds a COLMAP model (also in ``sparse/0``) or one such file.

    Raises:
        NbHelpersError: nothing of the kind is there, or the file is damaged.
    """
    path = Path(path).expanduser()
    place, reader = _kind(path)
    try:
        found = reader(place)
    except OSError as error:
        raise NbHelpersError("the file of cameras cannot be read", given=f"{place}: {error.strerror}") from error
    except (ValueError, KeyError, IndexError, TypeError, StopIteration, UnicodeDecodeError) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else "it ends too early"
        raise NbHelpersError(
            "the file of cameras is damaged or of another format",
            given=f"{place}: {reason}",
            do="write it again with the program that made it",
        ) from error
    if not len(found.K):
        raise NbHelpersError("the file of cameras names no photos", given=place, expected="at least one camera")
    _check_once(found, place)
    for number in np.flatnonzero(np.isfinite(found.poses).all((1, 2))).tolist():
        if (found.K[number].diagonal()[:2] <= 0).any():
            raise NbHelpersError(
                "a camera of the file has no focal length",
                given=f"{found.K[number, 0, 0]:g} and {found.K[number, 1, 1]:g} pixels of "
                + (found.names[number] if found.names is not None else f"camera {number}"),
                expected="positive numbers",
            )
    return found


def _check_once(found: CameraFile, place: Path) -> None:
    """Refuse a file with several cameras for one photo."""
    first: dict[str, int] = {}
    for number, name in enumerate(found.names or ()):
        other = first.setdefault(name, number)
        same = all(
            np.array_equal(each[number], each[other], equal_nan=True)
            for each in (found.K, found.poses, found.distortion)
        )
        if not same:
            raise NbHelpersError(
                "the file has several cameras for one photo", given=f"{place}: {name}", expected="one camera a photo"
            )


def _kind(path: Path) -> tuple[Path, Callable[[Path], CameraFile]]:
    if path.is_dir():
        for folder in (path, path / "sparse" / "0", path / "sparse", path / "0"):
            if any((folder / f"{COLMAP_FILES[0]}{suffix}").is_file() for suffix in (".bin", ".txt")):
                return folder, _colmap
        for pattern in ("transforms.json", "*_par.txt", "*.out"):
            if found := sorted(path.glob(pattern)):
                return _kind(found[0])
    elif path.stem in COLMAP_FILES and path.suffix in (".bin", ".txt"):
        return path.parent, _colmap
    elif path.is_file():
        with path.open("rb") as file:
            start = file.read(200).removeprefix(codecs.BOM_UTF8).lstrip()
        if start.startswith(b"{"):
            return path, _transforms
        if start.lower().startswith(b"# bundle file"):
            return path, _bundler
        if path.name.endswith("_par.txt"):
            return path, _middlebury
    raise NbHelpersError(
        "no cameras were found here",
        given=path,
        expected="a folder with a COLMAP model (cameras, images, points3D as .bin or .txt), a transforms.json, "
        "a Bundler file v0.3 or a Middlebury *_par.txt",
    )


def _colmap(folder: Path) -> CameraFile:
    """A COLMAP model, text or binary."""
    needs("multiview", "pycolmap")
    import pycolmap

    for part in COLMAP_FILES:
        if not any((folder / f"{part}{suffix}").is_file() for suffix in (".bin", ".txt")):
            raise NbHelpersError("the COLMAP model is not whole", given=folder, expected=f"{part}.bin or {part}.txt")
    try:
        model = pycolmap.Reconstruction(str(folder))
    except Exception as error:  # pycolmap's exceptions have no common base
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NbHelpersError("the COLMAP model cannot be read", given=f"{folder}: {first}") from error
    names = {number: image.name for number, image in model.images.items()}
    if not all((folder / f"{part}.bin").is_file() for part in COLMAP_FILES):
        names |= _text_names(folder / "images.txt")
    images = sorted((image for image in model.images.values() if image.has_pose), key=lambda i: names[i.image_id])
    lenses = [_colmap_lens(names[image.image_id], image.camera) for image in images]
    numbers = {number: index for index, number in enumerate(sorted(model.points3D))}
    points = [model.points3D[number] for number in numbers]
    seen = [
        (view, numbers[spot.point3D_id], *(spot.xy - HALF))
        for view, image in enumerate(images)
        for spot in image.points2D
        if spot.has_point3D() and spot.point3D_id in numbers
    ]
    seen = np.array(seen, float).reshape(-1, 4)
    return CameraFile(
        tuple(names[image.image_id] for image in images),
        np.array([(image.camera.height, image.camera.width) for image in images], int).reshape(-1, 2),
        np.array([K for K, _ in lenses]).reshape(-1, 3, 3),
        np.array([image.cam_from_world().matrix() for image in images]).reshape(-1, 3, 4),
        np.array([distortion for _, distortion in lenses]).reshape(-1, 5),
        np.array([point.xyz for point in points], float).reshape(-1, 3),
        np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        seen[:, 0].astype(int),
        seen[:, 1].astype(int),
        seen[:, 2:],
    )


def _text_names(path: Path) -> dict[int, str]:
    """The names in an ``images.txt``, whole: COLMAP itself reads them up to the first white space."""
    names, lines = {}, iter(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            number, *_, name = line.strip().split(maxsplit=9)
            names[int(number)] = name
            next(lines, None)  # its points, perhaps none
    return names


def _colmap_lens(name: str, camera) -> tuple[np.ndarray, np.ndarray]:
    """K and distortion of a `pycolmap.Camera`."""
    kind = camera.model_name
    if kind not in COLMAP_MODELS:
        raise NbHelpersError(
            "this camera model cannot be carried over",
            given=f"{kind} of {name}",
            expected=", ".join(COLMAP_MODELS),
            do="undistort the photos with COLMAP (image_undistorter) and use its model and photos",
        )
    (fx, fy, cx, cy), curved = COLMAP_MODELS[kind]
    values = camera.params
    K = matrix(values[fx], values[fy], values[cx] - HALF, values[cy] - HALF)  # noqa: N806 - the field's own name
    return K, np.pad(values[list(curved)], (0, 5 - len(curved)))


def matrix(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    """Intrinsics without skew."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], float)


def _transforms(path: Path) -> CameraFile:
    """A ``transforms.json`` of instant-ngp or nerfstudio: camera to world with OpenGL axes, pixels as in COLMAP.

    Source: docs.nerf.studio, "Data conventions".
    """
    tree = json.loads(path.read_text(encoding="utf-8-sig"))  # some programs of Windows write a mark first
    frames = [_transforms_frame({**tree, **frame}) for frame in tree["frames"]]
    if not frames:
        raise NbHelpersError("the file of cameras names no photos", given=f"{path}: frames is empty")
    to_world = np.array([frame["transform_matrix"] for frame in frames], float).reshape(len(frames), -1, 4)
    turn = np.einsum("ij,njk->nik", OPENGL, to_world[:, :3, :3].transpose(0, 2, 1))
    shift = -np.einsum("nij,nj->ni", turn, to_world[:, :3, 3])
    lenses = [_transforms_lens(frame) for frame in frames]
    by_width = [not ("fl_x" in frame or frame.get("w")) for frame in frames]
    if any(by_width) and not all(by_width):
        raise ValueError("only some frames tell fl_x, or w with the field of view")
    middle = not all("cx" in frame for frame in frames)
    if middle and any("cx" in frame for frame in frames):
        raise ValueError("only some frames tell cx and cy")
    if odd := [frame for frame in frames if bool(frame.get("w")) != bool(frame.get("h"))]:
        raise ValueError(f"only one of w and h is given for {odd[0]['file_path']}")
    return CameraFile(
        tuple(frame["file_path"] for frame in frames),
        np.array([(frame.get("h", 0), frame.get("w", 0)) for frame in frames]).astype(int).reshape(-1, 2),
        np.array([K for K, _ in lenses]).reshape(-1, 3, 3),
        np.concatenate([turn, shift[:, :, None]], axis=2),
        np.array([distortion for _, distortion in lenses]).reshape(-1, 5),
        *nothing_seen(),
        centred=middle,
        relative=all(by_width),
    )


def _transforms_frame(frame: dict) -> dict:
    """The same frame, if its lens is one that can be carried over, with nerfstudio's ``distortion_params`` by name."""
    if "distortion_params" in frame:
        values = frame["distortion_params"]
        if len(values) != len(NERFSTUDIO_DISTORTION):
            raise ValueError(f"distortion_params has {len(values)} values and not {len(NERFSTUDIO_DISTORTION)}")
        frame = {**frame, **dict(zip(NERFSTUDIO_DISTORTION, values, strict=True))}
    kind = str(frame.get("camera_model", PERSPECTIVE[0]))
    bent = [key for key in frame if COEFFICIENT.fullmatch(key) and key not in DISTORTION and frame[key]]
    bent += [key for key in OTHER_LENSES if frame.get(key)]
    if kind.upper() not in PERSPECTIVE or bent:
        raise NbHelpersError(
            "this camera model cannot be carried over",
            given=f"{kind}{''.join(f', {key}' for key in bent)} of {frame['file_path']}",
            expected=f"a perspective camera ({', '.join(PERSPECTIVE)}) with {', '.join(DISTORTION)} at most",
            do="undistort the photos first; of a fisheye lens or a panorama make perspective pictures",
        )
    return frame


def _transforms_lens(frame: dict) -> tuple[np.ndarray, np.ndarray]:
    width, height = float(frame.get("w", 0)), float(frame.get("h", 0))
    fx = frame.get("fl_x")
    if fx is None and "camera_angle_x" in frame:
        fx = (width or 1.0) / 2 / math.tan(float(frame["camera_angle_x"]) / 2)
    if fx is None:
        raise ValueError(f"neither fl_x nor camera_angle_x is given for {frame['file_path']}")
    fy = frame.get("fl_y")
    if fy is None and "camera_angle_y" in frame and height:
        fy = height / 2 / math.tan(float(frame["camera_angle_y"]) / 2)
    cx, cy = (frame["cx"] - HALF, frame["cy"] - HALF) if "cx" in frame else (0.0, 0.0)
    distortion = [float(frame.get(name, 0)) for name in DISTORTION]
    return matrix(float(fx), float(fx if fy is None else fy), cx, cy), np.array(distortion)


def nothing_seen() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """No points, no colours, no observations."""
    none = np.zeros(0, int)
    return np.zeros((0, 3)), np.zeros((0, 3), np.uint8), none, none, np.zeros((0, 2))


def _bundler(path: Path) -> CameraFile:
    """A Bundler file v0.3: OpenGL axes, pixels from the middle of the picture with y up.

    Names come from ``list.txt`` beside it, where there is one. Source: the manual of Bundler, "Output format and scene
    representation".
    """
    words = iter(path.read_text(encoding="utf-8", errors="strict").split("\n", 1)[1].split())

    def take(count: int) -> np.ndarray:
        return np.array([float(next(words)) for _ in range(count)])

    cameras, count = (int(next(words)) for _ in range(2))
    table = take(15 * cameras).reshape(cameras, 15)
    points = list(_bundler_points(take, count))
    known = table[:, 0] > 0  # Bundler writes zeros for a photo that it could not place
    turn = np.einsum("ij,njk->nik", OPENGL, table[:, 3:12].reshape(-1, 3, 3))
    poses = np.concatenate([turn, (table[:, 12:] @ OPENGL)[:, :, None]], axis=2)
    poses[~known] = np.nan
    seen = [(view, number, x, -y) for number, (*_, views) in enumerate(points) for view, x, y in views]
    seen = np.array(seen, float).reshape(-1, 4)
    names = path.with_name("list.txt")
    return CameraFile(
        _bundler_names(names) if names.is_file() else None,
        np.zeros((cameras, 2), int),
        np.array([matrix(f, f, 0, 0) for f in table[:, 0]]).reshape(-1, 3, 3),
        poses,
        np.pad(table[:, 1:3], ((0, 0), (0, 3))),
        np.array([point for point, *_ in points], float).reshape(-1, 3),
        np.array([color for _, color, _ in points], np.uint8).reshape(-1, 3),
        seen[:, 0].astype(int),
        seen[:, 1].astype(int),
        seen[:, 2:],
        centred=True,
    )


def _bundler_names(path: Path) -> tuple[str, ...]:
    """The names in a ``list.txt``, with white space, without the ``0`` and the focal length that may follow."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(re.sub(r"\s+0\s+[\d.eE+-]+\s*$", "", line).strip() for line in lines if line.strip())


def _bundler_points(take: Callable[[int], np.ndarray], count: int) -> Iterator[tuple]:
    """Position, colour, and ``(view, x, y)`` of every observation of each point."""
    for _ in range(count):
        position, color = take(3), take(3)
        seen = take(4 * int(take(1)[0])).reshape(-1, 4)
        yield position, color, seen[:, [0, 2, 3]]


def _middlebury(path: Path) -> CameraFile:
    """``name`` and 21 numbers a line: K, R and t, row by row. Source: the README of the Middlebury multi-view data."""
    lines = [line.rsplit(maxsplit=21) for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    if not lines or any(len(line) != 22 for line in lines):
        raise ValueError("a line has not a name and 21 numbers")
    table = np.array([[float(word) for word in line[1:]] for line in lines])
    return CameraFile(
        tuple(line[0] for line in lines),
        np.zeros((len(lines), 2), int),
        table[:, :9].reshape(-1, 3, 3),
        np.concatenate([table[:, 9:18].reshape(-1, 3, 3), table[:, 18:, None]], axis=2),
        np.zeros((len(lines), 5)),
        *nothing_seen(),
    )


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
