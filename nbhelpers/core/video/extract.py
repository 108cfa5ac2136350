"""A clip written out as numbered pictures, so that other tools find the frames that were worked on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.images import save_image
from nbhelpers.core.video.frames import Frames

NOTE = ".frames.json"
SUFFIXES = (".png", ".jpg", ".tif", ".webp", ".bmp")


def extract(
    frames: Frames,
    folder: str | Path,
    *,
    suffix: str = ".png",
    first: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[Path]:
    """Write every frame to ``folder`` as ``00000.png``, ``00001.png``, ...; go on where an earlier call was stopped.

    Example:
        >>> extract(Frames("walk.mp4", step=5), "outputs/walk", suffix=".jpg")[-1].name
        '00049.jpg'

    Each file is whole or not there. A note in the folder tells which clip the pictures are of; with it, pictures that
    are there already are kept, and a folder with pictures of something else is left alone.

    Args:
        frames: the clip; ``step``, ``start`` and ``stop`` are its own.
        folder: made if it is missing; never the folder of the originals.
        suffix: the format: ``.png`` and ``.tif`` lose nothing; ``.jpg`` is what SAM 2's own scripts read.
        first: number of the first picture.
        progress: is told the number of each frame that is there.

    Returns:
        The files, one for each frame.

    Raises:
        NbHelpersError: the folder holds other pictures, is read-only, or the disk is full; a frame cannot be read.
    """
    folder = Path(folder)
    if suffix not in SUFFIXES:
        raise NbHelpersError("frames cannot be written so", given=suffix, expected=", ".join(SUFFIXES))
    digits = max(5, len(str(first + len(frames) - 1)))
    files = [folder / f"{first + index:0{digits}d}{suffix}" for index in range(len(frames))]
    about = {"frames": frames.signature, "count": len(frames), "first": first, "suffix": suffix}
    _claim(folder, files, about)
    for index, file in enumerate(files):
        if not file.exists():
            save_image(file, frames[index])
        if progress is not None:
            progress(index)
    return files


def _claim(folder: Path, files: list[Path], about: dict) -> None:
    """Write the note, or see that the one that is there says the same."""
    note = folder / NOTE
    if note.exists():
        try:
            told = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = None
        if told == about:
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
