"""fetch: whole, checked, once; and one clear error for whatever goes wrong."""

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from local_server import LocalServer

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.weights import cache, catalog, download
from nbhelpers.weights.sources import Asset, HubFile, Model, Sample, UrlFile

WEIGHTS, PHOTO = b"weights" * 5000, b"photo" * 50


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    server = LocalServer()
    server.files |= {"/w.onnx": WEIGHTS, "/p.jpg": PHOTO}
    yield server
    server.close()


@pytest.fixture
def store(server, home, monkeypatch):
    """A catalog of one lite model ``little``, one official ``big`` and one picture, all on the local server."""
    for name in ("HF_HUB_OFFLINE", "NBHELPERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hf" / "hub"))
    weights = Asset("w.onnx", (UrlFile(f"{server.url}/w.onnx"),), len(WEIGHTS), sha(WEIGHTS))
    big = Asset("big.pt", (HubFile("owner/big", "big.pt"),), len(WEIGHTS), sha(WEIGHTS))
    photo = Asset("p.jpg", (UrlFile(f"{server.url}/p.jpg"),), len(PHOTO), sha(PHOTO), "sample", kind="sample")
    monkeypatch.setattr(catalog, "LITE", (model("little", "lite", weights),))
    monkeypatch.setattr(catalog, "OFFICIAL", (model("big", "official", big),))
    monkeypatch.setattr(catalog, "SAMPLES", (Sample("p.jpg", photo, "CC0", "somebody"),))
    catalog._owners.cache_clear()
    yield SimpleNamespace(weights=weights, big=big, photo=photo, home=home)
    catalog._owners.cache_clear()


def sha(data):
    return hashlib.sha256(data).hexdigest()


def model(name, set, *assets):
    return Model(name, "segmenter", set, assets, "MIT", "little", "fast")


def change(monkeypatch, **changes):
    """Replace the one lite asset by a variant of it."""
    old = catalog.LITE[0].assets[0]
    fields = {name: getattr(old, name) for name in ("file", "sources", "bytes", "sha256", "role", "exact", "kind")}
    new = Asset(**(fields | changes))
    monkeypatch.setattr(catalog, "LITE", (model("little", "lite", new),))
    return new


def fetch(*names, **options):
    return cache.fetch(*names, progress=False, **options)


def left(folder):
    """Names of the files below a folder, without locks and memory."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.name for path in found if path.suffix != ".lock" and path.name != ".checked.json")


def test_weights_land_in_checkpoints_and_pictures_in_data(store):
    assert fetch("little", "p.jpg") == {
        "w.onnx": store.home / "checkpoints" / "w.onnx",
        "p.jpg": store.home / "data" / "p.jpg",
    }
    assert left(store.home) == ["p.jpg", "w.onnx"]
    assert cache.sample("p", progress=False).read_bytes() == PHOTO


def test_what_is_here_opens_no_socket_starts_no_process_and_is_not_hashed_again(store, monkeypatch):
    fetch("little", "samples")

    def forbidden(*args, **options):
        raise AssertionError("touched")

    for owner, name in ((socket, "socket"), (subprocess, "Popen"), (cache, "sha256"), (cache, "_alone")):
        monkeypatch.setattr(owner, name, forbidden)
    assert set(fetch("little", "samples")) == {"w.onnx", "p.jpg"}
    with pytest.raises(AssertionError, match="touched"):
        fetch("little", verify=True)


def test_it_is_quiet_when_cached(store, capfd):
    fetch("little")
    capfd.readouterr()
    cache.fetch("little")
    assert capfd.readouterr() == ("", "")


def test_a_flipped_bit_on_the_way_never_gets_the_name(store, server):
    server.files["/w.onnx"] = b"X" + WEIGHTS[1:]
    with pytest.raises(NbHelpersError) as caught:
        fetch("little")
    message = str(caught.value)
    assert sha(WEIGHTS) in message
    assert sha(server.files["/w.onnx"]) in message
    assert "nbhelpers fetch little" in message
    assert left(store.home) == []
    server.files["/w.onnx"] = WEIGHTS
    assert fetch("little")["w.onnx"].read_bytes() == WEIGHTS


def test_another_size_on_the_way_never_gets_the_name(store, server):
    server.files["/w.onnx"] = WEIGHTS + b"more"
    with pytest.raises(NbHelpersError, match=rf"another size[\s\S]*{len(WEIGHTS) + 4} bytes"):
        fetch("little")
    assert left(store.home) == []


@pytest.mark.parametrize("damage", [WEIGHTS[:-1], b"", b"X" + WEIGHTS[1:]], ids=["cut", "empty", "flipped"])
def test_a_wrong_file_that_lies_here_is_told_and_left_alone(store, damage):
    path = fetch("little")["w.onnx"]
    path.write_bytes(damage)
    os.utime(path, ns=(1, 1))
    for ask in (lambda: fetch("little"), lambda: cache.files("little"), lambda: cache.path_of(store.weights)):
        with pytest.raises(NbHelpersError, match=r"differs from the file in the catalog[\s\S]*nbhelpers fetch little"):
            ask()
    assert path.read_bytes() == damage


def test_a_file_copied_here_by_hand_is_taken_without_the_network(store, server):
    store.weights.target.parent.mkdir()
    store.weights.target.write_bytes(WEIGHTS)
    fetch("little")
    assert server.asked == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "NBHELPERS_OFFLINE"])
def test_offline_takes_what_is_here_and_tells_what_is_not(store, server, monkeypatch, variable):
    fetch("little")
    server.asked.clear()
    monkeypatch.setenv(variable, "1")
    assert fetch("little")
    with pytest.raises(
        NbHelpersError, match=r"p\.jpg has not been downloaded[\s\S]*looked for[\s\S]*nbhelpers fetch p\.jpg"
    ):
        fetch("p.jpg")
    with pytest.raises(NbHelpersError, match=r"the hub's cache \(owner/big\)"):
        fetch("big")
    assert server.asked == []


def test_offline_takes_the_file_in_the_hub_cache_without_a_copy(store, monkeypatch):
    from test_sources import put_in_hub_cache

    link = put_in_hub_cache(store.home / "hf", "owner/big", "big.pt", WEIGHTS, sha(WEIGHTS))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("big") == {"big.pt": link}
    assert cache.files("big") == {"checkpoint": link}
    assert cache.here(catalog.find("big"))
    assert left(store.home / "checkpoints") == []


def test_no_network_is_one_clear_error(store, server):
    server.close()
    with pytest.raises(NbHelpersError, match=r"w\.onnx could not be downloaded[\s\S]*nbhelpers fetch little"):
        fetch("little")


def test_the_second_source_is_tried_when_the_first_fails(store, server, monkeypatch):
    change(monkeypatch, sources=(UrlFile(f"{server.url}/gone"), UrlFile(f"{server.url}/w.onnx")))
    assert fetch("little")["w.onnx"].read_bytes() == WEIGHTS


def test_one_failure_does_not_keep_the_others_away(store, server):
    del server.files["/w.onnx"]
    with pytest.raises(NbHelpersError, match=r"w\.onnx"):
        fetch("little", "p.jpg")
    assert store.photo.target.is_file()


def test_official_models_are_never_fetched_unasked(store, server):
    with pytest.raises(NbHelpersError, match=r"weights of big have not been downloaded[\s\S]*nbhelpers fetch big"):
        cache.files("big")
    assert cache.files("little", progress=False)["checkpoint"].is_file()


def test_here_is_by_name_and_size(store):
    little = catalog.find("little")
    assert not cache.here(little)
    path = fetch("little")["w.onnx"]
    assert cache.here(little)
    path.write_bytes(b"cut")
    assert not cache.here(little)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written"), (errno.EACCES, "cannot be written")],
)
@pytest.mark.parametrize("where", ["mkdir", "open", "replace"])
def test_a_disk_that_refuses_is_one_clear_error(store, monkeypatch, number, words, where):
    honest = getattr(Path, where)

    def refuse(path, *args, **options):
        if "checkpoints" in path.parts and (where != "open" or path.name.endswith(".part")):
            raise OSError(number, os.strerror(number), str(path))
        return honest(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, where, refuse)
        with pytest.raises(NbHelpersError, match=rf"{words}[\s\S]*w\.onnx[\s\S]*nbhelpers fetch little"):
            fetch("little")
    assert not store.weights.target.exists()
    assert fetch("little")


def test_a_disk_without_room_is_told_before_the_download(store, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(NbHelpersError, match="the disk is full"):
        fetch("little")
    assert left(store.home) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission(store):
    (store.home / "checkpoints").mkdir(mode=0o555)
    with pytest.raises(NbHelpersError, match="cannot be written"):
        fetch("little")


def test_a_file_that_stands_where_the_folder_should_be(store):
    (store.home / "checkpoints").write_text("")
    with pytest.raises(NbHelpersError, match="cannot be written"):
        fetch("little")


def test_memory_that_cannot_be_read_or_written_does_no_harm(store, monkeypatch):
    fetch("little")
    (store.home / "checkpoints" / ".checked.json").write_text("[nonsense")

    def refuse(*args):
        raise NbHelpersError("read-only")

    monkeypatch.setattr(cache, "write_text", refuse)
    assert fetch("little")


def pins(store):
    file = store.home / "checkpoints" / "pins.json"
    return json.loads(file.read_text()) if file.exists() else {}


def test_without_a_published_hash_the_first_arrival_is_pinned(store, server, monkeypatch):
    asset = change(monkeypatch, sha256=None, exact=False)
    path = fetch("little")["w.onnx"]
    assert pins(store) == {"w.onnx": sha(WEIGHTS)}
    path.unlink()
    server.files["/w.onnx"], server.etag = WEIGHTS[::-1], '"two"'
    with pytest.raises(NbHelpersError, match=sha(WEIGHTS)):
        fetch("little")
    assert not asset.target.exists()


def test_the_hash_that_the_hub_declares_is_checked(store, monkeypatch):
    from test_sources import put_in_hub_cache

    big = Asset("big.pt", (HubFile("owner/big", "big.pt"),), 10, None, exact=False)
    monkeypatch.setattr(catalog, "OFFICIAL", (model("big", "official", big),))
    put_in_hub_cache(store.home / "hf", "owner/big", "big.pt", WEIGHTS[::-1], sha(WEIGHTS))
    with pytest.raises(NbHelpersError, match=sha(WEIGHTS)):
        fetch("big")
    assert pins(store) == {}


def test_two_processes_at_once_fetch_once(store, server):
    server.files["/slow.onnx"] = WEIGHTS * 200
    code = (
        "import sys, time\n"
        "from nbhelpers.weights import cache, catalog\n"
        "from nbhelpers.weights.sources import Asset, Model\n"
        "from nbhelpers.weights.sources import UrlFile\n"
        f"a = Asset('slow.onnx', (UrlFile('{server.url}/slow.onnx'),), {len(WEIGHTS) * 200}, {sha(WEIGHTS * 200)!r})\n"
        "catalog.LITE = (Model('slow', 'segmenter', 'lite', (a,), 'MIT', '', ''),)\n"
        "honest = UrlFile.bring\n"
        "def slowly(*args, **options):\n"
        "    time.sleep(1)\n"
        "    return honest(*args, **options)\n"
        "UrlFile.bring = slowly\n"
        "print(cache.fetch('slow')['slow.onnx'])\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert [path for path, _ in server.asked].count("/slow.onnx") == 1
    assert sum("another process is downloading it" in err for _, err in told) == 1


def test_unknown_names_are_told_with_similar_ones(store):
    with pytest.raises(NbHelpersError, match="perhaps little"):
        fetch("litle")


@pytest.mark.weights("mobilesam")
def test_the_real_ones_are_the_real_ones():
    found = cache.fetch("mobilesam", "quokka", progress=False, verify=True)
    assert {path.name for path in found.values()} == {"mobilesam_encoder.onnx", "mobilesam_decoder.onnx", "quokka.jpg"}
