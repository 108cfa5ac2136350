"""Candidates as one ``.npz`` file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing
from nbhelpers.product_matching.values import Candidate, Candidates, Features

FORMAT = "nbhelpers candidates 1"
PER_PATCH = ("patches", "weights", "places", "colours")


def save_candidates(candidates: Candidates, path: str | Path) -> Path:
    """Write candidates as one ``.npz`` file, whole or not at all; what is stored for each patch in half precision."""
    about = {
        "format": FORMAT,
        "size": list(candidates.size),
        "prompts": candidates.prompts,
        "seconds": candidates.seconds,
        "models": list(candidates.models),
        "notes": list(candidates.notes),
        "items": [
            {"rle": dict(item.rle), "box": list(item.box), "area": item.area, "quality": item.quality}
            for item in candidates.items
        ],
    }
    features = [item.features for item in candidates.items]
    arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps(about))}
    if features:
        arrays["counts"] = np.array([len(each.weights) for each in features])
        arrays["average"] = np.stack([each.average for each in features])
        for name in PER_PATCH:
            arrays[name] = np.concatenate([getattr(each, name) for each in features]).astype(np.float16)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return Path(path)


def load_candidates(path: str | Path) -> Candidates:
    """Read what `save_candidates` wrote.

    Raises:
        NbHelpersError: missing, damaged, or no file of candidates.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["format"] != FORMAT:
                raise ValueError(about["format"])
            features = _features(stored) if about["items"] else []
        items = tuple(
            Candidate(item["rle"], tuple(item["box"]), item["area"], item["quality"], each)
            for item, each in zip(about["items"], features, strict=True)
        )
        return Candidates(
            tuple(about["size"]),
            items,
            about["prompts"],
            about["seconds"],
            tuple(about["models"]),
            tuple(about["notes"]),
        )
    except NbHelpersError:
        raise
    except Exception as error:  # zip, numpy and json each have their own
        raise NbHelpersError(
            "the file of candidates cannot be read",
            given=f"{path}: {error}",
            expected=FORMAT,
            do="delete it; it is made again",
        ) from error


def _features(stored) -> list[Features]:
    ends = np.cumsum(stored["counts"])[:-1]
    parts = [np.split(stored[name].astype(np.float32), ends) for name in PER_PATCH]
    return [Features(average, *each) for average, *each in zip(stored["average"], *parts, strict=True)]
