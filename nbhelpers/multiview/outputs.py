"""What was found, as files that people and other tools read."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.files import sha256, write_text
from nbhelpers.core.images import save_image
from nbhelpers.core.mattes import Mattes
from nbhelpers.core.orientation import INVERSE, MIRRORED, UPRIGHT, orientation_of, turn
from nbhelpers.core.runs import own_name, stems
from nbhelpers.core.scenes.files import few
from nbhelpers.core.scenes.writers import MODEL_FILES, write_colmap, write_transforms
from nbhelpers.export.layouts import LAYOUTS, write_layout
from nbhelpers.export.masks import save_cutout, save_mask
from nbhelpers.export.pointcloud import Cloud, save_glb, save_ply
from nbhelpers.export.verify import verify_layout
from nbhelpers.multiview.results import Result
from nbhelpers.plots import rgb
from nbhelpers.plots3d import save_html

log = logging.getLogger(__name__)
TOOLS = ("colmap", "nerfstudio")
CAMERAS = "nerfstudio/transforms.json"
COLUMNS = ("view_index", "photo", "found", "prompted", "similarity", "consistency", "score", "share", "why")


def save(result: Result, folder: str | Path, paths: Sequence[str | Path] | None = None) -> list[Path]:
    """Write everything that is known about a result; the files, the table of all last.

    ``masks``, ``overlays`` and ``alpha`` hold a picture a view; ``colmap`` and ``nerfstudio`` masks as these tools look
    for them, ``nerfstudio/transforms.json`` and ``sparse`` the cameras; ``scene.ply`` and ``scene.glb`` the points, one
    colour an object, ``scene.html`` the picture to turn; ``prompts.json`` what was said; ``results.csv`` and
    ``results.json`` the numbers.

    Args:
        result: see `Result`.
        folder: made if it is missing; what an earlier run wrote there of the same photos is replaced. Where it holds
            results of other photos, a number is added to its name, see `own_name`.
        paths: of the photos, for the names of masks in the tools' layouts and for how the photos are stored (see
            `nbhelpers.core.orientation`); what the session knows of its photos when left out.

    Raises:
        NbHelpersError: a folder that cannot be written.
    """
    folder, digest = Path(folder).expanduser(), _digest(result, paths)
    folder = folder.with_name(own_name(folder.parent, folder.name, digest, ["{}/results.json"]))
    photos = [Path(name) for name in result.session.photos.names] if paths is None else [Path(path) for path in paths]
    names = stems(photos)
    written = []
    for view, stem in zip(result, names, strict=True):
        mask = view.mask
        written.append(save_mask(folder / "masks" / f"{stem}.png", mask))
        written.append(save_image(folder / "overlays" / f"{stem}.jpg", view.overlay))
        image = result.session.image(view.view_index)
        written.append(save_cutout(folder / "alpha" / f"{stem}.png", image, mask))
    (folder / CAMERAS).unlink(missing_ok=True)  # an earlier one of ours: the exporter takes it for the photos' own
    turned = [
        orientation_of(path) if known == UPRIGHT and path.is_file() else known
        for path, known in zip(photos, result.session.photos.orientations, strict=True)
    ]
    known_as = _names(photos)
    masks: dict[str, dict[int, Path]] = {}
    for tool in TOOLS:
        masks[tool] = _layout(tool, result, folder / tool, known_as, turned)
        written += masks[tool].values()
    written += _scene(result, folder, known_as, turned, masks["nerfstudio"])
    result.session.log.save(folder / "prompts.json")
    written.append(folder / "prompts.json")
    return [*written, *_tables(result, folder, digest)]


def _digest(result: Result, paths: Sequence[str | Path] | None) -> str:
    """What tells these photos from others."""
    if paths is not None and all(Path(path).is_file() for path in paths):
        parts = [sha256(path) for path in paths]
    else:
        images = (np.ascontiguousarray(result.session.image(view)) for view in range(len(result)))
        parts = [hashlib.sha256(image).hexdigest() for image in images]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def records(result: Result) -> list[dict[str, Any]]:
    """A row a view, as in ``results.csv``."""
    rows = []
    for view in result:
        whole = result.views[view.view_index]
        rows.append(
            {
                "view_index": view.view_index,
                "photo": view.name,
                "found": view.found,
                "prompted": whole.prompted,
                "similarity": None if np.isnan(view.similarity) else round(view.similarity, 3),
                "consistency": round(view.consistency, 3),
                "score": round(whole.score, 3),
                "share": round(float(view.mask.mean()), 5),
                "why": view.why,
            }
        )
    return rows


def summary(result: Result) -> dict[str, Any]:
    """Everything in words and numbers, as in ``results.json``."""
    found = result.found
    out = {
        "object": result.name,
        "consistency": round(result.consistency, 3),
        "why": result.views.whole.why,
        "notes": list(result.notes),
        "seconds": round(result.views.seconds, 1),
        "models": {"segmenter": result.session.photos.segmenter.name, "scene": getattr(result.scene, "model", None)},
        "views": records(result),
    }
    if found is not None:
        out["phrase"] = {
            "text": found.choice.phrase.text,
            "understood": found.choice.phrase.understood,
            "decided": found.choice.decided,
            "why": found.choice.why,
            "missing": list(found.choice.missing),
            "reference_view": found.frame.view,
            "frame": found.frame.note,
            "ranking": [
                {"object": v.candidate.name, "score": round(v.score, 3), "why": v.why} for v in found.choice.ranking
            ],
        }
    return out


def _tables(result: Result, folder: Path, digest: str) -> list[Path]:
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(result))
    about = json.dumps({"sha256": digest, **summary(result)}, indent=1, ensure_ascii=False)
    return [write_text(folder / "results.csv", table.getvalue()), write_text(folder / "results.json", about)]


def cloud(result: Result) -> Cloud | None:
    """The scene's points with the labels of the object and of what its relations named, and these things' surfaces.

    None without a scene.
    """
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


def _names(photos: Sequence[Path]) -> list[str]:
    """File names; where two are the same, with the folders below the one that holds all."""
    names = [photo.name for photo in photos]
    if len(set(names)) < len(names):
        root = os.path.commonpath([photo.absolute().parent for photo in photos])
        names = [photo.absolute().relative_to(root).as_posix() for photo in photos]
    return names


def _scene(
    result: Result, folder: Path, names: Sequence[str], turned: Sequence[int], masks: Mapping[int, Path]
) -> list[Path]:
    points, scene = cloud(result), result.scene
    if points is None or scene is None:
        return []
    poses = scene.world_to_camera.copy()
    if (mirrored := np.isin(turned, MIRRORED) & scene.placed).any():
        poses[mirrored] = np.nan  # as a tool reads the photo, no camera of this world sees it
        who = few([name for name, bad in zip(names, mirrored, strict=True) if bad])
        log.warning("stored mirrored by EXIF, so without a camera in sparse and transforms.json: %s", who)
    scene = dataclasses.replace(scene, names=tuple(names), world_to_camera=poses, orientation=np.array(turned))
    for name in MODEL_FILES:  # an earlier run's, perhaps of the other kind
        (folder / "sparse" / name).unlink(missing_ok=True)
    cameras: list[Path] = []
    if scene.placed.any():
        write_colmap(scene, folder / "sparse")
        here = (folder / CAMERAS).parent
        there = [masks[view].relative_to(here).as_posix() for view in range(len(scene))]
        cameras.append(write_transforms(scene, folder / CAMERAS, masks=there))
        cameras += [path for path in sorted((folder / "sparse").iterdir()) if path.name in MODEL_FILES]
    page = save_html(folder / "scene.html", result.figure(title=result.name))
    made = [save_ply(folder / "scene.ply", points), save_glb(folder / "scene.glb", points, scene.up), page]
    return [*made, *cameras]


class _Clip:
    """Some views as the exporters want a clip: all of one size."""

    def __init__(self, result: Result, views: Sequence[int], names: Sequence[str], turned: Sequence[int]):
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


def _layout(tool: str, result: Result, folder: Path, names: Sequence[str], turned: Sequence[int]) -> dict[int, Path]:
    """Masks for a tool, verified, by view; of photos of several sizes each size by itself."""
    groups: dict[tuple[int, int], list[int]] = {}
    for view in range(len(result)):
        groups.setdefault(result.session.photos.size(view), []).append(view)
    paths = {}
    for views in groups.values():
        clip = _Clip(result, views, names, turned)
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
