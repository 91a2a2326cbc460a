"""`python -m fedloom.deploy.flower_node FOLDER SERVER PIN TRAINER`: a site's node, between the server and the trainer.

Flower's own SuperNode fetches the app that the server submits and starts a process of it for every message. This node speaks the
same protocol through Flower's own connection (its keys, signatures, heartbeats and retries), fetches no app and starts no
process: a message's bytes go to the trainer, and its answer goes back. A run of another app than the pinned one is refused by
name. It uses parts of Flower that are not public (flwr 1.40 to 1.42) and never imports torch.
"""

import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.fleet_http_connection import http_request_response

from fedloom.deploy import refusals
from fedloom.deploy.flower_message import bytes_in, record_of
from fedloom.deploy.pace import pause
from fedloom.deploy.trainer_link import Unreachable, ask


class Node:
    """Answers the messages of one connection, one after another."""

    def __init__(self, connection: Any, trainer: Path, pin: str, note: Callable[[str], None]) -> None:
        """`connection`: what Flower's `http_request_response` yields; `note` is called with every refusal."""
        _, self.receive, self.send, self.get_run, _, self.fetch, self.push, self.confirm = connection
        self.trainer, self.pin, self.note = trainer, pin, note
        self._runs: dict[int, Run] = {}
        self._last = time.monotonic()

    def work(self) -> None:
        """Answer messages until the connection fails."""
        while True:
            if not self.step():
                time.sleep(pause(time.monotonic() - self._last))

    def step(self) -> bool:
        """Answer one message; False if there is none."""
        try:
            if (received := self.receive()) is None:
                return False
            self._answer(*received)
        except RunNotRunningException:  # it was stopped meanwhile: nobody waits for the answer
            pass
        self._last = time.monotonic()
        return True

    def _answer(self, message: Message, tree: Any) -> None:
        began, run = time.monotonic(), message.metadata.run_id
        if (why := self._refusal(run)) is not None:
            self.note(why)
            self.confirm(run, tree.object_id)
            reply = Message(Error(ErrorCode.INVALID_FAB, why), reply_to=message)
        else:
            try:
                whole = pull_and_inflate_object_from_tree(
                    tree,
                    lambda number: self.fetch(run, number),
                    lambda number: self.confirm(run, number),
                    return_type=Message,
                )
                whole.metadata.__dict__["_message_id"] = tree.object_id
                reply = answered(whole, self.trainer)
            except (ObjectPullError, ValueError, TypeError, KeyError) as error:
                # Lost or damaged on the way: the server asks again.
                reply = Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error)), reply_to=message)
        self._send(reply, time.monotonic() - began)

    def _refusal(self, number: int) -> str | None:
        """The reason why a run's messages are not answered, or None."""
        if number not in self._runs:
            self._runs = {number: self.get_run(number)}
        sent = str(self._runs[number].fab_hash)
        if sent == self.pin:
            return None
        return f"this site works for the app {self.pin[:16]} alone, and the server runs {sent[:16]!r}"

    def _send(self, reply: Message, seconds: float) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run = reply.metadata.run_id
        with no_object_id_recompute():
            wanted, session = self.send(reply, get_object_tree(reply), seconds)
            objects = get_all_nested_objects(reply)
            push_objects(objects, lambda i, data: self.push(run, session, i, data), object_ids_to_push=wanted)


def answered(message: Message, trainer: Path) -> Message:
    """The reply with the trainer's answer, or with the error for which there is none."""
    try:
        # As long as the server waits for the answer: a large foundation takes its time to load again.
        data = ask(trainer, bytes_in(message.content), patience=message.metadata.ttl)
    except (Unreachable, ValueError) as error:
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)
    return Message(record_of(data), reply_to=message)


def main(folder: Path, server: str, pin: str, trainer: Path) -> None:
    """Join the server (host:port) with the folder's key, and answer until SIGTERM or a failed connection.

    `trainer`: the file with its port and secret.
    """
    # An exit, and no sudden end: the node leaves the server, which then need not wait for its heartbeats.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    key: Any = load_ssh_private_key((folder / "node.key").read_bytes(), None)
    keys = (key, key.public_key())
    with http_request_response(server, False, str(folder / "ca.pem"), keys) as connection:
        Node(connection, trainer, pin, partial(refusals.note, folder)).work()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
