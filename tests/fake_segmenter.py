"""A segmenter without weights: what has nearly the colour of the clicked pixels belongs to the object."""

import time
from pathlib import Path

import cv2
import numpy as np

from nbhelpers.models.values import Embedding, Prediction

SIDE = 256
REACH = (40.0, 15.0, 40.0, 90.0)  # colour distance of candidate 0 to 3


class FakeSegmenter:
    """Deterministic; candidates 1, 2 and 3 grow, candidate 2 equals candidate 0 and is the model's choice."""

    name, device = "fake", "cpu"

    def __init__(self, wait_for=None):
        self.wait_for, self.encoded, self.asked = wait_for, 0, 0

    def encode(self, image):
        """Look at an image; as a slow model, not before the file ``wait_for`` is there, where one is named."""
        while self.wait_for and not Path(self.wait_for).exists():
            time.sleep(0.05)
        self.encoded += 1
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        return Embedding(image.shape[:2], self.name, {"small": small})

    def predict(self, embedding, prompt):
        self.asked += 1
        small, (height, width) = embedding.tensors["small"], embedding.size
        scale = np.array([SIDE / width, SIDE / height])

        def distance(points):
            cells = np.clip((points + 0.5) * scale, 0, SIDE - 1).astype(int)
            away = [np.linalg.norm(small - small[y, x], axis=2) for x, y in cells]
            return np.min(away, axis=0) if away else np.full((SIDE, SIDE), 1e3, np.float32)

        near, far = distance(prompt.points[prompt.labels == 1]), distance(prompt.points[prompt.labels == 0])
        logits = np.stack([np.minimum(reach - near, far - 20) for reach in REACH]).astype(np.float32)
        if prompt.box is not None:
            rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
            x0, y0, x1, y1 = (prompt.box.reshape(2, 2) * scale).ravel()
            inside = (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)
            if not (prompt.labels == 1).any():
                logits[:] = np.minimum(far - 20, 50)
            logits = np.where(inside, logits, -50).astype(np.float32)
        return Prediction(logits, np.array([0.9, 0.6, 0.95, 0.7], np.float32), embedding.size, (SIDE, SIDE), choice=2)

    def predict_points(self, embedding, points, choose=None):
        raise NotImplementedError
