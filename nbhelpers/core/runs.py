"""Runs over many photos: which ones, what their results are called, and the signature that lets a run go on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.images import SUFFIXES


def photos(source: str | Path) -> list[Path]:
    """The picture, the pictures of a folder, or what a glob such as ``"trip/**/*.jpg"`` matches, in natural order.

    Raises:
        NbHelpersError: nothing is there.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [each for each in path.iterdir() if each.suffix.lower() in SUFFIXES]
    else:
        pattern = path.relative_to(path.anchor) if path.anchor else path
        found = [each for each in Path(path.anchor or ".").glob(str(pattern)) if each.is_file()]
    found = [each for each in found if not each.name.startswith(".")]
    if not found:
        raise NbHelpersError(
            "there is no such picture", given=source, expected="a picture, a folder with pictures, or a glob"
        )
    return sorted(found, key=lambda each: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(each).lower())])


def file_stem(name: str) -> str:
    """``name`` as a part of a file name: letters, digits, ``_`` and ``-``; at most 80 characters."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")[:80] or "object"


def stems(paths: Sequence[Path], taken: Collection[str] = ()) -> list[str]:
    """A file name for each photo's results: its stem, and where two are the same a bit of its path's hash.

    Args:
        paths: of the photos.
        taken: names that the run itself uses.
    """
    found = [file_stem(path.stem) for path in paths]
    folded = [stem.casefold() for stem in found]  # some file systems do not tell A from a
    reserved = {name.casefold() for name in taken} | {stem for stem in folded if folded.count(stem) > 1}
    return [
        f"{stem}-{hashlib.sha256(path.as_posix().encode()).hexdigest()[:6]}" if stem.casefold() in reserved else stem
        for stem, path in zip(found, paths, strict=True)
    ]


def sign(path: Path, signature: Mapping[str, Any]) -> None:
    """Write what a run's results depend on as JSON, or compare it with what stands there.

    Raises:
        NbHelpersError: the folder holds results of another run; the message names what differs.
    """
    signature = json.loads(json.dumps(signature))  # tuples become lists, as they come back
    if not path.exists():
        write_text(path, json.dumps(signature, indent=1, ensure_ascii=False))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before != signature:
        known = before if isinstance(before, dict) else {}
        changed = [key for key in signature if known.get(key) != signature[key]]
        raise NbHelpersError(
            "the folder holds results of another run",
            given=f"{path.parent}; different: {', '.join(changed) or path.name}",
            do="name another folder, or remove this one",
        )
