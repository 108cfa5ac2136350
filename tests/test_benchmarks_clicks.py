"""Benchmarks of clicks and clips: simulated users against a few-line reference, J&F against davis2017-evaluation."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_benchmarks import SIZE, drawn_voc, put_clip, put_labels, put_photo, stripes
from fake_segmenter import FakeSegmenter
from fake_tracker import FakeTracker

from nbhelpers import NbHelpersError, Prompt
from nbhelpers.benchmarks.datasets import VIDEO_LAYOUTS, Clips, ObjectOnPhoto, ObjectPhotos
from nbhelpers.benchmarks.interactive import Clicks, click_object
from nbhelpers.benchmarks.metrics import area_under_roc, average_precision, click_scores, next_click
from nbhelpers.benchmarks.runner import run_benchmark
from nbhelpers.benchmarks.video import VideoObjects


def click_reference(truth, found, void, clicked):
    """``Clicker._get_next_click`` of the reference implementation of Sofiiuk et al. in a few lines."""
    dts = []
    for wrong in (truth & ~found & ~void, ~truth & found & ~void):
        dt = cv2.distanceTransform(np.pad(wrong, 1).astype(np.uint8), cv2.DIST_L2, 0)[1:-1, 1:-1]
        dts.append(dt * ~clicked)
    include = dts[0].max() > dts[1].max()
    ys, xs = np.where(dts[0] == dts[0].max()) if include else np.where(dts[1] == dts[1].max())
    return (int(xs[0]), int(ys[0])), int(include)


def test_the_next_click_is_that_of_the_reference():
    rng = np.random.default_rng(1)
    for _ in range(50):
        blobs = [cv2.GaussianBlur(rng.random((40, 50)), (0, 0), 3) > 0.5 for _ in range(3)]
        truth, found, void = blobs[0], blobs[1], blobs[2] & blobs[0] & blobs[1]
        before = [(int(x), int(y)) for x, y in rng.integers(0, 40, (3, 2))]
        clicked = np.zeros(truth.shape, bool)
        for x, y in before:
            clicked[y, x] = True
        assert next_click(truth, found, void, before) == click_reference(truth, found, void, clicked)


def test_nothing_wrong_is_not_clicked():
    mask = stripes(0, 1) > 0
    assert next_click(mask, mask) is None
    assert next_click(mask, ~mask, np.ones(SIZE, bool)) is None


def test_a_jittered_click_stays_in_the_error_and_scatters():
    truth = np.zeros((60, 60), bool)
    truth[10:50, 10:50] = True
    middle, _ = next_click(truth, np.zeros_like(truth))
    rng = np.random.default_rng(0)
    spread = {}
    for jitter in (0.2, 1.0):
        points = np.array([next_click(truth, np.zeros_like(truth), jitter=jitter, rng=rng)[0] for _ in range(200)])
        assert truth[points[:, 1], points[:, 0]].all()
        spread[jitter] = np.linalg.norm(points - middle, axis=1).mean()
    assert 0 < spread[0.2] < spread[1.0]


def test_noc_counts_failures_as_all_clicks():
    scores = click_scores([[0.5, 0.86, 0.92], [0.2, 0.3], [0.95]], most=20)
    assert scores["noc85"] == pytest.approx((2 + 20 + 1) / 3) and scores["noc90"] == pytest.approx((3 + 20 + 1) / 3)
    assert scores["failures85"] == 1 and scores["failures90"] == 1
    assert scores["iou1"] == pytest.approx((0.5 + 0.2 + 0.95) / 3)
    assert scores["iou5"] == pytest.approx((0.92 + 0.3 + 0.95) / 3)


def test_a_user_clicks_until_it_is_right():
    truth = np.zeros((40, 60), bool)
    truth[5:35, 5:25] = True
    truth[5:15, 25:55] = True
    asked = []

    def predict(prompt):
        """Each including click gives the side of the picture that it is in."""
        asked.append(prompt)
        left = np.broadcast_to(np.arange(60) < 25, (40, 60))
        sides = {bool(x < 25) for x, _ in prompt.points[prompt.labels == 1]}
        return (truth & left & (True in sides)) | (truth & ~left & (False in sides))

    found = click_object(predict, ObjectOnPhoto("a", Path("a"), truth, np.zeros_like(truth)))
    assert [round(value, 3) for value in found.ious] == [round(600 / 900, 3), 1.0]
    assert len(asked) == 2 and (found.mask == truth).all() and [label for _, label in found.clicks] == [1, 1]
    never = click_object(
        lambda prompt: np.zeros_like(truth), ObjectOnPhoto("a", Path("a"), truth, np.zeros_like(truth)), most=4
    )
    assert never.ious == [0.0] * 4 and len({point for point, _ in never.clicks}) == 4


def folder_objects(root):
    image = np.full((60, 80, 3), 90, np.uint8)
    cv2.circle(image, (25, 30), 14, (220, 40, 30), -1)
    put_photo(root / "images" / "a.png", image)
    mask = (image[:, :, 0] > 200).astype(np.uint8) * 255
    (root / "masks").mkdir()
    put_labels(root / "masks" / "a.png", mask)
    return root


def test_clicks_on_any_folder(tmp_path):
    results = run_benchmark(Clicks("folder-objects", folder_objects(tmp_path / "d"), FakeSegmenter()), tmp_path / "out")
    assert results["scores"]["noc90"] == 1 and results["scores"]["objects"] == 1
    assert results["items"]["a"]["clicks"]["a"] == [[25, 30, 1]] and results["cost"]["prompts"] == 1
    assert results["scores"]["iou_by_click"][0] > 0.95


def test_pictures_of_clicks(tmp_path):
    folder = folder_objects(tmp_path / "d")
    run_benchmark(Clicks("folder-objects", folder, FakeSegmenter(), pictures=str(tmp_path / "p")), tmp_path / "out")
    assert (tmp_path / "p" / "a.png").is_file()


def test_objects_of_voc_are_its_instances_or_parts_of_its_class_maps(tmp_path):
    root = drawn_voc(tmp_path / "VOC2012", 1)
    photos = ObjectPhotos("voc-objects", root)
    (name,) = photos.names
    parts = list(photos.read(name))
    assert [each.name for each in parts] == [f"{name}/1.1", f"{name}/1.2", f"{name}/2.1"]
    assert "components" in photos.protocol and all(each.void.any() for each in parts)
    values = np.zeros(parts[0].mask.shape, np.uint8)
    values[:10], values[20:30], values[40:] = 1, 7, 255
    put_labels(root / "SegmentationObject" / f"{name}.png", values, palette=True)
    photos = ObjectPhotos("voc-objects", root)
    first, second = photos.read(name)
    assert photos.protocol == "VOC's own instances" and (second.mask == (values == 7)).all()
    assert (first.void == (values == 255)).all()


def test_objects_of_a_plain_folder_are_parts_of_its_class_maps(tmp_path):
    put_photo(tmp_path / "image" / "a.png")
    put_labels(tmp_path / "label" / "a.png", stripes(0, 7, 255))
    (only,) = ObjectPhotos("voc-objects", tmp_path).read("a")
    assert only.name == "a/7.1" and only.mask.sum() == 8 * 32 and only.void.sum() == 8 * 32


def test_objects_of_coco_are_polygons_and_run_lengths(tmp_path):
    put_photo(tmp_path / "images" / "a.png")
    square = {"image_id": 1, "category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 15, 2, 15]], "iscrowd": 0}
    runs = {"image_id": 1, "category_id": 1, "segmentation": {"size": list(SIZE), "counts": [0, 100, 668]}}
    small = {**square, "segmentation": [[0, 0, 1, 0, 1, 1]]}
    crowd = {**runs, "iscrowd": 1}
    images = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    coco = {"images": images, "annotations": [square, runs, small, crowd], "categories": []}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    found = list(ObjectPhotos("coco-objects", tmp_path).read("a.png"))
    assert [each.mask.sum() for each in found] == [19 * 14, 100]


def test_objects_of_davis_are_every_tenth_frame(tmp_path):
    put_clip(tmp_path, "blackswan", count=21, objects=(1, 2))
    photos = ObjectPhotos("davis-objects", tmp_path)
    assert photos.names == ["blackswan/00000", "blackswan/00010", "blackswan/00020"]
    (both,) = photos.read("blackswan/00000")
    assert both.mask.sum() > 200


@pytest.mark.parametrize("dataset", ObjectPhotos.KINDS)
def test_a_folder_without_objects_is_told(dataset, tmp_path):
    with pytest.raises(NbHelpersError):
        ObjectPhotos(dataset, tmp_path)


def test_clips_of_davis_come_from_its_lists(tmp_path):
    for name in ("a", "b", "c"):
        put_clip(tmp_path, name)
    assert Clips("davis2017", tmp_path).names == ["a", "b", "c"]
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("c\na\n")
    assert Clips("davis2017", tmp_path).names == ["c", "a"]
    (tmp_path / "ImageSets" / "480p").mkdir(parents=True)
    lines = [
        f"/JPEGImages/480p/{name}/0000{i}.jpg /Annotations/480p/{name}/0000{i}.png" for name in "ba" for i in (0, 1)
    ]
    (tmp_path / "ImageSets" / "480p" / "val.txt").write_text("\n".join(lines))
    assert Clips("davis2016", tmp_path).names == ["b", "a"]
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("c\nnowhere\n")
    with pytest.raises(NbHelpersError, match="nowhere"):
        Clips("davis2017", tmp_path)


@pytest.mark.parametrize("dataset", VIDEO_LAYOUTS)
def test_a_wrong_folder_of_clips_shows_the_layout(dataset, tmp_path):
    with pytest.raises(NbHelpersError) as caught:
        Clips(dataset, tmp_path)
    assert VIDEO_LAYOUTS[dataset].images in caught.value.expected and VIDEO_LAYOUTS[dataset].source in caught.value.do


def test_sa_v_has_a_folder_for_each_object_and_every_fourth_frame(tmp_path):
    for frame in range(9):
        put_photo(
            tmp_path / "sav_val" / "JPEGImages_24fps" / "v1" / f"{frame:05d}.jpg", np.full((60, 80, 3), 90, np.uint8)
        )
        for number in (0, 1):
            if frame % 4 == 0 and not (number == 1 and frame == 0):
                values = np.zeros((60, 80), np.uint8)
                values[2:12, 4 + 8 * number : 14 + 8 * number] = 1  # they overlap
                put_labels(
                    tmp_path / "sav_val" / "Annotations_6fps" / "v1" / f"{number:03d}" / f"{frame:05d}.png", values
                )
    clips = Clips("sa-v", tmp_path)
    assert clips.annotated("v1") == ["00000", "00004", "00008"]
    assert set(clips.masks("v1", "00000")) == {0} and set(clips.masks("v1", "00004")) == {0, 1}
    assert (clips.masks("v1", "00004")[0] & clips.masks("v1", "00004")[1]).any()
    benchmark = VideoObjects("sa-v", str(tmp_path), FakeTracker())
    assert set(benchmark.measure("v1")["mask"]) == {"0"}  # object 1 has two frames: none is counted


def test_jf_is_the_mean_over_objects_of_all_clips(tmp_path):
    put_clip(tmp_path, "one", objects=(1,))
    put_clip(tmp_path, "two", objects=(1, 2))
    results = run_benchmark(VideoObjects("davis2017", str(tmp_path), FakeTracker()), tmp_path / "out")
    each = [values for item in results["items"].values() for values in item["mask"].values()]
    assert len(each) == 3 and results["scores"]["objects"] == 3
    assert results["scores"]["jf"] == pytest.approx(np.mean([v["jf"] for v in each]), abs=1e-4)
    assert results["scores"]["jf"] > 0.8 and results["protocol"]["start"] == "mask"
    assert results["cost"]["prompts"] == 1.5


def test_from_a_click_and_after_corrections(tmp_path):
    put_clip(tmp_path, "one", objects=(1, 2))
    benchmark = VideoObjects("davis2016", str(tmp_path), FakeTracker(), ("mask", "click"), corrections=2)
    results = run_benchmark(benchmark, tmp_path / "out")
    scores = results["scores"]
    assert {"jf", "click_jf", "jf_after_1", "jf_after_2"} <= set(scores)
    assert scores["jf_after_1"] >= scores["click_jf"] - 0.05
    first = results["items"]["one"]["corrected"][0]
    assert first["object"] == 1 and 0 <= first["frame"] < 6 and results["items"]["one"]["cost"]["prompts"] == 4


def test_clips_that_cannot_be_measured_are_named(tmp_path):
    put_clip(tmp_path, "good")
    put_clip(tmp_path, "bad")
    (tmp_path / "Annotations" / "480p" / "bad" / "00003.png").unlink()
    results = run_benchmark(VideoObjects("davis2016", str(tmp_path), FakeTracker()), tmp_path / "out")
    assert "5 of 6 frames" in results["failed"]["bad"] and results["protocol"]["samples"] == 1
    with pytest.raises(NbHelpersError, match="no such clips"):
        VideoObjects("davis2016", str(tmp_path), FakeTracker(), clips=("cows",)).names()
    with pytest.raises(NbHelpersError, match="no such start"):
        VideoObjects("davis2016", str(tmp_path), starts=("box",))


def test_ranking_measures():
    assert average_precision([0.9, 0.8, 0.7, 0.1], [True, False, True, False]) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision([0.5], [False]))
    assert area_under_roc([0.1, 0.5], [0.5, 0.9]) == pytest.approx(3.5 / 4) and area_under_roc([], [1]) is None


@pytest.mark.weights
def test_upstreams_predictor_needs_the_same_clicks(tmp_path):
    """Our SAM 2 and upstream's ``SAM2ImagePredictor`` on one network: the same clicks and the same IoU."""
    from nbhelpers import load, sample

    about = json.loads(sample("quokka_annotations.json").read_text())
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    image = cv2.imread(str(sample("quokka.jpg")))
    mask = np.zeros(image.shape[:2], np.uint8)
    outline = [(point["x"], point["y"]) for point in about["polygons"][0]["keypoints"]]
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 255)
    cv2.imwrite(str(tmp_path / "images" / "quokka.png"), image)
    cv2.imwrite(str(tmp_path / "masks" / "quokka.png"), mask)
    segmenter = load("segmenter", "sam2-hiera-tiny-lite")
    runs = [
        Clicks("folder-objects", str(tmp_path), segmenter, most=6, jitter=0.3, upstream=upstream).measure("quokka")
        for upstream in (False, True)
    ]
    assert runs[0]["clicks"] == runs[1]["clicks"]
    np.testing.assert_allclose(runs[0]["ious"]["quokka"], runs[1]["ious"]["quokka"], atol=2e-3)
    assert runs[0]["ious"]["quokka"][0] > 0.8


def test_upstreams_predictor_is_for_sam2_only(tmp_path):
    with pytest.raises(NbHelpersError, match="SAM 2 only"):
        Clicks("folder-objects", folder_objects(tmp_path), FakeSegmenter(), upstream=True).measure("a")


def test_the_last_mask_is_given_back_if_wanted(tmp_path, monkeypatch):
    masks = []
    predict = FakeSegmenter.predict

    def watching(self, embedding, prompt):
        masks.append(prompt.mask is not None)
        return predict(self, embedding, Prompt(prompt.points, prompt.labels))

    monkeypatch.setattr(FakeSegmenter, "predict", watching)
    folder = folder_objects(tmp_path)
    put_labels(
        folder / "masks" / "a.png",
        np.where(stripes(0, 1).repeat(3, 0)[:60].repeat(3, 1)[:, :80] > 0, 255, 0).astype(np.uint8),
    )
    Clicks("folder-objects", folder, FakeSegmenter(), most=3, feedback=True).measure("a")
    assert masks == [False, True, True, False]  # the last one tells the best candidate of the first click
