"""One process, and in it one session, writes a project: the others would write over its prompts."""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError

NAME = ".lock"
_held: weakref.WeakValueDictionary[str, _File] = weakref.WeakValueDictionary()


class _File:
    """The lock file, open and locked; the system lets go of it when the process ends, however it ends."""

    def __init__(self, path: Path):
        self.pid, self.owner = os.getpid(), None
        self.file = path.open("a+", encoding="utf-8")
        weakref.finalize(self, self.file.close)
        _lock(self.file.fileno())
        with contextlib.suppress(OSError):  # the disk is full; the first step says so
            self.file.truncate(0)
            self.file.write(f"process {self.pid} on {socket.gethostname()}")
            self.file.flush()

    def is_at(self, path: Path) -> bool:
        """Whether it is still the file of that name, and this the process that locked it."""
        with contextlib.suppress(OSError):
            return self.pid == os.getpid() and os.path.samestat(path.stat(), os.fstat(self.file.fileno()))
        return False


class FolderLock:
    """Holds a folder for its owner as long as both live.

    Within a process the newest owner holds it: a notebook cell that opens a project is run twice, and what it opened
    the first time is still around. Where nothing can be written, or the file system has no locks, nothing is held.

    Args:
        folder: is there.
        owner: the object that will write.

    Raises:
        NbHelpersError: another process holds it.
    """

    def __init__(self, folder: Path, owner: object):
        self._path, key = folder / NAME, os.path.realpath(folder)
        self._owner = weakref.ref(owner)
        self._file = _held.get(key)
        if self._file is None or not self._file.is_at(self._path):
            try:
                self._file = _held[key] = _File(self._path)
            except BlockingIOError as error:
                raise NbHelpersError(
                    "the project is open in another process, and two would write over each other's prompts",
                    given=f"{folder}: {_told(self._path)}",
                    do="close that notebook or command, or name another folder",
                ) from error
            except OSError:
                self._file = None
                return
        self._file.owner = self._owner

    @property
    def is_held(self) -> bool:
        """Whether the owner may write: no later one took over, and the folder is still the same."""
        return self._file is None or (self._file.owner is self._owner and self._file.is_at(self._path))


def _lock(file: int) -> None:
    """Lock an open file, or raise ``BlockingIOError`` where another process did."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            os.lseek(file, 1 << 20, os.SEEK_SET)  # behind the text, which others read
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _told(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8") or "a process"
    return "a process"
