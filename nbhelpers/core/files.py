"""Files: where they live, which ones a pattern names, what results are called; and atomic writing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".hif", ".avif",
)  # fmt: skip
"""File names that end so count as pictures, in folders, clips, globs and uploads; what a file is, its content says."""

RECORDS = ("{}.json", "{}.coco.json", "{}.prompts.json")  # files that name the picture of some results
STEM_BYTES = 80  # of a name; a file name may have 255, and the names of a photo and an object stand in one
NUMBER = re.compile(r"%0?\d*d|(?:\\#)+")  # of a frame, in an escaped file name
CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
log = logging.getLogger(__name__)


def home() -> Path:
    """The folder that holds ``checkpoints/``, ``data/`` and ``outputs/``.

    ``NBHELPERS_HOME`` where it is set; else the checkout, when the package runs from one; else the user's cache
    (``$XDG_CACHE_HOME/nbhelpers``).
    """
    if named := os.environ.get("NBHELPERS_HOME"):
        return Path(named).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "checkpoints" / "README.md").is_file() and (checkout / "notebooks").is_dir():
        return checkout
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbhelpers"


def checkpoints_dir() -> Path:
    """Where weights land; ``NBHELPERS_CHECKPOINTS`` overrides."""
    return Path(os.environ.get("NBHELPERS_CHECKPOINTS") or home() / "checkpoints").expanduser()


def data_dir() -> Path:
    """Where sample pictures land."""
    return home() / "data"


def outputs_dir(job: str) -> Path:
    """``outputs/<job>``, made if it is missing: where notebooks and commands leave results.

    Raises:
        NbHelpersError: the folder cannot be made.
    """
    folder = home() / "outputs" / job
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NbHelpersError(
            "the folder for results cannot be made",
            given=f"{folder}: {error.strerror or error}",
            do="set NBHELPERS_HOME to a folder that can be written",
        ) from error
    return folder


def upload_files() -> list[Path]:
    """Ask for files of the user's own on Google Colab, and keep them in its working folder.

    Returns:
        Their paths, at least one.

    Raises:
        NbHelpersError: not on Colab, which alone has this dialogue; or nothing was chosen.
    """
    if "google.colab" not in sys.modules:
        raise NbHelpersError("files are uploaded on Colab only", do="give the path of a file on this machine")
    from google.colab import files  # pyright: ignore[reportMissingImports] - on Colab only

    paths = [Path(name).resolve() for name in files.upload()]
    if not paths:
        raise NbHelpersError("no file was chosen", do="run the cell again and choose one, or give a path")
    return paths


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; flush it and rename it into place when the block succeeds.

    Example:
        >>> with replacing("outputs/mask.png") as temporary:
        ...     cv2.imwrite(str(temporary), mask)

    The temporary name keeps the suffix, for writers that choose the format by it. When the block raises, or the
    disk is full, nothing of it is left and the old file stands.

    Raises:
        NbHelpersError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """Make a folder and try whether files can be written there, before work is done whose result would be lost.

    Raises:
        NbHelpersError: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".try-", dir=folder) as file:
            file.write(b" ")
    except OSError as error:
        raise _not_written(folder, error) from error


def _not_written(path: Path, error: OSError) -> NbHelpersError:
    full = error.errno in FULL
    return NbHelpersError(
        "the disk is full, the file cannot be written" if full else "the file cannot be written",
        given=f"{path}: {error.strerror or error}",
        do="make room and run it again" if full else "check permissions, or name another folder",
    )


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` to ``path``, whole or not at all; return the path."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 ``text`` to ``path``, whole or not at all; return the path."""
    return write_bytes(path, text.encode("utf-8"))


def sha256(path: str | Path, progress: Callable[[int], object] | None = None) -> str:
    """Hexadecimal sha256 of a file, read in pieces; ``progress`` is called with the number of bytes of each piece."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()


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
    return sorted((each for each in found if each.is_file()), key=natural_path_key)


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


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``frame2`` comes before ``frame10``.

    Example:
        >>> sorted(["frame10.png", "Frame2.png", "a.png"], key=natural_key)
        ['a.png', 'Frame2.png', 'frame10.png']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts)]


def natural_path_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key of a path in natural order; paths that differ in case alone have an order too."""
    return natural_key(str(path)), str(path)
