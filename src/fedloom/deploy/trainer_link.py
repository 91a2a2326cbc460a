"""The link between Flower's process and the warm trainer: messages over a loopback socket, authenticated by a shared secret.

`multiprocessing.connection` of the standard library does the mutual authentication (HMAC of a random challenge) and frames the
bytes; `send_bytes` and `recv_bytes` pickle nothing. The trainer writes its port and secret to a file with mode 0600, or 0640
in a folder whose group is that of another user's SuperNode (see `deploy.site_users`). This module imports no framework, because
Flower starts a process for every message.
"""

import contextlib
import json
import os
import queue
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

ADDRESS, NODE = "trainer.json", "node"
"""File with the trainer's port and secret; the folder in a site's folder that a SuperNode with a user of its own works in."""
LARGEST = 2**33
"""Largest accepted message, in bytes."""
HANDSHAKE = 10.0
"""Seconds within which a connection has to prove that it knows the secret."""
CONNECTIONS = 32
"""Connections at one time, each with a thread of its own; beyond, the oldest without proof gives way."""

FAULTS = (OSError, EOFError, AuthenticationError, AssertionError)
"""The errors of a connection that breaks or does not know the secret; the standard library asserts the form of a challenge."""

Question = tuple[bytes, "Future[bytes]"]


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
            place = json.loads(file.read_text(encoding="utf-8"))
            connection = _connect(int(place["port"]), bytes.fromhex(place["secret"]))
        except (*FAULTS, ValueError, KeyError):
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


def _connect(port: int, secret: bytes) -> "Connection[bytes, bytes]":
    """An authenticated connection. Raises OSError, also if the other end stays silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANDSHAKE) as sock:
        sock.settimeout(None)
        connection: Connection[bytes, bytes] = Connection(sock.detach())
    try:
        if not connection.poll(HANDSHAKE):
            raise TimeoutError("no challenge")
        answer_challenge(connection, secret)
        deliver_challenge(connection, secret)
    except BaseException:
        connection.close()
        raise
    return connection


def serve(file: Path, answer: Callable[[bytes], bytes], go_on: Callable[[], bool] = lambda: True) -> None:
    """Answer messages one at a time, in this thread, while `go_on()` is true.

    Connections have threads of their own, so that one that is silent, broken or without the secret keeps nobody waiting.
    """
    secret = secrets.token_bytes(32)
    questions: queue.Queue[Question] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        door = _Door(listener, secret, questions)
        _write_endpoint(file, listener.getsockname()[1], secret)
        threading.Thread(target=door.keep, daemon=True).start()
        try:
            while go_on():
                with contextlib.suppress(queue.Empty):
                    message, reply = questions.get(timeout=0.5)
                    try:
                        reply.set_result(answer(message))
                    except OSError as error:  # costs this message
                        reply.set_exception(error)
        finally:
            door.close()
            while not questions.empty():
                questions.get()[1].set_exception(ConnectionResetError())


def endpoint(folder: Path) -> Path:
    """The file with the port and secret of the trainer in a site's folder."""
    return (folder / NODE if (folder / NODE).is_dir() else folder) / ADDRESS


def _write_endpoint(file: Path, port: int, secret: bytes) -> None:
    place = json.dumps({"port": port, "secret": secret.hex(), "pid": os.getpid()})
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        if part.parent.stat().st_mode & stat.S_ISGID:
            os.fchmod(handle.fileno(), 0o640)
        handle.write(place)
    part.replace(file)


class _Door:
    """Lets connections in: a thread each, a deadline for the proof of the secret, and a limit to their number."""

    def __init__(self, listener: socket.socket, secret: bytes, questions: "queue.Queue[Question]") -> None:
        self.listener, self.secret, self.questions = listener, secret, questions
        self._lock = threading.Lock()
        self._open: dict[
            socket.socket, float | None
        ] = {}  # when it connected; None once it has proved itself
        self._over = threading.Event()

    def keep(self) -> None:
        """Accept connections until `close`, and end those that keep silent."""
        self.listener.settimeout(0.5)
        while not self._over.is_set():
            sock: socket.socket | None = None
            try:
                sock, _ = self.listener.accept()
            except TimeoutError:
                pass
            except OSError:  # no descriptor is free, or the listener is closed
                self._over.wait(0.5)
            self._turn_out(late=time.monotonic() - HANDSHAKE)
            if sock is not None:
                sock.settimeout(None)
                self._let_in(sock)

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            self._over.set()
            for sock in self._open:
                _shut(sock)

    def _turn_out(self, late: float) -> None:
        """End the connections without proof that were made before `late`."""
        with self._lock:
            for sock, since in self._open.items():
                if since is not None and since <= late:
                    _shut(sock)

    def _let_in(self, sock: socket.socket) -> None:
        with self._lock:
            if self._over.is_set():
                sock.close()
                return
            if len(self._open) >= CONNECTIONS:
                unproven = [s for s, since in self._open.items() if since is not None]
                leaves = unproven[0] if unproven else sock
                self._open.pop(leaves, None)
                _shut(leaves)
            self._open[sock] = time.monotonic()
        threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        try:
            with Connection(os.dup(sock.fileno())) as connection:
                deliver_challenge(connection, self.secret)
                answer_challenge(connection, self.secret)
                with self._lock:
                    self._open[sock] = None
                message = connection.recv_bytes(LARGEST)
                reply: Future[bytes] = Future()
                self.questions.put((message, reply))
                connection.send_bytes(reply.result())
        except FAULTS:
            return
        finally:
            with self._lock:
                self._open.pop(sock, None)
                sock.close()


def _shut(sock: socket.socket) -> None:
    """End a connection whose thread may be reading; the thread closes it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
