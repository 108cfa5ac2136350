"""Dense ConSE: ImageNet classes at each place of a photo, carried to any name by the meaning of words.

Norouzi et al. 2014, arXiv 1312.5650 (convex combination of semantic embeddings), made dense and turned around: where
they embed the photo and look for the nearest name, each name here collects the ImageNet classes that mean nearly
the same. It knows what 1000 classes and 90 MB of sentence meaning know; CLIP knows far more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from nbhelpers.core.vocabulary import is_stuff
from nbhelpers.models.dense import as_classes
from nbhelpers.models.imagenet import STRIDE, DenseClassifier, class_texts
from nbhelpers.models.minilm import SentenceEncoder
from nbhelpers.models.values import ClassMap

PEAK = 0.99  # quantile over the photo that counts as the best score, so that a stray place does not

# What ImageNet lacks, said in words that it has: (names, what to look for instead). A name is helped by
# the row whose names it is closest to, if close enough. Written down from what the 1000 classes are,
# and checked on COCO train photos.
HINTS = (
    (
        ("person", "people", "man", "woman", "child", "human"),
        ("clothing", "hat", "hair", "garment worn by a person"),
    ),
    (("bicycle", "bike"), ("mountain bike", "bicycle-built-for-two")),
    (("motorbike", "motorcycle"), ("moped", "motor scooter", "mountain bike", "bicycle-built-for-two")),
    (("cow", "cattle", "bull"), ("ox", "water buffalo")),
    (("face", "head", "hand", "skin"), ("face powder", "lipstick", "wig", "sunglasses", "Band Aid")),
    (("sky", "cloud"), ("parachute", "airship", "kite", "flagpole", "wing of an airplane")),
    (("tree", "forest", "bush"), ("greenhouse", "lakeside", "maze", "birdhouse", "park bench")),
    (("grass", "lawn", "field"), ("lawn mower", "hay", "rapeseed", "croquet ball")),
    (("road", "street", "pavement"), ("street sign", "parking meter", "manhole cover", "traffic light", "cab")),
    (("water", "sea", "lake", "river"), ("lakeside", "seashore", "sandbar", "breakwater", "dock")),
    (("wall", "floor", "ceiling"), ("window shade", "sliding door", "wall clock", "doormat", "stone wall")),
    (
        ("background",),
        ("window shade", "stone wall", "lakeside", "seashore", "valley", "street sign", "hay", "velvet", "maze"),
    ),
)


@dataclass(frozen=True)
class ConseSettings:
    """Constants of the recipe, chosen by reasoning and on COCO train photos.

    Attributes:
        scales: longer sides in pixels at which the photo is looked at.
        flip: also look at its mirror image.
        templates: what a name is put into; the embeddings are averaged.
        looks: share of a class's likeness to a name that comes from its `neighbours` classes of like looks, which
            corrects words that mislead: an Old English sheepdog looks like dogs.
        neighbours: how many they are.
        unlike: likeness under which an ImageNet class says nothing about a name.
        sharpness: how much a less similar class counts less: weight ``exp(sharpness * (likeness - best))``.
        rivalry: how strongly a class that fits another asked name better is taken from this one.
        prior: power of its sum by which a name's row is divided: 1 makes names that many classes mean equal to names
            that few mean, 0 leaves them their advantage.
        presence: power of a name's mean over the photo by which its score is multiplied; 0 for none.
        floor: score of a name where no class speaks for it.
        rest: where things reach less than this share of their best score in the photo, stuff (sky, wall, background)
            wins, if any is asked: ImageNet has hardly any, and its classes fire around an object too. As class
            activation maps are cut, there at 0.2 (arXiv 1512.04150, section 3.2).
        side: longer side of the answer.
        radius: of the guided filter that brings the answer to the photo's contours, in places of the answer; 0 for
            none.
        tolerance: variance of the photo's brightness, 0 to 1 squared, under which the filter smooths.
        near: cosine from which a name shares the hints of another.
    """

    scales: tuple[int, ...] = (320, 448, 640)
    flip: bool = True
    templates: tuple[str, ...] = ("{}", "a {}", "a photo of a {}")
    looks: float = 0.3
    neighbours: int = 5
    unlike: float = 0.35
    sharpness: float = 15.0
    rivalry: float = 10.0
    prior: float = 0.5
    presence: float = 1.0
    floor: float = 1e-5
    rest: float = 0.1
    side: int = 160
    radius: int = 4
    tolerance: float = 1e-3
    near: float = 0.7


class ConseTextEncoder:
    """Open-vocabulary dense prediction from an ImageNet classifier; a `nbhelpers.models.protocols.TextEncoder`.

    Example:
        >>> encoder = nbhelpers.load("text_encoder", "conse-lite")
        >>> encoder.dense(image, ["cat", ["grass", "lawn"]]).probabilities.shape      # (480, 640, 3) uint8
        (2, 120, 160)
        >>> encoder.explain(["cat"])["cat"][0]
        ('Egyptian cat', 0.28)

    Args:
        classifier: of ImageNet, without its pooling.
        sentences: gives unit vectors ``(n, d)`` for ``n`` sentences.
        settings: constants of the recipe.
        name: catalog name.
        device: where it computes; always the CPU.
    """

    def __init__(
        self,
        classifier: DenseClassifier,
        sentences: Callable[[Sequence[str]], Float32[np.ndarray, "n d"]],
        settings: ConseSettings | None = None,
        name: str = "conse-lite",
        device: str = "cpu",
    ):
        self.classifier, self.sentences = classifier, sentences
        self.settings = settings or ConseSettings()
        self.name, self.device = name, device
        self._vectors: dict[str, np.ndarray] = {}

    def dense(self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]]) -> ClassMap:
        """Probabilities over ``names``, at most `ConseSettings.side` on the longer side.

        Args:
            image: RGB of any size from 1 x 1.
            names: the vocabulary; a class may have several names, of which at each place the strongest counts.
                A single class has nothing to be compared with and is probable everywhere.

        Raises:
            NbHelpersError: no names, an empty one, or the same class twice.
        """
        groups = as_classes(names)
        carry = self.carry(groups)
        height, width = image.shape[:2]
        settings, shorter = self.settings, min(1.0, self.settings.side / max(height, width))
        grid = max(1, round(height * shorter)), max(1, round(width * shorter))
        scores = np.zeros((len(groups), *grid), np.float32)
        views = [(side, mirrored) for side in settings.scales for mirrored in (False, True)[: 1 + settings.flip]]
        bounds = np.cumsum([0] + [len(group) for group in groups])
        for side, mirrored in views:
            classes = self._classes(image, side, mirrored)
            found = (carry @ classes.reshape(len(classes), -1)).reshape(-1, *classes.shape[1:])
            for index, (start, stop) in enumerate(pairwise(bounds)):
                scores[index] += cv2.resize(found[start:stop].max(0), grid[::-1], interpolation=cv2.INTER_LINEAR)
        scores /= len(views)
        if settings.radius and min(grid) > 1:
            _follow_contours(scores, cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA), settings)
        scores += settings.floor
        scores *= scores.mean((1, 2), keepdims=True) ** settings.presence
        give_the_rest_to_stuff(scores, np.array([any(map(is_stuff, group)) for group in groups]), settings.rest)
        scores /= scores.sum(0)
        return ClassMap(scores, tuple(group[0] for group in groups), (height, width), self.name)

    def carry(self, groups: Sequence[Sequence[str]]) -> Float32[np.ndarray, "n c"]:
        """What each ImageNet class says for each name, all names of all classes in one row each.

        With `ConseSettings.prior` 1 a row sums to 1, so a name that many classes mean is not found more often for
        it: 118 of the 1000 classes are dogs, and without this division sheep and cows become dogs.
        """
        settings = self.settings
        alike = np.concatenate([self._alike(group) for group in groups])
        starts = np.cumsum([0] + [len(group) for group in groups[:-1]])
        best = alike.max(1, keepdims=True)
        weight = np.exp(settings.sharpness * (alike - best))
        weight[alike < np.minimum(settings.unlike, best)] = 0
        strongest = np.maximum.reduceat(alike, starts)  # of each class's names: synonyms are no rivals
        top = strongest.max(0)
        rivals = np.exp(settings.rivalry * (strongest - top)).sum(0)
        weight *= np.exp(settings.rivalry * (alike - top)) / rivals
        return (weight / weight.sum(1, keepdims=True) ** settings.prior).astype(np.float32)

    def explain(self, names: Sequence[str | Sequence[str]], top: int = 5) -> dict[str, list[tuple[str, float]]]:
        """For each name the ImageNet classes that stand for it in this vocabulary, with their weights, best first."""
        groups = as_classes(names)
        lemmas = class_texts()[0]
        flat = [name for group in groups for name in group]
        return {
            name: [(lemmas[i].split(",")[0], round(float(row[i] / row.sum()), 2)) for i in np.argsort(-row)[:top]]
            for name, row in zip(flat, self.carry(groups), strict=True)
        }

    @property
    def min_similarity(self) -> float:
        """Cosine with the nearest ImageNet class under which a name means nothing that the classifier knows."""
        return self.settings.unlike

    def nearest(self, name: str, count: int = 3) -> list[tuple[str, float]]:
        """The ImageNet classes that mean what a name means, with the cosine of each, the most similar first."""
        lemmas, alike = class_texts()[0], self._alike([name])[0]
        return [(lemmas[i].split(",")[0], float(alike[i])) for i in np.argsort(-alike, kind="stable")[:count]]

    @cached_property
    def _meanings(self) -> Float32[np.ndarray, "c d"]:
        """Vectors of the ImageNet classes, from lemma and definition; takes seconds, once."""
        return self.sentences([f"{lemma}: {text}" for lemma, text in zip(*class_texts(), strict=True)])

    def _alike(self, names: Sequence[str]) -> Float32[np.ndarray, "n c"]:
        """Likeness of each name, or of a better hint, to each ImageNet class: a cosine, evened out among lookalikes."""
        said = sum(self._embed(template.replace("{}", name) for name in names) for template in self.settings.templates)
        out = said / np.linalg.norm(said, axis=1, keepdims=True) @ self._meanings.T
        plain = self._embed(names)
        closeness = np.stack([(plain @ self._embed(keys).T).max(1) for keys, _ in HINTS])
        for index, (_, hints) in enumerate(HINTS):
            helped = (closeness.argmax(0) == index) & (closeness[index] >= self.settings.near)
            if helped.any():
                out[helped] = np.maximum(out[helped], (self._embed(hints) @ self._meanings.T).max(0))
        near, share = self._lookalikes
        return (1 - self.settings.looks) * out + self.settings.looks * np.einsum("nck,ck->nc", out[:, near], share)

    @cached_property
    def _lookalikes(self) -> tuple[Int[np.ndarray, "c k"], Float32[np.ndarray, "c k"]]:
        """The classes whose weights in the classifier's last layer are most like each class's, and their shares."""
        columns = self.classifier.weight / np.linalg.norm(self.classifier.weight, axis=0)
        cosine = columns.T @ columns
        np.fill_diagonal(cosine, -1)
        near = np.argsort(-cosine, axis=1)[:, : self.settings.neighbours]
        share = np.clip(np.take_along_axis(cosine, near, axis=1), 1e-3, None)
        return near, share / share.sum(1, keepdims=True)

    def _embed(self, sentences: Iterable[str]) -> Float32[np.ndarray, "n d"]:
        wanted = list(sentences)
        if fresh := list(dict.fromkeys(text for text in wanted if text not in self._vectors)):
            self._vectors.update(zip(fresh, self.sentences(fresh), strict=True))
        return np.stack([self._vectors[text] for text in wanted])

    def _classes(self, image: UInt8[np.ndarray, "H W 3"], side: int, mirrored: bool) -> Float32[np.ndarray, "c h w"]:
        """ImageNet probabilities at each place of the photo, seen with its longer side at ``side``."""
        scale = side / max(image.shape[:2]) / STRIDE
        size = tuple(max(1, round(length * scale)) * STRIDE for length in image.shape[:2])
        logits = self.classifier.logits(image, size, mirrored)
        logits -= logits.max(0)
        np.exp(logits, out=logits)
        logits /= logits.sum(0)
        return logits


def build(name: str, files: dict[str, Path], device: str) -> ConseTextEncoder:
    """Build an encoder from ``{"classifier", "text", "config", "tokenizer": path}``.

    Raises:
        NbHelpersError: a file that cannot be read, or holds another network.
    """
    sentences = SentenceEncoder.from_files(files["text"], files["config"], files["tokenizer"])
    return ConseTextEncoder(DenseClassifier.from_file(files["classifier"]), sentences, name=name)


def give_the_rest_to_stuff(scores: Float32[np.ndarray, "n h w"], stuff: Bool[np.ndarray, " n"], rest: float) -> None:
    """Raise the stuff classes together to ``rest`` times what the strongest thing of each place reaches, in place.

    What it reaches is the geometric mean of its own best score in the photo and the best of all things: by its own
    alone, a thing that is nowhere would win everywhere that nothing is; by the best of all, a weak thing would lose
    its place. Stuff shares the sum as its own scores are.
    """
    if stuff.any() and not stuff.all():
        things = scores[~stuff]
        best = np.quantile(things.reshape(len(things), -1), PEAK, axis=1)
        shares = scores[stuff] / scores[stuff].sum(0)
        scores[stuff] += rest * np.sqrt(best[things.argmax(0)] * best.max()) * shares


def _follow_contours(scores: Float32[np.ndarray, "n h w"], image: UInt8[np.ndarray, "h w 3"], settings) -> None:
    """Guided filter (He et al. 2013, doi 10.1109/TPAMI.2012.213, equations 5, 6 and 8), in place, class by class.

    In each window a score is fitted as a linear function of the photo's brightness, so it may jump only where the
    photo does.
    """
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255

    def mean(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        window = (2 * settings.radius + 1,) * 2
        return cv2.boxFilter(values, -1, window, borderType=cv2.BORDER_REFLECT)

    guide_mean = mean(guide)
    variance = mean(guide * guide) - guide_mean**2
    for score in scores:
        score_mean = mean(score)
        slope = (mean(guide * score) - guide_mean * score_mean) / (variance + settings.tolerance)
        score[:] = mean(slope) * guide + mean(score_mean - slope * guide_mean)
    np.clip(scores, 0, None, out=scores)
