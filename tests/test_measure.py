"""`nbhelpers doctor --gpu` on tiny networks on the CPU: every case runs, and what fails is one row."""

import pytest
import tiny_networks
import torch
import transformers
from test_sam2_video import CONFIGS, SMALL

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import measure as measuring
from nbhelpers.models.sam2 import build_image_network
from nbhelpers.models.sam2_video import build_video_network

IMAGE = [change for change in SMALL if "memory" not in change]
DINOV2 = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}


def edgetam_image():
    network = tiny_networks.edgetam()[0]
    return transformers.EdgeTamModel(network.config)


TINY = {
    "SAM 2.1 large": lambda: build_image_network(CONFIGS["2.1"], *IMAGE),
    "SAM 2.1 large video": lambda: build_video_network(CONFIGS["2.1"], *SMALL),
    "EdgeTAM": edgetam_image,
    "EdgeTAM video": lambda: tiny_networks.edgetam()[0],
    "DINOv2-L": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2)),
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(measuring, "FRAMES", 2)
    monkeypatch.setattr(measuring, "GRID", 2)


def test_every_case_is_timed_and_told_in_a_table(small):
    report = measuring.measure_networks("cpu", TINY, compiled=False, rounds=1)
    assert [row.note for row in report.rows if row.seconds is None] == []
    tasks = {(row.network, row.task) for row in report.rows}
    assert tasks == {(network, task) for network in TINY for task, _, _ in measuring.CASES[network]}
    assert all(row.precision == "float32" and row.seconds > 0 and row.memory is None for row in report.rows)
    lines = str(report).splitlines()
    assert lines[0].startswith("cpu: ") and len([line for line in lines if line.startswith("| ")]) == len(tasks) + 1


def test_what_fails_is_a_row_and_the_others_go_on(small):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    networks = {"EdgeTAM": full, "DINOv2-L": TINY["DINOv2-L"]}
    failed, timed = measuring.measure_networks("cpu", networks, compiled=False, rounds=1).rows
    assert failed.seconds is None and failed.note.startswith("CUDA out of memory") and failed.fits == ()
    assert timed.network == "DINOv2-L" and timed.seconds > 0


def test_nothing_is_begun_after_the_limit():
    (row,) = measuring.measure_networks("cpu", {"DINOv2-L": TINY["DINOv2-L"]}, compiled=False, limit=-1).rows
    assert row.seconds is None and "left out" in row.note


def test_the_gpus_that_hold_a_network_are_told():
    assert measuring.Measurement("a", "b", "c", 1.0, memory=20.0).fits == ("L4", "A100 40 GB", "A100 80 GB")
    assert measuring.Measurement("a", "b", "c", 1.0, memory=3.0).fits == tuple(measuring.GPUS)


def test_precision_is_set_for_a_run_alone(monkeypatch):
    from nbhelpers.core.device import half_precision

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.delenv("NBHELPERS_PRECISION", raising=False)
    with measuring._precision("float32"):
        assert half_precision("cuda") is None
    with measuring._precision("bfloat16"):
        assert half_precision("cuda") == torch.bfloat16
    assert half_precision("cuda") == torch.bfloat16


def test_without_a_gpu_the_command_says_so(monkeypatch):
    from typer.testing import CliRunner

    from nbhelpers.cli import app

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = CliRunner().invoke(app, ["doctor", "--gpu"])
    assert isinstance(told.exception, NbHelpersError) and "no CUDA device" in str(told.exception)
    for network, cases in measuring.CASES.items():  # and what would be done on one
        assert f"{network}: {', '.join(task for task, _, _ in cases)}" in str(told.exception)


def test_the_real_networks_are_those_that_have_cases():
    assert set(measuring.real_networks()) <= set(measuring.CASES)
    assert measuring.edgetam_video_config().vision_config.model_type == "edgetam_vision_model"
