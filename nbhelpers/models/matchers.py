"""Local features and their matchers: SIFT by pycolmap, DISK, ALIKED and XFeat with LightGlue by kornia.

Tyszkiewicz et al. 2020 (arXiv 2006.13566), Zhao et al. 2023 (arXiv 2304.03608), Potje et al. 2024 (arXiv 2404.19174),
Lindenberger et al. 2023 (arXiv 2306.13643).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import read_weights, with_cpu_fallback
from nbhelpers.models.protocols import Matcher
from nbhelpers.models.values import LocalFeatures, check_same_model

LONGEST = 1024  # longer side in pixels for the learned extractors: near their training size
KEYPOINTS = 1024  # per photo; twice as many take LightGlue three times as long and registered no further photo
AROUND = 9  # side in pixels of the square in which a keypoint must have contrast
CONTRAST = 2.5  # grey levels of standard deviation; the dark noise of a good camera is about 1
MIN_FEATURES = 8  # below which LightGlue is not run
DISK_STEP = 16  # pixels: DISK's U-Net halves the image four times
XFEAT_STEP = 32
DIMENSIONS = {"disk": 128, "aliked": 128, "xfeat": 64}
SIFT_LONGEST = 1600  # pixels of the longer side; larger photos take longer and give no better cameras
HALF = 0.5  # COLMAP's first pixel has its centre at (0.5, 0.5)
MIN_SIDE = 16  # pixels of the shorter side, below which SIFT has no octave


class LightGlueMatcher:
    """An extractor with its LightGlue matcher; a `nbhelpers.models.protocols.Matcher`.

    Example:
        >>> matcher = nbhelpers.load("matcher", "disk-lightglue")
        >>> first, second = matcher.features(photo), matcher.features(other)
        >>> pairs, scores = matcher.match(first, second)
        >>> first.points[pairs[:, 0]], second.points[pairs[:, 1]]

    Args:
        extractor: kornia's network.
        glue: kornia's ``LightGlue``.
        kind: ``"disk"``, ``"aliked"`` or ``"xfeat"``.
        name: catalog name.
        device: where both compute.
        keypoints: maximum number of features of a photo.
        longest: longer side in pixels to which larger photos are reduced.
    """

    quick = False

    def __init__(
        self,
        extractor: Any,
        glue: Any,
        kind: str,
        name: str,
        device: str = "cpu",
        keypoints: int = KEYPOINTS,
        longest: int = LONGEST,
    ):
        import torch

        self.model: Any = torch.nn.ModuleDict({"extractor": extractor, "glue": glue}).eval().to(device)
        self.kind, self.name, self.device = kind, name, device
        self.keypoints, self.longest = keypoints, longest

    def features(self, image: UInt8[np.ndarray, "h w 3"]) -> LocalFeatures:
        """Keypoints of an image by decreasing score; none if it is smaller than the network's stride."""
        small = fit(image, self.longest)
        points, descriptors, scores = with_cpu_fallback(self, lambda: EXTRACTORS[self.kind](self, small))
        order = np.argsort(-scores, kind="stable")[: self.keypoints]
        order = order[textured(small, points[order])]
        # pixel centres: at every size the corner of the image is half a pixel before the first centre
        scale = np.array(image.shape[1::-1]) / np.array(small.shape[1::-1])
        points = ((points[order] + 0.5) * scale - 0.5).astype(np.float32)
        points = np.clip(points, 0, np.array(image.shape[1::-1], np.float32) - 1)
        return LocalFeatures(image.shape[:2], self.name, points, descriptors[order], scores[order])

    def match(
        self, first: LocalFeatures, second: LocalFeatures
    ) -> tuple[Int[np.ndarray, "m 2"], Float32[np.ndarray, " m"]]:
        """Indices of the matching features of two images, and their confidence (0 to 1).

        Raises:
            NbHelpersError: features of another extractor.
        """
        check_same_model(first, second, self.name)
        if min(len(first), len(second)) < MIN_FEATURES:
            return np.zeros((0, 2), int), np.zeros(0, np.float32)
        return with_cpu_fallback(self, lambda: self._match(first, second))

    def _match(self, first: LocalFeatures, second: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
        import torch

        def data(features: LocalFeatures) -> dict:
            return {
                "keypoints": torch.from_numpy(features.points)[None].to(self.device),
                "descriptors": torch.from_numpy(features.descriptors)[None].to(self.device),
                "image_size": torch.tensor([features.size[::-1]], device=self.device),
            }

        output = self.model["glue"]({"image0": data(first), "image1": data(second)})
        return output["matches"][0].cpu().numpy().astype(int), output["scores"][0].float().cpu().numpy()


class MutualNearest:
    """The features of another matcher, matched as mutual nearest neighbours; a `nbhelpers.models.protocols.Matcher`.

    It takes a fiftieth of LightGlue's time on a CPU and matches fewer features of distant viewpoints; this is how
    Potje et al. 2024 match XFeat (section 4, "MNN").

    Args:
        matcher: computes the features.
        min_cosine: of two matching descriptors; the default is that of XFeat's authors.
    """

    quick = True

    def __init__(self, matcher: Matcher, min_cosine: float = 0.82):
        self.matcher, self.min_cosine = matcher, min_cosine
        self.name, self.device = matcher.name.partition("-")[0], matcher.device

    def features(self, image: UInt8[np.ndarray, "h w 3"]) -> LocalFeatures:
        """Keypoints of an image, as the other matcher finds them."""
        return replace(self.matcher.features(image), model=self.name)

    def match(
        self, first: LocalFeatures, second: LocalFeatures
    ) -> tuple[Int[np.ndarray, "m 2"], Float32[np.ndarray, " m"]]:
        """Indices of mutual nearest neighbours and their cosines.

        Raises:
            NbHelpersError: features of another extractor.
        """
        check_same_model(first, second, self.name)
        if not min(len(first), len(second)):
            return np.zeros((0, 2), int), np.zeros(0, np.float32)
        near, best, mutual = mutual_nearest(first.descriptors, second.descriptors)
        top = near[np.arange(len(first)), best]
        good = np.flatnonzero(mutual & (top > self.min_cosine))
        return np.stack([good, best[good]], axis=1), top[good]


def mutual_nearest(
    first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "k d"]
) -> tuple[Float32[np.ndarray, "n k"], Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Cosines of unit descriptors, the nearest of ``second`` to each of ``first``, and whether that is mutual."""
    near = first @ second.T
    best = near.argmax(1)
    mutual = near[np.arange(len(first)), best] == near.max(0)[best]  # ten times as fast as the argmax of columns
    rows = np.flatnonzero(mutual)
    mutual[np.delete(rows, np.unique(best[rows], return_index=True)[1])] = False  # of equal ones the first
    return near, best, mutual


def is_distinct(near: Float32[np.ndarray, "n k"], best: Int[np.ndarray, " n"], ratio: float) -> Bool[np.ndarray, " n"]:
    """Which nearest neighbours pass the ratio test (Lowe 2004, section 7.1); ``near`` is overwritten.

    Args:
        near: cosines of descriptors, at least two columns.
        best: the column of each row's nearest neighbour.
        ratio: maximum distance to it as a fraction of that to the second one.
    """
    rows = np.arange(len(near))
    top = near[rows, best]
    near[rows, best] = -1
    distance, next_distance = (np.sqrt(np.maximum(2 - 2 * cosine, 0)) for cosine in (top, near.max(1)))
    return distance < ratio * next_distance


def textured(image: UInt8[np.ndarray, "h w 3"], points: Float32[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Which points have local contrast.

    The networks normalise contrast, so on a black background they detect keypoints in the sensor noise, which does not
    move with a rotating object: such photos match well but wrongly.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean, square = (cv2.blur(each, (AROUND, AROUND)) for each in (grey, grey**2))
    x, y = np.clip(np.rint(points).astype(int), 0, np.array(grey.shape[::-1]) - 1).T
    return (square - mean**2)[y, x] > CONTRAST**2


def _disk(matcher: LightGlueMatcher, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if min(image.shape[:2]) < DISK_STEP:
        return _none("disk")
    pixels = _tensor(image, matcher.device)
    features = matcher.model["extractor"](pixels, n=matcher.keypoints, pad_if_not_divisible=True)[0]
    return _arrays(features.keypoints, features.descriptors, features.detection_scores)


def _aliked(matcher: LightGlueMatcher, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if min(image.shape[:2]) < XFEAT_STEP:
        return _none("aliked")
    features = matcher.model["extractor"](_tensor(image, matcher.device))[0]
    return _arrays(features.keypoints, features.descriptors, features.keypoint_scores)


def _xfeat(matcher: LightGlueMatcher, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    if min(height, width) < XFEAT_STEP:
        return _none("xfeat")
    # Its sums depend on the number of threads, and so do its keypoints and the registration of distant photos.
    # A single thread costs 0.1 s per photo. DISK and LightGlue are deterministic with any number.
    with _one_thread():
        features = matcher.model["extractor"].detectAndCompute(_tensor(image, matcher.device), top_k=matcher.keypoints)[
            0
        ]
    points, descriptors, scores = _arrays(features["keypoints"], features["descriptors"], features["scores"])
    # its grid has whole strides, and it reports pixel i at i * factor; the centre is at (i + 0.5) * factor - 0.5
    factor = np.array([width / (width // XFEAT_STEP * XFEAT_STEP), height / (height // XFEAT_STEP * XFEAT_STEP)])
    return (points + (factor - 1) / 2).astype(np.float32), descriptors, scores


EXTRACTORS: dict[str, Callable] = {"disk": _disk, "aliked": _aliked, "xfeat": _xfeat}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tensor(image: np.ndarray, device: str):
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(device).float() / 255


def _arrays(points, descriptors, scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, descriptors, scores = (each.float().cpu().numpy() for each in (points, descriptors, scores))
    return points, descriptors, scores


def _none(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((0, 2), np.float32), np.zeros((0, DIMENSIONS[kind]), np.float32), np.zeros(0, np.float32)


def light_glue(kind: str, state: Mapping[str, Any]) -> Any:
    """Kornia's ``LightGlue`` with the published weights for an extractor.

    Args:
        kind: ``"disk"``, ``"aliked"`` or ``"xfeat"``.
        state: the published state dict, with older names of the layers.

    Raises:
        RuntimeError: weights of another network.
    """
    from kornia.feature import LightGlue

    options = {name: value for name, value in LightGlue.features[kind].items() if name != "weights"}
    glue: Any = LightGlue(None, **options)  # pyright: ignore[reportArgumentType] - None: weights come below
    renamed = {
        re.sub(r"^(self_attn|cross_attn)\.(\d+)\.", r"transformers.\2.\1.", name.removeprefix("matcher.")): value
        for name, value in state.items()
        # the file of LighterGlue also contains XFeat; the others an unused `r`
        if not (name.startswith("extractor.") or re.fullmatch(r"log_assignment\.\d+\.r", name))
    }
    # a buffer that follows from the options, absent in older files
    renamed.setdefault("confidence_thresholds", glue.confidence_thresholds)
    glue.load_state_dict(renamed)
    return glue


def _extractor(kind: str, state: Mapping[str, Any], keypoints: int) -> Any:
    from kornia.feature import ALIKED, DISK, XFeat

    if kind == "disk":
        network = DISK()
        network.load_state_dict(state["extractor"])
    elif kind == "aliked":
        network = ALIKED(model_name="aliked-n16", max_num_keypoints=keypoints)
        network.load_state_dict({"dkd.hw_grid": network.dkd.hw_grid, **state})  # a buffer, absent in the file
    else:
        network = XFeat(top_k=keypoints)
        network.net.load_state_dict(state)
    return network


def build(name: str, files: Mapping[str, Path], device: str, kind: str, keypoints: int = KEYPOINTS) -> LightGlueMatcher:
    """Build a matcher from ``{"extractor": path, "matcher": path}``.

    Raises:
        NbHelpersError: kornia is not installed, or the files are damaged or belong to another network.
    """
    needs("multiview", "kornia")
    states = {role: read_weights(files[role], f"the {role} of {name}") for role in ("extractor", "matcher")}
    try:
        extractor = _extractor(kind, states["extractor"], keypoints)
        glue = light_glue(kind, states["matcher"])
    except (RuntimeError, KeyError, AttributeError) as error:
        raise NbHelpersError(
            "the weights belong to another network",
            given=f"{', '.join(path.name for path in files.values())}: {str(error).splitlines()[0]}",
            expected=f"the two files of {name}",
            do=f"nbhelpers fetch {name}",
        ) from error
    return LightGlueMatcher(extractor, glue, kind, name, device, keypoints)


@dataclass(frozen=True)
class Sift:
    """SIFT features and mutual nearest neighbours; a `nbhelpers.models.protocols.Matcher`.

    It needs no weights and is the most accurate matcher for photos with large overlap. Lowe 2004, "Distinctive Image
    Features from Scale-Invariant Keypoints"; RootSIFT by Arandjelovic and Zisserman 2012.

    Args:
        name: for the scene's notes.
        device: always ``"cpu"``.
        keypoints: maximum number of features of a photo.
        contrast: minimum contrast of a feature; COLMAP's default is 0.0067, half of it adds weaker ones.
        ratio: maximum distance to the best match as a fraction of that to the second best (Lowe, section 7.1).
        longest: longer side in pixels to which larger photos are reduced.
    """

    name: str = "sift"
    device: str = "cpu"
    keypoints: int = 4096
    contrast: float = 0.02 / 3
    ratio: float = 0.8
    longest: int = SIFT_LONGEST
    quick = True

    def features(self, image: UInt8[np.ndarray, "h w 3"]) -> LocalFeatures:
        """Keypoints of an image, with scores 1."""
        needs("multiview", "pycolmap")
        import pycolmap

        small = fit(image, self.longest)
        if min(small.shape[:2]) < MIN_SIDE:
            matrix, descriptors = np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32)
        else:
            options = pycolmap.FeatureExtractionOptions()
            options.num_threads, options.use_gpu = 1, False
            options.sift.max_num_features, options.sift.peak_threshold = self.keypoints, self.contrast
            extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
            keypoints, vectors = extractor.extract(pycolmap.Bitmap.from_array(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)))
            matrix, descriptors = pycolmap.keypoints_to_matrix(keypoints), np.asarray(vectors.data, np.float32)
        scale = np.array(image.shape[1::-1]) / np.array(small.shape[1::-1])
        points = np.clip(matrix[:, :2] * scale - HALF, 0, np.array(image.shape[1::-1]) - 1)
        length = np.linalg.norm(descriptors, axis=1, keepdims=True)
        descriptors = (descriptors / np.maximum(length, 1e-6)).astype(np.float32)
        return LocalFeatures(
            image.shape[:2], self.name, points.astype(np.float32), descriptors, np.ones(len(points), np.float32)
        )

    def match(
        self, first: LocalFeatures, second: LocalFeatures
    ) -> tuple[Int[np.ndarray, "m 2"], Float32[np.ndarray, " m"]]:
        """Mutual nearest neighbours that pass the ratio test; scores are their cosines."""
        check_same_model(first, second, self.name)
        check_same_model(second, first, self.name)
        if min(len(first), len(second)) < 2:
            return np.zeros((0, 2), int), np.zeros(0, np.float32)
        near, best, mutual = mutual_nearest(first.descriptors, second.descriptors)
        cosines = near[np.arange(len(first)), best]
        good = np.flatnonzero(mutual & is_distinct(near, best, self.ratio))
        return np.stack([good, best[good]], axis=1), cosines[good]
