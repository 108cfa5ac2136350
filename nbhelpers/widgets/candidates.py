"""What a prompt may mean: its candidate masks as thumbnails, each with a button that takes it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import ipywidgets as widgets
import numpy as np
from jaxtyping import UInt8

from nbhelpers.models.values import Prediction
from nbhelpers.plots import overlay
from nbhelpers.widgets.base import SessionWidget
from nbhelpers.widgets.controls import Row, label
from nbhelpers.widgets.drawing import encode_photo

HEIGHT, MAX_WIDTH = 84, 132  # page pixels of a thumbnail
DIMMED = 0.4  # brightness beside the mask, as a fraction
FINER = 2  # its own pixels for one page pixel, for screens of a high resolution
MARGIN = 0.15  # around all candidates, as a fraction of their box
Current = tuple[UInt8[np.ndarray, "h w 3"], Prediction, int]


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

    def __init__(self, owner: SessionWidget, current: Callable[[], Current | None], empty: str, key: str = ""):
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
    scale = min(HEIGHT / (y1 - y0), MAX_WIDTH / (x1 - x0))
    width, height = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    size = width * FINER, height * FINER
    part = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    pictures = []
    for index in range(len(prediction)):
        mask = prediction.view(index, (x0, y0, x1, y1), size[::-1])
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
