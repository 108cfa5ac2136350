"""Clips as lazy sequences, decoded frame by frame on access; what moved from one frame to another.

A clip is a folder of pictures or a video file. Optical flow is by dense inverse search, Kroeger et al. 2016, arXiv
1603.03590; OpenCV's ``DISOpticalFlow``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import check_local, matches, write_text
from nbhelpers.core.images import fit, save_image
from nbhelpers.core.video_file import NEAR, VideoFile
from nbhelpers.core.video_stills import (
    Animation,
    ClipChangedError,
    PictureArrays,
    PictureFolder,
    Stills,
    is_animated,
    is_array,
    is_picture,
)

LONGEST = 96  # pixels of the longer side at which frames are compared
BINS = [16, 8, 8]  # of hue, saturation and value
AROUND = 8  # frames on each side whose median change is the usual one
MIN_CHANGE, MIN_RATIO = 0.3, 3.0  # of a cut: fraction of the colours that change, and how many times the usual
STILL = 0.02  # added to what is usual, so that a still shot does not make every flicker a cut

CACHE_BYTES = 128 << 20
ADVICE = 'copy it again, or pass on_bad="skip" (leave it out) or on_bad="hold" (show the frame before)'
EXTRACT_NOTE = ".frames.json"
EXTRACT_SUFFIXES = (".png", ".jpg", ".tif", ".webp", ".bmp")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Something about a clip that its user should know.

    Attributes:
        kind: ``"corrupt"``, ``"size"``, ``"gap"``, ``"names"``, ``"animation"``, ``"cut off"``, ``"rate"``,
            ``"interlaced"``, ``"pixels"``, ``"streams"``, ``"alpha"`` or ``"colour"``.
        text: one line for people; names the file or frame.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


class Frames(Sequence):
    """A lazy sequence of RGB frames; a `nbhelpers.models.protocols.FrameSequence`.

    Example:
        >>> frames = Frames("walk.mp4", start=30, stop=137)
        >>> len(frames), frames.size, frames[0].shape
        (107, (272, 640), (272, 640, 3))
        >>> frames[20:40][0] is frames[20]                            # a slice is a view with the same cache
        True

    Memory does not grow with the clip: frames are decoded on access and the latest are kept within
    ``cache_bytes``. A frame reached by jumping is the very one that playing would show. Frames are read-only.

    Args:
        path: a folder of pictures (jpg, png, tif, webp, bmp; 8 or 16 bit; grey, alpha; any names, in natural order), a
            video file, an animated GIF, WebP or PNG, a TIFF stack, a glob (``"shots/*.png"``), a numbered name
            (``"shot.%04d.png"``, ``"shot.####.png"``), a list of picture files, an array ``(n, H, W, 3) uint8``, or a
            list of arrays or PIL images. Hidden files and what is no picture are passed over.
        start: first frame, counted in the source, as in a slice.
        stop: the frame after the last, as in a slice.
        step: take every ``step``-th frame.
        pattern: of a folder, only the files of such names, e.g. ``"*.jpg"``.
        on_bad: what to do about frames that cannot be read: ``"error"``; ``"skip"`` leaves them out, for which the
            whole clip is decoded once at opening; ``"hold"`` shows the frame before (or the next good one) instead.
        on_size: what to do about frames of another size than most: ``"error"``, ``"skip"`` or ``"resize"``.
        wrap: columns added at both sides of each frame, taken from the other side: for equirectangular clips, so
            that what crosses the seam is seen whole. `nbhelpers.core.video.fold_wrap` folds masks back.
        cache_bytes: for decoded frames; the latest one is always kept.

    Attributes:
        size: ``(H, W)`` of every frame, ``wrap`` included.
        names: file names; of a video numbered names (``00030.png`` is the source's frame 30).
        paths: the original files, None where frames have no file of their own.
        fps: frames per second (the source's divided by ``step``), None where unknown.
        rate: the same as an exact fraction, such as 24000/1001.
        problems: warnings, and frames that were skipped or held; grows while reading.
        wrap: as given.

    Raises:
        NbHelpersError: nothing to read, a wrong option, frames that do not fit the options.
    """

    def __init__(
        self,
        path: str | Path | np.ndarray | Sequence[Any],
        *,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
        pattern: str = "*",
        on_bad: str = "error",
        on_size: str = "error",
        wrap: int = 0,
        cache_bytes: int = CACHE_BYTES,
    ):
        for name, value, allowed in (("on_bad", on_bad, ("error", "skip", "hold")),
                                     ("on_size", on_size, ("error", "skip", "resize"))):  # fmt: skip
            if value not in allowed:
                raise NbHelpersError(f"{name} has no such choice", given=value, expected=" or ".join(allowed))
        if step < 1:
            raise NbHelpersError("the step between frames must be positive", given=step, expected="1 for every frame")
        self.path = path
        self.problems: list[Problem] = []
        self._on_bad, self._on_size = on_bad, on_size
        self._source = _open(path, pattern)
        self._numbers = list(range(len(self._source))[start:stop:step])
        if not self._numbers:
            raise NbHelpersError(
                "no frame is left between start and stop",
                given=f"start {start}, stop {stop}, {len(self._source)} frames",
            )
        self.problems += [Problem(kind, text) for kind, text in self._source.warnings(self._numbers)]
        self._bad = dict(self._source.damaged)
        self._take_readable()
        self._take_sizes()
        self.wrap = check_wrap(wrap, self._inner[1])
        self.size = self._inner[0], self._inner[1] + 2 * self.wrap
        self._step = step
        self._room = max(1, cache_bytes // (3 * self.size[0] * self.size[1]))
        self._renew()

    @property
    def names(self) -> list[str]:
        """One name for each frame; see the class."""
        return [self._source.names[n] for n in self._numbers]

    @property
    def paths(self) -> list[Path] | None:
        """The original files, or None where frames have no file of their own."""
        return None if self._source.paths is None else [self._source.paths[n] for n in self._numbers]

    @property
    def fps(self) -> float | None:
        """Frames per second, or None where the source does not say."""
        return None if self.rate is None else float(self.rate)

    @property
    def rate(self) -> Fraction | None:
        """Frames per second as an exact fraction, or None where the source does not say."""
        return None if self._source.rate is None else self._source.rate / self._step

    @property
    def aspect(self) -> Fraction:
        """Width over height of a displayed pixel; frames are returned with the stored pixels."""
        return self._source.aspect

    @property
    def stamps(self) -> tuple[np.ndarray, Fraction] | None:
        """Where the frame rate varies: when each frame is shown, ``(n,) int64`` from 0, and the seconds of a step."""
        if self._source.stamps is None:
            return None
        stamps, tick = self._source.stamps
        chosen = stamps[self._numbers]
        return np.abs(chosen - chosen[0]), tick

    @property
    def signature(self) -> str:
        """64 hexadecimal digits that change with the content, the choice of frames and their treatment.

        Cheap: lengths, names and pieces of the files are hashed, not all pixels. A copied or moved clip keeps it.
        """
        digest = hashlib.sha256(self._source.fingerprint(self._numbers))
        digest.update(repr((self._numbers, self.size, self.wrap, self._on_bad, self._on_size)).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (np.asarray(self[index]) for index in range(len(self)))

    def __repr__(self) -> str:
        path = self.path if isinstance(self.path, (str, Path)) else self._source.path
        return f"Frames({str(path)!r}: {len(self)} of {self.size[1]} x {self.size[0]})"

    @overload
    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]: ...

    @overload
    def __getitem__(self, index: slice) -> Frames: ...

    def __getitem__(self, index: int | slice) -> UInt8[np.ndarray, "h w 3"] | Frames:
        """Frame ``index`` ``(H, W, 3) uint8`` RGB, read-only; or a part of the clip.

        Raises:
            IndexError: there is no such frame.
            NbHelpersError: the frame cannot be read (``on_bad="error"``), or has another size (``on_size="error"``).
        """
        if isinstance(index, slice):
            return self._part(index)
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        with self._lock:
            return self._frame(self._numbers[index])

    def __getstate__(self) -> dict:
        """Without what is decoded, so that a clip can be sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_cache")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._renew()

    def _renew(self) -> None:
        """A new lock and an empty cache."""
        self._lock = threading.RLock()
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._latest = -1

    def _part(self, index: slice) -> Frames:
        """A slice as a view with the same source and cache."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)  # source, lock and cache are shared
        part._numbers = self._numbers[index]
        part._step = self._step * abs(index.step or 1)
        if not part._numbers:
            raise NbHelpersError("no frame is left in this part", given=index, expected=f"some of {len(self)} frames")
        return part

    def _take_readable(self) -> None:
        """Leave out, or name, the frames that are known to be bad."""
        if self._on_bad == "skip":
            for number in self._source.unreadable(self._numbers):
                self._bad.setdefault(number, "its data are damaged")
        bad = [n for n in self._numbers if n in self._bad]
        if bad and self._on_bad == "error":
            raise self._refused(bad)
        if len(bad) == len(self._numbers):
            raise NbHelpersError("no frame of the clip can be read", given=f"{self.path}, {len(bad)} frames")
        verb = "left out" if self._on_bad == "skip" else "held: a neighbour is shown instead"
        self.problems += [self._problem(n, verb) for n in bad]
        if self._on_bad == "skip":
            self._numbers = [n for n in self._numbers if n not in self._bad]

    def _take_sizes(self) -> None:
        """Find the size of most frames; leave out, or name, the others."""
        sizes = {n: tuple(self._source.sizes[n] or ()) for n in self._numbers if n not in self._bad}
        self._inner = Counter(sizes.values()).most_common(1)[0][0]
        odd = [n for n, size in sizes.items() if size != self._inner]
        if not odd:
            return
        named = ", ".join(f"{self._source.names[n]} is {_text(sizes[n])}" for n in odd[:3])
        if self._on_size == "error":
            raise NbHelpersError(
                "the frames differ in size",
                given=f"{len(odd)} of {len(sizes)}: {named}{', ...' if len(odd) > 3 else ''}",
                expected=f"{_text(self._inner)} as the others",
                do='take the odd ones out, or pass on_size="skip" or on_size="resize"',
            )
        done = "left out" if self._on_size == "skip" else f"resized to {_text(self._inner)}"
        self.problems += [Problem("size", f"{self._source.names[n]} is {_text(sizes[n])}: {done}") for n in odd]
        if self._on_size == "skip":
            self._numbers = [n for n in self._numbers if n not in odd]

    def _frame(self, number: int) -> np.ndarray:
        """A frame, or its nearest neighbour if it is held."""
        picture = self._try(number)
        if picture is not None:
            return picture
        at = self._numbers.index(number)
        for neighbour in (*reversed(self._numbers[:at]), *self._numbers[at + 1 :]):
            if (picture := self._try(neighbour)) is not None:
                return picture
        raise NbHelpersError("no frame of the clip can be read", given=self.path)

    def _try(self, number: int) -> np.ndarray | None:
        """A frame from the cache or the source; None if it is bad, which is then noted."""
        if number in self._cache:
            self._cache.move_to_end(number)
            self._latest = number
            return self._cache[number]
        if number in self._bad:
            return None
        backwards = 0 < self._latest - number <= NEAR
        try:
            for read, picture in self._source.read_back(number, self._room if backwards else 1):
                self._keep(read, picture)
        except ClipChangedError:
            raise
        except NbHelpersError as error:
            if self._on_bad != "hold":
                raise NbHelpersError(
                    error.what, given=error.given, expected=error.expected, do=error.do or ADVICE
                ) from error
            self._bad[number] = str(error.given).rpartition(": ")[2]
            self.problems.append(self._problem(number, "held: a neighbour is shown instead"))
            log.warning("%s", self.problems[-1])
            return None
        self._latest = number
        return self._cache[number]

    def _keep(self, number: int, picture: np.ndarray) -> None:
        """Put a decoded frame into the cache."""
        if picture.shape[:2] != self._inner:
            if self._on_size != "resize":
                raise NbHelpersError(
                    "the frame has another size than the others",
                    given=f"{self._source.names[number]}: {_text(picture.shape)}",
                    expected=_text(self._inner),
                    do='pass on_size="resize"',
                )
            smaller = picture.shape[0] * picture.shape[1] > self._inner[0] * self._inner[1]
            how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            picture = cv2.resize(picture, self._inner[::-1], interpolation=how)
        picture = wrap_columns(picture, self.wrap)
        picture.setflags(write=False)
        self._cache[number] = picture
        while len(self._cache) > self._room:
            self._cache.popitem(last=False)

    def _problem(self, number: int, done: str) -> Problem:
        """The warning about a bad frame."""
        return Problem("corrupt", f"{self._source.names[number]}: {self._bad[number]}; {done}")

    def _refused(self, bad: Sequence[int]) -> NbHelpersError:
        """The error about bad frames."""
        named = "; ".join(f"{self._source.names[n]}: {self._bad[n]}" for n in bad[:3])
        return NbHelpersError(
            f"{len(bad)} frames cannot be read" if len(bad) > 1 else "a frame cannot be read",
            given=f"{self.path}: {named}{'; ...' if len(bad) > 3 else ''}",
            do=ADVICE,
        )


def _open(path: Any, pattern: str) -> Stills | VideoFile:
    """The source of a path, an array, or a list of them."""
    if isinstance(path, (str, Path)):
        return _open_path(path, pattern)
    if is_array(path):
        array = np.asarray(path)
        if array.ndim != 4 and (array.ndim != 3 or array.shape[2] in (1, 3, 4)):
            raise NbHelpersError(
                "the array is not a clip",
                given=f"shape {array.shape}",
                expected="(n, H, W, 3) uint8, RGB; (n, H, W) for grey",
                do="pass a list for a clip of one image: [image]",
            )
        return PictureArrays(array)
    listed = list(path) if isinstance(path, Sequence) else [path]
    if isinstance(path, Sequence) and all(isinstance(each, (str, Path)) for each in listed):
        return PictureFolder(listed)
    if isinstance(path, Sequence) and all(is_array(each) for each in listed):
        return PictureArrays(listed)
    raise NbHelpersError(
        "this is not a clip",
        given=", ".join(dict.fromkeys(type(each).__name__ for each in listed)),
        expected="a folder, a video, a glob, a list of picture files, or arrays (H, W, 3) uint8",
    )


def _open_path(path: str | Path, pattern: str) -> Stills | VideoFile:
    """The source of a path, a glob or a numbered name."""
    check_local(path)
    path = Path(path).expanduser()
    if not path.exists():
        found = matches(path)
        if not found:
            raise NbHelpersError("there is no such file or folder", given=path)
        if len(found) > 1:
            if videos := [each for each in found if not is_picture(each)]:
                raise NbHelpersError(
                    "the name stands for several files, not all of them pictures",
                    given=f"{path}: {videos[0].name} and {len(found) - 1} more",
                    do="open one video at a time",
                )
            return PictureFolder(path)
        path = found[0]
    if is_picture(path):
        if is_animated(path) and (animation := Animation(path)).is_one_clip:
            return animation
        return PictureFolder(path)
    return PictureFolder(path, pattern) if path.is_dir() else VideoFile(path)


def _text(size: Sequence[int]) -> str:
    """A size as text."""
    return f"{size[1]} x {size[0]}"


def wrap_columns(picture: UInt8[np.ndarray, "h w c"], wrap: int) -> UInt8[np.ndarray, "h w2 c"]:
    """The picture ``(H, W, c)`` with ``wrap`` columns of the other side at each edge: ``(H, W + 2 wrap, c)``."""
    width = picture.shape[1]
    wrap = check_wrap(wrap, width)
    return np.concatenate([picture[:, width - wrap :], picture, picture[:, :wrap]], axis=1) if wrap else picture


def fold_wrap(mask: Bool[np.ndarray, "h w2"], wrap: int) -> Bool[np.ndarray, "h w"]:
    """A mask ``(H, W + 2 wrap)`` of a wrapped picture back at ``(H, W)``: what either copy of a column covers.

    Example:
        >>> fold_wrap(np.array([[True, False, False, False, False, False]]), 1)
        array([[False, False, False,  True]])

    Raises:
        NbHelpersError: the mask is too narrow to be of a picture wrapped so.
    """
    width = mask.shape[1] - 2 * wrap
    if wrap < 0 or width < max(wrap, 1):
        raise NbHelpersError("the mask is not of a picture wrapped so", given=f"width {mask.shape[1]}, wrap {wrap}")
    if not wrap:
        return mask
    folded = mask[:, wrap:-wrap].copy()
    folded[:, width - wrap :] |= mask[:, :wrap]
    folded[:, :wrap] |= mask[:, -wrap:]
    return folded


def check_wrap(wrap: int, width: int) -> int:
    """Return ``wrap`` if a picture of that width has so many columns.

    Raises:
        NbHelpersError: it has not.
    """
    if not 0 <= wrap <= width:
        raise NbHelpersError(
            "so many columns cannot be wrapped", given=wrap, expected=f"0 to {width}, the width of a frame"
        )
    return wrap


def extract_frames(
    frames: Frames,
    folder: str | Path,
    *,
    suffix: str = ".png",
    first: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[Path]:
    """Write every frame to ``folder`` as ``00000.png``, ``00001.png``, ...; resume where an earlier call stopped.

    Example:
        >>> extract_frames(Frames("walk.mp4", step=5), "outputs/walk", suffix=".jpg")[-1].name
        '00049.jpg'

    Each file is whole or not there. A hidden file in the folder names the clip: its pictures that are there are kept,
    and a folder with pictures of another clip is refused.

    Args:
        frames: the clip; ``step``, ``start`` and ``stop`` are its own.
        folder: made if it is missing; never the folder of the originals.
        suffix: the format: ``.png`` and ``.tif`` lose nothing; ``.jpg`` is what SAM 2's own scripts read.
        first: number of the first picture.
        progress: called with the index of each frame that is written.

    Returns:
        The files, one for each frame.

    Raises:
        NbHelpersError: the folder holds other pictures, is read-only, or the disk is full; a frame cannot be read.
    """
    folder = Path(folder)
    if suffix not in EXTRACT_SUFFIXES:
        raise NbHelpersError("frames cannot be written so", given=suffix, expected=", ".join(EXTRACT_SUFFIXES))
    digits = max(5, len(str(first + len(frames) - 1)))
    files = [folder / f"{first + index:0{digits}d}{suffix}" for index in range(len(frames))]
    about = {"frames": frames.signature, "count": len(frames), "first": first, "suffix": suffix}
    _claim_folder(folder, files, about)
    for index, file in enumerate(files):
        if not file.exists():
            save_image(file, np.asarray(frames[index]))
        if progress is not None:
            progress(index)
    return files


def _claim_folder(folder: Path, files: list[Path], about: dict) -> None:
    """Write the note, or see that the one that is there says the same."""
    note = folder / EXTRACT_NOTE
    if note.exists():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found == about:
            return
        raise NbHelpersError(
            "the folder holds frames of another clip, or written in another way",
            given=folder,
            expected=f"{about['count']} frames as {about['suffix']}",
            do="choose another folder, or empty this one",
        )
    if there := [file for file in files if file.exists()]:
        raise NbHelpersError(
            "the folder holds pictures of the same names, and nothing is overwritten",
            given=f"{len(there)} files, e.g. {there[0]}",
            do="choose another folder",
        )
    write_text(note, json.dumps(about, indent=1))


def find_cuts(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]], progress: Callable[[int], object] | None = None
) -> list[int]:
    """The frames at which a new shot seems to begin: where to split a clip before tracking. One pass, few bytes kept.

    Example:
        >>> find_cuts(Frames("bikes.mp4"))
        [30, 76, 137, 187, 242]

    A cut is a peak of the change between neighbours that stands out from the frames around it, in colours as well as
    in brightness at each place: so fast motion, which lasts for a while, is none. Slow fades are not found.

    Args:
        frames: the clip, or any part of it.
        progress: called with the index of each frame that was decoded.
    """
    colours, places, last = [], [], None
    for number, frame in enumerate(frames):
        here = _descriptors(frame)
        if last is not None:
            colours.append(1 - np.minimum(here[0], last[0]).sum())
            places.append(np.abs(here[1] - last[1]).mean() / 255)
        last = here
        if progress is not None:
            progress(number)
    changed, moved = np.array(colours), np.array(places)
    is_peak = (_against_usual(changed) > MIN_RATIO) & (_against_usual(moved) > MIN_RATIO / 2)
    found: list[int] = []
    for index in np.flatnonzero(is_peak & (changed > MIN_CHANGE)):
        near = slice(max(0, index - 2), index + 3)  # a cut through a blended frame is one cut
        if changed[index] == changed[near].max() and (not found or index + 1 - found[-1] > 2):
            found.append(int(index) + 1)
    return found


def _descriptors(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour histogram and small grey copy of a frame."""
    small = fit(frame, LONGEST)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([hsv], [0, 1, 2], None, BINS, [0, 180, 0, 256, 0, 256]).ravel()
    return histogram / histogram.sum(), cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _against_usual(change: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Each change over the median of those around it."""
    usual = [
        np.median(
            np.concatenate([change[max(0, i - AROUND) : i], change[i + 1 : i + 1 + AROUND], [0] * (len(change) < 3)])
        )
        for i in range(len(change))
    ]
    return change / (np.array(usual) + STILL)


def optical_flow(
    here: UInt8[np.ndarray, "h w"], there: UInt8[np.ndarray, "h w"], fast: bool = False
) -> Float32[np.ndarray, "h w 2"]:
    """Displacement ``(dx, dy)`` of each pixel from one greyscale image to the other, in pixels.

    Args:
        here: the image that the flow starts from.
        there: the other one, of the same size.
        fast: the preset for real time, less exact.
    """
    preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    return cv2.DISOpticalFlow.create(preset).calc(here, there, None)  # pyright: ignore - the stubs want a flow to begin with


def resize_flow(flow: Float32[np.ndarray, "h w 2"], size: tuple[int, int]) -> Float32[np.ndarray, "H W 2"]:
    """The flow between larger or smaller copies of the images, of ``(H, W)`` pixels."""
    if flow.shape[:2] == size:
        return flow
    scale = np.array(size[::-1], np.float32) / flow.shape[1::-1]
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_LINEAR) * scale


def warp(
    values: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"],
    flow: Float32[np.ndarray, "h w 2"],
    border: int = cv2.BORDER_CONSTANT,
) -> Float32[np.ndarray, "h w"]:
    """A mask (as coverage of each pixel, 0 to 1) or greyscale values, warped to the image that the flow starts from.

    Args:
        values: of the other image.
        flow: see `optical_flow`.
        border: what is outside of it, one of OpenCV's constants; nothing by default.
    """
    rows, columns = np.indices(values.shape, np.float32)
    at = columns + flow[..., 0], rows + flow[..., 1]
    return cv2.remap(values.astype(np.float32), *at, cv2.INTER_LINEAR, borderMode=border)
