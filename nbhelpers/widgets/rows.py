"""The rows of the click widget, each a view of one side of a session: objects, masks, zoom, files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import ipywidgets as widgets

from nbhelpers.core.files import home
from nbhelpers.plots import colour_of
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.controls import Row, button, label, short_path, space, text_on
from nbhelpers.widgets.stage import Session, Stage

Guard = Callable[[], contextlib.AbstractContextManager]
"""Makes a context in which an action runs, and which shows its errors to the person."""

STEP = 1.5  # zoom factor of one press on a button


class ObjectRow(Row):
    """The objects as buttons in their colours; add, rename, delete."""

    def __init__(self, session: Session, guard: Guard):
        self._session, self._guard, self._shown = session, guard, None
        self._chips = Row()
        self._add = button("Add", "Add an object", self._add_object, icon="plus", width="72px")
        self.name = widgets.Text(
            placeholder="name", tooltip="Name of the active object", layout=widgets.Layout(width="150px", margin="0")
        )
        rename = button("Rename", "Give the active object this name", self._rename, icon="pencil-alt")
        self._delete = button("Delete", "Delete the active object with its prompts", self._remove, icon="trash")
        super().__init__(label("Objects"), self._chips, space(), Row(self.name, rename, self._delete))

    def refresh(self) -> None:
        """Show the session's objects."""
        session = self._session
        if self._shown != (shown := self._to_show()):
            self._shown = shown
            self.name.value = session.active
            self._delete.disabled = len(session.objects) == 1
            self._chips.children = [*map(self._chip, range(len(session.objects)), session.objects), self._add]

    def _to_show(self) -> tuple:
        """All that the buttons depend on."""
        return self._session.objects, self._session.active

    def _chip(self, number: int, name: str) -> widgets.Widget:
        """An object's button; the active one carries a pen."""
        active = name == self._session.active
        tooltip = "Clicks go to this object" if active else "Let clicks go to this object"
        chip = button(name, tooltip, lambda: self._select(name), icon="pen" if active else "", width="auto")
        chip.style.button_color = colour_of(number)
        chip.style.text_color = text_on(colour_of(number))
        chip.style.font_weight = "bold" if active else "normal"
        return chip

    def _select(self, name: str) -> None:
        with self._guard():
            self._session.select(name)

    def _add_object(self) -> None:
        with self._guard():
            self._session.add_object()

    def _rename(self) -> None:
        with self._guard():
            if self.name.value.strip() != self._session.active:
                self._session.rename_object(self._session.active, self.name.value.strip())

    def _remove(self) -> None:
        with self._guard():
            self._session.remove_object(self._session.active)


class CandidateRow(Row):
    """The candidate masks of the active object as buttons with the IoU that the model predicts for each."""

    def __init__(self, session: ClickSession, guard: Guard):
        self._session, self._guard, self._shown = session, guard, ()
        self._buttons = Row()
        super().__init__(label("Masks"), self._buttons)

    def refresh(self) -> None:
        """Show the candidates of the active object's prompts."""
        prediction, chosen = self._session.prediction(), self._session.candidate()
        shown = None if prediction is None else (tuple(prediction.scores.tolist()), prediction.choice, chosen)
        if shown == self._shown:
            return
        self._shown = shown
        text, made = "After a click the segmenter offers several masks here, each with the IoU it predicts.", []
        for index, score in enumerate(() if prediction is None else prediction.scores):
            best = index == prediction.choice
            text = "predicted IoU; the star is the model's choice"
            made.append(
                button(
                    f"Mask {index + 1}: {score:.2f}",
                    f"Predicted IoU {score:.3f}" + ("; the model's choice" if best else ""),
                    lambda index=index: self._choose(index),
                    icon="star" if best else "",
                    width="136px",
                )
            )
            made[-1].button_style = "primary" if index == chosen else ""
        hint = widgets.Label(text, layout=widgets.Layout(margin="0 0 0 6px" if made else "0"))
        self._buttons.children = [*made, hint]

    def _choose(self, index: int) -> None:
        with self._guard():
            self._session.choose_candidate(index)


class ViewRow(Row):
    """Zoom, pan and the opacity of the masks."""

    def __init__(self, stage: Stage, guard: Guard):
        self._stage, self._guard, self._following = stage, guard, False
        low, high = math.log2(stage.view.min_scale), math.log2(stage.view.max_scale)
        self.zoom = widgets.FloatLogSlider(
            value=stage.view.scale, base=2, min=low, max=high, step=(high - low) / 200, readout_format=".0%"
        )
        self.zoom.tooltip = "Zoom: screen pixels for one pixel of the photo"
        self.zoom.observe(self._slid, "value")
        self.opacity = widgets.FloatSlider(value=stage.opacity, min=0, max=1, step=0.05, readout_format=".0%")
        self.opacity.tooltip = "How much the masks cover the photo"
        self.opacity.observe(self._set_opacity, "value")
        for slider in (self.zoom, self.opacity):
            slider.layout = widgets.Layout(width="230px", margin="0")
        arrows = (("left", 1, 0), ("right", -1, 0), ("up", 0, 1), ("down", 0, -1))
        pan = [
            button("", f"Show more of the {side}", lambda x=x, y=y: self.pan(x, y), icon=f"arrow-{side}")
            for side, x, y in arrows
        ]
        near = [
            button("", "Farther", lambda: self.closer(1 / STEP), icon="search-minus"),
            button("", "Closer", lambda: self.closer(STEP), icon="search-plus"),
            button("", "The whole photo", lambda: self.closer(0), icon="expand"),
        ]
        # Rows within the row: what belongs together wraps together.
        super().__init__(Row(label("Zoom"), *near, self.zoom), Row(*pan), space(), Row(label("Opacity"), self.opacity))

    def refresh(self) -> None:
        """Bring the slider to the view's zoom."""
        self._following = True
        self.zoom.value = self._stage.view.scale
        self._following = False

    def closer(self, factor: float) -> None:
        """Zoom about the middle; 0 shows the whole photo."""
        with self._guard():
            self._stage.look(self._stage.view.zoomed(factor))

    def pan(self, across: int, down: int) -> None:
        """Move the photo by quarters of the canvas."""
        with self._guard():
            height, width = self._stage.view.canvas
            self._stage.look(self._stage.view.panned(across * width / 4, down * height / 4))

    def _slid(self, change) -> None:
        if not self._following:
            with self._guard():
                self._stage.look(self._stage.view.zoomed(change["new"] / self._stage.view.scale), moving=True)

    def _set_opacity(self, change) -> None:
        with self._guard():
            self._stage.opacity = change["new"]
            self._stage.paint(photo=False)


class SaveRow(Row):
    """A folder, and a button that writes everything into it.

    Args:
        session: what is saved.
        guard: see `Guard`.
        tell: shows a sentence to the person.
    """

    def __init__(self, session: ClickSession, guard: Guard, tell: Callable[[str], object]):
        self._session, self._guard, self._tell = session, guard, tell
        self.folder = widgets.Text(
            short_path(home() / "outputs" / session.name),
            placeholder="folder",
            tooltip="Folder for the files; made if missing",
            layout=widgets.Layout(width="380px", margin="0"),
        )
        save = button("Save", "Write masks, cut-outs, COCO json and prompt log", self._save, icon="save")
        super().__init__(label("Save to"), self.folder, save)

    def _save(self) -> None:
        with self._guard():
            self._tell("Saving ...")
            paths = self._session.export(self.folder.value)
            self._tell(f"Saved in {paths[0].parent}: " + ", ".join(path.name for path in paths))
