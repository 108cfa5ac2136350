"""Depth Anything 3's adapter against a small fake of the package's documented interface."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from test_must3r import SIZE, Clip

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models import da3
from nbhelpers.models.protocols import GeometryEncoder

DEPTH, STEP = 3.0, 0.5


class FakeDepthAnything:
    """A wall seen straight on by cameras that step to the right, in pictures of half the size."""

    def inference(self, images, export_feat_layers):
        count, (height, width) = len(images), (images[0].shape[0] // 2, images[0].shape[1] // 2)
        lens = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float32)
        poses = np.tile(np.eye(3, 4, dtype=np.float32), (count, 1, 1))
        poses[:, 0, 3] = -STEP * np.arange(count)
        confidence = np.tile(np.linspace(1, 2, width, dtype=np.float32), (count, height, 1))
        features = {
            f"feat_layer_{n}": np.full((count, 3, 4, 5), n, np.float32) + np.arange(count)[:, None, None, None]
            for n in export_feat_layers
        }
        return SimpleNamespace(
            depth=np.full((count, height, width), DEPTH, np.float32), conf=confidence, extrinsics=poses,
            intrinsics=np.tile(lens, (count, 1, 1)), aux=features,
        )  # fmt: skip


@pytest.fixture
def frames():
    return Clip(np.zeros((4, *SIZE, 3), np.uint8))


def test_cameras_depth_and_layers_become_geometry(frames):
    encoder = da3.DepthAnythingGeometry(FakeDepthAnything(), "da3-small", "cpu")
    assert isinstance(encoder, GeometryEncoder)
    geometry = encoder.encode(frames)
    world = geometry.points * geometry.scale + geometry.shift
    assert np.allclose(world[..., 2], DEPTH, atol=1e-3) and geometry.valid.all()
    centers = geometry.centers * geometry.scale + geometry.shift
    assert np.allclose(np.diff(centers, axis=0), [STEP, 0, 0], atol=1e-3)
    assert abs(world[0, 32, 31:33, 0].mean()) < 0.01  # the axis goes through the middle of the frame
    assert [layer.shape for layer in geometry.layers] == [(4, 3, 4, 5)] * 4
    assert [float(layer[2, 0, 0, 0]) for layer in geometry.layers] == [7, 9, 11, 13]
    assert geometry.confidence.max() == 1 and geometry.confidence.min() < 0.2
    with pytest.raises(NbHelpersError, match="all frames at once"):
        encoder.encode(Clip(np.zeros((65, 8, 8, 3), np.uint8)))


def test_the_package_is_named_where_it_is_missing_and_its_errors_are_told(tmp_path, monkeypatch):
    files = {"checkpoint": tmp_path / "model.safetensors", "config": tmp_path / "config.json"}
    monkeypatch.setitem(sys.modules, "depth_anything_3", None)
    with pytest.raises(NbHelpersError, match="depth-anything-3"):
        da3.build("da3-small", files, "cpu")
    package, api = ModuleType("depth_anything_3"), ModuleType("depth_anything_3.api")

    class DepthAnything3:
        @classmethod
        def from_pretrained(cls, folder):
            assert folder == str(tmp_path)
            raise ValueError("no weights")

    api.DepthAnything3 = DepthAnything3
    monkeypatch.setitem(sys.modules, "depth_anything_3", package)
    monkeypatch.setitem(sys.modules, "depth_anything_3.api", api)
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        da3.build("da3-small", files, "cpu")
