"""The words of space: which of them mean which relation, as patterns over words in lower case.

A pattern is matched at the beginning of what is left of a phrase, one blank between words. Nothing here knows about
objects; `nbhelpers.multiview.phrases` reads, `nbhelpers.multiview.relations` measures.
"""

from __future__ import annotations

import re

SIDES = ("left", "right", "centre", "foreground", "background")
"""Where a thing is in the picture of the reference view."""

RANKS = (
    "nearest", "farthest", "leftmost", "rightmost", "highest", "lowest", "largest", "smallest", "tallest", "shortest",
)  # fmt: skip
"""Which of several things; ``nearest`` and ``farthest`` may name another thing, else they mean the viewer."""

BETWEEN_THINGS = (
    "left of", "right of", "on", "above", "below", "behind", "in front of", "beside", "between", "centre of",
)  # fmt: skip
"""Where a thing is as seen from another one."""

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
"""Where in the picture, whatever follows."""

SIDE_LOOSE = _compiled(
    {**_WHERE, "highest": "(?:very )?top"}, f"(?P<preposition>on|at|to|in|towards?) {_THE}", f"{_PICTURE}(?! of )"
)
"""The same, unless a thing follows: "on the left", but not "on the left table"."""

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
"""Nearest to another thing."""

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
"""Words of space that are no relation of ours; they stay in the noun phrase, with a note."""

GENERIC = frozenset(
    ("object", "objects", "item", "items", "thing", "things", "one", "ones", "something", "anything", "stuff")
)
"""Nouns that every object answers to."""

ONLY_PREPOSITIONS = frozenset(
    ("on", "above", "below", "behind", "beside", "between", "under", "over", "near", "by", "next")
)
"""Words that no thing begins with."""
