"""One object in all views of a scene, against true masks: IoU, one correcting click, and whether bad views are found.

    python bench/eval_multiview.py DATA [--scenes kitchen,temple] [--poses FOLDER] [--no-poses] [--quick]

DATA holds ``kitchen/*.png`` and ``temple/*.png``. Truth: of the kitchen the outlines that were drawn by hand in
``nbhelpers/benchmarks/kitchen_outlines.json``, void polygons not counted; of the temple what is brighter than the dark
background: threshold 45, opened by 3 pixels, largest component, shadows closed over 9 pixels (grooves of the stone are
as dark as the background; gaps between the columns are wider).

Protocol: the prompt is the box of the true mask in a reference view, or one click at its deepest point; mean IoU over
all views, the prompted one too. The correction: one click in the view of the lowest IoU, at the deepest point of the
largest wrong part. Wrong prompts: the true box in a reference view, and in another view a click beside the object,
said before all views are solved, or later as a correction. Phrases: what `MultiviewSegmenter` makes of one.
The consistency is measured by the area under the ROC curve of telling views of IoU under 0.8, over all runs by prompts
together, prompted views left out unless the prompt was wrong. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from nbhelpers import NbHelpersError, Prompt, load, load_image
from nbhelpers.core.masks import box_of, components, deepest_points, fill_holes, polygon_mask
from nbhelpers.multiview import MultiviewSegmenter, Photos, ViewsSession

TARGETS = {"temple": 0.93, "bulldozer": 0.88, "bulldozer worst view": 0.60, "pink mat": 0.85, "auc": 0.85}
POLYGONS = Path(__file__).resolve().parents[1] / "nbhelpers" / "benchmarks" / "kitchen_outlines.json"
BAD = 0.8
PHRASES = {"bulldozer": "yellow tractor", "pink mat": "pink mat"}
REFERENCES = {"bulldozer": (0, 3, 6), "pink mat": (0, 3, 6), "temple": (0, 5, 11)}


@dataclass(frozen=True)
class Truth:
    """True masks of one object, and what is not counted."""

    masks: list[np.ndarray]
    void: list[np.ndarray]

    def iou(self, view: int, mask: np.ndarray) -> float:
        """IoU over the counted pixels."""
        counted = ~self.void[view]
        a, b = mask & counted, self.masks[view] & counted
        union = np.count_nonzero(a | b)
        return float(np.count_nonzero(a & b) / union) if union else 1.0

    def wrong(self, view: int, mask: np.ndarray) -> tuple[tuple[float, float], int]:
        """A correcting click and its label: the deepest point of the largest wrong part."""
        counted = ~self.void[view]
        missed, extra = (
            components(part & counted) == 1 for part in (self.masks[view] & ~mask, mask & ~self.masks[view])
        )
        label = int(np.count_nonzero(missed) >= np.count_nonzero(extra))
        point = deepest_points(missed if label else extra, 1, 1)[0]
        return (float(point[0]), float(point[1])), label

    def prompt(self, view: int, how: str) -> Prompt:
        """The true box of a view, or a click at the deepest point."""
        sure = self.masks[view] & ~self.void[view]
        if how == "box":
            return Prompt(box=box_of(sure))
        return Prompt(deepest_points(sure, 1, 1))

    def beside(self, view: int) -> Prompt:
        """A click that is not on the object: the deepest point of the rest of the photo."""
        return Prompt(deepest_points(~(self.masks[view] | self.void[view]), 1, 1))


def temple_mask(image: np.ndarray) -> np.ndarray:
    """What is brighter than the background."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    bright = cv2.morphologyEx((grey > 45).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    body = cv2.copyMakeBorder((components(bright > 0) == 1).astype(np.uint8), 16, 16, 16, 16, cv2.BORDER_CONSTANT)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    return fill_holes(cv2.morphologyEx(body, cv2.MORPH_CLOSE, disk)[16:-16, 16:-16] > 0, 400)


def kitchen_truth(name: str, files: list[Path]) -> Truth:
    """The hand-drawn outlines of an object; what stands before it is taken off."""
    data = json.loads(POLYGONS.read_text(encoding="utf-8"))
    size = tuple(data["size"])

    def fill(polygons: list) -> np.ndarray:
        mask = np.zeros(size, bool)
        for points in polygons:
            mask |= polygon_mask([tuple(point) for point in points], size)
        return mask

    masks, void = [], []
    for file in files:
        drawn = data["objects"][name][file.name]
        mask, unknown = fill(drawn["outline"]), fill(drawn["void"])
        for other in drawn.get("minus", ()):
            before = data["objects"][other][file.name]
            mask &= ~fill(before["outline"])
            unknown |= fill(before["void"])
        masks.append(mask)
        void.append(unknown)
    return Truth(masks, void)


def objects(scene: str, files: list[Path]) -> dict[str, Truth]:
    """The objects of a scene whose truth is known."""
    if scene == "temple":
        masks = [temple_mask(load_image(file)) for file in files]
        return {"temple": Truth(masks, [np.zeros_like(mask) for mask in masks])}
    return {name: kitchen_truth(name, files) for name in ("bulldozer", "pink mat")}


def poses(scene: str, files: list[Path], folder: Path | None):
    """The scene of the photos; read from a folder where it was estimated before."""
    kept = None if folder is None else folder / f"{scene}.pkl"
    if kept is not None and kept.is_file():
        return pickle.loads(kept.read_bytes())
    estimated = load("scene_estimator", models="lite").reconstruct(
        [load_image(f) for f in files], [f.name for f in files]
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(pickle.dumps(estimated))
    return estimated


def told(truth: Truth, session: ViewsSession, wrong: tuple[int, ...] = ()) -> list[tuple[float, float]]:
    """IoU and consistency of each view that nobody prompted, or prompted wrongly."""
    views = session.views
    asked = [view for view in range(len(views)) if not views[view].prompted or view in wrong]
    return [(truth.iou(view, views.mask(view)), views.consistency(view).value) for view in asked]


def run(name: str, truth: Truth, photos: Photos, scene, reference: int, how: str, correct: bool) -> dict:
    """One reference prompt, and one correcting click where the mean is under 0.9."""
    session = ViewsSession(photos, scene)
    session.set_prompt(truth.prompt(reference, how), view=reference)
    views = session.solve()
    ious = [truth.iou(view, views.mask(view)) for view in range(len(views))]
    others = [value for view, value in enumerate(ious) if view != reference]
    result = {
        "object": name,
        "reference": reference,
        "prompt": how,
        "mean": round(float(np.mean(ious)), 4),
        "worst": round(min(others), 4),
        "own": round(ious[reference], 4),
        "consistency": round(views.overall.value, 3),
        "seconds": round(views.seconds, 1),
        "told": told(truth, session),
    }
    if correct and result["mean"] < 0.9:
        worst = int(np.argmin(ious))
        (x, y), label = truth.wrong(worst, views.mask(worst))
        session.click(x, y, label, view=worst)
        after = session.solve()
        result["corrected"] = round(float(np.mean([truth.iou(v, after.mask(v)) for v in range(len(after))])), 4)
    return result


def run_wrong(name: str, truth: Truth, photos: Photos, scene, reference: int, solved: bool) -> dict:
    """The true box in one view, and a click beside the object in another: before all views are solved, or after."""
    session = ViewsSession(photos, scene)
    session.set_prompt(truth.prompt(reference, "box"), view=reference)
    wrong = (reference + len(photos) // 2) % len(photos)
    if solved:
        session.solve()
    ((x, y),) = truth.beside(wrong).points.tolist()
    session.click(x, y, view=wrong)
    views = session.solve()
    ious = [truth.iou(view, views.mask(view)) for view in range(len(views))]
    return {
        "object": name,
        "reference": reference,
        "prompt": f"wrong click {'later ' if solved else ''}in {wrong}",
        "mean": round(float(np.mean(ious)), 4),
        "worst": round(min(ious), 4),
        "others": round(float(np.mean([iou for view, iou in enumerate(ious) if view != wrong])), 4),
        "noticed": views.consistency(wrong).is_doubtful,
        "consistency": round(views.overall.value, 3),
        "seconds": round(views.seconds, 1),
        "told": told(truth, session, (wrong,)),
    }


def run_phrase(name: str, truth: Truth, files: list[Path], segmenter, scene, phrase: str) -> dict:
    """What a phrase leads to, in all views; the view that the others follow is the reference."""
    result = MultiviewSegmenter(segmenter, models="lite").segment(files, phrase, scene=scene)
    ious = [truth.iou(view.view_index, view.mask) for view in result]
    (reference,) = result.session.prompted
    return {
        "object": name,
        "reference": reference,
        "prompt": phrase,
        "mean": round(float(np.mean(ious)), 4),
        "worst": round(min(ious), 4),
        "own": round(ious[reference], 4),
        "consistency": round(result.consistency, 3),
        "seconds": round(result.views.seconds, 1),
    }


def area_under_roc(pairs: list[tuple[float, float]]) -> float | None:
    """Chance that a bad view has a lower consistency than a good one; None where all are good or all bad."""
    bad, good = ([value for iou, value in pairs if (iou < BAD) == kind] for kind in (True, False))
    if not bad or not good:
        return None
    below = np.array(bad)[:, None] < np.array(good)
    equal = np.array(bad)[:, None] == np.array(good)
    return float((below + 0.5 * equal).mean())


def evaluate(data: Path, scenes: list[str], folder: Path | None, with_poses: bool, quick: bool) -> dict:
    """Measure all objects of the scenes, printing as it goes, and return the figures."""
    segmenter = load("segmenter", models="lite")
    results = []
    for scene in scenes:
        files = sorted((data / scene).glob("*.png"))
        if not files:
            raise NbHelpersError("there are no photos to measure", given=data / scene, expected="*.png")
        started = time.perf_counter()
        placed = poses(scene, files, folder) if with_poses else None
        print(f"{scene}: {len(files)} photos, scene in {time.perf_counter() - started:.1f} s", flush=True)
        photos = Photos(files, segmenter)
        for name, truth in objects(scene, files).items():
            references = REFERENCES[name][: 1 if quick else None]
            asked = [(run, (reference, how, not quick)) for how in ("box", "click") for reference in references]
            asked += [(run_wrong, (reference, solved)) for reference in references[:2] for solved in (False, True)]
            runs = [partial(measure, name, truth, photos, placed, *arguments) for measure, arguments in asked]
            if name in PHRASES:
                runs.append(partial(run_phrase, name, truth, files, segmenter, placed, PHRASES[name]))
            for each in runs:
                result = each()
                results.append(result)
                corrected = f"  corrected {result['corrected']:.3f}" if "corrected" in result else ""
                if "others" in result:
                    noticed = "noticed" if result["noticed"] else "NOT noticed"
                    corrected = f"  all other views {result['others']:.3f}, {noticed}"
                print(
                    f"{name:>10}  view {result['reference']:2}  {result['prompt']:22}  mean {result['mean']:.3f}"
                    f"  worst {result['worst']:.3f}{corrected}  consistency {result['consistency']:.2f}"
                    f"  {result['seconds']:.0f} s",
                    flush=True,
                )
    pairs = [pair for result in results for pair in result.pop("told", ())]
    area = area_under_roc(pairs)
    return {
        "measure": "multiview masks",
        "segmenter": segmenter.name,
        "auc": None if area is None else round(area, 3),
        "bad_views": int(sum(iou < BAD for iou, _ in pairs)),
        "views": len(pairs),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "targets": TARGETS,
        "runs": results,
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenes", default="kitchen,temple", help="names with commas between")
    parser.add_argument("--poses", type=Path, help="folder where estimated scenes are kept between runs")
    parser.add_argument("--no-poses", action="store_true", help="by features alone")
    parser.add_argument("--quick", action="store_true", help="one reference view, no correction")
    arguments = parser.parse_args()
    try:
        figures = evaluate(
            arguments.data, arguments.scenes.split(","), arguments.poses, not arguments.no_poses, arguments.quick
        )
    except NbHelpersError as error:
        sys.exit(str(error))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
