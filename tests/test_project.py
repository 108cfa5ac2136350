"""Project folders when something goes wrong: a second writer, a full or read-only disk, torn files, Ctrl-C."""

import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fake_tracker import Clip, FakeTracker
from test_rotoscoping import a_folder, a_session, contents, followed, states

import nbhelpers.models.load
from nbhelpers import cli
from nbhelpers.core import device
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import MatteSettings
from nbhelpers.core.video import Frames
from nbhelpers.rotoscoping import RotoSession, replay_clip

fcntl = pytest.importorskip("fcntl")
HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.truncate(0); file.write("process 7 on elsewhere"); file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_a_killed_one_blocks_nothing(tmp_path):
    session = followed(project=tmp_path / "disc")
    held = session._project._held._file.file
    with (tmp_path / "disc" / ".lock").open("a+") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    before = contents(tmp_path / "disc"), session.log.to_json()
    del session
    gc.collect()
    assert held.closed
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "disc" / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(NbHelpersError, match=r"another process[\s\S]*process 7 on elsewhere"):
            a_session(project=tmp_path / "disc")
        child.kill()
    again = a_session(project=tmp_path / "disc")
    assert (contents(tmp_path / "disc"), again.log.to_json()) == before


def test_a_folder_of_other_things_gets_no_lock_file(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(b"mine")
    with pytest.raises(NbHelpersError, match="other files"):
        a_session(project=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpg"]


def test_in_one_process_the_session_that_was_opened_last_writes(tmp_path):
    first = a_session(project=tmp_path / "disc")
    first.click(14, 20)
    running = first.propagate()
    assert next(running) == 1
    second = a_session(project=tmp_path / "disc")
    second.click(60, 47, frame=5)
    with pytest.raises(NbHelpersError, match="reopened, moved or deleted"):
        first.click(14, 21)
    with pytest.raises(NbHelpersError, match="reopened, moved or deleted"):
        next(running)
    del running
    gc.collect()
    assert len(first.log.events) < len(second.log.events)
    assert json.loads((tmp_path / "disc" / "prompts.json").read_text())["events"] == second.log.events
    assert a_session(project=tmp_path / "disc").prompted_frames() == [0, 5]


def test_a_folder_that_is_made_anew_is_locked_anew(tmp_path):
    session = followed(4, project=tmp_path / "disc")
    (tmp_path / "disc").rename(tmp_path / "moved")
    again = a_session(4, project=tmp_path / "disc")
    assert again._project._held._file is not session._project._held._file
    with pytest.raises(NbHelpersError):
        session.click(14, 21)  # it would write into the new folder
    with pytest.raises(NbHelpersError, match="moved or deleted"):
        session.add_object("box")
    assert again.prompted_frames() == []


class Full:
    """A disk with room for so many writes: files flushed, files and folders made, lines added."""

    def __init__(self, patch, writes):
        self.writes, self.done = writes, 0
        for owner, name in ((os, "fsync"), (tempfile, "mkstemp"), (Path, "mkdir")):
            patch.setattr(owner, name, self._limited(getattr(owner, name)))
        opened = Path.open
        limited = self._limited(opened)
        patch.setattr(
            Path, "open", lambda path, mode="r", *a, **how: (limited if "a" in mode else opened)(path, mode, *a, **how)
        )

    def _limited(self, function):
        def write(*args, **kwargs):
            self.done += 1
            if self.done > self.writes:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return write


def test_a_disk_that_is_full_at_any_write_is_one_clear_error_and_the_run_goes_on_later(tmp_path, monkeypatch):
    log, kinds = followed(3, project=tmp_path / "by hand").project / "prompts.json", ["mattes", "png"]
    with monkeypatch.context() as patch:
        disk = Full(patch, 10_000)
        replay_clip(Clip(3), log, tmp_path / "right", kinds, tracker=FakeTracker())
    right = contents(tmp_path / "right" / "project")
    for writes in np.linspace(0, disk.done - 1, 12).astype(int).tolist():
        output = tmp_path / f"out{writes}"
        with monkeypatch.context() as patch, pytest.raises(NbHelpersError, match="No space"):
            Full(patch, writes)
            replay_clip(Clip(3), log, output, kinds, tracker=FakeTracker())
        outcome = replay_clip(Clip(3), log, output, kinds, tracker=FakeTracker())
        assert contents(output / "project") == right, writes
        assert all("all good" in report for report in outcome.reports), writes
        assert not list(output.rglob(".*-????????.*")), "nothing half written stays"


def test_a_session_stays_as_it_was_when_the_disk_is_full(tmp_path, monkeypatch):
    session = a_session(project=tmp_path / "disc")
    session.click(14, 20)
    before = session.log.to_json()
    with monkeypatch.context() as patch:
        Full(patch, 0)
        with pytest.raises(NbHelpersError, match="No space"):
            list(session.propagate())
        assert session.log.to_json() == before
    assert list(session.propagate()) == list(range(1, 12))
    with monkeypatch.context() as patch:
        Full(patch, 0)
        patch.setattr(tempfile, "mkdtemp", tempfile.mkstemp)
        with pytest.raises(NbHelpersError, match="temporary folder"):
            a_session()


def test_a_read_only_project_can_be_looked_at_and_exported(tmp_path, monkeypatch):
    followed(6, project=tmp_path / "disc")
    gc.collect()
    opened = Path.open

    def read_only(path, mode="r", *args, **kwargs):
        if path.name == ".lock" and "a" in mode:
            raise PermissionError(13, "Permission denied")
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    session = a_session(6, project=tmp_path / "disc")
    assert states(session) == "pttttt"
    assert "all good" in str(session.export(tmp_path / "out", ["mattes"])[0])
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(NbHelpersError, match="Read-only"):
        session.click(14, 22)
    assert states(session) == "pttttt"


@pytest.mark.parametrize("length", [0, 1, 30, 100, 200, 400, 1000, -1])
def test_a_memory_that_is_torn_anywhere_is_as_none(tmp_path, length):
    session = followed(4, project=tmp_path / "disc")
    path = next((tmp_path / "disc" / "memory").glob("*.npz"))
    data = path.read_bytes()
    path.write_bytes(data[:length])
    assert session._project.memory(int(path.stem)) is None
    text = data.index(b"'descr'")
    path.write_bytes(data[:text] + b'"' * 3 + data[text + 3 :])
    assert session._project.memory(int(path.stem)) is None


def test_a_frame_that_becomes_unreadable_ends_the_propagation_and_what_was_followed_stays(tmp_path):
    folder = a_folder(tmp_path / "clip", Clip(8))
    usual = RotoSession(Frames(folder), FakeTracker(), project=tmp_path / "usual")
    usual.click(14, 20)
    list(usual.propagate())
    session = RotoSession(Frames(folder, cache_bytes=0), FakeTracker(), project=tmp_path / "disc")
    session.click(14, 20)
    kept = (folder / "IMG_6.png").read_bytes()
    state = (folder / "IMG_6.png").stat()
    done = []
    (folder / "IMG_6.png").write_bytes(b"torn")
    with pytest.raises(NbHelpersError, match=r"changed since the clip was opened[\s\S]*IMG_6"):
        for frame in session.propagate():
            done.append(frame)
    assert done == [1, 2, 3, 4]
    assert states(session) == "pttttppp".replace("ppp", "eee")
    (folder / "IMG_6.png").write_bytes(kept)
    os.utime(folder / "IMG_6.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    session = RotoSession(Frames(folder), FakeTracker(), project=tmp_path / "disc")
    assert list(session.propagate_all()) == [5, 6, 7]
    assert contents(tmp_path / "disc") == contents(tmp_path / "usual")


def test_a_session_opens_arrays_and_globs_by_good_names(tmp_path):
    clip = Clip(5)
    arrays = np.stack([clip[index] for index in range(5)])
    folder = a_folder(tmp_path / "walk", clip)
    masks = []
    for given, name in ((arrays, "clip"), (list(arrays), "clip"), (folder / "*.png", "walk"), (folder, "walk")):
        session = RotoSession(given, FakeTracker())
        session.click(14, 20)
        assert list(session.propagate()) == [1, 2, 3, 4]
        assert session.name == name
        masks.append(session.mask(4))
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


class Interrupted(FakeTracker):
    """Ctrl-C comes while a frame is followed."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def _track(self, state, frame, step):
        if frame == self.at:
            signal.raise_signal(signal.SIGINT)
        return super()._track(state, frame, step)


def test_ctrl_c_in_the_command_is_one_line_and_status_130_and_the_work_goes_on(tmp_path, monkeypatch, capsys):
    folder = a_folder(tmp_path / "clip", Clip(8))
    session = RotoSession(folder, FakeTracker(), project=tmp_path / "by hand")
    session.click(14, 20)
    list(session.propagate_all())
    arguments = ["rotoscoping", "run", str(folder), "--prompts", str(session.project / "prompts.json")]
    monkeypatch.setattr(sys, "argv", ["nbhelpers", *arguments, "--output", str(tmp_path / "out")])
    monkeypatch.setattr(nbhelpers.models.load, "load", lambda *_: Interrupted(5))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130
    told = capsys.readouterr().err
    assert "interrupted" in told.splitlines()[-1]
    assert "run the same command again" in told.splitlines()[-1]
    assert "Traceback" not in told
    gc.collect()
    assert len(contents(tmp_path / "out" / "project")) == 5
    monkeypatch.setattr(nbhelpers.models.load, "load", lambda *_: FakeTracker())
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert "3 tracked now" in capsys.readouterr().out
    assert contents(tmp_path / "out" / "project") == contents(session.project)


def digests(session):
    """A hash of all masks of each object."""
    frames, names = range(len(session.frames)), session.objects
    masks = [b"".join(session.mask(frame, name).tobytes() for frame in frames) for name in names]
    return [hashlib.sha256(each).hexdigest()[:16] for each in masks]


def test_a_project_of_an_earlier_version_opens_with_its_masks_and_memory(tmp_path):
    """`tests/data/roto_project` was written before the modules of the session were merged."""
    folder = tmp_path / "project"
    shutil.copytree(Path(__file__).parent / "data" / "roto_project", folder)
    session = RotoSession.open(folder, Clip(6), FakeTracker())
    assert session.name == "drawn" and session.objects == ("object 1", "box") and session.can_redo
    assert [session.state(frame, "object 1") for frame in (0, 3, 4, 5)] == [
        "prompted",
        "tracked",
        "prompted",
        "outdated",
    ]
    assert session.matte_settings("object 1") == MatteSettings(fill_holes=20, feather=2)
    assert digests(session) == ["fde2cf5c4a2c474a", "63510880ed102b37"]
    assert list(session.propagate_all()) == [5] == session.tracker.followed
    assert digests(session) == ["861c177d1327cf81", "63510880ed102b37"]


def test_open_and_save_are_those_of_every_session(tmp_path):
    session = followed(6, project=tmp_path / "disc")
    again = RotoSession.open(tmp_path / "disc", Clip(6), FakeTracker())
    assert digests(again) == digests(session) and again.name == session.name
    log = again.save(tmp_path / "copy.json")
    assert replay_clip(Clip(6), log, tmp_path / "out", tracker=FakeTracker()).tracked == 5
    with pytest.raises(NbHelpersError, match="no project in the folder"):
        RotoSession.open(tmp_path / "nothing", Clip(6), FakeTracker())


def test_a_project_goes_on_in_the_precision_in_which_it_began(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv(device.PRECISION, raising=False)
    monkeypatch.setattr(device, "has_bfloat16", lambda name: True)
    wanted = []

    def load(task, name=None, precision=None):
        wanted.append(precision)
        tracker = FakeTracker()
        tracker.precision = precision or "bfloat16"  # what "auto" is on this processor
        return tracker

    monkeypatch.setattr(nbhelpers.models.load, "load", load)
    about = tmp_path / "older" / "project.json"
    clip = a_session(project=about.parent).frames  # in float32
    written = json.loads(about.read_text())
    assert written.pop("precision") == "float32"
    about.write_text(json.dumps(written))  # as before precisions were recorded
    gc.collect()
    assert RotoSession(clip, project=about.parent).tracker.precision == "float32"
    assert wanted == [None, "float32"] and "continued in" not in caplog.text

    RotoSession(clip, project=tmp_path / "new")
    assert json.loads((tmp_path / "new" / "project.json").read_text())["precision"] == "bfloat16"
    gc.collect()
    a_session(project=tmp_path / "new")
    assert "tracked in bfloat16, continued in float32" in caplog.text
