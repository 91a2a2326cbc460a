import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.aggregation.voting import Vote, labvote, vote_measures, vote_weights

HOW = ("exp", "one_minus_norm", "exp_norm", "inv", "uniform")


def entropy(p: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(p).sum(-1)


def draw(seed: int, K: int = 5, N: int = 31, C: int = 7, sharp: float = 2.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.softmax(sharp * torch.randn(K, N, C, generator=g, dtype=torch.float64), 2)


def cast(p: torch.Tensor, **options) -> Vote:
    options = {"prompted": torch.zeros(p.shape[1], dtype=torch.int64), "probabilities": p} | options
    return labvote(entropy(p), p.shape[2], **options)


@pytest.mark.identities
@pytest.mark.parametrize("how", HOW)
def test_3_weights_and_shares_sum_to_one(how) -> None:
    p = draw(0)
    w = vote_weights(entropy(p), 7, how)
    assert w.dtype == torch.float64
    assert torch.allclose(w.sum(0), torch.ones(31, dtype=torch.float64), atol=1e-10)
    for kind in ("hard", "soft"):
        assert torch.allclose(
            cast(p, weight=how, vote=kind).shares.sum(1), w.new_ones(31), atol=1e-10, rtol=0
        )


def test_weights_by_hand() -> None:
    C = 4
    H = torch.tensor([[0.0, math.log(2)], [math.log(2), math.log(4)], [math.log(4), math.log(4)]])
    want = {
        "exp": [[4 / 7, 1 / 2], [2 / 7, 1 / 4], [1 / 7, 1 / 4]],
        "one_minus_norm": [[2 / 3, 1.0], [1 / 3, 0.0], [0.0, 0.0]],
        "uniform": [[1 / 3, 1 / 3]] * 3,
    }
    for how, weights in want.items():
        assert torch.allclose(vote_weights(H, C, how), torch.tensor(weights, dtype=torch.float64), atol=1e-7)
    e = math.exp(-0.5)
    first = torch.tensor([1.0, e, e * e], dtype=torch.float64)
    assert torch.allclose(vote_weights(H, C, "exp_norm")[:, 0], first / first.sum(), atol=1e-7)
    inverse = vote_weights(H, C, "inv")
    assert inverse[0, 0].item() == pytest.approx(1.0, abs=1e-9)
    assert inverse[:, 1].tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 4])


@pytest.mark.identities
@pytest.mark.parametrize("how", [h for h in HOW if h != "uniform"])
def test_4_who_knows_nothing_weighs_less_than_anybody(how) -> None:
    p = torch.cat([torch.full((1, 31, 7), 1 / 7, dtype=torch.float64), draw(1)])
    H = entropy(p)
    assert torch.allclose(H[0], torch.full((31,), math.log(7), dtype=torch.float64), atol=1e-12)
    w = vote_weights(H, 7, how)
    assert bool((w[0] < w[1:].min(0).values).all())


def test_clients_that_all_know_nothing_weigh_the_same() -> None:
    H = torch.full((4, 3), math.log(5), dtype=torch.float64)
    for how in HOW:
        assert torch.allclose(vote_weights(H, 5, how), torch.full_like(H, 0.25), atol=1e-12)


@pytest.mark.identities
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_1_threshold_zero_keeps_all_and_above_one_none(kind) -> None:
    p = draw(2)
    assert bool(cast(p, threshold=0.0, vote=kind).kept.all())
    assert not bool(cast(p, threshold=1.01, vote=kind).kept.any())
    kept = [int(cast(p, threshold=t / 20, vote=kind).kept.sum()) for t in range(22)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[10] > kept[21]


@pytest.mark.identities
def test_2_one_client_decides_with_confidence_one() -> None:
    p = draw(3, K=1)
    for how in HOW:
        vote = cast(p, weight=how)
        assert torch.equal(vote.labels, p[0].argmax(1))
        assert torch.allclose(vote.confidence, torch.ones(31, dtype=torch.float64), atol=1e-12)


@pytest.mark.identities
def test_5_ties_go_to_the_lowest_class_and_half_is_enough() -> None:
    H = torch.full((2, 1), 0.7)
    tie = labvote(H, 5, labels=torch.tensor([[4], [2]]), prompted=torch.tensor([4]))
    assert (tie.labels.tolist(), tie.kept.tolist(), tie.confidence.tolist()) == ([2], [True], [0.5])
    # Six shares of a sixth: 1/6 + 1/6 + 1/6 is a little under a half in binary.
    labels = torch.tensor([[3], [1], [3], [1], [1], [3]])
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [0, 2, 5, 1, 3, 4]):
        tie = labvote(torch.zeros(6, 1), 5, labels=labels[order], prompted=torch.tensor([0]))
        assert (tie.labels.tolist(), tie.kept.tolist()) == ([1], [True])


@pytest.mark.identities
@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
def test_6_a_label_votes_like_its_probabilities_and_order_does_not_matter(dtype, tol) -> None:
    p = draw(4).to(dtype)
    whole, label = cast(p), cast(p, probabilities=None, labels=p.argmax(2))
    assert torch.equal(whole.labels, label.labels)
    assert torch.equal(whole.shares, label.shares)
    turned = cast(p.flip(0))
    assert torch.equal(whole.labels, turned.labels)
    assert torch.equal(whole.kept, turned.kept)
    exact = cast(draw(4))
    assert torch.allclose(whole.shares, exact.shares, atol=tol, rtol=0)
    assert torch.allclose(turned.shares, exact.shares, atol=tol, rtol=0)


def test_a_vote_by_hand_hard_and_soft() -> None:
    p = torch.tensor([[[0.5, 0.5, 0.0]], [[0.0, 0.25, 0.75]], [[0.0, 0.0, 1.0]]], dtype=torch.float64)
    hard = cast(p, weight="uniform")
    assert hard.shares[0].tolist() == pytest.approx([1 / 3, 0, 2 / 3])
    soft = cast(p, weight="uniform", vote="soft", threshold=0.6)
    assert soft.shares[0].tolist() == pytest.approx([1 / 6, 1 / 4, 7 / 12])
    assert (hard.kept.tolist(), soft.kept.tolist()) == ([True], [False])
    assert soft.labels.tolist() == [2]


def test_gates_by_hand() -> None:
    # Two classes; entropies that a threshold of 0.5 splits: log(2) / 2 = 0.347.
    H = torch.tensor([[0.1, 0.1, 0.6], [0.3, 0.2, 0.6], [0.65, 0.6, 0.6]])
    labels = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 1, 1]])
    prompted = torch.tensor([1, 1, 1])

    def kept(gate, **more):
        return labvote(H, 2, labels=labels, prompted=prompted, weight="uniform", gate=gate, **more)

    share = kept("share", threshold=0.6)
    assert (share.labels.tolist(), share.kept.tolist()) == ([0, 1, 1], [True, True, True])
    sure = kept("client_entropy")
    assert sure.labels.tolist() == [
        0,
        0,
        1,
    ]  # ties among the first two clients; nobody may vote on the third item
    assert sure.confidence.tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert sure.kept.tolist() == [True, True, False]
    assert kept("prompt_agreement", threshold=0.9).kept.tolist() == [False, True, True]
    assert kept("share_and_prompt", threshold=0.9).kept.tolist() == [False, False, True]
    back = kept("share_and_prompt", threshold=0.9, rejected="prompt_label")
    assert (back.labels.tolist(), back.kept.tolist()) == ([1, 1, 1], [True] * 3)
    assert back.confidence.tolist() == pytest.approx([0.5, 0.5, 1.0])


def test_absent_clients_are_not_heard_and_an_item_without_votes_is_not_kept() -> None:
    p = draw(5, K=3, N=4)
    present = torch.tensor(
        [[True, True, False, False], [True, False, True, False], [True, True, True, False]]
    )
    broken = p.clone()
    broken[~present] = math.nan
    vote = cast(broken, present=present, threshold=0.0, vote="soft", prompted=torch.tensor([1, 1, 1, 6]))
    for item, who in ((0, [0, 1, 2]), (1, [0, 2]), (2, [1, 2])):
        single = cast(p[who][:, [item]], vote="soft")
        assert torch.allclose(vote.shares[item], single.shares[0], atol=1e-12)
    assert vote.kept.tolist() == [True, True, True, False]
    assert (int(vote.labels[3]), float(vote.shares[3].sum())) == (6, 0.0)
    labels = p.argmax(2).masked_fill(~present, -1)
    hard = labvote(entropy(broken), 7, labels=labels, prompted=torch.zeros(4).long(), present=present)
    assert torch.allclose(hard.shares.sum(1), torch.tensor([1.0, 1, 1, 0], dtype=torch.float64))
    assert torch.equal(vote_weights(entropy(broken), 7, "inv", present) > 0, present)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(HOW), st.sampled_from(["hard", "soft"]))
def test_a_copy_of_every_client_changes_nothing(seed, how, kind) -> None:
    p = draw(seed, K=3, N=5, C=4)
    one, two = (cast(x, weight=how, vote=kind) for x in (p, torch.cat([p, p])))
    assert torch.allclose(one.shares, two.shares, atol=1e-10, rtol=0)
    assert torch.equal(one.labels, two.labels)


def test_measures_by_hand() -> None:
    vote = Vote(
        torch.tensor([0, 1, 2, 2]),
        torch.ones(4).double(),
        torch.tensor([True, True, True, False]),
        torch.zeros(4, 3),
    )
    prompted, truth = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 2, 2, 1])
    assert vote_measures(vote, prompted, truth) == pytest.approx(
        {"coverage": 3 / 4, "relabelled": 1 / 3, "precision": 2 / 3, "prompt_accuracy": 1 / 2}
    )
    nothing = Vote(vote.labels, vote.confidence, torch.zeros(4, dtype=torch.bool), vote.shares)
    assert vote_measures(nothing, prompted) == {"coverage": 0.0}


def test_entropy_weights_keep_more_than_equal_ones_of_the_same_clients() -> None:
    """The toy of section 12: competence by class from Dirichlet(0.5), calibrated clients, 20 classes, threshold 0.5."""
    K, N, C = 10, 1500, 20
    g = torch.Generator().manual_seed(0)
    alpha = torch.full((C, K), 0.5, dtype=torch.float64)
    competence = torch._sample_dirichlet(alpha, generator=g).T  # (K, C), columns sum to 1
    right = (competence * K / 2).clamp(1 / C, 0.98)
    truth = torch.randint(C, (N,), generator=g)
    q = right[:, truth]  # the probability that a client gives to its own answer
    hit = torch.rand(K, N, generator=g, dtype=torch.float64) < q
    wrong = (truth + torch.randint(1, C, (K, N), generator=g)) % C
    labels = torch.where(hit, truth, wrong)
    p = ((1 - q) / (C - 1))[..., None].expand(K, N, C).clone()
    p.scatter_(2, labels[..., None], q[..., None])
    votes = {
        how: vote_measures(labvote(entropy(p), C, labels=labels, prompted=truth, weight=how), truth, truth)
        for how in ("uniform", "exp", "exp_norm")
    }
    coverage = {how: f["coverage"] for how, f in votes.items()}
    assert coverage["exp"] > coverage["exp_norm"] > coverage["uniform"]
    assert all(f["precision"] > 0.9 for f in votes.values())


def test_refusals() -> None:
    H, y = torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)
    p, labels = torch.full((2, 3, 4), 0.25), torch.zeros(2, 3, dtype=torch.int64)
    for options, message in [
        ({}, "labels or their probabilities"),
        ({"vote": "soft", "labels": labels}, "soft vote needs"),
        ({"probabilities": p[..., :3]}, r"probabilities are \(2, 3, 3\)"),
        ({"labels": labels[:1]}, r"labels are \(1, 3\)"),
        ({"labels": labels + 4}, "outside 0 to 3"),
        ({"labels": labels, "prompted": y[:2]}, r"prompted is \(2,\)"),
        ({"labels": labels, "gate": "best"}, "gate is 'best'"),
        ({"labels": labels, "vote": "loud"}, "vote is 'loud'"),
        ({"labels": labels, "weight": "log"}, "how is 'log'"),
        ({"labels": labels, "rejected": "burn"}, "rejected is 'burn'"),
    ]:
        with pytest.raises(ValueError, match=message):
            labvote(H, 4, **({"prompted": y} | options))
    with pytest.raises(ValueError, match="at least 2"):
        vote_weights(H, 1)
    with pytest.raises(ValueError, match="not finite"):
        vote_weights(H / 0, 4)
