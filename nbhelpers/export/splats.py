"""Mattes as the splat and photogrammetry tools want them: names, places, polarity, kind of alpha, orientation.

Each function plans files and touches nothing; `nbhelpers.export.plan.write` writes them and
`nbhelpers.export.verify.verify` opens them again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.matting import Mattes
from nbhelpers.core.orientation import SHAPE_SLACK, UPRIGHT, orientation_of, same_shape, stored_size, turned_size
from nbhelpers.core.scenes.files import by_name
from nbhelpers.export.plan import Plan, Target
from nbhelpers.export.source import depth_of

TRANSFORMS, MASKED = "transforms.json", "transforms_masked.json"


def postshot(mattes: Mattes, output: str | Path | None = None, bits: int | None = None, masks: bool = True) -> Plan:
    """Postshot: RGBA PNG with straight alpha beside the originals, and its separate masks in both polarities.

    For ``IMG_7.jpg`` these are ``IMG_7_matte.png`` in the same folder, ``masks_remove_background/IMG_7.png`` (kept
    white: for Mask Mode "Remove Background") and ``masks_remove_occluders/IMG_7.png`` (kept black: for "Remove
    Occluders", which ignores what is white).

    The RGBA are upright pictures of their own. A separate mask of a photo with an EXIF orientation is stored as the
    photo is, with the same EXIF entry: so it fits whether Postshot reads both with their orientation or both without.
    That it treats JPEG and PNG alike is assumed; its user guide does not say. Where the masks lie on their side, use
    the RGBA.

    Args:
        mattes: of the clip.
        output: where all goes; the footage folder when left out, which a video does not have.
        bits: 8 or 16 a channel of the RGBA; as the originals when left out.
        masks: write the separate masks too.

    Raises:
        NbHelpersError: no output for a video, or no such depth.

    Source: Postshot user guide, Training Configuration, "Mask Mode": separate masks are black and white, of the same
    size and base name as the images.
    """
    if bits not in (None, 8, 16):
        raise NbHelpersError("pictures have no such depth", given=bits, expected="8, 16 or None: as the originals")
    folder = _folder(mattes, output)
    stems = _stems(mattes)
    within = {"masks_remove_background": "keep white", "masks_remove_occluders": "keep black"} if masks else {}
    targets = []
    for index, stem in enumerate(stems):
        depth = bits or depth_of(mattes.paths, index)
        targets.append(Target(_beside(mattes, index, output, folder) / f"{stem}_matte.png", index, "straight", depth))
        laid = _laid(mattes, index) if within else {}
        targets += [
            Target(folder / name / f"{stem}.png", index, picture, tagged=True, **laid)
            for name, picture in within.items()
        ]
    return Plan("postshot", folder, tuple(targets), own=tuple(folder / name for name in within))


def colmap(mattes: Mattes, output: str | Path, images: str | Path | None = None) -> Plan:
    """COLMAP: ``output/abc/012.jpg.png`` for the picture ``abc/012.jpg``; no features are taken where it is black.

    COLMAP reads photos without their EXIF orientation, so the masks are stored as the photos are.

    Args:
        mattes: of the clip.
        output: becomes COLMAP's ``--ImageReader.mask_path``.
        images: COLMAP's ``image_path``, below which all originals lie; their common folder when left out.

    Source: COLMAP documentation, FAQ, "Mask image regions"; on orientation colmap/colmap #1456 and #2104.
    """
    folder = Path(output).expanduser()
    names = _relative(mattes, images)
    targets = (
        Target(folder / f"{name}.png", index, "keep white", **_laid(mattes, index)) for index, name in enumerate(names)
    )
    return Plan("colmap", folder, tuple(targets), own=(folder,))


def nerfstudio(mattes: Mattes, output: str | Path) -> Plan:
    """Nerfstudio: ``masks/`` and, where ``transforms.json`` exists, a copy of it that names the masks.

    The copy is ``transforms_masked.json``; train with ``ns-train splatfacto --data SCENE/transforms_masked.json``.
    The original stays as it is. Smaller masks are made for the smaller pictures that are there (``images_2`` ...),
    as nerfstudio looks for both. What is black is not trained on.

    Nerfstudio opens pictures without their EXIF orientation, so the masks are stored as its pictures are: those that
    ``transforms.json`` names, or those in ``images``; else the clip's own.

    Args:
        mattes: of the clip.
        output: the scene's folder, with or without ``transforms.json``.

    Raises:
        NbHelpersError: ``transforms.json`` cannot be read, or names a picture that the clip does not have:
            nerfstudio demands a mask for every frame or for none; or a picture there has another shape than the
            frame, or may or may not have been turned upright.

    Source: ``nerfstudio/data/dataparsers/nerfstudio_dataparser.py`` (``mask_path``, ``masks_N``) and
    ``datasets/base_dataset.py`` (``get_numpy_image``).
    """
    folder = Path(output).expanduser()
    stems = _stems(mattes)
    shrinks = [1] + [n for n in (2, 4, 8) if (folder / f"images_{n}").is_dir()]
    names = {1: "masks"} | {n: f"masks_{n}" for n in shrinks[1:]}
    texts, pictures = {}, {}
    if (folder / TRANSFORMS).is_file():
        texts[folder / MASKED], pictures = _masked_transforms(folder / TRANSFORMS, mattes, stems)
    targets = []
    for index, stem in enumerate(stems):
        picture = Path(pictures.get(index, f"images/{mattes.names[index]}"))
        whole = _laid(mattes, index, folder / picture if (folder / picture).is_file() else None)
        for n in shrinks:
            laid = whole if n == 1 else _made_smaller(folder / f"images_{n}" / picture.name, n, whole, mattes.size)
            targets.append(Target(folder / names[n] / f"{stem}.png", index, "keep white", shrink=n, **laid))
    return Plan("nerfstudio", folder, tuple(targets), texts, own=tuple(folder / name for name in names.values()))


def matte_sequence(mattes: Mattes, output: str | Path, bits: int = 8) -> Plan:
    """Soft mattes as grey PNG, white inside, each named like its picture."""
    return _sequence("mattes", mattes, output, bits, "matte")


def rgba_sequence(mattes: Mattes, output: str | Path, bits: int | None = None, premultiplied: bool = False) -> Plan:
    """The objects as RGBA PNG, each named like its picture.

    Args:
        mattes: of the clip.
        output: the folder for them.
        bits: 8 or 16 a channel; as the originals when left out.
        premultiplied: colours times alpha, as some compositing programs want. The PNG standard says straight.
    """
    return _sequence("rgba", mattes, output, bits, "premultiplied" if premultiplied else "straight")


LAYOUTS: dict[str, Callable[..., Plan]] = {
    "postshot": postshot,
    "colmap": colmap,
    "nerfstudio": nerfstudio,
    "mattes": matte_sequence,
    "rgba": rgba_sequence,
}


def _sequence(kind: str, mattes: Mattes, output: str | Path, bits: int | None, picture: str) -> Plan:
    if bits not in (None, 8, 16):
        raise NbHelpersError("pictures have no such depth", given=bits, expected="8, 16 or None: as the originals")
    folder = Path(output).expanduser()
    targets = [
        Target(folder / f"{stem}.png", index, picture, bits or depth_of(mattes.paths, index))
        for index, stem in enumerate(_stems(mattes))
    ]
    originals = {path.resolve() for path in mattes.paths or ()}
    if clash := [target.path for target in targets if target.path.resolve() in originals]:
        raise NbHelpersError(
            "the export would take the names of the originals", given=clash[0], do="export to another folder"
        )
    return Plan(kind, folder, tuple(targets), own=(folder,))


def _folder(mattes: Mattes, output: str | Path | None) -> Path:
    if output is not None:
        return Path(output).expanduser()
    if not mattes.paths:
        raise NbHelpersError(
            "a video has no footage folder for the mattes to go to",
            do="extract its frames first, or name a folder as output",
        )
    return Path(os.path.commonpath([path.parent.absolute() for path in mattes.paths]))


def _beside(mattes: Mattes, index: int, output: str | Path | None, folder: Path) -> Path:
    return folder if output is not None else mattes.paths[index].absolute().parent


def _stems(mattes: Mattes) -> list[str]:
    """A file name without suffix for each frame; where two would be the same, all are told apart by their suffix."""
    stems = [Path(name).stem for name in mattes.names]
    if _twice(stems):
        stems = [name.replace(".", "_") for name in mattes.names]
    if _twice(stems):
        stems = [name.replace("/", "_").replace(".", "_") for name in _relative(mattes, None)]
    return stems


def _twice(names: list[str]) -> bool:
    return max(Counter(name.casefold() for name in names).values(), default=0) > 1


def _relative(mattes: Mattes, images: str | Path | None) -> list[str]:
    """Names with the folders between ``images`` and the originals."""
    paths = [path.absolute() for path in mattes.paths or ()]
    if not paths:
        return mattes.names
    root = Path(images).expanduser().absolute() if images is not None else _folder(mattes, None)
    for path in paths:
        if not path.is_relative_to(root):
            raise NbHelpersError("a picture lies outside the image folder", given=path, expected=f"below {root}")
    return [path.relative_to(root).as_posix() for path in paths]


def _masked_transforms(path: Path, mattes: Mattes, stems: list[str]) -> tuple[str, dict[int, str]]:
    """The text with masks, and for each frame of the clip the picture that it names, where it does."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        pictures = [str(frame["file_path"]).replace("\\", "/") for frame in data["frames"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NbHelpersError("transforms.json cannot be read", given=f"{path}: {error}") from error
    own = mattes.names if mattes.paths is None else [each.absolute().as_posix() for each in mattes.paths]
    entries = {entry: index for index, entry in enumerate(by_name(pictures, own)) if entry is not None}
    for entry, (frame, picture) in enumerate(zip(data["frames"], pictures, strict=True)):
        if entry not in entries:
            raise NbHelpersError(
                "transforms.json names a picture that the clip does not have; every frame needs a mask",
                given=f"{path}: {picture}",
                do="open the clip with all its pictures, without start, stop and step",
            )
        frame["mask_path"] = f"masks/{stems[entries[entry]]}.png"
    return json.dumps(data, indent=2), {index: pictures[entry] for entry, index in entries.items()}


def _laid(mattes: Mattes, index: int, photo: Path | None = None) -> dict[str, Any]:
    """How a mask must lie to be laid over a photo as it is stored: the last fields of a `Target`.

    Args:
        mattes: of the clip.
        index: of the frame.
        photo: the file that the tool reads; the clip's own when left out.
    """
    own = None if mattes.paths is None else mattes.paths[index]
    if own is not None:
        orientation = orientation_of(own)
    else:  # frames that are no files may say themselves how their photos are stored
        orientation = getattr(mattes.frames, "orientations", [UPRIGHT] * len(mattes))[index]
    photo = own if photo is None else photo
    if photo is None:
        return {"orientation": orientation}
    size = stored_size(photo)
    if own is None or not photo.samefile(own):
        orientation = _stored_like(photo, size, mattes.size, orientation)
    pixels = None if size == turned_size(mattes.size, orientation) else size
    return {"orientation": orientation, "pixels": pixels, "photo": photo}


def _made_smaller(photo: Path, shrink: int, whole: dict[str, Any], frame: tuple[int, int]) -> dict[str, Any]:
    """The same for nerfstudio's own smaller copy of a picture, which has the same camera and so lies the same way."""
    orientation = whole["orientation"]
    full = whole.get("pixels") or turned_size(frame, orientation)
    plain = max(1, full[0] // shrink), max(1, full[1] // shrink)
    if not photo.is_file():
        return {"orientation": orientation, "pixels": plain if whole.get("pixels") else None}
    size = stored_size(photo)
    if max(abs(size[0] - plain[0]), abs(size[1] - plain[1])) > SHAPE_SLACK:
        raise NbHelpersError(
            "a picture made smaller has another size than its name says",
            given=f"{photo}: {size[1]} x {size[0]}",
            expected=f"about {plain[1]} x {plain[0]}",
            do="make the smaller pictures again from those in images",
        )
    usual = turned_size((max(1, frame[0] // shrink), max(1, frame[1] // shrink)), orientation)
    return {"orientation": orientation, "pixels": None if size == usual else size, "photo": photo}


def _stored_like(photo: Path, size: tuple[int, int], frame: tuple[int, int], orientation: int) -> int:
    """How a picture that was made from the clip's photo is stored: as that is, or upright without an EXIF entry."""
    tag = orientation_of(photo)
    if tag != UPRIGHT or orientation == UPRIGHT:
        fits = [tag] if same_shape(size, turned_size(frame, tag)) else []
    else:
        fits = [each for each in (UPRIGHT, orientation) if same_shape(size, turned_size(frame, each))]
    if len(fits) != 1:
        raise NbHelpersError(
            "a picture may or may not have been turned upright"
            if fits
            else "a picture has another shape than its frame",
            given=f"{photo}: {size[1]} x {size[0]}; the frame's photo has EXIF orientation {orientation}",
            expected=f"{frame[1]} x {frame[0]} upright, or that made smaller or larger",
            do="make the scene's pictures again from photos that are saved upright, without the EXIF entry"
            if fits
            else "open the clip with the scene's own pictures",
        )
    return fits[0]
