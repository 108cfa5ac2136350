"""Labelled point clouds: PLY with an object label per point, GLB with one named part per object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing, write_bytes
from nbhelpers.core.lazy import needs

PALE = 0.55  # fraction of white in the colours of unlabelled points
REST = "rest of the scene"


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with colours and labels.

    Example:
        >>> cloud = Cloud(points, colors, labels, ("chair", "desk"), [(230, 159, 0), (86, 180, 233)])
        >>> save_ply("outputs/scene.ply", cloud), save_glb("outputs/scene.glb", cloud, up=scene.up)

    Attributes:
        points: ``(n, 3)`` in world units.
        colors: ``(n, 3)`` RGB of the points themselves.
        labels: ``(n,)`` index of the object of each point, -1 for none.
        names: of the objects.
        object_colors: RGB of each object.
    """

    points: Float[np.ndarray, "n 3"]
    colors: UInt8[np.ndarray, "n 3"]
    labels: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    object_colors: Sequence[tuple[int, int, int]]

    def __post_init__(self):
        lengths = {len(self.points), len(self.colors), len(self.labels)}
        if len(lengths) != 1 or len(self.names) != len(self.object_colors):
            raise NbHelpersError(
                "the arrays of the cloud differ in length",
                given=f"{len(self.points)} points, {len(self.colors)} colours, {len(self.labels)} labels; "
                f"{len(self.names)} names, {len(self.object_colors)} object colours",
            )
        if len(self.labels) and not (self.labels.min() >= -1 and self.labels.max() < len(self.names)):
            raise NbHelpersError("a label is out of range", expected=f"-1 to {len(self.names) - 1}")
        if not np.isfinite(self.points).all():
            raise NbHelpersError("the cloud has points that are not finite", given="NaN or infinite coordinates")

    @property
    def shown(self) -> UInt8[np.ndarray, "n 3"]:
        """The object colour of each point; for unlabelled points a pale version of their own colour."""
        out = (self.colors * (1 - PALE) + 255 * PALE).astype(np.uint8)
        for number, color in enumerate(self.object_colors):
            out[self.labels == number] = color
        return out


def save_ply(path: str | Path, cloud: Cloud) -> Path:
    """Write a binary PLY with ``x y z red green blue label`` per vertex and the names as comments; return the path.

    ``label`` is the index of the object, -1 for none. Coordinates are those of the scene.

    Source: Turk 1994, "The PLY Polygon File Format".
    """
    kind = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("label", "<i4")]
    rows = np.empty(len(cloud.points), kind)
    for axis, name in enumerate("xyz"):
        rows[name] = cloud.points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = cloud.shown[:, channel]
    rows["label"] = cloud.labels
    words = {"<f4": "float", "u1": "uchar", "<i4": "int"}
    head = ["ply", "format binary_little_endian 1.0"]
    head += [f"comment label {number} {_ascii(name)}" for number, name in enumerate(cloud.names)]
    head += [f"element vertex {len(rows)}", *(f"property {words[form]} {name}" for name, form in kind), "end_header"]
    return write_bytes(_suffix(path, ".ply"), "\n".join([*head, ""]).encode("ascii") + rows.tobytes())


def save_glb(path: str | Path, cloud: Cloud, up: Shaped[np.ndarray, " 3"] | None = None) -> Path:
    """Write a binary glTF with one point cloud named after each object, and one of the rest; return the path.

    Args:
        path: ends in ``.glb``.
        cloud: see `Cloud`.
        up: the up direction of the scene; it is rotated to y, as in glTF.

    Raises:
        NbHelpersError: a cloud without points, or another suffix.
    """
    needs("multiview", "trimesh")
    import trimesh

    if not len(cloud.points):
        raise NbHelpersError("the cloud has no points", do="export only the masks")
    turned = cloud.points if up is None else cloud.points @ _to_y(np.asarray(up, float)).T
    turned = turned - np.median(turned, axis=0)
    scene, shown = trimesh.Scene(), cloud.shown
    for number, name in [*enumerate(cloud.names), (-1, REST)]:
        own = cloud.labels == number
        if own.any():
            colors = np.concatenate([shown[own], np.full((int(own.sum()), 1), 255, np.uint8)], 1)
            scene.add_geometry(trimesh.PointCloud(turned[own], colors), node_name=name, geom_name=name)
    with replacing(_suffix(path, ".glb")) as temporary:
        data: Any = scene.export(file_type="glb")
        temporary.write_bytes(data)
    return Path(path)


def _to_y(up: np.ndarray) -> np.ndarray:
    """The smallest rotation that maps a direction to the y axis."""
    up = up / np.linalg.norm(up)
    axis, cosine = np.cross(up, (0.0, 1.0, 0.0)), float(up[1])
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)


def _suffix(path: str | Path, suffix: str) -> Path:
    """The path, if it ends in ``suffix``."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise NbHelpersError("the file has the wrong suffix", given=path, expected=f"a name in {suffix}")
    return path


def _ascii(name: str) -> str:
    """A name without line breaks and non-ASCII characters."""
    return " ".join(name.encode("ascii", "replace").decode().split())
