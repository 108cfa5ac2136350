"""Tracking with and without geometry: twins, structure from motion, negative controls, moving and real clips.

    python bench/eval_geometry_fusion.py [DATA] [--parts twins,sfm,moving,redkitchen,kitchen] [--output DIR]

``twins`` and ``sfm`` make ten clips with the photos for tests (`nbhelpers.geometry_fusion.synthetic`, seeds 101 to 110,
20 frames, mask given on frame 0). The others need DATA: ``davis2016/`` (first 30 frames; the motion that is measured,
and whether the clip falls back), ``redkitchen/`` (7-Scenes, true depth and poses) with the outlines in
``bench/redkitchen_outlines.json``, and ``kitchen/`` with nine photos. Every clip and arm is one line of
``results.jsonl`` in the output folder, so a run that was cut off goes on; embeddings and geometry are kept there too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from nbhelpers import Frames, NbHelpersError, Prompt, load
from nbhelpers.core.files import outputs_dir
from nbhelpers.core.masks import polygon_mask
from nbhelpers.geometry_fusion.arms import make_arms
from nbhelpers.geometry_fusion.comparison import TrueMasks, figures, frame_ious, paired_interval, track
from nbhelpers.geometry_fusion.geometry import kept_geometry, measure_motion, read_rgbd, views_of
from nbhelpers.geometry_fusion.synthetic import TEST_PHOTOS, load_textures, render_clip
from nbhelpers.models.cached import CachedSegmenter
from nbhelpers.models.geometry import SceneGeometry
from nbhelpers.models.label_propagation import LabelPropagation

SEEDS = range(101, 111)
PARTS = ("twins", "sfm", "moving", "redkitchen", "kitchen")
TWIN_ARMS = ("baseline", "geometry", "merger", "kernel", "places", "reprompt", "shuffled", "zeroed", "other")
SFM_ARMS = ("geometry", "places")
REAL_ARMS = ("baseline", "geometry", "places", "reprompt")
GOALS = {"twins": 0.80, "returned": 0.75, "sfm gain": 0.25, "control gain": 0.02}
OUTLINES = Path(__file__).with_name("redkitchen_outlines.json")


class Results:
    """Lines of ``results.jsonl``: one a clip and arm, written as soon as it is known."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self.rows = {(row["part"], row["clip"], row["arm"]): row for row in map(json.loads, lines)}

    def add(self, part: str, clip: str, arm: str, **values) -> None:
        """One more line."""
        row = {"part": part, "clip": clip, "arm": arm, **values}
        self.rows[part, clip, arm] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        shown = " ".join(
            f"{key} {values[key]:.3f}" for key in ("iou", "returned", "motion") if values.get(key) is not None
        )
        print(f"{part} {clip} {arm}: {shown} {values.get('note', '')}", flush=True)

    def of(self, part: str, arm: str) -> dict[str, dict]:
        """The lines of an arm, by clip."""
        return {row["clip"]: row for row in self.rows.values() if (row["part"], row["arm"]) == (part, arm)}


def measure(results: Results, part: str, clip: str, arms, frames, prompt, truth, frame=0) -> None:
    """Run the arms that are still missing."""
    for name, tracker in arms.items():
        if (part, clip, name) in results.rows:
            continue
        found = track(name, tracker, frames, prompt, frame)
        values = {key: None if np.isnan(value) else round(value, 4) for key, value in figures(truth, found).items()}
        ious = [round(value, 4) for value in frame_ious(truth, found).values()]
        about = {"seconds": round(found.seconds, 3), "note": found.note, "motion": found.motion, "ious": ious}
        results.add(part, clip, name, **values, **about)


def twins(results: Results, tracker, arms: list[str], seeds, folder: Path, estimated: bool) -> None:
    """Ten clips with an identical twin; geometry exact, or from the pictures alone."""
    textures, previous = load_textures(TEST_PHOTOS), None
    part = "sfm" if estimated else "twins"
    for seed in seeds:
        clip = render_clip(seed, textures)
        truth = TrueMasks(dict(enumerate(clip.masks)))
        exact = SceneGeometry().encode(clip, clip.scene)
        encoder = load("geometry_encoder", "colmap-geometry") if estimated else SceneGeometry()
        scene = None if estimated else clip.scene
        names = [name for name in arms if name != "other" or previous is not None]
        made = make_arms(tracker, encoder, names, scene=scene, other=previous, cache=folder / "geometry")
        measure(results, part, clip.name, made, clip, Prompt(mask=clip.masks[0]), truth)
        previous = exact


def moving(results: Results, data: Path, folder: Path) -> None:
    """Whether clips in which things move fall back to the baseline."""
    encoder = load("geometry_encoder", "colmap-geometry")
    for path in sorted((data / "davis2016" / "JPEGImages" / "480p").iterdir()):
        if ("moving", path.name, "geometry") in results.rows:
            continue
        frames = Frames(path)[:30]
        began = time.perf_counter()
        try:
            motion = measure_motion(frames, kept_geometry(encoder, frames, folder / "geometry")).fraction
            note = "geometry can be had"
        except NbHelpersError as error:
            motion, note = None, f"geometry cannot be had: {error.what} ({error.given})"
        results.add("moving", path.name, "geometry", motion=motion, note=note, seconds=time.perf_counter() - began)


def redkitchen(results: Results, tracker, data: Path, folder: Path, step: int) -> None:
    """Objects of a real static room, outlined by hand; geometry exact, and by structure from motion."""
    outlines = json.loads(OUTLINES.read_text(encoding="utf-8"))
    pictures, scene = read_rgbd(data / "redkitchen")
    wanted = sorted(
        {int(frame) for frames in outlines["objects"].values() for frame in frames} | set(range(0, 100, step))
    )
    frames = Frames([str(pictures[number]) for number in wanted])
    known = views_of(scene, wanted)
    for name, polygons in outlines["objects"].items():
        masks = {
            wanted.index(int(frame)): np.logical_or.reduce([polygon_mask(each, frames.size) for each in parts])
            if parts else np.zeros(frames.size, bool)
            for frame, parts in polygons.items()
        }  # fmt: skip
        first = min(frame for frame, mask in masks.items() if mask.any())
        prompt = Prompt(mask=masks[first])
        truth = TrueMasks({frame: mask for frame, mask in masks.items() if frame != first})
        for part, encoder, given, arms in (
            ("redkitchen", SceneGeometry(), known, REAL_ARMS),
            ("redkitchen sfm", load("geometry_encoder", "colmap-geometry"), None, ("geometry",)),
        ):
            made = make_arms(tracker, encoder, arms, scene=given, cache=folder / "geometry")
            measure(results, part, name, made, frames, prompt, truth, first)


def summary(results: Results) -> dict:
    """Means over clips and paired intervals against the baseline, beside the goals."""
    found: dict = {"goals": GOALS, "parts": {}}
    for part in sorted({row["part"] for row in results.rows.values()}):
        base = results.of("twins" if part == "sfm" else part.removesuffix(" sfm"), "baseline")
        entry = found["parts"].setdefault(part, {})
        for arm in sorted({row["arm"] for row in results.rows.values() if row["part"] == part}):
            rows = results.of(part, arm)
            if part == "moving":
                entry[arm] = {clip: {"motion": row["motion"], "note": row["note"]} for clip, row in rows.items()}
                continue
            means = {}
            for key in ("iou", "recall", "accuracy", "success", "j_and_f", "returned", "seconds"):
                values = [row[key] for row in rows.values() if row.get(key) is not None]
                means[key] = round(float(np.mean(values)), 4) if values else None
            shared = [clip for clip in rows if clip in base]
            if arm != "baseline" and shared:
                pairs = [np.subtract(rows[clip]["ious"], base[clip]["ious"]).tolist() for clip in shared]
                means["gain"] = [round(value, 4) for value in paired_interval(pairs)]
            entry[arm] = {"clips": len(rows), **means, "each": {clip: row["iou"] for clip, row in rows.items()}}
    return found


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--arms", help="of the twins, with commas; all when left out")
    parser.add_argument("--seeds", help="of the twins, with commas; 101 to 110 when left out")
    parser.add_argument("--step", type=int, default=4, help="every Nth of the red kitchen's frames")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.output or outputs_dir("geometry_fusion") / "evaluation"
    results = Results(folder)
    tracker = LabelPropagation(CachedSegmenter(load("segmenter", models="lite"), folder / "embeddings"))
    seeds = [int(each) for each in arguments.seeds.split(",")] if arguments.seeds else SEEDS
    chosen = arguments.arms.split(",") if arguments.arms else None
    for part in arguments.parts.split(","):
        if part == "twins":
            twins(results, tracker, chosen or list(TWIN_ARMS), seeds, folder, estimated=False)
        elif part == "sfm":
            twins(results, tracker, chosen or list(SFM_ARMS), seeds, folder, estimated=True)
        elif arguments.data is not None and part == "moving":
            moving(results, arguments.data, folder)
        elif arguments.data is not None and part == "redkitchen":
            redkitchen(results, tracker, arguments.data, folder, arguments.step)
    print(json.dumps(summary(results)))


if __name__ == "__main__":
    main()
