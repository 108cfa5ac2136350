"""The pipeline from photos of a scene and a phrase, or clicks, to the object's masks in every view."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.batch import sign
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import outputs_dir, sha256
from nbhelpers.core.images import MIRRORED, UPRIGHT, orientation_of
from nbhelpers.core.scene_files import write_colmap
from nbhelpers.core.scenes import Scene, read_scene
from nbhelpers.models.protocols import Detector, SceneEstimator, Segmenter, TextEncoder
from nbhelpers.multiview.grounding import ground_phrase, segment_by_box
from nbhelpers.multiview.referring import Phrase, parse_phrase
from nbhelpers.multiview.results import MultiviewResult, save_result
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.multiview.views import Photos, PhotoSequence, Progress, photo_files

log = logging.getLogger(__name__)
MIN_VIEWS = 2  # for the estimation of cameras
FORMAT = "nbhelpers multiview run"


class MultiviewSegmenter:
    """Segments one object in all photos of a scene, from a phrase or from clicks in any of them.

    Example:
        >>> segmenter = MultiviewSegmenter()
        >>> result = segmenter.segment("photos", "red chair on the left side")
        >>> for view in result:
        ...     print(view.view_index, view.similarity, view.consistency, view.mask.sum())
        >>> segmenter.segment("photos", click={2: [(320, 200)]})              # or a click in photo 2

    Args:
        segmenter: by default from `nbhelpers.load`, like the other two.
        text_encoder: localises words in a photo; not needed for clicks.
        estimator: estimates cameras and points; not needed if they are known.
        detector: finds instances of a phrase's nouns, such as ``nbhelpers.load("detector", "sam3-detector")``; see
            `nbhelpers.multiview.grounding.detect_nouns` for the default.
        models: ``"lite"``, ``"official"`` or ``"auto"``, for models that are loaded by default.
        device: for models that are loaded by default.
    """

    def __init__(
        self,
        segmenter: Segmenter | None = None,
        text_encoder: TextEncoder | None = None,
        estimator: SceneEstimator | None = None,
        *,
        detector: Detector | None = None,
        models: str | None = None,
        device: str | None = None,
    ):
        self._given = {"segmenter": segmenter, "text_encoder": text_encoder, "scene_estimator": estimator}
        self._models, self._device, self.detector = models, device, detector

    def model(self, task: str):
        """The model of a task, loaded at first use."""
        if self._given[task] is None:
            from nbhelpers.models.load import load

            self._given[task] = load(task, None, self._device, self._models)
        return self._given[task]

    def segment(
        self,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
        phrase: str | Phrase | None = None,
        *,
        click: Mapping[int, Sequence[tuple[float, ...]]] | None = None,
        cameras: str | Path | None = None,
        scene: Scene | None = None,
        reference_view: int | None = None,
        progress: Progress | None = None,
    ) -> MultiviewResult:
        """Segment the object that a phrase or clicks refer to in all photos.

        Args:
            images: a folder of photos, a glob, a list of photos or of arrays, or a video.
            phrase: such as ``"cup on the table, left of the lamp"``.
            click: by view, ``(x, y)`` pixels, or ``(x, y, 0)`` to exclude; with a phrase they correct its result.
            cameras: a file of known cameras; see `nbhelpers.core.scenes.read_scene`.
            scene: cameras and points of the same photos, for example of an earlier run.
            reference_view: the view that defines left and right; by default the first with a camera.
            progress: see `nbhelpers.multiview.views.Progress`.

        Raises:
            NbHelpersError: no photos, neither phrase nor clicks, a phrase without a noun, an invalid view, or no object
                that the phrase could refer to.
        """
        if phrase is None and not click:
            raise NbHelpersError("nothing to look for", expected="a phrase, or a click in one of the views")
        parsed = parse_phrase(phrase) if isinstance(phrase, str) else phrase  # before expensive steps
        paths = photo_files(images, outputs_dir("multiview") / "frames")
        photos = Photos(paths, self.model("segmenter"))
        if reference_view is not None:
            photos.check(reference_view)
        if scene is None:
            scene = self.estimate_scene(paths, cameras, progress)
        session = ViewsSession(photos, scene if scene is not None and scene.placed.any() else None)
        notes = list(() if scene is None else scene.notes)
        grounding, name = None, "object"
        if parsed is not None:
            encoder = self.model("text_encoder")
            grounding = ground_phrase(photos, parsed, encoder, session.scene, reference_view, progress, self.detector)
            notes += grounding.notes
            name = parsed.noun
            if (target := grounding.target) is not None:
                name, best = target.name, target.best_view
                whole = segment_by_box(photos.segmenter, photos.embedding(best), target.instances[best].mask)
                session.propose_mask(whole, view=best)
            elif not click:
                raise NbHelpersError(
                    grounding.resolution.why,
                    given=parsed.understood,
                    expected="an object that the views show; " + "; ".join(grounding.notes),
                    do="use other words, or click the object in one of the views",
                )
        for view, points in (click or {}).items():
            for x, y, *label in points:
                session.click(x, y, *map(int, label), view=view)
        views = session.solve(progress)
        return MultiviewResult(session, views, grounding, name, tuple(dict.fromkeys([*notes, *views.notes])))

    def estimate_scene(
        self, paths: Sequence[Path], cameras: str | Path | None = None, progress: Progress | None = None
    ) -> Scene | None:
        """Estimate cameras and points of photos; None for a single photo without known cameras.

        If a file holds only cameras, such as ``transforms.json``, points are triangulated from matches.
        """
        if cameras is not None:
            known = read_scene(cameras, paths)
            if len(known.points) or known.placed.sum() < MIN_VIEWS:
                return known
            from nbhelpers.models.colmap_mapping import triangulate

            if progress is not None:
                progress(0, 1, f"triangulating points of {known.placed.sum()} photos")
            return triangulate(known, PhotoSequence(paths))
        if len(paths) < MIN_VIEWS:
            return None
        if progress is not None:
            progress(0, 1, f"estimating the cameras of {len(paths)} photos")
        found = self.model("scene_estimator").reconstruct(PhotoSequence(paths), [path.name for path in paths])
        return dataclasses.replace(found, orientation=np.array([orientation_of(path) for path in paths]))


def segment_scene(
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
    """Segment an object in all photos and write all results; see `MultiviewSegmenter.segment` and `save_result`.

    ``run.json``, the signature of inputs and models, is written first, ``results.json`` last. Called again with
    the same inputs, a finished run returns its ``results.json``; an interrupted one resumes with its cameras.

    Args:
        images: see `MultiviewSegmenter.segment`.
        output: a folder.
        phrase: see `MultiviewSegmenter.segment`.
        click: see `MultiviewSegmenter.segment`.
        cameras: see `MultiviewSegmenter.segment`.
        reference_view: see `MultiviewSegmenter.segment`.
        segmenter: with the models.
        progress: see `MultiviewSegmenter.segment`.

    Returns:
        The contents of ``results.json``.

    Raises:
        NbHelpersError: see `MultiviewSegmenter.segment`; also a folder with results of another run.
    """
    if phrase is not None:
        parse_phrase(phrase)  # fails before anything is written
    elif not click:
        raise NbHelpersError("nothing to look for", expected="a phrase, or a click in one of the views")
    output, segmenter = Path(output).expanduser(), segmenter or MultiviewSegmenter()
    paths = photo_files(images, output / "frames")
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
    if phrase is not None and segmenter.detector is not None:
        signature["models"]["detector"] = segmenter.detector.name
    turned = {path.name: orientation_of(path) for path in paths if orientation_of(path) != UPRIGHT}
    if turned:  # cameras cached by an earlier version that stored them upright are invalid
        signature["stored turned"] = turned
    sign(output / "run.json", signature)
    done = output / "results.json"
    if done.is_file():
        log.info("%s is already complete", output)
        return json.loads(done.read_text(encoding="utf-8"))
    kept = output / "sparse"
    if any((kept / name).is_file() for name in ("points3D.txt", "points3D.bin")):  # written last
        scene = read_scene(kept, paths)
    else:
        scene = segmenter.estimate_scene(paths, cameras, progress)
        if scene is not None and scene.placed.any() and not set(turned.values()) & set(MIRRORED):
            write_colmap(scene, kept)
    result = segmenter.segment(
        paths, phrase, click=click, scene=scene, reference_view=reference_view, progress=progress
    )  # fmt: skip
    return json.loads(save_result(result, output, paths)[-1].read_text(encoding="utf-8"))
