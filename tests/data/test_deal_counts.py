"""Counts of a deal by kind and by label."""

from fedloom.data.client_data import ClientData
from fedloom.data.deal_counts import by_kind, by_label, ordered_labels
from fedloom.data.sample import Sample


def sample(answer: str, topic: str = "x") -> Sample:
    return Sample("u", {}, "what?", answer, {"columns": {"topic": topic}})


CLIENTS = [
    ClientData("a", [sample("cat", "s"), sample("cat", "t"), sample("dog", "t")], [sample("cat", "t")]),
    ClientData("b", [sample("dog", "t")] * 3, [sample("dog", "t")]),
]


def test_training_and_test_samples_count() -> None:
    assert by_kind(CLIENTS) == {"a": {"text": 4}, "b": {"text": 4}}
    assert by_label(CLIENTS) == {"a": {"cat": 3, "dog": 1}, "b": {"dog": 4}}
    assert by_label(CLIENTS, "topic") == {"a": {"s": 1, "t": 3}, "b": {"t": 4}}
    assert ordered_labels(by_label(CLIENTS)) == ["dog", "cat"]


def test_free_texts_are_no_labels() -> None:
    own = [sample(f"a{i}") for i in range(12)]
    assert by_label([ClientData("a", own, own)]) == {}
