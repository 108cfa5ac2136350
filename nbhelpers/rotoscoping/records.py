"""What is known of each frame's masks, as values that are written to one small file a frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

FORWARD, BACKWARD = 1, -1


@dataclass(frozen=True)
class Tracked:
    """A mask that a tracker found on a frame.

    Attributes:
        rle: the mask as COCO RLE.
        score: the tracker's confidence, 0 to 1.
        gone: it believes the object to be hidden or out of the picture.
        step: 1 if it was followed forwards, -1 if backwards.
        source: the prompted frame that it was followed from.
        digest: of what was said there.
        overlap: with the neighbour's mask carried here by optical flow, IoU; None where that says nothing.
        jump: area over that of the carried mask.
    """

    rle: Mapping[str, Any] = field(repr=False)
    score: float
    gone: bool
    step: int
    source: int
    digest: str
    overlap: float | None = None
    jump: float | None = None


@dataclass(frozen=True)
class Prompted:
    """The mask that answers what a person said on a frame.

    Attributes:
        rle: the mask as COCO RLE.
        score: the tracker's confidence, 0 to 1; 1 for a mask that was painted or imported.
        digest: of what was said.
    """

    rle: Mapping[str, Any] = field(repr=False)
    score: float
    digest: str


@dataclass(frozen=True)
class Record:
    """Both masks of one object on one frame; the prompted one counts as long as the prompt stands."""

    tracked: Tracked | None = None
    prompted: Prompted | None = None

    def without_masks(self) -> Record:
        """All but the masks: small enough to be kept for every frame of a clip."""
        return Record(
            None if self.tracked is None else replace(self.tracked, rle={}),
            None if self.prompted is None else replace(self.prompted, rle={}),
        )

    def to_dict(self) -> dict[str, Any]:
        """As `from_dict` takes it."""
        parts = {"tracked": self.tracked, "prompted": self.prompted}
        return {name: dict(vars(part)) for name, part in parts.items() if part is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """What `to_dict` gave, out of a file; raises ``TypeError`` or ``KeyError`` where it does not fit."""
        tracked, prompted = data.get("tracked"), data.get("prompted")
        return cls(tracked and Tracked(**tracked), prompted and Prompted(**prompted))
