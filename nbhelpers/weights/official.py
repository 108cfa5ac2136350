"""The official set: the publishers' checkpoints, for a GPU.

Sizes of files without a published hash are approximate; such files are pinned at their first download. A hub
revision that is a commit pins the content as well.
"""

from __future__ import annotations

from nbhelpers.weights.lite import SENTENCES
from nbhelpers.weights.sources import Asset, HubFile, Model, UrlFile

SAM2_ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything_2"

# best first: `load` takes the first that is downloaded. Version, size, yaml letter, video frames per second on an A100
# (publisher's README), bytes, sha256
SAM2 = (
    ("2.1", "large", "l", 39, 898_083_611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    ("2.1", "base-plus", "b+", 64, 323_606_802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    ("2.1", "small", "s", 85, 184_416_285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    ("2.1", "tiny", "t", 91, 156_008_466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    ("2", "large", "l", 39, 897_952_466, "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
    ("2", "base-plus", "b+", 64, 323_493_298, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    ("2", "small", "s", 85, 184_309_650, "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    ("2", "tiny", "t", 91, 155_906_050, "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
)


def _sam2(version: str, size: str, letter: str, speed: int, length: int, sha256: str) -> tuple[Model, Model]:
    """The segmenter and the video tracker of one checkpoint."""
    name = f"sam{version}-hiera-{size}"
    file = f"sam{version}_hiera_{size.replace('-', '_')}.pt"
    day = {"2": "072824", "2.1": "092824"}[version]
    sources = (HubFile(f"facebook/{name}", file), UrlFile(f"{SAM2_ADDRESS}/{day}/{file}"))
    assets = (Asset(file, sources, length, sha256),)
    options = {"config": f"configs/sam{version}/sam{version}_hiera_{letter}.yaml"}
    memory = f"{length / 1e9:.2g} GB of weights"
    pace = f"about {speed} video frames per second on an A100 (publisher's README)"
    return (
        Model(
            name, "segmenter", "official", assets, "Apache-2.0", memory, pace, "nbhelpers.models.sam2:build", options
        ),
        Model(
            f"{name}-video",
            "tracker",
            "official",
            assets,
            "Apache-2.0",
            f"{memory}; independent of the length of the clip",
            pace,
            "nbhelpers.models.sam2_video:build",
            options,
            note="The same checkpoint file as the segmenter.",
        ),
    )


def _dinov2(size: str, bytes: int, registers: bool) -> Model:
    # commits pinned by other projects; none is known for the variants with registers
    revision = {
        "small": "ed25f3a31f01632728cabb09d1542f84ab7b0056",
        "base": "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        "large": "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        "giant": "611a9d42f2335e0f921f1e313ad3c1b7178d206d",
    }[size]
    name = f"dinov2-with-registers-{size}" if registers else f"dinov2-{size}"
    files = (("model.safetensors", bytes, "checkpoint"), ("config.json", 600, "config"))
    return Model(
        name,
        "patch_encoder",
        "official",
        _folder(f"facebook/{name}", "main" if registers else revision, name, files),
        "Apache-2.0",
        f"{bytes / 1e9:.2g} GB of weights",
        "milliseconds per photo on a GPU",
        adapter="nbhelpers.models.patches:build_dinov2",
        options={"hub": f"facebook/{name}"},
        note="With register tokens: cleaner patch maps (arXiv 2309.16588)." if registers else "",
    )


def _dinov3(size: str, bytes: int) -> Model:
    kind, _, letter = size.partition("-")
    repo = f"facebook/dinov3-{f'vit{letter[0]}16' if kind == 'vit' else size}-pretrain-lvd1689m"
    name = f"dinov3-{size}"
    return Model(
        name,
        "patch_encoder",
        "official",
        _folder(repo, "main", name, _transformers_files(bytes, PROCESSOR)),
        "DINOv3 (gated)",
        f"{bytes / 1e9:.2g} GB of weights",
        "milliseconds per photo on a GPU",
        adapter="nbhelpers.models.patches:build_dinov3",
        options={"positions": 20},
        note="Commercial use is allowed, with conditions; the licence is accepted on the hub first. Without its "
        "positional bias (arXiv 2603.28480).",
    )


def _transformers_files(bytes: int, *others: tuple[str, int, str]) -> tuple[tuple[str, int, str], ...]:
    """The files of a model of ``transformers``: name, size, role."""
    return ("model.safetensors", bytes, "checkpoint"), ("config.json", 2_000, "config"), *others


def _folder(repo: str, revision: str, folder: str, files: tuple[tuple[str, int, str], ...]) -> tuple[Asset, ...]:
    """Files of one hub repository, in one folder, sizes approximate, without published hashes."""
    return tuple(
        Asset(f"{folder}/{file}", (HubFile(repo, file, revision),), bytes, None, role, exact=False)
        for file, bytes, role in files
    )


def _diffusers(repo: str, revision: str, folder: str, weights: dict[str, tuple[str, int]], tokenizers: int) -> tuple:
    """The half-precision safetensors of a diffusers pipeline with the small files that belong to them."""
    parts = {"model_index.json": 600, "scheduler/scheduler_config.json": 400}
    for number in range(tokenizers):
        where = "tokenizer" if number == 0 else f"tokenizer_{number + 1}"
        parts |= {f"{where}/merges.txt": 525_000, f"{where}/vocab.json": 1_060_000}
        parts |= {f"{where}/tokenizer_config.json": 800, f"{where}/special_tokens_map.json": 500}
    for where, (file, bytes) in weights.items():
        parts |= {f"{where}/config.json": 900, f"{where}/{file}": bytes}
    return _folder(repo, revision, folder, tuple((file, bytes, file) for file, bytes in parts.items()))


PROCESSOR = ("preprocessor_config.json", 1_000, "processor")

# ViT-L/14 first: the one to take where several are here
DINOV2_BYTES = {"large": 1_220_000_000, "base": 346_000_000, "small": 88_000_000, "giant": 4_550_000_000}
DINOV3_BYTES = {
    "vit-large": 1_212_000_000,
    "vit-base": 343_000_000,
    "vit-small": 86_000_000,
    "convnext-large": 785_000_000,
    "convnext-base": 350_000_000,
    "convnext-small": 198_000_000,
    "convnext-tiny": 111_000_000,
}

CLIP = (
    Model(
        "openclip-vit-b-16",
        "text_encoder",
        "official",
        (
            Asset(
                "openclip-vit-b-16.safetensors",
                (HubFile("timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors"),),
                599_000_000,
                "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
                exact=False,
            ),
        ),
        "MIT",
        "0.6 GB of weights",
        "milliseconds per photo on a GPU",
        adapter="nbhelpers.models.openclip:build",
        options={"architecture": "ViT-B-16-quickgelu"},
        note="OpenAI's CLIP, read by OpenCLIP.",
    ),
    Model(
        "openclip-vit-l-14",
        "text_encoder",
        "official",
        (
            Asset(
                "openclip-vit-l-14.safetensors",
                (HubFile("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors"),),
                1_710_000_000,
                None,
                exact=False,
            ),
        ),
        "MIT",
        "1.7 GB of weights",
        "milliseconds per photo on a GPU",
        adapter="nbhelpers.models.openclip:build",
        options={"architecture": "ViT-L-14-quickgelu"},
        note="The larger one.",
    ),
)

EDGETAM = _folder("yonigozlan/EdgeTAM-hf", "main", "edgetam", _transformers_files(56_000_000))
SAM3 = _folder(
    "facebook/sam3",
    "main",
    "sam3",
    _transformers_files(3_440_000_000, ("tokenizer.json", 3_600_000, "tokenizer")),
)
SAM3_NOTE = "The licence is accepted on the hub first; it allows commercial use, and forbids some uses."
TIPSV2 = _folder(
    "google/tipsv2-b14",
    "main",
    "tipsv2-b14",
    _transformers_files(784_000_000, ("tokenizer.json", 2_000_000, "tokenizer")),
)

TIPS = (
    Model(
        "tipsv2-b14",
        "text_encoder",
        "official",
        TIPSV2,
        "CC BY 4.0",
        "0.8 GB of weights",
        "milliseconds a photo on a GPU",
        "nbhelpers.models.tipsv2:build",
        note="Patches and texts in one space; code Apache-2.0 (arXiv 2410.16512, second version).",
    ),
    Model(
        "tipsv2-b14-patches",
        "patch_encoder",
        "official",
        TIPSV2,
        "CC BY 4.0",
        "0.8 GB of weights",
        "milliseconds a photo on a GPU",
        "nbhelpers.models.tipsv2:build",
        note="The same checkpoint as the text encoder; the file is there once.",
    ),
)

VARIANTS = (
    Model(
        "edgetam",
        "segmenter",
        "official",
        EDGETAM,
        "Apache-2.0",
        "0.06 GB of weights",
        "milliseconds a photo on a GPU",
        "nbhelpers.models.sam_variants:build_segmenter",
        note="SAM 2 with a small encoder and a compressed memory (arXiv 2501.07256).",
    ),
    Model(
        "edgetam-video",
        "tracker",
        "official",
        EDGETAM,
        "Apache-2.0",
        "0.06 GB of weights; the same however long the clip",
        "faster than SAM 2.1 tiny; 16 video frames a second on a phone (publisher's README)",
        "nbhelpers.models.sam_variants:build_tracker",
        note="The same checkpoint as the segmenter; the file is there once.",
    ),
    Model(
        "sam3-segmenter",
        "segmenter",
        "official",
        SAM3,
        "SAM (gated)",
        "3.4 GB of weights",
        "milliseconds a photo on a GPU",
        "nbhelpers.models.sam_variants:build_segmenter",
        note=f"SAM 3 with clicks, boxes and masks. {SAM3_NOTE}",
    ),
    Model(
        "sam3-video",
        "tracker",
        "official",
        SAM3,
        "SAM (gated)",
        "3.4 GB of weights; the same however long the clip",
        "several video frames a second on a GPU",
        "nbhelpers.models.sam_variants:build_tracker",
        note=f"The same checkpoint as the segmenter. {SAM3_NOTE}",
    ),
)

YOLOX = Asset(
    "yolox_s.onnx",
    (UrlFile("https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_s.onnx"),),
    35_858_002,
    "c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
)

DETECTORS = (
    Model(
        "yolox-s",
        "detector",
        "official",
        (YOLOX, *SENTENCES),
        "Apache-2.0",
        "0.13 GB of weights with the sentence encoder that conse-lite has too",
        "9.8 ms a run on a V100 (publisher's README), 0.2 s on a 2-core CPU",
        "nbhelpers.models.yolox:build",
        note="YOLOX-S (arXiv 2107.08430): the 80 COCO classes, AP 40.5 where YOLOX-nano has 25.8 (publisher's README). "
        "Its probabilities are calibrated as YOLOX-nano's.",
    ),
)

CONCEPTS = (
    Model(
        "sam3",
        "concept_segmenter",
        "official",
        SAM3,
        "SAM (gated)",
        "3.4 GB of weights",
        "under a second a photo on a GPU",
        "nbhelpers.models.sam3:build",
        note=f"Words to instances (arXiv 2511.16719). {SAM3_NOTE}",
    ),
    Model(
        "sam3-detector",
        "detector",
        "official",
        SAM3,
        "SAM (gated)",
        "3.4 GB of weights",
        "under a second a photo on a GPU",
        "nbhelpers.models.sam3:build",
        note=f"The boxes of the same network. {SAM3_NOTE}",
    ),
)

GEOMETRY = (
    Model(
        "vggt-1b",
        "scene_estimator",
        "official",
        _folder("facebook/VGGT-1B", "main", "vggt-1b", (("model.safetensors", 5_030_000_000, "checkpoint"),)),
        "CC BY-NC 4.0",
        "5 GB of weights",
        "seconds for a scene on a GPU",
        "nbhelpers.models.vggt:build",
        note="For research. Cameras, depth and points in one pass. The package comes from its repository.",
    ),
    Model(
        "vggt-1b-commercial",
        "scene_estimator",
        "official",
        _folder(
            "facebook/VGGT-1B-Commercial",
            "main",
            "vggt-1b-commercial",
            (("vggt_1B_commercial.pt", 5_030_000_000, "checkpoint"),),
        ),
        "VGGT (commercial)",
        "5 GB of weights",
        "seconds for a scene on a GPU",
        "nbhelpers.models.vggt:build",
        note="The same network, trained for commercial use. Its licence must be accepted on the hub.",
    ),
    *(
        Model(
            f"da3-{size}",
            "geometry_encoder",
            "official",
            _folder(
                f"depth-anything/DA3-{size.upper()}",
                "main",
                f"da3-{size}",
                (("model.safetensors", length, "checkpoint"), ("config.json", 1_500, "config")),
            ),
            "Apache-2.0",
            f"{length / 1e9:.2g} GB of weights",
            "seconds for a clip on a GPU",
            "nbhelpers.models.da3:build",
            note="Cameras, depth and features of all frames at once; "
            "pip install --no-deps depth-anything-3==0.1.1 brings the package.",
        )
        for size, length in (("base", 540_000_000), ("small", 137_000_000))
    ),
    Model(
        "must3r-512",
        "geometry_encoder",
        "official",
        (
            Asset(
                "MUSt3R_512.pth",
                (UrlFile("https://download.europe.naverlabs.com/ComputerVision/MUSt3R/MUSt3R_512.pth"),),
                1_690_000_000,
                None,
                exact=False,
            ),
        ),
        "MUSt3R (non-commercial)",
        "1.7 GB of weights",
        "a fraction of a second per frame on a GPU",
        "nbhelpers.models.must3r:build",
        note="Long clips, with a memory. For research; accept its licence by NBHELPERS_ACCEPT=must3r-512. The package "
        "comes from its repository.",
    ),
    Model(
        "vggt-1b-geometry",
        "geometry_encoder",
        "official",
        _folder("facebook/VGGT-1B", "main", "vggt-1b", (("model.safetensors", 5_030_000_000, "checkpoint"),)),
        "CC BY-NC 4.0",
        "5 GB of weights",
        "seconds for a clip on a GPU",
        "nbhelpers.models.geometry:build_estimated",
        {"estimator": "vggt-1b"},
        note="Depth and cameras of the estimator vggt-1b, from the same file.",
    ),
)

INPAINTERS = (
    Model(
        "stable-diffusion-inpainting",
        "inpainter",
        "official",
        _diffusers(
            "stable-diffusion-v1-5/stable-diffusion-inpainting",
            "8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
            "stable-diffusion-inpainting",
            {
                "unet": ("diffusion_pytorch_model.fp16.safetensors", 1_720_000_000),
                "vae": ("diffusion_pytorch_model.fp16.safetensors", 167_000_000),
                "text_encoder": ("model.fp16.safetensors", 246_000_000),
            },
            tokenizers=1,
        ),
        "OpenRAIL-M",
        "2.1 GB of weights",
        "seconds per image on a GPU, minutes on a CPU",
        "nbhelpers.models.inpainters:build_diffusion",
        note="Inpaints by text prompt, at 512 x 512.",
    ),
    Model(
        "stable-diffusion-xl-inpainting",
        "inpainter",
        "official",
        _diffusers(
            "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
            "main",
            "stable-diffusion-xl-inpainting",
            {
                "unet": ("diffusion_pytorch_model.fp16.safetensors", 5_140_000_000),
                "vae": ("diffusion_pytorch_model.fp16.safetensors", 167_000_000),
                "text_encoder": ("model.fp16.safetensors", 246_000_000),
                "text_encoder_2": ("model.fp16.safetensors", 1_390_000_000),
            },
            tokenizers=2,
        ),
        "OpenRAIL++-M",
        "6.9 GB of weights",
        "seconds per image on a GPU",
        "nbhelpers.models.inpainters:build_diffusion",
        note="The larger one, at 1024 x 1024.",
    ),
)

MATTING = tuple(
    Model(
        f"vitmatte-{size}",
        "matting",
        "official",
        _folder(
            f"hustvl/vitmatte-{size}-composition-1k",
            "main",
            f"vitmatte-{size}",
            _transformers_files(bytes, PROCESSOR),
        ),
        "Apache-2.0",
        f"{bytes / 1e9:.2g} GB of weights",
        "under a second a frame on a GPU",
        "nbhelpers.models.vitmatte:build",
        note="Opacity of hair, fur and blur at the rim of a mask (arXiv 2305.15272).",
    )
    for size, bytes in (("small", 103_000_000), ("base", 387_000_000))
)

MATCHERS = (
    Model(
        "mast3r",
        "matcher",
        "official",
        _folder(
            "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
            "main",
            "mast3r",
            (("model.safetensors", 2_750_000_000, "checkpoint"), ("config.json", 1_000, "config")),
        ),
        "CC BY-NC-SA 4.0",
        "2.8 GB of weights",
        "under a second per pair on a GPU",
        note="Matches across wide baselines. The package comes from its repository.",
    ),
)

_PAIRS = [_sam2(*row) for row in SAM2]

OFFICIAL = (
    *(segmenter for segmenter, _ in _PAIRS),
    *(tracker for _, tracker in _PAIRS),
    *VARIANTS,
    *CONCEPTS,
    *DETECTORS,
    *CLIP,
    *(_dinov2(size, bytes, registers) for registers in (False, True) for size, bytes in DINOV2_BYTES.items()),
    *(_dinov3(size, bytes) for size, bytes in DINOV3_BYTES.items()),
    *TIPS,
    *GEOMETRY,
    *INPAINTERS,
    *MATTING,
    *MATCHERS,
)
