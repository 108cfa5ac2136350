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

from nbhelpers.clip_guided.ask import Questions
from nbhelpers.clip_guided.merge import detections, drop_specks, instances, no_detections, paint, share_out
from nbhelpers.clip_guided.second_look import look_again, rename, told
from nbhelpers.clip_guided.values import Budget, Conflict, Look, PlacedPrompt, Result, Settings, numbered
from nbhelpers.clip_guided.where import place
from nbhelpers.clip_guided.words import Words, is_named, words
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.models.protocols import Segmenter, TextEncoder
from nbhelpers.models.values import ClassMap, Embedding

if TYPE_CHECKING:
    import supervision

log = logging.getLogger(__name__)


def segment(
    image: UInt8[np.ndarray, "h w 3"] | str | Path,
    vocabulary: Sequence[str | Sequence[str]],
    target: str | None = None,
    *,
    settings: Settings | None = None,
    segmenter: Segmenter | None = None,
    text_encoder: TextEncoder | None = None,
    class_map: ClassMap | None = None,
    embedding: Embedding | None = None,
) -> Result:
    """Find and segment what the words name.

    Example:
        >>> result = segment(image, ["cat", "sofa", ["lamp", "floor lamp"], "background"])
        >>> result.mask("cat").shape, result.names
        ((480, 640), ('cat 1', 'sofa', 'cat 2', 'lamp'))

    The text encoder's confident regions are taken apart into connected ones; points well inside each are asked of the
    segmenter, all on one embedding; of each point the candidate that agrees best with the class map is taken;
    duplicates within a class are merged; pixels that several claim go to the more confident one. Confident places that
    are left are asked again; last, each instance is read by itself, and may get another word.

    Args:
        image: RGB, or the path of a picture.
        vocabulary: a word for each class; see `nbhelpers.core.vocabulary.clean` for several names of one class. Say
            what else is there too, or "background": a word wins where no better one is offered.
        target: the class that is wanted. The others are found as well, since they contend for pixels; the target's
            masks are the same with and without it.
        settings: thresholds; see `Settings`.
        segmenter: `nbhelpers.load` picks one when left out, and the text encoder.
        text_encoder: see above.
        class_map: an earlier answer of the text encoder to the same words, to save its time.
        embedding: an earlier embedding of the same photo, to save the image encoder's time.

    Raises:
        NbHelpersError: an unreadable picture, an empty vocabulary, a target that is not in it, a class map of other
            words or another photo.
    """
    settings = settings or Settings()
    asked = words(vocabulary, target, settings)
    image = load_image(image)
    if segmenter is None:
        from nbhelpers.models.load import load

        segmenter = load("segmenter")
    if text_encoder is None and class_map is None:
        from nbhelpers.models.load import load

        text_encoder = load("text_encoder")
    clock = _Clock()
    if class_map is None:
        class_map = text_encoder.dense(image, asked.asked)
    if class_map.names != tuple(names[0] for names in asked.asked) or class_map.size != image.shape[:2]:
        raise NbHelpersError(
            "the class map answers another question",
            given=f"{class_map.size}, {', '.join(class_map.names)}",
            expected=f"{image.shape[:2]}, {', '.join(names[0] for names in asked.asked)}",
        )
    text = clock.lap()
    wanted_target = next((i for i in asked.wanted if is_named(target, asked.asked[i])), None)
    places = place(class_map, tuple(asked.wanted), settings, wanted_target)
    merge = clock.lap()
    budget = Budget(len(places.points), len(places.regions), text, 0.0, 0.0, merge)
    notes = [*asked.notes, *places.notes]
    for note in places.notes:
        log.warning(note)
    found = _Found((), (), no_detections(), np.full(image.shape[:2], -1, np.int16), {}, ())
    if len(places.points):
        clock.lap()
        embedding = segmenter.encode(image) if embedding is None else embedding
        budget = replace(budget, image=clock.lap())
        questions = Questions(segmenter, embedding, class_map, places)
        questions.ask(asked.wanted, settings)
        budget = replace(budget, prompts=len(questions.answers), decoder=clock.lap() - questions.choosing)
        reader = text_encoder if settings.second_look and len(asked.asked) > 1 else None
        found, looking = _merge(questions, image, class_map, asked, settings, reader)
        budget = replace(budget, text=text + looking, merge=merge + questions.choosing + clock.lap() - looking)
        notes += told(found.looks.values(), found.dropped, class_map.names)
    else:
        notes.append(f"no word has a region of {settings.min_region_size:g} pixels; diagnose(result) tells more")
        log.warning(notes[-1])
    if len(places.points) and not len(found.detections):
        notes.append("no mask agreed with the words; diagnose(result) tells more")
        log.warning(notes[-1])
    elif wanted_target is not None and wanted_target not in found.detections.class_id:
        notes.append(f"nothing of {class_map.names[wanted_target]} was found, but other words were")
        log.warning(notes[-1])
    return Result(
        image,
        asked.names,
        None if target is None else next(n[0] for n in asked.asked if is_named(target, n)),
        settings,
        class_map,
        found.detections,
        found.numbers,
        found.prompts,
        found.conflicts,
        budget,
        {class_map.names[index]: level for index, level in places.used.items()},
        tuple(notes),
        (class_map.model, segmenter.name),
        found.looks,
    )


@dataclass(frozen=True)
class _Found:
    prompts: tuple[PlacedPrompt, ...]
    conflicts: tuple[Conflict, ...]
    detections: supervision.Detections
    numbers: Int16[np.ndarray, "h w"]
    looks: dict[int, Look]
    dropped: tuple[Look, ...]


def _merge(
    questions: Questions,
    image: UInt8[np.ndarray, "h w 3"],
    class_map: ClassMap,
    asked: Words,
    settings: Settings,
    text_encoder: TextEncoder | None,
) -> tuple[_Found, float]:
    """All that was found, and the seconds that a second look took; without a text encoder there is none."""
    answers, evidence, places = questions.answers, questions.evidence, questions.places
    shape, cell = questions.shape, questions.cell
    merged, fates = instances(answers, asked.wanted, settings, cell)
    names = tuple(each[0] for each in asked.asked)
    order, covered, conflicts = share_out(merged, evidence, names, cell, settings.min_region_size)
    painted = paint(order, merged, shape)
    drop_specks(painted, settings.min_region_size)
    looks, dropped, clock = {}, [], _Clock()
    if text_encoder is not None:
        looks = look_again(merged, painted, image, class_map, asked.asked, text_encoder)
        levels = dict.fromkeys(asked.wanted, settings.min_confidence) | places.used
        merged, dropped = rename(merged, painted, looks, asked.wanted, levels)
    looking = clock.lap()
    areas = np.bincount(painted.ravel() + 1, minlength=len(merged) + 1)[1:]
    standing = sorted((i for i in order if areas[i]), key=lambda i: (merged[i].class_id, -areas[i]))
    number = np.full(len(merged) + 1, -1, np.int16)  # the last entry stands for -1
    number[standing] = np.arange(len(standing))
    owner = {member: i for i, item in enumerate(merged) for member in item.members}
    prompts = []
    for i, (point, answer) in enumerate(zip(places.points.tolist(), answers, strict=True)):
        instance = int(number[owner[i]]) if i in owner else -1
        fate = "covered" if i in owner and (owner[i] in covered or instance < 0) else fates[i]
        region = int(places.region_ids[i])
        score, agreement = answer.score, answer.agreement
        prompts.append(
            PlacedPrompt(tuple(point), answer.class_id, region, answer.candidate, score, agreement, instance, fate)
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
    looks = {int(number[i]): look for i, look in looks.items() if number[i] >= 0}
    return _Found(tuple(prompts), tuple(conflicts), found, numbers, looks, tuple(dropped)), looking


class _Clock:
    """Seconds between laps."""

    def __init__(self):
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds
