"""Fed-CMP's server step against the specification's formulas, written in numpy with explicit singular value decompositions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.aggregation.canonical import Rules, fuse

pytestmark = pytest.mark.identities
Array = np.ndarray

RULES = st.builds(
    Rules,
    beta=st.sampled_from([0.0, 0.2, 0.7]),
    gamma=st.sampled_from([0.0, 1.0, 2.5]),
    floor=st.sampled_from([0.0, 1e-3, 0.3]),
    kappa=st.sampled_from([0.5, 2.0]),
    residual=st.sampled_from([0.0, 0.4, 1.0]),
    space=st.sampled_from(["weight", "update"]),
    momentum=st.sampled_from(["blend", "heavyball"]),
    form=st.sampled_from(["attach", "reproject"]),
    statistic=st.sampled_from(["variance", "cosine", "energy"]),
    side=st.sampled_from(["output", "input"]),
)


def nearest(M: Array) -> Array:
    """The polar factor, by the singular value decomposition."""
    left, _, right = np.linalg.svd(M, full_matrices=False)
    return left @ right


def weights_of(D: Array, p: Array, rules: Rules) -> Array:
    """C4, client by client and row by row, with the mean of the others taken literally."""
    K, r, _ = D.shape
    raw = np.zeros((K, r))
    for j in range(r):
        others = [
            sum(p[i] * D[i, j] for i in range(K) if i != k) / sum(p[i] for i in range(K) if i != k)
            for k in range(K)
        ]
        v = np.array([np.mean((D[k, j] - others[k]) ** 2) for k in range(K)])
        for k in range(K):
            if rules.statistic == "variance":
                raw[k, j] = p[k] * (v[k] + rules.floor * v.mean()) ** -rules.gamma
            elif rules.statistic == "cosine":
                cosine = D[k, j] @ others[k] / (np.linalg.norm(D[k, j]) * np.linalg.norm(others[k]))
                raw[k, j] = p[k] * np.exp(rules.kappa * cosine)
            else:
                raw[k, j] = p[k] * D[k, j] @ D[k, j]
    return raw / raw.sum(0)


def reference(
    clients: Array, W: Array, p: Array, rules: Rules, r: int, last: Array | None, N: Array | None
) -> tuple[Array, Array, Array | None, Array]:
    """W', B', N' and rho of C1-C7."""
    if rules.side == "input":
        clients, W = clients.transpose(0, 2, 1), W.T
    origin = W if rules.space == "update" else np.zeros_like(W)
    X = clients - origin
    U = np.linalg.svd(np.concatenate([np.sqrt(p[k]) * X[k] for k in range(len(p))], 1))[0][:, :r]  # C1
    B = U
    if last is not None:
        P, _, Qt = np.linalg.svd(U.T @ last)
        U = U @ P @ Qt  # C2
        if rules.momentum == "blend":
            B = nearest((1 - rules.beta) * U + rules.beta * last)  # C6
        else:
            N = np.zeros_like(last) if N is None else N
            symmetric = (last.T @ N + N.T @ last) / 2
            N = rules.beta * (N - last @ symmetric) + (U - last)
            B = nearest(last + N)
    frame = B if rules.form == "reproject" else U
    C = np.stack([frame.T @ x for x in X])
    C_0 = frame.T @ (W - origin)
    rho = weights_of(C - C_0, p, rules)
    fused = sum(rho[k][:, None] * C[k] for k in range(len(p)))  # C5, its first form
    mean = sum(p[k] * X[k] for k in range(len(p)))
    out = origin + B @ fused + rules.residual * (np.eye(len(B)) - B @ B.T) @ mean  # C7
    return (out.T if rules.side == "input" else out), B, N, rho


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    K=st.integers(3, 5),
    shape=st.sampled_from([(7, 5, 3), (5, 8, 2), (9, 6, 4), (6, 7, 1)]),
    rules=RULES,
    later=st.booleans(),
)
def test_every_reading_is_that_of_the_formulas(seed, K, shape, rules, later) -> None:
    m, n, r = shape
    draw = np.random.default_rng(seed)
    W = draw.standard_normal((m, n))
    common = draw.standard_normal((m, n))
    clients = W + 0.3 * (common + draw.standard_normal((K, m, n)))
    p = draw.random(K) + 0.2
    p /= p.sum()
    rows = n if rules.side == "input" else m
    last = np.linalg.qr(draw.standard_normal((rows, r)))[0] if later else None
    N = 0.2 * draw.standard_normal((rows, r)) if later else None

    def given(array: Array | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(array)

    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        sent, start = (torch.from_numpy(x).to(dtype) for x in (clients, W))
        arrays = (sent.double().numpy(), start.double().numpy())  # what float32 holds is exact in float64
        want, basis, velocity, rho = reference(*arrays, p, rules, r, last, N)
        fused = fuse(sent, start, given(p), rules, previous=given(last), velocity=given(N), rank=r)
        assert fused.W.dtype == dtype
        assert np.linalg.norm(fused.W.double().numpy() - want) < tolerance * np.linalg.norm(want)
        if later:  # at first the basis is free up to signs
            np.testing.assert_allclose(fused.B.numpy(), basis, atol=1e-8)
            np.testing.assert_allclose(fused.rho.numpy(), rho, atol=1e-8)
            if rules.momentum == "heavyball":
                np.testing.assert_allclose(fused.N.numpy(), velocity, atol=1e-8)
