"""Speed and memory of the official networks on this machine, with random weights of the real sizes.

Random weights cost what trained ones do and need no download, so a GPU can be judged before gigabytes are fetched.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nbhelpers.core.device import (
    PRECISION,
    MemoryWarning,
    choose_device,
    describe_device,
    half_precision,
    release_memory,
)
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.core.prompts import Prompt

if TYPE_CHECKING:
    import torch

SIZE = (480, 854)  # of the photo and of the clip's frames
GRID = 16  # points a side
FRAMES = 24  # tracked for the frame rate, after as many to fill the memory
GPUS = {"T4": 15.0, "L4": 22.5, "A100 40 GB": 39.5, "A100 80 GB": 79.0}  # GB that are left to a program
RESERVE = 0.7  # GB of the CUDA context and of the libraries' workspaces, which PyTorch does not count
LIMIT = 420.0  # seconds after which no further measurement is begun

Run = Callable[[], Any]
Case = tuple[str, Callable[["torch.nn.Module", str], Run], int]


@dataclass(frozen=True)
class Measurement:
    """One network at one task.

    Attributes:
        network: what was measured.
        task: what it did.
        precision: ``"bfloat16"``, ``"float16"`` or ``"float32"``; with ``" compiled"`` where ``torch.compile`` was on.
        seconds: of one run, the median; None where it failed.
        count: how many items (frames, points) a run did.
        memory: peak of what PyTorch allocated, in GB; None where the device does not tell.
        note: why it failed or was left out.
    """

    network: str
    task: str
    precision: str
    seconds: float | None = None
    count: int = 1
    memory: float | None = None
    note: str = ""

    @property
    def fits(self) -> tuple[str, ...]:
        """Names of the GPUs whose memory holds it."""
        return tuple(name for name, room in GPUS.items() if self.memory and self.memory + RESERVE <= room)


@dataclass(frozen=True)
class GpuReport:
    """What `measure_networks` found; ``str(report)`` is a table in Markdown.

    Attributes:
        machine: name and memory of the device, versions.
        rows: in the order of measuring.
    """

    machine: str
    rows: tuple[Measurement, ...] = field(default=())

    def __str__(self) -> str:
        lines = [
            self.machine,
            "",
            "| network | task | precision | ms | per second | peak GB | fits |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            if row.seconds is None:
                cells = ["-", "-", "-", row.note]
            else:
                memory = "-" if row.memory is None else f"{row.memory:.2f}"
                cells = [f"{row.seconds * 1000:.1f}", f"{row.count / row.seconds:.1f}", memory, ", ".join(row.fits)]
            lines.append("| " + " | ".join([row.network, row.task, row.precision, *cells]) + " |")
        return "\n".join(lines) + "\n"


def measure_networks(
    device: str | None = None,
    networks: Mapping[str, Callable[[], torch.nn.Module]] | None = None,
    compiled: bool = True,
    limit: float = LIMIT,
    rounds: int = 5,
) -> GpuReport:
    """Run every network with random weights in half precision and in float32, and some compiled.

    Args:
        device: where to; default: the best available.
        networks: builds each network on the CPU, by name; default: those of real size.
        compiled: whether to measure ``torch.compile`` too, which takes a minute a network.
        limit: seconds after which no further measurement is begun; the rows say so.
        rounds: how often each run is timed, after one that is not.

    Raises:
        NbHelpersError: the device cannot be used; without a CUDA device, what would be measured on one.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise NbHelpersError(
            "there is no CUDA device to measure",
            given=describe_device("cpu"),
            expected="a GPU; measured would be, with random weights, in half precision, float32 and partly compiled, "
            f"seconds and peak memory of {'; '.join(map(_described, CASES))}",
            do=f"run it on a GPU, for up to {LIMIT / 60:.0f} minutes, or python bench/gpu.py --device cpu, for longer",
        )
    device = choose_device(device)
    networks = real_networks() if networks is None else networks
    half = half_precision(device)
    names = ([str(half).removeprefix("torch.")] if half else []) + ["float32"]
    rows: list[Measurement] = []
    start = time.monotonic()
    for network, build in networks.items():
        wanted = [(precision, False) for precision in names]
        if compiled and network in COMPILED:
            wanted.append((names[0], True))
        for precision, compile_it in wanted:
            label = precision + " compiled" * compile_it
            if time.monotonic() - start > limit:
                rows.append(Measurement(network, "all", label, note=f"left out: {limit:.0f} s are over"))
                continue
            with _precision(precision):
                rows += _measure_network(network, label, build, device, compile_it, rounds)
            release_memory()
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda or '-'}"
    return GpuReport(f"{describe_device(device)}, {versions}", tuple(rows))


def _described(network: str) -> str:
    """A network and its tasks."""
    return f"{network}: {', '.join(task for task, _, _ in CASES[network])}"


def _measure_network(
    network: str, label: str, build: Callable[[], Any], device: str, compile_it: bool, rounds: int
) -> Iterator[Measurement]:
    """The rows of one network in one precision; what fails is one row, and the others go on."""
    import torch

    rows = []
    try:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", category=MemoryWarning)  # what went on smaller or on the CPU does not fit
            model = build()
            if compile_it:
                COMPILED[network](model)
            for task, prepare, count in CASES[network]:
                run = prepare(model, device)
                rows.append(_time(network, task, label, run, count, device, rounds))
    except Exception as error:  # out of memory, a missing package, a device without a type: one row each
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        rows.append(Measurement(network, "all" if not rows else "further", label, note=reason[:120]))
    return iter(rows)


def _time(network: str, task: str, label: str, run: Run, count: int, device: str, rounds: int) -> Measurement:
    """The median of some runs after one that warms up, and their peak memory."""
    import torch

    on_cuda = device.startswith("cuda")
    run()
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        if on_cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if on_cuda else None
    return Measurement(network, task, label, float(np.median(seconds)), count, memory)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    """Let `nbhelpers.core.device.autocast` use float32, or what the device has."""
    before = os.environ.pop(PRECISION, None)
    if name == "float32":
        os.environ[PRECISION] = name
    try:
        yield
    finally:
        os.environ.pop(PRECISION, None)
        if before is not None:
            os.environ[PRECISION] = before


@functools.cache
def _photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


class _Clip:
    """A photo that moves, as a clip."""

    size = SIZE

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> np.ndarray:
        return np.roll(_photo(), 2 * index, axis=1)


def _segmenter_cases(wrap: Callable[[Any, str], Any]) -> list[Case]:
    def encode(model, device):
        segmenter = wrap(model, device)
        return lambda: segmenter.encode(_photo())

    def click(model, device):
        segmenter = wrap(model, device)
        embedding = segmenter.encode(_photo())
        return lambda: segmenter.predict(embedding, Prompt([(400, 200)]))

    def points(model, device):
        segmenter = wrap(model, device)
        embedding = segmenter.encode(_photo())
        grid = np.stack(np.meshgrid(np.linspace(5, 845, GRID), np.linspace(5, 470, GRID)), -1).reshape(-1, 2)
        return lambda: segmenter.predict_points(embedding, grid.astype(np.float32))

    return [
        ("encode a photo", encode, 1),
        ("click on an encoded photo", click, 1),
        (f"{GRID**2} points", points, GRID**2),
    ]


def _tracker_cases(wrap: Callable[[Any, str], Any]) -> list[Case]:
    def track(model, device):
        tracker = wrap(model, device)
        state = tracker.open(_Clip())
        tracker.add(state, 0, 1, Prompt(box=(300, 100, 500, 300)))
        done = [0]

        def run():
            for _ in tracker.propagate(state, done[0], done[0] + FRAMES - 1):
                pass
            done[0] += FRAMES

        return run

    return [(f"track {FRAMES} frames", track, FRAMES)]


def _sam2(model, device):
    from nbhelpers.models.sam2 import Sam2Segmenter

    return Sam2Segmenter(model, "random", device)


def _sam2_video(model, device):
    from nbhelpers.models.sam2_video import Sam2Tracker

    return Sam2Tracker(model, "random", device)


def _variant(kind: str, model, device):
    from transformers import Sam2ImageProcessor

    from nbhelpers.models import sam_variants

    return getattr(sam_variants, kind)(model, Sam2ImageProcessor(), "random", device)


def _clip(model, device):
    from nbhelpers.models.openclip import OpenClipTextEncoder

    encoder = OpenClipTextEncoder(model, "random", device)
    names = [f"thing {number}" for number in range(20)]
    encoder.text_embeddings(names)  # kept: the map alone is measured
    return lambda: encoder.dense(_photo(), names)


def _dinov2(model, device):
    from nbhelpers.models.patches import Dinov2Encoder

    encoder = Dinov2Encoder(model, "random", device)
    photo = _photo()[:448, :448]
    return lambda: encoder.tokens([photo])


def _vggt(model, device):
    from vggt.utils.pose_enc import pose_encoding_to_extri_intri  # pyright: ignore[reportMissingImports]: in no registry

    from nbhelpers.models.vggt import VggtEstimator

    estimator = VggtEstimator(model, pose_encoding_to_extri_intri, "random", device)
    photos = [np.roll(_photo(), 20 * number, axis=1) for number in range(8)]
    return lambda: estimator.reconstruct(photos)


def _upstream_video(model, device):
    """The predictor of the ``sam2`` package on the same weights, fed as `Sam2Tracker` feeds it."""
    import torch

    from nbhelpers.core.device import autocast
    from nbhelpers.models.sam2_video_network import LazyImages, VideoPredictor

    model = model.to(device).eval()
    done, clip = [0], cast(Any, _Clip())
    with torch.inference_mode(), autocast(device):
        inference = model.new_inference(LazyImages(clip, model.image_size))
        model.add_new_points_or_box(inference, 0, 1, box=np.array([0.3, 0.2, 0.6, 0.6]), normalize_coords=False)

    def run():
        with torch.inference_mode(), autocast(device):
            upstream: Any = super(VideoPredictor, model)
            steps = upstream.propagate_in_video(inference, done[0], FRAMES - 1)
            for _ in steps:
                pass
        done[0] += FRAMES

    return run


CASES: dict[str, list[Case]] = {
    "SAM 2.1 large": _segmenter_cases(_sam2),
    "SAM 2.1 large video": [
        *_tracker_cases(_sam2_video),
        (f"upstream's predictor, {FRAMES} frames", _upstream_video, FRAMES),
    ],
    "EdgeTAM": _segmenter_cases(functools.partial(_variant, "VariantSegmenter")),
    "EdgeTAM video": _tracker_cases(functools.partial(_variant, "VariantTracker")),
    "CLIP ViT-B/16": [("dense map of 20 names", _clip, 1)],
    "DINOv2-L": [("1,024 tokens", _dinov2, 1)],
    "VGGT": [("8 views", _vggt, 1)],
}


def _compile(path: str, model: Any) -> None:
    """Compile the forward of a part of a network, in place."""
    import torch

    part = functools.reduce(getattr, path.split("."), model) if path else model
    part.forward = torch.compile(part.forward, dynamic=False)


COMPILED: dict[str, Callable[[Any], None]] = {
    "SAM 2.1 large": functools.partial(_compile, "image_encoder"),
    "SAM 2.1 large video": functools.partial(_compile, "image_encoder"),
    "DINOv2-L": functools.partial(_compile, ""),
}


def real_networks() -> dict[str, Callable[[], torch.nn.Module]]:
    """Builders of the networks in their real sizes, with random weights; only those whose packages are installed."""
    needs("official", "transformers", "timm")
    import transformers

    from nbhelpers.models.openclip import build_clip
    from nbhelpers.models.sam2 import build_image_network
    from nbhelpers.models.sam2_video import build_video_network

    config = "configs/sam2.1/sam2.1_hiera_l.yaml"
    dinov2: dict[str, Any] = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 518,
    }
    found: dict[str, Callable[[], Any]] = {
        "SAM 2.1 large": lambda: build_image_network(config),
        "SAM 2.1 large video": lambda: build_video_network(config),
        "EdgeTAM": lambda: transformers.EdgeTamModel(transformers.EdgeTamConfig()),
        "EdgeTAM video": lambda: transformers.EdgeTamVideoModel(edgetam_video_config()),
        "CLIP ViT-B/16": lambda: build_clip("ViT-B-16-quickgelu"),
        "DINOv2-L": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**dinov2, patch_size=14)),
    }
    if importlib.util.find_spec("vggt"):
        found["VGGT"] = vggt_network
    return found


def edgetam_video_config() -> Any:
    """EdgeTAM's configuration; the library's default of the video network has another encoder."""
    import transformers

    return transformers.EdgeTamVideoConfig(vision_config=transformers.EdgeTamVisionConfig())


def vggt_network() -> torch.nn.Module:
    """VGGT with random weights."""
    from vggt.models.vggt import VGGT  # pyright: ignore[reportMissingImports]: in no registry

    return VGGT(enable_point=False, enable_track=False)
