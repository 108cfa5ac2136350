"""Guided points against a blind 64 x 64 grid: prompts, seconds, and which of the grid's objects are found.

    python bench/clip_guided.py [--models lite] [--photos chelsea ...]

For each photo, the text encoder and the image encoder run once. Then the same decoder, the same choice and the same
merge answer four placements of points: ours (`deepest`), the centre of gravity of each region, a lattice inside each
region, and the blind grid, which takes two to four minutes a photo on two cores. The grid asks unsure places too, and
the merge names what it finds there by the likeliest word, however unlikely; so an object of the grid counts as
carrying its word where a confident place of that word, as large and as sure as ours asks for, lies inside it. Such an
object is found where ours has one of the same word with an IoU of at least 0.5. Prints a table, then one line of JSON.
"""

import argparse
import json
import os
import platform

import cv2
import numpy as np

from nbhelpers import load, load_image, sample
from nbhelpers.clip_guided import ClipGuidedSettings, segment
from nbhelpers.core.masks import iou
from nbhelpers.models.values import ClassMap

WORDS = {
    "chelsea": ["cat", "sofa|cushion", "wall"],
    "quokka": ["quokka|wallaby", "wall", "ground|sand"],
    "coffee": ["cup", "spoon", "table"],
    "flower": ["flower", "leaf", "background"],
    "china": ["temple", "sky", "tree", "stairs"],
    "astronaut": ["person", "flag", "rocket|missile", "background"],
}
PLACEMENTS = ("deepest", "centroid", "regular", "grid")
FOUND = 0.5
TARGETS = {"prompts_ratio": 40, "decoder_ratio": 30, "found": 0.9, "mean_iou": 0.9, "decoder_and_merge": 12, "all": 20}


def compare(name: str, segmenter, encoder) -> dict:
    """The four placements on one photo; the grid's row is what the others are measured by."""
    image = load_image(sample(name))
    results = {}
    first = segment(image, WORDS[name], segmenter=segmenter, text_encoder=encoder)
    shared = {"segmenter": segmenter, "class_map": first.text_map, "embedding": segmenter.encode(image)}
    for placement in PLACEMENTS:
        results[placement] = segment(image, WORDS[name], settings=ClipGuidedSettings(placement=placement), **shared)
    named = carrying_their_word(results["grid"], first)
    rows = {placement: _row(result, results["grid"], named) for placement, result in results.items()}
    ours, grid = rows["deepest"], rows["grid"]
    return {
        "photo": name,
        "prompts_ratio": round(grid["prompts"] / max(1, ours["prompts"]), 1),
        "decoder_ratio": round(grid["decoder"] / max(1e-9, ours["decoder"]), 1),
        "grid_objects": len(results["grid"]),
        "with_a_word": len(named),
        "rows": rows,
    }


def carrying_their_word(grid, ours) -> list[int]:
    """Indices of the grid's instances that hold a confident place of their word, as `Settings` of ``ours`` means it."""
    names, size, planes = grid.class_map.names, grid.image.shape[1::-1], grid.class_map.probabilities
    planes = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in planes])
    winner, peak = planes.argmax(0), planes.max(0)
    out = []
    for index, class_id in enumerate(grid.instances.class_id.tolist()):
        level = ours.confidence_used.get(names[class_id], ours.settings.min_confidence)
        sure = (grid.instance_map == index) & (winner == class_id) & (peak >= level)
        if np.count_nonzero(sure) >= ours.settings.min_region_size:
            out.append(index)
    return out


def _row(result, grid, named: list[int]) -> dict:
    """Cost of a placement, and how it agrees with the grid's instances that carry a word."""
    best = []
    for index in named:
        wanted, class_id = grid.instance_map == index, grid.instances.class_id[index]
        rivals = np.flatnonzero(result.instances.class_id == class_id)
        best.append(max((iou(wanted, result.instance_map == rival) for rival in rivals), default=0.0))
    found = [value for value in best if value >= FOUND]
    return {
        "prompts": result.budget.prompts,
        "decoder": round(result.budget.decoder, 2),
        "merge": round(result.budget.merge, 2),
        "objects": len(result),
        "found": round(len(found) / len(best), 3) if best else None,
        "mean_iou": round(float(np.mean(found)), 3) if found else None,
    }


def many_prompts(segmenter, encoder) -> dict:
    """Seconds for at least 225 prompts on a photo of 640 x 480."""
    image = cv2.resize(load_image(sample("quokka")), (640, 480), interpolation=cv2.INTER_AREA)
    text = segment(image, ["animal"], segmenter=segmenter, text_encoder=encoder).budget.text
    everywhere = ClassMap(
        np.stack([np.ones((48, 64)), np.zeros((48, 64))]).astype(np.float32), ("a", "b"), (480, 640), ""
    )
    lattice = ClipGuidedSettings(placement="regular", spacing=21.5 / 384, max_prompts=1000)
    budget = segment(image, ["a", "b"], settings=lattice, segmenter=segmenter, class_map=everywhere).budget
    seconds = budget.decoder + budget.merge
    return {
        "prompts": budget.prompts,
        "decoder_and_merge": round(seconds, 1),
        "all": round(text + budget.image + seconds, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="lite", choices=("auto", "lite", "official"))
    parser.add_argument("--photos", nargs="+", default=["chelsea"], choices=list(WORDS))
    arguments = parser.parse_args()
    segmenter = load("segmenter", models=arguments.models)
    encoder = load("text_encoder", models=arguments.models)
    timed = many_prompts(segmenter, encoder)
    photos = []
    print(f"{'photo':<10} {'points':<9} prompts  decoder s  merge s  objects  of grid's found  mean IoU")
    for name in arguments.photos:
        photos.append(compare(name, segmenter, encoder))
        for placement, row in photos[-1]["rows"].items():
            shares = [
                f"{'-' if row[key] is None else row[key]!s:>{wide}}" for key, wide in (("found", 16), ("mean_iou", 9))
            ]
            print(
                f"{name:<10} {placement:<9} {row['prompts']:7d} {row['decoder']:10.2f} {row['merge']:8.2f} "
                f"{row['objects']:8d} {' '.join(shares)}",
                flush=True,
            )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    report = {
        "measure": "clip_guided",
        "many_prompts": timed,
        "photos": photos,
        "targets": TARGETS,
        "models": [encoder.name, segmenter.name],
        "device": str(segmenter.device),
        "machine": f"{platform.machine()}, {cores} cores",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
