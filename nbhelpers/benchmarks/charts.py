"""Drawings of benchmark results: bars of scores, and lines over clicks, frames or prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.plots import colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches


def draw_scores(scores: Mapping[str, float], title: str = "", published: Mapping[str, float] | None = None) -> Figure:
    """Bars of scores in percent, from top to bottom; published numbers in grey below them.

    Example:
        >>> show_figure(draw_scores({"VOC20": 0.72, "VOC21": 0.28}, "one model, two protocols"))

    Args:
        scores: 0 to 1, by label.
        title: of the figure.
        published: 0 to 1, by label.

    Raises:
        NbHelpersError: no scores.
    """
    every = {**scores, **(published or {})}
    if not every:
        raise NbHelpersError("there is no score to draw")
    figure, axes = _axes(0.6 + 0.4 * len(every), title)
    labels, values = list(every), [100 * value for value in every.values()]
    colours = [colour_of(0) if label in scores else "#b0b0b0" for label in labels]
    axes.barh(range(len(labels)), values, color=colours)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    for row, value in enumerate(values):
        axes.text(min(value + 1, 92), row, f"{value:.1f}", va="center")
    axes.set_xlabel("percent")
    return figure


def draw_lines(
    lines: Mapping[str, Sequence[float]], across: str, up: str, title: str = "", first: int = 0, highest: float = 1.0
) -> Figure:
    """Lines over equally spaced steps, such as J and F by frame, or the IoU by click.

    Example:
        >>> show_figure(draw_lines({"J": j, "F": f}, "frame", "J, F"))

    Args:
        lines: values by label.
        across: label of the horizontal axis.
        up: label of the vertical axis.
        title: of the figure.
        first: number of the first step.
        highest: end of the vertical axis, which begins at 0.

    Raises:
        NbHelpersError: no lines.
    """
    if not lines:
        raise NbHelpersError("there is no line to draw")
    figure, axes = _axes(3.4, title)
    for number, (label, values) in enumerate(lines.items()):
        axes.plot(range(first, first + len(values)), values, marker="o", ms=4, label=label, color=colour_of(number))
    axes.set_ylim(0, 1.04 * highest)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return figure


def _axes(height: float, title: str) -> tuple[Figure, Axes]:
    """A figure made without pyplot, which would show it a second time at the end of the cell."""
    needs("widgets", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
