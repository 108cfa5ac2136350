"""The site in a real browser: light and dark, wide and narrow, without an error or a request to another host."""

import functools
import http.server
import threading

import pytest
from test_site import built  # noqa: F401  (a fixture)


@pytest.fixture
def address(built):  # noqa: F811
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(built))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_pages_load_without_errors_and_fit_the_width(browser_page, address, scheme, width):
    context = browser_page.context.browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page, complaints = context.new_page(), []
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("request", lambda request: request.url.startswith(address) or complaints.append(request.url))
    for name in ("index", "notebooks/00_one", "models", "measurements", "api/nbhelpers.segment"):
        page.goto(f"{address}/{name}.html", wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width} pixels"
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate("document.images.length") >= 0 and complaints == []
    context.close()
