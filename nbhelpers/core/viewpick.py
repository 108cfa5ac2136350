"""Views of a scene from a folder of photos or a video: the sharp ones, as far apart as still overlaps well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, load_image
from nbhelpers.core.video import Frames
from nbhelpers.core.video.stills import PictureFolder

MOST = 40  # views: more take longer and seldom show more
APART = 0.08  # of the longer side that the picture must have moved for the next view: about nine tenths overlap
LOOK = 320  # pixels of the longer side at which pictures are compared
PACE = 10  # frames of a video looked at in a second
CORNERS = 200
LOST = 0.3  # share of the corners that must be found again; fewer means a cut or a jump
BLURRED = 0.25  # of the median sharpness, below which a photo is told to be blurred


class Views(Sequence):
    """The chosen pictures, read when asked for, so that memory does not grow with their number.

    Example:
        >>> views = pick_views("walk.mp4", most=20)
        >>> len(views), views.names[1], views[1].shape
        (20, '00042.png', (720, 1280, 3))

    Attributes:
        names: of the pictures; of a video the numbers of the frames.
        numbers: their places in the folder or the video.
        sharpness: of each, see `sharpness`.
        notes: what a person should know: blurred photos, cuts, pictures left out.
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


def pick_views(source: str | Path | Sequence[str | Path], most: int = MOST, apart: float = APART) -> Views:
    """The views to make a scene from.

    Of photos all are taken as long as there are at most ``most``; of more, and of the frames of a video, those that are
    sharp and about evenly apart in what they show: from each stretch over which the picture moves by ``apart``, the
    sharpest. Where that gives more than ``most``, the stretches are longer.

    Args:
        source: a folder of photos, a list of photo files, or a video file.
        most: views at most, 2 or more.
        apart: movement from view to view, as a share of the longer side.

    Raises:
        NbHelpersError: nothing to read, or a wrong number.
    """
    if most < 2 or not 0 < apart < 1:
        raise NbHelpersError(
            "the choice of views has a wrong number",
            given=f"most {most}, apart {apart}",
            expected="most 2 or more, apart between 0 and 1",
        )
    if isinstance(source, (str, Path)) and Path(source).expanduser().is_file() and not _is_photo(Path(source)):
        return _from_video(Path(source).expanduser(), most, apart)
    return _from_photos(source, most, apart)


def _is_photo(path: Path) -> bool:
    from nbhelpers.core.video.stills import is_picture

    return is_picture(path)


def _from_photos(source: str | Path | Sequence[str | Path], most: int, apart: float) -> Views:
    folder = PictureFolder(Path(source).expanduser() if isinstance(source, (str, Path)) else source)
    good = [number for number in range(len(folder)) if number not in folder.damaged]
    notes = [f"cannot be read, so left out: {folder.names[number]} ({why})" for number, why in folder.damaged.items()]
    if not good:
        raise NbHelpersError("no photo can be read", given=source, do="copy them again from their source")

    def load(number: int) -> np.ndarray:
        return load_image(folder.paths[number])

    small, sharp = [], []
    for number in good:
        picture = _grey(load(number))
        small.append(picture if len(good) > most else None)  # 100 kB each
        sharp.append(sharpness(picture))
    chosen = range(len(good))
    if len(good) > most:
        moves, _ = _movement(small)
        chosen = choose(moves, np.array(sharp), most, apart)
        notes.append(f"{len(chosen)} of {len(good)} photos were taken, the sharp ones that are well apart")
    limit = BLURRED * float(np.median(sharp))
    notes += [f"blurred: {folder.names[good[at]]}" for at in chosen if sharp[at] < limit]
    return Views(load, folder.names, [good[at] for at in chosen], [sharp[at] for at in chosen], notes, folder.paths)


def _from_video(path: Path, most: int, apart: float) -> Views:
    frames = Frames(path, on_bad="hold")
    step = max(1, round((frames.fps or PACE) / PACE))
    numbers = list(range(0, len(frames), step))
    small = [_grey(frames[number]) for number in numbers]
    sharp = np.array([sharpness(picture) for picture in small])
    moves, jumps = _movement(small)
    chosen = choose(moves, sharp, most, apart)
    notes = [f"{len(chosen)} of {len(frames)} frames were taken, the sharp ones that are well apart"]
    notes += [f"the picture jumps at frame {numbers[at + 1]}: a cut, or a very fast turn" for at in jumps]
    if moves.sum() < apart:
        notes.append("the camera hardly moves: no depth can be seen")
    return Views(
        lambda number: frames[number], frames.names, [numbers[at] for at in chosen], sharp[chosen].tolist(), notes, None
    )


def _grey(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2"]:
    return cv2.cvtColor(fit(image, LOOK), cv2.COLOR_RGB2GRAY)


def sharpness(grey: UInt8[np.ndarray, "h w"]) -> float:
    """How sharp a picture is among pictures of the same things: the variance of its Laplacian.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _movement(pictures: Sequence[np.ndarray]) -> tuple[Float[np.ndarray, " steps"], list[int]]:
    """How far each picture moved since the one before, as a share of the longer side, and where it jumped."""
    moves, jumps = np.zeros(max(0, len(pictures) - 1)), []
    for at in range(len(moves)):
        share = movement(pictures[at], pictures[at + 1])
        if share is None:
            jumps.append(at)
        moves[at] = 1.0 if share is None else share
    return moves, jumps


def movement(first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h2 w2"]) -> float | None:
    """How far what both pictures show has moved, median, as a share of the longer side; None where little is found.

    Corners are followed by Lucas and Kanade's method (Bouguet 2001) there and back.
    """
    if first.shape != second.shape:
        return None
    corners = cv2.goodFeaturesToTrack(first, CORNERS, 0.01, 5)
    if corners is None:
        return 0.0  # nothing that could move
    there, _, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None)
    back, _, _ = cv2.calcOpticalFlowPyrLK(second, first, there, None)
    found = np.linalg.norm(back - corners, axis=2)[:, 0] < 1
    if found.mean() < LOST:
        return None
    return float(np.median(np.linalg.norm(there - corners, axis=2)[found, 0]) / max(first.shape))


def choose(
    moves: Float[np.ndarray, " steps"], sharp: Float[np.ndarray, " pictures"], most: int, apart: float
) -> list[int]:
    """From each stretch of movement the sharpest picture.

    Args:
        moves: from each picture to the next.
        sharp: of each picture.
        most: pictures at most.
        apart: length of a stretch; longer where that gives too many.
    """
    way = np.concatenate([[0.0], np.cumsum(moves)])
    stretches = int(np.clip(round(way[-1] / apart) + 1, 1, min(most, len(sharp))))
    if way[-1] == 0:
        return [int(sharp.argmax())]
    # a stretch around each of evenly spaced places, so that the first and the last picture have a chance
    owner = np.minimum((way / way[-1] * stretches).astype(int), stretches - 1)
    return [int(np.flatnonzero(owner == each)[sharp[owner == each].argmax()]) for each in np.unique(owner)]
