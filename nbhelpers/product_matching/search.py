"""One photo, searched: made smaller if it is huge, cut into tiles if it is a panorama, found things carried back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.equirect import same_things, seam_box, tiles
from nbhelpers.core.images import fit
from nbhelpers.core.masks import box_of, decode_rle, encode_rle
from nbhelpers.core.regions import components, fill_holes
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.candidates import find
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.settings import Settings
from nbhelpers.product_matching.values import Candidate, Candidates

LONGEST = 2048  # pixels: larger photos are searched on a reduced copy, for the networks see no more than this
LONGEST_PANORAMA = 4096
TILE = 1024  # pixels of a panorama's tile
SPECK, PINHOLE = 0.02, 0.03  # of the largest part of a mask, and of its area
PANORAMA_SHARE = 3  # times as many candidates as of a flat photo are kept


def search(
    image: UInt8[np.ndarray, "h w 3"],
    segmenter: Segmenter,
    encoder: PatchEncoder,
    gallery: Gallery,
    settings: Settings,
    panorama: bool = False,
) -> Candidates:
    """All things of a photo of any size that might be the product.

    Args:
        image: the photo.
        segmenter: makes the masks.
        encoder: describes them.
        gallery: what is looked for.
        settings: how.
        panorama: whether the photo is equirectangular.

    Returns:
        Candidates whose ``size`` is that of the copy that was searched; masks and boxes are in its pixels.

    Raises:
        NbHelpersError: a panorama that is not twice as wide as high.
    """
    if not panorama:
        found = find(fit(image, LONGEST), segmenter, encoder, gallery, settings)
        return replace(found, items=tuple(map(tidied, found.items)))
    started, small = time.perf_counter(), fit(image, LONGEST_PANORAMA)
    size = small.shape[:2]
    views = tiles(size)
    if views[0].side > TILE:
        views = tiles(size, TILE)
    things: list[Candidate] = []
    tile_of, cut, prompts = [], [], 0
    for number, view in enumerate(views):
        # areas are shares of a picture, and a tile is a small part of this one
        found = find(view.view(small), segmenter, encoder, gallery, settings)
        prompts += found.prompts
        for item in map(tidied, found.items):
            seen = decode_rle(item.rle)
            mask = view.carry(seen)
            if mask.any():
                things.append(_carried(item, mask))
                tile_of.append(number)
                cut.append(view.cuts(seen))
    kept = _likeliest(_distinct(things, tile_of, cut), gallery, PANORAMA_SHARE * settings.max_candidates)
    models = segmenter.name, encoder.name
    note = f"searched through {len(views)} tiles, in which {len(things)} things might have been it"
    return Candidates(size, tuple(kept), prompts, time.perf_counter() - started, models, (note,))


def tidied(item: Candidate) -> Candidate:
    """A candidate without the specks beside its mask and the pinholes in it, which would show in a cut-out."""
    mask = decode_rle(item.rle)
    parts = components(mask)
    sizes = np.bincount(parts.ravel())[1:]
    clean = (parts > 0) & (parts <= np.count_nonzero(sizes >= SPECK * sizes.max(initial=0)))  # numbered by size
    clean = fill_holes(clean, PINHOLE * item.area)
    if np.array_equal(clean, mask):
        return item
    return replace(item, rle=encode_rle(clean), box=box_of(clean), area=int(np.count_nonzero(clean)))


def _carried(item: Candidate, mask: Bool[np.ndarray, "h w"]) -> Candidate:
    return replace(item, rle=encode_rle(mask), box=seam_box(mask), area=int(np.count_nonzero(mask)))


def _distinct(things: Sequence[Candidate], tile_of: Sequence[int], cut: Sequence[bool]) -> list[Candidate]:
    """One of each thing that several tiles saw. Masks are decoded small: a panorama has hundreds of them."""
    if not things:
        return []
    step = max(1, max(things[0].rle["size"]) // 1024)
    masks = [decode_rle(thing.rle)[::step, ::step] for thing in things]
    stands_for = same_things(masks, tile_of, cut, [thing.quality for thing in things])
    return [thing for number, thing in enumerate(things) if stands_for[number] == number]


def _likeliest(things: Sequence[Candidate], gallery: Gallery, most: int) -> list[Candidate]:
    if len(things) <= most:
        return list(things)
    averages = gallery.centred(np.stack([thing.features.average for thing in things]))
    order = np.argsort(-(averages @ gallery.averages.T).max(1), kind="stable")
    return [things[number] for number in order[:most]]
