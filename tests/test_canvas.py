"""Geometry, layers and pictures of the canvas, without a browser."""

import asyncio
import io
import sys
import threading

import cv2
import numpy as np
import pytest
from PIL import Image
from widget_tools import connect, page_event, record_messages

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.plots import PALETTE, rgb
from nbhelpers.widgets.background import Later
from nbhelpers.widgets.canvas import LEFT, LayeredCanvas
from nbhelpers.widgets.controls import _page_class, watch_page
from nbhelpers.widgets.drawing import Photo, StillScreen, Viewport, encode_overlay, encode_photo


@pytest.fixture
def screen():
    screen = LayeredCanvas(200, 100, ("back", "front"), repaint=lambda: None)
    yield screen
    screen.widget.close()


@pytest.fixture
def sent(screen, monkeypatch):
    """Drawing messages: the bytes of each."""
    return record_messages(screen, monkeypatch)


def test_one_hold_is_one_message(screen, sent):
    with screen.hold():
        screen["back"].clear()
        screen["front"].fill_rect(0, 0, 5, 5)
        with screen.hold():
            screen["back"].fill_rect(1, 1, 5, 5)
    assert len(sent) == 1


def test_an_exception_inside_hold_draws_nothing_and_leaves_nothing_stuck(screen, sent):
    with pytest.raises(ZeroDivisionError), screen.hold():
        screen["back"].fill_rect(111, 0, 5, 5)
        raise ZeroDivisionError
    assert sent == []
    with screen.hold():
        screen["back"].fill_rect(7, 0, 5, 5)
    assert len(sent) == 1 and b"111" not in sent[0]
    screen["front"].fill_rect(0, 0, 1, 1)
    assert len(sent) > 1, "drawing outside hold must go out at once again"


def test_every_message_names_its_layer_since_a_reloaded_page_knows_none(screen, sent):
    for _ in range(2):
        with screen.hold():
            screen["front"].clear()
    assert b"IPY_MODEL_" in sent[0] and b"IPY_MODEL_" in sent[1]


def test_a_page_that_connects_is_repainted():
    calls = []
    screen = LayeredCanvas(20, 10, ("only",), repaint=lambda: calls.append(1))
    connect(screen)
    assert calls == [1]
    screen.widget.close()


def test_the_canvas_has_a_width_of_its_own_and_a_limit(screen):
    assert screen.widget.layout.width == "200px" and screen.widget.layout.height == "auto"
    with pytest.raises(NbHelpersError, match="canvas size"):
        LayeredCanvas(1281, 100, ("only",), repaint=lambda: None)


def test_it_follows_the_pixels_of_the_screen_and_files_are_not_enlarged(sent):
    painted = []
    screen = LayeredCanvas(200, 100, ("back", "front"), repaint=lambda: painted.append(1))
    for ratio, size in ((1.25, (250, 125)), (2, (400, 200)), (3, (400, 200)), (0.5, (200, 100))):
        screen.fit_ratio(ratio)
        assert (screen.widget.width, screen.widget.height) == size and screen.size == (200, 100)
    assert len(painted) == 3 and screen.widget.layout.width == "200px"
    screen.close()


def test_a_finer_canvas_is_drawn_on_in_page_pixels(screen, sent):
    with screen.hold():
        screen.put("back", b"file", 0, 0)
    screen.fit_ratio(2)
    with screen.hold():
        screen.put("back", b"file", 0, 0)
    assert b"[2,0,0,2,0,0]" not in sent[0].replace(b" ", b"")
    scaled = b"[2,0,0,2,0,0]"
    assert sent[1].replace(b" ", b"").count(scaled) == 3, "each layer, and once more after the file"


def test_events_of_a_finer_canvas_are_in_page_pixels(screen):
    presses = []
    screen.on_mouse(lambda *press: presses.append(press))
    screen.fit_ratio(2)
    page_event(screen, "mouse_down", x=100.0, y=50.0)
    page_event(screen, "touch_start", touches=[{"x": 10.0, "y": 20.0}])
    assert presses == [(50, 25, LEFT), (5, 10, LEFT)]


def test_a_page_tells_its_ratio_and_without_anywidget_there_is_none(monkeypatch):
    pytest.importorskip("anywidget")
    told = []
    page = watch_page(told.append)
    page.set_state({"ratio": 2.0})
    assert told == [2.0]
    page.close()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    _page_class.cache_clear()
    assert watch_page(told.append) is None
    _page_class.cache_clear()


def test_later_calls_once_however_often_it_is_asked():
    calls = []

    async def ask_often():
        once = Later(lambda: calls.append("once"), 0.01)
        never = Later(lambda: calls.append("never"), 0.01, restart=True)
        for _ in range(5):
            once.ask()
            never.ask()
        never.cancel()
        await asyncio.sleep(0.05)
        once.ask()
        await asyncio.sleep(0.05)

    asyncio.run(ask_often())
    assert calls == ["once", "once"]
    Later(lambda: calls.append("now"), 9).ask()
    assert calls[-1] == "now", "without an event loop it happens at once"


def test_later_in_a_thread_and_after_its_event_loop_has_ended():
    called = threading.Event()
    later = Later(called.set, 0.02)
    thread = threading.Thread(target=later.ask)
    thread.start()
    thread.join()
    assert called.wait(10)
    called.clear()

    async def ask():
        later.ask()

    asyncio.run(ask())  # ends before the call, as when a page is closed
    assert later.waiting and not called.is_set()
    later._due -= 10
    later.ask()
    assert called.is_set()


def test_threads_that_draw_at_the_same_time_send_whole_messages(screen, sent):
    def draw(layer, x):
        for _ in range(60):
            with screen.hold():
                screen[layer].clear()
                screen[layer].fill_rect(x, 0, 5, 5)

    threads = [threading.Thread(target=draw, args=drawing) for drawing in (("back", 111), ("front", 222))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 120 and all((b"111" in message) != (b"222" in message) for message in sent)


@pytest.mark.parametrize("photo", [(700, 1000), (6000, 9000), (9000, 600), (1, 1), (3, 5000)])
def test_coordinates_go_there_and_back(photo):
    view = Viewport.fit(photo, (700, 1000)).zoomed(3.7, about=(10, 600)).panned(-33, 12)
    assert view.to_photo(*view.to_canvas(0.25, 0.5)) == pytest.approx((0.25, 0.5), abs=1e-6)


def test_a_photo_of_canvas_size_has_the_same_coordinates():
    view = Viewport.fit((700, 1000), (700, 1000))
    assert view.to_photo(10, 20) == pytest.approx((10, 20)) and view.scale == 1


def test_half_size_puts_the_first_canvas_pixel_between_two_photo_pixels():
    assert Viewport.fit((200, 200), (100, 100)).to_photo(0, 0) == pytest.approx((0.5, 0.5))


def test_zoom_keeps_what_is_under_the_cursor():
    view = Viewport.fit((6000, 9000), (667, 1000)).zoomed(2)
    closer = view.zoomed(4, about=(250, 100))
    assert closer.scale == pytest.approx(view.scale * 4)
    assert closer.to_photo(250, 100) == pytest.approx(view.to_photo(250, 100))


def test_zoom_and_pan_stop_at_their_ends():
    view = Viewport.fit((600, 900), (700, 1000))
    assert view.zoomed(0.01) == view and view.zoomed(0) == view
    assert view.zoomed(1e9).scale == view.max_scale
    corner = view.zoomed(5).panned(1e9, 1e9)
    assert corner.to_photo(-0.5, -0.5) == pytest.approx((-0.5, -0.5))
    opposite = view.zoomed(5).panned(-1e9, -1e9)
    assert opposite.to_photo(999.5, 699.5) == pytest.approx((899.5, 599.5))
    tall = Viewport.fit((9000, 600), (700, 1000))
    assert tall.panned(300, 0) == tall, "a photo narrower than the canvas stays in the middle"


def test_placed_tells_the_margin_and_the_window():
    assert Viewport.fit((700, 500), (700, 1000)).placed() == ((250, 0, 750, 700), (0, 0, 500, 700))
    rectangle, window = Viewport.fit((700, 1000), (700, 1000)).zoomed(2).placed()
    assert rectangle == (0, 0, 1000, 700) and window == pytest.approx((250, 175, 750, 525))
    rectangle, _ = Viewport.fit((1, 100000), (700, 1000)).placed()
    assert rectangle[3] - rectangle[1] == 1, "the thinnest photo is still to be seen"


def test_clamp_to_photo():
    assert Viewport.fit((600, 900), (700, 1000)).clamp_to_photo(-5, 700) == (0, 599)


def colour_ramp(height, width):
    """Red grows to the right, green downwards: a pixel tells where it comes from."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.linspace(0, 255, width)
    image[:, :, 1] = np.linspace(0, 255, height)[:, None]
    return image


@pytest.mark.parametrize("zoom", [1, 1.3, 2.9, 7, 40])
def test_a_crop_shows_what_the_view_says(zoom):
    image = colour_ramp(1400, 2100)
    view = Viewport.fit(image.shape[:2], (500, 700)).zoomed(zoom, about=(600, 100))
    (x0, y0, x1, y1), _ = view.placed()
    crop = Photo(image).crop(view)
    assert crop.shape == (y1 - y0, x1 - x0, 3)
    for x, y in ((x0 + 5, y0 + 5), (x1 - 6, y1 - 6), ((x0 + x1) // 2, (y0 + y1) // 2)):
        px, py = view.to_photo(x, y)
        expected = 255 * px / 2099, 255 * py / 1399
        assert crop[y - y0, x - x0, :2] == pytest.approx(expected, abs=1.5)


def test_a_reduced_crop_is_area_averaged():
    checks = np.zeros((512, 512, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    crop = Photo(checks).crop(Viewport.fit((512, 512), (64, 64)))
    assert abs(crop.astype(int) - 127).max() <= 1, "single pixels must not shine through"


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_the_thinnest_photos_are_drawn(size):
    view = Viewport.fit(size, (300, 400))
    for zoom in (1, 8):
        assert Photo(np.full((*size, 3), 9, np.uint8)).crop(view.zoomed(zoom)).min() == 9


def test_photos_travel_without_loss_and_previews_small():
    image = colour_ramp(70, 100)
    assert np.array_equal(np.array(Image.open(io.BytesIO(encode_photo(image)))), image)
    noisy = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    noisy = cv2.GaussianBlur(noisy, (9, 9), 0)
    assert len(encode_photo(noisy, preview=True)) < len(encode_photo(noisy)) / 4


def disc(size, x, y, radius):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def test_the_overlay_is_small_exact_and_outlines_the_active_object():
    masks = [(0, disc((700, 1000), 300, 300, 150)), (9, disc((700, 1000), 700, 300, 100))]
    png, x, y = encode_overlay(masks, active=9, opacity=0.4)
    assert len(png) < 20_000
    picture = np.array(Image.open(io.BytesIO(png)).convert("RGBA"))
    whole = np.zeros((700, 1000, 4), np.uint8)
    whole[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    assert tuple(whole[300, 300]) == (*rgb(PALETTE[0]), 102)
    assert tuple(whole[300, 700]) == (*rgb(PALETTE[2]), 102)
    assert np.array_equal(whole[:, :500, 3] > 0, masks[0][1][:, :500])
    assert tuple(whole[300, 601]) == (*rgb(PALETTE[2]), 255), "the active object has a solid edge"
    assert tuple(whole[300, 600 - 0]) != (0, 0, 0, 0)
    assert tuple(whole[300, 151]) == (*rgb(PALETTE[0]), 102), "others have none"


def test_an_empty_overlay_sends_nothing_and_full_masks_no_edge():
    assert encode_overlay([(0, np.zeros((5, 5), bool))], 0, 0.5) is None
    assert encode_overlay([], None, 0.5) is None
    png, _, _ = encode_overlay([(0, np.ones((9, 9), bool))], 0, 0.5)
    assert np.array(Image.open(io.BytesIO(png)).convert("RGBA"))[:, :, 3].max() == 128


def test_outlines_are_as_wide_on_every_screen():
    widths = []
    for ratio in (1, 2):
        png, _, _ = encode_overlay(
            [(0, disc((ratio * 200, ratio * 200), 100 * ratio, 100 * ratio, 50 * ratio))], 0, 0, ratio=ratio
        )
        row = np.array(Image.open(io.BytesIO(png)).convert("RGBA"))[50 * ratio, :, 3]
        widths.append(np.flatnonzero(row == 0)[0])
    assert widths == [3, 6]


def test_a_finer_view_shows_the_same_part():
    view = Viewport.fit((600, 900), (400, 600)).zoomed(3, about=(20, 30))
    (_, window), (corners, finer) = view.placed(), view.finer(2).placed()
    assert corners == (0, 0, 1200, 800) and finer == pytest.approx(window)
    assert Photo(colour_ramp(600, 900)).crop(view.finer(2)).shape == (800, 1200, 3)


def test_a_still_picture_has_what_is_drawn_on_the_layers():
    still = StillScreen((60, 40), ("photo", "marks"))
    photo = np.full((80, 120, 3), (10, 200, 30), np.uint8)
    still.put("photo", encode_photo(photo), 0, 0)
    marks = still["marks"]
    marks.fill_style = "rgba(0, 0, 0, 0.5)"
    marks.fill_circle(30, 20, 8)
    marks.stroke_style, marks.line_width = "white", 2
    marks.stroke_line(0, 5, 60, 5)
    marks.stroke_rect(2, 30, 20, 6)
    marks.fill_style = "#FF0000"
    marks.fill_polygon([(50, 30), (60, 30), (60, 40), (50, 40)])
    picture = still.picture()
    assert picture.shape == (40, 60, 3)
    assert picture[20, 50] == pytest.approx((10, 200, 30), abs=1)
    assert picture[20, 30] == pytest.approx((5, 100, 15), abs=2)
    assert picture[5, 40].min() > 200 and picture[36, 10].min() > 200
    assert picture[35, 56] == pytest.approx((255, 0, 0), abs=2)
    marks.clear()
    assert still.picture()[35, 56] == pytest.approx((10, 200, 30), abs=1)
