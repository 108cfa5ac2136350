"""Crops, feathers, colour matching and pasting, against slow or exact references."""

import cv2
import numpy as np
import pytest

from nbhelpers.core import images, masks
from nbhelpers.editing import compositing


def disc(size, x, y, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_mask_grows_by_a_disc():
    point = np.zeros((41, 51), bool)
    point[20, 25] = True
    assert np.array_equal(masks.dilate(point, 7), disc((41, 51), 25, 20, 7))
    assert np.array_equal(masks.dilate(point, 0), point)


def test_a_mask_grows_over_the_border_of_the_photo_and_an_empty_one_stays_empty():
    corner = np.zeros((10, 12), bool)
    corner[0, 0] = True
    assert np.array_equal(masks.dilate(corner, 3), disc((10, 12), 0, 0, 3))
    assert not masks.dilate(np.zeros((10, 12), bool), 1000).any()


def test_a_feather_falls_from_one_to_exactly_zero():
    distance = np.arange(12, dtype=np.float32)[None]
    opacity = compositing.feather(distance, grow=3, width=4)[0]
    assert (opacity[:4] == 1).all() and (opacity[7:] == 0).all()
    assert opacity[5] == pytest.approx(0.5)
    assert (np.diff(opacity[3:8]) < 0).all()


def test_a_feather_of_no_width_is_a_hard_edge():
    opacity = compositing.feather(np.arange(5, dtype=np.float32)[None], grow=2, width=0)[0]
    assert opacity.tolist() == [1, 1, 1, 0, 0]


def the_crops(mask, side=64, margin=4, **what):
    return list(compositing.crops(mask, side, margin, **what))


def assert_each_pixel_is_in_one_crop(mask, crops):
    count = np.zeros(mask.shape, int)
    for crop in crops:
        count[crop.window] += crop.part
    assert np.array_equal(count, mask.astype(int))


def test_a_small_object_gets_a_window_of_the_models_size_around_it():
    mask = disc((400, 600), 300, 200, 5)
    (crop,) = the_crops(mask)
    x0, y0, x1, y1 = crop.box
    assert (x1 - x0, y1 - y0) == (64, 64)
    assert abs((x0 + x1) / 2 - 300) <= 1 and abs((y0 + y1) / 2 - 200) <= 1
    assert_each_pixel_is_in_one_crop(mask, [crop])


def test_a_large_object_gets_a_window_that_shows_its_surroundings():
    mask = disc((900, 900), 450, 450, 100)
    (crop,) = the_crops(mask, context=0.5)
    x0, y0, x1, y1 = crop.box
    assert x1 - x0 == y1 - y0 == 2 * (201 + 8)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (599, 0), (0, 399), (599, 399), (300, 0)])
def test_at_the_border_the_window_keeps_its_size(x, y):
    mask = disc((400, 600), x, y, 6)
    (crop,) = the_crops(mask)
    x0, y0, x1, y1 = crop.box
    assert min(x0, y0) >= 0 and x1 <= 600 and y1 <= 400
    assert (x1 - x0, y1 - y0) == (64, 64)
    assert_each_pixel_is_in_one_crop(mask, [crop])


def test_a_photo_smaller_than_the_model_is_one_window():
    mask = np.zeros((16, 30), bool)
    mask[4:8, 4:8] = True
    (crop,) = the_crops(mask)
    assert crop.box == (0, 0, 30, 16)


def test_near_parts_share_a_window_and_far_ones_do_not():
    near, far = disc((300, 900), 100, 100, 5), disc((300, 900), 108, 104, 3)
    assert len(the_crops(near | far)) == 1
    apart = near | disc((300, 900), 800, 200, 9)
    crops = the_crops(apart)
    assert len(crops) == 2
    assert crops[0].box[0] > 600, "the larger part comes first"
    assert_each_pixel_is_in_one_crop(apart, crops)


def test_many_specks_are_each_in_one_window():
    mask = np.random.default_rng(0).random((1500, 2100)) > 0.9995
    crops = the_crops(mask, side=512)
    assert_each_pixel_is_in_one_crop(mask, crops)
    assert len(crops) < 100


def test_a_ring_around_an_object_does_not_take_its_pixels():
    ring = disc((800, 800), 400, 400, 390) & ~disc((800, 800), 400, 400, 380)
    mask = ring | disc((800, 800), 400, 400, 4)
    assert_each_pixel_is_in_one_crop(mask, the_crops(mask))


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (64, 64), (200, 90), (33, 500)])
def test_a_square_gives_the_picture_back(size, photo):
    image = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA)
    mask = np.zeros(size, bool)
    mask[size[0] // 2, size[1] // 2] = True
    square, hole, inside = images.fit_square(image, mask, 64)
    assert square.shape == (64, 64, 3) and hole.shape == (64, 64)
    assert hole[: inside[0], : inside[1]].any(), "a hole of one pixel stays a hole"
    back = images.unfit_square(square, inside, size)
    assert back.shape == image.shape
    if max(size) == 64:
        assert np.array_equal(back, image)
    elif max(size) < 64:
        assert np.abs(back.astype(int) - image).mean() < 3


def test_a_membrane_continues_a_ramp():
    rows, columns = np.mgrid[:90, :120].astype(np.float32)
    ramp = np.stack([rows, columns, 2 * rows - columns], axis=2)
    known = ~disc((90, 120), 60, 45, 30)
    found = compositing.membrane(np.where(known[:, :, None], ramp, 0), known)
    assert np.abs(found - ramp).max() < 0.03 * 180, "the steepest rises by 180 over the hole"
    assert np.array_equal(found[known], ramp[known])


def test_a_membrane_agrees_with_laplaces_equation_solved_slowly():
    generator = np.random.default_rng(1)
    values = generator.normal(size=(24, 24, 1)).astype(np.float32).cumsum(0).cumsum(1) / 10
    known = np.ones((24, 24), bool)
    known[6:18, 5:19] = False
    exact = np.where(known[:, :, None], values, 0).astype(float)
    for _ in range(4000):
        mean = (np.roll(exact, 1, 0) + np.roll(exact, -1, 0) + np.roll(exact, 1, 1) + np.roll(exact, -1, 1)) / 4
        exact = np.where(known[:, :, None], exact, mean)
    found = compositing.membrane(values, known)
    assert np.abs(found - exact)[~known].max() < 0.15 * np.ptp(values)
    assert np.abs(found - exact)[~known].mean() < 0.03 * np.ptp(values)


def test_a_membrane_of_nothing_is_nothing_and_of_everything_is_itself():
    values = np.ones((5, 7, 3), np.float32)
    assert not compositing.membrane(values, np.zeros((5, 7), bool)).any()
    assert compositing.membrane(values, np.ones((5, 7), bool)) is values


@pytest.mark.parametrize("side", [512, 40])
def test_a_fill_that_is_too_dark_is_shifted_by_what_it_lacks(photo, side):
    fill = (photo.astype(int) - 20).clip(0).astype(np.uint8)
    known = masks.dilate(disc((120, 160), 130, 100, 10), 6) & ~disc((120, 160), 130, 100, 10)
    shift = compositing.colour_shift(photo, fill, known, side)
    assert max(shift.shape) <= max(side, 3)
    assert shift == pytest.approx(20, abs=1)


def test_another_thing_at_the_seam_is_not_taken_for_light():
    dark, bright = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 255, np.uint8)
    shift = compositing.colour_shift(bright, dark, np.ones((40, 40), bool))
    assert shift.max() <= compositing.LARGEST_SHIFT


def test_pasting_writes_only_where_there_is_opacity(photo):
    target, fill = photo.copy(), np.full_like(photo, 7)
    opacity = compositing.feather(masks.distance_to(disc((120, 160), 80, 60, 10)), 2, 5)
    images.paste(target, fill, opacity, np.full((1, 1, 3), 3, np.float32))
    assert np.array_equal(target[opacity == 0], photo[opacity == 0])
    assert (target[opacity == 1] == 10).all()
    half = (opacity > 0.3) & (opacity < 0.7)
    expected = opacity[half][:, None] * 10 + (1 - opacity[half])[:, None] * photo[half]
    assert np.abs(target[half] - expected).max() <= 0.51


def test_strips_of_a_large_paste_fit_together(monkeypatch):
    generator = np.random.default_rng(2)
    target, fill = (generator.integers(0, 200, (100, 80, 3), dtype=np.uint8) for _ in range(2))
    opacity = np.ones((100, 80), np.float32)
    shift = generator.normal(0, 20, (10, 8, 3)).astype(np.float32)
    whole, strips = target.copy(), target.copy()
    images.paste(whole, fill, opacity, shift)
    monkeypatch.setattr(images, "ROWS", 7)
    images.paste(strips, fill, opacity, shift)
    assert np.abs(whole.astype(int) - strips).max() <= 1
    enlarged = cv2.resize(shift, (80, 100))
    assert np.abs(whole - np.clip(fill + enlarged, 0, 255)).max() < 3


@pytest.mark.parametrize("size", [(40, 40), (64, 64), (150, 100)])
def test_nothing_of_the_hole_bleeds_into_what_counts_as_known(size):
    mask = np.zeros(size, bool)
    mask[10:20, 12:25] = True
    image = np.full((*size, 3), 90, np.uint8)
    image[mask] = (255, 0, 255)
    square, hole, _ = images.fit_square(image, mask, 64)
    assert (square[~hole] == 90).all() and hole.mean() < 0.5


def test_pinholes_are_closed_and_the_hole_of_a_ring_stays():
    whole = disc((80, 90), 40, 40, 20)
    speckled = whole.copy()
    speckled[35:38, 40:43] = speckled[50, 30] = False
    assert np.array_equal(masks.fill_pinholes(speckled), whole)
    ring = whole & ~disc((80, 90), 40, 40, 9)
    assert np.array_equal(masks.fill_pinholes(ring), ring)
    notched = whole.copy()
    notched[40, 40:] = False
    assert np.array_equal(masks.fill_pinholes(notched), notched), "open to the outside"
    nothing, everything = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    assert not masks.fill_pinholes(nothing).any() and masks.fill_pinholes(everything).all()
