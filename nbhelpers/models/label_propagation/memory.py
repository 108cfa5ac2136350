"""What a tracker by label propagation knows of one frame, as arrays that outlive the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation.answers import given, is_given
from nbhelpers.models.label_propagation.state import STEPS, Track, TrackState
from nbhelpers.models.values import Prediction

if TYPE_CHECKING:
    from nbhelpers.models.label_propagation.tracker import LabelPropagation

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
    tracker: LabelPropagation,
    state: TrackState,
    frame: int,
    arrays: Mapping[str, np.ndarray],
    prompts: Mapping[int, Prompt],
) -> None:
    """Put back what `remembered` gave; ``prompts`` are those of this frame, by object id.

    Raises:
        NbHelpersError: the arrays and the prompts do not fit.
    """
    ids = dict.fromkeys(int(name.partition("/")[0]) for name in arrays)
    prompted = {object_id for object_id in ids if f"{object_id}/score" in arrays}
    if prompted != set(prompts):
        raise NbHelpersError(
            "the memory does not fit the prompts",
            given=f"frame {frame}: prompted objects {sorted(prompts)}, memory of {sorted(prompted)}",
            expected="the prompts that were there when the memory was taken",
        )
    for object_id in ids:
        own = {name.partition("/")[2]: value for name, value in arrays.items() if name.startswith(f"{object_id}/")}
        track = state.tracks.setdefault(object_id, Track())
        for step, name in PASSES.items():
            if f"{name}/mask" in own:
                logits = own[f"{name}/mask"].astype(np.float32) / STEPS
                track.put(frame, step, logits, float(own[f"{name}/score"]))
        if object_id in prompts:
            _put_anchor(tracker, state, track, frame, prompts[object_id], own)


def _put_anchor(
    tracker: LabelPropagation,
    state: TrackState,
    track: Track,
    frame: int,
    prompt: Prompt,
    own: Mapping[str, np.ndarray],
) -> None:
    import torch

    if not state.means:
        means = {name.partition("/")[2]: value for name, value in own.items() if name.startswith("means/")}
        state.means = {name: torch.from_numpy(value.copy()).to(tracker.device) for name, value in means.items()}
    size, score = state.frames.size, own["score"]
    if is_given(prompt):
        prediction = given(prompt, size)
    else:
        extent = tuple(own["extent"].tolist())
        prediction = Prediction(own["answer"], np.array([score], np.float32), size, extent)
    trust = {name.partition("/")[2]: float(value) for name, value in own.items() if name.startswith("trust/")} or None
    track.anchors[frame] = tracker.anchor(state, frame, prompt, prediction, trust)
