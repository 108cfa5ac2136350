"""The photos of a scene: selected from a folder, a list or a video, with embeddings cached on disk.

Memory does not grow with the number of photos.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import file_stem, sha256
from nbhelpers.core.images import UPRIGHT, fit, load_image, orientation_of, photos, rgb_to_lab, save_image
from nbhelpers.core.video import Frames
from nbhelpers.core.video_stills import PictureFolder, is_picture
from nbhelpers.models.label_propagation.votes import with_features
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding

CACHE_SIZE = 6  # embeddings in memory, 17 MB each
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
MAX_VIDEO_VIEWS = 24  # taken from a video by `photo_files`
FRAMES_PER_SEGMENT = 5  # frames of a segment of a video of which the sharpest is taken
MAX_SELECTED = 40  # views taken by `select_views`: more take longer and rarely add information
MIN_MOTION = 0.08  # of the longer side, from view to view: about nine tenths overlap
MOTION_SIDE = 320  # pixels of the longer side at which motion is measured
SAMPLES_PER_SECOND = 10  # frames of a video that are compared
MAX_CORNERS = 200  # tracked from image to image
MIN_TRACKED = 0.3  # fraction of the corners; fewer mean a cut or a jump
MIN_SHARPNESS_RATIO = 0.25  # of the median sharpness, below which a photo is reported as blurred

Progress = Callable[[int, int, str], None]
"""Called with finished steps, total steps and a description."""


class Photos:
    """Photos of any sizes by number, and the segmenter's embedding of each, computed once.

    Sessions on the same photos can share one, so that no photo is encoded twice.

    Example:
        >>> photos = Photos(["a.jpg", "b.jpg"])
        >>> photos.image(1).shape, photos.names
        ((480, 640, 3), ('a.jpg', 'b.jpg'))

    Args:
        images: files, RGB arrays ``(H, W, 3) uint8`` or anything else that `load_image` reads; a folder, or a glob.
        segmenter: a SAM 2; by default from `nbhelpers.load`.
        names: one for each photo; by default the file names, or ``"view 0"`` and so on.

    Raises:
        NbHelpersError: no photos, or names of another number.
    """

    def __init__(
        self,
        images: Any,
        segmenter: Segmenter | None = None,
        names: Sequence[str] | None = None,
    ):
        images = photos(images) if isinstance(images, (str, Path)) else images
        if not len(images):
            raise NbHelpersError("there are no photos", expected="at least one")
        self._sources = list(images)
        default = [Path(s).name if isinstance(s, (str, Path)) else f"view {i}" for i, s in enumerate(self._sources)]
        self.names = tuple(default if names is None else names)
        if len(self.names) != len(self._sources):
            raise NbHelpersError(
                "names and photos differ in number", given=f"{len(self.names)} names, {len(self)} photos"
            )
        if segmenter is None:
            from nbhelpers.models.load import load

            segmenter = load("segmenter")
        self.segmenter: Segmenter = segmenter
        self._sizes: dict[int, tuple[int, int]] = {}
        self._lab: dict[tuple[int, int], np.ndarray] = {}
        self._recent: OrderedDict[int, Embedding] = OrderedDict()
        self.view_graph: Any = None
        self._folder: Path | None = None

    def __len__(self) -> int:
        return len(self._sources)

    @cached_property
    def orientations(self) -> tuple[int, ...]:
        """EXIF orientation of each photo's file, 1 to 8; 1 for arrays. The images themselves are upright."""
        return tuple(orientation_of(s) if isinstance(s, (str, Path)) else UPRIGHT for s in self._sources)

    def check(self, view: int) -> int:
        """The number of a view, checked.

        Raises:
            NbHelpersError: there is no such view.
        """
        if not 0 <= view < len(self):
            raise NbHelpersError("there is no such view", given=view, expected=f"0 to {len(self) - 1}")
        return view

    def image(self, view: int) -> UInt8[np.ndarray, "h w 3"]:
        """A photo as RGB, read at each call."""
        image = load_image(self._sources[self.check(view)])
        self._sizes[view] = image.shape[:2]
        return image

    def size(self, view: int) -> tuple[int, int]:
        """``(H, W)`` of a photo."""
        if view not in self._sizes:
            self.image(view)
        return self._sizes[view]

    def lab(self, view: int, side: int) -> Float32[np.ndarray, "s s 3"]:
        """Mean CIE L*a*b* colour of each cell of a ``side`` x ``side`` grid over a photo."""
        if (view, side) not in self._lab:
            small = cv2.resize(self.image(view), (side, side), interpolation=cv2.INTER_AREA)
            self._lab[view, side] = rgb_to_lab(small)
        return self._lab[view, side]

    def embedding(self, view: int) -> Embedding:
        """The segmenter's embedding of a photo, rounded to half precision as stored on disk.

        Raises:
            NbHelpersError: the segmenter's features cannot be compared across photos.
        """
        if self.check(view) not in self._recent:
            while len(self._recent) >= CACHE_SIZE:
                self._recent.popitem(last=False)
            self._recent[view] = Embedding.open(self._encoded(view), self.segmenter.device)
        self._recent.move_to_end(view)
        return self._recent[view]

    def _encoded(self, view: int) -> Path:
        """The file of a photo's embedding, in a temporary folder; written at the first call."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="nbhelpers-views-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{view}.pt"
        if not path.is_file():
            with_features(self.segmenter).encode(self.image(view)).save(path)
        return path


def photo_files(source: str | Path | np.ndarray | Sequence[str | Path | np.ndarray], folder: str | Path) -> list[Path]:
    """The photo files of a scene.

    Example:
        >>> photo_files("garden.mp4", "outputs/garden")[0].name
        'garden_000012.png'

    Args:
        source: a folder of photos, a glob, a list of photos or of arrays, or a video, of which the
            sharpest frame in each of `MAX_VIDEO_VIEWS` equal segments is taken.
        folder: where arrays and frames of a video are written; existing files are reused.

    Raises:
        NbHelpersError: there are no photos, or they cannot be read.
    """
    if not isinstance(source, (str, Path)):
        return photos(source, folder)
    path = Path(source).expanduser()
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        found = photos(source)
        if len(found) == 1 and found[0].suffix.lower() in VIDEO_SUFFIXES:
            return photo_files(found[0], folder)
        return found
    return _sharpest_frames(path, Path(folder) / f"{file_stem(path.stem)}-{sha256(path)[:8]}")


def sharpness(image: UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w"], side: int = 640) -> float:
    """Variance of the Laplacian of an image: low for blurred images, compared with others of the same scene.

    Args:
        image: RGB, measured at no more than ``side`` pixels, or greyscale, measured unchanged.
        side: pixels of the longer side.

    Source: Pech-Pacheco et al. 2000, doi 10.1109/ICPR.2000.903548.
    """
    grey = image if image.ndim == 2 else _grey(image, side)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _grey(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "h2 w2"]:
    """An RGB image in grey at no more than ``side`` pixels."""
    return cv2.cvtColor(fit(image, side), cv2.COLOR_RGB2GRAY)


def _sharpest_frames(path: Path, folder: Path) -> list[Path]:
    """The sharpest frame of each segment of a video, as files."""
    there = sorted(folder.glob("*.png"))
    frames = Frames(path, on_bad="hold")
    count = min(MAX_VIDEO_VIEWS, len(frames))
    if len(there) == count:
        return there
    edges = np.linspace(0, len(frames), count + 1).astype(int)
    out = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        tried = np.unique(np.linspace(start, stop - 1, min(FRAMES_PER_SEGMENT, stop - start)).astype(int)).tolist()
        best = max(tried, key=lambda number: sharpness(frames[number]))
        out.append(save_image(folder / f"{file_stem(path.stem)}_{best:06d}.png", np.asarray(frames[best])))
    return out


class PhotoSequence(Sequence):
    """Photo files as a lazy sequence of RGB arrays."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        return load_image(self.paths[number])


class SelectedViews(Sequence):
    """The selected photos or frames as a lazy sequence.

    Example:
        >>> views = select_views("walk.mp4", max_views=20)
        >>> len(views), views.names[1], views[1].shape
        (20, '00042.png', (720, 1280, 3))

    Attributes:
        names: of the photos; of a video the numbers of the frames.
        numbers: their indices in the folder or the video.
        sharpness: of each, see `sharpness`.
        notes: messages for the user: blurred photos, cuts, unreadable files.
        paths: the files; None for a video.
    """

    def __init__(
        self,
        load: Callable[[int], np.ndarray],
        names: Sequence[str],
        numbers: Sequence[int],
        sharpness: Sequence[float],
        notes: Sequence[str],
        paths: Sequence[Path] | None,
    ):
        self._load = load
        self.numbers, self.sharpness, self.notes = tuple(numbers), tuple(sharpness), tuple(notes)
        self.names = tuple(names[number] for number in numbers)
        self.paths = None if paths is None else [paths[number] for number in numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._load(self.numbers[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))


def select_views(
    source: str | Path | Sequence[str | Path], max_views: int = MAX_SELECTED, min_motion: float = MIN_MOTION
) -> SelectedViews:
    """Select views for the reconstruction of a scene: sharp, and far apart but with enough overlap.

    Up to ``max_views`` photos are all selected. Of more, and of the frames of a video, the sharpest is selected from
    each segment over which the image moves by ``min_motion``; segments are longer if there are too many.

    Args:
        source: a folder of photos, a list of photo files, or a video file.
        max_views: 2 or more.
        min_motion: motion from view to view, as a fraction of the longer side.

    Raises:
        NbHelpersError: no images, or a setting out of range.
    """
    if max_views < 2 or not 0 < min_motion < 1:
        raise NbHelpersError(
            "a setting of the view selection is out of range",
            given=f"max_views {max_views}, min_motion {min_motion}",
            expected="max_views 2 or more, min_motion between 0 and 1",
        )
    if isinstance(source, (str, Path)) and Path(source).expanduser().is_file() and not is_picture(Path(source)):
        return _from_video(Path(source).expanduser(), max_views, min_motion)
    return _from_photos(source, max_views, min_motion)


def _from_photos(source: str | Path | Sequence[str | Path], max_views: int, min_motion: float) -> SelectedViews:
    """Select from photo files."""
    folder = PictureFolder(Path(source).expanduser() if isinstance(source, (str, Path)) else source)
    good = [number for number in range(len(folder)) if number not in folder.damaged]
    notes = [f"cannot be read, ignored: {folder.names[number]} ({why})" for number, why in folder.damaged.items()]
    if not good:
        raise NbHelpersError("no photo can be read", given=source, do="copy them again from their source")

    def load(number: int) -> np.ndarray:
        return load_image(folder.paths[number])

    small, sharp = [], []
    for number in good:
        image = _grey(load(number), MOTION_SIDE)
        small.append(image if len(good) > max_views else None)  # 100 kB each
        sharp.append(sharpness(image))
    chosen = range(len(good))
    if len(good) > max_views:
        moves, _ = _motions(small)
        chosen = sharpest_per_segment(moves, np.array(sharp), max_views, min_motion)
        notes.append(f"{len(chosen)} of {len(good)} photos were selected by sharpness and distance")
    limit = MIN_SHARPNESS_RATIO * float(np.median(sharp))
    notes += [f"blurred: {folder.names[good[at]]}" for at in chosen if sharp[at] < limit]
    return SelectedViews(
        load, folder.names, [good[at] for at in chosen], [sharp[at] for at in chosen], notes, folder.paths
    )


def _from_video(path: Path, max_views: int, min_motion: float) -> SelectedViews:
    """Select from the frames of a video."""
    frames = Frames(path, on_bad="hold")
    step = max(1, round((frames.fps or SAMPLES_PER_SECOND) / SAMPLES_PER_SECOND))
    numbers = list(range(0, len(frames), step))
    small = [_grey(frames[number], MOTION_SIDE) for number in numbers]
    sharp = np.array([sharpness(image) for image in small])
    moves, jumps = _motions(small)
    chosen = sharpest_per_segment(moves, sharp, max_views, min_motion)
    notes = [f"{len(chosen)} of {len(frames)} frames were selected by sharpness and distance"]
    notes += [f"the image jumps at frame {numbers[at + 1]}: a cut, or a very fast rotation" for at in jumps]
    if moves.sum() < min_motion:
        notes.append("the camera hardly moves: depth cannot be estimated")
    return SelectedViews(
        lambda number: frames[number], frames.names, [numbers[at] for at in chosen], sharp[chosen].tolist(), notes, None
    )


def _motions(images: Sequence[np.ndarray]) -> tuple[Float[np.ndarray, " steps"], list[int]]:
    """Motion from each image to the next, as a fraction of the longer side, and the indices of jumps."""
    moves, jumps = np.zeros(max(0, len(images) - 1)), []
    for at in range(len(moves)):
        motion = image_motion(images[at], images[at + 1])
        if motion is None:
            jumps.append(at)
        moves[at] = 1.0 if motion is None else motion
    return moves, jumps


def image_motion(first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h2 w2"]) -> float | None:
    """Median motion between two grey images, as a fraction of the longer side; None where few corners are tracked.

    Corners are tracked forwards and backwards by the method of Lucas and Kanade (Bouguet 2001).
    """
    if first.shape != second.shape:
        return None
    corners = cv2.goodFeaturesToTrack(first, MAX_CORNERS, 0.01, 5)
    if corners is None:
        return 0.0  # no features to track
    # the stubs want points to begin with
    there, _, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
    back, _, _ = cv2.calcOpticalFlowPyrLK(second, first, there, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
    found = np.linalg.norm(back - corners, axis=2)[:, 0] < 1
    if found.mean() < MIN_TRACKED:
        return None
    return float(np.median(np.linalg.norm(there - corners, axis=2)[found, 0]) / max(first.shape))


def sharpest_per_segment(
    moves: Float[np.ndarray, " steps"], sharp: Float[np.ndarray, " images"], max_views: int, min_motion: float
) -> list[int]:
    """Indices of the sharpest image of each segment of motion.

    Args:
        moves: motion from each image to the next.
        sharp: sharpness of each image.
        max_views: maximum number of segments.
        min_motion: length of a segment; increased if there are too many.
    """
    path = np.concatenate([[0.0], np.cumsum(moves)])
    segments = int(np.clip(round(path[-1] / min_motion) + 1, 1, min(max_views, len(sharp))))
    if path[-1] == 0:
        return [int(sharp.argmax())]
    # segments around evenly spaced positions, so that the first and the last image can be selected
    owner = np.minimum((path / path[-1] * segments).astype(int), segments - 1)
    return [int(np.flatnonzero(owner == each)[sharp[owner == each].argmax()]) for each in np.unique(owner)]
