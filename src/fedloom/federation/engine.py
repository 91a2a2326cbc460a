"""What an engine is to the round loop: something that asks clients and returns their replies."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from fedloom.core.payload import Payload, Reply
from fedloom.methods import Method
from fedloom.models.base import Trainable

if TYPE_CHECKING:
    from fedloom.federation.client import Client
    from fedloom.federation.settings import Round


class Engine(Protocol):
    """Where clients run."""

    @property
    def model(self) -> Trainable:
        """The foundation and its adapters, as the server has them."""

    @property
    def clients(self) -> "Mapping[str, Client]":
        """The clients by name; those of a deployment have no data here."""

    def ask(
        self,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: "Round",
        done: Callable[[str, float], None],
        received: Callable[[Reply], Reply],
    ) -> list[Reply]:
        """At most one reply per asked client, in the order of `payloads`, each handed to `received` as it arrives."""
