"""One scene as a job that can be cut off and started again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import sha256
from nbhelpers.core.orientation import MIRRORED, UPRIGHT, orientation_of
from nbhelpers.core.runs import sign
from nbhelpers.core.scenes.files import read_scene
from nbhelpers.core.scenes.writers import write_colmap
from nbhelpers.multiview.footage import views_of
from nbhelpers.multiview.outputs import save
from nbhelpers.multiview.phrases import parse
from nbhelpers.multiview.segmenter import MultiviewSegmenter, Progress

FORMAT = "nbhelpers multiview run"
log = logging.getLogger(__name__)


def run(
    images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
    output: str | Path,
    phrase: str | None = None,
    *,
    click: Mapping[int, Sequence[tuple[float, ...]]] | None = None,
    cameras: str | Path | None = None,
    reference_view: int | None = None,
    segmenter: MultiviewSegmenter | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find an object in all views and write all that is known; see `MultiviewSegmenter.run` and `outputs.save`.

    ``run.json`` is the signature and comes first, ``results.json`` last. Started again with the same photos, words and
    models, a finished run is told from its file, and one that was cut off goes on with the cameras that it had found.

    Args:
        images: see `MultiviewSegmenter.run`, as for all others.
        output: a folder.
        phrase: see there.
        click: see there.
        cameras: see there.
        reference_view: see there.
        segmenter: holds the models.
        progress: see there.

    Returns:
        What ``results.json`` holds.

    Raises:
        NbHelpersError: as `MultiviewSegmenter.run`, or a folder with another run's results.
    """
    if phrase is not None:
        parse(phrase)  # a phrase that cannot be read is told before anything is written
    elif not click:
        raise NbHelpersError("nothing to look for", expected="a phrase, or a click in one of the views")
    output, segmenter = Path(output).expanduser(), segmenter or MultiviewSegmenter()
    paths = views_of(images, output / "frames")
    tasks = ["segmenter", *(["text_encoder"] if phrase is not None else [])]
    tasks += ["scene_estimator"] if cameras is None and len(paths) > 1 else []
    signature = {
        "format": FORMAT,
        "photos": {path.name: sha256(path) for path in paths},
        "phrase": phrase,
        "click": {str(view): [list(point) for point in points] for view, points in (click or {}).items()},
        "cameras": None if cameras is None or not Path(cameras).is_file() else sha256(cameras),
        "reference_view": reference_view,
        "models": {task: segmenter.model(task).name for task in tasks},
    }
    turned = {path.name: orientation_of(path) for path in paths if orientation_of(path) != UPRIGHT}
    if turned:  # cameras kept by a version that wrote them upright are of no use for these
        signature["stored turned"] = turned
    sign(output / "run.json", signature)
    done = output / "results.json"
    if done.is_file():
        log.info("%s is done already", output)
        return json.loads(done.read_text(encoding="utf-8"))
    kept = output / "sparse"
    if any((kept / name).is_file() for name in ("points3D.txt", "points3D.bin")):  # the last that is written
        scene = read_scene(kept, paths)
    else:
        scene = segmenter.place(paths, cameras, progress)
        if scene is not None and scene.placed.any() and not set(turned.values()) & set(MIRRORED):
            write_colmap(scene, kept)
    result = segmenter.run(
        paths, phrase, click=click, scene=scene, reference_view=reference_view, progress=progress
    )  # fmt: skip
    return json.loads(save(result, output, paths)[-1].read_text(encoding="utf-8"))
