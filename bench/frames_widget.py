"""Milliseconds in the frames widget, in a real JupyterLab: from a key to the next frame, from a press to its mask.

    python bench/frames_widget.py [--steps 25] [--clicks 15] [--models lite]

Frame change: on each step the clip is one frame further, its masks there; the clock runs in the page from the keydown
event to the first animation frame in which a patch of the canvas shows another picture. Click: a first click on a frame
that the tracker has looked at before (a place is clicked and cleared, then its neighbour is clicked, which counts);
from the mousedown event to the first animation frame in which a pixel well inside the new mask, away from the marker,
has changed. Prints one line of JSON.
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

TARGET_CHANGE, TARGET_CLICK = 300, 400
CELL = """
import cv2, numpy as np
from nbhelpers import load, sample
from nbhelpers.core.video import Frames
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.frames import FramesWidget

frames = Frames(sample("opossum_snow"), start=330, stop={stop})
session = RotoSession(frames, load("tracker", models={models!r}))
masks = [np.zeros(session.size, bool) for _ in frames]
for index, mask in enumerate(masks):
    cv2.circle(mask.view(np.uint8), (500 + 4 * index, 360), 150, 1, -1)
    session.set_mask(mask, frame=index)
session.add_object("clicked")
widget = FramesWidget(session, width=1000)
widget
"""
# A pixel that the prediction for a click will paint: found by a first click there, which also makes the frame known.
SCOUT = """
session.clear()
place = {place}
mask = session.click(*place).best
x, y = map(int, place)
mask[max(0, y - 60) : y + 60, max(0, x - 60) : x + 60] = False
depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
row, column = np.unravel_index(depth.argmax(), depth.shape)
inside = tuple(map(round, widget.stage.viewport.to_canvas(column, row))) if depth.max() > 12 else None
press = widget.stage.viewport.to_canvas(x + 2, y + 1)
session.clear()
"""
WATCH = """([selector, event, x, y, side]) => {
    const canvas = document.querySelector(selector), context = canvas.getContext('2d');
    const look = () => context.getImageData(x, y, side, side).data.join();
    const before = look();
    window.painted = new Promise(resolve => canvas.addEventListener(event, () => {
        const pressed = performance.now();
        const check = () => look() === before ? requestAnimationFrame(check) : resolve(performance.now() - pressed);
        requestAnimationFrame(check);
    }, {once: true, capture: true}));
}"""


def measure(steps: int, clicks: int, models: str) -> dict:
    """Run the steps and clicks, and return the figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        lab.lab_server(Path(folder)) as server,
        lab.chromium(Path(folder) / "profile", width=1700, height=1300) as page,
    ):
        cell = CELL.format(models=models, stop=330 + steps + 1)
        notebook = lab.Notebook(page, server, Path(folder) / "work", "bench.ipynb", cell)
        page.wait_for_selector("text=Click on the object")
        notebook.eventually("len(widget.strip.thumbs) == widget.strip.slots", True, seconds=120)
        changes, masks = change_times(notebook, steps), click_times(notebook, clicks)
        size = notebook.box()
        name = notebook.value("(session.tracker.name, str(session.tracker.device))")
        notebook.close()
    return {
        "measure": "frames_widget",
        **_figures("frame_change", changes, TARGET_CHANGE),
        **_figures("click", masks, TARGET_CLICK),
        "canvas": f"{size['width']:.0f} x {size['height']:.0f}",
        "frames": "1280 x 720",
        "model": name[0],
        "device": name[1],
        "machine": f"{platform.machine()}, {_cores()} cores",
    }


def change_times(notebook: lab.Notebook, steps: int) -> list[float]:
    """One frame on, by the key, ``steps`` times."""
    notebook.run("widget.modes.choose('pan'); session.go(0)")
    notebook.click(500, 20)
    times = []
    for step in range(steps):
        notebook.page.wait_for_timeout(500)  # until the frame before rests
        notebook.page.evaluate(WATCH, [lab.CANVAS, "keydown", 440 + 3 * step, 250, 60])
        notebook.page.keyboard.press("ArrowRight")
        times.append(notebook.page.evaluate("window.painted"))
        notebook.eventually("session.frame", step + 1)
    return times


def click_times(notebook: lab.Notebook, clicks: int) -> list[float]:
    """First clicks of an object on frames that the tracker knows."""
    notebook.run("widget.modes.choose('include'); session.go(0); session.select('clicked')")
    times, tried = [], 0
    while len(times) < clicks and tried < 4 * clicks:
        tried += 1
        x, y = 240 + 800 * ((tried * 0.618) % 1), 120 + 480 * ((tried * 0.381) % 1)
        notebook.run(SCOUT.format(place=(round(x), round(y))))
        inside = notebook.value("inside")
        if inside is None:
            continue
        notebook.page.wait_for_timeout(300)
        notebook.page.evaluate(WATCH, [lab.CANVAS, "mousedown", *inside, 1])
        notebook.click(*notebook.value("press"))
        times.append(notebook.page.evaluate("window.painted"))
    return times


def _figures(what: str, times: list[float], target: int) -> dict:
    p95 = round(sorted(times)[math.ceil(0.95 * len(times)) - 1]) if times else None
    return {
        f"{what}_p50_ms": round(statistics.median(times)) if times else None,
        f"{what}_p95_ms": p95,
        f"{what}_target_ms": target,
        f"{what}s": len(times),
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--clicks", type=int, default=15)
    parser.add_argument("--models", default="lite", choices=("auto", "lite", "official"))
    arguments = parser.parse_args()
    if lab.CHROMIUM is None:
        sys.exit("no Chromium on this machine: frames_widget cannot be measured")
    print(json.dumps(measure(arguments.steps, arguments.clicks, arguments.models)))
