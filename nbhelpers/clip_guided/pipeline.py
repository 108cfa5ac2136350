"""`segment`: a photo and words in, instances with names out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int16, UInt8

from nbhelpers.clip_guided import detection
from nbhelpers.clip_guided.placement import PromptPlacement, place
from nbhelpers.clip_guided.selection import (
    MaskProposal,
    Prompted,
    assign_pixels,
    detections,
    empty_detections,
    merge,
    paint,
    prompt,
    remove_specks,
)  # fmt: skip
from nbhelpers.clip_guided.values import (
    Budget,
    ClipGuidedResult,
    ClipGuidedSettings,
    Conflict,
    CropReading,
    PlacedPrompt,
    Vocabulary,
    is_named,
    numbered,
    prepare_vocabulary,
)  # fmt: skip
from nbhelpers.clip_guided.verification import describe, read_crops, reassign
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.masks import deepest_points
from nbhelpers.models.protocols import Detector, Segmenter, TextEncoder
from nbhelpers.models.values import ClassMap, Embedding

if TYPE_CHECKING:
    import supervision

log = logging.getLogger(__name__)


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
    """Find and segment what the words name.

    Example:
        >>> result = segment(image, ["cat", "sofa", ["lamp", "floor lamp"]])
        >>> result.mask("cat").shape, result.names
        ((480, 640), ('cat 1', 'sofa', 'cat 2', 'lamp'))

    The detector's boxes and the text encoder's class map are fused into one class map. The segmenter predicts a mask
    for each box; where no box has found anything, confident regions get points deep inside, all on one embedding, and
    the candidate mask that agrees best with the class map is selected. Duplicates within a class are merged, and
    pixels that several instances cover go to the more confident one. Uncovered confident places get more points. Last,
    each instance that only the text encoder found is verified by its own crop, and may change its class.

    Args:
        image: RGB, or the path of a picture.
        vocabulary: a word for each class; see `nbhelpers.core.vocabulary.clean` for several names of one class.
        target: the class that is wanted. The others are found as well, since they contend for pixels; the target's
            masks are the same with and without it.
        settings: thresholds and switches.
        segmenter: `nbhelpers.load` picks one when left out, and the text encoder and detector.
        text_encoder: see above.
        detector: see above; used unless ``settings.detect`` is False.
        class_map: ``text_map`` of an earlier result for the same photo and words, to save the text encoder's time.
        embedding: an earlier embedding of the same photo, to save the image encoder's time.

    Raises:
        NbHelpersError: an unreadable picture, an empty vocabulary, a target that is not in it, a class map of other
            words or another photo.
    """
    from nbhelpers.models.load import load

    settings = settings or ClipGuidedSettings()
    words = prepare_vocabulary(vocabulary, target, settings)
    image = load_image(image)
    segmenter = segmenter or load("segmenter")
    if text_encoder is None and class_map is None:
        text_encoder = load("text_encoder")
    text_model = class_map.model if text_encoder is None else text_encoder.name
    detector, notes = detection.choose_detector(detector, text_model, settings)
    words, unknown = detection.without_unknown(words, detector, text_encoder)
    notes = (*notes, *unknown)
    clock = _Clock()
    boxes = None
    if detector is not None:
        boxes = detection.detect(image, words, detector)
        words, notes = boxes.words, (*notes, *boxes.notes)
    detecting = clock.lap()
    if class_map is None:
        text_map = text_encoder.dense(image, words.classes)
    else:
        text_map, words = class_map, _fitting(class_map, words, image)
    text, encoding, decoding = clock.lap(), 0.0, 0.0
    proposals: list[MaskProposal] = []
    class_map, shape = text_map, None
    if boxes is not None:
        if len(boxes.boxes):
            embedding = segmenter.encode(image) if embedding is None else embedding
            encoding = clock.lap()
            proposals, shape = detection.propose(boxes, text_map, segmenter, embedding)
        class_map = detection.fuse(text_map, proposals, boxes.known)
        decoding = clock.lap()
    target_id = next((i for i in words.wanted if is_named(target, words.classes[i])), None)
    placement = place(
        class_map,
        tuple(words.wanted),
        settings,
        target_id,
        detection.covered(proposals),
        frozenset(proposal.class_id for proposal in proposals) & set(words.wanted),
    )
    notes = [*words.notes, *notes, *placement.notes]
    found, merging, verifying = _empty(image), clock.lap(), 0.0
    if len(placement.points) or proposals:
        if embedding is None:
            embedding = segmenter.encode(image)
            encoding += clock.lap()
        prompted = prompt(segmenter, embedding, class_map, placement, proposals, shape, words.wanted, settings)
        decoding += clock.lap() - prompted.seconds
        reader = text_encoder if settings.verify_crops and len(words.classes) > 1 else None
        found, verifying = _instances(prompted, image, class_map, words, settings, reader)
        merging += prompted.seconds + clock.lap() - verifying
        notes += describe(found.readings.values(), found.dropped, class_map.names)
    nothing = _nothing_found(found, placement, proposals, words, target_id, settings)
    for note in (*unknown, *placement.notes, *nothing):
        log.warning(note)
    notes += nothing
    count = len(found.prompts)
    return ClipGuidedResult(
        image,
        words.names,
        None if target_id is None and target is None else _target_name(words, target),
        settings,
        class_map,
        found.detections,
        found.numbers,
        found.prompts,
        found.conflicts,
        Budget(count, len(placement.regions), text + verifying, detecting, encoding, decoding, merging),
        {class_map.names[index]: level for index, level in placement.used.items()},
        tuple(dict.fromkeys(notes)),
        (text_map.model, segmenter.name, *([detector.name] if detector is not None else [])),
        found.readings,
        text_map,
    )


@dataclass(frozen=True)
class _Merged:
    """What is left after merging, verification and the assignment of pixels."""

    prompts: tuple[PlacedPrompt, ...]
    conflicts: tuple[Conflict, ...]
    detections: supervision.Detections
    numbers: Int16[np.ndarray, "h w"]
    readings: dict[int, CropReading]
    dropped: tuple[CropReading, ...]


def _empty(image: np.ndarray) -> _Merged:
    return _Merged((), (), empty_detections(), np.full(image.shape[:2], -1, np.int16), {}, ())


def _instances(
    prompted: Prompted,
    image: UInt8[np.ndarray, "h w 3"],
    class_map: ClassMap,
    words: Vocabulary,
    settings: ClipGuidedSettings,
    text_encoder: TextEncoder | None,
) -> tuple[_Merged, float]:
    """Merge all proposals, and the seconds that verification took; without a text encoder there is none."""
    proposals, cell = prompted.proposals, prompted.cell
    wanted = words.wanted | dict.fromkeys({each.class_id for each in proposals if each.box} - set(words.wanted), False)
    merged, fates = merge(proposals, wanted, settings, cell)
    names = class_map.names
    order, covered, conflicts = assign_pixels(merged, prompted.grid, names, cell, settings.min_region_size)
    painted = paint(order, merged, prompted.shape)
    remove_specks(painted, settings.min_region_size)
    for index, item in enumerate(merged):
        if item.class_id not in words.wanted:
            painted[painted == index] = -1
    readings, dropped, clock = {}, [], _Clock()
    if text_encoder is not None:
        sure = {index for index, item in enumerate(merged) if any(proposals[i].box for i in item.members)}
        readings = read_crops(merged, painted, image, class_map, words.classes, text_encoder, sure)
        levels = dict.fromkeys(words.wanted, settings.min_confidence) | prompted.placement.used
        merged, dropped = reassign(merged, painted, readings, words.wanted, levels)
    verifying = clock.lap()
    areas = np.bincount(painted.ravel() + 1, minlength=len(merged) + 1)[1:]
    standing = sorted((i for i in order if areas[i]), key=lambda i: (merged[i].class_id, -areas[i]))
    number = np.full(len(merged) + 1, -1, np.int16)  # the last entry stands for -1
    number[standing] = np.arange(len(standing))
    owner = {member: i for i, item in enumerate(merged) for member in item.members}
    prompts = []
    for i, proposal in enumerate(proposals):
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
    numbers = number[painted]
    kept = [merged[i] for i in standing]
    shown = dict(zip(standing, numbered([names[item.class_id] for item in kept]), strict=True))
    conflicts = [
        replace(
            conflict,
            winner=int(number[conflict.winner]),
            loser=int(number[conflict.loser]),
            names=tuple(
                shown.get(i, f"{names[merged[i].class_id]} (covered)") for i in (conflict.winner, conflict.loser)
            ),
        )
        for conflict in conflicts
    ]
    ids, confidence = [item.class_id for item in kept], [item.confidence for item in kept]
    found = detections(numbers, ids, confidence, [names[index] for index in ids])
    found.data["evidence"] = np.array([_evidence([proposals[i].evidence for i in item.members]) for item in kept], str)
    readings = {int(number[i]): reading for i, reading in readings.items() if number[i] >= 0}
    return _Merged(tuple(prompts), tuple(conflicts), found, numbers, readings, tuple(dropped)), verifying


def _place_of(prompted: Prompted, number: int) -> tuple[tuple[float, float], int]:
    """The point of a prompt, of a box the deepest of its mask, in pixels of the photo; and its region."""
    placement, proposal = prompted.placement, prompted.proposals[number]
    if proposal.box is None:
        x, y = placement.points[number].tolist()
        return (x, y), int(placement.region_ids[number])
    (height, width), (rows, columns) = prompted.shape.size, prompted.grid.size
    x, y = deepest_points(proposal.logits > 0, 1, 1)[0].tolist()
    return ((x + 0.5) * width / columns - 0.5, (y + 0.5) * height / rows - 0.5), -1


def _evidence(kinds: Sequence[str]) -> str:
    """What found an instance: of its prompts the boxes decide."""
    return "both" if "both" in kinds or len(set(kinds)) > 1 else kinds[0]


def _target_name(words: Vocabulary, target: str) -> str:
    return next(names[0] for names in words.classes if is_named(target, names))


def _fitting(class_map: ClassMap, words: Vocabulary, image: np.ndarray) -> Vocabulary:
    """The vocabulary with the rivals of an earlier class map, which must be of the same photo and words."""
    names = tuple(names[0] for names in words.classes)
    if class_map.names[: len(names)] != names or class_map.size != image.shape[:2]:
        raise NbHelpersError(
            "the class map belongs to another photo or other words",
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
    """Notes on why there is nothing, or nothing of the target."""
    if len(found.detections):
        if target_id is None or target_id in found.detections.class_id:
            return []
        return [f"nothing of {words.classes[target_id][0]} was found, but other words were"]
    what = ", ".join(f'"{words.classes[index][0]}"' for index in list(words.wanted)[:5])
    if not len(placement.points) and not proposals:
        return [f"nothing was found: no region of {settings.min_region_size:g} pixels looks like {what}"]
    return [f"nothing was found: no mask agreed with {what}; diagnose(result) tells more"]


class _Clock:
    """Seconds between laps."""

    def __init__(self):
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds
