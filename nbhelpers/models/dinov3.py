"""DINOv3: self-supervised patch features, with removal of their positional bias.

Siméoni et al. 2025, arXiv 2508.10104; vision transformers and ConvNeXts, run by ``transformers``. The distance
of patches in different images depends on their content and on their positions. INSID3 (Cuttano et al. 2026, arXiv
2603.28480) found that positions lie in few directions, which an image without content reveals, and removes these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.models.patches import encode_patches
from nbhelpers.models.pretrained import load_network, load_processor, processed

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = {"dinov3_vit": "DINOv3ViTModel", "dinov3_convnext": "DINOv3ConvNextModel"}
BLANK_GRID = 64  # patches per side of the blank image: 1024 pixels, as in INSID3
MAX_FRACTION = 0.5  # of the dimensions that may be removed


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


def build(name: str, files: dict[str, Path], device: str, *, positions: int = 0) -> Dinov3Encoder:
    """Build an encoder from the roles ``checkpoint``, ``config`` and ``processor``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, do not belong together, or are no DINOv3.
    """
    needs("official", "transformers")
    model = load_network(name, files, NETWORKS)
    processor = load_processor(name, files, "DINOv3ViTImageProcessor")
    return Dinov3Encoder(model, processor, name, device, positions)
