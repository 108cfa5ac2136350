"""Fixtures for all tests. Nothing of nbhelpers is imported here: jaxtyping must hook in before."""

import asyncio
import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Before numpy and torch are imported: the workers, and the kernels of their notebooks, share the cores.
    for variable in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ.setdefault(variable, str(max(1, (os.cpu_count() or 1) // int(workers))))

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_WEIGHTS = "sam2-hiera-tiny-lite"
NO_WEIGHTS = "the weights cannot be had"
BROWSER = "tests/browser/"  # one JupyterLab and one Chromium serve the whole folder
SITE = "test_site.py"  # its site is also used by the browser tests and is built once
# Files that take longest, longest first. They start first, and the short ones fill the cores at the end.
LONGEST = (
    "04_multiview.ipynb",
    "01_clip_guided.ipynb",
    "03_rotoscoping.ipynb",
    "06_geometry_fusion.ipynb",
    "05_product_matching.ipynb",
    "07_benchmarks.ipynb",
    BROWSER,
    SITE,
    "00_start_here.ipynb",
    "02_editing.ipynb",
    "test_sam2_video.py",
    "test_product_matching.py",
    "test_clip_guided.py",
    "test_rotoscoping.py",
    "test_multiview.py",
    "test_frames_widget.py",
)
_missing: dict[str, str] = {}
_embeddings: dict[tuple, object] = {}


def pytest_sessionstart(session):
    """What this process and its children (kernels, servers, browsers) leave in the temporary folder is removed."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest keeps there what failed tests wrote
    tempfile.tempdir = os.environ["TMPDIR"] = folder = tempfile.mkdtemp(prefix="nbhelpers-tests-")

    def remove():
        # multiprocessing removes its own folder when the process ends, and must find it
        if any(Path(folder).glob("pymp-*")):
            Finalize(None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=-200)
        else:
            shutil.rmtree(folder, ignore_errors=True)

    session.config.add_cleanup(remove)


def _rank(nodeid: str) -> int:
    if "notebooks/" in nodeid and not any(name in nodeid for name in LONGEST):
        return -1  # a new notebook
    return next((rank for rank, name in enumerate(LONGEST) if name in nodeid), len(LONGEST))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Longest files first."""
    items.sort(key=lambda item: _rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadfile``: files in the order above, each on one worker, all browser and site tests on one."""
    from xdist.scheduler import LoadFileScheduling

    class Longest(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return BROWSER if BROWSER in nodeid or SITE in nodeid else super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # it would start the files with the fewest tests last: the notebooks
    return Longest(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_runtest_setup(item):
    """A test marked ``weights`` runs on the fetched weights, or is skipped with the command that fetches them."""
    for mark in item.iter_markers("weights"):
        for name in mark.args or (DEFAULT_WEIGHTS,):
            if reason := _reason_why_missing(name):
                pytest.skip(f"{NO_WEIGHTS}: {reason}; fetch them with: nbhelpers fetch {name}")


def pytest_terminal_summary(terminalreporter):
    reasons = {str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if report.longrepr}
    for reason in sorted(reason for reason in reasons if NO_WEIGHTS in reason):
        terminalreporter.write_line(f"NOT TESTED ON REAL WEIGHTS. {reason}", red=True, bold=True)


def _reason_why_missing(name):
    if name not in _missing:
        from nbhelpers import NbHelpersError, fetch

        try:
            fetch(name)
            _missing[name] = ""
        except NbHelpersError as error:
            _missing[name] = error.what
    return _missing[name]


@pytest.fixture(autouse=True)
def ordinary_priority():
    """No test may leave this process a real-time one: later ones, and what they start, would starve the machine."""
    yield
    if hasattr(os, "sched_getscheduler"):
        real_time = (os.SCHED_FIFO, os.SCHED_RR)
        assert os.sched_getscheduler(0) not in real_time, "this test made the process a real-time one"


@pytest.fixture(autouse=True)
def no_event_loop(request):
    """Hide the event loop that Playwright keeps running in a process that has run browser tests."""
    if "browser" in request.path.parts:
        yield
        return
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(running)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A temporary NBHELPERS_HOME, for tests that write checkpoints, data or outputs."""
    monkeypatch.setenv("NBHELPERS_HOME", str(tmp_path))
    monkeypatch.delenv("NBHELPERS_CHECKPOINTS", raising=False)
    return tmp_path


@pytest.fixture
def encode_once(monkeypatch):
    """SAM 2 encodes each photo once per process; for tests of prompts on real weights. An encoding takes seconds."""
    from nbhelpers.models.sam2 import Sam2Segmenter

    encode = Sam2Segmenter.encode

    def once(self, image):
        key = self.name, self.device, image.shape, image.tobytes()
        if key not in _embeddings:
            _embeddings[key] = encode(self, image)
        return _embeddings[key]

    monkeypatch.setattr(Sam2Segmenter, "encode", once)


@pytest.fixture(scope="session")
def photo():
    """A drawn picture ``(120, 160, 3) uint8``: a soft background, a red disc at (50, 60), a blue box at 100 to 139."""
    rows, columns = np.mgrid[:120, :160]
    picture = np.stack([90 + rows // 2, 140 + columns // 8, 110 + (rows + columns) // 8], axis=2).astype(np.uint8)
    picture[(columns - 50) ** 2 + (rows - 60) ** 2 <= 25**2] = (210, 40, 30)
    picture[30:90, 100:140] = (30, 60, 200)
    picture.setflags(write=False)
    return picture
