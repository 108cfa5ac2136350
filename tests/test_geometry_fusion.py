"""Geometry beside a tracker: made scenes, both trackers, the memory of places, and what happens without geometry."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from test_label_propagation import ColourSegmenter
from test_sam2_video import small

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import iou
from nbhelpers.core.prompts import Prompt
from nbhelpers.core.scenes import Scene
from nbhelpers.geometry_fusion import comparison, falsify, measure_motion, render_clip, write_clip
from nbhelpers.geometry_fusion.geometry import flow_motion, kept_geometry, object_motion, read_rgbd, registered_depth
from nbhelpers.geometry_fusion.merger import FeatureMerger, FourierEncoding, PlaceKernel
from nbhelpers.geometry_fusion.synthetic import TEST_PHOTOS, TRAINING_PHOTOS, SyntheticClip, look_at
from nbhelpers.geometry_fusion.tracker import MAX_MOTION, Fusion, GeometryTracker, WorldMemory, prior_tensors
from nbhelpers.models.geometry import SceneGeometry, cells_of_scene
from nbhelpers.models.label_propagation import LabelPropagation
from nbhelpers.models.label_propagation.votes import Votes
from nbhelpers.models.protocols import FrameSequence, GeometryEncoder, Tracker

SIZE = (96, 128)
GRID = 16
PLAIN = [(60, 60, 60), (210, 40, 30), (30, 60, 220), (60, 190, 60), (220, 200, 40)]


def textures(seed=0, count=5, side=80):
    """Smooth random pictures: something to see, nothing that repeats."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        coarse = rng.uniform(0, 255, (9, 9, 3)).astype(np.float32)
        picture = np.kron(coarse, np.ones((side // 8 + 1, side // 8 + 1, 1)))[:side, :side]
        out.append(np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8))
    return out


@pytest.fixture(scope="module")
def clip():
    """Twelve frames; the camera looks away in the middle, and there is a twin."""
    return render_clip(3, textures(), frames=12, size=SIZE, away=True)


@pytest.fixture(scope="module")
def geometry(clip):
    return SceneGeometry(grid=GRID).encode(clip, clip.scene)


def run(tracker, clip, mask=None):
    """Logits, scores and gone frames of an object that is given on frame 0."""
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.masks[0] if mask is None else mask))
    tracked = list(tracker.propagate(state, 0, len(clip) - 1))
    return (
        np.concatenate([t.predictions[1].logits.ravel() for t in tracked[1:]]),
        np.array([float(t.predictions[1].scores[0]) for t in tracked]),
        state,
    )


def masks_of(tracker, clip):
    state = tracker.open(clip)
    tracker.add(state, 0, 1, Prompt(mask=clip.masks[0]))
    return [t.predictions[1].best for t in tracker.propagate(state, 0, len(clip) - 1)]


def test_a_made_clip_is_what_it_says(clip):
    assert isinstance(clip, FrameSequence) and clip[0].shape == (*SIZE, 3) and len(clip) == 12
    assert clip.masks[0].any() and not (clip.masks & clip.twin).any()
    assert not clip.masks[3:6].any() and clip.masks[-1].any()  # away, and back
    again = render_clip(3, textures(), frames=12, size=SIZE, away=True)
    assert np.array_equal(clip.frames, again.frames)
    other = render_clip(4, textures(), frames=12, size=SIZE, away=True)
    assert not np.array_equal(clip.frames, other.frames)
    assert not render_clip(3, textures(), frames=2, size=SIZE, twin=False).twin.any()
    assert not set(TRAINING_PHOTOS) & set(TEST_PHOTOS)
    with pytest.raises(NbHelpersError, match="photos"):
        render_clip(0, [np.zeros((20, 20, 3), np.uint8)])


def test_depth_and_masks_of_a_made_clip_agree_between_its_frames(clip):
    """The object's points on frame 0, seen from frame 1, lie in its mask there or are hidden."""
    scene = clip.scene
    rows, columns = np.nonzero(clip.masks[0])
    pixels = np.stack([columns, rows, np.ones(len(rows))], 1)
    local = pixels @ np.linalg.inv(scene.K[0]).T * scene.depth[0][rows, columns][:, None]
    world = local @ scene.world_to_camera[0][:, :3] + scene.centers[0]
    seen, depth = scene.project(1, world)
    inside = scene.inside(1, seen)
    cells = np.rint(seen[inside]).astype(int).clip(0, (SIZE[1] - 1, SIZE[0] - 1))
    hit = clip.masks[1][cells[:, 1], cells[:, 0]]
    hidden = scene.depth[1][cells[:, 1], cells[:, 0]] < depth[inside] - 0.02
    assert (hit | hidden).mean() > 0.95 and hit.mean() > 0.5


def test_a_written_clip_is_read_as_one_with_ground_truth(clip, tmp_path):
    write_clip(clip, tmp_path)
    pictures, scene = read_rgbd(tmp_path)
    assert [p.name for p in pictures] == [f"{n:04d}.png" for n in range(12)]
    assert np.allclose(scene.K[0], clip.scene.K[0]) and np.allclose(scene.world_to_camera, clip.scene.world_to_camera)
    assert np.abs(scene.depth[3] - clip.scene.depth[3]).max() < 0.001
    assert json.loads((tmp_path / "about.json").read_text())["seed"] == 3
    some, part = read_rgbd(tmp_path, ["0002.png", "0005.png"])
    assert len(some) == 2 and np.allclose(part.world_to_camera[1], clip.scene.world_to_camera[5])
    with pytest.raises(NbHelpersError, match="cameras and depth"):
        read_rgbd(tmp_path / "frames")


def test_seven_scenes_are_read(clip, tmp_path):
    import cv2

    np.savetxt(tmp_path / "camera-intrinsics.txt", clip.scene.K[0])
    for number in range(2):
        stem = tmp_path / f"frame-{number:06d}"
        pose = np.eye(4)
        pose[:3] = clip.scene.world_to_camera[number]
        np.savetxt(f"{stem}.pose.txt", np.linalg.inv(pose))
        cv2.imwrite(f"{stem}.color.png", clip[number])
        depth = (clip.scene.depth[number] * 1000).astype(np.uint16)
        depth[:4] = 65535
        cv2.imwrite(f"{stem}.depth.png", depth)
    pictures, scene = read_rgbd(tmp_path)
    assert len(pictures) == 2 and np.allclose(scene.world_to_camera, clip.scene.world_to_camera[:2], atol=1e-6)
    assert not scene.depth[0][:4].any() and scene.depth[0][5:].all()


def test_depth_of_seven_scenes_is_registered_to_the_colours(tmp_path):
    random = np.random.default_rng(0)
    size, inner = (480, 640), np.array([[585.0, 0, 320], [0, 585, 240], [0, 0, 1]])
    np.savetxt(tmp_path / "camera-intrinsics.txt", inner)
    pose = np.eye(4)
    pose[:3] = look_at(np.array([0.4, -1.5, 0.9]), np.zeros(3))
    depth = np.full(size, 1.6)
    depth[200:260, 400:450] = 0.9  # something before a wall
    depth[:5] = 0
    np.savetxt(tmp_path / "frame-000000.pose.txt", np.linalg.inv(pose))
    cv2.imwrite(str(tmp_path / "frame-000000.color.png"), random.integers(0, 255, (*size, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "frame-000000.depth.png"), (depth * 1000).astype(np.uint16))
    _, scene = read_rgbd(tmp_path)
    assert scene.K[0, 0, 0] == 525 and scene.depth[0].shape == size
    for row, column in ((100, 300), (230, 425), (400, 120)):
        local = np.linalg.inv(inner) @ [column, row, 1] * depth[row, column]
        world = (local - pose[:3, 3]) @ pose[:3, :3]  # where the depth camera measured it
        pixels, far = scene.project(0, world[None])
        x, y = np.rint(pixels[0]).astype(int)
        assert abs(scene.depth[0][y, x] - far[0]) < 0.01
        assert abs(x - column) > 5
    assert (scene.depth[0] > 0).mean() > 0.7


def test_the_nearest_of_two_depths_is_kept():
    depth = np.zeros((4, 6))
    depth[2, 1], depth[2, 4] = 2.0, 1.0
    inner = np.array([[2.0, 0, 2.5], [0, 2, 1.5], [0, 0, 1]])
    aside = np.hstack([np.eye(3), [[-2.0], [0], [0]]])  # both fall on one pixel
    aside[0, 3] = -1.5
    found = registered_depth(depth, inner, inner, np.hstack([np.eye(3), np.zeros((3, 1))]))
    assert np.array_equal(found, depth)
    found = registered_depth(depth, inner, inner, aside)
    assert found[2, 1] == 1.0 and np.count_nonzero(found) <= 2


def test_what_lies_too_far_from_the_object_is_not_the_object(clip, geometry):
    memory = WorldMemory(geometry)
    assert not memory.beyond(0, 1).any()
    cells = [cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA) for mask in clip.masks]
    memory.remember(0, 1, cells[0], prompted=True)
    for frame in np.flatnonzero([(each > 0.5).any() for each in cells]):
        beyond = memory.beyond(int(frame), 1)
        assert beyond[cells[frame] > 0.5].mean() < 0.3 and beyond.mean() > 0.5
        votes = memory.place(int(frame), 1, Votes(np.full((GRID, GRID), 0.9, np.float32), 0.8))
        assert not votes.probability[beyond].any()
    absent = next(frame for frame, mask in enumerate(clip.masks) if not mask.any())
    assert not memory.place(absent, 1, Votes(np.ones((GRID, GRID), np.float32), 0.9)).probability.max() > 0.5
    memory.forget(1, 0)
    assert not memory.beyond(1, 1).any()


def test_geometry_is_where_things_are(clip, geometry):
    assert isinstance(SceneGeometry(), GeometryEncoder)
    assert geometry.coverage == 1.0 and geometry.points.shape == (12, GRID, GRID, 3)
    spread = geometry.points[geometry.valid]
    assert abs(np.median(spread)) < 0.5 and 0.5 < spread.std() < 2  # z-scored
    along = geometry.points - geometry.centers[:, None, None]
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    assert np.allclose(along, geometry.rays, atol=1e-4)  # rays lead from the camera to the points
    depth = np.linalg.norm(geometry.points[0] - geometry.centers[0], axis=-1) * geometry.scale
    assert depth.min() >= clip.scene.depth[0].min() * 0.99


def test_sparse_points_are_carried_to_the_cells_around_them(clip):
    scene = clip.scene
    rows, columns = np.mgrid[4:96:12, 4:128:12].reshape(2, -1)
    points, views, tracks, pixels = [], [], [], []
    for view in range(len(scene)):
        places = np.stack([columns, rows, np.ones(len(rows))], 1) @ np.linalg.inv(scene.K[view]).T
        local = places * scene.depth[view][rows, columns][:, None]
        tracks.append(np.arange(len(rows)) + sum(map(len, points)))
        points.append(local @ scene.world_to_camera[view][:, :3] + scene.centers[view])
        views.append(np.full(len(rows), view))
        pixels.append(np.stack([columns, rows], 1).astype(float))
    points = np.concatenate(points)
    sparse = replace(
        scene, depth=None, points=points, colors=np.zeros((len(points), 3), np.uint8),
        observation_view=np.concatenate(views), observation_point=np.concatenate(tracks),
        observation_pixel=np.concatenate(pixels),
    )  # fmt: skip
    found = cells_of_scene(sparse, len(clip), GRID)
    exact = cells_of_scene(scene, len(clip), GRID)
    back = found.points * found.scale + found.shift, exact.points * exact.scale + exact.shift
    off = np.linalg.norm(back[0] - back[1], axis=-1)[found.valid]
    assert 0.5 < found.coverage <= 1 and np.median(off) < 0.15
    assert (found.confidence[found.valid] < 1).any() and not found.confidence[~found.valid].any()


def test_what_is_not_known_is_not_valid(clip):
    scene = clip.scene
    depth = [each.copy() for each in scene.depth]
    depth[2][:48] = np.nan
    depth[3][:] = 0
    poses = scene.world_to_camera.copy()
    poses[4] = np.nan
    found = cells_of_scene(replace(scene, depth=depth, world_to_camera=poses), len(clip), GRID)
    assert not found.valid[2, :8].any() and found.valid[2, 8:].all()
    assert not found.valid[3].any() and not found.valid[4].any() and not found.rays[4].any()
    assert any("no numbers" in note for note in found.notes) and any("0004" in note for note in found.notes)
    lost = np.full_like(poses, np.nan)
    with pytest.raises(NbHelpersError, match="registered"):
        cells_of_scene(replace(scene, world_to_camera=lost), len(clip), GRID)
    with pytest.raises(NbHelpersError, match="another clip"):
        cells_of_scene(scene, 3, GRID)
    with pytest.raises(NbHelpersError, match="given"):
        SceneGeometry().encode(clip)


def test_fourier_encoding_is_a_gaussian_kernel():
    encode = FourierEncoding(3, 2048, 0.5)
    points = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0, 0, 2.0]])
    products = encode(points) @ encode(points).T
    expected = torch.exp(-(torch.cdist(points, points) ** 2) / (2 * 0.25))
    assert torch.allclose(products, expected, atol=0.06)


@pytest.mark.parametrize("layers", [(), (24, 16, 16)])
def test_an_untrained_merger_returns_the_features_and_a_trained_one_only_where_there_is_geometry(geometry, layers):
    torch.manual_seed(0)
    merger = FeatureMerger(32, hidden=16, layers=layers, frequencies=8)
    prior, valid, _ = prior_tensors(geometry, [0, 1])
    maps = [torch.randn(2, count, 6, 8) for count in layers]
    features = torch.randn(2, 32, 12, 12)
    assert merger.is_untrained and torch.equal(merger(features, prior, valid, maps), features)
    torch.nn.init.normal_(merger.last.weight)
    valid[:, :, :8] = False
    merged = merger(features, prior, valid, maps)
    known = torch.nn.functional.interpolate(valid[:, None].float(), (12, 12), mode="nearest-exact")[:, 0] > 0.5
    assert not merger.is_untrained
    assert torch.equal(merged.movedim(1, -1)[~known], features.movedim(1, -1)[~known])
    assert not torch.isclose(merged.movedim(1, -1)[known], features.movedim(1, -1)[known]).all()
    if layers:  # no layer is ignored
        for number in range(len(layers)):
            changed = [each + (n == number) for n, each in enumerate(maps)]
            assert not torch.allclose(merger(features, prior, valid, changed), merged)
        with pytest.raises(ValueError, match="layers"):
            merger(features, prior, valid, maps[:1])


def test_an_untrained_merger_changes_no_bit_of_label_propagation(clip):
    tracker = LabelPropagation(ColourSegmenter())
    fused = GeometryTracker(tracker, SceneGeometry(grid=GRID), FeatureMerger(3, 8), scene=clip.scene, max_motion=1)
    assert isinstance(fused, Tracker)
    (base, scores, _), (ours, own, state) = run(tracker, clip), run(fused, clip)
    assert state.geometry is not None and state.inner.fusion.memory is None
    assert np.array_equal(base, ours) and np.array_equal(scores, own)


def test_an_untrained_merger_changes_no_bit_of_sam2(clip):
    tracker = small("2.1")
    fused = GeometryTracker(
        tracker, SceneGeometry(), FeatureMerger(256, 8), scene=clip.scene, places=False, max_motion=1
    )
    (base, scores, _), (ours, own, state) = run(tracker, clip), run(fused, clip)
    assert state.inner.session["fusion"] is not None
    assert np.array_equal(base, ours) and np.array_equal(scores, own)
    merger = FeatureMerger(256, 8)
    torch.nn.init.normal_(merger.last.weight, std=0.5)
    changed = run(GeometryTracker(tracker, SceneGeometry(), merger, scene=clip.scene, places=False, max_motion=1), clip)
    assert not np.array_equal(base, changed[0])  # so the merger's features do reach the network
    zeroed = GeometryTracker(
        tracker, SceneGeometry(), merger, scene=clip.scene, places=False, max_motion=1,
        change=lambda geometry: falsify(geometry, "zeroed"),
    )  # fmt: skip
    assert np.array_equal(base, run(zeroed, clip)[0])  # validity gates


def test_places_find_the_object_again_and_false_geometry_does_not():
    plain = [np.full((80, 80, 3), colour, np.uint8) for colour in PLAIN]
    clip = render_clip(18, plain, frames=14, size=SIZE, away=True)
    tracker = LabelPropagation(ColourSegmenter())
    encoder = SceneGeometry()
    after = [number for number in range(8, 14) if clip.masks[number].any()]

    def score(chosen):
        found = masks_of(chosen, clip)
        return np.mean([iou(clip.masks[number], found[number]) for number in after])

    base = score(tracker)
    places = score(GeometryTracker(tracker, encoder, None, places=True, scene=clip.scene, max_motion=1))
    false = score(
        GeometryTracker(
            tracker, encoder, None, places=True, scene=clip.scene, max_motion=1, change=lambda g: falsify(g, "shuffled")
        )
    )
    assert places > 0.6 and places > base + 0.2 and false < places - 0.2


def test_memory_of_places_answers_from_any_frame_and_forgets(clip, geometry):
    memory = WorldMemory(geometry)
    label = np.zeros((GRID, GRID), np.float32)
    label[4:8, 4:8] = 1
    memory.remember(0, 7, label, prompted=True)
    known, weight = memory.probability(0, 7)
    assert known[5, 5] > 0.9 and known[12, 12] < 0.1 and weight[5, 5] > 1
    assert not memory.probability(0, 8)[1].any()  # of another object nothing is known
    before = known.copy()
    memory.remember(1, 7, 1 - label)
    assert not np.array_equal(memory.probability(0, 7)[0], before)
    memory.forget(7)  # what was tracked
    assert np.allclose(memory.probability(0, 7)[0], before, atol=1e-4)
    memory.forget(7, 0)
    assert memory.probability(0, 7)[1].max() < 1e-3


def test_a_returning_object_is_prompted_again_by_any_tracker(clip):
    from fake_tracker import FakeTracker

    class Lost(FakeTracker):
        """Finds nothing after frame 0 unless it is prompted."""

        def _track(self, state, frame, step):
            tracked = super()._track(state, frame, step)
            if 1 in tracked.prompted:
                return tracked
            empty = self._prediction(np.zeros(SIZE, bool), 0.1)
            return type(tracked)(frame, {1: empty}, frozenset({1}), tracked.prompted)

    tracker = Lost()
    with pytest.raises(NbHelpersError, match="cannot be given geometry"):  # it knows no fusion
        GeometryTracker(tracker, SceneGeometry(grid=GRID), reprompt=True, scene=clip.scene)
    fused = GeometryTracker(tracker, SceneGeometry(grid=GRID), None, places=False, reprompt=True, scene=clip.scene)
    fused.max_motion = 1
    state = fused.open(clip)
    fused.add(state, 0, 1, Prompt(mask=clip.masks[0]))
    tracked = list(fused.propagate(state, 0, 11))
    assert state.returns and all(clip.masks[frame].any() for frame, _ in state.returns)
    assert all(1 not in each.prompted for each in tracked[1:])  # no person prompted there
    fused.add(state, 0, 1, Prompt(mask=clip.masks[0]))
    assert not state.returns and set(state.inner.prompts[1]) == {0}


def test_a_static_clip_is_told_from_a_moving_one():
    clip = render_clip(3, textures(), frames=24, away=False)
    geometry = SceneGeometry().encode(clip, clip.scene)
    still = measure_motion(clip, geometry)
    false = measure_motion(clip, falsify(geometry, "shuffled"))
    assert still.compared > 2000 and still.fraction < MAX_MOTION < 0.5 < false.fraction
    frames, walker = clip.frames.copy(), np.kron(textures(9)[0], np.ones((2, 2, 1), np.uint8))[:150, :150]
    for number, frame in enumerate(frames):  # something walks through the picture
        frame[120:270, 20 + 12 * number : 170 + 12 * number] = walker
    assert measure_motion(replace(clip, frames=frames), geometry).fraction > MAX_MOTION


@pytest.fixture(scope="module")
def walk():
    """A camera moves along a wall before which something small goes up: the clip, its mask, and that of a stone."""
    size, count, shift = (192, 256), 10, 5
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(0, 255, (30, 50, 3)).astype(np.uint8), (400, 240), interpolation=cv2.INTER_CUBIC)
    walker = cv2.resize(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8), (36, 36), interpolation=cv2.INTER_CUBIC)
    frames = np.stack([wall[: size[0], shift * n : shift * n + size[1]] for n in range(count)])
    for number, frame in enumerate(frames):
        frame[140 - 4 * number : 176 - 4 * number, 190:226] = walker
    masks = np.zeros((2, count, *size), bool)
    masks[0, 0, 140:176, 190:226] = masks[1, 0, 40:70, 100:140] = True
    K = np.array([[250.0, 0, 127.5], [0, 250, 95.5], [0, 0, 1]])  # noqa: N806 - the field's own name
    poses = np.tile(np.eye(3, 4), (count, 1, 1))
    poses[:, 0, 3] = -np.arange(count) * shift * 2 / 250  # two metres from the wall
    empty = np.empty(0, int)
    scene = Scene(
        tuple(map(str, range(count))), np.tile(size, (count, 1)), np.tile(K, (count, 1, 1)), poses,
        np.empty((0, 3)), np.empty((0, 3), np.uint8), empty, empty, np.empty((0, 2)),
        depth=[np.full(size, 2, np.float32)] * count,
    )  # fmt: skip
    return SyntheticClip("wall", frames, masks[0], masks[1], scene, 0), masks[0, 0], masks[1, 0]


def test_an_object_that_moves_is_seen_however_small_it_is(walk):
    clip, walker, standing = walk
    geometry = SceneGeometry().encode(clip, clip.scene)
    whole, moving, still = flow_motion(clip), *(object_motion(clip, 0, mask, geometry) for mask in (walker, standing))
    assert whole.compared > 500 and whole.fraction < MAX_MOTION, "too small to be seen in the whole clip"
    assert moving.fraction > 0.5 and moving.compared >= 10
    assert still.fraction < MAX_MOTION and still.compared >= 10
    assert object_motion(clip, 9, np.zeros(clip.size, bool)).compared == 0
    flat = replace(clip, frames=np.full_like(clip.frames, 90))
    assert flow_motion(flat).compared == 0


def test_by_its_first_object_a_clip_is_tracked_with_geometry_or_without(walk):
    clip, walker, standing = walk

    class Counting(SceneGeometry):
        calls = 0

        def encode(self, frames, scene=None):
            Counting.calls += 1
            found = super().encode(frames, scene)
            return replace(found, confidence=found.confidence / 2)  # not exact enough to predict where cells are seen

    plain = LabelPropagation(ColourSegmenter())
    tracker = GeometryTracker(plain, Counting(), PlaceKernel(), scene=clip.scene)
    base, scores, _ = run(plain, clip, walker)
    ours, own, state = run(tracker, clip, walker)
    assert state.geometry is None and "of the object's cells" in state.note and Counting.calls == 1
    assert np.array_equal(base, ours) and np.array_equal(scores, own), "as the wrapped tracker, bit for bit"
    _, _, state = run(tracker, clip, standing)
    assert state.geometry is not None and Counting.calls == 2 and state.motion.fraction <= MAX_MOTION
    memory = tracker.memory(state, 0)
    again = tracker.open(clip)
    assert again.geometry is None
    tracker.recall(again, 0, memory, {1: Prompt(mask=standing)})
    assert again.geometry is not None, "what was tracked with geometry goes on with it"


def test_the_whole_clip_is_tracked_without_geometry_where_things_move_or_geometry_cannot_be_had(clip, caplog):
    tracker = LabelPropagation(ColourSegmenter())
    base, scores, _ = run(tracker, clip)
    moving = GeometryTracker(
        tracker, SceneGeometry(grid=GRID), PlaceKernel(), scene=clip.scene, change=lambda g: falsify(g, "shuffled")
    )
    ours, own, state = run(moving, clip)
    assert state.geometry is None and "cells are not where" in state.note and state.motion.fraction > 0.5
    assert np.array_equal(base, ours) and np.array_equal(scores, own) and "without geometry" in caplog.text
    ours, own, state = run(GeometryTracker(tracker, SceneGeometry(), PlaceKernel()), clip)
    assert "cannot be had" in state.note and np.array_equal(base, ours) and np.array_equal(scores, own)


def test_geometry_is_kept_with_its_failures(clip, tmp_path):
    class Counting(SceneGeometry):
        calls = 0

        def encode(self, frames, scene=None):
            Counting.calls += 1
            return super().encode(frames, scene)

    encoder = Counting(grid=GRID)
    first = kept_geometry(encoder, clip, tmp_path, clip.scene)
    second = kept_geometry(encoder, clip, tmp_path, clip.scene)
    assert Counting.calls == 1 and np.array_equal(first.points, second.points) and second.source == first.source
    for _ in range(2):
        with pytest.raises(NbHelpersError, match="given"):
            kept_geometry(encoder, clip, tmp_path)
    assert Counting.calls == 2


def test_false_geometry_is_false(geometry):
    shuffled = falsify(geometry, "shuffled", seed=1)
    assert all(not np.array_equal(shuffled.points[n], geometry.points[n]) for n in range(len(geometry)))
    assert not falsify(geometry, "zeroed").valid.any()
    assert np.array_equal(falsify(geometry, "other", shuffled).points, shuffled.points)
    for control, other in (("other", None), ("wrong", None)):
        with pytest.raises(NbHelpersError, match="negative control"):
            falsify(geometry, control, other)


def test_arms_are_made_by_name(clip, monkeypatch):
    tracker = LabelPropagation(ColourSegmenter())
    encoder = SceneGeometry(grid=GRID)
    made = comparison.make_arms(
        tracker, encoder, ["baseline", "geometry", "kernel", "reprompt", "shuffled"], scene=clip.scene
    )
    assert made["baseline"] is tracker and made["geometry"].places and made["kernel"].merger is not None
    assert made["shuffled"].max_motion == 1 and made["reprompt"].reprompt
    assert list(comparison.make_arms(tracker, None, ["baseline", "geometry"])) == ["baseline"]
    for wrong, match in (("nothing", "no such arm"), ("merger", "no merger")):
        with pytest.raises(NbHelpersError, match=match):
            comparison.make_arms(tracker, encoder, [wrong])
    monkeypatch.setenv("NBHELPERS_GEOMETRY", "off")
    assert comparison.geometry_source() is None and comparison.geometry_source("given").name == "given-geometry"


def test_one_frame_is_a_clip_too():
    clip = render_clip(5, textures(), frames=1, size=SIZE)
    fused = GeometryTracker(LabelPropagation(ColourSegmenter()), SceneGeometry(grid=GRID), scene=clip.scene)
    state = fused.open(clip)
    fused.add(state, 0, 1, Prompt(mask=clip.masks[0]))
    assert [t.frame for t in fused.propagate(state, 0, 0)] == [0] and state.motion.fraction == 1


def test_the_merged_features_are_kept_while_a_frame_is_worked_on(geometry):
    calls = []

    class Counting(FeatureMerger):
        def forward(self, *args):
            calls.append(1)
            return super().forward(*args)

    fusion = Fusion(geometry, Counting(3, 8))
    features = torch.zeros(GRID, GRID, 3)
    fusion.merge(0, features), fusion.merge(0, features), fusion.merge(1, features)
    assert len(calls) == 2


def test_look_at_makes_a_level_camera():
    pose = look_at(np.array([2.0, 1, 2]), np.zeros(3))
    assert np.allclose(pose[:, :3] @ pose[:, :3].T, np.eye(3)) and abs(pose[0, 1]) < 1e-12
    assert np.allclose(pose[:, :3] @ np.zeros(3) + pose[:, 3], [0, 0, 3])
