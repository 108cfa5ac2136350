"""Staying with one object: is the right one of several equal instances followed, and is doubt reported where not?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.benchmarks.metrics import rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.benchmarks.products import backgrounds, sample_cut_outs
from nbhelpers.benchmarks.shell_game import KINDS, ShellGame, shell_game
from nbhelpers.benchmarks.video import ClipFrames, Truth, opened_clips
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import deepest_points, iou
from nbhelpers.models.adapters import CachedSegmenter
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.weights import sample

DATASETS = ("shell-game", "davis2016-doubt")
SEEDS = range(101, 121)
SCENES = (
    "china.jpg",
    "BalbianelloMedium-1.jpg",
    "BalbianelloMedium-3.jpg",
    "BalbianelloMedium-5.jpg",
    "coffee.png",
    "voc_2011_000025.jpg",
)
TAKEN = 0.5  # of the visible part of another instance, from which it is taken for the object
FOUND = 0.5  # IoU from which the object is followed
NEAR = 5  # frames between a switch and the doubtful frame that names it
GOOD = 0.7  # IoU from which a doubtful frame is a false alarm


@dataclass(frozen=True)
class OneObject:
    """Tracking one object in a session, from its mask; a `nbhelpers.benchmarks.runner.Benchmark`.

    Attributes:
        dataset: ``shell-game``: clips of `nbhelpers.benchmarks.shell_game`; ``davis2016-doubt``: the false alarms of
            doubtful frames on DAVIS 2016.
        folder: of DAVIS.
        tracker: catalog name, or a model.
        clips: names; default: all. Of shell games the name is the seed.
        start: ``mask`` or ``click``.
        frames: length of the shell games; of DAVIS the first so many.
        distractors: track what resembles the object, see `nbhelpers.models.label_propagation.LabelPropagation`.
        cache: folder where embeddings are kept between runs; empty for none.
    """

    dataset: str
    folder: str | Path = ""
    tracker: Any = None
    clips: tuple[str, ...] = ()
    start: str = "mask"
    frames: int | None = None
    distractors: bool | None = None
    cache: str | Path = ""
    kind = "identity"

    @property
    def measure_name(self) -> str:
        """What the first score is."""
        return "IoU" if self.dataset == "shell-game" else "false alarms"

    @property
    def _length(self) -> int:
        return self.frames or 60

    def names(self) -> list[str]:
        """The clips."""
        if self.dataset not in DATASETS:
            raise NbHelpersError("there is no such dataset", given=self.dataset, expected=", ".join(DATASETS))
        if self.dataset == "shell-game":
            return list(self.clips) or [str(seed) for seed in SEEDS]
        return list(self.clips) or opened_clips("davis2016", str(self.folder)).names

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        facts = {
            "dataset": self.dataset,
            "tracker": model_name("tracker", self.tracker),
            "prompt": f"{self.start} on the first frame",
            "distractors": self.distractors,
            "embeddings": "half precision" if self.cache else "as computed",
            "doubtful_iou": GOOD,
        }
        if self.dataset == "shell-game":
            return facts | {"frames": self._length, "taken": TAKEN, "named_within": NEAR, "kinds": list(KINDS)}
        return facts | {"frames": self.frames or "all"}

    def measure(self, name: str) -> dict[str, Any]:
        """IoU by frame, frames on which another instance is taken, and doubtful frames of a clip."""
        clip = _game(int(name), self._length) if self.dataset == "shell-game" else DavisClip(self, name)
        tracker = self._tracker()
        session = RotoSession(clip, tracker)
        truth = clip.mask(0)
        if self.start == "click":
            session.click(*map(float, deepest_points(truth, 1, 1)[0]))
        else:
            session.set_mask(truth)
        clock = time.perf_counter()
        for _ in session.propagate():
            pass
        seconds = time.perf_counter() - clock
        ious, wrong = [], []
        for frame in range(1, len(clip)):
            mask = session.mask(frame)
            ious.append(round(iou(mask, clip.mask(frame)), 4))
            others = [clip.mask(frame, instance) for instance in range(2, clip.instances + 1)]
            if any(np.count_nonzero(mask & other) > TAKEN * np.count_nonzero(other) for other in others if other.any()):
                wrong.append(frame)
        record = {"frames": len(clip), "iou": ious, "wrong": wrong, "doubtful": session.doubtful_frames()}
        return record | {"cost": {"prompts": 1, "seconds_a_frame": round(seconds / max(1, len(clip) - 1), 3)}}

    def _tracker(self) -> Any:
        """The tracker with the settings of this run."""
        tracker = resolve("tracker", self.tracker)
        if self.distractors is None and not self.cache:
            return tracker
        segmenter = CachedSegmenter(tracker.segmenter, self.cache) if self.cache else tracker.segmenter
        return type(tracker)(segmenter, tracker.name, distractors=self.distractors is not False)

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Mean IoU, clips that end on the right instance, switches that were named, and false alarms."""
        ious = [float(np.mean(record["iou"])) for record in records]
        right = [record["iou"][-1] >= FOUND and record["frames"] - 1 not in record["wrong"] for record in records]
        found = [(frame, record) for record in records for frame in switches(record["wrong"])]
        named = [any(abs(frame - each) <= NEAR for each in record["doubtful"]) for frame, record in found]
        alarms = sum(
            record["iou"][frame - 1] >= GOOD and frame not in record["wrong"]
            for record in records
            for frame in record["doubtful"]
            if frame
        )
        rate = alarms / max(1, sum(record["frames"] - 1 for record in records))
        shared = {"switches": len(found), "named": sum(named)}
        if self.dataset == "shell-game":
            return rounded({"iou": np.mean(ious), "right_at_end": sum(right), **shared, "false_alarms": rate})
        return rounded({"false_alarms": rate, "iou": np.mean(ious)})


def switches(wrong: Sequence[int]) -> list[int]:
    """The first frame of each run of frames on which another instance is taken.

    Runs apart by fewer than `NEAR` frames are one.
    """
    return [frame for frame in wrong if not any(frame - NEAR <= each < frame for each in wrong)]


class DavisClip:
    """The first ``frames`` of a clip of DAVIS in the ``folder`` of a benchmark, with their truth."""

    instances = 1

    def __init__(self, benchmark: Any, name: str):
        clips = opened_clips("davis2016", str(benchmark.folder))
        self._frames = ClipFrames(clips, name)
        self._truth = Truth(clips, self._frames)
        self.size = self._frames.size
        self._length = min(len(self._frames), benchmark.frames or len(self._frames))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._frames[index]

    def mask(self, frame: int, instance: int = 1) -> Bool[np.ndarray, "h w"]:
        """The object on a frame."""
        return self._truth.mask(frame, instance, self.size)


@lru_cache(maxsize=1)
def _material() -> tuple[list, dict[str, np.ndarray]]:
    """Cut-outs and photos of the shell games."""
    return sample_cut_outs(resolve("segmenter", None)), backgrounds([Path(sample(name)) for name in SCENES])


def _game(seed: int, frames: int) -> ShellGame:
    return shell_game(seed, *_material(), frames)
