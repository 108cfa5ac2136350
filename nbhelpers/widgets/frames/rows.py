"""The rows of the frames widget that are about looks and results: objects, what is shown, brush, mattes, export."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets

from nbhelpers.core.files import home
from nbhelpers.core.mattes import MatteSettings
from nbhelpers.rotoscoping.export import FORMATS
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.widgets.controls import Row, button, choice, label, short_path, space
from nbhelpers.widgets.frames.picture import BACKGROUNDS, CHECKERBOARD
from nbhelpers.widgets.frames.stage import FrameStage
from nbhelpers.widgets.rows import Guard, ObjectRow

SHOWS = (
    ("overlay", "", "The frame, with the masks laid over it (M goes round)"),
    ("matte", "", "The mattes as grey: white is the object (M goes round)"),
    ("cut-out", "", "The objects without their surroundings (M goes round)"),
)
SETTINGS = (  # field of MatteSettings, name, lowest, highest, step, what it does
    ("fill_holes", "Fill holes", 0, 5000, 10, "Holes of up to so many pixels are filled"),
    ("drop_specks", "Drop specks", 0, 5000, 10, "Separate parts of fewer pixels are dropped"),
    ("grow", "Grow", -20, 20, 0.5, "Pixels by which the object grows, or shrinks"),
    ("frame_edge", "Frame edge", 0, 20, 1, "A mask that stops so many pixels before the frame's edge is carried on"),
    ("refine", "Refine", 0, 60, 1, "Radius in pixels within which the outline is fitted to the edges of the picture"),
    ("feather", "Feather", 0, 40, 0.5, "Pixels over which the edge fades"),
    ("steady", "Steady", 0, 5, 1, "Frames on each side that calm the outline in time"),
)  # fmt: skip


EXPORTS = {  # kind: name, what is written
    "postshot": ("PostShot", "Pictures with alpha and masks, named as the footage"),
    "colmap": ("COLMAP", "Masks named as COLMAP wants them"),
    "nerfstudio": ("nerfstudio", "Masks, and their entries in transforms.json"),
    "mattes": ("Mattes", "A sequence of grey PNG files: white is the object"),
    "rgba": ("RGBA", "A sequence of PNG files with alpha"),
    "coco": ("COCO", "One json file with all masks"),
    "overlay": ("Overlay", "A video of the clip with the objects tinted (MP4)"),
    "side by side": ("Side by side", "A video of the clip and the cut-out beside it (MP4)"),
    "prores": ("ProRes 4444", "A video with alpha (MOV)"),
    "png": ("PNG video", "A video with alpha, without loss (MOV)"),
}


class FrameObjectRow(ObjectRow):
    """The objects as buttons in their colours, each with an eye that shows or hides it."""

    def __init__(self, session: RotoSession, guard: Guard, stage: FrameStage):
        self._stage = stage
        super().__init__(session, guard)

    def _to_show(self) -> tuple:
        self._stage.hidden &= {*self._session.objects}
        return (*super()._to_show(), frozenset(self._stage.hidden))

    def _chip(self, number: int, name: str) -> widgets.Widget:
        hidden = name in self._stage.hidden
        eye = button(
            "", f"{'Show' if hidden else 'Hide'} {name}", lambda: self.toggle(name),
            icon="eye-slash" if hidden else "eye", width="36px",
        )  # fmt: skip
        eye.style.button_color = "transparent"
        pair = Row(super()._chip(number, name), eye)
        pair.layout.grid_gap, pair.layout.flex_flow = "0", "row nowrap"
        return pair

    def toggle(self, name: str) -> None:
        """Show or hide an object."""
        with self._guard():
            self._stage.hidden ^= {name}
            self._stage.paint(photo=False)
            self.refresh()


class ShowRow(Row):
    """Overlay, matte or cut-out; what is behind it; neighbours' outlines; a wipe."""

    def __init__(self, stage: FrameStage, guard: Guard):
        self._stage, self._guard, self._following = stage, guard, False
        self._choice = choice(SHOWS, self._set_show, width="74px")
        self._background = widgets.Dropdown(
            options=(CHECKERBOARD, *BACKGROUNDS), layout=widgets.Layout(width="130px", margin="0"), disabled=True
        )
        self._background.tooltip = "What is behind a cut-out"
        self._background.observe(self._set_background, "value")
        self._onion = widgets.Dropdown(
            options=[("off", 0), *((f"{n} frame{'s' * (n > 1)}", n) for n in (1, 2, 3))],
            layout=widgets.Layout(width="92px", margin="0"),
        )
        self._onion.tooltip = "Outlines of the active object on the frames before (pink) and after (green) (O)"
        self._onion.observe(self._set_onion, "value")
        self._wipe = widgets.ToggleButton(
            description="Wipe", icon="columns", layout=widgets.Layout(width="84px", margin="0")
        )
        self._wipe.tooltip = "The frame itself to the left, what is shown to the right; drag the handle (W)"
        self._wipe.observe(self._set_wipe, "value")
        self._place = widgets.FloatSlider(
            value=0.5, min=0, max=1, step=0.01, readout=False, disabled=True,
            layout=widgets.Layout(width="120px", margin="0"),
        )  # fmt: skip
        self._place.tooltip = "Where the wipe stands"
        self._place.observe(self._move_wipe, "value")
        super().__init__(
            Row(label("Show"), self._choice, self._background),
            space(),
            Row(_short_label("Onion skin"), self._onion),
            space(),
            Row(self._wipe, self._place),
        )

    def refresh(self) -> None:
        """Bring the slider to where the wipe was dragged."""
        self._following = True
        self._place.value = self._stage.wipe if self._stage.wipe is not None else self._place.value
        self._following = False

    def next_show(self) -> None:
        """Go round overlay, matte and cut-out."""
        values = [value for value, _, _ in SHOWS]
        self._choice.value = values[(values.index(self._choice.value) + 1) % len(values)]

    def next_onion(self) -> None:
        """Go round no, one, two and three neighbours."""
        self._onion.value = (self._onion.value + 1) % 4

    def toggle_wipe(self) -> None:
        """Switch the wipe on or off."""
        self._wipe.value = not self._wipe.value

    def _set_show(self, show: str) -> None:
        with self._guard():
            self._stage.show, self._background.disabled = show, show != "cut-out"
            self._stage.paint()

    def _set_background(self, change) -> None:
        with self._guard():
            self._stage.background = change["new"]
            self._stage.paint()

    def _set_onion(self, change) -> None:
        with self._guard():
            self._stage.onion = change["new"]
            self._stage.paint(photo=False)

    def _set_wipe(self, change) -> None:
        with self._guard():
            self._stage.wipe = self._place.value if change["new"] else None
            self._place.disabled = not change["new"]
            self._stage.paint()

    def _move_wipe(self, change) -> None:
        if not self._following and self._stage.wipe is not None:
            with self._guard():
                self._stage.wipe = change["new"]
                self._stage.paint(preview=True)
                self._stage.rest()


class BrushSlider(Row):
    """The radius of the brush."""

    def __init__(self, size: tuple[int, int], changed: Callable[[float], object]):
        most = max(8, min(400, max(size) // 3))
        self.slider = widgets.IntSlider(value=min(12, most), min=1, max=most)
        self.slider.tooltip = "Radius of the brush in pixels of the frame ([ and ])"
        self.slider.layout = widgets.Layout(width="200px", margin="0")
        self.slider.observe(lambda change: changed(float(change["new"])), "value")
        super().__init__(_short_label("Brush"), self.slider)

    def scale(self, factor: float) -> None:
        """A larger or smaller brush, by at least a pixel."""
        value = self.slider.value
        wanted = max(value + 1, round(value * factor)) if factor > 1 else min(value - 1, round(value * factor))
        self.slider.value = min(max(wanted, 1), self.slider.max)


class MattePanel(widgets.VBox):
    """How the active object's masks become mattes: a slider for each step."""

    def __init__(self, session: RotoSession, guard: Guard, tell: Callable[[str], object]):
        self._session, self._guard, self._tell, self._following = session, guard, tell, False
        self.sliders = {field: self._slider(*about) for field, *about in SETTINGS}
        for field, slider in self.sliders.items():
            slider.observe(lambda change, field=field: self._set(field, change["new"]), "value")
        reset = button("Reset", "Leave the masks as they are", self._reset, icon="undo")
        grid = widgets.GridBox(
            list(self.sliders.values()),
            layout=widgets.Layout(grid_template_columns="repeat(auto-fill, minmax(290px, 1fr))", grid_gap="4px 12px"),
        )
        hint = widgets.Label("Seen in the matte and cut-out views, and in every export.")
        super().__init__([grid, Row(reset, hint)], layout=widgets.Layout(grid_gap="6px", overflow="visible"))

    def refresh(self) -> None:
        """Show the settings of the active object."""
        settings = self._session.matte_settings()
        self._following = True
        for field, slider in self.sliders.items():
            value = getattr(settings, field)
            if isinstance(value, str):  # a network refines: its slider rests, and moving it chooses the filter
                value = 0
            slider.max, slider.min = max(slider.max, value), min(slider.min, value)
            slider.value = value
        self._following = False

    def _slider(self, name: str, low: float, high: float, step: float, tooltip: str) -> widgets.Widget:
        kind = widgets.IntSlider if isinstance(step, int) else widgets.FloatSlider
        more = {} if isinstance(step, int) else {"readout_format": ".1f"}
        made = kind(0, min=low, max=high, step=step, description=name, continuous_update=False, **more)
        made.tooltip, made.style.description_width = tooltip, "90px"
        made.layout = widgets.Layout(width="auto", margin="0")
        return made

    def _set(self, field: str, value: float) -> None:
        if not self._following:
            with self._guard():
                self._session.set_matte(replace(self._session.matte_settings(), **{field: value}))

    def _reset(self) -> None:
        with self._guard():
            if self._session.matte_settings() != MatteSettings():
                self._session.set_matte(None)


class ExportPanel(widgets.VBox):
    """Which files to write, where to, and what the check of them found.

    Args:
        session: what is exported.
        start: called with the kinds, the folder and whether to replace, when the person wants it.
    """

    def __init__(self, session: RotoSession, start: Callable[[list[str], str, bool], object]):
        self._start = start
        self.kinds = {
            kind: widgets.ToggleButton(
                value=kind == "mattes",
                description=EXPORTS.get(kind, (kind, ""))[0],
                tooltip=EXPORTS.get(kind, (kind, ""))[1],
                layout=widgets.Layout(width="108px", margin="0"),
            )
            for kind in FORMATS
        }
        self.folder = widgets.Text(
            short_path(home() / "outputs" / session.name),
            placeholder="folder",
            tooltip="Folder for the files; made if missing",
            layout=widgets.Layout(width="380px", margin="0"),
        )
        self.replace = widgets.Checkbox(
            description="Replace an earlier export",
            indent=False,
            layout=widgets.Layout(width="200px", margin="0 0 0 8px"),
        )
        self._button = button("Export", "Write the chosen kinds, and check what was written", self._press, icon="save")
        self._report = widgets.HTML(layout=widgets.Layout(margin="0"))
        rows = (
            Row(label("Kinds"), Row(*self.kinds.values())),
            Row(label("Folder"), self.folder, self._button, self.replace),
            self._report,
        )
        rows[0].layout.flex_flow, rows[0].layout.align_items = "row nowrap", "flex-start"
        super().__init__(rows, layout=widgets.Layout(grid_gap="6px", overflow="visible"))

    def show(self, lines: list[str]) -> None:
        """Show what was written, or nothing."""
        text = "<br>".join(map(html.escape, lines))
        self._report.value = f'<div class="nbhelpers-report" style="line-height:1.5">{text}</div>' if lines else ""

    def show_running(self, running: bool) -> None:
        """While something runs, nothing else is begun."""
        self._button.disabled = running

    def _press(self) -> None:
        chosen = [kind for kind, toggle in self.kinds.items() if toggle.value]
        self._start(chosen, str(Path(self.folder.value.strip())), self.replace.value)


def _short_label(text: str) -> widgets.Label:
    """The name of a group within a row, as wide as its text."""
    return widgets.Label(text, layout=widgets.Layout(width="auto", margin="0 4px 0 0", flex="0 0 auto"))
