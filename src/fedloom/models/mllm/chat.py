"""The chat template of a tokenizer as a frame of a multimodal prompt: what stands before, between and after the turns' words.

    before | X_m1 X_m2 ... | question | after | answer | stop

The template is rendered once with marks in place of the words, so that its control tokens never mix with a user's text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Role, Turn
from fedloom.models.chat_template import in_words, texts_around
from fedloom.models.mllm.pieces import Pieces, Rendered, Run, fitted


@dataclass(frozen=True)
class ChatFrame:
    """Token ids around the turns; `stop` ends an answer, and is empty where the template closes no turn."""

    tokenizer: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    stop: tuple[int, ...]
    _known: dict[tuple[Role, ...], list[tuple[int, ...]]] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatFrame":
        """The frame of a tokenizer's chat template. Raises ExperimentError for one that cannot be read so."""
        if not tokenizer.chat_template:
            raise ExperimentError("model.prompt: the tokenizer of model.llm has no chat template; take paper")
        try:
            asked = _texts(tokenizer, ["user"], prompt=True)
            whole = _texts(tokenizer, ["user", "assistant"], prompt=False)
        except Exception as error:  # a template is a program, which may raise anything
            raise ExperimentError(
                f"model.prompt: the tokenizer's chat template refuses a question and an answer ({error}); take paper"
            ) from error
        if len(asked) != 2 or len(whole) != 3:
            raise ExperimentError(
                "model.prompt: the tokenizer's chat template does not show the question and the answer once each; take paper"
            )
        before, after, closing = (_encoded(tokenizer, text) for text in (*asked, whole[2]))
        return cls(tokenizer, before, after, closing[: _end_of_turn(tokenizer, closing)])

    def pieces(
        self,
        encode: Callable[[str], list[int]],
        turns: Sequence[Turn],
        *,
        stop: Sequence[int],
        limit: int,
        combine: str = "concat",
    ) -> Pieces:
        """Token ids of one sample, at most `limit` of them; cut as in `fitted`. Raises ExperimentError for turns out of place."""

        def render(turns: Sequence[Turn]) -> Rendered:
            runs: Rendered = []
            for turn, before in zip(turns, self._before(tuple(t.role for t in turns)), strict=True):
                runs.append(Run(before, "frame"))
                if turn.role == "assistant":
                    runs.append(Run((*(encode(turn.text) if turn.text else []), *stop), "answer"))
                elif combine == "sum" and turn.media:
                    runs += [
                        "+".join(m.key for m in turn.media),
                        Run(tuple(encode(turn.text) if turn.text else []), "words"),
                    ]
                else:
                    runs += [
                        Run(tuple(encode(p)), "words") if isinstance(p, str) else p.key for p in turn.parts
                    ]
            return runs

        return fitted(render, turns, limit)

    def _before(self, roles: tuple[Role, ...]) -> list[tuple[int, ...]]:
        """The template's ids before the words of each turn; those that close an answer are left out."""
        if roles == ("user", "assistant"):
            return [self.before, self.after]
        if roles not in self._known:
            try:
                texts = _texts(self.tokenizer, roles[:-1], prompt=True)
            except Exception as error:  # a template is a program, which may raise anything
                raise ExperimentError(
                    f"model.prompt: the tokenizer's chat template refuses {in_words(roles)} ({error}); take paper"
                ) from error
            if len(texts) != len(roles):
                raise ExperimentError(
                    f"model.prompt: the tokenizer's chat template does not show {in_words(roles)} once each; take paper"
                )
            ids = [_encoded(self.tokenizer, text) for text in texts]
            for i, role in enumerate(roles[:-1]):
                if role == "assistant":
                    ids[i + 1] = ids[i + 1][_end_of_turn(self.tokenizer, ids[i + 1]) :]
            self._known[roles] = ids
        return self._known[roles]


def _texts(tokenizer: Any, roles: Sequence[Role], *, prompt: bool) -> list[str]:
    """The template's texts around the turns' words, with its generation prompt if `prompt`."""

    def render(messages: list[dict[str, Any]]) -> str:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return text

    return texts_around(render, roles)


def _encoded(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()


def _end_of_turn(tokenizer: Any, ids: Sequence[int]) -> int:
    """The number of ids that close an answer: up to the first special one, none if there is none."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    return next((i + 1 for i, token in enumerate(ids) if token in special), 0)
