"""Phrases: are they read right, and does the right object come out? ``python bench/eval_phrases.py DATA``.

``DATA`` holds ``kitchen/*.png`` and ``balbianello/*.jpg`` with ``Balbianello.out``. The phrases and their right
answers are in ``phrases.json`` beside this file: scenes of boxes with known places, where the objects are given and
only reading and relating are measured, and photos, where everything is. An object on photos is right when its mask in
the reference view, or its points seen from there, hold the point that was marked by hand. Where the honest answer is
that it cannot be told, that is right; elsewhere "right" is decided and right, "best guess" the same whether decided or
not. Prints each phrase and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from eval_multiview import poses

from nbhelpers import NbHelpersError, load
from nbhelpers.core.scenes import Scene
from nbhelpers.core.scenes.files import read_scene
from nbhelpers.multiview.grounding import PhraseGrounding, ground_phrase
from nbhelpers.multiview.referring import Phrase, parse_phrase
from nbhelpers.multiview.relations import ReferenceCandidate, ViewerFrame, resolve_reference
from nbhelpers.multiview.views import Photos

TARGETS = {"parsed": 1.0, "right": 0.85, "sideways": 0.95, "depthwise": 0.85}
KINDS = {
    "sideways": {"left", "right", "leftmost", "rightmost", "left of", "right of", "above", "below"},
    "depthwise": {"nearest", "farthest", "behind", "in front of", "foreground", "background"},
}
NEAR = 12  # pixels around the marked point in which a point of the object counts
PHRASES = Path(__file__).with_name("phrases.json")


def shape(phrase: Phrase) -> list:
    """A phrase as plain lists, as in the file."""
    return [
        phrase.noun.casefold(),
        [[relation.kind, *map(shape, relation.references)] for relation in phrase.relations],
    ]


def made(about: dict) -> tuple[ViewerFrame, dict[str, np.ndarray]]:
    """The viewer of a scene of boxes, and the points of each box on the sides that it shows to some cameras."""
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
    for name, (x, y, z, width, height, depth) in about["things"].items():
        points = rng.uniform(-0.5, 0.5, (300, 3))
        axis = rng.integers(0, 3, 300)
        points[np.arange(300), axis] = np.sign(points[np.arange(300), axis]) * 0.5
        out = np.zeros((300, 3))
        out[np.arange(300), axis] = np.sign(points[np.arange(300), axis])
        points = points * (width, height, depth) + (x, y, z)
        shown = ((scene.centers[:, None] - points[None]) * out[None]).sum(2).max(0) > 0
        clouds[name] = points[shown] + rng.normal(0, 0.01, (int(shown.sum()), 3))
    return ViewerFrame(scene, 0), clouds


def things_of(frame: ViewerFrame, clouds: dict[str, np.ndarray], phrase: Phrase) -> dict[str, list[ReferenceCandidate]]:
    """Candidates of each noun of a phrase: by name, plural or not; all for "object"."""
    every = [
        ReferenceCandidate(number, name, frame.extent(points)) for number, (name, points) in enumerate(clouds.items())
    ]
    out = {}
    for thing in phrase.subphrases():
        noun = thing.noun.casefold()
        own = [each for each in every if each.name.rstrip(" 0123456789") in (noun, noun.removesuffix("s"))]
        out[thing.noun] = every if thing.is_generic else own
    return out


def photo_scene(data: Path, name: str, segmenter, folder: Path | None) -> tuple[Photos, Scene]:
    """The photos of a scene and their cameras: known ones where there are any, else found or kept."""
    paths = sorted(path for path in (data / name).iterdir() if path.suffix in (".png", ".jpg"))
    if not paths:
        raise NbHelpersError("no photos to measure", given=data / name)
    known = next((data / name).glob("*.out"), None)
    scene = read_scene(known, paths) if known is not None else poses(name, paths, folder)
    return Photos(paths, segmenter), scene


def holds(found: PhraseGrounding, scene: Scene, view: int, point: list[float]) -> bool:
    """Whether the chosen object is at a marked point of a view."""
    thing = found.target
    if thing is None:
        return False
    mask = thing.mask(view)
    if mask is not None:
        return bool(mask[round(point[1]), round(point[0])])
    pixels, depth = scene.project(view, thing.xyz)
    return bool((np.linalg.norm(pixels[depth > 0] - point, axis=1) < NEAR).any())


def judge(entry: dict, name: str | None, decided: bool, parsed: bool, why: str) -> dict:
    """One row of the table, printed."""
    wanted = entry.get("right")
    guess = (name == wanted) if wanted is not None else not decided
    right = guess and (decided or wanted is None)
    kinds = {relation[0] for relation in entry["parsed"][1]}
    row = {"text": entry["text"], "parsed": parsed, "decided": decided, "right": right, "kinds": kinds}
    row |= {
        "guess": guess,
        "held_out": entry.get("held_out", False),
        "real": "view" in entry,
        "honest": wanted is None,
    }
    mark = "right" if right else "guess" if guess else "WRONG"
    print(f"{entry['scene']:12} {mark:6} {'' if decided else 'undecided ':10}{entry['text']}: {why[:110]}")
    return row


def evaluate(data: Path, made_only: bool, segmenter_name: str, encoder_name: str, folder: Path | None) -> dict:
    """Measure all phrases, printing as it goes, and return the figures."""
    known = json.loads(PHRASES.read_text(encoding="utf-8"))
    rows, scenes = [], {name: made(about) for name, about in known["made"].items()}
    photos: dict[str, tuple[Photos, Scene]] = {}
    for entry in known["phrases"]:
        phrase = parse_phrase(entry["text"])
        parsed = shape(phrase) == entry["parsed"]
        if entry["scene"] in scenes:
            frame, clouds = scenes[entry["scene"]]
            choice = resolve_reference(phrase, things_of(frame, clouds, phrase))
            name = choice.best.name if choice.best else None
        elif made_only:
            continue
        else:
            if entry["scene"] not in photos:
                segmenter = load("segmenter", segmenter_name)
                photos[entry["scene"]] = photo_scene(data, entry["scene"], segmenter, folder)
            views, scene = photos[entry["scene"]]
            found = ground_phrase(views, phrase, load("text_encoder", encoder_name), scene, entry["view"])
            choice = found.resolution
            entry = {**entry, "right": "marked"}
            marks = entry.get("points") or [entry["point"]]
            name = "marked" if any(holds(found, scene, entry["view"], mark) for mark in marks) else "another"
        rows.append(judge(entry, name, choice.decided, parsed, choice.why))
    return {"measure": "phrases", "targets": TARGETS, **_figures(rows)}


def _figures(rows: list[dict]) -> dict:
    out = {
        "phrases": len(rows),
        "parsed": _share(rows, "parsed"),
        "right": _share(rows, "right"),
        "best_guess": _share(rows, "guess"),
    }
    for name, kinds in KINDS.items():
        own = [row for row in rows if row["kinds"] & kinds and row["decided"] and not row["honest"]]
        out[name] = _share(own, "right")
        out[f"{name}_decided"] = len(own)
    out["right_held_out"] = _share([row for row in rows if row["held_out"]], "right")
    out["right_on_photos"] = _share([row for row in rows if row["real"]], "right")
    out["undecided"] = sum(not row["decided"] and not row["honest"] for row in rows)
    return out


def _share(rows: list[dict], key: str) -> float | None:
    return round(float(np.mean([row[key] for row in rows])), 3) if rows else None


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--made-only", action="store_true", help="leave the photos out; takes a second")
    parser.add_argument("--encoder", default="conse-lite", help="catalog name of a text encoder")
    parser.add_argument("--segmenter", default="sam2-hiera-tiny-lite", help="catalog name of a segmenter")
    parser.add_argument("--poses", type=Path, help="folder where estimated scenes are kept between runs")
    asked = parser.parse_args()
    try:
        print(json.dumps(evaluate(asked.data, asked.made_only, asked.segmenter, asked.encoder, asked.poses)))
    except NbHelpersError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
