"""A folder of pictures as a clip: which files count, in which order, of which size."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import SUFFIXES, load_image, opened, orientation

PICTURES = frozenset(SUFFIXES)
MATTE = "_matte"  # ``a_matte.png`` beside ``a.jpg`` is what was made of that frame, no frame of its own
SAMPLED = 4096  # bytes from the middle of a file that go into the signature


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``frame2`` comes before ``frame10``.

    Example:
        >>> sorted(["frame10.png", "Frame2.png", "a.png"], key=natural_key)
        ['a.png', 'Frame2.png', 'frame10.png']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts)]


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


class PictureFolder:
    """The picture files of a folder in natural order; headers are read at once, pixels when asked for.

    Args:
        path: a folder, one picture file, or a list of picture files in the order wanted. Of a folder, mattes that were
            exported beside their frames are passed over.
        pattern: of a folder, only files of such names, e.g. ``"*.jpg"``.

    Raises:
        NbHelpersError: there is no such folder, or no picture in it.
    """

    fps = None

    def __init__(self, path: str | Path | Sequence[str | Path], pattern: str = "*"):
        if isinstance(path, (str, Path)):
            self.path = Path(path)
            listed = sorted(self.path.glob(pattern), key=_order) if self.path.is_dir() else [self.path]
            self.paths = [p for p in listed if is_picture(p)]
            stems = {p.stem for p in self.paths}
            mattes = {p for p in self.paths if p.stem.endswith(MATTE) and p.stem.removesuffix(MATTE) in stems}
            self.paths = [p for p in self.paths if p not in mattes]
        else:
            self.paths = [Path(p) for p in path]
            self.path = self.paths[0].parent if self.paths else Path()
        if not self.paths:
            raise NbHelpersError(
                "the folder holds no pictures",
                given=f"{self.path}, pattern {pattern!r}",
                expected=f"files that end in {', '.join(sorted(PICTURES))}",
            )
        if missing := [p for p in self.paths if not p.is_file()]:
            raise NbHelpersError("there is no such picture", given=missing[0])
        self.names = [p.name for p in self.paths]
        self.sizes, self.faults = [], {}
        for number, file in enumerate(self.paths):
            size, fault = _header(file)
            self.sizes.append(size)
            if fault:
                self.faults[number] = fault

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Picture ``number``; see `load_image`, whose errors it raises."""
        return load_image(self.paths[number])

    def read_back(self, number: int, room: int) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Picture ``number`` with its number; of a folder, no other comes with it."""
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

    def remarks(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """What is odd about the chosen files but does no harm: ``(kind, text)``."""
        names = [self.names[n] for n in numbers]
        told = [
            ("gap", f"{count} missing between {before} and {after}") for before, after, count in gaps(names) if count
        ]
        stems = Counter(Path(name).stem for name in names)
        if twice := [stem for stem, count in stems.items() if count > 1]:
            told.append(
                ("names", f"{len(twice)} names occur with several suffixes, e.g. {twice[0]}; choose by pattern=")
            )
        return told

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


def is_picture(path: Path) -> bool:
    """Whether a file counts as a frame: known suffix, not hidden, not a folder."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def _order(path: Path) -> tuple:
    return natural_key(path.name), path.name


def _header(path: Path) -> tuple[tuple[int, int] | None, str | None]:
    """``(H, W)`` after EXIF rotation, without decoding; or None and what is wrong."""
    try:
        with opened(path) as (picture, _, _):
            width, height = picture.size
            # of a PNG, EXIF behind the pixels would mean decoding them; `load_image` then finds the size out
            told = picture.format != "PNG" or "exif" in picture.info
            turned = told and orientation(picture) in (5, 6, 7, 8)
    except NbHelpersError as error:
        reason = type(error.__cause__ or error).__name__
        return None, "it is empty" if path.stat().st_size == 0 else f"it cannot be read ({reason})"
    return ((width, height) if turned else (height, width)), None
