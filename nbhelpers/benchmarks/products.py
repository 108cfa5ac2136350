"""The same product in other photos: ranking on real photos, precision and recall on synthetic ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from nbhelpers.benchmarks.metrics import average_precision, rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, load_image, save_image
from nbhelpers.core.masks import components, fill_holes, iou, polygon_mask, tight_box
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.video import Frames
from nbhelpers.product_matching.features import describe_reference
from nbhelpers.product_matching.gallery import Gallery, evenly_spaced, mean_feature
from nbhelpers.product_matching.match import apply_threshold, calibrate, score_photos, subtract_background
from nbhelpers.product_matching.propose import PhotoProposals, propose_candidates
from nbhelpers.product_matching.search import load_proposals, save_proposals
from nbhelpers.product_matching.session import BACKGROUND_PHOTOS, ProductSession
from nbhelpers.product_matching.settings import ProductSettings
from nbhelpers.weights import sample

SCENE_SIDE, BASE = 800, 240
TURN, SCALES, LIGHT, BLUR, HIDDEN = 40, (0.3, 1.5), (0.6, 1.4), 1.5, 0.35
# boxes around the objects on the sample photos: all the segmenter's only prompts
CUT_OUTS = {"coffee": (98, 8, 482, 382), "chelsea": (96, 0, 400, 290), "flower": (220, 65, 395, 300)}
CUT_OUT_FRAMES = {"box.mp4": (0, (292, 12, 600, 243))}


@dataclass(frozen=True, eq=False)
class CutOut:
    """An object with its photo, which serves as the reference.

    Attributes:
        name: what it is called.
        photo: ``(h, w, 3)``.
        mask: ``(h, w)`` where the object is.
        source: stem of the photo's file, which is no background for it.
    """

    name: str
    photo: np.ndarray
    mask: np.ndarray
    source: str = ""

    @property
    def rgba(self) -> np.ndarray:
        """The object alone with a soft edge, as ``(h, w, 4) float32`` from 0 to 1."""
        x0, y0, x1, y1 = tight_box(self.mask)
        alpha = cv2.GaussianBlur(cv2.erode(self.mask.astype(np.float32), np.ones((3, 3))), (0, 0), 0.8)
        colour = self.photo.astype(np.float32) / 255
        return np.dstack([colour, alpha])[y0:y1, x0:x1]


@dataclass(frozen=True, eq=False)
class SyntheticPhoto:
    """A photo and what is in it.

    Attributes:
        name: product, kind and number.
        product: name of the cut-out that is looked for.
        image: ``(h, w, 3)``.
        truth: the visible mask of the product, or None where it is absent.
        look_alikes: ``(kind, mask)`` of each look-alike.
    """

    name: str
    product: str
    image: np.ndarray
    truth: np.ndarray | None
    look_alikes: tuple[tuple[str, np.ndarray], ...]


def sample_cut_outs(segmenter) -> list[CutOut]:
    """The cup, the cat, the flower, the printed box (where its clip is here) and the quokka with its true outline."""
    found = []
    for name, box in CUT_OUTS.items():
        photo = load_image(sample(name))
        found.append(CutOut(name, photo, _cut(segmenter, photo, box), name))
    for name, (frame, box) in CUT_OUT_FRAMES.items():
        photo = _frame(sample(name), frame)
        found.append(CutOut(name.partition(".")[0], photo, _cut(segmenter, photo, box)))
    return [*found, quokka_cut_out()]


def quokka_cut_out() -> CutOut:
    """The quokka with its true outline, which needs no segmenter."""
    photo = load_image(sample("quokka"))
    outline = json.loads(Path(sample("quokka_annotations.json")).read_text())["polygons"][0]["keypoints"]
    points = [(point["x"], point["y"]) if isinstance(point, dict) else tuple(point) for point in outline]
    return CutOut("quokka", photo, polygon_mask(points, photo.shape[:2]))


def backgrounds(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Photos of the set's size, by the stems of their files."""
    out = {}
    for file in files:
        image = load_image(file)
        scale = SCENE_SIDE / max(image.shape[:2])
        grown = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else image
        out[file.stem] = fit(grown, SCENE_SIDE)
    return out


def synthetic_photos(
    cut_outs: Sequence[CutOut], scenes: dict[str, np.ndarray], count: int, look_alikes: bool, seed: int = 0
) -> Iterator[SyntheticPhoto]:
    """``count`` photos of each cut-out, of which it is in three fifths.

    Without look-alikes the other photos hold other objects. With them, a third of the photos holds the product and a
    look-alike, a third the product alone, a third a look-alike alone.
    """
    for index, cut_out in enumerate(cut_outs):
        others = [other for other in cut_outs if other is not cut_out]
        for number in range(count):
            rng = np.random.default_rng((seed, index, number, look_alikes))
            stems = sorted(set(scenes) - {cut_out.source})
            scene = scenes[stems[rng.integers(len(stems))]].copy()
            present = number % 3 != 2 if look_alikes else number % 5 < 3
            decoy = look_alikes and number % 3 != 1
            yield _photo(
                cut_out,
                others,
                scene,
                present,
                decoy,
                rng,
                f"{cut_out.name}-{'alike' if look_alikes else 'plain'}-{number:03d}",
            )


def _photo(cut_out, others, scene, present, decoy, rng, name) -> SyntheticPhoto:
    taken = np.zeros(scene.shape[:2], bool)
    truth, fakes = None, []
    if rng.random() < 0.5 or not (present or decoy):
        scene, mask = _paste(scene, others[rng.integers(len(others))].rgba, rng, taken)
        taken |= mask
    if decoy:
        kind = ("recoloured", "mirrored")[rng.integers(2)]
        rgba = recoloured(cut_out.rgba, rng) if kind == "recoloured" else np.ascontiguousarray(cut_out.rgba[:, ::-1])
        scene, mask = _paste(scene, rgba, rng, taken)
        taken |= mask
        fakes.append((kind, mask))
    if present:
        scene, truth = _paste(scene, cut_out.rgba, rng, taken)
        fakes = [(kind, mask & ~truth) for kind, mask in fakes]
        if rng.random() < 1 / 3:
            scene, over = _hide(scene, truth, others[rng.integers(len(others))].rgba, rng)
            truth = truth & ~over
    scene = np.clip(scene + rng.normal(0, 2, scene.shape), 0, 255).astype(np.uint8)
    return SyntheticPhoto(name, cut_out.name, scene, truth, tuple(fakes))


def _paste(scene, rgba, rng, taken):
    """The scene with an object in it where little is taken, and where the object is."""
    scale = np.exp(rng.uniform(*np.log(SCALES)))
    turned = _turn(rgba, rng.uniform(-TURN, TURN), BASE * scale / max(rgba.shape[:2]))
    turned = _lit(turned, rng)
    h, w = (min(a, b) for a, b in zip(turned.shape[:2], scene.shape[:2], strict=True))
    turned = turned[:h, :w]
    spots = [(rng.integers(scene.shape[0] - h + 1), rng.integers(scene.shape[1] - w + 1)) for _ in range(40)]
    y, x = min(spots, key=lambda spot: taken[spot[0] : spot[0] + h, spot[1] : spot[1] + w].mean())
    return _over(scene, turned, y, x)


def _over(scene, rgba, y, x):
    h, w = rgba.shape[:2]
    alpha = rgba[..., 3:]
    out = scene.astype(np.float32)
    out[y : y + h, x : x + w] = out[y : y + h, x : x + w] * (1 - alpha) + rgba[..., :3] * 255 * alpha
    mask = np.zeros(scene.shape[:2], bool)
    mask[y : y + h, x : x + w] = alpha[..., 0] > 0.5
    return np.clip(out, 0, 255).astype(np.uint8), mask


def _turn(rgba, degrees, scale):
    h, w = rgba.shape[:2]
    premultiplied = np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]])
    if scale < 1:
        size = max(2, round(w * scale)), max(2, round(h * scale))
        premultiplied, scale = cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA), 1.0
        h, w = premultiplied.shape[:2]
    move = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, scale)
    corners = np.abs(move[:, :2]) @ [w, h]
    wide, high = int(np.ceil(corners[0])), int(np.ceil(corners[1]))
    move[:, 2] += (wide / 2 - w / 2, high / 2 - h / 2)
    turned = cv2.warpAffine(premultiplied, move, (wide, high), flags=cv2.INTER_LINEAR)
    turned[..., :3] /= np.maximum(turned[..., 3:], 1e-3)
    return np.clip(turned, 0, 1)


def _lit(rgba, rng):
    gain = rng.uniform(*LIGHT) * np.array([1 + (cast := rng.uniform(-0.08, 0.08)), 1, 1 - cast], np.float32)
    colour = np.clip(rgba[..., :3] * gain, 0, 1)
    blur = rng.uniform(0, BLUR)
    whole = np.dstack([colour * rgba[..., 3:], rgba[..., 3]])
    whole = cv2.GaussianBlur(whole, (0, 0), blur) if blur > 0.3 else whole
    colour = whole[..., :3] / np.maximum(whole[..., 3:], 1e-3)
    return np.dstack([np.clip(colour, 0, 1), whole[..., 3]]).astype(np.float32)


def _hide(scene, truth, rgba, rng):
    """Another object over the edge of the product, so that at most HIDDEN of it goes."""
    x0, y0, x1, y1 = tight_box(truth)
    side = max(x1 - x0, y1 - y0)
    cover = _lit(_turn(rgba, rng.uniform(-TURN, TURN), 0.7 * side / max(rgba.shape[:2])), rng)
    h, w = (min(a, b) for a, b in zip(cover.shape[:2], scene.shape[:2], strict=True))
    cover = cover[:h, :w]
    for _ in range(60):
        y = int(np.clip(rng.integers(y0 - h, y1), 0, scene.shape[0] - h))
        x = int(np.clip(rng.integers(x0 - w, x1), 0, scene.shape[1] - w))
        hidden, mask = _over(scene, cover, y, x)
        share = np.count_nonzero(mask & truth) / np.count_nonzero(truth)
        if 0.1 <= share <= HIDDEN:
            return hidden, mask
    return scene, np.zeros_like(truth)


def recoloured(rgba: Float[np.ndarray, "h w 4"], rng: np.random.Generator) -> Float[np.ndarray, "h w 4"]:
    """The same object in another colour: its hue turned by 60 to 300 degrees, and tinted where it is nearly grey."""
    lab = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2LAB)
    angle = np.radians(rng.uniform(60, 300))
    a, b = lab[..., 1].copy(), lab[..., 2].copy()
    lab[..., 1] = a * np.cos(angle) - b * np.sin(angle)
    lab[..., 2] = a * np.sin(angle) + b * np.cos(angle)
    inside = rgba[..., 3] > 0.5
    if np.hypot(a, b)[inside].mean() < 15:
        tint = rng.uniform(0, 2 * np.pi)
        lab[..., 1] += 30 * np.cos(tint)
        lab[..., 2] += 30 * np.sin(tint)
    return np.dstack([np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1), rgba[..., 3]])


def _cut(segmenter, photo, box):
    prediction = segmenter.predict(segmenter.encode(photo), Prompt(box=box))
    return fill_holes(components(prediction.best) == 1, photo.size)


def _frame(path, number):
    from nbhelpers.core.video import Frames

    return np.array(Frames(path)[number])


DATASETS = ("dreambooth", "synthetic-products", "turned-box")
PRODUCTS = ("coffee", "chelsea", "flower", "box", "quokka")
FOUND = 0.5  # IoU from which a match is right
LONGEST = 1024
FRAMES, CLICK = 45, (450, 85)
BOXES = {"can": (410, 185, 870, 1020), "duck_toy": (330, 270, 1020, 950), "teapot": (410, 140, 1120, 760)}  # on 00.jpg


@dataclass(frozen=True)
class ProductPhotos:
    """Product matching with a known answer; a `nbhelpers.benchmarks.runner.Benchmark`.

    Attributes:
        dataset: ``dreambooth``: one reference of each object, photos ranked by their best score, average precision;
            ``synthetic-products``: cup, cat, flower, printed box and quokka, each searched in photos that hold it or
            not, half of them with look-alikes; one reference each, a calibrated threshold, nobody confirms;
            ``turned-box``: one click on the first of 45 frames of a clip, in how many it is found.
        folder: of dreambooth; of the synthetic photos' backgrounds (``kitchen/``, ``sam2/``), which may be missing.
        segmenter: catalog name, or a model.
        patch_encoder: likewise.
        photos: of the synthetic set.
        cache: folder where the candidates of each photo are kept, so that an item that was cut off goes on.
    """

    dataset: str
    folder: str | Path
    segmenter: Any = None
    patch_encoder: Any = None
    photos: int = 200
    cache: str | Path = "outputs/product_matching/benchmark"
    kind = "products"

    @property
    def measure_name(self) -> str:
        """What the first score is."""
        return {"dreambooth": "mAP", "synthetic-products": "precision", "turned-box": "found"}[self.dataset]

    def names(self) -> list[str]:
        """The products."""
        if self.dataset not in DATASETS:
            raise NbHelpersError("there is no such dataset", given=self.dataset, expected=", ".join(DATASETS))
        if self.dataset == "synthetic-products":
            return [f"{kind}/{product}" for kind in ("plain", "alike") for product in PRODUCTS]
        if self.dataset == "turned-box":
            return ["box"]
        root = self._dreambooth()
        found = [name for name in BOXES if (root / name / "00.jpg").is_file()]
        if not found:
            raise NbHelpersError(
                "there are no objects of dreambooth", given=root, expected=f"{'/, '.join(BOXES)}/ with 00.jpg ..."
            )
        return found

    def _dreambooth(self) -> Path:
        folder = Path(self.folder).expanduser()
        return folder / "dreambooth" if (folder / "dreambooth").is_dir() else folder

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        facts = {
            "dataset": self.dataset,
            "segmenter": model_name("segmenter", self.segmenter),
            "patch_encoder": model_name("patch_encoder", self.patch_encoder),
            "references": 1,
        }
        if self.dataset == "synthetic-products":
            facts |= {"photos": self.photos, "found_iou": FOUND, "threshold": "calibrated, nobody confirms"}
            facts["backgrounds"] = sorted(path.name for path in self._backgrounds())
        return facts

    def _models(self) -> tuple[Any, Any]:
        return resolve("segmenter", self.segmenter), resolve("patch_encoder", self.patch_encoder)

    def measure(self, name: str) -> dict[str, Any]:
        """The figures of one product."""
        clock = time.perf_counter()
        measured = {"dreambooth": self._ranked, "synthetic-products": self._counted, "turned-box": self._turned}
        record = measured[self.dataset](name)
        return {**record, "cost": {"search": round(time.perf_counter() - clock, 2)}}

    def _ranked(self, name: str) -> dict[str, Any]:
        """Average precision of one object's reference over the photos of all objects but its own."""
        models, settings, root = self._models(), ProductSettings(), self._dreambooth()
        files = sorted(root.glob("*/*.jpg"))
        mean = mean_feature([fit(load_image(file), LONGEST) for file in evenly_spaced(files, 8)], models[1])
        reference = root / name / "00.jpg"
        image = load_image(reference)
        mask = models[0].predict(models[0].encode(image), Prompt(box=BOXES[name])).best
        gallery = Gallery((describe_reference(image, mask, models[1], settings.crop_side),), mean=mean)
        others = [file for file in files if file != reference]
        found = [
            self._candidates(f"{name}-{file.parent.name}-{file.stem}", file, models, gallery, settings)
            for file in others
        ]
        judging = subtract_background(evenly_spaced(found, BACKGROUND_PHOTOS), gallery, settings)
        scores = [r.proposals[0].score if r.proposals else -1.0 for r in score_photos(found, judging, settings)]
        right = [file.parent.name == name for file in others]
        return {
            "ap": round(average_precision(scores, right), 4),
            "scores": {
                f"{file.parent.name}/{file.stem}": round(float(score), 4)
                for file, score in zip(others, scores, strict=True)
            },
        }

    def _candidates(
        self, key: str, photo: Any, models: tuple[Any, Any], gallery: Gallery, settings: ProductSettings
    ) -> PhotoProposals:
        """The candidates of a photo, from the cache where they are there."""
        file = Path(self.cache).expanduser() / f"{key}-{gallery.digest[:8]}.npz"
        if not file.is_file():
            image = photo if isinstance(photo, np.ndarray) else fit(load_image(photo), LONGEST)
            save_proposals(propose_candidates(image, *models, gallery, settings), file)
        return load_proposals(file)

    def _backgrounds(self) -> list[Path]:
        folder = Path(self.folder).expanduser()
        return [*sorted((folder / "kitchen").glob("*.png"))[:5], *sorted((folder / "sam2").glob("*.jpg"))]

    def _counted(self, name: str) -> dict[str, Any]:
        """Right, wrong and missed matches of one product and kind at its calibrated threshold."""
        kind, _, product = name.partition("/")
        models, settings = self._models(), ProductSettings()
        cut_outs, photos = _synthetic_set(tuple(self._backgrounds()), self.photos, models[0])
        mean = mean_feature([photo.image for photo in evenly_spaced(photos, 8)], models[1])
        cut_out = next(each for each in cut_outs if each.name == product)
        gallery = Gallery((describe_reference(cut_out.photo, cut_out.mask, models[1]),), mean=mean)
        mine = [photo for photo in photos if photo.product == product and f"-{kind}-" in photo.name]
        if not mine:
            raise NbHelpersError("there are too few photos", given=self.photos, expected=f"{2 * len(cut_outs)} or more")
        found = [self._candidates(photo.name, photo.image, models, gallery, settings) for photo in mine]
        judging = subtract_background(evenly_spaced(found, BACKGROUND_PHOTOS), gallery, settings)
        scores = score_photos(found, judging, settings)
        calibration = calibrate(scores, judging, settings)
        judged = [apply_threshold(each, settings, calibration.threshold) for each in scores]
        return {"photos": len(mine), "threshold": round(calibration.threshold, 3), **match_counts(mine, judged)}

    def _turned(self, name: str) -> dict[str, Any]:
        """The printed box that a hand turns, from one click in the first frame."""
        segmenter, encoder = self._models()
        frames, folder = Frames(sample("box.mp4")), Path(self.cache).expanduser() / "box-frames"
        for index in np.linspace(0, len(frames) - 1, FRAMES).round().astype(int).tolist():
            if not (folder / f"{index:03}.png").is_file():
                save_image(folder / f"{index:03}.png", frames[index])
        cache = Path(self.cache).expanduser() / name
        session = ProductSession(folder, segmenter=segmenter, encoder=encoder, cache=cache)
        session.add_reference(session.photos[0], point=CLICK)
        session.search()
        found = sum(not result.absent for result in session.results)
        return {"frames": FRAMES, "found": found, "threshold": round(session.threshold, 3)}

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Over all products; of the synthetic photos those with look-alikes apart."""
        if self.dataset == "dreambooth":
            return rounded({"map": float(np.mean([record["ap"] for record in records]))})
        if self.dataset == "turned-box":
            return {"found": records[0]["found"] / records[0]["frames"] if records else None}
        out: dict[str, Any] = {}
        for kind, prefix in (("plain", ""), ("alike", "alike_")):
            mine = [record for record in records if record["kind"] == kind]
            if not mine:
                continue
            right, wrong, missed = (sum(record[key] for record in mine) for key in ("right", "wrong", "missed"))
            out |= {
                f"{prefix}precision": right / max(1, right + wrong),
                f"{prefix}recall": right / max(1, right + missed),
            }
        absent = sum(record["absent"] for record in records)
        out["absent_matched"] = sum(record["absent_matched"] for record in records) / max(1, absent)
        out["photos"] = sum(record["photos"] for record in records)
        return rounded(out)


@lru_cache(maxsize=1)
def _synthetic_set(scenes: tuple[Path, ...], count: int, segmenter) -> tuple[list[CutOut], list[SyntheticPhoto]]:
    """The cut-outs and their photos, in an order in which each beginning holds every product and kind."""
    files = [Path(sample(name)) for name in ("china", "astronaut")]
    files += [Path(sample(f"BalbianelloMedium-{number}.jpg")) for number in (1, 3, 5)]
    cut_outs, known = sample_cut_outs(segmenter), backgrounds([*files, *scenes])
    each = -(-count // (2 * len(cut_outs)))
    photos = [photo for decoys in (False, True) for photo in synthetic_photos(cut_outs, known, each, decoys)]
    photos.sort(key=lambda photo: (int(photo.name.rpartition("-")[2]), photo.name))
    return cut_outs, photos[:count]


def match_counts(photos: Sequence[SyntheticPhoto], judged: Sequence[tuple]) -> dict[str, Any]:
    """Right, wrong and missed matches; photos without the product and without look-alikes, and matches there."""
    count: dict[str, Any] = dict.fromkeys(("right", "wrong", "missed", "absent", "absent_matched", "not_offered"), 0)
    missed = []
    for photo, rows in zip(photos, judged, strict=True):
        kept = [row.proposal.mask for row in rows if row.kept]
        if photo.truth is None:
            count["absent"] += not photo.look_alikes
            count["absent_matched"] += bool(kept) and not photo.look_alikes
            count["wrong"] += len(kept)
            continue
        hits = sum(iou(photo.truth, mask) >= FOUND for mask in kept)
        count["right"] += min(hits, 1)
        count["wrong"] += len(kept) - min(hits, 1)
        count["missed"] += not hits
        if not hits:
            missed.append(photo.name)
            count["not_offered"] += all(iou(photo.truth, row.proposal.mask) < FOUND for row in rows)
    kind = "alike" if photos and "-alike-" in photos[0].name else "plain"
    return {key: int(value) for key, value in count.items()} | {"missed_photos": missed, "kind": kind}
