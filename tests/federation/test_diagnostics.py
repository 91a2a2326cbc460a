"""Cosines of updates by hand; when the aggregation is measured."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation.diagnostics import SIMILARITIES, agreement, change_norm, similarities, turn
from fedloom.methods.base.combine import Pair


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


@pytest.mark.parametrize(
    ("clients", "d_in", "d_out"), [(3, 7, 5), (3, 31, 40)]
)  # the dense product is smaller, larger
def test_similarity_of_changes_is_that_of_the_dense_products(clients: int, d_in: int, d_out: int) -> None:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    A, B, A_k, B_k = draw(2, d_in), draw(d_out, 2), draw(clients, 2, d_in), draw(clients, d_out, 2)
    pair = Pair(A_k, B_k, torch.full((clients,), 1 / clients), None)
    found = similarities(pair, A, B)
    changes = {
        "cosine_A": A_k,
        "cosine_B": B_k,
        "cosine_change_A": A_k - A,
        "cosine_change_B": B_k - B,
        "cosine_change": B_k @ A_k - B @ A,
    }
    wanted = {
        name: torch.stack(
            [cosine_similarity(t[i].flatten(), t[j].flatten(), dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
        ).mean()
        for name, t in changes.items()
    }
    assert found == pytest.approx({n: float(t) for n, t in wanted.items()}, rel=1e-10)
    assert set(found) == set(SIMILARITIES)


def test_a_factor_that_did_not_move_has_no_similarity_of_changes() -> None:
    A, B = torch.eye(2, 3), torch.zeros(4, 2)
    moved = torch.stack([torch.ones(4, 2), torch.ones(4, 2)])
    found = similarities(Pair(torch.stack([A, A]), moved, torch.tensor([0.5, 0.5]), None), A, B)
    assert found == pytest.approx(
        {"cosine_A": 1.0, "cosine_B": 1.0, "cosine_change_B": 1.0, "cosine_change": 1.0}
    )
    assert similarities(Pair([A, A[:1]], [B, B[:, :1]], torch.tensor([0.5, 0.5]), None), A, B) == {}


def test_factors_that_clients_drew_themselves_have_no_change_from_a_common_one() -> None:
    g = torch.Generator().manual_seed(0)
    A_k, B_k = torch.randn(3, 2, 7, generator=g).double(), torch.randn(3, 5, 2, generator=g).double()
    pair, zero = Pair(A_k, B_k, torch.full((3,), 1 / 3), None), torch.zeros(5, 2).double()
    found = similarities(pair, None, zero)
    assert found.keys() == {"cosine_A", "cosine_B", "cosine_change_B", "cosine_change"}
    assert found["cosine_change"] == pytest.approx(_mean_cosine(B_k @ A_k), rel=1e-10)
    assert found["cosine_change_B"] == pytest.approx(_mean_cosine(B_k), rel=1e-10)
    assert "cosine_change" not in similarities(pair, None, zero + 1), "B A depends on an A that nobody knows"


def _mean_cosine(tensors: torch.Tensor) -> float:
    pairs = [(i, j) for i in range(len(tensors)) for j in range(i)]
    cosines = [cosine_similarity(tensors[i].flatten(), tensors[j].flatten(), dim=0) for i, j in pairs]
    return float(torch.stack(cosines).mean())


def test_turning_back_is_below_zero() -> None:
    last = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0])}
    assert turn({"a": torch.tensor([-2.0, 0.0]), "b": torch.tensor([-2.0])}, last) == {"update/turn": -1.0}
    assert turn({"a": torch.tensor([0.0, 3.0]), "c": torch.tensor([1.0])}, last) == {"update/turn": 0.0}
    assert turn({"a": torch.tensor([0.0, 3.0])}, {}) == {}


def factors(rank: int, seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "llm/q.lora_A": torch.randn(rank, 7, generator=g),
        "llm/q.lora_B": torch.randn(5, rank, generator=g),
    }


def dense(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return tensors["llm/q.lora_B"].double() @ tensors["llm/q.lora_A"].double()


@pytest.mark.parametrize("rank", [2, 3])
def test_the_change_is_that_of_the_products_and_of_all_other_tensors(rank: int) -> None:
    before, after = factors(2, 0), factors(rank, 1)  # also where the server's rank has changed
    size = float((dense(after) - dense(before)).norm())
    assert change_norm(before, after, {}) == pytest.approx(size, rel=1e-6)
    projector = {"projector": torch.zeros(3)}, {"projector": torch.full((3,), 2.0)}
    found = change_norm({**before, **projector[0]}, {**after, **projector[1]}, {})
    assert found == pytest.approx((size**2 + 12) ** 0.5, rel=1e-6)


def test_the_same_model_in_other_factors_has_not_changed() -> None:
    before = factors(2, 0)
    after = {"llm/q.lora_A": 2 * before["llm/q.lora_A"], "llm/q.lora_B": before["llm/q.lora_B"] / 2}
    assert change_norm(before, after, {}) == pytest.approx(0.0, abs=1e-6)
    assert change_norm(before, dict(before), {}) == 0.0


def test_factors_that_stay_begin_at_zero_or_do_not_travel() -> None:
    one, other = factors(2, 0), factors(2, 1)
    A, B = "llm/q.lora_A", "llm/q.lora_B"
    frozen = {A: one[A]}  # FFA-LoRA: B alone travels
    moved = (other[B] - one[B]).double() @ one[A].double()
    assert change_norm({B: one[B]}, {B: other[B]}, frozen) == pytest.approx(float(moved.norm()), rel=1e-6)
    assert change_norm({}, one, {}) == pytest.approx(float(dense(one).norm()), rel=1e-6)  # FLoRA's stack
    alone = float((other[A] - one[A]).norm())  # FedSA-LoRA: B stays with the clients
    assert change_norm({A: one[A]}, {A: other[A]}, {}) == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize(("every", "measured"), [(None, [3]), (1, [1, 2, 3]), (2, [2, 3]), ("off", [])])
def test_the_aggregation_is_measured_when_it_is_due_and_in_the_last_round(
    quick: Any, every: Any, measured: list[int]
) -> None:
    evaluation = {"generate": False, "controls": False, "every": 3, "diagnostics": every}
    data = {"clients": {"text": 2}, "train": 2, "test": 1}
    found: dict[int, set[str]] = {}
    chosen = quick("feda2-lora", data=data, rounds=3, training={"steps": 1}, evaluation=evaluation)
    build(chosen, None, lambda progress: found.update({progress.round: set(progress.metrics)})).run()
    assert [n for n, names in found.items() if {"restoration_error", "angle"} <= names] == measured
    assert [n for n, names in found.items() if "change_norm" in names] == [1, 2, 3]


def test_off_is_read_as_written_and_other_values_are_refused() -> None:
    written = {"method": "fedavg-lora", "evaluation": {"diagnostics": False}}
    assert Experiment.parse(written).evaluation.diagnostics == "off"
    for wrong in (0, True, "never"):
        with pytest.raises(ExperimentError, match=r"evaluation\.diagnostics"):
            Experiment.parse({"method": "fedavg-lora", "evaluation": {"diagnostics": wrong}})
