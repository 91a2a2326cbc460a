"""Samples as prompts of a native model: messages, the family's chat template, and its processor.

    prompt (with placeholders of the media) | lead | answer | stop

The prompt of a conversation holds its earlier answers, each with lead and stop, too.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.data.conversation import exchanges, without_oldest
from fedloom.data.sample import SAMPLE_RATE, Role, Sample, Turn, modality_of
from fedloom.models.chat_template import in_words, texts_around
from fedloom.models.native.answers import AnswerFrame, Placed
from fedloom.models.native.clips import decoded, processor_options, reads_frames, reads_whole
from fedloom.models.native.families import Family
from fedloom.models.native.messages import content_of, shortened, with_words
from fedloom.models.native.processor import FAULTS
from fedloom.models.native.template import find_template, rendered

ALIGNED = ("token_type_ids", "mm_token_type_ids", "cross_attention_mask")
"""Outputs of a processor with one entry per token."""
PLACEHOLDERS = tuple(f"{m}_token_{end}" for m in ("image", "audio", "video") for end in ("id", "index"))
"""Names of the placeholders' token ids in a configuration."""
MAX_TEXT_TOKENS = 512
"""Token ids per sample where `model.max_text_tokens` names no other number."""


@dataclass(frozen=True)
class NativeExample:
    """A prepared sample.

    `ids` int64 (L,): the prompt; `aligned`: further tensors (L, ...); `media`: the processor's other outputs, as it makes them
    for this sample alone; `answer`: token ids, ending in the stop unless cut; `truncated`: whether text or sound was cut;
    `earlier`: first and last place (exclusive) of every earlier answer in `ids`.
    """

    uid: str
    kind: str
    ids: Tensor
    aligned: dict[str, Tensor]
    media: dict[str, Tensor]
    answer: tuple[int, ...]
    reference: str
    truncated: bool
    earlier: tuple[tuple[int, int], ...] = ()


class Reader:
    """Prepares samples by a processor; raises ExperimentError where processor or template cannot serve."""

    def __init__(
        self,
        processor: Any,
        config: Any,
        family: Family,
        source: str,
        stops: Sequence[int],
        limit: int = MAX_TEXT_TOKENS,
    ) -> None:
        """`config`: the model's; `source`: its name in messages; `stops`: token ids at which the model stops by itself.

        `limit`: token ids per sample, answer included, placeholders not counted.
        """
        self.processor, self.family, self.source, self.limit = processor, family, source, limit
        self.tokenizer = processor.tokenizer
        self.config = config
        pad = self.tokenizer.pad_token_id
        self.pad = int(pad if pad is not None else self.tokenizer.eos_token_id or 0)
        added = self.tokenizer.added_tokens_decoder.values()
        self._special = sorted((str(t) for t in added if t.special), key=len, reverse=True)
        self.whole_videos = reads_whole(processor, family)
        videos = ("video",) if self.whole_videos or reads_frames(family) else ()
        self.reads: tuple[str, ...] = (*family.towers, *videos)
        placed = (*family.towers, *videos) if self.whole_videos else family.towers
        found = {m: _placeholder(config, m) for m in placed}
        self.placeholders = {m: i for m, i in found.items() if i is not None}
        self.template = find_template(processor, family)
        self.answers = AnswerFrame(
            self.tokenizer, partial(rendered, self.tokenizer, self.template), self._special, stops, source
        )
        self.stop = self.answers.stop
        self.stops = sorted({self.stop, *stops})
        self._shown: set[tuple[Role, ...]] = {("user", "assistant")}

    def prepare(self, sample: Sample) -> NativeExample:
        """The sample's prompt, media and answer. Raises ExperimentError for a modality that the model does not read."""
        self._check_media(sample)
        sample = decoded(sample)
        turns, answer = sample.conversation, self.answers.encode(sample.answer)
        self._check_roles(sample, tuple(turn.role for turn in turns))
        made, placed = self._read(sample, turns)
        room = self.limit - len(answer)
        truncated = self._sound_is_cut(sample)
        while (over := self._text_tokens(placed.ids) - room) > 0:
            shorter = without_oldest(turns) if exchanges(turns) > 1 else self._cut(turns, over)
            if shorter is None:  # the frame alone is too long: an answer without a stop teaches no false one
                answer, truncated = answer[: max(len(answer) - over, 1)], True
                break
            turns, truncated = shorter, True
            made, placed = self._read(sample, turns)
        origin = torch.tensor(placed.origin)
        aligned = {n: t[0][origin] for n, t in made.items() if n in ALIGNED}
        media = {
            n: t for n, t in made.items() if n not in (*ALIGNED, "input_ids", "attention_mask", "labels")
        }
        return NativeExample(
            sample.uid,
            sample.kind,
            torch.tensor(placed.ids),
            aligned,
            media,
            tuple(answer),
            sample.answer,
            truncated,
            tuple(placed.spans),
        )

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of generated token ids (B, n), special tokens left out, stripped."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _check_media(self, sample: Sample) -> None:
        """Refuse a modality that the model does not read, and several inputs where it reads one."""
        held = Counter(map(modality_of, sample.modalities))
        for name, count in held.items():
            if name not in self.reads:
                raise ExperimentError(
                    f"sample {sample.uid!r} has {name}, and {self.source} reads {', '.join(self.reads)} only; "
                    f"drop {name} from the data, or take another model.native"
                )
            if count > 1 and not self.family.several:
                raise ExperimentError(
                    f"sample {sample.uid!r} has {count} inputs of {name}, and {self.source} (family {self.config.model_type}) "
                    "reads one a sample here; split the sample, or take another model.native"
                )

    def _check_roles(self, sample: Sample, roles: tuple[Role, ...]) -> None:
        """Refuse turns that the template refuses or does not show."""
        if roles in self._shown:
            return
        says = None
        try:
            if not texts_around(
                lambda m: rendered(self.tokenizer, self.template, m, prompt=True), roles[:-1], parts=True
            ):
                says = f"does not show {in_words(roles)} once each"
        except Exception as error:  # a template is a program, which may raise anything
            says = f"refuses {in_words(roles)} ({reason(error)})"
        if says is not None:
            raise ExperimentError(
                f"model.native: the chat template of {self.source} {says}, which sample {sample.uid!r} has"
            )
        self._shown.add(roles)

    def _cut(self, turns: Sequence[Turn], over: int) -> tuple[Turn, ...] | None:
        """The turns with `over` token ids of words fewer; see `shortened`."""

        def cut(text: str) -> str:
            words = self.answers.ids(text)
            return self.tokenizer.decode(words[: len(words) - over]) if over < len(words) else ""

        return shortened(turns, cut)

    def _read(self, sample: Sample, turns: Sequence[Turn]) -> tuple[dict[str, Tensor], Placed]:
        """The processor's outputs for a prompt without its last answer, and its token ids with the earlier ones.

        Control tokens that a question spells stay text.
        """
        try:
            made = self._sanitized(sample, turns)
        except FAULTS as error:
            raise ExperimentError(
                f"model.native: the processor of {self.source} cannot read sample {sample.uid!r}: {reason(error)}"
            ) from error
        earlier = [turn.text for turn in turns[:-1] if turn.role == "assistant"]
        return made, self.answers.placed(made["input_ids"][0].tolist(), earlier)

    def _sanitized(self, sample: Sample, turns: Sequence[Turn]) -> dict[str, Tensor]:
        texts = [part for turn in turns[:-1] for part in turn.parts if isinstance(part, str)]
        if not any(self._control_in(self.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts):
            return self._processed(sample, turns)
        with suppress(*FAULTS):  # some processors cannot, nor can transformers before 5.24
            made = self._processed(sample, turns, sanitize_control_tokens=True)
            wanted = self._processed(sample, with_words(turns, lambda text: "x"))
            if self._control_in(made["input_ids"][0]) == self._control_in(wanted["input_ids"][0]):
                return made
        return self._processed(sample, with_words(turns, self._broken))

    def _control_in(self, ids: Any) -> Counter[int]:
        """The control tokens among these ids."""
        return Counter(i for i in map(int, ids) if i in self.answers.control)

    def _broken(self, text: str) -> str:
        """The text with a space inside each control token; between all letters where that is not enough."""
        text = unicodedata.normalize("NFKC", text)
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        left = self._control_in(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return " ".join(text) if left else text

    def _processed(self, sample: Sample, turns: Sequence[Turn], **options: Any) -> dict[str, Tensor]:
        messages: list[dict[str, Any]] = [
            {"role": turn.role, "content": content_of(sample, turn, whole=self.whole_videos)}
            for turn in turns[:-1]
        ]
        held = [part for m in messages for part in m["content"] if part["type"] != "text"]
        plain = not self.family.expands or (not held and not self.family.text_alone)
        if plain:
            for m in messages:
                m["content"] = [{k: v for k, v in p.items() if k in ("type", "text")} for p in m["content"]]
        reader = self.tokenizer if plain else self.processor
        if not options.keys() <= signature(reader.apply_chat_template).parameters.keys():
            raise TypeError(f"{type(reader).__name__} has no {', '.join(options)}")
        if own := processor_options(sample, turns, self.family, whole=self.whole_videos):
            options["processor_kwargs"] = own
        made = reader.apply_chat_template(
            messages,
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **options,
        )
        made = {n: t for n, t in made.items() if isinstance(t, Tensor)}
        if plain and not self.family.text_alone:  # as the processor writes them beside a picture
            made["token_type_ids"] = torch.zeros_like(made["input_ids"])
        return self._expanded(made, [p["audio"] for p in held]) if plain and held else made

    def _expanded(self, made: dict[str, Tensor], sounds: Sequence[Any]) -> dict[str, Tensor]:
        """Mel features in whole chunks (chunks, mel, frames), and the placeholder repeated for each of their tokens."""
        extractor, audio = self.processor.feature_extractor, self.config.audio_config
        chunks = []
        for sound in sounds:
            mel = extractor(
                sound,
                sampling_rate=SAMPLE_RATE,
                truncation=False,
                padding=True,
                pad_to_multiple_of=extractor.n_samples,
                return_tensors="pt",
            )["input_features"][0]
            chunks.append(mel.reshape(len(mel), -1, extractor.nb_max_frames).transpose(0, 1))
        each = extractor.nb_max_frames // 2 * audio.hidden_size // audio.intermediate_size
        ids: list[int] = []
        counts = iter([len(c) * each for c in chunks])
        for token in made["input_ids"][0].tolist():
            ids += [token] * (next(counts) if token == self.placeholders["audio"] else 1)
        return {"input_ids": torch.tensor([ids]), "input_features": torch.cat(chunks)}

    def _text_tokens(self, ids: Sequence[int]) -> int:
        placed = Counter(ids)
        return len(ids) - sum(placed[p] for p in set(self.placeholders.values()))

    def _sound_is_cut(self, sample: Sample) -> bool:
        longest = getattr(getattr(self.processor, "feature_extractor", None), "n_samples", None)
        sounds = [key for key in sample.modalities if modality_of(key) == "audio"]
        if longest is None or not self.family.expands:
            return False
        return any(len(sample.modalities[key]) > longest for key in sounds)


def _placeholder(config: Any, modality: str) -> int | None:
    names = (n for n in PLACEHOLDERS if n.startswith(modality) and isinstance(getattr(config, n, None), int))
    return next((int(getattr(config, n)) for n in names), None)
