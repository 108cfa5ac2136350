"""Pixel-adaptive mask refinement (PAMR): a coarse map is pulled to the edges of the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor

DILATIONS = (8, 16)  # NACLIP's and SCLIP's setting
STEPS = 10
SHARPNESS = 0.1  # share of the local deviation at which a difference weighs 1/e


def pamr(
    image: Float[Tensor, "c h w"],
    maps: Float[Tensor, "n h w"],
    steps: int = STEPS,
    dilations: Sequence[int] = DILATIONS,
) -> Float[Tensor, "n h w"]:
    r"""Average each map repeatedly over neighbours that look alike.

    The neighbours ``N(p)`` of a pixel are the 8 around it at each dilation; beyond the border the border's pixels
    are repeated. With ``s_c(p)`` the standard deviation (with n - 1) of channel ``c`` over those neighbours and ``p``
    itself, counted once a dilation::

        k(p, q) = - mean_c |I_c(p) - I_c(q)| / (0.1 s_c(p) + 1e-8)
        a(p, q) = exp k(p, q) / sum_{r in N(p)} exp k(p, r)
        m(p)   <- sum_{q in N(p)} a(p, q) m(q)                          ``steps`` times

    Only differences relative to their surroundings matter, so any brightness or contrast of ``image`` gives the same.

    Example:
        >>> pamr(image, logits).shape                     # (3, 375, 500), (21, 375, 500)
        torch.Size([21, 375, 500])

    Args:
        image: the picture, in any range.
        maps: logits or probabilities at its size.
        steps: how often to average.
        dilations: distances of the neighbours in pixels.

    Source: Araslanov & Roth 2020, arXiv 2005.08104, and its reference code, with the numbers of
    NACLIP (arXiv 2404.08181).
    """
    import torch

    around = torch.stack(list(_neighbours(image, dilations)))
    with_self = torch.cat([around, image.expand(len(dilations), *image.shape)])
    deviation = SHARPNESS * with_self.std(0) + 1e-8
    affinity = -((around - image).abs() / deviation).mean(1)  # (neighbours, h, w)
    weights = affinity.softmax(0)
    for _ in range(steps):
        refined = torch.zeros_like(maps)
        for weight, neighbour in zip(weights, _neighbours(maps, dilations), strict=True):
            refined.addcmul_(neighbour, weight)
        maps = refined
    return maps


def _neighbours(maps: Float[Tensor, "n h w"], dilations: Sequence[int]) -> Iterator[Float[Tensor, "n h w"]]:
    """The map shifted by each neighbour's offset, views into one padded copy."""
    import torch

    height, width = maps.shape[-2:]
    margin = max(dilations)
    padded = torch.nn.functional.pad(maps[None], [margin] * 4, mode="replicate")[0]
    for dilation in dilations:
        for down in (-dilation, 0, dilation):
            for right in (-dilation, 0, dilation):
                if down or right:
                    top, left = margin + down, margin + right
                    yield padded[:, top : top + height, left : left + width]
