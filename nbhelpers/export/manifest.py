"""The manifest of a folder: the files that exports wrote there, so that they resume and overwrite nothing else."""

from __future__ import annotations

import errno
import json
import os
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing

NAME = ".nbhelpers-export.jsonl"
SHOWN = 3  # files named in an error message
READ = 1 << 20


class Manifest:
    """The list of files that exports wrote to a folder, stored as a hidden file in it.

    Each file is recorded with its length and checksum *before* it is renamed into place, so that even if the process is
    killed, every file under its final name is complete and recorded. A file that has been changed afterwards no longer
    matches its record and is treated as a file of other origin.

    Args:
        folder: contains all files, possibly in subfolders; it need not exist yet.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._entries: dict[str, dict] = {}
        self._path = self.folder / NAME
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._entries[entry["file"]] = entry
                except (ValueError, KeyError, TypeError):  # the last line of a killed process
                    continue

    def is_ours(self, path: Path) -> bool:
        """Whether the file exists exactly as an export wrote it."""
        entry = self._entries.get(self._key(path))
        if entry is None or not path.is_file():
            return False
        state = path.stat()
        if state.st_size != entry["bytes"]:
            return False
        return state.st_mtime_ns == entry["time"] or _checksum(path) == entry["crc32"]

    def is_done(self, path: Path, signature: str) -> bool:
        """Whether the file exists exactly as written from the same image, matte and options."""
        return self.is_ours(path) and self._entries[self._key(path)]["of"] == signature

    def check(self, paths: Iterable[Path]) -> None:
        """Raise an error if the export would overwrite files of other origin, or cannot write to the folder.

        Raises:
            NbHelpersError: files of other origin (named), or a folder that cannot be written.
        """
        others = [path for path in paths if os.path.lexists(path) and not self.is_ours(path)]
        if others:
            named = ", ".join(str(path) for path in others[:SHOWN])
            more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            raise NbHelpersError(
                "the export would overwrite files that it did not write, or that have been changed",
                given=named + more,
                do="move them away, or export to another folder",
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def write(self, path: Path, pieces: Iterable[bytes], signature: str) -> Path:
        """Write a file atomically and record it; return the path.

        Args:
            path: in the folder or a subfolder.
            pieces: its bytes in order.
            signature: of what it is made from.

        Raises:
            NbHelpersError: the folder cannot be written, or the disk is full.
        """
        try:
            with replacing(path) as temporary:
                with temporary.open("wb") as file:
                    length = checksum = 0
                    for piece in pieces:
                        file.write(piece)
                        length += len(piece)
                        checksum = zlib.crc32(piece, checksum)
                self._enter(path, temporary, length, checksum, signature)
        except NbHelpersError as error:
            if isinstance(error.__cause__, OSError):
                raise unwritable(path, error.__cause__) from error.__cause__
            raise
        return path

    def adopt(self, path: Path, temporary: Path, signature: str) -> None:
        """Record a file that another program wrote under a temporary name, before it is renamed to ``path``."""
        self._enter(path, temporary, temporary.stat().st_size, _checksum(temporary), signature)

    def _enter(self, path: Path, temporary: Path, length: int, checksum: int, signature: str) -> None:
        """Append an entry to the manifest."""
        time = temporary.stat().st_mtime_ns
        entry = {"file": self._key(path), "bytes": length, "crc32": checksum, "time": time, "of": signature}
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(entry))  # starts with a line break, since the previous line may be truncated
            self._entries[entry["file"]] = entry

    def _key(self, path: Path) -> str:
        """The path relative to the folder."""
        return Path(path).relative_to(self.folder).as_posix()


def written_here(folder: str | Path) -> set[str]:
    """Names, relative to ``folder``, of the files that exports wrote to it and its subfolders.

    Excluding them reopens a footage folder without the mattes that were exported into it.
    """
    return set(Manifest(folder)._entries)


def unwritable(path: Path, error: OSError) -> NbHelpersError:
    """The error for a read-only folder or a full disk."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return NbHelpersError(
        "the disk is full" if full else "the folder cannot be written",
        given=f"{path}: {error.strerror or error}",
        do="free some space and run the same export again; it resumes"
        if full
        else "choose another output folder, or change its permissions",
    )


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(READ):
            checksum = zlib.crc32(piece, checksum)
    return checksum
