"""Files that hold several pictures, read without a video decoder: animated GIF, WebP and PNG, and stacks in TIFF."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.video.folder import PictureFolder, Stills, check_unchanged, file_state

MILLISECOND = Fraction(1, 1000)
FORMATS = ("GIF", "WEBP", "PNG", "TIFF")


class Animation(Stills):
    """The pictures of one file, whole as they are shown: what a format stores as changes is laid over what was before.

    Args:
        path: an animated GIF, WebP or PNG, or a TIFF.

    Raises:
        NbHelpersError: the file cannot be read.
    """

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
                self.faults[number] = "its data are damaged"
                durations.append(durations[-1] if durations else 0)
                continue
            self.sizes.append(self._file.size[::-1])
            durations.append(round(self._file.info.get("duration", 0)))
        if all(durations):
            self.rate = Fraction(1000 * count, sum(durations))
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
            if each == number or each not in self.faults:
                self._seek(each)
                yield each, self._rgb()

    def _rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        picture = self._file
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
        elif picture.mode in ("P", "L", "1", "CMYK"):
            picture = picture.convert("RGB")
        array = np.array(picture)
        return load_image(array.astype(np.uint16) if picture.mode.startswith("I;16") else array)

    def remarks(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """What is odd about the file but does no harm: ``(kind, text)``."""
        if self.stamps is None:
            return []
        return [("rate", "the pictures are shown for different times; every one is taken as a frame")]

    def fingerprint(self, numbers: Sequence[int]) -> bytes:
        """Hash of the file's length and of pieces of it."""
        return PictureFolder(self.path).fingerprint([0])

    def __getstate__(self) -> dict:
        """Without the open file, so that a clip can be sent to another process."""
        return {**self.__dict__, "_file": None}

    def _open(self) -> None:
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
    except Exception:  # PIL raises what comes; opening it as a still tells what is wrong
        return False
