"""Structure from motion on worlds that are known, by matchers that know them: right models, and every way to be wrong."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from fake_matcher import FOCAL, SIZE, FakeMatcher, cloud, looking, photos, ring, side_by_side, view_ahead
from scene_maker import camera, make_scene

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.scenes import Scene
from nbhelpers.models import colmap, colmap_mapping
from nbhelpers.models.colmap import (
    ColmapEstimator,
    agreement,
    build,
    center_difference,
    color_conflicts,
    rotation_differences,
    similarity_transform,
)
from nbhelpers.models.colmap_mapping import run_global_mapping, run_mapping, triangulate
from nbhelpers.models.colmap_matching import (
    FeatureStore,
    candidate_pairs,
    connected_groups,
    moving_matches,
    mutual_neighbours,
    pairs_of_runs,
    verified_pairs,
    vlad,
)
from nbhelpers.models.protocols import Matcher, SceneEstimator
from nbhelpers.models.values import LocalFeatures

pytest.importorskip("pycolmap")


def twice(poses, points, **options):
    """Two matchers that see the same world with noise of their own."""
    return [FakeMatcher(poses, points, f"fake {seed}", seed=seed, **options) for seed in (1, 2)]


def told(scene):
    return " | ".join(scene.notes)


def worst_turn(scene, poses):
    here = np.flatnonzero(scene.placed)
    return rotation_differences(poses[here][:, :, :3], scene.world_to_camera[here][:, :, :3]).max()


def test_a_ring_of_photos_is_recovered_with_its_cameras_points_and_colours():
    poses = ring(8)
    scene = ColmapEstimator(twice(poses, cloud())).reconstruct(photos(8), [f"{n}.jpg" for n in range(8)])
    assert scene.placed.all()
    assert worst_turn(scene, poses) < 0.5
    assert center_difference(poses, scene.world_to_camera) < 0.015
    assert np.median(scene.K[:, 0, 0]) == pytest.approx(700, rel=0.03)
    assert scene.K[0, 0, 2] == pytest.approx((SIZE[1] - 1) / 2)
    assert len(scene.points) > 200
    assert np.median(scene.errors) < 1
    assert (scene.colors == 90).all()
    assert scene.names[3] == "3.jpg"
    assert "agrees within" in told(scene)


def test_the_same_photos_give_the_same_scene():
    scenes = [ColmapEstimator(twice(ring(6), cloud())).reconstruct(photos(6)) for _ in range(2)]
    np.testing.assert_array_equal(scenes[0].world_to_camera, scenes[1].world_to_camera)
    np.testing.assert_array_equal(scenes[0].points, scenes[1].points)


def test_protocols():
    assert isinstance(build("colmap", {}, "cpu"), SceneEstimator)
    assert isinstance(FakeMatcher(ring(2), cloud()), Matcher)


def test_runs_that_find_different_cameras_are_not_believed():
    """Both place every photo with a small error; the second follows another turn of the object."""
    poses = ring(8)
    matchers = [FakeMatcher(poses, cloud(), "one"), FakeMatcher(ring(8, arc=-260.0), cloud(), "other")]
    scene = ColmapEstimator(matchers).reconstruct(photos(8))
    assert not scene.placed.any()
    assert len(scene.points) == 0
    assert "could not be reconstructed" in told(scene)
    assert "differ by" in told(scene)


def test_a_third_run_decides_between_two():
    poses = ring(8)
    matchers = [FakeMatcher(ring(8, arc=-260.0), cloud(), "wrong"), *twice(poses, cloud())]
    scene = ColmapEstimator(matchers).reconstruct(photos(8))
    assert scene.placed.all()
    assert worst_turn(scene, poses) < 0.5


def test_a_third_run_is_not_made_when_two_agree():
    third = FakeMatcher(ring(6), cloud(), "third")
    ColmapEstimator([*twice(ring(6), cloud()), lambda: third]).reconstruct(photos(6))
    assert third.asked == 0


def test_a_quick_check_that_agrees_on_every_photo_spares_the_other_runs():
    poses = ring(8)
    first, check = twice(poses, cloud())
    second = FakeMatcher(poses, cloud(), "second", seed=3)
    scene = ColmapEstimator([first, second], check=lambda: check).reconstruct(photos(8))
    assert scene.placed.all() and worst_turn(scene, poses) < 0.5
    assert second.asked == 0
    assert "cameras from fake 1" in told(scene) and "fake 2 agrees" in told(scene)


@pytest.mark.parametrize("fault", ["other cameras", "a photo missing", "not available"])
def test_a_quick_check_that_does_not_confirm_all_changes_nothing(fault):
    poses, points = ring(8), [cloud()] * 8

    def check():
        if fault == "not available":
            raise NbHelpersError("no weights")
        if fault == "other cameras":
            return FakeMatcher(ring(8, arc=-260.0), cloud(), "check")
        return FakeMatcher(poses, [*points[:-1], points[0][:10]], "check")

    without = ColmapEstimator(twice(poses, cloud())).reconstruct(photos(8))
    scene = ColmapEstimator(twice(poses, cloud()), check=check).reconstruct(photos(8))
    np.testing.assert_array_equal(scene.world_to_camera, without.world_to_camera)
    assert scene.notes == without.notes


def test_more_photos_without_a_quick_check_are_mapped_by_the_other_runs():
    def check():
        raise NbHelpersError("no weights")

    scene = ColmapEstimator(twice(ring(12), cloud()), check=check).reconstruct(photos(12))
    assert scene.placed.all() and "fake 2 agrees" in told(scene)


@pytest.fixture
def many(monkeypatch):
    """Let ten photos be many."""
    for module in (colmap, colmap_mapping):
        monkeypatch.setattr(module, "MANY", 9)


def test_many_photos_are_checked_by_mapping_all_cameras_at_once(many, monkeypatch):
    poses, found = ring(10), []

    def run(*given):
        found.append(run_global_mapping(*given))
        return found[-1]

    monkeypatch.setattr(colmap, "run_global_mapping", run)
    scenes = []
    for _ in range(2):
        first, check = twice(poses, cloud())
        second = FakeMatcher(poses, cloud(), "second", seed=3)
        scenes.append(ColmapEstimator([first, second], check=check).reconstruct(photos(10)))
        assert second.asked == 0 and "fake 2 agrees" in told(scenes[-1])
    assert scenes[0].placed.all() and worst_turn(scenes[0], poses) < 0.5
    np.testing.assert_array_equal(scenes[0].world_to_camera, scenes[1].world_to_camera)
    np.testing.assert_array_equal(found[0].poses, found[1].poses)
    assert found[0].placed.all() and center_difference(poses, found[0].poses) < 0.02


def test_many_photos_are_checked_one_by_one_where_all_at_once_is_not_accurate(many, monkeypatch):
    def inaccurate(*given):
        run = run_global_mapping(*given)
        return replace(run, poses=ring(10, arc=-260.0))

    monkeypatch.setattr(colmap, "run_global_mapping", inaccurate)
    first, check = twice(ring(10), cloud())
    second = FakeMatcher(ring(10), cloud(), "second", seed=3)
    scene = ColmapEstimator([first, second], check=check).reconstruct(photos(10))
    assert scene.placed.all() and "fake 2 agrees" in told(scene) and second.asked == 0


@pytest.mark.parametrize("fault", ["other cameras", "a photo missing", "nothing in common"])
def test_many_photos_that_the_check_does_not_confirm_are_mapped_again(many, fault):
    poses = ring(10)
    seen = [cloud()] * 9 + [cloud()[:10]]
    if fault == "nothing in common":
        seen = [cloud(seed=number) for number in range(10)]
    cameras, points = (ring(10, arc=-260.0), cloud()) if fault == "other cameras" else (poses, seen)
    scene = ColmapEstimator(twice(poses, cloud()), check=FakeMatcher(cameras, points, "check")).reconstruct(photos(10))
    assert scene.placed.all() and "fake 2 agrees" in told(scene)


def test_one_run_alone_is_not_believed():
    scene = ColmapEstimator([FakeMatcher(ring(6), cloud())]).reconstruct(photos(6))
    assert not scene.placed.any()
    assert "no other confirmed" in told(scene)


def test_the_still_ground_behind_a_turntable_does_not_count():
    poses = ring(8, arc=150.0)
    scene = ColmapEstimator(twice(poses, cloud(), ground=400)).reconstruct(photos(8))
    assert scene.placed.all()
    assert worst_turn(scene, poses) < 0.5


def test_photos_of_two_scenes_keep_the_larger_and_tell_the_other():
    poses = np.concatenate([ring(5), ring(3)])
    points = [cloud(seed=0)] * 5 + [cloud(seed=1)] * 3
    scene = ColmapEstimator(twice(poses, points)).reconstruct(photos(8), [f"{n}.jpg" for n in range(8)])
    np.testing.assert_array_equal(np.flatnonzero(scene.placed), range(5))
    assert "2 groups" in told(scene)
    assert "5.jpg" in told(scene)


def test_a_photo_that_does_not_belong_is_told():
    points = [cloud(seed=0)] * 5 + [cloud(seed=3)]
    scene = ColmapEstimator(twice(ring(6), points)).reconstruct(photos(6), list("abcdef"))
    np.testing.assert_array_equal(np.flatnonzero(scene.placed), range(5))
    assert "too few matches with the others: f" in told(scene)


def test_a_camera_that_only_turned_shows_no_depth():
    poses = np.stack([looking((0, 0, 0), (np.cos(a), np.sin(a), 0)) for a in np.linspace(0, 0.5, 6)])
    points = np.array([6.0, 1.5, 0]) + cloud(800, size=4)
    scene = ColmapEstimator(twice(poses, points)).reconstruct(photos(6))
    assert not scene.placed.any()
    assert "only by a rotation" in told(scene)


def test_photos_taken_side_by_side_are_recovered_though_no_pair_sees_a_wide_angle():
    poses = side_by_side(6, 0.08)
    scene = ColmapEstimator(twice(poses, view_ahead(), noise=0.2)).reconstruct(photos(6))
    assert scene.placed.all()
    assert worst_turn(scene, poses) < 0.5
    assert center_difference(poses, scene.world_to_camera) < 0.03
    assert "taken close together" in told(scene)


def test_photos_of_one_place_always_come_with_a_reason():
    """Steps of a hundredth of the distance, and noise: nothing to start from, or too flat to be believed."""
    scene = ColmapEstimator(twice(side_by_side(4, 0.004), view_ahead(120), noise=0.6)).reconstruct(photos(4))
    assert not scene.placed.any()
    assert len(scene.notes) > 1


def test_the_least_angle_is_lowered_only_where_no_pair_is_wide(tmp_path, monkeypatch):
    import pycolmap

    tried, mapping = [], pycolmap.incremental_mapping

    def watched(database, images, output, options):
        tried.append(options.mapper.init_min_tri_angle)
        return mapping(database, images, output, options)

    monkeypatch.setattr(pycolmap, "incremental_mapping", watched)
    for name, poses, points in (("ring", ring(5), cloud(150)), ("row", side_by_side(5, 0.08), view_ahead(150))):
        store = FeatureStore(FakeMatcher(poses, points, noise=0.2, seed=1), photos(5), tmp_path / name)
        run = run_mapping(store, verified_pairs(store, candidate_pairs(store), 0), 0)
        assert run.placed.all()
    assert tried == [16.0, 2.0]


def test_a_model_without_points_does_not_end_the_search(tmp_path, monkeypatch):
    import pycolmap

    tried, mapping = [], pycolmap.incremental_mapping

    def collapsed_at_first(database, images, output, options):
        models = mapping(database, images, output, options)
        tried.append(options.mapper.init_min_tri_angle)
        if len(tried) == 1:
            for model in models.values():
                for point in list(model.points3D):
                    model.delete_point3D(point)
        return models

    monkeypatch.setattr(pycolmap, "incremental_mapping", collapsed_at_first)
    store = FeatureStore(FakeMatcher(ring(5), cloud(150), noise=0.2, seed=1), photos(5), tmp_path)
    run = run_mapping(store, verified_pairs(store, candidate_pairs(store), 0), 0)
    assert tried == [16.0, 8.0] and run.placed.all() and len(run.points)


def test_identical_photos_show_no_depth():
    poses = np.repeat(ring(2)[:1], 5, axis=0)
    scene = ColmapEstimator(twice(poses, cloud(), noise=0.05)).reconstruct(photos(5))
    assert not scene.placed.any()
    assert "same viewpoint" in told(scene)


def test_photos_without_overlap():
    scene = ColmapEstimator(twice(ring(4), [cloud(seed=n) for n in range(4)])).reconstruct(photos(4))
    assert not scene.placed.any()
    assert "do not overlap" in told(scene)


def test_photos_without_texture_are_named():
    scene = ColmapEstimator(twice(ring(4), cloud(10))).reconstruct(photos(4), list("abcd"))
    assert not scene.placed.any()
    assert "too little texture" in told(scene)
    assert "a, b, c, d" in told(scene)


def test_one_photo():
    scene = ColmapEstimator(twice(ring(1), cloud())).reconstruct(photos(1))
    assert not scene.placed.any()
    assert "single photo" in told(scene)


def test_two_photos_are_enough_when_both_runs_agree():
    poses = ring(2, arc=25.0)
    scene = ColmapEstimator(twice(poses, cloud(), noise=0.1)).reconstruct(photos(2))
    if scene.placed.any():
        assert worst_turn(scene, poses) < 3
    else:
        assert "could not be reconstructed" in told(scene)


def test_photos_of_different_sizes_have_cameras_of_their_own():
    sizes = [SIZE, SIZE, SIZE, (640, 480), (640, 480), SIZE, (640, 480), SIZE]
    poses = ring(8)
    scene = ColmapEstimator(twice(poses, cloud())).reconstruct(photos(8, sizes))
    assert scene.placed.all()
    assert worst_turn(scene, poses) < 0.7
    np.testing.assert_array_equal(scene.sizes, sizes)
    assert scene.K[3, 0, 2] == pytest.approx(239.5)


def test_learned_features_that_cannot_be_had_are_told():
    def missing():
        raise NbHelpersError("the weights are not here")

    scene = ColmapEstimator([*twice(ring(6), cloud())[:1], missing, FakeMatcher(ring(6), cloud(), "b", seed=5)])
    scene = scene.reconstruct(photos(6))
    assert scene.placed.all()
    assert "the weights are not here" in told(scene)


@pytest.mark.parametrize(("count", "names"), [(0, None), (2, ["a"])])
def test_no_photos_or_names_that_do_not_fit(count, names):
    with pytest.raises(NbHelpersError, match="differ in number"):
        ColmapEstimator(twice(ring(2), cloud())).reconstruct(photos(count), names)


def test_agreement_leaves_out_the_photo_that_is_elsewhere():
    first, second = ring(6), ring(6)
    second[2] = looking((0, 4, 4))
    found = agreement(first, second)
    np.testing.assert_array_equal(found.views, [True, True, False, True, True, True])
    assert found.median < 0.1
    half = ring(6)
    half[3:] = ring(6, arc=-150)[3:]
    assert not agreement(first, half).holds


def test_agreement_wants_the_centres_too():
    still = ring(6).copy()
    still[:, :, 3] = np.random.default_rng(0).normal(size=(6, 3))
    assert not agreement(ring(6), still).holds


def test_similarity_finds_what_was_done():
    points = np.random.default_rng(0).normal(size=(10, 3))
    turn = looking((1, 2, 3))[:, :3]
    scale, found, shift = similarity_transform(points, 2.5 * points @ turn.T + [1, 2, 3])
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(found, turn, atol=1e-9)
    np.testing.assert_allclose(shift, [1, 2, 3])


def test_many_photos_are_matched_with_their_neighbours_only(tmp_path):
    views = 20
    store = FeatureStore(FakeMatcher(ring(views), cloud()), photos(views), tmp_path)
    chosen = candidate_pairs(store)
    assert len(chosen) < views * (views - 1) / 2
    assert {(view, view + 1) for view in range(views - 1)} <= set(chosen)


def along_a_street(views, shown=60, step=5, seed=0):
    """Descriptors of photos along a street: each shows some of the last one's features, and new ones."""
    random = np.random.default_rng(seed)
    street = random.normal(size=(shown + step * views, 32)).astype(np.float32)
    seen = [street[step * view : step * view + shown] + random.normal(0, 0.1, (shown, 32)) for view in range(views)]
    return [(each / np.linalg.norm(each, axis=1, keepdims=True)).astype(np.float32) for each in seen]


def test_global_descriptors_are_alike_where_photos_share_features():
    views = 70
    alike = vlad(along_a_street(views))
    np.testing.assert_allclose(np.linalg.norm(alike, axis=1), 1, atol=1e-5)
    nearest = np.argsort(-(alike @ alike.T), axis=1)[:, 1:5]
    assert (np.abs(nearest - np.arange(views)[:, None]) <= 4).mean() > 0.95
    assert not vlad([np.zeros((0, 32), np.float32)] * 3).any()
    bare = vlad([*along_a_street(2), np.zeros((0, 32), np.float32)])
    assert bare[0].any() and not bare[2].any()


class StreetMatcher(FakeMatcher):
    """Gives each photo the features of its place along a street."""

    def __init__(self, views):
        super().__init__(ring(2), cloud(), "street")
        self.seen = along_a_street(views)

    def features(self, image):
        descriptors = self.seen[int(image[0, 0, 0])]
        count = len(descriptors)
        return LocalFeatures(SIZE, self.name, np.zeros((count, 2), np.float32), descriptors, np.ones(count, np.float32))


def test_neighbours_of_many_photos_are_those_of_all_pairs(tmp_path, monkeypatch):
    views = 70
    store = FeatureStore(StreetMatcher(views), photos(views), tmp_path)
    compared = mutual_neighbours(store)
    monkeypatch.setattr("nbhelpers.models.colmap_matching.SHORTLIST", views)
    every = mutual_neighbours(store)
    assert np.count_nonzero(compared == 0) > np.count_nonzero(every == 0)
    chosen = [np.argsort(-each, axis=1, kind="stable")[:, :6] for each in (compared, every)]
    same = [len(set(first) & set(second)) for first, second in zip(*map(np.ndarray.tolist, chosen), strict=True)]
    assert np.mean(same) > 5.7


def test_known_cameras_get_points():
    poses, points = ring(5), cloud()
    views = len(poses)
    known = Scene(
        tuple("abcde"),
        np.tile(SIZE, (views, 1)),
        np.tile([[FOCAL, 0, (SIZE[1] - 1) / 2], [0, FOCAL, (SIZE[0] - 1) / 2], [0, 0, 1]], (views, 1, 1)),
        poses,
        np.zeros((0, 3)),
        np.zeros((0, 3), np.uint8),
        np.zeros(0, int),
        np.zeros(0, int),
        np.zeros((0, 2)),
    )
    found = triangulate(known, photos(views), FakeMatcher(poses, points, noise=0.2))
    np.testing.assert_array_equal(found.world_to_camera, poses)
    assert len(found.points) > 250
    away = np.linalg.norm(found.points[:, None] - points[None], axis=2).min(1)
    assert np.median(away) < 0.01
    assert np.median(found.errors) < 0.5
    with pytest.raises(NbHelpersError, match="differ in number"):
        triangulate(known, photos(2), FakeMatcher(poses, points))
    with pytest.raises(NbHelpersError, match="other sizes"):
        triangulate(known, photos(views, [(100, 100)] * views), FakeMatcher(poses, points))


def test_the_search_for_pairs_of_slow_features_goes_by_what_quick_ones_found(tmp_path):
    store = FeatureStore(FakeMatcher(ring(6), cloud()), photos(6), tmp_path)
    pairs = verified_pairs(store, [(0, 1), (1, 2), (2, 3), (3, 4)], seed=0)
    assert pairs_of_runs(6, []) is None
    chosen = pairs_of_runs(6, [pairs])
    assert {(0, 1), (1, 2), (2, 3), (3, 4)} <= set(chosen)
    assert {(other, 5) for other in range(5)} <= set(chosen)  # 5 is known to nobody yet: all are asked


def test_groups_and_moving():
    assert connected_groups(3, []) == [[0], [1], [2]]
    points = np.zeros((30, 2))
    assert moving_matches(points, points).all()  # nothing moves: all are kept
    moved = points.copy()
    moved[:20] += 5
    np.testing.assert_array_equal(moving_matches(points, moved), np.arange(30) < 20)


@pytest.fixture(scope="module")
def floor():
    """A floor of two colours and photos of it from all sides; each photo observes every other point."""
    eyes = [(3 * np.sin(a), 2.0, 3 * np.cos(a)) for a in np.linspace(0, 2 * np.pi, 6, endpoint=False)]
    scene, things = make_scene({"red": ((-1, 0, 0), (2, 0.01, 2)), "blue": ((1, 0, 0), (2, 0.01, 2))}, eyes, (0, 0, 0))
    colors = np.zeros((len(scene.points), 3), np.uint8)
    colors[things["red"]], colors[things["blue"]] = (200, 40, 40), (40, 60, 190)
    images = []
    for view in range(len(scene)):
        image = np.full((*scene.sizes[view], 3), 128, np.uint8)
        for (x, y), color in zip(scene.project(view, scene.points)[0], colors.tolist(), strict=True):
            cv2.circle(image, (round(x), round(y)), 4, color, -1)
        images.append(image)
    kept = (scene.observation_point + scene.observation_view) % 2 == 0
    seen = (each[kept] for each in (scene.observation_view, scene.observation_point, scene.observation_pixel))
    return Scene(scene.names, scene.sizes, scene.K, scene.world_to_camera, scene.points, colors, *seen), images


def test_a_camera_on_the_wrong_side_contradicts_the_colours_of_the_others(floor):
    scene, images = floor
    assert (color_conflicts(scene, images) < 0.2).all()
    wrong = scene.world_to_camera.copy()
    wrong[2] = camera(scene.centers[2] * (-1, 1, -1), (0, 0, 0))
    conflicts = color_conflicts(replace(scene, world_to_camera=wrong), images)
    assert conflicts[2] > colmap.MAX_CONFLICT and np.nanmax(np.delete(conflicts, 2)) < 0.5


def test_a_photo_of_another_exposure_does_not_contradict_the_others(floor):
    scene, images = floor
    dark = [image // 2 if view == 2 else image for view, image in enumerate(images)]
    assert color_conflicts(scene, dark)[2] < 0.5


def test_colours_give_no_verdict_where_all_are_alike_or_few_points_are_seen(floor):
    scene, images = floor
    plain = replace(scene, colors=np.full_like(scene.colors, 128))
    assert np.isnan(color_conflicts(plain, [np.full_like(image, 128) for image in images])).all()
    few = replace(scene, points=scene.points[:50], colors=scene.colors[:50], observation_view=np.zeros(0, int),
                  observation_point=np.zeros(0, int), observation_pixel=np.zeros((0, 2)))  # fmt: skip
    assert np.isnan(color_conflicts(few, images)).all()


@pytest.mark.parametrize("wrong", [(3,), (0, 1, 2, 3)])
def test_a_photo_whose_colours_contradict_the_others_is_not_registered(monkeypatch, wrong):
    """Of most photos the light may have changed, so nothing is concluded."""
    conflicts = np.isin(np.arange(6), wrong).astype(float)
    monkeypatch.setattr(colmap, "color_conflicts", lambda scene, images: conflicts)
    scene = ColmapEstimator(twice(ring(6), cloud())).reconstruct(photos(6), [f"{n}.jpg" for n in range(6)])
    gone = wrong if len(wrong) == 1 else ()
    assert np.flatnonzero(~scene.placed).tolist() == list(gone)
    assert not np.isin(scene.observation_view, gone).any()
    assert ("other colours there: 3.jpg" in told(scene)) == bool(gone)
