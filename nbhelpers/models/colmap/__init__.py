"""Structure from motion, verified by a second run."""

from nbhelpers.models.colmap.estimator import ColmapEstimator, build

__all__ = ["ColmapEstimator", "build"]
