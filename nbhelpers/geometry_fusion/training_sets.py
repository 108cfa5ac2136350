"""What a merger is trained on: synthetic clips, or folders of real ones with true masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.geometry_fusion.arms import geometry_source, scene_of
from nbhelpers.geometry_fusion.comparison import read_truth
from nbhelpers.geometry_fusion.geometry import kept_geometry
from nbhelpers.geometry_fusion.synthetic import (
    TEST_PHOTOS,
    TRAINING_PHOTOS,
    SyntheticClip,
    load_textures,
    render_clip,
)
from nbhelpers.geometry_fusion.training import TrackingModel, TrainingClip, VoteModel, clip_labels
from nbhelpers.models.cached import CachedSegmenter
from nbhelpers.models.geometry import SceneGeometry
from nbhelpers.models.protocols import FeatureSegmenter, FrameSequence

SEEDS = (1, 2, 3, 4)  # of the synthetic clips that are trained on when none are named; tests take others


def training_set(
    config: Mapping[str, Any], folder: str | Path, models: str | None = None, device: str | None = None
) -> tuple[list[TrainingClip], TrackingModel, tuple[str, ...]]:
    """Clips, frozen networks and the photos that must not be trained on, from a configuration.

    In TOML, both parts may be left out::

        [synthetic]
        seeds = [1, 2, 3, 4]                # of clips with the photos for training

        [[clips]]
        frames = "videos/frames"            # a folder of pictures, or a video
        masks = "videos/gt_masks"           # true masks, numbered as the frames
        every = 6                           # 1 when left out
        geometry = "given"                  # or colmap, da3, ...
        scene = "videos"                    # folder with cameras and depth, for "given"

    Args:
        config: what `TrainingConfig.open` returns beside the training's own settings.
        folder: of the run; features and geometry are kept in ``cache`` below it.
        models: ``"lite"``, ``"official"`` or ``"auto"``.
        device: where the networks compute.

    Raises:
        NbHelpersError: names that are not known; clips that cannot be read.
    """
    if unknown := set(config) - {"synthetic", "clips"}:
        raise NbHelpersError(
            "the configuration has names that are not known",
            given=", ".join(sorted(unknown)),
            expected="training, synthetic, clips",
        )
    from nbhelpers.models.load import load

    cache = Path(folder).expanduser() / "cache"
    segmenter = CachedSegmenter(load("segmenter", None, device, models), cache)
    clips = []
    named = config.get("clips", [])
    seeds = config.get("synthetic", {}).get("seeds", () if named else SEEDS)
    if seeds:
        textures = load_textures(TRAINING_PHOTOS)
        clips += [synthetic_training_clip(render_clip(int(seed), textures), segmenter) for seed in seeds]
    clips += [_real_clip(entry, segmenter, cache, device) for entry in named]
    return clips, VoteModel(segmenter.name, segmenter.device), TEST_PHOTOS


def synthetic_training_clip(clip: SyntheticClip, segmenter: FeatureSegmenter) -> TrainingClip:
    """A synthetic clip with its features, its exact geometry, and both twins as objects."""
    geometry = SceneGeometry().encode(clip, clip.scene)
    objects = [clip.masks, clip.twin] if clip.twin.any() else [clip.masks]
    features = coarse_features(clip, segmenter)
    return TrainingClip(clip.name, features, geometry, clip_labels(objects, features.shape[-1]), clip.photos)


def coarse_features(frames: FrameSequence, segmenter: FeatureSegmenter) -> torch.Tensor:
    """SAM 2's coarsest features of all frames, ``(t, c, h, w)`` in half precision."""
    maps = []
    for number in range(len(frames)):
        features = segmenter.features(segmenter.encode(frames[number]))
        maps.append(features.permute(2, 0, 1).to("cpu", torch.float16))
    return torch.stack(maps)


def _real_clip(entry: Mapping[str, Any], segmenter: FeatureSegmenter, cache: Path, device: str | None) -> TrainingClip:
    """A clip of the configuration."""
    from nbhelpers.core.video import Frames

    known = {"frames", "masks", "every", "geometry", "scene", "label"}
    if set(entry) - known or not {"frames", "masks"} <= set(entry):
        raise NbHelpersError(
            "a clip of the configuration cannot be read", given=", ".join(entry), expected=", ".join(sorted(known))
        )
    every = int(entry.get("every", 1))
    frames = Frames(Path(entry["frames"]).expanduser(), step=every)
    truth = read_truth(entry["masks"], frames, every, entry.get("label"))
    encoder = geometry_source(entry.get("geometry", "given" if "scene" in entry else "colmap"), device)
    if encoder is None:
        raise NbHelpersError("a merger cannot be trained without geometry", given=entry["geometry"])
    scene = scene_of(entry.get("scene"))
    geometry = kept_geometry(encoder, frames, cache, None if scene is None else scene(frames))
    features = coarse_features(frames, segmenter)
    empty = np.zeros(frames.size, bool)
    masks = np.stack([truth.masks.get(number, empty) for number in range(len(frames))])
    return TrainingClip(str(entry["frames"]), features, geometry, clip_labels([masks], features.shape[-1]))
