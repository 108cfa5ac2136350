"""Shared code of the adapters: reading weights, ONNX sessions, precision, fallback to the CPU, embeddings on disk."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.device import (
    MemoryWarning,
    PrecisionWarning,
    autocast,
    half_precision,
    is_out_of_memory,
    release_memory,
)
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import check_writable, replacing
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Embedding

if TYPE_CHECKING:
    import torch

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


def precision_of(adapter: Any) -> AbstractContextManager[None]:
    """A context in which an adapter's network computes in the adapter's precision; see `half_precision`."""
    return autocast(adapter.device, getattr(adapter, "precision", None))


def in_precision(adapter: Any, run: Callable[[], Result], precision: str | None = None) -> Result:
    """`with_cpu_fallback` in the adapter's precision; once more in float32 if half precision overflowed.

    Args:
        adapter: see `with_cpu_fallback`; its ``precision``, if any, is an argument of `half_precision`.
        run: returns tensors, arrays, or containers of them.
        precision: instead of the adapter's.
    """

    def in_its_precision() -> Result:
        wanted = precision or getattr(adapter, "precision", None)
        with autocast(adapter.device, wanted):
            result = run()
        if half_precision(adapter.device, wanted) is None or _is_finite(result):
            return result
        warnings.warn(
            f"half precision overflowed: {adapter.name} computed this step again in float32",
            PrecisionWarning,
            stacklevel=4,
        )
        return run()

    return with_cpu_fallback(adapter, in_its_precision)


def _is_finite(value: Any) -> bool:
    """Whether no tensor or array in a value has NaN or infinity."""
    if isinstance(value, Mapping):
        return all(_is_finite(each) for each in value.values())
    if isinstance(value, (tuple, list)):
        return all(_is_finite(each) for each in value)
    if hasattr(value, "tensors"):  # an embedding
        return _is_finite(value.tensors)
    if hasattr(value, "isfinite"):
        return bool(value.isfinite().all())
    return not isinstance(value, np.ndarray) or value.dtype.kind != "f" or bool(np.isfinite(value).all())


def with_precision(adapter: Any, precision: str) -> Any:
    """A copy of an adapter that computes in another precision with the same network."""
    other = copy.copy(adapter)
    if hasattr(adapter, "segmenter"):
        other.segmenter = with_precision(adapter.segmenter, precision)
    else:
        other.precision = precision
    return other


def precision_name(adapter: Any) -> str:
    """``"float32"``, ``"bfloat16"`` or ``"float16"``: the precision in which an adapter computes."""
    half = half_precision(getattr(adapter, "device", "cpu"), getattr(adapter, "precision", None))
    return "float32" if half is None else str(half).removeprefix("torch.")


def model_signature(adapter: Any) -> str:
    """An adapter's name for signatures of caches, with its precision on a CPU unless that is float32."""
    precision = precision_name(adapter)
    on_cpu = getattr(adapter, "device", "cpu") == "cpu"
    return f"{adapter.name} ({precision})" if on_cpu and precision != "float32" else adapter.name


def onnx_session(model: str | Path | bytes, device: str = "cpu") -> tuple[Any, str]:
    """A session of ONNX Runtime, and the device that it computes on: ``"cuda"`` where it can, else ``"cpu"``.

    It uses as many threads as ``OMP_NUM_THREADS`` says, which ONNX Runtime itself does not read, so that workers beside
    each other can share the cores; all cores where that is not set. Its threads wait without using a core where
    ``OMP_WAIT_POLICY`` is ``PASSIVE``.

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
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def moved(value: Any, device: str | torch.device) -> Any:
    """Nested dictionaries and lists with all tensors moved to ``device``."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return type(value)((key, moved(item, device)) for key, item in value.items())
    return [moved(item, device) for item in value] if isinstance(value, list) else value


def packed(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array that NumPy can save; bfloat16 is stored as uint16."""
    import torch

    tensor = tensor.detach().cpu()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def unpacked(array: np.ndarray, device: str) -> torch.Tensor:
    """The inverse of `packed`."""
    import torch

    tensor = torch.from_numpy(array.copy())
    return (tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor).to(device)


class CachedSegmenter:
    """A segmenter that encodes each image once; all else is the segmenter's own.

    Embeddings are kept in half precision, about 9 MB each, and every caller gets the rounded ones, the first too: so
    results do not depend on what the cache held.

    Example:
        >>> segmenter = CachedSegmenter(nbhelpers.load("segmenter"), "outputs/embeddings")
        >>> segmenter.encode(image)                                   # a second; the next time a hundredth

    Args:
        segmenter: encodes and predicts.
        folder: where embeddings are kept, by model and content of the image; made if it is missing.

    Raises:
        NbHelpersError: the folder cannot be written.
    """

    def __init__(self, segmenter: Segmenter, folder: str | Path):
        self.segmenter, self.folder = segmenter, Path(folder).expanduser() / model_signature(segmenter)
        check_writable(self.folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.segmenter, name)

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """Features of an RGB image, from disk where they are there."""
        digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
        path = self.folder / f"{digest[:32]}.pt"
        if not path.is_file():
            with replacing(path) as temporary:
                self.segmenter.encode(image).save(temporary)
        return Embedding.open(path, self.segmenter.device)
