"""MobileSAM: geometry against Segment Anything's own rules, and the real weights."""

import json

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.masks import iou, polygon_mask
from nbhelpers.core.prompts import Prompt
from nbhelpers.models import mobilesam
from nbhelpers.models.load import load
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding
from nbhelpers.weights import sample


class Session:
    """Stands in for ONNX Runtime: records what it is fed."""

    def __init__(self, *answers):
        self.answers, self.fed = answers, []

    def get_inputs(self):
        return [type("Input", (), {"name": "input"})]

    def run(self, names, feeds):
        self.fed.append(feeds)
        return list(self.answers)


@pytest.fixture
def segmenter():
    logits = np.random.default_rng(0).normal(size=(1, 4, 256 * 256)).astype(np.float32)
    ious = np.array([[0.7, 0.5, 0.9, 0.6]], np.float32)
    return mobilesam.MobileSamSegmenter(Session(np.zeros((1, 256, 64, 64), np.float32)), Session(logits, ious))


def test_the_photo_is_scaled_normalised_and_padded_as_sam_does(segmenter, photo):
    segmenter.encode(photo)
    pixels = segmenter.encoder.fed[0]["input"]
    assert pixels.shape == (1, 3, 1024, 1024) and pixels.dtype == np.float32
    assert (pixels[:, :, 768:] == 0).all() and (pixels[:, :, :768] != 0).any()
    middle_of_box = pixels[0, :, round(60 * 6.4), round(120 * 6.4)]
    np.testing.assert_allclose(middle_of_box, (np.array([30, 60, 200]) - mobilesam.MEAN) / mobilesam.STD, atol=1e-5)


def test_prompts_are_coded_as_the_graph_wants_them(segmenter):
    embedding = Embedding((512, 1024), "mobilesam", {"image_embeddings": None})
    segmenter.predict(embedding, Prompt([(100, 50), (10, 20)], [1, 0]))
    segmenter.predict(embedding, Prompt([(100, 50)], box=(1, 2, 300, 400)))
    mask = np.zeros((512, 1024), bool)
    mask[:256] = True
    segmenter.predict(embedding, Prompt(mask=mask))
    clicks, boxed, masked = segmenter.decoder.fed
    assert clicks["point_coords"].tolist() == [[[100, 50], [10, 20], [0, 0]]]
    assert clicks["point_labels"].tolist() == [[1, 0, -1]]
    assert boxed["point_coords"].tolist() == [[[100, 50], [1, 2], [300, 400]]]
    assert boxed["point_labels"].tolist() == [[1, 2, 3]]
    assert clicks["has_mask_input"] == 0 and masked["has_mask_input"] == 1
    low = masked["mask_input"][0, 0]
    assert (low[:64] == 10).all() and (low[64:] == -10).all()


def test_all_four_candidates_come_back_and_sams_rule_chooses(segmenter):
    embedding = Embedding((512, 1024), "mobilesam", {"image_embeddings": None})
    single = segmenter.predict(embedding, Prompt([(100, 50)]))
    assert len(single) == 4 and single.masks.shape == (4, 512, 1024) and single.choice == 2
    assert single.extent == (128, 256)
    for prompt in (Prompt([(100, 50)], [0]), Prompt([(1, 1), (2, 2)]), Prompt(box=(1, 2, 3, 4))):
        assert segmenter.predict(embedding, prompt).choice == 0
    many = segmenter.predict_points(embedding, np.array([(100, 50), (10, 20), (30, 30)]))
    assert len(many) == 3 and np.array_equal(many.logits[0], single.logits[2])


def test_wrong_input_is_told(segmenter, tmp_path):
    with pytest.raises(NbHelpersError, match="another model"):
        segmenter.predict(Embedding((512, 1024), "sam2", {}), Prompt([(1, 1)]))
    with pytest.raises(NbHelpersError, match="outside"):
        segmenter.predict(Embedding((512, 1024), "mobilesam", {}), Prompt([(1, 600)]))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        mobilesam.build("mobilesam", {"encoder": broken, "decoder": broken}, "cpu")


@pytest.mark.weights("mobilesam")
def test_real_weights_segment_the_quokka():
    segmenter = load("segmenter", "mobilesam", "cpu")
    assert isinstance(segmenter, Segmenter)
    image = load_image(sample("quokka"))
    polygon = json.loads(sample("quokka_annotations").read_text())["polygons"][0]["keypoints"]
    truth = polygon_mask([(point["x"], point["y"]) for point in polygon], image.shape[:2])
    embedding = segmenter.encode(image)
    single = segmenter.predict(embedding, Prompt([(349, 346)]))
    assert len(single) == 4 and iou(single.best, truth) > 0.9
    assert iou(segmenter.predict(embedding, Prompt(box=(148, 50, 550, 642))).best, truth) > 0.9
    assert iou(segmenter.predict(embedding, Prompt(mask=truth)).best, truth) > 0.9


def test_sessions_use_as_many_threads_as_they_are_given(monkeypatch):
    """ONNX Runtime does not read the variable itself; workers beside each other would take all cores each."""
    from onnx import TensorProto, helper

    from nbhelpers.models.adapters import onnx_session

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negative", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    for told, threads in (("1", 1), ("3", 3), ("", 0), ("many", 0)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        session, device = onnx_session(model, "cuda")
        assert session.get_session_options().intra_op_num_threads == threads and device == "cpu"
    assert session.run(None, {"x": np.array([1, -2], np.float32)})[0].tolist() == [-1, 2]
