"""The click widget: a photo to click on, and every step also as a button or slider."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit
from nbhelpers.core.prompts import EXCLUDE, INCLUDE, ObjectPrompts
from nbhelpers.plots import PALETTE, THUMBNAIL, contrasting_colour
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.base import CandidateRow, Current, HistoryRow, ObjectRow, Panels, SessionWidget
from nbhelpers.widgets.controls import Row, folder_field, label, space
from nbhelpers.widgets.drawing import still_of
from nbhelpers.widgets.stage import ModeRow, Pointer, Stage, ZoomRow

ENCODING = "Encoding the photo ..."
SIGNS = {INCLUDE: "+", EXCLUDE: "\N{MINUS SIGN}"}


class ClickStage(Stage[ClickSession]):
    """Paints the photo of a `ClickSession`, with the masks of all objects and the prompts of the active one."""

    owner: ClickWidget

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the photo."""
        return self.session.size

    @property
    def subject(self) -> object:
        """What a gesture is about: the object and its points."""
        return self.session.active, self.prompts().points

    def prompts(self) -> ObjectPrompts:
        """The prompts of the active object."""
        return self.session.prompts()

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The photo."""
        return self.session.image

    def masks(self) -> list[tuple[int, bool, Bool[np.ndarray, "vh vw"]]]:
        """The visible parts of the masks; see `Stage.masks`."""
        (x0, y0, x1, y1), window = self.fine.placed()
        shown = []
        for name in self.session.objects:
            current, number = self.owner.current_candidates(name), self.owner.number_of(name)
            if current is not None and number is not None:
                _, prediction, chosen = current
                part = prediction.view(chosen, window, (y1 - y0, x1 - x0))
                shown.append((number, name == self.session.active, part))
        return shown


class ClickWidget(SessionWidget[ClickSession]):
    """Shows a `ClickSession` and turns clicks and buttons into its methods.

    Example:
        >>> session = ClickSession("cat.jpg")
        >>> ClickWidget(session)                 # as the last line of a cell
        >>> session.click(320, 200)              # in another cell: the widget follows

    In every mode the right mouse button (or Shift with the left one) excludes, and the middle one drags the photo.
    While the canvas has the focus (after a click): I, E, B, R, P choose the mode, Z undoes, Y redoes, C clears,
    plus, minus and 0 zoom, arrows pan, Tab leaves.

    A session has one widget: making another closes the first (show one widget twice to see it twice).

    Args:
        session: what is shown.
        width: width of the canvas in pixels, 320 to 1280; narrower pages shrink it.

    Raises:
        NbHelpersError: a width out of range.
    """

    def __init__(self, session: ClickSession, width: int = 1000):
        super().__init__(session, width, "nbhelpers-click")
        self._timing, self._encoded = "", False
        self._colours: dict[str, str] = {}
        self.stage = ClickStage(self, width)
        self.stage.on_ready = self._encode
        self.pointer = Pointer(self.stage)
        self.modes = ModeRow(self, self.pointer)
        self.history = HistoryRow(self, session.clear, "this object")
        empty = "After a click the candidate masks are here, each with its predicted IoU."
        self.objects, self.candidates = ObjectRow(self), CandidateRow(self, self.current_candidates, empty)
        self.zoom, self.files, self.exact = ZoomRow(self, self.stage), SaveRow(self), ExactPanel(self)
        self.keys_of |= {"Tab": self.stage.screen.blur, "Escape": self.stage.screen.blur}
        steps = Row(self.modes, space(), self.history)
        panels = Panels(**{"Points and box by number": self.exact})
        picture = self.stage.screen
        self.show_rows([steps, self.objects, picture, self.status, self.candidates, self.zoom, self.files, panels])

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its steps."""
        self.stage.paint(photo=False)
        self.history.refresh(self.session.prompts().is_empty)
        for part in (self.objects, self.candidates, self.exact):
            part.refresh()
        if not self.busy:
            self._show_time()

    def hint(self) -> str:
        """What a press on the photo means."""
        return self.modes.hint()

    def detail(self) -> str:
        """How long the last prediction took."""
        return self._timing

    def still(self) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
        """The photo with its masks and markers."""
        objects = [name for name in self.session.objects if self.session.prediction(name) is not None]
        masks = f"the masks of {', '.join(objects)}" if objects else "no mask yet"
        return still_of(self.stage), f"The click widget: {self.session.name} with {masks}"

    def number_of(self, name: str) -> int | None:
        """The number of the colour of an object with a mask: it contrasts with what the mask covered at first."""
        objects, session, current = self.session.objects, self.session, self.current_candidates(name)
        masked = {each for each in objects if session.prediction(each) is not None}
        self._colours = {each: own for each, own in self._colours.items() if each in masked}
        if current is None:
            return None
        if name not in self._colours:
            (image, prediction, chosen), (height, width) = current, session.size
            small = fit(image, THUMBNAIL)
            mask = prediction.view(chosen, (0, 0, width, height), small.shape[:2])
            self._colours[name] = contrasting_colour(small, mask, [*self._colours.values()])
        return PALETTE.index(self._colours[name]) + len(PALETTE) * objects.index(name)  # no two objects have one number

    def close_parts(self) -> None:
        """Close the canvas."""
        self.stage.close()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Run an action of the user and measure its time; see `SessionWidget.guard`."""
        started, before = time.perf_counter(), self.session.seconds
        with super().guard():
            yield
            if self.session.seconds != before:
                self._show_time(time.perf_counter() - started)

    def current_candidates(self, name: str | None = None) -> Current | None:
        """What `CandidateRow` shows of an object (the active one)."""
        prediction, chosen = self.session.prediction(name), self.session.candidate(name)
        return None if prediction is None or chosen is None else (self.session.image, prediction, chosen)

    def _encode(self) -> None:
        """A page shows the photo: let the segmenter encode it while the user aims."""
        if not self._encoded:
            self.show_message(ENCODING)
            with self.guard():
                self.session.encode()
                self._encoded = True

    def _show_time(self, total: float | None = None) -> None:
        if self.session.seconds is not None:
            segmenter = f"segmenter {1000 * self.session.seconds:.0f} ms"
            self._timing = segmenter if total is None else f"Last click {1000 * total:.0f} ms ({segmenter})"


class SaveRow(Row):
    """A folder, and a button that writes everything into it."""

    def __init__(self, owner: ClickWidget):
        self._owner = owner
        self.folder = folder_field(owner.session.name)
        save = owner.button("Save", "Write masks, cut-outs, COCO json and prompt log", self._save, icon="save")
        super().__init__(label("Save to"), self.folder, save)

    def _save(self) -> None:
        self._owner.show_message("Saving ...")
        paths = self._owner.session.export(self.folder.value)
        self._owner.note(f"Saved in {paths[0].parent}: " + ", ".join(path.name for path in paths))


class ExactPanel(widgets.VBox):
    """The points and the box of the active object by number, for exact places and for users without a mouse."""

    def __init__(self, owner: ClickWidget):
        self._session = session = owner.session
        height, width = session.size
        self.points = widgets.Dropdown(layout=widgets.Layout(width="220px", margin="0"))
        self.points.observe(self._picked, "index")
        self.place = [_number(name, side) for name, side in (("x", width), ("y", height))]
        self.place[0].value, self.place[1].value = width // 2, height // 2
        sides = zip(("x0", "y0", "x1", "y1"), (width, height) * 2, strict=True)
        self.box = [_number(name, side) for name, side in sides]
        button = owner.button
        rows = (
            Row(
                label("Point"),
                *self.place,
                button("Include", "Add a point on the object", lambda: self._add(INCLUDE), icon="plus"),
                button("Exclude", "Add a point beside the object", lambda: self._add(EXCLUDE), icon="minus"),
            ),
            Row(
                label("Points"),
                self.points,
                button("Move", "Move the chosen point to x, y", self._move, icon="arrows-alt"),
                button("Remove", "Remove the chosen point", lambda: session.remove(self._chosen()), icon="times"),
            ),
            Row(
                label("Box"),
                *self.box,
                button("Set box", "Set the box of the object", self._set_box, icon="check"),
                button("No box", "Remove the box", lambda: session.set_box(None), icon="times"),
            ),
        )
        super().__init__(rows, layout=widgets.Layout(grid_gap="6px"))

    def refresh(self) -> None:
        """Show the points and the box of the active object."""
        prompts = self._session.prompts()
        pairs = zip(prompts.points, prompts.labels, strict=True)
        options = tuple(f"{i + 1}:  {SIGNS[sign]}  {x:g}, {y:g}" for i, ((x, y), sign) in enumerate(pairs))
        if options != self.points.options:
            self.points.options = options
            self.points.index = len(options) - 1 if options else None
        if prompts.box is not None:
            for field, side in zip(self.box, prompts.box, strict=True):
                field.value = side

    def _picked(self, change) -> None:
        points = self._session.prompts().points
        if change["new"] is not None and change["new"] < len(points):
            for field, value in zip(self.place, points[change["new"]], strict=True):
                field.value = value

    def _chosen(self) -> int:
        if self.points.index is None:
            raise NbHelpersError("the active object has no point yet", do="add one first")
        return self.points.index

    def _add(self, sign: int) -> None:
        self._session.click(self.place[0].value, self.place[1].value, sign)

    def _move(self) -> None:
        self._session.move(self._chosen(), self.place[0].value, self.place[1].value)

    def _set_box(self) -> None:
        self._session.set_box([field.value for field in self.box])


def _number(name: str, side: int) -> widgets.FloatText:
    """A field for a coordinate."""
    return widgets.FloatText(
        description=name,
        tooltip=f"pixels of the photo, 0 to {side - 1}",
        layout=widgets.Layout(width="110px", margin="0"),
        style={"description_width": "20px"},
    )
