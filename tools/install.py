"""Make `.venv` and install the pinned packages; do nothing when that has been done for these very pins.

`make install` calls this with the machine's own Python, before anything is installed: standard library only. Packages
are installed by uv (the one on PATH, else one that pip brings into `.venv`), and by pip where uv cannot.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
DONE = ROOT / ".stamps" / "installed"
BEGUN = ROOT / ".stamps" / "installing"
OLDEST = (3, 11)
NOT_OURS = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "UV_SYSTEM_PYTHON", "PYTHONHOME", "PYTHONPATH")

STEPS = (
    (
        "1/2 torch, nbhelpers, JupyterLab and the test tools: up to 2.5 GB to download and 7 GB on disk the first time",
        ["setuptools", "wheel", "torch", "torchvision", "-e", ".[all,lab,dev,site]"],
    ),
    ("2/2 SAM 2", ["--no-deps", "--no-build-isolation", "sam2"]),
)


def main() -> int:
    """Install what is missing; return the exit status."""
    if sys.version_info < OLDEST:
        found, wanted = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, OLDEST))
        print(f"This needs Python {wanted} or newer; {sys.executable} is {found}.")
        print("Name a newer one: make PYTHON=/path/to/python3.11 demo")
        return 1
    if subprocess.call([sys.executable, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL):
        print(f"{sys.executable} cannot make virtual environments; its venv module is missing.")
        print("On Debian and Ubuntu: apt-get install python3-venv")
        return 1
    if is_ready():
        return 0
    try:
        install()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"The installation did not finish ({error}).", file=sys.stderr)
        print("Run the same command again; finished downloads are kept.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command starts again; finished downloads are kept.", file=sys.stderr)
        return 130
    return 0


def key() -> str:
    """What the installation depends on: the pins, the package's metadata and the version of Python."""
    import tomllib  # an older Python comes as far as the message that it is too old

    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    metadata = [pyproject["build-system"], pyproject["project"]]  # not the settings of ruff and pytest
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return hashlib.sha256(repr((sys.version_info[:2], metadata, pins)).encode()).hexdigest()


def is_ready() -> bool:
    """Whether `.venv` stands and was finished for the present key."""
    return PYTHON.exists() and DONE.is_file() and DONE.read_text().strip() == key()


def install() -> None:
    """Run all steps; a run that was cut short before is started afresh, for it may have left half a package."""
    if BEGUN.exists() or not same_python():
        print("Removing the unfinished or older .venv", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
    DONE.parent.mkdir(exist_ok=True)
    DONE.unlink(missing_ok=True)
    BEGUN.touch()
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    environment.update(PIP_DISABLE_PIP_VERSION_CHECK="1", SAM2_BUILD_CUDA="0")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=ROOT, env=environment)

    def follow_steps(*installer: str) -> None:
        for title, what in STEPS:
            print(f"\nInstalling {title}", flush=True)
            run(*installer, "-c", "constraints.txt", *what)

    print(f"Making .venv with Python {sys.version.split()[0]}", flush=True)
    run(sys.executable, "-m", "venv", str(VENV))
    pip, uv = (str(PYTHON), "-m", "pip", "install"), shutil.which("uv")
    try:
        if uv is None:
            run(*pip, "--quiet", "-c", "constraints.txt", "uv")
            uv = str(PYTHON.with_name("uv" + PYTHON.suffix))
        follow_steps(uv, "pip", "install", "--python", str(PYTHON))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"\nuv could not install ({error}). Continuing with pip, which takes longer.", flush=True)
        follow_steps(*pip)
    DONE.write_text(key() + "\n")
    BEGUN.unlink()
    print("\nThe environment in .venv is ready.", flush=True)


def same_python() -> bool:
    """Whether `.venv`, where there is one, was made with this version of Python."""
    try:
        lines = (VENV / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return True
    versions = [line.split("=")[1].strip() for line in lines if line.startswith(("version =", "version_info ="))]
    return not versions or versions[0].split(".")[:2] == [str(part) for part in sys.version_info[:2]]


if __name__ == "__main__":
    sys.exit(main())
