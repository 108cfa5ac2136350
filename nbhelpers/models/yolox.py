"""YOLOX on ONNX Runtime: detection of the 80 COCO classes, and their mapping from names.

Ge et al. 2021, arXiv 2107.08430. Pre- and post-processing follow ``demo/ONNXRuntime/onnx_inference.py`` and
``yolox/data/data_augment.py`` (``preproc``) of https://github.com/Megvii-BaseDetection/YOLOX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.core.vocabulary import root
from nbhelpers.models.adapters import onnx_session
from nbhelpers.models.dense import as_classes

if TYPE_CHECKING:
    import supervision

SIDE = 416  # pixels of the square input of YOLOX-nano; YOLOX-S has 640
GREY = 114  # of the padding
STRIDES = (8, 16, 32)
MIN_SCORE = 0.1  # boxes below are dropped; callers set a higher threshold
NMS_IOU = 0.45
TILE = 320  # pixels of a tile's side for that input, slightly enlarged for the network ...
MAX_TILES = 4  # ... or larger, so that there are at most this many along a side
TILE_OVERLAP = 0.25  # of a tile's side
BORDER = 4  # pixels from an inner border of a tile, within which a box is truncated by it
MAX_VERIFIED_SCORE = 0.7  # score of a queried class below which a box is verified in its own crop
CONTEXT = 1.5  # side of that crop, as a multiple of the box's longer side ...
MIN_CROP = 96  # ... and at least this many pixels
MIN_CROP_SCORE = 0.01  # of a class that the crop does not show
IOU_SAME_CROP_BOX = 0.5  # IoU from which a box in the crop is the same
# Logistic calibration of a box: constant, and weights of the logits of its score, of its mean score in the crop and in
# the mirrored crop, and of the best other class there. Fitted on 742 boxes of 50 labelled photos of COCO and VOC
# (correct: at least half of the segmenter's mask lies in the class): area under the ROC curve 0.87, by the score 0.79.
# The boxes were those of YOLOX-nano; other sizes are not calibrated on their own.
CALIBRATION = (0.7, 0.65, 0.46, -0.3)
MIN_SIMILARITY = 0.72  # cosine from which a name is mapped to a class

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO in the order of the network's output."""

SYNONYMS = {
    "person": "people human man men woman women boy girl child children kid baby lady gentleman guy adult pedestrian "
    "rider cyclist player worker crowd",
    "bicycle": "bike, push bike, mountain bike",
    "car": "automobile, taxi, cab, sedan, van, minivan, suv, jeep",
    "motorcycle": "motorbike, motor bike, moped, scooter",
    "airplane": "aeroplane, plane, aircraft, jet, airliner",
    "bus": "coach, minibus, double decker",
    "train": "locomotive, tram, railway carriage",
    "truck": "lorry, pickup, pickup truck",
    "boat": "ship, sailboat, sailing boat, rowing boat, motorboat, canoe, kayak, yacht, ferry",
    "traffic light": "traffic signal, stoplight",
    "fire hydrant": "hydrant",
    "bird": "pigeon, gull, seagull, duck, goose, swan, parrot, sparrow",
    "cat": "kitten, kitty, tabby",
    "dog": "puppy, hound, terrier, retriever, poodle",
    "horse": "pony, foal, mare, stallion",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, bull, calf, ox",
    "bear": "polar bear, grizzly",
    "backpack": "rucksack, knapsack",
    "umbrella": "parasol",
    "handbag": "purse",
    "tie": "necktie, bow tie",
    "suitcase": "luggage, trunk",
    "skis": "ski",
    "sports ball": "ball, football, soccer ball, basketball, tennis ball, volleyball, baseball",
    "tennis racket": "racket, racquet, tennis racquet",
    "wine glass": "wineglass, goblet",
    "cup": "mug, coffee cup, coffee mug, teacup",
    "donut": "doughnut",
    "couch": "sofa, settee, loveseat",
    "chair": "armchair, seat, stool",
    "potted plant": "houseplant, house plant, plant, plant pot, pot plant",
    "dining table": "table, kitchen table",
    "tv": "television, telly, tv set, tv monitor, television set, monitor, screen",
    "laptop": "laptop computer, notebook computer",
    "mouse": "computer mouse",
    "remote": "remote control",
    "keyboard": "computer keyboard",
    "cell phone": "phone, mobile, mobile phone, cellphone, smartphone, telephone",
    "microwave": "microwave oven",
    "oven": "stove, cooker, range",
    "sink": "washbasin, basin, wash basin",
    "refrigerator": "fridge, freezer",
    "teddy bear": "teddy, stuffed animal, plush toy",
    "hair drier": "hair dryer, hairdryer",
    "clock": "wall clock",
}
"""Synonyms and hyponyms of a class, which take precedence over the sentence encoder."""

GROUPS = {
    "animal": CLASSES[14:24],
    "pet": ("cat", "dog"),
    "vehicle": CLASSES[1:9],
    "fruit": ("banana", "apple", "orange"),
    "vegetable": ("broccoli", "carrot"),
    "food": CLASSES[46:56],
    "furniture": ("chair", "couch", "bed", "dining table", "bench"),
    "cutlery": ("fork", "knife", "spoon"),
    "computer": ("laptop", "keyboard", "tv"),
    "bag": ("backpack", "handbag", "suitcase"),
    "glass": ("wine glass", "cup"),
}
"""Hypernyms of several classes; after the supercategories of COCO (arXiv 1405.0312, table 4)."""


class YoloxDetector:
    """Detection of named objects; a `nbhelpers.models.protocols.Detector` for the 80 classes of COCO.

    Example:
        >>> detector = nbhelpers.load("detector")
        >>> found = detector.detect(image, ["sofa", "cat", "tractor"])
        >>> found.data["class_name"], found.data["detected"], found.confidence
        (['sofa', 'person'], ['couch', 'person'], [0.81, 0.77])
        >>> detector.classes(["sofa", "tractor"])
        [('couch',), ()]

    Args:
        session: of the network; ``(1, 3, s, s)`` in, ``(1, n, 85)`` out, a row for each cell of its three strides.
        sentences: returns unit vectors ``(n, d)`` for ``n`` sentences; without it only `SYNONYMS` and `GROUPS` are
            known.
        name: catalog name.
        device: ``"cpu"``, or ``"cuda"`` where ONNX Runtime can use it.
    """

    def __init__(
        self,
        session: Any,
        sentences: Callable[[Sequence[str]], Float32[np.ndarray, "n d"]] | None = None,
        name: str = "yolox-nano-lite",
        device: str = "cpu",
    ):
        self.session, self.sentences, self.name, self.device = session, sentences, name, device
        self.side = int(session.get_inputs()[0].shape[-1])
        """Pixels of the square input."""
        self._names: dict[str, tuple[str, ...]] = {}

    def classes(self, names: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
        """The COCO classes for each name; empty if the detector does not know it.

        A phrase is looked up as a whole, then by its last word ("red car" is a car), then by its similarity to the
        class names. For a class with several names, the results are combined.
        """
        return [tuple(dict.fromkeys(own for name in group for own in self._known(name))) for group in as_classes(names)]

    def nearest(self, name: str, count: int = 3) -> tuple[str, ...]:
        """The COCO classes whose names are most similar to a name, by decreasing similarity."""
        return tuple(CLASSES[index] for index in np.argsort(-self._similarity(name), kind="stable")[:count])

    def detect(
        self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]], min_score: float = MIN_SCORE
    ) -> supervision.Detections:
        """Boxes of all detected objects.

        Args:
            image: RGB of any size from 1 x 1.
            names: the vocabulary; a class may have several names. It may be empty.
            min_score: minimum score of a box.

        Returns:
            Boxes ``xyxy`` in pixels of the image (edges, not centres); ``confidence``: for a class of the vocabulary
            the probability that it is correct, else the network's score; ``class_id``: index into ``names``, -1 for
            other classes; ``data["detected"]``: the detector's class; and ``data["class_name"]``: the first name of
            the class in the vocabulary, else the detector's name.
        """
        needs("text", "supervision")
        import supervision

        classes = as_classes(names) if len(names) else ()
        known = self.classes(classes) if classes else []
        index = {own: number for number in reversed(range(len(known))) for own in known[number]}
        boxes, scores, labels = self._boxes(image, min_score)
        found: Any = supervision.Detections(xyxy=boxes, confidence=scores, class_id=labels).with_nms(NMS_IOU)
        queried = np.array([CLASSES[label] in index for label in found.class_id], bool)
        for row in np.flatnonzero(queried & (found.confidence < MAX_VERIFIED_SCORE)):
            found.confidence[row] = self._verified(
                image, found.xyxy[row], int(found.class_id[row]), float(found.confidence[row])
            )
        found = found[found.confidence >= min_score]
        detected = [CLASSES[label] for label in found.class_id]
        firsts = [group[0] for group in classes]
        found.class_id = np.array([index.get(own, -1) for own in detected], int)
        found.data = {
            "detected": np.array(detected, str),
            "class_name": np.array([firsts[index[own]] if own in index else own for own in detected], str),
        }
        return found

    def _verified(self, image: np.ndarray, box: np.ndarray, label: int, score: float) -> float:
        """Probability that the class of a box is correct, from its scores in the photo, in a crop and mirrored crop."""
        height, width = image.shape[:2]
        centre, side = (box[:2] + box[2:]) / 2, max(MIN_CROP, CONTEXT * float(np.max(box[2:] - box[:2])))
        x0, y0 = np.maximum(centre - side / 2, 0).astype(int)
        x1, y1 = np.minimum(centre + side / 2, [width, height]).astype(int)
        crop = image[y0:y1, x0:x1]
        again, others = [], [MIN_CROP_SCORE]
        for mirrored in (False, True):
            boxes, scores, labels = self._detect(crop[:, ::-1] if mirrored else crop, MIN_CROP_SCORE)
            if mirrored:
                boxes[:, [0, 2]] = (x1 - x0) - boxes[:, [2, 0]]
            same = _ious(box - [x0, y0, x0, y0], boxes) >= IOU_SAME_CROP_BOX
            again.append(scores[same & (labels == label)].max(initial=MIN_CROP_SCORE))
            others.append(scores[same & (labels != label)].max(initial=MIN_CROP_SCORE))
        features = np.clip(np.array([score, np.mean(again), np.max(others)]), MIN_CROP_SCORE, 1 - MIN_CROP_SCORE)
        value = CALIBRATION[0] + np.dot(CALIBRATION[1:], np.log(features / (1 - features)))
        return float(1 / (1 + np.exp(-value)))

    def _boxes(self, image: np.ndarray, min_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes, scores and COCO labels of the whole photo and of its tiles, before suppression."""
        height, width = image.shape[:2]
        boxes, scores, labels = [], [], []
        for x0, y0, x1, y1 in windows(height, width, self.side):
            xyxy, score, label = self._detect(image[y0:y1, x0:x1], min_score)
            cut = np.stack([
                (xyxy[:, 0] < BORDER) & (x0 > 0),
                (xyxy[:, 1] < BORDER) & (y0 > 0),
                (xyxy[:, 2] > x1 - x0 - BORDER) & (x1 < width),
                (xyxy[:, 3] > y1 - y0 - BORDER) & (y1 < height),
            ]).any(0)  # fmt: skip
            boxes.append(xyxy[~cut] + [x0, y0, x0, y0])
            scores.append(score[~cut])
            labels.append(label[~cut])
        return np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)

    def _detect(self, image: np.ndarray, min_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes in pixels of the image, scores and labels of one run of the network."""
        height, width = image.shape[:2]
        pixels = letterbox(image, self.side)[None]
        output = self.session.run(None, {self.session.get_inputs()[0].name: pixels})[0][0]
        boxes, scores, labels = decode(output, min_score, self.side)
        return np.clip(boxes / letterbox_scale(height, width, self.side), 0, [width, height] * 2), scores, labels

    def _known(self, name: str) -> tuple[str, ...]:
        """The classes of a name."""
        if name not in self._names:
            keys = (root(name), root(name.split()[-1]))
            known = next((_TABLE[key] for key in keys if key in _TABLE), None)
            if known is None:
                similarity = self._similarity(name)
                known = (CLASSES[similarity.argmax()],) if similarity.max() >= MIN_SIMILARITY else ()
            self._names[name] = known
        return self._names[name]

    def _similarity(self, name: str) -> Float32[np.ndarray, " n"]:
        """Cosine of a name with each class name."""
        if self.sentences is None:
            return np.zeros(len(CLASSES), np.float32)
        return self._class_vectors @ self.sentences([name])[0]

    @cached_property
    def _class_vectors(self) -> Float32[np.ndarray, "n d"]:
        return np.zeros((len(CLASSES), 0), np.float32) if self.sentences is None else self.sentences(CLASSES)


def _ious(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of a box with each of some boxes."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.clip(sides, 0, None), axis=1)
    return shared / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared + 1e-9)


def windows(height: int, width: int, side: int = SIDE) -> Iterator[tuple[int, int, int, int]]:
    """``(x0, y0, x1, y1)`` of the whole photo, then of overlapping tiles where it is larger than one.

    ``side``: of the network's input, in proportion to which a tile is larger than `TILE`.
    """
    yield 0, 0, width, height
    tile = TILE * side // SIDE
    if max(height, width) <= tile:
        return
    tile = max(tile, int(np.ceil(max(height, width) / (1 + (MAX_TILES - 1) * (1 - TILE_OVERLAP)))))
    for y in _starts(height, tile):
        for x in _starts(width, tile):
            yield x, y, min(width, x + tile), min(height, y + tile)


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (side * (1 - TILE_OVERLAP)))) + 1
    return np.round(np.linspace(0, length - side, count)).astype(int).tolist()


def letterbox_scale(height: int, width: int, side: int = SIDE) -> float:
    """Pixels of the network's input in one pixel of the photo."""
    return min(side / height, side / width)


def letterbox(image: UInt8[np.ndarray, "h w 3"], side: int = SIDE) -> Float32[np.ndarray, "3 side side"]:
    """The network's input: BGR from 0 to 255, the photo in the top-left corner of a grey square."""
    scale = letterbox_scale(image.shape[0], image.shape[1], side)
    size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
    square = np.full((side, side, 3), GREY, np.uint8)
    square[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(square[:, :, ::-1].transpose(2, 0, 1), np.float32)


def decode(
    output: Float32[np.ndarray, "n 85"], min_score: float, side: int = SIDE
) -> tuple[Float32[np.ndarray, "k 4"], Float32[np.ndarray, " k"], np.ndarray]:
    """Boxes in pixels of the input square, scores and class indices of one network output.

    A row holds the centre's offset in cells, the logarithm of the size in cells, the objectness and 80 class
    probabilities; the score is objectness times class probability.
    """
    cells = [(side // stride, stride) for stride in STRIDES]
    grid = np.concatenate([np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) for n, _ in cells])
    stride = np.concatenate([np.full((n * n, 1), step) for n, step in cells])
    scores = output[:, 4:5] * output[:, 5:]
    rows, labels = np.nonzero(scores >= min_score)
    centre = (output[rows, :2] + grid[rows]) * stride[rows]
    half = np.exp(output[rows, 2:4]) * stride[rows] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return boxes, scores[rows, labels].astype(np.float32), labels


def build(name: str, files: dict[str, Path], device: str) -> YoloxDetector:
    """Build a detector from ``{"checkpoint", "text", "config", "tokenizer": path}``.

    Raises:
        NbHelpersError: a file that cannot be read, or contains another network.
    """
    from nbhelpers.models.minilm import SentenceEncoder

    try:
        session, device = onnx_session(files["checkpoint"], device)
        shapes = session.get_inputs()[0].shape, session.get_outputs()[0].shape
    except Exception as error:  # onnxruntime's exceptions have no public base
        raise NbHelpersError(
            "the detector cannot be loaded",
            given=f"{files['checkpoint']}: {str(error).splitlines()[0]}",
            do=f"nbhelpers fetch {name}",
        ) from error
    side = shapes[0][-1]  # a string if it is not fixed
    if not isinstance(side, int) or list(shapes[1][1:]) != [sum((side // s) ** 2 for s in STRIDES), 5 + len(CLASSES)]:
        raise NbHelpersError(
            "the detector is another network",
            given=f"input {shapes[0]}, output {shapes[1]}",
            expected="a fixed input, such as (1, 3, 416, 416), and for it an output of (1, 3549, 85)",
        )
    encoder = cache(lambda: SentenceEncoder.from_files(files["text"], files["config"], files["tokenizer"]))
    return YoloxDetector(session, lambda sentences: encoder()(sentences), name, device)


def _table() -> dict[str, tuple[str, ...]]:
    """Stem of a name -> its classes."""
    out = {root(group): tuple(own) for group, own in GROUPS.items()}
    for own, names in SYNONYMS.items():
        words = names.split(", ") if ", " in names else names.split() if own == "person" else [names]
        out |= {root(word): (own,) for word in words}
    return out | {root(own): (own,) for own in CLASSES}


_TABLE = _table()
