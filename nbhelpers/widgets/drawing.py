"""What a canvas shows of a photo: zoom and pan as a value, pictures and masks as small files, markers, still pictures.

The cost depends on the canvas, not on the photo. `still_of` draws a stage without a page, for places where no kernel
answers: GitHub, the site, a notebook as HTML.
"""

from __future__ import annotations

import base64
import copy
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageColor, ImageDraw

from nbhelpers.plots import EXCLUDE_COLOUR, INCLUDE_COLOUR, PALETTE, rgb

if TYPE_CHECKING:
    from nbhelpers.widgets.stage import Stage

MAX_SCALE = 16.0  # canvas pixels for one photo pixel: enough to set a point on a single pixel
MARKER_RADIUS = 8
PIXELS_VISIBLE = 6  # canvas pixels for one photo pixel, from which on the pixels are shown as squares
FINER = 2.0  # pixels that are drawn for one of a still picture, against jagged lines
QUALITY = 85  # of a still picture as JPEG


@dataclass(frozen=True)
class Viewport:
    """The part of a photo that a canvas shows, and the conversion between their coordinates.

    Both count pixels with ``(0, 0)`` at the centre of the top-left pixel, x right, y down.

    Example:
        >>> viewport = Viewport.fit(photo=(6000, 9000), canvas=(700, 1000))
        >>> closer = viewport.zoomed(4, about=(250, 100))
        >>> closer.to_photo(250, 100) == viewport.to_photo(250, 100)    # the point under the cursor stays there
        True

    Attributes:
        photo: ``(H, W)`` of the photo.
        canvas: ``(h, w)`` of the canvas, in page pixels or, see `finer`, in those of the screen.
        scale: canvas pixels for one photo pixel.
        centre: ``(x, y)`` in the middle of the canvas, in photo pixels measured from the photo's corner.
    """

    photo: tuple[int, int]
    canvas: tuple[int, int]
    scale: float
    centre: tuple[float, float]

    @classmethod
    def fit(cls, photo: tuple[int, int], canvas: tuple[int, int]) -> Viewport:
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

    def zoomed(self, factor: float, about: tuple[float, float] | None = None) -> Viewport:
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

    def panned(self, dx: float, dy: float) -> Viewport:
        """Content moved right and down by ``dx`` and ``dy`` canvas pixels, as far as the photo reaches."""
        centre = (self.centre[0] - dx / self.scale, self.centre[1] - dy / self.scale)
        return replace(self, centre=centre)._clamped()

    def finer(self, ratio: float) -> Viewport:
        """The same view with ``ratio`` times as many canvas pixels a side."""
        height, width = (round(side * ratio) for side in self.canvas)
        return replace(self, canvas=(height, width), scale=self.scale * ratio)

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

    def _clamped(self) -> Viewport:
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


class Photo:
    """A photo with halved copies, so that a crop of it is computed from few more pixels than it has.

    Args:
        image: ``(H, W, 3) uint8`` RGB, or ``(H, W) uint8``, a matte.
    """

    def __init__(self, image: UInt8[np.ndarray, "h w *c"]):
        self._levels = [image]

    def crop(self, viewport: Viewport) -> UInt8[np.ndarray, "vh vw *c"]:
        """The visible part at canvas size: area-averaged when smaller, bilinear when larger."""
        (x0, y0, x1, y1), window = viewport.placed()
        if viewport.scale >= 1:
            return self._enlarged(window, (x1 - x0, y1 - y0), viewport.scale)
        level = self._level(int(-math.log2(viewport.scale)))
        height, width = level.shape[:2]
        across, down = width / viewport.photo[1], height / viewport.photo[0]
        left, top = math.floor(window[0] * across), math.floor(window[1] * down)
        right, bottom = math.ceil(window[2] * across - 1e-6), math.ceil(window[3] * down - 1e-6)
        part = level[top : max(bottom, top + 1), left : max(right, left + 1)]
        return cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)

    def _enlarged(self, window, size: tuple[int, int], scale: float) -> np.ndarray:
        image = self._levels[0]
        left, top = max(0, math.floor(window[0]) - 1), max(0, math.floor(window[1]) - 1)
        part = image[top : math.ceil(window[3]) + 1, left : math.ceil(window[2]) + 1]
        start_x, start_y = (window[0] - left + 0.5 / scale - 0.5, window[1] - top + 0.5 / scale - 0.5)
        matrix = np.array([[1 / scale, 0, start_x], [0, 1 / scale, start_y]])
        how = cv2.INTER_NEAREST if scale >= PIXELS_VISIBLE else cv2.INTER_LINEAR
        return cv2.warpAffine(part, matrix, size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)

    def _level(self, index: int) -> np.ndarray:
        while len(self._levels) <= index:
            height, width = self._levels[-1].shape[:2]
            half = max(1, width // 2), max(1, height // 2)
            self._levels.append(cv2.resize(self._levels[-1], half, interpolation=cv2.INTER_AREA))
        return self._levels[index]


def visible(
    layer: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"], viewport: Viewport
) -> UInt8[np.ndarray, "vh vw"]:
    """The visible part of a mask or matte of photo size, 0 to 255, in canvas pixels."""
    if layer.dtype == np.bool_:
        layer = layer.view(np.uint8) * np.uint8(255)
    return Photo(layer).crop(viewport)


def encode_photo(image: UInt8[np.ndarray, "h w 3"], *, preview: bool = False, quality: int = 80) -> bytes:
    """PNG (exact), or JPEG (a quarter of the bytes or less) for the moment in which a view is being moved."""
    bgr = image[:, :, ::-1]
    if preview:
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def encode_overlay(
    masks: Sequence[tuple[int, Bool[np.ndarray, "h w"]]],
    active: int | None,
    opacity: float,
    outlines: Sequence[tuple[str, Bool[np.ndarray, "h w"]]] = (),
    ratio: float = 1.0,
) -> tuple[bytes, int, int] | None:
    """Masks of a view as a small PNG with few colours: 1 to 10 kB instead of megabytes.

    Args:
        masks: object number and mask in canvas pixels, from back to front; equal shapes.
        active: number of the object that gets an outline, or None.
        opacity: of the fill, 0 to 1.
        outlines: ``#RRGGBB`` and mask of what is only outlined, in front of everything.
        ratio: canvas pixels for one page pixel, which makes the outlines as wide on every screen.

    Returns:
        PNG file, and the x and y at which it belongs; None when nothing is to be seen.
    """
    masks = [(number, mask) for number, mask in masks if mask.any()]
    outlines = [(colour, mask) for colour, mask in outlines if mask.any()]
    if not masks and not outlines:
        return None
    from PIL import Image

    colours = len(PALETTE)
    index = np.zeros((masks or outlines)[0][1].shape, np.uint8)
    for number, mask in masks:
        index[mask] = 1 + number % colours
    for number, mask in masks:
        if number == active:
            inside, outside = _outline(mask, ratio)
            index[outside] = 1 + 2 * colours
            index[inside] = 1 + colours + number % colours
    for entry, (_, mask) in enumerate(outlines, start=2 + 2 * colours):
        index[_outline(mask, ratio)[0]] = entry
    drawn = index > 0
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    part = np.ascontiguousarray(index[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    picture = Image.fromarray(part).convert("P")
    entries = [(0, 0, 0), *map(rgb, PALETTE), *map(rgb, PALETTE), (255, 255, 255)]
    entries += [rgb(colour) for colour, _ in outlines]
    picture.putpalette([value for entry in entries for value in entry])
    fill = round(255 * opacity)
    file = io.BytesIO()
    alpha = bytes([0, *[fill] * colours, *[255] * colours, 230, *[255] * len(outlines)])
    picture.save(file, "PNG", compress_level=3, transparency=alpha)
    return file.getvalue(), int(columns[0]), int(rows[0])


def _outline(mask: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Two page pixels inside the mask's edge, and one outside; what the canvas cuts off is no edge."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    solid = mask.astype(np.uint8)
    eroded = cv2.erode(solid, cross, iterations=round(2 * ratio), borderType=cv2.BORDER_REPLICATE)
    return mask & (eroded == 0), (cv2.dilate(solid, cross, iterations=round(ratio)) > 0) & ~mask


def draw_marker(layer: Any, x: float, y: float, label: int) -> None:
    """A disc on a layer: blue with a plus includes, vermilion with a minus excludes."""
    x, y = x + 0.5, y + 0.5  # the browser measures from the corner of a pixel
    layer.fill_style = "white"
    layer.fill_circle(x, y, MARKER_RADIUS + 1.5)
    layer.fill_style = INCLUDE_COLOUR if label else EXCLUDE_COLOUR
    layer.fill_circle(x, y, MARKER_RADIUS)
    layer.stroke_style = "white"
    layer.line_width = 2
    arm = MARKER_RADIUS - 3.5
    layer.stroke_line(x - arm, y, x + arm, y)
    if label:
        layer.stroke_line(x, y - arm, x, y + arm)


def draw_box(layer: Any, box: tuple[float, float, float, float], *, dashed: bool) -> None:
    """A box ``(x0, y0, x1, y1)`` in page pixels; white on dark, to be seen on any photo."""
    x0, y0, x1, y1 = box
    sides = (min(x0, x1) + 0.5, min(y0, y1) + 0.5, abs(x1 - x0), abs(y1 - y0))
    for colour, width in (("rgba(0, 0, 0, 0.65)", 4), ("white", 2)):
        layer.stroke_style = colour
        layer.line_width = width
        layer.set_line_dash([7, 5] if dashed and colour == "white" else [])
        layer.stroke_rect(*sides)
    layer.set_line_dash([])


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
            red, green, blue, opacity = (*ImageColor.getrgb(style), 255)[:4]
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
    twin.surface = screen = StillScreen(stage.screen.size, stage.screen.layers)
    twin.paint_photo(preview=False)
    twin.paint_masks()
    twin.paint_marks()
    return screen.picture()


def still_output(picture: UInt8[np.ndarray, "h w 3"], alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A picture as an entry of a notebook's output: its data and metadata by MIME type."""
    file = encode_photo(picture, preview=True, quality=QUALITY)
    return {"image/jpeg": base64.b64encode(file).decode()}, {"image/jpeg": {"alt": alt, "width": picture.shape[1]}}
