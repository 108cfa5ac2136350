"""The gallery widget without a browser: what buttons do to the session, and what the session does to the widget."""

import pytest
from fake_products import (
    HOLDS,
    OURS,
    PRODUCT_AT,
    FakePatchEncoder,
    FakePointSegmenter,
    new_session,
    searched_session,
    write_shelf,
)
from widget_tools import is_following

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.product_matching import ProductSession
from nbhelpers.widgets.gallery import GalleryWidget


@pytest.fixture
def session(tmp_path):
    return new_session(tmp_path)


@pytest.fixture
def searched(tmp_path):
    return searched_session(tmp_path)


def told(widget):
    return widget.status.value


def cards(widget):
    return {card.photo: card for card in widget.cards.children}


def test_before_the_search_all_photos_wait(session):
    widget = GalleryWidget(session)
    assert len(widget.cards.children) == 6 and all(
        "not searched" in card.caption.value for card in widget.cards.children
    )
    assert all(card.yes.disabled and card.no.disabled for card in widget.cards.children)
    assert widget.progress.value == 0 and "press Search" in told(widget)


def test_the_search_button_searches_and_everything_follows(session):
    widget = GalleryWidget(session)
    widget.search_button.click()
    assert widget.progress.value == 6 and f"found in {sum(HOLDS)} of 6 photos" in told(widget)
    for photo, card in cards(widget).items():
        assert ("absent" in card.caption.value) != HOLDS[photo]
        assert card.picture.value[:2] == b"\xff\xd8" and not card.yes.disabled
    assert "<svg" in widget.threshold.histogram.value


def test_without_a_reference_there_is_nothing_to_search(tmp_path):
    shelf = write_shelf(tmp_path / "shelf")
    session = ProductSession(
        shelf, settings=OURS, segmenter=FakePointSegmenter(), encoder=FakePatchEncoder(), cache=tmp_path / "cache"
    )
    widget = GalleryWidget(session)
    assert widget.search_button.disabled
    session.add_reference(shelf[0], point=PRODUCT_AT)
    assert not widget.search_button.disabled and len(widget.references.pictures.children) == 1


def test_a_corrupt_photo_is_shown_as_such(session):
    session.photos[2].write_bytes(b"x")
    widget = GalleryWidget(session)
    widget.search_button.click()
    assert "1 photo could not be read" in told(widget) and "cannot be read" in cards(widget)[2].caption.value
    assert cards(widget)[2].yes.disabled
    widget.open_photo(2)
    assert (
        widget.detail_panel.children == (widget.detail_panel.title,)
        and "cannot be read" in widget.detail_panel.title.value
    )


def test_yes_makes_a_reference_and_once_more_takes_it_back(searched):
    widget = GalleryWidget(searched)
    card = cards(widget)[3]
    card.yes.click()
    assert len(searched.references) == 2 and card.yes.button_style == "success"
    assert "2 references" in told(widget) and len(widget.references.pictures.children) == 2
    card.yes.click()
    assert len(searched.references) == 1 and card.yes.button_style == "" and "Mark removed" in told(widget)


def test_no_makes_a_negative(searched):
    widget = GalleryWidget(searched)
    cards(widget)[2].no.click()
    assert len(searched.gallery.negatives) == 1 and cards(widget)[2].no.button_style == "warning"
    cards(widget)[2].no.click()
    assert not searched.gallery.negatives


def test_the_kinds_of_photos(searched):
    widget = GalleryWidget(searched)
    widget.kind.value = "found"
    assert list(cards(widget)) == [photo for photo, holds in enumerate(HOLDS) if holds]
    widget.kind.value = "absent"
    assert list(cards(widget)) == [photo for photo, holds in enumerate(HOLDS) if not holds]
    searched.set_threshold(searched.result(4).score + 0.01)
    widget.kind.value = "doubtful"
    assert 4 in list(cards(widget))[:3]
    searched.set_threshold(0.95)  # what was found scores 1, all else less than 0.1
    widget.refresh()
    assert sorted(cards(widget)) == [photo for photo, holds in enumerate(HOLDS) if holds]
    widget.kind.value = "all"
    assert len(cards(widget)) == 6


def test_pages(searched):
    widget = GalleryWidget(searched, across=2, rows=2)
    assert list(cards(widget)) == [0, 1, 2, 3] and widget.back.disabled
    widget.forward.click()
    assert list(cards(widget)) == [4, 5] and widget.count.value == "5 to 6 of 6" and widget.forward.disabled
    widget.kind.value = "absent"
    assert list(cards(widget)) == [2, 4] and widget.count.value == "1 to 2 of 2"


def test_one_photo_in_detail_with_every_thing_and_its_reason(searched):
    widget = GalleryWidget(searched)
    widget.open_photo(5)
    rows = widget.detail_panel.rows
    assert len(rows) == min(8, len(searched.result(5).detections)) and widget.detail_panel.picture.value
    assert all("threshold" in row.children[1].value or "overlaps" in row.children[1].value for row in rows)
    other = next(i for i, found in enumerate(searched.result(5).detections) if found.decision == "below threshold")
    rows[other].no.click()
    assert len(searched.gallery.negatives) == 1
    place = next(i for i in range(len(searched.result(5).detections)) if searched.mark_of(5, i) == "rejected")
    assert widget.detail_panel.rows[place].no.button_style == "warning"


def test_the_slider_sets_the_threshold_and_a_button_brings_the_own_one_back(searched):
    widget = GalleryWidget(searched)
    own = searched.threshold
    assert widget.threshold.slider.value == pytest.approx(own, abs=0.006) and widget.threshold.calibrated.disabled
    widget.threshold.slider.value = 0.99
    assert searched.threshold == 0.99 and searched.threshold_from == "person"
    widget.threshold.calibrated.click()
    assert searched.threshold == own and widget.threshold.slider.value == pytest.approx(own, abs=0.006)


def test_one_more_reference_by_clicks(searched):
    widget = GalleryWidget(searched)
    widget.open_photo(1)
    widget.references.add.click()
    clicks = widget.references.clicks
    assert clicks.name == "photo 1" and len(widget.references.clicking.children) == 2
    clicks.click(220, 140)
    widget.references.take.click()
    assert len(searched.references) == 2 and searched.references[1].how == "mask"
    assert widget.references.clicking.children == () and "Reference added" in told(widget)


def test_taking_nothing_is_told_and_nothing_is_lost(searched):
    widget = GalleryWidget(searched)
    widget.references.add.click()
    widget.references.take.click()
    assert "reference is empty" in told(widget) and len(searched.references) == 1
    assert len(widget.references.clicking.children) == 2
    widget.references.cancel.click()
    assert widget.references.clicking.children == ()


def test_a_reference_is_taken_out(searched):
    searched.add_reference(searched.photos[1], point=(220, 140))
    widget = GalleryWidget(searched)
    _, out = widget.references.pictures.children[0].children
    out.click()
    assert [each.photo for each in searched.references] == ["photo 1.png"]
    assert widget.references.pictures.children[0].children[1].disabled


def test_a_second_widget_closes_the_first(searched):
    first = GalleryWidget(searched)
    second = GalleryWidget(searched)
    assert first.comm is None and second.comm is not None
    second.close()
    searched.set_threshold(0.5)


def test_closing_the_gallery_closes_the_click_widget_in_it(session):
    widget = GalleryWidget(session)
    widget.references.start()
    clicks = widget.references.clicking.children[0]
    widget.close()
    assert clicks.comm is None and not is_following(clicks, lambda: clicks.session.click(20, 20))


def test_a_size_that_makes_no_sense(session):
    with pytest.raises(NbHelpersError, match="size is out of range"):
        GalleryWidget(session, across=20)
