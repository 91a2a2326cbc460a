"""Secure summation without an engine: the sum, whoever is lost; what stays closed; and what a client refuses."""

import hashlib

import numpy as np
import pytest
from Crypto.Cipher import ChaCha20
from Crypto.Hash import SHA256
from Crypto.Protocol import DH
from Crypto.Protocol.KDF import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedloom.privacy.secure.collector import Collector
from fedloom.privacy.secure.member import Member
from fedloom.privacy.secure.protocol import Abandoned, ProtocolError, Roster, threshold_of
from tests.privacy.secure.sums import SESSION, Seen, drawn, fixed_entropy, summed

TEN = [f"site-{i}" for i in range(10)]
PHASES = ("keys", "shares", "masked", "unmask")


def plain(words, clients, group):
    total = sum(words[c][group].astype(object) for c in clients if group in words[c])
    bits = words[clients[0]][group].dtype.itemsize * 8
    return (total % 2**bits).astype(words[clients[0]][group].dtype)


@pytest.mark.parametrize("phase", PHASES)
def test_three_of_ten_clients_lost_at_a_phase_leave_the_sum_of_the_others(phase) -> None:
    words, seen = drawn(TEN, {"llm": 40, "projector": 7}), Seen()
    lost = ["site-0", "site-4", "site-9"]
    sums = summed(words, {phase: lost}, seen=seen)
    inside = TEN if phase == "unmask" else [c for c in TEN if c not in lost]
    assert seen.survivors == inside  # who is lost at the end is in the sum already
    for group in ("llm", "projector"):
        np.testing.assert_array_equal(sums[group], plain(words, inside, group))


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_too_few_closes_the_session_before_anything_is_opened(phase) -> None:
    words, seen = drawn(TEN, {"llm": 5}), Seen()
    with pytest.raises(Abandoned, match="7 are needed; nothing was opened"):
        summed(words, {phase: TEN[:4]}, seen=seen)
    # The shares that were told before the last phase broke off give no secret: fewer than the threshold of each.
    assert len(seen.told) < 7
    for client, sent in seen.masked.items():
        assert not np.array_equal(sent["llm"], words[client]["llm"])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_sum_is_that_of_the_survivors_whoever_holds_what_and_is_lost_when(data) -> None:
    n = data.draw(st.integers(3, 6))
    clients = [f"c{i}" for i in range(n)]
    groups = {"a": 3, "b": 2, "d": 4}
    bits = data.draw(st.sampled_from([32, 64]))
    everything = drawn(clients, groups, data.draw(st.integers(0, 99)), bits)
    holds = {c: data.draw(st.sets(st.sampled_from(sorted(groups)))) for c in clients}
    words = {c: {g: w for g, w in everything[c].items() if g in holds[c]} for c in clients}
    spare = n - threshold_of(2 / 3, n)
    order = data.draw(st.permutations(clients))[:spare]
    lost: dict[str, list[str]] = {}
    for client in order:
        lost.setdefault(data.draw(st.sampled_from(PHASES)), []).append(client)
    seen = Seen()
    sums = summed(words, lost, seen=seen)
    gone = {c for phase in PHASES[:3] for c in lost.get(phase, ())}
    inside = [c for c in clients if c not in gone]
    assert seen.survivors == inside
    roster = len(clients) - len(lost.get("keys", ()))
    for group in groups:
        holders = [c for c in clients if group in holds[c] and c not in lost.get("keys", ())]
        left = [c for c in holders if c in inside]
        needed = max(2, -(-threshold_of(2 / 3, n) * len(holders) // roster))
        assert (group in sums) == (len(left) >= needed)
        if group in sums:
            np.testing.assert_array_equal(sums[group], plain(everything, left, group))


def test_a_part_with_too_few_holders_left_stays_closed_while_the_rest_is_opened() -> None:
    clients = TEN[:6]
    words = drawn(clients, {"llm": 4, "encoder.audio": 4})
    for client in clients[3:]:
        del words[client]["encoder.audio"]
    seen = Seen()
    sums = summed(words, {"masked": clients[1:3]}, least=2, seen=seen)
    assert sorted(sums) == ["llm"]
    assert "encoder.audio" in seen.masked[clients[0]]  # it was sent, and no seed for it is told
    assert all(len(t[clients[0]]) == 32 for t in seen.told.values())
    np.testing.assert_array_equal(sums["llm"], plain(words, [clients[0], *clients[3:]], "llm"))


def test_what_the_server_sees_of_one_client_is_uniform_whatever_it_sends() -> None:
    """Chi-square of the bytes, and no correlation with the words, for a client that sends nothing but zeros or a ramp."""
    size = 40_000
    words = {c: {"llm": np.zeros(size, "<u4")} for c in ("a", "b", "c")}
    words["b"]["llm"] = np.arange(size, dtype="<u4")
    seen = Seen()
    summed(words, seen=seen)
    for client, sent in seen.masked.items():
        counts = np.bincount(sent["llm"].view(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
        high = sent["llm"].astype(np.float64) / 2**32
        assert stats.kstest(high, "uniform").pvalue > 1e-6
        if client == "b":
            assert abs(np.corrcoef(high, words["b"]["llm"])[0, 1]) < 5 / np.sqrt(size)
    # The same test sees it when one mask is missing.
    assert stats.chisquare(np.bincount(words["b"]["llm"].view(np.uint8), minlength=256)).pvalue < 1e-6


def test_a_session_of_fewer_clients_than_any_sum_may_have_does_not_begin() -> None:
    for n in (0, 1, 2):
        with pytest.raises(Abandoned, match=f"{n} of {n} clients at phase asked, 3 are needed"):
            summed(drawn(TEN[:n], {"llm": 5}), least=3)


def test_two_sessions_of_the_same_words_look_different() -> None:
    words, one, two = drawn(TEN[:3], {"llm": 8}), Seen(), Seen()
    first, second = summed(words, seen=one), summed(words, seen=two)
    np.testing.assert_array_equal(first["llm"], second["llm"])
    assert all(not np.array_equal(one.masked[c]["llm"], two.masked[c]["llm"]) for c in TEN[:3])


def by_another_library(private: bytes, peer: bytes, *purpose: str) -> np.ndarray:
    """Two words of a pair's mask, from PyCryptodome's X25519, HKDF and ChaCha20."""
    own, other = DH.import_x25519_private_key(private), DH.import_x25519_public_key(peer)
    shared = DH.key_agreement(static_priv=own, static_pub=other, kdf=lambda secret: secret)
    return stream_by_another_library(shared, *purpose)


def stream_by_another_library(secret: bytes, *purpose: str) -> np.ndarray:
    info = b"".join(len(p).to_bytes(4, "big") + p.encode() for p in ("fedloom", *purpose))
    key = HKDF(secret, 32, SESSION, SHA256, context=info)
    return np.frombuffer(ChaCha20.new(key=key, nonce=bytes(12)).encrypt(bytes(8)), "<u4")


def test_a_round_with_known_keys_gives_the_masks_that_another_library_computes() -> None:
    words = {c: {"g": np.array([i, 100 + i], "<u4")} for i, c in enumerate(("a", "b", "c"))}
    seen = Seen()
    sums = summed(words, entropy=fixed_entropy, seen=seen)
    assert sums["g"].tolist() == [3, 303]
    draw = fixed_entropy("b")
    _, private, seed = (
        draw(32),
        draw(32),
        draw(32),
    )  # in the order of use: sealing key, mask key, seed of the one part
    keys = {c: seen.keys[c][1] for c in "abc"}
    expected = words["b"]["g"] + stream_by_another_library(seed, "self", "g")
    expected = expected - by_another_library(private, keys["a"], "pair", "a", "b", "g")
    expected = expected + by_another_library(private, keys["c"], "pair", "b", "c", "g")
    assert seen.masked["b"]["g"].tolist() == expected.tolist()
    messages = b"".join(seen.keys[c][0] + seen.keys[c][1] + seen.masked[c]["g"].tobytes() for c in "abc")
    assert hashlib.sha256(messages).hexdigest() == KNOWN


KNOWN = "19058e0ab8fbd15255d633bce7dbcfc20ff2e8b3af88afba5acd4db67200e4a6"
"""Of the public keys and masked words of that round; it changes where the protocol does."""


def roster_of(members: dict[str, Member], threshold: int = 2, least: int = 2) -> Roster:
    keys = {c: m.keys() for c, m in members.items()}
    return Roster(
        SESSION,
        {c: k[0] for c, k in keys.items()},
        {c: k[1] for c, k in keys.items()},
        dict.fromkeys(keys, ("g",)),
        threshold,
        least,
    )


def three() -> tuple[dict[str, Member], dict[str, dict[str, bytes]]]:
    members = {c: Member(c) for c in "abc"}
    roster = roster_of(members)
    shares = {c: m.shares(roster) for c, m in members.items()}
    return members, {c: {v: shares[v][c] for v in "abc" if v != c} for c in "abc"}


WORDS = {"g": np.array([1, 2], "<u4")}


def test_a_client_never_tells_both_kinds_of_share_of_one_peer() -> None:
    members, sealed = three()
    members["a"].masked(sealed["a"], WORDS)
    shares = members["a"].unmask(["a", "b"])
    assert [len(shares[c]) for c in "abc"] == [32, 32, 32]
    with pytest.raises(ProtocolError, match="step 4 does not follow step 4"):
        members["a"].unmask(["a", "b", "c"])


@pytest.mark.parametrize(
    ("survivors", "why"),
    [
        (["a"], "2 are needed"),
        (["b", "c"], "with this client among them"),
        (["a", "b", "d"], "not a part of those who shared"),
        (["a", "a"], "not a part"),
    ],
)
def test_a_client_refuses_lists_of_survivors_that_cannot_be_honest(survivors, why) -> None:
    members, sealed = three()
    members["a"].masked(sealed["a"], WORDS)
    with pytest.raises(ProtocolError, match=why):
        members["a"].unmask(survivors)


def test_a_client_takes_no_step_early_and_no_roster_that_protects_nobody() -> None:
    member = Member("a")
    with pytest.raises(ProtocolError, match="step 2 does not follow step 0"):
        member.shares(roster_of({"b": Member("b"), "c": Member("c")}))
    for change, why in (
        ({"threshold": 1}, "a threshold of 1 of 3 clients protects nobody"),
        ({"least": 1}, "no sum"),
    ):
        members = {c: Member(c) for c in "abc"}
        with pytest.raises(ProtocolError, match=why):
            members["a"].shares(roster_of(members, **change))
    members = {c: Member(c) for c in "abc"}
    roster = roster_of(members)
    twice = dict(roster.masking, b=roster.masking["c"])
    with pytest.raises(ProtocolError, match="two keys in the roster are equal"):
        members["a"].shares(Roster(SESSION, roster.sealing, twice, roster.groups, 2, 2))
    other = dict(roster.masking, b=Member("x").keys()[1], a=Member("y").keys()[1])
    with pytest.raises(ProtocolError, match="other keys of b"):
        members["b"].shares(Roster(SESSION, roster.sealing, other, roster.groups, 2, 2))


def test_shares_that_were_tampered_with_are_not_used_and_a_wrong_one_is_noticed() -> None:
    members, sealed = three()
    sealed["a"]["b"] = bytes([sealed["a"]["b"][0] ^ 1]) + sealed["a"]["b"][1:]
    members["a"].masked(sealed["a"], WORDS)
    assert sorted(members["a"].unmask(["a", "b", "c"])) == ["a", "c"]
    words, seen = drawn(TEN[:4], {"g": 2}), Seen()
    members = {c: Member(c) for c in words}
    collector = Collector(SESSION, list(words), 2 / 3, 2)
    roster = collector.keys({c: m.keys() for c, m in members.items()}, dict.fromkeys(words, ("g",)))
    all_sealed = collector.shares({c: m.shares(roster) for c, m in members.items()})
    there = TEN[:3]
    seen.survivors = collector.masked({c: members[c].masked(all_sealed[c], words[c]) for c in there})
    answers = {c: members[c].unmask(seen.survivors) for c in there}
    answers[there[0]][TEN[3]] = bytes(32)
    with pytest.raises(Abandoned, match=f"{TEN[3]}'s mask key do not fit"):
        collector.opened(answers)


def test_the_threshold_is_the_share_rounded_up_and_more_than_half() -> None:
    assert [threshold_of(2 / 3, n) for n in (3, 4, 6, 10)] == [2, 3, 4, 7]
    assert [threshold_of(0.5, n) for n in (3, 4, 10)] == [2, 3, 6]
    assert threshold_of(1.0, 5) == 5
