"""One object in all views, from prompts in some: on a drawn scene whose truth is exact, without weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from fake_scene import LOOK_ALIKE, SIZE, Drawn
from fake_segmenter import FakeSegmenter
from test_label_propagation import ColourSegmenter

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import iou, polygon_mask
from nbhelpers.core.prompts import Prompt, PromptLog
from nbhelpers.models.values import Prediction
from nbhelpers.multiview import Photos, ViewsSession
from nbhelpers.multiview import views as views_module
from nbhelpers.multiview.association import MIN_PROBABILITY, PointVotes
from nbhelpers.multiview.consistency import ConsistencyTerms, score_all_views, score_view
from nbhelpers.multiview.grounding import segment_by_box, split_by_probability
from nbhelpers.multiview.propagation import (
    add_shared_points,
    main_components,
    max_part_distance,
    most_similar_views,
    random_colour_features,
    spanning_order,
)

RED_BALL, BLUE_BALL, OTHER_RED = 0, 1, 2
POLYGONS = Path(__file__).parents[1] / "nbhelpers" / "benchmarks" / "kitchen_outlines.json"


@pytest.fixture(scope="module")
def drawn():
    return Drawn()


@pytest.fixture(scope="module")
def twins():
    return Drawn(LOOK_ALIKE)


def session(drawn, scene=None, **options):
    return ViewsSession(drawn.photos, scene, ColourSegmenter(), **options)


def ious(drawn, ball, views):
    return [iou(view.mask, drawn.truth(ball, number)) for number, view in enumerate(views)]


@pytest.mark.parametrize("how", ["click", "box", "mask"])
def test_an_object_prompted_in_one_view_is_found_in_all(drawn, how):
    opened = session(drawn)
    truth = drawn.truth(BLUE_BALL, 2)
    rows, columns = np.nonzero(truth)
    if how == "click":
        opened.click(*drawn.centre(BLUE_BALL, 2), view=2)
    elif how == "box":
        opened.set_prompt(Prompt(box=(columns.min() - 1, rows.min() - 1, columns.max() + 1, rows.max() + 1)), view=2)
    else:
        opened.set_prompt(Prompt(mask=truth), view=2)
    views = opened.solve()
    assert min(ious(drawn, BLUE_BALL, views)) > 0.85
    assert views.prompted == (2,) and views.worst != 2
    assert views.overall.value > 0.6 and not any(view.consistency.is_doubtful for view in views)
    assert not len(views.points) and "no cameras are known" in views.notes[0]


def test_points_in_space_tell_an_object_from_its_look_alike(twins):
    by_looks, in_space = session(twins), session(twins, twins.scene)
    for opened in (by_looks, in_space):
        opened.set_prompt(Prompt(mask=twins.truth(RED_BALL, 2)), view=2)
    without, with_points = ious(twins, RED_BALL, by_looks.solve()), ious(twins, RED_BALL, in_space.solve())
    others = [0, 1, 3, 4]
    assert max(without[view] for view in others) < 0.75
    assert min(with_points) > 0.9


def test_listeners_hear_of_every_change_until_they_stop(drawn):
    opened, heard = session(drawn), []
    stop = opened.on_change(lambda: heard.append((len(opened.prompted), opened.views is not None)))
    opened.set_prompt(Prompt(mask=drawn.truth(BLUE_BALL, 2)), view=2)
    with pytest.raises(NbHelpersError):
        opened.click(-50, 5, view=0)
    opened.solve()
    opened.clear(2)
    assert opened.undo() and opened.redo() and not opened.redo()
    stop()
    opened.propose_mask(drawn.truth(BLUE_BALL, 1), view=1)
    assert heard == [(1, False), (1, True), (0, True), (1, True), (0, True)]


def test_the_points_of_the_object_are_named(drawn):
    opened = session(drawn, drawn.scene)
    opened.set_prompt(Prompt(mask=drawn.truth(RED_BALL, 2)), view=2)
    points = opened.solve().points
    away = np.linalg.norm(drawn.scene.points[points] - np.array(drawn.balls[RED_BALL].middle), axis=1)
    assert len(points) > 40
    assert (away < drawn.balls[RED_BALL].radius + 0.05).mean() > 0.9


def test_one_more_click_in_another_view_changes_that_view_and_the_rest(drawn):
    opened = session(drawn)
    opened.set_prompt(Prompt(mask=drawn.truth(RED_BALL, 2) | drawn.truth(BLUE_BALL, 2)), view=2)
    before = ious(drawn, RED_BALL, opened.solve())
    corrected = opened.click(*drawn.centre(BLUE_BALL, 1), label=0, view=1).best
    assert iou(corrected, drawn.truth(RED_BALL, 1)) > 0.85 > before[1]
    opened.clear(2)
    views = opened.solve()
    assert views.prompted == (1,) and np.array_equal(views.mask(1), corrected)
    assert np.mean(ious(drawn, RED_BALL, views)) > np.mean(before) + 0.2


def test_a_log_replays_to_the_same_masks(drawn):
    opened = session(drawn)
    opened.click(*drawn.centre(RED_BALL, 2), view=2)
    opened.solve()
    opened.click(*drawn.centre(RED_BALL, 4), view=4)
    first = opened.solve()
    log = PromptLog.from_json(opened.log.to_json())
    second = session(drawn, log=log).solve()
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first, second, strict=True))


def test_a_saved_session_opens_with_its_prompts(drawn, tmp_path):
    saved = session(drawn)
    rows, columns = np.nonzero(drawn.truth(BLUE_BALL, 2))
    x, y = columns.tolist(), rows.tolist()
    saved.set_box((min(x) - 1, min(y) - 1, max(x) + 1, max(y) + 1), view=2)
    saved.set_mask(drawn.truth(BLUE_BALL, 3), view=3)
    opened = ViewsSession.open(saved.save(tmp_path / "prompts.json"), drawn.photos, segmenter=ColourSegmenter())
    assert opened.prompted == (2, 3)
    assert all(np.array_equal(opened.mask(view), saved.mask(view)) for view in (2, 3))
    assert iou(opened.predict(2).best, drawn.truth(BLUE_BALL, 2)) > 0.85
    with pytest.raises(NbHelpersError, match="box"):
        opened.set_box((-50, -50, -10, -10), view=0)


def test_what_was_said_can_be_taken_back(drawn):
    opened = session(drawn)
    opened.click(*drawn.centre(RED_BALL, 2), view=2)
    opened.set_prompt(Prompt(mask=drawn.truth(RED_BALL, 3)), view=3)
    assert opened.prompted == (2, 3)
    assert opened.undo()
    assert opened.prompted == (2,)
    assert opened.redo()
    assert opened.prompted == (2, 3)
    opened.undo()
    views = opened.solve()
    read = opened.log.events[-1]
    assert read["op"] == "candidate.set" and np.array_equal(opened.mask(2), views.mask(2))
    assert opened.undo() and opened.prompted == ()
    assert opened.redo() and opened.prompts(2).candidate == read["index"]
    opened.clear()
    assert opened.prompted == () and not opened.mask(2).any()


def test_a_confirmed_mask_is_kept_as_it_is(drawn):
    opened = session(drawn)
    opened.click(*drawn.centre(RED_BALL, 2), view=2)
    with pytest.raises(NbHelpersError, match="no mask to confirm"):
        opened.confirm(0)
    mask = opened.solve().mask(0)
    opened.confirm(0)
    views = opened.solve()
    assert views.prompted == (0, 2) and np.array_equal(views.mask(0), mask)


def test_progress_is_told_to_the_end(drawn):
    told = []
    opened = session(drawn)
    opened.set_prompt(Prompt(mask=drawn.truth(RED_BALL, 0)), view=0)
    opened.solve(lambda done, steps, what: told.append((done, steps)))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_an_object_that_other_photos_do_not_show_is_not_found_there(drawn):
    empty = np.full((*SIZE, 3), (70, 175, 85), np.uint8)
    opened = ViewsSession([*drawn.photos[:3], empty], segmenter=ColourSegmenter())
    opened.set_prompt(Prompt(mask=drawn.truth(RED_BALL, 1)), view=1)
    views = opened.solve()
    assert not views[3].found and not views.mask(3).any()
    assert any("not found in view 3" in note for note in views.notes)


def test_photos_of_other_sizes_and_a_single_photo_are_done(drawn):
    tall = np.ascontiguousarray(np.pad(drawn.photos[3], ((20, 20), (0, 0), (0, 0)), mode="edge"))
    opened = ViewsSession([drawn.photos[2], tall], segmenter=ColourSegmenter())
    opened.set_prompt(Prompt(mask=drawn.truth(BLUE_BALL, 2)), view=0)
    assert opened.solve().mask(1).shape == tall.shape[:2]
    alone = ViewsSession(drawn.photos[:1], segmenter=ColourSegmenter())
    alone.click(*drawn.centre(RED_BALL, 0), view=0)
    views = alone.solve()
    assert len(views) == 1 and views.worst is None


def test_each_photo_is_encoded_once_and_few_stay_in_memory(drawn):
    segmenter = ColourSegmenter()
    photos = Photos(drawn.photos * 4, segmenter)
    opened = ViewsSession(photos)
    opened.set_prompt(Prompt(mask=drawn.truth(RED_BALL, 2)), view=2)
    opened.solve()
    again = ViewsSession(photos)
    again.set_prompt(Prompt(mask=drawn.truth(BLUE_BALL, 0)), view=0)
    again.solve()
    assert segmenter.encoded == len(photos)
    assert len(photos._recent) <= views_module.CACHE_SIZE


def test_bad_input_is_one_clear_error(drawn):
    opened = session(drawn)
    with pytest.raises(NbHelpersError, match="no prompts yet"):
        opened.solve()
    with pytest.raises(NbHelpersError, match="no such view"):
        opened.click(1, 1, view=9)
    with pytest.raises(NbHelpersError, match="outside the image"):
        opened.click(500, 1, view=0)
    with pytest.raises(NbHelpersError, match="excluding points alone"):
        opened.click(5, 5, label=0, view=0)
    assert opened.prompted == ()
    with pytest.raises(NbHelpersError, match="no photos"):
        ViewsSession([], segmenter=ColourSegmenter())
    with pytest.raises(NbHelpersError, match="scene belongs to other photos"):
        ViewsSession(drawn.photos[:2], drawn.scene, ColourSegmenter())
    with pytest.raises(NbHelpersError, match="log belongs to other photos"):
        ViewsSession(drawn.photos[:2], segmenter=ColourSegmenter(), log=opened.log)
    with pytest.raises(NbHelpersError, match="differ in number"):
        Photos(drawn.photos, ColourSegmenter(), names=["one"])
    with pytest.raises(NbHelpersError, match="has no features"):
        Photos(drawn.photos, FakeSegmenter()).embedding(0)


def test_hidden_points_have_no_say(drawn):
    votes = PointVotes(drawn.scene, 64)
    for view in range(5):
        seen = votes.visible(view)
        projected = seen.points[seen.weights < 1]
        pixels, depth = drawn.scene.project(view, drawn.scene.points[projected])
        columns, rows = np.clip(np.rint(pixels).astype(int), 0, np.array(SIZE[::-1]) - 1).T
        assert len(projected) > 20
        assert (depth < drawn.depths[view][rows, columns] * 1.06).mean() > 0.95


def test_point_probabilities_leave_out_the_view_that_is_scored(drawn):
    votes = PointVotes(drawn.scene, 64)
    wrong = np.zeros((64, 64), np.float32)
    right = polygon_share(drawn.truth(RED_BALL, 2))
    with_wrong, _ = votes.point_probabilities({2: right, 3: wrong}, {2: 1.0, 3: 1.0})
    probability, weight = votes.point_probabilities({2: right, 3: wrong}, {2: 1.0, 3: 1.0}, exclude=3)
    alone, _ = votes.point_probabilities({2: right}, {2: 1.0})
    assert np.array_equal(probability, alone) and not np.array_equal(probability, with_wrong)
    own = (probability >= MIN_PROBABILITY) & (weight > 0)
    points, missed, _ = votes.count_points(3, wrong, probability, weight)
    assert points == missed > 10 and own.sum() >= points


def polygon_share(mask):
    import cv2

    return cv2.resize(mask.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)


def test_points_change_a_map_only_where_they_are(drawn):
    votes = PointVotes(drawn.scene, 64)
    probability, weight = votes.point_probabilities({2: polygon_share(drawn.truth(RED_BALL, 2))}, {2: 1.0})
    mixed = votes.refine(3, np.full((64, 64), 0.5, np.float32), probability, weight)
    ball = polygon_share(drawn.truth(RED_BALL, 3)) > 0.9
    assert np.median(mixed[ball]) > 0.58
    assert mixed[:4].max() == mixed[:4].min() == 0.5  # the sky has no points
    nothing = votes.refine(3, mixed, probability, np.zeros_like(weight))
    assert np.array_equal(nothing, mixed)


def test_a_view_that_disagrees_says_why():
    good = ConsistencyTerms(0.95, 0.9, 0.95, 0.9, points=60, missed=2, foreign=0, name="view 3")
    bad = ConsistencyTerms(0.9, 0.85, 0.9, 0.85, points=60, missed=58, foreign=0, name="view 7")
    assert score_view(good).value > 0.8 and not score_view(good).is_doubtful
    assert score_view(bad).value < score_view(good).value
    worse = score_view(ConsistencyTerms(0.3, 0.2, 0.5, 0.6, points=60, missed=58, foreign=3, name="view 7"))
    assert worse.is_doubtful
    assert worse.why == "view 7 disagrees: 58 of 60 points of the object lie outside its mask"
    contradicted = score_view(ConsistencyTerms(0.1, 0.1, 0.9, 0.7, name="view 2"), prompted=True)
    assert contradicted.why == "the prompt in view 2 does not agree with the other views"
    both = score_all_views({0: score_view(good), 1: worse}, {0: "a.jpg", 1: "b.jpg"})
    assert "1 of 2 views should be inspected, first b.jpg" in both.why
    assert both.value == pytest.approx((score_view(good).value + worse.value) / 2)


@pytest.mark.parametrize("term", ["cycle", "agreement", "score", "similarity"])
def test_each_term_lowers_the_consistency(term):
    terms = {"cycle": 0.9, "agreement": 0.9, "score": 0.9, "similarity": 0.7}
    assert score_view(ConsistencyTerms(**terms | {term: 0.3})).value < score_view(ConsistencyTerms(**terms)).value


def test_photos_are_reached_from_the_most_similar_one():
    similarity = np.array([[1, 0.9, 0.1, 0.2], [0.9, 1, 0.8, 0.1], [0.1, 0.8, 1, 0.7], [0.2, 0.1, 0.7, 1]])
    assert spanning_order(similarity, [0]) == [1, 2, 3]
    assert spanning_order(similarity, [3]) == [2, 1, 0]
    assert most_similar_views(similarity, 1, [0, 1, 2, 3], 2) == [0, 2]


def test_common_points_bring_views_together(drawn):
    raised = add_shared_points(np.zeros((5, 5)), drawn.scene)
    assert (raised > 0).all() and np.allclose(raised, raised.T)
    assert np.array_equal(add_shared_points(np.eye(5), None), np.eye(5))


def test_parts_far_from_the_main_one_are_something_else():
    region = np.zeros((64, 64), bool)
    region[10:30, 10:30] = region[10:30, 33:38] = region[55:60, 55:60] = True
    support = np.where(region, np.float32(0.9), np.float32(0))
    assert np.array_equal(main_components(region, support), region)  # something may hide what lies between
    support[55:60, 55:60] = 0.6
    kept = main_components(region, support)
    assert kept[20, 20] and kept[20, 35] and not kept[57, 57]
    assert np.array_equal(main_components(region, support, 3.0), region)
    assert not main_components(region & False, region.astype(np.float32)).any()
    support = np.where(region, np.float32(0.01), 0)
    support[57, 57] = 20
    assert main_components(region, support.astype(np.float32)).sum() == 25  # what the votes mean, not what is large
    region[55:60] = False
    assert max_part_distance(region) == pytest.approx(4 / 20)
    region[:, 33:] = False
    assert max_part_distance(region) == 0


def test_what_a_word_fits_less_is_a_thing_of_its_own():
    mask = np.zeros((60, 80), bool)
    mask[:20] = mask[40:] = True
    mask[30:33, 10:13] = True
    support = np.full(mask.shape, 0.9, np.float32)
    assert [each.sum() for each in split_by_probability(mask, support)] == [
        mask.sum()
    ]  # a thing that something hides in the middle
    support[:20] = 0.6
    water, sky = split_by_probability(mask, support)
    assert water[40:].all() and water[31, 11] and not water[:20].any()  # a speck stays where the most is
    assert sky[:20].all() and not sky[20:].any()
    assert not split_by_probability(mask & False, support)[0].any()


@pytest.mark.parametrize("rows, taken", [((20, 50), True), ((20, 26), False)])
def test_the_box_of_a_mask_means_the_thing_unless_it_finds_another(rows, taken):
    mask, answer = np.zeros((2, *SIZE), bool)
    mask[20:40, 10:40], answer[slice(*rows), 10:44] = True, True

    class Asked(FakeSegmenter):
        def predict(self, embedding, prompt):
            assert len(prompt.points) == 0 and tuple(prompt.box) == (10, 20, 40, 40)
            logits = np.where(answer, 8, -8).astype(np.float32)[None]
            return Prediction(logits, np.array([0.9], np.float32), SIZE, SIZE, 0)

    segmenter = Asked()
    embedding = segmenter.encode(np.zeros((*SIZE, 3), np.uint8))
    np.testing.assert_array_equal(segment_by_box(segmenter, embedding, mask), answer if taken else mask)


def test_colour_features_are_a_gaussian_of_the_colour_difference():
    lab = np.array([[[50, 0, 0], [50, 6, 0], [50, 80, 0]]], np.float32)
    features = random_colour_features(lab)[:, 0].T
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    same, near, far = features @ features[0]
    assert same == pytest.approx(1) and near == pytest.approx(np.exp(-0.125), abs=0.1) and abs(far) < 0.3


def test_the_drawn_outlines_lie_on_the_photos():
    data = json.loads(POLYGONS.read_text(encoding="utf-8"))
    height, width = data["size"]
    for name, photos in data["objects"].items():
        assert len(photos) == 9, name
        for outline in photos.values():
            for points in (*outline["outline"], *outline["void"]):
                x, y = np.array(points).T
                assert -2 <= x.min() < x.max() <= width + 2
                assert -2 <= y.min() < y.max() <= height + 2
            assert polygon_mask([tuple(point) for point in outline["outline"][0]], (height, width)).mean() > 0.02
