"""``nbhelpers rotoscoping``: write the frames of a clip, and replay a prompt log on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import parse_point
from nbhelpers.options import Device

app = typer.Typer(help="Track objects through a clip and export their mattes.", no_args_is_help=True)

Clip = Annotated[Path, typer.Argument(help="a folder of images, or a video")]
Every = Annotated[int, typer.Option(help="take every Nth frame")]
Start = Annotated[int, typer.Option(help="first frame, from 0")]
Stop = Annotated[int | None, typer.Option(help="the frame after the last; default: the end of the clip")]
OnBad = Annotated[str, typer.Option(help="error, skip or hold: how to handle frames that cannot be read")]
OnSize = Annotated[str, typer.Option(help="error, skip or resize: how to handle frames of another size")]


@app.command("extract")
def extract_command(
    clip: Clip,
    output: Annotated[Path, typer.Option(help="folder for the numbered frames")],
    every: Every = 1,
    start: Start = 0,
    stop: Stop = None,
    suffix: Annotated[str, typer.Option(help=".png, .tif (lossless), .jpg, .webp or .bmp")] = ".png",
    on_bad: OnBad = "error",
    on_size: OnSize = "error",
) -> None:
    """Write numbered frames; an interrupted run resumes."""
    from tqdm.auto import tqdm

    from nbhelpers.core.video.frames import extract_frames
    from nbhelpers.rotoscoping.project import open_clip

    frames = open_clip(clip, step=every, start=start, stop=stop, on_bad=on_bad, on_size=on_size)
    with tqdm(total=len(frames), unit="frame", desc=clip.name) as bar:
        files = extract_frames(frames, output, suffix=suffix, progress=lambda _: bar.update())
    for problem in frames.problems:
        typer.echo(f"note: {problem}")
    typer.echo(f"{len(files)} frames: {files[0]} to {files[-1].name}")


@app.command("run")
def run_command(
    clip: Clip,
    output: Annotated[Path, typer.Option(help="folder for the project and the exports")],
    prompts: Annotated[Path | None, typer.Option(help="a prompt log: prompts.json of a project")] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="or points on one object: FRAME:x,y; FRAME:x,y,0 excludes; repeat")
    ] = None,
    export: Annotated[str, typer.Option(help="postshot, colmap, nerfstudio, mattes, rgba, coco, overlay ...")] = "",
    every: Every = 1,
    start: Start = 0,
    stop: Stop = None,
    on_bad: OnBad = "error",
    on_size: OnSize = "error",
    quality: Annotated[
        str, typer.Option(help="full, or draft: every third frame is tracked, for a quick look")
    ] = "full",
    device: Device = None,
) -> None:
    """Track the objects of a prompt log, or one object, and export verified mattes; an interrupted run resumes."""
    from tqdm.auto import tqdm

    from nbhelpers.core.prompts import PromptLog
    from nbhelpers.export.masks import check_formats
    from nbhelpers.models.load import load
    from nbhelpers.rotoscoping.batch import log_of_points, replay_clip
    from nbhelpers.rotoscoping.export import FORMATS
    from nbhelpers.rotoscoping.project import open_clip

    formats = [kind.strip() for kind in export.split(",") if kind.strip()]
    check_formats(formats, FORMATS)
    if (prompts is None) == (not point):
        raise NbHelpersError("nothing to track", expected="either --prompts or --point FRAME:x,y")
    log = None if prompts is None else PromptLog.open(prompts)  # before the clip and the model, like the points
    clicks = [parse_point(text, "FRAME") for text in point or ()]
    frames = open_clip(clip, step=every, start=start, stop=stop, on_bad=on_bad, on_size=on_size)
    with tqdm(unit="frame", desc=clip.name) as bar:
        tracker = load("tracker", None if log is None else log.model, device)
        log = log or log_of_points(frames, tracker.name, clicks)
        outcome = replay_clip(
            frames, log, output, formats, tracker=tracker, quality=quality, on_frame=lambda _: bar.update()
        )
    for problem in frames.problems:
        typer.echo(f"note: {problem}")
    typer.echo(f"{outcome.frames} frames, {outcome.tracked} tracked now; tracker: {tracker.name} on {tracker.device}")
    for name, doubtful in outcome.doubtful.items():
        if doubtful:
            typer.echo(f"{name}: {len(doubtful)} doubtful frames: {_ranges(doubtful)}")
    if quality == "draft":
        typer.echo("the masks are a draft: run it again with --quality full")
    for report in outcome.reports:
        typer.echo(report)


def _ranges(frames: list[int]) -> str:
    """``3-5, 9`` for 3, 4, 5, 9."""
    from nbhelpers.rotoscoping.schedule import contiguous_ranges

    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in contiguous_ranges(frames, 1))
