"""Whether a video file was cut off, told by the lengths that its container promises, without decoding anything."""

from __future__ import annotations

import io
from pathlib import Path

SYNC = 0x47  # first byte of each packet of a transport stream


def missing_end(path: Path) -> str | None:
    """What shows that the end of a video file is missing; None where nothing does.

    Known are Matroska and WebM (RFC 8794), MP4 and MOV (ISO/IEC 14496-12), AVI (RIFF), FLV, and transport streams, of
    which only a torn last packet can be told: they promise nothing.
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
        end += size if size != (1 << bits) - 1 else 0  # of unknown size in a live recording: look at what is in it
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
        if size < 8 or not head[4:8].isalnum():  # some cameras put something of their own behind the last box
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
