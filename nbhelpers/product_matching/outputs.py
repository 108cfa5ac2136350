"""What a run leaves: pictures of each photo's matches, and files about all of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.files import write_text
from nbhelpers.core.images import fit, load_image, save_image
from nbhelpers.core.masks import box_of, decode_rle, encode_rle
from nbhelpers.export.masks import save_coco, straight_rgba
from nbhelpers.product_matching.results import Found, MatchedPhoto, cropped, mask_picture

COLUMNS = (
    "photo", "status", "match", "score", "threshold", "x0", "y0", "x1", "y1", "area", "quality", "reference", "why",
)  # fmt: skip
TILE, GAP, ACROSS = 240, 8, 6  # pixels of a photo in the gallery picture, between them, and how many stand in a row
SHOWN = 120  # photos in the gallery picture, at most


def save_photo(result: MatchedPhoto, folder: Path, image: UInt8[np.ndarray, "h w 3"] | None = None) -> dict[str, Any]:
    """Write a photo's masks, cut-outs, crops and record; return the record.

    ``<name>_1_mask.png``, ``<name>_1_cutout.png`` and ``<name>_1_crop.png`` for each match, numbered from the best, and
    last ``<name>.json``, which says that the others are whole.

    Args:
        result: of the photo.
        folder: made if it is missing.
        image: the photo, where it is loaded already.
    """
    matches = []
    if result.matches and image is None:
        image = load_image(result.photo)
    for index, found in enumerate(result.matches):
        mask = result.mask(index)
        stem = f"{result.name}_{index + 1}"
        save_image(folder / f"{stem}_mask.png", mask_picture(mask))
        save_image(folder / f"{stem}_cutout.png", straight_rgba(image, mask.view(np.uint8) * 255))
        save_image(folder / f"{stem}_crop.png", cropped(image, mask, result.panorama))
        matches.append(_match(found, mask, stem, result.panorama))
    record = {
        "photo": result.photo.name,
        "path": result.photo.as_posix(),
        "sha256": result.sha256,
        "name": result.name,
        "status": result.status,
        "error": result.error,
        "size": list(result.size),
        "threshold": round(result.threshold, 5),
        "threshold_from": result.threshold_from,
        "matches": matches,
        "considered": [_considered(found) for found in result.found if not found.kept],
        "prompts": result.prompts,
        "notes": list(result.notes),
    }
    write_text(folder / f"{result.name}.json", json.dumps(record, indent=1, ensure_ascii=False))
    return record


def _match(found: Found, mask: np.ndarray, stem: str, panorama: bool) -> dict[str, Any]:
    box = found.box if panorama and found.box[2] > mask.shape[1] else box_of(mask)
    files = {kind: f"{stem}_{kind}.png" for kind in ("mask", "cutout", "crop")}
    return {**_considered(found), "box": list(box), "area": int(mask.sum()), "rle": encode_rle(mask), "files": files}


def _considered(found: Found) -> dict[str, Any]:
    return {
        "score": round(found.score, 5),
        "box": list(found.box),
        "share": round(found.share, 6),
        "quality": round(found.quality, 4),
        "verdict": found.verdict,
        "why": found.why,
        "reference": found.reference,
        "parts": {name: round(value, 4) for name, value in found.parts.items()},
    }


def save_run(records: Sequence[Mapping[str, Any]], folder: Path, product: str = "product") -> list[Path]:
    """Write ``annotations.coco.json``, ``matches.csv`` and ``summary.json`` of all photos; return the paths."""
    paths = [save_coco(folder / "annotations.coco.json", run_coco(records, product))]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in records:
        common = {"photo": record["path"], "status": record["status"], "threshold": record["threshold"]}
        if not record["matches"]:
            closest = record["considered"][0] if record["considered"] else {}
            why = record["error"] or closest.get("why", "")
            writer.writerow({**common, "score": closest.get("score", ""), "why": why})
        for number, match in enumerate(record["matches"], start=1):
            box = dict(zip(("x0", "y0", "x1", "y1"), match["box"], strict=True))
            same = {name: match[name] for name in ("score", "area", "quality", "reference", "why")}
            writer.writerow({**common, "match": number, **box, **same})
    paths.append(write_text(folder / "matches.csv", table.getvalue()))
    light = [{**record, "matches": [_without(match, "rle") for match in record["matches"]]} for record in records]
    paths.append(write_text(folder / "summary.json", json.dumps(light, indent=1, ensure_ascii=False)))
    return paths


def run_coco(records: Sequence[Mapping[str, Any]], product: str = "product") -> dict[str, Any]:
    """All matches of a run as one COCO dictionary: each photo an image, absent ones too, and the product a category.

    Photos that could not be read are left out.
    """
    from pycocotools import mask as coco

    images, annotations = [], []
    for record in records:
        if record["status"] == "failed":
            continue
        height, width = record["size"]
        images.append({"id": len(images) + 1, "file_name": record["path"], "height": height, "width": width})
        for match in record["matches"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": 1,
                    "segmentation": match["rle"],
                    "bbox": [float(side) for side in coco.toBbox(match["rle"])],
                    "area": match["area"],
                    "iscrowd": 0,
                    "score": match["score"],
                }
            )
    categories = [{"id": 1, "name": product, "supercategory": "object"}]
    return {"images": images, "categories": categories, "annotations": annotations}


def thumbnail(
    result: MatchedPhoto, longest: int, image: UInt8[np.ndarray, "h w 3"] | None = None
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The photo with at most ``longest`` pixels a side; where the product was found, all else is dimmed."""
    small = fit(load_image(result.photo) if image is None else image, longest)
    masks = [small_mask(found, small.shape[:2]) for found in result.matches]
    return spotlight(small, np.logical_or.reduce(masks)) if masks else small


def small_mask(found: Found, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of a thing at another size, ``(H, W)``: what covers more than half of a pixel."""
    share = cv2.resize(decode_rle(found.rle).view(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)
    return share > 127


def lit(small: UInt8[np.ndarray, "h w 3"], found: Found, longest: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """A thing cut out of its photo, its surroundings faded, with at most ``longest`` pixels a side."""
    mask = small_mask(found, small.shape[:2])
    box = box_of(mask)
    if box is None:  # too thin to be seen so small
        return fit(small, longest)
    window = slice(box[1], box[3]), slice(box[0], box[2])
    faded = (small[window] * 0.25 + 150).clip(0, 255).astype(np.uint8)
    return fit(np.where(mask[window][..., None], small[window], faded), longest)


def spotlight(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo, dark and grey outside of the mask; a product of any colour is told from that."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    out = np.where(mask[:, :, None], image, (0.22 * image + 0.22 * grey).astype(np.uint8))
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(out), edges, -1, (255, 255, 255), max(1, round(max(mask.shape) / 400)))


def save_gallery(results: Sequence[MatchedPhoto], path: Path) -> Path:
    """Write one picture of the photos with a match, the best first, each with its mask and score."""
    shown = sorted((each for each in results if each.matches), key=lambda each: -each.score)[:SHOWN]
    return save_image(
        path, contact_sheet([(thumbnail(each, TILE), f"{each.name}  {each.score:.2f}") for each in shown])
    )


def contact_sheet(
    pictures: Sequence[tuple[UInt8[np.ndarray, "_ _ 3"], str]], across: int = ACROSS, tile: int = TILE
) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures in rows on white, each with a line of text under it; one white tile when there are none."""
    text = 22
    across = max(1, min(across, len(pictures)))
    rows = max(1, -(-len(pictures) // across))
    tall = max([round(min(tile / max(p.shape[:2]), 1) * p.shape[0]) for p, _ in pictures], default=tile)
    sheet = np.full((rows * (tall + text + GAP) + GAP, across * (tile + GAP) + GAP, 3), 255, np.uint8)
    for number, (picture, line) in enumerate(pictures):
        small = fit(picture, tile)
        top, left = GAP + number // across * (tall + text + GAP), GAP + number % across * (tile + GAP)
        y, x = top + (tall - small.shape[0]) // 2, left + (tile - small.shape[1]) // 2
        sheet[y : y + small.shape[0], x : x + small.shape[1]] = small
        _write(sheet, line, left, top + tall + 4, tile)
    return sheet


def _write(sheet: np.ndarray, line: str, left: int, top: int, wide: int) -> None:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    while line and font.getlength(line) > wide:
        line = line[1:]  # the end of a name tells more than its beginning
    strip = Image.fromarray(sheet[top : top + 16, left : left + wide])
    ImageDraw.Draw(strip).text((0, 0), line, fill=(40, 40, 40), font=font)
    sheet[top : top + 16, left : left + wide] = np.asarray(strip)


def _without(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}
