"""What each view shows of the things that a phrase names: words to masks, view by view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from nbhelpers import clip_guided
from nbhelpers.core.masks import decode_rle, encode_rle
from nbhelpers.core.regions import distinct, intersections
from nbhelpers.core.scenes import Scene
from nbhelpers.core.vocabulary import root
from nbhelpers.models.protocols import FeatureSegmenter, ImageTextEncoder, TextEncoder
from nbhelpers.multiview.colours import likeness, split
from nbhelpers.multiview.parts import apart
from nbhelpers.multiview.phrases import Phrase
from nbhelpers.multiview.views import Photos
from nbhelpers.multiview.wholes import wholes, without_parts

SURROUNDINGS = (
    ("wall", "ceiling"), ("floor", "ground"), ("sky", "cloud"), ("tree",), ("water",), ("backdrop",),
)  # fmt: skip
"""What competes with the nouns: few and broad, since each further word takes pixels from unusual nouns."""

SHOWS = 0.5  # a noun's peak probability from which a view shows it: there it wins against the surroundings
PEAK = 0.99  # quantile of a noun's probability over a view that counts as its similarity
SETTINGS = clip_guided.ClipGuidedSettings(
    min_confidence=0.5, lower=False, max_prompts=16, rounds=1, verify_crops=False, surroundings=False
)
SMALLEST = 5e-4  # share of the picture
GRID = 12  # points across, where any object is looked for
ANY_SCORE = 0.75  # predicted IoU of a mask that may be any object
ANY_SHARE = (0.002, 0.3)  # of the picture, smallest and largest
ANY_SAME = 0.5  # IoU from which two such masks are one


@dataclass(frozen=True, eq=False)
class Instance:
    """A thing in one view.

    Attributes:
        noun: index of the noun that it answers to; -1 for any object.
        view: number of the view.
        rle: its mask.
        confidence: 0 to 1.
        colour: how well it answers to the noun's colour words, 0 to 1.
        points: numbers of the scene's points that were found inside.
        feature: mean of the segmenter's features inside, of length 1; None where the segmenter gives none.
    """

    noun: int
    view: int
    rle: Mapping[str, Any] = field(repr=False)
    confidence: float
    colour: float
    points: Int[np.ndarray, " n"] = field(repr=False)
    feature: Float[np.ndarray, " d"] | None = field(default=None, repr=False)
    detected: bool = False
    """Whether a detector found it, so that its noun needs no verification."""

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """At the view's size, made anew at each call."""
        return decode_rle(self.rle)


@dataclass(frozen=True, eq=False)
class Nouns:
    """The noun phrases of a phrase as they are asked of a text encoder.

    Attributes:
        asked: noun phrases in the order of the phrase, each once, without those that mean any object.
        heads: the same without colour words: what the text encoder is asked.
        colours: colour words of each.
    """

    asked: tuple[str, ...]
    heads: tuple[str, ...]
    colours: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, phrase: Phrase) -> Nouns:
        """Of a phrase and all that it names."""
        asked = tuple(dict.fromkeys(thing.noun for thing in phrase.things() if not thing.is_generic))
        parts = [split(noun) for noun in asked]
        return cls(asked, tuple(head for head, _ in parts), tuple(colours for _, colours in parts))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The different heads."""
        return tuple(dict.fromkeys(head.casefold() for head in self.heads))

    @property
    def settings(self) -> clip_guided.ClipGuidedSettings:
        """With the surroundings that are no noun themselves."""
        have = {root(word) for head in self.heads for word in (head, head.split()[-1])}
        groups = [tuple(name for name in group if root(name) not in have) for group in SURROUNDINGS]
        return replace(SETTINGS, exclude=tuple("|".join(group) for group in groups if group))


def look(
    photos: Photos, view: int, nouns: Nouns, text_encoder: TextEncoder, scene: Scene | None
) -> tuple[tuple[float, ...], list[Instance]]:
    """Find the nouns in one view.

    Args:
        photos: of the scene.
        view: number of the photo.
        nouns: what to look for.
        text_encoder: says where.
        scene: whose points are counted to the masks; may be None.

    Returns:
        The similarity of the view to each noun, and the instances of those that it shows. The similarity is the cosine
        of the whole photo where the encoder can tell it (CLIP), else the noun's peak probability, 0 to 1.
    """
    if not nouns.asked:
        return (), []
    image = photos.image(view)
    settings = replace(nouns.settings, min_region_size=max(50.0, SMALLEST * image.shape[0] * image.shape[1]))
    result = clip_guided.segment(
        image, nouns.vocabulary, settings=settings, segmenter=photos.segmenter, text_encoder=text_encoder,
        embedding=photos.embedding(view),
    )  # fmt: skip
    planes = result.class_map.probabilities
    peaks = {name: float(np.quantile(planes[i], PEAK)) for i, name in enumerate(nouns.vocabulary)}
    evidence = result.instances.data["evidence"]
    for class_id in np.unique(result.instances.class_id[evidence != "text"]).tolist():
        peaks[nouns.vocabulary[class_id]] = 1.0  # the detector saw it, however small it is
    if isinstance(text_encoder, ImageTextEncoder):
        peaks = dict(zip(nouns.vocabulary, text_encoder.similarity(image, nouns.vocabulary).tolist(), strict=True))
    least = shows(text_encoder)
    similarity = tuple(peaks[head.casefold()] for head in nouns.heads)
    if max(similarity) < least:
        return similarity, []
    found = []
    for noun, head in enumerate(nouns.heads):
        if similarity[noun] < least:
            continue
        class_id = nouns.vocabulary.index(head.casefold())
        own = np.flatnonzero(result.instances.class_id == class_id).tolist()
        parts = [(result.instance_map == number, float(result.instances.confidence[number])) for number in own]
        if detected := [part for part, number in zip(parts, own, strict=True) if evidence[number] != "text"]:
            for mask, worth in detected:
                colour = likeness(image, mask, nouns.colours[noun])
                found.append(instance(photos, scene, view, mask, noun, worth, colour, detected=True))
            continue
        larger = wholes(photos.segmenter, photos.embedding(view), planes[class_id])
        probability = cv2.resize(planes[class_id], image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        for whole, worth in without_parts(parts, larger):
            for number, mask in enumerate(apart(whole, probability)):
                confidence = min(worth, float(probability[mask].mean())) if number else worth
                if number and confidence < settings.min_confidence:
                    continue
                colour = likeness(image, mask, nouns.colours[noun])
                found.append(instance(photos, scene, view, mask, noun, confidence, colour))
    return similarity, found


def shows(text_encoder: TextEncoder) -> float:
    """Similarity from which a view shows a noun: a cosine where the encoder compares whole photos, else `SHOWS`."""
    return text_encoder.shows if isinstance(text_encoder, ImageTextEncoder) else SHOWS


def anything(photos: Photos, view: int, scene: Scene | None) -> list[Instance]:
    """What may be any object in a view: masks that the segmenter is sure of, on a grid of points, without repeats.

    What fills much of the picture, is tiny or touches two of its edges is left out: it is ground, wall or sky.
    """
    height, width = photos.size(view)
    down = max(1, round(GRID * height / width))
    x, y = np.meshgrid((np.arange(GRID) + 0.5) * width / GRID, (np.arange(down) + 0.5) * height / down)
    prediction = photos.segmenter.predict_points(photos.embedding(view), np.stack([x.ravel(), y.ravel()], 1) - 0.5)
    small = prediction.logits > 0
    edges = [(small[:, 0] > 0).any(1), (small[:, :, 0] > 0).any(1)]
    last = round(prediction.extent[0]) - 1, round(prediction.extent[1]) - 1
    edges += [small[:, last[0]].any(1), small[:, :, last[1]].any(1)]
    share = small.mean((1, 2)) * small[0].size / (prediction.extent[0] * prediction.extent[1])
    good = (prediction.scores > ANY_SCORE) & (share >= ANY_SHARE[0]) & (share <= ANY_SHARE[1])
    good &= np.sum(edges, axis=0) < 2
    kept = np.flatnonzero(good)
    if not len(kept):
        return []
    first = distinct(intersections(small[kept]), prediction.scores[kept], ANY_SAME)
    kept = kept[np.unique(first)]
    touching = np.sum(edges, axis=0)
    return [
        instance(photos, scene, view, prediction.mask(i), -1, float(prediction.scores[i]) * 0.5 ** touching[i], 1.0)
        for i in kept.tolist()
    ]


def instance(
    photos: Photos,
    scene: Scene | None,
    view: int,
    mask: Bool[np.ndarray, "h w"],
    noun: int,
    confidence: float,
    colour: float,
    detected: bool = False,
) -> Instance:
    """An `Instance` with the scene's points inside its mask and its mean feature."""
    points = np.empty(0, np.int64)
    if scene is not None:
        numbers, pixels = scene.seen(view)
        columns, rows = np.round(pixels).astype(int).reshape(-1, 2).T
        inside = (columns >= 0) & (rows >= 0) & (columns < mask.shape[1]) & (rows < mask.shape[0])
        inside[inside] = mask[rows[inside], columns[inside]]
        points = np.unique(numbers[inside])
    feature = _feature(photos, view, mask)
    return Instance(noun, view, encode_rle(mask), confidence, colour, points, feature, detected)


def _feature(photos: Photos, view: int, mask: np.ndarray) -> Float[np.ndarray, " d"] | None:
    """Mean of the image embedding inside a mask, with the view's own mean taken off, of length 1."""
    if not isinstance(photos.segmenter, FeatureSegmenter):
        return None
    tokens = photos.segmenter.features(photos.embedding(view)).permute(2, 0, 1).cpu().numpy()
    weight = cv2.resize(mask.astype(np.float32), tokens.shape[:0:-1], interpolation=cv2.INTER_AREA)
    inside = (tokens * weight).sum((1, 2)) / max(float(weight.sum()), 1e-6) - tokens.mean((1, 2))
    return inside / max(float(np.linalg.norm(inside)), 1e-9)


def views_to_look_at(count: int, reference: int, most: int) -> Sequence[int]:
    """At most ``most`` views, evenly spread, the reference view among them."""
    if count <= most:
        return range(count)
    chosen = np.unique(np.round(np.linspace(0, count - 1, most)).astype(int))
    chosen[np.abs(chosen - reference).argmin()] = reference
    return sorted(set(chosen.tolist()))
