"""Staying with one of several equal instances: expectation, ownership, and tracking on drawn clips."""

from dataclasses import replace

import numpy as np
import pytest
from test_label_propagation import SIZE, Clip, ColourSegmenter, followed

from nbhelpers.benchmarks.identity import SIZE as SIZE_OF_GAMES
from nbhelpers.benchmarks.identity import plan_moves
from nbhelpers.core.masks import iou
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation import LabelPropagation
from nbhelpers.models.label_propagation.distractors import (
    Cells,
    Instance,
    exchange_probability,
    fit_centers,
    is_large,
    ownership,
    similar_regions,
    strays,
    touches,
)
from nbhelpers.models.tracking import Expectation, Place, expect, place_of

LENGTH = 18


class Twins(Clip):
    """Two equal discs that pass each other, the first one from left to right, above."""

    def __init__(self, away=()):
        super().__init__(LENGTH)
        self.away = set(away)

    def __getitem__(self, index):
        picture = np.full((*SIZE, 3), (40, 160, 60), np.uint8)
        for number in (1, 0):
            picture[self.twin(number, index)] = (220, 40, 30)
        return picture

    def twin(self, number, index):
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        x, y = (20 + 5 * index, 34) if number == 0 else (105 - 5 * index, 56)
        return ((columns - x) ** 2 + (rows - y) ** 2 <= 12**2) & (number == 1 or index not in self.away)


@pytest.fixture
def tracker():
    return LabelPropagation(ColourSegmenter())


def test_a_steady_motion_is_continued_and_doubt_grows_with_time():
    places = {frame: Place((10 + 3.0 * frame, 40.0), 100) for frame in range(8)}
    soon, later = expect(places, 8, 1, 0), expect(places, 12, 1, 0)
    assert soon.center == pytest.approx((34, 40), abs=0.7)
    assert later.center == pytest.approx((46, 40), abs=2)
    assert later.spread > soon.spread > 0
    assert expect(places, 0, 1, None) is None


def test_time_runs_backwards_too_and_stops_at_the_prompted_frame():
    places = {frame: Place((10 + 3.0 * frame, 40.0), 100) for frame in range(8)}
    assert expect(places, -1, -1, None).center == pytest.approx((7, 40), abs=0.7)
    jumped = {**places, 0: Place((90, 90), 100), 1: Place((90, 90), 100)}
    assert expect(jumped, 8, 1, 2).center == pytest.approx(expect(places, 8, 1, 2).center)


def test_a_position_measured_while_touching_counts_for_less():
    places = {frame: Place((10 + 3.0 * frame, 40.0), 100) for frame in range(8)}
    pulled = {**places, 8: Place((34, 48), 160, alone=False), 9: Place((37, 49), 160, alone=False)}
    trusted = {**places, 8: Place((34, 48), 160), 9: Place((37, 49), 160)}
    away = [expect(each, 10, 1, 0).center[1] - 40 for each in (pulled, trusted)]
    assert away[0] < 0.8 * away[1]
    assert expect(pulled, 10, 1, 0).area == 100  # and the size is that of when it was alone
    assert expect(pulled, 10, 1, 0).seen == 7


def test_similar_regions_have_about_the_size_of_the_object():
    similarity, mask = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.float32)
    for rows, columns in ((slice(4, 10), slice(4, 10)), (slice(4, 10), slice(20, 26)), (slice(20, 22), slice(4, 6))):
        similarity[rows, columns] = 0.9
    mask[4:10, 4:10] = 1
    found = similar_regions(similarity, mask, 36)
    assert len(found) == 1
    assert found[0][4:10, 20:26].all()
    assert found[0].sum() == 36


def test_equal_cells_belong_to_the_thing_that_is_expected_there():
    features = np.eye(3, dtype=np.float32)
    first = Cells(features[[0, 0]], np.array([[2, 2], [3, 2]], np.float32))
    second = Cells(features[[0, 0]], np.array([[9, 2], [10, 2]], np.float32))
    queries = features[[0, 0, 0]]
    owned = ownership(queries, np.array([[3, 3], [9, 3], [40, 40]], np.float32), [first, second])
    assert owned[:, 0].argmax() == 0
    assert owned[:, 1].argmax() == 1
    assert owned.max(0)[:2].min() > 0.9
    assert owned[:, 2].sum() < 0.1  # nobody's
    between = ownership(
        features[[0]], np.array([[6, 2]], np.float32), [first, Cells(features[[1]], second.positions[:1])]
    )
    assert between[0, 0] > 0.9  # features decide where places do not


def test_an_exchange_is_probable_where_two_things_are_expected_at_one_place():
    here, there = Place((20, 20), 100), Place((24, 24), 100)
    steady = [expect({f: Place((20, y), 100) for f in range(5)}, 5, 1, 0) for y in (20, 60)]
    close = [expect({f: Place((20, y), 100) for f in range(5)}, 5, 1, 0) for y in (22, 22.5)]
    far = exchange_probability(steady[0], here, steady[1], Place((20, 60), 100))
    near = exchange_probability(close[0], here, close[1], there)
    assert far < 0.01
    assert 0.3 < near <= 0.5


def test_touching_masks():
    a, b = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    a[5:10, 5:10], b[5:10, 20:25] = True, True
    assert not touches(a, [b], 6)
    assert touches(a, [b], 12)
    assert not touches(a, [], 12)


def test_a_far_piece_is_no_part_of_the_object_and_a_near_one_is():
    shape = np.zeros((64, 64), bool)
    shape[20:30, 10:20] = True
    places = {frame: Place((14.5, 24.5), 100) for frame in range(4)}
    instance = Instance(expect(places, 4, 1, 0), {3: shape}, places)
    inside = shape.copy()
    inside[20:30, 21:27] = True
    inside[20:30, 50:60] = True
    inside[27, 20:22] = False
    [piece] = strays(inside, instance)
    assert piece[20:30, 50:60].all()
    assert piece.sum() == 100
    crumbs = shape.copy()
    crumbs[40:43, 50:54] = crumbs[20:23, 21:23] = True
    [piece] = strays(crumbs, instance)
    assert piece[40:43, 50:54].all()
    assert piece.sum() == 12
    assert is_large(shape, instance)
    assert not is_large(piece, instance)  # no part of it, and no distractor either
    assert not strays(np.roll(shape, 40, 1), instance)  # the only piece is the object, wherever it is
    assert not strays(np.roll(shape, 40, 1) | (crumbs & ~shape), instance)  # ... beside a crumb where it was, too


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("start", [0, LENGTH - 1])
def test_the_right_one_of_two_equal_things_that_pass_each_other(tracker, number, start):
    clip = Twins()
    stop = LENGTH - 1 - start
    found = {}
    for each in (True, False):
        tracker.distractors = each
        state = tracker.open(clip)
        tracker.add(state, start, 1, Prompt(mask=clip.twin(number, start)))
        found[each] = followed(tracker, state, start, stop)
    right, wrong = [iou(found[True][stop].predictions[1].best, clip.twin(n, stop)) for n in (number, 1 - number)]
    assert right > 0.7
    assert wrong < 0.1
    assert iou(found[False][stop].predictions[1].best, clip.twin(number, stop)) < 0.6  # features alone take both


def test_marked_objects_are_each_others_distractors(tracker):
    clip = Twins()
    state = tracker.open(clip)
    for number in (0, 1):
        tracker.add(state, 0, number + 1, Prompt(mask=clip.twin(number, 0)))
    found = followed(tracker, state, 0, LENGTH - 1)
    assert state.objects[1].anchors[0].marked_similar == {2}
    assert not state.objects[1].anchors[0].distractors
    for number in (0, 1):
        assert iou(found[LENGTH - 1].predictions[number + 1].best, clip.twin(number, LENGTH - 1)) > 0.7


def test_a_thing_that_is_away_is_gone_and_not_taken_for_its_twin(tracker):
    clip = Twins(away=range(3, 6))
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.twin(0, 0)))
    found = followed(tracker, state, 0, 7)
    assert [frame for frame, tracked in found.items() if tracked.gone] == [3, 4, 5]
    assert iou(found[6].predictions[1].best, clip.twin(0, 6)) > 0.7


def test_without_a_distractor_nothing_changes(tracker):
    clip, masks = Clip(), []
    for distractors in (True, False):
        tracker.distractors = distractors
        state = tracker.open(clip)
        tracker.add(state, 0, 1, Prompt(mask=clip.disc(0)))
        masks.append([each.predictions[1].logits for each in tracker.propagate(state, 0, 11)])
    for one, other in zip(*masks, strict=True):
        assert np.array_equal(one, other)


def test_after_a_correction_the_right_one_is_followed_through_the_crossing(tracker):
    clip = Twins()
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.twin(0, 0)))
    followed(tracker, state, 0, 7)
    corrected = clip.twin(0, 6)
    corrected[:28] = False
    tracker.add(state, 6, 1, Prompt(mask=corrected))
    found = followed(tracker, state, 6, LENGTH - 1)
    assert state.objects[1].anchors[6].distractors
    assert state.objects[1].corrected(7, 5).any()
    for frame in range(7, LENGTH):
        assert iou(found[frame].predictions[1].best, clip.twin(0, frame)) > 0.6


def test_after_a_restart_it_goes_on_as_before(tracker):
    clip, prompt = Twins(), Prompt(mask=Twins().twin(0, 0))
    state = tracker.open(clip)
    tracker.add(state, 0, 1, prompt)
    followed(tracker, state, 0, 8)
    memory = {frame: tracker.memory(state, frame) for frame in range(9)}
    expected = followed(tracker, state, 9, 12)
    again = tracker.open(clip)
    for frame, arrays in memory.items():
        tracker.recall(again, frame, arrays, {1: prompt} if frame == 0 else {})
    for frame, tracked in followed(tracker, again, 9, 12).items():
        assert np.array_equal(tracked.predictions[1].logits, expected[frame].predictions[1].logits)


def test_a_half_hidden_shape_is_fitted_to_what_is_seen_of_it():
    rows, columns = np.mgrid[:64, :64]
    discs = {x: ((columns - x) ** 2 + (rows - 32) ** 2 <= 100) for x in (20, 32, 40)}
    steady = {frame: Place((20.0, 32.0), 300) for frame in range(6)}
    moving = {frame: Place((60.0 - 4 * frame, 32.0), 300) for frame in range(6)}
    instances = [
        Instance(expect(moving, 6, 1, 0), {5: discs[40]}, moving),  # expected at 36, but it has slowed down
        Instance(expect(steady, 6, 1, 0), {5: discs[20]}, steady),
    ]
    (first, second), hidden = fit_centers((discs[32] | discs[20]).astype(np.float32), instances)
    assert second == pytest.approx((20, 32), abs=2)
    assert first == pytest.approx((32, 32), abs=2.1)
    assert not hidden


def test_after_long_out_of_sight_it_may_be_anywhere():
    places = {frame: Place((10 + 3.0 * frame, 40.0), 100) for frame in range(8)}
    late = expect(places, 60, 1, 0)
    assert late.seen == 7
    assert late.spread > expect(places, 20, 1, 0).spread > expect(places, 8, 1, 0).spread
    assert expect(places, 60, 1, 30) is None


def test_places_are_assigned_to_the_instances_that_are_expected_there():
    rows, columns = np.mgrid[:128, :128]
    square = {x: (abs(columns - x) <= 10) & (abs(rows - 64) <= 10) for x in (40, 60, 61, 80)}
    places = {frame: Place((60, 64), 441) for frame in range(3)}
    first = Instance(Expectation((61, 64), 10, 441, 2), {2: square[60]}, places)
    second = Instance(Expectation((79, 64), 12, 441, 2), {2: square[60]}, places)
    found, _ = fit_centers((square[40] | square[80]).astype(np.float32), [first, second])
    # the first, whose place is known better, is nearer to 80 than to 40; but there the second is expected
    assert found[0] == pytest.approx((40, 64), abs=2)
    assert found[1] == pytest.approx((80, 64), abs=2)


def test_what_is_out_of_sight_has_no_part_of_what_is_in_sight():
    rows, columns = np.mgrid[:128, :128]
    disc = (columns - 60) ** 2 + (rows - 64) ** 2 <= 100
    places = {frame: Place((60, 64), 317) for frame in range(3)}
    away = Instance(Expectation((80, 64), 20, 317, 2), {2: disc}, places)
    there = Instance(Expectation((61, 64), 2, 317, 2), {2: disc}, places)
    assert fit_centers(disc.astype(np.float32), [away, there])[1] == {0}


def tracked_by_motion(seed, instances=4, frames=60, side=128):
    """Frames on which the first of some equal discs of a shell game is taken for another, where features say nothing."""
    plan = plan_moves(np.random.default_rng(seed), instances, frames, 130, 1.0)
    centers = plan.centers * np.array([side / SIZE_OF_GAMES[1], side / SIZE_OF_GAMES[0]])
    rows, columns = np.mgrid[:side, :side]

    def discs(frame):
        """The visible part of each."""
        labels = np.full((side, side), -1)
        for number in plan.depth[:, frame].argsort():
            x, y = centers[number, frame]
            labels[((columns - x) / 9) ** 2 + ((rows - y) / 16) ** 2 <= 1] = number
        return [labels == number for number in range(instances)]

    seen = [{0: mask} for mask in discs(0)]
    places = [{0: place_of(mask[0])} for mask in seen]
    wrong = []
    for frame in range(1, frames):
        visible = discs(frame)
        known = [
            Instance(expected, {expected.seen: masks[expected.seen]}, where)
            for masks, where in zip(seen, places, strict=True)
            if (expected := expect(where, frame, 1, 0)) is not None
        ]
        fitted, hidden = fit_centers(np.any(visible, axis=0).astype(np.float32), known)
        fitted = np.array(fitted)
        fitted[list(hidden)] = np.inf
        owner = [int(np.hypot(*(fitted - centers[number, frame]).T).argmin()) for number in range(instances)]
        masks = [
            np.any([visible[i] for i in range(instances) if owner[i] == number], axis=0) for number in range(instances)
        ]
        for number, mask in enumerate(masks):
            alone = not touches(mask, [other for other in masks if other is not mask], 3)
            if mask.any() and (here := place_of(mask, alone)) is not None:
                seen[number][frame] = mask
                places[number][frame] = here if alone else replace(here, center=tuple(fitted[number]))
        if owner[0] != 0:
            wrong.append(frame)
    return wrong


def test_equal_things_that_change_places_are_told_apart_by_their_motion_alone():
    lost = {seed: wrong for seed in range(20) if (wrong := tracked_by_motion(seed))}
    assert not lost
