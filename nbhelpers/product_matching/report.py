"""Results as data and in written form: images, tables, the histogram and the HTML page."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import own_name, write_text
from nbhelpers.core.images import fit, load_image, save_image
from nbhelpers.core.masks import box_of, decode_rle, encode_rle, tight_box
from nbhelpers.export.masks import check_formats, save_coco, straight_rgba
from nbhelpers.product_matching.gallery import Reference, crop_cutout
from nbhelpers.product_matching.match import Calibration, ProposalDecision

COLUMNS = (
    "photo", "status", "match", "score", "threshold", "x0", "y0", "x1", "y1", "area", "quality", "reference", "why",
)  # fmt: skip
TILE, GAP, ACROSS = 240, 8, 6  # of a contact sheet: pixels per image, pixels between images, images per row
FORMATS = ("sheet", "page")
"""Formats of `ProductReport.export` besides the files of each photo and the tables: contact sheet and HTML page."""
MAX_SHEET = 120  # photos in the contact sheet
NEAR = 0.1  # score above the threshold up to which a match is listed as a look-alike
TABLE_CROP, TABLE_PHOTO = 96, 640  # pixels of a crop in the look-alike table, and of the photo from which it is cropped
KINDS = (  # of the histogram: name, colour, and which detections belong to it
    ("matches", "#009E73", lambda detection: detection.kept),
    ("rejected", "#D55E00", lambda detection: detection.decision == "closer to a reject"),
    ("other objects", "#8C8C8C", lambda detection: detection.decision == "below threshold"),
)
EXPECTED = "expected of a match", "#0072B2"
BINS = 40
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 190, 34, 34, 24  # pixels of the histogram and its margins
PAGE_PHOTO = ((60, 640), (300, 400), (1 << 60, 280))  # maximum number of photos: pixels of their longer side
PAGE_CROPS = ((60, 6), (300, 4), (1 << 60, 2))  # likewise: crops of rejected detections per photo
PAGE_CROP = 72  # pixels
PAGE_DETECTIONS = 12  # rows per photo
JPEG_QUALITY = 72


@dataclass(frozen=True, eq=False)
class Detection:
    """A proposal of a photo with its score and decision, without features.

    Attributes:
        rle: its mask, at the size at which the photo was searched, which may be smaller than the photo.
        box: ``(x0, y0, x1, y1)`` in pixels of the photo; in a panorama ``x1`` may exceed the width and wraps around.
        coverage: fraction of the photo's area, 0 to 1.
        score: similarity to the product.
        parts: terms of the score, see `nbhelpers.product_matching.match.ScoredProposal`.
        decision: one of `nbhelpers.product_matching.match.DECISIONS`.
        why: the reason in a sentence.
        quality: IoU as predicted by the segmenter.
        reference: index of the nearest reference.
        number: index in the photo's proposals.
    """

    rle: Mapping[str, Any] = field(repr=False)
    box: tuple[int, int, int, int]
    coverage: float
    score: float
    parts: Mapping[str, float]
    decision: str
    why: str
    quality: float
    reference: int
    number: int

    @property
    def kept(self) -> bool:
        """Whether it is a match."""
        return self.decision == "kept"

    @classmethod
    def of(cls, decided: ProposalDecision, size: tuple[int, int]) -> Detection:
        """A proposal with its box scaled to a photo of ``size`` ``(H, W)``."""
        proposal = decided.proposal
        height, width = proposal.rle["size"]
        down, across = size[0] / height, size[1] / width
        x0, y0, x1, y1 = proposal.box
        return cls(
            rle={"size": [int(height), int(width)], "counts": proposal.rle["counts"]},
            box=(int(x0 * across), int(y0 * down), int(np.ceil(x1 * across)), int(np.ceil(y1 * down))),
            coverage=proposal.area / (height * width),
            score=float(decided.score),
            parts={name: float(value) for name, value in decided.parts.items()},
            decision=decided.decision,
            why=decided.why,
            quality=float(proposal.quality),
            reference=int(decided.reference),
            number=decided.number,
        )


@dataclass(frozen=True, eq=False)
class MatchedPhoto:
    """The results of a photo, with methods to write them.

    Example:
        >>> for result in ProductMatcher().run(photos, "shelf/1.jpg", (250, 300)):
        ...     if not result.absent:
        ...         result.save_mask(f"out/{result.name}_mask.png")
        ...         result.save_cutout(f"out/{result.name}.png")

    Attributes:
        photo: its file.
        name: file name of its results, unique in a run.
        size: ``(H, W)``; ``(0, 0)`` if the photo could not be read.
        detections: all scored proposals by descending score; on a turntable the match is first.
        threshold: minimum score of a match.
        threshold_from: ``"settings"``, ``"calibration"`` or ``"person"``.
        prompts: number of prompts given to the segmenter.
        seconds: duration of the search.
        notes: messages for the user.
        error: the error message if there is no result, else empty.
        panorama: whether its left and right edges are connected.
        sha256: of the photo's file; empty if it could not be read.
    """

    photo: Path
    name: str
    size: tuple[int, int] = (0, 0)
    detections: tuple[Detection, ...] = field(default=(), repr=False)
    threshold: float = 0.0
    threshold_from: str = "settings"
    prompts: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    error: str = ""
    panorama: bool = False
    sha256: str = ""

    @property
    def matches(self) -> tuple[Detection, ...]:
        """Detections of the product, by descending score."""
        return tuple(each for each in self.detections if each.kept)

    @property
    def absent(self) -> bool:
        """Whether the product is not in this photo."""
        return not self.matches

    @property
    def best_index(self) -> int:
        """Index in ``detections`` of the best match, or of the most similar detection without a match."""
        return next((index for index, each in enumerate(self.detections) if each.kept), 0)

    @property
    def score(self) -> float:
        """Score of the best match, or of the most similar detection without a match; 0 without detections."""
        return self.detections[self.best_index].score if self.detections else 0.0

    @property
    def status(self) -> str:
        """``"found"``, ``"absent"`` or ``"failed"``."""
        return "failed" if self.error else "absent" if self.absent else "found"

    @property
    def summary(self) -> str:
        """The result in one line."""
        if self.error:
            return f"{self.photo.name}: {self.error}"
        if self.absent:
            closest = f"; the most similar detection scores {self.score:.2f}" if self.detections else ""
            return f"{self.photo.name}: absent{closest}"
        scores = ", ".join(f"{each.score:.2f}" for each in self.matches)
        return f"{self.photo.name}: found, {scores}"

    def mask(self, index: int = 0) -> Bool[np.ndarray, "h w"]:
        """The mask of match ``index`` at the photo's size.

        Raises:
            NbHelpersError: there is no such match.
        """
        if not 0 <= index < len(self.matches):
            raise NbHelpersError(
                "there is no such match in this photo",
                given=f"{self.photo}, match {index}",
                expected=f"0 to {len(self.matches) - 1}" if self.matches else self.error or "it is absent",
            )
        return resize_mask(self.matches[index].rle, self.size)

    def save_mask(self, path: str | Path, index: int = 0) -> Path:
        """Write the mask of a match as PNG, 255 inside and 0 outside in both grey and alpha; return the path."""
        return save_image(_check_png(path), mask_picture(self.mask(index)))

    def save_cutout(self, path: str | Path, index: int = 0) -> Path:
        """Write the photo with a transparent background (straight alpha); return the path."""
        mask = self.mask(index)
        return save_image(_check_png(path), straight_rgba(load_image(self.photo), mask.astype(np.uint8) * 255))

    def save_crop(self, path: str | Path, index: int = 0) -> Path:
        """Write the cut-out, cropped to the product; return the path."""
        mask = self.mask(index)
        return save_image(_check_png(path), crop_cutout(load_image(self.photo), mask, self.panorama))


@dataclass(frozen=True, eq=False)
class ProductReport:
    """The results of a session, with methods to write and draw them.

    Example:
        >>> session.report.export("outputs/shelf")
        >>> HTML(session.report.histogram_svg())                     # in a notebook

    Attributes:
        results: of each photo.
        references: of the product.
        models: names of the segmenter and the patch encoder.
        threshold: minimum score of a match.
        threshold_from: ``"settings"``, ``"calibration"`` or ``"person"``.
        calibration: of the threshold, if there is one.
    """

    results: tuple[MatchedPhoto, ...]
    references: tuple[Reference, ...]
    models: tuple[str, str]
    threshold: float
    threshold_from: str
    calibration: Calibration | None = None

    def export(self, folder: str | Path, formats: Sequence[str] = FORMATS, *, full_paths: bool = True) -> list[Path]:
        """Write all results; photos whose files are complete and have the same content are left as they are.

        A number is appended to names that are taken by another photo, see `nbhelpers.core.files.own_name`.

        Args:
            folder: see `nbhelpers.product_matching.match_product` for its content.
            formats: some of `FORMATS`; each photo's masks and the tables are always written.
            full_paths: whether tables name photos by path; otherwise by file name, for files that leave this computer.

        Returns:
            The files about all photos; each photo's own are beside them.

        Raises:
            NbHelpersError: an unknown format, or the folder cannot be written.
        """
        check_formats(formats, FORMATS)
        folder, records, results = Path(folder).expanduser(), [], []
        for each in self.results:
            result = replace(each, name=own_name(folder, each.name, each.sha256))
            results.append(result)
            path = _path_of(result, full_paths)
            record = _record_of_earlier_run(folder / f"{result.name}.json", result, path)
            records.append(save_photo_results(result, folder, path=path) if record is None else record)
            _remove_outdated(folder, result)
        paths = save_tables(records, folder)
        if "sheet" in formats:
            paths.append(save_match_sheet(results, folder / "gallery.jpg"))
        if "page" in formats:
            paths.append(self.save_page(folder / "index.html", full_paths=full_paths))
        return paths

    def save_page(self, path: str | Path, *, full_paths: bool = True) -> Path:
        """Write the results as one self-contained HTML page; return its path. See `export` for ``full_paths``.

        With 1,000 photos it has about 20 MB; thumbnails get smaller as the number of photos grows.
        """
        return write_text(path, self.page(full_paths=full_paths))

    def page(self, *, full_paths: bool = True) -> str:
        """The HTML text that `save_page` writes."""
        count = len(self.results)
        side = next(size for limit, size in PAGE_PHOTO if count <= limit)
        crops = next(number for limit, number in PAGE_CROPS if count <= limit)
        data = {
            "photos": [_page_photo(result, _path_of(result, full_paths), side, crops) for result in self.results],
            "references": [
                {"name": each.photo, "how": each.how, "picture": png_url(each.picture)} for each in self.references
            ],
        }
        text = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")  # cannot close the script element
        by_status = [
            sum(result.status == status for result in self.results) for status in ("found", "absent", "failed")
        ]
        filled = (files("nbhelpers.product_matching") / "page.html").read_text(encoding="utf-8")
        for name, value in (
            ("summary", "{} photos: {} with the product, {} without, {} failed".format(count, *by_status)),
            ("models", html.escape(" and ".join(self.models))),
            ("why", html.escape(self.calibration.why if self.calibration is not None else "")),
            ("histogram", self.histogram_svg()),
            ("data", text),
        ):
            filled = filled.replace("{{" + name + "}}", value, 1)
        return filled

    def histogram_svg(self) -> str:
        """The histogram of `scores_by_kind` as SVG text in the text colour, for light and dark pages.

        The threshold is a dashed line. Ticks below the axis are the scores expected of matches, see
        `nbhelpers.product_matching.match`.
        """
        scores = scores_by_kind(self.results)
        expected = self.calibration.expected if self.calibration is not None else ()
        label = html.escape(f"threshold {self.threshold:.2f} ({self.threshold_from})")
        return _histogram(scores, self.threshold, expected, label)

    def lookalikes(self, limit: int = 20) -> list[tuple[MatchedPhoto, Detection]]:
        """Detections near the threshold: the best non-match of each photo, and matches just above the threshold.

        By descending score; ``why`` gives the reason for each decision.
        """
        near = []
        for result in self.results:
            dropped = [each for each in result.detections if not each.kept and each.decision != "duplicate"]
            near += [(result, each) for each in dropped[:1]]
            near += [(result, each) for each in result.matches if each.score < self.threshold + NEAR]
        return sorted(near, key=lambda row: -row[1].score)[:limit]

    def lookalike_table(self, limit: int = 8) -> str:
        """`lookalikes` as an HTML table with thumbnails."""
        rows = []
        for result, detection in self.lookalikes(limit):
            parts = ", ".join(f"{name} {value:.2f}" for name, value in detection.parts.items())
            crop = detection_crop(fit(load_image(result.photo), TABLE_PHOTO), detection, TABLE_CROP)
            rows.append(
                f'<tr><td><img alt="candidate in {html.escape(result.photo.name)}" src="{png_url(crop)}"></td>'
                f"<td>{html.escape(result.photo.name)}</td><td>{detection.score:.2f}</td>"
                f"<td>{html.escape(detection.decision)}</td>"
                f'<td style="text-align:left">{html.escape(detection.why)}</td>'
                f'<td style="text-align:left">{html.escape(parts)}</td></tr>'
            )
        head = "".join(f"<th>{name}</th>" for name in ("", "photo", "score", "decision", "why", "parts"))
        return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def resize_mask(rle: Mapping[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask at the photo's size ``(H, W)``, interpolated if the photo was searched on a reduced copy."""
    mask = decode_rle(rle)
    if mask.shape == tuple(size):
        return mask
    return cv2.resize(mask.view(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_LINEAR) > 127


def reduce_mask(detection: Detection, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of a detection at a smaller size ``(H, W)``: pixels that are more than half covered."""
    covered = cv2.resize(decode_rle(detection.rle).view(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)
    return covered > 127


def mask_picture(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 2"]:
    """Grey and alpha, both 255 inside, for programs that read either."""
    return np.repeat(mask.astype(np.uint8)[:, :, None] * 255, 2, axis=2)


def thumbnail(
    result: MatchedPhoto, longest: int, image: UInt8[np.ndarray, "h w 3"] | None = None
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The photo with at most ``longest`` pixels per side; if there are matches, the background is dimmed."""
    small = fit(load_image(result.photo) if image is None else image, longest)
    masks = [reduce_mask(match, small.shape[:2]) for match in result.matches]
    return dim_background(small, np.logical_or.reduce(masks)) if masks else small


def detection_crop(small: UInt8[np.ndarray, "h w 3"], detection: Detection, longest: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """A detection cropped from its photo, the background faded, with at most ``longest`` pixels per side."""
    mask = reduce_mask(detection, small.shape[:2])
    box = box_of(mask)
    if box is None:  # too thin to be visible at this size
        return fit(small, longest)
    window = slice(box[1], box[3]), slice(box[0], box[2])
    faded = (small[window] * 0.25 + 150).clip(0, 255).astype(np.uint8)
    return fit(np.where(mask[window][..., None], small[window], faded), longest)


def dim_background(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo, dark and grey outside the mask, which highlights a product of any colour."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    out = np.where(mask[:, :, None], image, (0.22 * image + 0.22 * grey).astype(np.uint8))
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(out), edges, -1, (255, 255, 255), max(1, round(max(mask.shape) / 400)))


def result_sheet(results: Sequence[MatchedPhoto], across: int = 5, tile: int = 240) -> UInt8[np.ndarray, "_ _ 3"]:
    """A contact sheet of all photos in order, with name and score; the background of matches is dimmed."""
    readable = [result for result in results if not result.error]
    captions = [f"{each.photo.stem}: {each.status} {each.score:.2f}" for each in readable]
    return contact_sheet(
        [(thumbnail(each, tile), text) for each, text in zip(readable, captions, strict=True)], across, tile
    )


def save_match_sheet(results: Sequence[MatchedPhoto], path: Path) -> Path:
    """Write a contact sheet of the photos with a match, the best first."""
    best = sorted((each for each in results if each.matches), key=lambda each: -each.score)[:MAX_SHEET]
    return save_image(path, contact_sheet([(thumbnail(each, TILE), f"{each.name}  {each.score:.2f}") for each in best]))


def contact_sheet(
    pictures: Sequence[tuple[UInt8[np.ndarray, "_ _ 3"], str]], across: int = ACROSS, tile: int = TILE
) -> UInt8[np.ndarray, "H W 3"]:
    """Images in rows on white, each with a caption; one white tile if there are none."""
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
        _draw_text(sheet, line, left, top + tall + 4, tile)
    return sheet


def _draw_text(sheet: np.ndarray, line: str, left: int, top: int, wide: int) -> None:
    """Draw a line of text, at most ``wide`` pixels long, onto a sheet."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    while line and font.getlength(line) > wide:
        line = line[1:]  # the end of a name is more distinctive than its start
    strip = Image.fromarray(sheet[top : top + 16, left : left + wide])
    ImageDraw.Draw(strip).text((0, 0), line, fill=(40, 40, 40), font=font)
    sheet[top : top + 16, left : left + wide] = np.asarray(strip)


def _check_png(path: str | Path) -> Path:
    """A path that ends in ``.png``."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise NbHelpersError("masks and cut-outs need a lossless format", given=path, expected="a name in .png")
    return path


def png_url(image: UInt8[np.ndarray, "h w c"]) -> str:
    """An RGB or RGBA image as a data URL."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    encoded = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(image), order))[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()


def _jpeg_url(image: np.ndarray) -> str:
    """A photo as a data URL."""
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _path_of(result: MatchedPhoto, full_paths: bool) -> str:
    """What tables and pages call a photo."""
    return result.photo.as_posix() if full_paths else result.photo.name


def save_photo_results(
    result: MatchedPhoto, folder: Path, image: UInt8[np.ndarray, "h w 3"] | None = None, path: str | None = None
) -> dict[str, Any]:
    """Write the masks, cut-outs, crops and record of a photo; return the record.

    ``<name>_1_mask.png``, ``<name>_1_cutout.png`` and ``<name>_1_crop.png`` for each match, numbered from the best, and
    finally ``<name>.json``, whose existence means that the others are complete.

    Args:
        result: of the photo.
        folder: created if necessary.
        image: the photo, if already loaded.
        path: what the record calls the photo; its path by default.
    """
    matches = []
    for index, match in enumerate(result.matches):
        image = load_image(result.photo) if image is None else image
        mask = result.mask(index)
        stem = f"{result.name}_{index + 1}"
        save_image(folder / f"{stem}_mask.png", mask_picture(mask))
        save_image(folder / f"{stem}_cutout.png", straight_rgba(image, mask.view(np.uint8) * 255))
        save_image(folder / f"{stem}_crop.png", crop_cutout(image, mask, result.panorama))
        matches.append(_match_record(match, mask, stem, result.panorama))
    record = {
        "photo": result.photo.name,
        "path": path or result.photo.as_posix(),
        "sha256": result.sha256,
        "name": result.name,
        "status": result.status,
        "error": result.error,
        "size": list(result.size),
        "threshold": round(result.threshold, 5),
        "threshold_from": result.threshold_from,
        "matches": matches,
        "considered": [_detection_record(each) for each in result.detections if not each.kept],
        "prompts": result.prompts,
        "notes": list(result.notes),
    }
    write_text(folder / f"{result.name}.json", json.dumps(record, indent=1, ensure_ascii=False))
    return record


def _match_record(match: Detection, mask: np.ndarray, stem: str, panorama: bool) -> dict[str, Any]:
    """The JSON of a match, with its mask at the photo's size and its files."""
    box = match.box if panorama and match.box[2] > mask.shape[1] else tight_box(mask)
    names = {kind: f"{stem}_{kind}.png" for kind in ("mask", "cutout", "crop")}
    area, rle = int(mask.sum()), encode_rle(mask)
    return {**_detection_record(match), "box": list(box), "area": area, "rle": rle, "files": names}


def _detection_record(detection: Detection) -> dict[str, Any]:
    """The JSON of a detection; ``share`` and ``verdict`` are the file format's names of coverage and decision."""
    return {
        "score": round(detection.score, 5),
        "box": list(detection.box),
        "share": round(detection.coverage, 6),
        "quality": round(detection.quality, 4),
        "verdict": detection.decision,
        "why": detection.why,
        "reference": detection.reference,
        "parts": {name: round(value, 4) for name, value in detection.parts.items()},
    }


def _record_of_earlier_run(file: Path, result: MatchedPhoto, path: str) -> dict[str, Any] | None:
    """The record of an earlier run, if it has the same content and its files exist."""
    dropped = [each.decision for each in result.detections if not each.kept]
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        scores = [match["score"] for match in record["matches"]]
        same = record["path"] == path and record["status"] == result.status != "failed"
        same &= scores == [round(each.score, 5) for each in result.matches]
        same &= [each["verdict"] for each in record["considered"]] == dropped
        same &= record["threshold"] == round(result.threshold, 5) and record["size"] == list(result.size)
        same &= all((file.parent / name).is_file() for match in record["matches"] for name in match["files"].values())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if same else None


def _remove_outdated(folder: Path, result: MatchedPhoto) -> None:
    """Remove files of former matches of this photo."""
    pattern = re.compile(re.escape(result.name) + r"_(\d+)_(mask|cutout|crop)\.png")  # but not those of NAME_2
    for path in folder.iterdir():
        if (match := pattern.fullmatch(path.name)) and int(match[1]) > len(result.matches):
            path.unlink(missing_ok=True)


def save_tables(records: Sequence[Mapping[str, Any]], folder: Path, product: str = "product") -> list[Path]:
    """Write ``annotations.coco.json``, ``matches.csv`` and ``summary.json`` of all photos; return the paths."""
    paths = [save_coco(folder / "annotations.coco.json", coco_dictionary(records, product))]
    table = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(table, COLUMNS, lineterminator="\n")
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


def _without(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A record without one of its entries."""
    return {key: value for key, value in record.items() if key != name}


def coco_dictionary(records: Sequence[Mapping[str, Any]], product: str = "product") -> dict[str, Any]:
    """All matches as a COCO dictionary: an image per photo, even without matches, and the product as category.

    Photos that could not be read are omitted.
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


def scores_by_kind(results: Sequence[MatchedPhoto]) -> dict[str, np.ndarray]:
    """The scores of all detections by decision, without duplicates."""
    every = [detection for result in results for detection in result.detections]
    return {name: np.array([each.score for each in every if belongs(each)]) for name, _, belongs in KINDS}


def _histogram(scores: Mapping[str, np.ndarray], threshold: float, expected: Sequence[float], label: str) -> str:
    """The SVG of a stacked histogram with a threshold and ticks at expected scores."""
    every = np.concatenate([*scores.values(), [threshold], expected])
    low, high = min(0.0, float(every.min())), max(1.0, float(every.max()))
    counts = {name: np.histogram(values, BINS, (low, high))[0] for name, values in scores.items()}
    tallest = max(1, int(np.sum([*counts.values()], axis=0).max()))
    across, up = (WIDTH - LEFT - 8) / BINS, (HEIGHT - BOTTOM - TOP) / tallest
    shapes = []
    for index in range(BINS):
        y = float(HEIGHT - BOTTOM)
        for name, colour, _ in KINDS:
            if count := int(counts[name][index]):
                y -= count * up
                x = LEFT + index * across
                shapes.append(
                    f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{across - 1:.1f}" height="{count * up:.1f}" '
                    f'fill="{colour}"><title>{count} {name}</title></rect>'
                )
    line = LEFT + (threshold - low) / (high - low) * BINS * across
    anchor = "end" if line > WIDTH * 0.6 else "start"
    shapes.append(f'<path d="M{line:.1f} {TOP - 18}V{HEIGHT - BOTTOM}" stroke="currentColor" stroke-dasharray="4 3"/>')
    shapes.append(_svg_text(line + (-5 if anchor == "end" else 5), TOP - 8, label, anchor))
    for step in np.linspace(low, high, 6):
        x = LEFT + (step - low) / (high - low) * BINS * across
        shapes.append(_svg_text(x, HEIGHT - BOTTOM + 15, f"{step:.1f}", "middle"))
    for score in expected:
        x = LEFT + (score - low) / (high - low) * BINS * across
        shapes.append(f'<path d="M{x:.1f} {HEIGHT - BOTTOM + 1}v5" stroke="{EXPECTED[1]}" stroke-width="1.5"/>')
    shapes.append(_svg_text(LEFT - 6, TOP + 4, str(tallest), "end"))
    shapes.append(_svg_text(LEFT - 6, HEIGHT - BOTTOM, "0", "end"))
    shapes.append(f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - 8}" stroke="currentColor" stroke-opacity="0.5"/>')
    x = float(LEFT)
    legend = [(name, colour, len(scores[name])) for name, colour, _ in KINDS]
    for name, colour, count in [*legend, (*EXPECTED, len(expected))]:
        text = f"{name} {count}"
        shapes.append(f'<rect x="{x:.0f}" y="{HEIGHT - 12}" width="10" height="10" fill="{colour}"/>')
        shapes.append(_svg_text(x + 14, HEIGHT - 3, text, "start"))
        x += 30 + 7 * len(text)
    title = "; ".join(f"{len(scores[name])} {name}" for name, _, _ in KINDS)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" style="max-width:{WIDTH}px" role="img" fill="none" '
        f'font-family="sans-serif" font-size="12"><title>{title}; {label}</title>{"".join(shapes)}</svg>'
    )


def _svg_text(x: float, y: float, text: str, anchor: str) -> str:
    """A text element of an SVG."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{text}</text>'


def _page_photo(result: MatchedPhoto, path: str, side: int, crops: int) -> dict[str, Any]:
    """A photo in the form that the script of the page reads."""
    about = {
        "name": result.photo.name,
        "path": path,
        "status": result.status,
        "score": round(result.score, 3),
        "error": result.error,
        "notes": list(result.notes),
        "detections": [_page_detection(each) for each in result.detections[:PAGE_DETECTIONS]],
    }
    if result.error:
        return about
    try:
        small = fit(load_image(result.photo), side)
    except NbHelpersError as error:  # the file has been removed since the search
        return {**about, "error": error.what}
    pictured = [*result.matches, *[each for each in result.detections if not each.kept][:crops]]
    for detection, row in zip(result.detections, about["detections"], strict=False):
        if detection in pictured:
            row["picture"] = _jpeg_url(detection_crop(small, detection, PAGE_CROP))
    return {**about, "picture": _jpeg_url(thumbnail(result, side, small))}


def _page_detection(detection: Detection) -> dict[str, Any]:
    """A detection in the form that the script of the page reads."""
    return {
        "score": round(detection.score, 3),
        "decision": detection.decision,
        "why": detection.why,
        "parts": {name: round(value, 2) for name, value in detection.parts.items()},
    }
