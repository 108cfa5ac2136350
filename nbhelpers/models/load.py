"""`load` selects, builds and caches the adapter of a task; `load_checkpoint` reads a SAM 2 checkpoint.

`check_accepted` is for weights whose licence a person has to accept first.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from nbhelpers.core.device import choose_device, choose_precision, multiply_by_onednn
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.adapters import with_precision
from nbhelpers.models.protocols import (
    Detector,
    FeatureSegmenter,
    Inpainter,
    Matcher,
    PatchEncoder,
    SceneEstimator,
    Segmenter,
    TextEncoder,
    Tracker,
)
from nbhelpers.weights import cache, catalog
from nbhelpers.weights.sources import SETS, TASKS, Model

Name: TypeAlias = str | None

_loaded: dict[tuple[str, str, str | None], Any] = {}
_lock = threading.RLock()
ACCEPTED = "NBHELPERS_ACCEPT"


@overload
def load(
    task: Literal["segmenter"], name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...
) -> FeatureSegmenter: ...
@overload
def load(
    task: Literal["tracker"], name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...
) -> Tracker: ...
@overload
def load(
    task: Literal["text_encoder"], name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...
) -> TextEncoder: ...
@overload
def load(
    task: Literal["detector"], name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...
) -> Detector: ...
@overload
def load(
    task: Literal["patch_encoder"], name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...
) -> PatchEncoder: ...
@overload
def load(
    task: Literal["scene_estimator"], name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...
) -> SceneEstimator: ...
@overload
def load(
    task: Literal["inpainter"], name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...
) -> Inpainter: ...
@overload
def load(
    task: Literal["matcher"], name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...
) -> Matcher: ...
@overload
def load(task: str, name: Name = ..., device: Name = ..., models: Name = ..., precision: Name = ...) -> Any: ...
def load(
    task: str,
    name: str | None = None,
    device: str | None = None,
    models: str | None = None,
    precision: str | None = None,
) -> Any:
    """The model for a task, built at the first call and cached.

    Example:
        >>> segmenter = nbhelpers.load("segmenter")                              # the best one available
        >>> segmenter = nbhelpers.load("segmenter", "sam2.1-hiera-large", device="cuda")

    Args:
        task: ``"segmenter"``; see `nbhelpers.weights.sources.TASKS`.
        name: a name of the catalog (``nbhelpers doctor`` lists them).
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; by default the best available.
        models: ``"lite"``, ``"official"`` or ``"auto"``; by default ``NBHELPERS_MODELS``, else ``"auto"``.
            ``"auto"`` selects an official model if it has been downloaded, else the lite one. A missing lite model is
            downloaded (up to a few hundred MB); an official one never is.
        precision: ``"float32"``, ``"bfloat16"`` or ``"auto"``; by default ``NBHELPERS_PRECISION``, else ``"auto"``:
            half precision on CUDA, and on a CPU that multiplies bfloat16 for the image encoder of label propagation.

    Raises:
        NbHelpersError: an unknown task, name, set or precision; a model that has not been downloaded; a damaged file; a
            device that does not multiply bfloat16.
    """
    entry = choose_model(task, name, models)
    device = choose_device(device)
    choose_precision(device, precision)
    with _lock:
        if precision is not None:
            key = entry.name, device, precision
            if key not in _loaded:
                _loaded[key] = with_precision(load(task, entry.name, device), precision)
            return _loaded[key]
        if (entry.name, device, None) not in _loaded:
            if entry.adapter is None:
                raise NbHelpersError(
                    "the model is in the catalog, but this version of nbhelpers cannot run it",
                    given=entry.name,
                    expected=f"one of {', '.join(m.name for m in catalog.models(task) if m.adapter) or 'none so far'}",
                )
            multiply_by_onednn()
            module, _, function = entry.adapter.partition(":")
            build = getattr(import_module(module), function)
            _loaded[entry.name, device, None] = build(entry.name, cache.files(entry), device, **entry.options)
        return _loaded[entry.name, device, None]


def choose_model(task: str, name: str | None = None, models: str | None = None) -> Model:
    """The catalog entry that `load` would build, without downloading or building it."""
    if task not in TASKS:
        raise NbHelpersError("unknown task", given=task, expected=f"one of {', '.join(TASKS)}")
    if name is not None:
        entry = catalog.find(name)
        if entry.task != task:
            raise NbHelpersError(
                "this model is for another task",
                given=f"{name}, a {entry.task}",
                expected=f"one of {', '.join(m.name for m in catalog.models(task))}",
            )
        return entry
    wanted = models or os.environ.get("NBHELPERS_MODELS") or "auto"
    if wanted not in (*SETS, "auto"):
        raise NbHelpersError("unknown set of models", given=wanted, expected="auto, lite or official")
    official, lite = catalog.models(task, "official"), catalog.models(task, "lite")
    present = [m for m in official if m.adapter and cache.here(m)] if wanted != "lite" else []
    candidates = present or (official if wanted == "official" else lite or official)
    if not candidates:
        raise NbHelpersError("the catalog has no such model", given=f"task {task}, set {wanted}")
    return candidates[0]


def unload() -> None:
    """Drop every loaded model and free its memory."""
    from nbhelpers.core.device import release_memory

    with _lock:
        _loaded.clear()
    release_memory()


def load_checkpoint(path: str | Path, config: str | None = None, device: str | None = None) -> Segmenter:
    """SAM 2 from a ``.pt`` or ``.safetensors`` file.

    Example:
        >>> load_checkpoint("checkpoints/sam2_hiera_large.pt", "sam2_hiera_l.yaml")

    Args:
        path: the file; also fine-tuned weights of the same network.
        config: the network's yaml in the ``sam2`` package, with or without its folder. It is optional if the file has
            the publisher's name.
        device: where it computes; by default the best available.

    Raises:
        NbHelpersError: a missing file, an unknown configuration, weights of another network.
    """
    path = Path(path).expanduser()
    known = {asset.file: model for model in catalog.models("segmenter", "official") for asset in model.assets}
    model = known.get(path.name)
    configs = {Path(m.options["config"]).name: m.options["config"] for m in known.values() if "config" in m.options}
    if not path.is_file():
        raise NbHelpersError(
            "the checkpoint does not exist",
            given=path,
            do=f"nbhelpers fetch {model.name if model else 'sam2.1-hiera-large'}",
        )
    if config is None and model is None:
        raise NbHelpersError(
            "the configuration cannot be inferred from the name of the checkpoint",
            given=path.name,
            expected="--model-cfg with one of " + ", ".join(configs),
        )
    chosen = configs.get(Path(config).name) if config is not None else model.options["config"] if model else None
    if chosen is None:
        raise NbHelpersError("unknown configuration", given=config, expected=", ".join(configs))
    from nbhelpers.models.sam2 import build

    multiply_by_onednn()
    name = model.name if model and model.options["config"] == chosen else path.name
    return build(name, {"checkpoint": path}, choose_device(device), config=chosen)


def check_accepted(name: str, licence: str, address: str) -> None:
    """Raise an error for a model with a restrictive licence unless ``NBHELPERS_ACCEPT`` names it.

    Raises:
        NbHelpersError: it does not; the message gives the licence and its address.
    """
    accepted = {each.strip() for each in os.environ.get(ACCEPTED, "").split(",")}
    if name not in accepted:
        raise NbHelpersError(
            "the licence of this model restricts its use and has not been accepted",
            given=f"{name}: {licence}",
            expected=f"read {address}",
            do=f"set {ACCEPTED}={name} if you accept it",
        )
