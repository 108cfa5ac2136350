"""``nbhelpers geometry-fusion``: train a merger, inspect one, compare with and without geometry, make clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.options import Device, Models

app = typer.Typer(help="Track with and without 3D geometry, side by side.", no_args_is_help=True)


@app.command("synthetic")
def synthetic_command(
    output: Annotated[Path, typer.Option(help="folder for the clip")],
    seed: Annotated[int, typer.Option(help="same seed, same clip")] = 0,
    frames: Annotated[int, typer.Option(help="length of the clip")] = 20,
    photos: Annotated[str, typer.Option(help="training or test: which sample photos are on the faces")] = "test",
    twin: Annotated[bool, typer.Option(help="an identical twin of the object")] = True,
) -> None:
    """Make a clip with an object and its twin, with true masks, depth and cameras."""
    from nbhelpers.geometry_fusion import synthetic

    names = {"training": synthetic.TRAINING_PHOTOS, "test": synthetic.TEST_PHOTOS}
    if photos not in names:
        raise NbHelpersError("there is no such set of photos", given=photos, expected="training or test")
    clip = synthetic.render_clip(seed, synthetic.load_textures(names[photos]), frames=frames, twin=twin)
    typer.echo(f"{len(clip)} frames in {synthetic.write_clip(clip, output)}")


@app.command("train")
def train_command(
    output: Annotated[Path, typer.Option(help="folder for checkpoints and logs; run again, training goes on")],
    config: Annotated[
        Path | None, typer.Option(help="a TOML file: [training] and clips; see the documentation")
    ] = None,
    models: Models = None,
    device: Device = None,
) -> None:
    """Train a merger on clips with true masks; on synthetic ones when no clips are named."""
    from tqdm.auto import tqdm

    from nbhelpers.geometry_fusion.training import TrainingConfig, train, training_set

    settings, rest = (TrainingConfig(), {}) if config is None else TrainingConfig.open(config)
    clips, model, tested = training_set(rest, output, models, device)
    with tqdm(total=settings.steps, unit="step", desc="training") as bar:

        def progress(step: int, loss: float) -> None:
            bar.n = step
            bar.set_postfix(loss=f"{loss:.3f}")

        train(clips, model, output, settings, progress=progress, test_textures=tested)
    typer.echo(str(output / "merger.safetensors"))


@app.command("inspect")
def inspect_command(checkpoint: Annotated[Path, typer.Argument(help="a merger's file or a checkpoint")]) -> None:
    """Tell what is in a checkpoint: of which backbone it is, whether it holds geometry, how long it was trained."""
    from nbhelpers.geometry_fusion.merger import inspect_checkpoint

    info = inspect_checkpoint(checkpoint)
    typer.echo(f"{info.path.name}: {info.parameters:,} parameters")
    typer.echo(f"geometry: {'yes' if info.has_geometry else 'no'}")
    typer.echo(f"backbone: {info.backbone or 'the file does not say'}")
    typer.echo(f"steps of training: {info.step or 'the file does not say'}")
    for name in ("sources", "clips"):
        if name in info.about:
            typer.echo(f"{name}: {', '.join(info.about[name])}")


@app.command("compare")
def compare_command(
    frames: Annotated[Path, typer.Option(help="a folder of pictures, or a video")],
    output: Annotated[Path, typer.Option(help="folder for masks, videos, curves and the page")],
    point: Annotated[list[str] | None, typer.Option(help="x,y on the object; repeat")] = None,
    on: Annotated[int, typer.Option(help="the frame of the points, from 0")] = 0,
    every: Annotated[int, typer.Option(help="take every Nth frame")] = 1,
    gt: Annotated[Path | None, typer.Option(help="folder with true masks, e.g. CVAT's export")] = None,
    label: Annotated[str | None, typer.Option(help="of CVAT's label map")] = None,
    geometry: Annotated[
        str | None,
        typer.Option(help="colmap, given, da3, must3r, vggt or off (default: NBHELPERS_GEOMETRY, else colmap)"),
    ] = None,
    scene: Annotated[Path | None, typer.Option(help="folder with cameras and depth, for --geometry given")] = None,
    merger: Annotated[
        Path | None, typer.Option(help="a trained merger; else places are compared without learning")
    ] = None,
    arms: Annotated[str, typer.Option(help="with commas: baseline, geometry, merger, kernel, places, reprompt")] = "",
    controls: Annotated[bool, typer.Option(help="negative controls as well: shuffled and zeroed geometry")] = False,
    pred_a: Annotated[Path | None, typer.Option(help="masks of an earlier run instead of the baseline")] = None,
    pred_b: Annotated[Path | None, typer.Option(help="masks of an earlier run instead of the geometry")] = None,
    videos: Annotated[bool, typer.Option(help="MP4s of each arm and side by side")] = True,
    tracker: Annotated[str | None, typer.Option(help="a tracker of the catalog")] = None,
    models: Models = None,
    device: Device = None,
) -> None:
    """Track one object with and without geometry, and measure both against true masks where they are given."""
    from tqdm.auto import tqdm

    from nbhelpers.core.prompts import Prompt
    from nbhelpers.core.video import Frames
    from nbhelpers.geometry_fusion.comparison import (
        Comparison,
        backbone_of,
        compare_arms,
        geometry_source,
        make_arms,
        read_predictions,
        read_truth,
        scene_of,
        write_comparison,
    )

    clip = Frames(frames, step=every)
    truth = None if gt is None else read_truth(gt, clip, every, label)
    if (pred_a is None) != (pred_b is None):
        raise NbHelpersError("both earlier runs are needed", expected="--pred-a DIR --pred-b DIR")
    if pred_a is not None and pred_b is not None:
        earlier = read_predictions("baseline", pred_a, clip), read_predictions("geometry", pred_b, clip)
        comparison = Comparison(earlier, truth)
    else:
        if not point:
            raise NbHelpersError("the object has to be shown", expected="--point x,y")
        prompt = Prompt([_point(text) for text in point]).check_inside(clip.size)
        from nbhelpers.models.load import load

        base = load("tracker", tracker, device, models)
        trained = None
        if merger is not None:
            from nbhelpers.geometry_fusion.merger import load_merger

            trained = load_merger(merger, backbone_of(base))
        names = [name.strip() for name in arms.split(",") if name.strip()] or ["baseline", "geometry"]
        names += ["shuffled", "zeroed"] if controls else []
        made = make_arms(
            base,
            geometry_source(geometry, device),
            names,
            merger=trained,
            scene=scene_of(scene),
            cache=output / "cache",
        )
        with tqdm(total=len(clip) * len(made), unit="frame") as bar:

            def progress(name: str, done: int) -> None:
                bar.set_description(name)
                bar.update()

            comparison = compare_arms(made, clip, prompt, truth, on, progress)
    write_comparison(comparison, clip, output, videos=videos)
    for line in report_lines(comparison.summary()):
        typer.echo(line)
    typer.echo(str(output / "comparison.html"))


def report_lines(summary: dict) -> list[str]:
    """A comparison's figures as lines of text."""
    lines = []
    for name, entry in summary["arms"].items():
        told = [f"{key} {entry[key]:.3f}" for key in ("iou", "recall", "accuracy", "success", "j_and_f", "returned")
                if entry.get(key) is not None]  # fmt: skip
        if "gain" in entry:
            low, high = entry["gain"]["interval"]
            told.append(f"gain {entry['gain']['iou']:+.3f} ({low:+.3f} to {high:+.3f})")
        told.append(f"{entry['seconds_a_frame']:.2f} s a frame")
        lines.append(f"{name}: {', '.join(told)}")
        if entry["note"]:
            lines.append(f"  note: {entry['note']}")
    return lines + [f"note: {note}" for note in summary["notes"]]


def _point(text: str) -> tuple[float, float]:
    """``"180,296"`` as two numbers."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise NbHelpersError("--point cannot be read", given=text, expected="x,y") from error
    return x, y
