"""Both arms side by side: measures, true masks of other tools, intervals, files, commands and bad input."""

import json

import cv2
import numpy as np
import pytest
from test_geometry_fusion import GRID, PLAIN, SIZE
from test_label_propagation import ColourSegmenter
from typer.testing import CliRunner

from nbhelpers import Frames
from nbhelpers.cli import app
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import encode_rle, load_mask
from nbhelpers.core.prompts import Prompt
from nbhelpers.geometry_fusion import render_clip, write_clip, write_comparison
from nbhelpers.geometry_fusion.comparison import (
    ArmResult,
    Comparison,
    TrueMasks,
    compare_arms,
    figures,
    make_arms,
    paired_interval,
    read_predictions,
    read_truth,
)
from nbhelpers.models.geometry import SceneGeometry
from nbhelpers.models.label_propagation import LabelPropagation


def square(x, size=(40, 60)):
    mask = np.zeros(size, bool)
    if x is not None:
        mask[10:20, x : x + 10] = True
    return mask


def arm(places, name="arm"):
    return ArmResult(name, "model", [encode_rle(square(x)) for x in places], [1.0] * len(places), 0.5, 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    plain = [np.full((80, 80, 3), colour, np.uint8) for colour in PLAIN]
    clip = render_clip(18, plain, frames=14, size=SIZE, away=True)
    return write_clip(clip, tmp_path_factory.mktemp("clip"))


@pytest.fixture
def arms(monkeypatch):
    """The commands get a tracker without weights."""
    from nbhelpers.models import load as loading

    made = {"tracker": LabelPropagation(ColourSegmenter()), "geometry_encoder": SceneGeometry()}
    monkeypatch.setattr(loading, "load", lambda task, *args, **options: made[task])
    return made


def run(*arguments):
    return CliRunner().invoke(app, ["geometry-fusion", *map(str, arguments)])


def test_measures_are_what_their_definitions_say():
    truth = TrueMasks({0: square(0), 1: square(0), 2: square(None), 3: square(0), 4: square(0)})
    found = figures(truth, arm([0, 5, None, 30, 0]))
    third = 1 / 3  # ten columns, five shared
    assert found["iou"] == pytest.approx((1 + third + 1 + 0 + 1) / 5)
    assert found["recall"] == pytest.approx((1 + third + 0 + 1) / 4)
    assert found["accuracy"] == pytest.approx((1 + third + 1) / 3)
    assert found["success"] == pytest.approx(3 / 5)
    assert found["returned"] == pytest.approx((0 + 1) / 2) and truth.returns == [3, 4]
    assert np.isnan(figures(TrueMasks({0: square(0)}), arm([0]))["returned"])
    assert figures(TrueMasks({0: square(None), 1: square(0)}), arm([None, 0]))["iou"] == 1
    assert TrueMasks({0: square(None), 1: square(0)}).returns == []  # absent at first is no return


def test_intervals_are_paired_over_frames_and_clips():
    mean, low, high = paired_interval([[0.2, 0.4], [0.1, 0.1]])
    assert mean == pytest.approx(0.2) and low >= 0.1 - 1e-9 and high <= 0.4 and low < mean < high
    assert paired_interval([[0.3, 0.3, 0.3]]) == pytest.approx((0.3, 0.3, 0.3))
    with pytest.raises(NbHelpersError, match="nothing to compare"):
        paired_interval([[]])


def test_true_masks_are_read_as_tools_write_them(tmp_path):
    frames = Frames([np.full((*square(0).shape, 3), number, np.uint8) for number in range(5)])
    for number in (0, 6, 24):  # every sixth frame of a clip was taken
        cv2.imwrite(str(tmp_path / f"{number:04d}.png"), square(number).astype(np.uint8) * 255)
    truth = read_truth(tmp_path, frames, every=6)
    assert sorted(truth.masks) == [0, 1, 4] and np.array_equal(truth.masks[1], square(6))
    assert "2 of 5 frames have no true mask" in truth.notes[0]
    with pytest.raises(NbHelpersError, match="no true mask belongs"):
        read_truth(tmp_path, Frames([frames[0]]), every=7) if (tmp_path / "0000.png").unlink() is None else None
    soft = cv2.GaussianBlur(square(20).astype(np.uint8) * 255, (0, 0), 2)
    cv2.imwrite(str(tmp_path / "0001.png"), soft)
    assert np.array_equal(read_truth(tmp_path, frames).masks[1], soft >= 128)
    large = cv2.resize(square(20).astype(np.uint8) * 255, (120, 80), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(tmp_path / "0001.png"), large)
    truth = read_truth(tmp_path, frames)
    assert np.array_equal(truth.masks[1], square(20)) and any("another size" in note for note in truth.notes)
    cv2.imwrite(str(tmp_path / "0001.png"), large[:40])
    with pytest.raises(NbHelpersError, match="another shape"):
        read_truth(tmp_path, frames)
    with pytest.raises(NbHelpersError, match="no true masks"):
        read_truth(tmp_path / "nothing", frames)


def test_a_coloured_export_of_cvat_is_read_by_its_label_map(tmp_path):
    frames = Frames([np.zeros((*square(0).shape, 3), np.uint8)])
    (tmp_path / "SegmentationClass").mkdir()
    picture = np.zeros((*square(0).shape, 3), np.uint8)
    picture[square(5)], picture[square(30)] = (250, 50, 83), (51, 221, 255)
    cv2.imwrite(str(tmp_path / "SegmentationClass" / "000000.png"), picture[:, :, ::-1])
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nmug:250,50,83::\n")
    assert np.array_equal(read_truth(tmp_path, frames).masks[0], square(5))
    with (tmp_path / "labelmap.txt").open("a") as file:
        file.write("chair:51,221,255::\n")
    with pytest.raises(NbHelpersError, match="which label"):
        read_truth(tmp_path, frames)
    assert np.array_equal(read_truth(tmp_path, frames, label="chair").masks[0], square(30))
    (tmp_path / "labelmap.txt").unlink()
    with pytest.raises(NbHelpersError, match="no label map"):
        read_truth(tmp_path, frames, label="chair")


def test_a_comparison_leaves_masks_videos_curves_and_figures(folder, tmp_path):
    pytest.importorskip("av")
    frames = Frames(folder / "frames")
    truth = read_truth(folder / "gt_masks", frames)
    from nbhelpers.geometry_fusion.comparison import scene_of

    tracker = LabelPropagation(ColourSegmenter())
    made = make_arms(tracker, SceneGeometry(), ["baseline", "geometry", "zeroed"], scene=scene_of(folder), max_motion=1)
    seen = []
    comparison = compare_arms(
        made, frames, Prompt(mask=truth.masks[0]), truth, progress=lambda name, done: seen.append((name, done))
    )
    assert seen[-1] == ("zeroed", 14) and comparison.summary()["arms"]["geometry"]["gain"]["iou"] > 0.1
    write_comparison(comparison, frames, tmp_path)
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert summary["returns"] and summary["arms"]["geometry"]["returned"] > 0.3
    assert summary["arms"]["zeroed"]["iou"] == summary["arms"]["baseline"]["iou"]
    mask = load_mask(tmp_path / "pred_masks_geometry" / "0003.png")
    assert np.array_equal(mask, comparison.arms[1].mask(3))
    for name in ("baseline.mp4", "geometry.mp4", "side_by_side.mp4"):
        assert len(Frames(tmp_path / name)) == 14
    assert Frames(tmp_path / "side_by_side.mp4").size == (SIZE[0], 3 * SIZE[1])
    page = (tmp_path / "comparison.html").read_text()
    assert "Tracking Recall" in page and "<svg" in page and "geometry" in page
    write_comparison(comparison, frames, tmp_path)  # once more into the same folder
    again = Comparison(
        tuple(read_predictions(name, tmp_path / f"pred_masks_{name}", frames) for name in ("baseline", "geometry")),
        truth,
    )
    assert again.summary()["arms"]["geometry"]["iou"] == summary["arms"]["geometry"]["iou"]


def test_without_true_masks_the_cost_is_told(folder):
    frames = Frames(folder / "frames")
    comparison = compare_arms({"baseline": LabelPropagation(ColourSegmenter())}, frames, Prompt([(64, 48)]))
    summary = comparison.summary()
    assert "iou" not in summary["arms"]["baseline"] and summary["arms"]["baseline"]["seconds_a_frame"] >= 0
    assert "no true masks" in summary["notes"][0]


def test_the_command_compares_and_its_switch_is_obeyed(folder, arms, tmp_path, monkeypatch):
    truth = read_truth(folder / "gt_masks", Frames(folder / "frames"))
    y, x = (int(each.mean()) for each in np.nonzero(truth.masks[0]))
    shared = ["--frames", folder / "frames", "--point", f"{x},{y}", "--gt", folder / "gt_masks", "--no-videos"]
    done = run("compare", *shared, "--scene", folder, "--output", tmp_path / "a", "--controls")
    assert done.exit_code == 0, done.output
    assert (
        "geometry: iou" in done.output and "shuffled" in done.output and (tmp_path / "a" / "comparison.html").is_file()
    )
    monkeypatch.setenv("NBHELPERS_GEOMETRY", "off")
    done = run("compare", *shared, "--output", tmp_path / "b")
    assert done.exit_code == 0 and "geometry: " not in done.output
    done = run(
        "compare", "--frames", folder / "frames", "--gt", folder / "gt_masks", "--no-videos", "--output", tmp_path / "c",
        "--pred-a", tmp_path / "a" / "pred_masks_baseline", "--pred-b", tmp_path / "a" / "pred_masks_geometry",
    )  # fmt: skip
    assert done.exit_code == 0 and "gain" in done.output


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (["--point", "500,3"], "outside"),
        (["--point", "5"], "--point cannot be read"),
        ([], "has to be shown"),
        (["--point", "5,5", "--on", "99"], "no such frame"),
        (["--point", "5,5", "--arms", "magic"], "no such arm"),
        (["--pred-a", "x"], "both earlier runs"),
        (["--point", "5,5", "--merger", "absent.safetensors"], "no such checkpoint"),
    ],
)
def test_bad_input_of_the_command_is_one_clear_error(folder, arms, tmp_path, extra, match):
    done = run("compare", "--frames", folder / "frames", "--output", tmp_path, *extra)
    assert done.exit_code != 0 and isinstance(done.exception, NbHelpersError)
    assert match in str(done.exception)


def test_an_object_that_is_absent_where_it_is_prompted_is_told(folder):
    frames = Frames(folder / "frames")
    truth = TrueMasks({0: square(None, SIZE), 1: square(0, SIZE)})
    comparison = compare_arms({"baseline": LabelPropagation(ColourSegmenter())}, frames, Prompt([(64, 48)]), truth)
    assert any("absent on frame 0" in note for note in comparison.summary()["notes"])


def test_commands_make_clips_and_inspect_checkpoints(tmp_path, monkeypatch):
    from nbhelpers.geometry_fusion import synthetic
    from nbhelpers.geometry_fusion.merger import FeatureMerger, save_merger

    picture = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    monkeypatch.setattr(synthetic, "load_textures", lambda names: dict.fromkeys(names, picture))
    done = run("synthetic", "--output", tmp_path / "made", "--frames", 2, "--seed", 5)
    assert done.exit_code == 0 and len(list((tmp_path / "made" / "gt_masks").glob("*.png"))) == 2
    assert isinstance(run("synthetic", "--output", tmp_path, "--photos", "mine").exception, NbHelpersError)
    save_merger(tmp_path / "m.safetensors", FeatureMerger(8, 8), {"backbone": "sam2-hiera-tiny-lite", "clips": ["a"]})
    done = run("inspect", tmp_path / "m.safetensors")
    assert "geometry: no" in done.output and "sam2-hiera-tiny-lite" in done.output


def test_a_session_works_with_geometry(folder, tmp_path):
    """As with any tracker: prompts, propagation, a project that is opened again."""
    from nbhelpers import RotoSession
    from nbhelpers.geometry_fusion.comparison import scene_of

    frames = Frames(folder / "frames")
    truth = read_truth(folder / "gt_masks", frames)
    tracker = make_arms(
        LabelPropagation(ColourSegmenter()), SceneGeometry(), ["geometry"], scene=scene_of(folder), max_motion=1
    )["geometry"]
    session = RotoSession(frames, tracker, project=tmp_path / "project")
    session.set_mask(truth.masks[0])
    assert list(session.propagate())
    before = [session.mask(number).copy() for number in range(len(frames))]
    again = RotoSession(frames, tracker, project=tmp_path / "project")
    assert all(np.array_equal(again.mask(number), mask) for number, mask in enumerate(before))
    assert GRID == 16
