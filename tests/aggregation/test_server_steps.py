"""FedAvgM's and FedAdam's steps by hand."""

import pytest
import torch

from fedloom.aggregation import server


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_momentum_by_hand_over_two_rounds() -> None:
    one, kept = server.momentum({"w": t(1, 2), "idle": t(5)}, {"w": t(2, 0)}, {}, 0.5)
    assert one["w"].tolist() == [2, 0]
    two, kept = server.momentum({"w": one["w"]}, {"w": t(3, 0)}, kept, 0.5)
    assert kept["w.momentum"].tolist() == [1.5, -1]
    assert two["w"].tolist() == [3.5, -1]
    assert set(kept) == {"w.momentum"}


def test_no_momentum_is_the_mean_and_a_smaller_rate_goes_part_of_the_way() -> None:
    assert server.momentum({"w": t(1)}, {"w": t(3)}, {}, 0.0)[0]["w"].tolist() == [3]
    assert server.momentum({"w": t(1)}, {"w": t(3)}, {}, 0.0, lr=0.25)[0]["w"].tolist() == [1.5]


def test_adam_by_hand_over_two_rounds() -> None:
    moved, kept = server.adam({"w": t(1)}, {"w": t(3)}, {}, 0.1, 0.9, 0.99, 0.001)
    a, b = 0.1 * 2, 0.01 * 4
    assert moved["w"].tolist() == pytest.approx([1 + 0.1 * a / (b**0.5 + 0.001)])
    again, kept = server.adam(moved, {"w": moved["w"] - 1}, kept, 0.1, 0.9, 0.99, 0.001)
    a, b = 0.9 * a - 0.1, 0.99 * b + 0.01
    assert kept["w.first"].tolist() == pytest.approx([a])
    assert kept["w.second"].tolist() == pytest.approx([b])
    assert (again["w"] - moved["w"]).tolist() == pytest.approx([0.1 * a / (b**0.5 + 0.001)])


def test_nesterovs_step_is_that_of_sgd_with_the_negative_change_as_gradient() -> None:
    weight = torch.nn.Parameter(t(1, 2))
    sgd = torch.optim.SGD([weight], lr=0.7, momentum=0.9, nesterov=True)
    now, kept = {"w": t(1, 2)}, {}
    for change in (t(0.5, -1), t(0.25, 0.5), t(-1, 2)):
        weight.grad = -change
        sgd.step()
        now, kept = server.nesterov(now, {"w": now["w"] + change}, kept, 0.9, 0.7)
        torch.testing.assert_close(now["w"], weight.detach(), rtol=1e-10, atol=1e-12)
