"""Dense mIoU of a text encoder on PASCAL VOC photos with known labels.

    python bench/eval_clip_guided.py DATA [--encoder conse-lite]

DATA holds ``voc2012/image/*.png`` and ``voc2012/label/*.png`` (class 0 to 20, 255 = void). Protocol: the 20 classes
without background (background and void pixels are not counted), the answer brought to the photo's size bilinearly,
argmax, mean IoU over the classes present; of each photo, and of all photos' pixels together. Prints a table and one
line of JSON.
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
from nbhelpers.core.metrics import class_iou, confusion, mean_iou

TARGET = 0.70
VOID = 255
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


def dense_labels(encoder, image: np.ndarray) -> np.ndarray:
    """The most probable class of each pixel of ``image``."""
    probabilities = encoder.dense(image, CLASSES).probabilities
    size = image.shape[1::-1]
    return np.stack([cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in probabilities]).argmax(0)


def evaluate(data: Path, encoder_name: str) -> dict:
    """Measure every photo under ``data``, printing as it goes, and return the figures."""
    photos = sorted((data / "voc2012" / "image").glob("*.png"), key=lambda path: (len(path.stem), path.stem))
    if not photos:
        raise NbHelpersError("no photos to measure", given=data, expected="a folder that holds voc2012/image/*.png")
    encoder = load("text_encoder", encoder_name)
    encoder.dense(np.zeros((64, 64, 3), np.uint8), CLASSES)  # embeds the words, once
    total, seconds, each = np.zeros((len(CLASSES),) * 2, np.int64), [], {}
    for path in photos:
        image, truth = load_image(path), read_labels(data / "voc2012" / "label" / path.name)
        started = time.perf_counter()
        found = dense_labels(encoder, image)
        seconds.append(time.perf_counter() - started)
        confused = confusion(truth, found, len(CLASSES), VOID)
        total += confused
        each[path.stem] = round(mean_iou(confused), 4)
        told = ", ".join(f"{NAMES[i]} {v:.2f}" for i, v in enumerate(class_iou(confused)) if np.isfinite(v))
        print(f"{path.name:>12}  mIoU {each[path.stem]:.3f}  {seconds[-1]:.2f} s  {told}")
    return {
        "measure": "dense_miou",
        "encoder": encoder.name,
        "photos": len(photos),
        "miou": round(mean_iou(total), 4),
        "target": TARGET,
        "miou_photo_mean": round(float(np.nanmean(list(each.values()))), 4),
        "accuracy": round(float(np.trace(total) / max(1, total.sum())), 4),
        "seconds_a_photo": round(float(np.median(seconds)), 2),
        "classes": {NAMES[i]: round(float(v), 4) for i, v in enumerate(class_iou(total)) if np.isfinite(v)},
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", default="conse-lite", help="catalog name of a text encoder")
    arguments = parser.parse_args()
    try:
        print(json.dumps(evaluate(arguments.data, arguments.encoder)))
    except NbHelpersError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
