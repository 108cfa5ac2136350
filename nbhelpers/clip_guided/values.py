"""What a guided segmentation is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int16, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.values import ClassMap

if TYPE_CHECKING:
    import supervision

GRID = 64  # points a side of the blind grid that a budget is compared with
PLACEMENTS = ("deepest", "centroid", "regular", "grid")


@dataclass(frozen=True)
class Settings:
    """How `segment` looks for the words of a vocabulary.

    Attributes:
        min_confidence: a word must be at least so probable where it is pointed at, 0 to 1.
        min_region_size: smaller regions and masks are left out, in pixels of the photo.
        iou_threshold: from this IoU on, two masks of one class are the same.
        exclude: words that may win a place, so that no other does, but are not segmented.
        stuff: words of which all that is found is one region; `nbhelpers.core.vocabulary.STUFF` when None.
        lower: when nothing is found, try lower confidences, and say so.
        max_prompts: points are spread thinner until no more than these are needed; about a fortieth of a blind grid.
        spacing: smallest distance of two points in one region, as a share of the photo's longer side.
        placement: where to point: ``deepest`` inside of each region; for comparison ``centroid``, ``regular``
            (a lattice inside of each region), and ``grid`` (64 x 64 over the whole photo, sure or not).
        rounds: how often confident places that no mask has covered yet are pointed at; for ``deepest`` alone.
        second_look: read the piece of the photo around each instance by itself, and let its word change; needs the
            text encoder, so it is left out where only a class map is given.
    """

    min_confidence: float = 0.7
    min_region_size: float = 100
    iou_threshold: float = 0.8
    exclude: tuple[str, ...] = ()
    stuff: tuple[str, ...] | None = None
    lower: bool = True
    max_prompts: int = 100
    spacing: float = 1 / 12
    placement: str = "deepest"
    rounds: int = 3
    second_look: bool = True

    def __post_init__(self):
        for name, low, high in (
            ("min_confidence", 0, 1),
            ("min_region_size", 0, np.inf),
            ("iou_threshold", 0, 1),
            ("max_prompts", 1, 100_000),
            ("spacing", 0, 1),
            ("rounds", 1, 100),
        ):
            if not low <= getattr(self, name) <= high:
                raise NbHelpersError(
                    f"{name} is out of range",
                    given=getattr(self, name),
                    expected=f"{low} to {high}".replace("inf", "any"),
                )
        if self.placement not in PLACEMENTS:
            raise NbHelpersError("there is no such placement", given=self.placement, expected=", ".join(PLACEMENTS))


@dataclass(frozen=True)
class PlacedPrompt:
    """One point that the segmenter was asked, and what became of it.

    Attributes:
        point: ``(x, y)`` pixels of the photo.
        class_id: index into the class map's names: the word that it was asked for.
        region: number of the region that it lies in, from 0.
        candidate: which of the segmenter's readings was taken: 1, 2 or 3.
        score: IoU that the segmenter predicts for it.
        agreement: share of the mask, 0 to 1, that the class map gives to the class.
        instance: index of the instance that it led to; -1 when it led to none.
        fate: ``kept``, or why it was not: ``duplicate``, ``part``, ``group``, ``small``, ``disagrees``, ``covered`` (by
            other instances, or joined to one or taken off by a second look, which the result's notes tell).
    """

    point: tuple[float, float]
    class_id: int
    region: int
    candidate: int
    score: float
    agreement: float
    instance: int
    fate: str


@dataclass(frozen=True)
class Conflict:
    """Two instances that claimed the same pixels.

    Attributes:
        winner: index of the instance that got them; -1 when it was itself covered by others later.
        loser: index of the other; -1 as above.
        names: the names of both, winner first.
        pixels: how many.
        confidence: of both in these very pixels: predicted IoU times agreement with the class map there.
    """

    winner: int
    loser: int
    names: tuple[str, str]
    pixels: int
    confidence: tuple[float, float]

    def __str__(self) -> str:
        (first, second), (high, low) = self.names, self.confidence
        if high >= low:
            return f"{self.pixels} pixels: {first} ({high:.2f}) over {second} ({low:.2f})"
        return f"{self.pixels} pixels: {first} ({high:.2f}) over {second} ({low:.2f}), to keep stronger decisions"


@dataclass(frozen=True)
class Look:
    """What two readings say of an instance: of the whole photo, and of its own piece.

    Attributes:
        asked: index of the class that its points were asked for.
        now: index of the class that both readings together make most probable.
        first: mean probability of ``now`` over the instance in the whole photo.
        second: the same in its own piece.
        together: their product's share of the sum over all classes, 0 to 1.
    """

    asked: int
    now: int
    first: float
    second: float
    together: float

    @property
    def changed(self) -> bool:
        """Whether the word has changed."""
        return self.asked != self.now


@dataclass(frozen=True)
class Budget:
    """What an answer cost.

    Attributes:
        prompts: points that the segmenter was asked.
        regions: confident regions that they lie in.
        text: seconds of the text encoder.
        image: seconds of the segmenter's image encoder.
        decoder: seconds of its decoder.
        merge: seconds for placing, choosing, merging and drawing the label map.
    """

    prompts: int
    regions: int
    text: float
    image: float
    decoder: float
    merge: float

    @property
    def saved(self) -> float:
        """How many times fewer prompts than a blind 64 x 64 grid; infinite when none was needed."""
        return GRID**2 / self.prompts if self.prompts else float("inf")

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.text + self.image + self.decoder + self.merge

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts in {self.regions} regions, {self.saved:.0f} times fewer than a blind grid of "
            f"{GRID**2}\n{self.seconds:.1f} s: text {self.text:.1f}, image encoder {self.image:.1f}, "
            f"decoder {self.decoder:.1f}, merge {self.merge:.1f}"
        )


@dataclass(frozen=True, eq=False)
class Result:
    """A photo whose parts have names.

    Attributes:
        image: the photo.
        vocabulary: names of the classes that were asked for; the first of each.
        target: the class that was wanted, or None for all.
        settings: as given.
        class_map: the text encoder's answer, over ``vocabulary``, then excluded and background words.
        instances: one row each: ``mask``, ``xyxy``, ``confidence``, ``class_id``, ``data["class_name"]``. Masks do not
            overlap. Of large photos they are a `supervision.CompactMask`, which behaves like the array.
        instance_map: index of the instance at each pixel, -1 where there is none.
        prompts: every point that was asked.
        conflicts: pixels that two instances claimed, largest first.
        budget: what it cost.
        confidence_used: class -> the confidence that was used for it, where it is not the one of the settings.
        notes: what a person should know: lowered confidences, added words, dropped points.
        models: names of the text encoder and of the segmenter.
        looks: instance -> its second look, for those that had one.
    """

    image: UInt8[np.ndarray, "h w 3"] = field(repr=False)
    vocabulary: tuple[str, ...]
    target: str | None
    settings: Settings
    class_map: ClassMap = field(repr=False)
    instances: supervision.Detections = field(repr=False)
    instance_map: Int16[np.ndarray, "h w"] = field(repr=False)
    prompts: tuple[PlacedPrompt, ...] = field(repr=False)
    conflicts: tuple[Conflict, ...] = field(repr=False)
    budget: Budget
    confidence_used: dict[str, float]
    notes: tuple[str, ...]
    models: tuple[str, str]
    looks: dict[int, Look] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def labels(self) -> Int16[np.ndarray, "h w"]:
        """The exclusive label map: index into ``vocabulary`` at each pixel, -1 where nothing was found."""
        table = np.append(self.instances.class_id, -1).astype(np.int16)
        return table[self.instance_map]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each instance: the class, and a number where it has several instances."""
        return numbered([self.vocabulary[index] for index in self.instances.class_id])

    def mask(self, name: str | None = None) -> Bool[np.ndarray, "h w"]:
        """All pixels of a class, or of one instance by its name of ``names``; of the target when left out.

        Without a target, ``mask()`` is everything that was found.
        """
        name = self.target if name is None else name
        if name is None:
            return self.instance_map >= 0
        if name in self.vocabulary:
            return self.labels == self.vocabulary.index(name)
        if name in self.names:
            return self.instance_map == self.names.index(name)
        raise NbHelpersError(
            "there is no such class or instance", given=name, expected=", ".join((*self.vocabulary, *self.names))
        )

    def masks(self) -> dict[str, Bool[np.ndarray, "h w"]]:
        """The mask of each instance by its name; of the target's instances where there is a target."""
        return {
            name: self.instance_map == index
            for index, name in enumerate(self.names)
            if self.target in (None, self.vocabulary[self.instances.class_id[index]])
        }

    def summary(self) -> dict[str, Any]:
        """Plain numbers and words for a table or a JSON file."""
        count = {name: int((self.instances.class_id == index).sum()) for index, name in enumerate(self.vocabulary)}
        share = np.bincount(self.labels.ravel() + 1, minlength=len(self.vocabulary) + 1)[1:] / self.instance_map.size
        return {
            "size": list(self.instance_map.shape),
            "models": list(self.models),
            "instances": count,
            "share": {name: round(float(part), 5) for name, part in zip(self.vocabulary, share, strict=True)},
            "prompts": self.budget.prompts,
            "regions": self.budget.regions,
            "seconds": {name: round(getattr(self.budget, name), 3) for name in ("text", "image", "decoder", "merge")},
            "conflicts": [str(conflict) for conflict in self.conflicts],
            "confidence_used": self.confidence_used,
            "notes": list(self.notes),
        }

    def save(self, folder: str | Path, name: str = "photo") -> list[Path]:
        """Write masks, cut-outs and a COCO file as `nbhelpers.export.bundle.save_masks`, a label map and a summary.

        ``<name>_labels.png`` holds 0 where nothing was found, else 1 + the index into the vocabulary (16 bit where
        there are more than 255 words); ``<name>.json`` tells the words.
        """
        import hashlib
        import json

        from nbhelpers.core.files import write_text
        from nbhelpers.core.images import save_image
        from nbhelpers.export.bundle import save_masks

        scores = dict(zip(self.names, map(float, self.instances.confidence), strict=True))
        paths = save_masks(folder, name, self.image, self.masks(), scores)
        folder, stem = paths[-1].parent, paths[-1].name.removesuffix(".coco.json")
        kind = np.uint8 if len(self.vocabulary) < 256 else np.uint16
        paths.append(save_image(folder / f"{stem}_labels.png", (self.labels + 1).astype(kind)))
        digest = hashlib.sha256(np.ascontiguousarray(self.image)).hexdigest()
        about = {"name": name, "sha256": digest, "vocabulary": list(self.vocabulary), "target": self.target}
        about |= self.summary()
        paths.append(write_text(folder / f"{stem}.json", json.dumps(about, indent=1, ensure_ascii=False)))
        return paths


def numbered(names: Sequence[str]) -> tuple[str, ...]:
    """``["cat", "dog", "cat"]`` as ``("cat 1", "dog", "cat 2")``."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(f"{name} {seen[name]}" if names.count(name) > 1 else name)
    return tuple(out)
