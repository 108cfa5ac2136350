"""The network that merges geometry into SAM 2's features, its files, and the same without learning.

`FeatureMerger` follows 3AM (arXiv 2601.08831, section 3): a Fourier encoding of points and rays, self-attention on the
shallowest layer of a geometry network and cross-attention to the deeper ones, and convolutions that join the result
with SAM 2's coarsest features. What differs: its last layer starts at zero and what it gives is added, so that an
untrained merger changes nothing; and cells without geometry are not changed at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing

KERNEL_SIGMA = 0.15  # z-scored units: the distance at which two places are no longer the same
RAY_SIGMA = 1.0
KERNEL_WEIGHT = 0.75  # of places in the similarity of two cells, the rest is looks
PACKAGED = Path(__file__).with_name("merger-sam2-hiera-tiny-lite.safetensors")
"""Where a merger for the lite segmenter lies in the package, if one was put there."""


class FourierEncoding(nn.Module):
    """Random Fourier features: ``cos`` and ``sin`` of random projections, with the product of a Gaussian kernel.

    The product of two encodings is about ``exp(-|a - b|^2 / (2 sigma^2))`` (Rahimi and Recht 2007, "Random Features for
    Large-Scale Kernel Machines").

    Args:
        dimensions: of a point.
        frequencies: number of projections; the encoding is twice as long.
        sigma: of the kernel, one or several that share the frequencies.
        seed: of the projections, which are kept with the weights.
    """

    projection: Tensor

    def __init__(self, dimensions: int, frequencies: int, sigma: float | Sequence[float], seed: int = 0):
        super().__init__()
        sigmas = [sigma] if isinstance(sigma, (int, float)) else list(sigma)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(dimensions, frequencies, generator=generator)
        width = torch.tensor([sigmas[number % len(sigmas)] for number in range(frequencies)])
        self.register_buffer("projection", drawn / width)

    def forward(self, points: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch e"]:
        """The encoding, of length 1."""
        phases = points @ self.projection
        return torch.cat([phases.cos(), phases.sin()], -1) / math.sqrt(phases.shape[-1])


class FeatureMerger(nn.Module):
    """Adds to SAM 2's coarsest features what tells where in space each cell lies.

    Example:
        >>> merger = FeatureMerger(256)
        >>> merger(features, prior, valid).shape                       # (1, 256, 64, 64), (1, 6, 64, 64), (1, 64, 64)
        torch.Size([1, 256, 64, 64])

    Args:
        channels: of SAM 2's features.
        hidden: width inside.
        layers: channels of the geometry network's feature maps, the shallowest first; none for sources without them.
        frequencies: of the Fourier encoding.
        heads: of the attention; used with layers only.
        seed: of the Fourier projections.
    """

    def __init__(
        self,
        channels: int = 256,
        hidden: int = 128,
        layers: Sequence[int] = (),
        frequencies: int = 64,
        heads: int = 4,
        seed: int = 0,
    ):
        super().__init__()
        self.config = {
            "channels": channels, "hidden": hidden, "layers": list(layers), "frequencies": frequencies, "heads": heads,
            "seed": seed,
        }  # fmt: skip
        self.places = FourierEncoding(3, frequencies, (KERNEL_SIGMA, 2 * KERNEL_SIGMA, 4 * KERNEL_SIGMA), seed)
        self.directions = FourierEncoding(3, max(4, frequencies // 8), RAY_SIGMA, seed + 1)
        width = 2 * (frequencies + max(4, frequencies // 8))
        self.encode = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.inputs = nn.ModuleList(nn.Conv2d(count, hidden, 1) for count in layers)
        self.blocks = nn.ModuleList(_Attention(hidden, heads) for _ in layers)
        self.reduce = nn.Conv2d(channels, hidden // 2, 1)
        self.merge = nn.Sequential(nn.Conv2d(hidden + hidden // 2, hidden, 3, padding=1), nn.GELU())
        self.last = nn.Conv2d(hidden + 2 * frequencies, channels, 1)
        for each in self.last.parameters():
            nn.init.zeros_(each)

    @property
    def is_untrained(self) -> bool:
        """Whether the last layer is zero, so that features are unchanged."""
        return not any(bool(each.any()) for each in self.last.parameters())

    def forward(
        self,
        features: Float[Tensor, "b c h w"],
        prior: Float[Tensor, "b 6 gh gw"],
        valid: Bool[Tensor, "b gh gw"],
        layers: Sequence[Float[Tensor, "b _ _ _"]] = (),
    ) -> Float[Tensor, "b c h w"]:
        """The merged features; those of cells without geometry are returned as they are.

        Args:
            features: SAM 2's, before memory attention.
            prior: z-scored points and unit rays of the geometry's cells.
            valid: which of them have a point.
            layers: of the geometry network, as many as the merger was built for.
        """
        size = features.shape[-2:]
        local, known = resample(prior, valid, size)
        context, places = self._encode(local)
        if len(self.inputs):
            context = context + self._attend(layers, prior, valid, size)
        context = context * known[:, None]
        joined = self.merge(torch.cat([context, self.reduce(features)], 1))
        change = self.last(torch.cat([joined, places], 1))  # the product of raw places is a kernel
        return features + torch.where(known[:, None], change, torch.zeros_like(change))

    def _encode(self, prior: Float[Tensor, "b 6 h w"]) -> tuple[Float[Tensor, "b e h w"], Float[Tensor, "b f h w"]]:
        """Points and rays of each cell as ``hidden`` channels, and the Fourier features of the points."""
        cells = prior.permute(0, 2, 3, 1)
        places, directions = self.places(cells[..., :3]), self.directions(cells[..., 3:])
        places, directions = (each * math.sqrt(each.shape[-1]) for each in (places, directions))  # values about 1
        encoded = self.encode(torch.cat([places, directions], -1))
        return encoded.permute(0, 3, 1, 2), places.permute(0, 3, 1, 2)

    def _attend(
        self, layers: Sequence[Tensor], prior: Tensor, valid: Tensor, size: Sequence[int]
    ) -> Float[Tensor, "b e h w"]:
        """The layers, from the shallowest to the deepest, as one map of ``size``."""
        if len(layers) != len(self.inputs):
            raise ValueError(f"{len(layers)} layers were given, the merger was built for {len(self.inputs)}")
        state = positions = grid = None
        for layer, project, block in zip(layers, self.inputs, self.blocks, strict=True):
            local, known = resample(prior, valid, layer.shape[-2:])
            encoded = (self._encode(local)[0] * known[:, None]).flatten(2).mT
            tokens = project(layer).flatten(2).mT
            if state is None:
                state, positions = tokens, encoded
                grid = layer.shape[-2:]
            state = block(state, positions, tokens, encoded)
        assert state is not None and grid is not None  # there are layers
        context = state.mT.reshape(len(prior), -1, *grid)
        return functional.interpolate(context, tuple(size), mode="bilinear", align_corners=False)


class _Attention(nn.Module):
    """Attention of the state to itself or to a deeper layer, and a feed-forward part, each with a skip."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.before, self.after = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.forward_part = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))

    def forward(self, state: Tensor, positions: Tensor, tokens: Tensor, encoded: Tensor) -> Tensor:
        """The state ``(b, n, e)`` after it has seen the tokens ``(b, m, e)``; both with their encoded places."""
        values = self.before(tokens)
        state = state + self.attention(self.before(state) + positions, values + encoded, values, need_weights=False)[0]
        return state + self.forward_part(self.after(state))


def resample(
    prior: Float[Tensor, "b c gh gw"], valid: Bool[Tensor, "b gh gw"], size: Sequence[int]
) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b h w"]]:
    """Prior and validity at the cells of another grid: the nearest cell's, since a mean of places is none."""
    if tuple(prior.shape[-2:]) == tuple(size):
        return prior, valid
    return (
        functional.interpolate(prior, tuple(size), mode="nearest-exact"),
        functional.interpolate(valid[:, None].float(), tuple(size), mode="nearest-exact")[:, 0] > 0.5,
    )


class PlaceKernel(nn.Module):
    """The merger's rival without learning: places compared by a Gaussian kernel, beside looks.

    Cells with geometry get ``weight`` of their similarity from where they lie and the rest from SAM 2's features; two
    cells of which one has none are compared by features alone. For trackers that compare cells by their cosine, since
    it adds channels.

    Args:
        sigma: of the kernel, z-scored units.
        weight: of places, 0 to 1.
        frequencies: of the Fourier encoding.
    """

    def __init__(self, sigma: float = KERNEL_SIGMA, weight: float = KERNEL_WEIGHT, frequencies: int = 128):
        super().__init__()
        self.places, self.weight = FourierEncoding(3, frequencies, sigma), weight

    def forward(
        self,
        features: Float[Tensor, "b c h w"],
        prior: Float[Tensor, "b 6 gh gw"],
        valid: Bool[Tensor, "b gh gw"],
        layers: Sequence[Tensor] = (),
    ) -> Float[Tensor, "b e h w"]:
        """Features of length about 1 with the encoded places beside them."""
        prior, valid = resample(prior, valid, features.shape[-2:])
        looks = functional.normalize(features - features.mean((2, 3), keepdim=True), dim=1)
        share = self.weight * valid[:, None]
        places = self.places(prior[:, :3].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return torch.cat([(1 - share).sqrt() * looks, share.sqrt() * places], 1)


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
    own = under("merger.", tensors) or tensors
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
    merger.load_state_dict(under("merger.", tensors) or tensors)
    return merger.eval().requires_grad_(False)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
