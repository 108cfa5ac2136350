"""Seconds, prompts and memory of product matching: guided against blind candidates, and judging a thousand photos.

    python bench/product_matching.py [--models lite] [--blind 2]

1. A photo of 1000 x 700 with a warm model: candidates and judging.
2. A thousand photos' candidates (copies of real ones, each a little different) against a gallery of ten: the median
   of five rounds.
3. Guided against blind candidates (`SAM2AutomaticMaskGenerator`, 32 points a side) on made photos with the product,
   same weights, one run: prompts, seconds, and whether a candidate has an IoU of at least 0.5 with the product. The
   blind ones take minutes a photo on two cores, so few photos are asked; ``--blind 0`` leaves them out.
4. Sessions of 10 and of 1,000 photos that were searched before: the peak of memory, seconds until all are judged, and
   seconds after the threshold was moved. The features are read from the cache on disk (2 GB for a thousand photos).

Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from nbhelpers import ProductSession, load, sample
from nbhelpers.benchmarks.products import backgrounds, sample_cut_outs, synthetic_photos
from nbhelpers.core.files import sha256
from nbhelpers.core.masks import iou
from nbhelpers.product_matching.features import describe_reference, unit
from nbhelpers.product_matching.gallery import Gallery, Reference, mean_feature
from nbhelpers.product_matching.match import apply_threshold, match_photo, score_photos
from nbhelpers.product_matching.propose import PhotoProposals, propose_candidates
from nbhelpers.product_matching.search import ProposalCache, cache_key, save_proposals
from nbhelpers.product_matching.settings import ProductSettings

TARGETS = {"photo_seconds": 15, "thousand_seconds": 1, "fewer_prompts": 8, "less_time": 5}
PHOTOS, REFERENCES, ROUNDS = 1000, 10, 5
FOUND = 0.5


def timed(run):
    """Result and seconds of a call."""
    started = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started


def one_photo(photo, models, gallery: Gallery, settings: ProductSettings) -> tuple[PhotoProposals, dict]:
    """A photo of 1000 x 700, searched and judged; the second of two runs counts."""
    image = cv2.resize(photo.image, (1000, 700), interpolation=cv2.INTER_AREA)
    propose_candidates(image, *models, gallery, settings)
    found, seconds = timed(lambda: propose_candidates(image, *models, gallery, settings))
    _, judging = timed(lambda: match_photo(found, gallery, settings))
    return found, {"seconds": round(seconds + judging, 2), "prompts": found.prompts, "candidates": len(found)}


def thousand(found: PhotoProposals, gallery: Gallery, settings: ProductSettings) -> dict:
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
    score_photos(photos[:50], ten, settings)
    rounds = [
        timed(lambda: [apply_threshold(each, settings) for each in score_photos(photos, ten, settings)])[1]
        for _ in range(ROUNDS)
    ]
    seconds = float(np.median(rounds))
    return {"photos": PHOTOS, "references": REFERENCES, "seconds": round(seconds, 2), "candidates": len(found) * PHOTOS}


def against_blind(photos, galleries, models, settings: ProductSettings) -> dict:
    """Both ways on the same photos."""
    rows = []
    for photo in photos:
        gallery = galleries[photo.product]
        row = {"photo": photo.name}
        for way in ("guided", "grid"):
            found = propose_candidates(photo.image, *models, gallery, replace(settings, candidates=way))
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


def session_of(count: int, photo: np.ndarray, found: PhotoProposals, gallery: Gallery, folder: Path) -> dict:
    """Peak memory and seconds of a session of so many photos that were searched before, as a process of its own."""
    settings = ProductSettings()
    cache = ProposalCache(folder / "cache")
    images = folder / "photos"
    images.mkdir(exist_ok=True)
    data = cv2.imencode(".jpg", photo)[1].tobytes()
    for number in range(count):
        path = images / f"{number:04}.jpg"
        if not path.is_file():
            path.write_bytes(data + str(number).encode())  # no two files alike
            save_proposals(found, cache.path(cache_key(sha256(path), found.models, settings, gallery.guide.digest)))
    segmenter, encoder = (SimpleNamespace(name=name, device="cpu") for name in found.models)
    session = ProductSession(
        sorted(images.glob("*.jpg"))[:count],
        segmenter=segmenter,
        encoder=encoder,
        cache=cache.folder,
        mean=gallery.mean,
    )
    session.references += [
        Reference(str(number), "mask", found.items[0].rle, each, np.zeros((1, 1, 4), np.uint8), 0.1)
        for number, each in enumerate(gallery.positives)
    ]
    _, first = timed(session.search)
    _, again = timed(lambda: session.set_threshold(0.7))
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
    return {"photos": count, "peak_mb": peak, "seconds": round(first, 2), "new_threshold_seconds": round(again, 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="lite", choices=("auto", "lite", "official"))
    parser.add_argument("--blind", type=int, default=2, help="photos that are also asked by a blind grid")
    parser.add_argument("--sessions", type=int, nargs="+", default=(10, 1000), help="photos of the sessions of part 4")
    arguments = parser.parse_args()
    settings = ProductSettings()
    models = load("segmenter", models=arguments.models), load("patch_encoder", models=arguments.models)
    things = [thing for thing in sample_cut_outs(models[0]) if thing.name in ("coffee", "box", "flower")]
    scenes = backgrounds([Path(sample(name)) for name in ("china", "astronaut")])
    photos = [photo for photo in synthetic_photos(things, scenes, 8, False, seed=1) if photo.truth is not None]
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
    report["sessions"] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in arguments.sessions:
            with ProcessPoolExecutor(1, get_context("spawn")) as alone:
                work = alone.submit(session_of, count, photos[0].image, found, gallery, Path(folder))
                report["sessions"].append(work.result())
            print(f"session: {report['sessions'][-1]}", flush=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    report |= {"models": [model.name for model in models], "machine": f"{platform.machine()}, {cores} cores"}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
