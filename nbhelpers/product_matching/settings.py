"""Settings of a product search, read from a file, the environment and arguments."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError

PROPOSAL_MODES = ("guided", "grid")


@dataclass(frozen=True)
class ProductSettings:
    """The parameters of a product search.

    Attributes:
        similarity_threshold: minimum score of a match, 0 to 1; replaced by the calibrated threshold if ``calibrate``
            is set and there are enough scores to calibrate from.
        sam2_points_per_side: points along each side of the photo for ``candidates="grid"``.
        sam2_pred_iou_thresh: minimum predicted IoU of a mask of that grid.
        sam2_stability_score_thresh: minimum stability of such a mask under a shift of its threshold.
        min_mask_area_ratio: minimum area of a mask, as a fraction of the photo.
        max_mask_area_ratio: maximum area of a mask; larger ones are background.
        nms_iou_threshold: IoU of two masks or boxes from which only the better one is kept.
        dinov2_model: catalog name of the patch encoder; None takes the best one available: ViT-L/14 of the official
            set, else the lite ViT-S/14.
        sam2_checkpoint: catalog name of the segmenter; None takes the best one available.
        top_k_matches: maximum number of matches in one photo.
        candidates: ``"guided"``: prompts only where patch features are similar to the gallery; ``"grid"``: an
            exhaustive grid of points.
        calibrate: derive the threshold from the session's own scores.
        scales: longer sides, in pixels, at which a photo's patches are compared with the gallery.
        max_prompts: maximum number of point and box prompts in a guided search; up to 4 of the resulting masks are
            prompted again with their box.
        max_candidates: maximum number of proposals of a photo that are described, the most similar first.
        crop_side: side in pixels of the square crop from which a masked object is described.
        colour_weight: weight of the penalty for a different colour; 0 ignores colour.
        mirror_weight: weight of the penalty for matching the mirrored reference better; 0 ignores it.
    """

    similarity_threshold: float = 0.65
    sam2_points_per_side: int = 32
    sam2_pred_iou_thresh: float = 0.86
    sam2_stability_score_thresh: float = 0.92
    min_mask_area_ratio: float = 0.001
    max_mask_area_ratio: float = 0.5
    nms_iou_threshold: float = 0.5
    dinov2_model: str | None = None
    sam2_checkpoint: str | None = None
    top_k_matches: int = 3
    candidates: str = "guided"
    calibrate: bool = True
    scales: tuple[int, ...] = (560,)
    max_prompts: int = 32
    max_candidates: int = 8
    crop_side: int = 224
    colour_weight: float = 1.0
    mirror_weight: float = 1.0

    def __post_init__(self):
        for name, low, high in (
            ("similarity_threshold", -1, 1),
            ("sam2_points_per_side", 1, 512),
            ("sam2_pred_iou_thresh", 0, 1),
            ("sam2_stability_score_thresh", 0, 1),
            ("min_mask_area_ratio", 0, 1),
            ("max_mask_area_ratio", 0, 1),
            ("nms_iou_threshold", 0, 1),
            ("top_k_matches", 1, 1000),
            ("max_prompts", 1, 10_000),
            ("max_candidates", 1, 10_000),
            ("crop_side", 14, 2048),
            ("colour_weight", 0, 10),
            ("mirror_weight", 0, 10),
        ):
            if not low <= getattr(self, name) <= high:
                raise NbHelpersError(f"{name} is out of range", given=getattr(self, name), expected=f"{low} to {high}")
        if self.min_mask_area_ratio > self.max_mask_area_ratio:
            raise NbHelpersError(
                "the minimum mask area is larger than the maximum",
                given=f"{self.min_mask_area_ratio} and {self.max_mask_area_ratio}",
                expected="min_mask_area_ratio <= max_mask_area_ratio",
            )
        if self.candidates not in PROPOSAL_MODES:
            raise NbHelpersError(
                "unknown value of candidates", given=self.candidates, expected=", ".join(PROPOSAL_MODES)
            )
        if not self.scales or not all(28 <= side <= 8192 for side in self.scales):
            raise NbHelpersError("the scales are out of range", given=self.scales, expected="28 to 8192 pixels each")


PREFIX = "NBHELPERS_"
NAMES = tuple(each.name for each in fields(ProductSettings))


def load_settings(
    file: str | Path | None = None, environment: Mapping[str, str] | None = None, **arguments: Any
) -> ProductSettings:
    """Settings from a file, the environment and arguments; the latter take precedence.

    Example:
        >>> load_settings("shelf.toml", top_k_matches=1).top_k_matches         # shelf.toml: TOP_K_MATCHES = 5
        1

    Args:
        file: TOML or JSON with names of `ProductSettings`, in capitals or not.
        environment: ``NBHELPERS_SIMILARITY_THRESHOLD=0.7`` and the like; by default that of this process.
        **arguments: values by name; None is ignored.

    Raises:
        NbHelpersError: the file cannot be read, a name is unknown, or a value is out of range.
    """
    values = {} if file is None else _read(Path(file).expanduser())
    for name in NAMES:
        if text := (os.environ if environment is None else environment).get(PREFIX + name.upper()):
            values[name] = _parse(name, text)
    values |= {name: value for name, value in arguments.items() if value is not None}
    if unknown := [name for name in values if name not in NAMES]:
        raise NbHelpersError("unknown setting", given=", ".join(unknown), expected=", ".join(NAMES))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return ProductSettings(**values)
    except TypeError as error:
        raise NbHelpersError("a setting has a value of the wrong type", given=values) from error


def _read(path: Path) -> dict[str, Any]:
    """The values of a TOML or JSON file, by lower-case name."""
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        return {name.lower(): value for name, value in values.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise NbHelpersError(
            "the settings cannot be read", given=f"{path}: {error}", expected="TOML or JSON with names and values"
        ) from error


def _parse(name: str, text: str) -> Any:
    """The value of an environment variable, converted to the type of the setting's default."""
    default = getattr(ProductSettings, name)
    try:
        if isinstance(default, bool):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(int(part) for part in text.split(","))
        return type(default)(text) if isinstance(default, (int, float)) else text
    except (KeyError, ValueError):
        raise NbHelpersError(f"{PREFIX}{name.upper()} cannot be read", given=text, expected=f"as {default!r}") from None
