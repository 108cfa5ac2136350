"""One object in all views of a scene: IoU, corrections, wrong prompts, consistency; spatial phrases; cameras."""

from __future__ import annotations

import io
import json
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from nbhelpers.benchmarks.datasets import VOID, files_by_stem, read_values
from nbhelpers.benchmarks.metrics import area_under_roc, rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES
from nbhelpers.core.images import load_image
from nbhelpers.core.masks import box_of, components, deepest_points, fill_holes, load_mask, polygon_mask
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.scenes import Scene, read_scene
from nbhelpers.models.load import load
from nbhelpers.multiview import MultiviewSegmenter, Photos, ViewsSession
from nbhelpers.multiview.grounding import PhraseGrounding, ground_phrase
from nbhelpers.multiview.referring import Phrase, parse_phrase
from nbhelpers.multiview.relations import ReferenceCandidate, ViewerFrame, resolve_reference
from nbhelpers.multiview.views import select_views

BAD = 0.8  # IoU under which a view counts as badly segmented
CORRECTED = 0.9  # mean IoU under which one correcting click is tried
DARK = 45  # grey level of the temple's background
PHRASES = {"bulldozer": "yellow tractor", "pink mat": "pink mat"}
REFERENCES = {"bulldozer": (0, 3, 6), "pink mat": (0, 3, 6), "temple": (0, 5, 11)}
CLICKS = 8, 2  # including and excluding clicks of SAGA's protocol, which MV-SAM follows
TREES = {
    "kitchen": "kitchen/*.png: nine photos of the Mip-NeRF 360 kitchen of 779 x 520",
    "temple": "temple/*.png: Middlebury templeSparseRing",
    "spin-nerf": "SCENE/images/NAME.jpg and SCENE/masks/NAME.png for each annotated view (spinnerf3d.github.io)",
    "nvos": "labels/llff/{reference_image,scribbles,masks}/SCENE/, llff/SCENE/images/ (jason-aisheng.github.io/nvos)",
}


@dataclass(frozen=True, eq=False)
class ViewTruth:
    """True masks of one object by view, what is not counted, and prompts that the dataset gives.

    Attributes:
        masks: by the view's number; views without one are not counted.
        void: likewise.
        prompt: of the dataset, and the view that it is for.
    """

    masks: Mapping[int, Bool[np.ndarray, "_ _"]]
    void: Mapping[int, Bool[np.ndarray, "_ _"]]
    prompt: tuple[int, Prompt] | None = None

    def iou(self, view: int, mask: Bool[np.ndarray, "_ _"]) -> float:
        """IoU over the counted pixels."""
        counted = ~self.void[view]
        a, b = mask & counted, self.masks[view] & counted
        union = np.count_nonzero(a | b)
        return float(np.count_nonzero(a & b) / union) if union else 1.0

    def accuracy(self, view: int, mask: Bool[np.ndarray, "_ _"]) -> float:
        """Fraction of the counted pixels that are right."""
        counted = ~self.void[view]
        return float((mask == self.masks[view])[counted].mean())

    def correction(self, view: int, mask: Bool[np.ndarray, "_ _"]) -> tuple[tuple[float, float], int]:
        """A correcting click and its label: the deepest point of the largest error."""
        counted = ~self.void[view]
        errors = self.masks[view] & ~mask, mask & ~self.masks[view]
        missed, extra = (components(part & counted) == 1 for part in errors)
        label = int(np.count_nonzero(missed) >= np.count_nonzero(extra))
        point = deepest_points(missed if label else extra, 1, 1)[0]
        return (float(point[0]), float(point[1])), label

    def prompt_of(self, view: int, how: str) -> Prompt:
        """The true box of a view, a click at the deepest point, or SAGA's eight including and two excluding clicks."""
        sure = self.masks[view] & ~self.void[view]
        if how == "box":
            return Prompt(box=box_of(sure))
        if how == "click":
            return Prompt(deepest_points(sure, 1, 1))
        include = deepest_points(sure, np.sqrt(sure.sum()) / 8, CLICKS[0])
        exclude = deepest_points(~(self.masks[view] | self.void[view]), max(sure.shape) / 4, CLICKS[1])
        return Prompt(np.concatenate([include, exclude]), [1] * len(include) + [0] * len(exclude))

    def beside(self, view: int) -> Prompt:
        """A click that is not on the object: the deepest point of the rest of the photo."""
        return Prompt(deepest_points(~(self.masks[view] | self.void[view]), 1, 1))


def temple_mask(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """What is brighter than the dark background: opened by 3 pixels, the largest component, closed over 9 pixels.

    Grooves of the stone are as dark as the background; gaps between the columns are wider than 9 pixels.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    bright = cv2.morphologyEx((grey > DARK).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    body = cv2.copyMakeBorder((components(bright > 0) == 1).astype(np.uint8), 16, 16, 16, 16, cv2.BORDER_CONSTANT)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    return fill_holes(cv2.morphologyEx(body, cv2.MORPH_CLOSE, disk)[16:-16, 16:-16] > 0, 400)


def kitchen_truth(name: str, photos: Sequence[Path]) -> ViewTruth:
    """The hand-drawn outlines of an object of the kitchen; what stands before it is subtracted."""
    data = json.loads(files("nbhelpers.benchmarks").joinpath("kitchen_outlines.json").read_text(encoding="utf-8"))
    size = tuple(data["size"])

    def fill(polygons: list) -> np.ndarray:
        mask = np.zeros(size, bool)
        for points in polygons:
            mask |= polygon_mask([tuple(point) for point in points], size)
        return mask

    masks, void = {}, {}
    for view, photo in enumerate(photos):
        drawn = data["objects"][name][photo.name]
        mask, unknown = fill(drawn["outline"]), fill(drawn["void"])
        for other in drawn.get("minus", ()):
            before = data["objects"][other][photo.name]
            mask &= ~fill(before["outline"])
            unknown |= fill(before["void"])
        masks[view], void[view] = mask, unknown
    return ViewTruth(masks, void)


@dataclass(frozen=True, eq=False)
class LabelledScene:
    """The photos of one scene, and the truth of its objects."""

    photos: list[Path]
    objects: dict[str, ViewTruth]


def read_scene_masks(dataset: str, folder: Path, scene: str) -> LabelledScene:
    """A scene of a multi-view dataset; see `TREES` for the layouts.

    Raises:
        NbHelpersError: photos or masks are missing.
    """
    if dataset in ("kitchen", "temple"):
        root = folder / dataset if (folder / dataset).is_dir() else folder
        photos = sorted(root.glob("*.png"))
        if not photos:
            raise _no_scene(dataset, root)
        if dataset == "kitchen":
            return LabelledScene(photos, {name: kitchen_truth(name, photos) for name in PHRASES})
        masks = {view: temple_mask(load_image(photo)) for view, photo in enumerate(photos)}
        return LabelledScene(photos, {"temple": _without_void(masks)})
    if dataset == "spin-nerf":
        images, masks = folder / scene / "images", folder / scene / "masks"
        if not images.is_dir() or not masks.is_dir():
            raise _no_scene(dataset, folder / scene)
        photos, labels = files_by_stem(images, IMAGE_SUFFIXES), files_by_stem(masks, (".png",))
        truth = {view: _annotation(labels[stem]) for view, stem in enumerate(photos) if stem in labels}
        if not truth:
            raise _no_scene(dataset, folder / scene)
        return LabelledScene(list(photos.values()), {"object": _without_void(truth)})
    return _nvos_scene(folder, scene)


def _nvos_scene(folder: Path, scene: str) -> LabelledScene:
    """Scribbles on one view, the mask of another."""
    labels, images = folder / "labels" / "llff", folder / "llff" / scene / "images"
    parts = [labels / part / scene for part in ("reference_image", "scribbles", "masks")]
    if not images.is_dir() or not all(part.is_dir() for part in parts):
        raise _no_scene("nvos", folder)
    photos = files_by_stem(images, IMAGE_SUFFIXES)
    order = {stem: view for view, stem in enumerate(photos)}
    reference = next((order[path.stem] for path in sorted(parts[0].iterdir()) if path.stem in order), None)
    masks = {
        order[path.stem.removesuffix("_mask")]: _annotation(path)
        for path in sorted(parts[2].glob("*_mask.png"))
        if path.stem.removesuffix("_mask") in order
    }
    if reference is None or not masks:
        raise _no_scene("nvos", folder)
    points, chosen = [], []
    for kind, count, label in (("pos", CLICKS[0], 1), ("neg", CLICKS[1], 0)):
        drawn = [load_mask(path) for path in sorted(parts[1].glob(f"{kind}*.png"))]
        if drawn:
            spread = deepest_points(np.any(drawn, axis=0), max(drawn[0].shape) / 20, count)
            points, chosen = [*points, *spread.tolist()], [*chosen, *[label] * len(spread)]
    if 1 not in chosen:
        raise NbHelpersError("the scene has no including scribble", given=parts[1])
    return LabelledScene(
        list(photos.values()),
        {"object": ViewTruth(masks, _no_void(masks), (reference, Prompt(points, chosen)))},
    )


def _annotation(path: Path) -> np.ndarray:
    values = read_values(path)
    return (values > 0) & (values < VOID) if values.max() < VOID else values > VOID // 2


def _no_void(masks: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    return {view: np.zeros_like(mask) for view, mask in masks.items()}


def _without_void(masks: Mapping[int, np.ndarray]) -> ViewTruth:
    return ViewTruth(masks, _no_void(masks))


def _no_scene(dataset: str, folder: Path) -> NbHelpersError:
    return NbHelpersError("the scene is not there, or not wholly unpacked", given=folder, expected=TREES[dataset])


class _SceneUnpickler(pickle.Unpickler):
    """Reads a scene that was kept, in whichever module its class was then."""

    def find_class(self, module: str, name: str) -> Any:
        return Scene if name == "Scene" else super().find_class(module, name)


@lru_cache(maxsize=1)
def _opened(dataset: str, folder: str, scene: str, segmenter: Any, poses: str) -> tuple[LabelledScene, Photos, Any]:
    """A scene with its photos encoded and its cameras estimated: once for all items of it."""
    labelled = read_scene_masks(dataset, Path(folder), scene)
    kept = Path(poses) / f"{scene}.pkl" if poses else None
    if poses == "none":
        placed = None
    elif kept is not None and kept.is_file():
        placed = _SceneUnpickler(io.BytesIO(kept.read_bytes())).load()  # written by ourselves below
    else:
        images = [load_image(photo) for photo in labelled.photos]
        placed = load("scene_estimator").reconstruct(images, [photo.name for photo in labelled.photos])
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(pickle.dumps(placed))
    return labelled, Photos(labelled.photos, resolve("segmenter", segmenter)), placed


@dataclass(frozen=True)
class SceneViews:
    """IoU over the views of a scene from one prompt; a `nbhelpers.benchmarks.runner.Benchmark`.

    An item is ``scene/object/view/prompt``. Prompts: ``box``, ``click``, ``8+2`` clicks, ``scribble``, ``phrase``, and
    on the scenes of our own ``wrong`` and ``later``: the true box in one view, and in another a click beside the
    object, given before all views are solved or after.

    Attributes:
        dataset: a key of `TREES`.
        folder: of it.
        segmenter: catalog name, or a model.
        poses: folder where estimated cameras are kept between runs; ``none`` does without cameras.
        quick: one reference view an object, no correcting click.
    """

    dataset: str
    folder: str | Path
    segmenter: Any = None
    poses: str = ""
    quick: bool = False
    kind = "views"
    measure_name = "mIoU"

    def names(self) -> list[str]:
        """The items."""
        folder = Path(self.folder).expanduser()
        if self.dataset not in TREES:
            raise NbHelpersError("there is no such dataset", given=self.dataset, expected=", ".join(TREES))
        if self.dataset == "nvos":
            scenes = sorted(path.name for path in (folder / "labels" / "llff" / "masks").glob("*") if path.is_dir())
            return [f"{scene}/object/reference/scribble" for scene in scenes] or self._none(folder)
        if self.dataset == "spin-nerf":
            scenes = sorted(path.parent.name for path in folder.glob("*/masks"))
            return [f"{scene}/object/first/8+2" for scene in scenes] or self._none(folder)
        items = []
        for name in PHRASES if self.dataset == "kitchen" else ("temple",):
            views = REFERENCES[name][: 1 if self.quick else None]
            items += [f"{self.dataset}/{name}/{view}/{how}" for how in ("box", "click") for view in views]
            items += [f"{self.dataset}/{name}/{view}/{how}" for view in views[:2] for how in ("wrong", "later")]
            items += [f"{self.dataset}/{name}/any/phrase"] if name in PHRASES else []
        return items

    def _none(self, folder: Path) -> list[str]:
        raise _no_scene(self.dataset, folder)

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        return {
            "dataset": self.dataset,
            "segmenter": model_name("segmenter", self.segmenter),
            "cameras": "none" if self.poses == "none" else model_name("scene_estimator", None),
            "prompt": {"nvos": "8 + 2 clicks on the scribbles", "spin-nerf": "8 + 2 clicks"}.get(
                self.dataset, "box, click, wrong prompts, phrase"
            ),
            "correction": "none" if self.quick else f"one click in the worst view where the mean is under {CORRECTED}",
            "bad": BAD,
            "metric": "mean over the views that have a mask, the prompted one too; void left out",
        }

    def measure(self, name: str) -> dict[str, Any]:
        """IoU of all views of one item."""
        scene, label, view, how = name.split("/")
        labelled, photos, placed = _opened(self.dataset, str(self.folder), scene, self.segmenter, self.poses)
        truth = labelled.objects[label]
        clock = time.perf_counter()
        if how == "phrase":
            record = self._phrase(truth, labelled.photos, placed, PHRASES[label])
        else:
            record = self._prompted(truth, photos, placed, view, how)
        record["cost"] = {"prompts": record.pop("prompts", 1), "solve": round(time.perf_counter() - clock, 2)}
        return record

    def _prompted(self, truth: ViewTruth, photos: Photos, placed: Any, view: str, how: str) -> dict[str, Any]:
        session = ViewsSession(photos, placed)
        reference = int(view) if view.isdigit() else min(truth.masks)
        if truth.prompt is not None:
            reference, prompt = truth.prompt
        else:
            prompt = truth.prompt_of(reference, how if how in ("click", "8+2") else "box")
        session.set_prompt(prompt, view=reference)
        wrong: tuple[int, ...] = ()
        if how in ("wrong", "later"):
            wrong = ((reference + len(photos) // 2) % len(photos),)
            if how == "later":
                session.solve()
            ((x, y),) = truth.beside(wrong[0]).points.tolist()
            session.click(x, y, view=wrong[0])
        views = session.solve()
        record = _scored(truth, views, reference)
        unprompted = [each for each in truth.masks if not views[each].prompted or each in wrong]
        record["consistencies"] = [
            [record["ious"][str(each)], round(views.consistency(each).value, 4)] for each in unprompted
        ]
        record["prompts"] = max(1, len(prompt.points)) + len(wrong)
        if wrong:
            others = [iou for each, iou in record["ious"].items() if int(each) not in wrong]
            record |= {"others": round(float(np.mean(others)), 4), "noticed": views.consistency(wrong[0]).is_doubtful}
        elif not self.quick and record["mean"] < CORRECTED and truth.prompt is None:
            worst = min(truth.masks, key=lambda each: record["ious"][str(each)])
            (x, y), label = truth.correction(worst, views.mask(worst))
            session.click(x, y, label, view=worst)
            record["corrected"] = _scored(truth, session.solve(), reference)["mean"]
        return record

    def _phrase(self, truth: ViewTruth, photos: list[Path], placed: Any, phrase: str) -> dict[str, Any]:
        """What a phrase leads to; the view that the others follow is the reference."""
        result = MultiviewSegmenter(resolve("segmenter", self.segmenter)).segment(photos, phrase, scene=placed)
        (reference,) = result.session.prompted
        return _scored(truth, result.views, reference)

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means over the items by prompts and by phrase, and whether a low consistency finds bad views."""
        right = [record for record in records if "others" not in record]
        wrong = [record for record in records if "others" in record]
        pairs = [pair for record in records for pair in record.get("consistencies", ())]
        bad, good = ([value for iou, value in pairs if (iou < BAD) == kind] for kind in (True, False))
        out: dict[str, Any] = {
            "miou": float(np.mean([record["mean"] for record in right])) if right else float("nan"),
            "worst_view": float(np.min([record["worst"] for record in right])) if right else float("nan"),
            "accuracy": float(np.mean([record["accuracy"] for record in right])) if right else float("nan"),
            "consistency_auc": area_under_roc(bad, good),
            "bad_views": len(bad),
            "views": len(pairs),
        }
        if corrected := [record["corrected"] for record in right if "corrected" in record]:
            out["corrected"] = float(np.mean(corrected))
        if wrong:
            out["miou_of_others_beside_a_wrong_prompt"] = float(np.mean([record["others"] for record in wrong]))
            out["wrong_prompts_noticed"] = sum(record["noticed"] for record in wrong)
            out["wrong_prompts"] = len(wrong)
        return rounded(out)


def _scored(truth: ViewTruth, views: Any, reference: int) -> dict[str, Any]:
    """IoU of each view that has a mask; the reference is not counted as the worst."""
    ious = {view: truth.iou(view, views.mask(view)) for view in truth.masks}
    others = [iou for view, iou in ious.items() if view != reference] or list(ious.values())
    return {
        "mean": round(float(np.mean(list(ious.values()))), 4),
        "worst": round(min(others), 4),
        "accuracy": round(float(np.mean([truth.accuracy(view, views.mask(view)) for view in truth.masks])), 4),
        "consistency": round(views.overall.value, 4),
        "reference": reference,
        "ious": {str(view): round(iou, 4) for view, iou in ious.items()},
    }


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
        detector: likewise; None: the one that `nbhelpers.multiview` chooses.
    """

    folder: str | Path
    synthetic_only: bool = False
    text_encoder: Any = None
    segmenter: Any = None
    detector: Any = None
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
            if self.detector is not None:
                facts["detector"] = model_name("detector", self.detector)
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
            encoder, detector = resolve("text_encoder", self.text_encoder), self.detector
            detector = detector and resolve("detector", detector)
            grounded = ground_phrase(photos, phrase, encoder, scene, entry["view"], detector=detector)
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
        ReferenceCandidate(number, name, extent)
        for number, (name, points) in enumerate(clouds.items())
        if (extent := frame.extent(points)) is not None
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
        from nbhelpers.models.colmap import center_difference, rotation_differences

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
            known = None if views.paths is None else read_scene(folder, views.paths)
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
