"""One widget a session: it follows what the session does, until it is closed or another widget takes its place."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.widgets.controls import error_sentence

log = logging.getLogger(__name__)


class Session(Protocol):
    """What can be listened to: `ClickSession`, `RotoSession`, `ProductSession`, `ViewsSession`."""

    def on_change(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have ``listener`` called after each change; call the answer to stop that."""
        ...


_shown: weakref.WeakKeyDictionary[Session, Listening] = weakref.WeakKeyDictionary()


class Listening:
    """What the widgets of a session share; named before the ipywidgets class that they are.

    Example:
        >>> class Counter(Listening, widgets.VBox):
        ...     def __init__(self, session):
        ...         self.session, self.number = session, widgets.Label()
        ...         super().__init__([self.number])
        ...         self._listen()                      # closes the widget that showed the session before
        ...
        ...     def refresh(self):                      # called after each change of the session
        ...         self.number.value = str(session.count)
        ...
        ...     def _say(self, message, *, error=False):
        ...         self.number.value = message
    """

    session: Session
    _stop_listening: Callable[[], None] | None = None
    _failed = False

    def fail(self, error: BaseException) -> None:
        """Say what went wrong; ipywidgets itself would only log it."""
        self._failed = True
        if isinstance(error, NbHelpersError):
            self._say(error_sentence(error), error=True)
        elif isinstance(error, KeyboardInterrupt):
            self._say("Interrupted. What was finished before is kept.", error=True)
        else:
            log.error("an action of %s failed", type(self).__name__, exc_info=error)
            self._say(f"This did not work. {type(error).__name__}: {error}", error=True)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Say what goes wrong inside, and go on; an interrupt is said and passed on."""
        try:
            yield
        except KeyboardInterrupt as error:
            self.fail(error)
            raise
        except Exception as error:
            self.fail(error)

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its changes."""
        raise NotImplementedError

    def close(self) -> None:
        """Take the widget off its session and off the page; the session keeps everything."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
            if _shown.get(self.session) is self:
                del _shown[self.session]
            self._close_parts()
        super().close()

    def _listen(self) -> None:
        """Follow the session, as its only widget; the last step of making one, for it may redraw at once.

        A session of the same project folder counts as the same: a cell that is run again makes a new one, while the
        old one might still be tracking into the folder.
        """
        project = getattr(self.session, "project", None)
        for session, widget in list(_shown.items()):
            if session is self.session or (project is not None and getattr(session, "project", None) == project):
                widget.close()
        _shown[self.session] = self
        self._stop_listening = self.session.on_change(self._changed)

    def _changed(self) -> None:
        """After a change of the session: what cannot be shown is said, and does not stop whoever changed it."""
        with self.watched():
            self.refresh()

    def _say(self, message: str, *, error: bool = False) -> None:
        """Put a sentence into the status line."""
        raise NotImplementedError

    def _close_parts(self) -> None:
        """Close what else the widget holds; called once, before it leaves the page."""
