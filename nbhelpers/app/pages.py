"""What visitors see: a page a job and a start page, from Solara's components and the notebooks' widgets."""
# pyright: reportPrivateImportUsage=false
# solara's own names are imported in its __init__ without being listed there as exports

from __future__ import annotations

import base64
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import ipywidgets as widgets
import reacton.ipyvuetify as v
import solara
import solara.lab
from solara.server import settings

from nbhelpers.app.job import Job, Workers
from nbhelpers.app.jobs import JOBS, MATTES, ClipTask, PhotoTask, ProductTask, SceneTask
from nbhelpers.app.page_widgets import PageClick, PageFrames, PageGallery, PageViews, on_page
from nbhelpers.app.visits import Visit, Visits
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import fit, photos
from nbhelpers.core.lazy import needs
from nbhelpers.multiview.referring import parse_phrase
from nbhelpers.plots3d import as_frame
from nbhelpers.widgets.base import thumbnails
from nbhelpers.widgets.drawing import encode_photo

needs("app", "solara", "reacton", "traitlets", "ipyvue", "ipyvuetify")
needs("widgets", "ipywidgets", "ipycanvas")

log = logging.getLogger(__name__)
THUMBNAIL_SIDE = 240
SAYS = {
    "photo": "Click a thing in a photo and take it away from its background.",
    "clip": "Click a thing in one frame; it is followed through the clip. Mattes for your editor.",
    "products": "Click a product once; find that very product in all your photos.",
    "multiview": "Name a thing, or click it once; it is cut out in photos from all sides.",
}


WIDGETS = {PhotoTask: PageClick, ClipTask: PageFrames, ProductTask: PageGallery, SceneTask: PageViews}


@solara.component_vue("upload.vue")
def Upload(label: str, accept: str, tip: str, disabled: bool = False, event_arrived: Callable | None = None):  # noqa: N802
    """A button that uploads files, with a bar; files can be dropped on it too."""


def use_changes(job: Job) -> None:
    """Draw a component again when its job changes."""
    _, tick = solara.use_state(0)
    drawn = job.changes

    def listen() -> Callable[[], None]:
        bound = on_page()(lambda: tick(lambda count: count + 1))
        stop = job.on_change(bound)
        if job.changes != drawn:  # since it was drawn
            bound()
        return stop

    solara.use_effect(listen, [job])


@solara.component
def Button(  # noqa: N802
    text: str, tip: str, on_click: Callable[[], None], icon: str = "", disabled: bool = False, primary: bool = False,
    name: str = "",
):  # fmt: skip
    """A button with a tip."""
    solara.Button(
        text,
        on_click=on_click,
        icon_name=icon,
        disabled=disabled,
        color="primary" if primary else None,
        outlined=not primary,
        attributes={"title": tip},
        classes=["text-none", f"nbhelpers-{name or text.lower().replace(' ', '-')}"],
    )


@solara.component
def JobPage(visit: Visit, job: Job, local: bool):  # noqa: N802
    """The page of a job.

    Args:
        visit: of the visitor.
        job: of this visitor and page.
        local: whether the page is served to this computer alone, and may open its folders.
    """
    use_changes(job)

    def arrived(reply: dict) -> None:
        names, problems = reply.get("names", []), [str(each) for each in reply.get("problems", [])]
        if names:
            try:
                job.open(visit.uploaded(names))
            except NbHelpersError as error:
                job.fail(error)
        elif problems:
            job.say(problems[0], problems[1:], error=True)

    with solara.Column(gap="16px", classes=["nbhelpers-app"], style="max-width: 1360px; margin: 0 auto; padding: 12px"):
        solara.Title(f"{job.title} - nbhelpers")
        with v.Html(tag="h1", class_="text-h5"):
            solara.Text(job.title)
        with v.Html(tag="ol", class_="text-body-2", style_="padding-left: 1.4em"):
            for step in job.steps:
                v.Html(tag="li", children=[step])
        with solara.Row(gap="12px", style="flex-wrap: wrap; align-items: center"):
            Upload(
                label=job.upload,
                accept=",".join(job.accept),
                tip=f"{job.upload} from this device",
                disabled=job.working,
                event_arrived=arrived,
            )
            Button(
                "Example", "Try it on pictures that come with it", job.open_example, "mdi-image-multiple", job.working
            )
            if local:
                Folder(job)
            if job.is_open:
                tip = "Remove these files and all that was done with them"
                Button("Start over", tip, lambda: _start_over(visit, job),
                       "mdi-delete", job.working)  # fmt: skip
        Work(job)
        NoticeBar(job)
        if job.is_open and job.session is not None and not job.opening:
            Stage(job)


def _start_over(visit: Visit, job: Job) -> None:
    """Forget a job, and remove uploads that no other job uses."""
    used = {path for other in visit.jobs.values() if other is not job for path in other.files}
    uploads = [path for path in job.files if path.parent == visit.folder / "uploads" and path not in used]
    job.start_over()
    if not job.is_open:
        for path in uploads:
            path.unlink(missing_ok=True)


@solara.component
def Text(label: str, tip: str, value: str, on_value: Callable[[str], None], width: int):  # noqa: N802
    """A field for text with a tip, so many pixels wide where the page is."""
    with v.Html(tag="div", attributes={"title": tip}):
        solara.InputText(
            label,
            value=value,
            on_value=on_value,
            continuous_update=True,
            dense=True,
            hide_details=True,
            style=f"width: {width}px; max-width: 100%",
        )


@solara.component
def Folder(job: Job):  # noqa: N802
    """A field for a folder on this computer; only where the page is served to it alone."""
    path, set_path = solara.use_state("")

    def opened() -> None:
        def listed() -> Sequence[Path]:
            source = Path(path.strip()).expanduser()
            if not source.exists():
                raise NbHelpersError("there is no such folder or file", given=path, do="check how it is written")
            try:
                return [source] if source.is_file() else photos(source)
            except NbHelpersError as error:
                raise NbHelpersError("there is no photo in this folder", do="open another, or a clip") from error

        try:
            job.open(listed())
        except NbHelpersError as error:
            job.fail(error)

    with solara.Row(gap="12px", style="align-items: center"):
        Text("or a folder on this computer", "A folder of photos, or a clip, on this computer", path, set_path, 260)
        Button("Open", "Open the folder, or the file", opened, "mdi-folder-open", job.working or not path.strip())


@solara.component
def Work(job: Job):  # noqa: N802
    """The bar of work under way, the time left, and a button that stops it."""
    use_changes(job)
    progress = job.progress
    if progress is None:
        return
    text = progress.text[:1].upper() + progress.text[1:]
    if progress.left is not None:
        text += f"; {_duration(progress.left)} left"
    with solara.Row(gap="12px", style="flex-wrap: wrap; align-items: center", classes=["nbhelpers-work"]):
        v.ProgressLinear(
            value=100 * (progress.fraction or 0),
            indeterminate=progress.fraction is None,
            color="primary", height=10, rounded=True, style_="width: 280px; max-width: 100%",
        )  # fmt: skip
        solara.Text(text)
        Button("Stop", "Stop after this step; what is done is kept", job.stop, "mdi-stop", name="stop")


@solara.component
def NoticeBar(job: Job):  # noqa: N802
    """What the page says, with details folded."""
    use_changes(job)
    notice = job.notice
    if job.working and not notice.error:
        return  # the bar shows what is being done
    kind = "error" if notice.error else "info"
    v.Alert(
        type=kind, text=True, dense=True, children=[v.Html(tag="span", class_="text--primary", children=[notice.text])],
        class_="nbhelpers-notice", attributes={"role": "alert" if notice.error else "status"},
    )  # fmt: skip
    if notice.details:
        with v.Html(tag="div", attributes={"title": "What was noticed, and what to do about it"}):  # noqa: SIM117
            with solara.Details("Details", expand=False), v.Html(tag="ul", style_="padding-left: 1.4em"):
                for line in notice.details:
                    v.Html(tag="li", children=[line])


@solara.component
def Stage(job: Job):  # noqa: N802
    """The session's widget, the controls of the job, and the download."""
    use_changes(job)
    session = job.session
    widget = solara.use_memo(lambda: WIDGETS[type(job)](job), [id(session)])

    def close() -> Callable[[], None]:
        stop = job.on_change(on_page()(widget.show_progress)) if isinstance(widget, PageFrames) else lambda: None

        def end() -> None:
            stop()
            widget.close()

        return end

    solara.use_effect(close, [widget])
    if isinstance(job, SceneTask):
        Phrase(job)
    if isinstance(job, PhotoTask) and len(job.files) > 1:
        names = [f"{number}: {path.name}" for number, path in enumerate(job.files, 1)]
        solara.Select("Photo", names, names[job.index], on_value=lambda name: job.show(names.index(name)))
    v.Html(tag="div", children=[widget])
    if isinstance(job, SceneTask) and job.result is not None:
        Overview(job)
    Save(job)


@solara.component
def Phrase(job: SceneTask):  # noqa: N802
    """What to look for, in words."""
    use_changes(job)
    phrase, set_phrase = solara.use_state(job.phrase)
    with solara.Row(gap="12px", style="flex-wrap: wrap; align-items: center"):
        text = "Look for, e.g. red chair behind the desk"
        Text(text, "What it is, and where it is if there are several", phrase, set_phrase, 340)
        tip = "Find what the words mean in all photos"
        Button("Find", tip, lambda: job.find(phrase), "mdi-magnify", job.working, primary=True)
        if phrase.strip():
            try:
                meant = parse_phrase(phrase.strip()).understood
            except NbHelpersError as error:
                meant = error.what
            v.Html(tag="span", children=[meant], class_="nbhelpers-understood text-caption")


@solara.component
def Overview(job: SceneTask):  # noqa: N802
    """The object in all photos, side by side, and in space."""
    result = job.result
    assert result is not None  # see `Stage`

    def pictures() -> list[widgets.HTML]:
        captions = [f"{view.name}: {'found' if view.found else 'not found'}" for view in result]
        overlays = [encode_photo(fit(view.overlay, THUMBNAIL_SIDE), preview=True) for view in result]
        made = [widgets.HTML(thumbnails(overlays, captions, THUMBNAIL_SIDE))]
        made[0].add_class("nbhelpers-overview")
        if result.scene is not None and len(result.scene.points):
            made.append(widgets.HTML(as_frame(result.figure(height=420))))
            made[1].add_class("nbhelpers-space")
        return made

    v.Html(tag="div", children=solara.use_memo(pictures, [id(result)]))


@solara.component
def Save(job: Job):  # noqa: N802
    """The formats, and the download."""
    use_changes(job)
    download = job.download
    with solara.Row(gap="12px", style="flex-wrap: wrap; align-items: center"):
        if isinstance(job, ClipTask):
            Formats(job)
        Button(
            "Prepare download", "Write the files and pack them into one zip", job.pack, "mdi-package-down", job.working
        )
        if download is not None:
            size = download.path.stat().st_size / 1e6 if download.path.is_file() else 0
            href, tip = f"{_root()}/download/{job.page}/{download.path.name}", f"{download.content}, {size:.1f} MB"
            v.Btn(
                children=[v.Icon(left=True, children=["mdi-download"]), f"Download ({size:.1f} MB)"], color="primary",
                href=href,
                class_="text-none nbhelpers-download",
                attributes={"title": tip, "download": download.path.name},
            )  # fmt: skip


@solara.component
def Formats(job: ClipTask):  # noqa: N802
    """Which files a clip is written as."""
    chosen, set_chosen = solara.use_state(list(job.formats))

    def choose(name: str, on: bool) -> None:
        now = [each for each in MATTES if (on if each == name else each in chosen)]
        set_chosen(now)
        job.formats = now
        job.outdate()

    with solara.Row(gap="16px", style="flex-wrap: wrap; align-items: center"):
        for name, (text, tip) in MATTES.items():
            v.Checkbox(
                label=text,
                v_model=name in chosen,
                on_v_model=lambda on, name=name: choose(name, on),
                hide_details=True,
                dense=True,
                class_="mt-0 pt-0",
                attributes={"title": tip},
            )


@solara.component
def Start():  # noqa: N802
    """The start page: what each page does, with a picture."""
    solara.Title("nbhelpers")
    with solara.Column(gap="16px", classes=["nbhelpers-app"], style="max-width: 1360px; margin: 0 auto; padding: 12px"):
        with v.Html(tag="h1", class_="text-h5"):
            solara.Text("What do you want to cut out?")
        with v.Row():
            for page, job in JOBS.items():
                with v.Col(cols=12, sm=6, lg=3):  # noqa: SIM117
                    with v.Card(href=f"{_root()}/{page}", class_=f"nbhelpers-card-{page} fill-height",
                                attributes={"title": SAYS[page]}):  # fmt: skip
                        v.Img(src=_picture(page), height=190, alt=SAYS[page])
                        v.CardTitle(children=[job.title], style_="word-break: normal")
                        v.CardText(children=[SAYS[page]])
        solara.Text("Your files stay on the computer that serves this page. They are removed when your visit ends.")


def _root() -> str:
    """The path under which the app is served, for links."""
    return (settings.main.root_path or "").rstrip("/")


@functools.cache
def _picture(page: str) -> str:
    """The picture of a page, as a URL that holds it."""
    data = (files("nbhelpers.app") / "pictures" / f"{page}.jpg").read_bytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _duration(seconds: float) -> str:
    """Seconds as a person says them."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


@dataclass
class Site:
    """What all pages of a server share.

    Attributes:
        visits: the visitors.
        workers: do the long work of all.
        local: whether the pages are served to this computer alone.
        jobs: makes the job of a page from its folder.
    """

    visits: Visits
    workers: Workers
    local: bool
    jobs: dict[str, Callable[[Path, Workers], Job]]


site: Site
"""Set by `nbhelpers.app.server` before the first visitor comes."""


@solara.component
def Visitor(page: str):  # noqa: N802
    """The page of whoever looks at it."""

    def find() -> tuple[Visit, Job]:
        visit = site.visits.visit(solara.get_session_id())
        return visit, visit.job(page, lambda folder: site.jobs[page](folder, site.workers))

    visit, job = solara.use_memo(find, [page])

    def count() -> Callable[[], None]:
        visit.enter()
        return visit.leave

    solara.use_effect(count, [visit])
    JobPage(visit, job, site.local)


@solara.component
def Layout(children: list = []):  # noqa: B006, N802
    """The bar of all pages: a way back to the start, the pages, light and dark."""
    here = solara.use_router().path
    with v.Html(tag="div", style_="min-height: 100vh") as main:
        with v.Html(tag="nav", class_="nbhelpers-nav d-flex flex-wrap align-center px-2 ga-1"):
            for path, text in (("", "Start"), *((page, job.page) for page, job in JOBS.items())):
                v.Btn(
                    children=[text.capitalize()], href=f"{_root()}/{path}", small=True,
                    text=here.strip("/") != path, depressed=True, class_="text-none px-2",
                    style_="letter-spacing: normal",
                    attributes={"title": "All pages" if not path else JOBS[path].title},
                )  # fmt: skip
            v.Spacer()
            with v.Html(tag="span", attributes={"title": "Light, dark, or as this device is set"}):
                solara.lab.ThemeToggle()
        v.Html(tag="main", children=children)
    return main


def _component(page: str) -> Callable:
    """The component of a route."""

    @solara.component
    def Page():  # noqa: N802
        Visitor(page)

    return Page


routes = [
    solara.Route("/", component=Start, layout=Layout, label="Start"),
    *(solara.Route(page, component=_component(page), label=job.title) for page, job in JOBS.items()),
]
"""The pages, for Solara."""
