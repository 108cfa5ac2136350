"""SAM 3's instances by words and by examples, against the library's own processor and network; errors."""

import numpy as np
import pytest
import tiny_networks
import torch
import transformers
from fake_words import FakeDetector, FakeTextEncoder, FloodSegmenter, scene

from nbhelpers import clip_guided
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import sam3
from nbhelpers.models.protocols import ConceptSegmenter, Detector

ROLES = {"checkpoint": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"}
SCORE = 1e-6  # random weights are sure of nothing


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    tiny_networks.save("sam3", folder)
    files = {role: folder / name for role, name in ROLES.items()}
    network = transformers.Sam3Model.from_pretrained(folder).eval()
    size = {"height": tiny_networks.SIDE, "width": tiny_networks.SIDE}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.Sam3Processor(
        transformers.Sam3ImageProcessor(size=size), tokenizer, target_size=tiny_networks.SIDE
    )
    return sam3.build("tiny", files, "cpu"), network, processor, files


def of_the_library(network, processor, photo, **prompt):
    encoded = processor(images=photo.copy(), return_tensors="pt", **prompt)
    sizes = encoded.pop("original_sizes").tolist()
    with torch.inference_mode():
        output = network(**encoded)
    (found,) = processor.post_process_instance_segmentation(output, threshold=SCORE, target_sizes=sizes)
    order = np.argsort(-found["scores"].numpy(), kind="stable")
    return {key: value.numpy()[order] for key, value in found.items()}


def assert_same(ours, theirs):
    assert len(ours) == len(theirs["scores"]) > 0
    np.testing.assert_allclose(ours.confidence, theirs["scores"], atol=1e-5)
    np.testing.assert_allclose(ours.xyxy, theirs["boxes"].clip(0, [160, 120, 160, 120]), atol=1e-2)
    assert (ours.mask == (theirs["masks"] > 0)).mean() > 0.999


def test_instances_are_those_of_the_librarys_pipeline_on_a_photo_that_is_no_square(tiny, photo):
    segmenter, network, processor, _ = tiny
    assert isinstance(segmenter, ConceptSegmenter) and isinstance(segmenter, Detector)
    found = segmenter.segment(photo, ["red ball", "cat"], SCORE)
    for number, name in enumerate(["red ball", "cat"]):
        own = found[found.class_id == number]
        assert set(own.data["class_name"]) == {name} and own.mask.shape[1:] == (120, 160)
        assert_same(own, of_the_library(network, processor, photo, text=name))


def test_an_example_is_given_to_the_network_as_the_library_does(tiny, photo):
    segmenter, network, processor, _ = tiny
    boxes, labels = [[25, 35, 75, 85], [100, 30, 140, 90]], [1, 0]
    theirs = of_the_library(network, processor, photo, input_boxes=[boxes], input_boxes_labels=[labels])
    assert_same(segmenter.segment_similar(photo, boxes, labels, min_score=SCORE), theirs)
    one = segmenter.segment_similar(photo, boxes[:1], name="ball", min_score=SCORE)
    assert_same(one, of_the_library(network, processor, photo, text="ball", input_boxes=[boxes[:1]]))


def test_as_a_detector_it_gives_the_boxes_and_knows_every_name(tiny, photo):
    segmenter = tiny[0]
    boxes, masks = segmenter.detect(photo, ["cat"], SCORE), segmenter.segment(photo, ["cat"], SCORE)
    np.testing.assert_array_equal(boxes.xyxy, masks.xyxy)
    assert boxes.mask is not None and boxes.data["detected"].tolist() == ["cat"] * len(boxes)
    assert segmenter.classes(["sofa", ["dog", "puppy"]]) == [("sofa",), ("dog", "puppy")]
    assert segmenter.nearest("sofa") == ("sofa",)


def test_names_of_one_class_are_one_class_and_do_not_count_twice(tiny, photo):
    segmenter = tiny[0]
    both = segmenter.segment(photo, [["cat", "cats"]], SCORE)
    assert set(both.data["class_name"]) == {"cat"} and (np.diff(both.confidence) <= 0).all()
    alone = [segmenter.segment(photo, [name], SCORE) for name in ("cat", "cats")]
    assert 1 <= len(both) < sum(map(len, alone))
    assert both.confidence[0] == max(found.confidence[0] for found in alone)


def test_nothing_found_is_an_empty_result_with_masks(tiny, photo):
    nothing = tiny[0].segment(photo, ["cat"], 1.0)
    assert len(nothing) == 0 and nothing.mask.shape == (0, 120, 160) and len(nothing.data["class_name"]) == 0


def test_masks_of_a_detector_compete_for_pixels_and_are_taken_as_they_are():
    """What SAM 3 lacks: exclusive labels, and which instance lost which pixels to which."""

    class Segmenting(FakeDetector):
        def detect(self, image, names, min_score=0.1):
            found = super().detect(image, names, min_score)
            found.mask = np.zeros((len(found), *image.shape[:2]), bool)
            for mask, (x0, y0, x1, y1) in zip(found.mask, found.xyxy.astype(int), strict=True):
                mask[y0 : y1 - 10, x0:x1] = True  # a segmenter would not find this edge
            return found

    image = scene()
    words = {"ball": 0.9, "box": 0.6, "lid": 0.8}
    result = clip_guided.segment(
        image, list(words), segmenter=FloodSegmenter(), text_encoder=FakeTextEncoder(), detector=Segmenting(words)
    )
    assert sorted(result.instances.data["class_name"]) == ["ball", "ball", "box", "lid"]
    assert result.instances.mask.sum(0).max() == 1
    box, lid = result.mask("box"), result.mask("lid")
    assert lid[150, 260] and not box[150, 260] and box[200, 260] and not box[215, 260]
    assert any({"box", "lid"} == set(conflict.names) for conflict in result.conflicts)


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [([], None), ([[0, 0, 9, 9]], [0]), ([[500, 0, 600, 9]], None), ([[9, 9, 3, 3]], None), ([[0, 0, 9, 9]], [1, 1])],
)
def test_boxes_that_show_no_example_are_refused(tiny, photo, boxes, labels):
    with pytest.raises(NbHelpersError, match="no example"):
        tiny[0].segment_similar(photo, boxes, labels)


def test_a_name_that_is_too_long_is_refused(tiny, photo):
    with pytest.raises(NbHelpersError, match="too long"):
        tiny[0].segment(photo, ["x" * 60])
