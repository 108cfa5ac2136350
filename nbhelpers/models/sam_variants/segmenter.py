"""Promptable image segmentation by the networks of ``transformers`` that have SAM 2's prompt encoder and decoder.

EdgeTAM (Zhou et al. 2025, arXiv 2501.07256): SAM 2 with a RepViT and a perceiver, fast enough for a phone. SAM 3's
tracker (Carion et al. 2025, arXiv 2511.16719): the same prompts on the features of a larger encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from nbhelpers.core.device import in_batches
from nbhelpers.core.lazy import needs
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.adapters import in_precision
from nbhelpers.models.pretrained import load_network, processed
from nbhelpers.models.sam_prompts import (
    LEVELS,
    check_own_embedding,
    chosen_candidates,
    feature_map,
    low_resolution_logits,
    square_points,
)
from nbhelpers.models.values import Choose, Embedding, Prediction

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = {
    "edgetam_video": "EdgeTamModel",
    "sam2_video": "Sam2Model",
    "sam3_video": "Sam3TrackerModel",
}
PROCESSORS = {
    "edgetam_video": "Sam2ImageProcessor",
    "sam2_video": "Sam2ImageProcessor",
    "sam3_video": "Sam3ImageProcessor",
}
BATCH = {"cpu": 4, "mps": 32, "cuda": 64}  # the library repeats the image's features for each point
Result = TypeVar("Result")


class VariantSegmenter:
    """A `nbhelpers.models.protocols.FeatureSegmenter` with SAM 2's prompts.

    Example:
        >>> segmenter = nbhelpers.load("segmenter", "edgetam")
        >>> segmenter.predict(segmenter.encode(image), Prompt(points=[(320, 200)])).best.shape
        (480, 640)

    When the device's memory is full it continues with smaller batches, then on the CPU, and warns.

    Args:
        model: ``EdgeTamModel``, ``Sam2Model`` or ``Sam3TrackerModel`` of ``transformers``.
        processor: the image processor of the same family.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: Any, processor: Any, name: str, device: str):
        self.model = model.to(device).eval().requires_grad_(False)
        self.processor, self.name, self.device = processor, name, device
        self.side = model.prompt_encoder.input_image_size
        # asked for one mask, the library hands all four to this rule; here the caller gets them all and chooses
        model.mask_decoder.dynamic_multimask_via_stability = True
        model.mask_decoder._dynamic_multimask_via_stability = lambda masks, scores: (masks, scores)

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """Image features: ``image_embed``, and ``high_res_feats_1`` and ``_0`` twice and four times as fine."""

        def run():
            maps = self.model.get_image_embeddings(
                processed(self.processor, [image], (self.side, self.side), self.device)
            )
            return Embedding(image.shape[:2], self.name, dict(zip(LEVELS, reversed(maps), strict=True)))

        return self._run(run)

    def features(self, embedding: Embedding, level: int = 0) -> Float[Tensor, "h w d"]:
        """A feature map of the mask decoder; level 0 is the coarsest.

        Raises:
            NbHelpersError: another model's embedding, or no such level.
        """
        check_own_embedding(embedding, self.name)
        return feature_map(embedding, level)

    def predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        """Four candidates; the choice is what the library's own pipeline returns for the same prompt.

        A single including click takes the best of candidates 1 to 3 by predicted IoU; any other prompt takes
        candidate 0 unless it is unstable (``_dynamic_multimask_via_stability`` of ``transformers``).
        """
        prompt.check_inside(embedding.size)

        def run():
            points, labels = square_points(prompt, embedding.size, self.side)
            logits, scores = self._decode(embedding, points[None], labels[None], prompt.mask)
            decoder = self.model.mask_decoder
            stable = decoder._get_stability_scores(logits[:, :1]) >= decoder.dynamic_multimask_stability_thresh
            choice = 0 if bool(stable) and not prompt.is_ambiguous else 1 + int(scores[0, 1:].argmax())
            return logits[0].float().cpu().numpy(), scores[0].float().cpu().numpy(), choice

        logits, scores, choice = self._run(run)
        return Prediction(logits, scores, embedding.size, logits.shape[1:], choice)

    def predict_points(
        self, embedding: Embedding, points: Shaped[np.ndarray, "n 2"], choose: Choose | None = None
    ) -> Prediction:
        """The best candidate of each point, decoded in batches on the same features; see `Segmenter`."""
        prompt = Prompt(points=points).check_inside(embedding.size)

        def run():
            coordinates, labels = square_points(prompt, embedding.size, self.side)

            def decode(start, stop):
                outputs = self._decode(embedding, coordinates[start:stop, None], labels[start:stop, None])
                logits, scores = (output[:, 1:].float().cpu().numpy() for output in outputs)
                pick = choose or (lambda _, candidates: candidates.choice)
                return chosen_candidates(pick, start, logits, scores, embedding.size)

            return list(in_batches(decode, len(coordinates), BATCH[self.device.partition(":")[0]], "points"))

        parts = self._run(run)
        logits, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Prediction(logits, scores, embedding.size, logits.shape[1:], int(scores.argmax()))

    def _decode(
        self,
        embedding: Embedding,
        points: Float[np.ndarray, "b n 2"],
        labels: Shaped[np.ndarray, "b n"],
        mask: np.ndarray | None = None,
    ) -> tuple[Float[Tensor, "b 4 h w"], Float[Tensor, "b 4"]]:
        """Low-resolution logits and predicted IoU of all candidates of a batch of prompts."""
        import torch

        check_own_embedding(embedding, self.name)
        inputs = {}
        if points.shape[1]:
            inputs["input_points"] = torch.from_numpy(points)[None].to(self.device)
            inputs["input_labels"] = torch.from_numpy(labels)[None].to(self.device)
        if mask is not None:
            logits = low_resolution_logits(mask, self.model.prompt_encoder.mask_input_size)
            inputs["input_masks"] = torch.from_numpy(logits)[None, None].to(self.device)
        maps = [embedding.tensors[name].to(self.device) for name in reversed(LEVELS)]
        output = self.model(image_embeddings=maps, multimask_output=False, **inputs)
        return output.pred_masks[0], output.iou_scores[0]

    def _run(self, run: Callable[[], Result]) -> Result:
        return in_precision(self, run)


def load_variant(name: str, files: Mapping[str, Path], networks: Mapping[str, str]) -> tuple[Any, Any]:
    """The network of a checkpoint, for photos or for clips, and the image processor of its family.

    Raises:
        NbHelpersError: the files are damaged, of another network, or do not belong together.
    """
    needs("official", "transformers", "timm")  # timm has the encoder of EdgeTAM
    import json

    import transformers

    model = load_network(name, files, networks)
    family = json.loads(files["config"].read_text(encoding="utf-8"))["model_type"]
    return model, getattr(transformers, PROCESSORS[family])()


def build_segmenter(name: str, files: dict[str, Path], device: str) -> VariantSegmenter:
    """Build a segmenter from the roles ``checkpoint`` and ``config``; nothing is downloaded.

    The publishers' one checkpoint holds the networks for photos and for clips.

    Raises:
        NbHelpersError: as `load_variant`.
    """
    return VariantSegmenter(*load_variant(name, files, NETWORKS), name, device)
