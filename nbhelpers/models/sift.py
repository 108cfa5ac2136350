"""SIFT by pycolmap with mutual nearest neighbours: no weights, and the most exact where photos overlap well.

Lowe 2004, "Distinctive Image Features from Scale-Invariant Keypoints"; RootSIFT by Arandjelovic and Zisserman 2012.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8

from nbhelpers.core.images import fit
from nbhelpers.core.lazy import needs
from nbhelpers.models.features import Features, check_same_model

LONGEST = 1600  # pixels of the longer side; larger photos cost time and give no better cameras
HALF = 0.5  # COLMAP's first pixel has its centre at (0.5, 0.5)
SMALLEST = 16  # pixels of the shorter side below which there is no octave to look at


@dataclass(frozen=True)
class Sift:
    """SIFT features and their matching; a `nbhelpers.models.protocols.Matcher`.

    Args:
        name: told in the scene's notes.
        device: always ``"cpu"``.
        keypoints: most features of a photo.
        contrast: least contrast of a feature; COLMAP's default is 0.0067, half of it finds fainter ones.
        ratio: largest distance to the best match as a share of that to the second best (Lowe, section 7.1).
        longest: longer side in pixels to which larger photos are made smaller.
    """

    name: str = "sift"
    device: str = "cpu"
    keypoints: int = 4096
    contrast: float = 0.02 / 3
    ratio: float = 0.8
    longest: int = LONGEST
    quick = True

    def features(self, image: UInt8[np.ndarray, "h w 3"]) -> Features:
        """Distinct places of a picture, with scores 1."""
        needs("multiview", "pycolmap")
        import pycolmap

        small = fit(image, self.longest)
        if min(small.shape[:2]) < SMALLEST:
            places, descriptors = np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32)
        else:
            options = pycolmap.FeatureExtractionOptions()
            options.num_threads, options.use_gpu = 1, False
            options.sift.max_num_features, options.sift.peak_threshold = self.keypoints, self.contrast
            extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
            found, looks = extractor.extract(pycolmap.Bitmap.from_array(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)))
            places, descriptors = pycolmap.keypoints_to_matrix(found), np.asarray(looks.data, np.float32)
        scale = np.array(image.shape[1::-1]) / np.array(small.shape[1::-1])
        points = np.clip(places[:, :2] * scale - HALF, 0, np.array(image.shape[1::-1]) - 1)
        length = np.linalg.norm(descriptors, axis=1, keepdims=True)
        descriptors = (descriptors / np.maximum(length, 1e-6)).astype(np.float32)
        return Features(
            image.shape[:2], self.name, points.astype(np.float32), descriptors, np.ones(len(points), np.float32)
        )

    def match(self, first: Features, second: Features) -> tuple[Int[np.ndarray, "m 2"], Float32[np.ndarray, " m"]]:
        """Mutual nearest neighbours that are clearly nearer than the second nearest; scores are their cosines."""
        check_same_model(first, second, self.name)
        check_same_model(second, first, self.name)
        if min(len(first), len(second)) < 2:
            return np.zeros((0, 2), int), np.zeros(0, np.float32)
        near = first.descriptors @ second.descriptors.T
        best = near.argmax(1)
        rows = np.arange(len(first))
        top = near[rows, best]
        mutual = near.argmax(0)[best] == rows
        near[rows, best] = -1
        distance, next_distance = (np.sqrt(np.maximum(2 - 2 * cosine, 0)) for cosine in (top, near.max(1)))
        good = np.flatnonzero(mutual & (distance < self.ratio * next_distance))
        return np.stack([good, best[good]], axis=1), top[good]
