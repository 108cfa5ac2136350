"""``nbhelpers multiview``: photos of a scene and a phrase or clicks, to masks in every view."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbhelpers.core.prompts import parse_point
from nbhelpers.options import DetectorName, Device, Models


def multiview(
    images: Annotated[str, typer.Option(help="a folder of photos of one scene, a quoted glob, or a video")],
    output: Annotated[Path, typer.Option(help="folder for masks, overlays, point clouds and tables")],
    phrase: Annotated[str | None, typer.Option(help='such as "red chair behind the desk"')] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="x,y in the reference view, or VIEW:x,y; x,y,0 excludes; repeat")
    ] = None,
    reference_view: Annotated[int | None, typer.Option(help="the view that defines left and right, from 0")] = None,
    cameras: Annotated[
        Path | None, typer.Option(help="known cameras: a COLMAP model, transforms.json or a Bundler file")
    ] = None,
    detector: DetectorName = None,
    models: Models = None,
    device: Device = None,
) -> None:
    """Segment one object in all photos of a scene, from a phrase or from clicks; an interrupted run resumes."""
    from tqdm.auto import tqdm

    from nbhelpers.models.load import load
    from nbhelpers.multiview.pipeline import MultiviewSegmenter, segment_scene

    clicks: dict[int, list[tuple[float, ...]]] = {}
    for text in point or ():
        view, *click = parse_point(text, "VIEW")
        clicks.setdefault((reference_view or 0) if view is None else view, []).append(tuple(click))
    found = load("detector", detector, device) if detector else None
    segmenter = MultiviewSegmenter(detector=found, models=models, device=device)
    with tqdm(desc="multiview", bar_format="{desc}: {n}/{total} {postfix}", leave=False) as bar:

        def progress(done: int, total: int, what: str) -> None:
            bar.total, bar.n = total, done
            bar.set_postfix_str(what)

        summary = segment_scene(
            images, output, phrase, click=clicks, cameras=cameras, reference_view=reference_view, segmenter=segmenter,
            progress=progress,
        )  # fmt: skip
    if "phrase" in summary:
        typer.echo(summary["phrase"]["understood"])
        typer.echo(summary["phrase"]["why"])
    for view in summary["views"]:
        similarity = "" if view["similarity"] is None else f"similarity {view['similarity']:.2f}, "
        found = "" if view["found"] else "not found, "
        typer.echo(f"{view['photo']}: {found}{similarity}consistency {view['consistency']:.2f}; {view['why']}")
    for note in summary["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"{summary['object']}: consistency {summary['consistency']:.2f}; {summary['why']}; all in {output}")
