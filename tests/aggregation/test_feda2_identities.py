"""Spec fedlora.md section 9: the identities of the solve (1-10, 15, 31, 32)."""

from dataclasses import replace

import pytest
import torch

from fedloom.aggregation import lora

pytestmark = pytest.mark.identities


def norm(x) -> float:
    return float(x.double().norm())


def product(pair):
    A, B = pair
    return B.double() @ A.double()


def exact(c, **kw):
    """FedA² without ridge."""
    return lora.feda2(c.A, c.B, c.p, 0.0, "centred", **kw)


def test_1_and_31_two_asks_sum_to_u_times_a_bar(cohort) -> None:
    A_bar, B_bar = lora.fedavg(cohort.A, cohort.B, cohort.p)
    N = sum(
        p.to(cohort.B.dtype) * lora.feda2_project(a, b, A_bar)
        for p, a, b in zip(cohort.p, cohort.A, cohort.B, strict=True)
    )
    assert cohort.close(N, cohort.U @ A_bar.double().T)
    for mode in ("strict", "always", "relative", "centred"):
        two = lora.feda2_solve(A_bar, N, B_bar, mode=mode)
        assert cohort.close(two, lora.feda2(cohort.A, cohort.B, cohort.p, mode=mode)[1])


def test_2_residual_of_the_means_is_the_cross_covariance(cohort) -> None:
    A_bar, B_bar = lora.fedavg(cohort.A, cohort.B, cohort.p)
    gap = cohort.U - product((A_bar, B_bar))
    covariance = sum(
        p * (b.double() - B_bar.double()) @ (a.double() - A_bar.double())
        for p, a, b in zip(cohort.p, cohort.A, cohort.B, strict=True)
    )
    assert cohort.close(gap, covariance, cohort.U)
    assert norm(gap) > 0.1 * norm(cohort.U)  # the clients differ, so this says something
    three = [x[:3] for x in (cohort.A, cohort.B)]
    *_, (R_B, R_A) = lora.fedex(*three, [0.2, 0.3, 0.5])
    assert R_B.shape[1] == R_A.shape[0] == 8
    assert torch.linalg.matrix_rank(lora.dense(*three, [0.2, 0.3, 0.5])) == 12


def test_3_svd_is_never_worse_than_feda2_nor_feda2_than_fedavg(cohort) -> None:
    def error(pair) -> float:
        return lora.restoration_error(cohort.A, cohort.B, *pair, cohort.p)

    svd = error(lora.flexlora(cohort.A, cohort.B, cohort.p))
    assert 0 < svd < error(exact(cohort)) < error(lora.fedavg(cohort.A, cohort.B, cohort.p))


def test_4_the_rest_is_orthogonal_to_a_bar(cohort) -> None:
    A_bar, B_star = exact(cohort)
    rest = cohort.U - product((A_bar, B_star))
    assert norm(rest @ A_bar.double().T) <= cohort.tol * norm(cohort.U) * norm(A_bar)


def test_5_pythagoras(cohort) -> None:
    A_bar, B_bar = lora.fedavg(cohort.A, cohort.B, cohort.p)
    _, B_star = exact(cohort)
    left = norm(cohort.U - product((A_bar, B_bar))) ** 2
    right = norm(cohort.U - product((A_bar, B_star))) ** 2 + norm(product((A_bar, B_star - B_bar))) ** 2
    assert left == pytest.approx(right, rel=cohort.tol)


@pytest.mark.parametrize("mode", ["strict", "always", "relative", "centred"])
def test_6_without_ridge_every_mode_projects_u_on_the_rows_of_a_bar(cohort, mode) -> None:
    A_bar, B_star = lora.feda2(cohort.A, cohort.B, cohort.p, 0.0, mode)
    P = torch.linalg.pinv(A_bar.double()) @ A_bar.double()
    assert cohort.close(product((A_bar, B_star)), cohort.U @ P)


def test_6_strict_uses_no_ridge_where_g_is_well_conditioned(cohort) -> None:
    assert cohort.close(lora.feda2(cohort.A, cohort.B, cohort.p, mode="strict")[1], exact(cohort)[1])


@pytest.mark.parametrize("mode", ["strict", "always", "relative", "centred"])
def test_7_one_client_and_identical_clients_get_their_own_b(cohort, mode) -> None:
    for copies in (1, 3):
        A, B = cohort.A[:1].repeat(copies, 1, 1), cohort.B[:1].repeat(copies, 1, 1)
        A_bar, B_star = lora.feda2(A, B, None, 0.0, mode)
        assert cohort.close(A_bar, A[0])
        assert cohort.close(B_star, B[0])


@pytest.mark.parametrize("ridge", [0.01, 0.1, 1.0])
def test_8_ridge_shrinks_along_the_eigenvectors_of_g(cohort, ridge) -> None:
    A_bar, B_star = exact(cohort)
    e, V = torch.linalg.eigh(A_bar.double() @ A_bar.double().T)
    for mode, lam in (("always", ridge), ("relative", ridge * float(e.mean()))):
        want = B_star.double() @ V @ torch.diag(e / (e + lam)) @ V.T
        assert cohort.close(lora.feda2(cohort.A, cohort.B, cohort.p, ridge, mode)[1], want)


def test_8_centred_error_grows_from_feda2_to_fedavg(cohort) -> None:
    c = cohort

    def error(pair) -> float:
        return lora.restoration_error(c.A, c.B, *pair, c.p)

    errors = [error(lora.feda2(c.A, c.B, c.p, ridge)) for ridge in (0, 1e-3, 1e-2, 0.1, 1, 10, 1e3, 1e12)]
    assert errors == sorted(errors)
    assert errors[-1] == pytest.approx(error(lora.fedavg(c.A, c.B, c.p)), rel=c.tol)
    assert errors[0] == pytest.approx(error(lora.feda2(c.A, c.B, c.p, mode="strict")), rel=c.tol)
    assert errors[0] < errors[3] < errors[-1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_9_gauge(make_cohort, dtype) -> None:
    c = make_cohort(4, dtype)

    def changed(by: torch.Tensor, ridge: float) -> torch.Tensor:
        """The result in another basis: A -> M A, B -> B M^-1 leaves every client's product alone."""
        A, B = by @ c.A.double(), c.B.double() @ torch.linalg.inv(by)
        return product(lora.feda2(A.to(dtype), B.to(dtype), c.p, ridge))

    M = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Q = torch.linalg.qr(M).Q
    for change, ridges in ((M, (0.0,)), (Q, (0.0, 0.01, 0.5))):
        for ridge in ridges:
            here = product(lora.feda2(c.A, c.B, c.p, ridge))
            assert c.close(changed(change, ridge), here)
    assert not c.close(
        changed(M, 0.5), product(lora.feda2(c.A, c.B, c.p, 0.5))
    )  # as the spec says: only orthogonal


def test_clients_own_gauges_keep_u_and_what_restores_it_but_not_feda2(cohort) -> None:
    """A_k -> M_k A_k, B_k -> B_k M_k^-1: another A bar, so another projection."""
    g = torch.Generator().manual_seed(0)
    turns = torch.linalg.qr(torch.randn(2, 5, 4, 4, generator=g, dtype=torch.float64)).Q
    M = turns[0] @ torch.diag(torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)) @ turns[1]
    A = (M @ cohort.A.double()).to(cohort.A.dtype)
    B = (cohort.B.double() @ torch.linalg.inv(M)).to(cohort.B.dtype)
    assert cohort.close(lora.dense(A, B, cohort.p), cohort.U)
    assert cohort.close(product(lora.flora(A, B, cohort.p)), cohort.U)
    A_bar, B_bar, (R_B, R_A) = lora.fedex(A, B, cohort.p)
    assert cohort.close(product((A_bar, B_bar)) + product((R_A, R_B)), cohort.U)
    best = product(lora.flexlora(cohort.A, cohort.B, cohort.p))
    assert cohort.close(product(lora.flexlora(A, B, cohort.p)), best)
    for method in (exact, lambda c: lora.fedavg(c.A, c.B, c.p)):
        here = product(method(cohort))
        there = product(method(replace(cohort, A=A, B=B)))
        assert norm(there - here) > 0.1 * norm(here)


def test_10_equal_a_or_equal_b_make_means_exact(cohort) -> None:
    A_same, B_same = cohort.A[:1].expand_as(cohort.A), cohort.B[:1].expand_as(cohort.B)
    for A, B in ((A_same, cohort.B), (cohort.A, B_same)):
        U = lora.dense(A, B, cohort.p)
        assert cohort.close(product(lora.fedavg(A, B, cohort.p)), U)
        for ridge, mode in ((0.0, "strict"), (0.0, "centred"), (0.01, "centred"), (5.0, "centred")):
            assert cohort.close(product(lora.feda2(A, B, cohort.p, ridge, mode)), U)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_15_centred_and_strict_stand_still_while_plain_ridge_shrinks(make_cohort, dtype) -> None:
    c = make_cohort(5, dtype, K=1)
    A, B = c.A.expand(3, -1, -1), c.B.expand(3, -1, -1)
    G = c.A[0].double() @ c.A[0].double().T
    e, V = torch.linalg.eigh(G)
    for mode, lam in (("always", 1.0), ("relative", 0.01 * float(e.mean()))):
        now = B
        for _ in range(3):
            now = lora.feda2(A, now, mode=mode)[1].expand(3, -1, -1)
        want = c.B[0].double() @ V @ torch.diag((e / (e + lam)) ** 3) @ V.T
        assert c.close(now[0], want)
        assert norm(now[0]) < norm(c.B[0]) * 0.99
    for mode in ("strict", "centred"):
        now = B
        for _ in range(3):
            now = lora.feda2(A, now, mode=mode)[1].expand(3, -1, -1)
        assert c.close(now[0], c.B[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_32_each_ridge_is_the_stationary_point_of_its_objective(make_cohort, dtype) -> None:
    c = make_cohort(6, dtype)
    A_bar, B_bar = (t.double() for t in lora.fedavg(c.A, c.B, c.p))
    for mode, scale, centre in (
        ("centred", "absolute", B_bar),
        ("centred", "relative", B_bar),
        ("always", "relative", torch.zeros_like(B_bar)),
    ):
        B_out = lora.feda2(c.A, c.B, c.p, 0.3, mode, ridge_scale=scale)[1].double().requires_grad_()
        lam = 0.3
        if mode == "centred" and scale == "relative":
            lam *= float((A_bar @ A_bar.T).diagonal().mean())
        fit = (B_out @ A_bar - c.U).pow(2).sum()
        (fit + lam * (B_out - centre).pow(2).sum()).backward()
        assert norm(B_out.grad) < c.tol * norm(c.U)


def test_strict_falls_back_to_ridge_one_only_below_its_threshold() -> None:
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(9, 2, generator=g, dtype=torch.float64)).Q.T
    B = torch.randn(1, 5, 2, generator=g, dtype=torch.float64)
    for small, lam in ((2e-3, 0.0), (5e-4, 1.0)):  # eigmin/eigmax is small²: 4e-6 and 2.5e-7
        A = (torch.tensor([[1.0], [small]], dtype=torch.float64) * Q)[None]
        e = torch.tensor([1.0, small**2], dtype=torch.float64)
        want = B[0] * e / (e + lam)
        torch.testing.assert_close(lora.feda2(A, B, mode="strict")[1], want, rtol=1e-10, atol=1e-12)


def test_singular_g_without_ridge_gives_the_least_squares_answer(make_cohort) -> None:
    c = make_cohort(7)
    A = c.A.clone()
    A[:, 3] = A[:, 0] + 2 * A[:, 1]  # a dependent row, not a zero one
    U = lora.dense(A, c.B, c.p)
    for mode in ("always", "relative", "centred", "strict"):
        A_bar, B_star = lora.feda2(A, c.B, c.p, 0.0, mode)
        P = torch.linalg.pinv(A_bar, rtol=1e-8) @ A_bar
        torch.testing.assert_close(B_star @ A_bar, U @ P, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mode", ["strict", "always", "relative", "centred"])
def test_b_zero_gives_zero_and_a_zero_is_survived(cohort, mode) -> None:
    zero = torch.zeros_like(cohort.B)
    A_bar, B_star = lora.feda2(cohort.A, zero, cohort.p, mode=mode)
    assert torch.count_nonzero(B_star) == 0
    assert lora.restoration_error(cohort.A, zero, A_bar, B_star, cohort.p) == 0
    A_bar, B_star = lora.feda2(torch.zeros_like(cohort.A), cohort.B, cohort.p, mode=mode)
    assert torch.isfinite(B_star).all()
    assert lora.restoration_error(torch.zeros_like(cohort.A), cohort.B, A_bar, B_star, cohort.p) == 0


@pytest.mark.parametrize(("mode", "ridge"), [("always", 1.0), ("relative", 0.01), ("centred", 0.01)])
def test_default_ridges_are_those_of_the_spec(cohort, mode, ridge) -> None:
    default = lora.feda2(cohort.A, cohort.B, cohort.p, mode=mode)[1]
    assert torch.equal(default, lora.feda2(cohort.A, cohort.B, cohort.p, ridge, mode)[1])
    assert torch.equal(
        lora.feda2(cohort.A, cohort.B, cohort.p)[1], lora.feda2(cohort.A, cohort.B, cohort.p, 0.01)[1]
    )
