"""A web server on this machine that behaves well or badly, and writes down what it was asked."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalServer:
    """Serves ``files`` (path -> bytes). ``url`` is its address; ``asked`` lists (path, Range header)."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.etag: str | None = '"one"'
        self.ranges = True
        self.break_after: int | None = None  # bytes after which the next answer is cut off, once
        self.refuse: list[int] = []  # status codes to answer first
        self.redirect: str | None = None
        self.says_length = True
        self.asked: list[tuple[str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _handler(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, self.headers.get("Range")))
                if outer.refuse:
                    self.send_error(outer.refuse.pop(0))
                    return
                if outer.redirect:
                    self.send_response(302)
                    self.send_header("Location", outer.redirect)
                    self.end_headers()
                    return
                if self.path not in outer.files:
                    self.send_error(404)
                    return
                self._send(outer.files[self.path])

            def _send(self, data):
                wanted, proof = self.headers.get("Range"), self.headers.get("If-Range")
                start = 0
                if wanted and outer.ranges and proof in (None, outer.etag):
                    start = int(wanted.removeprefix("bytes=").rstrip("-"))
                    if start >= len(data):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(data)}")
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                else:
                    self.send_response(200)
                if outer.says_length:
                    self.send_header("Content-Length", str(len(data) - start))
                if outer.etag:
                    self.send_header("ETag", outer.etag)
                self.end_headers()
                body = data[start:]
                if outer.break_after is not None:
                    body, outer.break_after = body[: outer.break_after], None
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        return Handler
