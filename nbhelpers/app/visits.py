"""The folders of visitors: what they upload, checked by its content, and where their work lies."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import FULL, IMAGE_SUFFIXES, file_stem
from nbhelpers.core.images import image_size
from nbhelpers.core.video import Frames
from nbhelpers.multiview.views import VIDEO_SUFFIXES

log = logging.getLogger(__name__)
MAX_UPLOAD = 4 << 30  # bytes of one visitor
MAX_FILES = 2000  # of one visitor
MAX_PIXELS = 120_000_000  # of a photo: 12000 x 10000
MIN_FREE = 1 << 30  # bytes that stay free on the disk
HOURS = 12.0  # after which a visit without a page ends
KINDS = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
"""Endings of files that may be uploaded; `check_upload` looks at what is in them."""
WANTED = "photos (JPEG, PNG, HEIC, TIFF, WebP) or a clip (MP4, MOV, MKV, WebM)"


def is_clip(path: Path) -> bool:
    """Whether a file's ending is that of a clip."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def check_upload(path: Path, name: str) -> None:
    """Refuse a file that is not what its ending promises; nothing in it is run or unpacked.

    Args:
        path: of the file.
        name: that the visitor knows it by.

    Raises:
        NbHelpersError: no photo and no clip, one that cannot be read, or a photo of more than `MAX_PIXELS`.
    """
    try:
        if is_clip(path):
            Frames(path)[0]
            return
        height, width = image_size(path)
    except NbHelpersError as error:
        raise NbHelpersError(f"the file {name} cannot be used: {error.what}", expected=WANTED) from error
    if height * width > MAX_PIXELS:
        raise NbHelpersError(
            f"the photo {name} is too large",
            given=f"{width} x {height} pixels",
            expected=f"at most {MAX_PIXELS // 10**6} million",
        )


class Visit:
    """What belongs to one visitor: a folder, and their work on each page.

    Args:
        folder: of this visitor alone.

    Attributes:
        folder: as given.
        jobs: the visitor's jobs, by the name of their page.
        pages: number of pages that are open.
        seen: when a page was last open, in seconds since the epoch.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.jobs: dict[str, Any] = {}
        self.pages, self.seen = 0, time.time()
        self.lock = threading.RLock()

    def enter(self) -> None:
        """A page was opened."""
        with self.lock:
            self.pages += 1

    def leave(self) -> None:
        """A page was closed."""
        with self.lock:
            self.pages, self.seen = self.pages - 1, time.time()

    def job(self, page: str, make: Callable[[Path], Any]) -> Any:
        """The visitor's job on a page, made at the first visit; one of an earlier process goes on."""
        with self.lock:
            if page not in self.jobs:
                self.jobs[page] = make(self.folder / page)
            return self.jobs[page]

    @contextlib.contextmanager
    def receiving(self, name: str, length: int | None = None) -> Iterator[Upload]:
        """An upload, which is there for `take` when the block has ended, and gone if it failed.

        Args:
            name: of the file; its folder, if there is one, is ignored.
            length: in bytes, if it was announced.

        Raises:
            NbHelpersError: a file of another kind, too many files or bytes, a full disk, or see `check_upload`.
        """
        given = Path(name.replace("\\", "/")).name
        stem, suffix = file_stem(Path(given).stem), Path(given).suffix.lower()
        if suffix not in KINDS:
            raise NbHelpersError(f"the file {given[:80]} is no photo and no clip", expected=WANTED)
        folder = self.folder / "uploads"
        upload = Upload(self.folder, given[:80])
        upload.check(length or 0)
        folder.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".part-", suffix=suffix, dir=folder)
        try:
            with os.fdopen(handle, "wb") as upload.file:
                yield upload
            check_upload(Path(part), upload.name)
            with self.lock:
                number, path = 1, folder / f"{stem}{suffix}"
                while path.exists():
                    number += 1
                    path = folder / f"{stem}_{number}{suffix}"
                Path(part).rename(path)
            upload.path = path
        finally:
            Path(part).unlink(missing_ok=True)
            self.seen = time.time()

    def uploaded(self, names: list[str]) -> list[Path]:
        """The paths of uploads by the names that they were given; names of anything else are an error."""
        folder = self.folder / "uploads"
        paths = [folder / str(name) for name in names]
        if not all(path.parent == folder and path.name[:1] != "." and path.is_file() for path in paths):
            raise NbHelpersError("these files were not uploaded", given=", ".join(map(str, names))[:80])
        return paths

    def result(self, page: str, name: str) -> Path | None:
        """A file to download; None where there is no such file of this visitor."""
        path = self.folder / page / "download" / name
        parts = {page, name}
        return path if not parts & {"", ".", ".."} and not set("/\\") & set(page + name) and path.is_file() else None

    def close(self, *, keep: bool = False) -> None:
        """End the visitor's work, and remove the folder unless it is kept."""
        with self.lock:
            for job in self.jobs.values():
                job.close()
            self.jobs.clear()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


class Upload:
    """A file that is arriving.

    Attributes:
        name: of the file, for messages.
        path: where it lies at the end; set then.
    """

    path: Path

    def __init__(self, folder: Path, name: str):
        self._folder, self.name = folder, name
        self.file: Any = None
        own = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        uploads = folder / "uploads"
        self._count = len(list(uploads.iterdir())) if uploads.is_dir() else 0
        self._bytes = sum(own)

    def check(self, more: int) -> None:
        """Refuse more bytes than there is room for."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._bytes + more > MAX_UPLOAD or self._count >= MAX_FILES:
            raise NbHelpersError(
                f"the file {self.name} is more than a visitor may store here",
                expected=f"at most {MAX_UPLOAD >> 30} GB and {MAX_FILES} files",
                do="press Start over, which removes what you uploaded before",
            )
        if shutil.disk_usage(self._folder).free - more < MIN_FREE:
            raise NbHelpersError("the disk of the server is nearly full", do="ask who runs it to make room")

    def write(self, data: bytes) -> None:
        """Append bytes; they are checked as they come, for an announced length may be wrong."""
        self._bytes += len(data)
        self.check(0)
        try:
            self.file.write(data)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise NbHelpersError("the disk of the server is full", do="ask who runs it to make room") from error


class Visits:
    """All visitors of a server.

    Args:
        root: parent of their folders.
        keep: whether folders stay when a visit ends.
        hours: after which a visit without a page ends.
    """

    def __init__(self, root: Path, *, keep: bool = False, hours: float = HOURS):
        self.root, self.keep, self.hours = root, keep, hours
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def visit(self, visitor: str) -> Visit:
        """The visit of who holds a cookie. Its folder is named by a digest, which does not give the cookie away."""
        name = hashlib.sha256(visitor.encode()).hexdigest()[:32]
        with self._lock:
            if name not in self._visits:
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
                self._visits[name] = Visit(self.root / name)
            self._visits[name].seen = time.time()
            return self._visits[name]

    def sweep(self) -> None:
        """End visits whose pages were closed `hours` ago, and remove what earlier processes left."""
        limit = time.time() - 3600 * self.hours
        with self._lock:
            ended = [
                name
                for name, visit in self._visits.items()
                if visit.pages <= 0 and visit.seen < limit and not any(job.working for job in visit.jobs.values())
            ]
            visits = [self._visits.pop(name) for name in ended]
            known = {*self._visits}
        for visit in visits:
            visit.close(keep=self.keep)
        for folder in self.root.iterdir():
            if not self.keep and folder.name not in known and _latest(folder) < limit:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End all visits; the last step of a server."""
        with self._lock:
            visits = list(self._visits.values())
            self._visits.clear()
        for visit in visits:
            visit.close(keep=self.keep)


def _latest(folder: Path) -> float:
    """When something in a folder was last written."""
    times = []
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)
