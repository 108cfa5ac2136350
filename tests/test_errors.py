import copy
import pickle

import pytest

from nbhelpers.core.errors import NbHelpersError


def full():
    return NbHelpersError("the click lies outside", given=(900, 20), expected="0 <= x < 640", do="click inside")


def test_the_text_has_every_part_on_its_own_line():
    assert str(full()).splitlines() == [
        "the click lies outside",
        "  given:    (900, 20)",
        "  expected: 0 <= x < 640",
        "  do:       click inside",
    ]


def test_parts_that_are_left_out_leave_no_line():
    assert str(NbHelpersError("no photo")) == "no photo"


@pytest.mark.parametrize("given", [0, False, "", []])
def test_a_falsy_value_is_still_shown(given):
    assert f"given:    {given}" in str(NbHelpersError("wrong", given=given))


@pytest.mark.parametrize("travel", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_it_travels_between_processes_whole(travel):
    there = travel(full())
    assert str(there) == str(full())
    assert (there.what, there.given, there.expected, there.do) == (
        "the click lies outside",
        (900, 20),
        "0 <= x < 640",
        "click inside",
    )


def test_a_subclass_stays_a_subclass_when_it_travels():
    there = pickle.loads(pickle.dumps(NarrowerError("no network", do="nbhelpers fetch lite")))
    assert type(there) is NarrowerError and there.do == "nbhelpers fetch lite"


class NarrowerError(NbHelpersError):
    pass
