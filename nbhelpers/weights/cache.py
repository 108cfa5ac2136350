"""Files of the catalog on this machine: located, fetched once, and checked.

A file is hashed once; that it was right is remembered by its size and time of change, so that the next use costs
nothing. A file whose hash nobody published is pinned when it first arrives: the hub's own declaration for it is
checked where there is one, the hash is written to ``checkpoints/pins.json``, and later files are held to it.
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

LARGE = 200_000_000  # bytes from which hashing takes long enough for a bar
MEMORY = ".checked.json"
PINS = "pins.json"

INCOMING = ".incoming"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
log = logging.getLogger(__name__)


def fetch(*names: str, progress: bool = True, verify: bool = False) -> dict[str, Path]:
    """Bring models or sample pictures here; what is here already costs nothing.

    Example:
        >>> fetch("mobilesam", "quokka.jpg")["quokka.jpg"]
        PosixPath('data/quokka.jpg')

    Args:
        names: names of models or samples, or ``"lite"``, ``"official"``, ``"samples"`` for all of a kind.
        progress: whether to show bars on standard error.
        verify: whether to hash again what is here.

    Returns:
        Where each file is, by its catalog name.

    Raises:
        NbHelpersError: an unknown name, a file that is not the catalogued one, no network, a full or read-only
            disk. When several files were asked for, the others are fetched first.
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
            f"{len(failures)} downloads failed; the other files are here",
            given="\n            ".join(f"{e.what}: {e.given}" for e in failures),
            do=failures[0].do,
        ) from failures[0]
    if failures:
        raise failures[0]
    return {file: here[file] for file in assets}


def path_of(asset: Asset, *, verify: bool = False, progress: bool = False) -> Path | None:
    """Where the file is, checked; None when it is not here. Starts no download.

    Looks in ``checkpoints/`` (``data/`` for samples), then in the hub's cache.

    Raises:
        NbHelpersError: there is a file of that name, and it is not the catalogued one.
    """
    path = locate(asset)
    if path is not None:
        check(asset, path, catalog.command_for(asset), again=verify, progress=progress)
    return path


def locate(asset: Asset) -> Path | None:
    """Where a file of that name is, unchecked; None when there is none."""
    if asset.target.is_file():
        return asset.target
    for source in asset.sources:
        if isinstance(source, HubFile) and (cached := source.cached(any_revision=asset.sha256 is not None)):
            return cached
    return None


def here(model: Model) -> bool:
    """Whether all files of a model are on this machine, by name and size; nothing is hashed."""
    paths = [(asset, locate(asset)) for asset in model.assets]
    return all(path is not None and (not a.exact or path.stat().st_size == a.bytes) for a, path in paths)


def files(model: Model | str, *, fetch_missing: bool = True, progress: bool = True) -> dict[str, Path]:
    """The checked files of a model by role: what its adapter is built from.

    Lite files that are missing are fetched. Official ones are gigabytes and are never fetched unasked.

    Raises:
        NbHelpersError: as `fetch`; or official files are missing, with the command that fetches them.
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
            f"the weights of {model.name} are not on this machine",
            given=f"looked for {_places(missing[0])}",
            expected=f"{len(model.assets)} file(s), {model.bytes / 1e6:,.0f} MB",
            do=f"{model.command}   (never started unasked: {model.licence})",
        )
    return paths


def sample(name: str, *, progress: bool = True) -> Path:
    """The path of a sample picture, fetched if it is missing.

    Example:
        >>> sample("quokka").name
        'quokka.jpg'

    Raises:
        NbHelpersError: an unknown name, or as `fetch`.
    """
    found = catalog.find_sample(name)
    return fetch(found.name, progress=progress)[found.asset.file]


def offline() -> bool:
    """Whether the user asked for no network: ``HF_HUB_OFFLINE`` or ``NBHELPERS_OFFLINE``."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "NBHELPERS_OFFLINE"))
    return any(value.strip().lower() in ("1", "true", "yes", "on") for value in values)


def _units(assets: Iterable[Asset]) -> list[list[Asset]]:
    """Assets that arrive in one archive, together."""
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
        raise _absent(missing[0], "is not here, and the network is switched off", "", do)
    root, unit = missing[0].folder / INCOMING, missing[0].sources[0].unit
    with _plainly(missing[0]):
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f"{unit}.lock", missing[0].file, progress):
            for asset in missing:
                # another process may have brought it while this one waited
                here[asset.file] = path_of(asset, progress=progress) or _bring(asset, root / unit, progress)
            shutil.rmtree(root / unit, ignore_errors=True)
    return here


def _bring(asset: Asset, incoming: Path, progress: bool) -> Path:
    """Try each source in turn; what arrived is checked before it gets its name."""
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
                f"{asset.file} arrived damaged or changed and was removed",
                given=f"{source}: {wrong[0]}",
                expected=wrong[1],
                do=f"try again: {catalog.command_for(asset)}",
            )
        if path == arriving:
            asset.target.parent.mkdir(parents=True, exist_ok=True)
            arriving.replace(asset.target)
        return becomes
    told = "".join(f"{error.what}: {error.given}\n            " for error in failures)
    raise _absent(asset, "could not be fetched", told, failures[0].do) from failures[0]


def _discard(path: Path) -> None:
    """Remove a wrong file; of a file in the hub's cache, the content that the link points to as well."""
    content = path.resolve()
    path.unlink(missing_ok=True)
    content.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(lock: Path, what: str, progress: bool) -> Iterator[None]:
    """Hold a lock file; the system frees it when a process dies."""
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        if progress:
            sys.stderr.write(f"{what}: another process is fetching it; waiting\n")
        held.acquire()
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def _plainly(asset: Asset) -> Iterator[None]:
    """Turn what the disk refuses into one clear error."""
    try:
        yield
    except OSError as error:
        full = error.errno in NO_SPACE
        raise NbHelpersError(
            "the disk is full" if full else "the folder cannot be written",
            given=f"{asset.file} ({asset.bytes / 1e6:,.0f} MB) to {asset.folder}: {error.strerror or error}",
            do=f"{'make room, then' if full else 'set NBHELPERS_HOME to a folder of yours, then'} "
            f"{catalog.command_for(asset)}",
        ) from error


def _absent(asset: Asset, why: str, told: str, do: str | None) -> NbHelpersError:
    command = catalog.command_for(asset)
    return NbHelpersError(
        f"{asset.file} {why}",
        given=f"{told}looked for {_places(asset)}",
        do=f"{do}, then: {command}" if do else command,
    )


def _places(asset: Asset) -> str:
    in_hub = [f"the hub's cache ({s.repo})" for s in asset.sources if isinstance(s, HubFile)]
    return ", ".join([str(asset.target), *in_hub])


def check(asset: Asset, path: Path, command: str, *, again: bool = False, progress: bool = True) -> None:
    """Return if ``path`` holds what ``asset`` says; else raise.

    Args:
        asset: what it should be.
        path: the file.
        command: what fetches it, for the message.
        again: hash it even if it is remembered as right.
        progress: whether to show a bar while a large file is hashed.

    Raises:
        NbHelpersError: another size or another hash; the message tells both.
    """
    if wrong := fault(asset, path, again=again, progress=progress):
        raise NbHelpersError(
            f"{asset.file} is not the file that the catalog names: cut off, changed, or another one",
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
    """The hub's cache names the content of a large file by the sha256 that the hub declares for it."""
    name = path.resolve().name
    return name if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", name) else None


def _read(name: str) -> dict:
    try:
        data = json.loads((checkpoints_dir() / name).read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(name: str, key: str, value: object) -> None:
    """Add one entry. Two processes at once may lose one; it is then only found out again."""
    try:
        write_text(checkpoints_dir() / name, json.dumps(_read(name) | {key: value}, indent=1, sort_keys=True) + "\n")
    except NbHelpersError as error:
        log.debug("not remembered: %s", error)
