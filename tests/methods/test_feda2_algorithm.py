"""FedA²-LoRA's rounds against UniFLoW's Algorithm 1 with dense matrices, clients that train, and an encoder that not all hold."""

import pytest
import torch

from fedloom.aggregation import lora, vera
from fedloom.core.payload import Payload, Reply
from fedloom.methods import METHODS, State
from tests.methods import test_feda2_by_sums as by_sums
from tests.methods.silos import Cohort, Silo

pytestmark = pytest.mark.identities
R, D_OUT, D_IN = 3, 6, 8
PLACES = ("llm/q", "encoder.image/v")
HOLDERS = {"llm/q": "abc", "encoder.image/v": "ac"}
SIZES = {"a": 1, "b": 2, "c": 5}


def drawn(seed: int, places: tuple[str, ...] = PLACES) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        f"{place}.lora_{f}": torch.randn(*shape, generator=g, dtype=torch.float64)
        for place in places
        for f, shape in (("A", (R, D_IN)), ("B", (D_OUT, R)))
    }


class Holding(Silo):
    """A client that trains and sends what it holds alone."""

    def train(self, start, **how):
        own = {n: t for n, t in start.items() if self.client in HOLDERS[n.rsplit(".", 1)[0]]}
        return super().train(own, **how)


def clients() -> list[Silo]:
    return [Holding(c, drawn(10 + i), 0.3 + i, list(range(SIZES[c])), lr=0.2) for i, c in enumerate(SIZES)]


def line_14_to_17(U: torch.Tensor, A: torch.Tensor, B: torch.Tensor, mode: str, ridge: float) -> torch.Tensor:
    """B' by the inverse of the dense formula."""
    G, eye = A @ A.T, torch.eye(R, dtype=torch.float64)
    N, trace = U @ A.T, float(G.diagonal().mean())
    if mode == "strict":  # line 15: the Gram matrix of three random rows is invertible
        return N @ torch.linalg.inv(G)
    if mode == "always":
        return N @ torch.linalg.inv(G + ridge * eye)
    if mode == "relative":
        return N @ torch.linalg.inv(G + ridge * trace * eye)
    lam = ridge * (trace if mode == "centred" else 1.0)
    return B + (N - B @ G) @ torch.linalg.inv(G + lam * eye)


@pytest.mark.parametrize("weights", ["uniform", "examples"])
@pytest.mark.parametrize(
    ("method", "mode", "ridge"),
    [("feda2-lora", m, r) for m in ("strict", "always", "relative", "centred") for r in (0.02, 0.9)]
    + [("lora-fair", "absolute", 0.4)],
)
def test_every_round_is_that_of_the_dense_algorithm(method, mode, ridge, weights) -> None:
    fields = {"ridge": ridge, "weights": weights} | ({"mode": mode} if method == "feda2-lora" else {})
    chosen, now = METHODS[method](**fields), drawn(0)
    state = chosen.start(now)
    for number in (1, 2, 3):
        trained = {s.client: s.train(now)[0] for s in clients()}  # lines 4-6 and 21-34
        state = chosen.round(state, Cohort(chosen, clients(), number))
        now = dict(now)
        for place in PLACES:
            held = HOLDERS[place]
            raw = [1.0 if weights == "uniform" else float(SIZES[c]) for c in held]
            p = [x / sum(raw) for x in raw]
            A_k, B_k = ([trained[c][f"{place}.lora_{f}"] for c in held] for f in "AB")
            A = sum(x * a for x, a in zip(p, A_k, strict=True))  # line 10
            U = sum(x * b @ a for x, a, b in zip(p, A_k, B_k, strict=True))  # line 12
            B = sum(x * b for x, b in zip(p, B_k, strict=True))
            now[f"{place}.lora_A"], now[f"{place}.lora_B"] = A, line_14_to_17(U, A, B, mode, ridge)
        for name, tensor in now.items():  # line 19
            torch.testing.assert_close(state.shared[name], tensor, rtol=1e-10, atol=1e-10, msg=name)


def test_veras_vectors_are_solved_with_the_frozen_pair_and_the_same_options() -> None:
    g = torch.Generator().manual_seed(0)
    shapes = {"lambda_d": (4,), "lambda_b": (D_OUT,)}
    sent = [
        {f"llm/q.{n}": torch.rand(*s, generator=g, dtype=torch.float64) for n, s in shapes.items()}
        for _ in range(3)
    ]
    pair = {
        "llm/q.vera_A": torch.randn(4, D_IN, generator=g, dtype=torch.float64),
        "llm/q.vera_B": torch.randn(D_OUT, 4, generator=g, dtype=torch.float64),
    }
    replies = [Reply(c, Payload(t, {"examples": SIZES[c]})) for c, t in zip("abc", sent, strict=True)]
    method = METHODS["feda2-lora"](mode="relative", ridge=0.3, weights="examples")
    after = method.round(State(sent[0]), Cohort(method, [], given=replies, frozen=pair)).shared
    d, b = (torch.stack([t[f"llm/q.{n}"] for t in sent]) for n in shapes)
    want = vera.feda2(d, b, *pair.values(), [1 / 8, 2 / 8, 5 / 8], 0.3, "relative")
    for name, tensor in zip(shapes, want, strict=True):
        torch.testing.assert_close(after[f"llm/q.{name}"], tensor, rtol=1e-10, atol=1e-12)


def test_directions_that_the_mean_of_a_lacks_keep_the_mean_of_b_under_centred_and_nothing_under_strict() -> (
    None
):
    """A dependent row, no ridge: centred is B + (N - B G) G^+, strict falls to its ridge of 1, always is N G^+."""
    g = torch.Generator().manual_seed(0)
    A = torch.randn(4, R, D_IN, generator=g, dtype=torch.float64)
    A[:, 2] = A[:, 0] - 2 * A[:, 1]
    B = torch.randn(4, D_OUT, R, generator=g, dtype=torch.float64)
    A_bar, B_bar = A.mean(0), B.mean(0)
    G, N = A_bar @ A_bar.T, torch.einsum("kor,krs->os", B, A @ A_bar.T) / 4
    inverse = torch.linalg.pinv(G, rtol=1e-9, hermitian=True)
    want = {
        "centred": B_bar + (N - B_bar @ G) @ inverse,
        "always": N @ inverse,
        "relative": N @ inverse,
    }
    for mode, expected in want.items():
        torch.testing.assert_close(lora.feda2(A, B, None, 0.0, mode)[1], expected, rtol=1e-7, atol=1e-8)
    ridged = N @ torch.linalg.inv(G + torch.eye(R, dtype=torch.float64))
    torch.testing.assert_close(lora.feda2(A, B, mode="strict")[1], ridged, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", ["strict", "centred"])
def test_two_sums_give_the_same_pair_from_whatever_pair_the_round_began(mode) -> None:
    """The second sum is a change against the pair that was sent, which is not zero after the first round."""
    method, pairs = METHODS["feda2-lora"](mode=mode), by_sums.drawn()
    sent = {n: 0.5 * t + 1 for n, t in by_sums.drawn(4)["c0"].items()}
    after = method.round(State(sent), by_sums.Ask(method, pairs))
    stacked = (torch.stack([p[n] for p in pairs.values()]) for n in (by_sums.A, by_sums.B))
    for name, tensor in zip((by_sums.A, by_sums.B), lora.feda2(*stacked, mode=mode), strict=True):
        torch.testing.assert_close(after.shared[name], tensor, rtol=1e-9, atol=1e-10)
