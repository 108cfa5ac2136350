"""Prompts of several views that contradict each other: who is followed, and what a wrong click leaves alone."""

import numpy as np
import pytest
from fake_scene import LOOK_ALIKE, Drawn
from test_label_propagation import ColourSegmenter

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import box_of, iou
from nbhelpers.core.prompts import Prompt, PromptLog
from nbhelpers.multiview import ViewsSession

RED_BALL, BLUE_BALL, OTHER_RED = 0, 1, 2


@pytest.fixture(scope="module")
def drawn():
    return Drawn()


def session(drawn, scene=None, **options):
    return ViewsSession(drawn.photos, scene, ColourSegmenter(), **options)


def box(drawn, ball, view):
    x0, y0, x1, y1 = box_of(drawn.truth(ball, view))
    return Prompt(box=(x0 - 1, y0 - 1, x1, y1))


def ious(drawn, ball, views, without=()):
    return [iou(view.mask, drawn.truth(ball, number)) for number, view in enumerate(views) if number not in without]


@pytest.mark.parametrize("known", [False, True], ids=["by looks", "in space"])
def test_a_wrong_click_is_noticed_and_spoils_no_other_view(drawn, known):
    opened = session(drawn, drawn.scene if known else None)
    opened.set_prompt(box(drawn, RED_BALL, 2), view=2)
    wrong = opened.click(*drawn.centre(BLUE_BALL, 4), view=4).best
    views = opened.solve()
    assert min(ious(drawn, RED_BALL, views, without=[4])) > 0.85
    assert np.array_equal(views.mask(4), wrong) and views[4].prompted  # it holds where it was said
    assert views.consistency(4).is_doubtful and "does not agree" in views.consistency(4).why
    assert not any(view.consistency.is_doubtful for number, view in enumerate(views) if number != 4)
    assert "view 4 contradicts view 2" in views.notes[0]
    opened.clear(4)
    again = opened.solve()
    assert min(ious(drawn, RED_BALL, again)) > 0.85 and not any("contradicts" in note for note in again.notes)


def test_a_click_outside_the_drawn_box_is_no_correction(drawn):
    opened = session(drawn)
    opened.set_prompt(box(drawn, RED_BALL, 2), view=2)
    opened.solve()
    opened.click(*drawn.centre(BLUE_BALL, 0), view=0)
    views = opened.solve()
    assert iou(views.mask(0), drawn.truth(RED_BALL, 0) | drawn.truth(BLUE_BALL, 0)) > 0.85
    assert min(ious(drawn, RED_BALL, views, without=[0])) > 0.85
    assert views.consistency(0).is_doubtful


def test_a_click_adds_to_an_object_that_was_clicked(drawn):
    opened = session(drawn)
    opened.click(*drawn.centre(RED_BALL, 2), view=2)
    opened.solve()
    opened.click(*drawn.centre(BLUE_BALL, 0), view=0)
    views = opened.solve()
    assert not any("contradicts" in note for note in views.notes)
    assert iou(views.mask(0), drawn.truth(RED_BALL, 0) | drawn.truth(BLUE_BALL, 0)) > 0.85
    assert (views.mask(1) & drawn.truth(BLUE_BALL, 1)).any()


def test_prompts_that_agree_are_all_followed(drawn):
    opened = session(drawn, drawn.scene)
    for view in (0, 2, 4):
        opened.set_prompt(box(drawn, RED_BALL, view), view=view)
    opened.solve()
    opened.click(*drawn.centre(BLUE_BALL, 1), label=0, view=1)
    views = opened.solve()
    assert views.notes == () and not any(view.consistency.is_doubtful for view in views)


def test_two_prompts_outvote_the_one_that_was_said_first(drawn):
    opened = session(drawn)
    opened.set_prompt(box(drawn, BLUE_BALL, 2), view=2)
    opened.click(*drawn.centre(RED_BALL, 4), view=4)
    assert min(ious(drawn, BLUE_BALL, opened.solve(), without=[4])) > 0.85
    opened.clear()
    opened.set_prompt(box(drawn, BLUE_BALL, 2), view=2)
    for view in (4, 0):
        opened.set_prompt(box(drawn, RED_BALL, view), view=view)
    views = opened.solve()
    assert min(ious(drawn, RED_BALL, views, without=[2])) > 0.85
    assert "view 2 contradicts view 0, view 4" in views.notes[0]


def test_points_in_space_contradict_where_looks_do_not():
    twins = Drawn(LOOK_ALIKE)
    for scene, contradicted in ((None, False), (twins.scene, True)):
        opened = session(twins, scene)
        opened.set_prompt(Prompt(mask=twins.truth(RED_BALL, 2)), view=2)
        opened.set_prompt(Prompt(mask=twins.truth(OTHER_RED, 3)), view=3)
        assert any("view 3 contradicts view 2" in note for note in opened.solve().notes) == contradicted


def test_what_a_person_says_counts_more_than_what_was_proposed(drawn):
    opened = session(drawn)
    opened.propose_mask(drawn.truth(RED_BALL, 2), view=2)
    assert min(ious(drawn, RED_BALL, opened.solve())) > 0.85
    opened = session(drawn)
    opened.propose_mask(drawn.truth(RED_BALL, 2), view=2)
    opened.click(*drawn.centre(BLUE_BALL, 4), view=4)
    views = session(drawn, log=PromptLog.from_json(opened.log.to_json())).solve()
    assert min(ious(drawn, BLUE_BALL, views, without=[2])) > 0.85
    assert "view 2 contradicts view 4" in views.notes[0]
    opened.clear(4)
    opened.solve()
    opened.confirm(2)  # now a person said it
    opened.click(*drawn.centre(BLUE_BALL, 4), view=4)
    assert min(ious(drawn, RED_BALL, opened.solve(), without=[4])) > 0.85
    with pytest.raises(NbHelpersError, match="mask"):
        opened.propose_mask(np.zeros((3, 3), bool), view=1)
