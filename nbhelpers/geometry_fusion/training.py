"""Training of a merger beside frozen networks, from features that are computed once; resumed where it stopped."""

from __future__ import annotations

import json
import logging
import math
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import check_writable, replacing, write_text
from nbhelpers.geometry_fusion.losses import FrameOutput, frame_losses
from nbhelpers.geometry_fusion.merger import FeatureMerger
from nbhelpers.geometry_fusion.tracker import prior_tensors
from nbhelpers.models.label_propagation.tracker import MIN_SIMILARITY
from nbhelpers.models.label_propagation.votes import NEIGHBOURS, TEMPERATURE
from nbhelpers.models.values import Geometry

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
        labels: ``(o, t, rows, columns)``, fraction of each cell that each of the objects covers.
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

    def outputs(self, sample: TrainingSample, merger: FeatureMerger) -> list[tuple[FrameOutput, Bool[Tensor, "n h w"]]]:
        """What is predicted on the frames to be voted on, each with the truth."""
        ...


class VoteModel:
    """Label propagation with gradients: the vote of `nbhelpers.models.label_propagation.votes` on some coarse cells.

    Args:
        backbone: name of the segmenter whose features the clips have.
        device: where it computes.
    """

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
        clip = clips[rng.integers(len(clips))]
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
    merger.load_state_dict(_under("merger.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimiser.", tensors).items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(found[-1].stem.rpartition("-")[2])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def save_merger(path: str | Path, merger: FeatureMerger, about: Mapping[str, Any]) -> Path:
    """Write a merger with what it was made from (``backbone``, ``sources``, ...); return the path."""
    from safetensors.torch import save_file

    metadata = {"about": json.dumps({**about, "merger": merger.config})}
    tensors = {name: value.detach().cpu().contiguous() for name, value in merger.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return Path(path)


@dataclass(frozen=True)
class CheckpointInfo:
    """What is in a checkpoint file.

    Attributes:
        path: the file.
        backbone: name of the network whose features it changes; empty where the file does not say.
        has_geometry: whether a merger is in it that changes anything.
        parameters: of the merger, or of all weights where there is none.
        step: of its training.
        about: all that the file says of itself.
    """

    path: Path
    backbone: str
    has_geometry: bool
    parameters: int
    step: int
    about: Mapping[str, Any]


def inspect_checkpoint(path: str | Path) -> CheckpointInfo:
    """What is in a merger's file, a training checkpoint, or any other file of weights.

    Raises:
        NbHelpersError: no such file, or none of weights.
    """
    from nbhelpers.models.adapters import read_weights

    path = Path(path).expanduser()
    if not path.is_file():
        raise NbHelpersError("there is no such checkpoint", given=path)
    tensors = read_weights(path, "a merger's file, or a checkpoint of its training")
    tensors = tensors.get("model", tensors)
    own = _under("merger.", tensors) or tensors
    about = _about(path)
    has = "last.weight" in own and bool(own["last.weight"].any() or own["last.bias"].any())
    count = sum(int(value.numel()) for value in own.values() if isinstance(value, Tensor))
    return CheckpointInfo(path, about.get("backbone", ""), has, count, int(about.get("step", 0)), about)


def _about(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself; empty for others."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        return json.loads((file.metadata() or {}).get("about", "{}"))


def load_merger(path: str | Path | None = None, backbone: str | None = None) -> FeatureMerger:
    """A trained merger from its file or a training checkpoint, in evaluation mode.

    Args:
        path: the file; `PACKAGED` when left out.
        backbone: name of the network that it must have been trained for.

    Raises:
        NbHelpersError: no such file; one without a merger, or of another backbone.
    """
    path = PACKAGED if path is None else Path(path).expanduser()
    info = inspect_checkpoint(path)
    if "merger" not in info.about:
        raise NbHelpersError(
            "the checkpoint holds no geometry",
            given=path,
            expected="merger.safetensors, or a checkpoint of its training",
            do="nbhelpers geometry-fusion inspect tells what is in it; nbhelpers geometry-fusion train makes one",
        )
    if backbone is not None and info.backbone != backbone:
        raise NbHelpersError(
            "the merger is of another backbone",
            given=f"{path.name}: {info.backbone}",
            expected=backbone,
            do="train one for this backbone: nbhelpers geometry-fusion train",
        )
    from nbhelpers.models.adapters import read_weights

    tensors = read_weights(path, "a merger's file")
    merger = FeatureMerger(**info.about["merger"])
    merger.load_state_dict(_under("merger.", tensors) or tensors)
    return merger.eval().requires_grad_(False)


PACKAGED = Path(__file__).with_name("merger-sam2-hiera-tiny-lite.safetensors")
"""Where a merger for the lite segmenter lies in the package, if one was put there."""
