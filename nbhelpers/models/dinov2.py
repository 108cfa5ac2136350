"""DINOv2: features of the patches of a picture, learned without labels.

Oquab et al. 2023, arXiv 2304.07193; with register tokens, Darcet et al. 2023, arXiv 2309.16588. The network is the one
of ``transformers``; weights are the publisher's, or the lite ViT-S/14 turned back into the same parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.compute import autocast, in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import with_cpu_fallback
from nbhelpers.weights.convert_vit import vit_state_dict

if TYPE_CHECKING:
    import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the publisher's preprocessing
TOKENS_AT_ONCE = {"cpu": 1024, "mps": 8192, "cuda": 65536}
MAX_TOKENS = 20_000  # attention costs the square of it
NETWORKS = ("dinov2", "dinov2_with_registers")
LITE = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}


class Dinov2Encoder:
    """Patch tokens of pictures of any size; a `nbhelpers.models.protocols.PatchEncoder`.

    Example:
        >>> encoder = nbhelpers.load("patch_encoder")
        >>> encoder.tokens([photo])[0].shape                           # (448, 672, 3) uint8
        (32, 48, 384)

    The positional embedding is interpolated to the picture's grid (bicubic), as the publisher does.

    Args:
        model: ``Dinov2Model`` or ``Dinov2WithRegistersModel`` of ``transformers``.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: torch.nn.Module, name: str, device: str):
        self.model = model.to(device).eval().requires_grad_(False)
        self.name, self.device = name, device
        self.patch: int = model.config.patch_size
        self.dimension: int = model.config.hidden_size
        self._before = 1 + getattr(model.config, "num_register_tokens", 0)  # class token and registers

    def tokens(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float32[np.ndarray, "_ _ d"]]:
        """The tokens of each picture after the last layer norm; see `PatchEncoder.tokens`.

        Raises:
            NbHelpersError: a picture of more than 20,000 patches.
        """
        grids = [tuple(max(1, round(side / self.patch)) for side in image.shape[:2]) for image in images]
        for (rows, columns), image in zip(grids, images, strict=True):
            if rows * columns > MAX_TOKENS:
                raise NbHelpersError(
                    "the picture has too many patches to be encoded at once",
                    given=f"{image.shape[1]} x {image.shape[0]} pixels, {rows * columns} patches",
                    expected=f"at most {MAX_TOKENS}",
                    do="make it smaller first, e.g. by nbhelpers.core.images.fit",
                )
        out: list[Any] = [None] * len(images)
        for grid in dict.fromkeys(grids):
            same = [index for index, other in enumerate(grids) if other == grid]
            at_once = max(1, TOKENS_AT_ONCE[self.device.partition(":")[0]] // (grid[0] * grid[1]))

            def encode(start, stop, grid=grid, same=same):
                return with_cpu_fallback(
                    self, lambda: self._encode([images[index] for index in same[start:stop]], grid)
                )

            parts = in_batches(encode, len(same), at_once, "pictures")
            for index, token in zip(same, (token for part in parts for token in part), strict=True):
                out[index] = token
        return out

    def _encode(self, images: list[np.ndarray], grid: tuple[int, int]) -> Float32[np.ndarray, "b rows columns d"]:
        import torch

        size = grid[1] * self.patch, grid[0] * self.patch
        pixels = np.stack([image if image.shape[1::-1] == size else _stretch(image, size) for image in images])
        batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        shift, scale = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        with autocast(self.device):
            hidden = self.model(pixel_values=(batch - shift) / scale).last_hidden_state
        patches = hidden[:, self._before :].float().cpu().numpy()
        return patches.reshape(len(images), *grid, self.dimension)


def _stretch(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] < image.shape[1] and size[1] < image.shape[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def build(name: str, files: dict[str, Path], device: str, **_: Any) -> Dinov2Encoder:
    """Build an encoder from ``{"checkpoint": model.safetensors, "config": config.json}``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, do not belong together, or are no DINOv2.
    """
    needs("match", "transformers")
    from safetensors.torch import load_file
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(files["config"], local_files_only=True)
        state = load_file(files["checkpoint"])
    except Exception as error:  # json, safetensors and transformers each have their own
        raise NbHelpersError(
            "the checkpoint cannot be loaded",
            given=f"{files['checkpoint']}: {str(error).splitlines()[0]}",
            expected="model.safetensors and config.json of a DINOv2",
            do=f"nbhelpers fetch {name}",
        ) from error
    if config.model_type not in NETWORKS:
        raise NbHelpersError(
            "the configuration is of another network", given=config.model_type, expected=" or ".join(NETWORKS)
        )
    return Dinov2Encoder(_network(config, state, name), name, device)


def build_lite(name: str, files: dict[str, Path], device: str, *, blocks: int = 12) -> Dinov2Encoder:
    """Build the lite ViT-S/14 from ``{"checkpoint": vit_s14_focus.onnx}``.

    Args:
        name: catalog name.
        files: the ONNX file.
        device: where it computes.
        blocks: how many of the 12 transformer blocks to run before the last layer norm.
    """
    needs("match", "transformers")
    import torch
    from transformers import Dinov2Config

    unused = tuple(f"encoder.layer.{number}." for number in range(blocks, 12))
    state = {
        key: torch.from_numpy(value.copy())
        for key, value in vit_state_dict(files["checkpoint"]).items()
        if not key.startswith(unused)
    }
    return Dinov2Encoder(_network(Dinov2Config(**LITE, num_hidden_layers=blocks), state, name), name, device)


def _network(config: Any, state: dict[str, torch.Tensor], name: str) -> torch.nn.Module:
    """The network with all its weights; ``transformers`` knows the older names of parameters and renames them."""
    import transformers

    kinds = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
    network = getattr(transformers, kinds[config.model_type])
    try:
        with _quietly():
            model, loaded = network.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except (RuntimeError, ValueError) as error:
        loaded, reason = None, str(error).splitlines()[0]
    else:
        missing = sorted(loaded["missing_keys"]) + [str(key) for key in loaded["mismatched_keys"]]
        reason = f"{len(missing)} parameters are missing or have another size, first {missing[0]}" if missing else ""
    if reason:
        raise NbHelpersError(
            "the weights do not fit the network",
            given=f"{name}: {reason}",
            expected="model.safetensors and config.json of one model",
            do=f"nbhelpers fetch {name}",
        )
    return model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide the progress bar of ``transformers``: loading takes half a second."""
    from transformers.utils import logging as hub

    shown = hub.is_progress_bar_enabled()
    hub.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hub.enable_progress_bar()
