"""Make an environment like Colab's and run all widgets in it, in a real browser (`make test-colab`).

    python tools/colab.py [--folder .colab]

First every notebook's set-up cell is resolved against the versions that Colab brings (`tests/data/colab.txt`): it
fails where one of them would have to change. Then the widgets' side of that image is installed: Python 3.13, ipywidgets
7.7.1, ipykernel 6.17 and JupyterLab 3.6, whose widget manager has the age of Colab's.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BROUGHT = ROOT / "tests" / "data" / "colab.txt"
PYTHON = "3.13"
# jupyter-ydoc, for editing together, has no wheel for this Python; JupyterLab 3.6 starts without it.
WITHOUT = ("jupyter-ydoc", "jupyter-server-ydoc")
LAB = ("jupyterlab==3.6.*", "jupyterlab-widgets==1.1.*", "setuptools<81")
WIDGETS = (
    "anywidget", "filelock", "huggingface-hub", "ipycanvas", "ipyevents", "jaxtyping", "matplotlib",
    "opencv-python-headless", "pycocotools", "rich", "tqdm", "typer",
)  # fmt: skip
TESTS = [f"tests/browser/test_{name}_browser.py" for name in ("click", "frames", "gallery", "views")]
EXTRAS = re.compile(r"nbhelpers\[([\w,]+)\]")


def main() -> int:
    """Resolve, install, test; return the first status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".colab", help="folder of the environment")
    folder = parser.parse_args().folder
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    return resolve(uv, folder) or install(uv, folder) or test(folder)


def resolve(uv: str, folder: Path) -> int:
    """Resolve the extras of each set-up cell with the versions that Colab brings."""
    folder.mkdir(exist_ok=True)
    for extras in sorted({extras_of(path) for path in (ROOT / "notebooks").glob("*.ipynb")}):
        names = [word for extra in extras.split(",") for word in ("--extra", extra)]
        command = [uv, "pip", "compile", "pyproject.toml", *names, "--constraint", str(BROUGHT), "--quiet"]
        command += ["--python-version", PYTHON, "--output-file", str(folder / f"resolved-{extras}.txt")]
        if status := subprocess.call(command, cwd=ROOT):
            print(f"nbhelpers[{extras}] does not fit what Colab brings ({BROUGHT.relative_to(ROOT)})", file=sys.stderr)
            return status
        print(f"nbhelpers[{extras}] changes nothing of what Colab brings", flush=True)
    return 0


def extras_of(path: Path) -> str:
    """The extras that a notebook's set-up cell installs."""
    return EXTRAS.search(path.read_text(encoding="utf-8"))[1]


def install(uv: str, folder: Path) -> int:
    """Make the environment: the widgets' side of Colab, and this checkout without what only networks need."""
    overrides = folder / "overrides.txt"
    overrides.write_text("".join(f'{name}; python_version < "3"\n' for name in WITHOUT))
    lines = BROUGHT.read_text(encoding="utf-8").splitlines()
    brought = [line for line in lines if line and not line.startswith("#")]
    chosen = [line for line in (folder / "resolved-widgets.txt").read_text().splitlines() if wanted(line)]
    environment, python = folder / "env", str(folder / "env" / "bin" / "python")
    if not environment.exists() and subprocess.call([uv, "venv", "--python", PYTHON, str(environment)]):
        print(f"There is no Python {PYTHON} here, and none could be downloaded; {sys.executable} takes its place.")
        if status := subprocess.call([uv, "venv", "--python", sys.executable, str(environment)]):
            return status
    command = [uv, "pip", "install", "--python", python, "--override", str(overrides), *brought, *LAB, *chosen]
    own = [uv, "pip", "install", "--python", python, "--no-deps", "-e", str(ROOT)]
    return subprocess.call(command) or subprocess.call(own)


def wanted(line: str) -> bool:
    """Whether a resolved package is one that widgets and their sessions import."""
    return line.split("==")[0] in WIDGETS


def test(folder: Path) -> int:
    """Run the browser tests on JupyterLab and kernels of the environment."""
    environment = {**os.environ, "NBHELPERS_LAB_PYTHON": str(folder / "env" / "bin" / "python")}
    return subprocess.call([sys.executable, "-m", "pytest", "-m", "not weights", *TESTS], cwd=ROOT, env=environment)


if __name__ == "__main__":
    sys.exit(main())
