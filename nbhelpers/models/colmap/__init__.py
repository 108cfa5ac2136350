"""Cameras and points of photos by structure from motion, checked by a second run."""

from nbhelpers.models.colmap.estimator import ColmapEstimator, build

__all__ = ["ColmapEstimator", "build"]
