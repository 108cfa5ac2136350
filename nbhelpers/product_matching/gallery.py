"""What the product looks like, and what it is not: the references of a session.

The tokens of any two photos have much in common, so all cosines are high. What is common is taken off: the mean token
of the session's photos, and the directions in which their tokens differ most, which tell where in a picture a patch
lies and whether it belongs to a subject, not what it shows (as INSID3 does against positional bias).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit
from nbhelpers.models.protocols import PatchEncoder
from nbhelpers.product_matching.features import unit
from nbhelpers.product_matching.values import Features

MEAN_SIDE = 336  # pixels: small is enough for a mean
DIRECTIONS = 2  # of the largest spread: position in the picture, and subject against surroundings


@dataclass(frozen=True, eq=False)
class Gallery:
    """References of the product, things that were rejected, and the mean feature that is taken off all of them.

    Example:
        >>> gallery = Gallery((describe(photo, mask, encoder),), mean=mean_feature(photos, encoder))
        >>> gallery = gallery.add(result.matches[0].candidate.features)       # a confirmed match

    Attributes:
        positives: features of the product, at least one.
        negatives: features of what a person rejected.
        mean: what this session's photos have in common, from `mean_feature`: the mean patch token, then orthonormal
            directions; None to take nothing off.
    """

    positives: tuple[Features, ...]
    negatives: tuple[Features, ...] = ()
    mean: Float32[np.ndarray, "m d"] | None = field(default=None, repr=False)

    def __post_init__(self):
        widths = {len(each.average) for each in (*self.positives, *self.negatives)}
        widths |= set() if self.mean is None else {self.mean.shape[-1]}
        if not self.positives or len(widths) != 1:
            raise NbHelpersError(
                "the gallery does not fit together",
                given=f"{len(self.positives)} references, features of length {sorted(widths)}",
                expected="at least one reference, all described by one patch encoder",
                do="confirm a reference first; describe all of them again after another encoder was chosen",
            )

    def add(self, features: Features) -> Gallery:
        """A gallery with one more reference."""
        return replace(self, positives=(*self.positives, features))

    def reject(self, features: Features) -> Gallery:
        """A gallery that knows one more thing that is not the product."""
        return replace(self, negatives=(*self.negatives, features))

    def centred(self, vectors: Float32[np.ndarray, "*n d"]) -> Float32[np.ndarray, "*n d"]:
        """Vectors of length 1 with what is common taken off, again of length 1."""
        if self.mean is None:
            return vectors
        mean, directions = self.mean[0], self.mean[1:]
        rest = vectors - mean
        return unit(rest - (rest @ directions.T) @ directions)

    @cached_property
    def averages(self) -> Float32[np.ndarray, "p d"]:
        """The centred averages of the positives."""
        return self.centred(np.stack([each.average for each in self.positives]))

    @cached_property
    def afar(self) -> Float32[np.ndarray, "n d"]:
        """The positives as a search in a photo may meet them; their averages where nobody looked from afar."""
        return np.concatenate([each.average[None] if each.afar is None else each.afar for each in self.positives])

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of all features: two galleries of one digest find and judge alike."""
        found = hashlib.sha256(b"" if self.mean is None else _bytes(self.mean))
        for sign, members in ((b"+", self.positives), (b"-", self.negatives)):
            for each in members:
                found.update(sign)
                for name in ("average", "patches", "weights", "places", "colours"):
                    found.update(_bytes(getattr(each, name)))
                found.update(b"" if each.afar is None else _bytes(each.afar))
        return found.hexdigest()

    @property
    def guide(self) -> Gallery:
        """The gallery without its negatives: all that the search for candidates depends on."""
        return replace(self, negatives=())


def mean_feature(
    images: Iterable[UInt8[np.ndarray, "_ _ 3"]], encoder: PatchEncoder, most: int = 8
) -> Float32[np.ndarray, "m d"]:
    """What the patch tokens, each of length 1, of some photos of a session have in common.

    Args:
        images: photos; the reference's should be among them. Those after the first ``most`` are not looked at.
        encoder: who looks.
        most: how many photos count.

    Returns:
        Their mean, then the 2 orthonormal directions of largest spread.
    """
    seen: list[np.ndarray] = []
    for image, _ in zip(images, range(most), strict=False):
        tokens = unit(encoder.tokens([fit(image, MEAN_SIDE)])[0])
        seen.append(tokens.reshape(-1, tokens.shape[-1]))
    if not seen:
        raise NbHelpersError("there is no photo to take the mean feature of", given="no photos")
    return common(seen)


def common(groups: Iterable[Float32[np.ndarray, "_ d"]]) -> Float32[np.ndarray, "m d"]:
    """What groups of tokens, each of length 1, have in common: their mean, then the directions of largest spread.

    Each group counts alike, however many tokens it has. Only sums are kept, not the groups.
    """
    count, total, squares = 0, 0.0, 0.0
    for tokens in groups:
        wide = tokens.astype(np.float64)
        count, total, squares = count + 1, total + wide.mean(0), squares + wide.T @ wide / len(wide)
    mean = total / count
    _, directions = np.linalg.eigh(squares - count * np.outer(mean, mean))  # in rising order
    return np.concatenate([mean[None], directions[:, : -DIRECTIONS - 1 : -1].T]).astype(np.float32)


def evenly(items: Sequence, most: int) -> list:
    """At most ``most`` items spread evenly over a sequence, the first and the last among them."""
    picks = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)) if items else []
    return [items[index] for index in picks]


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, np.float32).tobytes()
