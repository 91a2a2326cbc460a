"""The server's side of secure summation: collects each phase's messages, and adds masked words."""

from collections.abc import Collection, Mapping, Sequence

from fedloom.privacy.keystream import KEY
from fedloom.privacy.secure.fixed_point import Words
from fedloom.privacy.secure.masks import public_key
from fedloom.privacy.secure.member import pair_mask, self_mask
from fedloom.privacy.secure.protocol import Abandoned, Groups, Roster, threshold_of
from fedloom.privacy.secure.secret_sharing import combine


class Collector:
    """One session. Each step takes one phase's messages; raises Abandoned on too few."""

    def __init__(self, session: bytes, asked: Collection[str], share: float, least: int) -> None:
        """At every phase `share` of the asked clients, and never fewer than `least`, must be left."""
        self.session = session
        self.threshold = max(threshold_of(share, len(asked)), least)
        self._asked, self._least = asked, least
        self._roster: Roster | None = None
        self._sent: dict[str, Mapping[str, Words]] = {}
        self._present: list[str] = []
        self._enough("asked", asked)

    @property
    def roster(self) -> Roster:
        """The session's clients and their keys; known after phase 1."""
        assert self._roster is not None  # noqa: S101 - steps are taken in order
        return self._roster

    def keys(self, sent: Mapping[str, tuple[bytes, bytes]], groups: Groups) -> Roster:
        """After phase 1: the roster of the clients that sent keys and named the groups that they add to."""
        self._enough("keys", sent)
        self._roster = Roster(
            self.session,
            {c: sealing for c, (sealing, _) in sent.items()},
            {c: masking for c, (_, masking) in sent.items()},
            {c: tuple(sorted(groups[c])) for c in sent},
            self.threshold,
            self._least,
        )
        return self._roster

    def shares(self, sent: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
        """After phase 2: each client's sealed shares from the others."""
        self._enough("shares", sent)
        self._present = sorted(sent)
        return {c: {v: sent[v][c] for v in self._present if v != c} for c in self._present}

    def masked(self, sent: Mapping[str, Mapping[str, Words]]) -> list[str]:
        """After phase 3: the survivors, whose words are in the sum."""
        self._enough("masked", sent)
        self._sent = dict(sent)
        return sorted(sent)

    def opened(self, answers: Mapping[str, Mapping[str, bytes]]) -> dict[str, Words]:
        """After phase 4: the sum of the survivors' words in every group that may be opened."""
        self._enough("unmask", answers)
        roster, alive = self.roster, sorted(self._sent)
        lost = [c for c in self._present if c not in self._sent]
        private = {c: self._secret({u: t[c] for u, t in answers.items() if c in t}) for c in lost}
        for client, key in private.items():
            if public_key(key) != roster.masking[client]:
                raise Abandoned(f"the shares of {client}'s mask key do not fit; nothing was opened")
        opened = [part for part in roster.parts if roster.opens(part, alive)]
        sums = {}
        for part in opened:
            holders = [c for c in roster.holders(part) if c in self._sent]
            seeds = {c: self._secret(self._seed_shares(answers, c, part, opened)) for c in holders}
            for group in roster.parts[part]:
                sums[group] = self._open(group, holders, seeds, private)
        return sums

    def _open(
        self, group: str, holders: Sequence[str], seeds: Mapping[str, bytes], mask_keys: Mapping[str, bytes]
    ) -> Words:
        """The survivors' sum in a group, without the masks."""
        roster = self.roster
        total: Words = self._sent[holders[0]][group].copy()
        for client in holders[1:]:
            total += self._sent[client][group]
        for client in holders:
            total -= self_mask(roster, seeds[client], group, total)
        for client in (c for c in roster.holders(group) if c in mask_keys):
            for peer in holders:  # the peer's mask for the lost client is the negative of that client's own
                total += pair_mask(roster, client, mask_keys[client], peer, group, total)
        return total

    def _seed_shares(
        self, answers: Mapping[str, Mapping[str, bytes]], client: str, part: str, opened: Sequence[str]
    ) -> dict[str, bytes]:
        """Each sender's share of a client's seed in one part."""
        at = [p for p in self.roster.parts_of(client) if p in opened].index(part) * KEY
        return {sender: t[client][at : at + KEY] for sender, t in answers.items() if client in t}

    def _secret(self, shares: Mapping[str, bytes]) -> bytes:
        """A secret from its shares by sender."""
        index = {c: i for i, c in enumerate(self.roster.clients, 1)}
        usable = {index[sender]: share for sender, share in shares.items() if len(share) == KEY}
        if len(usable) < self.threshold:
            raise Abandoned(
                f"{len(usable)} shares of a secret, {self.threshold} are needed; nothing was opened"
            )
        return combine(usable, self.threshold)

    def _enough(self, phase: str, clients: Collection[str]) -> None:
        if len(clients) < self.threshold:
            raise Abandoned(
                f"{len(clients)} of {len(self._asked)} clients at phase {phase}, {self.threshold} are needed; "
                "nothing was opened"
            )
