"""What a session over the photos of a scene answers with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from nbhelpers.core.masks import decode_rle

DOUBTFUL = 0.5  # a consistency below this asks for a look


@dataclass(frozen=True)
class Consistency:
    """How well one view's mask, or those of all views, go together with the others; needs no ground truth.

    Attributes:
        value: 0 to 1, the higher the surer.
        parts: what it was made of, each 0 to 1; only what could be told. See `nbhelpers.multiview.consistency`.
        why: one sentence for a person.
    """

    value: float
    parts: Mapping[str, float]
    why: str

    @property
    def is_doubtful(self) -> bool:
        """Whether a person should look at the view."""
        return self.value < DOUBTFUL


@dataclass(frozen=True, eq=False)
class View:
    """The object in one photo.

    Attributes:
        name: of the photo.
        rle: the mask, as `nbhelpers.core.masks.encode_rle` gives it.
        score: the segmenter's confidence in the mask, 0 to 1.
        consistency: see `Consistency`.
        prompted: a person said something on this very photo.
        found: the object was found here; its mask is empty otherwise.
    """

    name: str
    rle: Mapping[str, Any] = field(repr=False)
    score: float
    consistency: Consistency
    prompted: bool
    found: bool

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The mask at the photo's size, made anew at each call."""
        return decode_rle(self.rle)


@dataclass(frozen=True, eq=False)
class Views:
    """The object in all photos: what `nbhelpers.multiview.session.ViewsSession.solve` answers.

    Example:
        >>> views = session.solve()
        >>> views.mask(3).shape, views.consistency(3).value
        ((520, 779), 0.91)
        >>> views.worst                                            # the view to look at first
        7

    Attributes:
        all: one `View` a photo.
        points: numbers of the scene's points that belong to the object; none without a scene.
        whole: how consistent all views are together.
        order: the views in which the object was looked for, in this order.
        notes: what a person should know, e.g. that a view has no camera.
        seconds: how long it took.
    """

    all: tuple[View, ...]
    points: Int[np.ndarray, " n"]
    whole: Consistency
    order: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, view: int) -> View:
        return self.all[view]

    def __iter__(self) -> Iterator[View]:
        return iter(self.all)

    def mask(self, view: int) -> Bool[np.ndarray, "h w"]:
        """The mask in one photo, at its size."""
        return self.all[view].mask

    def score(self, view: int) -> float:
        """The segmenter's confidence in a view's mask, 0 to 1."""
        return self.all[view].score

    def consistency(self, view: int) -> Consistency:
        """How well a view's mask goes together with those of the others."""
        return self.all[view].consistency

    @property
    def prompted(self) -> tuple[int, ...]:
        """The views that a person prompted."""
        return tuple(number for number, view in enumerate(self.all) if view.prompted)

    @property
    def worst(self) -> int | None:
        """The view with the lowest consistency that nobody has prompted; None when all are prompted."""
        rest = [number for number, view in enumerate(self.all) if not view.prompted]
        return min(rest, key=lambda number: self.all[number].consistency.value, default=None)
