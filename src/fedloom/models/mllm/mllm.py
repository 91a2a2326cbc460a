"""The multimodal LLM (UniFLoW Eq. 2-6): encoder -> projector -> soft tokens in the prompt of a causal LM.

Any encoder with the interface of `encoders.encoder` and any Hugging Face causal LM fit. The LLM may be wrapped by PEFT or have
layers replaced in place: it is only ever called with `inputs_embeds`.
"""

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloom.core.dtypes import at_least_float32
from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample, Turn, modality_of
from fedloom.models.batch_rows import RowMap
from fedloom.models.encoders.encoder import Encoder, HasPreprocessing, tower_of
from fedloom.models.mllm import checkpoint
from fedloom.models.mllm.chat import ChatFrame
from fedloom.models.mllm.config import MLLMConfig
from fedloom.models.mllm.layout import Layout, lay_out
from fedloom.models.mllm.media import MediaReading, is_cut
from fedloom.models.mllm.pieces import Pieces
from fedloom.models.mllm.projector import new_projector
from fedloom.models.mllm.prompt import assemble, sentences
from fedloom.models.output_layer import feed_contiguous
from fedloom.models.plain_tokenizer import PlainTokenizer
from fedloom.models.precision import arithmetic, moved, placed
from fedloom.models.weights import Weights

Features = Sequence[Mapping[str, Tensor]]
"""Per example: key of the medium -> (tokens, width), the encoder's output before the projector."""


@dataclass(frozen=True)
class MLLMExample:
    """A prepared sample: `inputs` preprocessed tensors by key without batch dimension, `pieces` token ids."""

    uid: str
    kind: str
    inputs: dict[str, Tensor]
    pieces: Pieces
    reference: str
    cut: bool = False
    """Whether the encoder does not read the end of an input."""

    @property
    def truncated(self) -> bool:
        """Whether text had to be cut to fit `max_text_tokens`, or an input to fit the encoder."""
        return self.pieces.truncated or self.cut


@dataclass(frozen=True)
class MLLMOutput:
    """`loss`: mean negative log-likelihood over the batch's answer tokens (stop included), Eq. 6.

    `logits` (N, V), `labels` (N,) int64 at the N answer tokens, `index` (N,): the example each belongs to.
    """

    loss: Tensor
    logits: Tensor
    labels: Tensor
    index: Tensor


class MLLM(nn.Module):
    """Encoder, projector and language model; build it with `assemble` or `from_pretrained`."""

    def __init__(
        self, encoder: Encoder, projector: nn.Module, llm: nn.Module, tokenizer: Any, config: MLLMConfig
    ) -> None:
        super().__init__()
        if config.prompt.stop == "eos" and tokenizer.eos_token_id is None:
            raise ExperimentError(
                "the tokenizer has no end-of-text token, which the stop eos needs; give model.stop a string"
            )
        self.encoder: Encoder = encoder
        self.projector, self.llm = projector, llm
        self.tokenizer, self.config = tokenizer, config
        feed_contiguous(llm)
        self.vocabulary: int = llm.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        for name in ("bos", "eos"):
            self._check_ids([getattr(tokenizer, f"{name}_token_id")], f"the {name} token")
        self.rows = RowMap([])
        """Maps rows of the current module's input to examples, for layers with a client axis."""
        self._plain = PlainTokenizer(tokenizer, sentences(config.prompt))
        self._seen: dict[tuple[str, bool], list[int]] = {}

    @classmethod
    def assemble(
        cls,
        encoder: Encoder,
        llm: nn.Module,
        tokenizer: Any,
        config: MLLMConfig | None = None,
        projector: nn.Module | None = None,
        seed: int = 0,
    ) -> "MLLM":
        """Join an encoder and a causal LM; without `projector`, one drawn from the stream of `seed`."""
        config = config or MLLMConfig()
        if projector is None:
            projector = new_projector(encoder, llm.get_input_embeddings().embedding_dim, config, seed)  # type: ignore[operator]
        return cls(encoder, projector, llm, tokenizer, config)

    @cached_property
    def reading(self) -> MediaReading | None:
        """The preprocessing of media for other processes; None where the encoder's cannot leave this one."""
        return (
            MediaReading(self.encoder.preprocessing) if isinstance(self.encoder, HasPreprocessing) else None
        )

    def prepare(self, sample: Sample) -> MLLMExample:
        """Preprocess and tokenise once; the result can be cached. Raises if the encoder lacks a modality."""
        self._check_media(sample)
        return self.finish(sample, MediaReading(self.encoder)(sample))

    def finish(self, sample: Sample, inputs: Mapping[str, Tensor]) -> MLLMExample:
        """The example of a sample whose media were preprocessed by `reading`."""
        self._check_media(sample)
        keys = [m.key for turn in sample.conversation for m in turn.media]
        own = {key: inputs[key] for key in keys}
        return MLLMExample(
            sample.uid, sample.kind, own, self.pieces(sample), sample.answer, is_cut(inputs, keys)
        )

    def _check_media(self, sample: Sample) -> None:
        held: Sequence[str] = self.encoder.reads
        for name in map(modality_of, sample.modalities):
            if name not in held:
                raise ExperimentError(
                    f"sample {sample.uid!r} has {name}, but the encoder holds only {', '.join(held)}; "
                    f"load the foundation with modalities including {name!r} or drop it from the data"
                )

    def pieces(self, sample: Sample) -> Pieces:
        """Token ids of a sample's prompt and answer; touches no raw input."""
        turns, combine = sample.conversation, self.config.combine
        if combine == "sum" and (several := _beyond_sum(turns)):
            raise ExperimentError(
                f"sample {sample.uid!r} {several}, and combine: sum adds one input of each modality in front of one question"
            )
        if self.config.prompt.frame == "chat":
            encode, stop, limit = (
                partial(self.encode, plain=True),
                self._stop_ids(),
                self.config.max_text_tokens,
            )
            try:
                return self.chat.pieces(encode, turns, stop=stop, limit=limit, combine=combine)
            except ExperimentError as error:
                raise ExperimentError(f"sample {sample.uid!r}: {error}") from error
        return assemble(
            self.config.prompt,
            self.encode,
            turns,
            bos=self.tokenizer.bos_token_id,
            eos=self.tokenizer.eos_token_id,
            limit=self.config.max_text_tokens,
            combine=combine,
            encode_text=partial(self.encode, plain=True),
        )

    @cached_property
    def chat(self) -> ChatFrame:
        """The tokenizer's chat template. Raises ExperimentError where it has none."""
        return ChatFrame.of(self.tokenizer)

    def _stop_ids(self) -> list[int]:
        """Token ids that end an answer in a chat: the template's own end of a turn, unless a stop is set."""
        stop = self.config.prompt.stop
        if stop != "eos":
            return self.encode(stop)
        return list(self.chat.stop) or [self.tokenizer.eos_token_id]

    def features(self, examples: Sequence[MLLMExample]) -> list[dict[str, Tensor]]:
        """Encoder outputs before P, per example {key: (tokens, width)}; one pass per modality and shape."""
        features: list[dict[str, Tensor]] = [{} for _ in examples]
        groups: dict[tuple[str, torch.Size], list[tuple[int, str]]] = defaultdict(list)
        for i, example in enumerate(examples):
            for key, value in example.inputs.items():
                groups[modality_of(key), value.shape].append((i, key))
        c, weight = self.config, next(self.encoder.parameters())
        for (name, _), members in sorted(groups.items()):  # an order independent of the batch's
            batch = moved(torch.stack([examples[i].inputs[key] for i, key in members]), weight.device)
            if batch.is_floating_point():
                batch = batch.to(weight.dtype)
            self.rows = RowMap([i for i, _ in members])
            with arithmetic(weight.device, weight.dtype):  # the LLM's precision may be another
                out = self.encoder.encode(name, batch, pool=c.pool, scale=c.scale, tokens=c.tokens)
            for (i, key), row in zip(members, out.reshape(len(members), c.tokens, -1), strict=True):
                features[i][key] = row
        return features

    def forward(
        self, examples: Sequence[MLLMExample], features: Features | None = None, *, earlier: bool = True
    ) -> MLLMOutput:
        """Teacher-forced pass over B examples; logits are computed at answer positions only.

        `earlier`: at all answers of a conversation, else at the last one.
        """
        pieces = [e.pieces for e in examples]
        plan = lay_out(pieces, self.config.tokens, answers=True, left=False, earlier=earlier)
        embeds = self._embed(plan, self.features(examples) if features is None else features)
        keep, column = torch.unique(plan.predict, return_inverse=True)
        if keeps_logits(self.llm):
            options = {"logits_to_keep": keep.to(embeds.device)}
        else:
            options, column = {}, plan.predict
        mask = moved(plan.mask, embeds.device)
        self.rows = RowMap(range(len(examples)), plan.mask.sum(1).tolist())
        out = self.llm(inputs_embeds=embeds, attention_mask=mask, use_cache=False, **options)
        logits = out.logits[plan.rows, column]
        labels = moved(plan.labels, logits.device)
        loss = cross_entropy(at_least_float32(logits), labels)
        return MLLMOutput(loss, logits, labels, plan.rows.to(logits.device))

    @torch.no_grad()
    def generate(
        self, examples: Sequence[MLLMExample], max_new_tokens: int = 32, features: Features | None = None
    ) -> list[str]:
        """Greedy answers, decoded and stripped; every module runs in eval mode and gets its own mode back."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            plan = lay_out([e.pieces for e in examples], self.config.tokens, answers=False, left=True)
            embeds = self._embed(plan, self.features(examples) if features is None else features)
            self.rows = RowMap(range(len(examples)))
            ids = self._greedy(embeds, plan.mask.to(embeds.device), max_new_tokens)
        finally:
            for module, mode in modes:
                module.training = mode
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        stop = self.config.prompt.stop
        return [(text if stop == "eos" else text.split(stop)[0]).strip() for text in texts]

    @torch.no_grad()
    def prompt_states(self, examples: Sequence[MLLMExample], features: Features | None = None) -> Tensor:
        """(B, d_llm): the LLM's last hidden layer at the last token of each prompt."""
        plan = lay_out([e.pieces for e in examples], self.config.tokens, answers=False, left=True)
        embeds = self._embed(plan, self.features(examples) if features is None else features)
        out = self.llm(
            inputs_embeds=embeds,
            attention_mask=plan.mask.to(embeds.device),
            use_cache=False,
            output_hidden_states=True,
        )
        states: Tensor = out.hidden_states[-1][:, -1]
        return states

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write encoder/, llm/ (with the tokenizer), projector.safetensors, mllm.json; see `checkpoint.save`."""
        checkpoint.save(self, Path(folder), dtype)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        modalities: Sequence[str] | None = None,
        weights: Weights | None = None,
    ) -> "MLLM":
        """Read a folder of `save_pretrained`, in float32 on the CPU unless `weights`, only `modalities` if given."""
        return checkpoint.load(cls, Path(folder), modalities, weights or Weights())

    @property
    def device(self) -> torch.device:
        """Device of the projector."""
        return next(self.projector.parameters()).device

    def project(self, name: str, value: Tensor) -> Tensor:
        """Soft tokens X = P z (Eq. 3) of one modality: (..., width) to (..., d_llm)."""
        layer = (
            self.projector[tower_of(name)] if isinstance(self.projector, nn.ModuleDict) else self.projector
        )
        weight = next(layer.parameters())
        return layer(value.to(weight))  # type: ignore[no-any-return]

    def encode(self, text: str, plain: bool = False) -> list[int]:
        """Token ids, `plain` without special ones; cached: most pieces of a prompt recur and a tokenizer's call is slow."""
        if (text, plain) not in self._seen:
            if len(self._seen) >= 4096:
                self._seen.clear()
            tokenizer = self._plain if plain else self.tokenizer
            ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            self._check_ids(ids, repr(text[:40]))
            self._seen[text, plain] = ids
        return self._seen[text, plain]

    def _check_ids(self, ids: Sequence[int | None], text: str) -> None:
        """Raise ExperimentError for an id that the LLM has no embedding for."""
        if beyond := [i for i in ids if i is not None and i >= self.vocabulary]:
            raise ExperimentError(
                f"the tokenizer gives {text} the id {beyond[0]}, and the LLM has {self.vocabulary} embeddings; take the "
                "tokenizer that belongs to the model"
            )

    def _embed(self, plan: Layout, features: Features) -> Tensor:
        """Embeddings (B, L, d_llm) of a layout, soft tokens in place."""
        table = self.llm.get_input_embeddings()  # type: ignore[operator]
        embeds: Tensor = table(moved(plan.ids, self.device))
        if not plan.slots:
            return embeds
        slots_of: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for slot, (_, keys) in enumerate(plan.slots):
            for key in keys.split("+"):
                slots_of[modality_of(key)].append((slot, key))
        soft = embeds.new_zeros(len(plan.slots), self.config.tokens, embeds.shape[-1])
        for name, filled in sorted(slots_of.items()):
            slots = [slot for slot, _ in filled]
            encoded = torch.stack([features[plan.slots[slot][0]][key] for slot, key in filled])
            encoded = moved(encoded, self.device)
            self.rows = RowMap([plan.slots[s][0] for s in slots])
            value = self.project(name, encoded).to(embeds.dtype)
            soft = soft.index_add(0, placed(slots, soft.device), value)
        where = (moved(plan.soft_rows, soft.device), moved(plan.soft_cols, soft.device))
        return embeds.index_put(where, soft.flatten(0, 1))

    def _greedy(self, embeds: Tensor, mask: Tensor, max_new_tokens: int) -> Tensor:
        """New token ids (B, at most max_new_tokens) by Hugging Face's own greedy search."""
        from transformers import GenerationConfig

        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        stop = self.config.prompt.stop
        ends = [] if eos is None else [eos]
        if stop == "eos" and self.config.prompt.frame == "chat":
            ends += [i for i in self._stop_ids()[-1:] if i != eos]
        # A fresh configuration: the checkpoint's own may ask for sampling.
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=ends or None,
            pad_token_id=eos if pad is None else pad,
            stop_strings=None if stop == "eos" else [stop],
        )
        ids: Tensor = self.llm.generate(  # type: ignore[operator]
            inputs_embeds=embeds, attention_mask=mask, generation_config=settings, tokenizer=self.tokenizer
        )
        return ids


def keeps_logits(llm: nn.Module) -> bool:
    """Whether the language model (under PEFT or not) can compute logits at some positions only."""
    base = llm.get_base_model() if hasattr(llm, "get_base_model") else llm  # type: ignore[operator]
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def _beyond_sum(turns: Sequence[Turn]) -> str | None:
    """A clause on why the media of these turns cannot be summed, or None."""
    if len(turns) > 2:
        return "has several turns"
    modalities = [m.modality for m in turns[0].media]
    if len(set(modalities)) < len(modalities):
        return f"has several inputs of one modality ({', '.join(modalities)})"
    placed = [isinstance(part, str) for part in turns[0].parts]
    return "has a medium behind words" if placed != sorted(placed) else None
