"""Segmentation by clicks: how many a simulated user needs (NoC), and how far single clicks get."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.benchmarks.datasets import ObjectOnPhoto, ObjectPhotos
from nbhelpers.benchmarks.metrics import LEVELS, MAX_CLICKS, click_scores, next_click, rounded
from nbhelpers.benchmarks.open_vocabulary import model_name, resolve
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.masks import iou
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.sam2 import upstream_segmenter
from nbhelpers.segment import ClickSession

CANDIDATES = ("model", "session", "whole")
Predict = Callable[[Prompt], Bool[np.ndarray, "h w"]]


@lru_cache(maxsize=4)
def opened_objects(dataset: str, folder: str) -> ObjectPhotos:
    """`ObjectPhotos`, whose folders are listed once in a process."""
    return ObjectPhotos(dataset, folder)


@dataclass(frozen=True)
class Clicks:
    """Clicks until objects are segmented well; a `nbhelpers.benchmarks.runner.Benchmark`.

    Attributes:
        dataset: a kind of `ObjectPhotos`.
        folder: of it.
        segmenter: catalog name, or a model.
        jitter: 0: clicks in the middle of the largest error; see `next_click`.
        candidate: ``model``: the mask that the model recommends, as upstream's predictor returns it; ``session``: the
            one that `nbhelpers.ClickSession` shows without a detector; ``whole``: the one it shows with a detector.
        feedback: give the logits of the last mask back to the model with each click (``model`` only).
        upstream: take upstream's ``SAM2ImagePredictor`` on the same network.
        most: clicks after which an object is given up.
        seed: of the jitter.
        pictures: folder for pictures of the clicks; empty for none.
    """

    dataset: str
    folder: str | Path
    segmenter: Any = None
    jitter: float = 0.0
    candidate: str = "model"
    feedback: bool = False
    upstream: bool = False
    most: int = MAX_CLICKS
    seed: int = 0
    pictures: str | Path = ""
    kind = "clicks"
    measure_name = "NoC@90"

    def __post_init__(self):
        if self.candidate not in CANDIDATES or self.jitter < 0 or self.most < 1:
            raise NbHelpersError(
                "the clicks cannot be this",
                given=f"candidate {self.candidate}, jitter {self.jitter}, most {self.most}",
                expected=f"candidate {', '.join(CANDIDATES)}; jitter from 0, most from 1",
            )
        if self.feedback and self.candidate != "model":
            raise NbHelpersError("a session gives masks back by itself", given=self.candidate, do="leave out feedback")

    def names(self) -> list[str]:
        """The photos."""
        return opened_objects(self.dataset, str(self.folder)).names

    def facts(self) -> dict[str, Any]:
        """All that the score depends on."""
        return {
            "dataset": self.dataset,
            "segmenter": model_name("segmenter", self.segmenter),
            "objects": opened_objects(self.dataset, str(self.folder)).protocol,
            "clicks": "in the middle of the largest error (Sofiiuk et al. 2021)"
            if not self.jitter
            else f"scattered over it, {self.jitter:g} of its depth",
            "most": self.most,
            "levels": list(LEVELS),
            "seed": self.seed,
            "candidate": self.candidate,
            "feedback": self.feedback,
            "predictor": "SAM2ImagePredictor of the sam2 package" if self.upstream else "nbhelpers",
        }

    def measure(self, name: str) -> dict[str, Any]:
        """The IoU after each click, of all objects of a photo, and what it cost."""
        segmenter: Segmenter = resolve("segmenter", self.segmenter)
        if self.upstream:
            segmenter = upstream_segmenter(segmenter)
        ious, best, clicks, embedding, image, session = {}, {}, {}, None, None, None
        encoding = decoding = 0.0
        for each in opened_objects(self.dataset, str(self.folder)).read(name):
            if embedding is None or image is None:
                image, clock = load_image(each.path), time.perf_counter()
                if self.candidate == "model":
                    embedding = segmenter.encode(image)
                else:
                    session = ClickSession(image, segmenter, detector=self.candidate == "whole")
                    embedding = session.encode()
                encoding = time.perf_counter() - clock
            clock = time.perf_counter()
            predict = session_predictor(session) if session else predictor(segmenter, embedding, self.feedback)
            found = click_object(predict, each, self.most, self.jitter, self.seed)
            decoding += time.perf_counter() - clock
            ious[each.name] = [round(value, 4) for value in found.ious]
            first = segmenter.predict(embedding, Prompt(found.clicks[0][0])).masks if found.clicks else ()
            best[each.name] = round(max((_counted_iou(mask, each) for mask in first), default=1.0), 4)
            clicks[each.name] = [[x, y, label] for (x, y), label in found.clicks]
            if self.pictures:
                file = Path(self.pictures) / f"{each.name.replace('/', '-')}.png"
                save_image(file, click_picture(image, each.mask, found))
        cost = {"prompts": sum(map(len, ious.values())), "image": round(encoding, 4), "decoder": round(decoding, 4)}
        return {"ious": ious, "best_of_first": best, "clicks": clicks, "cost": cost}

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """NoC, failures and IoU over all objects; also of the best candidate of the first click."""
        ious = [each for record in records for each in record["ious"].values()]
        if not ious:
            return {"noc90": None, "objects": 0}
        scores = click_scores(ious, self.most)
        mean = [float(np.mean([each[min(n, len(each)) - 1] for each in ious])) for n in range(1, self.most + 1)]
        best = float(np.mean([each for record in records for each in record["best_of_first"].values()]))
        scores = {"noc90": scores.pop("noc90"), **scores, "best_of_first": best, "objects": len(ious)}
        return {**rounded(scores), "iou_by_click": [round(value, 4) for value in mean]}


@dataclass(frozen=True, eq=False)
class Clicked:
    """What a simulated user did: the IoU after each click, the clicks, and the last mask."""

    ious: list[float]
    clicks: list[tuple[tuple[int, int], int]]
    mask: Bool[np.ndarray, "h w"]


def predictor(segmenter: Segmenter, embedding: Any, feedback: bool = False) -> Predict:
    """The masks that the model recommends for some clicks on one photo; see `Clicks`."""
    last: list[np.ndarray] = []

    def predict(prompt: Prompt) -> np.ndarray:
        if feedback and len(prompt.points) > 1 and last:
            prompt = Prompt(prompt.points, prompt.labels, mask=last[0])
        prediction = segmenter.predict(embedding, prompt)
        last[:] = [prediction.logits[prediction.choice]]
        return prediction.best

    return predict


def session_predictor(session: ClickSession) -> Predict:
    """The masks of a new object of a session, on which the latest of some clicks is placed."""
    name = session.add_object()

    def predict(prompt: Prompt) -> np.ndarray:
        x, y = prompt.points[-1].tolist()
        session.click(x, y, int(prompt.labels[-1]), name=name)
        return session.mask(name)

    return predict


def click_object(
    predict: Predict, each: ObjectOnPhoto, most: int = MAX_CLICKS, jitter: float = 0.0, seed: int = 0
) -> Clicked:
    """Click until the IoU is at least the highest of `LEVELS`, nothing is wrong, or ``most`` clicks are spent.

    Args:
        predict: the mask of some clicks.
        each: the object, and what is not counted.
        most: number of clicks at which it is given up.
        jitter: see `next_click`.
        seed: of the jitter, together with the object's name.
    """
    rng = np.random.default_rng([seed, zlib.crc32(each.name.encode())])
    found, points, labels, ious = np.zeros_like(each.mask), [], [], []
    for _ in range(most):
        click = next_click(each.mask, found, each.void, points, jitter, rng)
        if click is None:
            break
        points.append(click[0])
        labels.append(click[1])
        found = predict(Prompt(points=points, labels=labels))
        ious.append(_counted_iou(found, each))
        if ious[-1] >= max(LEVELS):
            break
    return Clicked(ious, list(zip(points, labels, strict=True)), found)


def _counted_iou(mask: Bool[np.ndarray, "h w"], each: ObjectOnPhoto) -> float:
    """IoU with an object, void left out."""
    return iou(mask & ~each.void, each.mask & ~each.void)


def click_picture(
    image: UInt8[np.ndarray, "h w 3"], truth: Bool[np.ndarray, "h w"], found: Clicked
) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with the mask, the true outline in white, and the clicks: green includes, red excludes."""
    import cv2

    from nbhelpers.plots import overlay

    picture = overlay(image, found.mask[None]).copy()
    contours, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, (255, 255, 255), 1)
    radius = max(3, max(image.shape[:2]) // 150)
    for number, (point, label) in enumerate(found.clicks, 1):
        cv2.circle(picture, point, radius, (40, 200, 80) if label else (230, 50, 40), -1)
        cv2.putText(
            picture,
            str(number),
            (point[0] + radius, point[1] - radius),
            cv2.FONT_HERSHEY_SIMPLEX,
            radius / 8,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
    return picture
