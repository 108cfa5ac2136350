"""Staying with one object: is the right one of several equal instances followed, and is doubt reported where not?

Shell games are synthetic clips in which several equal cut-outs of real instances change places, with their true masks.
Everything follows from a seed. Three to five instances stand in a row on a real photo of 854 x 480. Two of them change
places at a time, on arcs of 5 to 40 pixels a frame; one passes before the other, which is hidden by at most 70 %. In
every third clip the others only look like the first one (mirrored or recoloured), and in every third one the first
instance leaves the picture in the middle of the clip and returns. Instance 1 is the one to follow.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from nbhelpers.benchmarks.metrics import rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.benchmarks.products import CutOut, backgrounds, recoloured, sample_cut_outs
from nbhelpers.benchmarks.video import DavisClip, opened_clips
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import deepest_points, iou
from nbhelpers.models.adapters import CachedSegmenter
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.weights import sample

SIZE = (480, 854)
SPEEDS = 5.0, 40.0  # pixels a frame, at the fastest point of an arc
MAX_HIDDEN = 0.7  # of an instance, by the others
LONGEST = 110, 150  # of an instance, in pixels
PAUSE, AWAY = 4, (4, 9)  # frames between two changes, and out of the picture
KINDS = ("equal", "alike", "leaving")
NOISE = 2.0  # standard deviation, in grey levels
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


@dataclass(frozen=True, eq=False)
class ShellGame:
    """A clip and its truth; a `nbhelpers.models.protocols.FrameSequence`.

    Attributes:
        name: kind and seed.
        images: ``(t, H, W, 3)``, the frames.
        labels: ``(t, H, W)``, the visible instance of each pixel, from 1; 0 is the background.
        instances: how many there are.
    """

    name: str
    images: UInt8[np.ndarray, "t h w 3"]
    labels: UInt8[np.ndarray, "t h w"]
    instances: int
    size = SIZE

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return self.images[index]

    def mask(self, frame: int, instance: int = 1) -> Bool[np.ndarray, "h w"]:
        """What is visible of an instance on a frame."""
        return self.labels[frame] == instance


@dataclass(frozen=True, eq=False)
class Plan:
    """Where the instances are.

    Attributes:
        centers: ``(instances, t, 2)``, x and y in pixels.
        depth: ``(instances, t)``, instances of a higher value are in front.
    """

    centers: Float[np.ndarray, "n t 2"]
    depth: Float[np.ndarray, "n t"]


def shell_game(seed: int, cut_outs: Sequence[CutOut], scenes: Mapping[str, np.ndarray], frames: int = 60) -> ShellGame:
    """The clip of a seed.

    Args:
        seed: seeds 1 to 100 are for development, those of the benchmark follow.
        cut_outs: what the instances are made of.
        scenes: photos by name, see `nbhelpers.benchmarks.products.backgrounds`; not that of the cut-out.
        frames: length of the clip.
    """
    kind = KINDS[seed % len(KINDS)]
    rng = np.random.default_rng(seed)
    cut_out = cut_outs[int(rng.integers(len(cut_outs)))]
    stems = sorted(set(scenes) - {cut_out.source})
    scene = _cover(scenes[stems[rng.integers(len(stems))]])
    instances = int(rng.integers(3, 6))
    first = _scaled(cut_out.rgba, rng.uniform(*LONGEST))
    pictures = (
        [first] * instances if kind != "alike" else [first, *(_similar(first, rng) for _ in range(instances - 1))]
    )
    arcs = int(rng.integers(2**31))
    for lift in np.arange(0.3, 2.0, 0.1):
        plan = plan_moves(
            np.random.default_rng(arcs), instances, frames, first.shape[0], float(lift), kind == "leaving"
        )
        labels, whole = _label(pictures, plan)
        if _most_hidden(labels, whole) <= MAX_HIDDEN:
            break
    images = np.stack([_render(scene, pictures, plan, frame, rng) for frame in range(frames)])
    return ShellGame(f"{kind}-{seed}", images, labels, instances)


def plan_moves(
    rng: np.random.Generator, instances: int, frames: int, height: float, lift: float, leaves: bool = False
) -> Plan:
    """The changes of places of a clip.

    Args:
        rng: random numbers.
        instances: how many.
        frames: length of the clip.
        height: of an instance in pixels.
        lift: how far two instances pass above each other, as a fraction of ``height``.
        leaves: instance 1 leaves the picture in the middle of the clip and comes back on that side.
    """
    rows, columns = SIZE
    slots = np.linspace(0.14, 0.86, instances) * columns
    base = 0.55 * rows
    places = rng.permutation(instances)
    centers = np.zeros((instances, frames, 2))
    depth = np.zeros((instances, frames))
    now = np.stack([slots[places], np.full(instances, base)], 1)
    frame, turn, order = 0, 0, rng.permutation(instances).astype(float)
    gone = not leaves
    while frame < frames:
        if not gone and frame >= frames // 3:
            gone = True
            side = -1 if now[0, 0] < columns / 2 else 1
            out = columns / 2 + side * (columns / 2 + height)
            away, speed = rng.integers(*AWAY), rng.uniform(12, SPEEDS[1])
            steps = _arc(now[0], np.array([out, base]), speed, -lift * height)
            path = [*steps, *([steps[-1]] * int(away)), *steps[::-1]]
            moves = {0: np.array(path)}
        else:
            # instance 1 takes part in every other change
            pair = [0, int(rng.integers(1, instances))] if turn % 2 == 0 else rng.choice(instances, 2, False).tolist()
            far = float(np.linalg.norm(now[pair[0]] - now[pair[1]]))
            speed, up = rng.uniform(*SPEEDS), rng.choice([-1, 1]) * lift * height / 2
            speed = min(max(speed, np.pi * far / frames), SPEEDS[1])  # a change takes half of the clip at most
            one = _arc(now[pair[0]], now[pair[1]], speed, up)
            moves = {pair[0]: one, pair[1]: _arc(now[pair[1]], now[pair[0]], speed, -up)}
            order = rng.permutation(instances).astype(float)
        length = len(next(iter(moves.values()))) + int(rng.integers(PAUSE + 1))
        for step in range(min(length, frames - frame)):
            for instance in range(instances):
                path = moves.get(instance)
                centers[instance, frame + step] = now[instance] if path is None else path[min(step, len(path) - 1)]
            depth[:, frame + step] = order
        for instance, path in moves.items():
            now[instance] = path[-1]
        frame, turn = frame + length, turn + 1
    return Plan(centers, depth)


def _arc(start: np.ndarray, end: np.ndarray, speed: float, up: float) -> np.ndarray:
    """``(n, 2)`` places from one to another, slow at the ends; ``up`` pixels beside the line in the middle."""
    count = max(4, round(np.pi / 2 * float(np.linalg.norm(end - start)) / speed))
    part = (1 - np.cos(np.linspace(0, np.pi, count + 1)[1:])) / 2
    path = start + part[:, None] * (end - start)
    return path + np.stack([np.zeros(count), up * np.sin(np.pi * part)], 1)


def _cover(photo: np.ndarray) -> np.ndarray:
    """A photo scaled to fill the frame, cropped in the middle."""
    rows, columns = SIZE
    scale = max(rows / photo.shape[0], columns / photo.shape[1])
    size = max(columns, round(photo.shape[1] * scale)), max(rows, round(photo.shape[0] * scale))
    grown = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (size[1] - rows) // 2, (size[0] - columns) // 2
    return np.ascontiguousarray(grown[top : top + rows, left : left + columns])


def _scaled(rgba: np.ndarray, longest: float) -> np.ndarray:
    """A cut-out with its longer side at ``longest`` pixels."""
    scale = longest / max(rgba.shape[:2])
    size = max(2, round(rgba.shape[1] * scale)), max(2, round(rgba.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]]), size, interpolation=how)
    small[..., :3] /= np.maximum(small[..., 3:], 1e-3)
    return np.clip(small, 0, 1)


def _similar(rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return recoloured(rgba, rng) if rng.random() < 0.5 else np.ascontiguousarray(rgba[:, ::-1])


def _placed(rgba: np.ndarray, center: np.ndarray) -> np.ndarray:
    """A cut-out on an empty frame: premultiplied colour and alpha, at a fraction of a pixel."""
    rows, columns = SIZE
    height, width = rgba.shape[:2]
    move = np.array([[1, 0, center[0] - (width - 1) / 2], [0, 1, center[1] - (height - 1) / 2]], np.float32)
    return cv2.warpAffine(np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]]), move, (columns, rows))


def _label(pictures: Sequence[np.ndarray], plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The labels of all frames ``(t, H, W)``, and the area of each whole instance ``(instances, t)``."""
    instances, frames = plan.depth.shape
    labels, whole = np.zeros((frames, *SIZE), np.uint8), np.zeros((instances, frames), int)
    for frame in range(frames):
        for instance in plan.depth[:, frame].argsort():
            mask = _placed(pictures[instance][..., [3, 3, 3, 3]], plan.centers[instance, frame])[..., 3] > 0.5
            labels[frame][mask] = instance + 1
            whole[instance, frame] = np.count_nonzero(mask)
    return labels, whole


def _most_hidden(labels: np.ndarray, whole: np.ndarray) -> float:
    """The largest fraction of an instance that others hide."""
    instances = len(whole)
    seen = np.stack([np.bincount(frame.ravel(), minlength=instances + 1)[1 : instances + 1] for frame in labels], 1)
    return float((1 - seen / np.maximum(whole, 1))[whole > 0].max(initial=0.0))


def _render(scene: np.ndarray, pictures: Sequence[np.ndarray], plan: Plan, frame: int, rng) -> np.ndarray:
    picture = scene.astype(np.float32)
    for instance in plan.depth[:, frame].argsort():
        placed = _placed(pictures[instance], plan.centers[instance, frame])
        picture = picture * (1 - placed[..., 3:]) + 255 * placed[..., :3]
    return np.clip(picture + rng.normal(0, NOISE, picture.shape), 0, 255).round().astype(np.uint8)


@dataclass(frozen=True)
class OneObject:
    """Tracking one object in a session, from its mask; a `nbhelpers.benchmarks.runner.Benchmark`.

    Attributes:
        dataset: ``shell-game``: clips of `shell_game`; ``davis2016-doubt``: the false alarms of
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
            x, y = deepest_points(truth, 1, 1)[0].tolist()
            session.click(x, y)
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
            return rounded({"iou": float(np.mean(ious)), "right_at_end": sum(right), **shared, "false_alarms": rate})
        return rounded({"false_alarms": rate, "iou": float(np.mean(ious))})


def switches(wrong: Sequence[int]) -> list[int]:
    """The first frame of each run of frames on which another instance is taken.

    Runs apart by fewer than `NEAR` frames are one.
    """
    return [frame for frame in wrong if not any(frame - NEAR <= each < frame for each in wrong)]


@lru_cache(maxsize=1)
def _material() -> tuple[list, dict[str, np.ndarray]]:
    """Cut-outs and photos of the shell games."""
    return sample_cut_outs(resolve("segmenter", None)), backgrounds([Path(sample(name)) for name in SCENES])


def _game(seed: int, frames: int) -> ShellGame:
    return shell_game(seed, *_material(), frames)
