"""Long work beside the widget: an iterator stepped in a thread of its own, so that the kernel goes on answering."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Runner:
    """Steps through one iterator at a time, in a thread; an event loop would end with the page that it serves.

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
            each: called with what a step gave, in the thread.
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
        """Until the work is done, or stopped, or the time is over."""
        if self._thread is not None:
            self._thread.join(seconds)


def _run(steps: Iterator[Any], each: Callable[[Any], object], done: Callable[[BaseException | None], object]) -> None:
    try:
        for it in steps:
            each(it)
    except BaseException as error:  # an interrupt too: else the work would count as running for ever
        if hasattr(steps, "close"):
            steps.close()
        done(error)
        if not isinstance(error, Exception):
            raise
    else:
        done(None)
