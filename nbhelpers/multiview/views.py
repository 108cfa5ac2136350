"""Photos of one scene, read when asked for, with their features on disk: memory does not grow with their number."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.orientation import UPRIGHT, orientation_of
from nbhelpers.core.runs import photos
from nbhelpers.models.label_propagation.votes import feature_maps
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding

KEPT = 6  # embeddings in memory, 17 MB each


class Photos:
    """Pictures by number, of any sizes, and the segmenter's embedding of each, computed once.

    Several sessions on the same photos share one of these, so that nothing is encoded twice.

    Example:
        >>> photos = Photos(["a.jpg", "b.jpg"])
        >>> photos.image(1).shape, photos.names
        ((480, 640, 3), ('a.jpg', 'b.jpg'))

    Args:
        images: files, RGB arrays ``(H, W, 3) uint8`` or whatever else `load_image` reads; a folder, or a glob.
        segmenter: a SAM 2; `nbhelpers.load` picks one when left out.
        names: one a picture; the files' names, or ``"view 0"`` and so on, when left out.

    Raises:
        NbHelpersError: no pictures, or names that do not fit.
    """

    def __init__(
        self,
        images: Any,
        segmenter: Segmenter | None = None,
        names: Sequence[str] | None = None,
    ):
        images = photos(images) if isinstance(images, (str, Path)) else images
        if not len(images):
            raise NbHelpersError("there are no photos", expected="at least one")
        self._sources = list(images)
        default = [Path(s).name if isinstance(s, (str, Path)) else f"view {i}" for i, s in enumerate(self._sources)]
        self.names = tuple(default if names is None else names)
        if len(self.names) != len(self._sources):
            raise NbHelpersError(
                "names and photos differ in number", given=f"{len(self.names)} names, {len(self)} photos"
            )
        if segmenter is None:
            from nbhelpers.models.load import load

            segmenter = load("segmenter")
        self.segmenter = segmenter
        self._sizes: dict[int, tuple[int, int]] = {}
        self._lab: dict[tuple[int, int], np.ndarray] = {}
        self._recent: OrderedDict[int, Embedding] = OrderedDict()
        self.survey: Any = None
        self._folder: Path | None = None

    def __len__(self) -> int:
        return len(self._sources)

    @cached_property
    def orientations(self) -> tuple[int, ...]:
        """EXIF orientation of each photo's file, 1 to 8; 1 of an array. The images themselves are upright."""
        return tuple(orientation_of(s) if isinstance(s, (str, Path)) else UPRIGHT for s in self._sources)

    def check(self, view: int) -> int:
        """The number itself if there is such a photo.

        Raises:
            NbHelpersError: there is none.
        """
        if not 0 <= view < len(self):
            raise NbHelpersError("there is no such view", given=view, expected=f"0 to {len(self) - 1}")
        return view

    def image(self, view: int) -> UInt8[np.ndarray, "h w 3"]:
        """A photo as RGB, read anew at each call."""
        image = load_image(self._sources[self.check(view)])
        self._sizes[view] = image.shape[:2]
        return image

    def size(self, view: int) -> tuple[int, int]:
        """``(H, W)`` of a photo."""
        if view not in self._sizes:
            self.image(view)
        return self._sizes[view]

    def lab(self, view: int, side: int) -> Float32[np.ndarray, "s s 3"]:
        """Mean CIE L*a*b* colour of each cell of a ``side`` x ``side`` grid over a photo."""
        if (view, side) not in self._lab:
            small = cv2.resize(self.image(view), (side, side), interpolation=cv2.INTER_AREA)
            self._lab[view, side] = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        return self._lab[view, side]

    def embedding(self, view: int) -> Embedding:
        """What the segmenter computed for a photo; rounded to half precision, so that a disk can keep it.

        Raises:
            NbHelpersError: the segmenter's features cannot be compared across photos.
        """
        if self.check(view) not in self._recent:
            while len(self._recent) >= KEPT:
                self._recent.popitem(last=False)
            self._recent[view] = self._read(view) or self._encode(view)
        self._recent.move_to_end(view)
        return self._recent[view]

    def _path(self, view: int) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="nbhelpers-views-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / f"{view}.pt"

    def _encode(self, view: int) -> Embedding:
        embedding = self.segmenter.encode(self.image(view))
        feature_maps(self.segmenter, embedding)
        embedding.save(self._path(view))
        return self._read(view)

    def _read(self, view: int) -> Embedding | None:
        path = self._path(view)
        return Embedding.open(path, self.segmenter.device) if path.is_file() else None
