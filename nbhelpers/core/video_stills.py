"""Clips that need no video decoder: folders of pictures, arrays, animated GIF, WebP and PNG, and TIFF stacks."""

from __future__ import annotations

import hashlib
import re
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES, check_local, matches, natural_key
from nbhelpers.core.images import load_image, opened, orientation

CONVERTED = ("1", "P", "PA", "LA", "La", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")  # modes of PIL images
MANY = ("GIF", "PNG", "WEBP")  # formats whose files may be animations
MATTE = "_matte"  # ``a_matte.png`` beside ``a.jpg`` is what was made of that frame, no frame of its own
SAMPLED = 4096  # bytes from the middle of a file that go into the signature
MILLISECOND = Fraction(1, 1000)
FORMATS = ("GIF", "WEBP", "PNG", "TIFF")


def gaps(names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Where numbers are missing in file names: ``(name before, name after, how many)``.

    The last number of a name counts. The usual distance of neighbours is taken for one step, so that every tenth
    frame of a clip has no gaps. Names of different patterns are not compared.
    """
    numbered = [re.fullmatch(r"(.*?)(\d+)(\D*)", name) for name in names]
    pairs = [
        (before.string, after.string, int(after[2]) - int(before[2]))
        for before, after in pairwise(numbered)
        if before and after and (before[1], before[3]) == (after[1], after[3])
    ]
    if not pairs:
        return []
    usual = Counter(distance for *_, distance in pairs).most_common(1)[0][0]
    return [(before, after, distance // usual - 1) for before, after, distance in pairs if distance > usual > 0]


class Stills:
    """Base of folders, arrays and animations: pictures that are read one by one, without a video decoder.

    Attributes:
        path: where they are from, for messages.
        paths: a file for each, None where they have none.
        names: one for each.
        sizes: ``(H, W)`` of each, None where it cannot be read.
        damaged: what is wrong with those that cannot be read.
        rate: frames a second, None where unknown.
        aspect: width over height of a pixel.
        stamps: when each frame is shown, and the seconds of a step, where the rate varies; else None.
    """

    path: Path | str
    paths: list[Path] | None = None
    names: list[str]
    sizes: list[tuple[int, int] | None]
    rate: Fraction | None = None
    aspect = Fraction(1)
    stamps: tuple[np.ndarray, Fraction] | None = None

    def __init__(self):
        self.damaged: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Picture ``number`` as RGB."""
        raise NotImplementedError

    def read_back(self, number: int, room: int) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Picture ``number`` with its number; no other comes with it."""
        yield number, self.read(number)

    def unreadable(self, numbers: Sequence[int]) -> list[int]:
        """The pictures that cannot be read; decodes all of them."""
        bad = []
        for number in numbers:
            try:
                self.read(number)
            except NbHelpersError:
                bad.append(number)
        return bad

    def warnings(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """What is odd about the chosen pictures but does no harm: ``(kind, text)``."""
        return []

    def fingerprint(self, numbers: Sequence[int]) -> bytes:
        """Hash of the content of the chosen pictures, or of pieces of it."""
        raise NotImplementedError


class PictureFolder(Stills):
    """The picture files of a folder in natural order; headers are read at once, pixels on access.

    Args:
        path: a folder, one picture file, a glob or numbered name (see `nbhelpers.core.files.matches`), or a list of
            picture files in the order wanted. Of a folder, mattes that were exported beside their frames are passed
            over.
        pattern: of a folder, only files of such names, e.g. ``"*.jpg"``.

    Raises:
        NbHelpersError: there is no such folder, no picture in it, or the same frames in several formats.
    """

    paths: list[Path]

    def __init__(self, path: str | Path | Sequence[str | Path], pattern: str = "*"):
        super().__init__()
        if isinstance(path, (str, Path)):
            check_local(path)
            self.path = Path(path)
            if self.path.is_dir():
                listed = sorted(self.path.glob(pattern), key=_order)
            else:
                listed = [self.path] if self.path.is_file() else matches(path)
                pattern = self.path.name
                self.path = self.path if self.path.is_file() else self.path.parent
            self.paths = [p for p in listed if is_picture(p)]
            stems = {p.stem for p in self.paths}
            mattes = {p for p in self.paths if p.stem.endswith(MATTE) and p.stem.removesuffix(MATTE) in stems}
            self.paths = [p for p in self.paths if p not in mattes]
            _check_formats(self.paths)
        else:
            self.paths = [Path(p) for p in path]
            self.path = self.paths[0].parent if self.paths else Path()
        if not self.paths:
            raise NbHelpersError(
                "the folder holds no pictures",
                given=f"{self.path}, pattern {pattern!r}",
                expected=f"files that end in {', '.join(sorted(IMAGE_SUFFIXES))}",
            )
        if missing := [p for p in self.paths if not p.is_file()]:
            raise NbHelpersError("there is no such picture", given=missing[0])
        self.names = [p.name for p in self.paths]
        self.sizes = []
        self._animated: dict[int, int] = {}  # by number, how many pictures its file holds
        self._states: list[tuple[int, int]] = []
        for number, file in enumerate(self.paths):
            size, damage, count = _header(file)
            self.sizes.append(size)
            self._states.append(file_state(file))
            if damage:
                self.damaged[number] = damage
            if count > 1:
                self._animated[number] = count

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Picture ``number``; see `load_image`, whose errors it raises.

        Raises:
            ClipChangedError: the file was changed or deleted since the clip was opened.
        """
        check_unchanged(self.paths[number], self._states[number])
        return load_image(self.paths[number])

    def warnings(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """What is odd about the chosen files but does no harm: ``(kind, text)``."""
        names = [self.names[n] for n in numbers]
        found = [
            ("gap", f"{count} missing between {before} and {after}") for before, after, count in gaps(names) if count
        ]
        stems = Counter(Path(name).stem for name in names)
        if twice := [stem for stem, count in stems.items() if count > 1]:
            found.append(("names", f"{len(twice)} names occur more than once, e.g. {twice[0]}"))
        found += [
            ("animation", f"{self.names[n]} holds {self._animated[n]} pictures; the first is taken")
            for n in numbers
            if n in self._animated
        ]
        return found

    def fingerprint(self, numbers: Sequence[int]) -> bytes:
        """Hash of names, lengths and a few bytes of each file; the same after copying."""
        digest = hashlib.sha256()
        for number in numbers:
            file = self.paths[number]
            length = file.stat().st_size
            with file.open("rb") as stream:
                stream.seek(max(0, (length - SAMPLED) // 2))
                digest.update(f"{file.name}\0{length}\0".encode(errors="surrogateescape") + stream.read(SAMPLED))
        return digest.digest()


class PictureArrays(Stills):
    """Arrays as a clip.

    Args:
        arrays: ``(n, H, W)``, ``(n, H, W, c)``, or a list of ``(H, W)`` or ``(H, W, c)``, as `load_image` takes them,
            or of PIL images. They are not copied.

    Raises:
        NbHelpersError: none, or one that is not an image.
    """

    def __init__(self, arrays: np.ndarray | Sequence[Any]):
        super().__init__()
        self._arrays = [_as_array(array) for array in arrays]
        if not self._arrays:
            raise NbHelpersError("the clip has no frames", given="no arrays", expected="at least one (H, W, 3) uint8")
        for array in self._arrays:
            load_image(array[:1, :1] if array.size else array)  # its type, without converting it
        self.path = f"{len(self._arrays)} arrays"
        self.names = [f"{number:05d}.png" for number in range(len(self._arrays))]
        self.sizes = [array.shape[:2] for array in self._arrays]
        self._hashes: dict[int, bytes] = {}

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Array ``number`` as RGB, a copy."""
        return load_image(self._arrays[number]).copy()

    def fingerprint(self, numbers: Sequence[int]) -> bytes:
        """Hash of all pixels, computed once."""
        for number in numbers:
            if number not in self._hashes:
                array = np.ascontiguousarray(self._arrays[number])
                about = f"{array.shape}{array.dtype}".encode()
                self._hashes[number] = hashlib.blake2b(about + array.tobytes(), digest_size=16).digest()
        return hashlib.sha256(b"".join(self._hashes[number] for number in numbers)).digest()


def is_array(value: object) -> bool:
    """Whether something is an array, a tensor or a PIL image."""
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _as_array(value: Any) -> np.ndarray:
    """An array, tensor or PIL image as an array."""
    if hasattr(value, "has_transparency_data") and value.mode in CONVERTED:
        value = value.convert("RGBA" if value.has_transparency_data else "RGB")
    return np.asarray(value)


def is_picture(path: Path) -> bool:
    """Whether a file counts as a frame: known suffix, not hidden, not a folder."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _order(path: Path) -> tuple:
    """Sort key of natural order."""
    return natural_key(path.name), path.name


def _check_formats(paths: Sequence[Path]) -> None:
    """Refuse a folder with ``0000.jpg`` and ``0000.png``: one of them is a copy, or a mask, of the other."""
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        inner = Path(path.stem)  # a.jpg.png is a mask of a.jpg
        by_stem.setdefault(inner.stem if inner.suffix.lower() in IMAGE_SUFFIXES else path.stem, []).append(path)
    twice = {stem: same for stem, same in by_stem.items() if len(same) > 1}
    if not twice:
        return
    stem, same = next(iter(twice.items()))
    patterns = ["*" + path.name.removeprefix(stem) for path in same]
    raise NbHelpersError(
        "the folder holds the same frames in several formats",
        given=f"{paths[0].parent}: {len(twice)} names, e.g. {' and '.join(path.name for path in same)}",
        expected="one picture a frame",
        do=f"choose by {' or '.join(f'pattern={each!r}' for each in patterns)}, or as a path: "
        f'"{paths[0].parent / patterns[0]}"; or move the others away',
    )


def file_state(path: Path) -> tuple[int, int]:
    """What changes when a file is written: its length and time."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


class ClipChangedError(NbHelpersError):
    """The file of a clip is not what it was when the clip was opened; no frame can stand in for that."""


def check_unchanged(path: Path, state: tuple[int, int]) -> None:
    """Refuse to read on from a file that is not as it was when the clip was opened.

    Raises:
        ClipChangedError: it was changed, replaced or deleted.
    """
    try:
        if file_state(path) == state:
            return
        what = "the file was changed since the clip was opened"
    except OSError:
        what = "the file is gone since the clip was opened"
    raise ClipChangedError(what, given=path, do="put the file back, or open the clip again")


def _header(path: Path) -> tuple[tuple[int, int] | None, str | None, int]:
    """``(H, W)`` after EXIF rotation, without decoding, or None and what is wrong; and how many pictures it holds."""
    try:
        with opened(path) as (picture, _, _):
            assert not isinstance(picture, np.ndarray)  # a file is none
            width, height = picture.size
            # of a PNG, EXIF after the pixels would mean decoding them; `load_image` finds the size then
            found = picture.format != "PNG" or "exif" in picture.info
            turned = found and orientation(picture) in (5, 6, 7, 8)
            count = getattr(picture, "n_frames", 1) if picture.format in MANY else 1
    except NbHelpersError as error:
        reason = type(error.__cause__ or error).__name__
        return None, "it is empty" if path.stat().st_size == 0 else f"it cannot be read ({reason})", 1
    return ((width, height) if turned else (height, width)), None, count


class Animation(Stills):
    """The pictures of one file, whole as they are shown: what a format stores as changes is laid over what was before.

    Args:
        path: an animated GIF, WebP or PNG, or a TIFF.

    Raises:
        NbHelpersError: the file cannot be read.
    """

    path: Path
    _file: Any

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)
        self._state = file_state(self.path)
        self._open()
        count = self._file.n_frames
        if getattr(self._file, "default_image", False):  # of a PNG: a still for programs that know no animation
            self._first, count = 1, count - 1
        else:
            self._first = 0
        digits = max(5, len(str(count)))
        self.names = [f"{number:0{digits}d}.png" for number in range(count)]
        durations = []
        self.sizes = []
        for number in range(count):
            try:
                self._seek(number)
            except NbHelpersError:
                self.sizes.append(None)
                self.damaged[number] = "its data are damaged"
                durations.append(durations[-1] if durations else 0)
                continue
            self.sizes.append((self._file.height, self._file.width))
            durations.append(round(self._file.info.get("duration", 0)))
        if all(durations):
            self.rate = Fraction(1000 * count, sum(durations))
        self._durations = durations
        if len(set(durations)) > 1:
            self.stamps = np.cumsum([0, *durations[:-1]]), MILLISECOND

    @property
    def is_one_clip(self) -> bool:
        """Whether the pictures are frames of one size, not a photo with a thumbnail."""
        return len(self) > 1 and len({size for size in self.sizes if size}) == 1

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Picture ``number`` as RGB, what is transparent over white.

        Raises:
            NbHelpersError: its data are damaged.
            ClipChangedError: the file was changed or deleted since it was opened.
        """
        [(_, picture)] = self.read_back(number, 1)
        return picture

    def read_back(self, number: int, room: int) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Picture ``number``, the last yielded, after up to ``room - 1`` before it, which had to be decoded anyway."""
        check_unchanged(self.path, self._state)
        if self._file is None:
            self._open()
        for each in range(max(0, number - room + 1), number + 1):
            if each == number or each not in self.damaged:
                self._seek(each)
                yield each, self._rgb()

    def _rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """The current picture as RGB."""
        picture = self._file
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
        elif picture.mode in ("P", "L", "1", "CMYK"):
            picture = picture.convert("RGB")
        array = np.array(picture)
        return load_image(array.astype(np.uint16) if picture.mode.startswith("I;16") else array)

    def warnings(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """What is odd about the chosen pictures but does no harm: ``(kind, text)``."""
        if len(set(self._durations[min(numbers) : max(numbers) + 1])) < 2:
            return []
        return [("rate", "the pictures are shown for different times; every one is taken as a frame")]

    def fingerprint(self, numbers: Sequence[int]) -> bytes:
        """Hash of the file's length and of pieces of it."""
        return PictureFolder(self.path).fingerprint([0])

    def __getstate__(self) -> dict:
        """Without the open file, so that a clip can be sent to another process."""
        return {**self.__dict__, "_file": None}

    def _open(self) -> None:
        """Open the file."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._file = Image.open(self.path, formats=FORMATS)
            weakref.finalize(self, self._file.close)
        except (OSError, SyntaxError, ValueError) as error:
            raise NbHelpersError(
                "the animation cannot be read; it may be cut off", given=f"{self.path}: {error}"
            ) from error

    def _seek(self, number: int) -> None:
        """Decode picture ``number``."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if number + self._first < self._file.tell():
                    self._file.close()
                    self._open()  # of a PNG, Pillow 13 does not find the way back twice
                self._file.seek(number + self._first)
                self._file.load()
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise NbHelpersError(
                "the frame cannot be decoded", given=f"{self.path}, frame {self.names[number]}: its data are damaged"
            ) from error


def is_animated(path: Path) -> bool:
    """Whether a picture file holds several pictures of one size."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                return picture.format in FORMATS and getattr(picture, "n_frames", 1) > 1
    except Exception:  # PIL raises what comes; opening it as a still raises the error
        return False
