"""A segmenter whose embeddings are kept on disk, for work that sees the same frames again: training, comparisons."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.files import check_writable, replacing
from nbhelpers.models.adapters import model_signature
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding


class CachedSegmenter:
    """A segmenter that encodes each image once; all else is the segmenter's own.

    Embeddings are kept in half precision, about 9 MB each, and every caller gets the rounded ones, the first too: so
    results do not depend on what the cache held.

    Example:
        >>> segmenter = CachedSegmenter(nbhelpers.load("segmenter"), "outputs/embeddings")
        >>> segmenter.encode(image)                                   # a second; the next time a hundredth

    Args:
        segmenter: encodes and predicts.
        folder: where embeddings are kept, by model and content of the image; made if it is missing.

    Raises:
        NbHelpersError: the folder cannot be written.
    """

    def __init__(self, segmenter: Segmenter, folder: str | Path):
        self.segmenter, self.folder = segmenter, Path(folder).expanduser() / model_signature(segmenter)
        check_writable(self.folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.segmenter, name)

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """Features of an RGB image, from disk where they are there."""
        digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
        path = self.folder / f"{digest[:32]}.pt"
        if not path.is_file():
            with replacing(path) as temporary:
                self.segmenter.encode(image).save(temporary)
        return Embedding.open(path, self.segmenter.device)
