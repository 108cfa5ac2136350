"""Entries of the catalog: files, models and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nbhelpers.core.files import checkpoints_dir, data_dir
from nbhelpers.weights.sources import Source

TASKS = (
    "segmenter", "tracker", "text_encoder", "concept_segmenter", "detector", "patch_encoder", "scene_estimator",
    "geometry_encoder", "inpainter", "matting", "matcher",
)  # fmt: skip
SETS = ("lite", "official")


@dataclass(frozen=True)
class Asset:
    """A file: its sources, its local name, and how it is verified.

    Attributes:
        file: name below ``checkpoints/`` (or ``data/``), with ``/`` between folders.
        sources: in order of preference; all provide the same bytes.
        bytes: its size; approximate if ``exact`` is False.
        sha256: 64 hexadecimal digits; None: pinned at the first download, see `nbhelpers.weights.cache`.
        role: its name in the adapter (``"checkpoint"``, ``"encoder"``, ...).
        exact: whether ``bytes`` is known to the byte.
        kind: ``"weights"`` for ``checkpoints/``, ``"sample"`` for ``data/``.
    """

    file: str
    sources: tuple[Source, ...]
    bytes: int
    sha256: str | None
    role: str = "checkpoint"
    exact: bool = True
    kind: Literal["weights", "sample"] = "weights"

    @property
    def folder(self) -> Path:
        """``checkpoints/`` or ``data/``."""
        return checkpoints_dir() if self.kind == "weights" else data_dir()

    @property
    def target(self) -> Path:
        """The path of the file outside the hub cache."""
        return self.folder / self.file


@dataclass(frozen=True)
class Model:
    """A pretrained network for a task.

    Attributes:
        name: unique, for `nbhelpers.load` and ``nbhelpers fetch``.
        task: one of `TASKS`.
        set: ``"lite"`` or ``"official"``.
        assets: its files. Models may share files; they exist once on disk. None for methods without weights.
        licence: of the weights.
        memory: approximate, as text.
        speed: approximate, as text, with the machine.
        adapter: ``"module:function"`` that builds it, or None if it is not supported yet.
        options: further arguments of the adapter, e.g. a configuration name.
        note: one or two sentences for the table of models.
    """

    name: str
    task: str
    set: str
    assets: tuple[Asset, ...]
    licence: str
    memory: str
    speed: str
    adapter: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(asset.bytes for asset in self.assets)

    @property
    def command(self) -> str:
        """The command that downloads it; for a method without weights, the one that installs its package."""
        return f"nbhelpers fetch {self.name}" if self.assets else self.options["install"]


@dataclass(frozen=True)
class Sample:
    """A sample image, clip or related file, from a package.

    Attributes:
        name: its file name below ``data/``; unique.
        asset: the file.
        licence: of the file.
        credit: its author.
        note: its content.
    """

    name: str
    asset: Asset
    licence: str
    credit: str
    note: str = ""
