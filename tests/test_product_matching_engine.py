"""The engine of product matching: features, gallery, candidates, judging and calibration, on made pictures."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from fake_encoder import FakeEncoder
from fake_segmenter import FakeSegmenter

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import encode_rle, iou
from nbhelpers.core.prompts import Prompt
from nbhelpers.models import sam2_grid
from nbhelpers.product_matching import features, propose
from nbhelpers.product_matching.features import InstanceFeatures, unit
from nbhelpers.product_matching.gallery import Gallery, common_components, evenly_spaced, mean_feature
from nbhelpers.product_matching.match import (
    DECISIONS,
    Calibration,
    calibrate,
    compare_patches,
    match_photo,
    patch_cosines,
    score_photos,
    similarity_scores,
    subtract_background,
)
from nbhelpers.product_matching.propose import DescribedProposal, PhotoProposals, local_maxima, similarity_map
from nbhelpers.product_matching.search import load_proposals, save_proposals
from nbhelpers.product_matching.settings import ProductSettings


class Segmenter(FakeSegmenter):
    """The fake one, with points."""

    def predict_points(self, embedding, points, choose=None):
        from nbhelpers.models.values import Prediction

        kept = []
        for number, point in enumerate(points):
            answer = self.predict(embedding, Prompt(points=[point]))
            readings = replace(answer, logits=answer.logits[1:], scores=answer.scores[1:], choice=1)
            index = choose(number, readings) if choose else readings.choice
            kept.append((readings.logits[index], readings.scores[index]))
        logits, scores = (np.stack(part) for part in zip(*kept, strict=True))
        return Prediction(logits, scores, embedding.size, logits.shape[1:])


def scene(*things, size=(240, 320), seed=0):
    """A calm background with blobs of a striped product ``(x, y, radius, colour)``."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), (90, 110, 90), np.uint8) + rng.integers(0, 6, (*size, 3), dtype=np.uint8)
    masks = []
    for x, y, radius, colour in things:
        mask = np.zeros(size, np.uint8)
        cv2.circle(mask, (x, y), radius, 1, -1)
        image[mask > 0] = colour
        masks.append(mask > 0)
    return image, masks


RED, BLUE = (200, 40, 40), (40, 60, 200)


@pytest.fixture(scope="module")
def reference():
    image, (mask,) = scene((100, 120, 50, RED))
    return image, mask


@pytest.fixture(scope="module")
def gallery(reference):
    encoder = FakeEncoder()
    return Gallery((features.describe_reference(*reference, encoder),), mean=mean_feature([reference[0]], encoder))


def random_features(seed, k=30, d=24, colour=(50, 40, 30), base=None):
    rng = np.random.default_rng(seed)
    patches = features.unit(
        rng.normal(size=(k, d)).astype(np.float32) if base is None else np.asarray(base, np.float32)
    )
    return InstanceFeatures(
        features.unit(patches.mean(0)),
        patches.astype(np.float32),
        np.ones(k, np.float32),
        rng.random((k, 2), np.float32),
        np.tile(np.array(colour, np.float32), (k, 1)),
    )


def candidate(features, box=(10, 10, 50, 50), size=(100, 100), quality=0.9):
    mask = np.zeros(size, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return DescribedProposal(encode_rle(mask), box, int(mask.sum()), quality, features)


def found(*items, size=(100, 100)):
    return PhotoProposals(size, tuple(items), 5, 0.5, ("fake", "fake-encoder"))


def test_the_foreground_average_is_the_weighted_mean_of_tokens_of_length_1():
    rng = np.random.default_rng(1)
    tokens, cover = rng.normal(size=(3, 4, 5)).astype(np.float32), rng.random((3, 4)).astype(np.float32)
    wanted = sum(cover[r, c] * tokens[r, c] for r in range(3) for c in range(4))
    np.testing.assert_allclose(features.foreground_average(tokens, cover), wanted / np.linalg.norm(wanted), rtol=1e-5)


def test_a_description_is_that_of_the_masked_crop_whatever_lies_around(reference):
    image, mask = reference
    encoder = FakeEncoder()
    first = features.describe_mask(image, mask, encoder)
    other = image.copy()
    other[~mask] = np.random.default_rng(3).integers(0, 256, (np.count_nonzero(~mask), 3))
    second = features.describe_mask(other, mask, encoder)
    assert first.average @ second.average > 0.999
    np.testing.assert_allclose(np.linalg.norm(first.patches, axis=1), 1, rtol=1e-5)
    assert first.weights.min() > 0 and first.weights.max() <= 1.0001
    assert first.positions.min() > 0 and first.positions.max() < 1
    lab = cv2.cvtColor(np.float32([[RED]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    np.testing.assert_allclose(np.median(first.colours, axis=0), lab, atol=2)


def test_a_reference_is_seen_from_afar_in_three_sizes_at_equal_cost_in_any_photo(reference):
    image, mask = reference
    large = cv2.copyMakeBorder(image, 900, 900, 900, 900, cv2.BORDER_REPLICATE)
    seen = []

    class Watching(FakeEncoder):
        def tokens(self, images):
            seen.extend(image.shape for image in images)
            return super().tokens(images)

    afar = features.coarse_descriptors(large, np.pad(mask, 900), Watching())
    assert afar.shape == (3, Watching().dimension)
    np.testing.assert_allclose(np.linalg.norm(afar, axis=1), 1, rtol=1e-5)
    assert [max(shape) for shape in seen] == pytest.approx([3 * 14 * n for n in features.COARSE_LENGTHS], abs=14)


def test_a_small_thing_is_the_hottest_place_of_a_photo(gallery):
    image, (small, *_) = scene((280, 40, 14, RED), (90, 150, 60, BLUE), (220, 180, 40, (60, 160, 60)))
    heat = similarity_map(image, FakeEncoder(), gallery, 320)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert small[int((y + 0.5) * 240 / heat.shape[0]), int((x + 0.5) * 320 / heat.shape[1])]
    other = cv2.resize(np.uint8(~small), heat.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    assert heat[cv2.erode(np.uint8(other), np.ones((3, 3))) > 0].max() < 0.8 * heat.max()


def test_a_crop_shows_the_thing_in_the_middle_also_at_the_border_of_the_photo():
    image, (mask,) = scene((5, 120, 30, RED))
    crop, alpha = features.square_crop(image, mask, 112)
    assert crop.shape == (112, 112, 3) and alpha.shape == (112, 112)
    rows, columns = np.nonzero(alpha > 0.5)
    assert abs(rows.mean() - 55.5) < 2 and abs((columns.min() + columns.max()) / 2 - 55.5) < 2
    assert np.abs(crop[alpha > 0.9].astype(int) - RED).max() < 10


def test_what_cannot_be_described_is_refused(reference):
    image, mask = reference
    with pytest.raises(NbHelpersError, match="mask to describe is empty"):
        features.describe_mask(image, np.zeros_like(mask), FakeEncoder())
    with pytest.raises(NbHelpersError, match="differ in size"):
        features.describe_mask(image, mask[:100], FakeEncoder())


def test_features_and_galleries_check_what_they_are_given():
    one = random_features(0)
    with pytest.raises(NbHelpersError, match="do not match"):
        replace(one, weights=one.weights[:-1])
    with pytest.raises(NbHelpersError, match="do not match"):
        Gallery(())
    with pytest.raises(NbHelpersError, match="do not match"):
        Gallery((one,)).add(random_features(1, d=12))


def test_a_gallery_grows_without_changing_and_its_digest_tells():
    first = Gallery((random_features(0),))
    grown, rejected = first.add(random_features(1)), first.reject(random_features(1))
    assert (len(first.positives), len(grown.positives), len(rejected.negatives)) == (1, 2, 1)
    assert len({first.digest, grown.digest, rejected.digest}) == 3
    assert first.digest == Gallery((random_features(0),)).digest == rejected.guide.digest


def test_centring_takes_the_mean_and_the_common_directions_off():
    encoder = FakeEncoder()
    images = [scene((60 + 20 * i, 120, 30, RED), seed=i)[0] for i in range(3)]
    shared = mean_feature(images, encoder)
    assert shared.shape == (3, 24)
    np.testing.assert_allclose(shared[1:] @ shared[1:].T, np.eye(2), atol=1e-5)
    centred = Gallery((random_features(0),), mean=shared).centred(random_features(1).patches)
    np.testing.assert_allclose(centred @ shared[1:].T, 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), 1, rtol=1e-5)
    with pytest.raises(NbHelpersError, match="no photo"):
        mean_feature([], encoder)


@pytest.mark.parametrize("centre", [False, True])
def test_the_fast_products_are_those_of_centred_patches(centre):
    rng = np.random.default_rng(2)
    directions = np.linalg.qr(rng.normal(size=(24, 2)))[0].T
    shared = np.concatenate([rng.normal(size=(1, 24)) * 0.1, directions]).astype(np.float32) if centre else None
    reference, thing = random_features(0), random_features(1, k=40)
    gallery = Gallery((reference,), mean=shared)
    slow = gallery.centred(thing.patches) @ gallery.centred(reference.patches).T
    fast = patch_cosines([thing.patches[:3], thing.patches[3:]], reference, gallery)
    np.testing.assert_allclose(fast, slow, atol=1e-5)


class PartsSegmenter(Segmenter):
    """A point shows the upper half of what was clicked, a box all that is in it."""

    def predict(self, embedding, prompt):
        answer = super().predict(embedding, prompt)
        if prompt.box is None:
            rows = np.nonzero((answer.logits[0] > 0).any(1))[0]
            logits = answer.logits.copy()
            logits[:, (rows[0] + rows[-1]) // 2 :] = -50
            return replace(answer, logits=logits)
        x, y = prompt.box.reshape(2, 2).mean(0)
        whole = super().predict(embedding, Prompt(points=[(x, y)]))
        return replace(whole, logits=whole.logits[:1], scores=whole.scores[:1], choice=0)


def test_what_a_point_shows_in_part_is_whole_once_its_box_was_asked(gallery, monkeypatch):
    image, (_, mask) = scene((60, 60, 20, BLUE), (200, 120, 45, RED), seed=4)
    monkeypatch.setattr(propose, "region_boxes", lambda *_: [])

    def best():
        got = propose.propose_candidates(image, PartsSegmenter(), FakeEncoder(), gallery, ProductSettings())
        return max(iou(mask, item.mask) for item in got.items), got.prompts

    (whole, prompts) = best()
    monkeypatch.setattr(propose, "MAX_BOX_PROMPTS", 0)
    part, before = best()
    assert whole > 0.9 and part < 0.7
    assert 0 < prompts - before <= 4


def test_what_groups_have_in_common_is_their_mean_and_the_directions_in_which_they_spread_most():
    rng = np.random.default_rng(0)
    groups = [unit((rng.normal(size=(n, 12)) * np.arange(1, 13)).astype(np.float32)) for n in (5, 40, 17)]
    mean, *directions = common_components(iter(groups))
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    every = np.concatenate(groups)
    np.testing.assert_allclose(mean, np.average(every, 0, weights), atol=1e-6)
    rest = every - mean
    _, axes = np.linalg.eigh((rest * weights[:, None]).T @ rest)
    for found, axis in zip(directions, axes.T[::-1], strict=False):
        assert abs(found @ axis) == pytest.approx(1, abs=1e-4)


def test_a_comparison_equals_a_few_lines_for_each_pair():
    reference, things = random_features(0, k=20), [random_features(seed, k=10 + seed) for seed in (1, 2, 3)]
    gallery = Gallery((reference,))
    averages = np.array([thing.average @ reference.average for thing in things])
    result = compare_patches(things, reference, gallery, averages)
    for index, thing in enumerate(things):
        table = thing.patches @ reference.patches.T
        np.testing.assert_allclose(result.forward[index], table.max(1).mean(), rtol=1e-5)
        np.testing.assert_allclose(result.backward[index], table.max(0).mean(), rtol=1e-5)
    assert (result.mirror == 1).all() and (result.colour == 1).all()


def test_another_colour_counts_and_other_light_does_not():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(30, 24)).astype(np.float32)
    gallery = Gallery((random_features(0, base=patches, colour=(50, 40, 30)),))
    same = random_features(1, base=patches, colour=(35, 30, 22.5))
    other = random_features(1, base=patches, colour=(50, -40, 30))
    bright, wrong = similarity_scores([same, other], gallery, ProductSettings())
    assert bright == pytest.approx(1, abs=1e-4) and wrong == pytest.approx(0.75, abs=1e-4)
    assert similarity_scores([other], gallery, ProductSettings(colour_weight=0))[0] == pytest.approx(1, abs=1e-4)


def test_what_is_more_like_the_mirrored_reference_loses():
    rng = np.random.default_rng(0)
    straight, mirrored = (rng.normal(size=(30, 24)).astype(np.float32) for _ in range(2))
    reference = replace(random_features(0, base=straight), mirror=random_features(0, base=mirrored))
    gallery = Gallery((reference,))
    between = random_features(1, base=0.45 * straight + 0.55 * mirrored)
    rows = match_photo(found(candidate(between)), gallery, ProductSettings())
    assert rows[0].parts["mirror"] == 0
    relaxed = match_photo(found(candidate(between)), gallery, ProductSettings(mirror_weight=0))
    assert relaxed[0].score > rows[0].score + 0.1
    assert "mirrored" in match_photo(found(candidate(between)), gallery, ProductSettings(), threshold=0.6)[0].why


def test_every_verdict_says_why():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(30, 24)).astype(np.float32)

    def like(share, seed=9):
        noise = np.random.default_rng(seed).normal(size=(30, 24)).astype(np.float32)
        return random_features(0, base=share * base + (1 - share) * noise)

    gallery = Gallery((random_features(0, base=base),))
    items = [
        candidate(like(1.0), (0, 0, 20, 20)),
        candidate(like(0.95), (1, 1, 20, 20)),  # the same place
        candidate(like(0.9), (5, 5, 10, 10)),  # a part of it
        candidate(like(0.9), (40, 40, 60, 60)),
        candidate(like(0.85), (70, 70, 90, 90)),
        candidate(like(0.1), (70, 0, 90, 20)),
    ]
    rows = match_photo(found(*items), gallery, ProductSettings(top_k_matches=2))
    assert [row.decision for row in rows] == [
        "kept", "duplicate", "duplicate", "kept", "beyond top k", "below threshold",
    ]  # fmt: skip
    assert all(row.why and row.decision in DECISIONS for row in rows)
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    rejecting = gallery.reject(items[3].features)
    verdicts = {row.proposal.box: row for row in match_photo(found(*items), rejecting, ProductSettings())}
    assert verdicts[40, 40, 60, 60].decision == "closer to a reject"
    assert verdicts[40, 40, 60, 60].parts["reject"] > verdicts[40, 40, 60, 60].score
    assert verdicts[0, 0, 20, 20].kept


def test_many_photos_are_judged_as_one_by_one_and_an_empty_one_is_empty():
    gallery = Gallery((random_features(0), random_features(1)))
    photos = [found(*(candidate(random_features(10 * n + i, k=8 + i)) for i in range(n))) for n in (3, 0, 2)]
    together, alone = (
        score_photos(photos, gallery, ProductSettings()),
        [match_photo(each, gallery, ProductSettings()) for each in photos],
    )
    assert [len(scores.proposals) for scores in together] == [3, 0, 2]
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_allclose([row.score for row in many.proposals], [row.score for row in one], atol=1e-5)
        assert [row.number for row in many.proposals] == [row.number for row in one]
    assert score_photos([], gallery, ProductSettings()) == []


def test_a_new_reference_can_make_a_match():
    thing = random_features(5)
    gallery = Gallery((random_features(0),))
    assert match_photo(found(candidate(thing)), gallery, ProductSettings())[0].decision == "below threshold"
    rows = match_photo(found(candidate(thing)), gallery.add(thing), ProductSettings())
    assert rows[0].kept and rows[0].reference == 1


def test_candidates_survive_the_disk(tmp_path):
    before = found(candidate(random_features(0)), candidate(random_features(1, k=7), (20, 30, 40, 60)))
    after = load_proposals(save_proposals(before, tmp_path / "photo.npz"))
    assert (after.size, after.prompts, after.models, len(after)) == (before.size, 5, before.models, 2)
    for one, two in zip(before.items, after.items, strict=True):
        assert (one.rle, one.box, one.area, one.quality) == (two.rle, two.box, two.area, two.quality)
        np.testing.assert_array_equal(one.mask, two.mask)
        np.testing.assert_allclose(one.features.patches, two.features.patches, atol=1e-3)
    assert len(load_proposals(save_proposals(found(), tmp_path / "none.npz"))) == 0


@pytest.mark.parametrize("content", [b"", b"PK nothing", None])
def test_a_damaged_file_of_candidates_is_one_clear_error(tmp_path, content):
    path = tmp_path / "photo.npz"
    if content is None:
        np.savez(path, about=np.array(json.dumps({"format": "another"})))
    else:
        path.write_bytes(content)
    with pytest.raises(NbHelpersError, match="cannot be read"):
        load_proposals(path)


@pytest.mark.parametrize("way", ["guided", "grid"])
def test_the_product_is_found_where_it_is(gallery, way):
    image, (mask, _) = scene((220, 100, 35, RED), (80, 180, 30, BLUE), seed=4)
    settings = ProductSettings(
        candidates=way, sam2_points_per_side=8, sam2_pred_iou_thresh=0.5, sam2_stability_score_thresh=0.5
    )
    result = propose.propose_candidates(image, Segmenter(), FakeEncoder(), gallery, settings)
    assert result.size == (240, 320) and result.models == ("fake", "fake-encoder") and result.seconds > 0
    assert result.prompts == 64 if way == "grid" else 0 < result.prompts <= settings.max_prompts
    rows = match_photo(result, gallery, settings, threshold=0)
    assert iou(rows[0].proposal.mask, mask) > 0.8
    assert rows[0].parts["colour"] == 1
    for row in rows:
        assert settings.min_mask_area_ratio <= row.proposal.area / image[:, :, 0].size <= settings.max_mask_area_ratio
        assert np.count_nonzero(row.proposal.mask) == row.proposal.area


def test_a_photo_of_one_colour_has_candidates_or_none_but_no_error(gallery):
    blank = np.full((30, 40, 3), 128, np.uint8)
    assert len(propose.propose_candidates(blank, Segmenter(), FakeEncoder(), gallery, ProductSettings())) >= 0


def test_the_same_search_finds_the_same(gallery):
    image, _ = scene((220, 100, 35, RED), seed=4)
    one, two = (
        propose.propose_candidates(image, Segmenter(), FakeEncoder(), gallery, ProductSettings()) for _ in range(2)
    )
    assert [item.rle for item in one.items] == [item.rle for item in two.items]


def test_a_known_embedding_is_not_made_again(gallery):
    segmenter, (image, _) = Segmenter(), scene((220, 100, 35, RED))
    embedding = segmenter.encode(image)
    propose.propose_candidates(image, segmenter, FakeEncoder(), gallery, ProductSettings(), embedding)
    assert segmenter.encoded == 1


def test_the_grid_lies_in_the_photo_and_has_the_asked_number_of_points():
    points = sam2_grid.grid_points((100, 200), 8)
    assert points.shape == (64, 2) and points.min() >= 0 and (points.max(0) <= (199, 99)).all()
    np.testing.assert_allclose(points[0], (12, 5.75))


@pytest.mark.weights
def test_the_generator_of_sam_2_answers_with_masks_of_the_asked_quality():
    from nbhelpers import load, load_image, sample

    image = load_image(sample("coffee"))
    masks = sam2_grid.automatic_masks(load("segmenter", "sam2-hiera-tiny-lite"), image, None, 3, 0.8, 0.9, 0.5)
    assert masks and all(mask.quality > 0.8 and mask.rle["size"] == [400, 600] for mask in masks)
    assert [mask.quality for mask in masks] == sorted((mask.quality for mask in masks), reverse=True)


def scores_photo(values, gallery, seed=0):
    """PhotoProposals that score about ``values``, the first the highest, apart from each other."""
    base = gallery.positives[0].patches
    items = []
    for number, value in enumerate(values):
        noise = features.unit(np.random.default_rng((seed, number)).normal(size=base.shape).astype(np.float32))
        noise = features.unit(noise - (noise * base).sum(1, keepdims=True) * base)
        mixed = value * base + np.sqrt(1 - value**2) * noise
        items.append(candidate(random_features(0, base=mixed), (10 * number, 0, 10 * number + 8, 8)))
    return found(*items)


def test_the_threshold_lies_between_background_and_what_matches_can_be_expected_to_score():
    first = random_features(0)
    plain = Gallery((first,))
    views = tuple(scores_photo((0.9, 0.85), plain).items[i].features for i in range(2))
    gallery = Gallery((replace(first, views=views),))
    photos = [scores_photo((0.8 if n % 2 else 0.2, 0.3, 0.25, 0.2, 0.1), gallery, n) for n in range(1, 11)]
    result = calibrate(iter(score_photos(photos, gallery, ProductSettings())), gallery, ProductSettings())
    assert isinstance(result, Calibration) and result.source == "calibration"
    assert max(result.background) < result.threshold < min(result.expected)
    assert sum(score > result.threshold for score in result.best) == 5
    edges, counts = result.histogram()
    assert len(edges) == 41 and counts["background"].sum() == 40 and counts["best"].sum() == 10
    nearest = scores_photo((0.7,), gallery, 77).items[0].features
    rejecting = gallery.reject(nearest)
    stricter = calibrate(score_photos(photos, rejecting, ProductSettings()), rejecting, ProductSettings())
    assert stricter.threshold > max(stricter.rejected)


def test_what_other_things_share_is_taken_off_and_the_product_stands_out():
    shared = random_features(50, k=1).patches[0]

    def like(own, share, seed):  # all things of a session look alike, in the product's direction too
        noise = random_features(seed).patches
        return random_features(0, base=own * share + 2 * shared + 0.3 * noise)

    product = random_features(3).patches
    gallery = Gallery((like(product, 0.5, 60),))
    photos = [
        found(
            candidate(like(product, 0.5, 100 + n), (0, 0, 20, 20)),
            *(
                candidate(like(random_features(9 * n + i).patches, 0.5, 200 + n), (30 * i, 40, 30 * i + 20, 60))
                for i in (0, 1, 2)
            ),
        )
        for n in range(6)
    ]
    before, judging = (
        score_photos(photos, gallery, ProductSettings()),
        subtract_background(photos, gallery, ProductSettings()),
    )
    after = score_photos(photos, judging, ProductSettings())

    def gap(scores):
        return min(each.proposals[0].score - each.proposals[1].score for each in scores)

    assert all(each.proposals[0].number == 0 for each in after) and gap(after) > 1.5 * gap(before) > 0
    assert judging.positives == gallery.positives
    few = subtract_background(photos[:2], gallery, ProductSettings())
    assert few is gallery, "six other things tell too little"


def test_places_without_a_peak_are_asked_where_prompts_are_left():
    heat = np.full((20, 30), 0.01, np.float32)
    heat[4:10, 5:15] = np.linspace(0.5, 0.9, 10, dtype=np.float32)  # one slope: one peak at its end
    points = local_maxima([heat], (200, 300), ProductSettings(max_prompts=12))
    assert len(points) == 12
    places = points / 10
    inside = (places[:, 0] > 4) & (places[:, 0] < 15) & (places[:, 1] > 3) & (places[:, 1] < 10)
    assert inside.all(), "the hot places come first"
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(12)
    assert apart.min() >= 15 - 1e-3


def test_with_little_to_calibrate_from_the_threshold_is_that_of_the_settings():
    gallery = Gallery((random_features(0),))
    result = calibrate(
        score_photos([found()], gallery, ProductSettings()), gallery, ProductSettings(similarity_threshold=0.6)
    )
    assert (result.threshold, result.source) == (0.6, "settings") and "too few" in result.why


def test_evenly_takes_the_first_and_the_last():
    assert (
        evenly_spaced(list(range(100)), 3) == [0, 50, 99]
        and evenly_spaced([1, 2], 8) == [1, 2]
        and evenly_spaced([], 8) == []
    )
