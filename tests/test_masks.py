import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import box_of, decode_rle, encode_rle, mask_logits, polygon_mask, upsample, view_logits

random = np.random.default_rng(7)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((5, 7), bool),
        np.ones((5, 7), bool),
        np.ones((1, 1), bool),
        random.random((31, 17)) > 0.5,
        random.random((31, 17)).T > 0.9,
        np.arange(900 * 7).reshape(900, 7) % 613 == 0,
    ],
)
def test_rle_brings_back_the_mask_and_is_what_coco_reads(mask):
    rle = encode_rle(mask)
    assert isinstance(rle["counts"], str) and rle["size"] == list(mask.shape)
    assert (decode_rle(rle) == mask).all() and decode_rle(rle).dtype == bool
    assert coco.area({"size": rle["size"], "counts": rle["counts"].encode()}) == mask.sum()


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [4, 5]},
        {"counts": "d0"},
        {"size": None, "counts": "d0"},
        {"size": ["a", 5], "counts": "d0"},
        {"size": [4], "counts": "d0"},
        {"size": [4, 5], "counts": None},
        {"size": [4, 5], "counts": ""},
        {"size": [4, 5], "counts": "abc"},
        {"size": [4, 5], "counts": "\u20ac"},
        {"size": [4, 6], "counts": "d0"},
        {"size": [1_000_000, 1_000_000], "counts": "d0"},
        {"size": [4, 5], "counts": encode_rle(np.eye(5, dtype=bool))["counts"]},
    ],
)
def test_a_damaged_rle_is_one_clear_error(rle):
    with pytest.raises(NbHelpersError, match="run-length"):
        decode_rle(rle)


def test_a_box_is_tight_and_ends_after_the_last_pixel():
    mask = np.zeros((10, 12), bool)
    assert box_of(mask) is None
    mask[3, 4] = True
    assert box_of(mask) == (4, 3, 5, 4)
    mask[9, 11] = True
    assert box_of(mask) == (4, 3, 12, 10)


def test_a_polygon_is_filled_x_first():
    mask = polygon_mask([(2, 1), (8, 1), (8, 4), (2, 4)], (10, 12))
    assert box_of(mask) == (2, 1, 9, 5) and mask.sum() == 7 * 4


def reference(logits, extent, size):
    """As SAM does it, written down plainly: enlarge by 4 and crop where the image was padded, then to image size."""
    values = torch.from_numpy(logits)[None, None]
    if tuple(extent) != logits.shape:
        values = torch.nn.functional.interpolate(values, scale_factor=4, mode="bilinear", align_corners=False)
        values = values[..., : round(extent[0] * 4), : round(extent[1] * 4)]
    return torch.nn.functional.interpolate(values, size, mode="bilinear", align_corners=False)[0, 0].numpy()


@pytest.mark.parametrize(
    ("extent", "size"),
    [((32, 32), (120, 160)), ((32, 32), (20, 9)), ((24, 32), (120, 160)), ((32, 21.3), (150, 100)), ((32, 32), (1, 1))],
)
def test_logits_are_enlarged_as_sam_does(extent, size):
    logits = random.normal(size=(32, 32)).astype(np.float32)
    out = upsample(logits, extent, size)
    assert out.shape == size and out.dtype == np.float32
    np.testing.assert_allclose(out, reference(logits, extent, size), atol=1e-5)


@pytest.mark.parametrize("extent", [(32, 32), (24, 32)])
def test_a_view_on_everything_is_the_whole_mask(extent):
    logits = random.normal(size=(32, 32)).astype(np.float32)
    size = (120, 160)
    view = view_logits(logits, extent, size, (0, 0, 160, 120), size)
    np.testing.assert_allclose(view, upsample(logits, extent, size), atol=1e-4)


@pytest.mark.parametrize("extent", [(32, 32), (24, 32)])
def test_a_view_at_natural_size_is_that_part_of_the_mask(extent):
    logits = random.normal(size=(32, 32)).astype(np.float32)
    whole = upsample(logits, extent, (120, 160))
    view = view_logits(logits, extent, (120, 160), (30, 20, 90, 60), (40, 60))
    np.testing.assert_allclose(view, whole[20:60, 30:90], atol=1e-4)


def test_a_view_of_a_huge_photo_costs_no_more_than_the_view():
    view = view_logits(np.ones((256, 256), np.float32), (256, 256), (60000, 90000), (0, 0, 90000, 60000), (40, 60))
    assert view.shape == (40, 60) and (view > 0).all()


def test_a_mask_prompt_is_clear_inside_and_outside():
    mask = np.zeros((120, 160), bool)
    mask[:60] = True
    logits = mask_logits(mask, (32, 32))
    assert logits.shape == (32, 32) and logits.dtype == np.float32
    np.testing.assert_allclose(logits[:16], 10, rtol=1e-5)
    np.testing.assert_allclose(logits[16:], -10, rtol=1e-5)
