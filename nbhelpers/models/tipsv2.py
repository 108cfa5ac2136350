"""TIPSv2: patches and texts in one space, so that dense prediction from words needs no change of the network.

Maninis et al. 2025, TIPS: Text-Image Pretraining with Spatial awareness (arXiv 2410.16512), second version. The network
is that of ``transformers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from nbhelpers.core.device import in_batches
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import in_precision, load_network, load_tokenizer, processed, with_cpu_fallback
from nbhelpers.models.dense import DenseSettings, as_classes, class_probabilities, pamr
from nbhelpers.models.openclip import prompt_sentences
from nbhelpers.models.patches import encode_patches
from nbhelpers.models.values import ClassMap

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = {"tipsv2": "Tipsv2Model"}
SENTENCES = 80  # at one time
SETTINGS = DenseSettings(short_side=448, crop=0, scale=100.0)


class Tipsv2Encoder:
    """A `nbhelpers.models.protocols.TextEncoder` and a `nbhelpers.models.protocols.PatchEncoder`.

    Example:
        >>> encoder = nbhelpers.load("text_encoder", "tipsv2-b14")
        >>> encoder.dense(image, ["cat", ["grass", "lawn"]]).probabilities.shape      # (480, 640, 3) uint8
        (2, 32, 43)
        >>> encoder.tokens([image])[0].shape
        (34, 46, 768)

    Args:
        model: ``Tipsv2Model`` of ``transformers``.
        tokenizer: of the package ``tokenizers``, which pads and cuts sentences to the network's length.
        name: its catalog name.
        device: where it computes.
        settings: defaults of `dense`; windows and attention do not count.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, device: str, settings: DenseSettings = SETTINGS):
        from transformers import Tipsv2ImageProcessor

        self.model = model.to(device).eval().requires_grad_(False)
        self.tokenizer, self.processor = tokenizer, Tipsv2ImageProcessor()
        self.name, self.device, self.settings = name, device, settings
        vision = model.config.vision_config
        self.patch: int = vision.patch_size
        self.dimension: int = vision.hidden_size
        self._before = 1 + vision.num_register_tokens  # class token and registers
        self._texts: dict[tuple[str, tuple[str, ...] | None], Tensor] = {}

    def tokens(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Float32[np.ndarray, "_ _ d"]]:
        """The tokens of each picture after the last layer norm; see `PatchEncoder.tokens`.

        Raises:
            NbHelpersError: a picture of more than 20,000 patches.
        """
        return encode_patches(self, images, self._encode)

    def dense(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        names: Sequence[str | Sequence[str]],
        settings: DenseSettings | None = None,
    ) -> ClassMap:
        """Probabilities over ``names`` at each patch of the photo with a short side of 448 pixels, or at its own size.

        Args:
            image: a photo of any size; it is scaled first, whole.
            names: the vocabulary; a class may have several names, of which the most probable counts.
            settings: instead of the encoder's own.

        Raises:
            NbHelpersError: no names, the same class twice, a name that is too long.
        """
        settings = settings or self.settings
        classes = as_classes(names)
        image = load_image(image)
        texts = self.text_embeddings([name for group in classes for name in group], settings.templates)
        scale = min(settings.long_side / max(image.shape[:2]), settings.short_side / min(image.shape[:2]))
        rows, columns = (max(1, round(side * scale / self.patch)) for side in image.shape[:2])

        def run():
            import torch

            tokens = in_precision(self, lambda: self._encode([image], (rows, columns)))[0]
            units = torch.nn.functional.normalize(tokens.float(), dim=-1)
            logits = torch.einsum("hwd,nd->nhw", units, texts.to(self.device))
            if settings.at_image_size:
                logits = torch.nn.functional.interpolate(logits[None], image.shape[:2], mode="bilinear")[0]
            if settings.pamr_steps:
                height, width = logits.shape[-2:]
                pixels = processed(self.processor, [image], (height, width), self.device)[0]
                logits = pamr(pixels, logits, settings.pamr_steps, settings.pamr_dilations)
            return class_probabilities(logits, [len(group) for group in classes], settings).cpu().numpy()

        probabilities = with_cpu_fallback(self, run)
        return ClassMap(probabilities, tuple(group[0] for group in classes), image.shape[:2], self.name)

    def text_embeddings(self, names: Sequence[str], templates: tuple[str, ...] | None = None) -> Float[Tensor, "n d"]:
        """One unit vector for each name, on the CPU: the mean over its sentences' unit vectors, of length 1 again.

        Args:
            names: e.g. ``["cat", "person in shirt"]``.
            templates: sentences with ``{}`` for the name; None: the 80 of OpenAI for ImageNet.

        Raises:
            NbHelpersError: a name that is too long.
        """
        import torch

        keys = [(name.lower(), templates) for name in names]
        for key, name in zip(keys, names, strict=True):
            if key not in self._texts:
                sentences = prompt_sentences(name, templates)
                parts = with_cpu_fallback(
                    self, lambda s=sentences: list(in_batches(lambda a, b: self._read(s[a:b]), len(s), SENTENCES))
                )
                mean = torch.nn.functional.normalize(torch.cat(parts), dim=-1).mean(0)
                self._texts[key] = torch.nn.functional.normalize(mean, dim=0)
        return torch.stack([self._texts[key] for key in keys])

    def _read(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """The vectors of sentences, on the CPU."""
        import torch

        encoded = self.tokenizer.encode_batch(list(sentences))
        if too_long := [text for text, one in zip(sentences, encoded, strict=True) if one.overflowing]:
            raise NbHelpersError(
                "a name is too long",
                given=too_long[0],
                expected=f"a sentence of at most {len(encoded[0].ids)} tokens with it",
            )
        tokens, mask = (
            torch.tensor([getattr(one, part) for one in encoded], device=self.device)
            for part in ("ids", "attention_mask")
        )
        return self.model.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output.float().cpu()

    def _encode(self, images: list[np.ndarray], grid: tuple[int, int]) -> Float[Tensor, "b rows columns d"]:
        pixels = processed(self.processor, images, (grid[0] * self.patch, grid[1] * self.patch), self.device)
        hidden = self.model.get_image_features(pixel_values=pixels).last_hidden_state
        return hidden[:, self._before :].reshape(len(images), *grid, self.dimension)


def build(name: str, files: dict[str, Path], device: str, **settings: Any) -> Tipsv2Encoder:
    """Build an encoder from the roles ``checkpoint``, ``config`` and ``tokenizer``; nothing is downloaded.

    Args:
        name: catalog name.
        files: by role.
        device: where it computes.
        settings: what differs from the defaults of `Tipsv2Encoder`, see `DenseSettings`.

    Raises:
        NbHelpersError: the files are damaged, do not belong together, or are no TIPSv2.
    """
    needs("official", "transformers")
    needs("text", "open_clip")  # has the sentences
    model = load_network(name, files, NETWORKS)
    text = model.config.text_config
    tokenizer = load_tokenizer(name, files, text.max_position_embeddings, text.pad_token_id or 0, text.vocab_size)
    return Tipsv2Encoder(model, tokenizer, name, device, replace(SETTINGS, **settings))
