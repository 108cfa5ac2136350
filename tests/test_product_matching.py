"""Product matching around its engine: references, sessions, cache, runs, outputs, the page and the command."""

import csv
import dataclasses
import errno
import json
import os
import re
import shutil

import numpy as np
import pytest
from fake_products import (
    BLUE,
    HOLDS,
    OURS,
    PRODUCT_AT,
    RED,
    FakePatchEncoder,
    FakePointSegmenter,
    scene,
    searched_session,
    write_shelf,
)
from PIL import Image
from typer.testing import CliRunner

import nbhelpers
from nbhelpers.cli import app
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import image_size, load_image, save_image
from nbhelpers.core.masks import box_of, decode_rle, encode_rle
from nbhelpers.product_matching import (
    ProductMatcher,
    ProductSession,
    ProductSettings,
    load_settings,
    match_product,
    panorama,
)
from nbhelpers.product_matching.batch import raise_if_failed
from nbhelpers.product_matching.features import enlarge_patches, patch_colours
from nbhelpers.product_matching.match import background_similarity, rotation_similarity
from nbhelpers.product_matching.panorama import Tile, tiles
from nbhelpers.product_matching.report import result_sheet
from nbhelpers.product_matching.search import ProposalCache, cache_key


@pytest.fixture
def shelf(tmp_path):
    return write_shelf(tmp_path / "shelf")


@pytest.fixture
def models():
    return {"segmenter": FakePointSegmenter(), "encoder": FakePatchEncoder()}


@pytest.fixture
def session(models, tmp_path):
    """A session that has searched."""
    return searched_session(tmp_path, **models)


def start(shelf, output, models, **options):
    options = {"point": PRODUCT_AT, "settings": OURS, **models, **options}
    return match_product(shelf, shelf[0], output, **options)


def statuses(results):
    return [result.status for result in results]


WANTED = ["found" if holds else "absent" for holds in HOLDS]


# settings


def test_settings_come_from_file_environment_and_arguments(tmp_path):
    file = tmp_path / "shelf.toml"
    file.write_text("SIMILARITY_THRESHOLD = 0.5\ntop_k_matches = 5\nscales = [300, 600]\ncalibrate = false")
    environment = {"NBHELPERS_TOP_K_MATCHES": "4", "NBHELPERS_CALIBRATE": "yes", "NBHELPERS_SCALES": "200,400"}
    got = load_settings(file, environment, top_k_matches=2, max_prompts=None)
    assert (got.similarity_threshold, got.top_k_matches, got.scales, got.calibrate) == (0.5, 2, (200, 400), True)
    assert load_settings(file, {}).scales == (300, 600)
    (tmp_path / "shelf.json").write_text('{"DINOV2_MODEL": "dinov2-vit-l-14"}')
    assert load_settings(tmp_path / "shelf.json", {}).dinov2_model == "dinov2-vit-l-14"
    assert load_settings(environment={}) == ProductSettings()


@pytest.mark.parametrize(
    ("text", "environment", "arguments", "says"),
    [
        ("top_k = 5", {}, {}, "unknown setting"),
        ("= 3", {}, {}, "cannot be read"),
        ("", {"NBHELPERS_TOP_K_MATCHES": "many"}, {}, "NBHELPERS_TOP_K_MATCHES"),
        ("top_k_matches = 'three'", {}, {}, "wrong type"),
        ("", {}, {"similarity_threshold": 7}, "out of range"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, text, environment, arguments, says):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(NbHelpersError, match=says):
        load_settings(tmp_path / "x.toml", environment, **arguments)


def test_a_missing_settings_file(tmp_path):
    with pytest.raises(NbHelpersError, match="settings cannot be read"):
        load_settings(tmp_path / "none.toml", {})


# references


def test_a_click_a_box_and_a_mask_show_the_same_product(shelf, models, tmp_path):
    session = ProductSession(shelf, settings=OURS, cache=tmp_path / "cache", **models)
    rows, columns = np.mgrid[:240, :320]
    disc = (columns - 90) ** 2 + (rows - 110) ** 2 <= 34**2
    shown = [
        session.add_reference(shelf[0], point=PRODUCT_AT),
        session.add_reference(shelf[0], mask=disc),
        session.add_reference(load_image(shelf[0]), box=(54, 74, 126, 146)),
    ]
    assert [each.how for each in shown] == ["click", "mask", "box"]
    assert [each.photo for each in shown] == ["photo 0.png", "photo 0.png", "reference"]
    assert shown[0].features.average @ shown[1].features.average > 0.98
    assert shown[0].picture.shape[2] == 4 and max(shown[0].picture.shape[:2]) <= 192
    assert len(session.gallery.positives) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"point": (280, 20)}, "background"),
        ({"mask": np.ones((240, 320), bool)}, "covers nearly the whole photo"),
        ({"mask": np.zeros((240, 320), bool)}, "reference is empty"),
        ({"mask": np.ones((10, 10), bool)}, "differ in size"),
        ({"point": (900, 20)}, "outside"),
        ({"box": (50, 50, 50, 90)}, "box is empty"),
        ({}, "exactly one prompt"),
        ({"point": (1, 1), "box": (1, 1, 9, 9)}, "exactly one prompt"),
    ],
)
def test_a_reference_that_can_be_no_product_is_refused(shelf, models, tmp_path, options, says):
    session = ProductSession(shelf, settings=OURS, cache=tmp_path / "cache", **models)
    with pytest.raises(NbHelpersError, match=says):
        session.add_reference(shelf[0], **options)
    with pytest.raises(NbHelpersError, match="no reference yet"):
        session.search()


# sessions


def test_the_product_is_found_where_it_is_and_absent_where_not(session):
    assert statuses(session.results) == WANTED
    x0, y0, x1, y1 = session.result(3).matches[0].box
    assert abs(x0 - 160) < 4 and abs(y0 - 50) < 4 and abs(x1 - 241) < 4 and abs(y1 - 131) < 4
    assert session.result(3).mask().shape == (240, 320)
    assert session.result(2).score < session.threshold <= session.result(3).score


def test_a_photo_is_searched_once_and_judged_often(session, models):
    encoded = models["segmenter"].encoded
    session.set_threshold(0.999999)
    assert session.threshold_from == "person" and all(result.threshold == 0.999999 for result in session.results)
    session.set_threshold(None)
    session.search()
    assert models["segmenter"].encoded == encoded and statuses(session.results) == WANTED


def test_what_is_confirmed_becomes_a_reference_and_what_is_rejected_a_negative(session):
    other = next(i for i, each in enumerate(session.result(4).detections) if not each.kept)
    session.set_threshold(-1)
    assert session.result(4).status == "found"
    session.reject(4, session.result(4).best_index)
    assert len(session.gallery.negatives) == 1
    rejected = [each for each in session.result(4).detections if each.decision == "closer to a reject"]
    assert rejected and "rejected" in rejected[0].why
    session.set_threshold(None)
    session.confirm(1, session.result(1).best_index)
    assert len(session.references) == 2 and session.references[1].how == "confirmed"
    assert session.mark_of(1, session.result(1).best_index) == "confirmed"
    assert statuses(session.results) == WANTED
    session.unmark(1, session.result(1).best_index)
    assert len(session.references) == 1 and other >= 0


def test_saying_both_keeps_the_last(session):
    session.confirm(1, 0)
    session.reject(1, 0)
    assert (len(session.gallery.positives), len(session.gallery.negatives)) == (1, 1)
    assert session.mark_of(1, [f.number for f in session.result(1).detections].index(0)) in ("rejected", "")


def test_the_last_reference_stays(session):
    with pytest.raises(NbHelpersError, match="at least one reference"):
        session.remove_reference(0)
    session.add_reference(session.photos[1], point=(220, 140))
    session.remove_reference(0)
    assert [each.photo for each in session.references] == ["photo 1.png"] and statuses(session.results) == WANTED


def test_listeners_hear_of_every_change(session):
    heard = []
    stop = session.on_change(lambda: heard.append(len(session.references)))
    session.confirm(1, 0)
    session.unmark(1, session.result(1).best_index)
    stop()
    session.set_threshold(0.5)
    assert heard == [2, 1]


def test_lookalikes_tell_what_came_close_and_why(session):
    table = session.lookalikes()
    scores = [found.score for _, found in table]
    assert scores == sorted(scores, reverse=True) and all(found.why for _, found in table)
    assert {result.photo.name for result, _ in table} >= {"photo 2.png", "photo 4.png"}


def test_what_does_not_exist_is_told(session):
    with pytest.raises(NbHelpersError, match="no such detection"):
        session.confirm(0, 99)
    with pytest.raises(NbHelpersError, match="has not been searched"):
        session.result(99)
    with pytest.raises(NbHelpersError, match="out of range"):
        session.set_threshold(3)
    with pytest.raises(NbHelpersError, match=r"no such match[\s\S]*absent"):
        session.result(2).mask()


def test_no_photos(models):
    with pytest.raises(NbHelpersError, match="no photos"):
        ProductSession([], **models)


def test_one_photo(shelf, models, tmp_path):
    session = ProductSession(shelf[:1], settings=OURS, cache=tmp_path / "cache", **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    assert statuses(session.search()) == ["found"]


def test_a_corrupt_photo_is_told_and_the_rest_is_done(shelf, models, tmp_path):
    shelf[2].write_bytes(b"no picture")
    shelf[4].write_bytes(shelf[4].read_bytes()[:400])
    session = ProductSession([*shelf, tmp_path / "gone.jpg"], settings=OURS, cache=tmp_path / "cache", **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    results = session.search()
    assert statuses(results) == ["found", "found", "failed", "found", "failed", "found", "failed"]
    assert sorted(session.problems) == [2, 4, 6] and "cannot be read" in results[2].error
    save_image(shelf[2], scene([(RED, 100, 100, 30)]))
    assert session.search()[2].status == "found" and sorted(session.problems) == [4, 6]
    with pytest.raises(NbHelpersError, match=r"2 of 7 photos[\s\S]*photo 4\.png"):
        raise_if_failed(session.results)


def test_only_corrupt_photos(shelf, models, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"x")
    session = ProductSession([bad], settings=OURS, cache=tmp_path / "cache", **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    with pytest.raises(NbHelpersError, match="none of the photos can be read"):
        session.search()


def test_results_hold_no_features_and_few_bytes(session):
    import pickle

    assert len(pickle.dumps(session.results)) < 20_000 * len(session.photos)
    assert b"patches" not in pickle.dumps([found.rle for result in session.results for found in result.detections])


def test_a_saved_session_is_gone_on_with(session, models, tmp_path):
    session.confirm(1, session.result(1).best_index)
    session.reject(4, 0)
    session.set_threshold(0.8)
    file = session.save(tmp_path / "shelf.json")
    encoded = models["segmenter"].encoded
    again = ProductSession.open(file, settings=OURS, cache=tmp_path / "cache", **models)
    assert models["segmenter"].encoded == encoded, "from the cache"
    assert [each.how for each in again.references] == ["mask", "confirmed"] and len(again.gallery.negatives) == 1
    assert again.threshold == 0.8 and again.marks.keys() == session.marks.keys()
    for a, b in zip(session.results, again.results, strict=True):
        assert [(f.decision, round(f.score, 3)) for f in a.detections] == [
            (f.decision, round(f.score, 3)) for f in b.detections
        ]


def test_a_session_that_cannot_be_gone_on_with(session, models, tmp_path):
    file = session.save(tmp_path / "shelf.json")
    other = FakePatchEncoder()
    other.name = "another"
    with pytest.raises(NbHelpersError, match="other models"):
        ProductSession.open(file, cache=tmp_path / "cache", segmenter=models["segmenter"], encoder=other)
    file.write_text(file.read_text()[:200])
    with pytest.raises(NbHelpersError, match="session cannot be read"):
        ProductSession.open(file, cache=tmp_path / "cache", **models)
    session.add_reference(load_image(session.photos[1]), point=(220, 140))
    with pytest.raises(NbHelpersError, match="no file"):
        session.save(tmp_path / "shelf.json")


# the cache


def test_the_signature_is_of_the_search_alone():
    models, settings = ("a", "b"), ProductSettings()
    key = cache_key("photo", models, settings, "guide")
    assert key == cache_key("photo", models, ProductSettings(similarity_threshold=0.3, top_k_matches=9), "guide")
    others = [
        cache_key("other", models, settings, "guide"),
        cache_key("photo", ("a", "c"), settings, "guide"),
        cache_key("photo", models, ProductSettings(max_candidates=5), "guide"),
        cache_key("photo", models, settings, "another guide"),
        cache_key("photo", models, settings, "guide", panorama=True),
    ]
    assert len({key, *others}) == 6
    blind = ProductSettings(candidates="grid")
    assert cache_key("photo", models, blind, "guide") == cache_key("photo", models, blind, "another guide")


def test_the_cache_of_another_model_is_not_used(session, shelf, tmp_path):
    other = FakePatchEncoder()
    other.name = "other patches"
    again = ProductSession(shelf, settings=OURS, cache=tmp_path / "cache", segmenter=session.segmenter, encoder=other)
    again.add_reference(shelf[0], point=PRODUCT_AT)
    before = session.segmenter.encoded
    again.search()
    assert session.segmenter.encoded == before + len(shelf)
    assert again.proposals(0).models == ("fake", "other patches")


def test_a_second_session_finds_everything_in_the_cache(session, shelf, models, tmp_path):
    again = ProductSession(shelf, settings=OURS, cache=tmp_path / "cache", **models)
    again.add_reference(shelf[0], point=PRODUCT_AT)
    encoded = models["segmenter"].encoded
    again.search()
    assert models["segmenter"].encoded == encoded
    scores = [[found.score for found in result.detections] for result in session.results]
    assert scores == [[found.score for found in result.detections] for result in again.results]


def test_a_damaged_file_of_the_cache_is_made_again(session, shelf, models, tmp_path):
    for path in (tmp_path / "cache").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    again = ProductSession(shelf, settings=OURS, cache=tmp_path / "cache", **models)
    again.add_reference(shelf[0], point=PRODUCT_AT)
    assert statuses(again.search()) == WANTED


def test_a_cache_that_was_emptied_meanwhile_is_filled_when_features_are_needed(session, shelf, tmp_path):
    session.photo_search.cache = ProposalCache(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    session.set_threshold(1)
    assert statuses(session.results) != WANTED and not (tmp_path / "cache").exists()
    session.set_threshold(None)
    assert statuses(session.results) == WANTED, "a threshold needs no features"
    session.add_reference(shelf[0], point=PRODUCT_AT)
    assert statuses(session.results) == WANTED and any((tmp_path / "cache").rglob("*.npz"))


def test_the_cache_keeps_little_in_memory(session, tmp_path):
    small = ProposalCache(tmp_path / "cache", memory=1)
    for path in (tmp_path / "cache").rglob("*.npz"):
        assert small.get(path.stem) is not None
    assert small.get("0" * 40) is None
    keys = [path.stem for path in (tmp_path / "cache").rglob("*.npz")]
    shutil.rmtree(tmp_path / "cache")
    assert sum(key in small for key in keys) == 1 < len(keys)


# photos of any size


def test_a_huge_photo_is_searched_small_and_its_mask_carried_up(shelf, models, tmp_path, monkeypatch):
    monkeypatch.setattr(panorama, "MAX_SIDE", 320)
    large = tmp_path / "large.png"
    save_image(large, scene([(RED, 900, 450, 150), (BLUE, 300, 400, 150)], size=(1000, 1400)))
    session = ProductSession([*shelf[:2], large], settings=OURS, cache=tmp_path / "cache", **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    result = session.search()[2]
    assert session.proposals(2).size == (229, 320) and result.size == (1000, 1400)
    mask = result.mask()
    rows, columns = np.mgrid[:1000, :1400]
    disc = (columns - 900) ** 2 + (rows - 450) ** 2 <= 150**2
    assert (mask & disc).sum() / (mask | disc).sum() > 0.95
    found = result.matches[0]
    assert max(abs(a - b) for a, b in zip(found.box, box_of(mask), strict=True)) <= 5
    with Image.open(result.save_crop(tmp_path / "crop.png")) as crop:
        assert crop.mode == "RGBA" and abs(crop.width - 300) < 20


def test_specks_and_pinholes_are_tidied_away_and_parts_stay(session):
    item = session.proposals(0).items[0]
    mask = np.zeros((100, 120), bool)
    mask[20:60, 20:60] = mask[20:60, 62:80] = True  # a product in two parts
    wanted = mask.copy()
    mask[5, 110] = True
    mask[30:33, 30:33] = False
    worn = dataclasses.replace(item, rle=encode_rle(mask), box=box_of(mask), area=int(mask.sum()))
    clean = panorama.clean_mask(worn)
    assert np.array_equal(decode_rle(clean.rle), wanted)
    assert (clean.box, clean.area) == ((20, 20, 80, 60), int(wanted.sum())) and clean.features is item.features
    ring = np.zeros((100, 120), bool)
    ring[20:60, 20:60] = True
    ring[30:50, 30:50] = False
    whole = dataclasses.replace(item, rle=encode_rle(ring), box=box_of(ring), area=int(ring.sum()))
    assert panorama.clean_mask(whole) is whole, "a handle keeps its hole"


def test_a_turned_photo_has_the_size_that_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene([], (60, 90))).save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "turned.jpg") == load_image(tmp_path / "turned.jpg").shape[:2] == (90, 60)
    with pytest.raises(NbHelpersError, match="no such picture"):
        image_size(tmp_path / "none.jpg")


# turntable and panorama


def test_neighbours_carry_a_match_to_a_side_that_no_reference_shows(models, tmp_path):
    """A disc whose colour turns from red to blue: its far side is like its neighbours, not like the reference."""
    steps = [np.array(RED) * (1 - t) + np.array(BLUE) * t for t in np.linspace(0, 1, 20)]
    folder = tmp_path / "views"
    folder.mkdir()
    for number, colour in enumerate(steps):
        save_image(folder / f"{number:02}.png", scene([(tuple(colour.astype(int)), 150, 120, 45)], seed=3))
    settings = ProductSettings(
        scales=(224, 448), calibrate=False, similarity_threshold=0.7, colour_weight=0, mirror_weight=0
    )
    found = []
    for turntable in (False, True):
        session = ProductSession(folder, settings=settings, cache=tmp_path / "c", turntable=turntable, **models)
        session.add_reference(folder / "00.png", point=(150, 120))
        found.append(sum(not result.absent for result in session.search()))
        assert all(len(result.matches) <= 1 for result in session.results) or not turntable
    assert found[0] < found[1] and found[1] >= 18
    by_chain = [each for result in session.results for each in result.matches if "neighbours" in each.parts]
    assert by_chain and all("the neighbouring view" in each.why for each in by_chain)
    scores = [result.score for result in session.results if not result.absent]
    assert all(score >= 0.7 for score in scores)


def panorama_with(*things, size=(256, 512)):
    """A grey sphere with discs at ``(colour, longitude, latitude, radius)`` in degrees."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    lon = ((columns + 0.5) / size[1] - 0.5) * 2 * np.pi
    lat = (0.5 - (rows + 0.5) / size[0]) * np.pi
    picture = np.full((*size, 3), 120, np.uint8)
    for colour, longitude, latitude, radius in things:
        a, b = np.radians([longitude, latitude])
        cosine = np.sin(lat) * np.sin(b) + np.cos(lat) * np.cos(b) * np.cos(lon - a)
        picture[cosine >= np.cos(np.radians(radius))] = colour
    return picture


def test_a_product_on_the_seam_of_a_panorama_is_found_once_and_whole(models, tmp_path):
    folder = tmp_path / "360"
    folder.mkdir()
    save_image(folder / "a.png", panorama_with((RED, 180, 0, 10), (BLUE, 0, 10, 10)))
    save_image(folder / "b.png", panorama_with((BLUE, 60, -20, 10)))
    shown = scene([(RED, 160, 120, 50)])
    session = ProductSession(folder, settings=OURS, cache=tmp_path / "cache", panorama=True, **models)
    session.add_reference(shown, point=(160, 120))
    first, second = session.search()
    assert len(first.matches) == 1 and second.absent
    x0, _, x1, _ = first.matches[0].box
    assert x0 < 512 < x1 and x1 - x0 < 40 and "tiles" in first.notes[0]
    truth = (load_image(folder / "a.png") == RED).all(2)
    mask = first.mask()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    with Image.open(first.save_crop(tmp_path / "crop.png")) as crop:
        assert crop.width < 40
    assert len(tiles((256, 512))) == 14 and Tile(0, 0, 8, (256, 512)).side == 8
    session.confirm(0, first.best_index)
    assert session.references[-1].picture.shape[1] < 40


def test_a_flat_photo_among_panoramas_is_told(shelf, models, tmp_path):
    session = ProductSession(shelf[:1], settings=OURS, cache=tmp_path / "cache", panorama=True, **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    assert "not equirectangular" in session.search()[0].error


# outputs


def test_masks_cutouts_and_crops(session, tmp_path):
    result = session.result(1)
    with Image.open(result.save_mask(tmp_path / "mask.png")) as picture:
        assert picture.mode == "LA" and picture.size == (320, 240)
        grey, alpha = np.asarray(picture).transpose(2, 0, 1)
    assert np.array_equal(grey, alpha) and np.array_equal(grey > 0, result.mask())
    with Image.open(result.save_cutout(tmp_path / "cutout.png")) as picture:
        rgba = np.asarray(picture)
    photo = load_image(result.photo)
    inside = result.mask()
    assert rgba.shape == (240, 320, 4) and np.array_equal(rgba[inside][:, :3], photo[inside]), (
        "straight, not multiplied"
    )
    assert set(np.unique(rgba[:, :, 3])) == {0, 255} and np.array_equal(rgba[:, :, 3] > 0, inside)
    with Image.open(result.save_crop(tmp_path / "crop.png")) as picture:
        x0, y0, x1, y1 = box_of(inside)
        assert picture.size == (x1 - x0, y1 - y0)
    with pytest.raises(NbHelpersError, match=r"in \.png"):
        result.save_mask(tmp_path / "mask.jpg")


def test_a_run_leaves_files_that_other_tools_read(shelf, models, tmp_path):
    from pycocotools.coco import COCO

    shelf[4].write_bytes(b"no picture")
    output = tmp_path / "out"
    results = start(shelf, output, models)
    assert statuses(results) == ["found", "found", "absent", "found", "failed", "found"]
    coco = COCO(output / "annotations.coco.json")
    assert len(coco.imgs) == 5 and len(coco.anns) == sum(len(result.matches) for result in results)
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.sum() == annotation["area"] and mask.shape == (240, 320)
        x, y, w, h = annotation["bbox"]
        assert (x, y, x + w, y + h) == box_of(mask.astype(bool))
    rows = list(csv.DictReader((output / "matches.csv").read_text().splitlines()))
    assert [row["status"] for row in rows if row["match"] in ("", "1")] == statuses(results)
    assert "cannot be read" in rows[-2]["why"] and float(rows[0]["score"]) > float(rows[0]["threshold"])
    record = json.loads((output / "photo-0.json").read_text())
    assert record["matches"][0]["box"] == list(box_of(decode_rle(record["matches"][0]["rle"])))
    assert all((output / name).is_file() for name in record["matches"][0]["files"].values())
    assert not list(output.glob("photo-2_*.png")) and (output / "photo-2.json").is_file()
    with Image.open(output / "gallery.jpg") as gallery, Image.open(output / "reference.png") as reference:
        assert gallery.width > 240 and reference.mode == "RGBA"
    summary = json.loads((output / "summary.json").read_text())
    assert len(summary) == 6 and "rle" not in summary[0]["matches"][0]


def test_the_page_is_whole_by_itself_and_holds_whatever_a_name_holds(shelf, models, tmp_path):
    wild = shelf[1].rename(shelf[1].with_name("a <b>& '</script>'.png".replace("/", "")))
    session = ProductSession([shelf[0], wild], settings=OURS, cache=tmp_path / "cache", **models)
    session.add_reference(shelf[0], point=PRODUCT_AT)
    session.search()
    text = session.report.page()
    assert "{{" not in text and "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    photos = json.loads(data)["photos"]
    assert [photo["name"] for photo in photos] == ["photo 0.png", wild.name]
    assert photos[0]["picture"].startswith("data:image/jpeg;base64,") and photos[0]["detections"][0]["why"]


def test_the_page_of_many_photos_stays_small(session):
    report = dataclasses.replace(session.report, results=(session.result(1),) * 320)
    assert len(report.page()) < 320 * 40_000


def test_a_run_that_was_cut_off_goes_on(shelf, models, tmp_path):
    def stop(index):
        if index == 3:
            raise KeyboardInterrupt

    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        start(shelf, output, models, on_photo=stop)
    looked = models["segmenter"].encoded
    results = start(shelf, output, models)
    assert models["segmenter"].encoded - looked <= 1 + len(shelf) - 4
    assert statuses(results) == WANTED and (output / "index.html").is_file()
    whole = start(shelf, tmp_path / "whole", models)
    assert [[f.score for f in r.detections] for r in results] == [[f.score for f in r.detections] for r in whole]


def test_a_finished_run_writes_only_what_changed(shelf, models, tmp_path):
    output = tmp_path / "out"
    start(shelf[:5], output, models)
    cutout = output / "photo-0_1_cutout.png"
    os.utime(cutout, (1, 1))
    (output / "photo-1_1_mask.png").unlink()
    (output / "photo-1_7_mask.png").write_bytes(b"of an earlier start")
    start(shelf[:5], output, models)
    assert cutout.stat().st_mtime == 1 and (output / "photo-1_1_mask.png").is_file()
    assert not (output / "photo-1_7_mask.png").exists()
    assert len(start(shelf, output, models)) == 6, "photos may be added"
    assert (output / "photo-5.json").is_file()


def test_a_folder_with_another_products_results_is_refused(shelf, models, tmp_path):
    output = tmp_path / "out"
    start(shelf[:2], output, models)
    with pytest.raises(NbHelpersError, match=r"another run[\s\S]*point"):
        start(shelf[:2], output, models, point=(230, 120))
    with pytest.raises(NbHelpersError, match="settings"):
        start(shelf[:2], output, models, settings=ProductSettings(top_k_matches=1))


def test_photos_of_one_name_in_two_folders_do_not_overwrite_each_other(shelf, models, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    twin = save_image(other / "photo 0.png", scene([(BLUE, 90, 110, 34)]))
    results = start([*shelf[:2], twin], tmp_path / "out", models)
    assert len({result.name for result in results}) == 3 and statuses(results) == ["found", "found", "absent"]
    records = [json.loads((tmp_path / "out" / f"{result.name}.json").read_text())["path"] for result in results]
    assert records == [path.as_posix() for path in (*shelf[:2], twin)]


def test_a_run_on_other_photos_of_the_same_names_replaces_nothing(shelf, models, tmp_path, caplog):
    output, other = tmp_path / "out", tmp_path / "other"
    start(shelf[:2], output, models)
    kept = {path: path.read_bytes() for path in output.glob("photo-*")}
    twin = save_image(other / "photo 0.png", scene([(BLUE, 90, 110, 34)]))
    match_product([twin], shelf[0], output, point=PRODUCT_AT, settings=OURS, **models)
    assert all(path.read_bytes() == data for path, data in kept.items()) and "photo-0-2" in caplog.text
    assert json.loads((output / "photo-0-2.json").read_text())["path"] == twin.as_posix()
    clash = save_image(other / "photo 0-2.png", scene([(RED, 90, 110, 34)]))
    match_product([twin, clash], shelf[0], output, point=PRODUCT_AT, settings=OURS, **models)
    assert not (output / "photo-0-3.json").exists(), "the same photo keeps its name"
    assert json.loads((output / "photo-0-2-2.json").read_text())["path"] == clash.as_posix()


def test_results_of_a_photo_with_a_number_in_its_name_stay(shelf, models, tmp_path):
    first, second = tmp_path / "b" / "shelf.png", tmp_path / "a" / "shelf_7.png"
    for path, source in ((first, shelf[0]), (second, shelf[1])):
        path.parent.mkdir()
        path.write_bytes(source.read_bytes())
    start([second, first, *shelf[:1]], tmp_path / "out", models)
    assert (tmp_path / "out" / "shelf_7_1_mask.png").is_file(), "it is no seventh match of shelf.png"


def test_results_among_the_photos_are_refused(shelf, models):
    with pytest.raises(NbHelpersError, match="among the photos"):
        match_product(shelf[0].parent, shelf[0], shelf[0].parent, point=PRODUCT_AT, settings=OURS, **models)


def test_a_full_disk_stops_a_search_at_once(shelf, models, tmp_path, monkeypatch):
    def full(*_):
        raise NbHelpersError("the disk is full") from OSError(errno.ENOSPC, "No space left on device")

    before = models["segmenter"].encoded
    monkeypatch.setattr("nbhelpers.product_matching.search.ProposalCache.put", full)
    with pytest.raises(NbHelpersError, match="the disk is full"):
        start(shelf, tmp_path / "out", models)
    assert models["segmenter"].encoded - before <= 2, "the other photos are not searched in vain"


def test_the_matcher_of_the_three_lines(shelf, models, tmp_path):
    assert nbhelpers.ProductMatcher is ProductMatcher and nbhelpers.ProductSession is ProductSession
    matcher = ProductMatcher(OURS, **models, cache=tmp_path / "cache")
    results = matcher.run(shelf, reference_image=shelf[0], reference_point=PRODUCT_AT)
    assert statuses(results) == WANTED
    for result in results:
        if not result.absent:
            assert result.save_mask(tmp_path / f"{result.name}.png").is_file()
    assert results[0].summary.startswith("photo 0.png: found, 1.00") and "absent" in results[2].summary


def test_workers_of_dask_find_the_same(shelf, models, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    import nbhelpers.models.load as loading

    named = {"segmenter": models["segmenter"], "patch_encoder": models["encoder"]}
    monkeypatch.setattr(loading, "load", lambda task, *_: named[task])
    shelf[2].write_bytes(b"no picture")
    alone = start(shelf, tmp_path / "alone", models)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        seen = []
        together = start(shelf, tmp_path / "together", models, client=client, on_photo=seen.append)
    assert sorted(seen) == list(range(6))
    for a, b in zip(alone, together, strict=True):
        assert (a.status, a.threshold, a.error) == (b.status, b.threshold, b.error)
        assert [(f.score, f.rle) for f in a.detections] == [(f.score, f.rle) for f in b.detections]
    same = "matches.csv", "annotations.coco.json"
    assert all((tmp_path / "alone" / n).read_bytes() == (tmp_path / "together" / n).read_bytes() for n in same)


# pictures


def test_equal_features_have_equal_colours(models):
    tokens = models["encoder"].tokens([scene([(RED, 90, 110, 40)]), scene([(RED, 220, 100, 40), (BLUE, 80, 120, 40)])])
    first, second = patch_colours(tokens)
    assert first.dtype == np.uint8 and first.shape == (17, 23, 3)
    at = lambda grid, x, y: grid[y // 14, x // 14].astype(int)  # noqa: E731
    same = np.abs(at(first, 90, 110) - at(second, 220, 100)).max()
    assert same < 10 < np.abs(at(second, 220, 100) - at(second, 80, 120)).max()
    assert enlarge_patches(first, (240, 320)).shape == (240, 320, 3)


def test_turning_hurts_pixels_and_strangers_are_told(session):
    curves = rotation_similarity(
        session.references[0], session.scoring_gallery, session.encoder, session.settings, (0, 90)
    )
    assert curves.shape == (2, 2) and curves[0, 0] == pytest.approx(1, abs=1e-6) and curves[0, 1] > 0.8
    others = background_similarity(session.references[0], session.results)
    assert len(others) and others[:, 1].max() < session.threshold
    table = session.report.lookalike_table()
    assert table.count("<tr>") == len(session.lookalikes(8)) + 1 and "threshold" in table
    assert result_sheet(session.results).shape[2] == 3


# the command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ref-point", "a,b"], "--point cannot be read"),
        ([], "exactly one prompt"),
        (["--point", "1,1", "--ref-bbox", "1,1,5,5"], "exactly one prompt"),
        (["--ref-bbox", "1,2,3"], "--ref-bbox cannot be read"),
    ],
)
def test_a_command_that_makes_no_sense_says_so(shelf, tmp_path, arguments, says):
    given = ["--images", *shelf, "--reference", shelf[0], "--output", tmp_path / "out", *arguments]
    done = CliRunner().invoke(app, ["product-matching", "batch", *map(str, given)])
    assert isinstance(done.exception, NbHelpersError) and says in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.weights("sam2-hiera-tiny-lite", "vit-s14-lite")
def test_the_command_on_real_weights(tmp_path, monkeypatch):
    for number, name in enumerate(("coffee", "china")):
        save_image(tmp_path / f"{number}.jpg", load_image(nbhelpers.sample(name)))
    for setting, value in (("SCALES", 280), ("MAX_PROMPTS", 6), ("MAX_CANDIDATES", 3)):
        monkeypatch.setenv(f"NBHELPERS_{setting}", str(value))
    photos, output = sorted(tmp_path.glob("*.jpg")), tmp_path / "out"
    arguments = ["--images", *photos, "--reference", photos[0], "--models", "lite", "--ref-bbox", "160,60,470,330"]
    done = CliRunner().invoke(app, ["product-matching", "batch", *map(str, arguments), "--output", str(output)])
    assert done.exit_code == 0, done.exception
    assert "0.jpg: found" in done.stdout and "1.jpg: absent" in done.stdout and "index.html" in done.stdout


def test_the_command_reads_a_cut_out_as_a_mask(shelf, models, tmp_path, monkeypatch):
    mask, given = np.zeros((240, 320), bool), {}
    mask[60:100, 70:130] = True
    save_image(tmp_path / "cut.png", np.dstack([np.full((240, 320, 3), 9, np.uint8), mask.astype(np.uint8) * 255]))
    monkeypatch.setattr("nbhelpers.models.load.load", lambda task, *_: models["segmenter"])
    monkeypatch.setattr("nbhelpers.product_matching.batch.match_product", lambda *_, **how: given.update(how) or ())
    words = [
        "--images",
        shelf[0],
        "--reference",
        shelf[0],
        "--output",
        tmp_path / "out",
        "--ref-mask",
        tmp_path / "cut.png",
    ]
    CliRunner().invoke(app, ["product-matching", "batch", *map(str, words)])
    assert (given["mask"] == mask).all()
