"""Between Flower's process and the trainer: whole messages, a secret, and a trainer that may die."""

import json
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from fedloom.deploy.trainer_link import Unreachable, ask, serve


@contextmanager
def serving(file: Path, answer: Callable[[bytes], bytes]) -> Iterator[threading.Event]:
    """A trainer's end in a thread; a last message frees it from waiting."""
    over = threading.Event()
    thread = threading.Thread(target=serve, args=(file, answer, lambda: not over.is_set()), daemon=True)
    thread.start()
    try:
        yield over
    finally:
        over.set()
        with suppress(Unreachable):  # it may have seen that it is over by itself
            ask(file, b"", patience=0.2)
        thread.join(10)
        assert not thread.is_alive()


def test_bytes_come_through_whole_and_the_secret_is_its_owners(tmp_path) -> None:
    file = tmp_path / "trainer.json"
    with serving(file, lambda data: data[::-1]):
        assert ask(file, b"abc", patience=5) == b"cba"
        assert ask(file, bytes(range(256)) * 40_000, patience=5) == bytes(range(255, -1, -1)) * 40_000
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_whoever_has_no_secret_is_not_heard_and_others_still_are(tmp_path) -> None:
    file, received = tmp_path / "trainer.json", []
    with serving(file, lambda data: received.append(data) or data):
        ask(file, b"wait until it listens", patience=5)
        port = json.loads(file.read_text())["port"]
        with pytest.raises(Exception, match=r".*"), Client(("127.0.0.1", port), authkey=b"guessed"):
            pass
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"\0" * 64)
        assert ask(file, b"mine", patience=5) == b"mine"
    assert received[:2] == [b"wait until it listens", b"mine"]
    assert set(received[2:]) <= {b""}


def test_a_trainer_that_dies_on_the_way_is_asked_again(tmp_path) -> None:
    file, times = tmp_path / "trainer.json", []

    def answer(data: bytes) -> bytes:
        times.append(data)
        if len(times) == 1:
            raise ConnectionResetError
        return b"second"

    with serving(file, answer):
        assert ask(file, b"question", patience=5) == b"second"
    assert times[:2] == [b"question", b"question"]


def test_no_trainer_is_said_and_not_waited_for_forever(tmp_path) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        ask(tmp_path / "trainer.json", b"x", patience=0.2)
