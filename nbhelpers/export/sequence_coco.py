"""The masks of a whole clip as one COCO file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import full_of
from nbhelpers.core.matting import Mattes
from nbhelpers.export.coco import to_coco
from nbhelpers.export.ledger import Ledger


def sequence_to_coco(
    mattes: Mattes, names: Mapping[Any, str] | None = None, progress: Callable[[int, int], object] | None = None
) -> dict[str, Any]:
    """A clip's objects as a COCO dictionary: one image a frame, one category an object.

    Example:
        >>> sequence_to_coco(mattes, {1: "walker"})["annotations"][0]["track_id"]
        1

    Each annotation carries ``track_id``, the same for an object in all frames; otherwise as `to_coco` says. What is
    more than half opaque belongs to the object.

    Args:
        mattes: of the clip; objects are kept apart.
        names: object -> its name, if that is not the object's own.
        progress: called with the number of frames done, and of all.
    """
    names = names or {}
    categories: dict[str, int] = {}
    images, annotations = [], []
    for index in range(len(mattes)):
        parts = mattes.make_each(index)
        masks = {
            str(names.get(key, "object" if key is None else key)): matte > full_of(matte.dtype) // 2
            for key, matte in parts.items()
        }
        if len(masks) < len(parts):
            raise NbHelpersError("two objects have the same name", given=", ".join(masks), do="rename one of them")
        frame = to_coco(mattes.names[index], mattes.size, masks)
        images.append({**frame["images"][0], "id": index + 1})
        for annotation in frame["annotations"]:
            name = frame["categories"][annotation["category_id"] - 1]["name"]
            number = categories.setdefault(name, len(categories) + 1)
            annotations.append(
                {
                    **annotation,
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": number,
                    "track_id": number,
                }
            )
        for name in masks:
            categories.setdefault(name, len(categories) + 1)
        if progress is not None:
            progress(index + 1, len(mattes))
    listed = [{"id": number, "name": name, "supercategory": "object"} for name, number in categories.items()]
    return {"images": images, "categories": listed, "annotations": annotations}


def write_sequence_coco(
    path: str | Path,
    mattes: Mattes,
    names: Mapping[Any, str] | None = None,
    replace: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Write what `sequence_to_coco` gives as JSON, whole or not at all; return the path.

    Raises:
        NbHelpersError: a file of other origin is in the way, or one of ours from other masks and not ``replace``.
    """
    path = Path(path).expanduser()
    ledger = Ledger(path.parent)
    ledger.check([path])
    data = json.dumps(sequence_to_coco(mattes, names, progress)).encode()
    signature = f"{zlib.crc32(data):08x}"
    if ledger.is_done(path, signature):
        return path
    if path.exists() and not replace:
        raise NbHelpersError(
            "an earlier export wrote this file from other masks or settings",
            given=path,
            do="pass replace=True to write it anew, or give another name",
        )
    return ledger.write(path, [data], signature)
