"""What the other things of a session have in common: taken off before anything is judged.

The mean feature of whole photos (`nbhelpers.product_matching.gallery.mean_feature`) is known before a search and guides
it. After the search more is known: the candidates that are not the product. They were cut out as it was and chosen
because they resemble it, so what they share is what tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice

from nbhelpers.product_matching.gallery import Gallery, common
from nbhelpers.product_matching.heat import box_iou
from nbhelpers.product_matching.matching import score_all
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Candidates, Scored, Scores

LEAST = 8  # things that are needed


def others(scores: Scores) -> list[Scored]:
    """The things of a photo that do not touch its most similar one: if that is the product, they are not."""
    return [each for each in scores.things[1:] if box_iou(each.thing.box, scores.things[0].thing.box) == 0]


def against_background(photos: Iterable[Candidates], gallery: Gallery, settings: Settings) -> Gallery:
    """The gallery with the mean feature of the other things in place of the photos' own.

    Args:
        photos: what was found in some photos of the session; read one by one.
        gallery: references, rejects and the mean feature of whole photos.
        settings: the weights of the score.

    Returns:
        The same gallery where there are fewer than 8 other things.
    """
    patches = (
        photo.items[each.number].features.patches
        for photo in photos
        for each in others(score_all([photo], gallery, settings)[0])
    )
    first = list(islice(patches, LEAST))
    return gallery if len(first) < LEAST else replace(gallery, mean=common(chain(first, patches)))
