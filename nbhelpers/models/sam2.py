"""SAM 2 and 2.1 for images, through Meta's ``sam2`` package.

Ravi et al. 2024, arXiv 2408.00714. Checkpoints: the publisher's eight ``.pt`` files, or the safetensors file that
`nbhelpers.weights.convert` creates for the lite set. What all networks with SAM 2's prompt encoder share is here too:
coordinates in the model's square, mask prompts, embeddings.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Int32, Shaped, UInt8

from nbhelpers.core.device import in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.adapters import in_precision, precision_of, read_weights
from nbhelpers.models.protocols import Segmenter
from nbhelpers.models.values import Choose, Embedding, Prediction
from nbhelpers.weights.convert import sam2_state_dict, save_state_dict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAM2_VERSION = "1.1.0"
BATCH = {"cpu": 1, "mps": 32, "cuda": 128}  # the 20 MB of features of one click fit into a CPU's cache
ONLY_FOR_VIDEO = (
    "mask_downsample.", "maskmem_tpos_enc", "memory_attention.", "memory_encoder.", "no_mem_pos_enc",
    "no_obj_ptr", "no_obj_embed_spatial", "obj_ptr_proj.", "obj_ptr_tpos_proj.",
    "sam_mask_decoder.pred_obj_score_head.",
)  # fmt: skip
Result = TypeVar("Result")
log = logging.getLogger(__name__)
LOGIT_LIMIT = 32.0  # sam2_image_predictor.py clamps logits to this before they are used as a prompt
LEVELS = ("image_embed", "high_res_feats_1", "high_res_feats_0")  # of features, the coarsest first


class Sam2Segmenter:
    """Promptable image segmentation with SAM 2; a `nbhelpers.models.protocols.Segmenter`.

    Example:
        >>> segmenter = nbhelpers.load("segmenter", "sam2.1-hiera-large")
        >>> prediction = segmenter.predict(segmenter.encode(image), Prompt(points=[(320, 200)]))
        >>> prediction.best.shape, prediction.scores.shape
        ((480, 640), (4,))

    If the device runs out of memory, it continues with smaller batches, then on the CPU, and warns.

    Args:
        model: ``sam2.modeling.sam2_base.SAM2Base`` in evaluation mode.
        name: its catalog name.
        device: where it computes.
        precision: of the image encoder, see `nbhelpers.core.device.choose_precision`.
    """

    def __init__(self, model: Any, name: str, device: str, precision: str | None = None):
        import torch

        self.model = model.to(device).eval()
        # the trunk uses (b, h, w, c); convolutions in the same memory format avoid transpositions: 7 % less time
        self.model.image_encoder.to(memory_format=torch.channels_last)
        self.name, self.device, self.precision = name, device, precision

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """Image features: ``image_embed (1, 256, 64, 64)``, ``high_res_feats_0`` and ``_1`` at 256 and 128."""

        def run():
            model = self.model
            backbone = model.forward_image(self._pixels(image))
            _, features, _, sizes = model._prepare_backbone_features(backbone)
            if model.directly_add_no_mem_embed:
                features[-1] = features[-1] + model.no_mem_embed
            maps = [f.permute(1, 2, 0).reshape(1, -1, *size) for f, size in zip(features, sizes, strict=True)]
            if self.device == "cpu":
                maps = [each.float() for each in maps]
            names = [f"high_res_feats_{i}" for i in range(len(maps) - 1)] + ["image_embed"]
            return Embedding(image.shape[:2], self.name, dict(zip(names, maps, strict=True)))

        return in_precision(self, run)

    def features(self, embedding: Embedding, level: int = 0) -> Float[Tensor, "h w d"]:
        """A feature map of the mask decoder: at level 0 ``(64, 64, 256)``, at 1 and 2 twice and four times as fine.

        Raises:
            NbHelpersError: an embedding of another model, or an invalid level.
        """
        check_own_embedding(embedding, self.name)
        return feature_map(embedding, level)

    def predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        """Four candidates; the choice equals the result of upstream's predictor for the same prompt.

        For a single including point it is the best of candidates 1 to 3 by predicted IoU; for any other prompt
        candidate 0 unless it is unstable (``_dynamic_multimask_via_stability``, sam2's mask_decoder.py).
        """
        prompt.check_inside(embedding.size)

        def run():
            coordinates, labels = self._points(prompt, embedding.size)
            points = None if coordinates is None else (coordinates, labels)
            sparse, dense = self.model.sam_prompt_encoder(points=points, boxes=None, masks=self._mask_input(prompt))
            decoder = self.model.sam_mask_decoder
            image_embed, fine = self._decoder_features(embedding)
            logits, ious, _, _ = decoder.predict_masks(
                image_embeddings=image_embed,
                image_pe=self.model.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                repeat_image=False,
                high_res_features=fine,
            )
            stable = decoder._get_stability_scores(logits[:, :1]) >= decoder.dynamic_multimask_stability_thresh
            choice = 0
            if prompt.is_ambiguous or not bool(stable):
                choice = 1 + int(ious[0, 1:].argmax())
            return logits[0].float().cpu().numpy(), ious[0].float().cpu().numpy(), choice

        logits, scores, choice = self._run(run)
        return Prediction(logits, scores, embedding.size, logits.shape[1:], choice)

    def predict_points(
        self, embedding: Embedding, points: Shaped[np.ndarray, "n 2"], choose: Choose | None = None
    ) -> Prediction:
        """The best candidate of each point, decoded in batches on the same features.

        Args:
            embedding: of the image.
            points: ``(n, 2)``, ``(x, y)`` pixels; each is a prompt of a single including point.
            choose: selects another candidate; called with the number of a point and its three candidates. A batch that
                does not fit into memory is decoded again, so it may be called twice for a point.
        """
        prompt = Prompt(points=points).check_inside(embedding.size)

        def run():
            decoder = PointDecoder(self.model, *self._decoder_features(embedding))
            coordinates, _ = self._points(prompt, embedding.size)
            assert coordinates is not None  # a prompt of points has some

            def decode(start, stop):
                predict = decoder if choose is None else decoder.candidates
                logits, scores = (output.float().cpu().numpy() for output in predict(coordinates[0, start:stop]))
                return (
                    (logits, scores)
                    if choose is None
                    else chosen_candidates(choose, start, logits, scores, embedding.size)
                )

            batch = BATCH[self.device.partition(":")[0]]
            return list(in_batches(decode, len(prompt.points), batch, "points"))

        parts = self._run(run)
        logits, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Prediction(logits, scores, embedding.size, logits.shape[1:], int(scores.argmax()))

    def _pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> torch.Tensor:
        """``(1, 3, side, side)``: resized to a square and normalised like ``SAM2Transforms``.

        One channel at a time, since the float copy of a 54-megapixel photo has 650 MB.
        """
        import torch

        side = self.model.image_size
        pixels = torch.empty((1, 3, side, side), device=self.device)
        for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
            plane = torch.from_numpy(np.ascontiguousarray(image[:, :, channel])).to(self.device)
            plane = torch.nn.functional.interpolate(
                plane[None, None].float().div_(255), (side, side), mode="bilinear", antialias=True
            )
            pixels[0, channel] = plane[0, 0].sub_(mean).div_(std)
        return pixels

    def _points(self, prompt: Prompt, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """``(1, n, 2)`` coordinates in the model's square and ``(1, n)`` labels; a box becomes two corners first."""
        import torch

        points, labels = square_points(prompt, size, self.model.image_size)
        if not len(points):
            return None, None
        return torch.from_numpy(points)[None].to(self.device), torch.from_numpy(labels)[None].to(self.device)

    def _mask_input(self, prompt: Prompt) -> torch.Tensor | None:
        """``(1, 1, 256, 256)`` logits of a mask prompt."""
        import torch

        if prompt.mask is None:
            return None
        logits = low_resolution_logits(prompt.mask, self.model.sam_prompt_encoder.mask_input_size)
        return torch.from_numpy(logits)[None, None].to(self.device)

    def _decoder_features(self, embedding: Embedding) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The image embedding and the two finer maps, on the segmenter's device."""
        check_own_embedding(embedding, self.name)
        maps = {name: value.to(self.device) for name, value in embedding.tensors.items()}
        return maps["image_embed"], [maps["high_res_feats_0"], maps["high_res_feats_1"]]

    def _run(self, run: Callable[[], Result]) -> Result:
        """Prompt encoder and mask decoder: in float32 on a CPU, where rounding may select another candidate."""
        return in_precision(self, run, "float32" if self.device == "cpu" else None)


class UpstreamSegmenter:
    """Upstream's ``SAM2ImagePredictor`` as a `Segmenter`, for comparison; same network, same weights."""

    def __init__(self, segmenter: Sam2Segmenter):
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its transforms use torch.jit.script
            self._predictor = SAM2ImagePredictor(segmenter.model)
        self.name, self.device = f"{segmenter.name} by SAM2ImagePredictor", segmenter.device
        self.precision = segmenter.precision

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """The predictor's features of an image."""
        with precision_of(self):
            self._predictor.set_image(image.copy())
        features: Any = self._predictor._features
        tensors = {str(level): each for level, each in enumerate(features["high_res_feats"])}
        return Embedding(image.shape[:2], self.name, {"image_embed": features["image_embed"], **tensors})

    def predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        """Three candidates for a single including point, else one; the choice is the best by predicted IoU."""
        predictor, tensors = self._predictor, embedding.tensors
        high = [tensors[key] for key in sorted(set(tensors) - {"image_embed"})]
        predictor._features = {"image_embed": tensors["image_embed"], "high_res_feats": high}
        predictor._orig_hw, predictor._is_image_set = [embedding.size], True
        points = len(prompt.points) > 0
        with precision_of(self):
            _, scores, logits = predictor.predict(
                prompt.points.copy() if points else None,
                prompt.labels.copy() if points else None,
                box=None if prompt.box is None else prompt.box.copy(),
                mask_input=None if prompt.mask is None else prompt.mask[None],
                multimask_output=prompt.is_ambiguous,
            )
        logits = logits.astype(np.float32)
        return Prediction(logits, scores.astype(np.float32), embedding.size, logits.shape[1:], int(scores.argmax()))

    def predict_points(
        self, embedding: Embedding, points: Shaped[np.ndarray, "n 2"], choose: Choose | None = None
    ) -> Prediction:
        """One point at a time."""
        found = [self.predict(embedding, Prompt(points=[point])) for point in points]
        chosen = [each.choice if choose is None else choose(i, each) for i, each in enumerate(found)]
        logits = np.stack([each.logits[i] for each, i in zip(found, chosen, strict=True)])
        scores = np.array([each.scores[i] for each, i in zip(found, chosen, strict=True)], np.float32)
        return Prediction(logits, scores, embedding.size, logits.shape[1:], int(scores.argmax()))


def upstream_segmenter(segmenter: Segmenter) -> UpstreamSegmenter:
    """Upstream's predictor on the network of a `Sam2Segmenter`.

    Raises:
        NbHelpersError: the segmenter is not SAM 2.
    """
    if not isinstance(segmenter, Sam2Segmenter):
        raise NbHelpersError("upstream's predictor runs SAM 2 only", given=segmenter.name)
    return UpstreamSegmenter(segmenter)


def build(name: str, files: dict[str, Path], device: str, *, config: str) -> Sam2Segmenter:
    """Build a segmenter from a checkpoint file.

    Args:
        name: catalog name.
        files: ``{"checkpoint": path}``, the publisher's ``.pt`` or a ``.safetensors`` of the image part.
        device: where it computes.
        config: the model's yaml in the ``sam2`` package, e.g. ``configs/sam2.1/sam2.1_hiera_l.yaml``.

    Raises:
        NbHelpersError: ``sam2`` is not installed, or the checkpoint is damaged or belongs to another model.
    """
    model = build_image_network(config)
    load_weights(model, files["checkpoint"])
    return Sam2Segmenter(model, name, device)


def build_lite(name: str, files: dict[str, Path], device: str, *, config: str) -> Sam2Segmenter:
    """Build a segmenter from the two ONNX files of the lite set, ``{"encoder": path, "decoder": path}``.

    They are converted once; the official state dict is stored next to them as ``<name>.safetensors``, if the folder is
    writable.
    """
    import torch

    model = build_image_network(config)
    kept = files["encoder"].with_name(f"{name}.safetensors")
    if kept.is_file() and kept.stat().st_mtime >= files["encoder"].stat().st_mtime:
        try:
            load_weights(model, kept)
            return Sam2Segmenter(model, name, device)
        except NbHelpersError as error:
            log.warning("converting again: %s", error.what)
    log.info("converting %s (once, about 5 s)", files["encoder"].name)
    state = sam2_state_dict(files["encoder"], files["decoder"])
    try:
        save_state_dict(state, kept)
    except NbHelpersError as error:
        log.warning("the converted weights cannot be stored: %s", error.given)
    _fill(model, {key: torch.from_numpy(value) for key, value in state.items()}, kept)
    return Sam2Segmenter(model, name, device)


def builders() -> ModuleType:
    """The module of the package ``sam2`` that builds networks.

    Raises:
        NbHelpersError: the package is not installed.
    """
    try:
        return import_module("sam2.build_sam")
    except ImportError as error:
        raise NbHelpersError(
            "the package sam2 is not installed",
            given=str(error),
            do=f"SAM2_BUILD_CUDA=0 pip install --no-deps --no-build-isolation sam2=={SAM2_VERSION}",
        ) from error


def build_image_network(config: str, *overrides: str) -> Any:
    """The untrained network of a ``sam2`` configuration, on the CPU.

    Args:
        config: the yaml in the ``sam2`` package.
        overrides: changes to it in Hydra's syntax, e.g. ``"++model.image_size=512"``.
    """
    return builders().build_sam2(config, None, device="cpu", hydra_overrides_extra=list(overrides))


def load_weights(model: Any, path: Path) -> list[str]:
    """Load a checkpoint into ``model``; weights that are needed only for video may be missing.

    Returns:
        The names of the missing weights.

    Raises:
        NbHelpersError: the file is damaged, would run code (see `read_weights`), or belongs to another model.
    """
    state = read_weights(path, "the publisher's checkpoint of this model")
    state = state.get("model", state)  # as in the publisher's files
    return _fill(model, state, path)


def _fill(model: Any, state: dict[str, torch.Tensor], path: Path) -> list[str]:
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes differ
        raise NbHelpersError(
            "the checkpoint is of another model",
            given=f"{path}: {str(error).splitlines()[1].strip()}",
            expected="the weights of this model",
        ) from error
    missing = [key for key in result.missing_keys if not key.startswith(ONLY_FOR_VIDEO)]
    if missing or result.unexpected_keys:
        raise NbHelpersError(
            "the checkpoint is of another model",
            given=f"{path}: {len(missing)} weights missing, {len(result.unexpected_keys)} unknown, "
            f"e.g. {(missing + result.unexpected_keys)[0]}",
            expected="the weights of this model",
        )
    if result.missing_keys:
        log.debug("%s has no weights for video", path.name)
    return result.missing_keys


class PointDecoder:
    """SAM 2's mask decoder, optimised for many single clicks on one image; returns the best candidate of each.

    The ``sam2`` package repeats the image features for each click of a batch, and projects 4096 image tokens to keys
    and values for every click and every attention. This implementation avoids both:

    * Up to the first block, image tokens are the same for all clicks: their projections are computed once.
    * After it, a click has 8 tokens and an image 4096. ``(q W_q) (x W_k)^T`` is computed as ``((q W_q) W_k^T) x^T``,
      and likewise for values and outputs, so that only the 8 tokens are projected. This halves the computation.
    * The predicted IoU depends only on tokens, so the best of the three candidates is known before any mask is
      computed, and only its mask is, unless all are requested.
    * A transposed convolution with kernel 2 and stride 2 is one matrix product; all layers work on tokens in one order
      (channels last), without transpositions.

    The result equals that of the original decoder up to rounding. Source of the formulas:
    ``sam2/modeling/sam/mask_decoder.py`` and ``transformer.py`` of the ``sam2`` package (Apache-2.0); Kirillov et al.
    2023, arXiv 2304.02643, appendix A.

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

    def __init__(self, model: Any, image_embed: Tensor, high_res_feats: list[Tensor]):
        self.prompt_encoder, self.decoder = model.sam_prompt_encoder, model.sam_mask_decoder
        self.height, self.width = image_embed.shape[-2:]
        transformer = self.decoder.transformer
        dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        image = _tokens(image_embed + dense)[0]
        position = _tokens(self.prompt_encoder.get_dense_pe())[0]
        # image tokens are shared by all clicks up to the first block
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
        """The same for all three candidates of each click."""
        image, kernels, ious = self._decode(coordinates)
        return self.upscale(image, kernels, self.height, self.width), ious

    def _decode(self, coordinates: Float[Tensor, "b 2"]) -> tuple[Tensor, Float[Tensor, "b 3 k"], Float[Tensor, "b 3"]]:
        """The image tokens of each click, and the kernel and the predicted IoU of each candidate."""
        labels = coordinates.new_ones((len(coordinates), 1))
        sparse, _ = self.prompt_encoder(points=(coordinates[:, None], labels), boxes=None, masks=None)
        first = 1 if self.decoder.pred_obj_scores else 0
        output = [self.decoder.iou_token.weight, self.decoder.mask_tokens.weight]
        output = [self.decoder.obj_score_token.weight, *output] if first else output
        tokens = _cat([*(weight.expand(len(coordinates), *weight.shape) for weight in output), sparse])

        queries, image = tokens, tokens.new_empty(0)  # the first block shares its image tokens
        for block in self.blocks:
            queries, image = block(queries, tokens, image)
        queries = self.norm_final(queries + self.final(queries + tokens, image))

        ious = self.decoder.iou_prediction_head(queries[:, first])[:, 1:]
        mask_tokens = queries[:, first + 1 :]
        candidates = range(1, self.decoder.num_mask_tokens)
        kernels = [self.decoder.output_hypernetworks_mlps[i](mask_tokens[:, i]) for i in candidates]
        return image, _stack(kernels), ious


class _TokenToImage:
    """Cross attention of a few tokens to the whole image.

    ``shared`` ``(n, c)``: image tokens that are the same for all clicks; by default they are passed to each call.
    """

    def __init__(self, attention: Any, position: Float[Tensor, "n c"], shared: Tensor | None = None):
        self.attention, self.heads = attention, attention.num_heads
        width = attention.internal_dim // self.heads
        self.scale = width**-0.5
        self.key_weight = attention.k_proj.weight.view(self.heads, width, -1)
        self.value_weight = attention.v_proj.weight.view(self.heads, width, -1).mT
        self.value_bias = attention.v_proj.bias.view(self.heads, 1, width)
        # the bias of the keys adds a constant to all scores of a query, which softmax ignores
        self.position = _heads(position @ attention.k_proj.weight.T, self.heads).mT.contiguous()
        self.shared = None
        if shared is not None:
            keys = _heads(shared @ attention.k_proj.weight.T, self.heads).mT + self.position
            self.shared = keys, _heads(shared @ attention.v_proj.weight.T, self.heads).contiguous()

    def __call__(self, queries: Float[Tensor, "b t c"], image: Tensor) -> Float[Tensor, "b t c"]:
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

    def __init__(self, attention: Any, position: Float[Tensor, "n c"], shared: Tensor | None = None):
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
        self, image: Tensor, keys: Float[Tensor, "b t c"], values: Float[Tensor, "b t c"]
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

    def __init__(self, layer: Any, position: Float[Tensor, "n c"], shared: Tensor | None):
        self.layer = layer
        self.to_image = _TokenToImage(layer.cross_attn_token_to_image, position, shared)
        self.to_token = _ImageToToken(layer.cross_attn_image_to_token, position, shared)

    def __call__(self, queries: Tensor, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
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
    skip: Tensor  # (1, n, 4 d): finer features at the same positions, with the bias

    @classmethod
    def of(
        cls,
        convolution: Any,
        finer: Float[Tensor, "1 d h2 w2"],
        order: tuple[tuple[int, ...], tuple[int, ...]],
    ) -> _Doubling:
        """``order``: the current factors of height and width, coarsest first, e.g. ``((64, 2), (64, 2))``."""
        weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)
        skip = finer + convolution.bias.view(1, -1, 1, 1)
        return cls(weight, _nest(skip[0].permute(1, 2, 0), order).reshape(1, -1, weight.shape[1]))

    def __call__(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n4 d"]:
        b, n, _ = tokens.shape
        return self.skip.expand(b, n, -1).baddbmm(tokens, self.weight.expand(b, -1, -1)).view(b, 4 * n, -1)


class _Upscale:
    """``output_upscaling`` with its skip connections, then the product with the ``c`` kernels of each click."""

    def __init__(self, layers: Any, finest: Tensor, finer: Tensor):
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
    """Reorder ``(height, width, c)`` pixels so that the 2 x 2 patches of each doubling are contiguous."""
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


def square_points(
    prompt: Prompt, size: tuple[int, int], side: int
) -> tuple[Float32[np.ndarray, "n 2"], Int32[np.ndarray, " n"]]:
    """Points of a prompt in the square that the network sees, and their labels.

    The corners of a box go first, with labels 2 and 3, as ``sam2_image_predictor.py`` has it.

    Args:
        prompt: in pixels of the image.
        size: ``(H, W)`` of the image.
        side: of the square in pixels.
    """
    corners = np.empty((0, 2), np.float32) if prompt.box is None else prompt.box.reshape(2, 2)
    points = np.concatenate([corners, prompt.points])
    labels = np.concatenate([[2, 3][: len(corners)], prompt.labels]).astype(np.int32)
    return points / np.array([size[1], size[0]], np.float32) * np.float32(side), labels


def low_resolution_logits(mask: np.ndarray, size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """The logits of a mask prompt, bool in image size or logits, at the size that the prompt encoder takes.

    Raises:
        NbHelpersError: logits of another size.
    """
    logits = mask_logits(mask, size) if mask.dtype == np.bool_ else mask
    if logits.shape != tuple(size):
        raise NbHelpersError(
            "the mask logits have the wrong size", given=logits.shape, expected=f"{tuple(size)}, or a bool mask"
        )
    return np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT)


def check_own_embedding(embedding: Embedding, name: str) -> None:
    """Raise an error for the embedding of another model than ``name``."""
    if embedding.model != name:
        raise NbHelpersError(
            "the embedding belongs to another model",
            given=embedding.model,
            expected=name,
            do="encode the image with this segmenter",
        )


def feature_map(embedding: Embedding, level: int) -> Float[Tensor, "h w d"]:
    """A feature map of the mask decoder, the coarsest at level 0, at 1 and 2 twice and four times as fine.

    Raises:
        NbHelpersError: no such level.
    """
    if not 0 <= level < len(LEVELS):
        raise NbHelpersError("there is no such level of features", given=level, expected=f"0 to {len(LEVELS) - 1}")
    return embedding.tensors[LEVELS[level]][0].permute(1, 2, 0)


def chosen_candidates(
    choose: Choose,
    start: int,
    logits: Float32[np.ndarray, "b 3 h w"],
    scores: Float32[np.ndarray, "b 3"],
    size: tuple[int, int],
) -> tuple[Float32[np.ndarray, "b h w"], Float32[np.ndarray, " b"]]:
    """Logits and scores of the candidates that ``choose`` picks for the points from number ``start`` on."""
    pairs = zip(logits, scores, strict=True)
    candidates = [Prediction(masks, ious, size, masks.shape[1:], int(ious.argmax())) for masks, ious in pairs]
    index = [choose(start + i, prediction) for i, prediction in enumerate(candidates)]
    return logits[np.arange(len(index)), index], scores[np.arange(len(index)), index]
