"""What a comparison leaves in a folder: masks, videos, curves, figures, a page."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.files import check_writable, file_stem, write_text
from nbhelpers.core.images import save_image
from nbhelpers.core.mattes import Mattes
from nbhelpers.export.masks import save_mask
from nbhelpers.export.video import Video, overlay_frame, write_video
from nbhelpers.geometry_fusion.comparison import MEASURES, Comparison, frame_ious
from nbhelpers.models.protocols import FrameSequence

COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b")
WIDTH, HEIGHT, MARGIN = 760, 240, 34
COLUMNS = ("iou", "recall", "accuracy", "success", "j_and_f", "returned")


class SideBySide:
    """The overlays of all arms next to each other, as a clip of its own."""

    def __init__(self, frames: FrameSequence, comparison: Comparison):
        self.frames, self.comparison = frames, comparison
        self.size = (frames.size[0], frames.size[1] * len(comparison.arms))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return np.hstack(
            [arm_overlay(self.frames, self.comparison, arm, index) for arm in range(len(self.comparison.arms))]
        )


def arm_overlay(frames: FrameSequence, comparison: Comparison, arm: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
    """A frame with an arm's mask tinted; green is the true outline where it is known."""
    import cv2

    mask = comparison.arms[arm].mask(index)
    picture = overlay_frame(frames[index], {"object": np.where(mask, 255, 0).astype(np.uint8)})
    if comparison.truth is not None and index in comparison.truth.masks:
        lines, _ = cv2.findContours(
            comparison.truth.masks[index].astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE
        )
        cv2.drawContours(picture, lines, -1, (60, 220, 90), max(1, round(max(picture.shape) / 500)), cv2.LINE_AA)
    return picture


def write_comparison(comparison: Comparison, frames: FrameSequence, folder: str | Path, *, videos: bool = True) -> Path:
    """Write all that a comparison found; return the folder.

    ``pred_masks_<arm>/0000.png``, ``<arm>.mp4``, ``side_by_side.mp4``, ``curves.svg``, ``comparison.json`` and
    ``comparison.html``.

    Args:
        comparison: of `nbhelpers.geometry_fusion.comparison.compare_arms`.
        frames: the clip.
        folder: made if it is missing.
        videos: whether MP4s are encoded.

    Raises:
        NbHelpersError: the folder cannot be written; no video encoder.
    """
    folder = Path(folder).expanduser()
    check_writable(folder)
    for arm in comparison.arms:
        stem = file_stem(arm.name)
        for number in range(len(frames)):
            save_mask(folder / f"pred_masks_{stem}" / f"{number:04d}.png", arm.mask(number))
        if videos:
            write_video(Video(folder / f"{stem}.mp4", "overlay"), Mattes(frames, arm.mask), replace=True)
    if videos:
        joined = SideBySide(frames, comparison)
        write_video(Video(folder / "side_by_side.mp4", "overlay"), Mattes(joined, lambda index: {}), replace=True)
    shown = telling_frames(comparison)[0]
    picture = np.hstack([arm_overlay(frames, comparison, arm, shown) for arm in range(len(comparison.arms))])
    save_image(folder / "frame.png", picture)
    summary = comparison.summary()
    write_text(folder / "curves.svg", curves(comparison))
    write_text(folder / "comparison.json", json.dumps(summary, indent=1))
    write_text(folder / "comparison.html", _page(comparison, summary, shown, videos))
    return folder


def telling_frames(comparison: Comparison, count: int = 1) -> list[int]:
    """The frames on which the second arm differs most from the first, in order; the first ones without true masks."""
    if comparison.truth is None or len(comparison.arms) < 2:
        return list(range(min(count, len(comparison.arms[0].masks))))
    base, other = (frame_ious(comparison.truth, arm) for arm in comparison.arms[:2])
    return sorted(sorted(base, key=lambda frame: -abs(other[frame] - base[frame]))[:count])


def curves(comparison: Comparison) -> str:
    """IoU by frame of all arms, as SVG in the text colour; frames on which the object has returned are shaded."""
    count = len(comparison.arms[0].masks)
    step = (WIDTH - 2 * MARGIN) / max(1, count - 1)

    def place(frame: float, value: float) -> str:
        return f"{MARGIN + frame * step:.1f},{HEIGHT - MARGIN - value * (HEIGHT - 2 * MARGIN):.1f}"

    parts, means = (
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" '
            f'style="max-width:{WIDTH}px" fill="currentColor" font-family="sans-serif" font-size="11">'
        ],
        [],
    )
    truth = comparison.truth
    for frame in truth.returns if truth is not None else ():
        x = MARGIN + (frame - 0.5) * step
        parts.append(
            f'<rect x="{x:.1f}" y="{MARGIN}" width="{step:.1f}" height="{HEIGHT - 2 * MARGIN}" fill="#ffe9a8"/>'
        )
    for value in (0, 0.5, 1):
        start, end = place(0, value), place(count - 1, value)
        parts.append(f'<polyline points="{start} {end}" stroke="#bbb" fill="none"/>')
        parts.append(f'<text x="4" y="{float(start.split(",")[1]) + 4:.1f}">{value:g}</text>')
    for number, arm in enumerate(comparison.arms):
        colour = COLOURS[number % len(COLOURS)]
        values = frame_ious(truth, arm) if truth is not None else dict(enumerate(arm.scores))
        means.append(f"{arm.name} {np.mean(list(values.values())):.2f}")
        line = " ".join(place(frame, value) for frame, value in values.items())
        parts.append(f'<polyline points="{line}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts.append(f'<text x="{MARGIN + 150 * number}" y="16" fill="{colour}">{html.escape(arm.name)}</text>')
    what = "frame (shaded: the object has returned)" if truth is not None else "frame; confidence, no true masks given"
    measure = "IoU" if truth is not None else "Confidence"
    parts.insert(1, f"<title>{measure} by frame; means: {html.escape(', '.join(means))}</title>")
    parts.append(f'<text x="{WIDTH // 2 - 90}" y="{HEIGHT - 8}">{what}</text></svg>')
    return "\n".join(parts)


def _page(comparison: Comparison, summary: dict, shown: int, videos: bool) -> str:
    """The page."""
    rows = []
    for name, entry in summary["arms"].items():
        cells = ["" if entry.get(key) is None else f"{entry[key]:.3f}" for key in COLUMNS]
        gain = entry.get("gain")
        told = f"{gain['iou']:+.3f} ({gain['interval'][0]:+.3f} to {gain['interval'][1]:+.3f})" if gain else ""
        cost = [f"{entry['seconds_a_frame']:.2f} s", f"{entry['peak_memory_gb']:.1f} GB"]
        cells = [html.escape(name), *cells, told, *cost, html.escape(entry["note"])]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ["arm", *COLUMNS, "gain in IoU (95 %)", "a frame", "memory", "note"]
    head = "".join(f"<th>{each}</th>" for each in heads)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in summary["notes"])
    defined = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in MEASURES.items())
    video = '<video src="side_by_side.mp4" controls loop muted width="100%"></video>' if videos else ""
    names = ", ".join(html.escape(arm.name) for arm in comparison.arms)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>With and without geometry</title>
<style>body{{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse}}td,th{{padding:.2em .6em;border-bottom:1px solid #ccc;text-align:left}}
img{{max-width:100%}}</style></head><body>
<h1>With and without geometry</h1>
<table><tr>{head}</tr>{"".join(rows)}</table>{notes}
{curves(comparison)}
<p>Frame {shown}, from left to right: {names}. Green: the true outline.</p>
<img src="frame.png" alt="The masks of all arms on one frame">{video}
<h2>Measures</h2><dl>{defined}</dl></body></html>
"""
