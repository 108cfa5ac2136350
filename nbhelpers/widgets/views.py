"""The views widget: look through the photos of a scene, click the object in any of them, find it in all."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.prompts import ObjectPrompts
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.widgets.base import HistoryRow, SessionWidget
from nbhelpers.widgets.controls import Row, label, space
from nbhelpers.widgets.drawing import still_of, visible
from nbhelpers.widgets.stage import ModeRow, Pointer, Stage, ZoomRow

CHANGED = "Find it in all views again to update them."
HINT = "Then find it in all views, and correct the least consistent view."


class ViewStage(Stage[ViewsSession]):
    """Paints one photo of a `ViewsSession`, with the object's mask and the prompts of that view."""

    owner: ViewsWidget

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the photo."""
        return self.session.photos.size(self.owner.view)

    @property
    def place(self) -> dict[str, int]:
        """The view, for the session's methods."""
        return {"view": self.owner.view}

    @property
    def subject(self) -> object:
        """What a gesture is about: the view and its points."""
        return self.owner.view, self.prompts().points

    def prompts(self) -> ObjectPrompts:
        """The prompts of the view."""
        return self.session.prompts(self.owner.view)

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The photo."""
        return self.session.image(self.owner.view)

    def masks(self) -> list[tuple[int, bool, Bool[np.ndarray, "vh vw"]]]:
        """The visible part of the object's mask; see `Stage.masks`."""
        return [(0, True, visible(self.session.mask(self.owner.view), self.fine) > 127)]


class ViewsWidget(SessionWidget[ViewsSession]):
    """Shows a `ViewsSession` and turns clicks and buttons into its methods.

    Example:
        >>> session = ViewsSession(photos, scene)
        >>> ViewsWidget(session)                     # as the last line of a cell

    In every mode the right mouse button (or Shift with the left one) excludes, and the middle one drags the photo.
    While the canvas has the focus (after a click): I, E, B, R, P choose the mode, Z undoes, Y redoes, C clears the
    view, left and right go to the previous and the next view, plus, minus and 0 zoom, Tab leaves.

    A session has one widget: making another closes the first (show one widget twice to see it twice).

    Args:
        session: what is shown.
        view: the view to begin with.
        width: of the canvas in pixels, 320 to 1280.
        on_solve: called with the `ViewMasks` after each "Find in all views".

    Raises:
        NbHelpersError: a width out of range, or no such view.
    """

    def __init__(
        self,
        session: ViewsSession,
        view: int = 0,
        width: int = 800,
        on_solve: Callable[[object], object] | None = None,
    ):
        super().__init__(session, width, "nbhelpers-views")
        self._on_solve, self._hint, self._basis = on_solve, "", self._state
        layout = widgets.Layout(width="auto", flex="1 1 0", min_width="0")
        self.slider = widgets.IntSlider(
            session.photos.check(view), 0, len(session) - 1, continuous_update=False, layout=layout
        )
        self.stage = ViewStage(self, width)
        self.pointer = Pointer(self.stage)
        self.modes = ModeRow(self, self.pointer)
        self.bind(self.modes.choice, lambda _: setattr(self, "_hint", ""))
        self.history = HistoryRow(self, lambda: session.clear(self.view), "this view")
        self.zoom = ZoomRow(self, self.stage)
        self.bind(self.slider, lambda _: self._show_view())
        self.caption = widgets.HTML(layout=widgets.Layout(flex="1 1 160px", min_width="0", margin="0 0 0 4px"))
        self.progress = widgets.IntProgress(layout=widgets.Layout(width="200px", visibility="hidden"))
        self.solve_button = self.button(
            "Find in all views", "Find the object in all photos", self.solve, icon="search", width="160px"
        )
        self.worst_button = self.button(
            "Least consistent", "Show the view to check first", self.show_worst, icon="exclamation", width="150px"
        )
        before = self.button("", "The previous view", lambda: self.step(-1), icon="chevron-left")
        after = self.button("", "The next view", lambda: self.step(1), icon="chevron-right")
        before.layout.flex = after.layout.flex = "0 0 auto"
        pick = Row(before, self.slider, after, wrap=False, width="340px", max_width="100%")
        self.keys_of |= {
            "ArrowLeft": lambda: self.step(-1),
            "ArrowRight": lambda: self.step(1),
            "Tab": self.stage.screen.blur,
            "Escape": self.stage.screen.blur,
        }
        steps = Row(self.modes, space(), self.history)
        pick_row, find = (
            Row(label("View"), pick, self.caption),
            Row(self.solve_button, self.worst_button, self.progress),
        )
        self.show_rows([steps, pick_row, self.stage.screen, self.status, find, self.zoom])

    @property
    def view(self) -> int:
        """The view that is shown."""
        return self.slider.value

    def show(self, view: int) -> None:
        """Show another view."""
        self.slider.value = self.session.photos.check(view)

    def step(self, by: int) -> None:
        """Show a view further on, or back."""
        self.slider.value = min(max(self.view + by, 0), len(self.session) - 1)

    def show_worst(self) -> None:
        """Show the least consistent view."""
        worst = None if self.session.views is None else self.session.views.worst
        if worst is None:
            self.note("Find the object in all views first.")
        else:
            self.show(worst)

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its changes."""
        self.stage.paint(photo=False)
        self.caption.value = self.caption_html()
        self.history.refresh(self.session.prompts(self.view).is_empty)
        (views, *prompts), (views_before, *prompts_before), self._basis = self._state, self._basis, self._state
        if views is not views_before:
            self._hint = "; ".join(map(self.words, (views.overall.why, *views.notes)))
        elif views is not None and prompts != prompts_before:
            self._hint = CHANGED

    def hint(self) -> str:
        """The outcome of the last search, how consistent the view is, or what a press on the photo means."""
        return self._hint or f"{self.modes.hint()} {self.words(HINT)}"

    def still(self) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
        """The photo with its mask and markers."""
        name = self.session.photos.names[self.view]
        return still_of(
            self.stage
        ), f"The views widget: view {self.view}, {name}, with the object's mask where it has one"

    def close_parts(self) -> None:
        """Close the canvas."""
        self.stage.close()

    def solve(self) -> None:
        """Find the object in all views, with a bar of progress."""
        with self.guard():
            self.solve_button.disabled = True
            self.progress.layout.visibility = "visible"
            try:
                views = self.session.solve(self._show_progress)
            finally:
                self.solve_button.disabled = False
                self.progress.layout.visibility = "hidden"
            if self._on_solve is not None:
                self._on_solve(views)

    def caption_html(self) -> str:
        """Which photo is shown, its name cut short where there is no room, and the consistency of its mask."""
        view, views = self.view, self.session.views
        name, consistency = html.escape(self.session.photos.names[view]), ""
        if views is not None and not np.array_equal(self.session.mask(view), views.mask(view)):
            consistency = ": changed"
        elif views is not None:
            value = views.consistency(view)
            text = self.words(f"consistency {value.value:.2f}")
            consistency = f": {text}{' &#9888;' if value.is_doubtful else ''}"
        short = f'<span style="overflow:hidden;text-overflow:ellipsis;white-space:nowrap">{name}</span>'
        # A width of 0 that grows to the available room: the name takes none of its own.
        style = "display:flex;width:0;min-width:100%;white-space:nowrap"
        return f'<div class="nbhelpers-view" style="{style}" title="{name}">{short}{consistency}</div>'

    @property
    def _state(self) -> tuple:
        """What the status line depends on."""
        return self.session.views, self.session.log.events, self.session.log.cursor

    def _show_view(self) -> None:
        views = self.session.views
        self._hint = "" if views is None else self.words(views.consistency(self.view).why)
        self.stage.show_photo()
        self.refresh()

    def _show_progress(self, done: int, total: int, step: str) -> None:
        self.progress.max, self.progress.value = total, done
        self.show_message(step)
