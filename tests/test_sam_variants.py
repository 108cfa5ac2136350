"""EdgeTAM and SAM 3's tracker, against the library's own processor and pipeline on tiny random networks."""

import numpy as np
import pytest
import tiny_networks
import torch
import transformers

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.adapters import CachedSegmenter
from nbhelpers.models.protocols import FeatureSegmenter
from nbhelpers.models.sam_variants import PROCESSORS, build_segmenter

FAMILIES = {"edgetam": "EdgeTamModel", "sam3-segmenter": "Sam3TrackerModel"}
CLICK = Prompt([(50, 60)])
PROMPTS = [
    CLICK,
    Prompt([(50, 60), (120, 20)], [1, 0]),
    Prompt(box=(30, 35, 75, 85)),
    Prompt([(50, 60)], box=(95, 25, 145, 95)),
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """The files of a tiny checkpoint, the segmenter of it, the library's network, and the library's processor."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny_networks.save(request.param, folder).config
    files = {"checkpoint": folder / "model.safetensors", "config": folder / "config.json"}
    network = getattr(transformers, FAMILIES[request.param]).from_pretrained(folder).eval()
    size = {"height": tiny_networks.SIDE, "width": tiny_networks.SIDE}
    image_processor = getattr(transformers, PROCESSORS[config.model_type])(size=size)
    processor = transformers.Sam2Processor(image_processor, target_size=tiny_networks.SIDE)
    return files, build_segmenter("tiny", files, "cpu"), network, processor


def assert_close(ours, theirs):
    """Equal to 5e-5 of the largest logit: tokens of a box come in another order, and batches round otherwise."""
    assert np.abs(ours - np.asarray(theirs)).max() <= 5e-5 * np.abs(ours).max()


def of_the_library(network, processor, photo, prompt, multimask):
    """Masks ``(k, H, W)``, logits and scores of the library's own pipeline."""
    inputs = {}
    if len(prompt.points):
        inputs |= {"input_points": [[prompt.points.tolist()]], "input_labels": [[prompt.labels.tolist()]]}
    if prompt.box is not None:
        inputs["input_boxes"] = [[prompt.box.tolist()]]
    encoded = processor(images=photo.copy(), return_tensors="pt", **inputs)
    sizes = encoded.pop("original_sizes")
    with torch.inference_mode():
        output = network(**encoded, multimask_output=multimask)
    masks = processor.post_process_masks(output.pred_masks, sizes)[0]
    return masks[0].numpy(), output.pred_masks[0, 0].numpy(), output.iou_scores[0, 0].numpy()


@pytest.mark.parametrize("prompt", PROMPTS, ids=["click", "two clicks", "box", "box and click"])
def test_masks_are_those_of_the_librarys_pipeline_on_a_photo_that_is_no_square(family, photo, prompt):
    _, segmenter, network, processor = family
    assert isinstance(segmenter, FeatureSegmenter) and photo.shape[0] != photo.shape[1]
    prediction = segmenter.predict(segmenter.encode(photo), prompt)
    masks, logits, scores = of_the_library(network, processor, photo, prompt, multimask=True)
    assert_close(prediction.logits[1:], logits)
    np.testing.assert_allclose(prediction.scores[1:], scores, atol=1e-4)
    for index in range(3):
        assert (prediction.mask(index + 1) == masks[index]).mean() > 0.9999
    best, _, _ = of_the_library(network, processor, photo, prompt, multimask=False)
    chosen = best[0] if not prompt.is_ambiguous else masks[scores.argmax()]
    assert (prediction.best == chosen).mean() > 0.9999


def test_a_mask_prompt_is_scaled_as_the_library_does(family, photo):
    _, segmenter, network, processor = family
    logits = np.random.default_rng(0).normal(0, 5, network.prompt_encoder.mask_input_size).astype(np.float32)
    prediction = segmenter.predict(segmenter.encode(photo), Prompt([(50, 60)], mask=logits))
    encoded = processor(images=photo.copy(), input_points=[[[[50, 60]]]], input_labels=[[[1]]], return_tensors="pt")
    encoded.pop("original_sizes")
    with torch.inference_mode():
        output = network(**encoded, input_masks=torch.from_numpy(logits)[None, None], multimask_output=True)
    assert_close(prediction.logits[1:], output.pred_masks[0, 0])


def test_many_points_are_equal_to_single_clicks(family, photo):
    _, segmenter, _, _ = family
    embedding = segmenter.encode(photo)
    points = np.random.default_rng(1).uniform((0, 0), (159, 119), (7, 2)).astype(np.float32)
    together = segmenter.predict_points(embedding, points)
    assert len(together) == 7
    for index, point in enumerate(points):
        alone = segmenter.predict(embedding, Prompt([point]))
        assert_close(together.logits[index], alone.logits[alone.choice])
        assert together.scores[index] == pytest.approx(alone.scores[alone.choice], abs=1e-4)
    wholes = segmenter.predict_points(embedding, points, choose=lambda number, candidates: 2)
    assert_close(wholes.logits[3], segmenter.predict(embedding, Prompt([points[3]])).logits[3])


def test_features_are_the_embeddings_from_coarse_to_fine(family, photo):
    _, segmenter, network, processor = family
    embedding = segmenter.encode(photo)
    with torch.inference_mode():
        maps = network.get_image_embeddings(processor(images=photo.copy(), return_tensors="pt")["pixel_values"])
    for level, theirs in enumerate(reversed(maps)):
        np.testing.assert_allclose(segmenter.features(embedding, level), theirs[0].permute(1, 2, 0), atol=1e-5)


def test_a_click_on_an_embedding_from_a_file_encodes_nothing_and_gives_the_same_mask(
    family, photo, tmp_path, monkeypatch
):
    _, segmenter, _, _ = family
    cached = CachedSegmenter(segmenter, tmp_path)
    exact = segmenter.predict(segmenter.encode(photo), CLICK)
    cached.encode(photo)
    monkeypatch.setattr(segmenter.model, "get_image_embeddings", None)
    found = cached.predict(cached.encode(photo), CLICK)
    assert np.abs(found.logits - exact.logits).max() < 5e-3 * np.abs(exact.logits).max()  # kept in half precision
    assert found.choice == exact.choice


def test_what_does_not_fit_is_refused(family, photo):
    files, segmenter, _, _ = family
    embedding = build_segmenter("other", files, "cpu").encode(photo)
    with pytest.raises(NbHelpersError, match="belongs to another model"):
        segmenter.predict(embedding, CLICK)
    own = segmenter.encode(photo)
    with pytest.raises(NbHelpersError, match="outside the image"):
        segmenter.predict(own, Prompt([(500, 3)]))
    with pytest.raises(NbHelpersError, match="wrong size"):
        segmenter.predict(own, Prompt(mask=np.zeros((5, 5), np.float32)))
