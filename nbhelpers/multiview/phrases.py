"""A spatial phrase, read: which thing is meant, and where it is said to be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.multiview import grammar

LONGEST = 300  # characters of a phrase
SAID = {
    "left": "on the left of the picture",
    "right": "on the right of the picture",
    "centre": "in the middle of the picture",
    "foreground": "in the foreground",
    "background": "in the background",
    "centre of": "in the middle of",
}
RELATIVES = ("nearest", "farthest")


@dataclass(frozen=True)
class Relation:
    """Where a thing is said to be.

    Attributes:
        kind: one of `grammar.SIDES`, `grammar.RANKS` or `grammar.BETWEEN_THINGS`.
        words: as they were written.
        references: the other things that it names: two for ``between`` (one if they share a noun, "between the
            chairs"), one for the other relations between things, none or one for ``nearest`` and ``farthest``.
        rank: of a rank, 1 for the first, 2 for "second from the left", -1 for the last.
        negated: it is said not to be there.
        before: it stands before its noun, as in "left table", and so can be meant of nothing else.
    """

    kind: str
    words: str
    references: tuple[Phrase, ...] = ()
    rank: int = 1
    negated: bool = False
    before: bool = False

    def __str__(self) -> str:
        others = " and ".join(f"the {reference}" for reference in self.references)
        if self.kind in grammar.RANKS:
            number = "the last" if self.rank < 0 else f"number {self.rank}"
            text = f"the {self.kind}" if self.rank == 1 else f"{number}, the {self.kind} being the first"
            if self.kind in RELATIVES:
                text += f", measured from {others or 'the viewer'}"
        else:
            text = f"{SAID.get(self.kind, self.kind)} {others}".strip()
        return f"not {text}" if self.negated else text


@dataclass(frozen=True)
class Phrase:
    """A thing and where it is said to be.

    Example:
        >>> phrase = parse("Red box on the left table")
        >>> phrase.noun, phrase.relations[0].kind, str(phrase.relations[0].references[0])
        ('red box', 'on', '"table" (on the left of the picture)')

    Attributes:
        text: as it was written.
        noun: the noun phrase: what the relations left, without article.
        relations: in the order of the text.
        notes: what was not understood, for a person.
    """

    text: str
    noun: str
    relations: tuple[Relation, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_generic(self) -> bool:
        """Whether the noun is one that every object answers to, as "object" or "red thing"."""
        return self.noun.split()[-1].casefold() in grammar.GENERIC

    def __str__(self) -> str:
        where = " and ".join(map(str, self.relations))
        return f'"{self.noun}" ({where})' if where else f'"{self.noun}"'

    @property
    def understood(self) -> str:
        """What was understood, in words."""
        said = [f'looking for "{self.noun}"', *map(str, self.relations), *(f"note: {note}" for note in self.notes)]
        return "; ".join(said)

    def things(self) -> tuple[Phrase, ...]:
        """The phrase itself and all others that its relations name, each before those it names."""
        below = (thing for relation in self.relations for other in relation.references for thing in other.things())
        return (self, *below)


def parse(text: str) -> Phrase:
    """Read a phrase.

    Example:
        >>> parse("the chair between the table and the window").understood
        'looking for "chair"; between the "table" and the "window"'

    Words of space become relations, all others the noun phrase. What follows the noun of another thing is taken to be
    said of that one ("cup on the table behind the chair": the table is behind the chair); a comma or "and" goes back
    to the first noun ("cup on the table, behind the chair").

    Args:
        text: English, in any case, with or without articles and punctuation.

    Raises:
        NbHelpersError: no words, far too many, or relations without a thing.
    """
    if not isinstance(text, str):
        raise NbHelpersError("the phrase is not text", given=repr(text), expected='a string, as "cup on the table"')
    words = list(_words(text))
    if not any(word != "," for word in words):
        raise NbHelpersError("the phrase has no words", given=repr(text), expected='a thing, as "cup on the table"')
    if len(text) > LONGEST:
        raise NbHelpersError("the phrase is too long", given=f"{len(text)} letters", expected=f"at most {LONGEST}")
    reader = _Reader(words)
    if filler := grammar.FILLER.match(reader.rest()):
        reader.at += filler.group().count(" ")
    phrase = reader.read(0, False)
    if not phrase.noun:
        where = "; ".join(map(str, phrase.relations)) or "nothing"
        raise NbHelpersError(
            "the phrase names no thing",
            given=f"{text!r}, understood: {where}",
            expected='a noun too, as "object on the left"',
        )
    return replace(phrase, text=text, notes=tuple(dict.fromkeys(reader.notes)))


def _words(text: str) -> Iterable[str]:
    """Words and commas; hyphens inside words of space are opened."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("&", " and ")
    text = re.sub(r"(?i)\b(left|right|top|bottom|upper|lower|fore|front|rear|back)[ -]most\b", r"\1most", text)
    for word in re.findall(r"[^\W_]+(?:['.-][^\W_]+)*|[,;:()/]", text):
        if word in ",;:()/":
            yield ","
        elif "-" in word and set(word.casefold().split("-")) & _OPENED:
            yield from word.split("-")
        else:
            yield word


_OPENED = {*grammar.ORDINALS, "left", "right", "hand", "nearest", "closest", "farthest", "furthest", "between", "front"}


class _Reader:
    """Walks through the words once."""

    def __init__(self, words: list[str]):
        self.words, self.low = words, [word.casefold() for word in words]
        self.at, self.notes = 0, list[str]()

    def rest(self, at: int | None = None) -> str:
        return " ".join(self.low[self.at if at is None else at :])

    def read(self, depth: int, paired: bool) -> Phrase:
        """The thing that begins here. ``paired``: an "and" ends it, since "between" waits for its second thing."""
        noun, relations, first = list[str](), list[Relation](), self.at
        ordinal, negated = None, False
        while self.at < len(self.words):
            word, rest = self.low[self.at], self.rest()
            if word in (",", "and") and self._relation_at(self._past_joints(self.at)):
                if depth:
                    break
                self.at = self._past_joints(self.at)
            elif word == "," or (not noun and grammar.ARTICLE.match(rest)):
                self.at += 1
            elif word == "and" and paired:
                break
            elif (stands := grammar.STANDS.match(rest)[0]) and self._relation_at(self.at + stands.count(" ")):
                self.at += stands.count(" ")
            elif (no := grammar.NOT.match(rest)) and self._relation_at(self.at + no[0].count(" ") + 1):
                self.at, negated = self.at + no[0].count(" ") + 1, True
            elif self._of_rank(noun, relations, depth, paired):
                pass
            elif (relation := self._relation(noun, ordinal, depth, paired)) is not None:
                ordinal = None if relation.kind in grammar.RANKS else ordinal
                relations.append(replace(relation, negated=negated, before=not noun))
                negated = False
            elif not noun and ordinal is None and grammar.ORDINAL.match(rest):
                ordinal, self.at = self.at, self.at + 1
            else:
                if space := grammar.UNKNOWN.match(rest) or self._dangling():
                    self.notes.append(f'"{space[0]}" is no relation that is known here; it was left in the name')
                noun.append(self.words[self.at])
                self.at += 1
        if ordinal is not None:
            noun.insert(0, self.words[ordinal])
            self.notes.append(f'"{self.words[ordinal]}" of which order was not said; it was left in the name')
        return Phrase(" ".join(self.words[first : self.at]), " ".join(noun), tuple(r for r in relations if r.kind))

    def _past_joints(self, at: int) -> int:
        """The next word that is neither comma nor "and"."""
        while at < len(self.low) and self.low[at] in (",", "and"):
            at += 1
        return at

    def _match(self, patterns, at: int | None = None):
        """The longest of the patterns that match here: its kind and match."""
        found = [(kind, match) for kind, pattern in patterns if (match := pattern.match(self.rest(at)))]
        return max(found, key=lambda each: len(each[1][0]), default=(None, None))

    def _relation_at(self, at: int) -> bool:
        """Whether a relation begins at a word."""
        at += grammar.STANDS.match(self.rest(at))[0].count(" ")
        if no := grammar.NOT.match(self.rest(at)):
            at += no[0].count(" ") + 1
        every = grammar.ORDER, grammar.RANK, grammar.SIDE_SURE, grammar.SIDE_LOOSE, grammar.SIDE_BARE
        return any(self._match(patterns, at)[0] for patterns in (*every, grammar.PREPOSITION))

    def _thing_at(self, at: int) -> bool:
        """Whether a noun phrase begins at a word."""
        return at < len(self.low) and self.low[at] not in (",", "and", "or", "of") and not self._relation_at(at)

    def _reference_at(self, at: int) -> bool:
        """Whether another thing can begin at a word: unlike a noun it may have "left" or "nearest" before it."""
        if at >= len(self.low) or self.low[at] in (",", "and"):
            return False
        return self.low[at] not in grammar.ONLY_PREPOSITIONS

    def _relation(self, noun: list[str], ordinal: int | None, depth: int, paired: bool) -> Relation | None:
        start = self.at
        for patterns in (grammar.ORDER, grammar.RANK_OF if noun else (), grammar.RANK, grammar.SIDE_SURE):
            kind, match = self._match(patterns)
            if kind and (patterns is not grammar.RANK_OF or self._reference_at(self._after(match))):
                others = ()
                self.at = self._after(match)
                if patterns is grammar.RANK_OF:
                    others = self._others(kind, depth, paired)
                number = grammar.ORDINALS.get(match.groupdict().get("ordinal") or "first")
                if ordinal is not None and kind in grammar.RANKS:
                    number = grammar.ORDINALS[self.low[ordinal]]
                return Relation(kind, self._said(start), others, number)
        kind, match = self._match(grammar.ORDER_END)
        if kind and ordinal is not None:
            self.at = self._after(match)
            said = f"{self.words[ordinal]} {self._said(start)}"
            return Relation(kind, said, (), grammar.ORDINALS[self.low[ordinal]])
        kind, match = self._match(grammar.SIDE_LOOSE)
        if kind and not (match["preposition"] == "on" and self._thing_at(self._after(match))):
            self.at = self._after(match)
            return Relation(kind, self._said(start))
        kind, match = self._match(grammar.PREPOSITION)
        if kind and self._reference_at(self._after(match)):
            self.at = self._after(match)
            others = self._others(kind, depth, paired)
            if not others[0].noun:  # "near the left edge" is where in the picture it is
                return replace(others[0].relations[0], words=self._said(start))
            return Relation(kind, self._said(start), others)
        kind, match = self._match(grammar.SIDE_BARE)
        if kind is None:
            kind, match = self._match(grammar.SIDE_BEFORE)
            kind = kind if kind and self._thing_at(self._after(match)) else None
        if kind is None:
            return None
        self.at = self._after(match)
        return Relation(kind, self._said(start))

    def _of_rank(self, noun: list[str], relations: list[Relation], depth: int, paired: bool) -> bool:
        """The second half of "nearest cup to the window", behind the noun."""
        last = relations[-1] if relations else None
        match = grammar.TO.match(self.rest())
        if not (match and last and last.kind in RELATIVES and not last.references):
            return False
        if viewer := grammar.TO_VIEWER.match(self.rest()):
            self.at += viewer[0].count(" ") + 1
            return True
        if not noun:
            return False
        if self._match(grammar.SIDE_SURE)[0] or self._match(grammar.SIDE_LOOSE)[0]:
            return False
        self.at += 1
        relations[-1] = replace(last, references=self._others(last.kind, depth, paired))
        return True

    def _others(self, kind: str, depth: int, paired: bool) -> tuple[Phrase, ...]:
        """The things that a relation names."""
        others = [self.read(depth + 1, kind == "between" or paired)]
        if kind == "between" and self.at < len(self.low) and self.low[self.at] == "and":
            self.at += 1
            others.append(self.read(depth + 1, paired))
        if kind in RELATIVES and grammar.VIEWER.match(others[0].noun.casefold()):
            return ()
        for other in others:
            side_alone = len(others) == 1 and len(other.relations) == 1 and not other.relations[0].references
            if not other.noun and not side_alone:
                raise NbHelpersError(
                    f'the relation "{kind}" names no thing', given=self._said(0), expected='as in "cup on the table"'
                )
        return tuple(others)

    def _dangling(self) -> re.Match[str] | None:
        """A preposition that nothing follows."""
        return self._match(grammar.PREPOSITION)[1]

    def _after(self, match: re.Match[str]) -> int:
        return self.at + match[0].count(" ") + 1

    def _said(self, start: int) -> str:
        return " ".join(self.words[start : self.at])
