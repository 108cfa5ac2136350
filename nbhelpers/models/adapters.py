"""Shared code of the adapters of torch networks: reading a checkpoint, and the out-of-memory fallback to the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nbhelpers.core.device import MemoryWarning, is_out_of_memory, release_memory
from nbhelpers.core.errors import NbHelpersError

Result = TypeVar("Result")


def with_cpu_fallback(adapter: Any, run: Callable[[], Result]) -> Result:
    """Run without gradients; if the device runs out of memory, run again on the CPU.

    Args:
        adapter: has ``model`` (a torch module), ``device`` and ``name``; its model is moved to the CPU if necessary.
        run: reads ``adapter.device`` at each call.

    Raises:
        the errors of ``run``; out of memory only on the CPU.
    """
    import torch

    try:
        with torch.inference_mode():
            return run()
    except Exception as error:
        if not is_out_of_memory(error) or adapter.device == "cpu":
            raise
    warnings.warn(
        f"{adapter.device} is out of memory: {adapter.name} continues on the CPU", MemoryWarning, stacklevel=3
    )
    adapter.device = "cpu"
    adapter.model.to("cpu")
    release_memory()
    return with_cpu_fallback(adapter, run)


def read_weights(path: Path, expected: str) -> dict[str, Any]:
    """The tensors of a ``.safetensors``, ``.pt`` or ``.bin`` file, by name, on the CPU.

    Pickles are read with ``weights_only=True``, which refuses files that would run code.

    Args:
        path: the file.
        expected: description of the expected file, for the error.

    Raises:
        NbHelpersError: the file is damaged, would run code, or does not contain a dictionary.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return state
    except Exception as error:  # pickle, zip, safetensors and torch each raise their own
        raise NbHelpersError(
            "the checkpoint cannot be loaded",
            given=f"{path}: {str(error).splitlines()[0]}",
            expected=expected,
            do="download it again with nbhelpers fetch; files that run code when loaded are refused",
        ) from error
