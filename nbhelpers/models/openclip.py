"""Open-vocabulary dense prediction with any OpenCLIP vision transformer, without training.

CLIP compares a whole photo with a text. For dense prediction each patch is compared with the texts, and the attention
of the last block is changed: in SCLIP (Wang et al. 2023, arXiv 2312.01597) patches attend to similar patches, in NACLIP
(Hajimiri et al. 2024, arXiv 2404.08181) to their neighbours. Network and tokenizer come from the package ``open_clip``,
weights from a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from nbhelpers.core.device import in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import free_memory, load_image
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import precision_of, read_weights, with_cpu_fallback
from nbhelpers.models.dense import (
    DenseSettings,
    as_classes,
    class_probabilities,
    pamr,
    region_attention,
    sliding_windows,
    stitch_windows,
)
from nbhelpers.models.values import ClassMap

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's training photos
WINDOWS = {"cpu": 4, "mps": 16, "cuda": 64}  # per batch
SENTENCES = 80
LATIN_ENDS = "\u024f"
log = logging.getLogger(__name__)
PLAIN_MODEL = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}
PLAIN_VISION = {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "ls_init_value"}
PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"}
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # scalars in OpenAI's files


class OpenClipTextEncoder:
    """Open-vocabulary dense prediction with CLIP; a `nbhelpers.models.protocols.TextEncoder`.

    Example:
        >>> encoder = nbhelpers.load("text_encoder", "openclip-vit-b-16")
        >>> encoder.dense(image, ["cat", ["grass", "lawn"]]).probabilities.shape      # (480, 640, 3) uint8
        (2, 336, 448)
        >>> encoder.dense(image, [BACKGROUND_WORDS, "cat", "dog"], PROTOCOLS["voc21"]).probabilities.shape
        (3, 480, 640)

    Text embeddings are cached. If the device runs out of memory, it continues with smaller batches, then on the CPU,
    and warns.

    Args:
        model: ``open_clip.CLIP`` with plain towers.
        name: its catalog name.
        device: where it computes.
        settings: defaults of `dense`.
        mean: of the training photos, RGB, 0 to 1.
        std: their standard deviation.
    """

    shows = 0.2
    """Cosine from which a photo shows a named object: usual for CLIP, whose cosines lie between 0.1 and 0.35."""

    def __init__(
        self,
        model: Any,
        name: str,
        device: str,
        settings: DenseSettings | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        from open_clip import SimpleTokenizer

        self.model = model.to(device).eval()
        self.name, self.device = name, device
        self.settings = settings or DenseSettings()
        self.mean, self.std = tuple(mean), tuple(std)
        self.tokenizer = SimpleTokenizer(context_length=model.context_length)
        self._texts: dict[tuple[str, tuple[str, ...] | None], Tensor] = {}

    def dense(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        names: Sequence[str | Sequence[str]],
        settings: DenseSettings | None = None,
        *,
        scope: Scope | None = None,
        adjust: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> ClassMap:
        """Probabilities over ``names`` at the size of the model's input (short side 336), or the photo's.

        Args:
            image: a photo of any size.
            names: the vocabulary; a class may have several names, of which the most probable counts. A single
                class has probability 1 everywhere, so add competing classes.
            settings: instead of the encoder's settings.
            scope: attend within regions, by the similarity of other features; replaces ``settings.attention``.
            adjust: changes the cosines ``(n, H, W)`` at the size of the model's input, given the ``(n, d)`` texts too.

        Raises:
            NbHelpersError: no names, the same class twice, a name that is too long, not enough memory.
        """
        settings = settings or self.settings
        classes = as_classes(names)
        flat = [name for group in classes for name in group]
        image = load_image(image)
        size = input_size(image.shape[:2], settings, self.model.visual.patch_size)
        _check_memory(len(flat), image.shape[:2] if settings.at_image_size else size, settings)
        texts = self.text_embeddings(flat, settings.templates)

        def run():
            pixels = self._pixels(image, size)
            logits = self._logits(pixels, texts.to(self.device), settings, scope)
            if adjust is not None:
                logits = adjust(logits, texts.to(self.device))
            if settings.at_image_size:
                logits, pixels = (_resize(values, image.shape[:2]) for values in (logits, pixels))
            if settings.pamr_steps:
                logits = pamr(pixels, logits, settings.pamr_steps, settings.pamr_dilations)
            return class_probabilities(logits, [len(group) for group in classes], settings).cpu().numpy()

        probabilities = with_cpu_fallback(self, run)
        return ClassMap(probabilities, tuple(group[0] for group in classes), image.shape[:2], self.name)

    def patch_map(
        self, image: UInt8[np.ndarray, "h w 3"], settings: DenseSettings | None = None, scope: Scope | None = None
    ) -> Float32[np.ndarray, "rows columns d"]:
        """Dense features of length 1 in the space of the texts, of the whole photo at once.

        Args:
            image: a photo of any size.
            settings: instead of the encoder's own; windows are not used.
            scope: see `dense`.
        """
        import torch

        settings = settings or self.settings
        image = load_image(image)
        size = input_size(image.shape[:2], settings, self.model.visual.patch_size)

        def run():
            pixels = self._pixels(image, size)
            weights = None if scope is None else scope.weights([(0, 0, *size)], size, self._grid(size))
            with precision_of(self):
                features = patch_features(self.model.visual, pixels[None], settings, weights)
            return torch.nn.functional.normalize(features[0].float(), dim=-1).cpu().numpy()

        return with_cpu_fallback(self, run)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Patches of an input of ``size``."""
        return tuple(side // patch for side, patch in zip(size, self.model.visual.patch_size, strict=True))

    def similarity(self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]) -> Float32[np.ndarray, " n"]:
        """Cosine of the whole photo with each name; above `shows` the photo shows the named object.

        The photo is resized to the network's square input without cropping.

        Args:
            image: a photo of any size.
            names: embedded with the templates of the settings.

        Raises:
            NbHelpersError: a name that is too long.
        """
        import torch

        texts = self.text_embeddings(names, self.settings.templates)
        pixels = self._pixels(load_image(image), tuple(self.model.visual.image_size))

        def run():
            with precision_of(self), torch.inference_mode():
                photo = self.model.encode_image(pixels[None])
            return torch.nn.functional.normalize(photo.float()).cpu()

        return (with_cpu_fallback(self, run) @ texts.T)[0].numpy()

    def text_embeddings(self, names: Sequence[str], templates: tuple[str, ...] | None = None) -> Float[Tensor, "n d"]:
        """A unit vector for each name, on the CPU: the normalised mean of the unit vectors of its sentences.

        Computed in float32 on any device and cached; in batches of names, with a progress bar if there are many.

        Args:
            names: e.g. ``["cat", "person in shirt"]``.
            templates: sentences with ``{}`` for the name; None: the 80 of OpenAI for ImageNet.
        """
        import torch
        from tqdm.auto import tqdm

        keys = [(name.lower(), templates) for name in names]
        missing = {key: name for key, name in zip(keys, names, strict=True) if key not in self._texts}
        at_once = max(1, SENTENCES // len(prompt_sentences("", templates)))
        with tqdm(total=len(missing), desc="encoding names", disable=len(missing) < 20, leave=False) as bar:
            for start in range(0, len(missing), at_once):
                some = dict(list(missing.items())[start : start + at_once])
                tokens = torch.stack([self._tokens(name, templates) for name in some.values()])
                self._texts |= zip(some, with_cpu_fallback(self, partial(self._read, tokens)), strict=True)
                bar.update(len(some))
        return torch.stack([self._texts[key] for key in keys])

    def _read(self, tokens: Int[Tensor, "n t context"]) -> Float[Tensor, "n d"]:
        """The embeddings of ``n`` names with ``t`` sentences each."""
        import torch

        flat = tokens.flatten(0, 1)

        def encode(start, stop):
            return torch.nn.functional.normalize(encode_text(self.model, flat[start:stop].to(self.device)))

        units = torch.cat(list(in_batches(encode, len(flat), SENTENCES, "sentences")))
        return torch.nn.functional.normalize(units.unflatten(0, tokens.shape[:2]).mean(1)).cpu()

    def _tokens(self, name: str, templates: tuple[str, ...] | None) -> Int[Tensor, "t context"]:
        if any(letter.isalpha() and letter > LATIN_ENDS for letter in name):
            log.warning("%s was trained on English: %s may give poor results", self.name, name)
        tokens = self.tokenizer(prompt_sentences(name, templates))
        if (tokens[:, -1] != 0).any():  # filled to the end, so almost certainly truncated
            raise NbHelpersError(
                "a name is too long", given=name, expected=f"a sentence of fewer than {tokens.shape[1]} tokens with it"
            )
        return tokens

    def _pixels(self, image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
        """The photo at ``size``, normalised.

        Bilinear like mmcv's ``Resize``; area averaging below half the size, against aliasing.
        """
        import torch

        shrinks = size[0] * 2 < image.shape[0]
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        pixels = torch.from_numpy(small).to(self.device).permute(2, 0, 1).float().div_(255)
        mean, std = (torch.tensor(values)[:, None, None].to(self.device) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)

    def _logits(
        self,
        pixels: Float[Tensor, "3 H W"],
        texts: Float[Tensor, "n d"],
        settings: DenseSettings,
        scope: Scope | None = None,
    ) -> Float[Tensor, "n H W"]:
        """Cosines of patches with each text, enlarged to pixels and averaged over the windows."""
        import torch

        height, width = pixels.shape[-2:]
        spans = sliding_windows((height, width), settings.crop, settings.stride)

        def encode(start, stop):
            crops = [pixels[:, top:bottom, left:right] for top, left, bottom, right in spans[start:stop]]
            weights = None
            if scope is not None:
                rows, columns = crops[0].shape[-2:]
                grid = self._grid((rows, columns))
                weights = scope.weights(spans[start:stop], (height, width), grid).to(self.device)
            with precision_of(self):
                features = patch_features(self.model.visual, torch.stack(crops), settings, weights)
            units = torch.nn.functional.normalize(features.float(), dim=-1)
            return torch.einsum("bhwd,nd->bnhw", units, texts)

        batch = WINDOWS[self.device.partition(":")[0]]
        return stitch_windows(
            spans, chain.from_iterable(in_batches(encode, len(spans), batch, "windows")), (height, width)
        )


@dataclass(frozen=True, eq=False)
class Scope:
    """Regions of a photo and features of its patches, by which the last block of CLIP attends.

    Attributes:
        regions: ``(H, W)`` of the photo, 0 where there is no region.
        tokens: ``(rows, columns, d)`` of a patch encoder, on a grid over the whole photo.
    """

    regions: Int[np.ndarray, "h w"]
    tokens: Float32[np.ndarray, "rows columns d"]

    def weights(
        self, spans: Sequence[tuple[int, int, int, int]], size: tuple[int, int], grid: tuple[int, int]
    ) -> Float[Tensor, "b t t"]:
        """The attention of each window's patches to each other; see `nbhelpers.models.dense.region_attention`.

        Args:
            spans: windows ``(top, left, bottom, right)`` in pixels of the model's input.
            size: ``(H, W)`` of that input.
            grid: patches of a window.
        """
        import torch

        regions = torch.from_numpy(self.regions.astype(np.float32))[None, None]
        regions = torch.nn.functional.interpolate(regions, size, mode="nearest")
        tokens = torch.from_numpy(self.tokens).permute(2, 0, 1)[None]
        rows, columns = self.tokens.shape[0] / size[0], self.tokens.shape[1] / size[1]
        out = []
        for top, left, bottom, right in spans:
            own = regions[:, :, top:bottom, left:right]
            own = torch.nn.functional.interpolate(own, grid, mode="nearest").flatten().long()
            centers = (torch.arange(side) + 0.5 for side in grid)
            y, x = (
                (start + center * (stop - start) / side) * scale - 0.5
                for center, start, stop, side, scale in zip(
                    centers, (top, left), (bottom, right), grid, (rows, columns), strict=True
                )
            )
            sampled = _sample(tokens[0], y, x)
            out.append(region_attention(sampled.flatten(0, 1), own))
        return torch.stack(out)


def _sample(maps: Float[Tensor, "d h w"], y: Float[Tensor, " a"], x: Float[Tensor, " b"]) -> Float[Tensor, "a b d"]:
    """Maps read between their cells, bilinear, the border repeated."""
    import torch

    height, width = maps.shape[-2:]
    scaled = ((each + 0.5) / side * 2 - 1 for each, side in ((x, width), (y, height)))
    columns, rows = scaled
    where = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None].to(maps)
    return torch.nn.functional.grid_sample(maps[None], where, padding_mode="border", align_corners=False)[0].permute(
        1, 2, 0
    )


def build(
    name: str,
    files: dict[str, Path],
    device: str,
    *,
    architecture: str,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    **settings: Any,
) -> OpenClipTextEncoder:
    """Build a text encoder from a checkpoint file; nothing is downloaded.

    Args:
        name: catalog name.
        files: ``{"checkpoint": path}``, a state dict as OpenCLIP saves it: ``.safetensors``, or ``.pt`` and ``.bin``
            (read with ``weights_only=True``).
        device: where it computes.
        architecture: a model of ``open_clip.list_models()``, e.g. ``ViT-B-16-quickgelu``.
        mean: of the photos it was trained on, RGB, 0 to 1.
        std: their standard deviation.
        settings: differences from `DenseSettings`.

    Raises:
        NbHelpersError: ``open_clip`` is not installed, the architecture is unknown or not a plain vision transformer,
            or the checkpoint is damaged or belongs to another model.
    """
    model = build_clip(architecture)
    load_clip_weights(model, files["checkpoint"])
    return OpenClipTextEncoder(model, name, device, replace(DenseSettings(), **settings), mean, std)


def input_size(size: tuple[int, int], settings: DenseSettings, patch: tuple[int, int]) -> tuple[int, int]:
    """``(H, W)`` of the network's input: like mmcv's ``Resize(keep_ratio=True)``, and at least one patch.

    Args:
        size: ``(H, W)`` of the photo.
        settings: ``short_side`` and ``long_side`` are used.
        patch: ``(height, width)`` in pixels.
    """
    scale = min(settings.long_side / max(size), settings.short_side / min(size))
    height, width = (max(int(side * scale + 0.5), minimum) for side, minimum in zip(size, patch, strict=True))
    return height, width


def _resize(maps: Float[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n H W"]:
    import torch

    return torch.nn.functional.interpolate(maps[None], size, mode="bilinear")[0]


def _check_memory(names: int, size: tuple[int, int], settings: DenseSettings) -> None:
    """Raise an error if logits, probabilities and the padded copy of PAMR do not fit into memory."""
    needed = (4 if settings.pamr_steps else 2) * names * size[0] * size[1] * 4
    free = free_memory()
    if free is not None and needed > free:
        raise NbHelpersError(
            "there is not enough memory for so many names at this size",
            given=f"{names} names at {size[1]} x {size[0]}, about {needed / 1e9:.1f} GB",
            expected=f"at most {free / 1e9:.1f} GB",
            do="use fewer names at a time, or do not set at_image_size",
        )


def patch_features(
    visual: Any,
    pixels: Float[Tensor, "b 3 H W"],
    settings: DenseSettings,
    weights: Float[Tensor, "b t t"] | None = None,
) -> Float[Tensor, "b h w d"]:
    """Features of each patch in the text embedding space, with ``settings.attention`` in the last block.

    An incomplete patch at the right or bottom border is dropped, as in CLIP's convolution.

    Args:
        visual: ``open_clip.transformer.VisionTransformer``.
        pixels: normalised; at least one patch in each direction.
        settings: ``attention`` and ``gaussian_std`` are used.
        weights: attention of the patches to each other instead, without the residual and without the MLP: CorrCLIP's
            main branch (arXiv 2411.10086).

    Source: ``VisionTransformer.forward`` of the reference implementations of SCLIP (arXiv 2312.01597; the block is
    kept, only its attention differs) and NACLIP (arXiv 2404.08181; "reduced": attention alone, without the residual
    and without the MLP).
    """
    import torch

    patches = visual.conv1(pixels)
    grid = patches.shape[-2:]
    tokens = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], 1)
    tokens = visual.ln_pre(tokens + position_embeddings(visual, grid))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    if weights is not None:
        width, attention = tokens.shape[-1], last.attn
        values = torch.nn.functional.linear(
            last.ln_1(tokens), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        )
        mixed = attention.out_proj(weights.to(values) @ values[:, 1:])
        return (visual.ln_post(mixed) @ visual.proj).unflatten(1, grid)
    attended = dense_attention(last.attn, last.ln_1(tokens), grid, settings)
    if settings.attention == "naclip":
        tokens = attended
    else:
        tokens = tokens + last.ls_1(attended)
        tokens = tokens + last.ls_2(last.mlp(last.ln_2(tokens)))
    return (visual.ln_post(tokens) @ visual.proj)[:, 1:].unflatten(1, grid)


def dense_attention(
    attention: torch.nn.MultiheadAttention,
    tokens: Float[Tensor, "b t c"],
    grid: tuple[int, int],
    settings: DenseSettings,
) -> Float[Tensor, "b t c"]:
    """Self-attention with the trained projections but other queries and keys.

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
    sdpa = functional.scaled_dot_product_attention  # does not store the (t, t) weights of all heads
    if settings.attention == "sclip":
        out = sdpa(q, q, v) + sdpa(k, k, v)
    elif settings.attention == "naclip":
        out = sdpa(k, k, v, attn_mask=neighbourhood_bias(grid, settings.gaussian_std).to(k))
    else:
        out = sdpa(q, k, v)
    return attention.out_proj(out.transpose(1, 2).flatten(2))


def neighbourhood_bias(grid: tuple[int, int], std: float) -> Float[Tensor, "t t"]:
    """NACLIP's bias of the attention logits: exp(-d^2 / (2 std^2)) for patches ``d`` apart, 0 for the class token.

    Args:
        grid: ``(h, w)`` in patches; ``t`` = 1 + h w.
        std: in patches.
    """
    import torch

    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    positions = torch.stack([rows.flatten(), columns.flatten()], 1)
    squares = (positions[:, None] - positions).square().sum(-1)
    return torch.nn.functional.pad(torch.exp(-squares / (2 * std**2)), (1, 0, 1, 0))


def position_embeddings(visual: Any, grid: tuple[int, int]) -> Float[Tensor, "t c"]:
    """Position embeddings of the class token and of ``grid`` patches: as trained, or interpolated (bicubic).

    The scale is that of a grid larger by 0.1, as in the reference implementations of SCLIP and NACLIP, which have it
    from DINO; cosines change by up to 0.007.
    """
    import torch

    trained = visual.positional_embedding
    if tuple(grid) == tuple(visual.grid_size):
        return trained
    square = trained[1:].T.unflatten(1, visual.grid_size)[None]
    scale = tuple((side + 0.1) / trained_side for side, trained_side in zip(grid, visual.grid_size, strict=True))
    square = torch.nn.functional.interpolate(square, scale_factor=scale, mode="bicubic")
    return torch.cat([trained[:1], square[0].flatten(1).T])


def encode_text(model: Any, tokens: Int[Tensor, "n context"]) -> Float[Tensor, "n d"]:
    """Equivalent to ``model.encode_text``, five times as fast for short sentences.

    No token attends to later ones, so all tokens after the end of the longest sentence are dropped.
    """
    import torch

    ends = tokens.argmax(1)  # the end-of-text token has the highest number of the vocabulary
    length = int(ends.max()) + 1
    states = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    return states[torch.arange(len(states), device=states.device), ends] @ model.text_projection


def prompt_sentences(name: str, templates: tuple[str, ...] | None = None) -> list[str]:
    """The name in each of the templates; None: OpenAI's 80 for ImageNet, from ``open_clip``."""
    if templates is not None:
        return [template.replace("{}", name) for template in templates]
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return [template(name) for template in OPENAI_IMAGENET_TEMPLATES]


def build_clip(architecture: str) -> Any:
    """The untrained network of an ``open_clip`` architecture, on the CPU.

    ``open_clip.create_model`` does the same, but may download weights.

    Raises:
        NbHelpersError: ``open_clip`` is not installed, or the architecture is unknown or has no plain towers.
    """
    needs("text", "open_clip")
    import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None or not _is_plain(config):
        plain = [name for name in open_clip.list_models() if _is_plain(open_clip.get_model_config(name) or {})]
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


def load_clip_weights(model: Any, path: Path) -> None:
    """Load a state dict as OpenCLIP saves it, also from inside a training checkpoint.

    Raises:
        NbHelpersError: the file is damaged, would run code (see `read_weights`), or belongs to another model.
    """
    state = read_weights(path, "a state dict as OpenCLIP saves it (OpenAI's .pt files are programs, not weights)")
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
