"""Tiles of equirectangular pictures: what goes out comes back, at the seam and at the poles too."""

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import box_of, seam_box, seam_crop
from nbhelpers.product_matching.panorama import Tile, same_objects, tiles

SIZE = (256, 512)
TILES = tiles(SIZE, side=200)


def directions(count=4000, seed=0):
    """``(x, y)`` of the picture, spread evenly over the sphere."""
    random = np.random.default_rng(seed)
    latitude = np.arcsin(random.uniform(-1, 1, count))
    return np.column_stack(
        [random.uniform(-0.5, SIZE[1] - 0.5, count), (0.5 - latitude / np.pi) * SIZE[0] - 0.5],
    )


def disc(longitude, latitude, radius):
    """A disc on the sphere as a mask of the picture; degrees."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    lon = ((columns + 0.5) / SIZE[1] - 0.5) * 2 * np.pi
    lat = (0.5 - (rows + 0.5) / SIZE[0]) * np.pi
    a, b = np.radians([longitude, latitude])
    cosine = np.sin(lat) * np.sin(b) + np.cos(lat) * np.cos(b) * np.cos(lon - a)
    return cosine >= np.cos(np.radians(radius))


def seen(tile, mask):
    """The mask as the tile sees it."""
    return tile.view(mask[:, :, None].view(np.uint8).repeat(3, 2) * 255)[:, :, 0] > 127


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def from_panorama(tile, places):
    """Where ``(x, y)`` of the picture lie in the view; NaN behind it (gnomonic projection, Snyder 1987, page 165)."""
    longitude = ((places[:, 0] + 0.5) / SIZE[1] - 0.5) * 2 * np.pi - np.radians(tile.yaw)
    latitude, pitch = (0.5 - (places[:, 1] + 0.5) / SIZE[0]) * np.pi, np.radians(tile.pitch)
    level = np.cos(latitude) * np.cos(longitude)
    ahead = np.sin(latitude) * np.sin(pitch) + level * np.cos(pitch)
    plane = (
        np.column_stack(
            [np.cos(latitude) * np.sin(longitude), level * np.sin(pitch) - np.sin(latitude) * np.cos(pitch)]
        )
        / np.where(ahead > 1e-9, ahead, np.nan)[:, None]
    )
    half = tile.side / 2
    return plane * half / np.tan(np.radians(tile.fov / 2)) + half - 0.5


def inside(tile, places):
    return ((places >= -0.5) & (places <= tile.side - 0.5)).all(1)


def test_a_few_tiles_cover_the_sphere_with_both_poles():
    assert len(TILES) == 14
    assert {tile.pitch for tile in TILES} >= {90, -90}
    points = directions()
    hit = sum(inside(tile, from_panorama(tile, points)) for tile in TILES)
    assert hit.min() >= 1


@pytest.mark.parametrize(("fov", "overlap"), [(90, 20), (75, 10), (90, 40), (110, 30)])
def test_what_is_not_wider_than_the_overlap_is_whole_in_some_tile(fov, overlap):
    views = tiles(SIZE, side=100, fov=fov, overlap=overlap)
    for x, y in directions(150, seed=1):
        longitude, latitude = ((x + 0.5) / SIZE[1] - 0.5) * 360, (0.5 - (y + 0.5) / SIZE[0]) * 180
        angles = np.linspace(0, 360, 16)
        camera = Tile(longitude, latitude, 2, SIZE, overlap)
        ring = np.column_stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))]) + 0.5
        rim = camera.to_panorama(ring)
        assert any(inside(tile, from_panorama(tile, rim)).all() for tile in views)


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: f"{tile.yaw:.0f},{tile.pitch:.0f}")
def test_points_come_back_exactly(tile):
    points = np.random.default_rng(2).uniform(-0.5, tile.side - 0.5, (500, 2))
    places = tile.to_panorama(points)
    assert (places[:, 0] >= -0.5 - 1e-6).all() and (places[:, 0] <= SIZE[1] - 0.5 + 1e-6).all()
    assert np.abs(from_panorama(tile, places) - points).max() < 1e-8
    assert np.abs(from_panorama(tile, places + np.array([SIZE[1], 0])) - points).max() < 1e-8, "x goes round"


def test_the_middle_of_a_view_is_where_the_tile_looks():
    tile = Tile(90, 30, 101, SIZE)
    assert np.allclose(tile.to_panorama(np.array([(50, 50)])), [(0.75 * 512 - 0.5, 256 / 3 - 0.5)])
    up, right = tile.to_panorama(np.array([(50, 0), (100, 50)]))
    assert up[1] < 85 and right[0] > 383


def test_a_view_shows_the_picture_upright_and_not_mirrored():
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    panorama = np.stack([columns // 2, rows, 0 * rows], axis=2).astype(np.uint8)
    view = Tile(0, 0, 100, SIZE).view(panorama)
    assert (np.diff(view[50, :, 0].astype(int)) >= 0).all() and view[50, -1, 0] - view[50, 0, 0] == pytest.approx(
        63, abs=2
    )
    assert (np.diff(view[:, 50, 1].astype(int)) >= 0).all() and view[-1, 50, 1] > view[0, 50, 1]


def test_a_view_has_no_line_at_the_seam():
    panorama = np.full((*SIZE, 3), 100, np.uint8)
    panorama[:, :256] = 140
    columns = np.arange(SIZE[1])
    panorama[:] = (100 + 40 * np.cos(2 * np.pi * (columns + 0.5) / SIZE[1])).astype(np.uint8)[None, :, None]
    view = Tile(180, 0, 200, SIZE).view(panorama)[100, :, 0].astype(int)
    assert np.abs(np.diff(view)).max() <= 2


@pytest.mark.parametrize(
    ("longitude", "latitude"), [(0, 0), (180, 0), (-179, 20), (20, 45), (77, -50), (10, 88), (120, -90), (-30, 90)]
)
def test_a_mask_goes_to_its_tiles_and_comes_back(longitude, latitude):
    mask = disc(longitude, latitude, 9)
    whole = 0
    for tile in tiles(SIZE, side=400):
        view = seen(tile, mask)
        back = tile.carry(view)
        assert back.shape == SIZE
        if not view.any():
            assert not back.any()
        elif tile.cuts(view):
            assert (back & ~mask).sum() < 0.05 * mask.sum()
        else:
            whole += 1
            assert iou(back, mask) > 0.97
    assert whole >= 1


def test_carrying_a_full_view_gives_exactly_the_pixels_that_are_seen():
    every = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), -1).reshape(-1, 2)
    for tile in TILES:
        carried = tile.carry(np.ones((tile.side, tile.side), bool))
        assert np.array_equal(carried.ravel(), inside(tile, from_panorama(tile, every)))


def test_what_several_tiles_saw_is_one_thing_and_parts_of_one_tile_stay():
    a, b = disc(20, 0, 9), disc(180, 5, 9)
    masks, numbers, cut, quality = [], [], [], []
    for number, tile in enumerate(TILES):
        for mask in (a, b):
            if (view := seen(tile, mask)).any():
                masks.append(tile.carry(view))
                numbers.append(number)
                cut.append(tile.cuts(view))
                quality.append(0.9)
    assert len(masks) > 2
    kept = [i for i, stands in enumerate(same_objects(masks, numbers, cut, quality)) if i == stands]
    assert len(kept) == 2 and not any(cut[i] for i in kept)
    assert sorted(round(max(iou(masks[i], a), iou(masks[i], b)), 1) for i in kept) == [1, 1]
    part = a & disc(15, 0, 6)
    assert same_objects([a, part], [3, 3], [False, False], [0.9, 0.8]) == [0, 1]
    assert same_objects([a, part], [3, 4], [False, False], [0.8, 0.9]) == [1, 1]
    assert same_objects([part, a], [3, 4], [True, True], [0.9, 0.5]) == [1, 1], "of two cut ones the larger"
    assert same_objects([part, a], [3, 4], [True, False], [0.9, 0.5]) == [1, 1], "a whole one before a cut one"
    assert same_objects([], [], [], []) == []


def test_a_box_may_cross_the_seam():
    mask = disc(180, 0, 10)
    x0, y0, x1, y1 = seam_box(mask)
    assert x0 < 512 < x1 and x1 - x0 < 40
    assert seam_crop(mask, (x0, y0, x1, y1)).sum() == mask.sum()
    assert seam_crop(np.dstack([mask] * 3), (x0, y0, x1, y1)).shape == (y1 - y0, x1 - x0, 3)
    middle = disc(10, 0, 10)
    assert seam_box(middle) == box_of(middle)
    assert np.array_equal(seam_crop(middle, seam_box(middle)), middle[y0:y1, slice(*seam_box(middle)[::2])])
    assert seam_box(np.zeros((4, 8), bool)) is None
    assert seam_box(np.ones((4, 8), bool)) == (0, 0, 8, 4)


@pytest.mark.parametrize(
    ("size", "options", "says"),
    [
        ((400, 600), {}, "not equirectangular"),
        (SIZE, {"fov": 170}, "make no sense"),
        (SIZE, {"overlap": 89}, "make no sense"),
    ],
)
def test_what_makes_no_sense_is_refused(size, options, says):
    with pytest.raises(NbHelpersError, match=says):
        tiles(size, **options)


def test_a_mask_or_picture_of_another_size_is_refused():
    with pytest.raises(NbHelpersError, match="another size"):
        TILES[0].view(np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(NbHelpersError, match="not of this tile"):
        TILES[0].carry(np.zeros((10, 20), bool))
