"""Macro-F1 of predicted labels."""

from collections import Counter
from collections.abc import Sequence
from math import fsum


def macro_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Unweighted mean of the labels' F1, 2 TP / (2 TP + FP + FN), over the labels that occur as prediction or reference."""
    predicted, wanted = Counter(predictions), Counter(references)
    right = Counter(p for p, r in zip(predictions, references, strict=True) if p == r)
    labels = sorted({*predicted, *wanted})
    return fsum(2 * right[label] / (predicted[label] + wanted[label]) for label in labels) / len(labels)
