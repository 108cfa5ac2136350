"""Reports on a result: diagnosis of each class of the vocabulary, and images of the intermediate steps."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from nbhelpers.clip_guided.placement import ClassGrid, working_size
from nbhelpers.clip_guided.values import ClipGuidedResult, prepare_vocabulary
from nbhelpers.core.images import fit
from nbhelpers.core.lazy import needs
from nbhelpers.core.vocabulary import BACKGROUND, near_duplicates, suggested_background
from nbhelpers.models.protocols import TextEncoder
from nbhelpers.plots import LONGEST

MIN_RIVAL_RATIO = 0.5  # of mean probabilities where one class wins, from which two classes compete
MAX_RIVALS = 12  # pairs that are reported
MIN_BACKGROUND = 0.03  # fraction of the photo that a background class must win to be suggested
MIN_BRIGHTNESS = 0.25  # of the photo where a class has probability 0


@dataclass(frozen=True)
class Word:
    """Diagnosis of one class.

    Attributes:
        name: the first name of the class.
        coverage: fraction of the photo where it is the most probable class.
        peak: its highest probability.
        regions: number of its confident regions.
        prompts: number of its prompts.
        instances: number of its instances.
        runner_up: the second most probable class where this one wins, or the winner where this one peaks.
        reason: why it found nothing; empty if it found something.
        evidence: of its instances: ``"text"``, ``"detector"``, ``"both"``, separated by commas.
    """

    name: str
    coverage: float
    peak: float
    regions: int
    prompts: int
    instances: int
    runner_up: str
    reason: str
    evidence: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of a vocabulary; prints as a table with recommendations.

    Attributes:
        words: the classes of the vocabulary, in order.
        near_duplicates: pairs that differ only in plural, article, case or hyphen.
        rivals: pairs of similar probability where one of them wins, with the ratio of their probabilities, 0 to 1.
        background: recommended background classes, with the fraction of the photo that each would win; -1 if that was
            not computed.
    """

    words: tuple[Word, ...]
    near_duplicates: tuple[tuple[str, str], ...]
    rivals: tuple[tuple[str, str, float], ...]
    background: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        wide = max(5, *(len(word.name) for word in self.words))
        lines = [f"{'word':<{wide}}  wins  peak  regions  prompts  found  by        runner-up"]
        for word in self.words:
            lines.append(
                f"{word.name:<{wide}}  {word.coverage:4.0%}  {word.peak:4.2f}  {word.regions:7d}  {word.prompts:7d}  "
                f"{word.instances:5d}  {word.evidence:8}  {word.runner_up}"
            )
        lines += [f"{word.name} found nothing: {word.reason}" for word in self.words if word.reason]
        lines += [
            f'"{a}" and "{b}" are the same word: keep one, or merge them as "{a}|{b}"' for a, b in self.near_duplicates
        ]
        lines += [
            f'"{a}" and "{b}" compete: where one wins, the other is {ratio:.0%} as probable. '
            f'If they are synonyms, merge them as "{a}|{b}"'
            for a, b, ratio in self.rivals
        ]
        if self.background:
            shown = [name if coverage < 0 else f"{name} ({coverage:.0%})" for name, coverage in self.background]
            lines.append("recommended background classes: " + ", ".join(shown))
        return "\n".join(lines)


def diagnose(result: ClipGuidedResult, text_encoder: TextEncoder | None = None) -> Diagnosis:
    """Diagnose the vocabulary of a result.

    Example:
        >>> print(diagnose(result, text_encoder))

    Args:
        result: of `nbhelpers.clip_guided.segment`.
        text_encoder: run once more with background classes added, to find those that would win a part of this photo.
            Without it, all background classes that the vocabulary lacks are recommended.
    """
    probabilities, names = result.class_map.probabilities, result.class_map.names
    order = np.argsort(-probabilities, axis=0, kind="stable")
    winner, second = order[0], order[min(1, len(names) - 1)]
    queried = [i for i, (name, word) in enumerate(zip(names, result.vocabulary, strict=False)) if name == word]
    rows = tuple(_word(result, index, winner, second) for index in queried)  # without classes added by clicks
    background = ()
    if not result.settings.surroundings and BACKGROUND not in map(str.casefold, names):
        background = tuple((word, -1.0) for word in suggested_background(names))
        background = background if text_encoder is None else _would_win(result, text_encoder)
    return Diagnosis(
        rows, tuple(near_duplicates(result.vocabulary)), _rivals(probabilities, names, winner, len(queried)), background
    )


def _word(result: ClipGuidedResult, index: int, winner: np.ndarray, second: np.ndarray) -> Word:
    plane, names = result.class_map.probabilities[index], result.class_map.names
    queried = [prompt for prompt in result.prompts if prompt.class_id == index]
    count = int((result.instances.class_id == index).sum())
    wins = winner == index
    if wins.any():
        runner_up = names[np.bincount(second[wins], minlength=len(names)).argmax()] if len(names) > 1 else ""
    else:
        runner_up = names[winner.ravel()[plane.argmax()]]
    regions = len({prompt.region for prompt in queried} - {-1})
    reason = "" if count else _reason(result, index, wins, runner_up, [prompt.fate for prompt in queried])
    evidence = ", ".join(sorted(set(result.instances.data["evidence"][result.instances.class_id == index].tolist())))
    return Word(
        names[index], float(wins.mean()), float(plane.max()), regions, len(queried), count, runner_up, reason, evidence
    )


def _reason(result: ClipGuidedResult, index: int, wins: np.ndarray, runner_up: str, fates: list[str]) -> str:
    """Why a class found nothing."""
    settings, plane = result.settings, result.class_map.probabilities[index]
    level = result.confidence_used.get(result.class_map.names[index], settings.min_confidence)
    words_of = words_from(result)
    if index not in words_of:
        return "it only competes (background, or excluded)"
    if not wins.any():
        return f'it is nowhere the most probable class; at its peak ({plane.max():.2f}), "{runner_up}" wins'
    if plane[wins].max() < level:
        highest = f"with a probability of at most {plane[wins].max():.2f} (minimum: {level:.2f})"
        return f"it wins {wins.mean():.0%} of the photo, but only {highest}"
    if not fates:
        return f"its confident regions are smaller than {settings.min_region_size:g} pixels, or were too many"
    if all(fate == "covered" for fate in fates):
        if looked := [
            note
            for note in result.notes
            if note.startswith("crop verification") and result.class_map.names[index] in note
        ]:
            return "; ".join(looked)
        return "its pixels were assigned to other classes with higher confidence; see conflicts"
    if "disagrees" in fates:
        return "the masks at its points extend far into areas where other classes win"
    return f"its masks are smaller than {settings.min_region_size:g} pixels"


def words_from(result: ClipGuidedResult) -> dict[int, bool]:
    """The classes that a result was to segment, each with whether it is stuff."""
    return prepare_vocabulary(result.vocabulary, result.target, result.settings).wanted


def _rivals(
    probabilities: Float32[np.ndarray, "n h w"], names: tuple[str, ...], winner: np.ndarray, count: int
) -> tuple[tuple[str, str, float], ...]:
    """Pairs of the first ``count`` classes with similar probabilities where one of them wins."""
    found: dict[tuple[int, int], float] = {}
    for index in np.unique(winner[winner < count]).tolist():
        wins = winner == index
        mean = probabilities[:count, wins].mean(1)
        for other in np.flatnonzero(mean >= MIN_RIVAL_RATIO * mean[index]).tolist():
            if other != index:
                pair = (min(index, other), max(index, other))
                found[pair] = max(found.get(pair, 0.0), float(mean[other] / mean[index]))
    order = sorted(found, key=lambda pair: -found[pair])[:MAX_RIVALS]
    return tuple((names[a], names[b], found[a, b]) for a, b in order)


def _would_win(result: ClipGuidedResult, text_encoder: TextEncoder) -> tuple[tuple[str, float], ...]:
    """Background classes that would win a part of the photo outside all instances."""
    names = result.class_map.names
    more = suggested_background(names)
    if not more:
        return ()
    queried = text_encoder.dense(result.image, [*names, *more])
    winner = queried.probabilities.argmax(0)
    taken = cv2.resize((result.instance_map >= 0).astype(np.uint8), winner.shape[::-1], interpolation=cv2.INTER_NEAREST)
    winner = np.where(taken > 0, -1, winner)
    shares = {word: float((winner == len(names) + i).mean()) for i, word in enumerate(more)}
    return tuple(sorted(((w, s) for w, s in shares.items() if s >= MIN_BACKGROUND), key=lambda pair: -pair[1]))


def probability_overlay(result: ClipGuidedResult, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with brightness proportional to the probability of a class; at most 1600 pixels a side.

    Args:
        result: of `nbhelpers.clip_guided.segment`.
        name: a class of its class map, including background and excluded classes.
    """
    shown = fit(result.image, LONGEST)
    plane = result.class_map.probabilities[result.class_map.names.index(name)]
    light = cv2.resize(plane, (shown.shape[1], shown.shape[0]), interpolation=cv2.INTER_LINEAR)
    return (shown * (MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * np.clip(light, 0, 1))[:, :, None]).astype(np.uint8)


def regions(result: ClipGuidedResult) -> dict[str, Bool[np.ndarray, "h w"]]:
    """The confident region of each class that was prompted, as masks at photo size."""
    grid = ClassGrid(result.class_map, working_size(result.class_map.size))
    out = {}
    for index, name in enumerate(result.vocabulary):
        level = result.confidence_used.get(name, result.settings.min_confidence)
        region = (grid.winner == index) & (grid.peak >= level)
        if region.any() and any(prompt.class_id == index for prompt in result.prompts):
            size = result.image.shape[1::-1]
            out[name] = cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return out


def boxes(result: ClipGuidedResult) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with all box prompts, their classes and probabilities; at most 1600 pixels a side."""
    needs("text", "supervision")
    import supervision

    shown = fit(result.image, LONGEST).copy()
    found = [prompt for prompt in result.prompts if prompt.box is not None]
    if not found:
        return shown
    scale = shown.shape[0] / result.image.shape[0]
    detections = supervision.Detections(
        xyxy=np.array([prompt.box for prompt in found]) * scale,
        class_id=np.array([prompt.class_id for prompt in found]),
    )
    labels = [f"{result.class_map.names[prompt.class_id]} {prompt.agreement:.2f}" for prompt in found]
    shown = supervision.BoxAnnotator(thickness=2).annotate(shown, detections)
    return supervision.LabelAnnotator(text_scale=0.5, smart_position=True).annotate(shown, detections, labels)
