"""Opens again what an export wrote, and checks names, count, sizes, depth, polarity, alpha and colours."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.matting import Mattes
from nbhelpers.core.orientation import UPRIGHT, orientation_of, stored_size
from nbhelpers.export.bleed import SOLID
from nbhelpers.export.plan import Plan, Target, expected, matte_of
from nbhelpers.export.source import read_source

EDGE = 3  # pixels around the matte in which colours must go on
DARK = 0.5  # of the brightness that the edge should have: a straight picture never falls below
SHOWN = 5  # faults in a report
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """What is wrong with one file of an export.

    Attributes:
        path: of the file.
        what: one line for people.
    """

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        kind: of the export.
        folder: of the export.
        files: how many were looked at.
        kinds: how many of each kind of picture were found good.
        faults: what is wrong, in the order of frames.
    """

    kind: str
    folder: Path
    files: int
    kinds: dict[str, int]
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def check(self) -> Report:
        """The report itself, if nothing is wrong.

        Raises:
            NbHelpersError: something is wrong; the first wrong file is named.
        """
        if self.faults:
            raise NbHelpersError(
                f"the {self.kind} export is not right: {self.faults[0].what}",
                given=f"{self.faults[0].path}, and {len(self.faults) - 1} more faults"
                if len(self.faults) > 1
                else self.faults[0].path,
                do="run the export again with replace=True; a file that was changed since, or belongs to no frame, "
                "must be moved away first",
            )
        return self

    def __str__(self) -> str:
        lines = [f"{self.kind} in {self.folder}: {self.files} files, {'all good' if self.ok else 'FAULTY'}"]
        lines += [f"  {count} x {kind}" for kind, count in self.kinds.items()]
        lines += [f"  {fault}" for fault in self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            lines.append(f"  and {len(self.faults) - SHOWN} more")
        return "\n".join(lines)


def verify(plan: Plan, mattes: Mattes, every: int = 1, progress: Callable[[int, int], object] | None = None) -> Report:
    """Open an export's files and compare them with the clip and its mattes.

    Example:
        >>> print(verify(plan, mattes).check())
        colmap in scene/masks: 120 files, all good
          120 x keep white

    Args:
        plan: the export.
        mattes: of the clip.
        every: the pixels of every so many frames are looked at; that files are there, of all.
        progress: called with the number of frames done, and of all.
    """
    faults: list[Fault] = []
    kinds: Counter[str] = Counter()
    for done, (frame, targets) in enumerate(plan.by_frame.items(), start=1):
        looked = (done - 1) % every == 0
        bits = max((target.bits for target in targets if target.is_rgba), default=0)
        image = read_source(mattes, frame, bits) if bits and looked else None
        by_depth: dict[int, np.ndarray] = {}
        for target in targets:
            if looked and target.bits not in by_depth:
                by_depth[target.bits] = matte_of(target, mattes, image)
            what = _absent(target.path) or (_fault(target, by_depth[target.bits], image) if looked else None)
            if what:
                faults.append(Fault(target.path, what))
            else:
                kinds[_kind(target)] += 1
        if progress is not None:
            progress(done, len(plan.by_frame))
    for path, text in plan.texts.items():
        if not path.is_file():
            faults.append(Fault(path, "it is missing"))
        elif path.read_text(encoding="utf-8") != text:
            faults.append(Fault(path, "it says something else than the export wrote"))
    planned = {path.resolve() for path in plan.paths}
    for folder in plan.own:
        found = (path for path in sorted(folder.rglob("*.png")) if not path.name.startswith("."))
        strangers = (path for path in found if path.resolve() not in planned)
        faults += [Fault(path, "it belongs to no frame of the clip") for path in strangers]
    return Report(plan.kind, plan.folder, len(plan.paths), dict(kinds), tuple(faults))


def _kind(target: Target) -> str:
    small = f", {target.shrink} times smaller" if target.shrink > 1 else ""
    return f"{target.picture}, {target.bits} bit{small}"


def _absent(path: Path) -> str | None:
    if not path.is_file():
        return "it is missing"
    return "it is empty" if path.stat().st_size == 0 else None


def _fault(target: Target, matte: np.ndarray, image: np.ndarray | None) -> str | None:
    """What is wrong with a file that is there, or None."""
    found = _read(target.path)
    if found is None:
        return "it cannot be read; it may be cut off"
    size = target.size(matte.shape)
    if found.shape[:2] != size:
        return f"it is {found.shape[1]} x {found.shape[0]} pixels, not {size[1]} x {size[0]}"
    if what := _turned(target, found):
        return what
    if found.dtype != (np.uint8 if target.bits == 8 else np.uint16):
        return f"it has {8 * found.dtype.itemsize} bits a channel, not {target.bits}"
    if target.is_rgba and (found.ndim != 3 or found.shape[2] != 4):
        return "it has no alpha channel"
    if not target.is_rgba and found.ndim != 2:
        return "it is no grey picture"
    if not target.is_rgba:
        return _compare(found, expected(target, matte), binary=target.picture != "matte")
    if what := _compare(found[:, :, 3], matte, binary=False):
        return f"alpha: {what}"
    right = expected(target, matte, image)
    if np.array_equal(found, right):
        return None
    return _colours(found, right, matte, target.picture == "straight")


def _turned(target: Target, found: np.ndarray) -> str | None:
    """What is wrong with a mask over a photo, by the photo's file as it is now."""
    if target.photo is None or target.is_rgba:
        return None
    try:
        tag, size = orientation_of(target.photo), stored_size(target.photo)
    except NbHelpersError:
        return f"the photo that it is laid over cannot be read: {target.photo}"
    if tag not in (UPRIGHT, target.orientation):
        return f"{target.photo.name} is stored turned (EXIF {tag}), and the mask is made for EXIF {target.orientation}"
    if found.shape[:2] != size:
        return (
            f"it is {found.shape[1]} x {found.shape[0]} pixels, and {target.photo.name} is stored with "
            f"{size[1]} x {size[0]}"
        )
    return None


def _compare(found: np.ndarray, right: np.ndarray, binary: bool) -> str | None:
    if np.array_equal(found, right):
        return None
    full = np.iinfo(right.dtype).max
    if np.array_equal(found, full - right):
        return "the polarity is wrong: black and white are swapped"
    if binary and not np.isin(np.unique(found), (0, full)).all():
        return "it is not pure black and white"
    if found.min() == found.max():
        return f"it is {found.max()} everywhere"
    return f"{np.count_nonzero(found != right) / right.size:.1%} of its pixels differ from the frame's matte"


def _colours(found: np.ndarray, right: np.ndarray, matte: np.ndarray, straight: bool) -> str:
    full = np.iinfo(right.dtype).max
    near = cv2.dilate((matte > 0).view(np.uint8), np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)).view(np.bool_)
    edge = near & (matte < round(SOLID * full))
    if straight and edge.any() and found[edge][:, :3].mean() < DARK * right[edge][:, :3].mean():
        if (found[:, :, :3] <= found[:, :, 3:]).all():
            return "its colours are premultiplied with alpha, not straight"
        return "its colours are dark under the edge: resizing would bring a fringe"
    if not straight and (found[:, :, :3] > found[:, :, 3:]).any():
        return "its colours are straight, not premultiplied with alpha"
    opaque = matte == full
    if not np.array_equal(found[opaque], right[opaque]):
        return "its colours are not those of the original"
    return "its colours at the edge are not those of the export"


def _read(path: Path) -> Shaped[np.ndarray, "h w"] | Shaped[np.ndarray, "h w c"] | None:
    """A PNG as it is stored: grey, RGB or RGBA, 8 or 16 bit; None if it cannot be read."""
    try:
        data = np.fromfile(path, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (OSError, cv2.error):
        return None
    if picture is None or picture.ndim == 2:
        return picture
    order = [2, 1, 0, 3][: picture.shape[2]]
    return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA if len(order) == 4 else cv2.COLOR_BGR2RGB)
