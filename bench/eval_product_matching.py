"""Precision, recall and ranking of product matching on photos with a known answer.

    python bench/eval_product_matching.py DATA [--photos 200] [--cache DIR] [--parts made dreambooth box]

The made set (`made_products`): cup, cat, flower, printed box and quokka, each searched in photos that hold it or not,
half of them with look-alikes. One reference each, its original photo; the threshold is calibrated, nobody confirms or
rejects. A match is right when its IoU with the visible product is at least 0.5. dreambooth: one reference of each
object, ranked by the best score of each photo over all other photos, mean average precision over the objects. box: one
click on the first of 45 frames spread over box.mp4; how many show a match, and a contact sheet to judge them by eye.

What was found in a photo is kept in the cache, so a run that was cut off goes on where it was. Prints a table and one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from made_products import CutOut, MadePhoto, backgrounds, make, sample_cut_outs

from nbhelpers import Frames, ProductSession, Prompt, load, load_image, sample
from nbhelpers.core.files import outputs_dir
from nbhelpers.core.images import fit, save_image
from nbhelpers.core.metrics import iou
from nbhelpers.product_matching.calibrate import calibrate, subtract_background
from nbhelpers.product_matching.features import describe_reference
from nbhelpers.product_matching.gallery import Gallery, evenly_spaced, mean_feature
from nbhelpers.product_matching.match import apply_threshold, score_photos
from nbhelpers.product_matching.propose import PhotoProposals, propose_candidates
from nbhelpers.product_matching.report import result_sheet
from nbhelpers.product_matching.search import load_proposals, save_proposals
from nbhelpers.product_matching.session import BACKGROUND_PHOTOS
from nbhelpers.product_matching.settings import ProductSettings

TARGETS = {"plain": 0.90, "alike": 0.75, "absent_matched": 0.05, "dreambooth_map": 0.90, "box": 0.9}
PARTS = ("made", "dreambooth", "box")
FOUND = 0.5
LONGEST = 1024
FRAMES, CLICK = 45, (450, 85)
BOXES = {"can": (410, 185, 870, 1020), "duck_toy": (330, 270, 1020, 950), "teapot": (410, 140, 1120, 760)}  # on 00.jpg


def made_set(data: Path | None, count: int, segmenter) -> tuple[list[CutOut], list[MadePhoto]]:
    """The cut-outs and their photos, in an order in which each beginning holds every product and kind."""
    files = [Path(sample(name)) for name in ("china", "astronaut")]
    files += [Path(sample(f"BalbianelloMedium-{number}.jpg")) for number in (1, 3, 5)]
    if data is not None:
        files += [*sorted((data / "kitchen").glob("*.png"))[:5], *sorted((data / "sam2").glob("*.jpg"))]
    things, scenes = sample_cut_outs(segmenter), backgrounds(files)
    each = -(-count // (2 * len(things)))
    photos = [photo for alike in (False, True) for photo in make(things, scenes, each, alike)]
    photos.sort(key=lambda photo: (int(photo.name.rpartition("-")[2]), photo.name))
    return things, photos[:count]


def search(photos: Sequence[MadePhoto], galleries: dict[str, Gallery], models, settings: ProductSettings, cache: Path):
    """The candidates of each photo, from the cache where they are there."""
    found: dict[str, PhotoProposals] = {}
    for number, photo in enumerate(photos):
        gallery = galleries[photo.product]
        file = cache / f"{photo.name}-{gallery.digest[:8]}.npz"
        if not file.is_file():
            started = time.perf_counter()
            save_proposals(propose_candidates(photo.image, *models, gallery, settings), file)
            print(f"{number + 1:4d} of {len(photos)} {photo.name} {time.perf_counter() - started:.1f} s", flush=True)
        found[photo.name] = load_proposals(file)
    return found


def score_made(
    photos: Sequence[MadePhoto],
    found: dict[str, PhotoProposals],
    galleries: dict[str, Gallery],
    settings: ProductSettings,
) -> list[dict]:
    """A row for each product and kind of photos: right, wrong and missed matches at its calibrated threshold."""
    rows = []
    for kind in ("plain", "alike"):
        for product, gallery in galleries.items():
            mine = [photo for photo in photos if photo.product == product and f"-{kind}-" in photo.name]
            if not mine:
                continue
            candidates = [found[photo.name] for photo in mine]
            judging = subtract_background(evenly_spaced(candidates, BACKGROUND_PHOTOS), gallery, settings)
            scores = score_photos(candidates, judging, settings)
            calibration = calibrate(scores, judging, settings)
            judged = [apply_threshold(each, settings, calibration.threshold) for each in scores]
            rows.append({"kind": kind, "product": product, "photos": len(mine)})
            rows[-1] |= {"threshold": round(calibration.threshold, 3), "source": calibration.source}
            rows[-1] |= _counts(mine, judged)
    return rows


def _counts(photos: Sequence[MadePhoto], judged: Sequence[tuple]) -> dict:
    count = dict.fromkeys(("right", "wrong", "missed", "absent", "absent_matched", "not_offered"), 0)
    missed = []
    for photo, rows in zip(photos, judged, strict=True):
        kept = [row.proposal.mask for row in rows if row.kept]
        if photo.truth is None:
            count["absent"] += not photo.look_alikes
            count["absent_matched"] += bool(kept) and not photo.look_alikes
            count["wrong"] += len(kept)
            continue
        hits = sum(iou(photo.truth, mask) >= FOUND for mask in kept)
        count["right"] += min(hits, 1)
        count["wrong"] += len(kept) - min(hits, 1)
        count["missed"] += not hits
        if not hits:
            missed.append(photo.name)
            count["not_offered"] += all(iou(photo.truth, row.proposal.mask) < FOUND for row in rows)
    return count | {"missed_photos": missed}


def summary(rows: Sequence[dict]) -> dict:
    """Precision and recall over all products of each kind, and how often an absent product was found."""
    out = {}
    for kind in ("plain", "alike"):
        total = {key: sum(row[key] for row in rows if row["kind"] == kind) for key in ("right", "wrong", "missed")}
        out[kind] = {
            "precision": round(total["right"] / max(1, total["right"] + total["wrong"]), 3),
            "recall": round(total["right"] / max(1, total["right"] + total["missed"]), 3),
        }
    absent = sum(row["absent"] for row in rows)
    out["absent_matched"] = round(sum(row["absent_matched"] for row in rows) / max(1, absent), 3)
    out["photos"] = sum(row["photos"] for row in rows)
    return out


def dreambooth(data: Path, models, settings: ProductSettings, cache: Path) -> dict:
    """Average precision of each object's reference over the photos of all objects but its own."""
    segmenter, encoder = models
    files = sorted((data / "dreambooth").glob("*/*.jpg"))
    images = {file: fit(load_image(file), LONGEST) for file in files}
    mean = mean_feature([images[file] for file in evenly_spaced(files, 8)], encoder)
    precisions = {}
    for name, box in BOXES.items():
        reference = data / "dreambooth" / name / "00.jpg"
        image = load_image(reference)
        mask = segmenter.predict(segmenter.encode(image), Prompt(box=box)).best
        gallery = Gallery((describe_reference(image, mask, encoder, settings.crop_side),), mean=mean)
        found, truth = [], []
        for file in files:
            if file == reference:
                continue
            kept = cache / f"{name}-{file.parent.name}-{file.stem}-{gallery.digest[:8]}.npz"
            if not kept.is_file():
                save_proposals(propose_candidates(images[file], *models, gallery, settings), kept)
                print(f"{name} in {file.parent.name}/{file.name}", flush=True)
            found.append(load_proposals(kept))
            truth.append(file.parent.name == name)
        judging = subtract_background(evenly_spaced(found, BACKGROUND_PHOTOS), gallery, settings)
        rows = score_photos(found, judging, settings)
        scores = [row.proposals[0].score if row.proposals else -1.0 for row in rows]
        right = np.array(truth)[np.argsort(scores, kind="stable")[::-1]]
        precisions[name] = float((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())
        own, others = (np.array(scores)[np.array(truth) == wanted] for wanted in (True, False))
        print(f"{name:10} AP {precisions[name]:.3f}, own {np.round(np.sort(own), 2)}, others up to {others.max():.2f}")
    return {
        "ap": {k: round(v, 3) for k, v in precisions.items()},
        "map": round(float(np.mean([*precisions.values()])), 3),
    }


def turned_box(models, settings: ProductSettings, cache: Path) -> dict:
    """The printed box that a hand turns, from one click in the first frame."""
    frames, folder = Frames(sample("box.mp4")), cache / "box-frames"
    for index in np.linspace(0, len(frames) - 1, FRAMES).round().astype(int).tolist():
        save_image(folder / f"{index:03}.png", frames[index])
    session = ProductSession(folder, settings=settings, segmenter=models[0], encoder=models[1], cache=cache / "box")
    session.add_reference(session.photos[0], point=CLICK)
    session.search(on_photo=lambda _: print(".", end="", flush=True))
    sheet = save_image(outputs_dir("product_matching") / "box.png", result_sheet(session.results))
    found = sum(not result.absent for result in session.results)
    print(f"\nbox.mp4: found in {found} of {FRAMES} frames; judge {sheet}")
    return {"frames": FRAMES, "found": found, "threshold": round(session.threshold, 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--photos", type=int, default=200, help="photos of the made set")
    parser.add_argument("--models", default="lite", choices=("auto", "lite", "official"))
    parser.add_argument("--cache", type=Path, default=None, help="where candidates are kept")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    arguments = parser.parse_args()
    settings = ProductSettings()
    models = load("segmenter", models=arguments.models), load("patch_encoder", models=arguments.models)
    cache = arguments.cache or outputs_dir("product_matching") / "eval"
    cache.mkdir(parents=True, exist_ok=True)
    report: dict = {"measure": "product_matching", "targets": TARGETS, "models": [model.name for model in models]}
    if "dreambooth" in arguments.parts:
        report["dreambooth"] = dreambooth(arguments.data, models, settings, cache)
    if "box" in arguments.parts:
        report["box"] = turned_box(models, settings, cache)
    if "made" in arguments.parts:
        things, photos = made_set(arguments.data, arguments.photos, models[0])
        mean = mean_feature([photo.image for photo in evenly_spaced(photos, 8)], models[1])
        galleries = {
            thing.name: Gallery((describe_reference(thing.photo, thing.mask, models[1]),), mean=mean)
            for thing in things
        }
        rows = score_made(photos, search(photos, galleries, models, settings, cache), galleries, settings)
        for row in rows:
            print(
                f"{row['kind']:6} {row['product']:8} {row['photos']:3d} photos, threshold {row['threshold']:.2f}, "
                f"right {row['right']:3d}, wrong {row['wrong']:3d}, missed {row['missed']:3d} "
                f"({row['not_offered']} not offered), absent {row['absent_matched']} of {row['absent']}"
            )
        report["made"] = summary(rows)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    report["machine"] = f"{platform.machine()}, {cores} cores"
    print(json.dumps(report))


if __name__ == "__main__":
    main()
