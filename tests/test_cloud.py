"""Labelled point clouds, opened again with trimesh."""

import numpy as np
import pytest
import trimesh

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.export.pointcloud import REST, Cloud, save_glb, save_ply


@pytest.fixture
def cloud():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 3))
    labels = np.repeat([0, 1, -1], 20)
    return Cloud(points, np.full((60, 3), 100, np.uint8), labels, ("Stuhl ü", "desk"), [(230, 159, 0), (86, 180, 233)])


def test_a_ply_has_places_colours_and_labels(cloud, tmp_path):
    path = save_ply(tmp_path / "scene.ply", cloud)
    read = trimesh.load(path)
    assert np.allclose(read.vertices, cloud.points, atol=1e-6)
    assert (read.colors[:20, :3] == (230, 159, 0)).all() and (read.colors[20:40, :3] == (86, 180, 233)).all()
    assert (read.colors[40:, :3] > 100).all() and len(np.unique(read.colors[40:, :3])) == 1
    assert read.metadata["_ply_raw"]["vertex"]["data"]["label"].ravel().tolist() == cloud.labels.tolist()
    assert b"comment label 1 desk" in path.read_bytes()


def test_a_glb_has_one_named_part_an_object_and_up_is_y(cloud, tmp_path):
    path = save_glb(tmp_path / "scene.glb", cloud, np.array([0.0, 0.0, 1.0]))
    read = trimesh.load(path)
    assert set(read.geometry) == {"Stuhl ü", "desk", REST}
    part = read.geometry["desk"]
    assert len(part.vertices) == 20 and (part.colors[:, :3] == (86, 180, 233)).all()
    turned = cloud.points[20:40] - np.median(cloud.points, axis=0)
    assert np.allclose(part.vertices[:, 1] - part.vertices[0, 1], turned[:, 2] - turned[0, 2], atol=1e-5)


@pytest.mark.parametrize("up", [(0, 1, 0), (0, -1, 0), (1, 0, 0), (0.3, -0.9, 0.2)])
def test_turning_up_keeps_distances(cloud, tmp_path, up):
    read = trimesh.load(save_glb(tmp_path / "scene.glb", cloud, np.array(up, float)))
    part = read.geometry["desk"].vertices
    own = cloud.points[20:40]
    assert np.allclose(np.linalg.norm(part - part[0], axis=1), np.linalg.norm(own - own[0], axis=1), atol=1e-5)
    height = (own - own[0]) @ np.array(up, float) / np.linalg.norm(up)
    assert np.allclose(part[:, 1] - part[0, 1], height, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": np.full(60, 2)},
        {"names": ("a",)},
        {"points": np.full((60, 3), np.nan)},
    ],
    ids=["no such object", "names", "NaN"],
)
def test_what_does_not_fit_is_an_error(cloud, wrong):
    with pytest.raises(NbHelpersError):
        Cloud(**{**vars(cloud), **wrong})


def test_a_wrong_suffix_or_an_empty_cloud_is_an_error(cloud, tmp_path):
    with pytest.raises(NbHelpersError, match="suffix"):
        save_ply(tmp_path / "scene.obj", cloud)
    empty = Cloud(np.empty((0, 3)), np.empty((0, 3), np.uint8), np.empty(0, int), (), [])
    assert save_ply(tmp_path / "none.ply", empty).is_file()
    with pytest.raises(NbHelpersError, match="no points"):
        save_glb(tmp_path / "none.glb", empty)
