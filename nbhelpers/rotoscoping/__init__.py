"""Click an object in a clip, track it, correct any frame, export mattes.

>>> from nbhelpers.rotoscoping import RotoSession
>>> session = RotoSession("walk.mp4", project="outputs/rotoscoping/walk")
>>> session.click(320, 200)
>>> for frame in session.propagate():
...     print(frame, session.state(frame), session.drift(frame).why)
>>> session.export("outputs/walk", ["postshot", "colmap"])

`RotoSession` holds prompts and masks; `replay_clip` replays a prompt log without interaction, `replay_clips` those of
many clips. The names below are loaded lazily.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "ClipJob": "nbhelpers.rotoscoping.batch",
    "Drift": "nbhelpers.rotoscoping.schedule",
    "Outcome": "nbhelpers.rotoscoping.batch",
    "RotoSession": "nbhelpers.rotoscoping.session",
    "export_mattes": "nbhelpers.rotoscoping.export",
    "open_clip": "nbhelpers.rotoscoping.project",
    "replay_clip": "nbhelpers.rotoscoping.batch",
    "replay_clips": "nbhelpers.rotoscoping.batch",
}

__all__ = [
    "ClipJob",
    "Drift",
    "Outcome",
    "RotoSession",
    "export_mattes",
    "open_clip",
    "replay_clip",
    "replay_clips",
]

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
