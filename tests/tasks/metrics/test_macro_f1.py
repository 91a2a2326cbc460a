"""Macro-F1 by hand, and where a summary gives it."""

import pytest

from fedloom.tasks.metrics.macro_f1 import macro_f1
from fedloom.tasks.metrics.summary import EvaluationRecord, summarise


def record(reference: str, prediction: str | None) -> EvaluationRecord:
    right = int(prediction == reference)
    return EvaluationRecord("a", "text", "u", reference, prediction, 1, right, labelled=True)


def test_each_label_counts_alike_however_rare() -> None:
    # a: TP 8, FN 0, FP 1 -> 16/17; b: TP 0, FN 1, FP 1 -> 0; c: TP 0, FN 1, FP 0 -> 0
    references, predictions = ["a"] * 8 + ["b", "c"], ["a"] * 8 + ["a", "b"]
    assert macro_f1(predictions, references) == pytest.approx(16 / 17 / 3)
    assert macro_f1(["a", "b"], ["a", "b"]) == 1


def test_a_summary_has_it_where_every_sample_was_answered() -> None:
    pairs = [("a", "a"), ("a", "a"), ("b", "a")]
    metrics = summarise([record(*pair) for pair in pairs]).metrics
    assert metrics["global/text/accuracy"] == pytest.approx(2 / 3)
    assert metrics["global/text/macro_f1"] == pytest.approx(0.4)
    assert metrics["worst_client/text/macro_f1"] == pytest.approx(0.4)
    without = summarise([record(*pair) for pair in pairs] + [record("a", None)]).metrics
    assert "global/text/macro_f1" not in without
