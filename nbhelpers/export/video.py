"""Videos of the result: overlay or side by side for review; ProRes 4444, PNG in MOV and WebM with alpha."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing
from nbhelpers.core.images import fit, paste
from nbhelpers.core.lazy import needs
from nbhelpers.core.mattes import Mattes
from nbhelpers.core.video_file import exact_rate
from nbhelpers.export.manifest import Manifest, unwritable
from nbhelpers.export.masks import premultiplied_rgba, straight_rgba

FPS = 25.0  # of clips without a frame rate
PREVIEW = 1920  # pixels of the longer side of MP4s; many players refuse larger ones
COLOURS = ((255, 64, 64), (64, 160, 255), (80, 220, 100), (255, 190, 40), (200, 90, 255), (60, 220, 220))
TINT = 0.45  # opacity of an overlay
CHECKS = ((204, 204, 204), (150, 150, 150))
CHECK = 16  # pixels
ENCODERS = {  # style -> suffix, encoder, pixel format, options
    "overlay": (".mp4", "libx264", "yuv420p", {"crf": "18", "preset": "veryfast"}),
    "side by side": (".mp4", "libx264", "yuv420p", {"crf": "18", "preset": "veryfast"}),
    "prores": (".mov", "prores_ks", "yuva444p10le", {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}),
    "png": (".mov", "png", "rgba", {}),
    "webm": (".webm", "libvpx-vp9", "yuva420p", {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "4"}),
}


@dataclass(frozen=True)
class Video:
    """A video file of the result of a clip.

    Attributes:
        path: ``.mp4``; with alpha ``.mov``, or ``.webm``.
        style: ``"overlay"``: the objects tinted; ``"side by side"``: the clip, and the objects on a checkerboard;
            ``"prores"``: ProRes 4444 with alpha; ``"png"``: PNG in MOV with alpha, lossless; ``"webm"``: VP9 with
            alpha for web pages, with square pixels and frame times in whole milliseconds.
        fps: frames per second; by default that of the clip, or the exact frame times if it varies.
        longest: maximum pixels of the longer side; by default 1920 for MP4, and unlimited with alpha.
        premultiplied: multiply colours by alpha; otherwise straight, with colours extended outward.
    """

    path: Path
    style: Literal["overlay", "side by side", "prores", "png", "webm"]
    fps: float | None = None
    longest: int | None = None
    premultiplied: bool = False

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path).expanduser())
        if self.style not in ENCODERS:
            raise NbHelpersError("unknown video style", given=self.style, expected=", ".join(ENCODERS))
        suffix = ENCODERS[self.style][0]
        if self.path.suffix.lower() != suffix:
            raise NbHelpersError(f"a video of this style ends in {suffix}", given=self.path)
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise NbHelpersError("the frame rate is out of range", given=self.fps, expected="0 to 1000 per second")
        if self.longest is not None and self.longest < 16:
            raise NbHelpersError("the video would be too small", given=self.longest, expected="16 pixels or more")

    @property
    def has_alpha(self) -> bool:
        """Whether transparency is stored."""
        return self.style in ("prores", "png", "webm")

    @property
    def limit(self) -> int | None:
        """Maximum pixels of the longer side."""
        return PREVIEW if self.longest is None and not self.has_alpha else self.longest

    def rate(self, mattes: Mattes) -> Fraction:
        """Frames per second; for 23.976, 29.97 etc. the exact 24000/1001, 30000/1001."""
        if self.fps is None and (rate := getattr(mattes.frames, "rate", None)):
            return rate
        return exact_rate(float(self.fps or getattr(mattes.frames, "fps", None) or FPS))

    def aspect(self, mattes: Mattes) -> Fraction:
        """Width over height of a pixel as stored; browsers expect square ones of WebM, so its frames are stretched."""
        return Fraction(1) if self.style == "webm" else getattr(mattes.frames, "aspect", Fraction(1))

    def stamps(self, mattes: Mattes) -> tuple[np.ndarray, Fraction] | None:
        """The exact frame times if the frame rate varies, see `nbhelpers.core.video.Frames.stamps`; else None."""
        return getattr(mattes.frames, "stamps", None) if self.fps is None else None


def write_video(
    video: Video, mattes: Mattes, replace: bool = False, progress: Callable[[int, int], object] | None = None
) -> Path:
    """Encode a video atomically; an existing one of the same mattes is kept. Returns the path.

    Example:
        >>> write_video(Video("out/walk.mp4", "overlay"), mattes)

    Args:
        video: style and path.
        mattes: of the clip.
        replace: overwrite a video that an earlier export wrote from other masks or settings.
        progress: called with the number of finished frames and the total; may raise to stop.

    Raises:
        NbHelpersError: a file of other origin exists, the disk is full, the encoder is missing.
    """
    manifest = Manifest(video.path.parent)
    manifest.check([video.path])
    signature = _signature(video, mattes)
    if manifest.is_done(video.path, signature):
        return video.path
    if video.path.exists() and not replace:
        raise NbHelpersError(
            "the video exists from an earlier export of other masks or settings",
            given=video.path,
            do="pass replace=True to overwrite it, or choose another name",
        )
    try:
        with replacing(video.path) as temporary:
            _encode(temporary, video, mattes, progress)
            manifest.adopt(video.path, temporary, signature)
    except NbHelpersError as error:
        if isinstance(error.__cause__, OSError):
            raise unwritable(video.path, error.__cause__) from error.__cause__
        raise
    return video.path


def video_frames(video: Video, mattes: Mattes) -> Iterator[np.ndarray]:
    """The frames of a video before encoding: RGB, or RGBA for styles with alpha."""
    for index in range(len(mattes)):
        image = mattes.image(index)
        if video.has_alpha:
            matte = mattes.make(index, image)
            make = premultiplied_rgba if video.premultiplied else straight_rgba
            picture = make(image, matte)
            if video.style == "webm" and (aspect := getattr(mattes.frames, "aspect", 1)) != 1:
                picture = cv2.resize(picture, (round(picture.shape[1] * aspect), picture.shape[0]))
            yield picture if video.limit is None else fit(picture, video.limit)
        elif video.style == "overlay":
            yield _even(overlay_frame(image, mattes.make_each(index, image), video.limit))
        else:
            yield _even(side_by_side_frame(image, mattes.make(index, image), video.limit))


def overlay_frame(
    image: UInt8[np.ndarray, "h w 3"], mattes: dict, longest: int | None = None
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The frame with each object tinted and outlined.

    Args:
        image: RGB.
        mattes: object -> ``(H, W) uint8``; colours follow the order.
        longest: maximum pixels of the longer side.
    """
    out = np.array(image if longest is None else fit(image, longest))
    size = out.shape[1::-1]
    width = max(1, round(max(size) / 700))
    for number, matte in enumerate(mattes.values()):
        colour = COLOURS[number % len(COLOURS)]
        small = matte if matte.shape[::-1] == size else cv2.resize(matte, size, interpolation=cv2.INTER_AREA)
        paste(out, np.full_like(out, colour), small.astype(np.float32) * np.float32(TINT / 255))
        lines, _ = cv2.findContours((small > 127).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(out, lines, -1, colour, width, cv2.LINE_AA)
    return out


def side_by_side_frame(
    image: UInt8[np.ndarray, "h w 3"], matte: UInt8[np.ndarray, "h w"], longest: int | None = None
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The frame, and to its right the cut-out on a checkerboard; ``longest`` applies to each of them."""
    small = np.array(image if longest is None else fit(image, longest))
    if small.shape[:2] != matte.shape:
        matte = cv2.resize(matte, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    rows, columns = np.ogrid[: small.shape[0], : small.shape[1]]
    squares = ((rows // CHECK + columns // CHECK) % 2 == 0)[:, :, None]
    board = np.where(squares, np.array(CHECKS[0], np.uint8), np.array(CHECKS[1], np.uint8))
    paste(board, small, matte.astype(np.float32) / np.float32(255))
    return np.hstack([small, board])


def _encode(path: Path, video: Video, mattes: Mattes, progress: Callable[[int, int], object] | None) -> None:
    """Encode all frames to ``path``."""
    needs("video", "av")
    import av
    import av.error

    _, encoder, pixel_format, options = ENCODERS[video.style]
    stamps, tick = video.stamps(mattes) or (None, None)
    if encoder not in av.codecs_available:
        raise NbHelpersError("this build of PyAV cannot encode such a video", given=encoder, do="pip install -U av")
    try:
        # the index is stored first, so that browsers can play the file while loading
        index_first = {} if video.style == "webm" else {"movflags": "+faststart"}
        with av.open(f"file:{path}", "w", format=path.suffix[1:], options=index_first) as container:
            stream: Any = None
            for done, picture in enumerate(video_frames(video, mattes), start=1):
                if stream is None:
                    stream = container.add_stream(encoder, rate=video.rate(mattes), options=dict(options))
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = pixel_format
                    stream.sample_aspect_ratio = video.aspect(mattes)
                    if tick is not None:
                        stream.time_base = stream.codec_context.time_base = tick
                    if encoder != "png":  # BT.709, video range: the default of players, made explicit
                        context = stream.codec_context
                        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
                frame = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(picture), format="rgba" if video.has_alpha else "rgb24"
                )
                if encoder != "png":
                    frame = frame.reformat(format=pixel_format, dst_colorspace="ITU709", dst_color_range="MPEG")
                if stamps is not None:
                    frame.pts, frame.time_base = int(stamps[done - 1]), tick
                for packet in stream.encode(frame):
                    container.mux(packet)
                if progress is not None:
                    progress(done, len(mattes))
            for packet in stream.encode():
                container.mux(packet)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise NbHelpersError("the video cannot be encoded", given=f"{video.path}: {error}") from error


def _even(picture: np.ndarray) -> np.ndarray:
    """H.264 halves the chroma resolution, so sides must be even; an odd last row or column is repeated."""
    bottom, right = picture.shape[0] % 2, picture.shape[1] % 2
    return cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE) if bottom or right else picture


def _signature(video: Video, mattes: Mattes) -> str:
    """A hash of what the video is made from."""
    parts = [video.style, video.limit, video.premultiplied, video.rate(mattes), len(mattes)]
    parts += [getattr(mattes.frames, "signature", None), mattes.names]
    parts += [] if (times := video.stamps(mattes)) is None else [times[0].tolist(), times[1]]
    parts += [mattes.signature(index) for index in range(len(mattes))]
    return f"{zlib.crc32(repr(parts).encode()):08x}"
