"""A site's node: what it answers, what it refuses, and how often it looks."""

import json
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed")

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

from fedloom.deploy.app_bundle import pinned_app, write_app
from fedloom.deploy.flower_message import bytes_in, record_of
from fedloom.deploy.flower_node import Node
from fedloom.deploy.pace import SHARE, pause
from fedloom.deploy.trainer_link import serve

PIN, RUN = "a" * 64, 7


class Server:
    """The server's end of a connection, in this process: `sent` is what the node has sent back."""

    def __init__(self, app: str = PIN) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
        self.app = app
        self.waiting: list[tuple[Message, dict[str, bytes]]] = []
        self.objects: dict[str, bytes] = {}
        self.pulled: list[str] = []
        self.confirmed: list[str] = []
        self.sent: list[Message] = []
        self.stopped = False

    def ask(self, data: bytes) -> str:
        message = Message(record_of(data), 5, "train", ttl=60.0)
        message.metadata.__dict__["_message_id"] = message.object_id
        self.waiting.append((message, {n: o.deflate() for n, o in get_all_nested_objects(message).items()}))
        return message.object_id

    def connection(self) -> tuple[object, ...]:
        return (
            5,
            self.receive,
            self.send,
            lambda run: types.SimpleNamespace(fab_hash=self.app),
            lambda digest, run: pytest.fail("the node fetched an app"),
            self.fetch,
            self.push,
            lambda run, number: self.confirmed.append(number),
        )

    def receive(self):
        if self.stopped:
            raise RunNotRunningException
        if not self.waiting:
            return None
        message, self.objects = self.waiting.pop(0)
        return message, get_object_tree(message)

    def fetch(self, run: int, number: str) -> bytes:
        assert run == RUN
        self.pulled.append(number)
        return self.objects[number]

    def send(self, reply: Message, tree: object, seconds: float):
        self._reply, self._contents = reply, {}
        wanted = set(get_all_nested_objects(reply)) if not reply.has_error() else {reply.object_id}
        self._wanted = set(wanted)
        return wanted, "session"

    def push(self, run: int, session: str, number: str, data: bytes) -> None:
        assert (run, session) == (RUN, "session")
        self._contents[number] = data
        if self._contents.keys() == self._wanted:
            self.sent.append(inflate_object_from_contents(self._reply.object_id, self._contents))


@pytest.fixture
def trainer(tmp_path) -> Path:
    """A trainer that answers with the bytes turned round."""
    over = threading.Event()
    place = tmp_path / "trainer.json"
    link = (place, lambda data: bytes(reversed(data)), lambda: not over.is_set())
    thread = threading.Thread(target=serve, args=link, daemon=True)
    thread.start()
    yield place
    over.set()
    thread.join(5)


def test_the_trainers_answer_goes_back_and_names_its_question(trainer) -> None:
    server, notes = Server(), []
    number = server.ask(b"abc")
    node = Node(server.connection(), trainer, PIN, notes.append)
    assert node.step()
    assert not node.step()
    [reply] = server.sent
    assert bytes_in(reply.content) == b"cba"
    assert reply.metadata.reply_to_message_id == number
    assert server.confirmed == [number]
    assert notes == []


def test_a_run_of_another_app_is_refused_by_name_and_nothing_of_it_is_fetched(tmp_path) -> None:
    server, notes = Server(app="b" * 64), []
    number = server.ask(b"abc")
    assert Node(server.connection(), tmp_path, PIN, notes.append).step()
    [reply] = server.sent
    assert reply.has_error()
    assert notes == [reply.error.reason]
    assert f"for the app {PIN[:16]} alone" in notes[0]
    assert "b" * 16 in notes[0]
    assert server.pulled == []
    assert server.confirmed == [number], "the server may forget the question"


def test_a_question_that_cannot_be_fetched_is_asked_again_by_the_server(tmp_path) -> None:
    from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

    from fedloom.deploy.flower_server import ON_THE_WAY

    server = Server()
    server.ask(b"abc")

    def gone(run: int, number: str) -> bytes:
        raise ObjectPullError(number, "gone")

    server.fetch = gone
    Node(server.connection(), tmp_path, PIN, print).step()
    [reply] = server.sent
    assert reply.error.code in ON_THE_WAY


@pytest.mark.parametrize("data", [b"", b"Array 5\0hello", b"Array x\0"])
def test_a_damaged_question_costs_itself_and_not_the_node(data, tmp_path) -> None:
    from fedloom.deploy.flower_server import ON_THE_WAY

    server = Server()
    server.ask(b"abc")
    server.fetch = lambda run, number: data
    assert Node(server.connection(), tmp_path, PIN, print).step()
    [reply] = server.sent
    assert reply.error.code in ON_THE_WAY


def test_other_content_and_a_silent_trainer_cost_one_answer_each(tmp_path, monkeypatch) -> None:
    from flwr.app import ConfigRecord, RecordDict

    server = Server()
    server.ask(b"abc")
    message = Message(RecordDict({"x": ConfigRecord({"y": 1})}), 5, "train", ttl=60.0)
    message.metadata.__dict__["_message_id"] = message.object_id
    server.waiting[0] = (message, {n: o.deflate() for n, o in get_all_nested_objects(message).items()})
    server.ask(b"abc")
    node = Node(server.connection(), tmp_path, PIN, print)
    assert node.step()
    monkeypatch.setattr(
        "fedloom.deploy.flower_node.ask",
        lambda place, data, patience: json.loads("x") if patience > 60 else b"patience is the message's",
    )
    assert node.step()
    assert "without fedloom's bytes" in server.sent[0].error.reason
    assert bytes_in(server.sent[1].content) == b"patience is the message's"


def test_a_run_that_is_over_ends_its_message_and_not_the_node(trainer) -> None:
    server = Server()
    node = Node(server.connection(), trainer, PIN, print)
    server.stopped = True
    assert node.step()
    server.stopped = False
    server.ask(b"ab")
    assert node.step()
    assert bytes_in(server.sent[0].content) == b"ba"


def test_pauses_are_short_after_a_message_and_never_long() -> None:
    assert pause(0) == pytest.approx(0.1)
    assert pause(20) == pytest.approx(20 * SHARE)
    assert pause(3600) == pytest.approx(3.0)
    assert pause(3600, shortest=5.0, longest=1.0) == pytest.approx(5.0), "what was asked for wins"


def test_the_node_stays_small() -> None:
    check = "import sys, fedloom.deploy.flower_node; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_the_pin_is_that_of_the_app_which_the_server_submits(tmp_path) -> None:
    import hashlib

    from flwr.cli.build import build_fab_from_disk

    write_app(tmp_path / "app")
    assert hashlib.sha256(build_fab_from_disk(tmp_path / "app")).hexdigest() == pinned_app()
    (tmp_path / "app" / "more.md").write_text("x")
    assert hashlib.sha256(build_fab_from_disk(tmp_path / "app")).hexdigest() != pinned_app()
