"""A multimodal LLM with LoRA on every trunk and on the LLM, and with a trainable projector: UniFLoW's model.

Groups: `encoder.<modality>` (one per trunk), `llm`, `projector` (or `projector.<modality>`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedloom.adapters import lora
from fedloom.adapters.guard import check_adapters
from fedloom.adapters.lora import LoRA
from fedloom.data.sample import Sample
from fedloom.exchange import group_of
from fedloom.foundations.mllm import MLLM, Example
from fedloom.metrics import CausalEmbedder, Embedder
from fedloom.metrics.tokens import count_tokens
from fedloom.model import AdaptedModel
from fedloom.streams import torch_stream


class AdaptedMLLM(AdaptedModel):
    """`mllm` is changed in place: its trunks and LLM are wrapped by PEFT, its own weights are frozen."""

    def __init__(self, mllm: MLLM, llm_lora: LoRA, encoder_lora: LoRA, *, seed: int) -> None:
        """Adapters start from the stream of `seed`. Raises ExperimentError where a rank or target does not fit."""
        mllm.requires_grad_(False)
        mllm.eval()
        self.mllm = mllm
        self.specs: dict[str, LoRA] = {"llm": llm_lora}
        self._wrapped: dict[str, nn.Module] = {}
        encoder: Any = mllm.encoder
        trunks = encoder.trunks
        for modality in encoder.modalities:
            group = f"encoder.{modality}"
            self.specs[group] = encoder_lora
            trunks[modality] = self._wrapped[group] = lora.attach(trunks[modality], encoder_lora, group, seed)
            width = encoder.config.modalities[modality].embed_dim
            probe = torch.randn(1, 3, width, generator=torch_stream(seed, "probe", group))
            check_adapters(trunks[modality], probe.to(mllm.device))
        mllm.llm = self._wrapped["llm"] = lora.attach(mllm.llm, llm_lora, "llm", seed)
        named = {
            f"{group}/{name}": parameter
            for group, module in self._wrapped.items()
            for name, parameter in lora.named_factors(module).items()
        }
        self._projector_groups: list[str] = []
        if isinstance(mllm.projector, nn.ModuleDict):
            parts = {f"projector.{m}": module for m, module in mllm.projector.items()}
        else:
            parts = {"projector": mllm.projector}
        for group, module in parts.items():
            self._projector_groups.append(group)
            named.update({f"{group}/{n}": p for n, p in module.named_parameters()})
        super().__init__(named)

    def dropout_in(self, groups: frozenset[str]) -> None:
        """LoRA dropout in these groups only; everything else in eval mode."""
        self.mllm.eval()
        for group, module in self._wrapped.items():
            for name, child in module.named_modules():
                if "lora_dropout" in name:
                    child.training = group in groups

    def groups(self, holds: Sequence[str]) -> frozenset[str]:
        """The LLM for everybody; a trunk's adapter and the projector for those who hold the modality."""
        held = {f"encoder.{m}" for m in holds}
        projectors = {
            g
            for g in self._projector_groups
            if (g == "projector" and holds) or g.removeprefix("projector.") in holds
        }
        return frozenset({"llm"} | held | projectors)

    def prepare(self, sample: Sample) -> Example:
        """Preprocessed inputs and token ids."""
        return self.mllm.prepare(sample)

    @torch.no_grad()
    def features(self, examples: Sequence[Example]) -> list[dict[str, Tensor]]:
        """Per example {modality: (tokens, out_dim)}, before the projector."""
        return self.mllm.features(examples)

    def loss(
        self, examples: Sequence[Example], features: Sequence[dict[str, Tensor]] | None = None
    ) -> Tensor:
        """Mean negative log-likelihood of the batch's answer tokens (Eq. 6)."""
        return self.mllm(examples, features).loss  # type: ignore[no-any-return]

    @torch.no_grad()
    def score(
        self, examples: Sequence[Example], features: Sequence[dict[str, Tensor]] | None = None
    ) -> list[tuple[int, int]]:
        """Answer tokens (the stop included) and correct ones, teacher forced."""
        out = self.mllm(examples, features)
        tokens, correct = count_tokens(out.logits.argmax(-1), out.labels, out.index, len(examples))
        return list(zip(tokens.tolist(), correct.tolist(), strict=True))

    def generate(
        self,
        examples: Sequence[Example],
        max_new_tokens: int,
        features: Sequence[dict[str, Tensor]] | None = None,
    ) -> list[str]:
        """Greedy answers."""
        return self.mllm.generate(examples, max_new_tokens, features)

    def embedder(self) -> Embedder:
        """The frozen LLM's hidden states, adapters switched off: the same for every method and round."""
        return _FrozenStates(self.mllm)

    def save_adapters(self, folder: Path) -> None:
        """`<group>/` in PEFT's format for each adapter, `projector.safetensors`, and `fedloom.json`, which lists them."""
        folder.mkdir(parents=True, exist_ok=True)
        for group, spec in self.specs.items():
            prefix = f"{group}/"
            factors = {n.removeprefix(prefix): p for n, p in self.tensors.items() if n.startswith(prefix)}
            lora.save(folder / group, factors, spec, None, "CAUSAL_LM" if group == "llm" else None)
        projector = {
            n: p.detach().cpu().contiguous()
            for n, p in self.tensors.items()
            if group_of(n) in self._projector_groups
        }
        save_file(projector, folder / "projector.safetensors")
        listed = {"format": 1, "adapters": sorted(self.specs), "projector": "projector.safetensors"}
        (folder / "fedloom.json").write_text(
            json.dumps(listed, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )

    @staticmethod
    def listed(folder: Path) -> list[str]:
        """The groups whose adapters a folder of `save_adapters` holds."""
        return list(json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))["adapters"])

    @staticmethod
    def read_adapters(folder: Path) -> dict[str, Tensor]:
        """The tensors that `save_adapters` wrote, by their travelling names."""
        from safetensors.torch import load_file

        listed = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / listed["projector"])
        for group in listed["adapters"]:
            for name, tensor in load_file(folder / group / "adapter_model.safetensors").items():
                tensors[f"{group}/{lora.place(name)}"] = tensor
        return tensors


class _FrozenStates:
    """CausalEmbedder over the LLM as it was before any adapter."""

    def __init__(self, mllm: MLLM) -> None:
        self._peft = cast(Any, mllm.llm)
        self._inner = CausalEmbedder(self._peft.get_base_model(), mllm.tokenizer, "world-llm")

    @property
    def name(self) -> str:
        return self._inner.name

    def embed(self, texts: Sequence[str]) -> list[Tensor]:
        with self._peft.disable_adapter():
            return self._inner.embed(texts)
