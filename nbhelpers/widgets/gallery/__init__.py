"""The widget of product matching: what was found in each photo, to confirm or reject."""

from nbhelpers.widgets.gallery.widget import GalleryWidget

__all__ = ["GalleryWidget"]
