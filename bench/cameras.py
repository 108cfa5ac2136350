"""Cameras from photos beside pycolmap's own pipeline, in turn on the same photos.

    python bench/cameras.py DIR [--count 25 60] [--pattern "*.jpg"] [--repeat 2] [--alone]

DIR holds photos of one scene; evenly spaced ones are taken. pycolmap extracts SIFT, matches all pairs and maps once;
ours verifies the cameras by a second run on other features. Prints wall and processor seconds and the registered
photos, a line for each run, then the ratio of the medians, and how ours grows with the number of photos. With
``--alone`` pycolmap's own pipeline, whose seconds grow with the pairs, is left out.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pycolmap

from nbhelpers import load, load_image


def by_pycolmap(paths: list[Path]) -> int:
    """Registered photos by pycolmap's own extraction, exhaustive matching and mapping."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for path in paths:
            (folder / "images" / path.name).symlink_to(path.resolve())
        database, images = folder / "database.db", folder / "images"
        pycolmap.extract_features(database, images, device=pycolmap.Device.cpu)
        pycolmap.match_exhaustive(database, device=pycolmap.Device.cpu)
        models = pycolmap.incremental_mapping(database, images, folder)
        return max((model.num_reg_images() for model in models.values()), default=0)


def ours(paths: list[Path]) -> int:
    """Registered photos by `nbhelpers.models.colmap.ColmapEstimator`."""
    photos = [load_image(path) for path in paths]
    return int(load("scene_estimator", "colmap").reconstruct(photos).placed.sum())


def main() -> None:
    """Parse the command line and print the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, nargs="+", default=[25])
    parser.add_argument("--pattern", default="*.jpg")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    sides = {"ours": ours} if options.alone else {"pycolmap": by_pycolmap, "ours": ours}
    fewest: tuple[int, float] | None = None
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)
    load("matcher", "xfeat-lighterglue")
    every = sorted(options.folder.glob(options.pattern))
    for count in options.count:
        paths = [every[int(at)] for at in np.linspace(0, len(every) - 1, count)]
        spent: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.repeat):
            for name, run in sides.items():
                wall, cpu = time.perf_counter(), time.process_time()
                registered = run(paths)
                spent[name].append(time.perf_counter() - wall)
                seconds = f"{spent[name][-1]:.1f} s, {time.process_time() - cpu:.1f} s of processor"
                print(f"{count} photos, {name}: {registered} registered, {seconds}", flush=True)
        mine = median(spent["ours"])
        fewest = fewest or (count, mine)
        compared = f"{mine / fewest[1]:.1f} times {fewest[0]} photos"
        compared += "" if options.alone else f", {mine / median(spent['pycolmap']):.2f} times pycolmap"
        print(f"{count} photos: ours takes {compared}", flush=True)


if __name__ == "__main__":
    main()
