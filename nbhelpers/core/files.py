"""Where things live, and writing that is whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError

CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def home() -> Path:
    """The folder that holds ``checkpoints/``, ``data/`` and ``outputs/``.

    ``NBHELPERS_HOME`` where it is set; else the checkout, when the package runs from one; else the user's cache
    (``$XDG_CACHE_HOME/nbhelpers``).
    """
    if named := os.environ.get("NBHELPERS_HOME"):
        return Path(named).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "checkpoints" / "README.md").is_file() and (checkout / "notebooks").is_dir():
        return checkout
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbhelpers"


def checkpoints_dir() -> Path:
    """Where weights land; ``NBHELPERS_CHECKPOINTS`` overrides."""
    return Path(os.environ.get("NBHELPERS_CHECKPOINTS") or home() / "checkpoints").expanduser()


def data_dir() -> Path:
    """Where sample pictures land."""
    return home() / "data"


def outputs_dir(job: str) -> Path:
    """``outputs/<job>``, made if it is missing: where notebooks and commands leave results.

    Raises:
        NbHelpersError: the folder cannot be made.
    """
    folder = home() / "outputs" / job
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NbHelpersError(
            "the folder for results cannot be made",
            given=f"{folder}: {error.strerror or error}",
            do="set NBHELPERS_HOME to a folder that can be written",
        ) from error
    return folder


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; flush it and rename it into place when the block succeeds.

    Example:
        >>> with replacing("outputs/mask.png") as temporary:
        ...     cv2.imwrite(str(temporary), mask)

    The temporary name keeps the suffix, for writers that choose the format by it. When the block raises, or the
    disk is full, nothing of it is left and the old file stands.

    Raises:
        NbHelpersError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """Make a folder and try whether files can be written there, before work is done whose result would be lost.

    Raises:
        NbHelpersError: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".try-", dir=folder) as file:
            file.write(b" ")
    except OSError as error:
        raise _not_written(folder, error) from error


def _not_written(path: Path, error: OSError) -> NbHelpersError:
    full = error.errno in FULL
    return NbHelpersError(
        "the disk is full, the file cannot be written" if full else "the file cannot be written",
        given=f"{path}: {error.strerror or error}",
        do="make room and run it again" if full else "check permissions, or name another folder",
    )


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path``, whole or not at all; return the path."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 ``text`` to ``path``, whole or not at all; return the path."""
    return write_bytes(path, text.encode("utf-8"))


def sha256(path: str | Path, progress: Callable[[int], object] | None = None) -> str:
    """Hexadecimal sha256 of a file, read in pieces; ``progress`` is told the bytes read each time."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()
