"""Views in order as a prior: on a turntable, neighbouring photos show the product from nearly the same side.

A side that no reference shows may look quite unlike all of them, yet like the view before it, and that one like the
view before that. So a thing is the product as surely as the weakest link of a chain of such likenesses that begins at a
sure match; each link costs a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nbhelpers.product_matching.matching import judge, verdicts
from nbhelpers.product_matching.values import Candidate, Judged

if TYPE_CHECKING:
    from nbhelpers.product_matching.session import ProductSession

KEPT_BY_A_LINK = 0.995  # of a score is left after each link of a chain
SWEEPS = 2  # forwards and backwards, so often


def neighbours_agree(session: ProductSession, photos: Sequence[int]) -> None:
    """Judge photos by their neighbours too; one match a photo remains, since one product stands on a turntable.

    Args:
        session: its photos have been judged one by one.
        photos: indices in the order of the views; the last is beside the first if the session's ``turntable`` is
            ``"circle"``.
    """
    best: dict[int, tuple[float, Candidate, str]] = {}
    for photo in photos:
        if matches := session.result(photo).matches:
            best[photo] = matches[0].score, session.candidates(photo).items[matches[0].number], ""
    beside = _neighbours(photos, session.turntable == "circle")
    for sweep in range(2 * SWEEPS):
        changed = False
        for photo in photos if sweep % 2 == 0 else reversed(photos):
            for other in beside[photo]:
                if other in best:
                    changed |= _link(session, best, photo, other)
        if not changed and sweep % 2:
            break
    for photo, (score, thing, why) in best.items():
        _settle(session, photo, score, thing, why)


def _neighbours(photos: Sequence[int], circle: bool) -> dict[int, list[int]]:
    count, out = len(photos), {}
    for place, photo in enumerate(photos):
        places = [(place - 1) % count, (place + 1) % count] if circle else [place - 1, place + 1]
        out[photo] = [photos[each] for each in places if 0 <= each < count and each != place]
    return out


def _link(session: ProductSession, best: dict, photo: int, other: int) -> bool:
    """Look in a photo for what its neighbour shows; whether that says more than what was known."""
    sure, seen, _ = best[other]
    if photo in best and best[photo][0] >= sure * KEPT_BY_A_LINK:
        return False
    gallery = replace(session.judging, positives=(seen.features,))
    candidates = session.candidates(photo)
    alike = judge(candidates, gallery, session.settings, session.threshold)
    kept = [each for each in alike if each.kept]
    if not kept:
        return False
    chain = min(sure, kept[0].score) * KEPT_BY_A_LINK
    if chain < session.threshold or (photo in best and best[photo][0] >= chain):
        return False
    name = session.photos[other].name
    thing = candidates.items[kept[0].number]
    best[photo] = chain, thing, f"as like as {chain:.2f} by way of {name}, the view beside it"
    return True


def _settle(session: ProductSession, photo: int, score: float, thing: Candidate, why: str) -> None:
    judged = []
    for each in verdicts(session.scores(photo), session.settings, session.threshold):
        if each.thing.rle == thing.rle:
            parts = {**each.parts, "neighbours": score} if why else each.parts
            kept = replace(each, score=max(score, each.score), parts=parts, verdict="kept", why=why or each.why)
            judged.append(kept)
        elif each.kept:
            judged.append(replace(each, verdict="beyond top k", why="one product stands on a turntable"))
        else:
            judged.append(each)
    session.rescore(photo, sorted(judged, key=_rank))


def _rank(judged: Judged) -> tuple[bool, float]:
    return not judged.kept, -judged.score
