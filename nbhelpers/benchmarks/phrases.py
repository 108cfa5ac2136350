"""Phrases: are they parsed right, and does the right object come out? And cameras: how well are they recovered?"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nbhelpers.benchmarks.metrics import rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene
from nbhelpers.core.scenes.files import read_scene
from nbhelpers.models.load import load
from nbhelpers.multiview.grounding import PhraseGrounding, ground_phrase
from nbhelpers.multiview.referring import Phrase, parse_phrase
from nbhelpers.multiview.relations import ReferenceCandidate, ViewerFrame, resolve_reference
from nbhelpers.multiview.views import Photos, select_views

SIDEWAYS = {"left", "right", "leftmost", "rightmost", "left of", "right of", "above", "below"}
DEPTHWISE = {"nearest", "farthest", "behind", "in front of", "foreground", "background"}
NEAR = 12  # pixels around the marked point in which a point of the object counts
CAMERA_SCENES = ("balbianello", "temple", "kitchen")


@cache
def _answers() -> dict[str, Any]:
    """The phrases with their right answers, and the scenes of boxes."""
    return json.loads(files("nbhelpers.benchmarks").joinpath("phrases.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class SpatialPhrases:
    """Spatial phrases with known answers; a `nbhelpers.benchmarks.runner.Benchmark`.

    On scenes of boxes with known places, the objects are given and only parsing and relations are measured; on photos
    (``kitchen/``, ``balbianello/`` with its Bundler file) everything is. An object on photos is right when its mask in
    the reference view, or its points seen from there, hold the point that was marked by hand. Where the honest answer
    is that it is undecidable, that is right. A decided and right answer counts as ``right``, and the best candidate
    alone as ``best_guess``.

    Attributes:
        folder: of the scenes.
        synthetic_only: leave the photos out.
        text_encoder: catalog name, or a model.
        segmenter: likewise.
    """

    folder: str | Path
    synthetic_only: bool = False
    text_encoder: Any = None
    segmenter: Any = None
    kind = "phrases"
    measure_name = "right"
    dataset = "phrases"

    def names(self) -> list[str]:
        """The phrases, with their numbers and scenes."""
        made = _answers()["made"]
        entries = enumerate(_answers()["phrases"])
        return [
            f"{number:03d} {each['scene']}: {each['text']}"
            for number, each in entries
            if each["scene"] in made or not self.synthetic_only
        ]

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        facts: dict[str, Any] = {"dataset": self.dataset, "synthetic_only": self.synthetic_only}
        if not self.synthetic_only:
            facts["text_encoder"] = model_name("text_encoder", self.text_encoder)
            facts["segmenter"] = model_name("segmenter", self.segmenter)
        return facts

    def measure(self, name: str) -> dict[str, Any]:
        """Whether one phrase is parsed right, and whether the right object comes out."""
        entry = _answers()["phrases"][int(name.split(" ")[0])]
        phrase = parse_phrase(entry["text"])
        clock = time.perf_counter()
        if entry["scene"] in _answers()["made"]:
            frame, clouds = box_scene(entry["scene"])
            choice = resolve_reference(phrase, candidates(frame, clouds, phrase))
            found, wanted = choice.best.name if choice.best else None, entry.get("right")
        else:
            photos, scene = _photo_scene(str(self.folder), entry["scene"], self.segmenter)
            grounded = ground_phrase(photos, phrase, resolve("text_encoder", self.text_encoder), scene, entry["view"])
            choice, wanted = grounded.resolution, "marked"
            marks = entry.get("points") or [entry["point"]]
            found = "marked" if any(_holds(grounded, scene, entry["view"], mark) for mark in marks) else "another"
        guess = (found == wanted) if wanted is not None else not choice.decided
        return {
            "text": entry["text"],
            "parsed": _shape(phrase) == entry["parsed"],
            "decided": choice.decided,
            "right": guess and (choice.decided or wanted is None),
            "guess": guess,
            "held_out": entry.get("held_out", False),
            "photo": "view" in entry,
            "honest": wanted is None,
            "kinds": sorted({relation[0] for relation in entry["parsed"][1]}),
            "why": choice.why,
            "cost": {"search": round(time.perf_counter() - clock, 3)},
        }

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Fractions over all phrases, and over those of one kind."""
        out: dict[str, Any] = {
            "right": _fraction(records, "right"),
            "parsed": _fraction(records, "parsed"),
            "best_guess": _fraction(records, "guess"),
        }
        for name, kinds in (("sideways", SIDEWAYS), ("depthwise", DEPTHWISE)):
            own = [each for each in records if kinds & set(each["kinds"]) and each["decided"] and not each["honest"]]
            out |= {name: _fraction(own, "right"), f"{name}_decided": len(own)}
        out["right_held_out"] = _fraction([each for each in records if each["held_out"]], "right")
        out["right_on_photos"] = _fraction([each for each in records if each["photo"]], "right")
        out["undecided"] = sum(not each["decided"] and not each["honest"] for each in records)
        return rounded(out)


def _fraction(records: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return float(np.mean([record[key] for record in records])) if records else None


def _shape(phrase: Phrase) -> list:
    """A phrase as plain lists, as in the file."""
    return [
        phrase.noun.casefold(),
        [[relation.kind, *map(_shape, relation.references)] for relation in phrase.relations],
    ]


@cache
def box_scene(name: str) -> tuple[ViewerFrame, dict[str, Float[np.ndarray, "_ 3"]]]:
    """The viewer of a scene of boxes, and the points of each box on the sides that it shows to some cameras."""
    about = _answers()["made"][name]
    eye, target = np.array(about["eye"], float), np.array(about["target"], float)
    poses = []
    for turn in (0.0, 0.5, -0.5):
        cosine, sine = np.cos(turn), np.sin(turn)
        spin = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        place = target + spin @ (eye - target)
        ahead = (target - place) / np.linalg.norm(target - place)
        right = np.cross(ahead, (0.0, 1.0, 0.0))
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(ahead, right), ahead])
        poses.append(np.concatenate([axes, -(axes @ place)[:, None]], 1))
    K = np.tile(np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]]), (3, 1, 1))  # noqa: N806
    none = np.empty(0, int)
    scene = Scene(
        ("a", "b", "c"), np.tile([480, 640], (3, 1)), K, np.stack(poses), np.empty((0, 3)),
        np.empty((0, 3), np.uint8), none, none, np.empty((0, 2)),
    )  # fmt: skip
    rng, clouds = np.random.default_rng(0), {}
    for label, (x, y, z, width, height, depth) in about["things"].items():
        points = rng.uniform(-0.5, 0.5, (300, 3))
        axis = rng.integers(0, 3, 300)
        points[np.arange(300), axis] = np.sign(points[np.arange(300), axis]) * 0.5
        out = np.zeros((300, 3))
        out[np.arange(300), axis] = np.sign(points[np.arange(300), axis])
        points = points * (width, height, depth) + (x, y, z)
        shown = ((scene.centers[:, None] - points[None]) * out[None]).sum(2).max(0) > 0
        clouds[label] = points[shown] + rng.normal(0, 0.01, (int(shown.sum()), 3))
    return ViewerFrame(scene, 0), clouds


def candidates(
    frame: ViewerFrame, clouds: Mapping[str, Float[np.ndarray, "_ 3"]], phrase: Phrase
) -> dict[str, list[ReferenceCandidate]]:
    """Candidates of each noun of a phrase: by name, plural or not; all for "object"."""
    every = [
        ReferenceCandidate(number, name, frame.extent(points)) for number, (name, points) in enumerate(clouds.items())
    ]
    out = {}
    for part in phrase.subphrases():
        noun = part.noun.casefold()
        own = [each for each in every if each.name.rstrip(" 0123456789") in (noun, noun.removesuffix("s"))]
        out[part.noun] = every if part.is_generic else own
    return out


@lru_cache(maxsize=2)
def _photo_scene(folder: str, name: str, segmenter: Any) -> tuple[Photos, Scene]:
    """The photos of a scene and their cameras: known ones where there are any, else estimated."""
    root = Path(folder).expanduser() / name
    paths = sorted(path for path in root.iterdir() if path.suffix in (".png", ".jpg")) if root.is_dir() else []
    if not paths:
        raise NbHelpersError("there are no photos to measure", given=root)
    known = next(root.glob("*.out"), None)
    if known is not None:
        scene = read_scene(known, paths)
    else:
        from nbhelpers.core.images import load_image

        scene = load("scene_estimator").reconstruct([load_image(p) for p in paths], [p.name for p in paths])
    return Photos(paths, resolve("segmenter", segmenter)), scene


def _holds(found: PhraseGrounding, scene: Scene, view: int, point: Sequence[float]) -> bool:
    """Whether the chosen object is at a marked point of a view."""
    target = found.target
    if target is None:
        return False
    mask = target.mask(view)
    if mask is not None:
        return bool(mask[round(point[1]), round(point[0])])
    pixels, depth = scene.project(view, target.xyz)
    return bool((np.linalg.norm(pixels[depth > 0] - point, axis=1) < NEAR).any())


@dataclass(frozen=True)
class CameraRecovery:
    """Cameras from photos against known ones; a `nbhelpers.benchmarks.runner.Benchmark`.

    A scene is a folder of photos; where it holds cameras too (a COLMAP model, ``transforms.json``, a Bundler file,
    ``*_par.txt``), the errors are against these. Rotations are compared from view to view, in degrees; positions after
    the best similarity, as a fraction of the spread of the cameras.

    Attributes:
        folder: that holds the scenes.
        estimator: catalog name.
        scenes: names of the folders.
    """

    folder: str | Path
    estimator: str = "colmap"
    scenes: tuple[str, ...] = CAMERA_SCENES
    kind = "cameras"
    measure_name = "registered"
    dataset = "cameras"

    def names(self) -> list[str]:
        """The scenes that are there."""
        here = [name for name in self.scenes if (Path(self.folder).expanduser() / name).is_dir()]
        if not here:
            raise NbHelpersError("there are no scenes", given=self.folder, expected=", ".join(self.scenes))
        return here

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        return {"dataset": self.dataset, "scene_estimator": self.estimator}

    def measure(self, name: str) -> dict[str, Any]:
        """Registered photos and errors of one scene."""
        from nbhelpers.models.colmap.estimator import center_difference, rotation_differences

        folder = Path(self.folder).expanduser() / name
        views = select_views(folder)
        clock, cpu = time.perf_counter(), time.process_time()
        scene = load("scene_estimator", self.estimator).reconstruct(views, views.names)
        cost = {"estimate": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
        record: dict[str, Any] = {
            "photos": len(scene),
            "registered": int(scene.placed.sum()),
            "points": len(scene.points),
            "pixels": float(np.median(scene.errors)) if len(scene.points) else None,
            "notes": list(scene.notes),
        }
        try:
            known = read_scene(folder, views.paths)
        except NbHelpersError:
            known = None
        both = scene.placed & known.placed if known is not None else np.zeros(len(scene), bool)
        if known is not None and both.sum() > 1:
            poses = known.world_to_camera[both], scene.world_to_camera[both]
            angles = rotation_differences(*(each[:, :, :3] for each in poses))[np.triu_indices(both.sum(), 1)]
            record |= {"rotation": float(np.median(angles)), "worst_rotation": float(angles.max())}
            record["position"] = float(center_difference(*poses))
        return record | {"cost": {key: round(value, 2) for key, value in cost.items()}}

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Fraction of the photos that were registered; medians of the errors, in degrees and of the spread."""
        photos, registered = (sum(record[key] for record in records) for key in ("photos", "registered"))
        known = [record for record in records if "rotation" in record]
        out: dict[str, Any] = {"registered": registered / max(1, photos), "photos": photos}
        if known:
            out["rotation_degrees"] = float(np.median([record["rotation"] for record in known]))
            out["position"] = float(np.median([record["position"] for record in known]))
        return rounded(out)
