"""The same product in other photos: ranking on real photos, precision and recall on synthetic ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.benchmarks.metrics import average_precision, rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.benchmarks.synthetic_products import (
    CutOut,
    SyntheticPhoto,
    backgrounds,
    sample_cut_outs,
    synthetic_photos,
)
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, load_image, save_image
from nbhelpers.core.metrics import iou
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.video import Frames
from nbhelpers.product_matching.calibrate import calibrate, subtract_background
from nbhelpers.product_matching.features import describe_reference
from nbhelpers.product_matching.gallery import Gallery, evenly_spaced, mean_feature
from nbhelpers.product_matching.match import apply_threshold, score_photos
from nbhelpers.product_matching.propose import PhotoProposals, propose_candidates
from nbhelpers.product_matching.search import load_proposals, save_proposals
from nbhelpers.product_matching.session import BACKGROUND_PHOTOS, ProductSession
from nbhelpers.product_matching.settings import ProductSettings
from nbhelpers.weights import sample

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

    def _candidates(self, key: str, photo: Any, models, gallery: Gallery, settings: ProductSettings) -> PhotoProposals:
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
