"""The gallery widget: the matches in each photo, to confirm, reject and look at."""

from __future__ import annotations

import html
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, load_image
from nbhelpers.product_matching.report import Detection, MatchedPhoto, detection_crop, result_sheet, thumbnail
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.base import HistoryRow, SessionWidget
from nbhelpers.widgets.click import ClickWidget
from nbhelpers.widgets.controls import Row, choice, label, space
from nbhelpers.widgets.drawing import encode_photo

WIDTH, CLICK_WIDTH = 1000, 640  # pixels: of the widget, and of the photo that is clicked
CARD_SIDE, DETAIL_SIDE, CROP_SIDE = 320, 760, 88  # pixels of pictures
CACHE_SIZE = 128  # small photos
MAX_ROWS = 8  # detections of a photo with a row of their own
NEAR_THRESHOLD = 0.1
BORDER = "var(--jp-border-color1, #bbb)"
STATUS_COLOURS = {"found": "#009E73", "failed": "#D55E00"}  # of a card's border
GREY = np.full((150, 200, 3), 128, np.uint8)
KINDS = (
    ("all", "All photos"),
    ("found", "Photos in which the product was found"),
    ("absent", "Photos in which it was not found"),
    ("doubtful", "Photos with a detection close to the threshold, the closest first"),
)
HINT = "Press Yes or No under a photo to confirm or reject its best match; all photos are scored again at once."
HINT_FIRST = "Add a reference of the product, then press Search."


class GalleryWidget(SessionWidget[ProductSession]):
    """Shows a `ProductSession` and turns buttons into its methods.

    Example:
        >>> session = ProductSession("shelf/")
        >>> session.click(250, 300, view=0)
        >>> GalleryWidget(session)               # as the last line of a cell
        >>> session.search()                     # or its Search button: the widget follows

    A session has one widget: making another closes the first.

    Args:
        session: what is shown.
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
        super().__init__(session, WIDTH, "nbhelpers-gallery")
        self._page = 0
        self.cards = Cards(self, across, rows)
        self.detail_panel = DetailPanel(self)
        self.references, self.threshold, self.history = ReferenceRow(self), ThresholdRow(self), HistoryRow(self)
        self.search_button = self.button(
            "Search", "Search the photos that were not searched yet", self.search, icon="search"
        )
        self.progress = widgets.IntProgress(0, 0, len(session.photos), layout=widgets.Layout(width="180px"))
        self.kind = self.bind(choice(KINDS, "104px"), self._show_kind)
        self.back = self.button("", "The previous photos", lambda: self.turn(-1), icon="chevron-left")
        self.forward = self.button("", "The next photos", lambda: self.turn(1), icon="chevron-right")
        self.count = label("", width="auto", margin="0 6px 0 6px")
        work = Row(label("Work"), self.search_button, self.progress, space(), self.history)
        photos = Row(label("Photos"), self.kind, space(), self.back, self.count, self.forward)
        self.show_rows([self.references, work, self.threshold, photos, self.status, self.cards, self.detail_panel])

    def refresh(self) -> None:
        """Show what the session holds now; called after each of its changes."""
        session, room = self.session, self.cards.room
        self.search_button.disabled = not session.references
        self.progress.value = len(session.searched) + len(session.problems)
        photos = self.photos_of_kind()
        pages = max(1, -(-len(photos) // room))
        self._page = min(self._page, pages - 1)
        start = self._page * room
        last = min(start + room, len(photos))
        self.cards.show(photos[start:last], self.detail_panel.photo)
        self.count.value = f"{start + 1} to {last} of {len(photos)}" if photos else "none"
        self.back.disabled, self.forward.disabled = self._page == 0, self._page >= pages - 1
        for part in (self.references, self.threshold, self.history, self.detail_panel):
            part.refresh()

    def hint(self) -> str:
        """What can be done next."""
        return HINT if self.session.results else HINT_FIRST

    def detail(self) -> str:
        """In how many photos the product was found."""
        results = self.session.results
        found = sum(result.status == "found" for result in results)
        return f"found in {found} of {len(results)} photos" if results else ""

    def still(self) -> tuple[UInt8[np.ndarray, "h w 3"], str] | None:
        """The photos of the page that is shown, with their matches."""
        results = [self.session.result(card.photo) for card in self.cards.children if self.session.is_done(card.photo)]
        if not results:
            return None
        return result_sheet(results, across=4), f"The gallery widget: {len(results)} photos; {self.detail()}"

    def close_parts(self) -> None:
        """Close the click widget, if one is open."""
        self.references.close()

    def photos_of_kind(self) -> list[int]:
        """Indices of the photos of the chosen kind."""
        session, kind = self.session, self.kind.value
        results = {index: session.result(index) for index in range(len(session.photos)) if session.is_done(index)}
        if kind == "all":
            return list(range(len(session.photos)))
        if kind != "doubtful":
            return [index for index, result in results.items() if result.status == kind]
        gaps = {
            index: min(
                (abs(each.score - session.threshold) for each in result.detections if each.decision != "duplicate"),
                default=1.0,
            )
            for index, result in results.items()
        }
        return sorted((index for index, gap in gaps.items() if gap < NEAR_THRESHOLD), key=lambda index: gaps[index])

    def open_photo(self, photo: int) -> None:
        """Show one photo with all its detections."""
        with self.guard():
            self.detail_panel.photo = photo
            self.refresh()

    def search(self) -> None:
        """Search the photos that were not searched yet, with a bar of progress."""
        with self.guard():
            self.show_message("Searching ...")
            self.search_button.disabled = True
            try:
                self.session.search(on_photo=lambda _: setattr(self.progress, "value", self.progress.value + 1))
            finally:
                self.search_button.disabled = False
            if problems := self.session.problems:
                first = self.session.photos[next(iter(problems))].name
                photos = "photo" if len(problems) == 1 else "photos"
                self.note(f"{len(problems)} {photos} could not be read, the first {first}; the others are done.")

    def turn(self, pages: int) -> None:
        """Show another page."""
        with self.guard():
            self._page += pages
            self.refresh()

    def mark(self, photo: int, detection: int, mark: str) -> None:
        """Mark a detection as ``"confirmed"`` or ``"rejected"``, or remove that mark if it has it."""
        session = self.session
        if session.mark_of(photo, detection) == mark:
            session.unmark(photo, detection)
            self.note("Mark removed.")
        elif mark == "confirmed":
            session.confirm(photo, detection)
            self.note(f"The gallery has {len(session.references)} references now.")
        else:
            session.reject(photo, detection)
            self.note("Rejected; detections more similar to it than to the product are no matches any more.")

    def mark_buttons(self, photo, detection) -> tuple[widgets.Button, widgets.Button]:
        """Yes and No for a detection; photo and detection are functions, called when a button is pressed."""
        return (
            self.button("Yes", "This is the product: use it as a reference",
                        lambda: self.mark(photo(), detection(), "confirmed"), icon="check", width="64px"),
            self.button("No", "This is not the product",
                        lambda: self.mark(photo(), detection(), "rejected"), icon="times", width="64px"),
        )  # fmt: skip

    def click_widget(self, session: ClickSession) -> ClickWidget:
        """The widget in which a new reference is clicked."""
        return ClickWidget(session, width=CLICK_WIDTH)

    def score_text(self, result: MatchedPhoto | None) -> str:
        """The result of a photo in a few words."""
        if result is None:
            return "not searched"
        return "cannot be read" if result.error else f"{result.score:.2f}" + (" absent" if result.absent else "")

    def outcome_text(self, result: MatchedPhoto) -> str:
        """The result of a photo in a sentence."""
        return result.error or f"threshold {result.threshold:.2f} ({result.threshold_from})"

    def detection_texts(self, detection: Detection) -> tuple[str, str, str]:
        """The decision about a detection, the reason, and the terms of its score."""
        parts = ", ".join(f"{name} {value:.2f}" for name, value in detection.parts.items())
        return f"{detection.score:.2f} {detection.decision}", detection.why, parts

    def _show_kind(self, kind: str) -> None:
        self._page = 0
        self.refresh()


class Cards(widgets.GridBox):
    """As many cards as fit on a page; another page shows other photos on the same cards."""

    def __init__(self, owner: GalleryWidget, across: int, rows: int):
        self.room = across * rows
        self._session, self._small = owner.session, OrderedDict()
        self.cards = [Card(owner, self.small) for _ in range(self.room)]
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
        """A photo, reduced; the latest are kept."""
        if photo not in self._small:
            try:
                self._small[photo] = fit(load_image(self._session.photos[photo]), CARD_SIDE)
            except NbHelpersError:
                self._small[photo] = GREY
            while len(self._small) > CACHE_SIZE:
                self._small.popitem(last=False)
        self._small.move_to_end(photo)
        return self._small[photo]


class Card(widgets.VBox):
    """One photo: its matches, its score, and whether its best match is the product."""

    def __init__(self, owner: GalleryWidget, small):
        self._session, self._small = owner.session, small
        self.photo, self._drawn = 0, None
        self.picture = widgets.Image(
            format="jpeg", layout=widgets.Layout(width="100%", height="150px", object_fit="contain")
        )
        self.caption = widgets.HTML(layout=widgets.Layout(margin="0 6px"))
        self.yes, self.no = owner.mark_buttons(lambda: self.photo, lambda: self._session.result(self.photo).best_index)
        more = owner.button(
            "", "All detections in this photo", lambda: owner.open_photo(self.photo), icon="search-plus"
        )
        self._owner = owner
        super().__init__(
            [self.picture, self.caption, Row(self.yes, self.no, more, padding="0 6px 6px 6px")],
            layout=widgets.Layout(border=f"1px solid {BORDER}", overflow="hidden"),
        )
        self.add_class("nbhelpers-card")

    def show(self, photo: int, active: bool) -> None:
        """Show a photo and its matches."""
        self.photo = photo
        result = self._session.result(photo) if self._session.is_done(photo) else None
        colour = STATUS_COLOURS.get(result.status if result else "", BORDER)
        self.layout.border = f"{3 if active else 1}px solid {colour}"
        _show_mark(self, self._session.mark_of(photo, result.best_index) if result and result.detections else "")
        self.yes.disabled = self.no.disabled = result is None or not result.detections
        name = html.escape(self._session.photos[photo].name)
        self.caption.value = (
            '<div style="display:flex;justify-content:space-between;gap:8px;line-height:1.6">'
            f'<span style="overflow:hidden;text-overflow:ellipsis;white-space:nowrap" title="{name}">'
            f'{name}</span><b style="white-space:nowrap">{html.escape(self._owner.score_text(result))}</b></div>'
        )
        drawn = (photo, result and [(each.number, each.kept) for each in result.detections if each.kept])
        if drawn != self._drawn:
            self._drawn = drawn
            small = self._small(photo)
            shown = small if result is None or result.error else thumbnail(result, CARD_SIDE, small)
            self.picture.value = encode_photo(shown, preview=True)


class DetailPanel(widgets.VBox):
    """The photo that was opened, larger, and its detections with the reasons why they are matches or not.

    Attributes:
        photo: its index, or None.
    """

    def __init__(self, owner: GalleryWidget):
        self._owner, self._drawn = owner, None
        self.photo: int | None = None
        self.picture = widgets.Image(format="jpeg", layout=widgets.Layout(max_width="100%", margin="0 auto"))
        self.title = widgets.HTML()
        self.rows: list[DetectionRow] = []
        super().__init__([], layout=widgets.Layout(width="100%", grid_gap="6px", overflow="visible"))
        self.add_class("nbhelpers-detail")

    def refresh(self) -> None:
        """Show the photo with its scores of now."""
        session = self._owner.session
        if self.photo is None or not session.is_done(self.photo):
            self.children, self._drawn = (), None
            return
        result = session.result(self.photo)
        shown = range(min(MAX_ROWS, len(result.detections)))
        marks = [session.mark_of(self.photo, number) for number in shown]
        drawn = self.photo, [(each.number, each.decision, round(each.score, 3)) for each in result.detections], marks
        if drawn == self._drawn:
            return
        self._drawn = drawn
        name, notes = html.escape(result.photo.name), html.escape("; ".join(map(self._owner.words, result.notes)))
        outcome = html.escape(self._owner.outcome_text(result))
        self.title.value = f"<b>{name}</b>: {outcome}. {notes}"
        try:
            small = fit(load_image(result.photo), DETAIL_SIDE)
        except NbHelpersError:
            self.children = (self.title,)
            return
        self.picture.value = encode_photo(
            small if result.error else thumbnail(result, DETAIL_SIDE, small), preview=True
        )
        self.rows = [DetectionRow(self._owner, self.photo, number, result, small) for number in shown]
        self.children = (self.title, self.picture, *self.rows)


class DetectionRow(Row):
    """One detection: its picture, score, decision, the reason, and the user's mark."""

    def __init__(self, owner: GalleryWidget, photo: int, number: int, result: MatchedPhoto, small: np.ndarray):
        detection = result.detections[number]
        crop = encode_photo(detection_crop(small, detection, CROP_SIDE), preview=True)
        picture = widgets.Image(value=crop, format="jpeg")
        picture.layout = widgets.Layout(width=f"{CROP_SIDE}px", height="64px", object_fit="contain", flex="0 0 auto")
        decision, why, parts = map(html.escape, owner.detection_texts(detection))
        self.reason = widgets.HTML(
            f'<div style="line-height:1.4"><b>{decision}</b>: {why}'
            f'<br><span style="color:var(--jp-ui-font-color2, inherit)">{parts}</span></div>',
            layout=widgets.Layout(flex="1 1 320px", margin="0 8px"),
        )
        self.yes, self.no = owner.mark_buttons(lambda: photo, lambda: number)
        _show_mark(self, owner.session.mark_of(photo, number))
        border = "1px solid var(--jp-border-color2, #ccc)"
        super().__init__(picture, self.reason, self.yes, self.no, border_top=border, padding="4px 0 0 0")


class ReferenceRow(widgets.VBox):
    """The references as pictures, and a click widget to add one more."""

    def __init__(self, owner: GalleryWidget):
        self._owner, self._session = owner, owner.session
        self._drawn: list[int] = []
        self.pictures = Row()
        self.add = owner.button(
            "Add", "Click the product on the opened photo, else on the first", self.start, icon="plus"
        )
        self.clicks: ClickSession | None = None
        self.clicking = widgets.VBox(layout=widgets.Layout(overflow="visible", grid_gap="6px"))
        layout = widgets.Layout(overflow="visible", grid_gap="6px")
        super().__init__([Row(label("Product"), self.pictures, self.add), self.clicking], layout=layout)

    def refresh(self) -> None:
        """Show the session's references."""
        now = [id(each) for each in self._session.references]
        if now != self._drawn:
            self._drawn = now
            self.pictures.children = [self._picture(index) for index in range(len(now))]

    def close(self) -> None:
        """Close the click widget too, if one is open."""
        self.stop()
        super().close()

    def start(self) -> None:
        """Open a click widget."""
        self.stop()
        photo = self._session.photos[self._owner.detail_panel.photo or 0]
        self.clicks = clicks = ClickSession(photo, self._session.segmenter)
        button = self._owner.button
        self.take = button(
            "Use mask", "Use the mask as a reference of the product", lambda: self._take(photo, clicks), icon="check",
            width="112px",
        )  # fmt: skip
        self.cancel = button("Cancel", "Close without a new reference", self.stop, icon="times")
        widget = self._owner.click_widget(clicks)
        self.clicking.children = (widget, Row(label(""), self.take, self.cancel))

    def stop(self) -> None:
        """Close the click widget."""
        for child in self.clicking.children:
            child.close()
        self.clicking.children, self.clicks = (), None

    def _picture(self, index: int) -> widgets.Widget:
        from PIL import Image

        reference, file = self._session.references[index], io.BytesIO()
        Image.fromarray(reference.picture).save(file, "PNG")
        shown = widgets.Image(value=file.getvalue(), format="png")
        shown.layout = widgets.Layout(height="72px", width="auto", max_width="120px", object_fit="contain")
        tooltip = f"Remove this reference ({reference.photo}, {reference.how})"
        remove = self._owner.button("", tooltip, lambda: self._session.remove_reference(index), icon="trash")
        remove.disabled = len(self._session.references) == 1
        return Row(shown, remove, wrap=False, align_items="flex-end")

    def _take(self, photo: Path, clicks: ClickSession) -> None:
        self._session.add_reference(photo, mask=clicks.mask())
        self.stop()
        self._owner.note("Reference added. Search covers the photos that were not searched yet.")


class ThresholdRow(widgets.VBox):
    """The score histogram and the threshold in it."""

    def __init__(self, owner: GalleryWidget):
        self._owner, session = owner, owner.session
        self.slider = widgets.FloatSlider(
            value=session.threshold, min=0, max=1, step=0.01, readout_format=".2f", continuous_update=False
        )
        self.slider.layout = widgets.Layout(width="320px", margin="0")
        self.slider.tooltip = "The minimum score of a match"
        owner.bind(self.slider, lambda threshold: session.set_threshold(float(threshold)))
        self.calibrated = owner.button(
            "Calibrated", "Return to the calibrated threshold", lambda: session.set_threshold(None), icon="magic",
            width="120px",
        )  # fmt: skip
        self.histogram = widgets.HTML(layout=widgets.Layout(margin="0"))
        layout = widgets.Layout(overflow="visible", grid_gap="4px")
        super().__init__([self.histogram, Row(label("Threshold"), self.slider, self.calibrated)], layout=layout)

    def refresh(self) -> None:
        """Show the scores and the threshold as they are now."""
        session = self._owner.session
        self._owner.show_value(self.slider, value=min(max(session.threshold, 0), 1))
        self.calibrated.disabled = session.threshold_from != "person"
        if session.results:
            self.histogram.value = session.report.histogram_svg()


def _show_mark(row, mark: str) -> None:
    """Colour the button of the user's mark."""
    row.yes.button_style = "success" if mark == "confirmed" else ""
    row.no.button_style = "warning" if mark == "rejected" else ""
