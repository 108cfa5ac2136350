"""The VGGT adapter against a small fake of the package's documented interface, on a scene that is known."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import vggt
from nbhelpers.models.protocols import SceneEstimator
from nbhelpers.weights.catalog import find

FAR = 4.0  # depth of the wall that the fake sees
STEP = 0.5  # between its cameras


class FakeVGGT(torch.nn.Module):
    """Looks straight at a wall from places ``STEP`` apart; like the package's, its heads want tokens and frames."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.point_head = self.track_head = torch.nn.Identity()
        self.chunks = []

    def aggregator(self, frames):
        assert frames.ndim == 5
        assert float(frames.min()) >= 0
        assert float(frames.max()) <= 1
        return [frames.mean((2, 3, 4))], 5

    def camera_head(self, tokens):
        views = tokens[0].shape[1]
        encoding = torch.zeros(1, views, 9)
        encoding[0, :, 0] = -STEP * torch.arange(views)  # translation of a camera at x = STEP * view
        encoding[0, :, 6] = 1  # no turn, scalar last
        encoding[..., 7:] = np.pi / 2  # fields of view: focal length is half a side
        return [encoding * 0, encoding]

    def depth_head(self, tokens, frames, start, frames_chunk_size=8):
        assert start == 5
        self.chunks.append(frames_chunk_size)
        depth = torch.full((*frames.shape[:2], *frames.shape[-2:], 1), FAR)
        confidence = torch.linspace(1, 2, frames.shape[-1]).expand(depth.shape[:-1])  # surer to the right
        return depth, confidence


def decode(encoding, size):
    """The package's ``pose_encoding_to_extri_intri`` for cameras that do not turn."""
    height, width = size
    views = encoding.shape[1]
    poses = torch.eye(3, 4).repeat(1, views, 1, 1)
    poses[..., 3] = encoding[..., :3]
    intrinsics = torch.zeros(1, views, 3, 3)
    intrinsics[..., 0, 0] = width / 2 / torch.tan(encoding[..., 8] / 2)
    intrinsics[..., 1, 1] = height / 2 / torch.tan(encoding[..., 7] / 2)
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1
    return poses, intrinsics


@pytest.fixture
def estimator():
    return vggt.VggtEstimator(FakeVGGT(), decode, "vggt-1b", "cpu", points=3000)


def pictures(sizes=((259, 518),) * 3):
    return [np.full((*size, 3), 40 + number, np.uint8) for number, size in enumerate(sizes)]


def test_cameras_depth_and_points_of_a_wall(estimator):
    assert isinstance(estimator, SceneEstimator)
    scene = estimator.reconstruct(pictures(), ["a", "b", "c"])
    assert scene.placed.all()
    np.testing.assert_allclose(scene.centers[:, 0], [0, STEP, 2 * STEP], atol=1e-5)
    np.testing.assert_allclose(scene.K[0], [[259, 0, 258.5], [0, 129.5 * 266 / 266, 129], [0, 0, 1]], rtol=0.03)
    np.testing.assert_allclose(scene.points[:, 2], FAR, rtol=1e-5)
    assert 2000 < len(scene.points) <= 3000
    assert set(np.unique(scene.colors)) == {40, 41, 42}
    assert "without a second run" in scene.notes[0]
    assert estimator.model.chunks == [vggt.CHUNK]


def test_points_project_where_they_were_seen_and_are_seen_by_their_neighbours(estimator):
    scene = estimator.reconstruct(pictures())
    assert scene.errors.max() < 1e-3
    seen = np.bincount(scene.observation_point)
    assert (seen > 1).mean() > 0.5  # the views overlap by most of their width


class Crooked(FakeVGGT):
    """Cameras that turn and zoom, and depths without a rule."""

    def __init__(self):
        super().__init__()
        self.numbers = torch.Generator().manual_seed(0)

    def camera_head(self, tokens):
        views = tokens[0].shape[1]
        self.encoding = torch.randn(1, views, 9, generator=self.numbers)
        self.encoding[..., 7:] = 0.5 + torch.rand(1, views, 2, generator=self.numbers)
        return [self.encoding]

    def depth_head(self, tokens, frames, start, frames_chunk_size=8):
        shape = (*frames.shape[:2], *frames.shape[-2:])
        self.depth = 1 + 4 * torch.rand(*shape, 1, generator=self.numbers)
        self.confidence = 1 + torch.rand(shape, generator=self.numbers)
        return self.depth, self.confidence


def publishers_cameras(encoding, size):
    """``absT_quaR_FoV`` as it is documented: translation, quaternion with the scalar last, field of view by height."""
    x, y, z, w = (encoding[..., 3:7] / encoding[..., 3:7].norm(dim=-1, keepdim=True)).unbind(-1)
    turn = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    turn = torch.stack([torch.stack(row, -1) for row in turn], -2)
    return torch.cat([turn, encoding[..., :3, None]], -1), decode(encoding, size)[1]


def test_the_scene_is_what_the_publishers_demo_makes_of_the_network():
    """Pose encoding, cameras, unprojected depth, least sure pixels left out.

    The demo's principal point is counted from the corner of the picture and its pixels from their centres, so that its
    points are half a pixel off; here a pixel is at its centre in both.
    """
    model = Crooked()
    scene = vggt.VggtEstimator(model, publishers_cameras, "vggt-1b", "cpu", points=10**9).reconstruct(
        pictures([(252, 518), (600, 300)])
    )
    poses, intrinsics = (each[0].numpy() for each in publishers_cameras(model.encoding, (518, 518)))
    areas = [(slice(133, 385), slice(0, 518)), (slice(0, 518), slice(133, 385))]  # white is left out
    confidence = [model.confidence[0, view][area].numpy() for view, area in enumerate(areas)]
    limit = np.quantile(np.concatenate([each.ravel() for each in confidence]), 0.15)
    world = []
    for view, area in enumerate(areas):
        depth = model.depth[0, view, ..., 0].numpy()
        u, v = np.meshgrid(np.arange(518) + 0.5, np.arange(518) + 0.5)
        (fx, _, cx), (_, fy, cy), _ = intrinsics[view]
        local = np.stack([(u - cx) * depth / fx, (v - cy) * depth / fy, depth], axis=-1)
        turn, shift = poses[view, :, :3], poses[view, :, 3]
        world.append(((local - shift) @ turn)[area][confidence[view] > limit])
    assert scene.points.shape == (len(world[0]) + len(world[1]), 3)
    np.testing.assert_allclose(scene.points, np.concatenate(world), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scene.world_to_camera, poses, atol=1e-5)
    np.testing.assert_allclose(
        scene.K[0], intrinsics[0] - [[0, 0, 0.5], [0, 0, 133.5], [0, 0, 0]], rtol=1e-5, atol=1e-4
    )


def test_the_least_sure_depths_are_dropped(estimator):
    scene = estimator.reconstruct(pictures())
    unknown = scene.depth[0] == 0
    assert unknown.mean() == pytest.approx(vggt.DROPPED, abs=0.01)
    assert unknown[:, :70].all()  # the fake is least sure at the left
    assert not unknown[:, 100:].any()
    assert scene.confidence[0].shape == scene.depth[0].shape


def test_photos_of_different_sizes_keep_their_own_pixels(estimator):
    scene = estimator.reconstruct(pictures([(300, 600), (800, 400), (30, 60)]))
    np.testing.assert_array_equal(scene.sizes, [[300, 600], [800, 400], [30, 60]])
    np.testing.assert_allclose(scene.K[:, :2, 2], [[299.5, 149.5], [199.5, 399.5], [29.5, 14.5]], atol=2.0)
    assert [depth.shape for depth in scene.depth] == [(252, 518), (518, 252), (252, 518)]
    assert scene.errors.max() < 1e-3


def test_the_corner_of_a_photo_stays_its_corner():
    batch, places, sizes = vggt.prepare_batch(pictures([(518, 518), (266, 518)]))
    assert batch.shape == (2, 3, 518, 518)
    assert places[1].top == 126
    assert (batch[1, :, 0] == 1).all()  # white above
    np.testing.assert_array_equal(sizes, [[518, 518], [266, 518]])
    middle = np.array([[500.0, 0, 259], [0, 500, 259], [0, 0, 1]])  # from the corner of the batch
    np.testing.assert_allclose(vggt.photo_intrinsics(middle, places[1])[:2, 2], [258.5, 132.5])


def test_memory_by_number_of_views():
    assert vggt.needed_memory(10) == 3.63
    assert vggt.needed_memory(15) == pytest.approx((3.63 + 5.58) / 2)
    assert vggt.needed_memory(300) == pytest.approx(40.63 + 100 * (40.63 - 21.15) / 100)
    assert vggt.views_that_fit(6.0) == 22
    assert vggt.views_that_fit(1.0) == 0


def test_too_many_photos_for_the_device_are_refused_before_it_starts(estimator, monkeypatch):
    estimator.device = "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3_700_000_000, 0))
    with pytest.raises(NbHelpersError, match="not enough device memory") as told:
        estimator.reconstruct(pictures([(14, 14)] * 30))
    assert "at most 10" in str(told.value)


def test_memory_is_counted_on_cuda_only(estimator):
    with pytest.raises(NbHelpersError, match="CUDA"):
        vggt.memory_table(estimator)


def test_the_memory_is_told_as_a_table_that_fits_a_terminal():
    head, photos, memory = vggt.memory_text().splitlines()
    assert "publisher" in head and photos.split()[1:] == [str(count) for count in vggt.MEMORY]
    assert len(memory.split()) == len(photos.split()) and max(map(len, (head, photos, memory))) <= 100
    counted = vggt.memory_text({1: (6.12, 0.5), 200: (44.9, 12.3)}).splitlines()
    assert [line.split() for line in counted[1:]] == [
        ["photos", "1", "200"],
        ["GB", "6.1", "44.9"],
        ["seconds", "0.5", "12.3"],
    ]


def test_no_photos(estimator):
    with pytest.raises(NbHelpersError, match="no photos"):
        estimator.reconstruct([])


def test_rotations_are_made_proper():
    wobbly = np.eye(3)[None] + np.random.default_rng(0).normal(0, 1e-4, (4, 3, 3))
    turn = vggt.nearest_rotations(wobbly)
    np.testing.assert_allclose(turn @ turn.transpose(0, 2, 1), np.tile(np.eye(3), (4, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turn), 1)
    np.testing.assert_allclose(turn, wobbly, atol=1e-3)


def test_without_the_package_the_error_tells_how_to_install_it(tmp_path):
    with pytest.raises(NbHelpersError, match="not installed") as told:
        vggt.build("vggt-1b", {"checkpoint": tmp_path / "none"}, "cpu")
    assert "pip install --no-deps git+https://github.com/facebookresearch/vggt" in str(told.value)


@pytest.fixture
def package(monkeypatch):
    """A package ``vggt`` with the modules that the adapter asks for."""
    network, pose = ModuleType("vggt.models.vggt"), ModuleType("vggt.utils.pose_enc")
    network.VGGT, pose.pose_encoding_to_extri_intri = FakeVGGT, decode
    for name, module in {
        "vggt": ModuleType("vggt"),
        "vggt.models": ModuleType("vggt.models"),
        "vggt.models.vggt": network,
        "vggt.utils": ModuleType("vggt.utils"),
        "vggt.utils.pose_enc": pose,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_both_checkpoints_load_strictly(package, tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    torch.save({"weight": torch.ones(3)}, tmp_path / "vggt_1B_commercial.pt")
    for file in ("model.safetensors", "vggt_1B_commercial.pt"):
        built = vggt.build("vggt-1b", {"checkpoint": tmp_path / file}, "cpu")
        assert built.model.weight.sum() == 3
        assert built.model.point_head is None
    torch.save({"other": torch.ones(3)}, tmp_path / "wrong.pt")
    with pytest.raises(NbHelpersError, match="another network"):
        vggt.build("vggt-1b", {"checkpoint": tmp_path / "wrong.pt"}, "cpu")


def test_the_catalog_names_the_adapter_of_both_checkpoints():
    for name in ("vggt-1b", "vggt-1b-commercial"):
        assert find(name).adapter == "nbhelpers.models.vggt:build"
