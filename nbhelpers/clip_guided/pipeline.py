"""The pipeline from a photo and class names to named instances, for one photo or a folder.

A run over a folder is resumable, with one record per photo and a summary.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int16, UInt8

from nbhelpers.clip_guided import detection
from nbhelpers.clip_guided.placement import PromptPlacement, place
from nbhelpers.clip_guided.selection import (
    MaskProposal,
    MergedInstance,
    Prompted,
    assign_pixels,
    describe,
    detections,
    empty_detections,
    merge,
    paint,
    prompt,
    reassign,
    remove_specks,
    verify_crops,
)  # fmt: skip
from nbhelpers.clip_guided.values import (
    Budget,
    ClipGuidedResult,
    ClipGuidedSettings,
    Conflict,
    CropVerification,
    PlacedPrompt,
    Vocabulary,
    is_named,
    numbered,
    prepare_vocabulary,
)  # fmt: skip
from nbhelpers.core.batch import ResultStore, apart, map_items, sign
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES, check_writable, own_name, sha256, stems, write_text
from nbhelpers.core.images import load_image, photos, save_image
from nbhelpers.core.masks import deepest_points, encode_rle
from nbhelpers.export.masks import save_coco, to_coco
from nbhelpers.models.adapters import model_signature
from nbhelpers.models.protocols import Detector, Segmenter, TextEncoder
from nbhelpers.models.values import ClassMap, Embedding, Prediction
from nbhelpers.plots import overlay

if TYPE_CHECKING:
    import supervision

log = logging.getLogger(__name__)
FORMAT = "nbhelpers clip-guided run"
COLUMNS = (
    "photo", "status", "instances", "target_share", "prompts", "regions", "text", "image", "decoder", "merge", "notes",
)  # fmt: skip
NamedPhoto = tuple[Path, str, str | None]  # file, name of its results, digest if it can be read


def segment(
    image: UInt8[np.ndarray, "h w 3"] | str | Path,
    vocabulary: Sequence[str | Sequence[str]],
    target: str | None = None,
    *,
    settings: ClipGuidedSettings | None = None,
    segmenter: Segmenter | None = None,
    text_encoder: TextEncoder | None = None,
    detector: Detector | None = None,
    class_map: ClassMap | None = None,
    embedding: Embedding | None = None,
) -> ClipGuidedResult:
    """Segment the objects that a vocabulary names.

    Example:
        >>> result = segment(image, ["cat", "sofa", ["lamp", "floor lamp"]])
        >>> result.mask("cat").shape, result.names
        ((480, 640), ('cat 1', 'sofa', 'cat 2', 'lamp'))

    The detector's boxes and the text encoder's class map are fused into one class map. The segmenter predicts a mask
    for each box. Each confident region outside the boxes' masks is prompted with a point and with its bounding box on
    the same embedding, and of their masks the one that agrees best with the class map is selected. Duplicates within a
    class are merged, and overlapping pixels are assigned to the more confident instance. Uncovered confident areas are
    prompted again. Finally, each instance that only the text encoder found is verified by its crop, which may change
    its class.

    Args:
        image: RGB, or the path of an image file.
        vocabulary: a name for each class; see `nbhelpers.core.vocabulary.clean` for several names of one class.
        target: the class of interest. The others are segmented as well, since they compete for pixels; the target's
            masks do not depend on this argument.
        settings: thresholds and options.
        segmenter: by default from `nbhelpers.load`, like the text encoder and the detector.
        text_encoder: see above.
        detector: see above; used unless ``settings.detect`` is False.
        class_map: ``text_map`` of an earlier result for the same photo and vocabulary, instead of the text encoder.
        embedding: an earlier embedding of the same photo, instead of the image encoder.

    Raises:
        NbHelpersError: an unreadable image, an empty vocabulary, a target that is not in it, or a class map of another
            vocabulary or photo.
    """
    from nbhelpers.models.load import load

    settings = settings or ClipGuidedSettings()
    words = prepare_vocabulary(vocabulary, target, settings)
    image = load_image(image)
    segmenter = segmenter or load("segmenter")
    if class_map is None:
        text_encoder = text_encoder or load("text_encoder")
        text_model = text_encoder.name
    else:
        text_model = class_map.model if text_encoder is None else text_encoder.name
    detector, notes = detection.choose_detector(detector, text_model, settings)
    words, unknown = detection.without_unknown(words, detector, text_encoder)
    clock = _Clock()
    photo = _Photo(image, segmenter, embedding, clock)
    seen = _locate(photo, words, detector, text_encoder, class_map)
    words = seen.words
    target_id = next((i for i in words.wanted if is_named(target, words.classes[i])), None)
    placement = place(
        seen.class_map,
        tuple(words.wanted),
        settings,
        target_id,
        detection.covered(seen.proposals),
        frozenset(proposal.class_id for proposal in seen.proposals) & set(words.wanted),
    )
    clock.lap("merge")
    found, region_boxes = _Merged.nothing(image), 0
    if len(placement.points) or seen.proposals:
        prompted = prompt(
            segmenter, photo.embed(), seen.class_map, placement, seen.proposals, seen.shape, words.wanted, settings
        )
        region_boxes = prompted.region_boxes
        clock.lap("decoder", merging=prompted.seconds)
        reader = text_encoder if settings.verify_crops and len(words.classes) > 1 else None
        found = _instances(prompted, image, seen.class_map, words, settings, reader, clock)
    nothing = _nothing_found(found, placement, seen.proposals, words, target_id, settings)
    for note in (*unknown, *placement.notes, *nothing):
        log.warning(note)
    verified = describe(found.verifications.values(), found.dropped, seen.class_map.names)
    notes = (*words.notes, *notes, *unknown, *seen.notes, *placement.notes, *verified, *nothing)
    return ClipGuidedResult(
        image,
        words.names,
        None if target is None else _target_name(words, target),
        settings,
        seen.class_map,
        found.detections,
        found.numbers,
        found.prompts,
        found.conflicts,
        Budget(len(found.prompts) + region_boxes, len(placement.regions), **clock.seconds),
        {seen.class_map.names[index]: level for index, level in placement.used.items()},
        tuple(dict.fromkeys(notes)),
        (seen.text_map.model, segmenter.name, *([detector.name] if detector is not None else [])),
        found.verifications,
        seen.text_map,
    )


class _Clock:
    """Seconds of each stage of the `Budget`."""

    def __init__(self):
        self.seconds: dict[str, float] = dict.fromkeys(("text", "detector", "image", "decoder", "merge"), 0.0)
        self._last = time.perf_counter()

    def lap(self, part: str, merging: float = 0.0) -> None:
        """Add the seconds since the last lap to a stage; ``merging`` of them are added to ``merge``."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last - merging
        self.seconds["merge"] += merging
        self._last = now


@dataclass
class _Photo:
    """A photo with a lazily computed embedding."""

    image: UInt8[np.ndarray, "h w 3"]
    segmenter: Segmenter
    embedding: Embedding | None
    clock: _Clock

    def embed(self) -> Embedding:
        """The embedding."""
        if self.embedding is None:
            self.embedding = self.segmenter.encode(self.image)
            self.clock.lap("image")
        return self.embedding


@dataclass(frozen=True)
class _Located:
    """Coarse localisation of the classes by detector and text encoder, before point prompts."""

    words: Vocabulary
    text_map: ClassMap
    class_map: ClassMap
    proposals: Sequence[MaskProposal]
    shape: Prediction | None
    notes: tuple[str, ...]


def _locate(
    photo: _Photo,
    words: Vocabulary,
    detector: Detector | None,
    text_encoder: TextEncoder | None,
    text_map: ClassMap | None,
) -> _Located:
    """Detect, compute the class map unless it is given, segment the boxes and fuse both."""
    clock, boxes = photo.clock, None
    if detector is not None:
        boxes = detection.detect(photo.image, words, detector)
        words = boxes.words
        clock.lap("detector")
    if text_map is None:
        assert text_encoder is not None  # one of both is there
        text_map = text_encoder.dense(photo.image, words.classes)
    else:
        words = _fitting(text_map, words, photo.image)
    clock.lap("text")
    if boxes is None:
        return _Located(words, text_map, text_map, (), None, ())
    proposals, shape = (), None
    if len(boxes.boxes):
        proposals, shape = detection.propose(boxes, text_map, photo.segmenter, photo.embed())
    class_map = detection.fuse(text_map, proposals, boxes.known)
    clock.lap("decoder")
    notes = (*boxes.notes, *detection.uncertain(proposals, words))
    return _Located(words, text_map, class_map, proposals, shape, notes)


@dataclass(frozen=True)
class _Merged:
    """The state after merging, verification and the assignment of pixels."""

    prompts: tuple[PlacedPrompt, ...]
    conflicts: tuple[Conflict, ...]
    detections: supervision.Detections
    numbers: Int16[np.ndarray, "h w"]
    verifications: dict[int, CropVerification]
    dropped: tuple[CropVerification, ...]

    @classmethod
    def nothing(cls, image: np.ndarray) -> _Merged:
        """No prompt and no instance."""
        return cls((), (), empty_detections(), np.full(image.shape[:2], -1, np.int16), {}, ())


def _instances(
    prompted: Prompted,
    image: UInt8[np.ndarray, "h w 3"],
    class_map: ClassMap,
    words: Vocabulary,
    settings: ClipGuidedSettings,
    text_encoder: TextEncoder | None,
    clock: _Clock,
) -> _Merged:
    """Merge all proposals, assign the pixels, and verify crops if there is a text encoder."""
    proposals, cell = prompted.proposals, prompted.cell
    wanted = words.wanted | dict.fromkeys({each.class_id for each in proposals if each.box} - set(words.wanted), False)
    merged, fates = merge(proposals, wanted, settings, cell)
    order, covered, conflicts = assign_pixels(
        merged, prompted.grid, class_map.names, cell, settings.min_region_size, words.wanted
    )
    painted = paint(order, merged, prompted.shape)
    remove_specks(painted, settings.min_region_size)
    for index, item in enumerate(merged):
        if item.class_id not in words.wanted:
            painted[painted == index] = -1
    verifications, dropped = {}, []
    clock.lap("merge")
    if text_encoder is not None:
        trusted = {index for index, item in enumerate(merged) if any(proposals[i].box for i in item.members)}
        verifications = verify_crops(merged, painted, image, class_map, words.classes, text_encoder, trusted)
        levels = dict.fromkeys(words.wanted, settings.min_confidence) | prompted.placement.used
        merged, dropped = reassign(merged, painted, verifications, words.wanted, levels)
        clock.lap("text")
    areas = np.bincount(painted.ravel() + 1, minlength=len(merged) + 1)[1:]
    standing = sorted((i for i in order if areas[i]), key=lambda i: (merged[i].class_id, -areas[i]))
    number = np.full(len(merged) + 1, -1, np.int16)  # the last entry stands for -1
    number[standing] = np.arange(len(standing))
    found = _Merged(
        _placed_prompts(prompted, merged, number, covered, fates),
        _renumbered(conflicts, merged, standing, number, class_map.names),
        _detections(number[painted], [merged[i] for i in standing], proposals, class_map.names),
        number[painted],
        {int(number[i]): crop for i, crop in verifications.items() if number[i] >= 0},
        tuple(dropped),
    )
    clock.lap("merge")
    return found


def _placed_prompts(
    prompted: Prompted, merged: Sequence[MergedInstance], number: np.ndarray, covered: Collection[int], fates: list[str]
) -> tuple[PlacedPrompt, ...]:
    """All prompts with the index of their instance and their fate."""
    owner = {member: i for i, item in enumerate(merged) for member in item.members}
    prompts = []
    for i, proposal in enumerate(prompted.proposals):
        instance = int(number[owner[i]]) if i in owner else -1
        hidden = i in owner and (owner[i] in covered or instance < 0)
        point, region = _place_of(prompted, i)
        prompts.append(
            PlacedPrompt(
                point,
                proposal.class_id,
                region,
                proposal.candidate,
                proposal.predicted_iou,
                proposal.agreement,
                instance,
                "covered" if hidden else fates[i],
                proposal.box,
            )
        )
    return tuple(prompts)


def _renumbered(
    conflicts: Sequence[Conflict],
    merged: Sequence[MergedInstance],
    standing: Sequence[int],
    number: np.ndarray,
    names: Sequence[str],
) -> tuple[Conflict, ...]:
    """Conflicts by the indices and names of the remaining instances."""
    shown = dict(zip(standing, numbered([names[merged[i].class_id] for i in standing]), strict=True))
    return tuple(
        replace(
            conflict,
            winner=int(number[conflict.winner]),
            loser=int(number[conflict.loser]),
            names=tuple(
                shown.get(i, f"{names[merged[i].class_id]} (covered)") for i in (conflict.winner, conflict.loser)
            ),
        )
        for conflict in conflicts
    )


def _detections(
    numbers: np.ndarray, kept: Sequence[MergedInstance], proposals: Sequence[MaskProposal], names: Sequence[str]
) -> supervision.Detections:
    """The remaining instances with their evidence."""
    ids, confidence = [item.class_id for item in kept], [item.confidence for item in kept]
    found = detections(numbers, ids, confidence, [names[index] for index in ids])
    found.data["evidence"] = np.array([_evidence([proposals[i].evidence for i in item.members]) for item in kept], str)
    return found


def _place_of(prompted: Prompted, number: int) -> tuple[tuple[float, float], int]:
    """The point of a prompt in pixels of the photo (for a box, the deepest point of its mask), and its region."""
    placement, proposal = prompted.placement, prompted.proposals[number]
    if proposal.box is None:
        x, y = placement.points[number].tolist()
        return (x, y), int(placement.region_ids[number])
    (height, width), (rows, columns) = prompted.shape.size, prompted.grid.size
    x, y = deepest_points(proposal.logits > 0, 1, 1)[0].tolist()
    return ((x + 0.5) * width / columns - 0.5, (y + 0.5) * height / rows - 0.5), -1


def _evidence(kinds: Sequence[str]) -> str:
    """The evidence for an instance, combined over its prompts."""
    return "both" if "both" in kinds or len(set(kinds)) > 1 else kinds[0]


def _target_name(words: Vocabulary, target: str) -> str:
    return next(names[0] for names in words.classes if is_named(target, names))


def _fitting(class_map: ClassMap, words: Vocabulary, image: np.ndarray) -> Vocabulary:
    """The vocabulary with the rivals of an earlier class map, which must be of the same photo and vocabulary."""
    names = tuple(names[0] for names in words.classes)
    if class_map.names[: len(names)] != names or class_map.size != image.shape[:2]:
        raise NbHelpersError(
            "the class map belongs to another photo or vocabulary",
            given=f"{class_map.size}, {', '.join(class_map.names)}",
            expected=f"{image.shape[:2]}, {', '.join(names)}",
        )
    return words.with_rivals(class_map.names[len(names) :])


def _nothing_found(
    found: _Merged,
    placement: PromptPlacement,
    proposals: Sequence[MaskProposal],
    words: Vocabulary,
    target_id: int | None,
    settings: ClipGuidedSettings,
) -> list[str]:
    """Notes on why nothing was found, or nothing of the target."""
    if len(found.detections):
        if target_id is None or target_id in np.asarray(found.detections.class_id):
            return []
        return [f"no {words.classes[target_id][0]} was found, only other classes"]
    what = ", ".join(f'"{words.classes[index][0]}"' for index in list(words.wanted)[:5])
    if not len(placement.points) and not proposals:
        return [f"nothing was found: no region of {settings.min_region_size:g} pixels is confidently {what}"]
    return [f"nothing was found: no mask agreed with {what}; see diagnose(result)"]


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
    scores = dict(zip(result.names, map(float, np.asarray(result.instances.confidence)), strict=True))
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
