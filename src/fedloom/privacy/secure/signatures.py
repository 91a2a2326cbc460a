"""Signatures of secure summation: what a client signs, by whose keys it is judged, and what a forgery is called.

Ed25519 (RFC 8032), the `cryptography` package's. Every signed text begins with a purpose of its own, so that a signature
for one purpose is none for another.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedloom.privacy.secure.protocol import ProtocolError


@dataclass(frozen=True)
class PublicKeys:
    """The clients' public keys (32 bytes each), from one list that somebody outside the server vouches for."""

    version: int
    """The list's version; two clients of one sum must have the same."""
    keys: Mapping[str, bytes]

    def check(self, client: str, text: bytes, signature: bytes) -> None:
        """Raise ProtocolError unless the client signed this text."""
        if client not in self.keys:
            raise ProtocolError(f"{client} is not in the signed list of sites (version {self.version})")
        try:
            Ed25519PublicKey.from_public_bytes(self.keys[client]).verify(signature, text)
        except (InvalidSignature, ValueError):
            raise ProtocolError(
                f"the signature of {client} does not hold under list {self.version}"
            ) from None


@dataclass(frozen=True)
class Identity:
    """A client's own signing key, and the keys of all clients as it knows them."""

    private: Ed25519PrivateKey
    known: Callable[[], PublicKeys]

    def sign(self, text: bytes) -> bytes:
        """The signature (64 bytes) of a text."""
        return self.private.sign(text)
