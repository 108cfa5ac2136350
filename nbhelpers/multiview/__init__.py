"""The same object in every photo of a scene, from a click, a box, a mask or a phrase.

>>> from nbhelpers.multiview import ViewsSession
>>> session = ViewsSession(sorted(Path("photos").glob("*.jpg")))
>>> session.click(0, 320, 200)                               # on the first photo
>>> views = session.solve()
>>> views.mask(4), views.consistency(4).why

The names below are loaded when they are first used.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "Consistency": "nbhelpers.multiview.values",
    "MultiviewSegmenter": "nbhelpers.multiview.segmenter",
    "Photos": "nbhelpers.multiview.views",
    "Result": "nbhelpers.multiview.results",
    "View": "nbhelpers.multiview.values",
    "Views": "nbhelpers.multiview.values",
    "ViewsSession": "nbhelpers.multiview.session",
    "parse": "nbhelpers.multiview.phrases",
    "run": "nbhelpers.multiview.batch",
    "save": "nbhelpers.multiview.outputs",
}

__all__ = list(_HOME_OF)

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
