"""Secure summation with double masks: the roster that both sides know, and the rules that they share.

Paper: Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, Figure 4. The phases
of a session:

1. keys: every client sends two fresh public keys, one for sealing and one for masks, and says which groups it adds to;
2. shares: every client splits its private mask key and a seed for each part of its vector among all clients, sealed;
3. masked: y_u = x_u + PRG(seed_u) + sum over v > u of PRG(s_uv) - sum over v < u of PRG(s_uv)   (mod 2^bits);
4. unmask: of a client that is in the sum, its seed is opened; of one that was lost after phase 2, its mask key. Never both.

Deliberate differences: a vector has parts, the groups of tensors that the same clients hold, because clients lack modalities; a
pair masks what both hold, and a part is opened only where enough of its own holders are left (`Roster.least_of`).

Between real sites clients sign (`authentication`): their keys in phase 1, the roster in phase 2, and between phases 3 and 4 the
list of survivors. In one process there are no signatures, since whoever runs it holds all keys.

The threshold t is more than half of the n clients, so that no two disjoint sets of t clients exist, and a server that tells
clients different lists of survivors never collects both kinds of share of one client. Without signatures it can still open a sum
of fewer than t, by lists that overlap: of as few as n (2 t - n) / t clients, 51 of 100 at the default of two thirds and 4 of
100 at t = 51. Signed lists exclude that. With c clients on the server's side everything here takes 2 t > n + c; the default
bears a third of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedloom.core.shares import at_least

Groups = Mapping[str, Sequence[str]]
"""The groups whose tensors each client adds to the sum."""

ROOM = 4
"""Deviations of its noise that a number of a sum must hold: one in 16,000 is cut."""


class ProtocolError(Exception):
    """A message that the protocol does not allow; the receiver goes no further."""


class Abandoned(Exception):  # noqa: N818 - not an error: a sum that cannot be opened stays closed
    """Too few clients are left; nothing has been opened."""


def threshold_of(share: float, clients: int) -> int:
    """The least number of `clients` at every phase: the share, rounded up, and always more than half."""
    return max(clients // 2 + 1, at_least(share, clients))


@dataclass(frozen=True)
class Roster:
    """The clients of a session after phase 1, their keys and groups, as the server sends it to all."""

    session: bytes
    sealing: Mapping[str, bytes]
    """Public keys for sealing by client."""
    masking: Mapping[str, bytes]
    """Public keys for masks by client."""
    groups: Groups
    threshold: int
    least: int
    """No sum of fewer clients is ever opened."""

    @cached_property
    def clients(self) -> tuple[str, ...]:
        """The clients in order; a client's place is the index of its shares."""
        return tuple(sorted(self.masking))

    @cached_property
    def _holders(self) -> dict[str, tuple[str, ...]]:
        names = sorted({g for groups in self.groups.values() for g in groups})
        return {g: tuple(c for c in self.clients if g in self.groups[c]) for g in names}

    def holders(self, group: str) -> tuple[str, ...]:
        """The clients that add to a group."""
        return self._holders.get(group, ())

    @cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Groups by part, named by its first group: those that the same clients hold are opened together."""
        by_holders: dict[tuple[str, ...], list[str]] = {}
        for group, holders in self._holders.items():
            by_holders.setdefault(holders, []).append(group)
        return {groups[0]: tuple(groups) for groups in by_holders.values()}

    def parts_of(self, client: str) -> tuple[str, ...]:
        """The parts that a client adds to, in order."""
        return tuple(p for p in self.parts if client in self.holders(p))

    def least_of(self, group: str) -> int:
        """The least number of a group's holders in a sum that is opened: the threshold's share of them, and `least`."""
        return max(self.least, -(-self.threshold * len(self.holders(group)) // len(self.clients)))

    def opens(self, group: str, present: Sequence[str]) -> bool:
        """Whether a group, and with it its part, may be opened with these clients in the sum."""
        there = set(present)
        return sum(c in there for c in self.holders(group)) >= self.least_of(group)

    def check(self, name: str) -> None:
        """Verify the roster before shares are entrusted to the others. Raises ProtocolError."""
        keys = [*self.sealing.values(), *self.masking.values()]
        if self.sealing.keys() != self.masking.keys() or self.masking.keys() != self.groups.keys():
            raise ProtocolError("the roster does not name the same clients everywhere")
        if name not in self.masking:
            raise ProtocolError(f"the roster does not name {name}")
        if len(set(keys)) < len(keys):
            raise ProtocolError("two keys in the roster are equal")
        if not len(self.clients) / 2 < self.threshold <= len(self.clients):
            raise ProtocolError(
                f"a threshold of {self.threshold} of {len(self.clients)} clients protects nobody"
            )
        if self.least < 2:
            raise ProtocolError("a sum of one client is no sum")
