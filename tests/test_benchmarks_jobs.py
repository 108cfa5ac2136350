"""Benchmarks of the other jobs, the report and the command: on drawn scenes, without weights."""

import io
import json
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
from fake_benchmarks import CLASSES, SIZE, drawn_voc, put_clip, put_labels, put_photo
from fake_tracker import FakeTracker
from fake_words import COLOURS, FakeDetector, FakeTextEncoder, FloodSegmenter, scene
from scene_maker import make_scene
from test_geometry_fusion import textures
from test_label_propagation import ColourSegmenter
from typer.testing import CliRunner

from nbhelpers import NbHelpersError, cli
from nbhelpers.benchmarks import commands, fusion, report, views
from nbhelpers.benchmarks.datasets import Clips, read_values
from nbhelpers.benchmarks.fusion import FusionComparison
from nbhelpers.benchmarks.open_vocabulary import OpenVocabulary
from nbhelpers.benchmarks.products import CutOut, ProductPhotos, SyntheticPhoto, match_counts, synthetic_photos
from nbhelpers.benchmarks.protocols import vocabulary_protocol
from nbhelpers.benchmarks.report import protocol_differences, write_report
from nbhelpers.benchmarks.runner import run_benchmark
from nbhelpers.benchmarks.video import ClipFrames, MatteSteadiness, VideoObjects, steadiness, write_synthetic_clip
from nbhelpers.benchmarks.views import (
    CameraRecovery,
    SceneViews,
    SpatialPhrases,
    ViewTruth,
    kitchen_truth,
    read_scene_masks,
)
from nbhelpers.benchmarks.words import VOC_NAMES, WordMasks, vocabularies
from nbhelpers.core.images import load_image
from nbhelpers.core.masks import encode_rle, iou
from nbhelpers.core.mattes import make_trimap
from nbhelpers.geometry_fusion.comparison import ArmResult, TrueMasks, figures, frame_ious
from nbhelpers.geometry_fusion.synthetic import render_clip
from nbhelpers.models.label_propagation import LabelPropagation


def coco_folder(root):
    """A drawn scene with its balls and box as COCO's instances of "sports ball" and "suitcase"."""
    image = scene()
    put_photo(root / "images" / "a.png", image)
    red = (np.linalg.norm(image.astype(int) - COLOURS["ball"], axis=2) < 12).astype(np.uint8)
    contours, _ = cv2.findContours(red, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = [contour.ravel().tolist() for contour in contours]
    images = [{"id": 1, "file_name": "a.png", "height": image.shape[0], "width": image.shape[1]}]
    annotations = [{"image_id": 1, "category_id": 3, "segmentation": [each]} for each in polygons]
    categories = [{"id": 3, "name": "sports ball"}]
    (root / "coco.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return root


class Named(FakeTextEncoder):
    """Also knows the balls by COCO's name, and the box by VOC's."""

    def _near(self, small, name):
        return super()._near(small, {"sports ball": "ball", "bus": "ball", "sofa": "box"}.get(name, name))


def test_words_are_counted_as_a_person_counts(tmp_path):
    benchmark = WordMasks(
        "coco-words",
        coco_folder(tmp_path / "d"),
        ("all", "present", "alone"),
        Named(),
        FloodSegmenter(),
        without=("detector",),
        pictures=tmp_path / "vis",
    )
    results = run_benchmark(benchmark, tmp_path / "out")
    scores = results["scores"]
    assert scores["mean_iou"] > 0.9 and scores["words"] == 1 and scores["present_mean_iou"] > 0.9
    assert scores["absent_words"] == 3 and scores["alone_absent_words"] == 3 and scores["present_absent_words"] == 0
    assert scores["absent_found"] == 0 and results["cost"]["prompts"] > 0
    assert "detector" not in benchmark.facts()
    detected = replace(benchmark, detector=FakeDetector({"ball": 0.9}), without=(), pictures="")
    assert detected.facts()["detector"] == "fake-detector"
    run_benchmark(detected, tmp_path / "detected")
    assert detected.detector.asked
    (picture,) = (tmp_path / "vis").iterdir()
    photo = load_image(tmp_path / "d" / "images" / "a.png")
    true, found = ((side != photo).any(2) for side in np.split(load_image(picture), 2, axis=1))
    assert true.any() and iou(true, found) > 0.85


def test_words_on_voc_have_a_miou_too(tmp_path):
    root = drawn_voc(tmp_path / "VOC2012", 1)
    (labels,) = (root / "SegmentationClass").iterdir()
    values = read_values(labels)
    put_labels(labels, np.where(values == 1, 6, np.where(values == 2, 18, values)).astype(np.uint8), palette=True)
    results = run_benchmark(
        WordMasks("voc-words", root, ("all",), Named(), FloodSegmenter(), without=("detector",)), tmp_path / "out"
    )
    assert set(results["items"][labels.stem]["present"]["all"]) == {"bus", "sofa"}
    assert results["scores"]["absent_words"] == 18 and results["scores"]["voc21_present_miou"] > 0.6


def test_vocabularies_are_drawn_by_the_photos_number():
    words = [names[0] for names in VOC_NAMES]
    first, again = (vocabularies({"cat": 1, "dog": 1}, words, 3) for _ in range(2))
    assert first == again != vocabularies({"cat": 1, "dog": 1}, words, 4)
    assert first["all"] == [words] and first["present"] == [["cat", "dog"]] and len(first["alone"]) == 5
    with pytest.raises(NbHelpersError, match="cannot be this"):
        WordMasks("voc-words", "x", ("some",))


def square(x, y, size=40):
    mask = np.zeros((60, 80), bool)
    mask[y : y + size, x : x + size] = True
    return mask


def test_views_are_scored_without_what_is_not_counted():
    void = square(0, 0, 20)
    truth = ViewTruth({0: square(0, 0)}, {0: void})
    assert truth.iou(0, square(0, 0) & ~void) == 1 and truth.iou(0, square(20, 0)) < 0.5
    point, label = truth.correction(0, square(0, 0) | square(60, 40, 20))
    assert label == 0 and point[0] > 55
    assert truth.prompt_of(0, "box").box.tolist() == [0, 0, 40, 40]
    assert len(truth.prompt_of(0, "8+2").points) <= 10 and truth.prompt_of(0, "8+2").labels[0] == 1
    (x, y) = truth.beside(0).points[0]
    assert not (square(0, 0) | void)[int(y), int(x)]


def test_the_kitchens_outlines_are_in_the_package(tmp_path):
    names = [tmp_path / f"{name}.png" for name in ("00", "15")]
    truth = kitchen_truth("bulldozer", names)
    assert truth.masks[0].shape == (520, 779) and truth.masks[0].mean() > 0.02 and truth.void[0].shape == (520, 779)


def test_layouts_of_views(tmp_path):
    for name in ("a", "b", "c"):
        put_photo(tmp_path / "spin" / "fern" / "images" / f"{name}.jpg")
    put_labels(tmp_path / "spin" / "fern" / "masks" / "b.png", np.where(np.eye(*SIZE) > 0, 255, 0).astype(np.uint8))
    scene_masks = read_scene_masks("spin-nerf", tmp_path / "spin", "fern")
    assert len(scene_masks.photos) == 3 and set(scene_masks.objects["object"].masks) == {1}
    assert scene_masks.objects["object"].masks[1].sum() == 24
    assert SceneViews("spin-nerf", tmp_path / "spin").names() == ["fern/object/first/8+2"]
    labels = tmp_path / "nvos" / "labels" / "llff"
    for name in ("IMG_1", "IMG_2"):
        put_photo(tmp_path / "nvos" / "llff" / "horns" / "images" / f"{name}.JPG")
    put_photo(labels / "reference_image" / "horns" / "IMG_2.JPG")
    stroke = np.zeros(SIZE, np.uint8)
    stroke[10:14, 5:25] = 255
    put_labels(labels / "scribbles" / "horns" / "pos_0.png", stroke)
    put_labels(labels / "scribbles" / "horns" / "neg_0.png", stroke[::-1].copy())
    put_labels(labels / "masks" / "horns" / "IMG_1_mask.png", stroke)
    truth = read_scene_masks("nvos", tmp_path / "nvos", "horns").objects["object"]
    view, prompt = truth.prompt
    assert view == 1 and set(truth.masks) == {0} and {0, 1} == set(prompt.labels.tolist())
    assert SceneViews("nvos", tmp_path / "nvos").names() == ["horns/object/reference/scribble"]


@pytest.mark.parametrize("dataset", ["kitchen", "temple", "spin-nerf", "nvos"])
def test_a_wrong_folder_of_views_shows_the_layout(dataset, tmp_path):
    with pytest.raises(NbHelpersError) as caught:
        names = SceneViews(dataset, tmp_path).names()
        read_scene_masks(dataset, tmp_path, names[0].split("/")[0])
    assert "SCENE" in caught.value.expected or dataset in caught.value.expected


def test_views_of_a_benchmark_are_summarized():
    told = [[0.95, 0.9], [0.5, 0.2], [0.9, 0.8]]
    records = [
        {"mean": 0.9, "worst": 0.5, "accuracy": 0.99, "consistencies": told},
        {"mean": 0.8, "worst": 0.7, "accuracy": 0.97, "consistencies": [], "corrected": 0.95},
        {"mean": 0.1, "worst": 0.0, "accuracy": 0.9, "consistencies": [], "others": 0.85, "noticed": True},
    ]
    scores = SceneViews("kitchen", "x").summarize(records)
    assert scores["miou"] == 0.85 and scores["worst_view"] == 0.5 and scores["consistency_auc"] == 1.0
    assert scores["bad_views"] == 1 and scores["views"] == 3 and scores["corrected"] == 0.95
    assert scores["wrong_prompts_noticed"] == 1 and scores["miou_of_others_beside_a_wrong_prompt"] == 0.85


def test_cameras_that_were_kept_before_a_module_moved_are_opened():
    scene, _ = make_scene({"box": ((0, 0, 0), (1, 1, 1))})
    kept = pickle.dumps(scene, protocol=0)
    moved = kept.replace(b"nbhelpers.core.scenes\n", b"nbhelpers.core.scenes.scene\n")
    assert moved != kept
    for data in (kept, moved):
        opened = views._SceneUnpickler(io.BytesIO(data)).load()
        assert type(opened) is type(scene) and opened.names == scene.names
        np.testing.assert_array_equal(opened.world_to_camera, scene.world_to_camera)


def test_items_of_the_kitchen():
    names = SceneViews("kitchen", "x").names()
    assert len(names) == 22 and names[0] == "kitchen/bulldozer/0/box" and "kitchen/pink mat/any/phrase" in names
    assert len(SceneViews("temple", "x", quick=True).names()) == 4


class Row:
    def __init__(self, mask, kept):
        self.proposal, self.kept = type("P", (), {"mask": mask}), kept


def test_matches_of_products_are_counted():
    image = np.zeros((60, 80, 3), np.uint8)
    photos = [
        SyntheticPhoto("cup-plain-000", "cup", image, square(0, 0), ()),
        SyntheticPhoto("cup-plain-001", "cup", image, square(0, 0), ()),
        SyntheticPhoto("cup-plain-002", "cup", image, None, ()),
    ]
    judged = [
        (Row(square(1, 0), True), Row(square(40, 20), True)),
        (Row(square(0, 0), False),),
        (Row(square(0, 0), True),),
    ]
    count = match_counts(photos, judged)
    assert (count["right"], count["wrong"], count["missed"], count["not_offered"]) == (1, 2, 1, 0)
    assert (count["absent"], count["absent_matched"], count["kind"]) == (1, 1, "plain")
    scores = ProductPhotos("synthetic-products", "x").summarize([{**count, "photos": 3}])
    assert scores["precision"] == pytest.approx(1 / 3, abs=1e-4) and scores["recall"] == 0.5


def test_synthetic_photos_follow_from_the_seed_and_know_their_truth():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
    things = [CutOut("a", photo, square(10, 10)), CutOut("b", photo[:, ::-1].copy(), square(20, 5))]
    scenes = {"room": rng.integers(0, 255, (600, 800, 3)).astype(np.uint8)}
    first, again = (list(synthetic_photos(things, scenes, 5, True, seed=1)) for _ in range(2))
    assert all((x.image == y.image).all() for x, y in zip(first, again, strict=True)) and len(first) == 10
    assert [each.truth is None for each in first[:3]] == [False, False, True]
    assert [len(each.look_alikes) for each in first[:3]] == [1, 0, 1]


def test_dreambooth_is_ranked(tmp_path):
    benchmark = ProductPhotos("dreambooth", tmp_path)
    with pytest.raises(NbHelpersError, match="no objects of dreambooth"):
        benchmark.names()
    put_photo(tmp_path / "dreambooth" / "can" / "00.jpg")
    assert benchmark.names() == ["can"] and benchmark.measure_name == "mAP"
    assert benchmark.summarize([{"ap": 1.0}, {"ap": 0.5}]) == {"map": 0.75}


@pytest.fixture
def runs(tmp_path):
    """Two runs on words with other numbers, and one on clips."""
    folder = drawn_voc(tmp_path / "VOC2012", 2)
    protocol = vocabulary_protocol("pascal-voc", classes=CLASSES)
    one = OpenVocabulary(folder, protocol, FakeTextEncoder(), FloodSegmenter())
    other = replace(one, protocol=replace(protocol, mode="hybrid"), budgets=(1, 50))
    put_clip(tmp_path / "clips", "a")
    clips = VideoObjects("davis2017", tmp_path / "clips", FakeTracker())
    for name, benchmark in (("one", one), ("other", other), ("clips", clips)):
        run_benchmark(benchmark, tmp_path / name)
    return [tmp_path / name for name in ("one", "other", "clips")]


def test_a_report_says_in_what_protocols_differ(runs, tmp_path):
    table = write_report(runs, tmp_path / "report.html")
    assert table == (tmp_path / "report.md").read_text()
    lines = {line.split("|")[1].strip().split("/")[-1]: line for line in table.splitlines() if line.startswith("| ")}
    assert "mode: hybrid, not dense" in lines["other"]
    sclip = next(line for line in table.splitlines() if line.startswith("| SCLIP (README"))
    assert "59.63" in sclip and "1449" in sclip and "text_encoder: openclip-vit-b-16" in sclip
    assert (
        "probability_threshold: 0.1, not 0.0" in sclip and "names: 21 of 21" in sclip and "photos: 1449, not 2" in sclip
    )
    assert "J&F" in table and "SAM 3.1" in table
    page = (tmp_path / "report.html").read_text()
    assert page.count("<h2>") == 5 and "<svg" in page and "blind grid" in page and "mIoU" in page


def test_protocols_are_compared_where_both_speak():
    assert protocol_differences({"scale": 65, "x": 1}, {"scale": 40, "y": 2}) == [("scale", 65, 40)]
    with pytest.raises(NbHelpersError, match="nothing to report"):
        write_report([], "x.html")


def test_mattes_are_steadier_when_smoothed_in_time(tmp_path):
    put_clip(tmp_path / "davis", "a", 4)
    benchmark = MatteSteadiness(tmp_path / "davis", refinements=(0, 4))
    scores = run_benchmark(benchmark, tmp_path / "out")["scores"]
    assert len(scores) == 9
    assert all(scores[f"dtssd: {each}, steady 1"] < scores[f"dtssd: {each}, steady 0"] for each in (0, 4))
    assert scores["change: truth"] < min(value for key, value in scores.items() if "steady" in key)
    tracked = replace(benchmark, tracker=FakeTracker(), refinements=(0,), steady=(0,))
    assert tracked.measure("a")["0, steady 0"]["dtssd"] >= 0 and tracked.facts()["masks"] == "fake-tracker"


def test_a_matte_that_moves_with_the_picture_does_not_change():
    alphas = [np.roll(square(20, 10, 24).astype(np.float32), 3 * step, 1) for step in range(3)]
    rims = [make_trimap(alpha > 0.5, 4) == 128 for alpha in alphas]
    flows = [np.broadcast_to(np.array([3, 0], np.float32), (60, 80, 2))] * 2
    assert steadiness(alphas, alphas, rims, flows) == {"change": 0, "dtssd": 0}
    still = steadiness(alphas, [alphas[0]] * 3, rims, flows)
    assert still["change"] == 0 and still["dtssd"] > 0.2
    assert steadiness(alphas, alphas, rims, [0 * flows[0]] * 2)["change"] > 0.05


def test_the_command_runs_and_reports(runs, tmp_path, monkeypatch):
    runner = CliRunner()
    arguments = ["benchmarks", "report", *map(str, runs[:2]), "--output", str(tmp_path / "r.html")]
    shown = runner.invoke(cli.app, arguments)
    assert shown.exit_code == 0 and "differs from" in shown.output and (tmp_path / "r.html").is_file()
    monkeypatch.setattr(commands, "text_encoder", lambda model: Named())
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(", ".join(names) for names in CLASSES))
    arguments = ["benchmarks", "run", "--dataset", "pascal-voc", "--data-dir", str(tmp_path), "--num-samples", "1"]
    arguments += ["--classes", str(classes), "--save-vis", "--logit-scale", "50", "--slide-inference", "--use-pamr"]
    shown = runner.invoke(cli.app, [*arguments, "--output-dir", str(tmp_path / "cli")])
    assert shown.exit_code == 0, shown.output
    assert "miou" in shown.output and "pamr_steps: 10" in shown.output
    assert len(list((tmp_path / "cli" / "visualizations").iterdir())) == 1
    shown = runner.invoke(cli.app, ["benchmarks", "run", "--dataset", "davis2016", "--save-vis"])
    assert isinstance(shown.exception, NbHelpersError) and "no pictures of this dataset" in str(shown.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "imagenet"], "coco-stuff"),
        (["--dataset", "pascal-voc", "--data-dir", "nowhere"], "VOCtrainval"),
        (["--dataset", "pascal-voc", "--budgets", "many"], "budgets"),
        (["--dataset", "pascal-voc", "--protocol", "mine"], "sclip"),
        (["--dataset", "davis2016", "--start", "box"], "start"),
    ],
)
def test_the_command_tells_what_is_wrong(arguments, message):
    shown = CliRunner().invoke(cli.app, ["benchmarks", "run", *arguments])
    assert shown.exit_code != 0 and message in str(shown.exception)


def test_clips_own_name_gives_way_to_what_is_here(monkeypatch):
    from nbhelpers.weights import cache

    monkeypatch.setenv("NBHELPERS_MODELS", "lite")
    monkeypatch.setattr(cache, "here", lambda entry: False)
    assert commands.text_encoder("ViT-B/16") == "conse-lite"
    assert commands.text_encoder("openclip-vit-l-14") == "openclip-vit-l-14"
    monkeypatch.setattr(cache, "here", lambda entry: True)
    assert commands.text_encoder("ViT-L/14") == "openclip-vit-l-14"


def test_phrases_on_scenes_of_boxes(tmp_path):
    benchmark = SpatialPhrases(tmp_path, synthetic_only=True)
    results = run_benchmark(benchmark, tmp_path / "out")
    scores = results["scores"]
    assert scores["parsed"] == 1 and scores["right"] > 0.9 and scores["sideways"] == 1 and scores["depthwise"] == 1
    assert len(SpatialPhrases(tmp_path).names()) > len(benchmark.names()) == scores["sideways_decided"] + 43
    photos = next(name for name in SpatialPhrases(tmp_path).names() if name not in benchmark.names())
    with pytest.raises(NbHelpersError, match="no photos"):
        SpatialPhrases(tmp_path).measure(photos)


def test_fusion_is_compared_with_its_baseline(tmp_path, monkeypatch):
    for name in ("a", "b"):
        put_clip(tmp_path / "clips", name, count=8)
    fused = FakeTracker(name="fused")
    monkeypatch.setattr(fusion, "make_arms", lambda tracker, *_, **__: {"baseline": tracker, "geometry": fused})
    benchmark = FusionComparison("davis-fusion", tmp_path / "clips", FakeTracker(), "off", first=6)
    results = run_benchmark(benchmark, tmp_path / "out")
    scores = results["scores"]
    assert scores["gain"] == 0 and scores["baseline_iou"] == scores["geometry_iou"] > 0.7
    assert results["protocol"]["geometry"] == "off" and results["cost"]["geometry_seconds_a_frame"] >= 0
    assert scores["gain_low"] <= 0 <= scores["gain_high"] and "geometry_recall" in scores
    assert next(iter(scores)) == "gain" and scores["geometry_fell_back"] == 0
    assert len(results["items"]["a"]["arms"]["baseline"]["frame_ious"]) == 6
    with pytest.raises(NbHelpersError, match="first arm"):
        FusionComparison("davis-fusion", tmp_path / "clips", FakeTracker(), "off", ("geometry",))
    with pytest.raises(NbHelpersError, match="twins-fusion"):
        FusionComparison("cat-fusion")


def test_twins_are_told_apart_by_where_they_stand(tmp_path, monkeypatch):
    """Geometry and tracker are real, on colours instead of weights; false geometry gains nothing."""
    monkeypatch.setattr(fusion, "load_textures", lambda names: textures(5))
    monkeypatch.setattr(fusion, "SEEDS", (7, 5))
    monkeypatch.setattr(fusion, "_synthetic", lambda seed: render_clip(seed, textures(5), frames=14, size=(120, 160)))
    arms = ("baseline", "kernel", "zeroed", "other")
    benchmark = FusionComparison("twins-fusion", "", LabelPropagation(ColourSegmenter()), arms=arms, cache=tmp_path)
    assert benchmark.names() == ["synthetic-7", "synthetic-5"]
    record = benchmark.measure("synthetic-5")
    scores = benchmark.summarize([record])
    assert scores["gain"] > 0.3 and scores["gain_low"] > 0 and scores["kernel_fell_back"] == 0
    assert scores["zeroed_gain"] == 0 and scores["zeroed_fell_back"] == 1
    assert scores["other_gain"] < 0.1 and scores["other_fell_back"] == 0
    assert len(list((tmp_path / "embeddings" / "colours").iterdir())) == 14, "the arms share the embeddings"
    with pytest.raises(NbHelpersError, match="synthetic clips"):
        replace(benchmark, dataset="redkitchen-fusion")._other("white mug")


def test_the_red_kitchens_outlines_are_put_on_its_frames(tmp_path, monkeypatch):
    assert len(FusionComparison("redkitchen-fusion").names()) == 4
    box = [[10, 10], [30, 10], [30, 20], [10, 20]]
    monkeypatch.setattr(fusion, "_outlines", lambda: {"mug": {"1": [], "3": [box], "4": [box, box]}})
    np.savetxt(tmp_path / "camera-intrinsics.txt", [[50, 0, 32], [0, 50, 24], [0, 0, 1]])
    with pytest.raises(NbHelpersError, match="tells no cameras"):
        FusionComparison("redkitchen-fusion", tmp_path).clip("mug")
    for number in range(6):
        put_photo(tmp_path / f"frame-{number:06d}.color.jpg", np.full((48, 64, 3), 40 * number, np.uint8))
        cv2.imwrite(str(tmp_path / f"frame-{number:06d}.depth.png"), np.full((48, 64), 1000 + number, np.uint16))
        np.savetxt(tmp_path / f"frame-{number:06d}.pose.txt", np.eye(4))
    clip = FusionComparison("redkitchen-fusion", tmp_path, step=5).clip("mug")
    assert len(clip.frames) == 5 and clip.frame == 2  # frames 0, 1, 3, 4, 5
    assert sorted(clip.truth.masks) == [1, 3] and not clip.truth.masks[1].any() and clip.truth.masks[3][15, 20]
    assert clip.scene.depth[2][0, 0] == pytest.approx(1.003) and clip.prompt.mask.sum() == clip.truth.masks[3].sum()


def test_pixels_that_are_void_do_not_count(tmp_path):
    put_photo(tmp_path / "kitchen" / "00.png", np.zeros((520, 779, 3), np.uint8))
    clip = FusionComparison("kitchen-fusion", tmp_path).clip("bulldozer")
    mask, void = clip.truth.masks[0], clip.truth.void[0]
    assert void.any() and clip.prompt.mask is not None
    noisy = ArmResult("a", "model", [encode_rle(mask ^ void)], [1.0], 0.1, 0.1)
    assert frame_ious(clip.truth, noisy) == {0: 1.0}
    assert frame_ious(TrueMasks({0: mask}), noisy)[0] < 1 and figures(clip.truth, noisy)["j_and_f"] == 1


def test_cameras_are_summarized(tmp_path):
    with pytest.raises(NbHelpersError, match="no scenes"):
        CameraRecovery(tmp_path).names()
    (tmp_path / "temple").mkdir()
    benchmark = CameraRecovery(tmp_path)
    assert benchmark.names() == ["temple"]
    records = [{"photos": 4, "registered": 3}, {"photos": 6, "registered": 6, "rotation": 0.5, "position": 0.01}]
    expected = {"registered": 0.9, "photos": 10, "rotation_degrees": 0.5, "position": 0.01}
    assert benchmark.summarize(records) == expected


def test_a_synthetic_clip_is_readable_as_davis(tmp_path):
    photo, background = np.full((60, 80, 3), 200, np.uint8), np.full((120, 200, 3), 30, np.uint8)
    write_synthetic_clip(tmp_path, "a", photo, square(20, 10), background, 6)
    clips = Clips("davis2016", tmp_path)
    areas = [sum(mask.sum() for mask in clips.masks("a", frame).values()) for frame in clips.annotated("a")]
    assert clips.names == ["a"] and len(areas) == 6 and areas[-1] > 1.3 * areas[0]
    assert areas[2] < areas[1] and areas[2] < areas[3]  # behind the post
    frame = ClipFrames(clips, "a")[0]
    assert frame.shape == (270, 480, 3) and frame[clips.masks("a", "00000")[1]].min() > 120


def test_charts_have_what_they_are_given():
    figure = report.draw_scores({"a": 0.5}, "title", {"published": 0.8})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "published"]
    assert [round(bar.get_width(), 3) for bar in axes.patches] == [50.0, 80.0] and axes.get_title() == "title"
    figure = report.draw_lines({"J": [0.5, 0.6], "F": [0.4, 0.3]}, "frame", "J, F", first=1)
    (axes,) = figure.axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 2], [1, 2]] and axes.get_xlabel() == "frame"
    with pytest.raises(NbHelpersError, match="no score"):
        report.draw_scores({})
    with pytest.raises(NbHelpersError, match="no line"):
        report.draw_lines({}, "x", "y")
