"""Embeddings kept on disk."""

import numpy as np
import torch
from test_label_propagation import ColourSegmenter

from nbhelpers.core.prompts import Prompt
from nbhelpers.models.cached import CachedSegmenter
from nbhelpers.models.protocols import FeatureSegmenter


def test_an_image_is_encoded_once_and_all_get_the_same(tmp_path):
    inner = ColourSegmenter()
    segmenter = CachedSegmenter(inner, tmp_path)
    assert isinstance(segmenter, FeatureSegmenter) and segmenter.name == "colours"
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    first, second = segmenter.encode(image), segmenter.encode(image.copy())
    assert inner.encoded == 1 and len(list(tmp_path.rglob("*.pt"))) == 1
    assert torch.equal(segmenter.features(first), segmenter.features(second))
    assert torch.allclose(segmenter.features(first), inner.features(inner.encode(image)), atol=1e-3)
    segmenter.encode(image[:, ::-1])
    assert inner.encoded == 3
    assert segmenter.predict(first, Prompt([(4, 4)])).best.shape == (20, 30)
