"""Answers as a chat template writes them: what stands before one after the generation prompt, and the token that ends it."""

from collections.abc import Callable, Sequence
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.models.chat_template import texts_around
from fedloom.models.plain_tokenizer import PlainTokenizer

MARK = "\U0010fffd"
"""A private character that stands for an earlier answer in a rendered conversation."""


class AnswerFrame:
    """Lead and stop of answers. `stop`: the token id that ends an answer; `control`: the tokenizer's control tokens."""

    def __init__(
        self,
        tokenizer: Any,
        render: Callable[..., str],
        special: Sequence[str],
        stops: Sequence[int],
        source: str,
    ) -> None:
        """`render`: messages, and whether to add a generation prompt, to text; `special`: control tokens, longest first.

        Raises ExperimentError where the template does not continue its own generation prompt with the answer.
        """
        self._tokenizer, self._source = tokenizer, source
        self._plain = PlainTokenizer(tokenizer)
        self.control = self._plain.control
        asked = texts_around(lambda m: render(m, prompt=True), ["user"], parts=True)
        whole = texts_around(lambda m: render(m, prompt=False), ["user", "assistant"], parts=True)
        if not asked or not whole or asked[0] != whole[0] or not whole[1].startswith(asked[1]):
            raise ExperimentError(
                f"model.native: the chat template of {source} does not continue its own generation prompt with the answer, "
                "so that the answer's tokens cannot be told; give the checkpoint a template that does"
            )
        self._lead, end, self._anchor = whole[1].removeprefix(asked[1]), whole[2], asked[1]
        for token in special:
            self._anchor = self._anchor.rpartition(token)[2]
        added = tokenizer.added_tokens_decoder.items()
        ends = {i for i, token in added if not str(token).isspace()} | set(stops)
        closing = next((i for i in tokenizer.encode(end, add_special_tokens=False) if i in ends), None)
        stop = tokenizer.eos_token_id if closing is None else closing
        if stop is None:
            raise ExperimentError(
                f"model.native: neither the chat template nor the tokenizer of {source} has a token that ends an answer"
            )
        self._closes, self.stop = closing is not None, int(stop)
        alone = self.ids(MARK)
        self._mark = alone[-(len(self.ids(MARK * 2)) - len(alone)) :]
        self._led = self.encode(MARK)[: -len(self._mark) - 1]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, none of them a control token."""
        return list(self._plain(text, add_special_tokens=False)["input_ids"])

    def encode(self, answer: str) -> list[int]:
        """Lead, answer and stop. The answer is tokenised behind the prompt's last words, as the template writes it."""
        head, joined = self.ids(self._anchor), self.ids(self._anchor + self._lead + answer)
        own = joined[len(head) :] if joined[: len(head)] == head else self.ids(self._lead + answer)
        return [*own, self.stop]

    def placed(self, ids: Sequence[int], answers: Sequence[str]) -> "Placed":
        """A rendered conversation with these answers in place of its marks, each with lead and stop.

        Raises ExperimentError where the marks are not found.
        """
        mark, count = self._mark, len(self._mark)
        marks = [i for i in range(len(ids)) if list(ids[i : i + count]) == mark] if answers else []
        if len(marks) != len(answers):
            raise ExperimentError(
                f"model.native: the answers in a conversation cannot be told apart behind the tokenizer of {self._source}; "
                "take samples of one question and answer"
            )
        placed, at = Placed([], [], []), 0
        for found, answer in zip(marks, answers, strict=True):
            led = found - len(self._led)
            begins = led if led >= at and list(ids[led:found]) == self._led else found
            own = self.encode(answer) if begins == led else [*self.ids(answer), self.stop]
            placed.keep(ids, at, begins)
            placed.insert(own)
            at = found + count
            if self._closes:
                at = list(ids).index(self.stop, at) + 1
        placed.keep(ids, at, len(ids))
        return placed


class Placed:
    """Token ids with answers put in. `origin`: the place of each in the ids before; of an answer's, that of the token before it.

    `spans`: first and last place (exclusive) of every answer.
    """

    def __init__(self, ids: list[int], origin: list[int], spans: list[tuple[int, int]]) -> None:
        self.ids, self.origin, self.spans = ids, origin, spans

    def keep(self, ids: Sequence[int], first: int, end: int) -> None:
        """Append the ids from `first` to `end`."""
        self.ids += ids[first:end]
        self.origin += range(first, end)

    def insert(self, answer: Sequence[int]) -> None:
        """Append an answer."""
        self.spans.append((len(self.ids), len(self.ids) + len(answer)))
        self.ids += answer
        self.origin += [self.origin[-1]] * len(answer)
