"""Sliding windows over a picture, and one map stitched from what was found in each.

Source of the rules: ``forward_slide`` of the reference implementation of SCLIP (Wang et al. 2023, arXiv 2312.01597),
which follows mmsegmentation's slide inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor

Window = tuple[int, int, int, int]


def windows(size: tuple[int, int], crop: int, stride: int) -> list[Window]:
    """Windows ``(top, left, bottom, right)`` that cover a picture, row by row, all of one size.

    A window that would reach over the border is shifted in, not padded, so the last two of a row may overlap more
    than the others. A picture smaller than the window is one window in that direction.

    Example:
        >>> windows((224, 300), crop=224, stride=112)
        [(0, 0, 224, 224), (0, 76, 224, 300)]

    Args:
        size: ``(H, W)`` in pixels.
        crop: side of a window; 0 takes the whole picture as one.
        stride: step from window to window, at most ``crop``.
    """
    rows, columns = (_starts(side, crop, stride) for side in size)
    height, width = (min(side, crop) if crop else side for side in size)
    return [(top, left, top + height, left + width) for top in rows for left in columns]


def _starts(side: int, crop: int, stride: int) -> list[int]:
    if not crop or side <= crop:
        return [0]
    return [min(start, side - crop) for start in range(0, side - crop + stride, stride)]


def stitch(
    spans: Sequence[Window], maps: Iterable[Float[Tensor, "n h w"]], size: tuple[int, int]
) -> Float[Tensor, "n H W"]:
    """The mean over windows: each window's map is enlarged to its window, summed, and divided by the coverage.

    Enlarging is bilinear with half-pixel centres (``align_corners=False``).

    Args:
        spans: the windows, as `windows` gives them.
        maps: one for each window, in the same order, of any resolution; taken one at a time.
        size: ``(H, W)`` of the picture.
    """
    import torch

    total = coverage = None
    for (top, left, bottom, right), values in zip(spans, maps, strict=True):
        if total is None:
            total = values.new_zeros((len(values), *size))
            coverage = values.new_zeros(size)
        enlarged = torch.nn.functional.interpolate(values[None], (bottom - top, right - left), mode="bilinear")[0]
        total[:, top:bottom, left:right] += enlarged
        coverage[top:bottom, left:right] += 1
    return total.div_(coverage)
