"""All that other tools may want of one photo's masks, in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.runs import file_stem
from nbhelpers.export.alpha import save_cutout, save_mask
from nbhelpers.export.coco import save_coco, to_coco


def save_masks(
    folder: str | Path,
    name: str,
    image: UInt8[np.ndarray, "h w 3"],
    masks: Mapping[str, Bool[np.ndarray, "h w"]],
    scores: Mapping[str, float] | None = None,
) -> list[Path]:
    """Write each mask and its cut-out as PNG, and all of them as one COCO file; return the paths.

    File names begin with the photo's name, then the object's, as `file_stem` makes them. Saving again replaces the
    files of the same names.

    Args:
        folder: made if it is missing; ``~`` is the home folder.
        name: of the photo.
        image: RGB.
        masks: object name -> mask.
        scores: object name -> predicted IoU.

    Raises:
        NbHelpersError: the folder cannot be written, or a mask has another size than the photo.
    """
    folder, stem = Path(folder).expanduser(), file_stem(name)
    paths: list[Path] = []
    taken: set[str] = set()
    for object_name, mask in masks.items():
        part = file_stem(object_name)
        while part.lower() in taken:
            part += "-2"
        taken.add(part.lower())
        paths.append(save_mask(folder / f"{stem}_{part}_mask.png", mask))
        paths.append(save_cutout(folder / f"{stem}_{part}_cutout.png", image, mask))
    paths.append(save_coco(folder / f"{stem}.coco.json", to_coco(name, image.shape[:2], masks, scores)))
    return paths
