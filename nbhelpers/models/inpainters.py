"""Inpainters: MI-GAN, which fills from the surroundings on any CPU, and Stable Diffusion, which follows a text prompt.

Sargsyan et al., ICCV 2023, "MI-GAN: A Simple Baseline for Image Inpainting on Mobile Devices", by ONNX Runtime. Rombach
et al. 2022, arXiv 2112.10752 (latent diffusion); Podell et al. 2023, arXiv 2307.01952 (SDXL), by ``diffusers``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.device import choose_device, is_out_of_memory, release_memory
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit_square, unfit_square
from nbhelpers.core.lazy import needs
from nbhelpers.models.adapters import onnx_session

SIDE = 512
HOLE, KEEP = 0, 255
WITH_TEXT = "stable-diffusion-inpainting"
INDEX = "model_index.json"
PIPELINES = ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline")
HALF = "fp16"
REMOVAL_PROMPT = "empty background, continuation of the surroundings, photo, sharp, natural light"
REMOVAL_NEGATIVE = "object, person, animal, text, watermark, frame, blurry, distorted"
STEPS, GUIDANCE = 40, 7.5
XL_STRENGTH = 0.9999  # SDXL was not trained on pure noise; diffusers' own default


class MiganInpainter:
    """Inpainting from the surroundings; a `nbhelpers.models.protocols.Inpainter` without text input.

    Example:
        >>> inpainter = nbhelpers.load("inpainter", "migan")
        >>> inpainter.fill(image, mask).shape
        (480, 640, 3)

    Args:
        session: of the graph with inputs ``image (1, 3, h, w) uint8`` and ``mask (1, 1, h, w) uint8`` (0 is the hole).
        name: catalog name.
        device: ``"cpu"``, or ``"cuda"`` where ONNX Runtime can use it.
    """

    side = SIDE

    def __init__(self, session: Any, name: str = "migan", device: str = "cpu"):
        self.session, self.name, self.device = session, name, device

    def fill(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: Bool[np.ndarray, "h w"],
        prompt: str | None = None,
        seed: int = 0,
        strength: float = 1.0,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The photo with the masked area inpainted from its surroundings.

        The network works at 512 x 512: pass a crop, as `nbhelpers.editing.remove` does, or detail is lost.

        Args:
            image: RGB.
            mask: the area to inpaint.
            prompt: must be None, since the network has no text input.
            seed: no effect: the network is deterministic.
            strength: no effect: the masked area is never kept.

        Raises:
            NbHelpersError: a prompt was given, or the mask covers the whole image.
        """
        if prompt is not None:
            raise NbHelpersError(
                f"{self.name} inpaints from the surroundings and has no text input",
                given=f"the prompt {prompt!r}",
                expected=f"an inpainter with text input, such as {WITH_TEXT}",
                do=f'nbhelpers fetch {WITH_TEXT}, then load("inpainter", "{WITH_TEXT}"); or remove without a prompt',
            )
        if mask.all():
            raise NbHelpersError("the mask covers the whole image: there are no surroundings to inpaint from")
        if not mask.any():
            return image.copy()
        square, hole, inside = fit_square(image, mask, SIDE)
        feeds = {
            "image": np.ascontiguousarray(square.transpose(2, 0, 1)[None]),
            "mask": np.where(hole, HOLE, KEEP).astype(np.uint8)[None, None],
        }
        (result,) = self.session.run(None, feeds)
        return unfit_square(np.ascontiguousarray(result[0].transpose(1, 2, 0)), inside, image.shape[:2])


def build_migan(name: str, files: dict[str, Path], device: str) -> MiganInpainter:
    """Build the inpainter from ``{"checkpoint": path}``.

    Raises:
        NbHelpersError: a file that ONNX Runtime cannot read.
    """
    try:
        session, device = onnx_session(files["checkpoint"], device)
    except Exception as error:  # onnxruntime's exceptions have no public base
        raise NbHelpersError(
            "the model file cannot be loaded",
            given=f"{files['checkpoint'].name}: {str(error).splitlines()[0]}",
            do=f"nbhelpers fetch {name}",
        ) from error
    return MiganInpainter(session, name, device)


class DiffusionInpainter:
    """Inpainting by text prompt; a `nbhelpers.models.protocols.Inpainter`.

    Example:
        >>> inpainter = nbhelpers.load("inpainter", "stable-diffusion-inpainting", device="cuda")
        >>> inpainter.fill(image, sky, "realistic sunset with a reddish sky", seed=3).shape
        (480, 640, 3)

    The licence of the weights restricts permitted prompts. The publisher's safety checker runs if its files are in the
    folder.

    Args:
        pipeline: one of `PIPELINES`, on its device.
        name: catalog name.
        device: where it computes.

    Attributes:
        side: working size in pixels, from the network's configuration: 512, or 1024 for SDXL.
    """

    def __init__(self, pipeline: Any, name: str = "stable-diffusion-inpainting", device: str = "cpu"):
        self.pipeline, self.name, self.device = pipeline, name, device
        self.side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor

    def fill(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        mask: Bool[np.ndarray, "h w"],
        prompt: str | None = None,
        seed: int = 0,
        strength: float = 1.0,
        *,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        negative: str | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The photo with the masked area inpainted.

        The network works at ``side`` x ``side``: pass a crop, as `nbhelpers.editing` does, or detail is lost. Colours
        outside the mask are slightly changed by the autoencoder; paste only the masked area.

        Args:
            image: RGB.
            mask: the area to inpaint.
            prompt: description of its content; None removes the object, with `REMOVAL_PROMPT`.
            seed: of the noise, which is drawn on the CPU: on one device the same seed gives the same image.
            strength: above 0, at most 1: amount of noise added to the original.
            steps: of denoising at strength 1; fewer at lower strength.
            guidance: weight of the prompt; 1 or less disables guidance.
            negative: negative prompt; for a removal `REMOVAL_NEGATIVE` by default.

        Raises:
            NbHelpersError: strength or steps out of range; out of memory; a result rejected by the safety checker.
        """
        import torch

        if not 0 < strength <= 1:
            raise NbHelpersError("the strength is out of range", given=strength, expected="above 0, at most 1")
        if steps < 1:
            raise NbHelpersError("the number of steps is out of range", given=f"steps={steps}", expected="1 or more")
        if not mask.any():
            return image.copy()
        if prompt is None:
            prompt, negative = REMOVAL_PROMPT, REMOVAL_NEGATIVE if negative is None else negative
        square, hole, inside = fit_square(image, mask, self.side)
        is_xl = type(self.pipeline).__name__ == PIPELINES[1]
        try:
            output = self.pipeline(
                prompt=prompt,
                negative_prompt=negative,
                image=_picture(square),
                mask_image=_picture(hole.astype(np.uint8) * 255),
                height=self.side,
                width=self.side,
                strength=min(strength, XL_STRENGTH) if is_xl else strength,
                num_inference_steps=max(steps, math.ceil(1 / strength) + 1),  # at least one runs
                guidance_scale=guidance,
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="np",
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            release_memory()
            raise NbHelpersError(
                f"the memory of {self.device} is too small for {self.name} at {self.side} x {self.side}",
                given=str(error).splitlines()[0],
                do='use a smaller model, or load it with device="cpu"',
            ) from error
        if any(getattr(output, "nsfw_content_detected", None) or ()):
            raise NbHelpersError(
                "the safety checker rejected the result", given=prompt, do="use another prompt or seed"
            )
        painted = np.rint(np.clip(output.images[0], 0, 1) * 255).astype(np.uint8)
        return unfit_square(painted, inside, image.shape[:2])


def build_diffusion(name: str, files: dict[str, Path], device: str) -> DiffusionInpainter:
    """Build from the files of a pipeline folder, by their relative paths: ``{"unet/config.json": path, ...}``.

    Raises:
        NbHelpersError: files that are not in one folder; see also `from_folder`.
    """
    root = files[INDEX].parent
    astray = [path for role, path in files.items() if path != root / role]
    if astray:
        raise NbHelpersError(
            "the files of the pipeline are not in one folder",
            given=f"{astray[0]}, outside {root}",
            expected="all in checkpoints/, or all in the hub's cache",
            do=f"remove {root}, then: nbhelpers fetch {name}",
        )
    return from_folder(root, device, name)


def from_folder(folder: str | Path, device: str | None = None, name: str | None = None) -> DiffusionInpainter:
    """Open a pipeline folder in diffusers' format, downloaded or trained by yourself.

    Only safetensors are read and no code of the folder runs; nothing is downloaded.

    Example:
        >>> inpainter = from_folder("my-inpainting-pipeline", device="cuda")

    Args:
        folder: contains ``model_index.json``. Half-precision files (``*.fp16.safetensors``) are used if there are
            no others.
        device: see `nbhelpers.core.device.choose_device`. float16 on CUDA, float32 elsewhere.
        name: of the inpainter; by default that of the folder.

    Raises:
        NbHelpersError: no such folder, another type of pipeline, damaged or missing files.
    """
    import torch

    folder, device = Path(folder).expanduser(), choose_device(device)
    kind = _kind(folder)
    needs("edit", "diffusers", "transformers", "accelerate")
    import diffusers

    plain = list((folder / "unet").glob("diffusion_pytorch_model*.safetensors"))
    is_half = bool(plain) and all(f".{HALF}." in path.name for path in plain)
    checker: dict[str, Any] = (
        {} if (folder / "safety_checker").is_dir() else {"safety_checker": None, "feature_extractor": None}
    )
    if kind == PIPELINES[0] and checker:
        checker["requires_safety_checker"] = False
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(
            str(folder),
            variant=HALF if is_half else None,
            dtype=torch.float16 if device.startswith("cuda") else torch.float32,
            use_safetensors=True,
            local_files_only=True,
            **(checker if kind == PIPELINES[0] else {}),
        )
    except Exception as error:  # diffusers, transformers, safetensors and torch each raise their own
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise NbHelpersError(
            "the pipeline's files cannot be loaded",
            given=f"{folder}: {reason[0]}",
            do=f"nbhelpers fetch {name}" if name else "download the folder again",
        ) from error
    return DiffusionInpainter(pipeline.to(device), name or folder.name, device)


def _kind(folder: Path) -> str:
    """The pipeline class of the folder, if it is supported."""
    expected = f"a folder with {INDEX} of {' or '.join(PIPELINES)}"
    try:
        kind = json.loads((folder / INDEX).read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NbHelpersError(
            "the folder does not contain a pipeline", given=f"{folder}: {error}", expected=expected
        ) from error
    if kind not in PIPELINES:
        raise NbHelpersError("the pipeline is not for inpainting", given=f"{folder}: {kind}", expected=expected)
    return kind


def _picture(array: np.ndarray):
    from PIL import Image

    return Image.fromarray(array)
