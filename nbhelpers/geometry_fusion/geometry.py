"""Geometry of a clip: where it comes from, whether the clip is static at all, and false geometry as a control."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing
from nbhelpers.core.scenes import Scene
from nbhelpers.core.video import optical_flow
from nbhelpers.models.geometry import GRID, cell_centers_of
from nbhelpers.models.protocols import FrameSequence, GeometryEncoder
from nbhelpers.models.values import Geometry

CONTROLS = ("shuffled", "zeroed", "other")
FLOW_SIDE = 512  # pixels of the longer side at which motion is measured
ROUND_TRIP = 1.0  # pixels by which flow there and back may miss
MIN_TEXTURE = 4.0  # grey levels a pixel: smallest eigenvalue of the structure tensor, its root
MIN_SHIFT = 0.35  # cells by which something must be off its place to have moved
EXACT_FLOW = 1.0  # pixels by which flow may err along a chain
PATCH = 5  # pixels around a cell's middle that are compared
ALIKE, SURE = 0.6, 0.9  # correlation from which patches may show the same, and from which flow is believed
MAX_INEXACT = 0.5  # cells by which cameras and depth may be off themselves
MIN_CELLS, MIN_OBJECT_CELLS = 50, 10  # of a pair of frames, and of an object, that can be compared
TRAVEL, CHAIN = 8.0, 8  # cells that the picture has to move along a chain of flow; frames of a chain, at most
DENSE = 0.8  # confidence from which a cell's point is exact enough to predict where it will be seen
UNKNOWN_DEPTH = 65535  # of 7-Scenes
MILLIMETRES = 1000.0
KINECT_FOCAL, COLOR_FOCAL = 585.0, 525.0  # pixels, of the cameras for depth and colour of 7-Scenes
DEPTH_TO_COLOR = np.array(  # from one to the other, the calibration that DSAC* takes (Brachmann and Rother, PAMI 2021)
    [
        [0.99996518012567637, 0.0026765126468950343, -0.0079041012313000904, -0.025558943178152542],
        [-0.0027409311281316700, 0.99996302803027592, -0.0081504520778013286, 0.00010109636268061706],
        [0.0078819942130445332, 0.0081718328771890631, 0.99993554558014031, 0.0020318321729487039],
    ]
)
PAIRS = 16  # of frames that are compared, at most
VERSION = 2  # of the depth of cells: geometry that was kept by another is encoded again


@dataclass(frozen=True)
class Motion:
    """How much is not where a static scene would have it.

    Attributes:
        fraction: of the cells that could be compared, 0 to 1: the median over pairs of frames.
        compared: cells, over all pairs.
    """

    fraction: float
    compared: int


def measure_motion(frames: FrameSequence, geometry: Geometry) -> Motion:
    """How much of a clip moves: the larger of `flow_motion` and `point_motion`.

    Args:
        frames: the clip.
        geometry: of it.

    Returns:
        The fraction; 1 where nothing could be compared, since then nothing supports that the scene is static.
    """
    found = [each for each in (flow_motion(frames), point_motion(frames, geometry)) if each.compared]
    if not found:
        return Motion(1.0, 0)
    return Motion(max(each.fraction for each in found), sum(each.compared for each in found))


def flow_motion(frames: FrameSequence) -> Motion:
    """How much of a clip moves by its pictures alone: what optical flow brings off the epipolar lines of the rest.

    Flow is followed over several frames (see `follow_cells`), since between neighbours everything moves too little.
    A fundamental matrix is fitted to most of the cells, and the others have moved (Hartley and Zisserman 2004, section
    9.2). Nothing is known of the cameras, so it costs little and needs no geometry.

    Returns:
        The fraction; no cells where flow cannot be followed, as between photos from all sides.
    """
    moved, compared, start = [], 0, 0
    apart = -(-(len(frames) - 1) // PAIRS)
    while start < len(frames) - 1:
        chain = follow_cells(frames, start)
        if len(errors := chain.errors):
            moved.append(float((errors > MIN_SHIFT).mean()))
            compared += len(errors)
        start = max(chain.last, start + apart)
    return Motion(float(np.median(moved)) if moved else 0.0, compared)


def object_motion(
    frames: FrameSequence, frame: int, mask: Bool[np.ndarray, "h w"], geometry: Geometry | None = None
) -> Motion:
    """How much of one object moves, however small it is; as `flow_motion`, forwards and backwards from one frame.

    Args:
        frames: the clip.
        frame: of the mask.
        mask: the object.
        geometry: where it is known, its cameras give the epipolar lines. Lines that are fitted to a plane, or to what a
            turning camera sees, can be laid through anything that moves (Hartley and Zisserman 2004, section 11.9).

    Returns:
        The larger fraction of both directions; no cells where fewer than 10 of the object can be followed.
    """
    found = Motion(0.0, 0)
    covered = cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA) > 0.5
    for step, last in ((1, len(frames) - 1), (-1, 0)):
        if frame == last:
            continue
        chain = follow_cells(frames, frame, step)
        errors = chain.errors if geometry is None else chain.camera_errors(geometry)
        own = errors[covered[chain.cells[:, 1], chain.cells[:, 0]]] if len(errors) >= MIN_CELLS else errors[:0]
        if len(own) >= MIN_OBJECT_CELLS:
            fraction = float((own > MIN_SHIFT).mean())
            found = Motion(max(found.fraction, fraction), found.compared + len(own))
    return found


@dataclass(frozen=True, eq=False)
class CellChain:
    """Cells of a frame followed through the next ones.

    Attributes:
        first: the frame.
        last: where they end.
        cells: ``(n, 2)``, column and row of those that could be followed.
        ends: ``(n, 2)``, column and row in the last frame.
        size: height and width of a cell, in pixels.
    """

    first: int
    last: int
    cells: Int[np.ndarray, "n 2"]
    ends: Float[np.ndarray, "n 2"]
    size: tuple[float, float]

    @property
    def errors(self) -> Float[np.ndarray, " n"]:
        """How far each ends off its epipolar line, in cells; the lines are those that fit most of the cells."""
        if len(self.cells) < MIN_CELLS:
            return np.empty(0)
        start, end = (each * np.array(self.size[::-1]) for each in (self.cells, self.ends))
        try:
            matrix, _ = cv2.findFundamentalMat(start, end, cv2.USAC_MAGSAC, EXACT_FLOW, 0.999, 10000)
        except cv2.error:  # no matrix fits, which OpenCV 5 does not expect
            return np.empty(0)
        if matrix is None or matrix.shape != (3, 3):
            return np.empty(0)
        start, end = (np.pad(each, ((0, 0), (0, 1)), constant_values=1) for each in (start, end))
        lines = start @ matrix.T
        return np.abs((end * lines).sum(1)) / np.maximum(np.hypot(lines[:, 0], lines[:, 1]), 1e-12) / self.size[1]

    def camera_errors(self, geometry: Geometry) -> Float[np.ndarray, " n"]:
        """The same by known cameras: how far each ends off the plane through both cameras and its ray.

        Twice the median, but no more than one cell, is subtracted: by so much are real cameras off.
        """
        baseline = geometry.centers[self.last] - geometry.centers[self.first]
        if not np.isfinite(baseline).all() or not np.linalg.norm(baseline):
            return np.empty(0)
        finer = GRID / geometry.valid.shape[1]
        start, end = (
            _sample(geometry.rays[frame], ((places + 0.5) / finer - 0.5)[:, None])[:, 0]
            for frame, places in ((self.first, self.cells), (self.last, self.ends))
        )
        cell = np.linalg.norm(np.diff(geometry.rays[self.last], axis=1), axis=-1).mean() / finer  # radians, nearly
        normals = np.cross(start, baseline)
        length = np.maximum(np.linalg.norm(normals, axis=1) * np.linalg.norm(end, axis=1), 1e-9)
        off = np.abs((end * normals).sum(1)) / length / max(float(cell), 1e-9)
        return np.maximum(off - 2 * min(float(np.median(off)), MAX_INEXACT), 0)


def follow_cells(frames: FrameSequence, first: int, step: int = 1) -> CellChain:
    """Follow cells with texture by optical flow, until the picture has moved by an eighth, over at most 8 frames.

    A cell is lost where flow there and back disagree. The picture's motion is the median over the cells.

    Args:
        frames: the clip.
        first: frame to begin with.
        step: 1 or -1.
    """
    grey = _grey(frames[first])
    height, width = grey.shape
    start = cell_centers_of((height, width), GRID).astype(np.float32)
    texture = np.sqrt(np.maximum(cv2.cornerMinEigenVal(grey, 9, ksize=3), 0)) * 255
    known, end, steps = _sample(texture, start) > MIN_TEXTURE, start, 0
    while steps < CHAIN and 0 <= first + (steps + 1) * step < len(frames):
        after = _grey(frames[first + (steps + 1) * step])
        there, back = optical_flow(grey, after), optical_flow(after, grey)
        place = (end + _sample(there, end)).astype(np.float32)
        missed = np.linalg.norm(place + _sample(back, place) - end, axis=-1)
        inside = ((place >= 0) & (place <= (width - 1, height - 1))).all(-1)
        kept = known & inside & (missed < ROUND_TRIP)
        if np.count_nonzero(kept) < MIN_CELLS:
            break
        known, end, grey, steps = kept, place, after, steps + 1
        if np.median(np.linalg.norm((end - start)[known], axis=1)) > TRAVEL * width / GRID:
            break
    cells = np.argwhere(known & (steps > 0))[:, ::-1]
    ends = (end[cells[:, 1], cells[:, 0]] + 0.5) / (width, height) * GRID - 0.5
    return CellChain(first, first + steps * step, cells, ends, (height / GRID, width / GRID))


def _grey(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2"]:
    """In grey, the longer side 512 pixels: flow in smaller pictures is not exact enough."""
    scale = FLOW_SIDE / max(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def point_motion(frames: FrameSequence, geometry: Geometry) -> Motion:
    """How much of a clip is not where cameras and points predict it, between neighbouring frames.

    It also tells geometry that is not that of the clip. A cell is compared where its point is known well, where it has
    texture, where flow there and back agree and where it leads to what looks alike. It has moved when flow brings it
    more than 0.35 cells off where its point is seen from the other camera.

    Returns:
        The fraction; no cells where no point is known well.
    """
    usable = np.flatnonzero(np.isfinite(geometry.centers).all(1))
    pairs = [(a, b) for a, b in zip(usable[:-1].tolist(), usable[1:].tolist(), strict=True) if b - a == 1]
    if len(pairs) > PAIRS:
        pairs = [pairs[number] for number in np.linspace(0, len(pairs) - 1, PAIRS).astype(int)]
    moved, compared = [], 0
    for first, second in pairs:
        errors = point_errors(frames[first], frames[second], geometry, first, second)
        if len(errors) >= MIN_CELLS:
            moved.append(float((errors > MIN_SHIFT).mean()))
            compared += len(errors)
    return Motion(float(np.median(moved)) if moved else 0.0, compared)


def point_errors(
    image: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"], geometry: Geometry, first: int, second: int
) -> Float[np.ndarray, " n"]:
    """How far flow brings each comparable cell of one frame off its point as the other camera sees it, in cells.

    Twice the median, but no more than one cell, is subtracted: by so much are cameras and depth of real scenes off.
    """
    grey = [_grey(each) for each in (image, other)]
    there, back = optical_flow(grey[0], grey[1]), optical_flow(grey[1], grey[0])
    grid = geometry.valid.shape[1]
    height, width = grey[0].shape
    start = cell_centers_of((height, width), grid).astype(np.float32)
    end = start + _sample(there, start)
    missed = np.linalg.norm(end + _sample(back, end) - start, axis=-1)
    texture = np.sqrt(np.maximum(cv2.cornerMinEigenVal(grey[0], 9, ksize=3), 0)) * 255
    inside = ((end >= 0) & (end <= (width - 1, height - 1))).all(-1)
    known = inside & (missed < ROUND_TRIP) & (_sample(texture, start) > MIN_TEXTURE)
    known &= geometry.valid[first] & (geometry.confidence[first] >= DENSE)
    rays = geometry.rays[second]
    known[known] = _patch_likeness(grey, start[known], end[known]) >= SURE
    if not known.any() or not rays.any() or not geometry.rays[first].any():
        return np.empty(0)
    cells = (end + 0.5) / (width, height) * grid - 0.5
    seen = _sample(rays, cells.astype(np.float32))[known]
    seen /= np.maximum(np.linalg.norm(seen, axis=-1, keepdims=True), 1e-9)
    cell = np.linalg.norm(np.diff(rays, axis=1), axis=-1).mean()  # radians, nearly
    expected = geometry.points[first][known] - geometry.centers[second]
    expected /= np.maximum(np.linalg.norm(expected, axis=-1, keepdims=True), 1e-9)
    off = np.linalg.norm(seen - expected, axis=-1) / cell
    # flow errs where the view changes much: what looks alike at the place that a static scene predicts has not moved
    predicted = (_cell_of_ray(rays, expected) + 0.5) / grid * (width, height) - 0.5
    stays = _patch_likeness(grey, start[known], predicted) >= ALIKE
    inexact = 2 * min(float(np.median(off)), MAX_INEXACT)  # of real cameras and depth, which all cells share
    return np.where(stays, 0.0, np.maximum(off - inexact, 0))


def _cell_of_ray(rays: Float[np.ndarray, "g g 3"], wanted: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    """Column and row of the cell that looks along each direction: the nearest cell's, and one linear step from it."""
    grid = rays.shape[0]
    nearest = (wanted.astype(np.float32) @ rays.reshape(-1, 3).T).argmax(1)
    row, column = np.clip(nearest // grid, 1, grid - 2), np.clip(nearest % grid, 1, grid - 2)
    across = (rays[row, column + 1] - rays[row, column - 1]) / 2
    down = (rays[row + 1, column] - rays[row - 1, column]) / 2
    rest = wanted - rays[row, column]
    steps = [(rest * each).sum(1) / np.maximum((each**2).sum(1), 1e-12) for each in (across, down)]
    return np.stack([column + steps[0], row + steps[1]], 1)


def _patch_likeness(
    grey: Sequence[UInt8[np.ndarray, "h w"]], first: Float[np.ndarray, "n 2"], second: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """Normalised cross-correlation of the patches around places of two pictures, -1 to 1; -1 outside of the second."""
    if not len(first):
        return np.empty(0)
    offsets = np.moveaxis(np.mgrid[-PATCH : PATCH + 1, -PATCH : PATCH + 1][::-1], 0, -1).reshape(-1, 2)
    patches = [_sample(each, places[:, None] + offsets) for each, places in zip(grey, (first, second), strict=True)]
    centred = [patch - patch.mean(1, keepdims=True) for patch in patches]
    length = [np.maximum(np.linalg.norm(patch, axis=1), 1e-6) for patch in centred]
    height, width = grey[1].shape
    inside = ((second >= 0) & (second <= (width - 1, height - 1))).all(1)
    return np.where(inside, (centred[0] * centred[1]).sum(1) / (length[0] * length[1]), -1)


def _sample(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values at ``(..., 2)`` places ``(x, y)``, bilinear."""
    maps = places[..., 0].astype(np.float32), places[..., 1].astype(np.float32)
    return cv2.remap(np.asarray(values, np.float32), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def falsify(geometry: Geometry, control: str, other: Geometry | None = None, seed: int = 0) -> Geometry:
    """False geometry, with which a fusion that uses geometry must not do better than the baseline.

    Args:
        geometry: of the clip.
        control: ``"shuffled"``: each frame has that of another frame; ``"zeroed"``: no frame has any; ``"other"``: that
            of another clip.
        other: of another clip, for ``"other"``; frames are repeated where it is shorter.
        seed: of the shuffling.

    Raises:
        NbHelpersError: no such control, or no other clip.
    """
    if control not in CONTROLS or (control == "other" and other is None):
        raise NbHelpersError(
            "there is no such negative control",
            given=control,
            expected=", ".join(CONTROLS),
            do="give the geometry of another clip" if control == "other" else None,
        )
    count = len(geometry)
    if control == "zeroed":
        zero = np.zeros_like(geometry.confidence)
        return replace(
            geometry,
            points=np.zeros_like(geometry.points),
            rays=np.zeros_like(geometry.rays),
            valid=zero > 0,
            confidence=zero,
            layers=tuple(np.zeros_like(layer) for layer in geometry.layers),
            source=f"{geometry.source}, zeroed",
        )
    if control == "other" and other is not None:
        order = np.arange(count) % len(other)
        geometry = other
    else:
        rng = np.random.default_rng(seed)
        order = rng.permutation(count)
        while count > 1 and (order == np.arange(count)).any():
            order = rng.permutation(count)
    return replace(
        geometry,
        points=geometry.points[order],
        rays=geometry.rays[order],
        centers=geometry.centers[order],
        valid=geometry.valid[order],
        confidence=geometry.confidence[order],
        layers=tuple(layer[order] for layer in geometry.layers),
        source=f"{geometry.source}, {control}",
    )


def kept_geometry(
    encoder: GeometryEncoder, frames: FrameSequence, folder: str | Path, scene: Scene | None = None
) -> Geometry:
    """Geometry of a clip from a folder, encoded and written there when it is first asked for.

    The file's name holds the encoder's and a hash of all frames and of `VERSION`; a clip that cannot be encoded is
    remembered as well.

    Raises:
        NbHelpersError: geometry cannot be had.
    """
    digest = hashlib.sha256(f"{encoder.name} {VERSION}".encode())
    for number in range(len(frames)):
        digest.update(np.ascontiguousarray(frames[number]))
    if scene is not None:
        for each in (scene.K, scene.world_to_camera, scene.points):
            digest.update(np.ascontiguousarray(each))
    path = Path(folder).expanduser() / f"{encoder.name}-{digest.hexdigest()[:24]}.npz"
    if path.is_file():
        return load_geometry(path)
    try:
        geometry = encoder.encode(frames, scene)
    except NbHelpersError as error:
        with replacing(path) as temporary:
            np.savez_compressed(temporary, error=json.dumps([error.what, str(error.given), str(error.expected)]))
        raise
    save_geometry(path, geometry)
    return geometry


def save_geometry(path: str | Path, geometry: Geometry) -> Path:
    """Write a geometry as ``.npz``; return the path."""
    layers = {f"layer{number}": layer.astype(np.float16) for number, layer in enumerate(geometry.layers)}
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            points=geometry.points,
            rays=geometry.rays,
            centers=geometry.centers,
            valid=geometry.valid,
            confidence=geometry.confidence,
            shift=geometry.shift,
            about=json.dumps({"scale": geometry.scale, "source": geometry.source, "notes": geometry.notes}),
            **layers,  # pyright: ignore[reportArgumentType] - none is named allow_pickle
        )
    return Path(path)


def load_geometry(path: str | Path) -> Geometry:
    """Read what `save_geometry` wrote.

    Raises:
        NbHelpersError: no such file or another one; or the geometry could not be had when it was asked for.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            if "error" in kept:
                what, given, expected = json.loads(str(kept["error"]))
                raise NbHelpersError(what, given=given, expected=expected, do=f"remove {path} to try again")
            about = json.loads(str(kept["about"]))
            names = sorted((name for name in kept.files if name.startswith("layer")), key=lambda name: int(name[5:]))
            return Geometry(
                *(kept[name] for name in ("points", "rays", "centers", "valid", "confidence")),
                scale=about["scale"],
                shift=kept["shift"],
                source=about["source"],
                layers=tuple(kept[name].astype(np.float32) for name in names),
                notes=tuple(about["notes"]),
            )
    except (OSError, ValueError, KeyError) as error:
        raise NbHelpersError("the geometry cannot be read", given=f"{path}: {error}") from error


def read_rgbd(folder: str | Path, names: list[str] | None = None) -> tuple[list[Path], Scene]:
    """Pictures, cameras and depth of a folder, as a list of files and a scene of as many views.

    Two layouts are known. With ``transforms.json`` (nerfstudio) each frame may name its ``depth_file_path``, 16 bit in
    millimetres, as `nbhelpers.geometry_fusion.synthetic.write_clip` writes it. That of 7-Scenes has
    ``frame-000000.color.jpg`` (or ``.png``), ``.depth.png`` in millimetres (0 and 65535 unknown) and ``.pose.txt``,
    camera to world, beside ``camera-intrinsics.txt``. The cameras of 7-Scenes itself, told by their focal length of 585
    pixels, are those of the depth, which is some 30 pixels off the colours: it is registered to the colour camera.

    Args:
        folder: the folder.
        names: of the pictures that are wanted, e.g. ``["frame-000010.color.jpg"]``; all when left out.

    Raises:
        NbHelpersError: neither layout is there, or a file is damaged.
    """
    folder = Path(folder).expanduser()
    try:
        if (folder / "transforms.json").is_file():
            return _read_transforms(folder, names)
        if pictures := sorted(folder.glob("*.color.*")):
            return _read_seven_scenes(folder, [p for p in pictures if names is None or p.name in names])
    except (OSError, ValueError, KeyError) as error:
        raise NbHelpersError("cameras or depth cannot be read", given=f"{folder}: {error}") from error
    raise NbHelpersError(
        "the folder tells no cameras and depth",
        given=folder,
        expected="transforms.json, or frame-*.color.jpg with .depth.png, .pose.txt and camera-intrinsics.txt",
    )


def _read_transforms(folder: Path, names: list[str] | None) -> tuple[list[Path], Scene]:
    from nbhelpers.core.scenes import read_scene

    about = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
    entries = {Path(entry["file_path"]).name: entry for entry in about["frames"]}
    pictures = [folder / entries[name]["file_path"] for name in sorted(entries) if names is None or name in names]
    scene = read_scene(folder / "transforms.json", pictures)
    depths = [entries[picture.name].get("depth_file_path") for picture in pictures]
    if all(depths):
        scene = replace(scene, depth=[_read_depth(folder / depth) for depth in depths])
    return pictures, scene


def _read_seven_scenes(folder: Path, pictures: list[Path]) -> tuple[list[Path], Scene]:
    K = np.loadtxt(folder / "camera-intrinsics.txt")  # noqa: N806 - the field's own name
    stems = [picture.name.partition(".")[0] for picture in pictures]
    poses = np.stack([np.linalg.inv(np.loadtxt(folder / f"{stem}.pose.txt"))[:3] for stem in stems])
    left, _, right = np.linalg.svd(poses[:, :, :3])  # they are written with few digits
    poses[:, :, :3] = left @ right
    depth = [_read_depth(folder / f"{stem}.depth.png") for stem in stems]
    if np.allclose(np.diag(K)[:2], KINECT_FOCAL):
        color = np.diag([COLOR_FOCAL, COLOR_FOCAL, 1.0])
        color[:2, 2] = K[:2, 2]
        depth = [registered_depth(each, K, color, DEPTH_TO_COLOR) for each in depth]
        poses, K = DEPTH_TO_COLOR[:, :3] @ poses, color  # noqa: N806 - the field's own name
        poses[:, :, 3] += DEPTH_TO_COLOR[:, 3]
    empty = np.empty(0, int)
    scene = Scene(
        tuple(stems), np.array([each.shape for each in depth], int), np.tile(K, (len(stems), 1, 1)), poses,
        np.empty((0, 3)), np.empty((0, 3), np.uint8), empty, empty, np.empty((0, 2)), depth=depth, model=folder.name,
    )  # fmt: skip
    return pictures, scene


def registered_depth(
    depth: Float[np.ndarray, "h w"],
    K: Float[np.ndarray, "3 3"],  # noqa: N803 - the field's own name
    color_K: Float[np.ndarray, "3 3"],  # noqa: N803
    to_color: Float[np.ndarray, "3 4"],
) -> Float32[np.ndarray, "h w"]:
    """Depth as another camera of the same resolution sees it, the nearest where several fall on a pixel; 0 unknown.

    Args:
        depth: along the optical axis, 0 where unknown.
        K: intrinsics of the camera that measured it.
        color_K: of the other.
        to_color: from one camera to the other, in the units of the depth.
    """
    rows, columns = np.nonzero(depth)
    rays = np.linalg.inv(K) @ np.stack([columns, rows, np.ones(len(rows))])
    x, y, z = color_K @ (to_color[:, :3] @ (rays * depth[rows, columns]) + to_color[:, 3:])
    ahead = np.where(z > 0, z, np.inf)
    x, y = np.rint(x / ahead).astype(int), np.rint(y / ahead).astype(int)
    seen = np.flatnonzero((z > 0) & (x >= 0) & (y >= 0) & (x < depth.shape[1]) & (y < depth.shape[0]))
    seen = seen[np.argsort(-z[seen], kind="stable")]  # of equal indices the last is kept
    out = np.zeros(depth.shape, np.float32)
    out[y[seen], x[seen]] = z[seen]
    return out


def views_of(scene: Scene, views: Sequence[int]) -> Scene:
    """A scene of some of the views, with depth and cameras but without points."""
    empty = np.empty(0, int)
    return Scene(
        tuple(scene.names[view] for view in views),
        scene.sizes[list(views)],
        scene.K[list(views)],
        scene.world_to_camera[list(views)],
        np.empty((0, 3)),
        np.empty((0, 3), np.uint8),
        empty,
        empty,
        np.empty((0, 2)),
        distortion=None if scene.distortion is None else scene.distortion[list(views)],
        depth=None if scene.depth is None else [scene.depth[view] for view in views],
        confidence=None if scene.confidence is None else [scene.confidence[view] for view in views],
        model=scene.model,
        notes=scene.notes,
    )


def _read_depth(path: Path) -> Float32[np.ndarray, "h w"]:
    """A depth file in metres; 0 where unknown."""
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.ndim != 2 or depth.dtype != np.uint16:
        raise ValueError(f"{path.name} is no picture of one channel and 16 bit")
    return np.where(depth == UNKNOWN_DEPTH, 0, depth).astype(np.float32) / np.float32(MILLIMETRES)


def cloud_of_cells(
    geometry: Geometry,
    frames: FrameSequence,
    scene: Scene,
    masks: Sequence[Bool[np.ndarray, "t h w"]] = (),
    every: int = 1,
) -> tuple[Scene, Int[np.ndarray, " p"]]:
    """A scene whose points are the cells of every Nth frame, and which object each belongs to, for `plots3d`.

    Args:
        geometry: of the clip.
        frames: the clip, for the colours.
        scene: its cameras.
        masks: of the objects on all frames.
        every: N.

    Returns:
        The scene, and for each point the number of its object, -1 for none.
    """
    grid = geometry.valid.shape[1]
    chosen = list(range(0, len(geometry), every))
    points, colors, labels = [], [], []
    for frame in chosen:
        valid = geometry.valid[frame]
        label = np.full((grid, grid), -1)
        for number, mask in enumerate(masks):
            covered = cv2.resize(mask[frame].astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
            label[covered > 0.5] = number
        points.append(geometry.points[frame][valid] * geometry.scale + geometry.shift)
        colors.append(cv2.resize(frames[frame], (grid, grid), interpolation=cv2.INTER_AREA)[valid])
        labels.append(label[valid])
    cloud = replace(
        views_of(scene, chosen), points=np.concatenate(points).astype(np.float64), colors=np.concatenate(colors)
    )
    return cloud, np.concatenate(labels)
