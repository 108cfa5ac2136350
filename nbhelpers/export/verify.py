"""Verification of exports by reading them back: names, count, sizes, depth, polarity, alpha, colours, codecs, COCO."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import UPRIGHT, orientation_of, stored_size
from nbhelpers.core.lazy import needs
from nbhelpers.core.masks import decode_rle
from nbhelpers.core.mattes import Mattes
from nbhelpers.export.layouts import Layout, Target, read_original, target_matte, target_pixels
from nbhelpers.export.masks import SOLID, sequence_to_coco
from nbhelpers.export.video import ENCODERS, Video, video_frames

EDGE = 3  # pixels around the matte in which colours must be extended
DARK = 0.5  # minimum brightness of the edge of a straight image, as a fraction of the expected one
SHOWN = 5  # mismatches in a report
CODECS = {"libx264": "h264", "prores_ks": "prores", "png": "png", "libvpx-vp9": "vp9"}
LOSSY = 6.0  # mean difference in levels that lossy compression may cause
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mismatch:
    """A problem with a file of an export.

    Attributes:
        path: of the file.
        what: description in one line.
    """

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class ExportReport:
    """Result of a verification.

    Attributes:
        kind: of the export.
        folder: of the export.
        files: number of files checked.
        kinds: number of correct images of each kind.
        mismatches: the problems, in the order of frames.
    """

    kind: str
    folder: Path
    files: int
    kinds: dict[str, int]
    mismatches: tuple[Mismatch, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no mismatch."""
        return not self.mismatches

    def check(self) -> ExportReport:
        """The report itself, if there is no mismatch.

        Raises:
            NbHelpersError: there is a mismatch; the first file is named.
        """
        if self.mismatches:
            first, *others = self.mismatches
            raise NbHelpersError(
                f"the {self.kind} export failed verification: {first.what}",
                given=f"{first.path}, and {len(others)} more mismatches" if others else first.path,
                do="run the export again with replace=True; a file that has been changed, or belongs to no frame, "
                "must be moved away first",
            )
        return self

    def __str__(self) -> str:
        lines = [f"{self.kind} in {self.folder}: {self.files} files, {'all good' if self.ok else 'FAULTY'}"]
        lines += [f"  {count} x {kind}" for kind, count in self.kinds.items()]
        lines += [f"  {mismatch}" for mismatch in self.mismatches[:SHOWN]]
        if len(self.mismatches) > SHOWN:
            lines.append(f"  and {len(self.mismatches) - SHOWN} more")
        return "\n".join(lines)


def verify_layout(
    layout: Layout, mattes: Mattes, every: int = 1, progress: Callable[[int, int], object] | None = None
) -> ExportReport:
    """Read the files of an export and compare them with the clip and its mattes.

    Example:
        >>> print(verify_layout(layout, mattes).check())
        colmap in scene/masks: 120 files, all good
          120 x keep white

    Args:
        layout: the export.
        mattes: of the clip.
        every: the pixels of every nth frame are compared; existence is checked for all files.
        progress: called with the number of finished frames and the total.
    """
    mismatches: list[Mismatch] = []
    kinds: Counter[str] = Counter()
    for done, (frame, targets) in enumerate(layout.by_frame.items(), start=1):
        is_checked = (done - 1) % every == 0
        bits = max((target.bits for target in targets if target.is_rgba), default=0)
        image = read_original(mattes, frame, bits) if bits and is_checked else None
        by_depth: dict[int, np.ndarray] = {}
        for target in targets:
            if is_checked and target.bits not in by_depth:
                by_depth[target.bits] = target_matte(target, mattes, image)
            what = _missing_file(target.path) or (
                _picture_mismatch(target, by_depth[target.bits], image) if is_checked else None
            )
            if what:
                mismatches.append(Mismatch(target.path, what))
            else:
                kinds[_kind(target)] += 1
        if progress is not None:
            progress(done, len(layout.by_frame))
    for path, text in layout.texts.items():
        if not path.is_file():
            mismatches.append(Mismatch(path, "it is missing"))
        elif path.read_text(encoding="utf-8") != text:
            mismatches.append(Mismatch(path, "its content has been changed since the export"))
    planned = {path.resolve() for path in layout.paths}
    for folder in layout.own:
        found = (path for path in sorted(folder.rglob("*.png")) if not path.name.startswith("."))
        strangers = (path for path in found if path.resolve() not in planned)
        mismatches += [Mismatch(path, "it belongs to no frame of the clip") for path in strangers]
    return ExportReport(layout.kind, layout.folder, len(layout.paths), dict(kinds), tuple(mismatches))


def _kind(target: Target) -> str:
    """The kind of image, for the report."""
    small = f", {target.shrink} times smaller" if target.shrink > 1 else ""
    return f"{target.picture}, {target.bits} bit{small}"


def _missing_file(path: Path) -> str | None:
    """The problem if a file is missing or empty, else None."""
    if not path.is_file():
        return "it is missing"
    return "it is empty" if path.stat().st_size == 0 else None


def _picture_mismatch(target: Target, matte: np.ndarray, image: np.ndarray | None) -> str | None:
    """The problem with an existing file, or None."""
    found = _read(target.path)
    if found is None:
        return "it cannot be read; it may be truncated"
    size = target.size(matte.shape)
    if found.shape[:2] != size:
        return f"it is {found.shape[1]} x {found.shape[0]} pixels, not {size[1]} x {size[0]}"
    if what := _orientation_mismatch(target, found):
        return what
    if found.dtype != (np.uint8 if target.bits == 8 else np.uint16):
        return f"it has {8 * found.dtype.itemsize} bits per channel, not {target.bits}"
    if target.is_rgba and (found.ndim != 3 or found.shape[2] != 4):
        return "it has no alpha channel"
    if not target.is_rgba and found.ndim != 2:
        return "it is not a greyscale image"
    if not target.is_rgba:
        return _mask_mismatch(found, target_pixels(target, matte), binary=target.picture != "matte")
    if what := _mask_mismatch(found[:, :, 3], matte, binary=False):
        return f"alpha: {what}"
    right = target_pixels(target, matte, image)
    if np.array_equal(found, right):
        return None
    return _colour_mismatch(found, right, matte, target.picture == "straight")


def _orientation_mismatch(target: Target, found: np.ndarray) -> str | None:
    """The problem of a mask with the current file of its photo, or None."""
    if target.photo is None or target.is_rgba:
        return None
    try:
        tag, size = orientation_of(target.photo), stored_size(target.photo)
    except NbHelpersError:
        return f"its photo cannot be read: {target.photo}"
    if tag not in (UPRIGHT, target.orientation):
        return f"{target.photo.name} has EXIF orientation {tag}, but the mask was written for {target.orientation}"
    if found.shape[:2] != size:
        return (
            f"it is {found.shape[1]} x {found.shape[0]} pixels, and {target.photo.name} is stored with "
            f"{size[1]} x {size[0]}"
        )
    return None


def _mask_mismatch(found: np.ndarray, right: np.ndarray, binary: bool) -> str | None:
    """The problem with a mask or alpha channel, or None."""
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


def _colour_mismatch(found: np.ndarray, right: np.ndarray, matte: np.ndarray, straight: bool) -> str:
    """The problem with the colours of an RGBA image."""
    full = np.iinfo(right.dtype).max
    near = cv2.dilate((matte > 0).view(np.uint8), np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)).view(np.bool_)
    edge = near & (matte < round(SOLID * full))
    if straight and edge.any() and found[edge][:, :3].mean() < DARK * right[edge][:, :3].mean():
        if (found[:, :, :3] <= found[:, :, 3:]).all():
            return "its colours are premultiplied by alpha, not straight"
        return "its colours are dark under the edge: resizing would cause a fringe"
    if not straight and (found[:, :, :3] > found[:, :, 3:]).any():
        return "its colours are straight, not premultiplied by alpha"
    opaque = matte == full
    if not np.array_equal(found[opaque], right[opaque]):
        return "its colours are not those of the original"
    return "its colours at the edge are not those of the export"


def _read(path: Path) -> Shaped[np.ndarray, "h w"] | Shaped[np.ndarray, "h w c"] | None:
    """A PNG as stored: greyscale, RGB or RGBA, 8 or 16 bit; None if it cannot be read."""
    try:
        data = np.fromfile(path, np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (OSError, cv2.error):
        return None
    if picture is None or picture.ndim == 2:
        return picture
    order = [2, 1, 0, 3][: picture.shape[2]]
    return cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA if len(order) == 4 else cv2.COLOR_BGR2RGB)


def verify_video(video: Video, mattes: Mattes) -> ExportReport:
    """Decode a video and check codec, size, number of frames, frame rate, alpha and the content of every frame."""
    needs("video", "av")
    import av
    import av.error

    what = "it is missing" if not video.path.is_file() else None
    if what is None:
        try:
            what = _video_mismatch(video, mattes)
        except (av.error.FFmpegError, IndexError) as error:
            what = f"it cannot be read ({error})"
    return _report(video.style, video.path, what)


def verify_sequence_coco(path: str | Path, mattes: Mattes, names: Mapping[Any, str] | None = None) -> ExportReport:
    """Read a COCO file and compare images, objects and every mask with those of the clip."""
    path = Path(path).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        what = _coco_mismatch(found, sequence_to_coco(mattes, names))
    except FileNotFoundError:
        what = "it is missing"
    except (OSError, ValueError, KeyError, TypeError, NbHelpersError) as error:
        what = f"it cannot be read ({error})"
    return _report("coco", path, what)


def _report(kind: str, path: Path, what: str | None) -> ExportReport:
    """The report of an export of one file."""
    return ExportReport(kind, path.parent, 1, {} if what else {kind: 1}, (Mismatch(path, what),) if what else ())


def _video_mismatch(video: Video, mattes: Mattes) -> str | None:
    """The problem with a video, or None."""
    import av
    import av.error

    with av.open(f"file:{video.path}") as container:
        if not container.streams.video:
            return "it has no video stream"
        stream: Any = container.streams.video[0]
        codec = CODECS[ENCODERS[video.style][1]]
        if stream.codec_context.name != codec:
            return f"its codec is {stream.codec_context.name}, not {codec}"
        decoder: Any = stream.codec_context
        if codec == "vp9":  # FFmpeg's own decoder leaves the alpha out
            has_alpha, decoder = stream.metadata.get("alpha_mode") == "1", av.CodecContext.create("libvpx-vp9", "r")
        else:
            has_alpha = any(part.is_alpha for part in decoder.format.components)
        if video.has_alpha and not has_alpha:
            return "it has no alpha channel"
        if (stream.sample_aspect_ratio or 1) != (aspect := video.aspect(mattes)):
            return f"its pixel aspect ratio is {stream.sample_aspect_ratio}, not {aspect}"
        shown = video.stamps(mattes)
        if shown is None and abs((stream.average_rate or 0) / video.rate(mattes) - 1) > 1e-3:
            return f"its frame rate is {stream.average_rate}, not {video.rate(mattes)}"
        decoded = (frame for packet in container.demux(stream) for frame in decoder.decode(packet))
        start = Fraction(0)
        for index, right in enumerate(video_frames(video, mattes)):
            frame = next(decoded, None)
            if frame is None:
                return f"it ends after {index} of {len(mattes)} frames"
            if (frame.height, frame.width) != right.shape[:2]:
                return f"it is {frame.width} x {frame.height} pixels, not {right.shape[1]} x {right.shape[0]}"
            time = frame.pts * frame.time_base
            start = time if index == 0 else start
            slip = 0 if shown is None else abs(time - start - int(shown[0][index]) * shown[1])
            if slip >= (stream.time_base if codec == "vp9" else Fraction(1, 10**9)):  # WebM counts milliseconds
                return f"frame {index} has another time than in the clip"
            if what := _frame_mismatch(frame, right, video):
                return f"frame {index}: {what}"
        return None if next(decoded, None) is None else f"it has more than {len(mattes)} frames"


def _frame_mismatch(frame: Any, right: np.ndarray, video: Video) -> str | None:
    """The problem with a frame of a video, or None."""
    found = frame.reformat(
        format="rgba" if video.has_alpha else "rgb24", src_colorspace=None if video.style == "png" else "ITU709"
    ).to_ndarray()
    allowed = 0.0 if video.style == "png" else LOSSY
    if video.has_alpha:
        if _difference(found[:, :, 3], right[:, :, 3]) > allowed:
            swapped = _difference(found[:, :, 3], 255 - right[:, :, 3]) <= allowed
            return "its alpha has the wrong polarity" if swapped else "its alpha is not the frame's matte"
        found, right = found[:, :, :3], right[:, :, :3]
    return "its colours are not those of the frame" if _difference(found, right) > allowed else None


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(a.astype(np.int16) - b).mean())


def _coco_mismatch(found: dict, right: dict) -> str | None:
    """The problem with COCO data, or None."""
    if len(found["images"]) != len(right["images"]):
        return f"it lists {len(found['images'])} frames of {len(right['images'])}"
    for a, b in zip(found["images"], right["images"], strict=True):
        for key in ("file_name", "height", "width"):
            if a[key] != b[key]:
                return f"the {key.replace('_', ' ')} of frame {b['id'] - 1} is {a[key]}, not {b[key]}"
    if [category["name"] for category in found["categories"]] != [c["name"] for c in right["categories"]]:
        return "its objects are not those of the clip"
    masks = {(it["image_id"], it["category_id"]): it["segmentation"] for it in found["annotations"]}
    wanted = {(it["image_id"], it["category_id"]): it["segmentation"] for it in right["annotations"]}
    if masks.keys() != wanted.keys():
        frame = min(masks.keys() ^ wanted.keys())[0] - 1
        return f"frame {frame} has other objects than the clip"
    for key, rle in wanted.items():
        mask, truth = decode_rle(masks[key]), decode_rle(rle)
        if not np.array_equal(mask, truth):
            swapped = np.array_equal(mask, ~truth)
            return f"frame {key[0] - 1}: " + ("its mask is inverted" if swapped else "its mask is not the clip's")
    return None
