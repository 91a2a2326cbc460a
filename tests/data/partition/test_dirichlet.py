"""Dirichlet label skew: nothing lost, nothing dealt twice, test mixes that follow the training mixes, bounded retries."""

from collections import Counter

import numpy as np
import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.dirichlet import Share, draw_cuts, label_skew, pachinko

TRAIN = [c for c in range(6) for _ in range(120)]
TEST = [c for c in range(6) for _ in range(40)]


def whole(shares: list[Share], part: str, count: int) -> bool:
    return sorted(i for share in shares for i in getattr(share, part)) == list(range(count))


@pytest.mark.parametrize("beta", [0.1, 0.5, 5.0])
def test_everything_is_dealt_once(beta: float) -> None:
    shares = label_skew(TRAIN, TEST, 5, beta, seed=3)
    assert whole(shares, "train", 720)
    assert whole(shares, "test", 240)
    assert min(min(len(s.train), len(s.test)) for s in shares) >= 10
    assert shares == label_skew(TRAIN, TEST, 5, beta, seed=3)
    assert shares != label_skew(TRAIN, TEST, 5, beta, seed=4)
    assert shares != label_skew(TRAIN, TEST, 5, beta, seed=3, stream="another")


def test_test_parts_are_cut_where_the_training_parts_are() -> None:
    for share in label_skew(TRAIN, TEST, 5, 0.3, seed=0):
        held, tested = (
            Counter(labels[i] for i in places)
            for labels, places in ((TRAIN, share.train), (TEST, share.test))
        )
        for label in range(6):
            assert abs(held[label] / 120 - tested[label] / 40) <= 1 / 40 + 1 / 120
        assert {c for c, n in tested.items() if n > 1} <= set(held)


def test_a_full_client_takes_no_further_class() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    sizes = np.array([[120, 40]] * 6)
    for _ in range(50):
        cuts = draw_cuts(sizes, 5, 0.2, 0, rng)
        if cuts is None:
            continue
        held = np.zeros(5)
        for cut in cuts:
            given = np.diff(cut[0], prepend=0)
            assert not given[held >= 720 / 5].sum() > 1, "at most what rounding leaves to the last one"
            held += given


def test_small_beta_means_few_classes() -> None:
    spread = []
    for beta in (0.05, 10.0):
        shares = label_skew(TRAIN, TEST, 4, beta, seed=0)
        spread.append(sum(len({TRAIN[i] for i in s.train}) for s in shares))
    assert spread[0] < spread[1] == 24


@pytest.mark.parametrize(
    ("beta", "low", "high"), [(0.1, 0.0, 0.01), (0.3, 0.7, 0.95), (0.5, 0.97, 1.0), (1, 1.0, 1.0)]
)
def test_how_often_a_draw_of_cifar_10_is_accepted(beta: float, low: float, high: float) -> None:
    """100 clients that need 10 of either part: about 0.001, 0.8, 0.99 and 1."""
    rng = np.random.Generator(np.random.PCG64(0))
    sizes = np.array([[5000, 1000]] * 10)
    share = np.mean([draw_cuts(sizes, 100, beta, 10, rng) is not None for _ in range(400)])
    assert low <= share <= high


@pytest.mark.parametrize("beta", [0.1, 0.3, 0.5, 1])
def test_a_draw_of_cifar_100_is_nearly_always_accepted(beta: float) -> None:
    """A hundred classes of 500 and 100 pictures even out."""
    rng = np.random.Generator(np.random.PCG64(0))
    sizes = np.array([[500, 100]] * 100)
    assert np.mean([draw_cuts(sizes, 100, beta, 10, rng) is not None for _ in range(40)]) > 0.95


def test_what_cannot_be_dealt_ends_in_one_sentence() -> None:
    with pytest.raises(
        ExperimentError, match="no draw in 50 gave each of 20 clients 12 training and 12 test"
    ):
        label_skew(TRAIN, TEST, 20, 0.05, seed=0, least=12, tries=50)
    with pytest.raises(ExperimentError, match="name fewer clients"):
        label_skew(TRAIN, TEST, 100, 1.0, seed=0)  # 240 test examples cannot be 10 each: not even tried


COARSE = [0, 0, 1, 1, 2, 2, 3, 3]
POOL = [c for c in range(8) for _ in range(50)] + [c for c in range(8) for _ in range(10)]


def test_pachinko_deals_the_pool_by_coarse_classes() -> None:
    shares = pachinko(POOL, COARSE, 400, 8, 0.1, seed=0)
    assert whole(shares, "train", 400)
    assert whole(shares, "test", 80)
    assert {len(s.train) + len(s.test) for s in shares} == {60}
    assert shares == pachinko(POOL, COARSE, 400, 8, 0.1, seed=0)
    assert shares != pachinko(POOL, COARSE, 400, 8, 0.1, seed=1)
    few = pachinko(POOL, COARSE, 400, 3, 0.05, seed=0, each=60)
    for share in few:
        top = Counter(COARSE[POOL[i]] for i in share.train).most_common(2)
        assert sum(n for _, n in top) > 0.8 * len(share.train), "a client draws from few coarse classes"
    assert sum(len(s.train) + len(s.test) for s in few) == 180


def test_pachinko_cannot_deal_more_than_there_is() -> None:
    with pytest.raises(ExperimentError, match="8 clients of 61 examples need more than the 480"):
        pachinko(POOL, COARSE, 400, 8, 0.1, seed=0, each=61)


def variance(shares: list[Share], labels: list[int], classes: int) -> float:
    """Of the clients' shares of each class, around the equal share."""
    parts = [[Counter(labels[i] for i in s.train)[c] / len(s.train) for c in range(classes)] for s in shares]
    return float(np.mean((np.array(parts) - 1 / classes) ** 2))


def dirichlet_variance(beta: float, classes: int, draws: int) -> float:
    """Of a share of Dirichlet(beta, ..., beta) as seen in a number of draws."""
    own = (classes - 1) / (classes**2 * (beta * classes + 1))
    return own + ((classes - 1) / classes**2 - own) / draws


@pytest.mark.parametrize("fine", [True, False], ids=["fine", "coarse"])
def test_pachinko_s_shares_spread_as_dirichlet_10_within_a_class_and_beta_over_classes(fine: bool) -> None:
    labels = list(range(5)) * 6000  # so many that no class runs out
    coarse, beta = ([0] * 5, 10.0) if fine else (list(range(5)), 2.0)
    shares = pachinko(labels, coarse, 27_000, 60, 2.0, seed=0, each=200)
    found = variance(shares, labels, 5)
    assert found == pytest.approx(dirichlet_variance(beta, 5, 180), rel=0.25)
    other = 2.0 if fine else 10.0
    assert found != pytest.approx(dirichlet_variance(other, 5, 180), rel=0.5)
