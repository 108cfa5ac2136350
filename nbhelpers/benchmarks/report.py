"""Runs and published numbers side by side, in which points of the protocol they differ, and charts of scores."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.benchmarks.protocols import PublishedNumber, published_numbers
from nbhelpers.benchmarks.runner import main_score, read_results
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
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
    axes.locator_params("x", integer=True)
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


LONGEST = 60  # characters of a value in a table
# Points that every run has and no paper states, or that follow from others.
NOT_COMPARED = {
    "protocol",
    "dataset",
    "at_image_size",
    "long_side",
    "of",
    "budgets",
    "metric",
    "bank",
    "support",
    "own",
}
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0;width:100%}td,th{border-bottom:1px solid #ddd;padding:.35rem .6rem;"
    "text-align:left;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".p td{color:#666}h2{margin-top:2.5rem}small{color:#666}.failed{color:#a00}"
)


@dataclass(frozen=True)
class ReportRow:
    """A line of the table: a run, or a published number.

    Attributes:
        name: folder of the run, or the method and its source.
        score: in percent, or clicks.
        samples: items that were measured.
        facts: of its protocol.
        published: whether it is a published number.
        differs: ``(point, here, in the first run)`` for each point of the protocol that differs.
    """

    name: str
    score: float | None
    samples: int | None
    facts: Mapping[str, Any]
    published: bool
    differs: tuple[tuple[str, Any, Any], ...] = ()


def protocol_differences(facts: Mapping[str, Any], others: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The points that both protocols state and in which they differ: ``(point, first, second)``.

    Example:
        >>> protocol_differences({"scale": 65, "crop": 224}, {"scale": 40, "crop": 224, "photos": 1449})
        [('scale', 65, 40)]
    """
    both = [key for key in facts if key in others and key not in NOT_COMPARED]
    return [(key, facts[key], others[key]) for key in both if facts[key] != others[key]]


def report_rows(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[ReportRow]]:
    """Rows by dataset and measure: the runs, then the published numbers, each compared with the first run.

    Args:
        runs: what `read_results` gives, by name.
    """
    groups: dict[str, list[ReportRow]] = {}
    for name, results in runs.items():
        title = f"{results['dataset']}, {results['measure']}"
        score = main_score(results["scores"])
        facts = results["protocol"] | {"photos": results["protocol"]["samples"]}
        rows = groups.setdefault(title, [])
        differs = protocol_differences(facts, rows[0].facts) if rows else []
        shown = score if results["measure"].startswith("NoC") else _percent(score)
        rows.append(ReportRow(name, shown, results["protocol"]["samples"], facts, False, tuple(differs)))
    for title, rows in groups.items():
        dataset, _, measure = title.partition(", ")
        for number in published_numbers(dataset):
            if number.measure == measure:
                rows.append(_published(number, rows[0]))
    return groups


def _published(number: PublishedNumber, first: ReportRow) -> ReportRow:
    differs = protocol_differences(number.facts, first.facts)
    name = f"{number.method} ({number.source})"
    return ReportRow(name, number.score, number.facts.get("photos"), number.facts, True, tuple(differs))


def _percent(score: float | None) -> float | None:
    return None if score is None else round(100 * score, 2)


def markdown_table(groups: Mapping[str, Sequence[ReportRow]]) -> str:
    """The rows as tables in Markdown."""
    lines = []
    for title, rows in groups.items():
        lines += [f"## {title}", "", f"| | score | items | differs from {rows[0].name} in |", "|---|---|---|---|"]
        for row in rows:
            score = "–" if row.score is None else f"{row.score:g}"
            lines.append(f"| {row.name} | {score} | {row.samples or ''} | {_differences(row) or '–'} |")
        lines.append("")
    return "\n".join(lines)


def _differences(row: ReportRow) -> str:
    return "; ".join(f"{point}: {_value(here, there)}, not {_value(there, here)}" for point, here, there in row.differs)


def _value(value: Any, other: Any) -> str:
    """A value of the protocol; of lists of names only those that differ."""
    if isinstance(value, list) and isinstance(other, list) and len(value) == len(other) > 8:
        own = [each for each, rival in zip(value, other, strict=True) if each != rival]
        return _cut(f"{len(own)} of {len(value)}: {'; '.join(map(str, own))}")
    return _cut("; ".join(map(str, value)) if isinstance(value, list) else str(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} ..."


def write_report(folders: Sequence[str | Path], output: str | Path) -> str:
    """A page, and beside it the table in Markdown, of some runs; returns the table.

    Example:
        >>> write_report(["outputs/voc-plain", "outputs/voc-sclip"], "outputs/report.html")

    Args:
        folders: output folders of `run_benchmark`.
        output: the page, ``.html``.

    Raises:
        NbHelpersError: no folders, one without results, or the page cannot be written.
    """
    if not folders:
        raise NbHelpersError("there is nothing to report", expected="output folders of benchmarks")
    runs = {str(Path(folder)): read_results(folder) for folder in folders}
    groups = report_rows(runs)
    table, output = markdown_table(groups), Path(output).expanduser()
    write_text(output.with_suffix(".md"), table)
    write_text(output, _page(runs, groups))
    return table


def _page(runs: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[ReportRow]]) -> str:
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Benchmarks</title>", f"<style>{STYLE}</style>"]
    parts.append("<h1>Benchmarks</h1><p>Each score with the points of its protocol that differ from the first run.")
    for title, rows in groups.items():
        parts.append(f"<h2>{_safe(title)}</h2><table><tr><th>run<th>score<th>items<th>differs in")
        for row in rows:
            score = "–" if row.score is None else f"{row.score:g}"
            parts.append(
                f"<tr class={'p' if row.published else 'r'}><td>{_safe(row.name)}<td class=n>{score}"
                f"<td class=n>{row.samples or ''}<td>{_safe(_differences(row) or '–')}"
            )
        parts.append("</table>")
    parts += [_run_section(name, results) for name, results in runs.items()]
    return "\n".join(parts) + "\n"


def _run_section(name: str, results: Mapping[str, Any]) -> str:
    scores, cost = results["scores"], results["cost"]
    lines = [f"<h2>{_safe(name)}</h2><p><small>{_safe(results['machine'])}</small>"]
    plain = {key: value for key, value in scores.items() if isinstance(value, (int, float))}
    lines.append(_pairs({**plain, **{f"cost: {key}": value for key, value in cost.items() if key != "blind_grid"}}))
    if grid := cost.get("blind_grid"):
        lines.append(
            f"<p>{cost['prompts']:g} prompts an item; a blind grid has {grid['prompts']}, "
            f"{grid['fewer_prompts']} times as many, and takes about {grid['decoder']} s in the decoder."
        )
    if points := scores.get("curve"):
        lines.append(_curve(points))
    if classes := scores.get("classes"):
        rows = "".join(f"<tr><td>{_safe(title)}<td class=n>{each['iou']:.1%}" for title, each in classes.items())
        lines.append(f"<details><summary>classes</summary><table><tr><th>class<th>IoU{rows}</table></details>")
    if failed := results["failed"]:
        listed = "".join(f"<li>{_safe(item)}: {_safe(error)}" for item, error in failed.items())
        lines.append(f"<p class=failed>{len(failed)} items could not be measured:<ul>{listed}</ul>")
    lines.append(
        f"<details><summary>protocol and versions</summary>{_pairs(results['protocol'] | results['versions'])}"
    )
    return "\n".join([*lines, "</details>"])


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_safe(key)}<td>{_safe('; '.join(map(str, value)) if isinstance(value, list) else value)}"
        for key, value in values.items()
    )
    return f"<table>{rows}</table>"


def _curve(points: Sequence[Mapping[str, Any]]) -> str:
    """Quality over prompts as a small drawing."""
    wide, high, top = 420, 160, max(point["prompts"] for point in points) or 1
    at = [(40 + 360 * point["prompts"] / top, 140 - 120 * (point["miou"] or 0)) for point in points]
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in at)
    dots = "".join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3"><title>{p["prompts"]:g} prompts: {p["miou"]:.1%}</title></circle>'
        for (x, y), p in zip(at, points, strict=True)
    )
    return (
        f'<svg width="{wide}" height="{high}" role="img" aria-label="mIoU over prompts" fill="none" stroke="#357">'
        f'<polyline points="{line}"/>{dots}<text x="40" y="156" stroke="none" fill="#666" font-size="11">0 to {top:g} '
        f"prompts an item; mIoU 0 to 100 %</text></svg>"
    )


def _safe(text: Any) -> str:
    return html.escape(str(text))
