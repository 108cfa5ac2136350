"""Dense prediction of classes by name: settings, sliding windows, refinement (PAMR), class probabilities.

Protocol of SCLIP (Wang et al. 2023, arXiv 2312.01597) as in its reference implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from jaxtyping import Float, Int

from nbhelpers.core.errors import NbHelpersError

if TYPE_CHECKING:
    from torch import Tensor

ATTENTIONS = ("sclip", "naclip", "clip")
BAND = 64  # rows for which the probabilities of all names are computed at a time
Window = tuple[int, int, int, int]
DILATIONS = (8, 16)  # NACLIP's and SCLIP's setting
STEPS = 10
REGION_SHARPNESS = 4.0  # CorrCLIP's temperature of cosines
SHARPNESS = 0.1  # fraction of the local deviation at which the weight of a difference is 1/e


@dataclass(frozen=True)
class DenseSettings:
    """Settings of dense prediction with CLIP; the defaults are SCLIP's.

    The two thresholds need a background, which is the first class, e.g. ``[BACKGROUND_WORDS, "cat", "dog"]``
    with the 26 names of `nbhelpers.core.vocabulary`.

    Attributes:
        attention: of the last block. ``"sclip"``: softmax(q q^T) + softmax(k k^T); ``"naclip"``: softmax(k k^T +
            Gaussian neighbourhood), without that block's residual and MLP (arXiv 2404.08181); ``"clip"``: as trained.
        scale: cosines are multiplied by it before the softmax over names.
        short_side: shorter side of the model's input in pixels.
        long_side: maximum of its longer side in pixels; it takes precedence over ``short_side``.
        crop: side of the sliding windows in pixels; 0 for the whole photo at once.
        stride: step of the windows in pixels.
        templates: sentences with ``{}`` for the name, averaged; None: OpenAI's 80 for ImageNet.
        probability_threshold: minimum probability of the best class, below which the background wins.
        area_threshold: classes with no more than this fraction of the area outside the background are dropped.
        gaussian_std: of NACLIP's neighbourhood, in patches.
        pamr_steps: iterations of the refinement `pamr`; 0 for none, NACLIP uses 10.
        pamr_dilations: distances of its neighbours in pixels.
        at_image_size: return maps at the size of the photo, as benchmarks require, instead of the input size.
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
                raise NbHelpersError(f"{name} is out of range", given=getattr(self, name), expected=expected)

    @property
    def needs_background(self) -> bool:
        """Whether the first class is the background."""
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
"""SCLIP's settings for each benchmark, from the configurations of its reference implementation."""


def as_classes(names: Sequence[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The names of each class with normalised spaces, without duplicates.

    Example:
        >>> as_classes(["cat", ["grass", " lawn"]])
        (('cat',), ('grass', 'lawn'))

    A name may belong to two classes (COCO-Object has "bed" as an object and in the background), which then both use its
    probability. CLIP ignores case.

    Raises:
        NbHelpersError: no names, an empty name, a name that is not text, the same class twice.
    """
    if isinstance(names, str) or not len(names):
        raise NbHelpersError("the vocabulary is empty", given=repr(names), expected='names, e.g. ["cat", "grass"]')
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
            raise NbHelpersError("a class is listed twice", given=repr(entry), do="list each class once")
        classes[key] = tuple(clean.values())
    return tuple(classes.values())


def class_probabilities(
    logits: Float[Tensor, "names h w"], counts: Sequence[int], settings: DenseSettings
) -> Float[Tensor, "classes h w"]:
    """Softmax over all names, maximum over the names of each class, thresholds; normalised to a sum of 1.

    Args:
        logits: cosines of each cell with each name, grouped by class.
        counts: number of names of each class.
        settings: ``scale`` and the two thresholds are used.

    Source: ``postprocess_result`` of SCLIP's reference implementation, which does not normalise the maxima. Here that
    is the last step, so the most probable class is the same.
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


def region_attention(tokens: Float[Tensor, "t d"], regions: Int[Tensor, " t"]) -> Float[Tensor, "t t"]:
    """Attention weights from the similarity of features, within regions: CorrCLIP's value and scope.

    With cosines ``s`` of the tokens, patches ``i`` and ``j`` of one region attend to each other with
    ``softmax_j(4 s_ij)``. Patches of region 0, which is no region, attend to all patches, and all to them, where
    ``s_ij`` is above the mean of all cosines.

    Args:
        tokens: of a patch encoder, on the grid of the network; any length.
        regions: the region of each patch.

    Source: Zhang et al., arXiv 2411.10086, and ``VisionTransformer.forward`` of the reference implementation, main
    branch. There the features are queries and keys of DINO, and similar regions are merged first.
    """
    import torch

    units = torch.nn.functional.normalize(tokens, dim=-1)
    similarity = units @ units.T
    loose = regions == 0
    same = (regions[:, None] == regions) & ~loose
    allowed = same | ((loose[:, None] | loose) & (similarity > similarity.mean()))
    allowed |= torch.eye(len(regions), dtype=torch.bool, device=regions.device)  # a softmax over nothing is undefined
    return (similarity * REGION_SHARPNESS).masked_fill(~allowed, float("-inf")).softmax(-1)


def sliding_windows(size: tuple[int, int], crop: int, stride: int) -> list[Window]:
    """Windows ``(top, left, bottom, right)`` of equal size that cover an image, row by row.

    A window that would cross the border is shifted inside, not padded, so the last two of a row may overlap more than
    the others. An image smaller than the window is one window in that direction.

    Example:
        >>> sliding_windows((224, 300), crop=224, stride=112)
        [(0, 0, 224, 224), (0, 76, 224, 300)]

    Args:
        size: ``(H, W)`` in pixels.
        crop: side of a window; 0 for the whole image as one window.
        stride: distance of neighbouring windows, at most ``crop``.
    """
    rows, columns = (_starts(side, crop, stride) for side in size)
    height, width = (min(side, crop) if crop else side for side in size)
    return [(top, left, top + height, left + width) for top in rows for left in columns]


def _starts(side: int, crop: int, stride: int) -> list[int]:
    if not crop or side <= crop:
        return [0]
    return [min(start, side - crop) for start in range(0, side - crop + stride, stride)]


def stitch_windows(
    spans: Sequence[Window], maps: Iterable[Float[Tensor, "n h w"]], size: tuple[int, int]
) -> Float[Tensor, "n H W"]:
    """Average over windows: each map is enlarged to its window, summed, and divided by the coverage.

    Enlarging is bilinear with half-pixel centres (``align_corners=False``).

    Args:
        spans: the windows, from `sliding_windows`.
        maps: one for each window, in the same order, of any resolution; read one at a time.
        size: ``(H, W)`` of the image.
    """
    import torch

    total = coverage = torch.empty(0)
    for (top, left, bottom, right), values in zip(spans, maps, strict=True):
        if not total.numel():
            total, coverage = values.new_zeros((len(values), *size)), values.new_zeros(size)
        enlarged = torch.nn.functional.interpolate(values[None], (bottom - top, right - left), mode="bilinear")[0]
        total[:, top:bottom, left:right] += enlarged
        coverage[top:bottom, left:right] += 1
    return total.div_(coverage)


def pamr(
    image: Float[Tensor, "c h w"],
    maps: Float[Tensor, "n h w"],
    steps: int = STEPS,
    dilations: Sequence[int] = DILATIONS,
) -> Float[Tensor, "n h w"]:
    r"""Pixel-adaptive mask refinement: average each map repeatedly over similar neighbours.

    The neighbours ``N(p)`` of a pixel are the 8 around it at each dilation; beyond the border the border's pixels
    are replicated. With ``s_c(p)`` the standard deviation (with n - 1) of channel ``c`` over those neighbours and ``p``
    itself, counted once a dilation::

        k(p, q) = - mean_c |I_c(p) - I_c(q)| / (0.1 s_c(p) + 1e-8)
        a(p, q) = exp k(p, q) / sum_{r in N(p)} exp k(p, r)
        m(p)   <- sum_{q in N(p)} a(p, q) m(q)                          ``steps`` times

    Only differences relative to their surroundings matter, so the result does not depend on brightness and contrast.

    Example:
        >>> pamr(image, logits).shape                     # (3, 375, 500), (21, 375, 500)
        torch.Size([21, 375, 500])

    Args:
        image: the image, in any range.
        maps: logits or probabilities at its size.
        steps: number of iterations.
        dilations: distances of the neighbours in pixels.

    Source: Araslanov & Roth 2020, arXiv 2005.08104, and its reference code, with the parameters of
    NACLIP (arXiv 2404.08181).
    """
    import torch

    around = torch.stack(list(_neighbours(image, dilations)))
    with_self = torch.cat([around, image.expand(len(dilations), *image.shape)])
    deviation = SHARPNESS * with_self.std(0) + 1e-8
    affinity = -((around - image).abs() / deviation).mean(1)  # (neighbours, h, w)
    weights = affinity.softmax(0)
    for _ in range(steps):
        refined = torch.zeros_like(maps)
        for weight, neighbour in zip(weights, _neighbours(maps, dilations), strict=True):
            refined.addcmul_(neighbour, weight)
        maps = refined
    return maps


def _neighbours(maps: Float[Tensor, "n h w"], dilations: Sequence[int]) -> Iterator[Float[Tensor, "n h w"]]:
    """The map shifted by each neighbour's offset, views into one padded copy."""
    import torch

    height, width = maps.shape[-2:]
    margin = max(dilations)
    padded = torch.nn.functional.pad(maps[None], [margin] * 4, mode="replicate")[0]
    for dilation in dilations:
        for down in (-dilation, 0, dilation):
            for right in (-dilation, 0, dilation):
                if down or right:
                    top, left = margin + down, margin + right
                    yield padded[:, top : top + height, left : left + width]
