"""Spatial phrases: what is read from words, and what is said about words that cannot be read."""

import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.multiview import referring
from nbhelpers.multiview.referring import parse_phrase


def shape(phrase):
    """A phrase as plain data: ``(noun, [(kind, shape of each reference ...), ...])``."""
    return phrase.noun, [(relation.kind, *map(shape, relation.references)) for relation in phrase.relations]


def bare(noun):
    return noun, []


@pytest.mark.parametrize(
    ("text", "noun", "relations"),
    [
        ("red chair on the left side", "red chair", [("left",)]),
        ("object in the foreground", "object", [("foreground",)]),
        ("item on the table", "item", [("on", bare("table"))]),
        ("blue chair behind the desk", "blue chair", [("behind", bare("desk"))]),
        ("red box on the left table", "red box", [("on", ("table", [("left",)]))]),
        ("nearest cup", "cup", [("nearest",)]),
        ("plant above the shelf", "plant", [("above", bare("shelf"))]),
        ("chair between the table and the window", "chair", [("between", bare("table"), bare("window"))]),
        ("blue car in the center", "blue car", [("centre",)]),
        ("person in the background", "person", [("background",)]),
        ("chair to the left of the table", "chair", [("left of", bare("table"))]),
        ("chair on the left of the picture", "chair", [("left",)]),
        ("cup next to the lamp", "cup", [("beside", bare("lamp"))]),
        ("box underneath the bed", "box", [("below", bare("bed"))]),
        ("box on top of the wardrobe", "box", [("on", bare("wardrobe"))]),
        ("dog in front of the house", "dog", [("in front of", bare("house"))]),
        ("dog in front", "dog", [("foreground",)]),
        ("book on the top shelf", "book", [("on", ("shelf", [("highest",)]))]),
        ("leftmost chair", "chair", [("leftmost",)]),
        ("chair on the far right", "chair", [("rightmost",)]),
        ("cup closest to the camera", "cup", [("nearest",)]),
        ("cup closest to the window", "cup", [("nearest", bare("window"))]),
        ("nearest cup to the window", "cup", [("nearest", bare("window"))]),
        ("the largest box that is on the table", "box", [("largest",), ("on", bare("table"))]),
        ("chair right behind the desk", "chair", [("behind", bare("desk"))]),
        ("chair on the right behind the desk", "chair", [("right",), ("behind", bare("desk"))]),
        ("cup on the table behind the chair", "cup", [("on", ("table", [("behind", bare("chair"))]))]),
        ("cup on the table, behind the chair", "cup", [("on", bare("table")), ("behind", bare("chair"))]),
        ("cup on the table and behind the chair", "cup", [("on", bare("table")), ("behind", bare("chair"))]),
        (
            "box between the red chair on the left and the window on the right",
            "box",
            [("between", ("red chair", [("left",)]), ("window", [("right",)]))],
        ),
        ("box between the chairs", "box", [("between", bare("chairs"))]),
        ("cup in the middle of the table", "cup", [("centre of", bare("table"))]),
        ("pot right of the lamp on the left table", "pot", [("right of", ("lamp", [("on", ("table", [("left",)]))]))]),
        ("red left shoe", "red shoe", [("left",)]),
        ("chair, left", "chair", [("left",)]),
        ("cup near the left edge", "cup", [("left",)]),
    ],
)
def test_relations_and_noun_phrases_come_apart(text, noun, relations):
    assert shape(parse_phrase(text)) == (noun, relations)


@pytest.mark.parametrize(
    ("text", "rank"),
    [
        ("second chair from the left", 2),
        ("chair second from the left", 2),
        ("3rd chair from the left", 3),
        ("last chair from the left", -1),
        ("first from the left chair", 1),
    ],
)
def test_ordinals_count_in_an_order(text, rank):
    (relation,) = parse_phrase(text).relations
    assert (relation.kind, relation.rank) == ("leftmost", rank)


@pytest.mark.parametrize("text", ["salt and pepper shaker", "table top", "Coca-Cola can", "second floor", "cup of tea"])
def test_what_is_no_relation_stays_in_the_noun_phrase(text):
    assert shape(parse_phrase(text)) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        "THE Red CHAIR, on the LEFT!!",
        '"red chair" (left)',
        "  red   chair\ton the left  ",
        "Find the red chair on the left, please",
    ],
)
def test_capitals_punctuation_and_polite_words_do_not_matter(text):
    phrase = parse_phrase(text.replace(", please", ""))
    assert (phrase.noun.casefold(), [r.kind for r in phrase.relations]) == ("red chair", ["left"])


def test_not_turns_a_relation_around():
    (relation,) = parse_phrase("cup that is not on the table").relations
    assert relation.negated and relation.kind == "on" and "not on the" in str(relation)


def test_what_stands_before_the_noun_is_told_from_what_follows_it():
    before, after = (
        parse_phrase(text).relations[0].references[0].relations[0]
        for text in ("cup on the left table", "cup on the table on the left")
    )
    assert before.before and not after.before


def test_generic_nouns_are_known():
    assert parse_phrase("the red thing on the left").is_generic and not parse_phrase("thing holder").is_generic


@pytest.mark.parametrize(
    ("text", "says"), [("cup opposite the window", "opposite"), ("second cup", "second"), ("cup behind", "behind")]
)
def test_what_is_not_understood_is_told(text, says):
    phrase = parse_phrase(text)
    assert any(says in note for note in phrase.notes) and says in phrase.noun and says in phrase.understood


@pytest.mark.parametrize("text", ["", "  ", "?!", ",,,"])
def test_an_empty_phrase_is_an_error(text):
    with pytest.raises(NbHelpersError, match="no words"):
        parse_phrase(text)


@pytest.mark.parametrize(
    "text",
    [
        "on the left",
        "nearest",
        "behind the desk",
        "between the chairs",
        "second from the left",
        "closest to the camera",
    ],
)
def test_relations_alone_are_an_error_that_tells_what_was_understood(text):
    with pytest.raises(NbHelpersError, match="names no object") as error:
        parse_phrase(text)
    assert "understood" in str(error.value.given)


def test_a_very_long_phrase_is_an_error():
    with pytest.raises(NbHelpersError, match="too long"):
        parse_phrase("cup on the table " * 100)


def test_what_was_understood_is_said_in_words():
    assert (
        parse_phrase("Red box on the left table").understood
        == 'looking for "Red box"; on the "table" (on the left of the image)'
    )
    assert [thing.noun for thing in parse_phrase("cup between the lamp on the shelf and the door").subphrases()] == [
        "cup",
        "lamp",
        "shelf",
        "door",
    ]


def test_every_kind_is_reached_by_some_words():
    said = {
        "left": "x on the left", "right": "x on the right", "centre": "x in the middle", "foreground": "x in the foreground",
        "background": "x in the background", "nearest": "nearest x", "farthest": "farthest x", "leftmost": "leftmost x",
        "rightmost": "rightmost x", "highest": "highest x", "lowest": "lowest x", "largest": "biggest x",
        "smallest": "smallest x", "tallest": "tallest x", "shortest": "shortest x", "left of": "x left of y",
        "right of": "x right of y", "on": "x on y", "above": "x over y", "below": "x under y", "behind": "x behind y",
        "in front of": "x in front of y", "beside": "x by y", "between": "x between y and z", "centre of": "x in the centre of y",
    }  # fmt: skip
    assert {kind: parse_phrase(text).relations[0].kind for kind, text in said.items()} == {kind: kind for kind in said}
    assert set(said) == {*referring.SIDES, *referring.RANKS, *referring.OBJECT_RELATIONS}
