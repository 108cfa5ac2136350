"""Structure from motion from several first pairs of photos: what most of them agree on, and what outweighs them."""

import numpy as np
import pytest
from fake_matcher import FakeMatcher, cloud, looking, photos, ring

from nbhelpers.models.colmap import ColmapEstimator
from nbhelpers.models.colmap.check import agreement
from nbhelpers.models.colmap.estimator import Answer, most_confirmed
from nbhelpers.models.colmap.mapping import Run, run_mapping
from nbhelpers.models.colmap.pairs import FeatureStore, likely_pairs, verified_pairs

pytest.importorskip("pycolmap")


def placed(poses, seen=40):
    """A run that put the photos there, each of which sees so many points."""
    views = np.repeat(np.arange(len(poses)), seen)
    lens, flat, none = np.tile(np.eye(3), (len(poses), 1, 1)), np.zeros((len(poses), 2)), np.zeros((len(views), 2))
    return Run("fake", poses, lens, flat, np.zeros((0, 3)), views, views, none, 0.5, [], [], (0, 1))


def moved(view, to):
    """The ring of eight photos, one of which is elsewhere."""
    poses = ring(8)
    poses[view] = looking(to)
    return placed(poses)


def known(*missing):
    """Two runs agree on the ring, but for some photos."""
    witnesses = placed(ring(8)), placed(ring(8))
    sure = np.ones(8, bool)
    sure[list(missing)] = False
    return Answer(witnesses[0], sure, (), witnesses)


def test_a_photo_is_where_most_first_pairs_put_it():
    right, again, wrong = placed(ring(8)), placed(ring(8)), moved(7, (0, 4, 4))
    assert most_confirmed([right, wrong], known(7), "by all") is None  # one against one
    found = most_confirmed([wrong, right, again], known(7), "by all")
    assert found.sure.all() and found.run is right
    assert "1 more by all, the same from at least 2 of 3 first pairs" in found.notes[-1]
    others = [moved(7, (0, 4, height)) for height in (1, 3, 8)]
    assert most_confirmed([right, again, *others], known(7), "by all") is None  # two of five are not most


def test_no_vote_moves_a_photo_that_two_matchers_agree_on():
    wrong = [moved(2, (0, 4, 4)) for _ in range(4)]
    assert most_confirmed(wrong, known(7), "by all") is None
    right = placed(ring(8))
    found = most_confirmed([*wrong, right], known(7), "by all")
    assert found.sure.all() and found.run is right


def test_few_points_place_no_photo_however_many_runs_agree():
    assert most_confirmed([placed(ring(8), seen=29) for _ in range(5)], known(7), "by all") is None
    assert most_confirmed([placed(ring(8), seen=30) for _ in range(5)], known(7), "by all").sure.all()


def test_a_run_starts_from_another_pair_and_goes_on_to_the_next_where_that_is_not_possible(tmp_path):
    store = FeatureStore(FakeMatcher(ring(6), cloud()), photos(6), tmp_path)
    pairs = verified_pairs(store, likely_pairs(store), seed=0)
    first = run_mapping(store, pairs, 0)
    again = run_mapping(store, pairs, 0, barred=[first.first_pair])
    third = run_mapping(store, pairs, 0, barred=[first.first_pair, again.first_pair])
    assert len({first.first_pair, again.first_pair, third.first_pair}) == 3
    for run in (again, third):
        assert run.placed.all() and agreement(first.poses, run.poses).views.all()
    everything = [(pair.first, pair.second) for pair in pairs]
    assert not run_mapping(store, pairs, 0, barred=everything).placed.any()


def test_no_run_starts_where_the_camera_only_turned(tmp_path):
    """Two photos from one place share most: a model that must begin elsewhere does not begin with them."""
    turned = np.stack([looking((4, 0, 1.2), (0, side, 0)) for side in (-0.2, 0.2)])
    store = FeatureStore(FakeMatcher(np.concatenate([turned, ring(6)[1:]]), cloud()), photos(7), tmp_path)
    pairs = verified_pairs(store, likely_pairs(store), seed=0)
    assert next(pair for pair in pairs if (pair.first, pair.second) == (0, 1)).flat
    again = run_mapping(store, pairs, 0, barred=[(5, 6)])
    assert again.first_pair not in ((0, 1), (5, 6)) and again.placed.all()


def test_a_photo_that_two_matchers_put_elsewhere_is_not_decided_by_one_of_them():
    """From any first pair its own matches put the photo in the same place, right or wrong."""
    elsewhere = ring(8)
    elsewhere[7] = looking((1.5, 3.5, 2.5))
    matchers = [FakeMatcher(ring(8), cloud(), "one", seed=1), FakeMatcher(elsewhere, cloud(), "other", seed=2)]
    scene = ColmapEstimator(matchers).reconstruct(photos(8))
    assert scene.placed[:7].all()
    assert not any("alone" in note for note in scene.notes)


def test_a_photo_that_only_one_matcher_places_is_placed_if_it_comes_out_the_same_again():
    unseen = [cloud()] * 7 + [cloud(seed=9)]
    matchers = [FakeMatcher(ring(8), cloud(), "one", seed=1), FakeMatcher(ring(8), unseen, "other", seed=2)]
    scene = ColmapEstimator(matchers).reconstruct(photos(8))
    assert scene.placed.all()
    assert any("1 more by one alone, the same from two first pairs" in note for note in scene.notes)
