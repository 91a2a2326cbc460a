"""A mapping whose values are made when they are asked for, and kept by nobody."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class LazyMapping(Mapping[str, T]):
    """Something of every client, made when it is asked for and kept by nobody."""

    clients: Sequence[str]
    make: Callable[[str], T]

    def __getitem__(self, client: str) -> T:
        return self.make(client)

    def __contains__(self, client: object) -> bool:
        return client in self.clients  # a Mapping's own would make the value, and never miss

    def __iter__(self) -> Iterator[str]:
        return iter(self.clients)

    def __len__(self) -> int:
        return len(self.clients)
