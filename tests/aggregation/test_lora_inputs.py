"""Diagnostics, dtypes and refusals."""

import math

import pytest
import torch

from fedloom.aggregation import lora

METHODS = [lora.fedavg, lora.feda2, lora.fedex, lora.flexlora, lora.flora]


def test_diagnostics_of_a_case_worked_by_hand() -> None:
    # Two clients of rank 1 whose A stand at 60 degrees; U = (e1 a1 + e2 a2) / 2 in a 3 x 2 layer.
    h = math.sqrt(3) / 2
    A = torch.tensor([[[1.0, 0.0]], [[0.5, h]]], dtype=torch.float64)
    B = torch.tensor([[[1.0], [0.0], [0.0]], [[0.0], [1.0], [0.0]]], dtype=torch.float64)
    A_out, B_out = lora.feda2(A, B, mode="strict")
    torch.testing.assert_close(A_out, torch.tensor([[0.75, h / 2]], dtype=torch.float64))
    torch.testing.assert_close(B_out, torch.tensor([[0.5], [0.5], [0.0]], dtype=torch.float64))
    d = lora.diagnostics(A, B, A_out, 2 * B_out)
    assert d.angle == pytest.approx(math.pi / 3)
    assert d.condition == pytest.approx(1)
    assert d.norm_ratio == pytest.approx(2)
    assert d.error_mean == pytest.approx(0.5)  # |U|² = 1/2, |B̄Ā|² = 3/8 is its projection, 1/8 is lost
    assert d.error == pytest.approx(1)  # twice the projection: 1/8 + 3/8 = |U|²


def test_diagnostics_agree_with_dense_matrices(make_cohort, make_ragged) -> None:
    c = make_cohort(0)
    A_out, B_out = lora.feda2(c.A, c.B, c.p)
    d = lora.diagnostics(c.A, c.B, A_out, B_out, c.p)
    assert d.condition == pytest.approx(float(torch.linalg.cond(A_out @ A_out.T)))
    assert d.norm_ratio == pytest.approx(float(B_out.norm() / lora.fedavg(c.A, c.B, c.p)[1].norm()))
    assert d.error < d.error_mean
    A, B, p, _ = make_ragged(1)
    d = lora.diagnostics(A, B, *lora.feda2(A, B, p), p)
    worst = 0.0
    for i in range(5):
        for j in range(i):
            Q_i, Q_j = torch.linalg.qr(A[i].T).Q, torch.linalg.qr(A[j].T).Q
            worst = max(worst, math.acos(float(torch.linalg.svdvals(Q_i.T @ Q_j).min())))
    assert d.angle == pytest.approx(worst, rel=1e-9)


def test_diagnostics_at_the_edges(make_cohort) -> None:
    c = make_cohort(2, K=1)
    same = lora.diagnostics(c.A, c.B, c.A[0], c.B[0])
    assert same.angle == 0
    assert same.error < 1e-14
    two = lora.diagnostics(c.A.repeat(2, 1, 1), c.B.repeat(2, 1, 1), c.A[0], c.B[0])
    assert two.angle < 1e-6
    zero = lora.diagnostics(c.A, 0 * c.B, c.A[0], 0 * c.B[0])
    assert (zero.error_mean, zero.error, zero.norm_ratio) == (0, 0, 1)
    assert lora.restoration_error(c.A, 0 * c.B, c.A[0], c.B[0]) == math.inf


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_computed_in_float32_and_returned_as_it_came(make_cohort, method, dtype) -> None:
    c = make_cohort(3)
    A, B = c.A.to(dtype), c.B.to(dtype)
    half, full = method(A, B, c.p), method(A.float(), B.float(), c.p)
    for got, want in zip(half[:2], full[:2], strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, want.to(dtype))


@pytest.mark.parametrize("method", METHODS)
def test_results_are_detached_copies_in_the_input_dtype(make_cohort, method) -> None:
    c = make_cohort(4, torch.float32)
    A, B = c.A[:1].clone().requires_grad_(), c.B[:1].clone()
    before = A.detach().clone(), B.clone()
    for out in method(A, B)[:2]:
        assert out.dtype == torch.float32
        assert not out.requires_grad
        out.zero_()
    assert torch.equal(A, before[0])
    assert torch.equal(B, before[1])


def test_weights_default_to_uniform_and_count_once(make_cohort) -> None:
    c = make_cohort(5)
    assert torch.equal(lora.fedavg(c.A, c.B)[0], lora.fedavg(c.A, c.B, [0.2] * 5)[0])
    only = lora.fedavg(c.A, c.B, [0, 0, 1, 0, 0])
    assert torch.equal(only[0], c.A[2])
    assert torch.equal(only[1], c.B[2])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5] * 5, "sum to 2.5"),
        ([1.2, -0.2, 0, 0, 0], "negative"),
        ([math.nan, 1, 0, 0, 0], "finite"),
        ([0.5, 0.5], "one per client, 5"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_bad_weights_are_refused(make_cohort, method, weights, message) -> None:
    c = make_cohort(6)
    with pytest.raises(ValueError, match=message):
        method(c.A, c.B, weights)


@pytest.mark.parametrize("method", METHODS)
def test_bad_factors_are_refused(make_cohort, method) -> None:
    c = make_cohort(7)
    A, B = c.A, c.B
    poisoned = B.clone()
    poisoned[3, 0, 0] = math.inf
    for a, b, message in [
        (A.transpose(1, 2), B, "must be"),
        (A, B.transpose(1, 2), "must be"),
        (A[:3], B, "3 A and 5 B"),
        (A[0], B, "3-D"),
        ([], [], "at least one"),
        (A.long(), B, "floating point"),
        (A, poisoned, "not finite"),
        ([*A[:4], A[4, :, :9]], B, "same layer"),
        ([*A[:4], A[4].float()], B, "torch.float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            method(a, b)


def test_bad_options_are_refused(make_cohort) -> None:
    c = make_cohort(8)
    for call, message in [
        (lambda: lora.feda2(c.A, c.B, ridge=-1.0), "ridge is -1.0"),
        (lambda: lora.feda2(c.A, c.B, ridge=math.inf), "finite"),
        (lambda: lora.feda2(c.A, c.B, mode="plain"), "strict, always, relative, centred"),
        (lambda: lora.feda2(c.A, c.B, mode="always", ridge_scale="absolute"), "'centred' only"),
        (lambda: lora.feda2(c.A, c.B, ridge_scale="log"), "relative or absolute"),
        (lambda: lora.feda2(c.A, c.B, rank=3), "rank is 3"),
        (lambda: lora.fedavg(c.A, c.B, tail="drop"), "tail is 'drop'"),
        (lambda: lora.fedavg(c.A, c.B, scales=[1, 1, 0, 1, 1]), "positive"),
        (lambda: lora.flexlora(c.A, c.B, rank=0), "at least 1"),
        (lambda: lora.flexlora(c.A, c.B, split="a"), "sqrt or b"),
        (lambda: lora.fedex(c.A, c.B, residual_rank=0), "at least 1"),
        (lambda: lora.feda2_solve(c.A[0], c.B[0]), "needs the mean of B"),
        (lambda: lora.feda2_solve(c.A[0], c.B[0].T, c.B[0]), "must be"),
        (lambda: lora.restoration_error(c.A, c.B, c.A[0].T, c.B[0]), "the layer is 24 x 37"),
        (lambda: lora.restoration_error(c.A, c.B, c.A[0, :2], c.B[0]), "rank 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_weights_and_scales_of_plain_numbers_keep_double_precision(make_cohort) -> None:
    c = make_cohort(9)
    p, s = [0.3, 0.1, 0.25, 0.15, 0.2], [1 / 3, 0.7, 1.1, 2.3, 0.9]
    want = sum(w * f * b @ a for w, f, a, b in zip(p, s, c.A, c.B, strict=True))
    A, B = lora.flora(c.A, c.B, p, scales=s)
    assert float((B @ A - want).norm()) < 1e-14 * float(want.norm())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["strict", "centred"])
@pytest.mark.parametrize("weights", [None, [0.5, 0.0, 0.5]])
def test_one_value_that_is_not_finite_is_seen_wherever_it_stands(mode, value, weights) -> None:
    draw = torch.Generator().manual_seed(0)
    A, B = torch.randn(3, 8, 96, generator=draw), torch.randn(3, 160, 8, generator=draw)
    for factor, name, place in [
        (A, "A", (1, 7, 95)),
        (A, "A", (2, 0, 0)),
        (B, "B", (1, 159, 7)),
        (B, "B", (2, 0, 0)),
    ]:
        kept = factor[place].clone()
        factor[place] = value
        for a in (
            (A, torch.where(A.isfinite(), 0.0, A)) if name == "B" else (A,)
        ):  # where nothing of B counts, too
            with pytest.raises(ValueError, match=f"{name} holds values that are not finite"):
                lora.feda2(a, B, weights, mode=mode)
        factor[place] = kept
    lora.feda2(A, B, weights, mode=mode)


def test_large_finite_values_are_no_fault() -> None:
    A, B = torch.full((4, 2, 9), 3e38), torch.full((4, 7, 2), -3e38)  # their sums are not finite
    A_bar, B_bar = lora.fedavg(A, B)
    assert torch.isfinite(A_bar).all()
    assert torch.isfinite(B_bar).all()


@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.05, 10.0])
def test_the_largest_angle_of_many_clients_is_that_of_every_two(spread) -> None:
    g = torch.Generator().manual_seed(0)
    A = torch.randn(4, 11, generator=g, dtype=torch.float64)
    A = A + spread * torch.randn(12, 4, 11, generator=g, dtype=torch.float64)
    B, Q = torch.randn(12, 9, 4, generator=g, dtype=torch.float64), torch.linalg.qr(A.mT).Q
    cosines = [torch.linalg.svdvals(Q[i].T @ Q[j]).min() for i in range(12) for j in range(i)]
    want = math.acos(min(1.0, float(min(cosines))))
    assert lora.diagnostics(A, B, A[0], B[0]).angle == pytest.approx(want, abs=1e-7)
