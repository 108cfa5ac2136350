"""The click widget's behaviour, without a browser: mouse events in, session and messages out."""

import base64
import io
import sys
import types

import cv2
import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image
from widget_tools import buttons, connect, is_following, key, page_event, record_messages

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.plots import contrasting_colour, rgb
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.base import window_of
from nbhelpers.widgets.click import ENCODING, ClickWidget
from nbhelpers.widgets.controls import text_on


def picture(height=700, width=1000):
    """Two discs, red and blue, on grey."""
    image = np.full((height, width, 3), 180, np.uint8)
    for x, colour in ((0.3, (200, 30, 30)), (0.7, (30, 30, 200))):
        cv2.circle(image, (int(x * width), height // 2), height // 5, colour, -1)
    return image


@pytest.fixture
def session():
    return ClickSession(picture(), FakeSegmenter(), name="discs")


@pytest.fixture
def widget(session):
    widget = ClickWidget(session)
    yield widget
    widget.close()


@pytest.fixture
def sent(widget, monkeypatch):
    """Drawing messages: the bytes of each."""
    return record_messages(widget.stage.screen, monkeypatch)


def status(widget):
    return widget.status.value


def drag(widget, start, *stops):
    widget.pointer.press(*start)
    for stop in stops:
        widget.pointer.move(*stop)
    widget.pointer.release(*stops[-1])


def test_an_object_has_a_colour_that_contrasts_with_what_it_covers_and_keeps_it(widget, session):
    def colours():
        return {chip.description: chip.style.button_color for chip in widget.objects._chips.children[:-1]}

    assert colours() == {"object 1": None}, "no mask, no colour yet"
    session.click(300, 350)
    red = contrasting_colour(session.image, session.mask())
    assert colours() == {"object 1": red} and red not in ("#D55E00", "#CC79A7"), "unlike the red disc"
    still, _ = widget.still()
    assert np.abs(still[340, 290].astype(int) - (np.array([200, 30, 30]) + rgb(red)) / 2).max() < 12
    session.add_object()
    session.click(700, 350)
    assert colours() == {"object 1": red, "object 2": contrasting_colour(session.image, session.mask(), [red])}
    session.select("object 1")
    session.move(0, 700, 350)
    assert colours()["object 1"] == red, "it stays while the mask changes"
    session.clear()
    assert colours()["object 1"] is None


def test_a_press_is_a_click_at_that_photo_pixel(widget, session):
    widget.pointer.press(300, 350)
    widget.pointer.release(300, 350)
    assert session.prompts().points == ((300, 350),) and session.prompts().labels == (1,)
    assert session.mask()[350, 300] and not session.mask()[350, 700]
    assert "segmenter" in status(widget) and "ms" in status(widget)


def test_a_click_sends_one_small_message_and_no_photo(widget, sent):
    widget.pointer.press(300, 350)
    assert len(sent) == 1 and len(sent[0]) < 20_000


def test_exclude_mode(widget, session):
    widget.pointer.mode = "exclude"
    widget.pointer.press(300, 350)
    assert session.prompts().labels == (0,)


def test_mode_buttons_set_the_mode_and_one_stays_down(widget):
    widget.modes.choice.set_state({"index": 2})  # what the page sends
    assert widget.pointer.mode == widget.modes.choice.value == "box" and "Drag a box" in status(widget)
    widget.modes.choice.set_state({"index": 2})
    assert widget.pointer.mode == widget.modes.choice.value == "box", "the button that is down stays down"


def test_a_box_is_dragged_and_clamped_to_the_photo(widget, session):
    widget.pointer.mode = "box"
    drag(widget, (450, 500), (200, 300), (-40, 200))
    assert session.prompts().box == (0, 200, 450, 500)
    widget.pointer.press(5, 5)
    widget.pointer.release(6, 6)
    assert session.prompts().box == (0, 200, 450, 500) and "needs a drag" in status(widget)
    assert widget.stage.rubber is None


def test_a_marker_is_dragged_and_a_press_on_it_adds_nothing(widget, session):
    widget.pointer.press(300, 350)
    widget.pointer.release(300, 350)
    drag(widget, (303, 348), (304, 348))
    assert session.prompts().points == ((300, 350),)
    drag(widget, (303, 348), (400, 350), (700, 350))
    assert session.prompts().points == ((700, 350),)
    assert session.undo() and session.prompts().points == ((300, 350),), "a drag is one step"


def test_remove_mode(widget, session):
    session.click(300, 350)
    widget.pointer.mode = "remove"
    widget.pointer.press(500, 100)
    assert "There is no marker here." in status(widget)
    widget.pointer.press(302, 351)
    assert session.prompts().points == ()


def test_leaving_the_canvas_ends_a_drag(widget, session):
    widget.pointer.mode = "box"
    widget.pointer.press(100, 100)
    widget.pointer.move(300, 300)
    page_event(widget.stage.screen, "mouse_out", x=1010, y=400)
    assert session.prompts().box == (100, 100, 999, 400)
    widget.pointer.move(10, 10)
    assert session.prompts().box == (100, 100, 999, 400)


def test_pan_and_wheel(widget, session):
    widget.zoom.zoom_by(4)
    before = widget.stage.viewport
    widget.pointer.mode = "pan"
    drag(widget, (500, 300), (530, 320), (560, 340))
    assert widget.stage.viewport == before.panned(60, 40) and session.prompts().is_empty
    widget.pointer.move(200, 200)
    under = widget.stage.viewport.to_photo(200, 200)
    widget.pointer.wheel(0, -200)
    assert widget.stage.viewport.scale > before.scale and widget.stage.viewport.to_photo(200, 200) == pytest.approx(
        under
    )


def test_a_click_while_zoomed_lands_where_the_mouse_is(widget, session):
    widget.zoom.zoom_by(5)
    x, y = widget.stage.viewport.to_canvas(480, 340)
    widget.pointer.press(x, y)
    assert session.prompts().points[0] == pytest.approx((480, 340), abs=0.1)


def test_zoom_slider_and_buttons_follow_each_other(widget):
    found = buttons(widget)
    found["Zoom in"].click()
    assert widget.zoom.zoom.value == pytest.approx(1.5)
    widget.zoom.zoom.value = 3
    assert widget.stage.viewport.scale == pytest.approx(3)
    left = widget.stage.viewport.centre[0]
    found["Show more of the left"].click()
    assert widget.stage.viewport.centre[0] < left
    found["The whole photo"].click()
    assert widget.stage.viewport.scale == 1 and widget.zoom.zoom.value == pytest.approx(1)


def test_undo_redo_clear_by_button(widget, session):
    found = buttons(widget)
    assert found["Undo"].disabled and found["Redo"].disabled and found["Clear"].disabled
    widget.pointer.press(300, 350)
    assert not found["Undo"].disabled and not found["Clear"].disabled
    found["Undo"].click()
    assert session.prompts().is_empty and not found["Redo"].disabled
    found["Redo"].click()
    found["Clear"].click()
    assert session.prompts().is_empty
    found["Undo"].click()
    assert len(session.prompts().points) == 1


def test_candidates_are_offered_with_their_iou(widget, session):
    widget.pointer.press(300, 350)
    offered = widget.candidates.buttons
    assert [it.description for it in offered] == ["Mask 1: 0.90", "Mask 2: 0.60", "Mask 3: 0.95", "Mask 4: 0.70"]
    assert [it.icon for it in offered] == ["", "", "star", ""] and offered[2].button_style == "primary"
    offered[3].click()
    assert session.candidate() == 3 and widget.candidates.buttons[3].button_style == "primary"
    session.undo()
    assert session.candidate() == 2 and widget.candidates.buttons[2].button_style == "primary"


def test_thumbnails_show_all_candidates_at_one_scale(widget, session):
    widget.pointer.press(300, 350)
    columns = widget.candidates.children[1].children[:4]
    sizes = {(each.children[0].layout.width, each.children[0].layout.height) for each in columns}
    pictures = [load_image(each.children[0].value) for each in columns]
    assert len(sizes) == 1 and len({picture.shape for picture in pictures}) == 1
    covered = session.prediction().masks.any(0)
    x0, y0, x1, y1 = window_of(session.prediction())
    outside = covered.copy()
    outside[y0:y1, x0:x1] = False
    assert covered.any() and not outside.any() and (x1 - x0) * (y1 - y0) < covered.size / 2
    assert not np.array_equal(pictures[0], pictures[1])


def test_objects_by_button(widget, session):
    widget.pointer.press(300, 350)
    widget.objects.add.click()
    widget.pointer.press(700, 350)
    assert session.active == "object 2" and set(session.masks()) == {"object 1", "object 2"}
    widget.objects.name.value = "blue"
    buttons(widget)["Rename"].click()
    assert session.objects == ("object 1", "blue")
    buttons(widget)["object 1"].click()
    assert session.active == "object 1"
    widget.objects.name.value = "blue"
    buttons(widget)["Rename"].click()
    assert session.objects == ("object 1", "blue") and "cannot be recorded" in status(widget)
    buttons(widget)["Delete"].click()
    assert session.objects == ("blue",) and buttons(widget)["Delete"].disabled


def test_points_and_box_by_number(widget, session):
    panel = widget.exact
    panel.place[0].value, panel.place[1].value = 300, 350
    found = buttons(panel)
    found["Include"].click()
    panel.place[0].value = 310
    found["Move"].click()
    assert session.prompts().points == ((310, 350),)
    assert "310, 350" in panel.points.options[0]
    for field, value in zip(panel.box, (100, 100, 600, 600), strict=True):
        field.value = value
    found["Set box"].click()
    assert session.prompts().box == (100, 100, 600, 600)
    found["No box"].click()
    found["Remove"].click()
    assert session.prompts().is_empty
    found["Remove"].click()
    assert "no point yet" in status(widget)


def test_a_click_outside_is_a_sentence_and_the_canvas_goes_on(widget, session, sent):
    widget.pointer.press(-30, 5)
    assert "outside the image" in status(widget) and session.prompts().is_empty
    widget.pointer.press(300, 350)
    assert len(session.prompts().points) == 1 and "outside" not in status(widget) and len(sent) == 1


def test_a_failing_segmenter_is_a_sentence_and_nothing_is_lost(widget, session, monkeypatch):
    widget.pointer.press(300, 350)
    monkeypatch.setattr(session.segmenter, "predict", lambda *_: 1 / 0)
    widget.pointer.press(700, 350)
    assert "ZeroDivisionError" in status(widget) and len(session.prompts().points) == 1


def test_the_photo_is_looked_at_once_the_page_shows_it(widget, session, monkeypatch):
    said = []
    monkeypatch.setattr(type(widget), "show_message", lambda self, message, error=False: said.append(message))
    assert session.segmenter.encoded == 0
    for _ in range(2):
        connect(widget.stage.screen)
    assert session.segmenter.encoded == 1 and said == [ENCODING, ""]


def test_code_in_another_cell_updates_the_widget(widget, session, sent):
    session.click(300, 350)
    assert len(sent) == 1 and widget.candidates.buttons[0].description == "Mask 1: 0.90"
    session.add_object("cup")
    assert widget.objects.name.value == "cup"


def test_a_page_that_reloads_gets_everything_again(widget, session, sent):
    session.click(300, 350)
    sent.clear()
    connect(widget.stage.screen)
    assert len(sent) == 1 and sent[0].count(b"\x89PNG") == 2


def test_opacity_repaints_the_masks_only(widget, session, sent):
    session.click(300, 350)
    sent.clear()
    widget.zoom.opacity.value = 0.9
    assert widget.stage.opacity == 0.9 and len(sent) == 1 and sent[0].count(b"\x89PNG") == 1


def test_save_writes_files_and_names_them(widget, session, tmp_path):
    widget.files.folder.value = str(tmp_path / "out")
    buttons(widget)["Save"].click()
    assert "no mask to save" in status(widget)
    session.click(300, 350)
    buttons(widget)["Save"].click()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "discs_object-1_mask.png",
        "discs_object-1_cutout.png",
        "discs.coco.json",
        "discs.prompts.json",
    }
    assert all(name in status(widget) for name in names)


def test_a_large_photo_is_painted_at_the_canvas_cost(sent):
    image = np.zeros((6000, 9000, 3), np.uint8)
    image[2000:4000, 3000:6000] = 255
    session = ClickSession(image, FakeSegmenter())
    widget = ClickWidget(session)
    sizes = []
    widget.stage.screen.manager.send = lambda content, buffers=None: sizes.append(sum(len(bytes(b)) for b in buffers))
    widget.pointer.press(500, 333)
    assert session.prompts().points[0] == pytest.approx((4504, 3001), abs=8)
    widget.zoom.zoom_by(50)
    assert len(sizes) == 2 and sizes[0] < 20_000 and sizes[1] < 1_300_000
    widget.close()


@pytest.mark.parametrize("size", [(1, 1), (5000, 40), (40, 5000)])
def test_odd_photos(size):
    session = ClickSession(np.full((*size, 3), 90, np.uint8), FakeSegmenter())
    widget = ClickWidget(session, width=400)
    widget.pointer.press(*widget.stage.viewport.to_canvas((size[1] - 1) / 2, (size[0] - 1) / 2))
    assert session.mask().any()
    widget.close()


def test_width_is_checked_and_a_session_has_one_widget(widget, session):
    with pytest.raises(NbHelpersError, match="width"):
        ClickWidget(session, width=5000)
    other = ClickWidget(session, width=640)
    assert widget.comm is None and other.comm is not None
    session.click(300, 200)
    other.close()
    assert not is_following(other, session.undo)


def test_on_colab_it_switches_on_or_says_what_to_run(session, monkeypatch):
    calls = []
    google, colab, output = (types.ModuleType(name) for name in ("google", "google.colab", "google.colab.output"))
    output.enable_custom_widget_manager = lambda: calls.append(1)
    google.colab, colab.output = colab, output
    for module in (google, colab, output):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    widget = ClickWidget(session)
    assert calls and "Run this" not in status(widget)
    output.enable_custom_widget_manager = lambda: 1 / 0
    widget = ClickWidget(session)
    assert "output.enable_custom_widget_manager()" in status(widget)
    widget.close()


def test_names_are_shown_as_text(widget, session):
    session.add_object("<b>bold</b>")
    widget.pointer.press(-99, 0)
    assert "<b>bold" not in status(widget)


def test_its_output_holds_a_still_picture_for_pages_without_a_kernel(widget, session):
    session.click(300, 350)
    before = widget.stage.screen
    data, about = widget._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"]))))
    assert picture.shape[1] == about["image/jpeg"]["width"] == before.size[0]
    x, y = (round(place) for place in widget.stage.viewport.to_canvas(250, 300))
    red, tint = session.image[300, 250].astype(float), rgb(contrasting_colour(session.image, session.mask()))
    assert picture[y, x] == pytest.approx((red + np.array(tint)) / 2, abs=6)
    assert session.active in about["image/jpeg"]["alt"] and widget.stage.screen is before


def test_on_a_finer_screen_the_photo_is_sent_finer(widget, monkeypatch):
    files = []
    monkeypatch.setattr(widget.stage.screen, "put", lambda layer, file, *_, **__: files.append((layer, file)))
    widget._fit([widget.stage.screen], 2.0)
    sizes = {layer: Image.open(io.BytesIO(file)).size for layer, file in files}
    assert sizes["photo"] == tuple(2 * side for side in widget.stage.screen.size)


def test_text_on_a_colour_is_readable():
    assert text_on("#F0E442") == "#000000" and text_on("#0072B2") == "#FFFFFF"


def test_keys_on_the_canvas(widget, session):
    for name, mode in (("b", "box"), ("P", "pan"), ("e", "exclude"), ("i", "include")):
        key(widget, name)
        assert widget.pointer.mode == mode and widget.modes.choice.value == mode
    widget.pointer.press(300, 350)
    key(widget, "z", control=True)
    assert session.prompts().is_empty
    key(widget, "z", shift=True, control=True)
    assert not session.prompts().is_empty
    key(widget, "+")
    scale = widget.stage.viewport.scale
    key(widget, "ArrowRight")
    assert scale > 1 and widget.stage.viewport.centre[0] > 500
    key(widget, "0")
    assert widget.stage.viewport.scale == 1
