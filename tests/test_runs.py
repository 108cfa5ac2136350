"""What runs over many photos share."""

import json
from pathlib import Path

import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.runs import file_stem, photos, sign, stems


def test_photos_of_a_file_a_folder_and_a_glob_come_in_natural_order(tmp_path):
    for name in ("b10.jpg", "b9.JPG", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in photos(tmp_path)] == ["b9.JPG", "b10.jpg"]
    assert photos(tmp_path / "b10.jpg") == [tmp_path / "b10.jpg"]
    assert [path.name for path in photos(f"{tmp_path}/*.jpg")] == ["b10.jpg"]
    with pytest.raises(NbHelpersError, match="no such picture"):
        photos(tmp_path / "none")


def test_results_of_equal_names_are_told_apart_on_every_file_system():
    paths = [Path(each) for each in ("a/cat.jpg", "b/Cat.png", "b/dog.jpg", "b/run.jpg")]
    names = stems(paths, ("run",))
    assert len({name.casefold() for name in names}) == 4 and names[2] == "dog"
    assert names[0].startswith("cat-") and names[1].startswith("Cat-") and names[3].startswith("run-")
    assert stems(paths, ("run",)) == names, "the same in the next run"
    assert file_stem("a b/ü?") == "a-b-ü" and file_stem("???") == "object"


def test_a_signature_is_written_once_and_compared_afterwards(tmp_path):
    sign(tmp_path / "run.json", {"size": (1, 2), "name": "a"})
    sign(tmp_path / "run.json", {"size": (1, 2), "name": "a"})
    assert json.loads((tmp_path / "run.json").read_text()) == {"size": [1, 2], "name": "a"}
    with pytest.raises(NbHelpersError, match=r"another run[\s\S]*different: name"):
        sign(tmp_path / "run.json", {"size": (1, 2), "name": "b"})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(NbHelpersError, match="another run"):
        sign(tmp_path / "run.json", {"size": (1, 2), "name": "a"})
