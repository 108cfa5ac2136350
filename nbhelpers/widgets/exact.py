"""Points and boxes by number, for exact places and for people who use no mouse."""

from __future__ import annotations

import ipywidgets as widgets

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import EXCLUDE, INCLUDE
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.controls import Row, button, label
from nbhelpers.widgets.rows import Guard

SIGNS = {INCLUDE: "+", EXCLUDE: "\N{MINUS SIGN}"}


class ExactPanel(widgets.Accordion):
    """A folded panel that lists the active object's points and takes coordinates.

    Args:
        session: what it shows and changes.
        guard: see `Guard`.
    """

    def __init__(self, session: ClickSession, guard: Guard):
        self._session, self._guard = session, guard
        height, width = session.size
        self._points = widgets.Dropdown(layout=widgets.Layout(width="220px", margin="0"))
        self._points.observe(self._picked, "index")
        self._place = [self._number(name, side) for name, side in (("x", width), ("y", height))]
        self._box = [
            self._number(name, side) for name, side in zip(("x0", "y0", "x1", "y1"), (width, height) * 2, strict=True)
        ]
        self._place[0].value, self._place[1].value = width // 2, height // 2
        rows = (
            Row(
                label("Point"),
                *self._place,
                button("Include", "Add a point that belongs to the object", lambda: self._add(INCLUDE), icon="plus"),
                button("Exclude", "Add a point that does not belong to it", lambda: self._add(EXCLUDE), icon="minus"),
            ),
            Row(
                label("Points"),
                self._points,
                button("Move", "Move the chosen point to x, y", self._move, icon="arrows-alt"),
                button("Remove", "Remove the chosen point", self._remove, icon="times"),
            ),
            Row(
                label("Box"),
                *self._box,
                button("Set box", "Give the object this box", self._set_box, icon="check"),
                button("No box", "Take the box away", self._no_box, icon="times"),
            ),
        )
        content = widgets.VBox(rows, layout=widgets.Layout(grid_gap="6px"))
        super().__init__(children=[content], titles=["Points and box by number"], selected_index=None)

    def refresh(self) -> None:
        """Show the points and the box of the active object."""
        prompts = self._session.prompts()
        pairs = zip(prompts.points, prompts.labels, strict=True)
        options = tuple(f"{i + 1}:  {SIGNS[sign]}  {x:g}, {y:g}" for i, ((x, y), sign) in enumerate(pairs))
        if options != self._points.options:
            self._points.options = options
            self._points.index = len(options) - 1 if options else None
        if prompts.box is not None:
            for field, side in zip(self._box, prompts.box, strict=True):
                field.value = side

    def _number(self, name: str, side: int) -> widgets.FloatText:
        return widgets.FloatText(
            description=name,
            tooltip=f"pixels of the photo, 0 to {side - 1}",
            layout=widgets.Layout(width="110px", margin="0"),
            style={"description_width": "20px"},
        )

    def _picked(self, change) -> None:
        if change["new"] is not None and change["new"] < len(self._session.prompts().points):
            for field, value in zip(self._place, self._session.prompts().points[change["new"]], strict=True):
                field.value = value

    def _chosen(self) -> int:
        if self._points.index is None:
            raise NbHelpersError("the active object has no point yet", do="add one first")
        return self._points.index

    def _add(self, sign: int) -> None:
        with self._guard():
            self._session.click(self._place[0].value, self._place[1].value, sign)

    def _move(self) -> None:
        with self._guard():
            self._session.move(self._chosen(), self._place[0].value, self._place[1].value)

    def _remove(self) -> None:
        with self._guard():
            self._session.remove(self._chosen())

    def _set_box(self) -> None:
        with self._guard():
            self._session.set_box([field.value for field in self._box])

    def _no_box(self) -> None:
        with self._guard():
            self._session.set_box(None)
