"""Training of a merger: the losses against upstream's, what learns and what does not, and runs that go on."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from test_geometry_fusion import GRID, SIZE, textures
from test_label_propagation import ColourSegmenter
from test_sam2_video import small

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.geometry_fusion import render_clip, training
from nbhelpers.geometry_fusion.merger import FeatureMerger, inspect_checkpoint, load_merger, save_merger
from nbhelpers.geometry_fusion.tracker import GeometryTracker
from nbhelpers.geometry_fusion.training import (
    WEIGHTS,
    FrameOutput,
    TrainingClip,
    TrainingConfig,
    VideoModel,
    VoteModel,
    clip_labels,
    coarse_features,
    draw_sample,
    frame_losses,
    synthetic_training_clip,
    train,
    training_set,
)
from nbhelpers.models.geometry import SceneGeometry
from nbhelpers.models.label_propagation import LabelPropagation

FAST = TrainingConfig(steps=6, hidden=8, frequencies=8, memory=2, queries=1, save_every=2, learning_rate=1e-2)


@pytest.fixture(scope="module")
def clips():
    """Clips with 32 channels, of which 29 are empty: room for what is learned."""

    class Wide(ColourSegmenter):
        def features(self, embedding, level=0):
            return torch.nn.functional.pad(super().features(embedding, level + 1), (0, 29))

    made = (render_clip(seed, textures(seed), frames=8, size=SIZE, away=False) for seed in (2, 6))
    return [synthetic_training_clip(clip, coarse_features(clip, Wide())) for clip in made]


def upstream_losses():
    """``training.loss_fns`` of the sam2 package, without what its trainer needs."""
    spec = importlib.util.find_spec("training")
    path = (
        Path(spec.submodule_search_locations[0]) / "loss_fns.py" if spec and spec.submodule_search_locations else None
    )
    if path is None or not path.is_file():
        pytest.skip("this build of sam2 has no training code")
    stub, distributed = ModuleType("training.trainer"), ModuleType("training.utils.distributed")
    stub.CORE_LOSS_KEY = "core_loss"
    distributed.get_world_size, distributed.is_dist_avail_and_initialized = lambda: 1, lambda: False
    saved = {name: sys.modules.get(name) for name in (stub.__name__, distributed.__name__)}
    sys.modules.update({stub.__name__: stub, distributed.__name__: distributed})
    try:
        found = importlib.util.spec_from_file_location("upstream_losses", path)
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module
    finally:
        for name, before in saved.items():
            sys.modules.pop(name, None) if before is None else sys.modules.update({name: before})


@pytest.mark.parametrize("candidates", [1, 3])
def test_losses_equal_upstream(candidates):
    module = upstream_losses()
    weights = {f"loss_{theirs}": WEIGHTS[ours] for theirs, ours in
               (("mask", "focal"), ("dice", "dice"), ("iou", "iou"), ("class", "occlusion"))}  # fmt: skip
    theirs = module.MultiStepMultiMasksAndIous(weights, iou_use_l1_loss=True, pred_obj_scores=True)
    torch.manual_seed(0)
    masks, ious, presence = torch.randn(3, candidates, 8, 9) * 4, torch.rand(3, candidates), torch.randn(3, 1)
    target = torch.rand(3, 8, 9) > 0.6
    target[1] = False  # the object is absent
    outputs = {
        "multistep_pred_multimasks_high_res": [masks],
        "multistep_pred_ious": [ious],
        "multistep_object_score_logits": [presence],
    }
    expected = theirs([outputs], target[None])
    found = frame_losses(FrameOutput(masks, ious, presence), target)
    for name, key in (("focal", "loss_mask"), ("dice", "loss_dice"), ("iou", "loss_iou"), ("occlusion", "loss_class")):
        assert torch.allclose(found[name], expected[key], atol=1e-6), name
    assert torch.allclose(found["total"], expected["core_loss"], atol=1e-5)


def test_training_lowers_the_loss_and_nothing_but_the_merger_learns(clips, tmp_path):
    before = [clip.features.clone() for clip in clips]
    config = replace(FAST, steps=60, save_every=60, hidden=32, frequencies=32, noise=0.02)

    def losses(rate):
        merger = train(clips, VoteModel("colours"), tmp_path / str(rate), replace(config, learning_rate=rate))
        stats = json.loads((tmp_path / str(rate) / "train_stats.json").read_text())
        return merger, np.array([entry["total"] for entry in stats])

    (untrained, same), (merger, learned) = losses(0.0), losses(1e-2)
    assert untrained.is_untrained and not merger.is_untrained
    assert same[0] == learned[0] and len(learned) == 60, "both see the same samples"
    assert learned[15:].mean() < 0.95 * same[15:].mean()
    assert all(torch.equal(a, clip.features) for a, clip in zip(before, clips, strict=True))
    assert not any(clip.features.requires_grad for clip in clips)


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(clips, tmp_path):
    class KilledError(Exception):
        pass

    def kill(step, loss):
        if step == 5:  # after the checkpoint of step 4
            raise KilledError

    whole = train(clips, VoteModel("colours"), tmp_path / "whole", FAST)
    with pytest.raises(KilledError):
        train(clips, VoteModel("colours"), tmp_path / "cut", FAST, progress=kill)
    steps = []
    again = train(clips, VoteModel("colours"), tmp_path / "cut", FAST, progress=lambda step, loss: steps.append(step))
    assert steps == [5, 6]  # one interval at most is lost
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    stats = [json.loads((tmp_path / name / "train_stats.json").read_text()) for name in ("whole", "cut")]
    assert [e["total"] for e in stats[0]] == [e["total"] for e in stats[1]]
    assert sorted(p.name for p in (tmp_path / "cut").glob("checkpoint*")) == [
        "checkpoint-000004.safetensors",
        "checkpoint-000006.safetensors",
    ]
    with pytest.raises(NbHelpersError, match="another training run"):
        train(clips, VoteModel("colours"), tmp_path / "cut", replace(FAST, seed=1))


def test_the_sample_of_a_step_is_always_the_same_and_shares_places(clips):
    first, again = draw_sample(clips, FAST, 3), draw_sample(clips, FAST, 3)
    assert first.frames == again.frames and torch.equal(first.prior, again.prior)
    others = [draw_sample(clips, FAST, step) for step in range(12)]
    assert len({tuple(each.frames) for each in others}) > 6
    sizes = [(each.clip.labels[each.object, each.frames[0]] > 0.5).sum() for each in others]
    assert min(sizes) >= training.MIN_OBJECT
    assert len({each.clip.name for each in others}) == 2
    empty = replace_labels(clips[0])
    with pytest.raises(NbHelpersError, match="no clip has an object"):
        draw_sample([empty], FAST, 0)


def replace_labels(clip):
    return TrainingClip(clip.name, clip.features, clip.geometry, torch.zeros_like(clip.labels))


def test_places_of_a_frame_overlap_with_themselves(clips):
    shared = training.overlap(clips[0].geometry, 2)
    assert shared[2] == 1 and shared.min() < 1


def test_a_test_photo_is_never_trained_on(clips, tmp_path, caplog):
    tagged = TrainingClip("one", clips[0].features, clips[0].geometry, clips[0].labels, ("quokka.jpg",))
    with pytest.raises(NbHelpersError, match="share photos"):
        train([tagged], VoteModel("colours"), tmp_path, FAST, test_textures=("quokka.jpg",))
    with pytest.raises(NbHelpersError, match="nothing to train on"):
        train([], VoteModel("colours"), tmp_path, FAST)
    train([tagged], VoteModel("colours"), tmp_path, replace(FAST, steps=1))
    assert "one clip to train on" in caplog.text


def test_tensorboard_is_written_where_it_is_installed_and_missing_is_a_note(clips, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(clips, VoteModel("colours"), tmp_path / "without", replace(FAST, steps=1))
    assert "TensorBoard is not installed" in caplog.text and (tmp_path / "without" / "train_stats.json").is_file()
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            written.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(clips, VoteModel("colours"), tmp_path / "with", replace(FAST, steps=2))
    assert ("loss/total", 2) in written and written[-1] == "closed"


def test_a_checkpoint_tells_what_is_in_it(clips, tmp_path):
    merger = train(clips, VoteModel("colours"), tmp_path, FAST)
    for name in ("merger.safetensors", "checkpoint-000006.safetensors"):
        info = inspect_checkpoint(tmp_path / name)
        assert (info.backbone, info.has_geometry, info.step) == ("colours", True, 6)
        loaded = load_merger(tmp_path / name, "colours")
        assert all(
            torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), merger.state_dict().values(), strict=True)
        )
        assert not any(each.requires_grad for each in loaded.parameters())
    with pytest.raises(NbHelpersError, match="another backbone"):
        load_merger(tmp_path / "merger.safetensors", "sam2.1-hiera-large")
    save_merger(tmp_path / "zero.safetensors", FeatureMerger(3, 8), {"backbone": "colours"})
    assert not inspect_checkpoint(tmp_path / "zero.safetensors").has_geometry
    torch.save({"model": {"image_encoder.weight": torch.zeros(3)}}, tmp_path / "sam2.pt")
    assert not inspect_checkpoint(tmp_path / "sam2.pt").has_geometry
    with pytest.raises(NbHelpersError, match="no geometry"):
        load_merger(tmp_path / "sam2.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for name, match in (("bad.safetensors", "cannot be loaded"), ("absent.pt", "no such checkpoint")):
        with pytest.raises(NbHelpersError, match=match):
            inspect_checkpoint(tmp_path / name)


LAYERS = {
    "no layers": [],
    "must3r": [(6, 8, 1024), *[(6, 8, 768)] * 3],
    "da3-base": [(7, 9, 768)] * 4,
}  # rows, columns and channels of the official networks' feature layers


def with_layers(geometry, shapes, seed=0):
    """The geometry with random feature layers."""
    rng = np.random.default_rng(seed)
    layers = tuple(rng.normal(size=(len(geometry), *shape)).astype(np.float32) for shape in shapes)
    return replace(geometry, layers=layers)


@pytest.mark.parametrize("shapes", LAYERS.values(), ids=LAYERS)
def test_sam2_trains_through_its_frozen_memory(tmp_path, shapes):
    """One step on a small network of the real architecture lowers the loss; the network keeps its weights."""
    tracker = small("2.1")
    clip = render_clip(2, textures(2), frames=4, size=SIZE, away=False)
    model = VideoModel(tracker.model, "small")
    before = {name: value.clone() for name, value in tracker.model.state_dict().items()}
    features = model.encode(clip.name, clip)
    geometry = with_layers(SceneGeometry().encode(clip, clip.scene), shapes)
    ready = TrainingClip(clip.name, features, geometry, clip_labels([clip.masks], 32))
    sample = draw_sample([ready], replace(FAST, memory=1, queries=2, dropout=0, noise=0), 0)
    torch.manual_seed(0)
    merger = FeatureMerger(256, 8, [shape[2] for shape in shapes], frequencies=8)
    optimiser = torch.optim.AdamW(merger.parameters(), lr=1e-3)
    config = replace(FAST, learning_rate=1e-3, steps=40)
    losses = [training.training_step(model, merger, optimiser, sample, config, 1)["total"] for _ in range(4)]
    assert losses[-1] < losses[0]
    assert not shapes or all(layer.weight.grad.any() for layer in merger.inputs), "every layer is used"
    assert all(parameter.grad is None for parameter in tracker.model.parameters())
    assert all(torch.equal(before[name], value) for name, value in tracker.model.state_dict().items())
    save_merger(tmp_path / "merger.safetensors", merger, {"backbone": "small", "step": 4})
    assert inspect_checkpoint(tmp_path / "merger.safetensors").has_geometry
    assert load_merger(tmp_path / "merger.safetensors", "small").config["channels"] == 256


def test_feature_layers_are_trained_with_kept_and_asked_for(clips, tmp_path):
    layered = [replace(clip, geometry=with_layers(clip.geometry, LAYERS["must3r"], 1)) for clip in clips]
    merger = train(layered, VoteModel("colours"), tmp_path, replace(FAST, steps=2))
    assert merger.config["layers"] == [1024, 768, 768, 768]
    assert load_merger(tmp_path / "merger.safetensors").config == merger.config
    with pytest.raises(NbHelpersError, match="different feature layers"):
        train([layered[0], clips[1]], VoteModel("colours"), tmp_path / "mixed", FAST)

    class Layered(SceneGeometry):
        def encode(self, frames, scene=None):
            return with_layers(super().encode(frames, scene), LAYERS["must3r"], 1)

    clip = render_clip(2, textures(2), frames=3, size=SIZE, away=False)
    tracker = LabelPropagation(ColourSegmenter())
    prompt = Prompt(mask=clip.masks[0])
    for encoder in (Layered(), SceneGeometry()):
        fused = GeometryTracker(tracker, encoder, merger, scene=clip.scene, max_motion=1)
        state = fused.open(clip)
        if isinstance(encoder, Layered):
            fused._decide(state)
            assert len(state.geometry.layers) == 4
        else:
            with pytest.raises(NbHelpersError, match="feature layers"):
                fused.add(state, 0, 1, prompt)


def test_a_configuration_is_read_or_refused(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    path.write_text("[training]\nsteps = 12\n[synthetic]\nseeds = [3]\n")
    config, rest = TrainingConfig.open(path)
    assert config == TrainingConfig(steps=12) and rest == {"synthetic": {"seeds": [3]}}
    path.write_text("[training]\nstep = 12\n")
    with pytest.raises(NbHelpersError, match="not known"):
        TrainingConfig.open(path)
    path.write_text("[training")
    with pytest.raises(NbHelpersError, match="cannot be read"):
        TrainingConfig.open(path)
    with pytest.raises(NbHelpersError, match="not known"):
        training_set({"video": 1}, tmp_path)


def test_a_folder_with_ground_truth_is_trained_on(tmp_path, monkeypatch):
    from nbhelpers.geometry_fusion import write_clip
    from nbhelpers.models import load as loading

    folder = write_clip(render_clip(2, textures(2), frames=4, size=SIZE, away=False), tmp_path / "clip")
    monkeypatch.setattr(loading, "load", lambda task, *a, **k: {"segmenter": ColourSegmenter(),
                                                                "geometry_encoder": SceneGeometry(grid=GRID)}[task])  # fmt: skip
    entry = {"frames": str(folder / "frames"), "masks": str(folder / "gt_masks"), "scene": str(folder)}
    clips, model, tested = training_set({"clips": [entry]}, tmp_path / "run")
    assert len(clips) == 1 and clips[0].features.shape == (4, 3, 16, 16) and clips[0].labels.sum() > 4
    assert model.backbone == "colours" and "quokka.jpg" in tested
    with pytest.raises(NbHelpersError, match="cannot be read"):
        training_set({"clips": [{"frames": "x"}]}, tmp_path / "run")


def test_a_configuration_may_name_a_video_network(tmp_path, monkeypatch):
    """The whole path of the command for SAM 2's video network, on a small one of its architecture."""
    from nbhelpers.geometry_fusion import write_clip
    from nbhelpers.models import load as loading

    folder = write_clip(render_clip(2, textures(2), frames=4, size=SIZE, away=False), tmp_path / "clip")
    made = {"tracker": small("2.1"), "geometry_encoder": SceneGeometry()}
    monkeypatch.setattr(loading, "load", lambda task, *a, **k: made[task])
    entry = {"frames": str(folder / "frames"), "masks": str(folder / "gt_masks"), "scene": str(folder)}
    config = {"tracker": "sam2.1-hiera-tiny", "clips": [entry]}
    clips, model, _ = training_set(config, tmp_path / "run")
    assert isinstance(model, VideoModel) and clips[0].features.shape[:2] == (4, 256)
    merger = train(clips, model, tmp_path / "run", replace(FAST, steps=2, memory=1))
    assert not merger.is_untrained and inspect_checkpoint(tmp_path / "run" / "merger.safetensors").backbone
    made["tracker"] = LabelPropagation(ColourSegmenter())
    with pytest.raises(NbHelpersError, match="cannot be trained through"):
        training_set(config, tmp_path / "other")
