"""Word-level tokenizers for the closed vocabularies of the small worlds."""

from collections.abc import Mapping, Sequence
from typing import Any


def word_tokenizer(
    entries: Sequence[str],
    special: Mapping[str, str],
    *,
    single: str,
    pair: str | None = None,
    **settings: Any,
) -> Any:
    """A fast tokenizer of lower-case words: entry i of `entries` has id i.

    Args:
        entries: words, marks and special tokens, in the order of their ids.
        special: special tokens by role, such as `pad_token`.
        single: layout of a text, such as "[CLS] $A [SEP]".
        pair: layout of two texts.
        settings: further keywords of PreTrainedTokenizerFast.

    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(entries)}
    core = Tokenizer(models.WordLevel(ids, unk_token=special["unk_token"]))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = dict.fromkeys(token for token in f"{single} {pair or ''}".split() if not token.startswith("$"))
    core.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, ids[token]) for token in frame]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **special, **settings)
