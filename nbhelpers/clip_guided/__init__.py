"""Name it, and it is segmented: a text encoder says where, a segmenter says exactly where.

>>> from nbhelpers import clip_guided
>>> result = clip_guided.segment(image, ["cat", "sofa", "wall"])
>>> result.instances                                    # supervision.Detections, masks that do not overlap
>>> print(result.budget)
23 prompts in 9 regions, 178 times fewer than a blind grid of 4096

`segment` returns a `ClipGuidedResult`; `diagnose` tells how the words of its vocabulary did; `ClipGuidedSession` lets a
person correct it by clicks; `run` works through a folder of photos.
"""

from nbhelpers.clip_guided.batch import run
from nbhelpers.clip_guided.pipeline import segment
from nbhelpers.clip_guided.report import diagnose
from nbhelpers.clip_guided.session import ClipGuidedSession
from nbhelpers.clip_guided.values import Budget, ClipGuidedResult, ClipGuidedSettings, Conflict, PlacedPrompt

__all__ = [
    "Budget",
    "ClipGuidedResult",
    "ClipGuidedSession",
    "ClipGuidedSettings",
    "Conflict",
    "PlacedPrompt",
    "diagnose",
    "run",
    "segment",
]
