"""A synthetic clip with known masks, in the folders of DAVIS: a cut-out moves over a photo, behind a post."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.images import save_image
from nbhelpers.core.masks import box_of

HEIGHT, WIDTH = 270, 480
GROWTH = 0.25  # by how much the cut-out is larger in the last frame
BAR = (0.52, 0.6)  # a post that stands before it, as fractions of the width


def write_synthetic_clip(
    folder: str | Path,
    name: str,
    photo: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    background: UInt8[np.ndarray, "bh bw 3"],
    frames: int = 12,
) -> Path:
    """Write ``JPEGImages/480p/NAME`` and ``Annotations/480p/NAME``; returns the folder.

    The cut-out moves from left to right, grows by a quarter, and passes behind a grey post, as in a real clip. Frames
    are 480 x 270.

    Args:
        folder: of the dataset, made if it is missing.
        name: of the clip.
        photo: what the cut-out is taken from.
        mask: the cut-out.
        background: what it moves over.
        frames: how many.
    """
    folder = Path(folder)
    x0, y0, x1, y1 = box_of(mask)
    cut_out, alpha = photo[y0:y1, x0:x1], mask[y0:y1, x0:x1].astype(np.float32)
    scene = cv2.resize(background, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    post = slice(round(BAR[0] * WIDTH), round(BAR[1] * WIDTH))
    for frame in range(frames):
        part = frame / max(1, frames - 1)
        scale = 0.6 * HEIGHT * (1 + GROWTH * part) / (y1 - y0)
        size = round((x1 - x0) * scale), round((y1 - y0) * scale)
        small = cv2.resize(cut_out, size, interpolation=cv2.INTER_AREA)
        soft = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
        left = round(0.03 * WIDTH + part * (0.94 * WIDTH - size[0]))
        top = round(0.85 * HEIGHT - size[1])
        picture, truth = scene.astype(np.float32), np.zeros((HEIGHT, WIDTH), bool)
        rows, columns = slice(max(0, top), top + size[1]), slice(left, left + size[0])
        soft, small = soft[max(0, -top) :], small[max(0, -top) :]
        picture[rows, columns] += soft[:, :, None] * (small - picture[rows, columns])
        truth[rows, columns] = soft > 0.5
        picture[:, post], truth[:, post] = (110, 112, 118), False
        save_image(folder / "JPEGImages" / "480p" / name / f"{frame:05d}.jpg", picture.round().astype(np.uint8))
        save_image(folder / "Annotations" / "480p" / name / f"{frame:05d}.png", truth.astype(np.uint8) * 255)
    return folder
