"""The phases between payloads: means by weight and group, whoever is lost; what travels; what a client insists on."""

import dataclasses

import pytest
import torch

from fedloom.aggregation.mean import weighted_mean
from fedloom.core.payload import Payload, Reply
from fedloom.privacy.secure.contribution import Codec
from fedloom.privacy.secure.messages import KEYS, MASKED, PHASES, SHARES, UNMASK
from fedloom.privacy.secure.protocol import Abandoned
from fedloom.privacy.secure.server import SecureSum
from fedloom.privacy.settings import DP, Privacy, Secure
from tests.privacy.secure.parties import Parties, layouts_of, secure_mean

SHAPES = {"llm/a.lora_A": (3, 5), "llm/a.lora_B": (7, 3), "projector/weight": (4, 6)}
SECURE = Privacy(secure=Secure(least=2))


def drawn(clients: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[dict, dict]:
    """A reference, and every client's payload near it."""
    g = torch.Generator().manual_seed(seed)
    reference = {n: torch.randn(s, generator=g, dtype=dtype) for n, s in SHAPES.items()}
    replies = {
        f"site-{i}": Payload(
            {n: t + 0.1 * torch.randn(t.shape, generator=g, dtype=dtype) for n, t in reference.items()},
            {"examples": 10 * (i + 1), "loss": 0.5 + i},
        )
        for i in range(clients)
    }
    return reference, replies


def assert_mean(reply: Reply, replies: dict, clients: list[str], weights=None, error: float = 2e-8) -> None:
    """Equal up to `error`, and in float32 up to the rounding of both results to it."""
    held = [replies[c].tensors for c in clients]
    expected = weighted_mean(held, weights)
    assert reply.payload.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert reply.payload.tensors[name].dtype == tensor.dtype
        rounding = 2.0**-23 if tensor.dtype == torch.float32 else 0.0
        torch.testing.assert_close(reply.payload.tensors[name], tensor, rtol=rounding, atol=error)


@pytest.mark.parametrize("lost", [None, *PHASES])
def test_the_mean_is_that_of_those_who_are_left_with_three_of_ten_lost_at_any_phase(lost) -> None:
    reference, replies = drawn(10)
    gone = ["site-1", "site-5", "site-8"] if lost else []
    parties = Parties(replies, SECURE, {lost: gone} if lost else None)
    reply, summing = secure_mean(parties, reference)
    inside = sorted(replies) if lost in (None, UNMASK) else [c for c in sorted(replies) if c not in gone]
    assert_mean(reply, replies, inside)
    assert list(reply.clients) == inside == summing.record.inside
    assert reply.counts == {"llm": len(inside), "projector": len(inside)}
    assert reply.payload.numbers["examples"] == sum(replies[c].numbers["examples"] for c in inside)
    mean_loss = sum(replies[c].numbers["loss"] for c in inside) / len(inside)
    assert reply.payload.numbers["loss"] == pytest.approx(mean_loss, abs=1e-6)
    assert [p["request"] for p in summing.record.phases] == list(PHASES)
    assert sorted(summing.record.lost) == ([] if lost == UNMASK else gone)
    assert all(reason == f"{lost}: missing: no reply" for reason in summing.record.lost.values())


@pytest.mark.parametrize(("bits", "error"), [(32, 1.9e-8), (64, 1e-15)])
def test_in_float64_the_mean_is_exact_up_to_the_stated_error(bits, error) -> None:
    reference, replies = drawn(10, dtype=torch.float64)
    privacy = Privacy(secure=Secure(bits=bits))
    assert Codec(privacy.secure, 10).values.error == pytest.approx({32: 1.8626e-8, 64: 0.0}[bits], abs=1e-12)
    reply, _ = secure_mean(Parties(replies, privacy), reference)
    assert_mean(reply, replies, sorted(replies), error=error)


def test_weights_by_examples_are_masked_and_summed_too_and_capped() -> None:
    reference, replies = drawn(4)
    privacy = Privacy(secure=Secure(least=2, examples=30))
    reply, summing = secure_mean(Parties(replies, privacy, by_examples=True), reference)
    assert_mean(
        reply, replies, sorted(replies), [10.0, 20.0, 30.0, 30.0]
    )  # the fourth has 40, which counts as 30
    [note] = summing.record.notes
    assert note == "1 clients with more than 30 examples, privacy.secure.examples, count as that many"


def test_each_group_is_averaged_over_its_holders_and_closed_where_they_are_too_few() -> None:
    reference, replies = drawn(6)
    for i, client in enumerate(sorted(replies)):
        if i >= 3:
            replies[client] = replies[client].only(lambda n: n.startswith("llm"))
    parties = Parties(replies, SECURE)
    reply, _ = secure_mean(parties, reference)
    assert_mean(reply, replies, sorted(replies))
    assert reply.counts == {"llm": 6, "projector": 3}
    parties = Parties(replies, SECURE, {MASKED: ["site-0", "site-1"]})
    reply, summing = secure_mean(parties, reference)
    assert sorted(reply.payload.tensors) == ["llm/a.lora_A", "llm/a.lora_B"]
    assert summing.record.notes == ["projector: 1 clients left, 2 are needed; it stays as it was"]
    assert summing.record.closed == ["projector"]


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_too_few_ends_the_sum_and_nothing_is_opened(phase) -> None:
    reference, replies = drawn(10)
    parties = Parties(replies, SECURE, {phase: sorted(replies)[:4]})
    with pytest.raises(Abandoned, match=f"6 of 10 clients at phase {phase.split('/')[1]}, 7 are needed"):
        secure_mean(parties, reference)
    assert UNMASK not in parties.seen or len(parties.seen[UNMASK]) == 6  # fewer shares than open a secret


def test_the_server_sees_keys_sealed_shares_and_masked_words_and_no_number_of_one_client() -> None:
    reference, replies = drawn(4)
    parties = Parties(replies, SECURE)
    secure_mean(parties, reference)
    for request, payloads in parties.seen.items():
        for payload in payloads.values():
            assert {t.dtype for t in payload.tensors.values()} == {
                torch.int32 if request == MASKED else torch.uint8
            }
            assert set(payload.numbers) == ({"round", "groups"} if request == KEYS else {"round"})
    codec = Codec(SECURE.secure, 4)
    for client, payload in parties.seen[MASKED].items():
        change = replies[client].tensors["projector/weight"] - reference["projector/weight"]
        plain, _ = codec.values.encode(change)
        assert not bool(
            (payload.tensors["projector/masked"][2:] == torch.from_numpy(plain.view("<i4"))).any()
        )
        size = sum(t.numel() * 4 for t in replies[client].tensors.values())
        assert payload.nbytes == size + 8 * 2 + 20  # two words a group, five for the numbers


@pytest.mark.parametrize("spoil", ["dtype", "size", "names", "stale"])
def test_a_client_that_sends_something_else_is_lost_by_name(spoil) -> None:
    reference, replies = drawn(4)

    def change(request: str, reply: Reply) -> Reply | None:
        if request != MASKED or reply.client != "site-2":
            return reply
        tensors, numbers = dict(reply.payload.tensors), dict(reply.payload.numbers)
        if spoil == "dtype":
            tensors["llm/masked"] = tensors["llm/masked"].long()
        elif spoil == "size":
            tensors["llm/masked"] = tensors["llm/masked"][1:]
        elif spoil == "names":
            tensors["else"] = tensors["llm/masked"].float()
        else:
            numbers["round"] = 9
        return dataclasses.replace(reply, payload=Payload(tensors, numbers))

    reply, summing = secure_mean(Parties(replies, SECURE, change=change), reference)
    assert list(summing.record.lost) == ["site-2"]
    assert summing.record.lost["site-2"].startswith(
        "secure/masked: " + ("stale" if spoil == "stale" else "the masked")
    )
    assert_mean(reply, replies, ["site-0", "site-1", "site-3"])


@pytest.mark.parametrize(
    "spoil",
    [
        {"secure/masking": torch.zeros(32, dtype=torch.uint8)},
        {"secure/masking": torch.zeros(31, dtype=torch.uint8)},
        {"secure/sealing": torch.ones(32)},
        {"groups": 7},
        {"groups": [["llm"]]},
        {"groups": ["projector", "llm", "numbers", "somebody else's"]},
    ],
    ids=str,
)
def test_no_keys_and_groups_of_one_client_stop_the_others(spoil) -> None:
    reference, replies = drawn(4)

    def change(request: str, reply: Reply) -> Reply | None:
        if request != KEYS or reply.client != "site-2":
            return reply
        tensors = {n: spoil.get(n, t) for n, t in reply.payload.tensors.items()}
        numbers = {n: spoil.get(n, v) for n, v in reply.payload.numbers.items()}
        return dataclasses.replace(reply, payload=Payload(tensors, numbers))

    reply, summing = secure_mean(Parties(replies, SECURE, change=change), reference)
    assert list(summing.record.lost) == ["site-2"]
    assert_mean(reply, replies, ["site-0", "site-1", "site-3"])


@pytest.mark.parametrize("times", [1, 2])
def test_a_client_that_answers_a_phase_more_than_once_is_lost(times) -> None:
    reference, replies = drawn(4)
    parties = Parties(replies, SECURE)

    def doubled(request: str, views):
        replies, up, down = parties(request, views)
        again = [r for r in replies if request == MASKED and r.client == "site-2"]
        return replies + again * times + [Reply("uninvited", Payload())], up, down

    summing = SecureSum(SECURE.secure, doubled, 1, layouts_of(replies))
    reply = summing.mean("train", {c: Payload(reference) for c in replies}, reference)
    assert summing.record.lost == {"site-2": "secure/masked: duplicate: a second reply in one phase"}
    assert_mean(reply, replies, ["site-0", "site-1", "site-3"])


def test_a_client_that_is_not_finite_is_lost_and_spoils_nothing() -> None:
    reference, replies = drawn(4)
    bad = dict(replies["site-1"].tensors)
    bad["llm/a.lora_A"] = torch.full((3, 5), float("nan"))
    replies["site-1"] = Payload(bad, replies["site-1"].numbers)
    reply, summing = secure_mean(Parties(replies, SECURE), reference)
    assert "not finite" in summing.record.lost["site-1"]
    assert_mean(reply, replies, ["site-0", "site-2", "site-3"])


def test_numbers_beyond_the_clip_are_cut_and_counted_over_all_clients() -> None:
    reference, replies = drawn(4)
    far = {n: t.clone() for n, t in replies["site-1"].tensors.items()}
    far["projector/weight"][0, :2] += 100
    replies["site-1"] = Payload(far, replies["site-1"].numbers)
    reply, summing = secure_mean(Parties(replies, SECURE), reference)
    assert summing.record.notes == ["2 numbers beyond privacy.secure.clip were cut"]
    change = reply.payload.tensors["projector/weight"] - reference["projector/weight"]
    assert float(change[0, :2].max()) < 2 + 0.4  # 8 of one of four clients, and the others' small ones


def test_a_client_takes_no_weaker_terms_than_its_own() -> None:
    reference, replies = drawn(4)
    parties = Parties(replies, SECURE)
    parties.terms = dataclasses.replace(parties.terms, privacy=Privacy(secure=Secure(least=4)))
    summing_with = Privacy(secure=Secure(least=2)).secure
    layouts = layouts_of(replies)
    summing = SecureSum(summing_with, parties, 1, layouts)
    with pytest.raises(Abandoned, match="phase shares"):
        summing.mean("train", {c: Payload(reference) for c in replies}, reference)
    assert "below that of this client's experiment" in summing.record.phases[1]["lost"]["site-0"]


def test_noise_of_all_clients_together_has_at_least_the_deviation_that_is_accounted() -> None:
    """Ten clients, threshold seven: each adds a seventh of the variance, so that seven survivors add all of it."""
    size, z, clip = 20_000, 2.0, 0.5
    reference = {"llm/x": torch.zeros(size)}
    replies = {
        f"s{i}": Payload({"llm/x": torch.zeros(size)}, {"examples": 5, "loss": 1.0}) for i in range(10)
    }
    privacy = Privacy(secure=Secure(), dp=DP(clip=clip, noise_multiplier=z))
    for lost, factor in ((None, 10 / 7), ({MASKED: ["s0", "s4", "s9"]}, 1.0)):
        parties = Parties(replies, privacy, lost)
        reply, _ = secure_mean(parties, reference, {"llm": 10.0})
        total = reply.payload.tensors["llm/x"].double() * 10
        deviation = float(total.std())
        assert deviation == pytest.approx(z * clip * factor**0.5, rel=0.03)  # six deviations of the estimate
        assert abs(float(total.mean())) < 6 * deviation / size**0.5
        assert "loss" not in reply.payload.numbers


def test_with_privacy_the_whole_change_is_clipped_before_it_is_masked() -> None:
    reference, replies = drawn(4)
    privacy = Privacy(secure=Secure(least=2), dp=DP(clip=0.25, noise_multiplier=1e-9))
    reply, _ = secure_mean(Parties(replies, privacy), reference, {"llm": 4.0, "projector": 4.0})
    expected = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in reference.items()}
    for payload in replies.values():
        change = {n: (t - reference[n]).double() for n, t in payload.tensors.items()}
        norm = sum(float(c.square().sum()) for c in change.values()) ** 0.5
        assert norm > 0.25
        for n, c in change.items():
            expected[n] += c * 0.25 / norm / 4
    for name, change in expected.items():
        got = reply.payload.tensors[name] - reference[name]
        torch.testing.assert_close(got.double(), change, rtol=0, atol=1e-6)


def test_phases_are_refused_out_of_order_and_after_a_restart() -> None:
    reference, replies = drawn(4)
    parties = Parties(replies, SECURE)
    parties.lost = {}
    original = parties.__call__

    def forgetful(request: str, views):
        if request == SHARES:
            parties.sessions["site-3"].clear()
        return original(request, views)

    layouts = layouts_of(replies)
    summing = SecureSum(SECURE.secure, forgetful, 1, layouts)
    reply = summing.mean("train", {c: Payload(reference) for c in replies}, reference)
    assert "was the client started anew?" in summing.record.lost["site-3"]
    assert_mean(reply, replies, ["site-0", "site-1", "site-2"])


@pytest.mark.parametrize(
    "groups",
    [None, "llm", 5, [], ["llm"], [["llm"]], [{}], ["numbers", "numbers"], ["llm", 10**400], ["numbers"]],
)
def test_any_groups_of_a_client_cost_that_client_alone(groups) -> None:
    reference, replies = drawn(4)

    def change(request: str, reply: Reply) -> Reply:
        if request != KEYS or reply.client != "site-2":
            return reply
        numbers = {**reply.payload.numbers, "groups": groups}
        return dataclasses.replace(reply, payload=Payload(reply.payload.tensors, numbers))

    reply, summing = secure_mean(Parties(replies, SECURE, change=change), reference)
    others = ["site-0", "site-1", "site-3"]
    assert list(reply.clients) == others
    assert_mean(reply, replies, others)
    assert list(summing.record.lost) == ["site-2"]
    assert summing.record.lost["site-2"].isprintable()


@pytest.mark.parametrize("left_out", ["llm", "projector"])
def test_with_noise_a_client_that_leaves_a_group_out_costs_itself_alone(left_out) -> None:
    """With three of three holders needed the group would stay closed for all."""
    reference, replies = drawn(4)
    privacy = Privacy(secure=Secure(least=3), dp=DP(clip=0.25, noise_multiplier=1e-9))

    def change(request: str, reply: Reply) -> Reply:
        if request != KEYS or reply.client != "site-2":
            return reply
        groups = [g for g in reply.payload.numbers["groups"] if g != left_out]
        return dataclasses.replace(
            reply, payload=Payload(reply.payload.tensors, {**reply.payload.numbers, "groups": groups})
        )

    parties = Parties(replies, privacy, change=change)
    reply, summing = secure_mean(parties, reference, {"llm": 4.0, "projector": 4.0})
    assert list(reply.clients) == ["site-0", "site-1", "site-3"]
    assert summing.record.lost == {
        "site-2": "secure/keys: with noise a client adds to all groups that it shares"
    }
    assert summing.record.closed == []
