"""Show a product once; find that very product in every other photo.

>>> from nbhelpers.product_matching import ProductMatcher, ProductSession
>>> for result in ProductMatcher().run("shelf/", "shelf/1.jpg", (250, 300)):
...     print(result.photo.name, result.status, round(result.score, 2))
>>> session = ProductSession("shelf/")                     # the same, step by step, with confirm and reject

`run` works through photos and leaves files and a page; `load_settings` reads settings from a file and the environment.
The names below are loaded when they are first used.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "Gallery": "nbhelpers.product_matching.gallery",
    "MatchedPhoto": "nbhelpers.product_matching.results",
    "ProductMatcher": "nbhelpers.product_matching.matcher",
    "ProductSession": "nbhelpers.product_matching.session",
    "Settings": "nbhelpers.product_matching.settings",
    "describe": "nbhelpers.product_matching.features",
    "load_settings": "nbhelpers.product_matching.options",
    "reopen": "nbhelpers.product_matching.saved",
    "run": "nbhelpers.product_matching.batch",
    "save_page": "nbhelpers.product_matching.page",
}

__all__ = [
    "Gallery",
    "MatchedPhoto",
    "ProductMatcher",
    "ProductSession",
    "Settings",
    "describe",
    "load_settings",
    "reopen",
    "run",
    "save_page",
]

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
