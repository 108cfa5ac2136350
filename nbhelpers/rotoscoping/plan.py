"""Which frames have to be followed, and in which direction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from nbhelpers.rotoscoping.records import BACKWARD, FORWARD, Tracked

Find = Callable[[int, int], Tracked | None]
"""What was tracked of an object (number) on a frame."""
Keys = Mapping[int, Mapping[int, str]]
"""By object number and prompted frame: the digest of what was said."""


def source(keys: Mapping[int, str], frame: int, step: int) -> int | None:
    """The prompted frame from which a frame is reached: the nearest one behind it, in the direction ``step``."""
    behind = [key for key in keys if (key - frame) * step < 0]
    return max(behind, key=lambda key: key * step) if behind else None


def is_fresh(tracked: Tracked | None, keys: Mapping[int, str], frame: int) -> bool:
    """Whether a mask is still what following would give: nothing changed where it was followed from."""
    if tracked is None:
        return False
    key = source(keys, frame, tracked.step)
    return key == tracked.source and keys[key] == tracked.digest


def asked(keys: Keys, find: Find, start: int, stop: int, step: int) -> dict[int, set[int]]:
    """Frames to follow, with the objects, when a person asks for a range.

    Up to the next prompted frame all are followed that are not up to date in this very direction; behind it, only
    those that are not up to date at all: what was good there stays.
    """
    todo: dict[int, set[int]] = {}
    for number, said in keys.items():
        first = True
        for frame in range(start, stop + step, step):
            if frame in said:
                first = first and frame == start
                continue
            tracked = find(number, frame)
            done = is_fresh(tracked, said, frame) and (tracked.step == step or not first)
            if not done and source(said, frame, step) is not None:
                todo.setdefault(frame, set()).add(number)
    return todo


def missing(keys: Keys, find: Find, start: int, stop: int, step: int) -> dict[int, set[int]]:
    """Frames of a range that are not up to date and are best followed in the direction ``step``.

    Those before an object's first prompt are followed backwards, all others forwards, except where a person had them
    followed backwards before.
    """
    todo: dict[int, set[int]] = {}
    for number, said in keys.items():
        for frame in range(start, stop + step, step):
            tracked = find(number, frame)
            if frame in said or is_fresh(tracked, said, frame):
                continue
            way = tracked.step if tracked is not None else FORWARD
            if source(said, frame, way) is None:
                way = -way
            if way == step and source(said, frame, way) is not None:
                todo.setdefault(frame, set()).add(number)
    return todo


def stretches(frames: Iterable[int], step: int) -> list[tuple[int, int]]:
    """First and last frame of each run of neighbours, in the direction ``step``."""
    ordered: Sequence[int] = sorted(frames, reverse=step == BACKWARD)
    if not ordered:
        return []
    breaks = [(a, b) for a, b in pairwise(ordered) if b - a != step]
    starts, stops = [ordered[0], *(b for _, b in breaks)], [*(a for a, _ in breaks), ordered[-1]]
    return list(zip(starts, stops, strict=True))
