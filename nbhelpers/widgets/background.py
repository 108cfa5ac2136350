"""Calls that come a little later, and long work beside the kernel's other work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any


class Later:
    """Call a function once, a little later, however often it was asked for meanwhile.

    Mouse moves and wheel turns arrive faster than a view can be drawn. In the main thread without a running event loop
    (a script, a test) the call happens at once.

    Args:
        function: what to call.
        seconds: the pause.
        restart: whether asking again restarts the pause.
    """

    def __init__(self, function: Callable[[], object], seconds: float, *, restart: bool = False):
        self._function, self._seconds, self._restart = function, seconds, restart
        self._handle: asyncio.TimerHandle | threading.Timer | None = None
        self._due = 0.0

    @property
    def waiting(self) -> bool:
        """Whether the call is still to come; one that is long overdue was lost with its event loop."""
        return self._handle is not None and time.monotonic() < self._due + 1

    def ask(self) -> None:
        """Call the function after the pause."""
        if self.waiting and not self._restart:
            return
        self.cancel()
        self._due = time.monotonic() + self._seconds
        try:
            self._handle = asyncio.get_running_loop().call_later(self._seconds, self._run)
        except RuntimeError:
            if threading.current_thread() is threading.main_thread():
                self._function()
                return
            self._handle = threading.Timer(self._seconds, self._run)
            self._handle.daemon = True
            self._handle.start()

    def cancel(self) -> None:
        """Drop the call."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    def _run(self) -> None:
        self._handle = None
        self._function()


class Runner:
    """Steps through one iterator at a time in a thread; an event loop would end with the page that it serves.

    Without a running event loop (a script, a test) `start` returns when all is done.

    Example:
        >>> runner = Runner()
        >>> runner.start(session.propagate(), each=show, done=lambda error: show(error or "done"))
        >>> runner.wait()
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether there is work under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(
        self, steps: Iterator[Any], each: Callable[[Any], object], done: Callable[[BaseException | None], object]
    ) -> None:
        """Begin to step.

        Args:
            steps: what is stepped through.
            each: called with the value of each step, in the thread.
            done: called at the end, in the thread, with the exception if there was one.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            _run(steps, each, done)
        else:
            self._thread = threading.Thread(target=_run, args=(steps, each, done), name="nbhelpers-frames", daemon=True)
            self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the work is done or stopped, at most some seconds."""
        if self._thread is not None:
            self._thread.join(seconds)


def _run(steps: Iterator[Any], each: Callable[[Any], object], done: Callable[[BaseException | None], object]) -> None:
    try:
        for step in steps:
            each(step)
    except BaseException as error:  # an interrupt too: else the work would count as running for ever
        if isinstance(steps, Generator):
            steps.close()
        done(error)
        if not isinstance(error, Exception):
            raise
    else:
        done(None)
