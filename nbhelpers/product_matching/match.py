"""Scores and decisions: similarity of patches, penalties for colour and mirroring, and the calibrated threshold.

The similarity combines centred cosines (see `nbhelpers.product_matching.gallery`): the best match of each patch of a
proposal in the reference, the same in the other direction, and the cosine of the two foreground averages. Patches are
robust to occlusion and distinguish labels with similar averages (compare NOCTIS, Gandyra et al. 2025, arXiv
2507.01463). DINO's features are nearly invariant to colour, so the colours of matched patches are compared separately,
after equalising their brightness. A mirrored look-alike is more similar to the mirrored reference than to the
reference, by a larger margin than augmented views of the reference.

`calibrate` derives the threshold from the scores of a session, since no fixed threshold suits every product. Three
kinds of scores are known without labels. Scores of the references against each other and against augmented views of
themselves (rotated, smaller, darker, partly occluded) are those expected of matches; scores of the other objects in the
photos are background; and rejected detections must score below the threshold. The threshold lies between background and
expected matches, closer to the background, since augmented views are more similar to a reference than real matches.

The other objects also have a common component. The mean feature of whole photos
(`nbhelpers.product_matching.gallery.mean_feature`) is known before a search and guides it. After the search the
proposals that are not the product are known as well. They were cropped like the product and proposed for their
similarity to it, so their common component does not discriminate and is subtracted before scoring.

`rotation_similarity` and `background_similarity` compare features with pixels as measures of similarity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.device import multiply_by_onednn
from nbhelpers.core.images import fit, load_image
from nbhelpers.core.masks import decode_rle
from nbhelpers.models.protocols import PatchEncoder
from nbhelpers.product_matching.features import InstanceFeatures, describe_crops, fill_background, square_crop
from nbhelpers.product_matching.gallery import Gallery, Reference, common_components
from nbhelpers.product_matching.propose import DescribedProposal, PhotoProposals, Proposal, box_iou
from nbhelpers.product_matching.settings import ProductSettings

if TYPE_CHECKING:
    import torch

    from nbhelpers.product_matching.report import MatchedPhoto

BATCH_SIZE = 24  # proposals whose patches are compared together: as many as fit into the processor's cache
COLOUR_PENALTY = 0.25  # subtracted from the score for another colour
MIRROR_PENALTY = 0.15  # likewise for a mirrored object; small, since the other side of many objects looks mirrored
COLOUR_EQUAL, COLOUR_DIFFERENT = 0.40, 0.70  # relative difference of chroma of equal and of different colours
MIN_CHROMA = 10.0  # in CIELAB units, below which hues are unreliable
BRIGHTNESS_RANGE = (0.6, 1.5)  # factors by which lighting may change the chroma
MIN_MIRROR_SIMILARITY = 0.35  # best-match similarity from which the mirrored reference is compared
MIRROR_LEAD = 0.02  # lead of the mirrored reference that takes the full penalty
MIN_CONTAINMENT = (
    0.8  # fraction of a proposal in a better one, or of that one in it, from which they are the same object
)
DECISIONS = ("kept", "below threshold", "closer to a reject", "duplicate", "beyond top k")
LINK_DECAY = 0.995  # factor on the score for each link of a chain of neighbouring views
SWEEPS = 2  # over the views of a turntable, forwards and backwards
PIXEL_SIDE = 48  # pixels per side at which pixels are compared
MIN_BACKGROUND = 8  # other objects needed to calibrate, and to subtract their common component
BACKGROUND_QUANTILE = 0.9  # of the background scores; higher ones may be look-alikes
EXPECTED_QUANTILE = 0.1  # of the expected scores; lower ones are outliers
THRESHOLD_FRACTION = 0.4  # of the way from background to expected matches
BINS = 40


@dataclass(frozen=True, eq=False)
class ScoredProposal:
    """A proposal and its similarity to the product, without the features.

    Attributes:
        proposal: the proposal.
        number: its index in the photo's `PhotoProposals`.
        score: its similarity to the product, about 0 to 1; compared with the threshold.
        parts: terms of the score: ``average`` and ``patches`` (cosines), ``colour`` (1 equal, 0 different), ``mirror``
            (1 not mirrored, below 1 mirrored), ``reject`` (score against the nearest rejected object, if there is one).
        reference: index of the nearest positive of the gallery.
    """

    proposal: Proposal
    number: int
    score: float
    parts: Mapping[str, float]
    reference: int


@dataclass(frozen=True, eq=False)
class PhotoScores:
    """The scored proposals of a photo, small enough to keep for thousands of photos.

    Attributes:
        proposals: by descending score.
        prompts: see `PhotoProposals`.
        seconds: see `PhotoProposals`.
        notes: see `PhotoProposals`.
    """

    proposals: tuple[ScoredProposal, ...]
    prompts: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ProposalDecision(ScoredProposal):
    """A scored proposal with its decision.

    Attributes:
        decision: one of `DECISIONS`.
        why: the reason in a sentence.
    """

    decision: str
    why: str

    @property
    def kept(self) -> bool:
        """Whether it is a match."""
        return self.decision == "kept"


@dataclass(frozen=True, eq=False)
class PatchComparison:
    """``n`` objects compared with one reference.

    Attributes:
        forward: mean best-match cosine of an object's patches in the reference.
        backward: mean best-match cosine of the reference's patches in an object.
        average: cosine of the foreground averages.
        colour: 1 equal, 0 different.
        mirror: 1 not mirrored, 0 mirrored.
    """

    forward: Float32[np.ndarray, " n"]
    backward: Float32[np.ndarray, " n"]
    average: Float32[np.ndarray, " n"]
    colour: Float32[np.ndarray, " n"]
    mirror: Float32[np.ndarray, " n"]

    def scores(self, settings: ProductSettings) -> Float32[np.ndarray, " n"]:
        """Similarity minus the penalties for colour and mirroring."""
        similarity = (2 * self.forward + 2 * self.backward + self.average) / 5
        colour_penalty = settings.colour_weight * COLOUR_PENALTY * (1 - self.colour)
        return similarity - colour_penalty - settings.mirror_weight * MIRROR_PENALTY * (1 - self.mirror)


def match_photo(
    proposals: PhotoProposals, gallery: Gallery, settings: ProductSettings, threshold: float | None = None
) -> tuple[ProposalDecision, ...]:
    """Score the proposals of one photo and decide on them; see `score_photos` and `apply_threshold`."""
    return apply_threshold(score_photos([proposals], gallery, settings)[0], settings, threshold)


def score_photos(photos: Sequence[PhotoProposals], gallery: Gallery, settings: ProductSettings) -> list[PhotoScores]:
    """Score the proposals of many photos against a gallery.

    Args:
        photos: the proposals of each.
        gallery: positives, negatives and their common component.
        settings: weights of the score.
    """
    rows = _scored([item for photo in photos for item in photo.items], gallery, settings)
    out = []
    for photo in photos:
        scored = [ScoredProposal(item.without_features, number, *next(rows)) for number, item in enumerate(photo.items)]
        scored.sort(key=lambda each: -each.score)
        out.append(PhotoScores(tuple(scored), photo.prompts, photo.seconds, photo.notes))
    return out


def apply_threshold(
    scores: PhotoScores, settings: ProductSettings, threshold: float | None = None
) -> tuple[ProposalDecision, ...]:
    """Decide which proposals of a photo are matches; by descending score.

    Args:
        scores: of the photo, from `score_photos`.
        settings: maximum number of matches in a photo, and IoU of duplicates.
        threshold: minimum score of a match; ``settings.similarity_threshold`` if None.
    """
    threshold = settings.similarity_threshold if threshold is None else threshold
    out, kept = [], list[ProposalDecision]()
    for each in scores.proposals:
        score, reject = each.score, each.parts.get("reject", -1)
        if score < threshold:
            decision, why = "below threshold", _shortfall(score, each.parts, threshold)
        elif reject >= score:
            decision, why = "closer to a reject", f"scores {score:.2f}, but {reject:.2f} against a rejected object"
        elif (other := _duplicate_of(each.proposal, kept, settings.nms_iou_threshold)) is not None:
            decision, why = "duplicate", f"overlaps match {other + 1}, which scores {kept[other].score:.2f}"
        elif len(kept) >= settings.top_k_matches:
            decision, why = "beyond top k", f"{len(kept)} matches have higher scores"
        else:
            decision, why = "kept", f"scores {score:.2f}, threshold {threshold:.2f}"
        out.append(ProposalDecision(each.proposal, each.number, score, each.parts, each.reference, decision, why))
        if out[-1].kept:
            kept.append(out[-1])
    return tuple(out)


def similarity_scores(
    features: Sequence[InstanceFeatures], gallery: Gallery, settings: ProductSettings
) -> Float32[np.ndarray, " n"]:
    """The scores of objects against the gallery's positives."""
    return _against(features, gallery.positives, gallery, settings)[0]


def _scored(
    items: Sequence[DescribedProposal], gallery: Gallery, settings: ProductSettings
) -> Iterator[tuple[float, dict[str, float], int]]:
    """The score, its terms, and the index of the nearest reference of each proposal."""
    if not items:
        return
    features = [item.features for item in items]
    scores, parts, nearest = _against(features, gallery.positives, gallery, settings)
    if gallery.negatives:
        parts["reject"] = _against(features, gallery.negatives, gallery, settings)[0]
    names = list(parts)
    table = np.stack([parts[name] for name in names], 1).tolist()
    for score, row, index in zip(scores.tolist(), table, nearest.tolist(), strict=True):
        yield score, dict(zip(names, row, strict=True)), index


def _against(
    features: Sequence[InstanceFeatures],
    references: Sequence[InstanceFeatures],
    gallery: Gallery,
    settings: ProductSettings,
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Scores, terms and nearest references of objects; each is compared with the reference of the nearest average."""
    averages = gallery.centred(np.stack([each.average for each in features]))
    cosines = averages @ gallery.centred(np.stack([each.average for each in references])).T
    nearest = cosines.argmax(1)
    scores = np.empty(len(features), np.float32)
    parts = {name: np.empty(len(features), np.float32) for name in ("average", "patches", "colour", "mirror")}
    order = np.argsort(nearest, kind="stable")
    bounds = np.searchsorted(nearest[order], np.arange(len(references) + 1))
    batches = [
        (index, order[start : min(start + BATCH_SIZE, bounds[index + 1])])
        for index in range(len(references))
        for start in range(bounds[index], bounds[index + 1], BATCH_SIZE)
    ]
    for index, chosen in batches:
        result = compare_patches([features[i] for i in chosen], references[index], gallery, cosines[chosen, index])
        scores[chosen] = result.scores(settings)
        parts["average"][chosen], parts["patches"][chosen] = result.average, (result.forward + result.backward) / 2
        parts["colour"][chosen], parts["mirror"][chosen] = result.colour, result.mirror
    return scores, parts, nearest


def compare_patches(
    features: Sequence[InstanceFeatures],
    reference: InstanceFeatures,
    gallery: Gallery,
    averages: Float32[np.ndarray, " n"],
) -> PatchComparison:
    """Compare objects with one reference, all patches in one matrix product.

    Args:
        features: of the objects.
        reference: one positive of the gallery.
        gallery: its common component is subtracted.
        averages: ``(n,)``, cosine of the centred averages of each object and the reference.
    """
    counts = np.array([len(each.weights) for each in features])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    weights = np.concatenate([each.weights for each in features])
    total = np.add.reduceat(weights, starts)
    table = patch_cosines([each.patches for each in features], reference, gallery)
    match = table.argmax(1)
    best = table[np.arange(len(table)), match]
    forward = np.add.reduceat(best * weights, starts) / total
    backward = np.maximum.reduceat(table, starts, axis=0) @ reference.weights / reference.weights.sum()
    counted = weights * np.clip(best, 0, 1)
    colours = np.concatenate([each.colours for each in features])[:, 1:]
    colour = _colour_agreement(colours, reference.colours[match, 1:], counted, starts, counts)
    mirror = np.ones(len(features), np.float32)
    close = (forward + backward) / 2 >= MIN_MIRROR_SIMILARITY
    if reference.mirror is not None and close.any():
        # every second patch: all patches would double the run time
        some = np.flatnonzero(np.repeat(close, counts) & ((np.arange(len(table)) - np.repeat(starts, counts)) % 2 == 0))
        few = (counts[close] + 1) // 2
        heads = np.cumsum(few) - few
        straight = _both_directions(table[some], weights[some], heads, reference)
        halves = [features[n].patches[::2] for n in np.flatnonzero(close).tolist()]
        mirrored = patch_cosines(halves, reference.mirror, gallery)
        flipped = _both_directions(mirrored, weights[some], heads, reference.mirror)
        lead = straight - flipped
        mirror[close] = np.clip(1 + (lead - _symmetry(reference, gallery)) / MIRROR_LEAD, 0, 1)
    return PatchComparison(forward, backward, averages, colour, mirror)


def _both_directions(
    table: Float32[np.ndarray, "n k"],
    weights: Float32[np.ndarray, " n"],
    starts: np.ndarray,
    reference: InstanceFeatures,
) -> Float32[np.ndarray, " m"]:
    """Mean best-match cosine in both directions, of objects whose patches start at ``starts``."""
    forward = np.add.reduceat(table.max(1) * weights, starts) / np.add.reduceat(weights, starts)
    backward = np.maximum.reduceat(table, starts, axis=0) @ reference.weights / reference.weights.sum()
    return (forward + backward) / 2


@lru_cache(maxsize=64)
def _symmetry(reference: InstanceFeatures, gallery: Gallery) -> float:
    """Lead of the mirrored reference on the augmented views of the reference, which are not mirrored; 0 or less.

    A nearly symmetric object, slightly rotated, is as similar to its mirror image as to itself.
    """
    if not reference.views or reference.mirror is None:
        return 0.0
    patches = [view.patches for view in reference.views]
    weights = np.concatenate([view.weights for view in reference.views])
    starts = np.concatenate([[0], np.cumsum([len(view.weights) for view in reference.views])[:-1]])
    straight, flipped = (
        _both_directions(patch_cosines(patches, each, gallery), weights, starts, each)
        for each in (reference, reference.mirror)
    )
    return min(0.0, float((straight - flipped).min()))


def patch_cosines(
    groups: Sequence[Float32[np.ndarray, "_ d"]], reference: InstanceFeatures, gallery: Gallery
) -> Float32[np.ndarray, "n k"]:
    """Cosines of the patches of many objects, stacked, and those of a reference, all centred.

    ``patch_cosines([p], r, gallery)`` equals ``gallery.centred(p) @ gallery.centred(r.patches).T``. The common
    component is subtracted from the products, and the remaining length is computed from products too; centring and
    normalising each patch would double the run time.
    """
    import torch

    multiply_by_onednn()
    columns, shift = _columns(reference, gallery)
    table = torch.addmm(shift, torch.from_numpy(np.concatenate(groups)), columns)
    if gallery.mean is None:
        return table.numpy()
    mean, directions = torch.from_numpy(gallery.mean).split([1, len(gallery.mean) - 1])
    table, common = table.split([len(reference.patches), len(gallery.mean)], 1)
    rest = common[:, 1:] - (directions @ mean.T).T
    length = 1 - 2 * common[:, :1] + mean @ mean.T - (rest**2).sum(1, keepdim=True)
    return table.mul_(length.clamp_(min=1e-6).rsqrt_()).numpy()


@lru_cache(maxsize=128)
def _columns(reference: InstanceFeatures, gallery: Gallery) -> tuple[torch.Tensor, torch.Tensor]:
    """A reference's centred patches and the common component, ``(d, m)``; the shift of each product, ``(m,)``."""
    import torch

    centred = gallery.centred(reference.patches)
    if gallery.mean is None:
        return torch.from_numpy(centred.T), torch.zeros(len(centred))
    shift = np.concatenate([-centred @ gallery.mean[0], np.zeros(len(gallery.mean), np.float32)])
    return torch.from_numpy(np.concatenate([centred, gallery.mean])).T.contiguous(), torch.from_numpy(shift)


def _colour_agreement(
    object_chroma: Float32[np.ndarray, "n 2"],
    reference_chroma: Float32[np.ndarray, "n 2"],
    weights: Float32[np.ndarray, " n"],
    starts: np.ndarray,
    counts: np.ndarray,
) -> Float32[np.ndarray, " m"]:
    """1 where the chroma (CIELAB a, b) of matched patches is the same up to brightness; 0 where it differs."""

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weights * values, starts)

    (a, b), (ref_a, ref_b) = object_chroma.T, reference_chroma.T
    scale = np.clip(total(a * ref_a + b * ref_b) / np.maximum(total(ref_a**2 + ref_b**2), 1e-6), *BRIGHTNESS_RANGE)
    scale = np.repeat(scale, counts)
    distance = total(np.sqrt((a - scale * ref_a) ** 2 + (b - scale * ref_b) ** 2))
    chroma = (total(np.sqrt(a**2 + b**2)) + total(np.sqrt(ref_a**2 + ref_b**2))) / 2
    weight = np.maximum(np.add.reduceat(weights, starts), 1e-6)
    difference = (distance / weight) / (MIN_CHROMA + chroma / weight)
    return np.clip((COLOUR_DIFFERENT - difference) / (COLOUR_DIFFERENT - COLOUR_EQUAL), 0, 1)


def _shortfall(score: float, parts: Mapping[str, float], threshold: float) -> str:
    """Why a score is below the threshold."""
    why = f"scores {score:.2f}, threshold {threshold:.2f}"
    if parts["colour"] < 0.5 and parts["patches"] >= threshold:
        return f"{why}: similar, but of another colour"
    if parts["mirror"] < 0.5 and parts["patches"] >= threshold:
        return f"{why}: similar, but mirrored"
    return why


def _duplicate_of(proposal: Proposal, kept: Sequence[ProposalDecision], iou: float) -> int | None:
    """Index of the match that shows the same object as a proposal, or None."""
    from pycocotools import mask as coco

    if not kept:
        return None
    masks: Any = [dict(other.proposal.rle) for other in kept]
    mine: Any = [dict(proposal.rle)]
    overlap = coco.iou(mine, masks, [0] * len(masks))[0]
    inside = coco.iou(mine, masks, [1] * len(masks))[0]  # fraction of the proposal in each match
    around = inside * proposal.area / np.array([other.proposal.area for other in kept])
    same = np.flatnonzero((overlap >= iou) | (inside >= MIN_CONTAINMENT) | (around >= MIN_CONTAINMENT))
    return int(same[0]) if len(same) else None


@dataclass
class TurntableViews:
    """Photos of a turntable in order, a prior for matching: neighbouring photos show the product from similar sides.

    A side that no reference shows may be dissimilar to all references but similar to the neighbouring view, which is
    similar to the next. The score of a proposal is then that of the weakest link in a chain of such similarities that
    starts at a match; each link reduces it slightly.

    Attributes:
        names: of the photos, by index, in the order of the views.
        proposals: gives the proposals of a photo by its index.
        gallery: of the product.
        settings: as for `apply_threshold`.
        threshold: minimum score of a match.
        circle: whether the last view is beside the first.
    """

    names: Mapping[int, str]
    proposals: Callable[[int], PhotoProposals]
    gallery: Gallery
    settings: ProductSettings
    threshold: float
    circle: bool

    def link(self, decisions: Mapping[int, tuple[ProposalDecision, ...]]) -> dict[int, tuple[ProposalDecision, ...]]:
        """Decisions given the neighbours, with one match per photo, since there is one product on a turntable.

        Args:
            decisions: on each photo individually.
        """
        best: dict[int, tuple[float, DescribedProposal, str]] = {}
        for photo in self.names:
            if match := next((each for each in decisions[photo] if each.kept), None):
                best[photo] = match.score, self.proposals(photo).items[match.number], ""
        neighbours = self._neighbours()
        order = list(self.names)
        for sweep in range(2 * SWEEPS):
            changed = False
            for photo in order if sweep % 2 == 0 else order[::-1]:
                for other in neighbours[photo]:
                    changed |= other in best and self._extend(best, photo, other)
            if not changed and sweep % 2:
                break
        return {
            photo: _keep_only(decided, *best[photo]) if photo in best else decided
            for photo, decided in decisions.items()
        }

    def _neighbours(self) -> dict[int, list[int]]:
        """The neighbours of each photo, the previous one first."""
        photos = list(self.names)
        count, out = len(photos), {}
        for index, photo in enumerate(photos):
            beside = [(index - 1) % count, (index + 1) % count] if self.circle else [index - 1, index + 1]
            out[photo] = [photos[each] for each in beside if 0 <= each < count and each != index]
        return out

    def _extend(self, best: dict[int, tuple[float, DescribedProposal, str]], photo: int, other: int) -> bool:
        """Extend the chain from a neighbour to a photo if that increases its score; return whether it did."""
        score, reference, _ = best[other]
        if photo in best and best[photo][0] >= score * LINK_DECAY:
            return False
        proposals = self.proposals(photo)
        gallery = replace(self.gallery, positives=(reference.features,))
        kept = [each for each in match_photo(proposals, gallery, self.settings, self.threshold) if each.kept]
        if not kept:
            return False
        chain = min(score, kept[0].score) * LINK_DECAY
        if chain < self.threshold or (photo in best and best[photo][0] >= chain):
            return False
        why = f"similarity {chain:.2f} through {self.names[other]}, the neighbouring view"
        best[photo] = chain, proposals.items[kept[0].number], why
        return True


def _keep_only(
    decisions: Sequence[ProposalDecision], score: float, match: DescribedProposal, why: str
) -> tuple[ProposalDecision, ...]:
    """The decisions with only one match, which is first."""
    out = []
    for each in decisions:
        changes = {}
        if each.proposal.rle == match.rle:
            parts = {**each.parts, "neighbours": score} if why else each.parts
            changes = {"score": max(score, each.score), "parts": parts, "decision": "kept", "why": why or each.why}
        elif each.kept:
            changes = {"decision": "beyond top k", "why": "there is one product on a turntable"}
        out.append(replace(each, **changes))
    return tuple(sorted(out, key=lambda each: (not each.kept, -each.score)))


def rotation_similarity(
    reference: Reference, gallery: Gallery, encoder: PatchEncoder, settings: ProductSettings, angles: Sequence[float]
) -> Float[np.ndarray, "n 2"]:
    """Similarity of a reference to itself when it is rotated, by its pixels and by its features.

    Args:
        reference: given by a file.
        gallery: its common component is subtracted.
        encoder: computes the patch tokens.
        settings: weights of the score.
        angles: in degrees.

    Returns:
        ``(n, 2)``: for each angle the `pixel_similarity` and the score.
    """
    crop, alpha = square_crop(load_image(reference.source), decode_rle(reference.rle), settings.crop_side)
    centre, views = (len(crop) / 2 - 0.5,) * 2, []
    for angle in angles:
        rotation = cv2.getRotationMatrix2D(centre, angle, 0.75)  # smaller, so that no corner is cut off
        view = [cv2.warpAffine(part, rotation, crop.shape[1::-1], flags=cv2.INTER_AREA) for part in (crop, alpha)]
        views.append((view[0], np.ascontiguousarray(view[1])))
    gallery = replace(gallery, positives=(reference.features,), negatives=())
    scores = similarity_scores(describe_crops(views, encoder), gallery, settings)
    first = fill_background(*views[0])
    return np.array(
        [(pixel_similarity(first, fill_background(*view)), score) for view, score in zip(views, scores, strict=True)]
    )


def background_similarity(reference: Reference, results: Sequence[MatchedPhoto]) -> Float[np.ndarray, "n 2"]:
    """`pixel_similarity` to a reference, and score, of all detections in photos without the product."""
    own = square_crop(load_image(reference.source), decode_rle(reference.rle), PIXEL_SIDE)
    rows = []
    for result in results:
        for detection in result.detections if result.absent else ():
            photo = fit(load_image(result.photo), max(detection.rle["size"]))
            other = square_crop(photo, decode_rle(detection.rle), PIXEL_SIDE)
            rows.append((pixel_similarity(fill_background(*own), fill_background(*other)), detection.score))
    return np.array(rows, float).reshape(-1, 2)


def pixel_similarity(one: UInt8[np.ndarray, "_ _ 3"], other: UInt8[np.ndarray, "_ _ 3"]) -> float:
    """Normalised cross-correlation of two crops at 48 x 48 pixels, -1 to 1, as in template matching."""
    size = PIXEL_SIDE, PIXEL_SIDE
    a, b = (cv2.resize(each, size, interpolation=cv2.INTER_AREA).astype(float) for each in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))


@dataclass(frozen=True)
class Calibration:
    """A threshold and its origin.

    Attributes:
        threshold: minimum score of a match.
        source: ``"calibration"``, or ``"settings"`` if there are too few scores to calibrate from.
        why: the reason as a sentence.
        expected: scores of the references against each other and against augmented views of themselves.
        background: scores of all objects except the most similar one of each photo.
        best: the score of the most similar object of each photo.
        rejected: scores of rejected detections.
    """

    threshold: float
    source: str
    why: str
    expected: tuple[float, ...] = field(default=(), repr=False)
    background: tuple[float, ...] = field(default=(), repr=False)
    best: tuple[float, ...] = field(default=(), repr=False)
    rejected: tuple[float, ...] = field(default=(), repr=False)

    def histogram(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Edges of 40 bins from the lowest score (or 0) to 1, and the counts of each kind of score."""
        kinds = {name: getattr(self, name) for name in ("expected", "background", "best", "rejected")}
        low = min([0.0, *(min(values) for values in kinds.values() if values)])
        edges = np.linspace(low, 1, BINS + 1)
        return edges, {name: np.histogram(values, edges)[0] for name, values in kinds.items()}


def calibrate(photos: Iterable[PhotoScores], gallery: Gallery, settings: ProductSettings) -> Calibration:
    """The threshold for a gallery and the photos that were scored against it.

    Args:
        photos: scores of each, from `nbhelpers.product_matching.match.score_photos`.
        gallery: references with their views (`nbhelpers.product_matching.features.describe_reference`).
        settings: the default threshold, and the weights of the score.
    """
    best, background = [], []
    for photo in photos:
        if not photo.proposals:
            continue
        best.append(photo.proposals[0].score)
        background += [each.score for each in background_proposals(photo)]
    expected = expected_scores(gallery, settings)
    rejected = similarity_scores(gallery.negatives, gallery, settings).tolist() if gallery.negatives else []
    return _threshold(tuple(expected), tuple(background), tuple(best), tuple(rejected), settings)


def expected_scores(gallery: Gallery, settings: ProductSettings) -> list[float]:
    """Scores to be expected of matches: views of each reference against it, each reference against the others."""
    scores: list[float] = []
    for index, reference in enumerate(gallery.positives):
        if reference.views:
            scores += similarity_scores(reference.views, replace(gallery, positives=(reference,)), settings).tolist()
        rest = gallery.positives[:index] + gallery.positives[index + 1 :]
        if rest:
            scores += similarity_scores([reference], replace(gallery, positives=rest), settings).tolist()
    return scores


def _threshold(
    expected: tuple[float, ...],
    background: tuple[float, ...],
    best: tuple[float, ...],
    rejected: tuple[float, ...],
    settings: ProductSettings,
) -> Calibration:
    """The threshold between background and expected scores, above the rejected ones."""
    known = {"expected": expected, "background": background, "best": best, "rejected": rejected}
    if len(background) < MIN_BACKGROUND or not expected:
        why = f"too few scores to calibrate ({len(background)} background scores, {len(expected)} expected matches)"
        return Calibration(settings.similarity_threshold, "settings", why, **known)
    low, high = float(np.quantile(background, BACKGROUND_QUANTILE)), float(np.quantile(expected, EXPECTED_QUANTILE))
    if high <= low:
        high = max(low, float(np.median(expected)))
    if high <= low:
        threshold = low
        why = f"the product does not differ from the background, which scores up to {low:.2f}: matches are uncertain"
    else:
        threshold = low + THRESHOLD_FRACTION * (high - low)
        why = f"between the background (up to {low:.2f}) and expected matches (from {high:.2f})"
    if rejected and max(rejected) >= threshold and max(rejected) < high:
        threshold = (max(rejected) + high) / 2
        why = f"between the nearest reject ({max(rejected):.2f}) and expected matches (from {high:.2f})"
    return Calibration(float(threshold), "calibration", why, **known)


def background_proposals(scores: PhotoScores) -> list[ScoredProposal]:
    """The proposals of a photo except the most similar one, which may be the product."""
    if not scores.proposals:
        return []
    first, *rest = scores.proposals
    return [each for each in rest if box_iou(each.proposal.box, first.proposal.box) == 0]


def subtract_background(photos: Iterable[PhotoProposals], gallery: Gallery, settings: ProductSettings) -> Gallery:
    """The gallery with the common component of the other objects instead of that of whole photos.

    Args:
        photos: proposals of some photos of the session; read one by one.
        gallery: positives, negatives and the mean feature of whole photos.
        settings: weights of the score.

    Returns:
        The same gallery if there are fewer than 8 other objects.
    """
    patches = (
        photo.items[each.number].features.patches
        for photo in photos
        for each in background_proposals(score_photos([photo], gallery, settings)[0])
    )
    first = list(islice(patches, MIN_BACKGROUND))
    return gallery if len(first) < MIN_BACKGROUND else replace(gallery, mean=common_components(chain(first, patches)))
