"""Miniatures of published benchmarks: a few small photos in the folders and file formats of the publishers."""

import cv2
import numpy as np
from fake_words import COLOURS, scene
from PIL import Image

SIZE = (24, 32)
CLASSES = [("lawn", "sky"), ("ball",), ("box",), *[(f"word {number}",) for number in range(3, 21)]]  # for VOC's 21


def stripes(*values):
    """A label map with a stripe for each value."""
    out = np.zeros(SIZE, np.uint8)
    for rows, value in zip(np.array_split(np.arange(SIZE[0]), len(values)), values, strict=True):
        out[rows] = value
    return out


def put_labels(path, values, palette=False):
    """A label map as it is published: palette indices (VOC, DAVIS) or grey levels (COCO, ADE)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if palette:
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    picture.save(path)


def put_photo(path, image=None):
    """A photo, grey if none is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 128, np.uint8) if image is None else image).save(path)


def put_voc(root, labels, photos=None, suffix=".jpg", year="VOC2012"):
    """PASCAL VOC 2012, or Context with its own folders."""
    folder, split = ("SegmentationClass", "Segmentation") if year == "VOC2012" else _CONTEXT
    for name, values in labels.items():
        put_photo(root / "JPEGImages" / f"{name}{suffix}", (photos or {}).get(name))
        put_labels(root / folder / f"{name}.png", values, palette=True)
    (root / "ImageSets" / split).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / split / "val.txt").write_text("\n".join(labels) + "\n")
    return root


_CONTEXT = "SegmentationClassContext", "SegmentationContext"


def put_folders(root, images, annotations, labels):
    """COCO-Stuff and ADE20K: two folders."""
    for name, values in labels.items():
        put_photo(root / images / f"{name}.jpg")
        put_labels(root / annotations / f"{name}.png", values)
    return root


def drawn_voc(root, count=3):
    """A VOC folder of drawn scenes: a lawn and sky as the background, balls (1) and a box (2), some void."""
    photos, labels = {}, {}
    for number in range(count):
        image = scene(120 + 8 * number, 160)
        apart = lambda name, image=image: np.linalg.norm(image.astype(int) - COLOURS[name], axis=2)  # noqa: E731
        values = np.zeros(image.shape[:2], np.uint8)
        values[apart("ball") < 12], values[apart("box") < 12] = 1, 2
        values[apart("lid") < 12] = 255
        photos[f"2007_{number:06d}"], labels[f"2007_{number:06d}"] = image, values
    return put_voc(root, labels, photos, ".png")


def put_clip(root, name, count=6, objects=(1,), palette=True):
    """A clip in DAVIS' folders: a disc for each object that moves to the right."""
    for frame in range(count):
        image, values = np.full((40, 60, 3), 90, np.uint8), np.zeros((40, 60), np.uint8)
        for index, number in enumerate(objects):
            colour = (210, 40, 30) if index == 0 else (30, 60, 200)
            disc = np.zeros((40, 60), np.uint8)
            cv2.circle(disc, (10 + 3 * frame, 10 + 18 * index), 6, 1, -1)
            image[disc > 0], values[disc > 0] = colour, number
        put_photo(root / "JPEGImages" / "480p" / name / f"{frame:05d}.jpg", image)
        put_labels(root / "Annotations" / "480p" / name / f"{frame:05d}.png", values, palette)
