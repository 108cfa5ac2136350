"""The widget of rotoscoping: a clip, its objects, its time line."""

from nbhelpers.widgets.frames.widget import FramesWidget

__all__ = ["FramesWidget"]
