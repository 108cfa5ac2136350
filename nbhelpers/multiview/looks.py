"""What cells of different photos are compared by: SAM 2's features, and the colour that its features leave out.

Photos of one scene are taken in one light, so that colour tells a pink mat from a grey one, which are both mats to the
features.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from nbhelpers.models.label_propagation.votes import FeatureMaps, feature_maps
from nbhelpers.multiview.order import Survey
from nbhelpers.multiview.views import Photos

COLOUR = 0.3  # of the similarity; the rest is the features'
FREQUENCIES = 32
ALIKE = (30.0, 12.0, 12.0)  # difference in L, a, b after which colours are no longer alike
NO_MEANS = (0.0, 0.0, 0.0)


def looks(photos: Photos, view: int, survey: Survey) -> FeatureMaps:
    """A photo's features as label propagation compares them, less the means, with colour joined to them.

    The joined vectors have length 1, so that their product is a weighted mean of two similarities: the cosine of the
    features, and a Gaussian of the colour difference.
    """
    import torch
    from torch.nn import functional

    maps = feature_maps(photos.segmenter, photos.embedding(view))
    coarse, *fine = (each.float() - survey.means[level] for level, each in enumerate(maps))
    features = functional.normalize(coarse, dim=2)
    colours = torch.from_numpy(random_features(photos.lab(view, len(features)))).to(features.device).permute(1, 2, 0)
    return [torch.cat([features * (1 - COLOUR) ** 0.5, colours * COLOUR**0.5], 2), *fine]


def random_features(lab: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "c h w"]:
    """Unit vectors whose products are a Gaussian of the distance of the colours (half width `ALIKE`).

    Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines", section 3.
    """
    directions = np.random.default_rng(0).standard_normal((3, FREQUENCIES)) / np.array(ALIKE)[:, None]
    phase = lab @ directions.astype(np.float32)
    waves = np.concatenate([np.cos(phase), np.sin(phase)], 2) / np.sqrt(np.float32(FREQUENCIES))
    return np.ascontiguousarray(waves.transpose(2, 0, 1).astype(np.float32))
