"""Relations in space: each in a scene where the answer is known, from several sides, and where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from scene_maker import camera, make_scene

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.multiview.referring import parse_phrase
from nbhelpers.multiview.relations import (
    ReferenceCandidate,
    ViewerFrame,
    measure_rank,
    resolve_reference,
    score_relation,
    score_side,
    shrink_mask,
)

ROOM = {
    "table": ((0, 0.4, 0), (1.2, 0.8, 0.8)),
    "cup 1": ((-0.4, 0.85, 0), (0.1, 0.1, 0.1)),
    "cup 2": ((0.3, 0.85, 0.2), (0.1, 0.1, 0.1)),
    "cup 3": ((1.3, 0.05, -0.5), (0.1, 0.1, 0.1)),
    "chair 1": ((0.1, 0.5, -1.3), (0.4, 1.0, 0.4)),
    "chair 2": ((-1.3, 0.5, 0), (0.4, 1.0, 0.4)),
    "chair 3": ((0.2, 0.5, 1.3), (0.4, 1.0, 0.4)),
    "lamp": ((0, 1.7, 0), (0.3, 0.3, 0.3)),
    "desk 1": ((-2.0, 0.3, -2.0), (0.6, 0.6, 0.6)),
    "box": ((-2.0, 0.7, -2.0), (0.2, 0.2, 0.2)),
}
FAR_SIDE = [(0, 2.0, -5.0), (0.5, 2.0, -5.0), (-0.5, 2.0, -5.0)]


def things_of(room, view=0, eyes=None):
    scene, numbers = make_scene(room, eyes)
    frame = ViewerFrame(scene, view)
    out, everything = {}, []
    for number, (name, own) in enumerate(numbers.items()):
        candidate = ReferenceCandidate(number, name, frame.extent(scene.points[own]))
        out.setdefault(name.rstrip(" 0123456789"), []).append(candidate)
        everything.append(candidate)
    return out | {"object": everything}


@pytest.fixture(scope="module")
def room():
    return things_of(ROOM)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("chair behind the table", "chair 1"),
        ("chair in front of the table", "chair 3"),
        ("chair left of the table", "chair 2"),
        ("lamp above the table", "lamp"),
        ("table below the lamp", "table"),
        ("cup on the table on the left", "cup 1"),
        ("cup on the table, on the right", "cup 2"),
        ("rightmost cup", "cup 3"),
        ("second cup from the right", "cup 2"),
        ("last cup from the right", "cup 1"),
        ("nearest chair", "chair 3"),
        ("farthest chair", "chair 1"),
        ("second nearest chair", "chair 2"),
        ("chair in the foreground", "chair 3"),
        ("chair in the background", "chair 1"),
        ("lowest cup", "cup 3"),
        ("cup not on the table", "cup 3"),
        ("box on the desk", "box"),
        ("object above the table", "lamp"),
        ("largest object", "table"),
        ("chair nearest to the box", "chair 2"),
        ("largest object between the chair behind the table and the chair in front of the table", "table"),
    ],
)
def test_the_right_thing_is_chosen(room, text, name):
    choice = resolve_reference(parse_phrase(text), room)
    assert choice.decided and choice.best.name == name, choice.why
    assert all(0 <= verdict.score <= 1 for verdict in choice.ranking)
    assert choice.ranking[0].why


def test_left_and_behind_are_those_of_the_viewer():
    room = things_of(ROOM, eyes=FAR_SIDE)
    assert resolve_reference(parse_phrase("chair behind the table"), room).best.name == "chair 3"
    assert resolve_reference(parse_phrase("rightmost chair"), room).best.name == "chair 2"
    assert resolve_reference(parse_phrase("cup on the table on the left"), room).best.name == "cup 2"


def test_what_is_in_line_with_a_thing_is_not_beside_it():
    room = things_of(
        {
            "table": ((0, 0.4, 0), (1.2, 0.8, 0.8)),
            "chair 1": ((-0.15, 0.5, -1.2), (0.4, 1.0, 0.4)),
            "chair 2": ((-1.4, 0.5, 0.1), (0.4, 1.0, 0.4)),
            "ball 1": ((0.1, 0.1, 1.2), (0.2, 0.2, 0.2)),
            "ball 2": ((1.9, 0.1, 0.5), (0.2, 0.2, 0.2)),
        }
    )
    extents = {each.name: each.extent for each in room["object"]}
    in_line = [score_relation(f"{side} of", extents["chair 1"], [extents["table"]])[0] for side in ("left", "right")]
    assert max(in_line) < 0.4 < 0.9 < score_relation("left of", extents["chair 2"], [extents["table"]])[0]
    assert score_relation("in front of", extents["ball 1"], [extents["table"]])[0] > 0.9
    assert score_relation("in front of", extents["ball 2"], [extents["table"]])[0] < 0.3
    for text, name in (("chair left of the table", "chair 2"), ("ball in front of the table", "ball 1")):
        choice = resolve_reference(parse_phrase(text), room)
        assert choice.decided and choice.best.name == name, choice.why


@pytest.mark.parametrize("text", ["cup on the table", "chair", "cup", "object on the table"])
def test_a_tie_is_undecided_and_told(room, text):
    choice = resolve_reference(parse_phrase(text), room)
    assert not choice.decided and "fit equally well" in choice.why and choice.best is not None


def test_two_things_as_far_away_as_each_other_are_undecided():
    room = things_of({"cup 1": ((-0.5, 0, 0), (0.2, 0.2, 0.2)), "cup 2": ((0.5, 0, 0.005), (0.2, 0.2, 0.2))})
    assert not resolve_reference(parse_phrase("nearest cup"), room).decided
    assert resolve_reference(parse_phrase("left cup"), room).decided


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("sofa behind the table", "sofa"),
        ("chair behind the sofa", "sofa"),
        ("cup between the lamp and the sofa", "sofa"),
    ],
)
def test_a_thing_that_is_not_there_is_told(room, text, missing):
    choice = resolve_reference(parse_phrase(text), room)
    assert choice.missing == (missing,) and not choice.decided and missing in choice.why


def test_a_relation_that_nothing_fulfils_is_told(room):
    choice = resolve_reference(parse_phrase("lamp below the table"), room)
    assert not choice.decided and "satisfies" in choice.why
    choice = resolve_reference(parse_phrase("fourth chair from the left"), room)
    assert not choice.decided and "there are only 3" in choice.why


def test_the_only_table_passes_its_side_on_to_the_cup(room):
    passed = resolve_reference(parse_phrase("cup on the table on the left"), room)
    kept = resolve_reference(parse_phrase("cup on the left table"), room)
    assert passed.decided and not kept.decided


@pytest.mark.parametrize("kind", ["left of", "behind", "above", "on", "beside"])
def test_scores_go_down_as_things_move_away_from_where_they_should_be(kind):
    good = {
        "left of": (-1, 0.5, 0),
        "behind": (0, 0.5, -1.2),
        "above": (0, 1.6, 0),
        "on": (0, 1.1, 0),
        "beside": (0.8, 0.5, 0),
    }
    bad = {
        "left of": (1, 0.5, 0),
        "behind": (0, 0.5, 1.2),
        "above": (0, -0.6, 0),
        "on": (0, -0.1, 0),
        "beside": (3.5, 0.5, 0),
    }
    scores = []
    for place in (good[kind], bad[kind]):
        scene, numbers = make_scene({"a": (place, (0.2, 0.2, 0.2)), "b": ((0, 0.5, 0), (1, 1, 1))})
        frame = ViewerFrame(scene, 0)
        a, b = (frame.extent(scene.points[own]) for own in numbers.values())
        scores.append(score_relation(kind, a, [b])[0])
    assert scores[0] > 0.7 and scores[1] < 0.2


def test_a_picture_on_the_wall_is_on_it():
    scene, numbers = make_scene({"picture": ((0, 1, -0.45), (0.5, 0.4, 0.02)), "wall": ((0, 1, -0.5), (4, 2.5, 0.05))})
    frame = ViewerFrame(scene, 0)
    picture, wall = (frame.extent(scene.points[own]) for own in numbers.values())
    assert score_relation("on", picture, [wall])[0] > 0.6 and score_relation("on", wall, [picture])[0] < 0.3


def test_up_is_the_views_own_where_the_cameras_do_not_agree():
    scene, _ = make_scene({"a": ((0, 0, 0), (1, 1, 1))}, eyes=[(0, 0, 4), (0, 0.1, 4)])
    turned = scene.world_to_camera.copy()
    turned[1, :3] = np.diag([-1.0, -1.0, 1.0]) @ turned[1, :3]  # upside down
    from dataclasses import replace

    tilted = replace(scene, world_to_camera=turned)
    assert tilted.up is None and "that of the view is used" in ViewerFrame(tilted, 0).note
    assert "up from all cameras" in ViewerFrame(scene, 0).note


def test_looking_straight_down_ahead_is_the_upper_edge():
    scene, _ = make_scene({"a": ((0, 0, 0), (1, 1, 1))}, eyes=[(0, 2, 4), (1, 2, 4)])
    down = camera((0, 5, 0.01), (0, 0, 0))
    from dataclasses import replace

    scene = replace(scene, world_to_camera=np.stack([scene.world_to_camera[0], down]))
    frame = ViewerFrame(scene, 1)
    assert np.allclose(frame.axes @ frame.axes.T, np.eye(3), atol=1e-6)
    assert frame.extent(np.array([[0, 0, -1.0]] * 5)).center[2] > 0


def test_without_a_camera_the_picture_decides_and_says_so():
    frame = ViewerFrame(None)
    masks = {name: np.zeros((120, 160), bool) for name in ("table", "cup 1", "cup 2")}
    masks["table"][60:110, 30:130] = True
    masks["cup 1"][50:70, 40:50] = True
    masks["cup 2"][5:20, 100:110] = True
    extents = {name: frame.outline(shrink_mask(mask)) for name, mask in masks.items()}
    cups = [ReferenceCandidate(1, "cup 1", extents["cup 1"]), ReferenceCandidate(2, "cup 2", extents["cup 2"])]
    things = {"cup": cups, "table": [ReferenceCandidate(0, "table", extents["table"])]}
    assert frame.flat and "no camera" in frame.note
    for text, name in (
        ("cup on the table", "cup 1"),
        ("right cup", "cup 2"),
        ("cup above the table", "cup 2"),
        ("nearest cup", "cup 1"),
    ):
        choice = resolve_reference(parse_phrase(text), things)
        assert choice.decided and choice.best.name == name, (text, choice.why)
    assert frame.outline(np.zeros((10, 10), bool)) is None


def test_too_few_points_are_no_body_and_strays_do_not_count():
    scene, numbers = make_scene({"a": ((0, 0.5, 0), (0.4, 0.4, 0.4))})
    frame, own = ViewerFrame(scene, 0), scene.points[numbers["a"]]
    assert frame.extent(own[:3]) is None
    with_strays = frame.extent(np.concatenate([own, np.full((8, 3), 30.0)]))
    assert np.allclose(with_strays.center, frame.extent(own).center, atol=0.05)


def test_unknown_kinds_and_missing_things_are_errors(room):
    cup = room["cup"][0].extent
    for call in (
        lambda: score_relation("around", cup, [cup]),
        lambda: score_relation("between", cup, [cup]),
        lambda: measure_rank("oldest", cup),
        lambda: score_side("up", cup, [cup]),
    ):
        with pytest.raises(NbHelpersError):
            call()


def test_of_equal_candidates_the_one_seen_most_is_the_guess():
    chairs = things_of({f"chair {n}": ((n, 0, 0), (0.2, 0.2, 0.2)) for n in (1, 2, 3)})["chair"]
    seen = [
        replace(each, confidence=c, salience=s) for each, c, s in zip(chairs, (0.9, 0.6, 0.3), (1, 5, 9), strict=True)
    ]
    choice = resolve_reference(parse_phrase("chair"), {"chair": seen})
    assert not choice.decided and [each.candidate.name for each in choice.ranking] == ["chair 2", "chair 1", "chair 3"]
    choice = resolve_reference(parse_phrase("leftmost chair"), {"chair": seen})
    assert choice.best.name == "chair 1"
