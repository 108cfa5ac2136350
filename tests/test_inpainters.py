"""Inpainters: MI-GAN without and with its weights; Stable Diffusion as tiny random pipelines in the real format."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.models import inpainters
from nbhelpers.models.load import load, unload
from nbhelpers.models.protocols import Inpainter
from nbhelpers.weights import catalog, sample

SIDE = 64
LETTERS = "abcdefghijklmnopqrstuvwxyz,.-"
NAMES = {"stable-diffusion-inpainting": False, "stable-diffusion-xl-inpainting": True}


class Session:
    """Stands in for ONNX Runtime: paints the hole in one colour."""

    def __init__(self):
        self.feeds = []

    def run(self, outputs, feeds):
        self.feeds.append(feeds)
        return [np.where(feeds["mask"] == inpainters.HOLE, np.uint8(77), feeds["image"])]


@pytest.fixture
def session():
    return Session()


@pytest.fixture
def wide_hole(photo):
    mask = np.zeros(photo.shape[:2], bool)
    mask[35:86, 25:76] = True
    return mask


def test_the_graph_gets_what_it_wants(session, photo, wide_hole):
    inpainter = inpainters.MiganInpainter(session)
    assert isinstance(inpainter, Inpainter) and inpainter.side == 512
    filled = inpainter.fill(photo, wide_hole)
    (feeds,) = session.feeds
    assert feeds["image"].shape == (1, 3, 512, 512) and feeds["image"].dtype == np.uint8
    assert feeds["mask"].shape == (1, 1, 512, 512) and set(np.unique(feeds["mask"])) == {
        inpainters.HOLE,
        inpainters.KEEP,
    }
    assert filled.shape == photo.shape and (np.abs(filled[wide_hole].astype(int) - 77) <= 8).mean() > 0.95


def test_a_prompt_is_refused_with_the_official_model_and_its_command(session, photo, wide_hole):
    with pytest.raises(NbHelpersError, match="has no text input") as told:
        inpainters.MiganInpainter(session).fill(photo, wide_hole, "a sunset")
    assert "nbhelpers fetch stable-diffusion-inpainting" in str(told.value)
    assert session.feeds == []


def test_a_mask_of_everything_is_told_and_one_of_nothing_changes_nothing(session, photo):
    inpainter = inpainters.MiganInpainter(session)
    with pytest.raises(NbHelpersError, match="covers the whole"):
        inpainter.fill(photo, np.ones(photo.shape[:2], bool))
    assert np.array_equal(inpainter.fill(photo, np.zeros(photo.shape[:2], bool)), photo)


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "migan.onnx").write_bytes(b"nothing")
    with pytest.raises(NbHelpersError, match="nbhelpers fetch migan"):
        inpainters.build_migan("migan", {"checkpoint": tmp_path / "migan.onnx"}, "cpu")


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


def tokenizer(folder):
    """CLIP's tokenizer with letters for a vocabulary."""
    from transformers import CLIPTokenizer

    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "th", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, **special)


def text_encoder(kind, width):
    from transformers import CLIPTextConfig

    return kind(
        CLIPTextConfig(
            vocab_size=2 * len(LETTERS) + 3,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=16,
            max_position_embeddings=77,
            bos_token_id=2 * len(LETTERS) + 1,
            eos_token_id=2 * len(LETTERS) + 2,
        )
    )


def save_tiny(folder, is_xl, scratch):
    """A pipeline folder as the publishers lay it out, half precision."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        StableDiffusionXLInpaintPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    sizes = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    blocks = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    extra = {"cross_attention_dim": 16, "attention_head_dim": 8}
    if is_xl:
        extra = {"cross_attention_dim": 32, "attention_head_dim": (2, 4), "use_linear_projection": True}
        extra |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        extra |= {"projection_class_embeddings_input_dim": 16 + 6 * 8, "transformer_layers_per_block": (1, 1)}
    vae_blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    parts = {
        "unet": UNet2DConditionModel(sample_size=SIDE // 2, in_channels=9, out_channels=4, **sizes, **blocks, **extra),
        "vae": AutoencoderKL(**sizes, **vae_blocks, latent_channels=4, sample_size=SIDE),
        "text_encoder": text_encoder(CLIPTextModel, 16),
        "tokenizer": tokenizer(scratch / "tokenizer"),
        "scheduler": DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1),
    }
    if is_xl:
        parts |= {"text_encoder_2": text_encoder(CLIPTextModelWithProjection, 16), "tokenizer_2": parts["tokenizer"]}
        pipeline = StableDiffusionXLInpaintPipeline(**parts)
    else:
        pipeline = StableDiffusionInpaintPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For networks this small a second thread only costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=NAMES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / request.param
    save_tiny(path, NAMES[request.param], tmp_path_factory.mktemp("scratch"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def inpainter(folder):
    return inpainters.from_folder(folder, "cpu")


@pytest.fixture
def hole(photo):
    mask = np.zeros(photo.shape[:2], bool)
    mask[35:86, 25:76] = True
    return mask


def test_a_folder_gives_an_inpainter_of_the_networks_own_size(inpainter, folder):
    assert isinstance(inpainter, Inpainter)
    assert inpainter.side == SIDE and inpainter.name == folder.name and inpainter.device == "cpu"
    assert inpainter.pipeline.unet.dtype == torch.float32


def test_the_same_seed_gives_the_same_picture_and_another_one_does_not(inpainter, photo, hole):
    one, again, other = (inpainter.fill(photo, hole, "a red car", seed=seed, steps=2) for seed in (3, 3, 4))
    assert one.shape == photo.shape and one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one[hole], other[hole])


def test_the_prompt_matters(inpainter, photo, hole):
    one, other = (inpainter.fill(photo, hole, prompt, steps=2, guidance=30) for prompt in ("a red car", "the sea"))
    assert not np.array_equal(one[hole], other[hole])


def test_without_a_prompt_it_removes(inpainter, photo, hole, monkeypatch):
    seen = {}
    encode = inpainter.pipeline.encode_prompt

    def listen(prompt, *args, **kwargs):
        seen["prompt"] = prompt if isinstance(prompt, str) else prompt[0]
        seen["negative"] = [value for value in (*args, *kwargs.values()) if isinstance(value, str)]
        return encode(prompt, *args, **kwargs)

    monkeypatch.setattr(inpainter.pipeline, "encode_prompt", listen)
    assert inpainter.fill(photo, hole, steps=2).shape == photo.shape
    assert seen["prompt"] == inpainters.REMOVAL_PROMPT
    assert inpainters.REMOVAL_NEGATIVE in seen["negative"]


def test_a_small_strength_stays_near_to_what_is_there(inpainter, photo, hole, monkeypatch):
    """An untrained network paints noise: the less of it is asked for, the nearer the latents stay."""
    steps, unet = [], inpainter.pipeline.unet.forward

    def count(sample, timestep, *args, **kwargs):
        steps.append(int(timestep))
        return unet(sample, timestep, *args, **kwargs)

    monkeypatch.setattr(inpainter.pipeline.unet, "forward", count)
    runs = {}
    for strength in (0.25, 0.75, 1.0):
        steps.clear()
        inpainter.fill(photo, hole, "a red car", strength=strength, steps=5)
        runs[strength] = len(steps), max(steps)
    assert runs[0.25][0] == 1 and runs[0.75][0] == 3 and runs[1.0][0] in (4, 5)
    assert runs[0.25][1] < runs[0.75][1] < runs[1.0][1], "less noise is laid over what is there"


def test_even_the_smallest_strength_runs_a_step(inpainter, photo, hole):
    assert inpainter.fill(photo, hole, "a red car", strength=0.05, steps=2).shape == photo.shape


@pytest.mark.parametrize("size", [(16, 16), (1, 3), (200, 70)])
def test_any_size_is_painted(inpainter, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask[: size[0] // 2 + 1, : size[1] // 2 + 1] = True
    assert inpainter.fill(image, mask, "the sea", steps=1).shape == image.shape


def test_an_empty_hole_changes_nothing(inpainter, photo):
    assert np.array_equal(inpainter.fill(photo, np.zeros(photo.shape[:2], bool), "the sea"), photo)


@pytest.mark.parametrize("wrong", [{"strength": 0.0}, {"strength": 1.5}, {"strength": float("nan")}, {"steps": 0}])
def test_what_is_out_of_range_is_told(inpainter, photo, hole, wrong):
    with pytest.raises(NbHelpersError, match="out of range"):
        inpainter.fill(photo, hole, "the sea", **wrong)


def test_full_memory_is_told(inpainter, photo, hole, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inpainter.pipeline.unet, "forward", full)
    with pytest.raises(NbHelpersError, match="memory of cpu is too small"):
        inpainter.fill(photo, hole, "the sea", steps=1)


def test_the_catalog_lists_every_file_that_the_pipeline_reads(folder):
    """The row of the catalog against what diffusers wrote: nothing needed is missing from it."""
    listed = {asset.role for asset in catalog.find(folder.name).assets}
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    weights = {path for path in listed if path.endswith((".safetensors", "config.json", "model_index.json"))}
    assert {path for path in weights if "tokenizer" not in path} <= written


def test_the_catalogs_files_alone_make_a_pipeline(folder, home, monkeypatch, photo, hole):
    """What `nbhelpers fetch` would bring, and no file more, is loaded by name."""
    entry = catalog.find(folder.name)
    scratch = home / "scratch"
    slow = {"vocab.json": "vocab.json", "merges.txt": "merges.txt"}
    tokenizer(scratch)
    for asset in entry.assets:
        source = folder / asset.role
        if not source.exists():  # transformers 5 writes tokenizer.json; the publishers have the two older files
            source = scratch / slow[asset.target.name] if asset.target.name in slow else None
        asset.target.parent.mkdir(parents=True, exist_ok=True)
        if source is None:
            asset.target.write_text(json.dumps({"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}))
        else:
            shutil.copy(source, asset.target)
    monkeypatch.setattr("nbhelpers.weights.cache.check", lambda *args, **kwargs: None)  # random weights have no hash
    try:
        inpainter = load("inpainter", models="auto", device="cpu")
        assert inpainter.name == folder.name
        assert np.array_equal(
            inpainter.fill(photo, hole, "the sea", steps=1),
            inpainters.from_folder(folder, "cpu").fill(photo, hole, "the sea", steps=1),
        )
    finally:
        unload()


def test_weights_that_are_not_here_are_told_with_the_command(home):
    with pytest.raises(NbHelpersError, match="nbhelpers fetch stable-diffusion-inpainting"):
        load("inpainter", "stable-diffusion-inpainting", "cpu")


def test_pickled_weights_are_not_read(folder, tmp_path):
    copy = tmp_path / "pickled"
    shutil.copytree(folder, copy)
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(NbHelpersError, match="cannot be loaded"):
        inpainters.from_folder(copy, "cpu", "mine")


def test_damaged_weights_are_told(folder, tmp_path):
    copy = tmp_path / "cut"
    shutil.copytree(folder, copy)
    weights = next((copy / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(NbHelpersError, match="nbhelpers fetch mine"):
        inpainters.from_folder(copy, "cpu", "mine")


@pytest.mark.parametrize("index", [None, "{", "[]", '{"_class_name": "StableDiffusionPipeline"}'])
def test_another_folder_is_told(tmp_path, index):
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(NbHelpersError, match=r"does not contain a pipeline|not for inpainting"):
        inpainters.from_folder(tmp_path, "cpu")


def test_files_that_lie_apart_are_told(tmp_path):
    files = {"model_index.json": tmp_path / "a" / "model_index.json", "unet/x": tmp_path / "b" / "unet" / "x"}
    with pytest.raises(NbHelpersError, match="are not in one folder"):
        inpainters.build_diffusion("mine", files, "cpu")


def test_nothing_is_fetched(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inpainters.from_folder(folder, "cpu")
