"""All that other tools may want of one photo's masks, in one folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.runs import file_stem, own_name
from nbhelpers.export.alpha import save_cutout, save_mask
from nbhelpers.export.coco import save_coco, to_coco


def save_masks(
    folder: str | Path,
    name: str,
    image: UInt8[np.ndarray, "h w 3"],
    masks: Mapping[str, Bool[np.ndarray, "h w"]],
    scores: Mapping[str, float] | None = None,
    file_name: str | None = None,
) -> list[Path]:
    """Write each mask and its cut-out as PNG, and all of them as one COCO file; return the paths.

    File names begin with the photo's name, then the object's, as `file_stem` makes them; ``_`` in an object's name
    becomes ``-``, so that two photos never share a name. Saving again replaces the files of the same photo; where
    results of another photo have the name, a number is added and that is logged, see `own_name`.

    Args:
        folder: made if it is missing; ``~`` is the home folder.
        name: of the photo.
        image: RGB.
        masks: object name -> mask.
        scores: object name -> predicted IoU.
        file_name: of the photo in the COCO file, by which other tools find it; ``name`` when left out.

    Returns:
        the files; the last is ``<name>.coco.json``.

    Raises:
        NbHelpersError: the folder cannot be written, or a mask has another size than the photo.
    """
    folder = Path(folder).expanduser()
    digest = hashlib.sha256(np.ascontiguousarray(image)).hexdigest()
    stem = own_name(folder, file_stem(name), digest)
    paths: list[Path] = []
    taken: set[str] = set()
    for object_name, mask in masks.items():
        part = file_stem(object_name).replace("_", "-")
        while part.lower() in taken:
            part += "-2"
        taken.add(part.lower())
        paths.append(save_mask(folder / f"{stem}_{part}_mask.png", mask))
        paths.append(save_cutout(folder / f"{stem}_{part}_cutout.png", image, mask))
    about = to_coco(file_name or name, image.shape[:2], masks, scores, digest)
    return [*paths, save_coco(folder / f"{stem}.coco.json", about)]
