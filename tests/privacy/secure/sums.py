"""A session of secure summation without any engine, for tests: clients that fall silent at a phase; what the server saw."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedloom.privacy.secure.collector import Collector
from fedloom.privacy.secure.fixed_point import Words
from fedloom.privacy.secure.member import Member

SESSION = b"a session's salt"


def fixed_entropy(name: str) -> Callable[[int], bytes]:
    """Keys that everybody can guess: 32 bytes of the name and a counter."""
    counted = iter(range(8, 250, 8))  # X25519 does not look at the lowest three bits
    return lambda size: bytes([next(counted)]) + name.encode().ljust(size - 1, b".")


@dataclass
class Seen:
    """What the server saw: each phase's messages."""

    keys: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    masked: Mapping[str, Mapping[str, Words]] = field(default_factory=dict)
    told: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    survivors: list[str] = field(default_factory=list)


def summed(
    words: Mapping[str, Mapping[str, Words]],
    lost: Mapping[str, Collection[str]] | None = None,
    share: float = 2 / 3,
    least: int = 2,
    entropy: Callable[[str], Callable[[int], bytes]] | None = None,
    seen: Seen | None = None,
) -> dict[str, Words]:
    """The opened sums of clients' words by group; `lost` names who falls silent from a phase on."""
    lost, seen = lost or {}, seen or Seen()
    members = {c: Member(c, entropy(c)) if entropy else Member(c) for c in words}
    collector = Collector(SESSION, list(words), share, least)

    def left(phase: str, clients: Collection[str]) -> list[str]:
        return [c for c in clients if c not in lost.get(phase, ())]

    there = left("keys", list(words))
    seen.keys = {c: members[c].keys() for c in there}
    roster = collector.keys(seen.keys, {c: sorted(w) for c, w in words.items()})
    there = left("shares", there)
    sealed = collector.shares({c: members[c].shares(roster) for c in there})
    there = left("masked", there)
    seen.masked = {c: members[c].masked(sealed[c], words[c]) for c in there}
    seen.survivors = collector.masked(seen.masked)
    there = left("unmask", there)
    seen.told = {c: members[c].unmask(seen.survivors) for c in there}
    return collector.opened(seen.told)


def drawn(
    clients: Collection[str], groups: Mapping[str, int], seed: int = 0, bits: int = 32
) -> dict[str, dict[str, Words]]:
    """Random words of every client in every group of these sizes."""
    rng, dtype = np.random.default_rng(seed), np.dtype(f"<u{bits // 8}")
    return {
        c: {g: np.frombuffer(rng.bytes(n * dtype.itemsize), dtype) for g, n in groups.items()}
        for c in clients
    }
