"""DINOv2: self-supervised patch features.

Oquab et al. 2023, arXiv 2304.07193; with register tokens, Darcet et al. 2023, arXiv 2309.16588. The network is the one
of ``transformers``; weights are the publisher's, or the lite ViT-S/14 converted to the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.lazy import needs
from nbhelpers.models.patches import encode_patches
from nbhelpers.models.pretrained import fill_network, load_network
from nbhelpers.weights.convert import vit_state_dict

if TYPE_CHECKING:
    from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the publisher's preprocessing
NETWORKS = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
LITE = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}


class Dinov2Encoder:
    """Patch tokens of images of any size; a `nbhelpers.models.protocols.PatchEncoder`.

    Example:
        >>> encoder = nbhelpers.load("patch_encoder")
        >>> encoder.tokens([photo])[0].shape                           # (448, 672, 3) uint8
        (32, 48, 384)

    The positional embedding is interpolated to the image's grid (bicubic), like the publisher's code.

    Args:
        model: ``Dinov2Model`` or ``Dinov2WithRegistersModel`` of ``transformers``.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: Any, name: str, device: str):
        self.model = model.to(device).eval().requires_grad_(False)
        self.name, self.device = name, device
        self.patch: int = model.config.patch_size
        self.dimension: int = model.config.hidden_size
        self._before = 1 + getattr(model.config, "num_register_tokens", 0)  # class token and registers

    def tokens(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float32[np.ndarray, "_ _ d"]]:
        """The tokens of each image after the last layer norm; see `PatchEncoder.tokens`.

        Raises:
            NbHelpersError: an image of more than 20,000 patches.
        """
        return encode_patches(self, images, self._encode)

    def _encode(self, images: list[np.ndarray], grid: tuple[int, int]) -> Float[Tensor, "b rows columns d"]:
        import torch

        size = grid[1] * self.patch, grid[0] * self.patch
        pixels = np.stack([image if image.shape[1::-1] == size else _stretch(image, size) for image in images])
        batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        shift, scale = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        hidden = self.model(pixel_values=(batch - shift) / scale).last_hidden_state
        return hidden[:, self._before :].reshape(len(images), *grid, self.dimension)


def _stretch(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] < image.shape[1] and size[1] < image.shape[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def build(name: str, files: dict[str, Path], device: str, **_: Any) -> Dinov2Encoder:
    """Build an encoder from ``{"checkpoint": model.safetensors, "config": config.json}``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, do not match, or are not DINOv2.
    """
    needs("match", "transformers")
    return Dinov2Encoder(load_network(name, files, NETWORKS), name, device)


def build_lite(name: str, files: dict[str, Path], device: str, *, blocks: int = 12) -> Dinov2Encoder:
    """Build the lite ViT-S/14 from ``{"checkpoint": vit_s14_focus.onnx}``.

    Args:
        name: catalog name.
        files: the ONNX file.
        device: where it computes.
        blocks: number of the 12 transformer blocks to run before the last layer norm.
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
    options: dict[str, Any] = {**LITE, "num_hidden_layers": blocks}
    config = Dinov2Config(**options)
    return Dinov2Encoder(fill_network(name, NETWORKS["dinov2"], config, state), name, device)
