"""A drawn scene with exact truth: balls on a green floor, seen by cameras on an arc around them."""

from dataclasses import dataclass

import numpy as np

from nbhelpers.core.scenes import Scene

SIZE = (96, 128)
FOCAL = 150.0
MIDDLE = np.array([0.0, 0.0, 4.0])
FLOOR = 0.6  # y of the floor; y points down
RED, BLUE, GREENS = (215, 45, 35), (35, 60, 215), ((60, 160, 70), (70, 175, 85))


@dataclass(frozen=True)
class Ball:
    middle: tuple
    radius: float
    colour: tuple


BALLS = (Ball((0.0, 0.0, 4.0), 0.6, RED), Ball((1.5, 0.1, 4.4), 0.5, BLUE))
LOOK_ALIKE = (*BALLS, Ball((-1.7, 0.1, 4.3), 0.5, RED))


def camera(angle, distance=4.5):
    """``(3, 4)`` of a camera on the arc, in degrees, that looks down at the middle."""
    a = np.radians(angle)
    centre = MIDDLE + distance * np.array([np.sin(a), -0.35, -np.cos(a)])
    ahead = MIDDLE - centre
    ahead /= np.linalg.norm(ahead)
    right = np.cross([0, 1.0, 0], ahead)
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(ahead, right), ahead])
    return np.hstack([turn, (-turn @ centre)[:, None]])


def intrinsics():
    return np.array([[FOCAL, 0, SIZE[1] / 2 - 0.5], [0, FOCAL, SIZE[0] / 2 - 0.5], [0, 0, 1]])


class Drawn:
    """Photos, true masks of each ball, and the scene of points on all surfaces.

    Args:
        balls: what stands on the floor.
        angles: of the cameras, in degrees.
        points: how many, on all surfaces together.
    """

    def __init__(self, balls=BALLS, angles=(-40, -20, 0, 20, 40), points=600):
        self.balls = balls
        self.poses = np.stack([camera(angle) for angle in angles])
        rendered = [self._render(pose) for pose in self.poses]
        self.photos = [photo for photo, _, _ in rendered]
        self.owners = [owner for _, owner, _ in rendered]
        self.depths = [depth for _, _, depth in rendered]
        self.scene = self._scene(points)

    def truth(self, ball, view):
        return self.owners[view] == ball

    def centre(self, ball, view):
        """``(x, y)`` of a ball's middle in a view."""
        pixels, _ = self.scene.project(view, np.array([self.balls[ball].middle]))
        return tuple(map(float, pixels[0]))

    def _render(self, pose):
        turn, shift = pose[:, :3], pose[:, 3]
        origin = -turn.T @ shift
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        local = np.stack([columns, rows, np.ones(SIZE)], 2) @ np.linalg.inv(intrinsics()).T
        rays = local @ turn
        best, owner = np.full(SIZE, 50.0), np.full(SIZE, -1)
        photo = np.full((*SIZE, 3), (120, 170, 225), float)
        with np.errstate(divide="ignore"):
            floor = (FLOOR - origin[1]) / rays[..., 1]
        hit = (floor > 0) & (floor < best)
        at = origin + floor[..., None].clip(0, 50) * rays
        tiles = (np.floor(at[..., 0] * 2) + np.floor(at[..., 2] * 2)).astype(int) % 2
        photo[hit] = np.array(GREENS)[tiles[hit]]
        best[hit] = floor[hit]
        for number, ball in enumerate(self.balls):
            away = origin - np.array(ball.middle)
            a, b, c = (rays**2).sum(2), 2 * rays @ away, away @ away - ball.radius**2
            root = b**2 - 4 * a * c
            near = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / (2 * a), np.inf)
            hit = (near > 0) & (near < best)
            best[hit], owner[hit] = near[hit], number
            photo[hit] = ball.colour
        return photo.round().astype(np.uint8), owner, best

    def _scene(self, count):
        generator = np.random.default_rng(0)
        points, colours = [], []
        for ball in self.balls:
            sphere = generator.standard_normal((count // 4, 3))
            sphere = sphere / np.linalg.norm(sphere, axis=1, keepdims=True) * ball.radius
            points.append(sphere + np.array(ball.middle))
            colours.append(np.full((len(sphere), 3), ball.colour))
        flat = generator.uniform([-2.5, FLOOR, 2.5], [2.5, FLOOR, 6.0], (count // 2, 3))
        points.append(flat)
        colours.append(np.full((len(flat), 3), GREENS[0]))
        points = np.concatenate(points)
        views = len(self.poses)
        empty = np.zeros(0, int)
        bare = Scene(
            tuple(f"drawn {i}" for i in range(views)),
            np.tile(SIZE, (views, 1)),
            np.tile(intrinsics(), (views, 1, 1)),
            self.poses,
            points,
            np.concatenate(colours).astype(np.uint8),
            empty,
            empty,
            np.zeros((0, 2)),
        )
        seen = []
        for view in range(views):
            pixels, depth = bare.project(view, points)
            inside = np.flatnonzero(bare.inside(view, pixels))
            columns, rows = np.rint(pixels[inside]).astype(int).T
            shown = depth[inside] < self.depths[view][rows, columns] + 0.05
            numbers = inside[shown]
            numbers = numbers[generator.random(len(numbers)) < 0.6]  # a matcher finds a part of what is to be seen
            seen.append((np.full(len(numbers), view), numbers, pixels[numbers]))
        observed = [np.concatenate(each) for each in zip(*seen, strict=True)]
        return Scene(
            bare.names, bare.sizes, bare.K, bare.world_to_camera, points, bare.colors, *observed, model="drawn"
        )
