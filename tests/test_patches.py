"""DINOv2 and DINOv3: tokens against references on tiny random networks, the lite weights, the positional bias."""

import json

import numpy as np
import pytest
import tiny_networks
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import patches
from nbhelpers.models.adapters import load_processor
from nbhelpers.models.protocols import PatchEncoder
from nbhelpers.weights import catalog
from nbhelpers.weights.cache import files
from nbhelpers.weights.convert import vit_state_dict

PATCH = 4
SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 5 * PATCH}
KINDS = {
    "plain": (Dinov2Config, Dinov2Model, {}),
    "registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel, {"num_register_tokens": 3}),
}
SIDES = [(61, 93), (64, 96)]  # one is stretched to whole patches


@pytest.fixture(scope="module", params=KINDS)
def tiny(request, tmp_path_factory):
    """Files of a tiny random network, and the network."""
    config, network, extra = KINDS[request.param]
    torch.manual_seed(0)
    model = network(config(**SIZES, patch_size=PATCH, **extra)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += torch.randn_like(parameter) * 0.2
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return {"checkpoint": folder / "model.safetensors", "config": folder / "config.json"}, model


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tokens_are_those_of_the_network_without_class_token_and_registers(tiny):
    paths, model = tiny
    encoder = patches.build_dinov2("tiny", paths, "cpu")
    assert isinstance(encoder, PatchEncoder) and (encoder.patch, encoder.dimension) == (PATCH, 12)
    image = picture(3 * PATCH, 7 * PATCH)
    pixels = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    hidden = model(torch.tensor(pixels).permute(2, 0, 1)[None].float()).last_hidden_state[0].numpy()
    tokens = encoder.tokens([image])[0]
    assert tokens.shape == (3, 7, 12) and tokens.dtype == np.float32
    np.testing.assert_allclose(tokens, hidden[-21:].reshape(3, 7, 12), atol=1e-5)


def test_pictures_of_several_sizes_come_back_in_order_and_batches_change_nothing(tiny, monkeypatch):
    encoder = patches.build_dinov2("tiny", tiny[0], "cpu")
    images = [picture(8, 12, 1), picture(20, 20, 2), picture(8, 12, 3), picture(8, 12, 4)]
    alone = [encoder.tokens([image])[0] for image in images]
    batches = []
    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda same, grid: batches.append(len(same)) or encode(same, grid))
    for together, one in zip(encoder.tokens(images), alone, strict=True):
        np.testing.assert_allclose(together, one, atol=1e-5)
    assert sorted(batches) == [1, 3]
    assert encoder.tokens([]) == []


def test_a_picture_is_stretched_to_whole_patches_and_a_tiny_one_has_one(tiny):
    encoder = patches.build_dinov2("tiny", tiny[0], "cpu")
    assert [token.shape[:2] for token in encoder.tokens([picture(9, 15), picture(1, 1)])] == [(2, 4), (1, 1)]


def test_too_many_patches_are_refused_at_once(tiny):
    with pytest.raises(NbHelpersError, match="too many patches"):
        patches.build_dinov2("tiny", tiny[0], "cpu").tokens([np.zeros((1000, 1000, 3), np.uint8)])


def test_wrong_files_are_refused(tiny, tmp_path):
    paths, model = tiny
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(b"no")
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        patches.build_dinov2("tiny", {**paths, "checkpoint": damaged}, "cpu")
    half = {name: value for name, value in model.state_dict().items() if "layer.1" not in name}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(NbHelpersError, match="do not fit"):
        patches.build_dinov2("tiny", {**paths, "checkpoint": tmp_path / "half.safetensors"}, "cpu")
    other = tmp_path / "config.json"
    other.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(NbHelpersError, match="another network"):
        patches.build_dinov2("tiny", {**paths, "config": other}, "cpu")


def test_an_onnx_file_of_something_else_is_refused(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x00nothing")
    with pytest.raises(NbHelpersError, match="ONNX"):
        vit_state_dict(broken)


def test_every_patch_encoder_of_the_catalog_can_be_built_and_the_large_one_is_first():
    models = catalog.models("patch_encoder")
    assert all(model.adapter for model in models)
    assert catalog.models("patch_encoder", "official")[0].name == "dinov2-large"


@pytest.mark.weights
def test_the_lite_tokens_are_those_of_the_onnx_graph(tmp_path):
    import onnx
    import onnxruntime

    paths = files("vit-s14-lite")
    whole = patches.build_lite("whole", paths, "cpu")
    graph = onnx.load(str(paths["checkpoint"]))
    wanted = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_tensor_value_info(wanted, 1, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    image = picture(224, 224)
    pixels = (image / 255 - np.array(patches.MEAN)) / patches.STD
    expected = session.run([wanted], {"input_image": pixels.transpose(2, 0, 1)[None].astype(np.float32)})[0]
    np.testing.assert_allclose(whole.tokens([image])[0].reshape(256, 384), expected[0, 1:], atol=1e-4)


@pytest.mark.weights
def test_the_lite_encoder_knows_a_cat_again_when_it_is_smaller():
    from nbhelpers import load, load_image, sample

    encoder = load("patch_encoder", "vit-s14-lite")
    cat, cup = (load_image(sample(name)) for name in ("chelsea", "coffee"))

    def average(image):
        tokens = encoder.tokens([image])[0].mean((0, 1))
        return tokens / np.linalg.norm(tokens)

    whole, half = average(cat[:280, :448]), average(cat[:280:2, :448:2])
    assert whole @ half > 0.9 > whole @ average(cup[:280, :448]) + 0.1


@pytest.fixture(scope="module", params=["dinov3-vit-small", "dinov3-convnext-tiny"])
def tiny3(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    network = tiny_networks.save(request.param, folder)
    names = {"checkpoint": "model.safetensors", "config": "config.json", "processor": "preprocessor_config.json"}
    return {role: folder / name for role, name in names.items()}, network


def test_tokens_are_those_of_the_librarys_processor_and_network(tiny3):
    files, network = tiny3
    encoder = patches.build_dinov3("tiny", files, "cpu")
    processor = load_processor("tiny", files, "DINOv3ViTImageProcessor")
    for number, (height, width) in enumerate(SIDES):
        image = picture(height, width, number)
        rows, columns = round(height / encoder.patch), round(width / encoder.patch)
        size = {"height": rows * encoder.patch, "width": columns * encoder.patch}
        pixels = processor(image, size=size, return_tensors="pt")["pixel_values"]
        expected = network(pixel_values=pixels).last_hidden_state[0, -rows * columns :]
        tokens = encoder.tokens([image])[0]
        assert tokens.shape == (rows, columns, encoder.dimension) and tokens.dtype == np.float32
        np.testing.assert_allclose(tokens.reshape(rows * columns, -1), expected, atol=1e-5)


def test_batches_are_equal_to_single_pictures(tiny3):
    encoder = patches.build_dinov3("tiny", tiny3[0], "cpu", positions=2)
    images = [picture(64, 96, 1), picture(32, 32, 2), picture(64, 96, 3)]
    for together, image in zip(encoder.tokens(images), images, strict=True):
        np.testing.assert_allclose(together, encoder.tokens([image])[0], atol=1e-5)


def test_the_positional_bias_of_a_blank_picture_is_gone_and_content_stays(tiny3, monkeypatch):
    monkeypatch.setattr(patches, "BLANK_GRID", 8)
    files, _ = tiny3
    plain, debiased = (patches.build_dinov3("tiny", files, "cpu", positions=count) for count in (0, 20))
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
    (first,) = patches.position_directions(blank.astype(np.float32), 1)
    assert abs(first @ axes[1]) > 0.999
    flat = np.tile(axes[0], (3, 3, 1)).astype(np.float32)
    assert patches.position_directions(flat, 2).shape == (0, 12)  # nothing to remove
    np.testing.assert_array_equal(patches.remove_directions(flat, np.zeros((0, 12), np.float32)), flat)


@pytest.mark.parametrize("count", [-1, 25])
def test_more_directions_than_half_a_token_are_refused(tiny3, count):
    with pytest.raises(NbHelpersError, match="out of range"):
        patches.build_dinov3("tiny", tiny3[0], "cpu", positions=count)
