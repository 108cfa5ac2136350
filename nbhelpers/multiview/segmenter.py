"""Photos of a scene and a phrase in, the same object in every view out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import outputs_dir
from nbhelpers.core.orientation import orientation_of
from nbhelpers.core.scenes import Scene
from nbhelpers.core.scenes.files import read_scene
from nbhelpers.models.protocols import SceneEstimator, Segmenter, TextEncoder
from nbhelpers.multiview.footage import Pictures, views_of
from nbhelpers.multiview.phrases import Phrase, parse
from nbhelpers.multiview.results import Result
from nbhelpers.multiview.search import search
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.multiview.views import Photos
from nbhelpers.multiview.wholes import by_its_box

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
FEWEST = 2  # views of which cameras can be found


class MultiviewSegmenter:
    """Finds one object in all photos of a scene, from a phrase or from clicks in any of them.

    Example:
        >>> segmenter = MultiviewSegmenter()
        >>> result = segmenter.run("photos", "red chair on the left side")
        >>> for view in result:
        ...     print(view.view_index, view.similarity, view.consistency, view.mask.sum())
        >>> segmenter.run("photos", click={2: [(320, 200)]})              # or a click in photo 2

    Args:
        segmenter: `nbhelpers.load` picks one when left out, as for the other two.
        text_encoder: says what is where in a photo; not needed for clicks.
        estimator: finds the cameras; not needed where they are known.
        models: ``"lite"``, ``"official"`` or ``"auto"``, for those that are picked.
        device: for those that are picked.
    """

    def __init__(
        self,
        segmenter: Segmenter | None = None,
        text_encoder: TextEncoder | None = None,
        estimator: SceneEstimator | None = None,
        *,
        models: str | None = None,
        device: str | None = None,
    ):
        self._given = {"segmenter": segmenter, "text_encoder": text_encoder, "scene_estimator": estimator}
        self._models, self._device = models, device

    def model(self, task: str):
        """The model of a task, loaded when it is first needed."""
        if self._given[task] is None:
            from nbhelpers.models.load import load

            self._given[task] = load(task, None, self._device, self._models)
        return self._given[task]

    def run(
        self,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
        phrase: str | Phrase | None = None,
        *,
        click: Mapping[int, Sequence[tuple[float, ...]]] | None = None,
        cameras: str | Path | None = None,
        scene: Scene | None = None,
        reference_view: int | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Find the object that a phrase or clicks mean.

        Args:
            images: a folder of photos, a glob, a list of photos or of arrays, or a video.
            phrase: such as ``"cup on the table, left of the lamp"``.
            click: by view, ``(x, y)`` or ``(x, y, 0)`` where it is not, in pixels; in addition to a phrase they
                correct what it found.
            cameras: a file of known cameras; see `nbhelpers.core.scenes.files.read_scene`.
            scene: of an earlier run on the same photos, to save its time.
            reference_view: whose left and right the phrase means; the first view that has a camera when left out.
            progress: called with steps done, all steps, and what is being done.

        Raises:
            NbHelpersError: no photos, neither phrase nor clicks, a phrase without a thing, a view that is not there,
                or nothing that the phrase could mean.
        """
        if phrase is None and not click:
            raise NbHelpersError("nothing to look for", expected="a phrase, or a click in one of the views")
        asked = parse(phrase) if isinstance(phrase, str) else phrase  # before anything costs time
        paths = views_of(images, outputs_dir("multiview") / "frames")
        photos = Photos(paths, self.model("segmenter"))
        if reference_view is not None:
            photos.check(reference_view)
        if scene is None:
            scene = self.place(paths, cameras, progress)
        session = ViewsSession(photos, scene if scene is not None and scene.placed.any() else None)
        notes = list(() if scene is None else scene.notes)
        found = None
        if asked is not None:
            encoder = self.model("text_encoder")
            found = search(photos, asked, encoder, session.scene, reference_view, progress)
            notes += found.notes
            if found.chosen is not None:
                best = found.chosen.best_view
                whole = by_its_box(photos.segmenter, photos.embedding(best), found.chosen.mask(best))
                session.propose(best, whole)
            elif not click:
                raise NbHelpersError(
                    found.choice.why,
                    given=asked.understood,
                    expected="a thing that the views show; " + "; ".join(found.notes),
                    do="say it in plainer words, or click the object in one of the views",
                )
        for view, points in (click or {}).items():
            for x, y, *label in points:
                session.click(view, x, y, *map(int, label))
        views = session.solve(progress)
        name = "object" if asked is None else asked.noun if found.chosen is None else found.chosen.name
        return Result(session, views, found, name, tuple(dict.fromkeys([*notes, *views.notes])))

    def place(
        self, paths: Sequence[Path], cameras: str | Path | None = None, progress: Progress | None = None
    ) -> Scene | None:
        """Cameras and points of photos; None for a single photo without known cameras.

        Where a file tells cameras only, as `transforms.json` does, the points are triangulated from matches.
        """
        if cameras is not None:
            known = read_scene(cameras, paths)
            if len(known.points) or known.placed.sum() < FEWEST:
                return known
            from nbhelpers.models.colmap.mapping import triangulate

            if progress is not None:
                progress(0, 1, f"finding points that {known.placed.sum()} photos share")
            return triangulate(known, Pictures(paths))
        if len(paths) < FEWEST:
            return None
        if progress is not None:
            progress(0, 1, f"finding the cameras of {len(paths)} photos")
        found = self.model("scene_estimator").reconstruct(Pictures(paths), [path.name for path in paths])
        return dataclasses.replace(found, orientation=np.array([orientation_of(path) for path in paths]))
