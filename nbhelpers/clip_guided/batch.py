"""Guided segmentation of one photo or a folder: resumable, with one record per photo and a summary."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nbhelpers.clip_guided.pipeline import segment
from nbhelpers.clip_guided.values import ClipGuidedResult, ClipGuidedSettings, prepare_vocabulary
from nbhelpers.core.batch import ResultStore, apart, map_items, sign
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES, check_writable, own_name, sha256, stems, write_text
from nbhelpers.core.images import photos, save_image
from nbhelpers.core.masks import encode_rle
from nbhelpers.export.masks import save_coco, to_coco
from nbhelpers.models.adapters import model_signature
from nbhelpers.models.protocols import Detector, Segmenter, TextEncoder
from nbhelpers.plots import overlay

FORMAT = "nbhelpers clip-guided run"
COLUMNS = (
    "photo", "status", "instances", "target_share", "prompts", "regions", "text", "image", "decoder", "merge", "notes",
)  # fmt: skip
NamedPhoto = tuple[Path, str, str | None]  # file, name of its results, digest if it can be read
log = logging.getLogger(__name__)


def run(
    source: str | Path | Sequence[Path],
    vocabulary: Sequence[str | Sequence[str]],
    output: str | Path,
    target: str | None = None,
    *,
    settings: ClipGuidedSettings | None = None,
    segmenter: Segmenter | None = None,
    text_encoder: TextEncoder | None = None,
    detector: Detector | None = None,
    render: Callable[[ClipGuidedResult], UInt8[np.ndarray, "h w c"]] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Segment one or many photos and write images and records.

    Example:
        >>> run("trip/", ["dog", "sea", "sand", "background"], "outputs/trip", target="dog")

    For one photo, ``output`` may be an image file; ``<stem>.coco.json`` and ``<stem>.json`` are written next to it.
    Otherwise ``output`` is a folder. The signature ``run.json`` is written first, then ``<photo>.png``,
    ``<photo>.coco.json`` and finally ``<photo>.json`` of each photo; ``summary.csv`` and ``summary.json`` come last. A
    run that is started again resumes. A photo that cannot be read is reported in the summary and tried again the next
    time. A number is appended to a name that is taken by results of another photo or by another file; see `own_name`.

    Args:
        source: as for `photos`, or a list of image files.
        vocabulary: see `nbhelpers.clip_guided.segment`.
        output: an image file or a folder.
        target: see `nbhelpers.clip_guided.segment`.
        settings: see `nbhelpers.clip_guided.segment`.
        segmenter: see `nbhelpers.clip_guided.segment`.
        text_encoder: see `nbhelpers.clip_guided.segment`.
        detector: see `nbhelpers.clip_guided.segment`.
        render: draws a result; by default the photo with its masks overlaid.
        parameters: further parameters that the results depend on, for the signature.

    Returns:
        A record for each photo, as in ``summary.json``.

    Raises:
        NbHelpersError: no images; an output folder that holds results of other parameters or models, or the photos
            themselves; a folder that cannot be written or a full disk, after which the run can be resumed; for a single
            photo, what `segment` raises.
    """
    paths = photos(source) if isinstance(source, (str, Path)) else list(source)
    output, render = Path(output).expanduser(), render or picture
    if segmenter is None or text_encoder is None:
        from nbhelpers.models.load import load

        segmenter, text_encoder = segmenter or load("segmenter"), text_encoder or load("text_encoder")
    settings = settings or ClipGuidedSettings()
    how = {"settings": settings, "segmenter": segmenter, "text_encoder": text_encoder, "detector": detector}
    prepare_vocabulary(vocabulary, target, settings)  # an invalid vocabulary raises before anything is written
    if output.suffix.lower() in IMAGE_SUFFIXES:
        if len(paths) > 1:
            raise NbHelpersError("several photos need a folder", given=output, do=f"--output {output.with_suffix('')}")
        check_writable(output.parent)
        result = segment(paths[0], vocabulary, target, **how)
        output = output.with_stem(own_name(output.parent, output.stem, sha256(paths[0]), files=["{}" + output.suffix]))
        return [_write(result, render(result), paths[0], output)]
    apart(output, source)
    signature = {
        "format": FORMAT,
        "vocabulary": [entry if isinstance(entry, str) else list(entry) for entry in vocabulary],
        "target": target,
        "settings": asdict(settings),
        "models": [model_signature(model) for model in (text_encoder, segmenter, detector) if model is not None],
        **(parameters or {}),
    }
    sign(output / "run.json", signature)
    records = []

    def compute(item: NamedPhoto) -> tuple[ClipGuidedResult, np.ndarray]:
        result = segment(item[0], vocabulary, target, **how)
        return result, render(result)

    for path, done in zip(paths, map_items(compute, _named(paths, output), store=_RecordStore(output)), strict=True):
        records.append(done.value or {"photo": path.name, "status": done.error})
        if not (done.kept or done.error):
            log.info("%s: %s", done.key, _line(done.value))
    _summarise(output, records)
    return records


def _named(paths: Sequence[Path], output: Path) -> Iterator[tuple[str, NamedPhoto]]:
    """Each photo with the name of its results, which depends on the results of earlier photos."""
    for number, (path, stem) in enumerate(zip(paths, stems(paths, ("run", "summary")), strict=True), start=1):
        digest = _digest(path)
        stem = stem if digest is None else own_name(output, stem, digest, files=["{}.png"])
        yield f"{number}/{len(paths)} {path.name}", (path, stem, digest)


class _RecordStore(ResultStore):
    """Stores the image, the COCO file and the record of each photo."""

    def __init__(self, folder: Path):
        self.folder = folder

    def load(self, key: str, item: NamedPhoto) -> dict[str, Any] | None:
        _, stem, digest = item
        return None if digest is None else _done(self.folder / f"{stem}.json")

    def save(self, key: str, item: NamedPhoto, value: tuple[ClipGuidedResult, np.ndarray]) -> dict[str, Any]:
        path, stem, _ = item
        return _write(*value, path, self.folder / f"{stem}.png")


def picture(result: ClipGuidedResult) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with its masks overlaid; only the target's if there is a target."""
    return overlay(result.image, result.masks())


def _write(result: ClipGuidedResult, image: np.ndarray, path: Path, output: Path) -> dict[str, Any]:
    """Write the COCO file, which names the photo, then the image, and last the record, which marks completion."""
    digest = sha256(path)
    rles = {name: encode_rle(mask) for name, mask in result.masks().items()}
    scores = dict(zip(result.names, map(float, result.instances.confidence), strict=True))
    save_coco(output.with_suffix(".coco.json"), to_coco(path.name, result.image.shape[:2], rles, scores, digest))
    save_image(output, image)
    record = {
        "photo": path.name,
        "sha256": digest,
        "file": output.name,
        "status": "done",
        "target": result.target,
        "target_share": round(float(result.mask().mean()), 5),
        "found": len(rles),
        **result.summary(),
    }
    write_text(output.with_suffix(".json"), json.dumps(record, indent=1, ensure_ascii=False))
    return record


def _done(path: Path) -> dict[str, Any] | None:
    """The record of a completed photo."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _digest(photo: Path) -> str | None:
    try:
        return sha256(photo)
    except OSError:
        return None


def format_record(record: Mapping[str, Any], verbose: bool = False) -> str:
    """A record as text: one line and its notes; with ``verbose`` its conflicts and run times too."""
    if record["status"] != "done":
        return f"{record['photo']}: {record['status']}"
    lines = [f"{record['photo']}: {_line(record)}", *(f"  note: {note}" for note in record["notes"])]
    if verbose:
        lines += [f"  {part}: {seconds:.1f} s" for part, seconds in record["seconds"].items()]
        lines += [f"  {conflict}" for conflict in record["conflicts"]]
        lines.append(f"  models: {', '.join(record['models'])}")
    return "\n".join(lines)


def _line(record: Mapping[str, Any]) -> str:
    found = ", ".join(f"{count} {name}" for name, count in record["instances"].items() if count)
    return f"{found or 'nothing found'}; {record['prompts']} prompts, {sum(record['seconds'].values()):.1f} s"


def _summarise(folder: Path, records: list[dict[str, Any]]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    for record in records:
        row = {**record, **record.get("seconds", {})}
        row["instances"] = "; ".join(f"{name}: {count}" for name, count in record.get("instances", {}).items())
        row["notes"] = "; ".join(record.get("notes", ()))
        writer.writerow(row)
    write_text(folder / "summary.csv", table.getvalue())
    write_text(folder / "summary.json", json.dumps(records, indent=1, ensure_ascii=False))
