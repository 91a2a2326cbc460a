import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.aggregation.mean import squared_distances, tensor_mean, weighted_mean


def test_each_name_is_averaged_over_its_holders() -> None:
    image = {"llm": torch.tensor([1.0, 2.0]), "image": torch.tensor([[3.0]])}
    audio = {"llm": torch.tensor([5.0, 6.0]), "audio": torch.tensor(7.0)}
    both = {"llm": torch.tensor([9.0, 0.0]), "image": torch.tensor([[11.0]]), "audio": torch.tensor(1.0)}
    mean = weighted_mean([image, audio, both], [0.5, 0.25, 0.25])
    assert mean["llm"].tolist() == [4.0, 2.5]
    assert mean["image"].item() == pytest.approx((0.5 * 3 + 0.25 * 11) / 0.75)
    assert mean["audio"].item() == 4.0
    assert set(mean) == {"llm", "image", "audio"}


@pytest.mark.identities
def test_27_one_holder_gets_its_own_back_whatever_its_weight() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    mean = weighted_mean([{"a": x}, {"b": x}, {"b": -x}], [0.1, 0.7, 0.2])
    assert torch.equal(mean["a"], x)


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(-1e3, 1e3)), min_size=1, max_size=8), st.randoms())
def test_order_splitting_and_the_weights_scale_do_not_matter(clients, random) -> None:
    def mean(pairs) -> float:
        given = [{"x": torch.tensor([v], dtype=torch.float64)} for _, v in pairs]
        return weighted_mean(given, [w for w, _ in pairs])["x"].item()

    want = sum(w * v for w, v in clients) / sum(w for w, _ in clients)
    w, v = clients[0]
    shuffled = [(w / 2, v), *clients[1:], (w / 2, v)]
    random.shuffle(shuffled)
    for pairs in (clients, shuffled, [(3 * w, v) for w, v in clients]):
        assert mean(pairs) == pytest.approx(want, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_stays_and_the_sum_is_wider_than_the_wire(dtype) -> None:
    x = torch.linspace(-1, 1, 7).to(dtype)
    mean = weighted_mean([{"x": x}] * 7, [1 / 7] * 7)["x"]
    assert mean.dtype == dtype
    assert torch.allclose(mean, x, rtol=torch.finfo(dtype).eps)
    many = [{"x": torch.ones(1, dtype=dtype)}] * 999 + [{"x": torch.full((1,), 1000.0, dtype=dtype)}]
    # 2048 is where fp16 stops counting and 256 where bf16 does.
    assert weighted_mean(many)["x"].item() == pytest.approx(1.999, rel=4 * torch.finfo(dtype).eps)


def test_inputs_stay_as_they_were_and_results_are_new_tensors() -> None:
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    mean = weighted_mean([{"x": x}], [1.0])["x"]
    mean.zero_()
    assert x.tolist() == [1.0, 1.0]
    assert not mean.requires_grad


def test_clients_of_weight_zero_are_not_heard() -> None:
    mean = weighted_mean([{"x": torch.ones(2)}, {"x": torch.zeros(3), "y": torch.ones(1)}], [1.0, 0.0])
    assert set(mean) == {"x"}
    assert mean["x"].tolist() == [1.0, 1.0]


def test_refusals() -> None:
    one = {"x": torch.ones(2)}
    for tensors, weights, message in [
        ([], [], "0 clients"),
        ([one, one], [1.0], "2 clients and 1 weights"),
        ([one, one], [1.0, -1.0], "not negative"),
        ([one, one], [1.0, math.nan], "finite"),
        ([one], [0.0], "not all zero"),
        ([one, {"x": torch.ones(3)}], [0.5, 0.5], r"x has shape \(3,\)"),
        ([{"steps": torch.tensor(3)}], [1.0], "steps is torch.int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            weighted_mean(tensors, weights)


@pytest.mark.parametrize("size", [0, 1, 7, (1 << 17) + 64, 3 * (1 << 17) + 5])
@pytest.mark.parametrize("kinds", [(torch.float32,) * 3, (torch.bfloat16, torch.float32, torch.float16)])
def test_a_tensors_mean_is_that_of_the_mappings_to_the_bit(size, kinds) -> None:
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=g).to(kind) for kind in kinds]
    weights = [0.2, 0.5, 0.3]
    want = weighted_mean([{"x": t} for t in tensors], weights)["x"]
    got = tensor_mean(tensors, weights)
    assert got.dtype == want.dtype
    assert torch.equal(got, want)
    heard = tensor_mean([*tensors, torch.full((size,), math.nan)], [*weights, 0.0])
    assert torch.equal(heard, want)


def test_a_tensors_mean_takes_views_and_refuses_what_does_not_fit() -> None:
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(tensor_mean([x.T, x.T], [1.0, 3.0]), x.T)
    for tensors, weights, message in [
        ([], [], "0 clients"),
        ([x, x.T], [0.5, 0.5], "must agree"),
        ([x, x.long()], [0.5, 0.5], r"a tensor is torch\.int64"),
        ([x], [0.0], "not all zero"),
    ]:
        with pytest.raises(ValueError, match=message):
            tensor_mean(tensors, weights)


@pytest.mark.parametrize("size", [0, 5, (1 << 16) + 1, (1 << 18) + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_squared_distances_are_those_of_each_tensor(size, dtype) -> None:
    g = torch.Generator().manual_seed(0)
    other, tensors = (
        torch.randn(size, generator=g).to(dtype),
        [torch.randn(size, generator=g).to(dtype)] * 3,
    )
    tensors[1] = other
    want = [float((t.double() - other.double()).square().sum()) for t in tensors]
    assert squared_distances(tensors, other) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("size", [5, (1 << 18) + 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_shows_in_its_own_distance_alone(size, value) -> None:
    tensors = [torch.ones(size) for _ in range(3)]
    tensors[1][-1] = value
    found = squared_distances(tensors, torch.zeros(size))
    assert [math.isfinite(x) for x in found] == [True, False, True]
