"""Masks of many frames in little memory."""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Float32

LOGIT_STEPS = 8  # of a packed mask per unit of logits


class PackedMasks:
    """Low-resolution logits by frame, quantised to eighths between -15 and 15 and compressed: about 10 kB each."""

    def __init__(self):
        self._packed: dict[int, tuple[tuple[int, int], bytes]] = {}

    def __setitem__(self, frame: int, logits: Float32[np.ndarray, "s s"]) -> None:
        steps = np.clip(np.rint(logits * LOGIT_STEPS), -15 * LOGIT_STEPS, 15 * LOGIT_STEPS).astype(np.int8)
        self._packed[frame] = (logits.shape, zlib.compress(steps.tobytes(), 1))

    def __getitem__(self, frame: int) -> Float32[np.ndarray, "s s"]:
        shape, packed = self._packed[frame]
        return np.frombuffer(zlib.decompress(packed), np.int8).reshape(shape).astype(np.float32) / LOGIT_STEPS

    def __contains__(self, frame: int) -> bool:
        return frame in self._packed

    def drop(self, frame: int) -> None:
        """Drop a frame's logits, if there are any."""
        self._packed.pop(frame, None)
