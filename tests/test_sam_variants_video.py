"""EdgeTAM and SAM 3 as trackers, against the library's own sessions on tiny random networks."""

import numpy as np
import pytest
import tiny_networks
import torch
import transformers

from nbhelpers.core.device import MemoryWarning
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.protocols import Tracker
from nbhelpers.models.sam_variants import PROCESSORS, build_tracker
from nbhelpers.rotoscoping import RotoSession

FAMILIES = {"edgetam-video": "EdgeTamVideoModel", "sam3-video": "Sam3TrackerVideoModel"}
CLICK = Prompt([(50, 60)])
BOX = Prompt([(120, 60)], box=(95, 25, 145, 95))
CORRECTION = Prompt([(20, 20), (140, 100)], [1, 0])


class Clip:
    """A red disc that moves right over a drawn background; notes which frames were decoded."""

    size = (120, 160)

    def __init__(self, photo, count):
        self.photo, self.count, self.decoded = photo, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.decoded.append(index)
        return np.roll(self.photo, 3 * index, axis=1)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A tracker that finds its object everywhere, the library's network of the same weights, its processor."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny_networks.save(request.param, folder).config
    files = {"checkpoint": folder / "model.safetensors", "config": folder / "config.json"}
    network = getattr(transformers, FAMILIES[request.param]).from_pretrained(folder).eval()
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
    return Clip(photo, 20)


def logits_of(tracked):
    return {(t.frame, i): p.logits for t in tracked for i, p in t.predictions.items()}


def differing(ours, theirs):
    return [key for key in ours if not np.array_equal(ours[key], theirs[key])]


def bytes_kept(value):
    """Bytes of all tensors in a nest of values."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(bytes_kept, value.values()))
    return sum(map(bytes_kept, value)) if isinstance(value, (list, tuple)) else 0


@pytest.mark.parametrize(
    "prompt", [CLICK, BOX, Prompt(mask=np.indices((120, 160))[1] > 90)], ids=["click", "box", "mask"]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_masks_are_those_of_the_librarys_own_session(family, clip, prompt, reverse):
    tracker, network, processor = family
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


def test_a_correction_changes_the_right_frames_and_stays(family, clip):
    tracker, _, _ = family
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


def test_the_same_prompts_give_the_same_mask_however_they_came(family, clip):
    tracker, _, _ = family
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


def test_objects_do_not_disturb_each_other_and_can_be_removed(family, clip):
    tracker, _, _ = family
    both, alone = tracker.open(clip), tracker.open(clip)
    tracker.add(both, 0, 3, BOX)
    tracker.add(both, 0, 1, CLICK)
    tracker.add(alone, 0, 1, CLICK)
    together = logits_of(tracker.propagate(both, 0, 6))
    for key, logits in logits_of(tracker.propagate(alone, 0, 6)).items():
        np.testing.assert_allclose(together[key], logits, atol=1e-5)
    tracker.remove(both, 3)
    assert {i for _, i in logits_of(tracker.propagate(both, 0, 1))} == {1}


def test_memory_does_not_grow_with_the_clip(family, photo):
    tracker, _, _ = family
    sizes = []
    for count in (20, 60):
        state = tracker.open(Clip(photo, count))
        tracker.add(state, 0, 1, CLICK)
        list(tracker.propagate(state, 0, count - 1))
        assert sorted(set(state.frames.decoded)) == list(range(count))
        outputs = state.objects[1].outputs
        sizes.append((bytes_kept(outputs), len(outputs["non_cond_frame_outputs"])))
    assert sizes[0] == sizes[1]


def test_a_saved_memory_goes_on_as_if_nothing_had_happened(family, clip, tmp_path):
    tracker, _, _ = family
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


def test_full_memory_in_the_middle_of_a_clip_loses_nothing(family, clip, monkeypatch):
    tracker, _, _ = family
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


def test_what_cannot_be_done_is_one_clear_error_and_changes_nothing(family, clip):
    tracker, _, _ = family
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


def test_a_rotoscoping_session_uses_it_as_any_tracker(family, photo, tmp_path):
    frames = np.stack([np.roll(photo, 3 * index, axis=1) for index in range(6)])
    session = RotoSession(frames, family[0], project=tmp_path / "project")
    session.add_object("disc")
    clicked = session.click(50, 60, frame=0)
    assert list(session.propagate(0, 5)) and session.mask(5).shape == (120, 160)
    tracked = session.mask(4).copy()
    session.click(20, 20, 0, frame=3)
    list(session.propagate(3, 5))
    again = RotoSession(frames, family[0], project=tmp_path / "project")
    np.testing.assert_array_equal(again.mask(0), clicked.best)
    np.testing.assert_array_equal(again.mask(4), session.mask(4))
    assert tracked.shape == again.mask(4).shape
