"""A mapping whose values are computed on access and not kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class LazyMapping(Mapping[str, T]):
    """One value per client, computed on access by `make` and not kept."""

    clients: Sequence[str]
    make: Callable[[str], T]

    def __getitem__(self, client: str) -> T:
        return self.make(client)

    def __contains__(self, client: object) -> bool:
        return client in self.clients  # Mapping's own would compute the value, and find every name

    def __iter__(self) -> Iterator[str]:
        return iter(self.clients)

    def __len__(self) -> int:
        return len(self.clients)
