"""Words that a tokenizer does not know."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any


def unread_share(texts: Collection[str], encode: Callable[[str], Sequence[int]], tokenizer: Any) -> float:
    """Share of the texts' words of three letters or more that need a token for two bytes, or the unknown token."""
    words = Counter(word for text in texts for word in text.split() if len(word) > 2)
    unread = sum(count for word, count in words.items() if _unread(word, encode, tokenizer.unk_token_id))
    return unread / max(words.total(), 1)


def _unread(word: str, encode: Callable[[str], Sequence[int]], unknown: int | None) -> bool:
    ids = encode(f" {word}")
    return 2 * len(ids) > len(word.encode()) or not ids or (unknown is not None and unknown in ids)
