"""Keys and masks of secure summation: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20 (RFC 8439), AES-256-GCM.

All primitives are the `cryptography` package's. A key of 32 bytes makes one stream of words and no second one, so
that the nonce is zero; names in `info` keep streams apart.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedloom.privacy.keystream import KEY

_NONCE = bytes(12)


def public_key(private: bytes) -> bytes:
    """The public X25519 key (32 bytes) of a private one (32 random bytes)."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes) -> bytes:
    """The shared secret (32 bytes) of two key pairs. Raises ValueError for a public key that makes it predictable."""
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def derive(secret: bytes, session: bytes, *purpose: str) -> bytes:
    """A key of 32 bytes for one purpose in one session, by HKDF-SHA256 with the session as salt."""
    # Each part with its length in front: no two purposes give the same bytes.
    info = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in ("fedloom", *purpose))
    return hkdf(secret, session, info)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256."""
    return HKDF(SHA256(), KEY, salt=salt, info=info).derive(secret)


def seal(key: bytes, text: bytes, context: bytes) -> bytes:
    """AES-256-GCM of `text`, bound to `context`; the key must not seal anything else."""
    return AESGCM(key).encrypt(_NONCE, text, context)


def open_sealed(key: bytes, sealed: bytes, context: bytes) -> bytes | None:
    """The text, or None where key, sealed bytes or context are not those of the sender."""
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, context)
    except InvalidTag:
        return None
