"""Where is what a name says: any OpenCLIP vision transformer made to answer for each place, with no training.

CLIP compares a whole photo with a text. SCLIP (Wang et al. 2023, arXiv 2312.01597) lets the patches of the last block
attend to patches that are like themselves, and then compares each patch; NACLIP (Hajimiri et al. 2024, arXiv
2404.08181) to their neighbours. Network and tokenizer come from the package ``open_clip``, weights from a file.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from nbhelpers.core.compute import autocast, in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import free_memory, load_image
from nbhelpers.models.dense import DenseSettings, as_classes, class_probabilities
from nbhelpers.models.openclip_network import build_model, encode_text, load_weights, patch_features, sentences
from nbhelpers.models.pamr import pamr
from nbhelpers.models.room import with_room
from nbhelpers.models.sliding import stitch, windows
from nbhelpers.models.values import ClassMap

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's training photos
WINDOWS = {"cpu": 4, "mps": 16, "cuda": 64}  # at one time
SENTENCES = 80
LATIN_ENDS = "\u024f"
log = logging.getLogger(__name__)


class OpenClipTextEncoder:
    """Open-vocabulary dense prediction with CLIP; a `nbhelpers.models.protocols.TextEncoder`.

    Example:
        >>> encoder = nbhelpers.load("text_encoder", "openclip-vit-b-16")
        >>> encoder.dense(image, ["cat", ["grass", "lawn"]]).probabilities.shape      # (480, 640, 3) uint8
        (2, 336, 448)
        >>> encoder.dense(image, [BACKGROUND_WORDS, "cat", "dog"], PROTOCOLS["voc21"]).probabilities.shape
        (3, 480, 640)

    What was computed for a name is kept. When the device's memory is full it goes on with fewer windows or sentences
    at a time, then on the CPU, and warns.

    Args:
        model: ``open_clip.CLIP`` with plain towers.
        name: its catalog name.
        device: where it computes.
        settings: what `dense` does when it is not told otherwise.
        mean: of the photos it was trained on, RGB, 0 to 1.
        std: their standard deviation.
    """

    shows = 0.2
    """Cosine from which a photo shows what a name says: usual for CLIP, whose cosines lie between 0.1 and 0.35."""

    def __init__(
        self,
        model: torch.nn.Module,
        name: str,
        device: str,
        settings: DenseSettings | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        from open_clip import SimpleTokenizer

        self.model = model.to(device).eval()
        self.name, self.device = name, device
        self.settings = settings or DenseSettings()
        self.mean, self.std = tuple(mean), tuple(std)
        self.tokenizer = SimpleTokenizer(context_length=model.context_length)
        self._texts: dict[tuple[str, tuple[str, ...] | None], Tensor] = {}

    def dense(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        names: Sequence[str | Sequence[str]],
        settings: DenseSettings | None = None,
    ) -> ClassMap:
        """Probabilities over ``names`` at the size that the model looked at (short side 336), or the photo's.

        Args:
            image: a photo of any size; it is scaled first.
            names: what to look for; a class may have several names, of which the most probable counts. A single
                class gets 1 everywhere: give it something to compete with.
            settings: instead of the encoder's own.

        Raises:
            NbHelpersError: no names, the same class twice, a name that is too long, more memory than there is.
        """
        settings = settings or self.settings
        classes = as_classes(names)
        asked = [name for group in classes for name in group]
        image = load_image(image)
        size = working_size(image.shape[:2], settings, self.model.visual.patch_size)
        _check_memory(len(asked), image.shape[:2] if settings.at_image_size else size, settings)
        texts = self.text_embeddings(asked, settings.templates)

        def run():
            pixels = self._pixels(image, size)
            logits = self._logits(pixels, texts.to(self.device), settings)
            if settings.at_image_size:
                logits, pixels = (_resize(values, image.shape[:2]) for values in (logits, pixels))
            if settings.pamr_steps:
                logits = pamr(pixels, logits, settings.pamr_steps, settings.pamr_dilations)
            return class_probabilities(logits, [len(group) for group in classes], settings).cpu().numpy()

        probabilities = with_room(self, run)
        return ClassMap(probabilities, tuple(group[0] for group in classes), image.shape[:2], self.name)

    def similarity(self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]) -> Float32[np.ndarray, " n"]:
        """Cosine of the whole photo with each name, as CLIP compares them; above `shows` the photo shows it.

        The photo is squashed to the network's square, so that nothing at its rims is cut off.

        Args:
            image: a photo of any size.
            names: what to compare it with; over the settings' sentences.

        Raises:
            NbHelpersError: a name that is too long.
        """
        import torch

        texts = self.text_embeddings(names, self.settings.templates)
        pixels = self._pixels(load_image(image), tuple(self.model.visual.image_size))

        def run():
            with autocast(self.device), torch.inference_mode():
                photo = self.model.encode_image(pixels[None])
            return torch.nn.functional.normalize(photo.float()).cpu()

        return (with_room(self, run) @ texts.T)[0].numpy()

    def text_embeddings(self, names: Sequence[str], templates: tuple[str, ...] | None = None) -> Float[Tensor, "n d"]:
        """One unit vector for each name, on the CPU: the mean over its sentences' unit vectors, of length 1 again.

        Computed in float32 on any device and kept; in batches of names with a bar where there are many.

        Args:
            names: e.g. ``["cat", "person in shirt"]``.
            templates: sentences with ``{}`` for the name; None: the 80 of OpenAI for ImageNet.
        """
        import torch
        from tqdm.auto import tqdm

        keys = [(name.lower(), templates) for name in names]
        missing = {key: name for key, name in zip(keys, names, strict=True) if key not in self._texts}
        at_once = max(1, SENTENCES // len(sentences("", templates)))
        with tqdm(total=len(missing), desc="reading names", disable=len(missing) < 20, leave=False) as bar:
            for start in range(0, len(missing), at_once):
                some = dict(list(missing.items())[start : start + at_once])
                tokens = torch.stack([self._tokens(name, templates) for name in some.values()])
                self._texts |= zip(some, with_room(self, partial(self._read, tokens)), strict=True)
                bar.update(len(some))
        return torch.stack([self._texts[key] for key in keys])

    def _read(self, tokens: Int[Tensor, "n t context"]) -> Float[Tensor, "n d"]:
        """The vectors of ``n`` names with ``t`` sentences each."""
        import torch

        flat = tokens.flatten(0, 1)

        def encode(start, stop):
            return torch.nn.functional.normalize(encode_text(self.model, flat[start:stop].to(self.device)))

        units = torch.cat(list(in_batches(encode, len(flat), SENTENCES, "sentences")))
        return torch.nn.functional.normalize(units.unflatten(0, tokens.shape[:2]).mean(1)).cpu()

    def _tokens(self, name: str, templates: tuple[str, ...] | None) -> Int[Tensor, "t context"]:
        if any(letter.isalpha() and letter > LATIN_ENDS for letter in name):
            log.warning("%s has hardly read anything but English: %s may find nothing sensible", self.name, name)
        tokens = self.tokenizer(sentences(name, templates))
        if (tokens[:, -1] != 0).any():  # filled to the end, so cut off in all but one case
            raise NbHelpersError(
                "a name is too long", given=name, expected=f"a sentence of fewer than {tokens.shape[1]} tokens with it"
            )
        return tokens

    def _pixels(self, image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
        """The photo at ``size``, normalised.

        Bilinear as mmcv's ``Resize``, where it does not alias; a photo made less than half as large is averaged.
        """
        import torch

        shrinks = size[0] * 2 < image.shape[0]
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        pixels = torch.from_numpy(small).to(self.device).permute(2, 0, 1).float().div_(255)
        mean, std = (torch.tensor(values)[:, None, None].to(self.device) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)

    def _logits(
        self, pixels: Float[Tensor, "3 H W"], texts: Float[Tensor, "n d"], settings: DenseSettings
    ) -> Float[Tensor, "n H W"]:
        """Cosines of each pixel with each text: of patches, enlarged and averaged over the windows."""
        import torch

        spans = windows(pixels.shape[-2:], settings.crop, settings.stride)

        def look(start, stop):
            crops = [pixels[:, top:bottom, left:right] for top, left, bottom, right in spans[start:stop]]
            with autocast(self.device):
                features = patch_features(self.model.visual, torch.stack(crops), settings)
            units = torch.nn.functional.normalize(features.float(), dim=-1)
            return torch.einsum("bhwd,nd->bnhw", units, texts)

        batch = WINDOWS[self.device.partition(":")[0]]
        return stitch(spans, chain.from_iterable(in_batches(look, len(spans), batch, "windows")), pixels.shape[-2:])


def build(
    name: str,
    files: dict[str, Path],
    device: str,
    *,
    architecture: str,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    **settings: Any,
) -> OpenClipTextEncoder:
    """Build a text encoder from a checkpoint file; nothing is downloaded.

    Args:
        name: catalog name.
        files: ``{"checkpoint": path}``, a state dict as OpenCLIP saves it: ``.safetensors``, or ``.pt`` and ``.bin``
            (read with ``weights_only=True``).
        device: where it computes.
        architecture: a model of ``open_clip.list_models()``, e.g. ``ViT-B-16-quickgelu``.
        mean: of the photos it was trained on, RGB, 0 to 1.
        std: their standard deviation.
        settings: what differs from `DenseSettings`.

    Raises:
        NbHelpersError: ``open_clip`` is not installed, the architecture is unknown or not a plain vision transformer,
            or the checkpoint is damaged or of another model.
    """
    model = build_model(architecture)
    load_weights(model, files["checkpoint"])
    return OpenClipTextEncoder(model, name, device, replace(DenseSettings(), **settings), mean, std)


def working_size(size: tuple[int, int], settings: DenseSettings, patch: tuple[int, int]) -> tuple[int, int]:
    """``(H, W)`` at which a photo is looked at: as mmcv's ``Resize(keep_ratio=True)``, and at least one patch.

    Args:
        size: ``(H, W)`` of the photo.
        settings: ``short_side`` and ``long_side`` count here.
        patch: ``(height, width)`` in pixels.
    """
    scale = min(settings.long_side / max(size), settings.short_side / min(size))
    return tuple(max(int(side * scale + 0.5), least) for side, least in zip(size, patch, strict=True))


def _resize(maps: Float[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n H W"]:
    import torch

    return torch.nn.functional.interpolate(maps[None], size, mode="bilinear")[0]


def _check_memory(names: int, size: tuple[int, int], settings: DenseSettings) -> None:
    """Refuse what the machine cannot hold: logits, probabilities, and in PAMR a padded copy."""
    needed = (4 if settings.pamr_steps else 2) * names * size[0] * size[1] * 4
    free = free_memory()
    if free is not None and needed > free:
        raise NbHelpersError(
            "so many names at this size are more than this machine's free memory holds",
            given=f"{names} names at {size[1]} x {size[0]}, about {needed / 1e9:.1f} GB",
            expected=f"at most {free / 1e9:.1f} GB",
            do="ask for fewer names at a time, or leave at_image_size out",
        )
