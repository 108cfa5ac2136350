"""From photos and a phrase to masks, files and pictures, on drawn scenes with a text encoder of colours."""

import base64
import csv
import io
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import trimesh
from fake_words import COLOURS, FakeDetector, FakeTextEncoder
from page_models import THINGS, Flood, drawn, without_networks
from PIL import Image
from scene_maker import SIZE, make_scene
from typer.testing import CliRunner

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.scene_files import write_colmap
from nbhelpers.models.values import ClassMap
from nbhelpers.multiview import grounding
from nbhelpers.multiview.association import group_instances, lift_mask, make_object, merge_duplicates
from nbhelpers.multiview.grounding import (
    NounQueries,
    colour_fraction,
    colour_match,
    detect_nouns,
    ground_phrase,
    make_instance,
    merge_proposals,
    propose_objects,
    split_colours,
    verify_objects,
    views_to_search,
)
from nbhelpers.multiview.referring import parse_phrase
from nbhelpers.multiview.views import Photos, photo_files, sharpness
from nbhelpers.plots3d import Arrow, as_frame, draw_scene, save_html, show_scene


@pytest.fixture(scope="module")
def made():
    scene, numbers = make_scene(THINGS)
    return scene, numbers, [drawn(scene, numbers, view) for view in range(len(scene))]


@pytest.fixture
def photos(made):
    return Photos(made[2], Flood(), names=made[0].names)


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    without_networks(monkeypatch.setattr)


def find(photos, scene, text, reference=0):
    return ground_phrase(photos, parse_phrase(text), FakeTextEncoder(), scene, reference)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("ball on the left", "ball 1"),
        ("ball on the right", "ball 2"),
        ("nearest ball", "ball 2"),
        ("ball left of the box", "ball 1"),
        ("box behind the ball on the right", "box"),
        ("blue box", "box"),
    ],
)
def test_a_phrase_leads_to_the_thing_that_is_meant(made, photos, text, place):
    scene, numbers, _ = made
    found = find(photos, scene, text)
    assert found.resolution.decided, found.resolution.why
    truth = set(numbers[place].tolist())
    own = set(found.target.points.tolist())
    assert len(own & truth) > 0.6 * len(truth) and len(own - truth) < 0.3 * len(own)


def test_an_object_is_one_in_all_views(made, photos):
    scene, numbers, _ = made
    found = find(photos, scene, "ball on the left")
    assert len(found.objects) == 2 and all(len(each.instances) >= 4 for each in found.objects)
    center = np.median(found.target.xyz, axis=0)
    assert np.linalg.norm(center - np.median(scene.points[numbers["ball 1"]], axis=0)) < 0.3
    assert found.similarity.shape == (5, 1) and (found.similarity > 0.5).all()


def test_without_cameras_the_picture_of_the_reference_view_is_used(photos):
    found = find(photos, None, "ball on the right")
    assert found.resolution.decided and any("no camera" in note for note in found.notes)
    columns = np.nonzero(found.target.mask(0))[1]
    assert columns.mean() > SIZE[1] / 2


def test_what_nothing_looks_like_is_told(made, photos):
    found = find(photos, made[0], "zebra behind the box")
    assert found.target is None and any("no view matches it" in note for note in found.notes)


def test_any_object_is_found_without_words(made, photos):
    found = propose_objects(photos, 0, made[0])
    assert len(found) >= 3
    truth = drawn(made[0], made[1], 0)
    for name in ("ball", "box"):
        area = (truth == COLOURS[name]).all(2)
        assert any(
            (each.mask & area).sum() > 0.3 * area.sum() and (each.mask & ~area).sum() < 0.2 * each.mask.sum()
            for each in found
        )


def test_each_of_several_generic_nouns_means_any_object(made, photos):
    scene, numbers, _ = made
    found = find(photos, scene, "the thing left of the object right of the box")
    (reference,) = found.references
    assert np.isin(reference.points, numbers["ball 2"]).mean() > 0.6
    own = found.target.points
    assert not np.isin(own, numbers["ball 2"]).any() and len(own)


def test_look_gives_masks_with_the_points_inside(made, photos):
    similarity, found = detect_nouns(
        photos, 0, NounQueries.of(parse_phrase("ball behind the box")), FakeTextEncoder(), made[0]
    )
    assert len(similarity) == 2 and {each.noun for each in found} == {0, 1}
    assert all(len(each.points) for each in found)


def test_a_spatial_phrase_uses_the_instances_of_a_detector_that_gives_masks(made, photos):
    class Segmenting(FakeDetector):
        """As SAM 3: instances with masks, here without the lowest quarter, which no segmenter would leave out."""

        def detect(self, image, names, min_score=0.1):
            found = super().detect(image, names, min_score)
            found.mask = np.zeros((len(found), *image.shape[:2]), bool)
            for mask, name, box in zip(found.mask, found.data["detected"], found.xyxy.astype(int), strict=True):
                x0, y0, x1, y1 = box
                window = slice(y0, y1 - (y1 - y0) // 4), slice(x0, x1)
                mask[window] = np.abs(image[window].astype(int) - COLOURS[name]).max(2) < 12
            return found

    scene, numbers, _ = made
    detector = Segmenting({"ball": 0.9, "box": 0.8})
    phrase = parse_phrase("ball left of the box")
    found = ground_phrase(photos, phrase, FakeTextEncoder(), scene, 0, detector=detector)
    assert found.resolution.decided, found.resolution.why
    assert len(detector.asked) == len(photos)
    truth, own = set(numbers["ball 1"].tolist()), set(found.target.points.tolist())
    assert len(own & truth) > 0.4 * len(truth) and not own & set(numbers["ball 2"].tolist())
    masks = detector.detect(photos.image(0), ["ball"]).mask
    assert any(np.array_equal(found.target.mask(0), mask) for mask in masks)
    without = find(photos, scene, "ball left of the box").target.mask(0)
    assert without.sum() > 1.1 * found.target.mask(0).sum()


def test_what_the_segmenter_adds_to_a_thing_is_no_part_of_it(monkeypatch):
    """Two bands in one mask: the word fits the lower one; the upper one is a thing less sure, or none."""
    image = np.full((90, 120, 3), COLOURS["ball"], np.uint8)
    image[30:60] = COLOURS["box"]
    both = (image == COLOURS["ball"]).all(2)
    monkeypatch.setattr(grounding, "merge_proposals", lambda found, larger: [(both, 0.9)])
    for upper, areas in ((0.9, [60]), (0.6, [30, 30]), (0.4, [30])):

        class Bands(FakeTextEncoder):
            def dense(self, image, names, upper=upper):
                shares = np.full((len(names), 9, 12), 0.0, np.float32)
                shares[0, :3], shares[0, 6:] = upper, 0.9
                shares[1] = 1 - shares[0]
                return ClassMap(shares, tuple(group[0] for group in names), image.shape[:2], self.name)

        _, found = detect_nouns(Photos([image], Flood()), 0, NounQueries.of(parse_phrase("ball")), Bands(), None)
        assert [each.mask.sum() / 120 for each in found] == pytest.approx(areas, abs=2)
        assert found[0].confidence == 0.9 and found[0].mask[75, 60]
        assert all(each.confidence == pytest.approx(upper, abs=0.05) for each in found[1:])


@pytest.mark.parametrize(("cosine", "found"), [(0.19, False), (0.21, True)])
def test_an_encoder_that_compares_whole_photos_says_what_a_view_shows(made, photos, cosine, found):
    class Comparing(FakeTextEncoder):
        shows = 0.2

        def similarity(self, image, names):
            return np.array([cosine if name == "ball" else 0.1 for name in names], np.float32)

    similarity, instances = detect_nouns(
        photos, 0, NounQueries.of(parse_phrase("ball behind the box")), Comparing(), made[0]
    )
    assert similarity == pytest.approx((cosine, 0.1)) and {each.noun for each in instances} == ({0} if found else set())


def test_a_thing_is_lifted_to_where_it_is(made):
    scene, numbers, images = made
    mask = (images[0] == COLOURS["box"]).all(2)
    xyz = lift_mask(scene, 0, mask)
    true = scene.points[numbers["box"]]
    assert len(xyz) > 100 and np.linalg.norm(np.median(xyz, 0) - true.mean(0)) < 0.45
    pixels, _ = scene.project(0, xyz)
    assert mask[tuple(np.round(pixels[:, ::-1]).astype(int).T)].all()
    assert not len(lift_mask(scene, 0, np.zeros(SIZE, bool)))


def test_depth_maps_are_used_where_the_scene_has_them(made):
    scene, _, _ = made
    depth = [np.full((60, 80), 2.0, np.float32)] * len(scene)
    confidence = [np.ones((60, 80), np.float32)] * len(scene)
    mask = np.zeros(SIZE, bool)
    mask[100:140, 100:200] = True
    xyz = lift_mask(replace(scene, depth=depth, confidence=confidence), 0, mask)
    assert np.allclose(scene.to_camera(0, xyz)[:, 2], 2.0)


def test_joining_keeps_two_things_of_one_view_apart(made, photos):
    scene, _, images = made
    instances = []
    for view in range(3):
        red = (images[view] == COLOURS["ball"]).all(2)
        _, labels = cv2.connectedComponents(red.astype(np.uint8))
        instances += [make_instance(photos, scene, view, labels == n, 0, 0.9, 1.0) for n in range(1, labels.max() + 1)]
    groups = group_instances(instances, scene)
    assert len(groups) == 2
    assert all(len({each.view for each in group}) == len(group) == 3 for group in groups)
    thing = make_object("ball", groups[0], scene, 0)
    assert thing.best_view in thing.instances and len(thing.xyz) > 100


def test_a_thing_that_was_found_twice_is_one_object(made, photos):
    scene, _, images = made
    twice = {}
    for view in range(3):
        red = (images[view] == COLOURS["ball"]).all(2)
        _, labels = cv2.connectedComponents(red.astype(np.uint8))
        ball, other = labels == labels.max(), labels == 1
        upper = ball & (np.arange(len(ball)) < np.nonzero(ball)[0].mean() + 3)[:, None]
        for name, mask, sure in (("whole", ball, 0.7), ("upper", upper, 0.9), ("other", other, 0.6)):
            twice.setdefault(name, []).append(make_instance(photos, scene, view, mask, 0, sure, 1.0))
    found = {name: make_object(name, group[name == "whole" :], scene, 0) for name, group in twice.items()}
    kept = {thing.name: thing for thing in merge_duplicates(list(found.values()), scene, 0)}
    assert set(kept) == {"upper", "other"}
    assert [each.confidence for each in kept["upper"].instances.values()] == [0.9, 0.9, 0.9]
    found["whole"] = replace(found["whole"], confidence=0.95)  # as a closer look may have found
    kept = {thing.name: thing for thing in merge_duplicates(list(found.values()), scene, 0)}
    assert set(kept) == {"whole", "other"} and kept["whole"].confidence == 0.95
    assert {view: each.confidence for view, each in kept["whole"].instances.items()} == {1: 0.7, 2: 0.7, 0: 0.9}
    assert kept["whole"].best_view == found["whole"].best_view
    assert kept["other"].instances == found["other"].instances


def test_an_object_is_verified_in_several_views_and_the_best_match_is_prompted(made, photos):
    scene, _, images = made
    own = [(image == COLOURS["box"]).all(2) for image in images[:4]]
    instances = [make_instance(photos, scene, view, mask, 0, 0.7, 1.0) for view, mask in enumerate(own)]
    box = make_object("box", instances, scene, 0)
    order, answers = list(box.instances), iter([0.02, 0.6, 0.3])

    class Crops(FakeTextEncoder):
        def dense(self, image, names):
            shares = np.full((len(names), 4, 4), 0.0, np.float32)
            shares[0] = next(answers)
            shares[1] = 1 - shares[0]
            return ClassMap(shares, tuple(group[0] for group in names), image.shape[:2], self.name)

    (kept,), notes = verify_objects(photos, [box], NounQueries.of(parse_phrase("box")), Crops())
    assert notes == [] and list(kept.instances) == [order[1], order[2], order[0], order[3]]
    assert kept.best_view == order[1] and next(answers, None) is None


def test_the_colour_of_an_object_is_that_of_all_its_views(made, photos):
    scene, _, images = made
    large = (images[0] == COLOURS["box"]).all(2)
    small = (images[1] == COLOURS["box"]).all(2) & (
        np.arange(SIZE[1]) < np.nonzero(images[1] == COLOURS["box"])[1].min() + 4
    )
    instances = [
        make_instance(photos, scene, view, mask, 0, 0.8, colour)
        for view, (mask, colour) in enumerate([(large, 0.1), (small, 1.0)])
    ]
    assert small.any() and make_object("box", instances, scene, 0).confidence < 0.3


@pytest.mark.parametrize("cameras", [True, False])
def test_a_noun_without_relations_needs_no_position(made, photos, monkeypatch, cameras):
    """It was found only in views without a camera, or not in the reference view."""
    scene, _, images = made
    mask = (images[3] == COLOURS["box"]).all(2)
    poses = scene.world_to_camera.copy()
    poses[3] = np.nan
    scene = replace(scene, world_to_camera=poses) if cameras else None
    found = {3: [make_instance(photos, None, 3, mask, 0, 0.9, 1.0)]}
    monkeypatch.setattr(grounding, "detect_nouns", lambda photos, view, *_: ((1.0,), found.get(view, [])))
    assert np.array_equal(find(photos, scene, "box").target.mask(3), mask)
    grounded = find(photos, scene, "box on the left")
    assert grounded.target is None and any("no position is known" in note for note in grounded.notes)


def test_parts_of_a_whole_are_dropped():
    whole, part, other = (np.zeros((20, 20), bool) for _ in range(3))
    whole[2:12, 2:12] = True
    part[3:6, 3:6] = True
    other[13:19, 13:19] = True
    kept = merge_proposals([(part, 0.9), (other, 0.8)], [(whole, 0.7)])
    assert [confidence for _, confidence in kept] == [0.7, 0.8]


@pytest.mark.parametrize(
    ("noun", "head", "words"),
    [
        ("red chair", "chair", ("red",)),
        ("orange", "orange", ()),
        ("old grey house", "old house", ("grey",)),
        ("cup", "cup", ()),
    ],
)
def test_colour_words_are_split_off(noun, head, words):
    assert split_colours(noun) == (head, words)


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((200, 30, 30), "red"), ((30, 60, 210), "blue"), ((60, 160, 60), "green"), ((230, 210, 40), "yellow"),
        ((20, 20, 20), "black"), ((245, 245, 245), "white"), ((128, 128, 128), "grey"), ((240, 130, 20), "orange"),
        ((120, 70, 30), "brown"), ((150, 60, 190), "purple"), ((240, 150, 170), "pink"),
    ],
)  # fmt: skip
def test_colours_are_known_from_pixels(rgb, word):
    image = np.full((10, 10, 3), rgb, np.uint8)
    mask = np.ones((10, 10), bool)
    assert colour_fraction(image, mask, word) == 1
    others = {"red", "blue", "green", "yellow", "black", "white"} - {word}
    assert sum(colour_fraction(image, mask, other) for other in others) == 0
    assert colour_match(image, mask, ("blue" if word != "blue" else "red",)) < 0.1


def test_few_views_of_many_are_searched_and_the_reference_is_among_them():
    assert list(views_to_search(5, 0, 12)) == [0, 1, 2, 3, 4]
    chosen = views_to_search(60, 17, 12)
    assert len(chosen) == 12 and 17 in chosen


def test_the_sharpest_frames_of_a_video_are_taken(tmp_path):
    path = tmp_path / "walk.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (160, 120))
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (120, 160, 3), np.uint8)
    for number in range(48):
        writer.write(sharp if number % 2 else cv2.GaussianBlur(sharp, (0, 0), 6))
    writer.release()
    found = photo_files(path, tmp_path / "frames")
    assert len(found) == 24 and found == photo_files(path, tmp_path / "frames")
    assert np.mean([sharpness(load_image(each)) for each in found]) > 0.6 * sharpness(load_image(found[0]))
    with pytest.raises(NbHelpersError):
        photo_files(tmp_path / "nothing", tmp_path)
    with pytest.raises(NbHelpersError):
        photo_files([], tmp_path)


def test_the_picture_of_a_scene_has_objects_cameras_and_relations(made, tmp_path):
    scene, numbers, _ = made
    labels = np.full(len(scene.points), -1)
    labels[numbers["ball 1"]], labels[numbers["box"]] = 0, 1
    figure = draw_scene(scene, labels, ["ball", "box"], ["#E69F00", "#56B4E9"], arrows=[Arrow(0, 1, "left of"), Arrow(0, -1, "nearest")], reference=2)  # fmt: skip
    names = [trace.name for trace in figure.data]
    assert "ball: 200 points" in names and "view 2 (reference)" in names and {"left of", "nearest"} <= set(names)
    assert sum(name.startswith("view ") for name in names) == 5
    page = save_html(tmp_path / "scene.html", figure).read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[^>]*http[^>]*>", page) == []
    assert "<iframe" in as_frame(figure) and "srcdoc" in as_frame(figure)
    assert figure.layout.paper_bgcolor == figure.layout.scene.bgcolor == "rgba(0,0,0,0)"  # seen on light and dark pages
    assert "color-scheme: light" in as_frame(figure)  # or browsers fill it with white
    with pytest.raises(NbHelpersError, match="do not match"):
        draw_scene(scene, labels[:5])


def test_a_scene_is_displayed_with_a_still_picture_for_pages_without_scripts(made, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: shown.append((data, metadata)))
    scene, numbers, _ = made
    labels = np.full(len(scene.points), -1)
    labels[numbers["ball 1"]] = 0
    show_scene(scene, labels, ["ball"], ["#E69F00"], arrows=[Arrow(0, -1, "nearest")], alt="Two <balls>", height=300)
    ((data, metadata),) = shown
    assert 'title="Two &lt;balls&gt;"' in data["text/html"]
    about = metadata["image/jpeg"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"]))).convert("RGB")).astype(int)
    assert about["alt"] == "Two <balls>" and pixels.shape[:2] == (2 * about["height"], 2 * about["width"]) == (
        600,
        1800,
    )
    orange = np.abs(pixels - (230, 159, 0)).max(axis=2) < 30
    assert 200 < orange.sum() < orange.size / 4, "the ball's points, in the colour of the object"


def test_a_picture_without_an_up_or_points_is_still_drawn(made):
    scene = made[0]
    none = np.empty(0, int)
    bare = replace(scene, points=np.empty((0, 3)), colors=np.empty((0, 3), np.uint8), observation_view=none, observation_point=none, observation_pixel=np.empty((0, 2)))  # fmt: skip
    assert len(draw_scene(bare).data) == 5


@pytest.fixture
def folder(made, tmp_path):
    scene, _, images = made
    for name, image in zip(scene.names, images, strict=True):
        save_image(tmp_path / "photos" / f"{name.replace(' ', '')}.png", image)
    named = replace(scene, names=tuple(f"{name.replace(' ', '')}.png" for name in scene.names))
    write_colmap(named, tmp_path / "model")
    return tmp_path


def maker():
    from nbhelpers.multiview import MultiviewSegmenter

    return MultiviewSegmenter(Flood(), FakeTextEncoder())


def test_a_run_writes_what_people_and_tools_read(folder):
    from nbhelpers.multiview import segment_scene

    told = segment_scene(
        folder / "photos", folder / "out", "ball on the left", cameras=folder / "model", segmenter=maker()
    )
    out = folder / "out"
    assert told["phrase"]["decided"] and told["object"].startswith("ball") and len(told["views"]) == 5
    for place in (
        "masks/view0.png",
        "overlays/view0.jpg",
        "alpha/view0.png",
        "colmap/view0.png.png",
        "nerfstudio/masks/view0.png",
    ):
        assert (out / place).is_file(), place
    assert load_image(out / "masks" / "view0.png").shape[:2] == SIZE
    cloud = trimesh.load(out / "scene.ply")
    assert len(cloud.vertices) >= 600 and (out / "scene.glb").is_file() and (out / "scene.html").is_file()
    with (out / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["view_index"] for row in rows] == list("01234") and float(rows[0]["similarity"]) > 0.5
    assert (
        json.loads((out / "nerfstudio" / "transforms.json").read_text())["frames"][0]["mask_path"] == "masks/view0.png"
    )


def test_photos_stored_turned_with_spaces_in_their_names_come_out_as_tools_read_them(made, tmp_path):
    from test_images import save_turned

    from nbhelpers.core.images import INVERSE, turn
    from nbhelpers.core.scenes import read_scene
    from nbhelpers.multiview import segment_scene

    scene, _, images = made
    names = tuple(f"my {name}.png" for name in scene.names)
    for name, image in zip(names, images, strict=True):
        save_turned(tmp_path / "photos" / name, np.ascontiguousarray(turn(image, INVERSE[6])), 6)
    known = replace(scene, names=names, orientation=np.full(len(names), 6))
    segment_scene(
        tmp_path / "photos", tmp_path / "out", "ball on the left",
        cameras=write_colmap(known, tmp_path / "model"), segmenter=maker(),
    )  # fmt: skip
    out = tmp_path / "out"
    masks = {path.stem: load_image(path) for path in (out / "masks").iterdir()}
    assert {mask.shape[:2] for mask in masks.values()} == {SIZE} and any(mask.any() for mask in masks.values())
    for stem, mask in masks.items():
        name = stem.replace("-", " ")
        for stored in (out / "colmap" / f"{name}.png.png", out / "nerfstudio" / "masks" / f"{name}.png"):
            np.testing.assert_array_equal(load_image(stored), turn(mask, INVERSE[6]))
    for file in (out / "sparse", out / "nerfstudio" / "transforms.json"):
        read = read_scene(file, tmp_path / "photos")
        np.testing.assert_allclose(read.K, scene.K, atol=1e-6)
        np.testing.assert_allclose(read.world_to_camera, scene.world_to_camera, atol=1e-6)
    frame = json.loads((out / "nerfstudio" / "transforms.json").read_text())["frames"][0]
    assert (frame["w"], frame["h"]) == SIZE and frame["mask_path"] == "masks/my view 0.png"
    assert sorted(path.suffix for path in (out / "sparse").iterdir()) == [".bin"] * 3


def test_a_mirrored_photo_keeps_its_mask_and_has_no_camera(made, tmp_path, caplog):
    from test_images import save_turned

    from nbhelpers.core.images import turn
    from nbhelpers.core.scenes import read_scene
    from nbhelpers.multiview.results import save_result

    scene, _, images = made
    paths = [
        save_turned(tmp_path / f"{view}.png", np.ascontiguousarray(turn(image, tag)), tag)
        for view, (image, tag) in enumerate(zip(images, [1, 1, 1, 1, 2], strict=True))
    ]
    save_result(maker().segment(paths, "ball on the left", scene=scene), tmp_path / "out", paths)
    assert "stored mirrored by EXIF" in caplog.text and "4.png" in caplog.text
    mask = load_image(tmp_path / "out" / "masks" / "4.png")
    np.testing.assert_array_equal(load_image(tmp_path / "out" / "colmap" / "4.png.png"), mask[:, ::-1])
    assert mask.any()
    np.testing.assert_array_equal(read_scene(tmp_path / "out" / "sparse", paths).placed, [True] * 4 + [False])


def test_photos_of_one_name_in_several_folders_keep_masks_of_their_own(made, tmp_path):
    from nbhelpers.core.scenes import read_scene
    from nbhelpers.multiview import segment_scene

    scene, _, images = made
    names = [f"{'left' if number % 2 else 'right'}/{number // 2}.png" for number in range(len(images))]
    paths = [save_image(tmp_path / "photos" / name, image) for name, image in zip(names, images, strict=True)]
    model = write_colmap(replace(scene, names=tuple(names)), tmp_path / "model")
    segment_scene(paths, tmp_path / "out", "ball on the left", cameras=model, segmenter=maker())
    frames = json.loads((tmp_path / "out" / "nerfstudio" / "transforms.json").read_text())["frames"]
    masks = [tmp_path / "out" / "nerfstudio" / frame["mask_path"] for frame in frames]
    assert len(set(masks)) == len(paths) and all(mask.is_file() for mask in masks)
    assert all((tmp_path / "out" / "colmap" / f"{name}.png").is_file() for name in names)
    np.testing.assert_allclose(read_scene(tmp_path / "out" / "sparse", paths).K, scene.K, atol=1e-6)


def test_views_follow_the_answer_to_the_box_of_what_a_phrase_led_to(folder, monkeypatch):
    from nbhelpers.core.scenes import read_scene
    from nbhelpers.multiview import pipeline

    asked = []

    def grown(model, embedding, mask):
        asked.append(mask)
        return mask | np.roll(mask, 2, 1)

    monkeypatch.setattr(pipeline, "segment_by_box", grown)
    paths = sorted((folder / "photos").iterdir())
    result = maker().segment(paths, "ball on the left", scene=read_scene(folder / "model", paths))
    best = result.grounding.target.best_view
    np.testing.assert_array_equal(asked[0], result.grounding.target.mask(best))
    np.testing.assert_array_equal(result[best].mask, grown(None, None, asked[0]))


def test_a_run_that_is_done_is_told_from_its_file_and_another_is_refused(folder):
    from nbhelpers.multiview import segment_scene

    first = segment_scene(
        folder / "photos", folder / "out", "ball on the left", cameras=folder / "model", segmenter=maker()
    )
    before = (folder / "out" / "results.json").stat().st_mtime_ns
    assert (
        segment_scene(
            folder / "photos", folder / "out", "ball on the left", cameras=folder / "model", segmenter=maker()
        )
        == first
    )
    assert (folder / "out" / "results.json").stat().st_mtime_ns == before
    with pytest.raises(NbHelpersError, match="another run") as error:
        segment_scene(
            folder / "photos", folder / "out", "ball on the right", cameras=folder / "model", segmenter=maker()
        )
    assert "phrase" in str(error.value.given)


def test_a_result_is_a_sequence_of_views(folder):
    result = maker().segment(folder / "photos", "ball on the left", cameras=folder / "model")
    assert [view.view_index for view in result] == [0, 1, 2, 3, 4]
    first = result[result.views.prompted[0]]
    assert (
        first.mask.any() and first.overlay.shape == (*SIZE, 3) and first.similarity > 0.5 and first.consistency == 0.9
    )
    assert "looking for" in str(result) and "consistency" in str(result)
    labels, names, colours_ = result.labels()
    assert (labels == 0).sum() == 5 and len(names) == len(colours_)
    assert result.figure().data


def test_a_result_without_a_scene_has_no_3d_plot(folder):
    photo = sorted((folder / "photos").iterdir())[0]
    result = maker().segment([photo], click={0: [(40, 30)]})
    assert result.scene is None
    with pytest.raises(NbHelpersError, match="nothing to draw"):
        result.figure()


def test_results_of_other_photos_stay(folder, caplog):
    from nbhelpers.multiview.results import save_result

    result = maker().segment(folder / "photos", click={1: [(160, 120)]}, cameras=folder / "model")
    photos = sorted((folder / "photos").iterdir())
    others = [folder / "other" / path.name for path in photos]
    others[0].parent.mkdir()
    for path, other in zip(photos, others, strict=True):
        other.write_bytes(path.read_bytes() + b"another")
    save_result(result, folder / "out", photos)
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    written = save_result(result, folder / "out", others)
    assert written[-1] == folder / "out-2" / "results.json" and "out-2" in caplog.text
    assert all(path.read_bytes() == data for path, data in before.items())
    assert save_result(result, folder / "out", photos)[-1] == folder / "out" / "results.json"


def test_a_click_needs_no_phrase(folder):
    result = maker().segment(folder / "photos", click={1: [(160, 120)]}, cameras=folder / "model")
    assert result.grounding is None and result.views.prompted == (1,) and np.isnan(result[0].similarity)


@pytest.mark.parametrize(
    ("phrase", "click", "says"),
    [
        (None, None, "nothing to look for"),
        ("on the left", None, "names no object"),
        ("", None, "no words"),
        ("zebra", None, "no object matches"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(folder, phrase, click, says):
    with pytest.raises(NbHelpersError, match=says):
        maker().segment(folder / "photos", phrase, click=click, cameras=folder / "model")


def test_a_reference_view_that_is_not_there_is_told_at_once(folder):
    with pytest.raises(NbHelpersError, match="no such view"):
        maker().segment(folder / "photos", "ball", reference_view=9, cameras=folder / "model")


def test_the_command_tells_what_was_understood(folder, monkeypatch):
    from nbhelpers.cli import app
    from nbhelpers.models import load as loading

    detector = FakeDetector({"ball": 0.9})
    models = {"segmenter": Flood(), "text_encoder": FakeTextEncoder(), ("detector", "fake-detector"): detector}
    monkeypatch.setattr(loading, "load", lambda task, name=None, *_, **__: models[(task, name) if name else task])
    arguments = ["multiview", "--images", str(folder / "photos"), "--phrase", "ball on the left", "--cameras", str(folder / "model"), "--output", str(folder / "out")]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert 'looking for "ball"' in done.output and "view4.png" in done.output and "consistency" in done.output
    detected = [*arguments[:-1], str(folder / "detected"), "--detector", "fake-detector"]
    assert CliRunner().invoke(app, detected).exit_code == 0 and detector.asked
    for where, model in (("out", None), ("detected", "fake-detector")):
        assert json.loads((folder / where / "run.json").read_text())["models"].get("detector") == model
    bad = CliRunner().invoke(app, [*arguments[:5], "--output", str(folder / "two"), "--point", "here"])
    assert isinstance(bad.exception, NbHelpersError)


@pytest.mark.weights
def test_points_are_found_for_cameras_that_come_without(tmp_path):
    from nbhelpers import sample
    from nbhelpers.core.scene_files import write_transforms
    from nbhelpers.core.scenes import read_scene

    paths = [sample(f"BalbianelloMedium-{number}.jpg") for number in range(1, 6)]
    known = read_scene(sample("Balbianello.out"), paths)
    cameras = write_transforms(known, tmp_path / "transforms.json")
    assert not len(read_scene(cameras, paths).points)
    scene = maker().estimate_scene(paths, cameras)
    assert scene.placed.all() and len(scene.points) > 300
    pixels = scene.project(0, scene.points)[0][scene.observation_point[scene.observation_view == 0]]
    found = scene.observation_pixel[scene.observation_view == 0]
    assert np.median(np.linalg.norm(pixels - found, axis=1)) < 2
