"""Floor 2: which weights exist, how they arrive, and whether they are the right ones.

The names below are loaded when they are first used.
"""

from importlib import import_module

_HOME_OF = {
    "Asset": "catalog",
    "Model": "catalog",
    "Sample": "catalog",
    "fetch": "fetching",
    "files": "fetching",
    "find": "catalog",
    "here": "fetching",
    "models": "catalog",
    "path_of": "fetching",
    "sample": "fetching",
}

__all__ = ["Asset", "Model", "Sample", "fetch", "files", "find", "here", "models", "path_of", "sample"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'nbhelpers.zoo' has no attribute {name!r}")
    value = getattr(import_module(f"nbhelpers.zoo.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
