"""Known answers of the primitives through our wrappers, and secrets that come back from their shares and only from enough."""

import numpy as np
import pytest

from fedloom.privacy.keystream import keystream
from fedloom.privacy.secure import masks
from fedloom.privacy.secure import secret_sharing as shares

unhex = bytes.fromhex


def test_x25519_of_rfc_7748_section_6_1() -> None:
    alice = unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    shared = unhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert masks.public_key(alice) == unhex(
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    assert masks.agree(alice, masks.public_key(bob)) == masks.agree(bob, masks.public_key(alice)) == shared


def test_a_public_key_of_small_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"."):
        masks.agree(bytes(range(32)), bytes(32))


def test_hkdf_of_rfc_5869_appendix_a_1() -> None:
    key = masks.hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert key == unhex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf")


def test_keys_for_different_purposes_and_sessions_differ() -> None:
    secret = bytes(32)
    keys = {
        masks.derive(secret, session, *purpose)
        for session in (b"1", b"2")
        for purpose in (("pair", "ab", "c"), ("pair", "a", "bc"), ("pairab", "c"), ("self", "abc"))
    }
    assert len(keys) == 8


def test_chacha20_of_rfc_8439_appendix_a_1() -> None:
    first = keystream(bytes(32), 16, np.dtype("<u4"))  # vectors 1 and 2: key and nonce zero, blocks 0 and 1
    assert first.tobytes() == unhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    both = keystream(bytes(31) + b"\x01", 16, np.dtype("<u8"))  # vector 3: block 1 of this key
    assert both.tobytes()[64:] == unhex(
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"
    )


def test_aes_256_gcm_of_the_specifications_test_cases_13_and_14() -> None:
    assert masks.seal(bytes(32), b"", b"") == unhex("530f8afbc74536b9a963b4f1c4cb738b")
    sealed = masks.seal(bytes(32), bytes(16), b"")
    assert sealed == unhex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")


def test_what_is_sealed_opens_only_with_its_key_and_context_and_untouched() -> None:
    key = bytes(range(32))
    sealed = masks.seal(key, b"shares", b"a>b")
    assert masks.open_sealed(key, sealed, b"a>b") == b"shares"
    assert masks.open_sealed(key, sealed, b"b>a") is None
    assert masks.open_sealed(bytes(32), sealed, b"a>b") is None
    assert masks.open_sealed(key, sealed[:-1] + b"?", b"a>b") is None


def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not() -> None:
    secret = bytes(range(100, 132))
    parts = dict(enumerate(shares.split(secret, 3, 5), 1))
    for chosen in ((1, 2, 3), (1, 3, 5), (2, 4, 5), (1, 2, 3, 4, 5)):
        assert shares.combine({i: parts[i] for i in chosen}, 3) == secret
    with pytest.raises(ValueError, match="2 shares, 3 are needed"):
        shares.combine({1: parts[1], 2: parts[2]}, 3)
    # Two shares of a threshold of three, taken for a threshold of two, give something else.
    assert shares.combine({1: parts[1], 2: parts[2]}, 2) != secret
    with pytest.raises(ValueError, match="32 bytes"):
        shares.split(b"short", 2, 3)
    with pytest.raises(ValueError, match="32 bytes"):
        shares.combine({1: b"short", 2: parts[2]}, 2)


def test_one_share_says_nothing_of_the_secret() -> None:
    """Over many splits of the same secret every byte of a share is uniform: chi-square with 255 degrees of freedom."""
    first_bytes = np.frombuffer(b"".join(shares.split(bytes(32), 2, 2)[0] for _ in range(400)), np.uint8)
    counts = np.bincount(first_bytes, minlength=256)
    expected = len(first_bytes) / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 400  # p < 1e-8
