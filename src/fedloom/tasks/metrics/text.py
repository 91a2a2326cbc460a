"""Text metrics on (predictions, references), in [0, 1].

An empty prediction scores 0; it is never skipped. A pair with an empty reference cannot be measured: NaN. Words are those of
`metrics.words`, in any script.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom.tasks.metrics.words import normalise, spaced, words


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Exact match of each pair: 1.0 if the normal forms are equal (SQuAD, Rajpurkar et al. 2016), else 0.0."""
    return [
        float(normalise(prediction) == normalise(reference)) if words(reference) else math.nan
        for prediction, reference in _pairs(predictions, references)
    ]


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """SQuAD's F1 of each pair: harmonic mean of precision and recall of the bags of the normal forms' words."""
    scores = []
    for prediction, reference in _pairs(predictions, references):
        predicted, expected = words(normalise(prediction)), words(normalise(reference))
        common = sum((Counter(predicted) & Counter(expected)).values())
        scores.append(2 * common / (len(predicted) + len(expected)) if expected else math.nan)
    return scores


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """F-measure of the longest common subsequence of words, no stemmer, by rouge-score, for each pair."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return [
        float(scorer.score(reference, prediction)["rougeL"].fmeasure) if words(reference) else math.nan
        for prediction, reference in _pairs(predictions, references)
    ]


class _Words:
    """The words of a text, as rouge-score asks for them."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU in [0, 1] (sacrebleu prints 100 times that), NaN if not measurable, and the signature that reproduces it."""

    score: float
    signature: str


def bleu(predictions: Sequence[str], references: Sequence[str]) -> Bleu:
    """Corpus BLEU-4 (Papineni et al. 2002) by sacrebleu: 13a tokeniser, case kept, one reference.

    Letters of scripts without spaces count as words. NaN if no reference has four words: BLEU-4 does not measure shorter
    answers. Raises ValueError on an empty corpus or unequal lengths.
    """
    from sacrebleu.metrics import BLEU

    pairs = _spaced_pairs(predictions, references)
    if not pairs:
        raise ValueError("corpus BLEU needs at least one pair")
    metric = BLEU()
    score = float(metric.corpus_score([p for p, _ in pairs], [[r for _, r in pairs]]).score)
    longest = max(len(metric.tokenizer(r).split()) for _, r in pairs)
    return Bleu(min(score / 100, 1.0) if longest >= 4 else math.nan, str(metric.get_signature()))


def bleu_statistics(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """The sums behind corpus BLEU, a line per pair: the lengths of answer and reference, matches and n-grams of orders 1 to 4."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    scores = [metric.sentence_score(p, [r]) for p, r in _spaced_pairs(predictions, references)]
    lines = [[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores]
    return np.array(lines, dtype=np.float64).reshape(-1, 10)


def sentence_bleu(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """BLEU of each pair alone, exponentially smoothed, over the n-grams that exist ("effective order").

    Unlike corpus BLEU it also ranks answers of one to three words; hence its own name.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    return [
        min(float(metric.sentence_score(p, [r]).score) / 100, 1.0) if words(r) else math.nan
        for p, r in _spaced_pairs(predictions, references)
    ]


def find_wordnet() -> Any:
    """NLTK's WordNet reader if its data lies on this machine, else None. Never downloads."""
    import nltk

    for place in ("corpora/wordnet", "corpora/wordnet.zip"):  # unpacked, or as nltk.download leaves it
        try:
            nltk.data.find(place)
        except LookupError:
            continue
        from nltk.corpus import wordnet

        return wordnet
    return None


def meteor(
    predictions: Sequence[str], references: Sequence[str], wordnet: Any = "find"
) -> tuple[str, list[float]]:
    """METEOR of each pair by NLTK (alpha 0.9, beta 3, gamma 0.5), after the name of the measured variant.

    With WordNet the name is `meteor`: words match exactly, by Porter stem, or as synonyms (Lavie and
    Agarwal 2007). Without its data (`find_wordnet()` is None) it is `meteor_exact`: equal words only,
    neither stems nor synonyms. `wordnet` is a reader with `synsets(word)`, None, or "find". The
    fragmentation penalty gives a correct one-word answer 0.5: METEOR is no accuracy.
    """
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import single_meteor_score

    reader = find_wordnet() if wordnet == "find" else wordnet
    stemmer = _Verbatim() if reader is None else PorterStemmer()
    scores = [
        float(
            single_meteor_score(
                words(reference),
                words(prediction),
                stemmer=stemmer,
                wordnet=_Verbatim() if reader is None else reader,
            )
        )
        if words(reference)
        else math.nan
        for prediction, reference in _pairs(predictions, references)
    ]
    return ("meteor_exact" if reader is None else "meteor"), scores


class _Verbatim:
    """Replacement of NLTK's stemmer and WordNet: a word is its own stem and has no synonyms."""

    def stem(self, word: str) -> str:
        return word

    def synsets(self, word: str) -> list[Any]:
        return []


def _pairs(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} references")
    return list(zip(predictions, references, strict=True))


def _spaced_pairs(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    return [(spaced(p), spaced(r)) for p, r in _pairs(predictions, references)]
