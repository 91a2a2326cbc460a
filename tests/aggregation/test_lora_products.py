"""Spec fedlora.md section 9: exact methods and effective weights (11, 13-19, 22-24, 26, 36)."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from fedloom.aggregation import lora

pytestmark = pytest.mark.identities


def norm(x) -> float:
    return float(x.double().norm())


def product(pair):
    A, B = pair
    return B.double() @ A.double()


def effective(method, A, B, p):
    """The update that the method makes in effect, base included."""
    if method == "fedex":
        A_bar, B_bar, (R_B, R_A) = lora.fedex(A, B, p)
        return product((A_bar, B_bar)) + R_B.double() @ R_A.double()
    return product(getattr(lora, method)(A, B, p))


precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
ALL = ["fedavg", "feda2", "fedex", "flexlora", "flora"]


@pytest.mark.parametrize("split", ["sqrt", "b"])
@pytest.mark.parametrize("rank", [1, 4, 7])
def test_11_qr_svd_is_the_dense_svd(cohort, rank, split) -> None:
    P, S, Q_t = torch.linalg.svd(cohort.U, full_matrices=False)
    A, B = lora.flexlora(cohort.A, cohort.B, cohort.p, rank=rank, split=split)
    assert A.shape == (rank, 37)
    assert B.shape == (24, rank)
    assert cohort.close(product((A, B)), (P[:, :rank] * S[:rank]) @ Q_t[:rank], cohort.U)
    values = A.double().norm(dim=1) * B.double().norm(dim=0)
    assert cohort.close(values, S[:rank])
    if split == "sqrt":
        assert cohort.close(A.double().norm(dim=1), B.double().norm(dim=0))
    else:
        assert cohort.close(A.double() @ A.double().T, torch.eye(rank, dtype=torch.float64))


@precisions
@pytest.mark.parametrize("clients", [2, 5, 9])  # 12, 30, 54 directions: below 24, between, above 37
def test_11_however_wide_the_cohort_it_is_the_dense_svd(make_cohort, clients, dtype) -> None:
    """Where the stacked factors are as wide as the layer, their QR is left out."""
    c = make_cohort(clients, dtype, K=clients, r=6)
    P, S, Q_t = torch.linalg.svd(c.U, full_matrices=False)
    found = product(lora.flexlora(c.A, c.B, c.p, rank=5))
    torch.testing.assert_close(found, (P[:, :5] * S[:5]) @ Q_t[:5], rtol=c.tol, atol=c.tol)
    A_bar, B_bar, (R_B, R_A) = lora.fedex(c.A, c.B, c.p)
    whole = product((A_bar, B_bar)) + product((R_A, R_B))
    torch.testing.assert_close(whole, c.U, rtol=c.tol, atol=c.tol)


def test_11_lower_ranks_are_the_leading_part_of_higher_ones(cohort) -> None:
    A, B = lora.flexlora(cohort.A, cohort.B, cohort.p, rank=8)
    A3, B3 = lora.flexlora(cohort.A, cohort.B, cohort.p, rank=3)
    assert cohort.close(A[:3], A3)
    assert cohort.close(B[:, :3], B3)


def square(parts) -> torch.Tensor:
    """||sum w_k B_k A_k||^2 by traces."""
    A, B, w = zip(*((a.double(), b.double(), float(w)) for a, b, w in parts), strict=True)
    n = range(len(A))
    return sum(w[i] * w[j] * torch.trace((B[i].T @ B[j]) @ (A[j] @ A[i].T)) for i in n for j in n)


def test_13_trace_forms_of_the_norm_and_of_the_error(cohort) -> None:
    clients = list(zip(cohort.A, cohort.B, cohort.p, strict=True))
    assert float(square(clients)) == pytest.approx(norm(cohort.U) ** 2, rel=1e-12)
    for a, b, _ in clients:
        assert float(square([(a, b, 1)])) == pytest.approx(norm(b.double() @ a.double()) ** 2, rel=1e-12)
    for pair in (lora.fedavg(cohort.A, cohort.B, cohort.p), lora.feda2(cohort.A, cohort.B, cohort.p)):
        trace = float((square([*clients, (*pair, -1)]) / square(clients)).sqrt())
        qr = lora.restoration_error(cohort.A, cohort.B, *pair, cohort.p)
        assert qr == pytest.approx(trace, rel=cohort.tol / 10)
        dense = norm(cohort.U - product(pair)) / norm(cohort.U)
        assert qr == pytest.approx(dense, rel=cohort.tol / 100)


def test_14_stack_is_u_and_takes_scales_and_unequal_ranks(cohort, make_ragged) -> None:
    A, B = lora.flora(cohort.A, cohort.B, cohort.p)
    assert A.shape == (20, 37)
    assert cohort.close(product((A, B)), cohort.U)
    A_k, B_k, p, _ = make_ragged(8)
    s = [2.0, 0.5, 1.0, 4.0, 0.25]
    A, B = lora.flora(A_k, B_k, p, scales=s)
    want = sum(w * f * b @ a for w, f, a, b in zip(p, s, A_k, B_k, strict=True))
    assert A.shape == (16, 37)
    torch.testing.assert_close(B @ A, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ALL)
def test_15_identical_clients_are_a_fixed_point(cohort, method) -> None:
    A, B = cohort.A[:1].expand(5, -1, -1), cohort.B[:1].expand(5, -1, -1)
    assert cohort.close(effective(method, A, B, cohort.p), product((A[0], B[0])))


def test_16_and_17_fedex_restores_u_in_the_base(cohort) -> None:
    A, B, s = cohort.A, cohort.B, 2.0
    W0 = torch.randn(24, 37, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    A_bar, B_bar, (R_B, R_A) = lora.fedex(A, B, cohort.p)
    assert R_B.shape == (24, 16)  # (K - 1) r
    assert R_A.shape == (16, 37)
    assert cohort.close(R_B.double() @ R_A.double(), cohort.U - product((A_bar, B_bar)), cohort.U)
    base = W0 + s * R_B.double() @ R_A.double()
    assert cohort.close(base + s * product((A_bar, B_bar)), W0 + s * cohort.U)
    assert cohort.close(effective("fedex", A, B, cohort.p), effective("flora", A, B, cohort.p))


@precisions
def test_17_residual_rank_keeps_the_leading_directions(make_cohort, dtype) -> None:
    c = make_cohort(9, dtype)
    A_bar, B_bar, (R_B, R_A) = lora.fedex(c.A, c.B, c.p, residual_rank=5)
    P, S, Q_t = torch.linalg.svd(c.U - product((A_bar, B_bar)), full_matrices=False)
    assert R_B.shape == (24, 5)
    assert c.close(product((R_A, R_B)), (P[:, :5] * S[:5]) @ Q_t[:5])


def test_17_one_client_leaves_an_empty_residual(make_cohort) -> None:
    c = make_cohort(10, K=1)
    *_, (R_B, R_A) = lora.fedex(c.A, c.B)
    assert R_B.shape == (24, 0)
    assert R_A.shape == (0, 37)


@precisions
def test_exact_completion_of_feda2_is_exact_and_smaller_than_fedex(make_cohort, dtype) -> None:
    c = make_cohort(11, dtype)
    A_bar, B_star = lora.feda2(c.A, c.B, c.p)
    R_B, R_A = lora.residual(c.A, c.B, A_bar, B_star, c.p)
    joined = torch.cat([A_bar, R_A]), torch.cat([B_star, R_B], dim=1)
    assert c.close(product(joined), c.U)
    assert lora.restoration_error(c.A, c.B, *joined, c.p) < (1e-13 if dtype == torch.float64 else 1e-6)
    *_, (F_B, F_A) = lora.fedex(c.A, c.B, c.p)
    assert norm(R_B @ R_A) < norm(F_B @ F_A)


@precisions
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_18_after_one_step_from_b_zero_all_methods_agree(optimiser, make_cohort, dtype) -> None:
    start = make_cohort(12, dtype, K=1)
    A_k, B_k = [], []
    for k in range(5):
        g = torch.Generator().manual_seed(k)
        a = start.A[0].clone().requires_grad_()
        b = torch.zeros(24, 4, dtype=dtype, requires_grad=True)
        x, y = (torch.randn(16, n, generator=g, dtype=torch.float64).to(dtype) for n in (37, 24))
        step = optimiser([a, b], lr=0.1)
        (x @ a.T @ b.T - y).pow(2).mean().backward()
        step.step()
        A_k.append(a.detach())
        B_k.append(b.detach())
    A, B, p = (
        torch.stack(A_k),
        torch.stack(B_k),
        torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64),
    )
    assert all(torch.equal(a, A[0]) for a in A)
    assert norm(B[0] - B[1]) > 0
    U = lora.dense(A.double(), B.double(), p)
    for method in ALL:
        assert start.close(effective(method, A, B, p), U)


@precisions
def test_19_enough_rank_returns_u_and_orthonormal_a_makes_the_solve_a_product(make_cohort, dtype) -> None:
    c = make_cohort(13, dtype)
    for rank in (20, 24, 30):  # the last is more than the layer has: filled with zeros
        A, B = lora.flexlora(c.A, c.B, c.p, rank=rank)
        assert A.shape == (rank, 37)
        assert c.close(product((A, B)), c.U)
    Q = torch.linalg.qr(c.A[0].T).Q.T.expand(5, -1, -1)
    assert c.close(
        lora.feda2(Q, c.B, c.p, 0.0)[1], lora.dense(Q.double(), c.B.double(), c.p) @ Q[0].double().T
    )


def test_flexlora_keeps_directions_alive_where_u_is_zero(make_cohort) -> None:
    c = make_cohort(14)
    A, B = lora.flexlora(c.A, torch.zeros_like(c.B), c.p)
    assert torch.count_nonzero(B) == 0
    torch.testing.assert_close(A @ A.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)
    same = lora.flexlora(c.A[:1].expand(5, -1, -1), c.B[:1].expand(5, -1, -1), c.p, rank=6)
    assert c.close(same[1] @ same[0], c.B[0] @ c.A[0])
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(same[0][4:].norm(dim=1), ones, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ALL)
def test_23_client_order_and_splitting_a_client_change_nothing(cohort, method) -> None:
    want = effective(method, cohort.A, cohort.B, cohort.p)
    order = [3, 0, 4, 1, 2]
    assert cohort.close(effective(method, cohort.A[order], cohort.B[order], cohort.p[order]), want)
    twice = [0, 1, 2, 3, 4, 4]
    p = cohort.p[twice].clone()
    p[4:] /= 2
    assert cohort.close(effective(method, cohort.A[twice], cohort.B[twice], p), want)


def test_23_flexlora_factors_do_not_depend_on_client_order(make_cohort) -> None:
    c, order = make_cohort(15), [4, 2, 0, 1, 3]
    here, there = lora.flexlora(c.A, c.B, c.p), lora.flexlora(c.A[order], c.B[order], c.p[order])
    assert c.close(there[0], here[0])
    assert c.close(there[1], here[1])


@precisions
@pytest.mark.parametrize("method", ["fedex", "flexlora", "flora"])
def test_24_unequal_scales(make_cohort, method, dtype) -> None:
    c, s_k, s = make_cohort(16, dtype), torch.tensor([2.0, 1.0, 0.5, 4.0, 3.0], dtype=torch.float64), 2.0
    pairs = zip(c.p, s_k, c.A.double(), c.B.double(), strict=True)
    want = sum(p * f * b @ a for p, f, a, b in pairs)
    if method == "fedex":
        A, B, (R_B, R_A) = lora.fedex(c.A, c.B, c.p, scales=s_k / s)
        assert c.close(s * (product((A, B)) + product((R_A, R_B))), want)
    else:
        A, B = getattr(lora, method)(
            c.A, c.B, c.p, **({"rank": 20} if method == "flexlora" else {}), scales=s_k / s
        )
        assert c.close(s * product((A, B)), want)


@precisions
def test_24_scales_reach_the_means_the_solve_and_the_error(make_cohort, dtype) -> None:
    c, ratio = make_cohort(17, dtype), torch.tensor([2.0, 1.0, 0.5, 4.0, 3.0], dtype=torch.float64)
    folded = (c.B * ratio[:, None, None]).to(dtype)
    for method in (lora.fedavg, lora.feda2):
        got, want = method(c.A, c.B, c.p, scales=ratio), method(c.A, folded, c.p)
        assert c.close(got[1], want[1])
    error = lora.restoration_error(c.A, c.B, *got, c.p, scales=ratio)
    assert error == pytest.approx(lora.restoration_error(c.A, folded, *want, c.p), rel=c.tol / 100)


def adapted(alpha: float, dtype: torch.dtype, rslora: bool = False) -> nn.Module:
    net = nn.Sequential(nn.Linear(37, 24))
    with torch.no_grad():
        net[0].weight.copy_(torch.linspace(-1, 1, 24 * 37).reshape(24, 37))
        net[0].bias.fill_(0.5)
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=["0"], use_rslora=rslora)
    return inject_adapter_in_model(config, net).to(dtype).eval()


def put(net: nn.Module, A, B) -> nn.Module:
    with torch.no_grad():
        net[0].lora_A["default"].weight.copy_(A)
        net[0].lora_B["default"].weight.copy_(B)
    return net


@precisions
def test_22_and_26_peft_forward_of_the_result_is_that_of_the_merged_weight(make_cohort, dtype) -> None:
    c = make_cohort(18, dtype)
    x = torch.randn(6, 37, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    A, B, (R_B, R_A) = lora.fedex(c.A, c.B, c.p)
    net = put(adapted(8, dtype), A, B)
    base, s = net[0].base_layer, 8 / 4
    W0, bias = base.weight.detach().double().clone(), base.bias.detach().double()
    with torch.no_grad():
        adapter = net(x)
        assert c.close(adapter, x.double() @ (W0 + s * product((A, B))).T + bias)
        rs = put(adapted(8 / 4**0.5, dtype, rslora=True), A, B)
        assert c.close(rs(x), adapter)
        net[0].base_layer.weight += s * R_B @ R_A
        exact = net(x)
        assert c.close(exact, x.double() @ (W0 + s * c.U).T + bias)
        clients = sum(p * put(copy.deepcopy(rs), a, b)(x) for p, a, b in zip(c.p, c.A, c.B, strict=True))
        assert c.close(exact, clients)  # a linear layer: the mean of outputs is the output of the mean
        net[0].merge()
        assert c.close(net(x), exact)


def test_36_qr_error_of_exact_results_is_rounding_only(make_cohort) -> None:
    c = make_cohort(19)
    frozen = c.A[:1].expand(5, -1, -1)
    assert lora.restoration_error(frozen, c.B, *lora.fedavg(frozen, c.B, c.p), c.p) < 1e-14
    assert lora.restoration_error(c.A, c.B, *lora.flora(c.A, c.B, c.p), c.p) < 1e-14
    A, B, (R_B, R_A) = lora.fedex(c.A, c.B, c.p)
    assert lora.restoration_error(c.A, c.B, torch.cat([A, R_A]), torch.cat([B, R_B], dim=1), c.p) < 1e-14


def test_36_the_trace_form_of_the_same_error_has_half_the_digits(make_cohort) -> None:
    """Where the QR form gives 0 to 1e-14, the trace form gives 0 to 1e-7 only."""
    traces = []
    for seed in range(5):
        c = make_cohort(seed)
        frozen = c.A[:1].expand(5, -1, -1)
        pair = lora.fedavg(frozen, c.B, c.p)
        clients = list(zip(frozen, c.B, c.p, strict=True))
        traces.append(float((square([*clients, (*pair, -1)]) / square(clients)).abs().sqrt()))
        assert lora.restoration_error(frozen, c.B, *pair, c.p) < 1e-14
    assert 1e-10 < max(traces) < 1e-7
