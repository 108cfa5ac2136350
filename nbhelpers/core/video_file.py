"""A video file with exact random access: frame ``i`` is the ``i``-th picture shown, however it is reached.

The packets are listed once without decoding them. A frame is reached by seeking to the key frame at or before it
and decoding on from there; it is known by its time stamp, never by counting, so a damaged packet shifts nothing.
A frame that the decoder had to patch counts as damaged; those built on it may show traces until the next key frame.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.lazy import needs
from nbhelpers.core.video_stills import check_unchanged, file_state

if TYPE_CHECKING:
    import av
    import av.error

NEAR = 8  # frames ahead that are decoded rather than sought: a seek empties the decoder's threads
PROBED = 5  # frames decoded at opening, to see whether time stamps can be trusted
NEAR_RATE = 1e-4  # relative difference of rates; 24 and 23.976 are ten times as far apart
SAMPLED = 1 << 16  # bytes at begin, middle and end that go into the signature
HDR = (16, 18)  # transfer, matrix and primaries by their codes in ITU-T H.273
MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)  # those that are converted rightly: RGB, BT.709, unspecified, BT.601 and the like
UNSPECIFIED, HD = 2, 720  # rows from which on players assume BT.709 where nothing is specified
WIDE = (8, 9, 10, 11, 12)  # primaries far from those of sRGB: film, BT.2020, XYZ, P3
FORMATS = re.compile(  # of pixels, as FFmpeg calls them: those whose conversion to RGB a test compares
    r"yuvj?4\d\dp|yuva?4\d\dp\d*(msb)?([bl]e)?|gbra?p((9|1\d)(msb)?[bl]e)?|gray|gray(9|1\d)[bl]e|ya8|ya16[bl]e|pal8|mono[bw]"
    r"|nv\d\d([bl]e)?|p[024]1[026][bl]e|(yuyv|uyvy|yvyu)422|y21[026]le|a?yuv(64[bl]e)?|vuy[ax]|uyva|vyu444"
    r"|(xv30|v30x)le|xv(36|48)[bl]e|(rgb|bgr)(24|48[bl]e|555le|565le)|(0|a)(rgb|bgr)|(rgb|bgr)(0|a|a64[bl]e)"
    r"|x2(rgb|bgr)10le|xyz12[bl]e"
)
SYNC = 0x47  # first byte of each packet of a transport stream


class VideoFile:
    """The frames of a video's best stream.

    Args:
        path: anything that FFmpeg opens.

    Raises:
        NbHelpersError: PyAV is missing; the file is missing, empty, cut off, or holds no video.
    """

    paths = None

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file() or self.path.stat().st_size == 0:
            what = "the video file is empty" if self.path.is_file() else "there is no such file or folder"
            raise NbHelpersError(what, given=path)
        self._state = file_state(self.path)
        self._container: Any = None
        self._stream: Any = None
        self._open()
        self.damaged: dict[int, str] = {}
        self._list_packets()
        first = self._probe()
        if first is None:
            raise NbHelpersError(
                "the video holds no frame that can be decoded", given=path, do="copy it again from its source"
            )
        check_format(first, self.path)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = exact_rate(rate) if rate else None
        self._tick: Fraction = 1 / (self.rate or Fraction(1)) if self._counted else self._stream.time_base
        self._varies = not self._counted and _is_irregular(np.diff(self._shown))
        self._matrix = display_matrix(first)
        shape = self._stream.sample_aspect_ratio or Fraction(1)
        self.aspect = 1 / shape if self._matrix is not None and self._matrix[0, 0] == 0 else shape
        self.sizes = [to_rgb(first, self._matrix).shape[:2]] * len(self)
        digits = max(5, len(str(len(self))))
        self.names = [f"{number:0{digits}d}.png" for number in range(len(self))]
        self._cut_off, self._about = self._missing_frames(), self._file_warnings(first)

    def __len__(self) -> int:
        return len(self._shown)

    @property
    def times(self) -> np.ndarray:
        """``(n,) float64``: when each frame is shown, in seconds from the first."""
        return (self._shown - self._shown[0]) * float(self._tick)

    @property
    def stamps(self) -> tuple[np.ndarray, Fraction] | None:
        """When each frame is shown, and the seconds of a step, where the frame rate varies; else None."""
        return (self._shown, self._tick) if self._varies else None

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Frame ``number`` as RGB, turned as the file says.

        Raises:
            NbHelpersError: its data are damaged or missing.
        """
        for read, picture in self.read_through(number, number):
            if read == number:
                return picture
        raise NbHelpersError(
            "the frame cannot be decoded", given=f"{self.path}, frame {self.names[number]}: its data are damaged"
        )

    def read_back(self, number: int, room: int) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """Frame ``number``, the last yielded, after up to ``room - 1`` frames before it.

        They have to be decoded anyway, and stepping back needs them next, so each frame is decoded once.
        """
        read = None
        for read, picture in self.read_through(max(self._key_before(number), number - room + 1), number):
            yield read, picture
        if read != number:
            raise NbHelpersError(
                "the frame cannot be decoded", given=f"{self.path}, frame {self.names[number]}: its data are damaged"
            )

    def read_through(self, first: int, last: int) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
        """The frames ``first`` to ``last`` that can be decoded, with their numbers; one pass over the file."""
        check_unchanged(self.path, self._state)
        # after a broken key frame or a coarse seek, a frame is reached from further back
        ways = [0, 1, 2] if self._must_seek(first) else [None, 0, 1, 2]
        for way in ways:
            start = self._position if way is None else self._seek(first, way)
            found = False
            for number, frame in self._decoded():
                if number is None:  # a frame that the list of packets does not know
                    continue
                if number >= first and number <= last:
                    found = True
                    yield number, to_rgb(frame, self._matrix)
                if number >= last:
                    break
            if found or start == 0:
                return

    def unreadable(self, numbers: Sequence[int]) -> list[int]:
        """The frames that cannot be decoded; decodes all of them."""
        self._restart()
        there = {number for number, _ in self._decoded()}
        self._restart()
        return [number for number in numbers if number not in there]

    def warnings(self, numbers: Sequence[int]) -> list[tuple[str, str]]:
        """What is odd about the chosen frames and their file but does no harm: ``(kind, text)``."""
        steps = np.diff(self.times[min(numbers) : max(numbers) + 1])
        if not self._varies or not _is_irregular(steps):
            return self._cut_off + self._about
        text = f"the frame rate varies ({1 / steps.max():.3g} to {1 / steps.min():.3g} a second)"
        return [*self._cut_off, ("rate", f"{text}; every frame is taken as it comes"), *self._about]

    def fingerprint(self, numbers: Sequence[int]) -> bytes:
        """Hash of the file's length and of three pieces of it."""
        length = self.path.stat().st_size
        digest = hashlib.sha256(str(length).encode())
        with self.path.open("rb") as stream:
            for start in (0, length // 2, max(0, length - SAMPLED)):
                stream.seek(start)
                digest.update(stream.read(SAMPLED))
        return digest.digest()

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._container is not None:
            self._container.close()
        self._container = self._stream = self._frames = None

    def __getstate__(self) -> dict:
        """Without the open file, so that a clip can be sent to another process."""
        return {**self.__dict__, "_container": None, "_stream": None, "_frames": None}

    def _open(self) -> None:
        """Open the container and its best video stream."""
        needs("video", "av")
        import av
        import av.error

        try:
            self._container = av.open(f"file:{self.path}")  # else "take:1.mp4" were a protocol
            self._stream = self._container.streams.best("video")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise NbHelpersError(
                "the video cannot be read; it may be cut off",
                given=f"{self.path}: {getattr(error, 'strerror', None) or error}",
                expected="a video file that FFmpeg knows, or a folder of pictures",
            ) from error
        if self._stream is None or _is_cover(self._stream):
            what = "the file holds no video" if self._stream is None else "the file is sound, its picture is a cover"
            raise NbHelpersError(what, given=self.path, expected="a video, or a folder of pictures")
        if self._stream.codec_context is None:  # decoding would crash the process
            raise NbHelpersError(
                "the video cannot be decoded; it may be cut off", given=self.path, do="copy it again from its source"
            )
        self._stream.thread_type = "AUTO"
        self._frames, self._position = None, -1

    def _packets(self) -> Iterator[av.Packet]:
        """The packets of the stream, up to the first damage of the container."""
        from av.error import FFmpegError

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:  # the container is damaged from here on
                return
            if packet is None:
                return
            yield packet

    def _list_packets(self) -> None:
        """List time stamps and key frames of all packets."""
        packets = [(p.pts, p.dts, p.is_keyframe) for p in self._packets() if p.size and not p.is_discard]
        stamps = [pts for pts, _, _ in packets]
        self._counted = None in stamps or len(set(stamps)) < len(stamps)
        if self._counted:
            self._count_frames()
            return
        packets.sort()
        self._shown = np.array([pts for pts, _, _ in packets], np.int64)
        # the first frame is reached from the start: its key frame may be one that an edit list hides
        self._keys = np.array(sorted({0, *(i for i, packet in enumerate(packets) if packet[2])}))
        self._key_stamps = {i: min(s for s in packets[i][:2] if s is not None) for i in self._keys.tolist() if packets}

    def _count_frames(self) -> None:
        """For files without usable time stamps: decode once, and number the frames as they come."""
        self._counted = True
        self._restart()
        self._shown = np.arange(sum(1 for _ in self._decoded()), dtype=np.int64)
        self._keys, self._key_stamps = np.array([0]), {0: 0}
        self._restart()

    def _probe(self) -> av.VideoFrame | None:
        """The first frame that can be decoded; where packets are not frames, the file is counted."""
        self._restart()
        probed = []
        for number, frame in self._decoded(strict=False):
            probed.append((number, frame))
            if len(probed) == PROBED:
                break
        numbers = [number for number, _ in probed]
        if not self._counted and (None in numbers or _is_odd(np.diff(numbers))):
            self._count_frames()
        self._restart()
        return probed[0][1] if probed else None

    def _restart(self) -> None:
        """Open the file again, at its start."""
        self.close()
        self._open()

    def _key_before(self, number: int, back: int = 0) -> int:
        """Number of the last key frame at or before a frame, or of one ``back`` key frames earlier."""
        return int(self._keys[max(0, int(np.searchsorted(self._keys, number, side="right")) - 1 - back)])

    def _must_seek(self, number: int) -> bool:
        """Whether decoding on from here does not lead to a frame, or on a longer way than from its key frame."""
        ahead = self._frames is not None and self._position < number
        return not ahead or self._key_before(number) - self._position > NEAR

    def _seek(self, number: int, back: int) -> int:
        """Place the decoder at the key frame ``back`` before the last one at or before ``number``; return which."""
        key = self._key_before(number, back)
        if self._container is None:
            self._open()
        container: Any = self._container
        if self._counted or key == self._keys[0]:
            self._restart()
            return 0
        container.seek(self._key_stamps[key], stream=self._stream, backward=True)
        self._frames, self._position = None, -1
        return key

    def _decoded(self, strict: bool = True) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Go on decoding: each frame with its number; frames of unknown time stamps are left out if ``strict``."""
        if self._frames is None:
            self._frames = self._decode()
        while (frame := next(self._frames, None)) is not None:
            if self._counted:
                number = self._position + 1
            else:
                number = int(np.searchsorted(self._shown, frame.pts)) if frame.pts is not None else len(self)
                if number == len(self) or self._shown[number] != frame.pts:
                    if strict:
                        continue
                    number = None
            self._position = self._position if number is None else number
            yield number, frame
        self._frames = None

    def _decode(self) -> Iterator[av.VideoFrame]:
        """All frames that can be decoded, from the current position."""
        from av.error import FFmpegError

        for packet in self._packets():
            try:
                frames = packet.decode()
            except FFmpegError:  # a damaged packet; its frame will be missing
                continue
            yield from (frame for frame in frames if not frame.is_corrupt)

    def _file_warnings(self, first: av.VideoFrame) -> list[tuple[str, str]]:
        """What is odd about the file as a whole."""
        found = []
        if self._counted:
            found.append(("rate", "the file has no usable time stamps; stepping back decodes it from its start"))
        videos = [each for each in self._container.streams.video if not _is_cover(each)]
        if len(videos) > 1:
            found.append(("streams", f"the file holds {len(videos)} videos; number {self._stream.index} is taken"))
        return found + picture_warnings(first, self.aspect, self._matrix)

    def _missing_frames(self) -> list[tuple[str, str]]:
        """A warning if the file was cut off."""
        promised = self._stream.frames if self._container.format.name != "avi" else 0  # there with the dropped ones
        if promised > len(self):
            return [("cut off", f"the file announces {promised} frames, {len(self)} are there")]
        what = missing_end(self.path)
        return [("cut off", f"{what}; {len(self)} frames are there")] if what else []


def exact_rate(fps: float | Fraction) -> Fraction:
    """Frames a second; for 23.976, 29.97 and their like the exact 24000/1001, 30000/1001, also out of rounded times."""
    whole = round(fps)
    for known in (Fraction(whole), Fraction(whole * 1000, 1001)):
        if abs(float(known) - float(fps)) < NEAR_RATE * float(fps):
            return known
    return fps if isinstance(fps, Fraction) else Fraction(fps).limit_denominator(1000)


def _is_irregular(steps: np.ndarray) -> bool:
    """Whether some distance between frames is far from the median of them."""
    return bool(len(steps) and np.abs(steps - np.median(steps)).max() > np.median(steps) / 4)


def _is_cover(stream: av.VideoStream) -> bool:
    """Whether a stream is the cover picture of a sound file."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _is_odd(steps: np.ndarray) -> bool:
    """Whether decoded frames are two stamps apart (two fields, a packet each), or their stamps go back.

    Some writers stamp reordered frames in the order in which they were packed, not in that in which they are shown.
    """
    return bool((len(steps) > 1 and set(steps) == {2}) or (steps < 1).any())


def to_rgb(frame: av.VideoFrame, matrix: Float[np.ndarray, "2 2"] | None) -> UInt8[np.ndarray, "h w 3"]:
    """The frame as ``(H, W, 3)`` RGB, turned by its `display_matrix`; what is transparent lies over white."""
    picture = frame.to_ndarray(format="rgba" if _has_alpha(frame) else "rgb24")
    return load_image(_turned(picture, matrix))


def check_format(frame: av.VideoFrame, path: Path) -> None:
    """Raise an error unless the pixel format is one of those that are known to be converted rightly.

    Raises:
        NbHelpersError: it is not: floating point, a sensor's raw data, or a graphics card's.
    """
    if not FORMATS.fullmatch(frame.format.name):
        raise NbHelpersError(
            "the pixels of the video are in a format whose conversion to RGB is not known to be right",
            given=f"{path}: {frame.format.name}",
            expected="YUV, RGB or grey with 8 to 16 bits a channel",
            do=f'ffmpeg -i "{path}" -c:v prores_ks -profile:v 4 converted.mov',
        )


def picture_warnings(
    frame: av.VideoFrame, aspect: Fraction | None, matrix: Float[np.ndarray, "2 2"] | None
) -> list[tuple[str, str]]:
    """What is odd about the pictures of a video: ``(kind, text)``.

    Args:
        frame: the first.
        aspect: width over height of a pixel.
        matrix: see `display_matrix`.
    """
    found = []
    if frame.interlaced_frame:
        found.append(("interlaced", "the video is interlaced; moving edges show as combs"))
    if aspect and aspect != 1:
        found.append(("pixels", f"its pixels are not square ({aspect}); frames are given as they are stored"))
    if matrix is not None and np.abs(matrix).sum() != 2:
        found.append(("pixels", "the video is to be turned by an odd angle; frames are given as they are stored"))
    if _has_alpha(frame) and frame.to_ndarray(format="rgba")[:, :, 3].min() < 255:
        found.append(("alpha", "the video is transparent in places; it is laid over white"))
    is_rgb = frame.format.is_rgb or len(frame.format.components) < 3
    if frame.color_trc in HDR:
        found.append(("colour", "the video is HDR; colours are not tone mapped"))
    elif frame.color_primaries in WIDE:
        found.append(("colour", "the video has a wide gamut; colours are not converted to sRGB and look pale"))
    if not is_rgb and frame.colorspace not in MATRICES:
        found.append(("colour", f"colours are coded in a way that is not known (matrix {int(frame.colorspace)})"))
    if not is_rgb and frame.colorspace == UNSPECIFIED and frame.height >= HD:
        found.append(("colour", "the video does not say how its colours are coded; BT.601 is taken, as FFmpeg does"))
    return found


def _has_alpha(frame: av.VideoFrame) -> bool:
    """Whether a frame has an alpha channel."""
    return any(component.is_alpha for component in frame.format.components)


def display_matrix(frame: av.VideoFrame) -> Float[np.ndarray, "2 2"] | None:
    """``(2, 2)`` of signs that takes stored ``(x, y)`` to shown ``(x, y)``, or None.

    Call it once per file: PyAV makes a reference cycle of frame and result, freed only by the garbage collector.

    Source: libavutil/display.h; nine 32-bit numbers, of which the first two columns hold the turn.
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)  # pyright: ignore - the stubs say a Mapping by name
    if data is None:
        return None
    a, b, _, c, d, _, *_ = np.frombuffer(bytes(data), np.int32)
    matrix = np.array([[a, c], [b, d]], float)
    return np.sign(np.where(np.abs(matrix) > np.abs(matrix).max() / 2, matrix, 0))


def _turned(picture: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Quarter turns and mirrorings; any other angle is ignored."""
    if matrix is None or np.abs(matrix).sum() != 2:
        return picture
    if matrix[0, 0] == 0:
        picture = picture.transpose(1, 0, 2)
        matrix = matrix[:, ::-1]
    picture = picture[:, ::-1] if matrix[0, 0] < 0 else picture
    return picture[::-1] if matrix[1, 1] < 0 else picture


def missing_end(path: Path) -> str | None:
    """What shows that the end of a video file is missing; None where nothing does.

    Known are Matroska and WebM (RFC 8794), MP4 and MOV (ISO/IEC 14496-12), AVI (RIFF), FLV, and transport streams, of
    which only a torn last packet can be found: they promise nothing.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:4] == b"\x1aE\xdf\xa3":
            promised = _matroska(file, length)
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            promised = _boxes(file, length)
        elif head[:4] == b"RIFF":
            promised = _riff(file, length)
        elif head[:3] == b"FLV":
            promised = _flv(file, length)
        elif packet := _transport(file):
            return f"the last packet is torn: {length % packet} of {packet} bytes" if length % packet else None
        else:
            return None
    return f"the file promises {promised} bytes or more, {length} are there" if promised > length else None


def _matroska(file: io.BufferedReader, length: int) -> int:
    """Where the last element ends that begins in the file."""
    end = 0
    while end < length:
        file.seek(end)
        head = file.read(12)
        name_bytes = _width(head)
        size_bytes = _width(head[name_bytes:])
        if not name_bytes or not size_bytes:  # no element, or the file ends within its head
            return end if len(head) == 12 else length + 1
        bits = 7 * size_bytes
        size = int.from_bytes(head[name_bytes : name_bytes + size_bytes], "big") & ((1 << bits) - 1)
        end += name_bytes + size_bytes
        end += size if size != (1 << bits) - 1 else 0  # of unknown size in a live recording: read its children
    return end


def _width(data: bytes) -> int:
    """Bytes of a number of variable length at the beginning; 0 if there is no whole one."""
    width = 9 - data[0].bit_length() if data and data[0] else 0
    return width if width <= len(data) else 0


def _boxes(file: io.BufferedReader, length: int) -> int:
    """Where the last box of the first level ends."""
    end = 0
    while end < length:
        file.seek(end)
        head = file.read(16)
        if len(head) < 8:
            return length + 1
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size == 0:  # to the end of the file, wherever that is
            return length
        if size < 8 or not head[4:8].isalnum():  # some cameras append data of their own to the last box
            return end
        end += size
    return end


def _riff(file: io.BufferedReader, length: int) -> int:
    """Where the last chunk of the first level ends: of a large file there are several."""
    end = 0
    while end < length:
        file.seek(end)
        head = file.read(8)
        if head[:4] != b"RIFF" or not (size := int.from_bytes(head[4:], "little")):
            return end
        end += 8 + size
    return end


def _flv(file: io.BufferedReader, length: int) -> int:
    """Where the last tag ends."""
    end = 9 + 4
    while end < length:
        file.seek(end)
        head = file.read(4)
        if len(head) < 4:
            return length + 1
        end += 11 + int.from_bytes(head[1:], "big") + 4
    return end


def _transport(file: io.BufferedReader) -> int | None:
    """Bytes of a packet of a transport stream; None if the file is none."""
    head = file.read(3 * 204)
    for packet, first in ((188, 0), (192, 4), (204, 0)):
        if len(head) > first + 2 * packet and all(head[first + n * packet] == SYNC for n in range(3)):
            return packet
    return None
