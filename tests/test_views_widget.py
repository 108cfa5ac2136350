"""The views widget and the page, without a browser: what buttons and clicks do to the session, and what is told."""

import html

import pytest
from page_models import page_segmenter, without_networks, write_photos
from widget_tools import connect, is_following, page_event

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.widgets.base import thumbnails
from nbhelpers.widgets.canvas import MIDDLE, RIGHT
from nbhelpers.widgets.drawing import encode_photo
from nbhelpers.widgets.views import ViewsWidget

BALL = (108, 147)  # in the photo of view 0


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    without_networks(monkeypatch.setattr)


@pytest.fixture
def paths(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture
def segmenter(monkeypatch):
    monkeypatch.setattr("page_models.without_networks", lambda: None)
    return page_segmenter()


@pytest.fixture
def widget(paths, segmenter):
    return ViewsWidget(ViewsSession(paths, segmenter=segmenter.model("segmenter")), width=640)


def press(widget, x, y):
    place = widget.stage.viewport.to_canvas(x, y)
    widget.pointer.press(*place)
    widget.pointer.release(*place)


def test_a_click_is_said_of_the_view_that_is_shown_in_its_own_pixels(widget):
    widget.show(0)
    press(widget, *BALL)
    assert widget.session.prompts(0).points[0] == pytest.approx(BALL, abs=0.01)
    assert widget.session.prompted == (0,) and widget.session.mask(0)[BALL[1], BALL[0]]


def test_exclude_undo_and_clear(widget):
    press(widget, *BALL)
    widget.modes.choice.value = "exclude"
    press(widget, 160, 120)
    assert list(widget.session.prompts(0).labels) == [1, 0]
    widget.press_key("Z")
    assert len(widget.session.prompts(0).points) == 1
    widget.history.clear.click()
    assert widget.session.prompts(0).is_empty


def test_a_click_beside_the_photo_is_nothing(widget):
    widget.pointer.press(-5, -5)
    assert widget.session.prompted == ()


def test_finding_tells_what_came_out_and_whom(paths, segmenter):
    told = []
    session = ViewsSession(paths, segmenter=segmenter.model("segmenter"))
    widget = ViewsWidget(session, width=640, on_solve=told.append)
    widget.solve()
    assert "no prompts" in widget.status.value.casefold() and not told
    press(widget, *BALL)
    widget.solve()
    assert told[-1] is session.views and not widget.solve_button.disabled
    assert "consistency" in widget.caption.value
    widget.show_worst()
    assert widget.view == session.views.worst


def test_moving_through_the_views_stays_inside(widget):
    widget.step(-1)
    assert widget.view == 0
    for _ in range(9):
        widget.step(1)
    assert widget.view == 4
    with pytest.raises(NbHelpersError, match="no such view"):
        widget.show(5)


def test_keys_choose_the_mode_and_the_view(widget):
    for key in ("e", "ArrowRight", "ArrowRight", "ArrowLeft"):
        widget.press_key(key)
    assert widget.modes.choice.value == "exclude" and widget.view == 1


def test_a_view_that_was_changed_since_it_was_judged_says_so(widget):
    press(widget, *BALL)
    assert "find it in all views" in widget.status.value.casefold() and "again" not in widget.status.value
    widget.solve()
    assert "consistency" in widget.caption.value
    widget.history.clear.click()
    assert "changed" in widget.caption.value and "again" in widget.status.value


def test_a_photo_that_cannot_be_read_is_told_when_it_is_shown(paths, segmenter):
    widget = ViewsWidget(ViewsSession(paths, segmenter=segmenter.model("segmenter")), width=640)
    paths[1].write_bytes(b"no picture")
    widget.step(1)
    assert "exclamation" in widget.status.value


def test_it_follows_a_session_that_another_cell_changes(widget):
    session = widget.session
    session.click(*BALL, view=0)
    clicked = widget.caption.value
    assert "find it in all views" in widget.status.value.casefold() and "again" not in widget.status.value
    views = session.solve()
    assert "consistency" in widget.caption.value and "consistency" not in clicked
    assert views.overall.why in html.unescape(widget.status.value)
    session.clear(0)
    assert "changed" in widget.caption.value and "again" in widget.status.value
    session.undo()
    assert "consistency" in widget.caption.value and "again" in widget.status.value


def test_each_change_of_another_cell_is_painted(widget, monkeypatch):
    painted = []
    monkeypatch.setattr("nbhelpers.widgets.stage.draw_marker", lambda *at: painted.append(at[-1]))
    widget.session.click(*BALL, view=0)
    widget.session.click(160, 120, label=0, view=0)
    assert painted == [1, 1, 0]
    widget.session.undo()
    assert painted == [1, 1, 0, 1]


def test_what_cannot_be_shown_is_told_and_does_not_stop_the_other_cell(widget, monkeypatch):
    monkeypatch.setattr(widget, "caption_html", lambda: 1 / 0)
    widget.session.click(*BALL, view=0)
    assert widget.session.prompted == (0,) and "ZeroDivisionError" in widget.status.value


def test_a_press_or_a_reload_that_fails_is_told(widget, monkeypatch):
    monkeypatch.setattr(widget.stage, "paint_marks", lambda: 1 / 0)
    connect(widget.stage.screen)
    assert "ZeroDivisionError" in widget.status.value
    widget.show_message("fine")
    monkeypatch.setattr(widget.session.photos, "size", lambda view: 1 / 0)
    page_event(widget.stage.screen, "mouse_down", x=100, y=100)
    assert "ZeroDivisionError" in widget.status.value


def test_the_right_button_excludes_and_a_finger_includes(widget):
    x, y = widget.stage.viewport.to_canvas(*BALL)
    page_event(widget.stage.screen, "touch_start", touches=[{"x": x, "y": y}])
    assert widget.session.prompts(0).points[0] == pytest.approx(BALL, abs=0.01)
    widget.pointer.press(*widget.stage.viewport.to_canvas(160, 120), RIGHT)
    widget.pointer.press(*widget.stage.viewport.to_canvas(10, 10), MIDDLE)
    assert list(widget.session.prompts(0).labels) == [1, 0]
    assert "Right-click or Shift-click" in widget.status.value


def test_a_session_has_one_widget(widget):
    other = ViewsWidget(widget.session, width=640)
    assert widget.comm is None and other.comm is not None
    widget.session.click(*BALL, view=0)
    other.close()
    assert not is_following(other, widget.session.undo)


def test_thumbnails_hold_their_pictures_and_escape_names(paths, widget):
    page = thumbnails([encode_photo(widget.session.image(0), preview=True)], ["<b>view</b>"])
    assert "data:image/jpeg;base64," in page and "<b>view" not in page
