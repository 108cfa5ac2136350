"""Pictures that explain a search: patch features as colours, where the gallery is seen, the look-alike table."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.images import fit, load_image
from nbhelpers.core.masks import box_of, decode_rle
from nbhelpers.product_matching.features import unit
from nbhelpers.product_matching.outputs import contact_sheet, lit, thumbnail
from nbhelpers.product_matching.results import Found, MatchedPhoto

if TYPE_CHECKING:
    from nbhelpers.product_matching.session import ProductSession

SMALL = 48  # pixels a side at which `pixel_similarity` compares
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


def pixel_similarity(session: ProductSession, result: MatchedPhoto, found: Found) -> float:
    """How alike the pixels of a thing and of the first reference are: normalised cross-correlation, -1 to 1.

    Both are cut out along their boxes and stretched to one small square, so size and place do not matter; angle, light,
    and what a hand hides do.
    """
    reference = session.references[0]
    photo = fit(load_image(result.photo), max(found.rle["size"]))
    mask = decode_rle(found.rle)
    x0, y0, x1, y1 = box_of(mask)
    there = np.where(mask[y0:y1, x0:x1, None], photo[y0:y1, x0:x1], 128)
    own = reference.picture
    here = np.where(own[:, :, 3:] > 0, own[:, :, :3], 128).astype(np.uint8)
    a, b = (cv2.resize(each, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(float) for each in (here, there))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))


def feature_against_pixels(session: ProductSession) -> dict[str, Float[np.ndarray, "n 2"]]:
    """For each thing of a session its `pixel_similarity` and its score; ``"matches"`` and ``"other things"`` apart."""
    rows: dict[str, list] = {"matches": [], "other things": []}
    for result in session.results:
        for found in result.found:
            if found.verdict in ("kept", "below threshold", "closer to a reject"):
                kind = "matches" if found.kept else "other things"
                rows[kind].append((pixel_similarity(session, result, found), found.score))
    return {kind: np.array(values, float).reshape(-1, 2) for kind, values in rows.items()}


def gallery(results: Sequence[MatchedPhoto], across: int = 4, tile: int = 300) -> UInt8[np.ndarray, "_ _ 3"]:
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
