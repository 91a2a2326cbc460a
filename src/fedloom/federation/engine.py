"""The engine protocol: asks clients, in this process or at real sites, and returns their replies."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from fedloom.core.payload import Payload, Reply
from fedloom.methods import Method
from fedloom.models.base import Trainable

if TYPE_CHECKING:
    from fedloom.federation.client import Client
    from fedloom.federation.settings import Round


class Engine(Protocol):
    """Runs requests at clients."""

    @property
    def model(self) -> Trainable:
        """The server's foundation and adapters."""

    @property
    def clients(self) -> "Mapping[str, Client]":
        """The clients by name; clients of a deployment hold no data here."""

    def ask(
        self,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: "Round",
        done: Callable[[str, float], None] = lambda client, seconds: None,
        received: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> list[Reply]:
        """At most one reply per asked client, in the order of `payloads`, each passed through `received` as it arrives.

        An engine writes to no tensor of `payloads`, which several clients may share.
        """

    def close(self) -> None:
        """End what the engine has started, such as workers."""
