"""Files that other tools read: masks, cut-outs, COCO, and what a session writes."""

import json

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.masks import encode_rle
from nbhelpers.core.prompts import PromptLog
from nbhelpers.export.masks import cutout, save_coco, save_cutout, save_mask, to_coco
from nbhelpers.segment import ClickSession


@pytest.fixture
def mask():
    mask = np.zeros((120, 160), bool)
    mask[30:50, 60:100] = True
    return mask


def test_a_cutout_has_straight_alpha(photo, mask):
    cut = cutout(photo, mask, margin=5)
    assert np.array_equal(cut[:, :, 3], mask * np.uint8(255))
    assert np.array_equal(cut[25:55, 55:105, :3], photo[25:55, 55:105]), "colours reach over the edge"
    assert not cut[:24].any() and not cut[:, 106:].any()
    assert np.array_equal(cutout(photo, mask, margin=None)[:, :, :3], photo)


def test_saved_pictures_read_back(photo, mask, tmp_path):
    grey = Image.open(save_mask(tmp_path / "m.png", mask))
    assert grey.mode == "L" and np.array_equal(np.array(grey), mask * np.uint8(255))
    rgba = np.array(Image.open(save_cutout(tmp_path / "deep" / "c.png", photo, mask)))
    assert np.array_equal(rgba[mask][:, :3], photo[mask])


def test_what_cannot_hold_a_mask_is_refused(photo, mask, tmp_path):
    with pytest.raises(NbHelpersError, match="lossless format"):
        save_mask(tmp_path / "m.jpg", mask)
    with pytest.raises(NbHelpersError, match="differ in size"):
        cutout(photo, mask[:50])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_pycocotools_reads_the_annotations(mask, tmp_path, capsys):
    other = np.zeros_like(mask)
    other[0, 0] = True
    data = to_coco(
        "cat.jpg", mask.shape, {"cat": mask, "nothing": mask & False, "dot": encode_rle(other)}, {"cat": 0.9}
    )
    coco = COCO(str(save_coco(tmp_path / "c.json", data)))
    capsys.readouterr()
    assert coco.loadImgs(1)[0] == {"id": 1, "file_name": "cat.jpg", "height": 120, "width": 160}
    assert [it["name"] for it in coco.loadCats(coco.getCatIds())] == ["cat", "nothing", "dot"]
    cat, dot = coco.loadAnns(coco.getAnnIds())
    assert np.array_equal(coco.annToMask(cat), mask) and np.array_equal(coco.annToMask(dot), other)
    assert cat["bbox"] == [60, 30, 40, 20] and cat["area"] == 800 and cat["score"] == 0.9 and "score" not in dot
    assert coco_mask.area(cat["segmentation"]) == 800


def test_a_mask_of_another_size_is_refused(mask):
    with pytest.raises(NbHelpersError, match="differ in size"):
        to_coco("cat.jpg", (10, 10), {"cat": mask})


def test_a_session_exports_every_object_with_a_mask(photo, tmp_path):
    session = ClickSession(photo, FakeSegmenter(), name="my/photo")
    with pytest.raises(NbHelpersError, match="no mask to save"):
        session.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    session.click(50, 60)
    session.rename_object("object 1", "red: disc")
    session.add_object("red? disc")
    session.click(120, 50)
    session.add_object("empty")
    paths = session.export(tmp_path / "out")
    assert [path.name for path in paths] == [
        "my-photo_red-disc_mask.png",
        "my-photo_red-disc_cutout.png",
        "my-photo_red-disc-2_mask.png",
        "my-photo_red-disc-2_cutout.png",
        "my-photo.coco.json",
        "my-photo.prompts.json",
    ]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    assert np.array_equal(np.array(Image.open(paths[0])) > 0, session.mask("red: disc"))
    data = json.loads(paths[4].read_text())
    assert [it["name"] for it in data["categories"]] == ["red: disc", "red? disc"]
    assert data["annotations"][0]["score"] == pytest.approx(0.95)
    assert PromptLog.open(paths[5]).objects()["red: disc"].points == ((50.0, 60.0),)


def test_saving_again_replaces(photo, tmp_path):
    session = ClickSession(photo, FakeSegmenter())
    session.click(50, 60)
    session.export(tmp_path)
    session.clear()
    session.click(120, 50)
    paths = session.export(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert np.array_equal(np.array(Image.open(paths[0])) > 0, session.mask())


def test_a_folder_that_is_a_file_is_a_sentence(photo, tmp_path):
    session = ClickSession(photo, FakeSegmenter())
    session.click(50, 60)
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(NbHelpersError, match="cannot be written"):
        session.export(tmp_path / "out")
