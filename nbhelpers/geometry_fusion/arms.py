"""The arms of a comparison, by name, and where their geometry comes from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene
from nbhelpers.geometry_fusion.geometry import CONTROLS, falsify, read_rgbd
from nbhelpers.geometry_fusion.tracker import GeometryTracker
from nbhelpers.models.protocols import FrameSequence, GeometryEncoder, Tracker
from nbhelpers.models.values import Geometry

if TYPE_CHECKING:
    from torch import nn

VARIABLE = "NBHELPERS_GEOMETRY"
SOURCES = {
    "colmap": "colmap-geometry",
    "given": "given-geometry",
    "vggt": "vggt-1b-geometry",
    "da3": "da3-base",
    "must3r": "must3r-512",
}
ARMS = {
    "baseline": "the tracker as it is",
    "geometry": "the merger, or the kernel where there is none, and the memory of places",
    "merger": "the merger alone",
    "kernel": "places compared by a kernel, without learning; label propagation only",
    "places": "the memory of places alone; label propagation only",
    "reprompt": "the prompted mask lifted to space, and its places given as a prompt when the object returns",
    **{name: f"as geometry, with {name} geometry: a negative control" for name in CONTROLS},
}
"""Arms by name; each but the first is wrapped around the baseline's tracker."""
OFF = ("", "0", "off", "none")


def geometry_source(name: str | None = None, device: str | None = None) -> GeometryEncoder | None:
    """The geometry encoder of a name; None where geometry is switched off.

    Args:
        name: one of `SOURCES`, a name of the catalog, or ``"off"``. Left out: the variable ``NBHELPERS_GEOMETRY``, else
            ``"colmap"``.
        device: where it computes.

    Raises:
        NbHelpersError: no such source; one that is not here; one whose licence is not accepted.
    """
    from nbhelpers.models.load import load

    wanted = os.environ.get(VARIABLE, "colmap") if name is None else name
    if wanted.lower() in OFF:
        return None
    return load("geometry_encoder", SOURCES.get(wanted, wanted), device)


def backbone_of(tracker: Tracker) -> str:
    """Name of the network whose features a tracker compares: a merger is trained for one."""
    return tracker.segmenter.name if hasattr(tracker, "segmenter") else tracker.name


def default_merger(tracker: Tracker) -> nn.Module | None:
    """The merger in the package where it is of the tracker's backbone; else None."""
    from nbhelpers.geometry_fusion.training import PACKAGED, inspect_checkpoint, load_merger

    if PACKAGED.is_file() and inspect_checkpoint(PACKAGED).backbone == backbone_of(tracker):
        return load_merger()
    return None


def scene_of(path: str | Path | None) -> Scene | Callable[[FrameSequence], Scene] | None:
    """What a folder tells of cameras and depth, for the frames that are asked about; None without a folder."""
    if path is None:
        return None

    def matching(frames: FrameSequence) -> Scene:
        names = getattr(frames, "names", None)
        pictures, scene = read_rgbd(path, None if names is None else [Path(str(name)).name for name in names])
        if len(pictures) != len(frames):
            raise NbHelpersError(
                "the folder does not tell cameras and depth of all frames",
                given=f"{path}: {len(pictures)} of {len(frames)}",
            )
        return scene

    return matching


def make_arms(
    tracker: Tracker,
    encoder: GeometryEncoder | None,
    names: Iterable[str] = ("baseline", "geometry"),
    *,
    merger: nn.Module | None = None,
    scene: Scene | Callable[[FrameSequence], Scene | None] | None = None,
    other: Geometry | None = None,
    max_motion: float | None = None,
    cache: str | Path | None = None,
) -> dict[str, Tracker]:
    """Trackers by name, for `nbhelpers.geometry_fusion.comparison.compare_arms`.

    Example:
        >>> make_arms(tracker, geometry_source("colmap"), ["baseline", "geometry", "shuffled"], merger=load_merger())

    Without a merger of its backbone, label propagation has the kernel for its arm ``geometry``, and SAM 2's video
    network ``reprompt``. Negative controls never fall back: it is to be seen what false geometry does.

    Args:
        tracker: the baseline.
        encoder: of the geometry; None leaves the baseline alone.
        names: of `ARMS`.
        merger: trained; that of the package where it fits when left out.
        scene: for the encoder of given scenes.
        other: geometry of another clip, for the control ``other``.
        max_motion: see `GeometryTracker`.
        cache: folder where geometry is kept.

    Raises:
        NbHelpersError: no such arm; an arm that the tracker or a missing merger cannot do.
    """
    from nbhelpers.geometry_fusion.merger import PlaceKernel

    merger = default_merger(tracker) if merger is None else merger
    votes = hasattr(tracker, "segmenter")
    merged = PlaceKernel() if merger is None and votes else merger
    common = {"scene": scene, "cache": cache}
    if max_motion is not None:
        common["max_motion"] = max_motion
    arms: dict[str, Tracker] = {}
    for name in names:
        if name not in ARMS:
            raise NbHelpersError("there is no such arm", given=name, expected=", ".join(ARMS))
        if name == "baseline":
            arms[name] = tracker
        if name == "baseline" or encoder is None:
            continue
        if name in ("kernel", "places") and not votes:
            raise NbHelpersError("this arm needs label propagation", given=f"{name} with {tracker.name}")
        if name == "merger" and merger is None:
            raise NbHelpersError(
                "there is no merger of this backbone", given=backbone_of(tracker), do="nbhelpers geometry-fusion train"
            )
        if name == "kernel":
            arms[name] = GeometryTracker(tracker, encoder, PlaceKernel(), places=False, **common)
        elif name == "places":
            arms[name] = GeometryTracker(tracker, encoder, None, places=True, **common)
        elif name == "merger":
            arms[name] = GeometryTracker(tracker, encoder, merger, places=False, **common)
        elif name == "reprompt" or (merger is None and not votes):
            arms[name] = GeometryTracker(tracker, encoder, None, places=False, reprompt=True, **common)
        elif name == "geometry":
            arms[name] = GeometryTracker(tracker, encoder, merged, places=votes, reprompt=not votes, **common)
        else:
            change = lambda geometry, name=name: falsify(geometry, name, other)  # noqa: E731
            control = {**common, "max_motion": 1.0, "change": change}
            arms[name] = GeometryTracker(tracker, encoder, merged, places=votes, **control)
    return arms
