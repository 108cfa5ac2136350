"""Steadiness of mattes over time: how much of the opacity at the rim changes that does not move with the picture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from nbhelpers.benchmarks.identity import DavisClip
from nbhelpers.benchmarks.metrics import rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.benchmarks.video import opened_clips
from nbhelpers.core.masks import distance_to
from nbhelpers.core.mattes import UNKNOWN, Mattes, MatteSettings, make_trimap
from nbhelpers.core.video.frames import optical_flow
from nbhelpers.rotoscoping.session import RotoSession

DATASETS = ("davis2016-mattes",)
TREMBLE = 2.0  # pixels, the standard deviation of an outline that trembles
WAVE = 12  # pixels, the sigma by which its noise is smoothed
RIM = 12  # pixels on each side of the true outline that are compared


@dataclass(frozen=True)
class MatteSteadiness:
    """Mattes of DAVIS 2016, each refinement with and without smoothing; a `nbhelpers.benchmarks.runner.Benchmark`.

    Masks are those of a tracker, or true ones whose outline trembles from frame to frame. Both errors are of opacities
    of 0 to 1 in the rim of the true mask: ``change``, the mean absolute difference of a matte to the next one, taken
    back along the optical flow; and ``dtssd``, the root of the mean squared difference between the changes of the matte
    and of the true mask (dtSSD of Erofeev et al. 2015, BMVC, doi 10.5244/C.29.99).

    Attributes:
        folder: of DAVIS.
        refinements: of `MatteSettings`: pixels of the guided filter, 0 for none, or ``"vitmatte"``.
        steady: of `MatteSettings`, likewise each.
        tracker: catalog name, or a model; None: the true masks, trembling.
        matting: catalog name, or a model, for ``"vitmatte"``.
        clips: names; default: all.
        frames: of each clip the first so many.
    """

    folder: str | Path
    refinements: tuple[int | str, ...] = (0, 12)
    steady: tuple[int, ...] = (0, 1)
    tracker: Any = None
    matting: Any = None
    clips: tuple[str, ...] = ()
    frames: int | None = 20
    kind = "mattes"
    measure_name = "change"
    dataset = DATASETS[0]

    def names(self) -> list[str]:
        """The clips."""
        return list(self.clips) or opened_clips("davis2016", str(self.folder)).names

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        masks = f"true, trembling by {TREMBLE} pixels, smooth over {WAVE}"
        return {
            "dataset": self.dataset,
            "masks": masks if self.tracker is None else model_name("tracker", self.tracker),
            "refinements": list(self.refinements),
            "matting": model_name("matting", self.matting) if "vitmatte" in self.refinements else None,
            "steady": list(self.steady),
            "rim": RIM,
            "frames": self.frames or "all",
        }

    def measure(self, name: str) -> dict[str, Any]:
        """Change, dtSSD and seconds a frame of each combination, and the change of the true masks."""
        clip: Any = DavisClip(self, name)
        count = len(clip)
        truth = [clip.mask(frame) for frame in range(count)]
        masks = [trembling(mask, seed) for seed, mask in enumerate(truth)]
        if self.tracker is not None:
            masks = self._track(clip)
        greys = [cv2.cvtColor(clip[frame], cv2.COLOR_RGB2GRAY) for frame in range(count)]
        flows = [optical_flow(here, there, fast=True) for here, there in pairwise(greys)]
        rims = [make_trimap(mask, RIM) == UNKNOWN for mask in truth]
        hard = [mask.astype(np.float32) for mask in truth]
        record: dict[str, Any] = {"cost": {}}
        for refine in self.refinements:
            matting = resolve("matting", self.matting).alphas if isinstance(refine, str) else None
            for steady in self.steady:
                mattes = Mattes(clip, masks, MatteSettings(refine=refine, steady=steady), matting=matting)
                clock = time.perf_counter()
                alphas = [mattes.make(frame, dtype=np.float32) for frame in range(count)]
                key = f"{refine}, steady {steady}"
                record[key] = steadiness(alphas, hard, rims, flows)
                record["cost"][key] = round((time.perf_counter() - clock) / count, 4)
        return record | {"truth": {"change": steadiness(hard, hard, rims, flows)["change"]}}

    def _track(self, clip: Any) -> list[Bool[np.ndarray, "h w"]]:
        """The masks of the tracker, from the true one on the first frame."""
        session = RotoSession(clip, resolve("tracker", self.tracker))
        session.set_mask(clip.mask(0))
        for _ in session.propagate():
            pass
        return [session.mask(frame) for frame in range(len(clip))]

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means over the clips of each error and combination."""
        keys = [key for key in records[0] if isinstance(records[0][key], Mapping) and key != "cost"]
        means = {
            f"{error}: {key}": np.mean([record[key][error] for record in records])
            for error in ("change", "dtssd")
            for key in keys
            if error in records[0][key]
        }
        return rounded(means)


def trembling(mask: Bool[np.ndarray, "h w"], seed: int) -> Bool[np.ndarray, "h w"]:
    """The mask with its outline displaced by smooth noise."""
    noise = np.random.default_rng(seed).normal(size=mask.shape).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), WAVE)
    outwards = np.where(mask, distance_to(~mask), -distance_to(mask))
    return outwards > TREMBLE * noise / noise.std()


def steadiness(
    alphas: Sequence[Float32[np.ndarray, "h w"]],
    truth: Sequence[Float32[np.ndarray, "h w"]],
    rims: Sequence[Bool[np.ndarray, "h w"]],
    flows: Sequence[Float32[np.ndarray, "h w 2"]],
) -> dict[str, float]:
    """``change`` and ``dtssd`` of `MatteSteadiness`: means over the pairs of frames with a rim.

    Args:
        alphas: of successive frames.
        truth: likewise.
        rims: where they are compared.
        flows: from each frame to the next.
    """
    changes, errors = [], []
    places = np.stack(np.meshgrid(*map(np.arange, alphas[0].shape[::-1])), -1).astype(np.float32)
    for number, (flow, rim) in enumerate(zip(flows, rims, strict=False)):
        if rim.any():
            moved = places + flow
            there = cv2.remap(alphas[number + 1], moved, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            changes.append(np.abs(there - alphas[number])[rim].mean())
            step, true_step = (each[number + 1] - each[number] for each in (alphas, truth))
            errors.append(np.sqrt(((step - true_step)[rim] ** 2).mean()))
    return {"change": round(float(np.mean(changes)), 5), "dtssd": round(float(np.mean(errors)), 5)}
