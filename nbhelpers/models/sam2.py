"""SAM 2 and 2.1 for images, through Meta's ``sam2`` package.

Ravi et al. 2024, arXiv 2408.00714. Checkpoints: the publisher's eight ``.pt`` files, or the safetensors file that
`nbhelpers.weights.convert` makes of the lite set.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Shaped, UInt8

from nbhelpers.core.compute import autocast, in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.room import with_room
from nbhelpers.models.sam2_points import PointDecoder, chosen
from nbhelpers.models.values import Choose, Embedding, Prediction
from nbhelpers.models.weights import read_weights
from nbhelpers.weights.convert import sam2_state_dict, save_state_dict

if TYPE_CHECKING:
    import torch

SAM2_VERSION = "1.1.0"
LOGIT_LIMIT = 32.0  # sam2_image_predictor.py clamps logits to this before they are used as a prompt
BATCH = {"cpu": 1, "mps": 32, "cuda": 128}  # one click's 20 MB of features stay in a CPU's cache, more do not
ONLY_FOR_VIDEO = (
    "mask_downsample.", "maskmem_tpos_enc", "memory_attention.", "memory_encoder.", "no_mem_pos_enc",
    "no_obj_ptr", "no_obj_embed_spatial", "obj_ptr_proj.", "obj_ptr_tpos_proj.",
    "sam_mask_decoder.pred_obj_score_head.",
)  # fmt: skip
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Sam2Segmenter:
    """Promptable image segmentation with SAM 2; a `nbhelpers.models.protocols.Segmenter`.

    Example:
        >>> segmenter = nbhelpers.load("segmenter", "sam2.1-hiera-large")
        >>> prediction = segmenter.predict(segmenter.encode(image), Prompt(points=[(320, 200)]))
        >>> prediction.best.shape, prediction.scores.shape
        ((480, 640), (4,))

    When the device's memory is full it goes on with smaller batches, then on the CPU, and warns.

    Args:
        model: ``sam2.modeling.sam2_base.SAM2Base`` in evaluation mode.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: torch.nn.Module, name: str, device: str):
        import torch

        self.model = model.to(device).eval()
        # the trunk works on (b, h, w, c); with convolutions in the same order nothing is transposed: 7 % less time
        self.model.image_encoder.to(memory_format=torch.channels_last)
        self.name, self.device = name, device

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """Image features: ``image_embed (1, 256, 64, 64)``, ``high_res_feats_0`` and ``_1`` at 256 and 128."""

        def run():
            model = self.model
            backbone = model.forward_image(self._pixels(image))
            _, features, _, sizes = model._prepare_backbone_features(backbone)
            if model.directly_add_no_mem_embed:
                features[-1] = features[-1] + model.no_mem_embed
            maps = [f.permute(1, 2, 0).reshape(1, -1, *size) for f, size in zip(features, sizes, strict=True)]
            names = [f"high_res_feats_{i}" for i in range(len(maps) - 1)] + ["image_embed"]
            return Embedding(image.shape[:2], self.name, dict(zip(names, maps, strict=True)))

        return self._with_room(run)

    def predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        """Four candidates; the choice is what upstream's predictor would return for the same prompt.

        A single including click takes the best of candidates 1 to 3 by predicted IoU; any other prompt takes
        candidate 0 unless it is unstable (``_dynamic_multimask_via_stability``, sam2's mask_decoder.py).
        """
        prompt.check_inside(embedding.size)

        def run():
            coordinates, labels = self._points(prompt, embedding.size)
            points = None if coordinates is None else (coordinates, labels)
            sparse, dense = self.model.sam_prompt_encoder(points=points, boxes=None, masks=self._mask_input(prompt))
            decoder = self.model.sam_mask_decoder
            image_embed, fine = self._features(embedding)
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

        logits, scores, choice = self._with_room(run)
        return Prediction(logits, scores, embedding.size, logits.shape[1:], choice)

    def predict_points(
        self, embedding: Embedding, points: Shaped[np.ndarray, "n 2"], choose: Choose | None = None
    ) -> Prediction:
        """The best candidate of each point, decoded in batches on the same features.

        Args:
            embedding: of the image.
            points: ``(n, 2)``, ``(x, y)`` pixels; each is a single including click of its own.
            choose: picks the candidate instead; called with a point's number and its three candidates. A batch that
                does not fit into memory is asked again, so the same question may come twice.
        """
        prompt = Prompt(points=points).check_inside(embedding.size)

        def run():
            decoder = PointDecoder(self.model, *self._features(embedding))
            coordinates, _ = self._points(prompt, embedding.size)

            def decode(start, stop):
                ask = decoder if choose is None else decoder.candidates
                logits, scores = (answer.float().cpu().numpy() for answer in ask(coordinates[0, start:stop]))
                return (logits, scores) if choose is None else chosen(choose, start, logits, scores, embedding.size)

            batch = BATCH[self.device.partition(":")[0]]
            return list(in_batches(decode, len(prompt.points), batch, "points"))

        parts = self._with_room(run)
        logits, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Prediction(logits, scores, embedding.size, logits.shape[1:], int(scores.argmax()))

    def _pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> torch.Tensor:
        """``(1, 3, side, side)``: scaled, squeezed to a square and normalised as ``SAM2Transforms`` does.

        One channel at a time, since the float copy of a 54-megapixel photo alone is 650 MB.
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

        corners = np.empty((0, 2), np.float32) if prompt.box is None else prompt.box.reshape(2, 2)
        points = np.concatenate([corners, prompt.points])
        if not len(points):
            return None, None
        labels = np.concatenate([[2, 3][: len(corners)], prompt.labels]).astype(np.int32)
        square = points / np.array([size[1], size[0]], np.float32) * np.float32(self.model.image_size)
        coordinates = torch.from_numpy(square)[None].to(self.device)
        return coordinates, torch.from_numpy(labels)[None].to(self.device)

    def _mask_input(self, prompt: Prompt) -> torch.Tensor | None:
        """``(1, 1, 256, 256)`` logits of a mask prompt."""
        import torch

        if prompt.mask is None:
            return None
        size = self.model.sam_prompt_encoder.mask_input_size
        logits = prompt.mask
        if logits.dtype == np.bool_:
            logits = mask_logits(logits, size)
        if logits.shape != tuple(size):
            raise NbHelpersError(
                "the mask logits have the wrong size", given=logits.shape, expected=f"{tuple(size)}, or a bool mask"
            )
        logits = np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT)
        return torch.from_numpy(logits)[None, None].to(self.device)

    def _features(self, embedding: Embedding) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if embedding.model != self.name:
            raise NbHelpersError(
                "the embedding was made by another model",
                given=embedding.model,
                expected=self.name,
                do="encode the image with the segmenter that answers",
            )
        maps = {name: value.to(self.device) for name, value in embedding.tensors.items()}
        return maps["image_embed"], [maps["high_res_feats_0"], maps["high_res_feats_1"]]

    def _with_room(self, run: Callable[[], Result]) -> Result:
        def in_its_precision() -> Result:
            with autocast(self.device):
                return run()

        return with_room(self, in_its_precision)


def build(name: str, files: dict[str, Path], device: str, *, config: str) -> Sam2Segmenter:
    """Build a segmenter from a checkpoint file.

    Args:
        name: catalog name.
        files: ``{"checkpoint": path}``, the publisher's ``.pt`` or a ``.safetensors`` of the image part.
        device: where it computes.
        config: the model's yaml in the ``sam2`` package, e.g. ``configs/sam2.1/sam2.1_hiera_l.yaml``.

    Raises:
        NbHelpersError: ``sam2`` is not installed, or the checkpoint is damaged or of another model.
    """
    model = build_model(config)
    load_weights(model, files["checkpoint"])
    return Sam2Segmenter(model, name, device)


def build_lite(name: str, files: dict[str, Path], device: str, *, config: str) -> Sam2Segmenter:
    """Build a segmenter from the two ONNX files of the lite set, ``{"encoder": path, "decoder": path}``.

    They are converted once; the official state dict is kept beside them as ``<name>.safetensors``, where the folder
    can be written.
    """
    import torch

    model = build_model(config)
    kept = files["encoder"].with_name(f"{name}.safetensors")
    if kept.is_file() and kept.stat().st_mtime >= files["encoder"].stat().st_mtime:
        try:
            load_weights(model, kept)
            return Sam2Segmenter(model, name, device)
        except NbHelpersError as error:
            log.warning("converting again, since %s", error.what)
    log.info("converting %s (once, about 5 s)", files["encoder"].name)
    state = sam2_state_dict(files["encoder"], files["decoder"])
    try:
        save_state_dict(state, kept)
    except NbHelpersError as error:
        log.warning("the converted weights are not kept: %s", error.given)
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


def build_model(config: str, *overrides: str) -> torch.nn.Module:
    """The untrained network of a ``sam2`` configuration, on the CPU.

    Args:
        config: the yaml in the ``sam2`` package.
        overrides: changes to it in Hydra's syntax, e.g. ``"++model.image_size=512"``.
    """
    return builders().build_sam2(config, None, device="cpu", hydra_overrides_extra=list(overrides))


def load_weights(model: torch.nn.Module, path: Path) -> list[str]:
    """Load a checkpoint into ``model``; weights that only video needs may be absent, and are then told.

    Raises:
        NbHelpersError: the file is damaged, would run code (see `read_weights`), or is of another model.
    """
    state = read_weights(path, "the publisher's checkpoint of this very model")
    state = state.get("model", state)  # the publisher's files hold it under this name
    return _fill(model, state, path)


def _fill(model: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> list[str]:
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes differ
        raise NbHelpersError(
            "the checkpoint is of another model",
            given=f"{path}: {str(error).splitlines()[1].strip()}",
            expected="the weights of this very model",
        ) from error
    missing = [key for key in result.missing_keys if not key.startswith(ONLY_FOR_VIDEO)]
    if missing or result.unexpected_keys:
        raise NbHelpersError(
            "the checkpoint is of another model",
            given=f"{path}: {len(missing)} weights missing, {len(result.unexpected_keys)} unknown, "
            f"e.g. {(missing + result.unexpected_keys)[0]}",
            expected="the weights of this very model",
        )
    if result.missing_keys:
        log.debug("%s has no weights for video", path.name)
    return result.missing_keys
