"""The doctor tells the truth, downloads nothing, and fits the terminal."""

import socket

import pytest

from nbhelpers.weights import catalog
from nbhelpers.weights.doctor import HERE, IN_HUB, MISSING, NOTHING, PARTLY, WRONG, doctor, state


@pytest.fixture
def empty(home, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hf" / "hub"))
    return home


def lay(asset, data=None):
    """A file of the right size (sparse) or with the given content."""
    asset.target.parent.mkdir(parents=True, exist_ok=True)
    with asset.target.open("wb") as file:
        file.truncate(asset.bytes) if data is None else file.write(data)


def test_every_model_stands_there_with_set_size_licence_and_command(empty):
    text = str(doctor())
    for model in catalog.models():
        shown = model.command if model.assets else f"{model.name}  ({model.command.removeprefix('pip install ')})"
        line = next(line for line in text.splitlines() if f" {shown} " in line)
        assert model.set in line
        assert model.licence in line
        assert MISSING in line or NOTHING in line
    assert "Python" in text
    assert str(empty / "checkpoints") in text


def test_it_fits_a_hundred_columns_and_has_no_escape_codes(empty):
    text = str(doctor())
    assert "\x1b" not in text
    table = text[text.index("model, and the command") :]
    assert max(len(line) for line in table.splitlines()) <= 100


def test_nothing_is_fetched_and_nothing_is_made(empty, monkeypatch):
    def forbidden(*args, **options):
        raise AssertionError("a socket")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    str(doctor())
    assert list(empty.iterdir()) == []


def test_states(empty):
    lite = catalog.find("mobilesam")
    assert state(lite) == MISSING
    lay(lite.assets[0])
    assert state(lite) == PARTLY
    lay(lite.assets[1])
    assert state(lite) == HERE
    lay(lite.assets[1], b"cut off")
    assert state(lite) == WRONG
    assert state(catalog.find("colmap")) == NOTHING


def test_a_file_in_the_hub_cache_is_told(empty):
    from test_sources import put_in_hub_cache

    vggt = catalog.find("vggt-1b")
    put_in_hub_cache(empty / "hf", "facebook/VGGT-1B", "model.safetensors")
    assert state(vggt) == IN_HUB


def test_offline_and_settings_are_told(empty, monkeypatch):
    monkeypatch.setenv("NBHELPERS_OFFLINE", "1")
    text = str(doctor())
    assert "network      off" in text
    assert "NBHELPERS_OFFLINE=1" in text


def test_a_machine_without_torch_still_gets_its_table(empty, monkeypatch):
    from nbhelpers.weights import doctor as module

    monkeypatch.setattr(module, "_version", lambda package: "-")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    text = str(doctor())
    assert "missing: pip install torch" in text
    assert "sam2-hiera-tiny-lite" in text


def test_a_notebook_gets_html(empty):
    html = doctor()._repr_html_()
    assert html.startswith("<pre")
    assert "sam2.1-hiera-large" in html
