"""Export of a clip's mattes to files for other tools, each verified by reading it back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import file_stem, own_name, write_text
from nbhelpers.core.mattes import Mattes
from nbhelpers.export.layouts import LAYOUTS, write_layout
from nbhelpers.export.masks import check_formats, write_sequence_coco
from nbhelpers.export.verify import ExportReport, verify_layout, verify_sequence_coco, verify_video
from nbhelpers.export.video import ENCODERS, Video, write_video

CLIP_FILE = ".nbhelpers-clip.json"  # in the folder of an export, identifies the clip
FORMATS = (*LAYOUTS, "coco", *ENCODERS)
log = logging.getLogger(__name__)
Progress = Callable[[int, int], object]


def export_mattes(
    mattes: Mattes,
    folder: str | Path | None,
    formats: Sequence[str] | Mapping[str, str | Path],
    clip: Mapping[str, Any],
    *,
    missing: Sequence[int] = (),
    drafts: Sequence[int] = (),
    apart: bool = False,
    bits: int | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> list[ExportReport]:
    """Write the mattes of a clip and verify the files by reading them back.

    Each format is written to a folder of its name in ``folder``; an interrupted export resumes. If that folder holds an
    export of another clip, a number is appended to its name, see `own_name`. The formats are
    those of `nbhelpers.export.layouts.LAYOUTS` (``postshot``, ``colmap``, ``nerfstudio``, ``mattes``, ``rgba``), of
    `nbhelpers.export.video.ENCODERS` (``overlay``, ``side by side``, ``prores``, ``png``, ``webm``), and
    ``coco``.

    Args:
        mattes: of the clip; ``mattes.objects`` names the objects.
        folder: parent of the formats' folders. None: ``postshot`` is written next to the originals.
        formats: what to write; or a mapping from format to its folder, such as ``{"nerfstudio": "scene"}``.
        clip: its ``name`` and ``signature``, see `nbhelpers.rotoscoping.project.identify`.
        missing: frames whose masks are outdated or missing; a warning if some are, an error if all are.
        drafts: frames whose masks are drafts; a warning if some are.
        apart: write a folder, or file, per object.
        bits: 8 or 16 per channel, if the format allows it.
        replace: overwrite an earlier export of other masks or settings.
        progress: called with the number of finished frames and the total; may raise to stop.

    Raises:
        NbHelpersError: an unknown format; no mask; existing files of other origin; a folder that cannot be written; or
            a failed verification.
    """
    folders = _folders(formats, folder)
    if len(missing) == len(mattes):
        raise NbHelpersError("there is no mask to export", do="click the object and track it first")
    if missing:
        log.warning(
            "%d of %d frames have outdated masks or none, the first is %d: propagate_all() tracks them",
            len(missing), len(mattes), missing[0],
        )  # fmt: skip
    if drafts:
        log.warning(
            "%d of %d frames are drafts, the first is %d: propagate_all() with quality = 'full' tracks them",
            len(drafts), len(mattes), drafts[0],
        )  # fmt: skip
    if apart and mattes.objects is None:
        raise NbHelpersError("the mattes name no objects to export apart", do="Mattes(..., objects=names)")
    parts = {f"-{file_stem(name)}": mattes.only([name]) for name in mattes.objects or ()} if apart else {}
    reports = []
    for kind, target in folders.items():
        own = None if isinstance(formats, Mapping) else target
        if own is not None:
            target = own = own.with_name(own_name(own.parent, own.name, clip["signature"], [f"{{}}/{CLIP_FILE}"]))
        for suffix, part in (parts or {"": mattes}).items():
            path = target if target is None or not suffix else target / suffix[1:]
            reports.append(_write(kind, part, path, clip["name"], bits, replace, progress).check())
            log.info("%s", reports[-1])
        if own is not None:
            about = {"sha256": clip["signature"], "name": clip["name"]}
            write_text(own / CLIP_FILE, json.dumps(about, ensure_ascii=False))
    return reports


def _write(
    kind: str,
    mattes: Mattes,
    folder: Path | None,
    name: str,
    bits: int | None,
    replace: bool,
    progress: Progress | None,
) -> ExportReport:
    """Write and verify one format."""
    if kind in LAYOUTS:
        options = {"bits": bits} if bits is not None and kind in ("postshot", "mattes", "rgba") else {}
        layout = LAYOUTS[kind](mattes, folder, **options)
        write_layout(layout, mattes, replace, progress)
        return verify_layout(layout, mattes)
    assert folder is not None  # only postshot is written next to the originals
    if kind == "coco":
        path = write_sequence_coco(folder / f"{file_stem(name)}.coco.json", mattes, None, replace, progress)
        return verify_sequence_coco(path, mattes)
    path = folder / f"{file_stem(name)}-{kind.replace(' ', '-')}{ENCODERS[kind][0]}"
    video = Video(path, kind)  # pyright: ignore[reportArgumentType] - a key of ENCODERS
    write_video(video, mattes, replace, progress)
    return verify_video(video, mattes)


def _folders(formats: Sequence[str] | Mapping[str, str | Path], folder: str | Path | None) -> dict[str, Path | None]:
    """The folder of each format; None: next to the originals."""
    formats = [formats] if isinstance(formats, str) else formats
    check_formats(formats, FORMATS)
    if isinstance(formats, Mapping):
        return {kind: Path(target).expanduser() for kind, target in formats.items()}
    if folder is not None:
        return {kind: Path(folder).expanduser() / kind.replace(" ", "-") for kind in formats}
    if homeless := [kind for kind in formats if kind != "postshot"]:
        raise NbHelpersError("an export needs a folder", given=", ".join(homeless), do="pass folder=")
    return dict.fromkeys(formats)
