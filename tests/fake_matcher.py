"""A matcher that knows the world: photos are flat pictures that carry their number, features are projected points."""

import numpy as np

from nbhelpers.models.values import LocalFeatures

SIZE = (480, 640)
FOCAL = 700.0


def photos(count, sizes=None):
    """Pictures whose first pixel tells their number."""
    pictures = []
    for number in range(count):
        picture = np.full((*(SIZE if sizes is None else sizes[number]), 3), 90, np.uint8)
        picture[0, 0, 0] = number
        pictures.append(picture)
    return pictures


def looking(center, at=(0, 0, 0), up=(0, 0, 1)):
    """World to camera of somebody who stands at ``center`` and looks at ``at``."""
    center, at = np.asarray(center, float), np.asarray(at, float)
    ahead = (at - center) / np.linalg.norm(at - center)
    right = np.cross(ahead, up)
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(ahead, right), ahead])
    return np.concatenate([turn, -(turn @ center)[:, None]], axis=1)


def ring(count, radius=4.0, height=1.2, arc=150.0):
    """Cameras on an arc around the origin."""
    angles = np.radians(np.linspace(0, arc, count))
    return np.stack([looking((radius * np.cos(a), radius * np.sin(a), height)) for a in angles])


def side_by_side(count, step, ahead=8.0, wobble=3.0, seed=5):
    """Cameras in a row that look the same way, as a hand holds a phone: none sees its points from another side."""
    random, out = np.random.default_rng(seed), []
    for number in range(count):
        center = np.array([(number - (count - 1) / 2) * step, 0, 0]) + random.normal(0, 0.1 * step, 3)
        out.append(looking(center, np.array([0, ahead, 0]) + random.normal(0, np.radians(wobble) * ahead, 3)))
    return np.stack(out)


def view_ahead(count=200, seed=0):
    """Points before the cameras of `side_by_side`, at distances from 5 to 14."""
    random = np.random.default_rng(seed)
    away = random.uniform(5, 14, count)
    across, up = random.uniform(-0.45, 0.45, count), random.uniform(-0.35, 0.35, count)
    return np.stack([across * away, away, up * away], axis=1)


def cloud(count=300, seed=0, size=1.0):
    """Points in a ball."""
    return np.random.default_rng(seed).normal(0, 0.5 * size, (count, 3))


class FakeMatcher:
    """Sees all points from all sides; a `nbhelpers.models.protocols.Matcher`.

    Args:
        poses: ``(v, 3, 4)`` world to camera.
        points: ``(p, 3)``, or a list with the points that each view sees.
        name: of the features.
        noise: pixels, standard deviation.
        ground: features that stand still at the same pixel in all views.
    """

    device = "cpu"
    quick = False

    def __init__(self, poses, points, name="fake", noise=0.3, ground=0, seed=0):
        self.poses, self.points, self.name, self.noise, self.ground = poses, points, name, noise, ground
        self.random = np.random.default_rng(seed)
        self.asked = 0

    def features(self, image):
        view = int(image[0, 0, 0])
        points = self.points[view] if isinstance(self.points, list) else self.points
        height, width = image.shape[:2]
        pose = self.poses[view]
        local = points @ pose[:, :3].T + pose[:, 3]
        pixels = FOCAL * local[:, :2] / local[:, 2:] + (np.array([width, height]) - 1) / 2
        pixels += self.random.normal(0, self.noise, pixels.shape)
        inside = (local[:, 2] > 0) & (pixels >= 0).all(1) & (pixels < [width - 1, height - 1]).all(1)
        still = np.random.default_rng(7).uniform(5, min(width, height) - 5, (self.ground, 2))
        pixels = np.concatenate([pixels[inside], still])
        # the descriptor of a point is its own number, drawn far from the others; its first entry tells the scene
        tags = [points[inside], 50 + np.tile(still, 2)[:, :3]]
        descriptors = np.concatenate(tags).astype(np.float32)
        return LocalFeatures(
            (height, width), self.name, pixels.astype(np.float32), descriptors, np.ones(len(pixels), np.float32)
        )

    def match(self, first, second):
        self.asked += 1
        where = {tuple(tag): number for number, tag in enumerate(second.descriptors)}
        pairs = [(number, where[tuple(tag)]) for number, tag in enumerate(first.descriptors) if tuple(tag) in where]
        return np.array(pairs, int).reshape(-1, 2), np.ones(len(pairs), np.float32)
