"""The gallery widget and the page of a run in a real browser: buttons on the page, state in the kernel."""

import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

sys.path.insert(0, str(Path(__file__).parents[1]))

CELL = """
from pathlib import Path
from fake_products import PRODUCT_AT, FakePatchEncoder, FakePointSegmenter, write_shelf
from nbhelpers.product_matching import ProductSession, ProductSettings
from nbhelpers.widgets.gallery import GalleryWidget

shelf = write_shelf(Path("shelf").resolve())
models = {"segmenter": FakePointSegmenter(), "encoder": FakePatchEncoder()}
session = ProductSession(shelf, settings=ProductSettings(scales=(224, 448)), cache=Path("cache").resolve(), **models)
session.add_reference(shelf[0], point=PRODUCT_AT)
widget = GalleryWidget(session)
widget
"""


@pytest.fixture(scope="module")
def notebook(lab):
    opened = lab("shelf.ipynb", CELL)
    opened.page.locator(".nbhelpers-gallery button", has_text="Search").click()
    opened.page.wait_for_selector("text=found in 4 of 6 photos")
    return opened


def card(notebook, number):
    return notebook.page.locator(".nbhelpers-card").nth(number)


def test_each_photo_is_shown_in_its_proportions(notebook):
    expect(notebook.page.locator(".nbhelpers-card")).to_have_count(6)
    for number in range(6):
        expect(card(notebook, number).locator("img")).to_have_js_property("complete", True)
    picture = card(notebook, 3).locator("img")
    expect(picture).to_have_js_property("naturalWidth", 320)
    expect(picture).to_have_js_property("naturalHeight", 240)
    expect(picture).to_have_css("object-fit", "contain")
    boxes = [card(notebook, number).bounding_box() for number in range(6)]
    assert len({round(box["width"]) for box in boxes}) == 1 and boxes[0]["y"] == boxes[3]["y"] < boxes[4]["y"]


def test_yes_and_no_reach_the_session_and_come_back(notebook):
    card(notebook, 3).locator("button", has_text="Yes").click()
    notebook.eventually("len(session.references)", 2)
    notebook.page.wait_for_selector("text=The gallery has 2 references now.")
    card(notebook, 2).locator("button", has_text="No").click()
    notebook.eventually("len(session.gallery.negatives)", 1)
    notebook.run("session.unmark(3, session.result(3).best_index); session.unmark(2, 0)")
    notebook.eventually("(len(session.references), len(session.gallery.negatives))", (1, 0))


def test_the_lens_opens_a_photo_with_reasons(notebook):
    card(notebook, 0).locator("button[title^='All detections']").click()
    notebook.page.wait_for_selector(".nbhelpers-detail >> text=threshold >> nth=0")
    assert notebook.value("widget.detail_panel.photo") == 0
    expect(notebook.page.locator(".nbhelpers-detail img").first).to_have_js_property("naturalWidth", 320)


def test_the_histogram_takes_the_pages_colour(notebook):
    axis = notebook.page.locator(".nbhelpers-gallery svg text").first
    colours = axis.evaluate("text => [getComputedStyle(text).fill, getComputedStyle(text.closest('svg')).color]")
    assert colours[0] == colours[1]


def test_the_page_of_a_run_works_by_keys_and_asks_nothing_of_the_network(notebook, lab, tmp_path):
    from nbhelpers.product_matching import ProductSession, ProductSettings

    from fake_products import PRODUCT_AT, FakePatchEncoder, FakePointSegmenter  # isort: skip

    shelf = sorted((lab.work / "shelf").glob("*.png"))
    models = {"segmenter": FakePointSegmenter(), "encoder": FakePatchEncoder()}
    session = ProductSession(shelf, settings=ProductSettings(scales=(224, 448)), cache=lab.work / "cache", **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    session.search()
    file = session.report.save_page(tmp_path / "index.html")
    page = notebook.page.context.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    try:
        page.goto(file.as_uri())
        expect(page.locator(".card")).to_have_count(6)
        expect(page.locator(".references img")).to_have_count(1)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.locator("dialog[open] h2")).to_contain_text("photo 1.png")
        page.keyboard.press("ArrowRight")
        expect(page.locator("dialog[open] h2")).to_contain_text("photo 2.png: absent")
        page.keyboard.press("Escape")
        # a dialog tells of its closing a moment later
        page.wait_for_function("(document.activeElement.getAttribute('aria-label') ?? '').startsWith('photo 2.png')")
        page.keyboard.press("3")
        expect(page.locator(".count")).to_have_text("2 of 6 shown")
        page.locator(".bar input").fill("photo 4")
        expect(page.locator(".card b")).to_have_text(["photo 4.png"])
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator(".theme").click()
        expect(page.locator("body")).not_to_have_css("background-color", before)
        assert asked == [file.as_uri()] and faults == []
    finally:
        page.close()


def test_every_word_is_readable_in_the_dark_theme(notebook):
    notebook.choose_theme("Dark")
    try:
        assert notebook.unreadable() == []
    finally:
        notebook.choose_theme("Light")
