"""Cameras, points and what they see of each other: one value, and the files that hold it."""

from nbhelpers.core.scenes.scene import Scene

__all__ = ["Scene"]
