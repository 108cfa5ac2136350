"""Floor 2: which weights exist, how they arrive, and whether they are the right ones.

The names below are loaded when they are first used.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "Asset": "nbhelpers.zoo.catalog",
    "Model": "nbhelpers.zoo.catalog",
    "Sample": "nbhelpers.zoo.catalog",
    "fetch": "nbhelpers.zoo.fetching",
    "files": "nbhelpers.zoo.fetching",
    "find": "nbhelpers.zoo.catalog",
    "here": "nbhelpers.zoo.fetching",
    "models": "nbhelpers.zoo.catalog",
    "path_of": "nbhelpers.zoo.fetching",
    "sample": "nbhelpers.zoo.fetching",
}

__all__ = ["Asset", "Model", "Sample", "fetch", "files", "find", "here", "models", "path_of", "sample"]

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
