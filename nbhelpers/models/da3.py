"""Depth Anything 3: cameras, depth and features of several layers for all frames of a clip at once.

Lin et al. 2025, arXiv 2511.10647; package ``depth-anything-3``. Small and Base are Apache-2.0, code and weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene
from nbhelpers.models.adapters import precision_of, with_cpu_fallback
from nbhelpers.models.geometry import GRID, cells_of_scene
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.values import Geometry
from nbhelpers.models.vggt import nearest_rotations

LAYERS = (5, 7, 9, 11)
INSTALL = "pip install --no-deps depth-anything-3==0.1.1"
MAX_FRAMES = 64  # that are given to the network at once; longer clips need more memory than most have


class DepthAnythingGeometry:
    """Geometry and features of Depth Anything 3; a `nbhelpers.models.protocols.GeometryEncoder`.

    Args:
        model: the package's ``DepthAnything3``, or a network with its ``inference``.
        name: catalog name.
        device: where it computes.
        layers: of its backbone, that are given as feature layers.
        grid: cells on each side.
    """

    def __init__(self, model: Any, name: str, device: str, layers: tuple[int, ...] = LAYERS, grid: int = GRID):
        self.model = model.to(device) if hasattr(model, "to") else model
        self.name, self.device, self.layers, self.grid = name, device, layers, grid

    def encode(self, frames: FrameSequence, scene: Scene | None = None) -> Geometry:
        """All frames in one pass.

        Args:
            frames: the clip, of at most 64 frames.
            scene: not used: the network finds cameras and depth by itself.

        Raises:
            NbHelpersError: no frames, or too many.
        """
        if not 0 < len(frames) <= MAX_FRAMES:
            raise NbHelpersError(
                "Depth Anything 3 takes all frames at once",
                given=f"{len(frames)} frames",
                expected=f"1 to {MAX_FRAMES}",
                do="take every Nth frame, or the encoder must3r, which has a memory",
            )
        pictures = [frames[number] for number in range(len(frames))]
        found = with_cpu_fallback(self, lambda: self._run(pictures))
        geometry = cells_of_scene(self._scene(found, frames), len(frames), self.grid)
        layers = tuple(
            np.asarray(found.aux[f"feat_layer_{number}"], np.float32) for number in self.layers if hasattr(found, "aux")
        )
        return replace(geometry, layers=layers, source=self.name)

    def _run(self, pictures: list[np.ndarray]) -> Any:
        with precision_of(self):
            return self.model.inference(pictures, export_feat_layers=list(self.layers))

    def _scene(self, found: Any, frames: FrameSequence) -> Scene:
        """The network's cameras and depth as a scene of the frames, whose size differs from its own pictures'."""
        depth = np.asarray(found.depth, np.float32)
        height, width = frames.size
        factor = np.array([width / depth.shape[2], height / depth.shape[1]])
        K = np.asarray(found.intrinsics, np.float64).copy()  # noqa: N806 - the field's own name
        K[:, :2] *= factor[:, None]
        K[:, :2, 2] -= 0.5  # its pixels count from the corner
        poses = np.asarray(found.extrinsics, np.float64)[:, :3].copy()
        poses[:, :, :3] = nearest_rotations(poses[:, :, :3])
        count, empty = len(depth), np.empty(0, int)
        return Scene(
            tuple(f"{number:05d}" for number in range(count)),
            np.tile((height, width), (count, 1)),
            K,
            poses,
            np.empty((0, 3)),
            np.empty((0, 3), np.uint8),
            empty,
            empty,
            np.empty((0, 2)),
            depth=list(depth),
            confidence=[np.asarray(each, np.float32) for each in found.conf],
            model=self.name,
        )


def build(name: str, files: Mapping[str, Path], device: str) -> DepthAnythingGeometry:
    """Build the encoder from ``{"checkpoint": path, "config": path}``, which lie in one folder.

    Raises:
        NbHelpersError: the package is not installed, or cannot read the folder.
    """
    try:
        from depth_anything_3.api import DepthAnything3  # pyright: ignore[reportMissingImports] - not in our pins
    except ImportError as error:
        raise NbHelpersError(
            "the package depth-anything-3 is not installed, or lacks what it needs", given=str(error), do=INSTALL
        ) from error
    try:
        model = DepthAnything3.from_pretrained(str(files["checkpoint"].parent))
    except Exception as error:  # of the hub's mixin, of safetensors, of the network
        raise NbHelpersError(
            "the checkpoint cannot be loaded", given=f"{files['checkpoint']}: {error}", do=f"nbhelpers fetch {name}"
        ) from error
    return DepthAnythingGeometry(model.eval(), name, device)
