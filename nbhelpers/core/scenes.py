"""A scene as a value: cameras, points, which camera saw which point where; and known cameras matched to photos by name.

Example:
    >>> scene = read_scene("garden/sparse/0", "garden/images")            # COLMAP
    >>> scene = read_scene("garden/transforms.json", "garden/images_4")   # nerfstudio, photos made smaller by 4
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import UPRIGHT, orientation_of, same_shape, turn_camera, turn_points, turned_size
from nbhelpers.core.scene_files import HALF, CameraFile, read_file
from nbhelpers.core.video_stills import PictureFolder

COHERENT = 0.7  # mean length of the cameras' up vectors, below which they name no common up
SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")  # of a picture file, not the number in frame.0001
MIN_FACING_COSINE = 0.35  # of two viewing directions of a point, below which another side of it is seen
MAX_NAMES = 5  # in a note; further ones are counted


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
            `nbhelpers.core.images`); all else here is of upright pixels. By default all 1.
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

    @cached_property
    def directions(self) -> Float[np.ndarray, "p 3"]:
        """The mean direction from each point to the placed views that observed it, of length 1; 0 without any."""
        total = np.zeros((len(self.points), 3))
        placed = self.placed[self.observation_view]
        views, points = self.observation_view[placed], self.observation_point[placed]
        np.add.at(total, points, unit_vectors(self.centers[views] - self.points[points]))
        return unit_vectors(total)

    def facing(self, view: int) -> Float[np.ndarray, " p"]:
        """Cosine between each point's direction to a placed view and its `directions`: 1 if seen from the same side."""
        return (unit_vectors(self.centers[view] - self.points) * self.directions).sum(1)

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


def unit_vectors(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Vectors of length 1; those of length 0 are left."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


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


def read_scene(path: str | Path, photos: str | Path | Sequence[str | Path]) -> Scene:
    """The cameras of a file, for photos in the order given.

    Example:
        >>> scene = read_scene("balbianello/Balbianello.out", "balbianello")
        >>> len(scene), scene.points.shape
        (5, (544, 3))

    A photo is known by its name: the whole path in the file, else as much of its end as fits, else without the
    suffix, else in another case. Photos that were made smaller or larger than the file says are understood;
    cropped ones are not.

    The programs that write such files read photos as they are stored. Cameras of a photo with an EXIF orientation are
    therefore turned upright with it, unless only the upright photo has their shape; the notes tell which.

    Args:
        path: a COLMAP model (folder, text or binary), a ``transforms.json``, a Bundler file v0.3, a Middlebury
            ``*_par.txt``, or a folder with one of them. A Bundler file knows no names: they are read from ``list.txt``
            beside it, else the photos are taken in natural order when there are as many.
        photos: a folder of pictures or a list of picture files.

    Returns:
        A scene of all photos; one that the file does not know is not registered and is listed in the notes.

    Raises:
        NbHelpersError: no cameras there, a damaged file, no photo that the file knows, photos of another shape, or
            stored mirrored.
    """
    known = read_file(path)
    pictures = PictureFolder(photos)
    bad = [f"{pictures.names[number]}: {why}" for number, why in pictures.damaged.items()]
    if bad:
        raise NbHelpersError("a photo cannot be read", given=bad[0], do="copy it again, or leave it out")
    sizes = np.array([pictures.sizes[number] for number in range(len(pictures))], int).reshape(-1, 2)
    turned = [orientation_of(photo) for photo in pictures.paths]
    paths = [each.resolve().as_posix() for each in pictures.paths]
    return match(known, pictures.names, sizes, paths, str(path), turned)


def match(
    known: CameraFile,
    names: Sequence[str],
    sizes: np.ndarray,
    paths: Sequence[str],
    source: str,
    orientations: Sequence[int] | None = None,
) -> Scene:
    """A scene of the photos ``names`` from the contents of a file; see `read_scene`.

    Args:
        known: the file.
        names: of the photos.
        sizes: ``(v, 2)`` their heights and widths, upright.
        paths: their whole paths, with ``/``.
        source: what the scene should say that it was made from.
        orientations: EXIF orientation of each; by default all upright.

    Raises:
        NbHelpersError: no photo that the file knows, a name that fits several, a photo of another shape.
    """
    if known.names is None and len(known.K) != len(names):
        raise NbHelpersError(
            "the file does not name its photos, and there is another number of them",
            given=f"{len(names)} photos",
            expected=f"{len(known.K)}",
            do="put Bundler's list.txt beside the file, or give just the photos that it was made from",
        )
    numbers: list[int | None] = [*range(len(names))] if known.names is None else by_name(known.names, paths)
    if all(number is None for number in numbers):
        raise NbHelpersError(
            "the file knows none of the photos",
            given=f"photos {few(names)}",
            expected=f"such as {few(known.names or ())}",
        )
    views, own = len(names), np.full(len(known.K), -1)
    K = np.full((views, 3, 3), np.nan)  # noqa: N806 - the field's own name
    pose, distortion = np.full((views, 3, 4), np.nan), np.zeros((views, 5))
    pixels = known.pixels.copy()
    orientations = [UPRIGHT] * views if orientations is None else orientations
    turned: dict[bool, list[str]] = {True: [], False: []}
    for view, number in enumerate(numbers):
        if number is None:
            continue
        own[number] = view
        upright = int(sizes[view][0]), int(sizes[view][1])
        orientation, size = orientations[view], turned_size(upright, orientations[view])
        if orientation != UPRIGHT:
            as_stored = not known.sizes[number].any() or same_shape(known.sizes[number], size)
            as_stored = as_stored or not same_shape(known.sizes[number], upright)
            turned[as_stored].append(names[view])
            if not as_stored:
                orientation, size = UPRIGHT, upright
        scale, shift = _fitting(known, number, names[view], size)
        adapt = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])
        K[view], pose[view], distortion[view] = adapt @ known.K[number], known.poses[number], known.distortion[number]
        here = known.views == number
        pixels[here] = pixels[here] * scale + shift
        if orientation != UPRIGHT:
            if np.isfinite(pose[view]).all():
                K[view], pose[view], distortion[view] = turn_camera(
                    K[view], pose[view], distortion[view], orientation, size, names[view]
                )
            pixels[here] = turn_points(pixels[here], orientation, size)
    seen = own[known.views] >= 0
    left, tracks = np.unique(known.tracks[seen], return_inverse=True)
    if not len(known.views):
        left = np.arange(len(known.points))  # a file may tell points without saying who saw them
    return Scene(
        tuple(names),
        sizes,
        K,
        pose,
        known.points[left],
        known.colors[left],
        own[known.views[seen]],
        tracks.reshape(-1),
        pixels[seen],
        distortion=_shortest(distortion),
        model=Path(source).name,
        notes=(*_notes(known, numbers, names, pose, K), *_turned(turned)),
        orientation=np.array(orientations, int),
    )


def _shortest(distortion: np.ndarray) -> np.ndarray | None:
    if not distortion.any():
        return None
    return distortion[:, :2] if not distortion[:, 2:].any() else distortion


def _turned(photos: dict[bool, list[str]]) -> list[str]:
    """Lines on the photos that are stored turned."""
    lines = {
        True: "stored turned by EXIF; their cameras are taken for the pixels as stored, and turned upright",
        False: "stored turned by EXIF; their cameras have the shape of the upright photo, and are taken as they are",
    }
    return [f"{line}: {few(photos[as_stored])}" for as_stored, line in lines.items() if photos[as_stored]]


def by_name(known: Sequence[str], paths: Sequence[str]) -> list[int | None]:
    """The entry of each photo, by the longest part of its path that the file contains, else by its stem.

    Args:
        known: the paths in a file, of any operating system.
        paths: of the photos, as whole as they are known, with ``/``.

    Returns:
        An index into ``known`` for each photo; None where none fits.

    Raises:
        NbHelpersError: a photo that fits several entries, or several that fit one.
    """
    entries = [_parts(name) for name in known]
    out = []
    ways = [_index(entries, way) for way in WAYS]
    for path in paths:
        found: list[int] = []
        for way, index in zip(WAYS, ways, strict=True):
            tail = way(path.split("/"))
            close = {number: _common(way(entries[number]), tail) for number in index[tail[-1]]}
            # a name that fits to its beginning comes first, then the one of which more fits
            best = {number: (common == len(entries[number]), common) for number, common in close.items()}
            if best:
                found = [number for number, each in best.items() if each == max(best.values())]
                break
        if len({tuple(entries[number]) for number in found}) > 1:
            raise NbHelpersError(
                "the name of a photo fits several cameras",
                given=path.rpartition("/")[2],
                expected=", ".join("/".join(entries[number]) for number in found[:3]),
                do="give the folder above, so that the paths differ",
            )
        out.append(found[0] if found else None)
    taken = Counter(number for number in out if number is not None)
    for number, times in taken.items():
        if times > 1:
            raise NbHelpersError("several photos fit one camera of the file", given="/".join(entries[number]))
    return out


def _parts(name: str) -> list[str]:
    """The folders and the file name of a path of any system, without what only leads up or to the root."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return parts or [name]


def _stemmed(parts: Sequence[str]) -> list[str]:
    return [*parts[:-1], SUFFIX.sub("", parts[-1]) or parts[-1]]


WAYS = (list, _stemmed, lambda parts: [part.casefold() for part in _stemmed(parts)])  # from strict to lax


def _index(entries: Sequence[list[str]], way: Callable[[list[str]], list[str]]) -> dict[str, list[int]]:
    index = defaultdict(list)
    for number, parts in enumerate(entries):
        index[way(parts)[-1]].append(number)
    return index


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many parts at their ends are the same."""
    same = 0
    while same < min(len(first), len(second)) and first[-1 - same] == second[-1 - same]:
        same += 1
    return same


def _fitting(known: CameraFile, number: int, name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset that carry pixels ``(x, y)`` of the file to pixels of the photo."""
    height, width = size
    if not known.sizes[number].any():
        middle = np.array([width - 1, height - 1]) / 2
        return np.full(2, width if known.relative else 1.0), middle if known.centred else np.zeros(2)
    known_height, known_width = (int(each) for each in known.sizes[number])
    scale = np.array([width / known_width, height / known_height])
    if not same_shape(known.sizes[number], size):
        turned = same_shape(known.sizes[number], size[::-1])
        raise NbHelpersError(
            "a photo has another shape than its camera",
            given=f"{name}: {width} x {height}",
            expected=f"{known_width} x {known_height}, or that made smaller or larger",
            do="it was turned, or lost its EXIF entry, after its camera was found: use the photo as it was then"
            if turned
            else None,
        )
    # a picture is scaled about its corner, and the corner lies half a pixel before the first centre
    offset = (np.array([known_width, known_height]) - 1) / 2 if known.centred else np.zeros(2)
    return scale, scale * (offset + HALF) - HALF


def _notes(
    known: CameraFile,
    numbers: list[int | None],
    names: Sequence[str],
    pose: np.ndarray,
    K: np.ndarray,  # noqa: N803 - the field's own name
) -> tuple[str, ...]:
    notes = []
    absent = [name for name, number in zip(names, numbers, strict=True) if number is None]
    if absent:
        notes.append(f"not in the file of cameras, so not placed: {few(absent)}")
    unknown = [
        name
        for name, number, each, lens in zip(names, numbers, pose, K, strict=True)
        if number is not None and not (np.isfinite(each).all() and np.isfinite(lens).all())
    ]
    if unknown:
        notes.append(f"in the file without a camera, so not placed: {few(unknown)}")
    spare = set(range(len(known.K))) - {number for number in numbers if number is not None}
    if spare:
        notes.append(f"the file knows {len(spare)} more photos than were given")
    if known.names is None:
        notes.append("the file does not name its photos: they were taken in the order given")
    if not len(known.points):
        notes.append("the file has cameras but no points")
    return tuple(notes)


def few(names: Sequence[str]) -> str:
    """Some names and how many more there are, for a sentence."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
