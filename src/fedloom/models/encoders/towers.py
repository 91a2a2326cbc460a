"""An encoder of towers from transformers, one per modality: any that gives `last_hidden_state` for pictures or sounds.

The states of a tower, without its class and register tokens, are averaged in `tokens` consecutive groups. Towers stay in
evaluation mode: no dropout, no SpecAugment, and normalisation statistics as the checkpoint has them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_logging import quiet_hf
from fedloom.data.sample import MODALITIES
from fedloom.models.encoders.encoder import Pool, ScaleMode
from fedloom.models.encoders.pooling import group_means
from fedloom.models.encoders.readers import Reader, SoundReader, TowerPreprocessing

CONFIG, KIND = "config.json", "towers"
EXTRA_TOKENS = ("class_embedding", "cls_token", "distillation_token", "register_tokens")
"""Learned tokens that stand before a tower's patches."""


@dataclass(frozen=True)
class Tower:
    """A tower, and how its inputs are made. `full`: positions of the published tower, where fewer are read."""

    model: Any
    reader: Reader
    full: int | None = None


class TowerEncoder(nn.Module):
    """`towers` maps image or audio to a tower; each runs once on an empty input to learn its output's shape."""

    def __init__(self, towers: Mapping[str, Tower]) -> None:
        super().__init__()
        self.modalities = tuple(m for m in MODALITIES if m in towers)
        self.trunks = nn.ModuleDict({m: towers[m].model for m in self.modalities})
        self.readers = {m: towers[m].reader for m in self.modalities}
        self.full = {m: towers[m].full for m in self.modalities}
        self._before = {m: _extra_tokens(towers[m].model) for m in self.modalities}
        self.eval()
        with torch.no_grad():
            shapes = {m: self._states(m, self._blank(m))[0].shape for m in self.modalities}
        self._positions = {m: int(s[1]) + self._before[m] for m, s in shapes.items()}
        self._widths = {m: int(s[2]) for m, s in shapes.items()}

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each tower's states."""
        return self._widths

    @property
    def reads(self) -> Sequence[str]:
        """The modalities of its towers."""
        return self.modalities

    @property
    def preprocessing(self) -> TowerPreprocessing:
        """The towers' readers."""
        return TowerPreprocessing(self.readers)

    def preprocess(self, modality: str, raw: Tensor) -> Tensor:
        """One raw sample to the tower's input, without the batch axis."""
        return self.preprocessing.preprocess(modality, raw)

    def cuts(self, modality: str, raw: Tensor) -> bool:
        """Whether a sound is longer than its tower reads."""
        return self.preprocessing.cuts(modality, raw)

    def positions(self, modality: str) -> int:
        """Positions of one input in its tower."""
        return self._positions[modality]

    def probe(self, modality: str, stream: torch.Generator) -> Mapping[str, Tensor]:
        """The tower's arguments for one random input."""
        blank = self._blank(modality)
        noise = torch.rand(blank.shape, generator=stream).to(blank.device)
        return self._arguments(modality, noise * 255 if blank.dtype == torch.uint8 else noise)

    def encode(
        self, modality: str, x: Tensor, *, pool: Pool = "mean", scale: ScaleMode = "unit", tokens: int = 1
    ) -> Tensor:
        """Means over the states of `tokens` groups: (B, width), or (B, tokens, width) if `tokens` > 1.

        `scale` unit gives vectors of length 1, native leaves them. Raises ExperimentError for another pool or scale, and for more
        tokens than the tower has positions.
        """
        if pool != "mean" or scale == "pandagpt":
            raise ExperimentError(
                f"an encoder of transformers takes pool mean and scale unit or native, not {pool} and {scale}"
            )
        states, lengths = self._states(modality, x)
        if tokens > states.shape[1]:
            raise ExperimentError(
                f"model.tokens is {tokens}, and the {modality} encoder has {states.shape[1]} positions"
            )
        pooled = group_means(states, lengths, tokens)
        out = normalize(pooled, dim=-1) if scale == "unit" else pooled
        return out.squeeze(1) if tokens == 1 else out

    def described(self) -> dict[str, str]:
        """The part of an input that each tower reads, by modality."""
        texts = {}
        for modality in self.modalities:
            reader, full, positions = (
                self.readers[modality],
                self.full[modality],
                self._positions[modality],
            )
            text = f"{positions} positions"
            if isinstance(reader, SoundReader):
                text = f"{reader.seconds:g} s of every sound in {text}"
            if full is not None:
                text += f" instead of {full}, {1 - positions / full:.0%} less"
            elif (
                isinstance(reader, SoundReader)
                and not reader.raw
                and hasattr(self.trunks[modality], "embed_positions")
            ):
                text += "; model.audio_seconds would make it read less"
            texts[modality] = text
        return texts

    def save_pretrained(self, directory: str | Path) -> None:
        """A folder per modality with the tower and its processor, and config.json, which names them.

        Raises ExperimentError while a tower is wrapped by adapters.
        """
        from transformers import PreTrainedModel

        folder = Path(directory)
        if wrapped := [m for m in self.modalities if not isinstance(self.trunks[m], PreTrainedModel)]:
            raise ExperimentError(
                f"the {wrapped[0]} encoder is wrapped by adapters; merge them (merge_and_unload) before save_pretrained"
            )
        described: dict[str, Any] = {}
        for modality in self.modalities:
            reader, model = self.readers[modality], self.trunks[modality]
            with quiet_hf():
                model.save_pretrained(folder / modality)  # type: ignore[operator]
                reader.processor.save_pretrained(folder / modality)
            own = (
                isinstance(reader, SoundReader) and reader.raw
            )  # others have their length in the processor's file
            described[modality] = {"seconds": reader.seconds if own else None}  # type: ignore[attr-defined]
        config = {"model_type": KIND, "modalities": described}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _blank(self, modality: str) -> Tensor:
        """The input of a black picture or of silence, as a batch of one."""
        reader = self.readers[modality]
        if isinstance(reader, SoundReader):
            raw = torch.zeros(max(round(reader.seconds * 16_000), 1))
        else:
            raw = torch.zeros(3, 32, 48, dtype=torch.uint8)
        return reader.read(raw)[None].to(next(self.trunks[modality].parameters()).device)

    def _arguments(self, modality: str, x: Tensor) -> dict[str, Tensor]:
        dtype = next(self.trunks[modality].parameters()).dtype
        named = self.readers[modality].arguments(x)
        return {n: t.to(dtype) if t.is_floating_point() else t for n, t in named.items()}

    def _states(self, modality: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, n, width) without extra tokens, and the number of those that do not stand for padding (B,)."""
        trunk: Any = self.trunks[modality]
        arguments = self._arguments(modality, x)
        states: Tensor = trunk(**arguments).last_hidden_state
        if states.dim() == 4:  # (B, d, height, width) of a convolutional or hierarchical tower
            states = states.flatten(2).transpose(1, 2)
        states = states[:, self._before[modality] :]
        lengths = torch.full((len(states),), states.shape[1], device=states.device)
        if (mask := arguments.get("attention_mask")) is not None:
            lengths = trunk._get_feat_extract_output_lengths(mask.sum(1))
        return states, lengths


def _extra_tokens(model: nn.Module) -> int:
    """Number of learned tokens before the patches."""
    named = [(n.rsplit(".", 1)[-1], p) for n, p in model.named_parameters()]
    return sum(p.shape[-2] if p.dim() > 1 else 1 for n, p in named if n in EXTRA_TOKENS and p.numel())
