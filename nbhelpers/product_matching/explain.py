"""Comparison of features and pixels as measures of similarity, for a rotated reference and for other objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from nbhelpers.core.images import fit, load_image
from nbhelpers.core.masks import decode_rle
from nbhelpers.models.protocols import PatchEncoder
from nbhelpers.product_matching.features import describe_crops, fill_background, square_crop
from nbhelpers.product_matching.gallery import Gallery, Reference
from nbhelpers.product_matching.match import similarity_scores
from nbhelpers.product_matching.report import MatchedPhoto
from nbhelpers.product_matching.settings import ProductSettings

PIXEL_SIDE = 48  # pixels per side at which pixels are compared


def rotation_similarity(
    reference: Reference, gallery: Gallery, encoder: PatchEncoder, settings: ProductSettings, angles: Sequence[float]
) -> Float[np.ndarray, "n 2"]:
    """Similarity of a reference to itself when it is rotated, by its pixels and by its features.

    Args:
        reference: given by a file.
        gallery: its common component is subtracted.
        encoder: computes the patch tokens.
        settings: weights of the score.
        angles: in degrees.

    Returns:
        ``(n, 2)``: for each angle the `pixel_similarity` and the score.
    """
    crop, alpha = square_crop(load_image(reference.source), decode_rle(reference.rle), settings.crop_side)
    centre, views = (len(crop) / 2 - 0.5,) * 2, []
    for angle in angles:
        rotation = cv2.getRotationMatrix2D(centre, angle, 0.75)  # smaller, so that no corner is cut off
        view = [cv2.warpAffine(part, rotation, crop.shape[1::-1], flags=cv2.INTER_AREA) for part in (crop, alpha)]
        views.append((view[0], np.ascontiguousarray(view[1])))
    gallery = replace(gallery, positives=(reference.features,), negatives=())
    scores = similarity_scores(describe_crops(views, encoder), gallery, settings)
    first = fill_background(*views[0])
    return np.array(
        [(pixel_similarity(first, fill_background(*view)), score) for view, score in zip(views, scores, strict=True)]
    )


def background_similarity(reference: Reference, results: Sequence[MatchedPhoto]) -> Float[np.ndarray, "n 2"]:
    """`pixel_similarity` to a reference, and score, of all detections in photos without the product."""
    own = square_crop(load_image(reference.source), decode_rle(reference.rle), PIXEL_SIDE)
    rows = []
    for result in results:
        for detection in result.detections if result.absent else ():
            photo = fit(load_image(result.photo), max(detection.rle["size"]))
            other = square_crop(photo, decode_rle(detection.rle), PIXEL_SIDE)
            rows.append((pixel_similarity(fill_background(*own), fill_background(*other)), detection.score))
    return np.array(rows, float).reshape(-1, 2)


def pixel_similarity(one: UInt8[np.ndarray, "_ _ 3"], other: UInt8[np.ndarray, "_ _ 3"]) -> float:
    """Normalised cross-correlation of two crops at 48 x 48 pixels, -1 to 1, as in template matching."""
    size = PIXEL_SIDE, PIXEL_SIDE
    a, b = (cv2.resize(each, size, interpolation=cv2.INTER_AREA).astype(float) for each in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))
