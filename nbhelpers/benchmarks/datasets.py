"""Readers of published benchmarks, each in the folders and files of its publisher.

>>> photos = LabelledPhotos("pascal-voc", "data/VOCdevkit/VOC2012")
>>> image, labels = photos.read(photos.names[0])               # (366, 500, 3) uint8, (366, 500) uint8, 255 = void

Nothing is converted first: label maps keep the values of the publisher's files and are looked up in a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES
from nbhelpers.core.images import load_image
from nbhelpers.core.masks import components, decode_rle, load_mask, polygon_mask

VOID = 255
NO_CLASS = 254  # of a lookup table: the file holds a value that the dataset does not have
MISSING = 0.1  # fraction of listed files that may be missing; more is a folder that was not wholly unpacked
MIN_OBJECT = 0.01  # fraction of the photo: smaller components of class maps are no objects to click on
COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)  # ids of COCO minus 1 that no class has


@dataclass(frozen=True)
class PhotoLayout:
    """Where a benchmark keeps its files.

    Attributes:
        images: folder of the photos, below the root.
        labels: folder of the label maps.
        split: file that lists the names of the validation set; empty where it is a whole folder.
        roots: folders below the given one that may be the root.
        source: where it is published.
        table: for each value of a label file its class, `VOID`, or `NO_CLASS`.
    """

    images: str
    labels: str
    split: str
    roots: tuple[str, ...]
    source: str
    table: UInt8[np.ndarray, " 256"]

    @property
    def tree(self) -> str:
        """The wanted folders as text."""
        lines = [f"{self.images}/NAME.jpg", f"{self.labels}/NAME.png"] + ([self.split] if self.split else [])
        return "a folder that holds " + ", ".join(lines)


def _table(values: Mapping[int, int]) -> np.ndarray:
    table = np.full(256, NO_CLASS, np.uint8)
    table[VOID] = VOID
    for value, index in values.items():
        table[value] = index
    return table


def _classes(count: int, zero_is_void: bool) -> np.ndarray:
    """Values 0 to ``count - 1`` as they are; or 0 is void and 1 to ``count`` become 0 to ``count - 1``."""
    return _table({0: VOID, **{i + 1: i for i in range(count)}} if zero_is_void else {i: i for i in range(count)})


_VOC = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation/val.txt", ("", "VOC2012", "VOCdevkit/VOC2012")
_VOC_SOURCE = "host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)"
_CONTEXT = (
    "JPEGImages",
    "SegmentationClassContext",
    "ImageSets/SegmentationContext/val.txt",
    ("", "VOC2010", "VOCdevkit/VOC2010"),
    "host.robots.ox.ac.uk/pascal/VOC/voc2010; labels by mmsegmentation's pascal_context.py",
)
_COCO = "images/val2017", "annotations/val2017", "", ("", "coco_stuff164k", "coco-stuff")
_COCO_SOURCE = "github.com/nightrome/cocostuff (val2017.zip, stuffthingmaps_trainval2017.zip)"
_KEPT = [value for value in range(182) if value not in COCO_GAPS]  # 80 things, then 91 of stuff

LAYOUTS: Mapping[str, PhotoLayout] = MappingProxyType(
    {
        "pascal-voc": PhotoLayout(*_VOC, _VOC_SOURCE, _classes(21, False)),
        "pascal-voc20": PhotoLayout(*_VOC, _VOC_SOURCE, _classes(20, True)),
        "pascal-context60": PhotoLayout(*_CONTEXT, _classes(60, False)),
        "pascal-context59": PhotoLayout(*_CONTEXT, _classes(59, True)),
        "coco-stuff": PhotoLayout(*_COCO, _COCO_SOURCE, _table({value: i for i, value in enumerate(_KEPT)})),
        "coco-object": PhotoLayout(
            *_COCO, _COCO_SOURCE, _table({value: i + 1 if i < 80 else 0 for i, value in enumerate(_KEPT)})
        ),
        "ade20k": PhotoLayout(
            "images/validation",
            "annotations/validation",
            "",
            ("", "ADEChallengeData2016"),
            "sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)",
            _classes(150, True),
        ),
    }
)
"""The layouts of the open-vocabulary benchmarks. COCO's label maps hold ids minus 1, with gaps, and 255 for unlabelled;
in coco-object all that is stuff is background. Source of the tables: mmsegmentation's dataset converters, and
``datasets/cvt_coco_object.py`` of GroupViT."""


class LabelledPhotos:
    """Photos with a class for each pixel.

    Args:
        dataset: a key of `LAYOUTS`.
        folder: where it was unpacked: the root itself or the folder above. A folder with ``image/`` and ``label/``
            (or ``voc2012/`` with these) is read with the dataset's values and all its files.

    Attributes:
        names: of the validation set, in the publisher's order.

    Raises:
        NbHelpersError: the folder is not there, is another dataset's, or was not wholly unpacked.
    """

    def __init__(self, dataset: str, folder: str | Path):
        if dataset not in LAYOUTS:
            raise NbHelpersError("there is no such dataset", given=dataset, expected=", ".join(LAYOUTS))
        self.dataset, self.layout = dataset, LAYOUTS[dataset]
        if (plain := _plain_folder(Path(folder).expanduser())) is not None:
            self.layout = replace(self.layout, images="image", labels="label", split="", roots=("",))
            folder = plain
        self.root = find_root(folder, self.layout.roots, (self.layout.images, self.layout.labels), self.layout)
        self._images = files_by_stem(self.root / self.layout.images, IMAGE_SUFFIXES)
        labels = files_by_stem(self.root / self.layout.labels, (".png",))
        self._labels = {name: path for name, path in labels.items() if not name.endswith("TrainIds")}
        if self.layout.split:
            split = self.root / self.layout.split
            if not split.is_file():
                raise _wrong_layout(self.root, self.layout, f"{self.layout.split} is missing")
            self.names = split.read_text(encoding="utf-8").split()
        else:
            self.names = sorted(self._labels, key=lambda name: (len(name), name))
        missing = [name for name in self.names if name not in self._images or name not in self._labels]
        if not self.names or len(missing) > max(1, MISSING * len(self.names)):
            some = f"{len(missing)} of {len(self.names)} photos or labels are missing, such as {missing[:1]}"
            raise _wrong_layout(self.root, self.layout, some if self.names else "it is empty")

    def __len__(self) -> int:
        return len(self.names)

    def path(self, name: str) -> Path:
        """The file of a photo.

        Raises:
            NbHelpersError: there is none.
        """
        return self._file(self._images, name, self.layout.images, "photo")

    def read(self, name: str) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """A photo and the class of each pixel, `VOID` where it is not counted.

        Raises:
            NbHelpersError: one of the files is missing or cannot be read, their sizes differ, or a value is no class.
        """
        image = load_image(self.path(name))
        raw = read_values(self._file(self._labels, name, self.layout.labels, "label map"))
        if raw.shape != image.shape[:2]:
            raise NbHelpersError(
                "photo and label map differ in size", given=f"{name}: {image.shape[:2]} and {raw.shape}"
            )
        labels = self.layout.table[raw]
        if (labels == NO_CLASS).any():
            wrong = np.unique(raw[labels == NO_CLASS]).tolist()
            raise NbHelpersError(
                f"the label map holds values that {self.dataset} does not have", given=f"{name}: {wrong[:8]}"
            )
        return image, labels

    def _file(self, files: Mapping[str, Path], name: str, folder: str, what: str) -> Path:
        if name not in files:
            raise NbHelpersError(f"the {what} is missing", given=self.root / folder / name)
        return files[name]


def read_values(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The values of a label file as they are stored: palette indices or grey levels.

    Raises:
        NbHelpersError: it cannot be read, or is a picture with colours.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise NbHelpersError("the label map cannot be read", given=f"{path}: {error}") from error
    if values.ndim != 2 or values.max(initial=0) > 255:
        raise NbHelpersError(
            "the label map has colours, not class numbers", given=path, expected="one channel of 8 bits"
        )
    return values.astype(np.uint8)


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder that end so, by name without suffix."""
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes}


def find_root(
    folder: str | Path, roots: Sequence[str], wanted: Sequence[str], layout: PhotoLayout | VideoLayout
) -> Path:
    """The folder, or one of ``roots`` below it, that holds all that is wanted.

    Raises:
        NbHelpersError: none does; shows the wanted layout and where it is published.
    """
    given = Path(folder).expanduser()
    for root in (given / each for each in roots):
        if all((root / each).is_dir() for each in wanted):
            return root
    what = "it is not there" if not given.is_dir() else f"it holds {', '.join(sorted(_shown(given))) or 'nothing'}"
    raise _wrong_layout(given, layout, what)


def _shown(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()][:6]


def _plain_folder(folder: Path) -> Path | None:
    """The folder with ``image/`` and ``label/``, if it is one."""
    for root in (folder, folder / "voc2012"):
        if (root / "image").is_dir() and (root / "label").is_dir():
            return root
    return None


def _wrong_layout(folder: Path, layout: PhotoLayout | VideoLayout, why: str) -> NbHelpersError:
    return NbHelpersError(
        "the dataset is not there, or not wholly unpacked",
        given=f"{folder}: {why}",
        expected=layout.tree,
        do=f"get it from {layout.source}, and name its folder by --data-dir",
    )


@dataclass(frozen=True)
class ObjectOnPhoto:
    """One object to click on.

    Attributes:
        name: of the object, unique in its dataset.
        path: the photo.
        mask: ``(H, W) bool``, its true mask.
        void: ``(H, W) bool``, what is not counted.
    """

    name: str
    path: Path
    mask: Bool[np.ndarray, "h w"]
    void: Bool[np.ndarray, "h w"]


class ObjectPhotos:
    """Photos with the masks of single objects, for interactive segmentation.

    Args:
        dataset: ``voc-objects``: PASCAL VOC's ``SegmentationObject``, and where that folder is missing the connected
            components of at least 1 % of the photo in ``SegmentationClass``. ``davis-objects``: every tenth frame of
            the sequences of DAVIS 2016, all that moves as one object. ``coco-objects``: ``coco.json`` beside
            ``images/``, polygons and run lengths. ``folder-objects``: ``images/`` and ``masks/`` with equal names,
            each colour of a mask an object, 0 the background and 255 void in a palette file.
        folder: where it is.

    Attributes:
        names: of the photos; each has one object or more.
    """

    KINDS = ("voc-objects", "davis-objects", "coco-objects", "folder-objects")

    def __init__(self, dataset: str, folder: str | Path):
        self.dataset, self.folder = dataset, Path(folder).expanduser()
        opened = {
            "voc-objects": self._voc,
            "davis-objects": self._davis,
            "coco-objects": self._coco,
            "folder-objects": self._plain,
        }
        if dataset not in opened:
            raise NbHelpersError("there is no such dataset", given=dataset, expected=", ".join(opened))
        self.protocol, self.names = "", []
        opened[dataset]()
        if not self.names:
            raise NbHelpersError("there are no photos with masks", given=self.folder)

    def read(self, name: str) -> Iterator[ObjectOnPhoto]:
        """The objects of one photo."""
        path, split = self._paths[name], getattr(self, f"_split_{self.dataset.partition('-')[0]}")
        yield from split(name, path)

    def _voc(self) -> None:
        photos = LabelledPhotos("pascal-voc", self.folder)
        self.names, self._paths = photos.names, {name: photos.path(name) for name in photos.names}
        self._objects = photos.root / "SegmentationObject"
        self._classes = photos.root / photos.layout.labels
        self._labels = self._objects if self._objects.is_dir() else self._classes
        self.protocol = (
            "VOC's own instances"
            if self._objects.is_dir()
            else f"8-connected components of the class maps, at least {MIN_OBJECT:.0%} of the photo"
        )

    def _split_voc(self, name: str, path: Path) -> Iterator[ObjectOnPhoto]:
        values = read_values(self._labels / f"{name}.png")
        void = (values == VOID) | (read_values(self._classes / f"{name}.png") == VOID)
        for value in np.unique(values[(values > 0) & ~void]).tolist():
            mask = values == value
            if self._labels == self._objects:
                yield ObjectOnPhoto(f"{name}/{value}", path, mask, void)
                continue
            parts = components(mask, MIN_OBJECT * mask.size)
            for part in range(1, int(parts.max(initial=0)) + 1):
                yield ObjectOnPhoto(f"{name}/{value}.{part}", path, parts == part, void)

    def _davis(self) -> None:
        clips = Clips("davis2016", self.folder)
        self._clips = clips
        frames = [(clip, path) for clip in clips.names for path in clips.frames(clip)[::10]]
        self._paths = {f"{clip}/{path.stem}": path for clip, path in frames}
        self.names = list(self._paths)
        self.protocol = "every tenth frame, all that moves as one object"

    def _split_davis(self, name: str, path: Path) -> Iterator[ObjectOnPhoto]:
        clip, _, frame = name.partition("/")
        for mask in self._clips.masks(clip, frame).values():
            yield ObjectOnPhoto(name, path, mask, np.zeros_like(mask))

    def _coco(self) -> None:
        file, images = self.folder / "coco.json", self.folder / "images"
        images = images if images.is_dir() else self.folder / "image"
        if not file.is_file() or not images.is_dir():
            raise NbHelpersError("this is no folder of COCO", given=self.folder, expected="images/ and coco.json")
        coco = json.loads(file.read_text(encoding="utf-8"))
        owned: dict[int, list] = {}
        for each in coco["annotations"]:
            owned.setdefault(each["image_id"], []).append(each)
        self._annotations = {Path(i["file_name"]).name: (i, owned.get(i["id"], [])) for i in coco["images"]}
        self._paths = {name: images / name for name, (_, some) in self._annotations.items() if some}
        self.names, self.protocol = sorted(self._paths), "instances, at least 1 % of the photo, no crowds"

    def _split_coco(self, name: str, path: Path) -> Iterator[ObjectOnPhoto]:
        about, annotations = self._annotations[name]
        size = about["height"], about["width"]
        for number, each in enumerate(annotations):
            mask = coco_mask(each["segmentation"], size)
            if not each.get("iscrowd") and mask.mean() >= MIN_OBJECT:
                yield ObjectOnPhoto(f"{name}/{number}", path, mask, np.zeros_like(mask))

    def _plain(self) -> None:
        images, masks = self.folder / "images", self.folder / "masks"
        if not images.is_dir() or not masks.is_dir():
            raise NbHelpersError("this is no folder of photos and masks", given=self.folder, expected="images/, masks/")
        self._paths, self._masks = files_by_stem(images, IMAGE_SUFFIXES), files_by_stem(masks, IMAGE_SUFFIXES)
        if missing := sorted(set(self._paths) - set(self._masks)):
            raise NbHelpersError("photos without a mask", given=", ".join(missing[:8]), expected=f"{masks}/NAME.png")
        self.names, self.protocol = sorted(self._paths), "each mask file or value of its palette"

    def _split_folder(self, name: str, path: Path) -> Iterator[ObjectOnPhoto]:
        from PIL import Image

        with Image.open(self._masks[name]) as picture:
            is_palette = picture.mode == "P"
        if not is_palette:
            mask = load_mask(self._masks[name])
            yield ObjectOnPhoto(name, path, mask, np.zeros_like(mask))
            return
        values = read_values(self._masks[name])
        for value in np.unique(values[(values > 0) & (values < VOID)]).tolist():
            yield ObjectOnPhoto(f"{name}/{value}", path, values == value, values == VOID)


def coco_mask(segmentation: dict[str, Any] | list[list[float]], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of an annotation of COCO: run lengths or a list of polygons."""
    if isinstance(segmentation, dict):
        return decode_rle(segmentation, size)
    return np.any(
        [polygon_mask(list(zip(points[::2], points[1::2], strict=True)), size) for points in segmentation], axis=0
    )


@dataclass(frozen=True)
class VideoLayout:
    """Where a benchmark of video object segmentation keeps its files; see `PhotoLayout`."""

    images: str
    labels: str
    split: str
    roots: tuple[str, ...]
    source: str
    note: str = ""

    @property
    def tree(self) -> str:
        """The wanted folders as text."""
        lines = f"{self.images}/CLIP/00000.jpg", f"{self.labels}/CLIP/{self.note or '00000.png'}", self.split
        return "a folder that holds " + ", ".join(line for line in lines if line)


_DAVIS = "JPEGImages/480p", "Annotations/480p"
VIDEO_LAYOUTS: Mapping[str, VideoLayout] = MappingProxyType(
    {
        "davis2016": VideoLayout(
            *_DAVIS, "ImageSets/480p/val.txt", ("", "davis2016", "DAVIS"), "davischallenge.org/davis2016"
        ),
        "davis2017": VideoLayout(
            *_DAVIS, "ImageSets/2017/val.txt", ("", "DAVIS", "davis2017"), "davischallenge.org/davis2017"
        ),
        "sa-v": VideoLayout(
            "JPEGImages_24fps",
            "Annotations_6fps",
            "",
            ("", "sav_val", "sav_test"),
            "ai.meta.com/datasets/segment-anything-video",
            "OBJECT/00000.png",
        ),
        "lvos": VideoLayout(
            "JPEGImages", "Annotations", "", ("", "valid", "val"), "lingyihongfd.github.io/lvos.github.io"
        ),
    }
)


class Clips:
    """Clips with the masks of their objects.

    Args:
        dataset: a key of `VIDEO_LAYOUTS`. DAVIS 2016 takes all that moves as one object; SA-V has a folder for each
            object, annotated at every fourth frame; in LVOS an object may appear after the first frame.
        folder: where it was unpacked.

    Attributes:
        names: of the clips: those of the split file where there is one, else all.
    """

    def __init__(self, dataset: str, folder: str | Path):
        if dataset not in VIDEO_LAYOUTS:
            raise NbHelpersError("there is no such dataset", given=dataset, expected=", ".join(VIDEO_LAYOUTS))
        self.dataset, self.layout = dataset, VIDEO_LAYOUTS[dataset]
        self.root = find_root(folder, self.layout.roots, (self.layout.images, self.layout.labels), self.layout)
        here = sorted(path.name for path in (self.root / self.layout.images).iterdir() if path.is_dir())
        split = self.root / (self.layout.split or "?")
        # DAVIS 2016 lists frames: /JPEGImages/480p/blackswan/00000.jpg ...
        listed = split.read_text(encoding="utf-8").split() if split.is_file() else here
        self.names = list(dict.fromkeys(Path(line).parent.name if "/" in line else line for line in listed))
        missing = [name for name in self.names if not (self.root / self.layout.labels / name).is_dir()]
        missing += [name for name in self.names if name not in here]
        if not self.names or missing:
            raise _wrong_layout(self.root, self.layout, f"missing clips: {', '.join(missing[:4]) or 'all'}")

    def frames(self, clip: str) -> list[Path]:
        """The frames of a clip, in order."""
        return sorted((self.root / self.layout.images / clip).glob("*.jpg"))

    def annotated(self, clip: str) -> list[str]:
        """Stems of the frames that have masks."""
        return sorted({path.stem for path in (self.root / self.layout.labels / clip).rglob("*.png")})

    def masks(self, clip: str, frame: str) -> dict[int, Bool[np.ndarray, "h w"]]:
        """The mask of each object that is in a frame, by its number.

        Raises:
            NbHelpersError: the frame has no annotation, or it cannot be read.
        """
        folder = self.root / self.layout.labels / clip
        if self.dataset == "sa-v":
            files = sorted(folder.glob(f"*/{frame}.png"))
            if not files:
                raise _no_masks(folder / "*" / f"{frame}.png")
            masks = {int(file.parent.name): read_values(file) > 0 for file in files}
            return {number: mask for number, mask in masks.items() if mask.any()}
        file = folder / f"{frame}.png"
        if not file.is_file():
            raise _no_masks(file)
        values = read_values(file)
        if self.dataset == "davis2016":
            return {1: values > 0} if values.any() else {}
        return {number: values == number for number in np.unique(values).tolist() if 0 < number < VOID}


def _no_masks(file: Path) -> NbHelpersError:
    return NbHelpersError("the frame has no masks", given=file)
