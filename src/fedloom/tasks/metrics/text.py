"""Text metrics on (predictions, references), in [0, 1]. An empty prediction scores 0; it is never skipped."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no articles, single spaces.

    If nothing is left ("the", "?"), the lower-cased, stripped text, so that such answers stay comparable.
    """
    plain = " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
    return plain or text.lower().strip()


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Exact match of each pair: 1.0 if the normal forms are equal (SQuAD, Rajpurkar et al. 2016), else 0.0."""
    return [float(bool(p) and p == r) for p, r in _normal_pairs(predictions, references)]


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """SQuAD's F1 of each pair: harmonic mean of precision and recall of the bags of normalised words."""
    scores = []
    for prediction, reference in _normal_pairs(predictions, references):
        predicted, expected = prediction.split(), reference.split()
        common = sum((Counter(predicted) & Counter(expected)).values())
        scores.append(2 * common / (len(predicted) + len(expected)) if common else 0.0)
    return scores


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """F-measure of the longest common subsequence of words, no stemmer, by rouge-score, for each pair.

    Words are runs of a-z and 0-9 in the lower-cased text (rouge-score's own tokeniser): other scripts score
    0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [
        float(scorer.score(reference, prediction)["rougeL"].fmeasure)
        for prediction, reference in _pairs(predictions, references)
    ]


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU in [0, 1] (sacrebleu prints 100 times that) and the signature that reproduces it."""

    score: float
    signature: str


def bleu(predictions: Sequence[str], references: Sequence[str]) -> Bleu:
    """Corpus BLEU-4 (Papineni et al. 2002) by sacrebleu: 13a tokeniser, case kept, one reference.

    0 if no prediction of the corpus has four words: BLEU-4 does not measure one-word answers.
    Raises ValueError on an empty corpus or unequal lengths.
    """
    from sacrebleu.metrics import BLEU

    pairs = _pairs(predictions, references)
    if not pairs:
        raise ValueError("corpus BLEU needs at least one pair")
    metric = BLEU()
    score = metric.corpus_score([p for p, _ in pairs], [[r for _, r in pairs]]).score
    return Bleu(min(float(score) / 100, 1.0), str(metric.get_signature()))


def sentence_bleu(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """BLEU of each pair alone, exponentially smoothed, over the n-grams that exist ("effective order").

    Unlike corpus BLEU it also ranks answers of one to three words; hence its own name.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    return [
        min(float(metric.sentence_score(p, [r]).score) / 100, 1.0) for p, r in _pairs(predictions, references)
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
    neither stems nor synonyms. `wordnet` is a reader with `synsets(word)`, None, or "find". Words are
    NLTK's `wordpunct_tokenize`, lower case. The fragmentation penalty gives a correct one-word answer 0.5:
    METEOR is no accuracy.
    """
    from nltk.stem.porter import PorterStemmer
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.meteor_score import single_meteor_score

    reader = find_wordnet() if wordnet == "find" else wordnet
    stemmer = _Verbatim() if reader is None else PorterStemmer()
    scores = [
        float(
            single_meteor_score(
                wordpunct_tokenize(reference),
                wordpunct_tokenize(prediction),
                stemmer=stemmer,
                wordnet=_Verbatim() if reader is None else reader,
            )
        )
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


def _normal_pairs(predictions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    return [(normalise(p), normalise(r)) for p, r in _pairs(predictions, references)]
