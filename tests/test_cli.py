"""The commands as a shell sees them; what a job's command does is tested with the job."""

import subprocess
import sys

import pytest


def run(*arguments, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-m", "nbhelpers", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def test_an_error_of_ours_is_its_text_and_no_traceback(tmp_path):
    result = run("segment", "--image", "no-such.jpg", "--point", "1,2", "--output", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("nbhelpers: there is no such picture")
    assert "Traceback" not in result.stderr and result.stdout == ""


def test_doctor_prints_one_table_with_every_model_and_its_command(tmp_path):
    from nbhelpers.weights import catalog

    result = run("doctor", NBHELPERS_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    for model in catalog.models():
        assert model.name in result.stdout
    assert "Python" in result.stdout and "torch" in result.stdout and "nbhelpers fetch" in result.stdout
    assert "VGGT by number of photos" in result.stdout
    assert not any(tmp_path.iterdir())  # it only looks


def test_doctor_measures_nothing_without_a_gpu():
    result = run("doctor", "--measure", "vggt-1b", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1 and "cuda" in result.stderr
    assert "VGGT alone" in run("doctor", "--measure", "colmap").stderr


@pytest.mark.weights
def test_a_second_fetch_is_quiet_and_says_where_things_are():
    result = run("fetch", "sam2-hiera-tiny-lite", NBHELPERS_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2 and result.stderr == ""


def test_an_unknown_name_is_told_with_what_is_like_it():
    result = run("fetch", "sam2-hiera-tiny-light")
    assert result.returncode == 1 and "sam2-hiera-tiny-lite" in result.stderr
