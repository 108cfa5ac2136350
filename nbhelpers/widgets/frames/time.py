"""The rows of the frames widget that are about time: which frame, playing, the range, following."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.canvas import Later
from nbhelpers.widgets.controls import Row, button, label, space
from nbhelpers.widgets.frames.strip import FilmStrip
from nbhelpers.widgets.rows import Guard

FPS = 12.0  # where the clip does not say


class TimeRow(Row):
    """Steps, play, a slider over the clip, and the range that is played and followed.

    The page itself counts while it plays, and counts on only when it has shown what was sent: on a slow line frames
    are left out, none are queued up.

    Args:
        session: whose frames.
        strip: which shows the range.
        visit: called with the frame that the person wants to see.
        guard: see `nbhelpers.widgets.rows.Guard`.
    """

    def __init__(self, session: RotoSession, strip: FilmStrip, visit: Callable[[int], object], guard: Guard):
        self._session, self._strip, self._visit, self._guard = session, strip, visit, guard
        self._following, self._wanted = False, 0
        self._steps = Later(self._arrive, 0.02)
        last = len(session.frames) - 1
        interval = round(1000 / (getattr(session.frames, "fps", None) or FPS))
        self.player = widgets.Play(min=0, max=max(last, 1), interval=interval, repeat=True, show_repeat=False)
        self.player.layout.display = "none"  # the button beside it is as large as the others, and has a key
        self.player.observe(self._played, "value")
        self.player.observe(self._show_playing, "playing")
        self._play = button("Play", "Play the range (space bar)", self.toggle_play, icon="play", width="80px")
        self.slider = widgets.IntSlider(min=0, max=max(last, 1), disabled=not last)
        self.slider.tooltip = "Frame; type a number for an exact one"
        self.slider.layout = widgets.Layout(width="auto", min_width="180px", flex="1 1 180px", margin="0 4px")
        self.slider.observe(self._slid, "value")
        steps = (
            button("", "First frame of the range (Home)", lambda: self.jump(0), icon="fast-backward"),
            button("", "One frame back (arrow left)", lambda: self.step(-1), icon="step-backward"),
            self._play,
            button("", "One frame on (arrow right)", lambda: self.step(1), icon="step-forward"),
            button("", "Last frame of the range (End)", lambda: self.jump(1), icon="fast-forward"),
        )
        self._range = widgets.Label(layout=widgets.Layout(margin="0 4px", width="auto"))
        ends = (
            button("From here", "The range begins with this frame (comma)", lambda: self.cut(0), width="92px"),
            button("To here", "The range ends with this frame (full stop)", lambda: self.cut(1), width="92px"),
            button("", "The range is the whole clip", self.whole, icon="arrows-alt-h"),
        )
        super().__init__(Row(label("Frame"), *steps), self.player, self.slider, Row(self._range, *ends))
        self._show_range()

    def refresh(self) -> None:
        """Show which frame it is."""
        self._following = True
        self.slider.value = self._session.frame
        self._following = False

    def step(self, by: int) -> None:
        """Go some frames on, or back; fast presses are taken together."""
        base = self._wanted if self._steps.waiting else self._session.frame
        self._wanted = min(max(base + by, 0), len(self._session.frames) - 1)
        self._steps.ask()

    def jump(self, end: int) -> None:
        """Go to the beginning (0) or the end (1) of the range; from there, of the clip."""
        target = self._strip.range[end]
        if self._session.frame == target:
            target = (0, len(self._session.frames) - 1)[end]
        with self._guard():
            self._visit(target)

    def toggle_play(self) -> None:
        """Play, or stop playing."""
        if self.player.playing:
            self.pause()
        elif self._strip.range[0] < self._strip.range[1]:
            first, last = self._strip.range
            self._following = True
            self.player.value = min(max(self._session.frame, first), last)
            self._following = False
            self.player.playing = True

    def pause(self) -> None:
        """Stop playing."""
        if self.player.playing:
            self.player.playing = False

    def cut(self, end: int) -> None:
        """Let the range begin (0) or end (1) with the current frame."""
        first, last = self._strip.range
        frame = self._session.frame
        self._set_range((frame, max(frame, last)) if end == 0 else (min(frame, first), frame))

    def whole(self) -> None:
        """Let the range be the whole clip."""
        self._set_range((0, len(self._session.frames) - 1))

    def close(self) -> None:
        """Stop stepping."""
        self.pause()
        self._steps.cancel()
        super().close()

    def _set_range(self, ends: tuple[int, int]) -> None:
        with self._guard():
            self._strip.range = ends
            self.player.min, self.player.max = 0, max(ends[1], 1)  # in this order the minimum is never above
            self.player.min = ends[0] if ends[0] < self.player.max else 0
            self._show_range()
            self._strip.paint()

    def _show_range(self) -> None:
        first, last = self._strip.range
        self._range.value = f"Range {first} to {last}"

    def _show_playing(self, change) -> None:
        self._play.description = "Pause" if change["new"] else "Play"
        self._play.icon = "pause" if change["new"] else "play"

    def _played(self, change) -> None:
        if not self._following and self.player.playing:
            with self._guard():
                self._session.go(change["new"])

    def _slid(self, change) -> None:
        if not self._following:
            with self._guard():
                self._visit(change["new"])

    def _arrive(self) -> None:
        with self._guard():
            self._visit(self._wanted)


class FollowRow(Row):
    """Follow the objects from where they were prompted, stop, and go to what should be looked at.

    Args:
        actions: what the buttons do: ``back``, ``forward``, ``all``, ``stop``, ``doubtful``.
        right: shown at the right end.
    """

    def __init__(self, actions: dict[str, Callable[[], object]], right: widgets.Widget):
        self._go = [
            button("Back", "Follow from here back to the range's begin (Shift+F)", actions["back"], icon="backward"),
            button("Forward", "Follow from here on to the range's end (F)", actions["forward"], icon="forward"),
            button("All", "Follow to each outdated or empty frame of the range (A)", actions["all"], icon="film"),
        ]
        self._stop = button("Stop", "Stop following; what is done stays (Escape)", actions["stop"], icon="stop")
        doubtful = button(
            "Next doubtful", "Go to the next frame that should be looked at (N)", actions["doubtful"],
            icon="search", width="136px",
        )  # fmt: skip
        super().__init__(label("Follow"), *self._go, self._stop, doubtful, space(), right)
        self.show_running(False)

    def show_running(self, running: bool) -> None:
        """Let only those buttons be pressed that make sense."""
        for each in self._go:
            each.disabled = running
        self._stop.disabled = not running
        self._stop.button_style = "warning" if running else ""
