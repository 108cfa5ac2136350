"""A plan of files for a clip's mattes, and its execution: whole files, side by side, going on where it stopped."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Shaped

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import full_of
from nbhelpers.core.matting import Mattes
from nbhelpers.core.orientation import INVERSE, UPRIGHT, turn, turned_size
from nbhelpers.export.bleed import premultiplied_rgba, straight_rgba
from nbhelpers.export.ledger import Ledger
from nbhelpers.export.png import encode_png
from nbhelpers.export.source import metadata_of, orientation_tag, read_source

Picture = Literal["straight", "premultiplied", "matte", "keep white", "keep black"]
MEMORY = 1 << 30  # bytes for the frames in the making
BYTES_PER_PIXEL = 22  # of one of them: decoding takes 12, picture, mask, matte and RGBA take 10
STALE = 600  # seconds after which an unfinished file is that of a process that was killed
VERSION = 1  # of what files hold; a change makes all be written anew


@dataclass(frozen=True)
class Target:
    """One PNG of an export.

    Attributes:
        path: where it goes.
        frame: index into the clip.
        picture: ``"straight"`` or ``"premultiplied"`` RGBA; the soft grey ``"matte"``; or it in pure black and
            white, with what is kept white or black.
        bits: 8 or 16 a channel.
        shrink: the picture is that many times smaller than the frame.
        orientation: EXIF orientation, 1 to 8, of the photo that the picture is laid over by a tool that reads pixels as
            they are stored: so it is turned as that photo is.
        pixels: ``(H, W)`` of that photo as it is stored, where they do not follow from the frame's.
        photo: the file of that photo, where there is one.
        tagged: the picture says its orientation in its own EXIF entry.
    """

    path: Path
    frame: int
    picture: Picture
    bits: int = 8
    shrink: int = 1
    orientation: int = UPRIGHT
    pixels: tuple[int, int] | None = None
    photo: Path | None = None
    tagged: bool = False

    @property
    def is_rgba(self) -> bool:
        """Whether the picture holds colours."""
        return self.picture in ("straight", "premultiplied")

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the picture, from those of the frame."""
        small = max(1, size[0] // self.shrink), max(1, size[1] // self.shrink)
        return self.pixels or turned_size(small, self.orientation)


@dataclass(frozen=True)
class Plan:
    """All files of one export of one clip; made by the functions of `nbhelpers.export.splats`.

    Attributes:
        kind: name of the layout, e.g. ``"colmap"``.
        folder: all files lie in it or below.
        targets: the pictures, in the order of frames.
        texts: other files and what is in them.
        own: folders, below ``folder``, in which nothing but these files should be.
    """

    kind: str
    folder: Path
    targets: tuple[Target, ...]
    texts: Mapping[Path, str] = field(default_factory=dict)
    own: tuple[Path, ...] = ()

    @cached_property
    def by_frame(self) -> dict[int, list[Target]]:
        """The targets of each frame."""
        grouped: dict[int, list[Target]] = {}
        for target in self.targets:
            grouped.setdefault(target.frame, []).append(target)
        return grouped

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [target.path for target in self.targets] + list(self.texts)


@dataclass(frozen=True)
class Written:
    """What `write` did: the plan, how many files it wrote, and how many were there already from an earlier run."""

    plan: Plan
    written: int
    kept: int


def write(
    plan: Plan, mattes: Mattes, replace: bool = False, progress: Callable[[int, int], object] | None = None
) -> Written:
    """Write an export. Run again, it goes on where it stopped; originals and files of other origin stay untouched.

    Example:
        >>> write(colmap(mattes, "scene/masks"), mattes)
        Written(plan=..., written=120, kept=0)

    Args:
        plan: from one of the functions of `nbhelpers.export.splats`.
        mattes: the very ones that the plan was made for.
        replace: write files anew that an earlier export wrote from other masks or settings. Files of other origin
            are never replaced.
        progress: called with the number of frames done, and of all; may raise to stop.

    Raises:
        NbHelpersError: files are in the way (named), the folder is read-only, the disk is full, a frame or mask is
            wrong. What was written before stays.
    """
    twice = [path for path, times in Counter(plan.paths).items() if times > 1]
    if twice:
        raise NbHelpersError(
            "two frames would be written to one file",
            given=twice[0],
            do="give the frames names of their own, or open them as files so that their folders tell them apart",
        )
    ledger = Ledger(plan.folder)
    ledger.check(plan.paths)
    _sweep(plan)
    cores = os.cpu_count() or 1
    clip = str(getattr(mattes.frames, "signature", "")) if mattes.paths is None else ""
    deepest = max((target.bits for target in plan.targets), default=8) // 8
    pixels = mattes.size[0] * mattes.size[1] * deepest
    workers = min(cores, MEMORY // (BYTES_PER_PIXEL * pixels))  # 0: a frame is decoded when the one before is done
    count = kept = done = 0
    running: deque[Future] = deque()

    def finish(made: int) -> None:
        nonlocal count, done
        count, done = count + made, done + 1
        if progress is not None:
            progress(done, len(plan.by_frame))

    with ThreadPoolExecutor(cores) as strips, ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for frame, targets in plan.by_frame.items():
                signatures = {target: _signature(target, mattes, clip) for target in targets}
                todo = [target for target in targets if not ledger.is_done(target.path, signatures[target])]
                _refuse_changed(todo, replace)
                kept += len(targets) - len(todo)
                if not todo:
                    finish(0)
                else:
                    while running and len(running) >= workers:
                        finish(running.popleft().result())
                    bits = max((target.bits for target in todo if target.is_rgba), default=0)
                    image = read_source(mattes, frame, bits) if bits else None
                    running.append(pool.submit(_make, todo, signatures, mattes, image, ledger, strips))
                    del image
            while running:
                finish(running.popleft().result())
        finally:
            for future in running:
                future.cancel()
    for path, text in plan.texts.items():
        signature = f"{zlib.crc32(text.encode()):08x}"
        if ledger.is_done(path, signature):
            kept += 1
            continue
        if path.exists() and not replace:
            _refuse_changed_path(path)
        ledger.write(path, [text.encode()], signature)
        count += 1
    return Written(plan, count, kept)


def expected(
    target: Target, matte: Shaped[np.ndarray, "h w"], image: Shaped[np.ndarray, "h w 3"] | None = None
) -> Shaped[np.ndarray, "rows columns"] | Shaped[np.ndarray, "rows columns 4"]:
    """The array that a target's file holds.

    Args:
        target: of the plan.
        matte: of the frame, of the target's depth.
        image: the frame, 8 or 16 bit, for RGBA.
    """
    if target.is_rgba:
        if image.dtype != matte.dtype:
            image = (image >> 8).astype(np.uint8) if matte.dtype == np.uint8 else image.astype(np.uint16) * 257
        return straight_rgba(image, matte) if target.picture == "straight" else premultiplied_rgba(image, matte)
    size = turned_size(target.size(matte.shape), target.orientation)
    if size != matte.shape:
        smaller = size[0] <= matte.shape[0]
        matte = cv2.resize(matte, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    if target.picture == "matte":
        return matte
    full = full_of(matte.dtype)
    white = matte > full // 2
    out = np.where(white if target.picture == "keep white" else ~white, full, matte.dtype.type(0))
    return np.ascontiguousarray(turn(out, INVERSE[target.orientation]))


def matte_of(target: Target, mattes: Mattes, image: Shaped[np.ndarray, "h w 3"] | None) -> Shaped[np.ndarray, "h w"]:
    """The frame's matte at the target's depth; ``image`` is the frame, 8 or 16 bit, if it is at hand."""
    if image is not None and image.dtype != np.uint8:
        image = (image >> 8).astype(np.uint8)
    return mattes.make(target.frame, image, np.uint8 if target.bits == 8 else np.uint16)


def _make(
    targets: list[Target],
    signatures: Mapping[Target, str],
    mattes: Mattes,
    image: np.ndarray | None,
    ledger: Ledger,
    strips: Executor,
) -> int:
    by_depth: dict[int, np.ndarray] = {}
    for target in targets:
        if target.bits not in by_depth:
            by_depth[target.bits] = matte_of(target, mattes, image)
        about = metadata_of(mattes.paths, target.frame) if target.is_rgba else {}
        if target.tagged and target.orientation != UPRIGHT:
            about = {"exif": orientation_tag(target.orientation)}
        pixels = expected(target, by_depth[target.bits], image)
        ledger.write(target.path, encode_png(pixels, strips, **about), signatures[target])
        del pixels
    return len(targets)


def _sweep(plan: Plan) -> None:
    """Delete what killed runs of this export left under temporary names (see `nbhelpers.core.files.replacing`)."""
    stems = {(path.parent, path.stem) for path in plan.paths}
    for folder in {path.parent for path in plan.paths}:
        for path in folder.glob(".*-????????.*"):
            with contextlib.suppress(OSError):
                unfinished = (folder, path.stem[1:-9]) in stems and path.is_file()
                if unfinished and time.time() - path.stat().st_mtime > STALE:
                    path.unlink()


def _signature(target: Target, mattes: Mattes, clip: str) -> str:
    """What a file is made of, in a few characters."""
    parts = [VERSION, target.picture, target.bits, target.shrink, mattes.signature(target.frame)]
    if target.orientation != UPRIGHT or target.pixels is not None:
        parts += [target.orientation, target.pixels, target.tagged]
    if target.is_rgba:
        if mattes.paths is None:
            parts += [clip, target.frame]
        else:
            original = mattes.paths[target.frame]
            parts += [original.name, original.stat().st_size, original.stat().st_mtime_ns]
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def _refuse_changed(targets: list[Target], replace: bool) -> None:
    for target in targets:
        if not replace and target.path.exists():
            _refuse_changed_path(target.path)


def _refuse_changed_path(path: Path) -> None:
    raise NbHelpersError(
        "an earlier export wrote this file from other masks or settings",
        given=path,
        do="pass replace=True to write it anew, or export to another folder",
    )
