"""Reports on a result: how each word did and what to change, and images of the steps from words to masks."""

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

RIVAL = 0.5  # where a word wins, another at so much of its probability competes with it
MOST_RIVALS = 12  # pairs that are told
WORTH_ADDING = 0.03  # of the photo: a background word that wins so much is worth adding
DIM = 0.25  # brightness of the photo where a word is impossible


@dataclass(frozen=True)
class Word:
    """How one word did.

    Attributes:
        name: the first name of the class.
        share: of the photo, where it is the most probable word.
        peak: its highest probability.
        regions: confident regions of it.
        prompts: points asked for it.
        instances: what came of them.
        runner_up: the word that comes second where this one wins, or that wins where this one is strongest.
        remark: why it found nothing; empty when it found something.
        evidence: what found its instances: ``"text"``, ``"detector"``, ``"both"``, several joined by a comma.
    """

    name: str
    share: float
    peak: float
    regions: int
    prompts: int
    instances: int
    runner_up: str
    remark: str
    evidence: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says; prints as a table with advice.

    Attributes:
        words: of the vocabulary, in its order.
        alike: pairs that differ only in plural, article, case or hyphen.
        rivals: pairs that are nearly as probable as each other where one of them wins, with that ratio, 0 to 1.
        background: words for surroundings that are worth adding, with the share of the photo that they would win;
            -1 where the photo was not asked.
    """

    words: tuple[Word, ...]
    alike: tuple[tuple[str, str], ...]
    rivals: tuple[tuple[str, str, float], ...]
    background: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        wide = max(5, *(len(word.name) for word in self.words))
        lines = [f"{'word':<{wide}}  wins  peak  regions  prompts  found  by        runner-up"]
        for word in self.words:
            lines.append(
                f"{word.name:<{wide}}  {word.share:4.0%}  {word.peak:4.2f}  {word.regions:7d}  {word.prompts:7d}  "
                f"{word.instances:5d}  {word.evidence:8}  {word.runner_up}"
            )
        lines += [f"{word.name} found nothing: {word.remark}" for word in self.words if word.remark]
        lines += [f'"{a}" and "{b}" are one word twice: keep one, or join them as "{a}|{b}"' for a, b in self.alike]
        lines += [
            f'"{a}" and "{b}" compete: where one wins, the other is {ratio:.0%} as probable. '
            f'If they mean the same, join them as "{a}|{b}"'
            for a, b, ratio in self.rivals
        ]
        if self.background:
            shown = [name if share < 0 else f"{name} ({share:.0%})" for name, share in self.background]
            lines.append("background words to add: " + ", ".join(shown))
        return "\n".join(lines)


def diagnose(result: ClipGuidedResult, text_encoder: TextEncoder | None = None) -> Diagnosis:
    """Examine the words of a result.

    Example:
        >>> print(diagnose(result, text_encoder))

    Args:
        result: of `nbhelpers.clip_guided.segment`.
        text_encoder: asked once more, with background words added, to see which of them would win a part of this
            photo. Without it, all words that the vocabulary lacks are suggested.
    """
    probabilities, names = result.class_map.probabilities, result.class_map.names
    order = np.argsort(-probabilities, axis=0, kind="stable")
    winner, second = order[0], order[min(1, len(names) - 1)]
    asked = [i for i, (name, word) in enumerate(zip(names, result.vocabulary, strict=False)) if name == word]
    rows = tuple(_word(result, index, winner, second) for index in asked)  # without the words that clicks have added
    background = ()
    if not result.settings.surroundings and BACKGROUND not in map(str.casefold, names):
        background = tuple((word, -1.0) for word in suggested_background(names))
        background = background if text_encoder is None else _would_win(result, text_encoder)
    return Diagnosis(
        rows, tuple(near_duplicates(result.vocabulary)), _rivals(probabilities, names, winner, len(asked)), background
    )


def _word(result: ClipGuidedResult, index: int, winner: np.ndarray, second: np.ndarray) -> Word:
    plane, names = result.class_map.probabilities[index], result.class_map.names
    asked = [prompt for prompt in result.prompts if prompt.class_id == index]
    count = int((result.instances.class_id == index).sum())
    wins = winner == index
    if wins.any():
        runner_up = names[np.bincount(second[wins], minlength=len(names)).argmax()] if len(names) > 1 else ""
    else:
        runner_up = names[winner.ravel()[plane.argmax()]]
    regions = len({prompt.region for prompt in asked} - {-1})
    remark = "" if count else _remark(result, index, wins, runner_up, [prompt.fate for prompt in asked])
    evidence = ", ".join(sorted(set(result.instances.data["evidence"][result.instances.class_id == index].tolist())))
    return Word(
        names[index], float(wins.mean()), float(plane.max()), regions, len(asked), count, runner_up, remark, evidence
    )


def _remark(result: ClipGuidedResult, index: int, wins: np.ndarray, runner_up: str, fates: list[str]) -> str:
    """Why a word found nothing."""
    settings, plane = result.settings, result.class_map.probabilities[index]
    level = result.confidence_used.get(result.class_map.names[index], settings.min_confidence)
    words_of = words_from(result)
    if index not in words_of:
        return "it only competes (background, or excluded)"
    if not wins.any():
        return f'no place prefers it; where it is surest ({plane.max():.2f}), "{runner_up}" wins'
    if plane[wins].max() < level:
        surest = f"it is never surer than {plane[wins].max():.2f} (asked: {level:.2f})"
        return f"it wins {wins.mean():.0%} of the photo, but {surest}"
    if not fates:
        return f"its confident regions are smaller than {settings.min_region_size:g} pixels, or were too many"
    if all(fate == "covered" for fate in fates):
        if looked := [
            note
            for note in result.notes
            if note.startswith("crop verification") and result.class_map.names[index] in note
        ]:
            return "; ".join(looked)
        return "other words claimed the same pixels and were more confident; see conflicts"
    if "disagrees" in fates:
        return "the segmenter's masks at its points reach far into places where other words win"
    return f"its masks are smaller than {settings.min_region_size:g} pixels"


def words_from(result: ClipGuidedResult) -> dict[int, bool]:
    """The classes of a result that were to be found, each with whether it is stuff."""
    return prepare_vocabulary(result.vocabulary, result.target, result.settings).wanted


def _rivals(
    probabilities: Float32[np.ndarray, "n h w"], names: tuple[str, ...], winner: np.ndarray, count: int
) -> tuple[tuple[str, str, float], ...]:
    """Pairs of the first ``count`` classes of which one is nearly as probable where the other wins."""
    found: dict[tuple[int, int], float] = {}
    for index in np.unique(winner[winner < count]).tolist():
        wins = winner == index
        mean = probabilities[:count, wins].mean(1)
        for other in np.flatnonzero(mean >= RIVAL * mean[index]).tolist():
            if other != index:
                pair = (min(index, other), max(index, other))
                found[pair] = max(found.get(pair, 0.0), float(mean[other] / mean[index]))
    order = sorted(found, key=lambda pair: -found[pair])[:MOST_RIVALS]
    return tuple((names[a], names[b], found[a, b]) for a, b in order)


def _would_win(result: ClipGuidedResult, text_encoder: TextEncoder) -> tuple[tuple[str, float], ...]:
    """Background words that would win a part of the photo where no word is sure now."""
    names = result.class_map.names
    more = suggested_background(names)
    if not more:
        return ()
    asked = text_encoder.dense(result.image, [*names, *more])
    winner = asked.probabilities.argmax(0)
    taken = cv2.resize((result.instance_map >= 0).astype(np.uint8), winner.shape[::-1], interpolation=cv2.INTER_NEAREST)
    winner = np.where(taken > 0, -1, winner)
    shares = {word: float((winner == len(names) + i).mean()) for i, word in enumerate(more)}
    return tuple(sorted(((w, s) for w, s in shares.items() if s >= WORTH_ADDING), key=lambda pair: -pair[1]))


def heat(result: ClipGuidedResult, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The photo, lit where a word is probable and dark where it is not; at most 1600 pixels a side.

    Args:
        result: of `nbhelpers.clip_guided.segment`.
        name: a word of its class map, background and excluded words too.
    """
    shown = fit(result.image, LONGEST)
    plane = result.class_map.probabilities[result.class_map.names.index(name)]
    light = cv2.resize(plane, (shown.shape[1], shown.shape[0]), interpolation=cv2.INTER_LINEAR)
    return (shown * (DIM + (1 - DIM) * np.clip(light, 0, 1))[:, :, None]).astype(np.uint8)


def regions(result: ClipGuidedResult) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Where each word of the vocabulary was confident enough to be pointed at, at photo size."""
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
    """The photo with the boxes that were segmented, each with its class and probability; at most 1600 pixels a side."""
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
