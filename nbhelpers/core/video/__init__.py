"""Clips as sequences of images: folders and video files, read lazily."""

from nbhelpers.core.video.frames import Frames

__all__ = ["Frames"]
