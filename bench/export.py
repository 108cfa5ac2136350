"""The figures of export: 6000 x 9000 frames to RGBA, against a plain Pillow loop, with peak memory.

    python bench/export.py [--frames 4]

Every way runs in a process of its own, one after the other, on the same JPEG frames and the same mask, which covers
two thirds of the frame; its files are deleted when it is done. Prints a table; the same as JSON to
outputs/bench/export.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from segment import memory

from nbhelpers import load_image, sample
from nbhelpers.core.device import describe_device
from nbhelpers.core.files import outputs_dir, write_text
from nbhelpers.core.masks import polygon_mask
from nbhelpers.core.mattes import Mattes, MatteSettings
from nbhelpers.core.video import Frames
from nbhelpers.export import layouts
from nbhelpers.export.layouts import write_layout
from nbhelpers.export.verify import verify_layout

SIZE = (9000, 6000)
GRAIN = 3.0  # levels; an enlarged photo alone would be smoother than what a camera gives
PLAIN, FAST_PILLOW, OURS = "Pillow loop", "Pillow loop, compress_level=1", "nbhelpers, RGBA"
WAYS = (PLAIN, FAST_PILLOW, OURS, "nbhelpers, refined RGBA", "nbhelpers, RGBA and both masks", "nbhelpers, verify")


def make_frames(folder: Path, count: int) -> None:
    """JPEGs of a photo, enlarged and given a camera's grain, each a little shifted."""
    import cv2

    photo = cv2.resize(load_image(sample("quokka"))[:, 100:529], SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).normal(0, GRAIN, (1000, 1000, 3)).astype(np.float32)
    for top in range(0, SIZE[0], 1000):
        for left in range(0, SIZE[1], 1000):
            tile = photo[top : top + 1000, left : left + 1000]
            tile[:] = np.clip(tile + noise, 0, 255).astype(np.uint8)
    for number in range(count):
        shifted = np.roll(photo, 10 * number, 1)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), shifted[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def the_mask() -> np.ndarray:
    """The quokka's annotated outline at the frames' size."""
    about = json.loads(sample("quokka_annotations").read_text())
    scale = SIZE[0] / load_image(sample("quokka")).shape[0]
    points = [((point["x"] - 100) * scale, point["y"] * scale) for point in about["polygons"][0]["keypoints"]]
    return polygon_mask(points, SIZE)


def run_one(way: str, folder: Path) -> dict:
    """What a child process does: seconds for all frames, and the most memory that it ever held."""
    mask = the_mask()
    paths, out = sorted(folder.glob("*.jpg")), folder / "out"
    started, spent = time.perf_counter(), time.process_time()
    if way.startswith("Pillow"):
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None
        out.mkdir()
        options = {"compress_level": 1} if "compress" in way else {}
        for path in paths:
            picture = Image.open(path)
            picture.putalpha(Image.fromarray(mask))
            picture.save(out / f"{path.stem}.png", **options)
    else:
        settings = MatteSettings(refine=40) if "refined" in way else MatteSettings()
        mattes = Mattes(Frames(folder), lambda index: mask, settings)
        both = "masks" in way
        plan = layouts.postshot(mattes, out) if both else layouts.rgba_sequence(mattes, out)
        write_layout(plan, mattes)
        if "verify" in way:
            started, spent = time.perf_counter(), time.process_time()
            verify_layout(plan, mattes).check()
    seconds, processor = time.perf_counter() - started, time.process_time() - spent
    written = sum(path.stat().st_size for path in out.rglob("*.png"))
    each = {"seconds": seconds / len(paths), "processor": processor / len(paths)}
    return each | {"peak": memory()[1] / 1e9, "file": written / len(paths) / 1e6}


def main() -> None:
    """Measure every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(run_one(arguments.way, arguments.folder)))
        return
    figures: dict = {"machine": describe_device("cpu"), "frames": arguments.frames}
    figures["share of the frame"] = float(the_mask().mean())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_frames(folder, arguments.frames)
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--folder", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures[way] = json.loads(done.stdout.splitlines()[-1])
            subprocess.run([sys.executable, "-c", "import shutil, sys; shutil.rmtree(sys.argv[1])", folder / "out"])
    for reference in (PLAIN, FAST_PILLOW):
        for what in ("seconds", "processor"):
            figures[f"{reference} / {OURS}, {what}"] = figures[reference][what] / figures[OURS][what]
    for what, value in figures.items():
        if isinstance(value, dict):
            value = (
                f"{value['seconds']:6.2f} s a frame, {value['processor']:6.2f} of processor  "
                f"{value['peak']:5.2f} GB peak  {value['file']:6.1f} MB a frame"
            )
        print(f"{what:55} {value:.3g}" if isinstance(value, float) else f"{what:55} {value}")
    write_text(outputs_dir("bench") / "export.json", json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
