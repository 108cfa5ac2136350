"""Prompts are checked when they are made; the prompt log: replay, undo, saved files and steps that make no sense."""

import dataclasses
import json

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import VERSION, ObjectPrompts, Prompt, PromptLog, parse_point

IMAGE = {"name": "cat.jpg", "size": [120, 160], "sha256": "00"}


def test_values_become_arrays_of_known_type():
    prompt = Prompt(points=[(3, 4), (5, 6)], labels=[1, 0], box=(1, 2, 3, 4))
    assert prompt.points.dtype == np.float32 and prompt.points.tolist() == [[3, 4], [5, 6]]
    assert prompt.labels.dtype == np.int32 and prompt.labels.tolist() == [1, 0]
    assert prompt.box.dtype == np.float32 and prompt.box.tolist() == [1, 2, 3, 4]


def test_labels_left_out_include():
    assert Prompt(points=[(3, 4), (5, 6)]).labels.tolist() == [1, 1]


def test_boolean_labels_are_taken():
    assert Prompt(points=[(3, 4), (5, 6)], labels=[True, False]).labels.tolist() == [1, 0]


def test_it_cannot_be_changed_afterwards():
    mine = np.array([[3.0, 4.0]], np.float32)
    prompt = Prompt(points=mine, box=(1, 2, 3, 4))
    mine[:] = 99
    assert prompt.points.tolist() == [[3, 4]]
    with pytest.raises(ValueError, match="read-only"):
        prompt.points[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        prompt.box[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.box = None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "empty"),
        ({"points": []}, "empty"),
        ({"points": np.zeros((0, 2))}, "empty"),
        ({"points": [(1, 2)], "labels": []}, "differ in number"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "differ in number"),
        ({"labels": [1]}, "differ in number"),
        ({"points": [(1, 2)], "labels": [2]}, "neither 1 nor 0"),
        ({"points": [(1, 2)], "labels": [-1]}, "neither 1 nor 0"),
        ({"points": [(1, 2)], "labels": [0.5]}, "neither 1 nor 0"),
        ({"points": [(1, 2)], "labels": ["in"]}, "neither 1 nor 0"),
        ({"points": [(1, 2)], "labels": [np.nan]}, "neither 1 nor 0"),
        ({"points": [(np.nan, 2)]}, "not finite"),
        ({"points": [(np.inf, 2)]}, "not finite"),
        ({"points": [(None, 2)]}, "points"),
        ({"points": [1, 2, 3]}, "points cannot be read"),
        ({"points": [("a", "b")]}, "points cannot be read"),
        ({"points": [(1, 2), (3,)]}, "points cannot be read"),
        ({"box": (1, 2, 3)}, "box cannot be read"),
        ({"box": "1,2,3,4"}, "box cannot be read"),
        ({"box": (1, 2, np.nan, 4)}, "not finite"),
        ({"box": (5, 2, 5, 4)}, "box is empty"),
        ({"box": (5, 2, 3, 4)}, "box is empty"),
        ({"box": (1, 4, 3, 2)}, "box is empty"),
        ({"mask": np.zeros((4, 4), np.uint8)}, "wrong form"),
        ({"mask": np.zeros((4, 4), np.float64)}, "wrong form"),
        ({"mask": np.zeros((1, 4, 4), bool)}, "wrong form"),
        ({"mask": np.full((4, 4), np.nan, np.float32)}, "not finite"),
        ({"mask": "mask.png"}, "wrong form"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, says):
    with pytest.raises(NbHelpersError, match=says):
        Prompt(**arguments)


@pytest.mark.parametrize(
    ("arguments", "ambiguous"),
    [
        ({"points": [(1, 2)]}, True),
        ({"points": [(1, 2)], "labels": [0]}, False),
        ({"points": [(1, 2), (3, 4)]}, False),
        ({"points": [(1, 2)], "box": (0, 0, 5, 5)}, False),
        ({"points": [(1, 2)], "mask": np.ones((4, 4), bool)}, False),
        ({"box": (0, 0, 5, 5)}, False),
    ],
)
def test_only_a_single_including_click_is_ambiguous(arguments, ambiguous):
    assert bool(Prompt(**arguments).is_ambiguous) is ambiguous


@pytest.mark.parametrize("point", [(0, 0), (159, 119), (-0.5, -0.5), (159.5, 119.5)])
def test_every_place_on_a_pixel_is_inside(point):
    prompt = Prompt(points=[point])
    assert prompt.check_inside((120, 160)) is prompt


@pytest.mark.parametrize("point", [(160, 0), (0, 120), (-1, 0), (0, -0.6), (119, 159), (1e9, 0)])
def test_a_point_outside_is_told(point):
    with pytest.raises(NbHelpersError, match="outside the image") as told:
        Prompt(points=[(5, 5), point]).check_inside((120, 160))
    assert told.value.given == pytest.approx(list(point))
    assert "159" in told.value.expected and "119" in told.value.expected


def test_a_box_may_hang_over_the_edge_but_not_lie_outside():
    Prompt(box=(-20, -20, 10, 10)).check_inside((120, 160))
    for box in [(160, 0, 200, 50), (0, 120, 50, 150), (-30, 0, -10, 10), (0, -30, 10, -10)]:
        with pytest.raises(NbHelpersError, match="box lies outside"):
            Prompt(box=box).check_inside((120, 160))


def test_a_mask_must_have_the_size_of_the_image_but_logits_need_not():
    Prompt(mask=np.ones((120, 160), bool)).check_inside((120, 160))
    Prompt(mask=np.ones((64, 64), np.float32)).check_inside((120, 160))
    with pytest.raises(NbHelpersError, match="another size"):
        Prompt(mask=np.ones((160, 120), bool)).check_inside((120, 160))


@pytest.mark.parametrize(
    ("text", "place", "point"),
    [
        ("320,200", "", (None, 320.0, 200.0, 1)),
        ("320,200,0", "VIEW", (None, 320.0, 200.0, 0)),
        ("3:320.5,200", "FRAME", (3, 320.5, 200.0, 1)),
    ],
)
def test_a_point_of_the_command_line(text, place, point):
    assert parse_point(text, place) == point


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "1:2,3", "x:1,2", "1,2,0,4"])
def test_a_point_of_another_form_is_refused(text):
    with pytest.raises(NbHelpersError, match="--point cannot be read"):
        parse_point(text, "FRAME" if text[:1] == "x" else "")


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
