"""EdgeTAM and SAM 3's tracker, for photos and clips, against the library's own code on tiny random networks."""

import numpy as np
import pytest
import tiny_networks
import torch
import transformers
from moving_photo import MovingPhoto, bytes_kept, differing, logits_of

from nbhelpers.core.device import MemoryWarning
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.adapters import CachedSegmenter
from nbhelpers.models.protocols import FeatureSegmenter, Tracker
from nbhelpers.models.sam_variants import PROCESSORS, build_segmenter, build_tracker
from nbhelpers.rotoscoping import RotoSession

FAMILIES = {"edgetam": "EdgeTamModel", "sam3-segmenter": "Sam3TrackerModel"}
CLICK = Prompt([(50, 60)])
PROMPTS = [
    CLICK,
    Prompt([(50, 60), (120, 20)], [1, 0]),
    Prompt(box=(30, 35, 75, 85)),
    Prompt([(50, 60)], box=(95, 25, 145, 95)),
]
VIDEO_FAMILIES = {"edgetam-video": "EdgeTamVideoModel", "sam3-video": "Sam3TrackerVideoModel"}
BOX = Prompt([(120, 60)], box=(95, 25, 145, 95))
CORRECTION = Prompt([(20, 20), (140, 100)], [1, 0])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """The files of a tiny checkpoint, the segmenter of it, the library's network, and the library's processor."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny_networks.save(request.param, folder).config
    files = {"checkpoint": folder / "model.safetensors", "config": folder / "config.json"}
    network = getattr(transformers, FAMILIES[request.param]).from_pretrained(folder).eval()
    size = {"height": tiny_networks.SIDE, "width": tiny_networks.SIDE}
    image_processor = getattr(transformers, PROCESSORS[config.model_type])(size=size)
    processor = transformers.Sam2Processor(image_processor, target_size=tiny_networks.SIDE)
    return files, build_segmenter("tiny", files, "cpu"), network, processor


def assert_close(ours, theirs):
    """Equal to 5e-5 of the largest logit: tokens of a box come in another order, and batches round otherwise."""
    assert np.abs(ours - np.asarray(theirs)).max() <= 5e-5 * np.abs(ours).max()


def of_the_library(network, processor, photo, prompt, multimask):
    """Masks ``(k, H, W)``, logits and scores of the library's own pipeline."""
    inputs = {}
    if len(prompt.points):
        inputs |= {"input_points": [[prompt.points.tolist()]], "input_labels": [[prompt.labels.tolist()]]}
    if prompt.box is not None:
        inputs["input_boxes"] = [[prompt.box.tolist()]]
    encoded = processor(images=photo.copy(), return_tensors="pt", **inputs)
    sizes = encoded.pop("original_sizes")
    with torch.inference_mode():
        output = network(**encoded, multimask_output=multimask)
    masks = processor.post_process_masks(output.pred_masks, sizes)[0]
    return masks[0].numpy(), output.pred_masks[0, 0].numpy(), output.iou_scores[0, 0].numpy()


@pytest.mark.parametrize("prompt", PROMPTS, ids=["click", "two clicks", "box", "box and click"])
def test_masks_are_those_of_the_librarys_pipeline_on_a_photo_that_is_no_square(family, photo, prompt):
    _, segmenter, network, processor = family
    assert isinstance(segmenter, FeatureSegmenter) and photo.shape[0] != photo.shape[1]
    prediction = segmenter.predict(segmenter.encode(photo), prompt)
    masks, logits, scores = of_the_library(network, processor, photo, prompt, multimask=True)
    assert_close(prediction.logits[1:], logits)
    np.testing.assert_allclose(prediction.scores[1:], scores, atol=1e-4)
    for index in range(3):
        assert (prediction.mask(index + 1) == masks[index]).mean() > 0.9999
    best, _, _ = of_the_library(network, processor, photo, prompt, multimask=False)
    chosen = best[0] if not prompt.is_ambiguous else masks[scores.argmax()]
    assert (prediction.best == chosen).mean() > 0.9999


def test_a_mask_prompt_is_scaled_as_the_library_does(family, photo):
    _, segmenter, network, processor = family
    logits = np.random.default_rng(0).normal(0, 5, network.prompt_encoder.mask_input_size).astype(np.float32)
    prediction = segmenter.predict(segmenter.encode(photo), Prompt([(50, 60)], mask=logits))
    encoded = processor(images=photo.copy(), input_points=[[[[50, 60]]]], input_labels=[[[1]]], return_tensors="pt")
    encoded.pop("original_sizes")
    with torch.inference_mode():
        output = network(**encoded, input_masks=torch.from_numpy(logits)[None, None], multimask_output=True)
    assert_close(prediction.logits[1:], output.pred_masks[0, 0])


def test_many_points_are_equal_to_single_clicks(family, photo):
    _, segmenter, _, _ = family
    embedding = segmenter.encode(photo)
    points = np.random.default_rng(1).uniform((0, 0), (159, 119), (7, 2)).astype(np.float32)
    together = segmenter.predict_points(embedding, points)
    assert len(together) == 7
    for index, point in enumerate(points):
        alone = segmenter.predict(embedding, Prompt([point]))
        assert_close(together.logits[index], alone.logits[alone.choice])
        assert together.scores[index] == pytest.approx(alone.scores[alone.choice], abs=1e-4)
    wholes = segmenter.predict_points(embedding, points, choose=lambda number, candidates: 2)
    assert_close(wholes.logits[3], segmenter.predict(embedding, Prompt([points[3]])).logits[3])


def test_features_are_the_embeddings_from_coarse_to_fine(family, photo):
    _, segmenter, network, processor = family
    embedding = segmenter.encode(photo)
    with torch.inference_mode():
        maps = network.get_image_embeddings(processor(images=photo.copy(), return_tensors="pt")["pixel_values"])
    for level, theirs in enumerate(reversed(maps)):
        np.testing.assert_allclose(segmenter.features(embedding, level), theirs[0].permute(1, 2, 0), atol=1e-5)


def test_a_click_on_an_embedding_from_a_file_encodes_nothing_and_gives_the_same_mask(
    family, photo, tmp_path, monkeypatch
):
    _, segmenter, _, _ = family
    cached = CachedSegmenter(segmenter, tmp_path)
    exact = segmenter.predict(segmenter.encode(photo), CLICK)
    cached.encode(photo)
    monkeypatch.setattr(segmenter.model, "get_image_embeddings", None)
    found = cached.predict(cached.encode(photo), CLICK)
    assert np.abs(found.logits - exact.logits).max() < 5e-3 * np.abs(exact.logits).max()  # kept in half precision
    assert found.choice == exact.choice


def test_what_does_not_fit_is_refused(family, photo):
    files, segmenter, _, _ = family
    embedding = build_segmenter("other", files, "cpu").encode(photo)
    with pytest.raises(NbHelpersError, match="belongs to another model"):
        segmenter.predict(embedding, CLICK)
    own = segmenter.encode(photo)
    with pytest.raises(NbHelpersError, match="outside the image"):
        segmenter.predict(own, Prompt([(500, 3)]))
    with pytest.raises(NbHelpersError, match="wrong size"):
        segmenter.predict(own, Prompt(mask=np.zeros((5, 5), np.float32)))


@pytest.fixture(scope="module", params=VIDEO_FAMILIES)
def video_family(request, tmp_path_factory):
    """A tracker that finds its object everywhere, the library's network of the same weights, its processor."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny_networks.save(request.param, folder).config
    files = {"checkpoint": folder / "model.safetensors", "config": folder / "config.json"}
    network = getattr(transformers, VIDEO_FAMILIES[request.param]).from_pretrained(folder).eval()
    tracker = build_tracker("tiny", files, "cpu")
    for model in (network, tracker.model):
        model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(20)
    size = {"height": tiny_networks.SIDE, "width": tiny_networks.SIDE}
    image_processor = getattr(transformers, PROCESSORS[config.model_type])(size=size)
    video_processor = transformers.Sam2VideoVideoProcessor(
        size=size, image_mean=image_processor.image_mean, image_std=image_processor.image_std
    )
    kind = transformers.Sam3TrackerVideoProcessor if "sam3" in request.param else transformers.Sam2VideoProcessor
    return tracker, network, kind(image_processor, video_processor, target_size=tiny_networks.SIDE)


@pytest.fixture
def clip(photo):
    return MovingPhoto(photo, 20)


@pytest.mark.parametrize(
    "prompt", [CLICK, BOX, Prompt(mask=np.indices((120, 160))[1] > 90)], ids=["click", "box", "mask"]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_masks_are_those_of_the_librarys_own_session(video_family, clip, prompt, reverse):
    tracker, network, processor = video_family
    assert isinstance(tracker, Tracker)
    start, stop = (7, 0) if reverse else (0, 7)
    state = tracker.open(clip)
    assert clip.decoded == []
    tracker.add(state, start, 5, prompt)
    ours = logits_of(tracker.propagate(state, start, stop))

    session = processor.init_video_session(video=np.stack([clip[i] for i in range(20)]))
    inputs = {}
    if len(prompt.points):
        inputs = {"input_points": [[prompt.points.tolist()]], "input_labels": [[prompt.labels.tolist()]]}
    if prompt.box is not None:
        inputs["input_boxes"] = [[prompt.box.tolist()]]
    if prompt.mask is not None:
        inputs["input_masks"] = prompt.mask
    processor.add_inputs_to_inference_session(session, start, 5, **inputs)
    network(session, frame_idx=start)
    theirs = {
        output.frame_idx: output.pred_masks.numpy()
        for output in network.propagate_in_video_iterator(session, start, max_frame_num_to_track=7, reverse=reverse)
    }
    assert theirs.keys() >= set(range(8))
    for frame in range(8):
        if prompt.mask is not None and frame == start:
            assert (ours[frame, 5][0] > 0).sum() == prompt.mask.sum()  # as given
            continue
        np.testing.assert_allclose(
            ours[frame, 5][0], theirs[frame].reshape(ours[frame, 5][0].shape), atol=2e-3, rtol=1e-3
        )


def test_a_correction_changes_the_right_frames_and_stays(video_family, clip):
    tracker, _, _ = video_family
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    before = logits_of(tracker.propagate(state, 0, 19))
    corrected = tracker.add(state, 10, 1, CORRECTION).logits
    assert not np.array_equal(corrected, before[10, 1])
    after = logits_of(tracker.propagate(state, 10, 19))
    assert np.array_equal(after[10, 1], corrected)
    assert differing(after, before) == [(frame, 1) for frame in range(10, 20)]
    backwards = logits_of(tracker.propagate(state, 10, 0))
    assert np.array_equal(backwards[0, 1], before[0, 1])
    for _ in range(2):
        whole = logits_of(tracker.propagate(state, 0, 19))
        assert np.array_equal(whole[10, 1], corrected)
        assert set(differing(whole, before)) >= {(frame, 1) for frame in range(10, 20)}


def test_the_same_prompts_give_the_same_mask_however_they_came(video_family, clip):
    tracker, _, _ = video_family
    state = tracker.open(clip)
    one = tracker.add(state, 0, 1, CLICK).logits
    assert not np.array_equal(tracker.add(state, 0, 1, Prompt([(50, 60), (5, 5)], [1, 0])).logits, one)
    assert np.array_equal(tracker.add(state, 0, 1, CLICK).logits, one)  # the second click undone
    before = logits_of(tracker.propagate(state, 0, 10))
    corrected = tracker.add(state, 8, 1, CORRECTION).logits
    tracker.add(state, 8, 1, Prompt([(20, 20)], [0]))
    tracker.remove(state, 1, 8)
    assert np.array_equal(tracker.add(state, 8, 1, CORRECTION).logits, corrected)  # undone and redone
    tracker.remove(state, 1, 8)
    assert differing(logits_of(tracker.propagate(state, 0, 10)), before) == []


def test_objects_do_not_disturb_each_other_and_can_be_removed(video_family, clip):
    tracker, _, _ = video_family
    both, alone = tracker.open(clip), tracker.open(clip)
    tracker.add(both, 0, 3, BOX)
    tracker.add(both, 0, 1, CLICK)
    tracker.add(alone, 0, 1, CLICK)
    together = logits_of(tracker.propagate(both, 0, 6))
    for key, logits in logits_of(tracker.propagate(alone, 0, 6)).items():
        np.testing.assert_allclose(together[key], logits, atol=1e-5)
    tracker.remove(both, 3)
    assert {i for _, i in logits_of(tracker.propagate(both, 0, 1))} == {1}


def test_memory_does_not_grow_with_the_clip(video_family, photo):
    tracker, _, _ = video_family
    sizes = []
    for count in (20, 60):
        state = tracker.open(MovingPhoto(photo, count))
        tracker.add(state, 0, 1, CLICK)
        list(tracker.propagate(state, 0, count - 1))
        assert sorted(set(state.frames.decoded)) == list(range(count))
        outputs = state.objects[1].outputs
        sizes.append((bytes_kept(outputs), len(outputs["non_cond_frame_outputs"])))
    assert sizes[0] == sizes[1]


def test_a_saved_memory_goes_on_as_if_nothing_had_happened(video_family, clip, tmp_path):
    tracker, _, _ = video_family
    state, after = tracker.open(clip), tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    tracker.add(state, 2, 2, BOX)
    list(tracker.propagate(state, 0, 8))
    tracker.add(state, 7, 1, CORRECTION)
    list(tracker.propagate(state, 0, 10))
    said = {frame: {i: o.prompts[frame] for i, o in state.objects.items() if frame in o.prompts} for frame in range(11)}
    for frame in range(11):
        np.savez(tmp_path / f"{frame}.npz", **tracker.memory(state, frame))
    for frame in sorted(range(11), key=lambda frame: not said[frame]):  # prompted frames first
        with np.load(tmp_path / f"{frame}.npz") as memory:
            tracker.recall(after, frame, memory, said[frame])
    expected = logits_of(tracker.propagate(state, 11, 16))
    assert len(expected) == 12 and differing(logits_of(tracker.propagate(after, 11, 16)), expected) == []
    more = Prompt([(30, 30), (140, 100)], [1, 0])
    assert np.array_equal(tracker.add(after, 7, 1, more).logits, tracker.add(state, 7, 1, more).logits)
    for each in (after, state):
        tracker.remove(each, 2)
    again = logits_of(tracker.propagate(state, 5, 10))
    assert len(again) == 6 and differing(logits_of(tracker.propagate(after, 5, 10)), again) == []
    with np.load(tmp_path / "7.npz") as memory, pytest.raises(NbHelpersError, match="does not match"):
        tracker.recall(tracker.open(clip), 7, memory)


def test_full_memory_in_the_middle_of_a_clip_loses_nothing(video_family, clip, monkeypatch):
    tracker, _, _ = video_family
    state, whole = tracker.open(clip), tracker.open(clip)
    for each in (state, whole):
        tracker.add(each, 0, 1, CLICK)
    expected = logits_of(tracker.propagate(whole, 0, 9))
    run, calls = type(tracker.model)._run_single_frame_inference, []

    def full_once(self, *args, **kwargs):
        calls.append(kwargs["frame_idx"])
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, *args, **kwargs)

    monkeypatch.setattr(type(tracker.model), "_run_single_frame_inference", full_once)
    monkeypatch.setattr(tracker, "device", "cpu:0")  # any other name than that of the fallback
    with pytest.warns(MemoryWarning, match="continues on the CPU"):
        found = logits_of(tracker.propagate(state, 0, 9))
    assert tracker.device == "cpu" and calls.count(5) == 2 and found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-5)


def test_what_cannot_be_done_is_one_clear_error_and_changes_nothing(video_family, clip):
    tracker, _, _ = video_family
    state = tracker.open(clip)
    with pytest.raises(NbHelpersError, match="no prompt yet"):
        tracker.propagate(state, 0, 3)
    for call in (lambda: tracker.add(state, 20, 1, CLICK), lambda: tracker.propagate(state, 0, 20)):
        with pytest.raises(NbHelpersError, match="no such frame"):
            call()
    with pytest.raises(NbHelpersError, match="no such prompt"):
        tracker.remove(state, 1)
    with pytest.raises(NbHelpersError, match="outside"):
        tracker.add(state, 0, 1, Prompt([(400, 0)]))
    assert state.objects == {}


def test_a_rotoscoping_session_uses_it_as_any_tracker(video_family, photo, tmp_path):
    frames = np.stack([np.roll(photo, 3 * index, axis=1) for index in range(6)])
    session = RotoSession(frames, video_family[0], project=tmp_path / "project")
    session.add_object("disc")
    clicked = session.click(50, 60, frame=0)
    assert list(session.propagate(0, 5)) and session.mask(5).shape == (120, 160)
    tracked = session.mask(4).copy()
    session.click(20, 20, 0, frame=3)
    list(session.propagate(3, 5))
    again = RotoSession(frames, video_family[0], project=tmp_path / "project")
    np.testing.assert_array_equal(again.mask(0), clicked.best)
    np.testing.assert_array_equal(again.mask(4), session.mask(4))
    assert tracked.shape == again.mask(4).shape
