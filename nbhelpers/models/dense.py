"""From the logits of names to the probabilities of classes, and the settings of the way there.

Protocol of SCLIP (Wang et al. 2023, arXiv 2312.01597) as its reference implementation has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from jaxtyping import Float

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.pamr import DILATIONS

if TYPE_CHECKING:
    from torch import Tensor

ATTENTIONS = ("sclip", "naclip", "clip")
BAND = 64  # rows of which the probabilities of all names exist at one time


@dataclass(frozen=True)
class DenseSettings:
    """How a CLIP model is made to answer for each place; the defaults are SCLIP's.

    The two thresholds need a background, which is the first class asked, e.g. ``[BACKGROUND_WORDS, "cat", "dog"]``
    with the 26 names of `nbhelpers.core.vocabulary`.

    Attributes:
        attention: of the last block. ``"sclip"``: softmax(q q^T) + softmax(k k^T); ``"naclip"``: softmax(k k^T +
            Gaussian neighbourhood), without that block's residual and MLP (arXiv 2404.08181); ``"clip"``: as trained.
        scale: cosines are multiplied by it before the softmax over names.
        short_side: pixels of the photo's shorter side when the model looks at it.
        long_side: pixels that the longer side may have then; it wins over ``short_side``.
        crop: side of the sliding windows in pixels; 0 looks at the whole photo at once.
        stride: step of the windows in pixels.
        templates: sentences with ``{}`` for the name, averaged; None: OpenAI's 80 for ImageNet.
        probability_threshold: where the best class has less, the background wins.
        area_threshold: classes with no more than this share of all that is not background are dropped.
        gaussian_std: of NACLIP's neighbourhood, in patches.
        pamr_steps: of the refinement by `nbhelpers.models.pamr`; 0 leaves it out, NACLIP takes 10.
        pamr_dilations: its neighbours' distances in pixels.
        at_image_size: answer at the photo's own size, as benchmarks count it, and not at the size looked at.
    """

    attention: str = "sclip"
    scale: float = 40.0
    short_side: int = 336
    long_side: int = 2048
    crop: int = 224
    stride: int = 112
    templates: tuple[str, ...] | None = None
    probability_threshold: float = 0.0
    area_threshold: float = 0.0
    gaussian_std: float = 5.0
    pamr_steps: int = 0
    pamr_dilations: tuple[int, ...] = DILATIONS
    at_image_size: bool = False

    def __post_init__(self):
        rules = (
            ("attention", self.attention in ATTENTIONS, f"one of {', '.join(ATTENTIONS)}"),
            ("scale", 0 < self.scale < float("inf"), "more than 0"),
            ("short_side", self.short_side >= 16, "at least 16 pixels"),
            ("long_side", self.long_side >= self.short_side, "at least short_side"),
            ("crop", self.crop == 0 or self.crop >= 16, "at least 16 pixels, or 0 for no windows"),
            ("stride", self.stride >= 1 and (not self.crop or self.stride <= self.crop), "1 to crop pixels"),
            ("templates", self.templates is None or _are_templates(self.templates), 'sentences like "a photo of {}."'),
            ("probability_threshold", 0 <= self.probability_threshold < 1, "0 to 1"),
            ("area_threshold", 0 <= self.area_threshold < 1, "0 to 1"),
            ("gaussian_std", self.gaussian_std > 0, "more than 0"),
            ("pamr_steps", self.pamr_steps >= 0, "0 or more"),
            ("pamr_dilations", bool(self.pamr_dilations) and min(self.pamr_dilations) >= 1, "pixels, each 1 or more"),
        )
        for name, holds, expected in rules:
            if not holds:
                raise NbHelpersError(f"{name} cannot be this", given=getattr(self, name), expected=expected)

    @property
    def needs_background(self) -> bool:
        """Whether the first class is taken for the background."""
        return self.probability_threshold > 0 or self.area_threshold > 0


PROTOCOLS: Mapping[str, DenseSettings] = MappingProxyType(
    {
        name: DenseSettings(at_image_size=True, **given)
        for name, given in {
            "voc21": {"scale": 65, "probability_threshold": 0.1, "area_threshold": 0.1},
            "voc20": {},
            "context60": {"scale": 50, "probability_threshold": 0.1},
            "context59": {},
            "coco-object": {"scale": 50, "probability_threshold": 0.1},
            "coco-stuff": {"short_side": 448},
            "ade20k": {},
            "cityscapes": {"short_side": 560},
        }.items()
    }
)
"""SCLIP's settings for each benchmark, from its reference implementation's configurations."""


def as_classes(names: Sequence[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The names of each class, with spaces put in order; a name that a class has twice counts once.

    Example:
        >>> as_classes(["cat", ["grass", " lawn"]])
        (('cat',), ('grass', 'lawn'))

    A name may stand in two classes (COCO-Object has "bed" as an object and in the background): they then share its
    probability. Letter case does not matter to CLIP.

    Raises:
        NbHelpersError: nothing asked, an empty name, something else than text, the same class twice.
    """
    if isinstance(names, str) or not len(names):
        raise NbHelpersError("nothing to look for", given=repr(names), expected='names, e.g. ["cat", "grass"]')
    classes: dict[tuple[str, ...], tuple[str, ...]] = {}
    for entry in names:
        given = [entry] if isinstance(entry, str) else list(entry)
        if not given or not all(isinstance(name, str) and name.strip() for name in given):
            raise NbHelpersError(
                "a class has no name", given=repr(entry), expected="text with at least one letter for each class"
            )
        clean: dict[str, str] = {}
        for name in (" ".join(name.split()) for name in given):
            clean.setdefault(name.lower(), name)
        key = tuple(sorted(clean))
        if key in classes:
            raise NbHelpersError("a class is asked twice", given=repr(entry), do="give each class once")
        classes[key] = tuple(clean.values())
    return tuple(classes.values())


def class_probabilities(
    logits: Float[Tensor, "names h w"], counts: Sequence[int], settings: DenseSettings
) -> Float[Tensor, "classes h w"]:
    """Softmax over all names, the best name of each class, the thresholds; sums to 1 over the classes.

    Args:
        logits: cosines of each place with each name, the names of a class one after the other.
        counts: how many names each class has.
        settings: ``scale`` and the two thresholds count here.

    Source: ``postprocess_result`` of SCLIP's reference implementation. There the maxima are not brought to a sum of
    1; that comes last here, so the class that wins is the same everywhere.
    """
    import torch

    out = logits.new_empty((len(counts), *logits.shape[1:]))
    for top in range(0, logits.shape[1], BAND):
        rows = slice(top, top + BAND)
        probabilities = (logits[:, rows] * settings.scale).softmax(0)
        for index, names in enumerate(probabilities.split(list(counts))):
            torch.amax(names, 0, out=out[index, rows])
    if settings.area_threshold:
        areas = out.argmax(0).flatten().bincount(minlength=len(counts))[1:]
        out[1:][areas <= settings.area_threshold * areas.sum()] = 0
    if settings.needs_background:
        best = out.amax(0)
        background = (best < settings.probability_threshold) | (best == 0)
        out[:, background] = 0
        out[0, background] = 1
    return out.div_(out.sum(0))


def _are_templates(templates: tuple[str, ...]) -> bool:
    return isinstance(templates, tuple) and bool(templates) and all(template.count("{}") == 1 for template in templates)
