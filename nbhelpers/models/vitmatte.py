"""ViTMatte: opacity at an object's rim (hair, fur, motion blur) from a photo and a trimap.

Yao et al. 2023, ViTMatte (arXiv 2305.15272); run by ``transformers``. It sees each frame alone: equal frames and masks
give equal mattes, and where the outline flickers ``MatteSettings(steady=...)`` smooths the trimap, not the opacities.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.device import in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import in_precision, load_network, load_processor

if TYPE_CHECKING:
    import torch

NETWORKS = {"vitmatte": "VitMatteForImageMatting"}
PIXELS_AT_ONCE = {"cpu": 1_000_000, "mps": 2_000_000, "cuda": 8_000_000}
INSIDE, OUTSIDE = 255, 0  # of a trimap


class VitMatteMatting:
    """A `nbhelpers.models.protocols.MattingModel`.

    Example:
        >>> matting = nbhelpers.load("matting", "vitmatte-small")
        >>> (alpha,) = matting.alphas([image], [trimap])                # (480, 640, 3), (480, 640) uint8
        >>> alpha.shape, alpha.dtype
        ((480, 640), dtype('float32'))

    Args:
        model: ``VitMatteForImageMatting`` of ``transformers``.
        processor: the publisher's ``VitMatteImageProcessor``.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: torch.nn.Module, processor: Any, name: str, device: str):
        self.model = model.to(device).eval().requires_grad_(False)
        self.processor, self.name, self.device = processor, name, device

    def alphas(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], trimaps: Sequence[UInt8[np.ndarray, "_ _"]]
    ) -> list[Float32[np.ndarray, "_ _"]]:
        """The opacity of each photo, 0 to 1; pictures of one size, as frames of a clip, in batches.

        Args:
            images: RGB.
            trimaps: 255 inside the object, 0 outside, any other value where the opacity is looked for.

        Raises:
            NbHelpersError: not as many trimaps as images, or of other sizes.
        """
        if len(images) != len(trimaps) or any(i.shape[:2] != t.shape for i, t in zip(images, trimaps, strict=True)):
            raise NbHelpersError(
                "images and trimaps do not fit together",
                given=f"{[i.shape[:2] for i in images]} and {[t.shape for t in trimaps]}",
                expected="a trimap of each image's size",
            )
        out: list[Any] = [None] * len(images)
        for size in dict.fromkeys(image.shape[:2] for image in images):
            same = [index for index, image in enumerate(images) if image.shape[:2] == size]
            at_once = max(1, PIXELS_AT_ONCE[self.device.partition(":")[0]] // (size[0] * size[1]))

            def run(start, stop, same=same):
                chosen = same[start:stop]
                pairs = [images[index] for index in chosen], [trimaps[index] for index in chosen]
                return in_precision(self, lambda: self._run(*pairs))

            parts = in_batches(run, len(same), at_once, "pictures")
            for index, alpha in zip(same, (alpha for part in parts for alpha in part), strict=True):
                known = np.isin(trimaps[index], (INSIDE, OUTSIDE))
                out[index] = np.where(known, trimaps[index] == INSIDE, alpha).astype(np.float32)
        return out

    def _run(self, images: list[np.ndarray], trimaps: list[np.ndarray]) -> Float32[np.ndarray, "b h w"]:
        """What the network gives everywhere, without the padding."""
        height, width = images[0].shape[:2]
        batch = self.processor(
            [image.copy() for image in images],  # torch shares no read-only arrays
            trimaps=[trimap.copy() for trimap in trimaps],
            input_data_format="channels_last",
            return_tensors="pt",
        )
        alphas = self.model(pixel_values=batch["pixel_values"].to(self.device)).alphas
        return alphas[:, 0, :height, :width].float().cpu().numpy()


def build(name: str, files: dict[str, Path], device: str) -> VitMatteMatting:
    """Build it from the roles ``checkpoint``, ``config`` and ``processor``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, do not belong together, or are no ViTMatte.
    """
    needs("official", "transformers")
    model = load_network(name, files, NETWORKS)
    return VitMatteMatting(model, load_processor(name, files, "VitMatteImageProcessor"), name, device)
