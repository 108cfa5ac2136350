"""Proposals in a photo of any size: large photos are reduced, panoramas split into overlapping perspective tiles.

In an equirectangular photo (360 degrees) columns are longitudes and rows latitudes: objects near the poles are
distorted, and the left and right edges are connected. Networks are trained on perspective photos, so the sphere is
searched in overlapping perspective tiles, poles included. Masks are projected back, across the seam if necessary, and
masks of one object in two tiles are merged. For clips, `nbhelpers.core.video` has a cheaper method that only
handles the seam.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit
from nbhelpers.core.masks import box_of, components, decode_rle, encode_rle, fill_holes, seam_box, tight_box
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
FOV, OVERLAP = 90.0, 20.0  # degrees
STRIP_ROWS = 256  # rows of the image that are processed at a time
STEP = 8  # pixels between the points of a mask's outline that are projected to the image
MAX_TILES = 64  # tiles around a circle of latitude
EDGE = 2  # pixels from the edge of a tile, within which a mask is truncated by it


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
    same_as = same_objects(masks, tile_of, cut, [item.quality for item in items])
    return [item for number, item in enumerate(items) if same_as[number] == number]


def _most_similar(items: Sequence[DescribedProposal], gallery: Gallery, limit: int) -> list[DescribedProposal]:
    """The ``limit`` proposals whose averages are most similar to a reference."""
    if len(items) <= limit:
        return list(items)
    averages = gallery.centred(np.stack([item.features.average for item in items]))
    order = np.argsort(-(averages @ gallery.averages.T).max(1), kind="stable")
    return [items[number] for number in order[:limit]]


@dataclass(frozen=True)
class Tile:
    """A square perspective view of an equirectangular image.

    Example:
        >>> tile = Tile(yaw=90, pitch=0, side=512, size=(1024, 2048))
        >>> tile.view(panorama).shape
        (512, 512, 3)

    Attributes:
        yaw: degrees to the right of the centre column.
        pitch: degrees up from the horizon.
        side: of the view in pixels.
        size: ``(H, W)`` of the image.
        fov: field of view in both directions, in degrees.
    """

    yaw: float
    pitch: float
    side: int
    size: tuple[int, int]
    fov: float = FOV

    def to_panorama(self, points: Shaped[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Pixels ``(x, y)`` of the image for points of the view; x from -0.5 to W - 0.5."""
        plane = (np.asarray(points, float) + 0.5) * (2 / self.side) - 1
        plane *= math.tan(math.radians(self.fov) / 2)
        rays = np.column_stack([plane[:, 0], -plane[:, 1], np.ones(len(plane))]) @ _turn(self.yaw, self.pitch).T
        height, width = self.size
        x = (np.arctan2(rays[:, 0], rays[:, 2]) / (2 * np.pi) + 0.5) * width - 0.5
        y = (0.5 - np.arctan2(rays[:, 1], np.hypot(rays[:, 0], rays[:, 2])) / np.pi) * height - 0.5
        return np.column_stack([x, y])

    def view(self, panorama: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "s s c"]:
        """The view, with bilinear interpolation.

        Raises:
            NbHelpersError: the image has another size.
        """
        if panorama.shape[:2] != self.size:
            raise NbHelpersError(
                "the tile belongs to an image of another size", given=panorama.shape[:2], expected=str(self.size)
            )
        grid = np.stack(np.meshgrid(np.arange(self.side), np.arange(self.side)), -1).reshape(-1, 2)
        places = self.to_panorama(grid).astype(np.float32).reshape(self.side, self.side, 2)
        wrapped = np.concatenate(
            [panorama[:, -1:], panorama, panorama[:, :1]], axis=1
        )  # for interpolation across the seam
        return cv2.remap(wrapped, places[..., 0] + 1, places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def carry(self, mask: Bool[np.ndarray, "th tw"]) -> Bool[np.ndarray, "h w"]:
        """Project a mask of the view to the image."""
        if mask.shape != (self.side, self.side):
            raise NbHelpersError(
                "the mask is not of this tile", given=mask.shape, expected=f"{self.side} x {self.side}"
            )
        height, width = self.size
        out = np.zeros(self.size, bool)
        if not mask.any():
            return out
        top, bottom, left, right = self._reach(mask)
        columns = np.arange(left, right)
        longitudes = ((columns + 0.5) / width - 0.5) * 2 * np.pi
        for start in range(top, bottom, STRIP_ROWS):
            rows = np.arange(start, min(start + STRIP_ROWS, bottom))
            latitudes = (0.5 - (rows + 0.5) / height) * np.pi
            places = np.rint(self._seen(np.tile(longitudes, len(rows)), np.repeat(latitudes, len(columns))))
            inside = ((places >= 0) & (places < self.side)).all(1)  # NaN compares as outside
            x, y = places[inside].astype(int).T
            found = np.zeros(len(places), bool)
            found[inside] = mask[y, x]
            out[rows[0] : rows[-1] + 1, columns % width] = found.reshape(len(rows), len(columns))
        return out

    def cuts(self, mask: Bool[np.ndarray, "s s"]) -> bool:
        """Whether a mask reaches the edge of the view, so that a part of the object is probably outside."""
        inner = mask[EDGE:-EDGE, EDGE:-EDGE]
        return bool(np.count_nonzero(mask) > np.count_nonzero(inner))

    def _seen(self, longitudes: np.ndarray, latitudes: np.ndarray) -> np.ndarray:
        level = np.cos(latitudes)
        rays = np.column_stack([level * np.sin(longitudes), np.sin(latitudes), level * np.cos(longitudes)])
        x, y, z = (rays @ _turn(self.yaw, self.pitch)).T
        z = np.where(z > 1e-9, z, np.nan)
        half = self.side / 2
        scale = half / math.tan(math.radians(self.fov) / 2)
        return np.column_stack([x / z * scale + half - 0.5, half - y / z * scale - 0.5])

    def _reach(self, mask: np.ndarray) -> tuple[int, int, int, int]:
        """Rows and columns of the image, end exclusive, that a mask can touch; columns may cross the seam."""
        height, width = self.size
        x0, y0, x1, y1 = tight_box(mask)
        across, down = np.arange(x0 - 1, x1 + 1, STEP), np.arange(y0 - 1, y1 + 1, STEP)
        across, down = np.append(across, x1), np.append(down, y1)
        sides = [(across, y0 - 1), (across, y1), (x0 - 1, down), (x1, down)]
        rim = np.concatenate([np.column_stack(np.broadcast_arrays(*side)) for side in sides])
        x, y = self.to_panorama(rim).T
        poles = self._seen(np.zeros(2), np.array([np.pi / 2, -np.pi / 2]))
        holds = [bool(x0 - 1 <= px <= x1 and y0 - 1 <= py <= y1) for px, py in poles]
        margin = STEP + math.ceil(STEP * width / self.side)  # the outline is curved between its points
        top = 0 if holds[0] else max(0, math.floor(y.min()) - margin)
        bottom = height if holds[1] else min(height, math.ceil(y.max()) + margin + 1)
        if any(holds):
            return top, bottom, 0, width
        middle = (self.yaw / 360 + 0.5) * width - 0.5
        x = (x - middle + width / 2) % width + middle - width / 2  # no jump at the seam
        left, right = math.floor(x.min()) - margin, math.ceil(x.max()) + margin + 1
        return (top, bottom, 0, width) if right - left >= width else (top, bottom, left, right)


def tiles(
    size: tuple[int, int], side: int | None = None, fov: float = FOV, overlap: float = OVERLAP
) -> tuple[Tile, ...]:
    """The minimum number of tiles such that every object of at most ``overlap`` is complete in one of them.

    Example:
        >>> len(tiles((1024, 2048)))
        14

    Args:
        size: ``(H, W)`` of the equirectangular image, W twice H.
        side: of a view in pixels; by default for the resolution of the image at the horizon.
        fov: field of view in degrees, 30 to 120.
        overlap: degrees.

    Raises:
        NbHelpersError: an image that is not 2:1, or angles out of range.
    """
    height, width = size
    if abs(width - 2 * height) > max(2, 0.02 * width):
        raise NbHelpersError(
            "the image is not equirectangular", given=f"{width} x {height}", expected="twice as wide as high"
        )
    if not (30 <= fov <= 120 and 0 <= overlap <= fov - 15):
        raise NbHelpersError(
            "the tiles make no sense",
            given=f"fov {fov}, overlap {overlap} degrees",
            expected="fov 30 to 120, overlap at most fov - 15",
        )
    if side is None:
        side = max(64, round(2 * math.tan(math.radians(fov) / 2) * width / (2 * math.pi)))
    first, found = max(3, math.ceil(180 / fov) + 1), []
    for count in range(first, first + 5):  # more rows may need fewer tiles in total
        pitches = np.linspace(90, -90, count)
        tried = [_around(pitch, 90 / (count - 1), fov, overlap) for pitch in pitches]
        if len(around := [turns for turns in tried if turns]) == count:
            found.append((sum(around), around, pitches))
    if not found:
        raise NbHelpersError("no number of tiles covers the sphere so", given=f"fov {fov}, overlap {overlap} degrees")
    _, around, pitches = min(found, key=lambda layout: layout[0])
    return tuple(
        Tile(360 / turns * number, float(pitch), side, (size[0], size[1]), fov)
        for pitch, turns in zip(pitches, around, strict=True)
        for number in range(turns)
    )


def _turn(yaw: float, pitch: float) -> Float[np.ndarray, "3 3"]:
    """From a camera's axes (right, up, ahead) to those of the sphere."""
    yaw, pitch = math.radians(yaw), math.radians(pitch)
    across = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    up = np.array([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
    return across @ up


def _around(pitch: float, band: float, fov: float, overlap: float) -> int | None:
    """Number of tiles for a circle of latitude, such that they contain all discs with centres within ``band``."""
    tile, angles, radius = Tile(0, pitch, 2, (2, 4), fov), np.linspace(0, 2 * np.pi, 24), math.radians(overlap / 2)
    circle = np.column_stack(
        [*(math.sin(radius) * np.stack([np.cos(angles), np.sin(angles)])), np.cos(radius + 0 * angles)]
    )
    latitudes = np.linspace(max(pitch - band, -90), min(pitch + band, 90), 9)
    for turns in [1] if abs(pitch) == 90 else range(1, MAX_TILES):
        discs = np.concatenate([circle @ _turn(180 / turns, latitude).T for latitude in latitudes])
        places = tile._seen(np.arctan2(discs[:, 0], discs[:, 2]), np.arcsin(np.clip(discs[:, 1], -1, 1)))
        if (np.abs(np.nan_to_num(places, nan=9) - 0.5) <= 1 + 1e-9).all():
            return turns
    return None


def same_objects(
    masks: Sequence[Bool[np.ndarray, "h w"]],
    tile_of: Sequence[int],
    cut: Sequence[bool],
    quality: Sequence[float],
    min_overlap: float = 0.5,
) -> list[int]:
    """The index of the mask that represents the same object, for each mask; its own index if it is kept.

    Two masks of different tiles show one object if their intersection is at least ``min_overlap`` of the smaller.
    Complete masks take precedence over truncated ones, larger truncated ones over smaller, else higher quality. Within
    a tile a part and its whole remain separate.

    Args:
        masks: of the image.
        tile_of: tile of each mask.
        cut: whether it is truncated by the edge of its tile, see `Tile.cuts`.
        quality: of each mask.
        min_overlap: fraction of the smaller mask.
    """
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    boxes = [seam_box(mask) for mask in masks]
    order = sorted(range(len(masks)), key=lambda i: (cut[i], -areas[i] if cut[i] else -quality[i], i))
    stands_for = [-1] * len(masks)
    kept: list[int] = []
    for i in order:
        stands_for[i] = i
        for j in kept:
            if tile_of[i] == tile_of[j] or boxes[i] is None or boxes[j] is None:
                continue
            if np.count_nonzero(masks[i] & masks[j]) >= min_overlap * min(areas[i], areas[j]):
                stands_for[i] = j
                break
        else:
            kept.append(i)
    return stands_for
