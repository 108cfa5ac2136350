"""Which candidates are the product: patches compared with patches, colours with colours, and with the mirror image.

The similarity is made of cosines, centred (see `nbhelpers.product_matching.gallery`): the best match of each patch of
the candidate in the reference, the same the other way, and the two foreground averages. Patches forgive a hidden part
and tell labels apart where the averages are alike (NOCTIS, Gandyra et al. 2025, arXiv 2507.01463, compares patches in
the same spirit). DINO's features hardly see colour, so colours of matched patches are compared by themselves, after the
brightness is made equal. A mirrored look-alike is known by resembling the mirrored reference more than the reference,
and more so than views of the reference itself do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from nbhelpers.core.compute import multiply_by_onednn
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Candidate, Candidates, Features, Judged, Scored, Scores, Thing

if TYPE_CHECKING:
    import torch

AT_ONCE = 24  # candidates whose patches are compared together: as many as a processor's cache holds
WRONG_COLOUR, WRONG_WAY = 0.25, 0.15  # what they take off the score; the other side of many a thing looks mirrored
COLOUR_SAME, COLOUR_OTHER = 0.40, 0.70  # relative difference of chroma up to which colours are equal, are different
GREY = 10.0  # chroma, in CIELAB units, below which hues mean little
BRIGHTNESS = (0.6, 1.5)  # chroma grows and falls with the light, so far
CLOSE = 0.35  # best-match similarity from which a thing may be a mirrored look-alike
MIRRORED = 0.02  # lead of the mirrored reference that is certain
PART = 0.8  # of a candidate inside a better one, or of that one inside it: the same thing


@dataclass(frozen=True, eq=False)
class Comparison:
    """``n`` candidates against one reference: each value one number a candidate."""

    there: Float32[np.ndarray, " n"]
    back: Float32[np.ndarray, " n"]
    average: Float32[np.ndarray, " n"]
    colour: Float32[np.ndarray, " n"]
    mirror: Float32[np.ndarray, " n"]

    def scores(self, settings: Settings) -> Float32[np.ndarray, " n"]:
        """Similarity, less what colour and orientation take off."""
        alike = (2 * self.there + 2 * self.back + self.average) / 5
        wrong_colour = settings.colour_weight * WRONG_COLOUR * (1 - self.colour)
        return alike - wrong_colour - settings.mirror_weight * WRONG_WAY * (1 - self.mirror)


def judge(
    candidates: Candidates, gallery: Gallery, settings: Settings, threshold: float | None = None
) -> tuple[Judged, ...]:
    """All candidates of a photo with their verdicts, the most similar first.

    Args:
        candidates: of the photo.
        gallery: what is looked for, and what is not.
        settings: see `verdicts`.
        threshold: see `verdicts`.
    """
    return verdicts(score_all([candidates], gallery, settings)[0], settings, threshold)


def score_all(photos: Sequence[Candidates], gallery: Gallery, settings: Settings) -> list[Scores]:
    """What a gallery says of many photos: all that needs features, and all that a verdict needs.

    Args:
        photos: the candidates of each.
        gallery: what is looked for, and what is not.
        settings: the weights of the score.
    """
    rows = _scored([item for photo in photos for item in photo.items], gallery, settings)
    out = []
    for photo in photos:
        things = [Scored(item.thing, number, *next(rows)) for number, item in enumerate(photo.items)]
        things.sort(key=lambda thing: -thing.score)
        out.append(Scores(tuple(things), photo.prompts, photo.seconds, photo.notes))
    return out


def verdicts(scores: Scores, settings: Settings, threshold: float | None = None) -> tuple[Judged, ...]:
    """The things of a photo with their verdicts, the most similar first.

    Args:
        scores: of the photo, from `score_all`.
        settings: number of matches in a photo, overlap from which two are one.
        threshold: least score of a match; ``settings.similarity_threshold`` when None.
    """
    threshold = settings.similarity_threshold if threshold is None else threshold
    out, kept = [], list[Judged]()
    for each in scores.things:
        score, reject = each.score, each.parts.get("reject", -1)
        if score < threshold:
            verdict, why = "below threshold", _shortfall(score, each.parts, threshold)
        elif reject >= score:
            verdict, why = "closer to a reject", f"scores {score:.2f}, and {reject:.2f} to a rejected thing"
        elif (other := _same(each.thing, kept, settings.nms_iou_threshold)) is not None:
            verdict, why = "duplicate", f"overlaps match {other + 1}, which scores {kept[other].score:.2f}"
        elif len(kept) >= settings.top_k_matches:
            verdict, why = "beyond top k", f"{len(kept)} matches score more"
        else:
            verdict, why = "kept", f"scores {score:.2f}, {threshold:.2f} is needed"
        judged = Judged(each.thing, each.number, score, each.parts, each.reference, verdict, why)
        out.append(judged)
        if judged.kept:
            kept.append(judged)
    return tuple(out)


def similarities(features: Sequence[Features], gallery: Gallery, settings: Settings) -> Float32[np.ndarray, " n"]:
    """The scores of things against the gallery's positives."""
    return _against(features, gallery.positives, gallery, settings)[0]


def _scored(
    items: Sequence[Candidate], gallery: Gallery, settings: Settings
) -> Iterator[tuple[float, dict[str, float], int]]:
    """For each candidate its score, the parts of it, and the index of the nearest reference."""
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
    features: Sequence[Features], references: Sequence[Features], gallery: Gallery, settings: Settings
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Scores, parts and nearest reference of things; each is compared with the reference of the nearest average."""
    averages = gallery.centred(np.stack([each.average for each in features]))
    cosines = averages @ gallery.centred(np.stack([each.average for each in references])).T
    nearest = cosines.argmax(1)
    scores = np.empty(len(features), np.float32)
    parts = {name: np.empty(len(features), np.float32) for name in ("average", "patches", "colour", "mirror")}
    order = np.argsort(nearest, kind="stable")
    bounds = np.searchsorted(nearest[order], np.arange(len(references) + 1))
    parcels = [
        (index, order[start : min(start + AT_ONCE, bounds[index + 1])])
        for index in range(len(references))
        for start in range(bounds[index], bounds[index + 1], AT_ONCE)
    ]
    for index, chosen in parcels:
        found = compare([features[i] for i in chosen], references[index], gallery, cosines[chosen, index])
        scores[chosen] = found.scores(settings)
        parts["average"][chosen], parts["patches"][chosen] = found.average, (found.there + found.back) / 2
        parts["colour"][chosen], parts["mirror"][chosen] = found.colour, found.mirror
    return scores, parts, nearest


def compare(
    features: Sequence[Features], reference: Features, gallery: Gallery, averages: Float32[np.ndarray, " n"]
) -> Comparison:
    """Things against one reference, all patches in one product of matrices.

    Args:
        features: the things.
        reference: one of the product.
        gallery: knows what all photos have in common.
        averages: cosine of the centred averages of each thing and the reference.
    """
    counts = np.array([len(each.weights) for each in features])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    weights = np.concatenate([each.weights for each in features])
    total = np.add.reduceat(weights, starts)
    table = cosines([each.patches for each in features], reference, gallery)
    match = table.argmax(1)
    best = table[np.arange(len(table)), match]
    there = np.add.reduceat(best * weights, starts) / total
    back = np.maximum.reduceat(table, starts, axis=0) @ reference.weights / reference.weights.sum()
    counted = weights * np.clip(best, 0, 1)
    colours = np.concatenate([each.colours for each in features])[:, 1:]
    colour = _colour_agreement(colours, reference.colours[match, 1:], counted, starts, counts)
    mirror = np.ones(len(features), np.float32)
    close = (there + back) / 2 >= CLOSE
    if reference.mirror is not None and close.any():
        # every second patch of each: whole things would take as long again as all that was compared so far
        some = np.flatnonzero(np.repeat(close, counts) & ((np.arange(len(table)) - np.repeat(starts, counts)) % 2 == 0))
        few = (counts[close] + 1) // 2
        heads = np.cumsum(few) - few
        straight = _both_ways(table[some], weights[some], heads, reference)
        halves = [features[n].patches[::2] for n in np.flatnonzero(close)]
        mirrored = cosines(halves, reference.mirror, gallery)
        flipped = _both_ways(mirrored, weights[some], heads, reference.mirror)
        lead = straight - flipped
        mirror[close] = np.clip(1 + (lead - _symmetry(reference, gallery)) / MIRRORED, 0, 1)
    return Comparison(there, back, averages, colour, mirror)


def _both_ways(
    table: Float32[np.ndarray, "n k"], weights: Float32[np.ndarray, " n"], starts: np.ndarray, reference: Features
) -> Float32[np.ndarray, " m"]:
    """Best-match similarity, from the things to the reference and back, of things whose patches begin at ``starts``."""
    there = np.add.reduceat(table.max(1) * weights, starts) / np.add.reduceat(weights, starts)
    back = np.maximum.reduceat(table, starts, axis=0) @ reference.weights / reference.weights.sum()
    return (there + back) / 2


@lru_cache(maxsize=64)
def _symmetry(reference: Features, gallery: Gallery) -> float:
    """How far the mirrored reference leads on the reference's own views, which are not mirrored; 0 or less.

    A nearly symmetric thing, turned a little, resembles its mirror image as much as itself: that is no sign.
    """
    if not reference.views:
        return 0.0
    patches = [view.patches for view in reference.views]
    weights = np.concatenate([view.weights for view in reference.views])
    starts = np.concatenate([[0], np.cumsum([len(view.weights) for view in reference.views])[:-1]])
    straight, flipped = (
        _both_ways(cosines(patches, each, gallery), weights, starts, each) for each in (reference, reference.mirror)
    )
    return min(0.0, float((straight - flipped).min()))


def cosines(
    groups: Sequence[Float32[np.ndarray, "_ d"]], reference: Features, gallery: Gallery
) -> Float32[np.ndarray, "n k"]:
    """Cosines of the patches of many things, one below another, and those of a reference, all centred.

    ``cosines([p], r, gallery)`` equals ``gallery.centred(p) @ gallery.centred(r.patches).T``. What is common is taken
    off the products, and the length that is left is reckoned from products too: the patches are many, and to subtract
    from each of them, and to measure what remains, takes as long again as the products.
    """
    import torch

    multiply_by_onednn()
    columns, shift = _columns(reference, gallery)
    table = torch.addmm(shift, torch.from_numpy(np.concatenate(groups)), columns)
    if gallery.mean is None:
        return table.numpy()
    mean, directions = torch.from_numpy(gallery.mean).split([1, len(gallery.mean) - 1])
    table, along = table.split([len(reference.patches), len(gallery.mean)], 1)
    spread = along[:, 1:] - (directions @ mean.T).T
    length = 1 - 2 * along[:, :1] + mean @ mean.T - (spread**2).sum(1, keepdim=True)
    return table.mul_(length.clamp_(min=1e-6).rsqrt_()).numpy()


@lru_cache(maxsize=128)
def _columns(reference: Features, gallery: Gallery) -> tuple[torch.Tensor, torch.Tensor]:
    """A reference's centred patches and what is common, ``(d, m)``; what to add to the products with each, ``(m,)``."""
    import torch

    wanted = gallery.centred(reference.patches)
    if gallery.mean is None:
        return torch.from_numpy(wanted.T), torch.zeros(len(wanted))
    shift = np.concatenate([-wanted @ gallery.mean[0], np.zeros(len(gallery.mean), np.float32)])
    return torch.from_numpy(np.concatenate([wanted, gallery.mean])).T.contiguous(), torch.from_numpy(shift)


def _colour_agreement(
    here: Float32[np.ndarray, "n 2"],
    there: Float32[np.ndarray, "n 2"],
    weights: Float32[np.ndarray, " n"],
    starts: np.ndarray,
    counts: np.ndarray,
) -> Float32[np.ndarray, " m"]:
    """1 where the chroma (CIELAB a, b) of matched patches is the same, brightness aside; 0 where it is another."""

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(weights * values, starts)

    (a, b), (ours, theirs) = here.T, there.T
    scale = np.clip(total(a * ours + b * theirs) / np.maximum(total(ours**2 + theirs**2), 1e-6), *BRIGHTNESS)
    scale = np.repeat(scale, counts)
    apart = total(np.sqrt((a - scale * ours) ** 2 + (b - scale * theirs) ** 2))
    chroma = (total(np.sqrt(a**2 + b**2)) + total(np.sqrt(ours**2 + theirs**2))) / 2
    whole = np.maximum(np.add.reduceat(weights, starts), 1e-6)
    difference = (apart / whole) / (GREY + chroma / whole)
    return np.clip((COLOUR_OTHER - difference) / (COLOUR_OTHER - COLOUR_SAME), 0, 1)


def _shortfall(score: float, parts: Mapping[str, float], threshold: float) -> str:
    why = f"scores {score:.2f}, {threshold:.2f} is needed"
    if parts["colour"] < 0.5 and parts["patches"] >= threshold:
        return f"{why}: alike, but of another colour"
    if parts["mirror"] < 0.5 and parts["patches"] >= threshold:
        return f"{why}: alike, but mirrored"
    return why


def _same(thing: Thing, kept: Sequence[Judged], iou: float) -> int | None:
    """Index of the match that a thing is another reading of, or None."""
    from pycocotools import mask as coco

    if not kept:
        return None
    masks = [dict(other.thing.rle) for other in kept]
    mine = [dict(thing.rle)]
    overlap = coco.iou(mine, masks, [0] * len(masks))[0]
    inside = coco.iou(mine, masks, [1] * len(masks))[0]  # share of mine in each
    around = inside * thing.area / np.array([other.thing.area for other in kept])
    same = np.flatnonzero((overlap >= iou) | (inside >= PART) | (around >= PART))
    return int(same[0]) if len(same) else None
