"""What trackers have in common: how the memory of a frame is laid out when it is saved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt


def by_object(
    arrays: Mapping[str, np.ndarray], frame: int, prompts: Mapping[int, Prompt]
) -> dict[int, dict[str, np.ndarray]]:
    """The memory of a frame, object by object.

    Args:
        arrays: by ``<object id>/<what>``; an object that was prompted on the frame has a ``score``.
        frame: which one, for the error.
        prompts: what had been said on the frame, by object id.

    Returns:
        By object id, arrays by ``<what>``.

    Raises:
        NbHelpersError: prompted objects without prompts, or prompts of objects that were not prompted.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for name, value in arrays.items():
        object_id, _, what = name.partition("/")
        found.setdefault(int(object_id), {})[what] = value
    prompted = {object_id for object_id, own in found.items() if "score" in own}
    if prompted != set(prompts):
        raise NbHelpersError(
            "the memory does not fit the prompts",
            given=f"frame {frame}: prompted objects {sorted(prompts)}, memory of {sorted(prompted)}",
            expected="the prompts that were there when the memory was taken",
        )
    return found
