"""What is known of a product, of the things that might be it, and of how a photo was judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import decode_rle

VERDICTS = ("kept", "below threshold", "closer to a reject", "duplicate", "beyond top k")


@dataclass(frozen=True, eq=False)
class Features:
    """What a patch encoder sees of one masked thing.

    Attributes:
        average: ``(d,)``, the foreground feature average, of length 1.
        patches: ``(k, d)``, the tokens of patches that the mask covers, each of length 1.
        weights: how much of each of these patches the mask covers, 0 to 1.
        places: centre of each patch in the square crop: x right, y down, 0 to 1.
        colours: mean CIELAB colour of the masked pixels of each patch: L 0 to 100, a and b about -100 to 100.
        mirror: of a reference, the features of the same crop mirrored left to right; None where nobody looked.
        views: of a reference, the features of the same crop turned, smaller, darker, partly hidden.
        afar: ``(n, d)`` of a reference, the foreground feature averages of the thing among its surroundings, a few
            patches long, as a search in a photo sees it; None where nobody looked.
    """

    average: Float32[np.ndarray, " _"]
    patches: Float32[np.ndarray, "_ _"] = field(repr=False)
    weights: Float32[np.ndarray, " _"] = field(repr=False)
    places: Float32[np.ndarray, "_ 2"] = field(repr=False)
    colours: Float32[np.ndarray, "_ 3"] = field(repr=False)
    mirror: Features | None = field(default=None, repr=False)
    views: tuple[Features, ...] = field(default=(), repr=False)
    afar: Float32[np.ndarray, "_ _"] | None = field(default=None, repr=False)

    def __post_init__(self):
        k, d = self.patches.shape
        if not k or (self.average.shape, self.weights.shape, self.places.shape, self.colours.shape) != (
            (d,),
            (k,),
            (k, 2),
            (k, 3),
        ):
            raise NbHelpersError(
                "features do not fit together",
                given=f"average {self.average.shape}, patches {self.patches.shape}, weights {self.weights.shape}, "
                f"places {self.places.shape}, colours {self.colours.shape}",
                expected="average (d,), patches (k, d), weights (k,), places (k, 2), colours (k, 3), k at least 1",
            )


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing of a photo.

    Attributes:
        rle: its mask at the photo's size, as COCO's run lengths.
        box: ``(x0, y0, x1, y1)`` pixels, ``x1`` and ``y1`` exclusive.
        area: pixels.
        quality: the IoU that the segmenter predicts for the mask.
    """

    rle: Mapping[str, Any] = field(repr=False)
    box: tuple[int, int, int, int]
    area: int
    quality: float

    @cached_property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The mask at the photo's size."""
        return decode_rle(self.rle)


@dataclass(frozen=True, eq=False)
class Candidate(Thing):
    """A thing that might be the product, with the features of what its mask covers."""

    features: Features = field(repr=False)

    @property
    def thing(self) -> Thing:
        """The same without its features."""
        return Thing(self.rle, self.box, self.area, self.quality)


@dataclass(frozen=True, eq=False)
class Candidates:
    """All things of a photo that might be the product; what the cache keeps, by `save` and `load`.

    Attributes:
        size: ``(H, W)`` of the photo.
        items: the candidates, without duplicates.
        prompts: how many points and boxes the segmenter was asked.
        seconds: what it took.
        models: names of the segmenter and the patch encoder.
        notes: what a person should know.
    """

    size: tuple[int, int]
    items: tuple[Candidate, ...]
    prompts: int
    seconds: float
    models: tuple[str, str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, eq=False)
class Scored:
    """A candidate and what a gallery says of it, without the features.

    Attributes:
        thing: the candidate.
        number: its index into the photo's `Candidates`.
        score: its similarity to the product, about 0 to 1; what is compared with the threshold.
        parts: what the score is made of: ``average`` and ``patches`` (cosines), ``colour`` (1 equal, 0 different),
            ``mirror`` (1 the right way round, below 1 mirrored), ``reject`` (score to the nearest rejected thing;
            absent where nothing was rejected).
        reference: index of the nearest positive of the gallery.
    """

    thing: Thing
    number: int
    score: float
    parts: Mapping[str, float]
    reference: int


@dataclass(frozen=True, eq=False)
class Scores:
    """What a gallery says of a photo; light enough to hold for thousands of photos.

    Attributes:
        things: the most similar first.
        prompts: see `Candidates`, as the next two.
        seconds: what the search took.
        notes: what a person should know.
    """

    things: tuple[Scored, ...]
    prompts: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Judged(Scored):
    """A scored thing with its verdict: a row of the look-alike table.

    Attributes:
        verdict: one of `VERDICTS`.
        why: the reason in a sentence.
    """

    verdict: str
    why: str

    @property
    def kept(self) -> bool:
        """Whether it is a match."""
        return self.verdict == "kept"
