"""The frames widget's behaviour, without a browser: mouse, keys and buttons in, session and messages out."""

import asyncio
import io
import threading
import time

import cv2
import numpy as np
import pytest
from fake_tracker import Clip, FakeTracker, UnsureTracker
from PIL import Image
from widget_tools import buttons, connect, is_following, key, record_messages

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import MatteSettings
from nbhelpers.models.values import Prediction
from nbhelpers.plots import rgb
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.frame_stage import BACKGROUNDS, BAR, COLOURS, GAP, OTHER, THUMB
from nbhelpers.widgets.frames import ENCODING, KEYS, FramesWidget

PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"


@pytest.fixture
def session():
    return RotoSession(Clip(), FakeTracker())


@pytest.fixture
def widget(session):
    widget = FramesWidget(session, width=800)
    yield widget
    widget.close()


@pytest.fixture
def sent(widget, monkeypatch):
    """Drawing messages after a page has connected: the bytes of each."""
    connect_both(widget)
    return record_messages(widget.stage.screen, monkeypatch)


def connect_both(widget):
    for screen in (widget.stage.screen, widget.strip.screen):
        connect(screen)


def status(widget):
    return widget.status.value


def click(widget, x, y):
    """On a place of the frame."""
    place = widget.stage.viewport.to_canvas(x, y)
    widget.pointer.press(*place)
    widget.pointer.release(*place)


def drag(widget, *places):
    start, *stops = (widget.stage.viewport.to_canvas(*place) for place in places)
    widget.pointer.press(*start)
    for stop in stops:
        widget.pointer.move(*stop)
    widget.pointer.release(*stops[-1])


def pictures(message):
    """The files in a message, decoded, RGB or RGBA."""
    starts = sorted(at for magic in (PNG, JPEG) for at in _all(message, magic))
    return [np.array(_rgba(Image.open(io.BytesIO(message[at:])))) for at in starts]


def _all(message, magic):
    at = message.find(magic)
    while at >= 0:
        yield at
        at = message.find(magic, at + 1)


def _rgba(picture):
    return picture.convert("RGBA") if picture.mode == "P" else picture


def frame_sent(message, widget):
    """The photo layer's picture in a message."""
    (x0, y0, x1, y1), _ = widget.stage.viewport.placed()
    return next(picture for picture in pictures(message) if picture.shape == (y1 - y0, x1 - x0, 3))


def test_a_click_prompts_the_current_frame(widget, session):
    session.go(4)
    click(widget, 18, 20)
    assert session.prompts(frame=4).points == ((18, 20),) and session.prompts(frame=4).labels == (1,)
    assert session.mask()[20, 18] and not session.mask()[50, 60]
    assert "Frame 4: object 1: prompted" in status(widget)


def test_a_click_sends_one_small_message_without_the_frame(widget, sent):
    click(widget, 14, 20)
    assert len(sent) == 1 and len(sent[0]) < 20_000 and JPEG not in sent[0]


def test_modes(widget, session):
    for name, mode in (("e", "exclude"), ("b", "box"), ("d", "brush"), ("x", "erase"), ("p", "pan"), ("i", "include")):
        key(widget, name)
        assert widget.pointer.mode == widget.modes.choice.value == mode
    click(widget, 14, 20)
    widget.modes.choose("exclude")
    click(widget, 60, 47)
    assert session.prompts().labels == (1, 0)
    widget.modes.choose("remove")
    click(widget, 60, 47)
    assert session.prompts().labels == (1,)
    widget.modes.choose("box")
    drag(widget, (45, 35), (74, 58))
    assert session.prompts().box == pytest.approx((45, 35, 74, 58), abs=0.1)


def test_the_brush_paints_and_erases(widget, session):
    click(widget, 14, 20)
    widget.modes.choose("brush")
    widget.brush.slider.value = 3
    drag(widget, (30, 30), (40, 30), (50, 30))
    assert session.mask()[30, 28:53].all() and session.mask()[20, 14] and not session.mask()[36, 40]
    widget.modes.choose("erase")
    drag(widget, (40, 25), (40, 35))
    assert not session.mask()[30, 40] and session.mask()[30, 30]
    assert session.prompts().strokes[1].erase and session.prompts().strokes[1].radius == 3
    session.undo()
    assert session.mask()[30, 40], "a stroke is one step"


def test_a_stroke_is_drawn_while_it_is_painted(widget, sent):
    widget.modes.choose("brush")
    sent.clear()
    widget.pointer.press(200, 200)
    widget.pointer.move(260, 200)
    assert len(sent) >= 2 and b"rgba" in sent[-1] and PNG not in sent[-1]
    widget.pointer.release(260, 200)
    assert widget.stage.stroke == []


def test_a_stroke_that_fails_leaves_nothing_behind(widget, session, monkeypatch):
    monkeypatch.setattr(session, "stroke", lambda *_: 1 / 0)
    widget.modes.choose("brush")
    drag(widget, (30, 30), (40, 30))
    assert "ZeroDivisionError" in status(widget) and widget.stage.stroke == [] and widget.pointer.drag is None


def test_the_ring_of_the_brush_follows_the_mouse_and_leaves_with_the_mode(widget, sent):
    widget.modes.choose("erase")
    widget.pointer.move(100, 120)
    assert widget.stage.brush == (100, 120, 12, True)
    widget.modes.choose("pan")
    assert widget.stage.brush is None


def test_brush_keys(widget):
    before = widget.pointer.radius
    key(widget, "]")
    assert widget.pointer.radius == widget.brush.slider.value > before
    for _ in range(40):
        key(widget, "[")
    assert widget.pointer.radius == 1


def test_frame_by_keys_buttons_slider_and_strip(widget, session):
    key(widget, "ArrowRight")
    key(widget, "ArrowRight")
    key(widget, "ArrowLeft")
    assert session.frame == 1 and widget.time.slider.value == 1
    key(widget, "End")
    assert session.frame == 11
    key(widget, "ArrowRight")
    assert session.frame == 11
    buttons(widget)["First frame of the range (Home)"].click()
    assert session.frame == 0
    widget.time.slider.value = 7
    assert session.frame == 7
    middle = sum(widget.strip.span(3)) / 2
    widget.strip.press(middle, 10)
    assert session.frame == 3
    widget.strip.move(sum(widget.strip.span(9)) / 2, 10)
    widget.strip.release(0, 0)
    widget.strip.move(0, 0)
    assert session.frame == 9


def test_a_frame_change_sends_a_preview_then_the_exact_frame(widget, session, sent):
    session.go(5)
    assert len(sent) == 2, "one message now, one when it rests"
    assert JPEG in sent[0] and frame_sent(sent[1], widget) is not None and JPEG not in sent[1]
    x, y = (round(place) for place in widget.stage.viewport.to_canvas(*session.frames.centre(5)))
    (x0, y0, _, _), _ = widget.stage.viewport.placed()
    assert tuple(frame_sent(sent[1], widget)[y - y0, x - x0]) == (210, 40, 30)


def test_playing_follows_the_page_and_ends_when_the_person_goes_elsewhere(widget, session):
    key(widget, " ")
    assert widget.time.playing and buttons(widget)["Pause"]
    widget.time.player.value = 3  # what the page sends
    assert session.frame == 3 and widget.time.slider.value == 3
    widget.time.slider.value = 8
    assert not widget.time.playing and session.frame == 8
    key(widget, " ")
    assert widget.time.player.value == 8
    key(widget, " ")
    widget.time.player.value = 9
    assert session.frame == 8, "a late message of the page changes nothing"


def test_the_range_holds_playing_and_following(widget, session):
    session.go(2)
    key(widget, ",")
    session.go(6)
    key(widget, ".")
    assert widget.strip.range == (2, 6) and "Range 2 to 6" in widget.time.range.value
    assert (widget.time.player.min, widget.time.player.max) == (2, 6)
    session.go(4)
    click(widget, 18, 20)
    key(widget, "a")
    assert [frame for frame in range(12) if session.state(frame) == "tracked"] == [2, 3, 5, 6]
    session.go(1)
    key(widget, ".")
    assert widget.strip.range == (1, 1)
    buttons(widget)["The range is the whole clip"].click()
    assert widget.strip.range == (0, 11)


def test_following_without_a_prompt_is_a_sentence(widget):
    key(widget, "f")
    assert "no prompt yet" in status(widget) and not widget.work.running


def test_following_fills_the_strip_and_tells_the_outcome(widget, session):
    click(widget, 14, 20)
    assert tuple(widget.strip.bar()[0, 410]) == rgb(COLOURS["empty"])
    buttons(widget)["Forward"].click()
    assert all(session.state(frame) == "tracked" for frame in range(1, 12))
    assert "Tracked 11 frames" in status(widget) and session.frame == 11
    bar = widget.strip.bar()
    assert bar.shape == (BAR, 800, 3) and tuple(bar[0, 450]) != rgb(COLOURS["empty"])
    assert tuple(bar[BAR // 2, int(sum(widget.strip.span(0)) / 2)]) == rgb(COLOURS["prompted"])
    buttons(widget)["Forward"].click()
    assert "up to date" in status(widget)


def test_a_draft_is_tracked_by_a_button_and_said_to_be_one(widget, session):
    click(widget, 14, 20)
    draft = widget.tracking.draft
    draft.value = True
    key(widget, "f")
    session.go(4)
    assert session.quality == "draft" and "tracked (draft)" in status(widget)
    draft.value = False
    session.go(0)
    key(widget, "f")
    session.go(4)
    assert not session.is_draft() and "(draft)" not in status(widget)


def test_a_correction_makes_frames_stale_and_following_again_keeps_it(widget, session):
    click(widget, 14, 20)
    key(widget, "f")
    session.go(5)
    widget.modes.choose("exclude")
    click(widget, 60, 47)
    assert session.state(8) == "outdated" and tuple(widget.strip.bar()[0, 560]) != tuple(widget.strip.bar()[3, 560])
    key(widget, "a")
    assert session.state(8) == "tracked" and session.state(5) == "prompted" and session.prompts(frame=5).labels == (0,)


def test_next_doubtful(session, monkeypatch):
    clip = Clip(gone=(7, 8))
    session = RotoSession(clip, FakeTracker())
    widget = FramesWidget(session)
    key(widget, "n")
    assert "No frame of this object is doubtful" in status(widget)
    session.click(14, 20)
    key(widget, "f")
    session.go(0)
    key(widget, "n")
    assert session.frame == session.next_doubtful(0) == 7 and "Frame 7" in status(widget)
    assert tuple(widget.strip.bar()[0, int(sum(widget.strip.span(7)) / 2)]) == rgb(COLOURS["gone"])
    widget.close()


def test_the_next_meaning_of_a_click_is_one_key_away(widget, session, monkeypatch):
    key(widget, "h")
    assert "no candidate masks" in status(widget)
    whole = np.zeros((60, 80), bool)
    whole[5:40, 5:40] = True
    masks = np.where(np.stack([np.roll(whole, 9, 1), whole]), 1, -1).astype(np.float32)
    both = Prediction(masks, np.array([0.9, 0.8], np.float32), (60, 80), (60, 80))
    monkeypatch.setattr(session.tracker, "candidates", lambda state, frame, point: both, raising=False)
    click(widget, 14, 20)
    key(widget, "h")
    assert np.array_equal(session.mask(), whole)
    assert "Meaning 2 of 2" in status(widget)
    assert [each.button_style for each in widget.candidates.buttons] == ["", "primary"]
    widget.candidates.buttons[0].click()
    assert np.array_equal(session.mask(), np.roll(whole, 9, 1))
    session.go(1)
    assert not widget.candidates.buttons
    session.go(0)
    assert len(widget.candidates.buttons) == 2
    click(widget, 60, 50)  # a second click leaves no doubt
    assert not widget.candidates.buttons


def test_the_other_candidate_is_taken_with_one_key(widget, session, monkeypatch):
    key(widget, "t")
    assert "no other candidate" in status(widget)
    click(widget, 14, 20)
    key(widget, "f")
    session.go(5)
    other = np.roll(session.mask(5), 9, 0)
    monkeypatch.setattr(session, "other_candidate", lambda frame=None, name=None: other)
    monkeypatch.setattr(session, "next_doubtful", lambda: 5)
    key(widget, "n")
    assert "T takes the other one" in status(widget)
    buttons(widget)["Take other"].click()
    assert session.state(5) == "prompted" and np.array_equal(session.mask(5), other)


def test_the_other_candidate_is_marked_on_the_strip_and_outlined_on_the_frame():
    session = RotoSession(Clip(), UnsureTracker())
    widget = FramesWidget(session, width=800)
    click(widget, 14, 20)
    list(session.propagate())
    widget.strip.update()
    x = int(sum(widget.strip.span(5)) / 2)
    dots = widget.strip.bar()[[BAR // 2 - 4, BAR // 2 + 4], x]
    assert (dots == 0).all()
    x = int(sum(widget.strip.span(4)) / 2)
    assert (widget.strip.bar()[BAR // 2 - 4, x] > 0).any()
    assert "another candidate" in widget.legend.value
    session.go(4)
    assert widget.stage.outlines() == []
    session.go(5)
    ((colour, outlined),) = widget.stage.outlines()
    visible_rows = np.flatnonzero(outlined.any(1)) * 60 / len(outlined)
    assert colour == OTHER and abs(visible_rows.mean() - 32) < 1.5
    session.take_other()
    assert widget.stage.outlines() == []
    widget.close()


def test_following_in_the_background_can_be_looked_away_from_and_stopped():
    session = RotoSession(Clip(60), FakeTracker(seconds=0.02))
    session.click(14, 20)
    widget = FramesWidget(session)
    threads = set()
    stop = session.on_change(lambda: threads.add(threading.get_ident()))

    async def work():
        widget.work.track("forward")
        assert widget.work.running and not widget.tracking.stop.disabled and widget.tracking.starts[0].disabled
        while session.frame < 3:
            await asyncio.sleep(0.01)
        assert "Tracking: frame" in status(widget)
        widget.visit(0)
        reached = _done(session)
        while _done(session) < reached + 3:
            await asyncio.sleep(0.01)
        assert session.frame == 0, "who looks at something else is left there"
        widget.work.track("forward")  # no second one beside the first
        key(widget, "Escape")
        widget.work.wait(30)

    asyncio.run(work())
    assert 5 < _done(session) < 60 and not widget.work.running and "Stopped; tracked" in status(widget)
    assert widget.tracking.stop.disabled and not widget.tracking.starts[0].disabled
    stop()
    widget.close()


def _done(session):
    return sum(session.state(frame) == "tracked" for frame in range(len(session.frames)))


def test_a_correction_while_following_ends_it_and_is_kept():
    session = RotoSession(Clip(60), FakeTracker(seconds=0.02))
    session.click(14, 20)
    widget = FramesWidget(session)

    async def work():
        widget.work.track("forward")
        while session.frame < 4:
            await asyncio.sleep(0.01)
        widget.visit(2)
        widget.modes.choose("exclude")
        click(widget, 60, 47)
        widget.work.wait(30)
        await asyncio.sleep(0.05)

    asyncio.run(work())
    assert session.state(2) == "prompted" and _done(session) < 55 and not widget.work.running
    widget.close()


def test_closing_while_following_ends_it_quietly(caplog):
    session = RotoSession(Clip(60), FakeTracker(seconds=0.02))
    session.click(14, 20)
    widget = FramesWidget(session)
    connect_both(widget)

    async def work():
        widget.work.track("forward")
        while session.frame < 2:
            await asyncio.sleep(0.01)
        widget.close()
        widget.work.wait(30)

    asyncio.run(work())
    assert 1 < _done(session) < 55 and not caplog.records
    assert not is_following(widget, session.undo)


def test_thumbnails_are_loaded_beside_other_work():
    widget = FramesWidget(RotoSession(Clip(40), FakeTracker()))
    threads = set()
    real = Clip.__getitem__

    class Watched(Clip):
        def __getitem__(self, index):
            threads.add(threading.current_thread().name)
            return real(self, index)

    widget.session.frames.__class__ = Watched

    async def work():
        connect(widget.strip.screen)
        while len(widget.strip.thumbs) < widget.strip.slots:
            await asyncio.sleep(0.01)

    asyncio.run(work())
    assert len(threads) == 1 and threads.pop().startswith("nbhelpers-frames")
    widget.close()


def test_a_tracker_that_fails_is_a_sentence_and_the_widget_goes_on(widget, session, monkeypatch):
    click(widget, 14, 20)
    monkeypatch.setattr(session.tracker, "_track", lambda *_: 1 / 0)
    key(widget, "f")
    assert "ZeroDivisionError" in status(widget) and not widget.work.running
    monkeypatch.undo()
    key(widget, "f")
    assert session.state(11) == "tracked"


def test_objects(widget, session):
    click(widget, 14, 20)
    widget.objects.add.click()
    click(widget, 60, 47)
    assert session.active == "object 2" and set(session.masks()) == {"object 1", "object 2"}
    key(widget, "1")
    assert session.active == "object 1"
    key(widget, "7")
    assert session.active == "object 1"
    buttons(widget)["Hide object 2"].click()
    assert widget.stage.hidden == {"object 2"} and buttons(widget)["Show object 2"]
    key(widget, "v")
    assert widget.stage.hidden == {"object 1", "object 2"}
    widget.objects.name.value = "disc"
    buttons(widget)["Rename"].click()
    buttons(widget)["Delete"].click()
    assert session.objects == ("object 2",)


def test_hidden_objects_are_not_painted(widget, session, sent):
    click(widget, 14, 20)
    assert PNG in sent[-1]
    widget.objects.toggle("object 1")
    assert not any(picture.shape[2] == 4 for picture in pictures(sent[-1]))


def test_matte_and_cut_out_views_are_exact(widget, session, sent):
    click(widget, 14, 20)
    (x0, y0, _, _), _ = widget.stage.viewport.placed()
    inside = tuple(round(place) for place in widget.stage.viewport.to_canvas(14, 20))[::-1]
    outside = tuple(round(place) for place in widget.stage.viewport.to_canvas(60, 47))[::-1]
    inside, outside = ((row - y0, column - x0) for row, column in (inside, outside))
    key(widget, "m")
    assert widget.stage.display == "matte"
    matte = frame_sent(sent[-1], widget)
    assert tuple(matte[inside]) == (255, 255, 255) and tuple(matte[outside]) == (0, 0, 0)
    key(widget, "m")
    widget.display.background.value = "green"
    cut = frame_sent(sent[-1], widget)
    assert tuple(cut[inside]) == (210, 40, 30) and tuple(cut[outside]) == rgb(BACKGROUNDS["green"])
    widget.display.background.value = "checkerboard"
    assert len(np.unique(frame_sent(sent[-1], widget)[-40:, -40:])) == 2


def test_the_wipe_shows_the_frame_to_its_left(widget, session, sent):
    click(widget, 14, 20)
    key(widget, "m")
    key(widget, "w")
    assert widget.stage.wipe == 0.5
    shown, plain = frame_sent(sent[-1], widget), widget.stage.photo().crop(widget.stage.viewport)
    column = widget.stage.wipe_column - widget.stage.viewport.placed()[0][0]
    assert np.array_equal(shown[:, :column], plain[:, :column]) and not shown[:, column:].any()
    widget.pointer.press(widget.stage.wipe_column, widget.stage.knob_row)
    widget.pointer.move(90, 100)
    widget.pointer.release(80, 100)
    assert widget.stage.wipe == pytest.approx(0.1) and widget.display.position.value == pytest.approx(0.1)
    assert session.prompts().points == ((14, 20),), "the handle is no click"
    key(widget, "w")
    assert widget.stage.wipe is None


def test_onion_skin_outlines_the_neighbours(widget, session, sent):
    click(widget, 14, 20)
    key(widget, "f")
    session.go(5)
    key(widget, "o")
    assert widget.stage.onion == 1
    colours = {tuple(colour[:3]) for colour in np.unique(pictures(sent[-1])[0].reshape(-1, 4), axis=0)}
    assert {rgb("#FF4FD8"), rgb("#7CFF4F")} <= colours
    for _ in range(3):
        key(widget, "o")
    assert widget.stage.onion == 0


def test_matte_sliders_belong_to_the_active_object(widget, session):
    click(widget, 14, 20)
    widget.matte.sliders["feather"].value = 4
    widget.matte.sliders["grow"].value = -1.5
    assert session.matte_settings() == MatteSettings(grow=-1.5, feather=4)
    session.add_object("box")
    assert widget.matte.sliders["feather"].value == 0 and widget.matte.title.value.startswith("For box;")
    session.select("object 1")
    assert widget.matte.sliders["feather"].value == 4
    session.undo(), session.undo(), session.undo()
    assert session.matte_settings() == MatteSettings() and widget.matte.sliders["feather"].value == 0


def test_the_matte_view_shows_the_settings(widget, session, sent):
    click(widget, 14, 20)
    key(widget, "m")
    hard = frame_sent(sent[-1], widget)
    widget.matte.sliders["feather"].value = 10
    soft = frame_sent(sent[-1], widget)
    assert ((soft > 20) & (soft < 235)).mean() > 2 * ((hard > 20) & (hard < 235)).mean()
    buttons(widget)["Reset"].click()
    assert np.array_equal(frame_sent(sent[-1], widget), hard)


def test_undo_redo_clear(widget, session):
    found = buttons(widget)
    assert found["Undo"].disabled and found["Redo"].disabled and found["Clear"].disabled
    click(widget, 14, 20)
    key(widget, "z", control=True)
    assert session.prompts().is_empty
    key(widget, "y")
    assert not session.prompts().is_empty and found["Redo"].disabled
    key(widget, "c")
    assert session.prompts().is_empty
    found["Undo"].click()
    assert len(session.prompts().points) == 1


def test_undo_goes_to_the_frame_where_something_changes(widget, session, sent):
    click(widget, 14, 20)
    session.go(9)
    key(widget, "z")
    assert session.frame == 0 and widget.stage.frame == 0 and widget.time.slider.value == 0


def test_zoomed_clicks_land_where_the_mouse_is(widget, session):
    for _ in range(4):
        key(widget, "+")
    key(widget, "ArrowLeft", shift=True)
    x, y = widget.stage.viewport.to_photo(400, 300)
    widget.pointer.press(400, 300)
    assert session.prompts().points[0] == pytest.approx((x, y), abs=0.06) and widget.stage.viewport.scale > 10
    key(widget, "0")
    assert widget.stage.viewport.scale == widget.stage.viewport.min_scale


def test_export_writes_verifies_and_reports(widget, session, tmp_path):
    widget.export.folder.value = str(tmp_path)
    found = buttons(widget)
    found["Export"].click()
    assert "no mask to export" in status(widget)
    click(widget, 14, 20)
    key(widget, "f")
    found["Export"].click()
    assert "Exported and verified." in status(widget) and "12 files, all good" in widget.export.report.value
    assert len(list((tmp_path / "mattes").glob("*.png"))) == 12
    widget.export.formats["mattes"].value = False
    found["Export"].click()
    assert "No export format is chosen" in status(widget)


def test_an_export_in_the_background_tells_its_progress_and_can_be_stopped(tmp_path, monkeypatch):
    session = RotoSession(Clip(24), FakeTracker())
    session.click(14, 20)
    widget = FramesWidget(session)
    widget.work.track("forward")
    real = session.mattes

    def slow(*arguments):
        mattes = real(*arguments)
        make = mattes.make
        mattes.make = lambda *args, **more: time.sleep(0.02) or make(*args, **more)
        return mattes

    monkeypatch.setattr(session, "mattes", slow)

    async def work():
        widget.work.export(["mattes"], str(tmp_path), False)
        while "Exporting: frame" not in status(widget):
            await asyncio.sleep(0.01)
        widget.visit(3)
        widget.work.stop()
        widget.work.wait(30)

    asyncio.run(work())
    assert "Stopped; the next export resumes here." in status(widget) and session.frame == 3
    assert 0 < len(list((tmp_path / "mattes").glob("[!.]*.png"))) < 24
    widget.close()


def test_a_page_that_reloads_gets_everything_again(widget, session, sent):
    session.click(14, 20)
    sent.clear()
    connect(widget.stage.screen)
    assert len(sent) == 1 and frame_sent(sent[0], widget) is not None
    sent.clear()
    connect(widget.strip.screen)
    widths = sorted(picture.shape[1] for message in sent for picture in pictures(message) if len(picture) == THUMB)
    assert len(widths) == widget.strip.slots == 11 and sum(widths) > 700
    assert any(picture.shape[:2] == (BAR, 800) for message in sent for picture in pictures(message))
    sent.clear()
    connect(widget.strip.screen)
    assert len(sent) == 1, "what was decoded before is sent at once"


def test_the_cost_of_a_frame_change_is_the_canvas_cost_however_large_the_frame(sent):
    class Large(Clip):
        size = (3000, 4500)

        def __getitem__(self, index):
            return cv2.resize(super().__getitem__(index), (4500, 3000), interpolation=cv2.INTER_LINEAR)

    session = RotoSession(Large(3), FakeTracker())
    widget = FramesWidget(session, width=1280)
    sizes, shapes = [], []

    def send(content, buffers=None):
        message = b"".join(bytes(buffer) for buffer in buffers)
        sizes.append(len(message))
        shapes.extend(picture.shape for picture in pictures(message))

    widget.stage.screen.manager.send = send
    session.go(1)
    assert max(width for _, width, *_ in shapes) <= 1280 and sizes[0] < 200_000 and sum(sizes) < 1_500_000
    widget.close()


def test_a_frame_that_cannot_be_read_is_named_and_the_next_is_shown(widget, session, monkeypatch, sent):
    real = Clip.__getitem__

    def damaged(clip, index):
        if index == 3:
            raise NbHelpersError("a frame cannot be read", given="0003.png")
        return real(clip, index)

    monkeypatch.setattr(Clip, "__getitem__", damaged)
    widget.visit(2)
    widget.time.slider.value = 3
    assert "A frame cannot be read. Given: 0003.png." in status(widget)
    assert tuple(frame_sent(sent[-1], widget)[5, 5]) == (90, 90, 90)
    widget.time.slider.value = 4
    assert "cannot be read" not in status(widget)


def test_the_first_click_on_a_frame_says_that_it_takes_longer(widget, session, monkeypatch):
    said = []
    real = widget.show_message
    monkeypatch.setattr(widget, "show_message", lambda message, **more: (said.append(message), real(message, **more)))
    click(widget, 14, 20)
    assert said[0] == ENCODING and "Encoding" not in status(widget)
    said.clear()
    click(widget, 60, 47)
    assert ENCODING not in said


def test_a_click_outside_is_a_sentence(widget, session):
    widget.pointer.press(-30, 5)
    assert "outside" in status(widget) and session.prompts().is_empty


def test_a_session_has_one_widget_and_a_width_is_checked(widget, session):
    with pytest.raises(NbHelpersError, match="width"):
        FramesWidget(session, width=5000)
    other = FramesWidget(session, width=640)
    assert widget.comm is None and other.comm is not None
    other.close()
    assert not is_following(other, lambda: session.go(3))


@pytest.mark.parametrize("count", [1, 2, 3000])
def test_clips_of_odd_lengths(count):
    session = RotoSession(Clip(count), FakeTracker())
    widget = FramesWidget(session, width=400)
    session.click(14, 20)
    key(widget, " ")
    key(widget, "ArrowRight")
    widget.strip.press(399, 5)
    assert count - 8 < session.frame < count
    bar = widget.strip.bar()
    assert bar.shape == (BAR, 400, 3) and widget.strip.slots == min(count, 400 // 72)
    assert [widget.strip.frame_at(sum(widget.strip.span(frame)) / 2 - 0.5) for frame in range(min(count, 300))] == list(
        range(min(count, 300))
    )
    widget.close()


def test_where_frames_share_a_pixel_the_urgent_one_is_seen():
    session = RotoSession(Clip(3000), FakeTracker())
    widget = FramesWidget(session, width=400)
    session.click(64, 20, frame=1501)
    assert tuple(widget.strip.bar()[BAR // 2, int(1501 * 400 / 3000)]) == rgb(COLOURS["prompted"])
    assert widget.strip.screen.widget.height == THUMB + GAP + BAR
    widget.close()


def test_every_key_of_the_help_is_a_key(widget):
    for names, _ in KEYS:
        for name in names.replace("1 to 9", "1 9").replace("Shift+arrows", "Shift+ArrowLeft").split():
            name = {"Space": " ", "Left": "ArrowLeft", "Right": "ArrowRight"}.get(name, name)
            name = f"Shift+{name[6:].lower()}" if name in ("Shift+F",) else name
            assert (name if len(name) > 1 else name.lower()) in widget.keys_of, name


def test_names_are_shown_as_text(widget, session):
    session.add_object("<b>bold</b>")
    assert "<b>bold" not in status(widget)


def test_two_threads_may_read_masks_while_one_follows():
    session = RotoSession(Clip(50), FakeTracker())
    session.click(14, 20)
    errors = []

    def look():
        try:
            while not done.is_set():
                for frame in range(0, 50, 3):
                    session.mask(frame), session.matte(frame)
        except Exception as error:
            errors.append(error)

    done = threading.Event()
    thread = threading.Thread(target=look)
    thread.start()
    for _ in session.propagate():
        pass
    done.set()
    thread.join()
    assert errors == []
