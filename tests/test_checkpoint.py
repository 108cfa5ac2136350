import pytest

from nbhelpers import NbHelpersError
from nbhelpers.models.load import load_checkpoint


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
