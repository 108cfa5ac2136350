"""SAM 2's mask decoder, arranged for many single clicks on one image.

The ``sam2`` package decodes a batch of clicks by repeating the image features for each, and projects 4096 image
tokens to keys and values for every click and every attention. Here nothing is repeated and little is projected:

* Until the first block has answered, image tokens are the same for all clicks: their projections are made once.
* Later, a click has 8 tokens and an image 4096. ``(q W_q) (x W_k)^T`` is computed as ``((q W_q) W_k^T) x^T``, and the
  same for values and outputs: the small side carries the projection. This halves the work.
* The predicted IoU depends on tokens alone, so the best of the three candidates is known before any mask is made,
  and only that one is, unless all are asked for.
* A transposed convolution with kernel 2 and stride 2 is one matrix product; all layers run on tokens in one order
  (channels last), with no transposition between them.

The result is the decoder's own, to rounding. Source of the formulas: ``sam2/modeling/sam/mask_decoder.py`` and
``transformer.py`` of the ``sam2`` package (Apache-2.0); Kirillov et al. 2023, arXiv 2304.02643, appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from nbhelpers.models.values import Choose, Prediction

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class PointDecoder:
    """Decodes single clicks of one embedding, each to the candidate with the best predicted IoU.

    Example:
        >>> decoder = PointDecoder(model, image_embed, high_res_feats)       # (1, 256, 64, 64) and two finer maps
        >>> logits, scores = decoder(coordinates)                            # (b, 2) in [0, 1024)
        >>> logits.shape, scores.shape
        ((b, 256, 256), (b,))

    Args:
        model: ``sam2.modeling.sam2_base.SAM2Base``, in evaluation mode.
        image_embed: ``(1, c, h, w)``, coarsest features with ``no_mem_embed`` added.
        high_res_feats: ``[(1, c / 8, 4 h, 4 w), (1, c / 4, 2 h, 2 w)]``.
    """

    def __init__(self, model: torch.nn.Module, image_embed: Tensor, high_res_feats: list[Tensor]):
        self.prompt_encoder, self.decoder = model.sam_prompt_encoder, model.sam_mask_decoder
        self.height, self.width = image_embed.shape[-2:]
        transformer = self.decoder.transformer
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        image = _tokens(image_embed + dense)[0]
        position = _tokens(self.prompt_encoder.get_dense_pe())[0]
        # clicks differ only after the first block has answered: until then one image serves them all
        self.blocks = [_Block(layer, position, None if i else image) for i, layer in enumerate(transformer.layers)]
        self.final = _TokenToImage(transformer.final_attn_token_to_image, position)
        self.norm_final = transformer.norm_final_attn
        self.upscale = _Upscale(self.decoder.output_upscaling, *high_res_feats)

    def __call__(self, coordinates: Float[Tensor, "b 2"]) -> tuple[Float[Tensor, "b h w"], Float[Tensor, " b"]]:
        """Low-resolution logits ``(b, 4 h, 4 w)`` and predicted IoU ``(b,)`` of the best candidate of each click."""
        image, kernels, ious = self._decode(coordinates)
        best = ious.argmax(1, keepdim=True)
        kernel = kernels.gather(1, best[:, :, None].expand(-1, 1, kernels.shape[-1]))
        return self.upscale(image, kernel, self.height, self.width)[:, 0], ious.gather(1, best)[:, 0]

    def candidates(self, coordinates: Float[Tensor, "b 2"]) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3"]]:
        """The same of all three candidates of each click."""
        image, kernels, ious = self._decode(coordinates)
        return self.upscale(image, kernels, self.height, self.width), ious

    def _decode(self, coordinates: Float[Tensor, "b 2"]) -> tuple[Tensor, Float[Tensor, "b 3 k"], Float[Tensor, "b 3"]]:
        """The image as each click sees it, and the kernel and the predicted IoU of each candidate."""
        labels = coordinates.new_ones((len(coordinates), 1))
        sparse, _ = self.prompt_encoder(points=(coordinates[:, None], labels), boxes=None, masks=None)
        first = 1 if self.decoder.pred_obj_scores else 0
        output = [self.decoder.iou_token.weight, self.decoder.mask_tokens.weight]
        output = [self.decoder.obj_score_token.weight, *output] if first else output
        tokens = _cat([*(weight.expand(len(coordinates), *weight.shape) for weight in output), sparse])

        queries, image = tokens, None
        for block in self.blocks:
            queries, image = block(queries, tokens, image)
        queries = self.norm_final(queries + self.final(queries + tokens, image))

        ious = self.decoder.iou_prediction_head(queries[:, first])[:, 1:]
        mask_tokens = queries[:, first + 1 :]
        candidates = range(1, self.decoder.num_mask_tokens)
        kernels = [self.decoder.output_hypernetworks_mlps[i](mask_tokens[:, i]) for i in candidates]
        return image, _stack(kernels), ious


def chosen(
    choose: Choose,
    start: int,
    logits: Float32[np.ndarray, "b 3 h w"],
    scores: Float32[np.ndarray, "b 3"],
    size: tuple[int, int],
) -> tuple[Float32[np.ndarray, "b h w"], Float32[np.ndarray, " b"]]:
    """Logits and scores of the candidates that ``choose`` picks for the points from number ``start`` on."""
    pairs = zip(logits, scores, strict=True)
    asked = [Prediction(masks, ious, size, masks.shape[1:], int(ious.argmax())) for masks, ious in pairs]
    index = [choose(start + i, prediction) for i, prediction in enumerate(asked)]
    return logits[np.arange(len(index)), index], scores[np.arange(len(index)), index]


class _TokenToImage:
    """Cross attention of a few tokens to the whole image.

    ``shared`` ``(n, c)``: image tokens that are the same for all clicks; left out, each call brings its own.
    """

    def __init__(self, attention: torch.nn.Module, position: Float[Tensor, "n c"], shared: Tensor | None = None):
        self.attention, self.heads = attention, attention.num_heads
        width = attention.internal_dim // self.heads
        self.scale = width**-0.5
        self.key_weight = attention.k_proj.weight.view(self.heads, width, -1)
        self.value_weight = attention.v_proj.weight.view(self.heads, width, -1).mT
        self.value_bias = attention.v_proj.bias.view(self.heads, 1, width)
        # the bias of the keys adds the same to all scores of a query, which softmax ignores
        self.position = _heads(position @ attention.k_proj.weight.T, self.heads).mT.contiguous()
        self.shared = None
        if shared is not None:
            keys = _heads(shared @ attention.k_proj.weight.T, self.heads).mT + self.position
            self.shared = keys, _heads(shared @ attention.v_proj.weight.T, self.heads).contiguous()

    def __call__(self, queries: Float[Tensor, "b t c"], image: Tensor | None) -> Float[Tensor, "b t c"]:
        b, t, _ = queries.shape
        q = _heads(self.attention.q_proj(queries) * self.scale, self.heads)
        if self.shared is not None:
            keys, values = self.shared
            values = (q @ keys).softmax(-1) @ values
        else:
            scores = ((q @ self.key_weight).flatten(1, 2) @ image.mT).unflatten(1, (self.heads, t))
            weights = (scores + q @ self.position).softmax(-1)
            values = (weights.flatten(1, 2) @ image).unflatten(1, (self.heads, t)) @ self.value_weight
        values = values + self.value_bias  # the weights of a query sum to 1, so the bias passes through
        return self.attention.out_proj(values.transpose(1, 2).reshape(b, t, -1))


class _ImageToToken:
    """Cross attention of the whole image to a few tokens, added to the image; ``shared`` as above."""

    def __init__(self, attention: torch.nn.Module, position: Float[Tensor, "n c"], shared: Tensor | None = None):
        self.attention, self.heads = attention, attention.num_heads
        width = attention.internal_dim // self.heads
        self.scale = width**-0.5
        self.query_weight = attention.q_proj.weight.view(self.heads, width, -1)
        self.out_weight = attention.out_proj.weight.view(-1, self.heads, width).permute(1, 2, 0)
        self.position = _heads(attention.q_proj(position), self.heads).mT.contiguous()
        self.shared = None
        if shared is not None:
            queries = _heads(shared @ attention.q_proj.weight.T, self.heads).mT + self.position
            self.shared = queries, shared + attention.out_proj.bias

    def __call__(
        self, image: Tensor | None, keys: Float[Tensor, "b t c"], values: Float[Tensor, "b t c"]
    ) -> Float[Tensor, "b n c"]:
        b, t, _ = keys.shape
        k = _heads(self.attention.k_proj(keys) * self.scale, self.heads)
        if self.shared is not None:
            queries, base = self.shared
            scores, base = k @ queries, base.expand(b, -1, -1)
        else:
            scores = ((k @ self.query_weight).flatten(1, 2) @ image.mT).unflatten(1, (self.heads, t))
            scores, base = scores + k @ self.position, image + self.attention.out_proj.bias
        weights = scores.softmax(2).flatten(1, 2)
        out = (_heads(self.attention.v_proj(values), self.heads) @ self.out_weight).flatten(1, 2)
        return base.baddbmm(weights.mT, out)


class _Block:
    """One ``TwoWayAttentionBlock``."""

    def __init__(self, layer: torch.nn.Module, position: Float[Tensor, "n c"], shared: Tensor | None):
        self.layer = layer
        self.to_image = _TokenToImage(layer.cross_attn_token_to_image, position, shared)
        self.to_token = _ImageToToken(layer.cross_attn_image_to_token, position, shared)

    def __call__(self, queries: Tensor, tokens: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        layer = self.layer
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            q = queries + tokens
            queries = queries + layer.self_attn(q=q, k=q, v=queries)
        queries = layer.norm1(queries)
        queries = layer.norm2(queries + self.to_image(queries + tokens, image))
        queries = layer.norm3(queries + layer.mlp(queries))
        return queries, layer.norm4(self.to_token(image, queries + tokens, queries))


@dataclass(frozen=True)
class _Doubling:
    """``ConvTranspose2d(kernel_size=2, stride=2)`` on tokens: each becomes a 2 x 2 patch of tokens."""

    weight: Tensor  # (c, 4 d), columns ordered (row, column, channel)
    skip: Tensor  # (1, n, 4 d): finer features at the same places, with the bias

    @classmethod
    def of(
        cls,
        convolution: torch.nn.Module,
        finer: Float[Tensor, "1 d h2 w2"],
        order: tuple[tuple[int, ...], tuple[int, ...]],
    ) -> _Doubling:
        """``order``: how height and width are split so far, coarsest first, e.g. ``((64, 2), (64, 2))``."""
        weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)
        skip = finer + convolution.bias.view(1, -1, 1, 1)
        return cls(weight, _nest(skip[0].permute(1, 2, 0), order).reshape(1, -1, weight.shape[1]))

    def __call__(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n4 d"]:
        b, n, _ = tokens.shape
        return self.skip.expand(b, n, -1).baddbmm(tokens, self.weight.expand(b, -1, -1)).view(b, 4 * n, -1)


class _Upscale:
    """``output_upscaling`` with its skip connections, then the product with each click's ``c`` kernels."""

    def __init__(self, layers: torch.nn.Sequential, finest: Tensor, finer: Tensor):
        first, self.norm, self.act1, second, self.act2 = layers
        h, w = finer.shape[-2] // 2, finer.shape[-1] // 2
        self.first = _Doubling.of(first, finer, ((h, 2), (w, 2)))
        self.second = _Doubling.of(second, finest, ((h, 2, 2), (w, 2, 2)))

    def __call__(self, image: Float[Tensor, "b n c"], kernels: Float[Tensor, "b c k"], h: int, w: int) -> Tensor:
        from torch.nn.functional import layer_norm

        tokens = self.first(image)
        tokens = layer_norm(tokens, tokens.shape[-1:], self.norm.weight, self.norm.bias, self.norm.eps)
        tokens = self.act2(self.second(self.act1(tokens)))
        masks = (tokens @ kernels.mT).view(len(tokens), h, w, 2, 2, 2, 2, -1)
        return masks.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(tokens), -1, 4 * h, 4 * w)


def _nest(pixels: Float[Tensor, "h w c"], order: tuple[tuple[int, ...], tuple[int, ...]]) -> Tensor:
    """Reorder ``(height, width, c)`` pixels so that the 2 x 2 patches of each doubling lie together."""
    rows, columns = order
    split = pixels.view(*rows, *columns, -1)
    depth = len(rows)
    return split.permute(*(axis for level in range(depth) for axis in (level, depth + level)), 2 * depth)


def _tokens(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    return features.flatten(2).mT.contiguous()


def _heads(x: Float[Tensor, "*b n c"], heads: int) -> Float[Tensor, "*b heads n d"]:
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def _cat(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(parts, dim=1)


def _stack(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.stack(parts, dim=1)
