"""A JupyterLab server on a folder, and one notebook of it in a Chromium, for tests and measurements."""

import ast
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from jupyter_client import BlockingKernelClient

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PYTHON = os.environ.get("NBHELPERS_LAB_PYTHON", sys.executable)  # `make test-colab` names that of another environment
CANVAS = "canvas.nbhelpers-canvas"
MENU = ".lm-Menu-itemLabel"
ERROR = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
# Each visible text of a widget with its contrast as WCAG 2, section 1.4.3, defines it.
CONTRASTS = """
() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = colour => colour.slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.9) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll(".nbhelpers-widget *")) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join("");
    if (!text || !element.checkVisibility() || element.disabled) continue;
    const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))];
    found.push([text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}
"""
TIMEOUT = 60_000  # milliseconds; generous, for a machine that is busy with other tests


@contextlib.contextmanager
def lab_server(folder: Path, *, theme: str = "JupyterLab Light"):
    """Serve ``folder/work``; yields ``(url, token, runtime folder)``."""
    token, port = secrets.token_hex(8), _free_port()
    places = {name: folder / name for name in ("config", "data", "runtime", "settings", "workspaces", "work")}
    for place in places.values():
        place.mkdir(exist_ok=True)
    settings = places["settings"] / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # The news box and a saved theme would otherwise cover or change what screenshots show.
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(places["config"]),
        "JUPYTER_DATA_DIR": str(places["data"]),
        "JUPYTER_RUNTIME_DIR": str(places["runtime"]),
        "JUPYTERLAB_SETTINGS_DIR": str(places["settings"]),
        "JUPYTERLAB_WORKSPACES_DIR": str(places["workspaces"]),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [PYTHON, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={places['work']}"]
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=places["work"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/api/status?token={token}", server, folder / "lab.log")
        yield url, token, places["runtime"]
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextlib.contextmanager
def chromium(profile: Path, width: int = 1400, height: int = 1150):
    """A page of a fresh headless Chromium."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": width, "height": height},
        )
        try:
            browser.set_default_timeout(TIMEOUT)
            expect.set_options(timeout=TIMEOUT)
            yield browser.pages[0] if browser.pages else browser.new_page()
        finally:
            browser.close()


class Notebook:
    """A notebook of one code cell or more, open and run in a page, with a line to its kernel."""

    def __init__(self, page, server, work: Path, name: str, *cells: str):
        self.page, (self.url, self.token, self.runtime) = page, server
        content = {
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"c{i}",
                    "metadata": {},
                    "execution_count": None,
                    "outputs": [],
                    "source": c,
                }
                for i, c in enumerate(cells)
            ],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        self.file = work / name
        self.file.write_text(json.dumps(content))
        self.name, before = name, set(self.runtime.glob("kernel-*.json"))
        self.open()
        page.click(".lm-MenuBar-itemLabel:text-is('Run')")
        page.click(f"{MENU}:text-is('Run All Cells')")
        page.wait_for_selector(f"{CANVAS}, .nbhelpers-gallery, {ERROR}")
        assert not page.locator(ERROR).count(), page.locator(ERROR).first.inner_text()
        files = set(self.runtime.glob("kernel-*.json")) - before
        self.client = BlockingKernelClient(connection_file=str(files.pop()))
        self.client.load_connection_file()
        self.client.start_channels()

    def open(self):
        """Load the page, as a person does who comes for the first time, or reloads."""
        self.page.goto(f"{self.url}/lab/tree/{self.name}?reset&token={self.token}")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        self.page.wait_for_selector("text=| Idle")

    def save(self, seconds: float = TIMEOUT / 1000) -> None:
        """Save as a person does, and wait until the outputs are on the disk."""
        deadline = time.monotonic() + seconds
        while not any(cell.get("outputs") for cell in json.loads(self.file.read_text() or "{}").get("cells", ())):
            assert time.monotonic() < deadline, "the notebook was not saved"
            self.page.locator(".jp-Notebook").first.click(position={"x": 5, "y": 5})
            self.page.keyboard.press("Control+s")
            time.sleep(0.5)

    def close(self):
        self.client.stop_channels()

    def run(self, code: str) -> None:
        """Run code in the kernel; an exception there fails the test."""
        reply = self.client.execute_interactive(code, timeout=60, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply["content"].get("evalue")

    def value(self, expression: str):
        """A literal value from the kernel."""
        message_id = self.client.execute("", silent=True, user_expressions={"it": f"repr({expression})"})
        while True:
            reply = self.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == message_id:
                it = reply["content"]["user_expressions"]["it"]
                assert it["status"] == "ok", it
                return ast.literal_eval(ast.literal_eval(it["data"]["text/plain"]))

    def eventually(self, expression: str, wanted, seconds: float = TIMEOUT / 1000):
        """Wait until an expression has a value in the kernel."""
        deadline = time.monotonic() + seconds
        while (value := self.value(expression)) != wanted:
            assert time.monotonic() < deadline, f"{expression} is {value}, not {wanted}"
            time.sleep(0.05)

    @contextlib.contextmanager
    def screen(self, ratio: float):
        """Within it, the page is on a screen with so many pixels for one of the page."""
        size, emulated = self.page.viewport_size, self.page.context.new_cdp_session(self.page)
        metrics = {**size, "mobile": False}
        emulated.send("Emulation.setDeviceMetricsOverride", metrics | {"deviceScaleFactor": ratio})
        try:
            self.page.wait_for_function(f"window.devicePixelRatio == {ratio}")
            yield
        finally:
            emulated.send("Emulation.setDeviceMetricsOverride", metrics | {"deviceScaleFactor": 1})
            emulated.detach()
            self.page.wait_for_function("window.devicePixelRatio == 1")

    def touch(self, *path: tuple[float, float]) -> None:
        """Put a finger on the first canvas pixel, move it over the others, and lift it."""
        places = [dict(zip("xy", self.at(*place), strict=True)) for place in path]
        fingers = self.page.context.new_cdp_session(self.page)
        fingers.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": places[:1]})
        for place in places[1:]:
            fingers.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [place]})
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        fingers.detach()

    def choose_theme(self, theme: str) -> None:
        """Choose the colours of JupyterLab, ``"Light"`` or ``"Dark"``, in its menu."""
        items = (".lm-MenuBar-itemLabel", "Settings"), (MENU, "Theme"), (MENU, f"JupyterLab {theme}")
        for kind, text in items:
            self.page.click(f"{kind}:text-is('{text}')")
        light = str(theme == "Light").lower()
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight == '{light}'")

    def unreadable(self) -> list[tuple[str, float]]:
        """Texts of the widget with less contrast than 4.5 to what is behind them, and how much they have."""
        contrasts = self.page.evaluate(CONTRASTS)
        assert len(contrasts) > 10
        return [(text, round(contrast, 1)) for text, contrast in contrasts if contrast < 4.5]

    def box(self) -> dict:
        """Where the canvas lies on the page, once it lies still."""
        canvas = self.page.wait_for_selector(CANVAS)
        canvas.wait_for_element_state("stable")
        return canvas.bounding_box()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Page position of canvas pixel ``(x, y)``."""
        box = self.box()
        return box["x"] + x + 0.5, box["y"] + y + 0.5

    def click(self, x: float, y: float) -> None:
        """Press and release on a canvas pixel."""
        self.page.mouse.click(*self.at(x, y))

    def drag(self, start: tuple[float, float], stop: tuple[float, float]) -> None:
        """Press, move in steps, release."""
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*stop), steps=6)
        self.page.mouse.up()

    def pixel(self, x: int, y: int) -> list[int]:
        """RGBA of a canvas pixel as the page shows it."""
        return self.page.evaluate(
            "([c, x, y]) => Array.from(document.querySelector(c).getContext('2d').getImageData(x, y, 1, 1).data)",
            [CANVAS, x, y],
        )

    def wait_pixel(self, x: int, y: int, accept, seconds: float = TIMEOUT / 1000) -> list[int]:
        """Wait until ``accept(rgba)`` holds."""
        deadline = time.monotonic() + seconds
        while not accept(value := self.pixel(x, y)):
            assert time.monotonic() < deadline, f"pixel {x}, {y} stayed {value}"
            time.sleep(0.03)
        return value

    def press(self, text: str) -> None:
        """Press a button of the widget by its text."""
        self.page.locator(".nbhelpers-widget button:visible", has_text=text).first.click()

    def message(self) -> str:
        """What the status line says."""
        return self.page.locator(".nbhelpers-message").inner_text()


def _free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def _wait_for(url: str, server: subprocess.Popen, log: Path, seconds: float = 2 * TIMEOUT / 1000) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
