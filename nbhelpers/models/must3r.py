"""MUSt3R: points, cameras and features of several layers for each frame, with an online memory over the clip.

Cabon et al. 2025, arXiv 2503.01661; https://github.com/naver/must3r (non-commercial licence, as are its weights). The
package's own loader runs code from the checkpoint. Here the file is read as tensors only, and the two networks are
built from their names and plain arguments.
"""

from __future__ import annotations

import argparse
import ast
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene
from nbhelpers.models.adapters import precision_of, with_cpu_fallback
from nbhelpers.models.geometry import GRID, cell_centers_of, z_scored
from nbhelpers.models.load import check_accepted
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.values import Geometry

LAYERS = (0, 4, 7, 11)  # encoder, then decoder blocks (arXiv 2601.08831, section 3)
ASPECTS = (3 / 4, 21 / 32, 9 / 16, 1 / 2, 5 / 16)  # of height to width, of the pictures it was trained on
PATCH = 16
KEYFRAMES = 3  # every so many frames one stays in the memory, as in the package's own video inference
LAYER_GRID = 32
CLASSES = {"Dust3rEncoder": "Dust3rEncoder", "MUSt3R": "MUSt3R", "CausalMUSt3R": "MUSt3R"}
INSTALL = "git clone --recursive https://github.com/naver/must3r, and put it on PYTHONPATH with dust3r and croco in it"
log = logging.getLogger(__name__)


class Must3rGeometry:
    """Geometry and features of MUSt3R; a `nbhelpers.models.protocols.GeometryEncoder`.

    Args:
        encoder: the package's ``Dust3rEncoder``, or a network with its interface.
        decoder: the package's ``MUSt3R``, likewise.
        name: catalog name.
        device: where it computes.
        side: pixels of the longer side of its pictures.
        layers: outputs that are given as feature layers: 0 the encoder's, then the decoder's blocks.
        grid: cells on each side.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        name: str,
        device: str,
        side: int = 512,
        layers: tuple[int, ...] = LAYERS,
        grid: int = GRID,
    ):
        import torch

        self.model = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder}).eval().to(device)
        self.model.requires_grad_(False)
        self.name, self.device, self.side, self.layers, self.grid = name, device, side, layers, grid

    def encode(self, frames: FrameSequence, scene: Scene | None = None) -> Geometry:
        """All frames in order, every third kept in the memory; the world is that of the first frame.

        Args:
            frames: the clip.
            scene: not used: the network finds cameras and points by itself.

        Raises:
            NbHelpersError: the clip has no frames.
        """
        if not len(frames):
            raise NbHelpersError("the clip has no frames", expected="at least one")
        memory, each = None, []
        for number in range(len(frames)):
            picture, to_picture = fitted_picture(frames[number], self.side)
            keep = number % KEYFRAMES == 0
            run = lambda p=picture, m=memory, k=keep: self._run(p, m, k)  # noqa: E731
            memory, points, local, confidence, features = with_cpu_fallback(self, run)
            each.append(self._on_cells(frames.size, to_picture, points, local, confidence, features))
        points, rays, centers, valid, confidence, features = zip(*each, strict=True)
        points, rays, centers = np.stack(points), np.stack(rays), np.stack(centers)
        valid, confidence = np.stack(valid), np.stack(confidence)
        layers = [np.stack(maps) for maps in zip(*features, strict=True)]
        low, high = np.quantile(confidence[valid], [0.15, 0.5])
        certain = np.clip((confidence - low) / max(float(high - low), 1e-9), 0.05, 1)
        return z_scored(points, rays, centers, valid, certain * valid, self.name, (), layers)

    def _run(self, picture: UInt8[np.ndarray, "h w 3"], memory: Any, keep: bool) -> tuple:
        """Memory, points, points of the camera, confidence ``(h, w, ...)``, and features ``(n, c)`` of the layers."""
        import torch

        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float().to(self.device) / 127.5 - 1
        shape = torch.tensor([picture.shape[:2]], device=self.device)
        with precision_of(self):
            tokens, positions = self.model["encoder"](pixels, shape)
            new, maps, features = self.model["decoder"](
                tokens[:, None], positions[:, None], shape[:, None], memory, render=not keep, return_feats=True
            )
        maps = maps.float()[0, 0]
        chosen = [features[number].float() for number in self.layers]
        return (
            new if keep else memory,
            _expanded(maps[..., :3]).cpu().numpy(),
            _expanded(maps[..., 3:6]).cpu().numpy(),
            (1 + maps[..., 6].exp()).cpu().numpy(),
            [each.reshape(-1, each.shape[-1]).cpu().numpy() for each in chosen],
        )

    def _on_cells(
        self,
        size: tuple[int, int],
        to_picture: Float[np.ndarray, "3 3"],
        points: Float32[np.ndarray, "h w 3"],
        local: Float32[np.ndarray, "h w 3"],
        confidence: Float32[np.ndarray, "h w"],
        features: list[np.ndarray],
    ) -> tuple:
        """The network's maps at the cells of a grid over the whole frame; what was cropped away is not valid."""
        turn, center = rigid_motion(local, points, confidence)
        height, width = confidence.shape
        spots = _carried(cell_centers_of(size, self.grid), to_picture)
        inside = np.asarray(((spots >= -0.5) & (spots < (width - 0.5, height - 0.5))).all(-1))
        columns, rows = np.clip(np.rint(spots).astype(int), 0, (width - 1, height - 1)).transpose(2, 0, 1)
        directions = local[rows, columns] @ turn.T
        directions /= np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-12)
        found = points[rows, columns]
        inside &= np.isfinite(found).all(-1) & np.isfinite(directions).all(-1)
        maps = []
        spots = _carried(cell_centers_of(size, LAYER_GRID), to_picture)
        within = np.asarray(((spots >= -0.5) & (spots < (width - 0.5, height - 0.5))).all(-1))
        tokens = ((spots + 0.5) / PATCH - 0.5).astype(np.float32)
        for each in features:
            square = each.reshape(height // PATCH, width // PATCH, -1)
            sampled = np.stack([_bilinear(square[..., n], tokens) for n in range(square.shape[-1])], -1)
            maps.append((sampled * within[..., None]).astype(np.float32))
        return (
            np.where(inside[..., None], found, 0),
            np.where(inside[..., None], directions, 0),
            center,
            inside,
            np.where(inside, confidence[rows, columns], 0),
            maps,
        )


def fitted_picture(
    image: UInt8[np.ndarray, "h w 3"], side: int
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Float[np.ndarray, "3 3"]]:
    """A frame cropped about its middle to the nearest trained aspect and resized, and the map of its pixels there.

    Args:
        image: RGB.
        side: pixels of the longer side.

    Returns:
        The picture, whose sides are multiples of 16, and a 3 x 3 matrix from pixels of the frame to its own.
    """
    height, width = image.shape[:2]
    tall = height > width
    aspect = min(ASPECTS, key=lambda each: abs(each - min(height, width) / max(height, width)))
    if height == width and side <= 224:
        aspect = 1.0
    short = max(PATCH, round(side * aspect / PATCH) * PATCH)
    rows, columns = (side, short) if tall else (short, side)
    scale = max(rows / height, columns / width)
    shift = (np.array([columns, rows]) - scale * np.array([width, height])) / 2
    # pixel centres: a picture is scaled about its corner
    matrix = np.array([[scale, 0, shift[0] + (scale - 1) / 2], [0, scale, shift[1] + (scale - 1) / 2], [0, 0, 1]])
    smooth = cv2.GaussianBlur(image, (0, 0), 0.5 / scale) if scale < 0.6 else image
    size = (columns, rows)
    return cv2.warpAffine(smooth, matrix[:2], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), matrix


def rigid_motion(
    local: Float[np.ndarray, "h w 3"], world: Float[np.ndarray, "h w 3"], weights: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """Rotation and centre of the camera whose local points are the world's (Kabsch 1976, weighted)."""
    share = (weights / weights.sum()).reshape(-1, 1).astype(np.float64)
    source, target = local.reshape(-1, 3).astype(np.float64), world.reshape(-1, 3).astype(np.float64)
    middle, other = (share * source).sum(0), (share * target).sum(0)
    left, _, right = np.linalg.svd(((source - middle) * share).T @ (target - other))
    flip = np.diag([1, 1, np.sign(np.linalg.det(right.T @ left.T))])
    turn = right.T @ flip @ left.T
    return turn, other - turn @ middle


def _expanded(raw: Any) -> Any:
    """The network's points: directions whose length is ``exp(norm) - 1`` (DUSt3R, heads/postprocess, mode "exp")."""
    length = raw.norm(dim=-1, keepdim=True)
    return raw / length.clamp(min=1e-8) * length.expm1()


def _carried(points: Float[np.ndarray, "g g 2"], matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "g g 2"]:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def _bilinear(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    maps = places[..., 0], places[..., 1]
    return cv2.remap(np.ascontiguousarray(values), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def plain_call(text: str) -> tuple[str, dict[str, Any]]:
    """The class and the arguments of a constructor's call, e.g. of ``"MUSt3R(img_size=(512, 512), depth=12)"``.

    Nothing is run: the name must be one of the package's networks and each argument a literal.

    Raises:
        NbHelpersError: anything else.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            raise ValueError("no call with named arguments")
        if call.func.id not in CLASSES:
            raise ValueError("no call of one of the networks")
        return call.func.id, {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg}
    except (SyntaxError, ValueError) as error:
        raise NbHelpersError(
            "the checkpoint describes its network in a way that is not read",
            given=text,
            expected=f"one of {', '.join(CLASSES)} with plain arguments",
        ) from error


def build(name: str, files: Mapping[str, Path], device: str) -> Must3rGeometry:
    """Build the encoder from ``{"checkpoint": path}``.

    Raises:
        NbHelpersError: the licence is not accepted; the package is not installed; the file is damaged, would run
            code, or is of another network.
    """
    check_accepted(name, "MUSt3R Non-Commercial", "https://github.com/naver/must3r/blob/main/LICENSE")
    try:
        from must3r.model import MUSt3R  # pyright: ignore[reportMissingImports] - not on any index
        from must3r.model.encoder import Dust3rEncoder  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise NbHelpersError(
            "MUSt3R's own package is not installed; it comes from its repository", given=str(error), do=INSTALL
        ) from error
    known = {"Dust3rEncoder": Dust3rEncoder, "MUSt3R": MUSt3R}
    kept = read_checkpoint(files["checkpoint"])
    networks = []
    for part in ("encoder", "decoder"):
        kind, arguments = plain_call(getattr(kept["args"], part))
        if part == "decoder":
            arguments["landscape_only"] = False
        network = known[CLASSES[kind]](**arguments)
        try:
            network.load_state_dict(kept[part])
        except RuntimeError as error:
            raise NbHelpersError(
                "the weights are of another network", given=f"{files['checkpoint'].name}: {str(error).splitlines()[0]}"
            ) from error
        networks.append(network)
    side = plain_call(kept["args"].encoder)[1].get("img_size", (512, 512))[0]
    encoder, decoder = networks
    return Must3rGeometry(encoder, decoder, name, device, side)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The file's tensors and its arguments, which are a plain namespace of strings.

    Raises:
        NbHelpersError: the file is damaged, would run code when loaded, or lacks a part.
    """
    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            kept = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"args", "encoder", "decoder"} - set(kept)
        if missing:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except Exception as error:  # pickle and zip have their own
        raise NbHelpersError(
            "the checkpoint cannot be loaded",
            given=f"{path}: {str(error).splitlines()[0]}",
            expected="MUSt3R's own checkpoint",
            do="nbhelpers fetch must3r-512 again; a file that runs code when loaded is refused",
        ) from error
    return kept
