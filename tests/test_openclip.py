"""Dense CLIP against a few-line reference of each formula, on a tiny random network of the real architecture."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from nbhelpers.core.device import MemoryWarning
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.vocabulary import BACKGROUND_WORDS
from nbhelpers.models import adapters, openclip
from nbhelpers.models.dense import (
    PROTOCOLS,
    DenseSettings,
    as_classes,
    class_probabilities,
    pamr,
    sliding_windows,
    stitch_windows,
)
from nbhelpers.models.load import load, unload
from nbhelpers.models.protocols import ImageTextEncoder, TextEncoder
from nbhelpers.weights import catalog
from nbhelpers.weights.sources import Asset, HubFile

PATCH = 8
TINY = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": PATCH},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
ONE = ("a photo of a {}.",)
SMALL = DenseSettings(short_side=48, crop=32, stride=16, templates=ONE)


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    """The name of a tiny architecture that open_clip knows while these tests run."""
    import open_clip
    from open_clip import factory

    kept = list(factory._MODEL_CONFIG_PATHS)
    path = tmp_path_factory.mktemp("architectures") / "tiny-vit.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    yield "tiny-vit"
    factory._MODEL_CONFIG_PATHS[:] = kept
    factory._MODEL_CONFIGS.pop("tiny-vit")


@pytest.fixture(scope="module")
def model(tiny):
    torch.manual_seed(0)
    model = openclip.build_clip(tiny).eval().requires_grad_(False)
    for parameter in model.parameters():  # norms and biases start at 1 and 0, where mistakes hide
        parameter += torch.randn_like(parameter) * 0.2
    return model


@pytest.fixture
def encoder(model):
    return openclip.OpenClipTextEncoder(model, "tiny", "cpu", SMALL)


def attention_by_hand(attention, tokens, kind, grid, std):
    q, k, v = (
        tokens @ weight.T + bias
        for weight, bias in zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    )
    width = q.shape[1] // attention.num_heads
    near = torch.zeros(len(tokens), len(tokens))
    for i in range(1, len(tokens)):
        for j in range(1, len(tokens)):
            (a, b), (c, d) = divmod(i - 1, grid[1]), divmod(j - 1, grid[1])
            near[i, j] = math.exp(-((a - c) ** 2 + (b - d) ** 2) / (2 * std**2))
    heads = []
    for part in range(attention.num_heads):
        qh, kh, vh = (values[:, part * width : (part + 1) * width] for values in (q, k, v))
        qq, kk, qk = (a @ b.T / math.sqrt(width) for a, b in ((qh, qh), (kh, kh), (qh, kh)))
        weights = {
            "clip": lambda qk=qk: qk.softmax(1),
            "sclip": lambda qq=qq, kk=kk: qq.softmax(1) + kk.softmax(1),
            "naclip": lambda kk=kk: (kk + near).softmax(1),
        }[kind]()
        heads.append(weights @ vh)
    return torch.cat(heads, 1) @ attention.out_proj.weight.T + attention.out_proj.bias


@pytest.mark.parametrize("kind", ["clip", "sclip", "naclip"])
def test_the_last_block_attends_as_its_formula_says(model, kind):
    attention, grid = model.visual.transformer.resblocks[-1].attn, (3, 5)
    tokens = torch.randn(2, 16, 32)
    found = openclip.dense_attention(attention, tokens, grid, DenseSettings(attention=kind, gaussian_std=1.5))
    for one, wanted in zip(found, tokens, strict=True):
        torch.testing.assert_close(one, attention_by_hand(attention, wanted, kind, grid, 1.5), atol=1e-5, rtol=0)


def embeds_by_hand(visual, pixels):
    """The tokens before the first block; what is left of a patch at the border is dropped."""
    rows, columns = (side // PATCH for side in pixels.shape[-2:])
    patches = pixels[:, : rows * PATCH, : columns * PATCH].reshape(3, rows, PATCH, columns, PATCH)
    patches = patches.permute(1, 3, 0, 2, 4).reshape(rows * columns, -1) @ visual.conv1.weight.flatten(1).T
    positions, side = visual.positional_embedding, TINY["vision_cfg"]["image_size"] // PATCH
    if (rows, columns) != (side, side):  # a grid larger by 0.1, as SCLIP's and NACLIP's reference implementations
        square = bicubic_by_hand(positions[1:].reshape(side, side, -1).numpy(), rows, (rows + 0.1) / side)
        square = bicubic_by_hand(square.transpose(1, 0, 2), columns, (columns + 0.1) / side).transpose(1, 0, 2)
        positions = torch.cat([positions[:1], torch.from_numpy(square).float().reshape(rows * columns, -1)])
    return visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + positions), (rows, columns)


def features_by_hand(model, pixels, kind):
    visual = model.visual
    tokens, grid = embeds_by_hand(visual, pixels)
    tokens = visual.transformer.resblocks[0](tokens[None])[0]
    last = visual.transformer.resblocks[-1]
    attended = attention_by_hand(last.attn, last.ln_1(tokens), kind, grid, 5.0)
    if kind == "naclip":
        tokens = attended
    else:
        tokens = tokens + attended
        tokens = tokens + last.mlp(last.ln_2(tokens))
    return (visual.ln_post(tokens) @ visual.proj)[1:].reshape(*grid, -1)


@pytest.mark.parametrize("kind", ["clip", "sclip", "naclip"])
def test_features_of_patches_go_through_the_rest_of_the_network(model, kind):
    pixels = torch.randn(3, 32, 32)
    found = openclip.patch_features(model.visual, pixels[None], DenseSettings(attention=kind))
    torch.testing.assert_close(found[0], features_by_hand(model, pixels, kind), atol=1e-5, rtol=0)


def test_plain_attention_gives_open_clips_own_tokens(model):
    pixels = torch.randn(2, 3, 32, 32)
    tokens = model.visual.forward_intermediates(pixels, indices=1, normalize_intermediates=True)
    wanted = torch.einsum("bchw,cd->bhwd", tokens["image_intermediates"][-1], model.visual.proj)
    found = openclip.patch_features(model.visual, pixels, DenseSettings(attention="clip"))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def bicubic_by_hand(values, count, scale):
    """Rows read at ``(i + 0.5) / scale - 0.5`` by Keys' kernel with a = -0.75, the border repeated."""
    out = np.zeros((count, *values.shape[1:]), np.float64)
    for i in range(count):
        place = (i + 0.5) / scale - 0.5
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            d = abs(place - tap)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            out[i] += (near if d <= 1 else far if d < 2 else 0) * values[min(max(tap, 0), len(values) - 1)]
    return out


def test_positions_are_interpolated_where_the_grid_is_another(model):
    trained = model.visual.positional_embedding
    assert torch.equal(openclip.position_embeddings(model.visual, (4, 4)), trained)
    found = openclip.position_embeddings(model.visual, (8, 6))
    assert found.shape == (49, 32)
    assert torch.equal(found[0], trained[0])
    square = trained[1:].reshape(4, 4, 32).numpy()
    tall = bicubic_by_hand(square, 8, 8.1 / 4)  # larger by 0.1, as SCLIP's and NACLIP's reference implementations
    wanted = bicubic_by_hand(tall.transpose(1, 0, 2), 6, 6.1 / 4).transpose(1, 0, 2)
    np.testing.assert_allclose(found[1:].reshape(8, 6, 32), wanted, atol=1e-5)


def test_eighty_templates_are_averaged(model, encoder):
    import open_clip

    assert len(open_clip.OPENAI_IMAGENET_TEMPLATES) == 80
    names = ["cat", "person in shirt"]
    found = encoder.text_embeddings(names)
    assert found.shape == (2, 12) and found.dtype == torch.float32
    for name, vector in zip(names, found, strict=True):
        total = torch.zeros(12)
        for template in open_clip.OPENAI_IMAGENET_TEMPLATES:
            one = model.encode_text(open_clip.tokenize([template(name)]))[0]
            total += one / one.norm()
        mean = total / 80
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=0)


def test_own_templates_and_a_name_with_braces(model, encoder):
    import open_clip

    found = encoder.text_embeddings(["{cat}"], ("a {}.",))[0]
    one = model.encode_text(open_clip.tokenize(["a {cat}."]))[0]
    torch.testing.assert_close(found, one / one.norm(), atol=1e-5, rtol=0)


def test_what_was_computed_for_a_name_is_kept(encoder, monkeypatch):
    asked = []
    original = openclip.encode_text
    monkeypatch.setattr(openclip, "encode_text", lambda m, t: asked.append(len(t)) or original(m, t))
    first = encoder.text_embeddings(["cat", "dog", "Cat"], ONE)
    assert asked == [2]
    again = encoder.text_embeddings(["dog", "cat", "CAT", "cow"], ONE)
    assert asked == [2, 1]
    assert torch.equal(first[[1, 0, 2]], again[:3])
    assert not torch.allclose(encoder.text_embeddings(["cat"], ("no {}",)), first[:1])


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 97), (31, 47), (100, 50), (48, 64), (64, 49)])
def test_windows_are_stitched_as_a_loop_over_pixels_would(size):
    spans = sliding_windows(size, 32, 16)
    maps = [torch.randn(2, 4, 3) for _ in spans]
    total, count = np.zeros((2, *size)), np.zeros(size)
    for (top, left, bottom, right), values in zip(spans, maps, strict=True):
        assert 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]
        assert (bottom - top, right - left) == (min(32, size[0]), min(32, size[1]))
        for y in range(top, bottom):
            for x in range(left, right):
                at = [
                    np.clip((place + 0.5) * cells / length - 0.5, 0, cells - 1)
                    for place, cells, length in ((y - top, 4, bottom - top), (x - left, 3, right - left))
                ]
                (row, column), (down, along) = (np.floor(at).astype(int), at - np.floor(at))
                for i, v in ((row, 1 - down), (min(row + 1, 3), down)):
                    for j, w in ((column, 1 - along), (min(column + 1, 2), along)):
                        total[:, y, x] += v * w * values[:, i, j].numpy()
                count[y, x] += 1
    assert count.min() >= 1
    np.testing.assert_allclose(stitch_windows(spans, maps, size), total / count, atol=1e-5)


def test_windows_at_the_border_are_shifted_in():
    assert sliding_windows((224, 300), 224, 112) == [(0, 0, 224, 224), (0, 76, 224, 300)]
    assert len(sliding_windows((336, 448), 224, 112)) == 2 * 3
    assert sliding_windows((336, 336), 224, 112)[-1] == (112, 112, 336, 336)
    assert sliding_windows((336, 337), 224, 112)[:3] == [(0, 0, 224, 224), (0, 112, 224, 336), (0, 113, 224, 337)]
    assert sliding_windows((500, 333), 0, 112) == [(0, 0, 500, 333)]


def probabilities_by_hand(logits, groups, settings):
    """As the reference implementation of SCLIP: what wins, and the maxima before they are brought to a sum of 1."""
    scaled = np.exp((logits - logits.max(0)) * settings.scale)
    scaled /= scaled.sum(0)
    classes = np.array([scaled[group].max(0) for group in groups])
    areas = np.bincount(classes.argmax(0).ravel(), minlength=len(groups))
    for index in range(1, len(groups)):
        if settings.area_threshold and areas[index] <= settings.area_threshold * areas[1:].sum():
            classes[index] = 0
    labels = classes.argmax(0)
    labels[classes.max(0) < settings.probability_threshold] = 0
    return classes, labels


@pytest.mark.parametrize("thresholds", [(0, 0), (0.42, 0), (0, 0.25), (0.42, 0.25)])
def test_names_classes_and_thresholds(thresholds):
    groups, size = [[0, 1, 2], [3], [4, 5], [6]], (70, 9)
    logits = np.random.default_rng(0).normal(size=(7, *size)).astype(np.float32) * 0.04
    logits[6] -= 0.03
    settings = DenseSettings(probability_threshold=thresholds[0], area_threshold=thresholds[1])
    found = class_probabilities(torch.from_numpy(logits), [len(group) for group in groups], settings).numpy()
    wanted, labels = probabilities_by_hand(logits, groups, settings)
    np.testing.assert_array_equal(found.argmax(0), labels)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    sure = wanted.max(0) >= thresholds[0]
    np.testing.assert_allclose(found[:, sure], (wanted / wanted.sum(0))[:, sure], atol=1e-5)
    assert (found[:, ~sure] == np.array([1, 0, 0, 0])[:, None]).all()
    assert len(np.unique(labels)) == (3 if thresholds[1] else 4)
    assert sure.all() == (thresholds[0] == 0)


def dense_by_hand(model, image, groups, settings, mean, std):
    import cv2
    import open_clip

    size = openclip.input_size(image.shape[:2], settings, (PATCH, PATCH))
    pixels = (cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR) / 255 - mean) / std
    pixels = torch.from_numpy(pixels.transpose(2, 0, 1)).float()
    texts = model.encode_text(open_clip.tokenize([f"a photo of a {name}." for group in groups for name in group]))
    texts = texts / texts.norm(dim=1, keepdim=True)
    total, count = torch.zeros(len(texts), *size), torch.zeros(size)
    for top, left, bottom, right in sliding_windows(size, settings.crop, settings.stride):
        features = features_by_hand(model, pixels[:, top:bottom, left:right], settings.attention)
        cosines = torch.einsum("hwd,nd->nhw", features / features.norm(dim=2, keepdim=True), texts)
        window = bottom - top, right - left
        total[:, top:bottom, left:right] += torch.nn.functional.interpolate(cosines[None], window, mode="bilinear")[0]
        count[top:bottom, left:right] += 1
    logits = total / count
    if settings.at_image_size:
        logits, pixels = (
            torch.nn.functional.interpolate(values[None], image.shape[:2], mode="bilinear")[0]
            for values in (logits, pixels)
        )
    if settings.pamr_steps:
        logits = pamr(pixels, logits, settings.pamr_steps)
    ends = np.cumsum([0, *map(len, groups)])
    ranges = [list(range(*pair)) for pair in pairwise(ends)]
    return probabilities_by_hand(logits.numpy(), ranges, settings)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": "naclip"},
        {"attention": "clip"},
        {"at_image_size": True, "pamr_steps": 2},
        {"scale": 65.0},
        {"crop": 0},
        {"crop": 0, "attention": "naclip"},
    ],
    ids=str,
)
def test_dense_is_the_whole_protocol(model, encoder, photo, changes):
    settings = replace(SMALL, **changes)
    # with grain: PAMR divides by the spread of colours around a pixel, which in flat colour is rounding alone
    grain = np.random.default_rng(0).integers(-20, 21, (61, 83, 3))
    image = np.clip(photo[:61, :83] + grain, 0, 255).astype(np.uint8)
    found = encoder.dense(image, ["cat", ["grass", "lawn"], "dog"], settings)
    wanted, _ = dense_by_hand(
        model, image, [["cat"], ["grass", "lawn"], ["dog"]], settings, np.array(openclip.MEAN), np.array(openclip.STD)
    )
    assert isinstance(encoder, TextEncoder)
    assert found.names == ("cat", "grass", "dog")
    assert found.size == (61, 83) and found.model == "tiny"
    assert found.probabilities.dtype == np.float32
    assert found.probabilities.shape[1:] == ((61, 83) if settings.at_image_size else (48, 65))
    np.testing.assert_allclose(found.probabilities, wanted / wanted.sum(0), atol=1e-5)


def test_the_background_wins_where_nothing_is_likely(encoder, photo):
    unsure = replace(SMALL, probability_threshold=0.99)
    found = encoder.dense(photo, [BACKGROUND_WORDS, "cat", "dog"], unsure)
    assert found.names == ("sky", "cat", "dog")
    assert (found.probabilities[0] == 1).all() and (found.probabilities[1:] == 0).all()
    assert len(BACKGROUND_WORDS) == len(set(BACKGROUND_WORDS)) == 26


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((375, 500), (336, 448)),
        ((500, 375), (448, 336)),
        ((333, 500), (336, 505)),
        ((16, 16), (336, 336)),
        ((100, 5000), (41, 2048)),
        ((1, 5000), (PATCH, 2048)),
        ((6000, 9000), (336, 504)),
    ],
)
def test_the_photo_is_scaled_as_in_the_benchmarks(size, wanted):
    assert openclip.input_size(size, DenseSettings(), (PATCH, PATCH)) == wanted


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (9, 700), (300, 2)])
def test_small_and_narrow_photos(encoder, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = encoder.dense(image, ["cat", "dog"])
    assert found.size == size
    assert np.isfinite(found.probabilities).all()
    at_size = encoder.dense(image, ["cat", "dog"], replace(SMALL, at_image_size=True, pamr_steps=1))
    assert at_size.probabilities.shape == (2, *size)


def test_a_fifty_megapixel_photo_is_scaled_first(encoder):
    image = np.zeros((6000, 8400, 3), np.uint8)
    image[::2, ::2] = 255  # bilinear scaling would see only some of these
    found = encoder.dense(image, ["cat", "dog"])
    assert found.size == (6000, 8400) and found.probabilities.shape == (2, 48, 67)
    assert np.ptp(encoder._pixels(image, (48, 67)).numpy(), axis=(1, 2)).max() < 0.1


def test_more_than_memory_is_refused_before_anything_is_computed(encoder, monkeypatch):
    monkeypatch.setattr(openclip, "free_memory", lambda: 10_000_000)
    image = np.zeros((2000, 3000, 3), np.uint8)
    with pytest.raises(NbHelpersError, match="not enough memory"):
        encoder.dense(image, ["cat", "dog"], replace(SMALL, at_image_size=True))
    assert not encoder._texts
    assert encoder.dense(image, ["cat", "dog"]).probabilities.shape == (2, 48, 72)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "vocabulary is empty"),
        ("cat", "vocabulary is empty"),
        (["cat", " "], "no name"),
        (["cat", []], "no name"),
        (["cat", ["dog", ""]], "no name"),
        (["cat", "dog", " Cat"], "listed twice"),
        ([["grass", "lawn"], ["lawn", "grass"]], "listed twice"),
        (["cat", "word " * 90], "too long"),
    ],
)
def test_vocabularies_that_cannot_be_asked(encoder, photo, names, message):
    with pytest.raises(NbHelpersError, match=message):
        encoder.dense(photo, names)


def test_names_are_put_in_order():
    assert as_classes([" fire  hydrant", ["lawn", "grass", "Lawn"]]) == (("fire hydrant",), ("lawn", "grass"))
    assert as_classes([["bed", "sky"], "bed"]) == (("bed", "sky"), ("bed",))


def test_a_name_in_two_classes_shares_its_probability(encoder, photo):
    found = encoder.dense(photo, [["sky", "bed"], "bed"]).probabilities
    assert (found[0] >= found[1] - 1e-6).all()
    assert np.abs(found[0] - found[1]).min() < 1e-6


def test_one_word_is_everywhere(encoder, photo):
    assert (encoder.dense(photo, ["cat"]).probabilities == 1).all()


def test_five_hundred_words(encoder, photo):
    found = encoder.dense(photo, [f"thing {number}" for number in range(500)])
    assert found.probabilities.shape == (500, 48, 64)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-4)


def test_other_scripts_work_and_are_warned_of(encoder, photo, caplog):
    names = ["猫", "собака", "🐈", "café", "dog"]
    with caplog.at_level("WARNING", "nbhelpers"):
        found = encoder.dense(photo, names)
    assert found.names == tuple(names)
    warned = " ".join(record.getMessage() for record in caplog.records)
    assert "猫" in warned and "собака" in warned and "café" not in warned and "dog" not in warned
    assert len(torch.unique(encoder.text_embeddings(names, ONE), dim=0)) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"attention": "flash"},
        {"scale": 0.0},
        {"scale": math.nan},
        {"stride": 0},
        {"stride": 300},
        {"crop": 5},
        {"short_side": 4},
        {"long_side": 100},
        {"templates": ()},
        {"templates": ("a photo",)},
        {"probability_threshold": 1.5},
        {"area_threshold": -0.1},
        {"gaussian_std": 0.0},
        {"pamr_steps": -1},
        {"pamr_dilations": ()},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(NbHelpersError, match=f"^{next(iter(wrong))} "):
        DenseSettings(**wrong)


def test_the_defaults_are_the_papers():
    defaults = DenseSettings()
    assert (defaults.attention, defaults.scale, defaults.short_side, defaults.crop, defaults.stride) == (
        "sclip", 40, 336, 224, 112,
    )  # fmt: skip
    assert (defaults.probability_threshold, defaults.area_threshold, defaults.pamr_steps) == (0, 0, 0)
    assert defaults.pamr_dilations == (8, 16) and defaults.gaussian_std == 5
    assert PROTOCOLS["coco-stuff"].short_side == 448
    voc = PROTOCOLS["voc21"]
    assert (voc.scale, voc.probability_threshold, voc.area_threshold) == (65, 0.1, 0.1)
    assert all(settings.at_image_size for settings in PROTOCOLS.values())


def test_full_memory_steps_down_to_fewer_windows(encoder, photo, monkeypatch):
    wanted = encoder.dense(photo, ["cat", "dog"]).probabilities
    original, sizes = openclip.patch_features, []

    def limited(visual, pixels, *how):
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(pixels))
        return original(visual, pixels, *how)

    monkeypatch.setattr(openclip, "patch_features", limited)
    with pytest.warns(MemoryWarning, match="windows at a time"):
        found = encoder.dense(photo, ["cat", "dog"]).probabilities
    assert sizes == [1] * len(sliding_windows((48, 64), 32, 16))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_full_memory_moves_to_the_cpu(encoder, photo, monkeypatch):
    wanted = encoder.dense(photo, ["cat", "dog"]).probabilities
    encoder.device = "cuda"
    original = openclip.patch_features

    def full(*args):
        if encoder.device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*args)

    monkeypatch.setattr(openclip, "patch_features", full)
    monkeypatch.setattr(adapters, "autocast", lambda *_: torch.no_grad())
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **kwargs: tensor)
    with pytest.warns(MemoryWarning) as caught:
        found = encoder.dense(photo, ["cat", "dog"]).probabilities
    assert "continues on the CPU" in str(caught[-1].message)
    assert encoder.device == "cpu"
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def save(model, path, wrapped=False):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    else:
        state = model.state_dict()
        numbers = {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)}
        training = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
        torch.save(training if wrapped else {**state, **numbers}, path)
    return path


@pytest.mark.parametrize(("suffix", "wrapped"), [(".safetensors", False), (".bin", False), (".pt", True)])
def test_every_format_of_checkpoint_gives_the_same_network(model, encoder, photo, tiny, tmp_path, suffix, wrapped):
    path = save(model, tmp_path / f"open_clip_model{suffix}", wrapped)
    built = openclip.build(
        "x", {"checkpoint": path}, "cpu", architecture=tiny, short_side=48, crop=32, stride=16, templates=ONE
    )
    assert built.settings == SMALL
    names = ["cat", "dog"]
    found, wanted = (one.dense(photo, names).probabilities for one in (built, encoder))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.fixture
def catalogued(tiny, monkeypatch):
    """The catalog with the tiny architecture in the place of ViT-B/16."""
    row = catalog.find("openclip-vit-b-16")
    source = HubFile("someone/tiny", "open_clip_model.safetensors")
    asset = Asset(row.assets[0].file, (source,), 1_000_000, None, exact=False)
    small = replace(row, assets=(asset,), options={"architecture": tiny})
    monkeypatch.setattr(catalog, "OFFICIAL", tuple(small if m is row else m for m in catalog.OFFICIAL))
    unload()
    yield small
    unload()


def test_a_load_by_name_takes_the_file_in_checkpoints(catalogued, model, home, photo):
    with pytest.raises(NbHelpersError, match="have not been downloaded"):
        load("text_encoder", catalogued.name, "cpu")
    (home / "checkpoints").mkdir(exist_ok=True)
    save(model, home / "checkpoints" / catalogued.assets[0].file)
    loaded = load("text_encoder", catalogued.name, "cpu")
    assert loaded is load("text_encoder", models="official", device="cpu")
    assert loaded.name == "openclip-vit-b-16" and loaded.settings == DenseSettings()
    assert loaded.dense(photo, ["cat", "dog"], SMALL).probabilities.shape == (2, 48, 64)


def test_a_load_by_name_takes_the_file_in_the_hubs_cache(catalogued, model, home, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    base, commit = home / "hub" / "models--someone--tiny", "0" * 40
    for part in ("refs", f"snapshots/{commit}"):
        (base / part).mkdir(parents=True)
    (base / "refs" / "main").write_text(commit)
    save(model, base / "snapshots" / commit / "open_clip_model.safetensors")
    state = load("text_encoder", catalogued.name, "cpu").model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_the_architectures_of_the_catalog_are_in_the_package():
    import open_clip

    for row in catalog.models("text_encoder", "official"):
        if row.name.startswith("openclip"):
            config = open_clip.get_model_config(row.options["architecture"])
            assert config["quick_gelu"] and openclip._is_plain(config)


def test_wrong_checkpoints_are_refused(model, tmp_path):
    cut = save(model, tmp_path / "whole.safetensors")
    cut.write_bytes(cut.read_bytes()[:50_000])
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        openclip.load_clip_weights(model, cut)
    other = tmp_path / "other.pt"
    state = model.state_dict()
    for wrong in (
        {"some.weight": torch.zeros(3)},
        {**state, "visual.proj": torch.zeros(3, 3)},
        {**state, "visual.proj": "text"},
        {key: value for key, value in state.items() if key != "visual.proj"},
    ):
        torch.save(wrong, other)
        with pytest.raises(NbHelpersError, match="another model"):
            openclip.load_clip_weights(model, other)


def test_a_pickle_that_would_run_code_is_refused(model, tmp_path):
    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (type(tmp_path).touch, (ran,))

    torch.save({"state_dict": Attack()}, tmp_path / "evil.bin")
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        openclip.load_clip_weights(model, tmp_path / "evil.bin")
    assert not ran.exists()


def test_architectures_that_are_not_there_or_not_plain():
    with pytest.raises(NbHelpersError, match="no such model"):
        openclip.build_clip("ViT-Z-99")
    for name in ("ViT-B-16-SigLIP", "RN50", "coca_ViT-L-14", "EVA02-B-16"):
        with pytest.raises(NbHelpersError, match="not a plain vision transformer") as caught:
            openclip.build_clip(name)
        assert "ViT-B-16-quickgelu" in caught.value.expected


def test_a_missing_package_is_told(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(NbHelpersError, match="open_clip is not installed"):
        openclip.build_clip("ViT-B-16")


def test_a_whole_photo_is_compared_as_clip_compares_it(encoder, model):
    image = np.random.default_rng(4).integers(0, 255, (32, 32, 3), np.uint8)
    pixels = (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - torch.tensor(openclip.MEAN)[:, None, None]) / (
        torch.tensor(openclip.STD)[:, None, None]
    )
    photo = model.encode_image(pixels[None], normalize=True)
    texts = torch.cat(
        [model.encode_text(encoder.tokenizer([ONE[0].format(n)]), normalize=True) for n in ("cat", "cup")]
    )
    cosines = encoder.similarity(image, ["cat", "cup"])
    np.testing.assert_allclose(cosines, (photo @ texts.T)[0].numpy(), atol=1e-5)
    assert isinstance(encoder, ImageTextEncoder) and encoder.similarity(image[:20], ["cat"]).shape == (1,)
