"""One client's side of secure summation: a state machine of four steps, each taken once and in order."""

import os
from collections.abc import Callable, Mapping, Sequence

from fedloom.privacy.keystream import KEY, keystream
from fedloom.privacy.secure.fixed_point import Words
from fedloom.privacy.secure.masks import agree, derive, open_sealed, public_key, seal
from fedloom.privacy.secure.protocol import ProtocolError, Roster
from fedloom.privacy.secure.secret_sharing import split

Entropy = Callable[[int], bytes]


class Member:
    """A client in one session. Its secrets are drawn here, leave only as shares, and end with it."""

    def __init__(self, name: str, entropy: Entropy = os.urandom) -> None:
        self.name = name
        self._entropy = entropy
        self._sealing, self._masking = entropy(KEY), entropy(KEY)
        self._step = 0
        self._seeds: dict[str, bytes] = {}
        self._own: bytes = b""
        self._sealed: dict[str, bytes] = {}
        self._roster: Roster | None = None

    def keys(self) -> tuple[bytes, bytes]:
        """Phase 1: the public keys for sealing and for masks."""
        self._go(1)
        return public_key(self._sealing), public_key(self._masking)

    def shares(self, roster: Roster) -> dict[str, bytes]:
        """Phase 2: for every other client its sealed shares of this one's mask key and seeds."""
        self._go(2)
        roster.check(self.name)
        if (roster.sealing[self.name], roster.masking[self.name]) != (
            public_key(self._sealing),
            public_key(self._masking),
        ):
            raise ProtocolError(f"the roster names other keys of {self.name}")
        self._roster = roster
        parts = roster.parts_of(self.name)
        self._seeds = {part: self._entropy(KEY) for part in parts}
        secrets = [self._masking, *self._seeds.values()]
        columns = [split(secret, roster.threshold, len(roster.clients)) for secret in secrets]
        texts = dict(zip(roster.clients, map(b"".join, zip(*columns, strict=True)), strict=True))
        self._own = texts.pop(self.name)
        return {
            peer: seal(self._sealing_key(self.name, peer), text, self._context(self.name, peer))
            for peer, text in texts.items()
        }

    def masked(self, sealed: Mapping[str, bytes], words: Mapping[str, Words]) -> dict[str, Words]:
        """Phase 3: this client's words by group, each under its own mask and one for every other holder.

        `sealed` are the others' shares for this client; a client that sent none is out. A group is left out if too
        few of its holders are left for it ever to be opened.
        """
        self._go(3)
        roster = self._known()
        present = {*sealed, self.name}
        if not present <= set(roster.clients) or len(present) < roster.threshold:
            raise ProtocolError(
                f"{len(present)} clients have shared, {roster.threshold} of the roster are needed"
            )
        self._sealed = dict(sealed)
        result = {}
        for part in roster.parts_of(self.name):
            if not roster.opens(part, sorted(present)):
                continue
            for group in roster.parts[part]:
                masked = words[group] + self_mask(roster, self._seeds[part], group, words[group])
                for peer in roster.holders(group):
                    if peer != self.name and peer in present:
                        masked += pair_mask(roster, self.name, self._masking, peer, group, words[group])
                result[group] = masked
        return result

    def unmask(self, survivors: Sequence[str]) -> dict[str, bytes]:
        """Phase 4: for every survivor the shares of its seeds in the parts that may be opened, for every other client that of
        its mask key.

        Asked a second time it refuses, so that no client's mask key and seed are ever both revealed.
        """
        self._go(4)
        roster = self._known()
        present, alive = {*self._sealed, self.name}, set(survivors)
        if len(alive) < len(survivors) or not alive <= present or self.name not in alive:
            raise ProtocolError(
                "the survivors are not a part of those who shared, with this client among them"
            )
        if len(alive) < roster.threshold:
            raise ProtocolError(f"{len(alive)} survivors, {roster.threshold} are needed; nothing is opened")
        opened = {part for part in roster.parts if roster.opens(part, survivors)}
        shares = {}
        for peer in sorted(present):
            text = self._text(peer)
            if text is None:  # it was tampered with; the others' shares suffice
                continue
            parts = roster.parts_of(peer)
            blocks = [text[at : at + KEY] for at in range(0, len(text), KEY)]
            seeds = [b for part, b in zip(parts, blocks[1:], strict=True) if part in opened]
            shares[peer] = b"".join(seeds) if peer in alive else blocks[0]
        self._masking = self._sealing = self._own = b""
        self._seeds, self._sealed = {}, {}
        return shares

    def _text(self, peer: str) -> bytes | None:
        """A client's shares for this one; None where they do not decrypt."""
        if peer == self.name:
            return self._own
        text = open_sealed(
            self._sealing_key(peer, self.name), self._sealed[peer], self._context(peer, self.name)
        )
        expected = KEY * (1 + len(self._known().parts_of(peer)))
        return text if text is not None and len(text) == expected else None

    def _sealing_key(self, sender: str, receiver: str) -> bytes:
        roster = self._known()
        peer = receiver if sender == self.name else sender
        return derive(agree(self._sealing, roster.sealing[peer]), roster.session, "shares", sender, receiver)

    def _context(self, sender: str, receiver: str) -> bytes:
        return self._known().session + f"{len(sender)}:{sender}>{receiver}".encode()

    def _known(self) -> Roster:
        if self._roster is None:
            raise ProtocolError("there is no roster yet")
        return self._roster

    def _go(self, step: int) -> None:
        if step != self._step + 1:
            raise ProtocolError(f"step {step} does not follow step {self._step}")
        self._step = step


def self_mask(roster: Roster, seed: bytes, group: str, like: Words) -> Words:
    """PRG(seed_u) for one group."""
    return keystream(derive(seed, roster.session, "self", group), len(like), like.dtype)


def pair_mask(roster: Roster, name: str, private: bytes, peer: str, group: str, like: Words) -> Words:
    """PRG(s_uv) for one group, with the sign that makes both ends cancel."""
    first, second = sorted((name, peer))
    key = derive(agree(private, roster.masking[peer]), roster.session, "pair", first, second, group)
    mask = keystream(key, len(like), like.dtype)
    return mask if name == first else -mask
