"""A page for people who do not write code: photos in, a phrase or a click, the object in every view, a zip out."""

from __future__ import annotations

import base64
import html
import io
import logging
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES, file_stem
from nbhelpers.core.scenes import Scene
from nbhelpers.multiview.pipeline import MultiviewSegmenter
from nbhelpers.multiview.referring import parse_phrase
from nbhelpers.multiview.results import MultiviewResult, save_result
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.multiview.views import VIDEO_SUFFIXES, Photos, photo_files
from nbhelpers.plots3d import as_frame
from nbhelpers.widgets.controls import Row, button, error_sentence, status_html
from nbhelpers.widgets.views import ViewsWidget, thumbnails

log = logging.getLogger(__name__)
WELCOME = "Upload photos of one scene, taken from several sides, or a video that goes around it."
LINK = "color: var(--jp-content-link-color, #1565c0); font-weight: bold; text-decoration: underline"
ASK = "Say what you look for, or click it in a photo below and press Find in all views."


class SceneApp(widgets.VBox):
    """The whole way from photos to a zip, on one page.

    Example:
        >>> SceneApp()                               # the one cell of app/multiview.ipynb, which voila serves

    Args:
        segmenter: holds the models; picks them when they are first needed when left out.
        folder: where uploads and results are kept; a temporary one when left out.
    """

    def __init__(self, segmenter: MultiviewSegmenter | None = None, folder: str | Path | None = None):
        self.segmenter = segmenter or MultiviewSegmenter()
        self._room = None if folder is not None else tempfile.TemporaryDirectory(prefix="nbhelpers-app-")
        self.folder = Path(folder if folder is not None else self._room.name)
        self.paths: list[Path] = []
        self.scene: Scene | None = None
        self.result: MultiviewResult | None = None
        self._scene_known = False
        accept = ",".join(("image/*", *IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        self.upload = widgets.FileUpload(accept=accept, multiple=True, description="Photos or a video")
        self.upload.layout.width = "180px"
        self.upload.observe(self._uploaded, "value")
        self.source = widgets.Text(placeholder="or a folder on this computer", layout=widgets.Layout(width="300px"))
        self.phrase = widgets.Text(placeholder="red chair behind the desk", layout=widgets.Layout(width="360px"))
        self.phrase.observe(self._understand, "value")
        self.understood = widgets.HTML()
        self.run_button = button("Find", "Find what the phrase means", self.run, icon="search", width="110px")
        self.run_button.disabled = True
        self.progress = widgets.IntProgress(layout=widgets.Layout(width="240px", visibility="hidden"))
        self.status = widgets.HTML(status_html(WELCOME, "", error=False))
        self.views, self.overview, self.space, self.download = (widgets.VBox() for _ in range(4))
        for part, name in (
            (self.status, "status"),
            (self.understood, "understood"),
            (self.overview, "overview"),
            (self.space, "space"),
            (self.download, "download"),
        ):
            part.add_class(f"nbhelpers-app-{name}")
        first = Row(self.upload, self.source, button("Open", "Open the folder", self._open, width="80px"))
        second = Row(widgets.Label("Look for"), self.phrase, self.run_button, self.progress)
        super().__init__(
            [first, second, self.understood, self.status, self.download, self.overview, self.views, self.space],
            layout=widgets.Layout(max_width="1100px", grid_gap="8px", overflow="visible"),
        )
        self.add_class("nbhelpers-app")

    def open_photos(self, source: str | Path | Sequence[Path]) -> None:
        """Take the photos of a folder, a list of files, or a video."""
        self.paths = photo_files(source, self.folder / "frames")
        photos = Photos(self.paths, self.segmenter.model("segmenter"))
        self.scene, self._scene_known, self.result = None, False, None
        self._show_views(ViewsSession(photos))
        self.overview.children = self.space.children = self.download.children = ()
        self.run_button.disabled = False
        self._say(f"{len(self.paths)} photo{'s' * (len(self.paths) > 1)}. {ASK}")

    def run(self) -> None:
        """Find what the phrase means in all photos."""
        with _Told(self):
            parse_phrase(self.phrase.value)
            self._find_cameras()
            result = self.segmenter.segment(self.paths, self.phrase.value, scene=self.scene, progress=self._tell)
            self._finish(result)

    def _find_cameras(self) -> None:
        if not self._scene_known:
            self.scene = self.segmenter.estimate_scene(self.paths, progress=self._tell)
            self._scene_known = True

    def _finish(self, result: MultiviewResult) -> None:
        """Show a result, and pack it."""
        self.result = result
        captions = [
            f"{view.name}: {f'consistency {view.consistency:.2f}' if view.found else 'not found'}" for view in result
        ]
        self.overview.children = (widgets.HTML(thumbnails([view.overlay for view in result], captions)),)
        self.space.children = ()
        if result.scene is not None and len(result.scene.points):
            self.space.children = (widgets.HTML(as_frame(result.figure(height=420))),)
        self._show_views(result.session)
        self._tell(1, 1, "packing the files")
        self.download.children = (widgets.HTML(self._pack(result)),)
        self.understood.value = ""  # the result begins with it
        lines = "<br>".join(html.escape(line) for line in str(result).splitlines())
        self._say(f'<div style="line-height: 1.5">{lines}</div>', raw=True)

    def _show_views(self, session: ViewsSession) -> None:
        """The views of a session; a widget that shows it already stays, at the view that the person chose."""
        before = self.views.children
        if before and before[0].session is session:
            return
        self.views.children = (ViewsWidget(session, width=720, on_solve=self._solved),)
        for widget in before:
            widget.close()

    def _solved(self, views) -> None:
        """A click was found in all views."""
        session = self.views.children[0].session
        if self.result is not None and self.result.session is session:
            self._finish(self.result.with_views(views))
        else:
            self._finish(MultiviewResult(session, views, None, "object", views.notes))

    def _pack(self, result: MultiviewResult) -> str:
        """A link that holds a zip of all files."""
        written = save_result(result, self.folder / "results", self.paths)
        folder = written[-1].parent  # another one where that held results of other photos
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in dict.fromkeys(written):
                archive.write(path, path.relative_to(folder).as_posix())
        data, size = base64.b64encode(packed.getvalue()).decode(), len(packed.getvalue()) / 1e6
        name = f"{file_stem(result.name)}.zip"
        return (
            f'<a style="{LINK}" download="{name}" href="data:application/zip;base64,{data}">Download {name}</a> '
            f"({size:.1f} MB: masks, cut-outs, overlays, point clouds, cameras, tables)"
        )

    def _open(self) -> None:
        with _Told(self):
            self.open_photos(self.source.value)

    def _uploaded(self, change) -> None:
        files = change["new"]
        if not files:
            return
        with _Told(self):
            place = Path(tempfile.mkdtemp(prefix="upload-", dir=_made(self.folder)))
            paths = []
            for number, file in enumerate(files):
                given = Path(str(file["name"]).replace("\\", "/"))
                path = place / f"{file_stem(given.stem)}{given.suffix.lower()}"
                path = path if path not in paths else place / f"{file_stem(given.stem)}_{number}{given.suffix.lower()}"
                path.write_bytes(bytes(file["content"]))
                paths.append(path)
            videos = [path for path in paths if path.suffix in VIDEO_SUFFIXES]
            if videos and len(paths) > 1:
                raise NbHelpersError("photos and a video at once, or several videos", do="upload photos, or one video")
            self.open_photos(videos[0] if videos else paths)

    def _understand(self, change) -> None:
        """What the phrase is read as, while it is typed."""
        text = change["new"].strip()
        try:
            self.understood.value = html.escape(parse_phrase(text).understood) if text else ""
        except NbHelpersError as error:
            self.understood.value = html.escape(error.what)

    def _tell(self, done: int, total: int, doing: str) -> None:
        self.progress.max, self.progress.value = max(total, 1), done
        self._say(f"{doing} ...")

    def _say(self, message: str, *, error: bool = False, raw: bool = False) -> None:
        self.status.value = message if raw else status_html(message, "", error=error)


class _Told:
    """Shows what goes wrong in the app's status line, and that it works meanwhile."""

    def __init__(self, app: SceneApp):
        self.app = app

    def __enter__(self) -> None:
        self.app.run_button.disabled = True
        self.app.progress.layout.visibility = "visible"

    def __exit__(self, kind, error, trace) -> bool:
        self.app.run_button.disabled = not self.app.paths
        self.app.progress.layout.visibility = "hidden"
        if isinstance(error, NbHelpersError):
            self.app._say(error_sentence(error), error=True)
        elif isinstance(error, KeyboardInterrupt):
            self.app._say("Interrupted.", error=True)
        elif isinstance(error, Exception):
            log.error("the app failed", exc_info=error)
            self.app._say(f"This did not work. {kind.__name__}: {error}", error=True)
        return isinstance(error, Exception)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
