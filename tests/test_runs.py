"""What runs over many photos share."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import file_stem, own_name, stems, write_text
from nbhelpers.core.images import load_image, photos


def test_photos_of_a_file_a_folder_and_a_glob_come_in_natural_order(tmp_path):
    for name in ("b10.jpg", "b9.JPG", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in photos(tmp_path)] == ["b9.JPG", "b10.jpg"]
    assert photos(tmp_path / "b10.jpg") == [tmp_path / "b10.jpg"]
    assert [path.name for path in photos(f"{tmp_path}/*.jpg")] == ["b10.jpg"]
    with pytest.raises(NbHelpersError, match="no such picture"):
        photos(tmp_path / "none")


def test_lists_arrays_and_numbered_names_are_photos(tmp_path, home, photo):
    for name in ("v.0002.png", "v.0010.png", "w.png"):
        (tmp_path / name).write_bytes(b"x")
    names = ["v.0002.png", "v.0010.png"]
    for source in ("v.%04d.png", "v.####.png", "v.*.png"):
        assert [path.name for path in photos(tmp_path / source)] == names
    assert [path.name for path in photos([tmp_path / "w.png", f"{tmp_path}/v.*"])] == ["w.png", *names]
    first, _ = photos(np.stack([photo, photo[::-1]]))
    assert first.parent == home / "outputs" / "photos"
    assert np.array_equal(load_image(first), photo)
    mixed = photos([tmp_path / "w.png", photo[:, :, 0], photo], tmp_path / "arrays")
    assert mixed[0] == tmp_path / "w.png"
    assert np.array_equal(load_image(mixed[1])[:, :, 2], photo[:, :, 0])
    assert photos([photo], tmp_path / "arrays") == mixed[2:], "the same array has the same file"
    with pytest.raises(NbHelpersError, match="not an image"):
        photos([photo / 255])
    with pytest.raises(NbHelpersError, match="no photos"):
        photos([])
    with pytest.raises(NbHelpersError, match="no such picture"):
        photos(tmp_path / "a**b" / "*.png")
    assert photos([tmp_path, tmp_path / "none.png"])[-2:] == [tmp_path / "w.png", tmp_path / "none.png"]
    with pytest.raises(NbHelpersError, match="curl -LO"):
        photos("https://example.org/a.jpg")


def test_results_of_equal_names_are_told_apart_on_every_file_system():
    paths = [Path(each) for each in ("a/cat.jpg", "b/Cat.png", "b/dog.jpg", "b/run.jpg")]
    names = stems(paths, ("run",))
    assert len({name.casefold() for name in names}) == 4 and names[2] == "dog"
    assert names[0].startswith("cat-") and names[1].startswith("Cat-") and names[3].startswith("run-")
    assert stems(paths, ("run",)) == names, "the same in the next run"
    assert file_stem("a b/ü?") == "a-b-ü" and file_stem("???") == "object"


def record(folder, name, about):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(about))


def test_a_name_is_kept_for_the_same_picture_and_numbered_for_another(tmp_path, caplog):
    assert own_name(tmp_path / "new", "plain", "a") == "plain" and not caplog.text
    record(tmp_path, "plain.json", {"sha256": "a"})
    assert own_name(tmp_path, "plain", "a") == "plain" and not caplog.text
    assert own_name(tmp_path, "plain", "b") == "plain-2"
    assert "plain-2" in caplog.text and "another picture" in caplog.text
    record(tmp_path, "plain-2.json", {"sha256": "b"})
    assert own_name(tmp_path, "plain", "b") == "plain-2" and own_name(tmp_path, "plain", "c") == "plain-3"


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("plain.prompts.json", {"image": {"sha256": "a", "name": "plain"}}),
        ("plain.coco.json", {"images": [{"sha256": "a", "id": 1}]}),
        ("plain.json", {"sha256": "a"}),
    ],
)
def test_any_record_tells_whose_results_are(tmp_path, name, about):
    record(tmp_path, name, about)
    assert own_name(tmp_path, "plain", "a") == "plain" and own_name(tmp_path, "plain", "b") == "plain-2"


def test_what_no_record_tells_is_not_replaced(tmp_path):
    (tmp_path / "plain.png").write_bytes(b"a drawing")
    assert own_name(tmp_path, "plain", "a", files=["{}.png"]) == "plain-2"
    assert own_name(tmp_path, "plain", "a") == "plain", "a file that is not written is in nobody's way"
    record(tmp_path, "plain.json", {"sha256": "a"})
    assert own_name(tmp_path, "plain", "a", files=["{}.png"]) == "plain"
    for text in ("{", "[]", "3", '{"image": 3}', "{}"):
        (tmp_path / "other.json").write_text(text)
        assert own_name(tmp_path, "other", "a") == "other-2", text
    record(tmp_path, "failed.json", {"sha256": ""})
    assert own_name(tmp_path, "failed", "a") == "failed"
    record(tmp_path, "old.coco.json", {"images": [{"id": 1}]})
    record(tmp_path, "old.json", {"sha256": "a"})
    assert own_name(tmp_path, "old", "a") == "old" and own_name(tmp_path, "old", "b") == "old-2"


def test_a_name_in_pieces_is_the_same_name():
    whole, pieces = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    assert whole != pieces and file_stem(whole) == file_stem(pieces) == whole
    assert len(set(stems([Path("a") / f"{whole}.png", Path("a") / f"{pieces}.png"]))) == 2


def test_a_long_name_in_any_script_fits_into_a_file_name(tmp_path):
    stem = file_stem("猫" * 200)
    assert len(stem.encode()) <= 80 and set(stem) == {"猫"}
    assert write_text(tmp_path / f"{stem}_{stem}_cutout.png", "").is_file()
