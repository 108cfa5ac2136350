"""TIPSv2: tokens, texts and dense maps against the library's own processor and network; errors."""

import numpy as np
import pytest
import tiny_networks
import torch
import transformers

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import tipsv2
from nbhelpers.models.dense import DenseSettings
from nbhelpers.models.protocols import PatchEncoder, TextEncoder

PLAIN = ("{}",)
ROLES = {"checkpoint": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tipsv2")
    network = tiny_networks.save("tipsv2-b14", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.Tipsv2Processor(transformers.Tipsv2ImageProcessor(), tokenizer)
    return {role: folder / name for role, name in ROLES.items()}, network, processor


@pytest.fixture(scope="module")
def encoder(tiny):
    return tipsv2.build("tiny", tiny[0], "cpu", short_side=56)


def test_it_encodes_texts_and_patches(encoder):
    assert isinstance(encoder, TextEncoder) and isinstance(encoder, PatchEncoder)
    assert (encoder.patch, encoder.dimension) == (14, 24)


def test_texts_are_those_of_the_librarys_processor_and_network(encoder, tiny):
    _, network, processor = tiny
    names = ["cat", "Red Ball."]
    encoded = processor(text=names, return_tensors="pt", padding="max_length", max_length=64)
    theirs = torch.nn.functional.normalize(network.get_text_features(**encoded).pooler_output, dim=-1)
    np.testing.assert_allclose(encoder.text_embeddings(names, PLAIN), theirs, atol=1e-5)
    several = encoder.text_embeddings(["cat"], ("a {}.", "the {}."))
    each = encoder.text_embeddings(["a cat.", "the cat."], PLAIN).mean(0)
    np.testing.assert_allclose(several[0], each / each.norm(), atol=1e-5)


def test_tokens_and_maps_are_those_of_the_library_on_a_photo_that_is_no_square(encoder, tiny, photo):
    _, network, processor = tiny
    rows, columns = 4, 5  # 120 x 160 pixels with a short side of 56: 56 x 74.7
    size = {"height": rows * 14, "width": columns * 14}
    pixels = processor.image_processor(photo.copy(), size=size, return_tensors="pt")["pixel_values"]
    hidden = network.get_image_features(pixel_values=pixels).last_hidden_state[0, -rows * columns :]
    scaled = np.ascontiguousarray(photo[:56, :70])
    whole = processor.image_processor(scaled, size=size, return_tensors="pt")["pixel_values"]
    tokens = network.get_image_features(pixel_values=whole).last_hidden_state[0, -rows * columns :]
    np.testing.assert_allclose(encoder.tokens([scaled])[0].reshape(20, -1), tokens, atol=1e-5)

    names = ["cat", ["dog", "bird"]]
    found = encoder.dense(photo, names, DenseSettings(short_side=56, crop=0, scale=20.0, templates=PLAIN))
    units = torch.nn.functional.normalize(hidden, dim=-1)
    probabilities = (20 * units @ encoder.text_embeddings(["cat", "dog", "bird"], PLAIN).T).softmax(-1)
    expected = torch.stack([probabilities[:, 0], probabilities[:, 1:].amax(1)])
    expected = (expected / expected.sum(0)).reshape(2, rows, columns)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert (found.names, found.size, found.model) == (("cat", "dog"), (120, 160), "tiny")


def test_batches_are_equal_to_single_pictures(encoder, photo):
    images = [photo, photo[:70, :84], photo[::-1]]
    for together, image in zip(encoder.tokens(images), images, strict=True):
        np.testing.assert_allclose(together, encoder.tokens([image])[0], atol=1e-5)


def test_maps_at_the_size_of_the_photo_and_refined(encoder, photo):
    settings = DenseSettings(short_side=56, crop=0, templates=PLAIN, at_image_size=True, pamr_steps=2)
    found = encoder.dense(photo, ["cat", "dog"], settings).probabilities
    assert found.shape == (2, 120, 160)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_wrong_names_and_files_are_one_clear_error(encoder, tiny, photo, tmp_path):
    with pytest.raises(NbHelpersError, match="too long"):
        encoder.text_embeddings(["x" * 100], PLAIN)
    with pytest.raises(NbHelpersError, match="listed twice"):
        encoder.dense(photo, ["cat", "cat"])
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{")
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        tipsv2.build("tiny", {**tiny[0], "tokenizer": broken}, "cpu")
    other = transformers.Tipsv2Tokenizer(
        vocab={"<pad>": 0, "<unk>": 1} | {f"t{n}": n + 2 for n in range(90)}, merges=[]
    )
    other.save_pretrained(tmp_path)
    with pytest.raises(NbHelpersError, match="another network"):
        tipsv2.build("tiny", {**tiny[0], "tokenizer": broken}, "cpu")
