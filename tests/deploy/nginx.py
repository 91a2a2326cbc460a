"""nginx in front of a kit, as docs/deploy.md starts it, and requests exactly as they are written."""

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def nginx(server: Path, port: int) -> Iterator[None]:
    """The proxy of a server's folder, in the foreground. Skips where nginx is not installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    command = [program, "-p", f"{server}/", "-c", "nginx.conf", "-g", "daemon off;"]
    with (server / "nginx-said").open("wb") as said, subprocess.Popen(command, stderr=said) as process:
        try:
            until = time.monotonic() + 30
            while not _listens(port):
                assert process.poll() is None, (server / "nginx-said").read_text()
                assert time.monotonic() < until, "nginx does not listen"
                time.sleep(0.02)
            yield
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def status_of(port: int, ca: Path, method: str, path: str, body: bytes = b"") -> int:
    """The status code of a request whose path is sent as it is."""
    context = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )
        answer = secure.recv(4096)
    return int(answer.split()[1])


ALLOWED = [("POST", "/v1/fleet/pull-messages"), ("POST", "/v1/fleet/register-node"), ("GET", "/health")]
REFUSED = [
    ("POST", "/v1/control/start-run"),
    ("GET", "/v1/control/start-run"),
    ("POST", "/v1/runtime/pull-messages"),
    ("POST", "/v1/fleet/../control/start-run"),
    ("POST", "/v1/fleet/%2e%2e/control/start-run"),
    ("POST", "/v1/fleet/%2E%2E%2Fcontrol/start-run"),
    ("POST", "/v1/fleet/..%2fcontrol/start-run"),
    ("POST", "/v1/fleet%2f..%2fcontrol/start-run"),
    ("POST", "/v1/fleet/x/../../control/start-run"),
    ("POST", "/v1/control/../fleet/pull-messages"),
    ("POST", "/v1/control/%2e%2e/fleet/pull-messages"),
    ("POST", "//v1/control/start-run"),
    ("POST", "//v1//fleet/pull-messages"),
    ("POST", "/v1/fleet//../control/start-run"),
    ("POST", "/v1/./control/start-run"),
    ("POST", "/V1/CONTROL/start-run"),
    ("POST", "/V1/fleet/pull-messages"),
    ("POST", "/v1/Control/start-run"),
    ("POST", "/v1/fleet/;/../control/start-run"),
    ("POST", "/v1/fleet/pull-messages?x=/v1/control/"),
    ("POST", "/v1/fleet/pull-messages/../../control/start-run"),
    ("POST", "/v1/fleet/pull-messages%00"),
    ("POST", "/v1/fleet/"),
    ("GET", "/v1/fleet/pull-messages"),
    ("POST", "/health"),
    ("GET", "/health/../v1/control/start-run"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("POST", "https://localhost/v1/control/start-run"),
]
"""What the proxy has to keep out: the control API in every spelling, and whatever is not plainly the fleet API."""
