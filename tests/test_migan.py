"""MI-GAN: what it refuses without its weights, and what it does with them."""

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.models import migan
from nbhelpers.models.load import load
from nbhelpers.models.protocols import Inpainter
from nbhelpers.weights import sample


class Session:
    """Stands in for ONNX Runtime: paints the hole in one colour."""

    def __init__(self):
        self.feeds = []

    def run(self, outputs, feeds):
        self.feeds.append(feeds)
        return [np.where(feeds["mask"] == migan.HOLE, np.uint8(77), feeds["image"])]


@pytest.fixture
def session():
    return Session()


@pytest.fixture
def hole(photo):
    mask = np.zeros(photo.shape[:2], bool)
    mask[35:86, 25:76] = True
    return mask


def test_the_graph_gets_what_it_wants(session, photo, hole):
    inpainter = migan.MiganInpainter(session)
    assert isinstance(inpainter, Inpainter) and inpainter.side == 512
    filled = inpainter.fill(photo, hole)
    (feeds,) = session.feeds
    assert feeds["image"].shape == (1, 3, 512, 512) and feeds["image"].dtype == np.uint8
    assert feeds["mask"].shape == (1, 1, 512, 512) and set(np.unique(feeds["mask"])) == {migan.HOLE, migan.KEEP}
    assert filled.shape == photo.shape and (np.abs(filled[hole].astype(int) - 77) <= 8).mean() > 0.95


def test_a_prompt_is_refused_with_the_official_model_and_its_command(session, photo, hole):
    with pytest.raises(NbHelpersError, match="has no text input") as told:
        migan.MiganInpainter(session).fill(photo, hole, "a sunset")
    assert "nbhelpers fetch stable-diffusion-inpainting" in str(told.value)
    assert session.feeds == []


def test_a_mask_of_everything_is_told_and_one_of_nothing_changes_nothing(session, photo):
    inpainter = migan.MiganInpainter(session)
    with pytest.raises(NbHelpersError, match="covers the whole"):
        inpainter.fill(photo, np.ones(photo.shape[:2], bool))
    assert np.array_equal(inpainter.fill(photo, np.zeros(photo.shape[:2], bool)), photo)


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "migan.onnx").write_bytes(b"nothing")
    with pytest.raises(NbHelpersError, match="nbhelpers fetch migan"):
        migan.build("migan", {"checkpoint": tmp_path / "migan.onnx"}, "cpu")


@pytest.fixture(scope="module")
def real():
    return load("inpainter", "migan", "cpu")


@pytest.mark.weights("migan", "quokka")
def test_a_hole_in_a_wall_becomes_wall(real):
    image = load_image(sample("quokka"))[:300, 640:940]
    mask = np.zeros(image.shape[:2], bool)
    mask[120:180, 120:180] = True
    hidden = image.copy()
    hidden[mask] = (255, 0, 255)
    filled = real.fill(hidden, mask)
    error = filled[mask].astype(float) - image[mask]
    assert 10 * np.log10(255**2 / (error**2).mean()) > 30, "the hole's content does not shine through"
    assert np.array_equal(real.fill(hidden, mask, seed=5), filled), "nothing is drawn by lot"


@pytest.mark.weights("migan")
@pytest.mark.parametrize("size", [(16, 16), (1, 30), (700, 90)])
def test_any_size_is_filled(real, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask[: size[0] // 2 + 1, : size[1] // 2] = True
    assert real.fill(image, mask).shape == image.shape
