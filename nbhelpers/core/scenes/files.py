"""Known cameras: a `Scene` from files that other programs wrote, matched to photos by name.

Example:
    >>> scene = read_scene("garden/sparse/0", "garden/images")            # COLMAP
    >>> scene = read_scene("garden/transforms.json", "garden/images_4")   # nerfstudio, photos made smaller by 4
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import orientation_of
from nbhelpers.core.orientation import UPRIGHT, same_shape, turn_camera, turn_points, turned_size
from nbhelpers.core.scenes.readers import HALF, CameraFile, read_file
from nbhelpers.core.scenes.scene import Scene
from nbhelpers.core.video.stills import PictureFolder

SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")  # of a picture file, not the number in frame.0001
MAX_NAMES = 5  # in a note; further ones are counted


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
