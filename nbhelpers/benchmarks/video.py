"""Clips: J&F of video object segmentation from a mask, from a click, and after correcting clicks; steadiness of mattes.

Mattes are steady if the opacity at the rim changes only where it moves with the picture.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from nbhelpers.benchmarks.datasets import Clips
from nbhelpers.benchmarks.metrics import rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import image_size, load_image, save_image
from nbhelpers.core.masks import components, deepest_points, distance_to, score_clip, summarize, tight_box
from nbhelpers.core.mattes import UNKNOWN, Mattes, MatteSettings, make_trimap
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.video import optical_flow
from nbhelpers.rotoscoping.session import RotoSession

STARTS = ("mask", "click")
Masks = dict[int, Bool[np.ndarray, "h w"]]
MATTE_DATASETS = ("davis2016-mattes",)
TREMBLE = 2.0  # pixels, the standard deviation of an outline that trembles
WAVE = 12  # pixels, the sigma by which its noise is smoothed
RIM = 12  # pixels on each side of the true outline that are compared


@lru_cache(maxsize=4)
def opened_clips(dataset: str, folder: str) -> Clips:
    """`Clips`, whose folders are listed once in a process."""
    return Clips(dataset, folder)


class ClipFrames:
    """The frames of one clip, decoded on access; a `nbhelpers.models.protocols.FrameSequence`."""

    def __init__(self, clips: Clips, clip: str):
        self.name, self.files = clip, clips.frames(clip)
        if not self.files:
            raise NbHelpersError("the clip has no frames", given=clips.root / clips.layout.images / clip)
        self.size = image_size(self.files[0])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return load_image(self.files[index])


class Truth:
    """The annotated frames of a clip, by their index; read on access."""

    def __init__(self, clips: Clips, frames: ClipFrames):
        stems = {path.stem: index for index, path in enumerate(frames.files)}
        annotated = clips.annotated(frames.name)
        if lost := [stem for stem in annotated if stem not in stems]:
            raise NbHelpersError("frames of masks are missing", given=f"{frames.name}: {', '.join(lost[:4])}")
        if not annotated or (clips.dataset.startswith("davis") and len(annotated) != len(frames)):
            raise NbHelpersError(
                "masks are missing", given=f"{frames.name}: {len(annotated)} of {len(frames)} frames have one"
            )
        self._clips, self._clip = clips, frames.name
        self._stems = {stems[stem]: stem for stem in annotated}
        self.frames = sorted(self._stems)

    def masks(self, frame: int) -> Masks:
        """The objects of a frame."""
        return self._clips.masks(self._clip, self._stems[frame])

    def mask(self, frame: int, number: int, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """One object of a frame; empty where it is not there.

        Raises:
            NbHelpersError: the mask has another size than the frame.
        """
        found = self.masks(frame).get(number)
        if found is not None and found.shape != size:
            raise NbHelpersError(
                "frame and mask differ in size", given=f"{self._clip}, frame {frame}: {size}, {found.shape}"
            )
        return np.zeros(size, bool) if found is None else found


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


@dataclass(frozen=True)
class VideoObjects:
    """J&F of a tracker on clips; a `nbhelpers.benchmarks.runner.Benchmark`.

    Attributes:
        dataset: of `nbhelpers.benchmarks.datasets.VIDEO_LAYOUTS`.
        folder: of it.
        tracker: catalog name, or a model.
        starts: ``mask``: the true mask of the first frame of an object; ``click``: one click at its deepest point.
        corrections: clicks after those of ``click``: each on the frame of the lowest J&F, at the deepest point of the
            largest error; the clip is then tracked from there, both ways.
        clips: names; default: all.
        step: 3 tracks every third frame and interpolates the masks between, as a draft does.
    """

    dataset: str
    folder: str | Path
    tracker: Any = None
    starts: tuple[str, ...] = ("mask",)
    corrections: int = 0
    clips: tuple[str, ...] = ()
    step: int = 1
    kind = "video"
    measure_name = "J&F"

    def __post_init__(self):
        if not self.starts or set(self.starts) - set(STARTS):
            raise NbHelpersError("there is no such start", given=self.starts, expected=", ".join(STARTS))

    def names(self) -> list[str]:
        """The clips."""
        known = opened_clips(self.dataset, str(self.folder)).names
        if missing := set(self.clips) - set(known):
            raise NbHelpersError("there are no such clips", given=", ".join(sorted(missing)), expected=", ".join(known))
        return list(self.clips) or known

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        return {
            "dataset": self.dataset,
            "tracker": model_name("tracker", self.tracker),
            "start": " and ".join(self.starts),
            "corrections": self.corrections,
            **({"step": self.step} if self.step > 1 else {}),
            "metric": "J and F of davis2017-evaluation; mean over objects; the first and the last frame not counted",
            "void": "is background, as there",
        }

    def measure(self, name: str) -> dict[str, Any]:
        """J, F, recall and decay of each object, for each start and after each correction."""
        tracker = resolve("tracker", self.tracker)
        clips = opened_clips(self.dataset, str(self.folder))
        frames = ClipFrames(clips, name)
        truth = Truth(clips, frames)
        record: dict[str, Any] = {"frames": len(frames)}
        prompts, tracking, tracked = 0, 0.0, 0
        for start in self.starts:
            run = Tracking(tracker, frames, truth, self.step)
            prompts += run.start(start)
            clock = time.perf_counter()
            run.propagate()
            tracking, tracked = tracking + time.perf_counter() - clock, tracked + len(frames)
            record[start] = run.figures()
            record[f"{start}_by_frame"] = {str(each): run.scores(each).round(4).tolist() for each in run.first}
            if start == "click":
                record["corrected"] = []
                for _ in range(self.corrections):
                    where = run.correct()
                    prompts += 1
                    record["corrected"].append({**where, "objects": run.figures()})
        record["cost"] = {"prompts": prompts, "seconds_a_frame": round(tracking / max(1, tracked), 3)}
        return record

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means over all objects of all clips, as davis2017-evaluation has them."""
        out: dict[str, Any] = {}
        for start in self.starts:
            objects = [each for record in records for each in record[start].values()]
            prefix = "" if start == self.starts[0] else f"{start}_"
            out |= {f"{prefix}{key}": _mean(objects, key) for key in ("jf", "j", "f", "j_recall", "j_decay")}
        for number in range(self.corrections if "click" in self.starts else 0):
            objects = [each for record in records for each in record["corrected"][number]["objects"].values()]
            out[f"jf_after_{number + 1}"] = _mean(objects, "jf")
        out["objects"] = sum(len(record[self.starts[0]]) for record in records)
        return rounded(out)


def _mean(objects: Sequence[Mapping[str, float]], key: str) -> float:
    return float(np.mean([each[key] for each in objects])) if objects else float("nan")


class Tracking:
    """One clip being tracked: its objects, their latest masks, and the clicks so far."""

    def __init__(self, tracker: Any, frames: ClipFrames, truth: Truth, step: int = 1):
        self.tracker, self.frames, self.truth, self.step = tracker, frames, truth, step
        self.state = tracker.open(frames)
        self.first: dict[int, int] = {}
        for frame in truth.frames:  # an object's first frame is where it is prompted
            for number in truth.masks(frame):
                self.first.setdefault(number, frame)
            if not truth._clips.dataset.startswith(("lvos", "sa-v")):
                break  # of DAVIS all objects are in the first frame
        self.found: dict[int, dict[int, np.ndarray]] = {number: {} for number in self.first}
        self.confidence: dict[int, dict[int, float]] = {number: {} for number in self.first}
        self.clicks: dict[tuple[int, int], tuple[list, list]] = {}

    def start(self, how: str) -> int:
        """Prompt every object on its first frame; returns how many prompts that took."""
        for number, frame in self.first.items():
            mask = self.truth.mask(frame, number, self.frames.size)
            if how == "mask":
                self.tracker.add(self.state, frame, number, Prompt(mask=mask))
            else:
                self._click(number, frame, deepest_points(mask, 1, 1)[0].tolist(), 1)
        return len(self.first)

    def _click(self, number: int, frame: int, point: Sequence[int], label: int) -> None:
        """One more click on a frame, after those given there before."""
        points, labels = self.clicks.setdefault((number, frame), ([], []))
        points.append(tuple(point))
        labels.append(label)
        self.tracker.add(self.state, frame, number, Prompt(points, labels))

    def propagate(self, frame: int | None = None) -> None:
        """Track from a frame to both ends; by default from the first prompt."""
        start = min(self.first.values(), default=0) if frame is None else frame
        for stop in (len(self.frames) - 1, 0):
            by = self.step if stop >= start else -self.step
            for tracked in self.tracker.propagate(self.state, start, stop, by):
                for number, prediction in tracked.predictions.items():
                    self.found[number][tracked.frame] = prediction.best
                    self.confidence[number][tracked.frame] = float(prediction.scores[0])

    def scores(self, number: int) -> Float64[np.ndarray, "frames 2"]:
        """J and F of an object on each annotated frame from its first on."""
        size, frames = self.frames.size, self._counted(number)
        found = (self.found[number].get(frame, np.zeros(size, bool)) for frame in frames)
        return score_clip((self.truth.mask(frame, number, size) for frame in frames), found)

    def _counted(self, number: int) -> list[int]:
        return [frame for frame in self.truth.frames if frame >= self.first[number]]

    def figures(self) -> dict[str, dict[str, float]]:
        """J&F of each object with its parts, and how well the tracker's confidence correlates with J&F."""
        out = {}
        for number in self.first:
            frames, values = self._counted(number)[1:-1], self.scores(number)[1:-1]
            if not len(values):
                continue
            j, f = (summarize(values[:, column]) for column in (0, 1))
            confidence = np.array([self.confidence[number].get(frame, 0.0) for frame in frames])
            both = values.mean(1)
            correlation = np.corrcoef(both, confidence)[0, 1] if both.std() and confidence.std() else 0.0
            figures = {"jf": (j.mean + f.mean) / 2, "j": j.mean, "f": f.mean, "j_recall": j.recall, "j_decay": j.decay}
            figures |= {"f_recall": f.recall, "f_decay": f.decay, "confidence_correlation": float(correlation)}
            out[str(number)] = rounded(figures)
        return out

    def correct(self) -> dict[str, int]:
        """Click once on the worst object's worst frame and track from there; returns object, frame and label."""
        worst = {number: self.scores(number).mean(1) for number in self.first}
        number = min(worst, key=lambda each: worst[each].min())
        frame = self._counted(number)[int(worst[number].argmin())]
        truth = self.truth.mask(frame, number, self.frames.size)
        found = self.found[number].get(frame, np.zeros_like(truth))
        missed, extra = (components(part) == 1 for part in (truth & ~found, found & ~truth))
        label = int(np.count_nonzero(missed) >= np.count_nonzero(extra))
        if missed.any() or extra.any():
            self._click(number, frame, deepest_points(missed if label else extra, 1, 1)[0].tolist(), label)
            self.propagate(frame)
        return {"object": number, "frame": frame, "label": label}


HEIGHT, WIDTH = 270, 480
GROWTH = 0.25  # by how much the cut-out is larger in the last frame
BAR = (0.52, 0.6)  # a post that stands before it, as fractions of the width


def write_synthetic_clip(
    folder: str | Path,
    name: str,
    photo: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    background: UInt8[np.ndarray, "bh bw 3"],
    frames: int = 12,
) -> Path:
    """Write ``JPEGImages/480p/NAME`` and ``Annotations/480p/NAME``; returns the folder.

    The cut-out moves from left to right, grows by a quarter, and passes behind a grey post, as in a real clip. Frames
    are 480 x 270.

    Args:
        folder: of the dataset, made if it is missing.
        name: of the clip.
        photo: what the cut-out is taken from.
        mask: the cut-out.
        background: what it moves over.
        frames: how many.
    """
    folder = Path(folder)
    x0, y0, x1, y1 = tight_box(mask)
    cut_out, alpha = photo[y0:y1, x0:x1], mask[y0:y1, x0:x1].astype(np.float32)
    scene = cv2.resize(background, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    post = slice(round(BAR[0] * WIDTH), round(BAR[1] * WIDTH))
    for frame in range(frames):
        part = frame / max(1, frames - 1)
        scale = 0.6 * HEIGHT * (1 + GROWTH * part) / (y1 - y0)
        size = round((x1 - x0) * scale), round((y1 - y0) * scale)
        small = cv2.resize(cut_out, size, interpolation=cv2.INTER_AREA)
        soft = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
        left = round(0.03 * WIDTH + part * (0.94 * WIDTH - size[0]))
        top = round(0.85 * HEIGHT - size[1])
        picture, truth = scene.astype(np.float32), np.zeros((HEIGHT, WIDTH), bool)
        rows, columns = slice(max(0, top), top + size[1]), slice(left, left + size[0])
        soft, small = soft[max(0, -top) :], small[max(0, -top) :]
        picture[rows, columns] += soft[:, :, None] * (small - picture[rows, columns])
        truth[rows, columns] = soft > 0.5
        picture[:, post], truth[:, post] = (110, 112, 118), False
        save_image(folder / "JPEGImages" / "480p" / name / f"{frame:05d}.jpg", picture.round().astype(np.uint8))
        save_image(folder / "Annotations" / "480p" / name / f"{frame:05d}.png", truth.astype(np.uint8) * 255)
    return folder


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
    dataset = MATTE_DATASETS[0]

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
            f"{error}: {key}": float(np.mean([record[key][error] for record in records]))
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
            # the stubs want a second map
            there = cv2.remap(alphas[number + 1], moved, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore[reportCallIssue, reportArgumentType]
            changes.append(np.abs(there - alphas[number])[rim].mean())
            step, true_step = (each[number + 1] - each[number] for each in (alphas, truth))
            errors.append(np.sqrt(((step - true_step)[rim] ** 2).mean()))
    return {"change": round(float(np.mean(changes)), 5), "dtssd": round(float(np.mean(errors)), 5)}
