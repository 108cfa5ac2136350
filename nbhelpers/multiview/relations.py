"""Relations measured on things in space: each a score from 0 to 1 and a sentence why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.multiview.frames import Body, across_gap, apart, gap, support
from nbhelpers.multiview.grammar import BETWEEN_THINGS, RANKS, SIDES

Told = tuple[float, str]
NOISE = 0.08  # of a thing's own size: how far its middle may be off, since it is seen from some sides alone
CARRIED = 0.65  # what "above" loses where "on" is the word
PLAINLY = 4.0  # log odds for a difference of a whole size


@dataclass(frozen=True)
class Measure:
    """A number by which things are put in order.

    Attributes:
        value: the higher, the more so.
        noise: how far it may be off.
        why: the number in words.
    """

    value: float
    noise: float
    why: str


def related(kind: str, thing: Body, others: Sequence[Body]) -> Told:
    """How well a thing fulfils a relation to one other thing, or to two for ``between``.

    Example:
        >>> related("behind", chair, [desk])
        (0.97, "its middle is 1.3 desk depths farther away than the desk's")

    Args:
        kind: one of `grammar.BETWEEN_THINGS`.
        thing: the one that is looked for.
        others: those that the relation names.

    Raises:
        NbHelpersError: no such relation, or too few things.
    """
    if kind not in _RELATED:
        raise NbHelpersError("there is no such relation", given=kind, expected=", ".join(BETWEEN_THINGS))
    if len(others) < (2 if kind == "between" else 1):
        raise NbHelpersError(f'"{kind}" needs {"two other things" if kind == "between" else "another thing"}')
    return _RELATED[kind](thing, *others[: 2 if kind == "between" else 1])


def placed(kind: str, thing: Body, all_things: Sequence[Body]) -> Told:
    """How well a thing lies on one side of the picture, or in the foreground or background of all that was found.

    Args:
        kind: one of `grammar.SIDES`.
        thing: the one that is looked for.
        all_things: everything that was found, for what is near and far.

    Raises:
        NbHelpersError: no such side.
    """
    middle = thing.across[1]
    where = f"its middle is at {50 + 50 * middle:.0f} % of the picture's width"
    match kind:
        case "left" | "right":
            return _odds(PLAINLY * middle * (1 if kind == "right" else -1)), where
        case "centre":
            return float(np.exp(-((middle / 0.45) ** 2))), where
        case "foreground" | "background":
            distances = [body.distance for body in all_things]
            near, far = min(distances), max(distances)
            share = 0.5 if far - near < 1e-9 else (thing.distance - near) / (far - near)
            score = _odds(PLAINLY * (2 * share - 1) * (1 if kind == "background" else -1))
            return score, f"it is at {100 * share:.0f} % of the way from the nearest thing to the farthest"
    raise NbHelpersError("there is no such side", given=kind, expected=", ".join(SIDES))


def measure(kind: str, thing: Body, other: Body | None = None) -> Measure:
    """The number by which ``kind`` puts things in order; for sides of the picture too.

    Args:
        kind: one of `grammar.RANKS` or `grammar.SIDES`.
        thing: the one to measure.
        other: for ``nearest`` and ``farthest`` the thing that they are measured from, the viewer when left out.

    Raises:
        NbHelpersError: no such order.
    """
    left, middle, right = thing.across
    match kind:
        case "left" | "leftmost" | "right" | "rightmost":
            sign = 1 if kind.startswith("right") else -1
            noise = 0.01 + NOISE * (right - left)
            return Measure(sign * middle, noise, f"at {50 + 50 * middle:.0f} % of the picture's width")
        case "centre":
            noise = 0.01 + NOISE * (right - left)
            return Measure(-abs(middle), noise, f"{50 * abs(middle):.0f} % of the width from the picture's middle")
        case "nearest" | "farthest" | "foreground" | "background":
            sign = -1 if kind in ("nearest", "foreground") else 1
            if other is not None:
                away = gap(thing, other)
                return Measure(
                    sign * away, NOISE * (thing.reach + 0.5 * away), f"{away / thing.reach:.1f} of its own lengths away"
                )
            away = thing.distance
            return Measure(
                sign * away, 0.02 * away + NOISE * thing.reach, f"{away:.3g} units of the scene from the viewer"
            )
        case "highest" | "lowest":
            sign, height = (1 if kind == "highest" else -1), float(thing.center[1])
            return Measure(sign * height, NOISE * thing.reach, f"its middle at height {height:.3g}")
        case "tallest" | "shortest":
            sign, height = (1 if kind == "tallest" else -1), float(thing.size[1])
            return Measure(sign * height, NOISE * height, f"{height:.3g} tall")
        case "largest" | "smallest":
            sign, size = (1 if kind == "largest" else -1), float(np.linalg.norm(thing.size))
            return Measure(sign * size, NOISE * size, f"{size:.3g} from corner to corner")
    raise NbHelpersError("there is no such order", given=kind, expected=", ".join((*RANKS, *SIDES)))


def _odds(value: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(value, -30, 30))))


def _halves(difference: float, thing: Body, other: Body, axis: int) -> float:
    """A difference in half sizes of both."""
    return difference / max(0.5 * float(thing.size[axis] + other.size[axis]), 0.1 * thing.reach)


def _beyond(halves: float) -> float:
    """Score of a middle that is so many half sizes of both beyond the other: 0.98 when they no longer overlap.

    With the middles side by side it is 0.12 both ways: what is in line with a thing is neither left nor right of it.
    """
    return _odds(PLAINLY * (1.5 * halves - 0.5))


def _times(value: float) -> str:
    return f"{abs(value):.1f}"


def _sideways(sign: int) -> Callable[[Body, Body], Told]:
    def told(thing: Body, other: Body) -> Told:
        difference = sign * (thing.across[1] - other.across[1])
        half = max(0.5 * (thing.across[2] - thing.across[0] + other.across[2] - other.across[0]), 0.04)
        side = "right" if sign * difference > 0 else "left"
        why = f"its middle is {50 * abs(difference):.0f} % of the picture's width {side} of the other's"
        return _beyond(difference / half), why

    return told


def _vertical(sign: int) -> Callable[[Body, Body], Told]:
    def told(thing: Body, other: Body) -> Told:
        difference = float(thing.center[1] - other.center[1])
        away = apart(thing, other, (0, 2)) / (0.5 * (thing.reach + other.reach))
        side = "higher" if difference > 0 else "lower"
        why = f"its middle is {_times(difference / thing.size[1])} of its own heights {side} than the other's"
        why += f", and {away:.1f} sizes beside it" if away > 0.3 else ""
        score = _odds(1.5 * PLAINLY * _halves(sign * difference, thing, other, 1) - 1) * float(
            np.exp(-((away / 1.5) ** 2))
        )
        carried = _on(thing, other)[0] if sign > 0 else _on(other, thing)[0]
        if carried > 0.5:
            why += ", but one carries the other"
        return score * (1 - CARRIED * carried), why

    return told


def _depthwise(sign: int) -> Callable[[Body, Body], Told]:
    def told(thing: Body, other: Body) -> Told:
        difference = float(thing.center[2] - other.center[2])
        beside = across_gap(thing, other)
        side = "farther away" if difference > 0 else "nearer"
        why = f"its middle is {_times(difference / max(other.size[2], 0.1 * other.reach))} depths of the other {side}"
        why += f", and {100 * beside:.0f} % of the picture's width beside it" if beside > 0.03 else ""
        score = _beyond(_halves(sign * difference, thing, other, 2)) * float(np.exp(-((beside / 0.35) ** 2)))
        if not thing.flat:  # more beside than behind
            aside = apart(thing, other, (0,)) / max(abs(difference), 1e-9)
            score *= float(np.exp(-(max(0.0, min(aside, 10.0) - 1) ** 2)))
        return score, why

    return told


def _on(thing: Body, other: Body) -> Told:
    if thing.flat:  # what stands on a table ends inside its outline
        inside = min(float(thing.low[1] - other.low[1]), float(other.high[1] - thing.low[1])) / float(other.size[1])
        beside = apart(thing, other, (0,)) / thing.reach
        score = _odds(20 * (inside + 0.05)) * float(np.exp(-((beside / 0.3) ** 2)))
        score *= _odds(PLAINLY * _halves(float(thing.center[1] - other.center[1]), thing, other, 1) + 1)
        return score, f"it ends {'inside' if inside >= 0 else 'outside'} the other's outline"
    carried = float(thing.low[1]) - support(thing, other)
    beside = apart(thing, other, (0, 2)) / thing.reach
    off = carried / max(0.5 * float(thing.size[1]), 0.05 * other.reach)
    stands = float(np.exp(-(off**2) - (beside / 0.3) ** 2))
    stands *= _odds(2 * PLAINLY * _halves(float(thing.high[1] - other.high[1]), thing, other, 1) + 2)
    hangs = 0.0
    if other.size[2] < 0.3 * other.reach and thing.reach < other.reach:  # a wall: what touches its face is on it
        hangs = float(np.exp(-((gap(thing, other) / (0.5 * thing.reach)) ** 2))) * (apart(thing, other, (0, 1)) == 0)
    why = f"it begins {_times(off / 2)} of its own heights {'above' if carried > 0 else 'below'} the other's top"
    why += f", {beside:.1f} of its sizes beside it" if beside > 0.1 else " there"
    return (stands, why) if stands >= hangs else (0.8 * hangs, "it touches the other's face")


def _beside(thing: Body, other: Body) -> Told:
    size = 0.5 * (thing.reach + other.reach)
    away = apart(thing, other, (0, 2)) / size
    stacked = max(0.0, apart(thing, other, (1,))) / size
    over = 0.5 if apart(thing, other, (0, 2)) == 0 and stacked > 0 else 1.0
    score = over * float(np.exp(-((away / 1.0) ** 2) - (stacked / 0.6) ** 2))
    return score, f"{away:.1f} of their sizes lie between them" + (", one above the other" if over < 1 else "")


def _between(thing: Body, first: Body, second: Body) -> Told:
    line = second.center - first.center
    length = max(float(np.linalg.norm(line)), 1e-9)
    along = float((thing.center - first.center) @ line) / length**2
    off = float(np.linalg.norm(thing.center - first.center - along * line)) / length
    inside = _odds(12 * (along - 0.1)) * _odds(12 * (0.9 - along))
    why = f"at {100 * along:.0f} % of the way from one to the other, {100 * off:.0f} % of it beside the line"
    return inside * float(np.exp(-((off / 0.7) ** 2))), why


def _centre_of(thing: Body, other: Body) -> Told:
    off = np.abs((thing.center - other.center)[[0, 2]]) / (0.5 * other.size[[0, 2]])
    far = float(np.linalg.norm(off))
    return float(np.exp(-((far / 0.6) ** 2))), f"{far:.1f} half sizes from the other's middle"


_RELATED: dict[str, Callable[..., Told]] = {
    "left of": _sideways(-1),
    "right of": _sideways(1),
    "on": _on,
    "above": _vertical(1),
    "below": _vertical(-1),
    "behind": _depthwise(1),
    "in front of": _depthwise(-1),
    "beside": _beside,
    "between": _between,
    "centre of": _centre_of,
}
