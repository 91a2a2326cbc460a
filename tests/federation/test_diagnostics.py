"""Cosines of updates by hand."""

import pytest
import torch

from fedloom.core.payload import Payload, Reply
from fedloom.federation.diagnostics import agreement, turn


def reply(client: str, **tensors: list[float]) -> Reply:
    return Reply(client, Payload({n: torch.tensor(v) for n, v in tensors.items()}))


def test_pairs_are_compared_over_what_both_sent() -> None:
    before = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([0.0])}
    replies = [
        reply("x", a=[2.0, 1.0], b=[5.0]),
        reply("y", a=[1.0, 2.0]),
        reply("z", a=[0.0, 1.0], b=[5.0], other=[1.0]),
    ]
    found = agreement(replies, before)
    xy, yz, xz = 0.0, 0.0, (-1 + 25) / 26
    assert found["update/cosine"] == pytest.approx((xy + yz + xz) / 3)
    assert found["update/cosine_min"] == pytest.approx(0.0, abs=1e-9)
    assert found["update/opposed"] == 0.0
    opposed = agreement([replies[0], reply("z", a=[0.0, 1.0])], before)
    assert opposed == pytest.approx({"update/cosine": -1.0, "update/cosine_min": -1.0, "update/opposed": 1.0})
    assert agreement(replies[:1], before) == {}
    assert agreement([reply("x", a=[1.0, 1.0]), replies[1]], before) == {}


def test_turning_back_is_below_zero() -> None:
    last = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0])}
    assert turn({"a": torch.tensor([-2.0, 0.0]), "b": torch.tensor([-2.0])}, last) == {"update/turn": -1.0}
    assert turn({"a": torch.tensor([0.0, 3.0]), "c": torch.tensor([1.0])}, last) == {"update/turn": 0.0}
    assert turn({"a": torch.tensor([0.0, 3.0])}, {}) == {}
