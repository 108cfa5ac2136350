"""CorrCLIP's switches on a tiny random CLIP and on arrays: each against a few-line reference of its formula."""

import json

import numpy as np
import pytest
import torch
from fake_benchmarks import CLASSES, drawn_voc
from fake_encoder import FakeEncoder
from fake_words import FakeTextEncoder, FloodSegmenter, scene

from nbhelpers import NbHelpersError
from nbhelpers.benchmarks.open_vocabulary import (
    OpenVocabulary,
    RegionBank,
    build_region_bank,
    majority_labels,
    photo_regions,
    region_means,
    support_logits,
)
from nbhelpers.benchmarks.protocols import GAINS, Recipe, vocabulary_protocol
from nbhelpers.benchmarks.runner import run_benchmark
from nbhelpers.models import openclip
from nbhelpers.models.dense import DenseSettings, region_attention

TINY = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SMALL = {"short_side": 48, "crop": 32, "stride": 16, "templates": ("a photo of a {}.",)}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny random CLIP."""
    import open_clip
    from open_clip import factory

    kept = list(factory._MODEL_CONFIG_PATHS)
    path = tmp_path_factory.mktemp("architectures") / "tiny-recipes.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = openclip.build_clip("tiny-recipes").eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += torch.randn_like(parameter) * 0.2
    yield openclip.OpenClipTextEncoder(model, "openclip-tiny", "cpu", DenseSettings(**SMALL))
    factory._MODEL_CONFIG_PATHS[:] = kept
    factory._MODEL_CONFIGS.pop("tiny-recipes")


def test_patches_attend_within_their_region_by_similarity():
    torch.manual_seed(1)
    tokens, regions = torch.randn(6, 5), torch.tensor([1, 1, 2, 2, 0, 0])
    found = region_attention(tokens, regions)
    units = tokens / tokens.norm(dim=1, keepdim=True)
    s = units @ units.T
    for i in range(6):
        allowed = [
            j
            for j in range(6)
            if i == j
            or (regions[i] == regions[j] != 0)
            or (0 in (int(regions[i]), int(regions[j])) and s[i, j] > s.mean())
        ]
        wanted = torch.zeros(6)
        wanted[allowed] = torch.exp(4 * s[i, allowed]) / torch.exp(4 * s[i, allowed]).sum()
        torch.testing.assert_close(found[i], wanted)
    assert found[0, 2] == 0 and found[2, 0] == 0


def test_the_last_block_mixes_values_by_the_given_weights(encoder):
    visual, pixels = encoder.model.visual, torch.randn(2, 3, 32, 32)
    weights = torch.rand(2, 16, 16).softmax(-1)
    found = openclip.patch_features(visual, pixels, DenseSettings(), weights)
    first, last = visual.transformer.resblocks
    for one, photo, weight in zip(found, pixels, weights, strict=True):
        tokens = last.ln_1(first(visual._embeds(photo[None])))[0]
        v = tokens @ last.attn.in_proj_weight[64:].T + last.attn.in_proj_bias[64:]
        mixed = weight @ v[1:]
        out = mixed @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        wanted = (visual.ln_post(out) @ visual.proj).reshape(4, 4, -1)
        torch.testing.assert_close(one, wanted, atol=1e-5, rtol=0)


def test_the_scope_of_a_window_is_the_part_of_the_photo_that_it_shows():
    regions = np.zeros((40, 60), np.int32)
    regions[:, :30], regions[:, 30:] = 1, 2
    tokens = np.zeros((4, 6, 3), np.float32)
    tokens[:, :3, 0], tokens[:, 3:, 1] = 1, 1
    weights = openclip.Scope(regions, tokens).weights([(0, 0, 40, 20), (0, 20, 40, 40)], (40, 60), (2, 2))
    assert weights.shape == (2, 4, 4)
    torch.testing.assert_close(weights[0], torch.full((4, 4), 0.25))  # all one region, all alike
    wanted = torch.tensor([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]] * 2)  # left and right halves are apart
    torch.testing.assert_close(weights[1], wanted)


def test_the_scope_changes_the_prediction_and_one_region_does_not_restrict_it(encoder, photo):
    tokens = FakeEncoder().tokens([photo])[0]
    halves = np.ones(photo.shape[:2], np.int32)
    halves[:, 80:] = 2
    whole = openclip.Scope(np.ones_like(halves), tokens)
    names = ["ball", "box", "grass"]
    maps = [
        encoder.dense(photo, names, scope=scope).probabilities
        for scope in (None, whole, openclip.Scope(halves, tokens))
    ]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in ((maps[0], maps[1]), (maps[1], maps[2])))


def test_cosines_can_be_adjusted(encoder, photo):
    asked = {}

    def adjust(logits, texts):
        asked.update(logits=logits.shape, texts=texts.shape)
        return torch.zeros_like(logits)

    found = encoder.dense(photo, ["a", ["b", "c"]], adjust=adjust).probabilities
    assert asked == {"logits": (3, 48, 64), "texts": (3, 12)} and np.allclose(found, 0.5)


def test_each_region_takes_the_label_of_most_of_its_pixels():
    labels = np.array([[1, 1, 2, 0], [3, 3, 0, 0]])
    regions = np.array([[5, 5, 5, 0], [7, 7, 7, 7]])
    assert majority_labels(labels, regions).tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]
    reference = labels.copy()
    for number in (5, 7):
        reference[regions == number] = torch.mode(torch.tensor(labels[regions == number])).values
    assert (majority_labels(labels, regions) == reference).all()


def test_regions_come_from_the_segmenter_larger_over_smaller():
    image = scene()
    regions = photo_regions(image, FloodSegmenter(), points=8)
    assert regions.max() >= 3 and regions.shape == image.shape[:2]
    sky = regions[:100]
    assert np.bincount(sky.ravel()).max() > 0.8 * sky.size


def test_a_bank_answers_with_the_mean_of_the_nearest(tmp_path):
    keys = np.eye(3, dtype=np.float32)
    values = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    bank = RegionBank(keys, values)
    bank.save(tmp_path / "bank.npz")
    opened = RegionBank.open(tmp_path / "bank.npz")
    query = np.array([[0.9, 0.5, 0.0]], np.float32)
    np.testing.assert_allclose(opened.retrieve(query, 1), [[1, 0]])
    np.testing.assert_allclose(opened.retrieve(query, 2), [[np.sqrt(0.5), np.sqrt(0.5)]], rtol=1e-6)
    with pytest.raises(NbHelpersError, match="cannot be read"):
        RegionBank.open(tmp_path / "none.npz")
    with pytest.raises(NbHelpersError, match="no regions"):
        RegionBank.build([1], lambda photo: (np.empty((0, 3)), np.empty((0, 2))))


def test_logits_are_mixed_with_those_of_the_bank():
    logits = np.ones((2, 1, 3), np.float32)
    regions = np.array([[1, 2, 0]])
    mixed = support_logits(logits, regions, np.array([1, 2]), np.array([[3, 0], [0, 5]], np.float32), 0.5)
    assert mixed[:, 0].T.tolist() == [[2.0, 0.5], [0.5, 3.0], [0.5, 0.5]]


def test_means_of_regions_have_length_one():
    features = np.zeros((2, 2, 2), np.float32)
    features[:, 0], features[:, 1] = (3, 4), (0, 2)
    regions = np.repeat(np.repeat(np.array([[1, 2], [1, 2]]), 4, 0), 4, 1)
    numbers, means = region_means(features, regions)
    assert numbers.tolist() == [1, 2]
    np.testing.assert_allclose(means, [[0.6, 0.8], [0, 1]])
    assert len(region_means(features, np.zeros((8, 8), int))[0]) == 0


def test_the_whole_recipe_runs_and_every_switch_is_in_the_protocol(encoder, tmp_path):
    folder = drawn_voc(tmp_path / "VOC2012", 2)
    bank = build_region_bank([scene(96, 128)], encoder, FloodSegmenter(), FakeEncoder(), points=4)
    assert bank.values.shape[1] == 12 and len(bank.keys) == len(bank.values) > 1
    bank.save(tmp_path / "bank.npz")
    seen = set()
    for recipe in (
        Recipe(),
        Recipe(scope=True, points=4),
        Recipe(majority=True, points=4),
        Recipe(True, True, str(tmp_path / "bank.npz"), points=4),
    ):
        protocol = vocabulary_protocol("pascal-voc", classes=CLASSES, recipe=recipe, **SMALL)
        benchmark = OpenVocabulary(folder, protocol, encoder, FloodSegmenter(), FakeEncoder())
        results = run_benchmark(benchmark, tmp_path / f"out-{len(seen)}")
        seen.add(json.dumps([item["areas"] for item in results["items"].values()]))
        assert results["protocol"]["scope"] == recipe.scope and results["protocol"]["majority"] == recipe.majority
    assert len(seen) == 4
    assert len(results["protocol"]["bank_sha256"]) == 64
    assert set(GAINS) == {"scope", "majority", "bank"}


def test_a_recipe_for_clip_is_refused_for_others_before_anything_is_measured(tmp_path):
    folder = drawn_voc(tmp_path / "VOC2012", 1)
    protocol = vocabulary_protocol("pascal-voc", "corrclip")
    with pytest.raises(NbHelpersError, match="attention of CLIP"):
        run_benchmark(OpenVocabulary(folder, protocol, FakeTextEncoder(), FloodSegmenter()), tmp_path / "out")
