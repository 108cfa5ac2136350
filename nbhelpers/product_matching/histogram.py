"""The score histogram of a session as SVG: what matched, what was dropped, and where the threshold lies."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nbhelpers.product_matching.results import MatchedPhoto

if TYPE_CHECKING:
    from nbhelpers.product_matching.session import ProductSession

KINDS = (  # name, colour, whether a thing counts
    ("matches", "#009E73", lambda found: found.kept),
    ("rejected", "#D55E00", lambda found: found.verdict == "closer to a reject"),
    ("other things", "#8C8C8C", lambda found: found.verdict == "below threshold"),
)
EXPECTED = "expected of a match", "#0072B2"
BINS = 40
WIDTH, HEIGHT, LEFT, FOOT, TOP = 640, 190, 34, 34, 24


def scores_by_kind(results: Sequence[MatchedPhoto]) -> dict[str, np.ndarray]:
    """The scores of all things that were considered, by what became of them; second readings of a match left out."""
    every = [found for result in results for found in result.found]
    return {name: np.array([found.score for found in every if belongs(found)]) for name, _, belongs in KINDS}


def histogram_svg(session: ProductSession) -> str:
    """A picture of `scores_by_kind` as SVG text, readable on light and dark ground (it takes the text's colour).

    The threshold is a dashed line. Small strokes below the axis are what matches were expected to score, see
    `nbhelpers.product_matching.calibrate`.
    """
    scores, threshold = scores_by_kind(session.results), session.threshold
    expected = session.calibration.expected if session.calibration is not None else ()
    every = np.concatenate([*scores.values(), [threshold], expected])
    low, high = min(0.0, float(every.min())), max(1.0, float(every.max()))
    counts = {name: np.histogram(values, BINS, (low, high))[0] for name, values in scores.items()}
    tallest = max(1, int(sum(counts.values()).max()))
    across, up = (WIDTH - LEFT - 8) / BINS, (HEIGHT - FOOT - TOP) / tallest
    parts = []
    for index in range(BINS):
        y = float(HEIGHT - FOOT)
        for name, colour, _ in KINDS:
            if count := int(counts[name][index]):
                y -= count * up
                x = LEFT + index * across
                parts.append(
                    f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{across - 1:.1f}" height="{count * up:.1f}" '
                    f'fill="{colour}"><title>{count} {name}</title></rect>'
                )
    line = LEFT + (threshold - low) / (high - low) * BINS * across
    anchor = "end" if line > WIDTH * 0.6 else "start"
    label = html.escape(f"threshold {threshold:.2f} ({session.threshold_from})")
    parts.append(f'<path d="M{line:.1f} {TOP - 18}V{HEIGHT - FOOT}" stroke="currentColor" stroke-dasharray="4 3"/>')
    parts.append(_text(line + (-5 if anchor == "end" else 5), TOP - 8, label, anchor))
    for step in np.linspace(low, high, 6):
        parts.append(
            _text(LEFT + (step - low) / (high - low) * BINS * across, HEIGHT - FOOT + 15, f"{step:.1f}", "middle")
        )
    for score in expected:
        x = LEFT + (score - low) / (high - low) * BINS * across
        parts.append(f'<path d="M{x:.1f} {HEIGHT - FOOT + 1}v5" stroke="{EXPECTED[1]}" stroke-width="1.5"/>')
    parts.append(_text(LEFT - 6, TOP + 4, str(tallest), "end"))
    parts.append(_text(LEFT - 6, HEIGHT - FOOT, "0", "end"))
    parts.append(f'<path d="M{LEFT} {HEIGHT - FOOT}H{WIDTH - 8}" stroke="currentColor" stroke-opacity="0.5"/>')
    x = float(LEFT)
    counted = [(name, colour, len(scores[name])) for name, colour, _ in KINDS]
    for name, colour, count in [*counted, (*EXPECTED, len(expected))]:
        text = f"{name} {count}"
        parts.append(f'<rect x="{x:.0f}" y="{HEIGHT - 12}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, HEIGHT - 3, text, "start"))
        x += 30 + 7 * len(text)
    told = "; ".join(f"{len(scores[name])} {name}" for name, _, _ in KINDS)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" style="max-width:{WIDTH}px" role="img" fill="none" '
        f'font-family="sans-serif" font-size="12"><title>{told}; {label}</title>{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">{text}</text>'
