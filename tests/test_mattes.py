"""Mattes: each step on drawn masks, the guided filter against least squares, mattes of a clip."""

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import iou
from nbhelpers.core.mattes import (
    Mattes,
    MatteSettings,
    combine_mattes,
    feather_matte,
    fill_holes,
    grow_mask,
    guided_filter,
    make_matte,
    reach_frame_edge,
    remove_small_components,
)


def disc(size=(120, 160), x=80.0, y=60.0, radius=30.0):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


class Clip:
    """Frames in memory."""

    def __init__(self, images, wrap=0):
        self.images, self.wrap, self.size = images, wrap, images[0].shape[:2]
        self.decoded = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.decoded.append(index)
        return self.images[index]


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_neutral_settings_leave_the_mask(dtype, full):
    mask = disc()
    matte = make_matte(mask, MatteSettings(), dtype=dtype)
    assert matte.dtype == dtype and np.array_equal(matte, mask.astype(dtype) * dtype(full))
    assert not make_matte(mask & False, MatteSettings(feather=4, refine=5), np.zeros((120, 160, 3), np.uint8)).any()


def test_holes_up_to_an_area_are_filled_and_bays_stay():
    mask = disc()
    mask[60, 80:84] = mask[70:80, 75:85] = False
    mask[0:60, 78] = False  # a slit, open to the frame's edge
    filled = fill_holes(mask, 4)
    assert filled[60, 80:84].all() and not filled[70:80, 75:85].any() and not filled[0:60, 78].any()
    assert fill_holes(mask, 100)[70:80, 75:85].all()
    corner = np.ones((20, 20), bool)
    corner[0, 0] = False
    assert not fill_holes(corner, 50)[0, 0], "what touches the frame's edge is no hole"


def test_specks_are_dropped_by_area():
    mask = disc()
    mask[5, 5:8] = True
    assert np.array_equal(remove_small_components(mask, 4), disc()) and np.array_equal(
        remove_small_components(mask, 3), mask
    )
    assert not remove_small_components(mask, 10**6).any()


@pytest.mark.parametrize("pixels", [-7.5, -1, 0, 1, 6])
def test_growing_moves_the_outline_by_so_many_pixels(pixels):
    grown = grow_mask(disc(radius=30), pixels)
    radius = np.sqrt(grown.sum() / np.pi)
    assert radius == pytest.approx(30 + pixels, abs=0.6)
    assert np.array_equal(grow_mask(grow_mask(disc(), 1), -1), disc()) or pixels


def test_the_frames_edge_does_not_eat_a_shrinking_mask():
    mask = np.zeros((50, 60), bool)
    mask[20:, :30] = True
    shrunk = grow_mask(mask, -3)
    assert shrunk[-1, 0] and shrunk[23, 0] and not shrunk[22, 0] and not shrunk[-1, 27]


@pytest.mark.parametrize("turns", range(4))
def test_a_mask_that_stops_short_is_carried_to_the_frames_edge(turns):
    mask = np.zeros((60, 60), bool)
    mask[3:40, 20:40] = True
    want = mask.copy()
    want[:3, 20:40] = True
    mask, want = np.rot90(mask, turns).copy(), np.rot90(want, turns)
    assert np.array_equal(reach_frame_edge(mask, 3), want)
    assert np.array_equal(reach_frame_edge(mask, 2), mask), "it stops farther off, on purpose"
    matte = make_matte(mask, MatteSettings(frame_edge=3)) > 0
    assert np.array_equal(matte, want), "the same through the box of the mask"
    inner = np.zeros((200, 200), bool)
    inner[60:100, 60:100] = True
    assert np.array_equal(make_matte(inner, MatteSettings(frame_edge=5)) > 0, inner), (
        "the box's edge is not the frame's"
    )


def test_a_feathered_edge_is_as_wide_as_asked_and_centred():
    mask = np.zeros((40, 200), bool)
    mask[:, 100:] = True
    soft = feather_matte(mask.astype(np.float32), 20)[20]
    assert soft[99] + soft[100] == pytest.approx(1, abs=1e-3) and np.all(np.diff(soft) >= 0)
    fades = np.count_nonzero((soft > 0.02) & (soft < 0.98))
    assert 16 <= fades <= 24
    assert np.allclose(feather_matte(mask.astype(np.float32), 20)[0], soft), "the frame's edge is no edge of the mask"


def test_the_guided_filter_is_least_squares_in_each_window():
    random = np.random.default_rng(3)
    guide, source, radius, epsilon = random.random((9, 11, 3)).astype(np.float32), random.random((9, 11)), 2, 1e-2
    source = source.astype(np.float32)
    slopes, rests = np.zeros((9, 11, 3)), np.zeros((9, 11))
    window = lambda y, x: (slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1))  # noqa: E731
    for y, x in np.ndindex(9, 11):
        colours, values = guide[window(y, x)].reshape(-1, 3).astype(float), source[window(y, x)].ravel().astype(float)
        centred = colours - colours.mean(0)
        matrix = centred.T @ centred / len(values) + epsilon * np.eye(3)
        slopes[y, x] = np.linalg.solve(matrix, centred.T @ (values - values.mean()) / len(values))
        rests[y, x] = values.mean() - slopes[y, x] @ colours.mean(0)
    want = np.empty((9, 11))
    for y, x in np.ndindex(9, 11):
        want[y, x] = slopes[window(y, x)].reshape(-1, 3).mean(0) @ guide[y, x] + rests[window(y, x)].mean()
    assert np.allclose(guided_filter(guide, source, radius, epsilon), want, atol=1e-4)


def test_refining_brings_a_ragged_mask_to_the_photos_edge():
    truth = disc()
    photo = np.where(truth[:, :, None], (200, 60, 40), (40, 90, 160)).astype(np.uint8)
    random = np.random.default_rng(0)
    photo = np.clip(photo + random.normal(0, 3, photo.shape), 0, 255).astype(np.uint8)
    ragged = np.roll(truth, (3, 3), (0, 1)) ^ (random.random(truth.shape) < 0.02) & grow_mask(truth, 4)
    better = make_matte(ragged, MatteSettings(refine=8), photo, dtype=np.float32)
    assert iou(ragged, truth) < 0.87 and iou(better > 0.5, truth) > 0.95
    far = ~grow_mask(truth, 25)
    assert not better[far].any()


def test_tiles_leave_no_seam():
    random = np.random.default_rng(0)
    mask = np.zeros((700, 600), bool)
    mask[100:650, 80:560] = disc((550, 480), 240, 270, 230)
    photo = random.integers(0, 255, (700, 600, 3)).astype(np.uint8)
    whole = guided_filter(photo.astype(np.float32) / 255, mask.astype(np.float32), 6, 4e-4)
    tiled = make_matte(mask, MatteSettings(refine=6), photo, dtype=np.float32)
    assert np.allclose(tiled, np.clip((whole - 0.08) / 0.84, 0, 1), atol=2e-3)


def test_an_outline_that_trembles_comes_to_rest():
    radii = [30, 32, 29, 31, 28, 32, 30]
    masks = [disc(radius=radius) for radius in radii]
    calm = [
        make_matte(masks[i], MatteSettings(steady=2), neighbours=[(d, masks[i + d]) for d in (-2, -1, 1, 2)]) > 0
        for i in range(2, 5)
    ]
    areas, before = [np.sqrt(mask.sum()) for mask in calm], [np.sqrt(mask.sum()) for mask in masks[2:5]]
    assert np.ptp(areas) < 0.5 * np.ptp(before)


def test_a_frame_that_lost_the_object_is_mended_but_its_end_is_not():
    mask = disc()
    near = [(-1, mask), (1, mask)]
    assert iou(make_matte(mask & False, MatteSettings(steady=1), neighbours=near) > 0, mask) > 0.97
    assert not make_matte(mask & False, MatteSettings(steady=1), neighbours=near[:1]).any(), "it has left for good"


def test_a_limb_that_swings_is_not_worn_off():
    body = disc()
    swung = [body.copy() for _ in range(3)]
    for number, top in enumerate((35, 55, 75)):
        swung[number][top : top + 8, 100:140] = True
    calm = make_matte(swung[1], MatteSettings(steady=1), neighbours=[(-1, swung[0]), (1, swung[2])]) > 0
    assert iou(calm, swung[1]) > 0.98


def test_an_object_that_travels_or_jumps_is_not_worn_off():
    here, before, after = disc(radius=10), disc(x=66, radius=10), disc(x=94, radius=10)
    calm = make_matte(here, MatteSettings(steady=1), neighbours=[(-1, before), (1, after)]) > 0
    assert iou(calm, here) > 0.97
    cut = np.zeros_like(here)
    cut[:, :3] = True
    assert np.array_equal(make_matte(here, MatteSettings(steady=1), neighbours=[(-1, cut), (1, cut)]) > 0, here)


def test_objects_are_combined_by_the_strongest():
    left, right = np.uint8([[200, 0]]), np.uint8([[100, 50]])
    assert np.array_equal(combine_mattes([left, right]), [[200, 50]])
    assert combine_mattes([left]) is left
    with pytest.raises(NbHelpersError, match="nothing to combine"):
        combine_mattes([])
    with pytest.raises(NbHelpersError, match="alike"):
        combine_mattes([left, right.astype(np.uint16)])


@pytest.mark.parametrize(
    "bad",
    [
        {"feather": -1},
        {"refine": 1.5},
        {"steady": "2"},
        {"grow": float("nan")},
        {"fill_holes": True},
        {"detail": None},
        {"detail": 0.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises((NbHelpersError, TypeError), match=next(iter(bad))):  # in tests jaxtyping sees some first
        MatteSettings(**bad)


def test_masks_that_do_not_fit_are_refused(photo):
    with pytest.raises(NbHelpersError, match="true and false"):
        make_matte(disc().astype(np.uint8), MatteSettings())
    with pytest.raises(NbHelpersError, match="needs the photo"):
        make_matte(disc(), MatteSettings(refine=3))
    with pytest.raises(NbHelpersError, match="another size"):
        make_matte(disc()[:50], MatteSettings(refine=3), photo)
    with pytest.raises(NbHelpersError, match="differ in size"):
        make_matte(disc(), MatteSettings(steady=1), neighbours=[(1, disc()[:50])])
    with pytest.raises(NbHelpersError, match="no such type"):
        make_matte(disc(), MatteSettings(), dtype=np.int32)


def test_mattes_of_a_clip_know_objects_settings_and_gaps(photo):
    frames = Clip([photo, photo, photo])
    masks = [{"disc": disc(), "box": disc(x=20, radius=9)}, None, disc()]
    mattes = Mattes(frames, masks, {"box": MatteSettings(grow=5)})
    assert np.array_equal(mattes.make(0) > 0, disc() | grow_mask(disc(x=20, radius=9), 5))
    assert list(mattes.make_each(0)) == ["disc", "box"] and not mattes.make(1).any()
    assert np.array_equal(Mattes(frames, masks, objects=["disc"]).make(0) > 0, disc())
    assert np.array_equal(mattes.only(["disc"]).make(0) > 0, disc())
    assert np.array_equal(Mattes(frames, masks, invert=True).make(2, dtype=np.uint16) == 0, disc())
    assert frames.decoded == [], "nothing is decoded that is not needed"
    refined = Mattes(frames, lambda index: disc(), MatteSettings(refine=4))
    refined.make(1)
    assert frames.decoded == [1]


def test_a_signature_changes_with_what_the_matte_depends_on(photo):
    frames, masks = Clip([photo] * 4), [disc(), disc(), disc(), disc()]
    before = [Mattes(frames, masks, MatteSettings(steady=1)).signature(i) for i in range(4)]
    masks[3] = disc(radius=20)
    after = [Mattes(frames, masks, MatteSettings(steady=1)).signature(i) for i in range(4)]
    assert before[:2] == after[:2] and before[2] != after[2] and before[3] != after[3]
    assert Mattes(frames, masks, MatteSettings(steady=1, feather=1)).signature(0) != before[0]
    assert Mattes(frames, masks, MatteSettings(steady=1), invert=True).signature(0) != before[0]


def test_masks_of_a_wrapped_clip_are_folded(photo):
    wide = np.concatenate([photo[:, -10:], photo, photo[:, :10]], axis=1)
    mask = np.zeros((120, 180), bool)
    mask[40:60, 5:20] = True  # across the seam, left
    mattes = Mattes(Clip([wide], wrap=10), [mask])
    assert mattes.size == (120, 160) and np.array_equal(mattes.image(0), photo)
    matte = mattes.make(0) > 0
    assert matte[50, :10].all() and matte[50, 155:].all() and matte.sum() == 20 * 15


def test_a_mask_of_another_size_names_its_frame(photo):
    with pytest.raises(NbHelpersError, match="frame 1"):
        Mattes(Clip([photo, photo]), [disc(), disc()[:50]]).make(1)
    with pytest.raises(NbHelpersError, match="each frame needs its mask"):
        Mattes(Clip([photo, photo]), [disc()])
