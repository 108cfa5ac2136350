"""``nbhelpers benchmarks run`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nbhelpers.core.errors import NbHelpersError

CLIP_MODELS = {"ViT-B/16": "openclip-vit-b-16", "ViT-L/14": "openclip-vit-l-14"}
app = typer.Typer(help="Measure on published datasets, with the protocol beside the number.", no_args_is_help=True)


@app.command()
def run(
    dataset: Annotated[str, typer.Option(help="pascal-voc, pascal-voc20, pascal-context59, ... ; list shows all")],
    data_dir: Annotated[Path, typer.Option(help="folder of the dataset as its publisher unpacks it")] = Path(
        "data/benchmarks"
    ),
    num_samples: Annotated[int | None, typer.Option(help="the first so many; all when left out")] = None,
    output_dir: Annotated[Path, typer.Option(help="results; a folder for each run")] = Path("benchmarks/results"),
    save_vis: Annotated[bool, typer.Option(help="pictures of the results in visualizations/")] = False,
    protocol: Annotated[str, typer.Option(help="plain, sclip, naclip or corrclip: all numbers as published")] = "plain",
    model: Annotated[str, typer.Option(help="ViT-B/16, ViT-L/14, or a text encoder of the catalog")] = "ViT-B/16",
    logit_scale: Annotated[float | None, typer.Option(help="instead of the protocol's (plain: 40)")] = None,
    use_sam: Annotated[bool, typer.Option(help="SAM 2's instances over the dense prediction")] = False,
    use_pamr: Annotated[bool, typer.Option(help="refine by PAMR, 10 steps")] = False,
    slide_inference: Annotated[bool, typer.Option(help="windows instead of the whole photo at once")] = False,
    slide_crop: Annotated[int, typer.Option(help="side of the windows in pixels")] = 224,
    slide_stride: Annotated[int, typer.Option(help="their step")] = 112,
    classes: Annotated[Path | None, typer.Option(help="names, a line a class, in place of the protocol's")] = None,
    budgets: Annotated[str, typer.Option(help="numbers of prompts for a curve, e.g. 5,20,4096 (the grid)")] = "",
    segmenter: Annotated[str | None, typer.Option(help="a segmenter of the catalog")] = None,
    workers: Annotated[int, typer.Option(help="processes of Dask")] = 1,
) -> None:
    """Measure a dataset; started again, it continues. States every number of the protocol beside the score."""
    from nbhelpers.benchmarks.datasets import LAYOUTS
    from nbhelpers.benchmarks.open_vocabulary import OpenVocabulary
    from nbhelpers.benchmarks.protocols import read_classes, vocabulary_protocol
    from nbhelpers.benchmarks.runner import run_benchmark, summary_text
    from nbhelpers.core.batch import local_client, progress_bar

    if dataset in LAYOUTS:
        changes: dict[str, Any] = {"scale": logit_scale} if logit_scale is not None else {}
        changes |= {"pamr_steps": 10} if use_pamr else {}
        changes |= {"crop": slide_crop, "stride": slide_stride} if slide_inference else {}
        numbers = vocabulary_protocol(
            dataset,
            protocol,
            mode="hybrid" if use_sam else None,
            classes=read_classes(classes) if classes else None,
            **changes,
        )
        pictures = str(output_dir / "visualizations") if save_vis else ""
        benchmark = OpenVocabulary(
            str(data_dir), numbers, text_encoder(model), segmenter, budgets=_numbers(budgets), pictures=pictures
        )
    else:
        raise NbHelpersError("there is no such dataset", given=dataset, expected=", ".join(LAYOUTS))
    with local_client(workers) as client, progress_bar(dataset) as bar:
        results = run_benchmark(benchmark, output_dir, num_samples=num_samples, client=client, progress=bar)
    typer.echo(summary_text(results))
    typer.echo(f"{output_dir / 'results.json'}")
    if results["failed"]:
        raise NbHelpersError(
            f"{len(results['failed'])} items could not be measured", do="they are named above; run it again"
        )


def text_encoder(model: str) -> str | None:
    """The catalog's name of a text encoder. CLIP's that is not here gives way to the best one that is."""
    from nbhelpers.models.load import choose_model
    from nbhelpers.weights import catalog, fetching

    name = CLIP_MODELS.get(model, model)
    if model in CLIP_MODELS and not fetching.here(catalog.find(name)):
        return choose_model("text_encoder").name
    return catalog.find(name).name


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise NbHelpersError("--budgets cannot be read", given=text, expected="numbers with commas between") from error
