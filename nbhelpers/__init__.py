"""Promptable segmentation for notebooks: click it, name it, follow it, find it again.

>>> from nbhelpers import ClickSession
>>> session = ClickSession("photo.jpg")
>>> session.click(320, 200)
>>> session.mask().shape
(480, 640)

The names below are loaded when they are first used, so that ``import nbhelpers`` costs next to nothing.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "ClickSession": "nbhelpers.segment",
    "Frames": "nbhelpers.core.video",
    "NbHelpersError": "nbhelpers.core.errors",
    "ProductMatcher": "nbhelpers.product_matching.batch",
    "ProductSession": "nbhelpers.product_matching.session",
    "Prompt": "nbhelpers.core.prompts",
    "PromptLog": "nbhelpers.core.prompts",
    "RotoSession": "nbhelpers.rotoscoping.session",
    "fetch": "nbhelpers.weights",
    "load": "nbhelpers.models.load",
    "load_image": "nbhelpers.core.images",
    "load_mask": "nbhelpers.core.masks",
    "sample": "nbhelpers.weights",
}

__all__ = list(_HOME_OF)

_load, __dir__ = lazily(__name__, _HOME_OF)


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        return version("nbhelpers")
    return _load(name)
