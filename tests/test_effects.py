"""Edits without a model, each against what it must do to every pixel."""

import cv2
import numpy as np
import pytest

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
