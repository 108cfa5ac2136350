"""``nbhelpers rotoscoping``: frames out of a clip, and a prompt log replayed on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbhelpers.core.errors import NbHelpersError

app = typer.Typer(help="Follow objects through a clip and export their mattes.", no_args_is_help=True)

Clip = Annotated[Path, typer.Argument(help="a folder of pictures, or a video")]
Every = Annotated[int, typer.Option(help="take every Nth frame")]
Start = Annotated[int, typer.Option(help="first frame, counted in the clip from 0")]
Stop = Annotated[int | None, typer.Option(help="the frame behind the last; the clip's end when left out")]
OnBad = Annotated[str, typer.Option(help="error, skip or hold: what to do about frames that cannot be read")]
OnSize = Annotated[str, typer.Option(help="error, skip or resize: what to do about frames of another size")]


@app.command()
def extract(
    clip: Clip,
    output: Annotated[Path, typer.Option(help="folder for the numbered frames")],
    every: Every = 1,
    start: Start = 0,
    stop: Stop = None,
    suffix: Annotated[str, typer.Option(help=".png, .tif (without loss), .jpg, .webp or .bmp")] = ".png",
    on_bad: OnBad = "error",
    on_size: OnSize = "error",
) -> None:
    """Write numbered frames; run again, it goes on where it stopped."""
    from tqdm.auto import tqdm

    from nbhelpers.core.video.extract import extract as write
    from nbhelpers.rotoscoping.clips import open_clip

    frames = open_clip(clip, step=every, start=start, stop=stop, on_bad=on_bad, on_size=on_size)
    with tqdm(total=len(frames), unit="frame", desc=clip.name) as bar:
        files = write(frames, output, suffix=suffix, progress=lambda _: bar.update())
    for problem in frames.problems:
        typer.echo(f"note: {problem}")
    typer.echo(f"{len(files)} frames: {files[0]} to {files[-1].name}")


@app.command()
def run(
    clip: Clip,
    prompts: Annotated[Path, typer.Option(help="a prompt log: prompts.json of a project")],
    output: Annotated[Path, typer.Option(help="folder for the project and the exports")],
    export: Annotated[str, typer.Option(help="postshot, colmap, nerfstudio, mattes, rgba, coco, overlay ...")] = "",
    every: Every = 1,
    start: Start = 0,
    stop: Stop = None,
    on_bad: OnBad = "error",
    on_size: OnSize = "error",
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is when left out")] = None,
) -> None:
    """Replay a prompt log on its clip, follow the objects and export verified mattes; resumed when cut off."""
    from tqdm.auto import tqdm

    from nbhelpers.core.promptlog import PromptLog
    from nbhelpers.models.load import load
    from nbhelpers.rotoscoping.batch import run as follow
    from nbhelpers.rotoscoping.clips import open_clip
    from nbhelpers.rotoscoping.exports import KINDS

    kinds = [kind.strip() for kind in export.split(",") if kind.strip()]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise NbHelpersError("there is no such export", given=", ".join(unknown), expected=", ".join(KINDS))
    log = PromptLog.open(prompts)  # before the clip and the model: a bad log is told at once
    frames = open_clip(clip, step=every, start=start, stop=stop, on_bad=on_bad, on_size=on_size)
    with tqdm(unit="frame", desc=clip.name) as bar:
        tracker = load("tracker", log.model, device)
        outcome = follow(frames, log, output, kinds, tracker=tracker, on_frame=lambda _: bar.update())
    for problem in frames.problems:
        typer.echo(f"note: {problem}")
    typer.echo(f"{outcome.frames} frames, {outcome.followed} followed now; made by {tracker.name} on {tracker.device}")
    for name, doubtful in outcome.doubtful.items():
        if doubtful:
            typer.echo(f"{name}: {len(doubtful)} frames should be looked at: {_ranges(doubtful)}")
    for report in outcome.reports:
        typer.echo(report)


def _ranges(frames: list[int]) -> str:
    """``3-5, 9`` for 3, 4, 5, 9."""
    from nbhelpers.rotoscoping.plan import stretches

    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in stretches(frames, 1))
