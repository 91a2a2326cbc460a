"""The frozen LLM of a multimodal model, adapters switched off: an embedder for BERTScore and a judge for GPTScore."""

from collections.abc import Sequence
from typing import Any, cast

from peft import PeftModel
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.models.base import Trainable
from fedloom.models.mllm.mllm import MLLM
from fedloom.models.mllm.trainable import AdaptedMLLM, without_adapter
from fedloom.tasks.metrics import CausalEmbedder, Embedder, GPTScore, load_embedder

WORLD = "world"
"""The name of the foundation's own LLM in `evaluation.bertscore` and `evaluation.gptscore`."""


class FrozenEmbedder:
    """Token vectors of the LLM as it was before any adapter: the same for every method and round."""

    def __init__(self, mllm: MLLM) -> None:
        self._llm = mllm.llm
        base = cast(Any, mllm.llm)
        base = base.get_base_model() if isinstance(mllm.llm, PeftModel) else base
        self._inner = CausalEmbedder(base, mllm.tokenizer, "world-llm")

    @property
    def name(self) -> str:
        """The embedder's name in metric names and notes."""
        return self._inner.name

    def embed(self, texts: Sequence[str]) -> list[Tensor]:
        """(tokens, d) for each text."""
        with without_adapter(self._llm):
            return self._inner.embed(texts)


class FrozenJudge(GPTScore):
    """GPTScore by the LLM as it was before any adapter."""

    def __init__(self, mllm: MLLM) -> None:
        self._llm = mllm.llm
        base = cast(Any, mllm.llm)
        base = base.get_base_model() if isinstance(mllm.llm, PeftModel) else base
        super().__init__(base, mllm.tokenizer, "world-llm")

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Mean log-probability of each answer's tokens given its question."""
        with without_adapter(self._llm):
            return super().score(questions, answers)


def embedder_of(name: str, model: Trainable | None) -> Embedder | None:
    """The embedder that `evaluation.bertscore` names; None for `off`. Raises ExperimentError for `world` without an LLM."""
    if name == "off":
        return None
    return FrozenEmbedder(_mllm(model, "bertscore")) if name == WORLD else load_embedder(name)


def judge_of(name: str, model: Trainable | None) -> GPTScore | None:
    """The judge that `evaluation.gptscore` names; None for `off`. Raises ExperimentError for `world` without an LLM."""
    if name == "off":
        return None
    return FrozenJudge(_mllm(model, "gptscore")) if name == WORLD else GPTScore.load(name)


def _mllm(model: Trainable | None, setting: str) -> MLLM:
    if not isinstance(model, AdaptedMLLM):
        raise ExperimentError(
            f"evaluation.{setting}: world is the language model of a multimodal LLM, which this model has not; use off"
        )
    return model.mllm
