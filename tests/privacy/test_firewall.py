from typing import Any

import pytest
import torch

from fedloom.core.payload import Payload, Reply
from fedloom.privacy.firewall import Firewall, inspect

NAMES = ("encoder.image/q.lora_A", "encoder.image/q.lora_B", "llm/v.lora_A", "llm/v.lora_B")
REFERENCE = {n: torch.zeros(2, 5) if n.endswith("A") else torch.zeros(7, 2) for n in NAMES}


def reply(client: str, scale: float = 1.0, round: int = 3, **changes: Any) -> Reply:
    tensors = {n: torch.full_like(t, scale) for n, t in REFERENCE.items()} | changes.pop("tensors", {})
    return Reply(client, Payload(tensors, {"round": round, "examples": 10, "loss": 0.5, **changes}))


def check(
    *replies: Reply, asked: str = "abc", allowed: Any = None, **rules: Any
) -> tuple[list[str], dict[str, str]]:
    kept, refused = inspect(
        replies,
        rules=Firewall(**rules),
        round=3,
        asked=list(asked),
        reference=allowed or dict.fromkeys("abcdxyz", REFERENCE),
    )
    return [r.client for r in kept], refused


def test_good_replies_pass_in_client_order() -> None:
    assert check(reply("c"), reply("a"), reply("b")) == (["a", "b", "c"], {})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (reply("b", round=2), "stale: answers round 2, this is round 3"),
        (reply("b", examples=10**9), "weight: claims 1000000000 examples, at most 10000000 are believed"),
        (reply("b", examples=0), "weight: claims 0 examples"),
        (reply("b", examples=-5), "weight: claims -5"),
        (reply("b", examples=True), "weight: claims True"),
        (reply("b", examples=2.5), "weight: claims 2.5"),
        (reply("b", examples="many"), "weight: claims 'many'"),
        (reply("b", loss=float("nan")), "not finite: loss is nan"),
        (reply("b", tensors={NAMES[0]: torch.full((2, 5), float("nan"))}), f"not finite: {NAMES[0]}"),
        (reply("b", tensors={NAMES[2]: torch.full((2, 5), float("inf"))}), f"not finite: {NAMES[2]}"),
        (reply("b", tensors={NAMES[0]: torch.zeros(5, 2)}), f"shape: {NAMES[0]} is (5, 2), (2, 5) is right"),
        (reply("b", tensors={NAMES[0]: torch.zeros(2, 5).double()}), "dtype"),
        (reply("b", tensors={"head/w": torch.zeros(1)}), "names: sent head/w, which it does not share"),
        (Reply("b", error="raised KeyError: 'x'"), "raised KeyError"),
    ],
)
def test_a_bad_reply_is_refused_with_its_reason(bad: Reply, reason: str) -> None:
    kept, refused = check(reply("a"), bad, reply("c"))
    assert kept == ["a", "c"]
    assert list(refused) == ["b"]
    assert refused["b"].startswith(reason)


def test_a_missing_an_uninvited_and_a_doubled_reply_are_named() -> None:
    kept, refused = check(reply("a"), reply("c"), reply("c"), reply("x"))
    assert kept == ["a"]
    assert refused == {
        "b": "missing: no reply",
        "c": "duplicate: a second reply in one round",
        "x": "uninvited: not in this round's cohort",
    }


def test_a_second_good_reply_does_not_heal_a_bad_first_one() -> None:
    kept, refused = check(reply("a", round=1), reply("a"), asked="a")
    assert kept == []
    assert "a" in refused


def test_a_client_may_leave_out_a_whole_group_but_not_a_part_of_one() -> None:
    only_llm = Reply("a", Payload({n: REFERENCE[n] for n in NAMES[2:]}, {"round": 3, "examples": 1}))
    half = Reply("b", Payload({NAMES[2]: REFERENCE[NAMES[2]]}, {"round": 3, "examples": 1}))
    kept, refused = check(only_llm, half, asked="ab")
    assert kept == ["a"]
    assert refused["b"] == f"names: {NAMES[3]} is missing from its group"


def test_a_client_cannot_send_what_it_does_not_hold() -> None:
    kept, refused = check(reply("a"), asked="a", allowed={"a": {n: REFERENCE[n] for n in NAMES[2:]}})
    assert kept == []
    assert refused["a"].startswith(f"names: sent {NAMES[0]}")


def test_a_change_far_outside_the_cohort_is_refused_by_group() -> None:
    far = reply("d", tensors={n: torch.full_like(REFERENCE[n], 60.0) for n in NAMES[2:]})
    kept, refused = check(reply("a"), reply("b"), reply("c"), far, asked="abcd")
    assert kept == ["a", "b", "c"]
    assert refused["d"].startswith("norm: llm changed by")
    assert check(reply("a"), far, asked="ad")[0] == ["a", "d"], "two holders have no majority"
    assert check(reply("a"), reply("b"), reply("c"), far, asked="abcd", norm_ratio=100)[1] == {}


def test_the_absolute_cap_counts_the_change_from_the_servers_tensors() -> None:
    # encoder.image: 10 + 14 entries of 1, norm sqrt(24) = 4.899
    assert check(reply("a"), asked="a", max_norm=4.9)[0] == ["a"]
    assert check(reply("a"), asked="a", max_norm=4.8)[1]["a"].startswith("norm: encoder.image changed by 4.9")


def test_a_reply_without_tensors_is_refused_unless_none_are_due() -> None:
    empty = Reply("b", Payload({}, {"round": 3, "examples": 1}))
    assert check(reply("a"), empty, asked="ab")[1] == {"b": "names: sent no tensors"}
    assert check(reply("a"), empty, asked="ab", allowed={"a": REFERENCE, "b": {}})[1] == {}


def test_answers_that_lack_a_tensor_are_refused_before_the_methods_own_check() -> None:
    answers = {"answer/label": torch.zeros(3)}
    replies = [Reply(c, Payload(t, {"round": 3, "examples": 1})) for c, t in (("a", answers), ("b", {}))]
    kept, refused = inspect(
        replies,
        rules=Firewall(),
        round=3,
        asked=["a", "b"],
        reference=dict.fromkeys("ab", answers),
        answers=True,
        check=lambda r: None if len(r.payload.tensors["answer/label"]) else "none",
    )
    assert [r.client for r in kept] == ["a"]
    assert refused == {"b": "names: sent no tensors"}


def test_what_the_methods_own_check_raises_is_its_clients_refusal() -> None:
    def own(r: Reply) -> str | None:
        raise KeyError(f"{r.client}\x1b")

    _, refused = inspect(
        [reply("a")], rules=Firewall(), round=3, asked=["a"], reference={"a": REFERENCE}, check=own
    )
    assert refused["a"].startswith("check: raised KeyError")
    assert refused["a"].isprintable()
