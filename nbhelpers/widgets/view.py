"""Which part of a photo a canvas shows: zoom and pan as a value, without a browser."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MAX_SCALE = 16.0  # canvas pixels for one photo pixel: enough to set a point on a single pixel


@dataclass(frozen=True)
class View:
    """Photo and canvas coordinates, and the way between them.

    Both count pixels with ``(0, 0)`` at the centre of the top-left pixel, x right, y down.

    Example:
        >>> view = View.fit(photo=(6000, 9000), canvas=(700, 1000))
        >>> closer = view.zoomed(4, about=(250, 100))
        >>> closer.to_photo(250, 100) == view.to_photo(250, 100)    # what was under the cursor stays there
        True

    Attributes:
        photo: ``(H, W)`` of the photo.
        canvas: ``(h, w)`` of the canvas.
        scale: canvas pixels for one photo pixel.
        centre: ``(x, y)`` in the middle of the canvas, in photo pixels measured from the photo's corner.
    """

    photo: tuple[int, int]
    canvas: tuple[int, int]
    scale: float
    centre: tuple[float, float]

    @classmethod
    def fit(cls, photo: tuple[int, int], canvas: tuple[int, int]) -> View:
        """The whole photo, as large as the canvas allows."""
        scale = min(canvas[0] / photo[0], canvas[1] / photo[1])
        return cls(photo, canvas, scale, (photo[1] / 2, photo[0] / 2))

    @property
    def min_scale(self) -> float:
        """Scale at which the whole photo fits."""
        return min(self.canvas[0] / self.photo[0], self.canvas[1] / self.photo[1])

    @property
    def max_scale(self) -> float:
        """Closest scale."""
        return max(MAX_SCALE, 4 * self.min_scale)

    def to_photo(self, x: float, y: float) -> tuple[float, float]:
        """Photo coordinates of a canvas position; outside the photo where the canvas shows a margin."""
        left, top = self._corner()
        return (x + 0.5 - left) / self.scale - 0.5, (y + 0.5 - top) / self.scale - 0.5

    def to_canvas(self, x: float, y: float) -> tuple[float, float]:
        """Canvas coordinates of a photo position."""
        left, top = self._corner()
        return (x + 0.5) * self.scale + left - 0.5, (y + 0.5) * self.scale + top - 0.5

    def clamp_to_photo(self, x: float, y: float) -> tuple[float, float]:
        """The photo position nearest to ``(x, y)``, both in photo coordinates."""
        return min(max(x, 0.0), self.photo[1] - 1.0), min(max(y, 0.0), self.photo[0] - 1.0)

    def zoomed(self, factor: float, about: tuple[float, float] | None = None) -> View:
        """Closer (``factor`` above 1) or farther, with the canvas position ``about`` (middle if None) at rest."""
        height, width = self.canvas
        x, y = ((width - 1) / 2, (height - 1) / 2) if about is None else about
        scale = min(max(self.scale * factor, self.min_scale), self.max_scale)
        fixed_x, fixed_y = self.to_photo(x, y)
        centre = (
            fixed_x + 0.5 + (width / 2 - x - 0.5) / scale,
            fixed_y + 0.5 + (height / 2 - y - 0.5) / scale,
        )
        return replace(self, scale=scale, centre=centre)._clamped()

    def panned(self, dx: float, dy: float) -> View:
        """Content moved right and down by ``dx`` and ``dy`` canvas pixels, as far as the photo reaches."""
        centre = (self.centre[0] - dx / self.scale, self.centre[1] - dy / self.scale)
        return replace(self, centre=centre)._clamped()

    def placed(self) -> tuple[tuple[int, int, int, int], tuple[float, float, float, float]]:
        """Where the photo lies on the canvas, and which part of it that is.

        Returns:
            The canvas rectangle ``(x0, y0, x1, y1)`` in whole pixels, ends exclusive, at least one pixel, and the
            window ``(x0, y0, x1, y1)`` of the photo in it, in photo pixels measured from the photo's corner.
        """
        left, top = self._corner()
        x0, x1, u0, u1 = _span(left, self.photo[1], self.canvas[1], self.scale)
        y0, y1, v0, v1 = _span(top, self.photo[0], self.canvas[0], self.scale)
        return (x0, y0, x1, y1), (u0, v0, u1, v1)

    def _corner(self) -> tuple[float, float]:
        """Canvas position of the photo's top-left corner, measured from the canvas' corner."""
        return self.canvas[1] / 2 - self.centre[0] * self.scale, self.canvas[0] / 2 - self.centre[1] * self.scale

    def _clamped(self) -> View:
        x = _clamped_centre(self.centre[0], self.photo[1], self.canvas[1] / self.scale)
        y = _clamped_centre(self.centre[1], self.photo[0], self.canvas[0] / self.scale)
        return replace(self, centre=(x, y))


def _clamped_centre(centre: float, length: int, shown: float) -> float:
    """Keep the photo's edge outside the canvas, or the photo in its middle where it is smaller than the canvas."""
    return length / 2 if shown >= length else min(max(centre, shown / 2), length - shown / 2)


def _span(start: float, length: int, room: int, scale: float) -> tuple[int, int, float, float]:
    first = min(max(0, math.floor(start + 0.5)), room - 1)
    last = max(min(room, math.floor(start + length * scale + 0.5)), first + 1)
    window = max(0.0, (first - start) / scale), min(float(length), (last - start) / scale)
    return first, last, *window
