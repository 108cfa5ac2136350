"""Lookup of all models and sample files by name, task and set.

Example:
    >>> find("sam2.1-hiera-large").task
    'segmenter'
    >>> [model.name for model in models("inpainter", "lite")]
    ['migan']

The rows are in `nbhelpers.weights.lite`, `official` and `samples`. Adding a model is one
row there and, for a new family, one adapter in ``nbhelpers/models``.
"""

from __future__ import annotations

import difflib
from functools import lru_cache

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.weights.lite import LITE
from nbhelpers.weights.official import OFFICIAL
from nbhelpers.weights.samples import SAMPLES
from nbhelpers.weights.sources import SETS, TASKS, Asset, Model, Sample

__all__ = [
    "SETS",
    "TASKS",
    "Asset",
    "Model",
    "Sample",
    "assets_of",
    "command_for",
    "find",
    "find_sample",
    "models",
    "samples",
]


def models(task: str | None = None, set: str | None = None) -> tuple[Model, ...]:
    """The models of a task or a set or both, the preferred one of each first.

    Raises:
        NbHelpersError: an unknown task or set.
    """
    for value, allowed, what in ((task, TASKS, "task"), (set, SETS, "set")):
        if value is not None and value not in allowed:
            raise NbHelpersError(f"there is no such {what}", given=value, expected=", ".join(allowed))
    return tuple(m for m in (*LITE, *OFFICIAL) if task in (None, m.task) and set in (None, m.set))


def samples() -> tuple[Sample, ...]:
    """The sample images, clips and related files."""
    return SAMPLES


def find(name: str) -> Model:
    """The model of that name.

    Raises:
        NbHelpersError: there is none; the message lists similar names.
    """
    for model in models():
        if model.name == name:
            return model
    raise _unknown("model", name, [model.name for model in models()])


def find_sample(name: str) -> Sample:
    """The sample of that file name, with or without its suffix.

    Raises:
        NbHelpersError: there is none; the message lists the names.
    """
    for sample in SAMPLES:
        if name in (sample.name, sample.name.rpartition(".")[0]):
            return sample
    raise _unknown("sample", name, [sample.name for sample in SAMPLES])


def assets_of(name: str) -> tuple[Asset, ...]:
    """The files of a model, a sample, or of all of ``"lite"``, ``"official"`` or ``"samples"``.

    Raises:
        NbHelpersError: an unknown name.
    """
    if name in SETS:
        return tuple(asset for model in models(set=name) for asset in model.assets)
    if name == "samples":
        return tuple(sample.asset for sample in SAMPLES)
    known = {model.name: model.assets for model in models()}
    known |= {sample.name.rpartition(".")[0]: (sample.asset,) for sample in SAMPLES}
    known |= {sample.name: (sample.asset,) for sample in SAMPLES}
    if name not in known:
        raise _unknown("model or sample", name, [*known, *SETS, "samples"])
    return known[name]


def command_for(asset: Asset) -> str:
    """The command that fetches a file."""
    return f"nbhelpers fetch {_owners().get(asset.file, asset.file)}"


@lru_cache(maxsize=1)
def _owners() -> dict[str, str]:
    owners = {sample.asset.file: sample.name for sample in SAMPLES}
    for model in models():
        for asset in model.assets:
            owners.setdefault(asset.file, model.name)
    return owners


def _unknown(what: str, name: str, known: list[str]) -> NbHelpersError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return NbHelpersError(
        f"there is no {what} of this name",
        given=name,
        expected=f"perhaps {', '.join(near)}" if near else None,
        do="`nbhelpers doctor` lists the models",
    )
