"""bfloat16 against float32 on this processor: SAM 2's image encoder, one click, and a tracked clip.

    python bench/precision.py [--davis DIR] [--frames 20] [--photos DIR] [--clicks 5]

Both precisions run in turn on the same pictures, so that the ratios hold on a shared machine. ``--davis`` is a folder
in DAVIS' layout, whose clips are tracked from the first mask; ``--photos`` a folder of photos, each clicked at some
places. Prints a table, then one line of JSON. It needs a processor that multiplies bfloat16.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np

from nbhelpers import Frames, Prompt, load, load_image, sample
from nbhelpers.core.device import describe_device
from nbhelpers.core.masks import iou, score_clip

PRECISIONS = ("float32", "bfloat16")
SAMPLES = ("chelsea", "coffee", "astronaut", "quokka", "flower", "china")


def clicks(paths: list, count: int) -> dict:
    """The same clicks on both embeddings of each photo: seconds to encode, equal choices, IoU of the masks."""
    segmenters = [load("segmenter", "sam2-hiera-tiny-lite", "cpu", precision=precision) for precision in PRECISIONS]
    seconds, equal, overlap = {precision: [] for precision in PRECISIONS}, [], []
    random = np.random.default_rng(0)
    for path in paths:
        image = load_image(path)
        embeddings = []
        for precision, segmenter in zip(PRECISIONS, segmenters, strict=True):
            begun = time.perf_counter()
            embeddings.append(segmenter.encode(image))
            seconds[precision].append(time.perf_counter() - begun)
        for _ in range(count):
            prompt = Prompt(points=[random.uniform(0.1, 0.9, 2) * image.shape[1::-1]])
            first, second = (s.predict(e, prompt) for s, e in zip(segmenters, embeddings, strict=True))
            equal.append(first.choice == second.choice)
            overlap.append(iou(first.best, second.best))
    return {
        "photos": len(paths),
        "encode_seconds": {name: round(median(values), 3) for name, values in seconds.items()},
        "encode_ratio": round(median(a / b for a, b in zip(*seconds.values(), strict=True)), 2),
        "clicks": len(equal),
        "equal_choices": sum(equal),
        "iou_median": round(median(overlap), 4),
        "iou_at_least_0.985": sum(value >= 0.985 for value in overlap),
    }


def tracked(folder: Path, count: int) -> dict:
    """A clip from its first mask, frame by frame in both precisions; J&F of each, and their seconds a frame."""
    paths = sorted(folder.glob("*.jpg"))[:count]
    truth = [load_image(str(path).replace("JPEGImages", "Annotations").replace(".jpg", ".png"))[..., 0] > 0
             for path in paths]  # fmt: skip
    frames = Frames(paths)
    runs, masks, seconds = [], [], []
    for precision in PRECISIONS:
        tracker = load("tracker", "label-propagation", "cpu", precision=precision)
        state = tracker.open(frames)
        tracker.add(state, 0, 1, Prompt(mask=truth[0]))
        runs.append(iter(tracker.propagate(state, 1, len(frames) - 1)))
        masks.append([])
        seconds.append([])
    for _ in range(1, len(frames)):
        for run, own, spent in zip(runs, masks, seconds, strict=True):
            begun = time.perf_counter()
            own.append(next(run).predictions[1].best)
            spent.append(time.perf_counter() - begun)
    scores = [float(score_clip(truth[1:], own).mean()) for own in masks]
    return {
        "clip": folder.name,
        "j_and_f": dict(zip(PRECISIONS, (round(score, 4) for score in scores), strict=True)),
        "ratio": round(median(a / b for a, b in zip(*seconds, strict=True)), 2),
    }


def main() -> None:
    """Parse the command line and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--clicks", type=int, default=5)
    options = parser.parse_args()
    paths = sorted(options.photos.iterdir()) if options.photos else [sample(name) for name in SAMPLES]
    rows = [{"device": describe_device("cpu"), **clicks(paths, options.clicks)}]
    print(rows[0], flush=True)
    if options.davis:
        for folder in sorted((options.davis / "JPEGImages" / "480p").iterdir()):
            rows.append(tracked(folder, options.frames))
            print(rows[-1], flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
