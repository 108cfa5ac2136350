"""The four jobs of the pages: a photo, a clip, products, and a scene from several sides."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbhelpers.app.job import Job, Notice, StopWorkError, Workers
from nbhelpers.app.words import plain
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES
from nbhelpers.core.images import image_size, save_image
from nbhelpers.core.prompts import PromptLog
from nbhelpers.core.scenes import read_scene
from nbhelpers.core.video import Frames
from nbhelpers.models.whole import use_detector
from nbhelpers.multiview.pipeline import MultiviewSegmenter
from nbhelpers.multiview.referring import parse_phrase
from nbhelpers.multiview.results import MultiviewResult, save_result
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.multiview.views import VIDEO_SUFFIXES, Photos, photo_files
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.rotoscoping.session import RotoSession
from nbhelpers.segment import ClickSession

log = logging.getLogger(__name__)
NO_CAMERAS = "no cameras are known: views were compared by appearance only"
PHOTO_TYPES = ("image/*", *IMAGE_SUFFIXES)
CLIP_TYPES = ("video/*", *VIDEO_SUFFIXES)
MATTES = {  # name of an export: its text, and what it is
    "rgba": ("PNG cut-outs", "pictures with a transparent background, one a frame"),
    "mattes": ("PNG mattes", "grey pictures, one a frame: white is the object"),
    "prores": ("ProRes 4444", "one MOV file with transparency, for video editors"),
    "webm": ("WebM", "one WebM file with transparency, for web pages"),
    "overlay": ("Preview", "one MP4 file of the clip with the object tinted"),
}


def sample_file(name: str) -> Path:
    """A sample file."""
    from nbhelpers.weights.cache import sample as fetched

    return fetched(name, progress=False)


class PhotoTask(Job[ClickSession]):
    """Click objects in photos, download cut-outs.

    Attributes:
        session: of the photo that is shown.
        index: its number.
    """

    page, title = "photo", "Cut out an object"
    steps = (
        "Choose photos, or look at the example.",
        "Click the object. Click what is missing; right-click what does not belong to it.",
        "Download the cut-outs.",
    )
    accept, upload = PHOTO_TYPES, "Photos"
    example = ("quokka.jpg", (349.0, 346.0), "quokka")

    def __init__(self, folder: Path, workers: Workers, models: str | None = None):
        self.index = 0
        super().__init__(folder, workers, models)

    def open_files(self, files: Sequence[Path]) -> None:
        """Open photos; the first is shown, or the one that was shown last."""
        index = int(self.state.get("index", 0))
        self.session, self.index = self._session(files[index], index), index
        self._say_next(len(files))

    def start_example(self) -> None:
        """A photo of an animal, and a click on it."""
        name, point, what = self.example

        def first() -> None:
            self.opened.rename_object(self.opened.active, what)
            self.opened.click(*point)

        self.take([sample_file(name)], first)
        self.say(f"The {what} was cut out with one click. Click on to correct it, or download the cut-out.")

    def show(self, index: int) -> None:
        """Show another of the opened photos; called in the background."""

        def work() -> None:
            self._export()
            self.session, self.index = self._session(self.files[index], index), index
            self.state["index"] = index
            self.save_state()
            self._say_next(len(self.files))

        if index != self.index and 0 <= index < len(self.files):
            self.start("Opening the photo", work)

    def write_results(self, folder: Path) -> str:
        """Write masks and cut-outs of all photos with a click."""
        self._export()
        done = self.room / "done"
        if not done.is_dir():
            raise NbHelpersError("there is nothing to download yet", do="click an object in the photo first")
        shutil.copytree(done, folder)
        count = len(list(folder.rglob("*_cutout.png")))
        return f"{count} cut-out{'s' * (count != 1)} as PNG with a transparent background, with masks and a COCO file"

    def forget(self) -> None:
        """Drop the session."""
        self.session, self.index = None, 0

    def _session(self, path: Path, index: int) -> ClickSession:
        """The session of a photo, with the clicks of an earlier one."""
        prompts = self.room / f"{index}.prompts.json"
        segmenter = self.load("segmenter")
        self.report(0, 1, "Looking at the photo")
        log = PromptLog.open(prompts) if prompts.is_file() else None
        session = ClickSession(path, segmenter, log=log, detector=use_detector(True, self.load) or False)
        session.encode()

        def changed() -> None:
            session.save(prompts)
            self.outdate()

        session.on_change(changed)
        return session

    def _export(self) -> None:
        """Write the results of the photo that is shown, or remove those of before if there are none."""
        if self.session is not None:
            own = self.room / "done" / f"{self.index + 1:03}_{self.session.name}"
            shutil.rmtree(own, ignore_errors=True)
            if self.session.masks():
                self.session.export(own)

    def _say_next(self, count: int) -> None:
        many = f" Photo {self.index + 1} of {count}." if count > 1 else ""
        self.say(f"Click the object that you want to cut out.{many}")


class ClipTask(Job[RotoSession]):
    """Click an object in a clip, follow it, correct it, download mattes.

    Attributes:
        session: of the clip.
        formats: of the download: some of `MATTES`.
        frame: that was tracked last.
    """

    page, title = "clip", "Cut an object out of a clip"
    steps = (
        "Choose a clip, or look at the example.",
        "Click the object on one frame and press Follow; correct a frame with a click and follow again.",
        "Choose a format and download.",
    )
    accept, upload = (*CLIP_TYPES, *PHOTO_TYPES), "A clip"
    example = ("bikes.mp4", {"start": 118, "stop": 126}, (428.0, 95.0), "cyclist")

    def __init__(self, folder: Path, workers: Workers, models: str | None = None):
        self.formats = ["rgba"]
        self.frame: int | None = None
        super().__init__(folder, workers, models)

    def open_files(self, files: Sequence[Path]) -> None:
        """Open a clip, or pictures as its frames."""
        frames = Frames(files[0] if len(files) == 1 else files, **self.state.get("part", {}))
        tracker = self.load("tracker")
        self.report(0, 1, "Opening the clip")
        session = RotoSession(
            frames,
            tracker,
            project=self.room / "project",
            name=files[0].stem,
            detector=use_detector(True, self.load) or False,
        )
        session.on_change(self.outdate)
        self.session, self.frame = session, None
        seconds = f", {len(frames) / frames.fps:.1f} s" if frames.fps else ""
        problems = [str(problem) for problem in frames.problems]
        followed = sum(session.state(frame) not in ("empty", "outdated") for frame in range(len(frames)))
        text = f"{len(frames)} frames{seconds}. Click the object that you want to cut out."
        self.say(f"Your work is back: {followed} of {len(frames)} frames are done." if followed else text, problems)

    def go_on(self) -> None:
        """Follow on, if that was cut off."""
        if self.state.get("follow") and self.opened.prompted_frames():
            self._follow("all")

    def start_example(self) -> None:
        """A cyclist, clicked once and followed through seven more frames."""
        name, part, point, what = self.example

        def first() -> None:
            self.opened.rename_object(self.opened.active, what)
            self.report(0, 1, "Looking at the first frame")
            self.opened.click(*point, frame=0)

        self.take([sample_file(name)], first, part=part)
        self._follow("forward")

    def follow(self, direction: str = "all") -> None:
        """Follow the objects ``"forward"`` or ``"back"`` from the current frame, or through ``"all"`` of the clip."""
        self.start("Following the object", lambda: self._follow(direction))

    def stop(self) -> None:
        """End the work after the frame in progress."""
        super().stop()
        if self.session is not None and self.working:
            self.session.cancel()

    def write_results(self, folder: Path) -> str:
        """Write the chosen formats, and verify the files."""
        session = self.session
        if session is None or not session.prompted_frames():
            raise NbHelpersError("there is nothing to download yet", do="click an object, then press Follow")
        if not self.formats:
            raise NbHelpersError("no format is chosen", do="choose one format or more")
        self.restart_clock()
        session.export(
            folder,
            self.formats,
            progress=lambda done, count: self.report(done, count, "Writing the frames"),
        )
        return ", ".join(MATTES[name][0] for name in self.formats)

    def forget(self) -> None:
        """Drop the session, and end what it does."""
        if self.session is not None:
            self.session.cancel()
        self.session, self.frame = None, None

    def _follow(self, direction: str) -> None:
        """Follow, frame by frame."""
        session = self.opened
        if not session.prompted_frames():
            raise NbHelpersError("nothing was clicked yet", do="click the object on a frame first")
        self.state["follow"] = True
        self.save_state()
        here, last = session.frame, len(session.frames) - 1
        if direction == "forward":
            steps, count = session.propagate(here), last - here
        elif direction == "back":
            steps, count = session.propagate(here, 0, backwards=True), here
        else:
            steps, count = (
                session.propagate_all(),
                sum(session.state(frame) in ("empty", "outdated") for frame in range(last + 1)),
            )
        self.restart_clock()
        try:
            done = self._track(steps, count)
        finally:  # a process that is killed does not come here
            self.state["follow"] = False
            self.save_state()
        self._say_outcome(done)

    def _track(self, steps: Iterator[int], count: int) -> int:
        """Step through frames; return how many there were."""
        done = 0
        try:
            for self.frame in steps:
                done += 1
                self.report(done, max(count, 2), f"Following the object: frame {self.frame}")
        finally:
            if isinstance(steps, Generator):
                steps.close()
        if self._stopping:  # the session ended the steps
            raise StopWorkError
        return done

    def _say_outcome(self, done: int) -> None:
        session = self.opened
        doubtful = sorted({frame for name in session.objects for frame in session.doubtful_frames(name)})
        missing = sum(session.state(frame) == "gone" for frame in range(len(session.frames)))
        text = f"Followed through {done} frames." if done else "All frames are up to date."
        if missing:
            text += f" The object is out of sight in {missing}."
        if doubtful:
            text += f" Look at frame {doubtful[0]}, which may be wrong: click there to correct it, and follow again."
        else:
            text += " Play the clip, then download."
        drifts = ((frame, session.drift(frame)) for frame in doubtful)
        why = [f"Frame {frame}: {plain(drift.why)}" for frame, drift in drifts if drift is not None]
        self.say(text, why)


class ProductTask(Job[ProductSession]):
    """Click a product once, find it in all photos, confirm or reject, download a table and cut-outs.

    Attributes:
        session: of the photos.
    """

    page, title = "products", "Find a product in photos"
    steps = (
        "Choose photos, or look at the example.",
        "Press Add, click the product in a photo, press Use mask, then Search. Say Yes or No below what was found.",
        "Download the table and the cut-outs.",
    )
    accept, upload = PHOTO_TYPES, "Photos"
    example = ("box.mp4", 2, ("coffee.png",), (450.0, 85.0))

    def open_files(self, files: Sequence[Path]) -> None:
        """Open photos; what was found and marked before is restored."""
        if len(files) == 1:
            image_size(files[0])  # of several, a search reports those that it could not read
        saved = self.room / "session.json"
        how = {
            "segmenter": self.load("segmenter"),
            "encoder": self.load("patch_encoder"),
            "cache": self.room / "cache",
        }
        session = ProductSession(files, **how)
        if saved.is_file():
            session = ProductSession.open(saved, **how)

        def changed() -> None:
            if session.references:
                session.save(saved)
            self.outdate()

        session.on_change(changed)
        self.session = session
        if session.results:
            self._say_outcome()
        else:
            photos = f"{len(files)} photo{'s' * (len(files) > 1)}"
            self.say(f"{photos}. Press Add and click the product in one of them, then press Search.")

    def start_example(self) -> None:
        """A printed box among other things."""
        clip, count, others, point = self.example
        frames, folder = Frames(sample_file(clip)), self.folder / "example"
        files = [
            save_image(folder / f"box_{number}.png", frames[int(index)])
            for number, index in enumerate(np.linspace(0, len(frames) - 1, count).round())
        ]

        def first() -> None:
            self.report(0, 1, "Looking at the product")
            self.opened.click(*point, view=0)

        self.take([*files, *(sample_file(name) for name in others)], first)
        self._find()

    def find(self) -> None:
        """Search the photos that were not searched yet."""
        self.start("Finding the product", self._find)

    def write_results(self, folder: Path) -> str:
        """Write table, COCO file, masks and cut-outs."""
        if self.session is None or not self.session.results:
            raise NbHelpersError("there is nothing to download yet", do="add the product, then press Search")
        self.session.export(folder, full_paths=False)
        return "a table (CSV), a COCO file, a page to look at, and a cut-out of each product"

    def forget(self) -> None:
        """Drop the session."""
        self.session = None

    def _find(self) -> None:
        """Search, photo by photo."""
        session = self.opened
        if not session.references:
            raise NbHelpersError("the product was not clicked yet", do="press Add and click it in one of the photos")
        count, done = len(session.photos) - len(session.searched), 0

        def on_photo(index: int) -> None:
            nonlocal done
            done += 1
            self.report(done, max(count, 2), f"Looked at {session.photos[index].name}")

        self.report(0, 1, f"Looking for the product in {count} photos")
        self.restart_clock()
        try:
            session.search(on_photo=on_photo)
        except StopWorkError:
            session.update_matches()
            raise
        self._say_outcome()

    def _say_outcome(self) -> None:
        session = self.opened
        found = sum(result.status == "found" for result in session.results)
        text = f"Found in {found} of {len(session.results)} photos. Say Yes or No where you know better."
        if problems := list(session.problems):
            text += f" {len(problems)} could not be read."
        details = [f"{session.photos[index].name}: {session.problems[index]}" for index in problems]
        details += [session.calibration.why] if session.calibration is not None else []
        self.say(text, details)


class SceneTask(Job[ViewsSession]):
    """The same object in photos from several sides, from a phrase or a click.

    Attributes:
        session: of the photos.
        result: of the last search; None before.
        phrase: what to look for, in words; may be empty.
    """

    page, title = "multiview", "The same object from all sides"
    steps = (
        "Choose photos of one scene from several sides, or a video that goes around it, or look at the example.",
        "Type what you look for, or click it in a photo; then press Find.",
        "Look through the photos, correct with a click, and download.",
    )
    accept, upload = (*PHOTO_TYPES, *CLIP_TYPES), "Photos or a video"
    example = ("BalbianelloMedium-{}.jpg", 5, "Balbianello.out", "tower on the left")

    def __init__(self, folder: Path, workers: Workers, models: str | None = None, segmenter: Any = None):
        self.paths: list[Path] = []
        self.result: MultiviewResult | None = None
        self.phrase = ""
        self._scene: Any = None
        self._has_scene = False
        self.segmenter = segmenter or MultiviewSegmenter(models=models)
        super().__init__(folder, workers, models)

    def open_files(self, files: Sequence[Path]) -> None:
        """Open photos, or take them from a video; clicks of before are restored."""
        paths, prompts = photo_files(files[0] if len(files) == 1 else files, self.room / "frames"), self._prompts
        scene = read_scene(sample_file(self.state["cameras"]), paths) if "cameras" in self.state else None
        photos = Photos(paths, self.segmenter.model("segmenter"))
        session = ViewsSession(photos, scene, log=PromptLog.open(prompts) if prompts.is_file() else None)
        self.paths, self.result = paths, None
        self._scene, self._has_scene = scene, scene is not None
        self.phrase = self.state.get("phrase", "")
        self._show(session)
        many = f"{len(paths)} photo{'s' * (len(paths) > 1)}"
        more = " With one photo there are no other sides: more photos help." if len(paths) == 1 else ""
        self.say(f"{many}. Type what to look for, or click it in a photo; then press Find.{more}")

    def go_on(self) -> None:
        """Find again what was found, or looked for, when the work was cut off."""
        if self.phrase or self.opened.prompted:
            self._find(self.phrase)

    def start_example(self) -> None:
        """A villa from five sides, and a tower."""
        name, count, cameras, phrase = self.example
        self.take([sample_file(name.format(number)) for number in range(1, count + 1)], phrase=phrase, cameras=cameras)
        self._find(phrase)

    def find(self, phrase: str) -> None:
        """Find what a phrase means in all photos; without one, what was clicked."""
        self.start("Looking for it", lambda: self._find(phrase.strip()))

    def solve(self) -> None:
        """Find what was clicked in all photos."""
        self.find("")

    def write_results(self, folder: Path) -> str:
        """Write masks, cut-outs, point clouds and tables."""
        if self.result is None:
            raise NbHelpersError("there is nothing to download yet", do="type a phrase or click, then press Find")
        save_result(self.result, folder, self.paths)
        space = ", point clouds, cameras" if self.result.scene and len(self.result.scene.points) else ""
        return f"masks, cut-outs, overlays{space} and tables"

    def forget(self) -> None:
        """Drop the session."""
        self.session, self.result, self._scene, self._has_scene, self.phrase = None, None, None, False, ""

    @property
    def _prompts(self) -> Path:
        """The file of the clicks."""
        return self.room / "prompts.json"

    def _find(self, phrase: str) -> None:
        """Find what a phrase means, or what was clicked."""
        session = self.opened
        if phrase:
            parse_phrase(phrase)  # before expensive steps
        elif not session.prompted:
            raise NbHelpersError("there is nothing to look for", do="type what it is, or click it in a photo")
        self.restart_clock()
        if phrase:
            self.phrase, self.state["phrase"] = phrase, phrase
            self.save_state()
            if not self._has_scene:
                self._scene, self._has_scene = self.segmenter.estimate_scene(self.paths, progress=self.report), True
            result = self.segmenter.segment(self.paths, phrase, scene=self._scene, progress=self.report)
            self._show(result.session)
        elif self.result is not None and self.result.session is session:
            result = self.result.with_views(session.solve(self.report))
        else:
            views = session.solve(self.report)
            result = MultiviewResult(session, views, None, "object", views.notes)
        self.result, self.phrase, self.state["phrase"] = result, phrase, phrase
        self.save_state()
        self.notice = _notice_of(result)
        self.changed()

    def _show(self, session: ViewsSession) -> None:
        """Make a session the one that is shown."""

        def changed() -> None:
            session.save(self._prompts)
            self.outdate()

        session.on_change(changed)
        self.session = session


def _notice_of(result: MultiviewResult) -> Notice:
    """The result of a scene in plain words."""
    found = [view for view in result if view.found]
    name = re.sub(r" \d+$", "", result.name)  # of several candidates, each has a number
    text = f"The {name} was found in {len(found)} of {len(result)} photos."
    doubtful = [view for view in result.views if view.consistency.is_doubtful and view.found]
    details = [] if result.grounding is None else [result.grounding.resolution.phrase.understood]
    if len(found) < len(result) or doubtful:
        text += " Photos taken closer together, or a click in a photo where it is wrong, make it better."
    if doubtful:
        names = ", ".join(view.name for view in doubtful[:4])
        details.append(f"Look at {names}: these masks agree least with the other photos.")
    scene = result.scene
    if scene is None:
        details.append(plain(NO_CAMERAS))
    elif not all(scene.placed):
        details.append(f"The position of the camera is known for {int(sum(scene.placed))} of {len(result)} photos.")
    if found:
        each = (f"{view.name} {view.consistency:.0%}" for view in found)
        details.append(f"How well the outline in a photo agrees with the others: {', '.join(each)}.")
    if absent := [view.name for view in result if not view.found]:
        details.append(f"Not found in {', '.join(absent)}.")
    return Notice(text, tuple(dict.fromkeys(map(plain, (*result.notes, *details)))))


JOBS = {job.page: job for job in (PhotoTask, ClipTask, ProductTask, SceneTask)}
"""The jobs by the name of their page."""
