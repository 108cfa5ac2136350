"""Measures of agreement between masks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from nbhelpers.core.errors import NbHelpersError


def iou(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """Intersection over union (Jaccard index) of two masks, 0 to 1; two empty masks agree fully.

    Raises:
        NbHelpersError: masks of different size.
    """
    if a.shape != b.shape:
        raise NbHelpersError("masks of different size cannot be compared", given=f"{a.shape} and {b.shape}")
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0
