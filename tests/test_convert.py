"""The conversion of the lite SAM 2: each rule on small graphs, the whole on the real files."""

import numpy as np
import pytest
import torch

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.sam2 import ONLY_FOR_VIDEO, build_image_network, build_lite
from nbhelpers.weights import convert
from nbhelpers.weights.cache import files

CONFIG = "configs/sam2/sam2_hiera_t.yaml"


def test_the_positional_embedding_splits_and_adds_up_again():
    rng = np.random.default_rng(0)
    grid, window = rng.normal(size=(3, 7, 7)).astype(np.float32), rng.normal(size=(3, 8, 8)).astype(np.float32)

    def finished(grid, window):  # Hiera._get_pos_embed
        enlarged = torch.nn.functional.interpolate(torch.tensor(grid)[None].float(), size=(64, 64), mode="bicubic")[0]
        return enlarged.numpy() + np.tile(window, (1, 8, 8))

    split = convert.split_position_embedding(finished(grid, window))
    assert split[0].shape == (3, 7, 7) and split[1].shape == (3, 8, 8)
    np.testing.assert_allclose(finished(*split), finished(grid, window), atol=1e-5)
    with pytest.raises(ValueError, match="does not split"):
        convert.split_position_embedding(rng.normal(size=(1, 64, 64)).astype(np.float32))


def test_files_of_something_else_are_refused(tmp_path):
    broken = tmp_path / "broken.ort"
    broken.write_bytes(b"ORTM" + bytes(100))
    with pytest.raises(NbHelpersError, match="cannot be read"):
        convert.sam2_state_dict(broken, broken)


def test_what_is_saved_is_what_was_given_whatever_the_memory_order(tmp_path):
    from safetensors.numpy import load_file

    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(np.ones((4, 5), np.float32).T, order="C")}
    saved = load_file(convert.save_state_dict(state, tmp_path / "s.safetensors"))
    assert all(np.array_equal(saved[name], value) for name, value in state.items())


@pytest.fixture(scope="module")
def lite():
    paths = files("sam2-hiera-tiny-lite")
    return paths, convert.sam2_state_dict(paths["encoder"], paths["decoder"])


@pytest.mark.weights
def test_every_weight_of_the_image_model_is_there_in_the_official_name_and_shape(lite):
    official = build_image_network(CONFIG).state_dict()
    _, state = lite
    assert set(state) <= set(official)
    assert {name: value.shape for name, value in state.items()} == {n: tuple(official[n].shape) for n in state}
    absent = set(official) - set(state)
    assert absent and all(name.startswith(ONLY_FOR_VIDEO) for name in absent)


@pytest.mark.weights
def test_the_converted_file_is_kept_mended_and_done_without(lite, tmp_path, monkeypatch, caplog):
    paths, state = lite
    linked = {role: tmp_path / path.name for role, path in paths.items()}
    for role, path in linked.items():
        path.symlink_to(paths[role])
    monkeypatch.setattr("nbhelpers.models.sam2.sam2_state_dict", lambda *_: state)  # 5 s each time otherwise
    kept = tmp_path / "name.safetensors"

    wanted = build_lite("name", linked, "cpu", config=CONFIG).model.state_dict()["no_mem_embed"]
    assert kept.is_file()
    stamp = kept.stat().st_mtime_ns
    build_lite("name", linked, "cpu", config=CONFIG)
    assert kept.stat().st_mtime_ns == stamp

    kept.write_bytes(kept.read_bytes()[:1000])
    again = build_lite("name", linked, "cpu", config=CONFIG)
    assert torch.equal(again.model.state_dict()["no_mem_embed"], wanted)
    assert "converting again" in caplog.text and kept.stat().st_size > 1_000_000

    kept.unlink()

    def refuse(*_):
        raise NbHelpersError("the file cannot be written", given="read-only")

    monkeypatch.setattr("nbhelpers.models.sam2.save_state_dict", refuse)
    without = build_lite("name", linked, "cpu", config=CONFIG)
    assert torch.equal(without.model.state_dict()["no_mem_embed"], wanted)
    assert not kept.exists() and "cannot be stored" in caplog.text
