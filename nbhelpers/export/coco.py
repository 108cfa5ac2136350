"""Masks as a COCO instance annotation file.

Format: https://cocodataset.org/#format-data, "Object Detection", with run-length encoded segmentations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.masks import encode_rle


def to_coco(
    image_name: str,
    size: tuple[int, int],
    masks: Mapping[str, Any],
    scores: Mapping[str, float] | None = None,
    sha256: str | None = None,
) -> dict[str, Any]:
    """One photo's masks as a COCO dictionary that ``pycocotools`` and its kin read.

    Example:
        >>> to_coco("cat.jpg", (480, 640), {"cat": mask})["annotations"][0]["bbox"]
        [120.0, 64.0, 200.0, 310.0]

    Args:
        image_name: becomes ``file_name``.
        size: ``(H, W)`` of the photo.
        masks: object name -> ``(H, W) bool``, or its run-length encoding as `encode_rle` gives it (which takes
            less memory). Each object is a category of its own. Empty masks keep their category and get no
            annotation, for evaluators stumble over boxes without area.
        scores: object name -> predicted IoU, written as ``score``.
        sha256: digest of the photo, written beside its name, for `nbhelpers.core.runs.own_name`.

    Returns:
        ``images`` (one), ``categories``, ``annotations`` with ``segmentation`` (RLE), ``bbox``
        ``[x, y, width, height]`` and ``area`` in pixels, ``iscrowd`` 0. Ids count from 1.

    Raises:
        NbHelpersError: a mask of another size.
    """
    from pycocotools import mask as coco

    annotations, categories = [], []
    for number, (name, mask) in enumerate(masks.items(), start=1):
        rle = encode_rle(mask) if isinstance(mask, np.ndarray) else dict(mask)
        if tuple(rle["size"]) != tuple(size):
            raise NbHelpersError(
                "a mask has another size than the photo", given=f"{name}: {rle['size']}", expected=str(tuple(size))
            )
        categories.append({"id": number, "name": name, "supercategory": "object"})
        area = int(coco.area(rle))
        if not area:
            continue
        annotation = {
            "id": number,
            "image_id": 1,
            "category_id": number,
            "segmentation": rle,
            "bbox": [float(side) for side in coco.toBbox(rle)],
            "area": area,
            "iscrowd": 0,
        }
        if scores is not None and name in scores:
            annotation["score"] = float(scores[name])
        annotations.append(annotation)
    image = {"id": 1, "file_name": image_name, "height": int(size[0]), "width": int(size[1])}
    if sha256 is not None:
        image["sha256"] = sha256
    return {"images": [image], "categories": categories, "annotations": annotations}


def save_coco(path: str | Path, data: Mapping[str, Any]) -> Path:
    """Write what `to_coco` gave as JSON, whole or not at all; return the path."""
    return write_text(path, json.dumps(data))
