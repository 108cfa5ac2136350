"""The words that are asked: a vocabulary, cleaned, with what must compete with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbhelpers.clip_guided.values import Settings
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.vocabulary import BACKGROUND, clean, is_stuff, suggested_background


@dataclass(frozen=True)
class Words:
    """A vocabulary as it is asked.

    Attributes:
        asked: names of each class for the text encoder: the vocabulary, then excluded and background words.
        count: how many of them are the vocabulary.
        wanted: class index -> whether it is stuff, for the classes that are to be found.
        notes: what was dropped or added.
    """

    asked: tuple[tuple[str, ...], ...]
    count: int
    wanted: dict[int, bool]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The first name of each class of the vocabulary."""
        return tuple(names[0] for names in self.asked[: self.count])


def words(vocabulary: Sequence[str | Sequence[str]], target: str | None, settings: Settings) -> Words:
    """Clean a vocabulary and add what must compete with it.

    "background" stands for common surroundings that the vocabulary lacks; it competes and is not segmented, unless it
    is the target. A single word would win everywhere, so it gets the same competitor.
    """
    classes, notes = clean(vocabulary)
    if not classes:
        raise NbHelpersError("the vocabulary is empty", expected="at least one word for what may be in the photo")
    notes = list(notes)
    excluded, _ = clean(settings.exclude)
    have = {name.casefold() for names in classes for name in names}
    excluded = tuple(names for names in excluded if names[0].casefold() not in have)
    out = {word.casefold() for word in settings.exclude} & have
    if target is not None and target.casefold() not in have:
        raise NbHelpersError(
            "the target is not in the vocabulary",
            given=target,
            expected="one of " + ", ".join(names[0] for names in classes),
            do="add it to the vocabulary",
        )
    flat = [name for names in (*classes, *excluded) for name in names]
    others = suggested_background(flat)
    asked = [(*names, *others) if names[0].casefold() == BACKGROUND else names for names in (*classes, *excluded)]
    if len(asked) == 1:
        asked.append((BACKGROUND, *others))
        notes.append("a single word would win everywhere: it competes with words for common surroundings")
    wanted = {
        index: names[0].casefold() == BACKGROUND or is_stuff(names[0], settings.stuff)
        for index, names in enumerate(classes)
        if (names[0].casefold() != BACKGROUND or is_named(target, names)) and not out & {n.casefold() for n in names}
    }
    if not wanted:
        raise NbHelpersError("the vocabulary has nothing to find", given=", ".join(flat), expected="a word for a thing")
    return Words(tuple(asked), len(classes), wanted, tuple(notes))


def is_named(target: str | None, names: Sequence[str]) -> bool:
    """Whether a target is one of a class's names."""
    return target is not None and target.casefold() in {name.casefold() for name in names}
