import errno
import hashlib
import os
import stat
import sys
import types
from pathlib import Path

import pytest

from nbhelpers.core import files
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing, sha256, write_bytes, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_home_is_where_the_environment_says(home):
    assert files.home() == home
    assert files.checkpoints_dir() == home / "checkpoints"
    assert files.data_dir() == home / "data"


def test_the_home_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("NBHELPERS_HOME", "~/pictures")
    assert files.home() == Path.home() / "pictures"


def test_checkpoints_can_live_elsewhere(home, monkeypatch):
    monkeypatch.setenv("NBHELPERS_CHECKPOINTS", str(home / "big-disk"))
    assert files.checkpoints_dir() == home / "big-disk"


def test_an_installed_package_uses_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("NBHELPERS_HOME", raising=False)
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "nbhelpers" / "core" / "files.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert files.home() == tmp_path / "cache" / "nbhelpers"


def test_outputs_are_made_when_asked_for(home):
    assert files.outputs_dir("segment") == home / "outputs" / "segment"
    assert (home / "outputs" / "segment").is_dir()


def test_a_home_that_cannot_be_written_is_one_clear_error(home, monkeypatch):
    (home / "outputs").write_text("a file where a folder should be")
    with pytest.raises(NbHelpersError):
        files.outputs_dir("segment")


def test_a_file_appears_whole_and_nothing_else_does(tmp_path):
    path = write_text(tmp_path / "new" / "folder" / "log.json", "grün")
    assert path.read_bytes() == "grün".encode()
    assert names(path.parent) == ["log.json"]


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "mask.png") as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path
        assert not (tmp_path / "mask.png").exists()
        temporary.write_bytes(b"x")


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX")
def test_the_file_has_the_permissions_that_the_user_asked_of_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_bytes(tmp_path / "mask.png", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_when_the_writer_fails_the_old_file_stands(tmp_path, failure):
    path = write_bytes(tmp_path / "mask.png", b"old")
    with pytest.raises(failure), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise failure
    assert path.read_bytes() == b"old" and names(tmp_path) == ["mask.png"]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_on_a_full_disk_the_old_file_stands(tmp_path, monkeypatch, call):
    path = write_bytes(tmp_path / "mask.png", b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NbHelpersError, match="cannot be written") as told:
        write_bytes(path, b"new")
    assert os.strerror(errno.ENOSPC) in told.value.given and str(path) in told.value.given
    assert path.read_bytes() == b"old" and names(tmp_path) == ["mask.png"]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(NbHelpersError, match="cannot be written") as told:
        write_bytes(tmp_path / "mask.png", b"new")
    assert os.strerror(errno.EACCES) in told.value.given
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(NbHelpersError, match="cannot be written"):
            write_bytes(tmp_path / "mask.png", b"new")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_below_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NbHelpersError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "mask.png", b"new")


def test_a_folder_of_that_name_is_left_alone(tmp_path):
    (tmp_path / "mask.png").mkdir()
    with pytest.raises(NbHelpersError, match="cannot be written"):
        write_bytes(tmp_path / "mask.png", b"new")
    assert names(tmp_path) == ["mask.png"]


def test_the_hash_is_read_in_pieces_and_tells_its_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 1000)
    data = bytes(range(256)) * 10
    path = write_bytes(tmp_path / "weights.bin", data)
    told = []
    assert sha256(path, told.append) == hashlib.sha256(data).hexdigest()
    assert told == [1000, 1000, 560]


def test_whether_a_folder_can_be_written_is_tried(tmp_path, monkeypatch):
    files.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NbHelpersError, match="cannot be written"):
        files.check_writable(tmp_path / "file" / "folder")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", full)
    with pytest.raises(NbHelpersError, match="disk is full"):
        files.check_writable(tmp_path)


def test_files_are_uploaded_on_colab_only(monkeypatch, tmp_path):
    with pytest.raises(NbHelpersError, match="Colab only"):
        files.upload_files()
    chosen = {}
    google, colab = types.ModuleType("google"), types.ModuleType("google.colab")
    google.colab, colab.files = colab, types.SimpleNamespace(upload=lambda: chosen)
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NbHelpersError, match="no file was chosen"):
        files.upload_files()
    chosen["cat.jpg"] = b"..."
    assert files.upload_files() == [tmp_path / "cat.jpg"]
