"""The frames widget in a real JupyterLab: a mouse and keys on the page, pixels on the canvases, state in the kernel."""

import time

import pytest

RED, BLUE, ORANGE = (210, 40, 30), (30, 60, 200), (230, 159, 0)
EMPTY, SURE, PROMPTED = (154, 154, 154), (0, 158, 115), (0, 114, 178)
STRIP = "canvas.nbhelpers-strip"
# Frames of 80 x 60 pixels, shown ten times as large: a red disc moves to the right, a blue box stands still.
CELL = """
from fake_tracker import Clip, FakeTracker
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.frames import FramesWidget

session = RotoSession(Clip(COUNT), FakeTracker(seconds=SECONDS))
widget = FramesWidget(session, width=800)
widget
"""
STATES = "[session.state(frame) for frame in range(len(session.frames))]"


def cell(count, seconds=0.0):
    return CELL.replace("COUNT", str(count)).replace("SECONDS", str(seconds))


@pytest.fixture(scope="module")
def opened(lab):
    return lab("frames.ipynb", cell(12))


@pytest.fixture
def notebook(opened):
    """The notebook with nothing said, on frame 0, in include mode, at rest."""
    opened.run(
        "widget.work.stop(); widget.time.pause(); widget.time.whole()\n"
        "while session.undo(): pass\n"
        "session.go(0); widget.modes.choose('include'); widget.zoom.zoom_by(0); widget.brush.slider.value = 2"
    )
    opened.eventually("widget.work.running", False)
    opened.page.locator("canvas.nbhelpers-canvas").scroll_into_view_if_needed()
    opened.wait_pixel(*at(14, 20), near(RED))
    return opened


def at(x, y):
    """Canvas position of the middle of a pixel of the frame."""
    return round(10 * x + 4.5), round(10 * y + 4.5)


def near(colour, tolerance=3):
    return lambda rgba: rgba[3] == 255 and max(abs(a - b) for a, b in zip(rgba, colour, strict=False)) <= tolerance


def tinted(colour):
    """Half the orange of the first object over a colour."""
    return near([(a + b) / 2 for a, b in zip(colour, ORANGE, strict=True)], 4)


def strip_pixel(notebook, frame, count=12):
    """RGBA at the top of a frame's column in the strip's bar, as the page shows it."""
    return notebook.page.evaluate(
        "([c, x, y]) => Array.from(document.querySelector(c).getContext('2d').getImageData(x, y, 1, 1).data)",
        [STRIP, int((frame + 0.5) * 800 / count) + 12, 60],
    )


def wait_strip(notebook, frame, accept, seconds=30):
    deadline = time.monotonic() + seconds
    while not accept(value := strip_pixel(notebook, frame)):
        assert time.monotonic() < deadline, f"frame {frame} of the strip stayed {value}"
        time.sleep(0.05)


def follow_all(notebook):
    notebook.press("Forward")
    notebook.eventually(f"{STATES}[1:]", ["tracked"] * 11)
    notebook.eventually("widget.work.running", False)


def test_a_click_paints_the_mask(notebook):
    notebook.click(*at(14, 20))
    notebook.wait_pixel(*at(10, 16), tinted(RED))
    assert notebook.value("session.prompts().points[0]") == pytest.approx((14, 20), abs=0.1)
    assert near(BLUE)(notebook.pixel(*at(60, 47)))
    notebook.page.wait_for_selector("text=Frame 0: object 1: prompted")


def test_following_fills_the_strip_and_shows_each_frame(notebook):
    notebook.click(*at(14, 20))
    notebook.wait_pixel(*at(10, 16), tinted(RED))
    before = strip_pixel(notebook, 9)
    follow_all(notebook)
    wait_strip(notebook, 9, lambda rgba: rgba != before)
    notebook.wait_pixel(*at(25, 20), tinted(RED))
    notebook.page.wait_for_selector("text=Tracked 11 frames")
    assert notebook.value("session.frame") == 11


def test_a_correction_stays_when_all_is_followed_again(notebook):
    notebook.click(*at(14, 20))
    notebook.wait_pixel(*at(10, 16), tinted(RED))
    follow_all(notebook)
    notebook.run("session.go(5)")
    notebook.wait_pixel(*at(19, 20), tinted(RED))
    notebook.press("Brush")
    notebook.eventually("widget.pointer.mode", "brush")
    notebook.drag(at(55, 47), at(65, 47))
    notebook.wait_pixel(*at(60, 47), tinted(BLUE))
    notebook.eventually("(session.state(5), session.state(8))", ("prompted", "outdated"))
    notebook.page.keyboard.press("a")
    notebook.eventually("(session.state(8), widget.work.running)", ("tracked", False))
    notebook.run("session.go(5)")
    notebook.wait_pixel(*at(60, 47), tinted(BLUE))
    assert notebook.value("session.state(5)") == "prompted"


def test_the_strip_the_slider_and_keys_change_the_picture(notebook):
    page = notebook.page
    strip = page.locator(STRIP)
    strip.scroll_into_view_if_needed()
    box = strip.bounding_box()
    page.mouse.click(box["x"] + 9.5 * box["width"] / 12, box["y"] + 20)
    notebook.eventually("session.frame", 9)
    notebook.wait_pixel(*at(31, 20), near(RED))
    page.keyboard.press("ArrowLeft")
    notebook.eventually("session.frame", 8)
    notebook.page.wait_for_selector("text=Frame 8: object 1")
    page.keyboard.press("Home")
    notebook.eventually("session.frame", 0)
    notebook.wait_pixel(*at(6, 20), near(RED))
    assert not near(RED)(notebook.pixel(*at(31, 20)))


def test_the_brush_paints_and_undo_and_redo_are_seen(notebook):
    notebook.press("Brush")
    notebook.eventually("widget.pointer.mode", "brush")
    notebook.drag(at(55, 47), at(65, 47))
    notebook.wait_pixel(*at(60, 47), tinted(BLUE))
    notebook.eventually("len(session.prompts().strokes)", 1)
    notebook.press("Undo")
    notebook.wait_pixel(*at(60, 47), near(BLUE))
    notebook.press("Redo")
    notebook.wait_pixel(*at(60, 47), tinted(BLUE))


def test_playing_moves_the_picture_until_it_is_paused(notebook):
    own = "button:has-text('Play'):visible, .widget-play:visible button"  # the second with ipywidgets 7
    notebook.page.locator(own).first.click()
    notebook.eventually("session.frame > 2", True)
    notebook.eventually("widget.time._play.description", "Pause")
    notebook.page.locator("button:has-text('Pause'):visible, .widget-play:visible button:nth-of-type(2)").first.click()
    notebook.eventually("widget.time.playing", False)


def test_cut_out_and_wipe(notebook):
    notebook.click(*at(14, 20))
    notebook.wait_pixel(*at(10, 16), tinted(RED))
    notebook.press("Matte")
    notebook.wait_pixel(*at(14, 16), near((255, 255, 255)))
    notebook.wait_pixel(*at(60, 47), near((0, 0, 0)))
    notebook.page.keyboard.press("Tab")
    notebook.press("Wipe")
    notebook.wait_pixel(*at(10, 16), near(RED))
    notebook.press("Wipe")
    notebook.press("Overlay")
    notebook.wait_pixel(*at(10, 16), tinted(RED))


def test_every_word_is_readable_in_the_dark_theme(notebook):
    notebook.choose_theme("Dark")
    try:
        assert notebook.unreadable() == []
    finally:
        notebook.choose_theme("Light")


def test_stop_ends_following_and_keeps_what_is_done(lab):
    notebook = lab("frames_slow.ipynb", cell(60, 0.6))
    notebook.page.wait_for_selector("text=Click on the object")
    notebook.wait_pixel(*at(14, 20), near(RED))
    notebook.click(*at(14, 20))
    notebook.wait_pixel(*at(10, 16), tinted(RED))
    notebook.press("Forward")
    notebook.eventually("session.frame > 2", True)
    notebook.run("widget.visit(0)")
    notebook.wait_pixel(*at(10, 16), tinted(RED))
    assert notebook.value("widget.work.running"), "the kernel answers while it follows"
    notebook.press("Stop")
    notebook.eventually("widget.work.running", False)
    notebook.page.wait_for_selector("text=Stopped; tracked")
    assert 2 < notebook.value(f"{STATES}.count('tracked')") < 59 and notebook.value("session.frame") == 0
    notebook.save()
    notebook.open()
    notebook.page.wait_for_selector("canvas.nbhelpers-canvas")
    notebook.wait_pixel(*at(10, 16), tinted(RED))
    wait_strip_filled(notebook)


def wait_strip_filled(notebook):
    """After a reload the strip shows again that the first frames are done."""
    deadline = time.monotonic() + 30
    look = "([c]) => Array.from(document.querySelector(c).getContext('2d').getImageData(16, 60, 1, 1).data)"
    while (value := notebook.page.evaluate(look, [STRIP]))[3] != 255 or tuple(value[:3]) == EMPTY:
        assert time.monotonic() < deadline, f"the strip stayed {value}"
        time.sleep(0.05)
