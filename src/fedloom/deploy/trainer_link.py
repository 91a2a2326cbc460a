"""Between Flower's process and the warm trainer beside it: whole messages over a loopback socket, opened by a secret.

The standard library's `multiprocessing.connection` does both sides of the proof (HMAC of a random challenge) and frames the
bytes; `send_bytes` and `recv_bytes` pickle nothing. The trainer writes where it listens, and the secret, to a file that only
its owner may read. This file imports no framework: Flower starts a process for every message, which must be light.
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
"""Bytes of the largest message that is read."""


class Unreachable(Exception):  # noqa: N818 - it ends one message, not the program
    """The trainer did not answer."""


def ask(file: Path, message: bytes, patience: float = 300.0, tries: int = 3) -> bytes:
    """The trainer's answer. Waits `patience` seconds for one that is starting, and asks one that died on the way again.

    Raises Unreachable. Asking again is safe: a trainer answers the same question from what it has kept.
    """
    until = time.monotonic() + patience
    cut = 0
    while cut < tries:
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            place, secret = ("127.0.0.1", int(told["port"])), bytes.fromhex(told["secret"])
            connection = Client(place, authkey=secret)
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
                cut += 1
    raise Unreachable(f"the trainer of {file.parent} does not answer")


def serve(file: Path, answer: Callable[[bytes], bytes], go_on: Callable[[], bool] = lambda: True) -> None:
    """Answer one message after another while `go_on` says so. A caller that goes away, or has no secret, ends nothing."""
    secret = secrets.token_bytes(32)
    with Listener(("127.0.0.1", 0), backlog=16, authkey=secret) as listener:
        told = json.dumps({"port": listener.address[1], "secret": secret.hex(), "pid": os.getpid()})
        part = file.with_name(f".{file.name}.part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(told)
        part.replace(file)
        while go_on():
            try:
                with listener.accept() as connection:
                    connection.send_bytes(answer(connection.recv_bytes(LARGEST)))
            except (OSError, EOFError, AuthenticationError):
                continue
