"""Phrase grounding: from words to instances in each view, to objects of the scene, to the one a phrase refers to.

Colour words are measured on pixels, since text encoders are unreliable for them. All other words are localised by the
text encoder or a detector and segmented view by view. Each object is verified on crops of its best views.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from nbhelpers import clip_guided
from nbhelpers.clip_guided.detection import choose_detector
from nbhelpers.clip_guided.selection import MIN_CROP_PROBABILITY, classify_crop
from nbhelpers.clip_guided.values import numbered, prepare_vocabulary
from nbhelpers.core.masks import box_of, components, deepest_points, distinct, encode_rle, intersections, iou, tight_box
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.scenes import Scene
from nbhelpers.core.vocabulary import root
from nbhelpers.models.protocols import Detector, FeatureSegmenter, ImageTextEncoder, Segmenter, TextEncoder
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.multiview.association import (
    SceneObject,
    ViewInstance,
    group_instances,
    make_object,
    merge_duplicates,
    remove_contained_objects,
)
from nbhelpers.multiview.referring import Phrase
from nbhelpers.multiview.relations import (
    ObjectExtent,
    ReferenceCandidate,
    ReferenceResolution,
    ViewerFrame,
    resolve_reference,
    shrink_mask,
)
from nbhelpers.multiview.views import Photos, Progress

log = logging.getLogger(__name__)

REGION_LEVELS = (0.5, 0.75)  # thresholds of the probability map
MAX_REGIONS = 3  # for each level
MIN_REGION_AREA = 2e-3  # of the image
MIN_INSIDE = 0.6  # fraction of a mask inside a larger one, from which it is a part of it
MIN_PROPOSAL_AGREEMENT = 0.45  # from which a box proposal is kept
COMPARED_SIDE = 320  # pixels of the longer side at which masks and maps are compared
IOU_SAME_OBJECT = 0.5  # of a mask with the prediction for its box
MIN_NOUN_PROBABILITY = 0.5  # peak of a noun's probability map from which a view shows it
SIMILARITY_QUANTILE = 0.99  # of a noun's probability map: the similarity of a view to it
MIN_INSTANCE_AREA = 5e-4  # of the image
MAX_WEAK_SUPPORT = 0.75  # of the main component's mean probability: a less probable component is another object,
MIN_WEAK_FRACTION = 0.1  # if it has at least this fraction of the mask's area
PROPOSAL_GRID = 12  # points across the image that prompt for generic objects
MIN_PROPOSAL_SCORE = 0.75  # predicted IoU of a generic object
PROPOSAL_AREA_RANGE = (0.002, 0.3)  # of the image
IOU_SAME_PROPOSAL = 0.5  # from which two such masks are one object
MAX_VERIFIED = 6  # objects of each noun, the most confident first
VERIFIED_VIEWS = 3  # of each object; each costs one run of the text encoder
MIN_VERIFIED = 0.35  # probability of the noun for an object in one view; in n views, divided by the root of n
MAX_SEARCHED_VIEWS = 12  # for the words; the object found is then segmented in all views
IOU_KNOWN_OBJECT = 0.5  # from which a generic object is one that another noun found
MIN_COLOUR_FRACTION = 0.35  # of an object's pixels; the rest is shade, edge and print
HUES = {  # in OpenCV's half degrees, both ends included
    "red": ((0, 8), (170, 180)),
    "orange": ((7, 20),),
    "yellow": ((19, 35),),
    "green": ((34, 88),),
    "blue": ((86, 132),),
    "purple": ((128, 160),),
    "pink": ((0, 14), (140, 180)),
    "brown": ((3, 22),),
}
SYNONYMS = {
    "violet": "purple", "lilac": "purple", "rose": "pink", "magenta": "pink", "gray": "grey", "silver": "grey",
    "golden": "yellow", "turquoise": "blue", "cyan": "blue", "beige": "brown", "crimson": "red", "scarlet": "red",
}  # fmt: skip
COLOUR_WORDS = frozenset((*HUES, *SYNONYMS, "black", "white", "grey"))


def split_colours(noun: str) -> tuple[str, tuple[str, ...]]:
    """Split a noun phrase into the part without colour words, and the colour words.

    Example:
        >>> split_colours("dark red chair"), split_colours("orange")
        (('dark chair', ('red',)), ('orange', ()))
    """
    words = noun.split()
    colours = tuple(word.casefold() for word in words[:-1] if word.casefold() in COLOUR_WORDS)
    return " ".join([*(word for word in words[:-1] if word.casefold() not in COLOUR_WORDS), words[-1]]), colours


def colour_fraction(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], colour: str) -> float:
    """Fraction of a mask's pixels of one colour, by ranges of hue, saturation and value.

    Args:
        image: RGB.
        mask: of the object.
        colour: one of `COLOUR_WORDS`.
    """
    if not mask.any():
        return 0.0
    colour = SYNONYMS.get(colour.casefold(), colour.casefold())
    hue, saturation, value = cv2.cvtColor(image[mask][None], cv2.COLOR_RGB2HSV)[0].astype(int).T
    match colour:
        case "black":
            return float((value < 70).mean())
        case "white":
            return float(((value > 170) & (saturation < 50)).mean())
        case "grey":
            return float(((value >= 60) & (value <= 200) & (saturation < 50)).mean())
    inside = np.any([(hue >= low) & (hue <= high) for low, high in HUES[colour]], axis=0)
    match colour:
        case "red":
            inside &= (saturation >= 110) & (value >= 45)
        case "pink":
            inside &= (saturation >= 40) & (saturation < 170) & (value > 120)
        case "brown":
            inside &= (saturation >= 50) & (value < 190)
        case "orange":
            inside &= (saturation >= 110) & (value > 130)
        case _:
            inside &= (saturation >= 70) & (value >= 45)
    return float(inside.mean())


def colour_match(image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], colours: tuple[str, ...]) -> float:
    """How well an object matches colour words, 0.05 to 1; 1 without colour words."""
    return float(
        np.prod(
            [min(1.0, max(0.05, colour_fraction(image, mask, colour) / MIN_COLOUR_FRACTION)) for colour in colours]
            or [1.0]
        )
    )


def box_proposals(
    segmenter: Segmenter, embedding: Embedding, probability: Float32[np.ndarray, "h w"]
) -> list[tuple[Bool[np.ndarray, "H W"], float]]:
    """Masks of whole objects from boxes around the regions of a word, each with its confidence, without duplicates.

    Point prompts tend to select regions of uniform colour, so an object of many parts is split. The box of a region
    selects the whole. The probability map decides between the two, see `merge_proposals`.

    Args:
        segmenter: predicts masks from boxes.
        embedding: of the photo.
        probability: of the word, ``(h, w)``, coarser than the photo.
    """
    height, width = embedding.size
    scale = min(1.0, COMPARED_SIDE / max(height, width))
    grid = max(1, round(height * scale)), max(1, round(width * scale))
    plane = cv2.resize(probability, grid[::-1], interpolation=cv2.INTER_LINEAR)
    found = []
    for level in REGION_LEVELS:
        parts = components(plane >= level, MIN_REGION_AREA * plane.size)
        for number in range(1, min(MAX_REGIONS, int(parts.max(initial=0))) + 1):
            region = parts == number
            x0, y0, x1, y1 = tight_box(region)
            box = np.array([x0, y0, x1, y1]) / scale
            points = (deepest_points(region, 0.25 * max(x1 - x0, y1 - y0), 3) + 0.5) / scale - 0.5
            for prompt in (Prompt(box=box), Prompt(points, np.ones(len(points), int), box)):
                prediction = segmenter.predict(embedding, prompt)
                for index in range(len(prediction)):
                    found.append(_scored_mask(prediction, index, plane, region, grid))
    kept: list[tuple[np.ndarray, float, Prediction, int]] = []
    for small, score, prediction, index in sorted(found, key=lambda each: -each[1]):
        if score < MIN_PROPOSAL_AGREEMENT:
            break
        if all(np.count_nonzero(small & other) < MIN_INSIDE * min(small.sum(), other.sum()) for other, *_ in kept):
            kept.append((small, score, prediction, index))
    return [(prediction.mask(index), float(np.sqrt(score))) for _, score, prediction, index in kept]


def _scored_mask(
    prediction: Prediction, index: int, plane: np.ndarray, region: np.ndarray, grid: tuple[int, int]
) -> tuple[np.ndarray, float, Prediction, int]:
    """A mask on the grid, and its score: predicted IoU times its F1 score with the region.

    Precision and recall are weighted with the probability of the word.
    """
    height, width = round(prediction.extent[0]), round(prediction.extent[1])
    logits = np.ascontiguousarray(prediction.logits[index, :height, :width], np.float32)
    small = cv2.resize(logits, grid[::-1], interpolation=cv2.INTER_LINEAR) > 0
    precision = float(plane[small].mean()) if small.any() else 0.0
    recall = float((plane * (small & region)).sum() / max(float((plane * region).sum()), 1e-9))
    agreement = 2 * precision * recall / max(precision + recall, 1e-9)
    return small, float(prediction.scores[index]) * agreement, prediction, index


def segment_by_box(
    segmenter: Segmenter, embedding: Embedding, mask: Bool[np.ndarray, "H W"]
) -> Bool[np.ndarray, "H W"]:
    """The segmenter's prediction for the box of a mask if it is the same object, else the mask.

    A mask found by a word may be biased: of a yellow tractor it covers the yellow parts, of a lake also the shore. Its
    box selects the object itself.

    Args:
        segmenter: predicts masks from boxes.
        embedding: of the photo.
        mask: not empty.
    """
    whole = segmenter.predict(embedding, Prompt(box=box_of(mask))).best
    return whole if iou(whole, mask) >= IOU_SAME_OBJECT else mask


def merge_proposals(
    found: list[tuple[np.ndarray, float]], larger: list[tuple[np.ndarray, float]]
) -> list[tuple[np.ndarray, float]]:
    """The box proposals, and those of the other masks that are not mostly inside one of them.

    Args:
        found: masks and confidences from point prompts.
        larger: those of `box_proposals`.
    """
    out = list(larger)
    for mask, confidence in found:
        size = max(1, np.count_nonzero(mask))
        if all(np.count_nonzero(mask & whole) < MIN_INSIDE * size for whole, _ in larger):
            out.append((mask, confidence))
    return out


SURROUNDINGS = (
    ("wall", "ceiling"), ("floor", "ground"), ("sky", "cloud"), ("tree",), ("water",), ("backdrop",),
)  # fmt: skip
"""Background classes that compete with the nouns: few and broad, since each one takes pixels from unusual nouns."""

GROUNDING_SETTINGS = clip_guided.ClipGuidedSettings(
    min_confidence=0.5, lower=False, max_prompts=16, rounds=1, verify_crops=False, surroundings=False
)


@dataclass(frozen=True, eq=False)
class NounQueries:
    """The nouns of a phrase as queries for a text encoder.

    Attributes:
        names: noun phrases in the order of the phrase, without duplicates and generic ones.
        heads: the names without colour words: the queries.
        colours: colour words of each.
    """

    names: tuple[str, ...]
    heads: tuple[str, ...]
    colours: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, phrase: Phrase) -> NounQueries:
        """The nouns of a phrase and all its subphrases."""
        names = tuple(dict.fromkeys(each.noun for each in phrase.subphrases() if not each.is_generic))
        parts = [split_colours(noun) for noun in names]
        return cls(names, tuple(head for head, _ in parts), tuple(colours for _, colours in parts))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The heads without duplicates."""
        return tuple(dict.fromkeys(head.casefold() for head in self.heads))

    @property
    def settings(self) -> clip_guided.ClipGuidedSettings:
        """Settings of the search in one view, without surroundings that are among the nouns."""
        have = {root(word) for head in self.heads for word in (head, head.split()[-1])}
        groups = [tuple(name for name in group if root(name) not in have) for group in SURROUNDINGS]
        return replace(GROUNDING_SETTINGS, exclude=tuple("|".join(group) for group in groups if group))


def detect_nouns(
    photos: Photos,
    view: int,
    nouns: NounQueries,
    text_encoder: TextEncoder,
    scene: Scene | None,
    detector: Detector | None = None,
) -> tuple[tuple[float, ...], list[ViewInstance]]:
    """Find the nouns in one view.

    Args:
        photos: of the scene.
        view: number of the photo.
        nouns: the queries.
        text_encoder: localises them.
        scene: for the points inside each mask; may be None.
        detector: finds instances of the nouns that it knows, with masks of its own if it has them (SAM 3); by default
            that of `nbhelpers.load` for text encoders of the lite set, none for others.

    Returns:
        The similarity of the view to each noun, and the instances of those that it shows. The similarity is the cosine
        of the whole photo if the encoder provides one (CLIP), else the noun's peak probability, 0 to 1.
    """
    if not nouns.names:
        return (), []
    image = photos.image(view)
    settings = replace(nouns.settings, min_region_size=max(50.0, MIN_INSTANCE_AREA * image.shape[0] * image.shape[1]))
    detector, _ = choose_detector(detector, text_encoder.name, settings)
    if detector is None or not any(detector.classes(nouns.vocabulary)):
        settings = replace(settings, detect=False)  # a detector that knows none of the nouns only adds rivals
    result = clip_guided.segment(
        image, nouns.vocabulary, settings=settings, segmenter=photos.segmenter, text_encoder=text_encoder,
        detector=detector, embedding=photos.embedding(view),
    )  # fmt: skip
    planes = result.class_map.probabilities
    class_ids, confidences = result.instances.class_id, result.instances.confidence
    assert class_ids is not None and confidences is not None
    peaks = {name: float(np.quantile(planes[i], SIMILARITY_QUANTILE)) for i, name in enumerate(nouns.vocabulary)}
    found_by = result.instances.data.get("evidence", np.empty(0, str))  # absent if nothing was found
    for class_id in np.unique(class_ids[found_by != "text"]).tolist():
        peaks[nouns.vocabulary[class_id]] = 1.0  # a detector found it, however small it is
    if isinstance(text_encoder, ImageTextEncoder):
        peaks = dict(zip(nouns.vocabulary, text_encoder.similarity(image, nouns.vocabulary).tolist(), strict=True))
    least = similarity_threshold(text_encoder)
    similarity = tuple(peaks[head.casefold()] for head in nouns.heads)
    if max(similarity) < least:
        return similarity, []
    found = []
    for noun, head in enumerate(nouns.heads):
        if similarity[noun] < least:
            continue
        class_id = nouns.vocabulary.index(head.casefold())
        own = np.flatnonzero(class_ids == class_id).tolist()
        parts = [(result.instance_map == number, float(confidences[number])) for number in own]
        if detected := [part for part, number in zip(parts, own, strict=True) if found_by[number] != "text"]:
            for mask, confidence in detected:
                colour = colour_match(image, mask, nouns.colours[noun])
                found.append(make_instance(photos, scene, view, mask, noun, confidence, colour, detected=True))
            continue
        larger = box_proposals(photos.segmenter, photos.embedding(view), planes[class_id])
        probability = cv2.resize(planes[class_id], image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        for whole, score in merge_proposals(parts, larger):
            for number, mask in enumerate(split_by_probability(whole, probability)):
                confidence = min(score, float(probability[mask].mean())) if number else score
                if number and confidence < settings.min_confidence:
                    continue
                colour = colour_match(image, mask, nouns.colours[noun])
                found.append(make_instance(photos, scene, view, mask, noun, confidence, colour))
    return similarity, found


def split_by_probability(
    region: Bool[np.ndarray, "h w"], support: Float[np.ndarray, "h w"]
) -> list[Bool[np.ndarray, "h w"]]:
    """Split a mask into objects: its main component and similar ones, then each large component of lower probability.

    A large mask may merge water and a white sky; the word is more probable in one of them.

    Args:
        region: the mask.
        support: probability of the word at each pixel; the component with the largest sum is the main one.
    """
    labels = components(region, MIN_WEAK_FRACTION * np.count_nonzero(region))
    count = int(labels.max(initial=0))
    if count < 2:
        return [region]
    sums, sizes = np.bincount(labels.ravel(), support.ravel(), count + 1)[1:], np.bincount(labels.ravel())[1:]
    means = sums / sizes
    others = 1 + np.flatnonzero(means < MAX_WEAK_SUPPORT * means[sums.argmax()])
    return [region & ~np.isin(labels, others), *(labels == other for other in others)]


def similarity_threshold(text_encoder: TextEncoder) -> float:
    """Similarity from which a view shows a noun: the encoder's cosine for whole photos, else `MIN_NOUN_PROBABILITY`."""
    return text_encoder.shows if isinstance(text_encoder, ImageTextEncoder) else MIN_NOUN_PROBABILITY


def propose_objects(photos: Photos, view: int, scene: Scene | None) -> list[ViewInstance]:
    """Propose generic objects in one view: confident masks of a grid of points, without duplicates.

    Masks that are large, tiny or touch two edges of the image are dropped: they are ground, wall or sky.
    """
    height, width = photos.size(view)
    down = max(1, round(PROPOSAL_GRID * height / width))
    x, y = np.meshgrid(
        (np.arange(PROPOSAL_GRID) + 0.5) * width / PROPOSAL_GRID, (np.arange(down) + 0.5) * height / down
    )
    prediction = photos.segmenter.predict_points(photos.embedding(view), np.stack([x.ravel(), y.ravel()], 1) - 0.5)
    small = prediction.logits > 0
    edges = [(small[:, 0] > 0).any(1), (small[:, :, 0] > 0).any(1)]
    last = round(prediction.extent[0]) - 1, round(prediction.extent[1]) - 1
    edges += [small[:, last[0]].any(1), small[:, :, last[1]].any(1)]
    fraction = small.mean((1, 2)) * small[0].size / (prediction.extent[0] * prediction.extent[1])
    good = (
        (prediction.scores > MIN_PROPOSAL_SCORE)
        & (fraction >= PROPOSAL_AREA_RANGE[0])
        & (fraction <= PROPOSAL_AREA_RANGE[1])
    )
    good &= np.sum(edges, axis=0) < 2
    kept = np.flatnonzero(good)
    if not len(kept):
        return []
    first = distinct(intersections(small[kept]), prediction.scores[kept], IOU_SAME_PROPOSAL)
    kept = kept[np.unique(first)]
    touching = np.sum(edges, axis=0)
    return [
        make_instance(
            photos, scene, view, prediction.mask(i), -1, float(prediction.scores[i]) * 0.5 ** touching[i], 1.0
        )
        for i in kept.tolist()
    ]


def make_instance(
    photos: Photos,
    scene: Scene | None,
    view: int,
    mask: Bool[np.ndarray, "h w"],
    noun: int,
    confidence: float,
    colour_match: float,
    detected: bool = False,
) -> ViewInstance:
    """A `ViewInstance` with the scene's points inside its mask and its mean feature."""
    points = np.empty(0, np.int64)
    if scene is not None:
        numbers, pixels = scene.seen(view)
        columns, rows = np.round(pixels).astype(int).reshape(-1, 2).T
        inside = (columns >= 0) & (rows >= 0) & (columns < mask.shape[1]) & (rows < mask.shape[0])
        inside[inside] = mask[rows[inside], columns[inside]]
        points = np.unique(numbers[inside])
    feature = _mean_feature(photos, view, mask)
    return ViewInstance(noun, view, encode_rle(mask), confidence, colour_match, points, feature, detected)


def _mean_feature(photos: Photos, view: int, mask: np.ndarray) -> Float[np.ndarray, " d"] | None:
    """Mean of the image embedding inside a mask, less the mean of the view, of length 1."""
    if not isinstance(photos.segmenter, FeatureSegmenter):
        return None
    tokens = photos.segmenter.features(photos.embedding(view)).permute(2, 0, 1).cpu().numpy()
    weight = cv2.resize(mask.astype(np.float32), tokens.shape[:0:-1], interpolation=cv2.INTER_AREA)
    inside = (tokens * weight).sum((1, 2)) / max(float(weight.sum()), 1e-6) - tokens.mean((1, 2))
    return inside / max(float(np.linalg.norm(inside)), 1e-9)


def views_to_search(count: int, reference: int, most: int) -> Sequence[int]:
    """At most ``most`` evenly spaced views, including the reference view."""
    if count <= most:
        return range(count)
    chosen = np.unique(np.round(np.linspace(0, count - 1, most)).astype(int))
    chosen[np.abs(chosen - reference).argmin()] = reference
    return sorted(set(chosen.tolist()))


def verify_objects(
    photos: Photos, objects: Sequence[SceneObject], nouns: NounQueries, text_encoder: TextEncoder
) -> tuple[list[SceneObject], list[str]]:
    """Crop verification: keep the objects that still match their noun in crops of their best views.

    The mean probability in the crops, their surroundings blurred, is multiplied with that of the whole photos.

    Returns:
        The `MAX_VERIFIED` most confident objects with their confidence from both, the view that matches best first, and
        a note on rejected ones.
    """
    names = prepare_vocabulary(nouns.vocabulary, None, nouns.settings).classes if nouns.names else ()
    order = sorted(range(len(objects)), key=lambda n: -objects[n].confidence * _support(objects[n]))
    order = [
        n for noun in range(len(nouns.names)) for n in [m for m in order if objects[m].noun == noun][:MAX_VERIFIED]
    ]
    kept: dict[int, SceneObject] = {}
    rejected = []
    for number in order:
        obj = objects[number]
        if any(each.detected for each in obj.instances.values()):
            kept[number] = obj
            continue
        own = nouns.vocabulary.index(nouns.heads[obj.noun].casefold())
        first = np.full(len(names), (1 - obj.confidence) / max(1, len(names) - 1))
        first[own] = obj.confidence
        first = np.maximum(first, MIN_CROP_PROBABILITY)
        second = {
            view: classify_crop(photos.image(view), obj.instances[view].mask, names, text_encoder)
            for view in [*obj.instances][:VERIFIED_VIEWS]
        }
        second = {view: np.maximum(each, MIN_CROP_PROBABILITY) for view, each in second.items()}
        probability = _normalized(first * np.mean([*second.values()], axis=0))[own]
        if probability < MIN_VERIFIED / np.sqrt(len(obj.instances)):
            rejected.append(obj.name)
            continue
        fit = {view: _normalized(first * each)[own] * obj.instances[view].confidence for view, each in second.items()}
        views = [*sorted(fit, key=fit.__getitem__, reverse=True), *(view for view in obj.instances if view not in fit)]
        confidence = float(np.sqrt(probability * obj.confidence))
        kept[number] = replace(obj, instances={view: obj.instances[view] for view in views}, confidence=confidence)
    dropped = len(objects) - len(kept)
    return list(kept.values()), [f"{dropped} regions failed crop verification"] if rejected else []


def _normalized(values: np.ndarray) -> np.ndarray:
    """Values divided by their sum."""
    return values / values.sum()


def _support(obj: SceneObject) -> float:
    """Support of an object apart from its word: the number of views that show it, and its size there."""
    area = np.mean([each.mask.mean() for each in obj.instances.values()])
    return len(obj.instances) * float(area**0.25)


@dataclass(frozen=True, eq=False)
class PhraseGrounding:
    """The objects found for a phrase, and the one that it refers to.

    Attributes:
        resolution: the ranking of candidates, whether it is decided, and why.
        objects: all objects found, those of the first noun first.
        similarity: ``(v, n)`` of each view to each noun, 0 to 1; NaN for views that were not searched.
        nouns: the ``n`` nouns, without generic ones.
        frame: of the viewer that defines left and right.
        notes: messages for the user.
    """

    resolution: ReferenceResolution
    objects: tuple[SceneObject, ...]
    similarity: Float[np.ndarray, "v n"] = field(repr=False)
    nouns: tuple[str, ...]
    frame: ViewerFrame = field(repr=False)
    notes: tuple[str, ...]

    @property
    def target(self) -> SceneObject | None:
        """The object that the phrase refers to, or the best guess; None if nothing was found."""
        best = self.resolution.best
        return None if best is None else self.objects[best.number]

    @property
    def references(self) -> tuple[SceneObject, ...]:
        """The landmarks of the target's relations."""
        if not self.resolution.ranking:
            return ()
        numbers = [n for score in self.resolution.ranking[0].relation_scores for n in score.references]
        return tuple(self.objects[n] for n in dict.fromkeys(numbers))


def ground_phrase(
    photos: Photos,
    phrase: Phrase,
    text_encoder: TextEncoder,
    scene: Scene | None = None,
    reference: int | None = None,
    progress: Progress | None = None,
    detector: Detector | None = None,
) -> PhraseGrounding:
    """Find the object that a phrase refers to.

    Args:
        photos: of one scene.
        phrase: see `nbhelpers.multiview.referring.parse_phrase`.
        text_encoder: localises the nouns in each view.
        scene: cameras and points; without it relations are measured in the image of the reference view.
        reference: the view that defines left and right; by default the first with a camera.
        progress: called with finished steps, total steps and a description.
        detector: see `detect_nouns`.
    """
    reference = default_view(scene, photos) if reference is None else photos.check(reference)
    frame = ViewerFrame(scene, reference)
    nouns = NounQueries.of(phrase)
    views = views_to_search(len(photos), reference, MAX_SEARCHED_VIEWS)
    report = progress or (lambda done, steps, what: None)
    steps = len(views) + 1
    similarity = np.full((len(photos), len(nouns.names)), np.nan)
    instances = []
    for step, view in enumerate(views):
        report(step, steps, f"searching {photos.names[view]}")
        similarity[view], found = detect_nouns(photos, view, nouns, text_encoder, scene, detector)
        instances += found
    objects = _associate(instances, nouns.names, scene, reference)
    report(len(views), steps, "verifying each object")
    objects, rejected = verify_objects(photos, objects, nouns, text_encoder)
    objects = _renumbered(merge_duplicates(objects, scene, reference), nouns.names)
    pools = {noun: [n for n, each in enumerate(objects) if each.noun == k] for k, noun in enumerate(nouns.names)}
    if generic := list(dict.fromkeys(each.noun for each in phrase.subphrases() if each.is_generic)):
        report(len(views), steps, f'looking for any "{generic[0]}"')
        known = [n for n, each in enumerate(objects) if reference in each.instances]
        more = _unnamed_objects(photos, objects, generic[0], scene, reference)
        pool = [*known, *range(len(objects), len(objects) + len(more))] or list(range(len(objects)))
        objects += more
        pools |= dict.fromkeys(generic, pool)  # each generic noun may mean any object
    notes = [*phrase.notes, frame.note, *rejected, *_missing_notes(nouns.names, pools, similarity, text_encoder)]
    extents = [_extent(frame, each, reference, bool(phrase.relations)) for each in objects]
    candidates = {}
    for noun in dict.fromkeys(each.noun for each in phrase.subphrases()):
        candidates[noun] = [
            ReferenceCandidate(n, objects[n].name, extent, objects[n].confidence, _support(objects[n]))
            for n in pools[noun]
            if (extent := extents[n]) is not None
        ]
        if lost := [objects[n].name for n in pools[noun] if extents[n] is None]:
            notes.append(f"no position is known relative to view {reference}: {', '.join(lost)}")
    resolution = resolve_reference(phrase, candidates)
    log.info("%s; %s", phrase.understood, resolution.why)
    return PhraseGrounding(resolution, tuple(objects), similarity, nouns.names, frame, tuple(dict.fromkeys(notes)))


def default_view(scene: Scene | None, photos: Photos) -> int:
    """The first view that has a camera, else the first."""
    return int(np.argmax(scene.placed)) if scene is not None and scene.placed.any() else photos.check(0)


def _associate(
    instances: Sequence[ViewInstance], nouns: Sequence[str], scene: Scene | None, reference: int
) -> list[SceneObject]:
    """The objects of each noun, without those that are contained in another one."""
    out = []
    for number, noun in enumerate(nouns):
        own = [each for each in instances if each.noun == number]
        groups = sorted(group_instances(own, scene), key=lambda group: -sum(each.confidence for each in group))
        names = numbered([noun] * len(groups))
        every = [make_object(name, group, scene, reference) for name, group in zip(names, groups, strict=True)]
        out += remove_contained_objects(every, scene)
    return out


def _unnamed_objects(
    photos: Photos, objects: Sequence[SceneObject], noun: str, scene: Scene | None, reference: int
) -> list[SceneObject]:
    """Objects of the reference view that no other noun of the phrase found."""
    rest = [each for each in propose_objects(photos, reference, scene) if not _is_known(each, objects)]
    return [make_object(f"{noun} {number}", [each], scene, reference) for number, each in enumerate(rest, 1)]


def _missing_notes(
    nouns: Sequence[str], pools: Mapping[str, Sequence[int]], similarity: np.ndarray, text_encoder: TextEncoder
) -> list[str]:
    """A message for each noun without an object."""
    notes = []
    for number, noun in enumerate(nouns):
        if pools[noun]:
            continue
        best, least = np.nanmax(similarity[:, number]), similarity_threshold(text_encoder)
        how = f"no view matches it: {best:.2f} at most, minimum {least}"
        if best >= least:
            how = "its candidates failed crop verification"
        notes.append(f'"{noun}" was not found by {text_encoder.name}: {how}; try another word, or click it')
    return notes


def _renumbered(objects: list[SceneObject], nouns: tuple[str, ...]) -> list[SceneObject]:
    """Each noun's objects renumbered, the most confident first."""
    ordered = sorted(objects, key=lambda each: (each.noun, -each.confidence))
    names = numbered([nouns[each.noun] for each in ordered])
    return [replace(each, name=name) for each, name in zip(ordered, names, strict=True)]


def _is_known(instance: ViewInstance, objects: Sequence[SceneObject]) -> bool:
    """Whether an instance is the mask of a known object in the same view."""
    view, mask = instance.view, instance.mask
    return any(view in each.instances and iou(mask, each.instances[view].mask) >= IOU_KNOWN_OBJECT for each in objects)


def _extent(frame: ViewerFrame, obj: SceneObject, view: int, placed: bool) -> ObjectExtent | None:
    """Extent of an object in 3D, or without a camera in the image.

    None if it is not known there; if it need not be ``placed`` relative to the view, that in the image of another one.
    """
    extent = None if frame.flat else frame.extent(obj.xyz)
    mask = obj.mask(view) if frame.flat else None
    if not placed and extent is None and mask is None:
        mask = obj.mask(obj.best_view)
    return extent if mask is None else frame.outline(shrink_mask(mask))
