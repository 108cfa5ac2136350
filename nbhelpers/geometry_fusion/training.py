"""Training of a merger beside frozen networks, from features that are computed once; resumed where it stopped.

The losses are those that SAM 2 was trained with: focal, dice, IoU and occlusion. Ravi et al. 2024, arXiv 2408.00714,
appendix D; the numbers are those of ``training/loss_fns.py`` in sam2 1.1.0 (``MultiStepMultiMasksAndIous`` with L1 for
the IoU, object scores without focal weighting), which needs packages that are not needed for anything else here.
"""

from __future__ import annotations

import json
import logging
import math
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import check_writable, replacing, write_text
from nbhelpers.geometry_fusion.comparison import geometry_source, read_truth, scene_of
from nbhelpers.geometry_fusion.geometry import kept_geometry
from nbhelpers.geometry_fusion.merger import FeatureMerger, save_merger, under
from nbhelpers.geometry_fusion.synthetic import (
    TEST_PHOTOS,
    TRAINING_PHOTOS,
    SyntheticClip,
    load_textures,
    render_clip,
)
from nbhelpers.geometry_fusion.tracker import prior_tensors
from nbhelpers.models.adapters import CachedSegmenter
from nbhelpers.models.geometry import SceneGeometry
from nbhelpers.models.label_propagation.tracker import MIN_SIMILARITY
from nbhelpers.models.label_propagation.votes import NEIGHBOURS, TEMPERATURE
from nbhelpers.models.protocols import FeatureSegmenter, FrameSequence
from nbhelpers.models.values import Geometry

if TYPE_CHECKING:
    from nbhelpers.models.sam2_video_network import FrameFeatures, VideoPredictor


WEIGHTS = {"focal": 20.0, "dice": 1.0, "iou": 1.0, "occlusion": 1.0}
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


@dataclass(frozen=True, eq=False)
class FrameOutput:
    """What a model says of ``n`` objects on one frame.

    Attributes:
        masks: ``(n, m, h, w)`` logits of ``m`` candidates.
        ious: ``(n, m)``, the IoU that is predicted for each.
        presence: ``(n, 1)``, logit of the object being in sight.
    """

    masks: Float[Tensor, "n m h w"]
    ious: Float[Tensor, "n m"]
    presence: Float[Tensor, "n 1"]


def frame_losses(output: FrameOutput, target: Bool[Tensor, "n h w"]) -> dict[str, Tensor]:
    """The four losses of a frame, each divided by the number of objects, and their weighted sum ``total``.

    Focal, dice and IoU losses count for the candidate with the smallest sum of the first two, and where the object is
    in sight.

    Args:
        output: of the model.
        target: true masks.
    """
    count = max(len(target), 1)
    truth = target[:, None].float().expand_as(output.masks)
    present = target.flatten(1).any(1, keepdim=True).float()
    focal = focal_loss(output.masks, truth).flatten(2).mean(2) / count
    probability = output.masks.sigmoid().flatten(2)
    shared = 2 * (probability * truth.flatten(2)).sum(2)
    dice = (1 - (shared + 1) / (probability.sum(2) + truth.flatten(2).sum(2) + 1)) / count
    inside = output.masks > 0
    both, either = ((inside & (truth > 0)).flatten(2).sum(2), (inside | (truth > 0)).flatten(2).sum(2))
    iou = (output.ious - both / either.clamp(min=1)).abs() / count
    best = (WEIGHTS["focal"] * focal + WEIGHTS["dice"] * dice).argmin(1, keepdim=True)
    losses = {
        name: (values.gather(1, best) * present).sum()
        for name, values in (("focal", focal), ("dice", dice), ("iou", iou))
    }
    losses["occlusion"] = functional.binary_cross_entropy_with_logits(output.presence, present)
    losses["total"] = sum((WEIGHTS[name] * value for name, value in losses.items()), torch.zeros(()))
    return losses


def focal_loss(logits: Float[Tensor, "*shape"], truth: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Focal loss of each pixel (Lin et al. 2017, arXiv 1708.02002)."""
    probability = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    right = probability * truth + (1 - probability) * (1 - truth)
    balance = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    return balance * entropy * (1 - right) ** FOCAL_GAMMA


log = logging.getLogger(__name__)
MIN_OVERLAP = 0.25  # of a frame's points that the others see, for a sample by field of view (arXiv 2601.08831)
OVERLAP_FRACTION = 0.8  # of the samples that are drawn so; the others are neighbouring frames
OVERLAP_DISTANCE = 0.15  # z-scored units within which two cells show the same place
PRESENCE_TEMPERATURE = 0.05
MIN_PROBABILITY = 1e-3
KEPT_KEYS, KEPT_QUERIES = 768, 1024  # of a frame's cells off the object: those that vote, and those voted on
MIN_OBJECT = 12  # cells of an object on the frame that is given
SPEED_NOTE = 10  # steps between two lines in the log
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class TrainingConfig:
    """All that a training run depends on, beside its clips.

    Attributes:
        steps: of the optimiser.
        learning_rate: the highest; it rises over the first twentieth and falls as a cosine.
        weight_decay: of AdamW, not for biases.
        clip_gradient: largest norm of the gradient.
        memory: frames that vote on another, the first of which is given.
        queries: frames that are voted on, a step.
        hidden: width of the merger.
        frequencies: of its Fourier encoding.
        noise: z-scored units of noise on the points, at most; each sample draws its own.
        dropout: largest fraction of cells whose geometry is withheld from a sample.
        seed: of weights and samples.
        save_every: steps between checkpoints: a kill loses no more.
        mixed_precision: bfloat16 where the device has it; float32 otherwise.
    """

    steps: int = 400
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_gradient: float = 1.0
    memory: int = 3
    queries: int = 2
    hidden: int = 64
    frequencies: int = 64
    noise: float = 0.05
    dropout: float = 0.5
    seed: int = 0
    save_every: int = 50
    mixed_precision: bool = True

    @classmethod
    def open(cls, path: str | Path) -> tuple[TrainingConfig, dict[str, Any]]:
        """Read a TOML file: the fields of this class below ``[training]``; the rest is returned as it is.

        Raises:
            NbHelpersError: no such file, no TOML, or a name that this class does not have.
        """
        try:
            read = tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise NbHelpersError("the configuration cannot be read", given=f"{path}: {error}") from error
        own = read.pop("training", {})
        known = {each.name for each in fields(cls)}
        if not isinstance(own, dict) or set(own) - known:
            raise NbHelpersError(
                "the configuration has names that are not known",
                given=", ".join(sorted(set(own) - known)) if isinstance(own, dict) else repr(own),
                expected=", ".join(sorted(known)),
            )
        return cls(**own), read


@dataclass(frozen=True, eq=False)
class TrainingClip:
    """A clip as training needs it: features, geometry and true masks, all on the cells' grid.

    Attributes:
        name: of the clip.
        features: ``(t, c, h, w)`` of the frozen image encoder, in half precision.
        geometry: of the clip.
        labels: ``(o, t, rows, columns)``, fraction of each cell that each of the objects covers; of the features' grid,
            or a finer one, see `TrackingModel`.
        textures: names of the photos on it, where it is synthetic.
    """

    name: str
    features: Float[Tensor, "t c h w"] = field(repr=False)
    geometry: Geometry = field(repr=False)
    labels: Float[Tensor, "o t rows columns"] = field(repr=False)
    textures: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """Some frames of a clip, the first with an object that is given.

    Attributes:
        clip: where they are from.
        object: index into its labels.
        frames: the memory frames, then those to be voted on.
        memory: how many of them are memory.
        prior: ``(f, 6, h, w)``, turned, moved and disturbed at random.
        valid: ``(f, h, w)``, some cells withheld.
        layers: ``(f, c, h, w)`` each, features of the geometry network; none for sources without them.
    """

    clip: TrainingClip
    object: int
    frames: list[int]
    memory: int
    prior: Tensor = field(repr=False)
    valid: Tensor = field(repr=False)
    layers: Sequence[Tensor] = field(default=(), repr=False)

    def merged(self, merger: FeatureMerger, features: Tensor, part: slice = slice(None)) -> Tensor:
        """The features ``(f, c, h, w)`` of some of the frames, merged with their geometry."""
        prior, valid, *layers = (each[part].to(features.device) for each in (self.prior, self.valid, *self.layers))
        return merger(features, prior, valid, layers)


@runtime_checkable
class TrackingModel(Protocol):
    """Frozen networks that track with merged features; the merger is trained through them."""

    backbone: str
    detail: int  # cells of a clip's labels for each cell of its features, on each side

    def outputs(self, sample: TrainingSample, merger: FeatureMerger) -> list[tuple[FrameOutput, Bool[Tensor, "n h w"]]]:
        """What is predicted on the frames to be voted on, each with the truth."""
        ...


class VoteModel:
    """Label propagation with gradients: the vote of `nbhelpers.models.label_propagation.votes` on some coarse cells.

    Args:
        backbone: name of the segmenter whose features the clips have.
        device: where it computes.
    """

    detail = 1

    def __init__(self, backbone: str, device: str = "cpu"):
        self.backbone, self.device = backbone, device

    def outputs(self, sample: TrainingSample, merger: FeatureMerger) -> list[tuple[FrameOutput, Bool[Tensor, "n h w"]]]:
        """Votes of the memory frames on the others."""
        features = sample.clip.features[sample.frames].to(self.device).float()
        labels = sample.clip.labels[sample.object, sample.frames].to(self.device).float().flatten(1)
        tokens = sample.merged(merger, features).flatten(2).mT
        tokens = functional.normalize(tokens - tokens[:1].mean(1, keepdim=True), dim=2)
        keys, values = [], []
        for number in range(sample.memory):
            chosen = _some_cells(labels[number], sample.frames[number], KEPT_KEYS)
            keys.append(tokens[number, chosen])
            values.append(labels[number, chosen])
        key, value = torch.cat(keys), torch.cat(values)
        found = []
        for number in range(sample.memory, len(sample.frames)):
            chosen = _some_cells(labels[number], sample.frames[number], KEPT_QUERIES)
            similarity = tokens[number, chosen] @ key.T
            near, index = similarity.topk(min(NEIGHBOURS, len(key)), 1)
            votes = (torch.softmax(near / TEMPERATURE, 1) * value[index]).sum(1)
            bounded = votes.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
            alike = (votes * similarity[:, value > 0.5].amax(1)).sum() / (votes.sum() + 1)
            output = FrameOutput(
                torch.logit(bounded).reshape(1, 1, 1, -1),
                ((votes**2).sum() / (votes.sum() + 1e-6)).reshape(1, 1),
                ((alike - MIN_SIMILARITY) / PRESENCE_TEMPERATURE).reshape(1, 1),
            )
            found.append((output, (labels[number, chosen] > 0.5).reshape(1, 1, -1)))
        return found


def _some_cells(labels: Float[Tensor, " n"], seed: int, count: int) -> Int[Tensor, " k"]:
    """All cells that touch the object and some of the others, the same ones for the same seed."""
    inside, outside = torch.nonzero(labels > 0)[:, 0], torch.nonzero(labels == 0)[:, 0]
    order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))[:count]
    return torch.cat([inside, outside[order.to(outside.device)]])


def clip_labels(masks: Sequence[Bool[np.ndarray, "t h w"]], grid: int) -> Float[Tensor, "o t g g"]:
    """Masks of each object as fractions of the cells of a grid."""
    cells = [
        [cv2.resize(each.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA) for each in mask]
        for mask in masks
    ]
    return torch.from_numpy(np.array(cells, np.float32))


def draw_sample(clips: Sequence[TrainingClip], config: TrainingConfig, step: int) -> TrainingSample:
    """The sample of a step: the same for the same configuration and step, so that a resumed run sees what it missed.

    With a probability of 0.8 the frames to be voted on share at least a quarter of their places with the memory frames,
    however far away in time; else all are neighbours.

    Raises:
        NbHelpersError: no clip has an object that is large enough on any frame.
    """
    rng = np.random.default_rng((config.seed, step))
    for _ in range(200):
        clip = clips[int(rng.integers(len(clips)))]
        count = clip.labels.shape[1]
        chosen = int(rng.integers(clip.labels.shape[0]))
        sizes = (clip.labels[chosen] > 0.5).flatten(1).sum(1).numpy()
        given = np.flatnonzero(sizes >= MIN_OBJECT)
        if not len(given) or count < 2:
            continue
        first = int(rng.choice(given))
        wanted = config.memory + config.queries
        if rng.random() < OVERLAP_FRACTION:
            shared = overlap(clip.geometry, first)
            others = np.flatnonzero(shared >= MIN_OVERLAP)
            others = others[others != first]
            if not len(others):
                continue
            frames = [first, *rng.choice(others, wanted - 1, replace=len(others) < wanted - 1).tolist()]
        else:
            start = int(np.clip(first, 0, max(0, count - wanted)))
            frames = [first, *(min(start + number, count - 1) for number in range(1, wanted))]
        return _disturbed(clip, chosen, frames, config, rng)
    raise NbHelpersError(
        "no clip has an object to train on", expected=f"true masks of at least {MIN_OBJECT} cells on one frame or more"
    )


def _disturbed(
    clip: TrainingClip, chosen: int, frames: list[int], config: TrainingConfig, rng: np.random.Generator
) -> TrainingSample:
    """The sample with its world turned, moved and scaled, its points shaken and some of them withheld."""
    prior, valid, layers = prior_tensors(clip.geometry, frames)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    turn = turn if np.linalg.det(turn) > 0 else -turn
    matrix = torch.from_numpy(turn)
    points, rays = prior[:, :3], prior[:, 3:]
    move = torch.from_numpy(rng.normal(0, 0.5, (1, 3, 1, 1)).astype(np.float32))
    points = torch.einsum("ij,fjhw->fihw", matrix, points) * float(rng.uniform(0.8, 1.25)) + move
    noise = float(rng.uniform(0, config.noise))
    points = points + torch.from_numpy(rng.normal(0, noise + 1e-9, points.shape).astype(np.float32))
    rays = torch.einsum("ij,fjhw->fihw", matrix, rays)
    if rng.random() < 0.5:
        kept = rng.random(valid.shape) >= rng.uniform(0, config.dropout)
        valid = valid & torch.from_numpy(kept)
    prior = torch.cat([points, rays], 1) * valid[:, None]
    return TrainingSample(clip, chosen, frames, config.memory, prior, valid, layers)


def overlap(geometry: Geometry, frame: int, stride: int = 4) -> Float[np.ndarray, " t"]:
    """Fraction of each frame's places that a frame sees too."""
    points = geometry.points[:, ::stride, ::stride].reshape(len(geometry), -1, 3)
    valid = geometry.valid[:, ::stride, ::stride].reshape(len(geometry), -1)
    own = points[frame][valid[frame]]
    shared = np.zeros(len(geometry))
    if not len(own):
        return shared
    for other in range(len(geometry)):
        theirs = points[other][valid[other]]
        if len(theirs):
            distance = np.linalg.norm(theirs[:, None] - own, axis=2).min(1)
            shared[other] = float((distance < 2 * OVERLAP_DISTANCE).mean())
    return shared


def train(
    clips: Sequence[TrainingClip],
    model: TrackingModel,
    folder: str | Path,
    config: TrainingConfig | None = None,
    *,
    progress: Callable[[int, float], object] | None = None,
    test_textures: Sequence[str] = (),
) -> FeatureMerger:
    """Train a merger; run again on the same folder, it goes on from the last checkpoint.

    Example:
        >>> merger = train(clips, VoteModel("sam2-hiera-tiny-lite"), "outputs/merger")
        >>> GeometryTracker(tracker, encoder, merger)

    The folder gets ``merger.safetensors``, ``checkpoint-*.safetensors`` with the optimiser's state, ``config.json``,
    ``train_stats.json`` and, where TensorBoard is installed, its event files. Nothing but the merger has gradients.

    Args:
        clips: to train on.
        model: frozen networks.
        folder: for the results.
        config: of the run.
        progress: called with the number of steps done and the loss.
        test_textures: photos of the clips that will be tested on: none may be trained on.

    Raises:
        NbHelpersError: no clips, clips with a photo of the test, clips with feature layers of different networks, or a
            folder of another run.
    """
    config = config or TrainingConfig()
    if not clips:
        raise NbHelpersError("there is nothing to train on", expected="one clip or more")
    layers = {tuple(layer.shape[-1] for layer in clip.geometry.layers) for clip in clips}
    if len(layers) > 1:
        raise NbHelpersError("the clips' geometry has different feature layers", given=sorted(layers))
    if shared := {name for clip in clips for name in clip.textures} & set(test_textures):
        raise NbHelpersError("training and test scenes share photos", given=", ".join(sorted(shared)))
    if len(clips) == 1:
        log.warning("one clip to train on: figures on the same clip say nothing of others")
    folder = Path(folder).expanduser()
    check_writable(folder)
    about = {"training": asdict(config), "backbone": model.backbone, "clips": [clip.name for clip in clips]}
    about["sources"] = sorted({clip.geometry.source for clip in clips})
    _check_config(folder / "config.json", about)
    torch.manual_seed(config.seed)
    channels, (widths,) = clips[0].features.shape[1], layers
    merger = FeatureMerger(channels, config.hidden, widths, config.frequencies, seed=config.seed)
    optimiser = _optimiser(merger, config)
    start = _resume(folder, merger, optimiser)
    stats = _read_stats(folder / "train_stats.json", start)
    writer = _tensorboard(folder / "tensorboard")
    began = time.perf_counter()
    for step in range(start, config.steps):
        sample = draw_sample(clips, config, step)
        losses = training_step(model, merger, optimiser, sample, config, step)
        entry = {"step": step + 1, **losses, "seconds": round(time.perf_counter() - began, 2)}
        stats.append(entry)
        if writer is not None:
            for name, value in losses.items():
                writer.add_scalar(f"loss/{name}", value, step + 1)
        if progress is not None:
            progress(step + 1, losses["total"])
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            _save_checkpoint(folder, merger, optimiser, step + 1, about)
            write_text(folder / "train_stats.json", json.dumps(stats, indent=1))
    if writer is not None:
        writer.close()
    save_merger(folder / "merger.safetensors", merger, {**about, "step": config.steps})
    return merger.eval()


def training_step(
    model: TrackingModel,
    merger: FeatureMerger,
    optimiser: torch.optim.Optimizer,
    sample: TrainingSample,
    config: TrainingConfig,
    step: int,
) -> dict[str, float]:
    """One step of the optimiser; returns the losses, means over the frames."""
    for group in optimiser.param_groups:
        group["lr"] = rate_at(step, config)
    optimiser.zero_grad(set_to_none=True)
    with _precision(next(merger.parameters()).device.type, config.mixed_precision):
        found = model.outputs(sample, merger)
    total: dict[str, Tensor] = {}
    for output, truth in found:
        floats = FrameOutput(output.masks.float(), output.ious.float(), output.presence.float())
        for name, value in frame_losses(floats, truth).items():
            total[name] = total.get(name, 0) + value / len(found)
    total["total"].backward()
    torch.nn.utils.clip_grad_norm_(merger.parameters(), config.clip_gradient)
    optimiser.step()
    return {name: round(float(value.detach()), 6) for name, value in total.items()}


def rate_at(step: int, config: TrainingConfig) -> float:
    """The learning rate of a step: a linear rise, then half a cosine."""
    rise = max(1, config.steps // 20)
    if step < rise:
        return config.learning_rate * (step + 1) / rise
    done = (step - rise) / max(1, config.steps - rise)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _precision(device: str, mixed: bool) -> Any:
    """bfloat16 on CUDA and MPS where it is wanted; float32 elsewhere."""
    return torch.autocast(device, torch.bfloat16, enabled=mixed and device in ("cuda", "mps"))


def _optimiser(merger: FeatureMerger, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW without weight decay of biases and norms."""
    decayed = [p for p in merger.parameters() if p.ndim > 1]
    others = [p for p in merger.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _check_config(path: Path, about: Mapping[str, Any]) -> None:
    """Write what a run depends on, or refuse a folder that holds another run."""
    text = json.dumps(about, indent=1)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != json.loads(text):
        raise NbHelpersError("the folder holds another training run", given=path.parent, do="name another folder")
    write_text(path, text)


def _read_stats(path: Path, start: int) -> list[dict[str, float]]:
    """The statistics up to the step from which a run goes on."""
    if not path.is_file() or not start:
        return []
    return [entry for entry in json.loads(path.read_text(encoding="utf-8")) if entry["step"] <= start]


def _tensorboard(folder: Path) -> Any:
    """TensorBoard's writer; None, with a note, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("TensorBoard is not installed, so no event files are written; train_stats.json has all figures")
        return None
    return SummaryWriter(str(folder))


def _save_checkpoint(
    folder: Path, merger: FeatureMerger, optimiser: torch.optim.Optimizer, step: int, about: Mapping[str, Any]
) -> None:
    """Weights and optimiser of a step; all but the last two files are removed."""
    from safetensors.torch import save_file

    tensors = {f"merger.{name}": value.contiguous() for name, value in merger.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(value).clone() for name, value in state.items()}
    about = {"about": json.dumps({**about, "step": step, "merger": merger.config})}
    with replacing(folder / f"checkpoint-{step:06d}.safetensors") as temporary:
        save_file(tensors, temporary, metadata=about)
    for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def _resume(folder: Path, merger: FeatureMerger, optimiser: torch.optim.Optimizer) -> int:
    """Load the last checkpoint, if there is one; returns the number of steps done."""
    from safetensors.torch import load_file

    found = sorted(folder.glob("checkpoint-*.safetensors"))
    if not found:
        return 0
    tensors = load_file(found[-1])
    merger.load_state_dict(under("merger.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in under("optimiser.", tensors).items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(found[-1].stem.rpartition("-")[2])


class VideoModel:
    """SAM 2's video network as a `nbhelpers.geometry_fusion.training.TrackingModel`.

    The first frame of a sample gives the object's mask; the others are tracked in their order, each with the memory of
    those before. A clip's features are computed once, by `encode`.

    Args:
        model: of a `nbhelpers.models.sam2_video.Sam2Tracker`; its weights are frozen.
        backbone: catalog name of the tracker.
    """

    detail = 4  # as the decoder's masks

    def __init__(self, model: VideoPredictor, backbone: str):
        self.model, self.backbone = model.eval().requires_grad_(False), backbone
        self._features: dict[str, list[FrameFeatures]] = {}

    def encode(self, name: str, frames: FrameSequence) -> Float[Tensor, "t c h w"]:
        """The coarsest features of a clip's frames, for a `TrainingClip` of this name; those of all levels are kept."""
        from nbhelpers.models.sam2_video_network import LazyImages, encode_frame

        images = LazyImages(frames, self.model.image_size)
        self._features[name] = [encode_frame(self.model, images[number]) for number in range(len(frames))]
        return torch.cat([each.coarse for each in self._features[name]]).to("cpu", torch.float16)

    def outputs(self, sample: TrainingSample, merger: FeatureMerger) -> list[tuple[FrameOutput, Bool[Tensor, "n h w"]]]:
        """Candidates, predicted IoUs and presence on all frames but the first, with the truth."""
        from nbhelpers.models.sam2_video_network import track_frames

        kept = self._features[sample.clip.name]
        device = self.model.device
        merged = []
        for place, number in enumerate(sample.frames):
            changed = sample.merged(merger, kept[number].coarse, slice(place, place + 1))
            merged.append(kept[number].with_coarse(changed))
        labels = sample.clip.labels[sample.object, sample.frames].to(device)
        found = []
        tracked = track_frames(self.model, merged, labels[0] > 0.5)
        for (masks, ious, presence), label in zip(tracked, labels[1:], strict=True):
            truth = functional.interpolate(label[None, None], masks.shape[-2:], mode="bilinear", align_corners=False)
            found.append((FrameOutput(masks, ious, presence), truth[0] > 0.5))
        return found


SEEDS = (1, 2, 3, 4)  # of the synthetic clips that are trained on when none are named; tests take others


def training_set(
    config: Mapping[str, Any], folder: str | Path, models: str | None = None, device: str | None = None
) -> tuple[list[TrainingClip], TrackingModel, tuple[str, ...]]:
    """Clips, frozen networks and the photos that must not be trained on, from a configuration.

    In TOML, all parts may be left out::

        tracker = "sam2.1-hiera-large"      # train through this video network; else for label propagation

        [synthetic]
        seeds = [1, 2, 3, 4]                # of clips with the photos for training

        [[clips]]
        frames = "videos/frames"            # a folder of pictures, or a video
        masks = "videos/gt_masks"           # true masks, numbered as the frames
        every = 6                           # 1 when left out
        geometry = "given"                  # or colmap, da3, ...
        scene = "videos"                    # folder with cameras and depth, for "given"

    Args:
        config: what `TrainingConfig.open` returns beside the training's own settings.
        folder: of the run; features and geometry are kept in ``cache`` below it.
        models: ``"lite"``, ``"official"`` or ``"auto"``.
        device: where the networks compute.

    Raises:
        NbHelpersError: names that are not known; clips that cannot be read.
    """
    if unknown := set(config) - {"tracker", "synthetic", "clips"}:
        raise NbHelpersError(
            "the configuration has names that are not known",
            given=", ".join(sorted(unknown)),
            expected="training, tracker, synthetic, clips",
        )
    from nbhelpers.models.load import load

    cache = Path(folder).expanduser() / "cache"
    if "tracker" in config:
        tracker = load("tracker", config["tracker"], device, models)
        network = getattr(tracker, "model", None)
        if network is None:
            raise NbHelpersError(
                "a merger cannot be trained through this tracker",
                given=tracker.name,
                expected="a video network of SAM 2; without the name tracker, label propagation",
            )
        model: VideoModel | VoteModel = VideoModel(network, tracker.name)
        encode = model.encode
    else:
        segmenter = CachedSegmenter(load("segmenter", None, device, models), cache)
        model = VoteModel(segmenter.name, segmenter.device)
        encode = lambda name, frames: coarse_features(frames, segmenter)  # noqa: E731
    clips = []
    named = config.get("clips", [])
    seeds = config.get("synthetic", {}).get("seeds", () if named else SEEDS)
    if seeds:
        textures = load_textures(TRAINING_PHOTOS)
        made = [render_clip(int(seed), textures) for seed in seeds]
        clips += [synthetic_training_clip(clip, encode(clip.name, clip), model.detail) for clip in made]
    clips += [_real_clip(entry, encode, model.detail, cache, device) for entry in named]
    return clips, model, TEST_PHOTOS


def synthetic_training_clip(clip: SyntheticClip, features: Float[Tensor, "t c h w"], detail: int = 1) -> TrainingClip:
    """A synthetic clip with its features, its exact geometry, and both twins as objects."""
    geometry = SceneGeometry().encode(clip, clip.scene)
    objects = [clip.masks, clip.twin] if clip.twin.any() else [clip.masks]
    labels = clip_labels(objects, detail * features.shape[-1])
    return TrainingClip(clip.name, features, geometry, labels, clip.photos)


def coarse_features(frames: FrameSequence, segmenter: FeatureSegmenter) -> torch.Tensor:
    """SAM 2's coarsest features of all frames, ``(t, c, h, w)`` in half precision."""
    maps = []
    for number in range(len(frames)):
        features = segmenter.features(segmenter.encode(frames[number]))
        maps.append(features.permute(2, 0, 1).to("cpu", torch.float16))
    return torch.stack(maps)


def _real_clip(
    entry: Mapping[str, Any],
    encode: Callable[[str, FrameSequence], Tensor],
    detail: int,
    cache: Path,
    device: str | None,
) -> TrainingClip:
    """A clip of the configuration."""
    from nbhelpers.core.video import Frames

    known = {"frames", "masks", "every", "geometry", "scene", "label"}
    if set(entry) - known or not {"frames", "masks"} <= set(entry):
        raise NbHelpersError(
            "a clip of the configuration cannot be read", given=", ".join(entry), expected=", ".join(sorted(known))
        )
    every = int(entry.get("every", 1))
    frames = Frames(Path(entry["frames"]).expanduser(), step=every)
    truth = read_truth(entry["masks"], frames, every, entry.get("label"))
    encoder = geometry_source(entry.get("geometry", "given" if "scene" in entry else "colmap"), device)
    if encoder is None:
        raise NbHelpersError("a merger cannot be trained without geometry", given=entry["geometry"])
    scene = scene_of(entry.get("scene"))
    geometry = kept_geometry(encoder, frames, cache, None if scene is None else scene(frames))
    features = encode(str(entry["frames"]), frames)
    empty = np.zeros(frames.size, bool)
    masks = np.stack([truth.masks.get(number, empty) for number in range(len(frames))])
    return TrainingClip(str(entry["frames"]), features, geometry, clip_labels([masks], detail * features.shape[-1]))
