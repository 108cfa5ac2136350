"""Semantic segmentation by words: the dense prediction of a text encoder, SAM 2's instances over it, and its regions.

Regions follow CorrCLIP (Zhang et al., arXiv 2411.10086) and its successor CorrCLIPv2: majority labels, and a bank of
the regions of unlabelled photos, as `nbhelpers.benchmarks.protocols.Recipe` switches them. Restricting the attention
to regions is part of the network: `nbhelpers.models.openclip`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8

from nbhelpers.benchmarks.datasets import LabelledPhotos
from nbhelpers.benchmarks.metrics import class_areas, class_scores, rounded
from nbhelpers.benchmarks.protocols import Recipe, VocabularyProtocol
from nbhelpers.clip_guided import ClipGuidedSettings, segment
from nbhelpers.clip_guided.values import GRID
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing, sha256
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.masks import decode_rle
from nbhelpers.models.dense import DenseSettings, pamr
from nbhelpers.models.load import choose_model, load
from nbhelpers.models.openclip import Scope
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.sam2_grid import automatic_masks
from nbhelpers.models.values import ClassMap

THRESHOLD = 0.4  # predicted IoU and stability of CorrCLIP's masks
MAX_OVERLAP = 0.7  # of boxes, the default of SAM 2's generator


def photo_regions(
    image: UInt8[np.ndarray, "h w 3"], segmenter: Segmenter, points: int = 8, embedding: Any = None
) -> Int[np.ndarray, "h w"]:
    """The region of each pixel from 1, 0 where there is none; larger masks are laid over smaller ones.

    Source: ``generate_mask`` of CorrCLIP's reference implementation. There each point gives one mask, here three.
    """
    found = automatic_masks(segmenter, image, embedding, points, THRESHOLD, THRESHOLD, MAX_OVERLAP)
    masks = sorted((decode_rle(each.rle) for each in found), key=np.count_nonzero)
    regions = np.zeros(image.shape[:2], np.int32)
    for number, mask in enumerate(masks, 1):
        regions[mask] = number
    return regions


def majority_labels(labels: Int[np.ndarray, "h w"], regions: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Give each region the label that most of its pixels have; region 0 stays. Of equal counts the lowest label.

    Example:
        >>> majority_labels(np.array([[1, 1, 2, 3]]), np.array([[5, 5, 5, 0]]))
        array([[1, 1, 1, 3]])
    """
    count = int(labels.max(initial=0)) + 1
    votes = np.bincount(regions.ravel() * count + labels.ravel(), minlength=(int(regions.max()) + 1) * count)
    winner = votes.reshape(-1, count).argmax(1)
    return np.where(regions > 0, winner[regions], labels)


def region_means(
    features: Float32[np.ndarray, "h w d"], regions: Int[np.ndarray, "H W"]
) -> tuple[Int[np.ndarray, " r"], Float32[np.ndarray, "r d"]]:
    """The mean feature of each region, of length 1, and the regions' numbers; one smaller than a cell is left out."""
    import cv2

    height, width = features.shape[:2]
    cells = cv2.resize(regions.astype(np.int32).astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    numbers = np.unique(cells[cells > 0]).astype(np.int64)
    means = [features[cells == number].mean(0) for number in numbers]
    stacked = np.stack(means) if means else np.empty((0, features.shape[2]), np.float32)
    return numbers, (stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RegionBank:
    """Regions of unlabelled photos: what they look like, and what the text encoder sees in them.

    Example:
        >>> bank = RegionBank.build(photos, describe)           # photos of one's own, no labels
        >>> bank.save("bank.npz")
        >>> bank.retrieve(keys, support=20).shape               # (7, 384) keys of a photo's regions
        (7, 512)

    Attributes:
        keys: ``(n, k)`` of length 1, of a patch encoder.
        values: ``(n, d)`` of length 1, of the text encoder's dense features.
    """

    keys: Float32[np.ndarray, "n k"]
    values: Float32[np.ndarray, "n d"]

    @classmethod
    def build(cls, photos: Iterable[Any], describe: Any) -> RegionBank:
        """A bank of all regions of some photos.

        Args:
            photos: whatever ``describe`` takes.
            describe: gives the ``(r, k)`` keys and ``(r, d)`` values of the regions of one photo.
        """
        pairs = [describe(photo) for photo in photos]
        if not sum(len(keys) for keys, _ in pairs):
            raise NbHelpersError("the photos have no regions for a bank")
        return cls(*(np.concatenate(each).astype(np.float32) for each in zip(*pairs, strict=True)))

    def retrieve(self, keys: Float32[np.ndarray, "r k"], support: int) -> Float32[np.ndarray, "r d"]:
        """For each key the mean value of its ``support`` nearest regions by cosine, of length 1."""
        nearest = np.argsort(-(keys @ self.keys.T), axis=1, kind="stable")[:, : min(support, len(self.keys))]
        means = self.values[nearest].mean(1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)

    def save(self, path: str | Path) -> None:
        """Write both arrays as ``.npz``."""
        with replacing(path) as temporary:
            np.savez(temporary, keys=self.keys, values=self.values)

    @classmethod
    def open(cls, path: str | Path) -> RegionBank:
        """Read the file of `save`.

        Raises:
            NbHelpersError: it cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                return cls(kept["keys"], kept["values"])
        except (OSError, KeyError, ValueError) as error:
            raise NbHelpersError("the bank cannot be read", given=f"{path}: {error}", do="RegionBank.build") from error


def support_logits(
    logits: Float32[np.ndarray, "n h w"],
    regions: Int[np.ndarray, "h w"],
    numbers: Shaped[np.ndarray, " r"],
    supported: Float32[np.ndarray, "r n"],
    own: float,
) -> Float32[np.ndarray, "n h w"]:
    """A photo's logits mixed with those that its regions got from a bank: ``own * logits + (1 - own) * supported``.

    Pixels of no region keep a bank logit of 0 for every name, as in the reference implementation.

    Source: ``forward_slide`` of CorrCLIPv2's reference implementation.
    """
    out = logits * np.float32(own)
    for number, row in zip(numbers.tolist(), supported, strict=True):
        out[:, regions == number] += (1 - own) * row[:, None]
    return out


# A name for every pixel is wanted, so that less confident places count too, and nothing competes that is no class.
HYBRID = ClipGuidedSettings(min_confidence=0.4, surroundings=False, detect=False)
COLOURS = 256  # of PASCAL VOC's palette
# What only CLIP takes; another encoder has settings of its own.
OF_CLIP = {
    "attention", "scale", "short_side", "long_side", "crop", "stride", "templates", "gaussian_std", "area_threshold",
}  # fmt: skip


@lru_cache(maxsize=4)
def opened_photos(dataset: str, folder: str) -> LabelledPhotos:
    """`LabelledPhotos`, whose folders are listed once in a process."""
    return LabelledPhotos(dataset, folder)


@dataclass(frozen=True)
class OpenVocabulary:
    """mIoU of words on labelled photos; a `nbhelpers.benchmarks.runner.Benchmark`.

    Example:
        >>> benchmark = OpenVocabulary("data/VOC2012", vocabulary_protocol("pascal-voc", "sclip"), "openclip-vit-b-16")
        >>> run_benchmark(benchmark, "outputs/voc21")["scores"]["miou"]

    Attributes:
        folder: of the dataset.
        protocol: all numbers.
        text_encoder: catalog name, or a model.
        segmenter: likewise; used by the hybrid mode and by recipes.
        patch_encoder: likewise; used by the recipes ``scope`` and ``bank``.
        budgets: numbers of prompts at which the hybrid is measured besides, for the curve of quality over prompts,
            which has the dense prediction without any and the hybrid's own setting too; 4096 is the blind grid of 64 x
            64.
        pictures: folder for pictures of the results; empty for none.
    """

    folder: str | Path
    protocol: VocabularyProtocol
    text_encoder: Any = None
    segmenter: Any = None
    patch_encoder: Any = None
    budgets: tuple[int, ...] = ()
    pictures: str | Path = ""
    kind = "open vocabulary"
    measure_name = "mIoU"

    @property
    def dataset(self) -> str:
        """Of the protocol."""
        return self.protocol.dataset

    @property
    def _photos(self) -> LabelledPhotos:
        return opened_photos(self.dataset, str(self.folder))

    def names(self) -> list[str]:
        """The photos of the validation set."""
        return self._photos.names

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        used, recipe = self._encoder_name(), self.protocol.recipe
        facts = self.protocol.facts() | {"text_encoder": used}
        if recipe.bank:
            facts["bank_sha256"] = sha256(recipe.bank)
        if not used.startswith("openclip"):
            if recipe.scope or recipe.bank:
                raise NbHelpersError(
                    "this recipe changes the attention of CLIP",
                    given=used,
                    do="nbhelpers fetch openclip-vit-b-16, and --model ViT-B/16",
                )
            facts = {key: value for key, value in facts.items() if key not in OF_CLIP}
        if self._needs_segmenter:
            facts["segmenter"] = model_name("segmenter", self.segmenter)
        if self.protocol.mode == "hybrid":
            facts |= {"min_confidence": HYBRID.min_confidence, "max_prompts": HYBRID.max_prompts}
            facts["budgets"] = list(self.budgets)
        return facts

    @property
    def _needs_segmenter(self) -> bool:
        return self.protocol.mode == "hybrid" or self.protocol.recipe.needs_regions

    def _encoder_name(self) -> str:
        return model_name("text_encoder", self.text_encoder)

    def measure(self, name: str) -> dict[str, Any]:
        """Areas of the classes on one photo, and what it cost."""
        image, labels = self._photos.read(name)
        found = self.predict(image)
        count = len(self.protocol.classes)
        areas = class_areas(labels, found.labels, count)
        record: dict[str, Any] = {"areas": sparse(areas), "miou": class_scores(areas).miou, "cost": found.cost}
        curve = [
            {"prompts": prompts, "decoder": seconds, "areas": sparse(class_areas(labels, each, count))}
            for prompts, seconds, each in found.curve
        ]
        if curve:
            record["curve"] = curve
        if self.pictures:
            save_image(Path(self.pictures) / f"{name.replace('/', '-')}.png", side_by_side(image, labels, found.labels))
        return record

    def predict(self, image: UInt8[np.ndarray, "h w 3"]) -> Labelling:
        """The class of each pixel of a photo."""
        encoder, recipe = resolve("text_encoder", self.text_encoder), self.protocol.recipe
        clock, cost = time.perf_counter(), {"prompts": 0, "text": 0.0, "image": 0.0, "decoder": 0.0}
        regions = None
        if recipe.needs_regions:
            segmenter = resolve("segmenter", self.segmenter)
            regions = photo_regions(image, segmenter, recipe.points)
            cost |= {"prompts": recipe.points**2, "decoder": time.perf_counter() - clock}
        clock = time.perf_counter()
        class_map = self._class_map(encoder, image, regions)
        labels = labels_of(class_map, self._background_below(encoder))
        cost["text"] = time.perf_counter() - clock
        curve: list[tuple[int, float, Int[np.ndarray, "h w"]]] = []
        if self.protocol.mode == "hybrid":
            labels, curve = self._hybrid(image, class_map, labels, cost)
        if regions is not None and recipe.majority:
            labels = majority_labels(labels, regions)
        return Labelling(labels, {key: round(value, 4) for key, value in cost.items()}, curve)

    def _class_map(self, encoder: Any, image: np.ndarray, regions: np.ndarray | None) -> ClassMap:
        classes, recipe = self.protocol.classes, self.protocol.recipe
        if not hasattr(encoder, "text_embeddings"):  # only CLIP takes these settings
            found = encoder.dense(image, [names[0] if len(names) == 1 else list(names) for names in classes])
            if self.protocol.settings.pamr_steps:
                found = replace(found, probabilities=_refined(image, found, self.protocol.settings))
        else:
            scope = None
            if regions is not None and (recipe.scope or recipe.bank):
                scope = Scope(regions, resolve("patch_encoder", self.patch_encoder).tokens([image])[0])
            found = encoder.dense(
                image,
                classes,
                self.protocol.settings,
                scope=scope if recipe.scope else None,
                adjust=bank_support(recipe, scope) if recipe.bank and scope is not None else None,
            )
        return ClassMap(found.probabilities, self.protocol.titles, found.size, found.model)

    def _background_below(self, encoder: Any) -> float:
        """CLIP applies its threshold itself."""
        own = hasattr(encoder, "text_embeddings") or not self.protocol.has_background
        return 0.0 if own else self.protocol.settings.probability_threshold

    def _hybrid(
        self, image: np.ndarray, class_map: ClassMap, labels: np.ndarray, cost: dict[str, Any]
    ) -> tuple[np.ndarray, list]:
        """Instances over the label map, and the same at other numbers of prompts."""
        segmenter = resolve("segmenter", self.segmenter)
        clock = time.perf_counter()
        embedding = segmenter.encode(image)
        cost["image"] = time.perf_counter() - clock
        out, curve = labels, [(0, 0.0, labels)]
        for budget in (None, *self.budgets):
            settings = HYBRID
            if budget is not None:
                grid = budget >= GRID**2
                settings = replace(HYBRID, placement="grid") if grid else replace(HYBRID, max_prompts=budget)
            result = segment(
                image, class_map.names, settings=settings, segmenter=segmenter, class_map=class_map, embedding=embedding
            )
            assert result.instances.class_id is not None
            table = np.append(result.instances.class_id, -1)
            instances = table[result.instance_map]
            laid = np.where(instances >= 0, instances, labels)
            if budget is None:
                out = laid
                cost |= {"prompts": result.budget.prompts, "decoder": result.budget.decoder}
            curve.append((result.budget.prompts, round(result.budget.decoder, 4), laid))
        return out, curve

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Scores over all photos."""
        count, titles = len(self.protocol.classes), self.protocol.titles
        scores = class_scores(summed(records, count))
        out: dict[str, Any] = rounded(
            {
                "miou": scores.miou,
                "pixel_accuracy": scores.pixel_accuracy,
                "mean_accuracy": scores.mean_accuracy,
                "present_miou": scores.present_miou,
            }
        )
        out["classes"] = {
            title: rounded({"iou": iou, "accuracy": accuracy})
            for title, iou, accuracy in zip(titles, scores.iou.tolist(), scores.accuracy.tolist(), strict=True)
            if np.isfinite(iou)
        }
        curves = [record["curve"] for record in records if "curve" in record]
        if curves:
            points = [_point(each, count) for each in zip(*curves, strict=True)]
            out["curve"] = sorted(points, key=lambda point: point["prompts"])
        return out


def _refined(image: np.ndarray, class_map: ClassMap, settings: DenseSettings) -> np.ndarray:
    """The probabilities after PAMR at the size of the photo; CLIP's encoder does it by itself, on its logits."""
    import torch

    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    maps = torch.from_numpy(class_map.probabilities)[None]
    maps = torch.nn.functional.interpolate(maps, class_map.size, mode="bilinear")[0]
    return pamr(pixels, maps, settings.pamr_steps, settings.pamr_dilations).numpy()


def _point(points: Sequence[Mapping[str, Any]], count: int) -> dict[str, Any]:
    scores = class_scores(summed(points, count))
    means = {key: float(np.mean([point[key] for point in points])) for key in ("prompts", "decoder")}
    return rounded({**means, "miou": scores.miou, "present_miou": scores.present_miou})


@dataclass(frozen=True, eq=False)
class Labelling:
    """The class of each pixel of a photo, what it cost, and the same at other numbers of prompts."""

    labels: Int[np.ndarray, "h w"]
    cost: dict[str, Any]
    curve: list[tuple[int, float, Int[np.ndarray, "h w"]]]


def bank_support(recipe: Recipe, scope: Scope) -> Callable[[Any, Any], Any]:
    """Mix a photo's cosines with those that its regions get from a bank; for `OpenClipTextEncoder.dense`."""
    bank = RegionBank.open(recipe.bank)
    numbers, keys = region_means(scope.tokens, scope.regions)

    def adjust(logits, texts):
        import torch

        size = tuple(logits.shape[-2:])
        regions = cv2.resize(scope.regions.astype(np.float32), size[::-1], interpolation=cv2.INTER_NEAREST)
        supported = bank.retrieve(keys, recipe.support) @ texts.float().cpu().numpy().T
        mixed = support_logits(
            logits.float().cpu().numpy(), regions.astype(np.int64), numbers, supported.astype(np.float32), recipe.own
        )
        return torch.from_numpy(mixed).to(logits)

    return adjust


def build_region_bank(
    photos: Sequence[Any], text_encoder: Any, segmenter: Any = None, patch_encoder: Any = None, points: int = 8
) -> RegionBank:
    """A bank of the regions of one's own photos, without labels.

    Example:
        >>> bank = build_region_bank(sorted(Path("photos").glob("*.jpg")), "openclip-vit-b-16")
        >>> bank.save("bank.npz")                     # nbhelpers benchmarks run --bank bank.npz

    Args:
        photos: files, or RGB arrays.
        text_encoder: catalog name, or a model; CLIP.
        segmenter: likewise; makes the regions.
        patch_encoder: likewise; makes the keys.
        points: side of the segmenter's grid.
    """
    encoder, segmenter = resolve("text_encoder", text_encoder), resolve("segmenter", segmenter)
    patches = resolve("patch_encoder", patch_encoder)

    def describe(photo):
        image = load_image(photo)
        regions = photo_regions(image, segmenter, points)
        scope = Scope(regions, patches.tokens([image])[0])
        values = encoder.patch_map(image, scope=scope)
        (first, keys), (second, means) = region_means(scope.tokens, regions), region_means(values, regions)
        both = np.intersect1d(first, second)
        return keys[np.isin(first, both)], means[np.isin(second, both)]

    return RegionBank.build(photos, describe)


def resolve(task: str, model: Any) -> Any:
    """A model by its catalog name, the best one that is here by None, or the model itself."""
    return load(task, model) if model is None or isinstance(model, str) else model


def model_name(task: str, model: Any) -> str:
    """The name of what `resolve` gives; loads nothing."""
    return choose_model(task, model).name if model is None or isinstance(model, str) else model.name


def labels_of(class_map: ClassMap, background_below: float = 0.0) -> Int[np.ndarray, "H W"]:
    """The most probable class of each pixel of the photo; class 0 where it has less than ``background_below``."""
    probabilities: Float32[np.ndarray, "n h w"] = class_map.probabilities
    best, value = np.zeros(class_map.size, np.int64), np.full(class_map.size, -np.inf, np.float32)
    for index, plane in enumerate(probabilities):  # one enlarged plane at a time: 171 of them would take gigabytes
        if plane.shape != class_map.size:
            plane = cv2.resize(plane, class_map.size[::-1], interpolation=cv2.INTER_LINEAR)
        higher = plane > value
        best[higher], value[higher] = index, plane[higher]
    return np.where(value < background_below, 0, best) if background_below else best


def sparse(areas: Int[np.ndarray, "3 c"]) -> dict[str, list[int]]:
    """The classes with any pixels, as JSON."""
    return {str(index): areas[:, index].tolist() for index in np.flatnonzero(areas.any(0)).tolist()}


def summed(records: Sequence[Mapping[str, Any]], classes: int) -> Int[np.ndarray, "3 c"]:
    """The sum of the `sparse` areas of many photos."""
    total = np.zeros((3, classes), np.int64)
    for record in records:
        for index, column in record["areas"].items():
            total[:, int(index)] += column
    return total


def side_by_side(
    image: UInt8[np.ndarray, "h w 3"], truth: UInt8[np.ndarray, "h w"], found: Int[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w3 3"]:
    """The photo, its true and its predicted classes in PASCAL VOC's colours; void is white."""
    palette = voc_palette()
    return np.concatenate([image, palette[truth], palette[np.clip(found, 0, COLOURS - 1)]], axis=1)


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """PASCAL VOC's colours: the bits of a class spread over the channels; 255 is white here."""
    table = np.zeros((COLOURS, 3), np.uint8)
    for index in range(COLOURS):
        for bit in range(8):
            for channel in range(3):
                table[index, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    table[255] = 255
    return table


def labellings(
    benchmark: OpenVocabulary, names: Sequence[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, Labelling]]:
    """Photos with their true and predicted classes, for a closer look: ``(name, image, truth, prediction)``."""
    for name in names:
        image, truth = opened_photos(benchmark.dataset, str(benchmark.folder)).read(name)
        yield name, image, truth, benchmark.predict(image)
