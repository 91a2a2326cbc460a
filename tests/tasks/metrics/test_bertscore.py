import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.tasks.metrics import bert_score, match

WORDS = {"right": (1.0, 0.0), "up": (0.0, 2.0), "steep": (3.0, 4.0), "flat": (0.8, 0.6), "left": (-1.0, 0.0)}
TEXTS = st.lists(st.sampled_from(sorted(WORDS)), max_size=4).map(" ".join)


class Words:
    """Each word has one vector in the plane."""

    name = "plane:0"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts):
        self.calls.append(list(texts))
        return [torch.tensor([WORDS[w] for w in text.split()]).reshape(-1, 2) for text in texts]


def test_worked_by_hand() -> None:
    # cosines: right 1, .6, .8; up 0, .8, .6: P = (1 + .8) / 2, R = (1 + .8 + .8) / 3
    score = bert_score(["right up"], ["right steep flat"], Words())
    assert score.precision[0] == pytest.approx(0.9)
    assert score.recall[0] == pytest.approx(2.6 / 3)
    assert score.f[0] == pytest.approx(2 * 0.9 * 2.6 / 3 / (0.9 + 2.6 / 3))


def test_names_carry_the_embedder_and_f_is_averaged_per_sample() -> None:
    score = bert_score(["right", "right up"], ["right", "right steep flat"], Words())
    f = 2 * 0.9 * 2.6 / 3 / (0.9 + 2.6 / 3)
    assert score.means() == pytest.approx(
        {
            "bertscore_p[plane:0]": (1 + 0.9) / 2,
            "bertscore_r[plane:0]": (1 + 2.6 / 3) / 2,
            "bertscore_f[plane:0]": (1 + f) / 2,
        }
    )


def test_padding_cannot_replace_a_negative_cosine() -> None:
    # a longer neighbour in the batch must not lend its padding's zero
    score = bert_score(["left", "right up flat"], ["right", "right up"], Words())
    assert (score.precision[0], score.recall[0], score.f[0]) == (-1, -1, -1)


def test_empty_scores_zero_and_is_not_skipped() -> None:
    score = bert_score(["", "right"], ["right", "right"], Words())
    assert score.f == (0, 1)
    assert score.means()["bertscore_f[plane:0]"] == 0.5
    assert match(torch.zeros(0, 3), torch.ones(1, 3)) == (0, 0, 0)


def test_an_empty_reference_cannot_be_measured() -> None:
    score = bert_score(["right", "right"], ["", "right"], Words())
    assert math.isnan(score.f[0])
    assert score.means()["bertscore_f[plane:0]"] == 1
    assert bert_score(["", "up"], ["", " "], Words()).means() == {}


@pytest.mark.identities
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
@settings(deadline=None)
def test_f_never_exceeds_the_arithmetic_mean(pairs) -> None:
    score = bert_score([p for p, _ in pairs], [r for _, r in pairs], Words())
    means = [tuple(score.means().values())] if score.means() else []
    for p, r, f in [*zip(score.precision, score.recall, score.f, strict=True), *means]:
        assert math.isnan(f) or f <= (p + r) / 2 + 1e-12


def test_order_and_chunks_change_no_bit_and_equal_pairs_are_scored_once() -> None:
    pairs = [("right up", "steep"), ("", "up"), ("flat", "left up"), ("right up", "steep"), ("up", "flat")]
    embedder = Words()
    score = bert_score([p for p, _ in pairs], [r for _, r in pairs], embedder)
    assert len(embedder.calls) == 1
    assert len(embedder.calls[0]) == len(set(embedder.calls[0])) == 6
    single = Words()
    assert bert_score([p for p, _ in pairs], [r for _, r in pairs], single, chunk=1) == score
    assert len(single.calls) == 4
    back = bert_score([p for p, _ in pairs[::-1]], [r for _, r in pairs[::-1]], Words(), chunk=2)
    assert back.f == score.f[::-1]
    assert back.means() == score.means()


def test_swapping_sides_swaps_precision_and_recall() -> None:
    there = bert_score(["right up"], ["steep"], Words())
    back = bert_score(["steep"], ["right up"], Words())
    assert there.precision == back.recall
    assert there.recall == back.precision
    assert there.precision != there.recall
    with pytest.raises(ValueError, match="1 predictions but 0 references"):
        bert_score(["up"], [], Words())
