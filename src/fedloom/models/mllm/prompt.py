"""The prompt of a multimodal question (UniFLoW, Table 5): the order of its token ids and soft tokens.

    BOS | before | X_m1 X_m2 ... | gap | question | after | assistant marker | answer | stop

Every piece is tokenised on its own, without special tokens: a soft token cannot change the ids beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from fedloom.data.sample import MODALITIES

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


@dataclass(frozen=True)
class Pieces:
    """One sample's prompt as token ids.

    `prompt` alternates runs of token ids with slots; a slot is a string, the modality whose soft tokens stand
    there ("image+audio" where modalities are summed). `answer` ends in the stop ids unless it had to be cut.
    """

    prompt: tuple[tuple[int, ...] | str, ...]
    answer: tuple[int, ...]
    truncated: bool

    @property
    def text_tokens(self) -> int:
        """Number of token ids, soft tokens not counted."""
        return sum(len(run) for run in self.prompt if not isinstance(run, str)) + len(self.answer)


def before_and_gap(config: PromptConfig, modalities: Sequence[str], combine: str) -> list[str]:
    """From the start to the question, alternating: text, slot, text, ..., text (joiners included)."""
    join = config.joiner
    ordered = [m for m in MODALITIES if m in modalities]
    if config.frame == "bare":
        slots = ["+".join(ordered)] if combine == "sum" and ordered else ordered
        return ["", *_separated(slots), ""] if slots else [""]
    start = START + join + HUMAN
    if not ordered and config.text_only == "plain":
        return [start + join + GAP_TEXT]
    if config.tags == "per_modality" and combine == "concat" and ordered:
        parts = [start]
        for name in ordered:
            parts[-1] += join + f"<{name}>"
            parts += [name, _close(config, name)]
        return [*parts[:-1], parts[-1] + join + GAP]
    tag = {"literal": "modality", "pandagpt": "Img"}.get(config.tags, ",".join(ordered) or "text")
    opening, closing = start + join + f"<{tag}>", _close(config, tag) + join + GAP
    if not ordered:
        return [opening + closing]
    slots = ["+".join(ordered)] if combine == "sum" else ordered
    return [opening, *_separated(slots), closing]


def assemble(
    config: PromptConfig,
    encode: Encode,
    modalities: Sequence[str],
    question: str,
    answer: str,
    *,
    bos: int | None,
    eos: int | None,
    limit: int,
    combine: str = "concat",
    encode_text: Encode | None = None,
) -> Pieces:
    """Token ids of one sample, at most `limit` of them (soft tokens not counted).

    `encode_text` encodes question and answer, in which no special token may arise; None: as the rest.

    Text beyond the limit is cut from the end of the question; only if the frame alone is too long, from the end of
    the answer, which then has no stop, so that no false stop is learned. The assistant marker always stays.
    """
    join = config.joiner
    head: list[list[int] | str] = []
    for i, part in enumerate(before_and_gap(config, modalities, combine)):
        if i % 2:
            head.append(part)
        else:
            head.append(encode(part) if part else [])
    if bos is not None:
        head[0] = [bos, *head[0]]
    encode_text = encode_text or encode
    body = encode_text(join + question) if question else []
    tail = encode(join + AFTER) + (encode(config.assistant) if config.assistant else [])
    if config.frame == "bare":
        tail = []
    stop = ([] if eos is None else [eos]) if config.stop == "eos" else encode(config.stop)
    reply = (encode_text(join + answer) if answer else []) + stop

    frame = sum(len(run) for run in head if not isinstance(run, str)) + len(tail)
    room = limit - frame - len(reply)
    truncated = len(body) > max(room, 0)
    if truncated:
        body = body[: max(room, 0)]
    if room < 0:
        truncated, reply = True, reply[: max(limit - frame, 1)]
    runs: list[tuple[int, ...] | str] = [run if isinstance(run, str) else tuple(run) for run in head]
    runs[-1] = (*runs[-1], *body, *tail)
    return Pieces(tuple(run for run in runs if run), tuple(reply), truncated)


def sentences(config: PromptConfig) -> frozenset[str]:
    """The sentences of the frame, which some tokenizers hold as one token each."""
    texts = (START, HUMAN, f"{START}{config.joiner}{HUMAN}", GAP, GAP_TEXT, AFTER, config.assistant)
    return frozenset(text.strip() for text in texts if text.strip())


def _close(config: PromptConfig, tag: str) -> str:
    return f"</{tag}>" if config.close == "slash" else f"\\<{tag}>"


def _separated(slots: Sequence[str]) -> list[str]:
    """Slots with empty texts between them, so that texts and slots alternate."""
    return [part for slot in slots for part in (slot, "")][:-1]
