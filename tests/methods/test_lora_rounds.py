"""One round of every LoRA method on given answers, against dense sums (specification fedlora 1, 3 and 9: 15, 19, 20, 23, 34)."""

import pytest
import torch

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Reply
from fedloom.methods import METHODS, State
from tests.methods.silos import Cohort

pytestmark = pytest.mark.identities
RANK, D_OUT, D_IN = 4, 24, 37
SIZES = (2, 4, 6, 5, 3)
WEIGHTS = tuple(n / sum(SIZES) for n in SIZES)
A, B, R, OTHER = "llm/q.lora_A", "llm/q.lora_B", "llm/q.lora_R", "projector/weight"
SHAPES = {A: (RANK, D_IN), B: (D_OUT, RANK), R: (RANK, RANK), OTHER: (5, 3)}
TRAVEL = {"ffa-lora": (B,), "rolora": (B,), "fedsvd": (B,), "fed-sb": (R,), "fedsa-lora": (A,)}
"""What clients send of a pair; both factors where not named. RoLoRA's is that of round 1."""
ALL = (
    *("fedavg-lora", "feda2-lora", "ffa-lora", "fedsa-lora", "fedex-lora", "flora", "flexlora", "hetlora"),
    *("lora-fair", "rolora", "fedsvd", "fedrot-lora", "fed-sb", "feddpa-lora", "fdlora"),
)
precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)


def drawn(seed: int, *names: str) -> dict[str, torch.Tensor]:
    """Random float64 tensors of these names and of one that is no LoRA."""
    g = torch.Generator().manual_seed(seed)
    draws = {n: torch.randn(*shape, generator=g, dtype=torch.float64) for n, shape in SHAPES.items()}
    return {n: draws[n] for n in (*names, OTHER)}


def cast(tensors, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {n: t.to(dtype) for n, t in tensors.items()}


START = {**drawn(0, A, B), R: drawn(0, R)[R]}


def common(method: str) -> dict[str, torch.Tensor]:
    """What the server holds before round 1; FedSVD and RoLoRA have an A that stays at home as well."""
    names = (A, B) if method in ("rolora", "fedsvd") else TRAVEL.get(method, (A, B))
    return {n: START[n] for n in (*names, OTHER)}


def answers(method: str) -> list[dict[str, torch.Tensor]]:
    return [drawn(k + 1, *TRAVEL.get(method, (A, B))) for k in range(len(SIZES))]


def one_round(
    method: str, sent, dtype=torch.float64, sizes=SIZES, scales=(), start=None, number: int = 1, **settings
) -> State:
    """The state after a round in which the clients answered with `sent`."""
    chosen = METHODS[method](**settings)
    replies = [
        Reply(
            f"c{k}",
            Payload(cast(t, dtype), {"examples": n}),
            ratios={"llm": scales[k]} if scales else {},
        )
        for k, (t, n) in enumerate(zip(sent, sizes, strict=True))
    ]
    before = chosen.start(cast(common(method) if start is None else start, dtype))
    return chosen.round(before, Cohort(chosen, [], number, given=replies))


def update(after: State) -> torch.Tensor:
    """B A, or B R A between the common factors, and what was merged into the base; in float64."""
    t = {n: x.double() for n, x in {**after.shared, **after.tensors}.items()}
    if R in t:
        return START[B] @ t[R] @ START[A]
    merged = t["llm/q.merged_B"] @ t["llm/q.merged_A"] if "llm/q.merged_B" in t else 0.0
    return t.get(B, START[B]) @ t.get(A, START[A]) + merged


def dense(sent, weights=WEIGHTS) -> torch.Tensor:
    """sum p_k B_k A_k; what a client did not send is common."""
    pairs = [(t.get(R), t.get(A, START[A]), t.get(B, START[B])) for t in sent]
    return sum(p * (b @ a if r is None else b @ r @ a) for p, (r, a, b) in zip(weights, pairs, strict=True))


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


@precisions
@pytest.mark.parametrize(
    "method", ["ffa-lora", "rolora", "fedsvd", "fed-sb", "fedex-lora", "flora", "flexlora"]
)
def test_examples_weigh_the_products_of_every_exact_method(method, dtype, tolerance) -> None:
    sent, start = answers(method), common(method)
    if method == "flexlora":  # a server of rank K r keeps the whole sum
        start |= {A: torch.zeros(20, D_IN).double(), B: torch.zeros(D_OUT, 20).double()}
    if method == "flora":  # its pair begins anew at the clients and is not merged at the server
        start |= {B: torch.zeros_like(START[B])}
    after = one_round(method, sent, dtype, start=start, weights="examples")
    assert distance(update(after), dense(sent)) < tolerance
    assert distance(dense(sent, [0.2] * 5), dense(sent)) > 0.1  # equal weights are another sum
    other = sum(p * t[OTHER] for p, t in zip(WEIGHTS, sent, strict=True))
    assert distance(after.shared[OTHER], other) < tolerance


@precisions
@pytest.mark.parametrize("method", ["flora", "flexlora"])
def test_examples_and_scales_weigh_the_products_together(method, dtype, tolerance) -> None:
    sent, scales = answers(method), (2.0, 1.0, 0.5, 4.0, 3.0)
    start = common(method) | {B: torch.zeros_like(START[B])}
    if method == "flexlora":
        start |= {A: torch.zeros(20, D_IN).double(), B: torch.zeros(D_OUT, 20).double()}
    after = one_round(method, sent, dtype, scales=scales, start=start, weights="examples")
    scaled = [p * s for p, s in zip(WEIGHTS, scales, strict=True)]
    assert distance(update(after), dense(sent, scaled)) < tolerance


@precisions
@pytest.mark.parametrize(
    "method",
    ["ffa-lora", "rolora", "fed-sb", "fedsa-lora", "fedavg-lora", "fedex-lora", "fedrot-lora", "feddpa-lora"],
)
def test_examples_weigh_the_means_of_what_travels(method, dtype, tolerance) -> None:
    sent = answers(method)
    after = one_round(method, sent, dtype, weights="examples")
    for name in sent[0]:
        mean = sum(p * t[name] for p, t in zip(WEIGHTS, sent, strict=True))
        assert distance(after.shared[name], mean) < tolerance


@precisions
def test_examples_weigh_the_change_that_fdlora_s_outer_optimiser_follows(dtype, tolerance) -> None:
    """Its first step: w' = w + lr (1 + beta) D."""
    sent, before = answers("fdlora"), common("fdlora")
    after = one_round("fdlora", sent, dtype, weights="examples", outer_lr=0.5, outer_momentum=0.6)
    for name, tensor in before.items():
        change = sum(p * t[name] for p, t in zip(WEIGHTS, sent, strict=True)) - tensor
        assert distance(after.shared[name], tensor + 0.5 * 1.6 * change) < tolerance


@precisions
def test_20_rolora_s_b_round_is_ffa_s_and_u(dtype, tolerance) -> None:
    sent = answers("ffa-lora")
    ffa, rolora = (one_round(m, sent, dtype, weights="examples") for m in ("ffa-lora", "rolora"))
    assert torch.equal(rolora.shared[B], ffa.shared[B])
    assert torch.equal(rolora.shared[A], START[A].to(dtype))
    for after in (ffa, rolora):
        assert distance(update(after), dense(sent)) < tolerance


@precisions
def test_19_fedsvd_s_a_is_orthonormal_and_the_solve_is_then_u_a(dtype, tolerance) -> None:
    sent = answers("fedsvd")
    after = one_round("fedsvd", sent, dtype, weights="examples").shared
    first = after[A].double()
    assert distance(first @ first.T, torch.eye(RANK, dtype=torch.float64)) < tolerance
    frozen, second = first.expand(len(SIZES), -1, -1), torch.stack([t[B] for t in sent])
    solved = lora.feda2(frozen.to(dtype), second.to(dtype), WEIGHTS, 0.0)[1]
    assert distance(solved, lora.dense(frozen, second, WEIGHTS) @ first.T) < tolerance


@precisions
def test_19_fedsvd_s_pair_is_the_decomposition_of_the_mean_product(dtype, tolerance) -> None:
    """B'ᵀ B' = S² with falling S, the singular values of U; neither a QR nor a rotation of it has that."""
    sent = answers("fedsvd")
    after = one_round("fedsvd", sent, dtype, weights="examples").shared
    second = after[B].double()
    gram, strengths = second.T @ second, torch.linalg.svdvals(dense(sent))[:RANK]
    assert distance(gram, strengths.square().diag()) < tolerance


@precisions
def test_19_a_direction_that_fedsvd_s_mean_lacks_keeps_a_unit_row_and_a_zero_column(dtype, tolerance) -> None:
    sent = answers("fedsvd")
    for tensors in sent:
        tensors[B][:, -1] = tensors[B][:, 0]
    after = one_round("fedsvd", sent, dtype, weights="examples")
    first, second = after.shared[A].double(), after.shared[B].double()
    assert float(second[:, -1].norm() / second.norm()) < tolerance
    assert float(second[:, -2].norm() / second.norm()) > 0.01
    assert distance(first @ first.T, torch.eye(RANK, dtype=torch.float64)) < tolerance
    span = torch.linalg.qr(START[A].T).Q
    assert distance(first @ span @ span.T, first) < tolerance
    assert distance(update(after), dense(sent)) < tolerance


@precisions
@pytest.mark.parametrize("method", ALL)
def test_15_identical_clients_are_a_fixed_point_of_every_method(method, dtype, tolerance) -> None:
    """In the product: FedSVD and FlexLoRA turn the factors, and FLoRA merges what its clients made from nothing."""
    own = {n: START[n] for n in (*TRAVEL.get(method, (A, B)), OTHER)}
    before = common(method) | ({B: torch.zeros_like(START[B])} if method == "flora" else {})
    for number in (1, 2):
        sends = {A: START[A], OTHER: START[OTHER]} if (method, number) == ("rolora", 2) else own
        after = one_round(method, [sends] * 5, dtype, start=before, number=number)
        assert distance(update(after), dense([own], [1.0])) < tolerance
        assert distance(after.shared[OTHER], START[OTHER]) < tolerance


@precisions
@pytest.mark.parametrize("method", [m for m in ALL if m != "hetlora"])
def test_23_a_client_split_into_two_of_half_its_examples_changes_nothing(method, dtype, tolerance) -> None:
    sent = answers(method)
    whole = one_round(method, sent, dtype, weights="examples")
    split = one_round(method, [*sent, sent[1]], dtype, (2, 2, 6, 5, 3, 2), weights="examples")
    assert distance(update(split), update(whole)) < tolerance
    uniform = [one_round(method, s, dtype, [1] * len(s)) for s in (sent, [*sent, sent[1]])]
    assert distance(update(uniform[1]), update(uniform[0])) > 1e-2


def test_23_hetlora_s_weights_are_norms_so_that_a_client_named_twice_counts_twice() -> None:
    sent = answers("hetlora")
    norms = [float((t[B] @ t[A]).norm()) for t in (*sent, sent[1])]
    means = [sum(n * t[f] for n, t in zip(norms, (*sent, sent[1]), strict=True)) / sum(norms) for f in (A, B)]
    after = one_round("hetlora", [*sent, sent[1]], sizes=(2, 2, 6, 5, 3, 2)).shared
    for name, mean in zip((A, B), means, strict=True):
        assert distance(after[name], mean) < 1e-10
