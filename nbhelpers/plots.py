"""Figures of photos with masks, points and boxes, in a palette that is safe for colour-blind readers."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, rgb_to_lab
from nbhelpers.core.lazy import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nbhelpers.models.values import Prediction

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Colours of objects 0, 1, ...: the palette of Okabe and Ito without black (https://jfly.uni-koeln.de/color/)."""

INCLUDE_COLOUR, EXCLUDE_COLOUR = "#0072B2", "#D55E00"
LONGEST = 1600  # pixels of a photo's longer side in a figure
THUMBNAIL = 256  # pixels of the longer side at which covered colours are compared
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
DPI = 100
JPEG = {"quality": 88, "subsampling": 0, "optimize": True}  # no chroma subsampling: contours are one pixel thin


def rgb(colour: str) -> tuple[int, int, int]:
    """``"#E69F00"`` as ``(230, 159, 0)``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def colour_of(number: int) -> str:
    """Colour of object ``number``, from 0; repeats after seven objects."""
    return PALETTE[number % len(PALETTE)]


def contrasting_colours(image: UInt8[np.ndarray, "h w 3"], masks: Any) -> tuple[str, ...]:
    """A colour of `PALETTE` for each mask in turn; see `contrasting_colour`.

    Args:
        image: RGB.
        masks: as for `overlay`.
    """
    small, chosen = fit(image, THUMBNAIL), []
    for mask in _listed(masks).values():
        part = cv2.resize(mask.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0
        chosen.append(contrasting_colour(small, part, chosen))
    return tuple(chosen)


def contrasting_colour(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], used: Sequence[str] = ()
) -> str:
    """The colour of `PALETTE`, not yet in use, that differs most from the pixels under a mask and from those in use.

    That is the one with the largest CIELAB distance to the median pixel of the mask and to the colours in use; after
    seven masks all colours are available again.

    Args:
        image: RGB.
        mask: of an object; an empty one has no pixels to differ from.
        used: colours of the masks so far, in their order.
    """
    used = used[len(used) // len(PALETTE) * len(PALETTE) :]
    free = [colour for colour in PALETTE if colour not in used] or list(PALETTE)
    lab: dict[str, np.ndarray] = dict(zip(PALETTE, rgb_to_lab(np.array([*map(rgb, PALETTE)], np.uint8)), strict=True))
    avoided = [lab[colour] for colour in used]
    if mask.any():
        avoided.append(np.median(rgb_to_lab(image[mask]), axis=0))
    return max(free, key=lambda colour: min((np.linalg.norm(lab[colour] - each) for each in avoided), default=0.0))


def overlay(
    image: UInt8[np.ndarray, "h w 3"], masks: Any, alpha: float = 0.5, *, colours: Sequence[str] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Overlay masks on a photo, each in its own colour with a two-tone contour.

    Example:
        >>> overlay(image, {"cat": cat_mask, "dog": dog_mask}).shape
        (480, 640, 3)

    Args:
        image: RGB.
        masks: one ``(H, W) bool``, a sequence of them (also ``(k, H, W)``), or a mapping from names. Later masks
            are drawn over earlier ones.
        alpha: opacity of the fill, 0 to 1.
        colours: one per mask, as ``"#E69F00"``; by default by number, so that all frames of a clip agree.

    Raises:
        NbHelpersError: a mask of another size than the image.
    """
    out = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 500))
    listed = _listed(masks)
    for mask in listed.values():
        if mask.shape != image.shape[:2]:
            raise NbHelpersError(
                "the mask and the image differ in size", given=mask.shape, expected=str(image.shape[:2])
            )
    for mask, name in zip(listed.values(), colours or [colour_of(k) for k in range(len(listed))], strict=True):
        colour = rgb(name)
        out[mask] = (out[mask] * (1 - alpha) + np.array(colour, np.float32) * alpha + 0.5).astype(np.uint8)
        edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rim = (255, 255, 255) if np.dot(colour, LUMA) < 128 else (0, 0, 0)
        cv2.drawContours(out, edges, -1, rim, 2 * thickness + 1)
        cv2.drawContours(out, edges, -1, colour, thickness)
    return out


def draw(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    masks: Any = None,
    points: Any = (),
    labels: Any = None,
    box: Sequence[float] | None = None,
    title: str | None = None,
    alpha: float = 0.5,
    width: float = 8.0,
) -> Figure:
    """A figure of a photo with prompts and masks.

    Args:
        image: ``(H, W, 3) uint8`` RGB; shown with at most 1600 pixels per side.
        masks: see `overlay`; the names of a mapping appear in a legend.
        points: ``(n, 2)``, ``(x, y)`` in pixels of the image.
        labels: ``(n,)``, 1 includes and 0 excludes; all 1 by default.
        box: ``(x0, y0, x1, y1)`` in pixels of the image.
        title: a line above the photo.
        alpha: opacity of the masks, 0 to 1.
        width: of the figure in inches (100 dpi); reduced for tall photos, so that the height does not exceed it.

    Raises:
        NbHelpersError: masks of another size, points and labels that differ in number.
    """
    figure, ((axes,),) = _figure(image, 1, 1, width)
    named = masks if isinstance(masks, Mapping) else {}
    colours = _photo(axes, image, masks, points, labels, box, title, alpha)
    if named:
        from matplotlib.patches import Patch

        patches = [Patch(color=colour, label=str(name)) for name, colour in zip(named, colours, strict=True)]
        axes.legend(handles=patches, loc="lower right", fontsize=9, framealpha=0.85, edgecolor="none")
    return figure


def draw_candidates(
    image: UInt8[np.ndarray, "h w 3"],
    prediction: Prediction,
    *,
    point: Any = None,
    points: Any = (),
    labels: Any = None,
    box: Sequence[float] | None = None,
    width: float = 12.0,
) -> Figure:
    """A figure of the candidate masks side by side, each with its predicted IoU.

    A star marks the candidate that the model selects.

    Args:
        image: ``(H, W, 3) uint8`` RGB.
        prediction: for one prompt.
        point: ``(x, y)``, short for a single including point.
        points: ``(n, 2)``; see `draw`.
        labels: see `draw`.
        box: see `draw`.
        width: of the figure in inches.
    """
    points = [point] if point is not None else points
    figure, (row,) = _figure(image, 1, len(prediction), width)
    for index, axes in enumerate(row):
        star = " \N{BLACK STAR}" if index == prediction.choice else ""
        title = f"Mask {index + 1}: IoU {prediction.scores[index]:.2f}{star}"
        _photo(axes, image, prediction.mask(index), points, labels, box, title, 0.5, small=True)
    return figure


def draw_grid(
    images: Sequence[UInt8[np.ndarray, "*_"]],
    titles: Sequence[str] = (),
    *,
    columns: int = 3,
    width: float = 12.0,
) -> Figure:
    """A figure of several images in rows: ``(H, W, 3) uint8`` RGB, or ``(H, W) uint8`` greyscale."""
    if not len(images):
        raise NbHelpersError("there is no image to show")
    columns = min(columns, len(images))
    figure, rows = _figure(images[0], -(-len(images) // columns), columns, width)
    for index, axes in enumerate(axes for row in rows for axes in row):
        if index < len(images):
            _photo(axes, images[index], None, (), None, None, titles[index] if index < len(titles) else None, 0, True)
        else:
            axes.axis("off")
    return figure


def show(image: UInt8[np.ndarray, "h w 3"], *, alt: str | None = None, **options: Any) -> None:
    """Display the figure of `draw` in the notebook; ``alt`` describes it to a screen reader (default: the title)."""
    show_figure(draw(image, **options), alt or options.get("title"))


def show_candidates(
    image: UInt8[np.ndarray, "h w 3"], prediction: Prediction, *, alt: str | None = None, **options: Any
) -> None:
    """Display the figure of `draw_candidates` in the notebook; ``alt`` describes it to a screen reader."""
    show_figure(draw_candidates(image, prediction, **options), alt or f"{len(prediction)} candidate masks")


def show_grid(
    images: Sequence[UInt8[np.ndarray, "*_"]], titles: Sequence[str] = (), *, alt: str | None = None, **options: Any
) -> None:
    """Display the figure of `draw_grid` in the notebook; ``alt`` describes it (default: the titles)."""
    show_figure(draw_grid(images, titles, **options), alt or ", ".join(titles) or None)


def _listed(masks: Any) -> dict[Any, np.ndarray]:
    if masks is None:
        return {}
    if isinstance(masks, Mapping):
        return {name: np.asarray(mask, bool) for name, mask in masks.items()}
    if isinstance(masks, np.ndarray) and masks.ndim == 2:
        return {0: masks.astype(bool, copy=False)}
    return {number: np.asarray(mask, bool) for number, mask in enumerate(masks)}


def _figure(image: np.ndarray, rows: int, columns: int, width: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure created without pyplot, which would display it again at the end of the cell."""
    needs("widgets", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    tall = image.shape[0] / image.shape[1]
    if rows * columns == 1:
        width = min(width, width / tall)
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
    figure = Figure(figsize=(width, rows * (width / columns * tall + 0.3)), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def _photo(axes: Axes, image, masks, points, labels, box, title, alpha, small=False) -> tuple[str, ...]:
    """Fill one pair of axes; return the colours of the masks."""
    height, width = image.shape[:2]
    shown, colours = fit(image, LONGEST), ()
    if masks is not None:
        enlarged = 1 if small else max(1, LONGEST // max(height, width))  # contours as fine as the figure's pixels
        size = enlarged * shown.shape[1], enlarged * shown.shape[0]
        shown = cv2.resize(shown, size, interpolation=cv2.INTER_CUBIC)
        sized = []
        for mask in _listed(masks).values():
            if mask.shape != (height, width):
                raise NbHelpersError(
                    "the mask and the image differ in size", given=mask.shape, expected=str((height, width))
                )
            sized.append(cv2.resize(255 * mask.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR) > 127)
        colours = contrasting_colours(shown, sized)
        shown = overlay(shown, sized, alpha, colours=colours)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if shown.ndim == 2 else {}
    axes.imshow(shown, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="antialiased", **grey)
    axes.axis("off")
    if title:
        axes.set_title(title, fontsize=9 if small else 11, loc="left")
    if box is not None:
        from matplotlib.patches import Rectangle

        x0, y0, x1, y1 = box
        for colour, line in (("black", 3.0), ("white", 1.5)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=line))
    points = np.asarray(points, float).reshape(-1, 2)
    labels = np.ones(len(points), int) if labels is None else np.asarray(labels).reshape(-1)
    if len(labels) != len(points):
        raise NbHelpersError("points and labels differ in number", given=f"{len(points)} and {len(labels)}")
    side = 7 if small else 10
    for (x, y), label in zip(points, labels, strict=True):
        colour = INCLUDE_COLOUR if label else EXCLUDE_COLOUR
        axes.plot(x, y, "o", markersize=side, color=colour, markeredgecolor="white", markeredgewidth=1.2)
        axes.plot(x, y, "+" if label else "_", markersize=side - 3, color="white", markeredgewidth=1.3)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    return colours


def show_figure(figure: Figure, alt: str | None = None) -> None:
    """Display a figure in the notebook as a JPEG; ``alt`` describes it to a screen reader."""
    needs("widgets", "IPython")
    from IPython.display import display

    file = io.BytesIO()
    figure.savefig(
        file, format="jpeg", dpi=2 * DPI, pil_kwargs=JPEG
    )  # as PNG a photo's figure takes ten times the bytes
    width, height = figure.get_size_inches() * DPI
    about = {"width": round(width), "height": round(height), **({"alt": alt} if alt else {})}
    data = {"image/jpeg": b64encode(file.getvalue()).decode(), "text/plain": alt or "figure"}
    display(data, metadata={"image/jpeg": about}, raw=True)  # IPython.display.Image has no alt on Colab
