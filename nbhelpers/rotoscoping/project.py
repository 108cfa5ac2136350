"""The folder of one rotoscoping: prompt log, one file of masks a frame, and what the tracker remembers.

Every file is whole or not there, whatever moment the process is killed at. The folder says which clip and which
model it is of, and refuses others.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import threading
import tokenize
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing, write_text
from nbhelpers.core.masks import decode_rle
from nbhelpers.core.promptlog import PromptLog
from nbhelpers.rotoscoping.drift import CARRIED, SURE
from nbhelpers.rotoscoping.lock import FolderLock
from nbhelpers.rotoscoping.records import Record

FORMAT, VERSION = "nbhelpers.rotoscoping", 1
DAMAGE = (zipfile.BadZipFile, tokenize.TokenError, SyntaxError)  # what NumPy raises of a torn file
CACHED_BYTES = 32 << 20
log = logging.getLogger(__name__)


class Project:
    """Reads and writes a project folder.

    Example:
        >>> project = Project("outputs/rotoscoping/walk", {"name": "walk", "frames": 80}, "label-propagation")
        >>> project.put(12, 1, Record(prompted=Prompted(encode_rle(mask), 0.97, "5e1f")))
        >>> project.mask(12, 1, "prompted").shape
        (480, 854)

    Of every frame it keeps all but the masks in memory; of masks, decoded, the latest within 32 MiB.

    Args:
        folder: made if it is missing; a temporary one, deleted with the project, when left out.
        clip: what identifies the clip: ``name``, ``size``, ``frames``, ``signature``.
        model: catalog name of the tracker.

    Attributes:
        folder: where all is.
        log: the prompt log.

    Raises:
        NbHelpersError: the folder is of another clip or model, holds something else, is open in another process, or
            cannot be written.
    """

    def __init__(self, folder: str | Path | None, clip: Mapping[str, Any], model: str):
        if folder is None:
            try:
                folder = tempfile.mkdtemp(prefix="nbhelpers-rotoscoping-")
            except OSError as error:
                raise NbHelpersError(
                    "no temporary folder can be made for the project",
                    given=error.strerror or error,
                    do="pass project=, a folder on a disk with room",
                ) from error
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = Path(folder).expanduser()
        self._lock = threading.RLock()  # a widget looks at masks while others are made
        self._index: dict[int, dict[int, Record]] = {}
        self._usual: dict[int, tuple[float, float]] = {}
        self._decoded: OrderedDict[tuple[int, int, str], np.ndarray] = OrderedDict()
        self._claim(dict(clip), model)
        self._sweep()
        path = self.folder / "prompts.json"
        self.log = PromptLog.open(path) if path.exists() else PromptLog(clip, model)
        check_log(self.log, clip, model)
        for path in sorted(self._masks.glob("*.json")):
            if path.stem.isdigit():
                self._index[int(path.stem)] = {n: r.without_masks() for n, r in self._read(path).items()}

    @property
    def _masks(self) -> Path:
        return self.folder / "masks"

    @property
    def _memory(self) -> Path:
        return self.folder / "memory"

    def save_log(self) -> None:
        """Write the prompt log.

        Raises:
            NbHelpersError: the project was opened again, moved or deleted since; nothing is written then.
        """
        self._check_held()
        self.log.save(self.folder / "prompts.json")

    def record(self, frame: int, number: int) -> Record:
        """What is known of an object's masks on a frame, the masks themselves left out."""
        return self._index.get(frame, {}).get(number, Record())

    def full(self, frame: int, number: int) -> Record:
        """What is known of an object's masks on a frame, with the masks."""
        known = number in self._index.get(frame, {})
        return self._read(self._masks / f"{frame:05d}.json")[number] if known else Record()

    def numbers(self) -> list[int]:
        """Numbers of all objects that ever had a mask here."""
        return sorted({number for records in self._index.values() for number in records})

    def usual(self, number: int) -> tuple[float, float]:
        """Medians of an object's score and overlap over the frames that it was followed to."""
        if number not in self._usual:
            with self._lock:
                frames = list(self._index.values())
            every = [records[number].tracked for records in frames if number in records]
            found = [tracked for tracked in every if tracked is not None and not tracked.gone]
            overlaps = [tracked.overlap for tracked in found if tracked.overlap is not None]
            score = float(np.median([tracked.score for tracked in found])) if found else SURE
            self._usual[number] = score, float(np.median(overlaps)) if overlaps else CARRIED
        return self._usual[number]

    def put(self, frame: int, records: Mapping[int, Record]) -> None:
        """Write what is known of some objects on a frame; the others' records stay."""
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
                while len(self._decoded) > 2 and sum(each.nbytes for each in self._decoded.values()) > CACHED_BYTES:
                    self._decoded.popitem(last=False)
            self._decoded.move_to_end(key)
            return self._decoded[key]

    def save_memory(self, frame: int, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write what a tracker remembers of a frame, and what that depends on (valid JSON)."""
        self._check_held()
        with replacing(self._memory / f"{frame:05d}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)

    def memory(self, frame: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """What `save_memory` wrote; None where there is nothing that can be read."""
        try:
            path = self._memory / f"{frame:05d}.npz"
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name != "about"}
                return arrays, json.loads(str(file["about"]))
        except (*DAMAGE, OSError, EOFError, ValueError, KeyError, NotImplementedError):
            return None

    def remembered(self) -> list[int]:
        """Frames of which there is a memory, in order."""
        return sorted(int(path.stem) for path in self._memory.glob("*.npz") if path.stem.isdigit())

    def forget_memory(self, frame: int) -> None:
        """Delete the memory of a frame, if there is one."""
        with contextlib.suppress(OSError):  # it is of no harm where it cannot be deleted
            (self._memory / f"{frame:05d}.npz").unlink(missing_ok=True)

    @property
    def is_held(self) -> bool:
        """Whether this is the one that writes: the project was not opened again, moved or deleted since."""
        return self._held.is_held

    def _check_held(self) -> None:
        if not self.is_held:
            raise NbHelpersError(
                "the project was opened again, moved or deleted since this session began, so it writes nothing more",
                given=self.folder,
                do="go on with the session that was opened last, or open it again",
            )

    def _claim(self, clip: dict[str, Any], model: str) -> None:
        """Write which clip and model the folder is of, or see that it is of these."""
        path = self.folder / "project.json"
        if not path.exists() and self.folder.is_dir() and any(each.name[0] != "." for each in self.folder.iterdir()):
            raise NbHelpersError(
                "the folder holds something else, so no project is begun there",
                given=self.folder,
                do="name a new folder",
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._held = FolderLock(self.folder, self)
        about = {"format": FORMAT, "version": VERSION, "clip": clip, "model": model}
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
        check_same(theirs, before, clip, model, f"the project {self.folder}")

    def _sweep(self) -> None:
        """Make the folders, and delete what a killed process left under temporary names."""
        try:
            for folder in (self._masks, self._memory):
                folder.mkdir(exist_ok=True)
            for folder in (self.folder, self._masks, self._memory):
                for path in folder.glob(".*-????????.*"):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _read(self, path: Path) -> dict[int, Record]:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return {int(number): Record.from_dict(record) for number, record in data["objects"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NbHelpersError(
                "a file of the project cannot be read",
                given=f"{path}: {error}",
                do="delete this file; its frame is then followed again",
            ) from error


def _unwritable(folder: Path, error: OSError) -> NbHelpersError:
    return NbHelpersError(
        "the project folder cannot be written",
        given=f"{folder}: {error.strerror or error}",
        do="copy it to a place where you may write, and open the copy",
    )


def check_log(prompts: PromptLog, clip: Mapping[str, Any], model: str) -> PromptLog:
    """Return the log itself if it is of this clip and model.

    Raises:
        NbHelpersError: it is of others, or speaks of frames that the clip does not have.
    """
    check_same(prompts.image, prompts.model, clip, model, "the prompt log")
    last = max((frame for event in prompts.events for frame in _frames_of(event)), default=0)
    if last >= clip["frames"]:
        raise NbHelpersError(
            "the prompt log speaks of a frame that the clip does not have",
            given=last,
            expected=f"0 to {clip['frames'] - 1}",
        )
    return prompts


def check_same(theirs: Any, before: Any, clip: Mapping[str, Any], model: str, what: str) -> None:
    """Raise an error unless clip and model are the same."""
    theirs = theirs if isinstance(theirs, Mapping) else {}
    if any(theirs.get(key) != clip[key] for key in ("size", "frames", "signature")):
        raise NbHelpersError(
            f"{what} is of another clip, or of the same in other frames",
            given=_told(clip),
            expected=_told(theirs),
            do="open the very clip, with the same start, stop and step; or begin another project",
        )
    if before != model:
        raise NbHelpersError(
            f"{what} was made with another model, so its masks would differ",
            given=model,
            expected=str(before),
            do=f'nbhelpers.load("tracker", "{before}")',
        )


def _told(clip: Mapping[str, Any]) -> str:
    height, width = clip.get("size") or ("?", "?")
    signature = str(clip.get("signature"))[:8]
    return f"{clip.get('name')}: {clip.get('frames')} frames of {width} x {height} pixels, signature {signature}"


def _frames_of(event: Mapping[str, Any]) -> list[int]:
    return [event[key] for key in ("frame", "start", "stop") if isinstance(event.get(key), int)]


def model_of(folder: str | Path | None) -> str | None:
    """Catalog name of the tracker that a project was begun with; None where there is no project yet."""
    if folder is None or not (path := Path(folder).expanduser() / "project.json").exists():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # opening the project tells what is wrong with it
