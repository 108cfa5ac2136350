"""Synthetic clips with ground truth: photo-covered boxes in a photo-covered room, seen by a camera on an arc.

Everything is a plane, so no renderer is needed: a pixel's ray meets each face's plane at one depth, the nearest wins,
and the face's photo is sampled there. Pictures are made at twice the size and averaged down; masks and depth are exact
at the pixels' centres.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import check_writable, replacing, write_text
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.scenes import Scene

SIZE = (384, 512)
FOCAL = 0.9  # of the picture's width
ROOM, WALL = 4.5, 3.2  # metres: half the side of the room, and its height
RADIUS, HEIGHT = (2.0, 2.8), (1.0, 1.6)  # metres, of the camera's arc
ARC = (130.0, 240.0)  # degrees
AWAY = (75.0, 110.0)  # degrees by which the camera looks away
BOX = ((0.3, 0.5), (0.35, 0.65))  # metres: width and depth, height
SPACING = 0.95  # metres between the middles of boxes
SPREAD = 1.15  # metres from the middle of the room within which boxes stand
MIN_VISIBLE = 0.012  # of the first frame, that the object covers
SHADE = (0.92, 0.78, 0.86, 0.70, 1.0)  # brightness of a box's four sides and of its top
NOISE = 1.5  # grey levels
CROP = (0.45, 0.9)  # of a photo's shorter side: what a face shows
TRAINING_PHOTOS = ("china.jpg", "flower.jpg", "coffee.png", "chelsea.png", "bikes.mp4:40", "bikes.mp4:160")
TEST_PHOTOS = ("quokka.jpg", "astronaut.png", "BalbianelloMedium-3.jpg", "box.mp4:60")
MILLIMETRES = 1000  # in a metre, of the depth files
Texture = UInt8[np.ndarray, "_ _ 3"]


class Face(NamedTuple):
    """A rectangle in space: a corner, its two edges, the photo on it, its brightness and the body it belongs to."""

    corner: np.ndarray
    right: np.ndarray
    down: np.ndarray
    texture: np.ndarray
    brightness: float
    body: int


@dataclass(frozen=True, eq=False)
class SyntheticClip:
    """A clip of a made scene with all that is true of it; a `nbhelpers.models.protocols.FrameSequence`.

    Attributes:
        name: of the clip.
        frames: ``(t, H, W, 3)`` RGB.
        masks: ``(t, H, W)``, the visible pixels of the object.
        twin: ``(t, H, W)``, those of its identical twin; empty where there is none.
        scene: cameras and depth of every frame, in metres.
        seed: of the scene.
        photos: names of the photos on its faces, where they are known.
    """

    name: str
    frames: UInt8[np.ndarray, "t h w 3"]
    masks: Bool[np.ndarray, "t h w"]
    twin: Bool[np.ndarray, "t h w"]
    scene: Scene
    seed: int
    photos: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of every frame."""
        return self.frames.shape[1:3]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return self.frames[index]


def load_textures(names: Sequence[str] = TRAINING_PHOTOS) -> dict[str, Texture]:
    """Sample photos by name, and frames of sample clips (``"bikes.mp4:40"``); fetched if they are missing."""
    from nbhelpers.weights import fetch

    textures = {}
    for name in names:
        file, _, frame = name.partition(":")
        path = next(iter(fetch(file).values()))
        if frame:
            from nbhelpers.core.video import Frames

            textures[name] = np.ascontiguousarray(Frames(path)[int(frame)])
        else:
            textures[name] = load_image(path)
    return textures


def render_clip(
    seed: int,
    textures: Sequence[Texture] | dict[str, Texture],
    *,
    frames: int = 20,
    size: tuple[int, int] = SIZE,
    twin: bool = True,
    away: bool | None = None,
    distractors: int = 3,
) -> SyntheticClip:
    """A clip around boxes of which two are identical; the object, the first of them, is in sight on frame 0.

    Example:
        >>> clip = render_clip(7, load_textures())
        >>> clip.frames.shape, clip.masks.shape, clip.scene.depth[0].shape
        ((20, 384, 512, 3), (20, 384, 512), (384, 512))

    Args:
        seed: the same seed and textures make the same clip.
        textures: photos, each at least 64 pixels on its shorter side.
        frames: length of the clip.
        size: ``(H, W)`` of the frames.
        twin: whether there is an identical twin of the object.
        away: whether the camera looks away in the middle of the clip and back; half of the seeds do when left out.
        distractors: other boxes.

    Raises:
        NbHelpersError: no textures, or too small ones.
    """
    names = tuple(textures) if isinstance(textures, dict) else ()
    pictures = list(textures.values()) if isinstance(textures, dict) else list(textures)
    if not pictures or min(min(picture.shape[:2]) for picture in pictures) < 64:
        raise NbHelpersError(
            "faces need photos", given=f"{len(pictures)} photos", expected="one or more of 64 pixels or larger"
        )
    for attempt in range(50):
        rng = np.random.default_rng((seed, attempt))
        faces = _room(rng, pictures) + _boxes(rng, pictures, twin, distractors)
        poses = _camera_path(rng, frames, bool(seed % 2) if away is None else away)
        K = _intrinsics(size)  # noqa: N806 - the field's own name
        first = render_ids(faces, K, poses[0], size)[0]
        if np.count_nonzero(first == 1) >= MIN_VISIBLE * first.size:
            break
    images, bodies, depths = [], [], []
    for pose in poses:
        images.append(render_picture(faces, K, pose, size, rng))
        ids, depth = render_ids(faces, K, pose, size)
        bodies.append(ids)
        depths.append(depth)
    numbers = np.stack(bodies)
    empty = np.empty(0, int)
    scene = Scene(
        tuple(f"{number:04d}" for number in range(frames)),
        np.tile(size, (frames, 1)),
        np.tile(K, (frames, 1, 1)),
        poses,
        np.empty((0, 3)),
        np.empty((0, 3), np.uint8),
        empty,
        empty,
        np.empty((0, 2)),
        depth=depths,
        model="synthetic",
    )
    return SyntheticClip(f"synthetic-{seed}", np.stack(images), numbers == 1, numbers == 2, scene, seed, names)


def _intrinsics(size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """Of a camera whose axis goes through the picture's middle."""
    height, width = size
    return np.array([[FOCAL * width, 0, (width - 1) / 2], [0, FOCAL * width, (height - 1) / 2], [0, 0, 1]])


def look_at(eye: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 4"]:
    """``world_to_camera`` of a level camera; the world's y is up."""
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(ahead, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(ahead, right), ahead])
    return np.concatenate([turn, -(turn @ eye)[:, None]], 1)


def _camera_path(rng: np.random.Generator, frames: int, away: bool) -> Float[np.ndarray, "t 3 4"]:
    """Poses on an arc around the middle of the room."""
    steps = np.linspace(0, 1, frames)
    start, span = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(*ARC)) * rng.choice([-1, 1])
    radius, height = rng.uniform(*RADIUS), rng.uniform(*HEIGHT)
    turn = np.zeros(frames)
    if away:
        middle, width = rng.uniform(0.35, 0.6), rng.uniform(0.12, 0.18)
        turn = np.deg2rad(rng.uniform(*AWAY)) * rng.choice([-1, 1]) * np.exp(-(((steps - middle) / width) ** 4))
    poses = []
    for step, aside in zip(steps, turn, strict=True):
        angle = start + span * step
        far = radius * (1 + 0.08 * np.sin(7 * step + start))
        eye = np.array([far * np.sin(angle), height + 0.15 * np.sin(5 * step), far * np.cos(angle)])
        ahead = np.array([0, 0.25, 0]) - eye
        cos, sin = np.cos(aside), np.sin(aside)
        turned = np.array([cos * ahead[0] + sin * ahead[2], ahead[1], -sin * ahead[0] + cos * ahead[2]])
        poses.append(look_at(eye, eye + turned))
    return np.stack(poses)


def _crop(rng: np.random.Generator, picture: Texture, aspect: float) -> Texture:
    """A random part of a photo, mirrored at random, of about this ratio of width to height."""
    height, width = picture.shape[:2]
    tall = min(height, width / aspect) * rng.uniform(*CROP)
    rows, columns = max(8, int(tall)), max(8, min(width, int(tall * aspect)))
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    part = picture[top : top + rows, left : left + columns]
    return np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part)


def _room(rng: np.random.Generator, pictures: Sequence[Texture]) -> list[Face]:
    """Floor and four walls."""
    chosen = [pictures[number] for number in rng.integers(0, len(pictures), 5)]
    side = 2 * ROOM
    corners = [(-ROOM, -ROOM), (ROOM, -ROOM), (ROOM, ROOM), (-ROOM, ROOM)]
    faces = [Face(np.array([-ROOM, 0, -ROOM]), np.array([side, 0, 0.0]), np.array([0, 0, side]), chosen[0], 0.8, 0)]
    for number, (x, z) in enumerate(corners):
        other = corners[(number + 1) % 4]
        along = np.array([other[0] - x, 0, other[1] - z])
        texture = _crop(rng, chosen[number + 1], side / WALL)
        faces.append(Face(np.array([x, WALL, z]), along, np.array([0, -WALL, 0.0]), texture, 0.9, 0))
    return faces


def _boxes(rng: np.random.Generator, pictures: Sequence[Texture], twin: bool, distractors: int) -> list[Face]:
    """Boxes on the floor: 1 is the object, 2 its twin, the others differ."""
    spots: list[np.ndarray] = []
    while len(spots) < 2 + distractors:
        spot = rng.uniform(-SPREAD, SPREAD, 2)
        if all(np.linalg.norm(spot - other) > SPACING * 0.98 ** len(spots) for other in spots):
            spots.append(spot)
        elif rng.random() < 0.01:
            spots.clear()
    faces: list[Face] = []
    kinds: dict[int, tuple[np.ndarray, list[np.ndarray]]] = {}
    for body, spot in enumerate(spots, start=1):
        if body == 2 and not twin:
            continue
        kind = 1 if body == 2 else body
        if kind not in kinds:
            size = np.array([rng.uniform(*BOX[0]), rng.uniform(*BOX[1]), rng.uniform(*BOX[0])])
            chosen = rng.integers(0, len(pictures), 5)
            kinds[kind] = size, [_crop(rng, pictures[number], 0.8) for number in chosen]
        faces += _box(spot, rng.uniform(0, 2 * np.pi), *kinds[kind], body)
    return faces


def _box(spot: np.ndarray, yaw: float, size: np.ndarray, textures: Sequence[Texture], body: int) -> list[Face]:
    """The four sides and the top of a box."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    base, half, tall = np.array([spot[0], 0, spot[1]]), size / 2, size[1]
    ring = [(-half[0], half[2]), (half[0], half[2]), (half[0], -half[2]), (-half[0], -half[2])]
    faces = []
    for number, (x, z) in enumerate(ring):
        other = ring[(number + 1) % 4]
        corner = base + turn @ np.array([x, tall, z])
        along = turn @ np.array([other[0] - x, 0, other[1] - z])
        faces.append(Face(corner, along, np.array([0, -tall, 0.0]), textures[number], SHADE[number], body))
    corner = base + turn @ np.array([-half[0], tall, -half[2]])
    top = turn @ np.array([size[0], 0, 0]), turn @ np.array([0, 0, size[2]])
    return [*faces, Face(corner, *top, textures[4], SHADE[4], body)]


class Hits(NamedTuple):
    """The nearest face of each pixel (-1: none) and its depth along the optical axis."""

    face: np.ndarray
    depth: np.ndarray


def _trace(faces: Sequence[Face], K: np.ndarray, pose: np.ndarray, size: tuple[int, int]) -> Hits:  # noqa: N803
    """Which face each pixel shows."""
    height, width = size
    nearest = np.full(size, np.inf, np.float32)
    number = np.full(size, -1, np.int16)
    for index, face in enumerate(faces):
        corner, right, down = _in_camera(face, pose)
        rows, columns = _bounds(corner, right, down, K, size)
        x = ((np.arange(width)[columns] - K[0, 2]) / K[0, 0]).astype(np.float32)
        y = ((np.arange(height)[rows] - K[1, 2]) / K[1, 1]).astype(np.float32)
        if not len(x) or not len(y):
            continue
        normal = np.cross(right, down)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = float(normal @ corner) / (
                np.float32(normal[0]) * x + np.float32(normal[1]) * y[:, None] + np.float32(normal[2])
            )
            closer = (depth > 1e-3) & (depth < nearest[rows, columns])
            for edge in (right, down):
                edge = edge / (edge @ edge)
                along = depth * (np.float32(edge[0]) * x + np.float32(edge[1]) * y[:, None] + np.float32(edge[2]))
                along -= np.float32(edge @ corner)
                closer &= (along >= 0) & (along <= 1)
        nearest[rows, columns][closer] = depth[closer]
        number[rows, columns][closer] = index
    return Hits(number, nearest)


def _in_camera(face: Face, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corner and edges of a face in the camera's frame."""
    turn = pose[:, :3]
    return turn @ face.corner + pose[:, 3], turn @ face.right, turn @ face.down


def _bounds(
    corner: np.ndarray,
    right: np.ndarray,
    down: np.ndarray,
    K: np.ndarray,  # noqa: N803 - the field's own name
    size: tuple[int, int],
) -> tuple[slice, slice]:
    """Rows and columns that can show a face: all of them where a part of it is behind the camera."""
    corners = np.stack([corner, corner + right, corner + down, corner + right + down])
    if (corners[:, 2] < 0.05).all():
        return slice(0, 0), slice(0, 0)
    if (corners[:, 2] < 0.05).any():
        return slice(0, size[0]), slice(0, size[1])
    pixels = corners[:, :2] / corners[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
    low = np.clip(np.floor(pixels.min(0)).astype(int), 0, size[::-1])
    high = np.clip(np.ceil(pixels.max(0)).astype(int) + 1, 0, size[::-1])
    return slice(low[1], high[1]), slice(low[0], high[0])


def render_ids(
    faces: Sequence[Face],
    K: Float[np.ndarray, "3 3"],  # noqa: N803 - the field's own name
    pose: Float[np.ndarray, "3 4"],
    size: tuple[int, int],
) -> tuple[Int[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """The body at each pixel's centre (0: room or nothing), and its depth along the optical axis (0: nothing)."""
    hits = _trace(faces, K, pose, size)
    bodies = np.array([0, *(face.body for face in faces)])[hits.face + 1]
    return bodies, np.where(hits.face >= 0, hits.depth, 0).astype(np.float32)


def render_picture(
    faces: Sequence[Face],
    K: Float[np.ndarray, "3 3"],  # noqa: N803 - the field's own name
    pose: Float[np.ndarray, "3 4"],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, made at twice the size and averaged down, with a little noise."""
    height, width = size
    double = K.copy()
    double[:2] *= 2
    double[:2, 2] += 0.5  # pixel centres: 0 becomes the middle of 0 and 1
    hits = _trace(faces, double, pose, (2 * height, 2 * width))
    picture = np.full((2 * height, 2 * width, 3), 30, np.float32)
    for index, face in enumerate(faces):
        if not (here := hits.face == index).any():
            continue
        rows, columns = (np.flatnonzero(here.any(axis)) for axis in (1, 0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        corner, right, down = _in_camera(face, pose)
        x = ((np.arange(columns[0], columns[-1] + 1) - double[0, 2]) / double[0, 0]).astype(np.float32)
        y = ((np.arange(rows[0], rows[-1] + 1) - double[1, 2]) / double[1, 1]).astype(np.float32)
        depth = np.where(here[window], hits.depth[window], 0)
        maps = []
        for edge, count in ((right, face.texture.shape[1]), (down, face.texture.shape[0])):
            edge = edge / (edge @ edge)
            along = depth * (np.float32(edge[0]) * x + np.float32(edge[1]) * y[:, None] + np.float32(edge[2]))
            maps.append(((along - edge @ corner) * count - 0.5).astype(np.float32))
        colours = cv2.remap(face.texture, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        picture[window][here[window]] = colours[here[window]] * np.float32(face.brightness)
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    small += rng.normal(0, NOISE, small.shape).astype(np.float32)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def write_clip(clip: SyntheticClip, folder: str | Path) -> Path:
    """Write a clip in the layout of a real one with ground truth; return the folder.

    ``frames/0000.png``, ``gt_masks/0000.png`` (0 and 255), ``depth/0000.png`` (16 bit, millimetres, 0 unknown),
    ``transforms.json`` (nerfstudio) and ``about.json``.

    Raises:
        NbHelpersError: the folder cannot be written.
    """
    folder = Path(folder).expanduser()
    check_writable(folder)
    entries, depths = [], clip.scene.depth
    assert depths is not None  # of a rendered clip
    for number in range(len(clip)):
        name = f"{number:04d}.png"
        save_image(folder / "frames" / name, clip.frames[number])
        save_image(folder / "gt_masks" / name, np.where(clip.masks[number], 255, 0).astype(np.uint8))
        depth = np.rint(depths[number] * MILLIMETRES).clip(0, 65534).astype(np.uint16)
        with replacing(folder / "depth" / name) as temporary:
            cv2.imwrite(str(temporary), depth)
        pose = np.eye(4)
        pose[:3] = clip.scene.world_to_camera[number]
        camera = np.linalg.inv(pose) @ np.diag([1.0, -1, -1, 1])  # nerfstudio's cameras look along -z, y up
        entries.append(
            {"file_path": f"frames/{name}", "depth_file_path": f"depth/{name}", "transform_matrix": camera.tolist()}
        )
    K, (height, width) = clip.scene.K[0], clip.size  # noqa: N806 - the field's own name
    lens = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2] + 0.5, "cy": K[1, 2] + 0.5, "w": width, "h": height}
    write_text(folder / "transforms.json", json.dumps({"camera_model": "PINHOLE", **lens, "frames": entries}, indent=1))
    first = np.argwhere(clip.masks[0]).mean(0)
    about = {"name": clip.name, "seed": clip.seed, "photos": clip.photos, "object_near": [first[1], first[0]]}
    write_text(folder / "about.json", json.dumps(about, indent=1))
    return folder
