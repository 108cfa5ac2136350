"""What a tracker by label propagation knows of one frame, as arrays that outlive the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.answers import given, is_given
from nbhelpers.models.label_propagation.state import STEPS, Anchor, Track, TrackState
from nbhelpers.models.tracks import by_object
from nbhelpers.models.values import Prediction

if TYPE_CHECKING:
    import torch

PASSES = {1: "forwards", -1: "backwards"}


def remembered(state: TrackState, frame: int) -> dict[str, np.ndarray]:
    """Arrays by ``<object id>/<what>``: masks and scores; features are computed anew from the frame."""
    arrays: dict[str, np.ndarray] = {}
    for object_id, track in state.tracks.items():
        own: dict[str, np.ndarray] = {}
        for step, name in PASSES.items():
            if frame in track.found[step]:
                # a kept mask is in whole steps already, so nothing is lost
                own[f"{name}/mask"] = np.rint(track.found[step][frame] * STEPS).astype(np.int8)
                own[f"{name}/score"] = np.array(track.scores[step][frame])
        if (anchor := track.anchors.get(frame)) is not None:
            own["score"] = np.array(anchor.score)
            own |= {f"trust/{name}": np.array(value) for name, value in (anchor.trust or {}).items()}
            own |= {f"means/{name}": tensor.cpu().numpy() for name, tensor in state.means.items()}
            if anchor.answered is not None:
                own |= {"answer": anchor.answered.logits, "extent": np.array(anchor.answered.extent)}
        arrays |= {f"{object_id}/{name}": value for name, value in own.items()}
    return arrays


def put_back(
    state: TrackState,
    frame: int,
    arrays: Mapping[str, np.ndarray],
    prompts: Mapping[int, Prompt],
    device: str,
    anchor: Callable[..., Anchor],
) -> None:
    """Put back what `remembered` gave.

    Args:
        state: of the clip.
        frame: which one.
        arrays: what was remembered of it.
        prompts: those of this frame, by object id.
        device: where tensors live.
        anchor: what makes an anchor of a prompted frame, `LabelPropagation.anchor`.

    Raises:
        NbHelpersError: the arrays and the prompts do not fit.
    """
    for object_id, own in by_object(arrays, frame, prompts).items():
        track = state.tracks.setdefault(object_id, Track())
        for step, name in PASSES.items():
            if f"{name}/mask" in own:
                logits = own[f"{name}/mask"].astype(np.float32) / STEPS
                track.put(frame, step, logits, float(own[f"{name}/score"]))
        if object_id in prompts:
            if not state.means:
                state.means = _means(own, device)
            prompt = prompts[object_id]
            trust = {name: float(value) for name, value in _under("trust/", own).items()} or None
            track.anchors[frame] = anchor(state, frame, prompt, _answer(prompt, state.frames.size, own), trust)


def _means(own: Mapping[str, np.ndarray], device: str) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(value.copy()).to(device) for name, value in _under("means/", own).items()}


def _answer(prompt: Prompt, size: tuple[int, int], own: Mapping[str, np.ndarray]) -> Prediction:
    """What was answered to a prompt: the mask itself where one was given."""
    if is_given(prompt):
        return given(prompt, size)
    return Prediction(own["answer"], np.array([own["score"]], np.float32), size, tuple(own["extent"].tolist()))


def _under(start: str, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(start): value for name, value in own.items() if name.startswith(start)}
