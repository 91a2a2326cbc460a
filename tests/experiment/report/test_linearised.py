"""Intervals of corpus BLEU and of harmonic means, held against the figure computed anew in every draw."""

import random

import numpy as np
import pytest

from fedloom.experiment.report.linearised import bleu_gradient, bleu_values, harmonic_values
from fedloom.tasks.metrics.bootstrap import bootstrap_interval
from fedloom.tasks.metrics.harmonic import harmonic_mean
from fedloom.tasks.metrics.text import bleu, bleu_statistics

WORDS = [
    "a",
    "red",
    "cube",
    "stands",
    "left",
    "of",
    "the",
    "small",
    "green",
    "ball",
    "on",
    "a",
    "table",
    "near",
    "one",
    "grey",
    "ring",
]


def corpus(size: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences of five to twelve words, and answers with some of the words changed or left out."""
    rng = random.Random(seed)
    references, answers = [], []
    for _ in range(size):
        words = [rng.choice(WORDS) for _ in range(rng.randint(5, 12))]
        references.append(" ".join(words))
        kept = [w if rng.random() > 0.15 else rng.choice(WORDS) for w in words if rng.random() > 0.1]
        answers.append(" ".join(kept))
    return answers, references


def score(sums: np.ndarray) -> float:
    """BLEU-4 of sums without an empty order."""
    penalty = min(1.0, np.exp(1 - sums[1] / sums[0]))
    return float(penalty * np.exp(np.log(sums[2:6] / sums[6:10]).mean()))


def test_the_statistics_add_up_to_corpus_bleu() -> None:
    answers, references = corpus(40)
    sums = bleu_statistics(answers, references).sum(0)
    assert score(sums) == pytest.approx(bleu(answers, references).score, abs=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    sums = bleu_statistics(*corpus(40)).sum(0)
    gradient = bleu_gradient(sums)
    for i in range(10):
        step = np.zeros(10)
        step[i] = 1e-4
        assert gradient[i] == pytest.approx(
            (score(sums + step) - score(sums - step)) / 2e-4, rel=1e-5, abs=1e-12
        )


def test_bleus_interval_is_that_of_a_corpus_drawn_anew() -> None:
    answers, references = corpus(120)
    values = bleu_values(dict(enumerate(zip(answers, references, strict=True))))
    assert values is not None
    ours = bootstrap_interval(list(values.values()))
    assert ours.mean == pytest.approx(bleu(answers, references).score, abs=1e-12)
    statistics = bleu_statistics(answers, references)
    rng = np.random.default_rng(1)
    drawn = [score(statistics[rng.integers(0, 120, 120)].sum(0)) for _ in range(3000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_bleu_without_measurable_answers_has_no_values() -> None:
    assert bleu_values({0: ("red", "red"), 1: ("two", "one")}) is None, "no reference has four words"
    assert bleu_values({0: (None, "a b c d e")}) is None
    some = bleu_values({0: ("a b c d e", "a b c d e"), 1: ("x", "  ")})
    assert some is not None
    assert list(some) == [0]
    assert some[0] == pytest.approx(1.0)


def test_an_order_without_matches_keeps_its_smoothing() -> None:
    values = bleu_values({0: ("a b x d y", "a b c d e"), 1: ("a q c r e", "a b c d e")})
    assert values is not None
    pairs = (["a b x d y", "a q c r e"], ["a b c d e"] * 2)
    assert sum(values.values()) / 2 == pytest.approx(bleu(*pairs).score, abs=1e-12)


def test_the_interval_of_a_harmonic_mean_is_that_of_pictures_drawn_anew() -> None:
    rng = np.random.default_rng(2)
    base = {i: float(v) for i, v in enumerate(rng.integers(0, 7, 150) / 6)}
    local = {i: float(base[i] > 0.3 or rng.random() < 0.5) for i in range(150)}
    novel = {1000 + i: float(v) for i, v in enumerate(rng.integers(0, 4, 90) / 6)}
    values = harmonic_values([local, base, novel])
    assert values is not None
    ours = bootstrap_interval(list(values.values()))
    means = [np.mean(list(part.values())) for part in (local, base, novel)]
    assert ours.mean == pytest.approx(harmonic_mean(*means), abs=1e-12)
    pairs = np.array([(local[i], base[i]) for i in range(150)])
    others = np.array(list(novel.values()))
    drawn = []
    for _ in range(3000):
        a, b = pairs[rng.integers(0, 150, 150)].mean(0)
        drawn.append(harmonic_mean(a, b, others[rng.integers(0, 90, 90)].mean()))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert harmonic_values([{0: 0.0}, {1: 1.0}]) is None
