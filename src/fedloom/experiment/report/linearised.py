"""Figures that are no mean over samples, as values whose plain mean they are: corpus BLEU and harmonic means of accuracies.

A sample's value is the figure plus n times the figure's change when that sample's part of the sums grows by a share 1/n of itself
(its influence, from the gradient at the observed sums). A bootstrap over the values is one over the samples to first order; the
tests hold it against the figure computed anew in every draw.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedloom.tasks.metrics.harmonic import harmonic_mean
from fedloom.tasks.metrics.text import bleu, bleu_statistics

K = TypeVar("K", bound=Hashable)


def bleu_values(answers: Mapping[K, tuple[str | None, str]]) -> dict[K, float] | None:
    """Values of corpus BLEU by sample, of (answer, reference); samples without either have none. None if it is not measurable."""
    kept = {k: (p, r) for k, (p, r) in answers.items() if p is not None and r.strip()}
    if not kept:
        return None
    predictions, references = [p for p, _ in kept.values()], [r for _, r in kept.values()]
    figure = bleu(predictions, references).score
    if math.isnan(figure):
        return None
    statistics = bleu_statistics(predictions, references)
    influence = (statistics - statistics.mean(0)) @ bleu_gradient(statistics.sum(0))
    return {k: figure + len(kept) * float(v) for k, v in zip(kept, influence, strict=True)}


def bleu_gradient(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradient of BLEU-4 in its sums: the lengths of answers and references, then n-gram matches and n-grams of orders 1 to 4.

    An order without a match counts as sacrebleu smooths it: half a match, a quarter for the next such order, and so on.
    """
    answer, reference, matches, grams = sums[0], sums[1], sums[2:6], sums[6:10]
    gradient = np.zeros(10)
    if answer == 0 or not grams.all() or not matches.any():
        return gradient
    smoothed, halved = matches.astype(np.float64).copy(), 1.0
    for n in range(4):
        if matches[n] == 0:
            halved /= 2
            smoothed[n] = halved
    penalty = min(1.0, math.exp(1 - reference / answer))
    score = penalty * math.exp(float(np.log(smoothed / grams).mean()))
    gradient[2:6] = np.where(matches > 0, score / (4 * smoothed), 0.0)
    gradient[6:10] = -score / (4 * grams)
    if answer < reference:
        gradient[0] = score * reference / answer**2
        gradient[1] = -score / answer
    return gradient


def harmonic_values(parts: Sequence[Mapping[K, float]]) -> dict[K, float] | None:
    """Values of the harmonic mean of the parts' means; a sample of several parts is one unit. None if it is zero."""
    means = [fmean(part.values()) for part in parts]
    figure = harmonic_mean(*means)
    if figure <= 0:
        return None
    influence: dict[K, float] = {}
    for part, mean in zip(parts, means, strict=True):
        slope = figure**2 / (len(parts) * mean**2)
        for key, value in part.items():
            influence[key] = influence.get(key, 0.0) + slope * (value - mean) / len(part)
    return {key: figure + len(influence) * change for key, change in influence.items()}
