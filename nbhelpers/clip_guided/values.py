"""The values of a guided segmentation: settings, the classes that compete, prompts, conflicts and the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int16, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.vocabulary import BACKGROUND, clean, is_stuff, suggested_background, surroundings
from nbhelpers.models.values import ClassMap

if TYPE_CHECKING:
    import supervision

GRID = 64  # points a side of the blind grid that a budget is compared with
PARTS = ("text", "detector", "image", "decoder", "merge")  # of the seconds
PLACEMENTS = ("deepest", "centroid", "regular", "grid")


@dataclass(frozen=True)
class ClipGuidedSettings:
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
        surroundings: words for what commonly surrounds things (sky, wall, grass ...) compete without being asked; see
            `nbhelpers.core.vocabulary.SURROUNDINGS`.
        detect: use a detector beside the text encoder; None: with text encoders of the lite set.
        verify_crops: read the crop of the photo around each instance that only the text encoder found by itself, and
            let its class change; needs the text encoder, so it is left out where only a class map is given.
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
    surroundings: bool = True
    detect: bool | None = None
    verify_crops: bool = True

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
class Vocabulary:
    """A vocabulary with everything that competes with it.

    Attributes:
        classes: names of each class for the text encoder: the vocabulary, then excluded words and surroundings, then
            rivals that a detector saw.
        count: how many of them are the vocabulary.
        wanted: class index -> whether it is stuff, for the classes that are to be found.
        notes: what was dropped or added.
    """

    classes: tuple[tuple[str, ...], ...]
    count: int
    wanted: dict[int, bool]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The first name of each class of the vocabulary."""
        return tuple(names[0] for names in self.classes[: self.count])

    def with_rivals(self, names: Sequence[str]) -> Vocabulary:
        """The same with more classes that compete and are not to be found."""
        return replace(self, classes=(*self.classes, *((name,) for name in names)))


def prepare_vocabulary(
    vocabulary: Sequence[str | Sequence[str]], target: str | None, settings: ClipGuidedSettings
) -> Vocabulary:
    """Clean a vocabulary and add what must compete with it.

    "background" stands for common surroundings that the vocabulary lacks; it competes and is not segmented, unless it
    is the target. Without it, words for surroundings compete one by one (`ClipGuidedSettings.surroundings`), save those
    that the vocabulary or the excluded words name. A single word without any competitor gets "background".
    """
    classes, notes = clean(vocabulary)
    if not classes:
        raise NbHelpersError("the vocabulary is empty", expected="at least one word for what may be in the photo")
    notes = list(notes)
    excluded, _ = clean(settings.exclude)
    have = {name.casefold() for names in classes for name in names}
    excluded = tuple(names for names in excluded if names[0].casefold() not in have)
    out = {word.casefold() for word in settings.exclude} & have
    if target is not None and target.casefold() not in have:
        raise NbHelpersError(
            "the target is not in the vocabulary",
            given=target,
            expected="one of " + ", ".join(names[0] for names in classes),
            do="add it to the vocabulary",
        )
    flat = [name for names in (*classes, *excluded) for name in names]
    others = suggested_background(flat)
    asked = [(*names, *others) if names[0].casefold() == BACKGROUND else names for names in (*classes, *excluded)]
    if settings.surroundings and BACKGROUND not in (name.casefold() for name in flat):
        asked += surroundings(flat)
    if len(asked) == 1:
        asked.append((BACKGROUND, *others))
        notes.append("a single word would win everywhere: it competes with words for common surroundings")
    wanted = {
        index: names[0].casefold() == BACKGROUND or is_stuff(names[0], settings.stuff)
        for index, names in enumerate(classes)
        if (names[0].casefold() != BACKGROUND or is_named(target, names)) and not out & {n.casefold() for n in names}
    }
    if not wanted:
        raise NbHelpersError("the vocabulary has nothing to find", given=", ".join(flat), expected="a word for a thing")
    return Vocabulary(tuple(asked), len(classes), wanted, tuple(notes))


def is_named(target: str | None, names: Sequence[str]) -> bool:
    """Whether a target is one of a class's names."""
    return target is not None and target.casefold() in {name.casefold() for name in names}


@dataclass(frozen=True)
class PlacedPrompt:
    """One point that the segmenter was asked, and what became of it.

    Attributes:
        point: ``(x, y)`` pixels of the photo; of a box the point deepest inside its mask.
        class_id: index into the class map's names: the word that it was asked for.
        region: number of the region that it lies in, from 0; -1 for a box.
        candidate: which of the segmenter's readings was taken: 1, 2 or 3; 0 for a box.
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
    box: tuple[float, float, float, float] | None = None
    """``(x0, y0, x1, y1)`` where the prompt was a box of a detector."""


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
class CropReading:
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
    """What a result cost.

    Attributes:
        prompts: points and boxes with which the segmenter was prompted.
        regions: confident regions that the points lie in.
        text: seconds of the text encoder.
        detector: seconds of the detector.
        image: seconds of the segmenter's image encoder.
        decoder: seconds of its decoder.
        merge: seconds for placing, choosing, merging and drawing the label map.
    """

    prompts: int
    regions: int
    text: float
    detector: float
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
        return self.text + self.detector + self.image + self.decoder + self.merge

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts in {self.regions} regions, {self.saved:.0f} times fewer than a blind grid of "
            f"{GRID**2}\n{self.seconds:.1f} s: text {self.text:.1f}, detector {self.detector:.1f}, "
            f"image encoder {self.image:.1f}, decoder {self.decoder:.1f}, merge {self.merge:.1f}"
        )


@dataclass(frozen=True, eq=False)
class ClipGuidedResult:
    """A photo whose parts have names.

    Attributes:
        image: the photo.
        vocabulary: names of the classes that were asked for; the first of each.
        target: the class that was wanted, or None for all.
        settings: as given.
        class_map: probabilities over ``vocabulary``, then excluded words, surroundings and rivals: the text encoder's,
            fused with the detector's boxes.
        instances: one row each: ``mask``, ``xyxy``, ``confidence``, ``class_id``, ``data["class_name"]``, and
            ``data["evidence"]``: ``"text"``, ``"detector"`` or ``"both"``, what found it. Masks do not overlap. Of
            large photos they are a `supervision.CompactMask`, which behaves like the array.
        instance_map: index of the instance at each pixel, -1 where there is none.
        prompts: every point that was asked.
        conflicts: pixels that two instances claimed, largest first.
        budget: what it cost.
        confidence_used: class -> the confidence that was used for it, where it is not the one of the settings.
        notes: what a person should know: lowered confidences, added words, dropped points.
        models: names of the text encoder, of the segmenter, and of the detector if one was used.
        readings: instance -> its crop reading, for those that were verified.
        text_map: the text encoder's own class map.
    """

    image: UInt8[np.ndarray, "h w 3"] = field(repr=False)
    vocabulary: tuple[str, ...]
    target: str | None
    settings: ClipGuidedSettings
    class_map: ClassMap = field(repr=False)
    instances: supervision.Detections = field(repr=False)
    instance_map: Int16[np.ndarray, "h w"] = field(repr=False)
    prompts: tuple[PlacedPrompt, ...] = field(repr=False)
    conflicts: tuple[Conflict, ...] = field(repr=False)
    budget: Budget
    confidence_used: dict[str, float]
    notes: tuple[str, ...]
    models: tuple[str, ...]
    readings: dict[int, CropReading] = field(default_factory=dict, repr=False)
    text_map: ClassMap | None = field(default=None, repr=False)

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
            "seconds": {name: round(getattr(self.budget, name), 3) for name in PARTS},
            "conflicts": [str(conflict) for conflict in self.conflicts],
            "confidence_used": self.confidence_used,
            "evidence": dict(Counter(self.instances.data["evidence"].tolist())),
            "notes": list(self.notes),
        }

    def save(
        self, folder: str | Path, name: str = "photo", formats: Collection[str] = ("masks", "cutouts", "labels")
    ) -> list[Path]:
        """Write masks, cut-outs and a COCO file as `nbhelpers.export.masks.save_masks`, a label map and a summary.

        ``<name>_labels.png`` holds 0 where nothing was found, else 1 + the index into the vocabulary (16 bit where
        there are more than 255 words); ``<name>.json`` tells the words. COCO file and summary are always written.
        """
        import hashlib
        import json

        from nbhelpers.core.files import write_text
        from nbhelpers.core.images import save_image
        from nbhelpers.export.masks import save_masks

        scores = dict(zip(self.names, map(float, self.instances.confidence), strict=True))
        paths = save_masks(folder, name, self.image, self.masks(), scores, formats=formats)
        folder, stem = paths[-1].parent, paths[-1].name.removesuffix(".coco.json")
        kind = np.uint8 if len(self.vocabulary) < 256 else np.uint16
        if "labels" in formats:
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
