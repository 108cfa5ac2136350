"""Pictures that explain a search: patch features as colours, where the gallery is seen, the look-alike table."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.images import fit, load_image
from nbhelpers.core.masks import decode_rle
from nbhelpers.product_matching.features import describe_crops, painted_over, square_crop, unit
from nbhelpers.product_matching.matching import similarities
from nbhelpers.product_matching.outputs import contact_sheet, lit, thumbnail
from nbhelpers.product_matching.results import MatchedPhoto

if TYPE_CHECKING:
    from nbhelpers.product_matching.session import ProductSession

SMALL = 48  # pixels a side at which pixels are compared
THING, SHOWN = 96, 640  # pixels of a thing in the table, and of the photo it is cut from


def patch_colours(grids: Sequence[Float32[np.ndarray, "_ _ d"]]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Patch tokens as colours: the three directions in which all of them differ most become red, green and blue.

    Equal colours mean equal features, in one picture and from one to another. Source: the figures of Oquab et al. 2023,
    arXiv 2304.07193, section 7.5 (principal components of patch features).

    Args:
        grids: tokens of some pictures, from one encoder.
    """
    tokens = np.concatenate([unit(grid).reshape(-1, grid.shape[-1]) for grid in grids])
    mean = tokens.mean(0)
    _, directions = np.linalg.eigh(np.cov(tokens - mean, rowvar=False))
    axes = directions[:, :-4:-1]
    low, high = np.quantile((tokens - mean) @ axes, (0.02, 0.98), axis=0)
    return [
        np.clip(255 * ((unit(grid) - mean) @ axes - low) / np.maximum(high - low, 1e-9), 0, 255).astype(np.uint8)
        for grid in grids
    ]


def enlarged(grid: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A picture of patches at a photo's size ``(H, W)``, each patch a square."""
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_NEAREST)


def turned(session: ProductSession, angles: Sequence[float]) -> Float[np.ndarray, "n 2"]:
    """How alike the first reference stays to itself when it is turned: by its pixels, and by its features.

    Args:
        session: its first reference was given by a file.
        angles: in degrees.

    Returns:
        For each angle the `pixel_similarity` and the score.
    """
    reference = session.references[0]
    image, mask = load_image(reference.source), decode_rle(reference.rle)
    crop, alpha = square_crop(image, mask, session.settings.crop_side)
    middle, views = (len(crop) / 2 - 0.5,) * 2, []
    for angle in angles:
        turn = cv2.getRotationMatrix2D(middle, angle, 0.75)  # smaller, so that no corner is cut off
        view = [cv2.warpAffine(part, turn, crop.shape[1::-1], flags=cv2.INTER_AREA) for part in (crop, alpha)]
        views.append((view[0], np.ascontiguousarray(view[1])))
    gallery = replace(session.judging, positives=(reference.features,), negatives=())
    scores = similarities(describe_crops(views, session.encoder), gallery, session.settings)
    here = painted_over(*views[0])
    return np.array(
        [(pixel_similarity(here, painted_over(*view)), score) for view, score in zip(views, scores, strict=True)]
    )


def strangers(session: ProductSession) -> Float[np.ndarray, "n 2"]:
    """`pixel_similarity` to the first reference and score, of all things in photos without the product."""
    reference = session.references[0]
    own = load_image(reference.source), decode_rle(reference.rle)
    here = painted_over(*square_crop(*own, SMALL))
    rows = []
    for result in session.results:
        for found in result.found if result.absent else ():
            photo = fit(load_image(result.photo), max(found.rle["size"]))
            there = painted_over(*square_crop(photo, decode_rle(found.rle), SMALL))
            rows.append((pixel_similarity(here, there), found.score))
    return np.array(rows, float).reshape(-1, 2)


def pixel_similarity(one: UInt8[np.ndarray, "_ _ 3"], other: UInt8[np.ndarray, "_ _ 3"]) -> float:
    """Normalised cross-correlation of two crops at 48 x 48 pixels, -1 to 1: the way of template matching."""
    a, b = (cv2.resize(each, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(float) for each in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))


def gallery(results: Sequence[MatchedPhoto], across: int = 5, tile: int = 240) -> UInt8[np.ndarray, "_ _ 3"]:
    """All photos in order, the product lit where it was found, with name and score."""
    shown = [result for result in results if not result.error]
    return contact_sheet(
        [(thumbnail(each, tile), f"{each.photo.stem}: {each.status} {each.score:.2f}") for each in shown], across, tile
    )


def lookalike_table(session: ProductSession, most: int = 8) -> str:
    """`ProductSession.lookalikes` as an HTML table with pictures."""
    rows = []
    for result, found in session.lookalikes(most):
        parts = ", ".join(f"{name} {value:.2f}" for name, value in found.parts.items())
        rows.append(
            f'<tr><td><img alt="" src="{_png(lit(fit(load_image(result.photo), SHOWN), found, THING))}"></td>'
            f"<td>{html.escape(result.photo.name)}</td><td>{found.score:.2f}</td><td>{html.escape(found.verdict)}</td>"
            f'<td style="text-align:left">{html.escape(found.why)}</td>'
            f'<td style="text-align:left">{html.escape(parts)}</td></tr>'
        )
    head = "".join(f"<th>{name}</th>" for name in ("", "photo", "score", "verdict", "why", "parts"))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _png(image: np.ndarray) -> str:
    encoded = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
