"""Click an object in a clip, follow it, correct any frame, export mattes.

>>> from nbhelpers.rotoscoping import RotoSession
>>> session = RotoSession("walk.mp4", project="outputs/rotoscoping/walk")
>>> session.click(320, 200)
>>> for frame in session.propagate():
...     print(frame, session.state(frame), session.drift(frame).why)
>>> session.export(["postshot", "colmap"], "outputs/walk")

`RotoSession` holds prompts and masks; `run` replays a prompt log without a person, `run_many` those of many clips.
The names below are loaded when they are first used.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "Drift": "nbhelpers.rotoscoping.drift",
    "Outcome": "nbhelpers.rotoscoping.batch",
    "RotoSession": "nbhelpers.rotoscoping.session",
    "Task": "nbhelpers.rotoscoping.batch",
    "export": "nbhelpers.rotoscoping.exports",
    "open_clip": "nbhelpers.rotoscoping.clips",
    "run": "nbhelpers.rotoscoping.batch",
    "run_many": "nbhelpers.rotoscoping.batch",
}

__all__ = ["Drift", "Outcome", "RotoSession", "Task", "export", "open_clip", "run", "run_many"]

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
