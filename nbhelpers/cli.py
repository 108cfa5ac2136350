"""The command line: one typed command per job, each a few lines over the job's module."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nbhelpers.benchmarks.commands import app as benchmarks
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import parse_point
from nbhelpers.geometry_fusion.commands import app as geometry_fusion
from nbhelpers.options import DetectorName, Device, Models, numbers, several_values

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
app = typer.Typer(
    help="Promptable segmentation: click it, name it, follow it, find it again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
rotoscoping_app = typer.Typer(help="Track objects through a clip and export their mattes.", no_args_is_help=True)
product_matching_app = typer.Typer(help="Find the product of one photo in other photos.", no_args_is_help=True)
app.add_typer(rotoscoping_app, name="rotoscoping")
app.add_typer(product_matching_app, name="product-matching")
app.add_typer(geometry_fusion, name="geometry-fusion")
app.add_typer(benchmarks, name="benchmarks")

Clip = Annotated[Path, typer.Argument(help="a folder of images, or a video")]
Every = Annotated[int, typer.Option(help="take every Nth frame")]
Start = Annotated[int, typer.Option(help="first frame, from 0")]
Stop = Annotated[int | None, typer.Option(help="the frame after the last; default: the end of the clip")]
OnBad = Annotated[str, typer.Option(help="error, skip or hold: how to handle frames that cannot be read")]
OnSize = Annotated[str, typer.Option(help="error, skip or resize: how to handle frames of another size")]


@app.command()
def doctor(
    measure: Annotated[str | None, typer.Option(help="vggt-1b: count its memory and seconds on this GPU")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="time the official networks, random weights")] = False,
) -> None:
    """Tell what this machine has: Python, torch, device, memory, and each model with the command that fetches it."""
    from nbhelpers.models import vggt
    from nbhelpers.weights.doctor import doctor as examine

    if gpu:
        from nbhelpers.models.measure import measure_networks

        typer.echo(measure_networks("cuda"))
        return
    if measure is not None:
        from nbhelpers.models.load import load

        if not measure.startswith("vggt-"):
            raise NbHelpersError(
                "memory is counted for VGGT alone", given=measure, expected="vggt-1b, vggt-1b-commercial"
            )
        estimator: Any = load("scene_estimator", measure, "cuda")  # a VggtEstimator, by its name
        typer.echo(vggt.memory_text(vggt.memory_table(estimator)))
        return
    typer.echo(f"{examine()}\n{vggt.memory_text()}")


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="lite, official, samples, or names of models and samples")],
    verify: Annotated[bool, typer.Option(help="hash again what is here already")] = False,
) -> None:
    """Bring models or sample pictures to this machine; what is here already costs nothing."""
    from nbhelpers.weights import fetch as bring

    for file, path in bring(*names, verify=verify).items():
        typer.echo(f"{file}: {path}")


@app.command()
def segment(
    image: Annotated[Path, typer.Option(help="the photo")],
    output: Annotated[Path, typer.Option(help="folder for masks, cut-outs, COCO file and prompt log")],
    point: Annotated[list[str] | None, typer.Option(help="x,y or x,y,1 to include; x,y,0 to exclude; repeat")] = None,
    box: Annotated[str | None, typer.Option(help="x0,y0,x1,y1")] = None,
    candidate: Annotated[int | None, typer.Option(help="0 to 3: another candidate mask than the suggested one")] = None,
    whole: Annotated[bool, typer.Option(help="take a single click for the object that a detector finds there")] = True,
    name: Annotated[str, typer.Option(help="what the object is called")] = "object",
    replay: Annotated[Path | None, typer.Option(help="a saved prompt log, instead of points and box")] = None,
    model: Annotated[str | None, typer.Option(help="a segmenter of the catalog")] = None,
    models: Models = None,
    device: Device = None,
) -> None:
    """Segment a photo from clicks and a box, all in pixels of the photo."""
    from nbhelpers.core.files import check_writable
    from nbhelpers.core.images import load_image
    from nbhelpers.core.prompts import PromptLog
    from nbhelpers.models.load import load
    from nbhelpers.segment import ClickSession

    if replay is not None:
        if point or box or model:
            raise NbHelpersError("a replay brings its own prompts and model", do="leave out --point, --box and --model")
        log, pixels = PromptLog.open(replay), load_image(image)
        check_writable(output)
        session = ClickSession(pixels, load("segmenter", log.model, device), name=log.image.get("name"), log=log)
    else:
        clicks = [parse_point(text)[1:] for text in point or ()]
        corners = None if box is None else numbers(box, "--box", "x0,y0,x1,y1", (4,))
        if not clicks and corners is None:
            raise NbHelpersError("nothing to segment", expected="--point x,y or --box x0,y0,x1,y1")
        pixels = load_image(image)  # before the model: an unreadable photo fails early
        check_writable(output)
        session = ClickSession(pixels, load("segmenter", model, device, models), name=image.stem, detector=whole)
        session.rename_object(session.active, name)
        if corners is not None:
            session.set_box(corners)
        for click in clicks:
            session.click(*click)
    if candidate is not None:
        session.choose_candidate(candidate)
    for path in session.export(output):
        typer.echo(str(path))
    for each in session.masks():
        chosen = session.candidate(each)
        prediction = session.prediction(each)
        scores = ", ".join(f"{score:.2f}" for score in (() if prediction is None else prediction.scores))
        share = 100 * float(session.mask(each).mean())
        typer.echo(f"{each}: candidate {chosen} of predicted IoU {scores}; {share:.1f} % of the photo")
    typer.echo(f"made by {session.segmenter.name} on {session.segmenter.device}")


@app.command("clip-guided", cls=several_values("--vocabulary", "--exclude"))
def clip_guided(
    image: Annotated[str, typer.Option(help="a photo, a folder of photos, or a quoted glob")],
    vocabulary: Annotated[list[str], typer.Option(help="words for what may be in the photo: several after one flag")],
    target: Annotated[
        str | None, typer.Option("--target", "--prompt", help="the word that is wanted; else all")
    ] = None,
    edit: Annotated[str, typer.Option(help="segment, replace, remove or restyle")] = "segment",
    use_inpainting: Annotated[bool, typer.Option(help="inpaint the background; else black or white")] = False,
    edit_prompt: Annotated[str | None, typer.Option(help="text for the inpainting model")] = None,
    output: Annotated[Path, typer.Option(help="a picture, or a folder")] = Path("clip_guided_segments.png"),
    min_confidence: Annotated[float, typer.Option(help="of a word where it is pointed at, 0 to 1")] = 0.7,
    min_region_size: Annotated[float, typer.Option(help="smallest region, in pixels")] = 100,
    iou_threshold: Annotated[float, typer.Option(help="from this IoU on, two masks of a class are one")] = 0.8,
    exclude: Annotated[list[str] | None, typer.Option(help="words that may win a place but are not segmented")] = None,
    detector: DetectorName = None,
    device: Device = None,
    checkpoint: Annotated[Path | None, typer.Option(help="a SAM 2 file instead of the catalog's")] = None,
    model_cfg: Annotated[str | None, typer.Option(help="its configuration, e.g. sam2_hiera_l.yaml")] = None,
    models: Models = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="tell of seconds, conflicts and models")] = False,
) -> None:
    """Segment what words name, and edit it if you like; a folder is worked through, and resumed when cut off."""
    from nbhelpers import editing
    from nbhelpers.clip_guided import ClipGuidedSettings, pipeline
    from nbhelpers.models.load import load, load_checkpoint

    if edit not in editing.KINDS:
        raise NbHelpersError("unknown edit", given=edit, expected=", ".join(editing.KINDS))
    if edit_prompt is None and (edit == "restyle" or (edit == "replace" and use_inpainting)):
        raise NbHelpersError("the inpainter needs a text prompt", do='--edit-prompt "a sunset"')
    photos = pipeline.photos(image)  # before the models: a wrong path fails early
    settings = ClipGuidedSettings(min_confidence, min_region_size, iou_threshold, tuple(exclude or ()))
    segmenter = (
        load_checkpoint(checkpoint, model_cfg, device) if checkpoint else load("segmenter", None, device, models)
    )
    inpainter = load("inpainter", None, device, models) if use_inpainting or edit == "restyle" else None
    how = {"use_inpainting": use_inpainting, "prompt": edit_prompt, "inpainter": inpainter}
    painted = lambda result: editing.edit(result.image, result.mask(), edit, **how)  # noqa: E731
    records = pipeline.run(
        photos,
        vocabulary,
        output,
        target,
        settings=settings,
        segmenter=segmenter,
        text_encoder=load("text_encoder", None, device, models),
        detector=load("detector", detector, device) if detector else None,
        render=pipeline.picture if edit == "segment" else painted,
        parameters={"edit": edit, "edit_prompt": edit_prompt, "inpainter": inpainter and inpainter.name},
    )
    for record in records:
        typer.echo(pipeline.format_record(record, verbose))
    if failed := sum(record["status"] != "done" for record in records):
        raise NbHelpersError(f"{failed} of {len(records)} photos could not be done", do="see summary.csv; run it again")


@app.command()
def editing(
    image: Annotated[Path, typer.Option(help="the photo")],
    mask: Annotated[
        Path, typer.Option(help="a mask or cut-out of the photo's size: white or opaque where it is to be edited")
    ],
    output: Annotated[Path, typer.Option(help="the picture to write; a number is added where another has the name")],
    edit: Annotated[str, typer.Option(help="remove, replace or restyle")] = "remove",
    prompt: Annotated[str | None, typer.Option(help="text for the inpainter, for replace and restyle")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same picture")] = 0,
    device: Device = None,
    models: Models = None,
) -> None:
    """Remove what a mask covers (e.g. one written by `segment`), or replace or restyle it by a text."""
    import hashlib
    import json

    from nbhelpers import editing as job
    from nbhelpers.core.files import check_writable, own_name, sha256, write_text
    from nbhelpers.core.images import load_image, save_image
    from nbhelpers.core.masks import load_mask
    from nbhelpers.models.load import load

    if edit not in job.KINDS or edit == "segment":
        raise NbHelpersError("unknown edit", given=edit, expected="remove, replace or restyle")
    photo = load_image(image)
    inside = load_mask(mask, photo.shape[:2])
    check_writable(output.expanduser().parent)
    inpainter = load("inpainter", None, device, models)
    edited = job.edit(photo, inside, edit, use_inpainting=True, prompt=prompt, inpainter=inpainter, seed=seed)
    digest = sha256(image)
    about = {"photo": image.name, "sha256": digest, "mask": hashlib.sha256(inside).hexdigest()}
    about |= {"edit": edit, "prompt": prompt, "seed": seed, "model": inpainter.name}
    output = output.expanduser()
    output = output.with_stem(own_name(output.parent, output.stem, digest, files=["{}" + output.suffix]))
    write_text(output.with_suffix(".json"), json.dumps(about, indent=1, ensure_ascii=False))  # says whose picture it is
    typer.echo(f"{save_image(output, edited)}, made by {inpainter.name}")


@app.command()
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


@app.command("app")
def pages(
    page: Annotated[str, typer.Argument(help="photo, clip, products or multiview; all by default")] = "",
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 for other computers")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen at")] = 8866,
    shared: Annotated[
        bool, typer.Option(help="others come too, e.g. through a proxy: no folders of this computer")
    ] = False,
    keep: Annotated[bool, typer.Option(help="keep the visitors' folders when their visits end")] = False,
    hours: Annotated[float, typer.Option(help="after which a visit without an open page ends")] = 12.0,
    workers: Annotated[int, typer.Option(help="pieces of long work at one time; as many as cores by default")] = 0,
    folder: Annotated[Path | None, typer.Option(help="for the visitors' files; outputs/app by default")] = None,
    root_path: Annotated[str, typer.Option(help="path before that of the pages, behind a proxy: /cutouts")] = "",
    browser: Annotated[bool, typer.Option(help="open the page in a browser")] = True,
    models: Models = None,
) -> None:
    """Serve pages that need no code: upload, click, download. They are open to this computer alone, unless shared."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # work side by side would wait for its own threads busily
    from nbhelpers.app.server import Serving, serve

    serving = Serving(host, port, shared, keep, hours, workers, models, folder, root_path.rstrip("/"))
    serve(serving, page, browser=browser)


@rotoscoping_app.command("extract")
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

    from nbhelpers.core.video import extract_frames
    from nbhelpers.rotoscoping.project import open_clip

    frames: Any = open_clip(clip, step=every, start=start, stop=stop, on_bad=on_bad, on_size=on_size)
    with tqdm(total=len(frames), unit="frame", desc=clip.name) as bar:
        files = extract_frames(frames, output, suffix=suffix, progress=lambda _: bar.update())
    for problem in frames.problems:
        typer.echo(f"note: {problem}")
    typer.echo(f"{len(files)} frames: {files[0]} to {files[-1].name}")


@rotoscoping_app.command("run")
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
    frames: Any = open_clip(clip, step=every, start=start, stop=stop, on_bad=on_bad, on_size=on_size)
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


def _ranges(frames: Sequence[int]) -> str:
    """``3-5, 9`` for 3, 4, 5, 9."""
    from nbhelpers.rotoscoping.schedule import contiguous_ranges

    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in contiguous_ranges(frames, 1))


@product_matching_app.callback()
def product_matching() -> None:
    """Find the product of one photo in other photos."""


@product_matching_app.command(cls=several_values("--images"))
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


def main() -> None:
    """Run `app`; an error of ours is its text and exit status 1, not a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("nbhelpers").setLevel(logging.INFO)
    try:
        app()
    except NbHelpersError as error:
        typer.echo(f"nbhelpers: {error}", err=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            typer.echo("nbhelpers: interrupted; what is written is kept, run the same command again to go on", err=True)
        raise
