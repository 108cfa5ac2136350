"""Verification of files against the catalog: size, sha256, and pins for files without a published hash.

A file is hashed once; a successful check is recorded with its size and modification time and not repeated. A file
without a published hash is pinned at its first download: it is checked against the hub's own declaration if there is
one, its hash is written to ``checkpoints/pins.json``, and later files must match it.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import checkpoints_dir, sha256, write_text
from nbhelpers.weights.download import bar
from nbhelpers.weights.entries import Asset

logger = logging.getLogger(__name__)
LARGE = 200_000_000  # bytes from which hashing shows a progress bar
MEMORY = ".checked.json"
PINS = "pins.json"


def check(asset: Asset, path: Path, command: str, *, again: bool = False, progress: bool = True) -> None:
    """Check that the file ``path`` is ``asset``.

    Args:
        asset: the expected file.
        path: the file.
        command: downloads it, for the message.
        again: hash it even if it has been verified before.
        progress: whether to show a progress bar while a large file is hashed.

    Raises:
        NbHelpersError: another size or hash; the message gives both.
    """
    if wrong := fault(asset, path, again=again, progress=progress):
        raise NbHelpersError(
            f"{asset.file} differs from the file in the catalog: truncated, changed, or another version",
            given=f"{path}: {wrong[0]}",
            expected=wrong[1],
            do=f"move it away and run: {command}",
        )


def fault(
    asset: Asset, path: Path, *, again: bool = False, progress: bool = True, becomes: Path | None = None
) -> tuple[str, str] | None:
    """What is wrong with a file, as (what it has, what it should have); None when it is right. See `check`.

    A file that is about to be renamed is remembered under the name that it ``becomes``.
    """
    status = path.stat()
    if asset.exact and status.st_size != asset.bytes:
        return f"{status.st_size} bytes", f"{asset.bytes} bytes"
    expected = asset.sha256 or _read(PINS).get(asset.file) or _declared_by_hub(path)
    key, stamp = str((becomes or path).resolve()), [status.st_size, status.st_mtime_ns]
    if not again and expected and _read(MEMORY).get(key) == [*stamp, expected]:
        return None
    with bar(f"checking {path.name}", status.st_size, progress and status.st_size > LARGE) as shown:
        found = sha256(path, shown.update)
    if expected and found != expected:
        return f"sha256 {found}", f"sha256 {expected}"
    if asset.sha256 is None:
        _write(PINS, asset.file, found)
    _write(MEMORY, key, [*stamp, found])
    return None


def _declared_by_hub(path: Path) -> str | None:
    """The sha256 that the hub declares for a large file, from its name in the hub's cache."""
    name = path.resolve().name
    return name if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", name) else None


def _read(name: str) -> dict:
    try:
        data = json.loads((checkpoints_dir() / name).read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(name: str, key: str, value: object) -> None:
    """Add an entry. Concurrent processes may lose one, which is then only computed again."""
    try:
        write_text(checkpoints_dir() / name, json.dumps(_read(name) | {key: value}, indent=1, sort_keys=True) + "\n")
    except NbHelpersError as error:
        logger.debug("the check cannot be recorded: %s", error)
