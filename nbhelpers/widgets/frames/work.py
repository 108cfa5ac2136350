"""What the frames widget does in the background: follow objects, and export; one thing at a time, to be stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.widgets.frames.runner import Runner

if TYPE_CHECKING:
    from nbhelpers.widgets.frames.widget import FramesWidget


class StoppedError(Exception):
    """Ends an export from within."""


class Work:
    """Runs a session's propagation or export, and tells its progress in the widget.

    Args:
        widget: whose session it is.

    Attributes:
        told: the sentence on what is under way; empty when nothing is.
    """

    def __init__(self, widget: FramesWidget):
        self._widget, self._runner, self.told = widget, Runner(), ""
        self._along = self._stopped = self._closed = False
        self._started, self._count = 0.0, 0

    @property
    def running(self) -> bool:
        """Whether something is under way."""
        return bool(self.told)

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is under way, or the time is over."""
        self._runner.wait(seconds)

    def follow(self, which: str) -> None:
        """Follow all objects: ``"forward"`` or ``"back"`` from the current frame, or ``"all"``, within the range."""
        session, (first, last) = self._widget.session, self._widget.strip.range

        def begin() -> Iterator[int]:
            if which == "forward":
                return session.propagate(session.frame, max(last, session.frame))
            if which == "back":
                return session.propagate(session.frame, min(first, session.frame), backwards=True)
            if (first, last) == (0, len(session.frames) - 1):
                return session.propagate_all()
            there, back = session.propagate(first, last), session.propagate(last, first, backwards=True)
            return (frame for part in (there, back) if not self._stopped for frame in part)

        self._start("Following ...", begin, self._followed, self._done_following)

    def export(self, kinds: list[str], folder: str, replace: bool) -> None:
        """Write the kinds into the folder, and show what the verifier found."""
        session = self._widget.session

        def write() -> Iterator:
            yield session.export(folder, kinds, replace=replace, progress=self._exported)

        def begin() -> Iterator:
            if not kinds:
                raise NbHelpersError("no kind of export is chosen", do="press one kind or more")
            self._widget.export.show([])
            return write()

        self._start("Exporting ...", begin, self._show_reports, self._done_exporting)

    def stop(self) -> bool:
        """End what is under way with the frame in the making; whether there was something."""
        if not self.running:
            return False
        self._stopped = True
        self._widget.session.cancel()
        return True

    def leave(self) -> None:
        """The person looks at something else: new masks are no longer shown as they come."""
        self._along = False

    def _start(self, told: str, begin: Callable[[], Iterator], each: Callable, done: Callable) -> None:
        widget = self._widget
        if self.running:
            return
        with widget.guard():
            widget.time.pause()
            self._stopped, self._along, self._count, self._started = False, True, 0, time.perf_counter()
            steps = begin()
            self.told = told
            widget.show_running(True)
            self._runner.start(steps, each, lambda error: self._finish(error, done))

    def close(self) -> None:
        """End what is under way, and say nothing more."""
        self.stop()
        self._closed = True

    def _finish(self, error: BaseException | None, done: Callable[[], str]) -> None:
        self.told = ""
        if self._closed:
            return
        self._widget.show_running(False)
        self._widget.strip.ask_again()
        self._widget.refresh()
        if error is not None and not isinstance(error, StoppedError):
            self._widget.fail(error)
        else:
            self._widget.tell(done())

    def _followed(self, frame: int) -> None:
        if self._closed:
            return
        self._count += 1
        self.told = f"Following: frame {frame}, {self._seconds:.2f} s a frame ..."
        self._widget.followed(frame, self._along)

    def _done_following(self) -> str:
        if not self._count:
            return "Stopped." if self._stopped else "Nothing had to be followed: all is up to date, or lies elsewhere."
        frames = f"{self._count} frame{'s' * (self._count > 1)}, {self._seconds:.2f} s each"
        return f"Stopped; followed {frames}." if self._stopped else f"Followed {frames}."

    @property
    def _seconds(self) -> float:
        return (time.perf_counter() - self._started) / max(self._count, 1)

    def _exported(self, done: int, count: int) -> None:
        """Called while files are written."""
        if self._stopped:
            raise StoppedError
        self.told = f"Exporting: frame {done} of {count} ..."
        self._widget.say("")

    def _show_reports(self, reports: list) -> None:
        self._widget.export.show([line for report in reports for line in str(report).splitlines()])

    def _done_exporting(self) -> str:
        return "Stopped; the next export goes on from here." if self._stopped else "Exported, opened again and checked."
