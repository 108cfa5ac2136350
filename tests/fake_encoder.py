"""A patch encoder without weights: what a patch looks like, in a few numbers turned at random into 24."""

import cv2
import numpy as np

PATCH, DIMENSION = 14, 24


class FakeEncoder:
    """Deterministic: brightness, its slopes and its roughness in each of 4 x 4 cells of a patch; colour hardly counts."""

    name, device, patch, dimension = "fake-encoder", "cpu", PATCH, DIMENSION

    def __init__(self):
        self.seen = 0
        self.turn = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSION, DIMENSION)))[0].astype(np.float32)

    def tokens(self, images):
        self.seen += len(images)
        return [self._tokens(image) for image in images]

    def _tokens(self, image):
        rows, columns = (max(1, round(side / PATCH)) for side in image.shape[:2])
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        cells = cv2.resize(grey, (columns * 4, rows * 4), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        cells = cells.reshape(rows, 4, columns, 4).transpose(0, 2, 1, 3).reshape(rows, columns, 16)
        coarse = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        smooth = cv2.GaussianBlur(coarse, (0, 0), 1.5)
        parts = [cells - cells.mean(-1, keepdims=True), coarse, smooth, np.ones((rows, columns, 2), np.float32) * 0.3]
        return (np.concatenate(parts, -1) @ self.turn).astype(np.float32)
