"""Baselines of Fed-MA's specification (section 7) against their algorithm boxes, on quadratic losses, in both precisions."""

import pytest
import torch

from fedloom.methods import METHODS
from tests.methods.silos import Silo, rounds, tensors_of

pytestmark = pytest.mark.identities
SHAPES = {"a": (3, 5), "b": (4,)}
SIZES = {"a": 1, "b": 3, "c": 6}
TOLERANCE = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-5}}


@pytest.fixture(params=list(TOLERANCE), ids=["f64", "f32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def silos(dtype: torch.dtype, steps: int = 4) -> list[Silo]:
    """Three clients that differ in target, curvature and size."""
    return [
        Silo(c, tensors_of(10 + i, dtype, **SHAPES), 0.5 + i, list(range(SIZES[c])), steps=steps)
        for i, c in enumerate(SIZES)
    ]


def sgd(silo: Silo, w: dict[str, torch.Tensor], extra) -> dict[str, torch.Tensor]:
    """J steps by hand; `extra(name, w)` is added to the gradient."""
    w = dict(w)
    for _ in range(silo.steps):
        w = {
            n: t - silo.lr * (silo.curvature * (t - silo.targets[n]) + extra(n, t)) for n, t in w.items()
        }  # fmt: skip
    return w


def mean(tensors: list[dict[str, torch.Tensor]], p: list[float]) -> dict[str, torch.Tensor]:
    return {n: sum(x * t[n] for x, t in zip(p, tensors, strict=True)) for n in tensors[0]}


def equal(found, wanted) -> None:
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **TOLERANCE[tensor.dtype], msg=name)


THIRDS = [1 / 3] * 3


@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_fedavg_weighs_equally_or_by_examples(weights, dtype) -> None:
    start, clients = tensors_of(0, dtype, **SHAPES), silos(dtype)
    after = rounds(METHODS["fedavg"](weights=weights), clients, start, 1)[-1].shared
    p = THIRDS if weights == "uniform" else [0.1, 0.3, 0.6]
    equal(after, mean([sgd(s, start, lambda n, t: 0.0) for s in silos(dtype)], p))


def test_fedprox_pulls_to_what_was_sent_in_every_step(dtype) -> None:
    start, now = tensors_of(0, dtype, **SHAPES), tensors_of(0, dtype, **SHAPES)
    states = rounds(METHODS["fedprox"](mu=0.7), silos(dtype), start, 2)
    for state in states[1:]:
        sent = now
        now = mean([sgd(s, sent, lambda n, t, at=sent: 0.7 * (t - at[n])) for s in silos(dtype)], THIRDS)
        equal(state.shared, now)


def test_fedavgm_and_fedadam_step_along_the_mean_change(dtype) -> None:
    start = tensors_of(0, dtype, **SHAPES)
    fields = {"lr": 0.3, "beta1": 0.8, "beta2": 0.95, "tau": 0.01}
    methods = METHODS["fedavgm"](beta=0.6), METHODS["fedadam"](**fields)
    momentum, adam = (rounds(m, silos(dtype), start, 3) for m in methods)
    w, v = start, {n: torch.zeros_like(t) for n, t in start.items()}
    u, a, b = start, dict(v), dict(v)
    for number in (1, 2, 3):
        change = mean([sgd(s, w, lambda n, t: 0.0) for s in silos(dtype)], THIRDS)
        v = {n: 0.6 * v[n] + change[n] - w[n] for n in w}
        w = {n: w[n] + v[n] for n in w}
        equal(momentum[number].shared, w)
        change = mean([sgd(s, u, lambda n, t: 0.0) for s in silos(dtype)], THIRDS)
        delta = {n: change[n] - u[n] for n in u}
        a = {n: 0.8 * a[n] + 0.2 * delta[n] for n in u}
        b = {n: 0.95 * b[n] + 0.05 * delta[n] ** 2 for n in u}
        u = {n: u[n] + 0.3 * a[n] / (b[n] ** 0.5 + 0.01) for n in u}
        equal(adam[number].shared, u)


@pytest.mark.parametrize("clients", [None, 5])
def test_scaffold_is_algorithm_1_with_option_ii_where_clients_take_plain_steps(clients, dtype) -> None:
    """Three rounds by the paper: c_k' = c_k - c + (w - w_k) / (J lr), c' = c + |S|/N mean(c_k' - c_k)."""
    start = tensors_of(0, dtype, **SHAPES)
    states = rounds(METHODS["scaffold"](lr=0.9, clients=clients), silos(dtype), start, 3)
    zero = {n: torch.zeros_like(t) for n, t in start.items()}
    w, c, own = start, zero, [zero] * 3
    for number in (1, 2, 3):
        trained, new = [], []
        for silo, c_k in zip(silos(dtype), own, strict=True):
            w_k = sgd(silo, w, lambda n, t, c=c, c_k=c_k: c[n] - c_k[n])
            trained.append(w_k)
            new.append({n: c_k[n] - c[n] + (w[n] - w_k[n]) / (silo.steps * silo.lr) for n in w})
        moved = mean(trained, THIRDS)
        share = 3 / (clients or 3)
        change = mean([{n: x[n] - y[n] for n in x} for x, y in zip(new, own, strict=True)], THIRDS)
        w, c, own = (
            {n: w[n] + 0.9 * (moved[n] - w[n]) for n in w},
            {n: c[n] + share * change[n] for n in c},
            new,
        )
        equal(states[number].shared, {**w, **{f"{n}.control": t for n, t in c.items()}})


def test_scalar_reliability_weighs_each_client_by_how_near_its_change_is_to_the_others(dtype) -> None:
    start, gamma, floor = tensors_of(0, dtype, **SHAPES), 1.5, 0.01
    method = METHODS["scalar-reliability"](gamma=gamma, floor=floor, weights="examples")
    after = rounds(method, silos(dtype), start, 1)[-1].shared
    trained, p = [sgd(s, start, lambda n, t: 0.0) for s in silos(dtype)], [0.1, 0.3, 0.6]
    D = [torch.cat([(t[n] - start[n]).flatten() for n in sorted(t)]) for t in trained]
    v = torch.stack(
        [(D[k] - sum(p[i] * D[i] for i in range(3) if i != k) / (1 - p[k])).square().mean() for k in range(3)]
    )
    raw = torch.tensor(p, dtype=torch.float64) * (v + floor * v.mean()) ** -gamma
    weights = (raw / raw.sum()).tolist()
    assert max(abs(x - y) for x, y in zip(weights, p, strict=True)) > 0.05
    equal(after, mean(trained, weights))
    plain = METHODS["scalar-reliability"](gamma=0.0, weights="examples")
    equal(rounds(plain, silos(dtype), start, 1)[-1].shared, mean(trained, p))


def test_fedcmp_is_fedavg_without_its_parts_and_begins_its_momentum_when_told(dtype) -> None:
    """momentum_start = 2: two rounds are those of beta = 0, the third is not."""
    start = tensors_of(3, dtype, **{"0.weight": (7, 5), "0.bias": (7,)})

    def clients() -> list[Silo]:
        targets = ({"0.weight": (7, 5), "0.bias": (7,)},) * 3
        return [Silo(c, tensors_of(20 + i, dtype, **targets[i]), 0.5 + i) for i, c in enumerate("abc")]

    def states(**fields) -> list:
        return rounds(METHODS["fedcmp"](rank=3, **fields), clients(), start, 3)

    average = rounds(METHODS["fedavg"](), clients(), start, 3)
    for one, two in zip(states(beta=0, gamma=0), average, strict=True):
        equal({n: one.shared[n] for n in two.shared}, two.shared)
    still, late, soon = states(beta=0.0), states(beta=0.5, momentum_start=2), states(beta=0.5)
    name = "projector/0.weight"
    for number, same in ((1, True), (2, True), (3, False)):
        assert torch.equal(late[number].shared[name], still[number].shared[name]) == same
    assert torch.equal(soon[1].shared[name], still[1].shared[name])
    assert not torch.equal(soon[2].shared[name], still[2].shared[name])
    bias = "projector/0.bias"
    torch.testing.assert_close(
        states(bias="fedavg")[1].shared[bias], average[1].shared[bias], **TOLERANCE[dtype]
    )
    assert float((states()[1].shared[bias] - average[1].shared[bias]).norm()) > 1e-3
    wide = METHODS["fedcmp"](rank=30)
    assert rounds(wide, clients(), start, 1)[-1].tensors[f"{name}.basis"].shape == (7, 6)  # r < m
