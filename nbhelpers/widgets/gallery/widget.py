"""The gallery widget: what was found in each photo, to be confirmed, rejected and looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.widgets.controls import Row, button, choice, colab_notice, label, space, status_html
from nbhelpers.widgets.gallery.cards import Cards
from nbhelpers.widgets.gallery.detail import DetailPanel
from nbhelpers.widgets.gallery.rows import ReferenceRow, ThresholdRow
from nbhelpers.widgets.listening import Listening

SHOWN = (
    ("all", "", "All photos"),
    ("found", "", "Photos in which the product was found"),
    ("absent", "", "Photos in which it was not found"),
    ("doubtful", "", "Photos with something close to the threshold, the closest first"),
)
NEAR = 0.1  # of the threshold: a score so near to it is worth a look
READY = "Yes and No under a photo tell whether its best match is the product; all photos are judged again at once."


class GalleryWidget(Listening, widgets.VBox):
    """Shows a `ProductSession` and turns buttons into its methods; holds no state of its own.

    Example:
        >>> session = ProductSession("shelf/")
        >>> session.add_reference("shelf/1.jpg", point=(250, 300))
        >>> GalleryWidget(session)               # as the last line of a cell
        >>> session.search()                     # or its Search button: the widget follows

    A session has one widget: making another closes the first.

    Args:
        session: what to show.
        across: photos in a row.
        rows: rows on a page.

    Raises:
        NbHelpersError: a number of photos out of range.
    """

    def __init__(self, session: ProductSession, across: int = 4, rows: int = 3):
        if not (1 <= across <= 8 and 1 <= rows <= 12):
            raise NbHelpersError(
                "the widget's size is out of range", given=f"{across} x {rows}", expected="1 to 8 across, 1 to 12 rows"
            )
        self.session = session
        self._busy, self._note, self._page = False, "", 0
        self.cards = Cards(session, self._guard, self.look_at, across, rows)
        self.detail = DetailPanel(session, self._guard)
        self.references = ReferenceRow(session, self._guard, lambda: self.detail.photo)
        self.threshold = ThresholdRow(session, self._guard)
        self._search = button("Search", "Search the photos that were not searched yet", self._find, icon="search")
        self._progress = widgets.IntProgress(0, 0, len(session.photos), layout=widgets.Layout(width="180px"))
        self._choice = choice(SHOWN, self._show_kind, width="104px")
        self._back = button("", "The photos before", lambda: self._turn(-1), icon="chevron-left")
        self._on = button("", "The next photos", lambda: self._turn(1), icon="chevron-right")
        self._count = widgets.Label(layout=widgets.Layout(margin="0 6px"))
        self._status = widgets.HTML(layout=widgets.Layout(margin="0"))
        bar = Row(label("Photos"), self._choice, space(), self._back, self._count, self._on)
        work = Row(label("Work"), self._search, self._progress)
        layout = widgets.Layout(width="1000px", max_width="100%", grid_gap="8px", overflow="visible")
        children = [self.references, work, self.threshold, bar, self._status, self.cards, self.detail]
        super().__init__(children, layout=layout)
        self.add_class("nbhelpers-gallery")
        self._listen()
        self.refresh()
        self._say(colab_notice())

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its changes."""
        session = self.session
        self._search.disabled = not session.references
        self._progress.value = len(session.searched) + len(session.problems)
        indices = self.chosen()
        pages = max(1, -(-len(indices) // self.cards.room))
        self._page = min(self._page, pages - 1)
        start = self._page * self.cards.room
        self.cards.show(indices[start : start + self.cards.room], self.detail.photo)
        last = min(start + self.cards.room, len(indices))
        self._count.value = f"{start + 1} to {last} of {len(indices)}" if indices else "none"
        self._back.disabled, self._on.disabled = self._page == 0, self._page >= pages - 1
        for part in (self.references, self.threshold, self.detail):
            part.refresh()
        if not self._busy:
            self._say("")

    def _close_parts(self) -> None:
        self.references.close()

    def chosen(self) -> list[int]:
        """Indices of the photos of the chosen kind."""
        session, kind = self.session, self._choice.value
        known = {index: session.result(index) for index in range(len(session.photos)) if session.is_done(index)}
        if kind == "all":
            return list(range(len(session.photos)))
        if kind != "doubtful":
            return [index for index, result in known.items() if result.status == kind]
        gaps = {
            index: min(
                (abs(each.score - session.threshold) for each in result.detections if each.decision != "duplicate"),
                default=1.0,
            )
            for index, result in known.items()
        }
        return sorted((index for index, gap in gaps.items() if gap < NEAR), key=lambda index: gaps[index])

    def look_at(self, photo: int) -> None:
        """Show one photo with all that was considered in it."""
        with self.watched():
            self.detail.photo = photo
            self.refresh()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[Callable[[str], Any]]:
        """Run an action; afterwards the status line tells its outcome, or what went wrong."""
        self._busy, self._failed, self._note = True, False, ""
        try:
            with self.watched():
                yield self._tell
        finally:
            self._busy = False
        if not self._failed:
            self._say(self._note)

    def _find(self) -> None:
        with self._guard():
            self._say("Searching ...")
            self._search.disabled = True
            try:
                self.session.search(on_photo=lambda _: setattr(self._progress, "value", self._progress.value + 1))
            finally:
                self._search.disabled = False
            if problems := self.session.problems:
                first = self.session.photos[next(iter(problems))].name
                photos = "photo" if len(problems) == 1 else "photos"
                self._tell(f"{len(problems)} {photos} could not be read, the first {first}; the others are done.")

    def _show_kind(self, kind: str) -> None:
        with self.watched():
            self._page = 0
            self.refresh()

    def _turn(self, pages: int) -> None:
        with self.watched():
            self._page += pages
            self.refresh()

    def _tell(self, message: str) -> None:
        self._note = message
        self._say(message)

    def _say(self, message: str, *, error: bool = False) -> None:
        found = sum(result.status == "found" for result in self.session.results)
        done = f"found in {found} of {len(self.session.results)} photos" if self.session.results else ""
        usual = READY if self.session.results else "Show the product, then press Search."
        self._status.value = status_html(message or usual, done, error=error)
