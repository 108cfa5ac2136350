"""Pictures for people."""

import io
from base64 import b64decode

import cv2
import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image

from nbhelpers import plots
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt


def drawn(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.array(Image.open(file).convert("RGB"))


def test_colours_come_round_again():
    assert plots.colour_of(0) == plots.colour_of(7) == "#E69F00" and plots.rgb("#E69F00") == (230, 159, 0)
    assert len(set(plots.PALETTE)) == 7 and "#000000" not in plots.PALETTE


def test_overlay_colours_the_masks_and_leaves_the_photo_alone(photo):
    before, masks = photo.copy(), np.zeros((2, 120, 160), bool)
    masks[0, 20:80, 20:80] = masks[1, 50:110, 50:110] = True
    out = plots.overlay(photo, masks, alpha=1.0)
    assert np.array_equal(photo, before)
    assert tuple(out[30, 30]) == plots.rgb(plots.PALETTE[0])
    assert tuple(out[60, 60]) == plots.rgb(plots.PALETTE[1]), "later masks lie in front"
    assert np.array_equal(out[:18], photo[:18])
    half = plots.overlay(photo, masks[0], alpha=0.5)
    assert half[30, 30] == pytest.approx((photo[30, 30] + np.array(plots.rgb(plots.PALETTE[0]))) / 2, abs=1)
    assert tuple(half[20, 50]) == plots.rgb(plots.PALETTE[0]), "the edge is solid"


def test_a_mask_has_a_colour_that_differs_from_what_it_covers():
    image = np.zeros((90, 160, 3), np.uint8)
    image[:, :80], image[:, 80:] = plots.rgb("#E69F00"), plots.rgb("#0072B2")
    left, right = np.zeros((2, 90, 160), bool)
    left[10:80, 10:70] = right[10:80, 90:150] = True
    on_orange, on_blue = plots.contrasting_colours(image, [left, right])
    assert on_orange == "#0072B2" and on_blue in ("#E69F00", "#D55E00", "#F0E442")
    assert len(set(plots.contrasting_colours(image, [left] * 7))) == 7
    assert plots.contrasting_colours(image, [left] * 8)[7] == on_orange


def test_the_next_colour_differs_from_those_in_use():
    image, nothing = np.zeros((9, 16, 3), np.uint8), np.zeros((9, 16), bool)
    used = []
    for _ in range(7):
        used.append(plots.contrasting_colour(image, nothing, used))
    assert sorted(used) == sorted(plots.PALETTE) and used[0] == plots.PALETTE[0]
    assert plots.contrasting_colour(image, ~nothing, used) == plots.contrasting_colour(image, ~nothing) == "#F0E442"


def test_contours_have_two_tones(photo):
    mask = np.zeros((120, 160), bool)
    mask[20:80, 20:80] = True
    out = plots.overlay(photo, mask, colours=["#0072B2"])
    assert tuple(out[20, 50]) == plots.rgb("#0072B2") and tuple(out[19, 50]) == (255, 255, 255)


def test_masks_of_another_size_are_refused(photo):
    with pytest.raises(NbHelpersError, match="differ in size"):
        plots.overlay(photo, np.zeros((5, 5), bool))
    with pytest.raises(NbHelpersError, match="differ in size"):
        plots.draw(photo, masks=np.zeros((5, 5), bool))


def test_draw_marks_points_box_and_names(photo):
    mask = np.zeros((120, 160), bool)
    mask[35:85, 25:75] = True
    figure = plots.draw(
        photo, masks={"disc": mask}, points=[(50, 60), (120, 20)], labels=[1, 0], box=(20, 30, 80, 90), title="a disc"
    )
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "a disc" and axes.get_legend().get_texts()[0].get_text() == "disc"
    assert [tuple(line.get_xydata()[0]) for line in axes.lines] == [(50, 60)] * 2 + [(120, 20)] * 2
    assert [axes.lines[i].get_marker() for i in (1, 3)] == ["+", "_"]
    assert len(axes.patches) == 2 and axes.get_xlim() == (-0.5, 159.5) and axes.get_ylim() == (119.5, -0.5)
    assert drawn(figure).std() > 20


def test_unequal_points_and_labels_are_refused(photo):
    with pytest.raises(NbHelpersError, match="differ in number"):
        plots.draw(photo, points=[(1, 2)], labels=[1, 0])


def test_a_large_photo_makes_a_small_figure():
    figure = plots.draw(np.zeros((3000, 4500, 3), np.uint8), masks=np.ones((3000, 4500), bool))
    (shown,) = figure.axes[0].images
    assert max(shown.get_array().shape) == plots.LONGEST and figure.axes[0].get_xlim()[1] == 4499.5


def test_the_contour_of_a_small_photo_is_as_fine_as_the_figure(photo):
    mask = np.zeros((120, 160), bool)
    mask[20:80, 20:80] = True
    (shown,) = plots.draw(photo, masks=mask).axes[0].images
    pixels = shown.get_array()
    assert pixels.shape[:2] == (1200, 1600) and shown.get_extent() == [-0.5, 159.5, 119.5, -0.5]
    changed = (pixels != cv2.resize(photo, (1600, 1200), interpolation=cv2.INTER_CUBIC)).any(axis=2)
    rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
    assert [rows[0], rows[-1], columns[0], columns[-1]] == pytest.approx([200, 800, 200, 800], abs=8)


def test_candidates_side_by_side(photo):
    segmenter = FakeSegmenter()
    prediction = segmenter.predict(segmenter.encode(photo), Prompt([(50, 60)]))
    figure = plots.draw_candidates(photo, prediction, point=(50, 60))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Mask 1: IoU 0.90", "Mask 2: IoU 0.60", "Mask 3: IoU 0.95 ★", "Mask 4: IoU 0.70"]


def test_a_grid_leaves_no_empty_frames(photo):
    figure = plots.draw_grid([photo] * 4, ["a", "b"], columns=3)
    assert len(figure.axes) == 6 and not figure.axes[4].axison and figure.axes[1].get_title(loc="left") == "b"
    with pytest.raises(NbHelpersError, match="no image"):
        plots.draw_grid([])


def test_show_displays_one_picture_and_leaves_no_figure_open(photo, monkeypatch):
    import IPython.display
    from matplotlib import pyplot

    seen = []
    monkeypatch.setattr(IPython.display, "display", lambda data, metadata, raw: seen.append((data, metadata)) or raw)
    assert plots.show(photo, title="hello") is None
    ((data, metadata),) = seen
    pixels, about = Image.open(io.BytesIO(b64decode(data["image/jpeg"]))).size, metadata["image/jpeg"]
    assert about["alt"] == "hello" and pixels[0] == pytest.approx(2 * about["width"], abs=2)
    assert pyplot.get_fignums() == []
