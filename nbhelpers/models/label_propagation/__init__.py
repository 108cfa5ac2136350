"""Label propagation: tracking of objects through a clip, or across photos, by the features of an image segmenter."""

from nbhelpers.models.label_propagation.tracker import LabelPropagation, build

__all__ = ["LabelPropagation", "build"]
