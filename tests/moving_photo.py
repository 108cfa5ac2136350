"""A clip for the video trackers, and what their runs are compared by."""

import numpy as np
import torch


class MovingPhoto:
    """A photo of 160 x 120 pixels that moves to the right; notes which frames were decoded."""

    size = (120, 160)

    def __init__(self, photo, count):
        self.photo, self.count, self.decoded = photo, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.decoded.append(index)
        frame = np.roll(self.photo, 3 * index, axis=1)
        frame.setflags(write=False)
        return frame


def logits_of(tracked):
    """``{(frame, object): logits}`` of a run."""
    return {(t.frame, i): p.logits for t in tracked for i, p in t.predictions.items()}


def differing(ours, theirs):
    """The keys of `logits_of` whose logits differ."""
    return [key for key in ours if not np.array_equal(ours[key], theirs[key])]


def bytes_kept(value, seen=None):
    """Bytes of all tensors in a nest of values, each storage once."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif isinstance(value, dict):
        for item in value.values():
            bytes_kept(item, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            bytes_kept(item, seen)
    return sum(seen.values())
