"""Pages for people who do not write code: files in, a job, a zip out. `SceneApp` is that of multi-view segmentation."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import logging
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import IMAGE_SUFFIXES, file_stem
from nbhelpers.core.images import fit
from nbhelpers.core.scenes import Scene
from nbhelpers.multiview.pipeline import MultiviewSegmenter
from nbhelpers.multiview.referring import parse_phrase
from nbhelpers.multiview.results import MultiviewResult, save_result
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.multiview.views import VIDEO_SUFFIXES, Photos, photo_files
from nbhelpers.plots3d import as_frame
from nbhelpers.widgets.base import thumbnails
from nbhelpers.widgets.controls import Row, button, error_sentence, status_html
from nbhelpers.widgets.drawing import encode_photo
from nbhelpers.widgets.views import ViewsWidget

log = logging.getLogger(__name__)
LINK = "color: var(--jp-content-link-color, #1565c0); font-weight: bold; text-decoration: underline"
WELCOME = "Upload photos of one scene, taken from several sides, or a video that goes around it."
NEXT = "Type what to look for, or click it in a photo below and press Find in all views."
CONTENT = "masks, cut-outs, overlays, point clouds, cameras, tables"
THUMBNAIL_SIDE = 240


class JobPage(widgets.VBox):
    """What the pages of all jobs share: upload or open files, progress, a status line, a download.

    A page implements `open_source`, adds its own rows, and runs its job inside `working`.

    Args:
        folder: where uploads and results are kept; a temporary one by default.
        accept: file types of the upload, as in HTML.
        upload: text of the upload button.
        welcome: first sentence of the status line.

    Attributes:
        folder: as given.
        buttons: disabled while the page works, and before files are opened.
    """

    def __init__(self, folder: str | Path | None, accept: Sequence[str], upload: str, welcome: str):
        self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="nbhelpers-app-")
        self.folder = Path(folder if folder is not None else self._temporary.name)
        self.buttons: list[widgets.Button] = []
        self.upload = widgets.FileUpload(accept=",".join(accept), multiple=True, description=upload)
        self.upload.layout.width = "180px"
        self.upload.observe(lambda change: self.take_upload(change["new"]), "value")
        self.source = widgets.Text(placeholder="or a folder on this computer", layout=widgets.Layout(width="300px"))
        opening = button("Open", "Open the folder", lambda: self.open_files(self.source.value), width="80px")
        self.files_row = Row(self.upload, self.source, opening)
        self.progress = widgets.IntProgress(layout=widgets.Layout(width="240px", visibility="hidden"))
        self.status, self.download = widgets.HTML(status_html(welcome)), widgets.VBox()
        super().__init__([], layout=widgets.Layout(max_width="1100px", grid_gap="8px", overflow="visible"))
        self.add_class("nbhelpers-app")
        self.name_parts(status=self.status, download=self.download)

    def open_source(self, source: str | Path | Sequence[Path]) -> None:
        """Open a folder, a list of files, or a video.

        Raises:
            NbHelpersError: it cannot be read.
        """
        raise NotImplementedError

    @property
    def is_open(self) -> bool:
        """Whether files were opened."""
        raise NotImplementedError

    def name_parts(self, **parts: widgets.Widget) -> None:
        """Give parts their CSS classes, ``nbhelpers-app-`` and the name."""
        for name, part in parts.items():
            part.add_class(f"nbhelpers-app-{name}")

    def open_files(self, source: str | Path | Sequence[Path]) -> None:
        """Open files and show what goes wrong in the status line."""
        with self.working():
            self.open_source(source)

    def take_upload(self, files: Sequence[Mapping[str, Any]]) -> None:
        """Write uploaded files into the page's folder and open them.

        Args:
            files: ``name`` and ``content`` of each, as `ipywidgets.FileUpload` has them.
        """
        if not files:
            return
        with self.working():
            self.folder.mkdir(parents=True, exist_ok=True)
            folder, paths = Path(tempfile.mkdtemp(prefix="upload-", dir=self.folder)), []
            for number, file in enumerate(files):
                given = Path(str(file["name"]).replace("\\", "/"))
                stem, suffix = file_stem(given.stem), given.suffix.lower()
                path = folder / f"{stem}{suffix}"
                path = path if path not in paths else folder / f"{stem}_{number}{suffix}"
                path.write_bytes(bytes(file["content"]))
                paths.append(path)
            videos = [path for path in paths if path.suffix in VIDEO_SUFFIXES]
            if videos and len(paths) > 1:
                raise NbHelpersError("photos and a video at once, or several videos", do="upload photos, or one video")
            self.open_source(videos[0] if videos else paths)

    def offer_download(self, name: str, folder: Path, files: Sequence[Path], content: str) -> None:
        """Show a link that holds a zip of files.

        Args:
            name: of the zip, without suffix.
            folder: paths in the zip are relative to it.
            files: what is packed.
            content: a list of what it holds, for the reader.
        """
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in dict.fromkeys(files):
                archive.write(path, path.relative_to(folder).as_posix())
        data, size = base64.b64encode(packed.getvalue()).decode(), len(packed.getvalue()) / 1e6
        link = (
            f'<a style="{LINK}" download="{name}.zip" href="data:application/zip;base64,{data}">Download {name}.zip</a>'
            f" ({size:.1f} MB: {content})"
        )
        self.download.children = (widgets.HTML(link),)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Show that the page works, and what goes wrong; an interrupt is shown and passed on."""
        self._enable(False)
        self.progress.layout.visibility = "visible"
        try:
            yield
        except KeyboardInterrupt as error:
            self.show_message(error_sentence(error), error=True)
            raise
        except Exception as error:
            if not isinstance(error, NbHelpersError):
                log.error("the app failed", exc_info=error)
            self.show_message(error_sentence(error), error=True)
        finally:
            self._enable(self.is_open)
            self.progress.layout.visibility = "hidden"

    def show_progress(self, done: int, total: int, step: str) -> None:
        """Show how far the job is."""
        self.progress.max, self.progress.value = max(total, 1), done
        self.show_message(f"{step} ...")

    def show_message(self, message: str, *, error: bool = False) -> None:
        """Put text into the status line; lines of their own where it has several."""
        if "\n" in message:
            lines = "<br>".join(html.escape(line) for line in message.splitlines())
            self.status.value = f'<div style="line-height: 1.5">{lines}</div>'
        else:
            self.status.value = status_html(message, error=error)

    def _enable(self, enabled: bool) -> None:
        for each in self.buttons:
            each.disabled = not enabled


class SceneApp(JobPage):
    """From photos of a scene and a phrase or clicks to the object in every view, on one page.

    Example:
        >>> SceneApp()                               # the one cell of app/multiview.ipynb, which voila serves

    Args:
        segmenter: holds the models; picks them when they are first needed by default.
        folder: where uploads and results are kept; a temporary one by default.
    """

    def __init__(self, segmenter: MultiviewSegmenter | None = None, folder: str | Path | None = None):
        super().__init__(folder, ("image/*", *IMAGE_SUFFIXES, *VIDEO_SUFFIXES), "Photos or a video", WELCOME)
        self.segmenter = segmenter or MultiviewSegmenter()
        self.paths: list[Path] = []
        self.scene: Scene | None = None
        self.result: MultiviewResult | None = None
        self._has_scene = False
        self.phrase = widgets.Text(placeholder="red chair behind the desk", layout=widgets.Layout(width="360px"))
        self.phrase.observe(self._parse, "value")
        self.parsed = widgets.HTML()
        self.run_button = button("Find", "Find what the phrase means", self.run, icon="search", width="110px")
        self.run_button.disabled = True
        self.buttons = [self.run_button]
        self.views, self.overview, self.space = (widgets.VBox() for _ in range(3))
        self.name_parts(understood=self.parsed, overview=self.overview, space=self.space)
        phrase = Row(widgets.Label("Look for"), self.phrase, self.run_button, self.progress)
        rows = (self.files_row, phrase, self.parsed, self.status, self.download, self.overview, self.views, self.space)
        self.children = rows

    @property
    def is_open(self) -> bool:
        """Whether there are photos."""
        return bool(self.paths)

    def open_source(self, source: str | Path | Sequence[Path]) -> None:
        """Open the photos of a folder, a list of files, or a video."""
        self.paths = photo_files(source, self.folder / "frames")
        photos = Photos(self.paths, self.segmenter.model("segmenter"))
        self.scene, self._has_scene, self.result = None, False, None
        self._show_views(ViewsSession(photos))
        self.overview.children = self.space.children = self.download.children = ()
        self.run_button.disabled = False
        self.show_message(f"{len(self.paths)} photo{'s' * (len(self.paths) > 1)}. {NEXT}")

    def run(self) -> None:
        """Find what the phrase means in all photos."""
        with self.working():
            parse_phrase(self.phrase.value)
            if not self._has_scene:
                self.scene = self.segmenter.estimate_scene(self.paths, progress=self.show_progress)
                self._has_scene = True
            phrase, scene = self.phrase.value, self.scene
            self._finish(self.segmenter.segment(self.paths, phrase, scene=scene, progress=self.show_progress))

    def _finish(self, result: MultiviewResult) -> None:
        """Show a result, and pack it."""
        self.result = result
        captions = [
            f"{view.name}: {f'consistency {view.consistency:.2f}' if view.found else 'not found'}" for view in result
        ]
        overlays = [encode_photo(fit(view.overlay, THUMBNAIL_SIDE), preview=True) for view in result]
        self.overview.children = (widgets.HTML(thumbnails(overlays, captions, THUMBNAIL_SIDE)),)
        self.space.children = ()
        if result.scene is not None and len(result.scene.points):
            self.space.children = (widgets.HTML(as_frame(result.figure(height=420))),)
        self._show_views(result.session)
        self.show_progress(1, 1, "packing the files")
        written = save_result(result, self.folder / "results", self.paths)
        folder = written[-1].parent  # another one where that held results of other photos
        self.offer_download(file_stem(result.name), folder, written, CONTENT)
        self.parsed.value = ""  # the result begins with it
        self.show_message(str(result))

    def _show_views(self, session: ViewsSession) -> None:
        """Show the views of a session; a widget that shows it already stays, at the view that the user chose."""
        before = self.views.children
        if before and before[0].session is session:
            return
        self.views.children = (ViewsWidget(session, width=720, on_solve=self._show_solved),)
        for widget in before:
            widget.close()

    def _show_solved(self, views) -> None:
        """Show what was found from clicks."""
        session = self.views.children[0].session
        if self.result is not None and self.result.session is session:
            self._finish(self.result.with_views(views))
        else:
            self._finish(MultiviewResult(session, views, None, "object", views.notes))

    def _parse(self, change: Mapping[str, Any]) -> None:
        """Show what the phrase means while it is typed."""
        text = change["new"].strip()
        try:
            self.parsed.value = html.escape(parse_phrase(text).understood) if text else ""
        except NbHelpersError as error:
            self.parsed.value = html.escape(error.what)
