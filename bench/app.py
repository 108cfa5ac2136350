"""The pages that need no code on real weights: seconds of each example, and several visitors at once.

    python bench/app.py [--visitors 5] [--pages photo clip products multiview] [--workers 0] [--models lite]

Each page has a server of its own, and its visitors a browser context each. Alone, a visitor presses Example; the figure
is the time from the press to the first result. Several visitors upload photos or clips that bear their numbers, do the
whole job at the same time and download: all must finish, and no page and no download may contain another's number.
Peak memory and processor seconds are the server's, from the start of the process. Prints one line of JSON for a page.
"""

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from nbhelpers import Frames, load_image, sample
from nbhelpers.core.images import fit, save_image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

from lab import CANVAS, CHROMIUM, FLAGS

PAGES = ("photo", "clip", "products", "multiview")
SIDE = 480  # pixels of visitors' photos; clips are half as large
TIMEOUT = 1_800_000  # milliseconds
WORK, NOTICE = ".nbhelpers-work", ".nbhelpers-notice"


class Server:
    """`nbhelpers app` in a process of its own."""

    def __init__(self, folder: Path, workers: int, models: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", folder / "server.log"
        command = [sys.executable, "-m", "nbhelpers", "app", "--shared", "--no-browser", f"--port={self.port}"]
        command += [f"--folder={folder / 'app'}", f"--workers={workers}", f"--models={models}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                return
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text())
            time.sleep(0.2)

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()

    @property
    def peak_mb(self) -> int:
        """Peak of resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024

    @property
    def cpu(self) -> float:
        """Processor seconds of all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def told(pages, text: str) -> None:
    """Wait until each page tells this, and has ended its work."""
    for page in pages:
        page.wait_for_selector(f"{NOTICE}:has-text('{text}')")
        page.wait_for_selector(WORK, state="detached")


def upload(page, files) -> None:
    """Upload files."""
    with page.expect_file_chooser() as choosing:
        page.click(".nbhelpers-upload")
    choosing.value.set_files(list(map(str, files)))


def click(page, across: float, down: float) -> None:
    """Click the first canvas at a fraction of its sides, and wait for the mask."""
    canvas = page.locator(CANVAS).first
    canvas.scroll_into_view_if_needed()
    canvas.element_handle().wait_for_element_state("stable")
    box = canvas.bounding_box()
    canvas.click(position={"x": across * box["width"], "y": down * box["height"]})
    page.wait_for_selector("button:has-text('Undo'):enabled")


def pictures(page: str, number: int, folder: Path) -> list[Path]:
    """A visitor's own files."""
    name = f"visitor-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    if page == "photo":
        return [save_image(folder / f"{name}.png", fit(load_image(sample("quokka")), SIDE))]
    if page == "clip":
        path, frames = folder / f"{name}.mp4", Frames(sample("bikes.mp4"), start=118, stop=124)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12, (SIDE, SIDE * 17 // 40))
        for frame in frames:
            writer.write(cv2.resize(np.ascontiguousarray(frame[..., ::-1]), (SIDE, SIDE * 17 // 40)))
        writer.release()
        return [path]
    if page == "products":
        frames = Frames(sample("box.mp4"))
        images = [frames[0], frames[len(frames) - 1]]
    else:
        images = [load_image(sample(f"BalbianelloMedium-{view}.jpg")) for view in (1, 2, 3)]
    return [save_image(folder / f"{name}-{at}.png", fit(image, SIDE)) for at, image in enumerate(images)]


def work(name: str, pages, folder: Path) -> None:
    """All visitors do the job of a page at once, up to what can be downloaded."""
    for number, page in enumerate(pages):
        upload(page, pictures(name, number, folder))
    ready = {"photo": "Click the object", "clip": "6 frames", "products": "2 photos", "multiview": "3 photos"}
    told(pages, ready[name])
    if name == "photo":
        for page in pages:
            click(page, 0.5, 0.55)
    elif name == "clip":
        for page in pages:
            click(page, 0.67, 0.35)
        for page in pages:
            page.click("button:has-text('Follow') >> nth=0")
        told(pages, "Followed through")
        for page in pages:
            page.click(".v-input:has-text('Preview')")  # its file bears the clip's name
    elif name == "products":
        for page in pages:
            page.click("button:has-text('Add') >> nth=0")
            page.wait_for_selector(CANVAS)
            click(page, 0.7, 0.18)
            page.click("button:has-text('Use mask')")
        for page in pages:
            page.click("button:has-text('Search')")
        told(pages, "Found in")
    else:
        for page in pages:
            page.get_by_label("Look for").fill("tower")
            page.click(".nbhelpers-find:enabled")
        told(pages, "was found in")


def check(pages, folder: Path) -> None:
    """Download what each visitor made; nothing of another may be in it, or on the page."""
    for page in pages:
        page.click(".nbhelpers-prepare-download")
    for number, page in enumerate(pages):
        with page.expect_download() as waiting:
            page.click(".nbhelpers-download")
        path = folder / f"{number}.zip"
        waiting.value.save_as(path)
        archive = zipfile.ZipFile(path)
        texts = [page.content(), *archive.namelist()]
        texts += [archive.read(name).decode("latin-1") for name in archive.namelist() if Path(name).suffix != ".png"]
        seen = {int(found) for text in texts for found in re.findall(r"visitor-(\d+)", text)}
        if seen != {number}:
            raise SystemExit(f"visitor {number} sees files of the visitors {sorted(seen)}")


def measure(name: str, visitors: int, workers: int, models: str) -> dict:
    """The figures of a page."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder, server = Path(place), Server(Path(place), workers, models)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            pages = []
            for _ in range(visitors):
                pages.append(browser.new_context(accept_downloads=True).new_page())
                pages[-1].set_default_timeout(TIMEOUT)
                pages[-1].goto(f"{server.url}/{name}")
                pages[-1].wait_for_selector(".nbhelpers-upload")
            before, began = server.cpu, time.perf_counter()
            if visitors == 1:
                pages[0].click(".nbhelpers-example")
                pages[0].wait_for_selector(WORK)
                pages[0].wait_for_selector(WORK, state="detached")
                pages[0].wait_for_selector(f"{CANVAS}, .nbhelpers-card")
            else:
                work(name, pages, folder)
            seconds, cpu = time.perf_counter() - began, server.cpu - before
            if visitors > 1:
                check(pages, folder)
            said = pages[0].locator(NOTICE).inner_text()
            figures = {"page": name, "visitors": visitors, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
            return {**figures, "peak_mb": server.peak_mb, "told": said, "cores": os.cpu_count()}
        finally:
            browser.close()
            server.close()


def main() -> None:
    """Print the figures of each page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=1)
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=PAGES)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--models", default="lite")
    given = parser.parse_args()
    for name in given.pages:
        print(json.dumps(measure(name, given.visitors, given.workers, given.models)), flush=True)


if __name__ == "__main__":
    main()
