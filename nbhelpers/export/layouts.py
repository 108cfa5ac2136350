"""Mattes in the layouts of splatting and photogrammetry tools: names, folders, polarity, alpha, orientation.

Each function of `LAYOUTS` lists files without writing any; `write_layout` writes them and
`nbhelpers.export.verify.verify_layout` verifies them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import time
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Shaped

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import (
    INVERSE,
    ORIENTATION,
    SHAPE_SLACK,
    UPRIGHT,
    orientation_of,
    same_shape,
    stored_size,
    turn,
    turned_size,
)
from nbhelpers.core.mattes import Mattes, full_of
from nbhelpers.core.profiles import is_srgb
from nbhelpers.core.scenes import by_name
from nbhelpers.export.manifest import Manifest
from nbhelpers.export.masks import encode_png, premultiplied_rgba, straight_rgba

COMPARE_STEP = 7  # stride of rows and columns at which a 16 bit image is compared with the frame
MAX_BYTES = 1 << 30  # of all frames in progress
BYTES_PER_PIXEL = 22  # of a frame in progress: decoding takes 12; image, mask, matte and RGBA take 10
UNFINISHED_SECONDS = 600  # age from which an unfinished file is attributed to a killed process
VERSION = 1  # of the content of the files; increase it to make every export write all files again
TRANSFORMS, MASKED = "transforms.json", "transforms_masked.json"
log = logging.getLogger(__name__)

Picture = Literal["straight", "premultiplied", "matte", "keep white", "keep black"]


@dataclass(frozen=True)
class Target:
    """One PNG of an export.

    Attributes:
        path: of the file.
        frame: index into the clip.
        picture: ``"straight"`` or ``"premultiplied"`` RGBA; the soft grey ``"matte"``; or the binary matte, with the
            object white (``"keep white"``) or black (``"keep black"``).
        bits: 8 or 16 per channel.
        shrink: factor by which the image is smaller than the frame.
        orientation: EXIF orientation, 1 to 8, of the photo that the image belongs to. Tools that ignore EXIF read the
            stored pixels of the photo, so the image is stored with the same orientation.
        pixels: ``(H, W)`` of the stored photo, if it does not follow from the frame.
        photo: the file of that photo, if there is one.
        tagged: whether the image has an EXIF orientation entry.
    """

    path: Path
    frame: int
    picture: Picture
    bits: int = 8
    shrink: int = 1
    orientation: int = UPRIGHT
    pixels: tuple[int, int] | None = None
    photo: Path | None = None
    tagged: bool = False

    @property
    def is_rgba(self) -> bool:
        """Whether the image has colours."""
        return self.picture in ("straight", "premultiplied")

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image, from those of the frame."""
        small = max(1, size[0] // self.shrink), max(1, size[1] // self.shrink)
        return self.pixels or turned_size(small, self.orientation)


@dataclass(frozen=True)
class Layout:
    """All files of an export of a clip, as returned by the functions of `nbhelpers.export.layouts`.

    Attributes:
        kind: name of the layout, e.g. ``"colmap"``.
        folder: contains all files, possibly in subfolders.
        targets: the images, in the order of frames.
        texts: other files and their content.
        own: subfolders of ``folder`` that should contain no other files.
    """

    kind: str
    folder: Path
    targets: tuple[Target, ...]
    texts: Mapping[Path, str] = field(default_factory=dict)
    own: tuple[Path, ...] = ()

    @cached_property
    def by_frame(self) -> dict[int, list[Target]]:
        """The targets of each frame."""
        grouped: dict[int, list[Target]] = {}
        for target in self.targets:
            grouped.setdefault(target.frame, []).append(target)
        return grouped

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [target.path for target in self.targets] + list(self.texts)


@dataclass(frozen=True)
class Written:
    """Result of `write_layout`: number of files written, and number of files kept from an earlier run."""

    layout: Layout
    written: int
    kept: int


def postshot(mattes: Mattes, output: str | Path | None = None, bits: int | None = None, masks: bool = True) -> Layout:
    """Postshot: RGBA PNG with straight alpha next to the originals, and separate masks in both polarities.

    For ``IMG_7.jpg`` these are ``IMG_7_matte.png`` in the same folder, ``masks_remove_background/IMG_7.png`` (kept
    white: for Mask Mode "Remove Background") and ``masks_remove_occluders/IMG_7.png`` (kept black: for "Remove
    Occluders", which ignores what is white).

    The RGBA images are upright. A separate mask of a photo with an EXIF orientation is stored like the photo, with the
    same EXIF entry, so it fits whether or not Postshot applies the orientation. This assumes that JPEG and PNG are
    treated alike, which its user guide does not specify. If the masks appear rotated, use the RGBA images.

    Args:
        mattes: of the clip.
        output: the folder; by default the footage folder, which a video does not have.
        bits: 8 or 16 per channel of the RGBA; by default like the originals.
        masks: write the separate masks too.

    Raises:
        NbHelpersError: no output folder for a video, or an invalid bit depth.

    Source: Postshot user guide, Training Configuration, "Mask Mode": separate masks are black and white, of the same
    size and base name as the images.
    """
    if bits not in (None, 8, 16):
        raise NbHelpersError("invalid bit depth", given=bits, expected="8, 16 or None: as the originals")
    folder = _folder(mattes, output)
    stems = _stems(mattes)
    within: dict[str, Picture]
    within = {"masks_remove_background": "keep white", "masks_remove_occluders": "keep black"} if masks else {}
    targets = []
    for index, stem in enumerate(stems):
        depth = bits or depth_of(mattes.paths, index)
        targets.append(
            Target(_folder_of(mattes, index, output, folder) / f"{stem}_matte.png", index, "straight", depth)
        )
        stored = _stored_orientation(mattes, index) if within else {}
        targets += [
            Target(folder / name / f"{stem}.png", index, picture, tagged=True, **stored)
            for name, picture in within.items()
        ]
    return Layout("postshot", folder, tuple(targets), own=tuple(folder / name for name in within))


def colmap(mattes: Mattes, output: str | Path, images: str | Path | None = None) -> Layout:
    """COLMAP: ``output/abc/012.jpg.png`` for the image ``abc/012.jpg``; no features are extracted in black areas.

    COLMAP ignores the EXIF orientation of photos, so the masks are stored like the photos.

    Args:
        mattes: of the clip.
        output: to pass to COLMAP as ``--ImageReader.mask_path``.
        images: COLMAP's ``image_path``, which contains all originals; by default their common folder.

    Source: COLMAP documentation, FAQ, "Mask image regions"; on orientation colmap/colmap #1456 and #2104.
    """
    folder = Path(output).expanduser()
    names = _relative(mattes, images)
    targets = (
        Target(folder / f"{name}.png", index, "keep white", **_stored_orientation(mattes, index))
        for index, name in enumerate(names)
    )
    return Layout("colmap", folder, tuple(targets), own=(folder,))


def nerfstudio(mattes: Mattes, output: str | Path) -> Layout:
    """Nerfstudio: ``masks/`` and, if ``transforms.json`` exists, a copy of it that refers to the masks.

    The copy is ``transforms_masked.json``; train with ``ns-train splatfacto --data SCENE/transforms_masked.json``.
    The original is not changed. Smaller masks are written for existing downscaled images (``images_2`` ...), since
    nerfstudio looks for both. Black pixels are excluded from training.

    Nerfstudio ignores the EXIF orientation of images, so the masks are stored like its images: those that
    ``transforms.json`` names, or those in ``images``; otherwise those of the clip.

    Args:
        mattes: of the clip.
        output: the folder of the scene, with or without ``transforms.json``.

    Raises:
        NbHelpersError: ``transforms.json`` cannot be read, or names an image that the clip does not have
            (nerfstudio requires a mask for every frame or for none); or an image of the scene has another aspect ratio
            than the frame, or an ambiguous orientation.

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
        whole = _stored_orientation(mattes, index, folder / picture if (folder / picture).is_file() else None)
        for n in shrinks:
            stored = (
                whole if n == 1 else _smaller_orientation(folder / f"images_{n}" / picture.name, n, whole, mattes.size)
            )
            targets.append(Target(folder / names[n] / f"{stem}.png", index, "keep white", shrink=n, **stored))
    return Layout("nerfstudio", folder, tuple(targets), texts, own=tuple(folder / name for name in names.values()))


def matte_sequence(mattes: Mattes, output: str | Path, bits: int = 8) -> Layout:
    """Soft mattes as greyscale PNG, white inside, each named like its image."""
    return _sequence("mattes", mattes, output, bits, "matte")


def rgba_sequence(mattes: Mattes, output: str | Path, bits: int | None = None, premultiplied: bool = False) -> Layout:
    """The objects as RGBA PNG, each named like its image.

    Args:
        mattes: of the clip.
        output: the folder.
        bits: 8 or 16 per channel; by default like the originals.
        premultiplied: multiply colours by alpha, as some compositing programs expect. The PNG standard requires
            straight alpha.
    """
    return _sequence("rgba", mattes, output, bits, "premultiplied" if premultiplied else "straight")


LAYOUTS: dict[str, Callable[..., Layout]] = {
    "postshot": postshot,
    "colmap": colmap,
    "nerfstudio": nerfstudio,
    "mattes": matte_sequence,
    "rgba": rgba_sequence,
}


def _sequence(kind: str, mattes: Mattes, output: str | Path, bits: int | None, picture: Picture) -> Layout:
    """A PNG per frame, named like its image."""
    if bits not in (None, 8, 16):
        raise NbHelpersError("invalid bit depth", given=bits, expected="8, 16 or None: as the originals")
    folder = Path(output).expanduser()
    targets = [
        Target(folder / f"{stem}.png", index, picture, bits or depth_of(mattes.paths, index))
        for index, stem in enumerate(_stems(mattes))
    ]
    originals = {path.resolve() for path in mattes.paths or ()}
    if clash := [target.path for target in targets if target.path.resolve() in originals]:
        raise NbHelpersError("the export would overwrite the originals", given=clash[0], do="export to another folder")
    return Layout(kind, folder, tuple(targets), own=(folder,))


def _folder(mattes: Mattes, output: str | Path | None) -> Path:
    """The folder of an export: as given, or the common one of the originals."""
    if output is not None:
        return Path(output).expanduser()
    if not mattes.paths:
        raise NbHelpersError(
            "a video has no footage folder to export to",
            do="pass output=, or extract its frames first",
        )
    return Path(os.path.commonpath([path.parent.absolute() for path in mattes.paths]))


def _folder_of(mattes: Mattes, index: int, output: str | Path | None, folder: Path) -> Path:
    """The folder of one frame's RGBA: as given, or that of its original."""
    return folder if output is not None or not mattes.paths else mattes.paths[index].absolute().parent


def _stems(mattes: Mattes) -> list[str]:
    """A file name without suffix for each frame; with suffix if two would be the same."""
    stems = [Path(name).stem for name in mattes.names]
    if _has_duplicates(stems):
        stems = [name.replace(".", "_") for name in mattes.names]
    if _has_duplicates(stems):
        stems = [name.replace("/", "_").replace(".", "_") for name in _relative(mattes, None)]
    return stems


def _has_duplicates(names: list[str]) -> bool:
    """Whether two names are the same, ignoring case."""
    return max(Counter(name.casefold() for name in names).values(), default=0) > 1


def _relative(mattes: Mattes, images: str | Path | None) -> list[str]:
    """Names with the folders between ``images`` and the originals."""
    paths = [path.absolute() for path in mattes.paths or ()]
    if not paths:
        return mattes.names
    root = Path(images).expanduser().absolute() if images is not None else _folder(mattes, None)
    for path in paths:
        if not path.is_relative_to(root):
            raise NbHelpersError("an image lies outside the image folder", given=path, expected=f"below {root}")
    return [path.relative_to(root).as_posix() for path in paths]


def _masked_transforms(path: Path, mattes: Mattes, stems: list[str]) -> tuple[str, dict[int, str]]:
    """The text with masks, and the image that it names for each frame of the clip, if any."""
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
                "transforms.json names an image that the clip does not have; every frame needs a mask",
                given=f"{path}: {picture}",
                do="open the clip with all its images, without start, stop and step",
            )
        frame["mask_path"] = f"masks/{stems[entries[entry]]}.png"
    return json.dumps(data, indent=2), {index: pictures[entry] for entry, index in entries.items()}


def _stored_orientation(mattes: Mattes, index: int, photo: Path | None = None) -> dict[str, Any]:
    """How a mask must be stored to match a photo: the last fields of a `Target`.

    Args:
        mattes: of the clip.
        index: of the frame.
        photo: the file that the tool reads; by default that of the clip.
    """
    own = None if mattes.paths is None else mattes.paths[index]
    if own is not None:
        orientation = orientation_of(own)
    else:  # frames without files may specify how their photos are stored
        orientation = getattr(mattes.frames, "orientations", [UPRIGHT] * len(mattes))[index]
    photo = own if photo is None else photo
    if photo is None:
        return {"orientation": orientation}
    size = stored_size(photo)
    if own is None or not photo.samefile(own):
        orientation = _stored_like(photo, size, mattes.size, orientation)
    pixels = None if size == turned_size(mattes.size, orientation) else size
    return {"orientation": orientation, "pixels": pixels, "photo": photo}


def _smaller_orientation(photo: Path, shrink: int, whole: dict[str, Any], frame: tuple[int, int]) -> dict[str, Any]:
    """The same for nerfstudio's downscaled copy of an image, which has the same orientation."""
    orientation = whole["orientation"]
    full = whole.get("pixels") or turned_size(frame, orientation)
    plain = max(1, full[0] // shrink), max(1, full[1] // shrink)
    if not photo.is_file():
        return {"orientation": orientation, "pixels": plain if whole.get("pixels") else None}
    size = stored_size(photo)
    if max(abs(size[0] - plain[0]), abs(size[1] - plain[1])) > SHAPE_SLACK:
        raise NbHelpersError(
            "the size of a downscaled image does not match the name of its folder",
            given=f"{photo}: {size[1]} x {size[0]}",
            expected=f"about {plain[1]} x {plain[0]}",
            do="downscale the images again",
        )
    usual = turned_size((max(1, frame[0] // shrink), max(1, frame[1] // shrink)), orientation)
    return {"orientation": orientation, "pixels": None if size == usual else size, "photo": photo}


def _stored_like(photo: Path, size: tuple[int, int], frame: tuple[int, int], orientation: int) -> int:
    """EXIF orientation with which an image derived from the photo is stored: that of the photo, or upright."""
    tag = orientation_of(photo)
    if tag != UPRIGHT or orientation == UPRIGHT:
        fits = [tag] if same_shape(size, turned_size(frame, tag)) else []
    else:
        fits = [each for each in (UPRIGHT, orientation) if same_shape(size, turned_size(frame, each))]
    if len(fits) != 1:
        raise NbHelpersError(
            "the orientation of an image is ambiguous" if fits else "an image and its frame differ in aspect ratio",
            given=f"{photo}: {size[1]} x {size[0]}; the frame's photo has EXIF orientation {orientation}",
            expected=f"{frame[1]} x {frame[0]} upright, or a scaled copy",
            do="create the images of the scene again from photos that are saved upright, without the EXIF entry"
            if fits
            else "open the clip from the images of the scene",
        )
    return fits[0]


def write_layout(
    layout: Layout, mattes: Mattes, replace: bool = False, progress: Callable[[int, int], object] | None = None
) -> Written:
    """Write an export. An interrupted call can be repeated; originals and files of other origin are never changed.

    Example:
        >>> write_layout(colmap(mattes, "scene/masks"), mattes)
        Written(layout=..., written=120, kept=0)

    Args:
        layout: from one of the functions of `nbhelpers.export.layouts`.
        mattes: those for which the layout was created.
        replace: overwrite files that an earlier export wrote from other masks or settings. Files of other origin
            are never overwritten.
        progress: called with the number of finished frames and the total; may raise to stop.

    Raises:
        NbHelpersError: files exist (named), the folder is read-only, the disk is full, a frame or mask is invalid.
            Files written before the error are kept.
    """
    duplicates = [path for path, times in Counter(layout.paths).items() if times > 1]
    if duplicates:
        raise NbHelpersError(
            "two frames would be written to one file",
            given=duplicates[0],
            do="give the frames unique names, or open them as files so that their folders distinguish them",
        )
    manifest = Manifest(layout.folder)
    manifest.check(layout.paths)
    _delete_unfinished(layout)
    cores = os.cpu_count() or 1
    clip = str(getattr(mattes.frames, "signature", "")) if mattes.paths is None else ""
    deepest = max((target.bits for target in layout.targets), default=8) // 8
    pixels = mattes.size[0] * mattes.size[1] * deepest
    workers = min(cores, MAX_BYTES // (BYTES_PER_PIXEL * pixels))  # 0: sequentially
    count = kept = done = 0
    running: deque[Future] = deque()

    def finish(made: int) -> None:
        nonlocal count, done
        count, done = count + made, done + 1
        if progress is not None:
            progress(done, len(layout.by_frame))

    with ThreadPoolExecutor(cores) as strips, ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for frame, targets in layout.by_frame.items():
                signatures = {target: _signature(target, mattes, clip) for target in targets}
                todo = [target for target in targets if not manifest.is_done(target.path, signatures[target])]
                _refuse_outdated_targets(todo, replace)
                kept += len(targets) - len(todo)
                if not todo:
                    finish(0)
                else:
                    while running and len(running) >= workers:
                        finish(running.popleft().result())
                    bits = max((target.bits for target in todo if target.is_rgba), default=0)
                    image = read_original(mattes, frame, bits) if bits else None
                    running.append(pool.submit(_write_targets, todo, signatures, mattes, image, manifest, strips))
                    del image
            while running:
                finish(running.popleft().result())
        finally:
            for future in running:
                future.cancel()
    for path, text in layout.texts.items():
        signature = f"{zlib.crc32(text.encode()):08x}"
        if manifest.is_done(path, signature):
            kept += 1
            continue
        if path.exists() and not replace:
            _refuse_outdated(path)
        manifest.write(path, [text.encode()], signature)
        count += 1
    return Written(layout, count, kept)


def target_pixels(
    target: Target, matte: Shaped[np.ndarray, "h w"], image: Shaped[np.ndarray, "h w 3"] | None = None
) -> Shaped[np.ndarray, "rows columns"] | Shaped[np.ndarray, "rows columns 4"]:
    """The pixels of a target's file.

    Args:
        target: of the layout.
        matte: of the frame, at the target's bit depth.
        image: the frame, 8 or 16 bit, for RGBA.
    """
    if target.is_rgba:
        if image is None:
            raise NbHelpersError("RGBA needs the frame as well as its matte", given=target.path)
        if image.dtype != matte.dtype:
            image = (image >> 8).astype(np.uint8) if matte.dtype == np.uint8 else image.astype(np.uint16) * 257
        return straight_rgba(image, matte) if target.picture == "straight" else premultiplied_rgba(image, matte)
    size = turned_size(target.size(matte.shape), target.orientation)
    if size != matte.shape:
        smaller = size[0] <= matte.shape[0]
        matte = cv2.resize(matte, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    if target.picture == "matte":
        return matte
    full = full_of(matte.dtype)
    white = matte > full // 2
    out = np.where(white if target.picture == "keep white" else ~white, full, matte.dtype.type(0))
    return np.ascontiguousarray(turn(out, INVERSE[target.orientation]))


def target_matte(
    target: Target, mattes: Mattes, image: Shaped[np.ndarray, "h w 3"] | None
) -> Shaped[np.ndarray, "h w"]:
    """The frame's matte at the target's bit depth; ``image`` is the frame, 8 or 16 bit, if already loaded."""
    if image is not None and image.dtype != np.uint8:
        image = (image >> 8).astype(np.uint8)
    return mattes.make(target.frame, image, np.uint8 if target.bits == 8 else np.uint16)


def _write_targets(
    targets: list[Target],
    signatures: Mapping[Target, str],
    mattes: Mattes,
    image: np.ndarray | None,
    manifest: Manifest,
    strips: Executor,
) -> int:
    """Write some targets of one frame; return their number."""
    by_depth: dict[int, np.ndarray] = {}
    for target in targets:
        if target.bits not in by_depth:
            by_depth[target.bits] = target_matte(target, mattes, image)
        about = metadata_of(mattes.paths, target.frame) if target.is_rgba else {}
        if target.tagged and target.orientation != UPRIGHT:
            about = {"exif": orientation_tag(target.orientation)}
        pixels = target_pixels(target, by_depth[target.bits], image)
        manifest.write(target.path, encode_png(pixels, strips, **about), signatures[target])
        del pixels
    return len(targets)


def _delete_unfinished(layout: Layout) -> None:
    """Delete temporary files of killed runs of this export (see `nbhelpers.core.files.replacing`)."""
    stems = {(path.parent, path.stem) for path in layout.paths}
    for folder in {path.parent for path in layout.paths}:
        for path in folder.glob(".*-????????.*"):
            with contextlib.suppress(OSError):
                unfinished = (folder, path.stem[1:-9]) in stems and path.is_file()
                if unfinished and time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                    path.unlink()


def _signature(target: Target, mattes: Mattes, clip: str) -> str:
    """A short signature of what a file is made from."""
    parts = [VERSION, target.picture, target.bits, target.shrink, mattes.signature(target.frame)]
    if target.orientation != UPRIGHT or target.pixels is not None:
        parts += [target.orientation, target.pixels, target.tagged]
    if target.is_rgba:
        if mattes.paths is None:
            parts += [clip, target.frame]
        else:
            original = mattes.paths[target.frame]
            parts += [original.name, original.stat().st_size, original.stat().st_mtime_ns]
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def _refuse_outdated_targets(targets: list[Target], replace: bool) -> None:
    """Raise an error if a target exists and must not be overwritten."""
    for target in targets:
        if not replace and target.path.exists():
            _refuse_outdated(target.path)


def _refuse_outdated(path: Path) -> None:
    """Raise the error of a file that was written from other masks or settings."""
    raise NbHelpersError(
        "the file exists from an earlier export of other masks or settings",
        given=path,
        do="pass replace=True to overwrite it, or export to another folder",
    )


def depth_of(paths: Sequence[Path] | None, index: int) -> int:
    """Bits per channel of a frame's file, 8 or 16; 8 for frames without files."""
    if paths is None or (path := paths[index]).suffix.lower() not in (".png", ".tif", ".tiff"):
        return 8
    from PIL import Image

    try:
        if path.suffix.lower() == ".png":
            with path.open("rb") as file:
                return 16 if struct.unpack(">24xB", file.read(25))[0] == 16 else 8
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                return 16 if max(getattr(picture, "tag_v2", {}).get(258, (8,))) == 16 else 8
    except (OSError, SyntaxError, ValueError, struct.error):
        return 8  # decoding the frame raises the error


def read_original(mattes: Mattes, index: int, bits: int) -> Shaped[np.ndarray, "h w 3"]:
    """Frame ``index`` as RGB of a given bit depth.

    A 16 bit original is read at its own depth if its pixels match those of the frame. Otherwise (e.g. if the frame was
    scaled to the size of the clip), and for 8 bit originals, 8 bit values are scaled to 16 bit.

    Args:
        mattes: of the clip.
        index: of the frame.
        bits: 8 or 16.
    """
    frame = mattes.image(index)
    if bits == 8:
        return frame
    if mattes.paths and depth_of(mattes.paths, index) == 16:
        path = mattes.paths[index]
        deep = _upright(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED))
        if deep is not None and deep.shape == frame.shape:
            rest = np.abs(
                (deep[::COMPARE_STEP, ::COMPARE_STEP] >> 8).astype(np.int16) - frame[::COMPARE_STEP, ::COMPARE_STEP]
            )
            if rest.max() <= 1:
                return deep
        log.warning("%s: the 16 bit pixels do not match the frame; 8 bit are used", path)
    return frame.astype(np.uint16) * 257


def metadata_of(paths: Sequence[Path] | None, index: int) -> dict[str, bytes]:
    """EXIF (focal length, camera) and colour profile of a frame's file, in the form that `encode_png` takes.

    Frames are sRGB, so the profile of a file in another colour space is omitted.
    """
    if paths is None:
        return {}
    path = paths[index]
    from PIL import Image

    found: dict[str, bytes] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid EXIF is omitted below
        try:
            with Image.open(path) as picture:
                icc = picture.info.get("icc_profile")
                if icc and picture.mode == "RGB" and is_srgb(icc):
                    found["icc"] = icc
                if picture.format in ("JPEG", "MPO", "PNG", "WEBP", "HEIF"):
                    exif = picture.getexif()
                    if exif:
                        exif.pop(ORIENTATION, None)  # frames are upright
                        found["exif"] = exif.tobytes().removeprefix(b"Exif\0\0")
        except Exception as error:  # PIL raises various errors for broken EXIF, which is not essential
            log.debug("%s: metadata omitted: %s", path, error)
    return found


def orientation_tag(orientation: int) -> bytes:
    """EXIF with only an orientation, in the form that `encode_png` takes."""
    from PIL import Image

    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _upright(picture: np.ndarray | None) -> np.ndarray | None:
    """A 16 bit image decoded by OpenCV as RGB, composited over white; None for other images."""
    if picture is None or picture.dtype != np.uint16:
        return None
    if picture.ndim == 2:
        return np.repeat(picture[:, :, None], 3, axis=2)
    if picture.shape[2] == 4:
        alpha = picture[:, :, 3:].astype(np.uint64)
        over = (picture[:, :, :3] * alpha + 65535 * (65535 - alpha) + 32767) // 65535
        picture = over.astype(np.uint16)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
