import pytest

from nbhelpers import NbHelpersError
from nbhelpers.core.vocabulary import clean, is_stuff, near_duplicates, root, suggested_background


def test_words_are_tidied():
    classes, notes = clean(["  red   car ", "Red car", "lamp|floor lamp", ["sofa", "couch"]])
    assert classes == (("red car",), ("lamp", "floor lamp"), ("sofa", "couch"))
    assert notes == ('"Red car" is there twice and counts once',)
    assert clean(["cafe\u0301"])[0] == (("caf\u00e9",),)


@pytest.mark.parametrize("words", ["cat", ["cat", ""], ["cat|"], ["c" * 201]])
def test_what_is_no_list_of_words_is_refused(words):
    with pytest.raises(NbHelpersError):
        clean(words)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "Cats"),
        ("a dog", "dog"),
        ("t-shirt", "T shirt"),
        ("box", "boxes"),
        ("berry", "berries"),
        ("car red", "red car"),
    ],
)
def test_near_duplicates_have_one_root(one, other):
    assert root(one) == root(other) and near_duplicates([one, "zebra", other]) == [(one, other)]


@pytest.mark.parametrize(("one", "other"), [("cat", "car"), ("bus", "bu"), ("glass", "glas"), ("猫", "犬")])
def test_different_words_have_different_roots(one, other):
    assert root(one) != root(other)


def test_stuff_is_known_by_its_last_word():
    assert is_stuff("sky") and is_stuff("blue sky") and is_stuff("The Road") and is_stuff("basketball court")
    assert not is_stuff("car") and not is_stuff("sky diver") and not is_stuff("猫")
    assert is_stuff("rice", ["rice"]) and not is_stuff("sky", ["rice"])


def test_background_words_that_are_there_are_not_suggested():
    assert "sky" not in suggested_background(["Skies", "sky"]) and "tree" in suggested_background(["sky"])
