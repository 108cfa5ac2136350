"""Proposals in a photo of any size: large photos are reduced, panoramas split into overlapping perspective tiles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.equirect import same_things, seam_box, tiles
from nbhelpers.core.images import fit
from nbhelpers.core.masks import box_of, decode_rle, encode_rle
from nbhelpers.core.regions import components, fill_holes
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.features import MAX_SIDE
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.propose import DescribedProposal, PhotoProposals, propose_candidates
from nbhelpers.product_matching.settings import ProductSettings

MAX_PANORAMA_SIDE = 4096  # pixels: larger panoramas are searched on a reduced copy
TILE_SIDE = 1024  # pixels
MIN_COMPONENT = 0.02  # area of a kept component of a mask, as a fraction of the largest one
MAX_HOLE = 0.03  # area of a filled hole, as a fraction of the mask
PANORAMA_FACTOR = 3  # on the number of proposals, compared with a flat photo


def search_photo(
    image: UInt8[np.ndarray, "h w 3"],
    segmenter: Segmenter,
    encoder: PatchEncoder,
    gallery: Gallery,
    settings: ProductSettings,
    panorama: bool = False,
) -> PhotoProposals:
    """Described proposals of a photo of any size, flat or equirectangular.

    Args:
        image: the photo.
        segmenter: predicts the masks.
        encoder: computes the patch tokens.
        gallery: of the product.
        settings: of the search.
        panorama: whether the photo is equirectangular.

    Returns:
        Proposals whose ``size`` is that of the copy that was searched; masks and boxes are in its pixels.

    Raises:
        NbHelpersError: the panorama is not twice as wide as high.
    """
    if not panorama:
        proposals = propose_candidates(fit(image, MAX_SIDE), segmenter, encoder, gallery, settings)
        return replace(proposals, items=tuple(map(clean_mask, proposals.items)))
    started, small = time.perf_counter(), fit(image, MAX_PANORAMA_SIDE)
    size = small.shape[:2]
    views = tiles(size)
    if views[0].side > TILE_SIDE:
        views = tiles(size, TILE_SIDE)
    items: list[DescribedProposal] = []
    tile_of, cut, prompts = [], [], 0
    for number, view in enumerate(views):
        # limits of area are fractions of an image, here of the tile
        proposals = propose_candidates(view.view(small), segmenter, encoder, gallery, settings)
        prompts += proposals.prompts
        for item in map(clean_mask, proposals.items):
            flat = decode_rle(item.rle)
            mask = view.carry(flat)
            if mask.any():
                items.append(replace(item, rle=encode_rle(mask), box=seam_box(mask), area=int(np.count_nonzero(mask))))
                tile_of.append(number)
                cut.append(view.cuts(flat))
    kept = _most_similar(_distinct(items, tile_of, cut), gallery, PANORAMA_FACTOR * settings.max_candidates)
    models = segmenter.name, encoder.name
    note = f"searched in {len(views)} tiles with {len(items)} proposals"
    return PhotoProposals(size, tuple(kept), prompts, time.perf_counter() - started, models, (note,))


def clean_mask(item: DescribedProposal) -> DescribedProposal:
    """A proposal without small components and small holes of its mask, which would show in a cut-out."""
    mask = decode_rle(item.rle)
    labels = components(mask)
    sizes = np.bincount(labels.ravel())[1:]
    # labels are sorted by size
    clean = (labels > 0) & (labels <= np.count_nonzero(sizes >= MIN_COMPONENT * sizes.max(initial=0)))
    clean = fill_holes(clean, MAX_HOLE * item.area)
    if np.array_equal(clean, mask):
        return item
    return replace(item, rle=encode_rle(clean), box=box_of(clean), area=int(np.count_nonzero(clean)))


def _distinct(items: Sequence[DescribedProposal], tile_of: Sequence[int], cut: Sequence[bool]) -> list:
    """One proposal per object, even if several tiles show it; the many masks are decoded at low resolution."""
    if not items:
        return []
    step = max(1, max(items[0].rle["size"]) // 1024)
    masks = [decode_rle(item.rle)[::step, ::step] for item in items]
    same_as = same_things(masks, tile_of, cut, [item.quality for item in items])
    return [item for number, item in enumerate(items) if same_as[number] == number]


def _most_similar(items: Sequence[DescribedProposal], gallery: Gallery, limit: int) -> list[DescribedProposal]:
    """The ``limit`` proposals whose averages are most similar to a reference."""
    if len(items) <= limit:
        return list(items)
    averages = gallery.centred(np.stack([item.features.average for item in items]))
    order = np.argsort(-(averages @ gallery.averages.T).max(1), kind="stable")
    return [items[number] for number in order[:limit]]
