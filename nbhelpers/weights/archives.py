"""Extraction of a single named file from a package archive."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import CHUNK
from nbhelpers.weights.download import bar

DAMAGED = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
)


def extract_member(archive: Path, member: str, target: Path, *, size: int | None = None, progress: bool = True) -> Path:
    """Stream the file ``member`` of a tar or zip (wheel) to ``target``; return ``target``.

    The archive is read, never unpacked, so no path from it is used. It is refused if it contains a link, a device, an
    absolute name, or ``..``.

    Args:
        archive: ``.tgz``, ``.tar``, ``.whl`` or ``.zip``, recognised by content.
        member: full name in the archive.
        target: the file to write, in an existing folder.
        size: expected bytes of the member; more raises an error before it fills the disk.
        progress: whether to show a bar for large members.

    Raises:
        NbHelpersError: damaged or hostile archive, no such member, or more bytes than ``size``.
        OSError: the disk is full or cannot be written.
    """
    found = False
    try:
        for name, length, stream in _members(archive):
            _check_name(archive, name)
            if name != member or found or stream is None:
                continue
            found = True
            _copy(archive, member, stream, target, length, size, progress)
    except DAMAGED as error:
        target.unlink(missing_ok=True)
        raise NbHelpersError(
            "the archive cannot be read; it may be truncated", given=f"{archive.name}: {error}"
        ) from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    if not found:
        raise NbHelpersError("the archive does not contain the file", given=archive.name, expected=member)
    return target


def _members(archive: Path) -> Iterator[tuple[str, int, BufferedIOBase | None]]:
    """Name, declared size and content of each member; content is None for folders."""
    with archive.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(archive) as package:
            for info in package.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _hostile(archive, info.filename, "a link or a device")
                if info.flag_bits & 1:
                    raise NbHelpersError("the archive is encrypted", given=archive.name)
                if info.is_dir():
                    yield info.filename, 0, None
                else:
                    with package.open(info) as stream:
                        yield info.filename, info.file_size, stream
    else:
        with tarfile.open(archive, "r:*") as package:
            for info in package:
                if not (info.isreg() or info.isdir()):
                    raise _hostile(archive, info.name, "a link or a device")
                yield info.name, info.size, package.extractfile(info) if info.isreg() else None


def _copy(
    archive: Path, member: str, stream: BufferedIOBase, target: Path, length: int, size: int | None, progress: bool
) -> None:
    limit = length if size is None else size
    done = 0
    label = f"unpacking {PurePosixPath(member).name}"
    with target.open("wb") as file, bar(label, length, progress and length > 64 * CHUNK) as shown:
        while length <= limit and (piece := stream.read(CHUNK)):
            done += len(piece)
            if done > limit:
                break
            file.write(piece)
            shown.update(len(piece))
    if max(done, length) > limit:
        raise NbHelpersError(
            "a file in the archive is larger than the catalog says",
            given=f"{member} in {archive.name}: {max(done, length)} bytes or more",
            expected=f"{limit} bytes",
        )


def _check_name(archive: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (parts.parts and parts.parts[0].endswith(":")):
        raise _hostile(archive, name, "a path outside the archive")


def _hostile(archive: Path, name: str, what: str) -> NbHelpersError:
    return NbHelpersError(
        f"the archive contains {what} and is not trusted", given=f"{name!r} in {archive.name}", expected="plain files"
    )
