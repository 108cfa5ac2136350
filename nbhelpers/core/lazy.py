"""Imports that wait: names that are loaded when they are first used (PEP 562), and packages that an extra brings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from nbhelpers.core.errors import NbHelpersError


def lazily(package: str, home_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names live in modules that are imported when asked for.

    Example:
        >>> __getattr__, __dir__ = lazily(__name__, {"Prompt": "nbhelpers.core.prompts"})

    Args:
        package: its ``__name__``.
        home_of: the module of each name. No name may be that of a module of the package itself: importing that module
            would put it in the name's place.
    """

    def load(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return load, listed


def needs(extra: str, *modules: str) -> None:
    """Import packages that one of our extras brings, before a function uses them.

    Example:
        >>> needs("video", "av")

    Args:
        extra: its name in ``pyproject.toml``, that of the job at hand.
        modules: names as in an ``import`` statement.

    Raises:
        NbHelpersError: one cannot be imported; names the command that installs it.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise missing(extra, module, error) from error


def missing(extra: str, module: str, reason: object) -> NbHelpersError:
    """The error for a package that is not installed, or is there and cannot be imported."""
    return NbHelpersError(
        f"the package {module} is not installed", given=reason, do=f"pip install 'nbhelpers[{extra}]'"
    )
