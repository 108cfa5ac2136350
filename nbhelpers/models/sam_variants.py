"""Successors of SAM 2 that keep its prompts, mask decoder and memory, by ``transformers``: for photos and for clips.

EdgeTAM (Zhou et al. 2025, arXiv 2501.07256): SAM 2 with a RepViT and a perceiver, fast enough for a phone. SAM 3's
tracker (Carion et al. 2025, arXiv 2511.16719): the same prompts on the features of a larger encoder.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from nbhelpers.core.device import in_batches
from nbhelpers.core.lazy import needs
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.adapters import in_precision, load_network, processed
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.sam2 import (
    LEVELS,
    check_own_embedding,
    chosen_candidates,
    feature_map,
    low_resolution_logits,
    square_points,
)
from nbhelpers.models.tracking import (
    CONDITIONED,
    MAX_CONDITIONING,
    TRACKED,
    MemoryState,
    MemoryTracker,
    Output,
    RememberedObject,
    confidence,
    full_mask,
)
from nbhelpers.models.values import Choose, Embedding, Prediction, is_mask_prompt

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
VIDEO_NETWORKS = {
    "edgetam_video": "EdgeTamVideoModel",
    "sam2_video": "Sam2VideoModel",
    "sam3_video": "Sam3TrackerVideoModel",
}


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


class LazyPixels:
    """Stands for the library's tensor of all frames: reads and normalises a frame when it is asked for, keeps none."""

    def __init__(self, frames: FrameSequence, processor: Any, side: int):
        self.frames, self.processor, self.side = frames, processor, side

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        """``(3, side, side) float32``, on the CPU."""
        return processed(self.processor, [self.frames[index]], (self.side, self.side), "cpu")[0]


class VariantTracker(MemoryTracker):
    """Promptable video segmentation; a `nbhelpers.models.protocols.Tracker`.

    Example:
        >>> tracker = nbhelpers.load("tracker", "edgetam-video")
        >>> state = tracker.open(Frames("walk.mp4"))
        >>> tracker.add(state, 0, 1, Prompt(points=[(320, 200)])).best.shape
        (480, 854)
        >>> masks = {t.frame: t.predictions[1].best for t in tracker.propagate(state, 0, 79)}

    Args:
        model: ``EdgeTamVideoModel``, ``Sam2VideoModel`` or ``Sam3TrackerVideoModel`` of ``transformers``.
        processor: the image processor of the same family.
        name: its catalog name.
        device: where it computes.
    """

    def __init__(self, model: Any, processor: Any, name: str, device: str):
        past = max(model.num_maskmem, model.config.max_object_pointers_in_encoder)
        super().__init__(model.requires_grad_(False), name, device, past)
        self.processor = processor
        self.side: int = model.image_size
        if model.config.max_cond_frame_num < 0:  # all of them: the memory of a frame would grow with the prompts
            model.config.max_cond_frame_num = MAX_CONDITIONING
        self._encodes_memory = "run_mem_encoder" in inspect.signature(model._run_single_frame_inference).parameters
        self._last_iou = 0.0
        model.mask_decoder.register_forward_hook(self._note_iou)

    def open(self, frames: FrameSequence) -> MemoryState:
        """A new state for a clip; no frame is decoded yet."""
        import torch

        library = sys.modules[type(self.model).__module__]
        kind = getattr(library, type(self.model).__name__.replace("VideoModel", "VideoInferenceSession"))
        session = kind(inference_device=self.device, inference_state_device=self.device, dtype=torch.float32)
        session.processed_frames = LazyPixels(frames, self.processor, self.side)
        return MemoryState(frames, session, self.device)

    def _move(self, state: MemoryState) -> None:
        state.session.cache.clear_all()
        for holder in (state.session, state.session.cache):
            holder.inference_device = holder.inference_state_device = self.device

    def _encode(self, state: MemoryState, frame: int) -> None:
        self.model._prepare_vision_features(state.session, frame, 1)

    def _register(self, state: MemoryState, item: RememberedObject) -> None:
        state.session.output_dict_per_obj[item.object_id] = item.outputs

    def _predict(
        self, state: MemoryState, item: RememberedObject, frame: int, prompt: Prompt, reverse: bool | None
    ) -> Output:
        size = state.frames.size
        others = {other: output for other, output in item.outputs[CONDITIONED].items() if other != frame}
        state.session.output_dict_per_obj[item.object_id] = {CONDITIONED: others, TRACKED: item.outputs[TRACKED]}
        if is_mask_prompt(prompt):
            inputs = {"mask_inputs": self._square_mask(full_mask(prompt, size))}
        else:
            corrected = self._corrected(prompt, item.before[frame].logits)
            inputs = {"point_inputs": self._point_inputs(prompt, size), "prev_sam_mask_logits": corrected}
        return self._infer(state, item, frame, bool(reverse), initial=reverse is None, **inputs)

    def _step(self, state: MemoryState, item: RememberedObject, frame: int, reverse: bool) -> Output:
        return self._infer(state, item, frame, reverse)

    def _infer(
        self,
        state: MemoryState,
        item: RememberedObject,
        frame: int,
        reverse: bool,
        initial: bool = False,
        **inputs: Any,
    ) -> Output:
        """Output and confidence on an encoded frame; an initial one is predicted without the memory of others."""
        prompts = dict.fromkeys(("point_inputs", "mask_inputs", "prev_sam_mask_logits")) | inputs
        output = self.model._run_single_frame_inference(
            inference_session=state.session,
            frame_idx=frame,
            obj_idx=item.object_id,
            batch_size=1,
            is_init_cond_frame=initial,
            reverse=reverse,
            **prompts,
            **({"run_mem_encoder": True} if self._encodes_memory else {}),
        )
        high = output.pop("high_res_masks", None)
        if not self._encodes_memory:
            features = state.session.cache.get_vision_features(frame)["vision_feats"][-1]
            output["maskmem_features"], output["maskmem_pos_enc"] = self.model._encode_new_memory(
                current_vision_feats=features,
                pred_masks_high_res=high,
                object_score_logits=output["object_score_logits"],
                is_mask_from_pts=bool(inputs),
            )
        return output, confidence(output, self._last_iou)

    def _point_inputs(self, prompt: Prompt, size: tuple[int, int]) -> dict[str, Tensor]:
        """Points and the corners of the box, as the library's own sessions have them."""
        import torch

        points, labels = square_points(prompt, size, self.side)
        return {
            "point_coords": torch.from_numpy(points)[None, None].to(self.device),
            "point_labels": torch.from_numpy(labels)[None, None].to(self.device),
        }

    def _corrected(self, prompt: Prompt, tracked: Tensor | None) -> Tensor | None:
        """``(1, 1, h, w)`` logits that points and box correct: the mask of the prompt, else the tracked one."""
        import torch

        if prompt.mask is None:
            return tracked
        logits = low_resolution_logits(prompt.mask, self.model.prompt_encoder.mask_input_size)
        return torch.from_numpy(logits)[None, None].to(self.device)

    def _square_mask(self, mask: np.ndarray) -> Tensor:
        """A mask in the network's square, as ``process_new_mask_for_video_frame`` of ``transformers`` has it."""
        import torch

        given = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float().to(self.device)
        if given.shape[-2:] == (self.side, self.side):
            return given
        scaled = torch.nn.functional.interpolate(given, (self.side, self.side), mode="bilinear", antialias=True)
        return (scaled >= 0.5).float()

    def _note_iou(self, decoder: Any, given: Any, result: tuple[Tensor, ...]) -> None:
        """Note the predicted IoU, which the library drops."""
        self._last_iou = float(result[1].max())


def build_tracker(name: str, files: dict[str, Path], device: str) -> VariantTracker:
    """Build a tracker from the roles ``checkpoint`` and ``config``; nothing is downloaded.

    Raises:
        NbHelpersError: the files are damaged, of another network, or do not belong together.
    """
    return VariantTracker(*load_variant(name, files, VIDEO_NETWORKS), name, device)
