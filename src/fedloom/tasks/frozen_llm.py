"""The frozen LLM of a multimodal model, adapters switched off: an embedder for BERTScore and a judge for GPTScore."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.models.base import Trainable
from fedloom.tasks.metrics import CausalEmbedder, Embedder, GPTScore, load_embedder

if TYPE_CHECKING:
    from fedloom.models.mllm.mllm import MLLM

WORLD = "world"
"""Name of the foundation's own LLM in `evaluation.bertscore` and `evaluation.gptscore`."""


class FrozenEmbedder:
    """Token vectors of the LLM without adapters: the same for every method and round."""

    def __init__(self, mllm: "MLLM") -> None:
        self._llm = mllm.llm
        self._inner = CausalEmbedder(_base(mllm), mllm.tokenizer, "world-llm")

    @property
    def name(self) -> str:
        """The embedder's name in metric names and notes."""
        return self._inner.name

    def embed(self, texts: Sequence[str]) -> list[Tensor]:
        """(tokens, d) for each text."""
        with _without_adapter(self._llm):
            return self._inner.embed(texts)


class FrozenJudge(GPTScore):
    """GPTScore by the LLM without adapters."""

    def __init__(self, mllm: "MLLM") -> None:
        self._llm = mllm.llm
        super().__init__(_base(mllm), mllm.tokenizer, "world-llm")

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Mean log-probability of each answer's tokens given its question."""
        with _without_adapter(self._llm):
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


def _base(mllm: "MLLM") -> Any:
    """The LLM inside its adapters."""
    llm: Any = mllm.llm
    return llm.get_base_model() if hasattr(llm, "get_base_model") else llm


def _without_adapter(llm: Any) -> AbstractContextManager[Any]:
    from fedloom.models.mllm.trainable import without_adapter

    return without_adapter(llm)


def _mllm(model: Trainable | None, setting: str) -> "MLLM":
    from fedloom.models.mllm.trainable import AdaptedMLLM

    if not isinstance(model, AdaptedMLLM):
        raise ExperimentError(
            f"evaluation.{setting}: world is the language model of a multimodal LLM, which this model has not; use off"
        )
    return model.mllm
