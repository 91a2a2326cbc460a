"""BERTScore (Zhang et al. 2020): greedy cosine matching of contextual token vectors, no IDF, no rescaling.

Own code because torchmetrics and bert-score assume a [CLS] ... [SEP] frame, which a causal embedder lacks,
and let the zero of a padded position replace a negative cosine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

NOT_MEASURABLE = (math.nan, math.nan, math.nan)


class Embedder(Protocol):
    """Contextual token vectors of texts; `name` identifies model and layer."""

    @property
    def name(self) -> str:
        """Model and layer, a part of the metric's name."""

    def embed(self, texts: Sequence[str]) -> list[Tensor]:
        """Token vectors of each text, float `(tokens, d)`, without special tokens; `(0, d)` for an empty text."""


@dataclass(frozen=True)
class BertScore:
    """Precision, recall and F of each pair, and the embedder's name."""

    embedder: str
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f: tuple[float, ...]

    def per_sample(self) -> dict[str, tuple[float, ...]]:
        """The three metrics; their names carry the embedder, as in `bertscore_f[all-minilm-l6-v2:6]`."""
        columns = {"p": self.precision, "r": self.recall, "f": self.f}
        return {f"bertscore_{letter}[{self.embedder}]": values for letter, values in columns.items()}

    def means(self) -> dict[str, float]:
        """Means over the measurable samples; F is the mean of the samples' F, at most the mean of P and R."""
        measured = {n: [v for v in values if not math.isnan(v)] for n, values in self.per_sample().items()}
        return {name: math.fsum(values) / len(values) for name, values in measured.items() if values}


def match(candidate: Tensor, reference: Tensor) -> tuple[float, float, float]:
    """P, R and F of one pair from token vectors `(n, d)` and `(m, d)`: 0 without a candidate token, NaN without a reference.

    R = mean over reference tokens of the best cosine, P the same over candidate tokens, F = 2PR / (P + R).
    If P or R is not positive, the harmonic mean is undefined: F is then the smaller of the two, its
    continuous extension, with F <= (P + R) / 2.
    """
    if not len(reference):
        return NOT_MEASURABLE
    if not len(candidate):
        return 0.0, 0.0, 0.0
    left, right = (torch.nn.functional.normalize(v.double(), dim=-1) for v in (candidate, reference))
    cosines = (left @ right.T).clamp(-1, 1)
    p, r = cosines.amax(1).mean().item(), cosines.amax(0).mean().item()
    return p, r, 2 * p * r / (p + r) if min(p, r) > 0 else min(p, r)


def bert_score(
    predictions: Sequence[str], references: Sequence[str], embedder: Embedder, chunk: int = 512
) -> BertScore:
    """BERTScore of each pair; an empty prediction scores 0 and stays in the mean; an empty reference gives NaN.

    Equal pairs are scored once, `chunk` distinct pairs at a time (memory: their token vectors), in an order
    set by the pairs alone, so that the order of the samples changes no bit. Raises
    ValueError on unequal lengths.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} references")
    pairs = list(zip(predictions, references, strict=True))
    # Pairs of like length share a chunk, hence a batch with little padding.
    distinct = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    scores: dict[tuple[str, str], tuple[float, float, float]] = {}
    for start in range(0, len(distinct), chunk):
        part = distinct[start : start + chunk]
        texts = sorted({text for pair in part for text in pair}, key=lambda text: (len(text), text))
        vectors = dict(zip(texts, embedder.embed(texts), strict=True))
        scores.update((pair, match(vectors[pair[0]], vectors[pair[1]])) for pair in part)
    p, r, f = (tuple(scores[pair][i] for pair in pairs) for i in range(3))
    return BertScore(embedder.name, p, r, f)
