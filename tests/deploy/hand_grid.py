"""A Flower Grid in this process: it answers as a site's node does, through Flower's own wire format.

It uses a few private parts of Flower, all of them here: the message's identity, and the objects that a message is sent as.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from fedloom.deploy.flower_node import answered
from fedloom.deploy.flower_server import GridCarrier
from fedloom.deploy.trainer_link import Unreachable, ask, serve
from tests.deploy.silos import Silos


class HandGrid(Grid):
    """`places` says where each site's trainer listens; `spoil` may change or drop a reply."""

    def __init__(self, places: dict[str, Path]) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1
        self.places = places
        self.away: set[str] = set()
        self.started: dict[str, str] = {}  # when a site's node was activated last
        self.spoil: Callable[[str, Message], list[Message]] = lambda site, reply: [reply]
        self.replies: list[Message] = []
        self.site_of: dict[str, str] = {}
        self.sent = 0

    def get_nodes(self) -> Iterable[NodeInfo]:
        named = enumerate(sorted(self.places), 100)
        return [
            NodeInfo(node_id=number, name=site, last_activated_at=self.started.get(site, ""))
            for number, site in named
            if site not in self.away
        ]

    def get_node_ids(self) -> Iterable[int]:
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        due, self.replies = self.replies, []
        return due

    def _deliver(self, message: Message) -> str:
        number = uuid.uuid4().hex
        site = sorted(self.places)[message.metadata.dst_node_id - 100]
        self.sent += 1
        arrived = through_the_wire(message)
        arrived.metadata.__dict__["_message_id"] = number
        reply = through_the_wire(answered(arrived, self.places[site]))
        self.site_of[number] = site
        self.replies += self.spoil(site, reply)
        return number

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        raise NotImplementedError


def through_the_wire(message: Message) -> Message:
    """A message as it arrives: its objects serialised and parsed again."""
    contents = {number: answer.deflate() for number, answer in get_all_nested_objects(message).items()}
    arrived: Any = inflate_object_from_contents(message.object_id, contents)
    return arrived


@contextmanager
def between(silos: Silos, folder: Path) -> Iterator[GridCarrier]:
    """A carrier over a HandGrid to these silos' trainers, each behind its socket; places are files below `folder`."""
    over = threading.Event()
    places = {name: folder / f"{name}.json" for name in silos.names}
    threads = []
    for name, place in places.items():
        options = (place, silos.trainer(name).answer, lambda: not over.is_set())
        threads.append(threading.Thread(target=serve, args=options, daemon=True))
        threads[-1].start()
    try:
        yield GridCarrier(HandGrid(places), timeout=60, poll=0.01)
    finally:
        over.set()
        for place, thread in zip(places.values(), threads, strict=True):
            with suppress(Unreachable):  # it may have seen that it is over by itself
                ask(place, b"", patience=0.2)
            thread.join(10)
