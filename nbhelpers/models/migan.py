"""MI-GAN on ONNX Runtime: a small inpainting network that is fast on any CPU.

Sargsyan et al., ICCV 2023, "MI-GAN: A Simple Baseline for Image Inpainting on Mobile Devices".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit_square, unfit_square
from nbhelpers.models.adapters import onnx_session

if TYPE_CHECKING:
    pass

SIDE = 512
HOLE, KEEP = 0, 255
OFFICIAL = "stable-diffusion-inpainting"


class MiganInpainter:
    """Inpainting from the surroundings; a `nbhelpers.models.protocols.Inpainter` without text input.

    Example:
        >>> inpainter = nbhelpers.load("inpainter", "migan")
        >>> inpainter.fill(image, mask).shape
        (480, 640, 3)

    Args:
        session: of the graph with inputs ``image (1, 3, h, w) uint8`` and ``mask (1, 1, h, w) uint8`` (0 is the hole).
        name: catalog name.
        device: ``"cpu"``, or ``"cuda"`` where ONNX Runtime can use it.
    """

    side = SIDE

    def __init__(self, session: Any, name: str = "migan", device: str = "cpu"):
        self.session, self.name, self.device = session, name, device

    def fill(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: Bool[np.ndarray, "h w"],
        prompt: str | None = None,
        seed: int = 0,
        strength: float = 1.0,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The photo with the masked area inpainted from its surroundings.

        The network works at 512 x 512: pass a crop, as `nbhelpers.editing.remove` does, or detail is lost.

        Args:
            image: RGB.
            mask: the area to inpaint.
            prompt: must be None, since the network has no text input.
            seed: no effect: the network is deterministic.
            strength: no effect: the masked area is never kept.

        Raises:
            NbHelpersError: a prompt was given, or the mask covers the whole image.
        """
        if prompt is not None:
            raise NbHelpersError(
                f"{self.name} inpaints from the surroundings and has no text input",
                given=f"the prompt {prompt!r}",
                expected=f"an inpainter with text input, such as {OFFICIAL}",
                do=f'nbhelpers fetch {OFFICIAL}, then load("inpainter", "{OFFICIAL}"); or remove without a prompt',
            )
        if mask.all():
            raise NbHelpersError("the mask covers the whole image: there are no surroundings to inpaint from")
        if not mask.any():
            return image.copy()
        square, hole, inside = fit_square(image, mask, SIDE)
        feeds = {
            "image": np.ascontiguousarray(square.transpose(2, 0, 1)[None]),
            "mask": np.where(hole, HOLE, KEEP).astype(np.uint8)[None, None],
        }
        (result,) = self.session.run(None, feeds)
        return unfit_square(np.ascontiguousarray(result[0].transpose(1, 2, 0)), inside, image.shape[:2])


def build(name: str, files: dict[str, Path], device: str) -> MiganInpainter:
    """Build the inpainter from ``{"checkpoint": path}``.

    Raises:
        NbHelpersError: a file that ONNX Runtime cannot read.
    """
    try:
        session, device = onnx_session(files["checkpoint"], device)
    except Exception as error:  # onnxruntime's exceptions have no public base
        raise NbHelpersError(
            "the model file cannot be loaded",
            given=f"{files['checkpoint'].name}: {str(error).splitlines()[0]}",
            do=f"nbhelpers fetch {name}",
        ) from error
    return MiganInpainter(session, name, device)
