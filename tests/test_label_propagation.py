"""Following objects by label propagation: on drawn clips with a segmenter without weights, and on real frames."""

import cv2
import numpy as np
import pytest
import torch
from fake_segmenter import FakeSegmenter

from nbhelpers.core import device
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import iou
from nbhelpers.core.prompts import Prompt
from nbhelpers.models.label_propagation import LabelPropagation
from nbhelpers.models.label_propagation.decoding import (
    MAX_THICKNESS,
    PackedMasks,
    Window,
    correct_mask,
    thickness,
    window_around,
)
from nbhelpers.models.label_propagation.tracker import CACHE_SIZE
from nbhelpers.models.label_propagation.votes import encode_memory, vote, without
from nbhelpers.models.protocols import Tracker
from nbhelpers.models.values import Embedding, Prediction

GRID = 16
SIDE = 4 * GRID
SIZE = (96, 128)


class ColourSegmenter(FakeSegmenter):
    """SAM 2's kind of features made of colour, and a decoder that answers a region of one colour."""

    name = "colours"

    def encode(self, image):
        self.encoded += 1
        maps = {}
        for name, side in (("image_embed", GRID), ("high_res_feats_1", 2 * GRID), ("high_res_feats_0", SIDE)):
            small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
            maps[name] = torch.from_numpy(small).permute(2, 0, 1)[None]
        return Embedding(image.shape[:2], self.name, maps)

    def features(self, embedding, level=0):
        name = ("image_embed", "high_res_feats_1", "high_res_feats_0")[level]
        return embedding.tensors[name][0].permute(1, 2, 0)

    def predict(self, embedding, prompt):
        picture = embedding.tensors["high_res_feats_0"][0].permute(1, 2, 0).numpy()
        scale = np.array([SIDE / embedding.size[1], SIDE / embedding.size[0]])

        def alike(points):
            cells = np.clip((points + 0.5) * scale, 0, SIDE - 1).astype(int)
            away = [np.linalg.norm(picture - picture[y, x], axis=2) for x, y in cells]
            return np.min(away, axis=0) < 0.3 if away else np.zeros((SIDE, SIDE), bool)

        inside = alike(prompt.points[prompt.labels == 1])
        if prompt.mask is not None:
            mask = prompt.mask.astype(np.float32) - (0.5 if prompt.mask.dtype == np.bool_ else 0)
            inside |= cv2.resize(mask, (SIDE, SIDE)) > 0
        inside &= ~alike(prompt.points[prompt.labels == 0])
        if prompt.box is not None:
            x0, y0, x1, y1 = ((prompt.box.reshape(2, 2) + 0.5) * scale).ravel()
            rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
            boxed = (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)
            middle = prompt.box.reshape(2, 2).mean(0, keepdims=True)
            inside = boxed & (inside if inside.any() else alike(middle))
        logits = np.repeat(np.where(inside, 8, -8)[None].astype(np.float32), 4, axis=0)
        return Prediction(logits, np.full(4, 0.9, np.float32), embedding.size, (SIDE, SIDE))


class Clip:
    """A red disc that runs to the right and a blue box that stays; ``hidden`` frames show neither."""

    size = SIZE

    def __init__(self, length=12, hidden=()):
        self.length, self.hidden, self.decoded = length, set(hidden), []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.decoded.append(index)
        picture = np.full((*SIZE, 3), (40, 160, 60), np.uint8)
        if index not in self.hidden:
            picture[self.box()] = (30, 60, 220)
            picture[self.disc(index)] = (220, 40, 30)
        return picture

    @staticmethod
    def disc(index):
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        return (columns - 24 - 4 * (index % 20)) ** 2 + (rows - 30) ** 2 <= 14**2

    @staticmethod
    def box():
        mask = np.zeros(SIZE, bool)
        mask[60:88, 40:80] = True
        return mask


class Pictures(list):
    """A clip held in memory."""

    @property
    def size(self):
        return self[0].shape[:2]


@pytest.fixture
def tracker():
    return LabelPropagation(ColourSegmenter())


def followed(tracker, state, start, stop):
    return {tracked.frame: tracked for tracked in tracker.propagate(state, start, stop)}


def test_it_is_a_tracker_and_opens_without_decoding(tracker):
    assert isinstance(tracker, Tracker)
    clip = Clip()
    tracker.open(clip)
    assert not clip.decoded


@pytest.mark.parametrize(
    "prompt", [Prompt([(24, 30)]), Prompt(box=(9, 15, 40, 46)), Prompt(mask=Clip.disc(0))], ids=["click", "box", "mask"]
)
def test_an_object_is_followed_from_any_kind_of_prompt(tracker, prompt):
    clip = Clip()
    state = tracker.open(clip)
    answered = tracker.add(state, 0, 1, prompt)
    assert iou(answered.best, clip.disc(0)) > 0.75
    found = followed(tracker, state, 0, 11)
    assert list(found) == list(range(12))
    for index, tracked in found.items():
        assert iou(tracked.predictions[1].best, clip.disc(index)) > 0.75, index
        assert 0 < tracked.predictions[1].scores[0] <= 1
        assert not tracked.gone
        assert tracked.prompted == ({1} if index == 0 else set())


def test_a_mask_is_taken_as_it_is(tracker):
    clip = Clip()
    state = tracker.open(clip)
    painted = clip.disc(0).copy()
    painted[3, 100] = True  # a single pixel, smaller than any cell
    assert np.array_equal(tracker.add(state, 0, 1, Prompt(mask=painted)).best, painted)
    assert np.array_equal(followed(tracker, state, 0, 1)[0].predictions[1].best, painted)


def test_backwards_from_the_end_and_in_pieces(tracker):
    clip = Clip()
    state = tracker.open(clip)
    tracker.add(state, 11, 7, Prompt(mask=clip.disc(11)))
    assert list(followed(tracker, state, 11, 6)) == [11, 10, 9, 8, 7, 6]
    found = followed(tracker, state, 5, 0)
    assert iou(found[0].predictions[7].best, clip.disc(0)) > 0.75


def test_pieces_give_what_one_run_gives(tracker):
    clip, masks = Clip(), []
    for stops in ((11,), (4, 5, 11)):
        state = tracker.open(clip)
        tracker.add(state, 0, 1, Prompt(mask=clip.disc(0)))
        start, found = 0, {}
        for stop in stops:
            found |= followed(tracker, state, start, stop)
            start = stop + 1
        masks.append(found[11].predictions[1].best)
    assert iou(*masks) > 0.97  # kept masks are rounded to an eighth of a logit


def test_the_iterator_can_be_left_and_objects_added_later(tracker):
    clip = Clip()
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.disc(0)))
    for tracked in tracker.propagate(state, 0, 11):
        if tracked.frame == 5:
            break
    tracker.add(state, 6, 2, Prompt(mask=clip.box()))
    found = followed(tracker, state, 6, 11)
    assert iou(found[11].predictions[1].best, clip.disc(11)) > 0.75
    assert iou(found[11].predictions[2].best, clip.box()) > 0.9
    assert iou(followed(tracker, state, 6, 0)[0].predictions[2].best, clip.box()) > 0.9


def test_gone_while_hidden_and_found_again(tracker):
    clip = Clip(length=16, hidden=range(5, 9))
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.disc(0)))
    found = followed(tracker, state, 0, 15)
    assert [index for index, tracked in found.items() if tracked.gone] == [5, 6, 7, 8]
    assert not found[6].predictions[1].best.any()
    for index in (9, 15):
        assert iou(found[index].predictions[1].best, clip.disc(index)) > 0.75


def test_a_correction_sticks_and_is_honoured_both_ways(tracker):
    clip = Clip()
    state = tracker.open(clip)
    both = clip.disc(0) | clip.box()
    tracker.add(state, 0, 1, Prompt(mask=both))  # wrong: the box is not meant
    before = followed(tracker, state, 0, 11)
    assert (before[8].predictions[1].best & clip.box()).any()
    corrected = tracker.add(state, 6, 1, Prompt([(60, 70)], [0]))
    assert not (corrected.best & clip.box()).any()
    assert iou(corrected.best, clip.disc(6)) > 0.75
    tracker.remove(state, 1, 0)
    for stop in (11, 0):
        for index, tracked in followed(tracker, state, 6, stop).items():
            assert iou(tracked.predictions[1].best, clip.disc(index)) > 0.75
            assert tracked.prompted == ({1} if index == 6 else set())
    again = followed(tracker, state, 0, 11)
    assert np.array_equal(again[6].predictions[1].best, corrected.best)


def test_frames_beyond_a_correction_are_remembered_but_where_it_changed_the_mask(tracker):
    clip = Clip()
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.disc(0) | clip.box()))
    followed(tracker, state, 0, 11)
    track = state.objects[1]
    assert track.corrected(7, 4) is None
    tracker.add(state, 6, 1, Prompt([(60, 70)], [0]))  # without the box
    assert track.before(8, 1, 4) == [7, 5, 4, 3]
    assert track.before(3, -1, 4) == [4, 5, 7, 8]
    assert track.corrected(8, 7) is None
    for near, far in ((5, 8), (7, 4)):
        outdated = track.corrected(far, near)
        size = outdated.shape[::-1]
        box, disc = (cv2.resize(m.astype(np.uint8), size) > 0 for m in (clip.box(), clip.disc(near)))
        assert outdated[box].all()
        assert outdated[disc & ~box].mean() < 0.2
        memory = encode_memory(near, tracker._maps(state, near), state.means, box.astype(np.float32))
        left = without(memory, outdated)
        assert memory.coarse.labels.max() == 1
        assert left.coarse.labels.max() == 0  # no vote for the box ...
        assert 0.3 < len(left.coarse.labels) / len(memory.coarse.labels) < 0.95  # ... nor against it
        assert len(left.fine.labels) < len(memory.fine.labels)
    nothing = without(memory, np.ones_like(outdated))
    here, anchor = tracker._maps(state, 8), track.anchors[6].memory
    votes = [vote(8, here, state.means, frames).probability for frames in ([anchor], [anchor, nothing])]
    assert np.array_equal(*votes)
    tracker.add(state, 3, 1, Prompt(mask=clip.disc(3)))
    tracker.remove(state, 1, 6)
    for frame in range(4):
        track.drop(frame)  # as if nothing had been tracked there: a new prompt, no correction
    assert track.before(5, 1, 4) == [4]


def test_an_including_click_adds_a_part_to_what_was_followed(tracker):
    clip = Clip()
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.disc(0)))
    before = followed(tracker, state, 0, 3)[3].predictions[1].best
    wider = tracker.add(state, 3, 1, Prompt([(60, 70)])).best
    assert np.array_equal(wider, before | wider)
    assert iou(wider, clip.disc(3) | clip.box()) > 0.8
    unchanged = tracker.add(state, 3, 1, Prompt([(36, 30)])).best  # honoured already
    assert iou(unchanged, before) > 0.97


def test_an_excluding_click_keeps_the_rest_of_the_object():
    class LosesHalf:
        """Without a box it takes away all that is below the click, with one only what is around it."""

        name, device = "fake", "cpu"

        def encode(self, image):
            raise NotImplementedError

        def predict_points(self, embedding, points, choose=None):
            raise NotImplementedError

        def features(self, embedding, level=0):
            return np.zeros((16, 16, 4), np.float32)

        def predict(self, embedding, prompt):
            (x, y), mask = prompt.points[0] / 4, np.full((64, 64), -8, np.float32)
            mask[10:50, 20:40] = 8
            if prompt.box is None:
                mask[int(y) - 2 :] = -8
            else:
                assert np.allclose(prompt.box, [80, 40, 159, 199])
                mask[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = -8
            return Prediction(mask[None], np.ones(1, np.float32), (256, 256), mask.shape)

    tracked = np.full((64, 64), -8, np.float32)
    tracked[10:50, 20:40] = 8
    embedding = Embedding(model="fake", size=(256, 256), tensors={})
    after = correct_mask(LosesHalf(), embedding, Prompt([(120, 100)], [0]), tracked).logits[0] > 0
    assert not after[25, 30] and np.count_nonzero(after) == 40 * 20 - 25


def test_what_moves_along_is_taken_with_a_click(tracker):
    rng = np.random.default_rng(0)
    wall = rng.integers(0, 60, (24, 32, 3), np.uint8)
    wall = cv2.resize(wall, (128, 96), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-25, 25, (*SIZE, 3))

    class Rider(Clip):
        def __getitem__(self, index):
            picture = wall.astype(int)
            at = 20 + 6 * index
            picture[20:44, at : at + 30] = np.array((220, 40, 30)) + noise[:24, :30]
            picture[44:70, at : at + 30] = np.array((30, 60, 220)) + noise[:26, :30]
            return np.clip(picture, 0, 255).astype(np.uint8)

    state = tracker.open(Rider())
    mask = tracker.add(state, 0, 1, Prompt([(35, 30)])).best
    assert mask[24:40, 24:46].mean() > 0.9
    assert mask[48:66, 24:46].mean() > 0.9
    assert mask.mean() < 0.25


def test_all_that_a_click_may_mean(tracker):
    clip = Clip()
    state = tracker.open(clip)
    candidates = tracker.candidates(state, 0, (24, 30))
    assert len(candidates) == 4
    assert iou(candidates.best, tracker.add(state, 0, 1, Prompt([(24, 30)])).best) == 1
    assert iou(candidates.best, clip.disc(0)) > 0.75


def test_an_object_of_one_cell_is_followed(tracker):
    class Ball(Clip):
        def disc(self, index):
            mask = np.zeros(SIZE, bool)
            mask[40:48, 20 + 4 * index : 29 + 4 * index] = True
            return mask

    clip = Ball()
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.disc(0)))
    for index, tracked in followed(tracker, state, 0, 11).items():
        assert not tracked.gone
        assert (tracked.predictions[1].best & clip.disc(index)).any()


def test_an_empty_mask_says_that_the_object_is_not_there(tracker):
    clip = Clip()
    state = tracker.open(clip)
    nothing = Prompt(mask=np.zeros(SIZE, bool))
    assert not tracker.add(state, 0, 1, nothing).best.any()
    assert followed(tracker, state, 0, 3)[3].gone == {1}
    tracker.add(state, 4, 1, Prompt(mask=clip.disc(4)))
    assert iou(followed(tracker, state, 4, 8)[8].predictions[1].best, clip.disc(8)) > 0.75


class Cross(Clip):
    """A red cross of thin arms that runs to the right; it covers few cells of the frame's features."""

    size = (192, 256)

    def __getitem__(self, index):
        self.decoded.append(index)
        picture = np.full((*self.size, 3), (40, 160, 60), np.uint8)
        picture[::16] = picture[:, ::16] = (90, 90, 200)
        picture[self.cross(index)] = (220, 40, 30)
        return picture

    @classmethod
    def cross(cls, index):
        rows, columns = np.mgrid[: cls.size[0], : cls.size[1]]
        away = np.abs(columns - 80 - 5 * index), np.abs(rows - 60 - 2 * index)
        return ((away[0] < 6) & (away[1] < 30)) | ((away[1] < 6) & (away[0] < 30))


def ious_of_cross(tracker, state, start=0, stop=11):
    found = followed(tracker, state, start, stop)
    return [iou(each.predictions[1].best, Cross.cross(index)) for index, each in found.items() if not each.prompted]


def test_a_thin_object_is_decoded_in_a_window_around_it():
    clip, means = Cross(), []
    for windows in (False, True):
        tracker = LabelPropagation(ColourSegmenter(), windows=windows)
        state = tracker.open(clip)
        tracker.add(state, 0, 1, Prompt(mask=clip.cross(0)))
        means.append(np.mean(ious_of_cross(tracker, state)))
        assert bool(state.objects[1].windows) == windows
    assert means[1] > means[0] + 0.15
    windows = state.objects[1].windows
    assert windows[11].left - windows[1].left == pytest.approx(50, abs=4)  # they move along


def test_windows_are_the_same_in_pieces_and_from_saved_memory():
    clip, tracker = Cross(), LabelPropagation(ColourSegmenter())
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.cross(0)))
    whole = followed(tracker, state, 0, 11)
    state, again = tracker.open(clip), tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.cross(0)))
    followed(tracker, state, 0, 5)
    for frame in range(6):
        saved = tracker.memory(state, frame)
        tracker.recall(again, frame, saved, {1: Prompt(mask=clip.cross(0))} if frame == 0 else {})
    for each in (state, again):
        found = followed(tracker, each, 6, 11)
        assert np.array_equal(found[11].predictions[1].logits, whole[11].predictions[1].logits)


def test_after_a_correction_saved_memory_goes_on_as_before():
    clip, tracker = Cross(), LabelPropagation(ColourSegmenter())
    shorter = clip.cross(5)
    shorter[: np.flatnonzero(shorter.any(1))[0] + 12] = False
    prompts = {0: Prompt(mask=clip.cross(0)), 5: Prompt(mask=shorter)}
    state, again = tracker.open(clip), tracker.open(clip)
    tracker.add(state, 0, 1, prompts[0])
    followed(tracker, state, 0, 7)
    tracker.add(state, 5, 1, prompts[5])
    followed(tracker, state, 5, 7)
    assert state.objects[1].before(7, 1, 4) == [6, 4, 3, 2]
    assert state.objects[1].corrected(7, 4).any()
    for frame in (0, 5, 1, 2, 3, 4, 6, 7):
        saved = tracker.memory(state, frame)
        tracker.recall(again, frame, saved, {1: prompts[frame]} if frame in prompts else {})
    whole, found = (followed(tracker, each, 8, 11) for each in (state, again))
    for frame in whole:
        assert np.array_equal(found[frame].predictions[1].logits, whole[frame].predictions[1].logits)


def test_a_mask_from_a_window_is_corrected():
    clip, tracker = Cross(), LabelPropagation(ColourSegmenter())
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.cross(0)))
    before = followed(tracker, state, 0, 11)[6].predictions[1].best
    x, y = 80 + 5 * 6, 60 + 2 * 6
    assert before[y, x] and not before[150, 20]
    same = tracker.add(state, 6, 1, Prompt([(x, y)])).best
    assert np.array_equal(same, before)
    more = tracker.add(state, 6, 1, Prompt([(20, 150)])).best
    assert more[before].all() and more[150, 20]
    less = tracker.add(state, 6, 1, Prompt([(x, y)], [0])).best
    assert not less[y, x]


def test_an_object_that_the_frame_shows_well_needs_no_window():
    segmenter = ColourSegmenter()
    tracker = LabelPropagation(segmenter)
    state = tracker.open(Cross())
    rows, columns = np.mgrid[:192, :256]
    for mask, encoded in (((columns - 80) ** 2 + (rows - 60) ** 2 < 1600, 3), (Cross.cross(0), 7)):
        tracker.add(state, 0, 1, Prompt(mask=mask))
        before = segmenter.encoded
        followed(tracker, state, 0, 3)
        assert segmenter.encoded - before == encoded  # frames 1 to 3, and a window on each and on the prompted one
        state = tracker.open(Cross())


def test_thickness_is_the_mean_width_of_the_parts():
    mask = np.zeros((64, 64), bool)
    mask[10:50, 20:24] = True
    assert thickness(mask) == pytest.approx(4, rel=0.15)
    mask[20:24, 4:60] = True  # a cross of arms as wide
    assert thickness(mask) == pytest.approx(4, rel=0.2)
    assert thickness(np.ones((64, 64), bool)) > MAX_THICKNESS
    assert thickness(np.zeros((64, 64), bool)) == 0


def test_a_window_lies_in_the_frame_and_is_large_enough():
    mask = np.zeros((64, 64), bool)
    mask[2:10, 0:8] = True  # near a corner
    window = window_around(mask, (), (480, 640))
    assert (window.left, window.top, window.side) == (0, 0, 160)
    assert window_around(mask[::-1, ::-1], (), (480, 640)) == Window(480, 320, 160)
    assert window_around(mask, (), (192, 256)).side == 128
    assert window_around(mask, (), (144, 192)) is None  # smaller than a window may be
    larger = mask.copy()
    larger[:20, :29] = True  # on another frame
    assert window_around(mask, [larger], (480, 640)).side == 384  # as large as windows get
    larger[:20, :31] = True
    assert window_around(mask, [larger], (480, 640)) is None
    assert window_around(np.zeros_like(mask), [mask], (480, 640)) is None
    image = np.arange(192 * 256 * 3, dtype=np.uint32).reshape(192, 256, 3).astype(np.uint8)
    assert np.array_equal(Window(7, 5, 64).cut(image), image[5:69, 7:71])


def test_a_map_is_cut_and_pasted_at_its_place():
    values = np.zeros((64, 64), np.float32)
    values[20:30, 20:30] = 1
    window = Window(60, 48, 96)  # columns 15 to 39 and rows 16 to 48 of the grid
    part = window.cut_map(values, (192, 256), 64)
    rows, columns = np.nonzero(part > 0.5)
    assert rows.min() / 64 * 32 + 16 == pytest.approx(20, abs=0.6)
    assert columns.max() / 64 * 24 + 15 == pytest.approx(29.7, abs=0.6)
    pasted = window.paste_map(part, values, (192, 256))
    assert np.array_equal(pasted > 0.5, np.kron(values, np.ones((2, 2))) > 0.5)  # twice as fine
    pasted = window.paste_map(np.ones_like(part), np.zeros_like(values), (192, 256))
    assert pasted[32:96, 30:78].min() > 0.99 and pasted.sum() == pytest.approx(64 * 48, rel=0.05)


def test_memory_does_not_grow_with_the_clip(tracker):
    clip = Clip(length=60)
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.disc(0)))
    for tracked in tracker.propagate(state, 0, 59):
        assert len(state.objects[1].recent) <= 6
        assert len(state._embeddings) <= CACHE_SIZE
        assert tracked.predictions[1].logits.nbytes < 1e5
    assert tracker.segmenter.encoded == 60  # each frame once


def test_packed_masks_keep_logits_to_a_sixteenth():
    logits = np.random.default_rng(0).normal(0, 5, (64, 64)).astype(np.float32)
    packed = PackedMasks()
    packed[3] = logits
    assert 3 in packed
    assert np.abs(packed[3] - np.clip(logits, -15, 15)).max() <= 1 / 16
    packed.drop(3)
    packed.drop(3)
    assert 3 not in packed


def test_bad_input_is_told_at_once(tracker):
    state = tracker.open(Clip())
    with pytest.raises(NbHelpersError, match="no prompt yet"):
        tracker.propagate(state, 0, 3)
    with pytest.raises(NbHelpersError, match="no such frame"):
        tracker.add(state, 12, 1, Prompt([(1, 1)]))
    with pytest.raises(NbHelpersError, match="outside the image"):
        tracker.add(state, 0, 1, Prompt([(500, 1)]))
    with pytest.raises(NbHelpersError, match="excluding points alone"):
        tracker.add(state, 0, 1, Prompt([(5, 5)], [0]))
    assert not state.objects
    tracker.add(state, 0, 1, Prompt(mask=Clip.disc(0)))
    with pytest.raises(NbHelpersError, match="no such frame"):
        tracker.propagate(state, 0, 12)
    for bad in ((2, None), (1, 4)):
        with pytest.raises(NbHelpersError, match="no such prompt"):
            tracker.remove(state, *bad)
    tracker.remove(state, 1)
    with pytest.raises(NbHelpersError, match="no prompt yet"):
        tracker.propagate(state, 0, 3)
    with pytest.raises(NbHelpersError, match="no frames"):
        tracker.open(Clip(length=0))


def test_a_segmenter_without_the_features_is_refused():
    with pytest.raises(NbHelpersError, match="has no features"):
        LabelPropagation(FakeSegmenter())


@pytest.mark.weights
def test_on_real_features_an_object_is_followed_lost_and_found():
    from nbhelpers import load, load_image
    from nbhelpers.weights import sample

    picture = load_image(sample("coffee.png"))
    mask = np.zeros(picture.shape[:2], bool)
    shifts = (0, 36)
    frames = Pictures([np.roll(picture, shift, axis=1) for shift in shifts] + [load_image(sample("chelsea.png"))])
    frames[2] = cv2.resize(frames[2], picture.shape[1::-1])
    tracker = load("tracker", models="lite")
    state = tracker.open(frames)
    mask = tracker.add(state, 0, 1, Prompt(box=(190, 60, 460, 330))).best
    found = followed(tracker, state, 0, 2)
    assert 0.03 < mask.mean() < 0.5
    for index, shift in enumerate(shifts):
        assert iou(found[index].predictions[1].best, np.roll(mask, shift, axis=1)) > 0.8
    assert found[2].gone == {1}


@pytest.mark.parametrize(
    ("processor", "setting", "taken"),
    [(True, None, "bfloat16"), (False, None, None), (True, "float32", None), (True, "bfloat16", None)],
)
def test_the_encoder_takes_bfloat16_where_the_processor_has_it(monkeypatch, processor, setting, taken):
    from nbhelpers.models import load as loading
    from nbhelpers.models.label_propagation import tracker

    seen = []
    monkeypatch.setattr(
        loading, "load", lambda task, name, device, precision: seen.append(precision) or FakeSegmenter()
    )
    monkeypatch.setattr(tracker, "with_features", lambda segmenter: segmenter)
    monkeypatch.setattr(tracker, "has_bfloat16", lambda device: processor)
    monkeypatch.setattr(device, "has_bfloat16", lambda device: processor)
    monkeypatch.delenv("NBHELPERS_PRECISION", raising=False)
    if setting:
        monkeypatch.setenv("NBHELPERS_PRECISION", setting)
    tracker.build("label-propagation", {}, "cpu", segmenter="sam2-hiera-tiny-lite")
    assert seen == [taken]  # None: as the environment says


def test_a_tracker_without_distractors_and_windows_has_a_name(monkeypatch):
    from nbhelpers.models import load as loading
    from nbhelpers.models.label_propagation import tracker
    from nbhelpers.weights import catalog

    monkeypatch.setattr(loading, "load", lambda *args, **kwargs: FakeSegmenter())
    monkeypatch.setattr(tracker, "with_features", lambda segmenter: segmenter)
    usual = loading.choose_model("tracker", models="lite")
    assert usual.name == "label-propagation"
    other = catalog.find("label-propagation-plain")
    built = [tracker.build(each.name, {}, "cpu", **each.options) for each in (usual, other)]
    assert [(each.distractors, each.windows) for each in built] == [(True, True), (False, False)]
    assert built[1].name == other.name


@pytest.mark.parametrize("backwards", [False, True])
def test_every_third_frame_is_tracked_and_masks_between_are_interpolated(tracker, backwards):
    clip = Clip(12)
    start, stop = (11, 0) if backwards else (0, 11)
    state = tracker.open(clip)
    tracker.add(state, start, 1, Prompt(mask=clip.disc(start)))
    tracker.add(state, 5, 2, Prompt(mask=clip.box()))
    encoded = tracker.segmenter.encoded
    frames = list(tracker.propagate(state, start, stop, -3 if backwards else 3))
    assert [tracked.frame for tracked in frames] == (list(range(12))[::-1] if backwards else list(range(12)))
    decoded = [tracked.frame for tracked in frames if not tracked.is_interpolated]
    # a prompted frame and the last are among them
    assert decoded == ([11, 8, 5, 2, 0] if backwards else [0, 3, 5, 8, 11])
    assert tracker.segmenter.encoded - encoded == 3
    for tracked in frames:
        assert tracked.predictions[1].best.shape == SIZE and 0 < tracked.predictions[1].scores[0] <= 1
        assert iou(tracked.predictions[1].best, clip.disc(tracked.frame)) > 0.85, tracked.frame
        assert iou(tracked.predictions[2].best, clip.box()) > 0.85
    assert [tracked.prompted for tracked in frames if tracked.frame == 5] == [{2}]


def test_an_object_that_is_added_on_the_way_is_interpolated_from_its_own_side(tracker):
    clip = Clip(8)
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.disc(0)))
    frames = tracker.propagate(state, 0, 7, 3)
    assert next(frames).frame == 0
    tracker.add(state, 2, 2, Prompt(mask=clip.box()))
    between, prompted = next(frames), next(frames)
    assert between.is_interpolated and iou(between.predictions[2].best, clip.box()) > 0.95
    assert prompted.prompted == {2} and (prompted.predictions[2].best == clip.box()).all()


def test_a_step_that_leads_away_is_refused(tracker):
    state = tracker.open(Clip(4))
    tracker.add(state, 0, 1, Prompt(mask=Clip.disc(0)))
    with pytest.raises(NbHelpersError, match="leads away"):
        tracker.propagate(state, 0, 3, -3)


def test_a_single_frame_is_tracked_backwards(tracker):
    clip = Clip(4)
    state = tracker.open(clip)
    tracker.add(state, 1, 1, Prompt(mask=clip.disc(1)))
    list(tracker.propagate(state, 0, 0, -1))
    assert 0 in state.objects[1].tracked[-1] and 0 not in state.objects[1].tracked[1]
