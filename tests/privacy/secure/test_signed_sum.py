"""Signatures of a secure sum: what a server could open without them, and what a client signs."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedloom.privacy.keystream import KEY
from fedloom.privacy.secure.authentication import Signer
from fedloom.privacy.secure.collector import Collector
from fedloom.privacy.secure.masks import public_key
from fedloom.privacy.secure.member import Member, pair_mask, self_mask
from fedloom.privacy.secure.protocol import ProtocolError, Roster
from fedloom.privacy.secure.secret_sharing import combine
from fedloom.privacy.secure.signatures import Identity, PublicKeys, Texts
from fedloom.privacy.secure.terms import Safeguards, Terms
from fedloom.privacy.settings import Privacy, Secure
from tests.privacy.secure.sums import drawn

CLIENTS = ("a", "b", "c", "d", "e")
VIEWS = {"a": "abc", "b": "abd", "c": "abc", "d": "abd", "e": "abe"}
"""Who is left, as a lying server tells each client: three, itself among them. a and b are in all, c, d and e in two at most."""
SESSION = b"a session's salt"


def five() -> tuple[dict[str, Member], Roster, dict, dict]:
    """Five clients up to phase 3 with a threshold of three: the members, the roster, words and masked words."""
    members, words = {c: Member(c) for c in CLIENTS}, drawn(CLIENTS, {"llm": 7})
    collector = Collector(SESSION, CLIENTS, 0.5, 3)
    roster = collector.keys({c: m.keys() for c, m in members.items()}, {c: ["llm"] for c in CLIENTS})
    assert (roster.threshold, roster.least_of("llm")) == (3, 3)
    sealed = collector.shares({c: m.shares(roster) for c, m in members.items()})
    return members, roster, words, {c: m.masked(sealed[c], words[c]) for c, m in members.items()}


def test_without_signatures_overlapping_lists_of_survivors_open_fewer_than_the_threshold() -> None:
    members, roster, words, masked = five()
    told = {c: m.unmask(sorted(VIEWS[c])) for c, m in members.items()}
    at = {c: i for i, c in enumerate(CLIENTS, 1)}

    def secret(client: str, of: list[str]) -> bytes:
        return combine({at[u]: told[u][client] for u in of}, 3)

    keys = {v: secret(v, [u for u in CLIENTS if v not in VIEWS[u]]) for v in "cde"}
    assert all(public_key(keys[v]) == roster.masking[v] for v in keys)
    total = masked["a"]["llm"] + masked["b"]["llm"]
    for client in "ab":
        total -= self_mask(roster, secret(client, list(CLIENTS)), "llm", total)
    for lost in keys:
        for client in "ab":
            total += pair_mask(roster, lost, keys[lost], client, "llm", total)
    assert np.array_equal(total, words["a"]["llm"] + words["b"]["llm"]), "a sum of two, where least is three"


def signers(roster: Roster) -> dict[str, Signer]:
    keys = {c: Ed25519PrivateKey.generate() for c in CLIENTS}
    known = PublicKeys(4, {c: k.public_key().public_bytes_raw() for c, k in keys.items()})
    return {c: Signer(Identity(k, lambda: known), c, roster.session.hex(), 2) for c, k in keys.items()}


def test_with_signatures_these_lists_open_nothing() -> None:
    _, roster, _, _ = five()
    party = signers(roster)
    signed = {c: s.survivors(roster, sorted(VIEWS[c])) for c, s in party.items()}
    for client, signer in party.items():
        survivors = sorted(VIEWS[client])
        honest = {c: signed[c] for c in survivors if VIEWS[c] == VIEWS[client]}
        assert len(honest) < 3
        with pytest.raises(ProtocolError, match="survivors have signed who is left, 3 are needed"):
            signer.check_survivors(roster, survivors, honest)
        with pytest.raises(ProtocolError, match="has not signed this list of survivors"):
            signer.check_survivors(roster, survivors, {c: signed[c] for c in survivors})
        with pytest.raises(ProtocolError, match="has signed a list of survivors already"):
            signer.survivors(roster, survivors)


def test_one_list_that_all_have_signed_is_enough() -> None:
    _, roster, _, _ = five()
    party, left = signers(roster), ["a", "b", "d", "e"]
    signed = {c: party[c].survivors(roster, left) for c in left}
    for client in left:
        party[client].check_survivors(roster, left, signed)
        party[client].check_survivors(roster, left, {c: signed[c] for c in "bde"})
    with pytest.raises(ProtocolError, match="signed another list"):
        party["a"].check_survivors(roster, ["a", "b", "d"], {c: signed[c] for c in "abd"})


@pytest.mark.parametrize("differs", ["session", "round", "version", "client", "key", "groups", "purpose"])
def test_a_signature_is_for_one_client_sum_and_list(differs) -> None:
    texts = Texts("ab", 1, 2)
    text = texts.keys("north", b"s" * KEY, b"m" * KEY, ["llm"])
    other = {
        "session": Texts("ac", 1, 2).keys("north", b"s" * KEY, b"m" * KEY, ["llm"]),
        "round": Texts("ab", 2, 2).keys("north", b"s" * KEY, b"m" * KEY, ["llm"]),
        "version": Texts("ab", 1, 3).keys("north", b"s" * KEY, b"m" * KEY, ["llm"]),
        "client": texts.keys("south", b"s" * KEY, b"m" * KEY, ["llm"]),
        "key": texts.keys("north", b"s" * KEY, b"n" * KEY, ["llm"]),
        "groups": texts.keys("north", b"s" * KEY, b"m" * KEY, ["llm", "projector"]),
        "purpose": texts.roster(five()[1]),
    }[differs]
    key = Ed25519PrivateKey.generate()
    known = PublicKeys(2, {n: key.public_key().public_bytes_raw() for n in ("north", "south")})
    known.check("north", text, key.sign(text), "")
    with pytest.raises(ProtocolError, match="not by north"):
        known.check("north", other, key.sign(text), "not by north")


def test_a_client_that_is_in_no_list_begins_nothing() -> None:
    known = PublicKeys(3, {"south": b"k" * KEY})
    with pytest.raises(ProtocolError, match=r"north is not in the signed list of sites \(version 3\)"):
        Signer(Identity(Ed25519PrivateKey.generate(), lambda: known), "north", "ab", 1)


@pytest.mark.parametrize(("fellows", "enough"), [(2, True), (3, False)])
def test_a_client_demands_fellows_in_every_sum_that_is_opened(fellows, enough) -> None:
    """Least 3 of 5 open a sum: two others beside the client itself."""
    _, roster, _, _ = five()
    privacy = Privacy(secure=Secure(threshold=0.5, least=3))
    terms = Terms(privacy, False, None, safeguards=Safeguards(fellows=fellows))
    if enough:
        terms.check("a", roster)
        return
    with pytest.raises(ProtocolError, match="the sum of llm could be opened with 2, and a demands 3"):
        terms.check("a", roster)


def test_clients_that_were_told_different_clips_do_not_add_to_one_sum() -> None:
    """Else a server could have one client's change cut at a large clip, and the others' noise made for a small one."""
    keys = {c: Ed25519PrivateKey.generate() for c in CLIENTS}
    known = PublicKeys(4, {c: k.public_key().public_bytes_raw() for c, k in keys.items()})
    members = {c: Member(c) for c in CLIENTS}
    roster = Collector(SESSION, CLIENTS, 0.5, 3).keys(
        {c: m.keys() for c, m in members.items()}, {c: ["llm"] for c in CLIENTS}
    )

    def signed(clips: dict[str, float]) -> bytes:
        party = {c: Signer(Identity(keys[c], lambda: known), c, SESSION.hex(), 2, clips[c]) for c in CLIENTS}
        each = {c: s.keys(roster.sealing[c], roster.masking[c], roster.groups[c]) for c, s in party.items()}
        return party["a"].roster(roster, each)

    assert signed(dict.fromkeys(CLIENTS, 0.3))
    with pytest.raises(ProtocolError, match="the keys of b in this sum are not signed by b"):
        signed({**dict.fromkeys(CLIENTS, 1e-6), "a": 1e6})
