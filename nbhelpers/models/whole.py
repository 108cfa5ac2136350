"""What a single click on a photo means: the candidate mask that a detector takes for a whole object."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.core.masks import intersections, iou_matrix
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import Detector, Segmenter
from nbhelpers.models.values import Embedding, Prediction

log = logging.getLogger(__name__)

MIN_SCORE = 0.25  # of a box
MAX_BOXES = 3  # around a point, the most confident ones; each takes one more prediction
MIN_AGREEMENT = 0.5  # IoU of a candidate with the mask of a box, from which the candidate is that object
# Of that IoU beside the predicted IoU of a candidate, to maximize the IoU of the chosen one; fitted on clicks on COCO
# photos (train2017).
WEIGHT = 2.5


def use_detector(detector: Detector | bool, load: Callable[[str], Any] | None = None) -> Detector | None:
    """The detector of a session: as given; True: by ``load``, None with a warning if there is none.

    Args:
        detector: see above.
        load: loads the model of a task; by default `nbhelpers.load`.
    """
    if detector is not True:
        return detector or None
    from nbhelpers.models.load import load as any_model

    try:
        needs("text", "supervision")  # an installation for clicks alone goes on without
        return (load or any_model)("detector") or None
    except NbHelpersError as error:
        log.warning("a click is what the model recommends, without a detector: %s", error.what)
        return None


def detect_objects(detector: Detector, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "n 4"]:
    """Boxes ``(x0, y0, x1, y1)`` of all objects of an image, by decreasing score."""
    found = detector.detect(image, [], MIN_SCORE)
    return found.xyxy[np.argsort(-np.asarray(found.confidence), kind="stable")]


def choose_whole(
    segmenter: Segmenter,
    embedding: Embedding,
    point: tuple[float, float],
    prediction: Prediction,
    boxes: Float[np.ndarray, "n 4"],
) -> int:
    """Index of the candidate mask of a click that is a whole object.

    SAM 2 ranks the candidates by predicted IoU, which often prefers a part such as a shirt to the whole person. Here a
    box around the point, prompted together with it, gives the mask of a whole object; the candidate that agrees with
    it is chosen. Without a box, or where no candidate agrees, the model's choice stays.

    Args:
        segmenter: predicted the candidates.
        embedding: of the image.
        point: ``(x, y)``, the only click.
        prediction: its candidate masks.
        boxes: of `detect_objects`.
    """
    x, y = point
    around = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])
    boxed = [segmenter.predict(embedding, Prompt([point], box=box)) for box in boxes[around][:MAX_BOXES]]
    if not boxed or len(prediction) < 2:
        return prediction.choice
    masks = np.concatenate([prediction.logits, *(each.logits[each.choice][None] for each in boxed)]) > 0
    agreement = iou_matrix(intersections(masks))[: len(prediction), len(prediction) :].max(1)
    if agreement.max() < MIN_AGREEMENT:
        return prediction.choice
    return int(np.argmax(prediction.scores + WEIGHT * agreement))
