"""What all widgets share: one widget a session, status line, guarded actions, keys, rows of objects and candidates."""

from __future__ import annotations

import contextlib
import html
import logging
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import cv2
import ipywidgets as widgets
import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.values import Prediction
from nbhelpers.plots import colour_of, overlay
from nbhelpers.widgets import controls
from nbhelpers.widgets.canvas import LayeredCanvas
from nbhelpers.widgets.controls import Row, label, space, text_on, watch_page
from nbhelpers.widgets.drawing import encode_photo, still_output

log = logging.getLogger(__name__)

COLAB = "Run this in a cell first: from google.colab import output; output.enable_custom_widget_manager()"
MIN_WIDTH, MAX_WIDTH = 320, 1280  # pixels of a canvas
THUMB_HEIGHT, MAX_THUMB_WIDTH = 84, 132  # page pixels of a candidate's thumbnail
DIMMED = 0.4  # brightness beside the mask, as a fraction
FINER = 2  # a thumbnail's own pixels for one page pixel, for screens of a high resolution
MARGIN = 0.15  # around all candidates, as a fraction of their box
Current = tuple[UInt8[np.ndarray, "h w 3"], Prediction, int]


@runtime_checkable
class Session(Protocol):
    """What widgets need of a session; all sessions of nbhelpers have it."""

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        ...

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        ...

    def undo(self) -> bool:
        """Undo the last step; False when there is none."""
        ...

    def redo(self) -> bool:
        """Redo the last undone step; False when there is none."""
        ...

    def on_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback()`` after each change; returns a function that stops it."""
        ...


@runtime_checkable
class ObjectSession(Session, Protocol):
    """What the rows of objects and candidates need beside."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects, in order of creation."""
        ...

    @property
    def active(self) -> str:
        """The object to which prompts are added."""
        ...

    def select(self, name: str) -> None:
        """Make another object the active one."""
        ...

    def add_object(self) -> str:
        """Add an object, and return its name."""
        ...

    def rename_object(self, old: str, new: str) -> None:
        """Give an object another name."""
        ...

    def remove_object(self, name: str) -> None:
        """Remove an object with its prompts."""
        ...

    def choose_candidate(self, index: int) -> object:
        """Use another of the masks that the prompts of the active object may mean."""
        ...


SessionT_co = TypeVar("SessionT_co", bound=Session, covariant=True)
_shown: weakref.WeakKeyDictionary[Session, SessionWidget] = weakref.WeakKeyDictionary()


class SessionWidget(widgets.VBox, Generic[SessionT_co]):
    """A view of a session: rows of controls, canvases and a status line. It holds no prompt and no mask of its own.

    Example:
        >>> class Counter(SessionWidget):
        ...     def __init__(self, session):
        ...         super().__init__(session, 400, "counter")
        ...         self.number = widgets.Label()
        ...         self.show_rows([self.number, self.button("Undo", "Undo the last step", session.undo)])
        ...
        ...     def refresh(self):                      # called after each change of the session
        ...         self.number.value = str(self.session.count)

    A session has one widget: `show_rows` closes the one that showed it before.

    Args:
        session: what is shown.
        width: of the widget in pixels; narrower pages shrink it.
        css_class: on the page.

    Attributes:
        session: as given.
        status: the status line.
        keys_of: actions by key, as a browser names it (``"z"``, ``"Shift+ArrowLeft"``), for a canvas with the focus.

    Raises:
        NbHelpersError: a width out of range.
    """

    _stop_listening: Callable[[], None] | None = None  # also of a widget that was never finished

    def __init__(self, session: SessionT_co, width: int, css_class: str):
        if not MIN_WIDTH <= width <= MAX_WIDTH:
            raise NbHelpersError(
                "the widget's width is out of range", given=width, expected=f"{MIN_WIDTH} to {MAX_WIDTH} pixels"
            )
        self.session = session
        self.keys_of: dict[str, Callable[[], object]] = {}
        self._depth, self._failed, self._outcome = 0, False, ""
        self._silent: set[widgets.Widget] = set()
        self.status = widgets.HTML(layout=widgets.Layout(margin="0"))
        layout = widgets.Layout(width=f"{width}px", max_width="100%", grid_gap="6px", overflow="visible")
        super().__init__([], layout=layout)
        self.add_class(css_class)
        self.add_class("nbhelpers-widget")

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its changes."""
        raise NotImplementedError

    def hint(self) -> str:
        """The sentence of the status line when there is nothing else to report."""
        return ""

    def detail(self) -> str:
        """What the right end of the status line shows."""
        return ""

    def words(self, message: str) -> str:
        """A message of the session as the widget shows it; widgets for other readers override this."""
        return message

    def still(self) -> tuple[UInt8[np.ndarray, "h w 3"], str] | None:
        """What the widget shows as a picture, and in words; None where that would say nothing."""
        return None

    def number_of(self, name: str) -> int | None:
        """The number whose colour an object has; None while it has none."""
        return None

    def close_parts(self) -> None:
        """Close what else the widget holds; called once, before it leaves the page."""

    def show_rows(self, rows: Sequence[widgets.Widget | LayeredCanvas]) -> None:
        """Put the rows on the page and follow the session; the last step of making a widget.

        Args:
            rows: from top to bottom; canvases take keys.
        """
        screens = [row for row in rows if isinstance(row, LayeredCanvas)]
        for screen in screens:
            screen.widget.on_key_down(self.press_key)
        page = watch_page(lambda ratio: self._fit(screens, ratio))
        shown = [row.widget if isinstance(row, LayeredCanvas) else row for row in rows]
        self.children = shown if page is None else [*shown, page]
        # A session of the same project folder counts as the same: a cell that is run again makes a new one, while
        # the old one might still be tracking into the folder.
        project = getattr(self.session, "project", None)
        for session, widget in list(_shown.items()):
            if session is self.session or (project is not None and getattr(session, "project", None) == project):
                widget.close()
        _shown[self.session] = self
        self._stop_listening = self.session.on_change(self._session_changed)
        self._session_changed()
        self.show_message(_colab_notice())

    _ipython_display_ = None  # of ipywidgets 7, which would keep `_repr_mimebundle_` from being called

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and its still picture for pages without a kernel."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        data, about = {"text/plain": type(self).__name__, "application/vnd.jupyter.widget-view+json": view}, {}
        with self.reporting():
            still = self.still()
            if still is not None:
                picture, about = still_output(*still)
                data |= picture
        return data, about

    def close(self) -> None:
        """Take the widget off its session and off the page; the session keeps everything."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
            if _shown.get(self.session) is self:
                del _shown[self.session]
            self.close_parts()
        super().close()

    def show_message(self, message: str, *, error: bool = False) -> None:
        """Put a sentence into the status line; without one, `hint`."""
        self.status.value = controls.status_html(message or self.hint(), self.detail(), error=error)

    def note(self, message: str) -> None:
        """Put a sentence into the status line that stays when the action in progress has ended."""
        self._outcome = message
        self.show_message(message)

    @property
    def busy(self) -> bool:
        """Whether an action is in progress."""
        return self._depth > 0

    def fail(self, error: BaseException) -> None:
        """Put an error into the status line; ipywidgets itself would only log it."""
        self._failed = True
        if not isinstance(error, (NbHelpersError, KeyboardInterrupt)):
            log.error("an action of %s failed", type(self).__name__, exc_info=error)
        self.show_message(controls.error_sentence(error), error=True)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Put errors inside into the status line and go on; an interrupt is reported and passed on."""
        try:
            yield
        except KeyboardInterrupt as error:
            self.fail(error)
            raise
        except Exception as error:
            self.fail(error)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Run an action of the user; afterwards the status line shows its outcome, or its error."""
        if not self._depth:
            self._failed, self._outcome = False, ""
        self._depth += 1
        try:
            with self.reporting():
                yield
        finally:
            self._depth -= 1
        if not self._failed and not self._depth:
            self.show_message(self._outcome)

    def act(self, action: Callable[[], object]) -> None:
        """Run an action under `guard`."""
        with self.guard():
            action()

    def button(
        self, text: str, tooltip: str, action: Callable[[], object], *, icon: str = "", width: str | None = None
    ) -> widgets.Button:
        """A button whose action runs under `guard`."""
        return controls.button(text, tooltip, lambda: self.act(action), icon=icon, width=width)

    def bind(self, control: Any, action: Callable[[Any], object], trait: str = "value") -> Any:
        """Run ``action(value)`` under `guard` when the user changes a control; returns the control."""

        def changed(change: Mapping[str, Any]) -> None:
            if control not in self._silent:
                self.act(lambda: action(change["new"]))

        control.observe(changed, trait)
        return control

    def show_value(self, control: widgets.Widget, **traits: Any) -> None:
        """Set traits of a control without running its action."""
        self._silent.add(control)
        try:
            for name, value in traits.items():
                setattr(control, name, value)
        finally:
            self._silent.discard(control)

    def press_key(self, key: str, shift: bool = False, control: bool = False, meta: bool = False) -> None:
        """Do what a key means while a canvas has the focus."""
        name = key if len(key) > 1 else key.lower()
        action = self.keys_of.get(f"Shift+{name}" if shift and f"Shift+{name}" in self.keys_of else name)
        if action is not None and (name in "zy" or not (control or meta)):
            action()

    def _fit(self, screens: Sequence[LayeredCanvas], ratio: float) -> None:
        """Draw with the pixels that the page's screen has."""
        with self.reporting():
            for screen in screens:
                screen.fit_ratio(ratio)

    def _session_changed(self) -> None:
        """Show a change of the session; what cannot be shown is reported, and does not stop whoever changed it."""
        with self.reporting():
            self.refresh()
            if not self.busy:
                self.show_message("")


class HistoryRow(Row):
    """Undo, redo and clear.

    Args:
        owner: whose session is changed.
        clear: removes prompts; by default there is no such button.
        scope: what is cleared, for the tooltip.
    """

    def __init__(self, owner: SessionWidget, clear: Callable[[], object] | None = None, scope: str = ""):
        self._session = owner.session
        self.undo = owner.button("Undo", "Undo the last step (Z)", owner.session.undo, icon="undo", width="84px")
        self.redo = owner.button("Redo", "Redo the step (Y)", owner.session.redo, icon="repeat", width="84px")
        buttons = [self.undo, self.redo]
        if clear is not None:
            self.clear = owner.button("Clear", f"Remove the prompts of {scope} (C)", clear, icon="eraser", width="84px")
            owner.keys_of["c"] = lambda: owner.act(clear)
            buttons.append(self.clear)
        undo, redo = (lambda: owner.act(owner.session.undo)), (lambda: owner.act(owner.session.redo))
        owner.keys_of |= {"z": undo, "y": redo, "Shift+z": redo}
        super().__init__(*buttons)

    def refresh(self, is_empty: bool = True) -> None:
        """Enable the buttons that can do something."""
        self.undo.disabled, self.redo.disabled = not self._session.can_undo, not self._session.can_redo
        if hasattr(self, "clear"):
            self.clear.disabled = is_empty


class ObjectRow(Row):
    """The objects as buttons in their colours; add, rename, delete."""

    def __init__(self, owner: SessionWidget[ObjectSession]):
        self.owner, self._session = owner, owner.session
        self._shown: tuple | None = None
        self._chips = Row()
        self.add = owner.button("Add", "Add an object", owner.session.add_object, icon="plus", width="72px")
        self.name = widgets.Text(
            placeholder="name", tooltip="Name of the active object", layout=widgets.Layout(width="150px", margin="0")
        )
        rename = owner.button("Rename", "Give the active object this name", self._rename, icon="pencil")
        self._delete = owner.button("Delete", "Delete the active object with its prompts", self._remove, icon="trash")
        super().__init__(label("Objects"), self._chips, space(), Row(self.name, rename, self._delete))

    def refresh(self) -> None:
        """Show the session's objects."""
        session = self._session
        if self._shown != (shown := self.shown()):
            self._shown = shown
            self.name.value = session.active
            self._delete.disabled = len(session.objects) == 1
            self._chips.children = [*map(self.chip, session.objects), self.add]

    def shown(self) -> tuple:
        """All that the buttons depend on."""
        objects = self._session.objects
        return objects, self._session.active, tuple(map(self.owner.number_of, objects))

    def chip(self, name: str) -> widgets.Widget:
        """An object's button; the active one carries a pen."""
        active = name == self._session.active
        tooltip = "Clicks go to this object" if active else "Let clicks go to this object"
        chip = self.owner.button(
            name, tooltip, lambda: self._session.select(name), icon="pencil" if active else "", width="auto"
        )
        number = self.owner.number_of(name)
        if number is not None:
            chip.style.button_color = colour_of(number)
            chip.style.text_color = text = text_on(colour_of(number))
            black = text == "#000000"
            chip.add_class(f"nbhelpers-{'black' if black else 'white'}-text")  # ipywidgets 7 has no text_color
        chip.style.font_weight = "bold" if active else "normal"
        return chip

    def _rename(self) -> None:
        if self.name.value.strip() != self._session.active:
            self._session.rename_object(self._session.active, self.name.value.strip())

    def _remove(self) -> None:
        self._session.remove_object(self._session.active)


class Panels(widgets.VBox):
    """Buttons that each show or hide a panel below them; Colab does not render `ipywidgets.Accordion`."""

    def __init__(self, **panels: widgets.DOMWidget):
        self.toggles = {
            title: widgets.ToggleButton(
                description=title,
                tooltip=f"Show or hide: {title}",
                icon="caret-right",
                layout=widgets.Layout(width="auto", margin="0"),
            )
            for title in panels
        }
        for title, panel in panels.items():
            panel.layout.display = "none"
            self.toggles[title].observe(lambda change, title=title: self._show(panels[title], change), "value")
        super().__init__([Row(*self.toggles.values()), *panels.values()], layout=widgets.Layout(grid_gap="6px"))

    def _show(self, panel: widgets.DOMWidget, change: Mapping[str, Any]) -> None:
        panel.layout.display = None if change["new"] else "none"
        change["owner"].icon = "caret-down" if change["new"] else "caret-right"


def thumbnails(images: Sequence[bytes], captions: Sequence[str], side: int = 240) -> str:
    """JPEG files side by side as HTML, which wraps where the page is narrow."""
    import base64

    items = []
    for image, caption in zip(images, captions, strict=True):
        text = html.escape(caption)
        items.append(
            f'<figure style="margin: 0; min-width: 0"><img alt="{text}" style="width: 100%" '
            f'src="data:image/jpeg;base64,{base64.b64encode(image).decode()}"><figcaption>{text}</figcaption></figure>'
        )
    columns = f"repeat(auto-fill, minmax(min({side}px, 45%), 1fr))"
    style = f"display: grid; grid-template-columns: {columns}; gap: 8px; line-height: 1.3"
    return f'<div style="{style}">{"".join(items)}</div>'


def _colab_notice() -> str:
    """On Colab allow custom widgets; where that fails, the sentence that says what to run."""
    if "google.colab" not in sys.modules:
        return ""
    try:
        from google.colab import output  # pyright: ignore[reportMissingImports]

        output.enable_custom_widget_manager()
    except Exception:
        log.exception("Colab's widget manager could not be switched on")
        return COLAB
    return ""


class CandidateRow(Row):
    """The candidate masks of the active object side by side; a button under each takes it.

    Args:
        owner: the widget.
        current: returns the image, the candidates and the index of the one in use; None without candidates.
        empty: the sentence in their place.
        key: the key that takes the next one, for the tooltips; it may be empty.

    Attributes:
        buttons: one for each candidate.
    """

    def __init__(
        self, owner: SessionWidget[ObjectSession], current: Callable[[], Current | None], empty: str, key: str = ""
    ):
        self._owner, self._current, self._empty, self._key = owner, current, empty, key
        self._shown: tuple | None = ()
        self.buttons: list[widgets.Button] = []
        self._choices = Row(align_items="flex-end")
        self._choices.layout.flex, self._choices.layout.min_width = "1 1 0", "0"
        super().__init__(label("Masks"), self._choices, wrap=False, align_items="flex-start")

    def refresh(self) -> None:
        """Show the candidates of the active object's prompts."""
        current = self._current()
        shown = None if current is None else (current[1].logits.tobytes(), current[2])
        if shown == self._shown:
            return
        self._shown = shown
        self.buttons, columns = [], []
        if current is None:
            self._choices.children = [widgets.HTML(self._owner.words(self._empty))]
            return
        image, prediction, chosen = current
        for index, thumbnail in enumerate(candidate_pictures(image, prediction)):
            self.buttons.append(self._button(index, prediction, chosen))
            columns.append(widgets.VBox([thumbnail, self.buttons[-1]], layout=widgets.Layout(align_items="center")))
        key = f"; {self._key} takes the next" if self._key else ""
        text = self._owner.words(f"predicted IoU; the star is the model's choice{key}")
        self._choices.children = [*columns, widgets.HTML(text, layout=widgets.Layout(margin="0 0 0 6px"))]

    def _button(self, index: int, prediction: Prediction, chosen: int) -> widgets.Button:
        """The button that takes a candidate."""
        score, best = prediction.scores[index], index == prediction.choice
        tooltip = f"Predicted IoU {score:.3f}" + ("; the model's choice" if best else "")
        button = self._owner.button(
            self._owner.words(f"Mask {index + 1}: {score:.2f}"),
            self._owner.words(tooltip),
            lambda: self._owner.session.choose_candidate(index),
            icon="star" if best else "",
            width="136px",
        )
        button.button_style = "primary" if index == chosen else ""
        return button


def candidate_pictures(image: UInt8[np.ndarray, "h w 3"], prediction: Prediction) -> list[widgets.Image]:
    """Each candidate over the part of the image that all of them cover together."""
    x0, y0, x1, y1 = window_of(prediction)
    scale = min(THUMB_HEIGHT / (y1 - y0), MAX_THUMB_WIDTH / (x1 - x0))
    width, height = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    fine_width, fine_height = width * FINER, height * FINER
    part = cv2.resize(image[y0:y1, x0:x1], (fine_width, fine_height), interpolation=cv2.INTER_AREA)
    pictures = []
    for index in range(len(prediction)):
        mask = prediction.view(index, (x0, y0, x1, y1), (fine_height, fine_width))
        picture = np.where(mask[..., None], part, (part * DIMMED).astype(np.uint8))
        value = encode_photo(overlay(picture, mask, 0.3), preview=True)
        layout = widgets.Layout(width=f"{width}px", height=f"{height}px", object_fit="fill")
        pictures.append(widgets.Image(value=value, format="jpeg", layout=layout))
    return pictures


def window_of(prediction: Prediction) -> tuple[int, int, int, int]:
    """The box of all candidates together and a margin, ``(x0, y0, x1, y1)`` in pixels of the image."""
    (height, width), (rows, columns) = prediction.size, prediction.extent
    covered = (prediction.logits > 0).any(0)
    if not covered.any():
        return 0, 0, width, height
    y, x = np.nonzero(covered)
    box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) * np.tile([width / columns, height / rows], 2)
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
    low, high = np.floor(box[:2] - margin), np.ceil(box[2:] + margin)
    (x0, y0), (x1, y1) = np.maximum(low, 0).astype(int), np.minimum(high, (width, height)).astype(int)
    return int(x0), int(y0), max(int(x1), int(x0) + 1), max(int(y1), int(y0) + 1)
