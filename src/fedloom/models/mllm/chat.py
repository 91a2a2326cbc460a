"""The chat template of a tokenizer as a frame of a multimodal prompt: what stands before the user's words and after them.

    before | X_m1 X_m2 ... | question | after | answer | stop

The template is rendered once with marks in place of the words, so that its control tokens never mix with a user's text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import MODALITIES
from fedloom.models.mllm.prompt import Pieces

QUESTION, ANSWER = "fedloom-question-mark", "fedloom-answer-mark"


@dataclass(frozen=True)
class ChatFrame:
    """Token ids around a user's turn; `stop` ends the answer, and is empty where the template closes no turn."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatFrame":
        """The frame of a tokenizer's chat template. Raises ExperimentError for one that cannot be read so."""
        if not tokenizer.chat_template:
            raise ExperimentError("model.prompt: the tokenizer of model.llm has no chat template; take paper")
        user, answer = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
        try:
            asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template([user, answer], tokenize=False)
        except Exception as error:  # a template is a program, which may raise anything
            raise ExperimentError(
                f"model.prompt: the tokenizer's chat template refuses a question and an answer ({error}); take paper"
            ) from error
        if asked.count(QUESTION) != 1 or whole.count(ANSWER) != 1:
            raise ExperimentError(
                "model.prompt: the tokenizer's chat template does not show the question and the answer once each; take paper"
            )

        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()

        before, after = asked.split(QUESTION)
        special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
        closing = encode(whole.split(ANSWER)[1])
        end = next((i for i, token in enumerate(closing) if token in special), None)
        return cls(encode(before), encode(after), () if end is None else closing[: end + 1])

    def pieces(
        self,
        encode: Callable[[str], list[int]],
        modalities: Sequence[str],
        question: str,
        answer: str,
        *,
        stop: Sequence[int],
        limit: int,
        combine: str = "concat",
    ) -> Pieces:
        """Token ids of one sample, at most `limit` of them; cut as in `prompt.assemble`."""
        ordered = [m for m in MODALITIES if m in modalities]
        slots = ["+".join(ordered)] if combine == "sum" and ordered else ordered
        body = encode(question) if question else []
        reply = [*(encode(answer) if answer else []), *stop]
        frame = len(self.before) + len(self.after)
        room = limit - frame - len(reply)
        truncated = len(body) > max(room, 0)
        if truncated:
            body = body[: max(room, 0)]
        if room < 0:
            truncated, reply = True, reply[: max(limit - frame, 1)]
        runs: list[tuple[int, ...] | str] = [self.before, *slots, (*body, *self.after)]
        return Pieces(tuple(run for run in runs if run), tuple(reply), truncated)
