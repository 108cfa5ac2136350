"""Learned features: the real lite weights on a photo whose motion is known, and wrong files."""

import numpy as np
import pytest
import torch

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.models import matchers
from nbhelpers.models.load import load
from nbhelpers.models.matchers import Sift, mutual_nearest
from nbhelpers.models.protocols import Matcher
from nbhelpers.weights import sample
from nbhelpers.weights.catalog import find

pytest.importorskip("kornia")
SHIFT = np.array([24, 16])  # pixels from one crop to the other


@pytest.fixture(scope="module")
def crops():
    """Two views of one photo: ``(256, 352)`` and ``(250, 340)``, the second moved by `SHIFT`."""
    pytest.importorskip("cv2")
    photo = load_image(sample("chelsea"))
    return photo[0:256, 0:352].copy(), photo[16:266, 24:364].copy()


def check(matcher, crops, share, within):
    """Most matches follow the known motion, and points are pixels of the picture given."""
    first, second = (matcher.features(crop) for crop in crops)
    assert first.size == crops[0].shape[:2]
    assert len(first) > 60
    assert first.points.min() >= 0
    assert (first.points <= np.array(crops[0].shape[1::-1]) - 1).all()
    pairs, scores = matcher.match(first, second)
    assert len(pairs) == len(scores) > 30
    error = np.linalg.norm(first.points[pairs[:, 0]] - second.points[pairs[:, 1]] - SHIFT, axis=1)
    assert (error < within).mean() > share
    assert np.abs(np.median(first.points[pairs[:, 0]] - second.points[pairs[:, 1]], axis=0) - SHIFT).max() < 0.3


@pytest.mark.weights("xfeat-lighterglue")
def test_xfeat_on_real_weights(crops):
    matcher = load("matcher", "xfeat-lighterglue", "cpu")
    assert isinstance(matcher, Matcher)
    check(matcher, crops, 0.8, 3)


@pytest.mark.weights("xfeat-lighterglue")
def test_xfeat_as_mutual_nearest_neighbours(crops):
    matcher = matchers.MutualNearest(load("matcher", "xfeat-lighterglue", "cpu"))
    assert isinstance(matcher, Matcher) and (matcher.name, matcher.quick) == ("xfeat", True)
    check(matcher, crops, 0.7, 3)
    first, second = (matcher.features(crop) for crop in crops)
    pairs, scores = matcher.match(first, second)
    back, _ = matcher.match(second, first)
    assert {tuple(pair) for pair in pairs} == {tuple(pair[::-1]) for pair in back}
    assert scores.min() > 0.82
    with pytest.raises(NbHelpersError, match="another extractor"):
        matcher.match(first, Sift().features(crops[1]))


@pytest.mark.weights("xfeat-lighterglue")
def test_xfeat_finds_the_same_with_any_number_of_threads(crops):
    matcher, found = load("matcher", "xfeat-lighterglue", "cpu"), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(matcher.features(crops[0]))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        np.testing.assert_array_equal(other.points, found[0].points)
        np.testing.assert_array_equal(other.descriptors, found[0].descriptors)


@pytest.mark.weights("disk-lightglue")
def test_disk_on_real_weights(crops):
    check(load("matcher", "disk-lightglue", "cpu"), crops, 0.95, 3)


@pytest.mark.weights("aliked-lightglue")
def test_aliked_on_real_weights(crops):
    check(load("matcher", "aliked-lightglue", "cpu"), crops, 0.95, 3)


def test_sift(crops):
    pytest.importorskip("pycolmap")
    assert isinstance(Sift(), Matcher)
    check(Sift(contrast=0.001), crops, 0.95, 1)


def test_larger_photos_are_made_smaller_and_points_given_in_their_own_pixels(crops):
    pytest.importorskip("pycolmap")
    import cv2

    large = cv2.resize(crops[0], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    small, grown = Sift(contrast=0.001), Sift(contrast=0.001, longest=352)
    first, second = small.features(crops[0]), grown.features(large)
    pairs, _ = grown.match(first, second)
    assert len(pairs) > 30
    # the corner of the picture is half a pixel before the first centre, at both sizes
    expected = (first.points[pairs[:, 0]] + 0.5) * 3 - 0.5
    assert np.median(np.linalg.norm(second.points[pairs[:, 1]] - expected, axis=1)) < 0.7


@pytest.mark.weights("xfeat-lighterglue")
@pytest.mark.parametrize("size", [(1, 1), (20, 300), (64, 64)])
def test_tiny_or_plain_pictures_have_no_features_and_no_matches(size):
    matcher = load("matcher", "xfeat-lighterglue", "cpu")
    plain = matcher.features(np.full((*size, 3), 128, np.uint8))
    assert len(plain) == 0
    pairs, scores = matcher.match(plain, plain)
    assert pairs.shape == (0, 2)
    assert len(scores) == 0


def test_places_in_the_dark_do_not_count():
    noise = np.random.default_rng(0).normal(3, 1, (80, 80, 3)).clip(0, 255).astype(np.uint8)
    noise[40:60, 40:60] = 200
    points = np.array([[10.0, 10.0], [40.0, 50.0]], np.float32)
    np.testing.assert_array_equal(matchers.textured(noise, points), [False, True])


def test_features_of_another_extractor_are_refused(crops):
    pytest.importorskip("pycolmap")
    features = Sift("one").features(crops[0])
    with pytest.raises(NbHelpersError, match="another extractor"):
        Sift("two").match(features, features)


def test_weights_of_another_network_are_one_clear_error(tmp_path):
    wrong = tmp_path / "wrong.pt"
    torch.save({"a": torch.zeros(1)}, wrong)
    for kind in ("disk", "xfeat", "aliked"):
        with pytest.raises(NbHelpersError, match="another network"):
            matchers.build("some", {"extractor": wrong, "matcher": wrong}, "cpu", kind)
    wrong.write_bytes(b"damaged")
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        matchers.build("some", {"extractor": wrong, "matcher": wrong}, "cpu", "disk")


def test_the_catalog_names_an_adapter_for_each_lite_matcher():
    for name in ("xfeat-lighterglue", "disk-lightglue", "aliked-lightglue"):
        assert find(name).adapter == "nbhelpers.models.matchers:build"
        assert find(name).options["kind"] in matchers.EXTRACTORS


def test_mutual_nearest_neighbours_are_those_of_both_sides():
    random = np.random.default_rng(0)
    for count, other in ((50, 60), (3, 1), (200, 180)):
        first, second = (random.normal(size=(size, 16)).astype(np.float32) for size in (count, other))
        first[1] = first[0]  # equal features: only the first is matched
        near, best, mutual = mutual_nearest(first, second)
        assert np.array_equal(best, near.argmax(1))
        assert np.array_equal(mutual, near.argmax(0)[best] == np.arange(count))
        assert len(set(best[mutual])) == mutual.sum() > 0
