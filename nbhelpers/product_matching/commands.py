"""``nbhelpers product-matching``: find a product in many photos without interaction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import parse_point
from nbhelpers.options import Device, Models, numbers, several_values

app = typer.Typer(help="Find the product of one photo in other photos.", no_args_is_help=True)


@app.callback()
def product_matching() -> None:
    """Find the product of one photo in other photos."""


@app.command(cls=several_values("--images"))
def batch(
    images: Annotated[list[str], typer.Option(help="photos, folders or quoted globs: several after one flag")],
    reference: Annotated[Path, typer.Option(help="a photo that shows the product")],
    output: Annotated[Path, typer.Option(help="folder for all results; an interrupted run resumes")],
    ref_bbox: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 around the product")] = None,
    point: Annotated[str | None, typer.Option("--point", "--ref-point", help="x,y on the product")] = None,
    ref_mask: Annotated[
        Path | None, typer.Option(help="a mask or cut-out of the photo's size: white or opaque on the product")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="TOML or JSON with settings, see ProductSettings")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="fixed minimum score of a match, instead of a calibrated one")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="maximum number of matches in a photo")] = None,
    candidates: Annotated[str | None, typer.Option(help="guided, or grid: an exhaustive grid of points")] = None,
    equirectangular: Annotated[bool, typer.Option(help="the photos are panoramas, twice as wide as high")] = False,
    turntable: Annotated[bool, typer.Option(help="the photos are views in order")] = False,
    circle: Annotated[bool, typer.Option(help="the last view is next to the first")] = False,
    workers: Annotated[int, typer.Option(help="processes, each with its own models")] = 1,
    device: Device = None,
    models: Models = None,
) -> None:
    """Find a product in photos; writes masks, cut-outs, COCO JSON, CSV and an HTML page."""
    from tqdm.auto import tqdm

    from nbhelpers.core.batch import apart, local_client
    from nbhelpers.core.images import load_image
    from nbhelpers.core.images import photos as listed
    from nbhelpers.core.masks import load_mask
    from nbhelpers.models.load import load
    from nbhelpers.product_matching.batch import match_product, raise_if_failed
    from nbhelpers.product_matching.settings import load_settings

    for source in images:
        apart(output, source)
    paths = list(dict.fromkeys(path for source in images for path in listed(source)))
    clicked = None if point is None else parse_point(point)[1:3]
    box = None if ref_bbox is None else numbers(ref_bbox, "--ref-bbox", "x0,y0,x1,y1", (4,))
    if sum(given is not None for given in (clicked, box, ref_mask)) != 1:
        raise NbHelpersError(
            "exactly one prompt of the product is needed", expected="--point, --ref-bbox or --ref-mask"
        )
    image = load_image(reference)  # before the models, so that an unreadable photo fails early
    mask = None if ref_mask is None else load_mask(ref_mask, image.shape[:2])
    chosen = load_settings(
        settings,
        similarity_threshold=threshold,
        calibrate=None if threshold is None else False,
        top_k_matches=top_k,
        candidates=candidates,
    )
    segmenter = load("segmenter", chosen.sam2_checkpoint, device, models)
    encoder = load("patch_encoder", chosen.dinov2_model, device, models)
    with local_client(workers) as client, tqdm(total=len(paths), unit="photo") as bar:
        results = match_product(
            paths,
            reference,
            output,
            point=clicked,
            box=box,
            mask=mask,
            settings=chosen,
            segmenter=segmenter,
            encoder=encoder,
            panorama=equirectangular,
            turntable="circle" if circle else turntable,
            client=client,
            on_photo=lambda _: bar.update(),
        )
    for result in results:
        typer.echo(result.summary)
    found = sum(not result.absent for result in results)
    if results:
        typer.echo(f"threshold {results[0].threshold:.3f} ({results[0].threshold_from})")
    typer.echo(f"in {found} of {len(results)} photos; see {output / 'index.html'}")
    typer.echo(f"models: {segmenter.name}, {encoder.name} on {segmenter.device}")
    raise_if_failed(results)
