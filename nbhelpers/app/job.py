"""A visitor's work on one page, without a browser: files, long work that reports and stops, what can be downloaded."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from nbhelpers.app.visits import is_clip
from nbhelpers.app.words import plain
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing, write_text

log = logging.getLogger(__name__)
FORMAT = "nbhelpers page 1"
SessionT = TypeVar("SessionT")
STORED = (".png", ".jpg", ".mov", ".mp4", ".webm", ".glb")  # compressed already


class StopWorkError(Exception):
    """Ends work from within, after the step in progress."""


@dataclass(frozen=True)
class Notice:
    """What a page says.

    Attributes:
        text: a sentence or two.
        details: more, for who wants to know; shown folded.
        error: whether something went wrong.
    """

    text: str
    details: tuple[str, ...] = ()
    error: bool = False


@dataclass(frozen=True)
class Progress:
    """How far work is.

    Attributes:
        text: what is being done.
        fraction: 0 to 1, None where it is not known.
        left: seconds to the end, None where they are not known.
    """

    text: str
    fraction: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Download:
    """A file to download.

    Attributes:
        path: of the file.
        content: what it holds, in words.
    """

    path: Path
    content: str


class Workers:
    """Threads that do the work of all visitors; who comes later waits for a free one.

    Args:
        count: of pieces of work at one time.
    """

    def __init__(self, count: int = 1):
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="nbhelpers-app")
        self.submit = self._pool.submit

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Job(Generic[SessionT]):
    """What all jobs share. A job opens files, works in the background, and packs a download.

    A subclass implements `open_files` and `start_example`, and saves in `state` what `resume` needs.

    Args:
        folder: of this job alone; made if it is missing.
        workers: do the long work.
        models: ``"lite"``, ``"official"`` or ``"auto"``.

    Attributes:
        folder: as given.
        room: folder of the work on the opened files.
        session: of the opened files; None before.
        opening: whether other files are being opened, so that the session is not ready.
        files: the opened files.
        changes: number of changes so far.
        state: values that JSON can hold, saved with the names of the files.
        notice: what the page says.
        progress: of the work; None when there is none.
        download: the last pack; None before, and after a change.
    """

    page: ClassVar[str]
    """Name of the page."""
    title: ClassVar[str]
    """Of the page."""
    steps: ClassVar[tuple[str, ...]]
    """What a visitor does, in order."""
    accept: ClassVar[tuple[str, ...]]
    """File types of the upload, as in HTML."""
    upload: ClassVar[str]
    """Text of the upload button."""

    def __init__(self, folder: Path, workers: Workers, models: str | None = None):
        self.folder, self.models = folder, models
        self._workers = workers
        self.room = folder / "work-0"
        self.session: SessionT | None = None
        self.opening = False
        self.changes = 0
        self.files: list[Path] = []
        self.state: dict[str, Any] = {}
        self.notice = Notice(self.steps[0])
        self.progress: Progress | None = None
        self.download: Download | None = None
        self._listeners: list[Callable[[], object]] = []
        self._lock = threading.RLock()
        self._stopping = self._closed = False
        self._began = self._fraction = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    def open_files(self, files: Sequence[Path]) -> None:
        """Open photos or a clip, with what was done in `room` before; called in the background.

        What was open before stays until all is ready.

        Raises:
            NbHelpersError: they cannot be opened.
        """
        raise NotImplementedError

    def start_example(self) -> None:
        """Open the example, and do the first step with it; called in the background."""
        raise NotImplementedError

    def write_results(self, folder: Path) -> str:
        """Write what can be downloaded into an empty folder, and say what it is; called in the background.

        Raises:
            NbHelpersError: there is nothing yet.
        """
        raise NotImplementedError

    def load(self, task: str) -> Any:
        """A model, which all visitors share."""
        from nbhelpers.models.load import load

        return load(task, None, None, self.models)

    @property
    def opened(self) -> SessionT:
        """The session.

        Raises:
            NbHelpersError: no files were opened yet.
        """
        if self.session is None:
            raise NbHelpersError("nothing is open yet", do=f"choose {self.upload.lower()} first")
        return self.session

    @property
    def is_open(self) -> bool:
        """Whether files were opened."""
        return bool(self.files)

    @property
    def working(self) -> bool:
        """Whether there is work under way, or waiting."""
        return self.progress is not None

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback()`` after each change, from any thread; returns a function that stops it."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def changed(self) -> None:
        """Tell the page."""
        self.changes += 1
        for listener in tuple(self._listeners):
            with contextlib.suppress(Exception):  # a page that is going away
                listener()

    def say(self, text: str, details: Sequence[str] = (), *, error: bool = False) -> None:
        """Show a sentence on the page."""
        self.notice = Notice(text, tuple(map(plain, details)), error)
        self.changed()

    def fail(self, error: BaseException) -> None:
        """Show what went wrong: what happened and what to do in a sentence, the rest as details."""
        if not isinstance(error, NbHelpersError):
            log.error("work of the page %s failed", self.page, exc_info=error)
            self.say("This did not work. Nothing that was finished before is lost.", [repr(error)], error=True)
            return
        text = _sentences(error.what, error.do)
        details = [
            f"{name}: {value}" for name, value in (("given", error.given), ("expected", error.expected)) if value
        ]
        own = f"{self.folder.parent}{os.sep}"  # a visitor need not know where the server keeps files
        self.say(text, [line.replace(own, "") for line in details], error=True)

    def open(self, files: Sequence[Path]) -> None:
        """Open uploaded files, or those of a folder; the page shows what comes of it."""
        files = list(files)

        def work() -> None:
            if not files:
                raise NbHelpersError("there is no photo and no clip")
            clips = [path for path in files if is_clip(path)]
            if clips and len(files) > 1:
                raise NbHelpersError("photos and a clip at once, or several clips", do="open photos, or one clip")
            if clips and "video/*" not in self.accept:
                raise NbHelpersError("this page is for photos", do="open the clip on the page Clip")
            self.take(files)

        self.start("Opening the files", work)

    def take(self, files: Sequence[Path], first: Callable[[], object] = lambda: None, **state: Any) -> None:
        """Open other files in a room of their own; if that fails, all stays as it was. Called in the background.

        Args:
            files: to open.
            first: done before the page shows them.
            **state: of the work on them.
        """
        before, number = (self.room, self.state, self.session), int(self.room.name.rpartition("-")[2])
        self.room, self.state = self.folder / f"work-{number + 1}", state
        shutil.rmtree(self.room, ignore_errors=True)
        self.opening = True
        try:
            self.room.mkdir(parents=True)
            self.open_files(files)
            first()
        except BaseException:
            shutil.rmtree(self.room, ignore_errors=True)
            self.room, self.state, self.session = before
            raise
        finally:
            self.opening = False
        self.files, self.download = list(files), None
        self.save_state()
        shutil.rmtree(before[0], ignore_errors=True)

    def open_example(self) -> None:
        """Open the example; the page shows what comes of it."""
        self.start("Preparing the example", self.start_example)

    def pack(self) -> None:
        """Write all results into a zip; the page offers it."""

        def work() -> None:
            folder = self.folder / "results"
            shutil.rmtree(folder, ignore_errors=True)
            content = self.write_results(folder)
            name = f"{self.page}.zip"
            with replacing(self.folder / "download" / name) as path, zipfile.ZipFile(path, "w") as archive:
                written = sorted(file for file in folder.rglob("*") if file.is_file() and file.name[0] != ".")
                for done, file in enumerate(written):
                    self.report(done, len(written), "Packing the files")
                    packing = zipfile.ZIP_STORED if file.suffix in STORED else zipfile.ZIP_DEFLATED
                    archive.write(file, file.relative_to(folder).as_posix(), packing)
            shutil.rmtree(folder, ignore_errors=True)
            self.download = Download(self.folder / "download" / name, content)
            self.say(f"Your files are ready: {content}.")

        self.start("Writing the files", work)

    def start(self, text: str, work: Callable[[], object]) -> None:
        """Do something in the background, one thing at a time.

        Args:
            text: what is being done.
            work: does it; calls `report` now and then.
        """
        with self._lock:
            if (progress := self.progress) is not None:
                self.say(f"One thing at a time: {progress.text.lower()} first. Press Stop to end it.", error=True)
                return
            self.progress, self._stopping = Progress(f"Waiting for its turn: {text.lower()}"), False
        self.changed()
        self._workers.submit(self._work, text, work)

    def report(self, done: int, total: int, text: str) -> None:
        """Show how far the work is; ends it if the visitor has pressed Stop.

        Raises:
            StopWorkError: the visitor has pressed Stop.
        """
        if self._stopping:
            raise StopWorkError
        fraction = min(done / total, 1.0) if total > 1 else None
        if (fraction or 0) < self._fraction:  # another step of the work
            self.restart_clock()
        self._fraction = fraction or 0.0
        passed = time.monotonic() - self._began
        left = passed * (1 - fraction) / fraction if fraction and done >= 1 and passed > 2 else None
        self.progress = Progress(plain(text), fraction, left)
        self.changed()

    def restart_clock(self) -> None:
        """Measure the time left from here: what was done before was of another kind."""
        self._began, self._fraction = time.monotonic(), 0.0

    def stop(self) -> None:
        """End the work after the step in progress; what is done is kept."""
        if (progress := self.progress) is not None:
            self._stopping = True
            self.progress = Progress("Stopping after this step", progress.fraction)
            self.changed()

    def start_over(self) -> None:
        """Forget everything, and remove the files of the job; work must have ended before."""
        if self.working:
            self.say("Press Stop first, and wait a moment.", error=True)
            return
        self.forget()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files, self.state, self.download = [], {}, None
        self.room = self.folder / "work-0"
        self.say(self.steps[0])

    def forget(self) -> None:
        """Drop the session; overridden where there is one."""

    def outdate(self) -> None:
        """The results have changed: what was packed before is no longer offered."""
        if self.download is not None:
            self.download = None
            self.changed()

    def close(self) -> None:
        """End the work, and report nothing more."""
        self._closed = self._stopping = True
        self._listeners.clear()
        self.forget()

    def save_state(self) -> None:
        """Write what `resume` needs."""
        files = [str(path) for path in self.files]
        about = {"format": FORMAT, "room": self.room.name, "files": files, "state": self.state}
        write_text(self.folder / "page.json", json.dumps(about, indent=1, ensure_ascii=False))

    def _resume(self) -> None:
        """Go on where an earlier process was killed."""
        try:
            about = json.loads((self.folder / "page.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        files = [Path(path) for path in about.get("files", ())]
        if about.get("format") != FORMAT or not files or not all(path.is_file() for path in files):
            return
        self.room, self.state = self.folder / about["room"], about["state"]

        def work() -> None:
            self.open_files(files)
            self.files = files
            self.changed()
            self.go_on()

        self.start("Opening your work again", work)

    def go_on(self) -> None:
        """Go on with long work that was cut off; overridden where there is any. Called in the background."""

    def _work(self, text: str, work: Callable[[], object]) -> None:
        """Run work in a thread of the pool."""
        if self._closed:
            return
        self.restart_clock()
        self.progress = Progress(text)
        self.changed()
        with self._ending():
            if self._stopping:
                raise StopWorkError
            work()

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Show how work ended; only then it is no longer under way."""
        try:
            yield
        except StopWorkError:
            self.say("Stopped. What was finished is kept.")
        except Exception as error:
            self.fail(error)
        finally:
            self.progress = None
            self.changed()


def _sentences(*parts: str | None) -> str:
    """Parts of an error as sentences."""
    return " ".join(f"{part[:1].upper()}{part[1:].rstrip('.')}." for part in parts if part)
