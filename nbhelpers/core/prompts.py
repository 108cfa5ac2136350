"""One question to a segmenter, as a value that is checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError

INCLUDE, EXCLUDE = 1, 0


@dataclass(frozen=True, eq=False)
class Prompt:
    """Points, a box, a mask, or several of them at once, in pixels of the original image.

    Example:
        >>> Prompt(points=[(320, 200), (40, 30)], labels=[1, 0]).points.shape
        (2, 2)

    Attributes:
        points: ``(n, 2) float32``, ``(x, y)`` in pixels; ``(0, 0)`` is the centre of the top-left pixel.
        labels: ``(n,) int32``; 1 includes, 0 excludes. Left out: all 1.
        box: ``(4,) float32`` ``(x0, y0, x1, y1)`` pixels with ``x0 < x1`` and ``y0 < y1``, or None.
        mask: ``(H, W) bool`` in image size, or ``(h, w) float32`` logits as a `Prediction` holds them.

    Raises:
        NbHelpersError: nothing given, unequal lengths, a label other than 0 and 1, a value that is not finite,
            or an empty box.
    """

    points: Any = ()
    labels: Any = None
    box: Any = None
    mask: Any = None

    def __post_init__(self):
        points = _floats(self.points, "points", (-1, 2))
        labels = np.ones(len(points), np.int32) if self.labels is None else np.asarray(self.labels).reshape(-1)
        if len(labels) != len(points):
            raise NbHelpersError(
                "points and labels differ in number",
                given=f"{len(points)} points, {len(labels)} labels",
                expected="one label for each point (1 = include, 0 = exclude)",
            )
        if not np.isin(labels, (INCLUDE, EXCLUDE)).all():
            raise NbHelpersError(
                "a label is neither 1 nor 0", given=labels.tolist(), expected="1 = include, 0 = exclude"
            )
        box = None if self.box is None else _floats(self.box, "box", (4,))
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise NbHelpersError(
                "the box is empty", given=box.tolist(), expected="(x0, y0, x1, y1) with x0 < x1 and y0 < y1"
            )
        mask = None if self.mask is None else np.asarray(self.mask)
        if mask is not None and (mask.ndim != 2 or mask.dtype not in (np.bool_, np.float32)):
            raise NbHelpersError(
                "the mask prompt has the wrong form",
                given=f"shape {mask.shape}, {mask.dtype}",
                expected="(H, W) bool in image size, or (h, w) float32 logits",
            )
        if mask is not None and mask.dtype == np.float32 and not np.isfinite(mask).all():
            raise NbHelpersError("the mask prompt holds values that are not finite")
        if not len(points) and box is None and mask is None:
            raise NbHelpersError("the prompt is empty", expected="at least one point, a box or a mask")
        for name, value in (
            ("points", points),
            ("labels", labels.astype(np.int32)),
            ("box", box),
            ("mask", mask),
        ):
            if value is not None and name != "mask":
                value.setflags(write=False)
            object.__setattr__(self, name, value)

    @property
    def is_ambiguous(self) -> bool:
        """Whether it is a single including click, which fits a part as well as the whole."""
        return self.labels.tolist() == [INCLUDE] and self.box is None and self.mask is None

    def check_inside(self, size: tuple[int, int]) -> Prompt:
        """Return the prompt itself if it lies in an image of ``size`` ``(H, W)``.

        Raises:
            NbHelpersError: a point outside, a box that does not touch the image, a mask of another size.
        """
        height, width = size
        outside = [
            p.tolist() for p in self.points if not (-0.5 <= p[0] <= width - 0.5 and -0.5 <= p[1] <= height - 0.5)
        ]
        if outside:
            raise NbHelpersError(
                "a point lies outside the image",
                given=outside[0],
                expected=f"0 <= x <= {width - 1} and 0 <= y <= {height - 1}",
                do="give pixels of the original image, x first",
            )
        if self.box is not None and not (
            self.box[0] < width and self.box[1] < height and self.box[2] > 0 and self.box[3] > 0
        ):
            raise NbHelpersError(
                "the box lies outside the image",
                given=self.box.tolist(),
                expected=f"inside {width} x {height}",
            )
        if self.mask is not None and self.mask.dtype == np.bool_ and self.mask.shape != (height, width):
            raise NbHelpersError(
                "the mask prompt has another size than the image",
                given=self.mask.shape,
                expected=str((height, width)),
            )
        return self


def _floats(value, name: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.array(value, np.float32).reshape(shape)
    except (TypeError, ValueError):
        raise NbHelpersError(
            f"{name} cannot be read",
            given=repr(value),
            expected="(n, 2) numbers (x, y)" if name == "points" else "four numbers (x0, y0, x1, y1)",
        ) from None
    if not np.isfinite(array).all():
        raise NbHelpersError(f"{name} holds a value that is not finite", given=array.tolist())
    return array


def parse_point(text: str, place: str = "") -> tuple[int | None, float, float, int]:
    """A point of the command line: ``"320,200"`` or ``"320,200,0"``, and ``"3:320,200"`` where a place may be named.

    Args:
        text: of the option ``--point``.
        place: what a number before a colon means, ``"FRAME"`` or ``"VIEW"``; empty where none may be given.

    Returns:
        The place (None if none is given), x and y in pixels, and the label, 1 to include or 0 to exclude.

    Raises:
        NbHelpersError: the text has another form.
    """
    number, colon, rest = text.rpartition(":")
    try:
        x, y, *label = (float(part) for part in rest.split(","))
        if (colon and not place) or label not in ([], [0], [1]):
            raise ValueError
        return (int(number) if colon else None), x, y, int(label[0]) if label else 1
    except ValueError as error:
        forms = "x,y or x,y,0" + (f" or {place}:x,y" if place else "")
        raise NbHelpersError("--point cannot be read", given=text, expected=forms) from error
