"""Words to masks as a user counts: IoU of each object present, and words that are wrongly given an area."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from nbhelpers.benchmarks.datasets import VOID, LabelledPhotos, coco_mask
from nbhelpers.benchmarks.metrics import class_areas, class_scores, rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, opened_photos, resolve, sparse, summed
from nbhelpers.benchmarks.protocols import VOC_NAMES
from nbhelpers.clip_guided import ClipGuidedSettings, segment
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, save_image
from nbhelpers.models.yolox import CLASSES as COCO_NAMES
from nbhelpers.plots import overlay

DATASETS = ("voc-words", "coco-words")
VOCABULARIES = ("all", "present", "alone")
SWITCHES = ("surroundings", "detector")
MIN_AREA = 0.005  # fraction of the photo from which a word that is not there has been given an area
ABSENT = 3  # words that are not there, each alone, and of COCO beside those that are
VOC_CLASSES = 21


@dataclass(frozen=True, eq=False)
class NamedTruth:
    """A photo with the true mask of each word that is there, and what is counted (not void).

    Attributes:
        path: the photo.
        truth: by word.
        counted: ``(H, W) bool``.
        labels: VOC's label map.
    """

    path: Path
    truth: Mapping[str, Bool[np.ndarray, "h w"]]
    counted: Bool[np.ndarray, "h w"]
    labels: Integer[np.ndarray, "h w"] | None = None


@lru_cache(maxsize=2)
def _opened_coco(folder: str) -> tuple[dict[str, tuple[dict, list]], dict[int, str], Path]:
    """Annotations by the photo's name, names of the categories, and the photos' folder."""
    root = Path(folder).expanduser()
    images = root / "images" if (root / "images").is_dir() else root / "image"
    if not (root / "coco.json").is_file() or not images.is_dir():
        raise NbHelpersError("this is no folder of COCO", given=root, expected="images/ and coco.json")
    coco = json.loads((root / "coco.json").read_text(encoding="utf-8"))
    owned: dict[int, list] = {}
    for each in coco["annotations"]:
        owned.setdefault(each["image_id"], []).append(each)
    photos = {Path(each["file_name"]).name: (each, owned[each["id"]]) for each in coco["images"] if each["id"] in owned}
    here = {name: about for name, about in photos.items() if (images / name).is_file()}
    return here, {category["id"]: category["name"] for category in coco["categories"]}, images


@dataclass(frozen=True)
class WordMasks:
    """What `nbhelpers.clip_guided.segment` finds for words; a `nbhelpers.benchmarks.runner.Benchmark`.

    For each object class present, the IoU of everything that is found for its word with its true pixels, void left
    out; the mean is over all of these in all photos. Also how many absent words get more than 0.5 % of the
    photo. On VOC also mIoU over its 21 classes, background among them, from the vocabulary ``all``.

    Attributes:
        dataset: ``voc-words`` (PASCAL VOC) or ``coco-words`` (``coco.json`` and ``images/``).
        folder: of it.
        vocabularies: ``all``: all 20 words of VOC, of COCO the words that are there and three that are not;
            ``present``: the words that are there; ``alone``: each of these and of three that are not, by itself.
        text_encoder: catalog name, or a model.
        segmenter: likewise.
        detector: likewise; None: the one that `segment` chooses.
        without: of ``surroundings`` and ``detector``, what is left out, for comparison.
        pictures: folder for pictures of the first vocabulary: the photo with the true masks, and beside it with those
            that were found, a word in the same colour; empty for none.
    """

    dataset: str
    folder: str | Path
    vocabularies: tuple[str, ...] = ("all",)
    text_encoder: Any = None
    segmenter: Any = None
    detector: Any = None
    without: tuple[str, ...] = ()
    pictures: str | Path = ""
    kind = "words to masks"
    measure_name = "mean IoU of present words"

    def __post_init__(self):
        unknown = set(self.vocabularies) - set(VOCABULARIES) | set(self.without) - set(SWITCHES)
        if unknown or not self.vocabularies or self.dataset not in DATASETS:
            raise NbHelpersError(
                "the benchmark of words cannot be this",
                given=f"{self.dataset}, {', '.join(sorted(unknown))}",
                expected=f"{DATASETS}, vocabularies {VOCABULARIES}, without {SWITCHES}",
            )

    @property
    def _words(self) -> list[str | list[str]]:
        if self.dataset == "coco-words":
            return list(COCO_NAMES)
        return [names[0] if len(names) == 1 else list(names) for names in VOC_NAMES]

    @property
    def _voc(self) -> LabelledPhotos:
        return opened_photos("pascal-voc", str(self.folder))

    def names(self) -> list[str]:
        """The photos."""
        return self._voc.names if self.dataset == "voc-words" else list(_opened_coco(str(self.folder))[0])

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        return {
            "dataset": self.dataset,
            "text_encoder": model_name("text_encoder", self.text_encoder),
            "segmenter": model_name("segmenter", self.segmenter),
            "vocabularies": list(self.vocabularies),
            "without": list(self.without),
            "absent_from": MIN_AREA,
            "metric": "IoU of all that is found for a word, void left out; mean over the words present",
            **({"detector": model_name("detector", self.detector)} if self.detector is not None else {}),
        }

    def read(self, name: str) -> NamedTruth:
        """The truth of a photo."""
        if self.dataset == "voc-words":
            _, labels = self._voc.read(name)
            truth = {names[0]: labels == i for i, names in enumerate(VOC_NAMES, 1) if (labels == i).any()}
            return NamedTruth(self._voc.path(name), truth, labels != VOID, labels)
        photos, categories, images = _opened_coco(str(self.folder))
        about, annotations = photos[name]
        size = about["height"], about["width"]
        truth = {}
        for each in annotations:
            mask = truth.setdefault(categories[each["category_id"]], np.zeros(size, bool))
            mask |= coco_mask(each["segmentation"], size)
        return NamedTruth(images / name, truth, np.ones(size, bool))

    def measure(self, name: str) -> dict[str, Any]:
        """IoU of the words present, and the words that were wrongly given an area, of each vocabulary."""
        photo = self.read(name)
        image = load_image(photo.path)
        segmenter, encoder = resolve("segmenter", self.segmenter), resolve("text_encoder", self.text_encoder)
        encoder.dense(np.zeros((64, 64, 3), np.uint8), self._words)  # embeds the words, once
        settings = ClipGuidedSettings(
            surroundings="surroundings" not in self.without, detect=False if "detector" in self.without else None
        )
        detector = self.detector and resolve("detector", self.detector)
        models = {"segmenter": segmenter, "text_encoder": encoder, "settings": settings, "detector": detector}
        clock = time.perf_counter()
        embedding = segmenter.encode(image)
        cost = {"prompts": 0, "text": 0.0, "image": time.perf_counter() - clock, "decoder": 0.0, "segment": 0.0}
        record: dict[str, Any] = {"present": {}, "absent": {}}
        number = self.names().index(name) + 1
        for kind, lists in vocabularies(photo.truth, self._words, number).items():
            if kind not in self.vocabularies:
                continue
            ious, absent = {}, {}
            masks = {word: np.zeros(image.shape[:2], bool) for word in photo.truth}  # first, for their colours
            for vocabulary in lists:
                result = segment(image, vocabulary, embedding=embedding, **models)
                for word in result.vocabulary:
                    masks[word] = found = result.mask(word) & photo.counted
                    if word not in photo.truth:
                        absent[word] = round(float(found.mean()), 5)
                        continue
                    true = photo.truth[word] & photo.counted
                    iou = np.count_nonzero(found & true) / max(1, np.count_nonzero(found | true))
                    ious[word] = round(float(iou), 4)
                if kind == self.vocabularies[0]:
                    cost["prompts"] += result.budget.prompts
                    cost["text"] += result.budget.text
                    cost["decoder"] += result.budget.decoder
                    cost["segment"] += result.budget.seconds
                if kind == "all" and photo.labels is not None:
                    found = result.labels.astype(np.int64) + 1
                    record["areas"] = sparse(class_areas(photo.labels, found, VOC_CLASSES))
            record["present"][kind], record["absent"][kind] = ious, absent
            if self.pictures and kind == self.vocabularies[0]:
                sides = [overlay(image, each) for each in (photo.truth, masks)]
                save_image(Path(self.pictures) / f"{Path(name).stem}.png", np.concatenate(sides, axis=1))
        return record | {"cost": {key: round(value, 4) for key, value in cost.items()}}

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Over all of these in all photos, for each vocabulary."""
        out: dict[str, Any] = {}
        for kind in self.vocabularies:
            prefix = "" if kind == self.vocabularies[0] else f"{kind}_"
            ious = [iou for record in records for iou in record["present"].get(kind, {}).values()]
            absent = [area for record in records for area in record["absent"].get(kind, {}).values()]
            out |= {
                f"{prefix}mean_iou": float(np.mean(ious)) if ious else None,
                f"{prefix}median_iou": float(np.median(ious)) if ious else None,
                f"{prefix}over_half": float(np.mean(np.array(ious) > 0.5)) if ious else None,
                f"{prefix}words": len(ious),
                f"{prefix}absent_found": sum(area > MIN_AREA for area in absent),
                f"{prefix}absent_words": len(absent),
            }
        if areas := [record for record in records if "areas" in record]:
            scores = class_scores(summed(areas, VOC_CLASSES))
            out |= {"voc21_miou": scores.miou, "voc21_present_miou": scores.present_miou}
        return rounded(out)


def vocabularies(truth: Mapping[str, Any], words: Sequence[str | list[str]], seed: int) -> dict[str, list[list]]:
    """The vocabularies of each kind for a photo; the words that are not there are drawn by the photo's number."""
    first = [word if isinstance(word, str) else word[0] for word in words]
    there = [word for word, name in zip(words, first, strict=True) if name in truth]
    absent = [word for word, name in zip(words, first, strict=True) if name not in truth]
    chosen = np.random.default_rng(seed).choice(len(absent), min(ABSENT, len(absent)), replace=False)
    some = [absent[index] for index in chosen]
    everything = list(words) if len(words) == len(VOC_NAMES) else [*there, *some]
    return {"all": [everything], "present": [there], "alone": [[word] for word in [*there, *some]]}
