"""Benchmarks of words: layouts, protocols, and the runner, on made miniatures and networks without weights."""

import json
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fake_benchmarks import CLASSES, SIZE, drawn_voc, put_folders, put_labels, put_photo, put_voc, stripes
from fake_words import FakeTextEncoder, FloodSegmenter

from nbhelpers import NbHelpersError
from nbhelpers.benchmarks.datasets import COCO_GAPS, LAYOUTS, VOID, LabelledPhotos
from nbhelpers.benchmarks.metrics import class_areas, class_scores
from nbhelpers.benchmarks.open_vocabulary import OpenVocabulary, labels_of
from nbhelpers.benchmarks.protocols import (
    CLASS_COUNTS,
    published_numbers,
    read_classes,
    sclip_classes,
    vocabulary_protocol,
)
from nbhelpers.benchmarks.runner import read_results, run_benchmark
from nbhelpers.models.values import ClassMap

# file values -> classes, of each dataset: first and last class, both sides of the gaps, void
TABLES = {
    "pascal-voc": ([0, 1, 20, 255], [0, 1, 20, VOID], [21, 254]),
    "pascal-voc20": ([0, 1, 20, 255], [VOID, 0, 19, VOID], [21]),
    "pascal-context60": ([0, 1, 59, 255], [0, 1, 59, VOID], [60]),
    "pascal-context59": ([0, 1, 59, 255], [VOID, 0, 58, VOID], [60]),
    "coco-stuff": ([0, 10, 12, 24, 26, 89, 91, 181, 255], [0, 10, 11, 23, 24, 79, 80, 170, VOID], [11, 90, 182]),
    "coco-object": ([0, 10, 12, 24, 26, 89, 91, 181, 255], [1, 11, 12, 24, 25, 80, 0, 0, VOID], [11, 90, 182]),
    "ade20k": ([0, 1, 150, 255], [VOID, 0, 149, VOID], [151]),
}


def put(root, dataset, labels):
    """A miniature of a dataset below ``root``, where its archive unpacks to."""
    if dataset.startswith("pascal-voc"):
        put_voc(root / "VOCdevkit" / "VOC2012", labels)
    elif dataset.startswith("pascal-context"):
        put_voc(root / "VOCdevkit" / "VOC2010", labels, year="VOC2010")
    elif dataset == "ade20k":
        put_folders(root / "ADEChallengeData2016", "images/validation", "annotations/validation", labels)
    else:
        put_folders(root, "images/val2017", "annotations/val2017", labels)
        put_labels(root / "annotations" / "val2017" / "a_labelTrainIds.png", labels["a"])  # mmsegmentation's, beside it
    return root


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_a_published_layout_is_read(dataset, tmp_path):
    raw, classes, _ = TABLES[dataset]
    photos = LabelledPhotos(dataset, put(tmp_path, dataset, {"a": stripes(*raw), "b": stripes(0, 1)}))
    assert photos.names == ["a", "b"]
    image, labels = photos.read("a")
    assert image.shape == (*SIZE, 3) and (labels == stripes(*classes)).all()
    assert max(x for x in LAYOUTS[dataset].table if x < 254) == CLASS_COUNTS[dataset] - 1


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_values_outside_of_the_classes_are_named(dataset, tmp_path):
    wrong = TABLES[dataset][2]
    photos = LabelledPhotos(dataset, put(tmp_path, dataset, {"a": stripes(1, *wrong), "b": stripes(0)}))
    with pytest.raises(NbHelpersError, match=str(wrong[0])):
        photos.read("a")


def test_coco_has_the_published_gaps():
    table = LAYOUTS["coco-stuff"].table
    assert [value for value in range(182) if table[value] == 254] == list(COCO_GAPS)
    assert sorted(table[table < 254].tolist()) == list(range(171))


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_a_wrong_folder_gets_one_error_that_shows_the_layout(dataset, tmp_path):
    (tmp_path / "something").mkdir()
    with pytest.raises(NbHelpersError) as caught:
        LabelledPhotos(dataset, tmp_path)
    layout = LAYOUTS[dataset]
    assert layout.images in caught.value.expected and layout.labels in caught.value.expected
    assert layout.source in caught.value.do and "something" in str(caught.value.given)
    with pytest.raises(NbHelpersError, match="not there"):
        LabelledPhotos(dataset, tmp_path / "nowhere")


def test_a_plain_folder_of_photos_and_labels_will_do(tmp_path):
    for name in ("2", "10", "a"):
        put_photo(tmp_path / "voc2012" / "image" / f"{name}.png")
        put_labels(tmp_path / "voc2012" / "label" / f"{name}.png", stripes(0, 20, 255))
    photos = LabelledPhotos("pascal-voc20", tmp_path)
    assert photos.names == ["2", "a", "10"] and photos.path("a") == tmp_path / "voc2012" / "image" / "a.png"
    assert np.unique(photos.read("10")[1]).tolist() == [19, VOID]


def test_a_half_unpacked_folder_is_told(tmp_path):
    root = put_voc(tmp_path, {f"{number}": stripes(1) for number in range(20)})
    for number in range(10):
        (root / "JPEGImages" / f"{number}.jpg").unlink()
    with pytest.raises(NbHelpersError, match="10 of 20"):
        LabelledPhotos("pascal-voc", root)
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(NbHelpersError, match=r"val\.txt is missing"):
        LabelledPhotos("pascal-voc", root)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("")
    with pytest.raises(NbHelpersError, match="it is empty"):
        LabelledPhotos("pascal-voc", root)


def test_colours_are_no_class_numbers(tmp_path):
    root = put_voc(tmp_path, {"a": stripes(1), "b": stripes(0)})
    put_photo(root / "SegmentationClass" / "a.png")
    with pytest.raises(NbHelpersError, match="has colours"):
        LabelledPhotos("pascal-voc", root).read("a")


def mmseg_reference(pairs, classes, ignored=255):
    """mmseg/evaluation/metrics/iou_metric.py in a few lines: histograms summed over the set, then the ratios."""
    total = np.zeros((4, classes))
    for truth, found in pairs:
        found, truth = found[truth != ignored], truth[truth != ignored]
        both = found[found == truth]
        hist = [np.histogram(x, classes, (0, classes - 1))[0] for x in (both, found, truth)]
        total += [hist[0], hist[1] + hist[2] - hist[0], hist[1], hist[2]]
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, acc = total[0] / total[1], total[0] / total[3]
    return np.nanmean(iou), total[0].sum() / total[3].sum(), np.nanmean(acc)


def test_scores_are_those_of_mmsegmentation():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(4):
        truth = rng.choice([0, 1, 2, 4, 255], (20, 30))  # class 3 is only predicted, 5 is nowhere
        pairs.append((truth, np.where(rng.random((20, 30)) < 0.6, np.minimum(truth, 4), rng.integers(0, 5, (20, 30)))))
    scores = class_scores(sum(class_areas(truth, found, 6) for truth, found in pairs))
    expected = mmseg_reference(pairs, 6)
    np.testing.assert_allclose((scores.miou, scores.pixel_accuracy, scores.mean_accuracy), expected)
    assert scores.iou[3] == 0 and np.isnan(scores.iou[5]) and np.isnan(scores.accuracy[3])
    assert scores.present_miou > scores.miou  # which class 3 does not lower


def test_what_is_no_class_is_no_prediction():
    truth = np.array([[0, 0, 1, 1]])
    assert class_areas(truth, np.array([[0, -1, 7, 1]]), 2).tolist() == [[1, 1], [1, 1], [2, 2]]
    with pytest.raises(NbHelpersError, match="size"):
        class_areas(truth, truth.T, 2)


def test_labels_are_the_most_probable_class_at_the_photos_size():
    planes = np.stack([np.full((2, 2), 0.3), [[0.7, 0.1], [0.1, 0.1]], [[0, 0.6], [0.2, 0.1]]]).astype(np.float32)
    found = ClassMap(planes, ("a", "b", "c"), (2, 2), "x")
    assert labels_of(found).tolist() == [[1, 2], [0, 0]]
    assert labels_of(found, 0.65).tolist() == [[1, 0], [0, 0]]
    assert labels_of(ClassMap(planes, ("a", "b", "c"), (8, 8), "x")).shape == (8, 8)


def test_published_protocols_set_all_numbers_at_once():
    voc = vocabulary_protocol("pascal-voc", "sclip")
    s = voc.settings
    assert (s.scale, s.probability_threshold, s.area_threshold, s.short_side, s.crop, s.stride) == (
        65,
        0.1,
        0.1,
        336,
        224,
        112,
    )
    assert len(voc.classes[0]) == 26 and voc.classes[4] == ("ship",) and len(voc.classes[15]) == 7
    assert vocabulary_protocol("coco-stuff", "sclip").settings.short_side == 448
    naclip = vocabulary_protocol("pascal-voc", "naclip").settings
    assert (naclip.attention, naclip.crop, naclip.scale, naclip.probability_threshold, naclip.area_threshold) == (
        "naclip",
        0,
        40,
        0.1,
        0,
    )
    assert vocabulary_protocol("coco-stuff", "naclip").settings.short_side == 336
    corr = vocabulary_protocol("pascal-voc", "corrclip")
    assert corr.settings.probability_threshold == 0.2 and corr.settings.crop == 336 and corr.recipe.majority
    assert corr.classes[15] == ("people",)
    plain = vocabulary_protocol("pascal-voc")
    assert (plain.settings.scale, plain.settings.crop, plain.settings.probability_threshold) == (40, 0, 0)
    assert plain.classes[0] == ("background",) and plain.classes[4] == ("boat",)


def test_a_changed_number_is_said():
    assert vocabulary_protocol("pascal-voc", "sclip", scale=65).name == "sclip"
    changed = vocabulary_protocol("pascal-voc", "sclip", scale=40, pamr_steps=10)
    assert changed.name == "sclip, changed" and changed.facts()["scale"] == 40
    assert vocabulary_protocol("pascal-voc", "sclip", mode="hybrid").name == "sclip, changed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pascal", "sclip"), "no such dataset"),
        (("pascal-voc", "clip"), "no such protocol"),
    ],
)
def test_unknown_names_are_told(arguments, message):
    with pytest.raises(NbHelpersError, match=message):
        vocabulary_protocol(*arguments)


def test_a_class_list_must_fit(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("sky, wall; tree\naeroplane\n\n")
    classes = read_classes(file)
    assert classes == (("sky", "wall", "tree"), ("aeroplane",))
    with pytest.raises(NbHelpersError, match="does not fit"):
        vocabulary_protocol("pascal-voc", classes=classes)
    with pytest.raises(NbHelpersError, match="cannot be read"):
        read_classes(tmp_path / "none.txt")


def test_published_numbers_come_with_their_protocol():
    best = published_numbers("pascal-voc")
    assert [number.score for number in best] == sorted((number.score for number in best), reverse=True)
    sclip = next(number for number in best if number.method == "SCLIP")
    assert sclip.score == 59.63 and sclip.facts["scale"] == 65 and sclip.facts["photos"] == 1449
    assert {len(sclip_classes(name)) for name in ("pascal-voc", "pascal-voc20")} == {21, 20}


@pytest.fixture
def benchmark(tmp_path):
    """Drawn scenes, colours as words."""
    folder = drawn_voc(tmp_path / "VOC2012")
    protocol = vocabulary_protocol("pascal-voc", classes=CLASSES)
    return OpenVocabulary(str(folder), protocol, FakeTextEncoder(), FloodSegmenter())


def scores_only(results):
    """Results without what differs from run to run: seconds and memory."""
    items = {
        name: {key: value for key, value in item.items() if key in ("areas", "miou")}
        for name, item in results["items"].items()
    }
    return results["scores"], results["protocol"], items


def test_a_run_scores_and_writes_everything(benchmark, tmp_path):
    out = tmp_path / "out"
    results = run_benchmark(replace(benchmark, pictures=str(out / "visualizations")), out)
    assert results["scores"]["miou"] > 0.85 and results["scores"]["classes"]["ball"]["iou"] > 0.8
    pairs = []
    for name in benchmark.names():
        image, truth = LabelledPhotos("pascal-voc", benchmark.folder).read(name)
        pairs.append((truth, benchmark.predict(image).labels))
    assert results["scores"]["miou"] == pytest.approx(mmseg_reference(pairs, 21)[0], abs=1e-4)
    assert read_results(out) == json.loads(json.dumps(results))
    assert {"python", "torch", "numpy"} <= set(results["versions"]) and "cores" in results["machine"]
    item = results["items"]["2007_000000"]
    assert item["seconds"] > 0 and item["peak_memory_mb"] >= 0 and item["cost"]["prompts"] == 0
    text = (out / "summary.txt").read_text()
    assert "miou" in text and "names: lawn, sky; ball" in text and "Protocol" in text
    assert len(list((out / "visualizations").glob("*.png"))) == 3


def test_the_hybrid_mode_prompts_and_is_compared_with_the_blind_grid(benchmark, tmp_path):
    hybrid = replace(benchmark, protocol=replace(benchmark.protocol, mode="hybrid"), budgets=(1, 50))
    results = run_benchmark(hybrid, tmp_path / "out", num_samples=2)
    assert results["scores"]["miou"] > 0.85 and results["cost"]["prompts"] > 0
    assert results["cost"]["blind_grid"]["prompts"] == 4096
    curve = results["scores"]["curve"]
    dense, few, *_, many = curve
    assert len(curve) == 4 and dense["prompts"] == 0 < few["prompts"] < many["prompts"]
    own = next(point for point in curve if point["prompts"] == results["cost"]["prompts"])
    assert own["miou"] == results["scores"]["miou"]
    alone = run_benchmark(benchmark, tmp_path / "dense", num_samples=2)
    assert dense["miou"] == alone["scores"]["miou"]
    assert "prompts  decoder s" in (tmp_path / "out" / "summary.txt").read_text()


def test_a_run_that_was_cut_off_continues_with_equal_results(benchmark, tmp_path, monkeypatch):
    whole = run_benchmark(benchmark, tmp_path / "whole")
    measure, seen = OpenVocabulary.measure, []

    def until_the_second(self, name):
        seen.append(name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure(self, name)

    monkeypatch.setattr(OpenVocabulary, "measure", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(benchmark, tmp_path / "cut")
    resumed = run_benchmark(benchmark, tmp_path / "cut")
    assert seen.count(benchmark.names()[0]) == 1 and resumed["kept_from_before"] == 1
    assert scores_only(resumed) == scores_only(whole)


@pytest.mark.filterwarnings("ignore")  # Dask's own
def test_two_workers_give_the_same_results(benchmark, tmp_path):
    distributed = pytest.importorskip("distributed")
    alone = run_benchmark(benchmark, tmp_path / "alone")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        shared = run_benchmark(benchmark, tmp_path / "shared", client=client)
    assert scores_only(shared) == scores_only(alone) and list(shared["items"]) == benchmark.names()
    copy = pickle.loads(pickle.dumps(benchmark))  # what a worker in another process gets
    assert copy.measure(benchmark.names()[1])["areas"] == alone["items"][benchmark.names()[1]]["areas"]


def test_a_run_can_be_extended_but_not_mixed(benchmark, tmp_path):
    run_benchmark(benchmark, tmp_path / "out", num_samples=1)
    assert run_benchmark(benchmark, tmp_path / "out")["protocol"]["samples"] == 3
    other = replace(benchmark, protocol=replace(benchmark.protocol, name="other"))
    with pytest.raises(NbHelpersError, match=r"different: protocol"):
        run_benchmark(other, tmp_path / "out")
    with pytest.raises(NbHelpersError, match="no benchmark"):
        run_benchmark(benchmark, tmp_path / "out", num_samples=0)


def test_what_cannot_be_measured_is_counted_and_named(benchmark, tmp_path):
    root = tmp_path / "VOC2012"
    names = benchmark.names()
    (root / "JPEGImages" / f"{names[0]}.png").write_bytes(b"no picture")
    put_labels(root / "SegmentationClass" / f"{names[1]}.png", np.zeros((9, 9), np.uint8))
    results = run_benchmark(benchmark, tmp_path / "out")
    assert set(results["failed"]) == {names[0], names[1]} and results["protocol"]["samples"] == 1
    text = (tmp_path / "out" / "summary.txt").read_text()
    assert "2 items could not be measured" in text and "differ in size" in text
    (root / "SegmentationClass" / f"{names[2]}.png").unlink()
    with pytest.raises(NbHelpersError, match="nothing could be measured"):
        run_benchmark(benchmark, tmp_path / "again", num_samples=3)


def test_the_running_score_is_that_of_all_photos_so_far(benchmark, tmp_path):
    states = []
    results = run_benchmark(benchmark, tmp_path / "out", progress=states.append)
    assert [state.done for state in states] == [1, 2, 3]
    assert states[-1].score == results["scores"]["miou"] and states[0].seconds_left >= 0


def test_results_of_something_else_are_refused(tmp_path):
    with pytest.raises(NbHelpersError, match="no results"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"format": "another"}')
    with pytest.raises(NbHelpersError, match="another program"):
        read_results(tmp_path)


@dataclass(frozen=True)
class Large:
    """Items that take 32 MB each while they are measured."""

    count: int
    kind = dataset = measure_name = "large"

    def names(self):
        return [f"item {number}" for number in range(self.count)]

    def facts(self):
        return {"count": self.count}

    def measure(self, name):
        photo = np.empty(1 << 25, np.uint8)
        return {"areas": {str(number): [number, 1, len(photo)] for number in range(5)}, "cost": {"prompts": 1}}

    def summarize(self, records):
        return {"mean": float(np.mean([record["areas"]["1"][0] for record in records]))}


def test_memory_does_not_grow_with_the_items(tmp_path):
    """From 10 to 1,000 items the peak grows by less than a tenth, and the running score is not computed each time."""
    import tracemalloc

    peaks = {}
    for count in (10, 1000):
        seen: list = []
        tracemalloc.start()
        results = run_benchmark(Large(count), tmp_path / str(count), progress=seen.append)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(results["items"]) == len(seen) == count and seen[0].score is not None
    assert peaks[10] > 1 << 25
    assert peaks[1000] < 1.1 * peaks[10]


def test_the_running_score_of_many_items_is_computed_seldom(tmp_path):
    calls = []

    class Counting(Large):
        def measure(self, name):
            return {"areas": {"1": [1, 1, 1]}, "cost": {}}

        def summarize(self, records):
            calls.append(len(records))
            return super().summarize(records)

    run_benchmark(Counting(400), tmp_path, progress=lambda state: None)
    assert calls[:49] == list(range(1, 50)) and len(calls) < 200 and calls[-1] == 400
