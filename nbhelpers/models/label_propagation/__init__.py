"""Label propagation: objects tracked through a clip, or across photos, by an image segmenter's features alone."""

from nbhelpers.models.label_propagation.tracker import LabelPropagation, build

__all__ = ["LabelPropagation", "build"]
