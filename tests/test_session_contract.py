"""The contract of all sessions: the same words, with the same meaning, over every kind of footage."""

import inspect
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from fake_products import HOLDS, OURS, PRODUCT_AT, FakePatchEncoder, FakePointSegmenter, write_shelf
from fake_tracker import Clip, FakeTracker
from fake_words import FakeTextEncoder
from page_models import page_segmenter, without_networks, write_photos

from nbhelpers import clip_guided
from nbhelpers.clip_guided import ClipGuidedSession, ClipGuidedSettings
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.values import Prediction
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.segment import ClickSession


class MaskSegmenter(FakePointSegmenter):
    """Predicts a mask prompt as it is; the logits of an earlier mask change nothing."""

    def predict(self, embedding, prompt):
        if prompt.mask is not None and prompt.mask.dtype == bool:
            return Prediction.of_mask(prompt.mask)
        return super().predict(embedding, prompt)


SESSIONS = (ClickSession, ClipGuidedSession, RotoSession, ViewsSession, ProductSession)
PLACES = {ClickSession: {"name"}, ClipGuidedSession: {"name"}, RotoSession: {"name", "frame"}}  # else {"view"}


def photo():
    """A red and a blue disc on grey."""
    image = np.full((120, 160, 3), 180, np.uint8)
    cv2.circle(image, (50, 60), 24, (200, 30, 30), -1)
    cv2.circle(image, (120, 60), 20, (30, 30, 200), -1)
    return image


def click_case(tmp_path):
    return SimpleNamespace(
        session=ClickSession(photo(), MaskSegmenter(), name="discs"),
        point=(50, 60),
        box=(90, 30, 150, 90),
        mask=lambda session: session.mask(),
        open=lambda path: ClickSession.open(path, photo(), MaskSegmenter()),
        formats=("masks",),
        folder=tmp_path / "out",
    )


def clip_guided_case(tmp_path):
    image = np.full((120, 160, 3), (60, 140, 60), np.uint8)
    cv2.circle(image, (50, 60), 24, (220, 40, 30), -1)
    segmenter, text = MaskSegmenter(), FakeTextEncoder()
    settings = ClipGuidedSettings(verify_crops=False, surroundings=False, detect=False)
    result = clip_guided.segment(image, ["ball", "lawn"], segmenter=segmenter, text_encoder=text, settings=settings)
    return SimpleNamespace(
        session=ClipGuidedSession(result, ClickSession(image, segmenter, name="lawn")),
        point=(50, 60),
        box=(20, 30, 80, 90),
        mask=lambda session: session.result.instance_map,
        open=lambda path: ClipGuidedSession.open(path, result, ClickSession(image, MaskSegmenter())),
        formats=("masks",),
        folder=tmp_path / "out",
    )


def roto_case(tmp_path):
    return SimpleNamespace(
        session=RotoSession(Clip(), FakeTracker(), project=tmp_path / "project"),
        point=(14, 20),
        box=(45, 35, 74, 58),
        mask=lambda session: session.mask(0),
        open=lambda path: RotoSession.open(tmp_path / "project", Clip(), FakeTracker()),
        formats=("mattes",),
        folder=tmp_path / "out",
        before_export=lambda session: list(session.propagate_all()),
    )


def views_case(tmp_path):
    paths, segmenter = write_photos(tmp_path / "photos"), page_segmenter().model("segmenter")
    return SimpleNamespace(
        session=ViewsSession(paths, segmenter=segmenter),
        point=(108, 147),
        box=(90, 130, 126, 164),
        mask=lambda session: session.mask(0),
        open=lambda path: ViewsSession.open(path, paths, segmenter=segmenter),
        formats=("masks",),
        folder=tmp_path / "out",
        before_export=lambda session: session.solve(),
    )


def product_case(tmp_path):
    shelf = write_shelf(tmp_path / "shelf")
    models = {"segmenter": MaskSegmenter(), "encoder": FakePatchEncoder(), "cache": tmp_path / "cache"}
    x, y = PRODUCT_AT
    return SimpleNamespace(
        session=ProductSession(shelf, settings=OURS, **models),
        point=PRODUCT_AT,
        box=(x - 20, y - 20, x + 20, y + 20),
        mask=lambda session: np.array([[len(session.references)]]),
        open=lambda path: ProductSession.open(path, settings=OURS, **models),
        formats=("page",),
        folder=tmp_path / "out",
        before_export=lambda session: session.search(),
    )


@pytest.fixture(
    params=[click_case, clip_guided_case, roto_case, views_case, product_case], ids=lambda f: f.__name__[:-5]
)
def case(request, tmp_path, monkeypatch):
    if request.param is views_case:
        without_networks(monkeypatch.setattr)
        monkeypatch.setattr("page_models.without_networks", lambda: None)
    return request.param(tmp_path)


def parameters(method):
    return {name: each for name, each in inspect.signature(method).parameters.items() if name != "self"}


@pytest.mark.parametrize("cls", SESSIONS, ids=lambda cls: cls.__name__)
def test_the_signatures(cls):
    places = PLACES.get(cls, {"view"})
    for name, first in {"click": ["x", "y", "label"], "set_box": ["box"], "set_mask": ["mask"]}.items():
        found = parameters(getattr(cls, name))
        assert [each.name for each in found.values() if each.kind is each.POSITIONAL_OR_KEYWORD] == first
        assert {each.name for each in found.values() if each.kind is each.KEYWORD_ONLY} == places
        assert all(each.default is not each.empty for name, each in found.items() if name in places)
        assert "Prediction" in inspect.signature(getattr(cls, name)).return_annotation
    assert parameters(cls.click)["label"].default == 1
    assert not parameters(cls.undo) and not parameters(cls.redo)
    assert list(parameters(cls.on_change)) == ["callback"] and list(parameters(cls.save)) == ["path"]
    assert list(parameters(cls.export))[:2] == ["folder", "formats"]
    assert parameters(cls.export)["formats"].default
    assert isinstance(cls.can_undo, property) and isinstance(cls.can_redo, property)
    assert inspect.ismethod(cls.open) and next(iter(parameters(cls.open))) in ("path", "project")


def test_click_and_box_return_predictions_that_undo_and_redo_travel(case):
    session = case.session
    assert not session.can_undo and not session.undo()
    start = case.mask(session)
    prediction = session.click(*case.point)
    x, y = case.point
    assert isinstance(prediction, Prediction) and prediction.best[y, x]
    clicked = case.mask(session)
    assert not np.array_equal(clicked, start) and session.can_undo and not session.can_redo
    assert isinstance(session.set_box(case.box), Prediction)
    assert session.undo() and np.array_equal(case.mask(session), clicked)
    assert session.undo() and np.array_equal(case.mask(session), start) and not session.can_undo
    assert session.redo() and np.array_equal(case.mask(session), clicked) and session.can_redo
    session.click(*case.point)
    assert not session.can_redo, "a new step replaces those that were undone"


def test_a_mask_alone_is_a_prompt(case):
    x, y = case.point
    prediction = case.session.click(x, y)
    mask = prediction.best
    case.session.undo()
    start = case.mask(case.session)
    assert isinstance(case.session.set_mask(mask), Prediction)
    assert not np.array_equal(case.mask(case.session), start)
    case.session.undo()
    assert np.array_equal(case.mask(case.session), start)


def test_a_mask_is_removed_by_none(case):
    case.session.set_mask(case.session.click(*case.point).best)
    case.session.undo()
    clicked = case.mask(case.session)
    case.session.redo()
    case.session.set_mask(None)
    assert np.array_equal(case.mask(case.session), clicked)


def test_excluding_points_are_passed_on(case):
    session = case.session
    session.click(*case.point)
    x, y = case.box[0] + 2, case.box[1] + 2
    session.click(x, y, label=0)
    session.undo()
    with pytest.raises(NbHelpersError):
        session.click(-50, -50)
    assert session.undo() and not session.can_undo, "a prompt that fails leaves no step"


def test_listeners_hear_each_step_until_they_stop(case):
    heard = []
    stop = case.session.on_change(lambda: heard.append(1))
    case.session.click(*case.point)
    case.session.undo()
    count = len(heard)
    assert count >= 2
    stop()
    stop()
    case.session.redo()
    assert len(heard) == count


def test_a_saved_session_opens_with_the_same_masks(case, tmp_path):
    session = case.session
    session.click(*case.point)
    path = session.save(tmp_path / "saved.json")
    assert path.is_file()
    again = case.open(path)
    assert type(again) is type(session) and np.array_equal(case.mask(again), case.mask(session))


def test_export_writes_the_formats_that_were_asked_for(case):
    session = case.session
    session.click(*case.point)
    getattr(case, "before_export", lambda _: None)(session)
    with pytest.raises(NbHelpersError, match="unknown export format"):
        session.export(case.folder, formats=("cassette",))
    assert not case.folder.exists()
    assert session.export(case.folder, formats=case.formats)
    some = {path.relative_to(case.folder).as_posix() for path in case.folder.rglob("*") if path.is_file()}
    assert some
    if not isinstance(session, RotoSession):
        session.export(case.folder)
        every = {path.relative_to(case.folder).as_posix() for path in case.folder.rglob("*") if path.is_file()}
        assert some < every


def test_a_product_that_is_clicked_is_found_and_undone(tmp_path):
    case = product_case(tmp_path)
    session = case.session
    session.click(*case.point, view=0)
    session.search()
    assert [not result.absent for result in session.results] == list(HOLDS)
    first = session.references[0]
    session.set_box(case.box, view=0)
    assert len(session.references) == 1 and session.references[0] is not first, "prompts of a photo make one reference"
    session.confirm(3)
    session.set_threshold(0.5)
    assert len(session.references) == 2 and session.threshold_from == "person"
    assert session.undo() and session.threshold_from != "person"
    assert session.undo() and len(session.references) == 1 and session.mark_of(3) == ""
    assert session.undo() and session.references[0] is first
    assert session.undo() and not session.references and not session.undo()
    assert all(session.redo() for _ in range(4)) and not session.redo()
    assert len(session.references) == 2 and session.mark_of(3) == "confirmed" and session.threshold == 0.5


def test_corrections_of_words_do_not_undo_what_the_words_found(tmp_path):
    case = clip_guided_case(tmp_path)
    before = case.session.result.instance_map
    case.session.click(*case.point)
    while case.session.undo():
        pass
    assert np.array_equal(case.session.result.instance_map, before) and (before >= 0).any()
