"""A SAM 2 checkpoint file of one's own, instead of a name of the catalog."""

from __future__ import annotations

from pathlib import Path

from nbhelpers.core.compute import choose_device, multiply_by_onednn
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.models.protocols import Segmenter
from nbhelpers.weights import catalog


def load_checkpoint(path: str | Path, config: str | None = None, device: str | None = None) -> Segmenter:
    """SAM 2 from a ``.pt`` or ``.safetensors`` file.

    Example:
        >>> load_checkpoint("checkpoints/sam2_hiera_large.pt", "sam2_hiera_l.yaml")

    Args:
        path: the file; fine-tuned weights of the same network too.
        config: the network's yaml in the ``sam2`` package, with or without its folder. It can be left out where the
            file has the publisher's name.
        device: where it computes; the best there is when left out.

    Raises:
        NbHelpersError: no such file, an unknown configuration, weights of another network.
    """
    path = Path(path).expanduser()
    known = {asset.file: model for model in catalog.models("segmenter", "official") for asset in model.assets}
    model = known.get(path.name)
    configs = {Path(m.options["config"]).name: m.options["config"] for m in known.values() if "config" in m.options}
    if not path.is_file():
        raise NbHelpersError(
            "there is no such checkpoint",
            given=path,
            do=f"nbhelpers fetch {model.name if model else 'sam2.1-hiera-large'}",
        )
    if config is None and model is None:
        raise NbHelpersError(
            "the checkpoint's name does not tell its configuration",
            given=path.name,
            expected="--model-cfg with one of " + ", ".join(configs),
        )
    chosen = model.options["config"] if config is None else configs.get(Path(config).name)
    if chosen is None:
        raise NbHelpersError("there is no such configuration", given=config, expected=", ".join(configs))
    from nbhelpers.models.sam2 import build

    multiply_by_onednn()
    name = model.name if model and model.options["config"] == chosen else path.name
    return build(name, {"checkpoint": path}, choose_device(device), config=chosen)
