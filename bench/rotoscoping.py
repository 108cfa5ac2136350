"""Peak memory of rotoscoping a clip of 854 x 480, by its length, with both trackers; seconds with distractors.

    python bench/rotoscoping.py [--frames 100 1000]
    python bench/rotoscoping.py --clip dog --mask dog/00000.png

With a clip and the mask of an object on its first frame, the lite tracker and the one that tracks neither distractors
nor thin parts in windows take turns frame by frame, so that other work on the machine slows both.

Every run is a process of its own: a folder of JPEG frames, opened lazily, a `RotoSession` with its project folder, one
click, and everything followed to the end. Memory does not depend on what the weights are, so the networks are those of
SAM 2 hiera-tiny with random weights, and they look at 256 pixels instead of 1024, or a thousand frames would take an
hour. So "over the model" is what counts: what is held beyond Python, the libraries and the network. Prints a table; the
same as JSON to outputs/bench/rotoscoping.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from segment import memory

from nbhelpers import Frames, Prompt, load, load_image, sample
from nbhelpers.core.device import describe_device
from nbhelpers.core.files import outputs_dir, write_text
from nbhelpers.core.masks import load_mask
from nbhelpers.models.protocols import Tracker
from nbhelpers.rotoscoping import RotoSession

SIZE = (480, 854)
CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
SMALL = "++model.image_size=256"
WARM = 3  # frames before the memory has all its frames
TRACKERS = ("label propagation", "SAM 2 video")


def make_frames(folder: Path, count: int) -> None:
    """A photo that moves a little from frame to frame."""
    photo = cv2.resize(load_image(sample("quokka")), SIZE[::-1], interpolation=cv2.INTER_AREA)
    for number in range(count):
        shifted = np.roll(photo, round(60 * np.sin(number / 20)), 1)
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), shifted[:, :, ::-1])


def make_tracker(name: str) -> Tracker:
    """One of the two, with random weights."""
    import torch

    torch.manual_seed(0)
    if name == TRACKERS[0]:
        from nbhelpers.models.label_propagation import LabelPropagation
        from nbhelpers.models.sam2 import Sam2Segmenter, build_image_network

        return LabelPropagation(Sam2Segmenter(build_image_network(CONFIG, SMALL), "random", "cpu"))
    from nbhelpers.models.sam2_video import Sam2Tracker, build_video_network

    return Sam2Tracker(build_video_network(CONFIG, SMALL), "random", "cpu")


def run_one(name: str, folder: Path, count: int) -> dict:
    """What a child process does."""
    frames, tracker = Frames(folder, stop=count), make_tracker(name)
    before, _ = memory()
    started = time.perf_counter()
    session = RotoSession(frames, tracker)
    session.set_box((250, 60, 520, 470))
    followed = sum(1 for _ in session.propagate(0))
    seconds = time.perf_counter() - started
    assert followed == count - 1, followed
    return {"peak": memory()[1] / 1e9, "over the model": (memory()[1] - before) / 1e9, "seconds": seconds / count}


def compare(clip: Path, mask: Path, count: int) -> dict:
    """Median processor seconds of a frame, of the lite tracker with and without distractors and windows."""
    frames, names = Frames(clip, stop=count), ("label-propagation", "label-propagation-plain")
    runs, seconds = {}, {name: [] for name in names}
    for name in names:
        tracker = load("tracker", name)
        state = tracker.open(frames)
        tracker.add(state, 0, 1, Prompt(mask=load_mask(mask, frames.size)))
        runs[name] = iter(tracker.propagate(state, 0, len(frames) - 1))
        next(runs[name])
    for _ in range(len(frames) - 1):
        for name, run in runs.items():
            started = time.process_time()
            next(run)
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(each[WARM:]) for name, each in seconds.items()}
    return {**medians, "ratio": medians[names[0]] / medians[names[1]]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 1000], help="lengths of the clip")
    parser.add_argument("--clip", type=Path, help="compare seconds on this clip")
    parser.add_argument("--mask", type=Path, help="of an object on its first frame")
    parser.add_argument("--tracker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clip:
        print(json.dumps(compare(arguments.clip, arguments.mask, min(arguments.frames))))
        return
    if arguments.tracker:
        print(json.dumps(run_one(arguments.tracker, arguments.folder, arguments.frames[0])))
        return
    figures: dict = {"measure": "rotoscoping_memory", "machine": describe_device("cpu"), "target": 1.1}
    with tempfile.TemporaryDirectory() as name:
        make_frames(Path(name), max(arguments.frames))
        for tracker in TRACKERS:
            rows = {}
            for count in arguments.frames:
                command = [sys.executable, __file__, "--tracker", tracker, "--folder", name, "--frames", str(count)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows[count] = row = json.loads(done.stdout.splitlines()[-1])
                told = f"{row['over the model']:.3f} GB over the model, {row['seconds']:.2f} s a frame"
                print(f"{tracker:18} {count:5d} frames: peak {row['peak']:.3f} GB, {told}", flush=True)
            first, last = rows[min(rows)], rows[max(rows)]
            ratios = {key: round(last[key] / first[key], 3) for key in ("peak", "over the model")}
            figures[tracker] = {"frames": rows, "longest over shortest": ratios}
            print(f"{tracker:18} longest over shortest: {ratios}")
    write_text(outputs_dir("bench") / "rotoscoping.json", json.dumps(figures, indent=1))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
