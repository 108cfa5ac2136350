"""The views widget in a real browser: clicks in two views, the search, the view to check first."""

import pytest
from lab import CANVAS
from playwright.sync_api import expect

CELL = """
from page_models import page_segmenter, write_photos
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.widgets.views import ViewsWidget

segmenter = page_segmenter()
session = ViewsSession(write_photos("photos"), segmenter=segmenter.model("segmenter"))
widget = ViewsWidget(session, width=640)
widget
"""
FIGURE = """
import numpy as np
from nbhelpers import plots

plots.show(np.full((120, 160, 3), 90, np.uint8), alt="A grey picture")
"""
BALL = (108, 147)  # in the photo of view 0


@pytest.fixture(scope="module")
def notebook(lab):
    opened = lab("views.ipynb", CELL, FIGURE)
    opened.page.wait_for_selector("text=Click on the object")
    opened.page.locator(CANVAS).scroll_into_view_if_needed()
    return opened


def on_canvas(notebook, x, y):
    return notebook.value(f"tuple(map(float, widget.stage.viewport.to_canvas({x}, {y})))")


def test_a_click_selects_and_the_right_button_excludes(notebook):
    notebook.click(*on_canvas(notebook, *BALL))
    notebook.eventually("session.prompts(0).labels", (1,))
    assert notebook.value("session.prompts(0).points[0]") == pytest.approx(BALL, abs=0.6)
    notebook.page.mouse.click(*notebook.at(*on_canvas(notebook, 160, 40)), button="right")
    notebook.eventually("session.prompts(0).labels", (1, 0))
    notebook.press("Undo")
    notebook.eventually("session.prompts(0).labels", (1,))


def test_the_search_the_worst_view_and_a_correction(notebook):
    notebook.press("Find in all views")
    notebook.eventually("session.views is not None", True)
    notebook.press("Least consistent")
    notebook.eventually("widget.view != 0", True)
    expect(notebook.page.locator(".nbhelpers-view")).to_contain_text("consistency")
    view = notebook.value("widget.view")
    notebook.click(300, 200)
    notebook.eventually(f"len(session.prompts({view}).points)", 1)
    expect(notebook.page.locator(".nbhelpers-view")).to_contain_text("changed")


def test_keys_and_buttons_go_through_the_views(notebook):
    notebook.run("widget.show(1)")
    notebook.page.locator("button[title='The next view']").click()
    notebook.eventually("widget.view", 2)
    notebook.page.locator(CANVAS).focus()
    notebook.page.keyboard.press("ArrowLeft")
    notebook.eventually("widget.view", 1)


def test_a_figure_is_displayed(notebook):
    picture = notebook.page.locator(".jp-RenderedImage img")
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("each => each.naturalWidth") > 300


def test_every_word_is_readable_in_the_dark_theme(notebook):
    notebook.choose_theme("Dark")
    try:
        assert notebook.unreadable() == []
    finally:
        notebook.choose_theme("Light")
