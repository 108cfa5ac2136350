"""The server of the pages: Solara in one process for all visitors, uploads, downloads, and who may do what."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import warnings
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nbhelpers.app.job import Workers
from nbhelpers.app.jobs import JOBS
from nbhelpers.app.visits import HOURS, Visits
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import outputs_dir
from nbhelpers.core.lazy import needs

log = logging.getLogger(__name__)
COOKIE = "solara-session-id"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # Solara compiles templates in the browser
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' blob: data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
"""Content-Security-Policy of all pages: a browser sends nothing to another host."""
SWEEP_SECONDS = 300


@dataclass(frozen=True)
class Serving:
    """How the pages are served.

    Attributes:
        host: address to listen at.
        port: likewise.
        shared: whether others than the user of this computer may come: no folders of it, and visits end by themselves.
        keep: whether the folders of visitors stay.
        hours: after which a visit without an open page ends.
        workers: pieces of long work at one time, of all visitors.
        models: ``"lite"``, ``"official"`` or ``"auto"``.
        folder: parent of the visitors' folders; ``outputs/app`` by default.
        root_path: path before that of the pages, for a reverse proxy, such as ``"/cutouts"``.
    """

    host: str = "127.0.0.1"
    port: int = 8866
    shared: bool = False
    keep: bool = False
    hours: float = HOURS
    workers: int = 0
    models: str | None = None
    folder: Path | None = None
    root_path: str = ""

    @property
    def local(self) -> bool:
        """Whether the pages are served to this computer alone."""
        return not self.shared and not self.root_path and self.host in LOOPBACK


def serve(serving: Serving, page: str = "", *, browser: bool = True) -> None:
    """Serve the pages until interrupted; the visitors' folders are removed then unless they are kept.

    Raises:
        NbHelpersError: no such page, or a package of the extra ``app`` is missing.
    """
    if page and page not in JOBS:
        raise NbHelpersError("there is no such page", given=page, expected=", ".join(JOBS))
    needs("app", "uvicorn")
    import uvicorn

    address = f"http://{serving.host}:{serving.port}{serving.root_path}/{page}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn passes it on when it has ended: visits end too
    with starting(serving) as application:
        log.info("The pages are at %s (Ctrl-C ends them)", address)
        if browser and serving.local:
            threading.Timer(2, webbrowser.open, [address]).start()
        uvicorn.run(application, host=serving.host, port=serving.port, log_level="warning", access_log=False)


@contextlib.contextmanager
def starting(serving: Serving, jobs: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """The ASGI application; its visits end with the block.

    Args:
        serving: how.
        jobs: by page, what makes its job from a folder and the workers; by default those of `JOBS`.
    """
    folder = serving.folder or outputs_dir("app")
    _settle(serving, folder)
    needs("app", "solara", "starlette")
    from solara.server import settings

    from nbhelpers.app import page_widgets, pages

    settings.assets.extra_locations = [str(Path(__file__).parent / "assets")]
    made = jobs or {
        name: lambda folder, workers, job=job: job(folder, workers, serving.models) for name, job in JOBS.items()
    }
    workers = Workers(serving.workers or max(2, os.cpu_count() or 2))
    visits = Visits(folder / "visits", keep=serving.keep, hours=serving.hours)
    warnings.filterwarnings("ignore", "Cookies with samesite=none require https", UserWarning)  # for frames of others
    page_widgets.each_visitor_draws_apart()
    pages.site = pages.Site(visits, workers, serving.local, dict(made))
    ended = threading.Event()
    threading.Thread(target=_sweep, args=(visits, ended), name="nbhelpers-visits", daemon=True).start()
    try:
        yield _application(serving, visits)
    finally:
        ended.set()
        visits.close()
        workers.close()


def _settle(serving: Serving, folder: Path) -> None:
    """Set what Solara reads from the environment when it is imported."""
    if "solara.server.settings" in sys.modules and os.environ.get("SOLARA_APP") != "nbhelpers.app.pages":
        raise NbHelpersError("Solara is at work in this process already", do="start nbhelpers app in one of its own")
    needs("app", "solara_assets")
    extensions = folder / "jupyter"
    _offer_ipyevents(extensions)
    os.environ |= {
        "SOLARA_APP": "nbhelpers.app.pages",
        "SOLARA_ASSETS_PROXY": "true",
        "SOLARA_ROOT_PATH": serving.root_path,
        "SOLARA_SESSION_HTTP_ONLY": "true",
        "SOLARA_TELEMETRY_MIXPANEL_ENABLE": "false",
        "SOLARA_THEME_SHOW_BANNER": "false",
        "SOLARA_THEME_TITLE": "nbhelpers",
        "SOLARA_KERNEL_CULL_TIMEOUT": "30m",
        "JUPYTER_PATH": os.pathsep.join(filter(None, (str(extensions), os.environ.get("JUPYTER_PATH")))),
        "JUPYTER_CONFIG_PATH": os.pathsep.join(
            filter(None, (str(extensions / "config"), os.environ.get("JUPYTER_CONFIG_PATH")))
        ),
    }


def _offer_ipyevents(folder: Path) -> None:
    """Let the page load ipyevents from its package, which does not put its script where Jupyter looks for it."""
    needs("widgets", "ipyevents")
    import ipyevents

    script = Path(ipyevents.__file__).parent / "nbextension" / "static"
    target = folder / "nbextensions" / "ipyevents"
    config = folder / "config" / "nbconfig" / "notebook.d"
    target.parent.mkdir(parents=True, exist_ok=True)
    config.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or not target.exists():
        target.unlink(missing_ok=True)
        target.symlink_to(script, target_is_directory=True)
    (config / "ipyevents.json").write_text(json.dumps({"load_extensions": {"ipyevents/extension": True}}))


def _sweep(visits: Visits, ended: threading.Event) -> None:
    """End old visits now and then."""
    while not ended.is_set():
        try:
            visits.sweep()
        except OSError:
            log.exception("old visits could not be removed")
        ended.wait(SWEEP_SECONDS)


def _application(serving: Serving, visits: Visits) -> Any:
    """The ASGI application."""
    from solara.server import settings
    from solara.server.starlette import lifespan, routes
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool as run
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    async def upload(request: Request) -> Response:
        if not (visitor := request.cookies.get(COOKIE)) or "x-requested-with" not in request.headers:
            return JSONResponse({"error": "The page is not open any more. Reload it, with cookies allowed."}, 403)
        length = request.headers.get("content-length", "")
        receiving = visits.visit(visitor).receiving(
            request.query_params.get("name", ""), int(length) if length.isdigit() else None
        )
        try:
            arriving = await run(receiving.__enter__)
            try:
                async for chunk in request.stream():
                    await run(arriving.write, chunk)
            except BaseException:
                receiving.__exit__(*sys.exc_info())
                raise
            await run(receiving.__exit__, None, None, None)
        except NbHelpersError as error:
            parts = (error.what, error.expected and f"expected: {error.expected}", error.do)
            text = " ".join(f"{part[:1].upper()}{part[1:]}." for part in parts if part)
            return JSONResponse({"error": text}, 422)
        return JSONResponse({"name": arriving.path.name})

    async def download(request: Request) -> Response:
        visitor = request.cookies.get(COOKIE)
        name = request.path_params["name"]
        path = visits.visit(visitor).result(request.path_params["page"], name) if visitor else None
        if path is None:
            return PlainTextResponse("There is no such file. It was removed, or it belongs to another visitor.", 404)
        return FileResponse(path, filename=name)

    own = [
        Route("/upload", upload, methods=["POST"]),
        Route("/download/{page}/{name}", download),
        Mount("/_solara/cdn", StaticFiles(directory=settings.assets.proxy_cache_dir)),  # never fetched from a host
    ]
    return Starlette(routes=[*own, *routes], lifespan=lifespan, middleware=[Middleware(Guard, serving=serving)])


class Guard:
    """Refuses requests that other pages of a browser, or an unexpected proxy, would make; sets `POLICY`.

    Args:
        app: the ASGI application behind it.
        serving: how it is served.
    """

    def __init__(self, app: Any, serving: Serving):
        self._app, self._serving = app, serving

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        problem = self.problem(dict(scope["headers"]))
        if problem is None:
            await self._app(scope, receive, self._with_policy(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": problem})
        else:
            head = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": head})
            await send({"type": "http.response.body", "body": problem.encode()})

    def problem(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Why a request is refused; None where it is not."""
        host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
        if self._serving.local:
            if any(name in headers for name in FORWARDED):
                return "A proxy is in front of these pages. Start them with: nbhelpers app --shared"
            if urlsplit(f"//{host}").hostname not in LOOPBACK:
                return "These pages are served to this computer alone."
        forwarded = headers.get(b"x-forwarded-host", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc not in {host, forwarded} - {""}:
            return "The request comes from another site."
        return None

    @staticmethod
    def _with_policy(send: Any) -> Any:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        return sending
