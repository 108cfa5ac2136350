"""Show a product once; find that very product in every other photo.

>>> from nbhelpers.product_matching import ProductMatcher, ProductSession
>>> for result in ProductMatcher().run("shelf/", "shelf/1.jpg", (250, 300)):
...     print(result.photo.name, result.status, round(result.score, 2))
>>> session = ProductSession("shelf/")                     # the same, step by step, with confirm and reject

A session shows the way of a photo through the package: `propose` finds masks that resemble the references (a
`panorama` tile by tile), `features` describes them, `match` scores them and applies the threshold of `calibrate`;
`search` keeps the proposals in a cache, and `report` writes the results. `match_product` does all this into a folder;
`load_settings` reads settings from a file and the environment. The names below are loaded when they are first used.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "Gallery": "nbhelpers.product_matching.gallery",
    "MatchedPhoto": "nbhelpers.product_matching.report",
    "ProductMatcher": "nbhelpers.product_matching.batch",
    "ProductReport": "nbhelpers.product_matching.report",
    "ProductSession": "nbhelpers.product_matching.session",
    "ProductSettings": "nbhelpers.product_matching.settings",
    "describe_mask": "nbhelpers.product_matching.features",
    "load_settings": "nbhelpers.product_matching.settings",
    "match_product": "nbhelpers.product_matching.batch",
}

__all__ = list(_HOME_OF)

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
