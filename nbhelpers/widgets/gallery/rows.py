"""The rows above the photos: what the product looks like, and how like it a match must be."""

from __future__ import annotations

import io
from collections.abc import Callable

import ipywidgets as widgets

from nbhelpers.product_matching.session import ProductSession
from nbhelpers.segment import ClickSession
from nbhelpers.widgets.click import ClickWidget
from nbhelpers.widgets.controls import Row, button, label
from nbhelpers.widgets.rows import Guard

CLICKED = 640  # pixels, the width of the photo that is clicked


class ReferenceRow(widgets.VBox):
    """The references as pictures, and a click widget to show one more."""

    def __init__(self, session: ProductSession, guard: Guard, opened: Callable[[], int | None]):
        self._session, self._guard, self._opened = session, guard, opened
        self._drawn: list[int] = []
        self._pictures = Row()
        self._add = button(
            "Show it", "Click the product on the opened photo, else on the first", self._start, icon="plus"
        )
        self.take = button("Take it", "Take what is marked as a reference", self._take, icon="check")
        self._leave = button("Leave", "Close without taking it", self._stop, icon="times")
        self.clicks: ClickSession | None = None
        self._stage = widgets.VBox(layout=widgets.Layout(overflow="visible", grid_gap="6px"))
        layout = widgets.Layout(overflow="visible", grid_gap="6px")
        super().__init__([Row(label("Product"), self._pictures, self._add), self._stage], layout=layout)

    def refresh(self) -> None:
        """Show the session's references."""
        now = [id(each) for each in self._session.references]
        if now != self._drawn:
            self._drawn = now
            self._pictures.children = [self._picture(index) for index in range(len(now))]

    def close(self) -> None:
        """Close the click widget too, if one is open."""
        self._stop()
        super().close()

    def _picture(self, index: int) -> widgets.Widget:
        from PIL import Image

        reference, file = self._session.references[index], io.BytesIO()
        Image.fromarray(reference.picture).save(file, "PNG")
        shown = widgets.Image(value=file.getvalue(), format="png")
        shown.layout = widgets.Layout(height="72px", width="auto", max_width="120px", object_fit="contain")
        tooltip = f"Take this reference out ({reference.photo}, {reference.how})"
        out = button("", tooltip, lambda: self._remove(index), icon="trash")
        out.disabled = len(self._session.references) == 1
        return widgets.HBox([shown, out], layout=widgets.Layout(align_items="flex-end", overflow="visible"))

    def _remove(self, index: int) -> None:
        with self._guard():
            self._session.remove_reference(index)

    def _start(self) -> None:
        with self._guard():
            photo = self._opened() or 0
            self.clicks = ClickSession(self._session.photos[photo], self._session.segmenter)
            self._photo = self._session.photos[photo]
            widget = ClickWidget(self.clicks, width=CLICKED)
            self._stage.children = (widget, Row(label(""), self.take, self._leave))

    def _take(self) -> None:
        with self._guard() as tell:
            self._session.add_reference(self._photo, mask=self.clicks.mask())
            self._stop()
            tell("Taken. Search looks through photos that were not searched yet.")

    def _stop(self) -> None:
        for child in self._stage.children:
            child.close()
        self._stage.children = ()
        self.clicks = None
        self.take = button("Take it", "Take what is marked as a reference", self._take, icon="check")
        self._leave = button("Leave", "Close without taking it", self._stop, icon="times")


class ThresholdRow(widgets.VBox):
    """The score histogram and the threshold in it."""

    def __init__(self, session: ProductSession, guard: Guard):
        self._session, self._guard, self._following = session, guard, False
        self.slider = widgets.FloatSlider(
            value=session.threshold, min=0, max=1, step=0.01, readout_format=".2f", continuous_update=False
        )
        self.slider.layout = widgets.Layout(width="320px", margin="0")
        self.slider.tooltip = "The score that a match needs"
        self.slider.observe(self._slid, "value")
        self.calibrated = button(
            "Calibrated", "The threshold from this session's own scores", self._reset, icon="magic"
        )
        self.calibrated.layout.width = "120px"
        self._histogram = widgets.HTML(layout=widgets.Layout(margin="0"))
        layout = widgets.Layout(overflow="visible", grid_gap="4px")
        super().__init__([self._histogram, Row(label("Threshold"), self.slider, self.calibrated)], layout=layout)

    def refresh(self) -> None:
        """Show the scores and the threshold as they are now."""
        session = self._session
        self._following = True
        self.slider.value = min(max(session.threshold, 0), 1)
        self._following = False
        self.calibrated.disabled = session.threshold_from != "person"
        if session.results:
            self._histogram.value = session.report.histogram_svg()

    def _slid(self, change) -> None:
        if not self._following:
            with self._guard():
                self._session.set_threshold(float(change["new"]))

    def _reset(self) -> None:
        with self._guard():
            self._session.set_threshold(None)
