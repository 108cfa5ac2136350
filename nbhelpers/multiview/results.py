"""Results of a phrase or of clicks: one for each view and all together, as data and as files."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import own_name, sha256, stems, write_text
from nbhelpers.core.images import INVERSE, MIRRORED, UPRIGHT, orientation_of, save_image, turn
from nbhelpers.core.mattes import Mattes
from nbhelpers.core.scene_files import MODEL_FILES, write_colmap, write_transforms
from nbhelpers.core.scenes import Scene, few
from nbhelpers.export.layouts import LAYOUTS, write_layout
from nbhelpers.export.masks import check_formats, save_cutout, save_mask
from nbhelpers.export.pointcloud import Cloud, save_glb, save_ply
from nbhelpers.export.verify import verify_layout
from nbhelpers.multiview.association import lift_mask
from nbhelpers.multiview.consistency import ViewMasks
from nbhelpers.multiview.grounding import PhraseGrounding
from nbhelpers.plots import colour_of, overlay, rgb
from nbhelpers.plots3d import Arrow, draw_scene, save_html

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from nbhelpers.multiview.session import ViewsSession

log = logging.getLogger(__name__)
MAX_SURFACE_VIEWS = 4  # from which the object's surface is lifted
TOOLS = ("colmap", "nerfstudio")
CAMERAS = "nerfstudio/transforms.json"
FORMATS = ("masks", "overlays", "alpha", *TOOLS, "scene", "prompts")
"""What `save_result` writes."""
COLUMNS = ("view_index", "photo", "found", "prompted", "similarity", "consistency", "score", "share", "why")


@dataclass(frozen=True, eq=False)
class ViewResult:
    """The object in one view.

    Attributes:
        view_index: number of the photo.
        name: of the photo.
        similarity: of the view to the noun, 0 to 1; NaN if it was not searched.
        consistency: of its mask with those of the others, 0 to 1.
        why: the reason as a sentence.
        found: whether the object was found here.
    """

    view_index: int
    name: str
    similarity: float
    consistency: float
    why: str
    found: bool
    _result: MultiviewResult = field(repr=False)

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """At the photo's size, decoded at each call."""
        return self._result.views.mask(self.view_index)

    @property
    def overlay(self) -> UInt8[np.ndarray, "h w 3"]:
        """The photo with the mask overlaid."""
        return overlay(self._result.session.image(self.view_index), self.mask)


@dataclass(frozen=True, eq=False)
class MultiviewResult:
    """The same object in all views: a sequence of `ViewResult`.

    Example:
        >>> result = MultiviewSegmenter().segment("photos", "chair behind the desk")
        >>> for view in result:
        ...     view.view_index, view.mask, view.overlay, view.similarity, view.consistency
        >>> print(result)

    Attributes:
        session: for corrections; after another ``solve()`` see `with_views`.
        views: masks and consistency.
        grounding: of the phrase; None without one.
        name: of the object.
        notes: messages for the user.
    """

    session: ViewsSession = field(repr=False)
    views: ViewMasks = field(repr=False)
    grounding: PhraseGrounding | None
    name: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, view: int) -> ViewResult:
        each = self.views[view]
        similarity = float("nan")
        if (
            self.grounding is not None
            and self.grounding.similarity.shape[1]
            and self.grounding.resolution.phrase.noun in self.grounding.nouns
        ):
            column = self.grounding.nouns.index(self.grounding.resolution.phrase.noun)
            similarity = float(self.grounding.similarity[view, column])
        return ViewResult(view, each.name, similarity, each.consistency.value, each.consistency.why, each.found, self)

    def __iter__(self) -> Iterator[ViewResult]:
        return (self[view] for view in range(len(self)))

    @property
    def scene(self) -> Scene | None:
        """Cameras and points; None if only features were used."""
        return self.session.scene

    @property
    def consistency(self) -> float:
        """Consistency of all views together, 0 to 1."""
        return self.views.overall.value

    def __str__(self) -> str:
        lines = []
        if self.grounding is not None:
            lines += [self.grounding.resolution.phrase.understood, self.grounding.resolution.why]
        count = sum(view.found for view in self.views)
        lines.append(
            f"{self.name}: found in {count} of {len(self)} views, consistency {self.consistency:.2f}, "
            f"{self.views.overall.why}"
        )
        doubtful = [view for view in self.views if view.consistency.is_doubtful]
        lines += [f"inspect: {view.consistency.why}" for view in doubtful]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def labels(self) -> tuple[Int[np.ndarray, " p"], tuple[str, ...], tuple[str, ...]]:
        """Object index of each point of the scene, -1 for none; names and colours of the objects.

        The target is the first object, followed by the landmarks of its relations.
        """
        scene = self.scene
        labels = np.full(0 if scene is None else len(scene.points), -1)
        others = () if self.grounding is None else self.grounding.references
        names = (self.name, *(other.name for other in others))
        for number, other in reversed(list(enumerate(others, 1))):
            labels[other.points] = number
        labels[self.views.points] = 0
        return labels, names, tuple(colour_of(number) for number in range(len(names)))

    def surface(self) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, " n"]]:
        """Points on the surfaces of the objects, from lifted masks, and the object index of each.

        Of the target the masks of its `MAX_SURFACE_VIEWS` most consistent views are lifted.
        """
        scene = self.scene
        if scene is None:
            return np.empty((0, 3)), np.empty(0, int)
        order = sorted((view for view in self if view.found), key=lambda view: -view.consistency)
        placed = [view for view in order if scene.placed[view.view_index]][:MAX_SURFACE_VIEWS]
        parts = [np.concatenate([np.empty((0, 3)), *(lift_mask(scene, view.view_index, view.mask) for view in placed)])]
        parts += [other.xyz for other in (() if self.grounding is None else self.grounding.references)]
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def arrows(self) -> tuple[Arrow, ...]:
        """The relations of the target as arrows for a 3D plot."""
        if self.grounding is None or not self.grounding.resolution.ranking:
            return ()
        names = [other.name for other in self.grounding.references]
        out = []
        for score in self.grounding.resolution.ranking[0].relation_scores:
            if score.references:
                ends = [names.index(self.grounding.objects[n].name) + 1 for n in score.references]
            else:
                ends = [-1]
            text = f"{score.relation.words} ({score.score:.2f})"
            out += [Arrow(0, end, text if index == 0 else "") for index, end in enumerate(ends)]
        return tuple(out)

    def figure(self, **what: Any) -> Figure:
        """Interactive 3D plot: points coloured by object, cameras, relations; see `nbhelpers.plots3d.draw_scene`.

        Raises:
            NbHelpersError: no cameras and points are known.
        """
        if self.scene is None:
            raise NbHelpersError("there is nothing to draw", given="a result without cameras and points")
        labels, names, colours = self.labels()
        reference = None if self.grounding is None else self.grounding.frame.view
        return draw_scene(self.scene, labels, names, colours, arrows=self.arrows(), reference=reference, **what)

    def with_views(self, views: ViewMasks) -> MultiviewResult:
        """This result with the views of a later ``session.solve()``."""
        return MultiviewResult(self.session, views, self.grounding, self.name, self.notes)


def save_result(
    result: MultiviewResult,
    folder: str | Path,
    paths: Sequence[str | Path] | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Write a result to files, and return their paths, ``results.json`` last.

    ``masks``, ``overlays`` and ``alpha`` contain an image for each view; ``colmap`` and ``nerfstudio`` masks as these
    tools expect them; ``nerfstudio/transforms.json`` and ``sparse`` the cameras; ``scene.ply`` and ``scene.glb`` the
    points, coloured by object; ``scene.html`` an interactive plot; ``prompts.json`` the prompt log; ``results.csv`` and
    ``results.json`` the numbers, which are always written.

    Args:
        result: see `MultiviewResult`.
        folder: created if necessary; results of the same photos are replaced. If it contains results of other
            photos, a number is appended to its name, see `nbhelpers.core.files.own_name`.
        paths: of the photos, for the names of masks in the tools' layouts and the stored orientation (see
            `nbhelpers.core.images`); by default those that the session knows.
        formats: some of `FORMATS`; ``"scene"`` stands for ``sparse`` and the files named ``scene``.

    Raises:
        NbHelpersError: an unknown format, or the folder cannot be written.
    """
    check_formats(formats, FORMATS)
    folder, digest = Path(folder).expanduser(), _digest(result, paths)
    folder = folder.with_name(own_name(folder.parent, folder.name, digest, ["{}/results.json"]))
    photos = [Path(name) for name in result.session.photos.names] if paths is None else [Path(path) for path in paths]
    names = stems(photos)
    written = []
    for view, stem in zip(result, names, strict=True):
        if "masks" in formats:
            written.append(save_mask(folder / "masks" / f"{stem}.png", view.mask))
        if "overlays" in formats:
            written.append(save_image(folder / "overlays" / f"{stem}.jpg", view.overlay))
        if "alpha" in formats:
            image = result.session.image(view.view_index)
            written.append(save_cutout(folder / "alpha" / f"{stem}.png", image, view.mask))
    (folder / CAMERAS).unlink(missing_ok=True)  # an earlier one of ours: the exporter takes it for the photos' own
    turned = [
        orientation_of(path) if known == UPRIGHT and path.is_file() else known
        for path, known in zip(photos, result.session.photos.orientations, strict=True)
    ]
    known_as = _file_names(photos)
    masks: dict[str, dict[int, Path]] = {}
    for tool in (tool for tool in TOOLS if tool in formats):
        masks[tool] = _save_layout(tool, result, folder / tool, known_as, turned)
        written += masks[tool].values()
    written += _save_scene(result, folder, known_as, turned, masks.get("nerfstudio"), "scene" in formats)
    if "prompts" in formats:
        written.append(result.session.log.save(folder / "prompts.json"))
    return [*written, *_save_tables(result, folder, digest)]


def _digest(result: MultiviewResult, paths: Sequence[str | Path] | None) -> str:
    """A hash of the photos."""
    if paths is not None and all(Path(path).is_file() for path in paths):
        parts = [sha256(path) for path in paths]
    else:
        images = (np.ascontiguousarray(result.session.image(view)) for view in range(len(result)))
        parts = [hashlib.sha256(image).hexdigest() for image in images]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def result_rows(result: MultiviewResult) -> list[dict[str, Any]]:
    """One row for each view, as in ``results.csv``."""
    rows = []
    for view in result:
        each = result.views[view.view_index]
        rows.append(
            {
                "view_index": view.view_index,
                "photo": view.name,
                "found": view.found,
                "prompted": each.prompted,
                "similarity": None if np.isnan(view.similarity) else round(view.similarity, 3),
                "consistency": round(view.consistency, 3),
                "score": round(each.score, 3),
                "share": round(float(view.mask.mean()), 5),
                "why": view.why,
            }
        )
    return rows


def result_summary(result: MultiviewResult) -> dict[str, Any]:
    """All messages and numbers, as in ``results.json``."""
    grounding = result.grounding
    out = {
        "object": result.name,
        "consistency": round(result.consistency, 3),
        "why": result.views.overall.why,
        "notes": list(result.notes),
        "seconds": round(result.views.seconds, 1),
        "models": {"segmenter": result.session.photos.segmenter.name, "scene": getattr(result.scene, "model", None)},
        "views": result_rows(result),
    }
    if grounding is not None:
        out["phrase"] = {
            "text": grounding.resolution.phrase.text,
            "understood": grounding.resolution.phrase.understood,
            "decided": grounding.resolution.decided,
            "why": grounding.resolution.why,
            "missing": list(grounding.resolution.missing),
            "reference_view": grounding.frame.view,
            "frame": grounding.frame.note,
            "ranking": [
                {"object": v.candidate.name, "score": round(v.score, 3), "why": v.why}
                for v in grounding.resolution.ranking
            ],
        }
    return out


def _save_tables(result: MultiviewResult, folder: Path, digest: str) -> list[Path]:
    """Write ``results.csv`` and ``results.json``."""
    table = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(result_rows(result))
    about = json.dumps({"sha256": digest, **result_summary(result)}, indent=1, ensure_ascii=False)
    return [write_text(folder / "results.csv", table.getvalue()), write_text(folder / "results.json", about)]


def labelled_cloud(result: MultiviewResult) -> Cloud | None:
    """The scene's points and the objects' surfaces, labelled by object; None without a scene."""
    if result.scene is None or not len(result.scene.points):
        return None
    labels, names, colours = result.labels()
    more, owners = result.surface()
    shown = [rgb(colour) for colour in colours]
    return Cloud(
        np.concatenate([result.scene.points, more]),
        np.concatenate([result.scene.colors, np.array(shown, np.uint8)[owners]]),
        np.concatenate([labels, owners]),
        names,
        shown,
    )


def _file_names(photos: Sequence[Path]) -> list[str]:
    """File names; where two are equal, paths relative to the common folder."""
    names = [photo.name for photo in photos]
    if len(set(names)) < len(names):
        root = os.path.commonpath([photo.absolute().parent for photo in photos])
        names = [photo.absolute().relative_to(root).as_posix() for photo in photos]
    return names


def _save_scene(
    result: MultiviewResult,
    folder: Path,
    names: Sequence[str],
    turned: Sequence[int],
    masks: Mapping[int, Path] | None,
    clouds: bool,
) -> list[Path]:
    """Write the cameras for nerfstudio beside its ``masks``; with ``clouds`` those for COLMAP, points and a 3D plot."""
    points, scene = labelled_cloud(result), result.scene
    if points is None or scene is None or (masks is None and not clouds):
        return []
    poses = scene.world_to_camera.copy()
    if (mirrored := np.isin(turned, MIRRORED) & scene.placed).any():
        poses[mirrored] = np.nan  # tools read a mirrored photo, which no camera can produce
        who = few([name for name, bad in zip(names, mirrored, strict=True) if bad])
        log.warning("stored mirrored by EXIF, so without a camera in sparse and transforms.json: %s", who)
    scene = dataclasses.replace(scene, names=tuple(names), world_to_camera=poses, orientation=np.array(turned))
    cameras: list[Path] = []
    if masks is not None and scene.placed.any():
        here = (folder / CAMERAS).parent
        there = [masks[view].relative_to(here).as_posix() for view in range(len(scene))]
        cameras.append(write_transforms(scene, folder / CAMERAS, masks=there))
    if not clouds:
        return cameras
    for name in MODEL_FILES:  # an earlier run's, perhaps of the other kind
        (folder / "sparse" / name).unlink(missing_ok=True)
    if scene.placed.any():
        write_colmap(scene, folder / "sparse")
        cameras += [path for path in sorted((folder / "sparse").iterdir()) if path.name in MODEL_FILES]
    page = save_html(folder / "scene.html", result.figure(title=result.name))
    made = [save_ply(folder / "scene.ply", points), save_glb(folder / "scene.glb", points, scene.up), page]
    return [*made, *cameras]


class _SameSizeViews:
    """Views of one size with the interface of a clip, for the exporters."""

    def __init__(self, result: MultiviewResult, views: Sequence[int], names: Sequence[str], turned: Sequence[int]):
        self._result, self.views = result, list(views)
        self.size = result.views.mask(self.views[0]).shape
        self.names = [names[view] for view in self.views]
        self.orientations = [turned[view] for view in self.views]
        self.paths = None

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._result.session.image(self.views[index])


def _save_layout(
    tool: str, result: MultiviewResult, folder: Path, names: Sequence[str], turned: Sequence[int]
) -> dict[int, Path]:
    """Write masks in the layout of a tool, by view, separately for each photo size."""
    groups: dict[tuple[int, int], list[int]] = {}
    for view in range(len(result)):
        groups.setdefault(result.session.photos.size(view), []).append(view)
    paths = {}
    for views in groups.values():
        clip = _SameSizeViews(result, views, names, turned)
        mattes = Mattes(clip, lambda index, clip=clip: result.views.mask(clip.views[index]))
        plan = LAYOUTS[tool](mattes, folder)
        paths |= {views[target.frame]: target.path for target in plan.targets}
        if len(groups) > 1:
            for target in plan.targets:
                save_mask(target.path, turn(result.views.mask(views[target.frame]), INVERSE[target.orientation]))
        else:
            write_layout(plan, mattes, True)
            verify_layout(plan, mattes).check()
    return paths
