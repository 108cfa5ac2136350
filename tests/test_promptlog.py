import json

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.promptlog import VERSION, ObjectPrompts, PromptLog

IMAGE = {"name": "cat.jpg", "size": [120, 160], "sha256": "00"}


def a_log():
    log = PromptLog(IMAGE, "fake")
    log.append("object.add", object="cat")
    log.append("point.add", object="cat", x=50.0, y=60.0, label=1)
    log.append("point.add", object="cat", x=10.0, y=20.0, label=0)
    return log


def test_the_prompts_follow_from_the_events():
    cat = a_log().objects()["cat"]
    assert cat == ObjectPrompts(points=((50.0, 60.0), (10.0, 20.0)), labels=(1, 0))
    assert cat.prompt().points.tolist() == [[50, 60], [10, 20]] and cat.prompt().labels.tolist() == [1, 0]


def test_an_object_without_prompts_asks_nothing():
    log = PromptLog(IMAGE, "fake")
    log.append("object.add", object="cat")
    assert log.objects()["cat"].is_empty and log.objects()["cat"].prompt() is None


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("point.move", {"index": 1, "x": 11, "y": 21})], ObjectPrompts(((50, 60), (11, 21)), (1, 0))),
        ([("point.remove", {"index": 0})], ObjectPrompts(((10, 20),), (0,))),
        ([("box.set", {"box": [1, 2, 3, 4]})], ObjectPrompts(((50, 60), (10, 20)), (1, 0), (1, 2, 3, 4))),
        ([("box.set", {"box": [1, 2, 3, 4]}), ("box.set", {"box": None})], ObjectPrompts(((50, 60), (10, 20)), (1, 0))),
        ([("candidate.set", {"index": 2})], ObjectPrompts(((50, 60), (10, 20)), (1, 0), candidate=2)),
        (
            [("candidate.set", {"index": 2}), ("point.remove", {"index": 0})],
            ObjectPrompts(((10, 20),), (0,), candidate=None),
        ),
        ([("clear", {})], ObjectPrompts()),
    ],
)
def test_each_operation_does_what_it_says(steps, expected):
    log = a_log()
    for op, what in steps:
        log.append(op, object="cat", **what)
    assert log.objects()["cat"] == expected


def test_objects_keep_their_order_when_renamed_and_can_be_removed():
    log = a_log()
    log.append("object.add", object="dog")
    log.append("object.rename", object="cat", to="lynx")
    assert list(log.objects()) == ["lynx", "dog"] and log.objects()["lynx"].labels == (1, 0)
    log.append("object.remove", object="lynx")
    assert list(log.objects()) == ["dog"]


def test_a_mask_survives_as_text():
    mask = np.eye(6, dtype=bool)
    log = a_log()
    log.append("mask.set", object="cat", mask=mask)
    again = PromptLog.from_json(log.to_json())
    assert (again.objects()["cat"].prompt().mask == mask).all()


def test_undo_forgets_nothing_and_redo_brings_it_back():
    log = a_log()
    before = log.objects()
    assert log.undo()["x"] == 10.0 and log.objects()["cat"].labels == (1,)
    assert log.can_redo and log.redo()["x"] == 10.0 and log.objects() == before
    assert log.redo() is None and not log.can_redo
    while log.can_undo:
        log.undo()
    assert log.undo() is None and log.objects() == {} and len(log.events) == 3


def test_a_new_step_drops_what_was_undone():
    log = a_log()
    log.undo()
    log.append("point.add", object="cat", x=1.0, y=2.0, label=1)
    assert log.objects()["cat"].points == ((50.0, 60.0), (1.0, 2.0)) and not log.can_redo


@pytest.mark.parametrize(
    ("op", "what"),
    [
        ("point.add", {"object": "dog", "x": 1, "y": 2, "label": 1}),
        ("point.add", {"object": "cat", "x": 1, "y": 2}),
        ("point.add", {"object": "cat", "x": "left", "y": 2, "label": 1}),
        ("point.move", {"object": "cat", "index": 2, "x": 1, "y": 2}),
        ("point.remove", {"object": "cat", "index": -1}),
        ("object.add", {"object": "cat"}),
        ("object.add", {"object": "  "}),
        ("object.rename", {"object": "cat", "to": "cat"}),
        ("object.rename", {"object": "cat", "to": ""}),
        ("object.remove", {"object": "dog"}),
        ("paint", {"object": "cat"}),
        ("clear", {}),
    ],
)
def test_a_step_that_makes_no_sense_is_refused_and_changes_nothing(op, what):
    log = a_log()
    before = log.to_json()
    with pytest.raises(NbHelpersError, match="cannot be recorded"):
        log.append(op, **what)
    assert log.to_json() == before


def test_saved_and_opened_it_is_the_same_with_its_undo_history(tmp_path):
    log = a_log()
    log.undo()
    again = PromptLog.open(log.save(tmp_path / "cat.json"))
    assert again.to_json() == log.to_json()
    assert again.objects() == log.objects() and again.model == "fake" and again.image == IMAGE
    assert again.redo()["x"] == 10.0
    assert json.loads((tmp_path / "cat.json").read_text())["version"] == VERSION


def changed(**what):
    data = json.loads(a_log().to_json())
    data.update(what)
    return json.dumps({key: value for key, value in data.items() if value != "GONE"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"text"',
        '{"format": "other"}',
        a_log().to_json()[:-20],
        changed(version=VERSION + 1),
        changed(version=0),
        changed(version="1"),
        changed(version=None),
        changed(events="GONE"),
        changed(image="GONE"),
        changed(model="GONE"),
        changed(cursor="GONE"),
        changed(cursor=4),
        changed(cursor=-1),
        changed(cursor="3"),
        changed(cursor=1.5),
        changed(image=5),
        changed(image="cat.jpg"),
        changed(model=5),
        changed(model=None),
        changed(events=5),
        changed(events=None),
        changed(events={"op": "clear"}),
        changed(events=["clear", "clear", "clear"]),
        changed(events=[None, None, None]),
        changed(events=[{}, {}, {}]),
        changed(events=[{"op": "point.add", "object": "nobody", "x": 1, "y": 1, "label": 1}] * 3),
        changed(events=[{"op": "object.add", "object": ["cat"]}], cursor=1),
        changed(events=[{"op": "object.add", "object": "cat"}, {"op": "box.set", "object": "cat", "box": 7}], cursor=2),
    ],
)
def test_a_damaged_log_is_one_clear_error(text, tmp_path):
    with pytest.raises(NbHelpersError):
        PromptLog.from_json(text)
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(NbHelpersError):
        PromptLog.open(tmp_path / "log.json")
    assert (tmp_path / "log.json").read_text() == text


@pytest.mark.parametrize(
    "event",
    [
        {"op": "point.add", "object": "cat", "x": float("nan"), "y": 1, "label": 1},
        {"op": "point.add", "object": "cat", "x": 1, "y": float("inf"), "label": 1},
        {"op": "point.add", "object": "cat", "x": 1, "y": 1, "label": 7},
        {"op": "box.set", "object": "cat", "box": [1, 2, 3]},
        {"op": "box.set", "object": "cat", "box": [3, 2, 1, 4]},
        {"op": "mask.set", "object": "cat", "mask": {"size": [4, 5], "counts": "abc"}},
        {"op": "mask.set", "object": "cat", "mask": "abc"},
        {"op": "mask.set", "object": "cat", "mask": 5},
    ],
)
def test_prompts_that_no_segmenter_could_answer_are_one_clear_error(event):
    with pytest.raises(NbHelpersError):
        log = PromptLog.from_json(changed(events=[{"op": "object.add", "object": "cat"}, event], cursor=2))
        log.objects()["cat"].prompt()


def test_a_newer_log_says_so_and_keeps_the_file(tmp_path):
    path = tmp_path / "log.json"
    path.write_text(changed(version=99))
    with pytest.raises(NbHelpersError, match="version") as told:
        PromptLog.open(path)
    assert "99" in told.value.given and "update nbhelpers" in told.value.do
    assert path.read_text() == changed(version=99)


def test_what_is_no_text_or_not_there_is_one_clear_error(tmp_path):
    (tmp_path / "log.json").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "log.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(NbHelpersError, match="cannot be read"):
            PromptLog.open(path)


def test_reading_the_objects_does_not_replay_the_log():
    log = a_log()
    log.append("point.add", object="cat", x=1, y=1, label=1)
    assert log.entries()["cat"] is log.entries()["cat"] and len(log.objects()["cat"].points) == 3
    log.undo()
    assert log.entries()["cat"] is log.entries()["cat"] and len(log.objects()["cat"].points) == 2
    before = log.events, log.cursor
    log.append("clear", object="cat")
    log.events, log.cursor = before
    assert len(log.objects()["cat"].points) == 2, "a log that was restored"


def test_an_earlier_reading_is_not_changed_by_later_steps():
    log = a_log()
    before, frames = log.entries(), dict(log.entries()["cat"].frames)
    log.append("point.add", object="cat", x=1, y=1, label=1)
    log.append("matte.set", object="cat", settings={"grow": 2})
    log.append("object.remove", object="cat")
    assert before["cat"].frames == frames and before["cat"].matte is None and log.entries() == {}
