"""The rows of the frames widget: time, tracking, objects, display, brush, mattes and export."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as widgets

from nbhelpers.core.mattes import MatteSettings
from nbhelpers.rotoscoping.export import FORMATS
from nbhelpers.widgets.background import Later
from nbhelpers.widgets.base import ObjectRow
from nbhelpers.widgets.controls import Row, choice, folder_field, label, space
from nbhelpers.widgets.frame_stage import BACKGROUNDS, CHECKERBOARD, DISPLAYS

if TYPE_CHECKING:
    from nbhelpers.widgets.frames import FramesWidget

FPS = 12.0  # where the clip does not say
# of `Play`; ipywidgets 7 hides them
PLAYING, REPEAT = ("playing", "repeat") if "playing" in widgets.Play.class_trait_names() else ("_playing", "_repeat")
MAX_ONION = 3  # frames on each side
# Field of MatteSettings, name, lowest, highest, step, what it does.
SETTINGS: tuple[tuple[str, str, float, float, float, str], ...] = (
    ("fill_holes", "Fill holes", 0, 5000, 10, "Holes of up to so many pixels are filled"),
    ("drop_specks", "Drop specks", 0, 5000, 10, "Separate parts of fewer pixels are dropped"),
    ("grow", "Grow", -20, 20, 0.5, "Pixels by which the object grows, or shrinks"),
    (
        "frame_edge",
        "Frame edge",
        0,
        20,
        1,
        "A mask that stops so many pixels before the frame's edge is extended to it",
    ),
    ("refine", "Refine", 0, 60, 1, "Radius in pixels within which the outline is fitted to the edges of the picture"),
    ("feather", "Feather", 0, 40, 0.5, "Pixels over which the edge fades"),
    ("steady", "Smoothing", 0, 5, 1, "Temporal smoothing: frames on each side over which the outline is averaged"),
)
EXPORTS = {  # format: name, what is written
    "postshot": ("PostShot", "Pictures with alpha and masks, named as the footage"),
    "colmap": ("COLMAP", "Masks named as COLMAP expects them"),
    "nerfstudio": ("nerfstudio", "Masks, and their entries in transforms.json"),
    "mattes": ("Mattes", "A sequence of grey PNG files: white is the object"),
    "rgba": ("RGBA", "A sequence of PNG files with alpha"),
    "coco": ("COCO", "One json file with all masks"),
    "overlay": ("Overlay", "A video of the clip with the objects tinted (MP4)"),
    "side by side": ("Side by side", "A video of the clip and the cut-out beside it (MP4)"),
    "prores": ("ProRes 4444", "A video with alpha (MOV)"),
    "png": ("PNG video", "A lossless video with alpha (MOV)"),
    "webm": ("WebM", "A video with alpha for web pages (VP9)"),
}


class TimeRow(Row):
    """Steps, play, a slider over the clip, and the range that is played and tracked.

    The page itself counts while it plays, and counts on only when it has shown what was sent: on a slow line frames
    are left out, none are queued up.

    Args:
        owner: whose session is shown.
    """

    def __init__(self, owner: FramesWidget):
        self._owner, self._session, self._strip = owner, owner.session, owner.strip
        self._wanted, self._steps = 0, Later(self._arrive, 0.02)
        frames, button = owner.session.frames, owner.button
        last = len(frames) - 1
        interval = round(1000 / (getattr(frames, "fps", None) or FPS))
        self.player = widgets.Play(min=0, max=max(last, 1), interval=interval, show_repeat=False, **{REPEAT: True})
        owner.bind(self.player, lambda frame: self._session.go(frame) if self.playing else None)
        self.player.observe(self._show_playing, PLAYING)
        self._play = button("Play", "Play the range (space bar)", self.toggle_play, icon="play", width="84px")
        # Our button is as large as the others, and has a key; with ipywidgets 7 only the page itself can start to play.
        hidden = self.player if PLAYING == "playing" else self._play
        hidden.layout.display = "none"
        self.slider = widgets.IntSlider(min=0, max=max(last, 1), disabled=not last)
        self.slider.tooltip = "Frame; type a number for an exact one"
        self.slider.layout = widgets.Layout(width="auto", min_width="180px", flex="1 1 180px", margin="0 4px")
        owner.bind(self.slider, owner.visit)
        steps = (
            button("", "First frame of the range (Home)", lambda: self.jump(0), icon="fast-backward"),
            button("", "Previous frame (arrow left)", lambda: self.step(-1), icon="step-backward"),
            self._play,
            button("", "Next frame (arrow right)", lambda: self.step(1), icon="step-forward"),
            button("", "Last frame of the range (End)", lambda: self.jump(1), icon="fast-forward"),
        )
        self.range = label("", width="auto", margin="0 4px 0 4px")
        ends = (
            button("From here", "The range begins with this frame (comma)", lambda: self.cut(0), width="92px"),
            button("To here", "The range ends with this frame (full stop)", lambda: self.cut(1), width="92px"),
            button("", "The range is the whole clip", self.whole, icon="arrows-h"),
        )
        super().__init__(Row(label("Frame"), *steps), self.player, self.slider, Row(self.range, *ends))
        self._show_range()

    @property
    def playing(self) -> bool:
        """Whether the page plays the range."""
        return getattr(self.player, PLAYING)

    def refresh(self) -> None:
        """Show the current frame."""
        self._owner.show_value(self.slider, value=self._session.frame)

    def step(self, by: int) -> None:
        """Go some frames on, or back; fast presses are taken together."""
        base = self._wanted if self._steps.waiting else self._session.frame
        self._wanted = min(max(base + by, 0), len(self._session.frames) - 1)
        self._steps.ask()

    def jump(self, end: int) -> None:
        """Go to the beginning (0) or the end (1) of the range; from there, of the clip."""
        target = self._strip.range[end]
        if self._session.frame == target:
            target = (0, len(self._session.frames) - 1)[end]
        self._owner.act(lambda: self._owner.visit(target))

    def toggle_play(self) -> None:
        """Play, or stop playing."""
        first, last = self._strip.range
        if self.playing:
            self.pause()
        elif first < last:
            self._owner.show_value(self.player, value=min(max(self._session.frame, first), last))
            setattr(self.player, PLAYING, True)

    def pause(self) -> None:
        """Stop playing."""
        if self.playing:
            setattr(self.player, PLAYING, False)

    def cut(self, end: int) -> None:
        """Let the range begin (0) or end (1) with the current frame."""
        (first, last), frame = self._strip.range, self._session.frame
        self._set_range((frame, max(frame, last)) if end == 0 else (min(frame, first), frame))

    def whole(self) -> None:
        """Let the range be the whole clip."""
        self._set_range((0, len(self._session.frames) - 1))

    def close(self) -> None:
        """Stop playing and stepping."""
        self.pause()
        self._steps.cancel()
        super().close()

    def _set_range(self, ends: tuple[int, int]) -> None:
        with self._owner.guard():
            self._strip.range = ends
            self.player.min, self.player.max = 0, max(ends[1], 1)  # in this order the minimum is never above
            self.player.min = ends[0] if ends[0] < self.player.max else 0
            self._show_range()
            self._strip.paint()

    def _show_range(self) -> None:
        first, last = self._strip.range
        self.range.value = f"Range {first} to {last}"

    def _show_playing(self, change) -> None:
        self._play.description = "Pause" if change["new"] else "Play"
        self._play.icon = "pause" if change["new"] else "play"

    def _arrive(self) -> None:
        self._owner.act(lambda: self._owner.visit(self._wanted))


class TrackRow(Row):
    """Track the objects from where they were prompted, stop, and go to doubtful frames.

    Args:
        owner: whose objects are tracked.
        right: shown at the right end.
    """

    def __init__(self, owner: FramesWidget, right: widgets.Widget):
        button, track = owner.button, owner.work.track
        self.starts = (
            button("Back", "Track from here to the range's start (Shift+F)", lambda: track("back"), icon="backward"),
            button("Forward", "Track from here to the range's end (F)", lambda: track("forward"), icon="forward"),
            button("All", "Track to each outdated or empty frame of the range (A)", lambda: track("all"), icon="film"),
        )  # fmt: skip
        self.stop = button("Stop", "Stop; what is done is kept (Escape)", owner.work.stop, icon="stop")
        doubtful = button("Next doubtful", "Go to the next doubtful frame (N)", owner.next_doubtful, icon="search",
                          width="136px")  # fmt: skip
        other = button("Take other", "Take the other candidate on this frame (T)", owner.take_other, icon="exchange",
                       width="112px")  # fmt: skip
        self.draft = widgets.ToggleButton(
            value=owner.session.quality == "draft",
            description="Draft",
            tooltip="Track every third frame only, for a quick look; without, drafts are tracked again",
            layout=widgets.Layout(width="72px", margin="0"),
        )
        owner.bind(self.draft, lambda draft: setattr(owner.session, "quality", "draft" if draft else "full"))
        super().__init__(label("Track"), *self.starts, self.draft, self.stop, doubtful, other, space(), right)
        self.show_running(False)

    def show_running(self, running: bool) -> None:
        """Enable the buttons that can be used while something runs, or does not."""
        for each in (*self.starts, self.draft):
            each.disabled = running
        self.stop.disabled = not running
        self.stop.button_style = "warning" if running else ""


class FrameObjectRow(ObjectRow):
    """The objects as buttons in their colours, each with an eye that shows or hides it."""

    owner: FramesWidget

    def shown(self) -> tuple:
        """All that the buttons depend on."""
        self.owner.stage.hidden &= {*self.owner.session.objects}
        return (*super().shown(), frozenset(self.owner.stage.hidden))

    def chip(self, name: str) -> widgets.Widget:
        """An object's button, and its eye."""
        hidden = name in self.owner.stage.hidden
        icon, tooltip = "eye-slash" if hidden else "eye", f"{'Show' if hidden else 'Hide'} {name}"
        eye = self.owner.button("", tooltip, lambda: self.toggle(name), icon=icon, width="36px")
        eye.style.button_color = "transparent"
        return Row(super().chip(name), eye, wrap=False, grid_gap="0")

    def toggle(self, name: str) -> None:
        """Show or hide an object."""
        with self.owner.guard():
            self.owner.stage.hidden ^= {name}
            self.owner.stage.paint(photo=False)
            self.refresh()


class DisplayRow(Row):
    """Overlay, matte or cut-out; what is behind it; neighbours' outlines; a wipe."""

    def __init__(self, owner: FramesWidget):
        self._owner, self._stage = owner, owner.stage
        self.choice = owner.bind(choice(DISPLAYS, "84px"), self._set_display)
        self.background = widgets.Dropdown(
            options=(CHECKERBOARD, *BACKGROUNDS), layout=widgets.Layout(width="130px", margin="0"), disabled=True
        )
        self.background.tooltip = "What is behind a cut-out"
        owner.bind(self.background, lambda name: self._paint(background=name))
        counts = range(1, MAX_ONION + 1)
        self.onion = widgets.Dropdown(
            options=[("off", 0), *((f"{n} frame{'s' * (n > 1)}", n) for n in counts)],
            layout=widgets.Layout(width="92px", margin="0"),
        )
        self.onion.tooltip = "Outlines of the active object on the frames before (pink) and after (green) (O)"
        owner.bind(self.onion, lambda count: self._paint(photo=False, onion=count))
        self.wipe = widgets.ToggleButton(
            description="Wipe", icon="columns", layout=widgets.Layout(width="84px", margin="0")
        )
        self.wipe.tooltip = "The frame itself to the left, the display to the right; drag the handle (W)"
        owner.bind(self.wipe, self._set_wipe)
        self.position = widgets.FloatSlider(
            value=0.5, min=0, max=1, step=0.01, readout=False, disabled=True,
            layout=widgets.Layout(width="120px", margin="0"),
        )  # fmt: skip
        self.position.tooltip = "Position of the wipe"
        owner.bind(self.position, self._move_wipe)
        self._stage.on_wipe = self.refresh
        super().__init__(
            Row(label("Display"), self.choice, self.background),
            space(),
            Row(label("Onion skin", "auto"), self.onion),
            space(),
            Row(self.wipe, self.position),
        )

    def refresh(self) -> None:
        """Bring the slider to where the wipe was dragged."""
        if self._stage.wipe is not None:
            self._owner.show_value(self.position, value=self._stage.wipe)

    def next_display(self) -> None:
        """Go to the next of overlay, matte and cut-out."""
        names = [name for name, _ in DISPLAYS]
        self.choice.value = names[(names.index(self.choice.value) + 1) % len(names)]

    def next_onion(self) -> None:
        """Go to the next number of neighbours."""
        self.onion.value = (self._stage.onion + 1) % (MAX_ONION + 1)

    def toggle_wipe(self) -> None:
        """Switch the wipe on or off."""
        self.wipe.value = not self.wipe.value

    def _paint(self, photo: bool = True, **settings) -> None:
        """Paint with other settings of the stage."""
        for name, value in settings.items():
            setattr(self._stage, name, value)
        self._stage.paint(photo=photo)

    def _set_display(self, display: str) -> None:
        self.background.disabled = display != "cut-out"
        self._paint(display=display)

    def _set_wipe(self, wipe: bool) -> None:
        self.position.disabled = not wipe
        self._paint(wipe=self.position.value if wipe else None)

    def _move_wipe(self, position: float) -> None:
        if self._stage.wipe is not None:
            self._stage.wipe = position
            self._stage.paint(preview=True)
            self._stage.rest()


class BrushSlider(Row):
    """The radius of the brush."""

    def __init__(self, owner: FramesWidget):
        largest = max(8, min(400, max(owner.session.size) // 3))
        self.slider = widgets.IntSlider(value=min(12, largest), min=1, max=largest)
        self.slider.tooltip = "Radius of the brush in pixels of the frame ([ and ])"
        self.slider.layout = widgets.Layout(width="200px", margin="0")
        self._pointer = owner.pointer
        owner.bind(self.slider, self._set_radius)
        self._set_radius(self.slider.value)
        super().__init__(label("Brush", "auto"), self.slider)

    def scale(self, factor: float) -> None:
        """A larger or smaller brush, by at least a pixel."""
        value = self.slider.value
        wanted = max(value + 1, round(value * factor)) if factor > 1 else min(value - 1, round(value * factor))
        self.slider.value = min(max(wanted, 1), self.slider.max)

    def _set_radius(self, radius: int) -> None:
        self._pointer.radius = float(radius)
        self._pointer.show_brush()


class MattePanel(widgets.VBox):
    """How the active object's masks become mattes: a slider for each step."""

    def __init__(self, owner: FramesWidget):
        self._owner, self._session = owner, owner.session
        self.sliders = {setting[0]: self._slider(*setting) for setting in SETTINGS}
        reset = owner.button("Reset", "Leave the masks as they are", self._reset, icon="undo")
        columns = "repeat(auto-fill, minmax(290px, 1fr))"
        grid = widgets.GridBox(
            list(self.sliders.values()), layout=widgets.Layout(grid_template_columns=columns, grid_gap="4px 12px")
        )
        self.title = label("", width="auto", margin="0 0 0 6px")
        super().__init__([grid, Row(reset, self.title)], layout=widgets.Layout(grid_gap="6px", overflow="visible"))

    def refresh(self) -> None:
        """Show the settings of the active object."""
        settings = self._session.matte_settings()
        for field, slider in self.sliders.items():
            value = getattr(settings, field)
            if isinstance(value, str):  # refinement by a network: the slider stands for the filter
                value = 0
            self._owner.show_value(slider, max=max(slider.max, value), min=min(slider.min, value), value=value)
        self.title.value = f"For {self._session.active}; seen as matte and cut-out, and in every export."

    def _slider(
        self, field: str, name: str, low: float, high: float, step: float, tooltip: str
    ) -> widgets.IntSlider | widgets.FloatSlider:
        kind = widgets.IntSlider if isinstance(step, int) else widgets.FloatSlider
        more = {} if isinstance(step, int) else {"readout_format": ".1f"}
        made = kind(0, min=low, max=high, step=step, description=name, continuous_update=False, **more)
        made.tooltip, made.style.description_width = tooltip, "90px"
        made.layout = widgets.Layout(width="auto", margin="0")
        session = self._session
        return self._owner.bind(
            made, lambda value: session.set_matte(replace(session.matte_settings(), **{field: value}))
        )

    def _reset(self) -> None:
        if self._session.matte_settings() != MatteSettings():
            self._session.set_matte(None)


class ExportPanel(widgets.VBox):
    """Which files to write, where to, and what the verification of them found."""

    def __init__(self, owner: FramesWidget):
        self.formats = {
            name: widgets.ToggleButton(
                value=name == "mattes",
                description=EXPORTS.get(name, (name, ""))[0],
                tooltip=EXPORTS.get(name, (name, ""))[1],
                layout=widgets.Layout(width="108px", margin="0"),
            )
            for name in FORMATS
        }
        self.folder = folder_field(owner.session.name)
        self.replace = widgets.Checkbox(
            description="Replace an earlier export",
            indent=False,
            layout=widgets.Layout(width="200px", margin="0 0 0 8px"),
        )
        export = lambda: owner.work.export(self.chosen, str(Path(self.folder.value.strip())), self.replace.value)  # noqa: E731
        self._start = owner.button("Export", "Write the chosen formats and verify the files", export, icon="save")
        self.report = widgets.HTML(layout=widgets.Layout(margin="0"))
        rows = (
            Row(label("Formats"), Row(*self.formats.values()), wrap=False, align_items="flex-start"),
            Row(label("Folder"), self.folder, self._start, self.replace),
            self.report,
        )
        super().__init__(rows, layout=widgets.Layout(grid_gap="6px", overflow="visible"))

    @property
    def chosen(self) -> list[str]:
        """The formats to write."""
        return [name for name, toggle in self.formats.items() if toggle.value]

    def show(self, lines: list[str]) -> None:
        """Show what was written, or nothing."""
        text = "<br>".join(map(html.escape, lines))
        self.report.value = f'<div class="nbhelpers-report" style="line-height:1.5">{text}</div>' if lines else ""

    def show_running(self, running: bool) -> None:
        """While something runs, nothing else can be started."""
        self._start.disabled = running
