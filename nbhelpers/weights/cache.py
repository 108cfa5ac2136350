"""Local files of the catalog: lookup, download and verification.

A file is hashed once; a successful check is recorded with its size and modification time and not repeated. A file
without a published hash is pinned at its first download: it is checked against the hub's own declaration if there is
one, its hash is written to ``checkpoints/pins.json``, and later files must match it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import checkpoints_dir, sha256, write_text
from nbhelpers.weights import catalog
from nbhelpers.weights.catalog import Asset, Model
from nbhelpers.weights.download import bar
from nbhelpers.weights.sources import HubFile

LARGE = 200_000_000  # bytes from which hashing shows a progress bar
MEMORY = ".checked.json"
PINS = "pins.json"

INCOMING = ".incoming"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
log = logging.getLogger(__name__)


def fetch(*names: str, progress: bool = True, verify: bool = False) -> dict[str, Path]:
    """Download models or samples, unless they are present.

    Example:
        >>> fetch("mobilesam", "quokka.jpg")["quokka.jpg"]
        PosixPath('data/quokka.jpg')

    Args:
        names: names of models or samples, or ``"lite"``, ``"official"``, ``"samples"`` for a whole set.
        progress: whether to show progress bars on standard error.
        verify: whether to hash present files again.

    Returns:
        The path of each file by its catalog name.

    Raises:
        NbHelpersError: an unknown name, a file that differs from the catalog, no network, a full or read-only
            disk. Of several files, the others are downloaded first.
    """
    assets = {asset.file: asset for name in names for asset in catalog.assets_of(name)}
    failures: list[NbHelpersError] = []
    here: dict[str, Path] = {}
    for group in _units(assets.values()):
        try:
            here |= _ensure(group, progress, verify)
        except NbHelpersError as error:
            failures.append(error)
    if len(failures) > 1:
        raise NbHelpersError(
            f"{len(failures)} downloads failed; the other files are complete",
            given="\n            ".join(f"{e.what}: {e.given}" for e in failures),
            do=failures[0].do,
        ) from failures[0]
    if failures:
        raise failures[0]
    return {file: here[file] for file in assets}


def path_of(asset: Asset, *, verify: bool = False, progress: bool = False) -> Path | None:
    """The verified path of a file; None if it is not present. Never downloads.

    The file is searched in ``checkpoints/`` (``data/`` for samples), then in the hub's cache.

    Raises:
        NbHelpersError: a file of that name differs from the catalog.
    """
    path = locate(asset)
    if path is not None:
        check(asset, path, catalog.command_for(asset), again=verify, progress=progress)
    return path


def locate(asset: Asset) -> Path | None:
    """The path of a file of that name, without verification; None if there is none."""
    if asset.target.is_file():
        return asset.target
    for source in asset.sources:
        if isinstance(source, HubFile) and (cached := source.cached(any_revision=asset.sha256 is not None)):
            return cached
    return None


def here(model: Model) -> bool:
    """Whether all files of a model are present, by name and size, without hashing."""
    paths = [(asset, locate(asset)) for asset in model.assets]
    return all(path is not None and (not a.exact or path.stat().st_size == a.bytes) for a, path in paths)


def files(model: Model | str, *, fetch_missing: bool = True, progress: bool = True) -> dict[str, Path]:
    """The verified files of a model by role, for its adapter.

    Missing lite files are downloaded. Official files have gigabytes and are never downloaded automatically.

    Raises:
        NbHelpersError: see `fetch`; or official files are missing; the message gives the command to download them.
    """
    model = catalog.find(model) if isinstance(model, str) else model
    if model.set == "lite" and fetch_missing:
        found = fetch(model.name, progress=progress)
        return {asset.role: found[asset.file] for asset in model.assets}
    found = {asset.role: path_of(asset, progress=progress) for asset in model.assets}
    paths = {role: path for role, path in found.items() if path is not None}
    missing = [asset for asset in model.assets if asset.role not in paths]
    if missing:
        raise NbHelpersError(
            f"the weights of {model.name} have not been downloaded",
            given=f"looked for {_places(missing[0])}",
            expected=f"{len(model.assets)} file(s), {model.bytes / 1e6:,.0f} MB",
            do=f"{model.command}   (licence: {model.licence})",
        )
    return paths


def sample(name: str, *, progress: bool = True) -> Path:
    """The path of a sample file, downloaded if necessary.

    Example:
        >>> sample("quokka").name
        'quokka.jpg'

    Raises:
        NbHelpersError: an unknown name; see also `fetch`.
    """
    found = catalog.find_sample(name)
    return fetch(found.name, progress=progress)[found.asset.file]


def offline() -> bool:
    """Whether the network is disabled by ``HF_HUB_OFFLINE`` or ``NBHELPERS_OFFLINE``."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "NBHELPERS_OFFLINE"))
    return any(value.strip().lower() in ("1", "true", "yes", "on") for value in values)


def _units(assets: Iterable[Asset]) -> list[list[Asset]]:
    """Assets grouped by archive."""
    groups: dict[str, list[Asset]] = {}
    for asset in assets:
        groups.setdefault(asset.sources[0].unit, []).append(asset)
    return list(groups.values())


def _ensure(assets: list[Asset], progress: bool, verify: bool) -> dict[str, Path]:
    found = {asset.file: path_of(asset, verify=verify, progress=progress) for asset in assets}
    here = {file: path for file, path in found.items() if path is not None}
    missing = [asset for asset in assets if asset.file not in here]
    if not missing:
        return here
    if offline():
        do = "unset HF_HUB_OFFLINE / NBHELPERS_OFFLINE"
        raise _absent(missing[0], "has not been downloaded, and the network is disabled", "", do)
    root, unit = missing[0].folder / INCOMING, missing[0].sources[0].unit
    with _plainly(missing[0]):
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f"{unit}.lock", missing[0].file, progress):
            for asset in missing:
                # another process may have downloaded it in the meantime
                here[asset.file] = path_of(asset, progress=progress) or _bring(asset, root / unit, progress)
            shutil.rmtree(root / unit, ignore_errors=True)
    return here


def _bring(asset: Asset, incoming: Path, progress: bool) -> Path:
    """Try each source in turn; a file is verified before it is renamed to its final name."""
    incoming.mkdir(parents=True, exist_ok=True)
    failures = []
    for source in asset.sources:
        arriving = incoming / f"{asset.target.name}.new"
        size = asset.bytes if asset.exact else None
        try:
            path = source.bring(arriving, incoming, size=size, progress=progress)
        except NbHelpersError as error:
            failures.append(error)
            continue
        becomes = asset.target if path == arriving else path
        if wrong := fault(asset, path, again=True, progress=progress, becomes=becomes):
            _discard(path)
            shutil.rmtree(incoming, ignore_errors=True)
            raise NbHelpersError(
                f"the download of {asset.file} was damaged or changed and has been removed",
                given=f"{source}: {wrong[0]}",
                expected=wrong[1],
                do=f"try again: {catalog.command_for(asset)}",
            )
        if path == arriving:
            asset.target.parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(asset.target)
        return becomes
    reasons = "".join(f"{error.what}: {error.given}\n            " for error in failures)
    raise _absent(asset, "could not be downloaded", reasons, failures[0].do) from failures[0]


def _discard(path: Path) -> None:
    """Remove an invalid file; in the hub's cache, also the content to which the link points."""
    content = path.resolve()
    path.unlink(missing_ok=True)
    content.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(lock: Path, what: str, progress: bool) -> Iterator[None]:
    """Hold a lock file, which the system releases when the process ends."""
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        if progress:
            sys.stderr.write(f"{what}: another process is downloading it; waiting\n")
        held.acquire()
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def _plainly(asset: Asset) -> Iterator[None]:
    """Turn errors of writing into an `NbHelpersError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in NO_SPACE
        raise NbHelpersError(
            "the disk is full" if full else "the folder cannot be written",
            given=f"{asset.file} ({asset.bytes / 1e6:,.0f} MB) to {asset.folder}: {error.strerror or error}",
            do=f"{'free some space, then' if full else 'set NBHELPERS_HOME to a writable folder, then'} "
            f"{catalog.command_for(asset)}",
        ) from error


def _absent(asset: Asset, why: str, reasons: str, do: str | None) -> NbHelpersError:
    command = catalog.command_for(asset)
    return NbHelpersError(
        f"{asset.file} {why}",
        given=f"{reasons}looked for {_places(asset)}",
        do=f"{do}, then: {command}" if do else command,
    )


def _places(asset: Asset) -> str:
    in_hub = [f"the hub's cache ({s.repo})" for s in asset.sources if isinstance(s, HubFile)]
    return ", ".join([str(asset.target), *in_hub])


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
    """The mismatch of a file as (actual, expected); None if it is valid. See `check`.

    The check of a file that is about to be renamed is recorded under the name that it ``becomes``.
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
        log.debug("the check cannot be recorded: %s", error)
