"""The same object in every photo of a scene, from a click, a box, a mask or a phrase.

>>> from nbhelpers.multiview import ViewsSession
>>> session = ViewsSession(sorted(Path("photos").glob("*.jpg")))
>>> session.click(320, 200, view=0)                               # on the first photo
>>> views = session.solve()
>>> views.mask(4), views.consistency(4).why

The names below are loaded lazily.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "Consistency": "nbhelpers.multiview.consistency",
    "MultiviewResult": "nbhelpers.multiview.results",
    "MultiviewSegmenter": "nbhelpers.multiview.pipeline",
    "Photos": "nbhelpers.multiview.views",
    "ViewMask": "nbhelpers.multiview.consistency",
    "ViewMasks": "nbhelpers.multiview.consistency",
    "ViewsSession": "nbhelpers.multiview.session",
    "parse_phrase": "nbhelpers.multiview.referring",
    "save_result": "nbhelpers.multiview.results",
    "segment_scene": "nbhelpers.multiview.pipeline",
}

__all__ = list(_HOME_OF)

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
