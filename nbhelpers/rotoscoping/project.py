"""The data of a rotoscoping session, kept in a folder: prompt log, one file of masks per frame, the tracker's memory.

Files are written atomically, so that a killed process leaves no partial file. The folder records its clip and model and
refuses others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import tokenize
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing, write_text
from nbhelpers.core.masks import decode_rle
from nbhelpers.core.prompts import ObjectEntry, ObjectPrompts, PromptLog, object_name
from nbhelpers.core.video import Frames
from nbhelpers.core.video_stills import is_array, is_picture
from nbhelpers.export.manifest import written_here
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.rotoscoping.schedule import USUAL_OVERLAP, USUAL_SCORE, Drift, MaskRecord, drift_score, is_current

FORMAT, VERSION = "nbhelpers.rotoscoping", 1
DAMAGED = (zipfile.BadZipFile, tokenize.TokenError, SyntaxError)  # raised by NumPy for a truncated file
CACHE_BYTES = 32 << 20  # of decoded masks
HASHED_FRAMES = 5  # frames whose pixels are hashed to identify a clip without a signature
LOCK_FILE = ".lock"
log = logging.getLogger(__name__)

State = Literal["prompted", "tracked", "outdated", "empty", "gone"]


_held: weakref.WeakValueDictionary[str, _LockFile] = weakref.WeakValueDictionary()


class Project:
    """Prompts and masks of a clip, read from and written to a folder.

    Example:
        >>> project = Project("outputs/rotoscoping/walk", identify(frames), "label-propagation")
        >>> project.put(12, {1: MaskRecord(prompted=PromptedMask(encode_rle(mask), 0.97, "5e1f"))})
        >>> project.mask(12, 1, "prompted").shape
        (480, 854)

    The records of all frames are kept in memory without their masks; decoded masks are cached up to 32 MiB.

    Args:
        folder: created if necessary; by default a temporary folder that is deleted with the project.
        clip: see `identify`.
        model: catalog name of the tracker.
        precision: in which it computes; recorded in a new project.

    Attributes:
        folder: of the project.
        clip: as given.
        log: the prompt log; a new one starts with one object.

    Raises:
        NbHelpersError: the folder belongs to another clip or model, holds other files, is open in another process, or
            cannot be written.
    """

    def __init__(self, folder: str | Path | None, clip: Mapping[str, Any], model: str, precision: str = "float32"):
        if folder is None:
            try:
                folder = tempfile.mkdtemp(prefix="nbhelpers-rotoscoping-")
            except OSError as error:
                raise NbHelpersError(
                    "cannot create a temporary folder for the project",
                    given=error.strerror or error,
                    do="pass project=, a folder on a disk with free space",
                ) from error
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder, self.clip = Path(folder).expanduser(), dict(clip)
        self._lock = threading.RLock()  # a widget reads masks while others are written
        self._index: dict[int, dict[int, MaskRecord]] = {}
        self._usual: dict[int, tuple[float, float]] = {}
        self._decoded: OrderedDict[tuple[int, int, str], np.ndarray] = OrderedDict()
        self._claim(self.clip, model, precision)
        self._make_folders()
        path = self.folder / "prompts.json"
        self.log = PromptLog.open(path) if path.exists() else PromptLog(clip, model)
        check_log(self.log, clip, model)
        for path in sorted(self._masks.glob("*.json")):
            if path.stem.isdigit():
                self._index[int(path.stem)] = {n: r.without_masks() for n, r in self._read(path).items()}
        if not self.log.events:
            self.log.append("object.add", object=object_name(()), number=1)
            self.save_log()

    @property
    def _masks(self) -> Path:
        """The folder of the mask records."""
        return self.folder / "masks"

    @property
    def _memory(self) -> Path:
        """The folder of the memory frames."""
        return self.folder / "memory"

    def save_log(self) -> None:
        """Write the prompt log.

        Raises:
            NbHelpersError: the project was reopened, moved or deleted; nothing is written then.
        """
        self._check_held()
        self.log.save(self.folder / "prompts.json")

    @property
    def entries(self) -> dict[str, ObjectEntry]:
        """The prompts of each object, by name."""
        return self.log.entries()

    def digests(self) -> dict[int, dict[int, str]]:
        """Digest of the prompts by object number and prompted frame; objects without prompts are omitted."""
        every = {entry.number: _digests(entry) for entry in self.entries.values()}
        return {number: digests for number, digests in every.items() if digests}

    def state(self, frame: int, entry: ObjectEntry) -> State:
        """State of an object's mask on a frame; see `nbhelpers.rotoscoping.RotoSession.state`."""
        digests = _digests(entry)
        if frame in digests:
            return "prompted"
        tracked = self.record(frame, entry.number).tracked
        if tracked is None or not digests:
            return "empty"
        if not is_current(tracked, digests, frame):
            return "outdated"
        return "gone" if tracked.gone else "tracked"

    def current_mask(self, frame: int, entry: ObjectEntry) -> Bool[np.ndarray, "h w"]:
        """The mask of an object on a frame, read-only; empty if there is none."""
        state = self.state(frame, entry)
        if state == "empty":
            return np.zeros(tuple(self.clip["size"]), bool)
        return self.mask(frame, entry.number, "prompted" if state == "prompted" else "tracked")

    def masks(self, frame: int) -> dict[str, Bool[np.ndarray, "h w"]]:
        """The masks of all objects that have one on a frame, by name."""
        return {
            name: self.current_mask(frame, entry)
            for name, entry in self.entries.items()
            if self.state(frame, entry) != "empty"
        }

    def frames_without_masks(self, entries: Sequence[ObjectEntry]) -> list[int]:
        """Frames on which one of these objects, if prompted anywhere, has an outdated mask or none."""
        prompted = [entry for entry in entries if _digests(entry)]
        bad = ("outdated", "empty")
        return [
            frame
            for frame in range(self.clip["frames"])
            if not prompted or any(self.state(frame, entry) in bad for entry in prompted)
        ]

    def drift(self, frame: int, entry: ObjectEntry) -> Drift | None:
        """The drift of an object's mask on a frame; None without a mask."""
        state, record = self.state(frame, entry), self.record(frame, entry.number)
        if state == "prompted":
            known = record.prompted
            return known and Drift(0.0, known.score, None, None, "predicted from prompts on this frame")
        if (tracked := record.tracked) is None or state == "empty":
            return None
        usual = self._usual_values(entry.number)
        return drift_score(tracked.score, tracked.overlap, tracked.jump, tracked.gone, usual, tracked.exchanged)

    def record(self, frame: int, number: int) -> MaskRecord:
        """The record of an object on a frame, without the masks."""
        return self._index.get(frame, {}).get(number, MaskRecord())

    def full(self, frame: int, number: int) -> MaskRecord:
        """The record of an object on a frame, with the masks."""
        known = number in self._index.get(frame, {})
        return self._read(self._masks / f"{frame:05d}.json")[number] if known else MaskRecord()

    def numbers(self) -> list[int]:
        """Numbers of all objects that ever had a mask here."""
        return sorted({number for records in self._index.values() for number in records})

    def _usual_values(self, number: int) -> tuple[float, float]:
        """Medians of an object's score and overlap over its tracked frames."""
        if number not in self._usual:
            with self._lock:
                frames = list(self._index.values())
            every = [records[number].tracked for records in frames if number in records]
            found = [tracked for tracked in every if tracked is not None and not tracked.gone]
            overlaps = [tracked.overlap for tracked in found if tracked.overlap is not None]
            score = float(np.median([tracked.score for tracked in found])) if found else USUAL_SCORE
            self._usual[number] = score, float(np.median(overlaps)) if overlaps else USUAL_OVERLAP
        return self._usual[number]

    def put(self, frame: int, records: Mapping[int, MaskRecord]) -> None:
        """Write the records of some objects on a frame; those of other objects are kept."""
        self._check_held()
        with self._lock:
            path = self._masks / f"{frame:05d}.json"
            every = {**(self._read(path) if frame in self._index else {}), **records}
            data = {str(number): record.to_dict() for number, record in sorted(every.items())}
            write_text(path, json.dumps({"frame": frame, "objects": data}, sort_keys=True))
            self._index[frame] = {number: record.without_masks() for number, record in every.items()}
            self._usual.clear()
            for key in [key for key in self._decoded if key[0] == frame and key[1] in records]:
                del self._decoded[key]

    def rle(self, frame: int, number: int, kind: str) -> Mapping[str, Any]:
        """The mask of a record as COCO RLE; ``kind`` is ``"tracked"`` or ``"prompted"``."""
        return getattr(self.full(frame, number), kind).rle

    def mask(self, frame: int, number: int, kind: str) -> Bool[np.ndarray, "h w"]:
        """The mask of a record, read-only."""
        key = frame, number, kind
        with self._lock:
            if key not in self._decoded:
                mask = np.ascontiguousarray(decode_rle(self.rle(frame, number, kind)))
                mask.setflags(write=False)
                self._decoded[key] = mask
                while len(self._decoded) > 2 and sum(each.nbytes for each in self._decoded.values()) > CACHE_BYTES:
                    self._decoded.popitem(last=False)
            self._decoded.move_to_end(key)
            return self._decoded[key]

    def save_memory(self, frame: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write a tracker's memory of a frame and its dependencies (valid JSON)."""
        self._check_held()
        with replacing(self._memory / f"{frame:05d}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)  # pyright: ignore[reportArgumentType]

    def memory(self, frame: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays and dependencies written by `save_memory`; None if there are none that can be read."""
        try:
            path = self._memory / f"{frame:05d}.npz"
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name != "about"}
                return arrays, json.loads(str(file["about"]))
        except (*DAMAGED, OSError, EOFError, ValueError, KeyError, NotImplementedError):
            return None

    def memory_frames(self) -> list[int]:
        """Frames whose memory is saved, in order."""
        return sorted(int(path.stem) for path in self._memory.glob("*.npz") if path.stem.isdigit())

    def delete_memory(self, frame: int) -> None:
        """Delete the memory of a frame, if there is one."""
        with contextlib.suppress(OSError):  # harmless if it cannot be deleted
            (self._memory / f"{frame:05d}.npz").unlink(missing_ok=True)

    @property
    def is_held(self) -> bool:
        """Whether this object may write: the project was not reopened, moved or deleted."""
        return self._held.is_held

    def _check_held(self) -> None:
        """Raise an error if this object may no longer write."""
        if not self.is_held:
            raise NbHelpersError(
                "the project was reopened, moved or deleted, so this session can no longer write to it",
                given=self.folder,
                do="continue with the session opened last, or open the project again",
            )

    def _claim(self, clip: dict[str, Any], model: str, precision: str) -> None:
        """Record clip and model in the folder, or check that they match."""
        path = self.folder / "project.json"
        if not path.exists() and self.folder.is_dir() and any(each.name[0] != "." for each in self.folder.iterdir()):
            raise NbHelpersError(
                "the folder holds other files, so no project can be created in it",
                given=self.folder,
                do="name a new folder",
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._held = FolderLock(self.folder, self)
        about = {"format": FORMAT, "version": VERSION, "clip": clip, "model": model, "precision": precision}
        if not path.exists():
            write_text(path, json.dumps(about, indent=1))
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            version, theirs, before = found["version"], found["clip"], found["model"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NbHelpersError("the project cannot be read", given=f"{path}: {error}") from error
        if found.get("format") != FORMAT or version != VERSION:
            raise NbHelpersError(
                "the project was written by another version of nbhelpers",
                given=f"{path}: {found.get('format')} version {version}",
                expected=f"{FORMAT} version {VERSION}",
            )
        _check_same(theirs, before, clip, model, f"the project {self.folder}")
        if (saved := found.get("precision", "float32")) != precision:
            log.warning("tracked in %s, continued in %s: new masks may differ at the edge", saved, precision)

    def _make_folders(self) -> None:
        """Create the folders, and delete temporary files of a killed process."""
        try:
            for folder in (self._masks, self._memory):
                folder.mkdir(exist_ok=True)
            for folder in (self.folder, self._masks, self._memory):
                for path in folder.glob(".*-????????.*"):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _read(self, path: Path) -> dict[int, MaskRecord]:
        """The records of one frame, by object number."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return {int(number): MaskRecord.from_dict(record) for number, record in data["objects"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NbHelpersError(
                "a file of the project cannot be read",
                given=f"{path}: {error}",
                do="delete this file; its frame is then tracked again",
            ) from error


def prompts_by_frame(entry: ObjectEntry) -> dict[int, ObjectPrompts]:
    """The prompts of an object by prompted frame.

    Raises:
        NbHelpersError: some prompts name no frame, as those of a photo.
    """
    found = {}
    for frame, prompts in entry.frames.items():
        if frame is None:
            raise NbHelpersError("a step of the prompt log names no frame", expected="a frame of the clip")
        if not prompts.is_empty:
            found[frame] = prompts
    return found


def _digests(entry: ObjectEntry) -> dict[int, str]:
    """Digest of the prompts by prompted frame."""
    return {frame: prompts.digest for frame, prompts in prompts_by_frame(entry).items()}


def _unwritable(folder: Path, error: OSError) -> NbHelpersError:
    """The error of a folder that cannot be written."""
    return NbHelpersError(
        "the project folder cannot be written",
        given=f"{folder}: {error.strerror or error}",
        do="copy it to a writable folder and open the copy",
    )


def check_log(prompts: PromptLog, clip: Mapping[str, Any], model: str) -> PromptLog:
    """Return the log itself if it belongs to this clip and model.

    Raises:
        NbHelpersError: it belongs to another clip or model, or has frames that the clip does not have.
    """
    _check_same(prompts.image, prompts.model, clip, model, "the prompt log")
    last = max((frame for event in prompts.events for frame in _frames_of(event)), default=0)
    if last >= clip["frames"]:
        raise NbHelpersError(
            "the prompt log has a frame that the clip does not have",
            given=last,
            expected=f"0 to {clip['frames'] - 1}",
        )
    return prompts


def _check_same(theirs: Any, before: Any, clip: Mapping[str, Any], model: str, what: str) -> None:
    """Raise an error unless clip and model are the same."""
    theirs = theirs if isinstance(theirs, Mapping) else {}
    if any(theirs.get(key) != clip[key] for key in ("size", "frames", "signature")):
        raise NbHelpersError(
            f"{what} belongs to another clip, or to other frames of it",
            given=_describe(clip),
            expected=_describe(theirs),
            do="open the same clip with the same start, stop and step, or create another project",
        )
    if before != model:
        raise NbHelpersError(
            f"{what} was recorded with another model, whose masks differ",
            given=model,
            expected=str(before),
            do=f'nbhelpers.load("tracker", "{before}")',
        )


def _describe(clip: Mapping[str, Any]) -> str:
    """The clip in one line."""
    height, width = clip.get("size") or ("?", "?")
    signature = str(clip.get("signature"))[:8]
    return f"{clip.get('name')}: {clip.get('frames')} frames of {width} x {height} pixels, signature {signature}"


def _frames_of(event: Mapping[str, Any]) -> list[int]:
    """The frames that an event names."""
    return [event[key] for key in ("frame", "start", "stop") if isinstance(event.get(key), int)]


def read_about(folder: str | Path | None) -> Mapping[str, Any] | None:
    """Clip (see `identify`), model and precision of a project folder; None if there is no readable project."""
    if folder is None or not (path := Path(folder).expanduser() / "project.json").exists():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        precision = str(about.get("precision", "float32"))
        return {"clip": dict(about["clip"]), "model": str(about["model"]), "precision": precision}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # opening the project raises the error


def open_clip(clip: str | Path | np.ndarray | Sequence[Any] | FrameSequence, **options: Any) -> FrameSequence:
    """Open a clip from a path, or return the clip itself; exported mattes in its folder are ignored.

    Args:
        clip: anything that `nbhelpers.core.video.Frames` reads, or frames.
        **options: of `nbhelpers.core.video.Frames`.
    """
    if isinstance(clip, np.ndarray) or is_array(clip):  # or a tensor
        return Frames(np.asarray(clip), **options)
    if isinstance(clip, FrameSequence):
        return clip
    if not isinstance(clip, (str, Path)) or not Path(clip).expanduser().is_dir():
        return Frames(clip, **options)
    folder = Path(clip).expanduser()
    exported = {folder / name for name in written_here(folder)}
    if not any(is_picture(path) and path.parent == folder for path in exported):
        return Frames(folder, **options)
    pattern = options.pop("pattern", "*")
    pictures = [path for path in sorted(folder.glob(pattern)) if is_picture(path) and path not in exported]
    return Frames([path for path in pictures if path.name[0] != "."], **options)


def identify(frames: FrameSequence, name: str | None = None) -> dict[str, Any]:
    """Identification of a clip: ``name``, ``size`` ``[H, W]``, ``frames`` (their number) and ``signature``.

    Raises:
        NbHelpersError: the clip has no frames.
    """
    if not len(frames):
        raise NbHelpersError("the clip has no frames", expected="at least one")
    if name is None:
        path = getattr(frames, "path", None)
        path = Path(path) if isinstance(path, (str, Path)) else Path("clip")
        name = path.parent.name or "clip" if set(path.name) & set("*?%#") and not path.exists() else path.stem
    signature = getattr(frames, "signature", None) or _signature(frames)
    return {"name": name, "size": [int(s) for s in frames.size], "frames": len(frames), "signature": signature}


def _signature(frames: FrameSequence) -> str:
    """Hash of size, length and the pixels of a few frames."""
    digest = hashlib.sha256(repr((tuple(frames.size), len(frames))).encode())
    for index in sorted({round(part * (len(frames) - 1) / (HASHED_FRAMES - 1)) for part in range(HASHED_FRAMES)}):
        digest.update(np.ascontiguousarray(frames[index]))
    return digest.hexdigest()


class _LockFile:
    """The lock file, open and locked; the system releases it when the process ends, however it ends."""

    def __init__(self, path: Path):
        self.pid = os.getpid()
        self.owner: weakref.ref[object] | None = None
        self.file = path.open("a+", encoding="utf-8")
        weakref.finalize(self, self.file.close)
        _lock(self.file.fileno())
        with contextlib.suppress(OSError):  # the disk is full; the first step raises the error
            self.file.truncate(0)
            self.file.write(f"process {self.pid} on {socket.gethostname()}")
            self.file.flush()

    def is_at(self, path: Path) -> bool:
        """Whether it is still the file of that name and locked by this process."""
        with contextlib.suppress(OSError):
            return self.pid == os.getpid() and os.path.samestat(path.stat(), os.fstat(self.file.fileno()))
        return False


class FolderLock:
    """Locks a folder for its owner while both exist.

    Within a process the newest owner holds the lock: if a notebook cell that opens a project is run twice, the first
    session still exists. If the folder is read-only or the file system has no locks, nothing is locked.

    Args:
        folder: an existing folder.
        owner: the object that writes.

    Raises:
        NbHelpersError: another process holds the lock.
    """

    def __init__(self, folder: Path, owner: object):
        self._path, key = folder / LOCK_FILE, os.path.realpath(folder)
        self._owner = weakref.ref(owner)
        self._file = _held.get(key)
        if self._file is None or not self._file.is_at(self._path):
            try:
                self._file = _held[key] = _LockFile(self._path)
            except BlockingIOError as error:
                raise NbHelpersError(
                    "the project is open in another process, and both would overwrite each other's prompts",
                    given=f"{folder}: {_owner(self._path)}",
                    do="close that notebook or command, or name another folder",
                ) from error
            except OSError:
                self._file = None
                return
        self._file.owner = self._owner

    @property
    def is_held(self) -> bool:
        """Whether the owner may write: there is no newer owner, and the folder is still the same."""
        return self._file is None or (self._file.owner is self._owner and self._file.is_at(self._path))


def _lock(file: int) -> None:
    """Lock an open file; raises ``BlockingIOError`` if another process holds the lock."""
    if sys.platform == "win32":
        import msvcrt

        try:
            os.lseek(file, 1 << 20, os.SEEK_SET)  # after the text, which others read
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(path: Path) -> str:
    """The process that a lock file names."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8") or "a process"
    return "a process"
