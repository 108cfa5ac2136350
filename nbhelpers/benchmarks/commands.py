"""``nbhelpers benchmarks run`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nbhelpers.core.errors import NbHelpersError

if TYPE_CHECKING:
    from nbhelpers.benchmarks.runner import Benchmark

CLIP_MODELS = {"ViT-B/16": "openclip-vit-b-16", "ViT-L/14": "openclip-vit-l-14"}
app = typer.Typer(help="Measure on published datasets, with the protocol beside the number.", no_args_is_help=True)


@app.command("run")
def measure(
    dataset: Annotated[
        str, typer.Option(help="pascal-voc, coco-stuff, voc-objects, davis2017, ...; an error lists all")
    ],
    data_dir: Annotated[Path, typer.Option(help="folder of the dataset as its publisher unpacks it")] = Path(
        "data/benchmarks"
    ),
    num_samples: Annotated[int | None, typer.Option(help="the first so many; default: all")] = None,
    output_dir: Annotated[Path, typer.Option(help="results; a folder for each run")] = Path("benchmarks/results"),
    save_vis: Annotated[bool, typer.Option(help="pictures of the results in visualizations/")] = False,
    workers: Annotated[int, typer.Option(help="processes of Dask")] = 1,
    protocol: Annotated[
        str, typer.Option(help="words: plain, sclip, naclip or corrclip, all numbers at once")
    ] = "plain",
    model: Annotated[
        str, typer.Option(help="words: ViT-B/16, ViT-L/14, or a text encoder of the catalog")
    ] = "ViT-B/16",
    logit_scale: Annotated[float | None, typer.Option(help="words: instead of the protocol's (plain: 40)")] = None,
    use_sam: Annotated[bool, typer.Option(help="words: SAM 2's instances over the dense prediction")] = False,
    use_pamr: Annotated[bool, typer.Option(help="words: refine by PAMR, 10 steps")] = False,
    slide_inference: Annotated[bool, typer.Option(help="words: windows instead of the whole photo at once")] = False,
    slide_crop: Annotated[int, typer.Option(help="words: side of the windows in pixels")] = 224,
    slide_stride: Annotated[int, typer.Option(help="words: their step")] = 112,
    classes: Annotated[
        Path | None, typer.Option(help="words: names, a line a class, in place of the protocol's")
    ] = None,
    budgets: Annotated[str, typer.Option(help="words: prompts for a curve, e.g. 5,20,4096 (the blind grid)")] = "",
    scope: Annotated[bool | None, typer.Option(help="words: attention within SAM 2's regions")] = None,
    majority: Annotated[bool | None, typer.Option(help="words: one label for each of SAM 2's regions")] = None,
    bank: Annotated[str, typer.Option(help="words: a bank of regions of unlabelled photos")] = "",
    segmenter: Annotated[str | None, typer.Option(help="a segmenter of the catalog")] = None,
    jitter: Annotated[float, typer.Option(help="clicks: scatter over the error, as a fraction of its depth")] = 0.0,
    candidate: Annotated[str, typer.Option(help="clicks: the mask of the model, session, or whole")] = "model",
    feedback: Annotated[bool, typer.Option(help="clicks: give the last mask back to the model")] = False,
    upstream: Annotated[bool, typer.Option(help="clicks: by the sam2 package's own SAM2ImagePredictor")] = False,
    tracker: Annotated[str | None, typer.Option(help="clips: a tracker of the catalog")] = None,
    start: Annotated[str, typer.Option(help="clips: mask, click, or mask,click")] = "mask",
    corrections: Annotated[int, typer.Option(help="clips: clicks on the worst frames")] = 0,
    clips: Annotated[str, typer.Option(help="clips: names with commas between")] = "",
    distractors: Annotated[
        bool | None, typer.Option(help="shell-game, davis2016-doubt: track what resembles the object (lite tracker)")
    ] = None,
    geometry: Annotated[
        str, typer.Option(help="fusion: given, colmap, da3, must3r, vggt or off (default: the dataset's)")
    ] = "",
    arms: Annotated[str, typer.Option(help="fusion: names with commas, the baseline first")] = "baseline,geometry",
    first: Annotated[int, typer.Option(help="fusion, shell-game, davis2016: frames of a clip; 0: all")] = 0,
    step: Annotated[int, typer.Option(help="fusion: every Nth frame of the red kitchen; clips: 3 for a draft")] = 1,
    cache: Annotated[Path | None, typer.Option(help="fusion, products, shell-game: kept between runs")] = None,
    vocabularies: Annotated[str, typer.Option(help="words to masks: all, present, alone")] = "all",
    without: Annotated[str, typer.Option(help="words to masks: surroundings, detector")] = "",
    detector: Annotated[str | None, typer.Option(help="words to masks, phrases: a detector of the catalog")] = None,
    poses: Annotated[str, typer.Option(help="views: folder for estimated cameras; none does without")] = "",
    quick: Annotated[
        bool, typer.Option(help="views: one reference an object, no correction; phrases: no photos")
    ] = False,
) -> None:
    """Measure a dataset; started again, it continues. States every number of the protocol beside the score."""
    from nbhelpers.benchmarks.runner import run_benchmark, summary_text
    from nbhelpers.core.batch import local_client, progress_bar

    pictures = str(output_dir / "visualizations") if save_vis else ""
    kept = cache or output_dir / "cache"
    kinds = _datasets()
    kind = next((kind for kind, names in kinds.items() if dataset in names), None)
    if kind == "words":
        from nbhelpers.benchmarks.open_vocabulary import OpenVocabulary

        changes: dict[str, Any] = {"scale": logit_scale} if logit_scale is not None else {}
        changes |= {"pamr_steps": 10} if use_pamr else {}
        changes |= {"crop": slide_crop, "stride": slide_stride} if slide_inference else {}
        switches = {"scope": scope, "majority": majority, "bank": bank or None}
        numbers = _words(dataset, protocol, use_sam, classes, switches, changes)
        benchmark: Benchmark = OpenVocabulary(
            data_dir, numbers, text_encoder(model), segmenter, budgets=_numbers(budgets), pictures=pictures
        )
    elif kind == "words to masks":
        from nbhelpers.benchmarks.words import WordMasks

        benchmark = WordMasks(
            dataset, data_dir, _parts(vocabularies), text_encoder(model), segmenter, detector, _parts(without), pictures
        )
    elif kind == "views":
        from nbhelpers.benchmarks.views import SceneViews

        benchmark = SceneViews(dataset, data_dir, segmenter, poses, quick)
    elif kind == "products":
        from nbhelpers.benchmarks.products import ProductPhotos

        benchmark = ProductPhotos(dataset, data_dir, segmenter, cache=kept)
    elif kind == "scenes":
        from nbhelpers.benchmarks.views import CameraRecovery, SpatialPhrases

        phrases = dataset == "phrases"
        benchmark = SpatialPhrases(data_dir, quick, None, segmenter, detector) if phrases else CameraRecovery(data_dir)
    elif kind == "fusion":
        from nbhelpers.benchmarks.fusion import FusionComparison

        chosen = {"first": first, "step": step, "cache": kept}
        benchmark = FusionComparison(dataset, data_dir, tracker, geometry, _parts(arms), **chosen)
    elif kind == "clicks":
        from nbhelpers.benchmarks.interactive import Clicks

        how = {"jitter": jitter, "candidate": candidate, "feedback": feedback, "upstream": upstream}
        benchmark = Clicks(dataset, data_dir, segmenter, **how, pictures=pictures)
    elif kind == "identity":
        from nbhelpers.benchmarks.identity import OneObject

        how = {"start": start, "frames": first or None, "distractors": distractors, "cache": cache or ""}
        benchmark = OneObject(dataset, data_dir, tracker, _parts(clips), **how)
    elif kind == "mattes":
        from nbhelpers.benchmarks.video import MatteSteadiness

        benchmark = MatteSteadiness(data_dir, tracker=tracker, clips=_parts(clips), frames=first or None)
    elif kind == "clips":
        from nbhelpers.benchmarks.video import VideoObjects

        benchmark = VideoObjects(dataset, data_dir, tracker, _parts(start), corrections, _parts(clips), step)
    else:
        every = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items()]
        raise NbHelpersError("there is no such dataset", given=dataset, expected="; ".join(every))
    if save_vis and not hasattr(benchmark, "pictures"):
        raise NbHelpersError("there are no pictures of this dataset", given=dataset, do="leave out --save-vis")
    with local_client(workers) as client, progress_bar(dataset) as bar:
        results = run_benchmark(benchmark, output_dir, num_samples=num_samples, client=client, progress=bar)
    typer.echo(summary_text(results))
    typer.echo(f"{output_dir / 'results.json'}")
    if results["failed"]:
        raise NbHelpersError(
            f"{len(results['failed'])} items could not be measured", do="they are named above; run it again"
        )


@app.command("report")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="output folders of runs")],
    output: Annotated[Path, typer.Option(help="the page; a table in Markdown is written beside it")] = Path(
        "benchmarks/report.html"
    ),
) -> None:
    """Lay runs and published numbers side by side, and say in which points of the protocol they differ."""
    from nbhelpers.benchmarks.report import write_report

    table = write_report(folders, output)
    typer.echo(table)
    typer.echo(f"{output}, {output.with_suffix('.md')}")


def _datasets() -> dict[str, tuple[str, ...]]:
    """The datasets by kind."""
    from nbhelpers.benchmarks import fusion, identity, products, video, views, words
    from nbhelpers.benchmarks.datasets import LAYOUTS, VIDEO_LAYOUTS, ObjectPhotos

    return {
        "words": tuple(LAYOUTS),
        "words to masks": words.DATASETS,
        "clicks": ObjectPhotos.KINDS,
        "clips": tuple(VIDEO_LAYOUTS),
        "views": tuple(views.TREES),
        "scenes": ("phrases", "cameras"),
        "fusion": tuple(fusion.DATASETS),
        "identity": identity.DATASETS,
        "mattes": video.MATTE_DATASETS,
        "products": products.DATASETS,
    }


def _words(
    dataset: str,
    protocol: str,
    use_sam: bool,
    classes: Path | None,
    switches: dict[str, Any],
    changes: dict[str, Any],
) -> Any:
    """The protocol of an open-vocabulary run."""
    from dataclasses import replace

    from nbhelpers.benchmarks.protocols import read_classes, vocabulary_protocol

    recipe = vocabulary_protocol(dataset, protocol).recipe
    given = {key: value for key, value in switches.items() if value is not None}
    return vocabulary_protocol(
        dataset,
        protocol,
        mode="hybrid" if use_sam else None,
        classes=read_classes(classes) if classes else None,
        recipe=replace(recipe, **given) if given else None,
        **changes,
    )


def text_encoder(model: str) -> str | None:
    """The catalog's name of a text encoder. CLIP's that is not here gives way to the best one that is."""
    from nbhelpers.models.load import choose_model
    from nbhelpers.weights import cache, catalog

    name = CLIP_MODELS.get(model, model)
    if model in CLIP_MODELS and not cache.here(catalog.find(name)):
        return choose_model("text_encoder").name
    return catalog.find(name).name


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, _parts(text)))
    except ValueError as error:
        raise NbHelpersError("--budgets cannot be read", given=text, expected="numbers with commas between") from error
