"""The figures of the first job: clicks, many points, equality with upstream, the quokka, a 54-megapixel photo.

    python bench/segment.py [--rounds 5]

Upstream is `SAM2ImagePredictor` of the sam2 package on the same weights. Ratios are taken in one run, the two sides in
turn, and are medians over rounds. Prints a table; the same as JSON to outputs/bench/segment.json.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from nbhelpers import ClickSession, Prompt, load, load_image, sample
from nbhelpers.core.device import describe_device
from nbhelpers.core.files import outputs_dir, write_text
from nbhelpers.core.images import save_image
from nbhelpers.core.masks import iou, polygon_mask

MODEL = "sam2-hiera-tiny-lite"
POINTS, FEWER = 256, 64
UPSTREAM_BATCHES = (1, 2, 4, 8, 16, 32)
PHOTOS = {  # photo -> five prompts: clicks, clicks in and out, a box
    "quokka": [
        Prompt([(349, 346)]),
        Prompt([(250, 300)]),
        Prompt([(349, 346), (480, 600)], [1, 0]),
        Prompt(box=(148, 50, 550, 642)),
        Prompt([(820, 280)]),
    ],
    "coffee": [
        Prompt([(300, 120)]),
        Prompt([(300, 120), (330, 200)]),
        Prompt([(365, 285)]),
        Prompt([(300, 120), (320, 220)], [0, 0], box=(75, 70, 485, 385)),
        Prompt([(430, 200)]),
    ],
    "chelsea": [
        Prompt([(150, 150)]),
        Prompt([(120, 110)]),
        Prompt(box=(110, 0, 350, 290)),
        Prompt([(220, 230), (30, 30)], [1, 0]),
        Prompt([(310, 110)]),
    ],
}


def upstream(segmenter):
    """Upstream's predictor on a network of its own with the same weights, as upstream lays them out in memory."""
    import torch
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return SAM2ImagePredictor(copy.deepcopy(segmenter.model).to(memory_format=torch.contiguous_format))


def seconds(run) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def click_latency(segmenter, rounds: int) -> dict:
    """Milliseconds from `session.click` to the mask at photo size, embedding cached, on 1000 x 700."""
    import cv2

    photo = cv2.resize(load_image(sample("quokka")), (1000, 700), interpolation=cv2.INTER_CUBIC)
    session = ClickSession(photo, segmenter)
    session.encode()
    times = []
    for x, y in np.random.default_rng(0).uniform((0, 0), (999, 699), (max(20, 5 * rounds), 2)):
        session.clear()
        times.append(1000 * seconds(lambda x=x, y=y: (session.click(x, y), session.mask())))
    return {
        "click in the session, p50, ms": statistics.median(times),
        "click in the session, p95, ms": float(np.percentile(times, 95)),
    }


def many_points(segmenter, rounds: int) -> dict:
    """Time a point, ending with masks at image size: 256 clicks in batches, one call each, upstream in its best batch.

    The latter two are slower and are timed on 64 of the clicks.
    """
    photo = load_image(sample("quokka"))
    points = np.random.default_rng(1).uniform((0, 0), (photo.shape[1] - 1, photo.shape[0] - 1), (POINTS, 2))
    embedding, theirs = segmenter.encode(photo), upstream(segmenter)
    theirs.set_image(photo)

    def ours():
        prediction = segmenter.predict_points(embedding, points)
        for i in range(POINTS):
            prediction.mask(i)

    def one_by_one():
        for point in points[:FEWER]:
            segmenter.predict(embedding, Prompt([point])).best  # noqa: B018

    def batched(batch):
        for start in range(0, FEWER, batch):
            part = points[start : start + batch]
            theirs.predict(part[:, None] if batch > 1 else part, np.ones((len(part), 1) if batch > 1 else 1))

    trial = {batch: min(seconds(lambda b=batch: batched(b)) for _ in range(2)) for batch in UPSTREAM_BATCHES}
    best = min(trial, key=trial.get)
    turns = [
        (seconds(ours) / POINTS, seconds(one_by_one) / FEWER, seconds(lambda: batched(best)) / FEWER)
        for _ in range(rounds)
    ]
    return {
        "256 points in batches, ms a point": 1000 * statistics.median(a for a, _, _ in turns),
        "one call a point / batches": statistics.median(b / a for a, b, _ in turns),
        f"upstream in its best batch ({best}) / batches": statistics.median(c / a for a, _, c in turns),
    }


def encoding(segmenter, rounds: int) -> dict:
    """Our `encode` and upstream's `set_image` on one photo, in turn; the latter also as PyTorch multiplies itself."""
    import torch

    photo, theirs = load_image(sample("quokka")), upstream(segmenter)
    segmenter.encode(photo)

    def by_itself():
        chosen = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # see `nbhelpers.core.device.multiply_by_onednn`
        theirs.set_image(photo)
        torch.set_float32_matmul_precision(chosen)

    turns = [
        (seconds(lambda: segmenter.encode(photo)), seconds(lambda: theirs.set_image(photo)), seconds(by_itself))
        for _ in range(rounds)
    ]
    return {
        "encode, s": statistics.median(a for a, _, _ in turns),
        "upstream's set_image / encode": statistics.median(b / a for a, b, _ in turns),
        "upstream's set_image without our switch to oneDNN / encode": statistics.median(c / a for a, _, c in turns),
    }


def equality(segmenter) -> dict:
    """IoU of our mask with upstream's, 3 photos x 5 prompts."""
    theirs, worst = upstream(segmenter), 1.0
    for name, prompts in PHOTOS.items():
        photo = load_image(sample(name))
        embedding = segmenter.encode(photo)
        theirs.set_image(photo)
        for prompt in prompts:
            masks, scores, _ = theirs.predict(
                prompt.points.copy() if len(prompt.points) else None,
                prompt.labels.copy() if len(prompt.points) else None,
                box=None if prompt.box is None else prompt.box.copy(),
                multimask_output=prompt.is_ambiguous,
            )
            worst = min(worst, iou(segmenter.predict(embedding, prompt).best, masks[scores.argmax()] > 0))
    return {"worst IoU with upstream, 15 prompts": worst}


def quokka(segmenter) -> dict:
    """One click in the middle of the annotated box against the annotated polygon."""
    about = json.loads(sample("quokka_annotations").read_text())
    photo, box = load_image(sample("quokka")), about["bounding_boxes"][0]
    truth = polygon_mask([(p["x"], p["y"]) for p in about["polygons"][0]["keypoints"]], photo.shape[:2])
    click = ((box["x1"] + box["x2"]) / 2, (box["y1"] + box["y2"]) / 2)
    return {"quokka, one click, IoU": iou(segmenter.predict(segmenter.encode(photo), Prompt([click])).best, truth)}


def large_photo() -> dict:
    """A 6000 x 9000 photo opened, clicked and saved, in a process of its own; memory over the loaded model."""
    done = subprocess.run([sys.executable, __file__, "--large-only"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory() -> tuple[int, int]:
    """Bytes that this process holds in memory now, and the most that it ever held.

    `getrusage` will not do on Linux: there a new process inherits the peak of the one that started it.
    """
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(rows["VmRSS"].split()[0]) * 1024, int(rows["VmHWM"].split()[0]) * 1024
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak, peak


def large_photo_here() -> dict:
    """What `large_photo` runs: the peak of resident memory over what is held when the model is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jpg"
        photo = load_image(sample("quokka"))[:, 100:529]  # 2 : 3, as the large one
        subprocess.run(  # in another process, whose memory does not count here
            [sys.executable, "-c", LARGE, str(save_image(Path(folder) / "small.png", photo)), str(path)], check=True
        )
        segmenter = load("segmenter", MODEL)
        before, _ = memory()
        started = time.perf_counter()
        session = ClickSession(path, segmenter)
        session.click(2900, 4700)
        clicked = time.perf_counter() - started
        session.export(folder)
        _, peak = memory()
        assert session.image.shape == (9000, 6000, 3) and session.mask().mean() > 0.05
    return {
        "6000 x 9000: open and click, s": clicked,
        "6000 x 9000: open, click and save, s": time.perf_counter() - started,
        "6000 x 9000: peak over the loaded model, GB": (peak - before) / 1e9,
    }


LARGE = """
import sys
from PIL import Image
Image.open(sys.argv[1]).resize((6000, 9000), Image.Resampling.BICUBIC).save(sys.argv[2], quality=92)
"""


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.large_only:
        print(json.dumps(large_photo_here()))
        return
    segmenter = load("segmenter", MODEL)
    figures = {"machine": describe_device(segmenter.device), "model": segmenter.name}
    figures |= equality(segmenter) | quokka(segmenter)
    for part in (click_latency, encoding, many_points):
        figures |= part(segmenter, arguments.rounds)
    figures |= large_photo()
    for what, value in figures.items():
        print(f"{what:50} {value:.4g}" if isinstance(value, float) else f"{what:50} {value}")
    write_text(outputs_dir("bench") / "segment.json", json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
