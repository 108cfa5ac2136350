"""Grammar of spatial phrases: from text to a noun and its spatial relations.

A pattern is matched at the start of the remaining phrase, in lower case with single spaces. The relations are evaluated
in 3D by `nbhelpers.multiview.relations`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nbhelpers.core.errors import NbHelpersError

SIDES = ("left", "right", "centre", "foreground", "background")
"""Where an object is in the image of the reference view."""

RANKS = (
    "nearest", "farthest", "leftmost", "rightmost", "highest", "lowest", "largest", "smallest", "tallest", "shortest",
)  # fmt: skip
"""Which of several objects; ``nearest`` and ``farthest`` are relative to another object, or else to the viewer."""

OBJECT_RELATIONS = (
    "left of", "right of", "on", "above", "below", "behind", "in front of", "beside", "between", "centre of",
)  # fmt: skip
"""Where an object is relative to another one."""

_END = r"(?= |$)"
_SOFTLY = r"(?:(?:right|just|directly|immediately|slightly|straight|close|far|well|somewhere|a bit|a little) )*?"
_STANDS = (
    r"(?:(?:that|which|who) (?:is|are|was|stands?|sits?|lies|hangs) |that's |(?:is|are) |"
    r"(?:located|placed|positioned|situated|standing|sitting|lying|hanging|resting|leaning|seen|shown|parked) )*"
)
_PICTURE = r"(?: (?:of|in) (?:the |this )?(?:picture|photo|photograph|image|scene|view|frame|room))?"
_THE = r"(?:(?:the|my|your|our) )?"
_VIEWER = r"(?:(?:the )?(?:camera|viewer|observer|photographer|lens)|me|us|you)"

ORDINALS = {
    word: number
    for number, words in enumerate(
        ("first 1st", "second 2nd", "third 3rd", "fourth 4th", "fifth 5th", "sixth 6th", "seventh 7th", "eighth 8th"), 1
    )
    for word in words.split()
}
ORDINALS["last"] = -1
_ORDINAL = "|".join(ORDINALS)

SUPERLATIVES = {
    "nearest": "nearest|closest|foremost|frontmost",
    "farthest": "farthest|furthest|most distant|rearmost|backmost",
    "leftmost": "leftmost|(?:farthest|furthest) (?:to the )?left|(?:far|extreme) left",
    "rightmost": "rightmost|(?:farthest|furthest) (?:to the )?right|(?:far|extreme) right",
    "highest": "highest|topmost|uppermost",
    "lowest": "lowest|bottommost|lowermost",
    "largest": "largest|biggest|greatest",
    "smallest": "smallest|littlest|tiniest|least",
    "tallest": "tallest",
    "shortest": "shortest",
}
FROM = {
    "leftmost": "left",
    "rightmost": "right",
    "highest": "top",
    "lowest": "bottom",
    "nearest": f"front|{_VIEWER}",
    "farthest": "back|rear",
}
_SIDE = "(?: (?:hand )?(?:side|half|part|end|edge))"
_WHERE = {
    "left": "left",
    "right": "right",
    "centre": "centre|center|middle",
}


def _compiled(patterns: dict[str, str], before: str = "", after: str = "") -> list[tuple[str, re.Pattern[str]]]:
    return [(kind, re.compile(f"{before}(?:{words}){after}{_END}")) for kind, words in patterns.items()]


FILLER = re.compile(r"(?:(?:please|find(?: me)?|segment|select|show me|look for|where (?:is|are))(?= ) )+")
ARTICLE = re.compile(r"(?:a|an|the|some|any|this|that|my|your|our|its|their)(?= )")
STANDS = re.compile(_STANDS)
NOT = re.compile(r"(?:(?:is|are) )?not(?= )")
ORDINAL = re.compile(f"({_ORDINAL})(?= )")

SIDE_SURE = [
    *_compiled(_WHERE, f"(?:(?:on|at|to|in|towards?) )?{_THE}", f"(?:{_SIDE}{_PICTURE}(?! of ))"),
    *_compiled(_WHERE, f"(?:on|at|to|in|towards?) {_THE}", _PICTURE.removesuffix("?")),
    *_compiled(
        {
            "foreground": "foreground",
            "background": "background",
        },
        f"(?:(?:in|at|from) {_THE})",
        _PICTURE,
    ),
    *_compiled(
        {
            "foreground": f"(?:in|at|to) {_THE}(?:very )?front{_PICTURE}(?! of )|up front|in front of {_VIEWER}",
            "background": f"(?:in|at|to) {_THE}(?:very )?(?:back|rear){_PICTURE}(?! of )|far away|in the distance",
            "highest": "on top(?! of )",
            "lowest": f"at the (?:very )?bottom{_PICTURE}(?! of )",
            "leftmost": f"(?:on|at|to) {_THE}(?:far|extreme|very) left{_SIDE}?{_PICTURE}(?! of )",
            "rightmost": f"(?:on|at|to) {_THE}(?:far|extreme|very) right{_SIDE}?{_PICTURE}(?! of )",
        }
    ),
]
"""Position in the image, whatever follows."""

SIDE_LOOSE = _compiled(
    {**_WHERE, "highest": "(?:very )?top"}, f"(?P<preposition>on|at|to|in|towards?) {_THE}", f"{_PICTURE}(?! of )"
)
"""The same, unless an object follows: "on the left", but not "on the left table"."""

SIDE_BARE = _compiled({"left": "left", "right": "right"}, "", "(?! of )")
"""The same without a preposition, before or behind the noun."""

SIDE_BEFORE = _compiled(
    {
        "centre": "centre|center|central|middle",
        "foreground": "front|foreground",
        "background": "back|rear|background",
        "highest": "top|upper",
        "lowest": "bottom|lower",
    }
)
"""The same, before a noun alone: "top shelf", but not "table top"."""

ORDER = _compiled(FROM, f"(?P<ordinal>{_ORDINAL}) (?:one )?(?:counted )?from {_THE}")
"""Second from the left."""

ORDER_END = _compiled(FROM, f"(?:counted )?from {_THE}")
"""The rest of "second chair from the left"."""

RANK = _compiled(SUPERLATIVES, f"(?:(?P<ordinal>{_ORDINAL}) )?")
"""Nearest, second largest."""

RANK_OF = _compiled(
    {"nearest": "(?:nearest|closest) to|nearest(?= (?:the|a|an) )", "farthest": "(?:farthest|furthest) (?:away )?from"}
)
"""Nearest to another object."""

VIEWER = re.compile(f"{_VIEWER}$")
TO_VIEWER = re.compile(f"(?:to|from) {_VIEWER}{_END}")
TO = re.compile("(?:to|from)(?= )")

PREPOSITION = _compiled(
    {
        "left of": f"(?:(?:on|at|to) )?{_THE}left(?:{_SIDE})? of|left from",
        "right of": f"(?:(?:on|at|to) )?{_THE}right(?:{_SIDE})? of|right from",
        "centre of": f"(?:(?:in|at|on) )?{_THE}(?:centre|center|middle) of",
        "in front of": "in front of|ahead of|before",
        "behind": "behind|in back of|beyond",
        "between": "in between|between",
        "on": "on top of|on|upon|atop",
        "above": "above|over",
        "below": "below|under|underneath|beneath",
        "beside": "beside|next to|close to|near to|near|nearby|by|adjacent to|alongside|at the side of",
    },
    _SOFTLY,
)

UNKNOWN = re.compile(
    r"(?:inside|within|outside|around|against|through|along|across from|across|towards?|facing|opposite|past|"
    rf"among|amongst|throughout|amid|surrounding){_END}"
)
"""Spatial words without a relation here; they stay in the noun phrase, with a note."""

GENERIC = frozenset(
    ("object", "objects", "item", "items", "thing", "things", "one", "ones", "something", "anything", "stuff")
)
"""Nouns that match any object."""

ONLY_PREPOSITIONS = frozenset(
    ("on", "above", "below", "behind", "beside", "between", "under", "over", "near", "by", "next")
)
"""Words that cannot start a noun phrase."""


MAX_CHARACTERS = 300  # characters of a phrase
SIDE_TEXTS = {
    "left": "on the left of the image",
    "right": "on the right of the image",
    "centre": "in the middle of the image",
    "foreground": "in the foreground",
    "background": "in the background",
    "centre of": "in the middle of",
}
RELATIVES = ("nearest", "farthest")


@dataclass(frozen=True)
class Relation:
    """Where a phrase places an object.

    Attributes:
        kind: one of `SIDES`, `RANKS` or `OBJECT_RELATIONS`.
        words: as written.
        references: the other objects that it names: two for ``between`` (one if they share a noun, "between the
            chairs"), one for the other relations between objects, none or one for ``nearest`` and ``farthest``.
        rank: of a rank, 1 for the first, 2 for "second from the left", -1 for the last.
        negated: the relation must not hold.
        before: the words precede the noun, as in "left table", so they cannot apply to another noun.
    """

    kind: str
    words: str
    references: tuple[Phrase, ...] = ()
    rank: int = 1
    negated: bool = False
    before: bool = False

    def __str__(self) -> str:
        others = " and ".join(f"the {reference}" for reference in self.references)
        if self.kind in RANKS:
            number = "the last" if self.rank < 0 else f"number {self.rank}"
            text = f"the {self.kind}" if self.rank == 1 else f"{number}, the {self.kind} being the first"
            if self.kind in RELATIVES:
                text += f", measured from {others or 'the viewer'}"
        else:
            text = f"{SIDE_TEXTS.get(self.kind, self.kind)} {others}".strip()
        return f"not {text}" if self.negated else text


@dataclass(frozen=True)
class Phrase:
    """A parsed phrase: a noun and the relations of the object it refers to.

    Example:
        >>> phrase = parse_phrase("Red box on the left table")
        >>> phrase.noun, phrase.relations[0].kind, str(phrase.relations[0].references[0])
        ('red box', 'on', '"table" (on the left of the image)')

    Attributes:
        text: as written.
        noun: the noun phrase without relations and article.
        relations: in the order of the text.
        notes: words that were not understood, as messages for the user.
    """

    text: str
    noun: str
    relations: tuple[Relation, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_generic(self) -> bool:
        """Whether the noun matches every object, as "object" or "red thing"."""
        return self.noun.split()[-1].casefold() in GENERIC

    def __str__(self) -> str:
        where = " and ".join(map(str, self.relations))
        return f'"{self.noun}" ({where})' if where else f'"{self.noun}"'

    @property
    def understood(self) -> str:
        """The interpretation in words."""
        parts = [f'looking for "{self.noun}"', *map(str, self.relations), *(f"note: {note}" for note in self.notes)]
        return "; ".join(parts)

    def subphrases(self) -> tuple[Phrase, ...]:
        """The phrase itself and those of all objects that its relations name, parents first."""
        below = (
            phrase for relation in self.relations for other in relation.references for phrase in other.subphrases()
        )
        return (self, *below)


def parse_phrase(text: str) -> Phrase:
    """Parse a spatial phrase.

    Example:
        >>> parse_phrase("the chair between the table and the window").understood
        'looking for "chair"; between the "table" and the "window"'

    Spatial words become relations, all others the noun phrase. A relation after the noun of another object refers to
    that object ("cup on the table behind the chair": the table is behind the chair); after a comma or "and" it refers
    to the first noun ("cup on the table, behind the chair").

    Args:
        text: English, upper or lower case, with or without articles and punctuation.

    Raises:
        NbHelpersError: no words, too many words, or relations without an object.
    """
    if not isinstance(text, str):
        raise NbHelpersError("the phrase is not text", given=repr(text), expected='a string, as "cup on the table"')
    words = list(_words(text))
    if not any(word != "," for word in words):
        raise NbHelpersError("the phrase has no words", given=repr(text), expected='an object, as "cup on the table"')
    if len(text) > MAX_CHARACTERS:
        raise NbHelpersError(
            "the phrase is too long", given=f"{len(text)} characters", expected=f"at most {MAX_CHARACTERS}"
        )
    parser = _PhraseParser(words)
    if filler := FILLER.match(parser.rest()):
        parser.at += filler.group().count(" ")
    phrase = parser.read_object(0, False)
    if not phrase.noun:
        where = "; ".join(map(str, phrase.relations)) or "nothing"
        raise NbHelpersError(
            "the phrase names no object",
            given=f"{text!r}, understood: {where}",
            expected='a noun too, as "object on the left"',
            do="say what it is, as in: red chair on the left",
        )
    return replace(phrase, text=text, notes=tuple(dict.fromkeys(parser.notes)))


def _words(text: str) -> Iterable[str]:
    """Words and commas; spatial words are split at their hyphens."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("&", " and ")
    text = re.sub(r"(?i)\b(left|right|top|bottom|upper|lower|fore|front|rear|back)[ -]most\b", r"\1most", text)
    for word in re.findall(r"[^\W_]+(?:['.-][^\W_]+)*|[,;:()/]", text):
        if word in ",;:()/":
            yield ","
        elif "-" in word and set(word.casefold().split("-")) & _OPENED:
            yield from word.split("-")
        else:
            yield word


_OPENED = {*ORDINALS, "left", "right", "hand", "nearest", "closest", "farthest", "furthest", "between", "front"}


class _PhraseParser:
    """Recursive descent over the words of one phrase."""

    def __init__(self, words: list[str]):
        self.words, self.low = words, [word.casefold() for word in words]
        self.at, self.notes = 0, list[str]()

    def rest(self, at: int | None = None) -> str:
        """The remaining words in lower case, from a position."""
        return " ".join(self.low[self.at if at is None else at :])

    def read_object(self, depth: int, paired: bool) -> Phrase:
        """Parse the object that starts here. ``paired``: an "and" ends it, since "between" expects a second object."""
        noun, relations, first = list[str](), list[Relation](), self.at
        ordinal, negated = None, False
        while self.at < len(self.words):
            word, rest = self.low[self.at], self.rest()
            if word in (",", "and") and self._relation_at(self._past_joints(self.at)):
                if depth:
                    break
                self.at = self._past_joints(self.at)
            elif word == "," or (not noun and ARTICLE.match(rest)):
                self.at += 1
            elif word == "and" and paired:
                break
            elif (past := self._past_stands(self.at)) > self.at and self._relation_at(past):
                self.at = past
            elif (no := NOT.match(rest)) and self._relation_at(self.at + no[0].count(" ") + 1):
                self.at, negated = self.at + no[0].count(" ") + 1, True
            elif self._rank_reference(noun, relations, depth, paired):
                pass
            elif (relation := self._relation(noun, ordinal, depth, paired)) is not None:
                ordinal = None if relation.kind in RANKS else ordinal
                relations.append(replace(relation, negated=negated, before=not noun))
                negated = False
            elif not noun and ordinal is None and ORDINAL.match(rest):
                ordinal, self.at = self.at, self.at + 1
            else:
                if space := UNKNOWN.match(rest) or self._dangling():
                    self.notes.append(f'"{space[0]}" is not a known relation; it was kept in the noun phrase')
                noun.append(self.words[self.at])
                self.at += 1
        if ordinal is not None:
            noun.insert(0, self.words[ordinal])
            self.notes.append(f'"{self.words[ordinal]}" has no order to count in; it was kept in the noun phrase')
        return Phrase(" ".join(self.words[first : self.at]), " ".join(noun), tuple(r for r in relations if r.kind))

    def _past_joints(self, at: int) -> int:
        """The next word that is neither comma nor "and"."""
        while at < len(self.low) and self.low[at] in (",", "and"):
            at += 1
        return at

    def _past_stands(self, at: int) -> int:
        """The word after "that stands" and the like."""
        stands = STANDS.match(self.rest(at))
        return at if stands is None else at + stands[0].count(" ")

    def _match(
        self, patterns: Sequence[tuple[str, re.Pattern[str]]], at: int | None = None
    ) -> tuple[str, re.Match[str] | None]:
        """The longest pattern that matches here: its kind and match; no kind and None if none does."""
        found = [(kind, match) for kind, pattern in patterns if (match := pattern.match(self.rest(at)))]
        return max(found, key=lambda each: len(each[1][0]), default=("", None))

    def _relation_at(self, at: int) -> bool:
        """Whether a relation starts at a word."""
        at = self._past_stands(at)
        if no := NOT.match(self.rest(at)):
            at += no[0].count(" ") + 1
        every = ORDER, RANK, SIDE_SURE, SIDE_LOOSE, SIDE_BARE
        return any(self._match(patterns, at)[0] for patterns in (*every, PREPOSITION))

    def _noun_at(self, at: int) -> bool:
        """Whether a noun phrase starts at a word."""
        return at < len(self.low) and self.low[at] not in (",", "and", "or", "of") and not self._relation_at(at)

    def _reference_at(self, at: int) -> bool:
        """Whether another object can start at a word; unlike a noun it may be preceded by "left" or "nearest"."""
        if at >= len(self.low) or self.low[at] in (",", "and"):
            return False
        return self.low[at] not in ONLY_PREPOSITIONS

    def _relation(self, noun: list[str], ordinal: int | None, depth: int, paired: bool) -> Relation | None:
        """Parse the relation that starts here; None if none does."""
        start = self.at
        for patterns in (ORDER, RANK_OF if noun else (), RANK, SIDE_SURE):
            kind, match = self._match(patterns)
            if match and (patterns is not RANK_OF or self._reference_at(self._after(match))):
                others = ()
                self.at = self._after(match)
                if patterns is RANK_OF:
                    others = self._others(kind, depth, paired)
                number = ORDINALS[match.groupdict().get("ordinal") or "first"]
                if ordinal is not None and kind in RANKS:
                    number = ORDINALS[self.low[ordinal]]
                return Relation(kind, self._text_since(start), others, number)
        kind, match = self._match(ORDER_END)
        if match and ordinal is not None:
            self.at = self._after(match)
            text = f"{self.words[ordinal]} {self._text_since(start)}"
            return Relation(kind, text, (), ORDINALS[self.low[ordinal]])
        kind, match = self._match(SIDE_LOOSE)
        if match and not (match["preposition"] == "on" and self._noun_at(self._after(match))):
            self.at = self._after(match)
            return Relation(kind, self._text_since(start))
        kind, match = self._match(PREPOSITION)
        if match and self._reference_at(self._after(match)):
            self.at = self._after(match)
            others = self._others(kind, depth, paired)
            if not others[0].noun:  # "near the left edge" is a position in the image
                return replace(others[0].relations[0], words=self._text_since(start))
            return Relation(kind, self._text_since(start), others)
        kind, match = self._match(SIDE_BARE)
        if match is None:
            kind, match = self._match(SIDE_BEFORE)
            if match is None or not self._noun_at(self._after(match)):
                return None
        self.at = self._after(match)
        return Relation(kind, self._text_since(start))

    def _rank_reference(self, noun: list[str], relations: list[Relation], depth: int, paired: bool) -> bool:
        """Parse the second half of "nearest cup to the window", behind the noun."""
        last = relations[-1] if relations else None
        match = TO.match(self.rest())
        if not (match and last and last.kind in RELATIVES and not last.references):
            return False
        if viewer := TO_VIEWER.match(self.rest()):
            self.at += viewer[0].count(" ") + 1
            return True
        if not noun:
            return False
        if self._match(SIDE_SURE)[0] or self._match(SIDE_LOOSE)[0]:
            return False
        self.at += 1
        relations[-1] = replace(last, references=self._others(last.kind, depth, paired))
        return True

    def _others(self, kind: str, depth: int, paired: bool) -> tuple[Phrase, ...]:
        """Parse the objects that a relation names."""
        others = [self.read_object(depth + 1, kind == "between" or paired)]
        if kind == "between" and self.at < len(self.low) and self.low[self.at] == "and":
            self.at += 1
            others.append(self.read_object(depth + 1, paired))
        if kind in RELATIVES and VIEWER.match(others[0].noun.casefold()):
            return ()
        for other in others:
            side_alone = len(others) == 1 and len(other.relations) == 1 and not other.relations[0].references
            if not other.noun and not side_alone:
                raise NbHelpersError(
                    f'the relation "{kind}" names no object',
                    given=self._text_since(0),
                    expected='as in "cup on the table"',
                )
        return tuple(others)

    def _dangling(self) -> re.Match[str] | None:
        """A trailing preposition."""
        return self._match(PREPOSITION)[1]

    def _after(self, match: re.Match[str]) -> int:
        """Position of the word after a match."""
        return self.at + match[0].count(" ") + 1

    def _text_since(self, start: int) -> str:
        """The words from a position to the current one, as written."""
        return " ".join(self.words[start : self.at])
