"""What a torch adapter does when its device's memory is full: it goes on on the CPU, and says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from nbhelpers.core.compute import MemoryWarning, is_out_of_memory, release_memory

Result = TypeVar("Result")


def with_room(adapter: Any, run: Callable[[], Result]) -> Result:
    """Run without gradients; when the device's memory is full, once more on the CPU.

    Args:
        adapter: has ``model`` (a torch module), ``device`` and ``name``; its model is moved when memory is full.
        run: reads ``adapter.device`` anew at each call.

    Raises:
        whatever ``run`` raises; out of memory only on the CPU.
    """
    import torch

    try:
        with torch.inference_mode():
            return run()
    except Exception as error:
        if not is_out_of_memory(error) or adapter.device == "cpu":
            raise
    warnings.warn(
        f"the memory of {adapter.device} is full: {adapter.name} goes on on the CPU", MemoryWarning, stacklevel=3
    )
    adapter.device = "cpu"
    adapter.model.to("cpu")
    release_memory()
    return with_room(adapter, run)
