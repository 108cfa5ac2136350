"""The values of a guided segmentation: settings, competing classes, prompts, conflicts and the result."""

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

GRID = 64  # points per side of the grid that a budget is compared with
PARTS = ("text", "detector", "image", "decoder", "merge")  # stages that are timed
PLACEMENTS = ("deepest", "centroid", "regular", "grid")


@dataclass(frozen=True)
class ClipGuidedSettings:
    """Settings of `segment`.

    Attributes:
        min_confidence: minimum probability of a class where it is prompted, 0 to 1.
        min_region_size: minimum area of regions and masks, in pixels of the photo.
        iou_threshold: IoU from which two masks of one class are duplicates.
        exclude: classes that compete but are not segmented.
        stuff: classes without instances, each merged into one region; None for `nbhelpers.core.vocabulary.STUFF`.
        lower: whether to lower the confidence if nothing is found; a note reports it.
        max_prompts: maximum number of points, boxes not counted; the spacing is increased until it holds.
        spacing: minimum distance of two points in one region, as a fraction of the photo's longer side.
        placement: ``deepest``: the maximum of the distance transform of each region; for comparison ``centroid``,
            ``regular`` (a lattice inside each region), and ``grid`` (64 x 64 over the whole photo).
        rounds: number of rounds in which uncovered confident areas are prompted; ``deepest`` only.
        surroundings: whether to add classes for common surroundings (sky, wall, grass, ...), which compete but are not
            segmented; see `nbhelpers.core.vocabulary.SURROUNDINGS`.
        detect: whether to use a detector; None for only with text encoders of the lite set.
        verify_crops: whether to classify the crop of each instance that only the text encoder found, and change its
            class if necessary; skipped if only a class map is given, since it needs the text encoder.
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
            raise NbHelpersError("unknown placement", given=self.placement, expected=", ".join(PLACEMENTS))


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary with all classes that compete with it.

    Attributes:
        classes: the names of each class for the text encoder: the vocabulary, then excluded classes and surroundings,
            then rivals from a detector.
        count: how many of them belong to the vocabulary.
        wanted: class index -> whether it is stuff, for the classes to segment.
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
        """A copy with more classes that compete but are not segmented."""
        return replace(self, classes=(*self.classes, *((name,) for name in names)))


def prepare_vocabulary(
    vocabulary: Sequence[str | Sequence[str]], target: str | None, settings: ClipGuidedSettings
) -> Vocabulary:
    """Clean a vocabulary and add the classes that compete with it.

    "background" stands for common surroundings that are not in the vocabulary; it competes but is not segmented, unless
    it is the target. Without it, classes for surroundings compete individually (`ClipGuidedSettings.surroundings`),
    except those that the vocabulary or ``exclude`` names. A single class without competitors gets "background".
    """
    classes, notes = clean(vocabulary)
    if not classes:
        raise NbHelpersError("the vocabulary is empty", expected="at least one class name")
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
    competing = [(*names, *others) if names[0].casefold() == BACKGROUND else names for names in (*classes, *excluded)]
    if settings.surroundings and BACKGROUND not in (name.casefold() for name in flat):
        competing += surroundings(flat)
    if len(competing) == 1:
        competing.append((BACKGROUND, *others))
        notes.append("a single class would be the most probable everywhere: common surroundings were added")
    wanted = {
        index: names[0].casefold() == BACKGROUND or is_stuff(names[0], settings.stuff)
        for index, names in enumerate(classes)
        if (names[0].casefold() != BACKGROUND or is_named(target, names)) and not out & {n.casefold() for n in names}
    }
    if not wanted:
        raise NbHelpersError(
            "the vocabulary has no class to segment", given=", ".join(flat), expected="a class that is not excluded"
        )
    return Vocabulary(tuple(competing), len(classes), wanted, tuple(notes))


def is_named(target: str | None, names: Sequence[str]) -> bool:
    """Whether a target is one of the names of a class."""
    return target is not None and target.casefold() in {name.casefold() for name in names}


@dataclass(frozen=True)
class PlacedPrompt:
    """A prompt of the segmenter, and what became of it.

    Attributes:
        point: ``(x, y)`` pixels of the photo; for a box, the maximum of the distance transform of its mask.
        class_id: index into the class map's names.
        region: index of the region that contains it; -1 for a box.
        candidate: the selected candidate mask: 1, 2 or 3; 0 for a box, of the detector or around the region.
        score: predicted IoU.
        agreement: mean relative probability of the class over the mask, 0 to 1; for a box, its probability.
        instance: index of the instance it belongs to; -1 for none.
        fate: ``kept``, or why it was dropped: ``duplicate``, ``part``, ``group``, ``small``, ``disagrees``, ``covered``
            (by other instances, or merged or removed by crop verification; the result's notes say which).
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
    """``(x0, y0, x1, y1)`` if the prompt was a detector's box."""


@dataclass(frozen=True)
class Conflict:
    """Two instances whose masks overlap.

    Attributes:
        winner: index of the instance that the shared pixels were assigned to; -1 if it was covered by others later.
        loser: index of the other; -1 as above.
        names: the names of both, winner first.
        pixels: number of shared pixels.
        confidence: of both in the shared pixels: predicted IoU times agreement with the class map there.
        in_front: whether the winner is in front of the other, since it is inside it and much smaller, both detected.
    """

    winner: int
    loser: int
    names: tuple[str, str]
    pixels: int
    confidence: tuple[float, float]
    in_front: bool = False

    def __str__(self) -> str:
        (first, second), (high, low) = self.names, self.confidence
        decision = f"{self.pixels} pixels: {first} ({high:.2f}) over {second} ({low:.2f})"
        if high >= low:
            return decision
        return f"{decision}, {'since it is in front' if self.in_front else 'to preserve clearer decisions'}"


@dataclass(frozen=True)
class CropVerification:
    """The class of an instance according to the whole photo and to its crop.

    Attributes:
        prompted_id: index of the class for which it was prompted.
        class_id: index of the class with the largest product of both probabilities.
        in_photo: mean probability of ``class_id`` over the instance in the class map of the photo.
        in_crop: the same in the class map of the crop.
        probability: the product of both, normalised over all classes, 0 to 1.
    """

    prompted_id: int
    class_id: int
    in_photo: float
    in_crop: float
    probability: float

    @property
    def changed(self) -> bool:
        """Whether verification changed the class."""
        return self.prompted_id != self.class_id


@dataclass(frozen=True)
class Budget:
    """Number of prompts and run time of a result.

    Attributes:
        prompts: number of points and boxes; those around regions are included.
        regions: number of confident regions.
        text: seconds of the text encoder.
        detector: seconds of the detector.
        image: seconds of the segmenter's image encoder.
        decoder: seconds of its mask decoder.
        merge: seconds of prompt placement, mask selection, merging and the label map.
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
        """How many times fewer prompts than a 64 x 64 grid; infinite without prompts."""
        return GRID**2 / self.prompts if self.prompts else float("inf")

    @property
    def seconds(self) -> float:
        """Total run time."""
        return self.text + self.detector + self.image + self.decoder + self.merge

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts in {self.regions} regions, {self.saved:.0f} times fewer than a grid of "
            f"{GRID**2}\n{self.seconds:.1f} s: text {self.text:.1f}, detector {self.detector:.1f}, "
            f"image encoder {self.image:.1f}, decoder {self.decoder:.1f}, merge {self.merge:.1f}"
        )


@dataclass(frozen=True, eq=False)
class ClipGuidedResult:
    """Named instances of a photo.

    Attributes:
        image: the photo.
        vocabulary: the first name of each class.
        target: the class to segment, or None for all.
        settings: as given.
        class_map: probabilities over ``vocabulary``, then excluded classes, surroundings and rivals: those of the text
            encoder, fused with the detector's boxes.
        instances: one row each: ``mask``, ``xyxy``, ``confidence``, ``class_id``, ``data["class_name"]``, and
            ``data["evidence"]``: ``"text"``, ``"detector"`` or ``"both"``, the model that found it. Masks do not
            overlap. For large photos they are a `supervision.CompactMask`, which behaves like the array.
        instance_map: index of the instance at each pixel, -1 for none.
        prompts: all prompts, in order.
        conflicts: overlaps of two instances, largest first.
        budget: number of prompts and run time.
        confidence_used: class -> the confidence used for it, where it differs from the settings.
        notes: messages for the user: lowered confidences, added classes, dropped points.
        models: names of the text encoder, of the segmenter, and of the detector if one was used.
        verifications: instance -> its crop verification, for those that were verified.
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
    verifications: dict[int, CropVerification] = field(default_factory=dict, repr=False)
    text_map: ClassMap | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def _class_ids(self) -> np.ndarray:
        """The class of each instance, as an index into ``vocabulary``."""
        return np.asarray(self.instances.class_id)

    @property
    def labels(self) -> Int16[np.ndarray, "h w"]:
        """The label map: index into ``vocabulary`` at each pixel, -1 for none."""
        table = np.append(self._class_ids, -1).astype(np.int16)
        return table[self.instance_map]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each instance: its class, with a number if the class has several instances."""
        return numbered([self.vocabulary[index] for index in self._class_ids])

    def mask(self, name: str | None = None) -> Bool[np.ndarray, "h w"]:
        """The mask of a class, or of an instance given by its name in ``names``; by default of the target.

        Without a target, ``mask()`` is the union of all instances.
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
        """The mask of each instance by its name; only the target's instances if there is a target."""
        return {
            name: self.instance_map == index
            for index, name in enumerate(self.names)
            if self.target in (None, self.vocabulary[self._class_ids[index]])
        }

    def summary(self) -> dict[str, Any]:
        """Numbers and names for a table or a JSON file."""
        count = {name: int((self._class_ids == index).sum()) for index, name in enumerate(self.vocabulary)}
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
            "evidence": dict(Counter(np.asarray(self.instances.data["evidence"]).tolist())),
            "notes": list(self.notes),
        }

    def save(
        self, folder: str | Path, name: str = "photo", formats: Collection[str] = ("masks", "cutouts", "labels")
    ) -> list[Path]:
        """Write masks, cut-outs and a COCO file as `nbhelpers.export.masks.save_masks`, a label map and a summary.

        ``<name>_labels.png`` holds 0 where nothing was found, else 1 + the index into the vocabulary (16 bit where
        there are more than 255 words); ``<name>.json`` lists the words. COCO file and summary are always written.
        """
        import hashlib
        import json

        from nbhelpers.core.files import write_text
        from nbhelpers.core.images import save_image
        from nbhelpers.export.masks import save_masks

        scores = dict(zip(self.names, map(float, np.asarray(self.instances.confidence)), strict=True))
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
