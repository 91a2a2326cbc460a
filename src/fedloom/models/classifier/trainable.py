"""A Hugging Face sequence classifier with LoRA on its body and a trained head: the model of federated text classification.

Groups: `body` (the adapters) and `head` (every parameter outside the base model; RoBERTa's `classifier.dense` and
`classifier.out_proj`). The head stands once: PEFT wraps the base model alone and so makes no second copy of it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_logging import quiet_hf
from fedloom.data.sample import Sample
from fedloom.models.base import PROMPT_STATES
from fedloom.models.batch_rows import RowMap
from fedloom.models.classifier import checkpoint as classifier_io
from fedloom.models.classifier.label_model import BODY, HEAD, LabelModel
from fedloom.models.lora.layers import LoRA, adapted_layers, attach, dropouts, named_factors
from fedloom.models.lora.targets import described
from fedloom.models.merged import SHARD, merge
from fedloom.models.plain_tokenizer import PlainTokenizer
from fedloom.models.precision import in_precision, placed
from fedloom.models.unread_words import unread_share


@dataclass(frozen=True)
class TextExample:
    """A tokenised text: the tokenizer's outputs by name, the label's index, whether the text was cut."""

    uid: str
    inputs: dict[str, list[int]]
    label: int
    truncated: bool


class AdaptedClassifier(LabelModel):
    """`model` is changed in place: its base model is wrapped by PEFT, its own weights are frozen."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        body_lora: LoRA,
        labels: Sequence[str],
        *,
        seed: int,
        max_length: int = 128,
        second: bool = False,
    ) -> None:
        """Adapt `model`, a sequence classifier whose outputs are `labels` in this order; adapters start from `seed`.

        `second` adds a personal adapter to every layer. Raises ExperimentError where a rank or target does not
        fit, where the label counts differ, or where the tokenizer has no padding token.
        """
        if model.config.num_labels != len(labels):
            raise ExperimentError(
                f"the classifier has {model.config.num_labels} outputs and the task {len(labels)} labels; "
                "load it with the task's number"
            )
        if tokenizer.pad_token_id is None:
            raise ExperimentError(
                "model.classifier: its tokenizer has no padding token; choose another model"
            )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        model.requires_grad_(False)
        model.eval()
        self.model, self.tokenizer, self.labels = model, tokenizer, tuple(labels)
        self._plain = PlainTokenizer(tokenizer)
        self.max_length = min(max_length, tokenizer.model_max_length)
        self.prefix: str = model.base_model_prefix
        body = getattr(model, self.prefix)
        self.specs = body_lora.on({BODY: body}, "query and value")
        adapted = described(body, self.specs[BODY].names)
        self._body = attach(body, self.specs[BODY], BODY, seed, second)
        setattr(model, self.prefix, self._body)
        self._rows = RowMap([])
        self._head = {n: m for n, m in model.named_children() if n != self.prefix}
        model.eval()
        heads = [m for part in self._head.values() for m in part.modules()]
        self._dropouts: dict[str, list[nn.Module]] = {
            BODY: dropouts(self._body),
            HEAD: [m for m in heads if isinstance(m, nn.Dropout)],
        }
        named = {f"{BODY}/{n}": p for n, p in named_factors(self._body).items()}
        for name, module in self._head.items():
            named.update({f"{HEAD}/{name}.{n}": p for n, p in module.named_parameters()})
        layers = {f"{BODY}/{place}": layer for place, layer in adapted_layers(self._body).items()}
        super().__init__(named, layers, {BODY: body_lora.scale()})
        self.notes = [f"adapted in {BODY}: {adapted}"]

    @property
    def root(self) -> nn.Module:
        """The classifier."""
        return self.model  # type: ignore[no-any-return]

    @property
    def rows(self) -> RowMap:
        """A row for every example."""
        return self._rows

    def dropout_in(self, groups: frozenset[str]) -> None:
        """LoRA dropout with the group body, the head's own with the group head; everything else stays in eval mode."""
        for group, modules in self._dropouts.items():
            for dropout in modules:
                dropout.training = group in groups

    def prepare(self, sample: Sample, client: str | None = None) -> TextExample:
        """Token ids of the text, or of the pair, by the model's own tokenizer; cut to `max_length` tokens.

        Raises ExperimentError for a sample with media or without a label, or with other labels than the model's.
        """
        labels, pair = sample.meta.get("labels"), sample.meta.get("pair")
        if sample.modalities or labels is None:
            raise ExperimentError(
                f"{sample.uid} is no labelled text; a classifier needs data.source text, and this sample is for an MLLM"
            )
        label = self.label_of(sample)
        whole = self._plain(sample.question, pair, verbose=False)
        truncated = len(whole["input_ids"]) > self.max_length
        if truncated:
            whole = self._plain(sample.question, pair, truncation=True, max_length=self.max_length)
        return TextExample(sample.uid, dict(whole), label, truncated)

    def classify(self, text: str, pair: str | None = None) -> dict[str, float]:
        """Every label's probability for a text, or a pair of texts, the likeliest first."""
        meta = {"labels": self.labels, "pair": pair}
        return self.probabilities(self.prepare(Sample("asked", {}, text, self.labels[0], meta)))

    def unread_share(self, texts: Collection[str]) -> float:
        """Share of the texts' words of three letters or more that the tokenizer does not know; see `unread_words`."""
        return unread_share(
            texts, lambda text: self._plain(text, add_special_tokens=False)["input_ids"], self.tokenizer
        )

    def positions(self, example: TextExample) -> int:
        """The tokens of the text."""
        return len(example.inputs["input_ids"])

    @in_precision
    def logits(self, examples: Sequence[TextExample]) -> Tensor:
        """(examples, labels)."""
        self._rows = RowMap(range(len(examples)), [len(e.inputs["input_ids"]) for e in examples])
        return self.model(**self._batch(examples)).logits  # type: ignore[no-any-return]

    def _batch(self, examples: Sequence[TextExample]) -> dict[str, Tensor]:
        """(examples, tokens) for each input, padded on the right to the longest example."""
        longest = max(len(e.inputs["input_ids"]) for e in examples)
        device = next(iter(self.tensors.values())).device
        fill = {"input_ids": self.tokenizer.pad_token_id}
        return {
            name: placed(
                [e.inputs[name] + [fill.get(name, 0)] * (longest - len(e.inputs[name])) for e in examples],
                device,
            )
            for name in examples[0].inputs
        }

    @in_precision
    @torch.no_grad()
    def prompt_states(self, examples: Sequence[TextExample], features: Sequence[Any] | None = None) -> Tensor:
        """(B, d): the frozen body's last state at the first token, which RoBERTa's head reads."""
        with self._body.disable_adapter():
            return self._body(**self._batch(examples)).last_hidden_state[:, 0]  # type: ignore[no-any-return]

    def save_adapters(self, folder: Path) -> None:
        """`body/` in PEFT's format (task SEQ_CLS), `head.safetensors`, and `fedloom.json`, which lists them."""
        everything = self.exported()
        if self.own_prompts is not None:
            everything[PROMPT_STATES] = self.own_prompts
        listed = {"kind": "classifier", "labels": list(self.labels), "base_model_prefix": self.prefix}
        classifier_io.save(folder, everything, self.specs, self.layers, listed)

    def save_merged(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> None:
        """The whole classifier with its tokenizer, as its class of transformers loads it. See Trainable."""
        merge(self)
        setattr(self.model, self.prefix, self._body.unload())
        with quiet_hf():
            self.model.to(dtypes[""]).save_pretrained(folder, max_shard_size=SHARD)
        self.tokenizer.save_pretrained(folder)
