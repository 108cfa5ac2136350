"""Which model `load` takes, that it is shared, and what it says when there is none."""

import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import load as module
from nbhelpers.models.load import choose_model, load, load_checkpoint
from nbhelpers.weights import catalog


@pytest.fixture
def present(monkeypatch):
    """Say which models are on this machine."""
    names = set()
    monkeypatch.setattr(module.cache, "here", lambda model: model.name in names)
    monkeypatch.delenv("NBHELPERS_MODELS", raising=False)
    return names


def test_auto_takes_lite_until_an_official_checkpoint_is_here(present):
    assert choose_model("segmenter").name == "sam2-hiera-tiny-lite"
    present.add("sam2.1-hiera-small")
    assert choose_model("segmenter").name == "sam2.1-hiera-small"
    present.add("sam2.1-hiera-large")
    assert choose_model("segmenter").name == "sam2.1-hiera-large"
    assert choose_model("segmenter", models="lite").name == "sam2-hiera-tiny-lite"


def test_the_set_can_be_named_by_the_environment(present, monkeypatch):
    monkeypatch.setenv("NBHELPERS_MODELS", "official")
    assert choose_model("segmenter").set == "official"
    assert choose_model("segmenter", models="lite").set == "lite"
    monkeypatch.setenv("NBHELPERS_MODELS", "all")
    with pytest.raises(NbHelpersError, match="unknown set"):
        choose_model("segmenter")


def test_every_task_of_the_catalog_has_a_choice(present):
    for task in {model.task for model in catalog.models()}:
        assert choose_model(task).task == task
        assert not catalog.models(task, "official") or choose_model(task, models="official").set == "official"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("segmentor",), "unknown task"),
        (("segmenter", "sam9"), "no model of this name"),
        (("segmenter", "dinov2-small"), "another task"),
        (("segmenter", None, "quantum"), "device"),
    ],
)
def test_wrong_wishes_are_told(arguments, words):
    with pytest.raises(NbHelpersError, match=words):
        load(*arguments)


def test_an_official_model_that_is_not_here_is_never_fetched_unasked(home, monkeypatch):
    monkeypatch.setattr("nbhelpers.weights.cache.locate", lambda asset: None)
    with pytest.raises(NbHelpersError) as caught:
        load("segmenter", "sam2.1-hiera-large", "cpu")
    assert "sam2.1-hiera-large" in str(caught.value)
    assert "looked for" in str(caught.value)
    assert "nbhelpers fetch sam2.1-hiera-large" in str(caught.value)


def test_a_model_without_adapter_is_one_clear_error():
    entry = next(model for model in catalog.models() if model.adapter is None)
    with pytest.raises(NbHelpersError, match="cannot run it"):
        load(entry.task, entry.name, "cpu")


@pytest.mark.weights("mobilesam")
def test_loaded_models_are_shared_until_unloaded():
    first = load("segmenter", "mobilesam", "cpu")
    assert load("segmenter", "mobilesam", "cpu") is first
    module.unload()
    assert load("segmenter", "mobilesam", "cpu") is not first


def test_a_missing_checkpoint_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(NbHelpersError, match="nbhelpers fetch sam2-hiera-large"):
        load_checkpoint(tmp_path / "sam2_hiera_large.pt")


def test_a_file_of_unknown_name_needs_a_known_configuration(tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(b"weights")
    with pytest.raises(NbHelpersError, match="configuration cannot be inferred"):
        load_checkpoint(path)
    with pytest.raises(NbHelpersError, match="unknown configuration"):
        load_checkpoint(path, "sam3.yaml")
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        load_checkpoint(path, "sam2_hiera_t.yaml", "cpu")


@pytest.mark.weights
def test_weights_of_ones_own_are_loaded():
    from nbhelpers import load
    from nbhelpers.core.files import checkpoints_dir

    load("segmenter", "sam2-hiera-tiny-lite", "cpu")  # converts them, if that has not been done
    path = checkpoints_dir() / "sam2-hiera-tiny-lite.safetensors"
    assert load_checkpoint(path, "configs/sam2/sam2_hiera_t.yaml", "cpu").name == path.name
