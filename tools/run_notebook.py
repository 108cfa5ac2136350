"""Execute a notebook from top to bottom, telling where it is, and keep the executed copy and a page of it.

    python tools/run_notebook.py notebooks/00_start_here.ipynb

writes `outputs/00_start_here/00_start_here.ipynb` and `.html`. The notebook itself is not touched.
"""

import argparse
import html
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

from nbhelpers.core.files import outputs_dir, write_text

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    """Run the notebook named on the command line; 1 when a cell fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--timeout", type=int, default=900, help="seconds that one cell may take")
    arguments = parser.parse_args()
    return run(arguments.notebook, arguments.timeout)


def run(path: Path, timeout: int) -> int:
    """Execute the notebook at ``path``; return 0, or 1 after printing what failed."""
    if not path.is_file():
        print(f"There is no notebook {path}", file=sys.stderr)
        return 1
    notebook = nbformat.read(path, as_version=4)
    titles = headings(notebook)
    count = len(notebook.cells)
    started = time.perf_counter()
    running = {}

    def announce(cell, cell_index):
        running["index"] = cell_index
        print(f"[{cell_index + 1:2d}/{count}] {titles[cell_index]}", flush=True)

    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # or each start warns of local TCP without encryption
        resources={"metadata": {"path": str(path.resolve().parent)}},
        on_cell_execute=announce,
    )
    print(f"Running {path.name}: {count} cells", flush=True)
    failed = None
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failed = error
    folder = outputs_dir(path.stem)
    write_text(folder / path.name, nbformat.writes(notebook))
    page, _ = HTMLExporter().from_notebook_node(stilled(notebook))
    write_text(folder / f"{path.stem}.html", page)
    if failed is not None:
        index = running.get("index", 0)
        print(f"\nCell {index + 1} of {path.name} failed:\n", file=sys.stderr)
        print(notebook.cells[index].source, file=sys.stderr)
        print(f"\n{reason(notebook.cells[index], failed)}\n", file=sys.stderr)
        print(f"As far as it came: {folder / path.stem}.html", file=sys.stderr)
        return 1
    print(f"{path.name} ran in {time.perf_counter() - started:.0f} s", flush=True)
    return 0


def stilled(notebook):
    """A copy for a page without a kernel: pictures with their descriptions, which nbconvert drops, and no widgets."""
    copy = nbformat.from_dict(notebook)
    copy.metadata.pop("widgets", None)
    for output in (output for cell in copy.cells for output in cell.get("outputs", ())):
        kind = next((kind for kind in ("image/png", "image/jpeg") if kind in output.get("data", {})), None)
        if kind is not None:
            about = output.metadata.get(kind, {})
            size = "".join(f' {side}="{about[side]}"' for side in ("width", "height") if side in about)
            alt = html.escape(about.get("alt", "figure"))
            picture = output.data[kind].replace("\n", "")
            output.data = {"text/html": f'<img src="data:{kind};base64,{picture}" alt="{alt}"{size}>'}
    return copy


def headings(notebook) -> list[str]:
    """For each cell the heading that it stands under, with its first words when it is code."""
    titles, current = [], "start"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lines = [line.lstrip("# ").strip() for line in cell.source.splitlines() if line.startswith("#")]
            current = lines[0] if lines else current
        titles.append(current)
    return titles


def reason(cell, error: Exception) -> str:
    """The traceback that the kernel sent, or what nbclient says when there is none."""
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            text = "\n".join(output.traceback)
            return text if sys.stderr.isatty() else ANSI.sub("", text)
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
