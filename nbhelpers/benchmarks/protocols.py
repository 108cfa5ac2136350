"""The numbers behind the numbers: class names, resizing, windows, scale, thresholds, as papers published them.

>>> protocol = vocabulary_protocol("pascal-voc", "sclip")
>>> protocol.settings.scale, protocol.settings.probability_threshold, protocol.classes[4]
(65, 0.1, ('ship',))

Facts are from the configurations of the reference implementations: github.com/wangf3014/SCLIP at b56bd30,
github.com/sinahmr/NACLIP, github.com/zdk258/CorrCLIP (CorrCLIPv1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.dense import PROTOCOLS, DenseSettings

PROTOCOL_NAMES = ("plain", "sclip", "naclip", "corrclip")
MODES = ("dense", "hybrid")
_SCLIP_KEY = {
    "pascal-voc": "voc21",
    "pascal-voc20": "voc20",
    "pascal-context60": "context60",
    "pascal-context59": "context59",
    "coco-object": "coco-object",
    "coco-stuff": "coco-stuff",
    "ade20k": "ade20k",
}
_WITH_BACKGROUND = ("pascal-voc", "pascal-context60", "coco-object")
_CORRCLIP_THRESHOLD = {"pascal-voc": 0.2, "pascal-context60": 0.15, "coco-object": 0.25}
# PASCAL VOC's own names, written as words, with a synonym where the name is unusual.
VOC_NAMES: tuple[tuple[str, ...], ...] = tuple(
    tuple(names.split("|"))
    for names in (
        "aeroplane|airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
        "dog", "horse", "motorbike|motorcycle", "person", "potted plant", "sheep", "sofa", "train",
        "tv monitor|television",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What CorrCLIP and its successor add to a dense prediction; each is a switch.

    Attributes:
        scope: patches of the last block attend only to patches of their own region (SAM 2's masks).
        majority: each region takes the label that most of its pixels have.
        bank: file of a `nbhelpers.benchmarks.open_vocabulary.RegionBank`, whose nearest regions are averaged into
            each region.
        support: number of neighbours that a region gets from the bank.
        own: weight of the photo's own logits beside those of the bank.
        points: side of the grid of points by which SAM 2 makes the regions.
    """

    scope: bool = False
    majority: bool = False
    bank: str = ""
    support: int = 20
    own: float = 0.5
    points: int = 8

    @property
    def needs_regions(self) -> bool:
        """Whether SAM 2's masks are needed."""
        return self.scope or self.majority or bool(self.bank)


GAINS: Mapping[str, str] = MappingProxyType(
    {
        "scope": "part of CorrCLIP's 69.2 VOC21 without the majority, OpenAI's ViT-B/16 (SCLIP 59.1)",
        "majority": "VOC21 69.2 to 72.2 (CorrCLIP, OpenAI's ViT-B/16); 73.1 to 75.7 (OV-Stitcher)",
        "bank": "VOC21 +6.4, COCO-Stuff +5.9 (CorrCLIPv2); 82.3 with a ViT-L and RADIO",
    }
)
"""What each switch of a `Recipe` gained where it was published."""


@dataclass(frozen=True)
class VocabularyProtocol:
    """All that the score of an open-vocabulary benchmark depends on, beside the weights.

    Attributes:
        name: of `PROTOCOL_NAMES`, with "changed" where a number was set by hand.
        dataset: of `nbhelpers.benchmarks.datasets.LAYOUTS`.
        mode: ``dense``: the text encoder alone; ``hybrid``: instances of SAM 2 lie over its label map.
        classes: the names of each class; of a dataset with a background the first.
        settings: of the dense prediction.
        recipe: further switches.
    """

    name: str
    dataset: str
    mode: str
    classes: tuple[tuple[str, ...], ...]
    settings: DenseSettings
    recipe: Recipe = Recipe()

    def __post_init__(self):
        if self.mode not in MODES:
            raise NbHelpersError("there is no such mode", given=self.mode, expected=", ".join(MODES))
        count = CLASS_COUNTS[self.dataset]
        if len(self.classes) != count:
            raise NbHelpersError(
                "the class list does not fit the dataset",
                given=f"{len(self.classes)} classes",
                expected=f"{count} for {self.dataset}, in the order of its labels"
                + (", the background first" if self.has_background else ""),
            )

    @property
    def has_background(self) -> bool:
        """Whether class 0 is what belongs to no other class."""
        return self.dataset in _WITH_BACKGROUND

    @property
    def titles(self) -> tuple[str, ...]:
        """One name for each class."""
        titles = tuple(names[0] for names in self.classes)
        return ("background", *titles[1:]) if self.has_background else titles

    def facts(self) -> dict[str, Any]:
        """Everything as JSON, for the results' file; what has no effect in this mode is left out."""
        settings = {key: value for key, value in asdict(self.settings).items() if key != "templates"}
        templates, unused = self.settings.templates, []
        unused += ["gaussian_std"] if self.settings.attention != "naclip" else []
        unused += ["pamr_dilations"] if not self.settings.pamr_steps else []
        unused += ["stride"] if not self.settings.crop else []
        settings = {key: value for key, value in settings.items() if key not in unused}
        recipe = asdict(self.recipe) if self.recipe.needs_regions else {"scope": False, "majority": False}
        return {
            "protocol": self.name,
            "dataset": self.dataset,
            "mode": self.mode,
            **{key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
            "templates": "80 of OpenAI for ImageNet" if templates is None else list(templates),
            "names": [", ".join(names) for names in self.classes],
            **recipe,
            "metric": "mmsegmentation's IoUMetric over the whole set, void left out",
        }


@cache
def sclip_classes(dataset: str) -> tuple[tuple[str, ...], ...]:
    """SCLIP's names of the classes of a dataset; NACLIP's are the same.

    PASCAL VOC and COCO-Object get 26 words for the background, "ship" for boat, "table" for dining table, seven for
    person and five for tv monitor.
    """
    lists = json.loads(files("nbhelpers.benchmarks").joinpath("classes.json").read_text(encoding="utf-8"))
    source = {"pascal-voc20": "pascal-voc", "pascal-context59": "pascal-context60"}.get(dataset, dataset)
    classes = tuple(tuple(names.split(", ")) for names in " ".join(lists[source]).split("; "))
    return classes if source == dataset else classes[1:]


CLASS_COUNTS: Mapping[str, int] = MappingProxyType({name: len(sclip_classes(name)) for name in _SCLIP_KEY})


def own_classes(dataset: str) -> tuple[tuple[str, ...], ...]:
    """The dataset's own names, one a class where it can be, and the plain word "background"."""
    if dataset.startswith("pascal-voc"):
        return ((("background",),) if dataset == "pascal-voc" else ()) + VOC_NAMES
    classes = tuple((names[0],) for names in sclip_classes(dataset))
    return (("background",), *classes[1:]) if dataset in _WITH_BACKGROUND else classes


def _corrclip_classes(dataset: str) -> tuple[tuple[str, ...], ...]:
    others = {"person": ("people",), "television monitor": ("tvmonitor",)}
    classes = tuple(others.get(names[0], names) for names in sclip_classes(dataset))
    if dataset == "coco-object":
        dropped = {
            "bed", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "fence",
        }  # fmt: skip
        classes = (tuple(name for name in classes[0] if name not in dropped), *classes[1:])
    return classes


def vocabulary_protocol(
    dataset: str,
    name: str = "plain",
    *,
    mode: str | None = None,
    classes: Sequence[Sequence[str]] | None = None,
    recipe: Recipe | None = None,
    **changes: Any,
) -> VocabularyProtocol:
    """A published protocol, or one with numbers of one's own.

    Args:
        dataset: of `nbhelpers.benchmarks.datasets.LAYOUTS`.
        name: ``plain``: the dataset's own names, scale 40, no thresholds, the whole photo at once; ``sclip``,
            ``naclip``, ``corrclip``: as published for this dataset.
        mode: another one.
        classes: other names.
        recipe: other switches.
        **changes: of `DenseSettings`, such as ``scale=40`` or ``pamr_steps=10``.

    Raises:
        NbHelpersError: an unknown dataset or protocol, a wrong number, or names that do not fit.
    """
    if dataset not in _SCLIP_KEY:
        raise NbHelpersError("there is no such dataset", given=dataset, expected=", ".join(_SCLIP_KEY))
    if name not in PROTOCOL_NAMES:
        raise NbHelpersError("there is no such protocol", given=name, expected=", ".join(PROTOCOL_NAMES))
    published = PROTOCOLS[_SCLIP_KEY[dataset]]
    threshold = published.probability_threshold
    plain = DenseSettings(at_image_size=True, crop=0)
    names, settings, chosen = own_classes(dataset), plain, Recipe()
    if name == "sclip":
        names, settings = sclip_classes(dataset), published
    elif name == "naclip":
        whole = dataset in ("pascal-voc", "pascal-voc20")
        names = sclip_classes(dataset)
        settings = replace(plain, attention="naclip", crop=0 if whole else 224, probability_threshold=threshold)
    elif name == "corrclip":
        side = 448 if dataset == "ade20k" else 336
        names, chosen = _corrclip_classes(dataset), Recipe(scope=True, majority=True)
        settings = replace(
            plain, short_side=side, crop=336, probability_threshold=_CORRCLIP_THRESHOLD.get(dataset, 0.0)
        )
    changed = {key: value for key, value in changes.items() if getattr(settings, key) != value}
    out = VocabularyProtocol(
        name,
        dataset,
        mode or "dense",
        names if classes is None else tuple(map(tuple, classes)),
        replace(settings, **changes),
        recipe or chosen,
    )
    by_hand = changed or (classes is not None and out.classes != names)
    by_hand = by_hand or out.mode != "dense" or out.recipe != chosen
    return replace(out, name=f"{name}, changed") if by_hand and name != "plain" else out


def read_classes(path: str | Path) -> tuple[tuple[str, ...], ...]:
    """Names from a text file, a line for each class, with ``", "`` or ``"; "`` between several.

    Raises:
        NbHelpersError: it cannot be read.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NbHelpersError("the class list cannot be read", given=f"{path}: {error}") from error
    return tuple(tuple(line.strip().replace("; ", ", ").split(", ")) for line in lines if line.strip())


@dataclass(frozen=True)
class PublishedNumber:
    """A number from a paper or its repository, with the protocol that it was measured by.

    Attributes:
        dataset: see `VocabularyProtocol`, or a benchmark of another kind.
        method: whose it is.
        score: in percent.
        measure: what it is: ``mIoU``, ``J&F``, ``NoC@90`` ...
        facts: the numbers of the protocol that are known, by the keys of `VocabularyProtocol.facts`.
        source: where it stands.
    """

    dataset: str
    method: str
    score: float
    measure: str
    facts: Mapping[str, Any]
    source: str


def published_numbers(dataset: str) -> list[PublishedNumber]:
    """The published numbers that a run on a dataset is compared with, best first."""
    out = [
        PublishedNumber(dataset, method, scores[dataset], "mIoU", _facts(dataset, protocol, model), source)
        for method, protocol, model, scores, source in _VOCABULARY_TABLE
        if dataset in scores
    ]
    out += [
        PublishedNumber(data, method, score, measure, facts, source)
        for data, method, score, measure, facts, source in _OTHER_NUMBERS
        if data == dataset
    ]
    return sorted(out, key=lambda number: -number.score)


def _facts(dataset: str, protocol: str | None, model: str) -> dict[str, Any]:
    facts = {"text_encoder": model, "photos": PHOTOS[dataset]}
    if protocol is None:
        return facts
    name, _, pamr = protocol.partition("+")
    changes: dict[str, Any] = {"pamr_steps": 10} if pamr else {}
    return vocabulary_protocol(dataset, name, **changes).facts() | facts


PHOTOS: Mapping[str, int] = MappingProxyType(
    {
        "pascal-voc": 1449,
        "pascal-voc20": 1449,
        "pascal-context60": 5104,
        "pascal-context59": 5104,
        "coco-object": 5000,
        "coco-stuff": 5000,
        "ade20k": 2000,
    }
)
"""Photos of each validation set."""

_ORDER = ["pascal-voc", "pascal-context60", "coco-object", "pascal-voc20", "pascal-context59", "ade20k", "coco-stuff"]
_OPENAI, _META = "openclip-vit-b-16", "MetaCLIP ViT-B/16"
_STITCHER = "table of OV-Stitcher (CVPR 2026 Findings), one protocol for all rows"
_VOCABULARY_TABLE = (
    ("SCLIP", "sclip", _OPENAI, dict(zip(_ORDER, (59.63, 31.74, 33.52, 81.54, 34.46, 16.45, 22.77), strict=True)),
     "README of the reference implementation"),
    ("SCLIP (paper's table)", None, _OPENAI, dict(zip(_ORDER, (59.1, 30.4, 30.5, 80.4, 34.2, 16.1, 22.4), strict=True)),
     "arXiv 2312.01597"),
    ("NACLIP", "naclip", _OPENAI, dict(zip(_ORDER, (58.9, 32.2, 33.2, 79.7, 35.2, 17.4, 23.3), strict=True)),
     "arXiv 2404.08181"),
    ("NACLIP + PAMR", "naclip+pamr", _OPENAI,
     dict(zip(_ORDER, (64.07, 34.99, 36.19, 83.03, 38.35, 19.05, 25.69), strict=True)),
     "README of the reference implementation"),
    ("CorrCLIP, SAM 2 (8 x 8 points)", "corrclip", _META,
     dict(zip(_ORDER, (73.9, 43.7, 43.6, 87.6, 48.0, 26.5, 31.8), strict=True)),
     "README of the reference implementation"),
    ("CorrCLIP, OpenAI's CLIP", "corrclip", _OPENAI,
     dict(zip(_ORDER, (72.2, 41.6, 40.7, 88.7, 47.1, 23.7, 30.7), strict=True)), _STITCHER),
    ("OV-Stitcher", None, _OPENAI,
     dict(zip(_ORDER, (75.7, 43.9, 42.6, 89.8, 48.8, 24.7, 31.8), strict=True)), _STITCHER),
)  # fmt: skip

_WHOLE_SET = {"start": "mask", "clips": 30}
_OTHER_NUMBERS = (
    ("davis2017", "SAM 2.1 B+", 90.2, "J&F", _WHOLE_SET, "README of EdgeTAM"),
    ("davis2017", "SAM 2.1 L", 90.6, "J&F", _WHOLE_SET, "README of SeC"),
    ("davis2017", "SAM2.1Long L", 91.4, "J&F", _WHOLE_SET, "README of SeC"),
    ("davis2017", "SAM 3.1", 92.7, "J&F", _WHOLE_SET, "release notes of SAM 3.1, second hand"),
    ("davis2017", "Cutie-base+", 88.1, "J&F", _WHOLE_SET, "README of EdgeTAM"),
    ("sa-v", "SAM 2.1 L", 78.6, "J&F", {"start": "mask", "clips": 155}, "README of SeC"),
    ("lvos", "SAM 2.1 L", 84.1, "J&F", {"start": "mask", "clips": 140}, "README of SeC; SAM 2's own README has 80.6"),
    ("spin-nerf", "MV-SAM", 92.9, "mIoU", {"prompt": "8 + 2 clicks"}, "arXiv 2601.17866, second hand"),
    ("nvos", "MV-SAM", 92.1, "mIoU", {"prompt": "8 + 2 clicks"}, "arXiv 2601.17866, second hand"),
)  # fmt: skip
