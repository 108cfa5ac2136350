"""MobileSAM on ONNX Runtime: a small segmenter with a fast encoder.

Zhang et al. 2023, arXiv 2306.14289 (a distilled encoder, the decoder of Segment Anything, arXiv 2304.02643).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import LOW_RES_FACTOR, mask_logits
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.adapters import onnx_session
from nbhelpers.models.values import Choose, Embedding, Prediction

if TYPE_CHECKING:
    pass

SIDE = 1024
LOW_RES = SIDE // LOW_RES_FACTOR
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
ALL_MASKS = "/MatMul_1_output_0"  # inside the graph, before it picks one mask: (1, 4, 65536) logits
ALL_IOUS = "/iou_prediction_head/layers.2/Gemm_output_0"  # (1, 4)
PADDING_POINT, CORNERS = -1, (2, 3)


class MobileSamSegmenter:
    """Promptable image segmentation with MobileSAM; a `nbhelpers.models.protocols.Segmenter`.

    Example:
        >>> segmenter = nbhelpers.load("segmenter", "mobilesam")
        >>> segmenter.predict(segmenter.encode(image), Prompt(points=[(320, 200)])).masks.shape
        (4, 480, 640)

    Args:
        encoder: session of the image encoder.
        decoder: session of the prompt encoder and mask decoder, with outputs `ALL_MASKS` and `ALL_IOUS`.
        name: catalog name.
        device: ``"cpu"``, or ``"cuda"`` where ONNX Runtime can use it.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        name: str = "mobilesam",
        device: str = "cpu",
    ):
        self.encoder, self.decoder = encoder, decoder
        self.name, self.device = name, device

    def encode(self, image: UInt8[np.ndarray, "h w 3"]) -> Embedding:
        """Image features ``image_embeddings (1, 256, 64, 64) float32``."""
        from PIL import Image

        height, width = _scaled(image.shape[:2])
        small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        pixels = np.zeros((1, 3, SIDE, SIDE), np.float32)
        pixels[0, :, :height, :width] = ((small - MEAN) / STD).transpose(2, 0, 1)
        (features,) = self.encoder.run(None, {self.encoder.get_inputs()[0].name: pixels})
        return Embedding(image.shape[:2], self.name, {"image_embeddings": features})

    def predict(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        """All four candidates; the choice is among 1 to 3 for a single including point, else 0 (SAM's rule)."""
        prompt.check_inside(embedding.size)
        if embedding.model != self.name:
            raise NbHelpersError("the embedding belongs to another model", given=embedding.model, expected=self.name)
        height, width = _scaled(embedding.size)
        points, labels = _points(prompt, np.array([width, height]) / np.array(embedding.size[::-1]))
        feeds = {
            "image_embeddings": embedding.tensors["image_embeddings"],
            "point_coords": points[None],
            "point_labels": labels[None],
            "mask_input": _mask_input(prompt, (height, width)),
            "has_mask_input": np.array([prompt.mask is not None], np.float32),
            "orig_im_size": np.array(embedding.size, np.float32),
        }
        logits, ious = self.decoder.run([ALL_MASKS, ALL_IOUS], feeds)
        logits, ious = logits.reshape(-1, LOW_RES, LOW_RES), ious[0]
        choice = 1 + int(ious[1:].argmax()) if prompt.is_ambiguous else 0
        return Prediction(logits, ious, embedding.size, (height / LOW_RES_FACTOR, width / LOW_RES_FACTOR), choice)

    def predict_points(
        self, embedding: Embedding, points: Shaped[np.ndarray, "n 2"], choose: Choose | None = None
    ) -> Prediction:
        """The best candidate of each point, or the one that ``choose`` selects.

        The ONNX graph processes one prompt at a time, so this is a loop.
        """
        kept = []
        for number, point in enumerate(Prompt(points=points).points):
            prediction = self.predict(embedding, Prompt(points=[point]))
            candidates = Prediction(
                prediction.logits[1:],
                prediction.scores[1:],
                prediction.size,
                prediction.extent,
                max(0, prediction.choice - 1),
            )
            index = candidates.choice if choose is None else choose(number, candidates)
            kept.append((candidates.logits[index].copy(), candidates.scores[index]))
        logits, scores = (np.stack(part).astype(np.float32) for part in zip(*kept, strict=True))
        return Prediction(logits, scores, embedding.size, candidates.extent, int(scores.argmax()))


def build(name: str, files: dict[str, Path], device: str) -> MobileSamSegmenter:
    """Build a segmenter from ``{"encoder": path, "decoder": path}``.

    Raises:
        NbHelpersError: a file that ONNX Runtime cannot read, or another graph.
    """
    import onnx

    try:
        encoder, device = onnx_session(files["encoder"], device)
        model = onnx.load(str(files["decoder"]))
        del model.graph.output[:]  # drops the nodes that resize masks to the size of the photo
        for tensor in (ALL_MASKS, ALL_IOUS):
            model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
        decoder, _ = onnx_session(model.SerializeToString(), device)
    except Exception as error:  # onnxruntime's and protobuf's exceptions have no public base
        raise NbHelpersError(
            "the model files cannot be loaded",
            given=f"{files['encoder'].name}, {files['decoder'].name}: {str(error).splitlines()[0]}",
            do=f"nbhelpers fetch {name}",
        ) from error
    return MobileSamSegmenter(encoder, decoder, name, device)


def _scaled(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width when the longer side is 1024; at least 1."""
    scale = SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _points(
    prompt: Prompt, scale: Shaped[np.ndarray, " 2"]
) -> tuple[Float32[np.ndarray, "n 2"], Float32[np.ndarray, " n"]]:
    """Clicks, then either the two corners of the box or SAM's padding point."""
    if prompt.box is None:
        extra, codes = np.zeros((1, 2), np.float32), [PADDING_POINT]
    else:
        extra, codes = prompt.box.reshape(2, 2) * scale, CORNERS
    points = np.concatenate([prompt.points * scale, extra])
    return points.astype(np.float32), np.concatenate([prompt.labels, codes]).astype(np.float32)


def _mask_input(prompt: Prompt, scaled: tuple[int, int]) -> Float32[np.ndarray, "1 1 256 256"]:
    logits = np.zeros((LOW_RES, LOW_RES), np.float32)
    if prompt.mask is not None and prompt.mask.dtype == np.float32:
        if prompt.mask.shape != logits.shape:
            raise NbHelpersError(
                "the mask logits have the wrong size",
                given=prompt.mask.shape,
                expected=f"{logits.shape}, or a bool mask",
            )
        logits = prompt.mask
    elif prompt.mask is not None:
        height, width = (max(1, round(side / LOW_RES_FACTOR)) for side in scaled)
        logits -= 10  # the padding is outside
        logits[:height, :width] = mask_logits(prompt.mask, (height, width))
    return np.ascontiguousarray(logits)[None, None]
