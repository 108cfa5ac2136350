"""What the commands share: options of the models, several values after one flag, numbers in a text."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperCommand

from nbhelpers.core.errors import NbHelpersError

Models = Annotated[str | None, typer.Option(help="auto, lite or official (default: NBHELPERS_MODELS, else auto)")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; default: the best available")]
DetectorName = Annotated[
    str | None, typer.Option("--detector", help="a detector of the catalog; default: YOLOX with a lite text encoder")
]


def several_values(*flags: str) -> type[TyperCommand]:
    """A command that takes several values after one flag, as a shell gives them for ``--images *.jpg``.

    Example:
        >>> @app.command(cls=several_values("--images"))
        ... def batch(images: Annotated[list[str], typer.Option()]): ...
    """

    class SeveralValues(TyperCommand):
        def parse_args(self, ctx, args: list[str]) -> list[str]:
            """Repeat the flag before each value, as typer wants it."""
            out, flag = [], None
            for arg in args:
                if arg.startswith("-"):
                    flag = arg if arg in flags else None
                elif flag is not None and out[-1] != flag:
                    out.append(flag)
                out.append(arg)
            return super().parse_args(ctx, out)

    return SeveralValues


def numbers(text: str, option: str, form: str, lengths: tuple[int, ...]) -> list[float]:
    """The numbers of ``"320,200"``.

    Args:
        text: what the user gave.
        option: its flag, for the error.
        form: what is expected, for the error.
        lengths: how many there may be.

    Raises:
        NbHelpersError: no numbers, or another number of them.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in lengths:
        raise NbHelpersError(f"{option} cannot be read", given=text, expected=form)
    return found
