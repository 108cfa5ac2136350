"""How well cameras are recovered: photos placed, rotation and position errors, seconds and memory.

    python bench/eval_scenes.py DATA [--scenes balbianello temple kitchen] [--estimator colmap]

A scene is a folder of DATA with photos; where it holds known cameras too (a COLMAP model, ``transforms.json``, a
Bundler file, ``*_par.txt``), the errors are against these. Rotations are compared from view to view, in degrees;
positions after the best similarity, as a share of the spread of the cameras.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes.files import read_scene
from nbhelpers.models.colmap.estimator import center_difference, rotation_differences
from nbhelpers.models.load import load
from nbhelpers.multiview.views import select_views

COLUMNS = (
    ("photos", 7),
    ("placed", 7),
    ("points", 8),
    ("px", 6),
    ("turn", 7),
    ("worst", 7),
    ("place", 8),
    ("s", 7),
    ("cpu", 7),
    ("MB", 7),
)
HEAD = f"{'scene':16}" + "".join(f"{name:>{width}}" for name, width in COLUMNS)


def main() -> int:
    """Measure each scene and print a line; 1 when a scene with known cameras was placed wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenes", nargs="+", default=["balbianello", "temple", "kitchen"])
    parser.add_argument("--estimator", default="colmap")
    arguments = parser.parse_args()
    print(HEAD)
    return max([measure(arguments.data / name, arguments.estimator) for name in arguments.scenes], default=0)


def measure(folder: Path, name: str) -> int:
    """One line of the table and the scene's notes; 1 when a placed camera is wrong by more than 3 degrees (median)."""
    views = select_views(folder)
    begin, cpu = time.perf_counter(), time.process_time()
    scene = load("scene_estimator", name).reconstruct(views, views.names)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    placed = scene.placed
    pixels = float(np.median(scene.errors)) if len(scene.points) else float("nan")
    turn = worst = place = float("nan")
    try:
        known = read_scene(folder, views.paths)
    except NbHelpersError:
        known = None
    both = placed & known.placed if known is not None else np.zeros(len(placed), bool)
    if both.sum() > 1:
        poses = known.world_to_camera[both], scene.world_to_camera[both]
        angles = rotation_differences(*(each[:, :, :3] for each in poses))[np.triu_indices(both.sum(), 1)]
        turn, worst, place = float(np.median(angles)), float(angles.max()), center_difference(*poses)
    print(
        f"{folder.name:16}{len(scene):7}{placed.sum():7}{len(scene.points):8}{pixels:6.2f}{turn:7.2f}{worst:7.2f}"
        f"{place:8.2%}{seconds:7.0f}{cpu:7.0f}{memory:7.0f}"
    )
    for note in scene.notes:
        print(f"    {note}")
    return int(turn > 3)


if __name__ == "__main__":
    sys.exit(main())
