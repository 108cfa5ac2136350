"""The model catalog: available weights, downloads and verification.

The names below are loaded lazily.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "Asset": "nbhelpers.weights.catalog",
    "Model": "nbhelpers.weights.catalog",
    "Sample": "nbhelpers.weights.catalog",
    "fetch": "nbhelpers.weights.cache",
    "files": "nbhelpers.weights.cache",
    "find": "nbhelpers.weights.catalog",
    "here": "nbhelpers.weights.cache",
    "models": "nbhelpers.weights.catalog",
    "path_of": "nbhelpers.weights.cache",
    "sample": "nbhelpers.weights.cache",
}

__all__ = ["Asset", "Model", "Sample", "fetch", "files", "find", "here", "models", "path_of", "sample"]

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
