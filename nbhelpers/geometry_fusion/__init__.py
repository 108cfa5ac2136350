"""Track an object with and without 3D geometry, side by side, trained and measured.

>>> from nbhelpers.geometry_fusion import GeometryTracker, compare_arms, geometry_source, load_merger, make_arms
>>> arms = make_arms(nbhelpers.load("tracker"), geometry_source("colmap"))
>>> comparison = compare_arms(arms, frames, Prompt([(180, 296)]))

`GeometryTracker` wraps a tracker and is one; `train` makes its merger; `render_clip` makes clips with ground truth. The
names below are loaded when they are first used.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "Comparison": "nbhelpers.geometry_fusion.comparison",
    "FeatureMerger": "nbhelpers.geometry_fusion.merger",
    "GeometryTracker": "nbhelpers.geometry_fusion.tracker",
    "PlaceKernel": "nbhelpers.geometry_fusion.merger",
    "SyntheticClip": "nbhelpers.geometry_fusion.synthetic",
    "TrainingConfig": "nbhelpers.geometry_fusion.training",
    "TrueMasks": "nbhelpers.geometry_fusion.comparison",
    "cloud_of_cells": "nbhelpers.geometry_fusion.geometry",
    "compare_arms": "nbhelpers.geometry_fusion.comparison",
    "falsify": "nbhelpers.geometry_fusion.geometry",
    "geometry_source": "nbhelpers.geometry_fusion.comparison",
    "inspect_checkpoint": "nbhelpers.geometry_fusion.merger",
    "load_merger": "nbhelpers.geometry_fusion.merger",
    "load_textures": "nbhelpers.geometry_fusion.synthetic",
    "make_arms": "nbhelpers.geometry_fusion.comparison",
    "measure_motion": "nbhelpers.geometry_fusion.geometry",
    "read_truth": "nbhelpers.geometry_fusion.comparison",
    "render_clip": "nbhelpers.geometry_fusion.synthetic",
    "train": "nbhelpers.geometry_fusion.training",
    "write_clip": "nbhelpers.geometry_fusion.synthetic",
    "write_comparison": "nbhelpers.geometry_fusion.comparison",
}

__all__ = list(_HOME_OF)

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
