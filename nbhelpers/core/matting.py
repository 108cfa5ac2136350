"""The mattes of a whole clip, made one at a time when asked for."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import MatteSettings, combine, full_of, make_matte

NEUTRAL = MatteSettings()


class Mattes:
    """The matte of each frame of a clip, from its masks; nothing is computed before it is asked for.

    Example:
        >>> mattes = Mattes(frames, session.masks, MatteSettings(fill_holes=100, refine=8))
        >>> mattes.make(12).shape                                       # (480, 640) uint8
        (480, 640)

    Args:
        frames: the clip; see `nbhelpers.models.protocols.FrameSequence`.
        masks: a sequence, or a function of the frame's index. Each item is a mask ``(H, W) bool``; or a dictionary
            of masks by object; or, for frames without the object, None.
        settings: for all objects, or by object (others are left as they are).
        objects: which objects take part, if not all; their mattes become one.
        invert: the surroundings instead of the objects, e.g. to keep the scene and drop the people in it.

    Attributes:
        size: ``(H, W)`` of every matte.
        names: a file name for each frame: its own, or a numbered one.
        paths: the originals, or None where frames are no files.

    Masks of a clip opened with ``wrap`` (see `nbhelpers.core.video.Frames`) may have the wrapped or the true width;
    mattes have the true one. Several threads may ask at the same time; ``masks`` is called by one at a time.
    """

    def __init__(
        self,
        frames: Any,
        masks: Sequence | Callable[[int], Any],
        settings: MatteSettings | Mapping[Any, MatteSettings] = NEUTRAL,
        objects: Collection | None = None,
        invert: bool = False,
    ):
        if not callable(masks) and len(masks) != len(frames):
            raise NbHelpersError(
                "each frame needs its mask", given=f"{len(masks)} masks", expected=f"{len(frames)} frames"
            )
        self.frames, self.settings, self.invert = frames, settings, invert
        self.wrap = int(getattr(frames, "wrap", 0))
        self.size = frames.size[0], frames.size[1] - 2 * self.wrap
        names, paths = getattr(frames, "names", None), getattr(frames, "paths", None)
        self.names = [f"{index:06d}.png" for index in range(len(frames))] if names is None else list(names)
        self.paths = None if paths is None else [Path(path) for path in paths]
        self.objects = None if objects is None else tuple(objects)
        self._masks = masks if callable(masks) else masks.__getitem__
        self._lock = threading.Lock()
        self._packed: OrderedDict[int, dict[Any, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.frames)

    def only(self, objects: Collection) -> Mattes:
        """The mattes of some of the objects, e.g. to export each on its own."""
        return Mattes(self.frames, self._masks, self.settings, objects, self.invert)

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The frame itself, RGB, without the columns that ``wrap`` added."""
        image = self.frames[index]
        return image[:, self.wrap : image.shape[1] - self.wrap]

    def make(
        self, index: int, image: UInt8[np.ndarray, "h w 3"] | None = None, dtype: type | np.dtype = np.uint8
    ) -> Shaped[np.ndarray, "h w"]:
        """The matte of frame ``index``.

        Args:
            index: of the frame.
            image: the frame, where the caller has it already; else it is decoded if a setting needs it.
            dtype: ``uint8`` (0 to 255), ``uint16`` (0 to 65535) or ``float32`` (0 to 1).

        Raises:
            NbHelpersError: the frame's mask has another size or type; the message names the frame.
        """
        parts = list(self.make_each(index, image, dtype).values())
        matte = combine(parts) if parts else np.zeros(self.size, dtype)
        return full_of(dtype) - matte if self.invert else matte

    def make_each(
        self, index: int, image: UInt8[np.ndarray, "h w 3"] | None = None, dtype: type | np.dtype = np.uint8
    ) -> dict[Any, Shaped[np.ndarray, "h w"]]:
        """The matte of each object on frame ``index``, never inverted; arguments and errors as of `make`."""
        mattes = {}
        for name, mask in self._named(index).items():
            settings = self._settings(name)
            around = [(offset, self._named(index + offset).get(name)) for offset in self._offsets(index, settings)]
            near = [(offset, other) for offset, other in around if other is not None]
            if settings.needs_image and image is None:
                image = self.image(index)
            mattes[name] = make_matte(mask, settings, image, near, dtype)
        return mattes

    def signature(self, index: int) -> str:
        """A short text that changes when the matte of this frame would; needs no decoding."""
        sums = []
        for name, mask in self._named(index).items():
            settings = self._settings(name)
            window = [mask] + [self._named(index + offset).get(name) for offset in self._offsets(index, settings)]
            sums.append((name, settings, [None if part is None else zlib.crc32(np.packbits(part)) for part in window]))
        return f"{zlib.crc32(repr((self.size, self.invert, sums)).encode()):08x}"

    def _settings(self, name: Any) -> MatteSettings:
        return self.settings if isinstance(self.settings, MatteSettings) else self.settings.get(name, NEUTRAL)

    def _offsets(self, index: int, settings: MatteSettings) -> list[int]:
        near = range(-settings.steady, settings.steady + 1)
        return [offset for offset in near if offset and 0 <= index + offset < len(self)]

    def _named(self, index: int) -> dict[Any, np.ndarray]:
        """The masks of a frame by object, of the frame's true size; the latest are kept, packed to bits."""
        with self._lock:
            if index not in self._packed:
                self._packed[index] = {name: np.packbits(mask) for name, mask in self._fetch(index).items()}
                every = [self.settings] if isinstance(self.settings, MatteSettings) else self.settings.values()
                room = 4 + 2 * max((settings.steady for settings in every), default=0)
                while len(self._packed) > room:
                    self._packed.popitem(last=False)
            packed = self._packed[index]
        pixels = self.size[0] * self.size[1]
        return {
            name: np.unpackbits(bits, count=pixels).view(np.bool_).reshape(self.size) for name, bits in packed.items()
        }

    def _fetch(self, index: int) -> dict[Any, np.ndarray]:
        given = self._masks(index)
        if given is None:
            return {}
        masks = dict(given) if isinstance(given, Mapping) else {None: given}
        if self.objects is not None and isinstance(given, Mapping):
            masks = {name: mask for name, mask in masks.items() if name in self.objects}
        return {name: self._true_size(index, np.asarray(mask)) for name, mask in masks.items() if mask is not None}

    def _true_size(self, index: int, mask: np.ndarray) -> np.ndarray:
        wrapped = (self.size[0], self.size[1] + 2 * self.wrap)
        if mask.dtype != np.bool_ or mask.shape not in (self.size, wrapped):
            raise NbHelpersError(
                f"the mask of frame {index} does not fit the clip",
                given=f"{mask.shape} {mask.dtype}",
                expected=f"{self.size} bool",
            )
        if mask.shape == self.size:
            return mask
        from nbhelpers.core.video.wrap import fold_wrap

        return fold_wrap(mask, self.wrap)
