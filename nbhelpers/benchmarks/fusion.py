"""Trackers with and without geometry on clips with true masks: the comparison of `nbhelpers.geometry_fusion`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.benchmarks.datasets import Clips
from nbhelpers.benchmarks.metrics import rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.benchmarks.video import ClipFrames, Truth, opened_clips
from nbhelpers.benchmarks.views import read_scene_masks
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import polygon_mask
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.scenes import Scene
from nbhelpers.core.video import Frames
from nbhelpers.geometry_fusion.comparison import (
    MEASURES,
    TrueMasks,
    compare_arms,
    geometry_source,
    make_arms,
    paired_interval,
    scene_of,
)
from nbhelpers.geometry_fusion.geometry import read_rgbd, views_of
from nbhelpers.geometry_fusion.synthetic import TEST_PHOTOS, SyntheticClip, load_textures, render_clip
from nbhelpers.geometry_fusion.tracker import MAX_MOTION
from nbhelpers.models.adapters import CachedSegmenter
from nbhelpers.models.geometry import SceneGeometry
from nbhelpers.models.label_propagation import LabelPropagation
from nbhelpers.models.protocols import FrameSequence, Tracker

DATASETS = {"twins-fusion": "given", "davis-fusion": "colmap", "redkitchen-fusion": "given", "kitchen-fusion": "colmap"}
"""The datasets, each with the source of its geometry when none is named."""
LAYOUT = "davis2016"
SEEDS = range(101, 111)  # of the synthetic clips; none of them is trained on


@dataclass(frozen=True, eq=False)
class FusionClip:
    """One object in one clip: the frames, its true masks, the prompt and its frame, and what is known of the scene."""

    frames: FrameSequence
    truth: TrueMasks
    prompt: Prompt
    frame: int = 0
    scene: Any = None


@dataclass(frozen=True)
class FusionComparison:
    """IoU of trackers with geometry against the same tracker without; a `nbhelpers.benchmarks.runner.Benchmark`.

    Attributes:
        dataset: ``twins-fusion``: ten synthetic clips of 20 frames with an object and its identical twin, the faces
            covered with photos that nothing is trained on; ``davis-fusion``: clips in the folders of DAVIS 2016, one
            object each; ``redkitchen-fusion``: four objects of the red kitchen of 7-Scenes, outlined by hand on some
            frames; ``kitchen-fusion``: two objects in nine photos of the Mip-NeRF 360 kitchen. The prompt is the
            true mask of the first frame on which the object is seen.
        folder: where they are; the synthetic clips need none.
        tracker: catalog name, or a model: the baseline.
        geometry: ``colmap``, ``given``, ``da3``, ``must3r``, ``vggt`` or ``off``; empty: that of `DATASETS`.
        arms: of `nbhelpers.geometry_fusion.comparison.ARMS`, the baseline first.
        first: number of frames of each clip of DAVIS; 0: all.
        step: of the red kitchen's frames; those with an outline are taken as well.
        scenes: for ``given`` on clips of DAVIS: a folder with cameras and depth for each clip, by the clip's name.
        cache: folder where embeddings and geometry are kept between runs; empty for none.
    """

    dataset: str
    folder: str | Path = ""
    tracker: Any = None
    geometry: str = ""
    arms: tuple[str, ...] = ("baseline", "geometry")
    first: int = 0
    step: int = 1
    scenes: str | Path = ""
    cache: str | Path = ""
    kind = "fusion"
    measure_name = "gain in IoU"

    def __post_init__(self):
        if self.dataset not in DATASETS or self.first < 0 or self.step < 1:
            raise NbHelpersError(
                "the comparison cannot be this",
                given=f"{self.dataset}, first {self.first}, step {self.step}",
                expected=f"{', '.join(DATASETS)}; first from 0, step from 1",
            )
        if not self.arms or self.arms[0] != "baseline":
            raise NbHelpersError(
                "the first arm is what the others are compared with", given=self.arms, expected="baseline"
            )

    @property
    def _source(self) -> str:
        return self.geometry or DATASETS[self.dataset]

    @property
    def _clips(self) -> Clips:
        return opened_clips(LAYOUT, str(self.folder))

    def names(self) -> list[str]:
        """The clips, or the objects of the only one."""
        if self.dataset == "twins-fusion":
            return [f"synthetic-{seed}" for seed in SEEDS]
        if self.dataset == "redkitchen-fusion":
            return list(_outlines())
        if self.dataset == "kitchen-fusion":
            return list(read_scene_masks("kitchen", Path(self.folder).expanduser(), "kitchen").objects)
        return self._clips.names

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        source = geometry_source(self._source)
        facts = {
            "dataset": self.dataset,
            "tracker": model_name("tracker", self.tracker),
            "geometry": "off" if source is None else source.name,
            "arms": list(self.arms),
            "prompt": "the true mask of the first frame on which the object is seen",
            "windows": False,
            "static_up_to": MAX_MOTION,
            "metric": "; ".join(f"{name}: {meaning}" for name, meaning in MEASURES.items()),
        }
        if self.dataset == "davis-fusion":
            facts["first_frames"] = self.first or "all"
        if self.dataset == "redkitchen-fusion":
            facts["step"] = self.step
        return facts

    def clip(self, name: str) -> FusionClip:
        """One item of the dataset.

        Raises:
            NbHelpersError: it is not there, or its files do not fit together.
        """
        folder = Path(self.folder).expanduser()
        if self.dataset == "twins-fusion":
            made = _synthetic(int(name.rpartition("-")[2]))
            masks = dict(enumerate(made.masks))
            return FusionClip(made, TrueMasks(masks), Prompt(mask=masks[0]), scene=made.scene)
        if self.dataset == "redkitchen-fusion":
            return _redkitchen(folder / "redkitchen" if (folder / "redkitchen").is_dir() else folder, name, self.step)
        if self.dataset == "kitchen-fusion":
            labelled = read_scene_masks("kitchen", folder, "kitchen")
            true = labelled.objects[name]
            truth = TrueMasks(true.masks, void=true.void)
            return FusionClip(Frames([str(each) for each in labelled.photos]), truth, Prompt(mask=true.masks[0]))
        whole = ClipFrames(self._clips, name)
        annotated = Truth(self._clips, whole)
        chosen = Frames([str(file) for file in whole.files])[: self.first or None]
        masks = {frame: annotated.mask(frame, 1, whole.size) for frame in annotated.frames if frame < len(chosen)}
        scene = scene_of(Path(self.scenes) / name) if self.scenes else None
        return FusionClip(chosen, TrueMasks(masks), Prompt(mask=masks[0]), scene=scene)

    def measure(self, name: str) -> dict[str, Any]:
        """All measures of each arm on one clip, and its IoU by frame."""
        clip = self.clip(name)
        with tempfile.TemporaryDirectory() as passing:
            kept = Path(self.cache or passing)
            clock = time.perf_counter()
            tracker = encode_once(resolve("tracker", self.tracker), clip.frames, kept / "embeddings")
            encoding = (time.perf_counter() - clock) / len(clip.frames)
            arms = make_arms(
                tracker,
                geometry_source(self._source),
                self.arms,
                scene=clip.scene if self._source == "given" else None,
                other=self._other(name) if "other" in self.arms else None,
                cache=kept / "geometry",
            )
            summary = compare_arms(arms, clip.frames, clip.prompt, clip.truth, clip.frame).summary()
        cost = {f"{arm}_seconds_a_frame": each["seconds_a_frame"] for arm, each in summary["arms"].items()}
        cost = {"prompts": 1, "image": round(encoding, 4), **cost}
        return {"arms": summary["arms"], "returns": summary["returns"], "cost": cost}

    def _other(self, name: str) -> Any:
        """Geometry of another clip, for the negative control."""
        if self.dataset != "twins-fusion":
            raise NbHelpersError("this control is for synthetic clips", given=f"other, {self.dataset}")
        order = self.names()
        other = _synthetic(int(order[order.index(name) - 1].rpartition("-")[2]))
        return SceneGeometry().encode(other, other.scene)

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means over the clips; of each arm the gain over the baseline with its paired 95 % interval."""
        names = list(records[0]["arms"])
        out: dict[str, Any] = {"gain": None}
        for arm in names:
            for key in MEASURES:
                values = [each["arms"][arm].get(key) for each in records]
                values = [value for value in values if value is not None]
                out[f"{arm}_{key}"] = float(np.mean(values)) if values else None
            if arm == names[0]:
                continue
            gains = [
                [each["arms"][arm]["frame_ious"][frame] - iou for frame, iou in base["frame_ious"].items()]
                for each in records
                for base in (each["arms"][names[0]],)
            ]
            prefix = "" if arm == names[1] else f"{arm}_"
            values = dict(zip(("gain", "gain_low", "gain_high"), paired_interval(gains), strict=True))
            out |= {f"{prefix}{key}": value for key, value in values.items()}
            out[f"{arm}_fell_back"] = sum(bool(each["arms"][arm].get("fell_back")) for each in records)
        return rounded(out)


def encode_once(tracker: Tracker, frames: FrameSequence, folder: Path) -> Tracker:
    """A tracker by label propagation whose embeddings of the clip are computed, so that all arms share them.

    It decodes no object in a window, since arms that tell instances apart by their places do not either. Any other
    tracker is returned unchanged.
    """
    if not isinstance(tracker, LabelPropagation):
        return tracker
    segmenter = CachedSegmenter(tracker.segmenter, folder)
    for number in range(len(frames)):
        segmenter.encode(frames[number])
    return LabelPropagation(segmenter, tracker.name, windows=False)


@lru_cache(maxsize=2)
def _synthetic(seed: int) -> SyntheticClip:
    return render_clip(seed, load_textures(TEST_PHOTOS))


def _outlines() -> dict[str, dict[str, list]]:
    """The red kitchen's outlines: object, frame, polygons; none where the object is out of sight."""
    text = files("nbhelpers.benchmarks").joinpath("redkitchen_outlines.json").read_text(encoding="utf-8")
    return json.loads(text)["objects"]


def _redkitchen(folder: Path, name: str, step: int) -> FusionClip:
    """An object of the red kitchen, with true depth and cameras; the prompted frame is not measured."""
    pictures, scene = _opened_redkitchen(str(folder))
    outlined = {int(frame) for frames in _outlines().values() for frame in frames}
    if max(outlined) >= len(pictures):
        raise NbHelpersError(
            "frames of the red kitchen are missing", given=len(pictures), expected=f"{max(outlined) + 1}"
        )
    chosen = sorted(outlined | set(range(0, len(pictures), step)))
    frames = Frames([str(pictures[number]) for number in chosen])
    masks = {}
    for frame, polygons in _outlines()[name].items():
        mask = np.zeros(frames.size, bool)
        for points in polygons:
            mask |= polygon_mask([tuple(point) for point in points], frames.size)
        masks[chosen.index(int(frame))] = mask
    first = min(frame for frame, mask in masks.items() if mask.any())
    truth = TrueMasks({frame: mask for frame, mask in masks.items() if frame != first})
    return FusionClip(frames, truth, Prompt(mask=masks[first]), first, views_of(scene, chosen))


@lru_cache(maxsize=1)
def _opened_redkitchen(folder: str) -> tuple[list[Path], Scene]:
    return read_rgbd(folder)
