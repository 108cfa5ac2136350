"""Click once, follow, correct any frame: the session behind the frames widget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.matting import Mattes
from nbhelpers.models.protocols import FrameSequence, Tracker
from nbhelpers.rotoscoping import plan
from nbhelpers.rotoscoping.clips import identify, open_clip
from nbhelpers.rotoscoping.drift import Drift, judge
from nbhelpers.rotoscoping.follower import Follower
from nbhelpers.rotoscoping.following import Following
from nbhelpers.rotoscoping.project import Project, model_of

State = Literal["prompted", "tracked", "stale", "empty", "gone"]


class RotoSession(Following):
    """Objects of a clip: prompts on any frame, masks on every frame, all of it kept in a project folder.

    Example:
        >>> session = RotoSession("walk.mp4", project="outputs/rotoscoping/walk")
        >>> session.click(320, 200)                          # on frame 0
        >>> for frame in session.propagate():                # 1, 2, 3, ...; may be left at any frame
        ...     show(session.mask(frame))
        >>> session.go(session.next_doubtful())
        >>> session.click(300, 190, include=False)           # what was followed from here on is stale now ...
        >>> for frame in session.propagate_all():            # ... and is followed anew
        ...     pass
        >>> session.export(["colmap"], "outputs/walk")

    The masks of a prompted frame answer its prompts. Those of the others were followed from the nearest prompted frame
    behind them, and are stale when what was said there has changed. Each step and each followed frame is saved before
    the next: after a kill, the same call opens the project again and goes on with the frame that was in the making.

    Args:
        frames: a `FrameSequence` such as `nbhelpers.core.video.Frames`, or what that reads: a path, a glob, arrays.
        tracker: what follows; `nbhelpers.load` picks one when left out, for a project that is there already its own.
        project: the folder; made, or gone on with. Left out: a temporary one that is deleted with the session.
        name: how the clip is called in the log and in messages; the path's stem when left out.

    Attributes:
        frames: the clip.
        tracker: what follows.
        project: the folder, as a path.

    Raises:
        NbHelpersError: an unreadable clip; a project of another clip or model, or a folder with something else in it.
    """

    def __init__(
        self,
        frames: FrameSequence | str | Path | np.ndarray | Sequence[Any],
        tracker: Tracker | None = None,
        *,
        project: str | Path | None = None,
        name: str | None = None,
    ):
        frames = open_clip(frames)
        clip = identify(frames, name)
        if tracker is None:
            from nbhelpers.models.load import load

            tracker = load("tracker", model_of(project))
        self.tracker, self.name = tracker, clip["name"]
        store = Project(project, clip, tracker.name)
        self.project = store.folder
        super().__init__(frames, store, Follower(tracker, frames, store))

    def image(self, frame: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """A frame (the current one) as RGB."""
        return self.frames[self._at(frame)]

    def state(self, frame: int | None = None, name: str | None = None) -> State:
        """What an object's mask on a frame is.

        ``"prompted"``: it answers a prompt; ``"tracked"``: it was followed from one; ``"stale"``: what it was followed
        from has changed since; ``"gone"``: the tracker believes the object to be hidden or out of the picture;
        ``"empty"``: there is none.
        """
        frame, entry = self._at(frame), self._entry(name)
        said = {key: each.digest for key, each in entry.frames.items() if not each.is_empty}
        if frame in said:
            return "prompted"
        tracked = self._project.record(frame, entry.number).tracked
        if tracked is None or not said:
            return "empty"
        if not plan.is_fresh(tracked, said, frame):
            return "stale"
        return "gone" if tracked.gone else "tracked"

    def has_mask(self, frame: int | None = None, name: str | None = None) -> bool:
        """Whether an object has been prompted on a frame or followed to it; stale masks count."""
        return self.state(frame, name) != "empty"

    def mask(self, frame: int | None = None, name: str | None = None) -> Bool[np.ndarray, "h w"]:
        """The mask of an object (the active one) on a frame (the current one), read-only; empty where there is none."""
        state = self.state(frame, name)
        if state == "empty":
            return np.zeros(self.size, bool)
        kind = "prompted" if state == "prompted" else "tracked"
        return self._project.mask(self._at(frame), self._entry(name).number, kind)

    def masks(self, frame: int | None = None) -> dict[str, Bool[np.ndarray, "h w"]]:
        """The masks of all objects that have one on a frame, by name."""
        return {name: self.mask(frame, name) for name in self.objects if self.has_mask(frame, name)}

    def drift(self, frame: int | None = None, name: str | None = None) -> Drift | None:
        """How likely an object's mask on a frame has left the object; None where there is no mask."""
        state = self.state(frame, name)
        record = self._project.record(self._at(frame), self._entry(name).number)
        if state == "empty":
            return None
        if state == "prompted":
            return Drift(0.0, record.prompted.score, None, None, "it answers a prompt")
        tracked = record.tracked
        usual = self._project.usual(self._entry(name).number)
        return judge(tracked.score, tracked.overlap, tracked.jump, tracked.gone, usual)

    def next_doubtful(self, after: int | None = None, name: str | None = None) -> int | None:
        """The next frame behind ``after`` (the current one) that should be looked at, round the end; None if none."""
        after, count = self._at(after), len(self.frames)
        order = [*range(after + 1, count), *range(after + 1)]
        drifts = ((frame, self.drift(frame, name)) for frame in order)
        return next((frame for frame, drift in drifts if drift is not None and drift.is_doubtful), None)

    def cuts(self) -> list[int]:
        """Frames at which a new shot seems to begin: nothing can be followed across; open the shots one by one.

        Looks at the whole clip once. ``Frames(path, start=cut)`` opens what follows a cut.
        """
        from nbhelpers.core.video.cuts import cuts

        return cuts(self.frames[index] for index in range(len(self.frames)))

    def mattes(self, names: Iterable[str] | None = None, invert: bool = False) -> Mattes:
        """The mattes of the clip, made when asked for: of some objects or of all, together or each on its own.

        Args:
            names: of the objects; all when left out.
            invert: of the surroundings instead.
        """
        names = tuple(self.objects if names is None else names)
        settings = {name: self.matte_settings(name) for name in names}
        return Mattes(self.frames, self.masks, settings, names, invert)

    def matte(self, frame: int | None = None, name: str | None = None) -> UInt8[np.ndarray, "h w"]:
        """The soft matte of an object (the active one) on a frame (the current one), 0 to 255."""
        return self.mattes([self.active if name is None else name]).make(self._at(frame))

    def export(self, kinds: Sequence[str] | Mapping[str, str | Path], output: str | Path | None = None, **options: Any):
        """Write mattes as other tools read them, and verify them; see `nbhelpers.rotoscoping.exports.export`."""
        from nbhelpers.rotoscoping.exports import export

        return export(self, kinds, output, **options)
