"""Shared code of the adapters: reading weights, ONNX sessions, precision, fallback to the CPU, embeddings on disk.

Networks of ``transformers`` are read from verified local files, without downloads. The files are those that
``save_pretrained`` writes and the hub provides, by role: ``config`` (config.json), ``checkpoint`` (model.safetensors),
and for some models ``processor`` (preprocessor_config.json) and a tokenizer.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

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
from nbhelpers.core.lazy import needs
from nbhelpers.models.protocols import FeatureSegmenter
from nbhelpers.models.values import Embedding

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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

    def __init__(self, segmenter: FeatureSegmenter, folder: str | Path):
        self.segmenter, self.folder = segmenter, Path(folder).expanduser() / model_signature(segmenter)
        # set here, since isinstance disregards __getattr__ from Python 3.12 on
        self.name, self.features = segmenter.name, segmenter.features
        self.predict, self.predict_points = segmenter.predict, segmenter.predict_points
        check_writable(self.folder)

    @property
    def device(self) -> str:
        """Where the segmenter computes."""
        return self.segmenter.device

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


def load_network(name: str, files: Mapping[str, Path], networks: Mapping[str, str]) -> Any:
    """A network with all its weights, on the CPU.

    Example:
        >>> load_network("dinov2-small", files, {"dinov2": "Dinov2Model"})

    Args:
        name: catalog name, for the errors.
        files: ``config`` and ``checkpoint``.
        networks: class of ``transformers`` for each ``model_type`` of a configuration that is accepted.
            A checkpoint may hold more than the network, e.g. that of a tracker for the network for photos.

    Raises:
        NbHelpersError: the files are damaged, of another network, or do not belong together.
    """
    config = read_config(name, files, networks)
    state = read_weights(files["checkpoint"], f"model.safetensors of {name}")
    return fill_network(name, networks[config.model_type], config, state)


def read_config(name: str, files: Mapping[str, Path], networks: Mapping[str, str]) -> Any:
    """The configuration, of one of the ``model_type`` in ``networks``; raises as `load_network`."""
    needs("official", "transformers")
    from transformers import AutoConfig

    with _as_loading_error(name, files["config"], "config.json"):
        config = AutoConfig.from_pretrained(files["config"], local_files_only=True)
    if config.model_type not in networks:
        raise NbHelpersError(
            "the configuration is of another network",
            given=f"{files['config']}: {config.model_type}",
            expected=f"{' or '.join(networks)}, for {name}",
            do=f"nbhelpers fetch {name}",
        )
    return config


def fill_network(name: str, network: str, config: Any, state: dict[str, torch.Tensor]) -> Any:
    """The network of a class of ``transformers`` with these weights.

    ``transformers`` knows the older names of parameters and renames them.

    Raises:
        NbHelpersError: parameters are missing or have another size.
    """
    import transformers

    try:
        with _quietly():
            model, loaded = getattr(transformers, network).from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
    else:
        missing = sorted(loaded["missing_keys"]) + [str(key) for key in loaded["mismatched_keys"]]
        reason = f"{len(missing)} parameters are missing or have another size, first {missing[0]}" if missing else ""
    if reason:
        raise NbHelpersError(
            "the weights do not fit the network",
            given=f"{name}: {reason}",
            expected="model.safetensors and config.json of one model",
            do=f"nbhelpers fetch {name}",
        )
    return model


def load_processor(name: str, files: Mapping[str, Path], processor: str) -> Any:
    """The publisher's preprocessing: a class of ``transformers`` with the settings of ``files["processor"]``.

    Raises:
        NbHelpersError: the file is damaged.
    """
    import transformers

    with _as_loading_error(name, files["processor"], "preprocessor_config.json"):
        settings = json.loads(files["processor"].read_text(encoding="utf-8"))
        return getattr(transformers, processor).from_dict(settings)


def load_tokenizer(name: str, files: Mapping[str, Path], length: int, padding: int, vocabulary: int) -> Any:
    """The tokenizer of ``files["tokenizer"]`` (tokenizer.json), which pads and cuts texts to ``length`` tokens.

    Args:
        name: catalog name, for the errors.
        files: by role.
        length: tokens of every text.
        padding: the token that fills up.
        vocabulary: how many tokens the network knows.

    Raises:
        NbHelpersError: the file is damaged, or has more tokens than the network.
    """
    needs("official", "tokenizers")
    from tokenizers import Tokenizer

    with _as_loading_error(name, files["tokenizer"], "tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(files["tokenizer"]))
    if tokenizer.get_vocab_size() > vocabulary:
        raise NbHelpersError(
            "the tokenizer is of another network",
            given=f"{files['tokenizer']}: {tokenizer.get_vocab_size()} tokens",
            expected=f"at most {vocabulary}, for {name}",
            do=f"nbhelpers fetch {name}",
        )
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=padding)
    return tokenizer


def processed(
    processor: Any, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], size: tuple[int, int], device: str
) -> Float[Tensor, "b 3 h w"]:
    """Pictures stretched to ``(h, w)`` pixels and normalised by the publisher's own processor."""
    writable = [image if image.flags.writeable else image.copy() for image in images]  # torch shares no others
    batch = processor(
        writable,
        size={"height": size[0], "width": size[1]},
        do_center_crop=False,
        input_data_format="channels_last",
        return_tensors="pt",
    )
    return batch["pixel_values"].to(device)


@contextlib.contextmanager
def _as_loading_error(name: str, path: Path, expected: str) -> Iterator[None]:
    """json, safetensors and ``transformers`` each have their own exceptions; here they become one error."""
    try:
        yield
    except Exception as error:
        raise NbHelpersError(
            "the checkpoint cannot be loaded",
            given=f"{path}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}",
            expected=f"{expected} of {name}",
            do=f"nbhelpers fetch {name}",
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide the progress bar of ``transformers``: loading takes half a second."""
    from transformers.utils import logging as hub

    shown = hub.is_progress_bar_enabled()
    hub.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hub.enable_progress_bar()
