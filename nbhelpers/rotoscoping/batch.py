"""Prompt logs replayed without a person: one clip, or many side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.promptlog import PromptLog
from nbhelpers.models.protocols import FrameSequence, Tracker
from nbhelpers.rotoscoping.clips import identify, open_clip
from nbhelpers.rotoscoping.exports import KINDS
from nbhelpers.rotoscoping.project import check_log
from nbhelpers.rotoscoping.session import RotoSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One clip to be worked through by `run_many`.

    Attributes:
        clip: a folder of pictures or a video.
        prompts: a prompt log, as ``prompts.json`` of a project.
        output: the folder for the project and the exports.
        options: of `nbhelpers.core.video.Frames`, e.g. ``{"step": 2}``.
    """

    clip: str | Path
    prompts: str | Path
    output: str | Path
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of one clip.

    Attributes:
        clip: as it was given.
        output: the folder.
        frames: how many the clip has.
        followed: how many got new masks in this run.
        doubtful: by object, the frames that should be looked at.
        reports: one line or more for each export.
        error: what went wrong; empty if nothing did.
    """

    clip: str
    output: str
    frames: int = 0
    followed: int = 0
    doubtful: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reports: tuple[str, ...] = ()
    error: str = ""


def run(
    clip: str | Path | np.ndarray | Sequence[Any] | FrameSequence,
    prompts: str | Path | PromptLog,
    output: str | Path,
    export: Sequence[str] = (),
    *,
    tracker: Tracker | None = None,
    on_frame: Callable[[int], object] | None = None,
    **options: Any,
) -> Outcome:
    """Replay a prompt log on its clip, follow what is left, and export. Started again, it goes on where it stopped.

    Example:
        >>> run("walk.mp4", "walk/prompts.json", "outputs/walk", ["postshot", "colmap"]).followed
        106

    Steps and propagations are taken in the order of the log, so masks are those of the session that wrote it; frames
    that were never followed come last. The project is ``output/project``: `RotoSession` opens it.

    Args:
        clip: whatever `nbhelpers.core.video.Frames` reads, or frames.
        prompts: a prompt log, or the path of one.
        output: the folder for the project and the exports.
        export: kinds, see `nbhelpers.rotoscoping.exports.export`.
        tracker: the one that the log names when left out.
        on_frame: called with the index of each frame that was followed.
        **options: of `nbhelpers.core.video.Frames`, as the log was made with.

    Raises:
        NbHelpersError: a log of another clip or model, a project with other prompts, an unknown kind of export; what
            `RotoSession` and `export` raise.
    """
    if unknown := [kind for kind in export if kind not in KINDS]:
        raise NbHelpersError("there is no such export", given=", ".join(unknown), expected=", ".join(KINDS))
    prompts = prompts if isinstance(prompts, PromptLog) else PromptLog.open(prompts)
    frames = open_clip(clip, **options)
    name = prompts.image.get("name")
    if tracker is None:
        from nbhelpers.models.load import load

        tracker = load("tracker", prompts.model)
    check_log(prompts, identify(frames, name), tracker.name)
    output = Path(output).expanduser()
    session = RotoSession(frames, tracker, project=output / "project", name=name)
    followed = 0
    for frame in replay(session, prompts):
        followed += 1
        if on_frame is not None:
            on_frame(frame)
    doubtful = {name: _doubtful(session, name) for name in session.objects}
    _warn_of_cuts(session, doubtful)
    reports = session.export(export, output) if export else []
    told = tuple(str(report) for report in reports)
    given = str(clip) if isinstance(clip, (str, Path)) else session.name
    return Outcome(given, str(output), len(frames), followed, doubtful, told)


def replay(session: RotoSession, prompts: PromptLog) -> Iterator[int]:
    """Take the steps of a log in a session, and follow the frames that are left; gives each followed frame.

    A session that took the first of them already goes on with the rest.

    Args:
        session: new, or one in which an earlier replay of this log was cut off.
        prompts: of the same clip and model.

    Raises:
        NbHelpersError: the session has prompts of its own, or the log has none.
    """
    check_log(prompts, identify(session.frames, session.name), session.tracker.name)
    if not any(not said.is_empty for entry in prompts.entries().values() for said in entry.frames.values()):
        raise NbHelpersError("the prompt log says nothing about any object", given=prompts.image.get("name"))
    yield from session.take(prompts.events[: prompts.cursor])
    yield from session.propagate_all()


def run_many(
    tasks: Sequence[Task],
    export: Sequence[str] = (),
    *,
    client: Any = None,
    on_done: Callable[[Outcome], object] | None = None,
) -> list[Outcome]:
    """Work through many clips; one that fails is told in its outcome, and the others go on.

    Example:
        >>> from distributed import Client, LocalCluster
        >>> with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        ...     outcomes = run_many([Task("a.mp4", "a.json", "out/a"), Task("b.mp4", "b.json", "out/b")], client=client)

    Args:
        tasks: the clips.
        export: kinds, for all of them.
        client: of Dask distributed (``pip install 'nbhelpers[scale]'``); each worker loads the tracker once. The paths
            must mean the same on all workers. Left out: one clip after the other in this process.
        on_done: called with each outcome as it comes.

    Returns:
        An outcome for each task, in their order.
    """
    if twice := {str(task.output) for task in tasks if sum(task.output == each.output for each in tasks) > 1}:
        raise NbHelpersError("two clips have the same folder for results", given=", ".join(sorted(twice)))
    if client is None:
        outcomes = []
        for task in tasks:
            outcomes.append(_run_one(task, tuple(export)))
            if on_done is not None:
                on_done(outcomes[-1])
        return outcomes
    from distributed import as_completed

    futures = [client.submit(_run_one, task, tuple(export), pure=False) for task in tasks]
    for future in as_completed(futures):
        if on_done is not None:
            on_done(future.result())
    return [future.result() for future in futures]


def _run_one(task: Task, export: tuple[str, ...]) -> Outcome:
    try:
        return run(task.clip, task.prompts, task.output, export, **task.options)
    except NbHelpersError as error:
        log.warning("%s: %s", task.clip, error)
        return Outcome(str(task.clip), str(task.output), error=str(error))


def _doubtful(session: RotoSession, name: str) -> list[int]:
    drifts = ((frame, session.drift(frame, name)) for frame in range(len(session.frames)))
    return [frame for frame, drift in drifts if drift is not None and drift.is_doubtful]


def _warn_of_cuts(session: RotoSession, doubtful: Mapping[str, Sequence[int]]) -> None:
    """Where masks are doubtful, tell of cuts in the clip: nothing can be followed across them."""
    if not any(doubtful.values()):
        return
    for cut in session.cuts():
        log.warning("%s: a new shot seems to begin at frame %d; split the clip there: start=%d", session.name, cut, cut)
