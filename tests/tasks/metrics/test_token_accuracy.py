import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.tasks.metrics import TokenAccuracy, count_tokens, count_tokens_shifted

COUNTS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda p: (max(p), min(p))), max_size=12
)


def test_counts_and_shares_worked_by_hand() -> None:
    predicted = torch.tensor([5, 1, 2, 7, 7, 9])
    labels = torch.tensor([5, 1, 3, -100, 7, 8])
    example = torch.tensor([0, 0, 0, 0, 1, 2])
    tokens, correct = count_tokens(predicted, labels, example, examples=4)
    assert tokens.tolist() == [3, 1, 1, 0]
    assert correct.tolist() == [2, 1, 0, 0]
    accuracy = TokenAccuracy.of(tokens, correct)
    assert accuracy.metrics() == pytest.approx(
        {
            "token_accuracy": 3 / 5,
            "token_accuracy_sample_mean": 5 / 9,
            "token_accuracy_sample_median": 2 / 3,
            "tokens": 5,
        }
    )


def test_an_ignored_position_never_counts_even_if_predicted() -> None:
    ignored = torch.tensor([-100, -100])
    tokens, correct = count_tokens(ignored, ignored, torch.tensor([0, 0]), 1)
    assert (tokens.item(), correct.item()) == (0, 0)


def test_logits_answer_for_the_next_label() -> None:
    labels = torch.tensor([[9, 2, 1, 0], [9, -100, 2, 2]])
    logits = torch.zeros(2, 4, 10)
    for row, ids in enumerate([[2, 1, 5, 9], [2, 2, 3, 2]]):
        logits[row, range(4), ids] = 1.0
    tokens, correct = count_tokens_shifted(logits, labels)
    assert tokens.tolist() == [3, 2]
    assert correct.tolist() == [2, 1]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7])
def test_independent_of_the_batch_size_and_of_padding(batch: int) -> None:
    draw = torch.Generator().manual_seed(1)
    lengths = [3, 8, 1, 5, 2, 6, 4]
    labels = [torch.randint(0, 4, (n,), generator=draw) for n in lengths]
    logits = [torch.randn(n, 4, generator=draw) for n in lengths]
    hits = [int((z[:-1].argmax(-1) == y[1:]).sum()) for z, y in zip(logits, labels, strict=True)]
    accuracy = TokenAccuracy()
    for first in range(0, 7, batch):
        part = slice(first, first + batch)
        y = torch.nn.utils.rnn.pad_sequence(labels[part], batch_first=True, padding_value=-100)
        z = torch.nn.utils.rnn.pad_sequence(logits[part], batch_first=True, padding_value=7.0)
        accuracy += TokenAccuracy.of(*count_tokens_shifted(z, y))
    assert accuracy == TokenAccuracy(tuple(n - 1 for n in lengths), tuple(hits))
    assert accuracy.micro == sum(hits) / 22


@given(COUNTS, st.randoms(use_true_random=False), st.integers(0, 12))
def test_merging_and_order_change_no_bit(counts, random, cut) -> None:
    whole = TokenAccuracy.of([t for t, _ in counts], [c for _, c in counts])
    shuffled = random.sample(counts, len(counts))
    parts = [TokenAccuracy.of([t for t, _ in p], [c for _, c in p]) for p in (shuffled[:cut], shuffled[cut:])]
    assert (parts[0] + parts[1]).metrics() == whole.metrics()


def test_no_token_is_no_number_and_nonsense_is_refused() -> None:
    assert TokenAccuracy((0,), (0,)).metrics() == {}
    assert math.isnan(TokenAccuracy().micro)
    with pytest.raises(ValueError, match="between 0"):
        TokenAccuracy((1,), (2,))
    with pytest.raises(ValueError, match="one shape"):
        count_tokens(torch.zeros(2), torch.zeros(3), torch.zeros(3), 1)
    with pytest.raises(ValueError, match="do not fit"):
        count_tokens_shifted(torch.zeros(2, 3, 5), torch.zeros(2, 4))
