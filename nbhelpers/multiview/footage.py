"""The photos of a scene: a folder, a list, or the sharpest frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.files import sha256
from nbhelpers.core.images import fit, load_image, save_image
from nbhelpers.core.runs import file_stem, photos
from nbhelpers.core.video import Frames

VIDEO = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
FROM_VIDEO = 24  # views that a video gives at most
TRIED = 5  # frames of each stretch of a video of which the sharpest is taken


def views_of(source: str | Path | np.ndarray | Sequence[str | Path | np.ndarray], folder: str | Path) -> list[Path]:
    """The picture files of a scene.

    Example:
        >>> views_of("garden.mp4", "outputs/garden")[0].name
        'garden_000012.png'

    Args:
        source: a folder of photos, a glob, a list of photos or of arrays, or a video, of which `FROM_VIDEO` evenly
            spread stretches give their sharpest frame each.
        folder: where arrays and frames of a video are written; those that are there are taken as they are.

    Raises:
        NbHelpersError: nothing is there, or it cannot be read.
    """
    if not isinstance(source, (str, Path)):
        return photos(source, folder)
    path = Path(source).expanduser()
    if path.suffix.lower() not in VIDEO:
        found = photos(source)
        if len(found) == 1 and found[0].suffix.lower() in VIDEO:
            return views_of(found[0], folder)
        return found
    return _sharpest(path, Path(folder) / f"{file_stem(path.stem)}-{sha256(path)[:8]}")


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of a picture's brightness at 640 pixels: low where it is blurred.

    Source: Pech-Pacheco et al. 2000, doi 10.1109/ICPR.2000.903548.
    """
    grey = cv2.cvtColor(fit(image, 640), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _sharpest(path: Path, folder: Path) -> list[Path]:
    there = sorted(folder.glob("*.png"))
    frames = Frames(path, on_bad="hold")
    count = min(FROM_VIDEO, len(frames))
    if len(there) == count:
        return there
    edges = np.linspace(0, len(frames), count + 1).astype(int)
    out = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        tried = np.unique(np.linspace(start, stop - 1, min(TRIED, stop - start)).astype(int)).tolist()
        best = max(tried, key=lambda number: sharpness(frames[number]))
        out.append(save_image(folder / f"{file_stem(path.stem)}_{best:06d}.png", np.asarray(frames[best])))
    return out


class Pictures(Sequence):
    """Picture files as RGB arrays, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        return load_image(self.paths[number])
