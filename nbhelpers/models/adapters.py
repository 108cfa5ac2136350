"""Shared code of the adapters: reading weights, ONNX sessions, and the out-of-memory fallback to the CPU."""

from __future__ import annotations

import os
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


def onnx_session(model: str | Path | bytes, device: str = "cpu") -> tuple[Any, str]:
    """A session of ONNX Runtime, and the device that it computes on: ``"cuda"`` where it can, else ``"cpu"``.

    It uses as many threads as ``OMP_NUM_THREADS`` says, which ONNX Runtime itself does not read, so that workers beside
    each other can share the cores; all cores where that is not set.

    Args:
        model: a file, or a serialized graph.
        device: the wanted one.
    """
    import onnxruntime

    cuda = device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of initializers that its own optimizer no longer needs
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads):
        options.intra_op_num_threads = int(threads)
    providers = ["CUDAExecutionProvider"] * cuda + ["CPUExecutionProvider"]
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=providers), "cuda" if cuda else "cpu"


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
