"""Seconds, prompts and memory of product matching: guided against blind candidates, and judging a thousand photos.

    python bench/product_matching.py [--models lite] [--blind 2]

1. A photo of 1000 x 700 with a warm model: candidates and judging.
2. A thousand photos' candidates (copies of real ones, each a little different) against a gallery of ten.
3. Guided against blind candidates (`SAM2AutomaticMaskGenerator`, 32 points a side) on made photos with the product,
   same weights, one run: prompts, seconds, and whether a candidate has an IoU of at least 0.5 with the product. The
   blind ones take minutes a photo on two cores, so few photos are asked; ``--blind 0`` leaves them out.
4. Memory: the largest resident size after 10 and after 100 photos searched and judged one after the other.

Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from made_products import backgrounds, make, sample_cut_outs

from nbhelpers import load, sample
from nbhelpers.core.metrics import iou
from nbhelpers.product_matching.candidates import find
from nbhelpers.product_matching.features import describe_reference, unit
from nbhelpers.product_matching.gallery import Gallery, mean_feature
from nbhelpers.product_matching.matching import judge, judge_all
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Candidates

TARGETS = {"photo_seconds": 15, "thousand_seconds": 1, "fewer_prompts": 8, "less_time": 5}
PHOTOS, REFERENCES = 1000, 10
FOUND = 0.5


def timed(run):
    """Result and seconds of a call."""
    started = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started


def one_photo(photo, models, gallery: Gallery, settings: Settings) -> tuple[Candidates, dict]:
    """A photo of 1000 x 700, searched and judged; the second of two runs counts."""
    image = cv2.resize(photo.image, (1000, 700), interpolation=cv2.INTER_AREA)
    find(image, *models, gallery, settings)
    found, seconds = timed(lambda: find(image, *models, gallery, settings))
    _, judging = timed(lambda: judge(found, gallery, settings))
    return found, {"seconds": round(seconds + judging, 2), "prompts": found.prompts, "candidates": len(found)}


def thousand(found: Candidates, gallery: Gallery, settings: Settings) -> dict:
    """Judging many photos whose candidates are in memory."""
    rng = np.random.default_rng(0)

    def shaken(features):
        noise = rng.normal(0, 0.02, features.patches.shape).astype(np.float32)
        return replace(features, patches=unit(features.patches + noise))

    few = [
        replace(found, items=tuple(replace(item, features=shaken(item.features)) for item in found.items))
        for _ in range(20)
    ]
    photos = [few[number % len(few)] for number in range(PHOTOS)]
    ten = replace(gallery, positives=tuple(replace(p, mirror=p.mirror) for p in gallery.positives * REFERENCES))
    ten = replace(
        ten,
        positives=tuple(
            replace(shaken(p), average=unit(p.average + rng.normal(0, 0.01, p.average.shape).astype(np.float32)))
            for p in ten.positives[:REFERENCES]
        ),
    )
    judge_all(photos[:50], ten, settings)
    _, seconds = timed(lambda: judge_all(photos, ten, settings))
    return {"photos": PHOTOS, "references": REFERENCES, "seconds": round(seconds, 2), "candidates": len(found) * PHOTOS}


def against_blind(photos, galleries, models, settings: Settings) -> dict:
    """Both ways on the same photos."""
    rows = []
    for photo in photos:
        gallery = galleries[photo.product]
        row = {"photo": photo.name}
        for way in ("guided", "grid"):
            found = find(photo.image, *models, gallery, replace(settings, candidates=way))
            best = max((iou(photo.truth, item.mask) for item in found.items), default=0.0)
            row[way] = {"prompts": found.prompts, "seconds": round(found.seconds, 2), "iou": round(best, 3)}
            print(f"{photo.name:20} {way:7} {row[way]}", flush=True)
        rows.append(row)
    total = {
        way: {key: sum(row[way][key] for row in rows) for key in ("prompts", "seconds")} for way in ("guided", "grid")
    }
    return {
        "photos": rows,
        "fewer_prompts": round(total["grid"]["prompts"] / total["guided"]["prompts"], 1),
        "less_time": round(total["grid"]["seconds"] / total["guided"]["seconds"], 1),
        "recall": {way: float(np.mean([row[way]["iou"] >= FOUND for row in rows])) for way in ("guided", "grid")},
    }


def memory(photo, models, gallery: Gallery, settings: Settings, counts: tuple[int, int]) -> dict:
    """Largest resident size, in MB, after some and after more photos."""
    out, done = {}, 0
    for count in counts:
        while done < count:
            judge(find(photo.image, *models, gallery, settings), gallery, settings)
            done += 1
        out[str(count)] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="lite", choices=("auto", "lite", "official"))
    parser.add_argument("--blind", type=int, default=2, help="photos that are also asked by a blind grid")
    parser.add_argument("--memory", type=int, nargs=2, default=(3, 10), help="after how many photos memory is read")
    arguments = parser.parse_args()
    settings = Settings()
    models = load("segmenter", models=arguments.models), load("patch_encoder", models=arguments.models)
    things = [thing for thing in sample_cut_outs(models[0]) if thing.name in ("coffee", "box", "flower")]
    scenes = backgrounds([Path(sample(name)) for name in ("china", "astronaut")])
    photos = [photo for photo in make(things, scenes, 8, False, seed=1) if photo.truth is not None]
    photos.sort(key=lambda photo: photo.name[-3:])
    mean = mean_feature([photo.image for photo in photos[:8]], models[1])
    galleries = {
        thing.name: Gallery((describe_reference(thing.photo, thing.mask, models[1]),), mean=mean) for thing in things
    }
    gallery = galleries[photos[0].product]
    found, photo_row = one_photo(photos[0], models, gallery, settings)
    print(f"1000 x 700: {photo_row}", flush=True)
    many = thousand(found, gallery, settings)
    print(f"judging: {many}", flush=True)
    report = {"measure": "product_matching", "photo": photo_row, "thousand": many, "targets": TARGETS}
    if arguments.blind:
        report["blind"] = against_blind(photos[: arguments.blind], galleries, models, settings)
    report["memory_mb"] = memory(photos[0], models, gallery, settings, tuple(arguments.memory))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    report |= {"models": [model.name for model in models], "machine": f"{platform.machine()}, {cores} cores"}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
