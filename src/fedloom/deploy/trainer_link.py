"""The link between Flower's process and the warm trainer: messages over a loopback socket, authenticated by a shared secret.

`multiprocessing.connection` of the standard library does the mutual authentication (HMAC of a random challenge) and frames the
bytes; `send_bytes` and `recv_bytes` pickle nothing. The trainer writes its port and secret to a file with mode 0600. This
module imports no framework, because Flower starts a process for every message.
"""

import json
import os
import secrets
import time
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path

LARGEST = 2**33
"""Largest accepted message, in bytes."""


class Unreachable(Exception):  # noqa: N818 - it ends one message, not the program
    """The trainer did not answer."""


def ask(file: Path, message: bytes, patience: float = 300.0, tries: int = 3) -> bytes:
    """The trainer's answer. Waits up to `patience` seconds for a trainer that is starting, and retries after a lost connection.

    Raises Unreachable. A retry is safe: the trainer returns its stored answer to a repeated request.
    """
    until = time.monotonic() + patience
    failures = 0
    while failures < tries:
        try:
            endpoint = json.loads(file.read_text(encoding="utf-8"))
            address, secret = ("127.0.0.1", int(endpoint["port"])), bytes.fromhex(endpoint["secret"])
            connection = Client(address, authkey=secret)
        except (OSError, ValueError, KeyError, EOFError, AuthenticationError):
            if time.monotonic() > until:
                break
            time.sleep(0.1)
            continue
        with connection:
            try:
                connection.send_bytes(message)
                return connection.recv_bytes(LARGEST)
            except (OSError, EOFError):
                failures += 1
    raise Unreachable(f"the trainer of {file.parent} does not answer")


def serve(file: Path, answer: Callable[[bytes], bytes], go_on: Callable[[], bool] = lambda: True) -> None:
    """Answer messages one at a time while `go_on()` is true; broken or unauthenticated connections are ignored."""
    secret = secrets.token_bytes(32)
    with Listener(("127.0.0.1", 0), backlog=16, authkey=secret) as listener:
        endpoint = json.dumps({"port": listener.address[1], "secret": secret.hex(), "pid": os.getpid()})
        part = file.with_name(f".{file.name}.part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(endpoint)
        part.replace(file)
        while go_on():
            try:
                with listener.accept() as connection:
                    connection.send_bytes(answer(connection.recv_bytes(LARGEST)))
            except (OSError, EOFError, AuthenticationError):
                continue
