"""The web server of the page: loopback alone, GET alone, and only what the page lists.

The address holds a random word, so that other users of the machine cannot read what the folder's owner can. Requests that name
another host are refused: a foreign page could otherwise lead its own name here.
"""

import hashlib
import json
import math
import re
import secrets
import sys
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.terminal import visible
from fedloom.experiment.report.samples import PICTURES, SOUNDS
from fedloom.experiment.watch.folder_view import FolderView, View

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
STATIC = {
    "": ("page.html", "text/html; charset=utf-8"),
    "watch.css": ("watch.css", "text/css; charset=utf-8"),
    "watch.js": ("watch.js", "text/javascript; charset=utf-8"),
    "charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The page's own files by their address."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",
}
RANGE = re.compile(r"bytes=(\d{1,12})-(\d{0,12})$")
MEDIA = {**PICTURES, **SOUNDS}
MOST = 64 * 10**6
"""Bytes of a picture or sound that is still served."""


@dataclass(frozen=True)
class Answer:
    """An answer to a request; None as body: none at all, as for what is known already."""

    status: HTTPStatus
    body: bytes | None
    kind: str = "text/plain; charset=utf-8"
    more: tuple[tuple[str, str], ...] = ()


class Server(ThreadingHTTPServer):
    """Serves one folder's view; `serve_forever` runs it, `address` is what to open."""

    daemon_threads = True

    def __init__(self, view: FolderView, port: int = 0) -> None:
        """Raises ExperimentError for a port that cannot be had."""
        self.view, self.word = view, secrets.token_urlsafe(12)
        self._busy = threading.Lock()  # views read files and are not made for two threads
        self._tagged: dict[str, tuple[dict[str, Any], bytes, str]] = {}
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ExperimentError(
                f"--port: {port} cannot be had ({why}); leave it out for a free one"
            ) from error

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.word}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing for a page that went away; a traceback for any other fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def answer(self, path: str, known: str | None, part: str | None) -> Answer:
        """The answer to a GET of `path`; `known` is the tag that the page has, `part` a range of bytes."""
        path = path.partition("?")[0]
        first, *rest = path.removeprefix("/").split("/")
        if not secrets.compare_digest(first.encode(), self.word.encode()) or not rest:
            return _NOT_HERE
        view: View | None = self.view
        if rest[0] == "run" and len(rest) > 2:
            number, *rest = rest[1:]
            with self._busy:
                self.view.snapshot()
                view = self.view.run(_number(number))
        if view is None:
            return _NOT_HERE
        match rest:
            case ["data"]:
                return self._data(view, path, known)
            case ["media", number]:
                return self._medium(view, _number(number), part)
            case [name] if name in STATIC:
                file, kind = STATIC[name]
                return Answer(HTTPStatus.OK, (files(__package__) / "page" / file).read_bytes(), kind)
        return _NOT_HERE

    def _data(self, view: View, path: str, known: str | None) -> Answer:
        with self._busy:
            shown = view.snapshot()
            kept = self._tagged.get(path)
            if kept is None or kept[0] is not shown:
                body = json.dumps(_sound(shown), allow_nan=False).encode()
                kept = self._tagged[path] = shown, body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        _, body, tag = kept
        if known == tag:
            return Answer(HTTPStatus.NOT_MODIFIED, None, more=(("ETag", tag),))
        return Answer(HTTPStatus.OK, body, "application/json", (("ETag", tag),))

    def _medium(self, view: View, number: int, part: str | None) -> Answer:
        with self._busy:
            file = view.medium(number)
        try:
            if file is None or file.stat().st_size > MOST:
                return _NOT_HERE
            body = file.read_bytes()
        except OSError:
            return _NOT_HERE
        kind = MEDIA[file.suffix.lower()]
        accepts = ("Accept-Ranges", "bytes")
        asked = RANGE.match(part or "")
        if asked is None:
            return Answer(HTTPStatus.OK, body, kind, (accepts,))
        first = int(asked[1])
        last = min(int(asked[2] or len(body) - 1), len(body) - 1)
        if first > last:
            size = ("Content-Range", f"bytes */{len(body)}")
            return Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", more=(size,))
        size = ("Content-Range", f"bytes {first}-{last}/{len(body)}")
        return Answer(HTTPStatus.PARTIAL_CONTENT, body[first : last + 1], kind, (accepts, size))


_NOT_HERE = Answer(HTTPStatus.NOT_FOUND, b"There is nothing here.\n")


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "fedloom", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if not _is_here(self.headers.get_all("Host", [])):
            self._send(Answer(HTTPStatus.MISDIRECTED_REQUEST, b"This server answers to 127.0.0.1 alone.\n"))
            return
        self._send(
            self.server.answer(self.path, self.headers.get("If-None-Match"), self.headers.get("Range"))
        )

    def _refuse(self) -> None:
        self._send(Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET alone.\n", more=(("Allow", "GET"),)))

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in (*HEADERS.items(), *answer.more):
            self.send_header(name, value)
        if answer.body is not None:
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.body is not None and self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal has one line."""


def _number(text: str) -> int:
    """A number in an address; -1 for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else -1


def _sound(value: Any) -> Any:
    """JSON values without control characters in texts, and without numbers that are not finite."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {visible(name): _sound(one) for name, one in value.items()}
    return [_sound(one) for one in value] if isinstance(value, list | tuple) else value


def _is_here(hosts: list[str]) -> bool:
    """Whether the one Host header names loopback; its port may be that of a tunnel."""
    if len(hosts) != 1:
        return False
    name, _, port = hosts[0].partition(":")
    return name.lower() in HOSTS and (not port or port.isdecimal())
