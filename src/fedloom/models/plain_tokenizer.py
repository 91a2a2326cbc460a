"""Tokenising users' texts: a control token such as </s> that a text spells stays text."""

import re
import unicodedata
from collections.abc import Collection
from functools import cached_property
from typing import Any


class PlainTokenizer:
    """Calls a Hugging Face tokenizer so that no text becomes a control token.

    Control tokens are the tokenizer's special tokens, and added tokens that are one of `phrases`. The unknown token is none,
    unless it has another role, too. A text that spells none gets the ids of the tokenizer itself.
    """

    def __init__(self, tokenizer: Any, phrases: Collection[str] = ()) -> None:
        self.tokenizer, self.phrases = tokenizer, phrases

    def __call__(self, text: str, pair: str | None = None, **options: Any) -> Any:
        """The tokenizer's output for a text, or a pair of texts; `options` are the tokenizer's."""
        texts = [text] if pair is None else [text, pair]
        if any(map(self._spells_control, texts)):
            texts, options = [self._broken(t) for t in texts], {**options, "split_special_tokens": True}
        return self.tokenizer(*texts, **options)

    @cached_property
    def control(self) -> frozenset[int]:
        """Ids of the control tokens."""
        tokenizer = self.tokenizer
        added = tokenizer.added_tokens_decoder.items()
        ids = {i for i, token in added if token.special or token.content.strip() in self.phrases}
        ids.update(tokenizer.all_special_ids)
        roles = ("bos", "eos", "sep", "pad", "cls", "mask")
        if tokenizer.unk_token_id not in {getattr(tokenizer, f"{role}_token_id", None) for role in roles}:
            ids.discard(tokenizer.unk_token_id)
        return frozenset(ids)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        spelled = map(self.tokenizer.convert_ids_to_tokens, sorted(self.control))
        return re.compile("|".join(re.escape(token) for token in spelled), re.IGNORECASE)

    def _spells_control(self, text: str, split: bool = False) -> bool:
        """Whether the text's ids hold a control token; `split`: even if the tokenizer splits special tokens."""
        encoded = self.tokenizer(text, add_special_tokens=False, verbose=False, split_special_tokens=split)
        return not self.control.isdisjoint(encoded["input_ids"])

    def _broken(self, text: str) -> str:
        """The text itself if splitting special tokens is enough; else with a space inside each, at last between all letters."""
        if not self._spells_control(text, split=True):
            return text
        text = unicodedata.normalize("NFKC", text)
        broken = self._pattern.sub(lambda token: f"{token[0][:1]} {token[0][1:]}", text)
        if not self._spells_control(broken, split=True):
            return broken
        return " ".join(letter for letter in text if not self._spells_control(letter, split=True))
