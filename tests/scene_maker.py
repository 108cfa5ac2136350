"""Scenes of boxes with known places: points, cameras around them, and what each camera sees."""

import numpy as np

from nbhelpers.core.scenes import Scene

SIZE = (240, 320)
K = np.array([[260.0, 0, 159.5], [0, 260.0, 119.5], [0, 0, 1]])


def camera(eye, target):
    """``world_to_camera`` of a level camera; the world's y is up."""
    eye, target = np.asarray(eye, float), np.asarray(target, float)
    ahead = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(ahead, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(ahead, right), ahead])
    return np.concatenate([turn, -(turn @ eye)[:, None]], 1)


def box_points(center, size, count=200, seed=0):
    """Points on the six faces of a box."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.5, 0.5, (count, 3))
    axis = rng.integers(0, 3, count)
    points[np.arange(count), axis] = np.sign(points[np.arange(count), axis]) * 0.5
    return points * size + center


def ring(count=5, radius=4.0, height=2.0, target=(0, 0.5, 0), spread=1.6):
    """Eyes on an arc in front of the scene: the middle one looks along the world's -z, with x to its right."""
    angles = np.linspace(-spread / 2, spread / 2, count)
    order = np.argsort(np.abs(angles), kind="stable")
    return [(radius * np.sin(a), height, radius * np.cos(a)) for a in angles[order]], target


def make_scene(things, eyes=None, target=(0, 0.5, 0), size=SIZE):
    """A `Scene` of boxes ``{name: (center, size)}`` and for each its point numbers; view 0 looks along -z."""
    if eyes is None:
        eyes, target = ring(target=target)
    clouds = {name: box_points(*place, seed=number) for number, (name, place) in enumerate(things.items())}
    points = np.concatenate(list(clouds.values())) if clouds else np.empty((0, 3))
    owner = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds.values()])
    poses = np.stack([camera(eye, target) for eye in eyes])
    count = len(eyes)
    empty = np.empty(0, int)
    scene = Scene(
        tuple(f"view {n}" for n in range(count)), np.tile(size, (count, 1)), np.tile(K, (count, 1, 1)), poses, points,
        np.full((len(points), 3), 128, np.uint8), empty, empty, np.empty((0, 2)),
    )  # fmt: skip
    views, numbers, pixels = [], [], []
    for view in range(count):
        places, depth = scene.project(view, points)
        good = np.flatnonzero((depth > 0) & scene.inside(view, places))
        views.append(np.full(len(good), view))
        numbers.append(good)
        pixels.append(places[good])
    seen = np.concatenate(views), np.concatenate(numbers), np.concatenate(pixels)
    scene = Scene(scene.names, scene.sizes, scene.K, poses, points, scene.colors, *seen, model="made")
    return scene, {name: np.flatnonzero(owner == number) for number, name in enumerate(things)}
