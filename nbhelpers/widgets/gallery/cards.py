"""A page of photos: each with its mask laid over it, its score, and whether that is the product."""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Callable, Sequence

import cv2
import ipywidgets as widgets
import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, load_image
from nbhelpers.product_matching.report import MatchedPhoto, thumbnail
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.widgets.controls import Row, button
from nbhelpers.widgets.rows import Guard

LONGEST = 320  # pixels of a thumbnail
KEPT = 128  # photos that are kept small
COLOURS = {"found": "#009E73", "failed": "#D55E00"}  # of the frame
GREY = np.full((150, 200, 3), 128, np.uint8)


class Cards(widgets.GridBox):
    """As many cards as fit on a page; a page turned shows other photos on the same cards."""

    def __init__(self, session: ProductSession, guard: Guard, opened: Callable[[int], object], across: int, rows: int):
        self.room = across * rows
        self._session = session
        self._small: OrderedDict[int, np.ndarray] = OrderedDict()
        self.cards = [Card(session, guard, opened, self.small) for _ in range(self.room)]
        columns = f"repeat({across}, minmax(0, 1fr))"
        layout = widgets.Layout(grid_template_columns=columns, grid_gap="10px", width="100%", overflow="visible")
        super().__init__([], layout=layout)

    def show(self, photos: Sequence[int], active: int | None) -> None:
        """Show these photos."""
        used = self.cards[: len(photos)]
        for card, photo in zip(used, photos, strict=True):
            card.show(photo, photo == active)
        if self.children != tuple(used):
            self.children = used

    def small(self, photo: int) -> np.ndarray:
        """A photo, small; read once while it is likely to be looked at again."""
        if photo not in self._small:
            try:
                self._small[photo] = fit(load_image(self._session.photos[photo]), LONGEST)
            except NbHelpersError:
                self._small[photo] = GREY
            while len(self._small) > KEPT:
                self._small.popitem(last=False)
        self._small.move_to_end(photo)
        return self._small[photo]


class Card(widgets.VBox):
    """One photo."""

    def __init__(
        self,
        session: ProductSession,
        guard: Guard,
        opened: Callable[[int], object],
        small: Callable[[int], np.ndarray],
    ):
        self._session, self._guard, self._opened, self._small = session, guard, opened, small
        self.photo, self._drawn = 0, None
        self.picture = widgets.Image(format="jpeg", layout=widgets.Layout(width="100%", object_fit="contain"))
        self.picture.layout.height = "150px"
        self.told = widgets.HTML(layout=widgets.Layout(margin="0 6px"))
        self.yes = button(
            "Yes", "This is the product: take it as a reference", self._confirm, icon="check", width="64px"
        )
        self.no = button("No", "This is not the product", self._reject, icon="times", width="64px")
        more = button("", "All that was considered in this photo", lambda: opened(self.photo), icon="search-plus")
        row = Row(self.yes, self.no, more)
        row.layout.padding = "0 6px 6px 6px"
        layout = widgets.Layout(border="1px solid var(--jp-border-color1, #bbb)", overflow="hidden")
        super().__init__([self.picture, self.told, row], layout=layout)
        self.add_class("nbhelpers-card")

    def show(self, photo: int, active: bool) -> None:
        """Show a photo and what was found in it."""
        self.photo = photo
        result = self._session.result(photo) if self._session.is_done(photo) else None
        colour = COLOURS.get(result.status if result else "", "var(--jp-border-color1, #bbb)")
        self.layout.border = f"{3 if active else 1}px solid {colour}"
        mark = self._session.mark_of(photo, result.best_index) if result and result.detections else ""
        for each, name in ((self.yes, "confirmed"), (self.no, "rejected")):
            each.disabled = result is None or not result.detections
            each.button_style = ("success" if name == "confirmed" else "warning") if mark == name else ""
        name = self._session.photos[photo].name
        self.told.value = (
            '<div style="display:flex;justify-content:space-between;gap:8px;line-height:1.6">'
            f'<span style="overflow:hidden;text-overflow:ellipsis;white-space:nowrap" title="{html.escape(name)}">'
            f'{html.escape(name)}</span><b style="white-space:nowrap">{html.escape(_line(result))}</b></div>'
        )
        drawn = (photo, result and [(each.number, each.kept) for each in result.detections if each.kept])
        if drawn != self._drawn:
            self._drawn = drawn
            small = self._small(photo)
            shown = small if result is None or result.error else thumbnail(result, LONGEST, small)
            self.picture.value = jpeg(shown)

    def _confirm(self) -> None:
        with self._guard() as tell:
            tell(say(self._session, self.photo, self._session.result(self.photo).best_index, "confirmed"))

    def _reject(self) -> None:
        with self._guard() as tell:
            tell(say(self._session, self.photo, self._session.result(self.photo).best_index, "rejected"))


def say(session: ProductSession, photo: int, thing: int, what: str) -> str:
    """Confirm or reject a thing, or take that back if it was said before; the outcome as a sentence."""
    if session.mark_of(photo, thing) == what:
        session.unmark(photo, thing)
        return "Taken back."
    if what == "confirmed":
        session.confirm(photo, thing)
        return f"The gallery has {len(session.references)} references now."
    session.reject(photo, thing)
    return "Rejected; what is more like it than like the product is dropped."


def _line(result: MatchedPhoto | None) -> str:
    if result is None:
        return "not searched"
    return "cannot be read" if result.error else f"{result.score:.2f}" + (" absent" if result.absent else "")


def jpeg(image: np.ndarray) -> bytes:
    """A picture as JPEG, for an ``Image`` widget."""
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
