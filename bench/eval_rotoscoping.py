"""J&F of a tracker on DAVIS sequences: from the first mask, from one click, and after correcting clicks.

    python bench/eval_rotoscoping.py DATA [--tracker NAME] [--sequences bmx-trees,dog] [--corrections 3]

DATA holds ``davis2016/JPEGImages/480p/NAME/*.jpg`` and ``davis2016/Annotations/480p/NAME/*.png`` (or those two folders
themselves), one object a sequence. Protocol: measures of the DAVIS benchmark, the first and the last frame not
counted, mean over the sequences. The click is the deepest point of the true mask of frame 0. A correction is one
click on the frame with the lowest J&F, at the deepest point of the largest wrong part, including or excluding; a
prompted frame gets it in addition to its clicks. Then the clip is followed anew from there, both ways. Prints a table
and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from nbhelpers import NbHelpersError, Prompt, load, load_image
from nbhelpers.core.masks import components, deepest_points
from nbhelpers.core.metrics import score_clip, summarize

TARGETS = {"mask": 0.91, "click": 0.86, "corrected": {"bmx-trees": 0.85}}
OBJECT = 1


class Sequence:
    """Frames and true masks of one DAVIS sequence, read when asked for."""

    def __init__(self, images: Path, masks: Path):
        self.name = images.name
        self.images = sorted(images.glob("*.jpg"))
        self.masks = [masks / f"{path.stem}.png" for path in self.images]
        missing = [path for path in self.masks if not path.is_file()]
        if not self.images or missing:
            raise NbHelpersError(
                "this is not a DAVIS sequence",
                given=images,
                expected=f"{missing[0]} for each .jpg" if missing else "numbered .jpg files",
            )
        self.size = self.truth(0).shape

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return load_image(self.images[index])

    def truth(self, index: int) -> np.ndarray:
        """True mask of a frame; in DAVIS 2016 all that moves is one object."""
        from PIL import Image

        with Image.open(self.masks[index]) as picture:
            return np.asarray(picture.convert("L")) > 0


def sequences(data: Path, names: list[str] | None) -> list[Sequence]:
    """The sequences under ``data``, or those of them that are asked for."""
    root = data / "davis2016" if (data / "davis2016").is_dir() else data
    images, masks = root / "JPEGImages" / "480p", root / "Annotations" / "480p"
    found = sorted(path.name for path in images.glob("*") if path.is_dir())
    if not found or set(names or ()) - set(found):
        raise NbHelpersError(
            "no such sequences to measure",
            given=f"{data}{'' if names is None else ': ' + ', '.join(names)}",
            expected=f"one of {', '.join(found)}" if found else "a folder that holds JPEGImages/480p/NAME/*.jpg",
        )
    return [Sequence(images / name, masks / name) for name in names or found]


class Run:
    """One sequence being followed: its latest masks, their scores, and what following cost beside the encoder."""

    def __init__(self, tracker, clip: Sequence):
        self.tracker, self.clip = tracker, clip
        self.state = tracker.open(clip)
        self.found: list[np.ndarray] = [np.zeros(clip.size, bool)] * len(clip)
        self.confidence = np.zeros(len(clip))
        self.clicks: dict[int, tuple[list, list]] = {}

    def add(self, frame: int, prompt: Prompt) -> None:
        """Prompt the object."""
        self.tracker.add(self.state, frame, OBJECT, prompt)

    def click(self, frame: int, point: tuple[int, int], label: int) -> None:
        """One more click on a frame, after those given there before."""
        points, labels = self.clicks.setdefault(frame, ([], []))
        points.append(tuple(point))
        labels.append(label)
        self.add(frame, Prompt(points, labels))

    def follow(self, frame: int) -> None:
        """Follow the object from a frame to both ends."""
        for stop in (len(self.clip) - 1, 0):
            for tracked in self.tracker.propagate(self.state, frame, stop):
                self.found[tracked.frame] = tracked.predictions[OBJECT].best
                self.confidence[tracked.frame] = tracked.predictions[OBJECT].scores[0]

    def scores(self) -> np.ndarray:
        """J and F of each frame."""
        return score_clip((self.clip.truth(i) for i in range(len(self.clip))), self.found)

    def correct(self) -> tuple[int, int]:
        """Click once on the worst frame and follow anew; returns the frame and the label of the click."""
        frame = int(self.scores().mean(1).argmin())
        truth, found = self.clip.truth(frame), self.found[frame]
        missed, extra = (components(part) == 1 for part in (truth & ~found, found & ~truth))
        label = int(np.count_nonzero(missed) >= np.count_nonzero(extra))
        self.click(frame, deepest_points(missed if label else extra, 1, 1)[0], label)
        self.follow(frame)
        return frame, label


def figures(run: Run) -> dict:
    """J&F of a followed clip with its parts, and how well the tracker's confidence tells bad frames."""
    values = run.scores()[1:-1]
    j, f = (summarize(values[:, column]) for column in (0, 1))
    both, told = values.mean(1), run.confidence[1:-1]
    correlation = np.corrcoef(both, told)[0, 1] if both.std() and told.std() else 0.0
    return {
        "jf": round((j.mean + f.mean) / 2, 4),
        "j": round(j.mean, 4),
        "f": round(f.mean, 4),
        "recall": round(j.recall, 3),
        "decay": round(j.decay, 3),
        "confidence_correlation": round(float(correlation), 2),
    }


def measure(tracker, clip: Sequence, corrections: int) -> dict:
    """All protocols on one sequence."""
    result = {}
    run = Run(tracker, clip)
    run.add(0, Prompt(mask=clip.truth(0)))
    started = time.perf_counter()
    run.follow(0)
    result["seconds_a_frame"] = round((time.perf_counter() - started) / max(1, len(clip) - 1), 2)
    result["mask"] = figures(run)
    run = Run(tracker, clip)
    run.click(0, deepest_points(clip.truth(0), 1, 1)[0], 1)
    run.follow(0)
    result["click"] = figures(run)
    result["corrected"] = []
    for _ in range(corrections):
        frame, label = run.correct()
        result["corrected"].append({"frame": frame, "label": label, **figures(run)})
    return result


def evaluate(data: Path, tracker_name: str | None, names: list[str] | None, corrections: int) -> dict:
    """Measure every sequence under ``data``, printing as it goes, and return the figures."""
    clips = sequences(data, names)
    tracker = load("tracker", tracker_name, models=None if tracker_name else "lite")
    each = {}
    for clip in clips:
        each[clip.name] = figure = measure(tracker, clip, corrections)
        told = "  ".join(f"{c['jf']:.3f} ({'+' if c['label'] else '-'}{c['frame']})" for c in figure["corrected"])
        print(
            f"{clip.name:>18}  {len(clip):3} frames  mask {figure['mask']['jf']:.3f}  click {figure['click']['jf']:.3f}"
            f"  corrected {told}  {figure['seconds_a_frame']:.2f} s a frame",
            flush=True,
        )
    return {
        "measure": "j_and_f",
        "tracker": tracker.name,
        "sequences": len(clips),
        **{kind: round(float(np.mean([f[kind]["jf"] for f in each.values()])), 4) for kind in ("mask", "click")},
        "targets": TARGETS,
        "each": each,
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--tracker", help="catalog name; the lite tracker when left out")
    parser.add_argument("--sequences", help="names with commas between; all when left out")
    parser.add_argument("--corrections", type=int, default=3, help="correcting clicks after the first (default 3)")
    arguments = parser.parse_args()
    names = arguments.sequences.split(",") if arguments.sequences else None
    try:
        print(json.dumps(evaluate(arguments.data, arguments.tracker, names, arguments.corrections)))
    except NbHelpersError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
