"""PAMR against its formula, pixel by pixel, and what it is for: a coarse map that finds the picture's edges."""

import numpy as np
import pytest
import torch

from nbhelpers.models.dense import DILATIONS, STEPS, pamr


def by_pixel(image, maps, steps, dilations):
    channels, height, width = image.shape

    def places(y, x):
        offsets = [(d * a, d * b) for d in dilations for a in (-1, 0, 1) for b in (-1, 0, 1)]
        for down, right in offsets:
            place = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
            yield place, (down, right) != (0, 0)

    weights = {}
    for y in range(height):
        for x in range(width):
            window = list(places(y, x))
            spread = [np.std([image[c][q] for q, _ in window], ddof=1) for c in range(channels)]
            around = [q for q, other in window if other]
            likeness = np.array(
                [
                    -np.mean([abs(image[c][q] - image[c][y, x]) / (1e-8 + 0.1 * spread[c]) for c in range(channels)])
                    for q in around
                ]
            )
            share = np.exp(likeness - likeness.max())
            weights[y, x] = list(zip(around, share / share.sum(), strict=True))
    for _ in range(steps):
        maps = np.array(
            [[[sum(a * m[q] for q, a in weights[y, x]) for x in range(width)] for y in range(height)] for m in maps]
        )
    return maps


@pytest.mark.parametrize(
    ("size", "steps", "dilations"),
    [((6, 9), 1, (1,)), ((9, 7), 3, (1, 2)), ((11, 12), 2, (8, 16)), ((1, 5), 2, (2, 4)), ((3, 3), 0, (1,))],
)
def test_it_is_its_formula(size, steps, dilations):
    numbers = np.random.default_rng(0)
    image, maps = numbers.normal(size=(3, *size)), numbers.normal(size=(2, *size))
    found = pamr(torch.from_numpy(image).float(), torch.from_numpy(maps).float(), steps, dilations)
    np.testing.assert_allclose(found, by_pixel(image, maps, steps, dilations), atol=1e-5)


def test_brightness_and_contrast_do_not_matter():
    image, maps = torch.rand(3, 20, 24), torch.rand(4, 20, 24)
    torch.testing.assert_close(pamr(image, maps), pamr(image * 58 + 120, maps), atol=1e-4, rtol=0)


def test_maps_stay_between_their_bounds_and_the_input_is_not_changed():
    image, maps = torch.rand(3, 20, 24), torch.rand(4, 20, 24)
    kept = maps.clone()
    refined = pamr(image, maps)
    assert refined.shape == maps.shape
    assert torch.equal(maps, kept)
    assert refined.min() >= kept.min() and refined.max() <= kept.max()
    flat = torch.full((1, 20, 24), 0.3)
    torch.testing.assert_close(pamr(image, flat), flat, atol=1e-5, rtol=0)


def test_the_picture_without_any_contrast_is_averaged_evenly():
    maps = torch.zeros(1, 5, 5)
    maps[0, 2, 2] = 8
    refined = pamr(torch.zeros(3, 5, 5), maps, 1, (1,))
    assert refined[0, 2, 2] == 0
    assert refined[0, 1:4, 1:4].sum() == pytest.approx(8)


def test_a_coarse_map_finds_the_edges_of_the_picture():
    rows, columns = np.mgrid[:96, :96]
    truth = (rows - 48) ** 2 + (columns - 48) ** 2 < 30**2
    image = torch.from_numpy(np.where(truth, 200.0, 60.0)).float().expand(3, -1, -1) + torch.randn(3, 96, 96) * 4
    coarse = torch.from_numpy(truth).float().reshape(6, 16, 6, 16).mean((1, 3))
    blurred = torch.nn.functional.interpolate(coarse[None, None], (96, 96), mode="bilinear")[0]
    wrong = [
        ((values[0] > 0.5).numpy() != truth).mean() for values in (blurred, pamr(image, blurred, STEPS, DILATIONS))
    ]
    assert wrong[1] < 0.5 * wrong[0]
