"""Fusion of a detector's boxes with the class map of a text encoder.

A detector is accurate on few classes; a text encoder takes any class name but is coarse. Each box is segmented, and the
class map is averaged over the mask. The class of the box is the one with the largest product of detector score and mean
probability (a product of experts; Hinton 2002, doi 10.1162/089976602760128018), where classes outside the
vocabulary have a lower prior. Later steps use the fused class map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from jaxtyping import Bool, Float

from nbhelpers.clip_guided.selection import MIN_AGREEMENT, MaskProposal, mean_probabilities
from nbhelpers.clip_guided.values import ClipGuidedSettings, Vocabulary
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import iou, mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import Detector, Segmenter, TextEncoder
from nbhelpers.models.values import ClassMap, Embedding, Prediction
from nbhelpers.weights import catalog

if TYPE_CHECKING:
    import supervision

MIN_SCORE = 0.1  # of a box; combined with the class map it must reach one of the bounds below
MIN_RIVAL = 0.6  # score of a box whose class is not in the vocabulary
MAX_BOXES = 48
MAX_RIVALS = 12
IOU_SAME_BOX = 0.7  # IoU from which boxes of different classes are one object
IOU_SAME_MASK = 0.7  # IoU from which the masks of two boxes are one object
UNKNOWN_SCORE = 0.15  # score of countable classes that the detector does not know
RIVAL_FRACTION = (
    0.5  # likewise with only rivals, as a fraction of their score: "dog" may be a hypernym of "spaniel" ...
)
WEARERS = ("person",)  # ... but a person who wears or holds an object is not the object
MIN_TEXT_PROBABILITY = 0.2  # lower bound of the text encoder's probability in the product: it may be wrong
MIN_PROBABILITY = MIN_AGREEMENT  # of a box that is kept; one that is dropped later must not keep points from its area
MIN_UNKNOWN = 0.15  # likewise of a class that the detector does not know
RELATIVE = 0.7  # likewise of a class without such a box, as a fraction of its best one
UNASKED = 0.15  # prior of a class that is not in the vocabulary, relative to one that is
OUTSIDE_FACTOR = 0.03  # factor on the probability of a class that the detector knows, outside its boxes


@dataclass(frozen=True, eq=False)
class Detected:
    """Detections in a photo, in terms of the classes of a vocabulary.

    Attributes:
        boxes: ``(k, 4)`` pixels, one box per object, highest score first.
        scores: ``(k, n)``, the score of each class for each box: 0 for a class that the detector knows but did not
            detect, and for stuff; for countable classes that it does not know `UNKNOWN_SCORE`, or more if it detected
            only rivals (`RIVAL_FRACTION`).
        known: whether the detector knows each of the ``n`` classes.
        words: the vocabulary, with the rivals that the detector found.
        notes: how names were mapped to the detector's classes.
        masks: the mask of each box, from a detector that segments; empty for other detectors.
    """

    boxes: Float[np.ndarray, "k 4"]
    scores: Float[np.ndarray, "k n"]
    known: tuple[bool, ...]
    words: Vocabulary
    notes: tuple[str, ...]
    masks: tuple[Bool[np.ndarray, "h w"], ...] = ()


def choose_detector(
    given: Detector | None, text_model: str, settings: ClipGuidedSettings
) -> tuple[Detector | None, tuple[str, ...]]:
    """The detector to use or None, and a note if it is not available.

    By default a detector is used with text encoders of the lite set, since many everyday objects (person, couch, cow)
    are not classes of ImageNet.
    """
    if settings.detect is False:
        return None, ()
    if given is not None:
        return given, ()
    if settings.detect is None and not any(
        model.name == text_model for model in catalog.models("text_encoder", "lite")
    ):
        return None, ()
    from nbhelpers.models.load import load

    try:
        return load("detector"), ()
    except NbHelpersError as error:
        return None, (f"continuing without a detector: {error.what}",)


def detect(image: np.ndarray, words: Vocabulary, detector: Detector) -> Detected:
    """Detect the classes of a vocabulary.

    Confident detections of other classes (the person next to the dog) are added as rivals, which compete but are not
    segmented.
    """
    found = detector.detect(image, words.classes, MIN_SCORE)
    order = np.argsort(-np.asarray(found.confidence), kind="stable")
    found = cast("supervision.Detections", found[order])
    own, certainty = np.asarray(found.data["detected"]).tolist(), np.asarray(found.confidence)
    known = detector.classes(words.classes)
    queried = {name for names in known for name in names}
    strong = [name for name, score in zip(own, certainty, strict=True) if name not in queried and score >= MIN_RIVAL]
    rivals = tuple(dict.fromkeys(strong))[:MAX_RIVALS]
    words = words.with_rivals(rivals)
    known = [*known, *((name,) for name in rivals)]
    table = {name: [i for i, names in enumerate(known) if name in names] for names in known for name in names}
    countable = [index for index, stuff in words.wanted.items() if not known[index] and not stuff]
    boxes, scores, masks = [], [], []
    for number, (box, score, name) in enumerate(zip(found.xyxy, certainty.tolist(), own, strict=True)):
        if name not in table:
            continue
        same = _first_same(box, boxes)
        if same is None:
            same = len(boxes)
            boxes.append(box)
            masks += [] if found.mask is None else [found.mask[number]]
            scores.append(np.zeros(len(known)))
            scores[same][countable] = UNKNOWN_SCORE
        for index in table[name]:
            scores[same][index] = max(scores[same][index], score)
    firm = [i for i, names in enumerate(known) if names and (i < len(known) - len(rivals) or names[0] in WEARERS)]
    for each in scores:
        if not each[firm].any():
            each[countable] = np.maximum(UNKNOWN_SCORE, RIVAL_FRACTION * each.max())
    count = min(len(boxes), MAX_BOXES)
    return Detected(
        np.array(boxes[:count], float).reshape(-1, 4),
        np.array(scores[:count], float).reshape(-1, len(known)),
        tuple(bool(names) for names in known),
        words,
        _notes(words, known),
        tuple(masks[:count]),
    )


def propose(
    found: Detected, class_map: ClassMap, segmenter: Segmenter, embedding: Embedding
) -> tuple[list[MaskProposal], Prediction | None]:
    """Segment each box and assign it the most probable class given detector and class map.

    The masks of a detector that segments are taken as they are, on the grid of the segmenter.

    Returns:
        The proposals with a probability of at least `MIN_PROBABILITY`, and where a class of the vocabulary has none its
        best ones from `MIN_SCORE` or `MIN_UNKNOWN` on; duplicates are merged into one with the class of the most
        probable and the outline of the highest quality. Also one prediction, for its size and extent.
    """
    height, width = embedding.size
    queried = found.words.count  # the first classes; the others are rivals
    candidates: list[tuple[float, float, MaskProposal]] = []
    prediction = None
    for number, (box, scores) in enumerate(zip(found.boxes, found.scores, strict=True)):
        box = np.clip(box, 0, [width - 1, height - 1] * 2)
        if prediction is None or not found.masks:
            prediction = segmenter.predict(embedding, Prompt(box=box))
        rows, columns = (max(1, round(side)) for side in prediction.extent)
        logits = prediction.logits[prediction.choice, :rows, :columns]
        if found.masks:
            logits = mask_logits(found.masks[number], (rows, columns))
        if not (logits > 0).any():
            continue
        mean = mean_probabilities(class_map, logits > 0)
        strongest = float(scores.max())
        prior = np.where(np.arange(len(scores)) < queried, 1.0, UNASKED)
        # without the detector's support for a queried class only the text encoder can tell one from a rival
        contested = scores[:queried][np.array(found.known[:queried], bool)].any()
        joint = scores * (prior if contested else 1.0) * np.maximum(mean, MIN_TEXT_PROBABILITY)
        class_id = int(joint.argmax())
        probability = float((prior * scores)[class_id] if found.known[class_id] else strongest * mean[class_id])
        evidence = "both" if mean[class_id] > np.delete(mean, class_id).max(initial=0.0) else "detector"
        if class_id >= queried or probability >= (MIN_SCORE if found.known[class_id] else MIN_UNKNOWN):
            predicted_iou = float(strongest if found.masks else prediction.scores[prediction.choice])
            proposal = MaskProposal(
                logits.astype(np.float16), class_id, 0, predicted_iou, probability, tuple(box.tolist()), evidence
            )
            candidates.append((float(joint[class_id]), predicted_iou * strongest, proposal))
    kept: list[tuple[float, MaskProposal]] = []
    for _, quality, proposal in sorted(candidates, key=lambda each: -each[0]):
        mask = proposal.logits > 0
        same = next((k for k, (_, other) in enumerate(kept) if iou(mask, other.logits > 0) >= IOU_SAME_MASK), None)
        if same is None:
            kept.append((quality, proposal))
        elif quality > kept[same][0]:  # keep the class, replace the outline
            better = {"logits": proposal.logits, "box": proposal.box, "predicted_iou": proposal.predicted_iou}
            kept[same] = quality, replace(kept[same][1], **better)
    proposals = [proposal for _, proposal in kept]
    enough = {
        index: min(MIN_PROBABILITY, max(MIN_SCORE, RELATIVE * best)) if index < queried else 0.0
        for index, best in _best_probabilities(proposals).items()
    }
    return [proposal for proposal in proposals if proposal.agreement >= enough[proposal.class_id]], prediction


def _best_probabilities(proposals: Sequence[MaskProposal]) -> dict[int, float]:
    """The probability of the best box of each class."""
    best: dict[int, float] = {}
    for proposal in proposals:
        best[proposal.class_id] = max(proposal.agreement, best.get(proposal.class_id, 0.0))
    return best


def uncertain(proposals: Sequence[MaskProposal], words: Vocabulary) -> tuple[str, ...]:
    """Notes on the classes of a vocabulary of which no box is certain."""
    return tuple(
        f'"{words.classes[index][0]}" is uncertain: its best box has a probability of {probability:.0%}'
        for index, probability in _best_probabilities(proposals).items()
        if index < words.count and probability < MIN_PROBABILITY
    )


def fuse(class_map: ClassMap, proposals: Sequence[MaskProposal], known: Sequence[bool]) -> ClassMap:
    """The class map, updated with the detector's proposals.

    Inside the mask of a box its class gets the probability of the box, and the remainder is divided among the others.
    Outside, the probability of each class that the detector knows is multiplied by `OUTSIDE_FACTOR`.
    """
    planes = class_map.probabilities.copy()
    planes[: len(known)][np.asarray(known, bool)] *= OUTSIDE_FACTOR
    planes /= np.maximum(planes.sum(0), 1e-12)
    for proposal in sorted(proposals, key=lambda each: -np.count_nonzero(each.logits > 0)):  # a dog lies on a sofa
        cover = _cover(proposal.logits > 0, planes.shape[1:])
        planes *= 1 - proposal.agreement * cover
        planes[proposal.class_id] += proposal.agreement * cover
    return replace(class_map, probabilities=planes)


def _cover(mask: np.ndarray, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Fraction of each cell that a mask covers."""
    return cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)


def covered(proposals: Sequence[MaskProposal]) -> Bool[np.ndarray, "h w"] | None:
    """Union of the proposals' masks, on their grid; None without proposals."""
    return np.any([proposal.logits > 0 for proposal in proposals], axis=0) if proposals else None


def _first_same(box: np.ndarray, boxes: Sequence[np.ndarray]) -> int | None:
    """Index of the first box that is the same object: IoU of at least `IOU_SAME_BOX`."""
    for index, other in enumerate(boxes):
        low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
        shared = np.prod(np.clip(high - low, 0, None))
        if shared >= IOU_SAME_BOX * (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared):
            return index
    return None


def without_unknown(
    words: Vocabulary, detector: Detector | None, text_encoder: TextEncoder | None
) -> tuple[Vocabulary, tuple[str, ...]]:
    """The vocabulary without the words that neither detector nor text encoder knows, and notes on them.

    Unknown words still compete but are not segmented. A text encoder with a closed vocabulary has a method ``nearest``
    and a threshold ``min_similarity``; CLIP accepts any word.
    """
    nearest_to: Callable[[str], list[tuple[str, float]]] | None = getattr(text_encoder, "nearest", None)
    if nearest_to is None:
        return words, ()
    min_similarity: float = getattr(text_encoder, "min_similarity", 0.0)
    wanted, notes = dict(words.wanted), []
    classes = [()] * words.count if detector is None else detector.classes(words.classes[: words.count])
    for index, (names, own) in enumerate(zip(words.classes, classes, strict=False)):
        if own or words.wanted.get(index, True):
            continue
        nearest = max((nearest_to(name) for name in names), key=lambda each: each[0][1])
        if nearest[0][1] < min_similarity:
            del wanted[index]
            known = [name for name, _ in nearest] + list(detector.nearest(names[0], 2) if detector else ())
            notes.append(f'"{names[0]}" is unknown and was ignored; the nearest known words are {", ".join(known)}')
    return replace(words, wanted=wanted), tuple(notes)


def _notes(words: Vocabulary, known: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Names that were mapped to another class of the detector."""
    notes, first = [], {}
    for names, own in zip(words.classes[: words.count], known, strict=False):
        own = tuple(own)
        if own and not {name.casefold() for name in names} & set(own):
            notes.append(f'the detector knows "{names[0]}" as {", ".join(own)}')
        if own and own in first:
            notes.append(
                f'"{first[own]}" and "{names[0]}" are one class of the detector: merge as "{first[own]}|{names[0]}"'
            )
        elif own:
            first[own] = names[0]
    return tuple(notes)
