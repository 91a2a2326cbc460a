"""FedOTP's plans: marginals, constant costs, independence of the rest of a batch, logarithms."""

import pytest
import torch

from fedloom.methods import METHODS
from fedloom.models.clip.optimal_transport import plan
from tests.models.clip.tiny_clip import adapted, sample

pytestmark = pytest.mark.identities
M, N = 9, 2


def similarities(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=draw) * 0.9 - 0.2


@pytest.mark.parametrize("eps", [0.1, 0.01])
@pytest.mark.parametrize("mass", [0.8, 1.0, 3.0])
def test_7_marginals_of_the_unbalanced_plan(eps, mass) -> None:
    S = similarities(3, 4, M, N) * (
        1 if eps == 0.1 else 0.3
    )  # cosines of patches and texts lie close together
    T = plan(S, mass=mass, eps=eps)
    moved = min(mass, 1.0)
    torch.testing.assert_close(T.sum((-2, -1)), torch.full((3, 4), moved), rtol=0, atol=2e-6)
    torch.testing.assert_close(T.sum(-2), torch.full((3, 4, N), moved / N), rtol=0, atol=1e-6)
    if mass < 1:  # what 100 iterations leave above a row's share is larger the smaller eps
        T = T if eps == 0.1 else plan(S, mass=mass, eps=eps, tolerance=None, iterations=3000)
        assert (T.sum(-1) <= (1 + 1e-3) / M).all()
    assert (T >= 0).all()


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-6)], ids=["f64", "f32"]
)
def test_7_the_balanced_plan_meets_both_marginals(dtype, tol) -> None:
    T = plan(similarities(5, M, N).to(dtype), kind="sinkhorn", tolerance=None, iterations=300)
    torch.testing.assert_close(T.sum(-1), torch.full((5, M), 1 / M, dtype=dtype), rtol=0, atol=tol)
    torch.testing.assert_close(T.sum(-2), torch.full((5, N), 1 / N, dtype=dtype), rtol=0, atol=tol)


@pytest.mark.parametrize("mass", [0.8, 1.0])
def test_7_marginals_of_the_unbalanced_plan_in_float64(mass) -> None:
    T = plan(similarities(3, 4, M, N).double(), mass=mass, eps=0.1, tolerance=None, iterations=3000)
    torch.testing.assert_close(
        T.sum(-2), torch.full((3, 4, N), mass / N, dtype=torch.float64), rtol=0, atol=1e-10
    )
    assert (T.sum(-1) <= (1 + 1e-10) / M).all()


def test_a_good_patch_gets_more_and_the_cap_binds() -> None:
    S = torch.full((1, 4, 2), 0.1)
    S[0, 0] = 0.9
    T = plan(S, mass=0.5, eps=0.05)[0].sum(-1)
    assert T[0] == pytest.approx(0.25, abs=1e-4)  # all that a row may give
    torch.testing.assert_close(T[1:], torch.full((3,), 0.25 / 3), rtol=1e-3, atol=1e-5)


def test_the_logarithmic_iterations_are_the_plain_ones(monkeypatch) -> None:
    S = similarities(6, M, N).double()
    settings = {"eps": 0.06, "tolerance": None, "iterations": 40}
    for kind in ("ot", "sinkhorn"):
        plain = plan(S, kind=kind, **settings)
        with monkeypatch.context() as changed:
            changed.setattr("fedloom.models.clip.optimal_transport.LOG_BELOW", 1.0)
            torch.testing.assert_close(plan(S, kind=kind, **settings), plain, rtol=1e-9, atol=1e-12)


def test_half_a_hundredth_of_eps_gives_a_finite_plan() -> None:
    T = plan(similarities(2, 3, M, N).half(), eps=0.005, tolerance=None, iterations=500)
    assert T.dtype == torch.float32
    torch.testing.assert_close(T.sum(-2), torch.full((2, 3, N), 0.4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("eps", [0.1, 0.02])
def test_7_an_item_depends_on_nothing_else_in_its_batch(eps) -> None:
    S = similarities(7, 3, M, N)
    S[3] *= 0.05  # converges at another time
    joint = plan(S, eps=eps, tolerance=1e-5)
    for i in range(7):
        torch.testing.assert_close(joint[i], plan(S[i], eps=eps, tolerance=1e-5), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["ot", "sinkhorn", "uniform"])
def test_7_constant_similarities_give_their_mass_whatever_the_plan(kind) -> None:
    S = torch.full((2, 3, M, N), 0.37)
    mass = 1.0 if kind == "sinkhorn" else 0.8
    scores = (plan(S, kind=kind, mass=0.8) * S).sum((-2, -1))
    torch.testing.assert_close(scores, torch.full((2, 3), mass * 0.37), rtol=1e-5, atol=1e-6)


def test_7_the_uniform_plan_is_the_mean_of_the_similarities() -> None:
    model = adapted(METHODS["fedotp"](ot="uniform", ot_mass=0.6), dtype=torch.float64)
    examples = [model.prepare(sample(i, i)) for i in range(3)]
    with torch.no_grad():
        scores = model.logits(examples, None, "base")
        feats = torch.stack(model.features(examples))
        both = [
            model.part.after(model.tensors[n][None], model.classes.base)[0]
            for n in ("prompt/context", "own/context")
        ]
        S = torch.stack([feats @ g.T for g in both], -1)  # (B, M, C, 2)
    assert feats.shape == (3, 4, 32)
    expected = model.towers.scale * 0.6 * S.mean((1, 3))
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)
