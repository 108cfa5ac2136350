"""``nbhelpers app``: the pages for people who do not write code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from nbhelpers.options import Models


def app(
    page: Annotated[str, typer.Argument(help="photo, clip, products or multiview; all by default")] = "",
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 for other computers")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen at")] = 8866,
    shared: Annotated[
        bool, typer.Option(help="others come too, e.g. through a proxy: no folders of this computer")
    ] = False,
    keep: Annotated[bool, typer.Option(help="keep the visitors' folders when their visits end")] = False,
    hours: Annotated[float, typer.Option(help="after which a visit without an open page ends")] = 12.0,
    workers: Annotated[int, typer.Option(help="pieces of long work at one time; as many as cores by default")] = 0,
    folder: Annotated[Path | None, typer.Option(help="for the visitors' files; outputs/app by default")] = None,
    root_path: Annotated[str, typer.Option(help="path before that of the pages, behind a proxy: /cutouts")] = "",
    browser: Annotated[bool, typer.Option(help="open the page in a browser")] = True,
    models: Models = None,
) -> None:
    """Serve pages that need no code: upload, click, download. They are open to this computer alone, unless shared."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # work side by side would wait for its own threads busily
    from nbhelpers.app.server import Serving, serve

    serving = Serving(host, port, shared, keep, hours, workers, models, folder, root_path.rstrip("/"))
    serve(serving, page, browser=browser)
