"""Milliseconds from mouse press to painted mask, in a real JupyterLab at 1000 x 700, embedding cached.

    python bench/press_to_paint.py [--clicks 25] [--models lite]

Each click is a first click on an empty object, at a new place. The clock runs inside the page: from its mousedown
event to the first animation frame in which a pixel well inside the new mask, away from the marker, has changed
colour. Prints one line of JSON.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

import lab

TARGET_P95 = 400
CELL = """
import cv2, numpy as np
from nbhelpers import ClickSession, load, load_image, sample
from nbhelpers.widgets.click import ClickWidget

image = cv2.resize(load_image(sample("quokka")), (1000, 700), interpolation=cv2.INTER_CUBIC)
segmenter = load("segmenter", models={models!r})
session = ClickSession(image, segmenter, name="quokka")
widget = ClickWidget(session, width=1000)
widget
"""
# Where to click, and which pixel the mask will paint: found by another session, for this one must not know the answer.
PLACES = """
scout, places = ClickSession(image, segmenter), []
for x, y in np.random.default_rng(0).uniform((120, 80), (880, 620), (200, 2)).round():
    scout.click(x, y)
    mask = scout.mask()
    mask[max(0, int(y) - 25) : int(y) + 25, max(0, int(x) - 25) : int(x) + 25] = False
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    if depth.max() > 12:
        py, px = np.unravel_index(depth.argmax(), depth.shape)
        places.append((x, y, int(px), int(py)))
    scout.clear()
    if len(places) == {clicks}:
        break
"""
WATCH = """([selector, x, y]) => {
    const canvas = document.querySelector(selector), context = canvas.getContext('2d');
    const look = () => context.getImageData(x, y, 1, 1).data.join();
    const before = look();
    window.painted = new Promise(resolve => canvas.addEventListener('mousedown', () => {
        const pressed = performance.now();
        const check = () => look() === before ? requestAnimationFrame(check) : resolve(performance.now() - pressed);
        requestAnimationFrame(check);
    }, {once: true, capture: true}));
}"""


def measure(clicks: int, models: str) -> dict:
    """Run the clicks and return the figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        lab.lab_server(Path(folder)) as server,
        lab.chromium(Path(folder) / "profile", width=1700, height=1300) as page,
    ):
        notebook = lab.Notebook(page, server, Path(folder) / "work", "bench.ipynb", CELL.format(models=models))
        page.wait_for_selector("text=Click on the object")
        notebook.run(PLACES.format(clicks=clicks))
        size, times, asked = notebook.box(), [], []
        for x, y, px, py in notebook.value("[tuple(map(float, place)) for place in places]"):
            notebook.run("session.clear()")
            page.wait_for_timeout(150)
            page.evaluate(WATCH, [lab.CANVAS, px, py])
            notebook.click(x, y)
            times.append(page.evaluate("window.painted"))
            asked.append(1000 * notebook.value("session.seconds"))
        name = notebook.value("segmenter.name"), notebook.value("str(segmenter.device)")
        notebook.close()
    return {
        "measure": "press_to_paint",
        "p50_ms": round(statistics.median(times)),
        "p95_ms": _p95(times),
        "target_p95_ms": TARGET_P95,
        "segmenter_p50_ms": round(statistics.median(asked)),
        "segmenter_p95_ms": _p95(asked),
        "clicks": len(times),
        "canvas": f"{size['width']:.0f} x {size['height']:.0f}",
        "model": name[0],
        "device": name[1],
        "machine": f"{platform.machine()}, {_cores()} cores",
    }


def _p95(values: list[float]) -> int:
    """The smallest value that 95 of 100 do not exceed."""
    return round(sorted(values)[math.ceil(0.95 * len(values)) - 1])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=25)
    parser.add_argument("--models", default="lite", choices=("auto", "lite", "official"))
    arguments = parser.parse_args()
    if lab.CHROMIUM is None:
        sys.exit("no Chromium on this machine: press_to_paint cannot be measured")
    print(json.dumps(measure(arguments.clicks, arguments.models)))
