"""Shell games and the benchmark of staying with one object: on drawn instances, without weights."""

import numpy as np
import pytest
from fake_benchmarks import put_clip
from test_label_propagation import ColourSegmenter

from nbhelpers.benchmarks import identity
from nbhelpers.benchmarks.identity import MAX_HIDDEN, SIZE, SPEEDS, OneObject, plan_moves, shell_game, switches
from nbhelpers.benchmarks.products import CutOut
from nbhelpers.benchmarks.runner import run_benchmark
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.label_propagation import LabelPropagation
from nbhelpers.models.values import Prediction, TrackedFrame


@pytest.fixture
def material(monkeypatch):
    rows, columns = np.mgrid[:80, :80]
    disc = (rows - 40) ** 2 + (columns - 40) ** 2 < 36**2
    photo = np.where(disc[..., None], (220, 40, 30), (90, 90, 90)).astype(np.uint8)
    scenes = {"green": np.full((300, 500, 3), (40, 160, 60), np.uint8)}
    found = [CutOut("disc", photo, disc)], scenes
    monkeypatch.setattr(identity, "_material", lambda: found)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_game_follows_from_its_seed_and_hides_nothing_too_much(material, seed):
    game, again = (shell_game(seed, *material, frames=5) for _ in range(2))
    assert np.array_equal(game.images, again.images)
    assert np.array_equal(game.labels, again.labels)
    assert game.images.shape == (5, *SIZE, 3)
    assert 3 <= game.instances <= 5
    areas = np.array(
        [[game.mask(frame, instance).sum() for frame in range(5)] for instance in range(1, game.instances + 1)]
    )
    assert areas[:, 0].min() > 0.9 * areas.max()  # all apart in the beginning
    if not game.name.startswith("leaving"):
        assert areas.min() > (1 - MAX_HIDDEN) * areas.max() * 0.9
    outside = game.labels[0] == 0
    assert abs(game[0][outside].mean(0) - (40, 160, 60)).max() < 4
    assert not np.array_equal(game.images, shell_game(seed + 3, *material, frames=5).images)


def test_things_change_places_at_no_more_than_the_speed():
    plan = plan_moves(np.random.default_rng(0), 4, 60, 100, 0.5)
    steps = np.linalg.norm(np.diff(plan.centers, axis=1), axis=2)
    assert SPEEDS[0] < steps.max() < 1.2 * SPEEDS[1]
    assert {tuple(sorted(places)) for places in plan.centers[:, [0], 0].T.round().astype(int).tolist()}
    assert np.abs(plan.centers[:, -1] - plan.centers[:, 0]).max() > 50


def test_a_thing_leaves_and_comes_back():
    plan = plan_moves(np.random.default_rng(1), 3, 120, 100, 0.5, leaves=True)
    outside = (plan.centers[0, :, 0] < -50) | (plan.centers[0, :, 0] > SIZE[1] + 50)
    assert outside.any() and not outside[[0, -1]].any()
    others = plan.centers[1:, :, 0]
    assert others.min() > 0 and others.max() < SIZE[1]


def test_runs_of_wrong_frames_begin_with_a_switch():
    assert switches([]) == []
    assert switches([4, 5, 6, 20, 21, 40]) == [4, 20, 40]
    assert switches([4, 8, 12]) == [4]


class Follower:
    """Follows instance 1 of a shell game, and from a frame on instance 2."""

    name, device = "follower", "cpu"

    def __init__(self, switch=99):
        self.switch = switch

    def open(self, frames):
        return frames

    def add(self, state, frame, object_id, prompt):
        return Prediction.of_mask(prompt.mask)

    def remove(self, state, object_id, frame=None):
        raise AssertionError("nothing is removed")

    def propagate(self, state, start, stop, step=None):
        for frame in range(start, stop + 1):
            mask = state.mask(frame, 1 if frame < self.switch else 2)
            yield TrackedFrame(frame, {1: Prediction.of_mask(mask)})


def test_staying_with_one_is_measured(material, tmp_path):
    scores = {}
    for switch in (99, 4):
        benchmark = OneObject("shell-game", tracker=Follower(switch), clips=("3",), frames=7)
        results = run_benchmark(benchmark, tmp_path / str(switch))
        scores[switch] = results["scores"]
    assert results["items"]["3"]["wrong"] == [4, 5, 6]
    assert results["items"]["3"]["iou"] == [1, 1, 1, 0, 0, 0]
    right = {"iou": 1, "right_at_end": 1, "switches": 0, "named": 0}
    assert {name: scores[99][name] for name in right} == right
    assert scores[4]["iou"] == 0.5 and scores[4]["right_at_end"] == 0
    assert scores[4]["switches"] == scores[4]["named"] == 1  # a mask that jumps is doubtful


def test_false_alarms_are_counted_on_davis(tmp_path):
    put_clip(tmp_path / "davis", "a", 4)
    benchmark = OneObject("davis2016-doubt", tmp_path / "davis", LabelPropagation(ColourSegmenter()), frames=3)
    assert benchmark.names() == ["a"]
    record = benchmark.measure("a")
    assert record["frames"] == 3 and len(record["iou"]) == 2 and record["wrong"] == []
    record |= {"iou": [0.9, 0.9], "doubtful": [1]}
    assert benchmark.summarize([record])["false_alarms"] == 0.5
    assert benchmark.summarize([{**record, "iou": [0.2, 0.9]}])["false_alarms"] == 0
    with pytest.raises(NbHelpersError, match="dataset"):
        OneObject("davis").names()
