"""One file over http or https, taken up again where it broke off."""

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
    """A tqdm bar in bytes on standard error; it shows nothing when ``progress`` is False."""
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
    """Bring ``url`` to ``target``; return ``target``.

    What has arrived is kept in ``target.part``. The next call asks for the rest only (``Range`` with ``If-Range``,
    RFC 9110 section 14), so a file that has changed since, or a server without ranges, starts anew. Passing
    faults are tried again, a few times.

    Args:
        url: http or https; redirects to anything else are refused.
        target: where it goes; its folder exists.
        label: name of the progress bar.
        progress: whether to show it.
        size: bytes expected, where they are known; anything else is refused.
        checked: the caller holds the file to a published checksum, so that it may go on from where it was even if
            the server gives no proof (entity tag or date) that the file is still the same.

    Raises:
        NbHelpersError: no such address, no network, or another size than expected.
        OSError: the disk is full or cannot be written.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise NbHelpersError("only http and https addresses are fetched", given=url)
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
        do="check the network and try again; what has arrived is kept",
    ) from last


def unreachable(url: str) -> str | None:
    """Why there is no way to a server (no such name, refused, no route), found out at once; None if there may be."""
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
    """Whether the server said "no such range" because nothing is missing; else what is here is thrown away."""
    whole = part.is_file() and error.headers.get("Content-Range") == f"bytes */{part.stat().st_size}"
    if not whole:
        part.unlink(missing_ok=True)
    return whole


def _note(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _had(part: Path, note: Path, url: str, checked: bool) -> tuple[int, str | None]:
    """How many bytes of ``url`` are here, and what proves that they are of the same version."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text())
        if known["url"] == url and (known["validator"] or checked):
            return part.stat().st_size, known["validator"]
    return 0, None


def _validator(response) -> str | None:
    """What ``If-Range`` may carry: a strong entity tag, else the date (RFC 9110 section 13.1.5)."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _start(response) -> int | None:
    content_range = response.headers.get("Content-Range", "")
    digits = content_range.removeprefix("bytes ").partition("-")[0]
    return int(digits) if digits.isdigit() else None


def _open(request: urllib.request.Request, timeout: float = TIMEOUT):
    """Open with http and https only: the usual opener would follow a redirect to ftp."""
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
