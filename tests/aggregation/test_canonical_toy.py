"""The toy study of specification fedma, section 11: a linear projector, three of ten clients with noisy targets."""

import pytest
import torch

from fedloom.aggregation.canonical import Rules, fuse

pytestmark = pytest.mark.identities
M, N, K, NOISY, ROUNDS = 48, 32, 10, 3, 12


def gaussian(g: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def study(rules: Rules, seed: int) -> tuple[float, torch.Tensor]:
    """Relative error of the common map after one-pass SGD (5 steps of 8 a round), and the mean rho of each client."""
    g = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(gaussian(g, size, N))[0] for size in (M, N))
    common = left @ torch.diag(0.85 ** torch.arange(N, dtype=torch.float64)) @ right.T
    shifts = [0.1 * gaussian(g, M, 3) @ gaussian(g, 3, N) / N for _ in range(K)]
    spreads = [torch.exp(0.3 * gaussian(g, N)) for _ in range(K)]
    W, B, p = 0.01 * gaussian(g, M, N), None, torch.full((K,), 1 / K, dtype=torch.float64)
    trust = torch.zeros(K, dtype=torch.float64)
    for _ in range(ROUNDS):
        clients = []
        for k in range(K):
            own, noise = W.clone(), 0.6 if k < NOISY else 0.1
            for _ in range(5):
                x = spreads[k] * gaussian(g, 8, N)
                y = x @ (common + shifts[k]).T + noise * gaussian(g, 8, M)
                own -= 0.02 * (x @ own.T - y).T @ x / 8 * 4
            clients.append(own)
        fused = fuse(torch.stack(clients), W, p, rules, previous=B, rank=16)
        W, B, trust = fused.W, fused.B, trust + fused.rho.mean(1) / ROUNDS
    return float((W - common).norm() / common.norm()), trust


def test_19_noisy_clients_are_trusted_less_and_trust_by_direction_helps() -> None:
    for seed in range(3):
        plain, equal = study(Rules(beta=0.0, gamma=0.0), seed)
        torch.testing.assert_close(equal, torch.full((K,), 1 / K, dtype=torch.float64))
        better, trust = study(Rules(beta=0.0), seed)
        assert float(trust[:NOISY].max()) < float(trust[NOISY:].min())
        assert better < plain
        energy, _ = study(Rules(beta=0.0, statistic="energy"), seed)
        assert energy > plain  # an ablation that the specification calls harmful
