"""Models without weights for the page: a drawn scene, its cameras, words that are colours, masks that are flooded."""

from pathlib import Path

import cv2
import numpy as np
from fake_words import COLOURS, FakeTextEncoder, FloodSegmenter
from scene_maker import SIZE, make_scene

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import save_image
from nbhelpers.core.masks import decode_rle, encode_rle
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.values import Prediction
from nbhelpers.multiview import MultiviewSegmenter
from nbhelpers.multiview.consistency import Consistency, ViewMask, ViewMasks
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.multiview.views import Photos

THINGS = {
    "ball 1": ((-1.0, 0.2, 0.0), (0.4, 0.4, 0.4)),
    "ball 2": ((0.9, 0.2, 0.4), (0.4, 0.4, 0.4)),
    "box": ((0.0, 0.35, -0.6), (0.7, 0.7, 0.7)),
}


class Flood(FloodSegmenter):
    """Answers a box by what its middle shows."""

    def predict(self, embedding, prompt):
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            return super().predict(embedding, Prompt([((x0 + x1) / 2, (y0 + y1) / 2)]))
        return super().predict(embedding, prompt)


class KnownCameras:
    """Gives the cameras of the drawn scene."""

    name, device = "known", "cpu"

    def reconstruct(self, images, names=None):
        return make_scene(THINGS)[0]


def drawn(scene, numbers, view):
    """The photo of a view: each thing the hull of its points in its colour, the farther ones first."""
    picture = np.full((*SIZE, 3), COLOURS["lawn"], np.uint8)
    depth = {name: np.median(scene.project(view, scene.points[own])[1]) for name, own in numbers.items()}
    for name in sorted(numbers, key=lambda name: -depth[name]):
        pixels, _ = scene.project(view, scene.points[numbers[name]])
        cv2.fillConvexPoly(picture, cv2.convexHull(np.round(pixels).astype(np.int32)), COLOURS[name.split()[0]])
    return picture


def write_photos(folder):
    """The drawn photos as files."""
    scene, numbers = make_scene(THINGS)
    return [save_image(Path(folder) / f"view{v}.png", drawn(scene, numbers, v)) for v in range(len(scene))]


def solve(self, progress=None):
    """In place of propagation, which needs SAM 2's features: prompted views keep their masks, the others have none."""
    if not self.prompted:
        raise NbHelpersError("there are no prompts yet")
    views = []
    for view in range(len(self)):
        prompted = not self.prompts(view).is_empty
        mask = self.mask(view) if prompted else np.zeros(self.photos.size(view), bool)
        how = Consistency(0.9 if mask.any() else 0.2, {}, f"made up from {len(self.prompted)}")
        views.append(ViewMask(self.photos.names[view], encode_rle(mask), 0.9, how, prompted, bool(mask.any())))
    self.views = ViewMasks(tuple(views), np.arange(5), Consistency(0.8, {}, "made up"))
    self._changed()
    return self.views


def predicted(session, view, prompts):
    """The mask of a prompt, or one flooded from clicks."""
    if prompts.mask_rle is not None:
        mask = decode_rle(prompts.mask_rle)
    elif prompts.is_empty:
        mask = np.zeros(session.photos.size(view), bool)
    else:
        prompt = Prompt(prompts.points, prompts.labels)
        return session.photos.segmenter.predict(session.photos.embedding(view), prompt)
    logits = np.where(mask, np.float32(8), np.float32(-8))[None]
    return Prediction(logits, np.ones(1, np.float32), mask.shape, mask.shape)


def without_networks(patch=setattr):
    """Let sessions work on a segmenter that has no features to compare photos by."""
    patch(Photos, "embedding", lambda self, view: self.segmenter.encode(self.image(view)))
    patch(ViewsSession, "solve", solve)
    patch(ViewsSession, "mask", lambda self, view: predicted(self, view, self.prompts(view)).best)
    patch(ViewsSession, "_predict", predicted)


def page_segmenter(photos=None):
    """The models of the page; patched for good, since the page's process is its own."""
    without_networks()
    return MultiviewSegmenter(Flood(), FakeTextEncoder(), KnownCameras())
