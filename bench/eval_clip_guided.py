"""Words on photos with known labels, counted as a person counts, and by the protocols of PASCAL VOC.

    python bench/eval_clip_guided.py DATA [--encoder conse-lite] [--segmenter sam2-hiera-tiny-lite]

DATA holds ``voc2012/image/*.png`` and ``voc2012/label/*.png`` (class 0 to 20, 255 = void).

*words*: background counts. For each thing that is there, the IoU of everything that is found for its word with its
true pixels (void left out), mean over all things of all photos; and how many of the words that are not there get more
than 0.5 % of the photo. Three vocabularies: all 20 words; the words that are there; each word alone, with three words
that are not there, each alone too.
*voc21*: mIoU over the 21 classes that are present, background among them, from the same results.
*dense*, *guided*: the older measure, by which figures were told before. The 20 classes without background, so that a
pixel outside of all things counts for nothing, and the most probable of the 20 words wins each pixel even where it is
not probable: easier, and not what a person sees. With the segmenter the instances' classes lie over the dense answer.

Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from nbhelpers import NbHelpersError, load, load_image
from nbhelpers.clip_guided import ClipGuidedSettings, segment
from nbhelpers.core.metrics import class_iou, confusion, mean_iou
from nbhelpers.models.values import ClassMap

TARGETS = {"words all": 0.75, "absent": 0.02}
VOID = 255
MIN_AREA = 0.005  # fraction of the photo from which a word that is not there has been given an area
ABSENT_ALONE = 3
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


@dataclass
class Words:
    """Counts of one kind of vocabulary."""

    ious: list[float] = field(default_factory=list)
    absent: int = 0
    absent_found: int = 0
    seconds: list[float] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)

    def count(self, result, truth: np.ndarray, seconds: float) -> str:
        """Add a result; ``truth`` holds 0 for background, else 1 + the index of a class."""
        self.seconds.append(seconds)
        self.prompts.append(result.budget.prompts)
        counted, line = truth != VOID, []
        for name in result.vocabulary:
            found, true = result.mask(name) & counted, truth == 1 + NAMES.index(name)
            if true.any():
                self.ious.append(float(np.count_nonzero(found & true) / np.count_nonzero(found | true)))
                line.append(f"{name} {self.ious[-1]:.2f}")
            else:
                self.absent += 1
                if found.mean() > MIN_AREA:
                    self.absent_found += 1
                    line.append(f"{name} is not there")
        return ", ".join(line)

    def figures(self) -> dict:
        """Mean and median IoU, share of absent words with an area, seconds and prompts."""
        return {
            "things": len(self.ious),
            "mean_iou": round(float(np.mean(self.ious)), 4) if self.ious else None,
            "median_iou": round(float(np.median(self.ious)), 4) if self.ious else None,
            "absent_words": self.absent,
            "absent_found": round(self.absent_found / max(1, self.absent), 4),
            "seconds": round(float(np.median(self.seconds)), 2),
            "prompts": round(float(np.mean(self.prompts)), 1),
        }


def vocabularies(truth: np.ndarray, seed: int) -> dict[str, list[list]]:
    """The vocabularies of each kind for a photo."""
    present = [index for index in range(len(CLASSES)) if (truth == index + 1).any()]
    absent = [index for index in range(len(CLASSES)) if index not in present]
    some = np.random.default_rng(seed).choice(absent, ABSENT_ALONE, replace=False)
    return {
        "all": [list(CLASSES)],
        "present": [[CLASSES[index] for index in present]],
        "alone": [[CLASSES[index]] for index in [*present, *some]],
    }


def evaluate(data: Path, encoder_name: str, segmenter_name: str) -> dict:
    """Measure every photo under ``data``, printing as it goes, and return the figures."""
    photos = sorted((data / "voc2012" / "image").glob("*.png"), key=lambda path: (len(path.stem), path.stem))
    if not photos:
        raise NbHelpersError("no photos to measure", given=data, expected="a folder that holds voc2012/image/*.png")
    encoder, segmenter = load("text_encoder", encoder_name), load("segmenter", segmenter_name)
    encoder.dense(np.zeros((64, 64, 3), np.uint8), CLASSES)  # embeds the words, once
    models = {"segmenter": segmenter, "text_encoder": encoder}
    words = {kind: Words() for kind in ("all", "present", "alone")}
    totals = {kind: np.zeros((len(CLASSES),) * 2, np.int64) for kind in PROTOCOLS}
    voc21 = np.zeros((len(CLASSES) + 1,) * 2, np.int64)
    each: dict[str, list[float]] = {kind: [] for kind in PROTOCOLS}
    for number, path in enumerate(photos):
        image, labels = load_image(path), read_labels(data / "voc2012" / "label" / path.name)
        embedding = segmenter.encode(image)
        for kind, lists in vocabularies(labels, number).items():
            for vocabulary in lists:
                started = time.perf_counter()
                result = segment(image, vocabulary, embedding=embedding, **models)
                told = words[kind].count(result, labels, time.perf_counter() - started)
                print(f"{path.name:>12} {kind:>8}  {told}", flush=True)
                if kind == "all":
                    voc21 += confusion(labels, result.labels.astype(np.int64) + 1, len(CLASSES) + 1, VOID)
        foreground = np.where((labels == 0) | (labels == VOID), VOID, labels - 1)
        class_map = encoder.dense(image, CLASSES)
        found = {"dense": dense_labels(class_map), "guided": guided_labels(image, class_map, segmenter)}
        for kind, answer in found.items():
            confused = confusion(foreground, answer, len(CLASSES), VOID)
            totals[kind] += confused
            each[kind].append(mean_iou(confused))
    return {
        "measure": "words",
        "models": [encoder.name, segmenter.name],
        "photos": len(photos),
        "targets": TARGETS,
        "words": {kind: counted.figures() for kind, counted in words.items()},
        "voc21": round(mean_iou(voc21), 4),
        **{kind: _figures(totals[kind], each[kind]) for kind in PROTOCOLS},
    }


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
    arguments = parser.parse_args()
    try:
        print(json.dumps(evaluate(arguments.data, arguments.encoder, arguments.segmenter)))
    except NbHelpersError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
