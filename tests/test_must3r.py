"""MUSt3R's adapter against a small fake of the package's documented interface, and how its checkpoint is read."""

import argparse
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import must3r
from nbhelpers.models.protocols import GeometryEncoder

SIZE = (96, 128)


class FakeEncoder(torch.nn.Module):
    """Tokens of 16 x 16 pixels: their mean colour and their place."""

    def __init__(self, img_size=(64, 64), embed_dim=8):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.embed_dim = embed_dim

    def forward(self, img, true_shape):
        assert img.min() >= -1 and img.max() <= 1 and true_shape.tolist() == [list(img.shape[-2:])]
        means = torch.nn.functional.avg_pool2d(img, 16)
        rows, columns = torch.meshgrid(*(torch.arange(n) for n in means.shape[-2:]), indexing="ij")
        tokens = torch.nn.functional.pad(means.flatten(2).mT, (0, self.embed_dim - 3))
        return tokens, torch.stack([rows, columns], -1).reshape(1, -1, 2)


class FakeDecoder(torch.nn.Module):
    """A wall at z = 3 seen by cameras that step to the right; counts what enters the memory."""

    def __init__(self, img_size=(64, 64), enc_embed_dim=8, embed_dim=6, depth=12, landscape_only=True):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.depth, self.embed_dim, self.seen, self.calls = depth, embed_dim, 0, []
        self.landscape_only = landscape_only

    def forward(self, x, pos, true_shape, mem, render=False, return_feats=False):
        assert x.ndim == 4 and pos.shape[:2] == (1, 1) and return_feats
        height, width = true_shape[0, 0].tolist()
        ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        local = torch.stack([(xs + 0.5 - width / 2) / width * 3, (ys + 0.5 - height / 2) / width * 3, 3 + 0.0 * xs], -1)
        world = local + torch.tensor([0.2 * len(self.calls), 0, 0])
        self.calls.append((render, 0 if mem is None else mem[2]))
        count = (0 if mem is None else mem[2]) + (0 if render else 1)

        def raw(points):  # undo exp(norm) - 1
            length = points.norm(dim=-1, keepdim=True)
            return points / length * torch.log1p(length)

        maps = torch.cat([raw(world), raw(local), torch.zeros(height, width, 1)], -1)[None, None]
        tokens = x.shape[2]
        features = [x[0, 0], *(torch.full((tokens, self.embed_dim), float(n)) for n in range(1, self.depth + 1))]
        return (None, None, count), maps, features


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    return Clip(rng.integers(0, 255, (7, *SIZE, 3), dtype=np.uint8))


class Clip:
    def __init__(self, pictures):
        self.pictures, self.size = pictures, pictures.shape[1:3]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.pictures[index]


def adapter(**options):
    return must3r.Must3rGeometry(FakeEncoder(), FakeDecoder(), "must3r-512", "cpu", side=64, **options)


def test_points_rays_and_layers_of_each_frame_are_its_own(frames):
    encoder = adapter()
    assert isinstance(encoder, GeometryEncoder)
    geometry = encoder.encode(frames)
    assert geometry.points.shape == (7, 64, 64, 3) and geometry.valid.all()
    assert [layer.shape for layer in geometry.layers] == [(7, 32, 32, 8), *[(7, 32, 32, 6)] * 3]
    assert [float(layer[0, 5, 5, 0]) for layer in geometry.layers[1:]] == [4, 7, 11]
    world = geometry.points * geometry.scale + geometry.shift
    assert np.allclose(world[..., 2], 3, atol=1e-3)
    steps = np.diff(geometry.centers * geometry.scale + geometry.shift, axis=0)
    assert np.allclose(steps, [0.2, 0, 0], atol=1e-3)  # not the first frame's for all
    assert not np.array_equal(geometry.layers[0][0], geometry.layers[0][1])
    along = geometry.points - geometry.centers[:, None, None]
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    assert np.allclose(along, geometry.rays, atol=1e-3)


def test_every_third_frame_stays_in_the_memory(frames):
    encoder = adapter()
    encoder.encode(frames)
    renders = [render for render, _ in encoder.model["decoder"].calls]
    assert renders == [False, True, True, False, True, True, False]
    assert [held for _, held in encoder.model["decoder"].calls] == [0, 1, 1, 1, 2, 2, 2]
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_what_is_cropped_away_is_not_valid_and_the_rest_stays_in_place():
    rng = np.random.default_rng(0)
    square = Clip(rng.integers(0, 255, (2, 128, 128, 3), dtype=np.uint8))
    geometry = must3r.Must3rGeometry(FakeEncoder(), FakeDecoder(), "m", "cpu", side=256).encode(square)
    share = geometry.valid[0].mean(1)
    assert not share[:6].any() and not share[-6:].any() and share[9:-9].all()  # 256 x 192 of 256 x 256
    world = geometry.points * geometry.scale + geometry.shift
    assert abs(world[0, 32, 31:33, 0].mean()) < 0.05  # the middle is the middle


def test_a_picture_is_fitted_and_its_pixels_are_followed():
    image = np.zeros((100, 200, 3), np.uint8)
    image[60, 120] = 255
    picture, matrix = must3r.fitted_picture(image, 512)
    assert picture.shape == (256, 512, 3)
    place = matrix @ [120, 60, 1]
    brightest = np.unravel_index(picture[..., 0].argmax(), picture.shape[:2])
    assert np.abs(np.array(brightest[::-1]) - place[:2]).max() <= 1.5
    assert must3r.fitted_picture(np.zeros((400, 300, 3), np.uint8), 512)[0].shape == (512, 384, 3)


def test_the_camera_is_found_from_both_point_maps():
    rng = np.random.default_rng(0)
    local = rng.normal(size=(8, 9, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    found, center = must3r.rigid_motion(local, local @ turn.T + [1, 2, 3], np.ones((8, 9)))
    assert np.allclose(found, turn) and np.allclose(center, [1, 2, 3])


@pytest.mark.parametrize(
    "text", ["__import__('os').system('true')", "MUSt3R(open('x'))", "MUSt3R(depth=len('a'))", "Other(depth=1)", "1 +"]
)
def test_a_description_that_would_run_code_is_refused(text):
    with pytest.raises(NbHelpersError, match="in a way that is not read"):
        must3r.plain_call(text)


def test_a_checkpoint_is_read_as_tensors_and_built_by_name(tmp_path, monkeypatch):
    args = argparse.Namespace(
        encoder="Dust3rEncoder(img_size=(64, 64), embed_dim=8)",
        decoder="CausalMUSt3R(img_size=(64, 64), enc_embed_dim=8, embed_dim=6, depth=12)",
    )
    kept = {"args": args, "encoder": {"weight": torch.ones(2)}, "decoder": {"weight": torch.full((2,), 3.0)}}
    path = tmp_path / "MUSt3R_512.pth"
    torch.save(kept, path)
    with pytest.raises(NbHelpersError, match="licence"):
        must3r.build("must3r-512", {"checkpoint": path}, "cpu")
    monkeypatch.setenv("NBHELPERS_ACCEPT", "must3r-512")
    monkeypatch.setitem(sys.modules, "must3r", None)
    with pytest.raises(NbHelpersError, match="not installed"):
        must3r.build("must3r-512", {"checkpoint": path}, "cpu")
    package, model, encoder = (ModuleType(name) for name in ("must3r", "must3r.model", "must3r.model.encoder"))
    model.MUSt3R, encoder.Dust3rEncoder = FakeDecoder, FakeEncoder
    for module in (package, model, encoder):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    built = must3r.build("must3r-512", {"checkpoint": path}, "cpu")
    assert built.side == 64 and built.model["decoder"].weight[0] == 3 and not built.model["decoder"].landscape_only
    torch.save({**kept, "decoder": {"other": torch.zeros(1)}}, path)
    with pytest.raises(NbHelpersError, match="another network"):
        must3r.build("must3r-512", {"checkpoint": path}, "cpu")

    class Bomb:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({**kept, "args": Bomb()}, path)
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        must3r.build("must3r-512", {"checkpoint": path}, "cpu")
