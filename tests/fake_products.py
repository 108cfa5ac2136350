"""Models without weights for product matching, and photos to match: things are told apart by their colours alone."""

import functools
import tempfile
from pathlib import Path

import cv2
import numpy as np
from fake_segmenter import SIDE, FakeSegmenter

from nbhelpers.core.images import save_image
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.values import Prediction
from nbhelpers.product_matching import ProductSession, ProductSettings

RED, BLUE, GREEN, YELLOW = (210, 40, 30), (30, 60, 200), (40, 150, 60), (230, 200, 40)


class FakePatchEncoder:
    """The token of a patch: smooth functions of its mean colour, so that equal colours give equal tokens."""

    name, device, patch, dimension = "fake patches", "cpu", 14, 28

    def __init__(self):
        self.encoded = 0

    def tokens(self, images):
        self.encoded += len(images)
        out = []
        for image in images:
            rows, columns = (max(1, round(side / self.patch)) for side in image.shape[:2])
            colour = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
            waves = [np.cos(np.pi * k * colour[..., channel]) for channel in range(3) for k in range(1, 10)]
            out.append(np.stack([np.full((rows, columns), 0.5, np.float32), *waves], axis=2).astype(np.float32))
        return out


class FakePointSegmenter(FakeSegmenter):
    """Also answers many points, each as a click of its own."""

    def predict_points(self, embedding, points, choose=None):
        logits, scores = [], []
        for number, point in enumerate(points):
            every = self.predict(embedding, Prompt(points=[point]))
            readings = Prediction(every.logits[1:], every.scores[1:], every.size, every.extent, choice=1)
            index = readings.choice if choose is None else choose(number, readings)
            logits.append(readings.logits[index])
            scores.append(readings.scores[index])
        return Prediction(np.stack(logits), np.array(scores, np.float32), embedding.size, (SIDE, SIDE))


def scene(things, size=(240, 320), seed=0):
    """A soft grey background with coloured discs: ``(colour, x, y, radius)`` each."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    random = np.random.default_rng(seed)
    base = 120 + 20 * np.sin(columns / 40 + seed) + 15 * np.cos(rows / 35)
    picture = np.stack([base, base + 4, base - 4], axis=2) + random.normal(0, 2, (*size, 1))
    picture = picture.clip(0, 255).astype(np.uint8)
    for colour, x, y, radius in things:
        picture[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = colour
    return picture


def write_shelf(folder):
    """Six photos: the red product in four of them, among other things; return their paths."""
    scenes = [
        [(RED, 90, 110, 34), (BLUE, 230, 120, 34)],
        [(BLUE, 80, 100, 30), (RED, 220, 140, 28)],
        [(GREEN, 160, 120, 40)],
        [(RED, 200, 90, 40)],
        [(YELLOW, 90, 110, 34), (BLUE, 230, 120, 34)],
        [(GREEN, 70, 150, 30), (RED, 160, 80, 26), (YELLOW, 250, 160, 30)],
    ]
    folder.mkdir(parents=True, exist_ok=True)
    return [
        save_image(folder / f"photo {number}.png", scene(things, seed=number)) for number, things in enumerate(scenes)
    ]


PRODUCT_AT = (90, 110)
HOLDS = (True, True, False, True, False, True)
OURS = ProductSettings(scales=(224, 448))


def new_session(folder, segmenter=None, encoder=None):
    """A session on the shelf, shown the product, not searched yet; photos and cache lie in ``folder``."""
    models = {"segmenter": segmenter or FakePointSegmenter(), "encoder": encoder or FakePatchEncoder()}
    shelf = write_shelf(folder / "shelf")
    session = ProductSession(shelf, settings=OURS, cache=folder / "cache", **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    return session


def searched_session(folder, segmenter=None, encoder=None):
    """The same after its search, which really takes place once in a process: candidates come from that one's cache."""
    for name, content in _candidates().items():
        path = folder / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    session = new_session(folder, segmenter, encoder)
    session.search()
    return session


@functools.cache
def _candidates():
    with tempfile.TemporaryDirectory() as folder:
        session = new_session(Path(folder))
        session.search()
        cache = session.photo_search.cache.folder
        return {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*.npz")}
