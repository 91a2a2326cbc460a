"""Between Flower's process and the trainer: whole messages, a secret, and a trainer that may die."""

import json
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from fedloom.deploy import trainer_link
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


def test_a_silent_connection_keeps_nobody_waiting(tmp_path, monkeypatch) -> None:
    file = tmp_path / "trainer.json"
    monkeypatch.setattr(trainer_link, "HANDSHAKE", 0.2)
    with serving(file, lambda data: data[::-1]):
        ask(file, b"wait until it listens", patience=5)
        with socket.create_connection(("127.0.0.1", json.loads(file.read_text())["port"])) as silent:
            assert ask(file, b"abc", patience=5) == b"cba"
            silent.settimeout(20)
            while silent.recv(4096):  # the challenge; then the end, because nothing answers it
                pass
        assert ask(file, b"abc", patience=5) == b"cba"


def test_a_client_that_proved_itself_and_then_keeps_silent_keeps_nobody_waiting(
    tmp_path, monkeypatch
) -> None:
    file = tmp_path / "trainer.json"
    monkeypatch.setattr(trainer_link, "HANDSHAKE", 0.2)
    with serving(file, lambda data: data[::-1]):
        ask(file, b"wait until it listens", patience=5)
        endpoint = json.loads(file.read_text())
        with Client(("127.0.0.1", endpoint["port"]), authkey=bytes.fromhex(endpoint["secret"])) as slow:
            assert ask(file, b"abc", patience=5) == b"cba"
            slow.send_bytes(b"at last")
            assert slow.recv_bytes() == b"tsal ta"


def test_a_crowd_of_silent_connections_has_a_bound_and_keeps_nobody_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trainer_link, "CONNECTIONS", 8)
    file, before = tmp_path / "trainer.json", threading.active_count()
    with serving(file, lambda data: data[::-1]), ExitStack() as crowd:
        ask(file, b"wait until it listens", patience=5)
        port = json.loads(file.read_text())["port"]
        for _ in range(3 * trainer_link.CONNECTIONS):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert ask(file, b"abc", patience=20) == b"cba"
        deadline = time.monotonic() + 60
        while threading.active_count() > before + 2 + trainer_link.CONNECTIONS:
            assert time.monotonic() < deadline, "a thread each, and no more"
            time.sleep(0.01)


def test_a_port_that_somebody_else_has_taken_is_not_waited_for_forever(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trainer_link, "HANDSHAKE", 0.1)
    file = tmp_path / "trainer.json"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        file.write_text(json.dumps({"port": mute.getsockname()[1], "secret": "00"}))
        with pytest.raises(Unreachable, match="does not answer"):
            ask(file, b"x", patience=0.2)


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
