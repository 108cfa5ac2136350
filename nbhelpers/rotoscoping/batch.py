"""Replay of prompt logs without interaction: one clip, or many in parallel."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.core.batch import map_items
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.prompts import Prompt, PromptLog, object_name
from nbhelpers.export.masks import check_formats
from nbhelpers.models.protocols import FrameSequence, Tracker
from nbhelpers.rotoscoping.export import FORMATS
from nbhelpers.rotoscoping.project import check_log, identify, open_clip
from nbhelpers.rotoscoping.session import RotoSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipJob:
    """One clip for `replay_clips`.

    Attributes:
        clip: a folder of images or a video.
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
    """The result of one clip.

    Attributes:
        clip: as given.
        output: the folder.
        frames: number of frames of the clip.
        tracked: number of frames tracked in this run.
        doubtful: the doubtful frames of each object.
        reports: one or more lines per export.
        error: the error message; empty if there was none.
    """

    clip: str
    output: str
    frames: int = 0
    tracked: int = 0
    doubtful: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reports: tuple[str, ...] = ()
    error: str = ""


def replay_clip(
    clip: str | Path | np.ndarray | Sequence[Any] | FrameSequence,
    prompts: str | Path | PromptLog,
    output: str | Path,
    formats: Sequence[str] = (),
    *,
    tracker: Tracker | None = None,
    quality: str = "full",
    on_frame: Callable[[int], object] | None = None,
    **options: Any,
) -> Outcome:
    """Replay a prompt log on its clip, track the remaining frames, and export. An interrupted call can be repeated.

    Example:
        >>> replay_clip("walk.mp4", "walk/prompts.json", "outputs/walk", ["postshot", "colmap"]).tracked
        106

    Steps and propagations are repeated in the order of the log, so the masks equal those of the session that wrote it;
    frames that were never tracked come last. The project is written to ``output/project``; `RotoSession` opens it.

    Args:
        clip: anything that `nbhelpers.core.video.Frames` reads, or frames.
        prompts: a prompt log, or the path of one.
        output: the folder for the project and the exports.
        formats: of exports, see `nbhelpers.rotoscoping.export.export_mattes`.
        tracker: by default the one that the log names.
        quality: of the remaining frames, see `RotoSession`; with ``"full"`` these include drafts.
        on_frame: called with the index of each tracked frame.
        **options: of `nbhelpers.core.video.Frames`, the same as for the log.

    Raises:
        NbHelpersError: a log of another clip or model, a project with other prompts, an unknown format; errors of
            `RotoSession` and `export`.
    """
    check_formats(formats, FORMATS)
    prompts = prompts if isinstance(prompts, PromptLog) else PromptLog.open(prompts)
    frames = open_clip(clip, **options)
    name = prompts.image.get("name")
    if tracker is None:
        from nbhelpers.models.load import load

        tracker = load("tracker", prompts.model)
    check_log(prompts, identify(frames, name), tracker.name)
    output = Path(output).expanduser()
    session = RotoSession(frames, tracker, project=output / "project", name=name, quality=quality)
    tracked = 0
    for frame in replay_log(session, prompts):
        tracked += 1
        if on_frame is not None:
            on_frame(frame)
    doubtful = {name: session.doubtful_frames(name) for name in session.objects}
    _warn_of_cuts(session, doubtful)
    reports = session.export(output, formats) if formats else []
    given = str(clip) if isinstance(clip, (str, Path)) else session.name
    return Outcome(given, str(output), len(frames), tracked, doubtful, tuple(map(str, reports)))


def log_of_points(
    frames: FrameSequence, model: str, points: Sequence[tuple[int | None, float, float, int]]
) -> PromptLog:
    """The prompt log of one object with some points.

    Args:
        frames: the clip.
        model: name of the tracker.
        points: frame (None: the first), x, y and label of each, as `nbhelpers.core.prompts.parse_point` gives them.

    Raises:
        NbHelpersError: a point outside the clip.
    """
    log = PromptLog(identify(frames, None), model)
    log.append("object.add", object=object_name(()), number=1)
    for frame, x, y, label in points:
        frame = frame or 0
        if not 0 <= frame < len(frames):
            raise NbHelpersError("there is no such frame", given=frame, expected=f"0 to {len(frames) - 1}")
        Prompt([(x, y)], [label]).check_inside(frames.size)
        log.append("point.add", object=object_name(()), frame=frame, x=x, y=y, label=label)
    return log


def replay_log(session: RotoSession, prompts: PromptLog) -> Iterator[int]:
    """Repeat the steps of a log in a session, and track the remaining frames; yields each tracked frame.

    A session that already has the first steps resumes with the rest.

    Args:
        session: new, or one in which a replay of this log was interrupted.
        prompts: of the same clip and model.

    Raises:
        NbHelpersError: the session has prompts of its own, or the log has none.
    """
    check_log(prompts, identify(session.frames, session.name), session.tracker.name)
    if all(each.is_empty for entry in prompts.entries().values() for each in entry.frames.values()):
        raise NbHelpersError("the prompt log has no prompts", given=prompts.image.get("name"))
    yield from session.replay(prompts.events[: prompts.cursor])
    yield from session.propagate_all()


def replay_clips(
    jobs: Sequence[ClipJob],
    formats: Sequence[str] = (),
    *,
    client: Any = None,
    on_done: Callable[[Outcome], object] | None = None,
) -> list[Outcome]:
    """Replay many clips. If one fails, its outcome holds the error and the others continue.

    Example:
        >>> from distributed import Client, LocalCluster
        >>> with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        ...     jobs = [ClipJob("a.mp4", "a.json", "out/a"), ClipJob("b.mp4", "b.json", "out/b")]
        ...     outcomes = replay_clips(jobs, client=client)

    Args:
        jobs: the clips.
        formats: of exports, for all of them.
        client: of Dask distributed (``pip install 'nbhelpers[scale]'``); each worker loads the tracker once. The paths
            must be valid on all workers. By default the clips are processed sequentially.
        on_done: called with each outcome.

    Returns:
        An outcome for each job, in order.
    """
    if twice := {str(job.output) for job in jobs if sum(job.output == each.output for each in jobs) > 1}:
        raise NbHelpersError("two clips have the same output folder", given=", ".join(sorted(twice)))
    by_folder = {str(job.output): job for job in jobs}
    outcomes = {}
    for result in map_items(partial(_replay_job, formats=tuple(formats)), by_folder.items(), client=client):
        failed = Outcome(str(by_folder[result.key].clip), result.key, error=result.error)
        outcomes[result.key] = result.value or failed
        if on_done is not None:
            on_done(outcomes[result.key])
    return [outcomes[folder] for folder in by_folder]


def _replay_job(job: ClipJob, formats: tuple[str, ...]) -> Outcome:
    """Replay one job."""
    return replay_clip(job.clip, job.prompts, job.output, formats, **job.options)


def _warn_of_cuts(session: RotoSession, doubtful: Mapping[str, Sequence[int]]) -> None:
    """Where masks are doubtful, warn of cuts in the clip: nothing can be tracked across them."""
    if not any(doubtful.values()):
        return
    for cut in session.cuts():
        log.warning("%s: possible cut at frame %d; split the clip there: start=%d", session.name, cut, cut)
