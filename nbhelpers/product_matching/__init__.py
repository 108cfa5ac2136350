"""Product matching: segment a product in one photo and find the same product in all others.

>>> from nbhelpers.product_matching import ProductMatcher, ProductSession
>>> for result in ProductMatcher().run("shelf/", "shelf/1.jpg", (250, 300)):
...     print(result.photo.name, result.status, round(result.score, 2))
>>> session = ProductSession("shelf/")                     # the same, step by step, with confirm and reject

`propose` segments objects similar to the references (a `panorama` tile by tile), `features` describes them, `match`
scores them and calibrates the threshold; `search` caches the proposals, and `report` writes the results.
`match_product` runs all of this and writes a folder; `load_settings` reads settings from a file and the environment.
The names below are loaded lazily.
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
