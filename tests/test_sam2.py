"""SAM 2 for images against the sam2 package: random networks of the real architecture, and the real lite weights."""

import json
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer

from nbhelpers.core.device import MemoryWarning
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.masks import iou, polygon_mask
from nbhelpers.core.prompts import Prompt
from nbhelpers.models import adapters, sam2
from nbhelpers.models.load import load
from nbhelpers.models.protocols import FeatureSegmenter
from nbhelpers.models.sam2 import PointDecoder
from nbhelpers.models.values import Embedding
from nbhelpers.weights import catalog, sample
from nbhelpers.weights.cache import files

OFFICIAL = [m for m in catalog.models("segmenter", "official") if m.name.startswith("sam2")]
TINY = {"sam2-hiera-tiny": "configs/sam2/sam2_hiera_t.yaml", "sam2.1-hiera-tiny": "configs/sam2.1/sam2.1_hiera_t.yaml"}


@pytest.fixture(scope="module", params=TINY)
def checkpoint(request, tmp_path_factory):
    """A checkpoint in the publisher's format, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoints") / f"{request.param.replace('-', '_')}.pt"
    torch.save({"model": sam2.build_image_network(TINY[request.param]).state_dict()}, path)
    yield request.param, path
    path.unlink()


def upstream(segmenter, image):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its transforms use torch.jit.script
        predictor = SAM2ImagePredictor(segmenter.model)
    predictor.set_image(image.copy())
    return predictor


def upstream_best(predictor, prompt):
    masks, scores, _ = predictor.predict(
        prompt.points.copy() if len(prompt.points) else None,
        prompt.labels.copy() if len(prompt.points) else None,
        box=None if prompt.box is None else prompt.box.copy(),
        multimask_output=prompt.is_ambiguous,
    )
    return masks[scores.argmax()] > 0, scores.max()


def test_all_eight_official_checkpoints_are_catalogued():
    assert len(OFFICIAL) == 8
    assert {m.name for m in OFFICIAL} == {
        f"sam2{version}-hiera-{size}" for version in ("", ".1") for size in ("tiny", "small", "base-plus", "large")
    }


@pytest.mark.parametrize("entry", OFFICIAL, ids=lambda m: m.name)
def test_the_configuration_of_each_exists_in_the_package(entry):
    import sam2 as package
    from hydra import compose

    assert package
    cfg = compose(config_name=entry.options["config"])
    size = {"tiny": 96, "small": 96, "base-plus": 112, "large": 144}[entry.name.partition("hiera-")[2]]
    assert cfg.model.image_encoder.trunk.embed_dim == size
    assert ("no_obj_embed_spatial" in cfg.model) == entry.name.startswith("sam2.1")


def test_a_checkpoint_file_gives_what_upstream_gives(checkpoint, photo):
    name, path = checkpoint
    segmenter = sam2.build(name, {"checkpoint": path}, "cpu", config=TINY[name])
    assert isinstance(segmenter, FeatureSegmenter)
    embedding = segmenter.encode(photo)
    shapes = [tuple(segmenter.features(embedding, level).shape) for level in range(3)]
    assert shapes == [(64, 64, 256), (128, 128, 64), (256, 256, 32)]
    for bad, words in ((replace(embedding, model="other"), "another model"), (embedding, "no such level")):
        with pytest.raises(NbHelpersError, match=words):
            segmenter.features(bad, 3)
    predictor = upstream(segmenter, photo)
    torch.testing.assert_close(embedding.tensors["image_embed"], predictor._features["image_embed"], atol=0, rtol=0)
    for prompt in (
        Prompt([(50, 60)]),
        Prompt([(50, 60), (5, 5)], [1, 0]),
        Prompt(box=(20, 30, 80, 90)),
        Prompt([(50, 60)], box=(20, 30, 80, 90)),
    ):
        prediction = segmenter.predict(embedding, prompt)
        mask, score = upstream_best(predictor, prompt)
        assert len(prediction) == 4
        assert prediction.best.shape == photo.shape[:2]
        assert np.array_equal(prediction.best, mask)
        assert prediction.scores[prediction.choice] == pytest.approx(score, abs=1e-6)


def test_an_embedding_is_kept_in_half_precision(tmp_path):
    values = torch.linspace(-3, 3, 24).reshape(1, 2, 3, 4)
    Embedding((5, 7), "colours", {"image_embed": values}).save(tmp_path / "0.pt")
    opened = Embedding.open(tmp_path / "0.pt", "cpu")
    assert (opened.size, opened.model) == ((5, 7), "colours")
    torch.testing.assert_close(opened.tensors["image_embed"], values.half().float(), atol=0, rtol=0)


def test_a_load_by_name_takes_the_file_in_checkpoints(checkpoint, home, monkeypatch):
    name, path = checkpoint
    entry = catalog.find(name)
    target = home / "checkpoints" / entry.assets[0].file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"not the real thing")
    with pytest.raises(NbHelpersError, match=r"(?i)size|bytes"):
        load("segmenter", name, "cpu")
    monkeypatch.setattr(
        "nbhelpers.weights.cache.check", lambda *args, **kwargs: None
    )  # random weights have no true hash
    target.unlink()
    target.symlink_to(path)
    assert load("segmenter", name, "cpu").name == name
    assert load("segmenter", name, "cpu") is load("segmenter", name, "cpu")


def test_wrong_checkpoints_are_refused(checkpoint, tmp_path):
    _name, path = checkpoint
    model = sam2.build_image_network(TINY["sam2-hiera-tiny"])
    cut = tmp_path / "cut.pt"
    cut.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        sam2.load_weights(model, cut)
    other = tmp_path / "other.pt"
    torch.save({"model": {"some.weight": torch.zeros(3)}}, other)
    with pytest.raises(NbHelpersError, match="another model"):
        sam2.load_weights(model, other)
    torch.save({"model": {**model.state_dict(), "no_mem_embed": torch.zeros(1, 1, 7)}}, other)
    with pytest.raises(NbHelpersError, match="another model"):
        sam2.load_weights(model, other)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (type(tmp_path).touch, (ran,))

    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps({"model": Attack()}))
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        sam2.load_weights(torch.nn.Module(), evil)
    torch.save({"model": Attack()}, evil)
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        sam2.load_weights(torch.nn.Module(), evil)
    assert not ran.exists()


class FakeDevice:
    """Stands in for a device whose memory is full: moving to the CPU is what frees it."""

    def __init__(self, segmenter, monkeypatch, fits=0):
        self.segmenter, self.fits = segmenter, fits
        segmenter.device = "cuda"
        monkeypatch.setattr(adapters, "autocast", lambda *_: torch.no_grad())
        monkeypatch.setattr(adapters, "half_precision", lambda *_: None)
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **kwargs: tensor)
        monkeypatch.setattr(torch.nn.Module, "to", lambda module, *args, **kwargs: module)
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *a, device=None, **k: empty(*a, **k))

    def check(self, count):
        if self.segmenter.device == "cuda" and count > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_full_memory_steps_down_to_smaller_batches_and_then_to_the_cpu(checkpoint, photo, monkeypatch):
    name, path = checkpoint
    segmenter = sam2.build(name, {"checkpoint": path}, "cpu", config=TINY[name])
    embedding = segmenter.encode(photo)
    points = np.random.default_rng(0).uniform(0, 100, (10, 2))
    wanted = segmenter.predict_points(embedding, points)
    device = FakeDevice(segmenter, monkeypatch, fits=3)
    sizes = []
    decode = sam2.PointDecoder.__call__

    def limited(self, coordinates):
        device.check(len(coordinates))
        sizes.append(len(coordinates))
        return decode(self, coordinates)

    monkeypatch.setattr(sam2.PointDecoder, "__call__", limited)
    with pytest.warns(MemoryWarning, match="points at a time"):
        halved = segmenter.predict_points(embedding, points)
    assert segmenter.device == "cuda"
    assert sizes == [2, 2, 2, 2, 2]
    np.testing.assert_allclose(halved.logits, wanted.logits, atol=1e-3)

    device.fits = 0
    with pytest.warns(MemoryWarning) as caught:
        on_cpu = segmenter.predict_points(embedding, points)
    assert "continues on the CPU" in str(caught[-1].message)
    assert segmenter.device == "cpu"
    np.testing.assert_allclose(on_cpu.logits, wanted.logits, atol=1e-3)


def test_the_embedding_of_another_model_is_refused(checkpoint, photo):
    name, path = checkpoint
    segmenter = sam2.build(name, {"checkpoint": path}, "cpu", config=TINY[name])
    embedding = segmenter.encode(photo)
    segmenter.name = "another"
    with pytest.raises(NbHelpersError, match="another model"):
        segmenter.predict(embedding, Prompt([(50, 60)]))


@pytest.fixture(scope="module")
def lite():
    return load("segmenter", "sam2-hiera-tiny-lite", "cpu")


@pytest.fixture(scope="module")
def quokka(lite):
    image = load_image(sample("quokka"))
    polygon = json.loads(sample("quokka_annotations").read_text())["polygons"][0]["keypoints"]
    truth = polygon_mask([(point["x"], point["y"]) for point in polygon], image.shape[:2])
    return image, truth, lite.encode(image)


@pytest.mark.weights
def test_one_click_on_the_quokka(lite, quokka):
    _image, truth, embedding = quokka
    assert iou(lite.predict(embedding, Prompt([(349, 346)])).best, truth) >= 0.95


@pytest.mark.weights
def test_the_converted_model_gives_what_the_onnx_files_give(lite, quokka):
    import onnxruntime

    image, _, embedding = quokka
    paths = files("sam2-hiera-tiny-lite")
    encoder = onnxruntime.InferenceSession(str(paths["encoder"]), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        pixels = lite._pixels(image).numpy()
    fine, finer, coarse = encoder.run(["high_res_feats_0", "high_res_feats_1", "image_embed"], {"image": pixels})
    for name, value in (("high_res_feats_0", fine), ("high_res_feats_1", finer), ("image_embed", coarse)):
        assert np.abs(embedding.tensors[name].numpy() - value).max() < 1e-4

    decoder = onnxruntime.InferenceSession(str(paths["decoder"]), providers=["CPUExecutionProvider"])
    points = np.array([[349, 346]], np.float32)
    square = points / [image.shape[1], image.shape[0]] * 1024
    feeds = {
        "image_embed": coarse,
        "high_res_feats_0": fine,
        "high_res_feats_1": finer,
        "point_coords": square.astype(np.float32)[None],
        "point_labels": np.array([[1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    logits, ious = decoder.run(["masks", "iou_predictions"], feeds)  # candidates 1 to 3
    prediction = lite.predict(embedding, Prompt(points))
    np.testing.assert_allclose(prediction.scores[1:], ious[0], atol=1e-5)
    for ours, theirs in zip(prediction.logits[1:], logits[0], strict=True):
        assert iou(theirs > 0, ours > 0) >= 0.999


@pytest.mark.weights
def test_many_points_are_what_single_clicks_are(lite, quokka):
    _image, _, embedding = quokka
    points = np.random.default_rng(0).uniform((0, 0), (959, 642), (12, 2))
    many = lite.predict_points(embedding, points)
    assert len(many) == 12
    for i, point in enumerate(points):
        one = lite.predict(embedding, Prompt([point]))
        assert many.scores[i] == pytest.approx(one.scores[one.choice], abs=1e-4)
        assert iou(many.mask(i), one.best) > 0.999 or one.best.sum() < 1000


@pytest.mark.weights
def test_prompts_of_every_kind(lite, quokka):
    _image, truth, embedding = quokka
    box = Prompt(box=(148, 50, 550, 642))
    boxed = lite.predict(embedding, box)
    assert boxed.choice == 0
    assert iou(boxed.best, truth) > 0.93
    assert iou(lite.predict(embedding, Prompt(mask=truth)).best, truth) > 0.95
    again = lite.predict(embedding, Prompt([(349, 346)], mask=boxed.logits[boxed.choice]))
    assert iou(again.best, truth) > 0.93
    with_exclude = lite.predict(embedding, Prompt([(349, 346), (480, 600)], [1, 0]))
    assert not with_exclude.best[600, 480]
    assert with_exclude.best.sum() < 0.6 * boxed.best.sum()
    with pytest.raises(NbHelpersError, match="wrong size"):
        lite.predict(embedding, Prompt(mask=np.zeros((10, 10), np.float32)))


@pytest.mark.weights
def test_the_candidate_of_each_point_can_be_chosen(lite, quokka):
    _image, _, embedding = quokka
    points, asked = np.array([(349, 346), (40, 30)]), []

    def smallest(number, candidates):
        asked.append((number, len(candidates), candidates.choice == candidates.scores.argmax()))
        return int((candidates.logits > 0).sum((1, 2)).argmin())

    chosen = lite.predict_points(embedding, points, smallest)
    assert asked == [(0, 3, True), (1, 3, True)]
    for i, point in enumerate(points):
        one = lite.predict(embedding, Prompt([point]))
        wanted = 1 + (one.logits[1:] > 0).sum((1, 2)).argmin()
        assert chosen.scores[i] == pytest.approx(one.scores[wanted], abs=1e-4)
        np.testing.assert_allclose(chosen.logits[i], one.logits[wanted], atol=1e-2)


def tiny_model(pred_obj_scores: bool, dim: int = 32, grid: int = 8, depth: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.sam_prompt_encoder = PromptEncoder(dim, (grid, grid), (grid * 16, grid * 16), mask_in_chans=16)
    model.sam_mask_decoder = MaskDecoder(
        transformer_dim=dim,
        transformer=TwoWayTransformer(depth=depth, embedding_dim=dim, num_heads=4, mlp_dim=64),
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=pred_obj_scores,
        pred_obj_scores_mlp=pred_obj_scores,
    )
    for parameter in model.parameters():  # fresh biases and norms are 0 and 1, which would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def upstream_decoder(model, image, finer, coordinates):
    sparse, dense = model.sam_prompt_encoder(
        points=(coordinates[:, None], torch.ones(len(coordinates), 1)), boxes=None, masks=None
    )
    return model.sam_mask_decoder(
        image_embeddings=image,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
        repeat_image=True,
        high_res_features=finer,
    )[:2]


@pytest.mark.parametrize("pred_obj_scores", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_equals_the_decoder_of_sam2(pred_obj_scores, depth, count):
    model = tiny_model(pred_obj_scores, depth=depth)
    dim, grid = 32, 8
    image = torch.randn(1, dim, grid, grid)
    finer = [torch.randn(1, dim // 8, grid * 4, grid * 4), torch.randn(1, dim // 4, grid * 2, grid * 2)]
    coordinates = torch.rand(count, 2) * grid * 16
    with torch.inference_mode():
        masks, ious = upstream_decoder(model, image, finer, coordinates)
        logits, scores = PointDecoder(model, image, finer)(coordinates)
        every, guesses = PointDecoder(model, image, finer).candidates(coordinates)
    torch.testing.assert_close(guesses, ious, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(every, masks, atol=1e-4, rtol=1e-4)
    best = ious.argmax(1)
    torch.testing.assert_close(scores, ious.max(1).values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, masks[torch.arange(count), best], atol=1e-4, rtol=1e-4)
    assert np.ptp(logits.numpy()) > 0.1  # not constant: the comparison above means something


def test_clicks_of_a_batch_do_not_touch_each_other():
    model = tiny_model(True)
    image = torch.randn(1, 32, 8, 8)
    finer = [torch.randn(1, 4, 32, 32), torch.randn(1, 8, 16, 16)]
    coordinates = torch.rand(4, 2) * 128
    with torch.inference_mode():
        decoder = PointDecoder(model, image, finer)
        together, _ = decoder(coordinates)
        alone = torch.cat([decoder(coordinates[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
