"""Every number of a product search, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from nbhelpers.core.errors import NbHelpersError

CANDIDATES = ("guided", "grid")


@dataclass(frozen=True)
class Settings:
    """How a product is looked for.

    Attributes:
        similarity_threshold: least score of a match, 0 to 1; the calibrated one takes its place when ``calibrate``
            is on and there is something to calibrate from.
        sam2_points_per_side: a blind grid asks so many points along each side.
        sam2_pred_iou_thresh: a mask of the blind grid needs this predicted IoU.
        sam2_stability_score_thresh: and this stability under a shift of its threshold.
        min_mask_area_ratio: smaller masks are left out, as a share of the photo.
        max_mask_area_ratio: larger ones too: they are background.
        nms_iou_threshold: from this IoU on, of two masks or boxes only the better is kept.
        dinov2_model: catalog name of the patch encoder; None takes the best that is here: ViT-L/14 of the official
            set, else the lite ViT-S/14.
        sam2_checkpoint: catalog name of the segmenter; None takes the best that is here.
        top_k_matches: most matches in one photo.
        candidates: ``"guided"``: prompts only where patch features resemble the gallery; ``"grid"``: blind.
        calibrate: take the threshold from this session's own scores.
        scales: longer sides, in pixels, at which a photo's patches are compared with the gallery.
        max_prompts: most points and boxes that the segmenter is asked where a photo resembles the gallery; up to 4 of
            the masks are asked once more by their box.
        max_candidates: most candidates of a photo that are described, the most similar places first.
        crop_side: side in pixels of the square crop that a masked thing is described from.
        colour_weight: how much a different colour counts against a candidate; 0 ignores colour.
        mirror_weight: how much it counts when the mirrored reference fits better; 0 ignores it.
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
                "the smallest mask would be larger than the largest",
                given=f"{self.min_mask_area_ratio} and {self.max_mask_area_ratio}",
                expected="min_mask_area_ratio <= max_mask_area_ratio",
            )
        if self.candidates not in CANDIDATES:
            raise NbHelpersError(
                "there is no such way to find candidates", given=self.candidates, expected=", ".join(CANDIDATES)
            )
        if not self.scales or not all(28 <= side <= 8192 for side in self.scales):
            raise NbHelpersError("the scales are out of range", given=self.scales, expected="28 to 8192 pixels each")
