"""GPTScore (Fu et al. 2023): mean log-probability of an answer's tokens given the question, by a named language model.

In nats, at most 0; not the judgement on a scale of 0 to 100 for which some papers use this name.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.plain_tokenizer import PlainTokenizer
from fedloom.tasks.metrics.embedders import evaluating


class GPTScore:
    """GPTScore by a causal language model and its tokenizer; `name` accompanies every figure."""

    def __init__(self, model: nn.Module, tokenizer: Any, name: str, batch_size: int = 32) -> None:
        self.model, self.tokenizer, self.name, self.batch_size = model, tokenizer, name, batch_size
        self._plain = PlainTokenizer(tokenizer)

    @classmethod
    def load(cls, model_id: str | Path) -> "GPTScore":
        """Load by Hugging Face id or folder, weights from safetensors only. Raises ExperimentError if it cannot be loaded."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        pinned: dict[str, Any] = {"local_files_only": Path(model_id).is_dir(), "trust_remote_code": False}
        try:
            with quiet_hf():
                tokenizer = AutoTokenizer.from_pretrained(str(model_id), **pinned)
                model = AutoModelForCausalLM.from_pretrained(str(model_id), use_safetensors=True, **pinned)
        except (OSError, SafetensorError, ValueError) as error:
            raise ExperimentError(
                f"evaluation.gptscore: {str(model_id)!r} cannot be loaded ({reason(error)}); give a "
                "Hugging Face id that is reachable or cached, a folder with safetensors, or world"
            ) from error
        return cls(model.eval().requires_grad_(False), tokenizer, Path(model_id).name)

    @torch.no_grad()
    def score(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Mean log p(token | question, earlier tokens) over each answer's tokens; minus infinity for an empty answer.

        Question and answer are tokenised separately, so that a question cannot change its answer's tokens. Raises ValueError on
        unequal lengths.
        """
        if len(questions) != len(answers):
            raise ValueError(f"{len(questions)} questions but {len(answers)} answers")
        start = self.tokenizer.bos_token_id
        rows = []
        for question, answer in zip(questions, answers, strict=True):
            prompt = ([] if start is None else [start]) + self._ids(question)
            rows.append((prompt, self._ids(answer) if prompt else []))
        scores: list[float] = []
        for first in range(0, len(rows), self.batch_size):
            scores += self._score(rows[first : first + self.batch_size])
        return scores

    def _ids(self, text: str) -> list[int]:
        return list(self._plain(text.strip(), add_special_tokens=False)["input_ids"])

    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        device = next(self.model.parameters()).device
        whole = [prompt + answer for prompt, answer in rows]
        longest = max(map(len, whole))
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in whole], device=device)
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in whole], device=device)
        with evaluating(self.model):
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits.float()
        logs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return [
            float(line[len(prompt) - 1 : len(prompt) + len(answer) - 1].mean()) if answer else -math.inf
            for line, (prompt, answer) in zip(logs, rows, strict=True)
        ]
