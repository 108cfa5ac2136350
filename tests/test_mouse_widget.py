"""Mouse and touch on the widgets' canvases, without a browser: messages of ipycanvas and ipyevents in, prompts out."""

import sys

import cv2
import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from fake_tracker import Clip, FakeTracker
from widget_tools import connect, page_event

from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.canvas import LEFT, MIDDLE, RIGHT
from nbhelpers.widgets.click import ClickWidget
from nbhelpers.widgets.frames import FramesWidget

BITS = {LEFT: 1, RIGHT: 2, MIDDLE: 4}  # of MouseEvent.buttons


class Page:
    """What a page with a canvas in it sends to the kernel.

    Args:
        screen: a `LayeredCanvas`.
        ipyevents: whether the page has the JavaScript of ipyevents.
        first: whose message of one press is handled first, ``"ipycanvas"`` or ``"ipyevents"``.
        zoom: width of the canvas on the page, in its own pixels.
    """

    def __init__(self, screen, ipyevents=True, first="ipycanvas", zoom=1.0):
        self.screen, self.ipyevents, self.first, self.zoom, self.buttons = screen, ipyevents, first, zoom, 0

    def connect(self):
        connect(self.screen)

    def enter(self):
        self._send("mouseenter", None, 0, 0, LEFT, {})

    def down(self, x, y, button=LEFT, **keys):
        self.buttons |= BITS[button]
        self._send("mousedown", "mouse_down", x, y, button, keys)

    def move(self, x, y):
        self._send("mousemove", "mouse_move", x, y, LEFT, {})

    def up(self, x, y, button=LEFT):
        self.buttons &= ~BITS[button]
        self._send("mouseup", "mouse_up", x, y, button, {})

    def leave(self, x, y):
        self._send("mouseleave", "mouse_out", x, y, LEFT, {})

    def click(self, x, y, button=LEFT, **keys):
        self.enter()
        self.down(x, y, button, **keys)
        self.up(x, y, button)

    def touch(self, kind, *places):
        touches = [{"x": x, "y": y} for x, y in places]
        page_event(self.screen, f"touch_{kind}", touches=touches)

    def _send(self, dom, event, x, y, button, keys):
        def canvas():
            if event is not None:
                page_event(self.screen, event, x=x, y=y)

        def events():
            if self.ipyevents:
                size = self.screen.widget
                where = {"clientX": 40 + x * self.zoom, "clientY": 30 + y * self.zoom}
                where |= {"boundingRectLeft": 40, "boundingRectTop": 30}
                where |= {"boundingRectWidth": size.width * self.zoom, "boundingRectHeight": size.height * self.zoom}
                content = {"event": dom, "button": button, "buttons": self.buttons, "shiftKey": False, "ctrlKey": False}
                self.screen.mouse.dom_event(content | where | keys)

        for send in (canvas, events) if self.first == "ipycanvas" else (events, canvas):
            send()


def picture():
    image = np.full((700, 1000, 3), 180, np.uint8)
    cv2.circle(image, (300, 350), 140, (200, 30, 30), -1)
    return image


@pytest.fixture
def session():
    return ClickSession(picture(), FakeSegmenter())


@pytest.fixture
def widget(session):
    widget = ClickWidget(session)
    yield widget
    widget.close()


@pytest.fixture
def frames():
    widget = FramesWidget(RotoSession(Clip(), FakeTracker()), width=800)
    yield widget
    widget.close()


def status(widget):
    return widget.status.value


@pytest.mark.parametrize("first", ["ipycanvas", "ipyevents"])
@pytest.mark.parametrize(
    "button, keys, labels",
    [
        (LEFT, {}, (1,)),
        (RIGHT, {}, (0,)),
        (LEFT, {"shiftKey": True}, (0,)),
        (LEFT, {"ctrlKey": True}, (0,)),
        (MIDDLE, {}, ()),
    ],
)
def test_the_button_of_a_press_decides_and_a_press_counts_once(widget, session, first, button, keys, labels):
    Page(widget.stage.screen, first=first).click(300, 350, button, **keys)
    assert session.prompts().labels == labels and session.prompts().points == ((300, 350),) * len(labels)
    assert session.log.cursor == 1 + len(labels)


@pytest.mark.parametrize("mode", ["exclude", "box", "remove", "pan"])
def test_the_right_button_excludes_in_every_mode(widget, session, mode):
    widget.pointer.mode = mode
    Page(widget.stage.screen).click(300, 350, RIGHT)
    assert session.prompts().labels == (0,) and session.prompts().box is None


def test_the_browsers_menu_is_kept_away(widget):
    events = widget.stage.screen.mouse._events
    assert events.prevent_default_action and "contextmenu" in events.watched_events
    assert events.source is widget.stage.screen.widget
    widget.close()
    assert events.comm is None


@pytest.mark.parametrize("zoom", [0.37, 1.25, 2.0])
def test_places_follow_the_size_at_which_the_page_shows_the_canvas(widget, session, zoom):
    Page(widget.stage.screen, zoom=zoom).click(300, 350, RIGHT)
    assert session.prompts().points[0] == pytest.approx((300, 350), abs=0.06)


def test_without_ipyevents_all_works_as_with_one_button_and_the_hint_says_how_to_exclude(session, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyevents", None)
    widget = ClickWidget(session)
    assert "Choose Exclude (E)" in status(widget) and "Right-click" not in status(widget)
    page = Page(widget.stage.screen, ipyevents=False)
    page.click(300, 350, RIGHT)
    assert session.prompts().labels == (1,)
    widget.pointer.mode = "box"
    page.down(100, 100)
    page.move(200, 200)
    page.up(300, 300)
    assert session.prompts().box == (100, 100, 300, 300)
    widget.close()


def test_a_page_without_the_javascript_of_ipyevents_is_noticed_at_its_first_press(widget, session):
    assert "Right-click or Shift-click" in status(widget)
    page = Page(widget.stage.screen, ipyevents=False)
    page.click(300, 350)
    assert session.prompts().labels == (1,) and "Choose Exclude (E)" in status(widget)
    page.connect()  # another page, which has it
    assert widget.stage.screen.mouse.reports_buttons
    Page(widget.stage.screen).click(700, 350, RIGHT)
    assert session.prompts().labels == (1, 0) and "Right-click or Shift-click" in status(widget)


def test_a_press_that_ipycanvas_reported_before_anything_else_is_not_taken_twice(widget, session):
    page = Page(widget.stage.screen)
    page.down(300, 350)  # no mouse has entered before
    page.up(300, 350)
    assert session.prompts().labels == (1,)
    page.click(700, 350, RIGHT)
    assert session.prompts().labels == (1, 0)


def test_a_second_button_does_not_disturb_a_drag(widget, session):
    widget.pointer.mode = "box"
    page = Page(widget.stage.screen)
    page.enter()
    page.down(100, 100)
    page.move(200, 200)
    page.down(200, 200, RIGHT)
    page.up(200, 200, RIGHT)
    page.move(300, 280)
    assert widget.stage.rubber == (100, 100, 300, 280)
    page.up(320, 300)
    assert session.prompts().box == (100, 100, 320, 300) and session.prompts().points == ()


def test_a_drag_that_leaves_the_canvas_ends_there_and_nothing_sticks(widget, session):
    widget.pointer.mode = "box"
    page = Page(widget.stage.screen)
    page.enter()
    page.down(100, 100)
    page.leave(1010, 400)
    assert session.prompts().box == (100, 100, 999, 400)
    page.enter()
    page.move(50, 50)
    assert widget.stage.rubber is None and session.log.cursor == 2


@pytest.mark.parametrize("mode", ["include", "box"])
def test_the_middle_button_pans(widget, session, mode):
    widget.zoom.zoom_by(4)
    widget.pointer.mode, before = mode, widget.stage.viewport
    page = Page(widget.stage.screen)
    page.enter()
    page.down(500, 300, MIDDLE)
    page.move(530, 320)
    page.up(560, 340, MIDDLE)
    assert widget.stage.viewport == before.panned(60, 40) and session.prompts().is_empty


def test_a_double_click_is_one_point(widget, session):
    page = Page(widget.stage.screen)
    page.click(300, 350)
    page.click(300, 350)
    assert session.prompts().points == ((300, 350),)


def test_a_page_that_reloads_in_the_middle_of_a_drag_drops_it(widget, session):
    widget.pointer.mode = "box"
    page = Page(widget.stage.screen)
    page.enter()
    page.down(100, 100)
    page.move(200, 200)
    page.buttons = 0
    page.connect()
    assert widget.stage.rubber is None
    page.enter()
    page.move(400, 400)
    page.up(400, 400)
    assert session.prompts().is_empty and widget.stage.rubber is None


def test_without_buttons_a_press_whose_release_was_lost_leaves_nothing_behind(widget, session):
    widget.pointer.mode = "box"
    page = Page(widget.stage.screen, ipyevents=False)
    page.down(100, 100)
    page.move(200, 200)
    widget.pointer.mode = "include"
    page.down(300, 350)
    assert widget.stage.rubber is None and session.prompts().points == ((300, 350),)


def test_a_marker_that_is_undone_during_its_drag_is_not_confused_with_another(widget, session):
    session.click(300, 350)
    session.click(600, 350)
    session.click(500, 100)
    page = Page(widget.stage.screen)
    page.enter()
    page.down(300, 350)
    page.move(320, 380)
    session.remove(0)
    page.up(400, 500)
    assert session.prompts().points == ((600, 350), (500, 100)) and "changed during the drag" in status(widget)
    assert widget.stage.dragged is None


def test_two_fingers_end_a_drag(widget, session):
    widget.pointer.mode = "box"
    page = Page(widget.stage.screen)
    page.touch("start", (100, 100))
    page.touch("move", (200, 200))
    page.touch("start", (200, 200), (400, 400))
    page.touch("end", (200, 200))
    page.touch("move", (210, 210))
    page.touch("end")
    assert session.prompts().is_empty and widget.stage.rubber is None
    page.touch("start", (100, 100))
    page.touch("move", (300, 300))
    page.touch("end")
    assert session.prompts().box == (100, 100, 300, 300)


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (3, 3)])
def test_the_thinnest_photos_can_be_clicked_where_they_are_drawn(size):
    session = ClickSession(np.full((*size, 3), 90, np.uint8), FakeSegmenter())
    widget = ClickWidget(session, width=400)
    (x0, y0, x1, y1), _ = widget.stage.viewport.placed()
    Page(widget.stage.screen).click((x0 + x1 - 1) // 2, (y0 + y1 - 1) // 2)
    assert len(session.prompts().points) == 1, status(widget)
    widget.close()


def test_the_last_fraction_of_a_canvas_pixel_is_still_the_photo(widget, session):
    Page(widget.stage.screen).click(999.8, 699.7)  # a page may place a canvas at fractions of a pixel
    assert session.prompts().points == ((999, 699),)
    widget.pointer.press(1002, 5)
    assert "outside the image" in status(widget) and len(session.prompts().points) == 1


def test_on_the_film_strip_only_the_left_button_goes_to_a_frame(frames):
    page = Page(frames.strip.screen)
    page.enter()
    page.down(600, 10, RIGHT)
    page.move(700, 10)
    assert frames.session.frame == 0
    page.up(700, 10, RIGHT)
    page.click(600, 10)
    assert frames.session.frame == 9


def test_with_a_brush_the_right_button_erases(frames):
    session = frames.session
    place = frames.stage.viewport.to_canvas
    frames.modes.choose("brush")
    page = Page(frames.stage.screen)
    page.enter()
    page.down(*place(30, 30))
    page.up(*place(40, 30))
    page.down(*place(35, 25), RIGHT)
    page.move(*place(35, 30))
    assert frames.stage.brush[-1], "the ring shows what the stroke does"
    page.up(*place(35, 35), RIGHT)
    assert [stroke.erase for stroke in session.prompts().strokes] == [False, True] and not frames.stage.brush[-1]


def test_a_press_on_a_frame_ends_playing(frames):
    frames.time.toggle_play()
    Page(frames.stage.screen).click(*frames.stage.viewport.to_canvas(14, 20))
    assert not frames.time.playing and frames.session.prompts().points == ((14, 20),)


@pytest.mark.parametrize("mode", ["box", "brush", "include"])
def test_a_drag_whose_frame_was_exchanged_changes_no_other_frame(frames, mode):
    session, place = frames.session, frames.stage.viewport.to_canvas
    session.click(14, 20)
    session.click(30, 30, frame=3)
    session.go(0)
    before = session.log.cursor
    frames.modes.choose(mode)
    page = Page(frames.stage.screen)
    page.enter()
    page.down(*place(14, 20))
    page.move(*place(30, 40))
    session.go(3)
    page.move(*place(40, 45))
    page.up(*place(50, 50))
    assert session.log.cursor == before and "changed during the drag" in status(frames)
    assert frames.stage.rubber is None and frames.stage.stroke == [] and frames.stage.dragged is None
