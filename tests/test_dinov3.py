"""DINOv3: tokens against the library's own processor and network; the positional bias and its removal."""

import numpy as np
import pytest
import tiny_networks

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import dinov3
from nbhelpers.models.pretrained import load_processor

SIZES = [(61, 93), (64, 96)]  # one is stretched to whole patches


@pytest.fixture(scope="module", params=["dinov3-vit-small", "dinov3-convnext-tiny"])
def tiny(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    network = tiny_networks.save(request.param, folder)
    names = {"checkpoint": "model.safetensors", "config": "config.json", "processor": "preprocessor_config.json"}
    return {role: folder / name for role, name in names.items()}, network


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tokens_are_those_of_the_librarys_processor_and_network(tiny):
    files, network = tiny
    encoder = dinov3.build("tiny", files, "cpu")
    processor = load_processor("tiny", files, "DINOv3ViTImageProcessor")
    for number, (height, width) in enumerate(SIZES):
        image = picture(height, width, number)
        rows, columns = round(height / encoder.patch), round(width / encoder.patch)
        size = {"height": rows * encoder.patch, "width": columns * encoder.patch}
        pixels = processor(image, size=size, return_tensors="pt")["pixel_values"]
        expected = network(pixel_values=pixels).last_hidden_state[0, -rows * columns :]
        tokens = encoder.tokens([image])[0]
        assert tokens.shape == (rows, columns, encoder.dimension) and tokens.dtype == np.float32
        np.testing.assert_allclose(tokens.reshape(rows * columns, -1), expected, atol=1e-5)


def test_batches_are_equal_to_single_pictures(tiny):
    encoder = dinov3.build("tiny", tiny[0], "cpu", positions=2)
    images = [picture(64, 96, 1), picture(32, 32, 2), picture(64, 96, 3)]
    for together, image in zip(encoder.tokens(images), images, strict=True):
        np.testing.assert_allclose(together, encoder.tokens([image])[0], atol=1e-5)


def test_the_positional_bias_of_a_blank_picture_is_gone_and_content_stays(tiny, monkeypatch):
    monkeypatch.setattr(dinov3, "BLANK_GRID", 8)
    files, _ = tiny
    plain, debiased = (dinov3.build("tiny", files, "cpu", positions=count) for count in (0, 20))
    side = 8 * plain.patch
    blank = np.zeros((side, side, 3), np.uint8)

    def spread(encoder):
        tokens = encoder.tokens([blank])[0].reshape(64, -1)
        tokens = tokens / np.linalg.norm(plain.tokens([blank])[0].reshape(64, -1), axis=1, keepdims=True)
        return np.linalg.norm(tokens - tokens.mean(0))

    assert spread(debiased) < 0.2 * spread(plain)
    tokens, other = (plain.tokens([picture(side, side, 4)])[0], debiased.tokens([picture(side, side, 4)])[0])
    np.testing.assert_allclose(other @ debiased._position_basis().T, 0, atol=1e-4)
    assert np.linalg.norm(other) > 0.3 * np.linalg.norm(tokens)


def test_directions_are_those_of_the_largest_spread():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(12, 12)))[0][:, :3].T  # a constant and two directions
    rows, columns = np.mgrid[-1:1:6j, -1:1:6j]
    blank = 5 * axes[0] + rows[..., None] * axes[1] + 0.1 * columns[..., None] * axes[2]
    (first,) = dinov3.position_directions(blank.astype(np.float32), 1)
    assert abs(first @ axes[1]) > 0.999
    flat = np.tile(axes[0], (3, 3, 1)).astype(np.float32)
    assert dinov3.position_directions(flat, 2).shape == (0, 12)  # nothing to remove
    np.testing.assert_array_equal(dinov3.remove_directions(flat, np.zeros((0, 12), np.float32)), flat)


@pytest.mark.parametrize("count", [-1, 25])
def test_more_directions_than_half_a_token_are_refused(tiny, count):
    with pytest.raises(NbHelpersError, match="out of range"):
        dinov3.build("tiny", tiny[0], "cpu", positions=count)
