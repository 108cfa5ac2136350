"""Patch encoders: DINOv2 and DINOv3, and the grids and batches that all share.

DINOv2: Oquab et al. 2023, arXiv 2304.07193; with register tokens, Darcet et al. 2023, arXiv 2309.16588. Weights are the
publisher's, or the lite ViT-S/14 converted to the same parameters.

DINOv3: Siméoni et al. 2025, arXiv 2508.10104; vision transformers and ConvNeXts. The distance of patches in different
images depends on their content and on their positions. INSID3 (Cuttano et al. 2026, arXiv 2603.28480) found that
positions lie in few directions, which an image without content reveals, and removes these.

The networks are those of ``transformers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.device import in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import fill_network, in_precision, load_network, load_processor, processed
from nbhelpers.weights.convert import vit_state_dict

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_AT_ONCE = {"cpu": 1024, "mps": 8192, "cuda": 65536}
MAX_TOKENS = 20_000  # attention costs the square of it

Image = UInt8[np.ndarray, "_ _ 3"]
Encode = Callable[[list[Image], tuple[int, int]], "Float[Tensor, 'b rows columns d']"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the publisher's preprocessing
DINOV2 = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
LITE_VIT = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
DINOV3 = {"dinov3_vit": "DINOv3ViTModel", "dinov3_convnext": "DINOv3ConvNextModel"}
BLANK_GRID = 64  # patches per side of the blank image: 1024 pixels, as in INSID3
MAX_FRACTION = 0.5  # of the dimensions that may be removed


def grid_of(image: Image, patch: int) -> tuple[int, int]:
    """Rows and columns of whole patches, at least one each, to which an image is stretched."""
    rows, columns = (max(1, round(side / patch)) for side in image.shape[:2])
    return rows, columns


def encode_patches(adapter: Any, images: Sequence[Image], encode: Encode) -> list[Float32[np.ndarray, "_ _ d"]]:
    """The tokens of each image; see `nbhelpers.models.protocols.PatchEncoder.tokens`.

    Args:
        adapter: has ``patch``, and what `with_cpu_fallback` takes.
        images: of any sizes.
        encode: called with images of one grid and the grid; reads ``adapter.device`` at each call.

    Raises:
        NbHelpersError: an image of more than 20,000 patches.
    """
    grids = [grid_of(image, adapter.patch) for image in images]
    for (rows, columns), image in zip(grids, images, strict=True):
        if rows * columns > MAX_TOKENS:
            raise NbHelpersError(
                "the image has too many patches to be encoded at once",
                given=f"{image.shape[1]} x {image.shape[0]} pixels, {rows * columns} patches",
                expected=f"at most {MAX_TOKENS}",
                do="make it smaller first, e.g. by nbhelpers.core.images.fit",
            )
    out: list[Any] = [None] * len(images)
    for grid in dict.fromkeys(grids):
        same = [index for index, other in enumerate(grids) if other == grid]
        at_once = max(1, TOKENS_AT_ONCE[adapter.device.partition(":")[0]] // (grid[0] * grid[1]))

        def run(start, stop, grid=grid, same=same):
            pictures = [images[index] for index in same[start:stop]]
            return in_precision(adapter, lambda: encode(pictures, grid).float().cpu().numpy())

        parts = in_batches(run, len(same), at_once, "pictures")
        for index, token in zip(same, (token for part in parts for token in part), strict=True):
            out[index] = token
    return out


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


def build_dinov2(name: str, files: dict[str, Path], device: str, **_: Any) -> Dinov2Encoder:
    """Build an encoder from ``{"checkpoint": model.safetensors, "config": config.json}``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, do not match, or are not DINOv2.
    """
    needs("match", "transformers")
    return Dinov2Encoder(load_network(name, files, DINOV2), name, device)


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
    options: dict[str, Any] = {**LITE_VIT, "num_hidden_layers": blocks}
    config = Dinov2Config(**options)
    return Dinov2Encoder(fill_network(name, DINOV2["dinov2"], config, state), name, device)


class Dinov3Encoder:
    """Patch tokens of images of any size; a `nbhelpers.models.protocols.PatchEncoder`.

    Example:
        >>> encoder = nbhelpers.load("patch_encoder", "dinov3-vit-large")
        >>> encoder.tokens([photo])[0].shape                           # (448, 672, 3) uint8
        (28, 42, 1024)

    Args:
        model: ``DINOv3ViTModel`` or ``DINOv3ConvNextModel`` of ``transformers``.
        processor: the publisher's ``DINOv3ViTImageProcessor``.
        name: its catalog name.
        device: where it computes.
        positions: how many directions of the positional bias are removed from the tokens; 0 leaves them as they are.

    Raises:
        NbHelpersError: more directions than half the length of a token.
    """

    def __init__(self, model: Any, processor: Any, name: str, device: str, positions: int = 0):
        self.model = model.to(device).eval().requires_grad_(False)
        self.processor, self.name, self.device = processor, name, device
        config = model.config
        is_vit = config.model_type == "dinov3_vit"
        self.patch: int = config.patch_size if is_vit else 2 ** (config.num_stages + 1)  # a stem of 4, then halvings
        self.dimension: int = config.hidden_size if is_vit else config.hidden_sizes[-1]
        self._before = 1 + getattr(config, "num_register_tokens", 0)  # class token and registers
        if not 0 <= positions <= MAX_FRACTION * self.dimension:
            raise NbHelpersError(
                "the number of removed directions is out of range",
                given=positions,
                expected=f"0 to {int(MAX_FRACTION * self.dimension)}, for tokens of {self.dimension}",
            )
        self.positions = positions
        self._basis: np.ndarray | None = None

    def tokens(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float32[np.ndarray, "_ _ d"]]:
        """The tokens of each image after the last layer norm; see `PatchEncoder.tokens`.

        Raises:
            NbHelpersError: an image of more than 20,000 patches.
        """
        tokens = encode_patches(self, images, self._encode)
        return [remove_directions(token, self._position_basis()) for token in tokens] if self.positions else tokens

    def _encode(self, images: list[np.ndarray], grid: tuple[int, int]) -> Float[Tensor, "b rows columns d"]:
        pixels = processed(self.processor, images, (grid[0] * self.patch, grid[1] * self.patch), self.device)
        hidden = self.model(pixel_values=pixels).last_hidden_state
        return hidden[:, self._before :].reshape(len(images), *grid, self.dimension)

    def _position_basis(self) -> Float32[np.ndarray, "k d"]:
        """The directions of the positional bias, computed once from an image without content."""
        if self._basis is None:
            side = BLANK_GRID * self.patch
            (tokens,) = encode_patches(self, [np.zeros((side, side, 3), np.uint8)], self._encode)
            self._basis = position_directions(tokens, self.positions)
        return self._basis


def position_directions(blank: Float32[np.ndarray, "h w d"], count: int) -> Float32[np.ndarray, "k d"]:
    """The principal directions of the tokens of an image without content.

    Args:
        blank: tokens of the blank image.
        count: number of directions, by decreasing singular value; ``k`` is lower if the tokens have a lower rank.

    Returns:
        Rows of length 1, orthogonal to each other.

    Source: INSID3 (arXiv 2603.28480): the first right singular vectors of the centred tokens, each of length 1, of a
    black image of 1024 x 1024 pixels; 500 of 1024 directions for its clustering, 20 for matching across photos.
    """
    rows = blank.reshape(-1, blank.shape[-1]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    _, values, directions = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    rank = int((values > 1e-5 * len(rows) ** 0.5).sum())  # below is rounding: rows have length 1
    return directions[: min(count, rank)].astype(np.float32)


def remove_directions(
    tokens: Float32[np.ndarray, "h w d"], directions: Float32[np.ndarray, "k d"]
) -> Float32[np.ndarray, "h w d"]:
    """The tokens projected onto the complement of some directions: ``t - t D^T D``."""
    return tokens - (tokens @ directions.T) @ directions


def build_dinov3(name: str, files: dict[str, Path], device: str, *, positions: int = 0) -> Dinov3Encoder:
    """Build an encoder from the roles ``checkpoint``, ``config`` and ``processor``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, do not belong together, or are no DINOv3.
    """
    needs("official", "transformers")
    model = load_network(name, files, DINOV3)
    processor = load_processor(name, files, "DINOv3ViTImageProcessor")
    return Dinov3Encoder(model, processor, name, device, positions)
