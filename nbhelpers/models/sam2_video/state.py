"""What a SAM 2 tracker knows of one clip: prompts, what the network remembers, and how both are saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import upsample
from nbhelpers.core.prompts import INCLUDE, Prompt
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.models.tracks import by_object

if TYPE_CHECKING:
    import torch

    from nbhelpers.models.sam2_video.network import VideoPredictor

FORWARD, BACKWARD = 1, 2
REMEMBERED = ("maskmem_features", "pred_masks", "obj_ptr", "object_score_logits")


class Before(NamedTuple):
    """What was on a frame before it was prompted; its prompts correct this, however often they change.

    Attributes:
        direction: how it had been tracked; 0 if it had not.
        logits: the low-resolution mask ``(1, 1, h, w)``, if it was still known.
    """

    direction: int
    logits: torch.Tensor | None


@dataclass(eq=False)
class TrackState:
    """A clip with its prompts and what the network remembers of its objects.

    Attributes:
        frames: the clip.
        inference: upstream's ``inference_state``.
        prompts: by object id, by frame: all that was said.
        tracked: by object id, for each frame how it was last tracked (0: not yet).
        before: by object id and frame, see `Before`.
        scores: by object id and prompted frame, the confidence.
        changed: objects whose prompts changed since they were last followed.
    """

    frames: FrameSequence
    inference: dict[str, Any] = field(repr=False)
    prompts: dict[int, dict[int, Prompt]] = field(default_factory=dict)
    tracked: dict[int, bytearray] = field(default_factory=dict, repr=False)
    before: dict[tuple[int, int], Before] = field(default_factory=dict, repr=False)
    scores: dict[tuple[int, int], float] = field(default_factory=dict, repr=False)
    changed: set[int] = field(default_factory=set)

    def outputs(self, object_id: int) -> dict[str, dict[int, dict]]:
        """``cond_frame_outputs`` and ``non_cond_frame_outputs`` of an object, by frame."""
        return self.inference["output_dict_per_obj"][self.inference["obj_id_to_idx"][object_id]]

    def found_before(self, object_id: int, frame: int) -> Before:
        """What was on a frame before it was first prompted; noted at the first call, until it is tracked again."""
        if (object_id, frame) not in self.before:
            output = self.outputs(object_id)["non_cond_frame_outputs"].get(frame)
            logits = None if output is None else output["pred_masks"]
            self.before[object_id, frame] = Before(self.tracked[object_id][frame], logits)
        return self.before[object_id, frame]

    def trim(self, object_id: int, frame: int, kept: int) -> None:
        """Drop what is remembered of unprompted frames more than ``kept`` away."""
        outputs = self.outputs(object_id)["non_cond_frame_outputs"]
        for far in [other for other in outputs if abs(other - frame) > kept]:
            del outputs[far]

    def forget(self, object_id: int) -> None:
        """Drop all notes on an object that upstream no longer knows."""
        del self.prompts[object_id], self.tracked[object_id]
        self.changed.discard(object_id)
        for notes in (self.before, self.scores):
            for key in [key for key in notes if key[0] == object_id]:
                del notes[key]

    def on(self, device: torch.device) -> dict[str, Any]:
        """The inference state on a device, brought there if it is elsewhere; image features are then computed anew."""
        if self.inference["device"] != device:
            from nbhelpers.models.sam2_video.network import moved

            images = self.inference["images"]
            self.inference.update(moved({k: v for k, v in self.inference.items() if k != "images"}, device))
            self.inference.update(images=images, cached_features={}, device=device, storage_device=device)
            self.before = {key: Before(b.direction, moved(b.logits, device)) for key, b in self.before.items()}
        return self.inference

    def check(self, frame: int) -> None:
        """See that there is such a frame.

        Raises:
            NbHelpersError: there is not.
        """
        if not 0 <= frame < len(self.frames):
            raise NbHelpersError("there is no such frame", given=frame, expected=f"0 to {len(self.frames) - 1}")


def is_mask(prompt: Prompt) -> bool:
    """Whether a prompt is a mask alone, to be taken as it is."""
    return prompt.mask is not None and prompt.box is None and not len(prompt.points)


def only_excludes(prompt: Prompt) -> bool:
    """Whether a prompt says what is not the object, and so needs a mask to be taken from."""
    return prompt.mask is None and prompt.box is None and INCLUDE not in prompt.labels


def full_mask(prompt: Prompt, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of a prompt at frame size."""
    return prompt.mask if prompt.mask.dtype == np.bool_ else upsample(prompt.mask, prompt.mask.shape, size) > 0


def remembered(state: TrackState, frame: int) -> dict[str, np.ndarray]:
    """Arrays by ``<object id>/<what>``: all that the state holds of one frame."""
    from nbhelpers.models.sam2_video.network import packed

    arrays = {}
    for object_id, said in state.prompts.items():
        kind = "cond_frame_outputs" if frame in said else "non_cond_frame_outputs"
        if (output := state.outputs(object_id)[kind].get(frame)) is not None:
            arrays |= {f"{object_id}/{name}": packed(output[name]) for name in REMEMBERED}
        direction, logits = state.before.get((object_id, frame), (state.tracked[object_id][frame], None))
        arrays[f"{object_id}/direction"] = np.array(direction, np.uint8)
        if logits is not None:
            arrays[f"{object_id}/before"] = packed(logits)
        if frame in said:
            arrays[f"{object_id}/score"] = np.array(state.scores[object_id, frame])
    return arrays


def put_back(
    state: TrackState,
    model: VideoPredictor,
    device: str,
    frame: int,
    arrays: Mapping[str, np.ndarray],
    prompts: Mapping[int, Prompt],
) -> None:
    """Put back what `remembered` gave; ``prompts`` are those of this frame, by object id.

    Raises:
        NbHelpersError: the arrays and the prompts do not fit.
    """
    from nbhelpers.models.sam2_video.network import unpacked

    for object_id, own in by_object(arrays, frame, prompts).items():
        index = model._obj_id_to_idx(state.inference, object_id)
        notes = state.tracked.setdefault(object_id, bytearray(len(state.frames)))
        direction, logits = int(own["direction"]), own.get("before")
        if object_id in prompts:
            state.prompts.setdefault(object_id, {})[frame] = prompts[object_id]
            state.scores[object_id, frame] = float(own["score"])
            state.before[object_id, frame] = Before(direction, None if logits is None else unpacked(logits, device))
            # upstream clears a frame's prompts by these; their values are never read again
            kind = "mask_inputs_per_obj" if is_mask(prompts[object_id]) else "point_inputs_per_obj"
            state.inference[kind][index][frame] = None
        else:
            notes[frame] = direction
        if "obj_ptr" in own:
            output = {name: unpacked(own[name], device) for name in REMEMBERED}
            output["maskmem_pos_enc"] = model.position_encoding(state.inference, output["maskmem_features"])
            kind = "cond_frame_outputs" if object_id in prompts else "non_cond_frame_outputs"
            state.outputs(object_id)[kind][frame] = output
