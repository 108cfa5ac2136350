"""The page for people who do not write code, served by voila: upload, phrase, click, download, in a real browser."""

import contextlib
import os
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
from playwright.sync_api import expect

from nbhelpers.core.images import save_image

TESTS = Path(__file__).resolve().parents[1]
CELL = """
import sys
sys.path.insert(0, {tests!r})
from page_models import page_segmenter
from nbhelpers.widgets.app import SceneApp

SceneApp(page_segmenter({photos!r}))
"""
SECONDS = 90


@contextlib.contextmanager
def served(folder, cell):
    """A notebook of one cell served by voila; yields its address."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    (folder / "voila.json").write_bytes((TESTS.parent / "app" / "voila.json").read_bytes())
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(new_notebook(cells=[new_code_cell(cell)], metadata=kernel), folder / "page.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voila", "page.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "run"),
    }
    with (folder / "voila.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(SECONDS):
            if server.poll() is not None:
                raise RuntimeError((folder / "voila.log").read_text())
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/voila/static/voila.js", timeout=2).close()
                break
            time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser_page):
    from page_models import write_photos

    folder = tmp_path_factory.mktemp("voila")
    photos = write_photos(folder / "photos")
    cell = CELL.format(tests=str(TESTS), photos=str(folder / "photos"))
    with served(folder, cell) as address, contextlib.closing(browser_page.context.new_page()) as opened:
        opened.set_viewport_size({"width": 1360, "height": 1400})
        opened.goto(address)
        opened.wait_for_selector(".nbhelpers-app", timeout=SECONDS * 1000)
        opened.photos = photos
        yield opened


def upload(page, paths):
    with page.expect_file_chooser() as choosing:
        page.click("button:has-text('Photos or a video')")
    choosing.value.set_files([str(path) for path in paths])


def test_from_photos_and_a_phrase_to_a_zip(page, tmp_path):
    upload(page, page.photos)
    page.wait_for_selector(".nbhelpers-app-status:has-text('5 photos')", timeout=SECONDS * 1000)
    page.fill("input[placeholder*='red chair']", "ball on the left")
    page.wait_for_selector(".nbhelpers-app-understood:has-text('looking for')")
    page.click("button:has-text('Find') >> nth=0")
    page.wait_for_selector(".nbhelpers-app-overview img", timeout=SECONDS * 1000)
    expect(page.locator(".nbhelpers-app-overview img")).to_have_count(5)
    page.wait_for_selector(".nbhelpers-app-status:has-text('ball 1: found in')", timeout=SECONDS * 1000)
    page.wait_for_selector(".nbhelpers-app-space iframe")
    with page.expect_download() as waiting:
        page.click(".nbhelpers-app-download a")
    waiting.value.save_as(tmp_path / "ball.zip")
    names = zipfile.ZipFile(tmp_path / "ball.zip").namelist()
    assert {"results.csv", "scene.ply", "scene.glb", "masks/view0.png", "alpha/view4.png"} <= set(names)


def test_a_click_instead_of_a_phrase(page):
    canvas = page.locator(CANVAS).first
    canvas.scroll_into_view_if_needed()
    before = page.inner_text(".nbhelpers-app-status")
    canvas.click(position={"x": 360, "y": 270})
    page.click("button:has-text('Find in all views')")
    page.wait_for_function(
        "before => document.querySelector('.nbhelpers-app-status').innerText !== before",
        arg=before,
        timeout=SECONDS * 1000,
    )
    expect(page.locator(".nbhelpers-app-overview img")).to_have_count(5)


def test_a_phrase_without_a_thing_is_told(page):
    page.fill("input[placeholder*='red chair']", "on the left")
    page.wait_for_selector(".nbhelpers-app-understood:has-text('names no object')")
    page.click("button:has-text('Find') >> nth=0")
    page.wait_for_selector(".nbhelpers-app-status:has-text('names no object')")


def test_photos_of_many_megabytes_arrive(page, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (2100, 2100, 3), np.uint8)
    path = save_image(tmp_path / "large.png", noise)
    assert path.stat().st_size > 12e6  # a page's messages are cut off at 10 MB unless the server is told otherwise
    upload(page, [path])
    page.wait_for_selector(".nbhelpers-app-status:has-text('1 photo.')", timeout=SECONDS * 1000)
