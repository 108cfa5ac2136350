"""Every official adapter of `transformers`, from tiny checkpoints in the publishers' format, through `nbhelpers.load`."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_networks
import torch
from local_server import LocalServer

import nbhelpers
from nbhelpers.core import device
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import make_trimap
from nbhelpers.core.prompts import Prompt
from nbhelpers.models import adapters, protocols, tracking
from nbhelpers.models.load import unload
from nbhelpers.weights import cache, catalog
from nbhelpers.weights.sources import HubFile, UrlFile

PROTOCOLS = {
    "segmenter": protocols.Segmenter,
    "tracker": protocols.Tracker,
    "concept_segmenter": protocols.ConceptSegmenter,
    "text_encoder": protocols.TextEncoder,
    "detector": protocols.Detector,
    "matting": protocols.MattingModel,
    "patch_encoder": protocols.PatchEncoder,
}
TOLERANCE = {torch.bfloat16: 0.15, torch.float16: 0.02}  # of the largest value; from Ampere on, and on a T4
each_row = pytest.mark.parametrize("row", tiny_networks.ROWS)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with the checkpoint of each row, in a folder of the row's name."""
    folder = tmp_path_factory.mktemp("publishers")
    for row in tiny_networks.ROWS:
        tiny_networks.save(row, folder / row)
    return folder


@pytest.fixture(autouse=True)
def nothing_loaded(home, monkeypatch):
    """Each test loads anew, from its own folder and an empty hub cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hf" / "hub"))
    for name in ("HF_HUB_OFFLINE", "NBHELPERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield
    unload()


def place(row, checkpoints, home):
    """Put the files of a row where `nbhelpers fetch` would."""
    for asset in catalog.find(row).assets:
        target = home / "checkpoints" / asset.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((checkpoints / row / target.name).read_bytes())
    return {asset.role: home / "checkpoints" / asset.file for asset in catalog.find(row).assets}


@each_row
def test_a_checkpoint_in_the_folder_is_loaded(row, checkpoints, home):
    place(row, checkpoints, home)
    task = catalog.find(row).task
    model = nbhelpers.load(task, row, device="cpu")
    assert isinstance(model, PROTOCOLS[task]) and (model.name, model.device) == (row, "cpu")


def result(task, model, photo):
    """What a model computes for a photo that is no square, as one array."""
    box = Prompt(box=(25, 35, 75, 85))
    if task == "segmenter":
        return model.predict(model.encode(photo), box).logits
    if task == "tracker":
        model.model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(20)  # else gone at random
        state = model.open(Moving(photo))
        model.add(state, 0, 1, box)
        return np.concatenate([each.predictions[1].logits for each in model.propagate(state, 0, 2)])
    if task == "text_encoder":
        return model.dense(photo, ["cat", "dog"]).probabilities
    if task == "matting":
        return model.alphas([photo], [make_trimap(photo[:, :, 0] > 180, 6)])[0]
    if task == "patch_encoder":
        return model.tokens([photo])[0]
    return {"concept_segmenter": model.segment, "detector": model.detect}[task](photo, ["cat"], 0.0).confidence


class Moving:
    """A clip of a photo that moves."""

    size = (120, 160)

    def __init__(self, photo):
        self.photo = photo

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.roll(self.photo, 3 * index, axis=1)


@each_row
def test_half_precision_gives_nearly_the_same(row, checkpoints, home, monkeypatch, photo):
    place(row, checkpoints, home)
    task = catalog.find(row).task
    model = nbhelpers.load(task, row, device="cpu")
    exact = result(task, model, photo)
    for half, tolerance in TOLERANCE.items():
        for module in (device, adapters, tracking):
            monkeypatch.setattr(module, "half_precision", lambda *_, half=half: half)
        rough = result(task, model, photo)
        assert rough.shape == exact.shape and rough.dtype == exact.dtype == np.float32
        assert 0 < np.abs(rough - exact).max() < tolerance * np.abs(exact).max(), half


@each_row
def test_a_served_checkpoint_is_fetched_pinned_and_loaded(row, checkpoints, home, monkeypatch):
    entry, server = catalog.find(row), LocalServer()
    assert all(isinstance(source, HubFile) for asset in entry.assets for source in asset.sources)
    for path in (checkpoints / row).iterdir():
        server.files[f"/{path.name}"] = path.read_bytes()
    assets = tuple(
        dataclasses.replace(asset, sources=(UrlFile(f"{server.url}/{asset.sources[0].file}"),))
        for asset in entry.assets
    )
    monkeypatch.setattr(catalog, "OFFICIAL", (dataclasses.replace(entry, assets=assets),))
    with pytest.raises(NbHelpersError, match="have not been downloaded"):
        nbhelpers.load(entry.task, row, device="cpu")
    cache.fetch(row, progress=False)
    server.close()
    assert nbhelpers.load(entry.task, row, device="cpu").name == row
    assert set(json.loads((home / "checkpoints" / "pins.json").read_text())) == {asset.file for asset in assets}


@each_row
def test_a_truncated_checkpoint_is_one_error(row, checkpoints, home):
    files = place(row, checkpoints, home)
    files["checkpoint"].write_bytes(files["checkpoint"].read_bytes()[:-40])
    with pytest.raises(NbHelpersError, match="cannot be loaded") as told:
        nbhelpers.load(catalog.find(row).task, row, device="cpu")
    assert "nbhelpers fetch" in told.value.do


@each_row
def test_another_network_under_the_right_name_is_one_error(row, checkpoints, home):
    files = place(row, checkpoints, home)
    config = json.loads(files["config"].read_text())
    files["config"].write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(NbHelpersError, match="another network"):
        nbhelpers.load(catalog.find(row).task, row, device="cpu")
    files["config"].write_text(json.dumps(config))
    other = next(name for name in tiny_networks.ROWS if catalog.find(name).assets != catalog.find(row).assets)
    files["checkpoint"].write_bytes((checkpoints / other / "model.safetensors").read_bytes())
    unload()
    (home / "checkpoints" / "pins.json").unlink()
    with pytest.raises(NbHelpersError, match="do not fit"):
        nbhelpers.load(catalog.find(row).task, row, device="cpu")
