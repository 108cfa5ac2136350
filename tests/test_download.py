"""Downloads over http: resumed, restarted, refused."""

import errno
import os
import random
import shutil
from types import SimpleNamespace

import pytest
from local_server import LocalServer

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.weights import download as module
from nbhelpers.weights.download import download

DATA = random.Random(7).randbytes(3_000_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    server = LocalServer()
    server.files["/weights.bin"] = DATA
    yield server
    server.close()


def get(server, folder, **options):
    return download(f"{server.url}/weights.bin", folder / "weights.bin", label="weights", progress=False, **options)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def break_off(server, folder, monkeypatch, at=1_000_000):
    """Leave a download behind that broke off and was given up."""
    server.break_after = at
    with monkeypatch.context() as patch:
        patch.setattr(module, "ATTEMPTS", 1)
        with pytest.raises(NbHelpersError, match="the download failed"):
            get(server, folder)
    assert (folder / "weights.bin.part").stat().st_size == at
    server.asked.clear()


def test_a_file_arrives_whole_and_leaves_nothing_else(server, tmp_path):
    assert get(server, tmp_path, size=len(DATA)).read_bytes() == DATA
    assert left(tmp_path) == ["weights.bin"]


def test_a_broken_connection_is_taken_up_within_one_call(server, tmp_path):
    server.break_after = 700_000
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.asked == [("/weights.bin", None), ("/weights.bin", "bytes=700000-")]


def test_the_next_call_asks_for_the_rest_only(server, tmp_path, monkeypatch):
    break_off(server, tmp_path, monkeypatch)
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.asked == [("/weights.bin", "bytes=1000000-")]
    assert left(tmp_path) == ["weights.bin"]


def test_a_file_that_changed_in_between_starts_anew(server, tmp_path, monkeypatch):
    break_off(server, tmp_path, monkeypatch)
    server.files["/weights.bin"], server.etag = DATA[::-1], '"two"'
    assert get(server, tmp_path).read_bytes() == DATA[::-1]


def test_a_server_without_ranges_starts_anew(server, tmp_path, monkeypatch):
    server.ranges = False
    break_off(server, tmp_path, monkeypatch)
    assert get(server, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_proof_of_the_version_nothing_is_appended(server, tmp_path, monkeypatch, etag):
    server.etag = etag
    break_off(server, tmp_path, monkeypatch)
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.asked == [("/weights.bin", None)]


def test_where_the_caller_checks_the_content_no_proof_is_needed(server, tmp_path, monkeypatch):
    server.etag = None
    break_off(server, tmp_path, monkeypatch)
    assert get(server, tmp_path, checked=True).read_bytes() == DATA
    assert server.asked == [("/weights.bin", "bytes=1000000-")]


def test_a_part_that_is_complete_is_only_renamed(server, tmp_path, monkeypatch):
    break_off(server, tmp_path, monkeypatch)
    (tmp_path / "weights.bin.part").write_bytes(DATA)
    assert get(server, tmp_path).read_bytes() == DATA
    assert len(server.asked) == 1


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path, monkeypatch):
    break_off(server, tmp_path, monkeypatch)
    (tmp_path / "weights.bin.part").write_bytes(DATA + b"more")
    assert get(server, tmp_path).read_bytes() == DATA


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.refuse = [503, 429]
    assert get(server, tmp_path).read_bytes() == DATA
    assert len(server.asked) == 3


def test_a_missing_file_is_told_at_once(server, tmp_path):
    del server.files["/weights.bin"]
    with pytest.raises(NbHelpersError, match="404"):
        get(server, tmp_path)
    assert len(server.asked) == 1
    assert left(tmp_path) == []


def test_no_network_is_told_at_once(tmp_path):
    closed = LocalServer()
    closed.close()
    with pytest.raises(NbHelpersError, match="cannot be reached"):
        get(closed, tmp_path)


@pytest.mark.parametrize("says_length", [True, False])
def test_another_size_than_expected_is_refused(server, tmp_path, says_length):
    server.says_length = says_length
    with pytest.raises(NbHelpersError, match=r"(another size|larger than)[\s\S]*1000000 bytes"):
        get(server, tmp_path, size=1_000_000)
    assert not (tmp_path / "weights.bin").exists()


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://example.org/x", "data:,x"])
def test_other_addresses_than_http_are_refused(server, tmp_path, address):
    with pytest.raises(NbHelpersError, match="only http"):
        download(address, tmp_path / "x", label="x", progress=False)
    server.redirect = address
    with pytest.raises(NbHelpersError, match=r"redirect|cannot be reached"):
        get(server, tmp_path)
    assert left(tmp_path) == []


def test_too_little_room_is_known_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        get(server, tmp_path)
    assert left(tmp_path) == []


def test_the_bar_names_the_file(server, tmp_path, capsys):
    download(f"{server.url}/weights.bin", tmp_path / "w", label="weights of the quokka", progress=True)
    told = capsys.readouterr()
    assert "weights of the quokka" in told.err
    assert told.out == ""
