"""Samples as prompts of a native model: messages, the family's chat template, and its processor.

    prompt (with placeholders of the media) | lead | answer | stop

The lead and the stop are the template's own: what it writes around an answer after its generation prompt.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.data.sample import SAMPLE_RATE, Sample
from fedloom.models.native.families import Family
from fedloom.models.native.processor import FAULTS
from fedloom.models.plain_tokenizer import PlainTokenizer

ASKED, ANSWERED = "\ue000", "\ue001"
"""Private characters that stand for a question and an answer while the template is explored."""
ALIGNED = ("token_type_ids", "mm_token_type_ids", "cross_attention_mask")
"""Outputs of a processor with one entry per token."""
PLACEHOLDERS = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
"""Names of the placeholders' token ids in a configuration."""
MAX_TEXT_TOKENS = 512
"""Token ids per sample where `model.max_text_tokens` names no other number."""


@dataclass(frozen=True)
class NativeExample:
    """A prepared sample.

    `ids` int64 (L,): the prompt; `aligned`: further tensors (L, ...); `media`: the processor's other outputs, as it makes them
    for this sample alone; `answer`: token ids, ending in the stop unless cut; `truncated`: whether text or sound was cut.
    """

    uid: str
    kind: str
    ids: Tensor
    aligned: dict[str, Tensor]
    media: dict[str, Tensor]
    answer: tuple[int, ...]
    reference: str
    truncated: bool


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
        self._plain = PlainTokenizer(self.tokenizer)
        added = self.tokenizer.added_tokens_decoder.values()
        self._special = sorted((str(t) for t in added if t.special), key=len, reverse=True)
        found = {m: _placeholder(config, m) for m in family.towers}
        self.placeholders = {m: i for m, i in found.items() if i is not None}
        self.template = self._template()
        self._anchor, self._lead, self.stop = self._answer_frame(stops)
        self.stops = sorted({self.stop, *stops})

    def prepare(self, sample: Sample) -> NativeExample:
        """The sample's prompt, media and answer. Raises ExperimentError for a modality that the model does not read."""
        for name in sample.modalities:
            if name not in self.family.towers:
                raise ExperimentError(
                    f"sample {sample.uid!r} has {name}, and {self.source} reads {', '.join(self.family.towers)} only; "
                    f"drop {name} from the data, or take another model.native"
                )
        question, answer = sample.question, self._encode(sample.answer)
        made = self._read(sample, question)
        room = self.limit - len(answer)
        truncated = self._sound_is_cut(sample)
        while (over := self._text_tokens(made) - room) > 0 and question:
            words = self._ids(question)
            question = self.tokenizer.decode(words[: len(words) - over]) if over < len(words) else ""
            made, truncated = self._read(sample, question), True
        if over > 0:  # the frame alone is too long: an answer without a stop teaches no false one
            answer, truncated = answer[: max(len(answer) - over, 1)], True
        ids = made.pop("input_ids")[0]
        aligned = {n: made.pop(n)[0] for n in ALIGNED if n in made}
        media = {n: t for n, t in made.items() if n not in ("attention_mask", "labels")}
        return NativeExample(
            sample.uid, sample.kind, ids, aligned, media, tuple(answer), sample.answer, truncated
        )

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of generated token ids (B, n), special tokens left out, stripped."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _read(self, sample: Sample, question: str) -> dict[str, Tensor]:
        """The processor's outputs for one prompt without its answer; control tokens that the question spells stay text."""
        try:
            if not self._control_in(self.tokenizer(question, add_special_tokens=False)["input_ids"]):
                return self._processed(sample, question)
            with suppress(*FAULTS):  # some processors cannot, nor can transformers before 5.24
                made = self._processed(sample, question, sanitize_control_tokens=True)
                wanted = self._processed(sample, "x")
                if self._control_in(made["input_ids"][0]) == self._control_in(wanted["input_ids"][0]):
                    return made
            return self._processed(sample, self._broken(question))
        except FAULTS as error:
            raise ExperimentError(
                f"model.native: the processor of {self.source} cannot read sample {sample.uid!r}: {reason(error)}"
            ) from error

    def _control_in(self, ids: Any) -> Counter[int]:
        """The control tokens among these ids."""
        return Counter(i for i in map(int, ids) if i in self._plain.control)

    def _broken(self, text: str) -> str:
        """The text with a space inside each control token; between all letters where that is not enough."""
        text = unicodedata.normalize("NFKC", text)
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        left = self._control_in(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return " ".join(text) if left else text

    def _processed(self, sample: Sample, question: str, **options: Any) -> dict[str, Tensor]:
        content: list[dict[str, Any]] = []
        for modality in self.family.towers:
            if modality in sample.modalities:
                raw = sample.modalities[modality]
                content.append(
                    {"type": modality, modality: _picture(raw) if modality == "image" else raw.numpy()}
                )
        held = list(content)
        if question or not content:
            content.append({"type": "text", "text": question})
        plain = not self.family.expands or (not held and not self.family.text_alone)
        if plain:
            content = [{k: v for k, v in part.items() if k in ("type", "text")} for part in content]
        reader = self.tokenizer if plain else self.processor
        if not options.keys() <= signature(reader.apply_chat_template).parameters.keys():
            raise TypeError(f"{type(reader).__name__} has no {', '.join(options)}")
        made = reader.apply_chat_template(
            [{"role": "user", "content": content}],
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

    def _text_tokens(self, made: Mapping[str, Tensor]) -> int:
        ids = made["input_ids"][0]
        return len(ids) - sum(int(ids.eq(p).sum()) for p in self.placeholders.values())

    def _sound_is_cut(self, sample: Sample) -> bool:
        longest = getattr(getattr(self.processor, "feature_extractor", None), "n_samples", None)
        sound = sample.modalities.get("audio")
        return sound is not None and longest is not None and self.family.expands and len(sound) > longest

    def _encode(self, answer: str) -> list[int]:
        """Lead, answer and stop. The answer is tokenised behind the prompt's last words, as the template writes it."""
        head, joined = self._ids(self._anchor), self._ids(self._anchor + self._lead + answer)
        own = joined[len(head) :] if joined[: len(head)] == head else self._ids(self._lead + answer)
        return [*own, self.stop]

    def _ids(self, text: str) -> list[int]:
        """Token ids of a text, none of them a control token."""
        return list(self._plain(text, add_special_tokens=False)["input_ids"])

    def _template(self) -> str:
        """The checkpoint's chat template, the family's, or a plain one; it begins with bos where the tokenizer adds one."""
        template = getattr(self.processor, "chat_template", None) or getattr(
            self.tokenizer, "chat_template", None
        )
        if isinstance(template, dict):
            template = template.get("default")
        template = template or self.family.template or _plain(self.processor, self.family)
        bos = self.tokenizer.bos_token
        adds = bos is not None and self.tokenizer("")["input_ids"][:1] == [self.tokenizer.bos_token_id]
        if adds and not self._rendered(template).startswith(bos):
            template = "{{ bos_token }}" + template
        return template

    def _rendered(self, template: str, answered: bool = False) -> str:
        messages = [{"role": "user", "content": [{"type": "text", "text": ASKED}]}]
        if answered:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": ANSWERED}]})
        text: str = self.tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=not answered, tokenize=False
        )
        return text

    def _answer_frame(self, stops: Sequence[int]) -> tuple[str, str, int]:
        """(the prompt's last words, what the template writes before the answer, the stop's token id)."""
        prompt, whole = self._rendered(self.template), self._rendered(self.template, answered=True)
        if not whole.startswith(prompt) or ANSWERED not in whole[len(prompt) :] or ASKED not in prompt:
            raise ExperimentError(
                f"model.native: the chat template of {self.source} does not continue its own generation prompt with the answer, "
                "so that the answer's tokens cannot be told; give the checkpoint a template that does"
            )
        lead, _, end = whole[len(prompt) :].partition(ANSWERED)
        anchor = prompt.rpartition(ASKED)[2]
        for token in self._special:
            anchor = anchor.rpartition(token)[2]
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if not str(t).isspace()} | set(
            stops
        )
        ending = self.tokenizer.encode(end, add_special_tokens=False)
        stop = next((i for i in ending if i in special), self.tokenizer.eos_token_id)
        if stop is None:
            raise ExperimentError(
                f"model.native: neither the chat template nor the tokenizer of {self.source} has a token that ends an answer"
            )
        return anchor, lead, int(stop)


def _plain(processor: Any, family: Family) -> str:
    """A template for checkpoints without one: media, question, a line break, answer and eos."""
    parts = "".join(
        f"{{% if c['type'] == '{m}' %}}{getattr(processor, f'{m}_token', '')}{{{{ '\\n' }}}}{{% endif %}}"
        for m in family.towers
    )
    return (
        "{% for m in messages %}{% for c in m['content'] %}"
        + parts
        + "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{{ eos_token if m['role'] == 'assistant' else '\n' }}{% endfor %}"
    )


def _placeholder(config: Any, modality: str) -> int | None:
    names = (n for n in PLACEHOLDERS if n.startswith(modality) and isinstance(getattr(config, n, None), int))
    return next((int(getattr(config, n)) for n in names), None)


def _picture(image: Tensor) -> Any:
    """A picture uint8 (3, H, W) as PIL's."""
    from PIL import Image

    return Image.fromarray(image.permute(1, 2, 0).numpy())
