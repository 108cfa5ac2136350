import dataclasses

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt, parse_point


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
