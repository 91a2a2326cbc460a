"""A small byte-level BPE tokenizer: any Unicode text round-trips, the trained words are one token each."""

from collections.abc import Iterable, Sequence
from typing import Any

from fedloom.models.mllm.prompt import AFTER, ASSISTANT, GAP, GAP_TEXT, HUMAN, START

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

PHRASES = (f"{START} {HUMAN}", f" {GAP}", f" {GAP_TEXT}", f" {AFTER}", ASSISTANT)
"""Fixed sentences of the default prompt: as one token each they make a tiny model's sequences far shorter."""


def train_tokenizer(
    texts: Iterable[str], words: Iterable[str] = (), phrases: Sequence[str] = PHRASES, vocab_size: int = 1024
) -> Any:
    """A `PreTrainedTokenizerFast` trained on `texts`: at most `vocab_size` entries plus phrases; deterministic.

    Each of `words`, after a space, becomes one token. Raises ValueError if `vocab_size` is too small for it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    words = sorted(set(words))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([*sorted(set(texts)), *(f" {w}" for w in words)], trainer)
    split = [w for w in words if len(core.encode(f" {w}").ids) != 1]
    if split:
        raise ValueError(f"vocab_size {vocab_size} splits {len(split)} words, the first {split[0]!r}")
    core.add_tokens([AddedToken(p, normalized=False) for p in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
