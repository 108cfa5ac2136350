"""Words on photos with known labels, counted as a person counts, and by the protocols of PASCAL VOC.

    python bench/eval_clip_guided.py DATA [--encoder conse-lite] [--segmenter sam2-hiera-tiny-lite]

DATA holds ``voc2012/``, or is itself a folder with ``image/`` and either ``label/*.png`` (class 0 to 20, 255 = void) or
``coco.json``: instances in COCO's format with the 80 names of COCO, whose masks are run lengths or polygons.

*words*: background counts. For each thing that is there, the IoU of everything that is found for its word with its
true pixels (void left out), mean over all things of all photos; and how many of the words that are not there get more
than 0.5 % of the photo. Three vocabularies: all 20 words (of COCO the words that are there and three that
are not); the words that are there; each word alone, with three words that are not there, each alone too.
``--without`` leaves out surroundings, detector or both, for comparison.
*voc21*: mIoU over the 21 classes that are present, background among them, from the same results.
*dense*, *guided*: the older measure (VOC only), by which figures were given before: the 20 classes without background,
so that a pixel outside of all things counts for nothing, and the most probable of the 20 words wins each pixel even
where it is not probable. Easier, and not what a person sees. With the segmenter the instances' classes lie over the
dense answer.

Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from nbhelpers import NbHelpersError, load, load_image
from nbhelpers.clip_guided import ClipGuidedSettings, segment
from nbhelpers.core.masks import decode_rle, polygon_mask
from nbhelpers.core.metrics import class_iou, confusion, mean_iou
from nbhelpers.models.values import ClassMap
from nbhelpers.models.yolox import CLASSES as COCO

TARGETS = {"words all": 0.75, "absent": 0.02}
VOID = 255
MIN_AREA = 0.005  # fraction of the photo from which a word that is not there has been given an area
ABSENT = 3  # words that are not there, each alone, and of COCO beside those that are
PROTOCOLS = ("dense", "guided")
OLDER = ClipGuidedSettings(min_confidence=0.4, surroundings=False, detect=False)  # which wants a name for every pixel
# VOC's classes in its order, "pottedplant" and its like written as words, with synonyms where the name is unusual.
CLASSES: tuple[str | list[str], ...] = (
    ["aeroplane", "airplane"],
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    ["motorbike", "motorcycle"],
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    ["tv monitor", "television"],
)
NAMES = tuple(name if isinstance(name, str) else name[0] for name in CLASSES)


def read_labels(path: Path) -> np.ndarray:
    """``(h, w)``: 0 for background, 1 to 20 for VOC's classes, 255 for void."""
    from PIL import Image

    with Image.open(path) as picture:
        labels = np.asarray(picture).astype(np.int64)
    if labels.ndim != 2:
        raise NbHelpersError(
            "the label picture has colours, not class numbers", given=path, expected="one channel, 0 to 20 and 255"
        )
    return labels


def dense_labels(class_map: ClassMap) -> np.ndarray:
    """The most probable class of each pixel of the photo."""
    size = class_map.size[::-1]
    return np.stack([cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in class_map.probabilities]).argmax(0)


def guided_labels(image: np.ndarray, class_map: ClassMap, segmenter) -> np.ndarray:
    """The class of the instance at each pixel, and the most probable class where there is none."""
    result = segment(image, CLASSES, settings=OLDER, segmenter=segmenter, class_map=class_map)
    labels = dense_labels(class_map)
    for index, class_id in enumerate(result.instances.class_id.tolist()):
        labels[result.instance_map == index] = class_id
    return labels


@dataclass(frozen=True)
class Labelled:
    """A photo with the true mask of each word that is there, and what is counted (not void)."""

    path: Path
    truth: dict[str, np.ndarray]
    counted: np.ndarray
    labels: np.ndarray | None = None
    """VOC's label map."""


def labelled(data: Path) -> tuple[Iterator[Labelled], list[str | list[str]]]:
    """The photos of a folder, and the words of its classes."""
    folder = data / "voc2012" if (data / "voc2012").is_dir() else data
    if (folder / "coco.json").is_file():
        return _coco(folder), list(COCO)
    if (folder / "label").is_dir():
        return _voc(folder), list(CLASSES)
    raise NbHelpersError(
        "no photos to measure", given=data, expected="a folder with voc2012/, or image/ and label/ or coco.json"
    )


def _voc(folder: Path) -> Iterator[Labelled]:
    for path in sorted((folder / "image").iterdir(), key=lambda path: (len(path.stem), path.stem)):
        labels = read_labels(folder / "label" / f"{path.stem}.png")
        truth = {name: labels == index for index, name in enumerate(NAMES, 1) if (labels == index).any()}
        yield Labelled(path, truth, labels != VOID, labels)


def _coco(folder: Path) -> Iterator[Labelled]:
    coco = json.loads((folder / "coco.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for image in coco["images"]:
        path, size = folder / "image" / Path(image["file_name"]).name, (image["height"], image["width"])
        truth: dict[str, np.ndarray] = {}
        for instance in coco["annotations"]:
            if instance["image_id"] == image["id"]:
                mask = truth.setdefault(names[instance["category_id"]], np.zeros(size, bool))
                shape = instance["segmentation"]
                mask |= decode_rle(shape) if isinstance(shape, dict) else _polygons(shape, size)
        if truth and path.is_file():
            yield Labelled(path, truth, np.ones(size, bool))


def _polygons(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    return np.any([polygon_mask(np.reshape(points, (-1, 2)), size) for points in polygons], axis=0)


@dataclass
class Words:
    """Counts of one kind of vocabulary."""

    ious: list[float] = field(default_factory=list)
    absent: int = 0
    absent_found: int = 0
    seconds: list[float] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)

    def count(self, result, photo: Labelled, seconds: float) -> str:
        """Add a result; return what to print."""
        self.seconds.append(seconds)
        self.prompts.append(result.budget.prompts)
        line = []
        for name in result.vocabulary:
            found = result.mask(name) & photo.counted
            if name in photo.truth:
                true = photo.truth[name] & photo.counted
                self.ious.append(float(np.count_nonzero(found & true) / max(1, np.count_nonzero(found | true))))
                line.append(f"{name} {self.ious[-1]:.2f}")
            else:
                self.absent += 1
                if found.mean() > MIN_AREA:
                    self.absent_found += 1
                    line.append(f"{name} is not there, {found.mean():.1%}")
        return ", ".join(line)

    def figures(self) -> dict:
        """Mean and median IoU, fraction of absent words with an area, seconds and prompts."""
        return {
            "things": len(self.ious),
            "mean_iou": round(float(np.mean(self.ious)), 4) if self.ious else None,
            "median_iou": round(float(np.median(self.ious)), 4) if self.ious else None,
            "over_half": round(float(np.mean(np.array(self.ious) > 0.5)), 4) if self.ious else None,
            "absent_words": self.absent,
            "absent_found": round(self.absent_found / max(1, self.absent), 4),
            "seconds": round(float(np.median(self.seconds)), 2),
            "prompts": round(float(np.mean(self.prompts)), 1),
        }


def vocabularies(photo: Labelled, words: list[str | list[str]], seed: int) -> dict[str, list[list]]:
    """The vocabularies of each kind for a photo."""
    there = [word for word in words if first(word) in photo.truth]
    absent = [word for word in words if first(word) not in photo.truth]
    chosen = np.random.default_rng(seed).choice(len(absent), min(ABSENT, len(absent)), replace=False)
    some = [absent[index] for index in chosen]
    everything = words if len(words) == len(CLASSES) else [*there, *some]
    return {"all": [everything], "present": [there], "alone": [[word] for word in [*there, *some]]}


def first(word: str | list[str]) -> str:
    """The first name of a class."""
    return word if isinstance(word, str) else word[0]


def evaluate(data: Path, encoder_name: str, segmenter_name: str, kinds: list[str], without: list[str]) -> dict:
    """Measure every photo under ``data``, printing as it goes, and return the figures."""
    photos, vocabulary = labelled(data)
    encoder, segmenter = load("text_encoder", encoder_name), load("segmenter", segmenter_name)
    encoder.dense(np.zeros((64, 64, 3), np.uint8), vocabulary)  # embeds the words, once
    settings = ClipGuidedSettings(
        surroundings="surroundings" not in without, detect=False if "detector" in without else None
    )
    models = {"segmenter": segmenter, "text_encoder": encoder, "settings": settings}
    words = {kind: Words() for kind in kinds}
    totals = {kind: np.zeros((len(CLASSES),) * 2, np.int64) for kind in PROTOCOLS}
    voc21 = np.zeros((len(CLASSES) + 1,) * 2, np.int64)
    each: dict[str, list[float]] = {kind: [] for kind in PROTOCOLS}
    count = 0
    for count, photo in enumerate(photos, 1):
        image = load_image(photo.path)
        embedding = segmenter.encode(image)
        for kind, lists in vocabularies(photo, vocabulary, count).items():
            for asked in lists if kind in words else ():
                started = time.perf_counter()
                result = segment(image, asked, embedding=embedding, **models)
                line = words[kind].count(result, photo, time.perf_counter() - started)
                print(f"{photo.path.name:>20} {kind:>8}  {line}", flush=True)
                if kind == "all" and photo.labels is not None:
                    voc21 += confusion(photo.labels, result.labels.astype(np.int64) + 1, len(CLASSES) + 1, VOID)
        if photo.labels is not None and not without:
            background = (photo.labels == 0) | (photo.labels == VOID)
            foreground = np.where(background, VOID, photo.labels - 1)
            class_map = encoder.dense(image, CLASSES)
            found = {"dense": dense_labels(class_map), "guided": guided_labels(image, class_map, segmenter)}
            for kind, answer in found.items():
                confused = confusion(foreground, answer, len(CLASSES), VOID)
                totals[kind] += confused
                each[kind].append(mean_iou(confused))
    if not count:
        raise NbHelpersError("no photos to measure", given=data)
    out = {
        "measure": "words",
        "models": [encoder.name, segmenter.name],
        "without": without,
        "photos": count,
        "targets": TARGETS,
        "words": {kind: counted.figures() for kind, counted in words.items()},
    }
    if voc21.any():
        out["voc21"] = round(mean_iou(voc21), 4)
    if each["dense"]:
        out |= {kind: _figures(totals[kind], each[kind]) for kind in PROTOCOLS}
    return out


def _figures(total: np.ndarray, each: list[float]) -> dict:
    return {
        "miou": round(mean_iou(total), 4),
        "miou_photo_mean": round(float(np.nanmean(each)), 4),
        "accuracy": round(float(np.trace(total) / max(1, total.sum())), 4),
        "classes": {NAMES[i]: round(float(v), 4) for i, v in enumerate(class_iou(total)) if np.isfinite(v)},
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", default="conse-lite", help="catalog name of a text encoder")
    parser.add_argument("--segmenter", default="sam2-hiera-tiny-lite", help="catalog name of a segmenter")
    parser.add_argument("--kinds", nargs="+", default=["all", "present", "alone"], help="of vocabularies")
    parser.add_argument("--without", nargs="+", default=[], help="surroundings, detector")
    arguments = parser.parse_args()
    try:
        how = arguments.kinds, arguments.without
        print(json.dumps(evaluate(arguments.data, arguments.encoder, arguments.segmenter, *how)))
    except NbHelpersError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
