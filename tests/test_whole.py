"""What a single click means where a detector finds whole objects: a person of a shirt and trousers, drawn."""

import json
from dataclasses import replace

import numpy as np
import pytest
import supervision
from fake_tracker import FakeTracker

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import INCLUDE, Prompt
from nbhelpers.models.values import Embedding, Prediction
from nbhelpers.models.whole import choose_whole, detect_objects
from nbhelpers.rotoscoping import RotoSession
from nbhelpers.segment import ClickSession

SHIRT, PERSON, CHAIR = (30, 20, 60, 50), (30, 20, 60, 100), (90, 10, 110, 40)
PHOTO = np.full((120, 160, 3), 90, np.uint8)
CHEST = (45, 30)


def box_mask(box):
    mask = np.zeros(PHOTO.shape[:2], bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


class Tailor:
    """A click is the shirt, or less probably the person; with a box it is what fills the box."""

    name, device = "tailor", "cpu"

    def encode(self, image):
        return Embedding(image.shape[:2], self.name, {})

    def predict(self, embedding, prompt):
        self.corrected = prompt.mask
        boxes = [SHIRT, PERSON] if prompt.box is None else [prompt.box.astype(int)]
        logits = np.stack([np.where(box_mask(box), 1, -1) for box in boxes]).astype(np.float32)
        scores = np.array([0.95, 0.8][: len(boxes)], np.float32)
        if prompt.box is None and len(prompt.labels) > 1:  # the second click leaves no doubt
            return Prediction(logits[1:], scores[1:], embedding.size, embedding.size)
        return Prediction(logits, scores, embedding.size, embedding.size)

    def predict_points(self, embedding, points, choose=None):
        raise NotImplementedError


class FakeDetector:
    """Finds boxes, each with its score."""

    name, device = "fake-detector", "cpu"

    def __init__(self, *found):
        self.found, self.runs = found, 0

    def detect(self, image, names, min_score=0.1):
        self.runs += 1
        kept = [(box, score) for box, score in self.found if score >= min_score]
        boxes = np.array([box for box, _ in kept], np.float32).reshape(-1, 4)
        return supervision.Detections(boxes, confidence=np.array([score for _, score in kept], np.float32))

    def classes(self, names):
        raise NotImplementedError

    def nearest(self, name, count=3):
        raise NotImplementedError


def chosen(boxes, point=CHEST):
    segmenter = Tailor()
    embedding = segmenter.encode(PHOTO)
    prediction = segmenter.predict(embedding, Prompt([point]))
    return choose_whole(segmenter, embedding, point, prediction, np.array(boxes, np.float32).reshape(-1, 4))


@pytest.mark.parametrize(
    ("boxes", "index"),
    [
        pytest.param([PERSON], 1, id="the box of the whole"),
        pytest.param([SHIRT], 0, id="the box of the part"),
        pytest.param([], 0, id="no box"),
        pytest.param([CHAIR], 0, id="a box elsewhere"),
        pytest.param([(0, 0, 160, 120)], 0, id="a box that no candidate fills"),
        pytest.param([CHAIR, (0, 0, 160, 120), PERSON], 1, id="several boxes"),
    ],
)
def test_the_candidate_that_fills_a_box_around_the_click(boxes, index):
    assert chosen(boxes) == index


def test_boxes_come_by_score():
    found = detect_objects(FakeDetector((SHIRT, 0.3), (PERSON, 0.9), (CHAIR, 0.05)), PHOTO)
    assert found.tolist() == [list(PERSON), list(SHIRT)]


@pytest.fixture
def session():
    return ClickSession(PHOTO, Tailor(), detector=FakeDetector((PERSON, 0.8)))


def test_a_session_takes_a_click_for_the_whole(session):
    session.click(*CHEST)
    assert np.array_equal(session.mask(), box_mask(PERSON)) and session.prediction().choice == 0
    session.click(45, 90)
    assert session.prompts().candidate is None
    assert np.array_equal(session.segmenter.corrected > 0, box_mask(PERSON))
    session.remove(1)
    assert session.prompts().before is None
    session.undo()
    session.undo()
    assert np.array_equal(session.mask(), box_mask(PERSON))
    session.choose_candidate(0)
    assert np.array_equal(session.mask(), box_mask(SHIRT))
    assert session.detector.runs == 1


def test_a_point_that_is_moved_is_another_click(session):
    session.click(*CHEST)
    session.move(0, 40, 25)
    assert session.prompts().points == ((40.0, 25.0),) and np.array_equal(session.mask(), box_mask(PERSON))


def test_without_a_detector_the_model_decides():
    session = ClickSession(PHOTO, Tailor(), detector=False)
    session.click(*CHEST)
    assert np.array_equal(session.mask(), box_mask(SHIRT))


def test_other_prompts_are_not_reinterpreted(session):
    session.set_box(SHIRT)
    session.click(*CHEST)
    assert np.array_equal(session.mask(), box_mask(SHIRT))
    session.clear()
    session.click(*CHEST, label=1 - INCLUDE)
    assert session.prompts().candidate is None


def test_a_log_replays_the_choice_without_the_detector(session, tmp_path):
    session.click(*CHEST)
    path = session.save(tmp_path / "log.json")
    assert json.loads(path.read_text())["events"][1]["candidate"] == 1
    again = ClickSession.open(path, PHOTO, Tailor())
    assert again.detector is None and np.array_equal(again.mask(), box_mask(PERSON))


def test_without_the_detector_s_files_the_model_decides(monkeypatch, caplog):
    def load(task, name=None, **options):
        raise NbHelpersError("yolox_nano.onnx could not be downloaded")

    monkeypatch.setattr("nbhelpers.models.load.load", load)
    session = ClickSession(PHOTO, Tailor(), detector=True)
    session.click(*CHEST)
    assert np.array_equal(session.mask(), box_mask(SHIRT))
    assert "could not be downloaded" in caplog.text


class TailorTracker(FakeTracker):
    """A tracker whose click has the two meanings of `Tailor`."""

    segmenter = Tailor()

    def candidates(self, state, frame, point, boxes=None):
        embedding = self.segmenter.encode(PHOTO)
        prediction = self.segmenter.predict(embedding, Prompt([point]))
        choice = 0 if boxes is None else choose_whole(self.segmenter, embedding, point, prediction, boxes)
        return replace(prediction, choice=choice)


def test_a_click_in_a_clip_is_taken_for_the_whole_and_a_project_keeps_it(tmp_path):
    frames = np.stack([PHOTO] * 3)
    session = RotoSession(frames, TailorTracker(), detector=FakeDetector((PERSON, 0.8)), project=tmp_path / "p")
    session.click(*CHEST)
    assert np.array_equal(session.mask(), box_mask(PERSON)) and session.prompts().candidate == 1
    again = RotoSession(frames, TailorTracker(), project=tmp_path / "p")
    assert np.array_equal(again.mask(), box_mask(PERSON))
    again.next_candidate()
    assert np.array_equal(again.mask(), box_mask(SHIRT))
    assert again.undo() and again.undo() and again.state() == "empty"


@pytest.mark.parametrize("detector", [False, None])
def test_a_tracker_of_one_s_own_decides_alone(detector):
    session = RotoSession(np.stack([PHOTO] * 3), TailorTracker(), detector=detector)
    session.click(*CHEST)
    assert session.prompts().candidate is None
