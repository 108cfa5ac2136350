"""Still pictures of widgets, for pages where no kernel answers: GitHub, the site, a notebook as HTML."""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw

from nbhelpers.widgets.drawing import encode_photo

if TYPE_CHECKING:
    from nbhelpers.widgets.stage import Stage

FINER = 2.0  # pixels that are drawn for one of the picture, against jagged lines
QUALITY = 85  # of JPEG


class StillLayer:
    """The drawing commands of `ipycanvas.Canvas` that `Stage` uses, on a picture of its own.

    Args:
        size: width and height in page pixels.
        ratio: pixels for one page pixel.
    """

    def __init__(self, size: tuple[int, int], ratio: float):
        self._ratio = ratio
        self.image = Image.new("RGBA", (round(size[0] * ratio), round(size[1] * ratio)))
        self.fill_style = self.stroke_style = "black"
        self.line_width, self.global_alpha, self.line_cap, self.line_join = 1.0, 1.0, "butt", "miter"

    def clear(self) -> None:
        """Empty the layer."""
        self.image = Image.new("RGBA", self.image.size)

    def set_line_dash(self, dash: Sequence[float]) -> None:
        """Dashes are drawn as a line."""

    def fill_rect(self, x: float, y: float, width: float, height: float) -> None:
        """A rectangle."""
        self._draw("rectangle", [(x, y), (x + width, y + height)], fill=self._colour(self.fill_style))

    def stroke_rect(self, x: float, y: float, width: float, height: float) -> None:
        """The outline of a rectangle."""
        half = self.line_width / 2
        self._draw("rectangle", [(x - half, y - half), (x + width + half, y + height + half)], **self._outline())

    def fill_circle(self, x: float, y: float, radius: float) -> None:
        """A disc."""
        self._draw("ellipse", [(x - radius, y - radius), (x + radius, y + radius)], fill=self._colour(self.fill_style))

    def stroke_circle(self, x: float, y: float, radius: float) -> None:
        """A ring."""
        radius += self.line_width / 2
        self._draw("ellipse", [(x - radius, y - radius), (x + radius, y + radius)], **self._outline())

    def stroke_line(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A line."""
        self.stroke_lines([(x0, y0), (x1, y1)])

    def stroke_lines(self, points: Iterable[Sequence[float]]) -> None:
        """A path of lines."""
        style = {"fill": self._colour(self.stroke_style), "width": round(self.line_width * self._ratio)}
        self._draw("line", points, **style, joint="curve")

    def fill_polygon(self, points: Iterable[Sequence[float]]) -> None:
        """A polygon."""
        self._draw("polygon", points, fill=self._colour(self.fill_style))

    def _outline(self) -> dict[str, Any]:
        return {"outline": self._colour(self.stroke_style), "width": max(1, round(self.line_width * self._ratio))}

    def _colour(self, style: str) -> tuple[int, ...]:
        """RGBA of a CSS colour; the fraction that CSS has for alpha is none that Pillow reads."""
        if style.startswith("rgba("):
            *colour, alpha = (float(part) for part in style[5:-1].split(","))
            red, green, blue, opacity = *map(int, colour), round(255 * alpha)
        else:
            red, green, blue, opacity = ImageColor.getcolor(style, "RGBA")
        return red, green, blue, round(opacity * self.global_alpha)

    def _draw(self, shape: str, points: Iterable[Sequence[float]], **style: Any) -> None:
        """Draw a shape over what is there; Pillow itself would replace its pixels."""
        over = Image.new("RGBA", self.image.size)
        places = [(float(x) * self._ratio, float(y) * self._ratio) for x, y in points]
        getattr(ImageDraw.Draw(over), shape)(places, **style)
        self.image.alpha_composite(over)


class StillScreen:
    """What a `LayeredCanvas` is to a `Stage`, without a page.

    Args:
        size: width and height in page pixels.
        layers: names, from back to front.
    """

    def __init__(self, size: tuple[int, int], layers: Sequence[str]):
        self.size, self.ratio = size, FINER
        self._layers = {name: StillLayer(size, FINER) for name in layers}

    def __getitem__(self, layer: str) -> StillLayer:
        return self._layers[layer]

    def put(self, layer: str, encoded: bytes, x: int, y: int, *, enlarge: bool = False) -> None:
        """Draw a PNG or JPEG file; see `LayeredCanvas.put`."""
        picture, place = Image.open(io.BytesIO(encoded)).convert("RGBA"), (x, y)
        if enlarge:
            picture = picture.resize((round(picture.width * FINER), round(picture.height * FINER)))
            place = round(x * FINER), round(y * FINER)
        self[layer].image.alpha_composite(picture, place)

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """All layers on white, in page pixels."""
        whole = Image.new("RGBA", next(iter(self._layers.values())).image.size, "white")
        for layer in self._layers.values():
            whole.alpha_composite(layer.image)
        return np.asarray(whole.convert("RGB").resize(self.size, Image.Resampling.LANCZOS))


def still_of(stage: Stage) -> UInt8[np.ndarray, "h w 3"]:
    """What a stage shows now; the stage itself is left alone."""
    twin = copy.copy(stage)
    twin.screen = StillScreen(stage.screen.size, stage.screen.layers)
    twin.paint_photo(preview=False)
    twin.paint_masks()
    twin.paint_marks()
    return twin.screen.picture()


def still_output(picture: UInt8[np.ndarray, "h w 3"], alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A picture as an entry of a notebook's output: its data and metadata by MIME type."""
    file = encode_photo(picture, preview=True, quality=QUALITY)
    return {"image/jpeg": base64.b64encode(file).decode()}, {"image/jpeg": {"alt": alt, "width": picture.shape[1]}}
