"""Edits without a model, and the compositing of inpainted crops: windows, feathering, colour matching."""

import cv2
import numpy as np
import pytest

from nbhelpers.core import images, masks
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.editing import effects

EVERY = {
    "blacken": lambda image, mask: effects.blacken(image, mask),
    "white_on_black": lambda image, mask: effects.white_on_black(image, mask),
    "colour": lambda image, mask: effects.colour(image, mask, (1, 2, 3)),
    "shaded": lambda image, mask: effects.colour(image, mask, (1, 2, 3), keep_light=True),
    "blur": lambda image, mask: effects.blur(image, mask),
    "swap_background": lambda image, mask: effects.swap_background(image, mask, (9, 9, 9)),
    "cut_out": lambda image, mask: effects.cut_out(image, mask),
}


@pytest.fixture
def disc(photo):
    rows, columns = np.mgrid[: photo.shape[0], : photo.shape[1]]
    return (columns - 50) ** 2 + (rows - 60) ** 2 <= 25**2


@pytest.mark.parametrize("do", EVERY.values(), ids=EVERY)
def test_the_input_is_not_touched_and_the_size_stays(do, photo, disc):
    before = photo.copy()
    result = do(photo, disc)
    assert result.shape[:2] == photo.shape[:2] and result.dtype == np.uint8
    assert np.array_equal(photo, before) and not np.shares_memory(result, photo)


@pytest.mark.parametrize("share", ["nothing", "everything"])
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (3, 40)])
@pytest.mark.parametrize("do", EVERY.values(), ids=EVERY)
def test_tiny_photos_and_full_and_empty_masks_are_fine(do, size, share):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    result = do(image, np.full(size, share == "everything"))
    assert result.shape[:2] == size


@pytest.mark.parametrize("do", EVERY.values(), ids=EVERY)
def test_a_mask_that_does_not_fit_is_told(do, photo, disc):
    with pytest.raises(NbHelpersError, match="differ in size"):
        do(photo, disc[1:])
    with pytest.raises(NbHelpersError, match="mask > 0"):
        do(photo, disc.astype(np.uint8) * 255)


def test_blacken_and_white_on_black(photo, disc):
    black = effects.blacken(photo, disc)
    assert not black[disc].any() and np.array_equal(black[~disc], photo[~disc])
    white = effects.white_on_black(photo, disc)
    assert (white[disc] == 255).all() and not white[~disc].any()


def test_colour_covers_as_much_as_asked(photo, disc):
    half = effects.colour(photo, disc, (0, 200, 100), opacity=0.5)
    assert np.abs(half[disc] - (photo[disc] / 2 + np.array([0, 100, 50]))).max() <= 0.5
    assert np.array_equal(half[~disc], photo[~disc])
    assert np.array_equal(effects.colour(photo, disc, (0, 200, 100), opacity=0), photo)


def test_colour_can_keep_light_and_shade(disc):
    ramp = np.repeat(np.linspace(40, 200, 160).astype(np.uint8)[None, :, None], 120, 0).repeat(3, 2)
    blue = effects.colour(ramp, disc, (80, 80, 220), keep_light=True)
    light = (cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[:, :, 0].astype(int) for picture in (ramp, blue))
    before, after = light
    middle = disc & (ramp[:, :, 0] < 160)  # brighter blues do not exist
    assert np.abs(before - after)[middle].mean() < 12
    assert (blue[middle, 2].astype(int) > blue[middle, 0]).all()


@pytest.mark.parametrize("wrong", [{"rgb": (1, 2)}, {"rgb": (0, 0, 256)}, {"rgb": (0, 0, 0), "opacity": 1.1}])
def test_a_wrong_colour_is_told(photo, disc, wrong):
    with pytest.raises(NbHelpersError, match=r"colour|opacity"):
        effects.colour(photo, disc, **wrong)


def test_blur_is_nearly_a_gaussian_where_everything_is_blurred():
    image = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    blurred = effects.blur(image, np.ones((120, 160), bool), sigma=6)
    expected = cv2.GaussianBlur(image, (0, 0), 6, borderType=cv2.BORDER_REFLECT)
    inner = np.s_[20:-20, 20:-20]
    assert np.abs(blurred[inner].astype(int) - expected[inner]).max() <= 4


def test_a_sharp_object_does_not_glow_in_its_blurred_background(photo, disc):
    image = photo.copy()
    image[disc] = 255
    image[~disc] = 40
    blurred = effects.blur(image, ~disc, sigma=8)
    assert (blurred[~disc] == 40).all() and (blurred[disc] == 255).all()


def test_a_blur_hides_what_was_there(photo, disc):
    noisy = photo.copy()
    noisy[disc] = np.random.default_rng(0).integers(0, 256, (disc.sum(), 3))
    blurred = effects.blur(noisy, disc, sigma=10)
    assert blurred[disc].std() < noisy[disc].std() / 3
    assert np.array_equal(blurred[~disc], noisy[~disc])
    with pytest.raises(NbHelpersError, match="sigma"):
        effects.blur(photo, disc, sigma=0)


@pytest.mark.parametrize("size", [(120, 160), (10, 200), (600, 30), (1, 1)])
def test_a_background_of_any_size_covers_the_photo(photo, disc, size):
    other = np.full((*size, 3), (10, 20, 30), np.uint8)
    swapped = effects.swap_background(photo, disc, other)
    assert (swapped[~disc] == (10, 20, 30)).all()
    core = (np.mgrid[:120, :160][1] - 50) ** 2 + (np.mgrid[:120, :160][0] - 60) ** 2 <= 20**2
    assert np.array_equal(swapped[core], photo[core])


def test_a_background_is_cut_at_its_middle(photo):
    wide = np.zeros((120, 480, 3), np.uint8)
    wide[:, 160:320] = 200
    swapped = effects.swap_background(photo, np.zeros(photo.shape[:2], bool), wide)
    assert (swapped == 200).all()


def test_a_cut_out_fades_inside_the_mask_only(photo, disc):
    cut = effects.cut_out(photo, disc, feather=3)
    assert np.array_equal(cut[:, :, :3], photo)
    assert not cut[~disc, 3].any() and cut[60, 50, 3] == 255
    rim = disc & ~cv2.erode(disc.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert (cut[rim, 3] > 0).all() and (cut[rim, 3] < 255).all()
    hard = effects.cut_out(photo, disc, feather=0)
    assert set(np.unique(hard[:, :, 3])) == {0, 255}


def test_an_object_that_runs_out_of_the_photo_does_not_fade_at_the_border(photo):
    left = np.zeros(photo.shape[:2], bool)
    left[:, :60] = True
    assert (effects.cut_out(photo, left, feather=3)[:, :50, 3] == 255).all()


def disc_at(size, x, y, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_mask_grows_by_a_disc():
    point = np.zeros((41, 51), bool)
    point[20, 25] = True
    assert np.array_equal(masks.dilate(point, 7), disc_at((41, 51), 25, 20, 7))
    assert np.array_equal(masks.dilate(point, 0), point)


def test_a_mask_grows_over_the_border_of_the_photo_and_an_empty_one_stays_empty():
    corner = np.zeros((10, 12), bool)
    corner[0, 0] = True
    assert np.array_equal(masks.dilate(corner, 3), disc_at((10, 12), 0, 0, 3))
    assert not masks.dilate(np.zeros((10, 12), bool), 1000).any()


def test_a_feather_falls_from_one_to_exactly_zero():
    distance = np.arange(12, dtype=np.float32)[None]
    opacity = effects.feather(distance, grow=3, width=4)[0]
    assert (opacity[:4] == 1).all() and (opacity[7:] == 0).all()
    assert opacity[5] == pytest.approx(0.5)
    assert (np.diff(opacity[3:8]) < 0).all()


def test_a_feather_of_no_width_is_a_hard_edge():
    opacity = effects.feather(np.arange(5, dtype=np.float32)[None], grow=2, width=0)[0]
    assert opacity.tolist() == [1, 1, 1, 0, 0]


def the_crops(mask, side=64, margin=4, **what):
    return list(effects.crops(mask, side, margin, **what))


def assert_each_pixel_is_in_one_crop(mask, crops):
    count = np.zeros(mask.shape, int)
    for crop in crops:
        count[crop.window] += crop.part
    assert np.array_equal(count, mask.astype(int))


def test_a_small_object_gets_a_window_of_the_models_size_around_it():
    mask = disc_at((400, 600), 300, 200, 5)
    (crop,) = the_crops(mask)
    x0, y0, x1, y1 = crop.box
    assert (x1 - x0, y1 - y0) == (64, 64)
    assert abs((x0 + x1) / 2 - 300) <= 1 and abs((y0 + y1) / 2 - 200) <= 1
    assert_each_pixel_is_in_one_crop(mask, [crop])


def test_a_large_object_gets_a_window_that_shows_its_surroundings():
    mask = disc_at((900, 900), 450, 450, 100)
    (crop,) = the_crops(mask, context=0.5)
    x0, y0, x1, y1 = crop.box
    assert x1 - x0 == y1 - y0 == 2 * (201 + 8)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (599, 0), (0, 399), (599, 399), (300, 0)])
def test_at_the_border_the_window_keeps_its_size(x, y):
    mask = disc_at((400, 600), x, y, 6)
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
    near, far = disc_at((300, 900), 100, 100, 5), disc_at((300, 900), 108, 104, 3)
    assert len(the_crops(near | far)) == 1
    apart = near | disc_at((300, 900), 800, 200, 9)
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
    ring = disc_at((800, 800), 400, 400, 390) & ~disc_at((800, 800), 400, 400, 380)
    mask = ring | disc_at((800, 800), 400, 400, 4)
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
    known = ~disc_at((90, 120), 60, 45, 30)
    found = effects.membrane(np.where(known[:, :, None], ramp, 0), known)
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
    found = effects.membrane(values, known)
    assert np.abs(found - exact)[~known].max() < 0.15 * np.ptp(values)
    assert np.abs(found - exact)[~known].mean() < 0.03 * np.ptp(values)


def test_a_membrane_of_nothing_is_nothing_and_of_everything_is_itself():
    values = np.ones((5, 7, 3), np.float32)
    assert not effects.membrane(values, np.zeros((5, 7), bool)).any()
    assert effects.membrane(values, np.ones((5, 7), bool)) is values


@pytest.mark.parametrize("side", [512, 40])
def test_a_fill_that_is_too_dark_is_shifted_by_what_it_lacks(photo, side):
    fill = (photo.astype(int) - 20).clip(0).astype(np.uint8)
    known = masks.dilate(disc_at((120, 160), 130, 100, 10), 6) & ~disc_at((120, 160), 130, 100, 10)
    shift = effects.colour_shift(photo, fill, known, side)
    assert max(shift.shape) <= max(side, 3)
    assert shift == pytest.approx(20, abs=1)


def test_another_thing_at_the_seam_is_not_taken_for_light():
    dark, bright = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 255, np.uint8)
    shift = effects.colour_shift(bright, dark, np.ones((40, 40), bool))
    assert shift.max() <= effects.LARGEST_SHIFT


def test_pasting_writes_only_where_there_is_opacity(photo):
    target, fill = photo.copy(), np.full_like(photo, 7)
    opacity = effects.feather(masks.distance_to(disc_at((120, 160), 80, 60, 10)), 2, 5)
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
    whole = disc_at((80, 90), 40, 40, 20)
    speckled = whole.copy()
    speckled[35:38, 40:43] = speckled[50, 30] = False
    assert np.array_equal(masks.fill_pinholes(speckled), whole)
    ring = whole & ~disc_at((80, 90), 40, 40, 9)
    assert np.array_equal(masks.fill_pinholes(ring), ring)
    notched = whole.copy()
    notched[40, 40:] = False
    assert np.array_equal(masks.fill_pinholes(notched), notched), "open to the outside"
    nothing, everything = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    assert not masks.fill_pinholes(nothing).any() and masks.fill_pinholes(everything).all()
