"""Reading a checkpoint file without running what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError


def read_weights(path: Path, expected: str) -> dict[str, Any]:
    """What a ``.safetensors`` file, or a ``.pt`` or ``.bin`` file of tensors, holds; on the CPU.

    Pickles are read with ``weights_only=True``, so one that would run code is refused.

    Args:
        path: the file.
        expected: what the caller's errors should say that the file should have been.

    Raises:
        NbHelpersError: the file is damaged, would run code, or is no dictionary.
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
    except Exception as error:  # pickle, zip, safetensors and torch each have their own
        raise NbHelpersError(
            "the checkpoint cannot be loaded",
            given=f"{path}: {str(error).splitlines()[0]}",
            expected=expected,
            do="nbhelpers fetch its name again; a file that runs code when loaded is refused",
        ) from error
