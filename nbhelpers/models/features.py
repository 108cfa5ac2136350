"""Local features of a picture, as extractors give them and matchers take them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from nbhelpers.core.errors import NbHelpersError


@dataclass(frozen=True, eq=False)
class Features:
    """Where a picture has distinct places, and what they look like.

    Attributes:
        size: ``(H, W)`` of the picture.
        model: name of the extractor; descriptors of different extractors cannot be compared.
        points: ``(n, 2) float32``, ``(x, y)`` in pixels of the picture.
        descriptors: ``(n, d) float32`` of length 1.
        scores: ``(n,) float32``, the larger the more distinct.
    """

    size: tuple[int, int]
    model: str
    points: Float32[np.ndarray, "n 2"] = field(repr=False)
    descriptors: Float32[np.ndarray, "n d"] = field(repr=False)
    scores: Float32[np.ndarray, " n"] = field(repr=False)

    def __post_init__(self):
        if not len(self.points) == len(self.descriptors) == len(self.scores):
            raise NbHelpersError(
                "features do not fit together",
                given=f"{len(self.points)} points, {len(self.descriptors)} descriptors, {len(self.scores)} scores",
                expected="as many of each",
            )

    def __len__(self) -> int:
        return len(self.points)


def check_same_model(first: Features, second: Features, model: str) -> None:
    """Refuse features that another extractor made.

    Raises:
        NbHelpersError: they are not of ``model``.
    """
    for features in (first, second):
        if features.model != model:
            raise NbHelpersError(
                "these features come from another extractor",
                given=features.model,
                expected=model,
                do="match features with the matcher that made them",
            )
