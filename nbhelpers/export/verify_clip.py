"""Opens the single files of a clip again, videos and COCO, and checks them as `verify` checks pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.core.masks import decode_rle
from nbhelpers.core.matting import Mattes
from nbhelpers.export.sequence_coco import sequence_to_coco
from nbhelpers.export.verify import Fault, Report
from nbhelpers.export.video import ENCODERS, Video, pictures

CODECS = {"libx264": "h264", "prores_ks": "prores", "png": "png"}
LOSSY = 6.0  # levels of mean difference that compression may make


def verify_video(video: Video, mattes: Mattes) -> Report:
    """Decode a video and compare codec, size, count, rate, alpha and every frame with what it should show."""
    needs("video", "av")
    import av

    what = "it is missing" if not video.path.is_file() else None
    if what is None:
        try:
            what = _video_fault(video, mattes)
        except (av.error.FFmpegError, IndexError) as error:
            what = f"it cannot be read ({error})"
    return _report(video.style, video.path, what)


def verify_sequence_coco(path: str | Path, mattes: Mattes, names: Mapping[Any, str] | None = None) -> Report:
    """Read a COCO file and compare images, objects and every mask with the clip's."""
    path = Path(path).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        what = _coco_fault(found, sequence_to_coco(mattes, names))
    except FileNotFoundError:
        what = "it is missing"
    except (OSError, ValueError, KeyError, TypeError, NbHelpersError) as error:
        what = f"it cannot be read ({error})"
    return _report("coco", path, what)


def _report(kind: str, path: Path, what: str | None) -> Report:
    return Report(kind, path.parent, 1, {} if what else {kind: 1}, (Fault(path, what),) if what else ())


def _video_fault(video: Video, mattes: Mattes) -> str | None:
    import av

    with av.open(f"file:{video.path}") as container:
        if not container.streams.video:
            return "it holds no pictures"
        stream = container.streams.video[0]
        codec = CODECS[ENCODERS[video.style][1]]
        if stream.codec_context.name != codec:
            return f"its codec is {stream.codec_context.name}, not {codec}"
        if video.has_alpha and not any(part.is_alpha for part in stream.codec_context.format.components):
            return "it has no alpha channel"
        if (stream.sample_aspect_ratio or 1) != (aspect := getattr(mattes.frames, "aspect", 1)):
            return f"its pixels are {stream.sample_aspect_ratio} times as wide as high, not {aspect}"
        stamps, tick = video.stamps(mattes) or (None, None)
        if stamps is None and abs(stream.average_rate / video.rate(mattes) - 1) > 1e-3:
            return f"it runs at {stream.average_rate} frames a second, not {video.rate(mattes)}"
        decoded = container.decode(stream)
        for index, right in enumerate(pictures(video, mattes)):
            frame = next(decoded, None)
            if frame is None:
                return f"it ends after {index} of {len(mattes)} frames"
            if (frame.height, frame.width) != right.shape[:2]:
                return f"it is {frame.width} x {frame.height} pixels, not {right.shape[1]} x {right.shape[0]}"
            start = frame.pts * frame.time_base if index == 0 else start
            if stamps is not None and frame.pts * frame.time_base - start != int(stamps[index]) * tick:
                return f"frame {index} is not shown at the clip's time"
            if what := _frame_fault(frame, right, video):
                return f"frame {index}: {what}"
        return None if next(decoded, None) is None else f"it goes on after {len(mattes)} frames"


def _frame_fault(frame: Any, right: np.ndarray, video: Video) -> str | None:
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
    return float(np.abs(a.astype(np.int16) - b).mean())


def _coco_fault(found: dict, right: dict) -> str | None:
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
