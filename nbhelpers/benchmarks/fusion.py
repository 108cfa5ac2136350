"""Trackers with and without geometry on clips with true masks: the comparison of `nbhelpers.geometry_fusion`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.benchmarks.datasets import Clips
from nbhelpers.benchmarks.metrics import rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.benchmarks.video import ClipFrames, Truth, opened_clips
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.geometry_fusion.arms import geometry_source, make_arms, scene_of
from nbhelpers.geometry_fusion.comparison import MEASURES, TrueMasks, compare_arms, paired_interval

DATASETS = ("davis-fusion",)
LAYOUT = "davis2016"


@dataclass(frozen=True)
class FusionComparison:
    """IoU of trackers with geometry against the same tracker without; a `nbhelpers.benchmarks.runner.Benchmark`.

    Attributes:
        folder: of clips in the folders of DAVIS, one object each; prompted by the true mask of the first frame.
        tracker: catalog name, or a model: the baseline.
        geometry: ``colmap``, ``given``, ``da3``, ``must3r``, ``vggt`` or ``off``; see `geometry_source`.
        arms: of `nbhelpers.geometry_fusion.arms.ARMS`, the baseline first.
        scenes: for ``given``: a folder with cameras and depth for each clip, by the clip's name.
        cache: folder where geometry is kept between runs; empty for none.
    """

    folder: str | Path
    tracker: Any = None
    geometry: str | None = None
    arms: tuple[str, ...] = ("baseline", "geometry")
    scenes: str | Path = ""
    cache: str | Path = ""
    kind = "fusion"
    measure_name = "gain in IoU"
    dataset = DATASETS[0]

    @property
    def _clips(self) -> Clips:
        return opened_clips(LAYOUT, str(self.folder))

    def names(self) -> list[str]:
        """The clips."""
        if not self.arms or self.arms[0] != "baseline":
            raise NbHelpersError(
                "the first arm is what the others are compared with", given=self.arms, expected="baseline"
            )
        return self._clips.names

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        source = geometry_source(self.geometry)
        return {
            "dataset": self.dataset,
            "tracker": model_name("tracker", self.tracker),
            "geometry": "off" if source is None else source.name,
            "arms": list(self.arms),
            "prompt": "the true mask of the first frame",
            "metric": "; ".join(f"{name}: {meaning}" for name, meaning in MEASURES.items()),
        }

    def measure(self, name: str) -> dict[str, Any]:
        """All measures of each arm on one clip, and its IoU by frame."""
        frames = ClipFrames(self._clips, name)
        truth = Truth(self._clips, frames)
        masks = {frame: truth.mask(frame, 1, frames.size) for frame in truth.frames}
        arms = make_arms(
            resolve("tracker", self.tracker),
            geometry_source(self.geometry),
            self.arms,
            scene=scene_of(Path(self.scenes) / name) if self.scenes else None,
            cache=Path(self.cache) / name if self.cache else None,
        )
        summary = compare_arms(arms, frames, Prompt(mask=masks[0]), TrueMasks(masks)).summary()
        cost = {f"{arm}_seconds_a_frame": each["seconds_a_frame"] for arm, each in summary["arms"].items()}
        return {"arms": summary["arms"], "returns": summary["returns"], "cost": {"prompts": 1, **cost}}

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means over the clips, and the gain of the last arm over the baseline with its paired 95 % interval."""
        names = list(records[0]["arms"])
        gains = [
            [
                each["arms"][names[-1]]["frame_ious"][frame] - iou
                for frame, iou in each["arms"][names[0]]["frame_ious"].items()
            ]
            for each in records
        ]
        mean, low, high = paired_interval(gains)
        out: dict[str, Any] = {"gain": mean, "gain_low": low, "gain_high": high}
        for arm in names:
            for key in MEASURES:
                values = [each["arms"][arm].get(key) for each in records]
                values = [value for value in values if value is not None]
                out[f"{arm}_{key}"] = float(np.mean(values)) if values else None
        return rounded(out)
