import numpy as np
import onnx
import pytest

from nbhelpers import NbHelpersError
from nbhelpers.models import yolox
from nbhelpers.models.yolox import CLASSES, SIDE, YoloxDetector, decode, letterbox, letterbox_scale, windows


def rows(side):
    return sum((side // stride) ** 2 for stride in (8, 16, 32))


ROWS = rows(SIDE)


class FakeSession:
    """Puts one box of a class on each red rectangle of the input; as the network gives it."""

    def __init__(self, label, score=0.9, side=SIDE):
        self.label, self.score, self.side, self.runs = label, score, side, 0

    def get_inputs(self):
        return [type("Input", (), {"name": "images", "shape": [1, 3, self.side, self.side]})]

    def run(self, _, feed):
        (pixels,) = feed.values()
        assert pixels.shape == (1, 3, self.side, self.side) and pixels.dtype == np.float32
        self.runs += 1
        red = (pixels[0, 2] > 200) & (pixels[0, 0] < 60)  # BGR
        out = np.zeros((1, rows(self.side), 85), np.float32)
        if red.any():
            y, x = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
            out[0, 0] = as_output(x[0], y[0], x[-1] + 1, y[-1] + 1, self.label, self.score, cell=(0, 0))
        return [out]


def as_output(x0, y0, x1, y1, label, score, cell, stride=8):
    """A row of the network's output for a box, written down from the paper's repository: offset and log size in cells."""
    row = np.zeros(85, np.float32)
    row[:2] = (x0 + x1) / 2 / stride - cell[0], (y0 + y1) / 2 / stride - cell[1]
    row[2:4] = np.log((x1 - x0) / stride), np.log((y1 - y0) / stride)
    row[4], row[5 + CLASSES.index(label)] = 1.0, score
    return row


def red_box(height, width, x0, y0, x1, y1):
    image = np.full((height, width, 3), 128, np.uint8)
    image[y0:y1, x0:x1] = (230, 30, 30)
    return image


def test_the_input_is_bgr_in_the_corner_of_a_grey_square():
    image = np.zeros((100, 208, 3), np.uint8)
    image[:, :] = (10, 20, 30)
    square = letterbox(image)
    assert letterbox_scale(100, 208) == 2.0
    assert (square[:, :200, :416] == np.array([30, 20, 10])[:, None, None]).all()
    assert (square[:, 200:] == 114).all()


def test_boxes_are_decoded_on_every_stride():
    output = np.zeros((ROWS, 85), np.float32)
    where = {(8, 3, 5): 5 * 52 + 3, (16, 2, 1): 52 * 52 + 1 * 26 + 2, (32, 4, 6): 52 * 52 + 26 * 26 + 6 * 13 + 4}
    for (stride, x, y), row in where.items():
        output[row] = as_output(40, 50, 140, 90, "dog", 0.8, (x, y), stride)
    boxes, scores, labels = decode(output, 0.3)
    assert np.allclose(boxes, [[40, 50, 140, 90]] * 3, atol=1e-3)
    assert scores == pytest.approx([0.8] * 3) and {CLASSES[label] for label in labels} == {"dog"}
    assert len(decode(output, 0.81)[0]) == 0


@pytest.mark.parametrize("side", [SIDE, 640])
@pytest.mark.parametrize("size", [(300, 400), (900, 1400), (40, 900), (16, 16)])
def test_a_box_comes_back_in_pixels_of_the_photo(size, side):
    height, width = size
    box = round(width * 0.3), round(height * 0.25), round(width * 0.6), round(height * 0.75)
    found = YoloxDetector(FakeSession("couch", side=side)).detect(red_box(height, width, *box), ["sofa", "tractor"])
    scale = max(1.0, max(size) / side)
    best = found[found.confidence.argmax()]
    assert np.abs(best.xyxy[0] - box).max() <= 2 * scale
    assert best.class_id[0] == 0 and best.data["detected"][0] == "couch" and best.data["class_name"][0] == "sofa"


def test_what_nobody_asked_for_is_told_apart():
    found = YoloxDetector(FakeSession("person")).detect(red_box(300, 400, 50, 60, 150, 200), ["dog"])
    assert found.class_id.tolist() == [-1] and found.data["class_name"].tolist() == ["person"]


def test_without_a_vocabulary_all_is_of_other_classes():
    found = YoloxDetector(FakeSession("dog", 0.4)).detect(red_box(300, 300, 60, 60, 200, 200), [])
    assert len(found) == 1 and found.class_id.tolist() == [-1] and found.data["class_name"].tolist() == ["dog"]


def test_nothing_is_found_on_a_plain_photo():
    found = YoloxDetector(FakeSession("person")).detect(np.full((50, 60, 3), 128, np.uint8), ["dog"])
    assert len(found) == 0 and found.xyxy.shape == (0, 4) and len(found.data["detected"]) == 0


def test_large_photos_are_tiled_with_overlap_and_small_ones_are_not():
    assert list(windows(240, 320)) == [(0, 0, 320, 240)]
    assert len(list(windows(480, 480, 640))) == 1 < len(list(windows(480, 480)))
    tiles = list(windows(900, 1200))[1:]
    seen = np.zeros((900, 1200), int)
    for x0, y0, x1, y1 in tiles:
        seen[y0:y1, x0:x1] += 1
    assert seen.min() >= 1 and seen.max() >= 2 and len(tiles) <= 16
    assert len(list(windows(6000, 9000))) <= 17


def test_a_box_that_a_tile_cuts_off_is_left_to_the_others():
    found = YoloxDetector(FakeSession("dog")).detect(red_box(600, 800, 100, 100, 700, 500), ["dog"])
    assert len(found) == 1 and np.abs(found.xyxy[0] - (100, 100, 700, 500)).max() < 6


def test_an_unsure_box_is_detected_once_more_in_its_crop():
    session = FakeSession("dog", score=0.3)
    found = YoloxDetector(session).detect(red_box(240, 320, 50, 60, 150, 200), ["dog"])
    assert session.runs == 3 and found.confidence[0] != pytest.approx(0.3)
    alone = FakeSession("dog", score=0.3)
    assert YoloxDetector(alone).detect(red_box(240, 320, 50, 60, 150, 200), ["cat"]).confidence[0] == pytest.approx(0.3)
    assert alone.runs == 1


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("person", ("person",)),
        ("Women", ("person",)),
        ("a child", ("person",)),
        ("people", ("person",)),
        ("sofa", ("couch",)),
        ("mug", ("cup",)),
        ("bike", ("bicycle",)),
        ("planes", ("airplane",)),
        ("telly", ("tv",)),
        ("red car", ("car",)),
        ("wine glasses", ("wine glass",)),
        ("teddy bear", ("teddy bear",)),
        ("hot dog", ("hot dog",)),
        ("dining table", ("dining table",)),
        ("fruit", ("banana", "apple", "orange")),
        ("tractor", ()),
        ("dog house", ()),
        ("猫", ()),
    ],
)
def test_a_name_stands_for_classes(name, classes):
    assert YoloxDetector(FakeSession("dog")).classes([name]) == [classes]


def test_all_names_of_a_class_count():
    detector = YoloxDetector(FakeSession("dog"))
    assert detector.classes([["tractor", "lorry"], "dog"]) == [("truck",), ("dog",)]


def test_every_synonym_belongs_to_one_class():
    assert set(yolox.SYNONYMS) <= set(CLASSES) and {own for group in yolox.GROUPS.values() for own in group} <= set(
        CLASSES
    )
    assert len(CLASSES) == 80
    detector = YoloxDetector(FakeSession("dog"))
    for own in CLASSES:
        assert detector.classes([own]) == [(own,)]


def test_similar_names_are_found_by_their_sentences():
    def sentences(texts):
        return np.array([[1.0, 0.0] if text in ("couch", "davenport") else [0.0, 1.0] for text in texts], np.float32)

    detector = YoloxDetector(FakeSession("dog"), sentences)
    assert detector.classes(["davenport"]) == [("couch",)]
    assert detector.nearest("davenport", 1) == ("couch",)


def test_a_file_that_is_no_detector_is_refused(tmp_path):
    (tmp_path / "yolox.onnx").write_bytes(b"no network")
    with pytest.raises(NbHelpersError, match="the detector cannot be loaded"):
        yolox.build("yolox-nano-lite", {"checkpoint": tmp_path / "yolox.onnx"}, "cpu")


@pytest.mark.parametrize("side", [416, 640])
def test_the_size_of_the_network_is_read_from_its_file(tmp_path, side):
    path = tmp_path / "yolox.onnx"
    onnx.save(constant_network(side, rows(side)), path)
    detector = yolox.build("yolox-s", {"checkpoint": path}, "cpu")
    found = detector.detect(np.zeros((side, side, 3), np.uint8), ["dog"])
    assert detector.side == side and len(found) == 0
    onnx.save(constant_network(side, rows(side) - 1), path)
    with pytest.raises(NbHelpersError, match="another network"):
        yolox.build("yolox-s", {"checkpoint": path}, "cpu")


def constant_network(side, count):
    """An ONNX model with the input and output of YOLOX, that detects nothing."""
    shapes = {"images": (1, 3, side, side), "output": (1, count, 85)}
    images, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    zeros = onnx.numpy_helper.from_array(np.zeros(shapes["output"], np.float32))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["output"], value=zeros)], "yolox", [images], [output]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.weights("yolox-nano-lite")
def test_on_real_weights_things_are_found_where_they_are():
    from nbhelpers import load, load_image, sample

    detector = load("detector", "yolox-nano-lite", "cpu")
    found = detector.detect(load_image(sample("chelsea")), ["tabby", "espresso"])
    best = found[found.confidence.argmax()]
    assert best.data["class_name"][0] == "tabby" and best.confidence[0] > 0.8
    assert best.xyxy[0][0] < 200 < best.xyxy[0][2] and best.xyxy[0][1] < 150 < best.xyxy[0][3]
    assert detector.classes(["settee", "castle", "puppy"]) == [("couch",), (), ("dog",)]
    person = detector.detect(load_image(sample("astronaut")), ["woman"])
    assert person.data["detected"][person.confidence.argmax()] == "person" and person.confidence.max() > 0.8
