"""ImageBind: up to six frozen encoders with one output space, built so that LoRA can hook every projection.

The published checkpoint and the tiny configuration run through the same code. Architecture after Girdhar et
al., "ImageBind: One Embedding Space To Bind Them All" (2023); the published weights are non-commercial.

Deliberate differences: outputs have unit norm by default (`scale`); DropPath is off by default, and drops samples, not tokens;
clips have an axis of their own; q, k and v are separate; a sound's channels are averaged before the mel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import stream_seed
from fedloom.models.encoders.encoder import Pool, ScaleMode, tower_of
from fedloom.models.encoders.pooling import group_means
from fedloom.models.imagebind import checkpoint, preprocess
from fedloom.models.imagebind.config import OFFICIAL_KEYS, ImageBindConfig, MelConfig, ModalityConfig
from fedloom.models.imagebind.layers import Head, Scale, Stem, TextStem, Trunk

__all__ = ["LORA_TARGETS", "ImageBind", "ImageBindConfig", "MelConfig", "ModalityConfig"]

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The projections that adapters hook, in every block of every trunk."""


class ImageBind(nn.Module):
    """Encoders for the chosen modalities, each a stem, a trunk, a head and a scale.

    Args:
        config: the sizes.
        modalities: which encoders to build; all of the configuration if None. Nothing else takes memory. Video needs that of
            pictures.
        seed: decides the initial weights, each modality's on its own; the global generator is untouched.

    Raises:
        ExperimentError: a modality is not in the configuration.

    """

    lora_targets = LORA_TARGETS

    def __init__(
        self, config: ImageBindConfig, modalities: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        chosen = tuple(config.modalities if modalities is None else map(tower_of, modalities))
        if not chosen or (unknown := [m for m in chosen if m not in config.modalities]):
            raise ExperimentError(
                f"encoder modalities {list(chosen)} must be one or more of {list(config.modalities)}"
                + (f"; it has no {unknown[0]}" if chosen else "")
            )
        self.config, self.out_dim = config, config.out_dim
        self.modalities = tuple(m for m in OFFICIAL_KEYS if m in chosen)
        self.stems, self.trunks = nn.ModuleDict(), nn.ModuleDict()
        self.heads, self.scales = nn.ModuleDict(), nn.ModuleDict()
        for name in self.modalities:
            part = config.modalities[name]
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(stream_seed(seed, "imagebind", name))
                self.stems[name] = TextStem(part) if part.stem == "tokens" else Stem(part)
                self.trunks[name] = Trunk(part, config.drop_path)
                self.heads[name] = Head(part, config.out_dim, config.drop_path)
            if name != "image":  # the published model scales every modality but this one
                self.scales[name] = Scale(part)
        self._base = tuple(self.modules())[1:]
        self.train()

    def train(self, mode: bool = True) -> "ImageBind":
        """Pass `mode` to adapters only; the base stays in eval unless `config.drop_path` wants its noise."""
        super().train(mode)
        if not self.config.drop_path:
            for module in self._base:
                module.training = False
        return self

    def set_gradient_checkpointing(self, enabled: bool = True, **options: Any) -> None:
        """Recompute each block in the backward pass, also inside wrapped trunks; see `Trunk`."""
        for module in self._base:
            if isinstance(module, Trunk):
                module.set_gradient_checkpointing(enabled, **options)

    def encode(
        self, modality: str, x: Tensor, *, pool: Pool = "head", scale: ScaleMode = "unit", tokens: int = 1
    ) -> Tensor:
        """Embed a batch: (B, out_dim), or (B, tokens, out_dim) if `tokens` > 1.

        Args:
            modality: one of `reads`.
            x: image (B, 3, H, W) or video (B, S, 3, 2, H, W); audio (B, S, 1, bins, frames); depth and
                thermal (B, 1, H, W); imu (B, channels, samples); text int64 (B, context). S clips are
                embedded one by one and averaged at the end: their mean may be shorter than each of them.
            pool: "head" is the published output: CLS (text: the state where the text ends), head, L2 norm,
                scale. "cls" is the same head without norm and scale. "mean" is "head" with the mean of the
                other tokens (text: all up to its end) in place of CLS.
            scale: length of a clip's vector: "unit" 1 for every modality, "native" as published (at most
                100), "pandagpt" as published but 1 for audio.
            tokens: with "mean" only: that many means over consecutive groups of tokens.

        Raises:
            ExperimentError: a modality this encoder does not hold, a wrong shape, an unknown option.

        """
        if pool not in ("head", "cls", "mean") or scale not in ("unit", "native", "pandagpt"):
            raise ExperimentError(
                f"encoder pool '{pool}' must be head, cls or mean, "
                f"and scale '{scale}' must be unit, native or pandagpt"
            )
        if tokens < 1 or (tokens > 1 and pool != "mean"):
            raise ExperimentError(
                f"encoder tokens {tokens} needs pool: mean (now '{pool}') and must be at least 1"
            )
        modality = tower_of(modality)
        rows, clips = self._rows(modality, x)
        states = self.trunks[modality](self.stems[modality](rows))
        text = self.config.modalities[modality].stem == "tokens"
        if pool == "mean":
            lengths = rows.argmax(-1) + 1 if text else torch.full((len(rows),), states.shape[1] - 1)
            pooled = group_means(states if text else states[:, 1:], lengths.to(states.device), tokens)
        elif text:
            pooled = states[torch.arange(len(rows), device=rows.device), rows.argmax(-1)].unsqueeze(1)
        else:
            pooled = states[:, :1]
        out: Tensor = self.heads[modality](pooled)
        if pool != "cls":
            out = functional.normalize(out, dim=-1)
            if modality in self.scales and (
                scale == "native" or (scale == "pandagpt" and modality != "audio")
            ):
                out = self.scales[modality](out)
        out = out.reshape(-1, clips, *out.shape[1:]).mean(1)
        return out.squeeze(1) if tokens == 1 else out

    @property
    def preprocessing(self) -> preprocess.ImageBindPreprocessing:
        """The preprocessing of the modalities that this encoder holds."""
        return preprocess.ImageBindPreprocessing({m: self.config.modalities[m] for m in self.modalities})

    def preprocess(self, modality: str, raw: Tensor, *, frame_rate: float | None = None) -> Tensor:
        """One raw sample (`fedloom.data.sample.Sample`) -> the encoder's input without the batch axis.

        A whole video is an image of uint8 (T, 3, H, W) with its `frame_rate` in frames per second; text is its int64 ids (n,).

        Raises:
            ExperimentError: a modality this encoder does not hold, or a sample of the wrong kind.

        """
        return preprocess.prepare(modality, raw, self._part(tower_of(modality)), frame_rate=frame_rate)

    @property
    def reads(self) -> Sequence[str]:
        """The modalities of its encoders, and video with that of pictures."""
        return (*self.modalities, *(["video"] if "image" in self.modalities else []))

    @property
    def widths(self) -> Mapping[str, int]:
        """`out_dim` for every modality."""
        return dict.fromkeys(self.modalities, self.out_dim)

    def cuts(self, modality: str, raw: Tensor) -> bool:
        """False: clips are spread over the whole of a sound."""
        return False

    def positions(self, modality: str) -> int:
        """Tokens of one input without CLS; of one clip of a video."""
        return self.config.modalities[tower_of(modality)].tokens

    def probe(self, modality: str, stream: torch.Generator) -> Mapping[str, Tensor]:
        """Three random tokens for the modality's trunk."""
        width = self.config.modalities[modality].embed_dim
        x = torch.randn(1, 3, width, generator=stream)
        return {"x": x.to(next(self.parameters()))}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors with the published key names; adapters are left out."""
        checkpoint.save(self, Path(directory))

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        modalities: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> "ImageBind":
        """Read what `save_pretrained` wrote, only the chosen modalities, strictly.

        Raises:
            ExperimentError: a file is missing, or keys or shapes differ from the configuration.

        """
        return checkpoint.load(cls, Path(directory), modalities, dtype, device)

    def _dtype(self, modality: str) -> torch.dtype:
        return next(self.heads[modality].parameters()).dtype

    def _part(self, modality: str) -> ModalityConfig:
        if modality not in self.modalities:
            raise ExperimentError(f"this encoder holds {list(self.modalities)} and no '{modality}'")
        return self.config.modalities[modality]

    def _rows(self, modality: str, x: Tensor) -> tuple[Tensor, int]:
        """Fold the clip axis, if the modality has one, into the batch: rows and clips per sample."""
        part = self._part(modality)
        shape, one = tuple(x.shape), part.input_shape
        video = (one[0], part.kernel[0], *one[1:]) if part.stem == "frames" else None
        if part.mel is None and shape[1:] == one:
            clips = 1
        elif (part.mel and shape[2:] == one) or (video and shape[2:] == video):
            clips, x = shape[1], x.flatten(0, 1)
        else:
            axes = ["B", *(["S"] if part.mel else []), *map(str, one)]
            also = f" or (B, S, {', '.join(map(str, video))}) for video" if video else ""
            raise ExperimentError(f"{modality} input has shape {shape} but needs ({', '.join(axes)}){also}")
        return (x if part.stem == "tokens" else x.to(self._dtype(modality))), clips
