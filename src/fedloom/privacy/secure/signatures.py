"""Signatures of secure summation: by whose keys they are judged, and the texts that are signed.

Ed25519 (RFC 8032), the `cryptography` package's. Every text begins with a purpose of its own, so that a signature for one
purpose is none for another, and holds the session and the list's version.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedloom.privacy.secure.protocol import ProtocolError, Roster


@dataclass(frozen=True)
class PublicKeys:
    """The clients' public keys (32 bytes each), from one list that somebody outside the server vouches for."""

    version: int
    """The list's version; two clients of one sum must have the same."""
    keys: Mapping[str, bytes]

    def check(self, client: str, text: bytes, signature: bytes, fault: str) -> None:
        """Raise ProtocolError, with the sentence `fault`, unless the client signed this text."""
        if client not in self.keys:
            raise ProtocolError(f"{client} is not in the signed list of sites (version {self.version})")
        try:
            Ed25519PublicKey.from_public_bytes(self.keys[client]).verify(signature, text)
        except (InvalidSignature, ValueError):
            raise ProtocolError(f"{fault} (list of sites {self.version})") from None


@dataclass(frozen=True)
class Identity:
    """A client's own signing key, and the keys of all clients as it knows them."""

    private: Ed25519PrivateKey
    known: Callable[[], PublicKeys]

    def sign(self, text: bytes) -> bytes:
        """The signature (64 bytes) of a text."""
        return self.private.sign(text)


@dataclass(frozen=True)
class Texts:
    """The texts of one sum: its session (hex digits), its round, the version of the list of sites, and its clip.

    With one clip for all, no client's noise is that of a smaller clip than another's change. 0.0: the clip is not adaptive.
    """

    session: str
    round: int
    version: int
    clip: float = 0.0

    def keys(self, client: str, sealing: bytes, masking: bytes, groups: Sequence[str]) -> bytes:
        """A client's two fresh public keys, and the groups that it adds to."""
        return self._text("keys", client, sealing.hex(), masking.hex(), sorted(groups))

    def roster(self, roster: Roster) -> bytes:
        """All clients of the sum with their keys and groups, and the rules."""
        clients = [
            [c, roster.sealing[c].hex(), roster.masking[c].hex(), list(roster.groups[c])]
            for c in roster.clients
        ]
        return self._text("roster", clients, roster.threshold, roster.least)

    def survivors(self, roster: Roster, survivors: Sequence[str]) -> bytes:
        """The clients whose masked words are in the sum of this roster."""
        return self._text("survivors", hashlib.sha256(self.roster(roster)).hexdigest(), sorted(survivors))

    def _text(self, purpose: str, *fields: Any) -> bytes:
        what = [
            "fedloom: secure sum, format 1",
            purpose,
            self.session,
            self.round,
            self.version,
            self.clip,
            *fields,
        ]
        return json.dumps(what, separators=(",", ":")).encode()
