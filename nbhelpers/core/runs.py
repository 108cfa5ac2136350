"""Which photos a run is about, and what their results are called."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import outputs_dir
from nbhelpers.core.images import SUFFIXES

RECORDS = ("{}.json", "{}.coco.json", "{}.prompts.json")  # what tells of which picture results are
STEM_BYTES = 80  # of a name; a file name may have 255, and the names of a photo and an object stand in one
NUMBER = re.compile(r"%0?\d*d|(?:\\#)+")  # of a frame, in an escaped file name
log = logging.getLogger(__name__)


def photos(
    source: str | Path | np.ndarray | Sequence[str | Path | np.ndarray], folder: str | Path | None = None
) -> list[Path]:
    """The files of some photos, in natural order, or in that of a list.

    Example:
        >>> photos("trip/**/*.jpg")
        [PosixPath('trip/1.jpg'), PosixPath('trip/2/1.jpg')]

    Args:
        source: a picture, a folder of pictures, a glob, a numbered name (see `matches`), an array ``(n, H, W, c)``,
            or a list of any of these and of arrays ``(H, W, c)``. A name in a list that nothing is there for stays in
            it: what reads the photos tells of it, and does the others.
        folder: where arrays are written as PNG, under names made from their content; ``outputs/photos`` when left out.

    Raises:
        NbHelpersError: nothing is there, or an array that is not an image.
    """
    if not isinstance(source, (str, Path)):
        if not len(source):
            raise NbHelpersError("there are no photos", expected="at least one")
        return [path for each in source for path in _listed(each, folder)]
    check_local(source)
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    listed = (each for each in path.iterdir() if each.suffix.lower() in SUFFIXES) if path.is_dir() else matches(path)
    found = [each for each in listed if not each.name.startswith(".")]
    if not found:
        raise NbHelpersError(
            "there is no such picture", given=source, expected="a picture, a folder with pictures, or a glob"
        )
    return sorted(found, key=_natural)


def matches(pattern: str | Path) -> list[Path]:
    """The files of a glob (``trip/**/*.jpg``) or a numbered name (``shot.%04d.png``, ``shot.####.png``), in order."""
    path = Path(pattern).expanduser()
    literal = re.escape(path.name)
    if (numbered := NUMBER.sub(r"\\d+", literal)) != literal:
        listed = path.parent.iterdir() if path.parent.is_dir() else ()
        found = [each for each in listed if re.fullmatch(numbered, each.name)]
    elif path.parent.is_dir():  # whose own name may hold brackets
        found = list(path.parent.glob(path.name))
    else:
        try:
            found = list(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        except ValueError:  # no glob: ** beside other characters
            found = []
    return sorted((each for each in found if each.is_file()), key=_natural)


def check_local(source: str | Path) -> None:
    """Refuse a URL, with the command that downloads it.

    Raises:
        NbHelpersError: ``source`` is a URL.
    """
    if not (parts := re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", str(source), re.IGNORECASE)) or Path(source).exists():
        return
    url = f"{parts[1]}://{parts[2]}"  # a `Path` has lost one of the slashes
    is_file = Path(parts[2].partition("?")[0]).suffix and "/" in parts[2]
    raise NbHelpersError(
        "files are read from this machine only, not from the network",
        given=url,
        do=f'{"curl -LO" if is_file else "yt-dlp"} "{url}", and give the file',
    )


def _natural(path: Path) -> tuple:
    parts = re.split(r"(\d+)", str(path).lower())
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts)], str(path)


def _listed(source: Any, folder: str | Path | None) -> list[Path]:
    """The files of one entry of a list."""
    if not isinstance(source, (str, Path)):
        return [_written(source, folder)]
    check_local(source)
    path = Path(source).expanduser()
    return [path] if path.is_file() or not (path.is_dir() or matches(path)) else photos(path)


def _written(array: np.ndarray, folder: str | Path | None) -> Path:
    """The PNG file of an array, written if it is not there."""
    from nbhelpers.core.images import load_image, save_image

    image = load_image(np.asarray(array))
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:16]
    path = Path(outputs_dir("photos") if folder is None else folder) / f"array-{digest}.png"
    return path if path.exists() else save_image(path, image)


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
