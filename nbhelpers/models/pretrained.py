"""Networks of ``transformers`` from verified local files, without downloads.

The files are those that ``save_pretrained`` writes and the hub provides, by role: ``config`` (config.json),
``checkpoint`` (model.safetensors), and for some models ``processor`` (preprocessor_config.json) and a tokenizer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import read_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
