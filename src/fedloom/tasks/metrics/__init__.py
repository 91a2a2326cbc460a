"""Named measurements: token accuracy, text metrics, BERTScore with a pinned embedder, and their summary.

Every metric is a share in [0, 1] (also BLEU, which sacrebleu prints times 100). sacrebleu, rouge-score,
NLTK and transformers are imported when a metric first needs them. Nothing here touches the network, except
that `HFEmbedder` fetches a Hugging Face id that is not cached.
"""

from fedloom.models.mllm.token_counts import count_tokens, count_tokens_shifted
from fedloom.tasks.metrics.bertscore import BertScore, Embedder, bert_score, match
from fedloom.tasks.metrics.bootstrap import Interval, bootstrap_interval, paired_difference, seed_sign_flip
from fedloom.tasks.metrics.embedders import CausalEmbedder, HFEmbedder, HiddenStates, MiniLM, load_embedder
from fedloom.tasks.metrics.gptscore import GPTScore
from fedloom.tasks.metrics.harmonic import harmonic_mean
from fedloom.tasks.metrics.summary import EvaluationRecord, Scope, Summary, score_samples, summarise
from fedloom.tasks.metrics.text import (
    Bleu,
    bleu,
    exact_match,
    meteor,
    rouge_l,
    sentence_bleu,
    token_f1,
)
from fedloom.tasks.metrics.token_accuracy import TokenAccuracy
from fedloom.tasks.metrics.words import normalise

__all__ = [
    "BertScore",
    "Bleu",
    "CausalEmbedder",
    "Embedder",
    "EvaluationRecord",
    "GPTScore",
    "HFEmbedder",
    "HiddenStates",
    "Interval",
    "MiniLM",
    "Scope",
    "Summary",
    "TokenAccuracy",
    "bert_score",
    "bleu",
    "bootstrap_interval",
    "count_tokens",
    "count_tokens_shifted",
    "exact_match",
    "harmonic_mean",
    "load_embedder",
    "match",
    "meteor",
    "normalise",
    "paired_difference",
    "rouge_l",
    "score_samples",
    "seed_sign_flip",
    "sentence_bleu",
    "summarise",
    "token_f1",
]
