"""The values that the catalog is made of: one file, one model, one sample picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nbhelpers.core.files import checkpoints_dir, data_dir
from nbhelpers.weights.sources import Source

TASKS = (
    "segmenter", "tracker", "text_encoder", "detector", "patch_encoder", "scene_estimator", "geometry_encoder",
    "inpainter", "matcher",
)  # fmt: skip
SETS = ("lite", "official")


@dataclass(frozen=True)
class Asset:
    """One file: where it comes from, what it is called here, and how it is known to be the right one.

    Attributes:
        file: name below ``checkpoints/`` (or ``data/``), with ``/`` between folders.
        sources: where it can be had, the first choice first. All hold the same bytes.
        bytes: its size; approximate where ``exact`` is False.
        sha256: 64 hexadecimal digits; None: pinned at first fetch, see `nbhelpers.weights.cache`.
        role: what the adapter knows it by (``"checkpoint"``, ``"encoder"``, ...).
        exact: whether ``bytes`` is known to the byte.
        kind: ``"weights"`` lands in ``checkpoints/``, ``"sample"`` in ``data/``.
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
        """Where the file lies when it is not in the hub cache."""
        return self.folder / self.file


@dataclass(frozen=True)
class Model:
    """One pretrained network for one task.

    Attributes:
        name: unique; what `nbhelpers.load` and ``nbhelpers fetch`` take.
        task: one of `TASKS`.
        set: ``"lite"`` or ``"official"``.
        assets: its files. Models may share files; they exist once on disk. None for methods without weights.
        licence: of the weights.
        memory: approximate, in words, with where it was seen.
        speed: the same.
        adapter: ``"module:function"`` that builds it, or None while that does not exist yet.
        options: what the adapter needs besides the files, e.g. a configuration name.
        note: one or two sentences for the reader of the table.
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
        """The command that fetches it; for a method without weights, the one that installs its package."""
        return f"nbhelpers fetch {self.name}" if self.assets else self.options["install"]


@dataclass(frozen=True)
class Sample:
    """One picture, or what belongs to one, that arrives inside a package.

    Attributes:
        name: its file name below ``data/``; unique.
        asset: the file.
        licence: of the picture.
        credit: who made it.
        note: what it shows.
    """

    name: str
    asset: Asset
    licence: str
    credit: str
    note: str = ""
