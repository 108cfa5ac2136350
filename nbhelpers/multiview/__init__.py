"""The same object in every photo of a scene, from a click, a box, a mask or a phrase.

>>> from nbhelpers.multiview import ViewsSession
>>> session = ViewsSession(sorted(Path("photos").glob("*.jpg")))
>>> session.click(0, 320, 200)                               # on the first photo
>>> views = session.solve()
>>> views.mask(4), views.consistency(4).why

The names below are loaded when they are first used.
"""

from importlib import import_module

_HOME_OF = {
    "Consistency": "nbhelpers.multiview.values",
    "MultiviewSegmenter": "nbhelpers.multiview.segmenter",
    "Photos": "nbhelpers.multiview.views",
    "Result": "nbhelpers.multiview.results",
    "View": "nbhelpers.multiview.values",
    "Views": "nbhelpers.multiview.values",
    "ViewsSession": "nbhelpers.multiview.session",
    "choose": "nbhelpers.multiview.choose",
    "parse": "nbhelpers.multiview.phrases",
    "run": "nbhelpers.multiview.batch",
    "save": "nbhelpers.multiview.outputs",
    "search": "nbhelpers.multiview.search",
}

__all__ = list(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module 'nbhelpers.multiview' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
