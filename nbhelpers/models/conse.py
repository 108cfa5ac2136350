"""Dense ConSE: ImageNet classes at each place of a photo, carried to any name by the meaning of words.

Norouzi et al. 2014, arXiv 1312.5650, made dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.imagenet import STRIDE, DenseClassifier, class_texts
from nbhelpers.models.minilm import SentenceEncoder
from nbhelpers.models.protocols import ClassMap


@dataclass(frozen=True)
class ConseSettings:
    """Constants of the recipe."""

    scales: tuple[int, ...] = (320, 512, 768)
    unlike: float = 0.35
    presence: float = 1.0
    side: int = 128


class ConseTextEncoder:
    """Thin line."""

    def __init__(self, classifier, sentences, settings=ConseSettings(), name="conse-lite", device="cpu"):  # noqa: B008
        self.classifier, self.sentences, self.settings = classifier, sentences, settings
        self.name, self.device = name, device
        lemmas, definitions = class_texts()
        self.classes = sentences([f"{a}: {b}" for a, b in zip(lemmas, definitions, strict=True)])

    def dense(self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]]) -> ClassMap:
        """Thin line."""
        groups = [[name] if isinstance(name, str) else list(name) for name in names]
        if not groups:
            raise NbHelpersError("the vocabulary is empty")
        flat = [name for group in groups for name in group]
        carry = np.clip(self.sentences(flat) @ self.classes.T - self.settings.unlike, 0, None)
        carry /= carry.sum(1, keepdims=True) + 1e-6
        h, w = image.shape[:2]
        scale = self.settings.side / max(h, w)
        grid = max(1, round(h * scale)), max(1, round(w * scale))
        total = np.zeros((len(groups), *grid), np.float32)
        for side in self.settings.scales:
            size = tuple(max(STRIDE, round(v * side / max(h, w) / STRIDE) * STRIDE) for v in (h, w))
            logits = self.classifier.logits(image, size)
            p = np.exp(logits - logits.max(0))
            p /= p.sum(0)
            score = np.einsum("nc,chw->nhw", carry, p)
            start = 0
            for index, group in enumerate(groups):
                total[index] += cv2.resize(
                    score[start : start + len(group)].max(0), grid[::-1], interpolation=cv2.INTER_LINEAR
                )
                start += len(group)
        total *= total.mean((1, 2), keepdims=True) ** self.settings.presence
        total += 1e-12
        total /= total.sum(0)
        return ClassMap(total, tuple(group[0] for group in groups), (h, w), self.name)


def build(name: str, files: dict[str, Path], device: str) -> ConseTextEncoder:
    """Build from the files of ``conse-lite``."""
    sentences = SentenceEncoder.from_files(files["text"], files["config"], files["tokenizer"])
    return ConseTextEncoder(DenseClassifier.from_file(files["classifier"]), sentences, name=name, device=device)
