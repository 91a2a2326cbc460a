"""The robust stages and the attacks at the level of replies: every attack against every defence, without training."""

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from fedloom.core.payload import Payload, Reply
from fedloom.methods import METHODS
from fedloom.methods.base.combine import combine_pairs
from fedloom.privacy.firewall import Firewall, inspect
from fedloom.privacy.robust import attacks
from fedloom.privacy.robust.stage import COMBINED, Combined, combine
from fedloom.privacy.settings import Privacy

R, D_OUT, D_IN = 3, 24, 37
CLIENTS = [f"image-{i}" for i in range(1, 9)]
HOSTILE = ["image-1", "image-2"]
LAYERS = ("encoder.image/q.", "llm/q.", "llm/v.")
OTHER = "projector/weight"
RULES = {
    "norm_bound": {"kind": "norm_bound"},
    "median": {"kind": "median"},
    "trimmed_mean": {"kind": "trimmed_mean", "byzantine": 2},
    "multi_krum": {"kind": "multi_krum", "byzantine": 2},
}
ATTACKS = {
    "nan": {"kind": "nan"},
    "inflate": {"kind": "inflate", "examples": 10_000_000},
    "sign_flip": {"kind": "sign_flip", "factor": 5.0},
    "scale": {"kind": "scale", "factor": 10.0},
    "collude": {"kind": "collude"},
    "boosted backdoor": {"kind": "backdoor", "boost": 10.0},
}


def rule_of(settings: dict[str, Any]) -> Any:
    rule = Privacy(robust=settings).robust
    assert rule is not None
    return rule


def attack_of(settings: dict[str, Any]) -> Any:
    return TypeAdapter(attacks.Attack).validate_python({"clients": HOSTILE, **settings})


def server(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    tensors = {OTHER: torch.randn(5, 7, generator=g)}
    for place in LAYERS:
        tensors[place + "lora_A"] = torch.randn(R, D_IN, generator=g) / D_IN**0.5
        tensors[place + "lora_B"] = 0.3 * torch.randn(D_OUT, R, generator=g)
    return tensors


def honest(shared: dict[str, torch.Tensor], seed: int = 1) -> list[Reply]:
    """Eight clients that moved the same way and a little each for itself."""
    g = torch.Generator().manual_seed(seed)
    common = {n: 0.02 * torch.randn(t.shape, generator=g) for n, t in shared.items()}
    replies = []
    for client in CLIENTS:
        own = {n: t + common[n] + 0.004 * torch.randn(t.shape, generator=g) for n, t in shared.items()}
        replies.append(Reply(client, Payload(own, {"round": 1, "examples": 50, "loss": 0.5})))
    return replies


def averaged(replies: list[Reply], shared: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """FedAvg-LoRA by examples: the products that it comes to, and the other tensor."""
    method = METHODS["fedavg-lora"](weights="examples")
    from fedloom.aggregation import lora

    got = combine_pairs(replies, method.client_weights(replies), lora.fedavg, like=shared)
    return {place: got[place + "lora_B"] @ got[place + "lora_A"] for place in LAYERS} | {OTHER: got[OTHER]}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((one[n] - other[n]).square().sum()) for n in other))


def defended(rule: dict[str, Any] | None, replies: list[Reply], shared: dict[str, torch.Tensor]) -> Combined:
    """Firewall, then the stage."""
    sent = dict.fromkeys(CLIENTS, shared)
    passed, _ = inspect(replies, rules=Firewall(), round=1, asked=CLIENTS, reference=sent)
    return Combined(passed) if rule is None else combine(rule_of(rule), passed, sent, shared)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_defence_keeps_the_mean_of_the_honest_against_every_attack(attack, rule) -> None:
    """Two hostile clients of eight. Away from the honest mean by no more than the honest clients are from each other."""
    shared = server()
    replies = honest(shared)
    clean = averaged(replies[2:], shared)
    start = {place: shared[place + "lora_B"] @ shared[place + "lora_A"] for place in LAYERS} | {
        OTHER: shared[OTHER]
    }
    moved = distance(start, clean)
    hit = attacks.attacked(attack_of(ATTACKS[attack]), replies, HOSTILE, dict.fromkeys(CLIENTS, shared))
    combined = defended(RULES[rule], hit, shared)
    error = distance(averaged(combined.replies, shared), clean)
    # A bound leaves each of two hostile of eight its bounded share; the others lose no more than a part of the honest spread.
    assert error < (0.6 if rule == "norm_bound" else 0.25) * moved
    undefended = distance(averaged(defended(None, hit, shared).replies, shared), clean)
    if attack in ("sign_flip", "scale", "boosted backdoor"):
        assert undefended > 1.2 * moved
        assert error < undefended / 2


def test_the_firewall_alone_stops_nan_and_not_the_rest() -> None:
    shared = server()
    replies, sent = honest(shared), dict.fromkeys(CLIENTS, shared)
    for name, settings in ATTACKS.items():
        hit = attacks.attacked(attack_of(settings), replies, HOSTILE, sent)
        kept, refused = inspect(hit, rules=Firewall(), round=1, asked=CLIENTS, reference=sent)
        assert sorted(refused) == (HOSTILE if name == "nan" else [])
        assert len(kept) == (6 if name == "nan" else 8)


@pytest.mark.parametrize("rule", RULES)
def test_nobody_is_led_by_the_clients_choice_of_factors(rule) -> None:
    """The same products in other factors: the stage hands on the same pairs."""
    shared = {n: t.double() for n, t in server().items()}
    replies = [
        Reply(r.client, Payload({n: t.double() for n, t in r.payload.tensors.items()}, r.payload.numbers))
        for r in honest(server())
    ]
    turned = list(replies)
    for k, scale in ((0, 1e3), (3, 1e-3)):
        tensors = dict(replies[k].payload.tensors)
        for place in LAYERS:
            tensors[place + "lora_A"] = tensors[place + "lora_A"] / scale
            tensors[place + "lora_B"] = tensors[place + "lora_B"] * scale
        turned[k] = Reply(replies[k].client, Payload(tensors, replies[k].payload.numbers))
    sent = dict.fromkeys(CLIENTS, shared)
    one, other = (combine(rule_of(RULES[rule]), cohort, sent, shared) for cohort in (replies, turned))
    assert [r.client for r in one.replies] == [r.client for r in other.replies]
    for a, b in zip(one.replies, other.replies, strict=True):
        assert a.payload.tensors.keys() == b.payload.tensors.keys()
        for name, tensor in a.payload.tensors.items():
            torch.testing.assert_close(b.payload.tensors[name], tensor, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["median", "trimmed_mean"])
def test_a_median_is_one_reply_with_all_the_weight_in_the_servers_shapes(kind) -> None:
    shared = server()
    combined = combine(rule_of({"kind": kind}), honest(shared), dict.fromkeys(CLIENTS, shared), shared)
    assert [r.client for r in combined.replies] == [COMBINED]
    payload = combined.replies[0].payload
    assert {n: (t.shape, t.dtype) for n, t in payload.tensors.items()} == {
        n: (t.shape, t.dtype) for n, t in shared.items()
    }
    assert payload.numbers == {"round": 1, "examples": 400, "loss": 0.5}


def test_clients_that_all_agree_are_handed_on_as_they_are_by_every_rule() -> None:
    shared = server()
    one = honest(shared)[0].payload
    replies = [Reply(c, one) for c in CLIENTS]
    want = averaged(replies, shared)
    for settings in RULES.values():
        combined = combine(rule_of(settings), replies, dict.fromkeys(CLIENTS, shared), shared)
        assert distance(averaged(combined.replies, shared), want) < 1e-5


def test_a_norm_bound_is_met_by_product_and_leaves_the_small_alone() -> None:
    shared = server()
    replies = honest(shared)
    hit = attacks.attacked(attack_of(ATTACKS["scale"]), replies, HOSTILE, dict.fromkeys(CLIENTS, shared))
    combined = combine(
        rule_of({"kind": "norm_bound", "bound": 0.2}), hit, dict.fromkeys(CLIENTS, shared), shared
    )
    for before, after in zip(hit, combined.replies, strict=True):
        for group in ("encoder.image", "llm", "projector"):
            size = {}
            for name, reply in (("before", before), ("after", after)):
                t = reply.payload.tensors
                changes = [
                    t[p + "lora_B"] @ t[p + "lora_A"] - shared[p + "lora_B"] @ shared[p + "lora_A"]
                    for p in LAYERS
                    if p.startswith(group)
                ]
                changes += [t[OTHER] - shared[OTHER]] if group == "projector" else []
                size[name] = math.sqrt(sum(float(c.square().sum()) for c in changes))
            assert size["after"] == pytest.approx(min(size["before"], 0.2), rel=1e-4)
    assert all(any(client in note for note in combined.notes) for client in HOSTILE)


def test_multi_krum_names_whom_it_left_out_of_what_and_keeps_the_rest_of_its_reply() -> None:
    shared = server()
    replies = honest(shared)
    tensors = dict(replies[4].payload.tensors)
    for name in tensors:
        if name.startswith("llm"):
            tensors[name] = shared[name] - 5 * (tensors[name] - shared[name])
    replies[4] = Reply(replies[4].client, Payload(tensors, replies[4].payload.numbers))
    combined = combine(
        rule_of({"kind": "multi_krum", "byzantine": 1, "keep": 7}),
        replies,
        dict.fromkeys(CLIENTS, shared),
        shared,
    )
    assert "multi_krum: far from the others in" in combined.left_out["image-5"]
    assert "llm (score" in combined.left_out["image-5"]
    kept = {r.client: r for r in combined.replies}
    assert not any(n.startswith("llm") for n in kept["image-5"].payload.tensors)
    assert all("llm/q.lora_A" in r.payload.tensors for c, r in kept.items() if c != "image-5")
    assert sum(OTHER in r.payload.tensors for r in combined.replies) == 7


def test_a_group_with_too_few_holders_is_told_and_not_judged() -> None:
    shared = server()
    replies = honest(shared)
    only = [
        Reply(r.client, r.payload.only(lambda n: not n.startswith("encoder"))) if i > 2 else r
        for i, r in enumerate(replies)
    ]
    sent = dict.fromkeys(CLIENTS, shared)
    combined = combine(rule_of({"kind": "multi_krum", "byzantine": 1}), only, sent, shared)
    assert "encoder.image: not judged by multi_krum, 3 hold it and 5 are needed" in combined.notes
    assert sum("encoder.image/q.lora_A" in r.payload.tensors for r in combined.replies) == 3
    combined = combine(rule_of({"kind": "trimmed_mean", "byzantine": 2}), only, sent, shared)
    assert any(n.startswith("encoder.image: only 3 hold it") for n in combined.notes)
    assert "encoder.image/q.lora_A" in combined.replies[0].payload.tensors


def test_claimed_examples_count_for_three_times_the_median_at_most() -> None:
    shared = server()
    hit = attacks.attacked(
        attack_of(ATTACKS["inflate"]), honest(shared), HOSTILE, dict.fromkeys(CLIENTS, shared)
    )
    combined = combine(rule_of({"kind": "norm_bound"}), hit, dict.fromkeys(CLIENTS, shared), shared)
    assert [r.examples for r in combined.replies] == [150, 150, *[50] * 6]
    assert combined.capped["image-1"] == "claims 10000000 examples, 150 count"


def test_unequal_ranks_and_a_factor_without_its_partner_come_out_in_the_servers_shapes() -> None:
    shared = server()
    single = "llm/o.lora_B"
    shared[single] = torch.zeros(D_OUT, R)
    replies, sent = [], {}
    for i, reply in enumerate(honest(shared)):
        rank = R if i % 2 else 2
        cut = {
            n: t[:rank] if n.endswith("lora_A") else t[:, :rank] if n.endswith("lora_B") else t
            for n, t in shared.items()
        }
        mine = {n: t + 0.01 for n, t in cut.items()}
        sent[reply.client] = cut
        replies.append(
            Reply(
                reply.client, Payload(mine, reply.payload.numbers), ratios={"llm": 0.5 if rank < R else 1.0}
            )
        )
    for settings in RULES.values():
        combined = combine(rule_of(settings), replies, sent, shared)
        for reply in combined.replies:
            like = shared if reply.client == COMBINED else sent[reply.client]
            assert all(t.shape == like[n].shape for n, t in reply.payload.tensors.items())
    median = combine(rule_of({"kind": "median"}), replies, sent, shared).replies[0].payload.tensors
    torch.testing.assert_close(median[single][:, :2], torch.full((D_OUT, 2), 0.01))


def test_nothing_shared_and_no_reply_pass_through() -> None:
    empty = [Reply(c, Payload({}, {"round": 1, "examples": 5})) for c in CLIENTS]
    for settings in RULES.values():
        rule = rule_of(settings)
        assert combine(rule, [], {}, {}).replies == []
        combined = combine(rule, empty, {client: {} for client in CLIENTS}, {})
        assert all(not r.payload.tensors for r in combined.replies)
        assert combined.replies
