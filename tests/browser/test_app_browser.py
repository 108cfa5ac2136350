"""The pages for people who do not write code in a real browser: from upload to download, a reload, another visitor."""

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from lab import CANVAS
from PIL import Image
from playwright.sync_api import expect

TESTS = Path(__file__).resolve().parents[1]
SECONDS = 60
NOTICE, PACK, DOWNLOAD = ".nbhelpers-notice", ".nbhelpers-prepare-download", ".nbhelpers-download"


class Server:
    """The pages on models without weights, in a process that can be killed and started again."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, seconds=0.0):
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, str(TESTS / "app_models.py"), str(self.folder), str(self.port), str(seconds)]
        with (self.folder / "server.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 2 * SECONDS
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "server.log").read_text()[-3000:])
            time.sleep(0.1)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("pages"))
    made.start(seconds=0.5)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def samples(server):
    return server.folder / "samples"


@pytest.fixture
def visitor(server, browser_page):
    """Opens a page of the server as a visitor of its own; what the page asks of other hosts fails the test."""
    browser, asked, contexts = browser_page.context.browser, [], []

    def visit(page="", **options):
        if browser is None:  # a persistent context has none
            context = browser_page.context
            context.clear_cookies()
        else:
            context = browser.new_context(**options)
            contexts.append(context)
        opened = context.new_page()
        contexts.append(opened)
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(f"{server.url}/{page}")
        return opened

    yield visit
    for each in contexts:
        each.close()
    assert [url for url in asked if not url.startswith((server.url, f"blob:{server.url}", "data:"))] == []


WITHOUT_TIP = """() => [...document.querySelectorAll(
    "main :is(button, input, select, textarea, [role=slider]), nav :is(button, a)")]
    .filter(each => each.checkVisibility() && !each.closest("[title]")).map(each => each.outerHTML.slice(0, 200))"""


def upload(page, *paths):
    with page.expect_file_chooser() as choosing:
        page.click(".nbhelpers-upload")
    choosing.value.set_files([str(path) for path in paths])


def told(page, text):
    page.wait_for_selector(f"{NOTICE}:has-text('{text}')", timeout=SECONDS * 1000)


def download(page):
    page.click(PACK)
    with page.expect_download(timeout=SECONDS * 1000) as waiting:
        page.click(DOWNLOAD, timeout=SECONDS * 1000)
    return zipfile.ZipFile(io.BytesIO(Path(waiting.value.path()).read_bytes()))


def click_disc(page):
    """Click the red disc of the drawn photo, 320 pixels wide, and wait for the mask."""
    canvas = page.locator(CANVAS).first
    canvas.wait_for(timeout=SECONDS * 1000)
    canvas.scroll_into_view_if_needed()
    canvas.element_handle().wait_for_element_state("stable")
    scale = canvas.bounding_box()["width"] / 320
    canvas.click(position={"x": 60 * scale, "y": 82 * scale})


def test_the_start_page_leads_to_each_page_by_keyboard_alone(visitor):
    page = visitor()
    page.wait_for_selector(".nbhelpers-card-multiview")
    for name in ("photo", "clip", "products", "multiview"):
        card = page.locator(f".nbhelpers-card-{name}")
        expect(card).to_have_attribute("href", f"/{name}")
        assert card.get_attribute("title")
        expect(card.locator(".v-image__image--cover")).to_have_count(1)
    page.locator(".nbhelpers-card-photo").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".nbhelpers-upload")
    for control in page.locator("main button:visible").all():
        assert control.get_attribute("title"), control.inner_text()


def test_a_photo_from_upload_to_cut_out_and_back_after_a_reload(visitor, samples, tmp_path):
    page = visitor("photo")
    page.wait_for_selector(".nbhelpers-upload")
    upload(page, samples / "photo.png")
    told(page, "Click the object")
    click_disc(page)
    page.wait_for_selector("button:has-text('Undo'):enabled")
    expect(page.locator("main")).not_to_contain_text("IoU")
    expect(page.locator("main")).not_to_contain_text("segmenter")
    archive = download(page)
    (cut,) = [name for name in archive.namelist() if name.endswith("_cutout.png")]
    (tmp_path / "cut.png").write_bytes(archive.read(cut))

    alpha = np.asarray(Image.open(tmp_path / "cut.png"))[..., 3]
    assert alpha[82, 60] == 255 and alpha[200, 240] == 0
    page.reload()
    page.wait_for_selector("button:has-text('Undo'):enabled", timeout=SECONDS * 1000)  # the click is still there
    page.wait_for_selector(DOWNLOAD)


def test_a_clip_is_followed_stopped_and_goes_on_after_the_server_was_killed(visitor, server, samples):
    page = visitor("clip")
    page.wait_for_selector(".nbhelpers-upload")
    upload(page, samples / "clip.mp4")
    told(page, "12 frames")
    click_disc(page)
    page.click("button:has-text('Follow') >> nth=0")
    page.wait_for_selector(".nbhelpers-work:has-text('object: frame')", timeout=SECONDS * 1000)
    server.kill()
    server.start()
    page.reload()
    told(page, "Followed through")
    page.wait_for_selector(CANVAS)
    assert page.evaluate(WITHOUT_TIP) == []
    archive = download(page)
    assert len([name for name in archive.namelist() if name.endswith(".png")]) == 12


def test_products_from_the_example_to_a_table(visitor):
    page = visitor("products")
    page.click(".nbhelpers-example", timeout=SECONDS * 1000)
    told(page, "Found in 4 of 6 photos")
    expect(page.locator(".nbhelpers-card")).to_have_count(6)
    assert "threshold" not in page.locator("main").inner_text()  # it is folded
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator(".nbhelpers-card").first).to_have_css("width", re.compile(r"3\d\d(\.\d+)?px"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator(".nbhelpers-card").first.locator("button:has-text('Yes')").click()
    page.wait_for_selector(".nbhelpers-message:has-text('2 references')")
    assert {"matches.csv", "annotations.coco.json"} <= set(download(page).namelist())


def test_a_scene_from_photos_and_a_phrase_to_a_zip(visitor, samples):
    page = visitor("multiview")
    page.wait_for_selector(".nbhelpers-upload")
    upload(page, *sorted((samples / "scene").glob("*.png")))
    told(page, "5 photos")
    page.get_by_label("Look for").fill("ball on the left")
    page.wait_for_selector(".nbhelpers-understood:has-text('looking for')")
    page.click(".nbhelpers-find")
    told(page, "was found in")
    expect(page.locator(".nbhelpers-overview img")).to_have_count(5)
    assert "consistency" not in page.locator("main").inner_text()
    page.wait_for_selector(".nbhelpers-space iframe")
    assert page.evaluate(WITHOUT_TIP) == []
    names = set(download(page).namelist())
    assert {"results.csv", "scene.ply", "scene.glb", "masks/view0.png", "alpha/view4.png"} <= names


def test_what_is_no_photo_is_told_and_another_visitor_sees_nothing(visitor, samples, tmp_path, server):
    page = visitor("photo")
    page.wait_for_selector(".nbhelpers-upload")
    expect(page.locator(CANVAS)).to_have_count(0)  # the photo of the visitor before is not shown
    (tmp_path / "text.jpg").write_text("hello")
    upload(page, tmp_path / "text.jpg")
    told(page, "cannot be used")
    response = page.request.get(f"{server.url}/download/photo/photo.zip")
    assert response.status == 404


def test_a_phone_and_a_dark_page_show_everything(visitor):
    page = visitor("photo")
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.click(".nbhelpers-example", timeout=SECONDS * 1000)
    told(page, "cut out")
    page.wait_for_selector(CANVAS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".theme--dark.v-application").count()
