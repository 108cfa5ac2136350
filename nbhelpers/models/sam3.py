"""SAM 3: all instances of a named concept in a photo, with masks; by words or by one box as an example.

Carion et al. 2025, SAM 3: Segment Anything with Concepts (arXiv 2511.16719); run by ``transformers``. Each name is
looked for on its own, so two names may claim one pixel; a phrase like "left of the tree" is not understood. An example
counts within its photo only: for the same thing in other photos see `nbhelpers.product_matching`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import in_precision, load_network, load_tokenizer, processed
from nbhelpers.models.dense import as_classes

if TYPE_CHECKING:
    import supervision

NETWORKS = {"sam3_video": "Sam3Model", "sam3": "Sam3Model"}
TOKENS = 32  # of a name, as Sam3Processor of transformers has it
PADDING = 49407  # CLIP's end of text
VISUAL = "visual"  # the name that stands for an example without words
SAME_IOU = 0.7  # of the boxes that two names of one class give


class Sam3ConceptSegmenter:
    """A `nbhelpers.models.protocols.ConceptSegmenter`, and by its boxes a `nbhelpers.models.protocols.Detector`.

    Example:
        >>> segmenter = nbhelpers.load("concept_segmenter", "sam3")
        >>> detections = segmenter.segment(image, ["yellow bus", ["dog", "puppy"]])      # (480, 640, 3) uint8
        >>> detections.mask.shape, detections.data["class_name"]
        ((2, 480, 640), array(['yellow bus', 'dog']))
        >>> others = segmenter.segment_similar(image, [(40, 60, 120, 200)])              # like what is in this box

    Args:
        model: ``Sam3Model`` of ``transformers``.
        tokenizer: of the package ``tokenizers``, which pads names to 32 tokens.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, device: str):
        from transformers import Sam3ImageProcessor

        self.model = model.to(device).eval().requires_grad_(False)
        self.tokenizer, self.processor = tokenizer, Sam3ImageProcessor()
        self.name, self.device = name, device
        self.side: int = model.config.image_size

    def segment(
        self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]], min_score: float = 0.5
    ) -> supervision.Detections:
        """The instances of each name, best first; see `ConceptSegmenter.segment`.

        Raises:
            NbHelpersError: no names, the same class twice, a name that is too long.
        """
        classes = as_classes(names)
        texts = [[self._text(name) for name in group] for group in classes]

        def run():
            vision = self._vision(image)
            return [[self._instances(image, vision, text, min_score) for text in group] for group in texts]

        found = self._run(run)
        return _detections(image.shape[:2], classes, found)

    def segment_similar(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        boxes: Sequence[Sequence[float]],
        labels: Sequence[int] | None = None,
        name: str | None = None,
        min_score: float = 0.5,
    ) -> supervision.Detections:
        """The instances of what some boxes show, in the same photo.

        Args:
            image: RGB.
            boxes: ``(x0, y0, x1, y1)`` in pixels, one or more.
            labels: 1 where a box shows the concept, 0 where it shows what is not meant; all 1 if left out.
            name: what it is called, if that helps.
            min_score: lowest confidence, 0 to 1.

        Raises:
            NbHelpersError: no box with label 1, or a box outside of the photo.
        """
        import torch

        corners = np.asarray(boxes, np.float32).reshape(-1, 4)
        kinds = np.ones(len(corners), np.int64) if labels is None else np.asarray(labels, np.int64)
        height, width = image.shape[:2]
        inside = (corners[:, 0] < width) & (corners[:, 1] < height) & (corners[:, 2] > 0) & (corners[:, 3] > 0)
        proper = (corners[:, 0] < corners[:, 2]) & (corners[:, 1] < corners[:, 3])
        if len(kinds) != len(corners) or not (kinds == 1).any() or not (inside & proper).all():
            raise NbHelpersError(
                "these boxes show no example",
                given=f"{corners.tolist()}, labels {kinds.tolist()}",
                expected=f"(x0, y0, x1, y1) inside {width} x {height}, one of them or more with label 1",
            )
        relative = corners / np.array([width, height, width, height], np.float32)
        centred = np.concatenate([(relative[:, :2] + relative[:, 2:]) / 2, relative[:, 2:] - relative[:, :2]], 1)
        text = self._text(name or VISUAL)

        def run():
            examples = {
                "input_boxes": torch.from_numpy(centred)[None].to(self.device),
                "input_boxes_labels": torch.from_numpy(kinds)[None].to(self.device),
            }
            return [[self._instances(image, self._vision(image), text, min_score, **examples)]]

        return _detections(image.shape[:2], ((name or VISUAL,),), self._run(run))

    def detect(
        self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str | Sequence[str]], min_score: float = 0.1
    ) -> supervision.Detections:
        """The instances of `segment`, with their masks; every one is of one of the names. See `Detector.detect`."""
        if not len(names):
            needs("text", "supervision")
            import supervision

            return supervision.Detections.empty()
        found = self.segment(image, names, min_score)
        found.data["detected"] = found.data["class_name"].copy()
        return found

    def classes(self, names: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
        """The names themselves: any noun phrase can be looked for."""
        return list(as_classes(names))

    def nearest(self, name: str, count: int = 3) -> tuple[str, ...]:
        """The name itself: any noun phrase can be looked for."""
        return (name,)[:count]

    def _vision(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        """The image features, which all names share."""
        return self.model.get_vision_features(processed(self.processor, [image], (self.side, self.side), self.device))

    def _text(self, name: str) -> tuple[list[int], list[int]]:
        """Tokens of a name and which of them count."""
        encoded = self.tokenizer.encode(name)
        if encoded.overflowing:
            raise NbHelpersError("a name is too long", given=name, expected=f"at most {TOKENS} tokens")
        return encoded.ids, encoded.attention_mask

    def _instances(
        self, image: np.ndarray, vision: Any, text: tuple[list[int], list[int]], min_score: float, **examples: Any
    ) -> dict[str, np.ndarray]:
        """``scores``, ``boxes`` and ``masks`` of one name, by the library's own post-processing."""
        import torch

        tokens, mask = (torch.tensor(part, device=self.device)[None] for part in text)
        output = self.model(vision_embeds=vision, input_ids=tokens, attention_mask=mask, **examples)
        (found,) = self.processor.post_process_instance_segmentation(
            output, threshold=min_score, mask_threshold=0.5, target_sizes=[image.shape[:2]]
        )
        arrays = {key: value.float().cpu().numpy() for key, value in found.items()}
        return {**arrays, "masks": arrays["masks"].reshape(-1, *image.shape[:2]) > 0}

    def _run(self, run: Any) -> Any:
        return in_precision(self, run)


def _detections(
    size: tuple[int, int], classes: Sequence[tuple[str, ...]], found: Sequence[Sequence[dict[str, np.ndarray]]]
) -> supervision.Detections:
    """All instances of all classes, best first; of two names of one class the better one where they agree."""
    import supervision

    parts = [(index, part) for index, group in enumerate(found) for part in group]
    boxes = np.concatenate([np.zeros((0, 4)), *(part["boxes"].reshape(-1, 4) for _, part in parts)])
    boxes = boxes.clip(0, [size[1], size[0], size[1], size[0]]).astype(np.float32)
    numbers = np.concatenate([np.zeros(0, int), *(np.full(len(part["scores"]), index) for index, part in parts)])
    scores = np.concatenate([np.zeros(0, np.float32), *(part["scores"] for _, part in parts)])
    masks = np.concatenate([np.zeros((0, *size), bool), *(part["masks"] for _, part in parts)])
    detections: Any = supervision.Detections(boxes, mask=masks, confidence=scores, class_id=numbers)
    if any(len(group) > 1 for group in found) and len(detections):
        detections = detections.with_nms(SAME_IOU)
    detections = detections[np.argsort(-detections.confidence, kind="stable")]
    detections.data["class_name"] = np.array([classes[index][0] for index in detections.class_id], str)
    return detections


def build(name: str, files: dict[str, Path], device: str) -> Sam3ConceptSegmenter:
    """Build it from the roles ``checkpoint``, ``config`` and ``tokenizer``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, do not belong together, or are no SAM 3.
    """
    needs("official", "transformers")
    needs("text", "supervision")
    model = load_network(name, files, NETWORKS)
    text = model.config.text_config
    padding = min(PADDING, text.vocab_size - 1)
    tokenizer = load_tokenizer(name, files, TOKENS, padding, text.vocab_size)
    return Sam3ConceptSegmenter(model, tokenizer, name, device)
