"""One widget a session: it follows what the session does, until it is closed or another widget takes its place."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol


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
    """

    session: Session
    _stop_listening: Callable[[], None] | None = None

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
        """Follow the session, as its only widget; the last step of making one, for it may redraw at once."""
        if self.session in _shown:
            _shown[self.session].close()
        _shown[self.session] = self
        self._stop_listening = self.session.on_change(self.refresh)

    def _close_parts(self) -> None:
        """Close what else the widget holds; called once, before it leaves the page."""
