"""Label propagation: objects followed, and found in other photos, by an image segmenter's features alone."""

from nbhelpers.models.label_propagation.tracker import LabelPropagation, build

__all__ = ["LabelPropagation", "build"]
