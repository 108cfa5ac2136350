"""mIoU on PASCAL VOC photos with known labels: of a text encoder alone, and of `clip_guided.segment` with it.

    python bench/eval_clip_guided.py DATA [--encoder conse-lite] [--segmenter sam2-hiera-tiny-lite]

DATA holds ``voc2012/image/*.png`` and ``voc2012/label/*.png`` (class 0 to 20, 255 = void). Protocol: the 20 classes
without background (background and void pixels are not counted), the answer brought to the photo's size bilinearly,
argmax, mean IoU over the classes present; of each photo, and of all photos' pixels together. With the segmenter the
instances' classes lie over that answer: the protocol has no background, so a pixel without an instance keeps the text
encoder's class. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from nbhelpers import NbHelpersError, load, load_image
from nbhelpers.clip_guided import ClipGuidedSettings, segment
from nbhelpers.core.metrics import class_iou, confusion, mean_iou
from nbhelpers.models.values import ClassMap

TARGETS = {"dense": 0.70, "guided": 0.80}
VOID = 255
GUIDED = ClipGuidedSettings(
    min_confidence=0.4
)  # the protocol wants a name for every pixel, so unsure places are asked too
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
    """``(h, w)`` with 0 to 19 for VOC's 1 to 20, and void for its void and background."""
    from PIL import Image

    with Image.open(path) as picture:
        labels = np.asarray(picture).astype(np.int64)
    if labels.ndim != 2:
        raise NbHelpersError(
            "the label picture has colours, not class numbers", given=path, expected="one channel, 0 to 20 and 255"
        )
    return np.where((labels == 0) | (labels == VOID), VOID, labels - 1)


def dense_labels(class_map: ClassMap) -> np.ndarray:
    """The most probable class of each pixel of the photo."""
    size = class_map.size[::-1]
    return np.stack([cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in class_map.probabilities]).argmax(0)


def guided_labels(image: np.ndarray, class_map: ClassMap, segmenter, encoder) -> np.ndarray:
    """The class of the instance at each pixel, and the most probable class where there is none."""
    result = segment(image, CLASSES, settings=GUIDED, segmenter=segmenter, text_encoder=encoder, class_map=class_map)
    labels = dense_labels(class_map)
    for index, class_id in enumerate(result.instances.class_id.tolist()):
        labels[result.instance_map == index] = class_id
    return labels


def evaluate(data: Path, encoder_name: str, segmenter_name: str) -> dict:
    """Measure every photo under ``data``, printing as it goes, and return the figures."""
    photos = sorted((data / "voc2012" / "image").glob("*.png"), key=lambda path: (len(path.stem), path.stem))
    if not photos:
        raise NbHelpersError("no photos to measure", given=data, expected="a folder that holds voc2012/image/*.png")
    encoder, segmenter = load("text_encoder", encoder_name), load("segmenter", segmenter_name)
    encoder.dense(np.zeros((64, 64, 3), np.uint8), CLASSES)  # embeds the words, once
    totals = {kind: np.zeros((len(CLASSES),) * 2, np.int64) for kind in TARGETS}
    each: dict[str, list[float]] = {kind: [] for kind in TARGETS}
    seconds: dict[str, list[float]] = {kind: [] for kind in TARGETS}
    for path in photos:
        image, truth = load_image(path), read_labels(data / "voc2012" / "label" / path.name)
        started = time.perf_counter()
        class_map = encoder.dense(image, CLASSES)
        found = {"dense": dense_labels(class_map)}
        seconds["dense"].append(time.perf_counter() - started)
        found["guided"] = guided_labels(image, class_map, segmenter, encoder)
        seconds["guided"].append(time.perf_counter() - started)
        for kind, labels in found.items():
            confused = confusion(truth, labels, len(CLASSES), VOID)
            totals[kind] += confused
            each[kind].append(mean_iou(confused))
            told = ", ".join(f"{NAMES[i]} {v:.2f}" for i, v in enumerate(class_iou(confused)) if np.isfinite(v))
            print(f"{path.name:>12} {kind:>7}  mIoU {each[kind][-1]:.3f}  {seconds[kind][-1]:.2f} s  {told}")
    return {
        "measure": "voc_miou",
        "models": [encoder.name, segmenter.name],
        "photos": len(photos),
        "targets": TARGETS,
        **{kind: _figures(totals[kind], each[kind], seconds[kind]) for kind in TARGETS},
    }


def _figures(total: np.ndarray, each: list[float], seconds: list[float]) -> dict:
    return {
        "miou": round(mean_iou(total), 4),
        "miou_photo_mean": round(float(np.nanmean(each)), 4),
        "accuracy": round(float(np.trace(total) / max(1, total.sum())), 4),
        "seconds_a_photo": round(float(np.median(seconds)), 2),
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
