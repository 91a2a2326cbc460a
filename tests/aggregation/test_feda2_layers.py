"""FedA² of several layers at once is FedA² of each."""

import math

import pytest
import torch

from fedloom.aggregation import lora
from fedloom.aggregation.solve import DEFAULT_RIDGE
from fedloom.aggregation.stack import stack


def stacks(cohorts, **options):
    return [stack(c.A, c.B, c.p, checked=False, **options) for c in cohorts]


@pytest.mark.parametrize("mode", list(DEFAULT_RIDGE))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_at_once_are_the_layers_one_by_one(make_cohort, mode, dtype) -> None:
    cohorts = [make_cohort(seed, dtype) for seed in range(3)]  # each with weights of its own
    for c, (A, B) in zip(cohorts, lora.feda2_layers(stacks(cohorts), mode=mode), strict=True):
        A_one, B_one = lora.feda2(c.A, c.B, c.p, mode=mode)
        assert c.close(A, A_one)
        assert c.close(B, B_one)
        assert A.dtype == B.dtype == dtype


def test_without_ridge_each_layer_projects_its_own_u(make_cohort) -> None:
    cohorts = [make_cohort(seed) for seed in range(3)]
    for c, (A, B) in zip(cohorts, lora.feda2_layers(stacks(cohorts), 0.0, "always"), strict=True):
        assert c.close(B, c.U @ torch.linalg.pinv(A), c.U)


def test_the_clients_order_does_not_matter(make_cohort) -> None:
    cohorts = [make_cohort(seed) for seed in range(2)]
    back = [stack(c.A.flip(0), c.B.flip(0), c.p.flip(0), checked=False) for c in cohorts]
    pairs = zip(cohorts, lora.feda2_layers(stacks(cohorts)), lora.feda2_layers(back), strict=True)
    for c, one, other in pairs:
        assert all(c.close(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", ["strict", "centred"])
def test_a_layer_with_rows_that_nobody_holds_leaves_the_others_alone(make_cohort, mode) -> None:
    whole, short = make_cohort(0, r=5), make_cohort(1, r=3)
    layers = [
        stack(whole.A, whole.B, whole.p, checked=False),
        stack(short.A, short.B, short.p, rank=5, checked=False),
    ]
    (_, B), (_, B_short) = lora.feda2_layers(layers, mode=mode)
    assert whole.close(B, lora.feda2(whole.A, whole.B, whole.p, mode=mode)[1])
    assert short.close(B_short, lora.feda2(short.A, short.B, short.p, mode=mode, rank=5)[1])
    assert not B_short[:, 3:].any()


@pytest.mark.parametrize(
    ("factor", "value"), [("A", math.nan), ("A", math.inf), ("B", math.nan), ("B", -math.inf)]
)
def test_a_value_that_is_not_finite_is_seen_in_any_layer(make_cohort, factor, value) -> None:
    cohorts = [make_cohort(seed) for seed in range(3)]
    getattr(cohorts[2], factor)[1, 0, 0] = value
    with pytest.raises(ValueError, match=f"{factor} holds values that are not finite"):
        lora.feda2_layers(stacks(cohorts))
