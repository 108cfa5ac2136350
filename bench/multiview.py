"""Peak memory of finding an object in all views, by their number.

    python bench/multiview.py [--views 9 60]

Every run is a process of its own: photos of 779 x 520 in files, cameras and 20 points a view, the lite segmenter, one
box in the first view, and all views solved. The photos are windows that slide over one picture, so the cameras are
known exactly: they move along a wall. "Over the model" is what is held beyond Python, the libraries and the network.
Prints a table; the same as JSON to outputs/bench/multiview.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from segment import memory

from nbhelpers import load, load_image, sample
from nbhelpers.core.device import describe_device
from nbhelpers.core.files import outputs_dir, write_text
from nbhelpers.core.scenes import Scene
from nbhelpers.multiview import ViewsSession

SIZE = (520, 779)
WALL = (520, 1040)
FOCAL = 700.0
POINTS = 20
BOX = (350, 40, 760, 515)


def make_photos(folder: Path, count: int) -> np.ndarray:
    """Windows over one picture; their left edges in pixels."""
    wall = cv2.resize(load_image(sample("quokka")), WALL[::-1], interpolation=cv2.INTER_CUBIC)
    lefts = np.round(np.linspace(0, WALL[1] - SIZE[1], count)).astype(int)
    for number, left in enumerate(lefts):
        cv2.imwrite(str(folder / f"{number:03d}.png"), wall[:, left : left + SIZE[1], ::-1])
    return lefts


def make_scene(lefts: np.ndarray) -> Scene:
    """Cameras that move along the wall, and points that each view found on it."""
    count = len(lefts)
    rng = np.random.default_rng(0)
    at = rng.uniform((0, 0), (WALL[1], WALL[0]), (POINTS * count, 2))
    K = np.array([[FOCAL, 0, SIZE[1] / 2 - 0.5], [0, FOCAL, SIZE[0] / 2 - 0.5], [0, 0, 1]])  # noqa: N806
    poses = np.tile(np.eye(3, 4), (count, 1, 1))
    poses[:, 0, 3] = -lefts / FOCAL
    xyz = np.column_stack([(at - K[:2, 2]) / FOCAL, np.ones(len(at))])
    seen = [np.flatnonzero((at[:, 0] > left) & (at[:, 0] < left + SIZE[1] - 1)) for left in lefts]
    pixels = [at[own] - (left, 0) for own, left in zip(seen, lefts, strict=True)]
    return Scene(
        tuple(f"{number:03d}.png" for number in range(count)), np.tile(SIZE, (count, 1)), np.tile(K, (count, 1, 1)),
        poses, xyz, np.zeros((len(xyz), 3), np.uint8), np.repeat(np.arange(count), [len(own) for own in seen]),
        np.concatenate(seen), np.concatenate(pixels),
    )  # fmt: skip


def run_one(folder: Path, count: int) -> dict:
    """What a child process does."""
    scene = make_scene(make_photos(folder, count))
    segmenter = load("segmenter", models="lite")
    before, _ = memory()
    started = time.perf_counter()
    session = ViewsSession(sorted(folder.glob("*.png")), scene, segmenter)
    session.set_box(BOX, view=0)
    views = session.solve()
    seconds = time.perf_counter() - started
    assert all(view.found for view in views)
    return {"peak": memory()[1] / 1e9, "over the model": (memory()[1] - before) / 1e9, "seconds": seconds / count}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, nargs="+", default=[9, 60], help="numbers of views")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(run_one(arguments.folder, arguments.views[0])))
        return
    rows = {}
    for count in arguments.views:
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, __file__, "--folder", name, "--views", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[count] = row = json.loads(done.stdout.splitlines()[-1])
        told = f"{row['over the model']:.3f} GB over the model, {row['seconds']:.2f} s a view"
        print(f"{count:3d} views: peak {row['peak']:.3f} GB, {told}", flush=True)
    ratios = {key: round(rows[max(rows)][key] / rows[min(rows)][key], 3) for key in ("peak", "over the model")}
    figures = {
        "measure": "multiview memory",
        "machine": describe_device("cpu"),
        "views": rows,
        "most over fewest": ratios,
    }
    print(f"most over fewest: {ratios}")
    write_text(outputs_dir("bench") / "multiview.json", json.dumps(figures, indent=1))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
