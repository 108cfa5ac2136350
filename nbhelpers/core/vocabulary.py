"""Words for what is in a photo: cleaned, without near-duplicates, and divided into things and stuff."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

from nbhelpers.core.errors import NbHelpersError

STUFF = frozenset(
    """
    sky cloud fog mist smoke sun-light air
    water sea ocean river lake pond waterfall wave pool snow ice
    road street asphalt highway path pavement sidewalk runway parking track railway rail railroad bridge-deck
    ground earth soil dirt mud sand sands gravel beach desert rock rocks stone mountain mountains hill hills cliff
    grass lawn field meadow moss leaves foliage bush bushes hedge vegetation forest woods trees crop hay straw
    wall walls brick bricks floor ceiling roof tile tiles carpet rug parquet stairs wood concrete metal plastic
    paper cloth fabric curtain curtains fence railing net
    court pitch playing-field crowd audience backdrop background scenery landscape skyline
    """.replace("-", " ").split()
) | {"playing field", "tennis court", "basketball court", "swimming pool", "parking lot"}  # fmt: skip
"""Words of stuff: what has no countable instances, and so comes as one region.

After the stuff classes of COCO-Stuff (Caesar et al. 2018, arXiv 1612.03716) and ADE20K; a job's setting replaces it.
"""

BACKGROUND_WORDS = (
    "sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building",
    "cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail",
    "fence",
)  # fmt: skip
"""The 26 names that stand for "background" in SCLIP's PASCAL VOC and COCO-Object (Wang et al. 2023, arXiv 2312.01597).

Source: ``configs/cls_voc21.txt`` of https://github.com/wangf3014/SCLIP
"""

SURROUNDINGS = (
    ("sky", "cloud"), ("wall",), ("ceiling",), ("floor", "carpet", "rug"), ("window",), ("door",), ("curtain",),
    ("shelf", "cupboard"), ("building", "house"), ("road", "street", "pavement"), ("ground", "soil"),
    ("sand", "beach"), ("grass", "lawn", "field", "meadow"), ("tree", "forest", "bush", "foliage"),
    ("water", "sea", "river", "lake"), ("mountain", "hill"), ("rock", "stone"), ("snow",), ("fence", "railing"),
    ("backdrop",),
)  # fmt: skip
"""What surrounds the things of a photo, indoors and outdoors: names that mean nearly the same are one group."""

BACKGROUND = "background"
ARTICLE = re.compile(r"^(?:a|an|the|some)\s+")
LONGEST = 200  # characters of a name


def clean(vocabulary: Sequence[str | Sequence[str]]) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Tidy words: spaces collapsed, Unicode composed, what comes twice dropped.

    Example:
        >>> clean(["cat", " Cat ", "grass|lawn"])
        ((('cat',), ('grass', 'lawn')), ('"Cat" is there twice and counts once',))

    Args:
        vocabulary: one word or phrase for each class; for a class with several names a sequence of them, or one
            string with ``|`` between them.

    Returns:
        The names of each class, and notes on what was dropped.

    Raises:
        NbHelpersError: one string instead of a list, something that is not text, an empty or very long name.
    """
    if isinstance(vocabulary, str):
        raise NbHelpersError("the vocabulary is one string", given=vocabulary, expected=f'a list, as ["{vocabulary}"]')
    classes, notes, seen = [], [], set()
    for entry in vocabulary:
        names = []
        for name in entry.split("|") if isinstance(entry, str) else entry:
            if not isinstance(name, str):
                raise NbHelpersError("a name of the vocabulary is not text", given=repr(name), expected="a string")
            tidy = " ".join(unicodedata.normalize("NFC", name).split())
            if not tidy or len(tidy) > LONGEST:
                raise NbHelpersError(
                    "a name of the vocabulary is empty" if not tidy else "a name of the vocabulary is too long",
                    given=repr(name[:LONGEST]),
                    expected=f"a word or a phrase of at most {LONGEST} characters",
                )
            if tidy.casefold() in seen:
                notes.append(f'"{tidy}" is there twice and counts once')
                continue
            seen.add(tidy.casefold())
            names.append(tidy)
        if names:
            classes.append(tuple(names))
    return tuple(classes), tuple(notes)


def root(name: str) -> str:
    """What is left of a name without article, plural, case, hyphens and order of words."""
    text = unicodedata.normalize("NFKC", name).casefold()
    words = re.sub(r"[\W_]+", " ", ARTICLE.sub("", text)).split()
    return " ".join(sorted(_singular(word) for word in words)) or text


def near_duplicates(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in article, plural, case, hyphens or the order of words."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(root(name), []).append(name)
    return [pair for group in groups.values() for pair in combinations(group, 2)]


def is_stuff(name: str, stuff: Sequence[str] | frozenset[str] | None = None) -> bool:
    """Whether a name means stuff: the whole phrase, or its last word, is in the list.

    Example:
        >>> is_stuff("wooden floor"), is_stuff("floor lamp")
        (True, False)

    Args:
        name: a word or phrase.
        stuff: words to use instead of `STUFF`.
    """
    known = _roots(STUFF if stuff is None else frozenset(stuff))
    phrase = unicodedata.normalize("NFKC", name).casefold().split()
    return root(name) in known or root(phrase[-1]) in known


def suggested_background(names: Sequence[str]) -> tuple[str, ...]:
    """The `BACKGROUND_WORDS` that the vocabulary does not have yet."""
    have = {root(name) for name in names}
    return tuple(word for word in BACKGROUND_WORDS if root(word) not in have)


def surroundings(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The groups of `SURROUNDINGS` of which the vocabulary names none, neither whole nor as the last word of a phrase.

    Example:
        >>> ("grass", "lawn", "field", "meadow") in surroundings(["cow", "wet lawn"])
        False
    """
    have = {root(word) for name in names for word in (name, name.split()[-1])}
    return tuple(group for group in SURROUNDINGS if have.isdisjoint(map(root, group)))


@lru_cache(maxsize=8)
def _roots(words: frozenset[str]) -> frozenset[str]:
    return frozenset(map(root, words))


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
