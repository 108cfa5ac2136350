"""A text encoder and a segmenter without weights, for drawn pictures: words are colours, masks are flooded areas."""

import cv2
import numpy as np

from nbhelpers.models.values import ClassMap, Embedding, Prediction

COLOURS = {
    "ball": (220, 40, 30),
    "box": (30, 60, 210),
    "lawn": (60, 160, 60),
    "grass": (60, 160, 60),
    "sky": (150, 200, 240),
    "lid": (230, 200, 40),
    "猫": (220, 40, 30),
}


class FakeTextEncoder:
    """The nearer a colour to that of a word, the more probable the word; unknown words are nowhere."""

    name, device = "fake-words", "cpu"

    def __init__(self, sharpness=0.1, side=96, flat=0.0):
        self.sharpness, self.side, self.flat, self.asked = sharpness, side, flat, []

    def dense(self, image, names):
        groups = [(name,) if isinstance(name, str) else tuple(name) for name in names]
        self.asked.append(groups)
        scale = min(1.0, self.side / max(image.shape[:2]))
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        logits = [np.max([self._near(small, name) for name in group], axis=0) for group in groups]
        p = np.exp(np.array(logits) * self.sharpness)
        p = p / p.sum(0) * (1 - self.flat) + self.flat / len(groups)
        return ClassMap(p.astype(np.float32), tuple(group[0] for group in groups), image.shape[:2], self.name)

    def _near(self, small, name):
        colour = COLOURS.get(name.casefold())
        return np.full(small.shape[:2], -120.0) if colour is None else -np.linalg.norm(small - colour, axis=2)


class FloodSegmenter:
    """Three readings of a click: the upper half of the flooded area, all of it, and everything of its colour."""

    name, device, side = "flood", "cpu", 256

    def __init__(self, scores=(0.7, 0.9, 0.8)):
        self.scores, self.asked, self.encoded = np.array(scores, np.float32), [], 0

    def encode(self, image):
        self.encoded += 1
        small = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_AREA)
        return Embedding(image.shape[:2], self.name, {"small": small})

    def predict(self, embedding, prompt):
        small, (height, width) = embedding.tensors["small"], embedding.size
        scale = np.array([self.side / width, self.side / height])
        boxed = prompt.box is not None
        point = np.mean(np.reshape(prompt.box, (2, 2)), axis=0) if boxed else prompt.points[0]
        x, y = np.clip((point + 0.5) * scale, 0, self.side - 1).astype(int)
        same = np.abs(small.astype(int) - small[y, x]).max(2) < 12
        _, labels = cv2.connectedComponents(same.astype(np.uint8))
        area = labels == labels[y, x]
        upper = area.copy()
        rows = np.flatnonzero(area.any(1))
        upper[(rows[0] + rows[-1]) // 2 + 1 :] = False
        masks = np.stack([area, upper, area, same])
        scores = np.concatenate([[0.9], self.scores]).astype(np.float32)
        choice = 0 if boxed else 2
        return Prediction(np.where(masks, 8, -8).astype(np.float32), scores, embedding.size, masks.shape[1:], choice)

    def predict_points(self, embedding, points, choose=None):
        from nbhelpers.core.prompts import Prompt

        self.asked.append(np.array(points))
        logits, scores = [], []
        for number, point in enumerate(points):
            four = self.predict(embedding, Prompt([point]))
            three = Prediction(four.logits[1:], four.scores[1:], four.size, four.extent, int(four.scores[1:].argmax()))
            index = three.choice if choose is None else choose(number, three)
            logits.append(three.logits[index])
            scores.append(three.scores[index])
        return Prediction(np.stack(logits), np.array(scores), embedding.size, three.extent, 0)


def scene(height=240, width=320):
    """Sky above a lawn; two red balls that stand apart, and a blue box with a yellow lid on it."""
    picture = np.empty((240, 320, 3), np.uint8)
    picture[:120], picture[120:] = COLOURS["sky"], COLOURS["lawn"]
    for x in (60, 150):
        cv2.circle(picture, (x, 160), 28, COLOURS["ball"], -1)
    picture[140:220, 220:300] = COLOURS["box"]
    picture[140:165, 240:280] = COLOURS["lid"]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)


class FakeDetector:
    """Boxes around what has the colour of one of its own classes; everything else it does not know."""

    name, device = "fake-detector", "cpu"

    def __init__(self, scores, synonyms=None):
        self.scores, self.synonyms, self.asked = scores, synonyms or {}, []

    def classes(self, names):
        groups = [(name,) if isinstance(name, str) else tuple(name) for name in names]
        known = [[self.synonyms.get(name.casefold(), name.casefold()) for name in group] for group in groups]
        return [tuple(name for name in names if name in self.scores) for names in known]

    def nearest(self, name, count=3):
        return tuple(self.scores)[:count]

    def detect(self, image, names, min_score=0.1):
        import supervision

        self.asked.append(names)
        known, boxes, scores, labels = self.classes(names), [], [], []
        for own, score in self.scores.items():
            same = (np.abs(image.astype(int) - COLOURS[own]).max(2) < 12).astype(np.uint8)
            count, _, stats, _ = cv2.connectedComponentsWithStats(same)
            for x, y, width, height, _ in stats[1:count].tolist():
                boxes.append((x, y, x + width, y + height))
                scores.append(score)
                labels.append(own)
        ids = [next((i for i, owns in enumerate(known) if own in owns), -1) for own in labels]
        return supervision.Detections(
            xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            confidence=np.array(scores, np.float32),
            class_id=np.array(ids, int),
            data={"detected": np.array(labels, str), "class_name": np.array(labels, str)},
        )
