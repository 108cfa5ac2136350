"""One photo, larger, and every thing that was considered in it with the reason why it was kept or dropped."""

from __future__ import annotations

import html

import ipywidgets as widgets
import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, load_image
from nbhelpers.product_matching.report import MatchedPhoto, detection_crop, thumbnail
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.widgets.controls import Row, button
from nbhelpers.widgets.gallery.cards import jpeg, say
from nbhelpers.widgets.rows import Guard

LONGEST = 760
THING = 88
MOST = 8  # things with a row of their own


class DetailPanel(widgets.VBox):
    """The photo that was opened, or nothing; ``photo`` is its index."""

    def __init__(self, session: ProductSession, guard: Guard):
        self._session, self._guard = session, guard
        self.photo: int | None = None
        self._drawn: tuple | None = None
        self.picture = widgets.Image(format="jpeg", layout=widgets.Layout(max_width="100%", margin="0 auto"))
        self.title = widgets.HTML()
        self.rows: list[ThingRow] = []
        super().__init__([], layout=widgets.Layout(width="100%", grid_gap="6px", overflow="visible"))
        self.add_class("nbhelpers-detail")

    def refresh(self) -> None:
        """Show the photo as it is judged now."""
        if self.photo is None or not self._session.is_done(self.photo):
            self.children, self._drawn = (), None
            return
        result = self._session.result(self.photo)
        said = [self._session.mark_of(self.photo, number) for number in range(min(MOST, len(result.detections)))]
        drawn = self.photo, [(each.number, each.decision, round(each.score, 3)) for each in result.detections], said
        if drawn == self._drawn:
            return
        self._drawn = drawn
        name, notes = html.escape(result.photo.name), html.escape("; ".join(result.notes))
        told = html.escape(result.error) or f"threshold {result.threshold:.2f} ({result.threshold_from})"
        self.title.value = f"<b>{name}</b>: {told}. {notes}"
        try:
            small = fit(load_image(result.photo), LONGEST)
        except NbHelpersError:
            self.children = (self.title,)
            return
        self.picture.value = jpeg(small if result.error else thumbnail(result, LONGEST, small))
        self.rows = [
            ThingRow(self._session, self._guard, self.photo, number, result, small)
            for number in range(min(MOST, len(result.detections)))
        ]
        self.children = (self.title, self.picture, *self.rows)


class ThingRow(Row):
    """One thing: its picture, score, verdict, the reason, and what a person says."""

    def __init__(
        self,
        session: ProductSession,
        guard: Guard,
        photo: int,
        number: int,
        result: MatchedPhoto,
        small: np.ndarray,
    ):
        self._session, self._guard, self._photo, self._number = session, guard, photo, number
        found = result.detections[number]
        picture = widgets.Image(value=jpeg(detection_crop(small, found, THING)), format="jpeg")
        picture.layout = widgets.Layout(width=f"{THING}px", height="64px", object_fit="contain", flex="0 0 auto")
        parts = ", ".join(f"{name} {value:.2f}" for name, value in found.parts.items())
        told = widgets.HTML(
            f'<div style="line-height:1.4"><b>{found.score:.2f} {html.escape(found.decision)}</b>: '
            f'{html.escape(found.why)}<br><span style="color:var(--jp-ui-font-color2, inherit)">{html.escape(parts)}'
            "</span></div>",
            layout=widgets.Layout(flex="1 1 320px", margin="0 8px"),
        )
        self.yes = button("Yes", "This is the product", lambda: self._say("confirmed"), icon="check", width="64px")
        self.no = button("No", "This is not the product", lambda: self._say("rejected"), icon="times", width="64px")
        said = session.mark_of(photo, number)
        self.yes.button_style = "success" if said == "confirmed" else ""
        self.no.button_style = "warning" if said == "rejected" else ""
        super().__init__(picture, told, self.yes, self.no)
        self.layout.border_top = "1px solid var(--jp-border-color2, #ccc)"
        self.layout.padding = "4px 0 0 0"

    def _say(self, what: str) -> None:
        with self._guard() as tell:
            tell(say(self._session, self._photo, self._number, what))
