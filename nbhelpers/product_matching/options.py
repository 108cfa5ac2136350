"""Settings from a file, the environment and arguments, in that order of growing weight."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.product_matching.settings import Settings

PREFIX = "NBHELPERS_"
NAMES = tuple(each.name for each in fields(Settings))


def load_settings(
    file: str | Path | None = None, environment: Mapping[str, str] | None = None, **arguments: Any
) -> Settings:
    """Settings whose values come from a file, the environment and arguments; the later ones win.

    Example:
        >>> load_settings("shelf.toml", top_k_matches=1).top_k_matches         # shelf.toml: TOP_K_MATCHES = 5
        1

    Args:
        file: TOML or JSON with names of `Settings`, in capitals or not.
        environment: ``NBHELPERS_SIMILARITY_THRESHOLD=0.7`` and the like; this process's when left out.
        **arguments: values by name; None counts as left out.

    Raises:
        NbHelpersError: a file that cannot be read, an unknown name, a value that makes no sense.
    """
    values = {} if file is None else _read(Path(file).expanduser())
    for name in NAMES:
        if text := (os.environ if environment is None else environment).get(PREFIX + name.upper()):
            values[name] = _parse(name, text)
    values |= {name: value for name, value in arguments.items() if value is not None}
    if unknown := [name for name in values if name not in NAMES]:
        raise NbHelpersError("there is no such setting", given=", ".join(unknown), expected=", ".join(NAMES))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return Settings(**values)
    except TypeError as error:
        raise NbHelpersError("a setting has a value of the wrong kind", given=values) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        return {name.lower(): value for name, value in values.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise NbHelpersError(
            "the settings cannot be read", given=f"{path}: {error}", expected="TOML or JSON with names and values"
        ) from error


def _parse(name: str, text: str) -> Any:
    default = getattr(Settings, name)
    try:
        if isinstance(default, bool):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(int(part) for part in text.split(","))
        return type(default)(text) if isinstance(default, (int, float)) else text
    except (KeyError, ValueError):
        raise NbHelpersError(f"{PREFIX}{name.upper()} cannot be read", given=text, expected=f"as {default!r}") from None
