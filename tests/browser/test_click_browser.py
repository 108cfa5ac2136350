"""The click widget in a real JupyterLab: a mouse on the page, pixels on the canvas, state in the kernel."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError as PageTimeout
from playwright.sync_api import expect

from nbhelpers.plots import contrasting_colour, rgb

CANVAS = "canvas.nbhelpers-canvas"
GREY, RED, BLUE = (180, 180, 180), (200, 30, 30), (30, 30, 200)
CELL = """
import cv2, numpy as np
from fake_segmenter import FakeSegmenter
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.click import ClickWidget

image = np.full((600, 900, 3), 180, np.uint8)
cv2.circle(image, (270, 300), 120, (200, 30, 30), -1)
cv2.circle(image, (630, 300), 120, (30, 30, 200), -1)
session = ClickSession(image, FakeSegmenter(), name="discs")
widget = ClickWidget(session, width=900)
widget
"""


@pytest.fixture(scope="module")
def opened(lab):
    return lab("discs.ipynb", CELL)


@pytest.fixture
def notebook(opened):
    """The notebook, with an empty session, the whole photo in view, include mode."""
    opened.run("while session.undo(): pass\nwidget.zoom.zoom_by(0); widget.zoom.opacity.value = 0.5")
    opened.press("Include")
    opened.wait_pixel(5, 5, near(GREY))
    opened.wait_pixel(230, 260, near(RED))
    opened.wait_pixel(600, 260, near(BLUE))
    opened.page.locator("canvas.nbhelpers-canvas").scroll_into_view_if_needed()
    return opened


def near(colour, tolerance=3):
    return lambda rgba: rgba[3] == 255 and max(abs(a - b) for a, b in zip(rgba, colour, strict=False)) <= tolerance


def colour_on(colour, used=()):
    """The colour of an object whose first mask covers this one."""
    return contrasting_colour(np.full((9, 9, 3), colour, np.uint8), np.ones((9, 9), bool), used)


def tinted(colour, first=None):
    """Half the colour of an object over a colour, or over another one than its mask covered at ``first``."""
    return near([(a + b) / 2 for a, b in zip(colour, rgb(colour_on(first or colour)), strict=True)], 4)


def test_the_canvas_shows_the_photo_unstretched(notebook):
    box = notebook.box()
    assert (box["width"], box["height"]) == (900, 600)
    assert near(RED, 0)(notebook.pixel(270, 300)) and near(GREY, 0)(notebook.pixel(450, 300))


def test_a_click_paints_the_mask_under_the_cursor(notebook):
    notebook.click(300, 340)
    notebook.wait_pixel(230, 260, tinted(RED))
    assert near(BLUE)(notebook.pixel(630, 300)) and near(GREY)(notebook.pixel(20, 20))
    assert notebook.value("session.prompts().points[0]") == pytest.approx((300, 340), abs=0.6)
    notebook.page.wait_for_selector(".nbhelpers-timing:has-text('segmenter')")


def test_exclude_mode_takes_away(notebook):
    notebook.click(300, 340)
    notebook.wait_pixel(230, 260, tinted(RED))
    notebook.press("Exclude")
    notebook.click(300, 260)
    notebook.wait_pixel(230, 260, near(RED))
    assert notebook.value("session.prompts().labels") == (1, 0)


def test_the_right_button_and_shift_exclude_and_no_menu_opens(notebook):
    notebook.page.wait_for_selector("text=Right-click or Shift-click on what does not belong to it")
    notebook.page.evaluate(
        "c => document.querySelector(c).addEventListener('contextmenu', e => { window.menuKept = e.defaultPrevented; })",
        CANVAS,
    )
    notebook.click(300, 340)
    notebook.wait_pixel(230, 260, tinted(RED))
    notebook.page.mouse.click(*notebook.at(300, 260), button="right")
    notebook.wait_pixel(230, 260, near(RED))
    notebook.eventually("session.prompts().labels", (1, 0))
    assert notebook.value("session.prompts().points[1]") == pytest.approx((300, 260), abs=0.6)
    assert notebook.page.evaluate("window.menuKept") is True
    expect(notebook.page.locator(".lm-Menu")).to_have_count(0)
    notebook.page.keyboard.down("Shift")
    notebook.click(250, 240)
    notebook.page.keyboard.up("Shift")
    notebook.eventually("session.prompts().labels", (1, 0, 0))
    notebook.page.mouse.click(*notebook.at(350, 300), button="middle")
    notebook.click(330, 330)
    notebook.eventually("session.prompts().labels", (1, 0, 0, 1))


def test_a_second_button_during_a_drag_does_not_disturb_it(notebook):
    notebook.press("Box")
    notebook.eventually("widget.pointer.mode", "box")
    mouse = notebook.page.mouse
    mouse.move(*notebook.at(150, 180))
    mouse.down()
    mouse.move(*notebook.at(200, 300), steps=3)
    mouse.down(button="right")
    mouse.up(button="right")
    mouse.move(*notebook.at(270, 420), steps=3)
    mouse.up()
    notebook.eventually("session.prompts().box is not None", True)
    assert notebook.value("session.prompts().box") == pytest.approx((150, 180, 270, 420), abs=0.6)
    assert notebook.value("session.prompts().points") == ()


def test_a_box_is_dragged(notebook):
    notebook.press("Box")
    notebook.drag((150, 180), (270, 420))
    notebook.eventually("session.prompts().box is not None", True)
    assert notebook.value("session.prompts().box") == pytest.approx((150, 180, 270, 420), abs=0.6)
    notebook.wait_pixel(230, 260, tinted(RED))
    assert near(RED)(notebook.pixel(330, 300)), "outside the box nothing is painted"


def test_a_marker_is_dragged_and_removed(notebook):
    notebook.click(300, 340)
    notebook.eventually("len(session.prompts().points)", 1)
    notebook.drag((302, 338), (630, 300))
    notebook.eventually("len(session.log.events)", 3)
    assert notebook.value("session.prompts().points[0]") == pytest.approx((630, 300), abs=0.6)
    notebook.wait_pixel(600, 260, tinted(BLUE, RED))
    notebook.press("Remove")
    notebook.click(632, 302)
    notebook.eventually("session.prompts().points", ())
    notebook.wait_pixel(600, 260, near(BLUE))


def test_undo_and_redo(notebook):
    notebook.click(300, 340)
    notebook.wait_pixel(230, 260, tinted(RED))
    notebook.press("Undo")
    notebook.wait_pixel(230, 260, near(RED))
    notebook.press("Redo")
    notebook.wait_pixel(230, 260, tinted(RED))


def test_another_candidate_changes_the_mask(notebook):
    notebook.click(270, 300)
    notebook.wait_pixel(230, 260, tinted(RED))
    notebook.press("Mask 4: 0.70")
    notebook.eventually("session.candidate()", 3)
    notebook.press("Mask 2: 0.60")
    notebook.eventually("session.candidate()", 1)
    notebook.wait_pixel(230, 260, tinted(RED))


def test_the_wheel_zooms_about_the_mouse(notebook):
    page = notebook.page
    page.mouse.move(*notebook.at(270, 300))
    for _ in range(4):
        page.mouse.wheel(0, -300)
    notebook.wait_pixel(450, 300, near(RED))
    notebook.click(500, 300)
    notebook.eventually("len(session.prompts().points)", 1)
    x, y = notebook.value("session.prompts().points[0]")
    assert 270 < x < 390 and y == pytest.approx(300, abs=1)
    notebook.wait_pixel(450, 350, tinted(RED))


def test_a_second_object_has_its_own_colour(notebook):
    notebook.click(270, 300)
    notebook.press("Add")
    notebook.eventually("session.active", "object 2")
    notebook.click(630, 300)
    second = rgb(colour_on(BLUE, [colour_on(RED)]))
    notebook.wait_pixel(600, 260, near([(a + b) / 2 for a, b in zip(BLUE, second, strict=True)], 4))
    assert tinted(RED)(notebook.pixel(230, 260))


def test_code_in_another_cell_moves_the_widget(notebook):
    notebook.run("session.click(630, 300)")
    notebook.wait_pixel(600, 260, tinted(BLUE))
    notebook.page.wait_for_selector("text=Mask 3: 0.95")


def test_an_error_is_a_sentence_and_clicks_go_on(notebook):
    notebook.press("Remove")
    notebook.click(270, 300)
    notebook.page.wait_for_selector("text=There is no marker here.")
    notebook.press("Include")
    notebook.click(270, 300)
    notebook.wait_pixel(230, 260, tinted(RED))


def test_save_writes_files_and_tells_their_names(notebook, tmp_path):
    notebook.click(270, 300)
    notebook.wait_pixel(230, 260, tinted(RED))
    folder = notebook.page.get_by_placeholder("folder")
    folder.fill(str(tmp_path))
    folder.press("Tab")
    notebook.press("Save")
    notebook.page.wait_for_selector("text=discs.coco.json")
    mask = np.array(Image.open(tmp_path / "discs_object-1_mask.png"))
    assert mask.shape == (600, 900) and mask[300, 270] == 255 and mask[300, 630] == 0
    assert json.loads((tmp_path / "discs.prompts.json").read_text())["events"][1]["x"] == pytest.approx(270, abs=0.6)


def test_a_narrow_page_shrinks_the_canvas_and_clicks_still_fit(notebook):
    page, size = notebook.page, notebook.page.viewport_size
    page.set_viewport_size({"width": 900, "height": size["height"]})
    try:
        page.wait_for_function("document.querySelector('canvas.nbhelpers-canvas').clientWidth < 700")
        box = notebook.box()
        assert box["width"] / box["height"] == pytest.approx(1.5, abs=0.01)
        page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
        notebook.eventually("len(session.prompts().points)", 1)
        assert notebook.value("session.prompts().points[0]") == pytest.approx((270, 300), abs=3)
    finally:
        page.set_viewport_size(size)
        page.wait_for_function("document.querySelector('canvas.nbhelpers-canvas').clientWidth == 900")


@pytest.mark.parametrize("ratio", [1.25, 2])
def test_the_canvas_has_the_pixels_of_the_screen_and_clicks_fit(notebook, ratio):
    notebook.click(630, 300)
    notebook.eventually("len(session.prompts().points)", 1)
    with notebook.screen(3):
        pass  # Chromium does not tell a page of the first change
    with notebook.screen(ratio):
        size = f"(c => c.width == {900 * ratio} && c.height == {600 * ratio})(document.querySelector('{CANVAS}'))"
        notebook.page.wait_for_function(size)
        assert notebook.box()["width"] == 900
        notebook.page.mouse.click(*notebook.at(300, 340), button="right")
        notebook.eventually("session.prompts().labels", (1, 0))
        assert notebook.value("session.prompts().points[1]") == pytest.approx((300, 340), abs=1)
        # photo, mask and marker, each in pixels of the screen
        notebook.wait_pixel(round(ratio * 230), round(ratio * 260), near(RED, 6))
        notebook.wait_pixel(round(ratio * 600), round(ratio * 260), tinted(BLUE))
        notebook.wait_pixel(round(ratio * 634), round(ratio * 296), near((0, 114, 178)))
        notebook.drag((300, 340), (330, 340))
        notebook.eventually("len(session.log.events)", 4)
        assert notebook.value("session.prompts().points[1]") == pytest.approx((330, 340), abs=1)
    notebook.page.wait_for_function(f"document.querySelector('{CANVAS}').width == 900")
    notebook.wait_pixel(230, 260, near(RED))


def test_a_finger_clicks_draws_a_box_and_moves_a_marker(notebook):
    notebook.touch((300, 340))
    notebook.wait_pixel(230, 260, tinted(RED))
    assert notebook.value("session.prompts().points[0]") == pytest.approx((300, 340), abs=0.6)
    notebook.touch((300, 340), (450, 320), (630, 300))
    notebook.eventually("len(session.log.events)", 3)
    assert notebook.value("session.prompts().points[0]") == pytest.approx((630, 300), abs=0.6)
    notebook.press("Box")
    notebook.eventually("widget.pointer.mode", "box")
    notebook.touch((520, 180), (600, 300), (740, 420))
    notebook.eventually("session.prompts().box is not None", True)
    assert notebook.value("session.prompts().box") == pytest.approx((520, 180, 740, 420), abs=0.6)
    assert len(notebook.value("session.prompts().points")) == 1


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_every_word_is_readable_in_the_dark_and_the_light_theme(notebook, theme):
    notebook.click(300, 340)
    notebook.wait_pixel(230, 260, tinted(RED))
    notebook.choose_theme(theme)
    assert notebook.unreadable() == []


def test_icons_and_words_stand_apart(notebook):
    gaps = notebook.page.evaluate(
        """() => [...document.querySelectorAll(".nbhelpers-widget button:has(> i.fa)")]
        .filter(button => button.checkVisibility() && button.innerText.trim()).map(button => {
            const range = document.createRange();
            range.selectNodeContents(button.lastChild);
            const [word, icon] = [range.getBoundingClientRect(), button.querySelector("i").getBoundingClientRect()];
            return [button.innerText, word.left - icon.right];
        })"""
    )
    assert len(gaps) > 5 and [text for text, gap in gaps if gap < 5] == []


def test_keys_go_to_the_canvas_or_to_a_text_box_and_never_to_the_notebook(notebook):
    page, cells = notebook.page, notebook.page.locator(".jp-Cell")
    count = cells.count()
    notebook.click(20, 20)
    notebook.eventually("len(session.prompts().points)", 1)
    page.keyboard.type("bdxae")  # to JupyterLab: new cell below, delete, cut, new cell above
    notebook.eventually("widget.pointer.mode", "exclude")
    expect(cells).to_have_count(count)
    folder = page.get_by_placeholder("folder")
    folder.fill("")
    folder.press_sequentially("bird/ex+0z")
    folder.press("Tab")
    notebook.eventually("widget.files.folder.value", "bird/ex+0z")
    assert notebook.value("(widget.pointer.mode, len(session.prompts().points))") == ("exclude", 1)
    expect(cells).to_have_count(count)


def test_tab_goes_from_the_canvas_to_the_button_after_it_and_back(notebook):
    notebook.click(300, 340)
    notebook.page.wait_for_selector("text=Mask 1: 0.90")
    at = (
        "document.activeElement.matches('canvas.nbhelpers-canvas') ? 'canvas' : document.activeElement.innerText.trim()"
    )
    assert notebook.page.evaluate(at) == "canvas"
    notebook.page.keyboard.press("b")
    notebook.eventually("widget.pointer.mode", "box")
    for key, there in (("Tab", "Mask 1: 0.90"), ("Shift+Tab", "canvas"), ("Shift+Tab", "Rename")):
        notebook.page.keyboard.press(key)
        assert notebook.page.evaluate(at) == there
    expect(notebook.page.locator(CANVAS)).to_be_visible()


def test_escape_gives_up_the_focus(notebook):
    focus = "document.activeElement.matches('canvas.nbhelpers-canvas')"
    notebook.click(20, 20)
    notebook.page.wait_for_function(focus)
    for _ in range(20):  # a page that is too busy to draw the hidden canvas for a moment keeps the focus
        notebook.page.keyboard.press("Escape")
        with contextlib.suppress(PageTimeout):
            notebook.page.wait_for_function(f"!{focus}", timeout=3000)
            break
    assert not notebook.page.evaluate(focus)
    expect(notebook.page.locator(CANVAS)).to_be_visible()


def test_the_state_outlives_a_page_reload(notebook):
    notebook.click(270, 300)
    notebook.wait_pixel(230, 260, tinted(RED))
    notebook.run("encoded = session.segmenter.encoded")
    notebook.save()
    notebook.open()
    notebook.page.wait_for_selector("canvas.nbhelpers-canvas")
    notebook.wait_pixel(230, 260, tinted(RED))
    notebook.page.wait_for_selector("text=Mask 3: 0.95")
    notebook.click(630, 300)
    notebook.wait_pixel(600, 260, tinted(BLUE, RED))
    assert notebook.value("session.segmenter.encoded") == notebook.value("encoded")
    notebook.press("Undo")
    notebook.wait_pixel(600, 260, near(BLUE))


def test_two_views_of_one_widget_show_the_same_and_both_take_clicks(lab):
    two = lab("two.ipynb", CELL, "widget")
    canvases = two.page.locator(CANVAS)
    expect(canvases).to_have_count(2)
    both = (
        "([c, x, y]) => [...document.querySelectorAll(c)].map(e => e.getContext('2d').getImageData(x, y, 1, 1).data[2])"
    )
    shown = f"(a) => ({both})(a).every(blue => Math.abs(blue - a[3]) <= 3)"
    two.page.wait_for_function(shown, arg=[CANVAS, 230, 260, RED[2]])
    canvases.nth(1).click(position={"x": 270, "y": 300})
    two.page.wait_for_function(shown, arg=[CANVAS, 230, 260, (RED[2] + rgb(colour_on(RED))[2]) // 2])
    canvases.nth(0).click(position={"x": 300, "y": 260}, button="right")
    two.page.wait_for_function(shown, arg=[CANVAS, 230, 260, RED[2]])
    canvases.nth(1).click(position={"x": 240, "y": 340}, button="right")
    two.eventually("session.prompts().labels", (1, 0, 0))
    messages = two.page.locator(".nbhelpers-message")
    expect(messages).to_have_count(2)
    assert len(set(messages.all_inner_texts())) == 1


def test_while_the_photo_is_looked_at_the_widget_says_so_and_clicks_are_kept(lab, tmp_path):
    done = tmp_path / "looked"
    slow = lab("slow.ipynb", CELL.replace("FakeSegmenter()", f"FakeSegmenter(wait_for={str(done)!r})"))
    slow.page.wait_for_selector("text=Encoding the photo")
    slow.wait_pixel(270, 300, near(RED))
    slow.click(270, 300)
    assert "Encoding the photo" in slow.message()
    done.touch()
    slow.wait_pixel(230, 260, tinted(RED))
    slow.page.wait_for_selector("text=Click on the object")


@pytest.mark.weights
def test_a_click_on_a_real_photo_with_the_real_segmenter(lab):
    quokka = lab(
        "quokka.ipynb",
        """
        from nbhelpers import ClickSession, sample
        from nbhelpers.widgets.click import ClickWidget
        session = ClickSession(sample("quokka"))
        widget = ClickWidget(session, width=900)
        widget
        """.replace("        ", ""),
    )
    quokka.page.wait_for_selector("text=Click on the object")
    before = quokka.pixel(400, 150)
    quokka.click(340, 300)
    quokka.wait_pixel(400, 150, lambda rgba: rgba != before)
    assert 0.15 < quokka.value("float(session.mask().mean())") < 0.5
