"""Removing, replacing and restyling: what the inpainter sees, what is pasted, and what is refused."""

import json

import numpy as np
import pytest
from fake_inpainter import FakeInpainter
from typer.testing import CliRunner

from nbhelpers import editing
from nbhelpers.cli import app
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.masks import dilate
from nbhelpers.models.load import load
from nbhelpers.models.protocols import Inpainter
from nbhelpers.weights import sample

EVERY = {
    "remove": lambda image, mask, inpainter, **what: editing.remove(image, mask, inpainter, **what),
    "replace": lambda image, mask, inpainter, **what: editing.replace(image, mask, "a car", inpainter, **what),
    "restyle": lambda image, mask, inpainter, **what: editing.restyle(image, mask, "neon", 0.5, inpainter, **what),
}


def disc(size, x, y, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


@pytest.fixture
def mask(photo):
    return disc(photo.shape[:2], 50, 60, 25)


@pytest.fixture
def inpainter():
    fake = FakeInpainter(side=64)
    assert isinstance(fake, Inpainter)
    return fake


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(("x", "y"), [(50, 60), (0, 0), (159, 119), (80, 0), (0, 60)])
@pytest.mark.parametrize("do", EVERY.values(), ids=EVERY)
def test_beyond_the_feather_every_pixel_is_the_photos(do, photo, x, y, keeps):
    mask = disc(photo.shape[:2], x, y, 12)
    before = photo.copy()
    result = do(photo, mask, FakeInpainter(keeps=keeps, drift=9), grow=3, feather=4)
    away = ~dilate(mask, 3 + 4 - 1e-3)
    assert np.array_equal(result[away], photo[away])
    assert (result[mask] != photo[mask]).any(1).mean() > 0.9
    assert np.array_equal(photo, before)


@pytest.mark.parametrize("do", EVERY.values(), ids=EVERY)
def test_the_same_seed_gives_the_same_picture(do, photo, mask):
    one, again, other = (do(photo, mask, FakeInpainter(), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_inpainter_sees_nothing_of_what_is_removed_and_of_its_rim(photo, mask, inpainter):
    editing.remove(photo, mask, inpainter, grow=3, feather=2)
    (asked,) = inpainter.asked
    assert asked["prompt"] is None and asked["strength"] == 1
    known = asked["image"][~asked["mask"]].astype(int)
    assert not ((known[:, 0] > 180) & (known[:, 1] < 80)).any(), "no red of the disc is left"
    assert asked["mask"].sum() == pytest.approx(dilate(mask, 5 - 1e-3).sum(), rel=0.01)


def test_a_fill_of_another_light_is_matched_at_the_seam(photo):
    grey = np.full((100, 100, 3), 130, np.uint8)
    mask = disc((100, 100), 50, 50, 15)
    dark = editing.remove(grey, mask, FakeInpainter(level=90), grow=4, feather=4)
    assert dark[mask].mean() == pytest.approx(130, abs=3), "it was 30 to 40 levels too dark"
    assert dark[mask].std() > 3, "its texture stays"


def test_what_is_replaced_keeps_its_own_colours_and_loses_the_networks_drift(photo):
    grey = np.full((100, 100, 3), 130, np.uint8)
    mask = disc((100, 100), 50, 50, 15)
    new = editing.replace(grey, mask, "x", FakeInpainter(level=200))
    drifted = editing.replace(grey, mask, "x", FakeInpainter(level=200, drift=12))
    assert new[mask].mean() == pytest.approx(210, abs=3)
    assert np.abs(new[mask].astype(int) - drifted[mask]).max() <= 2


def test_parts_far_apart_are_filled_one_by_one_and_never_shown_to_each_other():
    image = np.full((200, 900, 3), 60, np.uint8)
    near, beside, far = (disc((200, 900), x, 100, 10) for x in (100, 145, 800))
    mask = near | beside | far
    image[mask] = (255, 0, 0)
    inpainter = FakeInpainter(side=64, level=50)
    result = editing.remove(image, mask, inpainter)
    assert len(inpainter.asked) == 3
    for asked in inpainter.asked:
        assert max(asked["image"].shape) <= 90
        assert not (asked["image"][~asked["mask"]] == (255, 0, 0)).all(1).any()
    assert (result[mask][:, 0] < 120).all()
    assert np.array_equal(result[:, 300:700], image[:, 300:700])


def test_a_photo_of_50_megapixels_is_edited_on_a_crop():
    image = np.zeros((6000, 9000, 3), np.uint8)
    image[2900:3100, 4300:4500] = 200
    mask = np.zeros((6000, 9000), bool)
    mask[2950:3050, 4350:4450] = True
    inpainter = FakeInpainter(side=512)
    result = editing.remove(image, mask, inpainter)
    (asked,) = inpainter.asked
    assert max(asked["image"].shape) <= 700
    assert result.shape == image.shape and (result[mask] != 200).any()
    x0, y0 = 4350 - 700, 2950 - 700
    result[y0 : y0 + 1500, x0 : x0 + 1500] = 0
    image[y0 : y0 + 1500, x0 : x0 + 1500] = 0
    assert np.array_equal(result, image)


@pytest.mark.parametrize("do", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("size", [(16, 16), (1, 2), (2, 90)])
def test_a_tiny_photo_is_edited(do, size, inpainter):
    image = np.full((*size, 3), 30, np.uint8)
    mask = np.zeros(size, bool)
    mask[0, 0] = True
    result = do(image, mask, inpainter)
    assert result.shape == image.shape and (result[mask] != 30).any()


@pytest.mark.parametrize("do", EVERY.values(), ids=EVERY)
def test_an_empty_mask_is_told(do, photo, inpainter):
    with pytest.raises(NbHelpersError, match="the mask is empty"):
        do(photo, np.zeros(photo.shape[:2], bool), inpainter)
    assert inpainter.asked == []


def test_a_mask_of_everything_cannot_be_removed_but_can_be_painted_over(photo, inpainter):
    everything = np.ones(photo.shape[:2], bool)
    with pytest.raises(NbHelpersError, match="no surroundings to inpaint from"):
        editing.remove(photo, everything, inpainter)
    assert inpainter.asked == []
    assert (editing.replace(photo, everything, "the sea", inpainter) != photo).any(2).mean() > 0.9


def test_an_object_that_nearly_fills_the_photo_leaves_something_to_fill_from(photo, inpainter):
    nearly = np.ones(photo.shape[:2], bool)
    nearly[:2] = False
    result = editing.remove(photo, nearly, inpainter)
    assert not inpainter.asked[0]["mask"].all()
    assert np.array_equal(result[0], photo[0])


@pytest.mark.parametrize("do", EVERY.values(), ids=EVERY)
def test_a_mask_that_does_not_fit_is_told(do, photo, mask, inpainter):
    with pytest.raises(NbHelpersError, match="differ in size"):
        do(photo, mask[:, 1:], inpainter)
    with pytest.raises(NbHelpersError, match="mask > 0"):
        do(photo, mask.astype(np.uint8), inpainter)


@pytest.mark.parametrize("prompt", ["", "   ", None])
@pytest.mark.parametrize("kind", ["replace", "restyle"])
def test_without_a_prompt_nothing_is_painted(kind, prompt, photo, mask, inpainter):
    with pytest.raises(NbHelpersError, match=f"{kind} needs a text prompt"):
        editing.edit(photo, mask, kind, use_inpainting=True, prompt=prompt, inpainter=inpainter)
    assert inpainter.asked == []


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.01, float("nan")])
def test_a_wrong_strength_is_told(photo, mask, inpainter, strength):
    with pytest.raises(NbHelpersError, match="strength"):
        editing.restyle(photo, mask, "neon", strength, inpainter)


def test_the_strength_reaches_the_inpainter_and_the_outline_stays(photo, mask, inpainter):
    editing.restyle(photo, mask, "neon", 0.35, inpainter, feather=2)
    (asked,) = inpainter.asked
    assert asked["strength"] == 0.35 and asked["prompt"] == "neon"
    assert asked["mask"].sum() < dilate(mask, 2).sum() + 1


def test_negative_pixels_are_told(photo, mask, inpainter):
    with pytest.raises(NbHelpersError, match="negative"):
        editing.remove(photo, mask, inpainter, grow=-1)


def test_an_inpainter_that_gives_back_something_else_is_told(photo, mask):
    class Wrong(FakeInpainter):
        def fill(self, *args, **kwargs):
            return super().fill(*args, **kwargs)[:-1]

    with pytest.raises(NbHelpersError, match="another size or type"):
        editing.remove(photo, mask, Wrong())


def test_edits_by_name_without_an_inpainter(photo, mask):
    black = editing.edit(photo, mask, "remove")
    assert np.array_equal(black, editing.blacken(photo, mask))
    assert np.array_equal(editing.edit(photo, mask, "replace"), editing.white_on_black(photo, mask))
    shown = editing.edit(photo, mask, "segment")
    assert (shown[mask] != photo[mask]).any() and np.array_equal(shown[:20], photo[:20])


def test_edits_by_name_with_one(photo, mask, inpainter):
    for kind, prompt in (("remove", None), ("remove", "sand"), ("replace", "a car"), ("restyle", "neon")):
        editing.edit(photo, mask, kind, use_inpainting=True, prompt=prompt, inpainter=inpainter)
        assert inpainter.asked[-1]["prompt"] == prompt


def test_an_unknown_edit_is_told(photo, mask):
    with pytest.raises(NbHelpersError, match="segment, replace, remove, restyle"):
        editing.edit(photo, mask, "erase")


@pytest.mark.weights("migan")
def test_text_for_the_lite_inpainter_is_refused_with_the_official_models_command(photo, mask):
    with pytest.raises(NbHelpersError, match="nbhelpers fetch stable-diffusion-inpainting"):
        editing.replace(photo, mask, "a sunset", load("inpainter", models="lite", device="cpu"))


@pytest.mark.weights("migan", "chelsea")
def test_a_sticker_on_a_cat_is_gone_and_the_rest_of_the_cat_is_the_same():
    cat = load_image(sample("chelsea"))
    mask = disc(cat.shape[:2], 60, 60, 20)
    marked = cat.copy()
    marked[mask] = (0, 255, 0)
    clean = editing.remove(marked, mask, load("inpainter", "migan", "cpu"))
    error = clean[mask].astype(float) - cat[mask]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 18
    away = ~dilate(mask, 6)
    assert np.array_equal(clean[away], cat[away])


@pytest.mark.weights("migan")
def test_the_command_removes_what_a_mask_covers(tmp_path):
    from typer.testing import CliRunner

    from nbhelpers.cli import app
    from nbhelpers.core.images import load_image, save_image
    from nbhelpers.weights import sample

    photo = load_image(sample("coffee"))
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[240:330, 320:410] = 255
    paths = {
        "--image": sample("coffee"),
        "--mask": save_image(tmp_path / "m.png", mask),
        "--output": tmp_path / "o.png",
    }
    arguments = [str(part) for pair in paths.items() for part in pair]
    result = CliRunner().invoke(app, ["editing", *arguments, "--models", "lite"])
    assert result.exit_code == 0 and "made by migan" in result.output, result.output
    changed = (load_image(tmp_path / "o.png") != photo).any(2)
    assert changed[mask > 0].mean() > 0.9 and not changed[:150].any()
    wrong = CliRunner().invoke(app, ["editing", *arguments, "--edit", "segment"])
    assert "unknown edit" in str(wrong.exception)


@pytest.fixture
def command(monkeypatch, photo, tmp_path):
    inpainter = FakeInpainter(level=200)
    monkeypatch.setattr("nbhelpers.models.load.load", lambda *_: inpainter)
    save_image(tmp_path / "photo.png", photo)

    def run(mask, *words, image="photo.png", output="clean.png"):
        arguments = ["--image", tmp_path / image, "--mask", tmp_path / mask, "--output", tmp_path / output, *words]
        return CliRunner().invoke(app, ["editing", *map(str, arguments)])

    return run


def test_a_dark_cut_out_is_edited_where_it_is_opaque(command, photo, mask, tmp_path):
    dark = np.dstack([np.full((*mask.shape, 3), 8, np.uint8), mask.astype(np.uint8) * 255])
    for name, pixels in (
        ("dark.png", dark),
        ("ones.png", mask.astype(np.uint8)),
        ("white.png", mask.astype(np.uint8) * 255),
    ):
        save_image(tmp_path / name, pixels)
        done = command(name, output=f"clean-{name}")
        assert done.exit_code == 0, done.output
        edited = load_image(tmp_path / f"clean-{name}")
        far = ~dilate(mask, 20)
        assert far.any() and (edited[far] == photo[far]).all() and (edited[mask] != photo[mask]).any()
    made = [load_image(tmp_path / f"clean-{name}") for name in ("dark.png", "ones.png", "white.png")]
    assert (made[0] == made[1]).all() and (made[0] == made[2]).all()


def test_a_mask_that_cannot_be_told_is_refused_before_the_model(command, photo, tmp_path):
    done = command("photo.png")
    assert isinstance(done.exception, NbHelpersError) and "ambiguous" in str(done.exception)
    save_image(tmp_path / "small.png", np.eye(5, dtype=np.uint8) * 255)
    done = command("small.png")
    assert isinstance(done.exception, NbHelpersError) and "another size" in str(done.exception)


def test_an_edit_replaces_neither_the_photo_nor_an_edit_of_another(command, photo, mask, tmp_path):
    save_image(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    save_image(tmp_path / "other.png", photo[::-1].copy())
    before = (tmp_path / "photo.png").read_bytes()
    assert "photo-2.png" in command("mask.png", output="photo.png").output
    assert (tmp_path / "photo.png").read_bytes() == before
    assert "clean.png" in command("mask.png").output
    assert "clean-2.png" in command("mask.png", image="other.png").output
    assert "clean.png" in command("mask.png", "--seed", "1").output, "the same photo may be edited again"
    assert json.loads((tmp_path / "clean.json").read_text())["seed"] == 1


def test_a_folder_that_cannot_be_written_is_told_before_the_work(command, mask, tmp_path, monkeypatch):
    save_image(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    (tmp_path / "file").touch()
    monkeypatch.setattr("nbhelpers.models.load.load", lambda *_: pytest.fail("the model is not needed"))
    done = command("mask.png", output="file/clean.png")
    assert isinstance(done.exception, NbHelpersError) and "cannot be written" in str(done.exception)
