"""ViTMatte against the library's own processor and network, and as the refinement of mattes."""

from itertools import pairwise

import numpy as np
import pytest
import tiny_networks
import torch
import transformers

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import Mattes, MatteSettings, make_matte, make_trimap
from nbhelpers.models import vitmatte
from nbhelpers.models.protocols import MattingModel

ROLES = {"checkpoint": "model.safetensors", "config": "config.json", "processor": "preprocessor_config.json"}
SETTINGS = MatteSettings(refine="vitmatte", rim=6)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vitmatte")
    network = tiny_networks.save("vitmatte-small", folder)
    return vitmatte.build("tiny", {role: folder / name for role, name in ROLES.items()}, "cpu"), network


@pytest.fixture(scope="module")
def disc():
    rows, columns = np.mgrid[:120, :160]
    return (columns - 50) ** 2 + (rows - 60) ** 2 <= 25**2


def test_opacities_are_those_of_the_librarys_processor_and_network(tiny, photo, disc):
    matting, network = tiny
    assert isinstance(matting, MattingModel)
    trimap = make_trimap(disc, 6)
    encoded = transformers.VitMatteImageProcessor()(photo.copy(), trimaps=trimap, return_tensors="pt")
    with torch.inference_mode():
        theirs = network(**encoded).alphas[0, 0, :120, :160].numpy()
    (alpha,) = matting.alphas([photo], [trimap])
    unknown = trimap == 128
    np.testing.assert_allclose(alpha[unknown], theirs[unknown], atol=1e-5)
    assert (alpha[trimap == 255] == 1).all() and (alpha[trimap == 0] == 0).all()


def test_frames_in_batches_are_equal_to_single_ones_and_keep_their_order(tiny, photo, disc):
    matting, _ = tiny
    images = [photo, photo[:100, :96], np.roll(photo, 9, 1), photo[::-1]]
    trimaps = [make_trimap(disc[: image.shape[0], : image.shape[1]], 6) for image in images]
    for together, image, trimap in zip(matting.alphas(images, trimaps), images, trimaps, strict=True):
        np.testing.assert_allclose(together, matting.alphas([image], [trimap])[0], atol=1e-5)
    assert matting.alphas([], []) == []


def test_a_trimap_is_unknown_on_both_sides_of_the_outline(disc):
    trimap = make_trimap(disc, 6)
    assert (trimap[60, [50, 68, 69, 75, 76, 81, 82, 120]] == [255, 255, 255, 128, 128, 128, 0, 0]).sum() >= 6
    assert trimap[60, 50] == 255 and trimap[60, 74] == trimap[60, 77] == 128 and trimap[60, 90] == 0


def test_a_matte_is_refined_at_its_rim_and_nowhere_else(tiny, photo, disc):
    matte = make_matte(disc, SETTINGS, photo, dtype=np.float32, matting=tiny[0].alphas)
    trimap = make_trimap(disc, 6)
    assert (matte[trimap == 255] == 1).all() and (matte[trimap == 0] == 0).all()
    rim = matte[trimap == 128]
    assert ((rim > 0) & (rim < 1)).mean() > 0.9 and (
        matte == make_matte(disc, MatteSettings(), dtype=np.float32)
    ).mean() > 0.8
    assert make_matte(disc & False, SETTINGS, photo, matting=tiny[0].alphas).max() == 0


def test_a_clip_is_refined_and_a_steady_object_stays_steady(tiny, photo, disc):
    class Clip:
        size = (120, 160)

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return photo

    mattes = Mattes(Clip(), [disc] * 3, SETTINGS, matting=tiny[0].alphas)
    first, second = mattes.make(0), mattes.make(1)
    np.testing.assert_array_equal(first, second)
    assert mattes.signature(0) != Mattes(Clip(), [disc] * 3).signature(0)
    with pytest.raises(NbHelpersError, match="needs its network"):
        Mattes(Clip(), [disc] * 3, SETTINGS).make(0)


def test_mattes_of_an_outline_that_flickers_change_less_when_it_is_smoothed_in_time(tiny, photo, disc):
    class Clip:
        size = (120, 160)

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return np.clip(photo + np.random.default_rng(index).normal(0, 3, photo.shape), 0, 255).astype(np.uint8)

    distance = np.hypot(*(np.indices((120, 160)) - np.array([60, 50])[:, None, None]))
    masks = [distance <= radius for radius in (25, 28, 24, 27, 25, 28)]

    def change(steady):
        settings = MatteSettings(refine="vitmatte", rim=6, steady=steady)
        mattes = Mattes(Clip(), masks, settings, matting=tiny[0].alphas)
        alphas = [mattes.make(index).astype(float) for index in range(1, 5)]
        return np.mean([np.abs(b - a).mean() for a, b in pairwise(alphas)])

    assert 0 < change(1) < 0.8 * change(0)


def test_wrong_settings_and_trimaps_are_refused(tiny, photo, disc):
    with pytest.raises(NbHelpersError, match="no such refinement"):
        MatteSettings(refine="hair")
    with pytest.raises(NbHelpersError, match="rim must be above 0"):
        MatteSettings(refine="vitmatte", rim=0)
    for trimaps in ([], [make_trimap(disc[:50], 6)]):
        with pytest.raises(NbHelpersError, match="do not fit together"):
            tiny[0].alphas([photo], trimaps)
