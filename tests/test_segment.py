"""The click session: every step from code, undo, objects, logs that replay, bad input, and the command line's job."""

import json

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image
from typer.testing import CliRunner

from nbhelpers.cli import app
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.masks import decode_rle, iou
from nbhelpers.models.load import load
from nbhelpers.models.values import Prediction
from nbhelpers.segment import ClickSession
from nbhelpers.weights import sample

DISC, BOX = (50, 60), (120, 60)  # inside the two objects of the `photo` fixture


@pytest.fixture
def session(photo):
    return ClickSession(photo, FakeSegmenter(), name="drawn")


def test_a_click_gives_the_object_under_it(session, photo):
    prediction = session.click(*DISC)
    assert len(prediction) == 4
    assert session.mask()[60, 50] and not session.mask()[60, 120]
    assert session.mask().shape == photo.shape[:2]
    assert session.seconds >= 0


def test_before_the_first_prompt_there_is_an_empty_mask_and_nothing_is_asked(session):
    assert not session.mask().any() and session.masks() == {} and session.prediction() is None
    assert session.segmenter.asked == session.segmenter.encoded == 0


def test_the_photo_is_encoded_once_and_answers_are_kept(session):
    session.click(*DISC)
    session.click(*BOX)
    session.undo()
    session.redo()
    session.mask()
    assert session.segmenter.encoded == 1
    assert session.segmenter.asked == 2


def test_points_can_be_excluded_moved_and_removed(session):
    session.click(*DISC)
    session.click(*BOX)
    assert session.mask()[60, 120]
    session.click(*BOX, label=0)
    assert not session.mask()[60, 120]
    session.remove(2)
    session.move(1, 10, 10)
    assert session.prompts().points == ((50.0, 60.0), (10.0, 10.0))
    assert not session.mask()[60, 120]
    session.remove(1)
    session.remove(0)
    assert session.prompts().is_empty and not session.mask().any()


def test_boxes_and_masks(session, photo):
    session.set_box((20, 30, 80, 90))
    assert session.mask()[60, 50] and not session.mask()[60, 120]
    session.set_box(None)
    assert not session.mask().any()
    mask = np.zeros(photo.shape[:2], bool)
    mask[30:90, 100:140] = True
    session.set_mask(mask)
    assert np.array_equal(decode_rle(session.prompts().mask_rle), mask)
    session.set_mask(None)
    assert session.prompts().is_empty


def test_undo_and_redo_go_over_everything_and_masks_come_back_the_same(session):
    seen = [session.mask()]
    steps = [
        lambda: session.click(*DISC),
        lambda: session.next_candidate(),
        lambda: session.click(*BOX, label=0),
        lambda: session.move(1, 100, 20),
        lambda: session.set_box((20, 30, 80, 90)),
        lambda: session.remove(1),
        lambda: session.clear(),
    ]
    for step in steps:
        step()
        seen.append(session.mask())
    for mask in seen[-2::-1]:
        assert session.undo()
        assert np.array_equal(session.mask(), mask)
    assert not session.undo()
    for mask in seen[1:]:
        assert session.redo()
        assert np.array_equal(session.mask(), mask)
    assert not session.redo()
    session.undo()
    session.click(5, 5)
    assert not session.can_redo


def test_candidates(session):
    with pytest.raises(NbHelpersError, match="no candidate"):
        session.next_candidate()
    prediction = session.click(*DISC)
    assert session.candidate() == prediction.choice == 2
    assert [session.next_candidate() for _ in range(4)] == [3, 0, 1, 2]
    session.choose_candidate(3)
    assert np.array_equal(session.mask(), prediction.mask(3))
    session.click(55, 60)
    assert session.candidate() == 2  # a new prompt asks the model again
    with pytest.raises(NbHelpersError, match="no such candidate"):
        session.choose_candidate(4)


def test_the_candidate_that_obeys_the_clicks_is_preferred_to_the_models_choice():
    logits = np.full((4, 8, 8), 1.0, np.float32)
    logits[2:, :4] = -1  # candidates 2 and 3 leave the upper half out
    scores = np.array([0.5, 0.9, 0.6, 0.7], np.float32)
    prediction = Prediction(logits, scores, (8, 8), (8, 8), choice=1)
    assert prediction.agreeing([(4, 6)], [1]) == 1
    assert prediction.agreeing([(4, 6), (4, 1)], [1, 1]) == 1
    assert prediction.agreeing([(4, 6), (4, 1)], [1, 0]) == 3
    assert prediction.agreeing([(4, 6), (4, 1), (1, 1), (6, 6)], [1, 0, 1, 1]) == 1


def test_objects_have_names_prompts_and_masks_of_their_own(session):
    session.rename_object("object 1", "disc")
    session.click(*DISC)
    assert session.add_object("box") == "box" == session.active
    session.click(*BOX)
    assert session.objects == ("disc", "box")
    masks = session.masks()
    assert masks["disc"][60, 50] and not masks["disc"][60, 120] and masks["box"][60, 120]
    session.select("disc")
    session.click(45, 60)
    assert len(session.prompts("disc").points) == 2 and len(session.prompts("box").points) == 1
    session.remove_object("disc")
    assert session.objects == ("box",) and session.active == "box"
    with pytest.raises(NbHelpersError, match="last object"):
        session.remove_object("box")
    session.undo()
    assert session.objects == ("disc", "box") and len(session.prompts("disc").points) == 2
    assert session.add_object() == "object 3"
    for wrong in ("box", "", " "):
        with pytest.raises(NbHelpersError):
            session.add_object(wrong)
    with pytest.raises(NbHelpersError, match="no such object"):
        session.select("cat")


@pytest.mark.parametrize(
    "step",
    [
        lambda s: s.click(160, 60),
        lambda s: s.click(-1, 60),
        lambda s: s.click(float("nan"), 60),
        lambda s: s.click(5, 5, label=7),
        lambda s: s.set_box((50, 50, 50, 80)),
        lambda s: s.set_box((500, 500, 600, 600)),
        lambda s: s.set_box((1, 2, 3)),
        lambda s: s.set_mask(np.zeros((4, 4), bool)),
        lambda s: s.move(5, 1, 1),
        lambda s: s.remove(-1),
        lambda s: s.click(5, 5, name="nobody"),
    ],
)
def test_a_wrong_step_is_one_clear_error_and_changes_nothing(session, step):
    session.click(*DISC)
    before, cursor, mask = session.log.to_json(), session.log.cursor, session.mask()
    with pytest.raises(NbHelpersError):
        step(session)
    assert session.log.to_json() == before and session.log.cursor == cursor
    assert np.array_equal(session.mask(), mask)


def test_a_segmenter_that_fails_leaves_the_session_as_it_was(session, monkeypatch):
    session.click(*DISC)
    before = session.log.to_json()
    monkeypatch.setattr(session.segmenter, "predict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        session.click(*BOX)
    assert session.log.to_json() == before


def test_listeners_hear_every_step(session):
    heard = []
    stop = session.on_change(lambda: heard.append(session.log.cursor))
    session.click(*DISC)
    session.undo()
    stop()
    session.redo()
    assert heard == [2, 1]


def test_a_saved_log_reopens_with_history_and_identical_masks(session, photo, tmp_path):
    session.click(*DISC)
    session.add_object("box")
    session.set_box((95, 25, 145, 95))
    session.click(*BOX)
    session.next_candidate()
    session.undo()
    path = session.save(tmp_path / "drawn.prompts.json")
    again = ClickSession.open(path, photo, FakeSegmenter())
    assert again.objects == session.objects and again.name == "drawn" and again.can_redo
    for name, mask in session.masks().items():
        assert np.array_equal(again.mask(name), mask)
    assert again.redo() and again.candidate() == 3


def test_a_kernel_that_dies_loses_no_saved_step(session, photo, tmp_path):
    path = tmp_path / "drawn.prompts.json"
    session.on_change(lambda: session.save(path))
    session.click(*DISC)
    session.click(*BOX)
    mask = session.mask()
    del session  # nothing was closed or flushed by hand
    assert np.array_equal(ClickSession.open(path, photo, FakeSegmenter()).mask(), mask)


def test_a_log_of_another_picture_model_or_version_is_refused(session, photo, tmp_path):
    session.click(*DISC)
    path = session.save(tmp_path / "log.json")
    with pytest.raises(NbHelpersError, match="another image"):
        ClickSession.open(path, photo[::-1].copy(), FakeSegmenter())
    other = FakeSegmenter()
    other.name = "other"
    with pytest.raises(NbHelpersError, match="another model"):
        ClickSession.open(path, photo, other)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "version": 99}))
    with pytest.raises(NbHelpersError, match="version"):
        ClickSession.open(path, photo, FakeSegmenter())


def test_export_writes_what_it_says(session, photo, tmp_path):
    with pytest.raises(NbHelpersError, match="no mask"):
        session.export(tmp_path)
    session.click(*DISC)
    names = [path.name for path in session.export(tmp_path)]
    assert names == ["drawn_object-1_mask.png", "drawn_object-1_cutout.png", "drawn.coco.json", "drawn.prompts.json"]
    mask = load_image(tmp_path / names[0])[:, :, 0]
    assert np.array_equal(mask == 255, session.mask()) and set(np.unique(mask)) == {0, 255}


def test_another_picture_of_the_same_name_replaces_nothing(photo, tmp_path, caplog):
    save_image(tmp_path / "in" / "plain.png", photo)
    save_image(tmp_path / "in" / "plain.bmp", photo[:, ::-1].copy())
    first, second = (ClickSession(tmp_path / "in" / f"plain{s}", FakeSegmenter()) for s in (".png", ".bmp"))
    first.click(*DISC)
    second.click(photo.shape[1] - 1 - DISC[0], DISC[1])
    written = first.export(tmp_path)
    before = {path: path.read_bytes() for path in written}
    paths = second.export(tmp_path)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert [path.name for path in paths][-2:] == ["plain-2.coco.json", "plain-2.prompts.json"]
    assert "plain-2" in caplog.text
    assert first.export(tmp_path) == written and second.export(tmp_path) == paths, "each may be exported again"
    ClickSession.open(paths[-1], tmp_path / "in" / "plain.bmp", FakeSegmenter())
    names = [json.loads(each[-2].read_text())["images"][0]["file_name"] for each in (written, paths)]
    assert names == ["plain.png", "plain.bmp"], "other tools look for the photo by its file name"


def test_a_session_on_a_pil_image_is_one_on_its_pixels(photo):
    session = ClickSession(Image.fromarray(photo), FakeSegmenter())
    assert np.array_equal(session.image, photo) and session.name == "image"


def test_names_that_are_the_same_when_cleaned_replace_nothing(photo, tmp_path):
    for name, pixels in (("a b", photo), ("a?b", photo[::-1].copy())):
        session = ClickSession(pixels, FakeSegmenter(), name=name)
        session.click(10, 10)
        session.export(tmp_path)
    assert {path.name for path in tmp_path.glob("*.prompts.json")} == {"a-b.prompts.json", "a-b-2.prompts.json"}


def test_a_photo_and_an_object_do_not_share_names_with_another(photo, tmp_path):
    written = []
    for name, thing, pixels in (("a", "b_c", photo), ("a_b", "c", photo[::-1].copy())):
        session = ClickSession(pixels, FakeSegmenter(), name=name)
        session.rename_object(session.active, thing)
        session.click(10, 10)
        written += session.export(tmp_path)
    assert len({path.name for path in written}) == 8


@pytest.mark.weights("sam2-hiera-tiny-lite", "mobilesam")
@pytest.mark.parametrize("model", ["sam2-hiera-tiny-lite", "mobilesam"])
def test_a_log_replays_to_identical_masks_on_real_weights(model, tmp_path):
    segmenter = load("segmenter", model, "cpu")
    session = ClickSession(sample("coffee"), segmenter)
    session.click(300, 120)
    session.click(330, 200)
    session.add_object("saucer")
    session.set_box((75, 70, 485, 385))
    session.click(300, 120, label=0)
    path = session.save(tmp_path / "log.json")
    again = ClickSession.open(path, sample("coffee"), segmenter)
    for name, mask in session.masks().items():
        assert mask.any() and np.array_equal(again.mask(name), mask)
    assert not session.mask("saucer")[120, 300]


@pytest.mark.weights
@pytest.mark.usefixtures("encode_once")
def test_an_excluded_point_is_excluded_where_a_candidate_allows_it():
    session = ClickSession(sample("quokka"), load("segmenter", "sam2-hiera-tiny-lite", "cpu"))
    session.click(349, 346)
    session.click(310, 250, label=0)
    assert session.prediction().best[250, 310]  # what SAM 2 recommends covers the excluded point
    assert not session.mask()[250, 310]


def run(*arguments):
    return CliRunner().invoke(app, ["segment", *map(str, arguments)])


@pytest.mark.weights
@pytest.mark.usefixtures("encode_once")
def test_the_command_does_what_the_session_does(tmp_path):
    photo = sample("quokka")
    result = run("--image", photo, "--point", "349,346", "--name", "quokka", "--models", "lite", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "made by sam2-hiera-tiny-lite" in result.output
    session = ClickSession(photo, load("segmenter", "sam2-hiera-tiny-lite", "cpu"))
    session.click(349, 346)
    written = load_image(tmp_path / "quokka_quokka_mask.png")[:, :, 0] > 0
    assert iou(written, session.mask()) == 1
    again = run("--image", photo, "--replay", tmp_path / "quokka.prompts.json", "--output", tmp_path / "again")
    assert again.exit_code == 0, again.output
    first, second = (folder / "quokka_quokka_mask.png" for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to segment"),
        (("--point", "12"), "--point cannot be read"),
        (("--point", "a,b"), "--point cannot be read"),
        (("--box", "1,2,3"), "--box cannot be read"),
        (("--replay", "nowhere.json"), "cannot be read"),
        (("--replay", "nowhere.json", "--point", "1,2"), "brings its own"),
    ],
)
def test_the_command_tells_what_is_wrong(photo, tmp_path, arguments, words):
    image = save_image(tmp_path / "photo.png", photo)
    result = run("--image", image, "--output", tmp_path / "out", *arguments)
    assert isinstance(result.exception, NbHelpersError)
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def speckled(size=(64, 64)):
    logits = np.full((1, *size), -5, np.float32)
    logits[0, 10:50, 10:50] = 5
    logits[0, 20:22, 20:22] = -5  # a hole of 4 cells
    logits[0, 30:34, 30:34] = -5  # a hole of 16 cells
    logits[0, 2, 2:5] = 5  # a piece of 3 cells
    return Prediction(logits, np.ones(1, np.float32), size, size)


def test_small_holes_are_filled_and_small_pieces_removed():
    prediction = speckled()
    clean = prediction.cleaned(8, 8).best
    assert clean[20:22, 20:22].all() and not clean[30:34, 30:34].any() and not clean[2].any()
    assert clean.sum() == 40 * 40 - 16
    assert np.array_equal(prediction.cleaned(0, 0).logits, prediction.logits)
    assert prediction.cleaned(0, 8).best.sum() == 40 * 40 - 20 and prediction.cleaned(8, 0).best.sum() == 40 * 40 - 13


def test_the_largest_piece_stays_however_small():
    logits = np.full((1, 64, 64), -5, np.float32)
    logits[0, 5, 5:8] = logits[0, 20, 20] = 5
    mask = Prediction(logits, np.ones(1, np.float32), (64, 64), (64, 64)).cleaned(8, 8).best
    assert mask[5, 5:8].all() and mask.sum() == 3
    full = Prediction(np.full((1, 64, 64), 5, np.float32), np.ones(1, np.float32), (64, 64), (64, 64))
    assert full.cleaned(8, 8).best.all()


def test_a_session_cleans_masks_unless_told_not_to(photo):
    class Speckled(FakeSegmenter):
        def predict(self, embedding, prompt):
            return speckled(embedding.size)

    assert ClickSession(photo, Speckled()).click(5, 5).best[20:22, 20:22].all()
    raw = ClickSession(photo, Speckled(), max_hole_area=0, max_sprinkle_area=0)
    assert not raw.click(5, 5).best[20:22, 20:22].any()
