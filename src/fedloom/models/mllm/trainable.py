"""A multimodal LLM with LoRA on every trunk and on the LLM, and with a trainable projector: UniFLoW's model.

Groups: `encoder.<modality>` (one per trunk), `llm`, `projector` (or `projector.<modality>`).
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloom.core.dtypes import at_least_float32
from fedloom.core.payload import group_of
from fedloom.core.streams import torch_stream
from fedloom.data.sample import Sample, modality_of
from fedloom.models.adapter_folder import (
    read_groups,
    read_listing,
    read_prompts,
    save_groups,
    save_prompts,
    write_listing,
)
from fedloom.models.base import Trainable, means
from fedloom.models.batch_rows import RowMap
from fedloom.models.encoders.encoder import tower_of
from fedloom.models.lora.gradient_check import check_adapters
from fedloom.models.lora.layers import LoRA, adapted_layers, attach, dropouts, named_factors
from fedloom.models.lora.targets import described
from fedloom.models.merged import merge
from fedloom.models.mllm import checkpoint
from fedloom.models.mllm.layout import length_of
from fedloom.models.mllm.media import MediaReading
from fedloom.models.mllm.mllm import MLLM, MLLMExample
from fedloom.models.mllm.token_counts import count_tokens
from fedloom.models.precision import in_precision, placed
from fedloom.models.shared_features import Prefix
from fedloom.models.unread_words import unread_share


class AdaptedMLLM(Trainable):
    """`mllm` is changed in place: its trunks and LLM are wrapped by PEFT, its own weights are frozen."""

    def __init__(
        self, mllm: MLLM, llm_lora: LoRA | None, encoder_lora: LoRA | None, *, seed: int, second: bool = False
    ) -> None:
        """Adapters start from the stream of `seed`; None attaches none; `second` adds a personal one to every layer.

        Raises ExperimentError where a rank or target does not fit.
        """
        mllm.requires_grad_(False)
        mllm.eval()
        self.mllm = mllm
        self.specs: dict[str, LoRA] = {}
        self._wrapped: dict[str, PeftModel] = {}
        encoder, trunks, adapted = mllm.encoder, mllm.encoder.trunks, []
        if encoder_lora is not None:
            modules = {f"encoder.{m}": trunks[m] for m in encoder.modalities}
            self.specs = encoder_lora.on(modules)
        for group, spec in self.specs.items():
            modality = group.removeprefix("encoder.")
            adapted.append(f"{group}: {described(trunks[modality], spec.names)}")
            trunks[modality] = self._wrapped[group] = attach(trunks[modality], spec, group, seed, second)
            marker = "vera_lambda" if spec.kind == "vera" else "lora_"
            probe = encoder.probe(modality, torch_stream(seed, "probe", group))
            check_adapters(trunks[modality], marker=marker, named=probe)
        if llm_lora is not None:
            spec = llm_lora.on({"llm": mllm.llm})["llm"]
            self.specs = {"llm": spec, **self.specs}
            adapted.insert(0, f"llm: {described(mllm.llm, spec.names)}")
            mllm.llm = self._wrapped["llm"] = attach(mllm.llm, spec, "llm", seed, second)
        mllm.eval()
        self._dropouts = {group: dropouts(module) for group, module in self._wrapped.items()}
        named = {
            f"{group}/{name}": parameter
            for group, module in self._wrapped.items()
            for name, parameter in named_factors(module).items()
        }
        self._projector_groups: list[str] = []
        if isinstance(mllm.projector, nn.ModuleDict):
            parts = {f"projector.{m}": module for m, module in mllm.projector.items()}
        else:
            parts = {"projector": mllm.projector}
        for group, module in parts.items():
            self._projector_groups.append(group)
            named.update({f"{group}/{n}": p for n, p in module.named_parameters()})
        layers = {
            f"{group}/{place}": layer
            for group, module in self._wrapped.items()
            for place, layer in adapted_layers(module).items()
        }
        super().__init__(named, layers, {group: spec.scale() for group, spec in self.specs.items()})
        self.notes = [f"adapted in {line}" for line in adapted]

    @property
    def root(self) -> nn.Module:
        """The MLLM."""
        return self.mllm

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The LLM and the trunk of each modality."""
        trunks = self.mllm.encoder.trunks
        return {"the LLM": self.mllm.llm, **{f"the {m} encoder": trunks[m] for m in trunks}}

    @property
    def rows(self) -> RowMap:
        """Maps rows of the current encoder, projector or LLM input to examples."""
        return self.mllm.rows

    def dropout_in(self, groups: frozenset[str]) -> None:
        """LoRA dropout in these groups only; everything else stays in eval mode."""
        for group, modules in self._dropouts.items():
            for dropout in modules:
                dropout.training = group in groups

    def groups(self, holds: Sequence[str], client: str | None = None) -> frozenset[str]:
        """The LLM for all clients; a trunk's adapter and the projector for clients with a modality that it reads."""
        towers = {tower_of(m) for m in holds}
        held = {f"encoder.{m}" for m in towers}
        projectors = {
            g
            for g in self._projector_groups
            if (g == "projector" and holds) or g.removeprefix("projector.") in towers
        }
        return frozenset({"llm"} | held | projectors)

    def prepare(self, sample: Sample, client: str | None = None) -> MLLMExample:
        """Preprocessed inputs and token ids."""
        return self.mllm.prepare(sample)

    @property
    def reading(self) -> MediaReading | None:
        """See `loading.prepared.ReadsFiles`."""
        return self.mllm.reading

    def finish(self, sample: Sample, inputs: Mapping[str, Tensor]) -> MLLMExample:
        """See `loading.prepared.ReadsFiles`."""
        return self.mllm.finish(sample, inputs)

    def with_answer(self, example: MLLMExample, sample: Sample) -> MLLMExample:
        """The example with the answer of `sample` in place of its own; inputs and question stay."""
        pieces = replace(example.pieces, answer=self.mllm.pieces(sample).answer)
        return replace(example, pieces=pieces, reference=sample.answer)

    def unread_share(self, texts: Collection[str]) -> float:
        """Share of the texts' words of three letters or more that the tokenizer does not know: it needs a token for two bytes."""
        return unread_share(texts, lambda text: self.mllm.encode(text, plain=True), self.mllm.tokenizer)

    def positions(self, example: MLLMExample) -> int:
        """Positions of the prompt with its answer, plus tokens of each input in its trunk."""
        trunks = sum(self.mllm.encoder.positions(modality_of(key)) for key in example.inputs)
        return length_of(example.pieces, self.mllm.config.tokens) + trunks

    def weight(self, example: MLLMExample) -> int:
        """Tokens of all answers, stops included."""
        return example.pieces.trained_tokens

    @property
    def frozen_prefix(self) -> Prefix | None:
        """The encoder, with what it does to prepared inputs, and its pooling; None for an encoder that does not tell."""
        c, reading = self.mllm.config, self.mllm.reading
        if reading is None:
            return None
        settings = ("encoder", reading.settings, c.pool, c.scale, c.tokens, str(self.precision))
        encoder = cast(nn.Module, self.mllm.encoder)
        return Prefix([encoder], settings, lambda example: example.inputs)

    @in_precision
    @torch.no_grad()
    def features(self, examples: Sequence[MLLMExample]) -> list[dict[str, Tensor]]:
        """Per example {key of the medium: (tokens, width)}, before the projector."""
        return self.mllm.features(examples)

    @in_precision
    def loss(
        self, examples: Sequence[MLLMExample], features: Sequence[dict[str, Tensor]] | None = None
    ) -> Tensor:
        """Mean negative log-likelihood of the batch's answer tokens (Eq. 6)."""
        return self.mllm(examples, features).loss  # type: ignore[no-any-return]

    @in_precision
    def losses(
        self,
        examples: Sequence[MLLMExample],
        owners: Sequence[int],
        count: int,
        features: Sequence[dict[str, Tensor]] | None = None,
    ) -> Tensor:
        """Mean negative log-likelihood of each owner's answer tokens, those of earlier answers too."""
        out = self.mllm(examples, features)
        logits = at_least_float32(out.logits)
        owner = placed(owners, logits.device)[out.index]
        return means(cross_entropy(logits, out.labels, reduction="none"), owner, count)

    @in_precision
    @torch.no_grad()
    def score(
        self, examples: Sequence[MLLMExample], features: Sequence[dict[str, Tensor]] | None = None
    ) -> list[tuple[int, int]]:
        """Tokens of the last answer (the stop included) and correct ones, teacher forced."""
        with self.mixed_by_prompts("llm", examples, features):
            out = self.mllm(examples, features, earlier=False)
        tokens, correct = count_tokens(out.logits.argmax(-1), out.labels, out.index, len(examples))
        return list(zip(tokens.tolist(), correct.tolist(), strict=True))

    @in_precision
    def generate(
        self,
        examples: Sequence[MLLMExample],
        max_new_tokens: int,
        features: Sequence[dict[str, Tensor]] | None = None,
    ) -> list[str]:
        """Greedy answers."""
        with self.mixed_by_prompts("llm", examples, features):
            return self.mllm.generate(examples, max_new_tokens, features)

    @in_precision
    @torch.no_grad()
    def prompt_states(
        self, examples: Sequence[MLLMExample], features: Sequence[dict[str, Tensor]] | None = None
    ) -> Tensor:
        """(B, d_llm): the LLM's last layer at the prompt's last token, the LLM's adapters switched off."""
        with without_adapter(self.mllm.llm):
            return self.mllm.prompt_states(examples, features)

    def save_adapters(self, folder: Path) -> None:
        """`<group>/` in PEFT's format for each adapter, `projector.safetensors`, and `fedloom.json`, which lists them."""
        folder.mkdir(parents=True, exist_ok=True)
        save_groups(folder, self.exported(), self.specs, self.layers, tasks={"llm": "CAUSAL_LM"})
        save_prompts(folder, self.own_prompts)
        projector = {
            n: p.detach().cpu().contiguous()
            for n, p in self.tensors.items()
            if group_of(n) in self._projector_groups
        }
        save_file(projector, folder / checkpoint.PROJECTOR)
        listed = {"adapters": sorted(self.specs), "projector": checkpoint.PROJECTOR}
        write_listing(folder, listed | {"modalities": list(self.mllm.encoder.modalities)})

    def save_merged(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> None:
        """A folder of a foundation, with the plain causal LM in `llm/`; the projector stays in float32. See Trainable."""
        merge(self)
        mllm, trunks = self.mllm, self.mllm.encoder.trunks
        for group, wrapped in self._wrapped.items():
            if group == "llm":
                mllm.llm = wrapped.unload()
            else:
                trunks[group.removeprefix("encoder.")] = wrapped.unload()
        mllm.llm.to(dtypes["llm"])
        encoder = [dtype for part, dtype in dtypes.items() if part.startswith("encoder")]
        mllm.encoder.to(encoder[0])
        for modality in mllm.encoder.modalities:
            trunks[modality].to(dtypes.get(f"encoder.{modality}", encoder[0]))
        checkpoint.save(mllm, folder)

    @staticmethod
    def read_adapters(folder: Path) -> dict[str, Tensor]:
        """The tensors that `save_adapters` wrote, by their travelling names."""
        listed = read_listing(folder)
        projector = load_file(folder / listed["projector"])
        return {**projector, **read_groups(folder, listed["adapters"]), **read_prompts(folder)}


def without_adapter(llm: nn.Module) -> AbstractContextManager[Any]:
    """Context in which the LLM's adapters are disabled."""
    return llm.disable_adapter() if isinstance(llm, PeftModel) else nullcontext()
