"""Two or more trackers on the same clip and prompt, side by side: the arms, masks, measures, intervals, cost.

`write_comparison` leaves masks, videos, curves, figures and a page in a folder.
"""

from __future__ import annotations

import html
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import check_writable, file_stem, write_text
from nbhelpers.core.images import save_image
from nbhelpers.core.masks import contour_accuracy, decode_rle, encode_rle, iou, load_mask
from nbhelpers.core.mattes import Mattes
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.scenes import Scene
from nbhelpers.export.masks import save_mask
from nbhelpers.export.video import Video, overlay_frame, write_video
from nbhelpers.geometry_fusion.geometry import CONTROLS, falsify, read_rgbd
from nbhelpers.geometry_fusion.tracker import GeometryTracker
from nbhelpers.models.protocols import FrameSequence, GeometryEncoder, Tracker
from nbhelpers.models.values import Geometry

if TYPE_CHECKING:
    from torch import nn

OBJECT = 1
SUCCESS = 0.5
DRAWS = 2000  # of the bootstrap
CONFIDENCE = 0.95
MEASURES = {
    "iou": "mean IoU over all frames with a true mask; where the object is absent and the mask empty, 1",
    "recall": "Tracking Recall: mean IoU over the frames on which the object is present (also: positive IoU)",
    "accuracy": "mean IoU over the frames on which the object is present and the mask overlaps it",
    "success": "fraction of all frames with an IoU of 0.5 or more; absent and empty counts",
    "j_and_f": "mean of IoU and contour accuracy over all frames (DAVIS)",
    "returned": "mean IoU over the frames on which the object is present again after it was absent",
}
"""Each measure of `figures` and its definition; recall and accuracy are those of arXiv 2601.08831, section 4."""
NUMBER = re.compile(r"(\d+)(?!.*\d)")
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b")
WIDTH, HEIGHT, MARGIN = 760, 240, 34
COLUMNS = ("iou", "recall", "accuracy", "success", "j_and_f", "returned")


@dataclass(frozen=True, eq=False)
class TrueMasks:
    """True masks of some frames of a clip.

    Attributes:
        masks: by frame; frames without one are not measured.
        notes: what a person should know, e.g. how many frames have none.
        void: by frame, pixels that are not counted; all count on frames without one.
    """

    masks: Mapping[int, Bool[np.ndarray, "h w"]] = field(repr=False)
    notes: tuple[str, ...] = ()
    void: Mapping[int, Bool[np.ndarray, "h w"]] = field(default_factory=dict, repr=False)

    def counted(self, frame: int, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """A mask of a frame without the pixels that are not counted."""
        return mask & ~self.void[frame] if frame in self.void else mask

    @property
    def returns(self) -> list[int]:
        """Frames on which the object is present again, after it was present and then absent; in order."""
        seen = absent = False
        found = []
        for frame in sorted(self.masks):
            present = bool(self.masks[frame].any())
            absent = absent or (seen and not present)
            seen = seen or present
            if present and absent:
                found.append(frame)
        return found


@dataclass(frozen=True, eq=False)
class ArmResult:
    """One tracker's run over a clip.

    Attributes:
        name: of the arm.
        model: of the tracker.
        masks: RLE of each frame.
        scores: confidence on each frame.
        seconds: a frame, geometry included.
        memory: GB at the peak: of the GPU where it computes on one, else of the process so far.
        note: of the tracker's state, e.g. why it fell back.
        motion: fraction of cells that move, where it was measured.
        fell_back: whether a tracker with geometry tracked the clip without.
    """

    name: str
    model: str
    masks: list[dict[str, Any]] = field(repr=False)
    scores: list[float] = field(repr=False)
    seconds: float
    memory: float
    note: str = ""
    motion: float | None = None
    fell_back: bool = False

    def mask(self, frame: int) -> Bool[np.ndarray, "h w"]:
        """The mask of a frame."""
        return decode_rle(self.masks[frame])


def track(
    name: str,
    tracker: Tracker,
    frames: FrameSequence,
    prompt: Prompt,
    frame: int = 0,
    progress: Callable[[int], object] | None = None,
) -> ArmResult:
    """Track one prompted object through a clip, both ways from the prompted frame.

    Args:
        name: of the arm.
        tracker: that tracks.
        frames: the clip.
        prompt: on ``frame``.
        frame: where the object is prompted.
        progress: called with the number of frames done.

    Raises:
        NbHelpersError: a prompt outside the frame, no such frame.
    """
    prompt.check_inside(frames.size)
    began = time.perf_counter()
    state = tracker.open(frames)
    tracker.add(state, frame, OBJECT, prompt)
    masks: dict[int, dict] = {}
    scores: dict[int, float] = {}
    for stop in (len(frames) - 1, 0):
        for tracked in tracker.propagate(state, frame, stop):
            prediction = tracked.predictions[OBJECT]
            masks[tracked.frame] = encode_rle(prediction.best)
            scores[tracked.frame] = float(prediction.scores[prediction.choice])
            if progress is not None:
                progress(len(masks))
    seconds = (time.perf_counter() - began) / len(frames)
    motion = getattr(state, "motion", None)
    return ArmResult(
        name,
        tracker.name,
        [masks[number] for number in range(len(frames))],
        [scores[number] for number in range(len(frames))],
        seconds,
        _peak_memory(tracker.device),
        getattr(state, "note", ""),
        None if motion is None else motion.fraction,
        getattr(state, "geometry", True) is None,
    )


def _peak_memory(device: str) -> float:
    """GB: of the GPU, or of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def frame_ious(truth: TrueMasks, arm: ArmResult) -> dict[int, float]:
    """IoU of each frame that has a true mask."""
    return {
        frame: iou(truth.counted(frame, mask), truth.counted(frame, arm.mask(frame)))
        for frame, mask in sorted(truth.masks.items())
    }


def figures(truth: TrueMasks, arm: ArmResult, contours: bool = True) -> dict[str, float]:
    """The measures of `MEASURES`; NaN where no frame counts for one.

    Args:
        truth: true masks.
        arm: a run on the same clip.
        contours: whether J&F is computed, which costs a hundredth of a second a frame.
    """
    ious = frame_ious(truth, arm)
    present = {frame for frame, mask in truth.masks.items() if mask.any()}
    values = {
        "iou": list(ious.values()),
        "recall": [ious[frame] for frame in present],
        "accuracy": [ious[frame] for frame in present if ious[frame] > 0],
        "success": [float(value >= SUCCESS) for value in ious.values()],
        "returned": [ious[frame] for frame in truth.returns],
    }
    if contours:
        values["j_and_f"] = [
            (value + contour_accuracy(truth.counted(frame, truth.masks[frame]), truth.counted(frame, arm.mask(frame))))
            / 2
            for frame, value in ious.items()
        ]
    return {name: float(np.mean(each)) if each else float("nan") for name, each in values.items()}


def paired_interval(differences: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Mean of paired differences with its 95 % interval by bootstrap.

    Clips are drawn with replacement, and of each drawn clip its frames; with one clip, frames alone. The mean is that
    of the clips' means.

    Args:
        differences: of each clip, those of its frames.
        seed: of the draws.

    Returns:
        Mean, lower and upper end.

    Raises:
        NbHelpersError: no differences.
    """
    clips = [np.asarray(each, np.float64) for each in differences if len(each)]
    if not clips:
        raise NbHelpersError("there is nothing to compare", expected="frames with a true mask")
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(DRAWS):
        drawn = rng.integers(len(clips), size=len(clips))
        means.append(np.mean([clips[n][rng.integers(len(clips[n]), size=len(clips[n]))].mean() for n in drawn]))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(np.mean([clip.mean() for clip in clips])), float(low), float(high)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Arms on one clip; the first is the baseline.

    Attributes:
        arms: the runs.
        truth: true masks; None where there are none.
    """

    arms: tuple[ArmResult, ...]
    truth: TrueMasks | None

    def summary(self) -> dict[str, Any]:
        """All figures as plain values: of each arm, and of each arm against the baseline."""
        found: dict[str, Any] = {"definitions": MEASURES, "arms": {}, "notes": []}
        for arm in self.arms:
            found["arms"][arm.name] = {
                "model": arm.model,
                "seconds_a_frame": round(arm.seconds, 3),
                "peak_memory_gb": round(arm.memory, 3),
                "note": arm.note,
                "moving_cells": arm.motion,
                "fell_back": arm.fell_back,
            }
        if self.truth is None:
            found["notes"].append("no true masks were given, so nothing is measured but the cost")
            return found
        found["notes"] += list(self.truth.notes)
        found["returns"] = self.truth.returns
        base = frame_ious(self.truth, self.arms[0])
        for arm in self.arms:
            own = frame_ious(self.truth, arm)
            entry = found["arms"][arm.name]
            entry |= {name: _rounded(value) for name, value in figures(self.truth, arm).items()}
            entry["frame_ious"] = {str(frame): round(value, 4) for frame, value in own.items()}
            if arm is not self.arms[0]:
                mean, low, high = paired_interval([[own[frame] - base[frame] for frame in base]])
                entry["gain"] = {"iou": _rounded(mean), "interval": [_rounded(low), _rounded(high)]}
        return found


def _rounded(value: float) -> float | None:
    """Four digits; None for NaN, which JSON does not have."""
    return None if np.isnan(value) else round(value, 4)


def read_truth(folder: str | Path, frames: FrameSequence, every: int = 1, label: str | None = None) -> TrueMasks:
    """True masks of a folder of PNG files, one a frame, numbered as the frames are.

    Binary masks (0 and 255, or 0 and 1), soft edges (cut at one half), and CVAT's coloured export with its
    ``labelmap.txt`` are read. A file belongs to the frame whose name has its number, else to the frame that has it when
    every Nth frame of the clip was taken.

    Args:
        folder: with the masks; those of CVAT may lie in ``SegmentationClass`` below it.
        frames: the clip.
        every: N of the frames that were taken of the original clip.
        label: which one of the label map; the only one besides the background when left out.

    Raises:
        NbHelpersError: no masks, none of these frames, masks of another shape, or a label that is not there.
    """
    folder = Path(folder).expanduser()
    found = sorted(folder.glob("*.png")) or sorted(folder.glob("SegmentationClass/*.png"))
    if not found:
        raise NbHelpersError("there are no true masks", given=folder, expected="numbered .png files")
    colour = _label_colour(folder, label)
    numbers = {int(hit[1]): path for path in found if (hit := NUMBER.search(path.stem))}
    names = getattr(frames, "names", None)
    told = [int(hit[1]) if (hit := NUMBER.search(Path(str(name)).stem)) else None for name in names or ()]
    by_name = {number: frame for frame, number in enumerate(told) if number is not None}
    by_step = {frame * every: frame for frame in range(len(frames))}
    places = by_name if len(set(numbers) & set(by_name)) >= len(set(numbers) & set(by_step)) else by_step
    masks, resized = {}, 0
    for number, path in numbers.items():
        if number not in places:
            continue
        mask = _read_label(path, colour) if colour is not None else load_mask(path)
        if mask.shape != tuple(frames.size):
            mask, resized = _fitted(mask, frames.size, path), resized + 1
        masks[places[number]] = mask
    if not masks:
        raise NbHelpersError(
            "no true mask belongs to a frame of the clip",
            given=f"numbers {min(numbers)} to {max(numbers)}" if numbers else "files without numbers",
            expected=f"numbers of {len(frames)} frames, such as {sorted(places)[:3]}",
            do="give --every as it was when the frames were taken",
        )
    notes = []
    if missing := len(frames) - len(masks):
        notes.append(f"{missing} of {len(frames)} frames have no true mask and are not measured")
    if resized:
        notes.append(f"{resized} true masks had another size and were brought to that of the frames")
    return TrueMasks(masks, tuple(notes))


def _fitted(mask: Bool[np.ndarray, "h w"], size: Sequence[int], path: Path) -> Bool[np.ndarray, "h2 w2"]:
    """A mask at the frames' size, if it has their shape."""
    import cv2

    if abs(mask.shape[0] * size[1] / (mask.shape[1] * size[0]) - 1) > 0.02:
        raise NbHelpersError(
            "a true mask has another shape than the frames", given=f"{path.name}: {mask.shape}", expected=str(size)
        )
    return cv2.resize(mask.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST).astype(bool)


def _label_colour(folder: Path, label: str | None) -> tuple[int, ...] | None:
    """The colour of a label by CVAT's ``labelmap.txt``; None where there is no such file."""
    for path in (folder / "labelmap.txt", folder.parent / "labelmap.txt"):
        if path.is_file():
            break
    else:
        if label is not None:
            raise NbHelpersError("there is no label map", given=folder, expected="CVAT's labelmap.txt beside the masks")
        return None
    lines = [line.split(":") for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    colours = {parts[0]: tuple(int(each) for each in parts[1].split(",")) for parts in lines if len(parts) > 1}
    wanted = [name for name in colours if name != "background"] if label is None else [label]
    if len(wanted) != 1 or wanted[0] not in colours:
        raise NbHelpersError(
            "the label map does not say which label is meant", given=label, expected=f"one of {', '.join(colours)}"
        )
    return colours[wanted[0]]


def _read_label(path: Path, colour: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """Where a coloured mask has a colour."""
    from nbhelpers.core.images import load_image

    return (load_image(path) == np.array(colour, np.uint8)).all(2)


def read_predictions(name: str, folder: str | Path, frames: FrameSequence) -> ArmResult:
    """The masks of an earlier run, one PNG a frame, as an arm without cost."""
    found = sorted(Path(folder).expanduser().glob("*.png"))
    if len(found) != len(frames):
        raise NbHelpersError("masks and frames differ in number", given=f"{len(found)}", expected=f"{len(frames)}")
    masks = [encode_rle(load_mask(path, frames.size)) for path in found]
    return ArmResult(name, "read", masks, [1.0] * len(masks), 0.0, 0.0)


def compare_arms(
    arms: Mapping[str, Tracker] | Iterable[tuple[str, Tracker]],
    frames: FrameSequence,
    prompt: Prompt,
    truth: TrueMasks | None = None,
    frame: int = 0,
    progress: Callable[[str, int], object] | None = None,
) -> Comparison:
    """Run all arms on one clip and prompt.

    Example:
        >>> comparison = compare_arms({"baseline": tracker, "geometry": fused}, frames, Prompt([(180, 296)]), truth)
        >>> comparison.summary()["arms"]["geometry"]["gain"]

    Args:
        arms: trackers by name; the first is the baseline.
        frames: the clip.
        prompt: on ``frame``.
        truth: true masks, where they are known.
        frame: where the object is prompted.
        progress: called with the arm's name and the number of frames done.

    Raises:
        NbHelpersError: a prompt outside the frame, or no such frame.
    """
    if not 0 <= frame < len(frames):
        raise NbHelpersError("the clip has no such frame", given=frame, expected=f"0 to {len(frames) - 1}")
    if truth is not None and frame in truth.masks and not truth.masks[frame].any():
        note = f"by its true mask the object is absent on frame {frame}, where it is prompted"
        truth = replace(truth, notes=(*truth.notes, note))
    runs = []
    pairs = cast("Iterable[tuple[str, Tracker]]", arms.items() if isinstance(arms, Mapping) else arms)
    for name, tracker in pairs:
        step = None if progress is None else (lambda done, name=name: progress(name, done))
        runs.append(track(name, tracker, frames, prompt, frame, step))
    return Comparison(tuple(runs), truth)


def differences(comparison: Comparison, arm: int = 1) -> Float64[np.ndarray, " n"]:
    """IoU of an arm less that of the baseline, frame by frame.

    Raises:
        NbHelpersError: there are no true masks.
    """
    if comparison.truth is None:
        raise NbHelpersError("there is nothing to compare", expected="frames with a true mask")
    base = frame_ious(comparison.truth, comparison.arms[0])
    own = frame_ious(comparison.truth, comparison.arms[arm])
    return np.array([own[frame] - base[frame] for frame in base])


VARIABLE = "NBHELPERS_GEOMETRY"
SOURCES = {
    "colmap": "colmap-geometry",
    "given": "given-geometry",
    "vggt": "vggt-1b-geometry",
    "da3": "da3-base",
    "must3r": "must3r-512",
}
ARMS = {
    "baseline": "the tracker as it is",
    "geometry": "the merger, or the kernel where there is none, and the memory of places",
    "merger": "the merger alone",
    "kernel": "places compared by a kernel, without learning; label propagation only",
    "places": "the memory of places alone; label propagation only",
    "reprompt": "the prompted mask lifted to space, and its places given as a prompt when the object returns",
    **{name: f"as geometry, with {name} geometry: a negative control" for name in CONTROLS},
}
"""Arms by name; each but the first is wrapped around the baseline's tracker."""
OFF = ("", "0", "off", "none")


def geometry_source(name: str | None = None, device: str | None = None) -> GeometryEncoder | None:
    """The geometry encoder of a name; None where geometry is switched off.

    Args:
        name: one of `SOURCES`, a name of the catalog, or ``"off"``. Left out: the variable ``NBHELPERS_GEOMETRY``, else
            ``"colmap"``.
        device: where it computes.

    Raises:
        NbHelpersError: no such source; one that is not here; one whose licence is not accepted.
    """
    from nbhelpers.models.load import load

    wanted = os.environ.get(VARIABLE, "colmap") if name is None else name
    if wanted.lower() in OFF:
        return None
    return load("geometry_encoder", SOURCES.get(wanted, wanted), device)


def backbone_of(tracker: Tracker) -> str:
    """Name of the network whose features a tracker compares: a merger is trained for one."""
    return getattr(tracker, "segmenter", tracker).name


def default_merger(tracker: Tracker) -> nn.Module | None:
    """The merger in the package where it is of the tracker's backbone; else None."""
    from nbhelpers.geometry_fusion.merger import PACKAGED, inspect_checkpoint, load_merger

    if PACKAGED.is_file() and inspect_checkpoint(PACKAGED).backbone == backbone_of(tracker):
        return load_merger()
    return None


def scene_of(path: str | Path | None) -> Callable[[FrameSequence], Scene] | None:
    """What a folder tells of cameras and depth, for the frames that are asked about; None without a folder."""
    if path is None:
        return None

    def matching(frames: FrameSequence) -> Scene:
        names = getattr(frames, "names", None)
        pictures, scene = read_rgbd(path, None if names is None else [Path(str(name)).name for name in names])
        if len(pictures) != len(frames):
            raise NbHelpersError(
                "the folder does not tell cameras and depth of all frames",
                given=f"{path}: {len(pictures)} of {len(frames)}",
            )
        return scene

    return matching


def make_arms(
    tracker: Tracker,
    encoder: GeometryEncoder | None,
    names: Iterable[str] = ("baseline", "geometry"),
    *,
    merger: nn.Module | None = None,
    scene: Scene | Callable[[FrameSequence], Scene | None] | None = None,
    other: Geometry | None = None,
    max_motion: float | None = None,
    cache: str | Path | None = None,
) -> dict[str, Tracker]:
    """Trackers by name, for `nbhelpers.geometry_fusion.comparison.compare_arms`.

    Example:
        >>> make_arms(tracker, geometry_source("colmap"), ["baseline", "geometry", "shuffled"], merger=load_merger())

    Without a merger of its backbone, label propagation has the kernel for its arm ``geometry``, and SAM 2's video
    network ``reprompt``. Negative controls never fall back: it is to be seen what false geometry does.

    Args:
        tracker: the baseline.
        encoder: of the geometry; None leaves the baseline alone.
        names: of `ARMS`.
        merger: trained; that of the package where it fits when left out.
        scene: for the encoder of given scenes.
        other: geometry of another clip, for the control ``other``.
        max_motion: see `GeometryTracker`.
        cache: folder where geometry is kept.

    Raises:
        NbHelpersError: no such arm; an arm that the tracker or a missing merger cannot do.
    """
    from nbhelpers.geometry_fusion.merger import PlaceKernel

    merger = default_merger(tracker) if merger is None else merger
    votes = hasattr(tracker, "segmenter")
    merged = PlaceKernel() if merger is None and votes else merger
    common = {"scene": scene, "cache": cache}
    if max_motion is not None:
        common["max_motion"] = max_motion
    arms: dict[str, Tracker] = {}
    for name in names:
        if name not in ARMS:
            raise NbHelpersError("there is no such arm", given=name, expected=", ".join(ARMS))
        if name == "baseline":
            arms[name] = tracker
        if name == "baseline" or encoder is None:
            continue
        if name in ("kernel", "places") and not votes:
            raise NbHelpersError("this arm needs label propagation", given=f"{name} with {tracker.name}")
        if name == "merger" and merger is None:
            raise NbHelpersError(
                "there is no merger of this backbone", given=backbone_of(tracker), do="nbhelpers geometry-fusion train"
            )
        if name == "kernel":
            arms[name] = GeometryTracker(tracker, encoder, PlaceKernel(), places=False, **common)
        elif name == "places":
            arms[name] = GeometryTracker(tracker, encoder, None, places=True, **common)
        elif name == "merger":
            arms[name] = GeometryTracker(tracker, encoder, merger, places=False, **common)
        elif name == "reprompt" or (merger is None and not votes):
            arms[name] = GeometryTracker(tracker, encoder, None, places=False, reprompt=True, **common)
        elif name == "geometry":
            arms[name] = GeometryTracker(tracker, encoder, merged, places=votes, reprompt=not votes, **common)
        else:
            change = lambda geometry, name=name: falsify(geometry, name, other)  # noqa: E731
            control = {**common, "max_motion": 1.0, "change": change}
            arms[name] = GeometryTracker(tracker, encoder, merged, places=votes, **control)
    return arms


class SideBySide:
    """The overlays of all arms next to each other, as a clip of its own."""

    def __init__(self, frames: FrameSequence, comparison: Comparison):
        self.frames, self.comparison = frames, comparison
        self.size = (frames.size[0], frames.size[1] * len(comparison.arms))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return np.hstack(
            [arm_overlay(self.frames, self.comparison, arm, index) for arm in range(len(self.comparison.arms))]
        )


def arm_overlay(frames: FrameSequence, comparison: Comparison, arm: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
    """A frame with an arm's mask tinted; green is the true outline where it is known."""
    import cv2

    mask = comparison.arms[arm].mask(index)
    picture = overlay_frame(frames[index], {"object": np.where(mask, 255, 0).astype(np.uint8)})
    if comparison.truth is not None and index in comparison.truth.masks:
        lines, _ = cv2.findContours(
            comparison.truth.masks[index].astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE
        )
        cv2.drawContours(picture, lines, -1, (60, 220, 90), max(1, round(max(picture.shape) / 500)), cv2.LINE_AA)
    return picture


def write_comparison(comparison: Comparison, frames: FrameSequence, folder: str | Path, *, videos: bool = True) -> Path:
    """Write all that a comparison found; return the folder.

    ``pred_masks_<arm>/0000.png``, ``<arm>.mp4``, ``side_by_side.mp4``, ``curves.svg``, ``comparison.json`` and
    ``comparison.html``.

    Args:
        comparison: of `nbhelpers.geometry_fusion.comparison.compare_arms`.
        frames: the clip.
        folder: made if it is missing.
        videos: whether MP4s are encoded.

    Raises:
        NbHelpersError: the folder cannot be written; no video encoder.
    """
    folder = Path(folder).expanduser()
    check_writable(folder)
    for arm in comparison.arms:
        stem = file_stem(arm.name)
        for number in range(len(frames)):
            save_mask(folder / f"pred_masks_{stem}" / f"{number:04d}.png", arm.mask(number))
        if videos:
            write_video(Video(folder / f"{stem}.mp4", "overlay"), Mattes(frames, arm.mask), replace=True)
    if videos:
        joined = SideBySide(frames, comparison)
        write_video(Video(folder / "side_by_side.mp4", "overlay"), Mattes(joined, lambda index: {}), replace=True)
    shown = telling_frames(comparison)[0]
    picture = np.hstack([arm_overlay(frames, comparison, arm, shown) for arm in range(len(comparison.arms))])
    save_image(folder / "frame.png", picture)
    summary = comparison.summary()
    write_text(folder / "curves.svg", curves(comparison))
    write_text(folder / "comparison.json", json.dumps(summary, indent=1))
    write_text(folder / "comparison.html", _page(comparison, summary, shown, videos))
    return folder


def telling_frames(comparison: Comparison, count: int = 1) -> list[int]:
    """The frames on which the second arm differs most from the first, in order; the first ones without true masks."""
    frames = len(comparison.arms[0].masks)
    if comparison.truth is None or len(comparison.arms) < 2:
        return list(range(min(count, frames)))
    base, other = (frame_ious(comparison.truth, arm) for arm in comparison.arms[:2])
    return sorted(sorted(base, key=lambda frame: -abs(other[frame] - base[frame]))[:count])


def curves(comparison: Comparison) -> str:
    """IoU by frame of all arms, as SVG in the text colour; frames on which the object has returned are shaded."""
    count = len(comparison.arms[0].masks)
    step = (WIDTH - 2 * MARGIN) / max(1, count - 1)

    def place(frame: float, value: float) -> str:
        return f"{MARGIN + frame * step:.1f},{HEIGHT - MARGIN - value * (HEIGHT - 2 * MARGIN):.1f}"

    parts, means = (
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" '
            f'style="max-width:{WIDTH}px" fill="currentColor" font-family="sans-serif" font-size="11">'
        ],
        [],
    )
    truth = comparison.truth
    for frame in truth.returns if truth is not None else ():
        x = MARGIN + (frame - 0.5) * step
        parts.append(
            f'<rect x="{x:.1f}" y="{MARGIN}" width="{step:.1f}" height="{HEIGHT - 2 * MARGIN}" fill="#ffe9a8"/>'
        )
    for value in (0, 0.5, 1):
        start, end = place(0, value), place(count - 1, value)
        parts.append(f'<polyline points="{start} {end}" stroke="#bbb" fill="none"/>')
        parts.append(f'<text x="4" y="{float(start.split(",")[1]) + 4:.1f}">{value:g}</text>')
    for number, arm in enumerate(comparison.arms):
        colour = COLOURS[number % len(COLOURS)]
        values = frame_ious(truth, arm) if truth is not None else dict(enumerate(arm.scores))
        means.append(f"{arm.name} {np.mean(list(values.values())):.2f}")
        line = " ".join(place(frame, value) for frame, value in values.items())
        parts.append(f'<polyline points="{line}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts.append(f'<text x="{MARGIN + 150 * number}" y="16" fill="{colour}">{html.escape(arm.name)}</text>')
    what = "frame (shaded: the object has returned)" if truth is not None else "frame; confidence, no true masks given"
    measure = "IoU" if truth is not None else "Confidence"
    parts.insert(1, f"<title>{measure} by frame; means: {html.escape(', '.join(means))}</title>")
    parts.append(f'<text x="{WIDTH // 2 - 90}" y="{HEIGHT - 8}">{what}</text></svg>')
    return "\n".join(parts)


def _page(comparison: Comparison, summary: dict, shown: int, videos: bool) -> str:
    """The page."""
    rows = []
    for name, entry in summary["arms"].items():
        cells = ["" if entry.get(key) is None else f"{entry[key]:.3f}" for key in COLUMNS]
        gain = entry.get("gain")
        told = f"{gain['iou']:+.3f} ({gain['interval'][0]:+.3f} to {gain['interval'][1]:+.3f})" if gain else ""
        cost = [f"{entry['seconds_a_frame']:.2f} s", f"{entry['peak_memory_gb']:.1f} GB"]
        cells = [html.escape(name), *cells, told, *cost, html.escape(entry["note"])]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ["arm", *COLUMNS, "gain in IoU (95 %)", "a frame", "memory", "note"]
    head = "".join(f"<th>{each}</th>" for each in heads)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in summary["notes"])
    defined = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in MEASURES.items())
    video = '<video src="side_by_side.mp4" controls loop muted width="100%"></video>' if videos else ""
    names = ", ".join(html.escape(arm.name) for arm in comparison.arms)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>With and without geometry</title>
<style>body{{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse}}td,th{{padding:.2em .6em;border-bottom:1px solid #ccc;text-align:left}}
img{{max-width:100%}}</style></head><body>
<h1>With and without geometry</h1>
<table><tr>{head}</tr>{"".join(rows)}</table>{notes}
{curves(comparison)}
<p>Frame {shown}, from left to right: {names}. Green: the true outline.</p>
<img src="frame.png" alt="The masks of all arms on one frame">{video}
<h2>Measures</h2><dl>{defined}</dl></body></html>
"""
