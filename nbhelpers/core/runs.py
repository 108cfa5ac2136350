"""Runs over many photos: which ones, what their results are called, and the signature that lets a run go on."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.images import SUFFIXES

RECORDS = ("{}.json", "{}.coco.json", "{}.prompts.json")  # what tells of which picture results are
STEM_BYTES = 80  # of a name; a file name may have 255, and the names of a photo and an object stand in one
log = logging.getLogger(__name__)


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
    """``name`` as a part of a file name: letters, digits, ``_`` and ``-``; at most 80 bytes.

    Letters with accents are composed (Unicode NFC), for some systems hand out file names in pieces.
    """
    stem = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", name)).strip("-")
    return stem.encode()[:STEM_BYTES].decode(errors="ignore") or "object"


def own_name(
    folder: str | Path, name: str, digest: str | None, records: Sequence[str] = RECORDS, files: Sequence[str] = ()
) -> str:
    """A name under which results of a picture may be written: ``name``, or with a number if another's are there.

    Example:
        >>> own_name("outputs", "plain", digest)       # plain.json is of another photo
        'plain-2'

    Results of the same picture keep their name, so that an export may be repeated and a run goes on.

    Args:
        folder: where results are written.
        name: without suffix, as `file_stem` gives it.
        digest: sha256 of the picture; None or empty where it cannot be read.
        records: JSON files that hold the picture's digest as ``sha256``, below ``image`` or below ``images``, with
            ``{}`` for the name. A record with an empty digest is nobody's; one without any is another's, unless a
            record beside it says otherwise.
        files: results that must not be replaced where no record says whose they are, with ``{}`` for the name.
    """
    folder, found = Path(folder).expanduser(), name
    for number in itertools.count(2):
        owners = [_digest_in(folder / record.format(found)) for record in records]
        known = {owner for owner in owners if owner}
        unknown = None in owners or any(os.path.lexists(folder / file.format(found)) for file in files)
        if known == {digest} or not (known or unknown):
            break
        found = f"{name}-{number}"
    if found != name:
        log.warning("%s holds %r of another picture; these results are called %r", folder, name, found)
    return found


def _digest_in(record: Path) -> str | None:
    """The digest that a record holds; empty where there is no record, None where it says nothing."""
    try:
        about = json.loads(record.read_text(encoding="utf-8"))
        image = about.get("image") or (about.get("images") or [{}])[0]
        return about.get("sha256", image.get("sha256"))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError, AttributeError, TypeError, KeyError, IndexError):
        return None


def apart(output: str | Path, source: str | Path | Sequence[str | Path]) -> None:
    """Refuse to write results into the very folder whose photos are worked through: the next run would take them too.

    Raises:
        NbHelpersError: ``source`` is the folder ``output``.
    """
    output = Path(output).expanduser()
    folder = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if folder is not None and output.is_dir() and folder.is_dir() and output.samefile(folder):
        raise NbHelpersError(
            "results would lie among the photos, and the next run would take them for photos",
            given=output,
            do=f"name another folder, such as {output / 'results'}",
        )


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
