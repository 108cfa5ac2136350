"""What patch encoders share: grids of whole patches, batches of one size, and the fallback when memory is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.device import in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.adapters import in_precision

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_AT_ONCE = {"cpu": 1024, "mps": 8192, "cuda": 65536}
MAX_TOKENS = 20_000  # attention costs the square of it

Image = UInt8[np.ndarray, "_ _ 3"]
Encode = Callable[[list[Image], tuple[int, int]], "Float[Tensor, 'b rows columns d']"]


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
