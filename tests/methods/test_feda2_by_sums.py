"""FedA²'s two asks against its one: the same pair from sums alone, in every mode."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch

from fedloom.aggregation import lora
from fedloom.aggregation.mean import weighted_mean
from fedloom.core.payload import EVERYTHING, Payload, Reply, Scope
from fedloom.methods import METHODS, State
from fedloom.methods.base.feda2_by_sums import AVERAGE, PROJECT, solved_by_sums

A, B = "llm/layer.lora_A", "llm/layer.lora_B"


class Ask:
    """Three clients, the last of which lacks a layer; every ask returns the mean alone."""

    sums = True

    def __init__(self, method: Any, pairs: Mapping[str, Mapping[str, torch.Tensor]], left: int = 3) -> None:
        self.method, self.pairs, self.left = method, pairs, left
        self.memory: dict[str, dict[str, Any]] = {c: {} for c in pairs}
        self.sent: list[tuple[str, int]] = []

    def __call__(
        self, request: str, payload: Payload, cohort: Any = None, expect: Scope = EVERYTHING
    ) -> list[Reply]:
        replies = {}
        for client, pair in list(self.pairs.items())[: self.left if request == PROJECT else 3]:
            reply = self.method.client(request, payload, Trainer(pair, self.memory[client]))
            replies[client] = expect.pick(reply.tensors, "shared")
            self.sent.append((request, sum(t.numel() for t in replies[client].values())))
        return [Reply("sum", Payload(weighted_mean(replies.values())), clients=tuple(replies))]


class Trainer:
    personal: Mapping[str, torch.Tensor] = {}

    def __init__(self, pair: Mapping[str, torch.Tensor], memory: dict[str, Any]) -> None:
        self.pair, self.memory = pair, memory

    def train(self, start: Any, **how: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return dict(self.pair), {"examples": 3}

    def keep(self, tensors: Any) -> None:
        pass


def drawn(clients: int = 3) -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(3)

    def pair(place: str, d_in: int, d_out: int) -> dict[str, torch.Tensor]:
        draw = partial(torch.randn, generator=g, dtype=torch.float64)
        return {f"{place}.lora_A": draw(2, d_in), f"{place}.lora_B": draw(d_out, 2)}

    tensors = {f"c{i}": {**pair("llm/layer", 7, 5), **pair("encoder.image/x", 4, 9)} for i in range(clients)}
    tensors["c2"] = {n: t for n, t in tensors["c2"].items() if n.startswith("llm")}
    return tensors


@pytest.mark.parametrize("mode", ["strict", "always", "relative", "centred"])
def test_two_sums_give_the_pair_that_one_look_at_all_factors_gives(mode) -> None:
    method = METHODS["feda2-lora"](mode=mode)
    pairs = drawn()
    ask = Ask(method, pairs)
    state = State({n: torch.zeros_like(t) for n, t in pairs["c0"].items()})
    after = method.round(state, ask)
    for place in ("llm/layer.", "encoder.image/x."):
        held = [p for p in pairs.values() if place + "lora_A" in p]
        stacked = (torch.stack([p[place + f] for p in held]) for f in ("lora_A", "lora_B"))
        expected = lora.feda2(*stacked, mode=mode)
        for factor, tensor in zip(("lora_A", "lora_B"), expected, strict=True):
            torch.testing.assert_close(after.shared[place + factor], tensor, rtol=1e-10, atol=1e-10)
    sizes = {request: sum(n for t, n in ask.sent if t == request) for request in (AVERAGE, PROJECT)}
    count = {
        f: sum(t.numel() for p in pairs.values() for n, t in p.items() if n.endswith(f)) for f in ("A", "B")
    }
    assert sizes == {AVERAGE: count["A"] + (count["B"] if mode == "centred" else 0), PROJECT: count["B"]}


def test_lora_fair_is_the_absolute_centred_ridge_from_sums_too() -> None:
    method, pairs = METHODS["lora-fair"](ridge=0.3), drawn()
    after = method.round(State({n: torch.zeros_like(t) for n, t in pairs["c0"].items()}), Ask(method, pairs))
    stacked = (torch.stack([p[n] for p in pairs.values()]) for n in (A, B))
    expected = lora.feda2(*stacked, mode="centred", ridge=0.3, ridge_scale="absolute")
    torch.testing.assert_close(after.shared[B], expected[1], rtol=1e-10, atol=1e-10)


def test_a_pair_whose_second_sum_stays_closed_is_left_as_it_was() -> None:
    method, pairs = METHODS["feda2-lora"](), drawn()
    state = State({n: torch.zeros_like(t) for n, t in pairs["c0"].items()})

    class Closed(Ask):
        def __call__(self, request: str, *rest: Any, **more: Any) -> list[Reply]:
            (reply,) = super().__call__(request, *rest, **more)
            keep = (lambda n: n.startswith("llm")) if request == PROJECT else (lambda n: True)
            return [Reply("sum", reply.payload.only(keep), clients=reply.clients)]

    solve = partial(lora.feda2_solve, mode="centred")
    after = solved_by_sums(state, Closed(method, pairs), solve, mean_of_b=True)
    assert float(after.shared["encoder.image/x.lora_A"].abs().max()) == 0
    assert float(after.shared["encoder.image/x.lora_B"].abs().max()) == 0
    assert float(after.shared[B].abs().max()) > 0
