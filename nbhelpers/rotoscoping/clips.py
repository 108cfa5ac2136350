"""Clips as sessions open and recognise them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.video import Frames
from nbhelpers.core.video.folder import is_array, is_picture
from nbhelpers.export.ledger import written_here
from nbhelpers.models.protocols import FrameSequence

LOOKED_AT = 5  # frames whose pixels tell one clip from another, where it has no signature


def open_clip(clip: str | Path | np.ndarray | Sequence[Any] | FrameSequence, **options: Any) -> FrameSequence:
    """A clip from a path, or the clip itself; of a folder, the mattes that an export put there are left out.

    Args:
        clip: whatever `nbhelpers.core.video.Frames` reads, or frames.
        **options: of `nbhelpers.core.video.Frames`.
    """
    if not isinstance(clip, (str, Path)) and hasattr(clip, "size") and not is_array(clip):
        return clip
    if not isinstance(clip, (str, Path)) or not Path(clip).expanduser().is_dir():
        return Frames(clip, **options)
    folder = Path(clip).expanduser()
    ours = {folder / name for name in written_here(folder)}
    if not any(is_picture(path) and path.parent == folder for path in ours):
        return Frames(folder, **options)
    pattern = options.pop("pattern", "*")
    pictures = [path for path in sorted(folder.glob(pattern)) if is_picture(path) and path not in ours]
    return Frames([path for path in pictures if path.name[0] != "."], **options)


def identify(frames: FrameSequence, name: str | None = None) -> dict[str, Any]:
    """What tells a clip from others: ``name``, ``size`` ``[H, W]``, ``frames`` (how many) and ``signature``.

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
    digest = hashlib.sha256(repr((tuple(frames.size), len(frames))).encode())
    for index in sorted({round(place * (len(frames) - 1) / (LOOKED_AT - 1)) for place in range(LOOKED_AT)}):
        digest.update(np.ascontiguousarray(frames[index]))
    return digest.hexdigest()
