"""A classifier of pictures or sounds: a frozen encoder with LoRA on its trunk, and a linear head for the user's labels.

Groups: `body` (the adapters) and `head` (one linear layer on the encoder's pooled output).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream
from fedloom.data.sample import Sample, modality_of
from fedloom.models.base import PROMPT_STATES
from fedloom.models.batch_rows import RowMap
from fedloom.models.classifier import checkpoint as classifier_io
from fedloom.models.classifier.label_model import BODY, HEAD, LabelModel
from fedloom.models.encoders.encoder import HasPreprocessing
from fedloom.models.encoders.towers import TowerEncoder
from fedloom.models.lora.gradient_check import check_adapters
from fedloom.models.lora.layers import LoRA, adapted_layers, attach, dropouts, named_factors
from fedloom.models.lora.targets import described
from fedloom.models.mllm.media import MediaReading, is_cut
from fedloom.models.precision import in_precision, moved

KIND = "media classifier"
HEAD_STD = 0.02
"""Standard deviation of the head's initial weights."""


@dataclass(frozen=True)
class MediaExample:
    """A preprocessed picture or sound, its label's index, whether the sound was cut."""

    uid: str
    input: Tensor
    label: int
    truncated: bool


class MediaClassifier(LabelModel):
    """`encoder` is changed in place: the trunk of `modality` is wrapped by PEFT, its own weights are frozen."""

    def __init__(
        self,
        encoder: Any,
        modality: str,
        body_lora: LoRA,
        labels: Sequence[str],
        *,
        seed: int,
        second: bool = False,
        shipped: bool = False,
    ) -> None:
        """Adapt `encoder` (see `Encoder`); adapters and head start from `seed`, `second` adds a personal adapter to every layer.

        `shipped`: it is the package's own. Raises ExperimentError where a rank or target does not fit.
        """
        self.modality, self.labels, self.shipped = modality, tuple(labels), shipped
        self.encoder = encoder
        encoder.requires_grad_(False)
        trunk = encoder.trunks[modality]
        self.specs = body_lora.on({BODY: trunk})
        adapted = described(trunk, self.specs[BODY].names)
        self._body = encoder.trunks[modality] = attach(trunk, self.specs[BODY], BODY, seed, second)
        marker = "vera_lambda" if body_lora.kind == "vera" else "lora_"
        check_adapters(
            self._body, marker=marker, named=encoder.probe(modality, torch_stream(seed, "probe", BODY))
        )
        self.head = _fresh_head(encoder.widths[modality], len(labels), seed)
        self._root = nn.ModuleDict({"encoder": encoder, "head": self.head}).eval()
        self._root.to(next(encoder.parameters()).device)
        self._rows = RowMap([])
        self._dropouts = dropouts(self._body)
        # An ImageBind's own output has length 1; its head without norm, and a tower's mean, keep the length.
        self._pool = "mean" if isinstance(encoder, TowerEncoder) else "cls"
        named = {f"{BODY}/{n}": p for n, p in named_factors(self._body).items()}
        named |= {f"{HEAD}/{n}": p for n, p in self.head.named_parameters()}
        layers = {f"{BODY}/{place}": layer for place, layer in adapted_layers(self._body).items()}
        super().__init__(named, layers, {BODY: body_lora.scale()})
        self.notes = [f"adapted in {BODY}: {adapted}"]

    @property
    def root(self) -> nn.Module:
        """Encoder and head."""
        return self._root

    @property
    def rows(self) -> RowMap:
        """A row for every example."""
        return self._rows

    def dropout_in(self, groups: frozenset[str]) -> None:
        """LoRA dropout with the group body; everything else stays in eval mode."""
        for dropout in self._dropouts:
            dropout.training = BODY in groups

    def prepare(self, sample: Sample, client: str | None = None) -> MediaExample:
        """The encoder's input. Raises ExperimentError for anything but one picture or sound with a label of the model."""
        self._check(sample)
        return self.finish(sample, MediaReading(self.encoder)(sample))

    @cached_property
    def reading(self) -> MediaReading | None:
        """See `loading.prepared.ReadsFiles`."""
        return (
            MediaReading(self.encoder.preprocessing) if isinstance(self.encoder, HasPreprocessing) else None
        )

    def finish(self, sample: Sample, inputs: Mapping[str, Tensor]) -> MediaExample:
        """See `loading.prepared.ReadsFiles`."""
        self._check(sample)
        cut = is_cut(inputs, [self.modality])
        return MediaExample(sample.uid, inputs[self.modality], self.label_of(sample), cut)

    def _check(self, sample: Sample) -> None:
        if "labels" not in sample.meta or [*map(modality_of, sample.modalities)] != [self.modality]:
            raise ExperimentError(
                f"{sample.uid} holds {sample.kind}, and the classifier reads one input of the kind {self.modality} with a label"
            )

    def classify(self, raw: Tensor) -> dict[str, float]:
        """Every label's probability for a picture, uint8 (3, H, W), or a sound, float32 (T,) at 16 kHz; the likeliest first."""
        sample = Sample("asked", {self.modality: raw}, "", self.labels[0], {"labels": self.labels})
        return self.probabilities(self.prepare(sample))

    def positions(self, example: MediaExample) -> int:
        """Positions of one input in the encoder's trunk."""
        return int(self.encoder.positions(self.modality))

    @in_precision
    def logits(self, examples: Sequence[MediaExample]) -> Tensor:
        """(examples, labels)."""
        return self.head(self._encoded(examples))  # type: ignore[no-any-return]

    def _encoded(self, examples: Sequence[MediaExample]) -> Tensor:
        """(examples, width): the encoder's pooled output."""
        self._rows = RowMap(range(len(examples)))
        weight = next(self.encoder.parameters())
        batch = moved(torch.stack([e.input for e in examples]), weight.device)
        if batch.is_floating_point():
            batch = batch.to(weight.dtype)
        encoded: Tensor = self.encoder.encode(self.modality, batch, pool=self._pool, scale="native")
        return encoded.to(self.head.weight.dtype)

    @in_precision
    @torch.no_grad()
    def prompt_states(
        self, examples: Sequence[MediaExample], features: Sequence[Any] | None = None
    ) -> Tensor:
        """(B, d): the frozen encoder's output, which the head reads."""
        with self._body.disable_adapter():
            return self._encoded(examples)

    def save_adapters(self, folder: Path) -> None:
        """`body/` in PEFT's format for the encoder's trunk, `head.safetensors`, and `fedloom.json`, which lists them."""
        everything = self.exported()
        if self.own_prompts is not None:
            everything[PROMPT_STATES] = self.own_prompts
        listed = {"kind": KIND, "modality": self.modality, "labels": list(self.labels)}
        classifier_io.save(folder, everything, self.specs, self.layers, listed)


def _fresh_head(width: int, labels: int, seed: int) -> nn.Linear:
    """A linear layer with weights N(0, HEAD_STD^2) from the stream of `seed`, bias 0."""
    head = nn.Linear(width, labels)
    with torch.no_grad():
        weight = torch.randn(head.weight.shape, generator=torch_stream(seed, "classifier", "head", "media"))
        head.weight.copy_(HEAD_STD * weight)
        head.bias.zero_()
    return head
