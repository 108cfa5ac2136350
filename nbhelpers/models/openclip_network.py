"""CLIP's two towers as ``open_clip`` builds them: features of each patch, vectors of sentences, weights from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float, Int

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.models.dense import DenseSettings
from nbhelpers.models.weights import read_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PLAIN_MODEL = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
PLAIN_VISION = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "ls_init_value"}
PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"}
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # numbers that OpenAI's own files carry along


def patch_features(
    visual: torch.nn.Module, pixels: Float[Tensor, "b 3 H W"], settings: DenseSettings
) -> Float[Tensor, "b h w d"]:
    """Features of each patch in the space of the texts, the last block attending as ``settings.attention`` says.

    What is left over at the right and the bottom is no whole patch and is not seen, as in CLIP's own convolution.

    Args:
        visual: ``open_clip.transformer.VisionTransformer``.
        pixels: normalised; at least one patch in each direction.
        settings: ``attention`` and ``gaussian_std`` count here.

    Source: ``VisionTransformer.forward`` of the reference implementations of SCLIP (arXiv 2312.01597; the block is
    kept, only its attention differs) and NACLIP (arXiv 2404.08181; "reduced": attention alone, without the residual
    and without the MLP).
    """
    import torch

    patches = visual.conv1(pixels)
    grid = patches.shape[-2:]
    tokens = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], 1)
    tokens = visual.ln_pre(tokens + positions(visual, grid))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    attended = attend(last.attn, last.ln_1(tokens), grid, settings)
    if settings.attention == "naclip":
        tokens = attended
    else:
        tokens = tokens + last.ls_1(attended)
        tokens = tokens + last.ls_2(last.mlp(last.ln_2(tokens)))
    return (visual.ln_post(tokens) @ visual.proj)[:, 1:].unflatten(1, grid)


def attend(
    attention: torch.nn.MultiheadAttention,
    tokens: Float[Tensor, "b t c"],
    grid: tuple[int, int],
    settings: DenseSettings,
) -> Float[Tensor, "b t c"]:
    """Self-attention with the trained projections and another choice of who attends to whom.

    With ``s`` = 1 / sqrt(head width)::

        clip     softmax(s q k^T) v
        sclip    softmax(s q q^T) v + softmax(s k k^T) v                weights sum to 2
        naclip   softmax(s k k^T + w) v                                 w: `neighbourhood`

    Args:
        attention: of the last block.
        tokens: the class token, then ``grid`` patches row by row.
        grid: ``(h, w)`` in patches.
        settings: ``attention`` and ``gaussian_std`` count here.
    """
    from torch.nn import functional

    joint = functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in joint.chunk(3, dim=-1))
    sdpa = functional.scaled_dot_product_attention  # never holds the (t, t) weights of all heads in memory
    if settings.attention == "sclip":
        out = sdpa(q, q, v) + sdpa(k, k, v)
    elif settings.attention == "naclip":
        out = sdpa(k, k, v, attn_mask=neighbourhood(grid, settings.gaussian_std).to(k))
    else:
        out = sdpa(q, k, v)
    return attention.out_proj(out.transpose(1, 2).flatten(2))


def neighbourhood(grid: tuple[int, int], std: float) -> Float[Tensor, "t t"]:
    """What NACLIP adds to the logits: exp(-d^2 / (2 std^2)) for patches ``d`` apart, 0 for the class token.

    Args:
        grid: ``(h, w)`` in patches; ``t`` = 1 + h w.
        std: in patches.
    """
    import torch

    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    squares = (places[:, None] - places).square().sum(-1)
    return torch.nn.functional.pad(torch.exp(-squares / (2 * std**2)), (1, 0, 1, 0))


def positions(visual: torch.nn.Module, grid: tuple[int, int]) -> Float[Tensor, "t c"]:
    """Position embeddings of the class token and of ``grid`` patches: as trained, or interpolated (bicubic)."""
    import torch

    trained = visual.positional_embedding
    if tuple(grid) == tuple(visual.grid_size):
        return trained
    square = trained[1:].T.unflatten(1, visual.grid_size)[None]
    square = torch.nn.functional.interpolate(square, grid, mode="bicubic")
    return torch.cat([trained[:1], square[0].flatten(1).T])


def encode_text(model: torch.nn.Module, tokens: Int[Tensor, "n context"]) -> Float[Tensor, "n d"]:
    """What ``model.encode_text`` gives, in a fifth of the time for short sentences.

    No token sees those after it, so all after the longest sentence's end are left out.
    """
    import torch

    ends = tokens.argmax(1)  # the end of a text is the highest number of the vocabulary
    length = int(ends.max()) + 1
    states = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    return states[torch.arange(len(states), device=states.device), ends] @ model.text_projection


def sentences(name: str, templates: tuple[str, ...] | None = None) -> list[str]:
    """The name in each of the templates; None: the 80 of OpenAI for ImageNet, which ``open_clip`` carries."""
    if templates is not None:
        return [template.replace("{}", name) for template in templates]
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template(name) for template in OPENAI_IMAGENET_TEMPLATES]


def build_model(architecture: str) -> torch.nn.Module:
    """The untrained network of an ``open_clip`` architecture, on the CPU.

    ``open_clip.create_model`` would do the same, but may go to the network for its towers.

    Raises:
        NbHelpersError: ``open_clip`` is not installed, or the architecture is unknown or not made of plain towers.
    """
    needs("text", "open_clip")
    import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None or not _is_plain(config):
        plain = [name for name in open_clip.list_models() if _is_plain(open_clip.get_model_config(name))]
        raise NbHelpersError(
            "open_clip has no such model" if config is None else "this model is not a plain vision transformer",
            given=architecture,
            expected=f"one of {', '.join(plain)}",
        )
    return open_clip.CLIP(**config)


def _is_plain(config: dict) -> bool:
    vision, text = config["vision_cfg"], config["text_cfg"]
    known = set(config) <= PLAIN_MODEL and set(vision) <= PLAIN_VISION and set(text) <= PLAIN_TEXT
    return known and isinstance(vision["layers"], int)


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a state dict as OpenCLIP saves it; one inside a training checkpoint is found.

    Raises:
        NbHelpersError: the file is damaged, would run code (see `read_weights`), or is of another model.
    """
    state = read_weights(path, "a state dict as OpenCLIP saves it (OpenAI's own .pt files are programs, not weights)")
    state = state.get("state_dict", state)
    if not isinstance(state, dict):
        raise NbHelpersError(
            "the checkpoint is of another model", given=path, expected="the weights of this very model"
        )
    state = {key.removeprefix("module."): value for key, value in state.items() if key not in NOT_WEIGHTS}
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # names, shapes, or no tensors at all
        raise NbHelpersError(
            "the checkpoint is of another model",
            given=f"{path}: {str(error).splitlines()[min(1, len(str(error).splitlines()) - 1)].strip()[:300]}",
            expected="the weights of this very model",
        ) from error
