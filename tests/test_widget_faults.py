"""What widgets do when something goes wrong behind them: it is said in the status line, and nothing is stuck."""

import asyncio
import threading

import numpy as np
import pytest
from fake_products import PRODUCT_AT, FakePatchEncoder, FakePointSegmenter, write_shelf
from fake_segmenter import FakeSegmenter
from fake_tracker import Clip, FakeTracker
from widget_tools import connect, is_following

from nbhelpers.product_matching import ProductSession, ProductSettings
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.click import ClickWidget
from nbhelpers.widgets.frames import FramesWidget
from nbhelpers.widgets.gallery import GalleryWidget


def broken(*_, **__):
    raise ZeroDivisionError("made to fail")


def interrupted(*_, **__):
    raise KeyboardInterrupt


def status(widget):
    return widget.status.value


@pytest.fixture
def click():
    widget = ClickWidget(ClickSession(np.full((70, 100, 3), 90, np.uint8), FakeSegmenter()), width=400)
    yield widget
    widget.close()


@pytest.fixture
def frames():
    widget = FramesWidget(RotoSession(Clip(), FakeTracker()), width=400)
    yield widget
    widget.close()


@pytest.fixture
def gallery(tmp_path):
    shelf = write_shelf(tmp_path / "shelf")
    models = {"segmenter": FakePointSegmenter(), "encoder": FakePatchEncoder()}
    session = ProductSession(shelf, settings=ProductSettings(scales=(224,)), cache=tmp_path / "cache", **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    widget = GalleryWidget(session)
    yield widget
    widget.close()


def test_a_redraw_that_fails_is_said_whoever_asked_for_it(click, frames, monkeypatch):
    for widget in (click, frames):
        monkeypatch.setattr(widget.stage, "paint_photo", broken)
        asked = (
            lambda widget=widget: connect(widget.stage.screen),
            lambda widget=widget: widget.stage.rest(),
            lambda widget=widget: widget.zoom.zoom_by(2),
        )
        for ask in asked:
            widget.show_message("fine")
            ask()
            assert "ZeroDivisionError: made to fail" in status(widget)


def test_a_film_strip_that_cannot_be_drawn_is_said(frames, monkeypatch):
    monkeypatch.setattr(frames.strip, "bar", broken)
    connect(frames.strip.screen)
    assert "ZeroDivisionError" in status(frames)
    monkeypatch.undo()
    frames.show_message("")
    monkeypatch.setattr(Clip, "__getitem__", broken)
    frames.strip.thumbs.clear()
    connect(frames.strip.screen)
    assert "ZeroDivisionError" in status(frames)


def test_a_brush_that_cannot_be_drawn_is_said(frames, monkeypatch):
    frames.modes.choose("brush")
    monkeypatch.setattr(frames.stage, "paint_marks", broken)
    frames.pointer.move(20, 20)
    assert "ZeroDivisionError" in status(frames)


def test_what_cannot_be_shown_does_not_stop_the_cell_that_changed_the_session(click, frames, monkeypatch):
    monkeypatch.setattr(click.candidates, "refresh", broken)
    assert click.session.click(50, 30) is not None and "ZeroDivisionError" in status(click)
    monkeypatch.setattr(frames.strip, "refresh", broken)
    frames.session.click(14, 20)
    assert frames.session.mask()[20, 14] and "ZeroDivisionError" in status(frames)


def test_a_failure_while_an_action_is_shown_is_not_covered_by_its_success(click, monkeypatch):
    monkeypatch.setattr(click.candidates, "refresh", broken)
    click.pointer.press(200, 120)
    assert len(click.session.prompts().points) == 1 and "ZeroDivisionError" in status(click)
    monkeypatch.undo()
    click.pointer.press(300, 120)
    assert "ZeroDivisionError" not in status(click)


def test_turning_a_page_of_the_gallery_says_what_fails(gallery, monkeypatch):
    monkeypatch.setattr(gallery.cards, "show", broken)
    for act in (
        lambda: gallery.turn(1),
        lambda: gallery.open_photo(0),
        lambda: gallery.kind.set_trait("value", "found"),
    ):
        gallery.show_message("fine")
        act()
        assert "ZeroDivisionError" in status(gallery)
    gallery.show_message("fine")
    gallery.session.set_threshold(0.5)
    assert gallery.session.threshold == 0.5 and "ZeroDivisionError" in status(gallery)


def test_an_interrupt_is_said_and_passed_on_and_leaves_nothing_running(click, frames, gallery, monkeypatch):
    monkeypatch.setattr(click.session.segmenter, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        click.pointer.press(200, 120)
    assert "Interrupted." in status(click) and not click.busy and click.session.prompts().is_empty
    monkeypatch.setattr(gallery.session, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gallery.search()
    assert "Interrupted." in status(gallery) and not gallery.search_button.disabled
    frames.session.click(14, 20)
    monkeypatch.setattr(frames.session.tracker, "_track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        frames.work.track("forward")
    assert "Interrupted." in status(frames) and not frames.work.running and frames.tracking.stop.disabled
    monkeypatch.undo()
    frames.work.track("forward")
    assert frames.session.state(11) == "tracked"


def test_a_cell_run_again_while_tracking_replaces_widget_and_session(tmp_path, caplog):
    def cell():
        session = RotoSession(Clip(60), FakeTracker(seconds=0.02), project=tmp_path / "clip")
        return FramesWidget(session)

    first = cell()
    first.session.click(14, 20)

    async def work():
        first.work.track("forward")
        while first.session.frame < 3:
            await asyncio.sleep(0.005)
        second = cell()  # the same project, opened anew
        first.work.wait(30)
        return second

    second = asyncio.run(work())
    assert first.comm is None and not first.work.running
    assert not is_following(first, lambda: first.session.go(1))
    assert not [each for each in threading.enumerate() if each.name == "nbhelpers-frames"]
    done = [frame for frame in range(60) if second.session.state(frame) == "tracked"]
    assert 2 < len(done) < 55 and second.session.prompts(frame=0).points == ((14, 20),)
    second.work.track("forward")
    assert second.session.state(59) == "tracked" and not caplog.records
    second.close()
