"""Interactive 3D figures of a scene: points coloured by object, cameras as pyramids, and the decisive relation."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.lazy import needs
from nbhelpers.core.scenes import Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StillFigure
    from plotly.graph_objects import Figure

MAX_POINTS = 20_000  # points that are drawn
FRUSTUM = 0.06  # length of a camera's pyramid, as a fraction of the scene's extent
CAMERA, REFERENCE, ARROW, TEXT = "#8A8A8A", "#D55E00", "#C2478F", "#858585"  # legible on white and on black
CLEAR = "rgba(0,0,0,0)"  # the page's own background, light or dark
STILL_WIDTH, DPI = 9.0, 100  # inches, and page pixels per inch, of the still picture
MAX_DISTANCE = 4.0  # from the median, in median distances; farther points are not drawn


@dataclass(frozen=True)
class Arrow:
    """A relation to draw between two objects.

    Attributes:
        start: index of the target.
        end: index of the landmark; -1 for the reference camera.
        text: the relation in words.
    """

    start: int
    end: int
    text: str


def draw_scene(
    scene: Scene,
    labels: Int[np.ndarray, " p"] | None = None,
    names: Sequence[str] = (),
    colours: Sequence[str] = (),
    *,
    arrows: Sequence[Arrow] = (),
    reference: int | None = None,
    title: str | None = None,
    height: int = 560,
) -> Figure:
    """A plotly figure of a scene.

    Example:
        >>> figure = draw_scene(scene, labels, ["chair", "desk"], ["#E69F00", "#56B4E9"], reference=0)
        >>> save_html("outputs/scene.html", figure)

    Args:
        scene: cameras and points.
        labels: index of the object of each point, -1 for none.
        names: of the objects, for the legend.
        colours: of the objects, e.g. ``"#E69F00"``.
        arrows: relations.
        reference: the view whose camera is highlighted.
        title: of the figure.
        height: in pixels.

    Raises:
        NbHelpersError: labels that do not match the points, or a scene without points and cameras.
    """
    needs("multiview", "plotly")
    from plotly import graph_objects

    labels = np.full(len(scene.points), -1) if labels is None else np.asarray(labels)
    if len(labels) != len(scene.points) or len(names) != len(colours):
        raise NbHelpersError(
            "labels, names and colours do not match the scene",
            given=f"{len(labels)} labels, {len(names)} names, {len(colours)} colours, {len(scene.points)} points",
        )
    if not len(scene.points) and not scene.placed.any():
        raise NbHelpersError("there is nothing to draw", given="a scene without points and cameras")
    points, turn = _upright(scene)
    centers = scene.centers @ turn.T
    kept = _kept(points)
    figure = graph_objects.Figure()
    rest = np.flatnonzero(kept & (labels < 0))
    rest = rest[:: max(1, -(-len(rest) // MAX_POINTS))]
    if len(rest):
        own = [f"rgb({r},{g},{b})" for r, g, b in scene.colors[rest].tolist()]
        figure.add_trace(_cloud(points[rest], "scene", own, 1.8, 0.55))
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        mine = np.flatnonzero(kept & (labels == number))
        if len(mine):
            figure.add_trace(_cloud(points[mine], f"{name}: {len(mine)} points", colour, 4.0, 1.0))
    length = FRUSTUM * _extent(points[kept], centers[scene.placed])
    for view in np.flatnonzero(scene.placed).tolist():
        figure.add_trace(_frustum(scene, view, turn, length, view == reference))
    for arrow in arrows:
        ends = [_middle(points, labels, arrow.start)]
        ends.append(centers[reference or 0] if arrow.end < 0 else _middle(points, labels, arrow.end))
        if all(end is not None for end in ends):
            figure.add_trace(_line(np.array(ends), arrow.text))
    figure.update_layout(
        height=height,
        title=title,
        margin={"l": 0, "r": 0, "t": 40 if title else 0, "b": 0},
        paper_bgcolor=CLEAR,
        font={"color": TEXT},
        legend={"itemsizing": "constant", "x": 0.01, "y": 0.99, "bgcolor": CLEAR},
        scene={
            "aspectmode": "data",
            "bgcolor": CLEAR,
            **{f"{axis}axis": {"visible": False} for axis in "xyz"},
            "camera": _eye(points[kept], centers, reference if reference is not None else 0),
        },
    )
    return figure


def save_html(path: str | Path, figure: Figure) -> Path:
    """Write a figure as an HTML page that works offline; return the path."""
    return write_text(path, figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False}))


def show_scene(
    scene: Scene,
    labels: Any = None,
    names: Sequence[str] = (),
    colours: Sequence[str] = (),
    *,
    alt: str | None = None,
    **options: Any,
) -> None:
    """Display the figure of `draw_scene` in JupyterLab, Colab or voila, without a network.

    A still picture goes with it, for pages without scripts; ``alt`` describes both to a screen reader.
    """
    needs("widgets", "IPython")
    from IPython.display import display

    figure = draw_scene(scene, labels, names, colours, **options)
    still = draw_still(figure)
    alt = alt or "scene in 3D"
    width, height = (round(inches * DPI) for inches in still.get_size_inches())
    file = io.BytesIO()
    still.savefig(file, format="jpeg", dpi=2 * DPI)
    data = {"text/html": as_frame(figure, alt), "image/jpeg": base64.b64encode(file.getvalue()).decode()}
    display(data, metadata={"image/jpeg": {"alt": alt, "width": width, "height": height}}, raw=True)


def as_frame(figure: Figure, title: str = "scene in 3D") -> str:
    """A figure as an HTML iframe with its own page, independent of the surrounding page."""
    page = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
    height = int(figure.layout.height or 560) + 20
    # browsers paint an iframe white if its colour scheme differs from that of the page
    style = f"width: 100%; height: {height}px; border: none; color-scheme: light"
    return f'<div><iframe title="{html.escape(title)}" style="{style}" srcdoc="{html.escape(page)}"></iframe></div>'


def draw_still(figure: Figure) -> StillFigure:
    """The plotly figure of `draw_scene` as Matplotlib draws it, seen from the same side."""
    needs("widgets", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as StillFigure

    still = StillFigure(figsize=(STILL_WIDTH, (figure.layout.height or 560) / DPI), dpi=DPI)
    FigureCanvasAgg(still)
    axes: Any = still.add_axes((0, 0, 1, 1), projection="3d")  # Matplotlib declares the axes of two dimensions
    traces: Any = figure.data
    for trace in traces:
        x, y, z = (np.asarray(trace[axis], float) for axis in "xyz")
        label = trace.name if trace.showlegend is not False else "_"  # Matplotlib leaves it out of the legend
        if trace.mode == "markers":
            own = trace.marker.color
            colour = own if isinstance(own, str) else [[int(c) / 255 for c in each[4:-1].split(",")] for each in own]
            size = trace.marker.size**2
            axes.scatter(x, y, z, s=size, c=colour, alpha=trace.marker.opacity, linewidths=0, label=label)
        else:
            axes.plot(x, y, z, color=trace.line.color, linewidth=trace.line.width / 2, label=label)
            for number, text in enumerate(trace.text or ()):
                axes.text(x[number], y[number], z[number], text, color=trace.line.color)
    eye = figure.layout.scene.camera.eye
    direction = (eye.x, eye.y, eye.z) if eye.x is not None else (1.25, 1.25, 1.25)  # plotly's own
    axes.view_init(
        elev=math.degrees(math.atan2(direction[2], math.hypot(*direction[:2]))),
        azim=math.degrees(math.atan2(direction[1], direction[0])),
    )
    axes.set_box_aspect([np.ptp(limits) for limits in (axes.get_xlim(), axes.get_ylim(), axes.get_zlim())], zoom=1.5)
    axes.set_axis_off()
    axes.legend(loc="upper left", frameon=False)
    return still


def _upright(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The points with z up, and the rotation applied to them."""
    up = scene.up
    if up is None:
        placed = np.flatnonzero(scene.placed)
        up = -scene.world_to_camera[placed[0]][1, :3] if len(placed) else np.array([0.0, 0.0, 1.0])
    side = np.cross(up, (1.0, 0.0, 0.0) if abs(up[0]) < 0.9 else (0.0, 1.0, 0.0))
    side /= np.linalg.norm(side)
    turn = np.stack([side, np.cross(up, side), up])
    return scene.points @ turn.T, turn


def _kept(points: np.ndarray) -> np.ndarray:
    """Which points are not outliers; a few distant ones would shrink all others."""
    if not len(points):
        return np.zeros(0, bool)
    away = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    return away <= MAX_DISTANCE * np.median(away) + 1e-12


def _extent(points: np.ndarray, centers: np.ndarray) -> float:
    every = np.concatenate([points, centers])
    return float(np.linalg.norm(np.percentile(every, 95, axis=0) - np.percentile(every, 5, axis=0))) or 1.0


def _cloud(points: np.ndarray, name: str, colour: Any, size: float, opacity: float):
    from plotly import graph_objects

    x, y, z = points.T
    marker = {"size": size, "color": colour, "opacity": opacity, "line": {"width": 0}}
    return graph_objects.Scatter3d(x=x, y=y, z=z, mode="markers", name=name, marker=marker, hoverinfo="name")


def _frustum(scene: Scene, view: int, turn: np.ndarray, length: float, stands_out: bool):
    from plotly import graph_objects

    height, width = scene.sizes[view]
    corners = np.array([(0, 0, 1), (width, 0, 1), (width, height, 1), (0, height, 1)], float)
    rays = corners @ np.linalg.inv(scene.K[view]).T * length
    pose = scene.world_to_camera[view]
    world = np.concatenate([(rays - pose[:, 3]) @ pose[:, :3], scene.centers[view][None]]) @ turn.T
    path = world[[4, 0, 1, 4, 2, 3, 4, 0, 3, 2, 1]]
    x, y, z = path.T
    line = {"color": REFERENCE if stands_out else CAMERA, "width": 5 if stands_out else 2}
    name = f"{scene.names[view]} (reference)" if stands_out else scene.names[view]
    return graph_objects.Scatter3d(
        x=x, y=y, z=z, mode="lines", name=name, line=line, hoverinfo="name", showlegend=stands_out
    )


def _middle(points: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray | None:
    own = points[labels == number]
    return np.median(own, axis=0) if len(own) else None


def _line(ends: np.ndarray, text: str):
    from plotly import graph_objects

    x, y, z = np.stack([ends[0], ends.mean(0), ends[1]]).T
    return graph_objects.Scatter3d(
        x=x, y=y, z=z, mode="lines+text", text=["", text, ""], name=text, line={"color": ARROW, "width": 5},
        textfont={"size": 14, "color": ARROW}, hoverinfo="name", showlegend=False,
    )  # fmt: skip


def _eye(points: np.ndarray, centers: np.ndarray, reference: int) -> dict[str, Any]:
    """The view from above and behind the reference camera."""
    if not len(points) or not np.isfinite(centers[reference]).all():
        return {"up": {"x": 0, "y": 0, "z": 1}}
    away = centers[reference] - np.median(points, axis=0)
    away[2] = 0
    flat = away / max(float(np.linalg.norm(away)), 1e-9)
    eye = 1.8 * flat + np.array([-0.7 * flat[1], 0.7 * flat[0], 1.1])
    return {"up": {"x": 0, "y": 0, "z": 1}, "eye": dict(zip("xyz", eye.tolist(), strict=True))}
