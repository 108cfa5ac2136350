"""The views widget: look through the photos of a scene, click the object in any of them, find it in all."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterator

import cv2
import ipywidgets as widgets
import numpy as np

from nbhelpers.core.images import fit
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.widgets.canvas import LayeredCanvas
from nbhelpers.widgets.controls import Row, button, choice, colab_notice, exclude_hint, label, space, status_html
from nbhelpers.widgets.listening import Listening
from nbhelpers.widgets.mouse import LEFT, RIGHT
from nbhelpers.widgets.render import draw_marker, encode_overlay, encode_photo

LOWEST, TALLEST = 0.5, 0.75  # height of the canvas in widths; a taller photo is made narrower
OPACITY = 0.5
CHANGED = "Find it in all views again, so that they follow."
HINT = "Click the object. {exclude} Then find it in all views, and correct the view that is told to be the least sure."
MODES = (
    ("include", "", "Click where the object is."),
    ("exclude", "", "Click where the object is not."),
)


class ViewsWidget(Listening, widgets.VBox):
    """Shows a `ViewsSession` and turns clicks and buttons into its methods; holds no state of its own but the view.

    Example:
        >>> session = ViewsSession(photos, scene)
        >>> ViewsWidget(session)                     # as the last line of a cell

    The right mouse button (or Shift with the left one) excludes in either mode. While the canvas has the focus (after a
    click): I and E choose the mode, Z takes back, the left and right arrows go to the view before and the next, Tab
    leaves.

    A session has one widget: making another closes the first (show one widget twice to see it twice).

    Args:
        session: what to show.
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
        self.session, self._on_solve = session, on_solve
        self._busy, self._told = False, session.views
        tall, wide = session.photos.size(session.photos.check(view))
        height = round(width * min(max(tall / wide, LOWEST), TALLEST))
        self.screen = LayeredCanvas(width, height, ("photo", "mask", "marks"), repaint=self._connected)
        self._canvas = self.screen.widget
        self._mode = choice(MODES, lambda _: self._say(""))
        last = len(session) - 1
        self._slider = widgets.IntSlider(
            view, 0, last, continuous_update=False, layout=widgets.Layout(width="auto", flex="1 1 0", min_width="0")
        )
        self._slider.observe(lambda _: self._moved(), "value")
        self._name = widgets.HTML(layout=widgets.Layout(flex="1 1 160px", min_width="0", margin="0 0 0 4px"))
        self._progress = widgets.IntProgress(layout=widgets.Layout(width="200px", visibility="hidden"))
        self._status = widgets.HTML()
        self.solve_button = button(
            "Find in all views", "Find the object in all photos", self.solve, icon="search", width="160px"
        )
        steps = Row(
            label("Mode"),
            self._mode,
            space(),
            button("Undo", "Take the last step back", lambda: self._change(session.undo), icon="undo"),
            button("Clear", "Forget what was said in this view", lambda: self._change(self._clear), icon="eraser"),
        )
        before = button("", "The view before", lambda: self._step(-1), icon="chevron-left")
        after = button("", "The next view", lambda: self._step(1), icon="chevron-right")
        before.layout.flex = after.layout.flex = "0 0 auto"
        pick = Row(before, self._slider, after)
        pick.layout.flex_flow, pick.layout.width, pick.layout.max_width = "row nowrap", "340px", "100%"
        least = button("Least sure", "The view to look at first", self._worst, icon="exclamation", width="110px")
        find = Row(self.solve_button, least, self._progress)
        rows = (steps, Row(label("View"), pick, self._name), self._canvas, self._status, find)
        for place, shown in enumerate(rows):
            shown.layout.order = str(place)
        # The canvas swallows keys. To the eye it comes third, in the order of Tab last, behind all controls.
        layout = widgets.Layout(width=f"{width}px", max_width="100%", grid_gap="6px", overflow="visible")
        super().__init__([*(shown for shown in rows if shown is not self._canvas), self._canvas], layout=layout)
        self.add_class("nbhelpers-views")
        self._canvas.add_class("nbhelpers-canvas")
        self.screen.on_mouse(self._pressed)
        self._canvas.on_key_down(self._key)
        self._paint()
        self._listen()
        self._say(colab_notice())

    @property
    def view(self) -> int:
        """The view that is shown."""
        return self._slider.value

    def show(self, view: int) -> None:
        """Show another view."""
        self._slider.value = self.session.photos.check(view)

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its changes, also those of another cell."""
        if self._busy:  # what is under way tells how it went
            self._paint()
            return
        with self._guard():
            views = self.session.views
            self._paint()
            self._say(self._outcome() if views is not self._told else "" if views is None else CHANGED)
            self._told = views

    def _outcome(self) -> str:
        """What the last search told."""
        return "; ".join((self.session.views.overall.why, *self.session.views.notes))

    def _close_parts(self) -> None:
        self.screen.close()

    def _connected(self) -> None:
        with self.watched():
            self._paint()

    def _paint(self) -> None:
        image = self.session.image(self.view)
        left, top, scale = self._place(image.shape[:2])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        mask = self.session.mask(self.view).astype(np.uint8)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(bool)
        laid = encode_overlay([(0, mask)], 0, OPACITY)
        said = self.session.prompts(self.view)
        with self.screen.hold():
            for layer in ("photo", "mask", "marks"):
                self.screen[layer].clear()
            self.screen.put("photo", encode_photo(shown), left, top)
            if laid is not None:
                self.screen.put("mask", laid[0], left + laid[1], top + laid[2])
            for (x, y), kind in zip(said.points, said.labels, strict=True):
                draw_marker(self.screen["marks"], left + (x + 0.5) * scale - 0.5, top + (y + 0.5) * scale - 0.5, kind)
        self._name.value = self._about()

    def solve(self) -> None:
        """Find the object in all views, with a bar of progress."""
        with self._guard():
            self.solve_button.disabled = True
            self._progress.layout.visibility = "visible"
            try:
                views = self.session.solve(self._tell_progress)
            finally:
                self.solve_button.disabled = False
                self._progress.layout.visibility = "hidden"
            self._told = views
            self._say(self._outcome())
            if self._on_solve is not None:
                self._on_solve(views)

    def _tell_progress(self, done: int, total: int, doing: str) -> None:
        self._progress.max, self._progress.value = total, done
        self._say(doing)

    def _about(self) -> str:
        """Which photo is shown, its name cut short where there is no room, and how sure its mask is."""
        view, views = self.view, self.session.views
        name, sure = html.escape(self.session.photos.names[view]), ""
        if views is not None and not np.array_equal(self.session.mask(view), views.mask(view)):
            sure = ": changed"
        elif views is not None:
            consistency = views.consistency(view)
            sure = f": consistency {consistency.value:.2f}{' &#9888;' if consistency.is_doubtful else ''}"
        short = f'<span style="overflow:hidden;text-overflow:ellipsis;white-space:nowrap">{name}</span>'
        # A width of 0 that grows to the room there is: the name asks for none of its own.
        style = "display:flex;width:0;min-width:100%;white-space:nowrap"
        return f'<div class="nbhelpers-view" style="{style}" title="{name}">{short}{sure}</div>'

    def _place(self, size: tuple[int, int]) -> tuple[int, int, float]:
        """Left, top and scale at which a photo of ``(H, W)`` fills the canvas."""
        scale = min(self._canvas.width / size[1], self._canvas.height / size[0])
        left = round((self._canvas.width - size[1] * scale) / 2)
        return left, round((self._canvas.height - size[0] * scale) / 2), scale

    def _pressed(self, x: float, y: float, button: int = LEFT) -> None:
        if button not in (LEFT, RIGHT):
            return
        with self.watched():
            height, width = self.session.photos.size(self.view)
            left, top, scale = self._place((height, width))
            point = (x + 0.5 - left) / scale - 0.5, (y + 0.5 - top) / scale - 0.5
            if -0.5 <= point[0] < width - 0.5 and -0.5 <= point[1] < height - 0.5:
                kind = int(button == LEFT and self._mode.value == "include")
                self._change(lambda: self.session.click(*point, label=kind, view=self.view))

    def _clear(self) -> None:
        self.session.clear(self.view)

    def _worst(self) -> None:
        worst = None if self.session.views is None else self.session.views.worst
        if worst is None:
            self._say("Find the object in all views first.")
        else:
            self.show(worst)

    def _step(self, by: int) -> None:
        self._slider.value = min(max(self.view + by, 0), len(self.session) - 1)

    def _moved(self) -> None:
        with self._guard():
            self._paint()
            self._say("" if self.session.views is None else self.session.views.consistency(self.view).why)

    def _change(self, action: Callable[[], object]) -> None:
        """Do what changes what was said; the session has it shown."""
        with self._guard():
            action()
            self._say("" if self.session.views is None else CHANGED)

    def _key(self, key: str, shift: bool, control: bool, meta: bool) -> None:
        """A key pressed while the canvas has the focus."""
        match key.lower():
            case "i" | "e" if not (control or meta):
                self._mode.value = "include" if key.lower() == "i" else "exclude"
            case "z":
                self._change(self.session.undo)
            case "arrowleft" | "arrowright":
                self._step(-1 if key.lower() == "arrowleft" else 1)
            case "tab" | "escape":
                self.screen.blur()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        before, self._busy = self._busy, True
        try:
            with self.watched():
                yield
        finally:
            self._busy = before

    def _say(self, message: str, *, error: bool = False) -> None:
        hint = HINT.replace("{exclude}", exclude_hint(self.screen.mouse.reports_buttons))
        self._status.value = status_html(message or hint, "", error=error)


def thumbnails(images: list[np.ndarray], captions: list[str], side: int = 240) -> str:
    """Pictures side by side as HTML, which wraps where the page is narrow."""
    import base64

    items = []
    for image, caption in zip(images, captions, strict=True):
        data = base64.b64encode(cv2.imencode(".jpg", fit(image, side)[:, :, ::-1])[1].tobytes()).decode()
        text = html.escape(caption)
        items.append(
            f'<figure style="margin: 0; width: {side}px"><img alt="{text}" style="width: 100%" '
            f'src="data:image/jpeg;base64,{data}"><figcaption>{text}</figcaption></figure>'
        )
    return f'<div style="display: flex; flex-wrap: wrap; gap: 8px; line-height: 1.3">{"".join(items)}</div>'
