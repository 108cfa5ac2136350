"""Resumable download of a file over http or https."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import CHUNK

ATTEMPTS = 4
PAUSE = 0.5  # seconds before the second attempt; doubled each time
TIMEOUT = 30  # seconds without a byte
PASSING = {408, 416, 425, 429, 500, 502, 503, 504}
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO}
NO_ROAD = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH}


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
