"""From a session to files that other tools read, each opened again and checked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.matting import Mattes
from nbhelpers.core.runs import file_stem, own_name
from nbhelpers.export.plan import write
from nbhelpers.export.sequence_coco import write_sequence_coco
from nbhelpers.export.splats import LAYOUTS
from nbhelpers.export.verify import Report, verify
from nbhelpers.export.verify_clip import verify_sequence_coco, verify_video
from nbhelpers.export.video import ENCODERS, Video, write_video
from nbhelpers.rotoscoping.clips import identify

if TYPE_CHECKING:
    from nbhelpers.rotoscoping.session import RotoSession

CLIP = ".nbhelpers-clip.json"  # in the folder of an export: of which clip it is
KINDS = (*LAYOUTS, "coco", *ENCODERS)
log = logging.getLogger(__name__)
Progress = Callable[[int, int], object]


def export(
    session: RotoSession,
    kinds: Sequence[str] | Mapping[str, str | Path],
    output: str | Path | None = None,
    *,
    objects: Iterable[str] | None = None,
    apart: bool = False,
    invert: bool = False,
    bits: int | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> list[Report]:
    """Write the mattes of a session, open what was written, and check it.

    Example:
        >>> for report in session.export(["postshot", "colmap", "overlay"], "outputs/walk"):
        ...     print(report)

    Each kind gets a folder of its own name in ``output``; run again, an export goes on where it stopped. Where that
    folder holds an export of another clip, a number is added to its name, see `own_name`. The kinds are
    those of `nbhelpers.export.splats.LAYOUTS` (``postshot``, ``colmap``, ``nerfstudio``, ``mattes``, ``rgba``), of
    `nbhelpers.export.video.ENCODERS` (``overlay``, ``side by side``, ``prores``, ``png``), and ``coco``.

    Args:
        session: with masks.
        kinds: what to write; or a mapping from kind to its folder, such as ``{"nerfstudio": "scene"}``.
        output: the folder of the kinds' folders. Left out, ``postshot`` goes beside the originals.
        objects: names of those that take part; all when left out.
        apart: a folder, or file, of its own for each object.
        invert: the surroundings instead of the objects.
        bits: 8 or 16 a channel, where the kind has the choice.
        replace: write anew what an earlier export wrote from other masks or settings.
        progress: called with the number of frames done, and of all; may raise to stop.

    Raises:
        NbHelpersError: an unknown kind; no mask at all; files of other origin in the way; a folder that cannot be
            written; or the verifier found a fault.
    """
    places = _places(kinds, output)
    names = tuple(session.objects if objects is None else objects)
    missing = _missing(session, names)
    if len(missing) == len(session.frames):
        raise NbHelpersError("there is no mask to export yet", do="click the object and follow it first")
    if missing:
        log.warning(
            "%d of %d frames have stale masks or none, the first is %d: propagate_all() follows them",
            len(missing), len(session.frames), missing[0],
        )  # fmt: skip
    parts = {f"-{file_stem(name)}": session.mattes([name], invert) for name in names} if apart else {}
    reports, clip = [], identify(session.frames, session.name)["signature"]
    for kind, folder in places.items():
        of_ours = folder is not None and not isinstance(kinds, Mapping)
        if of_ours:
            folder = folder.with_name(own_name(folder.parent, folder.name, clip, [f"{{}}/{CLIP}"]))
        for suffix, mattes in (parts or {"": session.mattes(names, invert)}).items():
            place = folder if folder is None or not suffix else folder / suffix[1:]
            reports.append(_write(kind, mattes, place, session.name, bits, replace, progress).check())
            log.info("%s", reports[-1])
        if of_ours:
            write_text(folder / CLIP, json.dumps({"sha256": clip, "name": session.name}, ensure_ascii=False))
    return reports


def _write(
    kind: str,
    mattes: Mattes,
    folder: Path | None,
    name: str,
    bits: int | None,
    replace: bool,
    progress: Progress | None,
) -> Report:
    if kind in LAYOUTS:
        options = {"bits": bits} if bits is not None and kind in ("postshot", "mattes", "rgba") else {}
        planned = LAYOUTS[kind](mattes, folder, **options)
        write(planned, mattes, replace, progress)
        return verify(planned, mattes)
    if kind == "coco":
        path = write_sequence_coco(folder / f"{file_stem(name)}.coco.json", mattes, None, replace, progress)
        return verify_sequence_coco(path, mattes)
    video = Video(folder / f"{file_stem(name)}-{kind.replace(' ', '-')}{ENCODERS[kind][0]}", kind)
    write_video(video, mattes, replace, progress)
    return verify_video(video, mattes)


def _places(kinds: Sequence[str] | Mapping[str, str | Path], output: str | Path | None) -> dict[str, Path | None]:
    """By kind, its folder; None: beside the originals."""
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise NbHelpersError("there is no such export", given=", ".join(unknown), expected=", ".join(KINDS))
    if isinstance(kinds, Mapping):
        return {kind: Path(folder).expanduser() for kind, folder in kinds.items()}
    if output is not None:
        return {kind: Path(output).expanduser() / kind.replace(" ", "-") for kind in kinds}
    if homeless := [kind for kind in kinds if kind != "postshot"]:
        raise NbHelpersError("an export needs a folder", given=", ".join(homeless), do="pass output=")
    return dict.fromkeys(kinds)


def _missing(session: RotoSession, names: Sequence[str]) -> list[int]:
    """Frames on which some object that was prompted somewhere has a stale mask or none."""
    prompted = [name for name in names if session.prompted_frames(name)]
    bad = ("stale", "empty")
    return [f for f in range(len(session.frames)) if not prompted or any(session.state(f, n) in bad for n in prompted)]
