"""The prompt of a multimodal question (UniFLoW, Table 5): the order of its token ids and soft tokens.

    BOS | before | X_m1 X_m2 ... | gap | question | after | assistant marker | answer | stop

Every piece is tokenised on its own, without special tokens: a soft token cannot change the ids beside it. In a conversation every
user's turn has this form, the later ones from "### Human:" on; a system's text follows the start, and media between words stand
there, in tags of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from fedloom.data.sample import Turn, modality_of
from fedloom.models.mllm.pieces import Pieces, Rendered, Run, fitted

Encode = Callable[[str], list[int]]
"""Text to token ids, special tokens off."""

START = "Start of the conversation."
HUMAN = "### Human:"
GAP = "Now, here's the question based on the above features:"
GAP_TEXT = "Now, here's the question:"
AFTER = "Based on the above input and question, please provide your response."
ASSISTANT = "\n### Assistant:"


class PromptConfig(BaseModel, extra="forbid"):
    """The open choices of the prompt; the defaults are our reading of the paper's table."""

    frame: Literal["conversation", "chat", "bare"] = Field(
        "conversation",
        description="chat: the tokenizer's chat template (see `chat`); bare: soft tokens, question (if any) and answer, with "
        "no other text",
    )
    tags: Literal["names", "literal", "pandagpt", "per_modality"] = Field(
        "names", description="<image,audio>, <modality>, <Img>, or one pair of tags around each modality"
    )
    close: Literal["slash", "paper"] = Field(
        "slash", description='closing tag: </name>, or the paper\'s "\\<name>"'
    )
    joiner: str = Field(" ", description='separator of two pieces of text; "" joins them as printed')
    assistant: str = Field(ASSISTANT, description='marker before the answer; the paper prints none ("")')
    stop: str = Field("eos", description='"eos" for the end-of-text token, or a string such as "\\n###"')
    text_only: Literal["plain", "tags"] = Field(
        "plain", description="samples without a modality: no tags, or the tag <text> around nothing"
    )


def before_and_gap(
    config: PromptConfig, keys: Sequence[str], combine: str, start: str | None = None
) -> list[str]:
    """From the start to the question, alternating: text, slot, text, ..., text (joiners included).

    `keys`: the media in front of the question. `start`: a question's beginning in the middle of a conversation.
    """
    join = config.joiner
    slots = ["+".join(keys)] if combine == "sum" and keys else list(keys)
    if config.frame == "bare":
        return ["", *_separated(slots), ""] if slots else [""]
    start = START + join + HUMAN if start is None else start
    if not keys and config.text_only == "plain":
        return [start + join + GAP_TEXT]
    if config.tags == "per_modality" and combine == "concat" and keys:
        parts = [start]
        for key in keys:
            parts[-1] += join + _open(config, [key])
            parts += [key, _close(config, [key])]
        return [*parts[:-1], parts[-1] + join + GAP]
    opening, closing = start + join + _open(config, keys), _close(config, keys) + join + GAP
    return [opening, *_separated(slots), closing] if keys else [opening + closing]


def assemble(
    config: PromptConfig,
    encode: Encode,
    turns: Sequence[Turn],
    *,
    bos: int | None,
    eos: int | None,
    limit: int,
    combine: str = "concat",
    encode_text: Encode | None = None,
) -> Pieces:
    """Token ids of one sample, at most `limit` of them (soft tokens not counted); cut as in `fitted`.

    `encode_text` encodes what was said, in which no special token may arise; None: as the rest.
    """
    stop = ([] if eos is None else [eos]) if config.stop == "eos" else encode(config.stop)
    frame = _Frame(config, encode, encode_text or encode, combine, () if bos is None else (bos,), tuple(stop))
    return fitted(frame.render, turns, limit)


@dataclass(frozen=True)
class _Frame:
    """The settings of a prompt; `encode_text` encodes what was said, `bos` and `stop` are token ids."""

    config: PromptConfig
    encode: Encode
    encode_text: Encode
    combine: str
    bos: tuple[int, ...]
    stop: tuple[int, ...]

    def render(self, turns: Sequence[Turn]) -> Rendered:
        """The runs and slots of a conversation."""
        rendered: Rendered = [Run(self.bos, "frame")]
        start: str | None = None
        for turn in turns:
            if turn.role == "system":
                opening = START if self.config.frame == "conversation" else ""
                rendered += [self._frame(opening), Run(self._said(turn.text), "words")]
                start = self.config.joiner + HUMAN
            elif turn.role == "user":
                rendered += self._asked(turn, start)
            else:
                rendered.append(Run((*self._said(turn.text), *self.stop), "answer"))
                start = f"\n{HUMAN}".removeprefix(self.config.stop)
        return rendered

    def _asked(self, turn: Turn, start: str | None) -> Rendered:
        """A user's turn that begins with `start`: None, the beginning of the conversation."""
        parts, framed = turn.parts, self.config.frame == "conversation"
        count = next((i for i, part in enumerate(parts) if isinstance(part, str)), len(parts))
        head = before_and_gap(self.config, [m.key for m in turn.media[:count]], self.combine, start)
        runs: Rendered = [text if i % 2 else self._frame(text) for i, text in enumerate(head)]
        for i, part in enumerate(parts[count:]):
            if isinstance(part, str):
                runs.append(Run(tuple(self.encode_text(part)) if i else self._said(part), "words"))
            elif framed:
                opening, closing = (mark(self.config, [part.key]) for mark in (_open, _close))
                runs += [self._frame(opening), part.key, self._frame(closing)]
            else:
                runs.append(part.key)
        if framed:
            runs += [self._frame(self.config.joiner + AFTER), self._frame(self.config.assistant)]
        return runs

    def _frame(self, text: str) -> Run:
        return Run(tuple(self.encode(text)) if text else (), "frame")

    def _said(self, text: str) -> tuple[int, ...]:
        """Token ids of a text behind the joiner."""
        return tuple(self.encode_text(self.config.joiner + text)) if text else ()


def sentences(config: PromptConfig) -> frozenset[str]:
    """The sentences of the frame, which some tokenizers hold as one token each."""
    texts = (START, HUMAN, f"{START}{config.joiner}{HUMAN}", GAP, GAP_TEXT, AFTER, config.assistant)
    return frozenset(text.strip() for text in texts if text.strip())


def _open(config: PromptConfig, keys: Sequence[str]) -> str:
    return f"<{_tag(config, keys)}>"


def _close(config: PromptConfig, keys: Sequence[str]) -> str:
    tag = _tag(config, keys)
    return f"</{tag}>" if config.close == "slash" else f"\\<{tag}>"


def _tag(config: PromptConfig, keys: Sequence[str]) -> str:
    """The word in the tags around these media."""
    names = ",".join(dict.fromkeys(map(modality_of, keys)))
    return {"literal": "modality", "pandagpt": "Img"}.get(config.tags, names or "text")


def _separated(slots: Sequence[str]) -> list[str]:
    """Slots with empty texts between them, so that texts and slots alternate."""
    return [part for slot in slots for part in (slot, "")][:-1]
