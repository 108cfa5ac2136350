"""The notebooks' widgets on pages: drawn for one visitor, without fields for paths, in plain words."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from solara.server import kernel_context
from traitlets import Undefined

from nbhelpers.app.jobs import ClipTask, PhotoTask, ProductTask, SceneTask
from nbhelpers.app.words import plain
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.product_matching.report import Detection, MatchedPhoto
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.base import Current, Panels, SessionT_co, SessionWidget
from nbhelpers.widgets.click import ClickWidget
from nbhelpers.widgets.frame_stage import legend_html
from nbhelpers.widgets.frames import FramesWidget
from nbhelpers.widgets.gallery import GalleryWidget
from nbhelpers.widgets.views import ViewsWidget

needs("app", "solara", "traitlets")
needs("widgets", "ipywidgets", "ipycanvas")

WIDTH = 860  # pixels of the picture
CARD = "minmax(min(280px, 100%), 1fr)"  # width of a photo among others
STATES = {
    "prompted": "clicked",
    "sure": "followed",
    "gone": "out of sight",
    "empty": "not followed yet",
    "other": "two things may be it",
}
FRAME_STATES = {**STATES, "tracked": "followed", "outdated": "outdated: follow again"}
DECISIONS = {
    "kept": "Found",
    "below threshold": "Not alike enough",
    "closer to a reject": "More like what you said No to",
    "duplicate": "Part of another one",
    "beyond top k": "Others are more alike",
}


def on_page() -> Callable[[Callable], Callable[..., None]]:
    """A decorator for functions that other threads call: they run for the page that is being made, while it is open."""
    context = kernel_context.get_current_context()

    def bind(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args: Any) -> None:
            def run() -> None:
                if not context.closed_event.is_set():
                    with context:
                        function(*args)

            if kernel_context.has_current_context() and kernel_context.get_current_context() is context:
                function(*args)
            elif context.event_loop.is_running():  # that of the page's own thread: drawing takes its turn there
                context.event_loop.call_soon_threadsafe(run)
            else:
                run()

        return call

    return bind


def each_visitor_draws_apart() -> None:
    """Give the canvases of each page a manager of their own.

    ipycanvas makes one when it is imported, for the one page of a notebook; it would belong to no visitor.
    """
    from ipycanvas import canvas

    managers: weakref.WeakKeyDictionary[Any, canvas._CanvasManager] = weakref.WeakKeyDictionary()

    def manager() -> canvas._CanvasManager:
        key = kernel_context.get_current_context().kernel
        if key not in managers:
            managers[key] = canvas._CanvasManager()
        return managers[key]

    trait = canvas._CanvasBase._canvas_manager
    trait.default_value, trait.make_dynamic_default = Undefined, manager


class OnPage(SessionWidget[SessionT_co]):
    """A session's widget on a page: changes that other threads make are shown; it has no field for paths.

    The picture is large, with the controls beside it, or below it where the page is narrow.
    """

    def __init__(self, job: Any, session: Any, **options: Any):
        self.job, self._bind = job, on_page()
        super().__init__(session, **options)
        self.layout.width = "100%"

    def words(self, message: str) -> str:
        """A message of the session in plain words."""
        return plain(message)

    def fail(self, error: BaseException) -> None:
        """Put an error into the status line, without paths of the server, unless the page is closed."""
        if self.comm is not None:
            super().fail(NbHelpersError(error.what, do=error.do) if isinstance(error, NbHelpersError) else error)

    def _session_changed(self) -> None:
        self._bind(super()._session_changed)()

    def show_tips(self, box: widgets.DOMWidget | None = None) -> None:
        """Give each box with one slider the slider's tip, which ipywidgets shows on descriptions alone."""
        box = box or self
        children = getattr(box, "children", ())
        sliders = [child for child in children if hasattr(child, "readout")]
        if len(sliders) == 1 and sliders[0].tooltip:
            box.tooltip = sliders[0].tooltip
        for child in children:
            self.show_tips(child)

    def place_beside(self, *large: widgets.Widget) -> None:
        """Show some rows large, the others beside them; in the order of Tab the canvases stay last."""
        others = [row for row in self.children if row not in large]
        for part in (part for row in others for part in getattr(row, "children", ())):
            if type(part) is widgets.Box and not part.children:  # a space that pushes others to the right
                part.layout.display = "none"
        stage = widgets.VBox(large, layout=widgets.Layout(order="1", flex="99 1 560px", min_width="0", grid_gap="6px"))
        tools = widgets.VBox(others, layout=widgets.Layout(order="2", flex="1 1 400px", min_width="0", grid_gap="6px"))
        stage.layout.overflow = tools.layout.overflow = "visible"
        self.layout.flex_flow, self.layout.grid_gap = "row wrap", "16px"
        self.children = [tools, stage]
        self.show_tips()


class PageClick(OnPage[ClickSession], ClickWidget):
    """The click widget on a page."""

    def __init__(self, job: PhotoTask | ProductTask, session: ClickSession | None = None):
        super().__init__(job, session or job.session, width=WIDTH)
        self.children = [row for row in self.children if row is not self.files]
        close_all(self.files)
        self.place_beside(self.stage.screen.widget, self.status)

    def detail(self) -> str:
        """Nothing: a visitor does not ask for milliseconds."""
        return ""


class PageFrames(OnPage[RotoSession], FramesWidget):
    """The frames widget on a page; the job follows the objects, so that a reload does not end it."""

    def __init__(self, job: ClipTask):
        super().__init__(job, job.session, width=WIDTH)
        panels = next(row for row in self.children if isinstance(row, Panels))
        toggle = panels.toggles.pop("Export")
        panels.children = [each for each in panels.children if each is not self.export]
        panels.children[0].children = [each for each in panels.children[0].children if each is not toggle]
        follow = [
            self.button(
                "Back",
                "Follow the objects back to the first frame (Shift+F)",
                lambda: job.follow("back"),
                icon="backward",
            ),
            self.button(
                "Follow", "Follow the objects to the last frame (F)", lambda: job.follow("forward"), icon="forward"
            ),
            self.button(
                "All", "Follow through each frame that is empty or outdated (A)", lambda: job.follow("all"), icon="film"
            ),
        ]
        title, old, rest = self.tracking.children[0], self.tracking.children[1:5], self.tracking.children[5:]
        title.value = "Follow"
        self.tracking.children = [title, *follow, *rest]
        close_all(self.export, toggle, *old)
        self.keys_of |= {
            "f": lambda: job.follow("forward"),
            "Shift+f": lambda: job.follow("back"),
            "a": lambda: job.follow("all"),
            "Escape": lambda: job.stop() if job.working else self.stage.screen.blur(),
        }
        self._tracked, self._running = job.frame, job.working
        screens = self.stage.screen.widget, self.strip.screen.widget
        self.legend.value = legend_html(STATES)
        self.place_beside(*screens, self.legend, self.time, self.status)

    def detail(self) -> str:
        """The state of the active object on the current frame."""
        state = self.session.state()
        return f"Frame {self.session.frame}: {self.session.active}: {FRAME_STATES.get(state, state)}"

    def current_candidates(self) -> Current | None:
        """None while the job uses the tracker."""
        return None if self.job.working else super().current_candidates()

    def show_progress(self) -> None:
        """Show the frame that was tracked last, unless the visitor looks at another one."""
        frame, before = self.job.frame, self._running
        self._running = self.job.working
        if frame is not None and frame != self._tracked:
            follow = not before or self.session.frame == self._tracked
            self._tracked = frame
            self.show_tracked(frame, follow)
        if before and not self._running:
            self.strip.update()
            self.refresh()


class PageGallery(OnPage[ProductSession], GalleryWidget):
    """The gallery on a page; the job searches, with a bar and a stop button."""

    def __init__(self, job: ProductTask):
        super().__init__(job, job.session)
        self.cards.layout.grid_template_columns = f"repeat(auto-fill, {CARD})"
        rows = [row for row in self.children if row is not self.threshold]
        self.children = [*rows, Panels(**{"How alike it must be": self.threshold})]  # few need it
        self.show_tips()

    def score_text(self, result: MatchedPhoto | None) -> str:
        """The result of a photo in a few words."""
        if result is None or result.error:
            return super().score_text(result)
        return "not found" if result.absent else f"found, {result.score:.0%} alike"

    def outcome_text(self, result: MatchedPhoto) -> str:
        """The result of a photo in a sentence."""
        count = len(result.matches)
        return result.error or ("not found" if not count else f"found {count} times" if count > 1 else "found")

    def detection_texts(self, detection: Detection) -> tuple[str, str, str]:
        """The decision about a detection in plain words, and how alike it is."""
        decision = DECISIONS.get(detection.decision, detection.decision)
        return decision, f"{max(detection.score, 0):.0%} alike", ""

    def search(self) -> None:
        """Let the job search."""
        self.job.find()

    def click_widget(self, session: ClickSession) -> ClickWidget:
        """The widget in which a new reference is clicked, without a field for a path."""
        return PageClick(self.job, session)


class PageViews(OnPage[ViewsSession], ViewsWidget):
    """The views widget on a page; the job solves, with a bar and a stop button."""

    def __init__(self, job: SceneTask):
        super().__init__(job, job.session, width=WIDTH)
        self.worst_button.description, self.worst_button.tooltip = "Most doubtful", "Show the photo to check first"
        self.slider.tooltip = "The photo that is shown"
        self.place_beside(self.stage.screen.widget, self.status)

    def solve(self) -> None:
        """Let the job solve."""
        self.job.solve()


def close_all(*parts: widgets.Widget) -> None:
    """Close widgets with all in them: what a page does not show, a visitor cannot reach either."""
    for part in parts:
        close_all(*getattr(part, "children", ()))
        part.close()
