"""The SAM 2 video tracker against the sam2 package: small random networks of the real architecture."""

import itertools

import numpy as np
import pytest
import torch
from moving_photo import MovingPhoto, bytes_kept, differing, logits_of

from nbhelpers.core import device
from nbhelpers.core.device import MemoryWarning
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import save_image
from nbhelpers.core.masks import upsample
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.video import Frames
from nbhelpers.models import adapters, sam2_video, tracking
from nbhelpers.models.protocols import FrameSequence, Tracker
from nbhelpers.weights import catalog

CONFIGS = {"2": "configs/sam2/sam2_hiera_t.yaml", "2.1": "configs/sam2.1/sam2.1_hiera_t.yaml"}
SMALL = (
    "++model.image_size=128",
    "++model.image_encoder.trunk.embed_dim=24",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[192,96,48,24]",
    "++model.memory_attention.num_layers=1",
)
SHORT = ("++model.num_maskmem=3", "++model.max_obj_ptrs_in_encoder=4")  # how far back it looks: 16 frames as built
CLICK, OTHER = Prompt([(50, 60)]), Prompt([(120, 60)])
CORRECTION = Prompt([(20, 20), (140, 100)], [1, 0])


def small(version, *overrides):
    """A tracker that finds its object everywhere: a random presence score would say gone at random."""
    torch.manual_seed(0)
    model = sam2_video.build_video_network(CONFIGS[version], *SMALL, *overrides)
    presence(model).data.fill_(20)
    return sam2_video.Sam2Tracker(model, "small", "cpu")


def presence(model):
    head = model.sam_mask_decoder.pred_obj_score_head
    return (head.layers[-1] if hasattr(head, "layers") else head).bias


@pytest.fixture(scope="module")
def tracker():
    return small("2.1")


@pytest.fixture
def clip(photo):
    return MovingPhoto(photo, 24)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert np.array_equal(ours[key], theirs[key]), key


def test_it_is_a_tracker(tracker, clip):
    assert isinstance(tracker, Tracker)
    assert isinstance(clip, FrameSequence)
    tracker.open(clip)
    assert clip.decoded == []


@pytest.mark.parametrize("version", CONFIGS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lazy_frames_give_bit_for_bit_what_upstream_gives(version, reverse, photo, tmp_path):
    from sam2.build_sam import build_sam2_video_predictor

    for index in range(8):  # longer than the network looks back
        save_image(tmp_path / f"{index}.jpg", np.roll(photo, 3 * index, axis=1))
    ours = small(version, *SHORT)
    theirs = build_sam2_video_predictor(CONFIGS[version], None, device="cpu", hydra_overrides_extra=[*SMALL, *SHORT])
    theirs.load_state_dict(ours.model.state_dict())
    theirs.add_all_frames_to_correct_as_cond, theirs.fill_hole_area = True, 0
    state, inference = ours.open(Frames(tmp_path)), theirs.init_state(str(tmp_path))
    first, last, corrected = (7, 0, 3) if reverse else (0, 7, 4)
    for object_id, prompt in ((1, CLICK), (7, Prompt([(120, 60)], box=(95, 25, 145, 95)))):
        mine = ours.add(state, first, object_id, prompt)
        _, ids, masks = theirs.add_new_points_or_box(
            inference, first, object_id, prompt.points, prompt.labels, box=prompt.box
        )
        assert np.array_equal(upsample(mine.logits[0], mine.extent, mine.size), masks[ids.index(object_id), 0].numpy())

    def compare():
        upstream = {
            f: (ids, m[:, 0].numpy()) for f, ids, m in theirs.propagate_in_video(inference, first, reverse=reverse)
        }
        own = {tracked.frame: tracked.predictions for tracked in ours.propagate(state, first, last)}
        assert own.keys() == upstream.keys()
        for frame, (ids, masks) in upstream.items():
            assert list(own[frame]) == ids
            for object_id, mask in zip(ids, masks, strict=True):
                mine = own[frame][object_id]
                assert np.array_equal(upsample(mine.logits[0], mine.extent, mine.size), mask), (frame, object_id)

    compare()
    mine = ours.add(state, corrected, 7, CORRECTION)
    _, ids, masks = theirs.add_new_points_or_box(inference, corrected, 7, CORRECTION.points, CORRECTION.labels)
    assert np.array_equal(upsample(mine.logits[0], mine.extent, mine.size), masks[ids.index(7), 0].numpy())
    theirs.propagate_in_video_preflight(inference)
    inference["output_dict_per_obj"][1 + 0]["non_cond_frame_outputs"].clear()  # what was tracked without the correction
    compare()


def test_the_mask_that_is_expected_is_chosen(tracker, clip):
    model = tracker.model
    masks = -torch.ones(1, 3, 64, 64)
    for number in range(3):
        masks[0, number, 20 * number : 20 * number + 20, :20] = 1
    ious, rest = torch.tensor([[0.9, 0.5, 0.4]]), torch.zeros(1)
    outputs = masks, ious, rest, rest
    assert model._prefer_expected(model.sam_mask_decoder, (), outputs) is None  # nothing is expected: upstream's choice
    try:
        model.expected = masks[0, 1] > 0
        for weight, choice in ((0.0, 0), (0.2, 0), (0.5, 1), (1.0, 1)):
            model.expectation = weight
            weighted = model._prefer_expected(model.sam_mask_decoder, (), outputs)[1]
            assert int(weighted.argmax()) == choice
            assert model._chosen_iou == pytest.approx(float(ious[0, choice]))
    finally:
        model.expected = model._chosen_iou = None


def test_expectation_is_off_by_default_and_follows_the_mask_before(tracker, clip):
    assert tracker.expectation == 0
    runs = {}
    for weight in (0.0, 1.0):
        tracker.expectation = weight
        state = tracker.open(clip)
        tracker.add(state, 3, 1, CLICK)
        tracked = [*tracker.propagate(state, 3, 9), *tracker.propagate(state, 3, 0)]
        runs[weight] = {t.frame: t.predictions[1] for t in tracked}
        if weight:
            expected = tracker._expected(state.objects[1], 6, 1)
    tracker.expectation = 0.0
    assert expected.shape == runs[1.0][5].logits.shape[1:]
    change = [np.mean((runs[w][5].logits > 0) != (runs[w][4].logits > 0)) for w in (1.0, 0.0)]
    assert change[0] <= change[1]
    assert all(0 <= each.scores[0] <= 1 for each in runs[1.0].values())
    with pytest.raises(NbHelpersError, match="expectation"):
        sam2_video.Sam2Tracker(tracker.model, "small", "cpu", expectation=2)


def test_a_correction_changes_the_right_frames_and_stays(tracker, clip):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    before = logits_of(tracker.propagate(state, 0, 23))
    corrected = tracker.add(state, 12, 1, CORRECTION).logits
    assert not np.array_equal(corrected, before[12, 1])
    after = logits_of(tracker.propagate(state, 12, 23))
    assert np.array_equal(after[12, 1], corrected)
    assert differing(after, before) == [(frame, 1) for frame in range(12, 24)]
    backwards = logits_of(tracker.propagate(state, 12, 0))
    assert np.array_equal(backwards[12, 1], corrected)
    assert differing(backwards, before) == [(frame, 1) for frame in range(12, 0, -1)]
    assert np.array_equal(backwards[0, 1], before[0, 1])
    for _ in range(2):
        whole = logits_of(tracker.propagate(state, 0, 23))
        assert np.array_equal(whole[12, 1], corrected)
        assert np.array_equal(whole[0, 1], before[0, 1])
        assert set(differing(whole, before)) >= {(frame, 1) for frame in range(12, 24)}


def test_a_correction_holds_for_frames_tracked_long_before(tracker, clip):
    """Following a later piece alone must not go on from what was remembered without the correction."""
    state, fresh = tracker.open(clip), tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    list(tracker.propagate(state, 0, 23))
    tracker.add(state, 4, 1, Prompt(mask=clip[4][:, :, 0] > 180))
    tracker.add(fresh, 0, 1, CLICK)
    tracker.add(fresh, 4, 1, Prompt(mask=clip[4][:, :, 0] > 180))
    assert_equal(logits_of(tracker.propagate(state, 18, 23)), logits_of(tracker.propagate(fresh, 18, 23)))


def test_the_same_prompts_give_the_same_mask_however_they_came(tracker, clip):
    state = tracker.open(clip)
    one = tracker.add(state, 0, 1, CLICK).logits
    two = tracker.add(state, 0, 1, Prompt([(50, 60), (5, 5)], [1, 0])).logits
    assert not np.array_equal(one, two)
    assert np.array_equal(tracker.add(state, 0, 1, CLICK).logits, one)  # the second click undone
    list(tracker.propagate(state, 0, 10))
    assert np.array_equal(tracker.add(state, 0, 1, CLICK).logits, one)
    list(tracker.propagate(state, 0, 10))
    corrected = tracker.add(state, 8, 1, CORRECTION).logits
    tracker.add(state, 8, 1, Prompt([(20, 20)], [0]))
    tracker.remove(state, 1, 8)
    assert np.array_equal(tracker.add(state, 8, 1, CORRECTION).logits, corrected)  # undone and redone


def test_a_removed_correction_leaves_nothing(tracker, clip):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    before = logits_of(tracker.propagate(state, 0, 15))
    tracker.add(state, 8, 1, CORRECTION)
    list(tracker.propagate(state, 0, 15))
    tracker.remove(state, 1, 8)
    assert_equal(logits_of(tracker.propagate(state, 0, 15)), before)
    assert list(state.objects[1].prompts) == [0]


def test_objects_come_and_go_at_any_time(tracker, clip):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    alone = logits_of(tracker.propagate(state, 0, 10))
    tracker.add(state, 5, 30, OTHER)
    both = list(tracker.propagate(state, 0, 10))
    assert all(list(tracked.predictions) == [1, 30] for tracked in both)
    assert [tracked.prompted for tracked in both][:6] == [{1}, set(), set(), set(), set(), {30}]
    both = logits_of(both)
    assert_equal({key: value for key, value in both.items() if key[1] == 1}, alone)
    tracker.remove(state, 1)
    assert_equal(
        logits_of(tracker.propagate(state, 5, 10)), {(f, 30): v for (f, i), v in both.items() if i == 30 and f >= 5}
    )
    tracker.remove(state, 30, 5)
    with pytest.raises(NbHelpersError, match="no prompt yet"):
        tracker.propagate(state, 0, 10)
    tracker.add(state, 0, 1, CLICK)
    assert_equal(logits_of(tracker.propagate(state, 0, 10)), alone)


def test_a_range_can_be_followed_in_pieces_and_left_at_any_frame(tracker, clip):
    whole, pieces = tracker.open(clip), tracker.open(clip)
    for state in (whole, pieces):
        tracker.add(state, 3, 1, CLICK)
    wanted = logits_of(tracker.propagate(whole, 3, 23))
    got = {}
    run = tracker.propagate(pieces, 3, 23)
    got |= logits_of(itertools.islice(run, 7))
    run.close()
    got |= logits_of(tracker.propagate(pieces, 10, 10))
    got |= logits_of(tracker.propagate(pieces, 11, 23))
    assert_equal(got, wanted)
    assert [t.frame for t in tracker.propagate(pieces, 3, 0)] == [3, 2, 1, 0]


def test_a_prompt_between_two_frames_of_a_run_counts_at_once(tracker, clip):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    run = tracker.propagate(state, 0, 8)
    list(itertools.islice(run, 4))
    tracker.add(state, 3, 2, OTHER)
    assert [list(tracked.predictions) for tracked in run] == [[1, 2]] * 5


def test_memory_stays_flat_however_long_the_clip(photo):
    tracker, clip = small("2.1", "++model.image_size=64", *SHORT), MovingPhoto(photo, 60)
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    kept = {}
    for tracked in tracker.propagate(state, 0, 59):
        kept[tracked.frame] = bytes_kept([state.session, list(state.objects[1].before.values())])
    assert tracker.kept == 8
    assert len({kept[frame] for frame in range(12, 60)}) == 1
    assert kept[59] < 1e6
    assert len(state.objects[1].before) == 1
    assert sum(map(len, state.objects[1].outputs.values())) <= 2 + tracker.kept


def test_features_are_computed_once_a_frame_for_all_objects(tracker, clip):
    state = tracker.open(clip)
    for object_id in (1, 2, 3):
        tracker.add(state, 0, object_id, Prompt([(30 * object_id, 60)]))
    list(tracker.propagate(state, 0, 5))
    assert clip.decoded == [0, 1, 2, 3, 4, 5]


def test_a_mask_is_taken_as_it_is(tracker, clip):
    state = tracker.open(clip)
    fine = np.indices(clip.size).sum(0) % 2 == 0  # finer than the network's masks
    assert np.array_equal(tracker.add(state, 2, 1, Prompt(mask=fine)).best, fine)
    tracked = list(tracker.propagate(state, 2, 4))
    assert np.array_equal(tracked[0].predictions[1].best, fine)
    assert tracked[0].predictions[1].scores == 1
    assert not np.array_equal(tracked[1].predictions[1].best, fine)
    low = np.linspace(-1, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    assert np.array_equal(tracker.add(state, 2, 1, Prompt(mask=low)).best, upsample(low, (32, 32), clip.size) > 0)
    tracker.add(state, 6, 1, Prompt(mask=np.zeros(clip.size, bool)))
    assert next(tracker.propagate(state, 6, 6)).gone == {1}


def test_a_mask_with_points_is_corrected_by_them(tracker, clip):
    state = tracker.open(clip)
    disc = clip[0][:, :, 0] > 180
    plain = tracker.add(state, 0, 1, CLICK).logits
    with_mask = tracker.add(state, 0, 1, Prompt(CLICK.points, mask=disc)).logits
    assert not np.array_equal(plain, with_mask)
    assert not np.array_equal(with_mask, tracker.add(state, 0, 1, Prompt(CLICK.points, mask=~disc)).logits)


def test_what_is_not_the_object_can_be_said_on_a_frame_not_tracked_yet(tracker, clip):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    first = tracker.add(state, 9, 1, Prompt([(120, 60)], [0])).logits
    tracker.add(state, 0, 1, OTHER)
    assert not np.array_equal(tracker.add(state, 9, 1, Prompt([(120, 60)], [0])).logits, first)  # frame 0 is heeded


def test_an_object_that_is_not_there_is_gone(tracker, clip):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip[0][:, :, 0] > 180))
    bias = presence(tracker.model)
    try:
        bias.data.fill_(-50)
        tracked = list(tracker.propagate(state, 0, 2))
        assert [t.gone for t in tracked] == [set(), {1}, {1}]
        assert not tracked[1].predictions[1].best.any()
        assert tracked[1].predictions[1].scores < 1e-6
    finally:
        bias.data.fill_(20)
    assert [t.gone for t in tracker.propagate(state, 1, 2)] == [set(), set()]


def test_a_saved_memory_goes_on_as_if_nothing_had_happened(tracker, clip, tmp_path):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    tracker.add(state, 2, 2, OTHER)
    list(tracker.propagate(state, 0, 9))
    tracker.add(state, 8, 1, CORRECTION)
    list(tracker.propagate(state, 0, 12))
    for frame in range(13):
        np.savez(tmp_path / f"{frame}.npz", **tracker.memory(state, frame))
    after = tracker.open(clip)
    said = {frame: {i: o.prompts[frame] for i, o in state.objects.items() if frame in o.prompts} for frame in range(13)}
    for frame in range(13):
        with np.load(tmp_path / f"{frame}.npz") as memory:
            tracker.recall(after, frame, memory, said[frame])
    assert_equal(logits_of(tracker.propagate(after, 13, 20)), logits_of(tracker.propagate(state, 13, 20)))
    more = Prompt([(30, 30), (140, 100)], [1, 0])
    assert np.array_equal(tracker.add(after, 8, 1, more).logits, tracker.add(state, 8, 1, more).logits)
    for each in (after, state):
        tracker.remove(each, 2)
    assert_equal(logits_of(tracker.propagate(after, 5, 12)), logits_of(tracker.propagate(state, 5, 12)))
    with np.load(tmp_path / "8.npz") as memory, pytest.raises(NbHelpersError, match="does not match"):
        tracker.recall(tracker.open(clip), 8, memory)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["ampere", "t4"])
def test_half_precision_gives_nearly_the_same_masks_and_a_saved_memory_is_of_any_machine(half, clip, monkeypatch):
    tracker, whole = small("2.1", *SHORT), {}
    for precision in (None, half):
        for module in (device, adapters, tracking):
            monkeypatch.setattr(module, "half_precision", lambda *_, own=precision: own)
        state = tracker.open(clip)
        tracker.add(state, 2, 1, CLICK)
        whole[precision] = logits_of([*tracker.propagate(state, 2, 7), *tracker.propagate(state, 2, 0)])
    for key, exact in whole[None].items():
        assert 0 < np.abs(whole[half][key] - exact).max() < 0.1 * np.abs(exact).max()
    memory = {frame: tracker.memory(state, frame) for frame in range(8)}
    for precision in (None, torch.bfloat16, torch.float16):
        for module in (device, adapters, tracking):
            monkeypatch.setattr(module, "half_precision", lambda *_, own=precision: own)
        after = tracker.open(clip)
        for frame in sorted(memory, key=lambda frame: frame != 2):
            tracker.recall(after, frame, memory[frame], {1: CLICK} if frame == 2 else None)
        assert len(list(tracker.propagate(after, 8, 9))) == 2


def test_nothing_is_left_switched_on_between_frames(tracker, clip):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, CLICK)
    for _ in tracker.propagate(state, 0, 2):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_full_memory_goes_on_on_the_cpu(tracker, clip, monkeypatch):
    state, on_cpu = tracker.open(clip), tracker.open(clip)
    for each in (state, on_cpu):
        tracker.add(each, 0, 1, CLICK)
    wanted = logits_of(tracker.propagate(on_cpu, 0, 3))
    monkeypatch.setattr(tracker, "device", "cuda")
    monkeypatch.setattr(adapters, "autocast", lambda *_: torch.no_grad())
    monkeypatch.setattr(adapters, "half_precision", lambda *_: None)
    state.device = "cuda"  # stands for the device that was full
    step = type(tracker.model).step

    def limited(self, *args):
        if tracker.device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *args)

    monkeypatch.setattr(type(tracker.model), "step", limited)
    with pytest.warns(MemoryWarning, match="continues on the CPU"):
        got = logits_of(tracker.propagate(state, 0, 3))
    assert tracker.device == "cpu"
    assert_equal(got, wanted)


def test_what_cannot_be_is_refused_and_changes_nothing(tracker, clip, tmp_path, photo):
    state = tracker.open(clip)
    with pytest.raises(NbHelpersError, match="no prompt yet"):
        tracker.propagate(state, 0, 3)
    tracker.add(state, 0, 1, CLICK)
    for frame in (-1, 24):
        with pytest.raises(NbHelpersError, match="no such frame"):
            tracker.add(state, frame, 1, CLICK)
        with pytest.raises(NbHelpersError, match="no such frame"):
            tracker.propagate(state, 0, frame)
    with pytest.raises(NbHelpersError, match="outside the image"):
        tracker.add(state, 0, 1, Prompt([(500, 5)]))
    with pytest.raises(NbHelpersError, match="another size"):
        tracker.add(state, 0, 1, Prompt(mask=np.ones((7, 7), bool)))
    for wrong in ((2, None), (1, 5)):
        with pytest.raises(NbHelpersError, match="no such prompt"):
            tracker.remove(state, *wrong)
    assert [t.frame for t in tracker.propagate(state, 0, 1)] == [0, 1]

    for index in range(3):
        save_image(tmp_path / f"{index}.png", photo)
    broken = tmp_path / "1.png"
    broken.write_bytes(broken.read_bytes()[:500])
    state = tracker.open(Frames(tmp_path))
    with pytest.raises(NbHelpersError, match="cannot be read"):
        tracker.add(state, 1, 1, CLICK)
    tracker.add(state, 0, 1, CLICK)
    run = tracker.propagate(state, 0, 2)
    assert next(run).frame == 0
    with pytest.raises(NbHelpersError, match="cannot be read"):
        next(run)


SAM2_TRACKERS = [model for model in catalog.models("tracker", "official") if model.name.startswith("sam2")]


@pytest.mark.parametrize("entry", SAM2_TRACKERS, ids=lambda m: m.name)
def test_the_catalog_knows_how_to_build_each(entry):
    assert entry.adapter == "nbhelpers.models.sam2_video:build"
    assert entry.options["config"].endswith(".yaml")


def test_a_checkpoint_is_built_and_one_for_images_only_is_refused(tracker, clip, tmp_path, monkeypatch):
    config = "configs/sam2.1/sam2.1_hiera_t.yaml"
    model = sam2_video.build_video_network(config)
    assert (model.image_size, model.add_all_frames_to_correct_as_cond) == (1024, False)
    state = model.state_dict()
    monkeypatch.setattr(sam2_video, "build_video_network", lambda config: model)
    file = tmp_path / "sam2.1.pt"
    torch.save({"model": {k: v for k, v in state.items() if not k.startswith("memory_")}}, file)
    with pytest.raises(NbHelpersError, match="images only"):
        sam2_video.build("x", {"checkpoint": file}, "cpu", config=config)
    torch.save({"model": state}, file)
    built = sam2_video.build("x", {"checkpoint": file}, "cpu", config=config)
    assert isinstance(built, Tracker)
    assert built.model.add_all_frames_to_correct_as_cond
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(function) or function)
    sam2_video.build("x", {"checkpoint": file}, "cpu", config=config, compile=True)
    assert len(compiled) == 1


def test_a_picture_is_normalised_as_upstream_does(tmp_path, photo):
    from sam2.utils.misc import load_video_frames

    from nbhelpers.models.sam2_video_network import LazyImages

    save_image(tmp_path / "0.jpg", photo)
    images, height, width = load_video_frames(str(tmp_path), 64, True)
    assert (height, width) == photo.shape[:2]
    assert torch.equal(LazyImages(Frames(tmp_path), 64)[0], images[0])
